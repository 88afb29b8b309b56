#include "number.h"

#include <string.h>

static size_t write_digits(char *out, uint64_t number, unsigned base)
{
    char digits[WEIR_NUMBER_BYTES_MAX];
    size_t at = sizeof(digits);
    do {
        digits[--at] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number != 0);
    memcpy(out, digits + at, sizeof(digits) - at);
    return sizeof(digits) - at;
}

size_t weir_number_decimal(char *out, uint64_t number)
{
    return write_digits(out, number, 10);
}

size_t weir_number_hex(char *out, uint64_t number)
{
    return write_digits(out, number, 16);
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
