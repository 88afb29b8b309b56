/* What each unit and each algorithm charges, through the store: bytes that come late, reservations, slots; and that all
 * of them together decide as the exact model does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "limits.h"

static weir_store_item_t charge(weir_store_t *store, weir_store_limit_t *limit, const weir_conf_limit_t *conf,
                                int64_t cost, int64_t now_ns)
{
    weir_store_item_t one = item(limit, conf, key(store, 1));
    one.cost = cost;
    decide(store, &one, 1, now_ns);
    return one;
}

static void settle(weir_store_t *store, weir_store_item_t *one, int64_t spent, int64_t now_ns)
{
    one->spent = spent;
    store->settle(store, one, 1, now_ns);
}

/* Three limits that come to the same at one instant: whatever is used comes back within 100 s. */
enum { KINDS = 3 };

static void three(weir_conf_limit_t confs[KINDS], weir_conf_unit_t unit)
{
    confs[0] = in_unit(bucket("bucket", 10, S, 1000), unit);
    confs[1] = in_unit(window("window", 1000, 99 * S), unit);
    confs[2] = in_unit(exact("exact", 1000, 99 * S), unit);
}

/* request_bytes */

static void test_bytes_that_were_told_are_charged_at_once(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[KINDS];
    three(confs, WEIR_UNIT_REQUEST_BYTES);
    for (int i = 0; i < KINDS; ++i) {
        int64_t t = i * D;
        weir_store_limit_t *limit = store->limit_acquire(store, &confs[i]);
        weir_store_item_t one = charge(store, limit, &confs[i], 600, t + S);
        assert_true(one.admitted);
        assert_int_equal(one.remaining, 400);
        settle(store, &one, 600, t + 2 * S);
        assert_false(charge(store, limit, &confs[i], 600, t + 2 * S).admitted);
        assert_int_equal(charge(store, limit, &confs[i], 1001, t + 300 * S).retry_after_ns, -1); /* it never fits */
        one = charge(store, limit, &confs[i], 700, t + 300 * S);
        settle(store, &one, 100, t + 300 * S); /* what did not come is given back */
        assert_int_equal(remaining(store, limit, &confs[i], 1, t + 300 * S), 900);
        one.cost = 100;
        store->refund(store, &one, 1, t + 300 * S);
        assert_int_equal(remaining(store, limit, &confs[i], 1, t + 300 * S), 1000);
    }
    store->destroy(store);
}

static void test_bytes_that_were_not_told_are_a_debt(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[KINDS];
    three(confs, WEIR_UNIT_REQUEST_BYTES);
    for (int i = 0; i < KINDS; ++i) {
        int64_t t = i * D;
        weir_store_limit_t *limit = store->limit_acquire(store, &confs[i]);
        weir_store_item_t one = charge(store, limit, &confs[i], 1, t + S);
        settle(store, &one, 1500, t + 2 * S);
        weir_store_item_t next = charge(store, limit, &confs[i], 1, t + 2 * S);
        assert_false(next.admitted);
        assert_int_equal(next.remaining, 0);
        assert_in_range(next.retry_after_ns, 50 * S, 101 * S);
        assert_false(charge(store, limit, &confs[i], 1, t + 2 * S + next.retry_after_ns - 1).admitted);
        assert_true(charge(store, limit, &confs[i], 1, t + 2 * S + next.retry_after_ns).admitted);
    }
    store->destroy(store);
}

/* Long after: its row went meanwhile, but what came is charged. */
static void test_a_long_upload_is_charged_when_it_ends(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = in_unit(bucket("bucket", 10, S, 1000), WEIR_UNIT_REQUEST_BYTES);
    conf.max_keys = 1;
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    weir_store_item_t one = charge(store, limit, &conf, 1, S);
    assert_true(ask(store, limit, &conf, 2, 500 * S)); /* takes its row */
    settle(store, &one, 800, 1000 * S);
    assert_int_equal(remaining(store, limit, &conf, 1, 1000 * S), 1000 - 800 + 1);
    one = charge(store, limit, &conf, 1, 5000 * S);
    assert_true(ask(store, limit, &conf, 3, 6000 * S));
    settle(store, &one, 800, 6000 * S); /* a full table: it goes to the row that all share */
    assert_int_equal(remaining(store, limit, &conf, 1, 6000 * S), 1000 - 800 + 1);
    assert_true(peek(store, limit, &conf, 1, 6000 * S).overflowed);
    store->destroy(store);
}

