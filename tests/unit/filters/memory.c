/* The store in memory: decisions over several limits, sixteen threads of them, overflow, refunds, and limits that
 * change while they are in use. Time is a number here; nothing sleeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include "../seeded.h"
#include "limits.h"

static void test_keys_differ_by_secret_and_by_every_bit(void **state)
{
    static const uint8_t other_secret[64] = "another";
    weir_store_t *store = create_store(),
                 *other = weir_memory_store_create(other_secret, (weir_store_teller_t){tell_nobody, NULL});
    weir_store_key_t a = store->key(store, "abc", 3), b = store->key(store, "abd", 3), c = other->key(other, "abc", 3);
    weir_store_key_t again = store->key(store, "abc", 3), empty = store->key(store, "", 0);
    assert_memory_equal(&a, &again, sizeof(a));
    assert_memory_not_equal(&a, &b, sizeof(a));
    assert_memory_not_equal(&a, &c, sizeof(a));
    assert_memory_not_equal(&a, &empty, sizeof(a));
    store->destroy(store);
    other->destroy(other);
}

static void test_all_or_nothing(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t wide = bucket("wide", 100, D, 100), narrow = window("narrow", 3, 60 * S);
    weir_store_limit_t *limits[] = {store->limit_acquire(store, &wide), store->limit_acquire(store, &narrow)};
    weir_store_item_t items[] = {item(limits[0], &wide, key(store, 1)), item(limits[1], &narrow, key(store, 1))};
    for (int i = 0; i < 3; ++i)
        assert_true(decide(store, items, 2, S));
    assert_int_equal(items[0].remaining, 97);
    assert_int_equal(items[1].remaining, 0);
    for (int i = 0; i < 50; ++i)
        assert_false(decide(store, items, 2, S));
    assert_true(items[0].admitted);
    assert_int_equal(items[0].charged_ns, -1);
    assert_int_equal(items[0].remaining, 97);
    assert_false(items[1].admitted);
    assert_int_equal(items[1].retry_after_ns, 61 * S);
    assert_false(decide(store, items, 2, S + 61 * S - 1));
    assert_true(decide(store, items, 2, S + 61 * S));
    assert_int_equal(store->limit_keys(store, "wide"), 1);
    assert_int_equal(store->limit_keys(store, "nobody"), 0);
    store->limit_release(store, limits[0]);
    store->limit_release(store, limits[1]);
    assert_int_equal(store->limit_keys(store, "wide"), 0);
    store->destroy(store);
}

static void test_shadow_items_are_charged_like_others_and_never_in_the_way(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t wide = bucket("wide", 1, D, 4), narrow = bucket("narrow", 1, D, 2);
    weir_store_limit_t *limits[] = {store->limit_acquire(store, &wide), store->limit_acquire(store, &narrow)};
    weir_store_item_t items[] = {item(limits[0], &wide, key(store, 1)), item(limits[1], &narrow, key(store, 1))};
    items[1].shadow = true;
    for (int i = 0; i < 4; ++i) {
        assert_true(decide(store, items, 2, 0));
        assert_int_equal(items[1].admitted, i < 2);
        assert_int_equal(items[1].charged_ns, i < 2 ? 0 : -1);
    }
    assert_int_equal(items[1].retry_after_ns, D);
    items[1].shadow = false;
    items[0].shadow = true; /* and a refusal charges no shadow */
    assert_false(decide(store, items, 2, D - 1));
    assert_int_equal(items[0].remaining, 0);
    assert_true(decide(store, items, 2, D));
    store->destroy(store); /* also what nobody released */
}

static void test_a_refused_key_takes_no_row(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t wide = bucket("wide", 100, D, 100), none = bucket("none", 0, S, 1);
    weir_store_limit_t *limits[] = {store->limit_acquire(store, &wide), store->limit_acquire(store, &none)};
    for (uint64_t i = 0; i < 1000; ++i) {
        weir_store_item_t items[] = {item(limits[0], &wide, key(store, i)), item(limits[1], &none, key(store, i))};
        assert_false(decide(store, items, 2, 0));
        assert_int_equal(items[1].retry_after_ns, -1);
        assert_int_equal(items[1].reset_ns, -1);
        assert_int_equal(items[1].remaining, 0);
    }
    assert_int_equal(store->limit_keys(store, "wide") + store->limit_keys(store, "none"), 0);
    store->destroy(store);
}

/* What one worker reads as the time may be before what another one came with. */
static void test_time_of_another_worker(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("one", 10, S, 1);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    assert_true(ask(store, limit, &conf, 1, 5 * S));
    weir_store_item_t late = item(limit, &conf, key(store, 1));
    assert_false(decide(store, &late, 1, 5 * S - 7));
    assert_int_equal(late.retry_after_ns, S / 10 + 7); /* from the time that it was asked at */
    assert_int_equal(late.reset_ns, S / 10 + 7);
    assert_false(ask(store, limit, &conf, 1, 5 * S + S / 10 - 1));
    assert_true(ask(store, limit, &conf, 1, 5 * S + S / 10));
    store->destroy(store);
}

