/* Names of keys near their limit: which of many are kept, for how long, and that a name is always its own key's - under
 * threads too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/closest.h"

#define S INT64_C(1000000000)
#define STALE WEIR_CLOSEST_STALE_NS

static weir_key_t random_key(seeded_t *seeded)
{
    return (weir_key_t){seeded_next(seeded), seeded_next(seeded)};
}

/* Of the choice that all keys here have in common. */
static weir_key_t key_of(uint64_t i)
{
    return (weir_key_t){.low = i, .high = 32};
}

/* A name and an extra that tell whose they are. */
static void note(weir_closest_t *closest, weir_key_t key, unsigned used_permille, int64_t now_ns)
{
    char name[64];
    int len = snprintf(name, sizeof(name), "tenant=%" PRIx64 " model=%" PRIx64, key.low, key.high);
    weir_closest_note(closest, key, used_permille, now_ns, name, (size_t)len, &key, sizeof(key));
}

static bool is_right(const weir_closest_key_t *at)
{
    char name[64];
    snprintf(name, sizeof(name), "tenant=%" PRIx64 " model=%" PRIx64, at->key.low, at->key.high);
    return strcmp(at->name, name) == 0 && memcmp(at->extra, &at->key, sizeof(at->key)) == 0;
}

/* Where a key is in a list; count: nowhere. */
static size_t find(const weir_closest_key_t *keys, size_t count, weir_key_t key)
{
    for (size_t i = 0; i < count; ++i)
        if (keys[i].key.low == key.low && keys[i].key.high == key.high)
            return i;
    return count;
}

static bool is_known(weir_closest_t *closest, weir_key_t key)
{
    static weir_closest_key_t keys[WEIR_CLOSEST_PLACES];
    size_t count = weir_closest_list(closest, keys);
    return find(keys, count, key) != count;
}

static void ask_and_note(weir_closest_t *closest, weir_key_t key, unsigned used_permille, int64_t now_ns)
{
    if (weir_closest_wants(closest, key, used_permille, now_ns))
        note(closest, key, used_permille, now_ns);
}

static void test_a_key_is_noted_once_and_again_when_it_is_old(void **state)
{
    weir_closest_key_t keys[WEIR_CLOSEST_PLACES];
    weir_closest_t *closest = weir_closest_create();
    weir_key_t key = {7, 9};
    assert_int_equal(weir_closest_list(closest, keys), 0);
    assert_true(weir_closest_wants(closest, key, 0, 0));
    note(closest, key, 0, 0);
    assert_int_equal(weir_closest_list(closest, keys), 1);
    assert_true(is_right(&keys[0]));
    for (int64_t now_ns = 0; now_ns < STALE; now_ns += S / 10)
        assert_false(weir_closest_wants(closest, key, (unsigned)(now_ns % 1001), now_ns));
    assert_true(weir_closest_wants(closest, key, 900, STALE));
    weir_closest_note(closest, key, 900, STALE, "other", 5, NULL, 0);
    assert_int_equal(weir_closest_list(closest, keys), 1);
    assert_string_equal(keys[0].name, "other");
    static const unsigned char none[WEIR_CLOSEST_EXTRA_BYTES];
    assert_memory_equal(keys[0].extra, none, sizeof(none));
    assert_false(weir_closest_wants(closest, key, 900, 2 * STALE - 1));
    weir_closest_destroy(closest);
}

static void test_a_key_of_zeros_is_a_key(void **state)
{
    weir_closest_t *closest = weir_closest_create();
    weir_key_t key = {0, 0};
    assert_true(weir_closest_wants(closest, key, 0, 0));
    note(closest, key, 0, 0);
    assert_true(is_known(closest, key));
    assert_false(weir_closest_wants(closest, key, 0, 0));
    weir_closest_destroy(closest);
}

/* Sixteen keys have one choice of places; the 17th takes that of the one that is used up least, if it is used up to
 * more itself. */