static void test_no_body_is_always_admitted_but_at_a_rate_of_0(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[KINDS], none = in_unit(bucket("none", 0, S, 1000), WEIR_UNIT_REQUEST_BYTES);
    three(confs, WEIR_UNIT_REQUEST_BYTES);
    for (int i = 0; i < KINDS; ++i) {
        int64_t t = i * D;
        weir_store_limit_t *limit = store->limit_acquire(store, &confs[i]);
        assert_true(charge(store, limit, &confs[i], 0, t + S).admitted);
        assert_int_equal(store->limit_keys(store, confs[i].name), 0);
        weir_store_item_t one = charge(store, limit, &confs[i], 1, t + S);
        settle(store, &one, 5000, t + S);
        one = charge(store, limit, &confs[i], 0, t + S);
        assert_true(one.admitted);
        assert_int_equal(one.charged_ns, t + S);
        settle(store, &one, 0, t + S);
        store->refund(store, &one, 1, t + S);
        assert_false(charge(store, limit, &confs[i], 1, t + S).admitted);
    }
    weir_store_limit_t *limit = store->limit_acquire(store, &none);
    weir_store_item_t one = charge(store, limit, &none, 0, S);
    assert_false(one.admitted);
    assert_int_equal(one.retry_after_ns, -1);
    store->destroy(store);
}

/* llm_tokens */

static void test_what_is_reserved_is_out_of_reach_and_what_is_spent_is_charged(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[KINDS];
    three(confs, WEIR_UNIT_LLM_TOKENS);
    for (int i = 0; i < KINDS; ++i) {
        int64_t t = i * D;
        weir_store_limit_t *limit = store->limit_acquire(store, &confs[i]);
        weir_store_item_t first = charge(store, limit, &confs[i], 700, t + S);
        assert_true(first.admitted);
        assert_int_equal(first.remaining, 300);
        assert_in_range(first.reset_ns, 70 * S, 101 * S); /* as if it were spent by now */
        assert_int_equal(first.retry_after_ns, 0);
        weir_store_item_t second = charge(store, limit, &confs[i], 301, t + S);
        assert_false(second.admitted);
        assert_int_equal(second.charged_ns, -1);
        assert_int_equal(second.retry_after_ns, 0); /* when the first one ends, which nobody knows */
        second = charge(store, limit, &confs[i], 300, t + S);
        assert_true(second.admitted);
        assert_int_equal(second.remaining, 0);
        settle(store, &first, 100, t + S); /* under: the rest is released */
        assert_int_equal(remaining(store, limit, &confs[i], 1, t + S), 600);
        settle(store, &second, 0, t + S);
        assert_int_equal(remaining(store, limit, &confs[i], 1, t + S), 900);
        first = charge(store, limit, &confs[i], 900, t + S);
        settle(store, &first, 1400, t + S); /* over: a debt */
        second = charge(store, limit, &confs[i], 1, t + S);
        assert_false(second.admitted);
        assert_false(charge(store, limit, &confs[i], 1, t + S + second.retry_after_ns - 1).admitted);
        second = charge(store, limit, &confs[i], 1, t + S + second.retry_after_ns);
        assert_true(second.admitted);
        store->refund(store, &second, 1, t + 200 * S);
        assert_int_equal(remaining(store, limit, &confs[i], 1, t + 300 * S), 1000);
    }
    store->destroy(store);
}

