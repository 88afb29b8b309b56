/* Commands as Redis reads them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "../../../../proxy/redis/link.h"

static weir_str_t word(const char *text)
{
    return (weir_str_t){text, strlen(text)};
}

static void assert_formats(const weir_str_t *words, size_t count, const char *expected, size_t len)
{
    char *bytes = malloc(len + 1); /* its edge is watched by sanitizers */
    assert_int_equal(weir_redis_format_size(words, count), len);
    assert_int_equal(weir_redis_format(bytes, words, count), len);
    assert_memory_equal(bytes, expected, len);
    free(bytes);
}

static void words_become_bulk_strings(void **state)
{
    static const char ping[] = "*1\r\n$4\r\nPING\r\n", empty[] = "*2\r\n$3\r\nGET\r\n$0\r\n\r\n";
    static const char bytes[] = "*2\r\n$3\r\nGET\r\n$5\r\n\r\n\0*9\r\n";
    assert_formats((weir_str_t[]){word("PING")}, 1, ping, sizeof(ping) - 1);
    assert_formats((weir_str_t[]){word("GET"), {NULL, 0}}, 2, empty, sizeof(empty) - 1);
    assert_formats((weir_str_t[]){word("GET"), {"\r\n\0*9", 5}}, 2, bytes, sizeof(bytes) - 1);
}

static void lengths_have_as_many_digits_as_they_need(void **state)
{
    static const size_t lens[] = {9, 10, 99, 100, 999, 1000, 99999, 100000};
    for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); ++i) {
        char *payload = malloc(lens[i]), *expected = malloc(lens[i] + 40);
        memset(payload, 'x', lens[i]);
        size_t len = (size_t)sprintf(expected, "*1\r\n$%zu\r\n%.*s\r\n", lens[i], (int)lens[i], payload);
        assert_formats((weir_str_t[]){{payload, lens[i]}}, 1, expected, len);
        free(payload);
        free(expected);
    }
}

static void there_may_be_many_words(void **state)
{
    enum { WORDS = 1234 };
    weir_str_t words[WORDS];
    char expected[WORDS * 7 + 10];
    size_t len = (size_t)sprintf(expected, "*%d\r\n", WORDS);
    for (size_t i = 0; i < WORDS; ++i) {
        words[i] = word("a");
        len += (size_t)sprintf(expected + len, "$1\r\na\r\n");
    }
    assert_formats(words, WORDS, expected, len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_become_bulk_strings),
        cmocka_unit_test(lengths_have_as_many_digits_as_they_need),
        cmocka_unit_test(there_may_be_many_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
