#ifndef WEIR_PROXY_CONNECT_H
#define WEIR_PROXY_CONNECT_H

/* The first step of a connection that weir opens: TCP without Nagle's delay, or a unix socket. */

#include <h2o.h>
#include <sys/socket.h>

/* What the kernel takes of what the other side has no room for yet. By itself it takes megabytes on each connection, which
 * cgroup v2 counts against the memory limit. */
enum { WEIR_UNSENT_BYTES_MAX = 64 * 1024 };

/* A descriptor that does not block and is being connected; -1 with errno. */
int weir_connect_begin(const struct sockaddr_storage *address);
/* Once it is writable: 0, or the errno of what became of it. */
int weir_connect_error(h2o_socket_t *sock);

#endif