static void test_refunds(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[] = {bucket("bucket", 1, D, 5), window("window", 5, 60 * S)};
    weir_store_limit_t *limits[] = {store->limit_acquire(store, &confs[0]), store->limit_acquire(store, &confs[1])};
    weir_store_item_t first[2], second[2];
    for (int i = 0; i < 2; ++i)
        first[i] = second[i] = item(limits[i], &confs[i], key(store, 1));
    assert_true(decide(store, first, 2, S));
    assert_true(decide(store, second, 2, 3 * S));
    store->refund(store, first, 2, 3 * S);
    assert_int_equal(remaining(store, limits[0], &confs[0], 1, 3 * S), 4);
    assert_int_equal(remaining(store, limits[1], &confs[1], 1, 3 * S), 4);
    store->refund(store, second, 2, 3 * S);
    assert_int_equal(remaining(store, limits[1], &confs[1], 1, 3 * S), 5);
    assert_true(decide(store, first, 2, 4 * S));
    store->refund(store, first, 2, 4 * S);
    assert_int_equal(remaining(store, limits[1], &confs[1], 1, 4 * S), 5);
    first[0].charged_ns = first[1].charged_ns = -1; /* was not charged: nothing comes back */
    store->refund(store, first, 2, 4 * S);
    store->refund(store, second, 2, 400 * D); /* long forgotten */
    assert_int_equal(remaining(store, limits[1], &confs[1], 1, 400 * D), 5);
    store->destroy(store);
}

static void test_a_full_table_keeps_debts_and_shares_one_overflow_bucket(void **state)
{
    enum { MAX_KEYS = 100, INVENTED = 50000 };
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("limit", 1, D, 10);
    conf.max_keys = MAX_KEYS;
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    for (int i = 0; i < 10; ++i)
        assert_true(ask(store, limit, &conf, 0, S));
    size_t overflowed = 0, admitted = 0;
    for (uint64_t i = 1; i <= INVENTED; ++i) {
        weir_store_item_t one = item(limit, &conf, key(store, i));
        admitted += decide(store, &one, 1, S + (int64_t)i);
        overflowed += one.overflowed;
        assert_false(ask(store, limit, &conf, 0, S + (int64_t)i)); /* the tenant at his limit stays there */
    }
    assert_int_equal(overflowed, INVENTED - (MAX_KEYS - 1));
    assert_int_equal(admitted, MAX_KEYS - 1 + 10);
    assert_int_equal(store->limit_keys(store, "limit"), MAX_KEYS);
    store->destroy(store);
}

static void test_rows_without_information_make_room(void **state)
{
    enum { MAX_KEYS = 1000, INVENTED = 50000 };
    weir_conf_limit_t limits[] = {bucket("bucket", 1, S, 5), window("window", 5, S)};
    weir_store_t *store = create_store();
    for (int l = 0; l < 2; ++l) {
        limits[l].max_keys = MAX_KEYS;
        weir_store_limit_t *limit = store->limit_acquire(store, &limits[l]);
        size_t overflowed = 0;
        for (uint64_t i = 1; i <= INVENTED; ++i) { /* about 200 of them are not full again */
            weir_store_item_t one = item(limit, &limits[l], key(store, i));
            assert_true(decide(store, &one, 1, l * D + (int64_t)i * S / 200));
            overflowed += one.overflowed;
        }
        assert_int_equal(overflowed, 0);
        assert_int_equal(store->limit_keys(store, limits[l].name), MAX_KEYS);
    }
    store->destroy(store);
}

static void test_a_refund_goes_back_to_the_overflow_bucket(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("limit", 1, D, 2);
    conf.max_keys = 1;
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    assert_true(ask(store, limit, &conf, 0, 0));
    weir_store_item_t one = item(limit, &conf, key(store, 1));
    assert_true(decide(store, &one, 1, 0));
    assert_true(one.overflowed);
    assert_true(ask(store, limit, &conf, 2, 0));
    assert_false(ask(store, limit, &conf, 3, 0));
    store->refund(store, &one, 1, 0);
    assert_true(ask(store, limit, &conf, 4, 0));
    assert_false(ask(store, limit, &conf, 5, 0));
    store->destroy(store);
}

