/* The dedups of the store in memory: what a claim is told, what becomes of it, and what of it is kept, and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include "../seeded.h"
#include "deduped.h"

#define SHARE WEIR_STORE_CLAIM_SHARE
#define RUN WEIR_STORE_CLAIM_RUN
#define DUPLICATE WEIR_STORE_CLAIM_DUPLICATE
#define IN_FLIGHT WEIR_STORE_CLAIM_IN_FLIGHT
#define OTHER WEIR_STORE_CLAIM_OTHER
#define UNKNOWN WEIR_STORE_CLAIM_UNKNOWN
#define FULL WEIR_STORE_CLAIM_FULL

static weir_conf_dedup_t conf;
static weir_store_t *store;
static weir_store_dedup_t *dedup;

static int set_up(void **state)
{
    conf = dedup_of_defaults();
    store = create_store();
    dedup = NULL;
    tickets_told = 0;
    return 0;
}

static int tear_down(void **state)
{
    if (dedup != NULL)
        store->dedup_release(store, dedup);
    store->destroy(store);
    return 0;
}

static void acquire(void)
{
    dedup = store->dedup_acquire(store, &conf);
}

/* A new configuration: it is acquired before the old one is released. */
static void reload(void)
{
    weir_store_dedup_t *former = dedup;
    acquire();
    store->dedup_release(store, former);
}

/* What claims are told */

static void test_told_by_state_and_configuration(void **state)
{
    static const struct {
        weir_conf_on_duplicate_t on_duplicate;
        weir_conf_in_flight_t in_flight;
        bool has_stream;
        weir_store_claim_told_t in_flight_told, done_told;
    } cases[] = {
        {WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, true, SHARE, SHARE},
        {WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_REJECT, true, IN_FLIGHT, SHARE},
        {WEIR_ON_DUPLICATE_ACKNOWLEDGE, WEIR_IN_FLIGHT_WAIT, true, SHARE, DUPLICATE},
        {WEIR_ON_DUPLICATE_ACKNOWLEDGE, WEIR_IN_FLIGHT_REJECT, false, IN_FLIGHT, DUPLICATE},
        {WEIR_ON_DUPLICATE_REJECT, WEIR_IN_FLIGHT_WAIT, true, SHARE, DUPLICATE},
        {WEIR_ON_DUPLICATE_REJECT, WEIR_IN_FLIGHT_REJECT, false, IN_FLIGHT, DUPLICATE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        conf.name = (const char *[]){"a", "b", "c", "d", "e", "f"}[i];
        conf.on_duplicate = cases[i].on_duplicate;
        conf.in_flight = cases[i].in_flight;
        weir_store_dedup_t *each = store->dedup_acquire(store, &conf);
        claimed_t first, second, third;
        assert_int_equal(claim_as(store, each, &first, 1, 7, S), RUN);
        assert_int_not_equal(first.claim.owner, 0);
        assert_int_equal(first.claim.stream != NULL, cases[i].has_stream);
        assert_int_equal(first.reader.stream != NULL, cases[i].has_stream);
        assert_int_equal(claim_as(store, each, &second, 1, 8, S), OTHER); /* in flight, too */
        assert_int_equal(claim_as(store, each, &second, 1, 7, S), cases[i].in_flight_told);
        assert_int_equal(second.reader.stream != NULL, cases[i].in_flight_told == SHARE);
        assert_false(second.claim.is_replay);
        if (cases[i].in_flight_told == IN_FLIGHT)
            assert_true(second.claim.retry_after_ns > 0);
        write_answer(&first, "200", 3000, 'x');
        commit(store, &first, 2 * S);
        if (second.reader.stream != NULL)
            assert_int_equal(read_all(&second.reader, 'x'), 3000);
        let_go(&second);
        assert_int_equal(claim_as(store, each, &third, 1, 7, 3 * S), cases[i].done_told);
        assert_int_equal(third.claim.is_replay, cases[i].done_told == SHARE);
        if (third.reader.stream != NULL)
            assert_int_equal(read_all(&third.reader, 'x'), 3000);
        let_go(&third);
        assert_int_equal(claim_as(store, each, &third, 1, 8, 3 * S), OTHER);
        assert_int_equal(claim_as(store, each, &third, 1, 7, 2 * S + conf.window_ns - 1), DUPLICATE); /* it is kept for an hour */
        assert_int_equal(claim_as(store, each, &third, 1, 8, 2 * S + conf.window_ns), RUN);
        forget(store, &third, 2 * S + conf.window_ns);
        assert_int_equal(tell_of(store, conf.name, 2 * S + conf.window_ns).keys, 0);
        assert_int_equal(tell_of(store, conf.name, 2 * S + conf.window_ns).answer_bytes, 0);
        store->dedup_release(store, each);
    }
}

static void test_forgotten_and_lost(void **state)
{
    acquire();
    claimed_t first, second;
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), RUN);
    assert_int_equal(claim_as(store, dedup, &second, 1, 0, S), SHARE);
    forget(store, &first, S);
    weir_stream_view_t view;
    weir_stream_look(&second.reader, &view);
    assert_int_equal(view.state, WEIR_STREAM_LOST);
    let_go(&second);
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), RUN);
    lose(store, &first, S); /* on_unknown: run */
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), RUN);
    conf.on_unknown = WEIR_ON_UNKNOWN_REJECT;
    reload();
    first.claim.dedup = dedup;
    lose(store, &first, 5 * S);
    assert_int_equal(ask_as(store, dedup, 1, 6 * S), UNKNOWN);
    assert_int_equal(ask_as(store, dedup, 1, 5 * S + conf.window_ns - 1), UNKNOWN);
    assert_int_equal(ask_as(store, dedup, 1, 5 * S + conf.window_ns), RUN);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
}

