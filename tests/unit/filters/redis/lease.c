/* Slices that are taken ahead: when they are asked for, what is decided by them, and that no unit of them is spent twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../../seeded.h"
#include "../../../../filters/redis/redis_lease.h"
#include "remoted.h"

#define S INT64_C(1000000000)
#define MS INT64_C(1000000)
#define STR(text) ((weir_str_t){text, sizeof(text) - 1})

/* Numbers of arguments. */
enum { KIND, ID, WANT, BACK, P1, P2, P3, HOLD_US, KEEP, ENDS_US, ARGS };

static weir_store_limit_t bucket = {.name = "b", .algorithm = WEIR_LIMIT_TOKEN_BUCKET},
                          window = {.name = "w", .algorithm = WEIR_LIMIT_SLIDING_WINDOW, .precision = WEIR_PRECISION_SLOTS},
                          exact = {.name = "x", .algorithm = WEIR_LIMIT_SLIDING_WINDOW, .precision = WEIR_PRECISION_EXACT},
                          slots = {.name = "c", .algorithm = WEIR_LIMIT_CONCURRENCY};
static const weir_conf_quota_t of_bucket = {.rate = {.count = 50, .period_ns = S}, .burst = 100},
                               of_window = {.limit = 200, .window_ns = 60 * S}, of_slots = {.limit = 10};

static remoted_t *remote;
static weir_redis_leases_t *leases;
static int64_t now_ns;

static void on_wake(weir_ticket_t ticket)
{
    fail();
}

static int set_up(void **state)
{
    weir_conf_store_redis_t conf = {.sync = WEIR_SYNC_LEASE, .lease_ppm = 100000, .timeout_ns = 20 * MS};
    remote = remoted_create(0xab, on_wake);
    leases = weir_redis_leases_create(&conf, &remote->remote, STR("p:"));
    now_ns = 1000 * S;
    return 0;
}

static int tear_down(void **state)
{
    weir_redis_leases_destroy(leases);
    remoted_destroy(remote);
    return 0;
}

static weir_store_item_t item_of(weir_store_limit_t *limit, const weir_conf_quota_t *quota, int64_t cost)
{
    return (weir_store_item_t){.limit = limit, .quota = quota, .key = {7, 9}, .cost = cost};
}

static bool take_items(weir_store_item_t *items, unsigned wanted)
{
    unsigned wanting;
    bool is_taken = weir_redis_leases_take(leases, items, wanted, now_ns, &wanting);
    weir_redis_leases_renew(leases, items, wanting, now_ns);
    return is_taken;
}

static bool take(weir_store_item_t *item)
{
    return take_items(item, 1);
}

static bool take_one(weir_store_limit_t *limit, const weir_conf_quota_t *quota)
{
    weir_store_item_t item = item_of(limit, quota, 1);
    return take(&item);
}

static size_t take_all(void)
{
    size_t taken = 0;
    while (take_one(&bucket, &of_bucket))
        ++taken;
    return taken;
}

static remoted_ask_t *last_ask(size_t count)
{
    assert_int_equal(remote->count, count);
    assert_int_equal(remoted_last(remote)->script, WEIR_SCRIPT_lease);
    return remoted_last(remote);
}

static void check_ask(size_t count, int64_t want, int64_t back, int64_t keep, int64_t ends_us)
{
    remoted_ask_t *ask = last_ask(count);
    assert_int_equal(ask->arg_count, ARGS);
    assert_int_equal(atoll(ask->args[WANT]), want);
    assert_int_equal(atoll(ask->args[BACK]), back);
    assert_int_equal(atoll(ask->args[KEEP]), keep);
    assert_int_equal(atoll(ask->args[ENDS_US]), ends_us);
}

/* granted, now_us, remaining, reset_us, retry_us, ends_us */
static void answer(const int64_t numbers[6])
{
    weir_remote_value_t entries[6];
    for (size_t i = 0; i < 6; ++i)
        entries[i] = remoted_integer(numbers[i]);
    remoted_end(remote, remoted_last(remote), WEIR_REMOTE_ANSWERED,
                &(weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = entries, .size = 6}, now_ns);
}

