/* Waiting for a slot in the store in memory: whose turn it is, who gives way, what a change of the configuration does
 * to those who wait, and that no slot is lost or given twice - also with threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include "../seeded.h"
#include "limits.h"

/* Tickets that were told, in their order. */
static char told[256];

static void write_down(void *context, weir_ticket_t ticket)
{
    size_t len = strlen(told);
    assert_true(len + 1 < sizeof(told));
    told[len] = (char)ticket.slot;
    told[len + 1] = '\0';
}

/* What was told since it was last looked at. */
static const char *news(void)
{
    static char last[sizeof(told)];
    memcpy(last, told, sizeof(told));
    told[0] = '\0';
    return last;
}

static weir_store_t *create_telling_store(void)
{
    told[0] = '\0';
    return weir_memory_store_create(secret, (weir_store_teller_t){write_down, NULL});
}

/* A request, known by one letter. */
typedef struct {
    weir_store_t *store;
    char letter;
    size_t count;
    weir_store_item_t items[3];
    weir_store_queueing_t queueing[3];
} asker_t;

typedef enum { ADMITTED, LIMITED, FULL, WAITS } answer_t;

static asker_t asker(weir_store_t *store, char letter)
{
    return (asker_t){.store = store, .letter = letter};
}

static void add(asker_t *asker, weir_store_limit_t *limit, const weir_conf_limit_t *conf, uint64_t number,
                const char *tenant, weir_lane_t lane)
{
    size_t i = asker->count++;
    asker->items[i] = item(limit, conf, key(asker->store, number));
    asker->items[i].quota = weir_conf_quota_of(conf, tenant, strlen(tenant));
    asker->queueing[i] = (weir_store_queueing_t){.tenant = {tenant, strlen(tenant)}, .lane = lane};
}

static answer_t ask_again(asker_t *asker, int64_t now_ns)
{
    bool admitted;
    for (size_t i = 0; i < asker->count; ++i)
        asker->items[i].queueing = asker->queueing[i].tenant.len != 0 ? &asker->queueing[i] : NULL;
    weir_store_answer_t answer = asker->store->decide(asker->store, asker->items, asker->count, now_ns,
                                                      (weir_ticket_t){.slot = (uint8_t)asker->letter}, &admitted);
    size_t places = 0;
    bool is_full = false;
    for (size_t i = 0; i < asker->count; ++i) {
        places += asker->queueing[i].place != NULL;
        is_full |= !asker->items[i].admitted && asker->items[i].refusal == WEIR_STORE_QUEUE_FULL;
        if (answer == WEIR_STORE_QUEUED || !admitted)
            assert_int_equal(asker->items[i].charged_ns, -1);
    }
    assert_int_equal(places, answer == WEIR_STORE_QUEUED);
    if (answer == WEIR_STORE_QUEUED)
        return WAITS;
    return admitted ? ADMITTED : is_full ? FULL : LIMITED;
}

static void leave(asker_t *asker)
{
    asker->store->leave(asker->store, asker->items, asker->count, S);
    for (size_t i = 0; i < asker->count; ++i)
        assert_null(asker->queueing[i].place);
}

static void end(asker_t *asker)
{
    asker->store->settle(asker->store, asker->items, asker->count, S);
}

/* One limit with a queue, for tests that need no more. */
static weir_conf_limit_t conf;
static weir_store_limit_t *limit;

static weir_store_t *start(int64_t at_once, int64_t size, int64_t per_tenant)
{
    conf = with_queue(slots("slots", at_once), size, per_tenant);
    weir_store_t *store = create_telling_store();
    limit = store->limit_acquire(store, &conf);
    return store;
}

static answer_t come(weir_store_t *store, asker_t *asker_, char letter, const char *tenant, weir_lane_t lane)
{
    *asker_ = asker(store, letter);
    add(asker_, limit, &conf, 1, tenant, lane);
    return ask_again(asker_, S);
}

static void stop(weir_store_t *store)
{
    size_t depth[WEIR_LANES];
    store->queue_depth(store, conf.name, depth);
    assert_int_equal(depth[0] + depth[1] + depth[2], 0);
    assert_int_equal(remaining(store, limit, &conf, 1, S), conf.quota.limit);
    assert_string_equal(news(), "");
    store->destroy(store);
}

static void change(weir_store_t *store, weir_conf_limit_t to)
{
    conf = to;
    limit = store->limit_acquire(store, &conf); /* the old one has requests yet */
}

#define U WEIR_LANE_URGENT
#define N WEIR_LANE_NORMAL
#define B WEIR_LANE_BACKGROUND

static void test_slots_go_to_the_most_urgent_and_then_the_oldest(void **state)
{
    static const struct {
        char letter;
        weir_lane_t lane;
    } waiting[] = {{'n', N}, {'b', B}, {'u', U}, {'m', N}, {'v', U}};
    weir_store_t *store = start(1, 10, 10);
    asker_t running, askers[256];
    assert_int_equal(come(store, &running, 'x', "t", N), ADMITTED);
    for (int i = 0; i < 5; ++i) {
        asker_t *asker = &askers[(uint8_t)waiting[i].letter];
        assert_int_equal(come(store, asker, waiting[i].letter, "t", waiting[i].lane), WAITS);
        assert_int_equal(asker->items[0].remaining, 0);
        assert_int_equal(asker->items[0].refusal, WEIR_STORE_LIMITED);
        assert_int_equal(asker->items[0].retry_after_ns, 0);
    }
    size_t depth[WEIR_LANES];
    store->queue_depth(store, "slots", depth);
    assert_int_equal(depth[U], 2);
    assert_int_equal(depth[N], 2);
    assert_int_equal(depth[B], 1);
    store->queue_depth(store, "nobody", depth);
    assert_int_equal(depth[U] + depth[N] + depth[B], 0);
    for (const char *next = "uvnmb"; *next != 0; ++next) {
        end(&running);
        assert_int_equal(*news(), *next);
        running = askers[(uint8_t)*next];
        assert_int_equal(ask_again(&running, 2 * S), ADMITTED);
        assert_int_equal(running.items[0].charged_ns, 2 * S);
    }
    end(&running);
    stop(store);
}

