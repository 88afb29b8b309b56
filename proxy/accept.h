#ifndef WEIR_PROXY_ACCEPT_H
#define WEIR_PROXY_ACCEPT_H

/* A worker's listening sockets. All calls on the worker's thread.
 *
 * Guarantee: of a TCP socket that is retired, no connection is lost whose handshake ends within 100 ms: new handshakes
 * are kept out, those that wait are accepted, and it is closed when nothing came for that long. */

#include "server.h"

/* Accepts connections from `fd`, which is now the worker's, for `listener`. `binding` is a name for it, never
 * followed; `on_closed` is called when it is retired and closed. */
void weir_accept_start(weir_worker_t *worker, int fd, bool is_unix, weir_listener_t *listener, const void *binding,
                       void (*on_closed)(weir_worker_t *worker, const void *binding));
/* Connections that come in from now on belong to `listener`. */
void weir_accept_hand_over(weir_worker_t *worker, const void *binding, weir_listener_t *listener);
void weir_accept_retire(weir_worker_t *worker, const void *binding);
void weir_accept_retire_all(weir_worker_t *worker);
/* Closes all of them now. */
void weir_accept_close_all(weir_worker_t *worker);
/* There is room for a connection again. */
void weir_accept_resume(weir_worker_t *worker);

#endif
