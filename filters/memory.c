/* The store in this process. One set of locks for all limits, by shards of the key: limits that count by the same key
 * are decided under one lock. Shards are locked in ascending order, the overflow rows' lock after them, then a queue's,
 * one at a time. */
#include "store.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL /* keys are short: half of the cost would be the call */
#include <xxhash.h>
#include "memory_dedup.h"
#include "memory_limit.h"

typedef struct {
    weir_key_shard_t shards[WEIR_KEY_SHARDS];
    weir_key_shard_t overflow;
    weir_store_t store;
    weir_store_teller_t teller;
    unsigned char secret[XXH3_SECRET_DEFAULT_SIZE];
    weir_memory_limits_t limits;
    weir_memory_dedups_t dedups;
} memory_t;

/* Where an item is decided. */
typedef struct {
    void *state;
    weir_rows_terms_t terms;
    bool is_new;
    bool has_slot;              /* which is in use already: it held it, or was granted it */
    bool gave_back;             /* that slot */
    weir_waiter_state_t waited; /* what became of the place that it had in the queue */
} row_t;

static memory_t *memory_of(const weir_store_t *store)
{
    return (memory_t *)((char *)store - offsetof(memory_t, store));
}

/* Locks */

static weir_key_t table_key(weir_store_key_t key)
{
    return (weir_key_t){key.low, key.high};
}

static uint64_t shards_of(const weir_store_item_t *items, size_t count)
{
    uint64_t shards = 0;
    for (size_t i = 0; i < count; ++i)
        shards |= (uint64_t)1 << weir_key_shard(table_key(items[i].key));
    return shards;
}

/* Workers read the time once a turn, so one may come with an earlier time than another had: under a lock time does not
 * go back. Returns the latest of now_ns and what was seen. */
static int64_t lock_one(weir_key_shard_t *shard, int64_t now_ns)
{
    pthread_mutex_lock(&shard->lock);
    return shard->now_ns > now_ns ? shard->now_ns : now_ns;
}

static void unlock_one(weir_key_shard_t *shard, int64_t now_ns)
{
    shard->now_ns = now_ns;
    pthread_mutex_unlock(&shard->lock);
}

static int64_t lock_shards(memory_t *memory, uint64_t shards, int64_t now_ns)
{
    for (; shards != 0; shards &= shards - 1)
        now_ns = lock_one(&memory->shards[__builtin_ctzll(shards)], now_ns);
    return now_ns;
}

static void unlock_shards(memory_t *memory, uint64_t shards, int64_t now_ns)
{
    for (; shards != 0; shards &= shards - 1)
        unlock_one(&memory->shards[__builtin_ctzll(shards)], now_ns);
}

/* The lock of the row that a key has, or of overflow rows. */
static weir_key_shard_t *lock_of(memory_t *memory, weir_store_key_t key, bool overflowed)
{
    return overflowed ? &memory->overflow : &memory->shards[weir_key_shard(table_key(key))];
}

/* Under that lock; NULL: the key has none. */
static void *row_of(weir_store_limit_t *limit, weir_store_key_t key, bool overflowed)
{
    return overflowed ? limit->overflow : weir_key_table_find(limit->table, table_key(key));
}

static weir_rows_terms_t terms_of(const weir_store_item_t *item, bool overflowed)
{
    weir_store_limit_t *limit = item->limit;
    bool is_old =
        overflowed
            ? atomic_load_explicit(&limit->is_old_in_overflow, memory_order_relaxed)
            : atomic_load_explicit(&limit->is_old, memory_order_relaxed) >> weir_key_shard(table_key(item->key)) & 1;
    return (weir_rows_terms_t){.quota = item->quota, .bounds = &limit->limit->bounds, .is_old = is_old};
}

/* A decision: look at all, take all */

/* Who waits, or has a slot while he waits for another limit's, stays with the row in which he did. */
static bool is_in_overflow(const weir_store_item_t *item)
{
    const weir_store_queueing_t *queueing = item->queueing;
    if (queueing == NULL)
        return false;
    return queueing->place != NULL ? queueing->place->overflowed : queueing->holds && item->overflowed;
}

