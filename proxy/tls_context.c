#include "tls_parts.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a context is made of; paths and names are NULL where there is none. */
typedef struct {
    bool is_server;
    const char *who; /* "upstreams.NAME" */
    const char *ca, *cert, *key;
    const char *server_name; /* the one that is checked; a numeric address too; NULL: see weir_tls_context_toward */
    bool is_http;            /* which is said (ALPN) */
    bool verify;
    X509_STORE **system; /* the system's authorities, which all share; NULL until one needs them */
} wanted_t;

struct weir_tls_set {
    weir_tls_context_t **upstreams, **listeners;
    size_t upstream_count, listener_count;
};

static const unsigned char protocols[] = "\x08http/1.1";

/* --- sessions --- */

void weir_tls_sessions_put(weir_tls_sessions_t *sessions, SSL_SESSION *session)
{
    if (sessions->size == WEIR_TLS_SESSIONS_MAX) {
        SSL_SESSION_free(sessions->entries[0]);
        --sessions->size;
        memmove(sessions->entries, sessions->entries + 1, sessions->size * sizeof(sessions->entries[0]));
    }
    sessions->entries[sessions->size++] = session;
}

/* One of TLS 1.3 is used once, so that nobody can tell by it that two connections are one client's (RFC 8446 C.4). */
SSL_SESSION *weir_tls_sessions_take(weir_tls_sessions_t *sessions)
{
    while (sessions->size != 0) {
        SSL_SESSION *session = sessions->entries[sessions->size - 1];
        if (SSL_SESSION_is_resumable(session) && SSL_SESSION_get_protocol_version(session) < TLS1_3_VERSION) {
            SSL_SESSION_up_ref(session);
            return session;
        }
        --sessions->size;
        if (SSL_SESSION_is_resumable(session))
            return session;
        SSL_SESSION_free(session);
    }
    return NULL;
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    weir_tls_t *tls = SSL_get_app_data(ssl);
    const unsigned char *ticket;
    size_t ticket_bytes;
    SSL_SESSION_get0_ticket(session, &ticket, &ticket_bytes);
    if (ticket_bytes > WEIR_TLS_TICKET_BYTES_MAX)
        return 0;
    weir_tls_sessions_put(&tls->context->sessions[tls->worker], session);
    return 1;
}

/* --- errors: lines --- */

static void add_error(char **errors, const wanted_t *wanted, const char *key, const char *file)
{
    char *all = NULL;
    const char *why = ERR_reason_error_string(ERR_peek_error());
    int len = asprintf(&all, "%s%s.tls.%s: %s: %s\n", *errors != NULL ? *errors : "", wanted->who, key, file,
                       why != NULL ? why : "cannot be used");
    if (len < 0)
        return;
    free(*errors);
    *errors = all;
}

/* --- the fingerprint: all that a context is made of --- */

static void digest_text(EVP_MD_CTX *digest, const char *text)
{
    EVP_DigestUpdate(digest, text != NULL ? "1" : "0", 1);
    if (text != NULL)
        EVP_DigestUpdate(digest, text, strlen(text) + 1);
}

static void digest_file(EVP_MD_CTX *digest, const char *path)
{
    char bytes[4096];
    size_t len;
    digest_text(digest, path);
    FILE *file = path != NULL ? fopen(path, "re") : NULL;
    if (file == NULL)
        return;
    while ((len = fread(bytes, 1, sizeof(bytes), file)) != 0)
        EVP_DigestUpdate(digest, bytes, len);
    fclose(file);
}

static void take_fingerprint(const wanted_t *wanted, uint8_t fingerprint[32])
{
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    if (digest == NULL || !EVP_DigestInit_ex(digest, EVP_sha256(), NULL))
        h2o_fatal("no memory");
    digest_text(digest, wanted->who);
    digest_text(digest, wanted->server_name);
    digest_text(digest, wanted->verify ? "verify" : "");
    digest_file(digest, wanted->ca);
    digest_file(digest, wanted->cert);
    digest_file(digest, wanted->key);
    EVP_DigestFinal_ex(digest, fingerprint, NULL);
    EVP_MD_CTX_free(digest);
}

/* --- what client and server share --- */

