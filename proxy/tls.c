#include "tls_parts.h"

#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    RECORD_BYTES_MAX = SSL3_RT_MAX_PLAIN_LENGTH,
    RECORD_OVERHEAD_BYTES = 64,
    FLIGHT_BYTES = 4096,
    HELLO_BYTES_MAX = 32 * 1024, /* OpenSSL would keep 128 KB of anybody's */
};

static void on_close(void *data);

weir_tls_t *weir_tls_of(const h2o_socket_t *sock)
{
    return sock->on_close.cb == on_close ? sock->on_close.data : NULL;
}

/* --- what went wrong --- */

/* OpenSSL's words, where they tell a person nothing. */
static const struct {
    int reason;
    const char *text;
} texts[] = {
    {SSL_R_WRONG_VERSION_NUMBER, "the peer does not speak TLS"},
    {SSL_R_HTTP_REQUEST, "the peer does not speak TLS"},
    {SSL_R_PACKET_LENGTH_TOO_LONG, "the peer does not speak TLS"},
    {SSL_R_UNSUPPORTED_PROTOCOL, "the peer speaks no TLS of version 1.2 or later"},
    {SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, "the peer speaks no TLS of version 1.2 or later"},
    {SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE, "the peer refused the handshake"},
    {SSL_R_TLSV1_ALERT_UNKNOWN_CA, "the peer does not know who signed our certificate"},
    {SSL_R_SSLV3_ALERT_BAD_CERTIFICATE, "the peer refused our certificate"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN, "the peer refused our certificate"},
    {SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED, "our certificate has expired, the peer says"},
    {SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED, "the peer asks for a certificate, and there is none (tls.cert)"},
    {SSL_R_TLSV1_UNRECOGNIZED_NAME, "the peer does not know the name it was asked for"},
    {SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE, "the peer has no certificate"},
};

static const char *text_of(int reason)
{
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); ++i)
        if (texts[i].reason == reason)
            return texts[i].text;
    return NULL;
}

/* All of these are static. */
static const char *describe(const SSL *ssl)
{
    long verified = SSL_get_verify_result(ssl);
    unsigned long error = ERR_peek_error();
    if (!SSL_is_init_finished(ssl) && verified != X509_V_OK && SSL_get_verify_mode(ssl) != SSL_VERIFY_NONE)
        return X509_verify_cert_error_string(verified);
    const char *text = text_of(ERR_GET_REASON(error));
    if (text == NULL)
        text = ERR_reason_error_string(error);
    return text != NULL ? text : "TLS failed";
}

const char *weir_tls_error(const weir_tls_t *tls)
{
    return tls->error;
}

const char *weir_tls_alert(const weir_tls_t *tls)
{
    return tls->is_alert ? tls->error : NULL;
}

static ssize_t fail(weir_tls_t *tls, const char *error)
{
    if (tls->error == NULL)
        tls->error = error;
    errno = EPROTO;
    return -1;
}

/* --- OpenSSL's way to the socket --- */

static int take_fed(BIO *bio, char *into, int capacity)
{
    weir_tls_t *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (tls->fed.left == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t len = tls->fed.left < (size_t)capacity ? tls->fed.left : (size_t)capacity;
    memcpy(into, tls->fed.at, len);
    tls->fed.at += len;
    tls->fed.left -= len;
    return (int)len;
}

static void reserve_out(weir_tls_t *tls, size_t len)
{
    if (tls->out.capacity - tls->out.size >= len)
        return;
    tls->out.capacity = tls->out.size + (len > FLIGHT_BYTES ? len : FLIGHT_BYTES);
    tls->out.base = h2o_mem_realloc(tls->out.base, tls->out.capacity);
}

static int put_out(BIO *bio, const char *bytes, int len)
{
    weir_tls_t *tls = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    reserve_out(tls, (size_t)len);
    memcpy(tls->out.base + tls->out.size, bytes, (size_t)len);
    tls->out.size += (size_t)len;
    return len;
}

static long control(BIO *bio, int command, long number, void *pointer)
{
    return command == BIO_CTRL_FLUSH;
}

BIO_METHOD *weir_tls_create_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "weir");
    if (method == NULL || !BIO_meth_set_read(method, take_fed) || !BIO_meth_set_write(method, put_out) ||
        !BIO_meth_set_ctrl(method, control))
        h2o_fatal("no memory");
    return method;
}

