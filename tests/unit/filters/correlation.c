/* Every request has one id and one trace: its caller's where she is believed, else new ones. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "request.h"
#include "../../../filters/core/traceparent.h"

extern const weir_filter_t weir_filter_correlation;

#define TRACE_ID "4bf92f3577b34da6a3ce929d0e0e4736"
#define TRACE "00-" TRACE_ID "-00f067aa0ba902b7-01"
#define TENS "1234567890123456789012345678901234567890"
#define ID_128 TENS TENS TENS "12345678"
#define UP(id) "c X-Correlation-ID: " id "\nc X-Request-ID: " id "\n"

static void run(test_request_t *test)
{
    weir_verdict_t verdict = test_request_admit(test, &weir_filter_correlation);
    assert_int_equal(verdict.kind, WEIR_PASS);
    assert_true(verdict.retry_after_ns < 0);
}

/* ---- ids; the trace is left out ---- */

typedef struct {
    const char *fields, *kept, *id;
} id_case_t;

static void check_ids(const id_case_t *table, size_t count, bool trusted, bool accept, bool ignored)
{
    for (size_t i = 0; i < count; ++i) {
        test_request_t *test = test_request_create();
        char up[1024];
        test->conf.correlation.traceparent = false;
        test->conf.correlation.accept = accept;
        test->request.trusted = trusted;
        test_request_add(test, table[i].fields);
        run(test);
        assert_string_equal(test_text(test, test->request.correlation_id), table[i].id);
        assert_string_equal(test_request_kept(test), table[i].kept);
        snprintf(up, sizeof(up), "c X-Correlation-ID: %s\nc X-Request-ID: %s\n", table[i].id, table[i].id);
        assert_string_equal(test_request_up(test), up);
        assert_int_equal(test->request.identity_ignored, ignored);
        assert_int_equal(test->request.trace_id.len, 0);
        test_request_destroy(test);
    }
}

#define CHECK_IDS(table, trusted, accept, ignored) \
    check_ids(table, sizeof(table) / sizeof(*table), trusted, accept, ignored)

static void test_ids_of_a_trusted_peer(void **state)
{
    static const id_case_t table[] = {
        {"", "", TEST_NEW_ID},
        {"X-A: 1\nX-B: 2", "X-A: 1\nX-B: 2\n", TEST_NEW_ID},
        {"X-Correlation-ID: a", "", "a"},
        {"x-correlation-id: a", "", "a"},
        {"X-CORRELATION-ID: " ID_128, "", ID_128},
        {"X-Correlation-ID: AZaz09._:/+=@-", "", "AZaz09._:/+=@-"},
        {"X-Request-ID: b", "", "b"},
        {"X-A: 1\nX-Request-ID: b\nX-B: 2\nX-Correlation-ID: a\nX-C: 3", "X-A: 1\nX-B: 2\nX-C: 3\n", "a"},
        /* similar names are not it */
        {"X-Correlation-I: a\nX-Correlation-IDs: b\nCorrelation-ID: c\nX_Correlation_ID: d",
         "X-Correlation-I: a\nX-Correlation-IDs: b\nCorrelation-ID: c\nX_Correlation_ID: d\n", TEST_NEW_ID},
        /* what is no id; the next name is tried */
        {"X-Correlation-ID:", "", TEST_NEW_ID},
        {"X-Correlation-ID:\nX-Request-ID: b", "", "b"},
        {"X-Correlation-ID: " ID_128 "9", "", TEST_NEW_ID},
        {"X-Correlation-ID: " ID_128 "9\nX-Request-ID: b", "", "b"},
        {"X-Correlation-ID: a b", "", TEST_NEW_ID},
        {"X-Correlation-ID: a, b", "", TEST_NEW_ID},
        {"X-Correlation-ID: a%0d%0aX-Evil: 1", "", TEST_NEW_ID},
        {"X-Correlation-ID: a\rX-Evil: 1", "", TEST_NEW_ID},
        {"X-Correlation-ID: \xc3\xa9", "", TEST_NEW_ID},
        /* twice */
        {"X-Correlation-ID: a\nX-Correlation-ID: a", "", TEST_NEW_ID},
        {"X-Correlation-ID: a\nX-Request-ID: b\nX-Correlation-ID: a", "", "b"},
        {"X-Correlation-ID: a\nX-Correlation-ID:\nX-Request-ID: b", "", "b"},
        {"X-Request-ID: b\nX-Request-ID: b", "", TEST_NEW_ID},
        {"X-Request-ID: b\nX-Request-ID: b\nX-Correlation-ID: a", "", "a"},
    };
    CHECK_IDS(table, true, true, false);
}

