#include "judge.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "model.h"

enum { BUCKETS = 1 << 13, KEY_TEXT_MAX = 512, WAITING_MAX = 1024 };

/* What one key of a limit has used. */
typedef struct row {
    struct row *next;
    uint64_t hash;
    size_t limit;          /* in judge->limits */
    bool is_shared;        /* what keys share for which there is no room */
    sim_call_t call;       /* one that counts here */
    weir_conf_rate_t rate; /* in force */
    model_bucket_t bucket;
    model_window_t window;
    int64_t reserved;
    int64_t held, told, waiting; /* slots; told: granted, and it did not come for it yet */
    int64_t granted_of;          /* by the limit of those who were granted since it was last looked at; 0: nobody was */
    bool is_granted_by_reload;
    char key[];
} row_t;

/* One limit, over all configurations. */
typedef struct {
    const char *name;
    const weir_conf_limit_t *conf; /* of the configuration in force; NULL: not in it */
    weir_conf_quota_t quota;       /* of that, and since when */
    int64_t changed_ns;
    row_t *shared;
    size_t row_count;
    sim_request_t *waiting[WAITING_MAX]; /* not told; the oldest first */
    size_t waiting_count;
    const sim_request_t *made_room_for; /* who displaced someone last */
} limit_t;

typedef struct {
    size_t limit;      /* in judge->limits */
    size_t conf_index; /* in its configuration's */
    const weir_conf_limit_t *conf;
    const weir_conf_quota_t *quota;
    row_t *row;
    int64_t cost, charged_ns;
    uint64_t charge;
    bool is_charged;
} item_t;

typedef struct {
    size_t count;
    item_t items[WEIR_LIMITS_PER_ROUTE_MAX];
    item_t *waits_for; /* NULL: it does not */
    weir_lane_t lane;
    int64_t entered_ns;
    bool is_told, may_be_displaced, was_overtaken;
    bool is_passed;     /* by the limits */
    size_t waits, left; /* as the observer heard */
} judged_t;

struct judge {
    sim_t *sim;
    size_t limit_count;
    limit_t limits[SIM_LIMITS_MAX];
    row_t *rows[BUCKETS];
    judge_figures_t figures;
    int64_t seen_ns; /* when the store was last asked */
};

/* ---- limits and rows ---- */

static bool is_bucket(const weir_conf_limit_t *conf)
{
    return conf->algorithm == WEIR_LIMIT_TOKEN_BUCKET;
}

static bool is_slots(const weir_conf_limit_t *conf)
{
    return conf->algorithm == WEIR_LIMIT_CONCURRENCY;
}

/* The late end of what a window may say. */
static bool is_late(const weir_conf_limit_t *conf)
{
    return conf->precision == WEIR_PRECISION_SLOTS;
}

static int64_t size_of(const weir_conf_limit_t *conf, const weir_conf_quota_t *quota)
{
    return is_bucket(conf) ? quota->burst : quota->limit;
}

static const char *tenant_of(const sim_call_t *call)
{
    return call->tenant != NULL ? call->tenant : "anonymous";
}

static const weir_conf_quota_t *quota_of(const weir_conf_limit_t *conf, const sim_call_t *call)
{
    for (size_t i = 0; i < conf->tenants.size; ++i)
        if (strcmp(conf->tenants.entries[i].tenant, tenant_of(call)) == 0)
            return &conf->tenants.entries[i].quota;
    return &conf->quota;
}

/* A bucket fills as fast as the configuration in force says; how much it holds is the request's own configuration's. */
static model_rate_t rate_of(const row_t *row, const weir_conf_quota_t *quota)
{
    weir_conf_rate_t rate = row->is_shared ? quota->rate : row->rate;
    return (model_rate_t){rate.count, rate.period_ns, quota->burst};
}

static size_t limit_called(judge_t *judge, const char *name)
{
    for (size_t i = 0; i < judge->limit_count; ++i)
        if (strcmp(judge->limits[i].name, name) == 0)
            return i;
    assert(judge->limit_count < SIM_LIMITS_MAX);
    judge->limits[judge->limit_count].name = strdup(name);
    return judge->limit_count++;
}

static const char *part_of(const weir_conf_key_part_t *part, const sim_call_t *call, const weir_str_t *correlation)
{
    static char route[24], id[WEIR_CORRELATION_ID_MAX + 1];
    switch (part->kind) {
    case WEIR_KEY_TENANT:
        return tenant_of(call);
    case WEIR_KEY_ROUTE:
        snprintf(route, sizeof(route), "%zu", call->route);
        return route;
    case WEIR_KEY_MODEL:
        return call->model != NULL ? call->model : "";
    case WEIR_KEY_CLIENT_IP:
        return call->client_ip != NULL ? call->client_ip : "";
    case WEIR_KEY_CORRELATION:
        snprintf(id, sizeof(id), "%.*s", (int)correlation->len, correlation->base);
        return id;
    case WEIR_KEY_HEADER:
        return call->team != NULL ? call->team : "\t";
    }
    return "";
}