static void test_only_the_owner_ends_it(void **state)
{
    acquire();
    claimed_t first, second;
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), RUN);
    assert_true(store->dedup_reset(store, dedup, key_of(1), S)); /* by hand: it goes on, and is not remembered */
    assert_false(store->dedup_reset(store, dedup, key_of(1), S));
    assert_true(store->claim_renew(store, &first.claim, S));
    assert_int_equal(claim_as(store, dedup, &second, 1, 0, S), RUN);
    assert_int_not_equal(first.claim.owner, second.claim.owner);
    assert_false(store->claim_renew(store, &first.claim, S));
    assert_true(store->claim_renew(store, &second.claim, S));
    write_answer(&first, "200", 10, '1');
    commit(store, &first, S);
    assert_int_equal(ask_as(store, dedup, 1, S), SHARE); /* still the second one's */
    write_answer(&second, "200", 20, '2');
    commit(store, &second, S);
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), SHARE);
    assert_int_equal(read_all(&first.reader, '2'), 20);
    let_go(&first);
}

static void test_inexact_knows_keys_alone(void **state)
{
    conf.exact = false;
    conf.on_duplicate = WEIR_ON_DUPLICATE_ACKNOWLEDGE;
    conf.in_flight = WEIR_IN_FLIGHT_REJECT;
    acquire();
    claimed_t first;
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), RUN);
    assert_int_equal(first.claim.owner, 0);
    assert_null(first.claim.stream);
    assert_int_equal(ask_as(store, dedup, 1, S), DUPLICATE);
    assert_true(store->claim_renew(store, &first.claim, S));
    store->claim_forget(store, &first.claim, S);
    store->claim_lose(store, &first.claim, S);
    store->claim_commit(store, &first.claim, S);
    assert_false(store->dedup_reset(store, dedup, key_of(1), S));
    store->dedup_tidy(store, S);
    assert_int_equal(ask_as(store, dedup, 1, S + conf.window_ns - 1), DUPLICATE);
    assert_int_equal(ask_as(store, dedup, 1, S + 2 * conf.window_ns), RUN);
}

static void test_a_full_table(void **state)
{
    conf.max_keys = 10; /* one shard: as many as are told */
    conf.on_full = WEIR_ON_FULL_REJECT;
    acquire();
    claimed_t first, running[10];
    for (uint64_t i = 0; i < 9; ++i)
        assert_int_equal(run_as(store, dedup, i, 10, S + (int64_t)i), RUN);
    assert_int_equal(claim_as(store, dedup, &running[9], 9, 0, 2 * S), RUN);
    assert_int_equal(claim_as(store, dedup, &first, 10, 0, 2 * S), FULL);
    assert_null(first.reader.stream);
    assert_int_equal(first.claim.forgotten, 0);
    conf.on_full = WEIR_ON_FULL_FORGET_OLDEST;
    reload();
    assert_int_equal(claim_as(store, dedup, &first, 10, 0, 2 * S), RUN);
    assert_int_equal(first.claim.forgotten, 1);
    forget(store, &first, 2 * S);
    assert_int_equal(ask_as(store, dedup, 1, 2 * S), SHARE);
    assert_int_equal(run_as(store, dedup, 0, 10, 2 * S), RUN); /* it was the oldest */
    for (uint64_t i = 0; i < 9; ++i)
        assert_int_equal(claim_as(store, dedup, &running[i], 100 + i, 0, 3 * S), RUN);
    assert_int_equal(claim_as(store, dedup, &first, 200, 0, 3 * S), FULL); /* all are in flight */
    for (uint64_t i = 0; i < 9; ++i)
        forget(store, &running[i], 3 * S);
    running[9].claim.dedup = dedup;
    forget(store, &running[9], 3 * S);
    assert_int_equal(tell_of(store, "orders", 3 * S).keys, 0);
    assert_int_equal(tell_of(store, "orders", 3 * S).answer_bytes, 0);
}

static void test_peek_changes_nothing(void **state)
{
    acquire();
    claimed_t first;
    weir_store_claim_t asked = {.dedup = dedup, .key = key_of(1)};
    assert_int_equal(store->claim_peek(store, &asked, S), RUN);
    assert_int_equal(store->claim_peek(store, &asked, S), RUN);
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), RUN);
    assert_false(first.claim.is_false_positive);
    assert_int_equal(store->claim_peek(store, &asked, S), SHARE);
    assert_false(asked.is_replay);
    write_answer(&first, "200", 10, 'a');
    commit(store, &first, S);
    assert_int_equal(store->claim_peek(store, &asked, S), SHARE);
    assert_true(asked.is_replay);
    assert_int_equal(store->claim_peek(store, &asked, S + conf.keep_responses_ns), DUPLICATE);
    assert_int_equal(store->claim_peek(store, &asked, S + conf.window_ns), RUN);
}

