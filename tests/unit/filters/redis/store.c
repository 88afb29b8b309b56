/* Limits of the store in Redis: what is asked, what becomes of every answer - in time, late, lost, none - and that
 * nothing stays charged of what was not admitted. Redis is a table here, time a number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <pthread.h>
#include "../../../../filters/redis/redis_store.h"
#include "../../seeded.h"
#include "../limits.h"
#include "remoted.h"

enum { SIDECAR = 0xabc, ITEMS_MAX = WEIR_LIMITS_PER_ROUTE_MAX };

static const int64_t TIMEOUT = 20 * INT64_C(1000000), US = 1700000000000000;

static remoted_t *remoted;
static weir_store_t *store;
static size_t woken;
static weir_ticket_t woken_ticket;

static void on_wake(weir_ticket_t ticket)
{
    ++woken;
    woken_ticket = ticket;
}

static void ignore(void *context, weir_ticket_t ticket)
{
}

static weir_store_t *create_redis_store(weir_remote_t *remote)
{
    weir_conf_store_redis_t conf = {.prefix = "weir:", .timeout_ns = TIMEOUT, .claim_timeout_ns = 250 * TIMEOUT};
    return weir_redis_store_create(&conf, remote, secret, (weir_store_teller_t){ignore, NULL});
}

static int set_up(void **state)
{
    remoted = remoted_create(SIDECAR, on_wake);
    store = create_redis_store(&remoted->remote);
    woken = 0;
    return 0;
}

static int tear_down(void **state)
{
    for (size_t i = remoted->count > REMOTED_ASKS_MAX ? remoted->count - REMOTED_ASKS_MAX : 0; i < remoted->count; ++i)
        if (remoted_of(remoted, i)->is_open) {
            remoted->is_down = true;
            remoted_end(remoted, remoted_of(remoted, i), WEIR_REMOTE_LOST, NULL, 0);
        }
    store->destroy(store);
    remoted_destroy(remoted);
    return 0;
}

/* Asking */

typedef struct {
    weir_conf_limit_t conf;
    weir_store_limit_t *limit;
} limit_t;

static limit_t acquire(weir_conf_limit_t conf)
{
    return (limit_t){conf, store->limit_acquire(store, &conf)};
}

static weir_conf_limit_t local(weir_conf_limit_t conf)
{
    conf.scope = WEIR_SCOPE_LOCAL;
    return conf;
}

static weir_conf_limit_t failing(weir_conf_limit_t conf, weir_conf_limit_on_failure_t on_failure)
{
    conf.on_failure = on_failure;
    return conf;
}

static weir_store_item_t item_of(const limit_t *limit)
{
    return item(limit->limit, &limit->conf, store->key(store, "abc", 3));
}

static weir_store_item_t costing(weir_store_item_t item, int64_t cost)
{
    item.cost = cost;
    return item;
}

static const weir_ticket_t ticket = {1, 2, 3};

static weir_store_answer_t decide_at(weir_store_item_t *items, size_t count, int64_t now_ns, bool *admitted)
{
    return store->decide(store, items, count, now_ns, ticket, admitted);
}

static void decide_pending(weir_store_item_t *items, size_t count, int64_t now_ns)
{
    bool admitted;
    assert_int_equal(decide_at(items, count, now_ns, &admitted), WEIR_STORE_PENDING);
}

static bool collect(weir_store_item_t *items, size_t count, int64_t now_ns)
{
    bool admitted;
    assert_int_equal(store->collect(store, items, count, now_ns, ticket, &admitted), WEIR_STORE_DECIDED);
    return admitted;
}

/* The words of an ask, with a space between. */
static const char *words(char *const *list, size_t count)
{
    static char text[4096];
    text[0] = '\0';
    for (size_t i = 0; i < count; ++i)
        sprintf(text + strlen(text), "%s%s", i != 0 ? " " : "", list[i]);
    return text;
}

static void assert_asked(const remoted_ask_t *ask, weir_script_t script, const char *keys, const char *args)
{
    assert_int_equal(ask->script, script);
    assert_string_equal(words(ask->keys, ask->key_count), keys);
    assert_string_equal(words(ask->args, ask->arg_count), args);
}

#define KEY "weir:{ba7816bf8f01cfea414140de5dae2223}:l:"
#define MEMBER "0000000000000abc-"

typedef struct {
    int64_t fits, remaining, reset_us, retry_us;
} told_t;

static void answer_numbers(remoted_ask_t *ask, int64_t admitted, const told_t *told, size_t count, int64_t now_ns)
{
    weir_remote_value_t numbers[2 + 4 * ITEMS_MAX];
    size_t size = 0;
    numbers[size++] = remoted_integer(admitted);
    numbers[size++] = remoted_integer(US);
    for (size_t i = 0; i < count; ++i) {
        numbers[size++] = remoted_integer(told[i].fits);
        numbers[size++] = remoted_integer(told[i].remaining);
        numbers[size++] = remoted_integer(told[i].reset_us);
        numbers[size++] = remoted_integer(told[i].retry_us);
    }
    weir_remote_value_t list = {.kind = WEIR_REMOTE_LIST, .entries = numbers, .size = size};
    remoted_end(remoted, ask, WEIR_REMOTE_ANSWERED, &list, now_ns);
}

/* All of its items fit, with 7 left. */
static void admit(remoted_ask_t *ask, int64_t now_ns)
{
    told_t told[ITEMS_MAX];
    for (size_t i = 0; i < ITEMS_MAX; ++i)
        told[i] = (told_t){1, 7, 5000, 0};
    answer_numbers(ask, 1, told, ask->key_count, now_ns);
}

static void refuse(remoted_ask_t *ask, int64_t now_ns)
{
    told_t told[ITEMS_MAX];
    for (size_t i = 0; i < ITEMS_MAX; ++i)
        told[i] = (told_t){0, 0, 5000, 3000};
    answer_numbers(ask, 0, told, ask->key_count, now_ns);
}

static void acknowledge(remoted_ask_t *ask, int64_t now_ns)
{
    weir_remote_value_t one = remoted_integer(1);
    remoted_end(remoted, ask, WEIR_REMOTE_ANSWERED, &one, now_ns);
}

static void acknowledge_all(int64_t now_ns)
{
    for (size_t i = 0; i < remoted->count; ++i)
        if (remoted_of(remoted, i)->is_open)
            acknowledge(remoted_of(remoted, i), now_ns);
}

static void tick(int64_t now_ns)
{
    remoted->remote.on_tick(remoted->remote.tick_context, remoted->worker, now_ns);
}

