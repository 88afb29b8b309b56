#ifndef WEIR_PROXY_PROBLEM_H
#define WEIR_PROXY_PROBLEM_H

/* The body of an answer that weir gives itself: application/problem+json (RFC 9457). */

#include <h2o.h>
#include "../conf/reasons.h"
#include "../filters/filter.h"

typedef struct {
    weir_reason_t reason;
    int status;
    const char *detail; /* NULL: the reason's title */
    weir_str_t request_id;
    const char *const *violated; /* names of limits */
    size_t violated_count;
} weir_problem_t;

h2o_iovec_t weir_problem_body(h2o_mem_pool_t *pool, const weir_problem_t *problem);

#endif
