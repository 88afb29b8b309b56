#ifndef WEIR_PROXY_ADMIN_H
#define WEIR_PROXY_ADMIN_H

/* The admin and metrics listeners' answers, on the control thread. */

#include "../conf/reasons.h"
#include "server.h"

/* Registers the handler that answers on both kinds of listener. */
void weir_admin_register(h2o_hostconf_t *hostconf);

/* Answers a request on one of them with a reason. */
void weir_admin_refuse(h2o_req_t *req, weir_reason_t reason, int status, const char *detail);

#endif