static void write_key(char key[KEY_TEXT_MAX], const weir_conf_limit_t *conf, const sim_call_t *call,
                      weir_str_t correlation)
{
    size_t at = (size_t)snprintf(key, KEY_TEXT_MAX, "%s", conf->name);
    for (size_t i = 0; i < conf->key.size; ++i)
        at += (size_t)snprintf(key + at, KEY_TEXT_MAX - at, "\n%s", part_of(&conf->key.entries[i], call, &correlation));
    assert(at < KEY_TEXT_MAX);
}

static uint64_t hash_of(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *text != 0; ++text)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return hash;
}

static row_t *row_create(size_t limit, const char *key, const sim_call_t *call)
{
    row_t *row = calloc(1, sizeof(*row) + strlen(key) + 1);
    assert(row != NULL);
    row->limit = limit;
    row->call = *call;
    strcpy(row->key, key);
    return row;
}

static void see_rate(judge_t *judge, row_t *row)
{
    const weir_conf_limit_t *conf = judge->limits[row->limit].conf;
    if (conf != NULL)
        row->rate = quota_of(conf, &row->call)->rate;
}

static row_t *row_of(judge_t *judge, const weir_conf_limit_t *conf, const sim_call_t *call, weir_str_t correlation)
{
    char key[KEY_TEXT_MAX];
    write_key(key, conf, call, correlation);
    uint64_t hash = hash_of(key);
    row_t **at = &judge->rows[hash % BUCKETS];
    for (; *at != NULL; at = &(*at)->next)
        if ((*at)->hash == hash && strcmp((*at)->key, key) == 0)
            return *at;
    *at = row_create(limit_called(judge, conf->name), key, call);
    (*at)->hash = hash;
    see_rate(judge, *at);
    ++judge->limits[(*at)->limit].row_count;
    return *at;
}

/* The row that keys share for which there is no room. */
static row_t *shared_row(judge_t *judge, const weir_conf_limit_t *conf, const sim_call_t *call)
{
    limit_t *limit = &judge->limits[limit_called(judge, conf->name)];
    if (limit->shared == NULL) {
        limit->shared = row_create(limit_called(judge, conf->name), "shared", call);
        limit->shared->is_shared = true;
    }
    return limit->shared;
}

/* ---- what a row says ---- */

/* Whether the cost fits, if it is uncertain: at the earliest (early) or for certain (late). */
static bool row_fits(row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, int64_t cost, bool late,
                     int64_t now_ns)
{
    if (is_slots(conf))
        return late ? row->held + row->told < quota->limit && row->waiting == 0 : row->held < quota->limit;
    if (cost == 0 && conf->unit == WEIR_UNIT_REQUEST_BYTES)
        return !is_bucket(conf) || quota->rate.count != 0;
    cost += row->reserved;
    if (is_bucket(conf))
        return model_bucket_fits(&row->bucket, rate_of(row, quota), cost, now_ns);
    return model_window_used(&row->window, quota->window_ns, late && is_late(conf), now_ns) + cost <= quota->limit;
}

static int64_t row_retry_ns(row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, int64_t cost,
                            bool late, int64_t now_ns)
{
    if (is_slots(conf))
        return 0;
    cost += row->reserved;
    if (conf->unit == WEIR_UNIT_LLM_TOKENS && cost > size_of(conf, quota))
        cost = size_of(conf, quota);
    if (is_bucket(conf))
        return model_bucket_retry_ns(&row->bucket, rate_of(row, quota), cost, now_ns);
    return model_window_retry_ns(&row->window, quota->window_ns, quota->limit, late && is_late(conf), cost, now_ns);
}

static int64_t row_remaining(row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, bool late,
                             int64_t now_ns)
{
    int64_t there;
    if (is_slots(conf))
        there = quota->limit - row->held - (late ? row->told : 0);
    else if (is_bucket(conf))
        there = model_bucket_remaining(&row->bucket, rate_of(row, quota), now_ns);
    else
        there = quota->limit - model_window_used(&row->window, quota->window_ns, late && is_late(conf), now_ns);
    there -= row->reserved;
    return there > 0 ? there : 0;
}

static void row_spend(row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, item_t *item,
                      int64_t cost, int64_t now_ns)
{
    if (cost == 0)
        return;
    if (is_bucket(conf))
        model_bucket_take(&row->bucket, rate_of(row, quota), cost, now_ns);
    else
        item->charge = model_window_take(&row->window, cost, now_ns);
}

static void charge(item_t *item, int64_t now_ns)
{
    item->is_charged = true;
    item->charged_ns = now_ns;
    if (is_slots(item->conf))
        ++item->row->held;
    else if (item->conf->unit == WEIR_UNIT_LLM_TOKENS)
        item->row->reserved += item->cost;
    else
        row_spend(item->row, item->conf, item->quota, item, item->cost, now_ns);
}

static void refund(item_t *item, int64_t now_ns)
{
    if (is_slots(item->conf))
        --item->row->held;
    else if (item->conf->unit == WEIR_UNIT_LLM_TOKENS)
        item->row->reserved -= item->cost;
    else if (is_bucket(item->conf))
        model_bucket_put_back(&item->row->bucket, rate_of(item->row, item->quota), item->cost, item->charged_ns,
                              now_ns);
    else if (item->cost != 0)
        model_window_put_back(&item->row->window, item->charge);
}

