/* How often a key may: every limit of the request's route in one decision of the store, all or nothing. */
#include "filter.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "limit_fields.h"
#include "limit_key.h"
#include "store.h"

/* One limit of one route. */
typedef struct {
    size_t limit;    /* index into conf->limits */
    size_t same_key; /* the first entry of the route that counts by the same key */
    weir_limit_key_t key;
} entry_t;

/* What a request on one route meets. */
typedef struct {
    weir_store_key_t id;
    size_t count;
    entry_t *entries;
    const weir_limit_text_t *texts[WEIR_LIMITS_PER_ROUTE_MAX]; /* of each entry */
} plan_t;

typedef struct {
    const weir_conf_t *conf; /* outlives the instance, as all of a snapshot does */
    weir_store_t *store;
    weir_store_limit_t **states; /* of each limit */
    weir_limit_text_t *texts;    /* of each limit */
    plan_t **plans;              /* of each listener, of each route */
} limit_t;

typedef enum { OPEN, PENDING, CHARGED, REFUSED } phase_t;

typedef struct {
    const plan_t *plan;
    weir_store_item_t *items; /* plan->count */
    int64_t until_ns;
    phase_t phase;
} state_t;

/* The instance */

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count != 0 ? count : 1, size);
    assert(memory != NULL);
    return memory;
}

static bool has_limit(const plan_t *plan, size_t limit)
{
    for (size_t i = 0; i < plan->count; ++i)
        if (plan->entries[i].limit == limit)
            return true;
    return false;
}

static void plan_add(plan_t *plan, const limit_t *self, size_t limit, const weir_conf_listener_t *listener)
{
    entry_t *entry = &plan->entries[plan->count];
    *entry = (entry_t){.limit = limit};
    weir_limit_key_init(&entry->key, &self->conf->limits.entries[limit], listener);
    while (!weir_limit_key_is_same(&plan->entries[entry->same_key].key, &entry->key))
        ++entry->same_key;
    plan->texts[plan->count++] = &self->texts[limit];
}

static void plan_init(plan_t *plan, const limit_t *self, const weir_conf_listener_t *listener,
                      const weir_conf_route_t *route)
{
    assert(route->limits.size <= WEIR_LIMITS_PER_ROUTE_MAX);
    plan->id = weir_limit_key_route(self->store, listener, route);
    plan->entries = zeroed(route->limits.size, sizeof(*plan->entries));
    for (size_t i = 0; i < route->limits.size; ++i)
        if (!has_limit(plan, route->limits.entries[i])) /* named twice is charged once */
            plan_add(plan, self, route->limits.entries[i], listener);
}

static void plan_dispose(plan_t *plan)
{
    for (size_t i = 0; i < plan->count; ++i)
        weir_limit_key_dispose(&plan->entries[i].key);
    free(plan->entries);
}

static void *limit_create(const weir_conf_t *conf, weir_store_t *store)
{
    limit_t *self = zeroed(1, sizeof(*self));
    *self = (limit_t){
        .conf = conf,
        .store = store,
        .states = zeroed(conf->limits.size, sizeof(*self->states)),
        .texts = zeroed(conf->limits.size, sizeof(*self->texts)),
        .plans = zeroed(conf->listeners.size, sizeof(*self->plans)),
    };
    for (size_t i = 0; i < conf->limits.size; ++i) {
        self->states[i] = store->limit_acquire(store, &conf->limits.entries[i]);
        weir_limit_text_init(&self->texts[i], &conf->limits.entries[i]);
    }
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        const weir_conf_listener_t *listener = &conf->listeners.entries[i];
        self->plans[i] = zeroed(listener->routes.size, sizeof(*self->plans[i]));
        for (size_t j = 0; j < listener->routes.size; ++j)
            plan_init(&self->plans[i][j], self, listener, &listener->routes.entries[j]);
    }
    return self;
}

static void limit_destroy(void *instance)
{
    limit_t *self = instance;
    for (size_t i = 0; i < self->conf->listeners.size; ++i) {
        for (size_t j = 0; j < self->conf->listeners.entries[i].routes.size; ++j)
            plan_dispose(&self->plans[i][j]);
        free(self->plans[i]);
    }
    for (size_t i = 0; i < self->conf->limits.size; ++i) {
        self->store->limit_release(self->store, self->states[i]);
        weir_limit_text_dispose(&self->texts[i]);
    }
    free(self->plans);
    free(self->texts);
    free(self->states);
    free(self);
}

/* The question */

static const plan_t *plan_of(const limit_t *self, const weir_request_t *request)
{
    size_t listener = (size_t)(request->listener - self->conf->listeners.entries);
    assert(listener < self->conf->listeners.size);
    size_t route = (size_t)(request->route - request->listener->routes.entries);
    assert(route < request->listener->routes.size);
    return &self->plans[listener][route];
}

static int compare(weir_str_t tenant, const char *name)
{
    if (tenant.len == 0)
        return -1;
    int order = strncmp(tenant.base, name, tenant.len);
    return order != 0 ? order : -(name[tenant.len] != 0);
}

