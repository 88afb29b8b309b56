/* How often a key may: every limit of the request's route in one decision of the store, all or nothing. */
#include "limit.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include "fields.h"
#include "limit_plan.h"

/*   OPEN --early--> REFUSED
 *   OPEN --body--> asked --> PENDING --> collected: PENDING, CHARGED, REFUSED
 *                    |----> QUEUED ---> asked again, or REFUSED for it took too long
 *                    '----> CHARGED, REFUSED */
typedef enum { OPEN, PENDING, QUEUED, CHARGED, REFUSED, ENDED } phase_t;

static const int64_t DOWN_RETRY_NS = 1000000000;

typedef struct {
    const weir_limit_plan_t *plan;
    weir_store_item_t *items; /* plan->count */
    int64_t begun_ns;         /* when the request came */
    int64_t asked_ns;         /* for the first time */
    int64_t pending_ns;       /* since when the answer comes from elsewhere */
    int64_t queued_ns;        /* since when it waits in this queue */
    uint8_t queued;           /* the entry whose queue that is */
    uint8_t phase;
} state_t;

static void *limit_create(const weir_conf_t *conf, weir_store_t *store)
{
    return weir_limit_plans_create(conf, store, WEIR_LIMIT_PART_FIRST);
}

static void *budget_create(const weir_conf_t *conf, weir_store_t *store)
{
    return weir_limit_plans_create(conf, store, WEIR_LIMIT_PART_BUDGET);
}

static void limit_destroy(void *instance)
{
    weir_limit_plans_destroy(instance);
}

/* Priority */

static weir_lane_t lane_of(const weir_request_t *request, weir_str_t header)
{
    static const weir_str_t words[WEIR_LANES] = {{"urgent", 6}, {"normal", 6}, {"background", 10}};
    weir_fields_seen_t seen = weir_fields_see(request, header);
    for (weir_lane_t lane = 0; seen.count == 1 && lane < WEIR_LANES; ++lane)
        if (weir_fields_equal(seen.value, words[lane]))
            return lane;
    return WEIR_LANE_NORMAL;
}

/* Nobody who is not trusted makes himself urgent, here or further on. */
static void drop_claims(const weir_limit_plan_t *plan, weir_request_t *request)
{
    for (size_t i = 0; i < plan->count; ++i) {
        weir_str_t header = plan->entries[i].priority;
        if (header.base == NULL || weir_fields_see(request, header).count == 0)
            continue;
        weir_fields_drop(request, header);
        request->identity_ignored = true;
    }
}

static void set_queueing(const weir_limit_plan_t *plan, weir_request_t *request, weir_store_item_t *items)
{
    for (size_t i = 0; i < plan->count; ++i) {
        const weir_limit_entry_t *entry = &plan->entries[i];
        if (!entry->has_queue)
            continue;
        items[i].queueing = request->alloc(request, sizeof(*items[i].queueing));
        *items[i].queueing = (weir_store_queueing_t){.tenant = request->tenant, .lane = WEIR_LANE_NORMAL};
        if (entry->priority.base != NULL && request->trusted)
            items[i].queueing->lane = lane_of(request, entry->priority);
    }
}

/* The answer */

/* A limit that would have admitted what another one refused was not charged, and has decided nothing. */
static void observe(const weir_limit_plan_t *plan, const weir_request_t *request, const weir_store_item_t *items,
                    bool admitted)
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
        if (items[i].leased)
            observer->limit_leased(request, limit);
    }
}

/* Slots alone are a matter of the queue; whatever else was missed is the limit's. */
static weir_reason_t reason_of(const weir_limit_plan_t *plan, const weir_store_item_t *items)
{
    weir_reason_t reason = WEIR_REASON_LIMIT;
    for (size_t i = 0; i < plan->count; ++i) {
        if (items[i].admitted || items[i].shadow)
            continue;
        if (items[i].refusal == WEIR_STORE_QUEUE_FULL)
            reason = WEIR_REASON_QUEUE_FULL;
        else if (plan->entries[i].conf->algorithm != WEIR_LIMIT_CONCURRENCY)
            return WEIR_REASON_LIMIT;
    }
    return reason;
}

