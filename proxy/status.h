#ifndef WEIR_PROXY_STATUS_H
#define WEIR_PROXY_STATUS_H

/* GET /status: what the process is, has, and is busy with, as JSON. Control thread. */

#include <h2o.h>
#include "json_out.h"
#include "server.h"

void weir_status_answer(h2o_req_t *req);

/* One route as /status shows it. */
void weir_status_write_route(weir_json_out_t *out, const char *key, const weir_conf_t *conf,
                             const weir_conf_route_t *route);

/* A time until then, in whole seconds and never early; null where it is never (< 0). */
void weir_status_write_seconds(weir_json_out_t *out, const char *key, int64_t ns);

#endif
