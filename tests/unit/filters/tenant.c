/* Who a request is for, and whose word is taken for it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <openssl/sha.h>
#include "request.h"

extern const weir_filter_t weir_filter_tenant;

#define TENS "1234567890123456789012345678901234567890"
#define NAME_128 TENS TENS TENS "12345678"

/* ---- requests ---- */

typedef struct {
    const char *from; /* sources: names, with a ? before those that hold a key */
    const char *default_tenant;
    const char *fields;
    weir_reason_t reason; /* NONE: it passes */
    const char *tenant;
    const char *up;   /* value of the field that names the tenant; NULL: there is none */
    const char *kept; /* NULL: as in `fields` */
    bool ignored;
} case_t;

/* Keys `key-of-NAME` of these tenants. */
static const char *const keyed[] = {"acme", "globex", "initech", "umbrella", "a:b@c.d/e_f-1"};

static int by_sha256(const void *a, const void *b)
{
    return memcmp(a, b, SHA256_DIGEST_LENGTH);
}

static void set_keys(weir_conf_tenant_t *tenant)
{
    enum { COUNT = sizeof(keyed) / sizeof(*keyed) };
    static weir_conf_api_key_t keys[COUNT];
    for (size_t i = 0; i < COUNT; ++i) {
        char key[64];
        int len = snprintf(key, sizeof(key), "key-of-%s", keyed[i]);
        SHA256((const unsigned char *)key, (size_t)len, keys[i].sha256);
        keys[i].tenant = keyed[i];
    }
    qsort(keys, COUNT, sizeof(*keys), by_sha256);
    tenant->api_keys.entries = keys;
    tenant->api_keys.size = COUNT;
}

static void set_sources(test_request_t *test, const char *from)
{
    static char names[256];
    weir_conf_tenant_t *tenant = &test->conf.tenant;
    snprintf(names, sizeof(names), "%s", from);
    tenant->from.size = 0;
    tenant->forward_header = NULL;
    for (char *name = strtok(names, " "); name != NULL; name = strtok(NULL, " ")) {
        bool is_api_key = *name == '?';
        test->sources[tenant->from.size++] = (weir_conf_tenant_source_t){name + is_api_key, is_api_key};
        if (!is_api_key && tenant->forward_header == NULL)
            tenant->forward_header = name;
    }
    if (tenant->forward_header == NULL)
        tenant->forward_header = "X-Tenant-ID";
}

static void check_verdict(const weir_verdict_t *verdict, const case_t *c)
{
    assert_int_equal(verdict->kind, c->reason == WEIR_REASON_NONE ? WEIR_PASS : WEIR_ANSWER);
    if (verdict->kind == WEIR_ANSWER)
        assert_int_equal(verdict->reason, c->reason);
    assert_true(verdict->retry_after_ns < 0);
    assert_int_equal(verdict->status, 0);
    if (c->reason == WEIR_REASON_TENANT_INVALID)
        assert_true(verdict->detail != NULL && strlen(verdict->detail) > 20);
}

static void check(const case_t *c, bool trusted)
{
    test_request_t *test = test_request_create();
    char up[512] = "", kept[TEST_TEXT_MAX];
    set_keys(&test->conf.tenant);
    set_sources(test, c->from);
    test->conf.tenant.default_tenant = c->default_tenant;
    test->request.trusted = trusted;
    test_request_add(test, c->fields);
    strcpy(kept, c->kept != NULL ? c->kept : test_request_kept(test));
    weir_verdict_t verdict = test_request_admit(test, &weir_filter_tenant);
    check_verdict(&verdict, c);
    assert_int_equal(test->request.identity_ignored, c->ignored);
    if (verdict.kind == WEIR_PASS) {
        assert_string_equal(test_text(test, test->request.tenant), c->tenant);
        if (c->up != NULL)
            snprintf(up, sizeof(up), "i %s: %s\n", test->conf.tenant.forward_header, c->up);
        assert_string_equal(test_request_kept(test), kept);
        assert_string_equal(test_request_up(test), up);
    } else {
        assert_int_equal(test->request.tenant.len, 0);
        assert_int_equal(test->request.up_field_count, 0);
    }
    test_request_destroy(test);
}

