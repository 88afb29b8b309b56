#include "limit_plan.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "fields.h"
#include "meter.h"

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count != 0 ? count : 1, size);
    assert(memory != NULL);
    return memory;
}

/* Of one route */

typedef struct {
    size_t count;
    size_t limits[WEIR_LIMITS_PER_ROUTE_MAX]; /* ascending */
} named_t;

static bool is_decided(const weir_limit_plans_t *plans, const weir_conf_route_t *route, size_t limit)
{
    bool is_late = route->dedup < plans->conf->dedup.size && plans->conf->limits.entries[limit].unit == WEIR_UNIT_LLM_TOKENS;
    return is_late == (plans->part == WEIR_LIMIT_PART_BUDGET);
}

/* Each once: named twice is charged once. */
static named_t named_by(const weir_limit_plans_t *plans, const weir_conf_route_t *route)
{
    named_t named = {.count = 0};
    assert(route->limits.size <= WEIR_LIMITS_PER_ROUTE_MAX);
    for (size_t i = 0; i < route->limits.size; ++i) {
        size_t limit = route->limits.entries[i], at = named.count;
        while (at != 0 && named.limits[at - 1] > limit)
            --at;
        if ((at != 0 && named.limits[at - 1] == limit) || !is_decided(plans, route, limit))
            continue;
        memmove(&named.limits[at + 1], &named.limits[at], (named.count - at) * sizeof(*named.limits));
        named.limits[at] = limit;
        ++named.count;
    }
    return named;
}

/* Those that refuse whatever the body is. */
static named_t early_of(const named_t *named, const weir_conf_t *conf)
{
    named_t early = {.count = 0};
    for (size_t i = 0; i < named->count; ++i) {
        const weir_conf_limit_t *limit = &conf->limits.entries[named->limits[i]];
        bool waits = limit->algorithm == WEIR_LIMIT_CONCURRENCY && limit->queue.size != 0;
        if (limit->mode != WEIR_LIMIT_SHADOW && limit->unit == WEIR_UNIT_REQUESTS && !waits &&
            !weir_limit_key_counts_by(limit, WEIR_KEY_MODEL))
            early.limits[early.count++] = named->limits[i];
    }
    return early;
}

static void add_entry(weir_limit_plan_t *plan, const weir_limit_plans_t *plans, size_t limit,
                      const weir_conf_listener_t *listener)
{
    const weir_conf_limit_t *conf = &plans->conf->limits.entries[limit];
    bool has_slots = conf->algorithm == WEIR_LIMIT_CONCURRENCY;
    weir_limit_entry_t *entry = &plan->entries[plan->count];
    *entry = (weir_limit_entry_t){.conf = conf, .limit = limit};
    entry->is_of_chains = weir_limit_key_counts_by(conf, WEIR_KEY_CORRELATION);
    weir_limit_key_init(&entry->key, conf, listener);
    while (!weir_limit_key_is_same(&plan->entries[entry->same_key].key, &entry->key))
        ++entry->same_key;
    if (has_slots && conf->queue.priority != NULL)
        entry->priority = weir_fields_lower(conf->queue.priority);
    entry->has_queue = has_slots && conf->queue.size != 0 && conf->mode != WEIR_LIMIT_SHADOW;
    plan->is_plain &= !has_slots && conf->unit == WEIR_UNIT_REQUESTS;
    plan->needs_body |= conf->unit == WEIR_UNIT_LLM_TOKENS || weir_limit_key_counts_by(conf, WEIR_KEY_MODEL);
    plan->needs_size |= conf->unit == WEIR_UNIT_REQUEST_BYTES;
    plan->texts[plan->count++] = &plans->texts[limit];
}

static void add_entries(weir_limit_plan_t *plan, const weir_limit_plans_t *plans, const weir_conf_listener_t *listener,
                        const weir_conf_route_t *route, const named_t *named)
{
    plan->id = weir_limit_key_route(plans->store, listener, route);
    plan->upstream = &plans->conf->upstreams.entries[route->upstream];
    plan->is_plain = true;
    plan->entries = zeroed(named->count, sizeof(*plan->entries));
    for (size_t i = 0; i < named->count; ++i)
        add_entry(plan, plans, named->limits[i], listener);
}

static void plan_init(weir_limit_plan_t *plan, const weir_limit_plans_t *plans, const weir_conf_listener_t *listener,
                      const weir_conf_route_t *route)
{
    named_t named = named_by(plans, route), early = early_of(&named, plans->conf);
    add_entries(plan, plans, listener, route, &named);
    plan->needs_body |= plan->upstream->dialect != WEIR_DIALECT_PLAIN; /* `meter` reads it, and it may trickle in */
    if (early.count == 0 || (!plan->needs_body && !plan->needs_size))
        return;
    plan->early = zeroed(1, sizeof(*plan->early));
    add_entries(plan->early, plans, listener, route, &early);
}

static void plan_dispose(weir_limit_plan_t *plan)
{
    if (plan->early != NULL)
        plan_dispose(plan->early);
    free(plan->early);
    for (size_t i = 0; i < plan->count; ++i) {
        weir_limit_key_dispose(&plan->entries[i].key);
        free((char *)plan->entries[i].priority.base);
    }
    free(plan->entries);
}

