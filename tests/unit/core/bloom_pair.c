/* Bloom pair: what was added within the window is found whenever it is asked, how often what was not is, how full it
 * is, and the sizes that libbloom really makes. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <bloom.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/bloom_pair.h"

/* A filter that is too large is to be refused, not to end the program. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

enum { WINDOW = 1000000 };

static weir_bloom_key_t random_key(seeded_t *seeded)
{
    return (weir_bloom_key_t){seeded_next(seeded), seeded_next(seeded)};
}

/* Keys of all ages, in steps of random length: across rotations, and over several windows at once. */
static void test_a_key_of_the_last_window_is_found(void **state)
{
    enum { KEYS = 4000 };
    static struct {
        weir_bloom_key_t key;
        int64_t added_ns;
    } keys[KEYS];
    seeded_t seeded = seeded_start(__func__);
    weir_bloom_pair_t *pair = weir_bloom_pair_create(KEYS, 1e-3, WINDOW);
    int64_t now_ns = (int64_t)seeded_below(&seeded, 10 * (uint64_t)WINDOW);
    size_t count = 0, asked = 0;
    for (int i = 0; i < 100000; ++i) {
        now_ns += (int64_t)seeded_below(&seeded, seeded_below(&seeded, 2000) == 0 ? 3 * WINDOW : WINDOW / 1000);
        size_t chosen = seeded_below(&seeded, KEYS);
        if (chosen < count && now_ns - keys[chosen].added_ns <= WINDOW) {
            assert_true(weir_bloom_pair_has(pair, keys[chosen].key, now_ns));
            ++asked;
            continue;
        }
        chosen = count < KEYS ? count++ : chosen;
        keys[chosen].key = random_key(&seeded);
        keys[chosen].added_ns = now_ns;
        weir_bloom_pair_add(pair, keys[chosen].key, now_ns);
        assert_true(weir_bloom_pair_has(pair, keys[chosen].key, now_ns));
    }
    assert_true(asked > 1000);
    weir_bloom_pair_destroy(pair);
}

static void test_a_key_is_known_for_one_to_two_windows(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 300; ++i) {
        weir_bloom_pair_t *pair = weir_bloom_pair_create(1000, 1e-9, WINDOW);
        weir_bloom_key_t key = random_key(&seeded);
        int64_t added_ns = (int64_t)seeded_below(&seeded, 5 * (uint64_t)WINDOW);
        assert_false(weir_bloom_pair_has(pair, key, added_ns));
        assert_false(weir_bloom_pair_add(pair, key, added_ns));
        assert_true(weir_bloom_pair_has(pair, key, added_ns + WINDOW));
        int64_t end_ns = (added_ns / WINDOW + 2) * WINDOW;
        assert_true(weir_bloom_pair_has(pair, key, end_ns - 1));
        assert_false(weir_bloom_pair_has(pair, key, end_ns + (i % 3) * WINDOW));
        assert_false(weir_bloom_pair_add(pair, key, end_ns));
        assert_true(weir_bloom_pair_add(pair, key, end_ns));
        weir_bloom_pair_destroy(pair);
    }
}

static void test_a_jump_over_two_windows_clears_both(void **state)
{
    weir_bloom_pair_t *pair = weir_bloom_pair_create(1000, 1e-9, WINDOW);
    weir_bloom_key_t a = {1, 1}, b = {2, 2};
    assert_false(weir_bloom_pair_add(pair, a, WINDOW / 2));
    assert_false(weir_bloom_pair_add(pair, b, WINDOW + WINDOW / 2));
    assert_true(weir_bloom_pair_has(pair, a, WINDOW + WINDOW / 2));
    assert_false(weir_bloom_pair_has(pair, a, 3 * (int64_t)WINDOW));
    assert_false(weir_bloom_pair_has(pair, b, 3 * (int64_t)WINDOW));
    assert_true(weir_bloom_pair_fill(pair, 3 * (int64_t)WINDOW) == 0);
    assert_false(weir_bloom_pair_add(pair, a, INT64_MAX));
    assert_true(weir_bloom_pair_add(pair, a, 0)); /* time that goes back stands still */
    weir_bloom_pair_destroy(pair);
}

static void test_adding_again_keeps_it_for_longer(void **state)
{
    weir_bloom_pair_t *pair = weir_bloom_pair_create(1000, 1e-9, WINDOW);
    weir_bloom_key_t key = {3, 4};
    assert_false(weir_bloom_pair_add(pair, key, 0));
    for (int64_t now_ns = WINDOW; now_ns < 20 * (int64_t)WINDOW; now_ns += WINDOW)
        assert_true(weir_bloom_pair_add(pair, key, now_ns));
    weir_bloom_pair_destroy(pair);
}

/* At capacity, of both filters: each says yes too often by the configured rate at most. */
static void test_false_positives_at_capacity(void **state)
{
    enum { EXPECTED = 20000, ASKED = 200000 };
    seeded_t seeded = seeded_start(__func__);
    const double rate = 1e-3;
    weir_bloom_pair_t *pair = weir_bloom_pair_create(EXPECTED, rate, WINDOW);
    size_t wrong = 0;
    for (int i = 0; i < 2 * EXPECTED; ++i)
        wrong += weir_bloom_pair_add(pair, random_key(&seeded), i < EXPECTED ? 0 : WINDOW);
    assert_true(wrong < 2 * EXPECTED * 2 * rate);
    wrong = 0;
    for (int i = 0; i < ASKED; ++i)
        wrong += weir_bloom_pair_has(pair, random_key(&seeded), WINDOW);
    printf("false positives of both full filters: %.2e\n", (double)wrong / ASKED);
    assert_true((double)wrong / ASKED < 2 * 1.25 * rate);
    double fill = weir_bloom_pair_fill(pair, WINDOW);
    assert_true(fill > 0.99 && fill <= 1);
    wrong = 0;
    for (int i = 0; i < ASKED; ++i) /* the first one is cleared */
        wrong += weir_bloom_pair_has(pair, random_key(&seeded), 2 * (int64_t)WINDOW);
    assert_true((double)wrong / ASKED < 2 * rate);
    weir_bloom_pair_destroy(pair);
}

