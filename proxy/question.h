#ifndef WEIR_PROXY_QUESTION_H
#define WEIR_PROXY_QUESTION_H

/* A request that nobody sent, described by a query: what /explain, DELETE /limits/NAME and DELETE /dedup/NAME ask about.
 *
 * It comes from a trusted peer, and its body is of JSON, with a `model` where one is given that is not empty, asks for
 * `tokens` at most, and is `bytes` long, or one byte. Of a header that is given as empty there is none. Values are
 * percent-decoded, and a + is a space. Control thread; everything lives as long as the query's own request. */

#include <h2o.h>
#include "../filters/filter.h"
#include "router.h"

typedef enum {
    WEIR_ASKED_LISTENER,
    WEIR_ASKED_PATH,
    WEIR_ASKED_METHOD,
    WEIR_ASKED_HOST,
    WEIR_ASKED_TENANT,
    WEIR_ASKED_MODEL,
    WEIR_ASKED_CLIENT_IP,
    WEIR_ASKED_CORRELATION,
    WEIR_ASKED_TOKENS,
    WEIR_ASKED_BYTES,
    WEIR_ASKED_KEY,
    WEIR_ASKED_COUNT,
} weir_asked_t;

typedef struct {
    weir_request_t request; /* first */
    h2o_req_t *req;
    weir_str_t given[WEIR_ASKED_COUNT];   /* a base of NULL: not there */
    const char *called[WEIR_ASKED_COUNT]; /* as the query has it: path, or route */
    const char **headers;                 /* NAMEs of header.NAME, in lower case */
    size_t header_count;
    weir_field_t *fields; /* of those that are not empty */
    weir_str_t path;      /* under which routes match */
    weir_json_picked_t picked;
} weir_question_t;

const char *weir_asked_name(weir_asked_t asked);
bool weir_question_has(const weir_question_t *question, weir_asked_t asked);
bool weir_question_has_header(const weir_question_t *question, const char *name);

/* NULL where a parameter is unknown, there twice, or not valid; then that was answered. */
weir_question_t *weir_question_read(h2o_req_t *req) __attribute__((warn_unused_result));
/* Sets the request's listener, the given one or the only one, and the tenant. False: there is none, and that was
 * answered. */
bool weir_question_listen(weir_question_t *question) __attribute__((warn_unused_result));
/* Sets the request's route, by path, host and method. */
weir_router_match_t weir_question_route(weir_question_t *question);

#endif
