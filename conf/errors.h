#ifndef WEIR_CONF_ERRORS_H
#define WEIR_CONF_ERRORS_H

/* Everything that is wrong with a configuration, in the order of the files' lines. The first WEIR_CONF_ERRORS_MAX are
 * kept, the others counted. */

#include <stdbool.h>
#include <stddef.h>
#include "arena.h"

enum { WEIR_CONF_ERRORS_MAX = 100 };

typedef struct {
    const char *file;
    unsigned line, column; /* from 1 */
} weir_conf_place_t;

typedef struct {
    weir_conf_place_t place;
    const char *text; /* "path: what is wrong; what would be right" */
} weir_conf_error_t;

typedef struct {
    weir_conf_arena_t *arena; /* where texts live */
    weir_conf_error_t entries[WEIR_CONF_ERRORS_MAX];
    size_t size;
    size_t count; /* with those not kept */
} weir_conf_errors_t;

/* An error at `place`; `path` is empty where it is about no field. The same one again is not counted twice. */
void weir_conf_errors_add(weir_conf_errors_t *errors, weir_conf_place_t place, const char *path, const char *format,
                          ...) __attribute__((format(printf, 4, 5)));
void weir_conf_errors_vadd(weir_conf_errors_t *errors, weir_conf_place_t place, const char *path, const char *format,
                           va_list args) __attribute__((format(printf, 4, 0)));

/* Whether one was told at `place`. */
bool weir_conf_errors_has(const weir_conf_errors_t *errors, weir_conf_place_t place);

/* Lines of `file:line:column: ...`, malloc'ed. */
char *weir_conf_errors_text(weir_conf_errors_t *errors);

/* `text` as an error shows it: on one line, control bytes escaped, cut when it is long. */
const char *weir_conf_errors_show(weir_conf_arena_t *arena, const char *text);

#endif
