/* The dedups of the store in Redis: what is asked there, what a claim is told for each answer, and what becomes of whatever
 * comes late, twice or never. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include "../../../../filters/redis/redis_bloom.h"
#include "claimed.h"

#define SHARE WEIR_STORE_CLAIM_SHARE
#define RUN WEIR_STORE_CLAIM_RUN
#define DUPLICATE WEIR_STORE_CLAIM_DUPLICATE
#define IN_FLIGHT WEIR_STORE_CLAIM_IN_FLIGHT
#define OTHER WEIR_STORE_CLAIM_OTHER
#define UNKNOWN WEIR_STORE_CLAIM_UNKNOWN
#define DOWN WEIR_STORE_CLAIM_DOWN
#define PENDING WEIR_STORE_CLAIM_PENDING

#define ELSEWHERE "00000000000000ff-7"

static const int64_t TIMEOUT_NS = 250 * MS;

static weir_conf_dedup_t conf;
static remoted_t *remote;
static weir_redis_dedups_t dedups;
static weir_store_dedup_t *dedup;

static int set_up(void **state)
{
    conf = dedup_of_defaults();
    remote = remoted_create(0xabcdef, on_wake);
    weir_redis_dedups_init(&dedups, &remote->remote, "weir:", TIMEOUT_NS, (weir_store_teller_t){ignore_ticket, NULL});
    dedup = NULL;
    clock_ns = S;
    return 0;
}

static int64_t answer_bytes(void)
{
    weir_store_dedup_told_t told;
    return weir_redis_dedups_tell(&dedups, conf.name, &told) ? told.answer_bytes : 0;
}

static int tear_down(void **state)
{
    assert_int_equal(remoted_open(remote), 0);
    assert_int_equal(answer_bytes(), 0);
    for (size_t i = 0; i < WEIR_REDIS_RUNNING_LINES; ++i)
        assert_null(dedups.running.lines[i]);
    if (dedup != NULL)
        weir_redis_dedups_release(&dedups, dedup);
    assert_null(dedups.newest);
    weir_redis_dedups_dispose(&dedups);
    remoted_destroy(remote);
    return 0;
}

static void acquire(void)
{
    dedup = weir_redis_dedups_acquire(&dedups, &conf);
}

static void reload(void)
{
    weir_store_dedup_t *former = dedup;
    acquire();
    weir_redis_dedups_release(&dedups, former);
}

static weir_store_claim_told_t ask(size_t slot, uint64_t key, int64_t now_ns)
{
    clock_ns = now_ns;
    return ask_of(&dedups, dedup, slot, slot % 2, key, 0, now_ns);
}

static void answer_to(remoted_ask_t *asked, weir_remote_value_t value, int64_t now_ns)
{
    clock_ns = now_ns;
    remoted_end(remote, asked, WEIR_REMOTE_ANSWERED, &value, now_ns);
}

/* The newest ask is answered. */
static void answer(weir_remote_value_t value, int64_t now_ns)
{
    answer_to(remoted_last(remote), value, now_ns);
}

static void fail_to(remoted_ask_t *asked, weir_remote_told_t told, int64_t now_ns)
{
    clock_ns = now_ns;
    remoted_end(remote, asked, told, NULL, now_ns);
}

static weir_remote_value_t flight_of(const char *owner)
{
    static weir_remote_value_t entries[3];
    entries[0] = remoted_text("flight");
    entries[1] = remoted_text(owner);
    entries[2] = remoted_integer(30000);
    return (weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = entries, .size = 3};
}

static weir_remote_value_t word(const char *text)
{
    static weir_remote_value_t entry;
    entry = remoted_text(text);
    return (weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = &entry, .size = 1};
}

static weir_remote_value_t done_with(const char *bytes, size_t len)
{
    static weir_remote_value_t entries[2];
    entries[0] = remoted_text("done");
    entries[1] = bytes != NULL ? (weir_remote_value_t){.kind = WEIR_REMOTE_TEXT, .text = {bytes, len}} : REMOTED_NIL;
    return (weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = entries, .size = 2};
}

static void run(size_t slot, uint64_t key, int64_t now_ns)
{
    assert_int_equal(ask(slot, key, now_ns), PENDING);
    answer(word("run"), now_ns);
    assert_int_equal(callers[slot].told, RUN);
}

static void tick(size_t worker, int64_t now_ns)
{
    remote->worker = worker;
    weir_redis_dedups_tick(&dedups, worker, now_ns);
}

static void expect(const remoted_ask_t *asked, weir_script_t script, size_t keys, const char *args)
{
    char text[512] = "";
    assert_int_equal(asked->script, script);
    assert_int_equal(asked->key_count, keys);
    for (size_t i = 0; i < asked->arg_count; ++i)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "%s%s", i == 0 ? "" : " ", asked->args[i]);
    assert_string_equal(text, args);
}

/* The end that was sent last, and that is answered. */
static void expect_end(const char *how, int64_t now_ns)
{
    const remoted_ask_t *asked = remoted_last(remote);
    assert_int_equal(asked->script, WEIR_SCRIPT_end);
    assert_true(asked->is_open);
    assert_string_equal(asked->args[2], how);
    answer(remoted_integer(1), now_ns);
}

/* --- what is told --- */

