/* Heartbeats and the pauses that all share: what a sidecar asks of Redis, and what it makes of the answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../conf/loaded.h"
#include "../../../filters/redis/pause_member.h"
#include "../../../proxy/redis/fleet.h"
#include "../../../proxy/upstream.h"

#define S INT64_C(1000000000)
#define MS INT64_C(1000000)
#define STR(text) ((weir_str_t){text, sizeof(text) - 1})

enum { UPSTREAMS = 3, ROWS_MAX = 600, TEXT_MAX = 64 };

static const char text[] = "version: 1\n"
                           "store: {kind: redis, redis: {prefix: \"p:\", timeout: 30ms, claim_timeout: 300ms}}\n"
                           "upstreams:\n"
                           "  a: {url: \"http://127.0.0.1:1\", dialect: openai, breaker: {throttle: {max: 10s}}}\n"
                           "  b: {url: \"http://127.0.0.1:2\", dialect: openai}\n"
                           "  own: {url: \"http://127.0.0.1:3\", dialect: openai, breaker: {throttle: {shared: false}}}\n"
                           "listeners:\n"
                           "  in: {address: \"127.0.0.1:8080\", routes: [{path: /, upstream: a}]}\n";

__thread int64_t weir_clock_turn_ns;

/* --- what is behind the two --- */

struct weir_upstream {
    weir_health_t *health;
};

weir_health_t *weir_upstream_health(const weir_upstream_t *upstream)
{
    return upstream->health;
}

static h2o_timeout_entry_t *started;
static int64_t started_for_ns;

void weir_timer_start(weir_worker_t *worker, h2o_timeout_entry_t *entry, int64_t ns)
{
    started = entry;
    started_for_ns = ns;
}

void weir_log_event(weir_log_level_t level, const char *format, ...)
{
}

uint32_t weir_metrics_series(weir_metrics_t *metrics, weir_series_t *cache, weir_metric_t metric, const char *const *labels)
{
    return 0;
}

void weir_metrics_add(weir_metrics_worker_t *worker, uint32_t slot, int64_t n)
{
}

uint64_t weir_worker_random(weir_worker_t *worker)
{
    return 0;
}

/* --- a remote that keeps what it is asked --- */

static struct {
    bool is_up;
    size_t asks;
    weir_remote_ask_t last;
    char keys[4][TEXT_MAX], args[80][TEXT_MAX];
} asked;

static void copy(char into[TEXT_MAX], weir_str_t from)
{
    assert_true(from.len < TEXT_MAX);
    memcpy(into, from.base, from.len);
    into[from.len] = '\0';
}

static bool ask(weir_remote_t *remote, const weir_remote_ask_t *one)
{
    if (!asked.is_up)
        return false;
    ++asked.asks;
    asked.last = *one;
    for (size_t i = 0; i != one->key_count; ++i)
        copy(asked.keys[i], one->keys[i]);
    for (size_t i = 0; i != one->arg_count; ++i)
        copy(asked.args[i], one->args[i]);
    return true;
}

/* An answer that is being written. */
static struct {
    weir_remote_value_t lifted[ROWS_MAX], pauses[ROWS_MAX];
    char texts[ROWS_MAX][TEXT_MAX];
    size_t lifted_count, pause_count, text_count;
} told;

static weir_remote_value_t text_value(const char *from, size_t len)
{
    char *into = told.texts[told.text_count++];
    memcpy(into, from, len);
    return (weir_remote_value_t){.kind = WEIR_REMOTE_TEXT, .text = {into, len}};
}

static weir_remote_value_t integer_value(int64_t integer)
{
    return (weir_remote_value_t){.kind = WEIR_REMOTE_INTEGER, .integer = integer};
}

static void tell_pause(uint64_t upstream, weir_key_t key, int64_t left_ms, int64_t ends_ms)
{
    char member[WEIR_PAUSE_MEMBER_LEN];
    weir_pause_member_write(member, upstream, key);
    told.pauses[told.pause_count++] = text_value(member, sizeof(member));
    told.pauses[told.pause_count++] = integer_value(left_ms);
    told.pauses[told.pause_count++] = integer_value(ends_ms);
}

