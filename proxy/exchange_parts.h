#ifndef WEIR_PROXY_EXCHANGE_PARTS_H
#define WEIR_PROXY_EXCHANGE_PARTS_H

/* What the files of the exchange share: exchange.c (its way), await.c (what it waits for), inject.c (usage that weir asks
 * for), answer.c (what the caller gets), series.c (what is counted). */

#include "../filters/core/event_cut.h"
#include "../filters/filter.h"
#include "../filters/stream.h"
#include "body.h"
#include "call.h"
#include "dialect.h"
#include "server.h"
#include "tunnel.h"

/* What a request waits for before its chain goes on. */
typedef enum { WEIR_WAITS_NOT, WEIR_WAITS_FOR_BODY, WEIR_WAITS_FOR_TICKET, WEIR_WAITS_FOR_STREAM } weir_waits_t;

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
    struct {
        weir_waits_t state;
        h2o_timeout_entry_t timer;
        int64_t began_ns;
        int64_t total_ns;        /* of all waits: a part of the route's timeout, and no overhead of weir's */
        int64_t own_ns;          /* of those that are: for the store */
        bool is_own;
        weir_json_pick_t *pick;  /* what reads the body; freed when the call begins */
        uint64_t picked;         /* bytes of the body that it has read */
    } wait;
    weir_conf_dialect_t dialect;   /* of the route's upstream: what weir itself says is written in it */
    weir_dialect_stream_t *stream; /* the answer; NULL: it is no stream of a dialect */
    h2o_iovec_t last_words;        /* before the transfer breaks */
    weir_event_cut_t *cut; /* takes injected usage out; NULL: nothing was injected */
    weir_str_t model;      /* that the body asks for, or empty */
    weir_reason_t reason;
    const char *limit; /* name of the limit that refused */
    weir_stream_reader_t reader;       /* of the shared answer that this caller gets; share.c */
    h2o_timeout_entry_t renewal;       /* of the claim, while it leads */
    const char *detail;                /* of `reason`; static text, or NULL */
    int upstream_status;               /* 0: no answer came of a call */
    uint64_t shared_bytes;             /* that its call has written for others too */
    int64_t share_progress;            /* of its own caller, at the last of share_ticks */
    bool leads;                        /* its call writes the answer that others share */
    bool left;                         /* the caller did, and the call goes on */
    bool has_shared_head, is_pumping;
    bool is_lost;    /* what it read: there was no answer */
    bool has_waited; /* for those who fall behind, and may be cut off now */
    uint8_t share_ticks; /* since the caller took a byte */
    bool injected;     /* the call asks for usage, which the caller did not */
    bool switches;     /* the caller asked for a WebSocket, and the upstream said 101 */
    weir_tunnel_t *tunnel; /* NULL: not begun, or none */
    bool answering;    /* the head went out */
    bool sending;      /* the caller's side has not taken the last bytes yet */
    bool broken;       /* to be broken off once it has */
    char peer[64];
    uint8_t peer_len;
} weir_exchange_t;

/* exchange.c */
/* Bytes of the answer; the state's last one is the end, whole or not. */
void weir_exchange_send(weir_exchange_t *exchange, h2o_iovec_t *bufs, size_t count, h2o_send_state_t state);
void weir_exchange_break_off(weir_exchange_t *exchange, weir_reason_t reason, const char *detail);
/* The last that came of an answer which is not whole. */
void weir_exchange_pass_part(weir_exchange_t *exchange, h2o_iovec_t *bufs, size_t count, weir_reason_t reason,
                             const char *detail);
void weir_exchange_go_on(weir_exchange_t *exchange, const weir_verdict_t *verdict);
void weir_exchange_answer_reason(weir_exchange_t *exchange, weir_reason_t reason, const char *detail);
void weir_exchange_body_read(weir_exchange_t *exchange); /* the chain goes on, or the route is found now */
void weir_exchange_body_failed(weir_exchange_t *exchange, weir_reason_t reason, const char *detail);
int64_t weir_exchange_total_ns(const weir_exchange_t *exchange); /* the route's timeout */

/* await.c. Each leads to weir_exchange_go_on, or to an answer, in a later turn or at once. */
void weir_await_body(weir_exchange_t *exchange, bool is_raw); /* raw: what it says in JSON is not looked at */
void weir_await_ticket(weir_exchange_t *exchange, int64_t until_ns, bool is_own);
void weir_await_stream(weir_exchange_t *exchange, h2o_timeout_cb on_late);
void weir_await_end(weir_exchange_t *exchange); /* nothing is waited for any more */
void weir_await_dispose(weir_exchange_t *exchange);

/* inject.c */
bool weir_inject_wanted(const weir_request_t *request, const weir_conf_upstream_t *upstream);
void weir_inject_splice(const weir_json_picked_t *picked, weir_splices_t *splices);
bool weir_inject_is_in_answer(const weir_call_head_t *head);

/* answer.c. Each begins the answer's head; exchange.c sends the bytes. */
void weir_answer_from_upstream(weir_exchange_t *exchange, const weir_call_head_t *head);
/* Returns the body. */
h2o_iovec_t weir_answer_own(weir_exchange_t *exchange, const weir_verdict_t *verdict, const char *allow);
/* What the caller of an answer that breaks off is told before; empty: nothing. */
h2o_iovec_t weir_answer_last_words(weir_exchange_t *exchange, weir_reason_t reason, const char *detail);

/* series.c */
extern const weir_observer_t weir_exchange_observer;
void weir_exchange_count_begin(weir_exchange_t *exchange);
void weir_exchange_count_tokens(weir_exchange_t *exchange);
void weir_exchange_count_end(weir_exchange_t *exchange, int status, int64_t overhead_ns, int64_t duration_ns);

#endif