static void test_a_reservation_outlives_time(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[KINDS];
    three(confs, WEIR_UNIT_LLM_TOKENS);
    for (int i = 0; i < KINDS; ++i) {
        int64_t t = i * D;
        confs[i].max_keys = 1;
        weir_store_limit_t *limit = store->limit_acquire(store, &confs[i]);
        weir_store_item_t first = charge(store, limit, &confs[i], 1000, t + S);
        assert_false(charge(store, limit, &confs[i], 1, t + 10000 * S).admitted);
        weir_store_item_t other = item(limit, &confs[i], key(store, 2));
        assert_true(decide(store, &other, 1, t + 10000 * S));
        assert_true(other.overflowed); /* the row is not dropped before the call ends */
        store->settle(store, &other, 1, t + 10000 * S);
        settle(store, &first, 10, t + 10000 * S);
        assert_int_equal(remaining(store, limit, &confs[i], 1, t + 10000 * S), 990);
        assert_int_equal(peek(store, limit, &confs[i], 2, t + 10000 * S).remaining, 1000);
    }
    store->destroy(store);
}

static void test_when_a_refused_call_may_come_again(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = in_unit(bucket("bucket", 10, S, 1000), WEIR_UNIT_LLM_TOKENS);
    weir_conf_limit_t none = in_unit(bucket("none", 0, S, 1000), WEIR_UNIT_LLM_TOKENS);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    weir_store_item_t first = charge(store, limit, &conf, 500, 0);
    settle(store, &first, 500, 0);
    first = charge(store, limit, &conf, 200, 0);
    assert_int_equal(first.reset_ns, 70 * S);
    assert_int_equal(charge(store, limit, &conf, 400, 0).retry_after_ns, 10 * S);
    assert_true(charge(store, limit, &conf, 400, 10 * S).admitted);                    /* 600 are reserved, 400 used */
    assert_int_equal(charge(store, limit, &conf, 500, 10 * S).retry_after_ns, 40 * S); /* all that is not reserved */
    assert_int_equal(charge(store, limit, &conf, 1001, 10 * S).retry_after_ns, -1);
    weir_store_item_t refused = charge(store, store->limit_acquire(store, &none), &none, 1, 0);
    assert_false(refused.admitted);
    assert_int_equal(refused.retry_after_ns, -1);
    assert_int_equal(refused.reset_ns, -1);
    store->destroy(store);
}

static void test_reservations_over_a_live_cut(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t before = in_unit(bucket("limit", 100, S, 1000), WEIR_UNIT_LLM_TOKENS);
    weir_conf_limit_t after = in_unit(bucket("limit", 1, S, 100), WEIR_UNIT_LLM_TOKENS);
    weir_store_limit_t *limit = store->limit_acquire(store, &before);
    weir_store_item_t first = charge(store, limit, &before, 300, S), second = charge(store, limit, &before, 50, S);
    settle(store, &second, 50, S);
    limit = store->limit_acquire(store, &after);
    assert_int_equal(remaining(store, limit, &after, 1, S), 0);
    assert_false(charge(store, limit, &after, 1, 100 * S).admitted);
    settle(store, &first, 120, 100 * S); /* items keep the quota that they came with */
    assert_int_equal(remaining(store, limit, &after, 1, 100 * S), 0);
    assert_int_equal(remaining(store, limit, &after, 1, 130 * S), 10);
    store->destroy(store);
}

/* concurrency */

static void test_slots_come_back_with_the_end_of_a_request_whatever_it_is(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = slots("slots", 3);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    weir_store_item_t items[3];
    for (int i = 0; i < 3; ++i) {
        items[i] = charge(store, limit, &conf, 1, S);
        assert_true(items[i].admitted);
        assert_int_equal(items[i].remaining, 2 - i);
        assert_int_equal(items[i].reset_ns, -1);
    }
    weir_store_item_t refused = charge(store, limit, &conf, 1, 10 * D);
    assert_false(refused.admitted);
    assert_int_equal(refused.refusal, WEIR_STORE_LIMITED);
    assert_int_equal(refused.retry_after_ns, 0);
    assert_int_equal(refused.charged_ns, -1);
    settle(store, &items[0], 0, 10 * D);
    store->refund(store, &items[1], 1, 10 * D);
    assert_int_equal(remaining(store, limit, &conf, 1, 10 * D), 2);
    settle(store, &items[2], 0, 10 * D);
    assert_int_equal(remaining(store, limit, &conf, 1, 10 * D), 3);
    store->destroy(store);
}

