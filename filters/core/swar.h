#ifndef WEIR_FILTERS_CORE_SWAR_H
#define WEIR_FILTERS_CORE_SWAR_H

/* Eight bytes at once in one word. What is found is a bit in the first byte that is looked for, and perhaps bits in
 * bytes behind it, which mean nothing: the bits of several searches may be or-ed, and only the first one counts. */

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { WEIR_SWAR_BYTES = 8 };

static inline uint64_t weir_swar_load(const char bytes[WEIR_SWAR_BYTES])
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return le64toh(word);
}

/* Bytes below `bound`, which is at most 128. */
static inline uint64_t weir_swar_below(uint64_t word, uint8_t bound)
{
    static const uint64_t ones = UINT64_C(0x0101010101010101);
    return (word - ones * bound) & ~word & ones << 7;
}

static inline uint64_t weir_swar_equal(uint64_t word, uint8_t byte)
{
    return weir_swar_below(word ^ UINT64_C(0x0101010101010101) * byte, 1);
}

/* Where the first byte is that was found; found is not 0. */
static inline size_t weir_swar_first(uint64_t found)
{
    return (size_t)__builtin_ctzll(found) / 8;
}

#endif