static void test_one_that_runs_is_joined_here_and_told_to_redis(void **state)
{
    acquire();
    assert_int_equal(ask(0, 1, S), PENDING);
    assert_int_equal(callers[0].claim.until_ns, S + TIMEOUT_NS);
    expect(remoted_last(remote), WEIR_SCRIPT_claim, 2, "0000000000abcdef-1 0 30000 2097152 0");
    char tag[64];
    snprintf(tag, sizeof(tag), "weir:{%016llx%016llx}:d:orders", (unsigned long long)key_of(1).high, (unsigned long long)key_of(1).low);
    assert_string_equal(remoted_last(remote)->keys[0], tag);
    tag[strlen("weir:{}:") + 32] = 'a';
    assert_string_equal(remoted_last(remote)->keys[1], tag);
    assert_int_equal(collect(&callers[0], S + 1), PENDING); /* woken by something else */
    answer(word("run"), S + MS);
    assert_int_equal(callers[0].told, RUN);
    assert_int_not_equal(callers[0].claim.owner, 0);
    assert_ptr_equal(callers[0].reader.stream, callers[0].claim.stream);

    assert_int_equal(ask(1, 1, S + 2 * MS), PENDING); /* on another worker, before there is a byte */
    answer(flight_of("0000000000abcdef-1"), S + 3 * MS);
    assert_int_equal(callers[1].told, SHARE);
    assert_false(callers[1].claim.is_replay);
    write_answer(&callers[0], "200", 3000, 'x');
    assert_int_equal(ask(2, 1, S + 4 * MS), PENDING); /* in the middle */
    answer(flight_of("0000000000abcdef-1"), S + 5 * MS);
    assert_int_equal(callers[2].told, SHARE);

    commit(&callers[0], 2 * S);
    remoted_ask_t *end = remoted_last(remote);
    assert_int_equal(end->script, WEIR_SCRIPT_end);
    assert_string_equal(end->args[0], "0000000000abcdef-1");
    assert_string_equal(end->args[2], "done");
    assert_string_equal(end->args[3], "86400000");
    assert_string_equal(end->args[4], "3600000");
    assert_true(end->lens[5] > 3003);
    assert_int_equal(ask(3, 1, 2 * S), PENDING); /* Redis has not heard of it yet */
    answer(flight_of("0000000000abcdef-1"), 2 * S);
    assert_int_equal(callers[3].told, SHARE);
    assert_true(callers[3].claim.is_replay); /* but it is done */
    answer_to(end, remoted_integer(1), 2 * S + MS);
    for (size_t i = 1; i < 4; ++i) {
        assert_int_equal(read_all(&callers[i].reader, 'x'), 3000);
        let_go(&callers[i]);
    }
}

static void test_told_by_what_redis_says(void **state)
{
    static const struct {
        const char *word;
        bool rejects;
        weir_store_claim_told_t told;
    } cases[] = {
        {"run", false, RUN},         {"unknown", false, UNKNOWN}, {"other", false, OTHER}, {"flight", true, IN_FLIGHT},
        {"done", false, DUPLICATE}, {"done", true, DUPLICATE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        conf.in_flight = cases[i].rejects ? WEIR_IN_FLIGHT_REJECT : WEIR_IN_FLIGHT_WAIT;
        acquire();
        clock_ns = S;
        assert_int_equal(ask_of(&dedups, dedup, 0, 0, 1, 0x1234, S), PENDING);
        assert_string_equal(remoted_last(remote)->args[1], "0000000000001234");
        assert_string_equal(remoted_last(remote)->args[4], "1");
        answer(cases[i].word[0] == 'f' ? flight_of(ELSEWHERE)
               : cases[i].word[0] == 'd' ? done_with(NULL, 0)
                                         : word(cases[i].word),
               S + MS);
        assert_int_equal(callers[0].told, cases[i].told);
        assert_int_equal(callers[0].claim.retry_after_ns, cases[i].told == IN_FLIGHT ? S : -1);
        if (cases[i].told == RUN) {
            forget(&callers[0], S);
            expect_end("free", S);
        }
        weir_redis_dedups_release(&dedups, dedup);
    }
    dedup = NULL;
}

static void test_an_answer_that_makes_no_sense_is_none(void **state)
{
    acquire();
    const weir_remote_value_t values[] = {
        REMOTED_NIL,
        remoted_integer(1),
        remoted_text("run"),
        word("ruin"),
        word("flight"),
        word("done"),
        REMOTED_LIST(remoted_integer(1)),
        REMOTED_LIST(remoted_text("flight"), remoted_integer(7), remoted_integer(7)),
        REMOTED_LIST(remoted_text("run"), remoted_text("run")),
        {.kind = WEIR_REMOTE_LIST},
    };
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); ++i) {
        assert_int_equal(ask(0, i, S), PENDING);
        answer(i == 3 ? word("ruin") : i == 4 ? word("flight") : i == 5 ? word("done") : values[i], S);
        assert_int_equal(callers[0].told, DOWN);
        expect_end("free", S); /* as it may have been told to run */
    }
}

static char *kept_answer(size_t slot, uint64_t key, size_t body_bytes, char byte, size_t *len)
{
    run(slot, key, S);
    write_answer(&callers[slot], "200", body_bytes, byte);
    commit(&callers[slot], S);
    const remoted_ask_t *end = remoted_last(remote);
    char *bytes = malloc(end->lens[5] + 1);
    *len = end->lens[5];
    memcpy(bytes, end->args[5], *len);
    expect_end("done", S);
    return bytes;
}

static void test_a_kept_answer_is_replayed_and_a_broken_one_is_not(void **state)
{
    acquire();
    size_t len;
    char *bytes = kept_answer(0, 1, 40000, 'k', &len);
    assert_int_equal(ask(1, 1, 2 * S), PENDING);
    answer(done_with(bytes, len), 2 * S);
    assert_int_equal(callers[1].told, SHARE);
    assert_true(callers[1].claim.is_replay);
    weir_stream_view_t view;
    weir_stream_look(&callers[1].reader, &view);
    assert_int_equal(view.state, WEIR_STREAM_DONE);
    assert_memory_equal(view.head, "200", 3);
    assert_int_equal(read_all(&callers[1].reader, 'k'), 40000);
    let_go(&callers[1]);

    assert_int_equal(ask(1, 2, 2 * S), PENDING); /* another key's */
    answer(done_with(bytes, len), 2 * S);
    assert_int_equal(callers[1].told, DUPLICATE);
    static const size_t broken[] = {0, 1, 5, 9, 17, 20, 30000};
    for (size_t i = 0; i < sizeof(broken) / sizeof(broken[0]); ++i) {
        bytes[broken[i]] ^= 1;
        assert_int_equal(ask(1, 1, 2 * S), PENDING);
        answer(done_with(bytes, len), 2 * S);
        assert_int_equal(callers[1].told, DUPLICATE);
        bytes[broken[i]] ^= 1;
        assert_int_equal(ask(1, 1, 2 * S), PENDING);
        answer(done_with(bytes, broken[i]), 2 * S); /* cut short */
        assert_int_equal(callers[1].told, DUPLICATE);
    }
    free(bytes);
}

