/* Sliding window as a log: random arrivals, charges and refunds against a naive exact model, which it must equal; more
 * different times than the log keeps apart, where it may forget a little late; and what becomes of its memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/sliding_log.h"

#define S INT64_C(1000000000)
#define D (86400 * S)

typedef weir_sliding_window_quota_t quota_t;

static const quota_t quotas[] = {
    {10, S}, {1, S}, {100, 60 * S},    {7, 100000000}, {1000000000, 1000000007}, {50, 3600 * S}, {3, 1460 * D},
    {20, 7}, {5, 1}, {UINT32_MAX, 10}, {200, 61},      {1000000000, D},
};
enum { QUOTAS = sizeof(quotas) / sizeof(quotas[0]) };

static int64_t remaining(const weir_sliding_log_t *log, quota_t quota, int64_t now_ns)
{
    return weir_sliding_log_tell(log, quota, 0, now_ns).remaining;
}

static int64_t retry_after_ns(const weir_sliding_log_t *log, quota_t quota, int64_t cost, int64_t now_ns)
{
    return weir_sliding_log_tell(log, quota, cost, now_ns).retry_after_ns;
}

/* The model: all that was taken; what counts is added up anew for each question. */

enum { TAKEN_MAX = 1000 };

typedef struct {
    int64_t at_ns[TAKEN_MAX], cost[TAKEN_MAX];
    int count;
} model_t;

static bool model_counts(const model_t *model, int i, int64_t window_ns, int64_t now_ns)
{
    return now_ns - model->at_ns[i] <= window_ns && model->cost[i] != 0;
}

static int64_t model_total(const model_t *model, int64_t window_ns, int64_t now_ns)
{
    int64_t total = 0;
    for (int i = 0; i < model->count; ++i)
        if (model_counts(model, i, window_ns, now_ns))
            total += model->cost[i];
    return total;
}

/* Until so little is left that `total` is no more. */
static int64_t model_until(const model_t *model, int64_t window_ns, int64_t total, int64_t now_ns)
{
    int64_t left = model_total(model, window_ns, now_ns), until_ns = 0;
    for (int i = 0; i < model->count && left > total; ++i) {
        if (!model_counts(model, i, window_ns, now_ns))
            continue;
        left -= model->cost[i];
        until_ns = model->at_ns[i] - now_ns + window_ns + 1;
    }
    return until_ns;
}

static void check(const weir_sliding_log_t *log, const model_t *model, quota_t quota, int64_t cost, int64_t now_ns)
{
    int64_t total = model_total(model, quota.window_ns, now_ns);
    weir_told_t told = weir_sliding_log_tell(log, quota, cost, now_ns);
    bool fits = cost <= quota.limit && total <= quota.limit - cost;
    assert_int_equal(weir_sliding_log_fits(log, quota, cost, now_ns), fits);
    assert_int_equal(weir_sliding_log_is_empty(log, quota.window_ns, now_ns), total == 0);
    assert_int_equal(told.remaining, total < quota.limit ? quota.limit - total : 0);
    assert_int_equal(told.reset_ns, model_until(model, quota.window_ns, 0, now_ns));
    if (cost > quota.limit)
        assert_int_equal(told.retry_after_ns, -1);
    else
        assert_int_equal(told.retry_after_ns, model_until(model, quota.window_ns, quota.limit - cost, now_ns));
    if (told.retry_after_ns > 0) {
        assert_true(weir_sliding_log_fits(log, quota, cost, now_ns + told.retry_after_ns));
        assert_false(weir_sliding_log_fits(log, quota, cost, now_ns + told.retry_after_ns - 1));
    }
}

static int64_t random_gap(seeded_t *seeded, const weir_sliding_log_t *log, quota_t quota, int64_t now_ns)
{
    weir_told_t told = weir_sliding_log_tell(log, quota, 1, now_ns);
    switch (seeded_below(seeded, 8)) {
    case 0:
    case 1:
        return 0;
    case 2:
        return 1;
    case 3:
        return told.retry_after_ns > 0 ? told.retry_after_ns - (int64_t)seeded_below(seeded, 2) : 0;
    case 4:
        return seeded_below(seeded, 100) == 0 ? told.reset_ns : 0;
    case 5:
        return seeded_below(seeded, 100) == 0 ? (int64_t)seeded_below(seeded, (uint64_t)quota.window_ns * 2) : 0;
    default:
        return (int64_t)seeded_below(seeded, (uint64_t)quota.window_ns / 16 + 2);
    }
}

