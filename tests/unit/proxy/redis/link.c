/* A link on a worker's own loop, and what it is connected to: the test itself, which reads and answers between the loop's turns. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>
#include "../../seeded.h"
#include "../../../../proxy/departures.h"
#include "../../../../proxy/h1.h"
#include "../../../../proxy/redis/link.h"
#include "../../../../proxy/redis/redis.h"
#include "../../../../proxy/resolver.h"
#include "../../../../proxy/sock_io.h"
#include "../../../../proxy/ticket.h"
#include "../../../../proxy/upstream.h"
#include "../../../../proxy/worker.h"

#define MS INT64_C(1000000)
#define SECOND (1000 * MS)

enum { COMMANDS = 64, STATES = 64, RECEIVED_MAX = 64 * 1024, REPLY_MAX = 4096 };

/* --- of a worker, what is not needed here --- */

weir_log_worker_t *weir_log_worker(weir_log_t *log, size_t index)
{
    return NULL;
}

weir_tickets_t *weir_tickets_create(void)
{
    return NULL;
}

void weir_tickets_destroy(weir_tickets_t *tickets)
{
}

struct weir_departures *weir_departures_create(weir_worker_t *worker)
{
    return NULL;
}

void weir_departures_destroy(struct weir_departures *departures)
{
}

void weir_h1_close_all(weir_worker_t *worker)
{
}

void weir_upstream_close_parked(weir_worker_t *worker)
{
}

void weir_redis_open(weir_redis_t *redis, weir_worker_t *worker)
{
}

void weir_redis_flush(weir_redis_t *redis, weir_worker_t *worker)
{
}

void weir_redis_close(weir_redis_t *redis, weir_worker_t *worker)
{
}

/* --- names --- */

struct weir_resolve {
    bool cancelled;
    uint16_t port;
    void (*answer)(void *argument, const weir_addresses_t *addresses);
    void *argument;
};

static void add_address(weir_addresses_t *addresses, const char *text, uint16_t port)
{
    struct sockaddr_storage *address = &addresses->entries[addresses->size++];
    struct sockaddr_in *sin = (struct sockaddr_in *)address;
    struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)address;
    memset(address, 0, sizeof(*address));
    if (inet_pton(AF_INET, text, &sin->sin_addr) == 1) {
        sin->sin_family = AF_INET;
        sin->sin_port = htons(port);
    } else {
        assert_int_equal(inet_pton(AF_INET6, text, &sin6->sin6_addr), 1);
        sin6->sin6_family = AF_INET6;
        sin6->sin6_port = htons(port);
    }
}

static void deliver(weir_worker_t *worker, void *argument)
{
    weir_resolve_t *question = argument;
    weir_addresses_t addresses = {.size = 0, .error = "name does not exist"};
    if (question->port != 1) {
        add_address(&addresses, "127.0.0.2", question->port); /* where nobody listens */
        add_address(&addresses, "127.0.0.1", question->port);
    }
    if (!question->cancelled)
        question->answer(question->argument, &addresses);
    free(question);
}

/* A name of port 1 does not exist. */
weir_resolve_t *weir_resolver_ask(weir_resolver_t *resolver, weir_worker_t *worker, const char *host, uint16_t port,
                                  int64_t refresh_ns, weir_addresses_t *addresses,
                                  void (*answer)(void *argument, const weir_addresses_t *addresses), void *argument)
{
    addresses->size = 0;
    if (strcmp(host, "name") != 0) {
        add_address(addresses, host, port);
        return NULL;
    }
    weir_resolve_t *question = malloc(sizeof(*question));
    *question = (weir_resolve_t){.port = port, .answer = answer, .argument = argument};
    weir_worker_post(worker, deliver, question);
    return question;
}

void weir_resolve_cancel(weir_resolve_t *question)
{
    question->cancelled = true;
}

/* --- the scene --- */

typedef struct scene scene_t;

typedef struct {
    weir_redis_command_t super;
    scene_t *scene;
    int told; /* -1: not yet; weir_redis_told_t */
    char reply[200]; /* its text, or its number */
    void (*then)(scene_t *scene);
} sent_t;

struct scene {
    weir_server_t server;
    h2o_globalconf_t config;
    weir_worker_t *worker;
    int listener, peer; /* -1: none */
    char address[200], path[64];
    uint16_t port;
    weir_redis_link_t *link;
    weir_redis_link_options_t options;
    _Atomic size_t reply_max;
    sent_t sent[COMMANDS];
    size_t sent_count, told_count;
    bool is_dirty; /* there is something to flush */
    int order[COMMANDS]; /* in which they were told, by index */
    size_t state_count;
    struct {
        bool is_ready;
        char why[200];
        int64_t at_ns;
    } states[STATES];
    void (*on_ready)(scene_t *scene);
    void (*on_down)(scene_t *scene);
};

static void on_reply(weir_redis_command_t *command, weir_redis_told_t told, const redisReply *reply)
{
    sent_t *sent = H2O_STRUCT_FROM_MEMBER(sent_t, super, command);
    scene_t *scene = sent->scene;
    assert_int_equal(sent->told, -1);
    assert_int_equal(reply == NULL, told == WEIR_REDIS_LOST);
    sent->told = (int)told;
    scene->order[scene->told_count++] = (int)(sent - scene->sent);
    if (reply != NULL && reply->type == REDIS_REPLY_INTEGER)
        snprintf(sent->reply, sizeof(sent->reply), "%lld", reply->integer);
    else if (reply != NULL && reply->str != NULL)
        snprintf(sent->reply, sizeof(sent->reply), "%s", reply->str);
    if (sent->then != NULL)
        sent->then(scene);
}

