#ifndef WEIR_PROXY_HOP_H
#define WEIR_PROXY_HOP_H

/* Fields that end at this hop (RFC 9110 7.6.1): a fixed set, and those that Connection names. */

#include <stdbool.h>
#include "../filters/filter.h"
#include "h1_parse.h"

enum { WEIR_HOP_LISTS_MAX = WEIR_H1_FIELDS_MAX };

/* Values of the head's Connection fields. */
typedef struct {
    weir_str_t lists[WEIR_HOP_LISTS_MAX];
    size_t count;
} weir_hop_t;

void weir_hop_note(weir_hop_t *hop, weir_str_t name, weir_str_t value); /* called for every field first */
bool weir_hop_ends(const weir_hop_t *hop, weir_str_t name);

static inline bool weir_str_is(weir_str_t a, weir_str_t b)
{
    return a.len == b.len && __builtin_memcmp(a.base, b.base, a.len) == 0;
}
#define WEIR_STR(literal) ((weir_str_t){(literal), sizeof(literal) - 1})

#endif
