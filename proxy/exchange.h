#ifndef WEIR_PROXY_EXCHANGE_H
#define WEIR_PROXY_EXCHANGE_H

/* The caller's side of a request: routed, decided by the request's chain, answered by a call or by weir itself, logged.
 * Ends with its h2o_req_t, whatever ended that. */

#include "../conf/reasons.h"
#include "server.h"

/* Registers the handler that takes every request of this configuration. */
void weir_exchange_register(h2o_hostconf_t *hostconf);

/* Answers a request that was not even read right (h1.c): with its reason, an id, a log line, and Connection: close. */
void weir_exchange_refuse(h2o_req_t *req, weir_reason_t reason, int status, const char *detail);

/* What it waited for may be there: it asks its chain again. On its worker's thread. */
void weir_exchange_wake(void *exchange);

/* Fills the snapshot's routers and caches. Control thread. */
void weir_exchange_prepare(weir_server_t *server, weir_snapshot_t *snapshot);
void weir_exchange_dispose(weir_snapshot_t *snapshot);

/* Control thread, now and then: warns where a dedup's Bloom filters hold more than they were made for. */
void weir_exchange_watch_filters(weir_server_t *server);

#endif