static void test_the_one_that_is_used_up_least_gives_way(void **state)
{
    weir_closest_t *closest = weir_closest_create();
    for (unsigned i = 0; i < 16; ++i) {
        assert_true(weir_closest_wants(closest, key_of(i), 800 + i, S));
        note(closest, key_of(i), 800 + i, S);
    }
    assert_false(weir_closest_wants(closest, key_of(16), 800, S));
    note(closest, key_of(16), 800, S);
    assert_false(is_known(closest, key_of(16)));
    assert_true(weir_closest_wants(closest, key_of(16), 801, S));
    note(closest, key_of(16), 801, S);
    assert_true(is_known(closest, key_of(16)));
    assert_false(is_known(closest, key_of(0)));
    assert_false(weir_closest_wants(closest, key_of(1), 1000, S)); /* it is there, and worth more from now on */
    ask_and_note(closest, key_of(17), 802, S);
    assert_false(is_known(closest, key_of(16)));
    assert_true(is_known(closest, key_of(1)));
    assert_false(weir_closest_wants(closest, key_of(18), 802, S));
    assert_true(weir_closest_wants(closest, (weir_key_t){1, 33}, 1, S)); /* another choice */
    weir_closest_destroy(closest);
}

static void test_one_that_was_not_seen_for_long_gives_way_to_anyone(void **state)
{
    weir_closest_t *closest = weir_closest_create();
    for (unsigned i = 0; i < 16; ++i)
        note(closest, key_of(i), 1000, S);
    for (unsigned i = 0; i < 16; ++i)
        if (i != 5)
            assert_false(weir_closest_wants(closest, key_of(i), 1000, 2 * S));
    assert_false(weir_closest_wants(closest, key_of(16), 1000, S + STALE - S / 10));
    assert_true(weir_closest_wants(closest, key_of(16), 1, S + STALE));
    note(closest, key_of(16), 1, S + STALE);
    assert_true(is_known(closest, key_of(16)));
    assert_false(is_known(closest, key_of(5)));
    weir_closest_destroy(closest);
}

static void test_a_name_is_cut_between_characters(void **state)
{
    weir_closest_key_t keys[WEIR_CLOSEST_PLACES];
    char name[400];
    for (size_t before = WEIR_CLOSEST_NAME_MAX - 6; before <= WEIR_CLOSEST_NAME_MAX; ++before) {
        weir_closest_t *closest = weir_closest_create();
        memset(name, 'a', sizeof(name));
        memcpy(name + before, "\xe2\x82\xac", 3);
        weir_closest_note(closest, key_of(1), 900, S, name, sizeof(name), NULL, 0);
        assert_int_equal(weir_closest_list(closest, keys), 1);
        size_t room = WEIR_CLOSEST_NAME_MAX - 1, len = before < room && before + 3 > room ? before : room;
        assert_int_equal(strlen(keys[0].name), len);
        assert_memory_equal(keys[0].name, name, len);
        weir_closest_destroy(closest);
    }
}

/* Thousands come near their limit; sixty come nearest: each of these is known, whoever came before or after. */
static void test_the_closest_of_many_are_known(void **state)
{
    enum { KEYS = 5000, NEAREST = 60, ROUNDS = 20 };
    seeded_t seeded = seeded_start(__func__);
    static weir_closest_key_t known[WEIR_CLOSEST_PLACES];
    static weir_key_t keys[KEYS];
    for (int round = 0; round < ROUNDS; ++round) {
        weir_closest_t *closest = weir_closest_create();
        for (int i = 0; i < KEYS; ++i)
            keys[i] = random_key(&seeded);
        for (int i = 0; i < KEYS * 10; ++i) {
            size_t k = seeded_below(&seeded, KEYS);
            unsigned used = k < NEAREST ? 950 + (unsigned)seeded_below(&seeded, 51) : 800 + (unsigned)k % 150;
            ask_and_note(closest, keys[k], used, 1 + i * (STALE / KEYS / 10));
        }
        for (int i = 0; i < NEAREST; ++i)
            ask_and_note(closest, keys[i], 1000, 1 + STALE);
        size_t count = weir_closest_list(closest, known);
        assert_in_range(count, NEAREST, WEIR_CLOSEST_PLACES);
        for (int i = 0; i < NEAREST; ++i)
            assert_true(find(known, count, keys[i]) < count);
        for (size_t i = 0; i < count; ++i) {
            assert_true(is_right(&known[i]));
            assert_int_equal(find(known, count, known[i].key), i); /* once */
        }
        weir_closest_destroy(closest);
    }
}

