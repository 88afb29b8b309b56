#include "redis_asked.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ITEMS_MAX = WEIR_LIMITS_PER_ROUTE_MAX, HEAD_NUMBERS = 2, ITEM_NUMBERS = 4 };

/* Of one item. */
typedef struct {
    weir_redis_slot_t slot; /* of kind c */
    weir_redis_row_t row;
    struct weir_store_asked *asked;
    int64_t cost;
    uint8_t index; /* among the request's items */
    uint8_t group; /* of those that are asked in one message */
    bool shadow;
    bool is_told, fits, is_charged;
    int64_t remaining, reset_ns, retry_after_ns;
    int64_t charged_us;
} charge_t;

/* One piece of memory, for the request, its message and its slots; nothing in it is the request's, which may go before.
 */
struct weir_store_asked {
    weir_redis_asking_t *asking;
    weir_ticket_t ticket;
    int64_t asked_ns;
    size_t references;
    uint8_t phase;
    uint8_t count, group, group_count;
    charge_t charges[]; /* the names of their keys come after them */
};
typedef struct weir_store_asked asked_t;

static void release(asked_t *asked)
{
    if (--asked->references == 0)
        free(asked);
}

weir_redis_worker_t *weir_redis_asking_worker(const weir_redis_asking_t *asking)
{
    return &asking->workers[asking->remote->worker(asking->remote)];
}

/* What is given back to Redis */

static void ask_settle(const weir_redis_asking_t *asking, const weir_redis_give_t *gives, size_t count)
{
    weir_str_t keys[ITEMS_MAX];
    weir_redis_args_t args;
    weir_redis_args_init(&args);
    for (size_t i = 0; i < count; ++i) {
        keys[i] = gives[i].row->name;
        weir_redis_args_put_row(&args, gives[i].row, asking->remote->sidecar, gives[i].give, gives[i].charged_us);
    }
    weir_remote_ask_t ask = {
        .script = WEIR_SCRIPT_settle,
        .keys = keys,
        .key_count = count,
        .args = args.entries,
        .arg_count = args.count,
        .timeout_ns = asking->timeout_ns,
    };
    asking->remote->ask(asking->remote, &ask); /* not up: it stays charged until it fills up again */
}

static bool is_same_tag(const weir_redis_row_t *a, const weir_redis_row_t *b)
{
    return a->tag.low == b->tag.low && a->tag.high == b->tag.high;
}

void weir_redis_give(const weir_redis_asking_t *asking, const weir_redis_give_t *gives, size_t count)
{
    weir_redis_give_t group[ITEMS_MAX];
    for (unsigned left = (1u << count) - 1; left != 0;) {
        const weir_redis_row_t *first = gives[__builtin_ctz(left)].row;
        size_t size = 0;
        for (size_t i = 0; i < count; ++i)
            if ((left >> i & 1) != 0 && (!asking->remote->one_slot || is_same_tag(gives[i].row, first))) {
                group[size++] = gives[i];
                left &= ~(1u << i);
            }
        ask_settle(asking, group, size);
    }
}

static void on_slot_gone(weir_redis_slot_t *slot)
{
    charge_t *charge = (charge_t *)((char *)slot - offsetof(charge_t, slot));
    release(charge->asked);
}

static void end_slot(charge_t *charge, int64_t now_ns)
{
    asked_t *asked = charge->asked;
    if (charge->slot.next == NULL)
        ++asked->references;
    weir_redis_slots_end(&weir_redis_asking_worker(asked->asking)->slots, &charge->slot, now_ns);
}

/* All that was charged until now. */
static void give_back(asked_t *asked, int64_t now_ns)
{
    weir_redis_give_t gives[ITEMS_MAX];
    size_t count = 0;
    for (size_t i = 0; i < asked->count; ++i) {
        charge_t *charge = &asked->charges[i];
        if (!charge->is_charged)
            continue;
        charge->is_charged = false;
        charge->remaining += charge->cost;
        if (charge->row.kind == 'c')
            end_slot(charge, now_ns);
        else
            gives[count++] = (weir_redis_give_t){&charge->row, charge->cost, charge->charged_us};
    }
    weir_redis_give(asked->asking, gives, count);
}