static void settle(item_t *item, const sim_request_t *request, const weir_outcome_t *outcome)
{
    const weir_usage_t *usage = &request->request.usage;
    int64_t spent = 0;
    if (is_slots(item->conf))
        --item->row->held;
    if (item->conf->unit == WEIR_UNIT_LLM_TOKENS) {
        item->row->reserved -= item->cost;
        spent = outcome->answered && request->request.has_usage ? usage->weighted : 0;
    } else if (item->conf->unit == WEIR_UNIT_REQUEST_BYTES && outcome->body_bytes > item->cost) {
        spent = outcome->body_bytes - item->cost;
    }
    row_spend(item->row, item->conf, item->quota, item, spent, outcome->now_ns);
}

/* ---- a request's items ---- */

static void fail(judge_t *judge, const judged_t *judged, const item_t *item, const char *what)
{
    const row_t *row = item->row;
    char key[KEY_TEXT_MAX];
    snprintf(key, sizeof(key), "%s", row->key);
    for (char *at = key; *at != 0; ++at)
        *at = *at == '\n' ? ' ' : *at;
    sim_fail(judge->sim,
             "%s: %s (cost %" PRId64 " of %" PRId64 ", reserved %" PRId64 ", held %" PRId64 ", told %" PRId64
             ", waiting %" PRId64 ", %s)",
             item->conf->name, what, item->cost, size_of(item->conf, item->quota), row->reserved, row->held, row->told,
             row->waiting, key);
}

static int64_t cost_of(const sim_request_t *request, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota)
{
    if (conf->unit == WEIR_UNIT_REQUEST_BYTES)
        return request->request.body_bytes >= 0 ? request->request.body_bytes : 1;
    if (conf->unit != WEIR_UNIT_LLM_TOKENS)
        return 1;
    int64_t estimate = request->snapshot->conf->upstreams.entries[request->request.route->upstream].usage.estimate;
    int64_t tokens = (request->request.body_bytes + estimate - 1) / estimate;
    tokens += request->call.max_tokens > 0 ? request->call.max_tokens : 0;
    tokens = tokens > 0 ? tokens : 1;
    return tokens < size_of(conf, quota) ? tokens : size_of(conf, quota);
}

static weir_lane_t lane_of(const weir_conf_limit_t *conf, const sim_call_t *call)
{
    const char *priority = conf->queue.priority != NULL && call->priority != NULL ? call->priority : "normal";
    if (strcmp(priority, "urgent") == 0)
        return WEIR_LANE_URGENT;
    return strcmp(priority, "background") == 0 ? WEIR_LANE_BACKGROUND : WEIR_LANE_NORMAL;
}

static bool has_item(const judged_t *judged, size_t conf_index)
{
    for (size_t i = 0; i < judged->count; ++i)
        if (judged->items[i].conf_index == conf_index)
            return true;
    return false;
}

static judged_t *judged_of(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    if (judged != NULL)
        return judged;
    judged = request->judged = calloc(1, sizeof(*judged));
    assert(judged != NULL);
    const weir_conf_route_t *route = request->request.route;
    for (size_t i = 0; i < route->limits.size; ++i) {
        size_t index = route->limits.entries[i];
        if (has_item(judged, index))
            continue;
        const weir_conf_limit_t *conf = &request->snapshot->conf->limits.entries[index];
        const weir_conf_quota_t *quota = quota_of(conf, &request->call);
        judged->items[judged->count++] = (item_t){
            .limit = limit_called(judge, conf->name),
            .conf_index = index,
            .conf = conf,
            .quota = quota,
            .cost = cost_of(request, conf, quota),
            .row = row_of(judge, conf, &request->call, request->request.correlation_id),
        };
    }
    return judged;
}

/* Rows by what the observer heard of this decision. */
static void choose_rows(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i) {
        item_t *item = &judged->items[i];
        bool is_shared = request->seen.is_overflowed[item->conf_index];
        judge->figures.overflowed += is_shared;
        if (is_shared && judge->limits[item->limit].row_count <= (size_t)item->conf->max_keys)
            fail(judge, judged, item, "overflowed, and there was room");
        if (is_shared != item->row->is_shared)
            item->row = is_shared ? shared_row(judge, item->conf, &request->call)
                                  : row_of(judge, item->conf, &request->call, request->request.correlation_id);
    }
}

static bool is_granted(const judged_t *judged, const item_t *item)
{
    return judged->is_told && judged->waits_for == item;
}

/* Whether the item may have been admitted, and whether it had to be. A grant was looked at when it was given. */
static bool may_fit(const judge_t *judge, const judged_t *judged, item_t *item)
{
    if (is_granted(judged, item))
        return !judged->may_be_displaced;
    if (is_slots(item->conf) && item->row->waiting != 0)
        return false;
    return row_fits(item->row, item->conf, item->quota, item->cost, false, judge->sim->now_ns);
}

static bool must_fit(const judge_t *judge, const judged_t *judged, item_t *item)
{
    if (is_granted(judged, item))
        return !judged->may_be_displaced;
    return row_fits(item->row, item->conf, item->quota, item->cost, true, judge->sim->now_ns);
}

/* ---- queues ---- */

