/* Limits around dedup: on a route with dedup those in llm_tokens are decided after it, all others before; a duplicate uses
 * its request limits, and no tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "limited.h"
#include "../../../filters/dedup.h"
#include "../../../filters/stream.h"

extern const weir_filter_t weir_filter_dedup, weir_filter_budget;

static const weir_filter_t *const filters[] = {&weir_filter_limit, &weir_filter_dedup, &weir_filter_budget};
static weir_conf_dedup_key_t by_header[] = {{WEIR_DEDUP_KEY_HEADER, "Idempotency-Key"}};
static const char *post[] = {"POST"};
static weir_conf_dedup_t dedup;
static weir_store_t *store;
static weir_chain_t *chain;

enum { WITH_DEDUP, WITHOUT };

static int set_up_all(void **state)
{
    set_up(state);
    dedup = (weir_conf_dedup_t){.name = "orders",
                                .key = {by_header, 1},
                                .methods = {post, 1},
                                .window_ns = D,
                                .keep_responses_ns = D,
                                .lease_ns = S,
                                .max_response_bytes = 100000,
                                .memory_bytes = 1000000,
                                .max_keys = 1000,
                                .bloom = {1000, 1e-6},
                                .exact = true};
    dedup.keep_statuses.bits[(200 - 100) / 64] |= (uint64_t)1 << (200 - 100) % 64;
    setup.conf.dedup.entries = &dedup;
    setup.conf.dedup.size = 1;
    for (size_t i = 0; i < ROUTES; ++i)
        setup.routes[i].dedup = i == WITH_DEDUP ? 0 : SIZE_MAX;
    in_unit(add_bucket("requests", 10, D, 10), WEIR_UNIT_REQUESTS);
    in_unit(add_bucket("tokens", 1000, D, 1000), WEIR_UNIT_LLM_TOKENS);
    in_unit(add_bucket("bytes", 100000, D, 100000), WEIR_UNIT_REQUEST_BYTES);
    store = weir_memory_store_create(secret, (weir_store_teller_t){note_told, NULL});
    memset(decided, 0, sizeof(decided));
    told[0] = '\0';
    return 0;
}

static void begin(void)
{
    chain = weir_chain_create_of(filters, 3, &setup.conf, store);
}

static int tear_down(void **state)
{
    weir_chain_destroy(chain);
    store->destroy(store);
    return 0;
}

static void ignore_decided(const weir_request_t *request, size_t dedup, weir_dedup_result_t result)
{
}

static void ignore_false_positive(const weir_request_t *request, size_t dedup)
{
}

static const weir_observer_t all_observer = {count_decided,  count_overflowed, note_queue_left,
                                             ignore_decided, NULL,             ignore_false_positive};

typedef struct {
    asked_t asked;
    weir_chain_run_t run;
    weir_stream_reader_t reader;
    weir_verdict_t verdict;
} called_t;

static weir_verdict_kind_t call(called_t *called, size_t route, weir_str_t key)
{
    memset(called, 0, sizeof(*called));
    prepare(&called->asked, STR("acme"), S);
    weir_request_t *request = &called->asked.request;
    request->route = &setup.routes[route];
    request->method = STR("POST");
    request->target = STR("/");
    request->observer = &all_observer;
    request->reader = &called->reader;
    request->body = STR("{\"model\":\"m\",\"max_tokens\":300,\"input\":\"sixteen bytes...\"}");
    request->body_bytes = (int64_t)request->body.len;
    called->asked.picked = (weir_json_picked_t){.max_tokens = 300};
    request->picked = &called->asked.picked;
    if (key.len != 0)
        add_field(&called->asked, STR("idempotency-key"), key);
    called->verdict = weir_chain_admit(chain, &called->run, request);
    return called->verdict.kind;
}

static void end(called_t *called, int64_t tokens)
{
    weir_request_t *request = &called->asked.request;
    bool ran = called->verdict.kind == WEIR_PASS;
    weir_outcome_t outcome = {.reason = called->verdict.reason,
                              .status = called->verdict.kind == WEIR_ANSWER ? called->verdict.status : 200,
                              .now_ns = request->now_ns,
                              .ran = ran,
                              .sent = ran,
                              .answered = ran,
                              .body_bytes = request->body_bytes};
    request->has_usage = ran;
    request->usage.weighted = tokens;
    if (ran && request->lead != NULL)
        weir_stream_begin(request->lead, "head", 4);
    weir_chain_done(chain, &called->run, request, &outcome);
    weir_stream_leave(&called->reader);
}

typedef struct {
    int64_t requests, tokens, bytes;
} left_t;

static left_t left_of(size_t route)
{
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    asked_t asked;
    left_t left = {-1, -1, -1};
    prepare(&asked, STR("acme"), S);
    asked.request.route = &setup.routes[route];
    asked.request.body_bytes = 1;
    asked.picked = (weir_json_picked_t){.max_tokens = 0};
    asked.request.picked = &asked.picked;
    size_t count = weir_limit_explain(chain, &asked.request, explained);
    assert_int_equal(count, 3); /* both parts */
    for (size_t i = 0; i < count; ++i)
        *(strcmp(explained[i].limit->name, "requests") == 0 ? &left.requests
          : strcmp(explained[i].limit->name, "tokens") == 0 ? &left.tokens
                                                            : &left.bytes) = explained[i].item.remaining;
    return left;
}

