#include "fields.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

const weir_field_t *weir_request_find(const weir_request_t *request, weir_str_t name, size_t *index)
{
    for (; *index < request->field_count; ++*index)
        if (weir_fields_equal(*request->fields[*index].name, name))
            return &request->fields[*index];
    return NULL;
}

void weir_request_up(weir_request_t *request, weir_str_t name, weir_str_t value, unsigned forward)
{
    assert(request->up_field_count < WEIR_UP_FIELDS_MAX);
    request->up_fields[request->up_field_count++] = (weir_up_field_t){name, value, forward};
}

weir_fields_seen_t weir_fields_see(const weir_request_t *request, weir_str_t name)
{
    weir_fields_seen_t seen = {.count = 0};
    const weir_field_t *field;
    for (size_t i = 0; (field = weir_request_find(request, name, &i)) != NULL; ++i)
        if (seen.count++ == 0)
            seen.value = field->value;
    return seen;
}

void weir_fields_drop(weir_request_t *request, weir_str_t name)
{
    for (size_t i = 0; weir_request_find(request, name, &i) != NULL; ++i)
        weir_request_drop(request, i);
}

weir_str_t weir_fields_text(const char *text)
{
    return text != NULL ? (weir_str_t){text, strlen(text)} : (weir_str_t){"", 0};
}

static char lower(char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (char)(byte - 'A' + 'a') : byte;
}

weir_str_t weir_fields_lower(const char *name)
{
    size_t len = strlen(name);
    char *copy = malloc(len + 1);
    assert(copy != NULL);
    for (size_t i = 0; i <= len; ++i)
        copy[i] = lower(name[i]);
    return (weir_str_t){copy, len};
}

bool weir_fields_equal(weir_str_t a, weir_str_t b)
{
    return a.len == b.len && memcmp(a.base, b.base, a.len) == 0;
}

bool weir_fields_is_made_of(weir_str_t value, const char *others)
{
    size_t count = strlen(others);
    for (size_t i = 0; i < value.len; ++i) {
        char byte = lower(value.base[i]);
        if (!(byte >= 'a' && byte <= 'z') && !(byte >= '0' && byte <= '9') && memchr(others, byte, count) == NULL)
            return false;
    }
    return true;
}

bool weir_fields_is_type(weir_str_t value, const char *type)
{
    size_t len = strlen(type);
    if (value.len < len || (value.len > len && strchr("; \t", value.base[len]) == NULL))
        return false;
    for (size_t i = 0; i < len; ++i)
        if (lower(value.base[i]) != type[i])
            return false;
    return true;
}
