#ifndef WEIR_FILTERS_CORE_HEX_H
#define WEIR_FILTERS_CORE_HEX_H

/* Numbers as lower-case hex digits. */

#include <stddef.h>
#include <stdint.h>

/* The lowest `count` digits of `value`, highest first; returns what follows them. */
static inline char *weir_hex_write(char *text, uint64_t value, size_t count)
{
    for (size_t i = count; i-- != 0; value >>= 4)
        text[i] = "0123456789abcdef"[value & 15];
    return text + count;
}

#endif