static void on_state(void *context, weir_redis_link_t *link, bool is_ready, const char *why)
{
    scene_t *scene = context;
    assert_ptr_equal(link, scene->link);
    assert_int_equal(weir_redis_link_is_ready(link), is_ready);
    if (scene->state_count < STATES) {
        scene->states[scene->state_count].is_ready = is_ready;
        scene->states[scene->state_count].at_ns = weir_clock_turn_ns;
        snprintf(scene->states[scene->state_count].why, sizeof(scene->states[0].why), "%s", why);
        ++scene->state_count;
    }
    void (*then)(scene_t *scene) = is_ready ? scene->on_ready : scene->on_down;
    if (then != NULL)
        then(scene);
}

static const char *why(const scene_t *scene)
{
    return scene->state_count == 0 ? "" : scene->states[scene->state_count - 1].why;
}

static bool is_ready(const scene_t *scene)
{
    return scene->link != NULL && weir_redis_link_is_ready(scene->link);
}

static void turn(scene_t *scene)
{
    (void)h2o_evloop_run(scene->worker->ctx.loop, 2);
    if (scene->link != NULL && scene->is_dirty)
        weir_redis_link_flush(scene->link);
    scene->is_dirty = false;
}

static void turns(scene_t *scene, int64_t ns)
{
    for (int64_t until_ns = weir_clock_now_ns() + ns; weir_clock_now_ns() < until_ns;)
        turn(scene);
}

