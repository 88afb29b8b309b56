#ifndef WEIR_FILTERS_REDIS_REDIS_DEDUP_H
#define WEIR_FILTERS_REDIS_REDIS_DEDUP_H

/* The dedups of the store in Redis: keys and answers are there, for the whole fleet; what runs here is in a table as well, so that
 * its duplicates on this sidecar read it as it is written. Those on others wait until it is done, and ask again.
 *
 *     claim --> PENDING --run--> RUN, registered here at once --commit--> done, there --answered--> out of the table
 *                  |  ^                                       '--forget, lose--> out of the table at once
 *                  |  '--it runs elsewhere: asks again, with growing pauses
 *                  '--> SHARE, DUPLICATE, IN_FLIGHT, OTHER, UNKNOWN; DOWN: not answered within claim_timeout, or not up
 *
 * Guarantee: of a key one owner at most runs at a time, as far as Redis remembers: an owner counts its lease from when it asked
 * for it, and claim_renew is false before that is over. Whatever was told to run and has nobody who wants it is freed, when that is
 * heard of or, the connection lost, after the next one; and nothing outlives its lease there.
 *
 * `exact: false`: two bitmaps in Redis, and no claim; one whose answer was lost counts as seen. max_keys and on_full say nothing
 * here: keys live in Redis, and go there with their window. `memory` bounds the answers that are in this process: those in flight, those
 * that Redis was not told yet, and those that are being replayed; one that finds no room is remembered and not kept.
 *
 * A request's functions are called on its worker's thread, reset on control's or a worker's, tick on each worker's own; the rest on any. */

#include "../store.h"
#include "redis_running.h"
#include "remote.h"

typedef struct weir_redis_dedup weir_redis_dedup_t;
typedef struct weir_redis_claims weir_redis_claims_t; /* of one worker */

typedef struct {
    weir_remote_t *remote;
    const char *prefix;
    int64_t timeout_ns; /* claim_timeout */
    weir_store_teller_t teller;
    weir_redis_running_t running;
    weir_redis_claims_t *workers; /* of each of remote->workers */
    _Atomic uint64_t owners;      /* that were given */
    pthread_mutex_t lock;
    weir_redis_dedup_t *newest; /* under the lock */
} weir_redis_dedups_t;

/* `prefix` and the remote outlive it. */
void weir_redis_dedups_init(weir_redis_dedups_t *dedups, weir_remote_t *remote, const char *prefix, int64_t claim_timeout_ns,
                            weir_store_teller_t teller);
/* Once everything that was asked has ended. */
void weir_redis_dedups_dispose(weir_redis_dedups_t *dedups);

/* As weir_store_t has them. There is nothing to do for dedup_tidy. */
weir_store_dedup_t *weir_redis_dedups_acquire(weir_redis_dedups_t *dedups, const weir_conf_dedup_t *conf);
void weir_redis_dedups_release(weir_redis_dedups_t *dedups, weir_store_dedup_t *handle);
weir_store_claim_told_t weir_redis_dedups_claim(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns);
weir_store_claim_told_t weir_redis_dedups_collect(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns);
void weir_redis_dedups_abandon(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns);
/* DOWN: it is not known here, and there is no waiting for it. */
weir_store_claim_told_t weir_redis_dedups_peek(weir_store_claim_t *claim, int64_t now_ns);
bool weir_redis_dedups_renew(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns);
void weir_redis_dedups_commit(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns);
void weir_redis_dedups_forget(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns);
void weir_redis_dedups_lose(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns);
/* Whether Redis was asked to; there is no waiting for what it found. */
bool weir_redis_dedups_reset(weir_redis_dedups_t *dedups, weir_store_dedup_t *handle, weir_store_key_t key, int64_t now_ns);
/* What is here: answer_bytes alone. */
bool weir_redis_dedups_tell(weir_redis_dedups_t *dedups, const char *name, weir_store_dedup_told_t *told);

/* From remote->on_tick: what Redis was not told yet is sent again. */
void weir_redis_dedups_tick(weir_redis_dedups_t *dedups, size_t worker, int64_t now_ns);
/* How many of that worker's calls are over, and Redis does not know it yet: their keys would run again. */
size_t weir_redis_dedups_owed(const weir_redis_dedups_t *dedups, size_t worker);

#endif
