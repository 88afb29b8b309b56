/* The limit filter, where a request waits for a slot: how long, in which lane, what the caller is told, and what
 * becomes of it when it ends while it waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "limited.h"

#define MS INT64_C(1000000)

/* A request of a tenant, known by a letter. */
static weir_verdict_t come(void *filter, asked_t *asked, char letter, weir_str_t tenant, int64_t now_ns)
{
    prepare(asked, tenant, now_ns);
    asked->request.ticket = (weir_ticket_t){.slot = (uint8_t)letter};
    return admit(filter, asked);
}

static void end(void *filter, asked_t *asked, int64_t now_ns)
{
    asked->request.now_ns = now_ns;
    done(filter, asked, WEIR_REASON_NONE, true);
}

/* Whether none was lost, of a limit of one. */
static bool is_slot_free(void *filter)
{
    asked_t asked;
    weir_verdict_t verdict = come(filter, &asked, 'z', STR("acme"), 100 * S);
    end(filter, &asked, 100 * S);
    return verdict.kind == WEIR_PASS;
}

static void test_it_waits_is_granted_and_passes(void **state)
{
    add_slots("slots", 1, 10, 500 * MS);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t first, second;
    assert_int_equal(come(filter, &first, '1', STR("acme"), S).kind, WEIR_PASS);
    assert_string_equal(first.policy, "\"slots\";q=1");
    assert_string_equal(first.limits, "\"slots\";r=0");
    weir_verdict_t verdict = come(filter, &second, '2', STR("acme"), S + MS);
    assert_int_equal(verdict.kind, WEIR_AWAIT);
    assert_int_equal(verdict.until_ns, S + 501 * MS);
    assert_int_equal(second.added, 0);
    verdict = wake(filter, &second, S + 100 * MS); /* for nothing */
    assert_int_equal(verdict.kind, WEIR_AWAIT);
    assert_int_equal(verdict.until_ns, S + 501 * MS);
    assert_string_equal(queue_left, "");
    end(filter, &first, S + 200 * MS);
    assert_string_equal(told, "2");
    assert_int_equal(wake(filter, &second, S + 201 * MS).kind, WEIR_PASS);
    assert_string_equal(queue_left, "slots 200");
    assert_string_equal(second.limits, "\"slots\";r=0");
    end(filter, &second, S + 300 * MS);
    assert_string_equal(queue_left, "slots 200"); /* once */
    assert_int_equal(decided[WEIR_DECISION_ADMITTED], 2);
    assert_int_equal(decided[WEIR_DECISION_REFUSED], 0);
    assert_true(is_slot_free(filter));
    stop(store, filter);
}

static void test_it_waits_no_longer_than_it_may(void **state)
{
    add_slots("slots", 1, 10, 500 * MS);
    setup.routes[0].on_limit.status = 503;
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t first, second, third;
    come(filter, &first, '1', STR("acme"), S);
    come(filter, &second, '2', STR("acme"), S);
    assert_int_equal(wake(filter, &second, S + 500 * MS - 1).kind, WEIR_AWAIT);
    weir_verdict_t verdict = wake(filter, &second, S + 500 * MS);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_QUEUE_TIMEOUT);
    assert_int_equal(verdict.status, 503);
    assert_int_equal(verdict.retry_after_ns, S);
    assert_int_equal(verdict.violated_count, 1);
    assert_string_equal(verdict.violated[0], "slots");
    assert_string_equal(second.limits, "\"slots\";r=0");
    done(filter, &second, verdict.reason, false);
    assert_string_equal(queue_left, "slots 500");
    assert_int_equal(decided[WEIR_DECISION_REFUSED], 1);
    come(filter, &third, '3', STR("acme"), S + 500 * MS);
    end(filter, &first, S + 600 * MS);
    assert_string_equal(told, "3");                                /* nobody stands before it any more */
    assert_int_equal(wake(filter, &third, 2 * S).kind, WEIR_PASS); /* late, but it has its slot */
    end(filter, &third, 2 * S);
    assert_true(is_slot_free(filter));
    stop(store, filter);
}