static void tell_lift(uint64_t upstream, const char *when)
{
    char lift[TEXT_MAX];
    weir_pause_upstream_write(lift, upstream);
    strcpy(lift + WEIR_PAUSE_UPSTREAM_LEN, when);
    told.lifted[told.lifted_count++] = text_value(lift, strlen(lift));
}

static void end(weir_remote_told_t how, const weir_remote_value_t *value)
{
    assert_int_equal(asked.last.script, WEIR_SCRIPT_beat);
    asked.last.on_end(asked.last.context, how, value, weir_clock_turn_ns);
    memset(&told, 0, sizeof(told));
}

static bool forgot; /* that it was alive */

static void answer(int64_t alive)
{
    const weir_remote_value_t entries[] = {
        integer_value(alive),
        integer_value(!forgot),
        {.kind = WEIR_REMOTE_LIST, .entries = told.lifted, .size = told.lifted_count},
        {.kind = WEIR_REMOTE_LIST, .entries = told.pauses, .size = told.pause_count},
    };
    end(WEIR_REMOTE_ANSWERED, &(weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = entries, .size = 4});
}

/* --- one sidecar --- */

static weir_conf_t *conf;
static weir_server_t server;
static weir_worker_t control;
static weir_snapshot_t snapshot;
static weir_upstream_t upstreams[UPSTREAMS], *upstream_list[UPSTREAMS];
static weir_remote_t remote;
static weir_fleet_t *fleet;
static const weir_health_asker_t asker = {.model = STR("gpt-5"), .credential = 7}, other = {.model = STR("gpt-5"), .credential = 8};

static weir_health_t *health(size_t i)
{
    return upstreams[i].health;
}

static const weir_conf_upstream_t *conf_of(size_t i)
{
    return &conf->upstreams.entries[i];
}

static uint64_t name_of(size_t i)
{
    return weir_pause_upstream(conf_of(i)->name, conf_of(i)->url.text);
}

static weir_key_t key_of(size_t i, const weir_health_asker_t *one)
{
    return weir_pause_key(name_of(i), one->model, one->credential);
}

static int64_t left_ns(size_t i, const weir_health_asker_t *one)
{
    return weir_health_wait_ns(health(i), conf_of(i), one);
}

static void beat(void)
{
    weir_clock_turn_ns += 250 * MS;
    started->cb(started);
}

static int set_up(void **state)
{
    conf = load_right("weir.yaml", text);
    memset(&asked, 0, sizeof(asked));
    memset(&told, 0, sizeof(told));
    weir_clock_turn_ns = 1000 * S;
    remote = (weir_remote_t){.ask = ask, .sidecar = 0xabc, .sidecars = 1};
    for (size_t i = 0; i != UPSTREAMS; ++i) {
        upstreams[i].health = weir_health_create(conf_of(i)->name);
        upstream_list[i] = &upstreams[i];
        weir_health_configure(health(i), conf, conf_of(i));
    }
    snapshot = (weir_snapshot_t){.conf = conf, .upstreams = upstream_list};
    server = (weir_server_t){.snapshot = &snapshot, .control = &control};
    control = (weir_worker_t){.server = &server, .is_control = true};
    fleet = server.fleet = weir_fleet_create(&server, &remote, &conf->store.redis);
    asked.is_up = true;
    weir_fleet_open(fleet);
    return 0;
}

static int tear_down(void **state)
{
    weir_fleet_destroy(fleet);
    for (size_t i = 0; i != UPSTREAMS; ++i)
        weir_health_destroy(health(i));
    weir_conf_release(conf);
    return 0;
}

static void test_a_beat_says_who_lives(void **state)
{
    assert_int_equal(asked.asks, 1);
    assert_int_equal(asked.last.script, WEIR_SCRIPT_beat);
    assert_int_equal(asked.last.key_count, 3);
    assert_string_equal(asked.keys[0], "p:{fleet}:alive");
    assert_string_equal(asked.keys[1], "p:{fleet}:pauses");
    assert_string_equal(asked.keys[2], "p:{fleet}:lifted");
    assert_int_equal(asked.last.arg_count, 2);
    assert_string_equal(asked.args[0], "0000000000000abc");
    assert_string_equal(asked.args[1], "30000");
    assert_int_equal(started_for_ns, 250 * MS);
    beat();
    assert_int_equal(asked.asks, 1); /* the first is not answered yet */
    answer(5);
    assert_int_equal(remote.sidecars, 5);
    beat();
    assert_int_equal(asked.asks, 2);
    weir_fleet_leave(fleet); /* at once */
    assert_int_equal(asked.asks, 3);
    assert_string_equal(asked.args[1], "0");
}