static int64_t random_cost(seeded_t *seeded, quota_t quota)
{
    switch (seeded_below(seeded, 8)) {
    case 0:
        return 0;
    case 1:
        return quota.limit;
    case 2:
        return quota.limit + (int64_t)seeded_below(seeded, 2);
    case 3:
    case 4:
        return (int64_t)seeded_below(seeded, (uint64_t)quota.limit + 1);
    default:
        return 1;
    }
}

static void random_refund(seeded_t *seeded, weir_sliding_log_t *log, model_t *model, quota_t quota)
{
    int i = (int)seeded_below(seeded, (uint64_t)model->count);
    if (seeded_below(seeded, 2) == 0) /* mostly of late */
        i = model->count - 1 - i % (model->count < 4 ? model->count : 4);
    int64_t back = (int64_t)seeded_below(seeded, (uint64_t)model->cost[i] + 1);
    if (seeded_below(seeded, 4) != 0)
        back = model->cost[i];
    weir_sliding_log_put_back(log, quota, back, model->at_ns[i]);
    model->cost[i] -= back;
}

static void random_arrivals(seeded_t *seeded, quota_t quota)
{
    weir_sliding_log_t log = {0};
    model_t model = {.count = 0};
    int64_t now_ns = (int64_t)seeded_below(seeded, INT64_C(1) << 61);
    int refunds_of_16 = (int)seeded_below(seeded, 6);
    for (int i = 0; i < TAKEN_MAX; ++i) {
        int64_t gap_ns = random_gap(seeded, &log, quota, now_ns), cost = random_cost(seeded, quota);
        now_ns = gap_ns < INT64_MAX / 2 - now_ns ? now_ns + gap_ns : now_ns;
        check(&log, &model, quota, cost, now_ns);
        bool is_debt = refunds_of_16 == 0 && seeded_below(seeded, 32) == 0;
        if (weir_sliding_log_fits(&log, quota, cost, now_ns) || is_debt) {
            weir_sliding_log_take(&log, quota, cost, now_ns);
            model.at_ns[model.count] = now_ns;
            model.cost[model.count++] = cost;
        }
        if (model.count != 0 && (int)seeded_below(seeded, 16) < refunds_of_16)
            random_refund(seeded, &log, &model, quota);
        check(&log, &model, quota, 1, now_ns);
        assert_int_equal(log.entries == NULL, log.count == 0);
        assert_true(log.capacity <= 4 || log.count > log.capacity / 4);
    }
    weir_sliding_log_dispose(&log);
    static const weir_sliding_log_t fresh;
    assert_memory_equal(&log, &fresh, sizeof(log));
}

static void test_random_arrivals_and_refunds_are_as_the_exact_model_has_them(void **state)
{
    enum { ROUNDS = 1000 };
    seeded_t seeded = seeded_start(__func__);
    for (size_t i = 0; i < ROUNDS; ++i)
        random_arrivals(&seeded, quotas[i % QUOTAS]);
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
        {0, true, 1, 9, 60 * S + 1},
        {0, true, 0, 9, 60 * S + 1},
        {S - 1, true, 4, 5, 60 * S + 1},
        {30 * S, true, 5, 0, 60 * S + 1},
        {30 * S, true, 0, 0, 60 * S + 1},
        {60 * S, false, 1, 0, 30 * S + 1}, /* a window after the first one: counted still */
        {60 * S + 1, true, 1, 0, 60 * S + 1},
        {61 * S - 1, false, 1, 0, 59 * S + 3},
        {61 * S, true, 4, 0, 60 * S + 1},
        {90 * S, false, 1, 0, 31 * S + 1},
        {90 * S + 1, true, 5, 0, 60 * S + 1},
        {300 * S, true, 10, 0, 60 * S + 1},
        {300 * S, false, INT64_MAX, 0, 60 * S + 1},
        {INT64_MAX - 100 * S, true, 10, 0, 60 * S + 1},
        {INT64_MAX - 1, true, 10, 0, 1}, /* there is no later */
    };
    weir_sliding_log_t log = {0};
    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); ++i) {
        assert_int_equal(weir_sliding_log_fits(&log, quota, steps[i].cost, steps[i].at_ns), steps[i].fits);
        if (steps[i].fits)
            weir_sliding_log_take(&log, quota, steps[i].cost, steps[i].at_ns);
        assert_int_equal(remaining(&log, quota, steps[i].at_ns), steps[i].remaining);
        assert_int_equal(weir_sliding_log_tell(&log, quota, 0, steps[i].at_ns).reset_ns, steps[i].reset_ns);
    }
    weir_sliding_log_dispose(&log);
}

