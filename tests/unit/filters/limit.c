/* The limit filter on its own: requests made by hand, the store in memory, and a store that answers later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <netinet/in.h>
#include "../seeded.h"
#include "../../../filters/store.h"

#define S INT64_C(1000000000)
#define M (60 * S)
#define D (86400 * S)
#define STR(text) ((weir_str_t){text, sizeof(text) - 1})

extern const weir_filter_t weir_filter_limit;

static const uint8_t secret[64] = "a secret that the tests have in common, and nobody else has it.";

/* A configuration: one listener, routes with limits by index. */
enum { LIMITS_MAX = 8, ROUTES = 3 };

static weir_conf_key_part_t by_tenant[] = {{.kind = WEIR_KEY_TENANT}};
static weir_conf_tenant_source_t tenant_from[] = {{"X-Api-Key", true}, {"X-Tenant-ID", false}};

typedef struct {
    weir_conf_t conf;
    weir_conf_limit_t limits[LIMITS_MAX];
    weir_conf_listener_t listener;
    weir_conf_tenant_t tenant;
    weir_conf_route_t routes[ROUTES];
    size_t named[LIMITS_MAX];
} setup_t;

static setup_t setup;

static weir_conf_limit_t *add_limit(const char *name, weir_conf_algorithm_t algorithm)
{
    weir_conf_limit_t *limit = &setup.limits[setup.conf.limits.size];
    *limit = (weir_conf_limit_t){.name = name, .algorithm = algorithm, .max_keys = 1000};
    limit->key.entries = by_tenant;
    limit->key.size = 1;
    setup.named[setup.conf.limits.size] = setup.conf.limits.size;
    ++setup.conf.limits.size;
    for (size_t i = 0; i < ROUTES - 1; ++i) /* the last one has none */
        setup.routes[i].limits.size = setup.conf.limits.size;
    return limit;
}

static weir_conf_limit_t *add_bucket(const char *name, int64_t count, int64_t period_ns, int64_t burst)
{
    weir_conf_limit_t *limit = add_limit(name, WEIR_LIMIT_TOKEN_BUCKET);
    limit->quota.rate = (weir_conf_rate_t){count, period_ns};
    limit->quota.burst = burst;
    return limit;
}

static weir_conf_limit_t *add_window(const char *name, int64_t count, int64_t window_ns)
{
    weir_conf_limit_t *limit = add_limit(name, WEIR_LIMIT_SLIDING_WINDOW);
    limit->quota.limit = count;
    limit->quota.window_ns = window_ns;
    return limit;
}

static void set_key(weir_conf_limit_t *limit, const weir_conf_key_part_t *parts, size_t count)
{
    limit->key.entries = parts;
    limit->key.size = count;
}

static int set_up(void **state)
{
    setup = (setup_t){.listener = {.name = "inbound", .tenant = &setup.tenant}};
    setup.tenant.from.entries = tenant_from;
    setup.tenant.from.size = 2;
    setup.conf.limits.entries = setup.limits;
    setup.conf.listeners.entries = &setup.listener;
    setup.conf.listeners.size = 1;
    setup.listener.routes.entries = setup.routes;
    setup.listener.routes.size = ROUTES;
    for (size_t i = 0; i < ROUTES; ++i) {
        setup.routes[i].path = i == 0 ? "/" : i == 1 ? "/other" : "/free";
        setup.routes[i].limits.entries = setup.named;
        setup.routes[i].on_limit.status = 429;
    }
    return 0;
}

/* A request, and all that comes of it. */
typedef struct {
    weir_request_t request;
    _Alignas(16) char state[64];
    _Alignas(16) char memory[4096];
    size_t memory_used;
    weir_field_t fields[8];
    weir_str_t names[8];
    char policy[512], limits[512];
    int added;
} asked_t;

static size_t decided[3], overflowed;

static void count_decided(const weir_request_t *request, size_t limit, weir_decision_t decision)
{
    assert_true(limit < setup.conf.limits.size);
    ++decided[decision];
}

static void count_overflowed(const weir_request_t *request, size_t limit)
{
    ++overflowed;
}

static const weir_observer_t observer = {count_decided, count_overflowed};

static void *alloc(weir_request_t *request, size_t size)
{
    asked_t *asked = (asked_t *)((char *)request - offsetof(asked_t, request));
    void *memory = asked->memory + asked->memory_used;
    asked->memory_used += (size + 15) & ~(size_t)15;
    assert_true(asked->memory_used <= sizeof(asked->memory));
    return memory;
}

