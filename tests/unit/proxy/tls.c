/* Two ends that speak TLS over a pair of sockets in one loop, through buffers that take a few KB at a time: no byte is
 * lost, doubled or left behind, and an end is what the peer made of it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include "../seeded.h"
#include "../../../proxy/sock_io.h"
#include "../../../proxy/tls_parts.h"

enum {
    LARGE_PARTS = 550, /* of a name, 60 bytes each: its certificate is as large as OpenSSL takes */
    TURNS_MAX = 200000,
    SMALL_BUFFER_BYTES = 2304,
    ROOM_BYTES = 64 * 1024,
};

/* --- certificates --- */

typedef struct {
    char cert[32], key[32]; /* paths */
} files_t;

static void write_pem(char path[32], X509 *certificate, EVP_PKEY *key)
{
    strcpy(path, "/tmp/weir-tls-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd != -1);
    FILE *file = fdopen(fd, "w");
    assert_non_null(file);
    if (certificate != NULL)
        assert_int_equal(PEM_write_X509(file, certificate), 1);
    else
        assert_int_equal(PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL), 1);
    fclose(file);
}

static void set_name(X509 *certificate, int parts)
{
    unsigned char text[61];
    X509_NAME *name = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"weir.test", -1, -1, 0);
    for (int i = 0; i < parts; ++i) {
        snprintf((char *)text, sizeof(text), "%060d", i);
        X509_NAME_add_entry_by_txt(name, "OU", MBSTRING_ASC, text, -1, -1, 0);
    }
    X509_set_issuer_name(certificate, name);
}

static files_t make_files(int parts)
{
    files_t files;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    assert_true(key != NULL && certificate != NULL);
    X509_set_version(certificate, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    set_name(certificate, parts);
    X509_EXTENSION *names = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:weir.test");
    X509_add_ext(certificate, names, -1);
    X509_EXTENSION_free(names);
    assert_true(X509_sign(certificate, key, EVP_sha256()) > 0);
    write_pem(files.cert, certificate, NULL);
    write_pem(files.key, NULL, key);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return files;
}

/* --- the two ends --- */

typedef struct {
    h2o_socket_t *sock; /* NULL: closed */
    const char *out;
    size_t out_len, sent, piece;
    char *pending;
    bool writing, ends, rekeys; /* asks for a new key with each piece */
    char *in;
    size_t in_len, in_capacity, room;
    bool is_ready, was_flushing, has_ended;
    int reads;
    const char *error;
} end_t;

typedef struct {
    h2o_loop_t *loop;
    files_t files;
    weir_tls_set_t *set;
    end_t client, server;
    int turns;
} pair_t;

static void send_more(end_t *end);

/* Goes out with what is written next. */
static void change_key(SSL *ssl)
{
    assert_int_equal(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    assert_int_equal(SSL_do_handshake(ssl), 1);
}

static void on_written(h2o_socket_t *sock, const char *err)
{
    end_t *end = sock->data;
    free(end->pending);
    end->pending = NULL;
    end->writing = false;
    assert_null(err);
    send_more(end);
}

/* In two pieces, as a head and a body are. */
static void send_more(end_t *end)
{
    while (!end->writing && end->sent < end->out_len) {
        size_t len = end->out_len - end->sent < end->piece ? end->out_len - end->sent : end->piece;
        h2o_iovec_t bufs[] = {{(char *)end->out + end->sent, len / 3},
                              {(char *)end->out + end->sent + len / 3, len - len / 3}};
        if (end->rekeys)
            change_key(weir_tls_of(end->sock)->ssl);
        weir_write_result_t result = weir_sock_write(end->sock, bufs, 2, &end->pending, on_written);
        assert_int_not_equal(result, WEIR_WRITE_FAILED);
        end->sent += len;
        end->writing = result == WEIR_WRITE_PENDING;
    }
    if (!end->writing && end->ends) {
        end->ends = false;
        weir_sock_end(end->sock);
    }
}

static void take(end_t *end, const char *bytes, size_t len)
{
    assert_true(end->in_capacity - end->in_len >= len);
    memcpy(end->in + end->in_len, bytes, len);
    end->in_len += len;
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    end_t *end = sock->data;
    weir_tls_t *tls = weir_tls_of(sock);
    char *room = malloc(end->room); /* its edges are watched by sanitizers */
    ssize_t got = weir_sock_read(sock, room, end->room);
    ++end->reads;
    end->was_flushing |= tls->flushing != NULL;
    if (got > 0)
        take(end, room, (size_t)got);
    free(room);
    if (got == 0 || (got == -1 && errno != EAGAIN)) {
        end->has_ended = true;
        end->error = got == 0 ? NULL : weir_tls_error(tls);
        h2o_socket_read_stop(sock);
        return;
    }
    if (!end->is_ready && weir_tls_is_ready(tls)) {
        end->is_ready = true;
        send_more(end);
    }
}

static h2o_socket_t *open_end(pair_t *pair, end_t *end, int fd, int buffer_bytes)
{
    if (buffer_bytes != 0)
        assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes)), 0);
    end->sock = h2o_evloop_socket_create(pair->loop, fd, 0);
    end->sock->data = end;
    end->room = end->room != 0 ? end->room : ROOM_BYTES;
    end->piece = end->piece != 0 ? end->piece : 100000;
    h2o_socket_dont_read(end->sock, 1);
    return end->sock;
}

