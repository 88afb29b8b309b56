/* The usage chunk goes, every other byte stays, and none waits longer than it must. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "../seeded.h"
#include "../../../filters/core/event_cut.h"

#define ROLE                                                                                                        \
    "data: "                                                                                                        \
    "{\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}" \
    "\n\n"
#define TEXT "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"}}],\"usage\":null}\n\n"
#define USAGE "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3}}\n\n"
#define DONE "data: [DONE]\n\n"

typedef struct {
    weir_event_cut_t *cut;
    char *out;
    size_t len, capacity;
} output_t;

static output_t begin(size_t capacity)
{
    return (output_t){weir_event_cut_create(), malloc(capacity + 1), 0, capacity};
}

static void take(output_t *output, const char *out, size_t len)
{
    assert_true(len <= output->capacity - output->len);
    if (len != 0)
        memcpy(output->out + output->len, out, len);
    output->len += len;
    output->out[output->len] = '\0';
}

/* In memory of just its length, so that a read beyond it is seen. */
static void feed_copy(output_t *output, const char *bytes, size_t len)
{
    const char *out;
    size_t out_len;
    char *copy = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    weir_event_cut_feed(output->cut, copy, len, &out, &out_len);
    take(output, out, out_len);
    free(copy);
}

static void end(output_t *output)
{
    const char *out;
    size_t out_len;
    weir_event_cut_end(output->cut, &out, &out_len);
    take(output, out, out_len);
    weir_event_cut_destroy(output->cut);
}

static void assert_out(output_t *output, const char *expected, size_t len)
{
    end(output);
    assert_int_equal(output->len, len);
    assert_memory_equal(output->out, expected, len);
    free(output->out);
}

static void cut_at(const char *stream, size_t len, size_t at, const char *expected, size_t expected_len)
{
    output_t output = begin(len);
    feed_copy(&output, stream, at);
    feed_copy(&output, stream + at, len - at);
    assert_out(&output, expected, expected_len);
}

static void cut_pieces(const char *stream, size_t len, size_t most, seeded_t *seeded, const char *expected,
                       size_t expected_len)
{
    output_t output = begin(len);
    for (size_t at = 0; at < len;) {
        size_t piece = 1 + (size_t)seeded_below(seeded, most);
        piece = piece < len - at ? piece : len - at;
        feed_copy(&output, stream + at, piece);
        at += piece;
    }
    assert_out(&output, expected, expected_len);
}

static void try_cuts(const char *stream, const char *expected)
{
    static seeded_t seeded;
    if (seeded.state == 0)
        seeded = seeded_start("event_cut");
    size_t len = strlen(stream), expected_len = strlen(expected);
    for (size_t at = 0; at <= len; ++at)
        cut_at(stream, len, at, expected, expected_len);
    cut_pieces(stream, len, 1, &seeded, expected, expected_len);
    for (unsigned i = 0; i < 50; ++i)
        cut_pieces(stream, len, 1 + (size_t)seeded_below(&seeded, 200), &seeded, expected, expected_len);
}

/* Every LF becomes `line_end`. */
static char *with_line_ends(const char *stream, const char *line_end)
{
    char *text = malloc(2 * strlen(stream) + 1), *to = text;
    for (; *stream != '\0'; ++stream)
        to += *stream == '\n' ? sprintf(to, "%s", line_end) : sprintf(to, "%c", *stream);
    *to = '\0';
    return text;
}

/* With each kind of line end. */
static void try_stream(const char *stream, const char *expected)
{
    static const char *const line_ends[] = {"\n", "\r\n", "\r"};
    for (size_t i = 0; i < 3; ++i) {
        char *text = with_line_ends(stream, line_ends[i]), *out = with_line_ends(expected, line_ends[i]);
        try_cuts(text, out);
        free(text);
        free(out);
    }
}