static void test_a_live_cut_gives_no_fresh_burst(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t before = bucket("limit", 100, S, 100), after = bucket("limit", 10, S, 50);
    weir_store_limit_t *limit = store->limit_acquire(store, &before);
    for (int i = 0; i < 30; ++i)
        assert_true(ask(store, limit, &before, 1, S));
    for (int i = 0; i < 100; ++i)
        assert_true(ask(store, limit, &before, 2, S));
    limit = reload(store, limit, &after);
    assert_int_equal(remaining(store, limit, &after, 1, S), 20);
    assert_int_equal(remaining(store, limit, &after, 2, S), 0);
    assert_int_equal(remaining(store, limit, &after, 2, 6 * S), 0); /* 100 used, 50 came back */
    assert_int_equal(remaining(store, limit, &after, 2, 7 * S), 10);
    weir_conf_limit_t windows[] = {window("window", 100, 60 * S), window("window", 50, 60 * S)};
    limit = store->limit_acquire(store, &windows[0]);
    for (int i = 0; i < 30; ++i)
        assert_true(ask(store, limit, &windows[0], 1, S));
    limit = reload(store, limit, &windows[1]);
    assert_int_equal(remaining(store, limit, &windows[1], 1, S), 20);
    store->destroy(store);
}

static void test_until_the_cut_the_old_rate_counts(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t before = bucket("limit", 100, S, 1000), after = bucket("limit", 1, D, 1000);
    weir_store_limit_t *limit = store->limit_acquire(store, &before);
    for (int i = 0; i < 1000; ++i)
        assert_true(ask(store, limit, &before, 1, S));
    assert_true(ask(store, limit, &before, 2, 6 * S)); /* five seconds later the store still hears of others */
    limit = reload(store, limit, &after);
    assert_int_equal(remaining(store, limit, &after, 1, 7 * S), 500);
    store->destroy(store);
}

/* The store heard of nobody since then, but of the time. */
static void test_a_change_is_at_its_own_time(void **state)
{
    enum { ROW = 1, OVERFLOW = 2 };
    weir_conf_limit_t fast = bucket("limit", 100, S, 1000), slow = bucket("limit", 1, D, 1000);
    fast.max_keys = slow.max_keys = 1;
    for (int cut = 0; cut < 2; ++cut) {
        weir_store_t *store = create_store();
        weir_conf_limit_t *before = cut ? &fast : &slow, *after = cut ? &slow : &fast;
        weir_store_limit_t *limit = store->limit_acquire(store, before);
        for (int i = 0; i < 1000; ++i)
            assert_true(ask(store, limit, before, ROW, S) && ask(store, limit, before, OVERFLOW, S));
        store->tell_time(store, 6 * S);
        store->tell_time(store, 5 * S);
        limit = reload(store, limit, after);
        for (uint64_t key = ROW; key <= OVERFLOW; ++key) {
            assert_int_equal(remaining(store, limit, after, key, 2 * S), cut ? 500 : 0);
            assert_int_equal(remaining(store, limit, after, key, 7 * S), cut ? 500 : 100);
        }
        store->destroy(store);
    }
}

/* Tenants with rates of their own, or the limit's. */
enum { TENANTS_MAX = 64 };

typedef struct {
    weir_conf_limit_t conf;
    weir_conf_override_t overrides[TENANTS_MAX];
    char names[TENANTS_MAX][8];
} named_t;

/* The first is acme; they are in order. */
static void name_tenants(named_t *named, weir_conf_limit_t conf, size_t count, weir_conf_rate_t acme,
                         weir_conf_rate_t others)
{
    named->conf = conf;
    for (size_t i = 0; i < count; ++i) {
        snprintf(named->names[i], sizeof(named->names[i]), i == 0 ? "acme" : "t%02d", (int)i);
        named->overrides[i] = (weir_conf_override_t){.tenant = named->names[i], .quota = conf.quota};
        named->overrides[i].quota.rate = i == 0 ? acme : others;
    }
    named->conf.tenants.entries = named->overrides;
    named->conf.tenants.size = count;
}

static weir_store_item_t ask_as(weir_store_t *store, weir_store_limit_t *limit, const weir_conf_quota_t *quota,
                                uint64_t number, int64_t cost, int64_t now_ns)
{
    weir_store_item_t one = {.limit = limit, .quota = quota, .key = key(store, number), .cost = cost};
    decide(store, &one, 1, now_ns);
    return one;
}

static const weir_conf_rate_t ten_a_second = {10, S}, one_a_day = {1, D};

static void test_reloads_that_add_tenants_take_nothing_from_others(void **state)
{
    enum { ACME = 1 };
    static named_t before, after;
    weir_store_t *store = create_store();
    name_tenants(&before, bucket("limit", 1, D, 1000), 1, ten_a_second, one_a_day);
    weir_store_limit_t *limit = store->limit_acquire(store, &before.conf);
    assert_true(ask_as(store, limit, &before.overrides[0].quota, ACME, 1000, S).admitted);
    for (size_t i = 2; i <= TENANTS_MAX; ++i) {
        store->tell_time(store, S + (int64_t)i * S / 16);
        name_tenants(&after, bucket("limit", 1, D, 1000), i, ten_a_second, (weir_conf_rate_t){(int64_t)i, D});
        limit = reload(store, limit, &after.conf);
    }
    assert_true(ask_as(store, limit, &after.overrides[0].quota, ACME, 40, 5 * S).admitted);
    assert_false(ask_as(store, limit, &after.overrides[0].quota, ACME, 1, 5 * S).admitted);
    store->destroy(store);
}

