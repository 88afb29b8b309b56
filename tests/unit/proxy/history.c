/* What is drawn adds up: each count stands in one step, each breaker's worst state in its own. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "../../../proxy/history.h"

#define SECOND INT64_C(1000000000)
#define START (1000 * SECOND)

static weir_history_t *history;

static int set_up(void **state)
{
    history = weir_history_create(START);
    return 0;
}

static int tear_down(void **state)
{
    weir_history_destroy(history);
    return 0;
}

static void sample(int64_t second, int64_t requests, int64_t in_flight)
{
    const int64_t values[WEIR_HISTORY_SERIES] = {
        [WEIR_HISTORY_REQUESTS] = requests,
        [WEIR_HISTORY_FAILED] = requests / 2,
        [WEIR_HISTORY_REFUSED] = 3 * requests,
        [WEIR_HISTORY_SAVED] = 5 * requests + 1,
        [WEIR_HISTORY_IN_FLIGHT] = in_flight,
    };
    weir_history_sample(history, values, START + second * SECOND);
}

static int64_t value_at(weir_history_series_t series, size_t i)
{
    int64_t values[WEIR_HISTORY_STEPS];
    weir_history_values(history, series, values);
    return values[i];
}

static void assert_letters(const char *upstream, const char *model, const char *wanted)
{
    char letters[WEIR_HISTORY_STEPS + 1];
    weir_history_letters(history, upstream, model, letters);
    assert_string_equal(letters, wanted);
}

static void a_step_is_told_when_it_is_over(void **state)
{
    assert_int_equal(weir_history_count(history), 0);
    assert_int_equal(weir_history_until_ns(history), START);
    assert_letters("agent", "", "");
    for (int64_t second = 1; second != 5; ++second)
        sample(second, 10 * second, second == 3 ? 7 : 2);
    assert_int_equal(weir_history_count(history), 0);
    sample(5, 50, 1);
    assert_int_equal(weir_history_count(history), 1);
    assert_int_equal(weir_history_until_ns(history), START + 5 * SECOND);
    assert_int_equal(value_at(WEIR_HISTORY_REQUESTS, 0), 50);
    assert_int_equal(value_at(WEIR_HISTORY_FAILED, 0), 25);
    assert_int_equal(value_at(WEIR_HISTORY_REFUSED, 0), 150);
    assert_int_equal(value_at(WEIR_HISTORY_SAVED, 0), 251);
    assert_int_equal(value_at(WEIR_HISTORY_IN_FLIGHT, 0), 7);
    for (int64_t second = 6; second != 11; ++second)
        sample(second, 50, 0);
    assert_int_equal(weir_history_count(history), 2);
    assert_int_equal(value_at(WEIR_HISTORY_REQUESTS, 0), 50);
    assert_int_equal(value_at(WEIR_HISTORY_REQUESTS, 1), 0);
    assert_int_equal(value_at(WEIR_HISTORY_IN_FLIGHT, 1), 0);
}

/* Over 500 steps, with samples that come late and at any time: the sum of what is told is what was counted. */
static void counts_are_told_once(void **state)
{
    int64_t told = 0, requests = 0;
    uint64_t random = 7;
    size_t seen = 0;
    int64_t second = 0;
    while (second < 2500) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        second += 1 + (int64_t)(random >> 60); /* 1 .. 16 s */
        requests += (int64_t)(random >> 33) % 100;
        sample(second, requests, 0);
        size_t now = (size_t)(second / 5), count = weir_history_count(history);
        assert_int_equal(weir_history_until_ns(history), START + (int64_t)now * 5 * SECOND);
        assert_int_equal(count, now < WEIR_HISTORY_STEPS ? now : WEIR_HISTORY_STEPS);
        for (; seen != now; ++seen)
            told += value_at(WEIR_HISTORY_REQUESTS, count - (now - seen));
        if (second % 5 == 0)
            assert_int_equal(told, requests);
        assert_true(told <= requests);
    }
    sample((second / 5 + 1) * 5, requests, 0);
    told += value_at(WEIR_HISTORY_REQUESTS, weir_history_count(history) - 1);
    assert_int_equal(told, requests);
}

static void a_long_silence_leaves_what_was_last(void **state)
{
    static const int64_t silences[] = {60, 900, 905, 910, 100000000};
    for (size_t i = 0; i != sizeof(silences) / sizeof(*silences); ++i) {
        weir_history_destroy(history);
        history = weir_history_create(START);
        sample(1, 5, 3);
        weir_history_breaker(history, "agent", "", "open");
        sample(1 + silences[i], 9, 4);
        size_t count = weir_history_count(history);
        int64_t steps = (1 + silences[i]) / 5;
        assert_int_equal(count, steps < WEIR_HISTORY_STEPS ? steps : WEIR_HISTORY_STEPS);
        char letters[WEIR_HISTORY_STEPS + 1];
        weir_history_letters(history, "agent", "", letters);
        assert_int_equal(strspn(letters, "o"), count);
        assert_int_equal(value_at(WEIR_HISTORY_IN_FLIGHT, count - 1), 4);
        assert_int_equal(value_at(WEIR_HISTORY_REQUESTS, count - 1), 0);
        if (steps <= WEIR_HISTORY_STEPS)
            assert_int_equal(value_at(WEIR_HISTORY_REQUESTS, 0), 9);
    }
}