/* --- what OpenSSL itself has to say: handshakes and alerts --- */

static void drop_out(weir_tls_t *tls)
{
    free(tls->out.base);
    tls->out.base = NULL;
    tls->out.size = tls->out.capacity = 0;
}

static ssize_t send_out(weir_tls_t *tls)
{
    ssize_t sent;
    do
        sent = send(h2o_socket_get_fd(tls->sock), tls->out.base, tls->out.size, MSG_NOSIGNAL);
    while (sent == -1 && errno == EINTR);
    return sent == -1 && errno == EAGAIN ? 0 : sent;
}

static void on_flushed(h2o_socket_t *sock, const char *err)
{
    weir_tls_t *tls = weir_tls_of(sock);
    h2o_socket_cb on_read = tls->on_read != NULL ? tls->on_read : sock->_cb.read;
    free(tls->flushing);
    tls->flushing = NULL;
    tls->on_read = NULL;
    if (err != NULL)
        fail(tls, "the peer closed the connection");
    if (on_read == NULL)
        return;
    h2o_socket_read_start(sock, on_read);
    on_read(sock, NULL); /* what the poll does not tell: the handshake may be over */
}

/* A reply behind the handshake, such as to a new key of the peer's: what cannot go out at once goes ahead of the next
 * write. Whoever asks for more than that is up to no good. */
static bool flush_reply(weir_tls_t *tls)
{
    ssize_t sent = h2o_socket_is_writing(tls->sock) ? 0 : send_out(tls);
    if (sent == -1 || tls->out.size - (size_t)sent > FLIGHT_BYTES) {
        fail(tls, sent == -1 ? "the peer closed the connection" : "the peer interrupts");
        return false;
    }
    tls->out.size -= (size_t)sent;
    memmove(tls->out.base, tls->out.base + sent, tls->out.size);
    if (tls->out.size == 0)
        drop_out(tls);
    return true;
}

static bool flush(weir_tls_t *tls)
{
    if (tls->out.size == 0)
        return true;
    if (tls->established)
        return flush_reply(tls);
    ssize_t sent = send_out(tls);
    if (sent == -1) {
        fail(tls, "the peer closed the connection");
        return false;
    }
    if ((size_t)sent < tls->out.size) {
        h2o_iovec_t rest = h2o_iovec_init(tls->out.base + sent, tls->out.size - (size_t)sent);
        tls->flushing = tls->out.base;
        tls->out.base = NULL;
        h2o_socket_write(tls->sock, &rest, 1, on_flushed);
    }
    drop_out(tls);
    return true;
}

/* --- reading --- */

/* The poll tells of the end that was read together with the bytes before it. */
static void tell_end_again(weir_tls_t *tls)
{
    shutdown(h2o_socket_get_fd(tls->sock), SHUT_RD);
}

/* A message behind the handshake, such as a ticket, makes OpenSSL take a buffer of 16 KB for an answer, and keep it
 * until something is written. Up to 3.0.13 it would free a record's head as well (CVE-2024-4741). */
static void release_buffers(weir_tls_t *tls)
{
    bool is_between_records = strcmp(SSL_rstate_string(tls->ssl), "RH") == 0;
    if (is_between_records && SSL_is_init_finished(tls->ssl))
        (void)SSL_free_buffers(tls->ssl);
}

static void bound_hello(weir_tls_t *tls, size_t len)
{
    if (SSL_is_init_finished(tls->ssl) || !SSL_is_server(tls->ssl))
        return;
    bool is_asked = SSL_get_verify_mode(tls->ssl) != SSL_VERIFY_NONE; /* for certificates */
    tls->hello_bytes += len;
    if (tls->hello_bytes > HELLO_BYTES_MAX + (is_asked ? (size_t)SSL_get_max_cert_list(tls->ssl) : 0))
        fail(tls, "the peer's handshake is too long");
}

/* Alerts by which a peer ends a handshake that it did not like (RFC 8446, 6.2): whatever we sent meanwhile was not looked
 * at. Any other may come from one that has begun to work. */
static bool is_refusal(int alert)
{
    switch (alert) {
    case SSL_AD_HANDSHAKE_FAILURE:
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_DECRYPT_ERROR: /* of the handshake's signature */
    case TLS13_AD_CERTIFICATE_REQUIRED:
        return true;
    default:
        return false;
    }
}

