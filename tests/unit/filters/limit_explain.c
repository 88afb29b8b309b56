/* What the admin pages are told of limits: what a request would meet, names of keys, and a fresh start for one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <ctype.h>
#include <string.h>
#include <cmocka.h>
#include "limited.h"

static weir_chain_t *start_chain(weir_store_t **store)
{
    static const weir_filter_t *const filters[] = {&weir_filter_limit};
    *store = weir_memory_store_create(secret, (weir_store_teller_t){note_told, NULL});
    return weir_chain_create_of(filters, 1, &setup.conf, *store);
}

static void end_chain(weir_chain_t *chain, weir_store_t *store)
{
    weir_chain_destroy(chain);
    store->destroy(store);
}

static weir_verdict_kind_t try_one(weir_chain_t *chain, weir_str_t tenant)
{
    asked_t asked;
    weir_chain_run_t run = {0};
    prepare(&asked, tenant, S);
    weir_verdict_t verdict = weir_chain_admit(chain, &run, &asked.request);
    weir_outcome_t outcome = {.ran = true, .now_ns = S};
    weir_chain_done(chain, &run, &asked.request, &outcome);
    return verdict.kind;
}

static const weir_conf_key_part_t all_parts[] = {
    {WEIR_KEY_TENANT, NULL},      {WEIR_KEY_MODEL, NULL},   {WEIR_KEY_CLIENT_IP, NULL}, {WEIR_KEY_ROUTE, NULL},
    {WEIR_KEY_CORRELATION, NULL}, {WEIR_KEY_HEADER, "X-A"}, {WEIR_KEY_HEADER, "X-B"},
};

static void test_what_a_request_would_meet(void **state)
{
    static const weir_conf_override_t overrides[] = {{.tenant = "acme", .quota = {{5, S}, 50, 0, 0}}};
    weir_conf_limit_t *limit = add_bucket("requests", 1, S, 10);
    limit->tenants.entries = overrides;
    limit->tenants.size = 1;
    set_key(add_slots("slots", 2, 10, S), NULL, 0);
    set_key(in_unit(add_window("tokens", 1000, M), WEIR_UNIT_LLM_TOKENS), all_parts, 7);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    asked_t asked;
    for (int i = 0; i < 3; ++i) { /* it consumes nothing */
        weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
        prepare(&asked, STR("acme"), S);
        asked.picked = (weir_json_picked_t){.model = "gpt-5", .model_len = 5};
        asked.request.picked = &asked.picked;
        add_field(&asked, STR("x-a"), STR("1 2"));
        add_field(&asked, STR("x-a"), STR("\xc3\xa4"));
        assert_int_equal(weir_limit_explain(chain, &asked.request, explained), 3);
        assert_ptr_equal(explained[0].limit, &setup.limits[0]);
        assert_int_equal(explained[0].quota, 50);
        assert_int_equal(explained[0].item.remaining, 50);
        assert_true(explained[0].item.admitted);
        assert_string_equal(explained[0].key, "tenant=acme");
        assert_int_equal(explained[1].quota, 2);
        assert_int_equal(explained[1].item.reset_ns, -1);
        assert_string_equal(explained[1].key, "");
        assert_int_equal(explained[2].quota, 1000);
        assert_string_equal(explained[2].key, "tenant=acme model=gpt-5 client_ip=192.0.2.1 route=/ correlation=c-1 "
                                              "header:x-a=1?2,?? header:x-b");
    }
    asked.request.route = &setup.routes[ROUTES - 1];
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    assert_int_equal(weir_limit_explain(chain, &asked.request, explained), 0);
    end_chain(chain, store);
}

static void test_what_was_used_is_explained(void **state)
{
    add_bucket("requests", 1, D, 2);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    asked_t asked;
    assert_int_equal(try_one(chain, STR("acme")), WEIR_PASS);
    assert_int_equal(try_one(chain, STR("acme")), WEIR_PASS);
    prepare(&asked, STR("acme"), S);
    assert_int_equal(weir_limit_explain(chain, &asked.request, explained), 1);
    assert_false(explained[0].item.admitted);
    assert_int_equal(explained[0].item.remaining, 0);
    assert_int_equal(explained[0].item.retry_after_ns, D);
    assert_int_equal(try_one(chain, STR("acme")), WEIR_ANSWER);
    end_chain(chain, store);
}