static void test_ids_of_others_are_dropped(void **state)
{
    static const id_case_t present[] = {
        {"X-Correlation-ID: a", "", TEST_NEW_ID},
        {"X-Request-ID: a\nX-A: 1", "X-A: 1\n", TEST_NEW_ID},
        {"X-Correlation-ID: not one", "", TEST_NEW_ID},
        {"X-Correlation-ID: a\nX-Correlation-ID: b\nX-Request-ID: c", "", TEST_NEW_ID},
    };
    static const id_case_t absent[] = {{"", "", TEST_NEW_ID}, {"X-A: 1", "X-A: 1\n", TEST_NEW_ID}};
    CHECK_IDS(present, false, true, true);
    CHECK_IDS(absent, false, true, false);
    /* trust would change nothing: no one is told to trust */
    CHECK_IDS(present, true, false, false);
    CHECK_IDS(present, false, false, false);
    CHECK_IDS(absent, false, false, false);
}

static void test_every_byte_in_an_id(void **state)
{
    static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/+=@-";
    for (int byte = 0; byte < 256; ++byte)
        for (size_t at = 0; at < 3; ++at) {
            test_request_t *test = test_request_create();
            char id[] = "aaa";
            id[at] = (char)byte;
            test_request_add_bytes(test, "X-Correlation-ID", id, 3);
            run(test);
            bool is_good = memchr(good, byte, sizeof(good) - 1) != NULL;
            assert_string_equal(test_text(test, test->request.correlation_id), is_good ? id : TEST_NEW_ID);
            test_request_destroy(test);
        }
}

static void test_lengths_of_an_id(void **state)
{
    char id[10001];
    memset(id, 'a', sizeof(id));
    for (size_t len = 0; len < sizeof(id); len += len < 300 ? 1 : 97) {
        test_request_t *test = test_request_create();
        test_request_add_bytes(test, "X-Correlation-ID", id, len);
        run(test);
        bool is_kept = len >= 1 && len <= 128;
        assert_int_equal(test->request.correlation_id.len, is_kept ? len : strlen(TEST_NEW_ID));
        assert_int_equal(test->request.correlation_id.base[0], is_kept ? 'a' : '0');
        test_request_destroy(test);
    }
}

static void test_names_are_configured(void **state)
{
    static const struct {
        const char *fields, *id;
    } table[] = {
        {"X-A: a\nX-B: b\nX-C: c", "a"},
        {"X-C: c\nX-B: b", "b"},
        {"X-C: c", "c"},
        {"X-A: a\nX-A: a\nX-B: not one\nX-C: c", "c"},
        {"X-Correlation-ID: d", TEST_NEW_ID},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        test_request_t *test = test_request_create();
        char up[512];
        test->conf.correlation.header = "X-a";
        test->conf.correlation.traceparent = false;
        test->also[0] = "x-B";
        test->also[1] = "X-c";
        test->conf.correlation.also.size = 2;
        test_request_add(test, table[i].fields);
        run(test);
        snprintf(up, sizeof(up), "c X-a: %s\nc x-B: %s\nc X-c: %s\n", table[i].id, table[i].id, table[i].id);
        assert_string_equal(test_request_up(test), up); /* as they are written in the configuration */
        test_request_destroy(test);
    }
}

static void test_most_names_that_a_configuration_may_have(void **state)
{
    static const char *const also[] = {"X-0", "X-1", "X-2", "X-3", "X-4", "X-5", "X-6", "X-7"};
    test_request_t *test = test_request_create();
    memcpy(test->also, also, sizeof(also));
    test->conf.correlation.also.size = 8;
    test_request_add(test, "X-7: seven\ntraceparent: " TRACE "\ntracestate: a=1");
    run(test);
    assert_string_equal(test_request_up(test),
                        "c X-Correlation-ID: seven\nc X-0: seven\nc X-1: seven\nc X-2: seven\nc X-3: seven\n"
                        "c X-4: seven\nc X-5: seven\nc X-6: seven\nc X-7: seven\n"
                        "t traceparent: " TRACE "\nt tracestate: a=1\n");
    test_request_destroy(test);
}