static void leave_line(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    limit_t *limit = &judge->limits[judged->waits_for->limit];
    size_t at = 0;
    while (at < limit->waiting_count && limit->waiting[at] != request)
        ++at;
    assert(at < limit->waiting_count);
    memmove(&limit->waiting[at], &limit->waiting[at + 1], (--limit->waiting_count - at) * sizeof(*limit->waiting));
    --judged->waits_for->row->waiting;
}

/* It does not wait any more, for whatever reason. */
static void stop_waiting(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    if (judged->waits_for == NULL)
        return;
    if (!judged->is_told)
        leave_line(judge, request);
    else if (!judged->may_be_displaced)
        --judged->waits_for->row->told;
    judged->waits_for = NULL;
    judged->is_told = false;
}

static const row_t *row_waited_for(const sim_request_t *request)
{
    return ((const judged_t *)request->judged)->waits_for->row;
}

/* Who waited already when the number changed is served by the one in force. */
static int64_t slots_of(const judge_t *judge, const sim_request_t *request)
{
    const judged_t *judged = request->judged;
    const weir_conf_limit_t *conf = judge->limits[judged->waits_for->limit].conf;
    return judged->entered_ns < judge->limits[judged->waits_for->limit].changed_ns && conf != NULL
               ? quota_of(conf, &request->call)->limit
               : judged->waits_for->quota->limit;
}

/* Whose numbers the queue has. */
static const weir_conf_limit_t *conf_of(const judge_t *judge, const item_t *item)
{
    const weir_conf_limit_t *conf = judge->limits[item->limit].conf;
    return conf != NULL ? conf : item->conf;
}

static size_t waiting_of(const limit_t *limit, const char *tenant)
{
    size_t count = 0;
    for (size_t i = 0; i < limit->waiting_count; ++i)
        count += strcmp(tenant_of(&limit->waiting[i]->call), tenant) == 0;
    return count;
}

static size_t waiting_at_most(const limit_t *limit)
{
    size_t most = 0;
    for (size_t i = 0; i < limit->waiting_count; ++i) {
        size_t count = waiting_of(limit, tenant_of(&limit->waiting[i]->call));
        most = count > most ? count : most;
    }
    return most;
}

static weir_lane_t lane_waited_in(const sim_request_t *request)
{
    return ((const judged_t *)request->judged)->lane;
}

static bool waits_lower(const limit_t *limit, const char *tenant, weir_lane_t lane)
{
    for (size_t i = 0; i < limit->waiting_count; ++i)
        if (lane_waited_in(limit->waiting[i]) > lane && strcmp(tenant_of(&limit->waiting[i]->call), tenant) == 0)
            return true;
    return false;
}

/* Whether the queue takes a newcomer, in somebody's place or not. */
static bool has_room(const limit_t *limit, const weir_conf_limit_t *conf, const sim_call_t *call)
{
    size_t own = waiting_of(limit, tenant_of(call));
    if (waits_lower(limit, tenant_of(call), lane_of(conf, call)))
        return true;
    return own < (size_t)conf->queue.per_tenant_size &&
           (limit->waiting_count < (size_t)conf->queue.size || waiting_at_most(limit) >= own + 2);
}

static bool waits_in(const sim_request_t *request, size_t limit)
{
    const judged_t *judged = request->judged;
    return judged != NULL && judged->waits_for != NULL && judged->waits_for->limit == limit;
}

/* Whether the newcomer, who is being decided, may take this one's place. */
static bool may_displace(const judge_t *judge, const item_t *item, const sim_request_t *newcomer,
                         const sim_request_t *request)
{
    const limit_t *limit = &judge->limits[item->limit];
    const weir_conf_limit_t *conf = conf_of(judge, item);
    if (newcomer == NULL || newcomer->phase == SIM_OVER || waits_in(newcomer, item->limit))
        return false; /* nobody, or who gives back what he was granted there */
    const char *from = tenant_of(&request->call), *to = tenant_of(&newcomer->call);
    bool is_full = limit->waiting_count >= (size_t)conf->queue.size;
    if (strcmp(from, to) == 0)
        return (is_full || waiting_of(limit, to) >= (size_t)conf->queue.per_tenant_size) &&
               lane_waited_in(request) > lane_of(conf, &newcomer->call);
    return is_full && waiting_of(limit, from) == waiting_at_most(limit) &&
           waiting_of(limit, from) >= waiting_of(limit, to) + 2;
}

/* That its slot could have gone to. */
static bool has_older(const judge_t *judge, const limit_t *limit, const sim_request_t *request)
{
    const judged_t *judged = request->judged;
    for (size_t i = 0; i < limit->waiting_count && limit->waiting[i] != request; ++i)
        if (lane_waited_in(limit->waiting[i]) == judged->lane &&
            row_waited_for(limit->waiting[i]) == judged->waits_for->row &&
            slots_of(judge, limit->waiting[i]) >= slots_of(judge, request))
            return true;
    return false;
}

