/* The limit filter on its own: requests made by hand, the store in memory, and a store that answers later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "limited.h"

static void test_fields_and_refusal(void **state)
{
    add_bucket("per-tenant", 50, S, 100);
    add_window("hourly", 3, 3600 * S + 1);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    assert_int_equal(ask(filter, &asked, STR("acme"), S).kind, WEIR_PASS);
    assert_string_equal(asked.policy, "\"hourly\";q=3;w=3601, \"per-tenant\";q=100;w=2");
    assert_string_equal(asked.limits, "\"hourly\";r=2;t=3660, \"per-tenant\";r=99;t=1");
    assert_true(passes(filter, STR("acme"), S));
    assert_true(passes(filter, STR("acme"), S));
    weir_verdict_t verdict = ask(filter, &asked, STR("acme"), 2 * S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.status, 429);
    assert_int_equal(verdict.violated_count, 1);
    assert_string_equal(verdict.violated[0], "hourly");
    assert_string_equal(asked.limits, "\"hourly\";r=0;t=3659, \"per-tenant\";r=100;t=0");
    assert_false(passes(filter, STR("acme"), 2 * S + verdict.retry_after_ns - 1));
    assert_true(passes(filter, STR("other"), 2 * S));
    assert_true(passes(filter, STR("acme"), 2 * S + verdict.retry_after_ns)); /* a retry then is admitted */
    assert_int_equal(decided[WEIR_DECISION_ADMITTED], 5 * 2);
    assert_int_equal(decided[WEIR_DECISION_REFUSED], 2);
    assert_int_equal(decided[WEIR_DECISION_SHADOW_REFUSED] + overflowed, 0);
    stop(store, filter);
}

static void test_the_longest_wait_of_those_that_refused(void **state)
{
    add_bucket("second", 1, S, 1);
    add_bucket("minute", 1, M, 1);
    add_bucket("day", 2, D, 2);
    setup.routes[0].on_limit.status = 503;
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    assert_true(passes(filter, STR("acme"), S));
    weir_verdict_t verdict = ask(filter, &asked, STR("acme"), S);
    assert_int_equal(verdict.violated_count, 2);
    assert_string_equal(verdict.violated[0], "second");
    assert_string_equal(verdict.violated[1], "minute");
    assert_int_equal(verdict.retry_after_ns, M);
    assert_int_equal(verdict.status, 503);
    assert_string_equal(asked.policy, "\"second\";q=1;w=1, \"minute\";q=1;w=60, \"day\";q=2;w=86400");
    assert_string_equal(asked.limits, "\"second\";r=0;t=1, \"minute\";r=0;t=60, \"day\";r=1;t=43200");
    stop(store, filter);
}

static void test_a_rate_of_0_says_an_hour(void **state)
{
    add_bucket("none", 0, S, 1);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    weir_verdict_t verdict = ask(filter, &asked, STR("acme"), S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.retry_after_ns, 3600 * S);
    assert_string_equal(asked.policy, "\"none\";q=1");
    assert_string_equal(asked.limits, "\"none\";r=0;t=3600");
    stop(store, filter);
}

static void test_tenants_have_quotas_of_their_own(void **state)
{
    static weir_conf_override_t overrides[] = {{"acm", {{0, S}, 1, 0, 0}},
                                               {"acme", {{500, S}, 1000000000, 0, 0}},
                                               {"acme1", {{1, D}, 1, 0, 0}},
                                               {"b", {{7, D}, 7, 0, 0}}};
    weir_conf_limit_t *limit = add_bucket("limit", 3, S, 3);
    limit->tenants.entries = overrides;
    limit->tenants.size = 4;
    void *filter;
    weir_store_t *store = start(&filter);
    static const struct {
        weir_str_t tenant;
        const char *policy;
    } rows[] = {
        {{"acm", 3}, "\"limit\";q=1"},           {{"acme", 4}, "\"limit\";q=1000000000;w=2000000"},
        {{"acme1", 5}, "\"limit\";q=1;w=86400"}, {{"acme2", 5}, "\"limit\";q=3;w=1"},
        {{"b", 1}, "\"limit\";q=7;w=86400"},     {{"a", 1}, "\"limit\";q=3;w=1"},
        {{"c", 1}, "\"limit\";q=3;w=1"},         {{"ac", 2}, "\"limit\";q=3;w=1"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        asked_t asked;
        assert_int_equal(ask(filter, &asked, rows[i].tenant, 0).kind, i == 0 ? WEIR_ANSWER : WEIR_PASS);
        assert_string_equal(asked.policy, rows[i].policy);
    }
    stop(store, filter);
}

static void test_shadow_limits_refuse_nothing_and_are_not_told(void **state)
{
    add_bucket("shadow", 1, D, 1)->mode = WEIR_LIMIT_SHADOW;
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    for (int i = 0; i < 5; ++i) {
        assert_int_equal(ask(filter, &asked, STR("acme"), 0).kind, WEIR_PASS);
        assert_int_equal(asked.added, 0);
    }
    assert_int_equal(decided[WEIR_DECISION_ADMITTED], 1);
    assert_int_equal(decided[WEIR_DECISION_SHADOW_REFUSED], 4);
    stop(store, filter);
    add_window("enforced", 2, S);
    store = start(&filter);
    assert_int_equal(ask(filter, &asked, STR("acme"), 0).kind, WEIR_PASS);
    assert_string_equal(asked.policy, "\"enforced\";q=2;w=1");
    assert_int_equal(ask(filter, &asked, STR("acme"), 0).kind, WEIR_PASS);
    weir_verdict_t verdict = ask(filter, &asked, STR("acme"), 0);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.violated_count, 1);
    assert_string_equal(verdict.violated[0], "enforced");
    stop(store, filter);
}

static void test_routes_without_limits_pass(void **state)
{
    add_bucket("limit", 0, S, 1);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    prepare(&asked, STR("acme"), 0);
    asked.request.route = NULL;
    assert_int_equal(admit(filter, &asked).kind, WEIR_PASS);
    done(filter, &asked, WEIR_REASON_NO_ROUTE, false);
    prepare(&asked, STR("acme"), 0);
    asked.request.route = &setup.routes[ROUTES - 1];
    asked.request.observer = NULL;
    assert_int_equal(admit(filter, &asked).kind, WEIR_PASS);
    done(filter, &asked, WEIR_REASON_NONE, true);
    assert_int_equal(asked.added + asked.memory_used, 0);
    stop(store, filter);
}