static void test_without_other_names(void **state)
{
    test_request_t *test = test_request_create();
    test->conf.correlation.also.size = 0;
    test->conf.correlation.traceparent = false;
    test_request_add(test, "X-Request-ID: b");
    run(test);
    assert_string_equal(test_request_up(test), "c X-Correlation-ID: " TEST_NEW_ID "\n");
    assert_string_equal(test_request_kept(test), "X-Request-ID: b\n");
    test_request_destroy(test);
}

static void test_a_head_full_of_ids(void **state)
{
    test_request_t *test = test_request_create();
    for (size_t i = 0; i < WEIR_REQUEST_FIELDS_MAX; ++i)
        test_request_add(test, i % 2 == 0 ? "X-Correlation-ID: a" : "traceparent: " TRACE);
    run(test);
    assert_string_equal(test_request_kept(test), "");
    assert_string_equal(test_text(test, test->request.correlation_id), TEST_NEW_ID);
    test_request_destroy(test);
}

/* A request that was refused before its route was known, or before its head was read. */
static void test_without_a_route(void **state)
{
    test_request_t *test = test_request_create();
    test->request.route = NULL;
    test->request.fields = NULL;
    test->request.method = test->request.target = (weir_str_t){NULL, 0};
    run(test);
    assert_string_equal(test_text(test, test->request.correlation_id), TEST_NEW_ID);
    assert_int_equal(test->request.trace_id.len, 32);
    test_request_destroy(test);
}

/* ---- traces ---- */

#define NEW "(new)"

static const char *new_trace(const test_request_t *test)
{
    static char text[WEIR_TRACEPARENT_LENGTH + 1];
    weir_traceparent_write(text, test->request.random);
    return text;
}

static void check_trace(const char *fields, bool trusted, const char *traceparent, const char *tracestate, bool ignored)
{
    test_request_t *test = test_request_create();
    char up[1024], trace_id[33];
    test->request.trusted = trusted;
    test_request_add(test, "X-A: 1");
    test_request_add(test, fields);
    run(test);
    const char *wanted = strcmp(traceparent, NEW) == 0 ? new_trace(test) : traceparent;
    size_t at = (size_t)snprintf(up, sizeof(up), UP(TEST_NEW_ID) "t traceparent: %s\n", wanted);
    if (tracestate != NULL)
        snprintf(up + at, sizeof(up) - at, "t tracestate: %s\n", tracestate);
    assert_string_equal(test_request_up(test), up);
    assert_string_equal(test_request_kept(test), "X-A: 1\n");
    snprintf(trace_id, sizeof(trace_id), "%.32s", wanted + 3);
    assert_string_equal(test_text(test, test->request.trace_id), trace_id);
    assert_int_equal(test->request.identity_ignored, ignored);
    test_request_destroy(test);
}

static void test_traces(void **state)
{
    static const struct {
        const char *fields, *traceparent, *tracestate; /* of a trusted peer */
    } table[] = {
        {"traceparent: " TRACE, TRACE, NULL},
        {"TraceParent: " TRACE "\nTraceState: a=1", TRACE, "a=1"},
        {"tracestate: a=1,b=2\ntraceparent: " TRACE, TRACE, "a=1,b=2"},
        {"traceparent: cc-" TRACE_ID "-00f067aa0ba902b7-01-more", "cc-" TRACE_ID "-00f067aa0ba902b7-01-more", NULL},
        /* several tracestates are one */
        {"traceparent: " TRACE "\ntracestate: a=1\ntracestate: b=2", TRACE, "a=1,b=2"},
        {"tracestate: a=1, b=2\ntraceparent: " TRACE "\ntracestate:\ntracestate: c=3", TRACE, "a=1, b=2,c=3"},
        {"traceparent: " TRACE "\ntracestate:\ntracestate: b=2", TRACE, "b=2"},
        {"traceparent: " TRACE "\ntracestate: a=1\ntracestate:", TRACE, "a=1"},
        {"traceparent: " TRACE "\ntracestate:", TRACE, NULL},
        {"traceparent: " TRACE "\ntracestate:\ntracestate:", TRACE, NULL},
        /* malformed, or twice: replaced, and the state of the old one goes */
        {"traceparent:", NEW, NULL},
        {"traceparent: 00-" TRACE_ID "-00f067aa0ba902b7\ntracestate: a=1", NEW, NULL},
        {"traceparent: " TRACE "-01\ntracestate: a=1\ntracestate: b=2", NEW, NULL},
        {"traceparent: ff-" TRACE_ID "-00f067aa0ba902b7-01", NEW, NULL},
        {"traceparent: " TRACE "\ntraceparent: " TRACE "\ntracestate: a=1", NEW, NULL},
        {"traceparent: " TRACE "\ntraceparent:", NEW, NULL},
        {"tracestate: a=1", NEW, NULL},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        check_trace(table[i].fields, true, table[i].traceparent, table[i].tracestate, false);
        check_trace(table[i].fields, false, NEW, NULL, true);
    }
    check_trace("", true, NEW, NULL, false);
    check_trace("", false, NEW, NULL, false);
}