static void grant(int64_t granted, int64_t at_us)
{
    answer((int64_t[]){granted, at_us, 55, 700000, 0, at_us + 2000000});
}

/* A slice of the bucket, with so much in it. */
static void get_slice(int64_t units)
{
    assert_false(take_one(&bucket, &of_bucket));
    assert_false(take_one(&bucket, &of_bucket));
    last_ask(1);
    grant(units, 5000000);
}

static void test_strict_has_none(void **state)
{
    weir_conf_store_redis_t conf = {.sync = WEIR_SYNC_STRICT, .lease_ppm = 100000, .timeout_ns = 20 * MS};
    weir_store_item_t item = item_of(&bucket, &of_bucket, 1);
    assert_null(weir_redis_leases_create(&conf, &remote->remote, STR("p:")));
    unsigned wanting;
    assert_false(weir_redis_leases_take(NULL, &item, 1, now_ns, &wanting));
    assert_int_equal(wanting, 0);
    weir_redis_leases_renew(NULL, &item, wanting, now_ns);
    assert_false(weir_redis_leases_put_back(NULL, &item, 1, now_ns));
    weir_redis_leases_tick(NULL, 0, now_ns);
    weir_redis_leases_destroy(NULL);
}

static void test_a_key_gets_a_slice_when_it_comes_again_within_a_second(void **state)
{
    assert_false(take_one(&bucket, &of_bucket));
    now_ns += S;
    assert_false(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 0);
    now_ns += S - 1;
    assert_false(take_one(&bucket, &of_bucket));
    check_ask(1, 10, 0, 0, 0);
    remoted_ask_t *ask = remoted_last(remote);
    assert_int_equal(ask->key_count, 1);
    assert_string_equal(ask->keys[0], "p:{00000000000000090000000000000007}:l:b:b");
    assert_string_equal(ask->args[KIND], "b");
    assert_string_equal(ask->args[P1], "50");
    assert_string_equal(ask->args[P2], "1000000");
    assert_string_equal(ask->args[P3], "100");
    assert_string_equal(ask->args[HOLD_US], "2000000");
    assert_false(take_one(&bucket, &of_bucket)); /* one ask at a time */
    assert_int_equal(remote->count, 1);
    grant(10, 5000000);
    assert_true(take_one(&bucket, &of_bucket));
}

static void test_what_is_answered(void **state)
{
    weir_store_item_t item = item_of(&bucket, &of_bucket, 3);
    get_slice(10);
    now_ns += 100 * MS;
    assert_true(take(&item));
    assert_true(item.leased && item.admitted);
    assert_int_equal(item.kept, WEIR_KEPT_REMOTE);
    assert_int_equal(item.charged_ns, 5000000000);
    assert_int_equal(item.remaining, 7 + 55);
    assert_int_equal(item.reset_ns, 600 * MS);
    assert_int_equal(item.retry_after_ns, 0);
    now_ns += S / 2;
    assert_true(take(&item));
    assert_int_equal(item.reset_ns, 100 * MS);
    item.cost = 5; /* more than is left */
    assert_false(take(&item));
}

static void test_a_window_is_charged_where_its_slice_ends(void **state)
{
    weir_store_item_t item = item_of(&window, &of_window, 1);
    assert_false(take(&item));
    assert_false(take(&item));
    remoted_ask_t *ask = last_ask(1);
    assert_string_equal(ask->args[KIND], "s");
    assert_string_equal(ask->args[WANT], "20");
    assert_string_equal(ask->args[P1], "200");
    assert_string_equal(ask->args[P2], "60000000");
    assert_string_equal(ask->keys[0], "p:{00000000000000090000000000000007}:l:w:s60000000");
    grant(20, 5000000);
    assert_true(take(&item));
    assert_int_equal(item.charged_ns, 7000000000);
}

