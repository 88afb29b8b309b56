/* What an operator's page asks of Redis: once, however often it is made; what is told, late, lost or never; and that a page that went
 * leaves nothing behind. Redis is a table here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include "../../../../filters/redis/redis_store.h"
#include "../limits.h"
#include "remoted.h"

enum { SIDECAR = 0xabc };

static const int64_t TIMEOUT = 20 * INT64_C(1000000);

static remoted_t *remoted;
static weir_store_t *store;
static weir_store_look_t *look;
static size_t told;

static void on_wake(weir_ticket_t ticket)
{
    fail();
}

static void ignore(void *context, weir_ticket_t ticket)
{
}

static void on_told(void *context)
{
    assert_ptr_equal(context, &told);
    ++told;
}

static int set_up(void **state)
{
    weir_conf_store_redis_t conf = {.prefix = "weir:", .timeout_ns = TIMEOUT, .claim_timeout_ns = 250 * TIMEOUT};
    remoted = remoted_create(SIDECAR, on_wake);
    store = weir_redis_store_create(&conf, &remoted->remote, secret, (weir_store_teller_t){ignore, NULL});
    told = 0;
    look = store->look_open(store, on_told, &told);
    store->look_use(look);
    return 0;
}

static int tear_down(void **state)
{
    store->look_close(look);
    assert_int_equal(remoted_open(remoted), 0);
    store->destroy(store);
    remoted_destroy(remoted);
    return 0;
}

static weir_store_item_t peeked(weir_store_limit_t *limit, const weir_conf_limit_t *conf)
{
    weir_store_item_t one = item(limit, conf, store->key(store, "abc", 3));
    store->peek(store, &one, 1, 0);
    return one;
}

static void tell(size_t ask, int64_t fits, int64_t remaining, int64_t reset_us, int64_t retry_us)
{
    weir_remote_value_t list = REMOTED_LIST(remoted_integer(fits), remoted_integer(1700), remoted_integer(fits),
                                            remoted_integer(remaining), remoted_integer(reset_us), remoted_integer(retry_us));
    remoted_end(remoted, remoted_of(remoted, ask), WEIR_REMOTE_ANSWERED, &list, 0);
}

static void lose(size_t ask)
{
    remoted_end(remoted, remoted_of(remoted, ask), WEIR_REMOTE_LOST, NULL, 0);
}

/* --- limits --- */

static void test_a_limit_is_told(void **state)
{
    weir_conf_limit_t conf = bucket("a", 5, S, 9);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    assert_true(peeked(limit, &conf).is_unknown);
    assert_true(peeked(limit, &conf).is_unknown);
    assert_int_equal(remoted->count, 1); /* it was asked already */
    assert_int_equal(look->waits, 1);
    const remoted_ask_t *ask = remoted_last(remoted);
    assert_int_equal(ask->script, WEIR_SCRIPT_decide);
    assert_string_equal(ask->args[0], "0"); /* nothing is charged */
    tell(0, 0, 0, 5000, 3000);
    assert_int_equal(told, 1);
    assert_int_equal(look->waits, 0);
    weir_store_item_t now = peeked(limit, &conf);
    assert_false(now.is_unknown || now.admitted || look->has_failed);
    assert_int_equal(now.refusal, WEIR_STORE_LIMITED);
    assert_int_equal(now.remaining, 0);
    assert_int_equal(now.reset_ns, 5000000);
    assert_int_equal(now.retry_after_ns, 3000000);
    assert_int_equal(now.charged_ns, -1);
    assert_int_equal(remoted->count, 1);
    store->limit_release(store, limit);
}

static void test_on_told_when_all_is(void **state)
{
    weir_conf_limit_t confs[] = {window("a", 5, S), exact("b", 5, S), slots("c", 5)};
    weir_store_limit_t *limits[3];
    for (size_t i = 0; i < 3; ++i) {
        limits[i] = store->limit_acquire(store, &confs[i]);
        (void)peeked(limits[i], &confs[i]);
    }
    assert_int_equal(look->waits, 3);
    tell(2, 1, 4, -1, 0);
    lose(0);
    assert_int_equal(told, 0);
    tell(1, 0, 0, 7, -1);
    assert_int_equal(told, 1);
    assert_false(look->has_failed); /* this is found when it is asked for */
    assert_true(peeked(limits[0], &confs[0]).is_unknown);
    assert_true(look->has_failed);
    assert_int_equal(peeked(limits[1], &confs[1]).retry_after_ns, -1);
    assert_int_equal(peeked(limits[2], &confs[2]).reset_ns, -1);
    assert_int_equal(peeked(limits[2], &confs[2]).remaining, 4);
    assert_int_equal(remoted->count, 3);
    for (size_t i = 0; i < 3; ++i)
        store->limit_release(store, limits[i]);
}