static void open_pair(pair_t *pair, int buffer_bytes)
{
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
    weir_tls_accept(open_end(pair, &pair->server, fds[0], buffer_bytes), weir_tls_of_listener(pair->set, 0));
    weir_tls_connect(open_end(pair, &pair->client, fds[1], buffer_bytes), weir_tls_of_upstream(pair->set, 0), 0);
    h2o_socket_read_start(pair->server.sock, on_readable);
    h2o_socket_read_start(pair->client.sock, on_readable);
}

static void close_end(end_t *end)
{
    if (end->sock != NULL)
        weir_sock_close(end->sock);
    free(end->pending);
    free(end->in);
    *end = (end_t){0};
}

static void close_pair(pair_t *pair)
{
    close_end(&pair->client);
    close_end(&pair->server);
    (void)h2o_evloop_run(pair->loop, 0);
}

/* Turns of the loop, as long as something happens. */
static void run(pair_t *pair)
{
    int reads;
    do {
        reads = pair->client.reads + pair->server.reads;
        for (int i = 0; i < 4; ++i)
            (void)h2o_evloop_run(pair->loop, 1);
        assert_true(++pair->turns < TURNS_MAX);
        pair->client.was_flushing |= pair->client.sock != NULL && weir_tls_of(pair->client.sock)->flushing != NULL;
        pair->server.was_flushing |= pair->server.sock != NULL && weir_tls_of(pair->server.sock)->flushing != NULL;
    } while (reads != pair->client.reads + pair->server.reads || pair->client.writing || pair->server.writing);
}

static void start(pair_t *pair, files_t files, bool is_mutual)
{
    static weir_conf_upstream_t upstream;
    static weir_conf_listener_t listener;
    char *errors = NULL;
    upstream = (weir_conf_upstream_t){.name = "one", .url = {.is_tls = true, .host = "weir.test"}};
    upstream.tls.ca = files.cert;
    upstream.tls.verify = true;
    upstream.tls.cert = is_mutual ? files.cert : NULL;
    upstream.tls.key = is_mutual ? files.key : NULL;
    listener = (weir_conf_listener_t){.name = "in"};
    listener.tls.cert = files.cert;
    listener.tls.key = files.key;
    listener.tls.client_ca = is_mutual ? files.cert : NULL;
    weir_conf_t conf = {.upstreams = {.entries = &upstream, .size = 1}, .listeners = {.entries = &listener, .size = 1}};
    *pair = (pair_t){.loop = h2o_evloop_create(), .files = files};
    pair->set = weir_tls_set_create(&conf, NULL, 1, &errors);
    assert_null(errors);
    assert_non_null(pair->set);
}