static void test_others_that_left_are_not_counted_at_once(void **state)
{
    forgot = true; /* it is new */
    answer(5);
    assert_int_equal(remote.sidecars, 5);
    forgot = false;
    beat();
    answer(3);
    assert_int_equal(remote.sidecars, 3);
    beat();
    answer(9);
    assert_int_equal(remote.sidecars, 9);
    beat();
    answer(0);
    assert_int_equal(remote.sidecars, 1);
    beat();
    answer(INT64_MAX);
    assert_int_equal(remote.sidecars, 1);
}

/* The others come again, in their own time. */
static void test_where_redis_forgot_all_fewer_are_not_believed_for_two_seconds(void **state)
{
    answer(5);
    beat();
    forgot = true;
    answer(1);
    forgot = false;
    for (int i = 0; i != 7; ++i) {
        assert_int_equal(remote.sidecars, 5);
        beat();
        answer(2);
    }
    assert_int_equal(remote.sidecars, 5);
    beat();
    answer(2);
    assert_int_equal(remote.sidecars, 2);
    beat();
    forgot = true;
    answer(7);
    forgot = false;
    assert_int_equal(remote.sidecars, 7);
}

static void test_without_redis_each_has_its_own(void **state)
{
    end(WEIR_REMOTE_LOST, NULL);
    asked.is_up = false;
    beat();
    assert_int_equal(asked.asks, 1);
    weir_health_pause(health(0), &control, &asker, 5 * S);
    assert_int_equal(left_ns(0, &asker), 5 * S);
    assert_int_equal(asked.asks, 1);
    asked.is_up = true;
    beat();
    assert_int_equal(asked.asks, 2);
    end(WEIR_REMOTE_REFUSED, NULL);
    beat();
    assert_int_equal(asked.asks, 3);
    assert_int_equal(left_ns(0, &asker), 5 * S - 500 * MS);
    assert_int_equal(remote.sidecars, 1);
}

static void test_a_429_here_is_told(void **state)
{
    char member[WEIR_PAUSE_MEMBER_LEN + 1] = "";
    weir_health_pause(health(0), &control, &asker, 5 * S - 1);
    assert_int_equal(asked.last.script, WEIR_SCRIPT_pause);
    assert_string_equal(asked.keys[0], "p:{fleet}:pauses");
    weir_pause_member_write(member, name_of(0), key_of(0, &asker));
    assert_string_equal(asked.args[0], member);
    assert_string_equal(asked.args[1], "5000");
    assert_null(asked.last.on_end);
    assert_int_equal(left_ns(0, &asker), 5 * S - 1);
    assert_int_equal(left_ns(0, &other), 0);
    size_t asks = asked.asks;
    weir_health_pause(health(0), &control, &other, 0); /* Retry-After: 0 */
    weir_health_pause(health(2), &control, &asker, 5 * S); /* shared: false */
    assert_int_equal(asked.asks, asks);
    assert_int_equal(left_ns(2, &asker), 5 * S);
}

static void test_a_429_elsewhere_pauses_here(void **state)
{
    weir_key_t key = key_of(1, &asker);
    tell_pause(name_of(1), key, 4000, 777);
    tell_pause(name_of(2), key_of(2, &asker), 4000, 777); /* shared: false */
    tell_pause(name_of(0) + 1, key, 4000, 777);           /* an upstream that nobody has */
    answer(2);
    assert_int_equal(left_ns(1, &asker), 4 * S);
    assert_int_equal(left_ns(1, &other), 0);
    assert_int_equal(left_ns(0, &asker), 0);
    assert_int_equal(left_ns(2, &asker), 0);
    beat();
    tell_pause(name_of(1), key, 9000, 778); /* another 429 */
    answer(2);
    assert_int_equal(left_ns(1, &asker), 9 * S);
    beat();
    tell_pause(name_of(1), key, 1000, 700); /* one that ended before */
    answer(2);
    assert_int_equal(left_ns(1, &asker), 9 * S - 250 * MS);
}

