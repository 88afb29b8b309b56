/* Key table against a list of what must be in it: random inserts, erasures and drops; keys chosen to collide; a full
 * table, what it may drop and what it may not; many threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/key_table.h"

/* A row that says whose it is, and until when it must be kept. */
typedef struct {
    weir_key_t key;
    int64_t kept_until_ns;
} row_t;

static bool row_is_free(const void *state, int64_t now_ns, const void *context)
{
    assert_ptr_equal(context, &row_is_free);
    return ((const row_t *)state)->kept_until_ns <= now_ns;
}

static weir_key_shard_t shards[WEIR_KEY_SHARDS];

static weir_key_table_t *table_of(size_t max_keys)
{
    return weir_key_table_create((weir_key_table_rows_t){sizeof(row_t), row_is_free, &row_is_free}, max_keys, shards);
}

static int shards_init(void **state)
{
    weir_key_shards_init(shards);
    return 0;
}

static int shards_dispose(void **state)
{
    weir_key_shards_dispose(shards);
    return 0;
}

static row_t *insert(weir_key_table_t *table, weir_key_t key, int64_t now_ns, int64_t kept_until_ns)
{
    pthread_mutex_t *lock = &shards[weir_key_shard(key)].lock;
    pthread_mutex_lock(lock);
    row_t *row = weir_key_table_insert(table, key, now_ns, (uint64_t)1 << weir_key_shard(key));
    if (row != NULL) {
        static const row_t fresh;
        assert_memory_equal(row, &fresh, sizeof(fresh));
        *row = (row_t){key, kept_until_ns};
    }
    pthread_mutex_unlock(lock);
    return row;
}

static weir_key_t random_key(seeded_t *seeded)
{
    return (weir_key_t){seeded_next(seeded), seeded_next(seeded)};
}

/* Ways to choose keys that agree in many bits. */
static weir_key_t chosen_key(size_t way, uint64_t i)
{
    switch (way) {
    case 0:
        return (weir_key_t){i, 0};
    case 1:
        return (weir_key_t){0, i};
    case 2:
        return (weir_key_t){i << 40, 7};
    case 3:
        return (weir_key_t){7, i << 40};
    case 4:
        return (weir_key_t){i * 64, i * 64};
    default:
        return (weir_key_t){i << 32, i};
    }
}
enum { WAYS = 6 };

static void test_keys_chosen_to_collide_are_each_found(void **state)
{
    enum { KEYS = 20000 };
    for (size_t way = 0; way < WAYS; ++way) {
        weir_key_table_t *table = table_of(KEYS);
        for (uint64_t i = 0; i < KEYS; ++i)
            assert_non_null(insert(table, chosen_key(way, i), 0, 1));
        assert_int_equal(weir_key_table_count(table), KEYS);
        assert_null(insert(table, chosen_key(way, KEYS), 0, 1));
        for (uint64_t i = 0; i < KEYS; ++i) {
            const row_t *row = weir_key_table_find(table, chosen_key(way, i));
            assert_non_null(row);
            weir_key_t key = chosen_key(way, i);
            assert_memory_equal(&row->key, &key, sizeof(key));
        }
        assert_null(weir_key_table_find(table, chosen_key(way, KEYS)));
        weir_key_table_destroy(table);
    }
}

/* Random changes beside an array of what must be there. */
static void test_random_changes_against_a_list(void **state)
{
    enum { KEYS = 700, MAX_KEYS = 400, CHANGES = 300000 };
    seeded_t seeded = seeded_start(__func__);
    weir_key_t keys[KEYS];
    bool is_there[KEYS] = {0};
    size_t count = 0;
    for (size_t i = 0; i < KEYS; ++i)
        keys[i] = i % 2 ? random_key(&seeded) : chosen_key(i / 2 % WAYS, i);
    weir_key_table_t *table = table_of(MAX_KEYS);
    for (int change = 0; change < CHANGES; ++change) {
        size_t i = seeded_below(&seeded, KEYS);
        const row_t *row = weir_key_table_find(table, keys[i]);
        assert_int_equal(row != NULL, is_there[i]);
        if (row != NULL) {
            assert_memory_equal(&row->key, &keys[i], sizeof(keys[i]));
            weir_key_table_erase(table, keys[i]);
            is_there[i] = false;
            --count;
        } else {
            is_there[i] = insert(table, keys[i], 0, INT64_MAX) != NULL;
            assert_int_equal(is_there[i], count < MAX_KEYS);
            count += is_there[i];
        }
        assert_int_equal(weir_key_table_count(table), count);
    }
    for (size_t i = 0; i < KEYS; ++i)
        assert_int_equal(weir_key_table_find(table, keys[i]) != NULL, is_there[i]);
    weir_key_table_destroy(table);
}

static size_t found_of(const weir_key_table_t *table, const weir_key_t *keys, size_t count)
{
    size_t found = 0;
    for (size_t i = 0; i < count; ++i)
        found += weir_key_table_find(table, keys[i]) != NULL;
    return found;
}

