/* Breaker: tables of {at, what happens, what must be}; random callers against a model that keeps every report in a
 * list; and in virtual time, a month of faults and ten minutes of a fault that comes and goes every second. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/breaker_state.h"

#define S INT64_C(1000000000)
#define MS INT64_C(1000000)

#define CLOSED WEIR_BREAKER_CLOSED
#define RAMP WEIR_BREAKER_RAMP
#define OPEN WEIR_BREAKER_OPEN
#define HALF_OPEN WEIR_BREAKER_HALF_OPEN
#define FORCED_OPEN WEIR_BREAKER_FORCED_OPEN
#define FORCED_CLOSED WEIR_BREAKER_FORCED_CLOSED
#define STATES WEIR_BREAKER_STATES
#define SUCCESS WEIR_BREAKER_SUCCESS
#define FAILURE WEIR_BREAKER_FAILURE
#define CANCELLED WEIR_BREAKER_CANCELLED

/* As a configuration has it that says nothing, without the jitter. */
static weir_breaker_quota_t quota_start(void)
{
    return (weir_breaker_quota_t){.window_ns = 30 * S,
                                  .min_requests = 20,
                                  .failure_rate_ppm = 500000,
                                  .consecutive_failures = 5,
                                  .open = {.base_ns = 5 * S, .max_ns = 300 * S},
                                  .probes = 3,
                                  .permit_ns = 900 * S};
}

static bool report(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, uint64_t number,
                   weir_breaker_outcome_t outcome, int64_t now_ns)
{
    return weir_breaker_report(breaker, quota, number, outcome, false, now_ns, 0);
}

static uint64_t admit(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    weir_breaker_answer_t answer = weir_breaker_ask(breaker, quota, now_ns);
    assert_true(answer.number != 0);
    assert_int_equal(answer.retry_after_ns, 0);
    return answer.number;
}

/* A try that ends as it began. Returns whether it was admitted. */
static bool try_once(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, weir_breaker_outcome_t outcome,
                     int64_t now_ns)
{
    uint64_t number = weir_breaker_ask(breaker, quota, now_ns).number;
    report(breaker, quota, number, outcome, now_ns);
    return number != 0;
}

static void try_many(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int count,
                     weir_breaker_outcome_t outcome, int64_t now_ns)
{
    for (int i = 0; i < count; ++i)
        assert_true(try_once(breaker, quota, outcome, now_ns));
}

static int ask_many(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int count, int64_t now_ns)
{
    int admitted = 0;
    for (int i = 0; i < count; ++i)
        admitted += weir_breaker_ask(breaker, quota, now_ns).number != 0;
    return admitted;
}

/* Failures until it opens; it was closed. */
static void trip(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    int64_t failures = quota->consecutive_failures;
    while (breaker->state != OPEN && failures-- != 0)
        (void)try_once(breaker, quota, FAILURE, now_ns);
    assert_int_equal(breaker->state, OPEN);
}

static void prove(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    try_many(breaker, quota, (int)quota->probes, SUCCESS, now_ns);
    assert_int_equal(breaker->state, RAMP);
}

/* Tables */

typedef struct {
    int64_t at_ms;
    enum { ASK, REFUSED, ENDS, FAILS, LEAVES, FORCE_OPEN, FORCE_CLOSED, LET_GO } what;
    uint64_t number; /* of the try */
    weir_breaker_state_t after;
    int64_t retry_after_ms; /* REFUSED */
} step_t;

static void take_step(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, const step_t *step)
{
    int64_t now_ns = step->at_ms * MS;
    switch (step->what) {
    case ASK:
        assert_int_equal(admit(breaker, quota, now_ns), step->number);
        break;
    case REFUSED:
        assert_int_equal(weir_breaker_tell(breaker, quota, now_ns).retry_after_ns, step->retry_after_ms * MS);
        assert_int_equal(weir_breaker_ask(breaker, quota, now_ns).retry_after_ns, step->retry_after_ms * MS);
        break;
    case ENDS:
    case FAILS:
    case LEAVES:
        report(breaker, quota, step->number, (weir_breaker_outcome_t)(step->what - ENDS), now_ns);
        break;
    default:
        weir_breaker_force(breaker,
                           step->what == LET_GO       ? WEIR_BREAKER_AUTO
                           : step->what == FORCE_OPEN ? WEIR_BREAKER_FORCE_OPEN
                                                      : WEIR_BREAKER_FORCE_CLOSED,
                           now_ns);
    }
}

static void run(weir_breaker_quota_t quota, const step_t *steps, size_t count)
{
    weir_breaker_t breaker = {0};
    for (const step_t *step = steps; step < steps + count; ++step) {
        take_step(&breaker, &quota, step);
        if (breaker.state != step->after)
            fail_msg("step %d: state %d", (int)(step - steps), (int)breaker.state);
    }
}

#define RUN(quota, steps) run(quota, steps, sizeof(steps) / sizeof(*(steps)))