static void test_slots_over_a_live_change(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[] = {slots("slots", 3), slots("slots", 1), slots("slots", 4)};
    weir_store_limit_t *limit = store->limit_acquire(store, &confs[0]);
    weir_store_item_t items[3];
    for (int i = 0; i < 3; ++i)
        items[i] = charge(store, limit, &confs[0], 1, S);
    limit = store->limit_acquire(store, &confs[1]);
    for (int i = 0; i < 2; ++i) {
        settle(store, &items[i], 0, S);
        assert_int_equal(remaining(store, limit, &confs[1], 1, S), 0);
        assert_false(ask(store, limit, &confs[1], 1, S));
    }
    limit = store->limit_acquire(store, &confs[2]);
    assert_int_equal(remaining(store, limit, &confs[2], 1, S), 3);
    settle(store, &items[2], 0, S);
    assert_int_equal(remaining(store, limit, &confs[2], 1, S), 4);
    store->destroy(store);
}

static void test_a_row_without_slots_in_use_makes_room(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t conf = slots("slots", 1);
    conf.max_keys = 1;
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    weir_store_item_t items[2] = {item(limit, &conf, key(store, 1)), item(limit, &conf, key(store, 2))};
    assert_true(decide(store, &items[0], 1, S));
    assert_true(decide(store, &items[1], 1, S));
    assert_true(items[1].overflowed);
    assert_false(ask(store, limit, &conf, 3, S)); /* there is one slot for all that have no row */
    store->settle(store, &items[0], 1, S);
    store->settle(store, &items[1], 1, S);
    assert_true(decide(store, &items[1], 1, S));
    assert_false(items[1].overflowed);
    store->settle(store, &items[1], 1, S);
    store->destroy(store);
}

/* exact */

static void test_exact_forgets_at_once_what_slots_forget_late(void **state)
{
    weir_store_t *store = create_store();
    weir_conf_limit_t confs[] = {window("window", 2, 60 * S), exact("window", 2, 60 * S)};
    weir_store_limit_t *limits[] = {store->limit_acquire(store, &confs[0]), store->limit_acquire(store, &confs[1])};
    assert_ptr_not_equal(limits[0], limits[1]); /* its state is another one */
    for (int i = 0; i < 2; ++i) {
        int64_t t = i * D;
        assert_true(ask(store, limits[i], &confs[i], 1, t + S / 2));
        assert_true(ask(store, limits[i], &confs[i], 1, t + S));
        assert_false(ask(store, limits[i], &confs[i], 1, t + S / 2 + 60 * S));
        assert_int_equal(ask(store, limits[i], &confs[i], 1, t + S / 2 + 60 * S + 1), i == 1);
        assert_false(ask(store, limits[i], &confs[i], 1, t + 61 * S - 1));
        assert_true(ask(store, limits[i], &confs[i], 1, t + 62 * S));
    }
    confs[1].max_keys = 1; /* its memory goes with its row */
    reload(store, limits[1], &confs[1]);
    for (uint64_t i = 2; i < 100; ++i)
        assert_true(ask(store, limits[1], &confs[1], i, 2 * D + (int64_t)i * 100 * S));
    store->destroy(store);
}

/* Peeking and starting anew */

static const weir_conf_unit_t units[] = {WEIR_UNIT_REQUESTS, WEIR_UNIT_LLM_TOKENS, WEIR_UNIT_REQUEST_BYTES};