/* Every beat tells of it, yet this sidecar is paused for its own max from the first. */
static void test_a_pause_is_no_longer_than_it_may_be_here(void **state)
{
    for (int64_t left_ms = 3600000; left_ms > 3600000 - 12000; left_ms -= 250) {
        tell_pause(name_of(0), key_of(0, &asker), left_ms, 4444);
        answer(2);
        int64_t so_far_ns = (3600000 - left_ms) * MS;
        assert_int_equal(left_ns(0, &asker), so_far_ns < 10 * S ? 10 * S - so_far_ns : 0);
        beat();
    }
    tell_pause(name_of(0), key_of(0, &asker), INT64_MAX, 4445);
    answer(2);
    assert_int_equal(left_ns(0, &asker), 10 * S);
}

static void test_what_is_lifted_here_does_not_come_back(void **state)
{
    char name[WEIR_PAUSE_UPSTREAM_LEN + 1] = "";
    weir_pause_upstream_write(name, name_of(1));
    tell_pause(name_of(1), key_of(1, &asker), 50000, 1);
    answer(2);
    beat(); /* under way when it is lifted */
    weir_health_force(health(1), &control, WEIR_BREAKER_AUTO);
    assert_int_equal(left_ns(1, &asker), 0);
    tell_pause(name_of(1), key_of(1, &asker), 50000, 1);
    tell_pause(name_of(1), key_of(1, &other), 50000, 2); /* which came meanwhile */
    tell_pause(name_of(0), key_of(0, &asker), 5000, 3);
    answer(2);
    assert_int_equal(left_ns(1, &asker), 0);
    assert_int_equal(left_ns(1, &other), 0);
    assert_int_equal(left_ns(0, &asker), 5 * S); /* another upstream's */
    beat();
    assert_int_equal(asked.last.arg_count, 3);
    assert_string_equal(asked.args[2], name);
    end(WEIR_REMOTE_LOST, NULL); /* again, then */
    beat();
    assert_int_equal(asked.last.arg_count, 3);
    tell_lift(name_of(1), ":1:2");
    answer(2);
    assert_int_equal(left_ns(1, &asker), 0);
    beat();
    assert_int_equal(asked.last.arg_count, 2);
    tell_lift(name_of(1), ":1:2");
    tell_pause(name_of(1), key_of(1, &asker), 3000, 4); /* a 429 after that */
    answer(2);
    assert_int_equal(left_ns(1, &asker), 3 * S);
}

static void test_a_lift_while_redis_is_gone_is_told_later_and_not_too_late(void **state)
{
    end(WEIR_REMOTE_LOST, NULL);
    asked.is_up = false;
    weir_health_force(health(0), &control, WEIR_BREAKER_FORCE_CLOSED); /* throttle.max is 10 s */
    weir_health_force(health(1), &control, WEIR_BREAKER_FORCE_OPEN);   /* which lifts nothing */
    weir_health_force(health(2), &control, WEIR_BREAKER_AUTO);         /* nor does that elsewhere */
    weir_clock_turn_ns += 9 * S;
    asked.is_up = true;
    beat();
    assert_int_equal(asked.last.arg_count, 3);
    end(WEIR_REMOTE_LOST, NULL);
    weir_clock_turn_ns += 1 * S;
    beat();
    assert_int_equal(asked.last.arg_count, 2);
}

static void test_a_lift_elsewhere_ends_pauses_here(void **state)
{
    weir_remote_ask_t first = asked.last;
    weir_health_pause(health(0), &control, &asker, 5 * S);
    weir_health_pause(health(1), &control, &asker, 5 * S);
    asked.last = first;
    tell_lift(name_of(0), ":1:1"); /* before this sidecar came */
    answer(2);
    assert_int_equal(left_ns(0, &asker), 5 * S);
    beat();
    tell_lift(name_of(0), ":1:1");
    answer(2);
    assert_true(left_ns(0, &asker) > 4 * S);
    beat();
    tell_lift(name_of(0), ":1:2");
    answer(2);
    assert_int_equal(left_ns(0, &asker), 0);
    assert_true(left_ns(1, &asker) > 4 * S);
    beat();
    tell_lift(name_of(0), ":1:2"); /* is heard of as long as it stands there */
    tell_pause(name_of(0), key_of(0, &asker), 3000, 4);
    answer(2);
    assert_int_equal(left_ns(0, &asker), 3 * S);
}