static void test_table(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    quota.consecutive_failures = 2;
    quota.probes = 2;
    quota.permit_ns = 10 * S;
    quota.open.max_ns = 15 * S;
    static const step_t there_and_back[] = {
        {0, ASK, 1, CLOSED},
        {0, ASK, 2, CLOSED},
        {0, ASK, 3, CLOSED},
        {1000, FAILS, 1, CLOSED},
        {1000, FAILS, 2, OPEN},
        {1000, FAILS, 3, OPEN}, /* began before: means nothing */
        {1000, REFUSED, 0, OPEN, 5000},
        {5999, REFUSED, 0, OPEN, 1},
        {6000, ASK, 4, HALF_OPEN},
        {6000, ASK, 5, HALF_OPEN},
        {6000, REFUSED, 0, HALF_OPEN, 1000},
        {6500, ENDS, 4, HALF_OPEN},
        {6500, REFUSED, 0, HALF_OPEN, 1000}, /* one success and one that runs are two */
        {6600, FAILS, 5, OPEN},              /* doubled */
        {6600, REFUSED, 0, OPEN, 10000},
        {16600, ASK, 6, HALF_OPEN},
        {16600, LEAVES, 6, HALF_OPEN},
        {16600, ASK, 7, HALF_OPEN},
        {16700, ASK, 8, HALF_OPEN},
        {26500, REFUSED, 0, HALF_OPEN, 100}, /* the permit of 7 is due */
        {26600, ASK, 9, HALF_OPEN},
        {26600, FAILS, 7, HALF_OPEN}, /* too late */
        {26650, ENDS, 8, HALF_OPEN},
        {26650, ENDS, 8, HALF_OPEN}, /* twice is a caller's mistake, and no success */
        {26700, ENDS, 9, RAMP},
        {26700, ASK, 10, RAMP},
        {26700, REFUSED, 0, RAMP, 1000},
        {26800, REFUSED, 0, RAMP, 900},
        {27700, ASK, 11, RAMP},
        {27700, REFUSED, 0, RAMP, 1000},
        {27700, ASK, 12, RAMP},
        {28700, ASK, 13, RAMP},
        {28700, ASK, 14, RAMP},
        {29699, ASK, 15, RAMP},
        {29700, ASK, 16, CLOSED},
        {30000, FAILS, 10, CLOSED}, /* began in the ramp: counts */
        {30000, FAILS, 16, OPEN},   /* the window since it closed is not over: doubled, and capped */
        {30000, REFUSED, 0, OPEN, 15000},
        {45000, ASK, 17, HALF_OPEN},
        {45000, ASK, 18, HALF_OPEN},
        {45000, ENDS, 17, HALF_OPEN},
        {45000, ENDS, 18, RAMP},
        {77999, ASK, 19, CLOSED},
        {78000, ASK, 20, CLOSED}, /* a window after the ramp */
        {78000, FAILS, 19, CLOSED},
        {78000, FAILS, 20, OPEN},
        {78000, REFUSED, 0, OPEN, 5000},
    };
    RUN(quota, there_and_back);
    static const step_t by_hand[] = {
        {0, LET_GO, 0, CLOSED},
        {0, ASK, 1, CLOSED},
        {0, FORCE_OPEN, 0, FORCED_OPEN},
        {0, FAILS, 1, FORCED_OPEN},
        {0, REFUSED, 0, FORCED_OPEN, 5000},
        {900000, REFUSED, 0, FORCED_OPEN, 5000},
        {900000, FORCE_OPEN, 0, FORCED_OPEN},
        {900000, LET_GO, 0, HALF_OPEN},
        {900000, ASK, 2, HALF_OPEN},
        {900000, FORCE_CLOSED, 0, FORCED_CLOSED},
        {900000, FAILS, 2, FORCED_CLOSED},
        {900000, ASK, 3, FORCED_CLOSED},
        {900000, ASK, 4, FORCED_CLOSED},
        {900000, ASK, 5, FORCED_CLOSED},
        {900000, FAILS, 3, FORCED_CLOSED},
        {900000, FAILS, 4, FORCED_CLOSED},
        {900000, LET_GO, 0, CLOSED},
        {900000, FAILS, 5, CLOSED},
        {900000, ASK, 6, CLOSED},
        {900000, FAILS, 6, CLOSED},
        {900000, ASK, 7, CLOSED},
        {900000, FAILS, 7, OPEN},
        {900000, FORCE_CLOSED, 0, FORCED_CLOSED},
        {900000, FORCE_OPEN, 0, FORCED_OPEN},
        {900000, LET_GO, 0, HALF_OPEN},
        {900000, ASK, 8, HALF_OPEN},
        {900000, FAILS, 8, OPEN},
        {900000, REFUSED, 0, OPEN, 5000}, /* a hand on it resets the doubling */
    };
    RUN(quota, by_hand);
}

static void test_it_opens_on_the_nth_and_not_before(void **state)
{
    for (int64_t n = 1; n < 40; ++n) { /* in a row */
        weir_breaker_quota_t quota = quota_start();
        quota.consecutive_failures = n;
        quota.min_requests = 1000;
        weir_breaker_t breaker = {0};
        try_many(&breaker, &quota, (int)n - 1, FAILURE, S);
        try_many(&breaker, &quota, 1, SUCCESS, S);
        for (int64_t i = 1; i < n; ++i) {
            assert_true(try_once(&breaker, &quota, FAILURE, S));
            assert_true(try_once(&breaker, &quota, CANCELLED, S)); /* neither one of them, nor the end of the row */
        }
        assert_int_equal(breaker.state, CLOSED);
        assert_true(try_once(&breaker, &quota, FAILURE, S));
        assert_int_equal(breaker.state, OPEN);
    }
    for (int64_t rate_ppm = 100000; rate_ppm <= 1000000; rate_ppm += 100000) { /* by rate: all that fail come first */
        for (int64_t min = 1; min <= 60; min += 7) {
            weir_breaker_quota_t quota = quota_start();
            quota.consecutive_failures = 0;
            quota.failure_rate_ppm = rate_ppm;
            quota.min_requests = min;
            weir_breaker_t breaker = {0};
            int64_t requests = 0, failures = 0;
            while (breaker.state == CLOSED) {
                bool fails = requests % 3 == 2 || rate_ppm > 300000;
                assert_true(try_once(&breaker, &quota, fails ? FAILURE : SUCCESS, S));
                ++requests;
                failures += fails;
                bool is_over = fails && requests >= min && failures * 1000000 >= rate_ppm * requests;
                assert_int_equal(breaker.state, is_over ? OPEN : CLOSED);
                if (requests > 100)
                    break;
            }
        }
    }
}

static void test_a_success_never_opens_it_and_the_window_slides(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    quota.consecutive_failures = 0;
    weir_breaker_t breaker = {0};
    try_many(&breaker, &quota, 15, FAILURE, 0);
    try_many(&breaker, &quota, 5, SUCCESS, 0); /* 15 of 20, but it gets better */
    assert_int_equal(breaker.state, CLOSED);
    weir_breaker_told_t told = weir_breaker_tell(&breaker, &quota, 30 * S);
    assert_int_equal(told.requests, 20);
    assert_int_equal(told.failures, 15);
    assert_int_equal(weir_breaker_tell(&breaker, &quota, 31 * S).requests, 0);
    try_many(&breaker, &quota, 19, FAILURE, 31 * S);
    assert_int_equal(breaker.state, CLOSED);
    assert_true(try_once(&breaker, &quota, FAILURE, 31 * S));
    assert_int_equal(breaker.state, OPEN);
}

