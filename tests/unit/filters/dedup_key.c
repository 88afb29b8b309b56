/* By what a request is known again: each kind of key, in each form that it comes in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../../../filters/dedup_key.h"

#define STR(text) ((weir_str_t){text, sizeof(text) - 1})
#define HEADER(name) {WEIR_DEDUP_KEY_HEADER, name}
#define JSON(pointer) {WEIR_DEDUP_KEY_JSON, pointer}
#define EVENT {WEIR_DEDUP_KEY_CLOUDEVENT, NULL}
#define FINGERPRINT {WEIR_DEDUP_KEY_FINGERPRINT, NULL}

enum { ABSENT = WEIR_DEDUP_KEY_ABSENT, FOUND = WEIR_DEDUP_KEY_FOUND, BAD = WEIR_DEDUP_KEY_BAD, NEEDS_BODY = WEIR_DEDUP_KEY_NEEDS_BODY };

static const uint8_t secret[64] = "a secret that the tests have in common, and nobody else has it.";
static weir_store_t *store;

static void ignore(void *context, weir_ticket_t ticket)
{
}

static int set_up(void **state)
{
    store = weir_memory_store_create(secret, (weir_store_teller_t){ignore, NULL});
    return 0;
}

static int tear_down(void **state)
{
    store->destroy(store);
    return 0;
}

typedef struct {
    weir_request_t request;
    weir_field_t fields[8];
    weir_str_t names[8];
} asked_t;

static asked_t asked_of(weir_str_t method, weir_str_t target)
{
    return (asked_t){.request = {.method = method, .target = target}};
}

static void add(asked_t *asked, weir_str_t name, weir_str_t value)
{
    size_t i = asked->request.field_count++;
    asked->names[i] = name;
    asked->fields[i].value = value;
}

static void set_body(asked_t *asked, weir_str_t body)
{
    asked->request.body = body;
    asked->request.body_bytes = (int64_t)body.len;
}

static weir_dedup_key_told_t find(asked_t *asked, const weir_conf_dedup_key_t *entries, size_t count, weir_dedup_key_t *key)
{
    weir_conf_dedup_t conf = {.key = {entries, count}};
    weir_dedup_keys_t keys;
    asked->request.fields = asked->fields;
    for (size_t i = 0; i < 8; ++i)
        asked->fields[i].name = &asked->names[i];
    memset(key, 0xa5, sizeof(*key));
    weir_dedup_keys_init(&keys, &conf);
    weir_dedup_key_told_t told = weir_dedup_key_find(&keys, store, &asked->request, key);
    weir_dedup_keys_dispose(&keys);
    return told;
}

static bool is_same(const weir_dedup_key_t *a, const weir_dedup_key_t *b)
{
    return a->len == b->len && memcmp(a->parts, b->parts, a->len) == 0;
}

static weir_dedup_key_told_t find_header(weir_str_t value, weir_dedup_key_t *key)
{
    static const weir_conf_dedup_key_t entries[] = {HEADER("Idempotency-Key")};
    asked_t asked = asked_of(STR("POST"), STR("/"));
    add(&asked, STR("idempotency-key"), value);
    return find(&asked, entries, 1, key);
}

static void test_headers(void **state)
{
    static char longest[258], quoted[512];
    memset(longest, 'x', sizeof(longest));
    memset(quoted, '\\', sizeof(quoted));
    quoted[0] = '"';
    static const struct {
        weir_str_t value;
        int told;
        weir_str_t same_as;
    } cases[] = {
        {STR("abc"), FOUND, STR("abc")},
        {STR("\"abc\""), FOUND, STR("abc")},
        {STR("\"a b,c\""), FOUND, STR("a b,c")},
        {STR("\"a\\\"b\\\\c\""), FOUND, STR("a\"b\\c")},
        {STR("a\"b"), FOUND, STR("a\"b")},
        {STR("\xc3\xa9"), FOUND, STR("\"\xc3\xa9\"")},
        {STR(""), BAD, STR("")},
        {STR("\""), BAD, STR("")},
        {STR("\"\""), BAD, STR("")},
        {STR("\"abc"), BAD, STR("")},
        {STR("\"a\"b\""), BAD, STR("")},
        {STR("\"abc\";x=1"), BAD, STR("")},
        {STR("\"a\\c\""), BAD, STR("")},
        {STR("\"abc\\\""), BAD, STR("")},
        {STR("a\tb"), BAD, STR("")},
        {STR("a\x7f"), BAD, STR("")},
        {STR("a\x01"), BAD, STR("")},
        {{longest, 255}, FOUND, {longest, 255}},
        {{longest, 256}, BAD, STR("")},
        {{quoted, 512}, BAD, STR("")},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        weir_dedup_key_t key, same;
        assert_int_equal(find_header(cases[i].value, &key), cases[i].told);
        if (cases[i].told != FOUND)
            continue;
        assert_int_equal(find_header(cases[i].same_as, &same), FOUND);
        assert_true(is_same(&key, &same));
    }
    quoted[511] = '"'; /* 255 bytes between quotes, each escaped */
    weir_dedup_key_t key, other;
    assert_int_equal(find_header((weir_str_t){quoted, 512}, &key), FOUND);
    assert_int_equal(find_header(STR("ABC"), &key), FOUND);
    assert_int_equal(find_header(STR("abc"), &other), FOUND);
    assert_false(is_same(&key, &other));
}

