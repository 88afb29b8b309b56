#include "errors.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES_MAX = 80 };

static int by_place(const void *a, const void *b)
{
    const weir_conf_error_t *x = a, *y = b;
    int order = strcmp(x->place.file, y->place.file);
    if (order != 0)
        return order;
    if (x->place.line != y->place.line)
        return x->place.line < y->place.line ? -1 : 1;
    if (x->place.column != y->place.column)
        return x->place.column < y->place.column ? -1 : 1;
    return strcmp(x->text, y->text);
}

void weir_conf_errors_vadd(weir_conf_errors_t *errors, weir_conf_place_t place, const char *path, const char *format,
                           va_list args)
{
    if (errors->size == WEIR_CONF_ERRORS_MAX) {
        ++errors->count;
        return;
    }
    const char *what = weir_conf_arena_vprintf(errors->arena, format, args);
    weir_conf_error_t error = {.place = place};
    error.text = *path == '\0' ? what : weir_conf_arena_printf(errors->arena, "%s: %s", path, what);
    for (size_t i = 0; i < errors->size; ++i)
        if (by_place(&errors->entries[i], &error) == 0)
            return;
    errors->entries[errors->size++] = error;
    ++errors->count;
}

void weir_conf_errors_add(weir_conf_errors_t *errors, weir_conf_place_t place, const char *path, const char *format,
                          ...)
{
    va_list args;
    va_start(args, format);
    weir_conf_errors_vadd(errors, place, path, format, args);
    va_end(args);
}

bool weir_conf_errors_has(const weir_conf_errors_t *errors, weir_conf_place_t place)
{
    for (size_t i = 0; i < errors->size; ++i) {
        const weir_conf_place_t *other = &errors->entries[i].place;
        if (other->line == place.line && other->column == place.column && strcmp(other->file, place.file) == 0)
            return true;
    }
    return false;
}

char *weir_conf_errors_text(weir_conf_errors_t *errors)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL)
        abort();
    qsort(errors->entries, errors->size, sizeof(errors->entries[0]), by_place);
    for (size_t i = 0; i < errors->size; ++i) {
        const weir_conf_error_t *error = &errors->entries[i];
        fprintf(out, "%s:%u:%u: %s\n", error->place.file, error->place.line, error->place.column, error->text);
    }
    if (errors->count > errors->size)
        fprintf(out, "... and %zu more\n", errors->count - errors->size);
    if (fclose(out) != 0)
        abort();
    return text;
}

const char *weir_conf_errors_show(weir_conf_arena_t *arena, const char *text)
{
    size_t len = strlen(text), end = len;
    if (len > SHOWN_BYTES_MAX) {
        end = SHOWN_BYTES_MAX - 3;
        while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80) /* not within a character */
            --end;
    }
    char *shown = weir_conf_arena_alloc(arena, end * 4 + sizeof("..."));
    char *at = shown;
    for (size_t i = 0; i < end; ++i) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '\n')
            at = stpcpy(at, "\\n");
        else if (byte < 0x20 || byte == 0x7f)
            at += sprintf(at, "\\x%02x", byte);
        else
            *at++ = (char)byte;
    }
    strcpy(at, end < len ? "..." : "");
    return shown;
}