static void test_a_limit_that_is_named_twice_counts_once(void **state)
{
    add_bucket("limit", 1, D, 2);
    setup.named[1] = 0;
    setup.routes[0].limits.size = 2;
    void *filter;
    weir_store_t *store = start(&filter);
    assert_true(passes(filter, STR("acme"), 0));
    assert_true(passes(filter, STR("acme"), 0));
    assert_false(passes(filter, STR("acme"), 0));
    stop(store, filter);
}

/* Keys: each row is a request; those with the same number have one key, others have not. */
typedef struct {
    int number;
    const char *tenant, *client_ip;
    size_t route;
    const char *values[3]; /* of the header */
} key_row_t;

static weir_str_t text(const char *text)
{
    return (weir_str_t){text, strlen(text)};
}

static bool key_passes(void *filter, const key_row_t *row)
{
    asked_t asked;
    prepare(&asked, text(row->tenant), 0);
    asked.request.client_ip = text(row->client_ip);
    asked.request.route = &setup.routes[row->route];
    for (size_t i = 0; i < 3 && row->values[i] != NULL; ++i) {
        add_field(&asked, STR("x-other"), STR("ignored"));
        add_field(&asked, STR("x-user"), text(row->values[i]));
    }
    bool is_admitted = admit(filter, &asked).kind == WEIR_PASS;
    done(filter, &asked, WEIR_REASON_NONE, true);
    return is_admitted;
}

static void check_keys(const weir_conf_key_part_t *parts, size_t part_count, const key_row_t *rows, size_t count)
{
    set_key(add_bucket("limit", 1, D, 1), parts, part_count);
    void *filter;
    weir_store_t *store = start(&filter);
    int seen = 0;
    for (size_t i = 0; i < count; ++i) {
        assert_int_equal(key_passes(filter, &rows[i]), rows[i].number > seen);
        seen = rows[i].number > seen ? rows[i].number : seen;
    }
    stop(store, filter);
}

static char long_a[5001], long_b[5001];

static void test_keys_of_all_parts(void **state)
{
    static const weir_conf_key_part_t parts[] = {
        {WEIR_KEY_TENANT, NULL}, {WEIR_KEY_HEADER, "X-User"}, {WEIR_KEY_CLIENT_IP, NULL}, {WEIR_KEY_ROUTE, NULL}};
    memset(long_a, 'a', 5000);
    memset(long_b, 'a', 4999);
    long_b[4999] = 'b';
    const key_row_t rows[] = {
        {1, "a", "::1", 0, {"b"}},      {1, "a", "::1", 0, {"b"}},       {2, "a", "::1", 1, {"b"}},
        {3, "b", "::1", 0, {"b"}},      {4, "a", "::2", 0, {"b"}},       {5, "a", "::1", 0, {"c"}},
        {6, "a", "::1", 0, {""}},       {7, "a", "::1", 0, {NULL}},      {8, "a", "::1", 0, {"b", "c"}},
        {9, "a", "::1", 0, {"c", "b"}}, {10, "a", "::1", 0, {"b", "b"}}, {11, "a", "::1", 0, {"b", "c", "d"}},
        {8, "a", "::1", 0, {"b", "c"}}, {12, "a", "::1", 0, {"", ""}},   {13, "ab", "::1", 0, {""}},
        {14, "a", "::1", 0, {long_a}},  {15, "a", "::1", 0, {long_b}},   {14, "a", "::1", 0, {long_a}},
        {16, "", "", 0, {""}},          {17, "a", "", 0, {"b::1"}},
    };
    check_keys(parts, 4, rows, sizeof(rows) / sizeof(*rows));
}

static void test_parts_do_not_run_into_each_other(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_TENANT, NULL}, {WEIR_KEY_CLIENT_IP, NULL}};
    static const key_row_t rows[] = {{1, "a", "b:c", 0, {NULL}},  {2, "a:b", "c", 0, {NULL}},
                                     {3, "a:b:", "c", 0, {NULL}}, {4, "ab", "c", 0, {NULL}},
                                     {5, "a", "bc", 0, {NULL}},   {1, "a", "b:c", 1, {"z"}}};
    check_keys(parts, 2, rows, 6);
}

static void test_an_absent_header_leaves_no_room_for_the_next_one(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_HEADER, "X-A"}, {WEIR_KEY_HEADER, "X-B"}};
    set_key(add_bucket("limit", 1, D, 1), parts, 2);
    void *filter;
    weir_store_t *store = start(&filter);
    for (int i = 0; i < 4; ++i) {
        asked_t asked;
        prepare(&asked, STR("acme"), 0);
        add_field(&asked, i % 2 ? STR("x-a") : STR("x-b"), STR("v"));
        assert_int_equal(admit(filter, &asked).kind, i < 2 ? WEIR_PASS : WEIR_ANSWER);
        done(filter, &asked, WEIR_REASON_NONE, true);
    }
    stop(store, filter);
}

static void test_no_parts_is_one_key_for_all(void **state)
{
    static const key_row_t rows[] = {{1, "a", "b", 0, {NULL}}, {1, "c", "d", 1, {"x"}}};
    check_keys(NULL, 0, rows, 2);
}