static void test_a_header_twice_is_bad(void **state)
{
    static const weir_conf_dedup_key_t entries[] = {HEADER("Idempotency-Key"), HEADER("X-Key")};
    asked_t asked = asked_of(STR("POST"), STR("/"));
    weir_dedup_key_t key;
    add(&asked, STR("idempotency-key"), STR("abc"));
    add(&asked, STR("idempotency-key"), STR("abc"));
    add(&asked, STR("x-key"), STR("abc"));
    assert_int_equal(find(&asked, entries, 2, &key), BAD);
}

static void test_the_first_that_is_present(void **state)
{
    static const weir_conf_dedup_key_t entries[] = {HEADER("A"), EVENT, JSON("/id"), FINGERPRINT};
    asked_t asked = asked_of(STR("POST"), STR("/"));
    weir_dedup_key_t key;
    assert_int_equal(find(&asked, entries, 0, &key), ABSENT);
    assert_int_equal(find(&asked, entries, 3, &key), ABSENT);
    assert_int_equal(find(&asked, entries, 4, &key), FOUND); /* no body, none to wait for */
    assert_int_equal(key.kind, WEIR_DEDUP_KEY_FINGERPRINT);
    asked.request.body_bytes = -1;
    assert_int_equal(find(&asked, entries, 2, &key), ABSENT);
    assert_int_equal(find(&asked, entries, 3, &key), NEEDS_BODY);
    assert_int_equal(find(&asked, entries + 3, 1, &key), NEEDS_BODY);
    set_body(&asked, STR("{\"id\":17}"));
    assert_int_equal(find(&asked, entries, 4, &key), FOUND);
    assert_int_equal(key.kind, WEIR_DEDUP_KEY_JSON);
    set_body(&asked, STR("{\"no\":17}"));
    assert_int_equal(find(&asked, entries, 4, &key), FOUND);
    assert_int_equal(key.kind, WEIR_DEDUP_KEY_FINGERPRINT);
    add(&asked, STR("ce-id"), STR("1"));
    add(&asked, STR("ce-source"), STR("/s"));
    assert_int_equal(find(&asked, entries, 4, &key), FOUND);
    assert_int_equal(key.kind, WEIR_DEDUP_KEY_CLOUDEVENT);
    add(&asked, STR("a"), STR("1"));
    assert_int_equal(find(&asked, entries, 4, &key), FOUND);
    assert_int_equal(key.kind, WEIR_DEDUP_KEY_HEADER);
    assert_int_equal(key.header.len, 1);
}

/* Events */

static weir_dedup_key_told_t find_binary(weir_str_t id, weir_str_t source, weir_dedup_key_t *key)
{
    static const weir_conf_dedup_key_t entries[] = {EVENT};
    asked_t asked = asked_of(STR("POST"), STR("/"));
    add(&asked, STR("content-type"), STR("application/json"));
    if (id.base != NULL)
        add(&asked, STR("ce-id"), id);
    if (source.base != NULL)
        add(&asked, STR("ce-source"), source);
    return find(&asked, entries, 1, key);
}

