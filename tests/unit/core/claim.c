/* Claims: every state and event in a table, random events against a list of what happened, and the ends of time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/claim.h"

enum { OWNER = 7, OTHER = 8, FINGERPRINT = 100, NOW = 1000, LEASE = 30, WINDOW = 500 };

typedef enum { ASK, ASK_OTHER, ASK_ANYTHING, RENEW, COMMIT, FORGET, LOSE, LOSE_REMEMBERING, EVENTS } event_t;

/* What an event answers, as one number: what `ask` tells, or whether it was the owner's. */
static int act(weir_claim_t *claim, event_t event, uint64_t owner, int64_t lease_ns, int64_t window_ns, int64_t now_ns)
{
    switch (event) {
    case ASK:
        return weir_claim_ask(claim, owner, FINGERPRINT, true, lease_ns, now_ns);
    case ASK_OTHER:
        return weir_claim_ask(claim, owner, FINGERPRINT + 1, true, lease_ns, now_ns);
    case ASK_ANYTHING:
        return weir_claim_ask(claim, owner, FINGERPRINT + 1, false, lease_ns, now_ns);
    case RENEW:
        return weir_claim_renew(claim, owner, lease_ns, now_ns);
    case COMMIT:
        return weir_claim_commit(claim, owner, window_ns, now_ns);
    case FORGET:
        return weir_claim_forget(claim, owner, now_ns);
    case LOSE:
        return weir_claim_lose(claim, owner, false, window_ns, now_ns);
    default:
        return weir_claim_lose(claim, owner, true, window_ns, now_ns);
    }
}

static weir_claim_t claim_in(weir_claim_state_t state, int64_t until_ns)
{
    weir_claim_t claim = {.fingerprint = FINGERPRINT, .until_ns = until_ns, .state = (uint8_t)state};
    if (state == WEIR_CLAIM_FREE)
        memset(&claim, 0, sizeof(claim));
    if (state == WEIR_CLAIM_IN_FLIGHT)
        claim.owner = OWNER;
    return claim;
}

/* For each state: what each event answers, of the owner and of another one, and where it leads. */
static void test_every_state_and_event(void **state)
{
    enum { FREE = WEIR_CLAIM_FREE, FLIES = WEIR_CLAIM_IN_FLIGHT, DONE = WEIR_CLAIM_DONE, LOST = WEIR_CLAIM_UNKNOWN };
    enum { RUN, RUNS = WEIR_CLAIM_IS_RUNNING, IS_DONE, IS_LOST, IS_OTHER = WEIR_CLAIM_IS_OTHER };
    static const struct {
        int answer, state;
    } table[4][2][EVENTS] = {
        [FREE] = {{{RUN, FLIES}, {RUN, FLIES}, {RUN, FLIES}, {0, FREE}, {0, FREE}, {0, FREE}, {0, FREE}, {0, FREE}},
                  {{RUN, FLIES}, {RUN, FLIES}, {RUN, FLIES}, {0, FREE}, {0, FREE}, {0, FREE}, {0, FREE}, {0, FREE}}},
        [FLIES] =
            {{{RUNS, FLIES}, {IS_OTHER, FLIES}, {RUNS, FLIES}, {1, FLIES}, {1, DONE}, {1, FREE}, {1, FREE}, {1, LOST}},
             {{RUNS, FLIES},
              {IS_OTHER, FLIES},
              {RUNS, FLIES},
              {0, FLIES},
              {0, FLIES},
              {0, FLIES},
              {0, FLIES},
              {0, FLIES}}},
        [DONE] = {{{IS_DONE, DONE},
                   {IS_OTHER, DONE},
                   {IS_DONE, DONE},
                   {0, DONE},
                   {0, DONE},
                   {0, DONE},
                   {0, DONE},
                   {0, DONE}},
                  {{IS_DONE, DONE},
                   {IS_OTHER, DONE},
                   {IS_DONE, DONE},
                   {0, DONE},
                   {0, DONE},
                   {0, DONE},
                   {0, DONE},
                   {0, DONE}}},
        [LOST] = {{{IS_LOST, LOST},
                   {IS_OTHER, LOST},
                   {IS_LOST, LOST},
                   {0, LOST},
                   {0, LOST},
                   {0, LOST},
                   {0, LOST},
                   {0, LOST}},
                  {{IS_LOST, LOST},
                   {IS_OTHER, LOST},
                   {IS_LOST, LOST},
                   {0, LOST},
                   {0, LOST},
                   {0, LOST},
                   {0, LOST},
                   {0, LOST}}},
    };
    for (int from = 0; from < 4; ++from)
        for (int other = 0; other < 2; ++other)
            for (int event = 0; event < EVENTS; ++event)
                for (int ended = 0; ended < 2; ++ended) { /* what time has ended is as free */
                    int as = ended ? FREE : from;
                    weir_claim_t claim = claim_in((weir_claim_state_t)from, ended ? NOW : NOW + 1), before = claim;
                    int answer = act(&claim, (event_t)event, other ? OTHER : OWNER, LEASE, WINDOW, NOW);
                    if (answer != table[as][other][event].answer ||
                        (int)weir_claim_state(&claim, NOW) != table[as][other][event].state)
                        fail_msg("%d, %s, event %d: %d, %d", from, other ? "other" : "owner", event, answer,
                                 weir_claim_state(&claim, NOW));
                    bool changes = event <= ASK_ANYTHING ? answer == RUN : answer == 1;
                    if (!changes)
                        assert_memory_equal(&claim, &before, sizeof(claim));
                }
}