static void test_an_empty_answer_is_one(void **state)
{
    acquire();
    size_t len;
    char *bytes = kept_answer(0, 1, 0, 'k', &len);
    assert_int_equal(ask(1, 1, 2 * S), PENDING);
    answer(done_with(bytes, len), 2 * S);
    assert_int_equal(callers[1].told, SHARE);
    assert_int_equal(read_all(&callers[1].reader, 'k'), 0);
    let_go(&callers[1]);
    free(bytes);
}

static void test_answers_that_are_too_large_or_find_no_room_are_not_kept(void **state)
{
    conf.max_response_bytes = 1000;
    acquire();
    run(0, 1, S);
    write_answer(&callers[0], "200", 1001, 'x');
    commit(&callers[0], S);
    assert_int_equal(remoted_last(remote)->lens[5], 0);
    expect_end("done", S);
    conf.max_response_bytes = 1 << 20;
    conf.memory_bytes = 4096;
    reload();
    run(0, 1, S);
    write_answer(&callers[0], "200", 10000, 'x');
    assert_int_equal(ask(1, 1, S), PENDING); /* as it is too late to join */
    answer(flight_of("0000000000abcdef-2"), S);
    assert_int_equal(callers[1].told, IN_FLIGHT);
    commit(&callers[0], S);
    remoted_ask_t *end = remoted_last(remote);
    assert_int_equal(end->lens[5], 0);
    assert_int_equal(ask(1, 1, S), PENDING);
    answer(flight_of("0000000000abcdef-2"), S);
    assert_int_equal(callers[1].told, DUPLICATE); /* now that it is done */
    answer_to(end, remoted_integer(1), S);

    conf.memory_bytes = 16 << 20;
    reload();
    size_t len;
    char *bytes = kept_answer(0, 1, 10000, 'k', &len);
    conf.memory_bytes = 4096;
    reload();
    assert_int_equal(ask(1, 1, 2 * S), PENDING);
    answer(done_with(bytes, len), 2 * S);
    assert_int_equal(callers[1].told, DUPLICATE);
    free(bytes);
}