/* Asking */

static void on_decided(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns);

static bool ask_group(asked_t *asked)
{
    weir_remote_t *remote = asked->asking->remote;
    weir_str_t keys[ITEMS_MAX];
    size_t key_count = 0;
    weir_redis_args_t args;
    weir_redis_args_init(&args);
    weir_redis_args_put_number(&args, 1);
    for (size_t i = 0; i < asked->count; ++i) {
        const charge_t *charge = &asked->charges[i];
        if (charge->group != asked->group)
            continue;
        keys[key_count++] = charge->row.name;
        weir_redis_args_put_row(&args, &charge->row, remote->sidecar, charge->cost, charge->shadow);
    }
    weir_remote_ask_t ask = {
        .script = WEIR_SCRIPT_decide,
        .keys = keys,
        .key_count = key_count,
        .args = args.entries,
        .arg_count = args.count,
        .timeout_ns = asked->asking->timeout_ns,
        .on_end = on_decided,
        .context = asked,
    };
    bool is_asked = remote->ask(remote, &ask);
    asked->references += is_asked;
    return is_asked;
}

static uint8_t group_of(const asked_t *asked, size_t at)
{
    if (!asked->asking->remote->one_slot)
        return 0;
    for (size_t i = 0; i < at; ++i)
        if (is_same_tag(&asked->charges[i].row, &asked->charges[at].row))
            return asked->charges[i].group;
    return asked->group_count;
}

static uint64_t new_id(const weir_redis_asking_t *asking)
{
    enum { WORKER_SHIFT = 48 };
    return (uint64_t)asking->remote->worker(asking->remote) << WORKER_SHIFT | ++weir_redis_asking_worker(asking)->ids;
}

static void add_charge(asked_t *asked, weir_store_item_t *item, size_t index, uint64_t id, char *name)
{
    charge_t *charge = &asked->charges[asked->count];
    *charge = (charge_t){.asked = asked, .index = (uint8_t)index, .cost = item->cost, .shadow = item->shadow};
    weir_redis_row_init(&charge->row, item, id);
    charge->row.name = (weir_str_t){name, weir_redis_row_name(name, asked->asking->prefix, item)};
    charge->slot.row = &charge->row;
    charge->slot.on_gone = on_slot_gone;
    charge->slot.renewed_ns = asked->asked_ns;
    charge->group = group_of(asked, asked->count++);
    if (charge->group == asked->group_count)
        ++asked->group_count;
    item->id = id;
}

static asked_t *asked_create(weir_redis_asking_t *asking, weir_store_item_t *items, unsigned wanted, int64_t now_ns,
                             weir_ticket_t ticket)
{
    size_t count = (size_t)__builtin_popcount(wanted);
    asked_t *asked = malloc(sizeof(*asked) + count * (sizeof(charge_t) + WEIR_REDIS_ROW_NAME_MAX));
    assert(asked != NULL);
    *asked = (asked_t){.asking = asking, .ticket = ticket, .asked_ns = now_ns, .references = 1};
    char *name = (char *)&asked->charges[count];
    uint64_t id = new_id(asking);
    for (; wanted != 0; wanted &= wanted - 1, name += WEIR_REDIS_ROW_NAME_MAX) {
        size_t i = (size_t)__builtin_ctz(wanted);
        add_charge(asked, &items[i], i, id, name);
    }
    return asked;
}

asked_t *weir_redis_ask(weir_redis_asking_t *asking, weir_store_item_t *items, unsigned wanted, int64_t now_ns,
                        weir_ticket_t ticket)
{
    if (!asking->remote->is_up(asking->remote))
        return NULL;
    asked_t *asked = asked_create(asking, items, wanted, now_ns, ticket);
    if (ask_group(asked))
        return asked;
    release(asked);
    return NULL;
}