static const weir_conf_quota_t *quota_of(const weir_conf_limit_t *limit, weir_str_t tenant)
{
    size_t low = 0, high = limit->tenants.size;
    while (low != high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(tenant, limit->tenants.entries[middle].tenant);
        if (order == 0)
            return &limit->tenants.entries[middle].quota;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return &limit->quota;
}

static void fill_items(const limit_t *self, const plan_t *plan, const weir_request_t *request, weir_store_item_t *items)
{
    for (size_t i = 0; i < plan->count; ++i) {
        const entry_t *entry = &plan->entries[i];
        const weir_conf_limit_t *limit = &self->conf->limits.entries[entry->limit];
        items[i] = (weir_store_item_t){
            .limit = self->states[entry->limit],
            .quota = quota_of(limit, request->tenant),
            .key = entry->same_key < i ? items[entry->same_key].key
                                       : weir_limit_key_of(&entry->key, self->store, request, plan->id),
            .cost = 1,
            .shadow = limit->mode == WEIR_LIMIT_SHADOW,
        };
    }
}

/* The answer */

/* A limit that would have admitted what another one refused was not charged, and has decided nothing. */
static void observe(const plan_t *plan, const weir_request_t *request, const weir_store_item_t *items, bool admitted)
{
    const weir_observer_t *observer = request->observer;
    if (observer == NULL)
        return;
    for (size_t i = 0; i < plan->count; ++i) {
        size_t limit = plan->entries[i].limit;
        if (!items[i].admitted)
            observer->limit_decided(request, limit,
                                    items[i].shadow ? WEIR_DECISION_SHADOW_REFUSED : WEIR_DECISION_REFUSED);
        else if (admitted)
            observer->limit_decided(request, limit, WEIR_DECISION_ADMITTED);
        if (items[i].overflowed)
            observer->limit_overflowed(request, limit);
    }
}

static weir_verdict_t refusal(const limit_t *self, const plan_t *plan, const weir_request_t *request,
                              const weir_store_item_t *items)
{
    static const int64_t never_ns = WEIR_LIMIT_NEVER_S * INT64_C(1000000000);
    weir_verdict_t verdict = {
        .kind = WEIR_ANSWER, .reason = WEIR_REASON_LIMIT, .status = (int)request->route->on_limit.status};
    for (size_t i = 0; i < plan->count; ++i) {
        if (items[i].admitted || items[i].shadow)
            continue;
        int64_t retry_after_ns = items[i].retry_after_ns < 0 ? never_ns : items[i].retry_after_ns;
        if (retry_after_ns > verdict.retry_after_ns)
            verdict.retry_after_ns = retry_after_ns;
        verdict.violated[verdict.violated_count++] = self->conf->limits.entries[plan->entries[i].limit].name;
    }
    return verdict;
}

static weir_verdict_t settle(const limit_t *self, weir_request_t *request, state_t *state, weir_store_answer_t answer,
                             bool admitted)
{
    if (answer == WEIR_STORE_PENDING) {
        state->phase = PENDING;
        return (weir_verdict_t){.kind = WEIR_AWAIT, .until_ns = state->until_ns};
    }
    state->phase = admitted ? CHARGED : REFUSED;
    observe(state->plan, request, state->items, admitted);
    return admitted ? (weir_verdict_t){.kind = WEIR_PASS} : refusal(self, state->plan, request, state->items);
}

static weir_verdict_t limit_admit(void *instance, weir_request_t *request, void *state_)
{
    const limit_t *self = instance;
    state_t *state = state_;
    if (request->route == NULL)
        return (weir_verdict_t){.kind = WEIR_PASS};
    const plan_t *plan = plan_of(self, request);
    if (plan->count == 0)
        return (weir_verdict_t){.kind = WEIR_PASS};
    state->plan = plan;
    state->items = request->alloc(request, plan->count * sizeof(*state->items));
    state->until_ns = request->now_ns + self->store->timeout_ns;
    fill_items(self, plan, request, state->items);
    bool admitted = false;
    weir_store_answer_t answer =
        self->store->decide(self->store, state->items, plan->count, request->now_ns, request->ticket, &admitted);
    return settle(self, request, state, answer, admitted);
}

static weir_verdict_t limit_wake(void *instance, weir_request_t *request, void *state_)
{
    const limit_t *self = instance;
    state_t *state = state_;
    assert(state->phase == PENDING);
    bool admitted = false;
    weir_store_answer_t answer = self->store->collect(self->store, state->items, state->plan->count, request->now_ns,
                                                      request->ticket, &admitted);
    return settle(self, request, state, answer, admitted);
}

static void limit_head(void *instance, weir_request_t *request, void *state_, weir_answer_t *answer)
{
    const state_t *state = state_;
    if (state->phase == CHARGED || state->phase == REFUSED)
        weir_limit_fields_add(state->items, state->plan->texts, state->plan->count, request, answer);
}

/* Whoever breaks off what he began gets nothing back, or limits would not bind him. */
static bool is_callers_doing(weir_reason_t reason)
{
    switch (reason) {
    case WEIR_REASON_CLIENT_GONE:
    case WEIR_REASON_TIMEOUT_CLIENT:
    case WEIR_REASON_MALFORMED:
    case WEIR_REASON_HEAD_TOO_LARGE:
    case WEIR_REASON_BODY_TOO_LARGE:
        return true;
    default:
        return false;
    }
}

static void limit_done(void *instance, weir_request_t *request, void *state_, const weir_outcome_t *outcome)
{
    const limit_t *self = instance;
    const state_t *state = state_;
    if (state->phase == PENDING)
        self->store->abandon(self->store, request->ticket);
    bool is_refused = outcome->reason != WEIR_REASON_NONE && !outcome->ran && !is_callers_doing(outcome->reason);
    if (state->phase == CHARGED && is_refused)
        self->store->refund(self->store, state->items, state->plan->count, outcome->now_ns);
}

const weir_filter_t weir_filter_limit = {
    .name = "limit",
    .state_size = sizeof(state_t),
    .create = limit_create,
    .destroy = limit_destroy,
    .admit = limit_admit,
    .wake = limit_wake,
    .head = limit_head,
    .done = limit_done,
};
