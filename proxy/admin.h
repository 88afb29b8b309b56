#ifndef WEIR_PROXY_ADMIN_H
#define WEIR_PROXY_ADMIN_H

/* The admin and metrics listeners' answers, on the control thread. */

#include "server.h"

/* Registers the handler that answers on both kinds of listener. */
void weir_admin_register(h2o_hostconf_t *hostconf);

#endif
