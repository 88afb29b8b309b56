#ifndef WEIR_PROXY_LOOK_H
#define WEIR_PROXY_LOOK_H

/* Pages of which a part may be kept elsewhere: they are made at once and, where something was asked for, made again when it is
 * told, or after five times the store's timeout. Control never waits. */

#include <h2o.h>
#include <stdbool.h>

/* Answers with `make`, which answers the request or, where weir_look_waits, leaves it. */
void weir_look_answer(h2o_req_t *req, void (*make)(h2o_req_t *req));
/* Within `make`, after it asked the store: whether it will be called again. */
bool weir_look_waits(h2o_req_t *req);
/* The same: whether something that was asked for is not known. */
bool weir_look_has_failed(h2o_req_t *req);
/* 503 for that. */
void weir_look_refuse(h2o_req_t *req, const char *detail);

#endif
