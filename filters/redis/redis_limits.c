#include "redis_limits.h"

enum { ITEMS_MAX = WEIR_LIMITS_PER_ROUTE_MAX };

/* Items */

typedef enum {
    IN_MEMORY,
    FREE, /* it costs nothing */
    REMOTE,
} place_t;

/* A rate of 0 refuses all: memory knows that as well. */
static place_t place_of(const weir_store_item_t *item)
{
    bool refuses_all = item->quota->burst != 0 && item->quota->rate.count == 0;
    if (!item->limit->is_shared || item->queueing != NULL || refuses_all)
        return IN_MEMORY;
    return item->cost == 0 ? FREE : REMOTE;
}

static bool is_slot(const weir_store_item_t *item)
{
    return item->limit->algorithm == WEIR_LIMIT_CONCURRENCY;
}

static void answer_unknown(weir_store_item_t *item)
{
    item->kept = WEIR_KEPT_NOWHERE;
    item->admitted = true;
    item->overflowed = false;
    item->refusal = WEIR_STORE_FREE;
    item->charged_ns = -1;
    item->remaining = weir_store_quota_size(item->quota);
    item->reset_ns = -1;
    item->retry_after_ns = 0;
}

static void answer_never(weir_store_item_t *item)
{
    answer_unknown(item);
    item->admitted = false;
    item->refusal = WEIR_STORE_LIMITED;
    item->remaining = 0;
    item->retry_after_ns = -1;
}

/* The part of a decision that memory takes */

typedef struct {
    size_t count;
    uint8_t at[ITEMS_MAX];
    weir_store_item_t items[ITEMS_MAX];
} part_t;

static weir_store_item_t *part_add(part_t *part, const weir_store_item_t *items, size_t at)
{
    part->at[part->count] = (uint8_t)at;
    part->items[part->count] = items[at];
    return &part->items[part->count++];
}

static void mark_kept(weir_store_item_t *items, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        items[i].kept = items[i].charged_ns >= 0 ? WEIR_KEPT_MEMORY : WEIR_KEPT_NOWHERE;
}

static void part_end(const part_t *part, weir_store_item_t *items)
{
    for (size_t i = 0; i < part->count; ++i)
        items[part->at[i]] = part->items[i];
}

static weir_store_answer_t decide_in_memory(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count,
                                            int64_t now_ns, weir_ticket_t ticket, bool *admitted)
{
    weir_store_answer_t answer = limits->memory->decide(limits->memory, items, count, now_ns, ticket, admitted);
    if (answer == WEIR_STORE_DECIDED)
        mark_kept(items, count);
    return answer;
}

static weir_store_answer_t decide_part(weir_redis_limits_t *limits, part_t *part, weir_store_item_t *items,
                                       int64_t now_ns, weir_ticket_t ticket, bool *admitted)
{
    *admitted = true;
    if (part->count == 0)
        return WEIR_STORE_DECIDED;
    weir_store_answer_t answer = decide_in_memory(limits, part->items, part->count, now_ns, ticket, admitted);
    part_end(part, items);
    return answer;
}

/* Others refused: what memory charged is as if it had not been. */
static void give_back_memory(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    weir_store_t *memory = limits->memory;
    for (size_t i = 0; i < count; ++i) {
        weir_store_item_t *item = &items[i];
        if (item->kept != WEIR_KEPT_MEMORY)
            continue;
        memory->refund(memory, item, 1, now_ns);
        item->kept = WEIR_KEPT_NOWHERE;
        item->charged_ns = -1;
        weir_store_item_t now = *item;
        memory->peek(memory, &now, 1, now_ns);
        item->remaining = now.remaining;
        item->reset_ns = now.reset_ns;
    }
}

/* Without Redis */

static void watch(weir_redis_limits_t *limits, weir_redis_worker_t *worker, int64_t now_ns)
{
    weir_remote_t *remote = limits->asking.remote;
    bool is_up = remote->is_up(remote);
    if (weir_redis_outages_note(&limits->outages, &worker->is_down, is_up) && is_up)
        weir_redis_slots_come_back(&worker->slots, now_ns);
}

/* False: it has none. */
static bool set_share(const weir_redis_limits_t *limits, weir_store_item_t *item)
{
    const weir_remote_t *remote = limits->asking.remote;
    uint64_t outage = atomic_load(&limits->outages.number);
    uint64_t draw = weir_redis_share_draw(remote->sidecar, item->key, item->limit->name, outage);
    item->share = weir_redis_share_of(item->quota, atomic_load(&remote->sidecars), draw);
    int64_t size = weir_store_quota_size(&item->share);
    if (size == 0)
        return false;
    item->quota = &item->share;
    if (item->limit->unit == WEIR_UNIT_LLM_TOKENS && item->cost > size)
        item->cost = size;
    return true;
}

