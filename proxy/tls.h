#ifndef WEIR_PROXY_TLS_H
#define WEIR_PROXY_TLS_H

/* TLS beneath sock_io.h, by OpenSSL: what is read and written there is ciphertext here.
 *
 * Guarantee: toward an upstream that is verified, nothing that is written leaves before its certificate and its name
 * were found right. An end is clean only if the peer said so (close_notify); any other one is an error. No decrypted
 * byte stays behind a read, so the loop's poll tells of all there is.
 *
 * A connection's calls are made on its worker's thread; contexts are shared by reference count. */

#include <h2o.h>
#include <stdbool.h>
#include <sys/types.h>
#include "../conf/conf.h"

/* --- contexts --- */

/* What one upstream or one listener goes by: authorities, certificate, key, the name that is checked; and, of an
 * upstream, a few sessions a worker for the next handshakes. */
typedef struct weir_tls_context weir_tls_context_t;

/* All contexts of a configuration. */
typedef struct weir_tls_set weir_tls_set_t;

/* Of one upstream and worker, with tickets of 4 KB and the certificates that go with them. */
enum { WEIR_TLS_SESSIONS_BYTES = 4 * 20 * 1024 };

/* Those of `former` (or NULL) are taken over where nothing has changed, not even in the files. NULL when a file cannot
 * be used: *errors (malloc'ed) has a line for each. Control thread. */
weir_tls_set_t *weir_tls_set_create(const weir_conf_t *conf, const weir_tls_set_t *former, size_t worker_count,
                                    char **errors) __attribute__((warn_unused_result));
void weir_tls_set_destroy(weir_tls_set_t *set);

/* By index into conf->upstreams and conf->listeners; NULL: not TLS. They live as long as the set. */
weir_tls_context_t *weir_tls_of_upstream(const weir_tls_set_t *set, size_t upstream);
weir_tls_context_t *weir_tls_of_listener(const weir_tls_set_t *set, size_t listener);

/* Of the store's servers, all of which are verified. NULL with *errors as above. */
weir_tls_context_t *weir_tls_context_of_redis(const weir_conf_store_redis_t *conf, size_t worker_count, char **errors)
    __attribute__((warn_unused_result));
/* What connections to that host are made with: itself, or the same with the host's name where the configuration has none. The
 * reference is the caller's. Any thread. */
weir_tls_context_t *weir_tls_context_toward(weir_tls_context_t *context, const char *host);
void weir_tls_context_release(weir_tls_context_t *context);

/* --- connections --- */

/* A connected socket begins to speak TLS. The handshake goes on in weir_sock_read, which says EAGAIN until it brings
 * bytes; the state is freed with the socket. */
void weir_tls_connect(h2o_socket_t *sock, weir_tls_context_t *context, size_t worker);
void weir_tls_accept(h2o_socket_t *sock, weir_tls_context_t *context);

typedef struct weir_tls weir_tls_t;
weir_tls_t *weir_tls_of(const h2o_socket_t *sock); /* NULL: plain */

/* The connection goes on over another socket, on another worker's thread. */
weir_tls_t *weir_tls_leave(h2o_socket_t *sock); /* the receiver's; the socket is plain then */
void weir_tls_join(h2o_socket_t *sock, weir_tls_t *tls, size_t worker);

/* Whether the handshake is over and the peer is who it should be. */
bool weir_tls_is_ready(const weir_tls_t *tls);
bool weir_tls_is_by(const weir_tls_t *tls, const weir_tls_context_t *context);

/* What went wrong, for a person: static text such as "certificate has expired"; NULL: nothing. */
const char *weir_tls_error(const weir_tls_t *tls);
/* The same if it is what the peer said went wrong. */
const char *weir_tls_alert(const weir_tls_t *tls);

/* --- for sock_io.c --- */

enum {
    /* What a read must have room for: a record that came in pieces is decrypted in front of the ciphertext. */
    WEIR_TLS_RECORD_ROOM_BYTES = 17 * 1024,
    WEIR_TLS_READ_BYTES_MIN = WEIR_TLS_RECORD_ROOM_BYTES + 1024,
};

/* As recv; capacity at least WEIR_TLS_READ_BYTES_MIN. 0 only after close_notify; -1 with EPROTO: see weir_tls_error, which
 * stands then also where recv's own errno is told, such as ECONNRESET. */
ssize_t weir_tls_read(weir_tls_t *tls, char *into, size_t capacity);
/* The ciphertext of bufs, malloc'ed; base NULL with errno when there can be none. */
h2o_iovec_t weir_tls_seal(weir_tls_t *tls, const h2o_iovec_t *bufs, size_t count);
/* Says that nothing follows, as far as the kernel takes it now. */
void weir_tls_end(weir_tls_t *tls);
/* Such an end is not to be said any more. */
void weir_tls_break(weir_tls_t *tls);

#endif
