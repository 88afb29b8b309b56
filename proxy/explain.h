#ifndef WEIR_PROXY_EXPLAIN_H
#define WEIR_PROXY_EXPLAIN_H

/* GET /explain: which route, upstream and limits the request meets that question.h describes, and what each limit would
 * say now. Consumes nothing. Control thread. */

#include <h2o.h>

void weir_explain_answer(h2o_req_t *req);

#endif