static void test_a_full_table_drops_what_is_free_and_nothing_else(void **state)
{
    enum { MAX_KEYS = 1000, KEPT = 600, MORE = 50000 };
    seeded_t seeded = seeded_start(__func__);
    weir_key_t kept[KEPT];
    weir_key_table_t *table = table_of(MAX_KEYS);
    for (size_t i = 0; i < MAX_KEYS; ++i) {
        weir_key_t key = random_key(&seeded);
        if (i < KEPT)
            kept[i] = key;
        insert(table, key, 0, i < KEPT ? INT64_MAX : 10);
    }
    assert_null(insert(table, random_key(&seeded), 9, 20)); /* none is free yet */
    size_t refused = 0;
    for (int i = 0; i < MORE; ++i)
        refused += insert(table, random_key(&seeded), 10 + i, 10 + i + 100) == NULL;
    assert_int_equal(found_of(table, kept, KEPT), KEPT);
    assert_int_equal(weir_key_table_count(table), MAX_KEYS);
    assert_in_range(refused, 0, MORE / 1000); /* 300 of 1000 rows were always free: sixteen looks find one */
    weir_key_table_destroy(table);
}

static void test_one_row_is_enough(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    weir_key_table_t *table = table_of(1);
    weir_key_t first = random_key(&seeded);
    assert_null(weir_key_table_find(table, first));
    insert(table, first, 0, 1000);
    for (int64_t now_ns = 0; now_ns < 1000; ++now_ns)
        assert_null(insert(table, random_key(&seeded), now_ns, 2000));
    weir_key_t second = {first.low ^ 1, first.high}; /* in another shard: found there all the same */
    assert_non_null(insert(table, second, 1000, 2000));
    assert_null(weir_key_table_find(table, first));
    assert_int_equal(weir_key_table_count(table), 1);
    weir_key_table_destroy(table);
}

static void test_a_smaller_table_loses_no_row_that_is_kept(void **state)
{
    enum { KEYS = 500 };
    seeded_t seeded = seeded_start(__func__);
    weir_key_t keys[KEYS];
    weir_key_table_t *table = table_of(KEYS);
    for (size_t i = 0; i < KEYS; ++i)
        insert(table, keys[i] = random_key(&seeded), 0, i % 2 ? 100 : INT64_MAX);
    weir_key_table_resize(table, 300);
    assert_null(insert(table, random_key(&seeded), 99, INT64_MAX));
    assert_int_equal(found_of(table, keys, KEYS), KEYS);
    for (int i = 0; i < 2000; ++i) /* those that are free go with time, and room comes */
        insert(table, random_key(&seeded), 100, 100);
    assert_int_equal(weir_key_table_count(table), 300);
    assert_int_equal(found_of(table, keys, KEYS), KEYS / 2);
    weir_key_table_resize(table, KEYS);
    for (int i = 0; i < KEYS - 300; ++i)
        assert_non_null(insert(table, random_key(&seeded), 99, INT64_MAX));
    assert_null(insert(table, random_key(&seeded), 99, INT64_MAX));
    weir_key_table_destroy(table);
}

static void count_kept(void *state, void *data)
{
    *(int64_t *)data += ((const row_t *)state)->kept_until_ns;
}

static void test_each_visits_every_row_once(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    weir_key_table_t *table = table_of(1000);
    for (int i = 1; i <= 1000; ++i)
        insert(table, random_key(&seeded), 0, i);
    int64_t sum = 0;
    for (unsigned s = 0; s < WEIR_KEY_SHARDS; ++s)
        weir_key_table_each(table, s, count_kept, &sum);
    assert_int_equal(sum, 1000 * 1001 / 2);
    weir_key_table_destroy(table);
}

/* Rows that own memory: a row that is dropped, by whatever way, gives it back, once. */

typedef struct {
    int64_t *owned; /* the time until which the row is kept */
} owner_t;

static size_t owned_count;

static bool owner_is_free(const void *state, int64_t now_ns, const void *context)
{
    return *((const owner_t *)state)->owned <= now_ns;
}

static void owner_dispose(void *state)
{
    owner_t *owner = state;
    assert_non_null(owner->owned);
    free(owner->owned);
    owner->owned = NULL;
    --owned_count;
}

static weir_key_table_t *owners_of(size_t max_keys)
{
    weir_key_table_rows_t rows = {sizeof(owner_t), owner_is_free, NULL, owner_dispose};
    return weir_key_table_create(rows, max_keys, shards);
}

static bool insert_owner(weir_key_table_t *table, weir_key_t key, int64_t now_ns, int64_t kept_until_ns)
{
    owner_t *owner = weir_key_table_insert(table, key, now_ns, (uint64_t)1 << weir_key_shard(key));
    if (owner == NULL)
        return false;
    assert_null(owner->owned);
    owner->owned = malloc(sizeof(*owner->owned));
    *owner->owned = kept_until_ns;
    ++owned_count;
    return true;
}

