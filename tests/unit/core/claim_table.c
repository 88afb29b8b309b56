/* Claim table against a plain list of what must be in it: random claims in virtual time; what goes when it is full or
 * its time is over, and what never does; what it takes; many threads. */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/claim_table.h"

enum { WINDOW = 1000 };

static weir_claim_key_t key_of(uint64_t i)
{
    seeded_t seeded = {i * 0x1234567};
    return (weir_claim_key_t){seeded_next(&seeded), seeded_next(&seeded)};
}

/* What is disposed of: each row's answer is a flag that is set until then. */
static _Atomic size_t disposed;

static void on_dispose(void *context, weir_claim_row_t *row)
{
    ++disposed;
    if (row->answer == NULL)
        return;
    assert_true(*(bool *)row->answer);
    *(bool *)row->answer = false;
}

static weir_claim_table_t *table_of(size_t max_keys)
{
    return weir_claim_table_create(max_keys, (weir_claim_table_hooks_t){on_dispose, NULL});
}

static weir_claim_row_t *find(weir_claim_table_t *table, weir_claim_key_t key, int64_t now_ns)
{
    weir_claim_table_lock(table, key, now_ns);
    weir_claim_row_t *row = weir_claim_table_find(table, key);
    weir_claim_table_unlock(table, key);
    return row;
}

/* A claim that flies, for a key that has none. */
static bool claim(weir_claim_table_t *table, weir_claim_key_t key, bool forget_oldest, size_t *forgotten,
                  int64_t now_ns)
{
    static const weir_claim_row_t fresh;
    weir_claim_table_lock(table, key, now_ns);
    assert_null(weir_claim_table_find(table, key));
    weir_claim_row_t *row = weir_claim_table_insert(table, key, forget_oldest, forgotten);
    if (row != NULL) {
        assert_memory_equal(row, &fresh, sizeof(fresh));
        assert_int_equal(weir_claim_ask(&row->claim, key.low | 1, 5, true, INT64_MAX, now_ns), WEIR_CLAIM_RUN);
        weir_claim_table_changed(table, key, row);
    }
    weir_claim_table_unlock(table, key);
    return row != NULL;
}

static void commit(weir_claim_table_t *table, weir_claim_key_t key, int64_t window_ns, int64_t now_ns)
{
    weir_claim_table_lock(table, key, now_ns);
    weir_claim_row_t *row = weir_claim_table_find(table, key);
    assert_true(weir_claim_commit(&row->claim, key.low | 1, window_ns, now_ns));
    weir_claim_table_changed(table, key, row);
    weir_claim_table_unlock(table, key);
}

/* Random claims in a table in which all have room. */
enum { KEYS = 3000, EVENTS = 200000 };
typedef struct {
    weir_claim_state_t state;
    int64_t until_ns;
    bool has_answer;
} expected_t;
static expected_t expected[KEYS];

static weir_claim_state_t expected_state(const expected_t *key, int64_t now_ns)
{
    bool has_ended = key->state != WEIR_CLAIM_FREE && key->state != WEIR_CLAIM_IN_FLIGHT && key->until_ns <= now_ns;
    return has_ended ? WEIR_CLAIM_FREE : key->state;
}

static void end_at_random(seeded_t *seeded, expected_t *key, weir_claim_row_t *row, int64_t now_ns)
{
    uint64_t owner = row->claim.owner;
    key->until_ns = now_ns + WINDOW;
    switch (seeded_below(seeded, 4)) {
    case 0:
        assert_true(weir_claim_forget(&row->claim, owner, now_ns));
        key->state = WEIR_CLAIM_FREE;
        break;
    case 1:
        assert_true(weir_claim_lose(&row->claim, owner, true, WINDOW, now_ns));
        key->state = WEIR_CLAIM_UNKNOWN;
        break;
    default:
        assert_true(weir_claim_commit(&row->claim, owner, WINDOW, now_ns));
        key->state = WEIR_CLAIM_DONE;
        row->answer = &key->has_answer;
        key->has_answer = true;
    }
}

