/* The judge: who waits for a slot, who is granted one, who has to give way. */
#include "judge_parts.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

static weir_lane_t lane_of(const weir_conf_limit_t *conf, const sim_call_t *call)
{
    const char *priority = conf->queue.priority != NULL && call->priority != NULL ? call->priority : "normal";
    if (strcmp(priority, "urgent") == 0)
        return WEIR_LANE_URGENT;
    return strcmp(priority, "background") == 0 ? WEIR_LANE_BACKGROUND : WEIR_LANE_NORMAL;
}

static void leave_line(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    judge_limit_t *limit = &judge->limits[judged->waits_for->limit];
    size_t at = 0;
    while (at < limit->waiting_count && limit->waiting[at] != request)
        ++at;
    assert(at < limit->waiting_count);
    memmove(&limit->waiting[at], &limit->waiting[at + 1], (--limit->waiting_count - at) * sizeof(*limit->waiting));
    --judged->waits_for->row->waiting;
}

void judge_stop_waiting(judge_t *judge, sim_request_t *request)
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

static const judge_row_t *row_waited_for(const sim_request_t *request)
{
    return ((const judged_t *)request->judged)->waits_for->row;
}

void judge_hold(judged_t *judged, const judge_item_t *before)
{
    for (judge_item_t *item = judged->items; item < before; ++item) {
        if (!judge_has_queue(item) || item->cost == 0)
            continue;
        item->row->held += !item->is_held;
        item->is_held = true;
    }
}

void judge_let_go(judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i) {
        judged->items[i].row->held -= judged->items[i].is_held;
        judged->items[i].is_held = false;
    }
}

/* Who waits is served by the number in force, whatever it began with. */
static int64_t slots_of(const judge_t *judge, const sim_request_t *request)
{
    const judged_t *judged = request->judged;
    const weir_conf_limit_t *conf = judge->limits[judged->waits_for->limit].conf;
    return conf != NULL ? judge_quota_of(conf, &request->call)->limit : judged->waits_for->quota->limit;
}

const weir_conf_limit_t *judge_conf_of(const judge_t *judge, const judge_item_t *item)
{
    const weir_conf_limit_t *conf = judge->limits[item->limit].conf;
    return conf != NULL ? conf : item->conf;
}

static size_t waiting_of(const judge_limit_t *limit, const char *tenant)
{
    size_t count = 0;
    for (size_t i = 0; i < limit->waiting_count; ++i)
        count += strcmp(judge_tenant_of(&limit->waiting[i]->call), tenant) == 0;
    return count;
}

static size_t waiting_at_most(const judge_limit_t *limit)
{
    size_t most = 0;
    for (size_t i = 0; i < limit->waiting_count; ++i) {
        size_t count = waiting_of(limit, judge_tenant_of(&limit->waiting[i]->call));
        most = count > most ? count : most;
    }
    return most;
}

static weir_lane_t lane_waited_in(const sim_request_t *request)
{
    return ((const judged_t *)request->judged)->lane;
}

static bool waits_lower(const judge_limit_t *limit, const char *tenant, weir_lane_t lane)
{
    for (size_t i = 0; i < limit->waiting_count; ++i)
        if (lane_waited_in(limit->waiting[i]) > lane && strcmp(judge_tenant_of(&limit->waiting[i]->call), tenant) == 0)
            return true;
    return false;
}

bool judge_has_room(const judge_limit_t *limit, const weir_conf_limit_t *conf, const sim_call_t *call)
{
    size_t own = waiting_of(limit, judge_tenant_of(call));
    if (waits_lower(limit, judge_tenant_of(call), lane_of(conf, call)))
        return true;
    return own < (size_t)conf->queue.per_tenant_size &&
           (limit->waiting_count < (size_t)conf->queue.size || waiting_at_most(limit) >= own + 2);
}

static bool waits_in(const sim_request_t *request, size_t limit)
{
    const judged_t *judged = request->judged;
    return judged != NULL && judged->waits_for != NULL && judged->waits_for->limit == limit;
}

static bool holds_in(const sim_request_t *request, size_t limit)
{
    const judged_t *judged = request->judged;
    for (size_t i = 0; judged != NULL && i < judged->count; ++i)
        if (judged->items[i].limit == limit && judged->items[i].is_held)
            return true;
    return false;
}

