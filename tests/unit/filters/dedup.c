/* The dedup filter on its own, with the store in memory: what each request gets, and what becomes of those that ran. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "../../../filters/dedup.h"
#include "deduped.h"

#define STR(text) ((weir_str_t){text, sizeof(text) - 1})

extern const weir_filter_t weir_filter_dedup;

enum { ROUTES = 3, FIELDS_MAX = 8 };

static weir_conf_dedup_key_t keys[4];
static const char *methods[] = {"POST", "PUT"};
static weir_conf_dedup_t *conf;
static struct {
    weir_conf_t conf;
    weir_conf_dedup_t dedups[1];
    weir_conf_listener_t listeners[2];
    weir_conf_route_t routes[ROUTES];
} setup;
static weir_store_t *store;
static weir_dedups_t *filter;
static size_t decided[WEIR_DEDUP_RESULTS], forgotten_full, false_positives;

static int set_up(void **state)
{
    memset(&setup, 0, sizeof(setup));
    conf = setup.dedups;
    *conf = dedup_of_defaults();
    keys[0] = (weir_conf_dedup_key_t){WEIR_DEDUP_KEY_HEADER, "Idempotency-Key"};
    keys[1] = (weir_conf_dedup_key_t){WEIR_DEDUP_KEY_CLOUDEVENT, NULL};
    conf->key.entries = keys;
    conf->key.size = 2;
    conf->methods.entries = methods;
    conf->methods.size = 2;
    conf->acknowledge.status = 204;
    for (int status = 200; status < 300; ++status)
        conf->keep_statuses.bits[(status - 100) / 64] |= (uint64_t)1 << (status - 100) % 64;
    conf->keep_statuses.bits[(400 - 100) / 64] |= (uint64_t)1 << (400 - 100) % 64;
    setup.conf.dedup.entries = setup.dedups;
    setup.conf.dedup.size = 1;
    setup.conf.listeners.entries = setup.listeners;
    setup.conf.listeners.size = 2;
    for (size_t i = 0; i < 2; ++i) {
        setup.listeners[i].name = i == 0 ? "in" : "out";
        setup.listeners[i].routes.entries = setup.routes;
        setup.listeners[i].routes.size = ROUTES;
    }
    for (size_t i = 0; i < ROUTES; ++i) {
        setup.routes[i].path = i == 0 ? "/" : i == 1 ? "/other" : "/free";
        setup.routes[i].dedup = i != 2 ? 0 : SIZE_MAX;
    }
    memset(decided, 0, sizeof(decided));
    forgotten_full = false_positives = 0;
    store = create_store();
    filter = NULL;
    return 0;
}

static void start(void)
{
    filter = weir_filter_dedup.create(&setup.conf, store);
}

static int tear_down(void **state)
{
    if (filter != NULL) {
        weir_store_dedup_told_t told = tell_of(store, "orders", S);
        assert_in_range(told.answer_bytes, 0, (int64_t)conf->memory_bytes);
        weir_filter_dedup.destroy(filter);
    }
    store->destroy(store);
    return 0;
}

/* A request, and all that comes of it. */
typedef struct {
    weir_request_t request;
    _Alignas(16) char state[64];
    _Alignas(16) char memory[1024];
    size_t memory_used;
    weir_stream_reader_t reader;
    weir_field_t fields[FIELDS_MAX];
    weir_str_t names[FIELDS_MAX];
    weir_verdict_t verdict;
} asked_t;

static void *alloc(weir_request_t *request, size_t size)
{
    asked_t *asked = (asked_t *)((char *)request - offsetof(asked_t, request));
    void *memory = asked->memory + asked->memory_used;
    asked->memory_used += (size + 15) & ~(size_t)15;
    assert_true(asked->memory_used <= sizeof(asked->memory));
    return memory;
}

static void count_decided(const weir_request_t *request, size_t dedup, weir_dedup_result_t result)
{
    assert_int_equal(dedup, 0);
    ++decided[result];
}

static void count_forgotten(const weir_request_t *request, size_t dedup, size_t count)
{
    forgotten_full += count;
}

static void count_false_positive(const weir_request_t *request, size_t dedup)
{
    ++false_positives;
}

static const weir_observer_t observer = {
    .dedup_decided = count_decided, .dedup_forgot_full = count_forgotten, .dedup_false_positive = count_false_positive};

static void prepare(asked_t *asked, const char *key)
{
    memset(asked, 0, sizeof(*asked));
    asked->request = (weir_request_t){.conf = &setup.conf,
                                      .listener = &setup.listeners[0],
                                      .route = &setup.routes[0],
                                      .method = STR("POST"),
                                      .target = STR("/x?y"),
                                      .fields = asked->fields,
                                      .tenant = STR("acme"),
                                      .trusted = true,
                                      .now_ns = S,
                                      .ticket = {1, 2, 3},
                                      .observer = &observer,
                                      .alloc = alloc,
                                      .reader = &asked->reader};
    for (size_t i = 0; i < FIELDS_MAX; ++i)
        asked->fields[i].name = &asked->names[i];
    if (key == NULL)
        return;
    asked->names[0] = STR("idempotency-key");
    asked->fields[0].value = (weir_str_t){key, strlen(key)};
    asked->request.field_count = 1;
}

