#ifndef WEIR_PROXY_DRAIN_H
#define WEIR_PROXY_DRAIN_H

/* How weir ends. Control thread.
 *
 * Guarantee: a request that came in before the end, and ends within drain.timeout, is answered; no answer that is cut
 * off at the end looks whole. */

#include "server.h"

typedef enum {
    WEIR_DRAIN_NOT_YET,
    WEIR_DRAIN_DELAY,   /* /readyz fails, all else goes on */
    WEIR_DRAIN_EMPTY,   /* listeners are retired, requests end */
    WEIR_DRAIN_RELEASE, /* workers are empty and let go of what they share */
    WEIR_DRAIN_LAST,    /* admin and metrics give their last answers */
    WEIR_DRAIN_DONE,    /* nothing is left */
    WEIR_DRAIN_CUT,     /* the time was over, or a second signal came: threads stand still, nothing is freed */
} weir_drain_phase_t;

typedef struct {
    weir_server_t *server;
    weir_drain_phase_t phase;
    h2o_timeout_entry_t timer; /* of the phase */
    h2o_timeout_entry_t look;  /* LAST: whether they are given */
    size_t missing;            /* workers that have not reported in this phase */
} weir_drain_t;

/* SIGTERM or SIGINT: the first one begins, the second one cuts. Stops control's loop at the end. */
void weir_drain_signal(weir_drain_t *drain);

#endif
