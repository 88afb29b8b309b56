/* What a pause is called in Redis: known names, that each part counts, and what is no name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../../../../filters/redis/pause_member.h"

#define STR(text) ((weir_str_t){text, sizeof(text) - 1})

static const char name[] = "openai", url[] = "https://api.openai.com";

static bool is_same(weir_key_t a, weir_key_t b)
{
    return a.low == b.low && a.high == b.high;
}

/* Reckoned with another library: sidecars of every release have to find the same. */
static void test_the_names_are_these(void **state)
{
    uint64_t upstream = weir_pause_upstream(name, url);
    char text[WEIR_PAUSE_MEMBER_LEN];
    assert_true(upstream == UINT64_C(0x343310d01e658223));
    weir_pause_member_write(text, upstream, weir_pause_key(upstream, STR("gpt-5"), UINT64_C(0x0123456789abcdef)));
    assert_memory_equal(text, "343310d01e6582231ffaf22a9ccfc2baeb11535e6caa0db0", sizeof(text));
    weir_pause_member_write(text, upstream, weir_pause_key(upstream, (weir_str_t){NULL, 0}, 0));
    assert_memory_equal(text, "343310d01e6582239dd5a2f3e16d4454fd2388aeac83406d", sizeof(text));
    weir_pause_upstream_write(text, 10);
    assert_memory_equal(text, "000000000000000a", WEIR_PAUSE_UPSTREAM_LEN);
}

static void test_every_part_counts(void **state)
{
    uint64_t upstream = weir_pause_upstream(name, url);
    weir_key_t key = weir_pause_key(upstream, STR("gpt-5"), 1);
    assert_true(upstream != weir_pause_upstream("openai2", url));
    assert_true(upstream != weir_pause_upstream(name, "https://api.openai.com/"));
    assert_true(weir_pause_upstream("ab", "c") != weir_pause_upstream("a", "bc"));
    assert_true(is_same(key, weir_pause_key(upstream, STR("gpt-5"), 1)));
    assert_false(is_same(key, weir_pause_key(upstream + 1, STR("gpt-5"), 1)));
    assert_false(is_same(key, weir_pause_key(upstream, STR("gpt-5-mini"), 1)));
    assert_false(is_same(key, weir_pause_key(upstream, STR("gpt-"), 1)));
    assert_false(is_same(key, weir_pause_key(upstream, STR("gpt-5"), 2)));
}

static void test_what_was_written_is_read(void **state)
{
    static const uint64_t numbers[] = {0, 1, 0x0123456789abcdef, UINT64_MAX};
    for (size_t i = 0; i != sizeof(numbers) / sizeof(*numbers); ++i) {
        char text[WEIR_PAUSE_MEMBER_LEN];
        uint64_t upstream;
        weir_key_t key, written = {numbers[i], numbers[(i + 1) % 4]};
        weir_pause_member_write(text, numbers[3 - i], written);
        assert_true(weir_pause_member_read((weir_str_t){text, sizeof(text)}, &upstream, &key));
        assert_true(upstream == numbers[3 - i] && is_same(key, written));
        assert_true(weir_pause_upstream_read((weir_str_t){text, sizeof(text)}, &upstream));
        assert_true(upstream == numbers[3 - i]);
    }
}

static void test_what_is_no_name(void **state)
{
    static const char good[] = "343310d01e6582231ffaf22a9ccfc2baeb11535e6caa0db0";
    char text[sizeof(good) + 1];
    uint64_t upstream;
    weir_key_t key;
    for (size_t len = 0; len != sizeof(text); ++len) {
        memset(text, '0', sizeof(text));
        assert_int_equal(weir_pause_member_read((weir_str_t){text, len}, &upstream, &key), len == WEIR_PAUSE_MEMBER_LEN);
        assert_int_equal(weir_pause_upstream_read((weir_str_t){text, len}, &upstream), len >= WEIR_PAUSE_UPSTREAM_LEN);
    }
    for (size_t at = 0; at != WEIR_PAUSE_MEMBER_LEN; ++at)
        for (const char *wrong = "/:gG`A\xff"; *wrong != '\0'; ++wrong) {
            memcpy(text, good, sizeof(good));
            text[at] = wrong[0];
            assert_false(weir_pause_member_read((weir_str_t){text, WEIR_PAUSE_MEMBER_LEN}, &upstream, &key));
        }
    memcpy(text, good, sizeof(good));
    text[20] = '\0';
    assert_false(weir_pause_member_read((weir_str_t){text, WEIR_PAUSE_MEMBER_LEN}, &upstream, &key));
    assert_false(weir_pause_member_read((weir_str_t){NULL, 0}, &upstream, &key));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_names_are_these),
        cmocka_unit_test(test_every_part_counts),
        cmocka_unit_test(test_what_was_written_is_read),
        cmocka_unit_test(test_what_is_no_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
