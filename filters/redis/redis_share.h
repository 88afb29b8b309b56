#ifndef WEIR_FILTERS_REDIS_REDIS_SHARE_H
#define WEIR_FILTERS_REDIS_REDIS_SHARE_H

/* What a sidecar may by itself while Redis cannot be asked: an equal part of each quota.
 *
 * Guarantee: of n sidecars each has at most total / n, rounded up; where that is no whole number, chance says for which
 * keys it is rounded up, so that they all have as much together as the quota says, on average. One draw lasts for an
 * outage. */

#include <stdatomic.h>
#include "../store.h"

/* Outages of a sidecar, over all of its threads: one begins when the first of them cannot ask. */
typedef struct {
    _Atomic size_t down; /* threads that cannot */
    _Atomic uint64_t number;
} weir_redis_outages_t;

/* is_down is the thread's own, false at first. Returns whether it has just changed. */
bool weir_redis_outages_note(weir_redis_outages_t *outages, bool *is_down, bool is_up);

/* Uniform, and the same whenever it is drawn again. */
uint64_t weir_redis_share_draw(uint64_t sidecar, weir_store_key_t key, const char *limit, uint64_t outage);
/* Its size may be 0: then nothing fits. */
weir_conf_quota_t weir_redis_share_of(const weir_conf_quota_t *quota, uint32_t sidecars, uint64_t draw);

#endif