/* Decrypts all that was fed. Plaintext goes to the front of the same memory: it is shorter than what it comes from, and
 * of a record that came in pieces there is room for the rest. Returns its length. */
static size_t decrypt(weir_tls_t *tls, char *into)
{
    size_t len = 0, fed = tls->fed.left;
    int got;
    ERR_clear_error();
    while ((got = SSL_read(tls->ssl, into + len, (int)(tls->fed.at - (into + len)))) > 0)
        len += (size_t)got;
    switch (SSL_get_error(tls->ssl, got)) {
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_ZERO_RETURN:
        tls->ended = true;
        break;
    default:
        tls->is_alert = is_refusal(ERR_GET_REASON(ERR_peek_error()) - SSL_AD_REASON_OFFSET);
        fail(tls, describe(tls->ssl));
        break;
    }
    tls->fed.left = 0;
    if (len != 0)
        return len;
    bound_hello(tls, fed);
    release_buffers(tls);
    return 0;
}

/* -1 with errno EAGAIN, or the end: of the socket, or of what was said on it. */
static ssize_t end_of_input(weir_tls_t *tls, ssize_t got)
{
    if (got == -1 && errno == EAGAIN)
        return -1;
    if (got == 0 && tls->ended)
        return 0;
    int error = errno;
    fail(tls, SSL_is_init_finished(tls->ssl) ? "the peer closed the connection without saying so"
                                             : "the peer closed the connection in the handshake");
    if (got == -1)
        errno = error; /* a reset, this once */
    return -1;
}

/* The caller's callback waits until the handshake's bytes are out. */
static ssize_t wait_for_flush(weir_tls_t *tls)
{
    if (tls->sock->_cb.read != NULL) {
        tls->on_read = tls->sock->_cb.read;
        h2o_socket_read_stop(tls->sock);
    }
    errno = EAGAIN;
    return -1;
}

ssize_t weir_tls_read(weir_tls_t *tls, char *into, size_t capacity)
{
    assert(capacity >= WEIR_TLS_READ_BYTES_MIN);
    if (tls->error != NULL)
        return fail(tls, NULL);
    if (tls->ended)
        return 0;
    if (tls->flushing != NULL)
        return wait_for_flush(tls);
    char *cipher = into + WEIR_TLS_RECORD_ROOM_BYTES;
    ssize_t got;
    while ((got = recv(h2o_socket_get_fd(tls->sock), cipher, capacity - WEIR_TLS_RECORD_ROOM_BYTES, 0)) == -1 &&
           errno == EINTR)
        ;
    if (got <= 0)
        return end_of_input(tls, got);
    tls->fed.at = cipher;
    tls->fed.left = (size_t)got;
    size_t len = decrypt(tls, into);
    (void)flush(tls); /* if that fails, tls->error says so */
    tls->established = tls->established || SSL_is_init_finished(tls->ssl);
    if (len != 0 && (tls->error != NULL || tls->ended))
        tell_end_again(tls);
    if (len != 0)
        return (ssize_t)len;
    if (tls->error != NULL)
        return fail(tls, NULL);
    errno = EAGAIN;
    return tls->ended ? 0 : -1;
}

/* --- writing --- */

static bool seal_record(weir_tls_t *tls, const char *bytes, size_t len)
{
    ERR_clear_error();
    if (SSL_write(tls->ssl, bytes, (int)len) == (int)len)
        return true;
    fail(tls, describe(tls->ssl));
    return false;
}

/* Full records, whatever pieces the bytes come in. */
static bool seal_all(weir_tls_t *tls, const h2o_iovec_t *bufs, size_t count)
{
    char record[RECORD_BYTES_MAX];
    size_t len = 0;
    for (size_t i = 0; i < count; ++i) {
        for (size_t at = 0; at < bufs[i].len;) {
            size_t step = bufs[i].len - at < sizeof(record) - len ? bufs[i].len - at : sizeof(record) - len;
            memcpy(record + len, bufs[i].base + at, step);
            at += step;
            len += step;
            if (len == sizeof(record)) {
                if (!seal_record(tls, record, len))
                    return false;
                len = 0;
            }
        }
    }
    return len == 0 || seal_record(tls, record, len);
}