/* A key at the rate of everybody, who might be the one that is new: it is known by being asked about. */
static void test_whoever_is_refused_between_reloads_loses_nothing(void **state)
{
    enum { SOMEBODY = 1, UNSEEN = 2 };
    static named_t named;
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("limit", 10, S, 1000);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    assert_true(ask_as(store, limit, &conf.quota, SOMEBODY, 1000, S).admitted);
    assert_true(ask_as(store, limit, &conf.quota, UNSEEN, 1000, S).admitted);
    for (size_t i = 1; i <= TENANTS_MAX; ++i) {
        store->tell_time(store, S + (int64_t)i * S / 16);
        name_tenants(&named, conf, i, one_a_day, one_a_day);
        limit = reload(store, limit, &named.conf);
        assert_false(ask_as(store, limit, &named.conf.quota, SOMEBODY, 1000, S + (int64_t)i * S / 16).admitted);
    }
    assert_int_equal(ask_as(store, limit, &named.conf.quota, SOMEBODY, 1000, 5 * S).remaining, 40);
    assert_in_range(ask_as(store, limit, &named.conf.quota, UNSEEN, 1000, 5 * S).remaining, 0, 40);
    store->destroy(store);
}

/* Nor does whoever was cut get anything by a change that raises another one. */
static void test_a_rate_that_is_not_certain_is_not_raised(void **state)
{
    enum { SOMEBODY = 1 };
    static named_t first, second, third;
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("limit", 10, S, 1000);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    assert_true(ask_as(store, limit, &conf.quota, SOMEBODY, 1000, S).admitted);
    name_tenants(&first, conf, 1, one_a_day, one_a_day); /* somebody or acme: which one is it? */
    limit = reload(store, limit, &first.conf);
    name_tenants(&second, bucket("limit", 2, D, 1000), 1, (weir_conf_rate_t){100, S}, one_a_day);
    limit = reload(store, limit, &second.conf);
    store->tell_time(store, 100 * S);
    name_tenants(&third, bucket("limit", 3, D, 1000), 1, (weir_conf_rate_t){100, S}, one_a_day);
    limit = reload(store, limit, &third.conf);
    assert_int_equal(ask_as(store, limit, &third.conf.quota, SOMEBODY, 1, 100 * S).remaining, 0);
    store->destroy(store);
}

/* Requests that began before a cut, and are decided, given back or settled after it. */
static void test_an_old_request_brings_no_fresh_burst(void **state)
{
    weir_conf_limit_t fast = in_unit(bucket("limit", 100, S, 1000), WEIR_UNIT_REQUEST_BYTES), slow = fast;
    slow.quota.rate = one_a_day;
    for (int way = 0; way < 4; ++way) {
        weir_store_t *store = create_store();
        weir_store_limit_t *old = store->limit_acquire(store, &fast);
        weir_store_item_t first = ask_as(store, old, &fast.quota, 1, 1000, S);
        weir_store_limit_t *limit = store->limit_acquire(store, &slow);
        first.spent = way == 0 ? 1001 : 999;
        if (way < 2)
            store->settle(store, &first, 1, 11 * S);
        else if (way == 2)
            store->refund(store, &first, 1, 11 * S);
        else
            assert_false(ask_as(store, old, &fast.quota, 1, 1, 11 * S).admitted);
        assert_in_range(remaining(store, limit, &slow, 1, 11 * S), 0, way == 1 ? 1 : way == 2 ? 1000 : 0);
        assert_int_equal(ask_as(store, old, &fast.quota, 2, 1000, 11 * S).admitted, true); /* its first row */
        assert_int_equal(remaining(store, limit, &slow, 2, 100 * S), 0);
        limit = reload(store, limit, &fast);
        assert_int_equal(remaining(store, limit, &fast, 2, 100 * S), 0);
        store->destroy(store);
    }
}