static void note_told(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    limit_t *limit = &judge->limits[judged->waits_for->limit];
    judged->was_overtaken = has_older(judge, limit, request);
    judged->may_be_displaced = may_displace(judge, judged->waits_for, judge->sim->asking, request);
    leave_line(judge, request);
    judged->is_told = true;
    if (judged->may_be_displaced) {
        limit->made_room_for = judge->sim->asking;
        return;
    }
    row_t *row = judged->waits_for->row;
    ++row->told;
    if (judge->sim->asking == NULL) /* by a new configuration, which judge_reloaded sees next */
        row->is_granted_by_reload = true;
    else if (slots_of(judge, request) > row->granted_of)
        row->granted_of = slots_of(judge, request);
}

void judge_told(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    if (request == judge->sim->asking) /* where those who wait before it have a smaller limit; judge_await sees to it */
        return;
    if (judged == NULL || judged->waits_for == NULL || judged->is_told) {
        sim_fail(judge->sim, "told a request that does not wait, or knows already");
        return;
    }
    note_told(judge, request);
}

static bool has_queue(const item_t *item)
{
    return is_slots(item->conf) && item->conf->queue.size > 0 && item->conf->mode == WEIR_LIMIT_ENFORCE;
}

/* Limits differ in their wait: the deadline tells which one it waits for. */
static item_t *item_waited_for(judged_t *judged, const sim_request_t *request, int64_t until_ns)
{
    for (size_t i = 0; i < judged->count; ++i) {
        int64_t wait_ns = judged->items[i].conf->queue.wait_ns;
        if (has_queue(&judged->items[i]) &&
            (until_ns == request->arrived_ns + wait_ns || until_ns == request->decided_ns + wait_ns))
            return &judged->items[i];
    }
    return NULL;
}

/* Who waits when there is less room than before stays; newcomers come in his place then. */
static void check_room(judge_t *judge, const sim_request_t *request, const judged_t *judged, const item_t *item)
{
    const limit_t *limit = &judge->limits[item->limit];
    const weir_conf_limit_t *conf = conf_of(judge, item);
    if (limit->made_room_for == request)
        return;
    if (limit->waiting_count > (size_t)conf->queue.size)
        fail(judge, judged, item, "more wait than the queue has places");
    if (waiting_of(limit, tenant_of(&request->call)) > (size_t)conf->queue.per_tenant_size)
        fail(judge, judged, item, "more of one tenant wait than may");
}

static void enter_line(judge_t *judge, sim_request_t *request, judged_t *judged, item_t *item)
{
    limit_t *limit = &judge->limits[item->limit];
    assert(limit->waiting_count < WAITING_MAX);
    judged->waits_for = item;
    judged->lane = lane_of(item->conf, &request->call);
    judged->entered_ns = judge->sim->now_ns;
    judged->was_overtaken = judged->may_be_displaced = false;
    ++judged->waits;
    ++judge->figures.waited;
    limit->waiting[limit->waiting_count++] = request;
    ++item->row->waiting;
    check_room(judge, request, judged, item);
}

/* ---- verdicts ---- */

static bool is_refused(const sim_request_t *request, const item_t *item)
{
    return request->seen.is_decided[item->conf_index] &&
           request->seen.decision[item->conf_index] != WEIR_DECISION_ADMITTED;
}

static bool is_violated(const weir_verdict_t *verdict, const item_t *item)
{
    for (size_t i = 0; i < verdict->violated_count; ++i)
        if (strcmp(verdict->violated[i], item->conf->name) == 0)
            return true;
    return false;
}

static void check_admitted(judge_t *judge, judged_t *judged, item_t *item)
{
    if (!may_fit(judge, judged, item))
        fail(judge, judged, item, "admitted over the bound");
}

static void check_refused(judge_t *judge, judged_t *judged, item_t *item)
{
    if (must_fit(judge, judged, item))
        fail(judge, judged, item, "refused without a cause");
}

static void judge_pass(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    if (judged->waits_for != NULL && !judged->is_told)
        fail(judge, judged, judged->waits_for, "admitted from the middle of the line");
    if (judged->waits_for != NULL && judged->was_overtaken)
        fail(judge, judged, judged->waits_for, "granted before an older one of its lane");
    for (size_t i = 0; i < judged->count; ++i) {
        item_t *item = &judged->items[i];
        bool is_shadow = item->conf->mode == WEIR_LIMIT_SHADOW;
        if (!request->seen.is_decided[item->conf_index] || (!is_shadow && is_refused(request, item)))
            fail(judge, judged, item, "passed, and the observer was told something else");
        if (is_refused(request, item)) {
            check_refused(judge, judged, item);
            ++judge->figures.shadow_refused;
        } else {
            check_admitted(judge, judged, item);
        }
    }
    ++judge->figures.admitted;
    judged->is_passed = true;
    stop_waiting(judge, request);
    for (size_t i = 0; i < judged->count; ++i)
        if (!is_refused(request, &judged->items[i]))
            charge(&judged->items[i], judge->sim->now_ns);
}