/* When a slot will be free nobody knows. */
static int64_t retry_after_ns_of(const weir_store_item_t *item)
{
    static const int64_t never_ns = WEIR_LIMIT_NEVER_S * INT64_C(1000000000), unknown_ns = 1000000000;
    return item->retry_after_ns < 0 ? never_ns : item->retry_after_ns == 0 ? unknown_ns : item->retry_after_ns;
}

static size_t join(char *out, const char *const *names, size_t count)
{
    char *at = out;
    for (size_t i = 0; i < count; ++i)
        at += sprintf(at, "%s%s", i != 0 ? ", " : "", names[i]);
    return (size_t)(at - out);
}

/* To come again is of no use: these limits never have so much. */
static const char *never_detail(weir_request_t *request, const char *const *limits, size_t count)
{
    static const char format[] = "This request of tenant %.*s needs more than limit%s %.*s ever ha%s";
    char names[WEIR_LIMITS_PER_ROUTE_MAX * 66];
    size_t len = join(names, limits, count), size = sizeof(format) + request->tenant.len + len;
    char *detail = request->alloc(request, size);
    snprintf(detail, size, format, (int)request->tenant.len, request->tenant.base, count > 1 ? "s" : "", (int)len, names,
             count > 1 ? "ve" : "s");
    return detail;
}