static void test_what_is_forgotten_is_wanted_at_once(void **state)
{
    weir_closest_key_t keys[WEIR_CLOSEST_PLACES];
    weir_closest_t *closest = weir_closest_create();
    for (uint64_t i = 0; i < 16; ++i)
        note(closest, key_of(i), 900, S);
    assert_int_equal(weir_closest_list(closest, keys), 16);
    weir_closest_forget(closest);
    assert_int_equal(weir_closest_list(closest, keys), 0);
    assert_true(weir_closest_wants(closest, key_of(3), 100, S));
    note(closest, key_of(3), 100, S);
    assert_true(is_known(closest, key_of(3)));
    assert_false(weir_closest_wants(closest, key_of(3), 100, S));
    weir_closest_destroy(closest);
}

static void test_what_is_not_wanted_changes_nothing(void **state)
{
    enum { KEYS = 1000, CHANGES = 20000 };
    seeded_t seeded = seeded_start(__func__);
    static weir_closest_key_t before[WEIR_CLOSEST_PLACES], after[WEIR_CLOSEST_PLACES];
    weir_closest_t *closest = weir_closest_create();
    weir_key_t keys[KEYS];
    for (int i = 0; i < KEYS; ++i)
        keys[i] = random_key(&seeded);
    for (int i = 0; i < CHANGES; ++i) {
        weir_key_t key = keys[seeded_below(&seeded, KEYS)];
        unsigned used = (unsigned)seeded_below(&seeded, 1200);
        int64_t now_ns = i * (STALE / 2000);
        bool wanted = weir_closest_wants(closest, key, used, now_ns);
        if (!wanted)
            memset(before, 0, sizeof(before));
        size_t count = wanted ? 0 : weir_closest_list(closest, before);
        note(closest, key, used, now_ns);
        if (wanted) {
            assert_true(is_known(closest, key));
        } else {
            memset(after, 0, sizeof(after));
            assert_int_equal(weir_closest_list(closest, after), count);
            assert_memory_equal(after, before, sizeof(after));
        }
    }
    weir_closest_destroy(closest);
}

enum { THREADS = 4, SHARED_KEYS = 400, ROUNDS = 100000 };

typedef struct {
    weir_closest_t *closest;
    const weir_key_t *keys;
    seeded_t seeded;
    int wrong;
} worker_t;

static void *work(void *arg)
{
    worker_t *worker = arg;
    weir_closest_key_t known[WEIR_CLOSEST_PLACES];
    for (int round = 0; round < ROUNDS; ++round) {
        weir_key_t key = worker->keys[seeded_below(&worker->seeded, SHARED_KEYS)];
        ask_and_note(worker->closest, key, 800 + (unsigned)seeded_below(&worker->seeded, 201), S + round * (S / 1000));
        if (round % 1000 != 0)
            continue;
        size_t count = weir_closest_list(worker->closest, known);
        for (size_t i = 0; i < count; ++i)
            worker->wrong += !is_right(&known[i]) || find(known, count, known[i].key) != i;
    }
    return NULL;
}

static void test_threads_see_whole_names(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    static weir_key_t keys[SHARED_KEYS];
    worker_t workers[THREADS];
    pthread_t threads[THREADS];
    weir_closest_t *closest = weir_closest_create();
    for (int i = 0; i < SHARED_KEYS; ++i)
        keys[i] = random_key(&seeded);
    for (int i = 0; i < THREADS; ++i) {
        workers[i] = (worker_t){.closest = closest, .keys = keys, .seeded = {seeded_next(&seeded)}};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; ++i) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    static weir_closest_key_t known[WEIR_CLOSEST_PLACES];
    assert_in_range(weir_closest_list(closest, known), WEIR_CLOSEST_PLACES / 2, WEIR_CLOSEST_PLACES);
    weir_closest_destroy(closest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_is_noted_once_and_again_when_it_is_old),
        cmocka_unit_test(test_a_key_of_zeros_is_a_key),
        cmocka_unit_test(test_the_one_that_is_used_up_least_gives_way),
        cmocka_unit_test(test_one_that_was_not_seen_for_long_gives_way_to_anyone),
        cmocka_unit_test(test_a_name_is_cut_between_characters),
        cmocka_unit_test(test_the_closest_of_many_are_known),
        cmocka_unit_test(test_what_is_forgotten_is_wanted_at_once),
        cmocka_unit_test(test_what_is_not_wanted_changes_nothing),
        cmocka_unit_test(test_threads_see_whole_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