static void add_field(asked_t *asked, weir_str_t name, weir_str_t value)
{
    size_t i = asked->request.field_count++;
    asked->names[i] = name;
    asked->fields[i].value = value;
}

static weir_verdict_kind_t admit(asked_t *asked)
{
    assert_true(weir_filter_dedup.state_size <= sizeof(asked->state));
    asked->verdict = weir_filter_dedup.admit(filter, &asked->request, asked->state);
    return asked->verdict.kind;
}

static weir_verdict_kind_t ask(asked_t *asked, const char *key)
{
    prepare(asked, key);
    return admit(asked);
}

static weir_verdict_kind_t wake(asked_t *asked)
{
    asked->verdict = weir_filter_dedup.wake(filter, &asked->request, asked->state);
    return asked->verdict.kind;
}

/* The request is over, and reads nothing more. */
static void done(asked_t *asked, weir_outcome_t outcome)
{
    outcome.now_ns = asked->request.now_ns;
    weir_filter_dedup.done(filter, &asked->request, asked->state, &outcome);
    assert_null(asked->request.lead);
    weir_stream_leave(&asked->reader);
}

static void be_answered(asked_t *asked, int status)
{
    if (asked->request.lead != NULL) {
        weir_stream_begin(asked->request.lead, "head", 4);
        weir_stream_append(asked->request.lead, "body", 4);
    }
    done(asked, (weir_outcome_t){.status = status, .ran = true, .sent = true, .answered = true});
}

static void end_refused(asked_t *asked)
{
    done(asked, (weir_outcome_t){.reason = asked->verdict.reason, .status = asked->verdict.status});
}

static weir_stream_view_t look(asked_t *asked)
{
    weir_stream_view_t view;
    weir_stream_look(&asked->reader, &view);
    return view;
}

/* What a later request with the key gets. */
static weir_verdict_kind_t retry(const char *key, weir_reason_t *reason)
{
    asked_t asked;
    weir_verdict_kind_t kind = ask(&asked, key);
    *reason = asked.verdict.reason;
    if (kind == WEIR_PASS)
        done(&asked, (weir_outcome_t){.reason = WEIR_REASON_CONNECT_FAILED, .ran = true});
    else
        end_refused(&asked);
    return kind;
}

/* Which requests */

static void test_who_is_looked_at(void **state)
{
    start();
    asked_t asked;
    prepare(&asked, "k");
    asked.request.route = &setup.routes[2];
    assert_int_equal(admit(&asked), WEIR_PASS);
    assert_int_equal(asked.request.dedup_result, WEIR_DEDUP_NONE);
    assert_null(asked.request.lead);
    be_answered(&asked, 200);
    prepare(&asked, "k");
    asked.request.method = STR("GET");
    assert_int_equal(admit(&asked), WEIR_PASS);
    be_answered(&asked, 200);
    prepare(&asked, "k");
    asked.request.route = NULL;
    assert_int_equal(admit(&asked), WEIR_PASS);
    be_answered(&asked, 200);
    assert_int_equal(ask(&asked, NULL), WEIR_PASS);
    assert_int_equal(asked.request.lease_ns, 0);
    be_answered(&asked, 200);
    assert_int_equal(tell_of(store, "orders", S).keys, 0);
    assert_int_equal(ask(&asked, "k"), WEIR_PASS);
    assert_int_equal(asked.request.dedup_result, WEIR_DEDUP_FIRST);
    assert_non_null(asked.request.lead);
    assert_true(asked.request.is_protected && asked.request.outlives_caller);
    assert_int_equal(asked.request.lease_ns, 30 * S);
    be_answered(&asked, 200);
    assert_int_equal(decided[WEIR_DEDUP_FIRST], 1);
}

static void test_keys_that_are_missing_or_bad(void **state)
{
    conf->required = true;
    start();
    asked_t asked;
    assert_int_equal(ask(&asked, NULL), WEIR_ANSWER);
    assert_int_equal(asked.verdict.reason, WEIR_REASON_KEY_MISSING);
    end_refused(&asked);
    assert_int_equal(ask(&asked, ""), WEIR_ANSWER);
    assert_int_equal(asked.verdict.reason, WEIR_REASON_KEY_INVALID);
    end_refused(&asked);
    prepare(&asked, "k");
    add_field(&asked, STR("idempotency-key"), STR("k"));
    assert_int_equal(admit(&asked), WEIR_ANSWER);
    assert_int_equal(asked.verdict.reason, WEIR_REASON_KEY_INVALID);
    end_refused(&asked);
    assert_int_equal(decided[WEIR_DEDUP_REJECTED], 3);
}