/* A header that an untrusted peer may not set is absent, whatever it says; his credential is believed. */
static void test_dropped_identity_is_absent(void **state)
{
    static const weir_conf_key_part_t by_header[] = {{WEIR_KEY_HEADER, "X-Tenant-ID"}, {WEIR_KEY_HEADER, "x-api-KEY"}};
    set_key(add_bucket("claimed", 1, D, 2), &by_header[0], 1);
    set_key(add_bucket("credential", 1, D, 1), &by_header[1], 1);
    void *filter;
    weir_store_t *store = start(&filter);
    static const struct {
        bool ignored, passes;
        const char *key, *tenant;
    } rows[] = {{true, true, "k1", "t1"},  {true, false, "k1", "t2"}, {true, true, "k2", "t2"},
                {true, false, "k3", "t3"}, {false, true, "k3", "t3"}, {false, true, "k4", "t4"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        asked_t asked;
        prepare(&asked, STR("acme"), 0);
        add_field(&asked, STR("x-api-key"), text(rows[i].key));
        add_field(&asked, STR("x-tenant-id"), text(rows[i].tenant));
        weir_request_drop(&asked.request, 0); /* neither goes upstream under its own name */
        weir_request_drop(&asked.request, 1);
        asked.request.identity_ignored = rows[i].ignored;
        assert_int_equal(admit(filter, &asked).kind == WEIR_PASS, rows[i].passes);
        done(filter, &asked, WEIR_REASON_NONE, true);
    }
    stop(store, filter);
}

static void test_a_route_is_the_same_after_a_reload_that_moved_it(void **state)
{
    static const weir_conf_key_part_t by_route[] = {{WEIR_KEY_ROUTE, NULL}};
    set_key(add_bucket("limit", 1, D, 1), by_route, 1);
    void *filter, *moved;
    weir_store_t *store = start(&filter);
    assert_true(passes(filter, STR("acme"), 0));
    setup.routes[0].path = "/new";
    setup.routes[1].path = "/";
    moved = weir_filter_limit.create(&setup.conf, store);
    weir_filter_limit.destroy(filter);
    assert_true(passes(moved, STR("acme"), 0));
    asked_t asked;
    prepare(&asked, STR("acme"), 0);
    asked.request.route = &setup.routes[1];
    assert_int_equal(admit(moved, &asked).kind, WEIR_ANSWER);
    stop(store, moved);
}

/* Models and correlation ids */

static bool model_passes(void *filter, const weir_json_picked_t *picked)
{
    asked_t asked;
    prepare(&asked, STR("acme"), 0);
    asked.request.body_bytes = picked != NULL ? 100 : 0;
    weir_verdict_t verdict = admit(filter, &asked);
    if (picked != NULL) {
        assert_int_equal(verdict.kind, WEIR_NEED_BODY);
        assert_int_equal(asked.added, 0);
        asked.request.picked = picked;
        verdict = wake(filter, &asked, 0);
    }
    done(filter, &asked, WEIR_REASON_NONE, true);
    return verdict.kind == WEIR_PASS;
}

static weir_json_picked_t model(const char *name)
{
    weir_json_picked_t picked = {.is_object = true, .model_len = strlen(name), .max_tokens = -1};
    memcpy(picked.model, name, picked.model_len);
    return picked;
}

static void test_keys_by_model(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_MODEL, NULL}, {WEIR_KEY_TENANT, NULL}};
    set_key(add_bucket("limit", 1, D, 1), parts, 2);
    void *filter;
    weir_store_t *store = start(&filter);
    weir_json_picked_t gpt = model("gpt-5"), claude = model("claude"), none = model(""), is_long = model("");
    weir_json_picked_t unreadable = {.is_unreadable = true, .max_tokens = -1};
    is_long.model_is_long = true;
    assert_true(model_passes(filter, &gpt));
    assert_true(model_passes(filter, &claude));
    assert_true(model_passes(filter, &is_long));
    assert_true(model_passes(filter, &unreadable));
    assert_true(model_passes(filter, &none));
    assert_false(model_passes(filter, &unreadable));
    assert_false(model_passes(filter, NULL)); /* no body, no model */
    assert_false(model_passes(filter, &is_long));
    assert_false(model_passes(filter, &gpt));
    weir_json_picked_t longest = {.model_len = WEIR_MODEL_BYTES_MAX};
    memset(longest.model, 'm', WEIR_MODEL_BYTES_MAX);
    assert_true(model_passes(filter, &longest));
    assert_false(model_passes(filter, &longest));
    stop(store, filter);
}

static void test_keys_by_correlation(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_CORRELATION, NULL}};
    static const weir_str_t ids[] = {{"a", 1}, {"b", 1}, {"a", 1}};
    set_key(add_bucket("limit", 1, D, 1), parts, 1);
    void *filter;
    weir_store_t *store = start(&filter);
    for (size_t i = 0; i < 3; ++i) {
        asked_t asked;
        prepare(&asked, STR("acme"), 0);
        asked.request.correlation_id = ids[i];
        asked.request.body_bytes = -1; /* the body is none of its business */
        assert_int_equal(admit(filter, &asked).kind, i < 2 ? WEIR_PASS : WEIR_ANSWER);
        done(filter, &asked, WEIR_REASON_NONE, true);
    }
    stop(store, filter);
}

/* Who sends no id begins a chain, of which nothing is used yet: no row is kept of it. */
static void test_the_first_of_a_chain_costs_it_nothing(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_CORRELATION, NULL}};
    set_key(add_bucket("requests", 1, D, 1), parts, 1);
    set_key(add_slots("slots", 1, 0, 0), parts, 1);
    set_key(in_unit(add_bucket("tokens", 1, D, 100), WEIR_UNIT_LLM_TOKENS), parts, 1);
    set_key(in_unit(add_bucket("bytes", 1, D, 100), WEIR_UNIT_REQUEST_BYTES), parts, 1);
    void *filter;
    weir_store_t *store = start(&filter);
    for (int i = 0; i < 5; ++i) {
        asked_t asked;
        bool is_new = i != 3;
        prepare(&asked, STR("acme"), 0);
        asked.request.correlation_is_new = is_new;
        asked.request.correlation_id = is_new ? STR("made by weir") : STR("c-1");
        asked.request.body_bytes = 80;
        asked.request.picked = &asked.picked;
        assert_int_equal(admit(filter, &asked).kind, WEIR_PASS);
        assert_string_equal(asked.limits,
                            is_new ? "\"requests\";r=1;t=0, \"slots\";r=1" : "\"requests\";r=0;t=86400, \"slots\";r=0");
        asked.request.has_usage = true;
        asked.request.usage.weighted = 70;
        done(filter, &asked, WEIR_REASON_NONE, true);
        for (size_t j = 0; j < 4; ++j)
            assert_int_equal(store->limit_keys(store, setup.limits[j].name), i >= 3);
    }
    asked_t asked;
    prepare(&asked, STR("acme"), 0);
    asked.request.body_bytes = 20;
    asked.request.picked = &asked.picked;
    weir_verdict_t verdict = admit(filter, &asked); /* one that was begun goes on being counted */
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_string_equal(verdict.violated[0], "requests");
    stop(store, filter);
}