/* Turns until it holds. */
#define until(scene, holds) \
    do { \
        int64_t latest_ns = weir_clock_now_ns() + 20 * SECOND; \
        while (!(holds)) { \
            turn(scene); \
            if (weir_clock_now_ns() > latest_ns) \
                fail_msg("not in time: %s (why: %s)", #holds, why(scene)); \
        } \
    } while (0)

/* --- the server's side --- */

static bool is_readable(int fd)
{
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    return poll(&polled, 1, 0) == 1;
}

static void listen_on(scene_t *scene, const struct sockaddr *address, socklen_t len)
{
    int on = 1;
    scene->listener = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(scene->listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    assert_int_equal(bind(scene->listener, address, len), 0);
    assert_int_equal(listen(scene->listener, 16), 0);
}

static uint16_t listen_tcp(scene_t *scene, uint16_t port)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(sin);
    listen_on(scene, (struct sockaddr *)&sin, sizeof(sin));
    assert_int_equal(getsockname(scene->listener, (struct sockaddr *)&sin, &len), 0);
    return ntohs(sin.sin_port);
}

static void hang_up(scene_t *scene)
{
    if (scene->peer != -1)
        close(scene->peer);
    scene->peer = -1;
}

static void accept_peer(scene_t *scene)
{
    hang_up(scene);
    until(scene, is_readable(scene->listener));
    scene->peer = accept(scene->listener, NULL, NULL);
    assert_int_not_equal(scene->peer, -1);
    fcntl(scene->peer, F_SETFL, O_NONBLOCK);
}

/* So many bytes, and no more are there. */
static void assert_receives(scene_t *scene, const char *expected)
{
    static char bytes[RECEIVED_MAX];
    size_t len = strlen(expected), got = 0;
    while (got < len) {
        until(scene, is_readable(scene->peer));
        ssize_t piece = recv(scene->peer, bytes + got, sizeof(bytes) - 1 - got, 0);
        if (piece <= 0)
            fail_msg("it hung up before %s", expected + got);
        got += (size_t)piece;
    }
    bytes[got] = '\0';
    assert_string_equal(bytes, expected);
}

static void answer(scene_t *scene, const char *bytes)
{
    assert_int_equal(send(scene->peer, bytes, strlen(bytes), MSG_NOSIGNAL), (ssize_t)strlen(bytes));
}

static bool peer_sees_end(const scene_t *scene)
{
    char byte;
    ssize_t got = recv(scene->peer, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got == -1 && errno == ECONNRESET);
}

#define PING "*1\r\n$4\r\nPING\r\n"

static void greet(scene_t *scene)
{
    accept_peer(scene);
    assert_receives(scene, PING);
    answer(scene, "+PONG\r\n");
    until(scene, is_ready(scene));
}

/* --- the sender's side --- */

static void open_link(scene_t *scene)
{
    scene->options.worker = scene->worker;
    scene->options.address = scene->address;
    scene->options.on_state = on_state;
    scene->options.context = scene;
    scene->reply_max = REPLY_MAX;
    scene->options.reply_max = &scene->reply_max;
    scene->link = weir_redis_link_create(&scene->options);
    assert_false(weir_redis_link_is_ready(scene->link));
}

static void destroy(scene_t *scene)
{
    weir_redis_link_t *link = scene->link;
    scene->link = NULL;
    if (link != NULL)
        weir_redis_link_destroy(link);
}

static sent_t *send_bytes(scene_t *scene, const char *bytes, size_t len, int64_t timeout_ns)
{
    sent_t *sent = &scene->sent[scene->sent_count++];
    *sent = (sent_t){.super = {.bytes = bytes, .len = len, .on_reply = on_reply}, .scene = scene, .told = -1};
    weir_redis_link_send(scene->link, &sent->super, timeout_ns);
    scene->is_dirty = true;
    return sent;
}

static sent_t *send_text(scene_t *scene, const char *text)
{
    return send_bytes(scene, text, strlen(text), 10 * SECOND);
}

static int64_t counted(scene_t *scene, const char *result)
{
    return weir_metrics_value(scene->server.metrics,
                              weir_metrics_series(scene->server.metrics, NULL, WEIR_METRIC_STORE_COMMANDS, &result));
}

static void assert_counted(scene_t *scene, int64_t ok, int64_t timeout, int64_t error)
{
    assert_int_equal(counted(scene, "ok"), ok);
    assert_int_equal(counted(scene, "timeout"), timeout);
    assert_int_equal(counted(scene, "error"), error);
}

static int set_up(void **state)
{
    scene_t *scene = calloc(1, sizeof(*scene));
    scene->peer = -1;
    scene->server.metrics = weir_metrics_create(1, 0);
    h2o_config_init(&scene->config);
    h2o_config_register_host(&scene->config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    scene->worker = weir_worker_create(&scene->server, &scene->config, 0, false);
    weir_worker_open(scene->worker);
    scene->port = listen_tcp(scene, 0);
    snprintf(scene->address, sizeof(scene->address), "127.0.0.1:%u", scene->port);
    *state = scene;
    return 0;
}

static int tear_down(void **state)
{
    scene_t *scene = *state;
    destroy(scene);
    hang_up(scene);
    if (scene->listener != -1)
        close(scene->listener);
    if (scene->path[0] != '\0')
        unlink(scene->path);
    (void)h2o_evloop_run(scene->worker->ctx.loop, 0);
    weir_worker_close(scene->worker);
    weir_worker_destroy(scene->worker);
    h2o_config_dispose(&scene->config);
    weir_metrics_destroy(scene->server.metrics);
    free(scene);
    return 0;
}

/* --- opening and greeting --- */

static void it_is_ready_once_it_was_answered(void **state)
{
    scene_t *scene = *state;
    assert_true(weir_clock_is_ours());
    open_link(scene);
    assert_string_equal(weir_redis_link_address(scene->link), scene->address);
    accept_peer(scene);
    assert_receives(scene, PING);
    turns(scene, 20 * MS);
    assert_false(is_ready(scene));
    answer(scene, "+PON");
    turns(scene, 20 * MS);
    assert_false(is_ready(scene));
    answer(scene, "G\r\n");
    until(scene, is_ready(scene));
    assert_int_equal(scene->state_count, 1);
    assert_counted(scene, 0, 0, 0);
}

static void the_greeting_says_who_we_are(void **state)
{
    scene_t *scene = *state;
    scene->options.username = "weir";
    scene->options.password = "se cret";
    scene->options.database = 12;
    open_link(scene);
    accept_peer(scene);
    assert_receives(scene, "*3\r\n$4\r\nAUTH\r\n$4\r\nweir\r\n$7\r\nse cret\r\n*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n" PING);
    answer(scene, "+OK\r\n+OK\r\n");
    turns(scene, 10 * MS);
    assert_false(is_ready(scene));
    answer(scene, "+PONG\r\n");
    until(scene, is_ready(scene));
}

static void a_password_needs_no_name(void **state)
{
    scene_t *scene = *state;
    scene->options.password = "x";
    open_link(scene);
    accept_peer(scene);
    assert_receives(scene, "*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n" PING);
    answer(scene, "+OK\r\n+PONG\r\n");
    until(scene, is_ready(scene));
}

static void a_refusal_is_told_but_no_password(void **state)
{
    static const struct {
        const char *answer, *why;
    } rows[] = {
        {"-WRONGPASS invalid username-password pair or user is disabled.\r\n-NOAUTH Authentication required.\r\n",
         "it refused AUTH: WRONGPASS invalid username-password pair or user is disabled."},
        {"+OK\r\n-LOADING Redis is loading the dataset in memory\r\n",
         "it refused PING: LOADING Redis is loading the dataset in memory"},
        {"-ERR unknown command 'AUTH', with args beginning with: 'hunter2' \r\n", "it refused AUTH: ERR unknown command "},
        {"-ERR unknown command `AUTH`, with args beginning with: `hunter2`, \r\n", "it refused AUTH: ERR unknown command "},
        {"-ERR hunter2 is wrong\r\n", "it refused AUTH"},
        {"-hunter2\r\n", "it refused AUTH"},
        {"+OK\r\n-ERR what is hunter2?\r\n", "it refused PING"},
    };
    scene_t *scene = *state;
    scene->options.password = "hunter2";
    open_link(scene);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        accept_peer(scene);
        assert_receives(scene, "*2\r\n$4\r\nAUTH\r\n$7\r\nhunter2\r\n" PING);
        answer(scene, rows[i].answer);
        until(scene, scene->state_count == i + 1);
        assert_false(scene->states[i].is_ready);
        assert_string_equal(why(scene), rows[i].why);
        until(scene, peer_sees_end(scene));
    }
}

static void it_goes_on_trying(void **state)
{
    scene_t *scene = *state;
    close(scene->listener);
    scene->listener = -1;
    open_link(scene);
    until(scene, scene->state_count == 4);
    assert_string_equal(why(scene), "Connection refused");
    int64_t first_ns = scene->states[1].at_ns - scene->states[0].at_ns, third_ns = scene->states[3].at_ns - scene->states[2].at_ns;
    assert_true(first_ns >= 24 * MS && third_ns >= 99 * MS); /* half of 50 and of 200 ms; timers count whole ones */
    (void)listen_tcp(scene, scene->port);
    greet(scene);
}

static void a_name_leads_to_all_its_addresses(void **state)
{
    scene_t *scene = *state;
    snprintf(scene->address, sizeof(scene->address), "name:%u", scene->port);
    open_link(scene);
    greet(scene);
    assert_int_equal(scene->state_count, 1);
}

static void a_name_that_is_none_is_told(void **state)
{
    scene_t *scene = *state;
    strcpy(scene->address, "name:1");
    open_link(scene);
    until(scene, scene->state_count == 1);
    assert_string_equal(why(scene), "name does not exist");
}

static void an_address_that_is_none_is_told(void **state)
{
    static const char *const rows[] = {"", ":", "host", "host:", ":1", "host:0", "host:65536", "host:99999999999", "host:1x",
                                       "host:-1"};
    scene_t *scene = *state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        strcpy(scene->address, rows[i]);
        open_link(scene);
        until(scene, scene->state_count == i + 1);
        assert_string_equal(why(scene), "its address is no host:port");
        destroy(scene);
    }
}