static void test_a_key_counts_within_tenant_method_route_and_place(void **state)
{
    keys[2] = (weir_conf_dedup_key_t){WEIR_DEDUP_KEY_HEADER, "X-Key"};
    conf->key.size = 3;
    start();
    asked_t asked[8];
    for (int i = 0; i < 7; ++i) {
        prepare(&asked[i], i < 5 ? "k" : NULL);
        asked[i].request.tenant = i == 1 ? STR("other") : STR("acme");
        asked[i].request.method = i == 2 ? STR("PUT") : STR("POST");
        asked[i].request.route = &setup.routes[i == 3];
        asked[i].request.listener = &setup.listeners[i == 4];
        if (i == 5)
            add_field(&asked[i], STR("x-key"), STR("k"));
        if (i == 6) {
            add_field(&asked[i], STR("ce-source"), STR("k"));
            add_field(&asked[i], STR("ce-id"), STR("k"));
        }
        assert_int_equal(admit(&asked[i]), WEIR_PASS);
    }
    for (int i = 0; i < 7; ++i)
        be_answered(&asked[i], 200);
    assert_int_equal(decided[WEIR_DEDUP_FIRST], 7);
    assert_int_equal(ask(&asked[0], "\"k\""), WEIR_SHARE);
    end_refused(&asked[0]);
}

static void test_the_body_is_read_where_it_is_needed(void **state)
{
    start();
    asked_t asked;
    prepare(&asked, "k");
    asked.request.body_bytes = 5;
    assert_int_equal(admit(&asked), WEIR_NEED_BODY); /* for the fingerprint */
    assert_true(asked.verdict.is_raw);
    asked.request.body = STR("12345");
    assert_int_equal(wake(&asked), WEIR_PASS);
    be_answered(&asked, 200);
    prepare(&asked, "k");
    asked.request.body_bytes = 5;
    asked.request.body = STR("12345"); /* a filter before it has asked for it */
    assert_int_equal(admit(&asked), WEIR_SHARE);
    end_refused(&asked);
    prepare(&asked, "k");
    asked.request.body_bytes = -1;
    assert_int_equal(admit(&asked), WEIR_NEED_BODY);
    asked.request.body = STR("");
    asked.request.body_bytes = 0;
    assert_int_equal(wake(&asked), WEIR_ANSWER);
    assert_int_equal(asked.verdict.reason, WEIR_REASON_KEY_MISMATCH);
    end_refused(&asked);
    assert_int_equal(decided[WEIR_DEDUP_MISMATCH], 1);
    prepare(&asked, NULL); /* an event's key is in its head, and it is not compared */
    add_field(&asked, STR("ce-source"), STR("s"));
    add_field(&asked, STR("ce-id"), STR("1"));
    asked.request.body_bytes = 5;
    assert_int_equal(admit(&asked), WEIR_PASS);
    be_answered(&asked, 200);
    prepare(&asked, NULL);
    add_field(&asked, STR("content-type"), STR("application/cloudevents+json"));
    asked.request.body_bytes = 5;
    assert_int_equal(admit(&asked), WEIR_NEED_BODY);
    asked.request.body = STR("{\"id\":\"1\",\"source\":\"s\"}");
    asked.request.body_bytes = (int64_t)asked.request.body.len;
    assert_int_equal(wake(&asked), WEIR_SHARE);
    end_refused(&asked);
}

static void test_a_request_that_ends_before_its_body_came(void **state)
{
    start();
    asked_t asked;
    prepare(&asked, "k");
    asked.request.body_bytes = 5;
    assert_int_equal(admit(&asked), WEIR_NEED_BODY);
    done(&asked, (weir_outcome_t){.reason = WEIR_REASON_CLIENT_GONE});
    for (int i = 0; i < WEIR_DEDUP_RESULTS; ++i)
        assert_int_equal(decided[i], 0);
}

/* What duplicates get */

static void test_mismatches(void **state)
{
    for (int ignores = 0; ignores < 2; ++ignores) {
        conf->name = ignores != 0 ? "orders" : "first";
        conf->mismatch = ignores != 0 ? WEIR_MISMATCH_IGNORE : WEIR_MISMATCH_REJECT;
        start();
        asked_t first, other;
        assert_int_equal(ask(&first, "k"), WEIR_PASS);
        for (int is_done = 0; is_done < 2; ++is_done) {
            prepare(&other, "k"); /* another path */
            other.request.target = STR("/x?z");
            assert_int_equal(admit(&other), ignores != 0 ? WEIR_SHARE : WEIR_ANSWER);
            if (ignores == 0) {
                assert_int_equal(other.verdict.reason, WEIR_REASON_KEY_MISMATCH);
                assert_int_equal(other.verdict.status, 0); /* the reason's own */
            }
            if (is_done == 0)
                be_answered(&first, 200);
            end_refused(&other);
        }
        if (ignores == 0) {
            weir_filter_dedup.destroy(filter);
            filter = NULL;
        }
    }
}

