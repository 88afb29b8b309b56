#ifndef WEIR_PROXY_TUNNEL_H
#define WEIR_PROXY_TUNNEL_H

/* Bytes both ways between a caller and an upstream that speak another protocol with each other by now (RFC 9110 7.8):
 * unchanged, and at once.
 *
 * Guarantee: of each direction at most one read is held here (WEIR_SCRATCH_BYTES, once also what came early): a side is
 * not read while the other one has not taken what it sent. An end goes on behind all bytes that came before it, and the
 * other direction goes on; a side that breaks ends it. On the worker's thread; it uses two sockets that stay their
 * owners'. */

#include "../conf/reasons.h"
#include "server.h"

typedef struct weir_tunnel weir_tunnel_t;

/* Nobody else reads or writes the sockets. */
typedef struct {
    weir_worker_t *worker;
    h2o_socket_t *caller, *upstream;
    int64_t idle_ns;  /* without a byte in either direction it ends */
    weir_str_t early; /* what the caller sent before it began; valid during weir_tunnel_create */
    /* Once, never from within weir_tunnel_create: TIMEOUT_IDLE, CLIENT_GONE or RESET (that side broke it), or NONE.
     * `is_cut`: the caller's connection must not look as if it had ended well. The upstream's is to be closed now. */
    void (*on_end)(void *argument, weir_reason_t reason, bool is_cut);
    void *argument;
} weir_tunnel_request_t;

weir_tunnel_t *weir_tunnel_create(const weir_tunnel_request_t *request);

uint64_t weir_tunnel_bytes_up(const weir_tunnel_t *tunnel);
uint64_t weir_tunnel_bytes_down(const weir_tunnel_t *tunnel);

/* The upstream's socket was closed. The caller's is its owner's again: not read, and closed at once if it was cut. */
void weir_tunnel_destroy(weir_tunnel_t *tunnel);

#endif