static void judge_await(judge_t *judge, sim_request_t *request, judged_t *judged, int64_t until_ns)
{
    item_t *item = item_waited_for(judged, request, until_ns);
    if (item == NULL) {
        sim_fail(judge->sim, "waits until %" PRId64 ", which is no queue's wait after its arrival", until_ns);
        return;
    }
    if (until_ns <= judge->sim->now_ns)
        fail(judge, judged, item, "waits beyond its deadline");
    if (judged->waits_for == item && !judged->is_told)
        return;
    for (size_t i = 0; i < judged->count; ++i)
        if (&judged->items[i] != item && !is_slots(judged->items[i].conf) &&
            judged->items[i].conf->mode == WEIR_LIMIT_ENFORCE)
            check_admitted(judge, judged, &judged->items[i]);
    if (judge->limits[item->limit].made_room_for != request) /* else someone waited, and has just left for it */
        check_refused(judge, judged, item);
    stop_waiting(judge, request);
    enter_line(judge, request, judged, item);
    if (request->is_told_inside)
        note_told(judge, request);
}

/* What is told for never is an hour. */
static int64_t longer(int64_t a, int64_t b)
{
    b = b < 0 ? H : b;
    return a > b ? a : b;
}

static void check_retry(judge_t *judge, judged_t *judged, const weir_verdict_t *verdict)
{
    int64_t early_ns = 0, late_ns = 0, said_ns = verdict->retry_after_ns;
    for (size_t i = 0; i < judged->count; ++i) {
        item_t *item = &judged->items[i];
        if (!is_violated(verdict, item))
            continue;
        int64_t now_ns = judge->sim->now_ns;
        int64_t early = row_retry_ns(item->row, item->conf, item->quota, item->cost, false, now_ns);
        int64_t late = row_retry_ns(item->row, item->conf, item->quota, item->cost, true, now_ns);
        if (late == 0) /* slots and reservations: nobody knows */
            early = late = S;
        early_ns = longer(early_ns, early);
        late_ns = longer(late_ns, item->row->reserved != 0 && late >= 0 && late < S ? S : late);
    }
    if (said_ns < early_ns || said_ns > late_ns)
        sim_fail(judge->sim, "Retry-After is %" PRId64 " ns, which is not from %" PRId64 " to %" PRId64, said_ns,
                 early_ns, late_ns);
}

static void judge_limit(judge_t *judge, sim_request_t *request, judged_t *judged, const weir_verdict_t *verdict)
{
    ++judge->figures.refused;
    bool is_by_limit = false;
    for (size_t i = 0; i < judged->count; ++i) {
        item_t *item = &judged->items[i];
        bool is_shadow = item->conf->mode == WEIR_LIMIT_SHADOW;
        if (is_violated(verdict, item) != (!is_shadow && is_refused(request, item)))
            fail(judge, judged, item, "what the caller is told is not what the observer was told");
        is_by_limit |= is_violated(verdict, item) && !has_queue(item);
        if (is_refused(request, item))
            check_refused(judge, judged, item);
        else
            check_admitted(judge, judged, item);
    }
    if (!is_by_limit)
        sim_fail(judge->sim, "refused by no limit, or by slots alone that have a queue");
    check_retry(judge, judged, verdict);
}

static bool is_queue_full(judge_t *judge, const sim_request_t *request, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i) {
        item_t *item = &judged->items[i];
        if (has_queue(item) && item != judged->waits_for && !must_fit(judge, judged, item) &&
            !has_room(&judge->limits[item->limit], conf_of(judge, item), &request->call))
            return true;
    }
    return false;
}

/* Displaced, or there was no room to begin with - where it was granted another limit's slot, too. */
static void judge_queue_full(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    ++judge->figures.refused;
    if (judged->is_told && judged->may_be_displaced)
        ++judge->figures.displaced;
    else if ((judged->waits_for != NULL && !judged->is_told) || !is_queue_full(judge, request, judged))
        sim_fail(judge->sim, "queue_full, and no queue is, and nobody may have displaced it (%s)",
                 tenant_of(&request->call));
}

/* Granted a slot, it would go on to wait for another limit's, and is too late for that. */
static bool is_late_for_next(const judge_t *judge, const sim_request_t *request, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i)
        if (judged->is_told && &judged->items[i] != judged->waits_for && has_queue(&judged->items[i]) &&
            judge->sim->now_ns >= request->decided_ns + judged->items[i].conf->queue.wait_ns)
            return true;
    return false;
}

static void judge_queue_timeout(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    ++judge->figures.refused;
    ++judge->figures.timed_out;
    if (judged->waits_for == NULL)
        sim_fail(judge->sim, "queue_timeout, and it did not wait");
    else if (is_late_for_next(judge, request, judged))
        judged->waits += judged->left - judged->waits;
    else if (judge->sim->now_ns < request->until_ns)
        fail(judge, judged, judged->waits_for, "queue_timeout too early");
}

static void judge_answer(judge_t *judge, sim_request_t *request, judged_t *judged, const weir_verdict_t *verdict)
{
    switch (verdict->reason) {
    case WEIR_REASON_LIMIT:
        judge_limit(judge, request, judged, verdict);
        break;
    case WEIR_REASON_QUEUE_FULL:
        judge_queue_full(judge, request, judged);
        break;
    case WEIR_REASON_QUEUE_TIMEOUT:
        judge_queue_timeout(judge, request, judged);
        break;
    default:
        sim_fail(judge->sim, "an answer of its own: %s", weir_reason_word(verdict->reason));
        break;
    }
    stop_waiting(judge, request);
}

