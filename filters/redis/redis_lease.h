#ifndef WEIR_FILTERS_REDIS_REDIS_LEASE_H
#define WEIR_FILTERS_REDIS_REDIS_LEASE_H

/* sync: lease. Slices of a limit that this sidecar has taken ahead, to decide by itself: of token buckets, and of windows in
 * slots. A key that was asked for twice within a second gets one, of `lease` of its quota, but of no more than all sidecars may
 * have at once; it is asked for anew when half of it is gone or half of its time is over. What is left of it is given back after a
 * second without use, or when neither it nor what Redis had left is enough for a request.
 *
 * Guarantee: what is taken here was charged in Redis before, and its slice had not ended: whatever this sidecar does, no limit
 * admits more than it would with each request asked for. A slice that nobody gives back ends there 2 s after it was asked for. At
 * most WEIR_REDIS_LEASE_ROWS_MAX keys have one.
 *
 * On any worker's thread; all threads have the slices together. */

#include "redis_row.h"
#include "remote.h"

enum { WEIR_REDIS_LEASE_ROWS_MAX = 16384 };

typedef struct weir_redis_leases weir_redis_leases_t;

/* The prefix and the remote outlive it. NULL where conf->sync is strict; the others take that for no slices. */
weir_redis_leases_t *weir_redis_leases_create(const weir_conf_store_redis_t *conf, weir_remote_t *remote, weir_str_t prefix);
/* Once all requests, and all that was asked, have ended. */
void weir_redis_leases_destroy(weir_redis_leases_t *leases);

/* Charges the items whose bits are set in `wanted`, and answers them; or none: then Redis is to be asked. *wanting: those whose
 * slices should be larger - renew them after that, or they take what this one needs. */
bool weir_redis_leases_take(weir_redis_leases_t *leases, weir_store_item_t *items, unsigned wanted, int64_t now_ns,
                            unsigned *wanting);
void weir_redis_leases_renew(weir_redis_leases_t *leases, const weir_store_item_t *items, unsigned wanting, int64_t now_ns);
/* `given` of what the item was charged (below 0: so much more) goes back to its slice; false: that is over, and Redis is to be
 * told. */
bool weir_redis_leases_put_back(weir_redis_leases_t *leases, const weir_store_item_t *item, int64_t given, int64_t now_ns);

/* From remote->on_tick. */
void weir_redis_leases_tick(weir_redis_leases_t *leases, size_t worker, int64_t now_ns);

#endif
