#include "claim_table.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A shard: rows in chunks of one size, so that none is copied as their number grows; a chain of rows by index for each
 * value of a part of the hash; and the line of the finished ones, in the order in which they end. */
enum { SHARDS_MAX = 64, SHARD_KEYS_MIN = 64, CHUNK_BITS = 6, CHUNK_ROWS = 1 << CHUNK_BITS, HEADS_MIN = 16 };

static const uint32_t none = UINT32_MAX;          /* behind the last one */
static const uint32_t elsewhere = UINT32_MAX - 1; /* `newer` of a row that does not stand in line */

typedef struct {
    weir_claim_key_t key;
    weir_claim_row_t shown;
} row_t;

typedef struct {
    uint32_t next; /* in its chain; of a free row, the next free one */
    uint32_t older, newer;
} links_t;

typedef struct {
    row_t rows[CHUNK_ROWS];
    links_t links[CHUNK_ROWS];
} chunk_t;

typedef struct {
    _Alignas(64) pthread_mutex_t lock;
    int64_t now_ns;
    chunk_t **chunks;
    uint32_t *heads;
    uint32_t chunk_count, head_count; /* head_count: a power of two, or 0 */
    uint32_t used;                    /* rows that were in use at one time: those behind them never were */
    uint32_t free;                    /* the first of them that is not in use now */
    uint32_t oldest, newest;
    _Atomic uint32_t count, max; /* written under the lock */
} shard_t;

