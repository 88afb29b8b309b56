/* Every line is one valid JSON object, whatever came in; what is not written is counted; nobody waits for a pipe. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <yajl/yajl_parse.h>
#include "../../../proxy/json_out.h"
#include "../../../proxy/log.h"

static char folder[64], file[80], other[80];

static int set_up(void **state)
{
    strcpy(folder, "/tmp/weir-log-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof(file), "%s/access", folder);
    snprintf(other, sizeof(other), "%s/other", folder);
    return 0;
}

static int tear_down(void **state)
{
    unlink(file);
    unlink(other);
    rmdir(folder);
    return 0;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static weir_str_t str(const char *text)
{
    return (weir_str_t){text, strlen(text)};
}

static weir_access_t usual(void)
{
    return (weir_access_t){
        .wall_ms = INT64_C(1735787045678),
        .correlation_id = str("0193b1c2-7d4e-7abc-8def-0123456789ab"),
        .trace_id = str("4bf92f3577b34da6a3ce929d0e0e4736"),
        .listener = str("inbound"),
        .route = str("/v1"),
        .tenant = str("acme"),
        .method = str("POST"),
        .path = str("/v1/things"),
        .status = 200,
        .reason = "",
        .bytes_in = 12,
        .bytes_out = UINT64_MAX,
        .duration_ns = 12345678,
        .overhead_ns = 23999,
        .first_byte_ns = -1,
        .upstream = str("agent"),
        .attempts = 1,
        .tokens_in = -1,
        .tokens_out = -1,
        .peer = str("127.0.0.1"),
    };
}

static weir_log_t *create(const char *access, size_t workers)
{
    weir_conf_log_t conf = {access, WEIR_LOG_INFO};
    char *error = NULL;
    weir_log_t *log = weir_log_create(&conf, workers, &error);
    assert_non_null(log);
    return log;
}

/* The whole file; the caller frees. */
static char *content(const char *path, size_t *len)
{
    char *text = NULL;
    FILE *in = fopen(path, "r"), *out = open_memstream(&text, len);
    assert_non_null(in);
    for (int c; (c = getc(in)) != EOF;)
        putc(c, out);
    fclose(in);
    fclose(out);
    return text;
}

static void assert_valid_json(const char *text, size_t len)
{
    static const yajl_callbacks nothing;
    yajl_handle parser = yajl_alloc(&nothing, NULL, NULL);
    bool valid = yajl_parse(parser, (const unsigned char *)text, len) == yajl_status_ok &&
                 yajl_complete_parse(parser) == yajl_status_ok;
    yajl_free(parser);
    if (!valid)
        fail_msg("not valid: %.*s", (int)len, text);
}

/* Checks every line and returns how many there are. */
static size_t check_lines(const char *text, size_t len)
{
    size_t lines = 0;
    for (const char *at = text, *end = text + len; at != end; ++lines) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        assert_non_null(newline);
        assert_int_equal(*at, '{');
        assert_in_range(newline + 1 - at, 1, WEIR_LOG_LINE_MAX);
        assert_valid_json(at, (size_t)(newline - at));
        at = newline + 1;
    }
    return lines;
}

static size_t check_file(const char *path)
{
    size_t len;
    char *text = content(path, &len);
    size_t lines = check_lines(text, len);
    free(text);
    return lines;
}

/* What is logged for this; the caller frees. */
static char *line_of(const weir_access_t *access)
{
    weir_log_t *log = create(file, 1);
    weir_log_access(weir_log_worker(log, 0), access);
    weir_log_destroy(log);
    size_t len;
    char *line = content(file, &len);
    assert_int_equal(check_lines(line, len), 1);
    unlink(file);
    return line;
}

static void a_line_has_the_contracts_fields_in_order(void **state)
{
    weir_access_t access = usual();
    char *line = line_of(&access);
    assert_string_equal(
        line, "{\"time\":\"2025-01-02T03:04:05.678Z\","
              "\"correlation_id\":\"0193b1c2-7d4e-7abc-8def-0123456789ab\","
              "\"trace_id\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"listener\":\"inbound\",\"route\":\"/v1\","
              "\"tenant\":\"acme\",\"method\":\"POST\",\"path\":\"/v1/things\",\"status\":200,\"bytes_in\":12,"
              "\"bytes_out\":18446744073709551615,\"duration_ms\":12.345,\"overhead_ms\":0.023,"
              "\"upstream\":\"agent\",\"attempts\":1,\"peer\":\"127.0.0.1\"}\n");
    free(line);
}