static void use_at_random(weir_claim_table_t *table, seeded_t *seeded, uint64_t i, int64_t now_ns)
{
    weir_claim_key_t key = key_of(i);
    weir_claim_table_lock(table, key, now_ns);
    assert_int_equal(weir_claim_table_now(table, key), now_ns);
    weir_claim_row_t *row = weir_claim_table_find(table, key);
    weir_claim_state_t before = expected_state(&expected[i], now_ns);
    assert_int_equal(row != NULL ? (int)row->claim.state : WEIR_CLAIM_FREE, before);
    if (row == NULL) {
        assert_false(expected[i].has_answer);
        row = weir_claim_table_insert(table, key, false, NULL);
        assert_int_equal(weir_claim_ask(&row->claim, i + 1, i, true, INT64_MAX, now_ns), WEIR_CLAIM_RUN);
        expected[i].state = WEIR_CLAIM_IN_FLIGHT;
        weir_claim_table_changed(table, key, row);
    } else if (before == WEIR_CLAIM_IN_FLIGHT) {
        assert_int_equal(row->claim.owner, i + 1);
        end_at_random(seeded, &expected[i], row, now_ns);
        weir_claim_table_changed(table, key, row);
    } else if (seeded_below(seeded, 8) == 0) { /* by hand */
        row->claim.state = WEIR_CLAIM_FREE;
        expected[i].state = WEIR_CLAIM_FREE;
        weir_claim_table_changed(table, key, row);
        assert_false(expected[i].has_answer);
    }
    weir_claim_table_unlock(table, key);
}

static void count_state(void *data, weir_claim_key_t key, weir_claim_row_t *row)
{
    ++((size_t *)data)[row->claim.state];
}

static void check_counts(weir_claim_table_t *table, int64_t now_ns)
{
    size_t counts[4] = {0}, wanted[4] = {0};
    weir_claim_table_tidy(table, now_ns);
    weir_claim_table_each(table, count_state, counts);
    for (size_t i = 0; i < KEYS; ++i)
        ++wanted[expected_state(&expected[i], now_ns)];
    wanted[WEIR_CLAIM_FREE] = 0;
    assert_memory_equal(counts, wanted, sizeof(counts));
    assert_int_equal(weir_claim_table_count(table), wanted[1] + wanted[2] + wanted[3]);
}

static void test_random_claims_against_a_list(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    memset(expected, 0, sizeof(expected));
    weir_claim_table_t *table = table_of(KEYS);
    int64_t now_ns = 0;
    for (int event = 0; event < EVENTS; ++event) {
        now_ns += seeded_below(&seeded, 3) == 0;
        now_ns += seeded_below(&seeded, 20000) == 0 ? WINDOW : 0;
        use_at_random(table, &seeded, seeded_below(&seeded, KEYS), now_ns);
        if (event % 10000 == 0)
            check_counts(table, now_ns);
    }
    check_counts(table, now_ns);
    weir_claim_table_destroy(table);
    for (size_t i = 0; i < KEYS; ++i)
        assert_false(expected[i].has_answer);
}

/* As many keys as it is made for have room; twice as many never. */
static void test_sizes(void **state)
{
    static const size_t sizes[] = {1, 2, 10, 63, 64, 100, 127, 128, 200, 256, 1000, 4095, 4096, 5000, 20000};
    seeded_t seeded = seeded_start(__func__);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); ++i) {
        weir_claim_table_t *table = table_of(sizes[i]);
        size_t forgotten = 0, refused = 0, base = seeded_below(&seeded, 1 << 30);
        for (size_t key = 0; key < sizes[i]; ++key)
            refused += !claim(table, key_of(base + key), true, &forgotten, 0);
        assert_int_equal(refused, 0);
        assert_int_equal(weir_claim_table_count(table), sizes[i]);
        for (size_t key = sizes[i]; key < 3 * sizes[i]; ++key)
            refused += !claim(table, key_of(base + key), true, &forgotten, 0);
        assert_int_equal(forgotten, 0); /* nothing of it is finished */
        assert_true(refused >= sizes[i]);
        assert_int_equal(weir_claim_table_count(table), 3 * sizes[i] - refused);
        weir_claim_table_destroy(table);
    }
}

static void test_the_oldest_finished_one_makes_room(void **state)
{
    enum { MAX = 100 };
    weir_claim_table_t *table = table_of(MAX);
    size_t forgotten = 0;
    disposed = 0;
    for (uint64_t i = 0; i < MAX; ++i)
        assert_true(claim(table, key_of(i), false, NULL, 0));
    assert_false(claim(table, key_of(MAX), false, NULL, 0));
    assert_false(claim(table, key_of(MAX), true, &forgotten, 0)); /* all fly */
    for (uint64_t i = 0; i < MAX; i += 2) /* those of even numbers finish, the last ones first */
        commit(table, key_of(MAX - 2 - i), WINDOW, 1 + (int64_t)i);
    assert_false(claim(table, key_of(MAX), false, NULL, 200));
    for (uint64_t i = 0; i < MAX / 2; ++i) {
        assert_non_null(find(table, key_of(MAX - 2 - 2 * i), 200));
        assert_true(claim(table, key_of(MAX + i), true, &forgotten, 200));
        assert_null(find(table, key_of(MAX - 2 - 2 * i), 200));
        assert_int_equal(forgotten, i + 1);
        assert_int_equal(disposed, i + 1);
    }
    assert_false(claim(table, key_of(2 * MAX), true, &forgotten, 200));
    for (uint64_t i = 1; i < MAX; i += 2)
        assert_non_null(find(table, key_of(i), 200));
    assert_int_equal(weir_claim_table_count(table), MAX);
    weir_claim_table_destroy(table);
    assert_int_equal(disposed, MAX + MAX / 2);
}