struct weir_claim_table {
    weir_claim_table_hooks_t hooks;
    size_t shard_count; /* a power of two */
    shard_t shards[];
};

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* Each bit of it depends on every bit of the key, even of keys that differ in few. */
static uint64_t spread(weir_claim_key_t key)
{
    unsigned __int128 product =
        (unsigned __int128)(key.low ^ UINT64_C(0x9e3779b97f4a7c15)) * (key.high ^ UINT64_C(0xbf58476d1ce4e5b9));
    return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

static shard_t *shard_of(const weir_claim_table_t *table, uint64_t hash)
{
    return (shard_t *)&table->shards[hash >> 58 & (table->shard_count - 1)];
}

/* Rows and links */

static row_t *row_at(const shard_t *shard, uint32_t index)
{
    return &shard->chunks[index >> CHUNK_BITS]->rows[index % CHUNK_ROWS];
}

static links_t *links_at(const shard_t *shard, uint32_t index)
{
    return &shard->chunks[index >> CHUNK_BITS]->links[index % CHUNK_ROWS];
}

static uint32_t *head_of(const shard_t *shard, uint64_t hash)
{
    return &shard->heads[hash & (shard->head_count - 1)];
}

static bool is_key(const row_t *row, weir_claim_key_t key)
{
    return row->key.low == key.low && row->key.high == key.high;
}

static uint32_t index_of(const shard_t *shard, weir_claim_key_t key, uint64_t hash)
{
    if (shard->head_count == 0)
        return none;
    uint32_t index = *head_of(shard, hash);
    while (index != none && !is_key(row_at(shard, index), key))
        index = links_at(shard, index)->next;
    return index;
}

static void chain(const shard_t *shard, uint32_t index)
{
    uint32_t *head = head_of(shard, spread(row_at(shard, index)->key));
    links_at(shard, index)->next = *head;
    *head = index;
}

static void unchain(const shard_t *shard, uint32_t index)
{
    uint32_t *link = head_of(shard, spread(row_at(shard, index)->key));
    while (*link != index)
        link = &links_at(shard, *link)->next;
    *link = links_at(shard, index)->next;
}

/* Doubles the heads; every row in use is chained anew. There is no row that is not in use. */
static void grow_heads(shard_t *shard)
{
    shard->head_count = shard->head_count != 0 ? shard->head_count * 2 : HEADS_MIN;
    free(shard->heads);
    shard->heads = checked(malloc(shard->head_count * sizeof(*shard->heads)));
    memset(shard->heads, 0xff, shard->head_count * sizeof(*shard->heads));
    for (uint32_t index = 0; index != shard->used; ++index)
        chain(shard, index);
}

static uint32_t take_row(shard_t *shard)
{
    uint32_t index = shard->free;
    if (index != none) {
        shard->free = links_at(shard, index)->next;
        return index;
    }
    if (shard->used == shard->head_count)
        grow_heads(shard);
    if (shard->used == shard->chunk_count << CHUNK_BITS) {
        shard->chunks = checked(realloc(shard->chunks, (shard->chunk_count + 1) * sizeof(*shard->chunks)));
        shard->chunks[shard->chunk_count++] = checked(malloc(sizeof(chunk_t)));
    }
    return shard->used++;
}

/* The line */

static void leave_line(shard_t *shard, uint32_t index)
{
    links_t *links = links_at(shard, index);
    if (links->newer == elsewhere)
        return;
    *(links->older != none ? &links_at(shard, links->older)->newer : &shard->oldest) = links->newer;
    *(links->newer != none ? &links_at(shard, links->newer)->older : &shard->newest) = links->older;
    links->newer = elsewhere;
}

/* At its end, but for what ends later still. */
static void join_line(shard_t *shard, uint32_t index)
{
    int64_t until_ns = row_at(shard, index)->shown.claim.until_ns;
    uint32_t older = shard->newest, newer = none;
    while (older != none && row_at(shard, older)->shown.claim.until_ns > until_ns) {
        newer = older;
        older = links_at(shard, older)->older;
    }
    links_t *links = links_at(shard, index);
    links->older = older;
    links->newer = newer;
    *(older != none ? &links_at(shard, older)->newer : &shard->oldest) = index;
    *(newer != none ? &links_at(shard, newer)->older : &shard->newest) = index;
}

static void drop(const weir_claim_table_t *table, shard_t *shard, uint32_t index)
{
    if (table->hooks.dispose != NULL)
        table->hooks.dispose(table->hooks.context, &row_at(shard, index)->shown);
    leave_line(shard, index);
    unchain(shard, index);
    links_at(shard, index)->next = shard->free;
    shard->free = index;
    atomic_fetch_sub_explicit(&shard->count, 1, memory_order_relaxed);
}

static void lock(const weir_claim_table_t *table, shard_t *shard, int64_t now_ns)
{
    pthread_mutex_lock(&shard->lock);
    if (now_ns > shard->now_ns)
        shard->now_ns = now_ns;
    while (shard->oldest != none &&
           weir_claim_state(&row_at(shard, shard->oldest)->shown.claim, shard->now_ns) == WEIR_CLAIM_FREE)
        drop(table, shard, shard->oldest);
}

/* Sizes */

static size_t shard_count_of(size_t max_keys)
{
    size_t count = 1;
    while (count < SHARDS_MAX && max_keys / (count * 2) >= SHARD_KEYS_MIN)
        count *= 2;
    return count;
}

/* What is rounded down of a square root. */
static size_t root_of(size_t value)
{
    size_t root = 0;
    for (size_t bit = (size_t)1 << 31; bit != 0; bit >>= 1)
        if ((root + bit) * (root + bit) <= value)
            root += bit;
    return root;
}

/* Keys that one shard has room for: six standard deviations more than its part of max_keys, twice at most. */
static uint32_t shard_max(size_t max_keys, size_t shard_count)
{
    if (shard_count == 1)
        return (uint32_t)max_keys;
    size_t part = (max_keys + shard_count - 1) / shard_count, most = max_keys * 2 / shard_count;
    size_t max = part + 6 * (root_of(part) + 1);
    max = max < most ? max : most;
    return max != 0 ? (uint32_t)max : 1;
}

void weir_claim_table_resize(weir_claim_table_t *table, size_t max_keys)
{
    assert(max_keys > 0 && max_keys < elsewhere / 2);
    uint32_t max = shard_max(max_keys, table->shard_count);
    for (shard_t *shard = table->shards; shard != table->shards + table->shard_count; ++shard)
        atomic_store_explicit(&shard->max, max, memory_order_relaxed);
}

uint64_t weir_claim_table_bytes(size_t max_keys)
{
    uint64_t shard_count = shard_count_of(max_keys), max = shard_max(max_keys, shard_count), head_count = HEADS_MIN;
    uint64_t chunk_count = (max + CHUNK_ROWS - 1) / CHUNK_ROWS;
    while (head_count < max)
        head_count *= 2;
    return sizeof(weir_claim_table_t) +
           shard_count * (sizeof(shard_t) + chunk_count * (sizeof(chunk_t) + sizeof(chunk_t *)) + head_count * 4);
}

/* What is shown */

static void init_shard(shard_t *shard, const pthread_mutexattr_t *attributes)
{
    pthread_mutex_init(&shard->lock, attributes);
    shard->free = shard->oldest = shard->newest = none;
}

weir_claim_table_t *weir_claim_table_create(size_t max_keys, weir_claim_table_hooks_t hooks)
{
    size_t shard_count = shard_count_of(max_keys);
    size_t bytes = (sizeof(weir_claim_table_t) + shard_count * sizeof(shard_t) + 63) / 64 * 64;
    weir_claim_table_t *table = checked(aligned_alloc(_Alignof(weir_claim_table_t), bytes));
    memset(table, 0, bytes);
    table->hooks = hooks;
    table->shard_count = shard_count;
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP); /* held for 100 ns: spin before sleeping */
    for (size_t s = 0; s != shard_count; ++s)
        init_shard(&table->shards[s], &attributes);
    pthread_mutexattr_destroy(&attributes);
    weir_claim_table_resize(table, max_keys);
    return table;
}