/* No slot may be free while someone waits for it, and none is granted beyond the limit. */
static void check_line(judge_t *judge, row_t *row)
{
    const limit_t *limit = &judge->limits[row->limit];
    int64_t used = row->held + row->told, granted_of = row->granted_of;
    row->granted_of = 0;
    if (limit->conf == NULL || !is_slots(limit->conf) || row->is_shared)
        return;
    for (size_t i = 0; row->waiting != 0 && i < limit->waiting_count; ++i)
        if (row_waited_for(limit->waiting[i]) == row && used < slots_of(judge, limit->waiting[i]))
            sim_fail(judge->sim, "%s: %" PRId64 " of %" PRId64 " slots are used, and %" PRId64 " wait for one",
                     limit->name, used, slots_of(judge, limit->waiting[i]), row->waiting);
    if (granted_of != 0 && used > granted_of)
        sim_fail(judge->sim, "%s: granted, and %" PRId64 " of %" PRId64 " slots are used", limit->name, used,
                 granted_of);
}

static void check_lines(judge_t *judge, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i)
        check_line(judge, judged->items[i].row);
}

/* The limits have, where it is another filter that asks for the body. */
static bool is_anything_decided(const sim_request_t *request)
{
    for (size_t i = 0; i < SIM_LIMITS_MAX; ++i)
        if (request->seen.is_decided[i])
            return true;
    return false;
}

void judge_verdict(judge_t *judge, sim_request_t *request, const weir_verdict_t *verdict)
{
    if (verdict->kind == WEIR_NEED_BODY && !is_anything_decided(request))
        return;
    judged_t *judged = judged_of(judge, request);
    judged->left += request->seen.left_queue;
    if (judged->is_passed)
        return;
    choose_rows(judge, request, judged);
    judge->seen_ns = judge->sim->now_ns;
    if (verdict->kind == WEIR_PASS || verdict->kind == WEIR_NEED_BODY)
        judge_pass(judge, request, judged);
    else if (verdict->kind == WEIR_AWAIT)
        judge_await(judge, request, judged, verdict->until_ns);
    else
        judge_answer(judge, request, judged, verdict);
    check_lines(judge, judged);
}

/* ---- ends ---- */

static bool is_callers_doing(weir_reason_t reason)
{
    return reason == WEIR_REASON_CLIENT_GONE || reason == WEIR_REASON_TIMEOUT_CLIENT ||
           reason == WEIR_REASON_MALFORMED || reason == WEIR_REASON_BODY_TOO_LARGE;
}

void judge_ended(judge_t *judge, sim_request_t *request, const weir_outcome_t *outcome)
{
    judged_t *judged = request->judged;
    if (judged == NULL)
        return;
    judged->left += request->seen.left_queue;
    stop_waiting(judge, request);
    bool is_refund = outcome->reason != WEIR_REASON_NONE && !outcome->ran && !is_callers_doing(outcome->reason);
    for (size_t i = 0; i < judged->count; ++i) {
        item_t *item = &judged->items[i];
        if (!item->is_charged)
            continue;
        if (is_refund || is_slots(item->conf) || item->conf->unit != WEIR_UNIT_REQUESTS)
            judge->seen_ns = judge->sim->now_ns;
        judge->figures.refunded += is_refund;
        judge->figures.settled += !is_refund;
        if (is_refund)
            refund(item, outcome->now_ns);
        else
            settle(item, request, outcome);
    }
    check_lines(judge, judged);
    if (judged->left != judged->waits)
        sim_fail(judge->sim, "the observer heard of %zu ends of waiting, and there were %zu", judged->left,
                 judged->waits);
    free(judged);
    request->judged = NULL;
}

/* ---- peeking ---- */

static void peek_row(judge_t *judge, const weir_limit_explained_t *told, row_t *row, const sim_call_t *call)
{
    const weir_conf_limit_t *conf = told->limit;
    const weir_conf_quota_t *quota = quota_of(conf, call);
    int64_t now_ns = judge->sim->now_ns;
    int64_t most = row_remaining(row, conf, quota, false, now_ns),
            least = row_remaining(row, conf, quota, true, now_ns);
    if (told->quota != size_of(conf, quota) || told->item.remaining < least || told->item.remaining > most)
        sim_fail(judge->sim,
                 "%s: %" PRId64 " of %" PRId64 " remain, says explain; it is from %" PRId64 " to %" PRId64
                 " of %" PRId64 " (%s)",
                 conf->name, told->item.remaining, told->quota, least, most, size_of(conf, quota), told->key);
    if (is_bucket(conf) && conf->unit != WEIR_UNIT_LLM_TOKENS &&
        told->item.reset_ns != model_bucket_reset_ns(&row->bucket, rate_of(row, quota), now_ns))
        sim_fail(judge->sim, "%s: all is back in %" PRId64 " ns, says explain; it is %" PRId64, conf->name,
                 told->item.reset_ns, model_bucket_reset_ns(&row->bucket, rate_of(row, quota), now_ns));
}

void judge_peek(judge_t *judge, const sim_call_t *call)
{
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t count = sim_explain(judge->sim, call, explained);
    judge->seen_ns = judge->sim->now_ns;
    const char *correlation = call->correlation != NULL ? call->correlation : "none";
    for (size_t i = 0; i < count; ++i) {
        const weir_conf_limit_t *conf = explained[i].limit;
        weir_str_t id = {correlation, strlen(correlation)};
        row_t *row = explained[i].item.overflowed ? shared_row(judge, conf, call) : row_of(judge, conf, call, id);
        peek_row(judge, &explained[i], row, call);
    }
}