static void a_refusal_has_its_reason_and_limit(void **state)
{
    weir_access_t access = usual();
    access.status = 429;
    access.reason = "limit";
    access.limit = str("per-tenant");
    access.upstream.len = 0;
    access.first_byte_ns = 1000000;
    char *line = line_of(&access);
    assert_non_null(strstr(line, "\"status\":429,\"reason\":\"limit\",\"bytes_in\""));
    assert_non_null(strstr(line, "\"attempts\":1,\"first_byte_ms\":1.000,\"limit\":\"per-tenant\",\"peer\""));
    assert_null(strstr(line, "upstream"));
    free(line);
}

static void what_a_terminal_would_obey_is_escaped(void **state)
{
    weir_access_t access = usual();
    access.path = str("/a\nb\x1b[31m\"\\\x7f\xc2\x9b\t\r");
    char *line = line_of(&access);
    assert_non_null(strstr(line, "\"path\":\"/a\\nb\\u001b[31m\\\"\\\\\\u007f\\u009b\\t\\r\""));
    free(line);
}

static void bad_utf8_is_replaced_and_good_is_kept(void **state)
{
    static const struct {
        const char *bytes, *written;
    } rows[] = {
        {"\xff", "\\ufffd"},
        {"\xc3\xa9", "\xc3\xa9"},
        {"\xe2\x82\xac!", "\xe2\x82\xac!"},
        {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
        {"a\xc3", "a\\ufffd"},          /* cut */
        {"\xc0\xaf", "\\ufffd\\ufffd"}, /* overlong */
        {"\xe0\x80\xaf", "\\ufffd\\ufffd\\ufffd"},
        {"\xf0\x80\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},
        {"\xed\xa0\x80", "\\ufffd\\ufffd\\ufffd"}, /* a surrogate */
        {"\xf4\x90\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},
        {"\xf5\x80\x80\x80", "\\ufffd\\ufffd\\ufffd\\ufffd"},
        {"\xe2\x82x", "\\ufffd\\ufffdx"},
    };
    for (size_t i = 0; i != sizeof(rows) / sizeof(*rows); ++i) {
        char out[64];
        size_t len = weir_json_out_escape(out, sizeof(out), rows[i].bytes, strlen(rows[i].bytes));
        assert_int_equal(len, strlen(rows[i].written));
        assert_memory_equal(out, rows[i].written, len);
    }
}

static void escaping_never_cuts_a_character(void **state)
{
    static const char text[] = "abcdefgh\"\xe2\x82\xac\x01 plain plain \xf0\x9f\x98\x80\\";
    char whole[128], part[128];
    size_t whole_len = weir_json_out_escape(whole, sizeof(whole), text, sizeof(text) - 1);
    for (size_t capacity = 0; capacity <= whole_len; ++capacity) {
        memset(part, '#', sizeof(part));
        size_t len = weir_json_out_escape(part, capacity, text, sizeof(text) - 1);
        assert_in_range(len, capacity > 5 ? capacity - 5 : 0, capacity);
        assert_memory_equal(part, whole, len);
        assert_int_equal(part[capacity], '#');
        char quoted[160];
        int size = snprintf(quoted, sizeof(quoted), "[\"%.*s\"]", (int)len, part);
        assert_valid_json(quoted, (size_t)size);
    }
}

static void any_bytes_at_any_place_give_one_valid_line(void **state)
{
    enum { LINES = 400 };
    static char bytes[8192];
    uint64_t random = 1;
    weir_log_t *log = create(file, 1);
    for (int i = 0; i != LINES; ++i) {
        for (size_t k = 0; k != sizeof(bytes); ++k) {
            random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
            char special = "\"\\/\n\xe2\x82\xac"[(random >> 40) % 7], any = (char)(random >> 40);
            bytes[k] = i % 4 == 0 ? 1 : i % 4 == 1 ? special : any;
        }
        weir_access_t access = usual();
        weir_str_t *texts[] = {&access.correlation_id, &access.trace_id, &access.listener, &access.route,
                               &access.tenant,         &access.method,   &access.path,     &access.upstream,
                               &access.dedup,          &access.limit,    &access.peer};
        for (size_t k = 0; k != sizeof(texts) / sizeof(*texts); ++k)
            *texts[k] = (weir_str_t){bytes + k, i % 3 == 0 ? 8000 : (random >> (20 + k)) % 300};
        access.reason = "timeout_first_byte";
        access.bytes_in = access.bytes_out = UINT64_MAX;
        access.duration_ns = access.overhead_ns = access.first_byte_ns = INT64_MAX;
        access.status = access.attempts = INT32_MAX;
        weir_log_access(weir_log_worker(log, 0), &access);
    }
    uint64_t dropped = weir_log_dropped(log);
    weir_log_destroy(log);
    assert_int_equal(check_file(file) + dropped, LINES);
}

static void a_line_without_anything_is_valid(void **state)
{
    weir_access_t access = {.duration_ns = -1, .overhead_ns = -1, .first_byte_ns = -1, .attempts = -1, .status = -1,
                            .tokens_in = -1, .tokens_out = -1};
    char *line = line_of(&access);
    assert_string_equal(line, "{\"time\":\"1970-01-01T00:00:00.000Z\",\"bytes_in\":0,\"bytes_out\":0}\n");
    free(line);
}

static void none_opens_and_counts_nothing(void **state)
{
    weir_log_t *log = create("none", 1);
    weir_access_t access = usual();
    for (int i = 0; i != 10000; ++i)
        weir_log_access(weir_log_worker(log, 0), &access);
    assert_int_equal(weir_log_dropped(log), 0);
    weir_log_destroy(log);
}

static void what_cannot_be_opened_is_an_error_with_its_name(void **state)
{
    weir_conf_log_t conf = {"/no/such/folder/access.log", WEIR_LOG_INFO};
    char *error = NULL;
    assert_null(weir_log_create(&conf, 1, &error));
    assert_string_equal(error, "/no/such/folder/access.log: No such file or directory");
    free(error);
}

/* -- pipes -------------------------------------------------------------------------------------------------------- */

/* A named pipe with a reader that does not read yet. */
static int make_pipe(void)
{
    assert_int_equal(mkfifo(file, 0600), 0);
    int fd = open(file, O_RDONLY | O_NONBLOCK);
    assert_int_not_equal(fd, -1);
    return fd;
}

/* Reads until the writer closes it. */
static char *read_all(int fd, size_t *len)
{
    char *text = NULL, bytes[4096];
    FILE *out = open_memstream(&text, len);
    for (ssize_t got = 1; got != 0;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        poll(&wait, 1, -1);
        got = read(fd, bytes, sizeof(bytes));
        if (got > 0)
            fwrite(bytes, 1, (size_t)got, out);
    }
    fclose(out);
    return text;
}

static void *destroy_log(void *log)
{
    weir_log_destroy(log);
    return NULL;
}

static void a_full_pipe_drops_and_counts_and_nobody_waits(void **state)
{
    enum { LINES = 5000 };
    int fd = make_pipe();
    weir_log_t *log = create(file, 1);
    weir_access_t access = usual();
    double start = seconds();
    for (int i = 0; i != LINES; ++i)
        weir_log_access(weir_log_worker(log, 0), &access);
    assert_true(seconds() - start < 1.0);
    uint64_t dropped = weir_log_dropped(log);
    assert_in_range(dropped, 1, LINES - WEIR_LOG_RING_BYTES / 500);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, destroy_log, log), 0); /* now it is read, so that all is written */
    size_t len;
    char *text = read_all(fd, &len);
    pthread_join(thread, NULL);
    assert_int_equal(check_lines(text, len) + dropped, LINES);
    free(text);
    close(fd);
}

static void the_end_does_not_wait_for_a_full_pipe(void **state)
{
    int fd = make_pipe();
    weir_log_t *log = create(file, 2);
    weir_access_t access = usual();
    for (int i = 0; i != 3000; ++i)
        weir_log_access(weir_log_worker(log, (size_t)i % 2), &access);
    double start = seconds();
    weir_log_destroy(log);
    assert_true(seconds() - start < 1.9);
    size_t len;
    char *text = read_all(fd, &len);
    assert_true(check_lines(text, len) > 100);
    free(text);
    close(fd);
}

static void a_reader_that_left_costs_lines_only(void **state)
{
    int fd = make_pipe();
    weir_log_t *log = create(file, 1);
    weir_access_t access = usual();
    close(fd);
    for (int i = 0; i != 100; ++i)
        weir_log_access(weir_log_worker(log, 0), &access);
    while (weir_log_dropped(log) != 100)
        ;
    fd = open(file, O_RDONLY | O_NONBLOCK);
    weir_log_access(weir_log_worker(log, 0), &access);
    weir_log_destroy(log);
    size_t len;
    char *text = read_all(fd, &len);
    assert_int_equal(check_lines(text, len), 1);
    free(text);
    close(fd);
}

static void a_full_disk_is_counted(void **state)
{
    weir_log_t *log = create("/dev/full", 1);
    weir_access_t access = usual();
    for (int i = 0; i != 100; ++i)
        weir_log_access(weir_log_worker(log, 0), &access);
    while (weir_log_dropped(log) != 100)
        ;
    weir_log_destroy(log);
}

typedef struct {
    int fd;
    char *text;
    size_t len;
} reading_t;

static void *read_on_a_thread(void *argument)
{
    reading_t *reading = argument;
    reading->text = read_all(reading->fd, &reading->len);
    return NULL;
}

static void a_pipe_that_others_write_to_as_well_has_whole_lines(void **state)
{
    reading_t reading = {.fd = make_pipe()};
    int writer = open(file, O_WRONLY);
    weir_log_t *log = create(file, 1);
    weir_access_t access = usual();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, read_on_a_thread, &reading), 0);
    for (int i = 0; i != 20000; ++i) {
        weir_log_access(weir_log_worker(log, 0), &access);
        if (i % 10 == 0)
            assert_int_equal(write(writer, "{\"other\":1}\n", 12), 12);
    }
    uint64_t dropped = weir_log_dropped(log);
    weir_log_destroy(log);
    close(writer);
    pthread_join(thread, NULL);
    assert_int_equal(check_lines(reading.text, reading.len) + dropped, 22000);
    free(reading.text);
    close(reading.fd);
}