static void test_it_is_renewed_when_half_is_gone(void **state)
{
    get_slice(10);
    for (int i = 0; i != 5; ++i)
        assert_true(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 1);
    assert_true(take_one(&bucket, &of_bucket));
    check_ask(2, 6, 0, 4, 7000000);
    char id[40];
    strcpy(id, remoted_last(remote)->args[ID]);
    assert_true(take_one(&bucket, &of_bucket)); /* meanwhile */
    now_ns += 10 * MS;
    grant(10, 6000000);
    assert_int_equal(take_all(), 9);
    assert_string_equal(remoted_last(remote)->args[ID], id); /* it is the same slice's */
}

static void test_it_is_renewed_when_half_of_its_time_is_over(void **state)
{
    get_slice(10);
    for (int i = 0; i != 3; ++i, now_ns += S / 2)
        assert_true(take_one(&bucket, &of_bucket));
    check_ask(2, 3, 0, 7, 7000000);
    grant(10, 6500000);
    now_ns += S / 2; /* the first slice is over */
    assert_true(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 2);
}

static void test_less_than_was_wanted(void **state)
{
    get_slice(10);
    for (int i = 0; i != 6; ++i)
        assert_true(take_one(&bucket, &of_bucket));
    assert_true(take_one(&bucket, &of_bucket));
    answer((int64_t[]){2, 1, 0, 1, 1, 2}); /* of the 4 that were to be kept Redis has 2, and one was spent since */
    assert_int_equal(take_all(), 1);
    now_ns += MS;
    assert_false(take_one(&bucket, &of_bucket));
    answer((int64_t[]){-3, 1, -9, -1, 0, 2});
    assert_false(take_one(&bucket, &of_bucket));
}

static void test_it_ends_by_itself(void **state)
{
    get_slice(10);
    int64_t asked_ns = now_ns;
    now_ns = asked_ns + 2 * S - 1;
    assert_true(take_one(&bucket, &of_bucket)); /* asks for more: used a second ago or less is what counts */
    now_ns = asked_ns + 2 * S;
    assert_false(take_one(&bucket, &of_bucket));
}

/* Counted from when it was asked for, however late the answer is. */
static void test_a_late_answer_is_no_longer(void **state)
{
    assert_false(take_one(&bucket, &of_bucket));
    assert_false(take_one(&bucket, &of_bucket));
    int64_t asked_ns = now_ns;
    now_ns = asked_ns + 2 * S - 1;
    grant(10, 5000000);
    assert_true(take_one(&bucket, &of_bucket));
    now_ns = asked_ns + 2 * S;
    assert_false(take_one(&bucket, &of_bucket));
}

static void test_what_is_idle_goes_back(void **state)
{
    get_slice(10);
    assert_true(take_one(&bucket, &of_bucket));
    now_ns += S - 1;
    for (size_t worker = 0; worker != 3; ++worker)
        weir_redis_leases_tick(leases, worker, now_ns);
    assert_int_equal(remote->count, 1);
    now_ns += 1;
    for (size_t worker = 0; worker != 3; ++worker)
        weir_redis_leases_tick(leases, worker, now_ns);
    check_ask(2, 0, 9, 0, 7000000);
    assert_null(remoted_last(remote)->on_end);
    assert_false(take_one(&bucket, &of_bucket));
    now_ns += 5 * S;
    for (size_t worker = 0; worker != 3; ++worker)
        weir_redis_leases_tick(leases, worker, now_ns); /* there is nothing more */
    assert_int_equal(remote->count, 2);
}

static void test_what_is_being_asked_for_is_not_forgotten(void **state)
{
    assert_false(take_one(&bucket, &of_bucket));
    assert_false(take_one(&bucket, &of_bucket));
    now_ns += 1500 * MS;
    for (size_t worker = 0; worker != 3; ++worker)
        weir_redis_leases_tick(leases, worker, now_ns);
    grant(10, 5000000);
    assert_true(take_one(&bucket, &of_bucket));
}

