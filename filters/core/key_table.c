#include "key_table.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A part of the table, one a shard: open addressing over tags, and a row for each tag, in chunks of one size.
 *
 * A tag is 8 bits of the key's hash, 0 where no row is. A row is at most `reach` places after its home, whether the
 * places between are in use or not: so a search is a memchr over tags, which stay near, and mostly one row is read;
 * and dropping a row is clearing its tag. Parts are filled to 15/16 and grow by sixteenths, at least by a chunk: more
 * copying, and less that lies idle. */
typedef struct {
    _Alignas(64) uint8_t *tags;
    unsigned char **chunks;
    uint32_t chunk_count;
    uint32_t capacity; /* places */
    uint32_t count;    /* rows in use */
    uint32_t reach;
    uint32_t hand; /* the place that reclaim() looks at next */
} part_t;

struct weir_key_table {
    part_t parts[WEIR_KEY_SHARDS];
    weir_key_table_rows_t rows;
    weir_key_shard_t *shards;
    size_t row_bytes;
    unsigned chunk_shift; /* log2 of a chunk's rows */
    _Atomic size_t count, max_keys;
    _Atomic unsigned hand; /* the part that reclaim() goes to next */
};

typedef struct {
    weir_key_t key;
    unsigned char state[];
} row_t;

enum {
    MAX_KEYS_BITS = 24,
    SPARE = 16,             /* one place of so many is not used */
    CHUNK_BYTES_MAX = 2560, /* 64 rows of a token bucket */
    RECLAIM_LOOKS = 16,     /* rows in the key's own part, and as many in the others */
    RECLAIM_PLACES = 64,    /* passed in one part at once */
};

static const uint32_t nowhere = UINT32_MAX;

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* Each bit of it depends on every bit of the key, even of keys that differ in few. */
static uint64_t spread(weir_key_t key)
{
    unsigned __int128 product =
        (unsigned __int128)(key.low ^ UINT64_C(0x9e3779b97f4a7c15)) * (key.high ^ UINT64_C(0xbf58476d1ce4e5b9));
    return (uint64_t)(product >> 64) ^ (uint64_t)product;
}

static uint32_t home_of(uint64_t hash, uint32_t capacity)
{
    return (uint32_t)((hash >> 32) * capacity >> 32);
}

static uint8_t tag_of(uint64_t hash)
{
    uint8_t tag = (uint8_t)hash;
    return tag != 0 ? tag : 1;
}

static row_t *row_at(const weir_key_table_t *table, const part_t *part, uint32_t place)
{
    unsigned char *chunk = part->chunks[place >> table->chunk_shift];
    return (row_t *)(chunk + (place & ((1U << table->chunk_shift) - 1)) * table->row_bytes);
}

/* Where `key` is among places first .. end - 1. */
static uint32_t search(const weir_key_table_t *table, const part_t *part, weir_key_t key, uint8_t tag, uint32_t first,
                       uint32_t end)
{
    const uint8_t *at = part->tags + first, *tags_end = part->tags + end;
    while ((at = memchr(at, tag, (size_t)(tags_end - at))) != NULL) {
        uint32_t place = (uint32_t)(at - part->tags);
        const row_t *row = row_at(table, part, place);
        if (row->key.low == key.low && row->key.high == key.high)
            return place;
        ++at;
    }
    return nowhere;
}

/* Has the rows brought near that are the likeliest, while the tags are read. */
static void prefetch(const void *row)
{
    __builtin_prefetch(row);
    __builtin_prefetch((const char *)row + 64);
    __builtin_prefetch((const char *)row + 128);
}

static uint32_t place_of(const weir_key_table_t *table, const part_t *part, weir_key_t key)
{
    if (part->count == 0)
        return nowhere;
    uint64_t hash = spread(key);
    uint32_t home = home_of(hash, part->capacity), end = home + part->reach + 1;
    prefetch(row_at(table, part, home));
    if (end <= part->capacity)
        return search(table, part, key, tag_of(hash), home, end);
    uint32_t place = search(table, part, key, tag_of(hash), home, part->capacity);
    return place != nowhere ? place : search(table, part, key, tag_of(hash), 0, end - part->capacity);
}