/* Its body's time included. */
static void test_it_waits_no_longer_than_the_route_may_take(void **state)
{
    static const struct {
        int64_t route_ns, upstream_ns, body_ns, until_ns;
    } rows[] = {
        {0, 900 * S, 0, 500 * MS},
        {300 * MS, 900 * S, 0, 300 * MS},
        {0, 300 * MS, 0, 300 * MS},
        {300 * MS, 900 * S, 200 * MS, 300 * MS},
        {600 * MS, 100 * MS, 0, 500 * MS},
        {600 * MS, 900 * S, 200 * MS, 600 * MS},
        {900 * S, 900 * S, 200 * MS, 700 * MS},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        set_up(state);
        add_slots("slots", 1, 10, 500 * MS);
        setup.routes[0].timeout_ns = rows[i].route_ns;
        setup.upstream.timeouts.total_ns = rows[i].upstream_ns;
        setup.upstream.dialect = WEIR_DIALECT_OPENAI;
        void *filter;
        weir_store_t *store = start(&filter);
        asked_t first, second;
        come(filter, &first, '1', STR("acme"), S);
        prepare(&second, STR("acme"), S);
        second.request.body_bytes = rows[i].body_ns != 0 ? 100 : 0;
        weir_verdict_t verdict = admit(filter, &second);
        if (rows[i].body_ns != 0) {
            assert_int_equal(verdict.kind, WEIR_NEED_BODY);
            second.request.picked = &second.picked;
            verdict = wake(filter, &second, S + rows[i].body_ns);
        }
        assert_int_equal(verdict.kind, WEIR_AWAIT);
        assert_int_equal(verdict.until_ns, S + rows[i].until_ns);
        assert_int_equal(wake(filter, &second, verdict.until_ns - 1).kind, WEIR_AWAIT);
        verdict = wake(filter, &second, verdict.until_ns);
        assert_int_equal(verdict.kind, WEIR_ANSWER);
        assert_int_equal(verdict.reason, WEIR_REASON_QUEUE_TIMEOUT);
        assert_int_equal(verdict.retry_after_ns, S);
        assert_string_equal(second.limits, "\"slots\";r=0");
        assert_int_equal(decided[WEIR_DECISION_REFUSED], 1);
        done(filter, &second, verdict.reason, false);
        end(filter, &first, 2 * S);
        assert_true(is_slot_free(filter));
        stop(store, filter);
    }
}

static void test_a_full_queue_and_one_who_gave_way(void **state)
{
    weir_conf_limit_t *limit = add_slots("slots", 1, 2, S);
    set_key(limit, NULL, 0);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t running, waiting[2], late, other;
    come(filter, &running, '0', STR("acme"), S);
    for (int i = 0; i < 2; ++i)
        assert_int_equal(come(filter, &waiting[i], (char)('1' + i), STR("acme"), S).kind, WEIR_AWAIT);
    weir_verdict_t verdict = come(filter, &late, '3', STR("acme"), S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_QUEUE_FULL);
    assert_int_equal(verdict.status, 429);
    assert_int_equal(verdict.retry_after_ns, S);
    assert_string_equal(verdict.violated[0], "slots");
    done(filter, &late, verdict.reason, false);
    assert_string_equal(queue_left, ""); /* it never was in it */
    assert_int_equal(come(filter, &other, '4', STR("other"), S).kind, WEIR_AWAIT);
    assert_string_equal(told, "2");
    verdict = wake(filter, &waiting[1], S + 3 * MS);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_QUEUE_FULL);
    done(filter, &waiting[1], verdict.reason, false);
    assert_string_equal(queue_left, "slots 3");
    done(filter, &waiting[0], WEIR_REASON_CLIENT_GONE, false);
    done(filter, &other, WEIR_REASON_CLIENT_GONE, false);
    end(filter, &running, S + 5 * MS);
    assert_string_equal(told, "2");
    assert_string_equal(queue_left, "slots 3,slots 0,slots 0");
    assert_true(is_slot_free(filter));
    stop(store, filter);
}

