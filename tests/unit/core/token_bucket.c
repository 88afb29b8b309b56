/* Token bucket: tables of {at, asked, what must come}; a million random arrivals against a bucket in rational
 * arithmetic; and small logs against the guarantee itself, over every interval. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/token_bucket.h"

#define S INT64_C(1000000000)
#define M (60 * S)
#define H (60 * M)
#define D (24 * H)

typedef __int128 wide_t;

typedef struct {
    int64_t count, period_ns, burst;
} rate_t;

/* Slow, fast, prime, and the ends of what a configuration may say. */
static const rate_t rates[] = {
    {50, S, 50},
    {1, D, 1},
    {999983, D, 999983},
    {S, S, S},
    {S, S, 1},
    {600, M, 7},
    {10000, H, 1},
    {1, S, 1000000},
    {7, M, 3},
    {S, D, S},
    {86400, D, 10},
    {999999937, H, 997},
    {1000000, D, INT64_C(31557)},
    {3, S, 2},
};
enum { RATES = sizeof(rates) / sizeof(rates[0]), ARRIVALS = 80000 };

static weir_token_bucket_quota_t quota_of(rate_t rate)
{
    return weir_token_bucket_quota(rate.count, rate.period_ns, rate.burst);
}

static int64_t remaining(const weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t now_ns)
{
    return weir_token_bucket_tell(bucket, quota, 0, now_ns).remaining;
}

static int64_t reset_ns(const weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t now_ns)
{
    return weir_token_bucket_tell(bucket, quota, 0, now_ns).reset_ns;
}

static int64_t retry_after_ns(const weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost,
                              int64_t now_ns)
{
    return weir_token_bucket_tell(bucket, quota, cost, now_ns).retry_after_ns;
}

/* The oracle: what is there, in tokens / period_ns, written down the other way round. */
typedef struct {
    rate_t rate;
    wide_t there;
    int64_t at_ns;
} exact_t;

static exact_t exact_start(rate_t rate, int64_t now_ns)
{
    return (exact_t){rate, (wide_t)rate.burst * rate.period_ns, now_ns};
}

static void exact_fill(exact_t *exact, int64_t now_ns)
{
    wide_t all = (wide_t)exact->rate.burst * exact->rate.period_ns;
    exact->there += (wide_t)(now_ns - exact->at_ns) * exact->rate.count;
    exact->there = exact->there > all ? all : exact->there;
    exact->at_ns = now_ns;
}

static int64_t up(wide_t n, wide_t d)
{
    return (int64_t)((n + d - 1) / d);
}

static void check_told(const weir_token_bucket_t *bucket, const exact_t *exact, int64_t cost)
{
    weir_token_bucket_quota_t quota = quota_of(exact->rate);
    int64_t now_ns = exact->at_ns;
    wide_t all = (wide_t)exact->rate.burst * exact->rate.period_ns, asked = (wide_t)cost * exact->rate.period_ns;
    assert_true(remaining(bucket, quota, now_ns) == exact->there / exact->rate.period_ns);
    assert_true(reset_ns(bucket, quota, now_ns) == up(all - exact->there, exact->rate.count));
    assert_true(weir_token_bucket_is_full(bucket, now_ns) == (exact->there == all));
    int64_t retry_ns = retry_after_ns(bucket, quota, cost, now_ns);
    if (cost > exact->rate.burst)
        assert_int_equal(retry_ns, -1);
    else
        assert_true(retry_ns == (exact->there >= asked ? 0 : up(asked - exact->there, exact->rate.count)));
}

static int64_t random_gap(seeded_t *seeded, const weir_token_bucket_t *bucket, rate_t rate, int64_t now_ns)
{
    int64_t each_ns = rate.period_ns / rate.count + 1;
    int64_t retry_ns = retry_after_ns(bucket, quota_of(rate), 1, now_ns);
    switch (seeded_below(seeded, 8)) {
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
        return (int64_t)seeded_below(seeded, (uint64_t)each_ns * 2);
    case 6:
        return (int64_t)seeded_below(seeded, (uint64_t)each_ns * 8);
    default: /* seldom all of it */
        if (seeded_below(seeded, 100) != 0)
            return (int64_t)seeded_below(seeded, (uint64_t)each_ns);
        return (int64_t)seeded_below(seeded, (uint64_t)(rate.burst < 100 ? rate.burst * 2 : 200) * (uint64_t)each_ns);
    }
}