/* Returns whether any of them is the overflow row. */
static bool find_rows(weir_store_item_t *items, row_t *rows, size_t count, int64_t now_ns, uint64_t held)
{
    bool overflowed = false;
    for (size_t i = 0; i < count; ++i) {
        weir_store_limit_t *limit = items[i].limit;
        bool stays_in_overflow = is_in_overflow(&items[i]);
        void *state = stays_in_overflow ? NULL : weir_key_table_find(limit->table, table_key(items[i].key));
        bool is_new = state == NULL && !stays_in_overflow;
        if (is_new)
            state = weir_key_table_insert(limit->table, table_key(items[i].key), now_ns, held);
        items[i].overflowed = state == NULL;
        overflowed |= state == NULL;
        rows[i] = (row_t){.state = state != NULL ? state : limit->overflow, .is_new = is_new && state != NULL};
    }
    return overflowed;
}

static bool is_admitted(const weir_store_item_t *item, const row_t *row, int64_t now_ns)
{
    const weir_rows_t *rows = item->limit->rows;
    if (row->has_slot || row->waited != WEIR_WAITER_OUT)
        return row->has_slot;
    return rows->fits(rows, row->state, &row->terms, item->cost, now_ns);
}

static bool look(weir_store_item_t *items, row_t *rows, size_t count, int64_t now_ns)
{
    bool admitted = true;
    for (size_t i = 0; i < count; ++i) {
        weir_store_item_t *item = &items[i];
        rows[i].terms = terms_of(item, item->overflowed);
        item->admitted = is_admitted(item, &rows[i], now_ns);
        item->refusal = WEIR_STORE_FREE;
        if (item->admitted)
            continue;
        item->refusal = rows[i].waited == WEIR_WAITER_DISPLACED ? WEIR_STORE_QUEUE_FULL : WEIR_STORE_LIMITED;
        admitted &= item->shadow;
    }
    return admitted;
}

/* `ahead_ns`: how much later now_ns is than the caller's time, from which he counts. */
static int64_t add_ahead(int64_t ns, int64_t ahead_ns)
{
    return ns > 0 && ns <= INT64_MAX - ahead_ns ? ns + ahead_ns : ns;
}

static void answer_item(weir_store_item_t *item, const row_t *row, bool is_charged, int64_t now_ns, int64_t ahead_ns)
{
    const weir_rows_t *rows = item->limit->rows;
    int64_t charge = is_charged && !row->has_slot ? item->cost : 0;
    weir_told_t told = rows->tell(rows, row->state, &row->terms, charge, item->admitted ? 0 : item->cost, now_ns);
    item->charged_ns = is_charged ? now_ns : -1;
    item->remaining = told.remaining;
    item->reset_ns = add_ahead(told.reset_ns, ahead_ns);
    item->retry_after_ns = add_ahead(told.retry_after_ns, ahead_ns);
    if (row->is_new && charge == 0 && !row->has_slot)
        weir_key_table_erase(item->limit->table, table_key(item->key));
}

/* Where a charge does not do as much. */
static void see_item(const weir_store_item_t *item, const row_t *row, bool is_charged, int64_t now_ns)
{
    const weir_rows_t *rows = item->limit->rows;
    if (rows->see != NULL && (!is_charged || rows->inner != NULL))
        rows->see(rows, row->state, &row->terms, now_ns);
}

/* What a decision has to do with queues, where any of its limits has one. */
typedef struct {
    weir_ticket_t ticket;
    bool waits; /* the answer */
    weir_memory_news_t news;
} waiting_t;

static bool has_queue(const weir_store_item_t *items, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (items[i].queueing != NULL)
            return true;
    return false;
}

/* Slots that are held, or were granted. */
static void ask_places(weir_store_item_t *items, row_t *rows, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        weir_store_queueing_t *queueing = items[i].queueing;
        if (queueing == NULL)
            continue;
        rows[i].has_slot = queueing->holds;
        if (queueing->place == NULL)
            continue;
        rows[i].waited = weir_memory_queue_ask(&items[i].limit->limit->queue, queueing);
        rows[i].has_slot |= rows[i].waited == WEIR_WAITER_GRANTED;
    }
}

/* It was refused. */
static void give_back(const weir_store_item_t *items, row_t *rows, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        weir_slots_t *slots = rows[i].state;
        if (!rows[i].has_slot)
            continue;
        assert(slots->used > 0);
        --slots->used;
        rows[i].has_slot = false;
        rows[i].gave_back = true;
        items[i].queueing->holds = false;
    }
}