static void test_whoever_asks_early_waits_on(void **state)
{
    weir_store_t *store = start(1, 10, 10);
    asker_t running, first, second;
    come(store, &running, 'x', "t", N);
    come(store, &first, '1', "t", N);
    come(store, &second, '2', "t", N);
    for (int i = 0; i < 5; ++i) {
        assert_int_equal(ask_again(&second, S), WAITS);
        assert_int_equal(ask_again(&first, S), WAITS);
    }
    end(&running);
    assert_string_equal(news(), "1");
    assert_int_equal(ask_again(&second, S), WAITS);
    assert_int_equal(ask_again(&first, S), ADMITTED);
    end(&first);
    assert_string_equal(news(), "2");
    assert_int_equal(ask_again(&second, S), ADMITTED);
    end(&second);
    stop(store);
}

/* A slot that was granted is not there for others, though nobody has taken it up yet. */
static void test_newcomers_do_not_pass(void **state)
{
    weir_store_t *store = start(2, 10, 10);
    asker_t running[2], first, second, newcomer;
    come(store, &running[0], 'x', "t", N);
    come(store, &running[1], 'y', "t", N);
    come(store, &first, '1', "t", N);
    end(&running[0]);
    assert_string_equal(news(), "1");
    assert_int_equal(come(store, &second, '2', "t", U), WAITS);
    end(&running[1]);
    assert_string_equal(news(), "2");
    assert_int_equal(come(store, &newcomer, '3', "t", U), WAITS);
    asker_t impatient = asker(store, '4');
    add(&impatient, limit, &conf, 1, "", U); /* no queue for this one */
    assert_int_equal(ask_again(&impatient, S), LIMITED);
    assert_int_equal(ask_again(&first, S), ADMITTED);
    assert_int_equal(ask_again(&second, S), ADMITTED);
    end(&second);
    assert_string_equal(news(), "3");
    assert_int_equal(ask_again(&newcomer, S), ADMITTED);
    end(&newcomer);
    end(&first);
    assert_int_equal(ask_again(&impatient, S), ADMITTED);
    end(&impatient);
    stop(store);
}

static void test_who_gives_way_is_told_and_finds_the_queue_full(void **state)
{
    weir_store_t *store = start(1, 3, 3);
    asker_t running, greedy[4], other, third;
    come(store, &running, 'x', "t", N);
    for (int i = 0; i < 3; ++i)
        assert_int_equal(come(store, &greedy[i], (char)('0' + i), "greedy", N), WAITS);
    assert_int_equal(come(store, &greedy[3], '3', "greedy", N), FULL);
    assert_int_equal(greedy[3].items[0].refusal, WEIR_STORE_QUEUE_FULL);
    assert_string_equal(news(), "");
    assert_int_equal(come(store, &other, 'o', "other", N), WAITS);
    assert_string_equal(news(), "2"); /* the newest of who has the most */
    assert_int_equal(ask_again(&greedy[2], S), FULL);
    assert_int_equal(come(store, &third, 't', "other", N), FULL); /* nobody has two more than he */
    end(&running);
    assert_string_equal(news(), "0");
    assert_int_equal(ask_again(&greedy[0], S), ADMITTED);
    assert_int_equal(come(store, &third, 't', "third", U), WAITS);
    end(&greedy[0]);
    assert_string_equal(news(), "t");
    leave(&third);
    assert_string_equal(news(), "1");
    leave(&greedy[1]);
    assert_string_equal(news(), "o");
    leave(&other);
    stop(store);
}

/* Displaced, and then: it asks, or leaves, or the slot that it waited for became free. */
static void test_whoever_was_displaced_has_nothing_to_give_back(void **state)
{
    weir_store_t *store = start(1, 2, 2);
    asker_t running, first, second, other;
    come(store, &running, 'x', "t", N);
    come(store, &first, '1', "greedy", N);
    come(store, &second, '2', "greedy", N);
    come(store, &other, 'o', "other", N);
    assert_string_equal(news(), "2");
    leave(&second);
    assert_string_equal(news(), "");
    leave(&first);
    assert_string_equal(news(), "");
    end(&running);
    assert_string_equal(news(), "o");
    leave(&other);
    assert_int_equal(come(store, &running, 'x', "t", N), ADMITTED);
    end(&running);
    stop(store);
}

static void test_a_full_queue_of_another_key_gives_way_too(void **state)
{
    weir_store_t *store = start(1, 2, 2);
    asker_t running[2] = {asker(store, 'x'), asker(store, 'y')}, greedy[2], other = asker(store, 'o');
    add(&running[0], limit, &conf, 1, "t", N);
    add(&running[1], limit, &conf, 2, "t", N);
    for (int i = 0; i < 2; ++i) {
        assert_int_equal(ask_again(&running[i], S), ADMITTED);
        greedy[i] = asker(store, (char)('0' + i));
        add(&greedy[i], limit, &conf, (uint64_t)i + 1, "greedy", N);
        assert_int_equal(ask_again(&greedy[i], S), WAITS);
    }
    add(&other, limit, &conf, 1, "other", N);
    assert_int_equal(ask_again(&other, S), WAITS);
    assert_string_equal(news(), "1");
    assert_int_equal(ask_again(&greedy[1], S), FULL);
    end(&running[1]); /* nobody is left in that line */
    assert_string_equal(news(), "");
    assert_int_equal(ask_again(&running[1], S), ADMITTED);
    end(&running[1]);
    leave(&greedy[0]);
    leave(&other);
    end(&running[0]);
    assert_int_equal(remaining(store, limit, &conf, 2, S), 1);
    stop(store);
}