static weir_dedup_key_told_t find_structured(weir_str_t type, weir_str_t body, weir_dedup_key_t *key)
{
    static const weir_conf_dedup_key_t entries[] = {EVENT};
    asked_t asked = asked_of(STR("POST"), STR("/"));
    add(&asked, STR("content-type"), type);
    set_body(&asked, body);
    return find(&asked, entries, 1, key);
}

static void test_events_in_both_forms(void **state)
{
    static const struct {
        weir_str_t id, source, body;
    } cases[] = {
        {STR("A234-1234"), STR("/cloudevents/spec/pull"), STR("{\"source\":\"/cloudevents/spec/pull\",\"id\":\"A234-1234\"}")},
        {STR("Euro%20%E2%82%AC%20%F0%9F%98%80"), STR("%22q%22%25"),
         STR("{\"id\":\"Euro \xe2\x82\xac \\ud83d\\ude00\",\"source\":\"\\\"q\\\"%\"}")},
        {STR("%e2%82%ac"), STR("100%"), STR("{\"id\":\"\\u20ac\",\"source\":\"100%\"}")},
        {STR("%zz%4"), STR("s"), STR("{\"id\":\"%zz%4\",\"source\":\"s\"}")},
        /* of older versions of the binding: quoted, with escapes (HTTP Protocol Binding 1.0.2, 3.1.3.2) */
        {STR("\"a b\""), STR("\"s\\\"\\\\\\t%20\""), STR("{\"id\":\"a b\",\"source\":\"s\\\"\\\\t \"}")},
        {STR("\"a"), STR("s\""), STR("{\"id\":\"\\\"a\",\"source\":\"s\\\"\"}")},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        weir_dedup_key_t binary, structured, other;
        assert_int_equal(find_binary(cases[i].id, cases[i].source, &binary), FOUND);
        assert_int_equal(find_structured(STR("application/cloudevents+json; charset=utf-8"), cases[i].body, &structured), FOUND);
        assert_true(is_same(&binary, &structured));
        assert_int_equal(find_binary(cases[i].source, cases[i].id, &other), FOUND);
        assert_false(is_same(&binary, &other));
    }
    weir_dedup_key_t one, two; /* where one ends and the other begins */
    assert_int_equal(find_binary(STR("ab"), STR("c"), &one), FOUND);
    assert_int_equal(find_binary(STR("a"), STR("bc"), &two), FOUND);
    assert_false(is_same(&one, &two));
}

static void test_events_that_are_none_or_bad(void **state)
{
    weir_dedup_key_t key;
    weir_str_t none = {NULL, 0};
    assert_int_equal(find_binary(STR("1"), none, &key), ABSENT);
    assert_int_equal(find_binary(none, STR("1"), &key), ABSENT);
    assert_int_equal(find_binary(STR(""), STR("1"), &key), BAD);
    assert_int_equal(find_binary(STR("\"\""), STR("1"), &key), BAD);
    assert_int_equal(find_binary(STR("a%0Ab"), STR("1"), &key), BAD);
    assert_int_equal(find_binary(STR("a%00"), STR("1"), &key), BAD);
    weir_str_t structured = STR("Application/CloudEvents+JSON");
    assert_int_equal(find_structured(structured, STR("{\"id\":\"1\"}"), &key), ABSENT);
    assert_int_equal(find_structured(structured, STR("{\"source\":\"1\"}"), &key), ABSENT);
    assert_int_equal(find_structured(structured, STR("no json"), &key), ABSENT);
    assert_int_equal(find_structured(structured, STR(""), &key), ABSENT);
    assert_int_equal(find_structured(structured, STR("{\"source\":\"1\",\"id\":\"\"}"), &key), BAD);
    assert_int_equal(find_structured(structured, STR("{\"source\":\"1\",\"id\":true}"), &key), BAD);
    assert_int_equal(find_structured(structured, STR("{\"source\":\"1\",\"id\":\"a\\nb\"}"), &key), BAD);
    assert_int_equal(find_structured(structured, STR("{\"source\":\"1\",\"id\":\"a\\u0000b\"}"), &key), BAD);
    assert_int_equal(find_structured(structured, STR("{\"source\":\"1\",\"id\":\"a\",\"id\":\"a\"}"), &key), BAD);
    assert_int_equal(find_structured(STR("application/cloudevents-batch+json"), STR("[{\"source\":\"1\",\"id\":\"a\"}]"), &key), ABSENT);
    assert_int_equal(find_structured(STR("application/json"), STR("{\"source\":\"1\",\"id\":\"a\"}"), &key), ABSENT);
    static const weir_conf_dedup_key_t entries[] = {EVENT};
    asked_t asked = asked_of(STR("POST"), STR("/"));
    add(&asked, STR("content-type"), structured);
    asked.request.body_bytes = 100;
    assert_int_equal(find(&asked, entries, 1, &key), NEEDS_BODY);
    asked = asked_of(STR("POST"), STR("/")); /* a batch has none, whatever its headers say */
    add(&asked, STR("content-type"), STR("application/cloudevents-batch+json"));
    add(&asked, STR("ce-id"), STR("1"));
    add(&asked, STR("ce-source"), STR("1"));
    assert_int_equal(find(&asked, entries, 1, &key), ABSENT);
    asked = asked_of(STR("POST"), STR("/"));
    add(&asked, STR("ce-id"), STR("1"));
    add(&asked, STR("ce-id"), STR("1"));
    add(&asked, STR("ce-source"), STR("1"));
    assert_int_equal(find(&asked, entries, 1, &key), BAD);
}