/* Takes the first place at or after home that is not in use; there is one. */
static uint32_t claim_place(part_t *part, uint64_t hash)
{
    uint32_t place = home_of(hash, part->capacity), distance = 0;
    for (; part->tags[place] != 0; ++distance)
        if (++place == part->capacity)
            place = 0;
    part->tags[place] = tag_of(hash);
    if (distance > part->reach)
        part->reach = distance;
    return place;
}

/* Returns how many places there were before. */
static uint32_t add_chunks(const weir_key_table_t *table, part_t *part)
{
    uint32_t before = part->capacity, first = part->chunk_count;
    part->chunk_count += part->chunk_count / SPARE + 1;
    part->chunks = checked(realloc(part->chunks, part->chunk_count * sizeof(*part->chunks)));
    for (uint32_t chunk = first; chunk < part->chunk_count; ++chunk)
        part->chunks[chunk] = checked(malloc(table->row_bytes << table->chunk_shift));
    part->capacity = part->chunk_count << table->chunk_shift;
    part->tags = checked(realloc(part->tags, part->capacity));
    memset(part->tags + before, 0, part->capacity - before);
    return before;
}

static void grow(const weir_key_table_t *table, part_t *part)
{
    uint32_t before = add_chunks(table, part);
    part->reach = 0;
    for (uint32_t from = before; from-- != 0;) { /* homes have moved up: begin above */
        if (part->tags[from] == 0)
            continue;
        const row_t *row = row_at(table, part, from);
        part->tags[from] = 0;
        uint32_t to = claim_place(part, spread(row->key));
        if (to != from)
            memcpy(row_at(table, part, to), row, table->row_bytes);
    }
}

static void dispose(const weir_key_table_t *table, const part_t *part, uint32_t place)
{
    if (table->rows.dispose != NULL)
        table->rows.dispose(row_at(table, part, place)->state);
}

static void drop(weir_key_table_t *table, part_t *part, uint32_t place)
{
    dispose(table, part, place);
    part->tags[place] = 0;
    --part->count;
    atomic_fetch_sub_explicit(&table->count, 1, memory_order_relaxed);
}

/* Making room */

/* Lets the part's clock hand look at up to *looks rows, and drops the first that is free. */
static bool reclaim_in(weir_key_table_t *table, part_t *part, int64_t now_ns, unsigned *looks)
{
    uint32_t places = part->capacity < RECLAIM_PLACES ? part->capacity : RECLAIM_PLACES;
    for (uint32_t i = 0; i < places && *looks != 0; ++i) {
        uint32_t place = part->hand < part->capacity ? part->hand : 0;
        part->hand = place + 1;
        if (part->tags[place] == 0)
            continue;
        --*looks;
        if (table->rows.is_free(row_at(table, part, place)->state, now_ns, table->rows.context)) {
            drop(table, part, place);
            return true;
        }
    }
    return false;
}

/* In the other parts: only tries their locks, so that the order of locks does not matter. */
static bool reclaim_elsewhere(weir_key_table_t *table, unsigned own, int64_t now_ns, uint64_t held, unsigned *looks)
{
    for (unsigned tried = 0; tried < WEIR_KEY_SHARDS && *looks != 0; ++tried) {
        unsigned other = atomic_fetch_add_explicit(&table->hand, 1, memory_order_relaxed) % WEIR_KEY_SHARDS;
        if (other == own)
            continue;
        bool is_held = held >> other & 1;
        if (!is_held && pthread_mutex_trylock(&table->shards[other].lock) != 0)
            continue;
        bool found = reclaim_in(table, &table->parts[other], now_ns, looks);
        if (!is_held)
            pthread_mutex_unlock(&table->shards[other].lock);
        if (found)
            return true;
    }
    return false;
}

static bool reserve(weir_key_table_t *table)
{
    size_t count = atomic_load_explicit(&table->count, memory_order_relaxed);
    do {
        if (count >= atomic_load_explicit(&table->max_keys, memory_order_relaxed))
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&table->count, &count, count + 1, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static bool make_room(weir_key_table_t *table, unsigned own, int64_t now_ns, uint64_t held)
{
    unsigned looks = RECLAIM_LOOKS, looks_elsewhere = RECLAIM_LOOKS;
    while (!reserve(table))
        if (!reclaim_in(table, &table->parts[own], now_ns, &looks) &&
            !reclaim_elsewhere(table, own, now_ns, held, &looks_elsewhere))
            return false;
    return true;
}

/* What is shown */

void weir_key_shards_init(weir_key_shard_t shards[WEIR_KEY_SHARDS])
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ADAPTIVE_NP); /* held for 100 ns: spin before sleeping */
    for (unsigned s = 0; s < WEIR_KEY_SHARDS; ++s) {
        pthread_mutex_init(&shards[s].lock, &attributes);
        shards[s].now_ns = 0;
    }
    pthread_mutexattr_destroy(&attributes);
}