static void assert_left(size_t route, int64_t requests, int64_t tokens)
{
    left_t left = left_of(route);
    assert_int_equal(left.requests, requests);
    assert_int_equal(left.tokens, tokens);
}

static void test_a_duplicate_uses_requests_and_no_tokens(void **state)
{
    static const weir_conf_on_duplicate_t on_duplicates[] = {WEIR_ON_DUPLICATE_REPLAY, WEIR_ON_DUPLICATE_ACKNOWLEDGE,
                                                             WEIR_ON_DUPLICATE_REJECT};
    for (size_t i = 0; i < 3; ++i) {
        dedup.name = (const char *[]){"a", "b", "c"}[i];
        dedup.on_duplicate = on_duplicates[i];
        begin();
        called_t first, second;
        left_t before = left_of(WITH_DEDUP);
        assert_int_equal(call(&first, WITH_DEDUP, STR("k")), WEIR_PASS);
        end(&first, 100);
        assert_left(WITH_DEDUP, before.requests - 1, before.tokens - 100);
        for (int j = 1; j < 3; ++j) {
            assert_int_equal(call(&second, WITH_DEDUP, STR("k")), i == 0 ? WEIR_SHARE : WEIR_ANSWER);
            end(&second, 0);
            assert_left(WITH_DEDUP, before.requests - 1 - j, before.tokens - 100);
        }
        assert_int_equal(left_of(WITH_DEDUP).bytes, before.bytes - 3 * (int64_t)first.asked.request.body_bytes);
        if (i != 2)
            weir_chain_destroy(chain);
    }
}

static void test_every_refusal_for_its_key_uses_requests(void **state)
{
    dedup.in_flight = WEIR_IN_FLIGHT_REJECT;
    dedup.on_unknown = WEIR_ON_UNKNOWN_REJECT;
    begin();
    called_t first, second;
    assert_int_equal(call(&first, WITH_DEDUP, STR("k")), WEIR_PASS);
    assert_int_equal(call(&second, WITH_DEDUP, STR("k")), WEIR_ANSWER);
    assert_int_equal(second.verdict.reason, WEIR_REASON_IN_FLIGHT);
    end(&second, 0);
    assert_int_equal(left_of(WITH_DEDUP).requests, 8);
    weir_outcome_t lost = {.reason = WEIR_REASON_RESET, .now_ns = S, .ran = true, .sent = true};
    weir_chain_done(chain, &first.run, &first.asked.request, &lost);
    weir_stream_leave(&first.reader);
    assert_int_equal(call(&second, WITH_DEDUP, STR("k")), WEIR_ANSWER);
    assert_int_equal(second.verdict.reason, WEIR_REASON_UNKNOWN_OUTCOME);
    end(&second, 0);
    assert_int_equal(left_of(WITH_DEDUP).requests, 7);
    assert_int_equal(call(&second, WITH_DEDUP, STR("\x01")), WEIR_ANSWER);
    assert_int_equal(second.verdict.reason, WEIR_REASON_KEY_INVALID);
    end(&second, 0);
    assert_int_equal(left_of(WITH_DEDUP).requests, 6);
    assert_int_equal(left_of(WITH_DEDUP).tokens, 1000);
}