/* In flight for longer than a window */

static void test_a_call_that_outlives_its_window(void **state)
{
    conf.window_ns = conf.keep_responses_ns = 10 * S;
    acquire();
    claimed_t first;
    int64_t now_ns = 3 * S;
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, now_ns), RUN);
    for (int i = 0; i < 100; ++i) {
        for (int j = 0; j < 3; ++j) {
            now_ns += S + S / 10;
            assert_int_equal(ask_as(store, dedup, 1, now_ns), SHARE);
        }
        assert_true(store->claim_renew(store, &first.claim, now_ns));
    }
    write_answer(&first, "200", 10, 'a');
    commit(store, &first, now_ns);
    assert_int_equal(ask_as(store, dedup, 1, now_ns + 10 * S - 1), SHARE);
    assert_int_equal(ask_as(store, dedup, 1, now_ns + 10 * S), RUN);
}

/* Workers' clocks are turns of their loops: one may be behind another one. */
static void test_a_worker_that_is_behind_finds_a_key_at_its_windows_end(void **state)
{
    conf.window_ns = conf.keep_responses_ns = 10 * S;
    acquire();
    assert_int_equal(run_as(store, dedup, 1, 10, 20 * S - 1), RUN);
    assert_int_equal(ask_as(store, dedup, 2, 30 * S), RUN); /* of another shard */
    assert_int_equal(ask_as(store, dedup, 1, 30 * S - 2), SHARE);
    assert_int_equal(ask_as(store, dedup, 1, 30 * S - 1), RUN);
}

/* Fingerprints */

static void test_a_key_of_a_time_without_comparison_is_not_compared(void **state)
{
    conf.mismatch = WEIR_MISMATCH_IGNORE;
    acquire();
    claimed_t first;
    assert_int_equal(run_as(store, dedup, 1, 10, S), RUN); /* its fingerprint is not known */
    conf.mismatch = WEIR_MISMATCH_REJECT;
    reload();
    assert_int_equal(claim_as(store, dedup, &first, 1, 7, S), SHARE);
    let_go(&first);
    assert_int_equal(claim_as(store, dedup, &first, 2, 7, S), RUN);
    write_answer(&first, "200", 10, 'a');
    commit(store, &first, S);
    assert_int_equal(ask_as(store, dedup, 2, S), SHARE); /* who does not compare */
    assert_int_equal(claim_as(store, dedup, &first, 2, 8, S), OTHER);
}

/* Answers */

static void test_the_least_recently_used_answer_goes_first(void **state)
{
    conf.memory_bytes = 100000;
    acquire();
    uint64_t count = 0;
    claimed_t first;
    for (; count < 200; ++count) {
        assert_int_equal(run_as(store, dedup, count, 4000, S + (int64_t)count), RUN);
        assert_int_equal(ask_as(store, dedup, 0, S), SHARE); /* is read all the time */
        assert_int_equal(ask_as(store, dedup, count, S), SHARE); /* the newest one is there, always */
        assert_in_range(tell_of(store, "orders", S).answer_bytes, 1, 100000);
    }
    assert_in_range(tell_of(store, "orders", S).answer_bytes, 80000, 100000); /* no more goes than must */
    size_t kept = 0;
    for (uint64_t i = 1; i < count; ++i) {
        weir_store_claim_told_t told = claim_as(store, dedup, &first, i, 0, S);
        assert_true(told == SHARE || (told == DUPLICATE && kept == 0)); /* known, all of them */
        kept += told == SHARE;
        let_go(&first);
    }
    assert_in_range(kept, 10, 20);
    assert_int_equal(tell_of(store, "orders", S).keys, count);
}

static void test_what_is_read_is_not_dropped(void **state)
{
    conf.memory_bytes = 100000;
    acquire();
    claimed_t readers[8];
    for (uint64_t i = 0; i < 8; ++i) {
        assert_int_equal(run_as(store, dedup, i, 4000, S), RUN);
        assert_int_equal(claim_as(store, dedup, &readers[i], i, 0, S), SHARE);
    }
    for (uint64_t i = 100; i < 300; ++i)
        assert_int_equal(run_as(store, dedup, i, 4000, S), RUN);
    for (uint64_t i = 0; i < 8; ++i) {
        assert_int_equal(ask_as(store, dedup, i, S), SHARE);
        assert_int_equal(read_all(&readers[i].reader, 'a'), 4000);
        let_go(&readers[i]);
    }
}