#define CHECK(table, trusted)                                   \
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) \
    check(&table[i], trusted)

#define INVALID .reason = WEIR_REASON_TENANT_INVALID
#define MISSING .reason = WEIR_REASON_TENANT_MISSING
#define UNKNOWN .reason = WEIR_REASON_API_KEY_UNKNOWN
#define BELIEVED(name) .tenant = name, .up = name

static void test_headers_of_a_trusted_peer(void **state)
{
    static const case_t table[] = {
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: acme", BELIEVED("acme"), .kept = ""},
        {"X-Tenant-ID", "anonymous", "x-tenant-id: acme\nX-A: 1", BELIEVED("acme"), .kept = "X-A: 1\n"},
        {"X-Tenant-ID", NULL, "X-Tenant-ID: acme", BELIEVED("acme"), .kept = ""},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: " NAME_128, BELIEVED(NAME_128), .kept = ""},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: A.b_c:d@e/f-9", BELIEVED("A.b_c:d@e/f-9"), .kept = ""},
        /* a name that is the default's, but was said */
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: anonymous", BELIEVED("anonymous"), .kept = ""},
        {"X-Tenant-ID", NULL, "X-Tenant-ID: refuse", BELIEVED("refuse"), .kept = ""},
        /* none */
        {"X-Tenant-ID", "anonymous", "", .tenant = "anonymous"},
        {"X-Tenant-ID", "house", "X-A: 1\nX-Tenant: acme\nTenant-ID: acme\nX-Tenant-IDs: acme", .tenant = "house"},
        {"X-Tenant-ID", NULL, "X-A: 1", MISSING},
        {"", "anonymous", "", .tenant = "anonymous"},
        {"", NULL, "X-Tenant-ID: acme", MISSING},
        {"", "anonymous", "X-Tenant-ID: acme", .tenant = "anonymous", .kept = ""},
        /* bad ones */
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID:", INVALID},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: " NAME_128 "9", INVALID},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: a b", INVALID},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: a,b", INVALID},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: %61", INVALID},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: acme\nX-Tenant-ID: acme", INVALID},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: acme\nX-A: 1\nx-tenant-id: globex", INVALID},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: acme\nX-Tenant-ID:", INVALID},
        {"X-Tenant-ID", NULL, "X-Tenant-ID:", INVALID},
        /* several sources: the first that is present; it goes up under the first header */
        {"X-Org X-Team", "anonymous", "X-Team: t\nX-Org: o", BELIEVED("o"), .kept = "X-Team: t\n"},
        {"X-Org X-Team", "anonymous", "X-Team: t", BELIEVED("t")},
        {"X-Org X-Team", "anonymous", "X-Team: t\nX-Org:", INVALID},
        {"X-Org X-Team", "anonymous", "X-Team: t\nX-Org: o\nX-Org: o", INVALID},
        {"X-Org X-Team", "anonymous", "X-Team:\nX-Org: o", BELIEVED("o"), .kept = "X-Team: \n"},
        {"X-Org X-Team", "anonymous", "X-Tenant-ID: t", .tenant = "anonymous"},
    };
    CHECK(table, true);
}