static void test_json_members(void **state)
{
    static const weir_conf_dedup_key_t entries[] = {JSON("/job/id")};
    static const struct {
        weir_str_t body;
        int told;
    } cases[] = {
        {STR("{\"job\":{\"id\":\"17\"}}"), FOUND},   {STR("{\"job\":{\"id\":17}}"), FOUND},
        {STR("{\"job\":{\"id\":null}}"), ABSENT},    {STR("{\"job\":{}}"), ABSENT},
        {STR("{\"job\":{\"id\":[]}}"), BAD},         {STR("{\"job\":{\"id\":\"\"}}"), BAD},
        {STR("{\"job\":{\"id\":\"\\u0007\"}}"), BAD}, {STR("{\"job\":{\"id\":1"), ABSENT},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        asked_t asked = asked_of(STR("POST"), STR("/"));
        weir_dedup_key_t key;
        set_body(&asked, cases[i].body);
        assert_int_equal(find(&asked, entries, 1, &key), cases[i].told);
    }
}

static void test_fingerprints(void **state)
{
    static const weir_conf_dedup_key_t entries[] = {FINGERPRINT};
    weir_str_t parts[][3] = {{STR("POST"), STR("/a?b"), STR("body")}, {STR("PUT"), STR("/a?b"), STR("body")},
                             {STR("POST"), STR("/a?c"), STR("body")}, {STR("POST"), STR("/a?b"), STR("bodz")},
                             {STR("POST"), STR("/a?b"), STR("")},     {STR("POST"), STR("/a?bbody"), STR("")},
                             {STR("POST/a"), STR("?b"), STR("body")}};
    weir_dedup_key_t keys[7];
    uint64_t fingerprints[7];
    for (size_t i = 0; i < 7; ++i) {
        asked_t asked = asked_of(parts[i][0], parts[i][1]), again;
        weir_dedup_key_t key;
        set_body(&asked, parts[i][2]);
        again = asked;
        add(&again, STR("x-stainless-retry-count"), STR("1"));
        assert_int_equal(find(&asked, entries, 1, &keys[i]), FOUND);
        assert_int_equal(find(&again, entries, 1, &key), FOUND);
        assert_true(is_same(&key, &keys[i]));
        fingerprints[i] = weir_dedup_fingerprint(store, &asked.request);
        assert_int_not_equal(fingerprints[i], 0);
        for (size_t j = 0; j < i; ++j) {
            assert_false(is_same(&keys[i], &keys[j]));
            assert_int_not_equal(fingerprints[i], fingerprints[j]);
        }
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_headers),
        TEST(test_a_header_twice_is_bad),
        TEST(test_the_first_that_is_present),
        TEST(test_events_in_both_forms),
        TEST(test_events_that_are_none_or_bad),
        TEST(test_json_members),
        TEST(test_fingerprints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
