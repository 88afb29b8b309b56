#ifndef WEIR_PROXY_UPSTREAM_H
#define WEIR_PROXY_UPSTREAM_H

/* An upstream as the process knows it: its connections, counted over all workers, and a LIFO of parked ones in each.
 * Where all that may be open are, one that is parked goes to the worker that needs it.
 * Lives on over reloads in which its url stays the same. */

#include "resolver.h"
#include "server.h"
#include "tls.h"

/* Finds the running upstream of that name and url, or makes one; takes its numbers (caps, times) from `conf` from now
 * on. Control thread. */
weir_upstream_t *weir_upstream_acquire(weir_server_t *server, const weir_conf_upstream_t *conf);
void weir_upstream_release(weir_upstream_t *upstream); /* any thread */

struct weir_health *weir_upstream_health(const weir_upstream_t *upstream); /* health.h */
const char *weir_upstream_name(const weir_upstream_t *upstream);
size_t weir_upstream_active(const weir_upstream_t *upstream);
size_t weir_upstream_idle(const weir_upstream_t *upstream);

/* This worker closes all its parked connections, and keeps none open ahead any more: it ends. */
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
    struct weir_attempt *attempt; /* NULL: parked */
    uint64_t address; /* that it leads to, see weir_upstream_avoid */
    int64_t parked_ns, parked_until_ns;
    uint64_t served; /* times it was parked: answers, and one if it was opened ahead */
    bool has_answered;
} weir_upconn_t;

/* The connection parked last, or NULL. Those that were opened by another TLS context are closed. */
weir_upconn_t *weir_upstream_take_parked(weir_upstream_t *upstream, weir_worker_t *worker,
                                         const weir_tls_context_t *context);
/* Whether one more may be idle. */
bool weir_upstream_has_room(const weir_upstream_t *upstream);
/* How many it would find at that time, if nothing happens before. */
size_t weir_upstream_count_parked(const weir_upstream_t *upstream, const weir_worker_t *worker,
                                  const weir_tls_context_t *context, int64_t at_ns);

/* Whether it was opened by this TLS context; NULL: by none. */
bool weir_upconn_is_by(const weir_upconn_t *conn, const weir_tls_context_t *context);
/* Whether the peer has not closed it; costs a system call. */
bool weir_upconn_is_open(const weir_upconn_t *conn);

/* A number for each address. One that failed comes last for a while, where there are others (on this worker). */
uint64_t weir_upstream_address(const struct sockaddr *address);
void weir_upstream_avoid(weir_upstream_t *upstream, weir_worker_t *worker, uint64_t address);
bool weir_upstream_avoids(const weir_upstream_t *upstream, const weir_worker_t *worker, uint64_t address);

/* Leave to open one more connection. */
typedef struct weir_permit_wait weir_permit_wait_t;

/* True: the permit is the caller's, who hands it to weir_upconn_create or gives it back. Else *wait is a place in the
 * queue; `granted` is called once, with a connection that was parked or given up by another call, or NULL for a permit. */
bool weir_upstream_ask_permit(weir_upstream_t *upstream, weir_worker_t *worker, weir_permit_wait_t **wait,
                              void (*granted)(void *argument, weir_upconn_t *conn), void *argument);
/* The same where nobody waits: it is there now, or not. */
bool weir_upstream_take_permit(weir_upstream_t *upstream) __attribute__((warn_unused_result));
void weir_upstream_stop_waiting(weir_permit_wait_t *wait);
void weir_upstream_give_permit_back(weir_upstream_t *upstream, weir_worker_t *worker);

/* Takes over the socket and the permit. */
weir_upconn_t *weir_upconn_create(weir_upstream_t *upstream, weir_worker_t *worker, h2o_socket_t *sock,
                                  uint64_t address);
void weir_upconn_close(weir_upconn_t *conn);

/* The call is through with it: for the next call. `idle_ns` is how long the upstream keeps it, or 0 if it does not say. */
void weir_upconn_park(weir_upconn_t *conn, int64_t idle_ns);

#endif