static void test_who_gets_answers_by_configuration(void **state)
{
    static const struct {
        weir_conf_on_duplicate_t on_duplicate;
        weir_conf_in_flight_t in_flight;
        bool wants_first;
        bool has_stream;
        const char *keep_ms;
    } cases[] = {
        {WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, true, true, "3600000"},
        {WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_REJECT, true, true, "3600000"},
        {WEIR_ON_DUPLICATE_ACKNOWLEDGE, WEIR_IN_FLIGHT_WAIT, false, true, "5000"}, /* for those who wait elsewhere */
        {WEIR_ON_DUPLICATE_REJECT, WEIR_IN_FLIGHT_REJECT, false, false, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        conf.on_duplicate = cases[i].on_duplicate;
        conf.in_flight = cases[i].in_flight;
        acquire();
        assert_int_equal(ask(0, 1, S), PENDING);
        assert_int_equal(strcmp(remoted_last(remote)->args[3], "0") != 0, cases[i].wants_first);
        answer(word("run"), S);
        assert_int_equal(callers[0].claim.stream != NULL, cases[i].has_stream);
        write_answer(&callers[0], "200", 10, 'x');
        commit(&callers[0], S);
        assert_int_equal(remoted_last(remote)->lens[5] != 0, cases[i].has_stream);
        if (cases[i].has_stream)
            assert_string_equal(remoted_last(remote)->args[4], cases[i].keep_ms);
        expect_end("done", S);
        weir_redis_dedups_release(&dedups, dedup);
    }
    dedup = NULL;
}

static void test_done_here_before_redis_has_heard_of_it(void **state)
{
    static const struct {
        weir_conf_on_duplicate_t on_duplicate;
        weir_conf_in_flight_t in_flight;
        weir_store_claim_told_t told;
    } cases[] = {
        {WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_WAIT, SHARE},
        {WEIR_ON_DUPLICATE_REPLAY, WEIR_IN_FLIGHT_REJECT, SHARE},
        {WEIR_ON_DUPLICATE_ACKNOWLEDGE, WEIR_IN_FLIGHT_WAIT, DUPLICATE},
        {WEIR_ON_DUPLICATE_REJECT, WEIR_IN_FLIGHT_REJECT, DUPLICATE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        char owner[32];
        conf.on_duplicate = cases[i].on_duplicate;
        conf.in_flight = cases[i].in_flight;
        acquire();
        run(0, 1, S);
        snprintf(owner, sizeof(owner), "0000000000abcdef-%u", (unsigned)callers[0].claim.owner);
        write_answer(&callers[0], "200", 10, 'x');
        assert_int_equal(ask(1, 1, S), PENDING);
        answer(flight_of(owner), S);
        assert_int_equal(callers[1].told, cases[i].in_flight == WEIR_IN_FLIGHT_WAIT ? SHARE : IN_FLIGHT);
        assert_false(callers[1].claim.is_replay);
        let_go(&callers[1]);
        commit(&callers[0], S);
        remoted_ask_t *end = remoted_last(remote);
        assert_int_equal(ask(1, 1, S), PENDING);
        answer(flight_of(owner), S);
        assert_int_equal(callers[1].told, cases[i].told);
        assert_int_equal(callers[1].claim.is_replay, cases[i].told == SHARE);
        let_go(&callers[1]);
        answer_to(end, remoted_integer(1), S);
        weir_redis_dedups_release(&dedups, dedup);
    }
    dedup = NULL;
}

/* --- waiting --- */

static void test_who_waits_for_another_sidecar_asks_again(void **state)
{
    acquire();
    size_t len;
    char *bytes = kept_answer(1, 1, 100, 'k', &len);
    int64_t now_ns = S, longest_ns = 0;
    assert_int_equal(ask(0, 1, now_ns), PENDING);
    for (size_t i = 0; i < 20; ++i) {
        size_t asked = remote->count;
        answer(flight_of(ELSEWHERE), now_ns);
        assert_int_equal(callers[0].told, PENDING);
        int64_t pause_ns = callers[0].claim.until_ns - now_ns, expected_ns = i < 5 ? (10 * MS) << i : 200 * MS;
        assert_true(pause_ns >= expected_ns / 2 && pause_ns <= expected_ns);
        longest_ns = pause_ns > longest_ns ? pause_ns : longest_ns;
        assert_int_equal(collect(&callers[0], callers[0].claim.until_ns - 1), PENDING);
        assert_int_equal(remote->count, asked);
        now_ns = callers[0].claim.until_ns;
        assert_int_equal(collect(&callers[0], now_ns), PENDING);
        assert_int_equal(remote->count, asked + 1);
        assert_int_equal(callers[0].claim.until_ns, now_ns + TIMEOUT_NS);
        expect(remoted_last(remote), WEIR_SCRIPT_claim, 2, "0000000000abcdef-2 0 30000 2097152 0");
    }
    assert_true(longest_ns > 120 * MS);
    answer(done_with(bytes, len), now_ns);
    assert_int_equal(callers[0].told, SHARE);
    assert_false(callers[0].claim.is_replay); /* it was not done when this one came */
    assert_int_equal(read_all(&callers[0].reader, 'k'), 100);
    let_go(&callers[0]);
    free(bytes);
}

static void test_who_waits_runs_when_the_other_one_did_not(void **state)
{
    conf.on_duplicate = WEIR_ON_DUPLICATE_REJECT;
    acquire();
    assert_int_equal(ask(0, 1, S), PENDING);
    assert_string_equal(remoted_last(remote)->args[3], "0");
    answer(flight_of(ELSEWHERE), S);
    assert_int_equal(collect(&callers[0], 2 * S), PENDING);
    assert_string_not_equal(remoted_last(remote)->args[3], "0"); /* it wants the answer now */
    answer(word("run"), 2 * S);
    assert_int_equal(callers[0].told, RUN);
    assert_true(renew(&callers[0], 2 * S + 23 * S)); /* counted from the second question */
    answer(remoted_integer(1), 27 * S);
    forget(&callers[0], 27 * S);
    expect_end("free", 27 * S);
}

static void test_what_runs_here_and_is_not_there_is_asked_for_again_soon(void **state)
{
    acquire();
    int64_t now_ns = S;
    assert_int_equal(ask(0, 1, now_ns), PENDING);
    for (size_t i = 0; i < 9; ++i) {
        answer(flight_of("0000000000abcdef-99"), now_ns);
        int64_t pause_ns = callers[0].claim.until_ns - now_ns, expected_ns = i < 6 ? (2 * MS) << i : 100 * MS;
        assert_true(pause_ns >= expected_ns / 2 && pause_ns <= expected_ns);
        now_ns = callers[0].claim.until_ns;
        assert_int_equal(collect(&callers[0], now_ns), PENDING);
    }
    answer(word("other"), now_ns);
    assert_int_equal(callers[0].told, OTHER);
    static const char *const owners[] = {"", "0000000000abcdef-", "0000000000abcdef-x1", "0000000000abcdef-99999999999999999999", "-1"};
    for (size_t i = 0; i < sizeof(owners) / sizeof(owners[0]); ++i) { /* whoever that is, it is waited for */
        assert_int_equal(ask(0, 1, now_ns), PENDING);
        answer(flight_of(owners[i]), now_ns);
        assert_int_equal(callers[0].told, PENDING);
        abandon(&callers[0], now_ns);
    }
}

/* --- not answered --- */

/* Asked before its end had come there, on another connection, and told after that was answered. */
static void test_what_ended_here_meanwhile_is_done_for_who_comes_after_it(void **state)
{
    static const weir_conf_in_flight_t ways[] = {WEIR_IN_FLIGHT_WAIT, WEIR_IN_FLIGHT_REJECT};
    for (size_t i = 0; i < 2; ++i) {
        conf.in_flight = ways[i];
        acquire();
        size_t len;
        char *bytes = kept_answer(1, 1, 100, 'k', &len);
        assert_int_equal(ask(0, 1, S), PENDING);
        answer(flight_of("0000000000abcdef-99"), S);
        assert_int_equal(callers[0].told, PENDING);
        assert_int_equal(collect(&callers[0], S + 2 * MS), PENDING);
        answer(done_with(bytes, len), S + 2 * MS);
        assert_int_equal(callers[0].told, SHARE);
        assert_true(callers[0].claim.is_replay);
        let_go(&callers[0]);
        free(bytes);
        weir_redis_dedups_release(&dedups, dedup);
    }
    dedup = NULL;
}

static void test_what_ended_here_and_is_never_told_is_in_flight(void **state)
{
    conf.in_flight = WEIR_IN_FLIGHT_REJECT;
    acquire();
    int64_t now_ns = S;
    assert_int_equal(ask(0, 1, now_ns), PENDING);
    for (answer(flight_of("0000000000abcdef-99"), now_ns); callers[0].told == PENDING; answer(flight_of("0000000000abcdef-99"), now_ns)) {
        now_ns = callers[0].claim.until_ns;
        assert_int_equal(collect(&callers[0], now_ns), PENDING);
    }
    assert_int_equal(callers[0].told, IN_FLIGHT);
    assert_true(now_ns > S + 100 * MS && now_ns < S + 300 * MS);
}

static void test_what_it_waits_for(void **state)
{
    acquire();
    assert_int_equal(ask(0, 1, S), PENDING);
    assert_true(callers[0].claim.is_own); /* the store */
    answer(flight_of(ELSEWHERE), S);
    assert_false(callers[0].claim.is_own); /* another one's answer, */
    assert_int_equal(collect(&callers[0], 2 * S), PENDING);
    assert_false(callers[0].claim.is_own); /* whether or not it asks meanwhile */
    answer(word("run"), 2 * S);
    forget(&callers[0], 2 * S);
    expect_end("free", 2 * S);
}

static void test_a_store_that_is_down(void **state)
{
    acquire();
    remote->is_down = true;
    assert_int_equal(ask(0, 1, S), DOWN);
    assert_null(callers[0].claim.asked);
    remote->is_down = false;
    assert_int_equal(ask(0, 1, S), PENDING);
    answer(flight_of(ELSEWHERE), S);
    remote->is_down = true;
    assert_int_equal(collect(&callers[0], 2 * S), DOWN); /* one that waited, too */
    remote->is_down = false;
    assert_int_equal(ask(0, 1, S), PENDING);
    fail_to(remoted_last(remote), WEIR_REMOTE_REFUSED, S);
    assert_int_equal(callers[0].told, DOWN); /* and nothing ran there */
    assert_int_equal(weir_redis_dedups_peek(&callers[0].claim, S), DOWN);
}

static void test_an_answer_that_is_late(void **state)
{
    acquire();
    size_t count;
    assert_int_equal(ask(0, 1, S), PENDING);
    remoted_ask_t *asked = remoted_last(remote);
    assert_int_equal(collect(&callers[0], S + TIMEOUT_NS - 1), PENDING);
    assert_int_equal(collect(&callers[0], S + TIMEOUT_NS), DOWN);
    assert_null(callers[0].claim.asked);
    memset(&callers[0], 0, sizeof(callers[0]));
    answer_to(asked, word("run"), 2 * S);
    expect(remoted_last(remote), WEIR_SCRIPT_end, 2, "0000000000abcdef-1 0 free 86400000 1 ");
    answer(remoted_integer(1), 2 * S);
    const weir_remote_value_t others[] = {flight_of(ELSEWHERE), flight_of("0000000000abcdef-9")};
    for (size_t i = 0; i < 5; ++i) {
        assert_int_equal(ask(0, 1, S), PENDING);
        assert_int_equal(collect(&callers[0], 2 * S), DOWN);
        memset(&callers[0], 0, sizeof(callers[0]));
        count = remote->count;
        answer(i < 2 ? others[i] : i == 2 ? done_with("x", 1) : word(i == 3 ? "unknown" : "other"), 2 * S);
        assert_int_equal(remote->count, count);
    }
    assert_int_equal(ask(0, 1, S), PENDING);
    assert_int_equal(collect(&callers[0], 2 * S), DOWN);
    count = remote->count;
    fail_to(remoted_last(remote), WEIR_REMOTE_REFUSED, 2 * S);
    assert_int_equal(remote->count, count);
}

static void test_a_lost_question_may_have_been_heard(void **state)
{
    acquire();
    assert_int_equal(ask(1, 1, S), PENDING);
    remote->is_down = true;
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, S + 100 * MS);
    assert_int_equal(callers[1].told, DOWN);
    size_t count = remote->count;
    tick(1, 2 * S);
    assert_int_equal(remote->count, count);
    remote->is_down = false;
    tick(0, 3 * S); /* another worker's */
    assert_int_equal(remote->count, count);
    tick(1, 3 * S);
    assert_int_equal(remote->count, count + 1);
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, 3 * S); /* again */
    tick(1, 4 * S);
    expect(remoted_last(remote), WEIR_SCRIPT_end, 2, "0000000000abcdef-1 0 free 86400000 1 ");
    answer(remoted_integer(0), 4 * S);
    tick(1, 5 * S);
    assert_int_equal(remote->count, count + 2);

    assert_int_equal(ask(1, 1, 10 * S), PENDING);
    remote->is_down = true;
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, 10 * S);
    tick(1, 40 * S); /* its lease is over */
    remote->is_down = false;
    count = remote->count;
    tick(1, 41 * S);
    assert_int_equal(remote->count, count);
}