static void test_a_rate_of_0_refuses_the_first_of_a_chain_too(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_CORRELATION, NULL}};
    set_key(add_bucket("none", 0, S, 1), parts, 1);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    prepare(&asked, STR("acme"), 0);
    asked.request.correlation_is_new = true;
    assert_int_equal(admit(filter, &asked).kind, WEIR_ANSWER);
    stop(store, filter);
}

/* request_bytes */

/* The whole body comes first where its length was not told. */
static weir_verdict_t upload(void *filter, asked_t *asked, int64_t declared, int64_t came, weir_reason_t reason,
                             int64_t now_ns)
{
    prepare(asked, STR("acme"), now_ns);
    asked->request.body_bytes = declared;
    weir_verdict_t verdict = admit(filter, asked);
    assert_int_equal(verdict.kind == WEIR_NEED_BODY, declared < 0);
    asked->request.body_bytes = came;
    if (verdict.kind == WEIR_NEED_BODY) {
        asked->request.picked = &asked->picked;
        verdict = wake(filter, asked, now_ns);
    }
    done(filter, asked, verdict.kind == WEIR_PASS ? reason : verdict.reason, reason != WEIR_REASON_OVERLOADED);
    return verdict;
}

static void test_bytes_that_are_uploaded(void **state)
{
    in_unit(add_bucket("bytes", 100, S, 1000), WEIR_UNIT_REQUEST_BYTES);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    assert_int_equal(upload(filter, &asked, 1000, 1000, WEIR_REASON_NONE, S).kind, WEIR_PASS);
    assert_int_equal(asked.added, 0); /* only limits in requests are told */
    weir_verdict_t verdict = upload(filter, &asked, 500, 0, WEIR_REASON_NONE, S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.retry_after_ns, 5 * S);
    assert_int_equal(asked.added, 0);
    assert_int_equal(upload(filter, &asked, 0, 0, WEIR_REASON_NONE, S).kind, WEIR_PASS);
    assert_int_equal(upload(filter, &asked, 1001, 0, WEIR_REASON_NONE, S).retry_after_ns, 3600 * S);
    assert_int_equal(upload(filter, &asked, -1, 1001, WEIR_REASON_NONE, 20 * S).retry_after_ns, 3600 * S);
    assert_int_equal(upload(filter, &asked, -1, 600, WEIR_REASON_CLIENT_GONE, 20 * S).kind, WEIR_PASS);
    assert_int_equal(upload(filter, &asked, -1, 401, WEIR_REASON_NONE, 20 * S).retry_after_ns, S / 100);
    assert_int_equal(upload(filter, &asked, -1, 0, WEIR_REASON_NONE, 20 * S).kind, WEIR_PASS);
    assert_int_equal(upload(filter, &asked, -1, 400, WEIR_REASON_NONE, 20 * S).kind, WEIR_PASS);
    assert_int_equal(upload(filter, &asked, 1, 0, WEIR_REASON_NONE, 20 * S).retry_after_ns, S / 100);
    assert_int_equal(upload(filter, &asked, 1000, 0, WEIR_REASON_OVERLOADED, 60 * S).kind, WEIR_PASS); /* refunded */
    assert_int_equal(upload(filter, &asked, 1000, 0, WEIR_REASON_NONE, 60 * S).kind, WEIR_PASS);
    stop(store, filter);
}

/* llm_tokens */

static weir_verdict_t call(void *filter, asked_t *asked, int64_t bytes, int64_t max_tokens, int64_t now_ns)
{
    prepare(asked, STR("acme"), now_ns);
    asked->request.body_bytes = bytes;
    asked->picked = model("gpt-5");
    asked->picked.max_tokens = max_tokens;
    weir_verdict_t verdict = admit(filter, asked);
    if (verdict.kind != WEIR_NEED_BODY)
        return verdict;
    asked->request.picked = &asked->picked;
    return wake(filter, asked, now_ns);
}

static void use(void *filter, asked_t *asked, int64_t tokens)
{
    asked->request.has_usage = true;
    asked->request.usage.weighted = tokens;
    done(filter, asked, WEIR_REASON_NONE, true);
}

static void test_what_a_call_is_thought_to_cost(void **state)
{
    static const struct {
        int64_t bytes, max_tokens;
        const char *tokens;
    } rows[] = {
        {400, -1, "1000 900 10s"},   {401, -1, "1000 899 10.1s"},      {1, -1, "1000 999 100ms"},
        {0, -1, "1000 999 100ms"},   {400, 100, "1000 800 20s"},       {400, 0, "1000 900 10s"},
        {400, 5000, "1000 0 1m40s"}, {400, INT64_MAX, "1000 0 1m40s"}, {1 << 30, 1, "1000 0 1m40s"},
        {400, 890, "1000 10 1m39s"}, {400, 900, "1000 0 1m40s"},       {400, 901, "1000 0 1m40s"},
        {-1, 3, "1000 997 300ms"},
    };
    in_unit(add_bucket("tokens", 10, S, 1000), WEIR_UNIT_LLM_TOKENS);
    void *filter;
    weir_store_t *store = start(&filter);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        asked_t asked;
        assert_int_equal(call(filter, &asked, rows[i].bytes, rows[i].max_tokens, S).kind, WEIR_PASS);
        assert_string_equal(asked.tokens, rows[i].tokens);
        assert_int_equal(asked.added, 3);
        use(filter, &asked, 0);
    }
    stop(store, filter);
}

/* As it will be settled: by the weights of input and output. */
static void test_what_a_call_is_thought_to_weigh(void **state)
{
    static const struct {
        int64_t input_micros, output_micros, bytes, max_tokens, left;
    } rows[] = {
        {500000, 1000000, 400, 100, 850}, {1000000, 4000000, 400, 100, 500},
        {500000, 1000000, 4, 0, 999},     {0, 1000000, 4000, -1, 999},
        {0, 250000, 4000, 1001, 749},     {0, 1, 4000, WEIR_JSON_INTEGER_MAX, 0},
        {0, 0, 4000, 1000, 999},          {1000000000, 1000000000, INT64_MAX, WEIR_JSON_INTEGER_MAX, 0},
    };
    in_unit(add_bucket("tokens", 10, S, 1000), WEIR_UNIT_LLM_TOKENS);
    void *filter;
    weir_store_t *store = start(&filter);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        asked_t asked;
        setup.upstream.usage.weights.input_micros = rows[i].input_micros;
        setup.upstream.usage.weights.output_micros = rows[i].output_micros;
        assert_int_equal(call(filter, &asked, rows[i].bytes, rows[i].max_tokens, S).kind, WEIR_PASS);
        char expected[64];
        snprintf(expected, sizeof(expected), "1000 %d ", (int)rows[i].left);
        assert_memory_equal(asked.tokens, expected, strlen(expected));
        use(filter, &asked, 0);
    }
    stop(store, filter);
}

