/* What scripts are asked with: numbers, members, and the names of keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "../../../../filters/redis/redis_row.h"
#include "../../seeded.h"

static weir_redis_args_t args;

static void assert_arg(size_t at, const char *expected)
{
    assert_true(at < args.count);
    assert_int_equal(args.entries[at].len, strlen(expected));
    assert_memory_equal(args.entries[at].base, expected, strlen(expected));
}

static void assert_number(int64_t number)
{
    char expected[32];
    sprintf(expected, "%lld", (long long)number);
    weir_redis_args_init(&args);
    weir_redis_args_put_number(&args, number);
    assert_arg(0, expected);
}

static void test_numbers(void **state)
{
    seeded_t seeded = seeded_start("redis_row");
    static const int64_t numbers[] = {0, 1, -1, 9, 10, -10, 99, 100, INT64_MAX, INT64_MIN, INT64_MIN + 1};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); ++i)
        assert_number(numbers[i]);
    for (int i = 0; i < 10000; ++i)
        assert_number((int64_t)(seeded_next(&seeded) >> seeded_below(&seeded, 64)));
}

static void test_the_longest_arguments_have_room(void **state)
{
    weir_redis_row_t row = {.kind = 'x', .id = UINT64_MAX, .terms = {INT64_MIN, INT64_MIN, INT64_MIN}};
    weir_redis_args_init(&args);
    weir_redis_args_put_number(&args, INT64_MIN);
    for (int i = 0; i < WEIR_LIMITS_PER_ROUTE_MAX; ++i)
        weir_redis_args_put_row(&args, &row, UINT64_MAX, INT64_MIN, INT64_MIN);
    assert_arg(1, "x");
    assert_arg(args.count - 1, "ffffffffffffffff-ffffffffffffffff");
    assert_true(args.at <= args.text + sizeof(args.text));
    weir_redis_args_init(&args);
    for (size_t i = 0; i < WEIR_REDIS_ARGS_MAX; ++i)
        weir_redis_args_put_member(&args, UINT64_MAX, i);
    assert_arg(16, "ffffffffffffffff-0000000000000010");
    assert_true(args.at <= args.text + sizeof(args.text));
}

static void test_the_longest_name_has_room(void **state)
{
    char prefix[WEIR_REDIS_PREFIX_MAX], limit_name[64 + 1] = {0}, name[WEIR_REDIS_ROW_NAME_MAX];
    memset(prefix, 'p', sizeof(prefix));
    memset(limit_name, 'n', 64);
    weir_store_limit_t limit = {.name = limit_name, .algorithm = WEIR_LIMIT_SLIDING_WINDOW};
    weir_conf_quota_t quota = {.limit = 1, .window_ns = INT64_C(8760) * 3600 * 1000000000};
    weir_store_item_t item = {.limit = &limit, .quota = &quota, .key = {.low = 2, .high = 0xa}};
    size_t len = weir_redis_row_name(name, (weir_str_t){prefix, sizeof(prefix)}, &item);
    assert_memory_equal(name + sizeof(prefix), "{000000000000000a0000000000000002}:l:nnn", 40);
    assert_memory_equal(name + len - 16, ":s31536000000000", 16);
    limit.precision = WEIR_PRECISION_EXACT;
    assert_int_equal(weir_redis_row_name(name, (weir_str_t){prefix, sizeof(prefix)}, &item), len);
    assert_int_equal(name[len - 15], 'x');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_the_longest_arguments_have_room),
        cmocka_unit_test(test_the_longest_name_has_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