/* While it waits, and when it was granted a slot that it did not take up yet. */
static void test_it_ends_while_it_waits(void **state)
{
    add_slots("slots", 1, 10, 10 * S);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t running, askers[3];
    come(filter, &running, '0', STR("acme"), S);
    for (int i = 0; i < 3; ++i)
        come(filter, &askers[i], (char)('1' + i), STR("acme"), S);
    askers[0].request.now_ns = 2 * S;
    done(filter, &askers[0], WEIR_REASON_CLIENT_GONE, false);
    assert_string_equal(queue_left, "slots 1000");
    assert_string_equal(told, "");
    end(filter, &running, 3 * S);
    assert_string_equal(told, "2");
    askers[1].request.now_ns = 3 * S;
    done(filter, &askers[1], WEIR_REASON_CLIENT_GONE, false);
    assert_string_equal(told, "23");
    assert_int_equal(wake(filter, &askers[2], 3 * S).kind, WEIR_PASS);
    done(filter, &askers[2], WEIR_REASON_OVERLOADED, false); /* a later filter refused */
    assert_true(is_slot_free(filter));
    assert_int_equal(decided[WEIR_DECISION_REFUSED], 0);
    stop(store, filter);
}

/* If anything but slots is missed, the reason is the limit, and nobody waits. */
static void test_the_reason_where_several_refuse(void **state)
{
    add_slots("slots", 1, 1, S);
    add_bucket("daily", 1, D, 2);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t running, waiting, late;
    come(filter, &running, '0', STR("acme"), S);
    assert_int_equal(come(filter, &waiting, '1', STR("acme"), S).kind, WEIR_AWAIT);
    weir_verdict_t verdict = come(filter, &late, '2', STR("acme"), S);
    assert_int_equal(verdict.reason, WEIR_REASON_QUEUE_FULL);
    assert_int_equal(verdict.violated_count, 1);
    end(filter, &running, S);
    assert_int_equal(wake(filter, &waiting, S).kind, WEIR_PASS);
    verdict = come(filter, &late, '2', STR("acme"), S); /* the day is used up, too */
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.violated_count, 2);
    assert_int_equal(verdict.retry_after_ns, D);
    end(filter, &waiting, S);
    verdict = come(filter, &late, '2', STR("acme"), S);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.violated_count, 1);
    stop(store, filter);
}

/* Displaced, and by then something else is used up as well. */
static void test_the_reason_of_one_who_gave_way(void **state)
{
    set_key(add_bucket("daily", 1, D, 2), NULL, 0);
    set_key(add_slots("slots", 1, 2, S), NULL, 0);
    set_key(add_slots("others", 9, 0, 0), NULL, 0);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t running, waiting[2], other, last;
    come(filter, &running, '0', STR("acme"), S);
    come(filter, &waiting[0], '1', STR("acme"), S);
    come(filter, &waiting[1], '2', STR("acme"), S);
    come(filter, &other, '3', STR("other"), S);
    assert_string_equal(told, "2");
    end(filter, &running, S);
    assert_int_equal(wake(filter, &waiting[0], S).kind, WEIR_PASS);
    weir_verdict_t verdict = wake(filter, &waiting[1], S);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.violated_count, 2);
    assert_int_equal(verdict.retry_after_ns, D);
    end(filter, &waiting[0], S);
    assert_string_equal(told, "213");
    verdict = wake(filter, &other, S);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.violated_count, 1);
    assert_int_equal(come(filter, &last, '4', STR("acme"), S + D).kind, WEIR_PASS);
    end(filter, &last, S + D);
    stop(store, filter);
}

static void test_without_a_queue_it_is_the_limit(void **state)
{
    add_slots("slots", 1, 0, 0);
    add_slots("shadow", 1, 10, S)->mode = WEIR_LIMIT_SHADOW;
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t running, late;
    come(filter, &running, '0', STR("acme"), S);
    weir_verdict_t verdict = come(filter, &late, '1', STR("acme"), S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_LIMIT);
    assert_int_equal(verdict.retry_after_ns, S);
    assert_string_equal(late.policy, "\"slots\";q=1");
    assert_int_equal(decided[WEIR_DECISION_SHADOW_REFUSED], 1);
    end(filter, &running, S);
    assert_true(is_slot_free(filter));
    stop(store, filter);
}