static void test_what_is_kept(void **state)
{
    weir_claim_t claim = {0};
    assert_int_equal(weir_claim_ask(&claim, OWNER, 5, true, LEASE, NOW), WEIR_CLAIM_RUN);
    assert_int_equal(claim.owner, OWNER);
    assert_int_equal(claim.fingerprint, 5);
    assert_int_equal(claim.until_ns, NOW + LEASE);
    assert_true(weir_claim_renew(&claim, OWNER, LEASE, NOW + LEASE - 1));
    assert_int_equal(claim.until_ns, NOW + 2 * LEASE - 1);
    assert_int_equal(weir_claim_state(&claim, NOW + 2 * LEASE - 2), WEIR_CLAIM_IN_FLIGHT);
    assert_int_equal(weir_claim_state(&claim, NOW + 2 * LEASE - 1), WEIR_CLAIM_FREE);
    assert_true(weir_claim_commit(&claim, OWNER, WINDOW, NOW + 40));
    assert_int_equal(claim.until_ns, NOW + 40 + WINDOW);
    assert_int_equal(claim.fingerprint, 5);
    assert_int_equal(weir_claim_peek(&claim, 5, true, NOW + 40 + WINDOW - 1), WEIR_CLAIM_IS_DONE);
    assert_int_equal(weir_claim_peek(&claim, 6, true, NOW + 40 + WINDOW - 1), WEIR_CLAIM_IS_OTHER);
    assert_int_equal(weir_claim_peek(&claim, 6, true, NOW + 40 + WINDOW), WEIR_CLAIM_RUN);
    static const weir_claim_t none;
    assert_int_equal(weir_claim_ask(&claim, OTHER, 6, true, LEASE, NOW + 40 + WINDOW), WEIR_CLAIM_RUN);
    assert_true(weir_claim_forget(&claim, OTHER, NOW + 40 + WINDOW));
    assert_memory_equal(&claim, &none, sizeof(claim));
}

static void test_who_came_late_changes_nothing(void **state)
{
    weir_claim_t claim = {0};
    assert_int_equal(weir_claim_ask(&claim, OWNER, 5, true, LEASE, NOW), WEIR_CLAIM_RUN);
    assert_int_equal(weir_claim_ask(&claim, OTHER, 5, true, LEASE, NOW + LEASE), WEIR_CLAIM_RUN);
    weir_claim_t before = claim;
    for (event_t event = RENEW; event < EVENTS; ++event)
        assert_int_equal(act(&claim, event, OWNER, LEASE, WINDOW, NOW + LEASE), 0);
    assert_memory_equal(&claim, &before, sizeof(claim));
}

static void test_extremes(void **state)
{
    weir_claim_t claim = {0};
    assert_int_equal(weir_claim_ask(&claim, OWNER, 0, true, INT64_MAX, 0), WEIR_CLAIM_RUN);
    assert_int_equal(weir_claim_state(&claim, INT64_MAX), WEIR_CLAIM_IN_FLIGHT); /* it does not end by time */
    assert_true(weir_claim_renew(&claim, OWNER, INT64_MAX, INT64_MAX));
    assert_int_equal(claim.until_ns, INT64_MAX);
    assert_int_equal(weir_claim_peek(&claim, 0, true, INT64_MAX), WEIR_CLAIM_IS_RUNNING);
    assert_true(weir_claim_commit(&claim, OWNER, WINDOW, INT64_MAX - 1));
    assert_int_equal(claim.until_ns, INT64_MAX);
    assert_int_equal(weir_claim_state(&claim, INT64_MAX), WEIR_CLAIM_DONE);
    memset(&claim, 0, sizeof(claim));
    assert_int_equal(weir_claim_ask(&claim, UINT64_MAX, UINT64_MAX, true, 1, 0), WEIR_CLAIM_RUN);
    assert_int_equal(weir_claim_ask(&claim, 1, UINT64_MAX, true, 1, 0), WEIR_CLAIM_IS_RUNNING);
    assert_true(weir_claim_lose(&claim, UINT64_MAX, true, INT64_MAX, 0));
    assert_int_equal(weir_claim_state(&claim, INT64_MAX), WEIR_CLAIM_UNKNOWN);
    memset(&claim, 0, sizeof(claim));
    assert_int_equal(weir_claim_ask(&claim, 1, 0, true, 0, 5), WEIR_CLAIM_RUN); /* a lease that is over at once */
    assert_false(weir_claim_renew(&claim, 1, 10, 5));
    assert_int_equal(weir_claim_ask(&claim, 2, 0, true, 10, 5), WEIR_CLAIM_RUN);
}

