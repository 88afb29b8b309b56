#ifndef WEIR_FILTERS_DEDUP_KEY_H
#define WEIR_FILTERS_DEDUP_KEY_H

/* By what a request is known again: the first of a dedup's keys that is present. */

#include "store.h"

typedef enum {
    WEIR_DEDUP_KEY_ABSENT,
    WEIR_DEDUP_KEY_FOUND,
    WEIR_DEDUP_KEY_BAD,        /* empty, longer than 255 bytes, with control bytes, there twice */
    WEIR_DEDUP_KEY_NEEDS_BODY, /* it may stand in the body, which was not read */
} weir_dedup_key_told_t;

enum { WEIR_DEDUP_KEY_PARTS_MAX = 1 + 2 * (1 + 255) };

/* The headers of a dedup's keys, in lower case. */
typedef struct {
    const weir_conf_dedup_t *conf;
    weir_str_t *headers; /* of each key; base NULL: it is not in a header */
} weir_dedup_keys_t;

void weir_dedup_keys_init(weir_dedup_keys_t *keys, const weir_conf_dedup_t *conf);
void weir_dedup_keys_dispose(weir_dedup_keys_t *keys);

typedef struct {
    weir_conf_dedup_key_kind_t kind; /* of the key that was found, or is bad */
    weir_str_t header;               /* where it was found; base NULL: elsewhere */
    weir_str_t name;                 /* the header's or the pointer; of others, empty */
    char parts[WEIR_DEDUP_KEY_PARTS_MAX]; /* the kind and the values, each with its length before it */
    size_t len;
} weir_dedup_key_t;

weir_dedup_key_told_t weir_dedup_key_find(const weir_dedup_keys_t *keys, const weir_store_t *store,
                                          const weir_request_t *request, weir_dedup_key_t *key);

/* By a value that is told, such as in an operator's question, as if it stood where keys->conf->key[index] is found; a
 * CloudEvent's as source and id with a space between. False: it cannot be one of those; no text is a fingerprint. */
bool weir_dedup_key_of_text(const weir_dedup_keys_t *keys, size_t index, weir_str_t text, weir_dedup_key_t *key);

/* Of the request: method, target, body; never 0. */
uint64_t weir_dedup_fingerprint(const weir_store_t *store, const weir_request_t *request);

#endif
