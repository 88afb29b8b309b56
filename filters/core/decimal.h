#ifndef WEIR_FILTERS_CORE_DECIMAL_H
#define WEIR_FILTERS_CORE_DECIMAL_H

/* Numbers as decimal digits, where printf is too slow. */

#include <stdint.h>

enum { WEIR_DECIMAL_DIGITS_MAX = 20 };

/* Returns what follows the digits. */
static inline char *weir_decimal_write(char *text, uint64_t value)
{
    unsigned count = 1;
    for (uint64_t rest = value / 10; rest != 0; rest /= 10)
        ++count;
    for (unsigned i = count; i-- != 0; value /= 10)
        text[i] = (char)('0' + value % 10);
    return text + count;
}

#endif
