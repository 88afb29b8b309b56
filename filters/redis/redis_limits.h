#ifndef WEIR_FILTERS_REDIS_REDIS_LIMITS_H
#define WEIR_FILTERS_REDIS_REDIS_LIMITS_H

/* Decisions over limits of which some are in Redis: scope `shared`, and no queue. The others are decided first, by the
 * store in memory; if they admit, the remote ones are asked, all in one message - of a cluster those of one key in one,
 * message after message.
 *
 *     decide --memory refuses, queues--> DECIDED, QUEUED
 *        '--asked--> PENDING --answered in time--> DECIDED
 *        '--not up     '--too late, refused, lost--> each by its on_failure: DECIDED, or DOWN where one is closed
 *
 * Guarantee: all or nothing, also across the two. What was charged for a decision that was not taken is given back: at
 * once, or when Redis says that it charged (redis_asked.h).
 *
 * A request's functions are called on its worker's thread; peek and reset on any. */

#include "../store.h"
#include "redis_asked.h"
#include "redis_lease.h"
#include "redis_share.h"
#include "remote.h"

typedef struct {
    weir_redis_asking_t asking;
    weir_store_t *memory;
    weir_redis_outages_t outages;
    weir_redis_leases_t *leases; /* NULL: sync is strict */
} weir_redis_limits_t;

/* The prefix (WEIR_REDIS_PREFIX_MAX), the remote and the memory outlive it. */
void weir_redis_limits_init(weir_redis_limits_t *limits, weir_remote_t *remote, weir_store_t *memory, weir_str_t prefix,
                            int64_t timeout_ns);
/* Once all requests, and all that was asked, have ended. */
void weir_redis_limits_dispose(weir_redis_limits_t *limits);

/* As weir_store_t has them. */
weir_store_answer_t weir_redis_limits_decide(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count,
                                             int64_t now_ns, weir_ticket_t ticket, bool *admitted);
weir_store_answer_t weir_redis_limits_collect(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count,
                                              int64_t now_ns, weir_ticket_t ticket, bool *admitted);
void weir_redis_limits_abandon(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count, int64_t now_ns);
void weir_redis_limits_refund(weir_redis_limits_t *limits, const weir_store_item_t *items, size_t count,
                              int64_t now_ns);
void weir_redis_limits_settle(weir_redis_limits_t *limits, const weir_store_item_t *items, size_t count,
                              int64_t now_ns);
/* Of a remote one nobody knows without asking: it admits. */
void weir_redis_limits_peek(weir_redis_limits_t *limits, weir_store_item_t *items, size_t count, int64_t now_ns);
/* False also where Redis could not be asked. */
bool weir_redis_limits_reset(weir_redis_limits_t *limits, const weir_store_item_t *item, int64_t now_ns);
/* Whether what the item has used is known to the memory. */
bool weir_redis_limits_is_in_memory(const weir_store_item_t *item);

/* From remote->on_tick. */
void weir_redis_limits_tick(weir_redis_limits_t *limits, size_t worker, int64_t now_ns);

#endif