/* The key that is made anew is that of requests: also by route, and of another listener's. */
static void test_a_fresh_start(void **state)
{
    static const weir_conf_key_part_t by_route[] = {{WEIR_KEY_ROUTE, NULL}, {WEIR_KEY_TENANT, NULL}};
    add_bucket("tenants", 1, D, 1);
    set_key(add_bucket("routes", 1, D, 1), by_route, 2);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    asked_t asked;
    assert_int_equal(try_one(chain, STR("acme")), WEIR_PASS);
    assert_int_equal(try_one(chain, STR("other")), WEIR_PASS);
    prepare(&asked, STR("acme"), S);
    asked.request.route = NULL;
    asked.request.listener = NULL;
    assert_true(weir_limit_reset(chain, &asked.request, 0));
    assert_int_equal(try_one(chain, STR("acme")), WEIR_ANSWER);
    asked.request.listener = &setup.listener;
    asked.request.route = &setup.routes[1];
    weir_limit_reset(chain, &asked.request, 1);
    assert_int_equal(try_one(chain, STR("acme")), WEIR_ANSWER);
    asked.request.route = &setup.routes[0];
    weir_limit_reset(chain, &asked.request, 1);
    assert_int_equal(try_one(chain, STR("other")), WEIR_ANSWER);
    assert_int_equal(try_one(chain, STR("acme")), WEIR_PASS);
    end_chain(chain, store);
}

/* What others have used too is not forgotten. */
static void test_no_fresh_start_in_a_full_table(void **state)
{
    add_bucket("requests", 1, D, 1)->max_keys = 1;
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    asked_t asked;
    assert_int_equal(try_one(chain, STR("acme")), WEIR_PASS);
    assert_int_equal(try_one(chain, STR("other")), WEIR_PASS);
    prepare(&asked, STR("other"), S);
    assert_false(weir_limit_reset(chain, &asked.request, 0));
    assert_int_equal(try_one(chain, STR("other")), WEIR_ANSWER);
    prepare(&asked, STR("acme"), S);
    assert_true(weir_limit_reset(chain, &asked.request, 0));
    assert_int_equal(try_one(chain, STR("acme")), WEIR_PASS);
    end_chain(chain, store);
}

/* Without an id a chain would begin. */
static void test_what_the_call_of_a_chain_would_meet(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_CORRELATION, NULL}};
    set_key(add_bucket("requests", 1, D, 1), parts, 1);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    asked_t asked;
    assert_int_equal(try_one(chain, STR("acme")), WEIR_PASS);
    for (int has_id = 0; has_id < 2; ++has_id) {
        prepare(&asked, STR("acme"), S);
        if (!has_id)
            asked.request.correlation_id = STR("");
        assert_int_equal(weir_limit_explain(chain, &asked.request, explained), 1);
        assert_int_equal(explained[0].item.admitted, !has_id);
        assert_int_equal(explained[0].item.cost, has_id);
        assert_int_equal(explained[0].item.remaining, !has_id);
    }
    end_chain(chain, store);
}

static void test_whoever_comes_close_is_known_by_name(void **state)
{
    add_bucket("requests", 1, D, 10);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX];
    for (int i = 1; i <= 12; ++i) {
        assert_int_equal(try_one(chain, STR("acme")), i <= 10 ? WEIR_PASS : WEIR_ANSWER);
        assert_int_equal(store->closest(store, "requests", S, closest), i >= 8);
    }
    assert_string_equal(closest[0].name, "tenant=acme");
    assert_int_equal(closest[0].quota, 10);
    assert_int_equal(closest[0].remaining, 0);
    assert_int_equal(closest[0].reset_ns, 10 * D);
    end_chain(chain, store);
}

static void test_long_names_are_cut(void **state)
{
    static const weir_conf_key_part_t parts[] = {{WEIR_KEY_HEADER, "X-Long"}, {WEIR_KEY_TENANT, NULL}};
    static char value[5000];
    memset(value, 'v', sizeof(value));
    set_key(add_bucket("requests", 1, D, 10), parts, 2);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    asked_t asked;
    for (size_t len = 150; len < sizeof(value); len += len < 200 ? 1 : 1000) {
        prepare(&asked, STR("acme"), S);
        add_field(&asked, STR("x-long"), (weir_str_t){value, len});
        weir_limit_explain(chain, &asked.request, explained);
        size_t whole = 14 + len + 12; /* header:x-long= tenant=acme */
        assert_int_equal(strlen(explained[0].key), whole < 191 ? whole : 191);
    }
    end_chain(chain, store);
}