static void test_a_call_is_charged_what_it_used(void **state)
{
    static const struct {
        weir_reason_t reason;
        bool ran, answered, has_usage;
        int64_t left; /* of 1000, when it was thought to cost 500, and used 700 */
    } rows[] = {
        {WEIR_REASON_NONE, true, true, true, 300},
        {WEIR_REASON_NONE, true, true, false, 1000},    /* nothing was found out */
        {WEIR_REASON_TRUNCATED, true, true, true, 300}, /* broken off: what was seen */
        {WEIR_REASON_CLIENT_GONE, true, true, true, 300},
        {WEIR_REASON_CLIENT_GONE, true, false, true, 1000}, /* before the first byte: nothing */
        {WEIR_REASON_CONNECT_FAILED, true, false, true, 1000},
        {WEIR_REASON_OVERLOADED, false, false, false, 1000},
        {WEIR_REASON_CLIENT_GONE, false, false, false, 1000},
    };
    in_unit(add_bucket("tokens", 1, D, 1000), WEIR_UNIT_LLM_TOKENS);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        void *filter;
        weir_store_t *store = start(&filter);
        asked_t asked, next;
        assert_int_equal(call(filter, &asked, 2000, -1, S).kind, WEIR_PASS);
        asked.request.has_usage = rows[i].has_usage;
        asked.request.usage.weighted = 700;
        weir_outcome_t outcome = {.reason = rows[i].reason,
                                  .now_ns = S,
                                  .ran = rows[i].ran,
                                  .answered = rows[i].answered,
                                  .body_bytes = 2000};
        weir_filter_limit.done(filter, &asked.request, asked.state, &outcome);
        call(filter, &next, 4, -1, S);
        char expected[64];
        snprintf(expected, sizeof(expected), "1000 %d ", (int)rows[i].left - 1);
        assert_memory_equal(next.tokens, expected, strlen(expected));
        use(filter, &next, 0);
        stop(store, filter);
    }
}

static void test_a_debt_delays_the_next_call(void **state)
{
    in_unit(add_bucket("tokens", 10, S, 1000), WEIR_UNIT_LLM_TOKENS);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    assert_int_equal(call(filter, &asked, 40, -1, S).kind, WEIR_PASS);
    use(filter, &asked, 1500);
    weir_verdict_t verdict = call(filter, &asked, 40, -1, S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.retry_after_ns, 51 * S);
    assert_string_equal(asked.tokens, "1000 0 2m30s");
    done(filter, &asked, verdict.reason, false);
    assert_int_equal(call(filter, &asked, 40, -1, 52 * S).kind, WEIR_PASS);
    verdict = call(filter, &asked, 4000, -1, 152 * S); /* all of it: when the one before ends, nobody knows */
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.retry_after_ns, S);
    stop(store, filter);
}

static void test_tokens_and_requests_are_told_side_by_side(void **state)
{
    add_bucket("requests", 1, S, 10);
    in_unit(add_window("wide", 1000000, 3600 * S), WEIR_UNIT_LLM_TOKENS);
    in_unit(add_window("tight", 1000, M), WEIR_UNIT_LLM_TOKENS)->precision = WEIR_PRECISION_EXACT;
    in_unit(add_bucket("shadow", 1, S, 10), WEIR_UNIT_LLM_TOKENS)->mode = WEIR_LIMIT_SHADOW;
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    assert_int_equal(call(filter, &asked, 400, -1, S).kind, WEIR_PASS);
    assert_string_equal(asked.policy, "\"requests\";q=10;w=10");
    assert_string_equal(asked.limits, "\"requests\";r=9;t=1");
    assert_string_equal(asked.tokens, "1000 900 1m0.001s");
    asked.tokens[0] = '\0';
    add_upstream_field(&asked, STR("x-ratelimit-remaining-tokens")); /* the upstream's is left as it is */
    head(filter, &asked);
    assert_string_equal(asked.tokens, "1000 1m0.001s");
    asked.tokens[0] = '\0';
    add_upstream_field(&asked, STR("x-ratelimit-limit-tokens"));
    add_upstream_field(&asked, STR("x-ratelimit-reset-tokens"));
    head(filter, &asked);
    assert_string_equal(asked.tokens, "");
    use(filter, &asked, 0);
    stop(store, filter);
}