static void stop(pair_t *pair)
{
    close_pair(pair);
    weir_tls_set_destroy(pair->set);
    h2o_evloop_destroy(pair->loop);
    unlink(pair->files.cert);
    unlink(pair->files.key);
}

static char *make_bytes(seeded_t *seed, size_t len)
{
    char *bytes = malloc(len + 1);
    for (size_t i = 0; i < len; ++i)
        bytes[i] = (char)seeded_below(seed, 256);
    return bytes;
}

static void give(end_t *from, end_t *to, const char *bytes, size_t len)
{
    from->out = bytes;
    from->out_len = len;
    to->in = malloc(len + 1);
    to->in_capacity = len;
}

static void assert_has(const end_t *end, const char *bytes, size_t len)
{
    assert_int_equal(end->in_len, len);
    assert_memory_equal(end->in, bytes, len);
}

/* --- tests --- */

static void every_byte_arrives_once(void **state)
{
    static const struct {
        size_t up, down, piece, room;
        int buffer_bytes;
    } rows[] = {
        {0, 1, 1, ROOM_BYTES, 0},
        {1, 0, 1, WEIR_TLS_READ_BYTES_MIN, 0},
        {100, 200, 7, WEIR_TLS_READ_BYTES_MIN, SMALL_BUFFER_BYTES},
        {16384, 16385, 16384, WEIR_TLS_READ_BYTES_MIN, 0},
        {40000, 65536, 20000, WEIR_TLS_READ_BYTES_MIN, SMALL_BUFFER_BYTES},
        {65535, 65537, 65537, ROOM_BYTES, SMALL_BUFFER_BYTES},
        {300000, 700000, 262144, ROOM_BYTES, SMALL_BUFFER_BYTES},
        {700000, 300000, 262144, 30000, 0},
        {1000000, 1000000, 999, 50000, 0},
    };
    pair_t pair;
    seeded_t seed = seeded_start("tls");
    start(&pair, make_files(0), false);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        char *up = make_bytes(&seed, rows[i].up), *down = make_bytes(&seed, rows[i].down);
        give(&pair.client, &pair.server, up, rows[i].up);
        give(&pair.server, &pair.client, down, rows[i].down);
        pair.client.piece = pair.server.piece = rows[i].piece;
        pair.client.room = pair.server.room = rows[i].room;
        open_pair(&pair, rows[i].buffer_bytes);
        run(&pair);
        assert_has(&pair.server, up, rows[i].up);
        assert_has(&pair.client, down, rows[i].down);
        close_pair(&pair);
        free(up);
        free(down);
    }
    stop(&pair);
}

/* The reply to a new key waits for what is being written, and goes out ahead of what follows. */
static void keys_change_while_bytes_flow(void **state)
{
    pair_t pair;
    seeded_t seed = seeded_start("tls");
    size_t len = 400000;
    char *up = make_bytes(&seed, len), *down = make_bytes(&seed, len);
    start(&pair, make_files(0), false);
    for (int buffer_bytes = 0; buffer_bytes <= SMALL_BUFFER_BYTES; buffer_bytes += SMALL_BUFFER_BYTES) {
        give(&pair.client, &pair.server, up, len);
        give(&pair.server, &pair.client, down, len);
        pair.client.piece = 7000;
        pair.server.piece = 100000;
        pair.client.rekeys = true;
        open_pair(&pair, buffer_bytes);
        run(&pair);
        assert_has(&pair.server, up, len);
        assert_has(&pair.client, down, len);
        close_pair(&pair);
    }
    free(up);
    free(down);
    stop(&pair);
}