/* A slower rate keeps rows that the faster one would have let go. */
static void test_a_cut_row_is_not_dropped_before_its_time(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t before = bucket("limit", 1, S, 10), after = bucket("limit", 1, D, 10);
    before.max_keys = after.max_keys = 1;
    weir_store_limit_t *limit = store->limit_acquire(store, &before);
    for (int i = 0; i < 10; ++i)
        assert_true(ask(store, limit, &before, 1, S));
    limit = reload(store, limit, &after);
    weir_store_item_t other = item(limit, &after, key(store, 2));
    assert_true(decide(store, &other, 1, 100 * S));
    assert_true(other.overflowed);
    assert_int_equal(remaining(store, limit, &after, 1, 100 * S), 0);
    weir_conf_limit_t fast = bucket("limit", 1, S, 10);
    fast.max_keys = 1;
    limit = reload(store, limit, &fast);
    other = item(limit, &fast, key(store, 2));
    assert_true(decide(store, &other, 1, 120 * S));
    assert_false(other.overflowed);
    store->destroy(store);
}

static void test_a_smaller_table_keeps_debts(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t before = bucket("limit", 1, D, 1), after = before;
    after.max_keys = 10;
    weir_store_limit_t *limit = store->limit_acquire(store, &before);
    for (uint64_t i = 0; i < 500; ++i)
        assert_true(ask(store, limit, &before, i, 0));
    limit = reload(store, limit, &after);
    for (uint64_t i = 0; i < 500; ++i)
        assert_false(ask(store, limit, &after, i, 1));
    weir_store_item_t one = item(limit, &after, key(store, 500));
    assert_true(decide(store, &one, 1, 1));
    assert_true(one.overflowed);
    for (uint64_t i = 600; i < 700; ++i)
        ask(store, limit, &after, i, 2 * D); /* all full again: they go as new ones come */
    assert_in_range(store->limit_keys(store, "limit"), 1, 10);
    store->destroy(store);
}

static void test_another_kind_of_limit_has_a_state_of_its_own(void **state)
{
    static const weir_conf_key_part_t by_ip = {.kind = WEIR_KEY_CLIENT_IP};
    static const weir_conf_key_part_t by_header[] = {
        {WEIR_KEY_HEADER, "X-User"}, {WEIR_KEY_HEADER, "x-user"}, {WEIR_KEY_HEADER, "X-Other"}};
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[] = {bucket("limit", 1, D, 2),
                                 window("limit", 2, 60 * S),
                                 window("limit", 2, 61 * S),
                                 bucket("limit", 1, D, 2),
                                 bucket("other", 1, D, 2),
                                 bucket("limit", 1, D, 2),
                                 bucket("limit", 1, D, 2),
                                 bucket("limit", 1, D, 2),
                                 exact("limit", 2, 60 * S),
                                 slots("limit", 2),
                                 in_unit(bucket("limit", 1, D, 2), WEIR_UNIT_LLM_TOKENS),
                                 in_unit(bucket("limit", 1, D, 2), WEIR_UNIT_REQUEST_BYTES)};
    enum { CONFS = sizeof(confs) / sizeof(*confs) };
    confs[3].key.entries = &by_ip;
    for (int i = 5; i < 8; ++i)
        confs[i].key.entries = &by_header[i - 5];
    weir_store_limit_t *limits[CONFS];
    for (int i = 0; i < CONFS; ++i)
        limits[i] = store->limit_acquire(store, &confs[i]);
    for (int i = 0; i < CONFS; ++i)
        for (int j = 0; j < i; ++j)
            assert_int_equal(limits[i] == limits[j], i == 6 && j == 5); /* header names have no case */
    confs[0].mode = WEIR_LIMIT_SHADOW;
    assert_ptr_equal(store->limit_acquire(store, &confs[0]), limits[0]);
    store->limit_release(store, limits[0]);
    for (int i = 0; i < CONFS; ++i)
        store->limit_release(store, limits[i]);
    store->destroy(store);
}

/* Sixteen threads over limits with keys in common. Time stands still, so that the bounds are plain numbers: of each
 * key exactly its limit is admitted if it was ever refused, and no refusal names a limit that had room. */
enum { THREADS = 16, KEYS = 20, LIMITS = 4, ASKED = 30000, WORKS = 50 };

typedef struct {
    weir_store_t *store;
    weir_store_limit_t *limits[LIMITS];
    weir_conf_limit_t confs[LIMITS];
} shared_t;

typedef struct {
    const shared_t *shared;
    seeded_t seeded;
    int64_t charged[LIMITS][KEYS];
    bool refused[LIMITS][KEYS]; /* while its cost was 1 */
    int wrong;
} worker_t;

static void ask_some(worker_t *worker)
{
    const shared_t *shared = worker->shared;
    weir_store_item_t items[LIMITS];
    size_t of[LIMITS], keys[LIMITS], count = 0, own = seeded_below(&worker->seeded, KEYS);
    for (size_t l = 0; l < LIMITS; ++l) {
        if (seeded_below(&worker->seeded, 3) == 0)
            continue;
        of[count] = l;
        keys[count] = seeded_below(&worker->seeded, 2) ? own : seeded_below(&worker->seeded, KEYS);
        items[count] = item(shared->limits[l], &shared->confs[l], key(shared->store, keys[count]));
        ++count;
    }
    bool admitted = decide(shared->store, items, count, S), all = true;
    for (size_t i = 0; i < count; ++i) {
        all &= items[i].admitted;
        worker->charged[of[i]][keys[i]] += items[i].charged_ns >= 0;
        worker->refused[of[i]][keys[i]] |= !items[i].admitted;
        worker->wrong += (items[i].charged_ns >= 0) != admitted;
    }
    worker->wrong += admitted != all;
}