static void test_headers_of_others_are_dropped(void **state)
{
    static const case_t table[] = {
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: acme\nX-A: 1", .tenant = "anonymous", .kept = "X-A: 1\n",
         .ignored = true},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: acme\nx-tenant-id: b", .tenant = "anonymous", .kept = "",
         .ignored = true},
        {"X-Tenant-ID", "anonymous", "X-Tenant-ID: no name", .tenant = "anonymous", .kept = "", .ignored = true},
        {"X-Tenant-ID", NULL, "X-Tenant-ID: acme", MISSING, .ignored = true},
        {"X-Tenant-ID", "anonymous", "X-A: 1", .tenant = "anonymous"},
        {"X-Org X-Team", "anonymous", "X-Team: t\nX-A: 1", .tenant = "anonymous", .kept = "X-A: 1\n", .ignored = true},
        {"X-Org X-Team", "anonymous", "X-Team: t\nX-Org: o", .tenant = "anonymous", .kept = "", .ignored = true},
        /* a key is believed; what was said beside it is not passed on either */
        {"X-Org X-Team ?x-api-key", "anonymous", "X-Team: t\nx-api-key: key-of-acme", BELIEVED("acme"), .kept = "",
         .ignored = true},
        {"?x-api-key X-Team X-Org", "anonymous", "X-Org: o\nx-api-key: key-of-acme", BELIEVED("acme"), .kept = "",
         .ignored = true},
        {"X-Org ?x-api-key", "anonymous", "X-Org: o\nx-api-key: nobodys", UNKNOWN, .ignored = true},
        /* that field is no source: a trusted peer would not be believed either */
        {"?x-api-key", "anonymous", "X-Tenant-ID: evil", .tenant = "anonymous", .kept = ""},
    };
    CHECK(table, false);
}

static void test_keys_of_any_peer(void **state)
{
    static const case_t table[] = {
        {"?x-api-key", NULL, "x-api-key: key-of-acme", BELIEVED("acme"), .kept = ""},
        {"?X-API-Key", NULL, "x-api-key: key-of-globex\nX-A: 1", BELIEVED("globex"), .kept = "X-A: 1\n"},
        {"?x-api-key", NULL, "X-Api-Key: key-of-initech", BELIEVED("initech"), .kept = ""},
        {"?x-api-key", NULL, "x-api-key: key-of-umbrella", BELIEVED("umbrella"), .kept = ""},
        {"?x-api-key", NULL, "x-api-key: key-of-a:b@c.d/e_f-1", BELIEVED("a:b@c.d/e_f-1"), .kept = ""},
        {"?x-api-key", "anonymous", "", .tenant = "anonymous"},
        {"?x-api-key", NULL, "X-A: 1", MISSING},
        /* unknown ones */
        {"?x-api-key", "anonymous", "x-api-key: key-of-nobody", UNKNOWN},
        {"?x-api-key", "anonymous", "x-api-key: key-of-acm", UNKNOWN},
        {"?x-api-key", "anonymous", "x-api-key: key-of-acme1", UNKNOWN},
        {"?x-api-key", "anonymous", "x-api-key: KEY-OF-ACME", UNKNOWN},
        {"?x-api-key", "anonymous", "x-api-key:", UNKNOWN},
        {"?x-api-key", "anonymous", "x-api-key: acme", UNKNOWN},
        {"?x-api-key", "anonymous", "x-api-key: Bearer key-of-acme", UNKNOWN},
        /* SHA-256 of key-of-acme: who reads the configuration has no key */
        {"?x-api-key", "anonymous", "x-api-key: 689febd264f8b977e29c0fdb75f839eb248ba07d1561b14f2b95f42756943245",
         UNKNOWN},
        {"?x-api-key", "anonymous", "x-api-key: key-of-acme\nx-api-key: key-of-acme", INVALID},
        {"?x-api-key", "anonymous", "x-api-key: key-of-acme\nx-api-key:", INVALID},
        /* Authorization: a bearer token */
        {"?Authorization", NULL, "Authorization: Bearer key-of-acme", BELIEVED("acme"), .kept = ""},
        {"?authorization", NULL, "AUTHORIZATION: bearer key-of-acme", BELIEVED("acme"), .kept = ""},
        {"?Authorization", NULL, "Authorization: BEARER   key-of-acme", BELIEVED("acme"), .kept = ""},
        {"?Authorization", NULL, "Authorization: Bearer\tkey-of-acme", BELIEVED("acme"), .kept = ""},
        {"?Authorization", "anonymous", "Authorization: Bearer key-of-nobody", UNKNOWN},
        {"?Authorization", "anonymous", "Authorization: Bearer", UNKNOWN},
        {"?Authorization", "anonymous", "Authorization: Bearer  ", UNKNOWN},
        {"?Authorization", "anonymous", "Authorization: Bearer key-of-acme key-of-acme", UNKNOWN},
        {"?Authorization", "anonymous", "Authorization: Bearer Bearer key-of-acme", UNKNOWN},
        {"?Authorization", "anonymous", "Authorization: Bearer key-of-acme, Basic YTpi", UNKNOWN},
        {"?Authorization", "anonymous", "Authorization: Bearer key-of-acme\nAuthorization: Bearer key-of-acme",
         INVALID},
        {"?Authorization", "anonymous", "Authorization: Basic YTpi\nAuthorization: Bearer key-of-acme", INVALID},
        {"?Authorization", "anonymous", "Authorization: Bearer key-of-acme\nAuthorization: Basic YTpi", INVALID},
        /* another scheme is the upstream's business */
        {"?Authorization", "anonymous", "Authorization: Basic YTpi", .tenant = "anonymous"},
        {"?Authorization", "anonymous", "Authorization: Basic YTpi\nAuthorization: Digest a=b", .tenant = "anonymous"},
        {"?Authorization", "anonymous", "Authorization: Bearerkey-of-acme", .tenant = "anonymous"},
        {"?Authorization", "anonymous", "Authorization: Bearers key-of-acme", .tenant = "anonymous"},
        {"?Authorization", "anonymous", "Authorization: key-of-acme", .tenant = "anonymous"},
        {"?Authorization", "anonymous", "Authorization: Bear", .tenant = "anonymous"},
        {"?Authorization", "anonymous", "Authorization:", .tenant = "anonymous"},
        {"?Authorization", NULL, "Authorization: Basic YTpi", MISSING},
        /* several; a credential that named no one goes on */
        {"?Authorization ?x-api-key", NULL, "Authorization: Basic YTpi\nx-api-key: key-of-acme", BELIEVED("acme"),
         .kept = "Authorization: Basic YTpi\n"},
        {"?Authorization ?x-api-key", NULL, "x-api-key: key-of-globex\nAuthorization: Bearer key-of-acme",
         BELIEVED("acme"), .kept = "x-api-key: key-of-globex\n"},
        {"?Authorization ?x-api-key", NULL, "x-api-key: key-of-globex\nAuthorization: Bearer key-of-nobody", UNKNOWN},
        {"?x-api-key ?Authorization", NULL, "x-api-key: key-of-globex\nAuthorization: Bearer upstreams-own",
         BELIEVED("globex"), .kept = "Authorization: Bearer upstreams-own\n"},
        /* a caller's field of the name that the tenant goes up under */
        {"?x-api-key", NULL, "X-Tenant-ID: evil\nx-api-key: key-of-acme\nx-tenant-id: evil", BELIEVED("acme"),
         .kept = ""},
    };
    CHECK(table, true);
    CHECK(table, false);
}