void weir_key_shards_dispose(weir_key_shard_t shards[WEIR_KEY_SHARDS])
{
    for (unsigned s = 0; s < WEIR_KEY_SHARDS; ++s)
        pthread_mutex_destroy(&shards[s].lock);
}

static unsigned chunk_shift_of(size_t row_bytes)
{
    unsigned shift = 0;
    while (row_bytes << (shift + 1) <= CHUNK_BYTES_MAX)
        ++shift;
    return shift;
}

weir_key_table_t *weir_key_table_create(weir_key_table_rows_t rows, size_t max_keys, weir_key_shard_t *shards)
{
    assert(rows.state_bytes % 8 == 0);
    weir_key_table_t *table = checked(aligned_alloc(_Alignof(weir_key_table_t), sizeof(*table)));
    memset(table, 0, sizeof(*table));
    table->rows = rows;
    table->shards = shards;
    table->row_bytes = sizeof(row_t) + rows.state_bytes;
    table->chunk_shift = chunk_shift_of(table->row_bytes);
    weir_key_table_resize(table, max_keys);
    return table;
}

void weir_key_table_destroy(weir_key_table_t *table)
{
    if (table == NULL)
        return;
    for (part_t *part = table->parts; part < table->parts + WEIR_KEY_SHARDS; ++part) {
        for (uint32_t place = 0; place < part->capacity; ++place)
            if (part->tags[place] != 0)
                dispose(table, part, place);
        for (uint32_t chunk = 0; chunk < part->chunk_count; ++chunk)
            free(part->chunks[chunk]);
        free(part->chunks);
        free(part->tags);
    }
    free(table);
}

void *weir_key_table_find(const weir_key_table_t *table, weir_key_t key)
{
    const part_t *part = &table->parts[weir_key_shard(key)];
    uint32_t place = place_of(table, part, key);
    return place != nowhere ? row_at(table, part, place)->state : NULL;
}

void *weir_key_table_insert(weir_key_table_t *table, weir_key_t key, int64_t now_ns, uint64_t held)
{
    unsigned own = weir_key_shard(key);
    part_t *part = &table->parts[own];
    if (!make_room(table, own, now_ns, held))
        return NULL;
    if (part->count >= part->capacity - part->capacity / SPARE)
        grow(table, part);
    row_t *row = row_at(table, part, claim_place(part, spread(key)));
    row->key = key;
    memset(row->state, 0, table->rows.state_bytes);
    ++part->count;
    return row->state;
}

void weir_key_table_erase(weir_key_table_t *table, weir_key_t key)
{
    part_t *part = &table->parts[weir_key_shard(key)];
    uint32_t place = place_of(table, part, key);
    assert(place != nowhere);
    drop(table, part, place);
}

void weir_key_table_resize(weir_key_table_t *table, size_t max_keys)
{
    assert(max_keys < 1U << MAX_KEYS_BITS);
    atomic_store_explicit(&table->max_keys, max_keys, memory_order_relaxed);
}

size_t weir_key_table_count(const weir_key_table_t *table)
{
    return atomic_load_explicit(&table->count, memory_order_relaxed);
}

void weir_key_table_each(weir_key_table_t *table, unsigned shard, void (*visit)(void *state, void *data), void *data)
{
    const part_t *part = &table->parts[shard];
    for (uint32_t place = 0; place < part->capacity; ++place)
        if (part->tags[place] != 0)
            visit(row_at(table, part, place)->state, data);
}

uint64_t weir_key_table_bytes(size_t state_bytes, size_t max_keys)
{
    uint64_t place_bytes = sizeof(row_t) + state_bytes + 1;
    uint64_t chunk_places = (uint64_t)1 << chunk_shift_of(sizeof(row_t) + state_bytes);
    uint64_t places = max_keys + max_keys / 4 + WEIR_KEY_SHARDS * chunk_places; /* parts differ in size */
    return sizeof(weir_key_table_t) + places * place_bytes;
}