/* Whether the newcomer, who is being decided, may take this one's place. */
static bool may_displace(const judge_t *judge, const judge_item_t *item, const sim_request_t *newcomer,
                         const sim_request_t *request)
{
    const judge_limit_t *limit = &judge->limits[item->limit];
    const weir_conf_limit_t *conf = judge_conf_of(judge, item);
    if (newcomer == NULL || newcomer->phase == SIM_OVER || waits_in(newcomer, item->limit) ||
        holds_in(newcomer, item->limit))
        return false; /* nobody, or who gives back what he has there */
    const char *from = judge_tenant_of(&request->call), *to = judge_tenant_of(&newcomer->call);
    bool is_full = limit->waiting_count >= (size_t)conf->queue.size;
    if (strcmp(from, to) == 0)
        return (is_full || waiting_of(limit, to) >= (size_t)conf->queue.per_tenant_size) &&
               lane_waited_in(request) > lane_of(conf, &newcomer->call);
    return is_full && waiting_of(limit, from) == waiting_at_most(limit) &&
           waiting_of(limit, from) >= waiting_of(limit, to) + 2;
}

/* That its slot could have gone to. */
static bool has_older(const judge_t *judge, const judge_limit_t *limit, const sim_request_t *request)
{
    const judged_t *judged = request->judged;
    for (size_t i = 0; i < limit->waiting_count && limit->waiting[i] != request; ++i)
        if (lane_waited_in(limit->waiting[i]) == judged->lane &&
            row_waited_for(limit->waiting[i]) == judged->waits_for->row &&
            slots_of(judge, limit->waiting[i]) >= slots_of(judge, request))
            return true;
    return false;
}

void judge_note_told(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    judge_limit_t *limit = &judge->limits[judged->waits_for->limit];
    judged->was_overtaken = has_older(judge, limit, request);
    judged->may_be_displaced = may_displace(judge, judged->waits_for, judge->sim->asking, request);
    leave_line(judge, request);
    judged->is_told = true;
    if (judged->may_be_displaced) {
        limit->made_room_for = judge->sim->asking;
        return;
    }
    judge_row_t *row = judged->waits_for->row;
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
    judge_note_told(judge, request);
}

bool judge_has_queue(const judge_item_t *item)
{
    return judge_is_slots(item->conf) && item->conf->queue.size > 0 && item->conf->mode == WEIR_LIMIT_ENFORCE;
}

judge_item_t *judge_item_waited_for(judged_t *judged, const sim_request_t *request, int64_t until_ns)
{
    for (size_t i = 0; i < judged->count; ++i) {
        int64_t wait_ns = judged->items[i].conf->queue.wait_ns;
        if (judge_has_queue(&judged->items[i]) &&
            (until_ns == request->arrived_ns + wait_ns || until_ns == request->decided_ns + wait_ns))
            return &judged->items[i];
    }
    return NULL;
}

/* Who waits when there is less room than before stays; newcomers come in his place then. */
static void check_room(judge_t *judge, const sim_request_t *request, const judged_t *judged, const judge_item_t *item)
{
    const judge_limit_t *limit = &judge->limits[item->limit];
    const weir_conf_limit_t *conf = judge_conf_of(judge, item);
    if (limit->made_room_for == request)
        return;
    if (limit->waiting_count > (size_t)conf->queue.size)
        judge_fail(judge, judged, item, "more wait than the queue has places");
    if (waiting_of(limit, judge_tenant_of(&request->call)) > (size_t)conf->queue.per_tenant_size)
        judge_fail(judge, judged, item, "more of one tenant wait than may");
}

void judge_enter_line(judge_t *judge, sim_request_t *request, judged_t *judged, judge_item_t *item)
{
    judge_limit_t *limit = &judge->limits[item->limit];
    assert(limit->waiting_count < JUDGE_WAITING_MAX);
    judged->waits_for = item;
    judged->lane = lane_of(item->conf, &request->call);
    judged->was_overtaken = judged->may_be_displaced = false;
    ++judged->waits;
    ++judge->figures.waited;
    limit->waiting[limit->waiting_count++] = request;
    ++item->row->waiting;
    check_room(judge, request, judged, item);
}

void judge_check_line(judge_t *judge, judge_row_t *row)
{
    const judge_limit_t *limit = &judge->limits[row->limit];
    int64_t used = row->held + row->told, granted_of = row->granted_of;
    row->granted_of = 0;
    if (limit->conf == NULL || !judge_is_slots(limit->conf) || row->is_shared)
        return;
    for (size_t i = 0; row->waiting != 0 && i < limit->waiting_count; ++i)
        if (row_waited_for(limit->waiting[i]) == row && used < slots_of(judge, limit->waiting[i]))
            sim_fail(judge->sim, "%s: %" PRId64 " of %" PRId64 " slots are used, and %" PRId64 " wait for one",
                     limit->name, used, slots_of(judge, limit->waiting[i]), row->waiting);
    if (granted_of != 0 && used > granted_of)
        sim_fail(judge->sim, "%s: granted, and %" PRId64 " of %" PRId64 " slots are used", limit->name, used,
                 granted_of);
}

void judge_check_lines(judge_t *judge, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i)
        judge_check_line(judge, judged->items[i].row);
}
