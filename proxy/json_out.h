#ifndef WEIR_PROXY_JSON_OUT_H
#define WEIR_PROXY_JSON_OUT_H

/* JSON, written: strings for the logs' fixed buffers, and whole documents into a FILE.
 *
 * Guarantee: whatever bytes come in, what goes out is valid JSON, valid UTF-8 and on one line; control characters (C0,
 * DEL, C1) are escaped, so that a terminal may show it. Bytes that are no UTF-8 (RFC 3629) become \ufffd. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Writes `text` as the inside of a JSON string: as much as fits `capacity`, never a part of an escape or character.
 * Returns the size. */
size_t weir_json_out_escape(char *out, size_t capacity, const char *text, size_t len);

/* Size of the valid UTF-8 character at the start of `text`; 0 if there is none. */
size_t weir_json_out_utf8(const char *text, size_t len);

/* A document. Members have a key, elements of arrays NULL. */
typedef struct {
    FILE *file;
    bool comma; /* something stands before in this object or array */
} weir_json_out_t;

void weir_json_out_open(weir_json_out_t *out, const char *key, char bracket);
void weir_json_out_close(weir_json_out_t *out, char bracket);
void weir_json_out_string(weir_json_out_t *out, const char *key, const char *text); /* NULL: null */
void weir_json_out_integer(weir_json_out_t *out, const char *key, int64_t value);
void weir_json_out_bool(weir_json_out_t *out, const char *key, bool value);

#endif
