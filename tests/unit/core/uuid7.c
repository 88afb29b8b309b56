/* New ids are UUIDs of version 7, and later ones are greater. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "../../../filters/core/uuid7.h"

static const char *make(int64_t unix_ms, uint64_t high, uint64_t low)
{
    static char text[WEIR_UUID7_LENGTH + 1];
    memset(text, '!', sizeof(text));
    weir_uuid7_write(text, unix_ms, (uint64_t[]){high, low});
    assert_int_equal(text[WEIR_UUID7_LENGTH], '!');
    text[WEIR_UUID7_LENGTH] = '\0';
    return text;
}

static void test_known_values(void **state)
{
    static const struct {
        int64_t unix_ms;
        uint64_t random[2];
        const char *text;
    } table[] = {
        {1645557742000, {0xcc3, 0x18c4dc0c0c07398f}, "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"}, /* RFC 9562, A.6 */
        {0, {0, 0}, "00000000-0000-7000-8000-000000000000"},
        {0, {UINT64_MAX, UINT64_MAX}, "00000000-0000-7fff-bfff-ffffffffffff"},
        {0xffffffffffff, {0, 0}, "ffffffff-ffff-7000-8000-000000000000"},
        {1, {1, 1}, "00000000-0001-7001-8000-000000000001"},
        {0x10000, {0, (uint64_t)1 << 48}, "00000001-0000-7000-8001-000000000000"},
        /* a clock that is wrong still gives a UUID */
        {-1, {0, 0}, "ffffffff-ffff-7000-8000-000000000000"},
        {INT64_MIN, {0, 0}, "00000000-0000-7000-8000-000000000000"},
        {INT64_MAX, {0, 0}, "ffffffff-ffff-7000-8000-000000000000"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        assert_string_equal(make(table[i].unix_ms, table[i].random[0], table[i].random[1]), table[i].text);
}

static void test_every_bit_of_randomness_counts_where_it_may(void **state)
{
    char none[WEIR_UUID7_LENGTH + 1];
    strcpy(none, make(0, 0, 0));
    for (unsigned bit = 0; bit < 64; ++bit) {
        assert_int_equal(strcmp(none, make(0, (uint64_t)1 << bit, 0)) != 0, bit < 12);
        assert_int_equal(strcmp(none, make(0, 0, (uint64_t)1 << bit)) != 0, bit < 62);
    }
}

static void test_later_ids_are_greater(void **state)
{
    static const int64_t steps[] = {1, 2, 15, 255, 65535, 65536, 1 << 20, 1 << 30};
    char earlier[WEIR_UUID7_LENGTH + 1];
    int64_t ms = 1700000000000;
    for (size_t i = 0; i < 1000; ++i) {
        strcpy(earlier, make(ms, UINT64_MAX, UINT64_MAX));
        ms += steps[i % (sizeof(steps) / sizeof(*steps))];
        assert_true(strcmp(earlier, make(ms, 0, 0)) < 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_every_bit_of_randomness_counts_where_it_may),
        cmocka_unit_test(test_later_ids_are_greater),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
