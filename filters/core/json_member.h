#ifndef WEIR_FILTERS_CORE_JSON_MEMBER_H
#define WEIR_FILTERS_CORE_JSON_MEMBER_H

/* The text of one member of a JSON body, by its JSON pointer (RFC 6901). */

#include <stdbool.h>
#include <stddef.h>

enum { WEIR_JSON_MEMBER_BYTES_MAX = 255 };

typedef enum {
    WEIR_JSON_MEMBER_ABSENT, /* no such member, or null; or the body is no JSON (RFC 8259) */
    WEIR_JSON_MEMBER_TEXT,   /* of a string, decoded; of a number, as it is written */
    WEIR_JSON_MEMBER_BAD,    /* there, but no such text: empty, too long, true, an object; or there twice */
} weir_json_member_kind_t;

typedef struct {
    char text[WEIR_JSON_MEMBER_BYTES_MAX + 1]; /* NUL-terminated; a NUL in it is possible */
    size_t len;
} weir_json_member_t;

/* Whether `pointer` is one: "" or "/a/b~1c/0". */
bool weir_json_pointer_is_valid(const char *pointer);
/* A number in the pointer is an index where it meets an array, else a name. */
weir_json_member_kind_t weir_json_member_find(const char *pointer, const char *body, size_t len,
                                              weir_json_member_t *member);

#endif