/* -- files -------------------------------------------------------------------------------------------------------- */

static void after_reopen_lines_go_to_the_new_file_and_none_is_lost(void **state)
{
    weir_log_t *log = create(file, 1);
    weir_access_t access = usual();
    for (int i = 0; i != 300; ++i)
        weir_log_access(weir_log_worker(log, 0), &access);
    assert_int_equal(rename(file, other), 0);
    weir_log_reopen(log);
    for (int i = 0; i != 300; ++i)
        weir_log_access(weir_log_worker(log, 0), &access);
    weir_log_destroy(log);
    size_t new_lines = check_file(file);
    assert_in_range(new_lines, 300, 600);
    assert_int_equal(new_lines + check_file(other), 600);
}

static void configure_moves_to_another_file(void **state)
{
    weir_log_t *log = create(file, 1);
    weir_access_t access = usual();
    weir_conf_log_t conf = {"/no/such/folder/x", WEIR_LOG_INFO};
    char *error = NULL;
    assert_false(weir_log_configure(log, &conf, &error));
    assert_string_equal(error, "/no/such/folder/x: No such file or directory");
    free(error);
    weir_log_access(weir_log_worker(log, 0), &access);
    conf.access = other;
    assert_true(weir_log_configure(log, &conf, &error));
    for (int i = 0; i != 10; ++i)
        weir_log_access(weir_log_worker(log, 0), &access);
    weir_log_destroy(log);
    size_t lines = check_file(other);
    assert_in_range(lines, 10, 11);
    assert_int_equal(check_file(file) + lines, 11);
    struct stat status;
    assert_int_equal(stat(other, &status), 0);
    assert_int_equal(status.st_mode & 0137, 0);
}

