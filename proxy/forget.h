#ifndef WEIR_PROXY_FORGET_H
#define WEIR_PROXY_FORGET_H

#include <h2o.h>

/* DELETE /dedup/NAME?key=&tenant=: forgets a finished key of a tenant, in every route and method. */
#define WEIR_FORGET_DEDUP "/dedup/"
void weir_forget_answer(h2o_req_t *req);

#endif