static void test_peeking_tells_what_would_be_and_changes_nothing(void **state)
{
    weir_store_t *store = create_store();
    for (int u = 0; u < 3; ++u) {
        weir_conf_limit_t confs[KINDS + 1] = {[KINDS] = slots("slots", 1000)};
        three(confs, units[u]);
        for (int i = 0; i < KINDS + (u == 0); ++i) {
            weir_store_limit_t *limit = store->limit_acquire(store, &confs[i]);
            weir_store_item_t probe = peek(store, limit, &confs[i], 1, S);
            assert_true(probe.admitted);
            assert_int_equal(probe.remaining, 1000);
            assert_int_equal(probe.charged_ns, -1);
            assert_int_equal(store->limit_keys(store, confs[i].name), 0);
            weir_store_item_t used = item(limit, &confs[i], key(store, 1)), again;
            used.cost = 900;
            assert_true(decide(store, &used, 1, S));
            for (int n = 0; n < 5; ++n) {
                probe = peek(store, limit, &confs[i], 1, S);
                assert_true(probe.admitted);
                assert_int_equal(probe.remaining, 100);
                probe.cost = 101;
                store->peek(store, &probe, 1, S);
                assert_false(probe.admitted);
                assert_int_equal(probe.refusal, WEIR_STORE_LIMITED);
            }
            again = item(limit, &confs[i], key(store, 1));
            again.cost = 101;
            assert_false(decide(store, &again, 1, S));
            assert_int_equal(again.retry_after_ns, probe.retry_after_ns); /* it said what would be */
            assert_int_equal(again.reset_ns, probe.reset_ns);
            again.cost = 100;
            assert_true(decide(store, &again, 1, S));
            store->refund(store, &again, 1, S);
            store->refund(store, &used, 1, S);
            store->limit_release(store, limit);
        }
    }
    store->destroy(store);
}

static void test_a_fresh_start_keeps_what_is_in_use(void **state)
{
    weir_store_t *store = create_store();
    for (int u = 0; u < 3; ++u) {
        weir_conf_limit_t confs[KINDS];
        three(confs, units[u]);
        for (int i = 0; i < KINDS; ++i) {
            bool is_reserving = units[u] == WEIR_UNIT_LLM_TOKENS;
            weir_store_limit_t *limit = store->limit_acquire(store, &confs[i]);
            weir_store_item_t done = charge(store, limit, &confs[i], 500, S);
            settle(store, &done, 500, S);
            weir_store_item_t running = charge(store, limit, &confs[i], 300, S);
            assert_true(ask(store, limit, &confs[i], 2, S));
            store->reset(store, &running, S);
            assert_int_equal(remaining(store, limit, &confs[i], 1, S), is_reserving ? 700 : 1000);
            assert_int_equal(remaining(store, limit, &confs[i], 2, S), 999);
            assert_int_equal(store->limit_keys(store, confs[i].name), is_reserving ? 2 : 1);
            store->reset(store, &running, S); /* and where there is no row */
            if (is_reserving)
                settle(store, &running, 10, S);
            else
                store->refund(store, &running, 1, S);
            assert_int_equal(remaining(store, limit, &confs[i], 1, S), is_reserving ? 990 : 1000);
            store->limit_release(store, limit);
        }
    }
    weir_conf_limit_t conf = slots("slots", 2);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    weir_store_item_t one = charge(store, limit, &conf, 1, S);
    store->reset(store, &one, S);
    assert_int_equal(remaining(store, limit, &conf, 1, S), 1);
    settle(store, &one, 0, S);
    assert_int_equal(remaining(store, limit, &conf, 1, S), 2);
    store->reset(store, &one, S);
    assert_int_equal(store->limit_keys(store, "slots"), 0);
    store->destroy(store);
}

/* The exact model: a million arrivals and endings over one decision of four limits, by whole numbers. */
enum { KEYS = 6, FLYING = 64, EVENTS = 1000000, MODELLED = 4, HISTORY = 1 << 13 };

typedef struct {
    int64_t at_ns, cost;
} taken_t;

/* What one key has used of one limit. */
typedef struct {
    __int128 level;   /* of a bucket: used, in parts of one period's ns */
    int64_t level_ns; /* when it was so */
    taken_t taken[HISTORY];
    size_t oldest, newest;
    int64_t total;    /* of what was taken and counts */
    int64_t reserved; /* or slots in use */
} model_t;

