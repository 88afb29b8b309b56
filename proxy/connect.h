#ifndef WEIR_PROXY_CONNECT_H
#define WEIR_PROXY_CONNECT_H

/* The first step of a connection that weir opens: TCP without Nagle's delay, or a unix socket. */

#include <h2o.h>
#include <sys/socket.h>

/* A descriptor that does not block and is being connected; -1 with errno. */
int weir_connect_begin(const struct sockaddr_storage *address);
/* Once it is writable: 0, or the errno of what became of it. */
int weir_connect_error(h2o_socket_t *sock);

#endif