static void test_headers_and_keys_of_a_trusted_peer(void **state)
{
    static const case_t table[] = {
        {"X-Tenant-ID ?x-api-key", NULL, "x-api-key: key-of-acme\nX-Tenant-ID: globex", BELIEVED("globex"),
         .kept = "x-api-key: key-of-acme\n"},
        {"X-Tenant-ID ?x-api-key", NULL, "x-api-key: nobodys\nX-Tenant-ID: globex", BELIEVED("globex"),
         .kept = "x-api-key: nobodys\n"},
        {"X-Tenant-ID ?x-api-key", NULL, "x-api-key: key-of-acme", BELIEVED("acme"), .kept = ""},
        {"?x-api-key X-Org", NULL, "x-api-key: key-of-acme\nX-Org: globex", BELIEVED("acme"), .kept = ""},
        {"?x-api-key X-Org", NULL, "X-Org: globex", BELIEVED("globex"), .kept = ""},
        {"?x-api-key X-Org X-Team", NULL, "x-api-key: key-of-acme\nX-Team: t", BELIEVED("acme"), .kept = "X-Team: t\n"},
        {"X-Tenant-ID ?x-api-key", NULL, "x-api-key: key-of-acme\nX-Tenant-ID:", INVALID},
    };
    CHECK(table, true);
}

