#ifndef WEIR_PROXY_FORCE_H
#define WEIR_PROXY_FORCE_H

/* POST /upstreams/NAME/breaker?state=open|closed|auto: an upstream's breakers by hand. Control thread. */

#include <h2o.h>

#define WEIR_FORCE_UPSTREAMS "/upstreams/"
void weir_force_answer(h2o_req_t *req);

#endif
