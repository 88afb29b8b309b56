/* The meter: what an answer used, from its head and bytes as they pass, for each way in which it can end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "request.h"

extern const weir_filter_t weir_filter_meter;

static weir_conf_upstream_t upstream;
static weir_conf_limit_t limit;
static const size_t limits[] = {0};
static const weir_json_picked_t picked = {.is_object = true};

static const weir_conf_usage_weights_t one_each = {1000000, 1000000, 1000000, 1000000};

static test_request_t *begin(weir_conf_dialect_t dialect)
{
    test_request_t *test = test_request_create();
    upstream = (weir_conf_upstream_t){.name = "llm", .dialect = dialect, .usage = {.estimate = 4, .weights = one_each}};
    limit = (weir_conf_limit_t){.name = "tokens", .unit = WEIR_UNIT_LLM_TOKENS};
    test->conf.limits.entries = &limit;
    test->conf.limits.size = 1;
    test->route.limits.entries = limits;
    test->route.limits.size = 1;
    test->request.upstream = &upstream;
    test->request.body_bytes = 40;
    test->request.picked = &picked;
    return test;
}

static void answer(test_request_t *test, int status, const char *type, const char *encoding)
{
    static const weir_str_t type_name = {"content-type", 12}, encoding_name = {"content-encoding", 16};
    weir_field_t fields[2] = {{.name = &type_name, .value = {type, strlen(type)}}};
    weir_answer_t head = {.status = status, .fields = fields, .field_count = 1};
    if (encoding != NULL)
        fields[head.field_count++] = (weir_field_t){.name = &encoding_name, .value = {encoding, strlen(encoding)}};
    weir_chain_head(test->chain, &test->run, &test->request, &head);
}

static void tap(test_request_t *test, const char *bytes)
{
    weir_chain_tap(test->chain, &test->run, &test->request, (weir_str_t){bytes, strlen(bytes)});
}

/* "input cached cache_write output weighted", with ~ before what was estimated, or "none" */
static const char *end(test_request_t *test, weir_reason_t reason)
{
    static char text[128];
    weir_outcome_t outcome = {.reason = reason, .status = 200, .ran = true, .answered = true, .body_bytes = 40};
    weir_chain_done(test->chain, &test->run, &test->request, &outcome);
    const weir_usage_t *usage = &test->request.usage;
    snprintf(text, sizeof(text), "none");
    if (test->request.has_usage)
        snprintf(text, sizeof(text), "%s%d %d %d %s%d %d", usage->input_is_known ? "" : "~", (int)usage->input,
                 (int)usage->cached, (int)usage->cache_write, usage->output_is_known ? "" : "~", (int)usage->output,
                 (int)usage->weighted);
    test_request_destroy(test);
    return text;
}

static void a_reported_usage_counts(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_OPENAI);
    assert_int_equal(test_request_admit(test, &weir_filter_meter).kind, WEIR_PASS);
    answer(test, 200, "application/json; charset=utf-8", NULL);
    tap(test, "{\"choices\":[{\"message\":{\"content\":\"hello\"}}],\"usage\":{\"prompt_tokens\":100,");
    tap(test, "\"completion_tokens\":20,\"prompt_tokens_details\":{\"cached_tokens\":60}}}");
    assert_string_equal(end(test, WEIR_REASON_NONE), "40 60 0 20 120");
}

static void anthropic_streams_count_their_last_word(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_ANTHROPIC);
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "text/event-stream", NULL);
    tap(test, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,"
              "\"cache_read_input_tokens\":7,\"cache_creation_input_tokens\":3,\"output_tokens\":1}}}\n\n");
    tap(test, "event: content_block_delta\ndata: {\"delta\":{\"text\":\"hello world\"}}\n\n");
    tap(test, "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":15}}\n\n");
    assert_string_equal(end(test, WEIR_REASON_NONE), "25 7 3 15 50");
}

static void what_was_seen_of_a_cut_stream_counts(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_ANTHROPIC);
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "text/event-stream", NULL);
    tap(test, "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n");
    tap(test, "data: {\"delta\":{\"text\":\"twelve bytes\"}}\n\ndata: {\"delta\":{\"text\":\"and eighteen more!\"}}\n\n");
    assert_string_equal(end(test, WEIR_REASON_TRUNCATED), "25 0 0 ~8 33");
}

