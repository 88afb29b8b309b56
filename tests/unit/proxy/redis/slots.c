#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../../../../proxy/redis/slots.h"

/* --- slots: what CLUSTER KEYSLOT of Redis 7.0 answers --- */

static void keys_are_in_their_slots(void **state)
{
    static const struct {
        const char *key;
        unsigned slot;
    } rows[] = {
        {"123456789", 12739},    {"", 0},         {"foo", 12182},          {"foo{bar}x", 5061},
        {"bar", 5061},           {"{bar}", 5061}, {"{}foo", 9500},         {"foo{}{bar}", 8363},
        {"foo{{bar}}zap", 4015}, {"{bar", 4015},  {"foo{bar}{zap}", 5061}, {"}{bar}", 5061},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i)
        assert_int_equal(weir_redis_slot(rows[i].key, strlen(rows[i].key)), rows[i].slot);
}

static void a_key_ends_where_it_ends(void **state)
{
    assert_int_equal(weir_redis_slot("{bar}", 4), weir_redis_slot("{bar", 4));
    assert_int_equal(weir_redis_slot("fooo", 3), 12182);
}

/* node.c looks for such a tag, and would for ever. */
static void four_letters_reach_every_slot(void **state)
{
    static bool seen[WEIR_REDIS_SLOTS];
    size_t count = 0;
    for (unsigned n = 0; n < 26 * 26 * 26 * 26; ++n) {
        char tag[] = {'a' + n / 17576, 'a' + n / 676 % 26, 'a' + n / 26 % 26, 'a' + n % 26};
        uint16_t slot = weir_redis_slot(tag, sizeof(tag));
        count += !seen[slot];
        seen[slot] = true;
    }
    assert_int_equal(count, WEIR_REDIS_SLOTS);
}

/* --- addresses --- */

static void hosts_of_addresses(void **state)
{
    static const char *const rows[][2] = {
        {"127.0.0.1:6379", "127.0.0.1"},
        {"[::1]:6379", "::1"},
        {"redis.internal:1", "redis.internal"},
        {"unix:///run/r.sock", "localhost"},
    };
    char host[WEIR_REDIS_ADDRESS_MAX];
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        weir_redis_host_of(rows[i][0], host);
        assert_string_equal(host, rows[i][1]);
    }
}

static void addresses_are_joined(void **state)
{
    char address[WEIR_REDIS_ADDRESS_MAX], longest[WEIR_REDIS_ADDRESS_MAX + 1];
    assert_true(weir_redis_join_address(address, "::1", 6379));
    assert_string_equal(address, "[::1]:6379");
    assert_true(weir_redis_join_address(address, "a.b", 65535));
    assert_string_equal(address, "a.b:65535");
    assert_false(weir_redis_join_address(address, "", 6379));
    assert_false(weir_redis_join_address(address, "a", 0));
    assert_false(weir_redis_join_address(address, "a", 65536));
    assert_false(weir_redis_join_address(address, "a", -1));
    memset(longest, 'a', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_false(weir_redis_join_address(address, longest, 1));
}

/* --- CLUSTER SLOTS --- */

typedef struct {
    redisReply first, last, host, port, id, master, entry;
    redisReply *of_master[3], *of_entry[3];
} entry_t;

static redisReply *make_entry(entry_t *entry, long long first, long long last, const char *host, long long port)
{
    *entry = (entry_t){
        .first = {.type = REDIS_REPLY_INTEGER, .integer = first},
        .last = {.type = REDIS_REPLY_INTEGER, .integer = last},
        .host = {.type = host != NULL ? REDIS_REPLY_STRING : REDIS_REPLY_NIL, .str = (char *)host},
        .port = {.type = REDIS_REPLY_INTEGER, .integer = port},
        .id = {.type = REDIS_REPLY_STRING, .str = "id", .len = 2},
        .of_master = {&entry->host, &entry->port, &entry->id},
        .of_entry = {&entry->first, &entry->last, &entry->master},
        .master = {.type = REDIS_REPLY_ARRAY, .elements = 3, .element = entry->of_master},
        .entry = {.type = REDIS_REPLY_ARRAY, .elements = 3, .element = entry->of_entry},
    };
    return &entry->entry;
}

static void ranges_are_read(void **state)
{
    entry_t entry;
    weir_redis_range_t range;
    assert_true(weir_redis_read_range(make_entry(&entry, 5, 16383, "10.0.0.1", 7000), "asked:1", &range));
    assert_int_equal(range.first, 5);
    assert_int_equal(range.last, 16383);
    assert_string_equal(range.address, "10.0.0.1:7000");
}

static void a_node_that_does_not_know_its_host_is_where_it_was_asked(void **state)
{
    static const char *const unknown[] = {"", NULL, "?"};
    entry_t entry;
    weir_redis_range_t range;
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); ++i) {
        assert_true(weir_redis_read_range(make_entry(&entry, 0, 1, unknown[i], 7000), "[::1]:1", &range));
        assert_string_equal(range.address, "[::1]:7000");
    }
}

