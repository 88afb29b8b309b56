#ifndef WEIR_FILTERS_CORE_KEY_TABLE_H
#define WEIR_FILTERS_CORE_KEY_TABLE_H

/* Rows of state by 128-bit key, in 64 shards; several tables share the shards' locks, so that a decision over limits
 * that count by the same key takes one lock.
 *
 * Guarantee: at most max_keys rows; a row is dropped only when is_free says that it carries no information. A row takes
 * sizeof(weir_key_t) + state_bytes + 1 bytes, of which between 12/16 and 15/16 of a large table are in use, and a table
 * that nobody asked next to none. An insert into a full table looks at a bounded number of rows.
 *
 * Keys are the caller's hashes, under a secret: whoever can choose them can make a lookup slow, not wrong. The caller
 * holds the lock of a key's shard while he uses that key or its row; the next insert there may move the row. */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WEIR_KEY_SHARDS = 64 };

typedef struct {
    uint64_t low, high;
} weir_key_t;

typedef struct {
    _Alignas(64) pthread_mutex_t lock;
    int64_t now_ns; /* the latest time that was seen under the lock */
} weir_key_shard_t;

typedef struct weir_key_table weir_key_table_t;

typedef struct {
    size_t state_bytes; /* a multiple of 8; a new row's state is 0, aligned to 8 */
    bool (*is_free)(const void *state, int64_t now_ns, const void *context);
    const void *context;
    void (*dispose)(void *state); /* of a row that goes, under its shard's lock; NULL: nothing is to be done */
} weir_key_table_rows_t;

static inline unsigned weir_key_shard(weir_key_t key)
{
    return key.low % WEIR_KEY_SHARDS;
}
void weir_key_shards_init(weir_key_shard_t shards[WEIR_KEY_SHARDS]);
void weir_key_shards_dispose(weir_key_shard_t shards[WEIR_KEY_SHARDS]);

/* `max_keys` < 2^24. The shards are the caller's and outlive the table. */
weir_key_table_t *weir_key_table_create(weir_key_table_rows_t rows, size_t max_keys, weir_key_shard_t *shards);
void weir_key_table_destroy(weir_key_table_t *table);

void *weir_key_table_find(const weir_key_table_t *table, weir_key_t key); /* NULL: there is none */
/* A row for a key that has none; NULL if the table is full and none of the rows that were looked at is free. `held`:
 * bit s is set where the caller has shard s locked; he uses no other row of this table meanwhile. */
void *weir_key_table_insert(weir_key_table_t *table, weir_key_t key, int64_t now_ns, uint64_t held);
void weir_key_table_erase(weir_key_table_t *table, weir_key_t key);

/* Rows over a smaller max_keys go as they become free. */
void weir_key_table_resize(weir_key_table_t *table, size_t max_keys);
size_t weir_key_table_count(const weir_key_table_t *table); /* rows in use */
/* Visits every row of a shard, whose lock the caller holds. */
void weir_key_table_each(weir_key_table_t *table, unsigned shard, void (*visit)(void *state, void *data), void *data);

/* What a table comes to with all its rows, when keys are spread as hashes are. */
uint64_t weir_key_table_bytes(size_t state_bytes, size_t max_keys);

#endif