/* A handshake that the kernel does not take at once is written as it can be, on both sides, and what follows it waits.
 */
static void a_large_handshake_goes_out_in_pieces(void **state)
{
    pair_t pair;
    start(&pair, make_files(LARGE_PARTS), false);
    give(&pair.client, &pair.server, "question", 8);
    give(&pair.server, &pair.client, "answer", 6);
    open_pair(&pair, SMALL_BUFFER_BYTES);
    run(&pair);
    assert_true(pair.server.was_flushing);
    assert_has(&pair.server, "question", 8);
    assert_has(&pair.client, "answer", 6);
    stop(&pair);
}

/* The same of our certificate. The ticket in which a caller's certificate stands has no room for this one. */
static void a_large_certificate_of_the_client(void **state)
{
    pair_t pair;
    start(&pair, make_files(LARGE_PARTS / 2), true);
    SSL_CTX_set_num_tickets(weir_tls_of_listener(pair.set, 0)->ctx, 0);
    give(&pair.client, &pair.server, "question", 8);
    give(&pair.server, &pair.client, "answer", 6);
    open_pair(&pair, SMALL_BUFFER_BYTES);
    run(&pair);
    assert_true(pair.client.was_flushing && pair.server.was_flushing);
    assert_has(&pair.server, "question", 8);
    assert_has(&pair.client, "answer", 6);
    stop(&pair);
}

static void an_end_is_clean_only_if_it_was_said(void **state)
{
    pair_t pair;
    start(&pair, make_files(0), false);
    for (int is_said = 0; is_said <= 1; ++is_said) {
        char bytes[5000];
        memset(bytes, 'x', sizeof(bytes));
        give(&pair.server, &pair.client, bytes, sizeof(bytes));
        pair.server.ends = is_said;
        open_pair(&pair, 0);
        run(&pair);
        if (!is_said) {
            weir_tls_break(weir_tls_of(pair.server.sock));
            shutdown(h2o_socket_get_fd(pair.server.sock), SHUT_WR);
            run(&pair);
        }
        assert_has(&pair.client, bytes, sizeof(bytes));
        assert_true(pair.client.has_ended);
        assert_true(is_said ? pair.client.error == NULL : pair.client.error != NULL);
        close_pair(&pair);
    }
    stop(&pair);
}

/* The end comes in one read with the bytes before it, and the socket stays open: it is told all the same. */
static void an_end_behind_bytes_is_told(void **state)
{
    pair_t pair;
    start(&pair, make_files(0), false);
    give(&pair.server, &pair.client, "all", 3);
    open_pair(&pair, 0);
    pair.server.out_len = 0;
    run(&pair);
    h2o_socket_read_stop(pair.client.sock);
    pair.server.out_len = 3;
    send_more(&pair.server);
    weir_tls_end(weir_tls_of(pair.server.sock)); /* and no shutdown of the socket */
    h2o_socket_read_start(pair.client.sock, on_readable);
    run(&pair);
    assert_has(&pair.client, "all", 3);
    assert_true(pair.client.has_ended && pair.client.error == NULL);
    stop(&pair);
}

/* Tickets that follow the handshake are no bytes. */
static void a_connection_that_waits_is_quiet(void **state)
{
    pair_t pair;
    start(&pair, make_files(0), false);
    open_pair(&pair, 0);
    for (int i = 0; i < 20 && !pair.client.is_ready; ++i)
        (void)h2o_evloop_run(pair.loop, 1);
    h2o_socket_read_stop(pair.client.sock);
    run(&pair); /* the server says its tickets */
    assert_true(weir_sock_is_quiet(pair.client.sock));
    assert_true(weir_tls_of_upstream(pair.set, 0)->sessions[0].size != 0);
    pair.server.out = "x";
    pair.server.out_len = 1;
    send_more(&pair.server);
    run(&pair);
    assert_false(weir_sock_is_quiet(pair.client.sock));
    stop(&pair);
}