static void test_leaving_gives_the_slot_on(void **state)
{
    weir_store_t *store = start(1, 10, 10);
    asker_t running, askers[4];
    come(store, &running, 'x', "t", N);
    for (int i = 0; i < 4; ++i)
        come(store, &askers[i], (char)('0' + i), "t", N);
    leave(&askers[1]); /* while it waits */
    assert_string_equal(news(), "");
    end(&running);
    assert_string_equal(news(), "0");
    leave(&askers[0]); /* granted already */
    assert_string_equal(news(), "2");
    assert_int_equal(ask_again(&askers[2], S), ADMITTED);
    leave(&askers[2]); /* it holds no place: nothing happens */
    assert_string_equal(news(), "");
    store->refund(store, askers[2].items, 1, S);
    assert_string_equal(news(), "3");
    leave(&askers[3]);
    stop(store);
}

/* Another limit beside it: it waits for slots only if they are all that is missed, and has no tokens meanwhile. */
static void test_a_slot_that_is_of_no_use_goes_on(void **state)
{
    weir_store_t *store = start(1, 10, 10);
    weir_conf_limit_t daily = bucket("daily", 1, D, 2);
    weir_store_limit_t *other = store->limit_acquire(store, &daily);
    asker_t running, askers[3];
    come(store, &running, 'x', "t", N);
    for (int i = 0; i < 2; ++i) {
        askers[i] = asker(store, (char)('0' + i));
        add(&askers[i], limit, &conf, 1, "t", N);
        add(&askers[i], other, &daily, 1, "", N);
        assert_int_equal(ask_again(&askers[i], S), WAITS);
        assert_true(askers[i].items[1].admitted);
        assert_int_equal(remaining(store, other, &daily, 1, S), 2);
    }
    assert_true(ask(store, other, &daily, 1, S));
    assert_true(ask(store, other, &daily, 1, S));
    askers[2] = askers[0];
    askers[2].queueing[0].place = NULL;
    assert_int_equal(ask_again(&askers[2], S), LIMITED); /* a newcomer is not let wait in vain */
    assert_int_equal(askers[2].items[0].refusal, WEIR_STORE_LIMITED);
    assert_int_equal(ask_again(&askers[0], S), WAITS); /* early: the day may pass */
    end(&running);
    assert_string_equal(news(), "0");
    assert_int_equal(ask_again(&askers[0], S), LIMITED);
    assert_true(askers[0].items[0].admitted); /* it is the other one that refused */
    assert_int_equal(askers[0].items[1].refusal, WEIR_STORE_LIMITED);
    assert_string_equal(news(), "1");
    assert_int_equal(ask_again(&askers[1], S + D), ADMITTED);
    assert_int_equal(remaining(store, other, &daily, 1, S + D), 0);
    end(&askers[1]);
    stop(store);
}

/* Two limits, of one slot each, in this order; some want both, some one. */
static weir_conf_limit_t second;
static weir_store_limit_t *other;

static weir_store_t *start_two(int64_t places)
{
    weir_store_t *store = start(1, 10, 10);
    second = with_queue(slots("second", 1), places, places);
    other = store->limit_acquire(store, &second);
    return store;
}

static answer_t come_for(weir_store_t *store, asker_t *asker_, char letter, bool first_too, const char *tenant)
{
    *asker_ = asker(store, letter);
    if (first_too)
        add(asker_, limit, &conf, 1, tenant, N);
    add(asker_, other, &second, 1, tenant, N);
    return ask_again(asker_, S);
}

static void stop_two(weir_store_t *store)
{
    assert_int_equal(remaining(store, other, &second, 1, S), 1);
    assert_int_equal(store->limit_keys(store, "slots") + store->limit_keys(store, "second"), 2);
    stop(store);
}

static void test_whoever_waits_holds_what_comes_before(void **state)
{
    weir_store_t *store = start_two(1);
    asker_t running, both, behind, late;
    assert_int_equal(come_for(store, &running, 'x', false, "t"), ADMITTED);
    assert_int_equal(come_for(store, &both, 'b', true, "t"), WAITS); /* a new row, that is held */
    assert_true(both.queueing[0].holds && both.queueing[1].place != NULL);
    assert_int_equal(remaining(store, limit, &conf, 1, S), 0);
    assert_int_equal(come(store, &behind, 'c', "t", N), WAITS);
    assert_int_equal(ask_again(&both, S), WAITS);
    assert_true(both.queueing[0].holds);
    assert_int_equal(come_for(store, &late, 'l', true, "t"), WAITS); /* for the first: has nothing of the second */
    assert_false(late.queueing[0].holds || late.queueing[1].holds);
    end(&running);
    assert_string_equal(news(), "b");
    assert_int_equal(ask_again(&both, S), ADMITTED);
    assert_false(both.queueing[0].holds);
    assert_string_equal(news(), "");
    end(&both);
    assert_string_equal(news(), "c");
    assert_int_equal(ask_again(&behind, S), ADMITTED);
    end(&behind);
    assert_string_equal(news(), "l");
    assert_int_equal(ask_again(&late, S), ADMITTED);
    end(&late);
    stop_two(store);
}

/* By leaving: while it waits, and when it was granted. */
static void test_whoever_leaves_gives_all_back(void **state)
{
    weir_store_t *store = start_two(10);
    asker_t running, both, behind;
    for (int is_granted = 0; is_granted < 2; ++is_granted) {
        assert_int_equal(come_for(store, &running, 'x', false, "t"), ADMITTED);
        assert_int_equal(come_for(store, &both, 'b', true, "t"), WAITS);
        assert_int_equal(come(store, &behind, 'c', "t", N), WAITS);
        if (is_granted)
            end(&running);
        assert_string_equal(news(), is_granted ? "b" : "");
        leave(&both);
        assert_false(both.queueing[0].holds);
        assert_string_equal(news(), "c");
        assert_int_equal(remaining(store, other, &second, 1, S), is_granted);
        assert_int_equal(ask_again(&behind, S), ADMITTED);
        end(&behind);
        if (!is_granted)
            end(&running);
    }
    stop_two(store);
}

