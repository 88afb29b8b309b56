#ifndef WEIR_FILTERS_REDIS_STORE_H
#define WEIR_FILTERS_REDIS_STORE_H

/* The store that a fleet shares: limits and dedups in Redis, behind remote.h. Limits of scope `local`, queues, and what a
 * limit is held to while Redis is down (on_failure: local) are in the memory store within.
 *
 * Guarantee: a limit of scope `shared` is one limit, however many sidecars ask. A request waits for Redis once at most, and no
 * longer than `timeout` (dedup: `claim_timeout`); what Redis has charged for a request that did not wait for it is given back
 * when that is heard of. No key without an expiry. */

#include "../store.h"
#include "remote.h"

/* The remote outlives it. */
weir_store_t *weir_redis_store_create(const weir_conf_store_redis_t *conf, weir_remote_t *remote, const uint8_t secret[64],
                                      weir_store_teller_t teller);

#endif
