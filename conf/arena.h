#ifndef WEIR_CONF_ARENA_H
#define WEIR_CONF_ARENA_H

/* Memory that is freed all at once. Every piece is zeroed and aligned for any type. Not thread-safe. Out of memory
 * aborts: what is allocated here is bounded by the size of the files that are read. */

#include <stdarg.h>
#include <stddef.h>

typedef struct weir_conf_arena weir_conf_arena_t;

weir_conf_arena_t *weir_conf_arena_create(void);
void weir_conf_arena_destroy(weir_conf_arena_t *arena);
void *weir_conf_arena_alloc(weir_conf_arena_t *arena, size_t size);
char *weir_conf_arena_copy(weir_conf_arena_t *arena, const char *text, size_t len); /* NUL-terminated */
char *weir_conf_arena_printf(weir_conf_arena_t *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
char *weir_conf_arena_vprintf(weir_conf_arena_t *arena, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
size_t weir_conf_arena_bytes(const weir_conf_arena_t *arena); /* taken from the system */

#endif
