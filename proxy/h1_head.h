#ifndef WEIR_PROXY_H1_HEAD_H
#define WEIR_PROXY_H1_HEAD_H

/* Between heads on the wire and h2o_req_t. */

#include <h2o.h>
#include <stdbool.h>
#include "h1_parse.h"

/* Copies a parsed head into the request's pool: method, path, authority, version, and the fields that are not framing
 * (Host, Content-Length, Transfer-Encoding and Expect are left out). */
void weir_h1_head_take(h2o_req_t *req, const weir_h1_request_t *head, bool tls);

typedef struct {
    bool chunked, keep_alive, no_length;
    bool upgrade; /* to a WebSocket */
} weir_h1_answer_framing_t;

/* The answer's head as text, in `space` if it fits, else in the request's pool. */
h2o_iovec_t weir_h1_head_of(h2o_req_t *req, const weir_h1_answer_framing_t *framing, char *space, size_t capacity);

/* The usual reason phrase of a status; "Unknown" if there is none. */
const char *weir_h1_status_phrase(int status);

#endif