static void a_breaker_shows_its_worst_state(void **state)
{
    static const struct {
        const char *seen[4];
        char letter;
    } cases[] = {
        {{"closed", "closed"}, 'c'},
        {{"closed", "paused", "closed"}, 'p'},
        {{"half_open", "paused"}, 'h'},
        {{"paused", "half_open", "closed"}, 'h'},
        {{"closed", "open", "half_open", "closed"}, 'o'},
        {{"open"}, 'o'},
        {{NULL}, '-'},
    };
    enum { CASES = sizeof(cases) / sizeof(*cases) };
    char wanted[CASES + 1] = "";
    for (size_t i = 0; i != CASES; ++i) {
        for (size_t k = 0; k != 4 && cases[i].seen[k] != NULL; ++k)
            weir_history_breaker(history, "agent", "", cases[i].seen[k]);
        sample(5 * ((int64_t)i + 1), 0, 0);
        wanted[i] = cases[i].letter;
    }
    assert_letters("agent", "", wanted);
    assert_letters("agent", "gpt-5", "-------");
}

static void breakers_are_told_apart(void **state)
{
    sample(5, 0, 0);
    weir_history_breaker(history, "a", "", "open");
    weir_history_breaker(history, "a", "gpt-5", "closed");
    weir_history_breaker(history, "b", "", "half_open");
    sample(10, 0, 0);
    assert_letters("a", "", "-o");
    assert_letters("a", "gpt-5", "-c");
    assert_letters("b", "", "-h");
    assert_letters("b", "gpt-5", "--");
    sample(15, 0, 0);
    weir_history_breaker(history, "a", "", "closed"); /* it was gone meanwhile */
    sample(20, 0, 0);
    assert_letters("a", "", "-o-c");
}

static void the_newest_steps_are_kept(void **state)
{
    for (int64_t step = 1; step <= 3 * WEIR_HISTORY_STEPS; ++step) {
        weir_history_breaker(history, "agent", "", step % 2 == 0 ? "open" : "closed");
        sample(5 * step, step * (step + 1) / 2, step); /* `step` of them in each */
    }
    assert_int_equal(weir_history_count(history), WEIR_HISTORY_STEPS);
    char letters[WEIR_HISTORY_STEPS + 1];
    weir_history_letters(history, "agent", "", letters);
    for (size_t i = 0; i != WEIR_HISTORY_STEPS; ++i) {
        assert_int_equal(value_at(WEIR_HISTORY_REQUESTS, i), 2 * WEIR_HISTORY_STEPS + i + 1);
        assert_int_equal(value_at(WEIR_HISTORY_IN_FLIGHT, i), 2 * WEIR_HISTORY_STEPS + i + 1);
        assert_int_equal(letters[i], (2 * WEIR_HISTORY_STEPS + i + 1) % 2 == 0 ? 'o' : 'c');
    }
}

/* Where there are too many, those that came later have none until one has nothing left to show. */
static void breakers_are_bounded(void **state)
{
    char name[32];
    for (int i = 0; i != WEIR_HISTORY_BREAKERS_MAX + 10; ++i) {
        snprintf(name, sizeof(name), "u%d", i);
        weir_history_breaker(history, name, "", "open");
    }
    sample(5, 0, 0);
    assert_letters("u0", "", "o");
    snprintf(name, sizeof(name), "u%d", WEIR_HISTORY_BREAKERS_MAX - 1);
    assert_letters(name, "", "o");
    snprintf(name, sizeof(name), "u%d", WEIR_HISTORY_BREAKERS_MAX);
    assert_letters(name, "", "-");
    for (int64_t step = 2; step <= WEIR_HISTORY_STEPS + 1; ++step)
        sample(5 * step, 0, 0);
    weir_history_breaker(history, name, "", "open");
    sample(5 * (WEIR_HISTORY_STEPS + 2), 0, 0);
    char letters[WEIR_HISTORY_STEPS + 1];
    weir_history_letters(history, name, "", letters);
    assert_int_equal(strspn(letters, "-"), WEIR_HISTORY_STEPS - 1);
    assert_int_equal(letters[WEIR_HISTORY_STEPS - 1], 'o');
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_step_is_told_when_it_is_over),
        TEST(counts_are_told_once),
        TEST(a_long_silence_leaves_what_was_last),
        TEST(a_breaker_shows_its_worst_state),
        TEST(breakers_are_told_apart),
        TEST(the_newest_steps_are_kept),
        TEST(breakers_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
