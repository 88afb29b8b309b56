/* What passes, hiredis' reader makes whole replies of; what it announces too much of, or what is no RESP2, does not pass, however
 * it is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <hiredis/hiredis.h>
#include "../../../../proxy/redis/reply_guard.h"

enum { MAX = 4096 };

typedef struct {
    const char *error;
    size_t passed; /* from the first byte */
} checked_t;

/* In pieces of `step` bytes. */
static checked_t check(const char *bytes, size_t len, size_t step, size_t max)
{
    weir_reply_guard_t guard;
    checked_t checked = {NULL, 0};
    weir_reply_guard_init(&guard, max);
    for (size_t at = 0, size; at < len && checked.error == NULL; at += size) {
        size_t passed;
        size = len - at < step ? len - at : step;
        char *piece = malloc(size); /* its edges are watched by sanitizers */
        memcpy(piece, bytes + at, size);
        checked.error = weir_reply_guard_check(&guard, piece, size, &passed);
        free(piece);
        if (passed != 0)
            checked.passed = at + passed;
    }
    return checked;
}

static size_t read_replies(const char *bytes, size_t len)
{
    redisReader *reader = redisReaderCreate();
    void *reply;
    size_t count = 0;
    assert_int_equal(redisReaderFeed(reader, bytes, len), REDIS_OK);
    while (redisReaderGetReply(reader, &reply) == REDIS_OK && reply != NULL) {
        freeReplyObject(reply);
        ++count;
    }
    assert_int_equal(reader->err, 0);
    redisReaderFree(reader);
    return count;
}

static void replies_pass_and_are_read(void **state)
{
    static const struct {
        const char *bytes;
        size_t replies;
    } rows[] = {
        {"+PONG\r\n", 1},
        {"+\r\n", 1},
        {"-ERR no\r\n:0\r\n:-9223372036854775808\r\n:9223372036854775807\r\n", 4},
        {"$0\r\n\r\n$-1\r\n*-1\r\n*0\r\n", 4},
        {"$4\r\n\r\n\r\n\r\n", 1},
        {"*2\r\n*1\r\n$1\r\na\r\n*0\r\n+x\r\n", 2},
        {"*3\r\n:1\r\n$-1\r\n*2\r\n*-1\r\n-e\r\n", 1},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n:2\r\n", 2},
        {"*2\r\n:1\r\n", 0},
        {"$10\r\nabc", 0},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        size_t len = strlen(rows[i].bytes);
        for (size_t step = 1; step <= len; ++step)
            assert_null(check(rows[i].bytes, len, step, MAX).error);
        assert_int_equal(check(rows[i].bytes, len, len, MAX).passed, len);
        assert_int_equal(read_replies(rows[i].bytes, len), rows[i].replies);
    }
}

static void what_is_no_reply_does_not_pass(void **state)
{
    static const char *const rows[] = {
        "HTTP/1.1 400 Bad Request\r\n", "\r\n", " +PONG\r\n", "_\r\n", "#t\r\n", "%1\r\n", ">1\r\n", "+a\nb\r\n", "+a\rb\r\n",
        ":\r\n", ":-\r\n", ":-0\r\n", ":01\r\n", ":+1\r\n", ": 1\r\n", ":1 \r\n", ":1\n", ":1\r\r\n", ":1e3\r\n", ":--1\r\n", ":1-\r\n",
        ":9223372036854775808\r\n", ":-9223372036854775809\r\n", ":99999999999999999999\r\n", ":00\r\n",
        "$-2\r\n", "$\r\n", "$1\r\nab\r\n", "$1\r\na\r\r", "$1\r\na\n", "$0\r\na\r\n", "*-2\r\n", "*\r\n", "*a\r\n", "*1\r\n+\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*-1\r\n",
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        char bytes[200];
        size_t len = (size_t)snprintf(bytes, sizeof(bytes), "+OK\r\n%s", rows[i]);
        for (size_t step = 1; step <= len; ++step) {
            checked_t checked = check(bytes, len, step, MAX);
            if (checked.error == NULL)
                fail_msg("passes: %s", rows[i]);
            assert_true(step < len || checked.passed == 5); /* what is before it is whole */
        }
    }
}

static void a_reply_is_as_long_as_it_announces(void **state)
{
    static const struct {
        const char *bytes;
        size_t max; /* the least that it passes with; 0: none */
    } rows[] = {
        {"+PONG\r\n", 7},
        {"$5\r\nhello\r\n", 11},
        {"$5\r\n", 9},
        {"$1000000000\r\n", 1000000013},
        {"$9223372036854775807\r\n", 0},
        {"*2\r\n", 4 + 2 * WEIR_REPLY_ELEMENT_BYTES},
        {"*2\r\n:1\r\n*1\r\n", 12 + 3 * WEIR_REPLY_ELEMENT_BYTES},
        {"*100000000\r\n", 12 + (size_t)100000000 * WEIR_REPLY_ELEMENT_BYTES},
        {"*9223372036854775807\r\n", 0},
        {"*288230376151711745\r\n", 0}, /* 2^58 + 1, which times 64 is 64 */
        {":1\r\n:2\r\n:3\r\n", 4}, /* each of its own */
        {"*1\r\n:1\r\n*1\r\n:1\r\n", 8 + WEIR_REPLY_ELEMENT_BYTES},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); ++i) {
        size_t len = strlen(rows[i].bytes);
        if (rows[i].max == 0) {
            assert_non_null(check(rows[i].bytes, len, len, SIZE_MAX / 2 - 1).error);
            continue;
        }
        assert_null(check(rows[i].bytes, len, 3, rows[i].max).error);
        assert_non_null(check(rows[i].bytes, len, 3, rows[i].max - 1).error);
    }
}

static void a_line_is_bounded(void **state)
{
    size_t len = WEIR_REPLY_LINE_BYTES_MAX;
    char *bytes = malloc(len + 1);
    memset(bytes, 'x', len + 1);
    memcpy(bytes, "+", 1);
    memcpy(bytes + len - 2, "\r\n", 2);
    assert_null(check(bytes, len, 1000, SIZE_MAX).error);
    memcpy(bytes + len - 2, "x\r\n", 3);
    assert_non_null(check(bytes, len + 1, 1000, SIZE_MAX).error);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replies_pass_and_are_read),
        cmocka_unit_test(what_is_no_reply_does_not_pass),
        cmocka_unit_test(a_reply_is_as_long_as_it_announces),
        cmocka_unit_test(a_line_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