static void *work(void *arg)
{
    for (int i = 0; i < ASKED; ++i)
        ask_some(arg);
    return NULL;
}

static void test_sixteen_threads_admit_exactly_the_limit(void **state)
{
    static worker_t workers[THREADS];
    seeded_t seeded = seeded_start(__func__);
    shared_t shared = {.store = create_store(),
                       .confs = {bucket("a", 1, D, 2500), window("b", 3000, 60 * S), bucket("c", 1, D, 100000),
                                 window("d", 1, 60 * S)}};
    for (size_t l = 0; l < LIMITS; ++l)
        shared.limits[l] = shared.store->limit_acquire(shared.store, &shared.confs[l]);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; ++i) {
        workers[i] = (worker_t){.shared = &shared, .seeded = {seeded_next(&seeded)}};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; ++i)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (size_t l = 0; l < LIMITS; ++l) {
        for (size_t k = 0; k < KEYS; ++k) {
            const weir_conf_quota_t *quota = &shared.confs[l].quota;
            int64_t charged = 0, bound = quota->burst + quota->limit;
            bool refused = false;
            for (int i = 0; i < THREADS; ++i) {
                charged += workers[i].charged[l][k];
                refused |= workers[i].refused[l][k];
                assert_int_equal(workers[i].wrong, 0);
            }
            assert_true(refused ? charged == bound : charged <= bound);
            assert_int_equal(remaining(shared.store, shared.limits[l], &shared.confs[l], k, S), bound - charged);
        }
    }
    shared.store->destroy(shared.store);
}

/* The same with time that runs, each thread's a little apart, a table that is too small, refunds and reloads: what was
 * admitted and not given back is inside the wider of the two limits over every interval. */
enum { STEP_NS = 100000, SKEW_NS = 50000000, CHARGES = 4000 };

typedef struct {
    weir_store_t *store;
    weir_conf_limit_t confs[2];
    pthread_mutex_t lock;
    int64_t charged_ns[KEYS][CHARGES];
    size_t counts[KEYS];
} running_t;

typedef struct {
    running_t *running;
    seeded_t seeded;
} runner_t;

static void run_one(runner_t *runner, weir_store_limit_t *limit, const weir_conf_limit_t *conf, int64_t now_ns)
{
    running_t *running = runner->running;
    weir_store_t *store = running->store;
    size_t k = seeded_below(&runner->seeded, KEYS);
    weir_store_item_t one = item(limit, conf, key(store, k));
    if (!decide(store, &one, 1, now_ns))
        return;
    if (seeded_below(&runner->seeded, 8) == 0) {
        store->refund(store, &one, 1, now_ns);
        return;
    }
    pthread_mutex_lock(&running->lock);
    running->charged_ns[k][running->counts[k]++ % CHARGES] = one.charged_ns;
    pthread_mutex_unlock(&running->lock);
}

static void *run(void *arg)
{
    runner_t *runner = arg;
    weir_store_t *store = runner->running->store;
    for (int work = 0; work < WORKS; ++work) { /* each is a reload */
        const weir_conf_limit_t *conf = &runner->running->confs[work % 2];
        weir_store_limit_t *limit = store->limit_acquire(store, conf);
        for (int i = 0; i < 400; ++i) {
            int64_t now_ns = S + ((int64_t)work * 400 + i) * STEP_NS + (int64_t)seeded_below(&runner->seeded, SKEW_NS);
            run_one(runner, limit, conf, now_ns);
            if (i % 16 == 0) /* a stranger, who takes a row */
                ask(store, limit, conf, seeded_next(&runner->seeded), now_ns);
        }
        store->limit_release(store, limit);
    }
    return NULL;
}