static void visit_rows(shard_t *shard, void (*visit)(void *data, weir_claim_key_t key, weir_claim_row_t *row),
                       void *data)
{
    for (uint32_t head = 0; head != shard->head_count; ++head)
        for (uint32_t index = shard->heads[head]; index != none; index = links_at(shard, index)->next)
            visit(data, row_at(shard, index)->key, &row_at(shard, index)->shown);
}

static void dispose_visited(void *data, weir_claim_key_t key, weir_claim_row_t *row)
{
    weir_claim_table_t *table = data;
    if (table->hooks.dispose != NULL)
        table->hooks.dispose(table->hooks.context, row);
}

static void dispose_shard(weir_claim_table_t *table, shard_t *shard)
{
    visit_rows(shard, dispose_visited, table);
    for (uint32_t chunk = 0; chunk != shard->chunk_count; ++chunk)
        free(shard->chunks[chunk]);
    free(shard->chunks);
    free(shard->heads);
    pthread_mutex_destroy(&shard->lock);
}

void weir_claim_table_destroy(weir_claim_table_t *table)
{
    if (table == NULL)
        return;
    for (size_t s = 0; s != table->shard_count; ++s)
        dispose_shard(table, &table->shards[s]);
    free(table);
}

void weir_claim_table_lock(weir_claim_table_t *table, weir_claim_key_t key, int64_t now_ns)
{
    lock(table, shard_of(table, spread(key)), now_ns);
}

void weir_claim_table_unlock(weir_claim_table_t *table, weir_claim_key_t key)
{
    pthread_mutex_unlock(&shard_of(table, spread(key))->lock);
}

int64_t weir_claim_table_now(const weir_claim_table_t *table, weir_claim_key_t key)
{
    return shard_of(table, spread(key))->now_ns;
}

weir_claim_row_t *weir_claim_table_find(weir_claim_table_t *table, weir_claim_key_t key)
{
    uint64_t hash = spread(key);
    const shard_t *shard = shard_of(table, hash);
    uint32_t index = index_of(shard, key, hash);
    return index != none ? &row_at(shard, index)->shown : NULL;
}

/* Whether there is. */
static bool make_room(const weir_claim_table_t *table, shard_t *shard, bool forget_oldest, size_t *forgotten)
{
    while (shard->count >= atomic_load_explicit(&shard->max, memory_order_relaxed)) {
        if (!forget_oldest || shard->oldest == none)
            return false;
        drop(table, shard, shard->oldest);
        ++*forgotten;
    }
    return true;
}

weir_claim_row_t *weir_claim_table_insert(weir_claim_table_t *table, weir_claim_key_t key, bool forget_oldest,
                                          size_t *forgotten)
{
    shard_t *shard = shard_of(table, spread(key));
    if (!make_room(table, shard, forget_oldest, forgotten))
        return NULL;
    uint32_t index = take_row(shard);
    row_t *row = row_at(shard, index);
    memset(row, 0, sizeof(*row));
    row->key = key;
    links_at(shard, index)->newer = elsewhere;
    chain(shard, index);
    atomic_fetch_add_explicit(&shard->count, 1, memory_order_relaxed);
    return &row->shown;
}

void weir_claim_table_changed(weir_claim_table_t *table, weir_claim_key_t key, weir_claim_row_t *row)
{
    uint64_t hash = spread(key);
    shard_t *shard = shard_of(table, hash);
    uint32_t index = index_of(shard, key, hash);
    assert(index != none && &row_at(shard, index)->shown == row);
    if (row->claim.state == WEIR_CLAIM_FREE) {
        drop(table, shard, index);
        return;
    }
    leave_line(shard, index);
    if (row->claim.state != WEIR_CLAIM_IN_FLIGHT)
        join_line(shard, index);
}

void weir_claim_table_tidy(weir_claim_table_t *table, int64_t now_ns)
{
    for (shard_t *shard = table->shards; shard != table->shards + table->shard_count; ++shard) {
        lock(table, shard, now_ns);
        pthread_mutex_unlock(&shard->lock);
    }
}

size_t weir_claim_table_count(const weir_claim_table_t *table)
{
    size_t count = 0;
    for (size_t s = 0; s != table->shard_count; ++s)
        count += atomic_load_explicit(&table->shards[s].count, memory_order_relaxed);
    return count;
}

void weir_claim_table_each(weir_claim_table_t *table,
                           void (*visit)(void *data, weir_claim_key_t key, weir_claim_row_t *row), void *data)
{
    for (shard_t *shard = table->shards; shard != table->shards + table->shard_count; ++shard) {
        pthread_mutex_lock(&shard->lock);
        visit_rows(shard, visit, data);
        pthread_mutex_unlock(&shard->lock);
    }
}