/* By being refused: displaced, no room in the next line, or another limit's doing. */
static void test_whoever_is_refused_gives_all_back(void **state)
{
    weir_store_t *store = start_two(2);
    weir_conf_limit_t daily = bucket("daily", 1, D, 1);
    weir_store_limit_t *tokens = store->limit_acquire(store, &daily);
    asker_t running, both, greedy, behind, rival;
    assert_int_equal(come_for(store, &running, 'x', false, "t"), ADMITTED);
    assert_int_equal(come_for(store, &greedy, 'g', false, "greedy"), WAITS);
    assert_int_equal(come_for(store, &both, 'b', true, "greedy"), WAITS);
    assert_int_equal(come(store, &behind, 'c', "t", N), WAITS);
    assert_int_equal(come_for(store, &rival, 'r', false, "rival"), WAITS);
    assert_string_equal(news(), "b"); /* displaced */
    assert_int_equal(ask_again(&both, S), FULL);
    assert_string_equal(news(), "c");
    assert_int_equal(come_for(store, &both, 'b', true, "greedy"), WAITS);
    leave(&behind);
    assert_string_equal(news(), "b");
    assert_int_equal(ask_again(&both, S), FULL); /* has the first, may not wait for the second */
    assert_int_equal(remaining(store, limit, &conf, 1, S), 1);
    leave(&rival);
    add(&both, tokens, &daily, 1, "", N);
    assert_int_equal(ask_again(&both, S), WAITS);
    assert_true(ask(store, tokens, &daily, 1, S));
    end(&running);
    assert_string_equal(news(), "g");
    leave(&greedy);
    assert_string_equal(news(), "b");
    assert_int_equal(ask_again(&both, S), LIMITED);
    assert_false(both.queueing[0].holds);
    assert_int_equal(remaining(store, limit, &conf, 1, S), 1);
    stop_two(store);
}

/* Held in the overflow row, and given back there. */
static void test_what_is_held_stays_in_its_row(void **state)
{
    weir_store_t *store = create_telling_store();
    conf = with_queue(slots("slots", 2), 10, 10);
    conf.max_keys = 1;
    limit = store->limit_acquire(store, &conf);
    second = with_queue(slots("second", 1), 10, 10);
    other = store->limit_acquire(store, &second);
    asker_t stranger = asker(store, 's'), running, both = asker(store, 'b');
    add(&stranger, limit, &conf, 7, "t", N);
    assert_int_equal(ask_again(&stranger, S), ADMITTED); /* has the row */
    assert_int_equal(come_for(store, &running, 'x', false, "t"), ADMITTED);
    add(&both, limit, &conf, 1, "t", N);
    add(&both, other, &second, 1, "t", N);
    for (int i = 0; i < 2; ++i) {
        assert_int_equal(ask_again(&both, S), WAITS);
        assert_true(both.items[0].overflowed && both.queueing[0].holds);
        if (i == 0)
            end(&stranger); /* its row is free */
    }
    end(&running);
    assert_string_equal(news(), "b");
    assert_int_equal(ask_again(&both, S), ADMITTED);
    assert_true(both.items[0].overflowed);
    end(&both);
    assert_int_equal(remaining(store, limit, &conf, 1, S), 2);
    stop(store);
}

/* It was emptied by somebody else's row; a limit with no queue of his own is not kept out by it. */
static void test_an_empty_line_is_no_line(void **state)
{
    static const weir_conf_override_t overrides[] = {{.tenant = "big", .quota = {.limit = 2}}};
    weir_store_t *store = start(1, 2, 2);
    conf.tenants.entries = overrides;
    conf.tenants.size = 1;
    change(store, conf);
    asker_t running[2] = {asker(store, 'x'), asker(store, 'y')}, greedy[2], rival = asker(store, 'o'),
            big = asker(store, 'p');
    for (int i = 0; i < 2; ++i) {
        add(&running[i], limit, &conf, (uint64_t)i + 1, "t", N);
        assert_int_equal(ask_again(&running[i], S), ADMITTED);
        greedy[i] = asker(store, (char)('0' + i));
        add(&greedy[i], limit, &conf, (uint64_t)i + 1, "greedy", N);
        assert_int_equal(ask_again(&greedy[i], S), WAITS);
    }
    add(&rival, limit, &conf, 1, "other", N);
    assert_int_equal(ask_again(&rival, S), WAITS);
    assert_string_equal(news(), "1");
    add(&big, limit, &conf, 2, "big", N); /* the second one of two */
    big.queueing[0].tenant.len = 0;
    assert_int_equal(ask_again(&big, S), ADMITTED);
    end(&big);
    assert_int_equal(ask_again(&greedy[1], S), FULL);
    end(&running[1]);
    leave(&greedy[0]);
    leave(&rival);
    end(&running[0]);
    assert_string_equal(news(), "");
    stop(store);
}

/* It came before the limit was cut, and stands in line after that. */
static void test_an_old_request_waits_by_the_new_numbers(void **state)
{
    static weir_conf_limit_t old_conf;
    weir_store_t *store = start(3, 10, 10);
    weir_store_limit_t *old = limit;
    asker_t running[3], late = asker(store, 'l');
    old_conf = conf;
    for (int i = 0; i < 3; ++i)
        come(store, &running[i], 'x', "t", N);
    change(store, with_queue(slots("slots", 1), 10, 10));
    add(&late, old, &old_conf, 1, "t", N);
    assert_int_equal(ask_again(&late, S), WAITS);
    end(&running[0]);
    end(&running[1]);
    assert_string_equal(news(), "");
    end(&running[2]);
    assert_string_equal(news(), "l");
    assert_int_equal(ask_again(&late, S), ADMITTED);
    end(&late);
    stop(store);
}

