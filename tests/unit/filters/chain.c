/* The order of a chain, and that `done` comes exactly once for each `admit`, whatever the filters say. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "request.h"
#include "../../../filters/store.h"

/* ---- filters that do as they are told, and write down what was asked of them ---- */

static char events[1024];
static weir_verdict_kind_t says[3], says_when_woken[3];

static void note(const char *event, char filter)
{
    size_t len = strlen(events);
    snprintf(events + len, sizeof(events) - len, "%s%c%s", len != 0 ? " " : "", filter, event);
}

/* The first byte and the last one of a state say whose it is: states do not overlap. */
typedef struct {
    char first, between[77], last;
} fake_state_t;

static weir_verdict_t verdict(weir_verdict_kind_t kind, char filter)
{
    return (weir_verdict_t){.kind = kind, .status = filter, .retry_after_ns = -1};
}

static void check_state(const fake_state_t *state, char filter)
{
    assert_int_equal((uintptr_t)state % 16, 0);
    assert_int_equal(state->first, filter);
    assert_int_equal(state->last, filter);
}

static weir_verdict_t fake_admit(void *instance, weir_request_t *request, void *state)
{
    char filter = *(char *)instance;
    fake_state_t *own = state;
    for (size_t i = 0; i < sizeof(*own); ++i)
        assert_int_equal(((char *)state)[i], 0);
    own->first = own->last = filter;
    note("+", filter);
    return verdict(says[filter - 'a'], filter);
}

static weir_verdict_t fake_wake(void *instance, weir_request_t *request, void *state)
{
    char filter = *(char *)instance;
    check_state(state, filter);
    note("!", filter);
    return verdict(says_when_woken[filter - 'a'], filter);
}

static bool says_when_renewed[3];

static bool fake_renew(void *instance, weir_request_t *request, void *state)
{
    char filter = *(char *)instance;
    check_state(state, filter);
    note("=", filter);
    return says_when_renewed[filter - 'a'];
}

static void fake_head(void *instance, weir_request_t *request, void *state, weir_answer_t *answer)
{
    check_state(state, *(char *)instance);
    note("^", *(char *)instance);
}

static void fake_tap(void *instance, weir_request_t *request, void *state, weir_str_t bytes)
{
    check_state(state, *(char *)instance);
    note("~", *(char *)instance);
}

static void fake_done(void *instance, weir_request_t *request, void *state, const weir_outcome_t *outcome)
{
    check_state(state, *(char *)instance);
    note("-", *(char *)instance);
}

static void fake_destroy(void *instance)
{
    note(".", *(char *)instance);
    free(instance);
}

static void *fake_create(char filter)
{
    char *instance = malloc(1);
    *instance = filter;
    note("*", filter);
    return instance;
}

#define FAKE(name)                                                                                               \
    static void *create_##name(const weir_conf_t *conf, weir_store_t *store)                                     \
    {                                                                                                            \
        return fake_create(*#name);                                                                              \
    }                                                                                                            \
    static const weir_filter_t fake_##name = {                                                                   \
        #name,      sizeof(fake_state_t), create_##name, fake_destroy, fake_admit, fake_wake,                    \
        fake_renew, fake_head,            fake_tap,      fake_done};
FAKE(a)
FAKE(b)
FAKE(c)

/* One that has only what it must have. */
static const weir_filter_t fake_bare = {
    .name = "b", .state_size = sizeof(fake_state_t), .create = create_b, .destroy = fake_destroy, .admit = fake_admit};

static weir_chain_t *chain_of(const weir_filter_t *second, test_request_t *test)
{
    const weir_filter_t *const filters[] = {&fake_a, second, &fake_c};
    return weir_chain_create_of(filters, 3, &test->conf, NULL);
}

/* ---- the order ---- */

#define P WEIR_PASS
#define W WEIR_AWAIT
#define N WEIR_NEED_BODY
#define A WEIR_ANSWER
#define S WEIR_SHARE

static void finish(weir_chain_t *chain, weir_chain_run_t *run, test_request_t *test)
{
    weir_answer_t answer = {.status = 200};
    weir_outcome_t outcome = {.status = 200};
    strcat(events, " |");
    weir_chain_head(chain, run, &test->request, &answer);
    weir_chain_tap(chain, run, &test->request, (weir_str_t){"x", 1});
    weir_chain_done(chain, run, &test->request, &outcome);
    strcat(events, " |");
    weir_chain_done(chain, run, &test->request, &outcome); /* there is nothing left to be done */
    weir_chain_tap(chain, run, &test->request, (weir_str_t){"x", 1});
    weir_chain_head(chain, run, &test->request, &answer);
}