/* Of a key in memory what is left, as if the limit were local: by its numbers there. */
static int64_t left_in_memory(const limit_t *limit, const weir_store_item_t *kept, int64_t now_ns)
{
    weir_conf_limit_t conf = local(limit->conf);
    weir_store_limit_t *view = store->limit_acquire(store, &conf);
    weir_store_item_t probe = item(view, &conf, kept->key);
    store->peek(store, &probe, 1, now_ns);
    store->limit_release(store, view);
    return probe.remaining;
}

/* Keys */

static void test_keys_are_those_of_every_sidecar(void **state)
{
    weir_store_key_t abc = store->key(store, "abc", 3), empty = store->key(store, "", 0);
    assert_true(store->is_shared);
    assert_int_equal(store->timeout_ns, TIMEOUT);
    assert_true(abc.high == UINT64_C(0xba7816bf8f01cfea) && abc.low == UINT64_C(0x414140de5dae2223));
    assert_true(empty.high == UINT64_C(0xe3b0c44298fc1c14) && empty.low == UINT64_C(0x9afbf4c8996fb924));
}

/* What is asked, and what is answered */

static void test_one_message_for_all_kinds(void **state)
{
    limit_t limits[] = {acquire(bucket("a", 50, S, 100)),
                        acquire(in_unit(window("b", 10, 60 * S), WEIR_UNIT_REQUEST_BYTES)), acquire(exact("c", 20, S)),
                        acquire(slots("d", 5))};
    weir_store_item_t items[4];
    for (size_t i = 0; i < 4; ++i)
        items[i] = item_of(&limits[i]);
    items[1].cost = 1234567890123;
    items[2].shadow = true;
    decide_pending(items, 4, S);
    assert_int_equal(remoted->count, 1);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_decide, KEY "a:b " KEY "b:s60000000 " KEY "c:x1000000 " KEY "d:c",
                 "1 b 1 0 50 1000000 100 0 s 1234567890123 0 10 60000000 0 0 x 1 1 20 1000000 0 " MEMBER
                 "0000000000000001 c 1 0 5 30000000 0 " MEMBER "0000000000000001");
    remoted->worker = 1;
    weir_store_item_t other = item_of(&limits[2]);
    decide_pending(&other, 1, S);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_decide, KEY "c:x1000000",
                 "1 x 1 0 20 1000000 0 " MEMBER "0001000000000001");
    store->abandon(store, items, 4, S);
    store->abandon(store, &other, 1, S);
}

static void test_an_answer_is_told_as_memory_tells_it(void **state)
{
    limit_t limits[] = {acquire(bucket("a", 50, S, 100)), acquire(slots("b", 10)), acquire(bucket("c", 50, S, 100))};
    weir_store_item_t items[] = {item_of(&limits[0]), item_of(&limits[1]), item_of(&limits[2])};
    bool admitted;
    items[2].shadow = true;
    decide_pending(items, 3, S);
    assert_int_equal(store->collect(store, items, 3, S + TIMEOUT - 1, ticket, &admitted), WEIR_STORE_PENDING);
    answer_numbers(remoted_last(remoted), 1, (told_t[]){{1, 99, 20000, 0}, {1, 9, -1, 0}, {0, -3, 40000, 20000}}, 3,
                   S + 1);
    assert_int_equal(woken, 1);
    assert_memory_equal(&woken_ticket, &ticket, sizeof(ticket));
    assert_true(collect(items, 3, S + 10 * TIMEOUT)); /* came in time, and is taken late */
    assert_true(items[0].admitted && items[1].admitted && !items[2].admitted);
    assert_int_equal(items[0].kept, WEIR_KEPT_REMOTE);
    assert_int_equal(items[0].charged_ns, US * 1000);
    assert_int_equal(items[0].remaining, 99);
    assert_int_equal(items[0].reset_ns, 20000000);
    assert_int_equal(items[0].retry_after_ns, 0);
    assert_int_equal(items[1].reset_ns, -1);
    assert_int_equal(items[2].kept, WEIR_KEPT_NOWHERE);
    assert_int_equal(items[2].refusal, WEIR_STORE_LIMITED);
    assert_int_equal(items[2].charged_ns, -1);
    assert_int_equal(items[2].remaining, 0);
    assert_int_equal(items[2].retry_after_ns, 20000000);
    store->refund(store, items, 3, 2 * S);
    assert_int_equal(remoted->count, 3);
    assert_asked(remoted_of(remoted, 1), WEIR_SCRIPT_settle, KEY "a:b", "b 1 1700000000000000 50 1000000 100 0");
    assert_asked(remoted_of(remoted, 2), WEIR_SCRIPT_settle, KEY "b:c",
                 "c 1 0 10 30000000 0 " MEMBER "0000000000000001");
    acknowledge_all(2 * S);
}

static void test_never_and_nobody_knows(void **state)
{
    limit_t limit = acquire(bucket("a", 50, S, 100));
    weir_store_item_t one = costing(item_of(&limit), 101);
    decide_pending(&one, 1, S);
    answer_numbers(remoted_last(remoted), 0, (told_t[]){{0, 100, 0, -1}}, 1, S);
    assert_false(collect(&one, 1, S));
    assert_int_equal(one.retry_after_ns, -1);
    assert_int_equal(one.remaining, 100);
    assert_null(one.asked);
}

/* Together with memory */

static void test_memory_is_asked_first_and_gets_back(void **state)
{
    limit_t near = acquire(local(bucket("near", 1, D, 2))), far = acquire(bucket("far", 1, D, 5));
    weir_store_item_t items[] = {item_of(&near), item_of(&far)};
    bool admitted;
    decide_pending(items, 2, S);
    assert_int_equal(remaining(store, near.limit, &near.conf, 0, S), 2); /* of another key */
    assert_int_equal(items[0].remaining, 1);
    refuse(remoted_last(remoted), S);
    assert_false(collect(items, 2, S));
    assert_true(items[0].admitted);
    assert_int_equal(items[0].charged_ns, -1);
    assert_int_equal(items[0].remaining, 2);
    assert_false(items[1].admitted);
    for (int i = 0; i < 2; ++i) {
        decide_pending(items, 2, S);
        admit(remoted_last(remoted), S);
        assert_true(collect(items, 2, S));
    }
    size_t asked = remoted->count;
    assert_int_equal(decide_at(items, 2, S, &admitted), WEIR_STORE_DECIDED);
    assert_false(admitted || items[0].admitted);
    assert_true(items[1].admitted);
    assert_int_equal(items[1].charged_ns, -1);
    assert_int_equal(items[1].kept, WEIR_KEPT_NOWHERE);
    assert_int_equal(remoted->count, asked);
}

