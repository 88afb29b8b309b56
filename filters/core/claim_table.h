#ifndef WEIR_FILTERS_CORE_CLAIM_TABLE_H
#define WEIR_FILTERS_CORE_CLAIM_TABLE_H

/* The exact keys of one dedup: claims by 128-bit key, in shards with a lock each.
 *
 * Guarantee: `max_keys` keys have room, spread as hashes are, and never more than twice as many; memory grows with the
 * keys that are there, at most weir_claim_table_bytes: less than 80 bytes for each of many. Whatever is in flight is
 * never dropped. Finished claims go when their time is over, the oldest first; as all of a table live for the same
 * window, those of a shard stand in a line in the order in which they end, so that neither expiry nor forgetting the
 * oldest searches. The caller holds the lock of a key's shard while he uses a row; the next insert into that shard may
 * move it. */

#include <pthread.h>
#include <stddef.h>
#include "claim.h"

typedef struct {
    uint64_t low, high;
} weir_claim_key_t;

typedef struct {
    weir_claim_t claim;
    void *answer; /* what is kept of it; NULL: nothing */
} weir_claim_row_t;

typedef struct weir_claim_table weir_claim_table_t;

typedef struct {
    /* A row goes, by age or for space, with its answer; under its shard's lock. May be NULL. */
    void (*dispose)(void *context, weir_claim_row_t *row);
    void *context;
} weir_claim_table_hooks_t;

weir_claim_table_t *weir_claim_table_create(size_t max_keys, weir_claim_table_hooks_t hooks);
void weir_claim_table_destroy(weir_claim_table_t *table); /* disposes of all rows */
/* What is over it goes as room is needed. Shards stay as many as they are (64 at most) and have room for a key each. */
void weir_claim_table_resize(weir_claim_table_t *table, size_t max_keys);

/* Locks the key's shard and drops the finished claims there whose time is over. */
void weir_claim_table_lock(weir_claim_table_t *table, weir_claim_key_t key, int64_t now_ns);
void weir_claim_table_unlock(weir_claim_table_t *table, weir_claim_key_t key);
/* The latest time that was seen under this lock: it does not go back. */
int64_t weir_claim_table_now(const weir_claim_table_t *table, weir_claim_key_t key);

weir_claim_row_t *weir_claim_table_find(weir_claim_table_t *table, weir_claim_key_t key); /* NULL: there is none */
/* A row, all 0, for a key that has none. NULL: the shard is full, and nothing there may be dropped: `forget_oldest`
 * drops the oldest finished one for it, and counts it in *forgotten. */
weir_claim_row_t *weir_claim_table_insert(weir_claim_table_t *table, weir_claim_key_t key, bool forget_oldest,
                                          size_t *forgotten);
/* To be called after each change of row->claim.state: a finished row (DONE, UNKNOWN) takes its place at the end of the
 * line, one in flight leaves it, a FREE one is dropped (with `dispose`). */
void weir_claim_table_changed(weir_claim_table_t *table, weir_claim_key_t key, weir_claim_row_t *row);

/* Drops the finished claims whose time is over, of shards that nobody has asked for a while, too. */
void weir_claim_table_tidy(weir_claim_table_t *table, int64_t now_ns);

size_t weir_claim_table_count(const weir_claim_table_t *table);
/* Visits every row, a shard at a time under its lock; no row's state changes meanwhile. */
void weir_claim_table_each(weir_claim_table_t *table,
                           void (*visit)(void *data, weir_claim_key_t key, weir_claim_row_t *row), void *data);
uint64_t weir_claim_table_bytes(size_t max_keys);

#endif