static void it_is_six_or_unix_as_well(void **state)
{
    scene_t *scene = *state;
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    close(scene->listener);
    snprintf(scene->path, sizeof(scene->path), "/tmp/weir-link-%ld", (long)getpid());
    strcpy(sun.sun_path, scene->path);
    listen_on(scene, (struct sockaddr *)&sun, sizeof(sun));
    snprintf(scene->address, sizeof(scene->address), "unix://%s", scene->path);
    open_link(scene);
    greet(scene);
    destroy(scene);
    close(scene->listener);

    struct sockaddr_in6 sin6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    socklen_t len = sizeof(sin6);
    int probe = socket(AF_INET6, SOCK_STREAM, 0);
    bool has_six = probe != -1 && bind(probe, (struct sockaddr *)&sin6, sizeof(sin6)) == 0;
    if (probe != -1)
        close(probe);
    scene->listener = -1;
    if (!has_six)
        return;
    listen_on(scene, (struct sockaddr *)&sin6, sizeof(sin6));
    assert_int_equal(getsockname(scene->listener, (struct sockaddr *)&sin6, &len), 0);
    snprintf(scene->address, sizeof(scene->address), "[::1]:%u", ntohs(sin6.sin6_port));
    open_link(scene);
    greet(scene);
}

static void a_greeting_that_is_not_answered_ends(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    accept_peer(scene);
    until(scene, scene->state_count == 1);
    assert_string_equal(why(scene), "it did not answer the greeting in a second");
    greet(scene);
}

/* --- commands and replies --- */

static void commands_go_out_together_and_are_answered_in_order(void **state)
{
    static const char replies[] = "+one\r\n:2\r\n$5\r\nthree\r\n-ERR four\r\n*2\r\n:1\r\n*1\r\n$-1\r\n";
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    for (int i = 0; i < 5; ++i)
        (void)send_text(scene, (const char *[]){"<1>", "<2>", "<3>", "<4>", "<5>"}[i]);
    assert_receives(scene, "<1><2><3><4><5>");
    for (size_t i = 0; i < sizeof(replies) - 1; ++i) {
        assert_int_equal(send(scene->peer, replies + i, 1, MSG_NOSIGNAL), 1);
        turn(scene);
    }
    until(scene, scene->told_count == 5);
    for (int i = 0; i < 5; ++i) {
        assert_int_equal(scene->order[i], i);
        assert_int_equal(scene->sent[i].told, WEIR_REDIS_REPLIED);
        assert_string_equal(scene->sent[i].reply, ((const char *[]){"one", "2", "three", "ERR four", ""}[i]));
    }
    assert_int_equal(scene->state_count, 1);
    assert_counted(scene, 4, 0, 1);
}

static void send_another(scene_t *scene)
{
    if (scene->sent_count < 10)
        send_text(scene, "<n>")->then = send_another;
}

static void one_is_sent_from_within_a_reply(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    send_another(scene);
    for (size_t i = 1; i <= 10; ++i) {
        assert_receives(scene, "<n>");
        answer(scene, ":1\r\n");
        until(scene, scene->told_count == i);
    }
    assert_counted(scene, 10, 0, 0);
}

static void more_than_a_write_holds_arrives(void **state)
{
    enum { LEN = 6 * 1024 * 1024 };
    scene_t *scene = *state;
    static char bytes[RECEIVED_MAX];
    char *large = malloc(LEN);
    size_t got = 0, differing = 0;
    for (size_t i = 0; i < LEN; ++i)
        large[i] = (char)(i * 7 + i / 1000);
    open_link(scene);
    greet(scene);
    for (size_t i = 0; i < 3; ++i) {
        (void)send_bytes(scene, large + i * LEN / 3, LEN / 3, 10 * SECOND);
        turns(scene, 5 * MS); /* the last ones wait until the first is out */
    }
    while (got < LEN) {
        until(scene, is_readable(scene->peer));
        ssize_t piece = recv(scene->peer, bytes, sizeof(bytes), 0);
        assert_true(piece > 0 && (size_t)piece <= LEN - got);
        differing += memcmp(bytes, large + got, (size_t)piece) != 0;
        got += (size_t)piece;
    }
    assert_int_equal(differing, 0);
    answer(scene, ":1\r\n:2\r\n:3\r\n");
    until(scene, scene->told_count == 3);
    assert_counted(scene, 3, 0, 0);
    free(large);
}