static void test_shadow_limits_let_nobody_wait(void **state)
{
    weir_store_t *store = start(1, 10, 10);
    asker_t running, shadow = asker(store, 's');
    come(store, &running, 'x', "t", N);
    add(&shadow, limit, &conf, 1, "", N);
    shadow.items[0].shadow = true;
    assert_int_equal(ask_again(&shadow, S), ADMITTED);
    assert_false(shadow.items[0].admitted);
    assert_int_equal(shadow.items[0].charged_ns, -1);
    end(&shadow);
    end(&running);
    stop(store);
}

static void test_peeking_sees_the_line(void **state)
{
    weir_store_t *store = start(1, 10, 10);
    asker_t running, waiting;
    come(store, &running, 'x', "t", N);
    come(store, &waiting, '1', "t", N);
    assert_false(peek(store, limit, &conf, 1, S).admitted);
    store->reset(store, &running.items[0], S); /* slots in use are no past to be forgotten */
    assert_string_equal(news(), "");
    end(&running);
    assert_string_equal(news(), "1");
    assert_false(peek(store, limit, &conf, 1, S).admitted);
    assert_int_equal(peek(store, limit, &conf, 1, S).remaining, 0);
    leave(&waiting);
    stop(store);
}

/* Changes while it runs */

static void test_a_raised_limit_lets_in_at_once_and_a_cut_one_later(void **state)
{
    static const weir_conf_override_t overrides[] = {{.tenant = "own", .quota = {.limit = 4}}};
    weir_store_t *store = start(1, 20, 20);
    asker_t running, askers[12], own;
    come(store, &running, 'x', "t", N);
    for (int i = 0; i < 12; ++i)
        assert_int_equal(come(store, &askers[i], (char)('a' + i), "t", N), WAITS);
    change(store, with_queue(slots("slots", 3), 20, 20));
    assert_string_equal(news(), "ab");
    assert_int_equal(ask_again(&askers[0], S), ADMITTED);
    change(store, with_queue(slots("slots", 2), 20, 20));
    end(&running);
    assert_string_equal(news(), "");
    end(&askers[0]);
    assert_string_equal(news(), "c");
    weir_conf_limit_t with_own = with_queue(slots("slots", 2), 20, 20);
    with_own.tenants.entries = overrides;
    with_own.tenants.size = 1;
    assert_int_equal(come(store, &own, 'o', "own", B), WAITS);
    change(store, with_own); /* each by what his tenant may */
    assert_string_equal(news(), "o");
    assert_int_equal(ask_again(&own, S), ADMITTED);
    change(store, with_queue(slots("slots", 20), 20, 20));
    assert_string_equal(news(), "defghijkl"); /* more than a few at once */
    for (int i = 1; i < 12; ++i) {
        assert_int_equal(ask_again(&askers[i], S), ADMITTED);
        end(&askers[i]);
    }
    end(&own);
    stop(store);
}

static void test_a_smaller_queue_keeps_those_who_wait(void **state)
{
    weir_store_t *store = start(1, 3, 3);
    asker_t running, askers[3], late;
    come(store, &running, 'x', "t", N);
    for (int i = 0; i < 3; ++i)
        come(store, &askers[i], (char)('0' + i), "t", N);
    change(store, with_queue(slots("slots", 1), 1, 1));
    assert_string_equal(news(), "");
    assert_int_equal(come(store, &late, 'l', "t", N), FULL);
    change(store, slots("slots", 1)); /* none at all any more */
    late = asker(store, 'l');
    add(&late, limit, &conf, 1, "", N);
    assert_int_equal(ask_again(&late, S), LIMITED);
    end(&running);
    for (int i = 0; i < 3; ++i) {
        assert_int_equal(*news(), '0' + i);
        assert_int_equal(ask_again(&late, S), LIMITED);
        assert_int_equal(ask_again(&askers[i], S), ADMITTED);
        end(&askers[i]);
    }
    change(store, with_queue(slots("slots", 1), 1, 1));
    come(store, &running, 'x', "t", N);
    assert_int_equal(come(store, &late, 'l', "t", N), WAITS);
    leave(&late);
    end(&running);
    stop(store);
}

static void test_a_queue_where_there_was_none(void **state)
{
    weir_store_t *store = create_telling_store();
    conf = slots("slots", 1);
    limit = store->limit_acquire(store, &conf);
    asker_t running = asker(store, 'x'), waiting;
    add(&running, limit, &conf, 1, "", N);
    assert_int_equal(ask_again(&running, S), ADMITTED);
    change(store, with_queue(slots("slots", 1), 1, 1));
    assert_int_equal(come(store, &waiting, '1', "t", N), WAITS);
    end(&running);
    assert_string_equal(news(), "1");
    assert_int_equal(ask_again(&waiting, S), ADMITTED);
    end(&waiting);
    stop(store);
}

/* One key for all, and tenants with limits of their own: who may have more does not wait behind who may have less. */
static void test_tenants_with_other_limits_on_one_key(void **state)
{
    static const weir_conf_override_t overrides[] = {{.tenant = "big", .quota = {.limit = 3}}};
    weir_store_t *store = start(1, 10, 10);
    weir_conf_limit_t with_big = conf;
    with_big.tenants.entries = overrides;
    with_big.tenants.size = 1;
    change(store, with_big);
    asker_t running, small, big[4];
    assert_int_equal(come(store, &running, 'x', "t", N), ADMITTED);
    assert_int_equal(come(store, &small, 's', "t", U), WAITS);
    assert_int_equal(come(store, &big[0], '0', "big", N), WAITS); /* told at once */
    assert_string_equal(news(), "0");
    assert_int_equal(come(store, &big[1], '1', "big", N), WAITS);
    assert_string_equal(news(), "1");
    assert_int_equal(come(store, &big[2], '2', "big", N), WAITS);
    assert_string_equal(news(), "");
    assert_int_equal(ask_again(&big[0], S), ADMITTED);
    assert_int_equal(ask_again(&big[1], S), ADMITTED);
    end(&running);
    assert_string_equal(news(), "2");
    assert_int_equal(ask_again(&big[2], S), ADMITTED);
    for (int i = 0; i < 3; ++i) {
        assert_string_equal(news(), "");
        end(&big[i]);
    }
    assert_string_equal(news(), "s");
    assert_int_equal(ask_again(&small, S), ADMITTED);
    end(&small);
    stop(store);
}