static void test_slow_answers_open_it_too(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    assert_false(weir_breaker_is_slow(&quota, INT64_MAX));
    weir_breaker_t breaker = {0};
    for (int i = 0; i < 100; ++i)
        weir_breaker_report(&breaker, &quota, admit(&breaker, &quota, 0), SUCCESS, true, 0, 0);
    assert_int_equal(breaker.state, CLOSED); /* slow: false */
    quota.slow.is_on = true;
    quota.slow.first_byte_ns = 30 * S;
    quota.slow.rate_ppm = 800000;
    assert_false(weir_breaker_is_slow(&quota, 30 * S));
    assert_true(weir_breaker_is_slow(&quota, 30 * S + 1));
    breaker = (weir_breaker_t){0};
    for (int i = 1; i <= 20; ++i) { /* 4 of 5, the 20th is the 16th slow one */
        assert_int_equal(breaker.state, CLOSED);
        weir_breaker_report(&breaker, &quota, admit(&breaker, &quota, 0), SUCCESS, i % 5 != 1, 0, 0);
    }
    assert_int_equal(breaker.state, OPEN);
    for (int slow = 0; slow <= 3; ++slow) { /* of three probes that succeed: two are 67 % */
        weir_breaker_t probed = breaker;
        for (int i = 0; i < 3; ++i)
            weir_breaker_report(&probed, &quota, admit(&probed, &quota, 5 * S), SUCCESS, i < slow, 5 * S, 0);
        assert_int_equal(probed.state, slow == 3 ? OPEN : RAMP);
    }
}

static void test_a_thousand_callers_at_half_open_are_exactly_the_probes(void **state)
{
    for (int probes = 1; probes <= WEIR_BREAKER_PROBES_MAX; ++probes) {
        weir_breaker_quota_t quota = quota_start();
        quota.probes = probes;
        weir_breaker_t breaker = {0};
        trip(&breaker, &quota, 0);
        uint64_t before = breaker.admitted;
        assert_int_equal(ask_many(&breaker, &quota, 1000, 5 * S - 1), 0);
        assert_int_equal(ask_many(&breaker, &quota, 1000, 5 * S), probes);
        weir_breaker_told_t told = weir_breaker_tell(&breaker, &quota, 5 * S);
        assert_int_equal(told.permits_out, probes);
        for (int i = 1; i < probes; ++i) { /* whoever ends lets nobody in: the others are what is needed */
            report(&breaker, &quota, before + (uint64_t)i, SUCCESS, 6 * S);
            assert_int_equal(ask_many(&breaker, &quota, 100, 6 * S), 0);
            assert_int_equal(weir_breaker_tell(&breaker, &quota, 6 * S).successes, i);
        }
        report(&breaker, &quota, before + (uint64_t)probes, CANCELLED, 6 * S); /* gives back */
        assert_int_equal(ask_many(&breaker, &quota, 1000, 6 * S), 1);
        assert_int_equal(ask_many(&breaker, &quota, 1000, 905 * S), 0); /* till 906 s, in which it expires */
        assert_int_equal(ask_many(&breaker, &quota, 1000, 906 * S), 1);
        report(&breaker, &quota, before + (uint64_t)probes + 1, SUCCESS, 906 * S);
        assert_int_equal(breaker.state, HALF_OPEN);
        report(&breaker, &quota, before + (uint64_t)probes + 2, SUCCESS, 906 * S);
        assert_int_equal(breaker.state, RAMP);
        assert_int_equal(breaker.admitted, before + (uint64_t)probes + 2);
    }
}

static void test_the_ramp_admits_just_its_share(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    for (int asks = 0; asks <= 250; asks += 7) {
        weir_breaker_t breaker = {0};
        trip(&breaker, &quota, 0);
        prove(&breaker, &quota, 5 * S);
        assert_int_equal(ask_many(&breaker, &quota, asks, 5 * S + 300), (asks + 9) / 10);
        assert_int_equal(ask_many(&breaker, &quota, asks, 6 * S + 999999999), (asks + 1) / 2);
        assert_int_equal(ask_many(&breaker, &quota, asks, 7 * S), asks);
        assert_int_equal(weir_breaker_tell(&breaker, &quota, 8 * S - 1).state, RAMP);
        assert_int_equal(weir_breaker_tell(&breaker, &quota, 8 * S).state, CLOSED);
        assert_int_equal(weir_breaker_tell(&breaker, &quota, 100 * S).since_ns, 8 * S);
    }
}

static void test_each_opening_lasts_twice_as_long_within_the_jitter(void **state)
{
    static const int64_t seconds[] = {5, 10, 20, 40, 80, 160, 300, 300, 300};
    seeded_t seeded = seeded_start(__func__);
    weir_breaker_quota_t quota = quota_start();
    quota.open.jitter_ppm = 200000;
    int64_t shortest_ns = INT64_MAX, longest_ns = 0; /* of the first */
    for (int round = 0; round < 2000; ++round) {
        weir_breaker_t breaker = {0};
        int64_t now_ns = 0;
        for (size_t i = 0; i < sizeof(seconds) / sizeof(*seconds); ++i) {
            for (bool opens = false; !opens;) {
                uint64_t random = round < 2 ? (uint64_t)0 - (uint64_t)round : seeded_next(&seeded);
                uint64_t number = admit(&breaker, &quota, now_ns);
                opens = weir_breaker_report(&breaker, &quota, number, FAILURE, false, now_ns, random);
            }
            int64_t ns = weir_breaker_ask(&breaker, &quota, now_ns).retry_after_ns;
            assert_true(ns >= seconds[i] * S / 5 * 4 && ns <= seconds[i] * S);
            shortest_ns = i == 0 && ns < shortest_ns ? ns : shortest_ns;
            longest_ns = i == 0 && ns > longest_ns ? ns : longest_ns;
            assert_int_equal(weir_breaker_ask(&breaker, &quota, now_ns + ns - 1).retry_after_ns, 1);
            now_ns += ns;
        }
    }
    assert_int_equal(shortest_ns, 4 * S);
    assert_int_equal(longest_ns, 5 * S);
}

