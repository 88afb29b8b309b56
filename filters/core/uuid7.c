#include "uuid7.h"

#include "hex.h"

void weir_uuid7_write(char text[WEIR_UUID7_LENGTH], int64_t unix_ms, const uint64_t random[2])
{
    uint64_t ms = (uint64_t)unix_ms;
    text = weir_hex_write(text, ms >> 16, 8);
    *text++ = '-';
    text = weir_hex_write(text, ms, 4);
    *text++ = '-';
    *text++ = '7';
    text = weir_hex_write(text, random[0], 3);
    *text++ = '-';
    text = weir_hex_write(text, 0x8000 | (random[1] >> 48 & 0x3fff), 4); /* variant 10 */
    *text++ = '-';
    weir_hex_write(text, random[1], 12);
}
