#ifndef WEIR_FILTERS_STORE_H
#define WEIR_FILTERS_STORE_H

/* The port to the state that limits (and later dedup) keep: filters ask here, an adapter answers - memory.c in this
 * process at once, another one later with a message to the request's ticket.
 *
 * Guarantee: a decision over several items is all or nothing - either every enforced item is charged, or none is - and
 * no other decision sees it half done. Thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "filter.h"

/* The state of one limit; outlives configurations in which the limit is the same one. */
typedef struct weir_store_limit weir_store_limit_t;

/* Hash of the key's parts, each with its length before it, so that {a, bc} and {ab, c} differ; see `key` below. */
typedef struct {
    uint64_t low, high;
} weir_store_key_t;

typedef struct {
    /* asked */
    weir_store_limit_t *limit;
    const weir_conf_quota_t *quota; /* of this key: the limit's own or a tenant's */
    weir_store_key_t key;
    int64_t cost;
    bool shadow; /* decided and charged as if enforced, but never in the way of the others */
    /* answered */
    bool admitted;          /* by this limit; charged only if all enforced items were admitted */
    bool overflowed;        /* the table was full: decided in the overflow row */
    int64_t charged_ns;     /* when `cost` was charged; -1: it was not */
    int64_t remaining;      /* after this decision */
    int64_t reset_ns;       /* until all is there again; -1: never */
    int64_t retry_after_ns; /* refused: until `cost` fits if nobody else comes; -1: never; admitted: 0 */
} weir_store_item_t;

typedef enum { WEIR_STORE_DECIDED, WEIR_STORE_PENDING } weir_store_answer_t;

typedef struct {
    const char *limit; /* name */
    size_t keys;       /* rows in use */
} weir_store_stats_t;

struct weir_store {
    /* The state of `limit`, kept from an earlier configuration if it has the same name, algorithm, window and key;
     * a changed max_keys resizes it. One reference. */
    weir_store_limit_t *(*limit_acquire)(weir_store_t *store, const weir_conf_limit_t *limit);
    void (*limit_release)(weir_store_t *store, weir_store_limit_t *limit);
    /* The hash of a key's parts, of this store's own kind. */
    weir_store_key_t (*key)(const weir_store_t *store, const void *parts, size_t len);
    /* count <= WEIR_LIMITS_PER_ROUTE_MAX, each limit once. Returns whether all enforced items were admitted in
     * *admitted. PENDING: the items are answered by `collect` after the ticket was told, or after timeout_ns at most.
     */
    weir_store_answer_t (*decide)(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                  weir_ticket_t ticket, bool *admitted);
    int64_t timeout_ns; /* 0, and no collect and abandon: never PENDING */
    /* The answer to a PENDING decision; PENDING again where it is not there and timeout_ns are not over. */
    weir_store_answer_t (*collect)(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                   weir_ticket_t ticket, bool *admitted);
    /* Nobody will collect: the store refunds what it charged, now or when it hears of it. */
    void (*abandon)(weir_store_t *store, weir_ticket_t ticket);
    /* Gives back what a decision charged (items as they were answered). */
    void (*refund)(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns);
    size_t (*limit_keys)(weir_store_t *store, const char *name); /* rows in use; 0 for an unknown name */
    void (*destroy)(weir_store_t *store);
};

/* State in this process. `secret` (64 bytes, drawn at start) keys the hashes; shards are its own business. */
weir_store_t *weir_memory_store_create(const uint8_t secret[64]);

/* Bytes that a table of `max_keys` rows of this limit comes to at most, for --check. */
uint64_t weir_memory_store_bytes(const weir_conf_limit_t *limit);

#endif