static void test_answers_that_are_read_while_they_are_dropped(void **state)
{
    acquire();
    claimed_t reader;
    assert_int_equal(run_as(store, dedup, 1, 100000, S), RUN);
    assert_int_equal(claim_as(store, dedup, &reader, 1, 0, S), SHARE);
    store->dedup_tidy(store, S + conf.keep_responses_ns); /* too old */
    assert_int_equal(ask_as(store, dedup, 1, S + conf.keep_responses_ns), DUPLICATE);
    assert_true(store->dedup_reset(store, dedup, key_of(1), S));
    assert_int_equal(read_all(&reader.reader, 'a'), 100000);
    let_go(&reader);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
    assert_int_equal(run_as(store, dedup, 1, 50000, S), RUN);
    assert_int_equal(claim_as(store, dedup, &reader, 1, 0, S), SHARE);
    assert_int_equal(ask_as(store, dedup, 1, S + conf.keep_responses_ns + conf.window_ns), RUN); /* the row went */
    assert_int_equal(read_all(&reader.reader, 'a'), 50000);
    let_go(&reader);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
}

static void test_what_is_too_large_is_known_and_not_replayed(void **state)
{
    conf.max_response_bytes = 5000;
    acquire();
    claimed_t first, waiter, late;
    assert_int_equal(claim_as(store, dedup, &first, 1, 0, S), RUN);
    assert_int_equal(claim_as(store, dedup, &waiter, 1, 0, S), SHARE);
    write_answer(&first, "200", 6000, 'a');
    assert_int_equal(claim_as(store, dedup, &late, 1, 0, S), IN_FLIGHT); /* its first bytes are not kept any more */
    commit(store, &first, S);
    assert_int_equal(read_all(&waiter.reader, 'a'), 6000);
    let_go(&waiter);
    weir_store_claim_t asked = {.dedup = dedup, .key = key_of(1)};
    assert_int_equal(store->claim_peek(store, &asked, S), DUPLICATE);
    assert_int_equal(ask_as(store, dedup, 1, S), DUPLICATE);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
}

static void test_old_answers_go_and_their_keys_stay(void **state)
{
    acquire();
    for (uint64_t i = 0; i < 1000; ++i)
        assert_int_equal(run_as(store, dedup, i, 100, S + (int64_t)i * S), RUN);
    store->dedup_tidy(store, S + conf.keep_responses_ns - 1);
    assert_int_equal(ask_as(store, dedup, 0, S + conf.keep_responses_ns - 1), SHARE); /* and is the newest in the line */
    for (int i = 0; i < 4; ++i)
        store->dedup_tidy(store, 1000 * S + conf.keep_responses_ns);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
    assert_int_equal(tell_of(store, "orders", S).keys, 1000);
    assert_int_equal(ask_as(store, dedup, 0, 1000 * S + conf.keep_responses_ns), DUPLICATE);
}

static void test_keys_go_where_nobody_asks(void **state)
{
    conf.keep_responses_ns = conf.window_ns;
    acquire();
    for (uint64_t i = 0; i < 1000; ++i)
        assert_int_equal(run_as(store, dedup, i, 100, S), RUN);
    store->dedup_tidy(store, S + conf.window_ns - 1);
    assert_int_equal(tell_of(store, "orders", S).keys, 1000);
    store->dedup_tidy(store, S + conf.window_ns);
    assert_int_equal(tell_of(store, "orders", S).keys, 0);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
}

/* New configurations */

static void test_reloads(void **state)
{
    acquire();
    claimed_t running, reader;
    assert_int_equal(run_as(store, dedup, 1, 4000, S), RUN);
    assert_int_equal(claim_as(store, dedup, &running, 2, 0, S), RUN);
    assert_int_equal(claim_as(store, dedup, &reader, 1, 0, S), SHARE);
    conf.memory_bytes = 1024; /* what is kept goes, but for what is read */
    conf.max_keys = 1000;
    weir_store_dedup_t *former = dedup;
    acquire();
    store->dedup_tidy(store, S);
    assert_int_equal(ask_as(store, dedup, 1, S), SHARE);
    assert_int_equal(ask_as(store, dedup, 2, S), SHARE);
    write_answer(&running, "200", 100, 'b');
    commit(store, &running, S);
    assert_int_equal(read_all(&reader.reader, 'a'), 4000);
    let_go(&reader);
    store->dedup_release(store, former);
    store->dedup_tidy(store, S);
    assert_int_equal(ask_as(store, dedup, 1, S), DUPLICATE);
    conf.name = "others";
    reload();
    weir_store_dedup_told_t told;
    assert_false(store->dedup_tell(store, "orders", S, &told));
}