/* Keys without a row wait together, and stay there when a row would be free. */
static void test_the_overflow_row_has_a_line_too(void **state)
{
    weir_store_t *store = create_telling_store();
    conf = with_queue(slots("slots", 1), 10, 10);
    conf.max_keys = 1;
    limit = store->limit_acquire(store, &conf);
    asker_t askers[5];
    for (int i = 0; i < 5; ++i) {
        askers[i] = asker(store, (char)('0' + i));
        add(&askers[i], limit, &conf, (uint64_t)i + 1, "t", N);
        assert_int_equal(ask_again(&askers[i], S), i < 2 ? ADMITTED : WAITS);
        assert_int_equal(askers[i].items[0].overflowed, i != 0);
    }
    end(&askers[0]); /* its row is free now, but they stand elsewhere */
    assert_string_equal(news(), "");
    assert_int_equal(ask_again(&askers[2], S), WAITS);
    end(&askers[1]);
    assert_string_equal(news(), "2");
    assert_int_equal(ask_again(&askers[2], S), ADMITTED);
    assert_true(askers[2].items[0].overflowed);
    change(store, with_queue(slots("slots", 2), 10, 10));
    assert_string_equal(news(), "3");
    leave(&askers[3]);
    assert_string_equal(news(), "4");
    assert_int_equal(ask_again(&askers[4], S), ADMITTED);
    end(&askers[4]);
    end(&askers[2]);
    assert_int_equal(ask_again(&askers[3], S), ADMITTED);
    assert_false(askers[3].items[0].overflowed);
    end(&askers[3]);
    stop(store);
}

/* Arrivals, endings and changes of mind by chance, against a count of who holds what. */
enum { EVENTS = 1000000, ASKERS = 48, KEYS = 3, AT_ONCE = 4, QUEUE = 12, PER_TENANT = 5, TENANTS = 4 };

typedef enum { AWAY, WAITING, TOLD, RUNNING } doing_t;

static struct {
    asker_t askers[ASKERS];
    doing_t doing[ASKERS];
    size_t keys[ASKERS], tenants[ASKERS];
    bool is_displaced[ASKERS];
    size_t held[KEYS]; /* slots: in use, or granted */
    size_t waiting, of_tenant[TENANTS], line[KEYS];
    size_t admitted, full, displaced;
    seeded_t seeded;
} crowd;

static void hear(void *context, weir_ticket_t ticket)
{
    size_t i = ticket.slot;
    assert_int_equal(crowd.doing[i], WAITING);
    crowd.doing[i] = TOLD;
    --crowd.waiting;
    --crowd.of_tenant[crowd.tenants[i]];
    --crowd.line[crowd.keys[i]];
    crowd.is_displaced[i] = crowd.held[crowd.keys[i]] == AT_ONCE; /* or it was granted */
    crowd.held[crowd.keys[i]] += !crowd.is_displaced[i];
}

static void crowd_ask(size_t i)
{
    size_t k = crowd.keys[i], had = crowd.held[k], waited = crowd.waiting,
           of_tenant = crowd.of_tenant[crowd.tenants[i]];
    bool was_told = crowd.doing[i] == TOLD;
    asker_t *asker = &crowd.askers[i];
    asker->letter = (char)i;
    crowd.doing[i] = WAITING; /* before it is told: it may be at once */
    ++crowd.waiting;
    ++crowd.of_tenant[crowd.tenants[i]];
    ++crowd.line[k];
    answer_t answer = ask_again(asker, S);
    if (answer == WAITS) {
        assert_false(was_told);
        assert_int_equal(had, AT_ONCE);
        return;
    }
    --crowd.waiting;
    --crowd.of_tenant[crowd.tenants[i]];
    --crowd.line[k];
    crowd.doing[i] = answer == ADMITTED ? RUNNING : AWAY;
    crowd.admitted += answer == ADMITTED;
    crowd.full += answer == FULL;
    assert_int_not_equal(answer, LIMITED);
    if (was_told) {
        crowd.displaced += answer == FULL;
        assert_int_equal(answer == FULL, crowd.is_displaced[i]);
    } else if (answer == FULL) { /* not without cause */
        assert_int_equal(had, AT_ONCE);
        assert_true(waited == QUEUE || of_tenant == PER_TENANT);
    } else {
        assert_true(had < AT_ONCE && crowd.line[k] == 0);
        ++crowd.held[k];
    }
}

static void crowd_arrive(weir_store_t *store, size_t i)
{
    static const char *const names[TENANTS] = {"a", "b", "c", "d"};
    size_t tenant = seeded_below(&crowd.seeded, TENANTS);
    crowd.tenants[i] = tenant < 2 ? 0 : tenant; /* one is there more often */
    crowd.keys[i] = seeded_below(&crowd.seeded, KEYS);
    crowd.askers[i] = asker(store, 0);
    add(&crowd.askers[i], limit, &conf, crowd.keys[i], names[crowd.tenants[i]],
        (weir_lane_t)seeded_below(&crowd.seeded, WEIR_LANES));
    crowd_ask(i);
}

static void crowd_leave(size_t i)
{
    size_t k = crowd.keys[i];
    if (crowd.doing[i] == WAITING) {
        --crowd.waiting;
        --crowd.of_tenant[crowd.tenants[i]];
        --crowd.line[k];
    } else {
        crowd.held[k] -= !crowd.is_displaced[i];
    }
    crowd.doing[i] = AWAY;
    leave(&crowd.askers[i]);
}

