#include "redis_slots.h"

#include <string.h>

static const int64_t RENEW_NS = WEIR_REDIS_SLOT_LEASE_NS / 3;

/* Rings */

static void ring_init(weir_redis_slot_t *ring)
{
    ring->next = ring->previous = ring;
}

static bool ring_is_empty(const weir_redis_slot_t *ring)
{
    return ring->next == ring;
}

static void put_last(weir_redis_slot_t *ring, weir_redis_slot_t *slot)
{
    slot->next = ring;
    slot->previous = ring->previous;
    slot->previous->next = ring->previous = slot;
}

static void take_out(weir_redis_slot_t *slot)
{
    slot->next->previous = slot->previous;
    slot->previous->next = slot->next;
    slot->next = slot->previous = NULL;
}

/* Their ends */

/* The lease may have begun that late: what was asked lay before a server that stood still. */
static bool may_last(const weir_redis_slot_t *slot, int64_t now_ns)
{
    return now_ns - slot->renewed_ns < 2 * WEIR_REDIS_SLOT_LEASE_NS;
}

static void remember(weir_redis_slot_t *slot, int64_t now_ns)
{
    weir_redis_slots_t *slots = slot->slots;
    if (slots->over_count == WEIR_REDIS_SLOTS_OVER_MAX || !may_last(slot, now_ns)) {
        slot->on_gone(slot);
        return;
    }
    put_last(&slots->over, slot);
    ++slots->over_count;
}

static void on_removed(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    weir_redis_slot_t *slot = context;
    if (told == WEIR_REMOTE_ANSWERED && !slot->may_return)
        slot->on_gone(slot);
    else
        remember(slot, now_ns);
}

static bool ask_removal(weir_redis_slot_t *slot)
{
    weir_redis_slots_t *slots = slot->slots;
    weir_redis_args_t args;
    weir_redis_args_init(&args);
    weir_redis_args_put_row(&args, slot->row, slots->remote->sidecar, 1, 0);
    weir_remote_ask_t ask = {
        .script = WEIR_SCRIPT_settle,
        .keys = &slot->row->name,
        .key_count = 1,
        .args = args.entries,
        .arg_count = args.count,
        .timeout_ns = slots->timeout_ns,
        .on_end = on_removed,
        .context = slot,
    };
    slot->may_return = slot->renewal > slots->renewed;
    return slots->remote->ask(slots->remote, &ask);
}

void weir_redis_slots_end(weir_redis_slots_t *slots, weir_redis_slot_t *slot, int64_t now_ns)
{
    if (slot->next != NULL)
        take_out(slot);
    slot->slots = slots;
    if (!ask_removal(slot))
        remember(slot, now_ns);
}

static void remove_again(weir_redis_slots_t *slots, int64_t now_ns)
{
    for (size_t left = slots->over_count; left != 0 && slots->remote->is_up(slots->remote); --left) {
        weir_redis_slot_t *slot = slots->over.next;
        take_out(slot);
        --slots->over_count;
        if (!may_last(slot, now_ns))
            slot->on_gone(slot);
        else if (!ask_removal(slot))
            remember(slot, now_ns);
    }
}

/* Renewal */

void weir_redis_slots_hold(weir_redis_slots_t *slots, weir_redis_slot_t *slot)
{
    slot->slots = slots;
    put_last(&slots->in_use, slot);
}

static bool is_due(const weir_redis_slots_t *slots, const weir_redis_slot_t *slot, int64_t now_ns)
{
    return slot != &slots->in_use && (slot->renewed_ns + RENEW_NS <= now_ns || slot->renewed_ns < slots->back_ns);
}

static bool is_same_key(const weir_redis_slot_t *a, const weir_redis_slot_t *b)
{
    weir_str_t x = a->row->name, y = b->row->name;
    return x.len == y.len && memcmp(x.base, y.base, x.len) == 0;
}

/* Those of one key that are due, as far as one message has room and they are near each other. */
static size_t pick_due(const weir_redis_slots_t *slots, weir_redis_slot_t *picked[WEIR_REDIS_MEMBERS_MAX],
                       int64_t now_ns)
{
    size_t count = 0, seen = 0;
    weir_redis_slot_t *slot = slots->in_use.next;
    for (; seen < WEIR_REDIS_MEMBERS_MAX && is_due(slots, slot, now_ns); slot = slot->next, ++seen)
        if (count == 0 || is_same_key(slot, picked[0]))
            picked[count++] = slot;
    return count;
}

static void on_renewed(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    weir_redis_slots_t *slots = context;
    if (--slots->renewing == 0)
        slots->renewed = slots->renewals;
}

static bool ask_renewal(weir_redis_slots_t *slots, weir_redis_slot_t **picked, size_t count)
{
    weir_redis_args_t args;
    weir_redis_args_init(&args);
    weir_redis_args_put_number(&args, WEIR_REDIS_SLOT_LEASE_NS / 1000);
    for (size_t i = 0; i < count; ++i)
        weir_redis_args_put_member(&args, slots->remote->sidecar, picked[i]->row->id);
    weir_remote_ask_t ask = {
        .script = WEIR_SCRIPT_slots,
        .keys = &picked[0]->row->name,
        .key_count = 1,
        .args = args.entries,
        .arg_count = args.count,
        .timeout_ns = slots->timeout_ns,
        .on_end = on_renewed,
        .context = slots,
    };
    if (!slots->remote->ask(slots->remote, &ask))
        return false;
    ++slots->renewing;
    ++slots->renewals;
    return true;
}

static void renew(weir_redis_slots_t *slots, int64_t now_ns)
{
    weir_redis_slot_t *picked[WEIR_REDIS_MEMBERS_MAX];
    for (size_t count; (count = pick_due(slots, picked, now_ns)) != 0;) {
        if (!ask_renewal(slots, picked, count))
            return;
        for (size_t i = 0; i < count; ++i) {
            take_out(picked[i]);
            picked[i]->renewed_ns = now_ns;
            picked[i]->renewal = slots->renewals;
            put_last(&slots->in_use, picked[i]);
        }
    }
}

void weir_redis_slots_come_back(weir_redis_slots_t *slots, int64_t now_ns)
{
    slots->back_ns = now_ns;
}

void weir_redis_slots_tick(weir_redis_slots_t *slots, int64_t now_ns)
{
    remove_again(slots, now_ns);
    renew(slots, now_ns > slots->back_ns ? now_ns : slots->back_ns);
}

/* All of them */

void weir_redis_slots_init(weir_redis_slots_t *slots, weir_remote_t *remote, int64_t timeout_ns)
{
    *slots = (weir_redis_slots_t){.remote = remote, .timeout_ns = timeout_ns};
    ring_init(&slots->in_use);
    ring_init(&slots->over);
}

static void empty(weir_redis_slot_t *ring)
{
    while (!ring_is_empty(ring)) {
        weir_redis_slot_t *slot = ring->next;
        take_out(slot);
        slot->on_gone(slot);
    }
}

void weir_redis_slots_dispose(weir_redis_slots_t *slots)
{
    empty(&slots->in_use);
    empty(&slots->over);
}
