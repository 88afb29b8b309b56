/* Sliding window in slots: a million random arrivals against a log of what was admitted. None may be over within
 * `window`, and none refused that a window of 61/60 would admit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/sliding_window.h"

#define S INT64_C(1000000000)
#define D (86400 * S)

typedef weir_sliding_window_quota_t quota_t;

/* Windows that 60 divides and that it does not, down to less than a ns a slot, up to a year. */
static const quota_t quotas[] = {
    {10, S},      {1, S},   {100, 60 * S}, {7, 100000000},      {1000, 1000000007}, {50, 3600 * S},
    {3, 365 * D}, {20, 59}, {5, 1},        {40, 100000000 + 1}, {200, 61},          {1000, D},
};
enum { QUOTAS = sizeof(quotas) / sizeof(quotas[0]), ARRIVALS = 90000, LOG = ARRIVALS * 2 };

static int64_t remaining(const weir_sliding_window_t *window, quota_t quota, int64_t now_ns)
{
    return weir_sliding_window_tell(window, quota, 0, now_ns).remaining;
}

static int64_t reset_ns(const weir_sliding_window_t *window, quota_t quota, int64_t now_ns)
{
    return weir_sliding_window_tell(window, quota, 0, now_ns).reset_ns;
}

static int64_t retry_after_ns(const weir_sliding_window_t *window, quota_t quota, int64_t cost, int64_t now_ns)
{
    return weir_sliding_window_tell(window, quota, cost, now_ns).retry_after_ns;
}

/* The oracle: what was admitted, and where the two windows begin in it. Time only grows, so both only move on. */
typedef struct {
    int64_t at_ns[LOG], cost[LOG];
    size_t count, exact_from, late_from;
    int64_t exact_sum, late_sum; /* at most `window` ago, both ends included; less than 61/60 of it ago */
} log_t;

static log_t log_;

static void log_forget(log_t *log, int64_t window_ns, int64_t now_ns)
{
    for (; log->exact_from < log->count && now_ns - log->at_ns[log->exact_from] > window_ns; ++log->exact_from)
        log->exact_sum -= log->cost[log->exact_from];
    for (; log->late_from < log->count &&
           (__int128)(now_ns - log->at_ns[log->late_from]) * 60 >= (__int128)window_ns * 61;
         ++log->late_from)
        log->late_sum -= log->cost[log->late_from];
}

static void log_add(log_t *log, int64_t now_ns, int64_t cost)
{
    log->at_ns[log->count] = now_ns;
    log->cost[log->count++] = cost;
    log->exact_sum += cost;
    log->late_sum += cost;
}

static int64_t random_gap(seeded_t *seeded, const weir_sliding_window_t *window, quota_t quota, int64_t now_ns)
{
    int64_t retry_ns = retry_after_ns(window, quota, 1, now_ns);
    uint64_t each_ns = (uint64_t)(quota.window_ns / quota.limit) + 1;
    switch (seeded_below(seeded, 7)) {
    case 0:
    case 1:
        return 0;
    case 2:
        return 1;
    case 3:
        return retry_ns;
    case 4:
        return retry_ns > 0 ? retry_ns - 1 : 0;
    case 5:
        return (int64_t)seeded_below(seeded, each_ns * 2);
    default:
        if (seeded_below(seeded, 50) != 0)
            return (int64_t)seeded_below(seeded, each_ns);
        return (int64_t)seeded_below(seeded, (uint64_t)quota.window_ns * 2);
    }
}

static void random_arrivals(seeded_t *seeded, quota_t quota)
{
    weir_sliding_window_t window = {0};
    log_t *log = &log_;
    memset(log, 0, sizeof(*log));
    int64_t now_ns = (int64_t)seeded_below(seeded, INT64_C(1) << 50);
    for (int i = 0; i < ARRIVALS; ++i) {
        int64_t gap_ns = random_gap(seeded, &window, quota, now_ns);
        now_ns = gap_ns < INT64_MAX / 2 - now_ns ? now_ns + gap_ns : now_ns;
        int64_t cost = seeded_below(seeded, 4) != 0 ? 1 : 1 + (int64_t)seeded_below(seeded, (uint64_t)quota.limit + 1);
        log_forget(log, quota.window_ns, now_ns);
        if (weir_sliding_window_fits(&window, quota, cost, now_ns)) {
            weir_sliding_window_take(&window, quota, cost, now_ns);
            log_add(log, now_ns, cost);
            assert_true(log->exact_sum <= quota.limit); /* none over */
        } else {
            assert_true(log->late_sum + cost > quota.limit); /* none without cause */
        }
        int64_t left = remaining(&window, quota, now_ns);
        assert_in_range(left, quota.limit - log->late_sum > 0 ? quota.limit - log->late_sum : 0,
                        quota.limit - log->exact_sum);
        assert_int_equal(weir_sliding_window_is_empty(&window, quota.window_ns, now_ns), left == quota.limit);
    }
}

