#include "pem.h"
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdlib.h>

static BIO *open_text(const char *text, size_t len)
{
    BIO *bio = len <= INT_MAX ? BIO_new_mem_buf(text, (int)len) : NULL;
    if (bio == NULL)
        abort();
    ERR_clear_error();
    return bio;
}

/* Nobody is there to be asked for a passphrase. */
static int refuse_passphrase(char *buffer, int size, int is_writing, void *was_asked)
{
    *(bool *)was_asked = true;
    return -1;
}

static EVP_PKEY *read_key(const char *text, size_t len, bool *was_asked)
{
    BIO *bio = open_text(text, len);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, refuse_passphrase, was_asked);
    BIO_free(bio);
    ERR_clear_error();
    return key;
}

const char *weir_conf_pem_check_certificates(const char *text, size_t len)
{
    BIO *bio = open_text(text, len);
    X509 *certificate;
    size_t count = 0;
    for (; (certificate = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL)) != NULL; ++count)
        X509_free(certificate);
    bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    BIO_free(bio);
    ERR_clear_error();
    if (!is_end)
        return "a certificate in it is broken";
    return count > 0 ? NULL : "it has no certificate";
}

const char *weir_conf_pem_check_key(const char *text, size_t len)
{
    bool was_asked = false;
    EVP_PKEY *key = read_key(text, len, &was_asked);
    EVP_PKEY_free(key);
    if (key != NULL)
        return NULL;
    return was_asked ? "its key has a passphrase" : "it has no private key";
}

const char *weir_conf_pem_check_pair(const char *cert, size_t cert_len, const char *key, size_t key_len)
{
    bool was_asked, fits = false;
    BIO *bio = open_text(cert, cert_len);
    X509 *certificate = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
    EVP_PKEY *private_key = read_key(key, key_len, &was_asked);
    if (certificate != NULL && private_key != NULL)
        fits = X509_check_private_key(certificate, private_key) == 1;
    X509_free(certificate);
    EVP_PKEY_free(private_key);
    BIO_free(bio);
    ERR_clear_error();
    return fits ? NULL : "it is the key of another certificate";
}