static int by_time(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void check_bound(int64_t *charged_ns, size_t count, const weir_conf_quota_t *quota)
{
    assert_in_range(count, quota->burst + 10, CHARGES);
    qsort(charged_ns, count, sizeof(*charged_ns), by_time);
    __int128 used = 0;
    for (size_t i = 0; i < count; ++i) {
        used -= i != 0 ? (__int128)(charged_ns[i] - charged_ns[i - 1]) * quota->rate.count : 0;
        used = (used < 0 ? 0 : used) + quota->rate.period_ns;
        assert_true(used <= (__int128)quota->burst * quota->rate.period_ns);
    }
}

static void test_sixteen_threads_with_reloads_and_refunds_stay_inside_the_bound(void **state)
{
    static running_t running;
    seeded_t seeded = seeded_start(__func__);
    running.store = create_store();
    running.confs[0] = bucket("limit", 50, S, 100);
    running.confs[1] = bucket("limit", 30, S, 70);
    running.confs[0].max_keys = KEYS + 30;
    running.confs[1].max_keys = KEYS + 10;
    pthread_mutex_init(&running.lock, NULL);
    weir_store_limit_t *limit = running.store->limit_acquire(running.store, &running.confs[0]);
    for (size_t i = 0; i < KEYS * 100; ++i) { /* they have used all of it before strangers come for their rows */
        assert_true(ask(running.store, limit, &running.confs[0], i % KEYS, S));
        running.charged_ns[i % KEYS][running.counts[i % KEYS]++] = S;
    }
    runner_t runners[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; ++i) {
        runners[i] = (runner_t){&running, {seeded_next(&seeded)}};
        assert_int_equal(pthread_create(&threads[i], NULL, run, &runners[i]), 0);
    }
    for (int i = 0; i < THREADS; ++i)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    for (size_t k = 0; k < KEYS; ++k)
        check_bound(running.charged_ns[k], running.counts[k], &running.confs[0].quota);
    running.store->limit_release(running.store, limit);
    running.store->destroy(running.store);
}

static void test_a_peek_at_a_full_table_sees_the_overflow_row(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("limit", 1, D, 2);
    conf.max_keys = 1;
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    assert_true(ask(store, limit, &conf, 0, 0));
    assert_true(ask(store, limit, &conf, 1, 0));
    weir_store_item_t probe = peek(store, limit, &conf, 2, 0);
    assert_true(probe.overflowed);
    assert_int_equal(probe.remaining, 1);
    assert_false(store->reset(store, &probe, 0)); /* others have used of it, too */
    assert_int_equal(remaining(store, limit, &conf, 2, 0), 1);
    probe = item(limit, &conf, key(store, 0));
    assert_true(store->reset(store, &probe, 0));
    assert_int_equal(store->limit_keys(store, "limit"), 0);
    probe = item(limit, &conf, key(store, 3)); /* there is room for it now */
    assert_true(store->reset(store, &probe, 0));
    assert_int_equal(store->limit_keys(store, "limit"), 0);
    store->destroy(store);
}

/* Names */

static bool note(weir_store_t *store, weir_store_limit_t *limit, const weir_conf_limit_t *conf, uint64_t number,
                 int64_t now_ns)
{
    char name[32];
    weir_store_item_t one = peek(store, limit, conf, number, now_ns);
    unsigned used = (unsigned)((conf->quota.burst - one.remaining) * 1000 / conf->quota.burst);
    if (!store->wants_name(store, &one, used, now_ns))
        return false;
    int len = snprintf(name, sizeof(name), "tenant=%d", (int)number);
    store->note_name(store, &one, used, now_ns, name, (size_t)len);
    return true;
}

static void test_the_closest_keys_are_known_by_name(void **state)
{
    enum { CLOSE = 30 };
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("limit", 1, S, 100), none = bucket("none", 0, S, 1);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf), *zero = store->limit_acquire(store, &none);
    weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX];
    assert_int_equal(store->closest(store, "limit", S, closest), 0);
    assert_int_equal(store->closest(store, "nobody", S, closest), 0);
    for (uint64_t k = 0; k < CLOSE; ++k) {
        uint64_t number = k * 7 % CLOSE;
        for (uint64_t used = 0; used < 60 + number; ++used)
            assert_true(ask(store, limit, &conf, number, S));
        assert_true(note(store, limit, &conf, number, S));
        assert_false(note(store, limit, &conf, number, S));
    }
    assert_int_equal(store->closest(store, "limit", S, closest), WEIR_STORE_CLOSEST_MAX);
    for (int i = 0; i < WEIR_STORE_CLOSEST_MAX; ++i) {
        char name[32];
        snprintf(name, sizeof(name), "tenant=%d", CLOSE - 1 - i);
        assert_string_equal(closest[i].name, name);
        assert_int_equal(closest[i].quota, 100);
        assert_int_equal(closest[i].remaining, 100 - (60 + CLOSE - 1 - i));
        assert_int_equal(closest[i].reset_ns, (60 + CLOSE - 1 - i) * S);
    }
    assert_int_equal(store->closest(store, "limit", 75 * S, closest), 15); /* as it is now */
    assert_int_equal(closest[0].remaining, 100 - 89 + 74);
    assert_int_equal(store->closest(store, "limit", 200 * S, closest), 0);
    assert_true(note(store, zero, &none, 1, S));
    assert_int_equal(store->closest(store, "none", S, closest), 1); /* it never had a row */
    assert_int_equal(closest[0].remaining, 0);
    assert_int_equal(closest[0].reset_ns, -1);
    store->destroy(store);
}