static void test_what_is_here_is_not_asked(void **state)
{
    weir_conf_limit_t conf = bucket("a", 5, S, 9);
    conf.scope = WEIR_SCOPE_LOCAL;
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    weir_store_item_t one = peeked(limit, &conf);
    assert_true(one.admitted && !one.is_unknown);
    assert_int_equal(one.remaining, 9);
    assert_true(store->reset(store, &one, 0));
    assert_int_equal(remoted->count + look->waits, 0);
    store->limit_release(store, limit);
}

static void test_when_it_is_over(void **state)
{
    weir_conf_limit_t confs[] = {bucket("a", 5, S, 9), bucket("b", 5, S, 9)};
    weir_store_limit_t *limits[] = {store->limit_acquire(store, &confs[0]), store->limit_acquire(store, &confs[1])};
    (void)peeked(limits[0], &confs[0]);
    look->is_over = true;
    assert_true(peeked(limits[0], &confs[0]).is_unknown);
    assert_true(look->has_failed);
    assert_true(peeked(limits[1], &confs[1]).is_unknown);
    assert_int_equal(remoted->count, 1); /* nothing is asked any more */
    tell(0, 1, 8, 5000, 0);
    for (size_t i = 0; i < 2; ++i)
        store->limit_release(store, limits[i]);
}

static void test_not_up(void **state)
{
    weir_conf_limit_t conf = bucket("a", 5, S, 9);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    remoted->is_down = true;
    assert_true(peeked(limit, &conf).is_unknown);
    assert_int_equal(look->waits, 0);
    assert_true(look->has_failed);
    weir_store_item_t one = item(limit, &conf, store->key(store, "abc", 3));
    assert_false(store->reset(store, &one, 0));
    store->limit_release(store, limit);
}

static void test_a_fresh_start(void **state)
{
    weir_conf_limit_t conf = bucket("a", 5, S, 9);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    weir_store_item_t one = item(limit, &conf, store->key(store, "abc", 3));
    assert_false(store->reset(store, &one, 0));
    assert_int_equal(look->waits, 1);
    assert_int_equal(remoted_last(remoted)->script, WEIR_SCRIPT_forget);
    weir_remote_value_t none = remoted_integer(0); /* and so it has one */
    remoted_end(remoted, remoted_last(remoted), WEIR_REMOTE_ANSWERED, &none, 0);
    assert_true(store->reset(store, &one, 0));
    assert_int_equal(remoted->count, 1);
    assert_false(look->has_failed);
    store->limit_release(store, limit);
}

/* Requests' peeks are of no page. */
static void test_without_a_look(void **state)
{
    weir_conf_limit_t conf = bucket("a", 5, S, 9);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    store->look_use(NULL);
    assert_true(peeked(limit, &conf).admitted);
    assert_int_equal(remoted->count, 0);
    store->limit_release(store, limit);
}

/* The request ended; what comes after that is nobody's. */
static void test_a_page_that_went(void **state)
{
    weir_conf_limit_t conf = bucket("a", 5, S, 9);
    weir_store_limit_t *limit = store->limit_acquire(store, &conf);
    (void)peeked(limit, &conf);
    store->look_close(look);
    look = store->look_open(store, on_told, &told);
    (void)peeked(limit, &conf); /* of no look: the one that was in use is closed */
    assert_int_equal(remoted->count, 1);
    store->look_use(look);
    (void)peeked(limit, &conf); /* another page asks anew */
    assert_int_equal(remoted->count, 2);
    tell(0, 1, 8, 5000, 0);
    assert_int_equal(told, 0);
    lose(1);
    assert_int_equal(told, 1);
    store->limit_release(store, limit);
}

/* --- dedups --- */

static weir_conf_dedup_t dedup_of(weir_conf_on_duplicate_t on_duplicate, weir_conf_in_flight_t in_flight)
{
    return (weir_conf_dedup_t){.name = "jobs",
                               .window_ns = 3600 * S,
                               .on_duplicate = on_duplicate,
                               .in_flight = in_flight,
                               .lease_ns = 30 * S,
                               .keep_responses_ns = 60 * S,
                               .memory_bytes = 1 << 20,
                               .max_response_bytes = 1 << 16,
                               .bloom = {.expected = 1000, .false_positives = 1e-3},
                               .exact = true};
}

static weir_store_claim_t claimed(weir_store_dedup_t *dedup, uint64_t number)
{
    return (weir_store_claim_t){.dedup = dedup, .key = key(store, number)};
}

