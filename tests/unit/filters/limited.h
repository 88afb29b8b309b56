#ifndef WEIR_TESTS_UNIT_FILTERS_LIMITED_H
#define WEIR_TESTS_UNIT_FILTERS_LIMITED_H

/* The limit filter on its own: a configuration made by hand, requests, and all that comes of them. After cmocka.h. */

#include <stdio.h>
#include <string.h>
#include "../../../filters/limit.h"

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
    weir_conf_upstream_t upstream;
    weir_conf_listener_t listener;
    weir_conf_tenant_t tenant;
    weir_conf_route_t routes[ROUTES];
    size_t named[LIMITS_MAX];
} setup_t;

static setup_t setup;

static inline weir_conf_limit_t *add_limit(const char *name, weir_conf_algorithm_t algorithm)
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

static inline weir_conf_limit_t *add_bucket(const char *name, int64_t count, int64_t period_ns, int64_t burst)
{
    weir_conf_limit_t *limit = add_limit(name, WEIR_LIMIT_TOKEN_BUCKET);
    limit->quota.rate = (weir_conf_rate_t){count, period_ns};
    limit->quota.burst = burst;
    return limit;
}

static inline weir_conf_limit_t *add_window(const char *name, int64_t count, int64_t window_ns)
{
    weir_conf_limit_t *limit = add_limit(name, WEIR_LIMIT_SLIDING_WINDOW);
    limit->quota.limit = count;
    limit->quota.window_ns = window_ns;
    return limit;
}

static inline weir_conf_limit_t *add_slots(const char *name, int64_t at_once, int64_t queue, int64_t wait_ns)
{
    weir_conf_limit_t *limit = add_limit(name, WEIR_LIMIT_CONCURRENCY);
    limit->quota.limit = at_once;
    limit->queue.size = limit->queue.per_tenant_size = queue;
    limit->queue.wait_ns = wait_ns;
    return limit;
}

static inline weir_conf_limit_t *in_unit(weir_conf_limit_t *limit, weir_conf_unit_t unit)
{
    limit->unit = unit;
    return limit;
}

static inline void set_key(weir_conf_limit_t *limit, const weir_conf_key_part_t *parts, size_t count)
{
    limit->key.entries = parts;
    limit->key.size = count;
}

static inline int set_up(void **state)
{
    setup = (setup_t){.listener = {.name = "inbound", .tenant = &setup.tenant}};
    setup.tenant.from.entries = tenant_from;
    setup.tenant.from.size = 2;
    setup.upstream.name = "agent";
    setup.upstream.timeouts.total_ns = 900 * S;
    setup.upstream.usage.estimate = 4;
    setup.upstream.usage.weights = (weir_conf_usage_weights_t){1000000, 1000000, 1000000, 1000000};
    setup.conf.limits.entries = setup.limits;
    setup.conf.upstreams.entries = &setup.upstream;
    setup.conf.upstreams.size = 1;
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
    weir_json_picked_t picked;
    weir_field_t fields[8], upstream_fields[4];
    weir_str_t names[8], upstream_names[4];
    size_t upstream_field_count;
    char policy[512], limits[512];
    char tokens[512]; /* x-ratelimit-*-tokens, one after another, with a space between */
    int added;
} asked_t;

static size_t decided[3], overflowed;

static inline void count_decided(const weir_request_t *request, size_t limit, weir_decision_t decision)
{
    assert_true(limit < setup.conf.limits.size);
    ++decided[decision];
}

static inline void count_overflowed(const weir_request_t *request, size_t limit)
{
    ++overflowed;
}

/* Waits that ended: `NAME MS`, one after another, with a comma between. */
static char queue_left[256];

static inline void note_queue_left(const weir_request_t *request, size_t limit, int64_t waited_ns)
{
    size_t len = strlen(queue_left);
    snprintf(queue_left + len, sizeof(queue_left) - len, "%s%s %d", len != 0 ? "," : "", setup.limits[limit].name,
             (int)(waited_ns / 1000000));
}

static const weir_observer_t observer = {count_decided, count_overflowed, note_queue_left};

/* Whoever was told, by his ticket's slot, as letters. */
static char told[64];

static inline void note_told(void *context, weir_ticket_t ticket)
{
    size_t len = strlen(told);
    assert_true(len + 1 < sizeof(told));
    told[len] = (char)ticket.slot;
    told[len + 1] = '\0';
}

static inline void *alloc(weir_request_t *request, size_t size)
{
    asked_t *asked = (asked_t *)((char *)request - offsetof(asked_t, request));
    void *memory = asked->memory + asked->memory_used;
    asked->memory_used += (size + 15) & ~(size_t)15;
    assert_true(asked->memory_used <= sizeof(asked->memory));
    return memory;
}

