#ifndef WEIR_FILTERS_MEMORY_LIMIT_H
#define WEIR_FILTERS_MEMORY_LIMIT_H

/* The limits of the store in memory, and what of their state a new configuration keeps.
 *
 * The state of a limit is found again under its name if it counts in the same way: rows count on from there at the new
 * quotas, with what they had under the old ones until the moment of the change; whoever waits, waits for the new
 * numbers. No change gives a fresh burst. Nothing that was earned is lost either, but of a key that shares its rate
 * with others that are cut, or is new in the configuration and cut by it: until it is decided again, requests of the
 * old configuration and a second change take it for as slow as these. Thread-safe. */

#include "core/key_table.h"
#include "memory_names.h"
#include "memory_queue.h"
#include "rows.h"
#include "store.h"

typedef struct weir_memory_limit weir_memory_limit_t;

/* A limit, for the configurations that have it with the same quotas, scope and on_failure. */
struct weir_store_limit {
    weir_memory_limit_t *limit;
    const weir_rows_t *rows; /* as the limit has it, and so are the next two */
    weir_key_table_t *table;
    void *overflow;
    uint64_t generation;
    /* what a store needs to know that keeps the limit elsewhere, too */
    const char *name; /* as the limit has it */
    weir_conf_algorithm_t algorithm;
    weir_conf_precision_t precision;
    weir_conf_unit_t unit;
    weir_conf_limit_on_failure_t on_failure;
    bool is_shared;
    /* Bit s is set, under the lock of shard s, where rows have other quotas now. */
    _Atomic uint64_t is_old;
    _Atomic bool is_old_in_overflow; /* the same of the overflow row */
    /* under the lock of all limits */
    weir_store_limit_t *next;
    size_t references;
};

struct weir_memory_limit {
    const weir_rows_t *rows;
    weir_key_table_t *table;
    void *overflow; /* the row that keys share for which there is no room */
    int64_t window_ns;
    weir_rows_bounds_t bounds;
    _Atomic uint64_t generation; /* of the quotas in force */
    weir_memory_queue_t queue;
    weir_memory_names_t names;
    /* under the lock of all limits */
    weir_memory_limit_t *next;
    weir_store_limit_t *handles; /* those with the quotas in force come first, if there are any */
    weir_conf_limit_t *quotas;   /* in force; it has no more than these */
    char *name;
    uint64_t identity; /* of what must be the same for the state to be kept */
    uint64_t numbers;  /* of the quotas, scope and on_failure */
};

typedef struct {
    pthread_mutex_t lock;
    weir_memory_limit_t *newest;
    int64_t told_ns; /* the latest time that was told */
} weir_memory_limits_t;

void weir_memory_limits_init(weir_memory_limits_t *limits);
void weir_memory_limits_dispose(weir_memory_limits_t *limits); /* released or not */

/* The shards are the caller's and outlive all limits; `overflow` is the lock of overflow rows. Takes these locks;
 * aborts when memory is short. */
weir_store_limit_t *weir_memory_limits_acquire(weir_memory_limits_t *limits, const weir_conf_limit_t *conf,
                                               weir_key_shard_t *shards, weir_key_shard_t *overflow,
                                               weir_memory_news_t *news);
void weir_memory_limits_release(weir_memory_limits_t *limits, weir_store_limit_t *limit);

/* A change is not earlier than that. */
void weir_memory_limits_tell_time(weir_memory_limits_t *limits, int64_t now_ns);

/* The newest limit of that name, or NULL; it is kept until `let_go`, which follows in either case. */
weir_memory_limit_t *weir_memory_limits_hold(weir_memory_limits_t *limits, const char *name);
void weir_memory_limits_let_go(weir_memory_limits_t *limits);

uint64_t weir_memory_limit_bytes(const weir_conf_limit_t *conf); /* at most */

#endif