static void random_arrivals(seeded_t *seeded, rate_t rate)
{
    weir_token_bucket_quota_t quota = quota_of(rate);
    weir_token_bucket_t bucket = {0};
    int64_t now_ns = (int64_t)seeded_below(seeded, INT64_C(1) << 50);
    exact_t exact = exact_start(rate, now_ns);
    for (int i = 0; i < ARRIVALS; ++i) {
        int64_t gap_ns = random_gap(seeded, &bucket, rate, now_ns);
        now_ns = gap_ns < INT64_MAX / 2 - now_ns ? now_ns + gap_ns : now_ns;
        int64_t cost = seeded_below(seeded, 4) != 0 ? 1 : 1 + (int64_t)seeded_below(seeded, (uint64_t)rate.burst + 1);
        exact_fill(&exact, now_ns);
        bool fits = weir_token_bucket_fits(&bucket, quota, cost, now_ns);
        assert_true(fits == (exact.there >= (wide_t)cost * rate.period_ns)); /* none over, none without cause */
        check_told(&bucket, &exact, cost);
        if (fits) {
            weir_token_bucket_take(&bucket, quota, cost, now_ns);
            exact.there -= (wide_t)cost * rate.period_ns;
        }
    }
}

static void test_a_million_random_arrivals_are_decided_as_exact_fractions_do(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (size_t i = 0; i < RATES; ++i)
        random_arrivals(&seeded, rates[i]);
}

/* The guarantee as it is written, over every interval of a log; and that each refusal would have broken it. */
typedef struct {
    int64_t at_ns, cost;
} charge_t;

static bool is_over(const charge_t *log, size_t count, rate_t rate)
{
    wide_t sum = 0;
    for (size_t i = count; i-- != 0;) { /* every interval that ends at the last one */
        sum += log[i].cost;
        wide_t bound = (wide_t)rate.burst * rate.period_ns + (wide_t)(log[count - 1].at_ns - log[i].at_ns) * rate.count;
        if (sum * rate.period_ns > bound)
            return true;
    }
    return false;
}

static void test_no_interval_holds_more_than_burst_and_rate_and_no_refusal_is_without_cause(void **state)
{
    enum { LOG = 600 };
    seeded_t seeded = seeded_start(__func__);
    for (size_t r = 0; r < RATES * 4; ++r) {
        rate_t rate = rates[r % RATES];
        weir_token_bucket_t bucket = {0};
        charge_t log[LOG];
        size_t count = 0;
        int64_t now_ns = 0;
        for (int i = 0; i < LOG; ++i) {
            now_ns += random_gap(&seeded, &bucket, rate, now_ns) % (INT64_MAX / LOG);
            int64_t cost = 1 + (int64_t)seeded_below(&seeded, (uint64_t)rate.burst);
            log[count] = (charge_t){now_ns, cost};
            bool fits = weir_token_bucket_fits(&bucket, quota_of(rate), cost, now_ns);
            assert_true(fits != is_over(log, count + 1, rate));
            if (fits)
                weir_token_bucket_take(&bucket, quota_of(rate), log[count++].cost, now_ns);
        }
    }
}

/* Tables */

typedef struct {
    int64_t at_ns;
    enum { TAKE, REFUSE, BACK } what;
    int64_t cost;
    int64_t remaining, reset_ns, retry_after_ns; /* after it; retry of one more */
} step_t;

static void run(rate_t rate, const step_t *steps, size_t count)
{
    weir_token_bucket_quota_t quota = quota_of(rate);
    weir_token_bucket_t bucket = {0};
    for (const step_t *step = steps; step < steps + count; ++step) {
        if (step->what != BACK)
            assert_int_equal(weir_token_bucket_fits(&bucket, quota, step->cost, step->at_ns), step->what == TAKE);
        if (step->what == TAKE)
            weir_token_bucket_take(&bucket, quota, step->cost, step->at_ns);
        if (step->what == BACK)
            weir_token_bucket_put_back(&bucket, quota, step->cost, step->at_ns, step->at_ns);
        assert_int_equal(remaining(&bucket, quota, step->at_ns), step->remaining);
        assert_int_equal(reset_ns(&bucket, quota, step->at_ns), step->reset_ns);
        assert_int_equal(retry_after_ns(&bucket, quota, 1, step->at_ns), step->retry_after_ns);
    }
}

