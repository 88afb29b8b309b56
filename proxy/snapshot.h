#ifndef WEIR_PROXY_SNAPSHOT_H
#define WEIR_PROXY_SNAPSHOT_H

/* Listeners and configuration snapshots: made on the control thread, shared by reference count with all others. */

#include "server.h"

weir_listener_t *weir_listener_create(weir_listener_kind_t kind, const char *name);
/* The listener takes no new connections; those it has go on with `snapshot`. Before a worker learns of a snapshot
 * without it. */
void weir_listener_set_last(weir_listener_t *listener, weir_snapshot_t *snapshot);

/* All that is made of a configuration; acquires it, and takes over `tls`. `listeners`: by index into conf->listeners,
 * copied. */
weir_snapshot_t *weir_snapshot_create(weir_server_t *server, weir_conf_t *conf, struct weir_tls_set *tls,
                                      weir_listener_t *const *listeners);

#endif