static bool is_closed(const weir_store_item_t *items, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (place_of(&items[i]) == REMOTE && items[i].limit->on_failure == WEIR_ON_FAILURE_CLOSED && !items[i].shadow)
            return true;
    return false;
}

/* Returns whether no enforced item's share is nothing at all. */
static bool part_shares(const weir_redis_limits_t *limits, part_t *part, weir_store_item_t *items, size_t count)
{
    bool has_all = true;
    for (size_t i = 0; i < count; ++i) {
        weir_store_item_t *item = &items[i];
        if (place_of(item) != REMOTE)
            continue;
        answer_unknown(item);
        if (item->limit->on_failure != WEIR_ON_FAILURE_LOCAL)
            continue;
        if (set_share(limits, item)) {
            part_add(part, items, i);
            continue;
        }
        answer_never(item);
        has_all &= item->shadow;
    }
    return has_all;
}

static weir_store_answer_t fall_back(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count,
                                     int64_t now_ns, weir_ticket_t ticket, bool *admitted)
{
    weir_store_t *memory = limits->memory;
    part_t part;
    part.count = 0;
    *admitted = false;
    watch(limits, weir_redis_asking_worker(&limits->asking), now_ns);
    if (is_closed(items, count)) {
        give_back_memory(limits, items, count, now_ns);
        return WEIR_STORE_DOWN;
    }
    if (part_shares(limits, &part, items, count)) {
        decide_part(limits, &part, items, now_ns, ticket, admitted);
    } else {
        memory->peek(memory, part.items, part.count, now_ns);
        part_end(&part, items);
    }
    if (!*admitted)
        give_back_memory(limits, items, count, now_ns);
    return WEIR_STORE_DECIDED;
}

/* A decision */

/* Returns which items, by their bits, are remote. */
static unsigned sort_out(weir_store_item_t *items, size_t count, part_t *part)
{
    unsigned remote = 0;
    part->count = 0;
    for (size_t i = 0; i < count; ++i) {
        place_t place = place_of(&items[i]);
        if (place == IN_MEMORY) {
            part_add(part, items, i);
            continue;
        }
        answer_unknown(&items[i]);
        if (place == REMOTE)
            remote |= 1u << i;
        else if (!is_slot(&items[i]))
            items[i].reset_ns = 0;
    }
    return remote;
}

static bool are_in_memory(const weir_store_item_t *items, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (place_of(&items[i]) != IN_MEMORY)
            return false;
    return true;
}

weir_store_answer_t weir_redis_limits_decide(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count,
                                             int64_t now_ns, weir_ticket_t ticket, bool *admitted)
{
    if (are_in_memory(items, count))
        return decide_in_memory(limits, items, count, now_ns, ticket, admitted);
    part_t part;
    unsigned remote = sort_out(items, count, &part);
    weir_store_answer_t answer = decide_part(limits, &part, items, now_ns, ticket, admitted);
    if (answer != WEIR_STORE_DECIDED || !*admitted || remote == 0)
        return answer;
    unsigned wanting;
    bool is_taken = weir_redis_leases_take(limits->leases, items, remote, now_ns, &wanting);
    if (!is_taken)
        items[0].asked = weir_redis_ask(&limits->asking, items, remote, now_ns, ticket);
    weir_redis_leases_renew(limits->leases, items, wanting, now_ns);
    if (is_taken)
        return WEIR_STORE_DECIDED;
    return items[0].asked != NULL ? WEIR_STORE_PENDING : fall_back(limits, items, count, now_ns, ticket, admitted);
}

weir_store_answer_t weir_redis_limits_collect(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count,
                                              int64_t now_ns, weir_ticket_t ticket, bool *admitted)
{
    struct weir_store_asked *asked = items[0].asked;
    weir_redis_asked_phase_t phase = weir_redis_asked_phase(asked, now_ns);
    if (phase == WEIR_REDIS_ASKED_WAITS)
        return WEIR_STORE_PENDING;
    items[0].asked = NULL;
    if (phase == WEIR_REDIS_ASKED_FAILED) {
        weir_redis_asked_let_go(asked, now_ns);
        return fall_back(limits, items, count, now_ns, ticket, admitted);
    }
    *admitted = phase == WEIR_REDIS_ASKED_ADMITTED;
    if (weir_redis_asked_take(asked, items))
        items[0].asked = asked;
    if (!*admitted)
        give_back_memory(limits, items, count, now_ns);
    return WEIR_STORE_DECIDED;
}