static void test_nobody_knows_whether_it_was_taken(void **state)
{
    get_slice(10);
    for (int i = 0; i != 6; ++i)
        assert_true(take_one(&bucket, &of_bucket));
    char id[40];
    strcpy(id, last_ask(2)->args[ID]);
    remoted_end(remote, remoted_last(remote), WEIR_REMOTE_LOST, NULL, now_ns);
    assert_false(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 2);
    now_ns += 100 * MS;
    assert_false(take_one(&bucket, &of_bucket));
    check_ask(3, 10, 0, 0, 0);
    assert_string_not_equal(remoted_last(remote)->args[ID], id);
    remoted_end(remote, remoted_last(remote), WEIR_REMOTE_ANSWERED, &(weir_remote_value_t){.kind = WEIR_REMOTE_NIL}, now_ns);
    now_ns += 100 * MS;
    assert_false(take_one(&bucket, &of_bucket));
    check_ask(4, 10, 0, 0, 0);
}

static void test_an_error_changes_nothing(void **state)
{
    get_slice(10);
    for (int i = 0; i != 6; ++i)
        assert_true(take_one(&bucket, &of_bucket));
    remoted_end(remote, remoted_last(remote), WEIR_REMOTE_REFUSED, NULL, now_ns);
    assert_true(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 2);
    now_ns += 100 * MS;
    assert_true(take_one(&bucket, &of_bucket));
    check_ask(3, 8, 0, 2, 7000000);
}

static void test_without_redis_a_slice_is_used_up(void **state)
{
    get_slice(10);
    remote->is_down = true;
    assert_int_equal(take_all(), 10);
    assert_int_equal(remote->count, 1);
    remote->is_down = false;
    assert_false(take_one(&bucket, &of_bucket)); /* it is asked a little later */
    assert_int_equal(remote->count, 1);
    now_ns += 100 * MS;
    assert_false(take_one(&bucket, &of_bucket));
    check_ask(2, 10, 0, 0, 7000000);
}

static void test_where_nothing_is_to_be_had_it_is_asked_seldom(void **state)
{
    get_slice(0);
    assert_false(take_one(&bucket, &of_bucket));
    answer((int64_t[]){0, 1, 0, 5000000, 20000, 3});
    for (int i = 0; i != 20; ++i, now_ns += MS)
        assert_false(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 2);
    assert_false(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 3);
    answer((int64_t[]){0, 1, 0, 5000000, INT64_C(1) << 53, 3});
    for (int i = 0; i != 10; ++i, now_ns += 100 * MS)
        assert_false(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 3);
    assert_false(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 4);
}

static void test_what_no_script_says_is_no_slice(void **state)
{
    static const int64_t odd[][6] = {{0, INT64_MAX, 0, 0, 0, 3}, {5, 1, INT64_MAX, 0, 0, 3}, {INT64_MIN, 1, 0, 0, 0, 3}};
    get_slice(0);
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); ++i, now_ns += 100 * MS) {
        assert_false(take_one(&bucket, &of_bucket));
        last_ask(i + 2);
        answer(odd[i]);
    }
    assert_false(take_one(&bucket, &of_bucket));
    answer((int64_t[]){INT64_C(1) << 53, 1, INT64_C(1) << 53, 0, 0, 3}); /* more than was asked for */
    assert_int_equal(take_all(), 10);
}

static void test_what_is_not_spent_goes_back_to_its_slice(void **state)
{
    weir_store_item_t item = item_of(&bucket, &of_bucket, 4), strict = item_of(&bucket, &of_bucket, 1);
    get_slice(10);
    assert_false(weir_redis_leases_put_back(leases, &strict, 1, now_ns));
    assert_true(take(&item));
    assert_true(weir_redis_leases_put_back(leases, &item, 4, now_ns));
    assert_true(take(&item));
    assert_true(weir_redis_leases_put_back(leases, &item, 1, now_ns)); /* 7 */
    assert_true(weir_redis_leases_put_back(leases, &item, -2, now_ns)); /* 5: it was more than was reserved */
    assert_false(weir_redis_leases_put_back(leases, &item, -6, now_ns)); /* more than there is */
    assert_true(take_one(&bucket, &of_bucket));
    check_ask(2, 6, 0, 4, 7000000);
    assert_false(weir_redis_leases_put_back(leases, &item, 1, now_ns)); /* Redis was told that it is used */
    assert_true(weir_redis_leases_put_back(leases, &item, -1, now_ns));
    grant(10, 6000000);
    assert_int_equal(take_all(), 9);
}