static void test_more_lifts_than_fit(void **state)
{
    answer(1);
    for (uint64_t upstream = 1; upstream <= 100; ++upstream)
        weir_fleet_lift(fleet, upstream, S);
    beat();
    assert_int_equal(asked.last.arg_count, 2 + 64);
}

static void test_answers_that_are_none(void **state)
{
    const weir_remote_value_t list = {.kind = WEIR_REMOTE_LIST}, nil = {.kind = WEIR_REMOTE_NIL}, three = integer_value(3);
    const weir_remote_value_t wrong[][4] = {{three, three, list, nil}, {three, three, nil, list}, {three, nil, list, list},
                                            {nil, three, list, list}, {list, list, list, list}};
    for (size_t i = 0; i != sizeof(wrong) / sizeof(*wrong); ++i) {
        end(WEIR_REMOTE_ANSWERED, &(weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = wrong[i], .size = 4});
        beat();
    }
    end(WEIR_REMOTE_ANSWERED, &(weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = wrong[0], .size = 3});
    beat();
    end(WEIR_REMOTE_ANSWERED, &(weir_remote_value_t){.kind = WEIR_REMOTE_TEXT, .text = STR("what")});
    beat();
    assert_int_equal(remote.sidecars, 1);
    tell_pause(name_of(0), key_of(0, &asker), 5000, 1);
    told.pauses[1] = nil;
    tell_pause(name_of(0), key_of(0, &asker), -5, 1);
    tell_pause(name_of(0), key_of(0, &asker), 5000, 1);
    told.pauses[6].text.len = 20;
    tell_pause(name_of(0), key_of(0, &asker), 5000, 1);
    told.pauses[9] = integer_value(1);
    tell_pause(name_of(0), key_of(0, &asker), 5000, 1);
    --told.pause_count;
    told.lifted[told.lifted_count++] = nil;
    told.lifted[told.lifted_count++] = text_value("abc", 3);
    answer(4);
    assert_int_equal(remote.sidecars, 4);
    assert_int_equal(left_ns(0, &asker), 0);
    beat();
    for (uint64_t i = 0; i != 150; ++i) { /* more than were asked for */
        tell_pause(name_of(0), (weir_key_t){i, i}, 5000, 1);
        tell_lift(i, ":1:1");
    }
    answer(4);
    assert_int_equal(weir_health_pauses(health(0)).count, 128);
}

/* A reload takes the fleet's pauses for nobody's, or the other way round. */
static void test_a_reload_that_shares_no_more(void **state)
{
    weir_conf_upstream_t *changed = (weir_conf_upstream_t *)conf_of(0);
    weir_health_pause(health(0), &control, &asker, 5 * S);
    assert_true(weir_health_shared_as(health(0)) == name_of(0));
    assert_true(weir_health_shared_as(health(2)) == 0);
    weir_health_configure(health(0), conf, changed);
    assert_int_equal(left_ns(0, &asker), 5 * S);
    changed->breaker.throttle.shared = false;
    weir_health_configure(health(0), conf, changed);
    assert_int_equal(left_ns(0, &asker), 0);
    size_t asks = asked.asks;
    weir_health_pause(health(0), &control, &asker, 5 * S);
    assert_int_equal(asked.asks, asks);
    assert_int_equal(left_ns(0, &asker), 5 * S);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_beat_says_who_lives, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_others_that_left_are_not_counted_at_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_where_redis_forgot_all_fewer_are_not_believed_for_two_seconds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_without_redis_each_has_its_own, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_429_here_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_429_elsewhere_pauses_here, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_pause_is_no_longer_than_it_may_be_here, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_lifted_here_does_not_come_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_lift_while_redis_is_gone_is_told_later_and_not_too_late, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_lift_elsewhere_ends_pauses_here, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_more_lifts_than_fit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_answers_that_are_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_reload_that_shares_no_more, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
