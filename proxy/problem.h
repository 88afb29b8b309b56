#ifndef WEIR_PROXY_PROBLEM_H
#define WEIR_PROXY_PROBLEM_H

/* The body of an answer that weir gives itself: application/problem+json (RFC 9457), or what a provider's SDKs make
 * their own errors of.
 *
 *   openai     {"error": {"message", "type", "param", "code"}, "reason", "request_id"}
 *   anthropic  {"type": "error", "error": {"type", "message"}, "request_id", "reason"}
 *
 * https://platform.openai.com/docs/guides/error-codes, https://docs.anthropic.com/en/api/errors */

#include <h2o.h>
#include "../conf/reasons.h"
#include "../filters/filter.h"

typedef struct {
    weir_reason_t reason;
    int status;
    const char *detail; /* NULL: the reason's title says it all */
    weir_str_t request_id;
    const char *const *violated; /* names of limits; in a dialect the detail names them */
    size_t violated_count;
    weir_conf_dialect_t dialect;
} weir_problem_t;

enum { WEIR_PROBLEM_BYTES_MAX = 2560 };

/* As JSON on one line. Returns the size, at most WEIR_PROBLEM_BYTES_MAX. */
size_t weir_problem_write(char *out, const weir_problem_t *problem);
/* The same and the end of the line. */
h2o_iovec_t weir_problem_body(h2o_mem_pool_t *pool, const weir_problem_t *problem);
const char *weir_problem_type(weir_conf_dialect_t dialect); /* the Content-Type */

#endif