static void test_what_is_remembered_to_be_freed_is_bounded(void **state)
{
    acquire();
    for (size_t i = 0; i < 2000; ++i) {
        remote->is_down = false;
        assert_int_equal(ask(0, i, S), PENDING);
        remote->is_down = true;
        fail_to(remoted_last(remote), WEIR_REMOTE_LOST, S);
        assert_int_equal(callers[0].told, DOWN);
    }
    remote->is_down = false;
    size_t count = remote->count;
    tick(0, 2 * S);
    assert_int_equal(remote->count, count + 1024);
    for (size_t i = count; i < remote->count; ++i)
        answer_to(remoted_of(remote, i), remoted_integer(1), 2 * S);
}

static void test_requests_that_leave(void **state)
{
    acquire();
    assert_int_equal(ask(0, 1, S), PENDING); /* before it is answered */
    abandon(&callers[0], S);
    answer(word("run"), S);
    expect_end("free", S);
    assert_int_equal(ask(0, 1, S), PENDING);
    abandon(&callers[0], S);
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, S);
    tick(0, S);
    expect_end("free", S);
    assert_int_equal(ask(0, 1, S), PENDING); /* while it waits */
    answer(flight_of(ELSEWHERE), S);
    size_t count = remote->count;
    abandon(&callers[0], S);
    assert_int_equal(remote->count, count);
}