static void none_can_be_turned_to_a_file_and_back(void **state)
{
    weir_log_t *log = create("none", 1);
    weir_access_t access = usual();
    char *error = NULL;
    weir_conf_log_t conf = {file, WEIR_LOG_INFO};
    weir_log_access(weir_log_worker(log, 0), &access);
    assert_true(weir_log_configure(log, &conf, &error));
    weir_log_access(weir_log_worker(log, 0), &access);
    while (check_file(file) != 1)
        ;
    conf.access = "none";
    assert_true(weir_log_configure(log, &conf, &error));
    weir_log_access(weir_log_worker(log, 0), &access);
    weir_log_destroy(log);
    assert_int_equal(check_file(file), 1);
}

enum { THREADS = 4, LINES_EACH = 20000 };

static void *log_on_a_worker(void *argument)
{
    weir_access_t access = usual();
    for (int i = 0; i != LINES_EACH; ++i) {
        access.wall_ms += i % 3;
        access.path.len = (size_t)(i % 10);
        weir_log_access(argument, &access);
    }
    return NULL;
}

static void many_workers_lines_are_whole_and_add_up(void **state)
{
    weir_log_t *log = create(file, THREADS);
    pthread_t threads[THREADS];
    for (size_t i = 0; i != THREADS; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, log_on_a_worker, weir_log_worker(log, i)), 0);
    for (int i = 0; i != 5; ++i)
        weir_log_reopen(log);
    for (size_t i = 0; i != THREADS; ++i)
        pthread_join(threads[i], NULL);
    uint64_t dropped = weir_log_dropped(log);
    weir_log_destroy(log);
    assert_int_equal(check_file(file) + dropped, THREADS * LINES_EACH);
}

