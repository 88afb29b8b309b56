/* Certificates and keys that a configuration names: those of these files, made here. */

#include "loaded.h"
#include <openssl/pem.h>
#include <openssl/x509.h>

static EVP_PKEY *keys[2];
static folder_t *folder;

static void write_certificate(const char *name, EVP_PKEY *key, int count)
{
    char path[64];
    snprintf(path, sizeof(path), "%s/%s", folder->path, name);
    folder_write(folder, name, "");
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    for (; count > 0; --count) {
        X509 *certificate = X509_new();
        assert_non_null(certificate);
        X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
        X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
        assert_int_equal(X509_set_pubkey(certificate, key), 1);
        assert_true(X509_sign(certificate, key, EVP_sha256()) > 0);
        assert_int_equal(PEM_write_X509(out, certificate), 1);
        X509_free(certificate);
    }
    assert_int_equal(fclose(out), 0);
}

static void write_key(const char *name, EVP_PKEY *key, const char *passphrase)
{
    char path[64];
    snprintf(path, sizeof(path), "%s/%s", folder->path, name);
    folder_write(folder, name, "");
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(PEM_write_PKCS8PrivateKey(out, key, passphrase != NULL ? EVP_aes_128_cbc() : NULL, NULL, 0, NULL,
                                               (void *)passphrase),
                     1);
    assert_int_equal(fclose(out), 0);
}

static int make_files(void **state)
{
    folder = folder_create();
    for (size_t i = 0; i < 2; ++i)
        assert_non_null(keys[i] = EVP_EC_gen("P-256"));
    write_certificate("a.pem", keys[0], 1);
    write_certificate("chain.pem", keys[1], 3);
    write_key("a.key", keys[0], NULL);
    write_key("chain.key", keys[1], NULL);
    write_key("locked.key", keys[0], "word");
    folder_write(folder, "text", "no PEM\n");
    folder_write(folder, "broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    folder_write(folder, "nothing", "");
    return 0;
}

static int remove_files(void **state)
{
    folder_destroy(folder);
    EVP_PKEY_free(keys[0]);
    EVP_PKEY_free(keys[1]);
    return 0;
}

static void write_listener(char text[512], const char *cert, const char *key)
{
    snprintf(text, 512, "version: 1\nlisteners: {l: {address: 1.1.1.1:1, tls: {cert: %s, key: %s}}}\n", cert, key);
}

static bool watches(const weir_conf_t *conf, const char *name)
{
    char path[64];
    snprintf(path, sizeof(path), "%s/%s", folder->path, name);
    for (size_t i = 0; i < conf->files.size; ++i)
        if (strcmp(conf->files.entries[i], path) == 0)
            return true;
    return false;
}

static void test_pairs(void **state)
{
    static const struct {
        const char *cert, *key, *error; /* NULL: it is right */
    } rows[] = {
        {"a.pem", "a.key", NULL},
        {"chain.pem", "chain.key", NULL},
        {"chain.pem", "a.key",
         ".tls.key: the file '%s/a.key' does not fit: it is the key of another "
         "certificate; write the path of the key of '%s/chain.pem'\n"},
        {"a.pem", "locked.key", ".tls.key: the file '%s/locked.key' cannot be used: its key has a passphrase; "},
        {"a.pem", "a.pem", ".tls.key: the file '%s/a.pem' cannot be used: it has no private key; "},
        {"a.pem", "nowhere", ".tls.key: the file '%s/nowhere' cannot be read: No such file or directory; "},
        {"a.key", "a.key", ".tls.cert: the file '%s/a.key' cannot be used: it has no certificate; "},
        {"text", "a.key", ".tls.cert: the file '%s/text' cannot be used: it has no certificate; "},
        {"nothing", "a.key", ".tls.cert: the file '%s/nothing' cannot be used: it has no certificate; "},
        {"broken.pem", "a.key",
         ".tls.cert: the file '%s/broken.pem' cannot be used: a certificate in it is "
         "broken; "},
        {"/dev/zero", "a.key", ".tls.cert: the file '/dev/zero' cannot be read: it is not a regular file; "}};
    char file[64], text[512], wanted[512];
    snprintf(file, sizeof(file), "%s/w.yaml", folder->path);
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        write_listener(text, rows[i].cert, rows[i].key);
        if (rows[i].error == NULL) {
            weir_conf_t *conf = load_right(file, text);
            assert_true(watches(conf, rows[i].cert) && watches(conf, rows[i].key));
            snprintf(wanted, sizeof(wanted), "%s/%s", folder->path, rows[i].cert);
            assert_string_equal(conf->listeners.entries[0].tls.cert, wanted);
            weir_conf_release(conf);
            continue;
        }
        snprintf(wanted, sizeof(wanted), rows[i].error, folder->path, folder->path);
        char *errors = load_wrong(file, text);
        if (strstr(errors, wanted) == NULL || strchr(errors, '\n')[1] != '\0')
            fail_msg("%sin place of %s", errors, wanted);
        free(errors);
    }
}