static void test_from_one_queue_to_the_next(void **state)
{
    static const weir_conf_key_part_t by_route[] = {{.kind = WEIR_KEY_ROUTE}};
    add_slots("first", 1, 10, 300 * MS);
    set_key(add_slots("second", 1, 10, 900 * MS), by_route, 1);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t own, other, both;
    come(filter, &own, '0', STR("acme"), S);                                       /* has both */
    assert_int_equal(come(filter, &other, '1', STR("other"), S).kind, WEIR_AWAIT); /* for the second */
    weir_verdict_t verdict = come(filter, &both, '2', STR("acme"), S);
    assert_int_equal(verdict.until_ns, S + 300 * MS);
    end(filter, &own, S + 100 * MS);
    assert_string_equal(told, "21");
    assert_int_equal(wake(filter, &other, S + 100 * MS).kind, WEIR_PASS);
    verdict = wake(filter, &both, S + 100 * MS); /* granted the first: now it waits for the second, from when it came */
    assert_int_equal(verdict.kind, WEIR_AWAIT);
    assert_int_equal(verdict.until_ns, S + 900 * MS);
    assert_string_equal(queue_left, "second 100,first 100");
    assert_int_equal(come(filter, &own, '3', STR("acme"), S + 150 * MS).until_ns, S + 450 * MS); /* it has the first */
    end(filter, &other, S + 200 * MS);
    assert_int_equal(wake(filter, &both, S + 200 * MS).kind, WEIR_PASS);
    assert_string_equal(queue_left, "second 100,first 100,second 100");
    end(filter, &both, S + 300 * MS);
    assert_int_equal(wake(filter, &own, S + 300 * MS).kind, WEIR_PASS);
    end(filter, &own, S + 300 * MS);
    assert_true(is_slot_free(filter));
    stop(store, filter);
}

static void test_a_wait_of_0_is_no_wait(void **state)
{
    add_slots("slots", 1, 10, 0);
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t running, late;
    come(filter, &running, '0', STR("acme"), S);
    weir_verdict_t verdict = come(filter, &late, '1', STR("acme"), S);
    assert_int_equal(verdict.kind, WEIR_ANSWER);
    assert_int_equal(verdict.reason, WEIR_REASON_QUEUE_TIMEOUT);
    done(filter, &late, verdict.reason, false);
    end(filter, &running, S);
    assert_string_equal(told, "");
    assert_true(is_slot_free(filter));
    stop(store, filter);
}

/* Priority: each row is a caller; those behind are let in in the order of the letters in `order`. */
static void test_whose_priority_is_believed(void **state)
{
    static const struct {
        bool trusted;
        const char *values[2];
    } rows[] = {
        {true, {"background"}},       /* a */
        {true, {NULL}},               /* b */
        {true, {"urgent"}},           /* c */
        {false, {"urgent"}},          /* d: normal */
        {true, {"Urgent"}},           /* e: no such word: normal */
        {true, {"urgent", "urgent"}}, /* f: twice: normal */
        {true, {"urgent"}},           /* g */
        {true, {"normal"}},           /* h */
        {false, {"background"}},      /* i: normal */
    };
    enum { ROWS = sizeof(rows) / sizeof(*rows) };
    static asked_t askers[ROWS], running;
    add_slots("slots", 1, 20, 100 * S)->queue.priority = "X-Priority";
    void *filter;
    weir_store_t *store = start(&filter);
    come(filter, &running, '0', STR("acme"), S);
    for (size_t i = 0; i < ROWS; ++i) {
        prepare(&askers[i], STR("acme"), S);
        askers[i].request.ticket.slot = (uint32_t)('a' + i);
        askers[i].request.trusted = rows[i].trusted;
        for (size_t j = 0; j < 2 && rows[i].values[j] != NULL; ++j)
            add_field(&askers[i], STR("x-priority"), (weir_str_t){rows[i].values[j], strlen(rows[i].values[j])});
        assert_int_equal(admit(filter, &askers[i]).kind, WEIR_AWAIT);
        bool is_dropped = !rows[i].trusted;
        assert_int_equal(askers[i].request.identity_ignored, is_dropped);
        assert_int_equal(weir_request_is_dropped(&askers[i].request, 0), is_dropped);
    }
    asked_t *last = &running;
    for (size_t i = 0; i < ROWS; ++i) {
        end(filter, last, S);
        last = &askers[told[i] - 'a'];
        assert_int_equal(wake(filter, last, S).kind, WEIR_PASS);
    }
    end(filter, last, S);
    assert_string_equal(told, "cgbdefhia");
    stop(store, filter);
}