static void test_a_million_random_arrivals_none_over_and_none_refused_without_cause(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (size_t i = 0; i < QUOTAS; ++i)
        random_arrivals(&seeded, quotas[i]);
}

/* Fills a window at random, then asks when: it must be so then, and not 1 ns before. */
static void test_retry_and_reset_are_exact(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 60000; ++i) {
        quota_t quota = quotas[seeded_below(&seeded, QUOTAS)];
        weir_sliding_window_t window = {0};
        int64_t now_ns = (int64_t)seeded_below(&seeded, INT64_C(1) << 60);
        for (int n = 0; n < 20; ++n) {
            now_ns += (int64_t)seeded_below(&seeded, (uint64_t)quota.window_ns / 8 + 2);
            int64_t cost = 1 + (int64_t)seeded_below(&seeded, (uint64_t)quota.limit);
            int64_t retry_ns = retry_after_ns(&window, quota, cost, now_ns);
            assert_int_equal(retry_ns == 0, weir_sliding_window_fits(&window, quota, cost, now_ns));
            assert_true(weir_sliding_window_fits(&window, quota, cost, now_ns + retry_ns));
            assert_true(retry_ns == 0 || !weir_sliding_window_fits(&window, quota, cost, now_ns + retry_ns - 1));
            assert_true((__int128)retry_ns * 60 <= (__int128)quota.window_ns * 61 + 60);
            if (retry_ns == 0)
                weir_sliding_window_take(&window, quota, cost, now_ns);
            int64_t empty_ns = reset_ns(&window, quota, now_ns);
            assert_true(weir_sliding_window_is_empty(&window, quota.window_ns, now_ns + empty_ns));
            assert_true(empty_ns == 0 ||
                        !weir_sliding_window_is_empty(&window, quota.window_ns, now_ns + empty_ns - 1));
        }
    }
}

typedef struct {
    int64_t at_ns;
    bool fits;
    int64_t cost, remaining, reset_ns;
} step_t;

static void test_table(void **state)
{
    static const quota_t quota = {10, 60 * S};
    static const step_t steps[] = {
        {0, true, 1, 9, 61 * S},
        {S - 1, true, 4, 5, 60 * S + 1}, /* the same slot */
        {30 * S, true, 5, 0, 61 * S},
        {60 * S - 1, false, 1, 0, 31 * S + 1},
        {60 * S, false, 1, 0, 31 * S}, /* a window after the first one: still counted, for its slot's sake */
        {61 * S - 1, false, 1, 0, 30 * S + 1},
        {61 * S, true, 5, 0, 61 * S},
        {91 * S - 1, false, 1, 0, 31 * S + 1},
        {91 * S, true, 1, 4, 61 * S},
        {300 * S, true, 10, 0, 61 * S},
        {300 * S, false, INT64_MAX, 0, 61 * S},
        {INT64_MAX - 100 * S, true, 10, 0, 60 * S + 145224193}, /* 2^63 ns is no whole second */
    };
    weir_sliding_window_t window = {0};
    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); ++i) {
        assert_int_equal(weir_sliding_window_fits(&window, quota, steps[i].cost, steps[i].at_ns), steps[i].fits);
        if (steps[i].fits)
            weir_sliding_window_take(&window, quota, steps[i].cost, steps[i].at_ns);
        assert_int_equal(remaining(&window, quota, steps[i].at_ns), steps[i].remaining);
        assert_int_equal(reset_ns(&window, quota, steps[i].at_ns), steps[i].reset_ns);
    }
}