static void crowd_end(weir_store_t *store, size_t i)
{
    --crowd.held[crowd.keys[i]];
    crowd.doing[i] = AWAY;
    if (seeded_below(&crowd.seeded, 4) == 0)
        store->refund(store, crowd.askers[i].items, 1, S);
    else
        end(&crowd.askers[i]);
}

static void crowd_move(weir_store_t *store, size_t i)
{
    uint64_t chance = seeded_below(&crowd.seeded, 16);
    switch (crowd.doing[i]) {
    case AWAY:
        crowd_arrive(store, i);
        break;
    case WAITING:
        if (chance == 0)
            crowd_leave(i);
        else if (chance == 1) {
            assert_int_equal(ask_again(&crowd.askers[i], S), WAITS);
        }
        break;
    case TOLD:
        if (chance == 0)
            crowd_leave(i);
        else
            crowd_ask(i);
        break;
    case RUNNING:
        if (chance < 8)
            crowd_end(store, i);
        break;
    }
}

static void test_a_million_moves_lose_no_slot_and_give_none_twice(void **state)
{
    crowd.seeded = seeded_start(__func__);
    weir_store_t *store = weir_memory_store_create(secret, (weir_store_teller_t){hear, NULL});
    conf = with_queue(slots("slots", AT_ONCE), QUEUE, PER_TENANT);
    limit = store->limit_acquire(store, &conf);
    told[0] = '\0';
    for (int i = 0; i < EVENTS; ++i) {
        crowd_move(store, seeded_below(&crowd.seeded, ASKERS));
        for (size_t k = 0; k < KEYS; ++k) {
            assert_true(crowd.held[k] <= AT_ONCE);
            assert_true(crowd.line[k] == 0 || crowd.held[k] == AT_ONCE);
        }
        if (i % 64 == 0)
            for (size_t k = 0; k < KEYS; ++k)
                assert_int_equal(remaining(store, limit, &conf, k, S), AT_ONCE - crowd.held[k]);
    }
    for (size_t i = 0; i < ASKERS; ++i) {
        if (crowd.doing[i] == RUNNING)
            crowd_end(store, i);
        else if (crowd.doing[i] != AWAY)
            crowd_leave(i);
    }
    for (size_t i = 0; i < ASKERS; ++i) /* who was let in by those that left */
        if (crowd.doing[i] == TOLD)
            crowd_leave(i);
    for (size_t k = 0; k < KEYS; ++k)
        assert_int_equal(remaining(store, limit, &conf, k, S), AT_ONCE);
    assert_true(crowd.admitted > 50000 && crowd.full > 1000 && crowd.displaced > 1000);
    stop(store);
}

/* Threads */

enum { THREADS = 4, OWN = 8, RUNS = 1000, SHARED_KEYS = 2 };

typedef struct {
    pthread_mutex_t lock;
    bool is_told[OWN];
} mailbox_t;

static struct {
    weir_store_t *store;
    weir_conf_limit_t other, tokens;
    weir_store_limit_t *other_limit, *tokens_limit;
    mailbox_t mailboxes[THREADS];
    pthread_barrier_t reloaded;
    _Atomic int running[SHARED_KEYS], wrong;
} shared;

typedef struct {
    uint32_t worker;
    seeded_t seeded;
    asker_t askers[OWN];
    doing_t doing[OWN];
    size_t keys[OWN];
    int runs;
    int most; /* requests that ran at once, as seen here */
} worker_t;

static void post(void *context, weir_ticket_t ticket)
{
    mailbox_t *mailbox = &shared.mailboxes[ticket.worker];
    pthread_mutex_lock(&mailbox->lock);
    mailbox->is_told[ticket.slot] = true;
    pthread_mutex_unlock(&mailbox->lock);
}

static bool take_post(worker_t *worker, size_t i)
{
    mailbox_t *mailbox = &shared.mailboxes[worker->worker];
    pthread_mutex_lock(&mailbox->lock);
    bool is_told = mailbox->is_told[i];
    mailbox->is_told[i] = false;
    pthread_mutex_unlock(&mailbox->lock);
    return is_told;
}

static void worker_ask(worker_t *worker, size_t i)
{
    static const int64_t now_ns = S;
    asker_t *asker = &worker->askers[i];
    weir_ticket_t ticket = {worker->worker, (uint32_t)i, 0};
    bool admitted;
    for (size_t j = 0; j < asker->count; ++j)
        asker->items[j].queueing = asker->queueing[j].tenant.len != 0 ? &asker->queueing[j] : NULL;
    weir_store_answer_t answer =
        shared.store->decide(shared.store, asker->items, asker->count, now_ns, ticket, &admitted);
    worker->doing[i] = answer == WEIR_STORE_QUEUED ? WAITING : admitted ? RUNNING : AWAY;
    if (worker->doing[i] != RUNNING)
        return;
    ++worker->runs;
    int running = ++shared.running[worker->keys[i]];
    shared.wrong += running > AT_ONCE;
    if (running > worker->most)
        worker->most = running;
}

static void worker_arrive(worker_t *worker, size_t i)
{
    static const char *const names[] = {"a", "b", "c"};
    const char *name = names[seeded_below(&worker->seeded, 3)];
    take_post(worker, i); /* of the one before: a ticket's generation would tell */
    worker->keys[i] = seeded_below(&worker->seeded, SHARED_KEYS);
    worker->askers[i] = asker(shared.store, 0);
    add(&worker->askers[i], limit, &conf, worker->keys[i], name,
        (weir_lane_t)seeded_below(&worker->seeded, WEIR_LANES));
    if (seeded_below(&worker->seeded, 2))
        add(&worker->askers[i], shared.other_limit, &shared.other, 0, name, N);
    add(&worker->askers[i], shared.tokens_limit, &shared.tokens, worker->keys[i], "", N);
    worker->askers[i].items[worker->askers[i].count - 1].cost = 1 + (int64_t)seeded_below(&worker->seeded, 50);
    worker_ask(worker, i);
}