static void test_extremes(void **state)
{
    weir_sliding_log_t log = {0};
    quota_t years = {1000000000, 1460 * D}, none = {0, S};
    assert_false(weir_sliding_log_fits(&log, none, 1, 0));
    assert_true(weir_sliding_log_fits(&log, none, 0, INT64_MAX));
    assert_int_equal(retry_after_ns(&log, none, 1, 0), -1);
    assert_int_equal(retry_after_ns(&log, years, INT64_MAX, 0), -1);
    weir_sliding_log_put_back(&log, years, INT64_MAX, 0);
    weir_sliding_log_take(&log, years, 0, INT64_MAX);
    assert_null(log.entries);
    weir_sliding_log_take(&log, years, 1000000000, INT64_MAX);
    assert_false(weir_sliding_log_fits(&log, years, 1, INT64_MAX));
    assert_int_equal(retry_after_ns(&log, years, 1, INT64_MAX), 0); /* there is no later */
    weir_sliding_log_take(&log, years, INT64_MAX, INT64_MAX);       /* does not wrap */
    weir_sliding_log_take(&log, years, INT64_MAX, INT64_MAX);
    assert_int_equal(remaining(&log, years, INT64_MAX), 0);
    weir_sliding_log_put_back(&log, years, INT64_MAX, INT64_MAX);
    assert_int_equal(remaining(&log, years, INT64_MAX), 1000000000);
    assert_null(log.entries);
    weir_sliding_log_take(&log, years, INT64_MAX, 0);
    weir_sliding_log_take(&log, years, INT64_MAX, 1);
    assert_int_equal(retry_after_ns(&log, years, 1, 1), 1460 * D);
    weir_sliding_log_take(&log, years, 5, 1460 * D + 1);
    assert_int_equal(remaining(&log, years, 1460 * D + 1), 1000000000 - 5);
    weir_sliding_log_dispose(&log);
}

static void test_another_limit_counts_what_was_admitted(void **state)
{
    static const quota_t wide = {100, 60 * S}, cut = {50, 60 * S}, brief = {100, S};
    weir_sliding_log_t log = {0};
    weir_sliding_log_take(&log, wide, 30, S);
    assert_int_equal(remaining(&log, cut, S), 20);
    weir_sliding_log_take(&log, wide, 30, 2 * S);
    assert_int_equal(remaining(&log, cut, 2 * S), 0);
    assert_int_equal(retry_after_ns(&log, cut, 1, 2 * S), 59 * S + 1);
    assert_int_equal(remaining(&log, cut, 61 * S + 1), 20);
    assert_int_equal(remaining(&log, wide, 61 * S + 1), 70);
    assert_int_equal(remaining(&log, brief, 2 * S + 1), 70);
    weir_sliding_log_dispose(&log);
}

/* What was forgotten, or never was in this state, is not taken from another's that came later. */
static void test_a_refund_of_what_is_gone_gives_nothing(void **state)
{
    static const quota_t quota = {10, S};
    weir_sliding_log_t log = {0};
    weir_sliding_log_take(&log, quota, 3, 5);
    weir_sliding_log_take(&log, quota, 4, S + 5);
    weir_sliding_log_take(&log, quota, 1, S + 6); /* forgets what came at 5 */
    weir_sliding_log_put_back(&log, quota, 3, 5);
    assert_int_equal(remaining(&log, quota, S + 6), 5);
    weir_sliding_log_put_back(&log, quota, 3, S + 7); /* not yet */
    assert_int_equal(remaining(&log, quota, S + 6), 5);
    weir_sliding_log_dispose(&log);
    weir_sliding_log_take(&log, quota, 4, S + 8);
    weir_sliding_log_put_back(&log, quota, 1, S + 6);
    assert_int_equal(remaining(&log, quota, S + 8), 6);
    weir_sliding_log_dispose(&log);
}