static void test_what_is_not_spent_of_a_slice_that_is_over(void **state)
{
    weir_store_item_t item = item_of(&bucket, &of_bucket, 4);
    get_slice(10);
    assert_true(take(&item));
    now_ns += 2 * S;
    assert_false(weir_redis_leases_put_back(leases, &item, 4, now_ns));
    assert_false(weir_redis_leases_put_back(leases, &item, -1, now_ns));
    for (size_t worker = 0; worker != 3; ++worker)
        weir_redis_leases_tick(leases, worker, now_ns);
    assert_false(weir_redis_leases_put_back(leases, &item, 4, now_ns));
}

static void test_all_or_nothing(void **state)
{
    weir_store_item_t items[] = {item_of(&bucket, &of_bucket, 1), item_of(&slots, &of_slots, 1), item_of(&window, &of_window, 1),
                                 item_of(&exact, &of_window, 1)};
    assert_false(take_items(items, 5));
    assert_false(take_items(items, 5));
    assert_int_equal(remote->count, 2);
    remoted_end(remote, remoted_last(remote), WEIR_REMOTE_LOST, NULL, now_ns);
    --remote->count; /* the bucket's */
    grant(10, 5000000);
    ++remote->count;
    for (int i = 0; i != 30; ++i) { /* the window has none: nothing is taken of the bucket */
        assert_false(take_items(items, 5));
        assert_int_equal(items[0].kept, WEIR_KEPT_NOWHERE);
        assert_int_equal(items[0].charged_ns, -1);
        assert_false(items[0].leased);
    }
    assert_int_equal(remote->count, 2);
    now_ns += 100 * MS;
    assert_false(take_items(items, 5));
    grant(20, 5000000);
    assert_true(take_items(items, 5));
    assert_true(items[0].leased && items[2].leased);
    assert_int_equal(items[0].remaining, 9 + 55);
    assert_int_equal(items[2].remaining, 19 + 55);
    assert_false(take_items(items, 7)); /* slots and exact windows are asked for each time */
    assert_false(take_items(items, 13));
    assert_false(take_items(items, 8));
}

/* Neither here nor there is enough of it: what is here is given back, before Redis is asked for this one, and for a second the key
 * has none. */
static void test_a_rest_that_is_too_small_goes_back(void **state)
{
    weir_store_item_t item = item_of(&bucket, &of_bucket, 8);
    get_slice(10);
    for (int i = 0; i != 2; ++i)
        assert_true(take_one(&bucket, &of_bucket));
    assert_true(take(&item));
    item = item_of(&bucket, &of_bucket, 3);
    assert_false(take(&item));
    check_ask(2, 10, 0, 0, 7000000);
    answer((int64_t[]){5, 6000000, 4, 700000, 0, 8000000}); /* 4 more are there: enough */
    item.cost = 4;
    unsigned wanting;
    assert_true(weir_redis_leases_take(leases, &item, 1, now_ns, &wanting));
    item = item_of(&bucket, &of_bucket, 3);
    assert_false(weir_redis_leases_take(leases, &item, 1, now_ns, &wanting));
    assert_int_equal(remote->count, 2);
    item.cost = 5;
    assert_false(weir_redis_leases_take(leases, &item, 1, now_ns, &wanting));
    check_ask(3, 0, 1, 0, 8000000);
    assert_int_equal(wanting, 0);
    char given[64];
    snprintf(given, sizeof(given), "%s", remoted_last(remote)->args[ID]);
    for (int i = 0; i != 9; ++i, now_ns += 100 * MS) {
        assert_false(take_one(&bucket, &of_bucket));
        assert_int_equal(remote->count, 3);
    }
    now_ns += 100 * MS;
    assert_false(take_one(&bucket, &of_bucket));
    check_ask(4, 10, 0, 0, 0);
    assert_string_not_equal(remoted_last(remote)->args[ID], given); /* nobody takes the one for the other */
}

