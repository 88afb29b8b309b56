#ifndef WEIR_PROXY_RELOAD_H
#define WEIR_PROXY_RELOAD_H

/* Puts a configuration in force, the first one and all later ones alike. Control thread.
 *
 * Guarantee: all or nothing. What can fail - addresses to bind, the log to open - is done before anything changes. */

#include "server.h"

/* Acquires the configuration. False: nothing has changed, and *errors (malloc'ed) has a line for each reason. */
bool weir_reload_apply(weir_server_t *server, weir_conf_t *conf, char **errors) __attribute__((warn_unused_result));

/* All listeners of callers take no new connections, and close when those that wait are accepted. */
void weir_reload_retire_data(weir_server_t *server);

/* Removes the files of unix sockets. */
void weir_reload_unlink_all(weir_server_t *server);

void weir_reload_dispose(weir_server_t *server);

#endif