static void test_fill(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    weir_bloom_pair_t *pair = weir_bloom_pair_create(1000, 1e-6, WINDOW);
    weir_bloom_key_t twice = {5, 6};
    assert_true(weir_bloom_pair_fill(pair, 0) == 0);
    for (int i = 0; i < 100; ++i)
        weir_bloom_pair_add(pair, twice, 0);
    assert_true(weir_bloom_pair_fill(pair, 0) == 0.001);
    for (int i = 0; i < 499; ++i)
        assert_false(weir_bloom_pair_add(pair, random_key(&seeded), 0));
    assert_true(weir_bloom_pair_fill(pair, 0) == 0.5);
    assert_true(weir_bloom_pair_fill(pair, WINDOW) == 0.5); /* the fuller one is asked still */
    for (int i = 0; i < 4000; ++i)
        weir_bloom_pair_add(pair, random_key(&seeded), WINDOW);
    assert_true(weir_bloom_pair_fill(pair, WINDOW) > 1.5);
    assert_true(weir_bloom_pair_fill(pair, 3 * (int64_t)WINDOW) == 0);
    weir_bloom_pair_destroy(pair);
}

static bool libbloom_makes(uint64_t expected, double rate, uint64_t *bytes)
{
    struct bloom bloom;
    if (bloom_init(&bloom, (int)expected, rate * WEIR_BLOOM_SHARE) != 0)
        return false;
    *bytes = (uint64_t)bloom.bytes;
    bloom_free(&bloom);
    return true;
}

static void test_sizes_are_those_of_libbloom(void **state)
{
    static const double rates[] = {1e-9, 1e-6, 1e-3, 0.01, 0.1};
    for (size_t i = 0; i < sizeof(rates) / sizeof(*rates); ++i) {
        uint64_t most = weir_bloom_pair_expected_max(rates[i]), bytes = 0;
        for (uint64_t expected = WEIR_BLOOM_EXPECTED_MIN; expected < 1000000; expected = expected * 3 + 1) {
            assert_true(libbloom_makes(expected, rates[i], &bytes));
            assert_in_range(weir_bloom_pair_bytes(expected, rates[i]), 2 * bytes, 2 * bytes + 1024);
        }
        assert_true(libbloom_makes(most, rates[i], &bytes));
        assert_in_range(weir_bloom_pair_bytes(most, rates[i]), 2 * bytes, 2 * bytes + 1024);
        assert_int_equal(weir_bloom_pair_bytes(most + 1, rates[i]), 0);
#ifdef __x86_64__ /* elsewhere its count of bits may end at the largest int */
        assert_false(libbloom_makes(most + 2, rates[i], &bytes));
#endif
        assert_null(weir_bloom_pair_create(most + 1, rates[i], WINDOW));
        assert_int_equal(weir_bloom_pair_bytes(WEIR_BLOOM_EXPECTED_MIN - 1, rates[i]), 0);
        assert_null(weir_bloom_pair_create(WEIR_BLOOM_EXPECTED_MIN - 1, rates[i], WINDOW));
    }
    assert_in_range(weir_bloom_pair_expected_max(1e-6), 73000000, 74000000);
    assert_int_equal(weir_bloom_pair_bytes(1000, 0), 0);
    assert_int_equal(weir_bloom_pair_bytes(1000, 1), 0);
    assert_int_equal(weir_bloom_pair_bytes(1000, NAN), 0);
    assert_int_equal(weir_bloom_pair_bytes(UINT64_MAX, 0.1), 0);
    weir_bloom_pair_destroy(NULL);
}

enum { THREADS = 4, KEYS_OF_THREAD = 5000 };
typedef struct {
    weir_bloom_pair_t *pair;
    seeded_t seeded;
    size_t missing;
} worker_t;

static void *work(void *arg)
{
    worker_t *worker = arg;
    for (int i = 0; i < KEYS_OF_THREAD; ++i) {
        weir_bloom_key_t key = random_key(&worker->seeded);
        int64_t now_ns = i * (int64_t)WINDOW / 1000;
        weir_bloom_pair_add(worker->pair, key, now_ns);
        worker->missing += !weir_bloom_pair_has(worker->pair, key, now_ns);
    }
    return NULL;
}

static void test_threads(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    weir_bloom_pair_t *pair = weir_bloom_pair_create(100000, 1e-3, (int64_t)WINDOW * 1000);
    pthread_t threads[THREADS];
    worker_t workers[THREADS];
    for (int i = 0; i < THREADS; ++i) {
        workers[i] = (worker_t){pair, {seeded_next(&seeded)}};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; ++i) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].missing, 0);
    }
    weir_bloom_pair_destroy(pair);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_of_the_last_window_is_found),
        cmocka_unit_test(test_a_key_is_known_for_one_to_two_windows),
        cmocka_unit_test(test_a_jump_over_two_windows_clears_both),
        cmocka_unit_test(test_adding_again_keeps_it_for_longer),
        cmocka_unit_test(test_false_positives_at_capacity),
        cmocka_unit_test(test_fill),
        cmocka_unit_test(test_sizes_are_those_of_libbloom),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
