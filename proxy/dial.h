#ifndef WEIR_PROXY_DIAL_H
#define WEIR_PROXY_DIAL_H

/* Opens a connection to an upstream: its name is looked up, its addresses are tried in order, and where its url is
 * https the handshake is made.
 *
 * All of that together takes at most timeouts.connect: each address has a fair share of what is left. Families take
 * turns, in the order of the look-up; addresses that failed a moment ago come last. On a worker's thread. */

#include "server.h"

typedef struct weir_dial weir_dial_t;

typedef struct {
    h2o_socket_t *sock; /* the receiver's; NULL: there is none */
    uint64_t address;   /* that it leads to (upstream.h) */
    weir_reason_t reason;
    const char *detail; /* static text, or NULL */
} weir_dialled_t;

weir_dial_t *weir_dial_create(weir_worker_t *worker, weir_snapshot_t *snapshot, size_t upstream,
                              void (*on_end)(void *argument, const weir_dialled_t *dialled), void *argument);
/* Calls on_end once, at once or later, unless it is cancelled; the dial is freed then. */
void weir_dial_begin(weir_dial_t *dial);
void weir_dial_cancel(weir_dial_t *dial);

#endif
