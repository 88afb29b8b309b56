#ifndef WEIR_PROXY_SAMPLE_H
#define WEIR_PROXY_SAMPLE_H

/* Once a second, how the process stands goes into its history (history.h). */

#include "server.h"

/* `in_flight` is the most since the last call. Control thread. */
void weir_sample_take(weir_server_t *server, size_t in_flight);

#endif