static void receive_all(scene_t *scene, size_t len)
{
    static char bytes[RECEIVED_MAX];
    for (size_t got = 0; got < len;) {
        until(scene, is_readable(scene->peer));
        ssize_t piece = recv(scene->peer, bytes, sizeof(bytes), 0);
        assert_true(piece > 0);
        got += (size_t)piece;
    }
}

static void any_number_of_writes_goes_out(void **state)
{
    enum { LEN = 60 * 1024, TIMES = 300 };
    scene_t *scene = *state;
    char *large = calloc(1, LEN);
    open_link(scene);
    greet(scene);
    for (size_t i = 0; i < TIMES; ++i) {
        scene->sent_count = scene->told_count = 0;
        (void)send_bytes(scene, large, LEN, 10 * SECOND);
        receive_all(scene, LEN);
        answer(scene, ":1\r\n");
        until(scene, scene->told_count == 1);
    }
    assert_int_equal(scene->state_count, 1);
    free(large);
}

static void what_was_not_written_cannot_be_answered(void **state)
{
    enum { LEN = 9 * 1024 * 1024 };
    scene_t *scene = *state;
    char *large = calloc(1, LEN);
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, large, LEN, 10 * SECOND);
    turns(scene, 5 * MS);
    (void)send_text(scene, "<2>");
    turns(scene, 5 * MS);
    answer(scene, ":1\r\n:2\r\n");
    until(scene, scene->state_count == 2);
    assert_string_equal(why(scene), "it answers what was not asked");
    assert_int_equal(scene->sent[0].told, WEIR_REDIS_REPLIED);
    assert_int_equal(scene->sent[1].told, WEIR_REDIS_LOST);
    free(large);
}

static void what_it_does_not_take_stalls_it(void **state)
{
    enum { LEN = 9 * 1024 * 1024 };
    scene_t *scene = *state;
    char *large = calloc(1, LEN);
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, large, LEN, 10 * SECOND);
    (void)send_bytes(scene, large, LEN, 10 * SECOND);
    assert_false(is_ready(scene));
    assert_int_equal(scene->state_count, 1); /* not from within a call */
    (void)send_bytes(scene, "x", 1, 10 * SECOND); /* which was about to be sent */
    until(scene, scene->state_count >= 2);
    assert_false(scene->states[1].is_ready);
    assert_string_equal(scene->states[1].why, "it takes nothing more, 16 MiB wait");
    answer(scene, ":1\r\n");
    until(scene, scene->told_count == 1);
    assert_false(is_ready(scene));
    receive_all(scene, 2 * (size_t)LEN + 1);
    until(scene, is_ready(scene));
    answer(scene, ":2\r\n:3\r\n");
    until(scene, scene->told_count == 3);
    destroy(scene); /* before its bytes are freed */
    free(large);
}

/* --- deadlines --- */

static void a_late_reply_stalls_it_until_it_comes(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, "<1>", 3, 40 * MS);
    (void)send_bytes(scene, "<2>", 3, 40 * MS);
    (void)send_bytes(scene, "<3>", 3, 10 * SECOND);
    assert_receives(scene, "<1><2><3>");
    until(scene, !is_ready(scene));
    assert_string_equal(why(scene), "it did not answer in 40 ms");
    assert_int_equal(scene->told_count, 0);
    assert_true(scene->sent[0].super.is_late && !scene->sent[2].super.is_late);
    answer(scene, ":1\r\n");
    until(scene, scene->told_count == 1);
    assert_false(is_ready(scene)); /* the second one is still overdue */
    answer(scene, ":2\r\n");
    until(scene, is_ready(scene));
    assert_int_equal(scene->told_count, 2);
    answer(scene, ":3\r\n");
    until(scene, scene->told_count == 3);
    assert_string_equal(scene->sent[1].reply, "2");
    assert_int_equal(scene->state_count, 3);
    assert_counted(scene, 1, 2, 0);
}

static void a_shorter_deadline_behind_a_longer_one_counts(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, "<1>", 3, 10 * SECOND);
    (void)send_bytes(scene, "<2>", 3, 40 * MS);
    until(scene, !is_ready(scene));
    assert_true(scene->sent[1].super.is_late && !scene->sent[0].super.is_late);
    answer(scene, ":1\r\n:2\r\n");
    until(scene, is_ready(scene));
    assert_counted(scene, 1, 1, 0);
}

static void a_second_of_silence_closes_it(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, "<1>", 3, 40 * MS);
    (void)send_bytes(scene, "<2>", 3, 10 * SECOND);
    assert_receives(scene, "<1><2>");
    until(scene, scene->state_count == 3);
    assert_string_equal(why(scene), "it answers no more");
    assert_true(scene->states[2].at_ns - scene->sent[0].super.sent_ns >= 990 * MS);
    assert_int_equal(scene->told_count, 2);
    assert_int_equal(scene->sent[0].told, WEIR_REDIS_LOST);
    assert_int_equal(scene->sent[1].told, WEIR_REDIS_LOST);
    assert_counted(scene, 0, 1, 1); /* the first was counted when it was late */
    until(scene, peer_sees_end(scene));
    greet(scene);
    (void)send_text(scene, "<3>");
    assert_receives(scene, "<3>");
    answer(scene, ":3\r\n");
    until(scene, scene->told_count == 3);
    assert_string_equal(scene->sent[2].reply, "3");
}