static void test_who_waits_in_a_queue_asks_when_he_has_his_slot(void **state)
{
    limit_t queue = acquire(local(with_queue(slots("queue", 1), 4, 4))), far = acquire(bucket("far", 1, D, 5));
    weir_store_queueing_t queueing[2] = {{.tenant = {"a", 1}, .lane = WEIR_LANE_NORMAL},
                                         {.tenant = {"a", 1}, .lane = WEIR_LANE_NORMAL}};
    weir_store_item_t first[] = {item_of(&queue), item_of(&far)}, second[] = {item_of(&queue), item_of(&far)};
    first[0].queueing = &queueing[0];
    second[0].queueing = &queueing[1];
    bool admitted;
    decide_pending(first, 2, S);
    admit(remoted_last(remoted), S);
    assert_true(collect(first, 2, S));
    assert_int_equal(decide_at(second, 2, S, &admitted), WEIR_STORE_QUEUED);
    assert_int_equal(remoted->count, 1);
    store->settle(store, first, 2, 2 * S);
    decide_pending(second, 2, 2 * S);
    refuse(remoted_last(remoted), 2 * S);
    assert_false(collect(second, 2, 2 * S));
    assert_int_equal(remaining(store, queue.limit, &queue.conf, 0, 2 * S), 1);
    weir_store_item_t probe = item_of(&queue);
    store->peek(store, &probe, 1, 2 * S);
    assert_int_equal(probe.remaining, 1); /* the slot was given back */
}

static void test_what_needs_not_be_asked(void **state)
{
    limit_t chain = acquire(bucket("chain", 5, S, 5)), none = acquire(bucket("none", 0, S, 5));
    weir_store_item_t items[] = {costing(item_of(&chain), 0), item_of(&none)};
    bool admitted;
    assert_int_equal(decide_at(items, 1, S, &admitted), WEIR_STORE_DECIDED);
    assert_true(admitted && items[0].admitted);
    assert_int_equal(items[0].remaining, 5);
    assert_int_equal(items[0].reset_ns, 0);
    assert_int_equal(decide_at(items, 2, S, &admitted), WEIR_STORE_DECIDED);
    assert_false(admitted || items[1].admitted);
    assert_int_equal(items[1].retry_after_ns, -1);
    assert_int_equal(remoted->count, 0);
}

static void test_peek_and_reset(void **state)
{
    limit_t far = acquire(window("far", 5, 60 * S)), near = acquire(local(bucket("near", 1, D, 5)));
    weir_store_item_t items[] = {item_of(&far), item_of(&near)};
    store->peek(store, items, 2, S);
    assert_true(items[0].admitted && items[1].admitted);
    assert_true(items[0].is_unknown && !items[1].is_unknown);
    assert_int_equal(items[0].remaining, 5);
    assert_int_equal(items[0].reset_ns, -1);
    assert_int_equal(items[1].reset_ns, 0);
    assert_int_equal(remoted->count, 0);
    assert_true(store->reset(store, &items[0], S));
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_forget, KEY "far:s60000000", "");
    assert_true(store->reset(store, &items[1], S));
    assert_int_equal(remoted->count, 1);
    remoted->is_down = true;
    assert_false(store->reset(store, &items[0], S));
}

/* The end */

static void test_settling(void **state)
{
    limit_t limits[] = {acquire(in_unit(bucket("a", 50, S, 100), WEIR_UNIT_LLM_TOKENS)),
                        acquire(in_unit(window("b", 10, 60 * S), WEIR_UNIT_REQUEST_BYTES)), acquire(exact("c", 20, S)),
                        acquire(local(in_unit(bucket("d", 1, D, 100), WEIR_UNIT_LLM_TOKENS)))};
    weir_store_item_t items[4];
    for (size_t i = 0; i < 4; ++i)
        items[i] = costing(item_of(&limits[i]), 8);
    items[1].key.low = items[1].key.high = 1;
    decide_pending(items, 4, S);
    assert_int_equal(remoted->count, 1);
    admit(remoted_last(remoted), S);
    assert_true(collect(items, 4, S));
    items[0].spent = 3;
    items[1].spent = 13;
    items[2].spent = items[3].spent = 5;
    store->settle(store, items, 4, 2 * S);
    assert_int_equal(remoted->count, 2);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_settle,
                 KEY "a:b weir:{00000000000000010000000000000001}:l:b:s60000000",
                 "b 5 1700000000000000 50 1000000 100 0 s -5 1700000000000000 10 60000000 0 0");
    assert_null(remoted_last(remoted)->on_end);
    weir_store_item_t probe = item_of(&limits[3]);
    store->peek(store, &probe, 1, 2 * S);
    assert_int_equal(probe.remaining, 95);
    items[0].spent = items[1].spent = 8;
    store->settle(store, items, 2, 2 * S); /* as it was: nothing is asked */
    assert_int_equal(remoted->count, 2);
    store->refund(store, &items[2], 1, 2 * S);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_settle, KEY "c:x1000000",
                 "x 8 1700000000000000 20 1000000 0 " MEMBER "0000000000000001");
}

static void test_abandoned(void **state)
{
    limit_t near = acquire(local(bucket("near", 1, D, 2))), far = acquire(bucket("far", 1, D, 5)),
            slot = acquire(slots("slot", 2));
    weir_store_item_t items[] = {item_of(&near), item_of(&far), item_of(&slot)};
    for (int is_answered = 0; is_answered < 2; ++is_answered) {
        decide_pending(items, 3, S);
        remoted_ask_t *ask = remoted_last(remoted);
        if (is_answered)
            admit(ask, S);
        store->abandon(store, items, 3, S);
        assert_int_equal(items[0].charged_ns, -1);
        if (!is_answered)
            admit(ask, S);
        assert_int_equal(woken, is_answered);
        assert_int_equal(remoted->count, 3);
        size_t slot_at = remoted_of(remoted, 1)->keys[0][strlen(KEY)] == 's' ? 1 : 2;
        assert_string_equal(words(remoted_of(remoted, 3 - slot_at)->keys, 1), KEY "far:b");
        assert_int_equal(remoted_of(remoted, 3 - slot_at)->args[1][0], '1');
        assert_string_equal(words(remoted_of(remoted, slot_at)->keys, 1), KEY "slot:c");
        acknowledge_all(S);
        tear_down(NULL);
        set_up(NULL);
        near = acquire(near.conf), far = acquire(far.conf), slot = acquire(slot.conf);
        items[0] = item_of(&near), items[1] = item_of(&far), items[2] = item_of(&slot);
    }
    decide_pending(items, 2, S); /* refused, and nobody wants to know */
    store->abandon(store, items, 2, S);
    refuse(remoted_last(remoted), S);
    assert_int_equal(remoted->count, 1);
    weir_store_item_t probe = item_of(&near);
    store->peek(store, &probe, 1, S);
    assert_int_equal(probe.remaining, 2);
}