static void sessions_are_resumed_once_each(void **state)
{
    pair_t pair;
    start(&pair, make_files(0), false);
    weir_tls_sessions_t *sessions = &weir_tls_of_upstream(pair.set, 0)->sessions[0];
    for (int i = 0; i < 8; ++i) {
        size_t had = sessions->size;
        open_pair(&pair, 0);
        assert_int_equal(sessions->size, had == 0 ? 0 : had - 1);
        run(&pair);
        assert_int_equal(SSL_session_reused(weir_tls_of(pair.client.sock)->ssl), i != 0);
        assert_true(sessions->size >= 1 && sessions->size <= WEIR_TLS_SESSIONS_MAX);
        close_pair(&pair);
    }
    stop(&pair);
}

/* Nothing is written to one that was not found right. */
static void nothing_is_sealed_before_the_handshake_is_over(void **state)
{
    pair_t pair;
    start(&pair, make_files(0), false);
    open_pair(&pair, 0);
    h2o_iovec_t secret = {H2O_STRLIT("secret")};
    char *pending;
    assert_int_equal(weir_sock_write(pair.client.sock, &secret, 1, &pending, on_written), WEIR_WRITE_FAILED);
    assert_null(pending);
    stop(&pair);
}

/* A set takes over what has not changed, and only that. */
static void contexts_stay_where_nothing_changes(void **state)
{
    files_t files = make_files(0), others = make_files(0);
    weir_conf_upstream_t upstreams[] = {
        {.name = "one", .url = {.is_tls = true, .host = "weir.test"}, .tls = {.verify = true}},
        {.name = "two", .url = {.is_tls = true, .host = "weir.test"}, .tls = {.verify = true}},
        {.name = "plain"}};
    weir_conf_t conf = {.upstreams = {.entries = upstreams, .size = 3}};
    char *errors = NULL;
    weir_tls_set_t *first = weir_tls_set_create(&conf, NULL, 2, &errors);
    upstreams[0].tls.cert = files.cert;
    upstreams[0].tls.key = files.key;
    weir_tls_set_t *second = weir_tls_set_create(&conf, first, 2, &errors);
    assert_ptr_not_equal(weir_tls_of_upstream(first, 0), weir_tls_of_upstream(second, 0));
    assert_ptr_equal(weir_tls_of_upstream(first, 1), weir_tls_of_upstream(second, 1));
    assert_null(weir_tls_of_upstream(second, 2));
    assert_int_equal(rename(others.cert, files.cert), 0);
    weir_tls_set_t *third = weir_tls_set_create(&conf, second, 2, &errors);
    assert_null(third); /* the key is another one's */
    assert_non_null(strstr(errors, "upstreams.one.tls.key: /tmp/"));
    assert_int_equal(rename(others.key, files.key), 0);
    third = weir_tls_set_create(&conf, second, 2, &errors);
    assert_ptr_not_equal(weir_tls_of_upstream(third, 0), weir_tls_of_upstream(second, 0));
    free(errors);
    weir_tls_set_destroy(first);
    weir_tls_set_destroy(second);
    weir_tls_set_destroy(third);
    unlink(files.cert);
    unlink(files.key);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_arrives_once),
        cmocka_unit_test(keys_change_while_bytes_flow),
        cmocka_unit_test(a_large_handshake_goes_out_in_pieces),
        cmocka_unit_test(a_large_certificate_of_the_client),
        cmocka_unit_test(an_end_is_clean_only_if_it_was_said),
        cmocka_unit_test(an_end_behind_bytes_is_told),
        cmocka_unit_test(a_connection_that_waits_is_quiet),
        cmocka_unit_test(sessions_are_resumed_once_each),
        cmocka_unit_test(nothing_is_sealed_before_the_handshake_is_over),
        cmocka_unit_test(contexts_stay_where_nothing_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