static void test_table(void **state)
{
    static const step_t three_a_second[] = {
        {0, TAKE, 1, 1, 333333334, 0},
        {0, TAKE, 1, 0, 666666667, 333333334},
        {0, REFUSE, 1, 0, 666666667, 333333334},
        {333333333, REFUSE, 1, 0, 333333334, 1},
        {333333334, TAKE, 1, 0, 666666666, 333333333}, /* the third of a ns that was too much is not lost */
        {666666667, TAKE, 1, 0, 666666667, 333333333},
        {666666667, BACK, 1, 1, 333333333, 0},
        {666666667, TAKE, 1, 0, 666666667, 333333333},
        {10 * S, TAKE, 2, 0, 666666667, 333333334},
        {10 * S, REFUSE, INT64_MAX, 0, 666666667, 333333334},
    };
    run((rate_t){3, S, 2}, three_a_second, sizeof(three_a_second) / sizeof(*three_a_second));
    static const step_t one_a_day[] = {
        {5, TAKE, 1, 0, D, D}, {5 + D - 1, REFUSE, 1, 0, 1, 1}, {5 + D, TAKE, 1, 0, D, D}, {5 + D, BACK, 1, 1, 0, 0}};
    run((rate_t){1, D, 1}, one_a_day, 4);
    static const step_t fastest[] = {{0, TAKE, S, 0, S, 1}, {1, TAKE, 1, 0, S, 1}, {INT64_MAX, TAKE, S, 0, S, 1}};
    run((rate_t){S, S, S}, fastest, 3);
}

static void test_a_rate_of_0_refuses_all_and_never_says_when(void **state)
{
    weir_token_bucket_quota_t none = weir_token_bucket_quota(0, S, 5);
    weir_token_bucket_t bucket = {0};
    assert_false(weir_token_bucket_fits(&bucket, none, 1, 0));
    assert_false(weir_token_bucket_fits(&bucket, none, 0, INT64_MAX));
    assert_int_equal(remaining(&bucket, none, 0), 0);
    assert_int_equal(reset_ns(&bucket, none, 0), -1);
    assert_int_equal(retry_after_ns(&bucket, none, 1, 0), -1);
}

/* Each token is there at the first ns after i / rate and not before, though the bucket is touched at odd times. */
static void refill(seeded_t *seeded, rate_t rate, int64_t n)
{
    weir_token_bucket_quota_t quota = quota_of(rate);
    weir_token_bucket_t bucket = {0};
    weir_token_bucket_take(&bucket, quota, 2, 0);
    for (int64_t i = 1, before_ns = 0; i <= n; ++i) {
        int64_t due_ns = up((wide_t)i * rate.period_ns, rate.count);
        for (int touch = 0; touch < 10 && due_ns - 1 > before_ns; ++touch) {
            before_ns += 1 + (int64_t)seeded_below(seeded, (uint64_t)(due_ns - 1 - before_ns));
            weir_token_bucket_take(&bucket, quota, 0, before_ns);
        }
        if (weir_token_bucket_fits(&bucket, quota, 1, due_ns - 1) || !weir_token_bucket_fits(&bucket, quota, 1, due_ns))
            fail_msg("refill %lld at %lld in %lld ns", (long long)i, (long long)rate.count, (long long)rate.period_ns);
        weir_token_bucket_take(&bucket, quota, 1, due_ns);
        before_ns = due_ns;
    }
}

static void test_a_million_refills_do_not_drift(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    refill(&seeded, (rate_t){1, D, 2}, 100000); /* 274 years, touched a million times */
    refill(&seeded, (rate_t){7, M, 2}, 300000);
    refill(&seeded, (rate_t){999983, D, 2}, 300000);
    refill(&seeded, (rate_t){999999937, H, 2}, 300000);
}

