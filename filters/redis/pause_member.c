#include "pause_member.h"

#include <openssl/sha.h>
#include <string.h>
#include "../core/hex.h"

enum { DIGITS = 16 }; /* of 64 bits */

/* In an order of bytes of its own: sidecars may run on machines of several kinds. */
static uint64_t number_at(const uint8_t *bytes)
{
    uint64_t number = 0;
    for (size_t i = 0; i != sizeof(number); ++i)
        number = number << 8 | bytes[i];
    return number;
}

static void put_number(uint8_t *bytes, uint64_t number)
{
    for (size_t i = sizeof(number); i-- != 0; number >>= 8)
        bytes[i] = (uint8_t)number;
}

static void digest_of(const char *text, size_t len, uint8_t digest[SHA256_DIGEST_LENGTH])
{
    SHA256((const unsigned char *)text, len, digest);
}

uint64_t weir_pause_upstream(const char *name, const char *url)
{
    uint8_t both[2 * SHA256_DIGEST_LENGTH], digest[SHA256_DIGEST_LENGTH];
    digest_of(name, strlen(name), both);
    digest_of(url, strlen(url), both + SHA256_DIGEST_LENGTH);
    SHA256(both, sizeof(both), digest);
    uint64_t upstream = number_at(digest);
    return upstream != 0 ? upstream : 1;
}

weir_key_t weir_pause_key(uint64_t upstream, weir_str_t model, uint64_t credential)
{
    uint8_t all[SHA256_DIGEST_LENGTH + 2 * sizeof(uint64_t)], digest[SHA256_DIGEST_LENGTH];
    digest_of(model.len != 0 ? model.base : "", model.len, all);
    put_number(all + SHA256_DIGEST_LENGTH, upstream);
    put_number(all + SHA256_DIGEST_LENGTH + sizeof(upstream), credential);
    SHA256(all, sizeof(all), digest);
    return (weir_key_t){.low = number_at(digest), .high = number_at(digest + sizeof(uint64_t))};
}

void weir_pause_upstream_write(char text[WEIR_PAUSE_UPSTREAM_LEN], uint64_t upstream)
{
    weir_hex_write(text, upstream, DIGITS);
}

void weir_pause_member_write(char text[WEIR_PAUSE_MEMBER_LEN], uint64_t upstream, weir_key_t key)
{
    weir_hex_write(weir_hex_write(weir_hex_write(text, upstream, DIGITS), key.low, DIGITS), key.high, DIGITS);
}

static bool read_number(const char *text, uint64_t *number)
{
    *number = 0;
    for (size_t i = 0; i != DIGITS; ++i) {
        bool is_decimal = text[i] >= '0' && text[i] <= '9', is_letter = text[i] >= 'a' && text[i] <= 'f';
        if (!is_decimal && !is_letter)
            return false;
        *number = *number << 4 | (uint64_t)(is_decimal ? text[i] - '0' : text[i] - 'a' + 10);
    }
    return true;
}

bool weir_pause_upstream_read(weir_str_t text, uint64_t *upstream)
{
    return text.len >= WEIR_PAUSE_UPSTREAM_LEN && read_number(text.base, upstream);
}

bool weir_pause_member_read(weir_str_t text, uint64_t *upstream, weir_key_t *key)
{
    return text.len == WEIR_PAUSE_MEMBER_LEN && read_number(text.base, upstream) &&
           read_number(text.base + DIGITS, &key->low) && read_number(text.base + 2 * DIGITS, &key->high);
}