typedef struct {
    weir_store_t *store;
    weir_conf_limit_t confs[MODELLED];
    weir_store_limit_t *limits[MODELLED];
    model_t models[MODELLED][KEYS];
    weir_store_item_t flying[FLYING][MODELLED];
    size_t counts[FLYING], keys[FLYING], flying_count;
    size_t admitted, refused[MODELLED];
    seeded_t seeded;
} modelled_t;

static void model_pass(model_t *model, const weir_conf_limit_t *conf, int64_t now_ns)
{
    model->level -= (__int128)(now_ns - model->level_ns) * conf->quota.rate.count;
    model->level = model->level > 0 ? model->level : 0;
    model->level_ns = now_ns;
    for (; model->oldest != model->newest; ++model->oldest) {
        const taken_t *taken = &model->taken[model->oldest % HISTORY];
        if (now_ns - taken->at_ns <= conf->quota.window_ns)
            break;
        model->total -= taken->cost;
    }
}

static bool model_fits(model_t *model, const weir_conf_limit_t *conf, int64_t cost, int64_t now_ns)
{
    const weir_conf_quota_t *quota = &conf->quota;
    model_pass(model, conf, now_ns);
    if (conf->algorithm == WEIR_LIMIT_TOKEN_BUCKET)
        return model->level + (__int128)(model->reserved + cost) * quota->rate.period_ns <=
               (__int128)quota->burst * quota->rate.period_ns;
    return model->total + model->reserved + cost <= quota->limit;
}

static void model_take(model_t *model, const weir_conf_limit_t *conf, int64_t cost, int64_t now_ns)
{
    model_pass(model, conf, now_ns);
    if (conf->algorithm == WEIR_LIMIT_TOKEN_BUCKET)
        model->level += (__int128)cost * conf->quota.rate.period_ns;
    if (conf->algorithm != WEIR_LIMIT_SLIDING_WINDOW || cost == 0)
        return;
    model->taken[model->newest++ % HISTORY] = (taken_t){now_ns, cost};
    model->total += cost;
    assert_true(model->newest - model->oldest <= HISTORY);
}

static bool reserves(const weir_conf_limit_t *conf)
{
    return conf->unit == WEIR_UNIT_LLM_TOKENS || conf->algorithm == WEIR_LIMIT_CONCURRENCY;
}

static size_t limit_of_item(const modelled_t *all, const weir_store_item_t *one)
{
    size_t l = 0;
    while (all->limits[l] != one->limit)
        ++l;
    return l;
}

static void arrive(modelled_t *all, int64_t now_ns)
{
    size_t flight = all->flying_count, k = seeded_below(&all->seeded, KEYS), count = 0;
    weir_store_item_t *items = all->flying[flight];
    bool expected = true, fits[MODELLED];
    for (size_t l = 0; l < MODELLED; ++l) {
        if (seeded_below(&all->seeded, 8) == 0)
            continue;
        items[count] = item(all->limits[l], &all->confs[l], key(all->store, k));
        if (all->confs[l].unit == WEIR_UNIT_LLM_TOKENS)
            items[count].cost = 1 + (int64_t)seeded_below(&all->seeded, 200);
        fits[count] = model_fits(&all->models[l][k], &all->confs[l], items[count].cost, now_ns);
        expected &= fits[count];
        ++count;
    }
    assert_int_equal(decide(all->store, items, count, now_ns), expected);
    for (size_t i = 0; i < count; ++i) {
        size_t l = limit_of_item(all, &items[i]);
        assert_int_equal(items[i].admitted, fits[i]);
        all->refused[l] += !fits[i];
        if (!expected)
            continue;
        if (reserves(&all->confs[l]))
            all->models[l][k].reserved += items[i].cost;
        else
            model_take(&all->models[l][k], &all->confs[l], items[i].cost, now_ns);
    }
    if (!expected || count == 0)
        return;
    ++all->admitted;
    all->counts[flight] = count;
    all->keys[flight] = k;
    ++all->flying_count;
}