static void test_replays_acknowledgements_and_refusals(void **state)
{
    static const struct {
        weir_conf_on_duplicate_t on_duplicate;
        const char *body;
        weir_verdict_kind_t kind;
        weir_dedup_result_t result;
    } cases[] = {
        {WEIR_ON_DUPLICATE_REPLAY, NULL, WEIR_SHARE, WEIR_DEDUP_REPLAYED},
        {WEIR_ON_DUPLICATE_ACKNOWLEDGE, NULL, WEIR_ANSWER, WEIR_DEDUP_ACKNOWLEDGED},
        {WEIR_ON_DUPLICATE_ACKNOWLEDGE, "seen", WEIR_ANSWER, WEIR_DEDUP_ACKNOWLEDGED},
        {WEIR_ON_DUPLICATE_REJECT, NULL, WEIR_ANSWER, WEIR_DEDUP_REJECTED},
    };
    for (size_t i = 0; i < 4; ++i) {
        asked_t asked;
        conf->on_duplicate = cases[i].on_duplicate;
        conf->acknowledge.body = cases[i].body;
        conf->acknowledge.status = cases[i].body != NULL ? 200 : 204;
        store->destroy(store);
        store = create_store();
        start();
        assert_int_equal(ask(&asked, "k"), WEIR_PASS);
        be_answered(&asked, 200);
        assert_int_equal(ask(&asked, "k"), cases[i].kind);
        assert_int_equal(asked.request.dedup_result, cases[i].result);
        if (cases[i].kind == WEIR_SHARE)
            assert_true(asked.verdict.is_replay);
        else
            assert_int_equal(asked.verdict.reason, WEIR_REASON_DUPLICATE);
        if (cases[i].result == WEIR_DEDUP_ACKNOWLEDGED) {
            assert_int_equal(asked.verdict.status, conf->acknowledge.status);
            assert_string_equal(asked.verdict.body, cases[i].body != NULL ? cases[i].body : "");
        } else
            assert_null(asked.verdict.body);
        end_refused(&asked);
        assert_true(decided[cases[i].result] >= 1);
        weir_filter_dedup.destroy(filter);
        filter = NULL;
    }
}

typedef struct {
    weir_answer_t answer;
    char text[64];
} head_t;

static void add_to_head(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
    head_t *head = (head_t *)answer;
    snprintf(head->text, sizeof(head->text), "%.*s: %.*s", (int)name.len, name.base, (int)value.len, value.base);
}

static const char *head_of(asked_t *asked, bool own)
{
    static head_t head;
    head = (head_t){.answer = {.own = own, .add = add_to_head}};
    weir_filter_dedup.head(filter, &asked->request, asked->state, &head.answer);
    return head.text;
}

static void test_who_is_told_that_it_is_a_replay(void **state)
{
    start();
    asked_t first, waiter, late;
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    assert_int_equal(ask(&waiter, "k"), WEIR_SHARE);
    assert_false(waiter.verdict.is_replay);
    assert_string_equal(head_of(&first, false), "");
    assert_string_equal(head_of(&waiter, false), "");
    be_answered(&first, 200);
    assert_int_equal(look(&waiter).state, WEIR_STREAM_DONE);
    assert_int_equal(ask(&late, "k"), WEIR_SHARE);
    assert_string_equal(head_of(&late, false), "Idempotent-Replayed: true");
    assert_string_equal(head_of(&late, true), "");
    end_refused(&waiter);
    end_refused(&late);
    assert_int_equal(decided[WEIR_DEDUP_SHARED], 1);
    assert_int_equal(decided[WEIR_DEDUP_REPLAYED], 1);
}

static void test_in_flight_is_refused(void **state)
{
    conf->in_flight = WEIR_IN_FLIGHT_REJECT;
    start();
    asked_t first, second;
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    assert_int_equal(ask(&second, "k"), WEIR_ANSWER);
    assert_int_equal(second.verdict.reason, WEIR_REASON_IN_FLIGHT);
    assert_true(second.verdict.retry_after_ns > 0);
    end_refused(&second);
    be_answered(&first, 200);
    assert_int_equal(decided[WEIR_DEDUP_REJECTED], 1);
}