static void test_no_key_is_forgotten_for_new_windows_and_filters(void **state)
{
    static const struct {
        int64_t window_ns, expected;
        double false_positives;
    } terms[] = {{24 * H, 1000, 1e-6}, {24 * H, 50000, 1e-3}, {48 * H, 50000, 1e-3}, {2 * H, 1000, 0.1}, {H, 1000, 1e-9}};
    int64_t now_ns = 100 * S, end_ns = now_ns + conf.window_ns;
    claimed_t running;
    acquire();
    assert_int_equal(claim_as(store, dedup, &running, 5000, 0, now_ns), RUN);
    for (uint64_t i = 0; i < 2000; ++i)
        assert_int_equal(run_as(store, dedup, i, 0, now_ns), RUN);
    for (size_t i = 0; i < sizeof(terms) / sizeof(*terms); ++i) {
        conf.window_ns = terms[i].window_ns;
        conf.bloom.expected = terms[i].expected;
        conf.bloom.false_positives = terms[i].false_positives;
        reload();
        running.claim.dedup = dedup;
        end_ns = end_ns < now_ns + conf.window_ns ? end_ns : now_ns + conf.window_ns;
        now_ns += 10 * S;
        for (uint64_t j = 0; j < 2000; ++j)
            assert_int_not_equal(ask_as(store, dedup, j, now_ns), RUN);
        assert_int_equal(ask_as(store, dedup, 5000, now_ns), SHARE);
        assert_true(store->claim_renew(store, &running.claim, now_ns));
    }
    assert_int_equal(tell_of(store, "orders", now_ns).keys, 2001);
    for (uint64_t i = 0; i < 2000; ++i)
        assert_int_not_equal(ask_as(store, dedup, i, end_ns - 1), RUN);
    for (uint64_t i = 0; i < 2000; ++i)
        assert_int_equal(ask_as(store, dedup, i, end_ns), RUN);
    commit(store, &running, end_ns); /* for the window that is in force now */
    assert_int_equal(ask_as(store, dedup, 5000, end_ns + H - 1), SHARE);
    assert_int_equal(ask_as(store, dedup, 5000, end_ns + H), RUN);
}

static void test_a_window_shorter_than_the_lease_of_what_runs(void **state)
{
    claimed_t running;
    acquire();
    assert_int_equal(claim_as(store, dedup, &running, 1, 0, S), RUN); /* renewed every ten seconds */
    conf.window_ns = conf.keep_responses_ns = 100 * MS;
    reload();
    running.claim.dedup = dedup;
    for (int64_t now_ns = S; now_ns < 100 * S; now_ns += 10 * S) {
        assert_true(store->claim_renew(store, &running.claim, now_ns));
        for (int64_t i = 0; i < 10; ++i)
            assert_int_equal(ask_as(store, dedup, 1, now_ns + i * S), SHARE);
    }
    commit(store, &running, 100 * S);
    assert_int_equal(ask_as(store, dedup, 1, 100 * S + 100 * MS), RUN);
}

static void test_restored_keys_outlive_a_reload(void **state)
{
    weir_memory_dedup_key_t key = {.dedup = "orders", .key = key_of(1), .left_ns = H};
    acquire();
    assert_true(weir_memory_dedups_restore(weir_memory_store_dedups(store), &key, 1000000 * S, NULL, NULL));
    conf.bloom.expected = 5000;
    reload();
    assert_int_equal(ask_as(store, dedup, 1, 1000000 * S + H - 1), DUPLICATE);
}

static void test_inexact_filters_are_kept_as_they_are_or_not_at_all(void **state)
{
    conf.exact = false;
    conf.on_duplicate = WEIR_ON_DUPLICATE_ACKNOWLEDGE;
    conf.in_flight = WEIR_IN_FLIGHT_REJECT;
    acquire();
    assert_int_equal(ask_as(store, dedup, 1, S), RUN);
    conf.max_keys = 17;
    reload();
    assert_int_equal(ask_as(store, dedup, 1, S), DUPLICATE);
    conf.bloom.expected = 5000;
    reload();
    assert_int_equal(ask_as(store, dedup, 1, S), RUN);
}

/* The Bloom filters */

static void test_fresh_keys_are_not_looked_up(void **state)
{
    acquire();
    for (uint64_t i = 0; i < 100000; ++i)
        assert_int_equal(run_as(store, dedup, i, 0, S), RUN);
    weir_store_dedup_told_t told = tell_of(store, "orders", S);
    assert_in_range(told.lookups, 0, 10); /* 1e-4 of them; 0.03 or so are to be expected */
    assert_true(told.bloom_fill > 0.999 && told.bloom_fill <= 1);
    for (uint64_t i = 0; i < 1000; ++i)
        assert_int_not_equal(ask_as(store, dedup, i * 100, S), RUN);
    assert_int_equal(tell_of(store, "orders", S).lookups, told.lookups + 1000);
    assert_int_equal(tell_of(store, "orders", S).false_positives, told.false_positives);
}

static void test_no_fresh_key_is_suppressed_far_past_the_filters_size(void **state)
{
    conf.bloom.expected = 1000;
    conf.bloom.false_positives = 0.01;
    acquire();
    claimed_t first;
    size_t observed = 0;
    for (uint64_t i = 0; i < 20000; ++i) {
        assert_int_equal(claim_as(store, dedup, &first, i, 0, S), RUN);
        observed += first.claim.is_false_positive;
        commit(store, &first, S);
    }
    weir_store_dedup_told_t told = tell_of(store, "orders", S);
    assert_int_equal(told.keys, 20000);
    assert_int_equal(observed, told.false_positives);
    assert_true(told.false_positives > 1000);
    for (uint64_t i = 0; i < 20000; ++i)
        assert_int_not_equal(ask_as(store, dedup, i, S), RUN);
}

/* Kept in a file */

