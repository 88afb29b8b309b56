/* The caller's address is the peer's, or what a proxy in front wrote - never what a caller wrote. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "request.h"
#include "../../../filters/client_ip.h"

#define PEER "192.0.2.1"
#define LONG_ZEROS "0000000000000000000000000000000000000000"

static const struct {
    int64_t hops;
    const char *fields, *address;
} table[] = {
    /* no proxy in front: the peer is the caller */
    {0, "", PEER},
    {0, "X-Forwarded-For: 203.0.113.9", PEER},
    {0, "X-Forwarded-For: 203.0.113.9, 203.0.113.8", PEER},
    /* one: the last entry is what it saw */
    {1, "X-Forwarded-For: 203.0.113.9", "203.0.113.9"},
    {1, "X-Forwarded-For: 203.0.113.8, 203.0.113.9", "203.0.113.9"},
    {1, "X-Forwarded-For: 203.0.113.8,203.0.113.9", "203.0.113.9"},
    {1, "X-Forwarded-For: 203.0.113.8 ,\t 203.0.113.9 \t", "203.0.113.9"},
    {1, "X-Forwarded-For: evil,, ;, 203.0.113.9", "203.0.113.9"},
    {1, "X-Forwarded-For: 203.0.113.8\nX-Forwarded-For: 203.0.113.9", "203.0.113.9"},
    {1, "x-forwarded-for: 203.0.113.8\nX-A: 1\nX-FORWARDED-FOR: 203.0.113.9\nX-B: 2", "203.0.113.9"},
    {1, "X-Forwarded-For: 2001:db8::1", "2001:db8::1"},
    {1, "X-Forwarded-For: 203.0.113.8, 2001:DB8::1", "2001:DB8::1"},
    {1, "X-Forwarded-For: ::1", "::1"},
    {1, "X-Forwarded-For: ::", "::"},
    /* two and more */
    {2, "X-Forwarded-For: 203.0.113.7, 203.0.113.8, 203.0.113.9", "203.0.113.8"},
    {3, "X-Forwarded-For: 203.0.113.7, 203.0.113.8, 203.0.113.9", "203.0.113.7"},
    {2, "X-Forwarded-For: 203.0.113.7, 203.0.113.8\nX-Forwarded-For: 203.0.113.9", "203.0.113.8"},
    {2, "X-Forwarded-For: 203.0.113.7\nX-Forwarded-For: 203.0.113.8, 203.0.113.9", "203.0.113.8"},
    {3, "X-Forwarded-For: 203.0.113.7\nX-Forwarded-For: 203.0.113.8\nX-Forwarded-For: 203.0.113.9", "203.0.113.7"},
    {3, "X-Forwarded-For: 203.0.113.7\nX-Forwarded-For: 203.0.113.8, 203.0.113.9", "203.0.113.7"},
    {2, "X-Forwarded-For: 203.0.113.8, whatever", "203.0.113.8"}, /* only its own place counts */
    /* the list is shorter than there are proxies */
    {1, "", PEER},
    {1, "X-Forwarded-Fo: 203.0.113.9\nX-Forwarded-Form: 203.0.113.9\nX-Real-IP: 203.0.113.9", PEER},
    {2, "X-Forwarded-For: 203.0.113.9", PEER},
    {4, "X-Forwarded-For: 203.0.113.7\nX-Forwarded-For: 203.0.113.8, 203.0.113.9", PEER},
    {32, "X-Forwarded-For: 203.0.113.9", PEER},
    /* what is no address there; an empty place is a place */
    {1, "X-Forwarded-For:", PEER},
    {1, "X-Forwarded-For: ,", PEER},
    {1, "X-Forwarded-For: 203.0.113.9,", PEER},
    {1, "X-Forwarded-For: 203.0.113.9\nX-Forwarded-For:", PEER},
    {2, "X-Forwarded-For: 203.0.113.8,, 203.0.113.9", PEER},
    {2, "X-Forwarded-For: 203.0.113.8\nX-Forwarded-For:\nX-Forwarded-For: 203.0.113.9", PEER},
    {1, "X-Forwarded-For: unknown", PEER},
    {1, "X-Forwarded-For: unix:", PEER},
    {1, "X-Forwarded-For: _hidden", PEER},
    {1, "X-Forwarded-For: localhost", PEER},
    {1, "X-Forwarded-For: 203.0.113", PEER},
    {1, "X-Forwarded-For: 203.0.113.9.1", PEER},
    {1, "X-Forwarded-For: 203.0.113.256", PEER},
    {1, "X-Forwarded-For: 203.0.113.09", PEER},
    {1, "X-Forwarded-For: 0x7f.0.0.1", PEER},
    {1, "X-Forwarded-For: 3405803785", PEER},
    {1, "X-Forwarded-For: 203.0.113.9/32", PEER},
    {1, "X-Forwarded-For: 203.0.113.9 203.0.113.8", PEER},
    {1, "X-Forwarded-For: \"203.0.113.9\"", PEER},
    {1, "X-Forwarded-For: 2001:db8::1%eth0", PEER},
    {1, "X-Forwarded-For: 2001:db8:::1", PEER},
    {1, "X-Forwarded-For: " LONG_ZEROS LONG_ZEROS, PEER},
    {1, "X-Forwarded-For: ::" LONG_ZEROS, PEER},
    /* ports */
    {1, "X-Forwarded-For: 203.0.113.9:443", "203.0.113.9"},
    {1, "X-Forwarded-For: 203.0.113.9:65535", "203.0.113.9"},
    {1, "X-Forwarded-For: [2001:db8::1]:443", "2001:db8::1"},
    {1, "X-Forwarded-For: [2001:db8::1]", "2001:db8::1"},
    {1, "X-Forwarded-For: 2001:db8::443", "2001:db8::443"},
    {1, "X-Forwarded-For: 2001:db8:0:0:0:0:1:443", "2001:db8:0:0:0:0:1:443"},
    {1, "X-Forwarded-For: 203.0.113.9:", PEER},
    {1, "X-Forwarded-For: 203.0.113.9:http", PEER},
    {1, "X-Forwarded-For: 203.0.113.9:123456", PEER},
    {1, "X-Forwarded-For: :80", PEER},
    {1, "X-Forwarded-For: []", PEER},
    {1, "X-Forwarded-For: [", PEER},
    {1, "X-Forwarded-For: ]", PEER},
    {1, "X-Forwarded-For: []:80", PEER},
    {1, "X-Forwarded-For: [2001:db8::1", PEER},
    {1, "X-Forwarded-For: 2001:db8::1]:80", PEER},
    {1, "X-Forwarded-For: [[2001:db8::1]]", PEER},
    /* one address is one key, however it is written down */
    {1, "X-Forwarded-For: ::ffff:203.0.113.9", "203.0.113.9"},
    {1, "X-Forwarded-For: ::FFFF:203.0.113.9", "203.0.113.9"},
    {1, "X-Forwarded-For: [::ffff:203.0.113.9]:80", "203.0.113.9"},
    {1, "X-Forwarded-For: ::ffff:cb00:7109", "::ffff:cb00:7109"},
    {1, "X-Forwarded-For: ::ffff:", PEER},
    {1, "X-Forwarded-For: ::ffff:203.0.113.256", PEER},
};

