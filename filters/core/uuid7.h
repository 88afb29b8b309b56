#ifndef WEIR_FILTERS_CORE_UUID7_H
#define WEIR_FILTERS_CORE_UUID7_H

/* UUID version 7 (RFC 9562, 5.7): 48 bits of Unix time in ms, then 74 bits of the caller's randomness.
 * Guarantee: of two ids whose times differ by a ms or more, the later one is the greater text. Pure. */

#include <stdint.h>

enum { WEIR_UUID7_LENGTH = 36 };

/* No NUL is written. */
void weir_uuid7_write(char text[WEIR_UUID7_LENGTH], int64_t unix_ms, const uint64_t random[2]);

#endif
