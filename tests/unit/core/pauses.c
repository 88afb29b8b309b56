/* Pauses after a 429: tables, and random ones against a list of everything that was said. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/pauses.h"

#define S INT64_C(1000000000)

enum { MAX = WEIR_PAUSES_MAX };

static weir_key_t key_of(uint64_t n)
{
    return (weir_key_t){n % 3, n / 3}; /* many differ in one half only; 0 is one of them */
}

static void test_the_pause_that_ends_last_holds(void **state)
{
    static weir_pauses_t pauses; /* a state of 0 */
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(0), 0), 0);
    assert_true(weir_pauses_pause(&pauses, key_of(0), 5 * S, S));
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(0), S), 5 * S);
    assert_true(weir_pauses_pause(&pauses, key_of(0), 2 * S, S)); /* a shorter one changes nothing */
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(0), 2 * S), 4 * S);
    assert_true(weir_pauses_pause(&pauses, key_of(0), 5 * S, 2 * S));
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(0), 2 * S), 5 * S);
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(1), 2 * S), 0);
    assert_int_equal(weir_pauses_longest_left_ns(&pauses, 2 * S), 5 * S);
    assert_int_equal(weir_pauses_count(&pauses, 7 * S - 1), 1);
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(0), 7 * S - 1), 1);
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(0), 7 * S), 0);
    assert_int_equal(weir_pauses_count(&pauses, 7 * S), 0);
    assert_true(weir_pauses_pause(&pauses, key_of(0), 0, 8 * S)); /* Retry-After: 0 */
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(0), 8 * S), 0);
}

static void test_a_full_table_loses_the_one_that_ends_first(void **state)
{
    static weir_pauses_t pauses;
    for (uint64_t n = 0; n < MAX; ++n)
        assert_true(weir_pauses_pause(&pauses, key_of(n), 10 * S + (int64_t)((n + 7) % MAX) * S, 0));
    assert_int_equal(weir_pauses_count(&pauses, 0), MAX);
    assert_false(weir_pauses_pause(&pauses, key_of(MAX), 9 * S, 0)); /* that one is the new one */
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(MAX), 0), 0);
    assert_true(weir_pauses_pause(&pauses, key_of(5), 20 * S, 0)); /* who has a row keeps it */
    assert_true(weir_pauses_pause(&pauses, key_of(MAX), 0, 0));    /* nothing is lost by none */
    uint64_t first = MAX - 7;
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(first), 0), 10 * S);
    assert_false(weir_pauses_pause(&pauses, key_of(MAX), 15 * S, 0));
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(MAX), 0), 15 * S);
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(first), 0), 0);
    assert_int_equal(weir_pauses_count(&pauses, 0), MAX);
    assert_true(weir_pauses_pause(&pauses, key_of(first), S, 11 * S)); /* the next one's is over by now */
    assert_int_equal(weir_pauses_longest_left_ns(&pauses, 0), (10 + MAX - 1) * S);
}

static void test_extremes(void **state)
{
    static weir_pauses_t pauses;
    assert_true(weir_pauses_pause(&pauses, key_of(1), INT64_MAX, INT64_MAX)); /* nothing comes after it */
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(1), INT64_MAX), 0);
    assert_true(weir_pauses_pause(&pauses, key_of(1), INT64_MAX, 0));
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(1), 0), INT64_MAX);
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(1), INT64_MAX - 1), 1);
    assert_true(weir_pauses_pause(&pauses, key_of(2), INT64_MAX, S));
    assert_int_equal(weir_pauses_left_ns(&pauses, key_of(2), S), INT64_MAX - S);
    assert_int_equal(weir_pauses_count(&pauses, INT64_MAX - 1), 2);
}

/* The model: of each key, what was said, and not lost. */
static void random_pauses(seeded_t *seeded, uint64_t keys)
{
    enum { KEYS = 2 * MAX };
    static weir_pauses_t pauses;
    memset(&pauses, 0, sizeof(pauses));
    int64_t until_ns[KEYS] = {0}, now_ns = 0;
    for (int i = 0; i < 6000; ++i) {
        now_ns += (int64_t)seeded_below(seeded, 40);
        uint64_t n = seeded_below(seeded, keys);
        int64_t ns = (int64_t)seeded_below(seeded, 6000);
        bool has_room = weir_pauses_pause(&pauses, key_of(n), ns, now_ns);
        uint64_t paused = 0, first = n;
        bool is_own = until_ns[n] > now_ns;
        if (ns != 0 && now_ns + ns > until_ns[n])
            until_ns[n] = now_ns + ns;
        for (uint64_t k = 0; k < keys; ++k) {
            paused += until_ns[k] > now_ns;
            if (until_ns[k] > now_ns && until_ns[k] < until_ns[first])
                first = k;
        }
        assert_true(has_room == (paused <= MAX));
        assert_true(!is_own || has_room);
        if (!has_room) { /* of those that end at the same time, any but one that ends later */
            uint64_t lost = 0;
            while (lost < keys && (until_ns[lost] <= now_ns || weir_pauses_left_ns(&pauses, key_of(lost), now_ns) != 0))
                ++lost;
            assert_true(lost < keys && until_ns[lost] == until_ns[first]);
            until_ns[lost] = 0;
            --paused;
        }
        assert_int_equal(weir_pauses_count(&pauses, now_ns), paused);
        int64_t longest_ns = now_ns;
        for (uint64_t k = 0; k < keys; ++k) {
            int64_t left_ns = until_ns[k] > now_ns ? until_ns[k] - now_ns : 0;
            assert_int_equal(weir_pauses_left_ns(&pauses, key_of(k), now_ns), left_ns);
            longest_ns = until_ns[k] > longest_ns ? until_ns[k] : longest_ns;
        }
        assert_int_equal(weir_pauses_longest_left_ns(&pauses, now_ns), longest_ns - now_ns);
    }
}

static void test_random_pauses_are_as_they_were_said(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    random_pauses(&seeded, 5);
    random_pauses(&seeded, MAX);
    random_pauses(&seeded, MAX + 1);
    random_pauses(&seeded, 2 * MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_pause_that_ends_last_holds),
        cmocka_unit_test(test_a_full_table_loses_the_one_that_ends_first),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_random_pauses_are_as_they_were_said),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