static void serve(const weir_store_item_t *items, const row_t *rows, size_t count, weir_memory_news_t *news)
{
    for (size_t i = 0; i < count; ++i)
        if (rows[i].gave_back)
            weir_memory_queue_serve(&items[i].limit->limit->queue, rows[i].state, news);
}

/* The slots before the one that it waits for: all of them are there. */
static void hold_slots(const weir_store_item_t *items, row_t *rows, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        weir_slots_t *slots = rows[i].state;
        if (items[i].queueing == NULL || items[i].cost == 0)
            continue;
        if (!rows[i].has_slot)
            ++slots->used;
        rows[i].has_slot = items[i].queueing->holds = true;
    }
}

/* The first of those that refused, if slots are all that is missed and there is a queue for each of them. */
static weir_store_item_t *first_missed(weir_store_item_t *items, size_t count)
{
    weir_store_item_t *first = NULL;
    for (size_t i = count; i-- != 0;) {
        if (items[i].admitted || items[i].shadow)
            continue;
        if (items[i].queueing == NULL || items[i].refusal == WEIR_STORE_QUEUE_FULL)
            return NULL;
        first = &items[i];
    }
    return first;
}

static weir_store_key_t key_of(const weir_store_t *store, const void *parts, size_t len)
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(parts, len, memory_of(store)->secret, XXH3_SECRET_DEFAULT_SIZE);
    return (weir_store_key_t){hash.low64, hash.high64};
}

/* Of a decision that did not admit: whether it waits. */
static bool wait_for_slot(memory_t *memory, weir_store_item_t *items, row_t *rows, size_t count, waiting_t *waiting)
{
    for (size_t i = 0; i < count; ++i)
        if (rows[i].waited == WEIR_WAITER_WAITING)
            return true;
    weir_store_item_t *item = first_missed(items, count);
    if (item == NULL)
        return false;
    weir_store_key_t tenant = key_of(&memory->store, item->queueing->tenant.base, item->queueing->tenant.len);
    if (!weir_memory_queue_enter(&item->limit->limit->queue, rows[item - items].state, item, tenant, waiting->ticket,
                                 &waiting->news)) {
        item->refusal = WEIR_STORE_QUEUE_FULL;
        return false;
    }
    hold_slots(items, rows, (size_t)(item - items));
    return true;
}

/* Of a decision that admitted: what it held is charged now. */
static void take_up(const weir_store_item_t *items, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (items[i].queueing != NULL)
            items[i].queueing->holds = false;
}

static void move_in_queues(memory_t *memory, weir_store_item_t *items, row_t *rows, size_t count, bool admitted,
                           waiting_t *waiting)
{
    waiting->waits = !admitted && wait_for_slot(memory, items, rows, count, waiting);
    if (admitted)
        take_up(items, count);
    else if (!waiting->waits)
        give_back(items, rows, count);
}

/* Without `waiting` there is no queue; what is only peeked at is not charged. */
static bool decide_items(memory_t *memory, weir_store_item_t *items, size_t count, int64_t asked_ns, bool is_peek,
                         waiting_t *waiting)
{
    row_t rows[WEIR_LIMITS_PER_ROUTE_MAX];
    assert(count <= WEIR_LIMITS_PER_ROUTE_MAX);
    uint64_t shards = shards_of(items, count);
    int64_t now_ns = lock_shards(memory, shards, asked_ns);
    bool overflowed = find_rows(items, rows, count, now_ns, shards);
    if (overflowed)
        now_ns = lock_one(&memory->overflow, now_ns);
    if (waiting != NULL)
        ask_places(items, rows, count);
    bool admitted = look(items, rows, count, now_ns), is_charged = admitted && !is_peek;
    if (waiting != NULL)
        move_in_queues(memory, items, rows, count, admitted, waiting);
    for (size_t i = 0; i < count; ++i) {
        if (!is_peek)
            see_item(&items[i], &rows[i], is_charged && items[i].admitted, now_ns);
        answer_item(&items[i], &rows[i], is_charged && items[i].admitted, now_ns, now_ns - asked_ns);
    }
    if (waiting != NULL)
        serve(items, rows, count, &waiting->news);
    if (overflowed)
        unlock_one(&memory->overflow, now_ns);
    unlock_shards(memory, shards, now_ns);
    return admitted;
}

