#ifndef WEIR_PROXY_CALL_H
#define WEIR_PROXY_CALL_H

/* The upstream's side of a request: as many attempts as its policy allows, at one upstream and its fallbacks, within one
 * time (filters/retry.h says what follows what, health.h who may be asked at all).
 *
 * A call is its own: it keeps nothing of the exchange but its sink, so that it may outlive it. It ends once: by news
 * that says `ended` (the call is freed after that), or by weir_call_cancel. The sink gets one answer: of an attempt that
 * is followed by another, nothing. All on the worker's thread; no news comes from within weir_call_create, _resume,
 * _body_progress. */

#include "attempt.h"

typedef struct weir_call weir_call_t;

/* What one upstream is asked. */
typedef struct {
    size_t upstream;        /* index */
    h2o_iovec_t head;       /* malloc'ed: the request's head as text, without framing and the empty line */
    weir_splices_t splices; /* of the body */
    h2o_iovec_t model;      /* malloc'ed, or NULL: as this upstream calls it, in JSON; the name itself stands behind */
    weir_str_t name;        /* that name, or empty */
    uint64_t credential;    /* a hash of what it gets */
    bool is_injected;       /* a splice asks for usage */
} weir_call_target_t;

enum { WEIR_CALL_METHOD_MAX = 32 };

/* `body` is acquired; `first` and `fallbacks` (malloc'ed) are taken over. */
typedef struct {
    weir_worker_t *worker;
    weir_snapshot_t *snapshot; /* acquired */
    weir_call_target_t first, *fallbacks;
    size_t fallback_count;
    char method[WEIR_CALL_METHOD_MAX + 1];
    bool is_head, is_idempotent, expects_body; /* of the method */
    bool is_protected; /* a dedup key goes up with it */
    bool wants_tunnel; /* attempt.h; sent again only where it never went out, or another status came */
    int64_t total_ns;
    uint32_t tenant; /* weir_metrics_tenant's number */
    weir_body_t *body;
    weir_sink_t *sink;
} weir_call_request_t;

weir_call_t *weir_call_create(const weir_call_request_t *request);
void weir_call_begin(weir_call_t *call); /* may bring news at once */

/* The body has more bytes, or is complete. */
void weir_call_body_progress(weir_call_t *call);

/* The sink has as much as it can hold / can take more. */
void weir_call_pause(weir_call_t *call);
void weir_call_resume(weir_call_t *call);

/* After the news of a 101: the upstream's socket, until the call is cancelled. No time binds it any more. */
h2o_socket_t *weir_call_tunnel(weir_call_t *call);

/* Ends it without news: the connection is closed at once. Without a reason: a tunnel, which ended well. */
void weir_call_cancel(weir_call_t *call, weir_reason_t reason);
weir_call_stats_t weir_call_stats(const weir_call_t *call); /* so far */

#endif
