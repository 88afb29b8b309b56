#ifndef WEIR_CONF_TEXT_H
#define WEIR_CONF_TEXT_H

/* What must hold of a text before it is read as YAML: UTF-8 without control characters (RFC 3629), and not so many open
 * brackets that the YAML library would take hundreds of bytes for each. */

#include <stdbool.h>
#include <stddef.h>
#include "errors.h"

bool weir_conf_text_is_utf8(const char *text, size_t len);

/* False after an error. */
bool weir_conf_text_check(const char *file, const char *text, size_t len, weir_conf_errors_t *errors);

#endif