static void without_a_word_bytes_are_counted(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_OPENAI);
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "text/event-stream", NULL);
    tap(test, "data: {\"choices\":[{\"delta\":{\"content\":\"nine byte\"}}]}\n\ndata: [DONE]\n\n");
    assert_string_equal(end(test, WEIR_REASON_NONE), "~10 0 0 ~3 13");

    test = begin(WEIR_DIALECT_PLAIN);
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "text/plain", NULL);
    tap(test, "123456789");
    assert_string_equal(end(test, WEIR_REASON_NONE), "~10 0 0 ~3 13");

    test = begin(WEIR_DIALECT_OPENAI); /* compressed all the same */
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "application/json", "gzip");
    tap(test, "not json at all");
    assert_string_equal(end(test, WEIR_REASON_NONE), "~10 0 0 ~4 14");

    test = begin(WEIR_DIALECT_OPENAI); /* not what it says it is */
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "application/json", NULL);
    tap(test, "data: {}\n\n");
    assert_string_equal(end(test, WEIR_REASON_NONE), "~10 0 0 ~3 13");
}

static void embeddings_have_no_output(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_OPENAI);
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "application/json", NULL);
    tap(test, "{\"data\":[{\"embedding\":[0.1,0.2]}],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}");
    assert_string_equal(end(test, WEIR_REASON_NONE), "8 0 0 0 8");
}

static void errors_and_nothing_cost_nothing(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_OPENAI);
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 429, "application/json", NULL);
    tap(test, "{\"error\":{\"message\":\"slow down\"}}");
    assert_string_equal(end(test, WEIR_REASON_NONE), "none");

    test = begin(WEIR_DIALECT_OPENAI);
    (void)test_request_admit(test, &weir_filter_meter);
    assert_string_equal(end(test, WEIR_REASON_TIMEOUT_FIRST_BYTE), "none");

    test = begin(WEIR_DIALECT_PLAIN); /* nobody limits its tokens */
    limit.unit = WEIR_UNIT_REQUESTS;
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "text/plain", NULL);
    tap(test, "123456789");
    assert_string_equal(end(test, WEIR_REASON_NONE), "none");

    test = begin(WEIR_DIALECT_OPENAI); /* no body, such as a list of models */
    test->request.body_bytes = 0;
    test->request.picked = NULL;
    assert_int_equal(test_request_admit(test, &weir_filter_meter).kind, WEIR_PASS);
    answer(test, 200, "application/json", NULL);
    assert_string_equal(end(test, WEIR_REASON_NONE), "none");
}

static void weights_weigh(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_ANTHROPIC);
    upstream.usage.weights = (weir_conf_usage_weights_t){1000000, 100000, 1250000, 5000000};
    (void)test_request_admit(test, &weir_filter_meter);
    answer(test, 200, "application/json", NULL);
    tap(test, "{\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":11,\"cache_creation_input_tokens\":4,\"output_tokens\":3}}");
    assert_string_equal(end(test, WEIR_REASON_NONE), "10 11 4 3 32"); /* 10 + 1.1 + 5 + 15, rounded up */
}

static void it_asks_for_the_body_and_for_identity(void **state)
{
    test_request_t *test = begin(WEIR_DIALECT_OPENAI);
    test->request.picked = NULL;
    test_request_add(test, "Accept-Encoding: gzip\nAccept: */*\n");
    assert_int_equal(test_request_admit(test, &weir_filter_meter).kind, WEIR_NEED_BODY);
    test->request.picked = &picked;
    assert_int_equal(weir_chain_wake(test->chain, &test->run, &test->request).kind, WEIR_PASS);
    assert_string_equal(test_request_kept(test), "Accept: */*\n");
    assert_int_equal(test->request.up_field_count, 1);
    assert_int_equal(test->request.up_fields[0].forward, WEIR_FORWARD_ALWAYS);
    assert_memory_equal(test->request.up_fields[0].value.base, "identity", 8);
    (void)end(test, WEIR_REASON_CLIENT_GONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reported_usage_counts),
        cmocka_unit_test(anthropic_streams_count_their_last_word),
        cmocka_unit_test(what_was_seen_of_a_cut_stream_counts),
        cmocka_unit_test(without_a_word_bytes_are_counted),
        cmocka_unit_test(embeddings_have_no_output),
        cmocka_unit_test(errors_and_nothing_cost_nothing),
        cmocka_unit_test(weights_weigh),
        cmocka_unit_test(it_asks_for_the_body_and_for_identity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