static void test_no_room(void **state)
{
    conf->max_keys = 1;
    conf->on_full = WEIR_ON_FULL_REJECT;
    start();
    asked_t asked;
    assert_int_equal(ask(&asked, "1"), WEIR_PASS);
    be_answered(&asked, 200);
    assert_int_equal(ask(&asked, "2"), WEIR_ANSWER);
    assert_int_equal(asked.verdict.reason, WEIR_REASON_OVERLOADED);
    assert_true(asked.verdict.retry_after_ns > 0);
    end_refused(&asked);
    conf->on_full = WEIR_ON_FULL_FORGET_OLDEST;
    weir_dedups_t *former = filter;
    start();
    weir_filter_dedup.destroy(former);
    assert_int_equal(ask(&asked, "2"), WEIR_PASS);
    assert_int_equal(forgotten_full, 1);
    be_answered(&asked, 200);
}

/* What becomes of those that ran */

static void test_ends_of_a_run(void **state)
{
    enum { RUNS, REPLAYED, KNOWN, REFUSED };
    static const struct {
        weir_outcome_t outcome;
        bool has_head;
        int then[2]; /* on_unknown: run, reject */
        weir_stream_state_t waiter;
    } cases[] = {
        {{.status = 200, .ran = true, .sent = true, .answered = true}, true, {REPLAYED, REPLAYED}, WEIR_STREAM_DONE},
        {{.status = 299, .ran = true, .sent = true, .answered = true}, true, {REPLAYED, REPLAYED}, WEIR_STREAM_DONE},
        {{.status = 400, .ran = true, .sent = true, .answered = true}, true, {REPLAYED, REPLAYED}, WEIR_STREAM_DONE},
        {{.status = 404, .ran = true, .sent = true, .answered = true}, true, {RUNS, RUNS}, WEIR_STREAM_DONE},
        {{.status = 429, .ran = true, .sent = true, .answered = true}, true, {RUNS, RUNS}, WEIR_STREAM_DONE},
        {{.status = 500, .ran = true, .sent = true, .answered = true}, true, {RUNS, RUNS}, WEIR_STREAM_DONE},
        {{.reason = WEIR_REASON_CONNECT_FAILED, .ran = true}, false, {RUNS, RUNS}, WEIR_STREAM_LOST},
        {{.reason = WEIR_REASON_BREAKER_OPEN}, false, {RUNS, RUNS}, WEIR_STREAM_LOST},
        {{.reason = WEIR_REASON_LIMIT}, false, {RUNS, RUNS}, WEIR_STREAM_LOST}, /* of the budget behind it */
        {{.reason = WEIR_REASON_RESET, .ran = true, .sent = true}, false, {RUNS, REFUSED}, WEIR_STREAM_LOST},
        {{.reason = WEIR_REASON_TIMEOUT_FIRST_BYTE, .ran = true, .sent = true}, false, {RUNS, REFUSED}, WEIR_STREAM_LOST},
        {{.reason = WEIR_REASON_TRUNCATED, .ran = true, .sent = true, .answered = true}, true, {RUNS, REFUSED}, WEIR_STREAM_BROKEN},
        {{.reason = WEIR_REASON_CLIENT_GONE, .ran = true, .sent = true}, false, {RUNS, RUNS}, WEIR_STREAM_LOST},
        {{.reason = WEIR_REASON_CLIENT_GONE}, false, {RUNS, RUNS}, WEIR_STREAM_LOST},
        {{.reason = WEIR_REASON_CLIENT_GONE, .ran = true, .sent = true, .answered = true}, true, {RUNS, REFUSED}, WEIR_STREAM_BROKEN},
        {{.reason = WEIR_REASON_CLIENT_GONE, .ran = true, .sent = true, .answered = true}, false, {RUNS, REFUSED}, WEIR_STREAM_LOST},
    };
    for (int on_unknown = 0; on_unknown < 2; ++on_unknown) {
        conf->on_unknown = on_unknown != 0 ? WEIR_ON_UNKNOWN_REJECT : WEIR_ON_UNKNOWN_RUN;
        weir_dedups_t *former = filter;
        start();
        if (former != NULL)
            weir_filter_dedup.destroy(former);
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
            char key[32];
            asked_t first, waiter;
            weir_reason_t reason;
            size_t forgotten = decided[WEIR_DEDUP_FORGOTTEN];
            int then = cases[i].then[on_unknown];
            snprintf(key, sizeof(key), "%d-%zu", on_unknown, i);
            assert_int_equal(ask(&first, key), WEIR_PASS);
            assert_int_equal(ask(&waiter, key), WEIR_SHARE);
            if (cases[i].has_head)
                weir_stream_begin(first.request.lead, "head", 4);
            done(&first, cases[i].outcome);
            assert_int_equal(decided[WEIR_DEDUP_FORGOTTEN] - forgotten, then != REPLAYED);
            weir_stream_view_t view = look(&waiter);
            assert_int_equal(view.state, cases[i].waiter);
            assert_int_equal(view.end.reason, cases[i].outcome.reason);
            end_refused(&waiter);
            weir_verdict_kind_t kind = retry(key, &reason);
            assert_int_equal(kind, then == RUNS ? WEIR_PASS : then == REPLAYED ? WEIR_SHARE : WEIR_ANSWER);
            if (then == REFUSED)
                assert_int_equal(reason, WEIR_REASON_UNKNOWN_OUTCOME);
        }
    }
}

