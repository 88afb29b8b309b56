/* Retry budget: tables, and random requests and retries against lists of all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/retry_budget.h"

#define S INT64_C(1000000000)
#define MS INT64_C(1000000)

enum { SHARE_PPM = 200000 };

static int take_many(weir_retry_budget_t *budget, int count, int64_t now_ns)
{
    int taken = 0;
    for (int i = 0; i < count; ++i)
        taken += weir_retry_budget_take(budget, SHARE_PPM, now_ns);
    return taken;
}

static void request_many(weir_retry_budget_t *budget, int count, int64_t now_ns)
{
    for (int i = 0; i < count; ++i)
        weir_retry_budget_on_request(budget, now_ns);
}

static void test_table(void **state)
{
    static const struct {
        int64_t at_ms;
        int requests, asked, taken;
    } table[] = {
        {0, 0, 10, 3},      /* 3 a second, whatever the requests */
        {0, 14, 10, 0},     /* 14: a share of 2.8 */
        {0, 1, 10, 0},      /* 3 of 15 */
        {0, 5, 10, 1},      /* 4 of 20 */
        {999, 0, 10, 0},    /* not yet a second */
        {1000, 0, 10, 3},   /* 7 of 20 */
        {1500, 60, 100, 9}, /* 16 of 80 */
        {2499, 0, 1, 0},
        {2500, 0, 10, 3},  /* 19 of 80 */
        {9999, 0, 10, 3},  /* 22 of 80 */
        {10000, 0, 10, 0}, /* the first second's are of the last 10 s still */
        {10333, 0, 10, 0},
        {10334, 0, 10, 0}, /* 20 requests and 4 retries less */
        {11700, 0, 10, 3},
        {12000, 0, 10, 0}, /* of the 60 and the 9, none */
        {3600000, 1000, 1000, 200},
        {3600000, 1, 4, 0},
        {3600000, 4, 4, 1},
    };
    weir_retry_budget_t budget = {0};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        int64_t now_ns = table[i].at_ms * MS;
        request_many(&budget, table[i].requests, now_ns);
        bool fits = weir_retry_budget_tell(&budget, SHARE_PPM, now_ns).fits;
        int taken = take_many(&budget, table[i].asked, now_ns);
        assert_true(fits == (taken != 0));
        if (taken != table[i].taken)
            fail_msg("at %lld ms: %d", (long long)table[i].at_ms, taken);
    }
}

static void test_extremes(void **state)
{
    weir_retry_budget_t budget = {0};
    assert_int_equal(take_many(&budget, 10, INT64_MAX), 3);
    assert_int_equal(take_many(&budget, 10, 0), 0); /* late */
    assert_int_equal(weir_retry_budget_tell(&budget, SHARE_PPM, 0).retries, 3);
    request_many(&budget, 100, INT64_MAX);
    assert_true(weir_retry_budget_take(&budget, 1000000, INT64_MAX));
    assert_false(weir_retry_budget_take(&budget, 0, INT64_MAX));
    assert_int_equal(weir_retry_budget_tell(&budget, 0, INT64_MAX).requests, 100);
    budget = (weir_retry_budget_t){0};
    assert_int_equal(take_many(&budget, 10, 0), 3); /* the first ones, at time 0 */
    budget.recent.totals[0] = UINT32_MAX;
    budget.recent.totals[1] = UINT32_MAX;
    assert_false(weir_retry_budget_take(&budget, 999999, 0));
}

static void test_what_is_over_gives_no_share(void **state)
{
    weir_retry_budget_t budget = {0};
    request_many(&budget, 100, 0);
    assert_int_equal(take_many(&budget, 3, 10333 * MS), 3);
    assert_int_equal(take_many(&budget, 10, 10334 * MS), 0);
}

static void test_a_time_before_the_last_is_taken_for_that(void **state)
{
    weir_retry_budget_t budget = {0};
    request_many(&budget, 1, 5000 * MS);
    assert_int_equal(take_many(&budget, 1, 4200 * MS), 1);
    assert_int_equal(take_many(&budget, 2, 5000 * MS), 2);
    assert_int_equal(take_many(&budget, 1, 5999 * MS), 0);
    assert_int_equal(take_many(&budget, 4, 6000 * MS), 3);
}