/* The answer */

static int64_t ns_of(int64_t us)
{
    return us < 0 ? -1 : us <= INT64_MAX / 1000 ? us * 1000 : INT64_MAX;
}

static int64_t between(int64_t number, int64_t least, int64_t most)
{
    return number < least ? least : number > most ? most : number;
}

static void read_charge(charge_t *charge, const weir_remote_value_t *numbers, bool is_admitted, int64_t now_us)
{
    charge->is_told = true;
    charge->fits = numbers[0].integer != 0;
    charge->remaining = between(numbers[1].integer, 0, charge->row.kind == 'b' ? charge->row.terms[2] : charge->row.terms[0]);
    charge->reset_ns = ns_of(numbers[2].integer);
    charge->retry_after_ns = charge->fits ? 0 : ns_of(numbers[3].integer);
    charge->is_charged = is_admitted && charge->fits;
    charge->charged_us = now_us;
}

static bool are_numbers(const weir_remote_value_t *value, size_t count)
{
    if (value->kind != WEIR_REMOTE_LIST || value->size != count)
        return false;
    for (size_t i = 0; i < count; ++i)
        if (value->entries[i].kind != WEIR_REMOTE_INTEGER)
            return false;
    return true;
}

static size_t group_size(const asked_t *asked)
{
    size_t size = 0;
    for (size_t i = 0; i < asked->count; ++i)
        size += asked->charges[i].group == asked->group;
    return size;
}

static weir_redis_asked_phase_t read_group(asked_t *asked, const weir_remote_value_t *value)
{
    if (!are_numbers(value, HEAD_NUMBERS + ITEM_NUMBERS * group_size(asked)))
        return WEIR_REDIS_ASKED_FAILED;
    const weir_remote_value_t *numbers = value->entries + HEAD_NUMBERS;
    bool is_admitted = value->entries[0].integer != 0;
    for (size_t i = 0; i < asked->count; ++i)
        if (asked->charges[i].group == asked->group) {
            read_charge(&asked->charges[i], numbers, is_admitted, value->entries[1].integer);
            numbers += ITEM_NUMBERS;
        }
    return is_admitted ? WEIR_REDIS_ASKED_ADMITTED : WEIR_REDIS_ASKED_REFUSED;
}

/* Nobody knows what was charged. A member can be removed all the same: there or not, it is nobody else's. */
static void suspect_members(asked_t *asked)
{
    for (size_t i = 0; i < asked->count; ++i) {
        charge_t *charge = &asked->charges[i];
        if (charge->group == asked->group && (charge->row.kind == 'c' || charge->row.kind == 'x'))
            charge->is_charged = true;
    }
}

static weir_redis_asked_phase_t heard(asked_t *asked, weir_remote_told_t told, const weir_remote_value_t *value)
{
    weir_redis_asked_phase_t next = told == WEIR_REMOTE_ANSWERED ? read_group(asked, value) : WEIR_REDIS_ASKED_FAILED;
    if (next == WEIR_REDIS_ASKED_FAILED && told != WEIR_REMOTE_REFUSED)
        suspect_members(asked);
    if (next != WEIR_REDIS_ASKED_ADMITTED || asked->phase != WEIR_REDIS_ASKED_WAITS ||
        asked->group + 1 == asked->group_count)
        return next;
    ++asked->group;
    return ask_group(asked) ? WEIR_REDIS_ASKED_WAITS : WEIR_REDIS_ASKED_FAILED;
}

static void on_decided(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    asked_t *asked = context;
    weir_remote_t *remote = asked->asking->remote;
    weir_ticket_t ticket = asked->ticket;
    bool is_wanted = asked->phase == WEIR_REDIS_ASKED_WAITS;
    weir_redis_asked_phase_t phase = heard(asked, told, value);
    if (phase != WEIR_REDIS_ASKED_WAITS && (phase != WEIR_REDIS_ASKED_ADMITTED || !is_wanted))
        give_back(asked, now_ns);
    if (is_wanted)
        asked->phase = (uint8_t)phase;
    release(asked);
    if (is_wanted && phase != WEIR_REDIS_ASKED_WAITS)
        remote->wake(remote, ticket);
}

