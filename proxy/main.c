/* weir: arguments and exit codes. What runs is in server.c. */

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../filters/core/bloom_pair.h"
#include "../filters/core/claim_table.h"
#include "../filters/redis/redis_lease.h"
#include "server.h"
#include "tls.h"

enum { EXIT_FINE = 0, EXIT_CANNOT_RUN = 1, EXIT_WRONG = 2 };

typedef enum { RUN, CHECK, PRINT_CONFIG, PRINT_SCHEMA, PRINT_REFERENCE, PRINT_VERSION, PRINT_HELP } action_t;

typedef struct {
    action_t action;
    const char *action_name;
    const char *file;
} arguments_t;

static const char usage[] =
    "usage: weir [-c FILE] [--check] [--print-config] [--print-schema] [--print-reference] [--version] [--help]\n"
    "\n"
    "  -c, --config FILE  the configuration; /etc/weir/weir.yaml if none is named\n"
    "  --check            show every error of the configuration, or what it can come to in memory; start nothing\n"
    "  --print-config     show the whole configuration, defaults filled in, secrets redacted\n"
    "  --print-schema     show the JSON Schema of the configuration\n"
    "  --print-reference  show every field of the configuration, as Markdown\n"
    "  --version          show the version\n"
    "  --help             show this\n"
    "\n"
    "Signals: HUP loads the configuration again, TERM and INT drain and end, USR1 opens log files again.\n"
    "Exit: 0 fine, 1 could not start or run, 2 the configuration or the arguments are wrong.\n";

/* --- arguments --- */

static bool refuse(const char *what, const char *argument)
{
    fprintf(stderr, "weir: %s%s%s%s; weir --help shows what there is\n", what, *argument != '\0' ? " '" : "", argument,
            *argument != '\0' ? "'" : "");
    return false;
}

static bool set_action(arguments_t *arguments, action_t action, const char *name)
{
    if (arguments->action != RUN && arguments->action != action) {
        fprintf(stderr, "weir: --%s and --%s are two different things to do; give one of them\n",
                arguments->action_name, name);
        return false;
    }
    arguments->action = action;
    arguments->action_name = name;
    return true;
}

static bool parse(int argc, char **argv, arguments_t *arguments)
{
    static const struct option options[] = {{"config", required_argument, NULL, 'c'},
                                            {"check", no_argument, NULL, 0},
                                            {"print-config", no_argument, NULL, 0},
                                            {"print-schema", no_argument, NULL, 0},
                                            {"print-reference", no_argument, NULL, 0},
                                            {"version", no_argument, NULL, 0},
                                            {"help", no_argument, NULL, 0},
                                            {0}};
    int index;
    while (optind < argc) {
        char *argument = argv[optind];
        switch (getopt_long(argc, argv, "+:c:", options, &index)) {
        case 'c':
            arguments->file = optarg;
            break;
        case 0: /* the actions stand in the order of action_t */
            if (!set_action(arguments, (action_t)index, options[index].name))
                return false;
            break;
        case ':':
            return refuse("a file's name is missing after", argument);
        case -1:
            return optind == argc || refuse("there is nothing to do with the argument", argv[optind]);
        default:
            return refuse("unknown or wrong option", argument);
        }
    }
    return true;
}

/* --- actions --- */

static uint64_t dedup_table_bytes(const weir_conf_dedup_t *dedup)
{
    return weir_claim_table_bytes((size_t)dedup->max_keys);
}

static uint64_t dedup_bloom_bytes(const weir_conf_dedup_t *dedup)
{
    return weir_bloom_pair_bytes((uint64_t)dedup->bloom.expected, dedup->bloom.false_positives);
}

/* Measured on Debian 12, x86-64, Release, and rounded up: VmRSS idle with one worker 6.2 MB, 42 KB for each further
 * one before it touches its scratch; 2.4 MB more where the store is in Redis, and 8 KB for each connection to it; Pss
 * for each of 1000 connections 0.41 KB, for each of 1000 requests at once 5.7 KB. With OpenSSL 3.0 VmRSS is 3.8 MB
 * more once TLS is spoken; for each of 500 connections: a caller's 14.0 KB (TLS 1.2) or 15.0 (1.3), an upstream's 12.7
 * or 15.3, 9 KB more where a certificate of the peer came with two others; 30 within a record, 66 within the largest
 * handshake, 180 where certificates are asked for. Of 50 contexts each 20 KB; 700 KB of Debian's 144 authorities. */
static const weir_conf_costs_t costs = {
    .limit_table = weir_memory_store_bytes,
    .dedup_table = dedup_table_bytes,
    .dedup_bloom = dedup_bloom_bytes,
    .process = 7 * 1024 * 1024,
    .worker = 64 * 1024 + 2 * WEIR_SCRATCH_BYTES,
    .connection = 512,
    .exchange = 8 * 1024,
    .log_buffer = WEIR_LOG_RING_BYTES,
    .waiter = 512,
    .unsent = WEIR_SCRATCH_BYTES,
    .tls_process = 4 * 1024 * 1024,
    .tls_connection = 16 * 1024,
    .tls_records = 56 * 1024,
    .tls_asked = 176 * 1024,
    .tls_peer = 12 * 1024,
    .tls_context = 32 * 1024,
    .tls_sessions = WEIR_TLS_SESSIONS_BYTES,
    .tls_system = 1024 * 1024,
    .redis_process = 3 * 1024 * 1024,
    .redis_link = 16 * 1024,
    .redis_reply = 192 * 1024,
    .redis_ask = 4 * 1024,
    .redis_slices = WEIR_REDIS_LEASE_ROWS_MAX * UINT64_C(512) + UINT64_C(128) * 1024,
};

static int check(const weir_conf_t *conf)
{
    weir_conf_print_memory(conf, &costs, stdout);
    return EXIT_FINE;
}

static int act_on_configuration(const arguments_t *arguments)
{
    char *errors = NULL;
    int code = EXIT_FINE;
    weir_conf_t *conf = weir_conf_load(arguments->file, &errors);
    if (conf == NULL) {
        fputs(errors != NULL ? errors : "weir: out of memory\n", stderr);
        free(errors);
        return EXIT_WRONG;
    }
    if (arguments->action == CHECK)
        code = check(conf);
    else if (arguments->action == PRINT_CONFIG)
        weir_conf_print(conf, stdout);
    else
        code = weir_server_run(conf);
    weir_conf_release(conf);
    return code;
}

static int act(const arguments_t *arguments)
{
    switch (arguments->action) {
    case PRINT_SCHEMA:
        weir_conf_print_schema(stdout);
        return EXIT_FINE;
    case PRINT_REFERENCE:
        weir_conf_print_reference(stdout);
        return EXIT_FINE;
    case PRINT_VERSION:
        puts("weir " WEIR_VERSION);
        return EXIT_FINE;
    case PRINT_HELP:
        fputs(usage, stdout);
        return EXIT_FINE;
    case RUN:
    case CHECK:
    case PRINT_CONFIG:
        break;
    }
    return act_on_configuration(arguments);
}

int main(int argc, char **argv)
{
    arguments_t arguments = {.file = "/etc/weir/weir.yaml"};
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a log that may not grow is one that drops lines */
    if (!parse(argc, argv, &arguments))
        return EXIT_WRONG;
    int code = act(&arguments);
    if (fflush(stdout) != 0 && code == EXIT_FINE) {
        perror("weir: cannot write");
        return EXIT_CANNOT_RUN;
    }
    return code;
}