/* Apart, so that decisions without a queue do not pay for its frame. */
static __attribute__((noinline)) weir_store_answer_t decide_with_queues(memory_t *memory, weir_store_item_t *items,
                                                                        size_t count, int64_t now_ns,
                                                                        weir_ticket_t ticket, bool *admitted)
{
    waiting_t waiting = {.ticket = ticket};
    weir_memory_news_init(&waiting.news);
    *admitted = decide_items(memory, items, count, now_ns, false, &waiting);
    weir_memory_news_tell(&waiting.news, &memory->teller);
    return waiting.waits ? WEIR_STORE_QUEUED : WEIR_STORE_DECIDED;
}

static weir_store_answer_t decide(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                  weir_ticket_t ticket, bool *admitted)
{
    if (has_queue(items, count))
        return decide_with_queues(memory_of(store), items, count, now_ns, ticket, admitted);
    *admitted = decide_items(memory_of(store), items, count, now_ns, false, NULL);
    return WEIR_STORE_DECIDED;
}

static void peek(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i)
        decide_items(memory_of(store), &items[i], 1, now_ns, true, NULL);
}

/* The end of a request */

static void leave_item(memory_t *memory, weir_store_item_t *item, int64_t now_ns)
{
    weir_store_limit_t *limit = item->limit;
    weir_store_queueing_t *queueing = item->queueing;
    bool overflowed = is_in_overflow(item), has_slot = queueing->holds;
    weir_key_shard_t *lock = lock_of(memory, item->key, overflowed);
    weir_waiter_state_t state = WEIR_WAITER_OUT;
    weir_memory_news_t news;
    weir_memory_news_init(&news);
    now_ns = lock_one(lock, now_ns);
    if (queueing->place != NULL)
        state = weir_memory_queue_leave(&limit->limit->queue, queueing);
    has_slot |= state == WEIR_WAITER_GRANTED;
    queueing->holds = false;
    weir_slots_t *slots = row_of(limit, item->key, overflowed);
    if (has_slot)
        --slots->used;
    if (state != WEIR_WAITER_DISPLACED)
        weir_memory_queue_serve(&limit->limit->queue, slots, &news);
    unlock_one(lock, now_ns);
    weir_memory_news_tell(&news, &memory->teller);
}

static void leave(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i)
        if (items[i].queueing != NULL && (items[i].queueing->place != NULL || items[i].queueing->holds))
            leave_item(memory_of(store), &items[i], now_ns);
}

typedef void (*end_t)(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                      const weir_store_item_t *item, int64_t now_ns);

static void end_in(const weir_store_item_t *item, void *state, bool overflowed, end_t end, int64_t now_ns,
                   weir_memory_news_t *news)
{
    const weir_rows_t *rows = item->limit->rows;
    weir_rows_terms_t terms = terms_of(item, overflowed);
    end(rows, state, &terms, item, now_ns);
    if (rows->are_slots)
        weir_memory_queue_serve(&item->limit->limit->queue, state, news);
}

static void end_in_overflow(memory_t *memory, const weir_store_item_t *item, end_t end, int64_t now_ns,
                            weir_memory_news_t *news)
{
    now_ns = lock_one(&memory->overflow, now_ns);
    end_in(item, item->limit->overflow, true, end, now_ns, news);
    unlock_one(&memory->overflow, now_ns);
}

/* A row that went in between had nothing left to give back; for what is yet to be charged there must be one. */
static void end_item(memory_t *memory, const weir_store_item_t *item, end_t end, bool is_charged, int64_t now_ns)
{
    weir_key_t key = table_key(item->key);
    weir_key_table_t *table = item->limit->table;
    unsigned shard = weir_key_shard(key);
    weir_memory_news_t news;
    weir_memory_news_init(&news);
    bool overflowed = item->overflowed;
    if (!overflowed) {
        now_ns = lock_one(&memory->shards[shard], now_ns);
        void *state = weir_key_table_find(table, key);
        if (state == NULL && is_charged)
            state = weir_key_table_insert(table, key, now_ns, (uint64_t)1 << shard);
        overflowed = state == NULL && is_charged;
        if (state != NULL)
            end_in(item, state, false, end, now_ns, &news);
        unlock_one(&memory->shards[shard], now_ns);
    }
    if (overflowed)
        end_in_overflow(memory, item, end, now_ns, &news);
    weir_memory_news_tell(&news, &memory->teller);
}