static void test_a_burst_on_each_side_of_a_boundary_is_one_burst(void **state)
{
    static const quota_t quota = {100, 60 * S};
    for (int64_t boundary_ns = 60 * S; boundary_ns <= 120 * S; boundary_ns += S / 2) {
        weir_sliding_window_t window = {0};
        int admitted = 0;
        for (int i = 0; i < 400; ++i) {
            int64_t now_ns = i < 200 ? boundary_ns - 1 : boundary_ns + 1;
            if (!weir_sliding_window_fits(&window, quota, 1, now_ns))
                continue;
            weir_sliding_window_take(&window, quota, 1, now_ns);
            ++admitted;
        }
        assert_int_equal(admitted, 100);
    }
}

static void test_extremes(void **state)
{
    weir_sliding_window_t window = {0};
    quota_t year = {1000000000, 365 * D}, none = {0, S};
    assert_false(weir_sliding_window_fits(&window, none, 1, 0));
    assert_int_equal(retry_after_ns(&window, none, 1, 0), -1);
    assert_int_equal(retry_after_ns(&window, year, INT64_MAX, 0), -1);
    weir_sliding_window_take(&window, year, 1000000000, INT64_MAX);
    assert_false(weir_sliding_window_fits(&window, year, 1, INT64_MAX));
    assert_int_equal(reset_ns(&window, year, INT64_MAX), 0);       /* there is no later */
    weir_sliding_window_take(&window, year, INT64_MAX, INT64_MAX); /* does not wrap */
    assert_int_equal(remaining(&window, year, INT64_MAX), 0);
    assert_true(weir_sliding_window_is_empty(&(weir_sliding_window_t){0}, S, INT64_MAX));
}

static void test_another_limit_counts_what_was_admitted(void **state)
{
    static const quota_t wide = {100, 60 * S}, cut = {50, 60 * S};
    weir_sliding_window_t window = {0};
    weir_sliding_window_take(&window, wide, 30, S);
    assert_int_equal(remaining(&window, cut, S), 20);
    weir_sliding_window_take(&window, wide, 30, 2 * S);
    assert_int_equal(remaining(&window, cut, 2 * S), 0);
    assert_int_equal(retry_after_ns(&window, cut, 1, 2 * S), 60 * S);
    assert_int_equal(remaining(&window, cut, 62 * S), 20);
    assert_int_equal(remaining(&window, wide, 62 * S), 70);
}

/* Refunds at any age: the window is as if the refunded ones had never come. */
static void test_a_refund_goes_to_its_slot(void **state)
{
    enum { CHARGES = 60 };
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 2000; ++i) {
        quota_t quota = {1000, quotas[i % QUOTAS].window_ns};
        weir_sliding_window_t window = {0}, without = {0};
        int64_t at_ns[CHARGES], cost[CHARGES], now_ns = 0;
        bool is_back[CHARGES];
        for (int c = 0; c < CHARGES; ++c) {
            now_ns += (int64_t)seeded_below(&seeded, (uint64_t)quota.window_ns / 16 + 2);
            at_ns[c] = now_ns;
            cost[c] = (int64_t)seeded_below(&seeded, 10);
            is_back[c] = seeded_below(&seeded, 2);
            weir_sliding_window_take(&window, quota, cost[c], now_ns);
            if (!is_back[c])
                weir_sliding_window_take(&without, quota, cost[c], now_ns);
        }
        now_ns += (int64_t)seeded_below(&seeded, (uint64_t)quota.window_ns);
        for (int c = 0; c < CHARGES; ++c)
            if (is_back[c])
                weir_sliding_window_put_back(&window, quota, cost[c], at_ns[c]);
        for (int later = 0; later < 100; ++later) {
            assert_int_equal(remaining(&window, quota, now_ns), remaining(&without, quota, now_ns));
            now_ns += quota.window_ns / 70 + 1;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_a_burst_on_each_side_of_a_boundary_is_one_burst),
        cmocka_unit_test(test_another_limit_counts_what_was_admitted),
        cmocka_unit_test(test_a_refund_goes_to_its_slot),
        cmocka_unit_test(test_retry_and_reset_are_exact),
        cmocka_unit_test(test_a_million_random_arrivals_none_over_and_none_refused_without_cause),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
