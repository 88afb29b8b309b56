#ifndef WEIR_FILTERS_MEMORY_DEDUP_H
#define WEIR_FILTERS_MEMORY_DEDUP_H

/* The dedups of the store in memory, and what of their state a new configuration keeps.
 *
 * A Bloom pair stands before the exact keys: a key that it never saw takes a row without a look. A key is added to it when
 * it is claimed, while it runs and when it is done, so whatever has a row is known to it. For want of room the answer that was
 * not read for longest goes, and its key stays. Calls of this process always end, so leases do not. Locks: a key's shard,
 * then the answers', then a stream's. Thread-safe. */

#include "core/claim_table.h"
#include "store.h"
#include "stream.h"

typedef struct weir_memory_dedup weir_memory_dedup_t;

typedef struct {
    pthread_mutex_t lock;
    weir_memory_dedup_t *newest;
    size_t holds;
    weir_store_teller_t teller;
    _Atomic uint64_t owners; /* that were given */
} weir_memory_dedups_t;

void weir_memory_dedups_init(weir_memory_dedups_t *dedups, weir_store_teller_t teller);
void weir_memory_dedups_dispose(weir_memory_dedups_t *dedups); /* released or not */

/* Of a store in memory. */
weir_memory_dedups_t *weir_memory_store_dedups(weir_store_t *store);

/* As weir_store_t has them. */
weir_store_dedup_t *weir_memory_dedups_acquire(weir_memory_dedups_t *dedups, const weir_conf_dedup_t *conf);
void weir_memory_dedups_release(weir_memory_dedups_t *dedups, weir_store_dedup_t *handle);
weir_store_claim_told_t weir_memory_dedups_claim(weir_memory_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns);
weir_store_claim_told_t weir_memory_dedups_peek(weir_store_claim_t *claim, int64_t now_ns);
bool weir_memory_dedups_renew(const weir_store_claim_t *claim, int64_t now_ns);
void weir_memory_dedups_commit(const weir_store_claim_t *claim, int64_t now_ns);
void weir_memory_dedups_forget(const weir_store_claim_t *claim, int64_t now_ns);
void weir_memory_dedups_lose(const weir_store_claim_t *claim, int64_t now_ns);
bool weir_memory_dedups_reset(weir_store_dedup_t *handle, weir_store_key_t key, int64_t now_ns);
bool weir_memory_dedups_tell(weir_memory_dedups_t *dedups, const char *name, int64_t now_ns, weir_store_dedup_told_t *told);
void weir_memory_dedups_tidy(weir_memory_dedups_t *dedups, int64_t now_ns);

/* A finished key, to be kept in a file or had from it. `left_ns`: of its window; `age_ns`: since it was done. */
typedef struct {
    const char *dedup; /* name */
    weir_store_key_t key;
    uint64_t fingerprint;
    bool is_unknown;
    int64_t left_ns, age_ns;
    weir_memory_dedup_t *of; /* whose it is; not of one that was had from a file */
    weir_stream_t *answer;   /* whole, or NULL */
} weir_memory_dedup_key_t;

/* Until it lets go no dedup goes, whoever releases it, nor do names: an answer needs its dedup. */
void weir_memory_dedups_hold(weir_memory_dedups_t *dedups);
void weir_memory_dedups_let_go(weir_memory_dedups_t *dedups);
/* Visits every finished key, under its shard's lock. */
void weir_memory_dedups_each(weir_memory_dedups_t *dedups, int64_t now_ns,
                             void (*visit)(void *data, const weir_memory_dedup_key_t *key), void *data);
/* One that was visited since the hold began, as it is now, its answer acquired. False: it is not there any more. */
bool weir_memory_dedups_look(weir_memory_dedup_key_t *key, int64_t now_ns);
/* Puts one back, before requests come; false: there is no such dedup, it is there, or its time is over. To be called with the
 * ones that end first before the others: where there is no room, they go. `fill`: makes the answer on this dedup's account;
 * NULL: there is none. */
bool weir_memory_dedups_restore(weir_memory_dedups_t *dedups, const weir_memory_dedup_key_t *key, int64_t now_ns,
                                weir_stream_t *(*fill)(void *data, weir_stream_account_t *account, int64_t max_bytes),
                                void *data);

#endif