static void test_what_has_ended_goes(void **state)
{
    enum { COUNT = 1000 };
    weir_claim_table_t *table = table_of(COUNT);
    disposed = 0;
    for (uint64_t i = 0; i < COUNT; ++i) {
        assert_true(claim(table, key_of(i), false, NULL, (int64_t)i));
        if (i % 4 != 0)
            commit(table, key_of(i), WINDOW, (int64_t)i);
    }
    for (uint64_t i = 1; i < COUNT; i += 2) {
        assert_non_null(find(table, key_of(i), WINDOW + (int64_t)i - 1));
        assert_null(find(table, key_of(i), WINDOW + (int64_t)i));
        assert_null(find(table, key_of(i), 0)); /* time that goes back stands still */
    }
    weir_claim_table_tidy(table, INT64_MAX - 1);
    assert_int_equal(weir_claim_table_count(table), COUNT / 4);
    assert_int_equal(disposed, COUNT - COUNT / 4);
    for (uint64_t i = 0; i < COUNT; ++i)
        assert_int_equal(find(table, key_of(i), INT64_MAX) != NULL, i % 4 == 0);
    weir_claim_table_destroy(table);
    assert_int_equal(disposed, COUNT);
}

/* As when they are read from a file. */
static void test_times_that_are_out_of_order(void **state)
{
    enum { COUNT = 90 };
    seeded_t seeded = seeded_start(__func__);
    weir_claim_table_t *table = table_of(COUNT);
    int64_t untils[COUNT];
    for (uint64_t i = 0; i < COUNT; ++i) {
        untils[i] = 1 + (int64_t)seeded_below(&seeded, WINDOW);
        claim(table, key_of(i), false, NULL, 0);
        commit(table, key_of(i), untils[i], 0);
    }
    for (int64_t now_ns = 0; now_ns <= WINDOW + 1; now_ns += 7) {
        weir_claim_table_tidy(table, now_ns);
        size_t left = 0;
        for (uint64_t i = 0; i < COUNT; ++i)
            left += untils[i] > now_ns;
        assert_int_equal(weir_claim_table_count(table), left);
    }
    weir_claim_table_destroy(table);
}

static void test_another_size(void **state)
{
    enum { MANY = 1000, FEW = 40 };
    weir_claim_table_t *table = table_of(MANY);
    size_t forgotten = 0;
    for (uint64_t i = 0; i < MANY; ++i) {
        claim(table, key_of(i), false, NULL, 0);
        commit(table, key_of(i), WINDOW, (int64_t)i);
    }
    weir_claim_table_resize(table, FEW);
    assert_int_equal(weir_claim_table_count(table), MANY); /* nobody needs the room */
    assert_false(claim(table, key_of(MANY), false, NULL, 0));
    for (uint64_t i = 0; i < MANY; ++i) {
        assert_true(claim(table, key_of(MANY + i), true, &forgotten, 0));
        commit(table, key_of(MANY + i), WINDOW, 0);
    }
    assert_in_range(weir_claim_table_count(table), FEW / 4, 2 * FEW);
    assert_int_equal(forgotten, 2 * MANY - weir_claim_table_count(table));
    weir_claim_table_resize(table, MANY);
    for (uint64_t i = 0; i < MANY / 2; ++i)
        assert_true(claim(table, key_of(3 * MANY + i), false, NULL, 0));
    weir_claim_table_destroy(table);
    weir_claim_table_destroy(NULL);
}

static void test_keys_that_are_alike(void **state)
{
    enum { COUNT = 20000 };
    for (int way = 0; way < 4; ++way) {
        weir_claim_table_t *table = table_of(COUNT);
        weir_claim_key_t key = {0, 0};
        for (uint64_t i = 0; i < COUNT; ++i) {
            key = way == 0   ? (weir_claim_key_t){i, 0}
                  : way == 1 ? (weir_claim_key_t){0, i}
                  : way == 2 ? (weir_claim_key_t){i << 40, 7}
                             : (weir_claim_key_t){i << 32, i};
            assert_true(claim(table, key, false, NULL, 0));
        }
        assert_non_null(find(table, key, 0));
        assert_int_equal(weir_claim_table_count(table), COUNT);
        weir_claim_table_destroy(table);
    }
}