static void worker_move(worker_t *worker, size_t i, bool may_arrive)
{
    asker_t *asker = &worker->askers[i];
    switch (worker->doing[i]) {
    case RUNNING:
        --shared.running[worker->keys[i]];
        shared.store->settle(shared.store, asker->items, asker->count, S);
        worker->doing[i] = AWAY;
        break;
    case AWAY:
        if (may_arrive)
            worker_arrive(worker, i);
        break;
    default:
        if (take_post(worker, i)) {
            worker_ask(worker, i);
        } else if (seeded_below(&worker->seeded, 64) == 0) {
            shared.store->leave(shared.store, asker->items, asker->count, S);
            worker->doing[i] = AWAY;
        }
    }
}

/* Turns are yielded: whoever spins through his keeps nobody from a slot, and gets none. */
static void work_until(worker_t *worker, int runs)
{
    while (worker->runs < runs) {
        for (size_t i = 0; i < OWN; ++i)
            worker_move(worker, seeded_below(&worker->seeded, OWN), true);
        sched_yield();
    }
    for (size_t i = 0; i < OWN; ++i) { /* whoever waits is told, or leaves in the end */
        while (worker->doing[i] != AWAY) {
            worker_move(worker, i, false);
            sched_yield();
        }
    }
}

static void *work(void *arg)
{
    worker_t *worker = arg;
    work_until(worker, RUNS); /* while it is reloaded */
    pthread_barrier_wait(&shared.reloaded);
    work_until(worker, worker->runs + RUNS); /* all slots are there */
    return NULL;
}

static void test_four_threads_in_one_queue(void **state)
{
    static worker_t workers[THREADS];
    seeded_t seeded = seeded_start(__func__);
    conf = with_queue(slots("slots", AT_ONCE), QUEUE, PER_TENANT);
    shared.other = with_queue(slots("other", 3), 4, 4);
    shared.tokens = in_unit(bucket("tokens", 1, S, 100), WEIR_UNIT_LLM_TOKENS);
    shared.store = weir_memory_store_create(secret, (weir_store_teller_t){post, NULL});
    limit = shared.store->limit_acquire(shared.store, &conf);
    shared.other_limit = shared.store->limit_acquire(shared.store, &shared.other);
    shared.tokens_limit = shared.store->limit_acquire(shared.store, &shared.tokens);
    assert_int_equal(pthread_barrier_init(&shared.reloaded, NULL, THREADS + 1), 0);
    pthread_t threads[THREADS];
    for (uint32_t i = 0; i < THREADS; ++i) {
        pthread_mutex_init(&shared.mailboxes[i].lock, NULL);
        workers[i] = (worker_t){.worker = i, .seeded = {seeded_next(&seeded)}};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    static weir_conf_limit_t confs[2];
    for (int i = 0; i < 50; ++i) { /* reloads meanwhile: less, and as much as before */
        confs[i % 2] = with_queue(slots("slots", i % 2 ? AT_ONCE : AT_ONCE - 1), i % 2 ? QUEUE : 2, PER_TENANT);
        shared.store->limit_acquire(shared.store, &confs[i % 2]);
    }
    pthread_barrier_wait(&shared.reloaded);
    int most = 0;
    for (int i = 0; i < THREADS; ++i) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        most = workers[i].most > most ? workers[i].most : most;
    }
    assert_int_equal(shared.wrong, 0);
    assert_int_equal(most, AT_ONCE);
    for (size_t k = 0; k < SHARED_KEYS; ++k) {
        assert_int_equal(remaining(shared.store, limit, &conf, k, S), AT_ONCE);
        assert_int_equal(remaining(shared.store, shared.tokens_limit, &shared.tokens, k, S), 100);
    }
    assert_int_equal(remaining(shared.store, shared.other_limit, &shared.other, 0, S), 3);
    told[0] = '\0';
    stop(shared.store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots_go_to_the_most_urgent_and_then_the_oldest),
        cmocka_unit_test(test_whoever_asks_early_waits_on),
        cmocka_unit_test(test_newcomers_do_not_pass),
        cmocka_unit_test(test_who_gives_way_is_told_and_finds_the_queue_full),
        cmocka_unit_test(test_whoever_was_displaced_has_nothing_to_give_back),
        cmocka_unit_test(test_a_full_queue_of_another_key_gives_way_too),
        cmocka_unit_test(test_leaving_gives_the_slot_on),
        cmocka_unit_test(test_a_slot_that_is_of_no_use_goes_on),
        cmocka_unit_test(test_whoever_waits_holds_what_comes_before),
        cmocka_unit_test(test_whoever_leaves_gives_all_back),
        cmocka_unit_test(test_whoever_is_refused_gives_all_back),
        cmocka_unit_test(test_what_is_held_stays_in_its_row),
        cmocka_unit_test(test_an_empty_line_is_no_line),
        cmocka_unit_test(test_an_old_request_waits_by_the_new_numbers),
        cmocka_unit_test(test_shadow_limits_let_nobody_wait),
        cmocka_unit_test(test_peeking_sees_the_line),
        cmocka_unit_test(test_a_raised_limit_lets_in_at_once_and_a_cut_one_later),
        cmocka_unit_test(test_a_smaller_queue_keeps_those_who_wait),
        cmocka_unit_test(test_a_queue_where_there_was_none),
        cmocka_unit_test(test_tenants_with_other_limits_on_one_key),
        cmocka_unit_test(test_the_overflow_row_has_a_line_too),
        cmocka_unit_test(test_a_million_moves_lose_no_slot_and_give_none_twice),
        cmocka_unit_test(test_four_threads_in_one_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