static void test_extremes(void **state)
{
    weir_token_bucket_quota_t slowest = weir_token_bucket_quota(1, D, S), fastest = weir_token_bucket_quota(S, S, S);
    weir_token_bucket_t bucket = {0};
    assert_false(weir_token_bucket_fits(&bucket, slowest, INT64_MAX, 0));
    assert_int_equal(retry_after_ns(&bucket, slowest, INT64_MAX, 0), -1);
    assert_true(weir_token_bucket_fits(&bucket, slowest, S, 0));
    weir_token_bucket_take(&bucket, slowest, S, 0);
    assert_int_equal(reset_ns(&bucket, slowest, 0), INT64_MAX); /* 2.7 million years */
    assert_int_equal(remaining(&bucket, slowest, INT64_MAX), INT64_MAX / D);
    assert_true(weir_token_bucket_fits(&bucket, fastest, S, S)); /* huge gap at the greatest rate */
    assert_true(weir_token_bucket_is_full(&(weir_token_bucket_t){0}, INT64_MAX));
    weir_token_bucket_take(&bucket, slowest, INT64_MAX, 0); /* a debt beyond all bounds is kept at the greatest */
    weir_token_bucket_take(&bucket, slowest, INT64_MAX, 0);
    assert_false(weir_token_bucket_fits(&bucket, slowest, 0, INT64_MAX));
    assert_int_equal(remaining(&bucket, slowest, INT64_MAX), 0);
}

static void test_time_that_stands_still_or_is_late_gives_nothing(void **state)
{
    weir_token_bucket_quota_t quota = weir_token_bucket_quota(S, S, 10);
    weir_token_bucket_t bucket = {0};
    for (int i = 0; i < 10; ++i)
        weir_token_bucket_take(&bucket, quota, 1, 1000);
    assert_false(weir_token_bucket_fits(&bucket, quota, 1, 1000));
    assert_false(weir_token_bucket_fits(&bucket, quota, 1, 900));
    weir_token_bucket_take(&bucket, quota, 1, 900);
    assert_int_equal(retry_after_ns(&bucket, quota, 1, 1000), 2);
}

static void test_another_quota_counts_what_was_used(void **state)
{
    weir_token_bucket_quota_t wide = weir_token_bucket_quota(100, S, 100), cut = weir_token_bucket_quota(10, S, 50);
    weir_token_bucket_t bucket = {0};
    weir_token_bucket_take(&bucket, wide, 30, S);
    assert_int_equal(remaining(&bucket, cut, S), 20);
    weir_token_bucket_take(&bucket, wide, 30, S);
    assert_int_equal(remaining(&bucket, cut, S), 0); /* ten in debt */
    assert_int_equal(retry_after_ns(&bucket, cut, 1, S), S + S / 10);
    assert_int_equal(remaining(&bucket, wide, S), 40); /* and back */
    weir_token_bucket_t day = {0};                     /* periods do not matter */
    weir_token_bucket_take(&day, weir_token_bucket_quota(999983, D, 999983), 999983, 0);
    assert_int_equal(remaining(&day, weir_token_bucket_quota(1, S, 1000000), 0), 17);
    assert_int_equal(remaining(&day, weir_token_bucket_quota(1, M, 1000000), M), 18);
}

static void test_settled_rows_have_the_old_rate_until_then_and_the_new_one_after(void **state)
{
    weir_token_bucket_quota_t fast = weir_token_bucket_quota(10, S, 100), slow = weir_token_bucket_quota(1, S, 100);
    weir_token_bucket_t bucket = {0};
    weir_token_bucket_take(&bucket, fast, 100, 0);
    weir_token_bucket_settle(&bucket, slow.parts_per_ns, false, 5 * S);
    assert_int_equal(remaining(&bucket, slow, 8 * S), 53);
    assert_false(weir_token_bucket_is_full(&bucket, 55 * S - 1));
    assert_true(weir_token_bucket_is_full(&bucket, 55 * S));
    weir_token_bucket_settle(&bucket, fast.parts_per_ns, false, 55 * S);
    assert_memory_equal(&bucket, &(weir_token_bucket_t){0}, sizeof(bucket)); /* full: nothing is remembered */
}