/* Without Redis */

static void test_too_late_is_decided_here_and_given_back_there(void **state)
{
    limit_t far = acquire(bucket("far", 1, D, 4));
    weir_store_item_t one = item_of(&far);
    atomic_store(&remoted->remote.sidecars, 2);
    decide_pending(&one, 1, S);
    assert_true(collect(&one, 1, S + TIMEOUT));
    assert_int_equal(one.kept, WEIR_KEPT_MEMORY);
    assert_int_equal(one.quota->burst, 2);
    assert_int_equal(one.remaining, 1);
    assert_null(one.asked);
    admit(remoted_of(remoted, 0), S + 2 * TIMEOUT);
    assert_int_equal(woken, 0);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_settle, KEY "far:b", "b 1 1700000000000000 1 86400000000 4 0");
    store->refund(store, &one, 1, 2 * S);
    assert_int_equal(left_in_memory(&far, &one, 2 * S), 4);
    assert_int_equal(remoted->count, 2);
}

static void assert_failed_is_decided_here(weir_remote_told_t told, const weir_remote_value_t *value)
{
    limit_t far = acquire(bucket("far", 1, D, 4));
    weir_store_item_t one = item_of(&far);
    decide_pending(&one, 1, S);
    woken = 0;
    remoted_end(remoted, remoted_last(remoted), told, value, S);
    assert_int_equal(woken, 1);
    size_t asked = remoted->count;
    assert_true(collect(&one, 1, S + 1));
    assert_int_equal(one.kept, WEIR_KEPT_MEMORY);
    assert_int_equal(one.remaining, 3);
    store->refund(store, &one, 1, S + 1);
    assert_int_equal(remoted->count, asked);
    store->limit_release(store, far.limit);
}

static void test_refused_lost_and_garbage(void **state)
{
    weir_remote_value_t five[] = {remoted_integer(1), remoted_integer(2), remoted_integer(1), remoted_integer(1),
                                  remoted_integer(1)};
    weir_remote_value_t mixed[] = {remoted_integer(1), remoted_integer(2), remoted_integer(1),
                                   remoted_text("1"),  remoted_integer(0), remoted_integer(0)};
    weir_remote_value_t garbage[] = {REMOTED_NIL,
                                     remoted_integer(1),
                                     remoted_text("OK"),
                                     {.kind = WEIR_REMOTE_LIST},
                                     {.kind = WEIR_REMOTE_LIST, .entries = five, .size = 5},
                                     {.kind = WEIR_REMOTE_LIST, .entries = mixed, .size = 6}};
    assert_failed_is_decided_here(WEIR_REMOTE_REFUSED, NULL);
    assert_failed_is_decided_here(WEIR_REMOTE_LOST, NULL);
    for (size_t i = 0; i < sizeof(garbage) / sizeof(*garbage); ++i)
        assert_failed_is_decided_here(WEIR_REMOTE_ANSWERED, &garbage[i]);
}

static void test_each_by_its_on_failure(void **state)
{
    limit_t closed = acquire(failing(bucket("closed", 1, D, 4), WEIR_ON_FAILURE_CLOSED)),
            open = acquire(failing(bucket("open", 1, D, 4), WEIR_ON_FAILURE_OPEN)),
            far = acquire(bucket("far", 1, D, 1)),
            near = acquire(local(failing(bucket("near", 1, D, 2), WEIR_ON_FAILURE_CLOSED)));
    weir_store_item_t items[] = {item_of(&near), item_of(&open), item_of(&far), item_of(&closed)};
    bool admitted;
    remoted->is_down = true;
    assert_int_equal(decide_at(items, 4, S, &admitted), WEIR_STORE_DOWN);
    assert_int_equal(left_in_memory(&near, &items[0], S), 2);
    assert_int_equal(left_in_memory(&far, &items[2], S), 1);
    items[3].shadow = true;
    assert_int_equal(decide_at(items, 4, S, &admitted), WEIR_STORE_DECIDED);
    assert_true(admitted && items[3].admitted && items[1].admitted);
    assert_int_equal(items[1].charged_ns, -1);
    assert_int_equal(items[1].remaining, 4);
    assert_int_equal(items[2].kept, WEIR_KEPT_MEMORY);
    weir_store_item_t again[] = {item_of(&near), item_of(&open), item_of(&far)};
    assert_int_equal(decide_at(again, 3, S, &admitted), WEIR_STORE_DECIDED);
    assert_false(admitted || again[2].admitted);
    assert_true(again[0].admitted);
    assert_int_equal(again[0].charged_ns, -1);
    assert_int_equal(again[0].remaining, 1); /* what its part refused is given back in the other limits */
    again[2].shadow = true;
    again[2].quota = &far.conf.quota;
    assert_int_equal(decide_at(again, 3, S, &admitted), WEIR_STORE_DECIDED);
    assert_true(admitted && !again[2].admitted);
    assert_int_equal(remoted->count, 0);
}

static void test_a_failed_answer_with_a_closed_limit_is_down(void **state)
{
    limit_t near = acquire(local(bucket("near", 1, D, 2))),
            closed = acquire(failing(bucket("closed", 1, D, 4), WEIR_ON_FAILURE_CLOSED));
    weir_store_item_t items[] = {item_of(&near), item_of(&closed)};
    bool admitted;
    decide_pending(items, 2, S);
    assert_int_equal(store->collect(store, items, 2, S + TIMEOUT, ticket, &admitted), WEIR_STORE_DOWN);
    assert_int_equal(left_in_memory(&near, &items[0], S + TIMEOUT), 2);
    remoted_end(remoted, remoted_last(remoted), WEIR_REMOTE_REFUSED, NULL, 2 * S);
    assert_int_equal(remoted->count, 1);
}