/* -- the event log ------------------------------------------------------------------------------------------------ */

static int stderr_kept;

static void redirect_stderr(int fd)
{
    fflush(stderr);
    stderr_kept = dup(STDERR_FILENO);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

static void restore_stderr(void)
{
    dup2(stderr_kept, STDERR_FILENO);
    close(stderr_kept);
}

static void an_event_is_one_json_line_of_its_level(void **state)
{
    char *longest = calloc(1, 10001);
    memset(longest, '\n', 10000);
    redirect_stderr(open(file, O_WRONLY | O_CREAT | O_APPEND, 0600));
    weir_log_set_level(WEIR_LOG_WARN);
    weir_log_event(WEIR_LOG_INFO, "not %s", "this");
    weir_log_event(WEIR_LOG_WARN, "two\nlines of \"%s\"", "text");
    weir_log_event(WEIR_LOG_ERROR, "%s", longest);
    weir_log_set_level(WEIR_LOG_INFO);
    restore_stderr();
    size_t len;
    char *text = content(file, &len);
    assert_int_equal(check_lines(text, len), 2);
    assert_non_null(strstr(text, "Z\",\"level\":\"warn\",\"message\":\"two\\nlines of \\\"text\\\"\"}\n"));
    assert_null(strstr(text, "not this"));
    free(text);
    free(longest);
}

static void *log_events(void *argument)
{
    for (int i = 0; i != 500; ++i)
        weir_log_event(WEIR_LOG_ERROR, "event %d of %p", i, argument);
    return NULL;
}

static void events_of_many_threads_are_whole_and_a_full_pipe_stops_nobody(void **state)
{
    int fd = make_pipe();
    redirect_stderr(open(file, O_WRONLY));
    pthread_t threads[THREADS];
    for (size_t i = 0; i != THREADS; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, log_events, folder), 0);
    for (size_t i = 0; i != THREADS; ++i)
        pthread_join(threads[i], NULL);
    restore_stderr();
    size_t len;
    char *text = read_all(fd, &len);
    assert_in_range(check_lines(text, len), 300, THREADS * 500 - 1);
    free(text);
    close(fd);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        TEST(a_line_has_the_contracts_fields_in_order),
        TEST(a_refusal_has_its_reason_and_limit),
        TEST(what_a_terminal_would_obey_is_escaped),
        TEST(bad_utf8_is_replaced_and_good_is_kept),
        TEST(escaping_never_cuts_a_character),
        TEST(any_bytes_at_any_place_give_one_valid_line),
        TEST(a_line_without_anything_is_valid),
        TEST(none_opens_and_counts_nothing),
        TEST(what_cannot_be_opened_is_an_error_with_its_name),
        TEST(a_full_pipe_drops_and_counts_and_nobody_waits),
        TEST(the_end_does_not_wait_for_a_full_pipe),
        TEST(a_reader_that_left_costs_lines_only),
        TEST(a_full_disk_is_counted),
        TEST(a_pipe_that_others_write_to_as_well_has_whole_lines),
        TEST(after_reopen_lines_go_to_the_new_file_and_none_is_lost),
        TEST(configure_moves_to_another_file),
        TEST(none_can_be_turned_to_a_file_and_back),
        TEST(many_workers_lines_are_whole_and_add_up),
        TEST(an_event_is_one_json_line_of_its_level),
        TEST(events_of_many_threads_are_whole_and_a_full_pipe_stops_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