static void test_order(void **state)
{
    static const struct {
        weir_verdict_kind_t says[3], when_woken[3];
        size_t wakes;
        weir_verdict_kind_t kind; /* in the end */
        char decided;             /* whose verdict that is; 0: the chain's own */
        const char *events;
    } table[] = {
        {{P, P, P}, {0}, 0, P, 'c', "a+ b+ c+ | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{P, P, A}, {0}, 0, A, 'c', "a+ b+ c+ | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{P, A, P}, {0}, 0, A, 'b', "a+ b+ | b^ a^ b~ a~ b- a- |"},
        {{A, P, P}, {0}, 0, A, 'a', "a+ | a^ a~ a- |"},
        {{P, S, P}, {0}, 0, S, 'b', "a+ b+ | b^ a^ b~ a~ b- a- |"},
        /* woken, the same filter is asked again and then the rest */
        {{P, W, P}, {P, P, P}, 1, P, 'c', "a+ b+ b! c+ | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{W, P, P}, {P, P, P}, 1, P, 'c', "a+ a! b+ c+ | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{P, P, W}, {P, P, P}, 1, P, 'c', "a+ b+ c+ c! | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{P, N, P}, {P, P, P}, 1, P, 'c', "a+ b+ b! c+ | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{P, N, P}, {P, W, P}, 2, W, 'b', "a+ b+ b! b! | b^ a^ b~ a~ b- a- |"},
        {{W, W, W}, {P, P, P}, 3, P, 'c', "a+ a! b+ b! c+ c! | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{P, W, P}, {P, A, P}, 1, A, 'b', "a+ b+ b! | b^ a^ b~ a~ b- a- |"},
        {{P, W, A}, {P, P, P}, 1, A, 'c', "a+ b+ b! c+ | c^ b^ a^ c~ b~ a~ c- b- a- |"},
        {{P, W, P}, {P, W, P}, 3, W, 'b', "a+ b+ b! b! b! | b^ a^ b~ a~ b- a- |"},
        /* it ends while it waits */
        {{P, W, P}, {0}, 0, W, 'b', "a+ b+ | b^ a^ b~ a~ b- a- |"},
        {{W, P, P}, {0}, 0, W, 'a', "a+ | a^ a~ a- |"},
    };
    test_request_t *test = test_request_create();
    weir_chain_t *chain = chain_of(&fake_b, test);
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_chain_run_t run = {0};
        events[0] = '\0';
        memcpy(says, table[i].says, sizeof(says));
        memcpy(says_when_woken, table[i].when_woken, sizeof(says_when_woken));
        weir_verdict_t last = weir_chain_admit(chain, &run, &test->request);
        for (size_t wake = 0; wake < table[i].wakes; ++wake) {
            assert_true(last.kind == WEIR_AWAIT || last.kind == WEIR_NEED_BODY);
            last = weir_chain_wake(chain, &run, &test->request);
        }
        assert_int_equal(last.kind, table[i].kind);
        assert_int_equal(last.status, table[i].decided);
        finish(chain, &run, test);
        assert_string_equal(events, table[i].events);
    }
    weir_chain_destroy(chain);
    test_request_destroy(test);
}

static void test_a_filter_without_the_later_phases(void **state)
{
    test_request_t *test = test_request_create();
    weir_chain_t *chain = chain_of(&fake_bare, test);
    weir_chain_run_t run = {0};
    memset(says, P, sizeof(says));
    events[0] = '\0';
    assert_int_equal(weir_chain_admit(chain, &run, &test->request).kind, WEIR_PASS);
    finish(chain, &run, test);
    assert_string_equal(events, "a+ b+ c+ | c^ a^ c~ a~ c- a- |");
    weir_chain_destroy(chain);
    test_request_destroy(test);
}