typedef struct {
    weir_memory_dedup_key_t keys[64];
    size_t count;
} visited_t;

static void visit(void *data, const weir_memory_dedup_key_t *key)
{
    visited_t *visited = data;
    visited->keys[visited->count++] = *key;
}

static weir_stream_t *fill(void *data, weir_stream_account_t *account, int64_t max_bytes)
{
    weir_stream_t *stream = weir_stream_create(account, max_bytes, (weir_store_teller_t){NULL, NULL});
    weir_stream_begin(stream, "200", 3);
    weir_stream_append(stream, data, strlen(data));
    weir_stream_end(stream, WEIR_STREAM_DONE, (weir_stream_end_t){.reason = WEIR_REASON_NONE});
    return stream;
}

static bool restore(const weir_memory_dedup_key_t *key, int64_t now_ns, char *body)
{
    return weir_memory_dedups_restore(weir_memory_store_dedups(store), key, now_ns, body != NULL ? fill : NULL, body);
}

static void test_each_finished_key_is_visited(void **state)
{
    conf.on_unknown = WEIR_ON_UNKNOWN_REJECT;
    acquire();
    claimed_t running, lost;
    assert_int_equal(claim_as(store, dedup, &running, 1, 0, S), RUN);
    assert_int_equal(claim_as(store, dedup, &lost, 2, 0, S), RUN);
    lose(store, &lost, 2 * S);
    assert_int_equal(run_as(store, dedup, 3, 500, 3 * S), RUN);
    assert_int_equal(run_as(store, dedup, 4, 500, 3 * S), RUN);
    visited_t visited = {.count = 0};
    store->dedup_tidy(store, 3 * S + conf.keep_responses_ns); /* no more answers */
    assert_int_equal(run_as(store, dedup, 5, 500, 3 * S + conf.keep_responses_ns), RUN);
    weir_memory_dedups_each(weir_memory_store_dedups(store), 4 * S + conf.keep_responses_ns, visit, &visited);
    assert_int_equal(visited.count, 4);
    size_t answers = 0, unknowns = 0;
    for (size_t i = 0; i < visited.count; ++i) {
        assert_string_equal(visited.keys[i].dedup, "orders");
        answers += visited.keys[i].answer != NULL;
        unknowns += visited.keys[i].is_unknown;
        if (visited.keys[i].answer != NULL) {
            assert_int_equal(visited.keys[i].age_ns, S);
            assert_int_equal(visited.keys[i].left_ns, conf.window_ns - S);
        }
    }
    assert_int_equal(answers, 1);
    assert_int_equal(unknowns, 1);
    forget(store, &running, 4 * S);
}

static void test_restored_keys(void **state)
{
    acquire();
    weir_memory_dedup_key_t key = {
        .dedup = "orders", .key = key_of(1), .fingerprint = 7, .left_ns = H, .age_ns = conf.keep_responses_ns - 10 * S};
    claimed_t first;
    assert_true(restore(&key, 5 * S, "hhhh"));
    assert_false(restore(&key, 5 * S, "iiii")); /* it is there */
    key.key = key_of(2);
    key.is_unknown = true;
    assert_true(restore(&key, 5 * S, NULL));
    key.key = key_of(3);
    key.left_ns = 0;
    assert_false(restore(&key, 5 * S, NULL));
    key.left_ns = S;
    key.dedup = "nobody";
    assert_false(restore(&key, 5 * S, NULL));
    assert_int_equal(claim_as(store, dedup, &first, 1, 8, 6 * S), OTHER);
    assert_int_equal(claim_as(store, dedup, &first, 1, 7, 6 * S), SHARE);
    assert_true(first.claim.is_replay);
    assert_int_equal(read_all(&first.reader, 'h'), 4);
    let_go(&first);
    assert_int_equal(ask_as(store, dedup, 2, 6 * S), UNKNOWN);
    assert_int_equal(ask_as(store, dedup, 3, 6 * S), RUN);
    assert_int_equal(ask_as(store, dedup, 1, 15 * S), DUPLICATE); /* its answer is an hour old */
    assert_int_equal(ask_as(store, dedup, 1, 5 * S + H - 1), DUPLICATE);
    assert_int_equal(ask_as(store, dedup, 1, 5 * S + H), RUN);
    assert_int_equal(ask_as(store, dedup, 2, 5 * S + H), RUN);
}

/* Whatever a file says. */
static void test_restored_keys_of_any_time(void **state)
{
    static const int64_t times[] = {INT64_MIN, -1, 0, 1, S, 24 * H, 25 * H, INT64_MAX - 1, INT64_MAX};
    enum { COUNT = sizeof(times) / sizeof(times[0]) };
    acquire();
    for (uint64_t i = 0; i < COUNT * COUNT; ++i) {
        weir_memory_dedup_key_t key = {
            .dedup = "orders", .key = key_of(i), .left_ns = times[i % COUNT], .age_ns = times[i / COUNT]};
        assert_int_equal(restore(&key, 5 * S, "x"), key.left_ns > 0);
    }
    visited_t visited = {.count = 0};
    weir_memory_dedups_each(weir_memory_store_dedups(store), 5 * S, visit, &visited);
    for (size_t i = 0; i < visited.count; ++i) {
        assert_in_range(visited.keys[i].left_ns, 1, conf.window_ns); /* the filters know it for as long */
        assert_true(visited.keys[i].age_ns >= 0);
    }
    for (uint64_t i = 0; i < COUNT * COUNT; ++i)
        (void)ask_as(store, dedup, i, 6 * S);
    for (uint64_t i = 0; i < COUNT * COUNT; ++i)
        assert_int_equal(ask_as(store, dedup, i, 5 * S + conf.window_ns), RUN);
}