static void test_a_budget_that_is_spent_gives_back_the_rest_and_the_key(void **state)
{
    begin();
    called_t called, waiter;
    assert_int_equal(call(&called, WITH_DEDUP, STR("k")), WEIR_PASS);
    end(&called, 900);
    assert_left(WITH_DEDUP, 9, 100);
    assert_int_equal(call(&called, WITH_DEDUP, STR("l")), WEIR_ANSWER);
    assert_int_equal(called.verdict.reason, WEIR_REASON_LIMIT);
    assert_string_equal(called.verdict.violated[0], "tokens");
    assert_non_null(called.asked.request.lead); /* whoever shares it now is told by its end */
    assert_int_equal(call(&waiter, WITH_DEDUP, STR("l")), WEIR_SHARE);
    end(&called, 0);
    weir_stream_view_t view;
    weir_stream_look(&waiter.reader, &view);
    assert_int_equal(view.state, WEIR_STREAM_LOST);
    waiter.verdict = weir_chain_wake(chain, &waiter.run, &waiter.asked.request); /* leads, and is refused as well */
    assert_int_equal(waiter.verdict.kind, WEIR_ANSWER);
    assert_int_equal(waiter.verdict.reason, WEIR_REASON_LIMIT);
    end(&waiter, 0);
    assert_left(WITH_DEDUP, 9, 100);
    assert_int_equal(call(&called, WITH_DEDUP, STR("k")), WEIR_SHARE); /* what is done needs no tokens */
    end(&called, 0);
    assert_left(WITH_DEDUP, 8, 100);
}

static void test_requests_that_are_refused_claim_nothing(void **state)
{
    begin();
    called_t called;
    for (int i = 0; i < 10; ++i) {
        assert_int_equal(call(&called, WITH_DEDUP, STR("k")), i == 0 ? WEIR_PASS : WEIR_SHARE);
        end(&called, 10);
    }
    assert_int_equal(call(&called, WITH_DEDUP, STR("l")), WEIR_ANSWER);
    assert_string_equal(called.verdict.violated[0], "requests");
    end(&called, 0);
    weir_store_dedup_told_t told;
    assert_true(store->dedup_tell(store, "orders", S, &told));
    assert_int_equal(told.keys, 1);
    assert_left(WITH_DEDUP, 0, 990);
}

static void test_without_dedup_all_are_one_decision(void **state)
{
    begin();
    called_t called;
    assert_int_equal(call(&called, WITHOUT, STR("k")), WEIR_PASS);
    end(&called, 950);
    assert_left(WITHOUT, 9, 50);
    decided[WEIR_DECISION_ADMITTED] = 0;
    assert_int_equal(call(&called, WITHOUT, STR("k")), WEIR_ANSWER);
    assert_int_equal(called.verdict.violated_count, 1);
    assert_string_equal(called.verdict.violated[0], "tokens");
    assert_int_equal(called.run.entered, 1); /* in the first part, where nothing was charged */
    assert_int_equal(decided[WEIR_DECISION_ADMITTED], 0);
    end(&called, 0);
    assert_left(WITHOUT, 9, 50);
    for (int i = 0; i < 9; ++i) {
        called.asked.request.picked = NULL;
        assert_int_equal(call(&called, WITHOUT, STR("k")), WEIR_ANSWER);
        end(&called, 0);
    }
    assert_left(WITHOUT, 9, 50);
}

static void test_both_parts_are_one_state(void **state)
{
    begin();
    called_t called;
    assert_int_equal(call(&called, WITH_DEDUP, STR("k")), WEIR_PASS);
    end(&called, 100);
    assert_int_equal(call(&called, WITHOUT, STR("k")), WEIR_PASS);
    end(&called, 100);
    assert_left(WITHOUT, 8, 800);
    assert_left(WITH_DEDUP, 8, 800);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up_all, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_duplicate_uses_requests_and_no_tokens),
        TEST(test_every_refusal_for_its_key_uses_requests),
        TEST(test_a_budget_that_is_spent_gives_back_the_rest_and_the_key),
        TEST(test_requests_that_are_refused_claim_nothing),
        TEST(test_without_dedup_all_are_one_decision),
        TEST(test_both_parts_are_one_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