static void test_of_nothing_nothing_fits(void **state)
{
    limit_t far = acquire(window("far", 1, 60 * S)), near = acquire(local(bucket("near", 1, D, 2)));
    size_t refused = 0;
    bool admitted;
    remoted->is_down = true;
    atomic_store(&remoted->remote.sidecars, 100);
    for (uint64_t i = 0; i < 100; ++i) {
        weir_store_item_t items[] = {item(near.limit, &near.conf, key(store, i)),
                                     item(far.limit, &far.conf, key(store, i))};
        assert_int_equal(decide_at(items, 2, S, &admitted), WEIR_STORE_DECIDED);
        assert_int_equal(items[0].remaining, admitted ? 1 : 2);
        if (admitted)
            continue;
        ++refused;
        assert_int_equal(items[1].retry_after_ns, -1);
        assert_int_equal(items[1].remaining, 0);
    }
    assert_in_range(refused, 90, 100);
    for (uint64_t i = 0; i < 100; ++i) { /* a shadow is in nobody's way */
        weir_store_item_t items[] = {item(near.limit, &near.conf, key(store, i)),
                                     item(far.limit, &far.conf, key(store, i))};
        items[1].shadow = true;
        assert_int_equal(decide_at(items, 2, S, &admitted), WEIR_STORE_DECIDED);
        assert_true(admitted);
    }
}

static void test_reservations_are_no_larger_than_the_share(void **state)
{
    limit_t far = acquire(in_unit(bucket("far", 1, D, 100), WEIR_UNIT_LLM_TOKENS));
    weir_store_item_t one = costing(item_of(&far), 100);
    bool admitted;
    remoted->is_down = true;
    atomic_store(&remoted->remote.sidecars, 4);
    assert_int_equal(decide_at(&one, 1, S, &admitted), WEIR_STORE_DECIDED);
    assert_true(admitted);
    assert_int_equal(one.cost, 25);
    one.spent = 10;
    store->settle(store, &one, 1, S);
    assert_int_equal(left_in_memory(&far, &one, S), 90);
}

static void test_one_draw_lasts_for_an_outage(void **state)
{
    limit_t far = acquire(window("far", 1, 60 * S));
    uint64_t sets[4] = {0};
    atomic_store(&remoted->remote.sidecars, 2);
    for (int outage = 0; outage < 4; ++outage) {
        remoted->is_down = outage % 2 == 1; /* 1 and 3; in 0 and 2 Redis is back, and too late */
        remoted->worker = 0;
        tick((outage + 1) * D);
        for (int worker = 0; worker < 2; ++worker) {
            uint64_t set = 0;
            remoted->worker = (size_t)worker;
            for (uint64_t i = 0; i < 64; ++i) {
                weir_store_item_t one = item(far.limit, &far.conf, key(store, i));
                bool admitted;
                if (decide_at(&one, 1, (outage + 1) * D, &admitted) == WEIR_STORE_PENDING)
                    admitted = collect(&one, 1, (outage + 1) * D + TIMEOUT);
                set |= (uint64_t)admitted << i;
                store->refund(store, &one, 1, (outage + 1) * D + TIMEOUT);
            }
            assert_true(worker == 0 || set == sets[outage]);
            sets[outage] = set;
        }
        for (int worker = 0; worker < 2; ++worker) { /* both see that it is over */
            remoted->is_down = false;
            remoted->worker = (size_t)worker;
            tick((outage + 1) * D + S);
        }
    }
    assert_true(sets[0] != sets[1]);
    assert_true(sets[1] == sets[2]);
    assert_true(sets[2] != sets[3]);
}

static void test_another_on_failure_is_another_handle(void **state)
{
    weir_conf_limit_t open = failing(bucket("far", 1, D, 4), WEIR_ON_FAILURE_OPEN),
                      closed = failing(open, WEIR_ON_FAILURE_CLOSED);
    limit_t old = acquire(open), new = acquire(closed), same = acquire(closed);
    weir_store_item_t before = item_of(&old), after = item_of(&new);
    bool admitted;
    assert_ptr_not_equal(old.limit, new.limit);
    assert_ptr_equal(new.limit, same.limit);
    remoted->is_down = true;
    assert_int_equal(decide_at(&before, 1, S, &admitted), WEIR_STORE_DECIDED);
    assert_int_equal(decide_at(&after, 1, S, &admitted), WEIR_STORE_DOWN);
}

/* Slots */

static void take_slot(weir_store_item_t *one, int64_t now_ns)
{
    decide_pending(one, 1, now_ns);
    admit(remoted_last(remoted), now_ns);
    assert_true(collect(one, 1, now_ns));
}

static void test_slots_are_renewed_until_they_end(void **state)
{
    limit_t a = acquire(slots("a", 5)), b = acquire(slots("b", 5));
    weir_store_item_t items[] = {item_of(&a), item_of(&b), item_of(&a)};
    for (size_t i = 0; i < 3; ++i)
        take_slot(&items[i], S);
    tick(11 * S - 1);
    assert_int_equal(remoted->count, 3);
    tick(11 * S);
    assert_int_equal(remoted->count, 5);
    assert_asked(remoted_of(remoted, 3), WEIR_SCRIPT_slots, KEY "a:c",
                 "30000000 " MEMBER "0000000000000001 " MEMBER "0000000000000003");
    assert_asked(remoted_of(remoted, 4), WEIR_SCRIPT_slots, KEY "b:c", "30000000 " MEMBER "0000000000000002");
    acknowledge_all(11 * S);
    tick(21 * S - 1);
    assert_int_equal(remoted->count, 5);
    store->settle(store, &items[0], 1, 21 * S);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_settle, KEY "a:c", "c 1 0 5 30000000 0 " MEMBER "0000000000000001");
    acknowledge(remoted_last(remoted), 21 * S);
    tick(21 * S);
    assert_int_equal(remoted->count, 8);
    store->settle(store, &items[1], 1, 22 * S);
    store->refund(store, &items[2], 1, 22 * S);
    acknowledge_all(22 * S);
    tick(100 * S);
    assert_int_equal(remoted->count, 10);
}

