/* A sidecar's part of a quota: never more than an equal one rounded up, and on average all of it; drawn once for an
 * outage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include "../../../../filters/redis/redis_share.h"
#include "../../seeded.h"

#define S INT64_C(1000000000)
#define D (86400 * S)

static uint64_t draw_of(uint64_t sidecar, uint64_t number, uint64_t outage)
{
    return weir_redis_share_draw(sidecar, (weir_store_key_t){number, ~number}, "limit", outage);
}

static void test_all_sidecars_together_have_the_quota_on_average(void **state)
{
    enum { KEYS = 20000 };
    static const struct {
        int64_t limit;
        uint32_t sidecars;
    } rows[] = {{1, 2}, {1, 8}, {3, 8}, {7, 8}, {9, 8}, {100, 3}, {5, 1}, {2, 100}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        int64_t total = 0, limit = rows[i].limit, sidecars = rows[i].sidecars;
        weir_conf_quota_t quota = {.limit = limit, .window_ns = S};
        for (uint64_t j = 0; j < KEYS; ++j) {
            weir_conf_quota_t share =
                weir_redis_share_of(&quota, rows[i].sidecars, draw_of(1 + j % rows[i].sidecars, j, 1));
            assert_in_range(share.limit, limit / sidecars, (limit + sidecars - 1) / sidecars);
            assert_int_equal(share.window_ns, S);
            assert_int_equal(share.burst, 0);
            total += share.limit;
        }
        double mean = (double)total / KEYS * (double)sidecars / (double)limit;
        assert_true(mean > 0.75 && mean < 1.25); /* the smallest expects 400 of 20000: 5 of its deviations */
    }
}

static void test_a_draw_is_for_sidecar_key_limit_and_outage(void **state)
{
    weir_store_key_t key = {1, 2};
    uint64_t draw = weir_redis_share_draw(1, key, "a", 1);
    assert_true(draw == weir_redis_share_draw(1, key, "a", 1));
    assert_true(draw != weir_redis_share_draw(2, key, "a", 1));
    assert_true(draw != weir_redis_share_draw(1, (weir_store_key_t){2, 2}, "a", 1));
    assert_true(draw != weir_redis_share_draw(1, (weir_store_key_t){1, 1}, "a", 1));
    assert_true(draw != weir_redis_share_draw(1, key, "b", 1));
    assert_true(draw != weir_redis_share_draw(1, key, "a", 2));
}

static void test_whoever_has_something_of_few_has_it_of_fewer(void **state)
{
    weir_conf_quota_t quota = {.limit = 1, .window_ns = S};
    seeded_t seeded = seeded_start("redis_share");
    for (int i = 0; i < 1000; ++i) {
        uint64_t draw = seeded_next(&seeded);
        int64_t before = 1;
        for (uint32_t sidecars = 1; sidecars < 50; ++sidecars) {
            int64_t part = weir_redis_share_of(&quota, sidecars, draw).limit;
            assert_true(part <= before);
            before = part;
        }
    }
}

static void test_rates(void **state)
{
    weir_conf_quota_t quota = {.rate = {50, S}, .burst = 100};
    weir_conf_quota_t share = weir_redis_share_of(&quota, 8, 0);
    assert_int_equal(share.rate.count, 50);
    assert_int_equal(share.rate.period_ns, 8 * S);
    assert_int_equal(share.burst, 13);
    assert_int_equal(weir_redis_share_of(&quota, 8, UINT64_MAX).burst, 12);
    assert_int_equal(weir_redis_share_of(&quota, 0, 0).burst, 100); /* one at least: itself */
    quota.rate = (weir_conf_rate_t){3, D};
    share = weir_redis_share_of(&quota, 4, 0); /* below one a day */
    assert_int_equal(share.rate.count, 1);
    assert_int_equal(share.rate.period_ns, D);
    quota.rate = (weir_conf_rate_t){1000000000, D};
    share = weir_redis_share_of(&quota, UINT32_MAX, 0);
    assert_true(share.rate.period_ns > 0 && share.burst <= 1);
    quota.rate = (weir_conf_rate_t){0, S};
    assert_int_equal(weir_redis_share_of(&quota, 8, 0).rate.count, 0);
}

static void test_outages_are_counted_once_for_all_threads(void **state)
{
    weir_redis_outages_t outages = {0};
    bool is_down[2] = {false, false};
    assert_false(weir_redis_outages_note(&outages, &is_down[0], true));
    assert_true(weir_redis_outages_note(&outages, &is_down[0], false));
    assert_false(weir_redis_outages_note(&outages, &is_down[0], false));
    assert_true(weir_redis_outages_note(&outages, &is_down[1], false));
    assert_int_equal(atomic_load(&outages.number), 1);
    assert_true(weir_redis_outages_note(&outages, &is_down[0], true));
    assert_true(weir_redis_outages_note(&outages, &is_down[0], false));
    assert_int_equal(atomic_load(&outages.number), 1);
    weir_redis_outages_note(&outages, &is_down[0], true);
    weir_redis_outages_note(&outages, &is_down[1], true);
    assert_int_equal(atomic_load(&outages.down), 0);
    weir_redis_outages_note(&outages, &is_down[1], false);
    assert_int_equal(atomic_load(&outages.number), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_sidecars_together_have_the_quota_on_average),
        cmocka_unit_test(test_a_draw_is_for_sidecar_key_limit_and_outage),
        cmocka_unit_test(test_whoever_has_something_of_few_has_it_of_fewer),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_outages_are_counted_once_for_all_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