/* ---- the whole ---- */

static void each_row(judge_t *judge, void (*visit)(judge_t *judge, row_t *row))
{
    for (size_t i = 0; i < BUCKETS; ++i)
        for (row_t *row = judge->rows[i], *next; row != NULL; row = next) {
            next = row->next;
            visit(judge, row);
        }
    for (size_t i = 0; i < judge->limit_count; ++i)
        if (judge->limits[i].shared != NULL)
            visit(judge, judge->limits[i].shared);
}

static void check_row(judge_t *judge, row_t *row)
{
    if (row->held != 0 || row->told != 0 || row->waiting != 0 || row->reserved != 0)
        sim_fail(judge->sim,
                 "%s: the judge itself has %" PRId64 " held, %" PRId64 " told, %" PRId64 " waiting, %" PRId64
                 " reserved at the end",
                 judge->limits[row->limit].name, row->held, row->told, row->waiting, row->reserved);
    judge_peek(judge, &row->call);
}

/* The longest that any row takes to be as new. */
static int64_t longest_reset_ns;

static void see_reset(judge_t *judge, row_t *row)
{
    const weir_conf_limit_t *conf = judge->limits[row->limit].conf;
    if (conf == NULL || is_slots(conf))
        return;
    const weir_conf_quota_t *quota = quota_of(conf, &row->call);
    int64_t ns = is_bucket(conf) ? model_bucket_reset_ns(&row->bucket, rate_of(row, quota), judge->sim->now_ns)
                                 : model_window_reset_ns(&row->window, quota->window_ns, true, judge->sim->now_ns);
    longest_reset_ns = ns > longest_reset_ns ? ns : longest_reset_ns;
}

static void check_is_new(judge_t *judge, row_t *row)
{
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t count = sim_explain(judge->sim, &row->call, explained);
    for (size_t i = 0; i < count; ++i)
        if (explained[i].item.remaining != explained[i].quota &&
            (!is_bucket(explained[i].limit) || explained[i].item.quota->rate.count != 0))
            sim_fail(judge->sim, "%s: %" PRId64 " of %" PRId64 " remain, long after the last end (%s)",
                     explained[i].limit->name, explained[i].item.remaining, explained[i].quota, explained[i].key);
}

void judge_finish(judge_t *judge)
{
    sim_t *sim = judge->sim;
    sim_run(sim, INT64_MAX);
    if (sim->live != 0)
        sim_fail(sim, "%zu requests never ended", sim->live);
    each_row(judge, check_row);
    longest_reset_ns = 0;
    each_row(judge, see_reset);
    sim_run(sim, sim->now_ns + longest_reset_ns);
    each_row(judge, check_is_new);
    for (size_t i = 0; i < judge->limit_count; ++i)
        if (sim_queue_depth(sim, judge->limits[i].name) != 0)
            sim_fail(sim, "%s: %zu wait, and nobody is there", judge->limits[i].name,
                     sim_queue_depth(sim, judge->limits[i].name));
}

static void settle_bucket(judge_t *judge, row_t *row)
{
    weir_conf_quota_t quota = {.rate = row->rate};
    model_bucket_settle(&row->bucket, rate_of(row, &quota), judge->seen_ns);
}

static void look_at_new(judge_t *judge, row_t *row)
{
    see_rate(judge, row);
    if (row->is_granted_by_reload)
        row->granted_of = quota_of(judge->limits[row->limit].conf, &row->call)->limit;
    row->is_granted_by_reload = false;
    check_line(judge, row);
}

void judge_reloaded(judge_t *judge)
{
    const weir_conf_t *conf = judge->sim->snapshot->conf;
    each_row(judge, settle_bucket);
    for (size_t i = 0; i < judge->limit_count; ++i)
        judge->limits[i].conf = NULL;
    for (size_t i = 0; i < conf->limits.size; ++i) {
        size_t limit = limit_called(judge, conf->limits.entries[i].name);
        judge->limits[limit].conf = &conf->limits.entries[i];
        if (memcmp(&judge->limits[limit].quota, &conf->limits.entries[i].quota, sizeof(weir_conf_quota_t)) != 0)
            judge->limits[limit].changed_ns = judge->sim->now_ns;
        judge->limits[limit].quota = conf->limits.entries[i].quota;
    }
    each_row(judge, look_at_new);
}

judge_t *judge_create(sim_t *sim)
{
    judge_t *judge = calloc(1, sizeof(*judge));
    assert(judge != NULL);
    judge->sim = sim;
    judge_reloaded(judge);
    return judge;
}

static void free_row(judge_t *judge, row_t *row)
{
    model_window_dispose(&row->window);
    free(row);
}

void judge_destroy(judge_t *judge)
{
    each_row(judge, free_row);
    for (size_t i = 0; i < judge->limit_count; ++i)
        free((char *)judge->limits[i].name);
    free(judge);
}

judge_figures_t judge_figures(const judge_t *judge)
{
    return judge->figures;
}