/* Else OpenSSL asks the terminal. */
static int no_passphrase(char *into, int capacity, int writing, void *data)
{
    return 0;
}

static bool load_certificate(SSL_CTX *ctx, const wanted_t *wanted, char **errors)
{
    if (wanted->cert == NULL)
        return true;
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(ctx, wanted->cert) != 1) {
        add_error(errors, wanted, "cert", wanted->cert);
        return false;
    }
    if (SSL_CTX_use_PrivateKey_file(ctx, wanted->key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ctx) != 1) {
        add_error(errors, wanted, "key", wanted->key);
        return false;
    }
    return true;
}

/* Takes their extensions apart here, once, and not in the first handshake that meets them. */
static void prepare_authorities(SSL_CTX *ctx)
{
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(SSL_CTX_get_cert_store(ctx));
    for (int i = 0; i < sk_X509_OBJECT_num(objects); ++i) {
        X509 *certificate = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));
        if (certificate != NULL)
            (void)X509_check_purpose(certificate, -1, 0);
    }
}

static bool load_authorities(SSL_CTX *ctx, const wanted_t *wanted, const char *key, char **errors)
{
    ERR_clear_error();
    if (SSL_CTX_load_verify_file(ctx, wanted->ca) == 1) {
        /* One that is itself signed by another is believed as well: it was named. */
        X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN);
        prepare_authorities(ctx);
        return true;
    }
    add_error(errors, wanted, key, wanted->ca);
    return false;
}

static void set_common(SSL_CTX *ctx)
{
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
}

/* --- toward upstreams --- */

static bool is_numeric(const char *name)
{
    struct in6_addr address;
    return inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1;
}

/* The name without the dot that may end it; malloc'ed. */
static char *plain_name(const char *name)
{
    size_t len = strlen(name);
    return h2o_strdup(NULL, name, len > 1 && name[len - 1] == '.' ? len - 1 : len).base;
}

