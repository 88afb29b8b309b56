#ifndef WEIR_PROXY_SOCK_IO_H
#define WEIR_PROXY_SOCK_IO_H

/* Reads and writes on h2o sockets that go straight to the kernel, so that a request costs no buffer and no callback
 * while both sides keep up. Sockets are created with h2o_socket_dont_read: the loop tells of bytes, we read them. With
 * TLS beneath (tls.h) nothing of this changes. */

#include <h2o.h>
#include <stdbool.h>
#include <stdint.h>
#include "tls.h"

typedef enum { WEIR_WRITE_DONE, WEIR_WRITE_PENDING, WEIR_WRITE_FAILED } weir_write_result_t;

/* Writes what the kernel takes now. DONE: all of it, no callback comes. PENDING: the rest was copied to *pending
 * (malloc'ed; the caller frees it in `cb`, which the loop calls when it is out or broken). FAILED: errno says why,
 * nothing is pending. bufs are not needed after the call; their entries are changed. With cb NULL nothing is ever
 * pending: what does not fit has failed, a part of it may be out. */
weir_write_result_t weir_sock_write(h2o_socket_t *sock, h2o_iovec_t *bufs, size_t count, char **pending,
                                    h2o_socket_cb cb);

/* Bytes read (> 0), 0 at the end that the peer made, -1 with errno (EAGAIN: nothing there). `capacity` is at least
 * WEIR_TLS_READ_BYTES_MIN. */
ssize_t weir_sock_read(h2o_socket_t *sock, char *into, size_t capacity);

/* Whether there is nothing to read, no end either. Of TLS, what is there is used up. */
bool weir_sock_is_quiet(h2o_socket_t *sock);

/* Adds bytes to sock->input, for the next read to go on with. */
void weir_sock_keep(h2o_socket_t *sock, const char *bytes, size_t len);

/* The peer gets a reset in place of a clean end when the socket is closed. */
void weir_sock_reset_on_close(h2o_socket_t *sock);

/* Nothing follows what was written. */
void weir_sock_end(h2o_socket_t *sock);
void weir_sock_close(h2o_socket_t *sock);

/* A connection on its way from one worker's loop to another's; nothing is being written, no handshake is made. */
typedef struct {
    h2o_socket_export_t exported;
    weir_tls_t *tls;
} weir_sock_moved_t;

void weir_sock_leave(h2o_socket_t *sock, weir_sock_moved_t *moved);
h2o_socket_t *weir_sock_arrive(h2o_loop_t *loop, size_t worker, weir_sock_moved_t *moved);

/* While a write is pending: stays the same exactly as long as the peer takes nothing. What the kernel still holds would
 * not tell, as more is written to it in place of what the peer took. */
int64_t weir_sock_progress(h2o_socket_t *sock);

#endif