/* What was taken of it for a request that is not admitted after all is of the slice again. */
static void test_a_rest_after_a_charge_stays(void **state)
{
    get_slice(9);
    weir_store_item_t item = item_of(&bucket, &of_bucket, 5);
    assert_true(take(&item)); /* 4 */
    check_ask(2, 6, 0, 4, 7000000);
    answer((int64_t[]){9, 6000000, 2, 700000, 0, 8000000}); /* 2 more are there */
    weir_store_item_t items[] = {item_of(&bucket, &of_bucket, 5), item_of(&window, &of_window, 1)};
    size_t count = remote->count;
    assert_false(take_items(items, 3)); /* the window has none */
    for (size_t i = count; i < remote->count; ++i)
        assert_string_equal(remote->asks[i % REMOTED_ASKS_MAX].args[BACK], "0");
    item = item_of(&bucket, &of_bucket, 9);
    unsigned wanting;
    assert_true(weir_redis_leases_take(leases, &item, 1, now_ns, &wanting));
}

static void test_quotas_have_slices_of_their_own(void **state)
{
    weir_conf_quota_t smaller = of_bucket;
    smaller.burst = 50;
    get_slice(10);
    weir_store_item_t other = item_of(&bucket, &of_bucket, 1);
    other.key.high = 10;
    assert_false(take_one(&bucket, &smaller));
    assert_false(take(&other));
    weir_store_limit_t renamed = bucket;
    renamed.name = "b2";
    assert_false(take_one(&renamed, &of_bucket));
    renamed.name = (char[]){'b', '\0'}; /* the same limit, of another configuration */
    assert_true(take_one(&renamed, &of_bucket));
    assert_false(take_one(&bucket, &smaller));
    check_ask(2, 5, 0, 0, 0);
}

static void test_how_large_it_is(void **state)
{
    static const struct {
        int64_t quota;
        uint32_t sidecars;
        int64_t size;
    } cases[] = {{100, 1, 10}, {100, 5, 10}, {100, 6, 8}, {100, 50, 1}, {100, 1000, 1}, {1, 1, 1}, {9, 1, 1}, {25, 1, 2}, {1000000000, 1, 100000000}};
    for (size_t i = 0; i != sizeof(cases) / sizeof(*cases); ++i) {
        weir_conf_quota_t quota = of_window;
        quota.limit = cases[i].quota;
        weir_store_item_t item = item_of(&window, &quota, 1);
        item.key.high = i;
        remote->remote.sidecars = cases[i].sidecars;
        assert_false(take(&item));
        assert_false(take(&item));
        check_ask(i + 1, cases[i].size, 0, 0, 0);
    }
}

static void test_who_needs_more_than_a_slice_asks(void **state)
{
    weir_store_item_t item = item_of(&bucket, &of_bucket, 11);
    for (int i = 0; i != 5; ++i)
        assert_false(take(&item));
    assert_int_equal(remote->count, 0);
}

static void test_so_many_keys_and_no_more(void **state)
{
    for (uint64_t key = 0; key != 2 * WEIR_REDIS_LEASE_ROWS_MAX; ++key) {
        weir_store_item_t item = item_of(&bucket, &of_bucket, 1);
        item.key = (weir_store_key_t){.low = key, .high = key / 64};
        assert_false(take(&item));
    }
    assert_false(take_one(&bucket, &of_bucket));
    assert_false(take_one(&bucket, &of_bucket));
    assert_int_equal(remote->count, 0);
    now_ns += S;
    for (size_t worker = 0; worker != 3; ++worker)
        weir_redis_leases_tick(leases, worker, now_ns);
    get_slice(10);
    assert_true(take_one(&bucket, &of_bucket));
}

/* A Redis that knows of each slice by its name; it may have run what nobody hears of. */
typedef struct {
    char id[40];
    int64_t units;
    int64_t given, taken_back; /* of all slices */
} model_t;