static void a_longer_timeout_is_waited_for(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, "<1>", 3, 20 * SECOND);
    (void)send_bytes(scene, "<2>", 3, 40 * MS);
    assert_receives(scene, "<1><2>");
    turns(scene, 1300 * MS);
    answer(scene, ":1\r\n:2\r\n");
    until(scene, is_ready(scene));
    assert_int_equal(scene->told_count, 2);
    assert_int_equal(scene->state_count, 3);
    assert_counted(scene, 1, 1, 0);
}

static void it_may_idle(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, "<1>", 3, 40 * MS);
    assert_receives(scene, "<1>");
    answer(scene, ":1\r\n");
    turns(scene, 1300 * MS);
    assert_int_equal(scene->told_count, 1);
    assert_int_equal(scene->state_count, 1);
    assert_true(is_ready(scene));
}

/* --- what is no reply --- */

static void garbage_closes_it(void **state)
{
    static const struct {
        const char *bytes;
        int replied; /* before it */
        const char *why;
    } rows[] = {
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 0, "what came is no RESP2"},
        {":1\r\n:2\r\n!", 2, "what came is no RESP2"},
        {":1\r\n$1000000000\r\n", 1, "a reply is too long"},
        {"*100000000\r\n", 0, "a reply is too long"},
        {"*1\r\n$5000\r\n", 0, "a reply is too long"},
        {"$9223372036854775807\r\n", 0, "a reply is too long"},
        {":1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", 1, "lists stand in lists, too deep"},
        {"$3\r\nabcd\r\n", 0, "what came is no RESP2"},
        {":1\r\n:2\r\n:3\r\n:4\r\n", 3, "it answers what was not asked"},
    };
    scene_t *scene = *state;
    open_link(scene);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        greet(scene);
        scene->state_count = scene->told_count = scene->sent_count = 0;
        for (int k = 0; k < 3; ++k)
            (void)send_text(scene, "<n>");
        assert_receives(scene, "<n><n><n>");
        answer(scene, rows[i].bytes);
        until(scene, scene->state_count == 1);
        assert_string_equal(why(scene), rows[i].why);
        assert_int_equal(scene->told_count, 3);
        for (int k = 0; k < 3; ++k)
            assert_int_equal(scene->sent[k].told, k < rows[i].replied ? WEIR_REDIS_REPLIED : WEIR_REDIS_LOST);
    }
}

static void who_talks_without_being_asked_is_left(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    answer(scene, "+OK\r\n");
    until(scene, scene->state_count == 2);
    assert_string_equal(why(scene), "it talks without being asked");
    greet(scene);
}

/* Nothing that came on the old connection is taken for an answer on the new one. */
static void half_a_reply_is_forgotten(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_text(scene, "<1>");
    (void)send_text(scene, "<2>");
    assert_receives(scene, "<1><2>");
    answer(scene, ":1\r\n*2\r\n$5\r\nhel");
    until(scene, scene->told_count == 1);
    hang_up(scene);
    until(scene, scene->state_count == 2);
    assert_string_equal(why(scene), "it hung up");
    assert_int_equal(scene->sent[0].told, WEIR_REDIS_REPLIED);
    assert_int_equal(scene->sent[1].told, WEIR_REDIS_LOST);
    greet(scene);
    (void)send_text(scene, "<3>");
    assert_receives(scene, "<3>");
    answer(scene, "+three\r\n");
    until(scene, scene->told_count == 3);
    assert_string_equal(scene->sent[2].reply, "three");
    assert_counted(scene, 2, 0, 1);
}