/* Credentials are told apart, and not shown. */
static void test_no_name_shows_a_secret(void **state)
{
    static const weir_conf_key_part_t parts[] = {
        {WEIR_KEY_HEADER, "X-Api-Key"}, {WEIR_KEY_HEADER, "Authorization"}, {WEIR_KEY_HEADER, "Cookie"}};
    set_key(add_bucket("requests", 1, D, 10), parts, 3);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    weir_limit_explained_t explained[3][WEIR_LIMITS_PER_ROUTE_MAX];
    static const char *const keys[] = {"secret-one", "secret-two", "secret-one"};
    for (int i = 0; i < 3; ++i) {
        asked_t asked;
        prepare(&asked, STR("acme"), S);
        add_field(&asked, STR("x-api-key"), (weir_str_t){keys[i], strlen(keys[i])});
        add_field(&asked, STR("authorization"), (weir_str_t){keys[i], strlen(keys[i])});
        add_field(&asked, STR("cookie"), (weir_str_t){keys[i], strlen(keys[i])});
        weir_limit_explain(chain, &asked.request, explained[i]);
        assert_null(strstr(explained[i][0].key, "secret"));
        assert_int_equal(strlen(explained[i][0].key), strlen("header:x-api-key=#01234567 "
                                                             "header:authorization=#01234567 header:cookie=#01234567"));
    }
    assert_string_equal(explained[0][0].key, explained[2][0].key);
    assert_string_not_equal(explained[0][0].key, explained[1][0].key);
    end_chain(chain, store);
}

/* By its name, in any case, or since API keys are in it. */
static void test_which_headers_hold_secrets(void **state)
{
    static const struct {
        const char *header;
        bool is_secret;
    } rows[] = {
        {"X-API-Key", true},       {"Ocp-Apim-Subscription-Key", true},
        {"X-Auth-Token", true},    {"X-AMZ-Security-TOKEN", true},
        {"Client-Secret", true},   {"X-Forwarded-Authority", true},
        {"Set-Cookie2", true},     {"X-SESSION-ID", true},
        {"Signature-Input", true}, {"X-Credentials", true},
        {"X-Password", true},      {"passwd", true},
        {"X-Customer", true},      {"X-User", false},
        {"X-Plan", false},         {"X-Pass", false},
    };
    static weir_conf_tenant_source_t from[] = {{"x-CUSTOMER", true}, {"X-User", false}};
    setup.tenant.from.entries = from;
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        weir_conf_key_part_t part = {WEIR_KEY_HEADER, rows[i].header};
        char lower[64] = {0};
        for (size_t j = 0; rows[i].header[j] != '\0'; ++j)
            lower[j] = (char)tolower((unsigned char)rows[i].header[j]);
        setup.conf.limits.size = 0;
        set_key(add_bucket("requests", 1, D, 10), &part, 1);
        weir_store_t *store;
        weir_chain_t *chain = start_chain(&store);
        weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
        asked_t asked;
        prepare(&asked, STR("acme"), S);
        add_field(&asked, (weir_str_t){lower, strlen(lower)}, STR("canary-7"));
        weir_limit_explain(chain, &asked.request, explained);
        const char *value = explained[0].key + strlen("header:=") + strlen(lower);
        if (rows[i].is_secret)
            assert_true(strlen(value) == 9 && value[0] == '#' && strspn(value + 1, "0123456789abcdef") == 8);
        else
            assert_string_equal(value, "canary-7");
        end_chain(chain, store);
    }
}

static void test_the_name_of_a_model(void **state)
{
    static const weir_conf_key_part_t part = {WEIR_KEY_MODEL, NULL};
    set_key(add_bucket("requests", 1, D, 10), &part, 1);
    weir_store_t *store;
    weir_chain_t *chain = start_chain(&store);
    static const struct {
        weir_json_picked_t picked;
        const char *key;
    } rows[] = {{{.model = "gpt-5", .model_len = 5}, "model=gpt-5"},
                {{.model_len = 0}, "model="},
                {{.model_is_long = true}, "model=(long)"},
                {{.is_unreadable = true}, "model=?"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
        asked_t asked;
        prepare(&asked, STR("acme"), S);
        asked.request.picked = &rows[i].picked;
        weir_limit_explain(chain, &asked.request, explained);
        assert_string_equal(explained[0].key, rows[i].key);
    }
    end_chain(chain, store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_what_a_request_would_meet, set_up),
        cmocka_unit_test_setup(test_what_was_used_is_explained, set_up),
        cmocka_unit_test_setup(test_a_fresh_start, set_up),
        cmocka_unit_test_setup(test_no_fresh_start_in_a_full_table, set_up),
        cmocka_unit_test_setup(test_what_the_call_of_a_chain_would_meet, set_up),
        cmocka_unit_test_setup(test_whoever_comes_close_is_known_by_name, set_up),
        cmocka_unit_test_setup(test_long_names_are_cut, set_up),
        cmocka_unit_test_setup(test_no_name_shows_a_secret, set_up),
        cmocka_unit_test_setup(test_which_headers_hold_secrets, set_up),
        cmocka_unit_test_setup(test_the_name_of_a_model, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