static void test_slots_that_ended_while_it_was_down_are_removed_later(void **state)
{
    limit_t a = acquire(slots("a", 5));
    weir_store_item_t items[] = {item_of(&a), item_of(&a), item_of(&a)};
    for (size_t i = 0; i < 3; ++i)
        take_slot(&items[i], S);
    store->settle(store, &items[0], 1, 2 * S);
    remoted_end(remoted, remoted_last(remoted), WEIR_REMOTE_LOST, NULL, 2 * S); /* that too */
    remoted->is_down = true;
    store->settle(store, &items[1], 1, 2 * S);
    tick(3 * S);
    tick(14 * S);
    assert_int_equal(remoted->count, 4);
    remoted->is_down = false;
    tick(15 * S);
    assert_int_equal(remoted->count, 7);
    assert_string_equal(remoted_of(remoted, 4)->args[6], MEMBER "0000000000000001");
    assert_string_equal(remoted_of(remoted, 5)->args[6], MEMBER "0000000000000002");
    assert_asked(remoted_of(remoted, 6), WEIR_SCRIPT_slots, KEY "a:c", "30000000 " MEMBER "0000000000000003");
    acknowledge_all(15 * S);
    remoted->is_down = true;
    tick(16 * S);
    remoted->is_down = false;
    tick(17 * S); /* it may have forgotten all */
    assert_int_equal(remoted->count, 8);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_slots, KEY "a:c", "30000000 " MEMBER "0000000000000003");
    store->settle(store, &items[2], 1, 17 * S);
    acknowledge_all(17 * S);
}

static void test_a_renewal_that_comes_late_brings_no_slot_back(void **state)
{
    limit_t a = acquire(slots("a", 5));
    weir_store_item_t items[] = {item_of(&a), item_of(&a)};
    for (size_t i = 0; i < 2; ++i)
        take_slot(&items[i], S);
    tick(11 * S); /* one renewal of both */
    store->settle(store, &items[0], 1, 11 * S);
    acknowledge(remoted_last(remoted), 11 * S); /* it was sent again, and comes after that */
    tick(11 * S + 1);
    assert_int_equal(remoted->count, 5);
    assert_string_equal(remoted_last(remoted)->args[6], MEMBER "0000000000000001");
    acknowledge(remoted_of(remoted, 2), 12 * S);
    acknowledge(remoted_last(remoted), 12 * S);
    tick(12 * S + 1);
    assert_int_equal(remoted->count, 6); /* for certain, now */
    acknowledge(remoted_last(remoted), 13 * S);
    store->settle(store, &items[1], 1, 13 * S);
    acknowledge(remoted_last(remoted), 13 * S);
    tick(14 * S);
    assert_int_equal(remoted->count, 7);
}

static void test_a_removal_is_forgotten_when_the_lease_is_over(void **state)
{
    limit_t a = acquire(slots("a", 5));
    weir_store_item_t one = item_of(&a);
    take_slot(&one, S);
    remoted->is_down = true;
    store->settle(store, &one, 1, 2 * S);
    remoted->is_down = false;
    tick(100 * S);
    assert_int_equal(remoted->count, 1);
}

static void test_what_was_lost_may_have_taken_slots(void **state)
{
    limit_t a = acquire(slots("a", 5)), b = acquire(bucket("b", 1, D, 5)), c = acquire(exact("c", 5, S));
    weir_store_item_t items[] = {item_of(&a), item_of(&b), item_of(&c)};
    decide_pending(items, 3, S);
    remoted_end(remoted, remoted_last(remoted), WEIR_REMOTE_LOST, NULL, S);
    assert_true(collect(items, 3, S));
    assert_int_equal(items[0].kept, WEIR_KEPT_MEMORY);
    assert_int_equal(remoted->count, 3);
    assert_string_equal(remoted_of(remoted, 1)->keys[0], KEY "a:c");
    assert_string_equal(words(remoted_of(remoted, 2)->keys, remoted_of(remoted, 2)->key_count), KEY "c:x1000000");
    store->settle(store, items, 3, S);
    assert_int_equal(left_in_memory(&a, &items[0], S), 5);
    assert_int_equal(remoted->count, 3);
    acknowledge_all(S);
}

static void test_many_removals_are_bounded(void **state)
{
    enum { MANY = 5000 };
    limit_t a = acquire(slots("a", MANY));
    weir_store_item_t *items = calloc(MANY, sizeof(*items));
    for (size_t i = 0; i < MANY; ++i) {
        items[i] = item_of(&a);
        take_slot(&items[i], S);
    }
    remoted->is_down = true;
    for (size_t i = 0; i < MANY; ++i)
        store->settle(store, &items[i], 1, S);
    remoted->is_down = false;
    size_t asked = remoted->count;
    tick(2 * S);
    assert_int_equal(remoted->count - asked, 4096);
    free(items);
}

/* A cluster */

static void test_in_a_cluster_one_key_after_the_other(void **state)
{
    limit_t limits[] = {acquire(bucket("a", 1, D, 5)), acquire(bucket("b", 1, D, 5)), acquire(slots("c", 5))};
    weir_store_item_t items[] = {item_of(&limits[0]), item_of(&limits[1]), item_of(&limits[2])};
    items[1].key = store->key(store, "abd", 3);
    remoted->remote.one_slot = true;
    decide_pending(items, 3, S);
    assert_int_equal(remoted->count, 1);
    assert_string_equal(words(remoted_last(remoted)->keys, remoted_last(remoted)->key_count), KEY "a:b " KEY "c:c");
    admit(remoted_last(remoted), S);
    assert_int_equal(woken, 0);
    assert_int_equal(remoted->count, 2);
    assert_int_equal(remoted_last(remoted)->key_count, 1);
    admit(remoted_last(remoted), S);
    assert_int_equal(woken, 1);
    assert_true(collect(items, 3, S));
    store->refund(store, items, 3, S);
    assert_int_equal(remoted->count, 5); /* each alone */
    acknowledge_all(S);
}

static void test_in_a_cluster_what_was_charged_before_a_refusal_is_given_back(void **state)
{
    limit_t limits[] = {acquire(bucket("a", 1, D, 5)), acquire(bucket("b", 1, D, 5)), acquire(bucket("c", 1, D, 5))};
    weir_store_item_t items[] = {item_of(&limits[0]), item_of(&limits[1]), item_of(&limits[2])};
    items[1].key = store->key(store, "abd", 3);
    items[2].key = store->key(store, "abe", 3);
    remoted->remote.one_slot = true;
    decide_pending(items, 3, S);
    admit(remoted_last(remoted), S);
    refuse(remoted_last(remoted), S);
    assert_int_equal(woken, 1);
    assert_asked(remoted_last(remoted), WEIR_SCRIPT_settle, KEY "a:b", "b 1 1700000000000000 1 86400000000 5 0");
    assert_false(collect(items, 3, S));
    assert_true(items[0].admitted && !items[1].admitted && items[2].admitted);
    assert_int_equal(items[0].remaining, 6); /* what was told is at most its size */
    assert_int_equal(items[0].charged_ns, -1);
    assert_int_equal(items[2].remaining, 5);
    /* it goes down in between */
    decide_pending(items, 3, S);
    remoted->is_down = true;
    admit(remoted_last(remoted), S);
    assert_int_equal(woken, 2);
    assert_true(collect(items, 3, S));
    assert_int_equal(items[0].kept, WEIR_KEPT_MEMORY);
    remoted->is_down = false;
    /* and it is too late in between */
    for (size_t i = 0; i < 3; ++i)
        items[i].quota = &limits[i].conf.quota;
    decide_pending(items, 3, S);
    size_t asked = remoted->count;
    assert_true(collect(items, 3, S + TIMEOUT));
    admit(remoted_last(remoted), 2 * S);
    assert_int_equal(remoted->count, asked + 1);
    assert_int_equal(remoted_last(remoted)->script, WEIR_SCRIPT_settle);
}