static void test_changes_are_told_and_counted(void **state)
{
    static const char *const words[STATES] = {"closed", "closed", "open", "half_open", "open", "closed"};
    for (int s = 0; s < STATES; ++s)
        assert_string_equal(weir_breaker_word(weir_breaker_shown((weir_breaker_state_t)s)), words[s]);
    weir_breaker_quota_t quota = quota_start();
    quota.consecutive_failures = quota.probes = 1;
    weir_breaker_t breaker = {0};
    uint64_t first = admit(&breaker, &quota, 0), other = admit(&breaker, &quota, 0);
    assert_true(report(&breaker, &quota, first, FAILURE, 0));
    assert_false(weir_breaker_ask(&breaker, &quota, 0).is_changed);
    assert_false(report(&breaker, &quota, 0, FAILURE, 0));        /* of a refusal */
    assert_true(report(&breaker, &quota, other, FAILURE, 5 * S)); /* half_open by time alone */
    assert_int_equal(breaker.state, HALF_OPEN);
    assert_false(weir_breaker_ask(&breaker, &quota, 5 * S).is_changed);
    assert_true(report(&breaker, &quota, breaker.admitted, SUCCESS, 5 * S));
    assert_false(weir_breaker_ask(&breaker, &quota, 8 * S).is_changed); /* ramp to closed is no change */
    assert_false(weir_breaker_force(&breaker, WEIR_BREAKER_FORCE_CLOSED, 8 * S));
    assert_true(weir_breaker_force(&breaker, WEIR_BREAKER_FORCE_OPEN, 8 * S));
    assert_false(weir_breaker_force(&breaker, WEIR_BREAKER_FORCE_OPEN, 8 * S));
    assert_true(weir_breaker_force(&breaker, WEIR_BREAKER_AUTO, 8 * S));
    assert_false(weir_breaker_force(&breaker, WEIR_BREAKER_AUTO, 8 * S));
    static const uint64_t entered[STATES] = {1, 1, 1, 2, 1, 1};
    assert_memory_equal(breaker.entered, entered, sizeof(entered));
}

static void test_to_tell_changes_nothing(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    weir_breaker_t breaker = {0}, copy;
    trip(&breaker, &quota, 0);
    copy = breaker;
    assert_int_equal(weir_breaker_tell(&breaker, &quota, S).retry_after_ns, 4 * S);
    weir_breaker_told_t told = weir_breaker_tell(&breaker, &quota, 5 * S);
    assert_int_equal(told.state, HALF_OPEN);
    assert_int_equal(told.retry_after_ns, 0);
    assert_int_equal(told.permits_out, 0);
    assert_memory_equal(&breaker, &copy, sizeof(copy));
}

static void test_a_time_before_the_latest_is_taken_for_that(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    weir_breaker_t breaker = {0};
    trip(&breaker, &quota, 2 * S);
    assert_int_equal(weir_breaker_ask(&breaker, &quota, S).retry_after_ns, 6 * S); /* from the asker's own time */
    prove(&breaker, &quota, 7 * S);
    assert_int_equal(ask_many(&breaker, &quota, 100, 4 * S), 10);
    assert_int_equal(ask_many(&breaker, &quota, 100, 8 * S), 50);
    assert_int_equal(ask_many(&breaker, &quota, 100, 7 * S), 50); /* the second second goes on */
    try_many(&breaker, &quota, 5, FAILURE, 10 * S);
    assert_int_equal(weir_breaker_ask(&breaker, &quota, 20 * S - 1).retry_after_ns, 1); /* doubled */
    assert_int_equal(ask_many(&breaker, &quota, 100, 20 * S), 3);
    assert_int_equal(weir_breaker_tell(&breaker, &quota, 0).state, HALF_OPEN);
    report(&breaker, &quota, breaker.admitted, FAILURE, 10 * S);
    assert_int_equal(weir_breaker_ask(&breaker, &quota, 10 * S).retry_after_ns, 30 * S);
}

static void test_another_quota_never_leaves_it_stuck(void **state)
{
    weir_breaker_quota_t wide = quota_start(), narrow = quota_start();
    wide.probes = 10;
    narrow.probes = 2;
    weir_breaker_t breaker = {0};
    trip(&breaker, &wide, 0);
    for (int i = 0; i < 5; ++i)
        assert_true(try_once(&breaker, &wide, SUCCESS, 5 * S));
    assert_int_equal(breaker.state, HALF_OPEN);
    /* five successes are more than two, and the next one sees it */
    assert_int_equal(ask_many(&breaker, &narrow, 1000, 5 * S), 1);
    report(&breaker, &narrow, breaker.admitted, SUCCESS, 5 * S);
    assert_int_equal(breaker.state, RAMP);
    try_many(&breaker, &wide, 4, FAILURE, 7 * S);
    wide.window_ns = 60 * S; /* another window starts the rates anew, the row goes on */
    assert_true(try_once(&breaker, &wide, FAILURE, 7 * S));
    assert_int_equal(breaker.state, OPEN);
}

static void test_extremes(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    quota.consecutive_failures = INT64_MAX;
    quota.min_requests = INT64_MAX;
    quota.window_ns = quota.permit_ns = quota.open.base_ns = quota.open.max_ns = INT64_MAX;
    quota.open.jitter_ppm = WEIR_BREAKER_PPM;
    weir_breaker_t breaker = {0};
    try_many(&breaker, &quota, 100, FAILURE, INT64_MAX);
    try_many(&breaker, &quota, 100, FAILURE, 0); /* late */
    assert_int_equal(breaker.state, CLOSED);
    quota.consecutive_failures = 1;
    breaker = (weir_breaker_t){0};
    weir_breaker_report(&breaker, &quota, admit(&breaker, &quota, S), FAILURE, false, S, 0);
    assert_int_equal(weir_breaker_ask(&breaker, &quota, S).retry_after_ns, INT64_MAX - S); /* the end of time */
    assert_int_equal(weir_breaker_ask(&breaker, &quota, 0).retry_after_ns, INT64_MAX);
    assert_true(admit(&breaker, &quota, INT64_MAX) != 0);
    breaker = (weir_breaker_t){0};
    weir_breaker_report(&breaker, &quota, admit(&breaker, &quota, S), FAILURE, false, S, UINT64_MAX);
    assert_int_equal(weir_breaker_ask(&breaker, &quota, S).retry_after_ns, 1); /* all of it is jitter */
    quota.open.base_ns = 1;
    quota.open.jitter_ppm = 0;
    for (int64_t i = 0, now_ns = 0; i < 63; ++i) { /* doubles up to what fits */
        breaker.opens = (uint32_t)i;
        breaker.state = HALF_OPEN;
        breaker.now_ns = 0;
        breaker.before = breaker.admitted;
        memset(breaker.permits, 0, sizeof(breaker.permits));
        report(&breaker, &quota, admit(&breaker, &quota, now_ns), FAILURE, now_ns);
        assert_int_equal(weir_breaker_ask(&breaker, &quota, now_ns).retry_after_ns, INT64_C(1) << i);
        assert_int_equal(breaker.opens, i < 62 ? i + 1 : 62);
    }
    breaker = (weir_breaker_t){0}; /* base over max: max */
    quota.open.base_ns = 10 * S;
    quota.open.max_ns = S;
    report(&breaker, &quota, admit(&breaker, &quota, 0), FAILURE, 0);
    assert_int_equal(weir_breaker_ask(&breaker, &quota, 0).retry_after_ns, S);
    weir_breaker_force(&breaker, WEIR_BREAKER_FORCE_OPEN, INT64_MAX);
    assert_int_equal(weir_breaker_ask(&breaker, &quota, INT64_MAX).retry_after_ns, 1);
}