/* Of all */

weir_limit_plans_t *weir_limit_plans_create(const weir_conf_t *conf, weir_store_t *store, weir_limit_part_t part)
{
    weir_limit_plans_t *plans = zeroed(1, sizeof(*plans));
    *plans = (weir_limit_plans_t){
        .part = part,
        .conf = conf,
        .store = store,
        .states = zeroed(conf->limits.size, sizeof(*plans->states)),
        .texts = zeroed(conf->limits.size, sizeof(*plans->texts)),
        .plans = zeroed(conf->listeners.size, sizeof(*plans->plans)),
    };
    for (size_t i = 0; i < conf->limits.size; ++i) {
        plans->states[i] = store->limit_acquire(store, &conf->limits.entries[i]);
        weir_limit_text_init(&plans->texts[i], &conf->limits.entries[i]);
    }
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        const weir_conf_listener_t *listener = &conf->listeners.entries[i];
        plans->plans[i] = zeroed(listener->routes.size, sizeof(*plans->plans[i]));
        for (size_t j = 0; j < listener->routes.size; ++j)
            plan_init(&plans->plans[i][j], plans, listener, &listener->routes.entries[j]);
    }
    return plans;
}

void weir_limit_plans_destroy(weir_limit_plans_t *plans)
{
    for (size_t i = 0; i < plans->conf->listeners.size; ++i) {
        for (size_t j = 0; j < plans->conf->listeners.entries[i].routes.size; ++j)
            plan_dispose(&plans->plans[i][j]);
        free(plans->plans[i]);
    }
    for (size_t i = 0; i < plans->conf->limits.size; ++i) {
        plans->store->limit_release(plans->store, plans->states[i]);
        weir_limit_text_dispose(&plans->texts[i]);
    }
    free(plans->plans);
    free(plans->texts);
    free(plans->states);
    free(plans);
}

const weir_limit_plan_t *weir_limit_plan_of(const weir_limit_plans_t *plans, const weir_request_t *request)
{
    size_t listener = (size_t)(request->listener - plans->conf->listeners.entries);
    assert(listener < plans->conf->listeners.size);
    size_t route = (size_t)(request->route - request->listener->routes.entries);
    assert(route < request->listener->routes.size);
    return &plans->plans[listener][route];
}

/* Of one request */

static const weir_conf_quota_t *quota_of(const weir_conf_limit_t *limit, weir_str_t tenant)
{
    return limit->tenants.size == 0 ? &limit->quota : weir_conf_quota_of(limit, tenant.base, tenant.len);
}

/* What a call may come to: its body, and what it asks for at most. A first one always fits. */
static int64_t token_cost(const weir_conf_upstream_usage_t *conf, const weir_request_t *request, int64_t most)
{
    uint64_t bytes = request->body_bytes > 0 ? (uint64_t)request->body_bytes : 0;
    int64_t asked = request->picked != NULL && request->picked->max_tokens > 0 ? request->picked->max_tokens : 0;
    weir_usage_t usage = {.input = weir_meter_tokens(bytes, conf), .output = asked};
    int64_t cost = weir_meter_weigh(&usage, conf);
    return cost < 1 ? 1 : cost < most ? cost : most;
}

/* Nobody has the id that weir makes, so there is nothing to count yet: callers who send none fill no table. */
static bool begins_chain(const weir_request_t *request)
{
    return request->correlation_is_new || request->correlation_id.len == 0;
}

static int64_t cost_of(const weir_limit_plan_t *plan, const weir_limit_entry_t *entry, const weir_request_t *request,
                       const weir_conf_quota_t *quota)
{
    if (entry->is_of_chains && begins_chain(request))
        return 0;
    switch (entry->conf->unit) {
    case WEIR_UNIT_LLM_TOKENS:
        return token_cost(&plan->upstream->usage, request, weir_store_quota_size(quota));
    case WEIR_UNIT_REQUEST_BYTES:
        return request->body_bytes;
    default:
        return 1;
    }
}

bool weir_limit_plan_awaits(const weir_limit_plan_t *plan, const weir_request_t *request)
{
    if (request->picked != NULL)
        return false;
    return (plan->needs_body && request->body_bytes != 0) || (plan->needs_size && request->body_bytes < 0);
}

void weir_limit_plan_ask(const weir_limit_plans_t *plans, const weir_limit_plan_t *plan, const weir_request_t *request,
                         weir_store_item_t *items)
{
    for (size_t i = 0; i < plan->count; ++i) {
        const weir_limit_entry_t *entry = &plan->entries[i];
        const weir_conf_quota_t *quota = quota_of(entry->conf, request->tenant);
        items[i] = (weir_store_item_t){
            .limit = plans->states[entry->limit],
            .quota = quota,
            .key = entry->same_key < i ? items[entry->same_key].key
                                       : weir_limit_key_of(&entry->key, plans->store, request, plan->id),
            .cost = cost_of(plan, entry, request, quota),
            .shadow = entry->conf->mode == WEIR_LIMIT_SHADOW,
        };
    }
}