static void test_memory_goes_with_what_is_in_it(void **state)
{
    enum { COUNT = 50000 };
    static const quota_t quota = {1000000000, COUNT};
    weir_sliding_log_t log = {0};
    for (int64_t now_ns = 0; now_ns < COUNT; ++now_ns)
        weir_sliding_log_take(&log, quota, 1, now_ns);
    assert_int_equal(log.count, COUNT);
    assert_int_equal(log.capacity, 65536);
    weir_sliding_log_take(&log, quota, 1, 2 * COUNT - 10); /* ten are left */
    assert_int_equal(log.count, 11);
    assert_in_range(log.capacity, 11, 43);
    weir_sliding_log_take(&log, quota, 0, 9 * COUNT);
    assert_null(log.entries);
    weir_sliding_log_take(&log, quota, 1, 9 * COUNT);
    assert_non_null(log.entries);
    weir_sliding_log_put_back(&log, quota, 1, 9 * COUNT);
    assert_null(log.entries);
    for (int64_t now_ns = 0; now_ns < COUNT; ++now_ns)
        weir_sliding_log_take(&log, quota, 1, 10 * COUNT + now_ns);
    for (int64_t left = COUNT; left-- != 0;) {
        weir_sliding_log_put_back(&log, quota, 1, 10 * COUNT + left);
        assert_int_equal(remaining(&log, quota, 11 * COUNT - 1), quota.limit - left);
        assert_in_range(log.capacity, left, left * 4 > 4 ? left * 4 - 1 : 4);
    }
    assert_null(log.entries);
}

/* Whatever is given back or owed, there are no more entries than a limit has tokens. */
static void test_entries_are_no_more_than_the_limit(void **state)
{
    static const quota_t quota = {100, 3600 * S};
    weir_sliding_log_t log = {0};
    for (int64_t i = 1; i <= 10000; ++i) { /* one stays, which is the newest but once */
        weir_sliding_log_take(&log, quota, 1, 2 * i);
        weir_sliding_log_take(&log, quota, 1, 2 * i + 1);
        weir_sliding_log_put_back(&log, quota, 1, 2 * i);
        if (i != 1)
            weir_sliding_log_put_back(&log, quota, 1, 2 * i - 1);
        assert_int_equal(log.count, 1);
    }
    weir_sliding_log_dispose(&log);
    for (int64_t i = 0; i < 10000; ++i) { /* debts */
        weir_sliding_log_take(&log, quota, 1, i);
        assert_true(log.capacity <= 128);
    }
    assert_int_equal(remaining(&log, quota, 10000), 0);
    assert_int_equal(retry_after_ns(&log, quota, 1, 10000), 9900 + quota.window_ns + 1 - 10000);
    assert_int_equal(retry_after_ns(&log, quota, 100, 10000), 9999 + quota.window_ns + 1 - 10000);
    assert_int_equal(remaining(&log, quota, 9950 + quota.window_ns), 50);
    weir_sliding_log_dispose(&log);
}

static void test_as_many_times_as_the_log_keeps_apart_are_exact(void **state)
{
    enum { COUNT = WEIR_SLIDING_LOG_MAX };
    static const quota_t quota = {COUNT, INT64_C(1) << 40};
    weir_sliding_log_t log = {0};
    for (int64_t i = 0; i < COUNT; ++i)
        weir_sliding_log_take(&log, quota, 1, i * 3);
    for (int64_t i = 1; i < COUNT; i += 97)
        assert_int_equal(retry_after_ns(&log, quota, i, COUNT * 3), (i - 1) * 3 + quota.window_ns + 1 - COUNT * 3);
    for (int64_t i = 0; i < COUNT; i += 97) {
        assert_int_equal(remaining(&log, quota, i * 3 + quota.window_ns), i);
        assert_int_equal(remaining(&log, quota, i * 3 + quota.window_ns + 1), i + 1);
    }
    weir_sliding_log_dispose(&log);
}

/* More times than are kept apart: what was taken, and where two windows begin in it, as long as the log's own and late
 * by as much as it may be. */
enum { MANY = 500000 };

typedef struct {
    int64_t at_ns[MANY], cost[MANY];
    int count, exact_from, late_from;
    int64_t exact_sum, late_sum;
} many_t;

static void many_forget(many_t *many, int64_t window_ns, int64_t now_ns)
{
    int64_t late_ns = window_ns + window_ns / (WEIR_SLIDING_LOG_MAX - 2);
    for (; many->exact_from < many->count && now_ns - many->at_ns[many->exact_from] > window_ns; ++many->exact_from)
        many->exact_sum -= many->cost[many->exact_from];
    for (; many->late_from < many->count && now_ns - many->at_ns[many->late_from] > late_ns; ++many->late_from)
        many->late_sum -= many->cost[many->late_from];
}