static void test_the_usage_chunk_goes(void **state)
{
    static const struct {
        const char *stream, *expected;
    } table[] = {
        {ROLE TEXT USAGE DONE, ROLE TEXT DONE},
        {USAGE ROLE TEXT DONE, ROLE TEXT DONE},
        {USAGE, ""},
        {USAGE USAGE TEXT USAGE USAGE DONE USAGE, TEXT DONE},
        {"\n\n\n" USAGE "\n", "\n\n\n\n"},
        {"data:{\"usage\":{},\"choices\":[ ]}\n\n" DONE, DONE},
        {"event: x\nid: 7\ndata: { \"usage\" : { \"a\" : [ { } ] } , \"choices\" : [\t] } \n: comment\n\n" DONE, DONE},
        {"data: {\"us\\u0061ge\":{},\"choices\":[],\"x\":{\"choices\":[1],\"usage\":null}}\n\n" DONE, DONE},
        {"data: {\"usage\":\ndata: {},\"choices\"\ndata\ndata: :[]}\n\n" DONE, DONE},
        {": before\n: it\n" USAGE TEXT, ": before\n: it\n" TEXT},
        {TEXT ": ping\n\n" USAGE ": ping\n\n" DONE, TEXT ": ping\n\n: ping\n\n" DONE},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        try_stream(table[i].stream, table[i].expected);
}

static void test_all_else_stays(void **state)
{
    static const char *const table[] = {
        "",
        "\n",
        "data",
        "data: {\"choices\":[],\"usage\":{}}",   /* not ended */
        "data: {\"choices\":[],\"usage\":{}}\n", /* neither */
        DONE,
        ROLE TEXT DONE,
        TEXT "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\n\n" DONE, /* usage with a choice */
        "data: {\"choices\":[],\"prompt_filter_results\":[{\"index\":0}]}\n\n",               /* Azure's first one */
        "data: {\"choices\":[],\"usage\":null}\n\n",
        "data: {\"choices\":[],\"usage\":[]}\n\n",
        "data: {\"choices\":[],\"usage\":5}\n\n",
        "data: {\"choices\":null,\"usage\":{}}\n\n",
        "data: {\"choices\":{},\"usage\":{}}\n\n",
        "data: {\"choices\":[null],\"usage\":{}}\n\n",
        "data: {\"choices\":[[]],\"usage\":{}}\n\n",
        "data: {\"choices\":[],\"usage\":{},\"usage\":null}\n\n",
        "data: {\"choices\":[],\"choices\":[1],\"usage\":{}}\n\n",
        "data: {\"usage\":{}}\n\n",
        "data: {\"choices\":[]}\n\n",
        "data: {\"x\":{\"choices\":[],\"usage\":{}}}\n\n",
        "data: [{\"choices\":[],\"usage\":{}}]\n\n",
        "data: {\"choices\":[],\"usage\":{}}]\n\n",
        "data: {\"choices\":[],\"usage\":{}} {}\n\n",
        "data: {\"choices\":[],\"usage\":{}\n\n",
        "data: {\"choices\":[],\"usage\":{},}\n\n",
        "data: {\"choices\":[],\"usage\":{}}\ndata: x\n\n",
        "data: {\"choices\":[],\"us\ndata: age\":{}}\n\n",
        "Data: {\"choices\":[],\"usage\":{}}\n\n",
        ": {\"choices\":[],\"usage\":{}}\n\n",
        "{\"choices\":[],\"usage\":{}}\n\n",
        "event: error\ndata: {\"error\":{\"message\":\"no\"}}\n\n",
        "data: hello\n\ndata: \"usage\"\n\ndata: 5\n\ndata: null\n\n",
        "<html>\n\n\nnot a stream\n\n",
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        try_stream(table[i], table[i]);
}

/* What has come out when so much is in. */
static void test_what_is_held(void **state)
{
    static const struct {
        const char *in, *out;
    } table[] = {
        {"d", ""},
        {"data: {\"id\":\"c\",\"choices\":[", ""},
        {"data: {\"id\":\"c\",\"choices\":[{", "data: {\"id\":\"c\",\"choices\":[{"},
        {"data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"con", "data: {\"id\":\"c\",\"choices\":[{\"delta\":{\"con"},
        {"data: {\"id\":\"c\",\"choices\":[]", ""},
        {"data: {\"choices\":[],\"usage\":nul", ""},
        {"data: {\"choices\":[],\"usage\":null", "data: {\"choices\":[],\"usage\":null"},
        {"data: {\"choices\":[],\"usage\":{}}\n", ""},
        {"data: [", "data: ["},
        {"data: x", "data: x"},
        {"data: \"", ""},
        {"data: \"\"", "data: \"\""},
        {"data: {}x", "data: {}x"},
        {"data: {}\n", ""},
        {"event: x\n", ""},
        {": ping", ": ping"},
        {": ping\r", ": ping\r"},
        {": ping\r\n", ": ping\r\n"},
        {": ping\nid: 1\n", ": ping\n"},
        {"id: 1\n: ping\n", ""},
        {"id: 1\n\n", "id: 1\n\n"},
        {"id: 1\r\n\r", "id: 1\r\n\r"},
        {TEXT "data: {\"id\":", TEXT},
        {TEXT USAGE "data: {\"id\":", TEXT},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        for (size_t at = 0; at < strlen(table[i].in); ++at) {
            output_t output = begin(strlen(table[i].in));
            feed_copy(&output, table[i].in, at);
            feed_copy(&output, table[i].in + at, strlen(table[i].in) - at);
            assert_int_equal(output.len, strlen(table[i].out));
            assert_memory_equal(output.out, table[i].out, output.len);
            end(&output);
            free(output.out);
        }
}

/* One run of the input is given as it is. */
static void test_no_copy(void **state)
{
    static const struct {
        const char *in;
        size_t from, len;
    } table[] = {
        {ROLE TEXT TEXT DONE, 0, sizeof(ROLE TEXT TEXT DONE) - 1},
        {TEXT "data: {\"choices\":[{\"de", 0, sizeof(TEXT "data: {\"choices\":[{\"de") - 1},
        {"lta\":{}}]}\n\n" TEXT "data: ", 0, sizeof("lta\":{}}]}\n\n" TEXT) - 1},
    };
    weir_event_cut_t *cut = weir_event_cut_create();
    const char *out;
    size_t len;
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_event_cut_feed(cut, table[i].in, strlen(table[i].in), &out, &len);
        assert_ptr_equal(out, table[i].in + table[i].from);
        assert_int_equal(len, table[i].len);
    }
    weir_event_cut_feed(cut, "x\n\n" TEXT, sizeof(TEXT) + 2, &out, &len);
    assert_int_equal(len, sizeof("data: x\n\n" TEXT) - 1);
    assert_memory_equal(out, "data: x\n\n" TEXT, len);
    weir_event_cut_feed(cut, USAGE TEXT, sizeof(USAGE TEXT) - 1, &out, &len);
    assert_int_equal(len, sizeof(TEXT) - 1);
    assert_memory_equal(out, TEXT, len);
    weir_event_cut_feed(cut, NULL, 0, &out, &len);
    assert_int_equal(len, 0);
    weir_event_cut_destroy(cut);
}

static void test_the_last_output_stays_at_the_end(void **state)
{
    weir_event_cut_t *cut = weir_event_cut_create();
    const char *out, *rest;
    size_t len, rest_len;
    weir_event_cut_feed(cut, "da", 2, &out, &len);
    assert_int_equal(len, 0);
    weir_event_cut_feed(cut, "ta: x\n\ndata: {", 14, &out, &len);
    weir_event_cut_end(cut, &rest, &rest_len);
    assert_int_equal(len, 9);
    assert_memory_equal(out, "data: x\n\n", 9);
    assert_int_equal(rest_len, 7);
    assert_memory_equal(rest, "data: {", 7);
    weir_event_cut_end(cut, &rest, &rest_len);
    assert_int_equal(rest_len, 0);
    weir_event_cut_destroy(cut);
}

/* A usage chunk of just so many bytes, its empty line included. */
static void test_long_events(void **state)
{
    enum { MAX = WEIR_EVENT_HELD_MAX, PREFIX = sizeof("data: {\"choices\":[],\"usage\":{},\"x\":\"") - 1 };
    seeded_t seeded = seeded_start("long events");
    char *stream = malloc(2 * MAX + 100);
    for (size_t size = MAX - 2; size <= MAX + 2; ++size)
        for (unsigned is_crlf = 0; is_crlf < 2; ++is_crlf) {
            /* the LF of a last CRLF does not count */
            const char *end = is_crlf ? "\"}\r\n\r" : "\"}\n\n", *tail = is_crlf ? "\n" DONE : DONE;
            size_t text = size - PREFIX - strlen(end);
            memcpy(stream, "data: {\"choices\":[],\"usage\":{},\"x\":\"", PREFIX);
            memset(stream + PREFIX, 'x', text);
            sprintf(stream + PREFIX + text, "%s%s", end, tail);
            size_t len = strlen(stream);
            const char *expected = size <= MAX ? DONE : stream;
            for (size_t at = MAX - 10; at <= len; ++at)
                cut_at(stream, len, at, expected, strlen(expected));
            cut_pieces(stream, len, 1, &seeded, expected, strlen(expected));
            cut_pieces(stream, len, 10000, &seeded, expected, strlen(expected));
        }
    free(stream);
}

/* No more than so much is held, though the event does not end. */
static void test_an_event_without_end(void **state)
{
    output_t output = begin(4 * WEIR_EVENT_HELD_MAX);
    size_t fed = 22;
    feed_copy(&output, "data: {\"choices\":[],\"x", fed);
    for (unsigned i = 0; i < 2 * WEIR_EVENT_HELD_MAX; ++i) {
        feed_copy(&output, "y", 1);
        ++fed;
        assert_int_equal(output.len, fed <= WEIR_EVENT_HELD_MAX ? 0 : fed);
    }
    feed_copy(&output, "\":1,\"usage\":{}}\n\n" USAGE DONE, strlen("\":1,\"usage\":{}}\n\n" USAGE DONE));
    assert_int_equal(output.len, fed + strlen("\":1,\"usage\":{}}\n\n" DONE));
    end(&output);
    free(output.out);
}

/* They are not held, so they count for no event. */
static void test_long_comments(void **state)
{
    enum { LEN = WEIR_EVENT_HELD_MAX + 10 };
    char *stream = malloc(LEN + sizeof(USAGE DONE)), *expected = malloc(LEN + sizeof(USAGE DONE));
    memset(stream, 'x', LEN);
    stream[0] = ':';
    stream[LEN - 1] = '\n';
    memcpy(expected, stream, LEN);
    strcpy(stream + LEN, USAGE DONE);
    strcpy(expected + LEN, DONE);
    for (size_t at = 0; at <= strlen(stream); at += at < LEN - 5 ? 997 : 1)
        cut_at(stream, strlen(stream), at, expected, strlen(expected));
    free(stream);
    free(expected);
}

static void test_random_streams(void **state)
{
    static const struct {
        const char *event;
        bool stays;
    } events[] = {{ROLE, true},
                  {TEXT, true},
                  {USAGE, false},
                  {DONE, true},
                  {"\r\n", true},
                  {"\r\r", true},
                  {": ping\r\n", true},
                  {"id: 1\r\ndata: {}\r\n\r\n", true},
                  {"data: {\"choices\":[],\r\ndata: \"usage\":{}}\r\n\n", false}};
    seeded_t seeded = seeded_start("random streams");
    for (unsigned round = 0; round < 3000; ++round) {
        char stream[4096] = "", expected[4096] = "";
        for (uint64_t i = seeded_below(&seeded, 25); i > 0; --i) {
            size_t event = (size_t)seeded_below(&seeded, sizeof(events) / sizeof(*events));
            strcat(stream, events[event].event);
            strcat(expected, events[event].stays ? events[event].event : "");
        }
        cut_pieces(stream, strlen(stream), 1 + (size_t)seeded_below(&seeded, 300), &seeded, expected, strlen(expected));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_usage_chunk_goes),
        cmocka_unit_test(test_all_else_stays),
        cmocka_unit_test(test_what_is_held),
        cmocka_unit_test(test_no_copy),
        cmocka_unit_test(test_the_last_output_stays_at_the_end),
        cmocka_unit_test(test_long_events),
        cmocka_unit_test(test_an_event_without_end),
        cmocka_unit_test(test_long_comments),
        cmocka_unit_test(test_random_streams),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
