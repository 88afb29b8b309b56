#ifndef WEIR_FILTERS_FIELDS_H
#define WEIR_FILTERS_FIELDS_H

/* What filters that go by header fields share. Pure; strings returned by _lower() are the caller's to free. */

#include "filter.h"

/* How often a field is there, and what the first one says. */
typedef struct {
    size_t count;
    weir_str_t value;
} weir_fields_seen_t;

weir_fields_seen_t weir_fields_see(const weir_request_t *request, weir_str_t name /* lower case */);
void weir_fields_drop(weir_request_t *request, weir_str_t name /* lower case */); /* all of that name */

weir_str_t weir_fields_text(const char *text);  /* NULL becomes an empty one */
weir_str_t weir_fields_lower(const char *name); /* a copy in lower case; aborts when memory is short */
bool weir_fields_equal(weir_str_t a, weir_str_t b);

/* Whether a value is made of ASCII letters, digits and `others` alone. */
bool weir_fields_is_made_of(weir_str_t value, const char *others);

/* Whether a Content-Type is of this media type (lower case), whatever its parameters. */
bool weir_fields_is_type(weir_str_t value, const char *type);

#endif