static weir_verdict_t refusal(const weir_limit_plan_t *plan, weir_request_t *request, const weir_store_item_t *items,
                              weir_reason_t reason)
{
    weir_verdict_t verdict = {.kind = WEIR_ANSWER, .reason = reason, .status = (int)request->route->on_limit.status};
    const char *never[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t never_count = 0;
    for (size_t i = 0; i < plan->count; ++i) {
        if (items[i].admitted || items[i].shadow)
            continue;
        int64_t retry_after_ns = retry_after_ns_of(&items[i]);
        if (retry_after_ns > verdict.retry_after_ns)
            verdict.retry_after_ns = retry_after_ns;
        if (items[i].retry_after_ns < 0)
            never[never_count++] = plan->entries[i].conf->name;
        verdict.violated[verdict.violated_count++] = plan->entries[i].conf->name;
    }
    if (never_count != 0)
        verdict.detail = never_detail(request, never, never_count);
    return verdict;
}

/* Names of keys, for people */

enum { CLOSE_PARTS = 5 }; /* close is who has a fifth left, or less */

static void note_name(const weir_limit_plans_t *self, const weir_limit_key_t *key, const weir_request_t *request,
                      const weir_store_item_t *item, int64_t quota)
{
    weir_store_t *store = self->store;
    unsigned used_permille = quota > 0 ? (unsigned)((quota - item->remaining) * 1000 / quota) : 1000;
    if (!store->wants_name(store, item, used_permille, request->now_ns))
        return;
    char name[WEIR_LIMIT_KEY_NAME_MAX];
    size_t len = weir_limit_key_name(key, store, request, name);
    store->note_name(store, item, used_permille, request->now_ns, name, len);
}

static void note_names(const weir_limit_plans_t *self, const weir_limit_plan_t *plan, const weir_request_t *request,
                       const weir_store_item_t *items)
{
    for (size_t i = 0; i < plan->count; ++i) {
        int64_t quota = weir_store_quota_size(items[i].quota);
        if (!items[i].admitted || items[i].remaining * CLOSE_PARTS <= quota)
            note_name(self, &plan->entries[i].key, request, &items[i], quota);
    }
}

/* The queue */

static size_t queued_entry(const weir_limit_plan_t *plan, const weir_store_item_t *items)
{
    size_t i = 0;
    while (i < plan->count && (items[i].queueing == NULL || items[i].queueing->place == NULL))
        ++i;
    return i;
}

static void observe_queue(const weir_request_t *request, const state_t *state, int64_t now_ns)
{
    if (request->observer != NULL)
        request->observer->queue_left(request, state->plan->entries[state->queued].limit, now_ns - state->queued_ns);
}

/* It waited, and does no longer, or in another queue. */
static void watch_queue(const weir_request_t *request, state_t *state, int64_t now_ns)
{
    size_t queued = queued_entry(state->plan, state->items);
    if (state->phase == QUEUED && queued == state->queued)
        return;
    if (state->phase == QUEUED)
        observe_queue(request, state, now_ns);
    state->queued = (uint8_t)queued;
    state->queued_ns = now_ns;
}

static weir_verdict_t refuse(const weir_limit_plans_t *self, weir_request_t *request, state_t *state,
                             weir_reason_t reason)
{
    state->phase = REFUSED;
    observe(state->plan, request, state->items, false);
    note_names(self, state->plan, request, state->items);
    return refusal(state->plan, request, state->items, reason);
}

/* Waiting is a part of the route's timeout. */
static int64_t wait_until_ns(const weir_request_t *request, const state_t *state)
{
    const weir_conf_route_t *route = request->route;
    int64_t total_ns = route->timeout_ns != 0 ? route->timeout_ns : request->upstream->timeouts.total_ns;
    int64_t of_queue_ns = state->asked_ns + state->plan->entries[state->queued].conf->queue.wait_ns;
    int64_t of_route_ns = state->begun_ns + total_ns;
    return of_queue_ns < of_route_ns ? of_queue_ns : of_route_ns;
}

static weir_verdict_t wait_in_queue(const weir_limit_plans_t *self, weir_request_t *request, state_t *state)
{
    int64_t until_ns = wait_until_ns(request, state);
    state->phase = QUEUED;
    if (request->now_ns < until_ns)
        return (weir_verdict_t){.kind = WEIR_AWAIT, .until_ns = until_ns};
    self->store->leave(self->store, state->items, state->plan->count, request->now_ns);
    observe_queue(request, state, request->now_ns);
    return refuse(self, request, state, WEIR_REASON_QUEUE_TIMEOUT);
}

static weir_verdict_t wait_for_store(const weir_limit_plans_t *self, weir_request_t *request, state_t *state)
{
    if (state->phase != PENDING)
        state->pending_ns = request->now_ns;
    state->phase = PENDING;
    return (weir_verdict_t){.kind = WEIR_AWAIT, .until_ns = state->pending_ns + self->store->timeout_ns, .is_own = true};
}

/* Nothing was decided. */
static weir_verdict_t answer_down(state_t *state)
{
    state->phase = ENDED;
    return (weir_verdict_t){.kind = WEIR_ANSWER, .reason = WEIR_REASON_STORE_DOWN, .retry_after_ns = DOWN_RETRY_NS};
}

static weir_verdict_t settle(const weir_limit_plans_t *self, weir_request_t *request, state_t *state,
                             weir_store_answer_t answer, bool admitted)
{
    const weir_limit_plan_t *plan = state->plan;
    if (!plan->is_plain)
        watch_queue(request, state, request->now_ns);
    if (answer == WEIR_STORE_QUEUED)
        return wait_in_queue(self, request, state);
    if (answer == WEIR_STORE_PENDING)
        return wait_for_store(self, request, state);
    if (answer == WEIR_STORE_DOWN)
        return answer_down(state);
    if (!admitted)
        return refuse(self, request, state, reason_of(plan, state->items));
    state->phase = CHARGED;
    observe(plan, request, state->items, true);
    note_names(self, plan, request, state->items);
    return (weir_verdict_t){.kind = WEIR_PASS};
}

static weir_verdict_t decide(const weir_limit_plans_t *self, weir_request_t *request, state_t *state)
{
    bool admitted = false;
    weir_store_answer_t answer =
        self->store->decide(self->store, state->items, state->plan->count, request->now_ns, request->ticket, &admitted);
    return settle(self, request, state, answer, admitted);
}

static weir_verdict_t ask(const weir_limit_plans_t *self, weir_request_t *request, state_t *state)
{
    const weir_limit_plan_t *plan = state->plan;
    state->items = request->alloc(request, plan->count * sizeof(*state->items));
    state->asked_ns = request->now_ns;
    weir_limit_plan_ask(self, plan, request, state->items);
    if (!plan->is_plain)
        set_queueing(plan, request, state->items);
    return decide(self, request, state);
}

/* Before the body is read: whoever is over his limit does not make weir hold what he sends. */
static bool is_refused_early(const weir_limit_plans_t *self, weir_request_t *request, state_t *state)
{
    const weir_limit_plan_t *early = state->plan->early;
    weir_store_item_t items[WEIR_LIMITS_PER_ROUTE_MAX];
    bool is_admitted = true;
    if (early == NULL)
        return false;
    weir_limit_plan_ask(self, early, request, items);
    self->store->peek(self->store, items, early->count, request->now_ns);
    for (size_t i = 0; i < early->count; ++i)
        is_admitted &= items[i].admitted;
    if (is_admitted)
        return false;
    state->plan = early;
    state->items = request->alloc(request, early->count * sizeof(*items));
    memcpy(state->items, items, early->count * sizeof(*items));
    return true;
}

static weir_verdict_t limit_admit(void *instance, weir_request_t *request, void *state_)
{
    const weir_limit_plans_t *self = instance;
    state_t *state = state_;
    if (request->route == NULL)
        return (weir_verdict_t){.kind = WEIR_PASS};
    const weir_limit_plan_t *plan = weir_limit_plan_of(self, request);
    if (plan->count == 0)
        return (weir_verdict_t){.kind = WEIR_PASS};
    state->plan = plan;
    state->begun_ns = request->now_ns;
    if (!plan->is_plain && !request->trusted)
        drop_claims(plan, request);
    if (!weir_limit_plan_awaits(plan, request))
        return ask(self, request, state);
    if (is_refused_early(self, request, state))
        return refuse(self, request, state, reason_of(state->plan, state->items));
    return (weir_verdict_t){.kind = WEIR_NEED_BODY};
}

static weir_verdict_t limit_wake(void *instance, weir_request_t *request, void *state_)
{
    const weir_limit_plans_t *self = instance;
    state_t *state = state_;
    if (state->phase == OPEN)
        return ask(self, request, state);
    if (state->phase == QUEUED)
        return decide(self, request, state);
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

/* Whoever breaks off what he began, or sends again what he sent before, gets nothing back, or limits would not bind him. */
static bool is_callers_doing(weir_reason_t reason)
{
    switch (reason) {
    case WEIR_REASON_CLIENT_GONE:
    case WEIR_REASON_TIMEOUT_CLIENT:
    case WEIR_REASON_MALFORMED:
    case WEIR_REASON_HEAD_TOO_LARGE:
    case WEIR_REASON_BODY_TOO_LARGE:
    case WEIR_REASON_DUPLICATE:
    case WEIR_REASON_IN_FLIGHT:
    case WEIR_REASON_UNKNOWN_OUTCOME:
    case WEIR_REASON_KEY_MISMATCH:
    case WEIR_REASON_KEY_MISSING:
    case WEIR_REASON_KEY_INVALID:
        return true;
    default:
        return false;
    }
}

/* An answer of which nothing came has cost nothing. */
static int64_t spent_of(weir_conf_unit_t unit, const weir_request_t *request, const weir_outcome_t *outcome)
{
    switch (unit) {
    case WEIR_UNIT_LLM_TOKENS:
        return outcome->answered && request->has_usage ? request->usage.weighted : 0;
    case WEIR_UNIT_REQUEST_BYTES:
        return outcome->body_bytes;
    default:
        return 0;
    }
}

static void settle_items(const weir_limit_plans_t *self, const weir_request_t *request, const state_t *state,
                         const weir_outcome_t *outcome)
{
    const weir_limit_plan_t *plan = state->plan;
    for (size_t i = 0; i < plan->count; ++i) /* what began a chain costs it nothing later, either */
        state->items[i].spent = state->items[i].cost != 0 ? spent_of(plan->entries[i].conf->unit, request, outcome) : 0;
    self->store->settle(self->store, state->items, plan->count, outcome->now_ns);
}

static void limit_done(void *instance, weir_request_t *request, void *state_, const weir_outcome_t *outcome)
{
    const weir_limit_plans_t *self = instance;
    const state_t *state = state_;
    if (state->phase == PENDING)
        self->store->abandon(self->store, state->items, state->plan->count, outcome->now_ns);
    if (state->phase == QUEUED) {
        self->store->leave(self->store, state->items, state->plan->count, outcome->now_ns);
        observe_queue(request, state, outcome->now_ns);
    }
    if (state->phase != CHARGED)
        return;
    if (outcome->reason != WEIR_REASON_NONE && !outcome->ran && !is_callers_doing(outcome->reason))
        self->store->refund(self->store, state->items, state->plan->count, outcome->now_ns);
    else if (!state->plan->is_plain)
        settle_items(self, request, state, outcome);
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

const weir_filter_t weir_filter_budget = {
    .name = "budget",
    .state_size = sizeof(state_t),
    .create = budget_create,
    .destroy = limit_destroy,
    .admit = limit_admit,
    .wake = limit_wake,
    .head = limit_head,
    .done = limit_done,
};