static void test_every_byte_in_a_name(void **state)
{
    static const char good[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@/-";
    for (int byte = 0; byte < 256; ++byte)
        for (size_t at = 0; at < 3; ++at) {
            test_request_t *test = test_request_create();
            char name[] = "aaa";
            name[at] = (char)byte;
            test_request_add_bytes(test, "X-Tenant-ID", name, 3);
            weir_verdict_t verdict = test_request_admit(test, &weir_filter_tenant);
            bool is_good = memchr(good, byte, sizeof(good) - 1) != NULL;
            assert_int_equal(verdict.kind, is_good ? WEIR_PASS : WEIR_ANSWER);
            assert_string_equal(test_text(test, test->request.tenant), is_good ? name : "");
            test_request_destroy(test);
        }
}

/* The names themselves keep tenants apart: parts are not joined or folded. */
static void test_names_are_taken_as_they_are(void **state)
{
    static const char *const names[] = {"a",    "A",   "a:b", "a:b:c", "a/b", "a/", "/a",
                                        "a//b", "a@b", "a.b", "-",     ".",   "0",  "00"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); ++i) {
        case_t c = {"X-Tenant-ID", "anonymous", .tenant = names[i], .up = names[i], .kept = ""};
        char fields[64];
        snprintf(fields, sizeof(fields), "X-Tenant-ID: %s", names[i]);
        c.fields = fields;
        check(&c, true);
    }
}

static void test_many_keys(void **state)
{
    enum { COUNT = 1000 };
    weir_conf_api_key_t *keys = calloc(COUNT, sizeof(*keys));
    char(*texts)[16] = calloc(COUNT, sizeof(*texts));
    for (size_t i = 0; i < COUNT; ++i) {
        int len = snprintf(texts[i], sizeof(texts[i]), "t%zu", i);
        SHA256((const unsigned char *)texts[i], (size_t)len, keys[i].sha256);
        keys[i].tenant = texts[i];
    }
    qsort(keys, COUNT, sizeof(*keys), by_sha256);
    for (size_t size = 0; size <= COUNT; size += size < 5 ? 1 : 199)
        for (size_t i = 0; i < COUNT; i += 1 + i % 7) {
            test_request_t *test = test_request_create();
            set_sources(test, "?x-api-key");
            test->conf.tenant.api_keys.entries = keys;
            test->conf.tenant.api_keys.size = size;
            test_request_add_bytes(test, "x-api-key", keys[i].tenant, strlen(keys[i].tenant));
            weir_verdict_t verdict = test_request_admit(test, &weir_filter_tenant);
            assert_int_equal(verdict.kind, i < size ? WEIR_PASS : WEIR_ANSWER);
            assert_string_equal(test_text(test, test->request.tenant), i < size ? keys[i].tenant : "");
            test_request_destroy(test);
        }
    free(keys);
    free(texts);
}

static void test_a_listeners_own_section(void **state)
{
    static const weir_conf_tenant_source_t own_source = {"X-Org", false};
    for (size_t which = 0; which < 2; ++which) {
        test_request_t *test = test_request_create();
        weir_conf_tenant_t own = {.default_tenant = NULL, .forward_header = "X-Org"};
        own.from.entries = &own_source;
        own.from.size = 1;
        weir_conf_listener_t listeners[2] = {{.name = "a", .tenant = &test->conf.tenant},
                                             {.name = "b", .tenant = &own}};
        test->conf.listeners.entries = listeners;
        test->conf.listeners.size = 2;
        test->request.listener = &listeners[which];
        test_request_add(test, "X-Org: o\nX-Tenant-ID: t");
        assert_int_equal(test_request_admit(test, &weir_filter_tenant).kind, WEIR_PASS);
        assert_string_equal(test_request_up(test), which == 0 ? "i X-Tenant-ID: t\n" : "i X-Org: o\n");
        assert_string_equal(test_request_kept(test), which == 0 ? "X-Org: o\n" : "X-Tenant-ID: t\n");
        test_request_destroy(test);
    }
}

