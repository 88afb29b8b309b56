#ifndef WEIR_FILTERS_CORE_CLOSEST_H
#define WEIR_FILTERS_CORE_CLOSEST_H

/* The names of keys that came close to their limit, so that a person can be told who it is; tables hold hashes only.
 *
 * Guarantee: memory is constant; noting a key that is there already costs no lock. A key has the choice of sixteen
 * places: it takes one of a key that was not seen for WEIR_CLOSEST_STALE_NS, or the one that is used up least, if the
 * newcomer is used up to more. A key that is there is wanted again every WEIR_CLOSEST_STALE_NS, for the sake of
 * `extra`. Thread-safe. */

#include <stddef.h>
#include <stdint.h>
#include "key_table.h"

#define WEIR_CLOSEST_STALE_NS INT64_C(10000000000)

enum { WEIR_CLOSEST_PLACES = 256, WEIR_CLOSEST_NAME_MAX = 192, WEIR_CLOSEST_EXTRA_BYTES = 64 };

typedef struct weir_closest weir_closest_t;

typedef struct {
    weir_key_t key;
    char name[WEIR_CLOSEST_NAME_MAX]; /* such as tenant=acme model=gpt-5, ends with a 0; cut where it is longer */
    _Alignas(8) unsigned char extra[WEIR_CLOSEST_EXTRA_BYTES]; /* the caller's, such as the key's quota */
} weir_closest_key_t;

weir_closest_t *weir_closest_create(void); /* aborts when memory is short */
void weir_closest_destroy(weir_closest_t *closest);
/* Whether weir_closest_note would change anything: ask first, then make the name. Asking counts as seeing the key. */
int weir_closest_wants(weir_closest_t *closest, weir_key_t key, unsigned used_permille, int64_t now_ns);
void weir_closest_note(weir_closest_t *closest, weir_key_t key, unsigned used_permille, int64_t now_ns,
                       const char *name, size_t len, const void *extra, size_t extra_bytes);
/* Nobody is known any more, and everybody is wanted. */
void weir_closest_forget(weir_closest_t *closest);
/* All that are known, in no order; room for WEIR_CLOSEST_PLACES. */
size_t weir_closest_list(weir_closest_t *closest, weir_closest_key_t *keys);

#endif
