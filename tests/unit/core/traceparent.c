/* A traceparent is valid as W3C Trace Context says; new ones are, and differ. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "../../../filters/core/traceparent.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define PARENT "00f067aa0ba902b7"

/* In memory of just its length, so that a read beyond it is seen. */
static bool is_valid_bytes(const char *text, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, text, len);
    bool is_valid = weir_traceparent_is_valid(copy, len);
    free(copy);
    return is_valid;
}

static void test_what_is_valid(void **state)
{
    static const struct {
        const char *text;
        bool is_valid;
    } table[] = {
        {"00-" TRACE "-" PARENT "-01", true},
        {"00-" TRACE "-" PARENT "-00", true},
        {"00-" TRACE "-" PARENT "-ff", true},
        {"00-" TRACE "-" PARENT "-03", true}, /* level 2: the trace id is random */
        {"00-00000000000000000000000000000001-0000000000000001-00", true},
        {"00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01", true},
        /* ids of zeros */
        {"00-00000000000000000000000000000000-" PARENT "-01", false},
        {"00-" TRACE "-0000000000000000-01", false},
        {"cc-00000000000000000000000000000000-" PARENT "-01", false},
        {"cc-" TRACE "-0000000000000000-01", false},
        /* version 00 is exactly this long */
        {"", false},
        {"0", false},
        {"00", false},
        {"00-", false},
        {"00-" TRACE, false},
        {"00-" TRACE "-" PARENT, false},
        {"00-" TRACE "-" PARENT "-", false},
        {"00-" TRACE "-" PARENT "-0", false},
        {"00-" TRACE "-" PARENT "-011", false},
        {"00-" TRACE "-" PARENT "-01-", false},
        {"00-" TRACE "-" PARENT "-01-what", false},
        {"00-" TRACE "-" PARENT "-01 ", false},
        {" 00-" TRACE "-" PARENT "-01", false},
        {"00-" TRACE "-" PARENT "-01,00-" TRACE "-" PARENT "-01", false},
        /* later versions: what 00 has, and more after a hyphen */
        {"01-" TRACE "-" PARENT "-01", true},
        {"cc-" TRACE "-" PARENT "-01", true},
        {"fe-" TRACE "-" PARENT "-01", true},
        {"cc-" TRACE "-" PARENT "-01-", true},
        {"cc-" TRACE "-" PARENT "-01-what-the-future-will-be-like", true},
        {"cc-" TRACE "-" PARENT "-01.what", false},
        {"cc-" TRACE "-" PARENT "-01x", false},
        {"cc-" TRACE "-" PARENT "-0", false},
        {"cc-" TRACE "-" PARENT, false},
        /* versions that are none */
        {"ff-" TRACE "-" PARENT "-01", false},
        {"ff-" TRACE "-" PARENT "-01-more", false},
        {"FF-" TRACE "-" PARENT "-01", false},
        {"CC-" TRACE "-" PARENT "-01", false},
        {"0x-" TRACE "-" PARENT "-01", false},
        {"g0-" TRACE "-" PARENT "-01", false},
        {"0-0" TRACE "-" PARENT "-01", false},
        {".0-" TRACE "-" PARENT "-01", false},
        /* hex is lower case */
        {"00-4BF92F3577B34DA6A3CE929D0E0E4736-" PARENT "-01", false},
        {"00-" TRACE "-00F067AA0BA902B7-01", false},
        {"00-" TRACE "-" PARENT "-0A", false},
        {"00-" TRACE "-" PARENT "-0x", false},
        /* parts of another length */
        {"00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01", false},
        {"00-" TRACE "0-0f067aa0ba902b7-01", false},
        {"00_" TRACE "_" PARENT "_01", false},
        {"00-" TRACE "_" PARENT "-01", false},
        {"00-" TRACE "-" PARENT "_01", false},
        {"00--" TRACE "-0f067aa0ba902b7-01", false},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        if (is_valid_bytes(table[i].text, strlen(table[i].text)) != table[i].is_valid)
            fail_msg("%s: not as it should be", table[i].text);
}

static void test_one_other_byte_anywhere(void **state)
{
    static const char good[] = "00-" TRACE "-" PARENT "-01", hex[] = "0123456789abcdef";
    char text[sizeof(good)];
    for (size_t at = 0; at < WEIR_TRACEPARENT_LENGTH; ++at)
        for (int byte = 0; byte < 256; ++byte) {
            strcpy(text, good);
            text[at] = (char)byte;
            bool is_hex = memchr(hex, byte, 16) != NULL; /* no one of them makes version ff or an id of zeros */
            bool is_valid = good[at] == '-' ? byte == '-' : is_hex;
            assert_int_equal(is_valid_bytes(text, WEIR_TRACEPARENT_LENGTH), is_valid);
        }
    for (size_t len = 0; len < WEIR_TRACEPARENT_LENGTH; ++len)
        assert_false(is_valid_bytes(good, len));
}

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

static int by_text(const void *a, const void *b)
{
    return memcmp(a, b, WEIR_TRACEPARENT_LENGTH);
}

static void test_new_ones(void **state)
{
    enum { COUNT = 20000 };
    char(*texts)[WEIR_TRACEPARENT_LENGTH] = malloc((size_t)COUNT * WEIR_TRACEPARENT_LENGTH);
    uint64_t seed = 1;
    for (size_t i = 0; i < COUNT; ++i) {
        /* full words, neighbours, and bits that a weak source may leave 0 */
        uint64_t random[2] = {i % 3 == 1 ? i : next(&seed), i % 3 == 2 ? i << 40 : next(&seed)};
        weir_traceparent_write(texts[i], random);
        assert_true(weir_traceparent_is_valid(texts[i], WEIR_TRACEPARENT_LENGTH));
        assert_memory_equal(texts[i], "00-", 3);
        assert_memory_equal(texts[i] + 52, "-01", 3);
    }
    for (size_t part = 0; part < 2; ++part) { /* by trace id, then by parent id */
        for (size_t i = 0; i < COUNT && part == 1; ++i)
            memmove(texts[i], texts[i] + 36, 16), memset(texts[i] + 16, ' ', WEIR_TRACEPARENT_LENGTH - 16);
        qsort(texts, COUNT, sizeof(*texts), by_text);
        for (size_t i = 1; i < COUNT; ++i)
            assert_memory_not_equal(texts[i - 1], texts[i], part == 0 ? 35 : 16);
    }
    free(texts);
}

/* The finalizer's one zero: each half of a trace id may be zeros, the ids may not. */
static void test_no_randomness_makes_an_id_of_zeros(void **state)
{
    static const uint64_t step = 0x9e3779b97f4a7c15;
    static const uint64_t table[][2] = {
        {0, 0}, {-step, 0}, {0, -(2 * step)}, {-step, -(2 * step)}, {UINT64_MAX, UINT64_MAX}};
    char text[WEIR_TRACEPARENT_LENGTH];
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_traceparent_write(text, table[i]);
        assert_true(weir_traceparent_is_valid(text, sizeof(text)));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_valid),
        cmocka_unit_test(test_one_other_byte_anywhere),
        cmocka_unit_test(test_new_ones),
        cmocka_unit_test(test_no_randomness_makes_an_id_of_zeros),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