/* What the request does with it */

weir_redis_asked_phase_t weir_redis_asked_phase(const asked_t *asked, int64_t now_ns)
{
    bool is_late = asked->phase == WEIR_REDIS_ASKED_WAITS && now_ns >= asked->asked_ns + asked->asking->timeout_ns;
    return is_late ? WEIR_REDIS_ASKED_FAILED : asked->phase;
}

static void answer_item(weir_store_item_t *item, const charge_t *charge)
{
    if (!charge->is_told) /* another one refused before it was asked */
        return;
    item->admitted = charge->fits;
    item->refusal = charge->fits ? WEIR_STORE_FREE : WEIR_STORE_LIMITED;
    item->remaining = charge->remaining;
    item->reset_ns = charge->reset_ns;
    item->retry_after_ns = charge->retry_after_ns;
    item->kept = charge->is_charged ? WEIR_KEPT_REMOTE : WEIR_KEPT_NOWHERE;
    item->charged_ns = charge->is_charged ? ns_of(charge->charged_us) : -1;
}

static bool hold_slots(asked_t *asked)
{
    bool holds = false;
    for (size_t i = 0; i < asked->count; ++i) {
        charge_t *charge = &asked->charges[i];
        if (charge->row.kind != 'c' || !charge->is_charged)
            continue;
        ++asked->references;
        weir_redis_slots_hold(&weir_redis_asking_worker(asked->asking)->slots, &charge->slot);
        holds = true;
    }
    return holds;
}

bool weir_redis_asked_take(asked_t *asked, weir_store_item_t *items)
{
    assert(asked->phase == WEIR_REDIS_ASKED_ADMITTED || asked->phase == WEIR_REDIS_ASKED_REFUSED);
    asked->phase = WEIR_REDIS_ASKED_GONE;
    for (size_t i = 0; i < asked->count; ++i)
        answer_item(&items[asked->charges[i].index], &asked->charges[i]);
    bool has_slots = hold_slots(asked);
    if (!has_slots)
        release(asked);
    return has_slots;
}

void weir_redis_asked_end_slots(asked_t *asked, int64_t now_ns)
{
    for (size_t i = 0; i < asked->count; ++i)
        if (asked->charges[i].row.kind == 'c' && asked->charges[i].is_charged)
            end_slot(&asked->charges[i], now_ns);
    release(asked);
}

void weir_redis_asked_let_go(asked_t *asked, int64_t now_ns)
{
    if (asked->phase == WEIR_REDIS_ASKED_ADMITTED)
        give_back(asked, now_ns);
    asked->phase = WEIR_REDIS_ASKED_GONE;
    release(asked);
}

/* All of them */

void weir_redis_asking_init(weir_redis_asking_t *asking, weir_remote_t *remote, weir_str_t prefix, int64_t timeout_ns)
{
    size_t bytes = (remote->workers + 1) * sizeof(*asking->workers);
    assert(prefix.len <= WEIR_REDIS_PREFIX_MAX);
    *asking = (weir_redis_asking_t){.remote = remote, .prefix = prefix, .timeout_ns = timeout_ns};
    asking->workers = aligned_alloc(_Alignof(weir_redis_worker_t), bytes);
    assert(asking->workers != NULL);
    memset(asking->workers, 0, bytes);
    for (size_t i = 0; i <= remote->workers; ++i)
        weir_redis_slots_init(&asking->workers[i].slots, remote, timeout_ns);
}

void weir_redis_asking_dispose(weir_redis_asking_t *asking)
{
    for (size_t i = 0; i <= asking->remote->workers; ++i)
        weir_redis_slots_dispose(&asking->workers[i].slots);
    free(asking->workers);
}