static void what_is_no_range_is_not_read(void **state)
{
    entry_t entry;
    weir_redis_range_t range;
    assert_false(weir_redis_read_range(make_entry(&entry, 2, 1, "a", 1), "asked:1", &range));
    assert_false(weir_redis_read_range(make_entry(&entry, -1, 1, "a", 1), "asked:1", &range));
    assert_false(weir_redis_read_range(make_entry(&entry, 0, 16384, "a", 1), "asked:1", &range));
    assert_false(weir_redis_read_range(make_entry(&entry, 0, 1, "a", 0), "asked:1", &range));
    make_entry(&entry, 0, 1, "a", 1)->elements = 2;
    assert_false(weir_redis_read_range(&entry.entry, "asked:1", &range));
    make_entry(&entry, 0, 1, "a", 1)->type = REDIS_REPLY_STRING;
    assert_false(weir_redis_read_range(&entry.entry, "asked:1", &range));
    make_entry(&entry, 0, 1, "a", 1);
    entry.master.elements = 1;
    assert_false(weir_redis_read_range(&entry.entry, "asked:1", &range));
    make_entry(&entry, 0, 1, "a", 1);
    entry.port.type = REDIS_REPLY_STRING;
    assert_false(weir_redis_read_range(&entry.entry, "asked:1", &range));
}

/* --- errors --- */

static void redirects_are_read(void **state)
{
    static const struct {
        const char *error;
        bool is_ask;
        unsigned slot;
        const char *address;
    } rows[] = {
        {"MOVED 3999 127.0.0.1:6381", false, 3999, "127.0.0.1:6381"},
        {"ASK 0 ::1:6381", true, 0, "[::1]:6381"},
        {"MOVED 16383 :7001", false, 16383, "asked:7001"},
        {"MOVED 1 name.of.it:7001", false, 1, "name.of.it:7001"},
        {"MOVED 1 ?:7001", false, 1, "asked:7001"},
    };
    weir_redis_redirect_t redirect;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        assert_true(weir_redis_read_redirect(rows[i].error, "asked:1", &redirect));
        assert_int_equal(redirect.is_ask, rows[i].is_ask);
        assert_int_equal(redirect.slot, rows[i].slot);
        assert_string_equal(redirect.address, rows[i].address);
    }
}

static void other_errors_lead_nowhere(void **state)
{
    static const char *const rows[] = {
        "",
        "MOVED",
        "MOVED ",
        "MOVED 1",
        "MOVED x a:1",
        "MOVED 1 a",
        "MOVED 1 a:",
        "MOVED 1 a:0",
        "ASK 1 a:65536",
        "ASK 16384 a:1",
        "MOVED -1 a:1",
        "MOVEDX 1 a:1",
        "ASKING 1 a:1",
        "TRYAGAIN Multiple keys request",
        "ERR MOVED 1 a:1",
    };
    weir_redis_redirect_t redirect;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i)
        assert_false(weir_redis_read_redirect(rows[i], "asked:1", &redirect));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_in_their_slots),
        cmocka_unit_test(a_key_ends_where_it_ends),
        cmocka_unit_test(four_letters_reach_every_slot),
        cmocka_unit_test(hosts_of_addresses),
        cmocka_unit_test(addresses_are_joined),
        cmocka_unit_test(ranges_are_read),
        cmocka_unit_test(a_node_that_does_not_know_its_host_is_where_it_was_asked),
        cmocka_unit_test(what_is_no_range_is_not_read),
        cmocka_unit_test(redirects_are_read),
        cmocka_unit_test(other_errors_lead_nowhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