static void test_renewal(void **state)
{
    static const struct {
        weir_verdict_kind_t says[3];
        bool when_renewed[3], goes_on;
        const char *events;
    } table[] = {
        {{P, P, P}, {true, true, true}, true, "a+ b+ c+ a= b= c="},
        {{P, P, P}, {true, false, true}, false, "a+ b+ c+ a= b= c="}, /* all are asked, whatever the others say */
        {{P, P, P}, {false, false, false}, false, "a+ b+ c+ a= b= c="},
        {{P, W, P}, {true, true, false}, true, "a+ b+ a= b="}, /* those that were entered */
    };
    test_request_t *test = test_request_create();
    weir_chain_t *chain = chain_of(&fake_b, test), *bare = chain_of(&fake_bare, test);
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_chain_run_t run = {0};
        events[0] = '\0';
        memcpy(says, table[i].says, sizeof(says));
        memcpy(says_when_renewed, table[i].when_renewed, sizeof(says_when_renewed));
        (void)weir_chain_admit(chain, &run, &test->request);
        assert_int_equal(weir_chain_renew(chain, &run, &test->request), table[i].goes_on);
        assert_string_equal(events, table[i].events);
        finish(chain, &run, test);
    }
    weir_chain_run_t run = {0};
    memset(says, P, sizeof(says));
    memcpy(says_when_renewed, (bool[]){true, false, true}, sizeof(says_when_renewed));
    (void)weir_chain_admit(bare, &run, &test->request);
    assert_true(weir_chain_renew(bare, &run, &test->request)); /* who has no say agrees */
    finish(bare, &run, test);
    weir_chain_destroy(bare);
    weir_chain_destroy(chain);
    test_request_destroy(test);
}

static void test_a_request_that_was_never_admitted(void **state)
{
    test_request_t *test = test_request_create();
    weir_chain_t *chain = chain_of(&fake_b, test);
    weir_chain_run_t run = {0};
    events[0] = '\0';
    finish(chain, &run, test);
    assert_string_equal(events, " | |");
    weir_chain_destroy(chain);
    test_request_destroy(test);
}

static void test_instances(void **state)
{
    test_request_t *test = test_request_create();
    events[0] = '\0';
    weir_chain_destroy(chain_of(&fake_b, test));
    assert_string_equal(events, "a* b* c* c. b. a.");
    weir_chain_destroy(NULL);
    test_request_destroy(test);
}

static void test_an_instance_is_found_by_its_name(void **state)
{
    test_request_t *test = test_request_create();
    weir_chain_t *chain = chain_of(&fake_b, test);
    assert_int_equal(*(const char *)weir_chain_instance(chain, "a"), 'a');
    assert_int_equal(*(const char *)weir_chain_instance(chain, "c"), 'c');
    assert_null(weir_chain_instance(chain, "d"));
    weir_chain_destroy(chain);
    test_request_destroy(test);
}

static void test_an_empty_chain_lets_pass(void **state)
{
    test_request_t *test = test_request_create();
    weir_chain_t *chain = weir_chain_create_of(NULL, 0, &test->conf, NULL);
    weir_chain_run_t run = {0};
    weir_verdict_t last = weir_chain_admit(chain, &run, &test->request);
    assert_int_equal(last.kind, WEIR_PASS);
    assert_true(last.retry_after_ns < 0);
    weir_chain_destroy(chain);
    test_request_destroy(test);
}

/* ---- the chain of registry.def ---- */

static void on_add(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
    size_t len = strlen(events);
    snprintf(events + len, sizeof(events) - len, "%.*s: %.*s\n", (int)name.len, name.base, (int)value.len, value.base);
}

static void tell_nobody(void *context, weir_ticket_t ticket)
{
    fail_msg("nobody waits");
}

