/* Counts of the last window: against a list of everything, by slots and by the guarantee as it is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/recent.h"

#define S INT64_C(1000000000)

enum { KINDS = WEIR_RECENT_KINDS, STEPS = 400 };

typedef struct {
    int64_t at_ns;
    unsigned kind;
} thing_t;

static uint32_t count_since(const thing_t *things, size_t count, unsigned kind, int64_t since_ns)
{
    uint32_t found = 0;
    for (size_t i = 0; i < count; ++i)
        found += things[i].kind == kind && things[i].at_ns >= since_ns;
    return found;
}

static uint32_t total_of(const weir_recent_t *recent, int64_t window_ns, unsigned kind, int64_t now_ns)
{
    weir_recent_t copy = *recent;
    weir_recent_forget(&copy, window_ns, now_ns);
    return copy.totals[kind];
}

static int64_t random_gap(seeded_t *seeded, int64_t window_ns)
{
    switch (seeded_below(seeded, 6)) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return window_ns / 30;
    case 3:
        return (int64_t)seeded_below(seeded, (uint64_t)window_ns / 8 + 2);
    case 4:
        return (int64_t)seeded_below(seeded, (uint64_t)window_ns / 40 + 2);
    default:
        return seeded_below(seeded, 20) == 0 ? window_ns : 2;
    }
}

static void test_what_is_counted_is_what_the_guarantee_says(void **state)
{
    static const int64_t windows[] = {1, 7, 30, 31, 1000, S, 10 * S, 30 * S + 1, 86400 * S, INT64_MAX / 2000};
    seeded_t seeded = seeded_start(__func__);
    for (size_t w = 0; w < 4 * sizeof(windows) / sizeof(*windows); ++w) {
        int64_t window_ns = windows[w % (sizeof(windows) / sizeof(*windows))], now_ns = 0;
        int64_t slot_ns = (window_ns + 29) / 30;
        weir_recent_t recent = {0};
        thing_t things[STEPS];
        for (size_t i = 0; i < STEPS; ++i) {
            now_ns += random_gap(&seeded, window_ns);
            things[i] = (thing_t){now_ns, (unsigned)seeded_below(&seeded, KINDS)};
            weir_recent_count(&recent, window_ns, things[i].kind, now_ns);
            int64_t then_ns = now_ns + random_gap(&seeded, window_ns);
            for (unsigned kind = 0; kind < KINDS; ++kind) {
                uint32_t total = total_of(&recent, window_ns, kind, then_ns);
                assert_int_equal(total, count_since(things, i + 1, kind, (then_ns / slot_ns - 30) * slot_ns));
                assert_true(total >= count_since(things, i + 1, kind, then_ns - window_ns));
                assert_true(total <= count_since(things, i + 1, kind, then_ns - window_ns - window_ns / 30 - 31));
            }
        }
    }
}

static void test_extremes(void **state)
{
    weir_recent_t recent = {0};
    weir_recent_forget(&recent, INT64_MAX, 0);
    weir_recent_count(&recent, INT64_MAX, 0, 0);
    assert_int_equal(total_of(&recent, INT64_MAX, 0, INT64_MAX), 1);
    weir_recent_count(&recent, 1, 0, INT64_MAX);
    assert_int_equal(recent.totals[0], 1); /* another window starts anew */
    weir_recent_count(&recent, 1, 0, 5);
    assert_int_equal(recent.totals[0], 2); /* late: of the slot that runs */
    weir_recent_count(&recent, S, 0, 0);
    weir_recent_count(&recent, S, 0, INT64_MAX); /* a huge gap forgets all */
    assert_int_equal(recent.totals[0], 1);
    recent.totals[0] = recent.counts[recent.slot % 31][0] = UINT32_MAX;
    weir_recent_count(&recent, S, 0, INT64_MAX);
    assert_int_equal(recent.totals[0], UINT32_MAX);
    weir_recent_count(&recent, S, 1, INT64_MAX);
    assert_int_equal(recent.totals[1], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_counted_is_what_the_guarantee_says),
        cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