static void test_names_are_those_of_the_quotas_in_force(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t before = bucket("limit", 1, D, 100), after = bucket("limit", 1, D, 50);
    weir_store_limit_t *old = store->limit_acquire(store, &before);
    weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX];
    for (int i = 0; i < 20; ++i)
        assert_true(ask(store, old, &before, 1, S));
    assert_true(note(store, old, &before, 1, S));
    weir_store_limit_t *limit = store->limit_acquire(store, &after);
    assert_int_equal(store->closest(store, "limit", S, closest), 0);
    assert_false(note(store, old, &before, 1, S));
    assert_true(note(store, limit, &after, 1, S));
    assert_int_equal(store->closest(store, "limit", S, closest), 1);
    assert_int_equal(closest[0].quota, 50);
    assert_int_equal(closest[0].remaining, 30);
    store->destroy(store);
}

static void test_the_overflow_row_has_no_name(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = bucket("limit", 1, D, 1);
    conf.max_keys = 1;
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    assert_true(ask(store, limit, &conf, 0, 0));
    weir_store_item_t one = item(limit, &conf, key(store, 1));
    assert_true(decide(store, &one, 1, 0));
    assert_true(one.overflowed);
    assert_false(store->wants_name(store, &one, 1000, 0));
    store->destroy(store);
}

static void test_bytes_are_told(void **state)
{
    weir_conf_limit_t limit = bucket("limit", 1, S, 1), other = window("other", 1, S), log = exact("log", 100, S);
    weir_conf_limit_t tokens = in_unit(limit, WEIR_UNIT_LLM_TOKENS), some = slots("slots", 100);
    limit.max_keys = other.max_keys = log.max_keys = tokens.max_keys = some.max_keys = 100000;
    assert_in_range(weir_memory_store_bytes(&limit), 100000 * 48, 100000 * 64);
    assert_in_range(weir_memory_store_bytes(&tokens), 100000 * 56, 100000 * 74);
    assert_in_range(weir_memory_store_bytes(&some), 100000 * 38, 100000 * 54);
    assert_in_range(weir_memory_store_bytes(&other), 100000 * 272, 100000 * 360);
    assert_in_range(weir_memory_store_bytes(&log), 100000 * (56 + 3200), 100000 * (80 + 3200));
    static weir_conf_override_t more = {.tenant = "more", .quota = {.limit = 1000000000}};
    log.tenants.entries = &more;
    log.tenants.size = 1;
    assert_in_range(weir_memory_store_bytes(&log), 100000 * INT64_C(2097152), 100000 * INT64_C(2097300));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_differ_by_secret_and_by_every_bit),
        cmocka_unit_test(test_all_or_nothing),
        cmocka_unit_test(test_shadow_items_are_charged_like_others_and_never_in_the_way),
        cmocka_unit_test(test_a_refused_key_takes_no_row),
        cmocka_unit_test(test_time_of_another_worker),
        cmocka_unit_test(test_refunds),
        cmocka_unit_test(test_a_full_table_keeps_debts_and_shares_one_overflow_bucket),
        cmocka_unit_test(test_rows_without_information_make_room),
        cmocka_unit_test(test_a_refund_goes_back_to_the_overflow_bucket),
        cmocka_unit_test(test_a_live_cut_gives_no_fresh_burst),
        cmocka_unit_test(test_until_the_cut_the_old_rate_counts),
        cmocka_unit_test(test_a_change_is_at_its_own_time),
        cmocka_unit_test(test_reloads_that_add_tenants_take_nothing_from_others),
        cmocka_unit_test(test_whoever_is_refused_between_reloads_loses_nothing),
        cmocka_unit_test(test_a_rate_that_is_not_certain_is_not_raised),
        cmocka_unit_test(test_an_old_request_brings_no_fresh_burst),
        cmocka_unit_test(test_a_cut_row_is_not_dropped_before_its_time),
        cmocka_unit_test(test_a_smaller_table_keeps_debts),
        cmocka_unit_test(test_another_kind_of_limit_has_a_state_of_its_own),
        cmocka_unit_test(test_sixteen_threads_admit_exactly_the_limit),
        cmocka_unit_test(test_sixteen_threads_with_reloads_and_refunds_stay_inside_the_bound),
        cmocka_unit_test(test_a_peek_at_a_full_table_sees_the_overflow_row),
        cmocka_unit_test(test_the_closest_keys_are_known_by_name),
        cmocka_unit_test(test_names_are_those_of_the_quotas_in_force),
        cmocka_unit_test(test_the_overflow_row_has_no_name),
        cmocka_unit_test(test_bytes_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