static void test_traces_that_are_none_of_our_business(void **state)
{
    static const char *const tables[] = {"", "traceparent: " TRACE "\ntracestate: a=1\n",
                                         "traceparent: x\ntraceparent: y\ntracestate: a=1\n"};
    for (size_t i = 0; i < sizeof(tables) / sizeof(*tables); ++i)
        for (int trusted = 0; trusted < 2; ++trusted) {
            test_request_t *test = test_request_create();
            test->conf.correlation.traceparent = false;
            test->request.trusted = trusted;
            test_request_add(test, tables[i]);
            run(test);
            assert_string_equal(test_request_kept(test), tables[i]);
            assert_string_equal(test_request_up(test), UP(TEST_NEW_ID));
            assert_int_equal(test->request.trace_id.len, 0);
            assert_false(test->request.identity_ignored);
            test_request_destroy(test);
        }
}

/* ---- answers ---- */

typedef struct {
    weir_answer_t answer; /* first */
    uint64_t dropped;
    char added[1024];
} test_answer_t;

static void add(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
    char *added = ((test_answer_t *)answer)->added;
    sprintf(added + strlen(added), "%.*s: %.*s\n", (int)name.len, name.base, (int)value.len, value.base);
}

static void drop(weir_answer_t *answer, size_t index)
{
    ((test_answer_t *)answer)->dropped |= (uint64_t)1 << index;
}

static void test_the_answer_carries_the_id(void **state)
{
    static const struct {
        const char *fields;
        uint64_t dropped;
    } table[] = {
        {"", 0},
        {"Content-Type: text/plain\nX-Request-ID: theirs", 0},
        {"X-Correlation-ID: theirs", 1},
        {"Date: now\nX-Correlation-ID: theirs\nX-Request-ID: theirs\nx-correlation-id: theirs", 2 + 8},
        {"x-correlation-id: mine\nX-Correlation: theirs", 1},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        test_request_t *test = test_request_create(), *upstream = test_request_create();
        test_request_add(test, "X-Request-ID: mine");
        run(test);
        test_request_add(upstream, table[i].fields); /* an answer's fields look the same */
        test_answer_t answer = {.answer = {.status = 200,
                                           .fields = upstream->request.fields,
                                           .field_count = upstream->request.field_count,
                                           .add = add,
                                           .drop = drop}};
        weir_chain_head(test->chain, &test->run, &test->request, &answer.answer);
        assert_string_equal(answer.added, "X-Correlation-ID: mine\n");
        assert_int_equal(answer.dropped, table[i].dropped);
        test_request_destroy(upstream);
        test_request_destroy(test);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids_of_a_trusted_peer),
        cmocka_unit_test(test_ids_of_others_are_dropped),
        cmocka_unit_test(test_every_byte_in_an_id),
        cmocka_unit_test(test_lengths_of_an_id),
        cmocka_unit_test(test_names_are_configured),
        cmocka_unit_test(test_most_names_that_a_configuration_may_have),
        cmocka_unit_test(test_without_other_names),
        cmocka_unit_test(test_a_head_full_of_ids),
        cmocka_unit_test(test_without_a_route),
        cmocka_unit_test(test_traces),
        cmocka_unit_test(test_traces_that_are_none_of_our_business),
        cmocka_unit_test(test_the_answer_carries_the_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
