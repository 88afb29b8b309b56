#ifndef WEIR_CONF_PEM_H
#define WEIR_CONF_PEM_H

/* What PEM files must hold, looked at when they are named, so that a wrong one is an error with a place. What they hold
 * is read again by who uses them. Each returns NULL, or what is wrong, as static text. */

#include <stddef.h>

const char *weir_conf_pem_check_certificates(const char *text, size_t len); /* one at least */
const char *weir_conf_pem_check_key(const char *text, size_t len);          /* without a passphrase */
/* Whether the key is the first certificate's; both are right by themselves. */
const char *weir_conf_pem_check_pair(const char *cert, size_t cert_len, const char *key, size_t key_len);

#endif
