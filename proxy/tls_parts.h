#ifndef WEIR_PROXY_TLS_PARTS_H
#define WEIR_PROXY_TLS_PARTS_H

/* What tls.c and tls_context.c share. */

#include <openssl/ssl.h>
#include <stdatomic.h>
#include "tls.h"

enum {
    WEIR_TLS_SESSIONS_MAX = 4, /* of an upstream, for each worker */
    WEIR_TLS_TICKET_BYTES_MAX = 4096,
};

/* Sessions to resume; the newest is the last. Its worker's thread only. */
typedef struct {
    SSL_SESSION *entries[WEIR_TLS_SESSIONS_MAX];
    size_t size;
} weir_tls_sessions_t;

struct weir_tls_context {
    SSL_CTX *ctx;
    BIO_METHOD *method; /* of its connections' way to the socket */
    char *sni;          /* NULL: none is sent */
    char *checked;      /* the name that is looked for, where `ctx` has none; NULL: it has */
    bool is_nameless;   /* no connection is made with it */
    uint8_t fingerprint[32];
    _Atomic size_t references;
    size_t worker_count;
    weir_tls_sessions_t sessions[]; /* by worker; none for a listener */
};

struct weir_tls {
    h2o_socket_t *sock;
    SSL *ssl;
    weir_tls_context_t *context; /* one reference */
    size_t worker;
    struct {
        const char *at;
        size_t left;
    } fed; /* ciphertext that was read; all of it is used up within the read */
    struct {
        char *base;
        size_t size, capacity;
    } out;                 /* ciphertext to be written; between reads and writes, what goes ahead of the next write */
    char *flushing;        /* a handshake's ciphertext that the kernel did not take at once */
    h2o_socket_cb on_read; /* which waits for that */
    size_t hello_bytes; /* what a caller sent before the handshake was over */
    const char *error;
    bool is_alert;      /* the error is the peer's */
    bool established;   /* the handshake was over before this read */
    bool ended, broken; /* the peer said its end; ours is not to be said */
};

/* The peer is to have the context's name. */
void weir_tls_check_name(weir_tls_t *tls);

/* The way between OpenSSL and `fed` and `out`, for all connections of a context. */
BIO_METHOD *weir_tls_create_method(void);

void weir_tls_sessions_put(weir_tls_sessions_t *sessions, SSL_SESSION *session); /* takes over a reference */
/* The newest that can be resumed, or NULL; the reference is the caller's. */
SSL_SESSION *weir_tls_sessions_take(weir_tls_sessions_t *sessions);

#endif