static void put_back(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                     const weir_store_item_t *item, int64_t now_ns)
{
    rows->put_back(rows, state, terms, item, item->cost, now_ns);
}

static void refund(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i)
        if (items[i].charged_ns >= 0)
            end_item(memory_of(store), &items[i], put_back, false, now_ns);
}

static void settle(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i) {
        end_t end = items[i].limit->rows->settle;
        if (items[i].charged_ns >= 0 && end != NULL)
            end_item(memory_of(store), &items[i], end, items[i].spent > items[i].cost, now_ns);
    }
}

/* What an overflow row has, others have used too. */
static bool reset(weir_store_t *store, const weir_store_item_t *item, int64_t now_ns)
{
    weir_store_limit_t *limit = item->limit;
    weir_key_t key = table_key(item->key);
    weir_key_shard_t *lock = lock_of(memory_of(store), item->key, false);
    now_ns = lock_one(lock, now_ns);
    void *state = weir_key_table_find(limit->table, key);
    if (state == NULL) /* there may be room for it */
        state = weir_key_table_insert(limit->table, key, now_ns, (uint64_t)1 << weir_key_shard(key));
    if (state != NULL) {
        limit->rows->reset(limit->rows, state);
        if (limit->rows->is_free(limit->rows, state, limit->limit->window_ns, now_ns))
            weir_key_table_erase(limit->table, key);
    }
    unlock_one(lock, now_ns);
    return state != NULL;
}

/* Limits */

static weir_store_limit_t *limit_acquire(weir_store_t *store, const weir_conf_limit_t *conf)
{
    memory_t *memory = memory_of(store);
    weir_memory_news_t news;
    weir_memory_news_init(&news);
    weir_store_limit_t *limit =
        weir_memory_limits_acquire(&memory->limits, conf, memory->shards, &memory->overflow, &news);
    weir_memory_news_tell(&news, &memory->teller);
    return limit;
}

static void limit_release(weir_store_t *store, weir_store_limit_t *limit)
{
    weir_memory_limits_release(&memory_of(store)->limits, limit);
}

static void tell_time(weir_store_t *store, int64_t now_ns)
{
    weir_memory_limits_tell_time(&memory_of(store)->limits, now_ns);
}

static size_t limit_keys(weir_store_t *store, const char *name)
{
    weir_memory_limits_t *limits = &memory_of(store)->limits;
    const weir_memory_limit_t *limit = weir_memory_limits_hold(limits, name);
    size_t keys = limit != NULL ? weir_key_table_count(limit->table) : 0;
    weir_memory_limits_let_go(limits);
    return keys;
}

static void queue_depth(weir_store_t *store, const char *name, size_t depth[WEIR_LANES])
{
    weir_memory_limits_t *limits = &memory_of(store)->limits;
    weir_memory_limit_t *limit = weir_memory_limits_hold(limits, name);
    memset(depth, 0, WEIR_LANES * sizeof(*depth));
    if (limit != NULL)
        weir_memory_queue_depth(&limit->queue, depth);
    weir_memory_limits_let_go(limits);
}

static bool wants_name(weir_store_t *store, const weir_store_item_t *item, unsigned used_permille, int64_t now_ns)
{
    weir_memory_limit_t *limit = item->limit->limit;
    bool is_in_force = item->limit->generation == atomic_load_explicit(&limit->generation, memory_order_relaxed);
    return is_in_force && weir_memory_names_want(&limit->names, item, used_permille, now_ns);
}

static void note_name(weir_store_t *store, const weir_store_item_t *item, unsigned used_permille, int64_t now_ns,
                      const char *name, size_t len)
{
    weir_memory_names_t *names = &item->limit->limit->names;
    weir_memory_names_note(names, item, item->limit->generation, used_permille, now_ns, name, len);
}