/* Whatever happens: at the end nothing is charged, here or there */

enum { BOOK_KEYS = 16, BOOK_MEMBERS = 4096, LIVE = 40, BUCKET = 0 };

typedef struct {
    char *name;
    int64_t used, members[BOOK_MEMBERS];
} booked_t;

static booked_t book[BOOK_KEYS];

static booked_t *booked(const char *name)
{
    booked_t *one = book;
    while (one->name != NULL && strcmp(one->name, name) != 0)
        assert_true(++one < book + BOOK_KEYS);
    if (one->name == NULL)
        one->name = strdup(name);
    return one;
}

static int64_t *booked_member(booked_t *key, const char *member)
{
    unsigned long long id = strtoull(member + strlen(MEMBER), NULL, 16);
    assert_true(id < BOOK_MEMBERS);
    return &key->members[id];
}

/* What Redis does with it. */
static void book_decision(const remoted_ask_t *ask)
{
    for (size_t i = 0; i < ask->key_count; ++i) {
        char *const *words = &ask->args[1 + 7 * i];
        booked_t *key = booked(ask->keys[i]);
        key->used += atoll(words[1]);
        if (words[0][0] == 'c' || words[0][0] == 'x')
            *booked_member(key, words[6]) += atoll(words[1]);
    }
}

/* A member that is not there is not removed. */
static void book_settlement(const remoted_ask_t *ask)
{
    for (size_t i = 0; i < ask->key_count; ++i) {
        char *const *words = &ask->args[7 * i];
        booked_t *key = booked(ask->keys[i]);
        int64_t given = atoll(words[1]);
        if (words[0][0] == 'c' || words[0][0] == 'x') {
            int64_t *member = booked_member(key, words[6]);
            given = *member;
            *member = 0;
        }
        key->used -= given;
    }
}

/* Lost are those that ran only where nothing but members was charged: the rest would stay so, as it has to. */
static bool has_members_alone(const remoted_ask_t *ask)
{
    for (size_t i = 0; i < ask->key_count; ++i)
        if (ask->args[1 + 7 * i][0] != 'c' && ask->args[1 + 7 * i][0] != 'x')
            return false;
    return true;
}

static void answer_any(seeded_t *seeded, int64_t now_ns)
{
    remoted_ask_t *open[REMOTED_ASKS_MAX];
    size_t count = 0;
    for (size_t i = remoted->count > REMOTED_ASKS_MAX ? remoted->count - REMOTED_ASKS_MAX : 0; i < remoted->count; ++i)
        if (remoted_of(remoted, i)->is_open)
            open[count++] = remoted_of(remoted, i);
    if (count == 0)
        return;
    remoted_ask_t *ask = open[seeded_below(seeded, count)];
    uint64_t chance = seeded_below(seeded, 10);
    if (ask->script == WEIR_SCRIPT_settle) {
        book_settlement(ask);
        acknowledge(ask, now_ns);
    } else if (ask->script != WEIR_SCRIPT_decide) {
        acknowledge(ask, now_ns);
    } else if (chance == 0) {
        remoted_end(remoted, ask, WEIR_REMOTE_REFUSED, NULL, now_ns);
    } else if (chance == 1) {
        if (has_members_alone(ask))
            book_decision(ask);
        remoted_end(remoted, ask, WEIR_REMOTE_LOST, NULL, now_ns);
    } else if (chance < 4) {
        refuse(ask, now_ns);
    } else {
        book_decision(ask);
        admit(ask, now_ns);
    }
}

typedef struct {
    weir_store_item_t items[4];
    size_t count;
    enum { IDLE, PENDING, CHARGED } phase;
} live_t;

static void next_step(seeded_t *seeded, live_t *live, const limit_t *limits, int64_t now_ns)
{
    weir_store_answer_t answer;
    bool admitted;
    uint64_t first, chance = seeded_below(seeded, 8);
    switch (live->phase) {
    case IDLE:
        first = seeded_below(seeded, 4);
        live->count = 1 + seeded_below(seeded, 4);
        for (size_t i = 0; i < live->count; ++i) {
            size_t limit = (first + i) % 4; /* each once */
            live->items[i] = item(limits[limit].limit, &limits[limit].conf, key(store, seeded_below(seeded, 3)));
        }
        remoted->is_down = chance == 0;
        answer = decide_at(live->items, live->count, now_ns, &admitted);
        remoted->is_down = false;
        break;
    case PENDING:
        if (chance == 0) {
            store->abandon(store, live->items, live->count, now_ns);
            live->phase = IDLE;
            return;
        }
        answer = store->collect(store, live->items, live->count, now_ns, ticket, &admitted);
        break;
    default:
        store->refund(store, live->items, live->count, now_ns);
        live->phase = IDLE;
        return;
    }
    live->phase = answer == WEIR_STORE_PENDING ? PENDING : answer == WEIR_STORE_DECIDED && admitted ? CHARGED : IDLE;
}

static void assert_all_is_back(const limit_t *limits, int64_t now_ns)
{
    for (size_t i = 0; i < BOOK_KEYS && book[i].name != NULL; ++i) {
        if (book[i].used != 0)
            fail_msg("%s: %lld stay charged", book[i].name, (long long)book[i].used);
        free(book[i].name);
    }
    memset(book, 0, sizeof(book));
    for (size_t i = 0; i < 4; ++i)
        for (uint64_t j = 0; j < 3; ++j) {
            weir_store_item_t kept = {.key = key(store, j)};
            int64_t quota = weir_store_quota_size(&limits[i].conf.quota),
                    left = left_in_memory(&limits[i], &kept, now_ns);
            assert_in_range(left, i == BUCKET ? quota - 1 : quota,
                            quota); /* a bucket keeps what it could have earned */
        }
}

