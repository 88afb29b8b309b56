#include "key_table.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* A part of the table, one a shard: rows in chunks that never move, and an index over them.
 *
 * The index is open addressing with linear probing. An entry is 8 bits of the key's hash and 24 bits of row number + 1,
 * so that a row is seldom read in vain; 0 is no entry. It grows by quarters: more copying, and less that lies idle. */
typedef struct {
    _Alignas(64) uint32_t *index;
    uint32_t capacity;  /* of the index */
    uint32_t row_count; /* in use */
    uint32_t rows_made; /* ever used; the first are 0 .. rows_made - 1 */
    uint32_t chunk_count;
    uint32_t spare_row; /* row number + 1 of the first that is no longer in use; 0: none */
    uint32_t hand;     /* the row that reclaim() looks at next */
    unsigned char **chunks;
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

/* A row. One that is not in use has a key of another shard, and the next such one's number + 1 in its state. */
typedef struct {
    weir_key_t key;
    unsigned char state[];
} row_t;

enum {
    ROW_BITS = 24,
    CHUNK_BYTES = 2048, /* roughly */
    INDEX_CAPACITY_MIN = 4,
    RECLAIM_LOOKS = 16, /* rows in the key's own part, and as many in the others */
};

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* Memory */

static row_t *row_at(const weir_key_table_t *table, const part_t *part, uint32_t row)
{
    unsigned char *chunk = part->chunks[row >> table->chunk_shift];
    return (row_t *)(chunk + (row & ((1U << table->chunk_shift) - 1)) * table->row_bytes);
}

static bool is_used(const weir_key_table_t *table, const part_t *part, const row_t *row)
{
    return weir_key_shard(row->key) == (unsigned)(part - table->parts);
}

static uint32_t take_row(const weir_key_table_t *table, part_t *part)
{
    if (part->spare_row != 0) {
        uint32_t row = part->spare_row - 1;
        memcpy(&part->spare_row, row_at(table, part, row)->state, sizeof(part->spare_row));
        return row;
    }
    if (part->rows_made >> table->chunk_shift == part->chunk_count) {
        if ((part->chunk_count & (part->chunk_count - 1)) == 0) { /* a power of two: double */
            size_t capacity = part->chunk_count == 0 ? 1 : (size_t)part->chunk_count * 2;
            part->chunks = checked(realloc(part->chunks, capacity * sizeof(*part->chunks)));
        }
        part->chunks[part->chunk_count++] = checked(malloc(table->row_bytes << table->chunk_shift));
    }
    return part->rows_made++;
}

static void give_row(const weir_key_table_t *table, part_t *part, uint32_t number)
{
    row_t *row = row_at(table, part, number);
    row->key.low ^= 1;
    memcpy(row->state, &part->spare_row, sizeof(part->spare_row));
    part->spare_row = number + 1;
}

/* The index */

static bool is_same(weir_key_t a, weir_key_t b)
{
    return a.low == b.low && a.high == b.high;
}

/* Every bit of the key in the upper bits, whichever of them differ. */
static uint64_t spread(weir_key_t key)
{
    uint64_t mixed = key.low ^ (key.high << 32 | key.high >> 32);
    mixed = (mixed ^ mixed >> 32) * UINT64_C(0x9e3779b97f4a7c15);
    return mixed ^ mixed >> 29;
}

static uint32_t home_of(const part_t *part, uint64_t hash)
{
    return (uint32_t)((hash >> 32) * part->capacity >> 32);
}

static uint32_t next_of(const part_t *part, uint32_t place)
{
    return ++place == part->capacity ? 0 : place;
}

static uint32_t entry_of(uint64_t hash, uint32_t row)
{
    return (uint32_t)(hash & 0xff) << ROW_BITS | (row + 1);
}

static uint32_t row_of(uint32_t entry)
{
    return (entry & ((1U << ROW_BITS) - 1)) - 1;
}

static void put_entry(part_t *part, uint64_t hash, uint32_t row)
{
    uint32_t place = home_of(part, hash);
    while (part->index[place] != 0)
        place = next_of(part, place);
    part->index[place] = entry_of(hash, row);
}

/* Where the key's entry is, or the empty place where the search for it ended; the index is not empty. */
static uint32_t place_of(const weir_key_table_t *table, const part_t *part, weir_key_t key)
{
    uint64_t hash = spread(key);
    uint32_t place = home_of(part, hash), tag = (uint32_t)(hash & 0xff), entry;
    for (; (entry = part->index[place]) != 0; place = next_of(part, place))
        if (entry >> ROW_BITS == tag && is_same(row_at(table, part, row_of(entry))->key, key))
            break;
    return place;
}

static void grow_index(const weir_key_table_t *table, part_t *part)
{
    free(part->index);
    part->capacity += part->capacity / 4 + INDEX_CAPACITY_MIN;
    part->index = checked(calloc(part->capacity, sizeof(*part->index)));
    for (uint32_t row = 0; row < part->rows_made; ++row) {
        const row_t *at = row_at(table, part, row);
        if (is_used(table, part, at))
            put_entry(part, spread(at->key), row);
    }
}

/* Closes the gap: an entry moves back to it unless its home lies between the gap and itself. */
static void remove_entry(const weir_key_table_t *table, part_t *part, uint32_t gap)
{
    for (uint32_t place = next_of(part, gap); part->index[place] != 0; place = next_of(part, place)) {
        uint32_t home = home_of(part, spread(row_at(table, part, row_of(part->index[place]))->key));
        uint32_t from_home = place >= home ? place - home : place + part->capacity - home;
        uint32_t from_gap = place >= gap ? place - gap : place + part->capacity - gap;
        if (from_home >= from_gap) {
            part->index[gap] = part->index[place];
            gap = place;
        }
    }
    part->index[gap] = 0;
}

static void erase_in(weir_key_table_t *table, part_t *part, weir_key_t key)
{
    uint32_t place = place_of(table, part, key);
    assert(part->index[place] != 0);
    uint32_t row = row_of(part->index[place]);
    remove_entry(table, part, place);
    give_row(table, part, row);
    --part->row_count;
    atomic_fetch_sub_explicit(&table->count, 1, memory_order_relaxed);
}

/* Making room */

/* Lets the part's clock hand look at up to *looks rows, and drops the first that is free. */
static bool reclaim_in(weir_key_table_t *table, part_t *part, int64_t now_ns, unsigned *looks)
{
    for (uint32_t i = 0; i < part->rows_made && *looks != 0; ++i) {
        if (part->hand >= part->rows_made)
            part->hand = 0;
        const row_t *row = row_at(table, part, part->hand++);
        --*looks;
        if (is_used(table, part, row) && table->rows.is_free(row->state, now_ns, table->rows.context)) {
            erase_in(table, part, row->key);
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
    while (row_bytes << (shift + 1) <= CHUNK_BYTES)
        ++shift;
    return shift;
}

weir_key_table_t *weir_key_table_create(weir_key_table_rows_t rows, size_t max_keys, weir_key_shard_t *shards)
{
    assert(rows.state_bytes % 8 == 0 && rows.state_bytes >= sizeof(uint32_t));
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
        for (uint32_t chunk = 0; chunk < part->chunk_count; ++chunk)
            free(part->chunks[chunk]);
        free(part->chunks);
        free(part->index);
    }
    free(table);
}

void *weir_key_table_find(const weir_key_table_t *table, weir_key_t key)
{
    const part_t *part = &table->parts[weir_key_shard(key)];
    if (part->row_count == 0)
        return NULL;
    uint32_t entry = part->index[place_of(table, part, key)];
    return entry != 0 ? row_at(table, part, row_of(entry))->state : NULL;
}

void *weir_key_table_insert(weir_key_table_t *table, weir_key_t key, int64_t now_ns, uint64_t held)
{
    unsigned own = weir_key_shard(key);
    part_t *part = &table->parts[own];
    if (!make_room(table, own, now_ns, held))
        return NULL;
    if (part->row_count + 1 > part->capacity / 4 * 3)
        grow_index(table, part);
    uint32_t number = take_row(table, part);
    row_t *row = row_at(table, part, number);
    row->key = key;
    memset(row->state, 0, table->rows.state_bytes);
    put_entry(part, spread(row->key), number);
    ++part->row_count;
    return row->state;
}

void weir_key_table_erase(weir_key_table_t *table, weir_key_t key)
{
    erase_in(table, &table->parts[weir_key_shard(key)], key);
}

void weir_key_table_resize(weir_key_table_t *table, size_t max_keys)
{
    assert(max_keys < 1U << ROW_BITS);
    atomic_store_explicit(&table->max_keys, max_keys, memory_order_relaxed);
}

size_t weir_key_table_count(const weir_key_table_t *table)
{
    return atomic_load_explicit(&table->count, memory_order_relaxed);
}

static int64_t latest_of(weir_key_shard_t *shards)
{
    int64_t latest_ns = 0;
    for (unsigned s = 0; s < WEIR_KEY_SHARDS; ++s) {
        pthread_mutex_lock(&shards[s].lock);
        if (shards[s].now_ns > latest_ns)
            latest_ns = shards[s].now_ns;
        pthread_mutex_unlock(&shards[s].lock);
    }
    return latest_ns;
}

void weir_key_table_each(weir_key_table_t *table, void (*visit)(void *state, int64_t now_ns, void *data), void *data)
{
    int64_t now_ns = latest_of(table->shards);
    for (unsigned s = 0; s < WEIR_KEY_SHARDS; ++s) {
        const part_t *part = &table->parts[s];
        pthread_mutex_lock(&table->shards[s].lock);
        if (table->shards[s].now_ns < now_ns)
            table->shards[s].now_ns = now_ns; /* what is visited at a time is not used before it */
        for (uint32_t number = 0; number < part->rows_made; ++number) {
            row_t *row = row_at(table, part, number);
            if (is_used(table, part, row))
                visit(row->state, now_ns, data);
        }
        pthread_mutex_unlock(&table->shards[s].lock);
    }
}

uint64_t weir_key_table_bytes(size_t state_bytes, size_t max_keys)
{
    uint64_t row_bytes = sizeof(row_t) + state_bytes;
    uint64_t chunk_rows = (uint64_t)1 << chunk_shift_of(row_bytes);
    uint64_t rows = max_keys + max_keys / 4 + WEIR_KEY_SHARDS * chunk_rows / 2; /* parts are not equally full */
    return sizeof(weir_key_table_t) + rows * (row_bytes + 2 * sizeof(uint32_t));
}
