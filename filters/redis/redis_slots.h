#ifndef WEIR_FILTERS_REDIS_REDIS_SLOTS_H
#define WEIR_FILTERS_REDIS_REDIS_SLOTS_H

/* The slots that one worker's requests have in Redis. Each is a lease there, renewed while its request runs, removed at
 * its end: what could not be removed - Redis was down, or nobody knows whether it was - is removed later, while the
 * lease may last; and once more where a renewal was on its way, which may have come after that: what Redis did not take - it
 * did not know the script, the key had moved - is sent again.
 *
 * Guarantee: a slot whose request has ended is in use for no longer than its lease, whatever happened. For this
 * worker's thread alone. */

#include "redis_row.h"
#include "remote.h"

enum { WEIR_REDIS_SLOTS_OVER_MAX = 4096 }; /* that wait to be removed; the lease ends what comes beyond them */

typedef struct weir_redis_slots weir_redis_slots_t;

/* Embedded, and zero at first but for what is its owner's. */
typedef struct weir_redis_slot {
    /* the owner's */
    const weir_redis_row_t *row;
    void (*on_gone)(struct weir_redis_slot *slot); /* it is not needed any more; after hold or end, once */
    int64_t renewed_ns;                            /* when its lease began */
    /* its own */
    struct weir_redis_slot *next, *previous;
    weir_redis_slots_t *slots;
    uint64_t renewal; /* the last one that has it; 0: none */
    bool may_return;  /* that one was on its way when the removal was sent */
} weir_redis_slot_t;

struct weir_redis_slots {
    weir_remote_t *remote;
    int64_t timeout_ns;
    weir_redis_slot_t in_use; /* rings: the oldest lease is first */
    weir_redis_slot_t over;
    size_t over_count;
    uint64_t renewals, renewed; /* that were sent; up to which all have ended */
    size_t renewing;            /* that have not */
    int64_t back_ns; /* when Redis could be asked again last */
};

void weir_redis_slots_init(weir_redis_slots_t *slots, weir_remote_t *remote, int64_t timeout_ns);
void weir_redis_slots_dispose(weir_redis_slots_t *slots); /* leases end what is left */

void weir_redis_slots_hold(weir_redis_slots_t *slots, weir_redis_slot_t *slot);
/* Held or not, and there or not. */
void weir_redis_slots_end(weir_redis_slots_t *slots, weir_redis_slot_t *slot, int64_t now_ns);

/* Redis can be asked again: what was purged meanwhile, or flushed, is added when it is next renewed, which is now. */
void weir_redis_slots_come_back(weir_redis_slots_t *slots, int64_t now_ns);
void weir_redis_slots_tick(weir_redis_slots_t *slots, int64_t now_ns);

#endif