/* The model: every try and every report of the state that is, in lists. */
enum { LOG = 4000, RUNNING = 4000 };

typedef struct {
    int64_t at_ns;
    bool fails, is_slow;
} end_t;

typedef struct {
    uint64_t number;
    int64_t began_ns;
    int64_t expires_ns; /* of a probe's permit; 0: it is none */
} running_t;

typedef struct {
    weir_breaker_state_t state;
    int64_t since_ns, until_ns;
    uint32_t opens;
    int64_t window_ns;
    size_t ends_count, running_count, asked, row, successes, slow_successes;
    int64_t asked_second;
    uint64_t numbers;
    end_t ends[LOG];
    running_t running[RUNNING]; /* of this state */
} model_t;

static void model_enter(model_t *model, weir_breaker_state_t state, int64_t since_ns, int64_t until_ns)
{
    model->state = state;
    model->since_ns = since_ns;
    model->until_ns = until_ns;
    model->ends_count = model->running_count = model->asked = model->row = model->successes = model->slow_successes = 0;
}

static void model_pass_time(model_t *model, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    if (model->state == OPEN && now_ns >= model->until_ns)
        model_enter(model, HALF_OPEN, model->until_ns, 0);
    if (model->state == RAMP && now_ns >= model->since_ns + 3 * S) {
        model->state = CLOSED; /* the same state, with all it knows */
        model->since_ns += 3 * S;
    }
    if (model->state == CLOSED && now_ns >= model->since_ns + quota->window_ns)
        model->opens = 0;
}

static void model_open(model_t *model, const weir_breaker_quota_t *quota, int64_t now_ns, uint64_t random)
{
    long double most = (long double)quota->open.base_ns; /* no jitter but all of it or nothing: exact */
    for (uint32_t i = 0; i < model->opens && most < (long double)quota->open.max_ns; ++i)
        most *= 2;
    int64_t ns = most < (long double)quota->open.max_ns ? (int64_t)most : quota->open.max_ns;
    if (random != 0)
        ns -= (int64_t)((long double)ns * (long double)quota->open.jitter_ppm / 1000000);
    ++model->opens;
    model_enter(model, OPEN, now_ns, now_ns + (ns > 0 ? ns : 1));
}

static size_t model_permits_out(const model_t *model, int64_t now_ns)
{
    size_t out = 0;
    for (size_t i = 0; i < model->running_count; ++i)
        out += model->running[i].expires_ns > now_ns;
    return out;
}

static bool model_admits(model_t *model, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    static const double shares[] = {0.1, 0.5, 1};
    size_t out = model_permits_out(model, now_ns);
    switch (model->state) {
    case OPEN:
    case FORCED_OPEN:
        return false;
    case HALF_OPEN:
        return out == 0 || out + model->successes < (size_t)quota->probes;
    case RAMP: {
        int64_t second = (now_ns - model->since_ns) / S;
        size_t asked = second == model->asked_second ? model->asked : 0;
        model->asked_second = second;
        model->asked = asked + 1;
        return (size_t)((double)asked * shares[second] + 0.999) !=
               (size_t)((double)(asked + 1) * shares[second] + 0.999);
    }
    default:
        return true;
    }
}

static void model_begin(model_t *model, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    int64_t expires_ns = model->state == HALF_OPEN ? now_ns + quota->permit_ns : 0;
    assert_true(model->running_count < RUNNING);
    model->running[model->running_count++] = (running_t){++model->numbers, now_ns, expires_ns};
}

static bool model_trips(model_t *model, const weir_breaker_quota_t *quota, end_t end)
{
    int64_t slot_ns = (quota->window_ns + 29) / 30;
    uint64_t requests = 0, failures = 0, slow = 0;
    if (model->window_ns != quota->window_ns)
        model->ends_count = 0;
    model->window_ns = quota->window_ns;
    assert_true(model->ends_count < LOG);
    model->ends[model->ends_count++] = end;
    for (size_t i = 0; i < model->ends_count; ++i) {
        if (model->ends[i].at_ns / slot_ns < end.at_ns / slot_ns - 30)
            continue;
        ++requests;
        failures += model->ends[i].fails;
        slow += model->ends[i].is_slow;
    }
    model->row = end.fails ? model->row + 1 : 0;
    bool is_enough = requests >= (uint64_t)quota->min_requests;
    return (end.fails && quota->consecutive_failures != 0 && model->row >= (size_t)quota->consecutive_failures) ||
           (end.fails && is_enough && failures * 1000000 >= requests * (uint64_t)quota->failure_rate_ppm) ||
           (end.is_slow && is_enough && slow * 1000000 >= requests * (uint64_t)quota->slow.rate_ppm);
}

static void model_end_probe(model_t *model, const weir_breaker_quota_t *quota, end_t end, uint64_t random)
{
    if (end.fails) {
        model_open(model, quota, end.at_ns, random);
        return;
    }
    ++model->successes;
    model->slow_successes += end.is_slow;
    if (model->successes < (size_t)quota->probes)
        return;
    if (quota->slow.is_on && model->slow_successes != 0 &&
        model->slow_successes * 1000000 >= model->successes * (uint64_t)quota->slow.rate_ppm)
        model_open(model, quota, end.at_ns, random);
    else
        model_enter(model, RAMP, end.at_ns, 0);
}

static void model_end(model_t *model, const weir_breaker_quota_t *quota, uint64_t number,
                      weir_breaker_outcome_t outcome, end_t end, uint64_t random)
{
    size_t i = 0;
    while (i < model->running_count && model->running[i].number != number)
        ++i;
    if (i == model->running_count)
        return; /* of a state that is over */
    running_t running = model->running[i];
    model->running[i] = model->running[--model->running_count];
    bool is_late = model->state == HALF_OPEN && running.expires_ns <= end.at_ns;
    if (outcome == CANCELLED || is_late)
        return;
    if (model->state == HALF_OPEN)
        model_end_probe(model, quota, end, random);
    else if (model_trips(model, quota, end) && model->state != FORCED_CLOSED)
        model_open(model, quota, end.at_ns, random);
}