static void test_durations_as_go_writes_them(void **state)
{
    static const struct {
        int64_t count, period_ns, tokens; /* used of the bucket */
        const char *text;
    } rows[] = {
        {1000, S, 1, "1ms"},      {1000000, S, 1, "1ms"},    {1000, S, 999, "999ms"},    {1000, S, 1000, "1s"},
        {1000, S, 1250, "1.25s"}, {1000, S, 1001, "1.001s"}, {1, S, 59, "59s"},          {1, S, 60, "1m0s"},
        {1, S, 360, "6m0s"},      {1, S, 3599, "59m59s"},    {1, S, 3600, "1h0m0s"},     {1, S, 3661, "1h1m1s"},
        {1, M, 60, "1h0m0s"},     {1, D, 2, "48h0m0s"},      {1000, S, 61500, "1m1.5s"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        set_up(state);
        in_unit(add_bucket("tokens", rows[i].count, rows[i].period_ns, 1000000), WEIR_UNIT_LLM_TOKENS);
        void *filter;
        weir_store_t *store = start(&filter);
        asked_t asked;
        char expected[64];
        assert_int_equal(call(filter, &asked, 4, rows[i].tokens - 1, S).kind, WEIR_PASS);
        snprintf(expected, sizeof(expected), "1000000 %d %s", 1000000 - (int)rows[i].tokens, rows[i].text);
        assert_string_equal(asked.tokens, expected);
        use(filter, &asked, 0);
        stop(store, filter);
    }
}

/* What is refused before the body is read */

static weir_verdict_t knock(void *filter, asked_t *asked, int64_t bytes)
{
    prepare(asked, STR("acme"), S);
    asked->request.body_bytes = bytes;
    return admit(filter, asked);
}

static void test_whoever_is_over_his_limit_is_refused_without_his_body(void **state)
{
    in_unit(add_bucket("tokens", 1, D, 1000), WEIR_UNIT_LLM_TOKENS);
    add_bucket("shadow", 1, D, 1)->mode = WEIR_LIMIT_SHADOW;
    add_bucket("requests", 1, D, 2);
    add_bucket("wide", 1, D, 20);
    in_unit(add_bucket("bytes", 1, D, 1000), WEIR_UNIT_REQUEST_BYTES);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    for (int i = 0; i < 2; ++i) {
        assert_int_equal(call(filter, &asked, 40, -1, S).kind, WEIR_PASS);
        use(filter, &asked, 0);
    }
    size_t admitted = decided[WEIR_DECISION_ADMITTED], shadowed = decided[WEIR_DECISION_SHADOW_REFUSED];
    weir_verdict_t verdict = knock(filter, &asked, 40);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.status, 429);
    assert_int_equal(verdict.retry_after_ns, D);
    assert_int_equal(verdict.violated_count, 1);
    assert_string_equal(verdict.violated[0], "requests");
    assert_string_equal(asked.policy, "\"requests\";q=2;w=172800, \"wide\";q=20;w=1728000");
    assert_string_equal(asked.limits, "\"requests\";r=0;t=172800, \"wide\";r=18;t=172800");
    assert_string_equal(asked.tokens, "");
    done(filter, &asked, verdict.reason, false);
    assert_int_equal(decided[WEIR_DECISION_REFUSED], 1);
    assert_int_equal(decided[WEIR_DECISION_ADMITTED], admitted);
    assert_int_equal(decided[WEIR_DECISION_SHADOW_REFUSED], shadowed);
    weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX];
    assert_int_equal(store->closest(store, "requests", S, closest), 1);
    assert_string_equal(closest[0].name, "tenant=acme");
    verdict = knock(filter, &asked, 0); /* without a body all are asked */
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_string_not_equal(asked.tokens, "");
    done(filter, &asked, verdict.reason, false);
    stop(store, filter);
}

/* What is in the body, and whether a slot will be free, is known when it is there. */
static void test_what_is_not_refused_before_the_body(void **state)
{
    static const weir_conf_key_part_t by_model[] = {{WEIR_KEY_MODEL, NULL}};
    for (int i = 0; i < 4; ++i) {
        set_up(state);
        bool refuses = i == 3;
        if (i == 0)
            add_slots("slots", 1, 1, S);
        else if (i == 1)
            set_key(add_bucket("models", 1, D, 1), by_model, 1);
        else if (i == 2)
            add_slots("slots", 1, 0, 0)->mode = WEIR_LIMIT_SHADOW;
        else
            add_slots("slots", 1, 0, 0);
        in_unit(add_bucket("tokens", 1, D, 1000), WEIR_UNIT_LLM_TOKENS);
        void *filter;
        weir_store_t *store = start(&filter);
        asked_t first, second;
        assert_int_equal(call(filter, &first, 40, -1, S).kind, WEIR_PASS);
        assert_int_equal(knock(filter, &second, 40).kind, refuses ? WEIR_ANSWER : WEIR_NEED_BODY);
        done(filter, &second, WEIR_REASON_CLIENT_GONE, false);
        use(filter, &first, 0);
        assert_int_equal(knock(filter, &second, 40).kind, WEIR_NEED_BODY);
        done(filter, &second, WEIR_REASON_CLIENT_GONE, false);
        stop(store, filter);
    }
}

/* No slot is held while a body trickles in that the meter needs whole. */
static void test_where_a_model_answers_the_body_comes_first(void **state)
{
    add_slots("slots", 1, 0, 0);
    for (int i = 0; i < 2; ++i) {
        setup.upstream.dialect = i == 0 ? WEIR_DIALECT_PLAIN : WEIR_DIALECT_OPENAI;
        void *filter;
        weir_store_t *store = start(&filter);
        asked_t asked, other;
        weir_verdict_t verdict = knock(filter, &asked, -1);
        assert_int_equal(verdict.kind, i == 0 ? WEIR_PASS : WEIR_NEED_BODY);
        assert_int_equal(knock(filter, &other, 0).kind, i == 0 ? WEIR_ANSWER : WEIR_PASS);
        done(filter, &other, WEIR_REASON_CLIENT_GONE, false);
        if (i == 1) {
            asked.request.picked = &asked.picked;
            assert_int_equal(wake(filter, &asked, S).kind, WEIR_PASS);
        }
        done(filter, &asked, WEIR_REASON_NONE, true);
        stop(store, filter);
    }
}