static void end(modelled_t *all, int64_t now_ns)
{
    size_t flight = seeded_below(&all->seeded, all->flying_count), last = --all->flying_count;
    weir_store_item_t *items = all->flying[flight];
    bool is_refund = seeded_below(&all->seeded, 8) == 0;
    for (size_t i = 0; i < all->counts[flight]; ++i) {
        size_t l = limit_of_item(all, &items[i]);
        model_t *model = &all->models[l][all->keys[flight]];
        items[i].spent = (int64_t)seeded_below(&all->seeded, 2 * (uint64_t)items[i].cost);
        if (!reserves(&all->confs[l])) {
            is_refund = false; /* what is used over time comes back in part: that has tests of its own */
            continue;
        }
        model->reserved -= items[i].cost;
        assert_true(model->reserved >= 0);
    }
    for (size_t i = 0; i < all->counts[flight] && !is_refund; ++i) {
        size_t l = limit_of_item(all, &items[i]);
        if (all->confs[l].unit == WEIR_UNIT_LLM_TOKENS)
            model_take(&all->models[l][all->keys[flight]], &all->confs[l], items[i].spent, now_ns);
    }
    (is_refund ? all->store->refund : all->store->settle)(all->store, items, all->counts[flight], now_ns);
    memcpy(items, all->flying[last], sizeof(all->flying[last]));
    all->counts[flight] = all->counts[last];
    all->keys[flight] = all->keys[last];
}

static void test_a_million_arrivals_are_decided_as_in_the_exact_model(void **state)
{
    static modelled_t all;
    all.seeded = seeded_start(__func__);
    all.store = create_store();
    all.confs[0] = slots("slots", 6);
    all.confs[1] = in_unit(bucket("tokens", 400, S, 1000), WEIR_UNIT_LLM_TOKENS);
    all.confs[2] = in_unit(exact("exact-tokens", 1500, 3 * S), WEIR_UNIT_LLM_TOKENS);
    all.confs[3] = bucket("requests", 4, S, 8);
    for (size_t l = 0; l < MODELLED; ++l)
        all.limits[l] = all.store->limit_acquire(all.store, &all.confs[l]);
    int64_t now_ns = S;
    for (int i = 0; i < EVENTS; ++i) {
        now_ns += (int64_t)seeded_below(&all.seeded, 20000000);
        if (all.flying_count == FLYING || (all.flying_count != 0 && seeded_below(&all.seeded, 4) == 0))
            end(&all, now_ns);
        else
            arrive(&all, now_ns);
    }
    while (all.flying_count != 0)
        end(&all, now_ns);
    now_ns += 10000 * S; /* whatever was spent is long back: what is missing was lost */
    for (size_t l = 0; l < MODELLED; ++l) {
        assert_true(all.refused[l] > 1000);
        for (size_t k = 0; k < KEYS; ++k)
            assert_int_equal(remaining(all.store, all.limits[l], &all.confs[l], k, now_ns),
                             weir_store_quota_size(&all.confs[l].quota));
    }
    assert_true(all.admitted > 10000);
    all.store->destroy(all.store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_that_were_told_are_charged_at_once),
        cmocka_unit_test(test_bytes_that_were_not_told_are_a_debt),
        cmocka_unit_test(test_a_long_upload_is_charged_when_it_ends),
        cmocka_unit_test(test_no_body_is_always_admitted_but_at_a_rate_of_0),
        cmocka_unit_test(test_what_is_reserved_is_out_of_reach_and_what_is_spent_is_charged),
        cmocka_unit_test(test_a_reservation_outlives_time),
        cmocka_unit_test(test_when_a_refused_call_may_come_again),
        cmocka_unit_test(test_reservations_over_a_live_cut),
        cmocka_unit_test(test_slots_come_back_with_the_end_of_a_request_whatever_it_is),
        cmocka_unit_test(test_slots_over_a_live_change),
        cmocka_unit_test(test_a_row_without_slots_in_use_makes_room),
        cmocka_unit_test(test_exact_forgets_at_once_what_slots_forget_late),
        cmocka_unit_test(test_peeking_tells_what_would_be_and_changes_nothing),
        cmocka_unit_test(test_a_fresh_start_keeps_what_is_in_use),
        cmocka_unit_test(test_a_million_arrivals_are_decided_as_in_the_exact_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