/* Whatever becomes of a request, it is named, and the answer says how. */
static void test_every_request_is_named(void **state)
{
    static const struct {
        const char *fields;
        bool has_route;
        weir_verdict_kind_t kind;
        weir_reason_t reason;
        const char *tenant, *head;
    } table[] = {
        {"X-Tenant-ID: acme\nX-Request-ID: r", true, P, 0, "acme", "X-Correlation-ID: r\n"},
        {"X-Tenant-ID: acme", true, P, 0, "acme", "X-Correlation-ID: " TEST_NEW_ID "\n"},
        {"X-Request-ID: r", true, A, WEIR_REASON_TENANT_MISSING, "", "X-Correlation-ID: r\n"},
        {"X-Tenant-ID: no one\nX-Request-ID: r", true, A, WEIR_REASON_TENANT_INVALID, "", "X-Correlation-ID: r\n"},
        {"X-Tenant-ID: acme\nX-Request-ID: r", false, P, 0, "acme", "X-Correlation-ID: r\n"},
        {"", false, A, WEIR_REASON_TENANT_MISSING, "", "X-Correlation-ID: " TEST_NEW_ID "\n"},
    };
    weir_store_t *store =
        weir_memory_store_create((const uint8_t[64]){1, 2, 3}, (weir_store_teller_t){tell_nobody, NULL});
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        test_request_t *test = test_request_create();
        weir_answer_t answer = {.status = 200, .own = !table[i].has_route, .add = on_add};
        weir_outcome_t outcome = {.reason = table[i].reason, .status = 200};
        test->conf.tenant.default_tenant = NULL;
        test->request.route = table[i].has_route ? &test->route : NULL;
        test_request_add(test, table[i].fields);
        test->chain = weir_chain_create(&test->conf, store);
        weir_verdict_t last = weir_chain_admit(test->chain, &test->run, &test->request);
        assert_int_equal(last.kind, table[i].kind);
        assert_int_equal(last.reason, table[i].reason);
        assert_string_equal(test_text(test, test->request.tenant), table[i].tenant);
        events[0] = '\0';
        weir_chain_head(test->chain, &test->run, &test->request, &answer);
        assert_string_equal(events, table[i].head);
        weir_chain_done(test->chain, &test->run, &test->request, &outcome);
        test_request_destroy(test);
    }
    store->destroy(store);
}

/* ---- a request's fields ---- */

static void test_find(void **state)
{
    test_request_t *test = test_request_create();
    test_request_add(test, "X-A: 1\nx-ab: 2\nX-a: 3\nX-B:\n");
    weir_str_t name = {"x-a", 3};
    size_t index = 0;
    assert_ptr_equal(weir_request_find(&test->request, name, &index), &test->fields[0]);
    assert_int_equal(index, 0);
    ++index;
    assert_ptr_equal(weir_request_find(&test->request, name, &index), &test->fields[2]);
    assert_int_equal(index, 2);
    ++index;
    assert_null(weir_request_find(&test->request, name, &index));
    assert_null(weir_request_find(&test->request, name, &index)); /* and again, from the end */
    index = 0;
    assert_null(weir_request_find(&test->request, (weir_str_t){"x-c", 3}, &index));
    test->request.field_count = 0;
    index = 0;
    assert_null(weir_request_find(&test->request, name, &index));
    test_request_destroy(test);
}

static void test_drop(void **state)
{
    test_request_t *test = test_request_create();
    for (size_t i = 0; i < WEIR_REQUEST_FIELDS_MAX; ++i)
        assert_false(weir_request_is_dropped(&test->request, i));
    for (size_t i = 0; i < WEIR_REQUEST_FIELDS_MAX; i += 3)
        weir_request_drop(&test->request, i);
    for (size_t i = 0; i < WEIR_REQUEST_FIELDS_MAX; ++i)
        assert_int_equal(weir_request_is_dropped(&test->request, i), i % 3 == 0);
    test_request_destroy(test);
}

static void test_up(void **state)
{
    test_request_t *test = test_request_create();
    static const char names[] = "abcdefghijklmnop";
    for (size_t i = 0; i < WEIR_UP_FIELDS_MAX; ++i)
        weir_request_up(&test->request, (weir_str_t){&names[i], 1}, (weir_str_t){"v", 1}, WEIR_FORWARD_TENANT);
    assert_int_equal(test->request.up_field_count, WEIR_UP_FIELDS_MAX);
    assert_string_equal(test_request_up(test), "i a: v\ni b: v\ni c: v\ni d: v\ni e: v\ni f: v\ni g: v\ni h: v\n"
                                               "i i: v\ni j: v\ni k: v\ni l: v\ni m: v\ni n: v\ni o: v\ni p: v\n");
    test_request_destroy(test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_a_filter_without_the_later_phases),
        cmocka_unit_test(test_renewal),
        cmocka_unit_test(test_a_request_that_was_never_admitted),
        cmocka_unit_test(test_instances),
        cmocka_unit_test(test_an_instance_is_found_by_its_name),
        cmocka_unit_test(test_an_empty_chain_lets_pass),
        cmocka_unit_test(test_every_request_is_named),
        cmocka_unit_test(test_find),
        cmocka_unit_test(test_drop),
        cmocka_unit_test(test_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