h2o_iovec_t weir_tls_seal(weir_tls_t *tls, const h2o_iovec_t *bufs, size_t count)
{
    size_t len = 0;
    for (size_t i = 0; i < count; ++i)
        len += bufs[i].len;
    if (tls->error != NULL || tls->flushing != NULL || !weir_tls_is_ready(tls)) {
        errno = EPROTO;
        return h2o_iovec_init(NULL, 0);
    }
    reserve_out(tls, len + (len / RECORD_BYTES_MAX + 2) * RECORD_OVERHEAD_BYTES);
    if (!seal_all(tls, bufs, count)) {
        drop_out(tls);
        errno = EPROTO;
        return h2o_iovec_init(NULL, 0);
    }
    h2o_iovec_t sealed = h2o_iovec_init(tls->out.base, tls->out.size);
    tls->out.base = NULL;
    tls->out.size = tls->out.capacity = 0;
    return sealed;
}

/* --- a connection's life --- */

bool weir_tls_is_ready(const weir_tls_t *tls)
{
    return SSL_is_init_finished(tls->ssl) && tls->flushing == NULL && tls->error == NULL;
}

bool weir_tls_is_by(const weir_tls_t *tls, const weir_tls_context_t *context)
{
    return tls->context == context;
}

void weir_tls_break(weir_tls_t *tls)
{
    tls->broken = true;
}

void weir_tls_end(weir_tls_t *tls)
{
    if (tls->broken || h2o_socket_is_writing(tls->sock) || !weir_tls_is_ready(tls))
        return;
    tls->broken = true;
    ERR_clear_error();
    (void)SSL_shutdown(tls->ssl);
    if (tls->out.size != 0)
        (void)send_out(tls);
    drop_out(tls);
}

static void on_close(void *data)
{
    weir_tls_t *tls = data;
    /* However it ended: its session can be resumed. */
    SSL_set_shutdown(tls->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(tls->ssl);
    weir_tls_context_release(tls->context);
    free(tls->out.base);
    free(tls->flushing);
    free(tls);
}

weir_tls_t *weir_tls_leave(h2o_socket_t *sock)
{
    weir_tls_t *tls = weir_tls_of(sock);
    assert(tls->flushing == NULL);
    sock->on_close.cb = NULL;
    tls->sock = NULL;
    return tls;
}

void weir_tls_join(h2o_socket_t *sock, weir_tls_t *tls, size_t worker)
{
    assert(sock->on_close.cb == NULL);
    tls->sock = sock;
    tls->worker = worker;
    sock->on_close.cb = on_close;
    sock->on_close.data = tls;
}

static weir_tls_t *attach(h2o_socket_t *sock, weir_tls_context_t *context, size_t worker)
{
    weir_tls_t *tls = h2o_mem_alloc(sizeof(*tls));
    *tls = (weir_tls_t){.context = context, .ssl = SSL_new(context->ctx)};
    BIO *bio = BIO_new(context->method);
    if (tls->ssl == NULL || bio == NULL)
        h2o_fatal("no memory");
    atomic_fetch_add(&context->references, 1);
    BIO_set_data(bio, tls);
    BIO_set_init(bio, 1);
    SSL_set_bio(tls->ssl, bio, bio);
    SSL_set_app_data(tls->ssl, tls);
    weir_tls_join(sock, tls, worker);
    return tls;
}

static void resume_session(weir_tls_t *tls)
{
    SSL_SESSION *session = weir_tls_sessions_take(&tls->context->sessions[tls->worker]);
    if (session == NULL)
        return;
    (void)SSL_set_session(tls->ssl, session);
    SSL_SESSION_free(session);
}

void weir_tls_connect(h2o_socket_t *sock, weir_tls_context_t *context, size_t worker)
{
    weir_tls_t *tls = attach(sock, context, worker);
    SSL_set_connect_state(tls->ssl);
    weir_tls_check_name(tls);
    if (context->sni != NULL && !SSL_set_tlsext_host_name(tls->ssl, context->sni))
        h2o_fatal("no memory");
    resume_session(tls);
    ERR_clear_error();
    if (SSL_get_error(tls->ssl, SSL_do_handshake(tls->ssl)) != SSL_ERROR_WANT_READ)
        fail(tls, describe(tls->ssl));
    else
        (void)flush(tls);
}

void weir_tls_accept(h2o_socket_t *sock, weir_tls_context_t *context)
{
    SSL_set_accept_state(attach(sock, context, 0)->ssl);
}
