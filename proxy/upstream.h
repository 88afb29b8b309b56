#ifndef WEIR_PROXY_UPSTREAM_H
#define WEIR_PROXY_UPSTREAM_H

/* An upstream as the process knows it: its connections, counted over all workers, and a LIFO of parked ones in each.
 * Lives on over reloads in which its url stays the same. */

#include "resolver.h"
#include "server.h"

/* Finds the running upstream of that name and url, or makes one; takes its numbers (caps, times) from `conf` from now
 * on. Control thread. */
weir_upstream_t *weir_upstream_acquire(weir_server_t *server, const weir_conf_upstream_t *conf);
void weir_upstream_release(weir_upstream_t *upstream); /* any thread */

const char *weir_upstream_name(const weir_upstream_t *upstream);
size_t weir_upstream_active(const weir_upstream_t *upstream);
size_t weir_upstream_idle(const weir_upstream_t *upstream);

/* This worker closes all its parked connections: it ends. */
void weir_upstream_close_parked(weir_worker_t *worker);

/* What the process counts of an upstream's answers; `outcome` is ok, 4xx, 5xx or a reason. */
void weir_upstream_count(weir_upstream_t *upstream, weir_worker_t *worker, int status, weir_reason_t reason);
void weir_upstream_observe(weir_upstream_t *upstream, weir_worker_t *worker, int64_t first_byte_ns, int64_t duration_ns);

/* --- connections, on their worker's thread --- */

/* A connection to an upstream: one call's, or parked. */
typedef struct weir_upconn {
    h2o_socket_t *sock;
    weir_upstream_t *upstream;
    weir_worker_t *worker;
    h2o_linklist_t pool_link, worker_link; /* while it is parked */
    h2o_timeout_entry_t timer;
    struct weir_call *call; /* NULL: parked */
    int64_t parked_ns;
    uint64_t served; /* answers */
} weir_upconn_t;

/* The connection parked last, or NULL. */
weir_upconn_t *weir_upstream_take_parked(weir_upstream_t *upstream, weir_worker_t *worker);

/* Whether the peer has not closed it; costs a system call. */
bool weir_upconn_is_open(const weir_upconn_t *conn);

/* Leave to open one more connection. */
typedef struct weir_permit_wait weir_permit_wait_t;

/* True: the permit is the caller's, who hands it to weir_upconn_create or gives it back. Else *wait is a place in the
 * queue; `granted` is called once, with a connection that was just given up by another call, or NULL for a permit. */
bool weir_upstream_ask_permit(weir_upstream_t *upstream, weir_worker_t *worker, weir_permit_wait_t **wait,
                              void (*granted)(void *argument, weir_upconn_t *conn), void *argument);
void weir_upstream_stop_waiting(weir_permit_wait_t *wait);
void weir_upstream_give_permit_back(weir_upstream_t *upstream, weir_worker_t *worker);

/* Takes over the socket and the permit. */
weir_upconn_t *weir_upconn_create(weir_upstream_t *upstream, weir_worker_t *worker, h2o_socket_t *sock);
void weir_upconn_close(weir_upconn_t *conn);

/* The call is through with it: for the next call. `idle_ns` is how long the upstream keeps it, or 0 if it does not say. */
void weir_upconn_park(weir_upconn_t *conn, int64_t idle_ns);

#endif
