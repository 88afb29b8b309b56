#ifndef WEIR_PROXY_WARM_H
#define WEIR_PROXY_WARM_H

/* Connections that are opened before anyone asks for them, so that a first call waits for no handshake.
 *
 * Each worker keeps its share of every upstream's connections.warm parked: one that goes, or is about to be closed for
 * its age, is replaced within a second. An upstream that cannot be reached is tried ever more seldom. On the worker's
 * thread. */

#include "server.h"

/* By the worker's snapshot; to be stopped before that changes. */
void weir_warm_start(weir_worker_t *worker);
void weir_warm_stop(weir_worker_t *worker);

#endif