static void model_force(model_t *model, weir_breaker_force_t force, int64_t now_ns)
{
    bool is_forced = model->state == FORCED_OPEN || model->state == FORCED_CLOSED;
    weir_breaker_state_t to = force == WEIR_BREAKER_FORCE_OPEN     ? FORCED_OPEN
                              : force == WEIR_BREAKER_FORCE_CLOSED ? FORCED_CLOSED
                              : model->state == FORCED_OPEN        ? HALF_OPEN
                                                                   : CLOSED;
    if (to == model->state || (force == WEIR_BREAKER_AUTO && !is_forced))
        return;
    model->opens = 0;
    model_enter(model, to, now_ns, 0);
}

static weir_breaker_quota_t random_quota(seeded_t *seeded)
{
    weir_breaker_quota_t quota = {.window_ns = 1 + (int64_t)seeded_below(seeded, 40 * S),
                                  .min_requests = (int64_t)seeded_below(seeded, 30),
                                  .failure_rate_ppm = (int64_t)seeded_below(seeded, 11) * 100000,
                                  .consecutive_failures = (int64_t)seeded_below(seeded, 8),
                                  .probes = 1 + (int64_t)seeded_below(seeded, seeded_below(seeded, 4) == 0 ? 32 : 4),
                                  .permit_ns = 1 + (int64_t)seeded_below(seeded, 20 * S)};
    quota.slow.is_on = seeded_below(seeded, 2);
    quota.slow.rate_ppm = (int64_t)seeded_below(seeded, 11) * 100000;
    quota.open.base_ns = 1 + (int64_t)seeded_below(seeded, 5 * S);
    quota.open.max_ns = quota.open.base_ns + (int64_t)seeded_below(seeded, 60 * S);
    quota.open.jitter_ppm = (int64_t)seeded_below(seeded, 3) * 500000;
    return quota;
}

/* Ends of things, just before them, and what lies between. */
static int64_t random_gap(seeded_t *seeded, const model_t *model, int64_t now_ns)
{
    int64_t until_ns = model->state == RAMP ? model->since_ns + 3 * S : model->until_ns;
    switch (seeded_below(seeded, 12)) {
    case 0:
        return until_ns > now_ns ? until_ns - now_ns : 1;
    case 1:
        return until_ns > now_ns + 1 ? until_ns - now_ns - 1 : 0;
    case 2:
        return (int64_t)seeded_below(seeded, 2 * S);
    case 3:
        return seeded_below(seeded, 10) == 0 ? (int64_t)seeded_below(seeded, 60 * S) : 0;
    case 4:
    case 5:
        return (int64_t)seeded_below(seeded, 50 * MS);
    default:
        return 0;
    }
}

static void check_is_as(const weir_breaker_t *breaker, model_t *model, const weir_breaker_quota_t *quota,
                        int64_t now_ns)
{
    weir_breaker_told_t told = weir_breaker_tell(breaker, quota, now_ns);
    if (told.state != model->state)
        fail_msg("state %d, should be %d", (int)told.state, (int)model->state);
    assert_int_equal(told.since_ns, model->since_ns);
    assert_int_equal(told.successes, model->successes);
    assert_int_equal(told.permits_out, model->state == HALF_OPEN ? model_permits_out(model, now_ns) : 0);
    assert_int_equal(told.consecutive_failures, model->row);
    if (breaker->state == OPEN)
        assert_int_equal(breaker->until_ns, model->state == OPEN ? model->until_ns : told.since_ns);
}

static void random_callers(seeded_t *seeded)
{
    static model_t model;
    weir_breaker_quota_t quota = random_quota(seeded);
    weir_breaker_t breaker = {0};
    memset(&model, 0, sizeof(model));
    int64_t now_ns = 0;
    uint64_t fails_of_8 = 0;
    for (int i = 0; i < 1500; ++i) {
        now_ns += random_gap(seeded, &model, now_ns);
        if (seeded_below(seeded, 60) == 0)
            fails_of_8 = seeded_below(seeded, 3) == 0 ? seeded_below(seeded, 9) : 0;
        if (seeded_below(seeded, 300) == 0)
            quota = random_quota(seeded);
        model_pass_time(&model, &quota, now_ns);
        uint64_t what = seeded_below(seeded, 100);
        if (what < 50) {
            bool admits = model_admits(&model, &quota, now_ns);
            if (admits)
                model_begin(&model, &quota, now_ns);
            weir_breaker_answer_t answer = weir_breaker_ask(&breaker, &quota, now_ns);
            assert_int_equal(answer.number, admits ? model.numbers : 0);
            assert_true(admits ? answer.retry_after_ns == 0 : answer.retry_after_ns >= 1);
        } else if (what < 99 && model.numbers != 0) { /* most are of those that run, a few are late or come twice */
            uint64_t number = model.running_count != 0 && seeded_below(seeded, 20) != 0
                                  ? model.running[seeded_below(seeded, model.running_count)].number
                                  : seeded_below(seeded, model.numbers + 1);
            bool is_closed = model.state != HALF_OPEN; /* then a second report cannot be told from a first one */
            bool is_running = false;
            for (size_t k = 0; k < model.running_count; ++k)
                is_running |= model.running[k].number == number;
            if (is_closed && !is_running && number > breaker.before)
                continue;
            weir_breaker_outcome_t outcome = seeded_below(seeded, 10) == 0          ? CANCELLED
                                             : seeded_below(seeded, 8) < fails_of_8 ? FAILURE
                                                                                    : SUCCESS;
            uint64_t random = seeded_below(seeded, 2) == 0 ? 0 : UINT64_MAX;
            bool is_slow = seeded_below(seeded, 4) == 0;
            end_t end = {now_ns, outcome == FAILURE, is_slow && quota.slow.is_on};
            model_end(&model, &quota, number, outcome, end, random);
            weir_breaker_report(&breaker, &quota, number, outcome, is_slow, now_ns, random);
        } else if (what == 99 && seeded_below(seeded, 4) == 0) {
            weir_breaker_force_t force = (weir_breaker_force_t)seeded_below(seeded, 3);
            model_force(&model, force, now_ns);
            weir_breaker_force(&breaker, force, now_ns);
        }
        model_pass_time(&model, &quota, now_ns);
        check_is_as(&breaker, &model, &quota, now_ns);
    }
}