/* Names are looked for where RFC 9525 has them, in subjectAltName only. */
static void check_name(X509_VERIFY_PARAM *parameters, const char *name)
{
    X509_VERIFY_PARAM_set_hostflags(parameters,
                                    X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
    int set = is_numeric(name) ? X509_VERIFY_PARAM_set1_ip_asc(parameters, name)
                               : X509_VERIFY_PARAM_set1_host(parameters, name, 0);
    if (set != 1)
        h2o_fatal("no memory");
}

/* Takes over the name. Numeric ones are not sent (RFC 6066 3). */
static char *sni_of(char *name)
{
    if (!is_numeric(name))
        return name;
    free(name);
    return NULL;
}

/* They are nearly 1 MB where they are one file. */
static void use_system_authorities(SSL_CTX *ctx, X509_STORE **system)
{
    if (*system == NULL) {
        (void)SSL_CTX_set_default_verify_paths(ctx); /* those in a directory are read when a chain first leads there */
        *system = SSL_CTX_get_cert_store(ctx);
        X509_STORE_up_ref(*system);
    } else {
        SSL_CTX_set1_cert_store(ctx, *system);
    }
}

static bool set_up_client(weir_tls_context_t *context, const wanted_t *wanted, char **errors)
{
    SSL_CTX *ctx = context->ctx;
    if (wanted->server_name != NULL) {
        char *name = plain_name(wanted->server_name);
        check_name(SSL_CTX_get0_param(ctx), name);
        context->sni = sni_of(name);
    }
    context->is_nameless = wanted->server_name == NULL;
    SSL_CTX_set_verify(ctx, wanted->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    if (wanted->is_http)
        SSL_CTX_set_alpn_protos(ctx, protocols, sizeof(protocols) - 1);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(ctx, keep_session);
    if (wanted->verify && wanted->ca == NULL)
        use_system_authorities(ctx, wanted->system);
    else if (wanted->verify && !load_authorities(ctx, wanted, "ca", errors))
        return false;
    return load_certificate(ctx, wanted, errors);
}

/* --- toward callers --- */

static int select_protocol(SSL *ssl, const unsigned char **chosen, unsigned char *len, const unsigned char *offered,
                           unsigned int offered_len, void *argument)
{
    unsigned char *found;
    if (SSL_select_next_proto(&found, len, protocols, sizeof(protocols) - 1, offered, offered_len) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *chosen = found;
    return SSL_TLSEXT_ERR_OK;
}

static bool require_certificates(SSL_CTX *ctx, const wanted_t *wanted, char **errors)
{
    if (!load_authorities(ctx, wanted, "client_ca", errors))
        return false;
    SSL_CTX_set_client_CA_list(ctx, SSL_load_client_CA_file(wanted->ca));
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return true;
}

/* A session of one listener is none of another: each may ask for other certificates. Tickets hold them, so that they
 * cost no memory here. */
static bool set_up_server(weir_tls_context_t *context, const wanted_t *wanted, char **errors)
{
    SSL_CTX *ctx = context->ctx;
    SSL_CTX_set_session_id_context(ctx, context->fingerprint, sizeof(context->fingerprint));
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_alpn_select_cb(ctx, select_protocol, NULL);
    if (wanted->ca != NULL && !require_certificates(ctx, wanted, errors))
        return false;
    return load_certificate(ctx, wanted, errors);
}

/* --- contexts --- */

static weir_tls_context_t *create_context(const wanted_t *wanted, const uint8_t fingerprint[32], size_t worker_count,
                                          char **errors)
{
    size_t size = sizeof(weir_tls_context_t) + worker_count * sizeof(weir_tls_sessions_t);
    weir_tls_context_t *context = h2o_mem_alloc(size);
    memset(context, 0, size);
    context->references = 1;
    context->worker_count = worker_count;
    memcpy(context->fingerprint, fingerprint, sizeof(context->fingerprint));
    context->method = weir_tls_create_method();
    context->ctx = SSL_CTX_new(wanted->is_server ? TLS_server_method() : TLS_client_method());
    if (context->ctx == NULL)
        h2o_fatal("no memory");
    set_common(context->ctx);
    if (wanted->is_server ? set_up_server(context, wanted, errors) : set_up_client(context, wanted, errors))
        return context;
    weir_tls_context_release(context);
    return NULL;
}

void weir_tls_context_release(weir_tls_context_t *context)
{
    if (atomic_fetch_sub(&context->references, 1) != 1)
        return;
    for (size_t i = 0; i < context->worker_count; ++i)
        for (size_t j = 0; j < context->sessions[i].size; ++j)
            SSL_SESSION_free(context->sessions[i].entries[j]);
    SSL_CTX_free(context->ctx);
    BIO_meth_free(context->method);
    free(context->sni);
    free(context->checked);
    free(context);
}

static weir_tls_context_t *find_context(weir_tls_context_t *const *contexts, size_t count,
                                        const uint8_t fingerprint[32])
{
    for (size_t i = 0; i < count; ++i)
        if (contexts[i] != NULL && memcmp(contexts[i]->fingerprint, fingerprint, sizeof(contexts[i]->fingerprint)) == 0)
            return contexts[i];
    return NULL;
}

static weir_tls_context_t *take_context(const wanted_t *wanted, const weir_tls_set_t *former, size_t worker_count,
                                        char **errors)
{
    uint8_t fingerprint[32];
    weir_tls_context_t *context = NULL;
    take_fingerprint(wanted, fingerprint);
    if (former != NULL && wanted->is_server)
        context = find_context(former->listeners, former->listener_count, fingerprint);
    else if (former != NULL)
        context = find_context(former->upstreams, former->upstream_count, fingerprint);
    if (context == NULL)
        return create_context(wanted, fingerprint, worker_count, errors);
    atomic_fetch_add(&context->references, 1);
    return context;
}

/* --- toward the store's servers --- */

weir_tls_context_t *weir_tls_context_of_redis(const weir_conf_store_redis_t *conf, size_t worker_count, char **errors)
{
    static const uint8_t no_fingerprint[32];
    X509_STORE *system = NULL;
    wanted_t wanted = {.who = "store.redis",
                       .ca = conf->tls.ca,
                       .cert = conf->tls.cert,
                       .key = conf->tls.key,
                       .server_name = conf->tls.server_name,
                       .verify = true,
                       .system = &system};
    weir_tls_context_t *context = create_context(&wanted, no_fingerprint, worker_count, errors);
    X509_STORE_free(system);
    return context;
}

weir_tls_context_t *weir_tls_context_toward(weir_tls_context_t *context, const char *host)
{
    if (!context->is_nameless) {
        atomic_fetch_add(&context->references, 1);
        return context;
    }
    size_t size = sizeof(*context) + context->worker_count * sizeof(weir_tls_sessions_t);
    weir_tls_context_t *named = h2o_mem_alloc(size);
    memset(named, 0, size);
    named->references = 1;
    named->worker_count = context->worker_count;
    named->method = weir_tls_create_method();
    named->ctx = context->ctx;
    SSL_CTX_up_ref(named->ctx);
    named->checked = plain_name(host);
    named->sni = sni_of(plain_name(host));
    return named;
}

void weir_tls_check_name(weir_tls_t *tls)
{
    assert(!tls->context->is_nameless);
    if (tls->context->checked != NULL)
        check_name(SSL_get0_param(tls->ssl), tls->context->checked);
}

/* --- a configuration's --- */

static weir_tls_context_t *take_upstream(const weir_conf_upstream_t *conf, const weir_tls_set_t *former,
                                         size_t worker_count, X509_STORE **system, char **errors)
{
    char who[80];
    if (!conf->url.is_tls)
        return NULL;
    snprintf(who, sizeof(who), "upstreams.%s", conf->name);
    return take_context(
        &(wanted_t){.who = who,
                    .ca = conf->tls.ca,
                    .cert = conf->tls.cert,
                    .key = conf->tls.key,
                    .server_name = conf->tls.server_name != NULL ? conf->tls.server_name : conf->url.host,
                    .is_http = true,
                    .verify = conf->tls.verify,
                    .system = system},
        former, worker_count, errors);
}

static weir_tls_context_t *take_listener(const weir_conf_listener_t *conf, const weir_tls_set_t *former, char **errors)
{
    char who[80];
    if (conf->tls.cert == NULL)
        return NULL;
    snprintf(who, sizeof(who), "listeners.%s", conf->name);
    return take_context(
        &(wanted_t){
            .is_server = true, .who = who, .ca = conf->tls.client_ca, .cert = conf->tls.cert, .key = conf->tls.key},
        former, 0, errors);
}

weir_tls_set_t *weir_tls_set_create(const weir_conf_t *conf, const weir_tls_set_t *former, size_t worker_count,
                                    char **errors)
{
    weir_tls_set_t *set = h2o_mem_alloc(sizeof(*set));
    *set = (weir_tls_set_t){.upstreams = h2o_mem_alloc((conf->upstreams.size + 1) * sizeof(*set->upstreams)),
                            .listeners = h2o_mem_alloc((conf->listeners.size + 1) * sizeof(*set->listeners)),
                            .upstream_count = conf->upstreams.size,
                            .listener_count = conf->listeners.size};
    X509_STORE *system = NULL;
    bool fine = true;
    for (size_t i = 0; i < conf->upstreams.size; ++i) {
        set->upstreams[i] = take_upstream(&conf->upstreams.entries[i], former, worker_count, &system, errors);
        fine = fine && (set->upstreams[i] != NULL || !conf->upstreams.entries[i].url.is_tls);
    }
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        set->listeners[i] = take_listener(&conf->listeners.entries[i], former, errors);
        fine = fine && (set->listeners[i] != NULL || conf->listeners.entries[i].tls.cert == NULL);
    }
    X509_STORE_free(system);
    if (fine)
        return set;
    weir_tls_set_destroy(set);
    return NULL;
}

static void release_all(weir_tls_context_t **contexts, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (contexts[i] != NULL)
            weir_tls_context_release(contexts[i]);
    free(contexts);
}

void weir_tls_set_destroy(weir_tls_set_t *set)
{
    release_all(set->upstreams, set->upstream_count);
    release_all(set->listeners, set->listener_count);
    free(set);
}

weir_tls_context_t *weir_tls_of_upstream(const weir_tls_set_t *set, size_t upstream)
{
    return set->upstreams[upstream];
}

weir_tls_context_t *weir_tls_of_listener(const weir_tls_set_t *set, size_t listener)
{
    return set->listeners[listener];
}
