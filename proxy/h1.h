#ifndef WEIR_PROXY_H1_H
#define WEIR_PROXY_H1_H

/* HTTP/1 toward callers: reads requests strictly, hands each to the context's handler as an h2o_req_t, frames answers.
 * One connection holds no buffer and no request while it is idle. All calls on the connection's own thread. */

#include "body.h"
#include "server.h"

/* Takes over an accepted socket. */
void weir_h1_accept(weir_worker_t *worker, h2o_socket_t *sock, weir_listener_t *listener);

weir_listener_t *weir_h1_listener(h2o_req_t *req);

/* Memory that lives as long as the request: of a small block that it has anyway, else of its pool, which begins with a
 * whole page. */
void *weir_h1_alloc(h2o_req_t *req, size_t size);

/* Calls on_dispose(argument) when the request ends, whatever ended it. One such call a request. */
void weir_h1_on_dispose(h2o_req_t *req, void (*on_dispose)(void *argument), void *argument);

/* Asks leave(argument of on_dispose) when the caller leaves: true, and the request goes on without him - nothing of its answer
 * is sent - until weir_h1_end_left, after which it is disposed of in another turn. */
void weir_h1_on_leave(h2o_req_t *req, bool (*leave)(void *argument));
void weir_h1_end_left(h2o_req_t *req);

/* Whether the kernel has taken all that was sent of the answer. */
bool weir_h1_is_sent(h2o_req_t *req);

/* While the answer is being sent: stays the same exactly as long as the caller, who has not left, takes nothing of it. */
int64_t weir_h1_progress(h2o_req_t *req);

/* The body of this request; its head was read, the rest comes as body.h tells. */
weir_body_t *weir_h1_body(h2o_req_t *req);

/* The head of a 101 is out: until the request ends the socket is the caller's of this, who gives it back as it was, not
 * read. *early: what came behind the request, to be disposed of. The answer goes on without bytes, to its end. */
h2o_socket_t *weir_h1_begin_tunnel(h2o_req_t *req, h2o_buffer_t **early);

/* Idle connections end soon, the others after their answer. */
void weir_h1_drain(weir_worker_t *worker);

/* The same for the connections of a listener that is retired. */
void weir_h1_retire(weir_worker_t *worker, weir_listener_t *listener);

/* Ends all connections now, tunnels too; requests without an answer get a 503. */
void weir_h1_close_all(weir_worker_t *worker);

#endif