static void many_add(many_t *many, int i, int64_t cost)
{
    many->cost[i] += cost;
    many->exact_sum += i >= many->exact_from ? cost : 0;
    many->late_sum += i >= many->late_from ? cost : 0;
}

static void test_more_times_are_forgotten_a_little_late_and_none_is_over(void **state)
{
    static const quota_t quota = {200000, 10 * S};
    seeded_t seeded = seeded_start(__func__);
    weir_sliding_log_t log = {0};
    many_t *many = calloc(1, sizeof(*many));
    int64_t now_ns = 0, refused = 0;
    for (int i = 0; i < MANY; ++i) {
        uint64_t gap_ns = i / 50000 % 2 == 0 ? 20000 : 110000; /* 1e6 or 180000 in a window */
        now_ns += (int64_t)seeded_below(&seeded, gap_ns);
        int64_t cost = seeded_below(&seeded, 1000) != 0 ? 1 : (int64_t)seeded_below(&seeded, 100);
        many_forget(many, quota.window_ns, now_ns);
        if (weir_sliding_log_fits(&log, quota, cost, now_ns)) {
            weir_sliding_log_take(&log, quota, cost, now_ns);
            many->at_ns[many->count++] = now_ns;
            many_add(many, many->count - 1, cost);
            assert_true(many->exact_sum <= quota.limit);
        } else {
            ++refused;
            assert_true(many->late_sum + cost > quota.limit);
        }
        if (seeded_below(&seeded, 16) == 0) {
            int late = (int)seeded_below(&seeded, many->count < 500 ? (uint64_t)many->count : 500);
            int at = many->count - 1 - late;
            weir_sliding_log_put_back(&log, quota, many->cost[at], many->at_ns[at]);
            many_add(many, at, -many->cost[at]);
        }
        int64_t least = many->late_sum < quota.limit ? quota.limit - many->late_sum : 0;
        assert_in_range(remaining(&log, quota, now_ns), least, quota.limit - many->exact_sum);
        assert_true(log.count <= 2 * WEIR_SLIDING_LOG_MAX && log.capacity <= 2 * WEIR_SLIDING_LOG_MAX);
    }
    assert_true(refused > MANY / 100);
    weir_sliding_log_dispose(&log);
    free(many);
}

/* The window is made longer while the log is full: the oldest become one, and none is lost. */
static void test_a_longer_window_finds_room_in_a_full_log(void **state)
{
    enum { MORE = 20000 };
    static const quota_t brief = {1000000000, S}, wide = {1000000000, 100000 * S};
    weir_sliding_log_t log = {0};
    int64_t now_ns = 0, total = 0;
    for (; now_ns <= S; ++total) {
        weir_sliding_log_take(&log, brief, 1, now_ns);
        now_ns += total < WEIR_SLIDING_LOG_MAX ? 1000 : S / (WEIR_SLIDING_LOG_MAX - 2) + 1;
    }
    assert_true(log.count > 2 * WEIR_SLIDING_LOG_MAX - MORE);
    for (int i = 0; i < MORE; ++i, ++total)
        weir_sliding_log_take(&log, wide, 1, now_ns += 2 * S);
    assert_int_equal(log.count, 2 * WEIR_SLIDING_LOG_MAX);
    assert_int_equal(log.capacity, 2 * WEIR_SLIDING_LOG_MAX);
    assert_int_equal(remaining(&log, wide, now_ns), wide.limit - total);
    weir_sliding_log_put_back(&log, wide, 1, 0); /* it is in the oldest one */
    assert_int_equal(remaining(&log, wide, now_ns), wide.limit - total + 1);
    weir_sliding_log_dispose(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_another_limit_counts_what_was_admitted),
        cmocka_unit_test(test_a_refund_of_what_is_gone_gives_nothing),
        cmocka_unit_test(test_memory_goes_with_what_is_in_it),
        cmocka_unit_test(test_entries_are_no_more_than_the_limit),
        cmocka_unit_test(test_as_many_times_as_the_log_keeps_apart_are_exact),
        cmocka_unit_test(test_more_times_are_forgotten_a_little_late_and_none_is_over),
        cmocka_unit_test(test_a_longer_window_finds_room_in_a_full_log),
        cmocka_unit_test(test_random_arrivals_and_refunds_are_as_the_exact_model_has_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