static inline void prepare(asked_t *asked, weir_str_t tenant, int64_t now_ns)
{
    memset(asked, 0, sizeof(*asked));
    asked->request = (weir_request_t){
        .conf = &setup.conf,
        .listener = &setup.listener,
        .route = &setup.routes[0],
        .upstream = &setup.upstream,
        .tenant = tenant,
        .client_ip = STR("192.0.2.1"),
        .correlation_id = STR("c-1"),
        .fields = asked->fields,
        .trusted = true,
        .now_ns = now_ns,
        .ticket = {1, 2, 3},
        .observer = &observer,
        .alloc = alloc,
    };
}

static inline void add_field(asked_t *asked, weir_str_t name, weir_str_t value)
{
    size_t i = asked->request.field_count++;
    asked->names[i] = name;
    asked->fields[i] = (weir_field_t){.name = &asked->names[i], .value = value};
}

static inline void add_upstream_field(asked_t *asked, weir_str_t name)
{
    size_t i = asked->upstream_field_count++;
    asked->upstream_names[i] = name;
    asked->upstream_fields[i] = (weir_field_t){.name = &asked->upstream_names[i], .value = STR("its own")};
}

typedef struct {
    weir_answer_t answer;
    asked_t *asked;
} answered_t;

static inline void add(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
    asked_t *asked = ((answered_t *)answer)->asked;
    bool is_policy = name.len == 16 && memcmp(name.base, "RateLimit-Policy", 16) == 0;
    bool is_state = name.len == 9 && memcmp(name.base, "RateLimit", 9) == 0;
    ++asked->added;
    if (is_policy || is_state) {
        char *to = is_policy ? asked->policy : asked->limits;
        memcpy(to, value.base, value.len);
        to[value.len] = 0;
        return;
    }
    static const char *const names[] = {"x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens",
                                        "x-ratelimit-reset-tokens"};
    size_t len = strlen(asked->tokens), i = 0;
    while (strlen(names[i]) != name.len || memcmp(names[i], name.base, name.len) != 0)
        assert_true(++i < 3);
    snprintf(asked->tokens + len, sizeof(asked->tokens) - len, "%s%.*s", len != 0 ? " " : "", (int)value.len,
             value.base);
}

static inline void head(void *filter, asked_t *asked)
{
    answered_t answered = {
        .answer = {.add = add, .fields = asked->upstream_fields, .field_count = asked->upstream_field_count},
        .asked = asked};
    weir_filter_limit.head(filter, &asked->request, asked->state, &answered.answer);
}

static inline weir_verdict_t admit(void *filter, asked_t *asked)
{
    weir_verdict_t verdict = weir_filter_limit.admit(filter, &asked->request, asked->state);
    head(filter, asked);
    return verdict;
}

static inline weir_verdict_t wake(void *filter, asked_t *asked, int64_t now_ns)
{
    asked->request.now_ns = now_ns;
    weir_verdict_t verdict = weir_filter_limit.wake(filter, &asked->request, asked->state);
    head(filter, asked);
    return verdict;
}

static inline void done(void *filter, asked_t *asked, weir_reason_t reason, bool ran)
{
    weir_outcome_t outcome = {.reason = reason,
                              .status = 500,
                              .now_ns = asked->request.now_ns,
                              .ran = ran,
                              .answered = reason == WEIR_REASON_NONE,
                              .body_bytes = asked->request.body_bytes > 0 ? asked->request.body_bytes : 0};
    weir_filter_limit.done(filter, &asked->request, asked->state, &outcome);
}

static inline weir_verdict_t ask(void *filter, asked_t *asked, weir_str_t tenant, int64_t now_ns)
{
    prepare(asked, tenant, now_ns);
    weir_verdict_t verdict = admit(filter, asked);
    done(filter, asked, verdict.reason, verdict.kind == WEIR_PASS);
    return verdict;
}

static inline bool passes(void *filter, weir_str_t tenant, int64_t now_ns)
{
    asked_t asked;
    return ask(filter, &asked, tenant, now_ns).kind == WEIR_PASS;
}

static inline weir_store_t *start(void **filter)
{
    weir_store_t *store = weir_memory_store_create(secret, (weir_store_teller_t){note_told, NULL});
    assert_true(weir_filter_limit.state_size <= sizeof(((asked_t *)NULL)->state));
    *filter = weir_filter_limit.create(&setup.conf, store);
    memset(decided, 0, sizeof(decided));
    overflowed = 0;
    queue_left[0] = told[0] = '\0';
    return store;
}

static inline void stop(weir_store_t *store, void *filter)
{
    weir_filter_limit.destroy(filter);
    store->destroy(store);
}

#endif