static void a_reset_is_told(void **state)
{
    scene_t *scene = *state;
    struct linger linger = {.l_onoff = 1};
    open_link(scene);
    greet(scene);
    (void)send_text(scene, "<1>");
    assert_receives(scene, "<1>");
    setsockopt(scene->peer, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    hang_up(scene);
    until(scene, scene->state_count == 2);
    assert_string_equal(why(scene), "Connection reset by peer");
    assert_int_equal(scene->sent[0].told, WEIR_REDIS_LOST);
}

/* --- from within callbacks --- */

static void it_is_destroyed_from_within_a_reply(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_text(scene, "<1>");
    send_text(scene, "<2>")->then = destroy;
    (void)send_text(scene, "<3>");
    (void)send_text(scene, "<4>");
    assert_receives(scene, "<1><2><3><4>");
    answer(scene, ":1\r\n:2\r\n:3\r\n:4\r\n");
    until(scene, scene->told_count == 4);
    assert_int_equal(scene->sent[1].told, WEIR_REDIS_REPLIED);
    assert_int_equal(scene->sent[2].told, WEIR_REDIS_LOST);
    assert_int_equal(scene->state_count, 1);
    until(scene, peer_sees_end(scene));
}

static void it_is_destroyed_while_all_is_lost(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    (void)send_text(scene, "<1>");
    send_text(scene, "<2>")->then = destroy;
    (void)send_text(scene, "<3>");
    assert_receives(scene, "<1><2><3>");
    hang_up(scene);
    until(scene, scene->told_count == 3);
    turns(scene, 20 * MS);
    assert_int_equal(scene->state_count, 1);
}

static void it_is_destroyed_as_its_state_is_told(void **state)
{
    scene_t *scene = *state;
    scene->on_ready = destroy;
    open_link(scene);
    accept_peer(scene);
    assert_receives(scene, PING);
    answer(scene, "+PONG\r\n");
    until(scene, scene->link == NULL);
    scene->on_ready = NULL;
    scene->on_down = destroy;
    open_link(scene);
    greet(scene);
    (void)send_bytes(scene, "<1>", 3, 20 * MS); /* it stalls */
    until(scene, scene->link == NULL);
    assert_int_equal(scene->sent[0].told, WEIR_REDIS_LOST);
    open_link(scene);
    greet(scene);
    hang_up(scene);
    until(scene, scene->link == NULL);
    turns(scene, 20 * MS);
}

static void it_is_destroyed_at_any_time(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    destroy(scene);
    open_link(scene);
    turn(scene);
    turn(scene);
    destroy(scene);
    snprintf(scene->address, sizeof(scene->address), "name:%u", scene->port);
    for (int i = 0; i < 20; ++i) {
        open_link(scene);
        for (int k = 0; k < i; ++k)
            (void)h2o_evloop_run(scene->worker->ctx.loop, k == 0 ? 2 : 0);
        destroy(scene);
    }
    turns(scene, 20 * MS);
}

static void reconnect(scene_t *scene)
{
    weir_redis_link_reconnect(scene->link, "it is READONLY");
    assert_false(weir_redis_link_is_ready(scene->link));
}

static void it_connects_anew_when_it_is_told_to(void **state)
{
    scene_t *scene = *state;
    open_link(scene);
    greet(scene);
    send_text(scene, "<1>")->then = reconnect;
    (void)send_text(scene, "<2>");
    assert_receives(scene, "<1><2>");
    answer(scene, "-READONLY no\r\n:2\r\n");
    until(scene, scene->state_count == 2);
    assert_string_equal(why(scene), "it is READONLY");
    assert_int_equal(scene->told_count, 2);
    assert_int_equal(scene->sent[0].told, WEIR_REDIS_REPLIED);
    assert_int_equal(scene->sent[1].told, WEIR_REDIS_LOST);
    greet(scene);
    reconnect(scene);
    reconnect(scene);
    assert_int_equal(scene->state_count, 3); /* not from within a call */
    greet(scene);
    assert_int_equal(scene->state_count, 5);
    assert_string_equal(scene->states[3].why, "it is READONLY");
    int64_t pause_ns = scene->states[4].at_ns - scene->states[3].at_ns;
    assert_true(pause_ns >= 24 * MS); /* the second time within a second */
    turns(scene, 1100 * MS);
    reconnect(scene);
    greet(scene);
    turns(scene, 1100 * MS);
    hang_up(scene);
    greet(scene); /* where nobody told it to, there is a pause */
    pause_ns = scene->states[8].at_ns - scene->states[7].at_ns;
    assert_true(pause_ns >= 24 * MS);
}

/* --- TLS --- */

typedef struct {
    h2o_socket_t *sock;
    char received[200];
    size_t size;
} tls_peer_t;

static void on_tls_readable(h2o_socket_t *sock, const char *err)
{
    tls_peer_t *peer = sock->data;
    static char bytes[RECEIVED_MAX];
    ssize_t got = weir_sock_read(sock, bytes, sizeof(bytes));
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            h2o_socket_read_stop(sock);
        return;
    }
    assert_true(peer->size + (size_t)got < sizeof(peer->received));
    memcpy(peer->received + peer->size, bytes, (size_t)got);
    peer->size += (size_t)got;
}

static void write_tls(tls_peer_t *peer, const char *text)
{
    char *pending;
    h2o_iovec_t buf = {(char *)text, strlen(text)};
    assert_int_equal(weir_sock_write(peer->sock, &buf, 1, &pending, NULL), WEIR_WRITE_DONE);
}

static const char CERTIFICATE_COMMAND[] =
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s/key -out %s/cert -days 2 -subj /CN=weir.test "
    "-addext subjectAltName=DNS:weir.test 2>/dev/null";

static weir_tls_set_t *make_tls(const char *directory, const char *name)
{
    char command[400], cert[100], key[100], *errors = NULL;
    snprintf(command, sizeof(command), CERTIFICATE_COMMAND, directory, directory);
    snprintf(cert, sizeof(cert), "%s/cert", directory);
    snprintf(key, sizeof(key), "%s/key", directory);
    if (access(cert, R_OK) != 0)
        assert_int_equal(system(command), 0);
    weir_conf_upstream_t upstream = {.name = "redis", .url = {.is_tls = true, .host = name}};
    upstream.tls.ca = cert;
    upstream.tls.verify = true;
    weir_conf_listener_t listener = {.name = "in"};
    listener.tls.cert = cert;
    listener.tls.key = key;
    weir_conf_t conf = {.upstreams = {.entries = &upstream, .size = 1}, .listeners = {.entries = &listener, .size = 1}};
    weir_tls_set_t *set = weir_tls_set_create(&conf, NULL, 1, &errors);
    assert_null(errors);
    return set;
}

static void accept_tls(scene_t *scene, tls_peer_t *peer, weir_tls_set_t *set)
{
    accept_peer(scene);
    *peer = (tls_peer_t){.sock = h2o_evloop_socket_create(scene->worker->ctx.loop, scene->peer, 0)};
    scene->peer = -1;
    peer->sock->data = peer;
    h2o_socket_dont_read(peer->sock, 1);
    weir_tls_accept(peer->sock, weir_tls_of_listener(set, 0));
    h2o_socket_read_start(peer->sock, on_tls_readable);
}