static void ignore_wake(weir_ticket_t ticket)
{
}

static void test_requests_that_leave_before_they_collect(void **state)
{
    acquire();
    remote->on_wake = ignore_wake;
    assert_int_equal(ask(0, 1, S), PENDING);
    answer(word("run"), S);
    remote->on_wake = on_wake;
    assert_int_equal(ask(1, 1, S), PENDING); /* one has joined it */
    answer(flight_of("0000000000abcdef-1"), S);
    assert_int_equal(callers[1].told, SHARE);
    remote->worker = 0;
    abandon(&callers[0], S);
    expect_end("free", S);
    weir_stream_view_t view;
    weir_stream_look(&callers[1].reader, &view);
    assert_int_equal(view.state, WEIR_STREAM_LOST);
    let_go(&callers[1]);

    size_t len;
    char *bytes = kept_answer(1, 1, 100, 'k', &len);
    remote->on_wake = ignore_wake;
    assert_int_equal(ask(0, 1, S), PENDING);
    answer(done_with(bytes, len), S);
    abandon(&callers[0], S);
    assert_int_equal(ask(0, 1, S), PENDING);
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, S);
    abandon(&callers[0], S);
    expect_end("free", S);
    free(bytes);
}

static void test_a_run_that_is_collected_too_late(void **state)
{
    conf.lease_ns = 100 * MS;
    acquire();
    remote->on_wake = ignore_wake;
    assert_int_equal(ask(0, 1, S), PENDING);
    answer(word("run"), S);
    assert_int_equal(collect(&callers[0], S + 90 * MS), DOWN);
    expect_end("free", S + 90 * MS);
}

/* --- while it runs --- */

static void test_renewed_one_at_a_time_and_counted_from_when_it_was_sent(void **state)
{
    acquire();
    run(0, 1, S);
    size_t count = remote->count;
    assert_true(renew(&callers[0], 6 * S));
    expect(remoted_last(remote), WEIR_SCRIPT_renew, 1, "0000000000abcdef-1 0 30000");
    assert_true(renew(&callers[0], 11 * S)); /* the first one is not answered */
    assert_int_equal(remote->count, count + 1);
    answer(remoted_integer(1), 12 * S);
    assert_true(renew(&callers[0], 29750 * MS - 1)); /* 6 s + 30 s, and one renewal before, that may be late */
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, 29750 * MS - 1);
    assert_false(renew(&callers[0], 29750 * MS));
    lose(&callers[0], 31 * S);
    expect_end("free", 31 * S);
}

static void test_an_owner_that_cannot_renew_stops_in_time(void **state)
{
    acquire();
    run(0, 1, S);
    remote->is_down = true;
    assert_true(renew(&callers[0], 6 * S));
    assert_true(renew(&callers[0], 24750 * MS - 1));
    assert_false(renew(&callers[0], 24750 * MS));
    remote->is_down = false;
    forget(&callers[0], 26 * S);
    expect_end("free", 26 * S);
}

static void test_an_owner_whose_key_is_anothers_stops(void **state)
{
    acquire();
    run(0, 1, S);
    assert_true(renew(&callers[0], 6 * S));
    answer(remoted_integer(0), 6 * S);
    assert_false(renew(&callers[0], 11 * S));
    assert_true(renew(&callers[0], 11 * S) == false);
    lose(&callers[0], 11 * S);
    answer(remoted_integer(0), 11 * S);
}

static void test_an_owner_that_was_forgotten_by_hand_goes_on(void **state)
{
    acquire();
    run(0, 1, S);
    write_answer(&callers[0], "200", 10, 'x');
    assert_true(renew(&callers[0], 6 * S));
    answer(remoted_integer(2), 6 * S);
    size_t count = remote->count;
    assert_true(renew(&callers[0], 11 * S));
    assert_true(renew(&callers[0], 100 * S)); /* it has no lease any more */
    commit(&callers[0], 100 * S);
    assert_int_equal(remote->count, count); /* and no end */
    run(0, 1, S);
    assert_true(renew(&callers[0], 6 * S));
    answer(remoted_integer(2), 6 * S);
    assert_true(renew(&callers[0], 11 * S));
    count = remote->count;
    forget(&callers[0], 11 * S);
    assert_int_equal(remote->count, count);
}

/* Sent again, as where the script was unknown, it would come after the end, and take the key that was free. */
static void test_an_end_is_not_said_before_the_renewal_was_answered(void **state)
{
    acquire();
    run(0, 1, S);
    assert_true(renew(&callers[0], 6 * S));
    size_t count = remote->count;
    commit(&callers[0], 7 * S);
    assert_int_equal(remote->count, count);
    answer(remoted_integer(1), 8 * S);
    expect_end("done", 8 * S);
    run(0, 1, S);
    assert_true(renew(&callers[0], 6 * S));
    count = remote->count;
    forget(&callers[0], 7 * S);
    assert_int_equal(remote->count, count);
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, 8 * S);
    expect_end("free", 8 * S);
    run(0, 1, S);
    assert_true(renew(&callers[0], 6 * S));
    count = remote->count;
    commit(&callers[0], 7 * S);
    answer(remoted_integer(2), 8 * S); /* forgotten by hand: there is nothing to say */
    assert_int_equal(remote->count, count);
}

/* --- its end --- */