static void test_of_more_keys_than_have_room_the_newest_are_restored(void **state)
{
    conf.max_keys = 10;
    conf.on_full = WEIR_ON_FULL_REJECT;
    acquire();
    for (uint64_t i = 0; i < 30; ++i) {
        weir_memory_dedup_key_t key = {.dedup = "orders", .key = key_of(i), .left_ns = H + (int64_t)i * S};
        assert_true(restore(&key, S, NULL));
    }
    assert_int_equal(tell_of(store, "orders", S).keys, 10);
    for (uint64_t i = 20; i < 30; ++i)
        assert_int_equal(ask_as(store, dedup, i, S), DUPLICATE);
}

/* A configuration goes while its keys are being written. */
static void test_an_answer_outlives_its_dedup_while_it_is_held(void **state)
{
    weir_memory_dedups_t *dedups = weir_memory_store_dedups(store);
    visited_t visited = {.count = 0};
    weir_store_dedup_told_t told;
    acquire();
    assert_int_equal(run_as(store, dedup, 1, 500, S), RUN);
    assert_int_equal(run_as(store, dedup, 2, 500, S), RUN);
    weir_memory_dedups_hold(dedups);
    weir_memory_dedups_each(dedups, S, visit, &visited);
    assert_int_equal(visited.count, 2);
    assert_true(store->dedup_reset(store, dedup, visited.keys[1].key, S));
    store->dedup_release(store, dedup);
    dedup = NULL;
    assert_false(store->dedup_tell(store, "orders", S, &told));
    assert_true(weir_memory_dedups_look(&visited.keys[0], S));
    assert_false(weir_memory_dedups_look(&visited.keys[1], S));
    assert_string_equal(visited.keys[0].dedup, "orders");
    weir_stream_release(visited.keys[0].answer);
    acquire(); /* it is back */
    assert_int_equal(tell_of(store, "orders", S).keys, 1);
    store->dedup_release(store, dedup);
    weir_memory_dedups_let_go(dedups);
    acquire();
    assert_int_equal(tell_of(store, "orders", S).keys, 0);
}

/* Many at once */

enum { THREADS = 4, ROUNDS = 1000, CLAIMS = 100 };

static pthread_barrier_t barrier;
static _Atomic size_t runs, shared_bytes;

static void *claim_at_once(void *argument)
{
    size_t thread = (size_t)argument;
    claimed_t claimed[CLAIMS / THREADS];
    for (uint64_t round = 0; round < ROUNDS; ++round) {
        int64_t now_ns = S + (int64_t)round * MS + (int64_t)(thread * 100);
        claimed_t *own = NULL;
        pthread_barrier_wait(&barrier);
        for (size_t i = 0; i < CLAIMS / THREADS; ++i) {
            weir_store_claim_told_t told = claim_as(store, dedup, &claimed[i], round, 0, now_ns);
            assert_true(told == RUN || told == SHARE);
            own = told == RUN ? &claimed[i] : own;
            if (told == RUN)
                ++runs;
        }
        if (own != NULL) {
            char text[1500];
            memset(text, 'a', sizeof(text));
            weir_stream_begin(own->claim.stream, "200", 3);
            weir_stream_append(own->claim.stream, text, sizeof(text));
            store->claim_commit(store, &own->claim, now_ns);
            weir_stream_end(own->claim.stream, WEIR_STREAM_DONE, (weir_stream_end_t){.reason = WEIR_REASON_NONE});
            weir_stream_release(own->claim.stream);
        }
        pthread_barrier_wait(&barrier);
        for (size_t i = 0; i < CLAIMS / THREADS; ++i) {
            shared_bytes += read_all(&claimed[i].reader, 'a');
            weir_stream_leave(&claimed[i].reader);
        }
    }
    return NULL;
}

static void test_of_a_hundred_at_once_one_runs(void **state)
{
    conf.memory_bytes = 100000; /* answers go meanwhile */
    acquire();
    runs = shared_bytes = 0;
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS);
    for (size_t i = 0; i < THREADS; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, claim_at_once, (void *)i), 0);
    for (size_t i = 0; i < THREADS; ++i)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&barrier);
    assert_int_equal(runs, ROUNDS);
    assert_int_equal(shared_bytes, ROUNDS * CLAIMS * 1500);
    assert_int_equal(tell_of(store, "orders", S).keys, ROUNDS);
    store->dedup_tidy(store, 2 * conf.window_ns);
    assert_int_equal(tell_of(store, "orders", S).keys, 0);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
}