void weir_redis_limits_abandon(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    weir_redis_asked_let_go(items[0].asked, now_ns);
    items[0].asked = NULL;
    give_back_memory(limits, items, count, now_ns);
}

/* The end of a request */

static int64_t unspent_of(const weir_store_item_t *item)
{
    return item->limit->unit != WEIR_UNIT_REQUESTS ? item->cost - item->spent : 0;
}

static void end_items(weir_redis_limits_t *limits, const weir_store_item_t *items, size_t count, int64_t now_ns,
                      bool is_refund)
{
    weir_redis_row_t rows[ITEMS_MAX];
    char names[ITEMS_MAX][WEIR_REDIS_ROW_NAME_MAX];
    weir_redis_give_t gives[ITEMS_MAX];
    size_t give_count = 0;
    for (size_t i = 0; i < count; ++i) {
        const weir_store_item_t *item = &items[i];
        int64_t given = is_refund ? item->cost : unspent_of(item);
        if (item->kept != WEIR_KEPT_REMOTE || is_slot(item) || given == 0)
            continue;
        if (weir_redis_leases_put_back(limits->leases, item, given, now_ns))
            continue;
        weir_redis_row_t *row = &rows[give_count];
        weir_redis_row_init(row, item, item->id);
        row->name =
            (weir_str_t){names[give_count], weir_redis_row_name(names[give_count], limits->asking.prefix, item)};
        gives[give_count++] = (weir_redis_give_t){row, given, item->charged_ns / 1000};
    }
    weir_redis_give(&limits->asking, gives, give_count);
    if (items[0].asked != NULL)
        weir_redis_asked_end_slots(items[0].asked, now_ns);
}

void weir_redis_limits_refund(weir_redis_limits_t *limits, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i)
        if (items[i].kept == WEIR_KEPT_MEMORY)
            limits->memory->refund(limits->memory, &items[i], 1, now_ns);
    end_items(limits, items, count, now_ns, true);
}

void weir_redis_limits_settle(weir_redis_limits_t *limits, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i)
        if (items[i].kept == WEIR_KEPT_MEMORY)
            limits->memory->settle(limits->memory, &items[i], 1, now_ns);
    end_items(limits, items, count, now_ns, false);
}

/* By itself */

void weir_redis_limits_peek(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i)
        if (place_of(&items[i]) == IN_MEMORY) {
            limits->memory->peek(limits->memory, &items[i], 1, now_ns);
        } else {
            answer_unknown(&items[i]);
            items[i].is_unknown = true;
        }
}

static bool ask_forget(weir_redis_limits_t *limits, const weir_store_item_t *item)
{
    char text[WEIR_REDIS_ROW_NAME_MAX];
    weir_str_t name = {text, weir_redis_row_name(text, limits->asking.prefix, item)};
    weir_remote_ask_t ask = {
        .script = WEIR_SCRIPT_forget, .keys = &name, .key_count = 1, .timeout_ns = limits->asking.timeout_ns};
    return limits->asking.remote->ask(limits->asking.remote, &ask);
}

bool weir_redis_limits_reset(weir_redis_limits_t *limits, const weir_store_item_t *item, int64_t now_ns)
{
    bool is_reset = limits->memory->reset(limits->memory, item, now_ns); /* of a sidecar's share, too */
    return item->limit->is_shared && !is_slot(item) ? ask_forget(limits, item) : is_reset;
}

bool weir_redis_limits_is_in_memory(const weir_store_item_t *item)
{
    return !item->limit->is_shared || item->queueing != NULL || item->quota == &item->share;
}

/* All of it */

void weir_redis_limits_tick(weir_redis_limits_t *limits, size_t worker, int64_t now_ns)
{
    weir_redis_worker_t *own = &limits->asking.workers[worker];
    watch(limits, own, now_ns);
    weir_redis_slots_tick(&own->slots, now_ns);
    weir_redis_leases_tick(limits->leases, worker, now_ns);
}

void weir_redis_limits_init(weir_redis_limits_t *limits, weir_remote_t *remote, weir_store_t *memory, weir_str_t prefix,
                            int64_t timeout_ns)
{
    *limits = (weir_redis_limits_t){.memory = memory};
    weir_redis_asking_init(&limits->asking, remote, prefix, timeout_ns);
}

void weir_redis_limits_dispose(weir_redis_limits_t *limits)
{
    weir_redis_leases_destroy(limits->leases);
    weir_redis_asking_dispose(&limits->asking);
}
