#ifndef WEIR_PROXY_ATTEMPT_H
#define WEIR_PROXY_ATTEMPT_H

/* One try at one upstream: a connection, the request sent, the answer read, every failure named.
 *
 * It ends once: by news that says `ended` (it is freed after that), or by weir_attempt_cancel. An answer that breaks off
 * never ends as a whole one. A 101 that was asked for is the last news of its attempt. All on the worker's thread; no
 * news comes from within _create, _resume, _body_progress. */

#include "body.h"
#include "h1_parse.h"
#include "server.h"

typedef struct weir_attempt weir_attempt_t;

typedef struct {
    int status;
    const weir_h1_field_t *fields; /* as they came, framing and hop-by-hop fields too */
    size_t field_count;
    uint64_t content_length; /* UINT64_MAX: not known */
    bool no_body;            /* HEAD, 204, 304: content_length is of what would have come */
} weir_call_head_t;

/* All that one read brought, told at once so that it can leave in one write. Valid during the call only. */
typedef struct {
    const weir_call_head_t *head; /* NULL: told before, or not come */
    weir_str_t bytes;
    bool ended;
    bool refused;         /* ended: the sink did not take the answer */
    weir_reason_t reason; /* ended: NONE for a whole answer */
    const char *detail;   /* ended with a reason: static text, or NULL */
    int64_t retry_after_ns; /* ended with BREAKER_OPEN or THROTTLED */
} weir_call_news_t;

typedef struct weir_sink {
    void (*news)(struct weir_sink *sink, const weir_call_news_t *news);
    /* Whether this answer is taken: asked once for each head, before it is news; false: the attempt ends. NULL: always. */
    bool (*takes)(struct weir_sink *sink, const weir_call_head_t *head);
    /* What an answer lacks that is whole as HTTP; NULL: nothing. Asked with its last news before they are told: with that
     * detail, as TRUNCATED. May be NULL. */
    const char *(*lacks)(struct weir_sink *sink, const weir_call_news_t *last);
} weir_sink_t;

/* What the log and metrics want to know. Times are monotonic ns, 0 if it did not come to that. */
typedef struct {
    int attempts;
    int64_t began_ns, connecting_ns, connected_ns, sent_ns, first_byte_ns;
    int64_t earlier_ns; /* from the first attempt's beginning to the last one's */
    size_t upstream;   /* of the last attempt; or that refused, where that was the end */
    bool is_injected;  /* what it sent asks for usage (call.h) */
    bool is_sent;      /* a byte of the request may have been taken, by a try that got no answer */
    bool budget_spent; /* another try was due, and upstream.retry.budget had none */
} weir_call_stats_t;

/* `body` is acquired; `head` is the request's head as text without framing and the empty line. */
typedef struct {
    weir_worker_t *worker;
    weir_snapshot_t *snapshot; /* acquired */
    size_t upstream;           /* index */
    weir_str_t head;           /* lives longer than the attempt */
    bool is_head, is_idempotent, expects_body; /* of the method */
    bool wants_tunnel;         /* it asks for a WebSocket: a 101 may come */
    int repeats;               /* tries at this upstream before: on another connection, and another address first */
    weir_body_t *body;
    weir_splices_t splices; /* of the body */
    weir_sink_t *sink;
} weir_attempt_request_t;

weir_attempt_t *weir_attempt_create(const weir_attempt_request_t *request);
void weir_attempt_begin(weir_attempt_t *attempt); /* may bring news at once */

/* The body has more bytes, or is complete. */
void weir_attempt_body_progress(weir_attempt_t *attempt);

/* The sink has as much as it can hold / can take more. */
void weir_attempt_pause(weir_attempt_t *attempt);
void weir_attempt_resume(weir_attempt_t *attempt);

/* After a 101: the connection's socket is the caller's of this until the attempt is cancelled. */
h2o_socket_t *weir_attempt_tunnel(weir_attempt_t *attempt);

/* Ends it without news: the connection is closed at once. Without a reason: a tunnel, which ended well. */
void weir_attempt_cancel(weir_attempt_t *attempt, weir_reason_t reason);
const weir_call_stats_t *weir_attempt_stats(const weir_attempt_t *attempt);
/* What there is of the request went out, and the rest is still to come from the caller. */
bool weir_attempt_awaits_caller(const weir_attempt_t *attempt);

#endif