static void test_bytes(void **state)
{
    enum { COUNT = 100000 };
    struct mallinfo2 before = mallinfo2();
    weir_claim_table_t *table = table_of(COUNT);
    for (uint64_t i = 0; i < COUNT; ++i)
        assert_true(claim(table, key_of(i), false, NULL, 0));
    struct mallinfo2 after = mallinfo2();
    size_t bytes = after.uordblks + after.hblkhd - before.uordblks - before.hblkhd;
    if (bytes != 0) { /* a sanitizer's allocator does not tell */
        printf("bytes a key: %.1f of %.1f\n", (double)bytes / COUNT, (double)weir_claim_table_bytes(COUNT) / COUNT);
        assert_true(bytes <= 80 * COUNT);
        assert_true(bytes <= weir_claim_table_bytes(COUNT));
    }
    assert_true(weir_claim_table_bytes(COUNT) < 100 * COUNT);
    weir_claim_table_destroy(table);
    for (size_t max_keys = 1; max_keys < 100000; max_keys = max_keys * 5 / 4 + 1)
        assert_in_range(weir_claim_table_bytes(max_keys), 60 * max_keys, 10000 + 200 * max_keys);
}

/* Threads take keys of a few that all want: a key runs in one of them at a time. */
enum { THREADS = 8, SHARED_KEYS = 500, ROUNDS = 10000 };
typedef struct {
    weir_claim_table_t *table;
    seeded_t seeded;
    uint64_t owner;
    int wrong, ran;
} worker_t;
static _Atomic int running[SHARED_KEYS];
static _Atomic int64_t clock_ns;

static bool try_to_run(worker_t *worker, weir_claim_key_t key)
{
    size_t forgotten = 0;
    int64_t now_ns = clock_ns++;
    weir_claim_table_lock(worker->table, key, now_ns);
    now_ns = weir_claim_table_now(worker->table, key);
    weir_claim_row_t *row = weir_claim_table_find(worker->table, key);
    if (row == NULL)
        row = weir_claim_table_insert(worker->table, key, true, &forgotten);
    bool runs =
        row != NULL && weir_claim_ask(&row->claim, ++worker->owner, 0, false, INT64_MAX, now_ns) == WEIR_CLAIM_RUN;
    if (runs)
        weir_claim_table_changed(worker->table, key, row);
    weir_claim_table_unlock(worker->table, key);
    return runs;
}

static bool end_run(worker_t *worker, weir_claim_key_t key)
{
    weir_claim_table_lock(worker->table, key, clock_ns++);
    int64_t now_ns = weir_claim_table_now(worker->table, key);
    weir_claim_row_t *row = weir_claim_table_find(worker->table, key);
    bool is_right = row != NULL && (seeded_below(&worker->seeded, 2) == 0
                                        ? weir_claim_commit(&row->claim, worker->owner, WINDOW, now_ns)
                                        : weir_claim_forget(&row->claim, worker->owner, now_ns));
    if (is_right)
        weir_claim_table_changed(worker->table, key, row);
    weir_claim_table_unlock(worker->table, key);
    return is_right;
}

static void *work(void *arg)
{
    worker_t *worker = arg;
    for (int round = 0; round < ROUNDS; ++round) {
        uint64_t i = seeded_below(&worker->seeded, SHARED_KEYS);
        if (!try_to_run(worker, key_of(i)))
            continue;
        worker->wrong += atomic_fetch_add(&running[i], 1) != 0;
        ++worker->ran;
        if (round % 100 == 0)
            weir_claim_table_tidy(worker->table, clock_ns);
        atomic_fetch_sub(&running[i], 1);
        worker->wrong += !end_run(worker, key_of(i));
    }
    return NULL;
}

static void test_threads_that_want_the_same_keys(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    weir_claim_table_t *table = table_of(SHARED_KEYS / 2);
    pthread_t threads[THREADS];
    worker_t workers[THREADS];
    for (uint64_t i = 0; i < THREADS; ++i) {
        workers[i] = (worker_t){table, {seeded_next(&seeded)}, i << 32};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; ++i) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
        assert_true(workers[i].ran > ROUNDS / 100);
    }
    assert_true(weir_claim_table_count(table) <= SHARED_KEYS);
    weir_claim_table_destroy(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_random_claims_against_a_list),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_the_oldest_finished_one_makes_room),
        cmocka_unit_test(test_what_has_ended_goes),
        cmocka_unit_test(test_times_that_are_out_of_order),
        cmocka_unit_test(test_another_size),
        cmocka_unit_test(test_keys_that_are_alike),
        cmocka_unit_test(test_threads_that_want_the_same_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