static void test_an_untrusted_priority_is_dropped_where_nobody_waits(void **state)
{
    add_slots("slots", 5, 0, 0)->queue.priority = "X-Priority";
    void *filter;
    weir_store_t *store = start(&filter);
    asked_t asked;
    prepare(&asked, STR("acme"), S);
    asked.request.trusted = false;
    add_field(&asked, STR("x-other"), STR("urgent"));
    assert_int_equal(admit(filter, &asked).kind, WEIR_PASS);
    assert_false(asked.request.identity_ignored);
    end(filter, &asked, S);
    prepare(&asked, STR("acme"), S);
    asked.request.trusted = false;
    add_field(&asked, STR("x-other"), STR("urgent"));
    add_field(&asked, STR("x-priority"), STR("urgent"));
    add_field(&asked, STR("x-priority"), STR("normal"));
    assert_int_equal(admit(filter, &asked).kind, WEIR_PASS);
    assert_true(asked.request.identity_ignored);
    assert_false(weir_request_is_dropped(&asked.request, 0));
    assert_true(weir_request_is_dropped(&asked.request, 1) && weir_request_is_dropped(&asked.request, 2));
    end(filter, &asked, S);
    stop(store, filter);
}

/* A reload: whoever waits goes on with the configuration that he came with, in the same line. */
static void test_a_reload_while_somebody_waits(void **state)
{
    add_slots("slots", 1, 10, 10 * S);
    static setup_t before;
    before = setup;
    before.conf.limits.entries = before.limits;
    void *unused, *filter;
    weir_store_t *store = start(&unused);
    filter = weir_filter_limit.create(&before.conf, store);
    weir_filter_limit.destroy(unused);
    asked_t running, waiting, late;
    come(filter, &running, '0', STR("acme"), S);
    come(filter, &waiting, '1', STR("acme"), S);
    setup.limits[0].quota.limit = 2;
    void *renewed = weir_filter_limit.create(&setup.conf, store);
    assert_string_equal(told, "1");
    assert_int_equal(wake(filter, &waiting, S).kind, WEIR_PASS);
    assert_int_equal(come(renewed, &late, '2', STR("acme"), S).kind, WEIR_AWAIT);
    end(filter, &running, S);
    assert_string_equal(told, "12");
    assert_int_equal(wake(renewed, &late, S).kind, WEIR_PASS);
    end(filter, &waiting, S);
    weir_filter_limit.destroy(filter);
    end(renewed, &late, S);
    stop(store, renewed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_it_waits_is_granted_and_passes, set_up),
        cmocka_unit_test_setup(test_it_waits_no_longer_than_it_may, set_up),
        cmocka_unit_test_setup(test_it_waits_no_longer_than_the_route_may_take, set_up),
        cmocka_unit_test_setup(test_a_full_queue_and_one_who_gave_way, set_up),
        cmocka_unit_test_setup(test_it_ends_while_it_waits, set_up),
        cmocka_unit_test_setup(test_the_reason_where_several_refuse, set_up),
        cmocka_unit_test_setup(test_the_reason_of_one_who_gave_way, set_up),
        cmocka_unit_test_setup(test_without_a_queue_it_is_the_limit, set_up),
        cmocka_unit_test_setup(test_from_one_queue_to_the_next, set_up),
        cmocka_unit_test_setup(test_a_wait_of_0_is_no_wait, set_up),
        cmocka_unit_test_setup(test_whose_priority_is_believed, set_up),
        cmocka_unit_test_setup(test_an_untrusted_priority_is_dropped_where_nobody_waits, set_up),
        cmocka_unit_test_setup(test_a_reload_while_somebody_waits, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
