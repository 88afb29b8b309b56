#ifndef WEIR_FILTERS_MEMORY_LIMIT_H
#define WEIR_FILTERS_MEMORY_LIMIT_H

/* The limits of the store in memory, and what of their state a new configuration keeps.
 *
 * The state of a limit is found again under its name if it counts in the same way: rows count on from there at the new
 * quotas, with what they had under the old ones; whoever waits, waits for the new numbers. Thread-safe. */

#include "core/key_table.h"
#include "memory_names.h"
#include "memory_queue.h"
#include "rows.h"
#include "store.h"

struct weir_store_limit {
    const weir_rows_t *rows;
    weir_key_table_t *table;
    void *overflow; /* the row that keys share for which there is no room */
    int64_t window_ns;
    weir_memory_queue_t queue;
    weir_memory_names_t names;
    /* under the lock of all limits */
    weir_store_limit_t *next;
    char *name;
    uint64_t identity; /* of what must be the same for the state to be kept */
    uint64_t quotas;   /* of the numbers that may change */
    size_t references;
};

typedef struct {
    pthread_mutex_t lock;
    weir_store_limit_t *newest;
} weir_memory_limits_t;

void weir_memory_limits_init(weir_memory_limits_t *limits);
void weir_memory_limits_dispose(weir_memory_limits_t *limits); /* released or not */

/* The shards are the caller's and outlive all limits; `overflow` is the lock of overflow rows. Takes these locks;
 * aborts when memory is short. */
weir_store_limit_t *weir_memory_limits_acquire(weir_memory_limits_t *limits, const weir_conf_limit_t *conf,
                                               weir_key_shard_t *shards, weir_key_shard_t *overflow,
                                               weir_memory_news_t *news);
void weir_memory_limits_release(weir_memory_limits_t *limits, weir_store_limit_t *limit);

/* The newest limit of that name, or NULL; it is kept until `let_go`, which follows in either case. */
weir_store_limit_t *weir_memory_limits_hold(weir_memory_limits_t *limits, const char *name);
void weir_memory_limits_let_go(weir_memory_limits_t *limits);

uint64_t weir_memory_limit_bytes(const weir_conf_limit_t *conf); /* at most */

#endif
