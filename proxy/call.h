#ifndef WEIR_PROXY_CALL_H
#define WEIR_PROXY_CALL_H

/* The upstream's side of a request: a connection, the request sent, the answer read, every failure named.
 *
 * A call is its own: it keeps nothing of the exchange but its sink, so that it may outlive it. It ends once: by news
 * that says `ended` (the call is freed after that), or by weir_call_cancel. An answer that breaks off never ends as a
 * whole one. All on the worker's thread; no news comes from within weir_call_create, _resume, _body_progress. */

#include "body.h"
#include "h1_parse.h"
#include "server.h"

typedef struct weir_call weir_call_t;

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
    weir_reason_t reason; /* ended: NONE for a whole answer */
    const char *detail;   /* ended with a reason: static text, or NULL */
} weir_call_news_t;

typedef struct weir_sink {
    void (*news)(struct weir_sink *sink, const weir_call_news_t *news);
} weir_sink_t;

/* What the log and metrics want to know. Times are monotonic ns, 0 if it did not come to that. */
typedef struct {
    int attempts;
    int64_t began_ns, connecting_ns, connected_ns, sent_ns, first_byte_ns;
} weir_call_stats_t;

/* `body` is acquired; `head` (malloc'ed, the request's head as text without framing and the empty line) is taken over. */
typedef struct {
    weir_worker_t *worker;
    weir_snapshot_t *snapshot; /* acquired */
    size_t upstream;           /* index */
    h2o_iovec_t head;
    bool is_head, is_idempotent, expects_body; /* of the method */
    int64_t total_ns;
    weir_body_t *body;
    weir_splices_t splices; /* of the body */
    weir_sink_t *sink;
} weir_call_request_t;

weir_call_t *weir_call_create(const weir_call_request_t *request);
void weir_call_begin(weir_call_t *call); /* may bring news at once */

/* The body has more bytes, or is complete. */
void weir_call_body_progress(weir_call_t *call);

/* The sink has as much as it can hold / can take more. */
void weir_call_pause(weir_call_t *call);
void weir_call_resume(weir_call_t *call);

/* Ends it without news: the connection is closed at once. */
void weir_call_cancel(weir_call_t *call, weir_reason_t reason);
const weir_call_stats_t *weir_call_stats(const weir_call_t *call);

#endif
