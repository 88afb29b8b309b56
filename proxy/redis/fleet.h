#ifndef WEIR_PROXY_REDIS_FLEET_H
#define WEIR_PROXY_REDIS_FLEET_H

/* What sidecars that share a Redis know of each other: how many live (remote->sidecars), and which pauses of upstreams run.
 *
 * Guarantee: a pause that one of them is told of holds on all that reach Redis, from their next beat on, and on none for longer
 * than its own throttle.max from when it heard of it. One that is lifted by hand is lifted on all, and does not come back without
 * another 429; while Redis cannot be asked, this sidecar's word stands, and is told when it can be. Without Redis each has its
 * own pauses. */

#include "../../filters/redis/remote.h"
#include "../health.h"

typedef struct weir_fleet weir_fleet_t;

/* The remote outlives it, or tells it nothing any more. */
weir_fleet_t *weir_fleet_create(weir_server_t *server, weir_remote_t *remote, const weir_conf_store_redis_t *conf);
void weir_fleet_destroy(weir_fleet_t *fleet); /* NULL: nothing */

/* Control thread: begins to beat; and says at once that this sidecar takes no more requests, so that others may have its
 * share. NULL: nothing, with all of these. */
void weir_fleet_open(weir_fleet_t *fleet);
void weir_fleet_leave(weir_fleet_t *fleet);

/* Any worker's thread. */
void weir_fleet_pause(weir_fleet_t *fleet, uint64_t upstream, weir_key_t key, int64_t ns);
/* Control thread: all pauses of the upstream, wherever; none of them is longer than max_ns. */
void weir_fleet_lift(weir_fleet_t *fleet, uint64_t upstream, int64_t max_ns);

#endif