/* Losses */

static void test_when_it_is_lost_one_leads_and_after_two_losses_all_share_the_error(void **state)
{
    enum { WAITERS = 5 };
    start();
    asked_t first, waiters[WAITERS];
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    for (int i = 0; i < WAITERS; ++i)
        assert_int_equal(ask(&waiters[i], "k"), WEIR_SHARE);
    done(&first, (weir_outcome_t){.reason = WEIR_REASON_RESET, .ran = true, .sent = true});
    assert_int_equal(wake(&waiters[2]), WEIR_PASS);
    assert_int_equal(waiters[2].request.dedup_result, WEIR_DEDUP_FIRST);
    for (int i = 0; i < WAITERS; ++i)
        if (i != 2)
            assert_int_equal(wake(&waiters[i]), WEIR_SHARE);
    done(&waiters[2], (weir_outcome_t){.reason = WEIR_REASON_TIMEOUT_FIRST_BYTE, .detail = "late", .ran = true, .sent = true});
    for (int i = 0; i < WAITERS; ++i) {
        if (i == 2)
            continue;
        assert_int_equal(wake(&waiters[i]), WEIR_ANSWER);
        assert_int_equal(waiters[i].verdict.reason, WEIR_REASON_TIMEOUT_FIRST_BYTE);
        assert_string_equal(waiters[i].verdict.detail, "late");
        end_refused(&waiters[i]);
    }
    assert_int_equal(decided[WEIR_DEDUP_FIRST], 2);
    assert_int_equal(decided[WEIR_DEDUP_SHARED], 4);
    weir_reason_t reason;
    assert_int_equal(retry("k", &reason), WEIR_PASS);
    assert_int_equal(tell_of(store, "orders", S).answer_bytes, 0);
}

static void test_a_waiter_that_leads_is_shared(void **state)
{
    start();
    asked_t first, second, third;
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    assert_int_equal(ask(&second, "k"), WEIR_SHARE);
    assert_int_equal(ask(&third, "k"), WEIR_SHARE);
    done(&first, (weir_outcome_t){.reason = WEIR_REASON_CONNECT_FAILED, .ran = true});
    assert_int_equal(wake(&second), WEIR_PASS);
    be_answered(&second, 200);
    assert_int_equal(wake(&third), WEIR_SHARE); /* it was woken late: it is done by now */
    assert_int_equal(look(&third).state, WEIR_STREAM_DONE);
    end_refused(&third);
}

/* Whoever left is no reason for an answer. */
static void test_callers_that_leave_one_after_another(void **state)
{
    conf->abandoned = WEIR_ABANDONED_CANCEL;
    start();
    asked_t first, second, third;
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    assert_false(first.request.outlives_caller);
    assert_int_equal(ask(&second, "k"), WEIR_SHARE);
    assert_int_equal(ask(&third, "k"), WEIR_SHARE);
    done(&first, (weir_outcome_t){.reason = WEIR_REASON_CLIENT_GONE, .ran = true, .sent = true});
    assert_int_equal(wake(&second), WEIR_PASS);
    assert_int_equal(wake(&third), WEIR_SHARE);
    done(&second, (weir_outcome_t){.reason = WEIR_REASON_CLIENT_GONE, .ran = true, .sent = true});
    assert_int_equal(wake(&third), WEIR_ANSWER);
    assert_int_not_equal(third.verdict.reason, WEIR_REASON_CLIENT_GONE);
    assert_true(third.verdict.status != 0 || weir_reason_status(third.verdict.reason) >= 500);
    end_refused(&third);
}

static void test_waiters_of_an_unknown_outcome(void **state)
{
    conf->on_unknown = WEIR_ON_UNKNOWN_REJECT;
    start();
    asked_t first, waiter;
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    assert_int_equal(ask(&waiter, "k"), WEIR_SHARE);
    done(&first, (weir_outcome_t){.reason = WEIR_REASON_RESET, .ran = true, .sent = true});
    assert_int_equal(wake(&waiter), WEIR_ANSWER);
    assert_int_equal(waiter.verdict.reason, WEIR_REASON_UNKNOWN_OUTCOME);
    end_refused(&waiter);
    assert_int_equal(ask(&first, "l"), WEIR_PASS);
    assert_int_equal(ask(&waiter, "l"), WEIR_SHARE);
    done(&first, (weir_outcome_t){.reason = WEIR_REASON_CONNECT_FAILED, .ran = true}); /* that did nothing */
    assert_int_equal(wake(&waiter), WEIR_PASS);
    be_answered(&waiter, 200);
}

/* Leases */