static void test_what_can_never_be_is_said(void **state)
{
    in_unit(add_bucket("bytes", 100, S, 1000), WEIR_UNIT_REQUEST_BYTES);
    static weir_conf_override_t overrides[] = {{"none", {{0, S}, 1, 0, 0}}};
    weir_conf_limit_t *limit = add_bucket("requests", 1, S, 1);
    limit->tenants.entries = overrides;
    limit->tenants.size = 1;
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    weir_verdict_t verdict = knock(filter, &asked, 1001);
    assert_string_equal(verdict.detail, "This request of tenant acme needs more than limit bytes ever has");
    assert_int_equal(verdict.retry_after_ns, 3600 * S);
    verdict = ask(filter, &asked, STR("none"), S);
    assert_string_equal(verdict.detail, "This request of tenant none needs more than limit requests ever has");
    assert_true(passes(filter, STR("acme"), S));
    verdict = ask(filter, &asked, STR("acme"), S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_null(verdict.detail);
    stop(store, filter);
}

/* What comes back: only what a refusal after this filter kept from running, and that the caller did not break off. */
static void test_what_is_refunded(void **state)
{
    static const struct {
        weir_reason_t reason;
        bool ran, back;
    } rows[] = {
        {WEIR_REASON_NONE, true, false},
        {WEIR_REASON_NONE, false, false},
        {WEIR_REASON_LIMIT, false, true},
        {WEIR_REASON_OVERLOADED, false, true},
        {WEIR_REASON_DRAINING, false, true},
        {WEIR_REASON_OVERLOADED, true, false},
        {WEIR_REASON_CLIENT_GONE, false, false},
        {WEIR_REASON_CLIENT_GONE, true, false},
        {WEIR_REASON_TIMEOUT_CLIENT, false, false},
        {WEIR_REASON_BODY_TOO_LARGE, false, false},
        {WEIR_REASON_CONNECT_FAILED, true, false},
        {WEIR_REASON_RESET, true, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        set_up(state);
        add_bucket("bucket", 1, D, 1);
        add_window("window", 1, D);
        void *filter;
        weir_store_t *store = start(&filter);
        asked_t asked;
        prepare(&asked, STR("acme"), 0);
        assert_int_equal(admit(filter, &asked).kind, WEIR_PASS);
        done(filter, &asked, rows[i].reason, rows[i].ran);
        assert_int_equal(passes(filter, STR("acme"), 0), rows[i].back);
        stop(store, filter);
    }
}

static void test_a_refused_request_gets_nothing_back(void **state)
{
    add_bucket("bucket", 1, D, 2);
    add_window("window", 1, D);
    void *filter;
    weir_store_t *store = start(&filter);
    assert_true(passes(filter, STR("acme"), 0));
    for (int i = 0; i < 10; ++i)
        assert_false(passes(filter, STR("acme"), 0)); /* done() with reason limit, nothing ran */
    asked_t asked;
    ask(filter, &asked, STR("acme"), 0);
    assert_string_equal(asked.limits, "\"window\";r=0;t=87840, \"bucket\";r=1;t=86400");
    stop(store, filter);
}

static void test_overflow_is_observed(void **state)
{
    add_bucket("limit", 1, D, 2)->max_keys = 1;
    void *filter;
    weir_store_t *store = start(&filter);
    assert_true(passes(filter, STR("acme"), 0));
    assert_true(passes(filter, STR("other"), 0));
    assert_true(passes(filter, STR("third"), 0));
    assert_false(passes(filter, STR("fourth"), 0));
    assert_int_equal(overflowed, 3);
    stop(store, filter);
}

/* A store that answers later. */
typedef struct {
    weir_store_t store;
    weir_store_t *inner;
    bool is_there, is_down;
    int collected, abandoned;
    weir_store_limit_t *limits[LIMITS_MAX]; /* as they were acquired */
    size_t limit_count;
    char order[LIMITS_MAX + 1]; /* of the limits that are decided, by their number there */
} late_t;

static weir_store_limit_t *late_acquire(weir_store_t *store, const weir_conf_limit_t *limit)
{
    late_t *late = (late_t *)store;
    return late->limits[late->limit_count++] = late->inner->limit_acquire(late->inner, limit);
}

static void late_release(weir_store_t *store, weir_store_limit_t *limit)
{
    weir_store_t *inner = ((late_t *)store)->inner;
    inner->limit_release(inner, limit);
}

static weir_store_key_t late_key(const weir_store_t *store, const void *parts, size_t len)
{
    const weir_store_t *inner = ((const late_t *)store)->inner;
    return inner->key(inner, parts, len);
}

static weir_store_answer_t late_decide(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                       weir_ticket_t ticket, bool *admitted)
{
    late_t *late = (late_t *)store;
    assert_int_equal(ticket.generation, 3);
    for (size_t i = 0; i < count; ++i)
        for (late->order[i] = '0'; late->limits[late->order[i] - '0'] != items[i].limit;)
            ++late->order[i];
    return WEIR_STORE_PENDING;
}

static weir_store_answer_t late_collect(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                        weir_ticket_t ticket, bool *admitted)
{
    late_t *late = (late_t *)store;
    assert_int_equal(ticket.generation, 3);
    ++late->collected;
    if (late->is_down)
        return WEIR_STORE_DOWN;
    return late->is_there ? late->inner->decide(late->inner, items, count, now_ns, ticket, admitted)
                          : WEIR_STORE_PENDING;
}

static void late_abandon(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    assert_int_equal(count, strlen(((late_t *)store)->order));
    ++((late_t *)store)->abandoned;
}

static void late_refund(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    weir_store_t *inner = ((late_t *)store)->inner;
    inner->refund(inner, items, count, now_ns);
}

static bool late_wants_name(weir_store_t *store, const weir_store_item_t *item, unsigned used_permille, int64_t now_ns)
{
    return false;
}

static const weir_store_t late_store = {
    .limit_acquire = late_acquire,
    .limit_release = late_release,
    .key = late_key,
    .decide = late_decide,
    .timeout_ns = 20000000,
    .collect = late_collect,
    .abandon = late_abandon,
    .refund = late_refund,
    .wants_name = late_wants_name,
};

static void test_a_late_answer_is_awaited_and_collected(void **state)
{
    add_bucket("limit", 1, D, 1);
    late_t late = {.store = late_store,
                   .inner = weir_memory_store_create(secret, (weir_store_teller_t){note_told, NULL})};
    void *filter = weir_filter_limit.create(&setup.conf, &late.store);
    for (int i = 0; i < 2; ++i) {
        asked_t asked;
        prepare(&asked, STR("acme"), S);
        late.is_there = false;
        weir_verdict_t verdict = admit(filter, &asked);
        assert_int_equal(verdict.kind, WEIR_AWAIT);
        assert_int_equal(verdict.until_ns, S + 20000000);
        assert_int_equal(asked.added, 0); /* nothing to tell yet */
        asked.request.now_ns += 5;
        verdict = weir_filter_limit.wake(filter, &asked.request, asked.state);
        assert_int_equal(verdict.kind, WEIR_AWAIT);
        assert_int_equal(verdict.until_ns, S + 20000000);
        late.is_there = true;
        verdict = weir_filter_limit.wake(filter, &asked.request, asked.state);
        assert_int_equal(verdict.kind, i == 0 ? WEIR_PASS : WEIR_ANSWER);
        done(filter, &asked, i == 0 ? WEIR_REASON_NONE : WEIR_REASON_LIMIT, i == 0);
    }
    assert_int_equal(late.collected, 4);
    assert_int_equal(late.abandoned, 0);
    weir_filter_limit.destroy(filter);
    late.inner->destroy(late.inner);
}

static void test_a_request_that_ends_while_it_waits_is_abandoned(void **state)
{
    add_bucket("limit", 1, D, 1);
    late_t late = {.store = late_store,
                   .inner = weir_memory_store_create(secret, (weir_store_teller_t){note_told, NULL})};
    void *filter = weir_filter_limit.create(&setup.conf, &late.store);
    asked_t asked;
    prepare(&asked, STR("acme"), S);
    assert_int_equal(admit(filter, &asked).kind, WEIR_AWAIT);
    done(filter, &asked, WEIR_REASON_CLIENT_GONE, false);
    assert_int_equal(late.abandoned, 1);
    assert_int_equal(late.collected, 0);
    weir_filter_limit.destroy(filter);
    late.inner->destroy(late.inner);
}

/* Nothing was charged, so nothing is given back, and there is nothing to tell. */
static void test_a_store_that_is_down_is_no_limit(void **state)
{
    add_bucket("limit", 1, D, 1);
    late_t late = {.store = late_store,
                   .inner = weir_memory_store_create(secret, (weir_store_teller_t){note_told, NULL}),
                   .is_down = true};
    void *filter = weir_filter_limit.create(&setup.conf, &late.store);
    asked_t asked;
    prepare(&asked, STR("acme"), S);
    assert_int_equal(admit(filter, &asked).kind, WEIR_AWAIT);
    weir_verdict_t verdict = weir_filter_limit.wake(filter, &asked.request, asked.state);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_STORE_DOWN);
    assert_int_equal(verdict.status, 0); /* the reason's own, not on_limit's */
    assert_int_equal(verdict.retry_after_ns, S);
    assert_int_equal(verdict.violated_count, 0);
    done(filter, &asked, WEIR_REASON_STORE_DOWN, false);
    assert_int_equal(late.abandoned, 0);
    weir_filter_limit.destroy(filter);
    late.inner->destroy(late.inner);
}

/* So that two routes that have two limits in common take their slots in one order. */
static void test_limits_are_asked_in_the_order_of_the_configuration(void **state)
{
    static const struct {
        size_t named[4];
        const char *order;
    } rows[] = {{{0, 1, 2, 3}, "0123"}, {{3, 2, 1, 0}, "0123"}, {{2, 0, 2, 1}, "012"}, {{3, 3, 1, 1}, "13"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        set_up(state);
        add_bucket("a", 1, D, 1);
        add_slots("b", 1, 1, S);
        add_window("c", 1, D);
        add_slots("d", 1, 1, S);
        memcpy(setup.named, rows[i].named, sizeof(rows[i].named));
        late_t late = {.store = late_store,
                       .inner = weir_memory_store_create(secret, (weir_store_teller_t){note_told, NULL})};
        void *filter = weir_filter_limit.create(&setup.conf, &late.store);
        asked_t asked;
        prepare(&asked, STR("acme"), S);
        assert_int_equal(admit(filter, &asked).kind, WEIR_AWAIT);
        assert_string_equal(late.order, rows[i].order);
        done(filter, &asked, WEIR_REASON_CLIENT_GONE, false);
        weir_filter_limit.destroy(filter);
        late.inner->destroy(late.inner);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_store_that_is_down_is_no_limit, set_up),
        cmocka_unit_test_setup(test_fields_and_refusal, set_up),
        cmocka_unit_test_setup(test_the_longest_wait_of_those_that_refused, set_up),
        cmocka_unit_test_setup(test_a_rate_of_0_says_an_hour, set_up),
        cmocka_unit_test_setup(test_tenants_have_quotas_of_their_own, set_up),
        cmocka_unit_test_setup(test_shadow_limits_refuse_nothing_and_are_not_told, set_up),
        cmocka_unit_test_setup(test_routes_without_limits_pass, set_up),
        cmocka_unit_test_setup(test_a_limit_that_is_named_twice_counts_once, set_up),
        cmocka_unit_test_setup(test_keys_of_all_parts, set_up),
        cmocka_unit_test_setup(test_parts_do_not_run_into_each_other, set_up),
        cmocka_unit_test_setup(test_an_absent_header_leaves_no_room_for_the_next_one, set_up),
        cmocka_unit_test_setup(test_no_parts_is_one_key_for_all, set_up),
        cmocka_unit_test_setup(test_dropped_identity_is_absent, set_up),
        cmocka_unit_test_setup(test_a_route_is_the_same_after_a_reload_that_moved_it, set_up),
        cmocka_unit_test_setup(test_keys_by_model, set_up),
        cmocka_unit_test_setup(test_keys_by_correlation, set_up),
        cmocka_unit_test_setup(test_the_first_of_a_chain_costs_it_nothing, set_up),
        cmocka_unit_test_setup(test_a_rate_of_0_refuses_the_first_of_a_chain_too, set_up),
        cmocka_unit_test_setup(test_bytes_that_are_uploaded, set_up),
        cmocka_unit_test_setup(test_what_a_call_is_thought_to_cost, set_up),
        cmocka_unit_test_setup(test_what_a_call_is_thought_to_weigh, set_up),
        cmocka_unit_test_setup(test_a_call_is_charged_what_it_used, set_up),
        cmocka_unit_test_setup(test_a_debt_delays_the_next_call, set_up),
        cmocka_unit_test_setup(test_tokens_and_requests_are_told_side_by_side, set_up),
        cmocka_unit_test_setup(test_durations_as_go_writes_them, set_up),
        cmocka_unit_test_setup(test_whoever_is_over_his_limit_is_refused_without_his_body, set_up),
        cmocka_unit_test_setup(test_what_is_not_refused_before_the_body, set_up),
        cmocka_unit_test_setup(test_where_a_model_answers_the_body_comes_first, set_up),
        cmocka_unit_test_setup(test_what_can_never_be_is_said, set_up),
        cmocka_unit_test_setup(test_what_is_refunded, set_up),
        cmocka_unit_test_setup(test_a_refused_request_gets_nothing_back, set_up),
        cmocka_unit_test_setup(test_overflow_is_observed, set_up),
        cmocka_unit_test_setup(test_a_late_answer_is_awaited_and_collected, set_up),
        cmocka_unit_test_setup(test_a_request_that_ends_while_it_waits_is_abandoned, set_up),
        cmocka_unit_test_setup(test_limits_are_asked_in_the_order_of_the_configuration, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