/* The model: every request and retry there was. */
enum { LOG = 6000 };
static int64_t requests_ns[LOG], retries_ns[LOG];

static uint64_t count_since(const int64_t *at_ns, uint64_t count, int64_t since_ns)
{
    uint64_t found = 0;
    while (found < count && at_ns[count - 1 - found] >= since_ns)
        ++found;
    return found;
}

static bool model_fits(uint64_t requests, uint64_t retries, int64_t share_ppm, int64_t now_ns)
{
    int64_t slot_ns = (10 * S + 29) / 30, since_ns = (now_ns / slot_ns - 30) * slot_ns;
    return count_since(retries_ns, retries, now_ns - S + 1) < 3 ||
           (count_since(retries_ns, retries, since_ns) + 1) * 1000000 <=
               count_since(requests_ns, requests, since_ns) * (uint64_t)share_ppm;
}

/* In any 10 s: retries <= share * requests of those and the 10 1/3 s before + 30. */
static void check_any_10_s(uint64_t requests, uint64_t retries, int64_t share_ppm)
{
    for (uint64_t last = 0; last < retries; ++last) {
        int64_t end_ns = retries_ns[last], begin_ns = end_ns - 10 * S + 1;
        uint64_t tried = 0;
        while (tried <= last && retries_ns[last - tried] >= begin_ns)
            ++tried;
        uint64_t until = requests - count_since(requests_ns, requests, end_ns + 1);
        uint64_t asked = count_since(requests_ns, until, begin_ns - 10 * S - S / 3 - 31);
        assert_true(tried * 1000000 <= asked * (uint64_t)share_ppm + 30 * UINT64_C(1000000));
    }
}

static void random_load(seeded_t *seeded, int64_t gap_ns, int64_t share_ppm)
{
    weir_retry_budget_t budget = {0};
    uint64_t requests = 0, retries = 0, fails_of_8 = 0;
    int64_t now_ns = 0;
    while (requests < LOG) {
        now_ns += seeded_below(seeded, 4) == 0 ? 0 : (int64_t)seeded_below(seeded, (uint64_t)gap_ns);
        if (seeded_below(seeded, 500) == 0)
            fails_of_8 = seeded_below(seeded, 9);
        weir_retry_budget_on_request(&budget, now_ns);
        requests_ns[requests++] = now_ns;
        for (int tries = 1; tries < 4 && seeded_below(seeded, 8) < fails_of_8 && retries < LOG; ++tries) {
            bool fits = model_fits(requests, retries, share_ppm, now_ns);
            assert_true(weir_retry_budget_tell(&budget, share_ppm, now_ns).fits == fits);
            assert_true(weir_retry_budget_take(&budget, share_ppm, now_ns) == fits);
            if (fits)
                retries_ns[retries++] = now_ns;
        }
    }
    check_any_10_s(requests, retries, share_ppm);
}

static void test_random_load_is_decided_as_lists_of_all_of_it_do(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    random_load(&seeded, 20 * MS, SHARE_PPM);
    random_load(&seeded, 200 * MS, SHARE_PPM);
    random_load(&seeded, 3 * S, SHARE_PPM);
    random_load(&seeded, 30 * S, SHARE_PPM);
    random_load(&seeded, 100 * MS, 0);
    random_load(&seeded, 100 * MS, 1000000);
    random_load(&seeded, 50 * MS, 333333);
}

/* Everything fails and everybody tries again, from a cold start: at no time more than a fifth on top, but for the
 * first ones. */
static void test_a_full_outage_multiplies_nothing(void **state)
{
    weir_retry_budget_t budget = {0};
    int tries = 0;
    for (int request = 1; request <= 60 * 200; ++request) { /* 200 a second for a minute */
        int64_t now_ns = request * 5 * MS;
        weir_retry_budget_on_request(&budget, now_ns);
        tries += 1 + take_many(&budget, 3, now_ns);
        assert_true(tries * 5 <= request * 6 + 15);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_what_is_over_gives_no_share),
        cmocka_unit_test(test_a_time_before_the_last_is_taken_for_that),
        cmocka_unit_test(test_random_load_is_decided_as_lists_of_all_of_it_do),
        cmocka_unit_test(test_a_full_outage_multiplies_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