static void test_random_callers_are_answered_as_lists_of_all_of_them_do(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 400; ++i)
        random_callers(&seeded);
}

/* Virtual time. Every change is looked at as it comes. */
typedef struct {
    weir_breaker_t breaker;
    weir_breaker_quota_t quota;
    weir_breaker_state_t state; /* at the last look */
    uint32_t opens;             /* since the doubling began anew */
    int64_t admitted_ns;        /* the last one, or when this state began */
    uint64_t changes;           /* that were told */
} watched_t;

static void watch_opening(watched_t *watched, int64_t now_ns)
{
    const weir_breaker_quota_t *quota = &watched->quota;
    int64_t most_ns = quota->open.base_ns;
    for (uint32_t i = 0; i < watched->opens && most_ns < quota->open.max_ns; ++i)
        most_ns *= 2;
    most_ns = most_ns < quota->open.max_ns ? most_ns : quota->open.max_ns;
    int64_t ns = weir_breaker_tell(&watched->breaker, quota, now_ns).retry_after_ns;
    assert_true(ns <= most_ns);
    assert_true(ns >= most_ns - most_ns / 1000 * (quota->open.jitter_ppm / 1000) - 1000);
    ++watched->opens;
}

static void watch(watched_t *watched, bool is_told, int64_t now_ns)
{
    static const char legal[STATES][STATES + 1] = {
        [CLOSED] = "..O.fc",    [RAMP] = "C.O.fc",        [OPEN] = "...Hfc",
        [HALF_OPEN] = ".RO.fc", [FORCED_OPEN] = "...H.c", [FORCED_CLOSED] = "C...f.",
    };
    weir_breaker_state_t from = watched->state, to = watched->breaker.state;
    assert_true(is_told == (weir_breaker_shown(from) != weir_breaker_shown(to)));
    watched->changes += is_told;
    if (from == to)
        return;
    bool is_by_closed = from == RAMP && to == OPEN; /* the ramp may have ended in the same call */
    assert_true(is_by_closed || legal[from][to] != '.');
    watched->state = to;
    watched->admitted_ns = now_ns;
    if (to == OPEN)
        watch_opening(watched, now_ns);
    else if (to == CLOSED || to == FORCED_OPEN || to == FORCED_CLOSED)
        watched->opens = to == CLOSED ? watched->opens : 0;
}

/* As the header says: closed for a window after the ramp, it begins anew. */
static void watch_time(watched_t *watched, int64_t now_ns)
{
    weir_breaker_told_t told = weir_breaker_tell(&watched->breaker, &watched->quota, now_ns);
    if (told.state == CLOSED && now_ns - told.since_ns >= watched->quota.window_ns)
        watched->opens = 0;
}

static uint64_t watched_ask(watched_t *watched, int64_t now_ns)
{
    watch_time(watched, now_ns);
    weir_breaker_answer_t answer = weir_breaker_ask(&watched->breaker, &watched->quota, now_ns);
    watch(watched, answer.is_changed, now_ns);
    if (answer.number != 0)
        watched->admitted_ns = now_ns;
    assert_true((answer.number == 0) == (answer.retry_after_ns > 0));
    if (watched->state == HALF_OPEN) {
        weir_breaker_told_t told = weir_breaker_tell(&watched->breaker, &watched->quota, now_ns);
        assert_true(told.permits_out + told.successes <= watched->quota.probes);
        assert_true(answer.number != 0 || told.permits_out != 0);
        assert_true(answer.retry_after_ns <= S);
        assert_true(now_ns - watched->admitted_ns <= watched->quota.permit_ns); /* it never stands still for longer */
    }
    return answer.number;
}

static void watched_report(watched_t *watched, uint64_t number, weir_breaker_outcome_t outcome, bool is_slow,
                           int64_t now_ns, uint64_t random)
{
    watch_time(watched, now_ns);
    watch(watched, weir_breaker_report(&watched->breaker, &watched->quota, number, outcome, is_slow, now_ns, random),
          now_ns);
}

enum { FLYING = 512 };

typedef struct {
    uint64_t number;
    int64_t ends_ns;
    weir_breaker_outcome_t outcome;
    bool is_slow;
} flying_t;

typedef struct {
    watched_t watched;
    seeded_t seeded;
    uint64_t fails_of_100, slow_of_100;
    int64_t weather_ns, gap_ns; /* when the upstream changes; between callers */
    size_t count;
    flying_t flying[FLYING];
} month_t;

/* Between low and high, each order of magnitude as likely as any other. */
static int64_t random_size(seeded_t *seeded, int64_t low, int64_t high)
{
    int64_t top = low;
    while (top < high && seeded_below(seeded, 8) != 0)
        top *= 2;
    return low + (int64_t)seeded_below(seeded, (uint64_t)(top < high ? top : high - low) + 1);
}

static void land_until(month_t *month, int64_t now_ns)
{
    for (;;) {
        size_t first = 0;
        for (size_t i = 1; i < month->count; ++i)
            if (month->flying[i].ends_ns < month->flying[first].ends_ns)
                first = i;
        if (month->count == 0 || month->flying[first].ends_ns > now_ns)
            return;
        flying_t flying = month->flying[first];
        month->flying[first] = month->flying[--month->count];
        watched_report(&month->watched, flying.number, flying.outcome, flying.is_slow, flying.ends_ns,
                       seeded_next(&month->seeded));
    }
}

static void change_weather(month_t *month, int64_t now_ns)
{
    static const uint64_t fails_of_100[] = {0, 0, 0, 1, 5, 20, 50, 90, 100, 100}, slow_of_100[] = {0, 0, 0, 10, 79, 95};
    month->fails_of_100 = fails_of_100[seeded_below(&month->seeded, 10)];
    month->slow_of_100 = slow_of_100[seeded_below(&month->seeded, 6)];
    month->weather_ns = now_ns + random_size(&month->seeded, S, 6 * 3600 * S);
    month->gap_ns = random_size(&month->seeded, S, 60 * S);
}

static void take_off(month_t *month, int64_t now_ns)
{
    seeded_t *seeded = &month->seeded;
    uint64_t number = watched_ask(&month->watched, now_ns);
    if (number == 0 || seeded_below(seeded, 100) == 0 || month->count == FLYING)
        return; /* refused; or one that never reports */
    weir_breaker_outcome_t outcome = seeded_below(seeded, 100) < month->fails_of_100 ? FAILURE : SUCCESS;
    month->flying[month->count++] = (flying_t){.number = number,
                                               .ends_ns = now_ns + random_size(seeded, 50 * MS, 600 * S),
                                               .outcome = seeded_below(seeded, 20) == 0 ? CANCELLED : outcome,
                                               .is_slow = seeded_below(seeded, 100) < month->slow_of_100};
}