static void test_ends(void **state)
{
    acquire();
    run(0, 1, S);
    lose(&callers[0], S); /* on_unknown: run */
    expect_end("free", S);
    conf.on_unknown = WEIR_ON_UNKNOWN_REJECT;
    conf.window_ns = H;
    run(0, 1, S);
    assert_int_equal(ask(1, 1, S), PENDING);
    answer(flight_of("0000000000abcdef-2"), S);
    assert_int_equal(callers[1].told, SHARE);
    weir_store_dedup_t *former = dedup;
    acquire();
    callers[0].claim.dedup = dedup;
    lose(&callers[0], S);
    expect(remoted_last(remote), WEIR_SCRIPT_end, 2, "0000000000abcdef-2 0 unknown 3600000 1 ");
    weir_redis_dedups_release(&dedups, former);
    let_go(&callers[1]);
    assert_int_equal(ask(1, 1, S), PENDING); /* it is not to be joined any more */
    remoted_ask_t *again = remoted_last(remote);
    answer_to(again, flight_of("0000000000abcdef-2"), S);
    assert_int_equal(callers[1].told, PENDING);
    abandon(&callers[1], S);
    answer_to(remoted_of(remote, remote->count - 2), remoted_integer(1), S);
}

static void test_an_end_that_is_not_heard_is_sent_again(void **state)
{
    acquire();
    run(0, 1, S);
    write_answer(&callers[0], "200", 5000, 'a');
    remote->is_down = true;
    commit(&callers[0], 10 * S);
    assert_true(answer_bytes() > 5000);
    tick(0, 11 * S);
    remote->is_down = false;
    tick(0, 12 * S);
    const remoted_ask_t *end = remoted_last(remote);
    assert_string_equal(end->args[2], "done");
    assert_true(end->lens[5] > 5000);
    assert_int_equal(ask(1, 1, 12 * S), PENDING); /* Redis knows that it is in flight; it can be joined */
    answer(flight_of("0000000000abcdef-1"), 12 * S);
    assert_int_equal(callers[1].told, SHARE);
    assert_int_equal(read_all(&callers[1].reader, 'a'), 5000);
    let_go(&callers[1]);
    fail_to(remoted_of(remote, remote->count - 2), WEIR_REMOTE_LOST, 12 * S);
    tick(0, 12 * S);
    fail_to(remoted_last(remote), WEIR_REMOTE_REFUSED, 12 * S); /* not so soon, then */
    size_t count = remote->count;
    tick(0, 12 * S + 99 * MS);
    assert_int_equal(remote->count, count);
    tick(0, 12 * S + 100 * MS);
    fail_to(remoted_last(remote), WEIR_REMOTE_REFUSED, 12 * S + 100 * MS);
    tick(0, 12 * S + 299 * MS);
    assert_int_equal(remote->count, count + 1);
    tick(0, 12 * S + 300 * MS);
    expect_end("done", 13 * S);
}

static void test_an_end_that_is_never_heard_is_given_up(void **state)
{
    acquire();
    run(0, 1, S);
    write_answer(&callers[0], "200", 5000, 'a');
    run(1, 2, S);
    remote->is_down = true;
    commit(&callers[0], 10 * S);
    forget(&callers[1], 10 * S);
    tick(0, 70 * S - 1);
    tick(1, 70 * S - 1);
    assert_true(answer_bytes() > 5000);
    tick(0, 70 * S);
    assert_int_equal(answer_bytes(), 0);
    remote->is_down = false;
}

static void test_ends_are_kept_where_answers_have_no_room_and_bounded(void **state)
{
    conf.memory_bytes = 1024;
    acquire();
    for (size_t i = 0; i < 17000; ++i) {
        remote->is_down = false;
        run(0, i, S);
        write_answer(&callers[0], "200", 5000, 'a');
        remote->is_down = true;
        commit(&callers[0], S);
    }
    remote->is_down = false;
    size_t first = remote->count;
    for (size_t i = 0; i < 32; ++i) { /* not all at once */
        size_t count = remote->count;
        tick(0, 3 * S);
        assert_true(remote->count - count <= 1024);
        for (size_t j = count; j < remote->count; ++j) {
            assert_string_equal(remoted_of(remote, j)->args[2], "done");
            answer_to(remoted_of(remote, j), remoted_integer(1), 3 * S);
        }
    }
    assert_int_equal(remote->count - first, 16384);
}

static void test_the_store_ends_with_ends_that_are_kept(void **state)
{
    acquire();
    run(0, 1, S);
    write_answer(&callers[0], "200", 5000, 'a');
    run(1, 2, S);
    remote->is_down = true;
    commit(&callers[0], S);
    forget(&callers[1], S);
    weir_redis_dedups_release(&dedups, dedup); /* its configuration goes first */
    dedup = NULL;
    weir_redis_dedups_dispose(&dedups);
    weir_redis_dedups_init(&dedups, &remote->remote, "weir:", TIMEOUT_NS, (weir_store_teller_t){ignore_ticket, NULL});
}

/* --- configurations --- */

static void test_a_new_configuration_keeps_what_runs(void **state)
{
    acquire();
    run(0, 1, S);
    weir_store_dedup_t *former = dedup;
    conf.lease_ns = 10 * S;
    acquire();
    assert_int_equal(ask(1, 1, S), PENDING);
    assert_string_equal(remoted_last(remote)->args[2], "10000");
    answer(flight_of("0000000000abcdef-1"), S);
    assert_int_equal(callers[1].told, SHARE);
    write_answer(&callers[0], "200", 5000, 'a');
    commit(&callers[0], S);
    weir_redis_dedups_release(&dedups, former);
    expect_end("done", S);
    assert_int_equal(read_all(&callers[1].reader, 'a'), 5000);
    let_go(&callers[1]);
}

static void test_by_hand(void **state)
{
    acquire();
    assert_true(weir_redis_dedups_reset(&dedups, dedup, key_of(1), S));
    assert_int_equal(remoted_last(remote)->script, WEIR_SCRIPT_drop);
    assert_int_equal(remoted_last(remote)->key_count, 2);
    answer(remoted_integer(1), S);
    remote->is_down = true;
    assert_false(weir_redis_dedups_reset(&dedups, dedup, key_of(1), S));
}