static void test_a_lease_is_no_longer_than_the_window(void **state)
{
    conf->window_ns = conf->keep_responses_ns = 2 * S;
    start();
    asked_t first, second;
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    assert_in_range(first.request.lease_ns, 1, conf->window_ns); /* what is renewed by thirds of it stays known */
    for (int i = 0; i < 100; ++i) {
        first.request.now_ns += first.request.lease_ns / 3;
        assert_true(weir_filter_dedup.renew(filter, &first.request, first.state));
        prepare(&second, "k");
        second.request.now_ns = first.request.now_ns + first.request.lease_ns / 3 - 1;
        assert_int_equal(admit(&second), WEIR_SHARE);
        end_refused(&second);
    }
    be_answered(&first, 200);
    assert_int_equal(decided[WEIR_DEDUP_FIRST], 1);
}

/* By hand */

static void test_bypass(void **state)
{
    conf->bypass = "X-Weir-Replay";
    start();
    asked_t asked;
    assert_int_equal(ask(&asked, "k"), WEIR_PASS);
    be_answered(&asked, 200);
    static const struct {
        weir_str_t value;
        bool trusted, twice;
        weir_verdict_kind_t kind;
    } cases[] = {{STR("replay-drill"), true, false, WEIR_PASS},
                 {STR("replay-drill"), false, false, WEIR_SHARE},
                 {STR("Replay-Drill"), true, false, WEIR_SHARE},
                 {STR("replay-drill"), true, true, WEIR_SHARE},
                 {STR("true"), true, false, WEIR_SHARE}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        prepare(&asked, "k");
        add_field(&asked, STR("x-weir-replay"), cases[i].value);
        if (cases[i].twice)
            add_field(&asked, STR("x-weir-replay"), cases[i].value);
        asked.request.trusted = cases[i].trusted;
        assert_int_equal(admit(&asked), cases[i].kind);
        assert_int_equal(weir_request_is_dropped(&asked.request, 1), !cases[i].trusted);
        assert_int_equal(asked.request.identity_ignored, !cases[i].trusted);
        if (cases[i].kind == WEIR_PASS) {
            assert_int_equal(asked.request.dedup_result, WEIR_DEDUP_BYPASSED);
            assert_false(asked.request.is_protected || asked.request.outlives_caller || asked.request.lead != NULL);
        }
        end_refused(&asked);
    }
    assert_int_equal(decided[WEIR_DEDUP_BYPASSED], 1);
}

static void test_a_key_is_forgotten_wherever_it_is(void **state)
{
    keys[2] = (weir_conf_dedup_key_t){WEIR_DEDUP_KEY_JSON, "/id"};
    conf->key.size = 3;
    start();
    asked_t asked;
    for (int i = 0; i < 4; ++i) {
        prepare(&asked, i < 2 ? "a b" : NULL);
        asked.request.route = &setup.routes[i % 2];
        asked.request.method = i == 0 ? STR("PUT") : STR("POST");
        asked.request.listener = &setup.listeners[i % 2];
        if (i == 2) {
            add_field(&asked, STR("ce-source"), STR("a"));
            add_field(&asked, STR("ce-id"), STR("b"));
        }
        asked.request.body = STR("{\"id\":\"a b\"}");
        asked.request.body_bytes = (int64_t)asked.request.body.len;
        assert_int_equal(admit(&asked), WEIR_PASS);
        be_answered(&asked, 200);
    }
    assert_int_equal(weir_dedups_reset(filter, 0, STR("other"), STR("a b"), S), 0);
    assert_int_equal(weir_dedups_reset(filter, 0, STR("acme"), STR("c"), S), 0);
    assert_int_equal(weir_dedups_reset(filter, 0, STR("acme"), STR(""), S), 0);
    assert_int_equal(tell_of(store, "orders", S).keys, 4);
    assert_int_equal(weir_dedups_reset(filter, 0, STR("acme"), STR("a b"), S), 4);
    assert_int_equal(tell_of(store, "orders", S).keys, 0);
    assert_int_equal(ask(&asked, "q"), WEIR_PASS);
    be_answered(&asked, 200);
    assert_int_equal(weir_dedups_reset(filter, 0, STR("acme"), STR("\"q\""), S), 1); /* as the header may have it */
}

