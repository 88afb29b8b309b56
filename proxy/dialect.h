#ifndef WEIR_PROXY_DIALECT_H
#define WEIR_PROXY_DIALECT_H

/* A language model's answer as a stream of events, on its way to a caller who reads that dialect.
 *
 * Guarantee: a stream that breaks off, or ends without its dialect's last event, never looks whole: an error event goes
 * out behind it (not where a Content-Length was told), then the transfer breaks. What came of it has been passed on by
 * then, half an event too: nothing of a stream is held back for this. Lest the error is taken for a part of that half
 * event, it is ended first. Where its last line is whole, it is ended as it is: as a rule it has come whole, but for the
 * empty line. Where a line is cut:
 *
 *   anthropic  as a `ping`, which SDKs skip unread; what they raise is the error behind it.
 *   openai     by an empty line. Its data is a part of an object, which is no JSON, and SDKs raise that already. */

#include "call.h"
#include "problem.h"
#include "../filters/core/event_end.h"

typedef struct {
    weir_conf_dialect_t dialect;
    bool must_end;          /* with the dialect's last event, as `end` tells */
    weir_event_end_t end;   /* of what came */
    weir_event_tail_t tail; /* of what went out */
} weir_dialect_stream_t;

/* The answer with this head, if it is a stream of events of a dialect; else NULL. Lives as long as the request. */
weir_dialect_stream_t *weir_dialect_stream_of(weir_request_t *request, const weir_call_head_t *head);

void weir_dialect_stream_came(weir_dialect_stream_t *stream, weir_str_t bytes);              /* from the upstream */
void weir_dialect_stream_went(weir_dialect_stream_t *stream, const char *bytes, size_t len); /* to the caller */

/* Whether it would end too early, if these bytes were the last that come. */
bool weir_dialect_stream_lacks_end(const weir_dialect_stream_t *stream, weir_str_t bytes);

/* The last that the caller gets of a stream which broke off, as server-sent events. */
h2o_iovec_t weir_dialect_stream_error(const weir_dialect_stream_t *stream, h2o_mem_pool_t *pool,
                                      weir_problem_t problem);

/* Whether an answer is a stream of events that can be read: text/event-stream, and not compressed. */
bool weir_dialect_is_event_stream(const weir_call_head_t *head);
/* Whether the target's path, without its query, ends so. */
bool weir_dialect_path_ends_with(weir_str_t target, weir_str_t end);

/* The header field in which the provider names a request; empty: plain has none. */
weir_str_t weir_dialect_request_id_name(weir_conf_dialect_t dialect);

#endif