static void test_claims(void **state)
{
    static const struct {
        const char *word;
        int64_t number;
        weir_conf_on_duplicate_t on_duplicate;
        weir_conf_in_flight_t in_flight;
        weir_store_claim_told_t told;
        bool is_replay;
    } rows[] = {
        {"free", 0, WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, WEIR_STORE_CLAIM_RUN, false},
        {"flight", 0, WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, WEIR_STORE_CLAIM_SHARE, false},
        {"flight", 0, WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_REJECT, WEIR_STORE_CLAIM_IN_FLIGHT, false},
        {"done", 1, WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, WEIR_STORE_CLAIM_SHARE, true},
        {"done", 0, WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, WEIR_STORE_CLAIM_DUPLICATE, false},
        {"done", 1, WEIR_ON_DUPLICATE_REJECT, WEIR_IN_FLIGHT_WAIT, WEIR_STORE_CLAIM_DUPLICATE, false},
        {"unknown", 0, WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, WEIR_STORE_CLAIM_UNKNOWN, false},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        weir_conf_dedup_t conf = dedup_of(rows[i].on_duplicate, rows[i].in_flight);
        weir_store_dedup_t *dedup = store->dedup_acquire(store, &conf);
        weir_store_claim_t claim = claimed(dedup, i);
        assert_int_equal(store->claim_peek(store, &claim, 0), WEIR_STORE_CLAIM_PENDING);
        assert_int_equal(remoted_last(remoted)->script, WEIR_SCRIPT_look);
        weir_remote_value_t list = REMOTED_LIST(remoted_text(rows[i].word), remoted_integer(rows[i].number));
        remoted_end(remoted, remoted_last(remoted), WEIR_REMOTE_ANSWERED, &list, 0);
        assert_int_equal(store->claim_peek(store, &claim, 0), rows[i].told);
        assert_true(claim.is_replay == rows[i].is_replay);
        store->dedup_release(store, dedup);
    }
    assert_int_equal(told, sizeof(rows) / sizeof(*rows));
}

static void test_a_claim_that_nobody_knows(void **state)
{
    weir_conf_dedup_t conf = dedup_of(WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT);
    weir_store_dedup_t *dedup = store->dedup_acquire(store, &conf);
    weir_store_claim_t claim = claimed(dedup, 1), other = claimed(dedup, 2);
    assert_int_equal(store->claim_peek(store, &claim, 0), WEIR_STORE_CLAIM_PENDING);
    lose(0);
    assert_int_equal(store->claim_peek(store, &claim, 0), WEIR_STORE_CLAIM_DOWN);
    remoted->is_down = true;
    assert_int_equal(store->claim_peek(store, &other, 0), WEIR_STORE_CLAIM_DOWN);
    assert_true(look->has_failed);
    store->dedup_release(store, dedup);
}

static void test_bits(void **state)
{
    weir_conf_dedup_t conf = dedup_of(WEIR_ON_DUPLICATE_REJECT, WEIR_IN_FLIGHT_REJECT);
    conf.exact = false;
    weir_store_dedup_t *dedup = store->dedup_acquire(store, &conf);
    weir_store_claim_t claim = claimed(dedup, 1);
    assert_int_equal(store->claim_peek(store, &claim, 0), WEIR_STORE_CLAIM_PENDING);
    const remoted_ask_t *ask = remoted_last(remoted);
    assert_int_equal(ask->key_count, 2);
    assert_true(ask->arg_count > 5);
    weir_remote_value_t list = REMOTED_LIST(remoted_text("done"), remoted_integer(0));
    remoted_end(remoted, remoted_last(remoted), WEIR_REMOTE_ANSWERED, &list, 0);
    assert_int_equal(store->claim_peek(store, &claim, 0), WEIR_STORE_CLAIM_DUPLICATE);
    assert_false(store->dedup_reset(store, dedup, claim.key, 0));
    assert_int_equal(remoted->count, 1);
    store->dedup_release(store, dedup);
}

static void test_a_key_is_forgotten(void **state)
{
    weir_conf_dedup_t conf = dedup_of(WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT);
    weir_store_dedup_t *dedup = store->dedup_acquire(store, &conf);
    for (int64_t was_there = 0; was_there <= 1; ++was_there) {
        weir_store_key_t of = key(store, (uint64_t)was_there);
        assert_false(store->dedup_reset(store, dedup, of, 0));
        assert_int_equal(remoted_last(remoted)->script, WEIR_SCRIPT_drop);
        weir_remote_value_t count = remoted_integer(was_there);
        remoted_end(remoted, remoted_last(remoted), WEIR_REMOTE_ANSWERED, &count, 0);
        assert_true(store->dedup_reset(store, dedup, of, 0) == (was_there == 1));
    }
    assert_int_equal(remoted->count, 2);
    store->dedup_release(store, dedup);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_a_limit_is_told),
        TEST(test_on_told_when_all_is),
        TEST(test_what_is_here_is_not_asked),
        TEST(test_when_it_is_over),
        TEST(test_not_up),
        TEST(test_a_fresh_start),
        TEST(test_without_a_look),
        TEST(test_a_page_that_went),
        TEST(test_claims),
        TEST(test_a_claim_that_nobody_knows),
        TEST(test_bits),
        TEST(test_a_key_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