static void run(model_t *model, remoted_ask_t *ask, seeded_t *random)
{
    int64_t keep = atoll(ask->args[KEEP]), back = atoll(ask->args[BACK]), want = atoll(ask->args[WANT]);
    if (strcmp(ask->args[ID], model->id) != 0)
        model->units = 0; /* which it ends by itself */
    strcpy(model->id, ask->args[ID]);
    assert_true(keep + back <= model->units || model->units == 0);
    int64_t kept = keep < model->units ? keep : model->units, fresh = (int64_t)seeded_below(random, (uint64_t)want + 1);
    model->taken_back += back + (keep - kept);
    model->given += fresh;
    model->units = kept + fresh;
}

static void end_ask(model_t *model, remoted_ask_t *ask, seeded_t *random)
{
    uint64_t how = seeded_below(random, 16);
    if (how != 0)
        run(model, ask, random);
    if (how < 2) {
        remoted_end(remote, ask, how == 0 ? WEIR_REMOTE_REFUSED : WEIR_REMOTE_LOST, NULL, now_ns);
        return;
    }
    weir_remote_value_t entries[6] = {remoted_integer(model->units), remoted_integer(now_ns / 1000), remoted_integer(0),
                                      remoted_integer(0), remoted_integer(0), remoted_integer(now_ns / 1000 + 2000000)};
    remoted_end(remote, ask, WEIR_REMOTE_ANSWERED, &(weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = entries, .size = 6}, now_ns);
}

static int64_t spend(seeded_t *random)
{
    weir_store_item_t item = item_of(&bucket, &of_bucket, 1 + (int64_t)seeded_below(random, 3));
    int64_t change = seeded_below(random, 2) == 0 ? item.cost - (int64_t)seeded_below(random, 5) : 0;
    if (!take(&item))
        return 0;
    if (change != 0 && weir_redis_leases_put_back(leases, &item, change, now_ns))
        return item.cost - change;
    return item.cost;
}

static void test_nothing_is_spent_twice(void **state)
{
    enum { STEPS = 200000 };
    seeded_t random = seeded_start(__func__);
    model_t model = {""};
    int64_t spent = 0;
    size_t ended = 0;
    for (int step = 0; step != STEPS; ++step) {
        now_ns += (int64_t)seeded_below(&random, seeded_below(&random, 64) == 0 ? 3000 : 30) * MS;
        spent += spend(&random);
        assert_true(spent <= model.given - model.taken_back);
        if (seeded_below(&random, 4) == 0)
            weir_redis_leases_tick(leases, seeded_below(&random, 3), now_ns);
        for (; ended != remote->count && seeded_below(&random, 3) != 0; ++ended)
            end_ask(&model, remoted_of(remote, ended), &random);
    }
    assert_true(spent > STEPS / 8);
    for (; ended != remote->count; ++ended)
        end_ask(&model, remoted_of(remote, ended), &random);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_strict_has_none),
        TEST(test_a_key_gets_a_slice_when_it_comes_again_within_a_second),
        TEST(test_what_is_answered),
        TEST(test_a_window_is_charged_where_its_slice_ends),
        TEST(test_it_is_renewed_when_half_is_gone),
        TEST(test_it_is_renewed_when_half_of_its_time_is_over),
        TEST(test_less_than_was_wanted),
        TEST(test_it_ends_by_itself),
        TEST(test_a_late_answer_is_no_longer),
        TEST(test_what_is_idle_goes_back),
        TEST(test_what_is_being_asked_for_is_not_forgotten),
        TEST(test_nobody_knows_whether_it_was_taken),
        TEST(test_an_error_changes_nothing),
        TEST(test_without_redis_a_slice_is_used_up),
        TEST(test_where_nothing_is_to_be_had_it_is_asked_seldom),
        TEST(test_what_is_not_spent_goes_back_to_its_slice),
        TEST(test_what_is_not_spent_of_a_slice_that_is_over),
        TEST(test_all_or_nothing),
        TEST(test_a_rest_that_is_too_small_goes_back),
        TEST(test_a_rest_after_a_charge_stays),
        TEST(test_quotas_have_slices_of_their_own),
        TEST(test_what_no_script_says_is_no_slice),
        TEST(test_how_large_it_is),
        TEST(test_who_needs_more_than_a_slice_asks),
        TEST(test_so_many_keys_and_no_more),
        TEST(test_nothing_is_spent_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