static void test_authorities(void **state)
{
    char file[64], text[512];
    snprintf(file, sizeof(file), "%s/w.yaml", folder->path);
    snprintf(text, sizeof(text),
             "version: 1\nupstreams: {u: {url: https://u, tls: {ca: %s/chain.pem}}, v: {url: https://v, tls: {ca: "
             "system, cert: a.pem, key: a.key}}}\nlisteners: {l: {address: 1.1.1.1:1, tls: {cert: a.pem, key: a.key, "
             "client_ca: chain.pem}}}\n",
             folder->path);
    weir_conf_t *conf = load_right(file, text);
    assert_true(watches(conf, "chain.pem"));
    assert_string_equal(conf->upstreams.entries[0].tls.ca, conf->listeners.entries[0].tls.client_ca);
    assert_null(conf->upstreams.entries[1].tls.ca);
    char *once = printed(conf);
    weir_conf_t *again = load_right("elsewhere.yaml", once);
    assert_string_equal(again->upstreams.entries[1].tls.key, conf->upstreams.entries[1].tls.key);
    free(once);
    weir_conf_release(conf);
    weir_conf_release(again);
}

static uint64_t no_table(const weir_conf_limit_t *limit)
{
    return 0;
}

static char *memory_of(const char *listener, const char *upstream)
{
    static const weir_conf_costs_t costs = {.limit_table = no_table,
                                            .tls_process = 1 << 24,
                                            .tls_connection = 1000,
                                            .tls_records = 2000,
                                            .tls_asked = 5000,
                                            .tls_peer = 1 << 20,
                                            .tls_context = 1 << 21,
                                            .tls_sessions = 1 << 22,
                                            .tls_system = 1 << 23};
    char file[64], text[512], *printed = NULL;
    size_t len;
    snprintf(file, sizeof(file), "%s/w.yaml", folder->path);
    snprintf(text, sizeof(text),
             "version: 1\nserver: {workers: 2, max_connections: 100}\n"
             "upstreams: {u: {url: https://u, connections: {max: 4, idle: 4}, tls: {%s}}}\n"
             "listeners: {l: {address: 1.1.1.1:1, tls: {%s}}}\n",
             upstream, listener);
    weir_conf_t *conf = load_right(file, text);
    FILE *out = open_memstream(&printed, &len);
    weir_conf_print_memory(conf, &costs, out);
    assert_int_equal(fclose(out), 0);
    weir_conf_release(conf);
    return printed;
}

static bool has_line(const char *text, const char *what, const char *idle, const char *worst)
{
    char line[128];
    snprintf(line, sizeof(line), "%-56s %12s %12s\n", what, idle, worst);
    return strstr(text, line) != NULL;
}

static void test_memory(void **state)
{
    char *plain = memory_of("", "verify: false");
    assert_null(strstr(plain, "listeners, TLS"));
    assert_null(strstr(plain, "TLS with each caller"));
    assert_null(strstr(plain, "system"));
    assert_true(has_line(plain, "OpenSSL", "16.0 MiB", "16.0 MiB"));
    assert_true(has_line(plain, "upstreams.u, TLS", "2.0 MiB", "24.1 MiB"));
    char *tls = memory_of("cert: a.pem, key: a.key", "");
    assert_true(has_line(tls, "listeners, TLS", "2.1 MiB", "4.1 MiB"));
    assert_true(has_line(tls, "TLS with each caller", "0 B", "293.0 KiB"));
    assert_true(has_line(tls, "the system's authorities", "8.0 MiB", "16.0 MiB"));
    char *asking = memory_of("cert: a.pem, key: a.key, client_ca: a.pem", "ca: a.pem");
    assert_true(has_line(asking, "TLS with each caller", "0 B", "586.0 KiB"));
    assert_null(strstr(asking, "system"));
    free(plain);
    free(tls);
    free(asking);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_authorities),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