static const char *find(test_request_t *test, const char *peer)
{
    return test_text(test, weir_client_ip(&test->request, (weir_str_t){peer, strlen(peer)}));
}

static void test_counted_from_the_right(void **state)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        test_request_t *test = test_request_create();
        test->conf.server.client_ip =
            (weir_conf_client_ip_t){.header = "X-Forwarded-For", .trusted_hops = table[i].hops};
        test_request_add(test, table[i].fields);
        if (strcmp(find(test, PEER), table[i].address) != 0)
            fail_msg("%ld hops, %s: %s, not %s", (long)table[i].hops, table[i].fields, test->text, table[i].address);
        assert_int_equal(test->request.dropped[0], 0);
        test_request_destroy(test);
    }
}

static void test_no_header_is_believed_without_being_told(void **state)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        test_request_t *test = test_request_create();
        test->conf.server.client_ip =
            (weir_conf_client_ip_t){.header = "X-Forwarded-For", .trusted_hops = table[i].hops};
        test_request_add(test, table[i].fields);
        test->conf.server.client_ip.header = NULL;
        assert_string_equal(find(test, PEER), PEER);
        test->conf.server.client_ip.header = "X-Other";
        assert_string_equal(find(test, PEER), PEER);
        test_request_destroy(test);
    }
}

static void test_peers(void **state)
{
    static const char *const peers[][2] = {{"unix", "unix"},
                                           {"", ""},
                                           {"2001:db8::1", "2001:db8::1"},
                                           {"::1", "::1"},
                                           {"::ffff:127.0.0.1", "127.0.0.1"},
                                           {"::ffff:0:1", "::ffff:0:1"}};
    test_request_t *test = test_request_create();
    for (size_t i = 0; i < sizeof(peers) / sizeof(*peers); ++i)
        assert_string_equal(find(test, peers[i][0]), peers[i][1]);
    test_request_destroy(test);
}

static void test_it_needs_no_memory_of_its_own(void **state)
{
    test_request_t *test = test_request_create();
    test->conf.server.client_ip = (weir_conf_client_ip_t){.header = "X-Forwarded-For", .trusted_hops = 1};
    test_request_add(test, "X-Forwarded-For: 203.0.113.8, 203.0.113.9");
    size_t allocations = test->allocation_count;
    weir_str_t address = weir_client_ip(&test->request, (weir_str_t){PEER, sizeof(PEER) - 1});
    assert_ptr_equal(address.base, test->fields[0].value.base + strlen("203.0.113.8, "));
    assert_int_equal(test->allocation_count, allocations);
    test_request_destroy(test);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counted_from_the_right),
        cmocka_unit_test(test_no_header_is_believed_without_being_told),
        cmocka_unit_test(test_peers),
        cmocka_unit_test(test_it_needs_no_memory_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