/* A request that was refused before its route was known, or before its head was read. */
static void test_without_a_route(void **state)
{
    for (size_t i = 0; i < 2; ++i) {
        test_request_t *test = test_request_create();
        test->request.route = NULL;
        test->request.fields = NULL;
        test->request.method = test->request.target = (weir_str_t){NULL, 0};
        test->conf.tenant.default_tenant = i == 0 ? "anonymous" : NULL;
        assert_int_equal(test_request_admit(test, &weir_filter_tenant).kind, i == 0 ? WEIR_PASS : WEIR_ANSWER);
        assert_string_equal(test_text(test, test->request.tenant), i == 0 ? "anonymous" : "");
        test_request_destroy(test);
    }
}

/* ---- trust ---- */

static weir_conf_cidr_t range_of(const char *text)
{
    weir_conf_cidr_t range = {.family = strchr(text, ':') != NULL ? AF_INET6 : AF_INET};
    char address[64];
    snprintf(address, sizeof(address), "%.*s", (int)strcspn(text, "/"), text);
    assert_int_equal(inet_pton(range.family, address, range.address), 1);
    range.prefix_length = (unsigned)atoi(strchr(text, '/') + 1);
    return range;
}

static bool trusts(const char *const *ranges, size_t count, const char *peer)
{
    weir_conf_tenant_t tenant = {0};
    weir_conf_cidr_t entries[4];
    for (size_t i = 0; i < count; ++i)
        entries[i] = range_of(ranges[i]);
    tenant.trusted.entries = entries;
    tenant.trusted.size = count;
    int family = strchr(peer, ':') != NULL ? AF_INET6 : AF_INET;
    uint8_t *address = malloc(family == AF_INET ? 4 : 16); /* no more is read than there is */
    assert_int_equal(inet_pton(family, peer, address), 1);
    bool result = weir_tenant_trusts(&tenant, family, address);
    free(address);
    return result;
}