static void run_randomly(seeded_t *seeded, bool one_slot)
{
    set_up(NULL);
    remoted->remote.one_slot = one_slot;
    atomic_store(&remoted->remote.sidecars, 3);
    limit_t limits[] = {acquire(bucket("a", 1, D, 9)), acquire(slots("b", 9)), acquire(exact("c", 9, D)),
                        acquire(local(window("d", 9, D)))};
    live_t lives[LIVE] = {0};
    int64_t now_ns = S;
    for (int step = 0; step < 3000; ++step) {
        now_ns += (int64_t)seeded_below(seeded, 1000000);
        next_step(seeded, &lives[seeded_below(seeded, LIVE)], limits, now_ns);
        if (seeded_below(seeded, 2) == 0)
            answer_any(seeded, now_ns);
        if (step % 50 == 0)
            tick(now_ns);
    }
    now_ns += S;
    for (int left = 0; left < 5; ++left)
        for (size_t i = 0; i < LIVE; ++i)
            if (lives[i].phase != IDLE)
                next_step(seeded, &lives[i], limits, now_ns);
    while (remoted_open(remoted) != 0)
        answer_any(seeded, now_ns);
    assert_all_is_back(limits, now_ns);
    tear_down(NULL);
}

static void test_whatever_happens_nothing_stays_charged(void **state)
{
    seeded_t seeded = seeded_start("redis_store");
    for (int run = 0; run < 20; ++run)
        run_randomly(&seeded, run % 2 == 1);
}

/* Two workers */

enum { THREAD_ASKS = 20000, THREAD_OPEN_MAX = 16 };

static __thread struct {
    size_t worker, count;
    weir_remote_ask_t asks[THREAD_OPEN_MAX];
} own;

static bool thread_is_up(weir_remote_t *remote)
{
    return true;
}

static bool thread_ask(weir_remote_t *remote, const weir_remote_ask_t *ask)
{
    assert_true(own.count < THREAD_OPEN_MAX);
    own.asks[own.count++] = *ask;
    return true;
}

static void thread_wake(weir_remote_t *remote, weir_ticket_t ticket)
{
}

static size_t thread_worker(weir_remote_t *remote)
{
    return own.worker;
}

static void thread_answer(const weir_remote_ask_t *ask)
{
    weir_remote_value_t numbers[] = {remoted_integer(1), remoted_integer(US), remoted_integer(1),
                                     remoted_integer(7), remoted_integer(0),  remoted_integer(0)};
    weir_remote_value_t list = {.kind = WEIR_REMOTE_LIST, .entries = numbers, .size = 6};
    if (ask->on_end != NULL)
        ask->on_end(ask->context, WEIR_REMOTE_ANSWERED, &list, S);
}

static weir_store_t *shared_store;
static limit_t shared_limits[2];
static weir_remote_t *shared_remote;

static void *work(void *worker)
{
    own.worker = (size_t)(uintptr_t)worker;
    own.count = 0;
    for (uint64_t i = 0; i < THREAD_ASKS; ++i) {
        const limit_t *limit = &shared_limits[i % 2];
        weir_store_item_t one = item(limit->limit, &limit->conf, key(shared_store, i % 7));
        bool admitted;
        int64_t late_ns = i % 3 == 0 ? TIMEOUT : 0;
        weir_store_answer_t answer = shared_store->decide(shared_store, &one, 1, S, ticket, &admitted);
        if (late_ns == 0)
            while (own.count != 0)
                thread_answer(&own.asks[--own.count]);
        if (answer == WEIR_STORE_PENDING)
            shared_store->collect(shared_store, &one, 1, S + late_ns, ticket, &admitted);
        if (admitted)
            shared_store->settle(shared_store, &one, 1, S);
        while (own.count != 0)
            thread_answer(&own.asks[--own.count]);
        if (i % 100 == 0)
            shared_remote->on_tick(shared_remote->tick_context, own.worker, S + (int64_t)i);
    }
    return NULL;
}

static void test_two_workers(void **state)
{
    weir_remote_t remote = {.is_up = thread_is_up,
                            .ask = thread_ask,
                            .wake = thread_wake,
                            .worker = thread_worker,
                            .workers = 3,
                            .sidecar = SIDECAR,
                            .sidecars = 2};
    pthread_t threads[2];
    weir_store_t *kept = store;
    store = shared_store = create_redis_store(&remote);
    shared_remote = &remote;
    shared_limits[0] = acquire(slots("a", 5));
    shared_limits[1] = acquire(bucket("b", 1000, S, 1000));
    for (uintptr_t i = 0; i < 2; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    for (size_t i = 0; i < 2; ++i)
        pthread_join(threads[i], NULL);
    shared_store->destroy(shared_store);
    store = kept;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_keys_are_those_of_every_sidecar),
        TEST(test_one_message_for_all_kinds),
        TEST(test_an_answer_is_told_as_memory_tells_it),
        TEST(test_never_and_nobody_knows),
        TEST(test_memory_is_asked_first_and_gets_back),
        TEST(test_who_waits_in_a_queue_asks_when_he_has_his_slot),
        TEST(test_what_needs_not_be_asked),
        TEST(test_peek_and_reset),
        TEST(test_settling),
        TEST(test_abandoned),
        TEST(test_too_late_is_decided_here_and_given_back_there),
        TEST(test_refused_lost_and_garbage),
        TEST(test_each_by_its_on_failure),
        TEST(test_a_failed_answer_with_a_closed_limit_is_down),
        TEST(test_of_nothing_nothing_fits),
        TEST(test_reservations_are_no_larger_than_the_share),
        TEST(test_one_draw_lasts_for_an_outage),
        TEST(test_another_on_failure_is_another_handle),
        TEST(test_slots_are_renewed_until_they_end),
        TEST(test_a_renewal_that_comes_late_brings_no_slot_back),
        TEST(test_slots_that_ended_while_it_was_down_are_removed_later),
        TEST(test_a_removal_is_forgotten_when_the_lease_is_over),
        TEST(test_what_was_lost_may_have_taken_slots),
        TEST(test_many_removals_are_bounded),
        TEST(test_in_a_cluster_one_key_after_the_other),
        TEST(test_in_a_cluster_what_was_charged_before_a_refusal_is_given_back),
        cmocka_unit_test(test_whatever_happens_nothing_stays_charged),
        TEST(test_two_workers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