/* Everything at once, for the sanitizers: claims that end in every way, resets, tidying, visits, new configurations. */
static _Atomic bool is_over;

static void do_something(weir_store_dedup_t *mine, seeded_t *seeded, int64_t now_ns)
{
    claimed_t claimed;
    uint64_t number = seeded_below(seeded, 64);
    weir_store_claim_told_t told = claim_as(store, mine, &claimed, number, 0, now_ns);
    if (told == RUN) {
        size_t bytes = (size_t)seeded_below(seeded, 20000);
        switch (seeded_below(seeded, 4)) {
        case 0:
            forget(store, &claimed, now_ns);
            break;
        case 1:
            lose(store, &claimed, now_ns);
            break;
        default:
            write_answer(&claimed, "200", bytes, (char)('a' + number % 26));
            (void)store->claim_renew(store, &claimed.claim, now_ns);
            commit(store, &claimed, now_ns);
        }
    } else if (told == SHARE)
        (void)read_all(&claimed.reader, (char)('a' + number % 26));
    let_go(&claimed);
    if (seeded_below(seeded, 50) == 0)
        (void)store->dedup_reset(store, mine, key_of(number), now_ns);
}

static void *do_things(void *argument)
{
    seeded_t seeded = {(uint64_t)(size_t)argument};
    int64_t now_ns = S;
    for (int i = 0; i < 300; ++i) {
        weir_conf_dedup_t own = conf;
        own.memory_bytes = 20000 + seeded_below(&seeded, 200000);
        own.max_keys = (int64_t)(20 + seeded_below(&seeded, 60));
        own.on_full = WEIR_ON_FULL_FORGET_OLDEST;
        own.window_ns = seeded_below(&seeded, 10) == 0 ? H : conf.window_ns;
        own.bloom.expected = seeded_below(&seeded, 10) == 0 ? 1000 : conf.bloom.expected;
        weir_store_dedup_t *mine = store->dedup_acquire(store, &own);
        for (int j = 0; j < 50; ++j)
            do_something(mine, &seeded, now_ns += (int64_t)seeded_below(&seeded, 10 * S));
        store->dedup_release(store, mine);
    }
    return NULL;
}

static void *look_on(void *argument)
{
    int64_t now_ns = S;
    while (!is_over) {
        weir_store_dedup_told_t told;
        (void)store->dedup_tell(store, "orders", now_ns, &told);
        store->dedup_tidy(store, now_ns += S);
        weir_memory_dedups_each(weir_memory_store_dedups(store), now_ns,
                                (void (*)(void *, const weir_memory_dedup_key_t *))argument, NULL);
    }
    return NULL;
}

static void ignore(void *data, const weir_memory_dedup_key_t *key)
{
    if (key->answer != NULL)
        assert_true(weir_stream_is_whole(key->answer));
}

static void test_everything_at_once(void **state)
{
    pthread_t threads[THREADS + 1];
    is_over = false;
    acquire();
    assert_int_equal(pthread_create(&threads[THREADS], NULL, look_on, (void *)ignore), 0);
    for (size_t i = 0; i < THREADS; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, do_things, (void *)(i + 1)), 0);
    for (size_t i = 0; i < THREADS; ++i)
        pthread_join(threads[i], NULL);
    is_over = true;
    pthread_join(threads[THREADS], NULL);
    store->dedup_tidy(store, 1000000 * S);
    assert_int_equal(tell_of(store, "orders", S).keys, 0);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_told_by_state_and_configuration),
        TEST(test_forgotten_and_lost),
        TEST(test_only_the_owner_ends_it),
        TEST(test_inexact_knows_keys_alone),
        TEST(test_a_full_table),
        TEST(test_peek_changes_nothing),
        TEST(test_a_call_that_outlives_its_window),
        TEST(test_a_worker_that_is_behind_finds_a_key_at_its_windows_end),
        TEST(test_a_key_of_a_time_without_comparison_is_not_compared),
        TEST(test_the_least_recently_used_answer_goes_first),
        TEST(test_what_is_read_is_not_dropped),
        TEST(test_answers_that_are_read_while_they_are_dropped),
        TEST(test_what_is_too_large_is_known_and_not_replayed),
        TEST(test_old_answers_go_and_their_keys_stay),
        TEST(test_keys_go_where_nobody_asks),
        TEST(test_reloads),
        TEST(test_no_key_is_forgotten_for_new_windows_and_filters),
        TEST(test_a_window_shorter_than_the_lease_of_what_runs),
        TEST(test_restored_keys_outlive_a_reload),
        TEST(test_inexact_filters_are_kept_as_they_are_or_not_at_all),
        TEST(test_fresh_keys_are_not_looked_up),
        TEST(test_no_fresh_key_is_suppressed_far_past_the_filters_size),
        TEST(test_each_finished_key_is_visited),
        TEST(test_restored_keys),
        TEST(test_restored_keys_of_any_time),
        TEST(test_of_more_keys_than_have_room_the_newest_are_restored),
        TEST(test_an_answer_outlives_its_dedup_while_it_is_held),
        TEST(test_of_a_hundred_at_once_one_runs),
        TEST(test_everything_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