/* --- exact: false --- */

static void make_inexact(void)
{
    conf.exact = false;
    conf.on_duplicate = WEIR_ON_DUPLICATE_ACKNOWLEDGE;
    conf.in_flight = WEIR_IN_FLIGHT_REJECT;
}

static void test_inexact_knows_keys_alone(void **state)
{
    make_inexact();
    acquire();
    assert_int_equal(ask(0, 1, S), PENDING);
    const remoted_ask_t *asked = remoted_last(remote);
    assert_int_equal(asked->script, WEIR_SCRIPT_bloom);
    assert_string_equal(asked->keys[0], "weir:{bloom:orders:2935394:21:86400000}:0");
    assert_string_equal(asked->keys[1], "weir:{bloom:orders:2935394:21:86400000}:1");
    assert_int_equal(asked->arg_count, 1 + 21);
    assert_string_equal(asked->args[0], "86400000");
    answer(remoted_integer(0), S);
    assert_int_equal(callers[0].told, RUN);
    assert_int_equal(callers[0].claim.owner, 0);
    assert_null(callers[0].claim.stream);
    size_t count = remote->count;
    assert_true(renew(&callers[0], S));
    lose(&callers[0], S);
    forget(&callers[0], S);
    commit(&callers[0], S);
    assert_false(weir_redis_dedups_reset(&dedups, dedup, key_of(1), S));
    assert_int_equal(remote->count, count);
    assert_int_equal(ask(0, 1, S), PENDING);
    answer(remoted_integer(1), S);
    assert_int_equal(callers[0].told, DUPLICATE);
    assert_int_equal(ask(0, 1, S), PENDING);
    answer(word("run"), S);
    assert_int_equal(callers[0].told, DOWN);
    assert_int_equal(ask(0, 1, S), PENDING);
    fail_to(remoted_last(remote), WEIR_REMOTE_LOST, S);
    assert_int_equal(callers[0].told, DOWN);
    assert_int_equal(ask(0, 1, S), PENDING);
    abandon(&callers[0], S);
    answer(remoted_integer(0), S);
    assert_int_equal(ask(0, 1, S), PENDING);
    assert_int_equal(collect(&callers[0], 2 * S), DOWN);
    answer(remoted_integer(0), 3 * S);
    remote->is_down = true;
    assert_int_equal(ask(0, 1, S), DOWN);
}

/* Bits as bloom.lua sets them: filled up to what it is made for, it says yes as often as it may. */
static void test_inexact_says_yes_as_often_as_it_may(void **state)
{
    enum { KEYS = 20000, ASKED = 200000 };
    weir_redis_bloom_t bloom = weir_redis_bloom_of(KEYS, 0.001);
    uint64_t offsets[WEIR_REDIS_BLOOM_HASHES_MAX];
    uint8_t *bits = calloc(bloom.bits, 1);
    size_t seen = 0;
    for (uint64_t i = 0; i < KEYS + ASKED; ++i) {
        bool is_seen = true;
        weir_redis_bloom_offsets(&bloom, key_of(i), offsets);
        for (unsigned j = 0; j < bloom.hashes; ++j) {
            assert_true(offsets[j] < bloom.bits);
            is_seen = is_seen && bits[offsets[j]] != 0;
            bits[offsets[j]] |= i < KEYS;
        }
        seen += is_seen && i >= KEYS;
    }
    free(bits);
    assert_true(seen > ASKED / 1000 / 2 && seen < ASKED / 1000); /* 3/4 of it */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_one_that_runs_is_joined_here_and_told_to_redis),
        TEST(test_told_by_what_redis_says),
        TEST(test_an_answer_that_makes_no_sense_is_none),
        TEST(test_a_kept_answer_is_replayed_and_a_broken_one_is_not),
        TEST(test_an_empty_answer_is_one),
        TEST(test_answers_that_are_too_large_or_find_no_room_are_not_kept),
        TEST(test_who_gets_answers_by_configuration),
        TEST(test_done_here_before_redis_has_heard_of_it),
        TEST(test_who_waits_for_another_sidecar_asks_again),
        TEST(test_who_waits_runs_when_the_other_one_did_not),
        TEST(test_what_runs_here_and_is_not_there_is_asked_for_again_soon),
        TEST(test_what_ended_here_meanwhile_is_done_for_who_comes_after_it),
        TEST(test_what_ended_here_and_is_never_told_is_in_flight),
        TEST(test_what_it_waits_for),
        TEST(test_a_store_that_is_down),
        TEST(test_an_answer_that_is_late),
        TEST(test_a_lost_question_may_have_been_heard),
        TEST(test_what_is_remembered_to_be_freed_is_bounded),
        TEST(test_requests_that_leave),
        TEST(test_requests_that_leave_before_they_collect),
        TEST(test_a_run_that_is_collected_too_late),
        TEST(test_renewed_one_at_a_time_and_counted_from_when_it_was_sent),
        TEST(test_an_owner_that_cannot_renew_stops_in_time),
        TEST(test_an_owner_whose_key_is_anothers_stops),
        TEST(test_an_owner_that_was_forgotten_by_hand_goes_on),
        TEST(test_an_end_is_not_said_before_the_renewal_was_answered),
        TEST(test_ends),
        TEST(test_an_end_that_is_not_heard_is_sent_again),
        TEST(test_an_end_that_is_never_heard_is_given_up),
        TEST(test_ends_are_kept_where_answers_have_no_room_and_bounded),
        TEST(test_the_store_ends_with_ends_that_are_kept),
        TEST(test_a_new_configuration_keeps_what_runs),
        TEST(test_by_hand),
        TEST(test_inexact_knows_keys_alone),
        TEST(test_inexact_says_yes_as_often_as_it_may),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