static void it_speaks_tls(void **state)
{
    scene_t *scene = *state;
    tls_peer_t peer;
    char directory[] = "/tmp/weir-link-tls-XXXXXX", path[100];
    assert_non_null(mkdtemp(directory));
    weir_tls_set_t *set = make_tls(directory, "weir.test"), *wrong = make_tls(directory, "other.test");
    scene->options.tls = weir_tls_of_upstream(set, 0);
    open_link(scene);
    accept_tls(scene, &peer, set);
    until(scene, peer.size == strlen(PING));
    write_tls(&peer, "+PONG\r\n");
    until(scene, is_ready(scene));
    (void)send_text(scene, "<1>");
    (void)send_text(scene, "<2>");
    until(scene, peer.size == strlen(PING) + 6);
    assert_memory_equal(peer.received + strlen(PING), "<1><2>", 6);
    write_tls(&peer, ":1\r\n:2\r\n");
    until(scene, scene->told_count == 2);
    weir_sock_close(peer.sock);
    until(scene, scene->state_count == 2);
    assert_string_equal(why(scene), "it hung up");
    destroy(scene);

    scene->options.tls = weir_tls_of_upstream(wrong, 0);
    open_link(scene);
    accept_tls(scene, &peer, set);
    until(scene, scene->state_count == 3);
    assert_string_equal(why(scene), "TLS: hostname mismatch");
    assert_int_equal(peer.size, 0);
    weir_sock_close(peer.sock);
    destroy(scene);
    (void)h2o_evloop_run(scene->worker->ctx.loop, 0);
    weir_tls_set_destroy(set);
    weir_tls_set_destroy(wrong);
    for (int i = 0; i < 2; ++i) {
        snprintf(path, sizeof(path), "%s/%s", directory, i == 0 ? "key" : "cert");
        unlink(path);
    }
    rmdir(directory);
}

/* --- all of it, by chance --- */

static void maybe_more(scene_t *scene)
{
    if (is_ready(scene) && scene->sent_count < COMMANDS)
        send_text(scene, "<n>")->then = maybe_more;
}

/* Whatever the server does: each command is told once, replies in order, and the link comes back. */
static void every_command_is_told_once(void **state)
{
    static const char *const answers[] = {":1\r\n", "$3\r\nabc\r\n", "-ERR no\r\n", "*2\r\n:1\r\n+a\r\n", ":1\r\n:2\r\n:3\r\n",
                                          "*1\r\n", "$9\r\nab", "x", "*100000000\r\n", "-READONLY no\r\n"};
    scene_t *scene = *state;
    seeded_t seed = seeded_start("link");
    open_link(scene);
    for (int round = 0; round < 20; ++round) {
        greet(scene);
        scene->state_count = scene->told_count = scene->sent_count = 0;
        for (size_t k = seeded_below(&seed, 20); k > 0; --k)
            send_text(scene, "<n>")->then = seeded_below(&seed, 8) == 0 ? maybe_more : NULL;
        for (size_t k = seeded_below(&seed, 30); k > 0 && is_ready(scene); --k) {
            const char *bytes = answers[seeded_below(&seed, sizeof(answers) / sizeof(answers[0]))];
            (void)!send(scene->peer, bytes, strlen(bytes), MSG_NOSIGNAL);
            if (seeded_below(&seed, 2) == 0)
                turn(scene);
        }
        if (seeded_below(&seed, 4) == 0 && scene->link != NULL)
            weir_redis_link_reconnect(scene->link, "again");
        if (seeded_below(&seed, 8) == 0)
            destroy(scene);
        hang_up(scene);
        until(scene, !is_ready(scene) && scene->told_count == scene->sent_count);
        for (size_t i = 0; i < scene->told_count; ++i)
            assert_true(scene->sent[i].told != -1);
        if (scene->link == NULL)
            open_link(scene);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(it_is_ready_once_it_was_answered),
        TEST(the_greeting_says_who_we_are),
        TEST(a_password_needs_no_name),
        TEST(a_refusal_is_told_but_no_password),
        TEST(it_goes_on_trying),
        TEST(a_name_leads_to_all_its_addresses),
        TEST(a_name_that_is_none_is_told),
        TEST(an_address_that_is_none_is_told),
        TEST(it_is_six_or_unix_as_well),
        TEST(a_greeting_that_is_not_answered_ends),
        TEST(commands_go_out_together_and_are_answered_in_order),
        TEST(one_is_sent_from_within_a_reply),
        TEST(more_than_a_write_holds_arrives),
        TEST(any_number_of_writes_goes_out),
        TEST(what_was_not_written_cannot_be_answered),
        TEST(what_it_does_not_take_stalls_it),
        TEST(a_late_reply_stalls_it_until_it_comes),
        TEST(a_shorter_deadline_behind_a_longer_one_counts),
        TEST(a_second_of_silence_closes_it),
        TEST(a_longer_timeout_is_waited_for),
        TEST(it_may_idle),
        TEST(garbage_closes_it),
        TEST(who_talks_without_being_asked_is_left),
        TEST(half_a_reply_is_forgotten),
        TEST(a_reset_is_told),
        TEST(it_is_destroyed_from_within_a_reply),
        TEST(it_is_destroyed_while_all_is_lost),
        TEST(it_is_destroyed_as_its_state_is_told),
        TEST(it_is_destroyed_at_any_time),
        TEST(it_connects_anew_when_it_is_told_to),
        TEST(it_speaks_tls),
        TEST(every_command_is_told_once),
#undef TEST
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