static void test_trust_by_range(void **state)
{
    static const struct {
        const char *range, *peer;
        bool trusted;
    } table[] = {
        {"127.0.0.0/8", "127.0.0.1", true},
        {"127.0.0.0/8", "127.255.255.255", true},
        {"127.0.0.0/8", "126.255.255.255", false},
        {"127.0.0.0/8", "128.0.0.0", false},
        {"10.1.2.3/32", "10.1.2.3", true},
        {"10.1.2.3/32", "10.1.2.2", false},
        {"10.1.2.2/31", "10.1.2.3", true},
        {"10.1.2.2/31", "10.1.2.4", false},
        {"10.32.0.0/11", "10.63.255.255", true},
        {"10.32.0.0/11", "10.64.0.0", false},
        {"10.32.0.0/11", "10.31.255.255", false},
        {"128.0.0.0/1", "255.0.0.1", true},
        {"128.0.0.0/1", "127.0.0.1", false},
        {"0.0.0.0/0", "203.0.113.9", true},
        {"10.9.9.9/8", "10.1.1.1", true}, /* bits beyond the prefix do not count */
        {"::1/128", "::1", true},
        {"::1/128", "::2", false},
        {"::1/128", "::", false},
        {"2001:db8::/32", "2001:db8:ffff::1", true},
        {"2001:db8::/32", "2001:db9::1", false},
        {"2001:db8:8000::/33", "2001:db8:8000::", true},
        {"2001:db8:8000::/33", "2001:db8:7fff::", false},
        {"2001:db8::8/127", "2001:db8::9", true},
        {"2001:db8::8/127", "2001:db8::a", false},
        {"::/0", "2001:db8::1", true},
        /* families apart ... */
        {"::/0", "127.0.0.1", false},
        {"0.0.0.0/0", "::1", false},
        {"0.0.0.0/0", "2001:db8::1", false},
        {"::/8", "127.0.0.1", false},
        {"127.0.0.0/8", "7f00:1::", false},
        {"::127.0.0.1/128", "127.0.0.1", false}, /* compatible is not mapped */
        /* ... but an IPv4-mapped address is the IPv4 one, on either side */
        {"127.0.0.0/8", "::ffff:127.0.0.1", true},
        {"127.0.0.0/8", "::ffff:128.0.0.1", false},
        {"0.0.0.0/0", "::ffff:203.0.113.9", true},
        {"127.0.0.0/8", "::fffe:127.0.0.1", false},
        {"127.0.0.0/8", "::1:ffff:127.0.0.1", false},
        {"::ffff:127.0.0.0/104", "127.0.0.1", true},
        {"::ffff:127.0.0.0/104", "::ffff:127.0.0.1", true},
        {"::ffff:127.0.0.0/104", "128.0.0.1", false},
        {"::ffff:0:0/96", "203.0.113.9", true},
        {"::/0", "::ffff:127.0.0.1", false}, /* the same address, the same answer, by whichever socket it came */
        {"::/64", "::ffff:127.0.0.1", false},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        if (trusts(&table[i].range, 1, table[i].peer) != table[i].trusted)
            fail_msg("%s in %s: not as it should be", table[i].peer, table[i].range);
}

static void test_every_prefix_length(void **state)
{
    char range[64], peer[64];
    const char *const ranges[] = {range};
    for (unsigned length = 0; length <= 128; ++length)
        for (unsigned bit = 0; bit < 128; ++bit) { /* the peer differs from the range in this one */
            uint8_t address[16] = {0x20, 0x01, 0x0d, 0xb8, [15] = 1};
            char text[INET6_ADDRSTRLEN];
            snprintf(range, sizeof(range), "2001:db8::1/%u", length);
            address[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
            snprintf(peer, sizeof(peer), "%s", inet_ntop(AF_INET6, address, text, sizeof(text)));
            assert_int_equal(trusts(ranges, 1, peer), bit >= length);
            if (length > 32 || bit >= 32)
                continue;
            snprintf(range, sizeof(range), "32.1.13.184/%u", length);
            snprintf(peer, sizeof(peer), "%s", inet_ntop(AF_INET, address, text, sizeof(text)));
            assert_int_equal(trusts(ranges, 1, peer), bit >= length);
        }
}

static void test_several_ranges_and_none(void **state)
{
    static const char *const defaults[] = {"127.0.0.0/8", "::1/128"};
    assert_true(trusts(defaults, 2, "127.0.0.1"));
    assert_true(trusts(defaults, 2, "::1"));
    assert_true(trusts(defaults, 2, "::ffff:127.0.0.1"));
    assert_false(trusts(defaults, 2, "10.0.0.1"));
    assert_false(trusts(defaults, 0, "127.0.0.1"));
    assert_false(trusts(defaults, 0, "::1"));
}

static void test_other_families(void **state)
{
    weir_conf_tenant_t tenant = {0};
    uint8_t address[16] = {0};
    assert_true(weir_tenant_trusts(&tenant, AF_UNIX, address));
    assert_false(weir_tenant_trusts(&tenant, AF_UNSPEC, address));
    assert_false(weir_tenant_trusts(&tenant, AF_PACKET, address));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers_of_a_trusted_peer),
        cmocka_unit_test(test_headers_of_others_are_dropped),
        cmocka_unit_test(test_keys_of_any_peer),
        cmocka_unit_test(test_headers_and_keys_of_a_trusted_peer),
        cmocka_unit_test(test_every_byte_in_a_name),
        cmocka_unit_test(test_names_are_taken_as_they_are),
        cmocka_unit_test(test_many_keys),
        cmocka_unit_test(test_a_listeners_own_section),
        cmocka_unit_test(test_without_a_route),
        cmocka_unit_test(test_trust_by_range),
        cmocka_unit_test(test_every_prefix_length),
        cmocka_unit_test(test_several_ranges_and_none),
        cmocka_unit_test(test_other_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