static void test_a_row_that_is_erased_is_disposed_of(void **state)
{
    enum { KEYS = 3000 };
    seeded_t seeded = seeded_start(__func__);
    weir_key_t keys[KEYS];
    weir_key_table_t *table = owners_of(KEYS);
    for (size_t i = 0; i < KEYS; ++i) /* and rows are moved as the table grows */
        assert_true(insert_owner(table, keys[i] = random_key(&seeded), 0, INT64_MAX));
    assert_int_equal(owned_count, KEYS);
    for (size_t i = 0; i < KEYS; i += 3) {
        weir_key_table_erase(table, keys[i]);
        assert_int_equal(owned_count, weir_key_table_count(table));
    }
    weir_key_table_destroy(table); /* the rest */
    assert_int_equal(owned_count, 0);
}

static void test_a_row_that_is_reclaimed_is_disposed_of(void **state)
{
    enum { MAX_KEYS = 200, MORE = 20000 };
    seeded_t seeded = seeded_start(__func__);
    weir_key_table_t *table = owners_of(MAX_KEYS);
    size_t inserted = 0;
    for (int i = 0; i < MORE; ++i) {
        inserted += insert_owner(table, random_key(&seeded), i, i + (int64_t)seeded_below(&seeded, 100));
        assert_int_equal(owned_count, weir_key_table_count(table));
    }
    assert_true(inserted > MORE / 2);
    assert_int_equal(owned_count, MAX_KEYS);
    weir_key_table_destroy(table);
    assert_int_equal(owned_count, 0);
}

static void test_an_empty_table_disposes_of_nothing(void **state)
{
    weir_key_table_destroy(owners_of(10));
    weir_key_table_destroy(NULL);
    assert_int_equal(owned_count, 0);
}

/* Threads insert, find and lose rows of their own in a table that is too small for all of them. */
enum { THREADS = 8, OWN_KEYS = 50, ROUNDS = 60000 };

typedef struct {
    weir_key_table_t *table;
    seeded_t seeded;
    int wrong;
} worker_t;

/* Even keys are kept for ever, odd ones are always free. Returns what is wrong with it. */
static int use_key(worker_t *worker, weir_key_t key, size_t i, bool *was_there)
{
    int wrong = 0;
    pthread_mutex_lock(&shards[weir_key_shard(key)].lock);
    row_t *row = weir_key_table_find(worker->table, key);
    if (row != NULL)
        wrong = row->key.low != key.low || row->key.high != key.high;
    else
        wrong = *was_there && i % 2 == 0;
    if (row == NULL) {
        row = weir_key_table_insert(worker->table, key, 5, (uint64_t)1 << weir_key_shard(key));
        if (row != NULL)
            *row = (row_t){key, i % 2 == 0 ? INT64_MAX : 0};
    }
    *was_there |= row != NULL;
    pthread_mutex_unlock(&shards[weir_key_shard(key)].lock);
    return wrong;
}

static void *work(void *arg)
{
    worker_t *worker = arg;
    weir_key_t keys[OWN_KEYS];
    bool was_there[OWN_KEYS] = {0};
    for (size_t i = 0; i < OWN_KEYS; ++i)
        keys[i] = random_key(&worker->seeded);
    for (int round = 0; round < ROUNDS; ++round) {
        size_t i = seeded_below(&worker->seeded, OWN_KEYS);
        worker->wrong += use_key(worker, keys[i], i, &was_there[i]);
    }
    return NULL;
}

static void test_threads_find_their_own_rows(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    worker_t workers[THREADS];
    pthread_t threads[THREADS];
    weir_key_table_t *table = table_of(THREADS * OWN_KEYS * 3 / 4);
    for (int i = 0; i < THREADS; ++i) {
        workers[i] = (worker_t){.table = table, .seeded = {seeded_next(&seeded)}};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; ++i) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    assert_in_range(weir_key_table_count(table), THREADS * OWN_KEYS / 2, THREADS * OWN_KEYS * 3 / 4);
    weir_key_table_destroy(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_changes_against_a_list),
        cmocka_unit_test(test_keys_chosen_to_collide_are_each_found),
        cmocka_unit_test(test_a_full_table_drops_what_is_free_and_nothing_else),
        cmocka_unit_test(test_one_row_is_enough),
        cmocka_unit_test(test_a_smaller_table_loses_no_row_that_is_kept),
        cmocka_unit_test(test_each_visits_every_row_once),
        cmocka_unit_test(test_a_row_that_is_erased_is_disposed_of),
        cmocka_unit_test(test_a_row_that_is_reclaimed_is_disposed_of),
        cmocka_unit_test(test_an_empty_table_disposes_of_nothing),
        cmocka_unit_test(test_threads_find_their_own_rows),
    };
    return cmocka_run_group_tests(tests, shards_init, shards_dispose);
}
