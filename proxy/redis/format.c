#include <string.h>
#include "../../filters/core/decimal.h"
#include "link.h"

static size_t digits_of(size_t number)
{
    char digits[WEIR_DECIMAL_DIGITS_MAX];
    return (size_t)(weir_decimal_write(digits, number) - digits);
}

static char *put_line(char *at, char kind, size_t number)
{
    *at++ = kind;
    return (char *)mempcpy(weir_decimal_write(at, number), "\r\n", 2);
}

size_t weir_redis_format_size(const weir_str_t *words, size_t count)
{
    size_t size = 1 + digits_of(count) + 2;
    for (size_t i = 0; i < count; ++i)
        size += 1 + digits_of(words[i].len) + 2 + words[i].len + 2;
    return size;
}

size_t weir_redis_format(char *into, const weir_str_t *words, size_t count)
{
    char *at = put_line(into, '*', count);
    for (size_t i = 0; i < count; ++i) {
        at = put_line(at, '$', words[i].len);
        if (words[i].len != 0)
            memcpy(at, words[i].base, words[i].len);
        memcpy(at + words[i].len, "\r\n", 2);
        at += words[i].len + 2;
    }
    return (size_t)(at - into);
}
