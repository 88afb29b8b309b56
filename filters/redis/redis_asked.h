#ifndef WEIR_FILTERS_REDIS_REDIS_ASKED_H
#define WEIR_FILTERS_REDIS_REDIS_ASKED_H

/* What was asked about one decision, and what became of it: of its items those that are in Redis go there in one
 * message - of a cluster those of one key in one, message after message, until one refuses.
 *
 *     WAITS --> ADMITTED, REFUSED, FAILED: the ticket is told
 *       '-----> GONE: nobody wants it
 *
 * Guarantee: what is charged when it comes to REFUSED or FAILED, or to nobody, is given back; what Redis charged and
 * could not tell stays so until it fills up again, but a member - a slot, or what an exact window counts - is removed.
 */

#include "redis_row.h"
#include "redis_slots.h"
#include "remote.h"

/* One thread's. */
typedef struct {
    _Alignas(64) weir_redis_slots_t slots;
    uint64_t ids; /* that were given */
    bool is_down;
} weir_redis_worker_t;

typedef struct {
    weir_remote_t *remote;
    weir_str_t prefix;
    int64_t timeout_ns;
    weir_redis_worker_t *workers; /* remote->workers, and control */
} weir_redis_asking_t;

typedef enum {
    WEIR_REDIS_ASKED_WAITS,
    WEIR_REDIS_ASKED_ADMITTED,
    WEIR_REDIS_ASKED_REFUSED,
    WEIR_REDIS_ASKED_FAILED,
    WEIR_REDIS_ASKED_GONE,
} weir_redis_asked_phase_t;

typedef struct {
    const weir_redis_row_t *row;
    int64_t give, charged_us;
} weir_redis_give_t;

/* The prefix (WEIR_REDIS_PREFIX_MAX) and the remote outlive it. */
void weir_redis_asking_init(weir_redis_asking_t *asking, weir_remote_t *remote, weir_str_t prefix, int64_t timeout_ns);
/* Once all requests, and all that was asked, have ended. */
void weir_redis_asking_dispose(weir_redis_asking_t *asking);
weir_redis_worker_t *weir_redis_asking_worker(const weir_redis_asking_t *asking); /* this thread's */

/* Of the items those whose bits are set in `wanted`. NULL: it is not up. The caller has it until he lets go of it. */
struct weir_store_asked *weir_redis_ask(weir_redis_asking_t *asking, weir_store_item_t *items, unsigned wanted,
                                        int64_t now_ns, weir_ticket_t ticket);
/* WAITS as long as its time is not over; then it has FAILED. */
weir_redis_asked_phase_t weir_redis_asked_phase(const struct weir_store_asked *asked, int64_t now_ns);
/* ADMITTED, REFUSED: the items' answers. Returns whether the request has slots now: until it ends them, instead of
 * letting go. */
bool weir_redis_asked_take(struct weir_store_asked *asked, weir_store_item_t *items);
void weir_redis_asked_end_slots(struct weir_store_asked *asked, int64_t now_ns);
/* Nothing was taken, and nothing will be. */
void weir_redis_asked_let_go(struct weir_store_asked *asked, int64_t now_ns);

/* count <= WEIR_LIMITS_PER_ROUTE_MAX. Nobody waits for the answer: of kinds that have no members. */
void weir_redis_give(const weir_redis_asking_t *asking, const weir_redis_give_t *gives, size_t count);

#endif