/* A list of all that was told to owners: of a key one runs at most, and what is told follows from who ran last. */
typedef struct {
    uint64_t owner, fingerprint; /* of who was told to run last */
    int64_t lease_ends_ns;       /* as he reckons */
    bool has_ended;
    weir_claim_state_t ended_as;
    int64_t ended_ns;
} history_t;

static weir_claim_state_t expected_state(const history_t *history, int64_t window_ns, int64_t now_ns)
{
    if (history->owner == 0)
        return WEIR_CLAIM_FREE;
    if (!history->has_ended)
        return now_ns < history->lease_ends_ns ? WEIR_CLAIM_IN_FLIGHT : WEIR_CLAIM_FREE;
    return now_ns < history->ended_ns + window_ns ? history->ended_as : WEIR_CLAIM_FREE;
}

static void expect_ask(history_t *history, weir_claim_t *claim, uint64_t owner, seeded_t *seeded, int64_t now_ns)
{
    static const weir_claim_told_t told[] = {WEIR_CLAIM_RUN, WEIR_CLAIM_IS_RUNNING, WEIR_CLAIM_IS_DONE,
                                             WEIR_CLAIM_IS_UNKNOWN};
    uint64_t fingerprint = seeded_below(seeded, 3) == 0 ? 2 : 1;
    bool compares = seeded_below(seeded, 4) != 0;
    weir_claim_state_t before = expected_state(history, WINDOW, now_ns);
    bool is_other = before != WEIR_CLAIM_FREE && compares && fingerprint != history->fingerprint;
    weir_claim_told_t expected = is_other ? WEIR_CLAIM_IS_OTHER : told[before];
    assert_int_equal(weir_claim_peek(claim, fingerprint, compares, now_ns), expected);
    assert_int_equal(weir_claim_ask(claim, owner, fingerprint, compares, LEASE, now_ns), expected);
    if (expected == WEIR_CLAIM_RUN)
        *history = (history_t){owner, fingerprint, now_ns + LEASE};
}

static void expect_end(history_t *history, weir_claim_t *claim, event_t event, uint64_t owner, int64_t now_ns)
{
    static const weir_claim_state_t ends[] = {[COMMIT] = WEIR_CLAIM_DONE,
                                              [FORGET] = WEIR_CLAIM_FREE,
                                              [LOSE] = WEIR_CLAIM_FREE,
                                              [LOSE_REMEMBERING] = WEIR_CLAIM_UNKNOWN};
    bool is_his = owner == history->owner && expected_state(history, WINDOW, now_ns) == WEIR_CLAIM_IN_FLIGHT;
    assert_int_equal(act(claim, event, owner, LEASE, WINDOW, now_ns), is_his);
    if (!is_his)
        return;
    if (event == RENEW)
        history->lease_ends_ns = now_ns + LEASE;
    else
        *history = (history_t){history->owner, history->fingerprint, 0, true, ends[event], now_ns};
}

static void test_random_events_against_a_history(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (int round = 0; round < 200; ++round) {
        weir_claim_t claim = {0};
        history_t history = {0};
        int64_t now_ns = 0;
        uint64_t owners = 0;
        for (int i = 0; i < 1000; ++i) {
            now_ns += (int64_t)seeded_below(&seeded, seeded_below(&seeded, 20) == 0 ? 2 * WINDOW : LEASE);
            event_t event = (event_t)seeded_below(&seeded, EVENTS);
            if (event <= ASK_ANYTHING)
                expect_ask(&history, &claim, ++owners, &seeded, now_ns);
            else /* mostly the one who may */
                expect_end(&history, &claim, event,
                           seeded_below(&seeded, 3) != 0 && history.owner != 0 ? history.owner
                                                                               : 1 + seeded_below(&seeded, owners + 1),
                           now_ns);
            assert_int_equal(weir_claim_state(&claim, now_ns), expected_state(&history, WINDOW, now_ns));
        }
    }
}

static void test_words(void **state)
{
    assert_string_equal(weir_claim_word(WEIR_CLAIM_FREE), "free");
    assert_string_equal(weir_claim_word(WEIR_CLAIM_IN_FLIGHT), "in_flight");
    assert_string_equal(weir_claim_word(WEIR_CLAIM_DONE), "done");
    assert_string_equal(weir_claim_word(WEIR_CLAIM_UNKNOWN), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_state_and_event),           cmocka_unit_test(test_what_is_kept),
        cmocka_unit_test(test_who_came_late_changes_nothing),   cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_random_events_against_a_history), cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