static size_t closest(weir_store_t *store, const char *name, int64_t now_ns,
                      weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX])
{
    memory_t *memory = memory_of(store);
    weir_memory_limit_t *limit = weir_memory_limits_hold(&memory->limits, name);
    size_t count = 0;
    if (limit != NULL)
        count = weir_memory_names_closest(&limit->names, limit->rows, limit->table, memory->shards, limit->generation,
                                          now_ns, closest);
    weir_memory_limits_let_go(&memory->limits);
    return count;
}

/* Dedups */

static weir_store_dedup_t *dedup_acquire(weir_store_t *store, const weir_conf_dedup_t *conf)
{
    return weir_memory_dedups_acquire(&memory_of(store)->dedups, conf);
}

static void dedup_release(weir_store_t *store, weir_store_dedup_t *dedup)
{
    weir_memory_dedups_release(&memory_of(store)->dedups, dedup);
}

static weir_store_claim_told_t claim(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns)
{
    return weir_memory_dedups_claim(&memory_of(store)->dedups, claim, now_ns);
}

static weir_store_claim_told_t claim_peek(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns)
{
    (void)store;
    return weir_memory_dedups_peek(claim, now_ns);
}

static bool claim_renew(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    (void)store;
    return weir_memory_dedups_renew(claim, now_ns);
}

static void claim_commit(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    (void)store;
    weir_memory_dedups_commit(claim, now_ns);
}

static void claim_forget(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    (void)store;
    weir_memory_dedups_forget(claim, now_ns);
}

static void claim_lose(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    (void)store;
    weir_memory_dedups_lose(claim, now_ns);
}

static bool dedup_reset(weir_store_t *store, weir_store_dedup_t *dedup, weir_store_key_t key, int64_t now_ns)
{
    (void)store;
    return weir_memory_dedups_reset(dedup, key, now_ns);
}

static bool dedup_tell(weir_store_t *store, const char *name, int64_t now_ns, weir_store_dedup_told_t *told)
{
    return weir_memory_dedups_tell(&memory_of(store)->dedups, name, now_ns, told);
}

static void dedup_tidy(weir_store_t *store, int64_t now_ns)
{
    weir_memory_dedups_tidy(&memory_of(store)->dedups, now_ns);
}

weir_memory_dedups_t *weir_memory_store_dedups(weir_store_t *store)
{
    return &memory_of(store)->dedups;
}

/* The store */

static void destroy(weir_store_t *store)
{
    memory_t *memory = memory_of(store);
    weir_memory_limits_dispose(&memory->limits);
    weir_memory_dedups_dispose(&memory->dedups);
    pthread_mutex_destroy(&memory->overflow.lock);
    weir_key_shards_dispose(memory->shards);
    free(memory);
}

weir_store_t *weir_memory_store_create(const uint8_t secret[64], weir_store_teller_t teller)
{
    memory_t *memory = aligned_alloc(_Alignof(memory_t), sizeof(*memory));
    assert(memory != NULL);
    memset(memory, 0, sizeof(*memory));
    memory->teller = teller;
    XXH3_generateSecret(memory->secret, sizeof(memory->secret), secret, 64);
    weir_key_shards_init(memory->shards);
    pthread_mutex_init(&memory->overflow.lock, NULL);
    weir_memory_limits_init(&memory->limits);
    weir_memory_dedups_init(&memory->dedups, teller);
    memory->store = (weir_store_t){
        .limit_acquire = limit_acquire,
        .limit_release = limit_release,
        .tell_time = tell_time,
        .key = key_of,
        .decide = decide,
        .leave = leave,
        .refund = refund,
        .settle = settle,
        .peek = peek,
        .reset = reset,
        .limit_keys = limit_keys,
        .queue_depth = queue_depth,
        .wants_name = wants_name,
        .note_name = note_name,
        .closest = closest,
        .dedup_acquire = dedup_acquire,
        .dedup_release = dedup_release,
        .claim = claim,
        .claim_peek = claim_peek,
        .claim_renew = claim_renew,
        .claim_commit = claim_commit,
        .claim_forget = claim_forget,
        .claim_lose = claim_lose,
        .dedup_reset = dedup_reset,
        .dedup_tell = dedup_tell,
        .dedup_tidy = dedup_tidy,
        .destroy = destroy,
    };
    return &memory->store;
}

uint64_t weir_memory_store_bytes(const weir_conf_limit_t *limit)
{
    return weir_memory_limit_bytes(limit);
}