static void prepare(asked_t *asked, weir_str_t tenant, int64_t now_ns)
{
    memset(asked, 0, sizeof(*asked));
    asked->request = (weir_request_t){
        .conf = &setup.conf,
        .listener = &setup.listener,
        .route = &setup.routes[0],
        .tenant = tenant,
        .client_ip = STR("192.0.2.1"),
        .fields = asked->fields,
        .now_ns = now_ns,
        .ticket = {1, 2, 3},
        .observer = &observer,
        .alloc = alloc,
    };
}

static void add_field(asked_t *asked, weir_str_t name, weir_str_t value)
{
    size_t i = asked->request.field_count++;
    asked->names[i] = name;
    asked->fields[i] = (weir_field_t){.name = &asked->names[i], .value = value};
}

typedef struct {
    weir_answer_t answer;
    asked_t *asked;
} answered_t;

static void add(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
    asked_t *asked = ((answered_t *)answer)->asked;
    bool is_policy = name.len == 16 && memcmp(name.base, "RateLimit-Policy", 16) == 0;
    assert_true(is_policy || (name.len == 9 && memcmp(name.base, "RateLimit", 9) == 0));
    char *to = is_policy ? asked->policy : asked->limits;
    memcpy(to, value.base, value.len);
    to[value.len] = 0;
    ++asked->added;
}

static weir_verdict_t admit(void *filter, asked_t *asked)
{
    weir_verdict_t verdict = weir_filter_limit.admit(filter, &asked->request, asked->state);
    answered_t answered = {.answer = {.add = add}, .asked = asked};
    weir_filter_limit.head(filter, &asked->request, asked->state, &answered.answer);
    return verdict;
}

static void done(void *filter, asked_t *asked, weir_reason_t reason, bool ran)
{
    weir_outcome_t outcome = {.reason = reason, .status = 500, .now_ns = asked->request.now_ns, .ran = ran};
    weir_filter_limit.done(filter, &asked->request, asked->state, &outcome);
}

static weir_verdict_t ask(void *filter, asked_t *asked, weir_str_t tenant, int64_t now_ns)
{
    prepare(asked, tenant, now_ns);
    weir_verdict_t verdict = admit(filter, asked);
    done(filter, asked, verdict.reason, verdict.kind == WEIR_PASS);
    return verdict;
}

static bool passes(void *filter, weir_str_t tenant, int64_t now_ns)
{
    asked_t asked;
    return ask(filter, &asked, tenant, now_ns).kind == WEIR_PASS;
}

static weir_store_t *start(void **filter)
{
    weir_store_t *store = weir_memory_store_create(secret);
    assert_true(weir_filter_limit.state_size <= sizeof(((asked_t *)NULL)->state));
    *filter = weir_filter_limit.create(&setup.conf, store);
    memset(decided, 0, sizeof(decided));
    overflowed = 0;
    return store;
}

static void stop(weir_store_t *store, void *filter)
{
    weir_filter_limit.destroy(filter);
    store->destroy(store);
}

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
    bool is_there;
    int collected, abandoned;
} late_t;

static weir_store_limit_t *late_acquire(weir_store_t *store, const weir_conf_limit_t *limit)
{
    weir_store_t *inner = ((late_t *)store)->inner;
    return inner->limit_acquire(inner, limit);
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
    assert_int_equal(ticket.generation, 3);
    return WEIR_STORE_PENDING;
}

static weir_store_answer_t late_collect(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                        weir_ticket_t ticket, bool *admitted)
{
    late_t *late = (late_t *)store;
    assert_int_equal(ticket.generation, 3);
    ++late->collected;
    return late->is_there ? late->inner->decide(late->inner, items, count, now_ns, ticket, admitted)
                          : WEIR_STORE_PENDING;
}

static void late_abandon(weir_store_t *store, weir_ticket_t ticket)
{
    assert_int_equal(ticket.generation, 3);
    ++((late_t *)store)->abandoned;
}

static void late_refund(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    weir_store_t *inner = ((late_t *)store)->inner;
    inner->refund(inner, items, count, now_ns);
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
};

static void test_a_late_answer_is_awaited_and_collected(void **state)
{
    add_bucket("limit", 1, D, 1);
    late_t late = {.store = late_store, .inner = weir_memory_store_create(secret)};
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
    late_t late = {.store = late_store, .inner = weir_memory_store_create(secret)};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
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
        cmocka_unit_test_setup(test_what_is_refunded, set_up),
        cmocka_unit_test_setup(test_a_refused_request_gets_nothing_back, set_up),
        cmocka_unit_test_setup(test_overflow_is_observed, set_up),
        cmocka_unit_test_setup(test_a_late_answer_is_awaited_and_collected, set_up),
        cmocka_unit_test_setup(test_a_request_that_ends_while_it_waits_is_abandoned, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
