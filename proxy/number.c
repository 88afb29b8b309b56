#include "number.h"

#include "../filters/core/decimal.h"
#include "../filters/core/hex.h"

size_t weir_number_decimal(char *out, uint64_t number)
{
    return (size_t)(weir_decimal_write(out, number) - out);
}

size_t weir_number_hex(char *out, uint64_t number)
{
    unsigned digits = number != 0 ? (67 - (unsigned)__builtin_clzll(number)) / 4 : 1;
    return (size_t)(weir_hex_write(out, number, digits) - out);
}

size_t weir_number_ipv4(char *out, const uint8_t address[4])
{
    size_t len = 0;
    for (int i = 0; i < 4; ++i) {
        if (i != 0)
            out[len++] = '.';
        len += weir_number_decimal(out + len, address[i]);
    }
    return len;
}