/* A rate that is the least until someone asks who knows it; what was earned until then is his. */
static void test_a_rate_that_is_not_certain_yet(void **state)
{
    weir_token_bucket_quota_t fast = weir_token_bucket_quota(10, S, 100), slow = weir_token_bucket_quota(1, S, 100);
    weir_token_bucket_t bucket = {0};
    weir_token_bucket_take(&bucket, fast, 100, 0);
    weir_token_bucket_settle(&bucket, slow.parts_per_ns, true, 0);
    assert_true(weir_token_bucket_is_least(&bucket));
    weir_token_bucket_t other = bucket;
    weir_token_bucket_see(&bucket, fast, 5 * S);
    assert_false(weir_token_bucket_is_least(&bucket));
    assert_int_equal(weir_token_bucket_rate(&bucket), fast.parts_per_ns);
    assert_int_equal(remaining(&bucket, slow, 5 * S), 50);
    weir_token_bucket_see(&other, slow, 5 * S);
    assert_false(weir_token_bucket_is_least(&other));
    assert_int_equal(remaining(&other, slow, 5 * S), 5);
    weir_token_bucket_see(&bucket, slow, 6 * S); /* a slower one that is refused changes nothing */
    assert_int_equal(weir_token_bucket_rate(&bucket), fast.parts_per_ns);
    assert_int_equal(remaining(&bucket, fast, 6 * S), 60);
}

/* Refunds: the world in which the refunded ones never came is the exact one. */
enum { HISTORY = 120 };

typedef struct {
    charge_t charges[HISTORY];
    bool is_back[HISTORY];
    size_t count;
} history_t;

static wide_t used_without_refunded(const history_t *history, rate_t rate, int64_t now_ns)
{
    wide_t used = 0;
    int64_t at_ns = 0;
    for (size_t i = 0; i <= history->count; ++i) {
        int64_t next_ns = i < history->count ? history->charges[i].at_ns : now_ns;
        used -= (wide_t)(next_ns - at_ns) * rate.count;
        used = used < 0 ? 0 : used;
        at_ns = next_ns;
        if (i < history->count && !history->is_back[i])
            used += (wide_t)history->charges[i].cost * rate.period_ns;
    }
    return used;
}

static void give_one_back(history_t *history, weir_token_bucket_t *bucket, rate_t rate, size_t i, int64_t now_ns)
{
    if (history->is_back[i])
        return;
    history->is_back[i] = true;
    weir_token_bucket_put_back(bucket, quota_of(rate), history->charges[i].cost, history->charges[i].at_ns, now_ns);
}

static void random_refunds(seeded_t *seeded, rate_t rate, bool at_once)
{
    weir_token_bucket_quota_t quota = quota_of(rate);
    weir_token_bucket_t bucket = {0};
    history_t history = {.count = 0};
    int64_t now_ns = 0;
    for (int step = 0; step < 10 * HISTORY && history.count < HISTORY; ++step) {
        now_ns += (int64_t)seeded_below(seeded, (uint64_t)(rate.period_ns / rate.count * 3 + 2));
        int64_t cost = 1 + (int64_t)seeded_below(seeded, (uint64_t)rate.burst);
        if (weir_token_bucket_fits(&bucket, quota, cost, now_ns)) {
            weir_token_bucket_take(&bucket, quota, cost, now_ns);
            history.charges[history.count++] = (charge_t){now_ns, cost};
            if (at_once && seeded_below(seeded, 2) == 0)
                give_one_back(&history, &bucket, rate, history.count - 1, now_ns);
        }
        if (!at_once && history.count != 0 && seeded_below(seeded, 2) == 0)
            give_one_back(&history, &bucket, rate, seeded_below(seeded, history.count), now_ns);
        wide_t used = used_without_refunded(&history, rate, now_ns), all = (wide_t)rate.burst * rate.period_ns;
        int64_t exact = used < all ? (int64_t)((all - used) / rate.period_ns) : 0;
        int64_t told = remaining(&bucket, quota, now_ns);
        assert_true(at_once ? told == exact : told <= exact);
    }
}

static void test_a_refund_at_once_is_exact_and_a_late_one_never_gives_too_much(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 400; ++i)
        random_refunds(&seeded, rates[i % RATES], i % 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_a_rate_of_0_refuses_all_and_never_says_when),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_time_that_stands_still_or_is_late_gives_nothing),
        cmocka_unit_test(test_a_million_refills_do_not_drift),
        cmocka_unit_test(test_another_quota_counts_what_was_used),
        cmocka_unit_test(test_settled_rows_have_the_old_rate_until_then_and_the_new_one_after),
        cmocka_unit_test(test_a_rate_that_is_not_certain_yet),
        cmocka_unit_test(test_a_refund_at_once_is_exact_and_a_late_one_never_gives_too_much),
        cmocka_unit_test(test_no_interval_holds_more_than_burst_and_rate_and_no_refusal_is_without_cause),
        cmocka_unit_test(test_a_million_random_arrivals_are_decided_as_exact_fractions_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
