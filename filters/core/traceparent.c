#include "traceparent.h"

#include <string.h>
#include "hex.h"

enum { VERSION_LENGTH = 2, PARENT_ID_AT = 36, PARENT_ID_LENGTH = 16, FLAGS_AT = 53, FLAGS_LENGTH = 2 };

static bool is_hex(const char *text, size_t len)
{
    for (size_t i = 0; i < len; ++i)
        if (!(text[i] >= '0' && text[i] <= '9') && !(text[i] >= 'a' && text[i] <= 'f'))
            return false;
    return true;
}

static bool is_id(const char *text, size_t len)
{
    static const char zeros[] = "00000000000000000000000000000000";
    return is_hex(text, len) && memcmp(text, zeros, len) != 0;
}

bool weir_traceparent_is_valid(const char *text, size_t len)
{
    if (len < WEIR_TRACEPARENT_LENGTH || !is_hex(text, VERSION_LENGTH) || memcmp(text, "ff", VERSION_LENGTH) == 0)
        return false;
    if (len > WEIR_TRACEPARENT_LENGTH &&
        (memcmp(text, "00", VERSION_LENGTH) == 0 || text[WEIR_TRACEPARENT_LENGTH] != '-'))
        return false;
    return text[WEIR_TRACE_ID_AT - 1] == '-' && is_id(text + WEIR_TRACE_ID_AT, WEIR_TRACE_ID_LENGTH) &&
           text[PARENT_ID_AT - 1] == '-' && is_id(text + PARENT_ID_AT, PARENT_ID_LENGTH) && text[FLAGS_AT - 1] == '-' &&
           is_hex(text + FLAGS_AT, FLAGS_LENGTH);
}

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014), a bijection: what else was made of the same randomness (the
 * request's id) does not show in what is made with it. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
    x = (x ^ x >> 27) * 0x94d049bb133111eb;
    return x ^ x >> 31;
}

static uint64_t or_one(uint64_t x)
{
    return x != 0 ? x : 1;
}

void weir_traceparent_write(char text[WEIR_TRACEPARENT_LENGTH], const uint64_t random[2])
{
    static const uint64_t step = 0x9e3779b97f4a7c15;
    uint64_t high = mix(random[0] + step), low = mix(random[1] + 2 * step);
    text[0] = text[1] = '0';
    text[2] = '-';
    text = weir_hex_write(text + WEIR_TRACE_ID_AT, high, 16);
    text = weir_hex_write(text, high != 0 ? low : or_one(low), 16);
    *text++ = '-';
    text = weir_hex_write(text, or_one(mix(high ^ (low << 32 | low >> 32))), 16);
    memcpy(text, "-01", 3);
}