static void test_a_month_of_faults(void **state)
{
    static month_t month;
    month.seeded = seeded_start(__func__);
    month.watched.quota = quota_start();
    month.watched.quota.open.jitter_ppm = 200000;
    month.watched.quota.slow.is_on = true;
    month.watched.quota.slow.rate_ppm = 800000;
    watched_t *watched = &month.watched;
    int64_t now_ns = 0;
    while (now_ns < 30 * 86400 * S) {
        if (now_ns >= month.weather_ns)
            change_weather(&month, now_ns);
        now_ns += (int64_t)seeded_below(&month.seeded, (uint64_t)month.gap_ns);
        land_until(&month, now_ns);
        uint64_t callers = seeded_below(&month.seeded, 500) == 0 ? 100 : 1;
        while (callers-- != 0)
            take_off(&month, now_ns);
        bool is_forced = watched->state == FORCED_OPEN || watched->state == FORCED_CLOSED;
        if (seeded_below(&month.seeded, is_forced ? 200 : 4000) == 0) {
            weir_breaker_force_t force = (weir_breaker_force_t)seeded_below(&month.seeded, 3);
            watch(watched, weir_breaker_force(&watched->breaker, force, now_ns), now_ns);
        }
    }
    land_until(&month, INT64_MAX / 2); /* nobody comes any more */
    now_ns += 600 * S + watched->quota.permit_ns;
    assert_int_equal(weir_breaker_tell(&watched->breaker, &watched->quota, now_ns).permits_out, 0);
    for (int s = 0; s < STATES; ++s)
        assert_true(watched->breaker.entered[s] >= 3);
    watch(watched, weir_breaker_force(&watched->breaker, WEIR_BREAKER_AUTO, now_ns), now_ns);
    for (int i = 0; i < 400; ++i, now_ns += S) /* and with a sound upstream it closes */
        watched_report(watched, watched_ask(watched, now_ns), SUCCESS, false, now_ns, 0);
    assert_int_equal(watched->state, CLOSED);
    printf("  opened %llu times, %llu changes, %llu tries\n", (unsigned long long)watched->breaker.entered[OPEN],
           (unsigned long long)watched->changes, (unsigned long long)watched->breaker.admitted);
}

/* How often it may open in so long, if the doubling never begins anew: the sum of the shortest times but the last. */
static uint64_t openings_max(const weir_breaker_quota_t *quota, int64_t ns)
{
    uint64_t count = 1;
    int64_t most_ns = quota->open.base_ns;
    while ((ns -= most_ns / 1000 * (1000 - quota->open.jitter_ppm / 1000)) >= 0) {
        ++count;
        most_ns = most_ns * 2 < quota->open.max_ns ? most_ns * 2 : quota->open.max_ns;
    }
    return count;
}

/* The first `bad_ms` of every second fail, for ten minutes. Tries take latency_ms. Returns how often it opened. */
static uint64_t one_hz_fault(seeded_t *seeded, int64_t bad_ms, int64_t gap_ms, int64_t latency_ms)
{
    static uint64_t numbers[600000];
    watched_t watched = {.quota = quota_start()};
    watched.quota.open.jitter_ppm = 200000;
    for (int64_t ms = 0; ms < 600000; ms += gap_ms) {
        numbers[ms] = watched_ask(&watched, ms * MS);
        int64_t began_ms = ms - latency_ms;
        if (began_ms >= 0) {
            weir_breaker_outcome_t outcome = began_ms % 1000 < bad_ms ? FAILURE : SUCCESS;
            watched_report(&watched, numbers[began_ms], outcome, false, ms * MS, seeded_next(seeded));
        }
    }
    uint64_t most = openings_max(&watched.quota, 600 * S), opened = watched.breaker.entered[OPEN];
    assert_true(opened <= most);
    assert_true(watched.breaker.entered[HALF_OPEN] <= most);
    assert_true(watched.breaker.entered[RAMP] <= most);
    assert_true(watched.changes <= 3 * most);
    assert_true(watched.opens == opened || watched.state == CLOSED); /* at its end, where it bore the fault */
    return opened;
}

static void test_a_fault_of_1_hz_flaps_no_more_than_the_doubling(void **state)
{
    weir_breaker_quota_t quota = quota_start();
    assert_int_equal(openings_max(&quota, 600 * S), 7); /* 5 10 20 40 80 160 | 300 */
    quota.open.jitter_ppm = 200000;
    assert_int_equal(openings_max(&quota, 600 * S), 8); /* 4 8 16 32 64 128 240 | 240 */
    seeded_t seeded = seeded_start(__func__);
    uint64_t opened = 0;
    for (int64_t bad_ms = 100; bad_ms <= 1000; bad_ms += 100)
        for (int64_t gap_ms = 10; gap_ms <= 100; gap_ms += 45)
            for (int64_t latency_ms = 0; latency_ms <= 20; ++latency_ms)
                opened += one_hz_fault(&seeded, bad_ms, gap_ms, latency_ms * gap_ms);
    printf("  opened %d times\n", (int)opened);
    assert_true(opened > 1000); /* it does open, nearly always */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_it_opens_on_the_nth_and_not_before),
        cmocka_unit_test(test_a_success_never_opens_it_and_the_window_slides),
        cmocka_unit_test(test_slow_answers_open_it_too),
        cmocka_unit_test(test_a_thousand_callers_at_half_open_are_exactly_the_probes),
        cmocka_unit_test(test_the_ramp_admits_just_its_share),
        cmocka_unit_test(test_each_opening_lasts_twice_as_long_within_the_jitter),
        cmocka_unit_test(test_changes_are_told_and_counted),
        cmocka_unit_test(test_to_tell_changes_nothing),
        cmocka_unit_test(test_a_time_before_the_latest_is_taken_for_that),
        cmocka_unit_test(test_another_quota_never_leaves_it_stuck),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_random_callers_are_answered_as_lists_of_all_of_them_do),
        cmocka_unit_test(test_a_month_of_faults),
        cmocka_unit_test(test_a_fault_of_1_hz_flaps_no_more_than_the_doubling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