static void test_what_a_question_is_told(void **state)
{
    start();
    asked_t asked, question;
    bool is_replay = true;
    prepare(&question, NULL);
    assert_int_equal(weir_dedups_peek(filter, &question.request, STR("k"), &is_replay), WEIR_STORE_CLAIM_RUN);
    assert_false(is_replay);
    assert_int_equal(ask(&asked, "k"), WEIR_PASS);
    assert_int_equal(weir_dedups_peek(filter, &question.request, STR("k"), &is_replay), WEIR_STORE_CLAIM_SHARE);
    assert_false(is_replay);
    be_answered(&asked, 200);
    assert_int_equal(weir_dedups_peek(filter, &question.request, STR("k"), &is_replay), WEIR_STORE_CLAIM_SHARE);
    assert_true(is_replay);
    prepare(&asked, NULL);
    add_field(&asked, STR("ce-source"), STR("/s"));
    add_field(&asked, STR("ce-id"), STR("1"));
    assert_int_equal(admit(&asked), WEIR_PASS);
    be_answered(&asked, 200);
    is_replay = false;
    assert_int_equal(weir_dedups_peek(filter, &question.request, STR("/s 1"), &is_replay), WEIR_STORE_CLAIM_SHARE);
    assert_true(is_replay);
    question.request.method = STR("GET");
    assert_int_equal(weir_dedups_peek(filter, &question.request, STR("k"), &is_replay), WEIR_STORE_CLAIM_RUN);
    question.request.method = STR("POST");
    question.request.route = &setup.routes[2];
    assert_int_equal(weir_dedups_peek(filter, &question.request, STR("k"), &is_replay), WEIR_STORE_CLAIM_RUN);
}

/* Bloom filters alone */

static void test_inexact(void **state)
{
    conf->exact = false;
    conf->on_duplicate = WEIR_ON_DUPLICATE_ACKNOWLEDGE;
    conf->in_flight = WEIR_IN_FLIGHT_REJECT;
    start();
    asked_t asked;
    prepare(&asked, "k");
    asked.request.body_bytes = 5; /* there is nothing to compare it with */
    assert_int_equal(admit(&asked), WEIR_PASS);
    assert_null(asked.request.lead);
    assert_int_equal(asked.request.lease_ns, 0);
    be_answered(&asked, 500);
    assert_int_equal(ask(&asked, "k"), WEIR_ANSWER);
    assert_int_equal(asked.request.dedup_result, WEIR_DEDUP_ACKNOWLEDGED);
    assert_int_equal(asked.verdict.status, 204);
    end_refused(&asked);
    assert_int_equal(weir_dedups_reset(filter, 0, STR("acme"), STR("k"), S), 0);
}

/* A store that cannot be asked */

static weir_store_claim_told_t is_down(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns)
{
    return WEIR_STORE_CLAIM_DOWN;
}

static void test_the_store_is_down(void **state)
{
    start();
    asked_t asked;
    store->claim = is_down;
    assert_int_equal(ask(&asked, "k"), WEIR_ANSWER);
    assert_int_equal(asked.verdict.reason, WEIR_REASON_STORE_DOWN);
    end_refused(&asked);
    conf->on_failure = WEIR_DEDUP_ON_FAILURE_OPEN;
    assert_int_equal(ask(&asked, "k"), WEIR_PASS);
    assert_int_equal(asked.request.dedup_result, WEIR_DEDUP_NONE);
    assert_true(weir_filter_dedup.renew(filter, &asked.request, asked.state));
    be_answered(&asked, 200);
}

static void test_the_store_is_down_once_what_it_shared_was_lost(void **state)
{
    conf->on_failure = WEIR_DEDUP_ON_FAILURE_OPEN;
    start();
    asked_t first, second;
    assert_int_equal(ask(&first, "k"), WEIR_PASS);
    assert_int_equal(ask(&second, "k"), WEIR_SHARE);
    done(&first, (weir_outcome_t){.reason = WEIR_REASON_CONNECT_FAILED, .ran = true});
    store->claim = is_down;
    assert_int_equal(wake(&second), WEIR_PASS);
    assert_int_equal(second.request.dedup_result, WEIR_DEDUP_NONE); /* it runs, and shares nothing */
    be_answered(&second, 200);
    assert_int_equal(decided[WEIR_DEDUP_SHARED], 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_who_is_looked_at),
        TEST(test_keys_that_are_missing_or_bad),
        TEST(test_a_key_counts_within_tenant_method_route_and_place),
        TEST(test_the_body_is_read_where_it_is_needed),
        TEST(test_a_request_that_ends_before_its_body_came),
        TEST(test_mismatches),
        TEST(test_replays_acknowledgements_and_refusals),
        TEST(test_who_is_told_that_it_is_a_replay),
        TEST(test_in_flight_is_refused),
        TEST(test_no_room),
        TEST(test_ends_of_a_run),
        TEST(test_when_it_is_lost_one_leads_and_after_two_losses_all_share_the_error),
        TEST(test_a_waiter_that_leads_is_shared),
        TEST(test_callers_that_leave_one_after_another),
        TEST(test_waiters_of_an_unknown_outcome),
        TEST(test_a_lease_is_no_longer_than_the_window),
        TEST(test_bypass),
        TEST(test_a_key_is_forgotten_wherever_it_is),
        TEST(test_what_a_question_is_told),
        TEST(test_inexact),
        TEST(test_the_store_is_down),
        TEST(test_the_store_is_down_once_what_it_shared_was_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
