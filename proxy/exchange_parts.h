#ifndef WEIR_PROXY_EXCHANGE_PARTS_H
#define WEIR_PROXY_EXCHANGE_PARTS_H

/* What the files of the exchange share: exchange.c (its way), answer.c (what the caller gets), series.c (what is counted). */

#include "../filters/filter.h"
#include "body.h"
#include "call.h"
#include "server.h"

typedef struct weir_exchange {
    weir_sink_t sink; /* first: the call's news */
    h2o_generator_t generator;
    h2o_req_t *req;
    weir_worker_t *worker;
    weir_snapshot_t *snapshot;
    weir_call_t *call; /* NULL: none yet, or it ended */
    weir_body_t *body;
    size_t listener_index, route_index; /* route_index: the number of routes where there is none */
    weir_request_t request;
    weir_chain_run_t run;
    weir_call_stats_t stats; /* of the call, once it ended */
    int64_t started_ns, answered_ns;
    weir_reason_t reason;
    const char *limit; /* name of the limit that refused */
    bool answering;    /* the head went out */
    bool sending;      /* the caller's side has not taken the last bytes yet */
    bool broken;       /* to be broken off once it has */
    char peer[64];
    uint8_t peer_len;
} weir_exchange_t;

/* answer.c. Each begins the answer's head; exchange.c sends the bytes. */
void weir_answer_from_upstream(weir_exchange_t *exchange, const weir_call_head_t *head);
/* Returns the body. */
h2o_iovec_t weir_answer_own(weir_exchange_t *exchange, const weir_verdict_t *verdict, const char *allow);

/* series.c */
extern const weir_observer_t weir_exchange_observer;
void weir_exchange_count_begin(weir_exchange_t *exchange);
void weir_exchange_count_end(weir_exchange_t *exchange, int status, int64_t overhead_ns, int64_t duration_ns);

#endif
