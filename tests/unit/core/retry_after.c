/* Retry-After: the three forms of a date against the C library's, tables of what is none, and bytes at random. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "../seeded.h"
#include "../../../filters/core/retry_after.h"

#define S INT64_C(1000000000)
#define NEVER_TOO_MUCH INT64_MAX

static const int64_t wall_ns = INT64_C(784111777) * S; /* Sun, 06 Nov 1994 08:49:37 GMT */

/* In memory of just its length, so that a read beyond it is seen. */
static int64_t ask_bytes(const char *text, size_t len, int64_t now_ns, int64_t max_ns)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, text, len);
    int64_t ns = weir_retry_after_ns(copy, len, now_ns, max_ns);
    free(copy);
    return ns;
}

static int64_t ask(const char *text)
{
    return ask_bytes(text, strlen(text), wall_ns, NEVER_TOO_MUCH);
}

static void test_seconds(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } table[] = {
        {"0", 0},
        {"1", S},
        {"00000000000000000000000000000000000000007", 7 * S},
        {"120", 120 * S},
        {" 5\t", 5 * S},
        {"9223372036", 9223372036 * S},
        {"9223372037", INT64_MAX},
        {"1000000000000", INT64_MAX},
        {"18446744073709551616", INT64_MAX},
        {"340282366920938463463374607431768211456", INT64_MAX},
        {"99999999999999999999999999999999999999999999999999999999999999999999999", INT64_MAX},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        assert_int_equal(ask(table[i].text), table[i].ns);
    assert_int_equal(ask_bytes("1000000000000", 13, wall_ns, 600 * S), 600 * S);
    assert_int_equal(ask_bytes("601", 3, wall_ns, 600 * S), 600 * S);
    assert_int_equal(ask_bytes("599", 3, wall_ns, 600 * S), 599 * S);
    assert_int_equal(ask_bytes("7", 1, wall_ns, 0), 0);
}

static void test_dates(void **state)
{
    static const struct {
        const char *text;
        int64_t ns;
    } table[] = {
        {"Sun, 06 Nov 1994 08:49:37 GMT", 0},
        {"Sun, 06 Nov 1994 08:49:38 GMT", S},
        {"Sunday, 06-Nov-94 08:50:37 GMT", 60 * S},
        {"Sun Nov  6 09:49:37 1994", 3600 * S},
        {"Sun Nov 06 09:49:37 1994", 3600 * S},
        {"Mon Nov 16 08:49:37 1994", 10 * 86400 * S},
        {"Fri, 06 Nov 1994 08:49:40 GMT", 3 * S}, /* the weekday need not be right */
        {"\t Sun, 06 Nov 1994 08:49:38 GMT ", S},
        {"Sat, 05 Nov 1994 23:59:59 GMT", 0}, /* over */
        {"Thu, 01 Jan 1970 00:00:00 GMT", 0},
        {"Sat, 01 Jan 0000 00:00:00 GMT", 0},
        {"Sun, 06 Nov 1994 08:49:60 GMT", 23 * S},           /* a leap second */
        {"Fri, 31 Dec 9999 23:59:60 GMT", INT64_MAX},        /* more than fits */
        {"Wed, 29 Feb 1996 00:00:00 GMT", 41440223 * S},     /* 479 days, 15 h 10 min 23 s */
        {"Tuesday, 06-Nov-44 08:49:37 GMT", 1577923200 * S}, /* 50 years ahead, and not more */
        {"Sunday, 06-Nov-44 08:49:38 GMT", 0},               /* 1944 */
        {"Monday, 07-Nov-44 00:00:00 GMT", 0},
        {"Sunday, 31-Oct-44 00:00:00 GMT", INT64_C(1577373023) * S},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        if (ask(table[i].text) != table[i].ns)
            fail_msg("%s: %lld", table[i].text, (long long)ask(table[i].text));
    const char *soon = "Sun, 06 Nov 1994 08:49:38 GMT"; /* to the ns, and capped */
    assert_int_equal(ask_bytes(soon, strlen(soon), wall_ns + 1, NEVER_TOO_MUCH), S - 1);
    assert_int_equal(ask_bytes(soon, strlen(soon), wall_ns + S + 1, NEVER_TOO_MUCH), 0);
    assert_int_equal(ask_bytes(soon, strlen(soon), 0, 600 * S), 600 * S);
    assert_int_equal(ask_bytes(soon, strlen(soon), INT64_MAX, 600 * S), 0);
}

static void test_garbage_is_a_second(void **state)
{
    static const char *const table[] = {
        /* of the dates, none is a second ahead */
        "",
        " ",
        "\t \t",
        "-1",
        "+1",
        "1.5",
        "1s",
        "1 2",
        "1,2",
        "0x10",
        "1e3",
        "soon",
        "Sun",
        "Sun,",
        "sun, 06 Nov 1994 08:49:47 GMT",
        "SUN, 06 NOV 1994 08:49:47 GMT",
        "Sun, 06 Nov 1994 08:49:47",
        "Sun, 06 Nov 1994 08:49:47 gmt",
        "Sun, 06 Nov 1994 08:49:47 UTC",
        "Sun, 06 Nov 1994 08:49:47 GMT+1",
        "Sun, 06 Nov 1994 08:49:47 +0000",
        "Sun,06 Nov 1994 08:49:47 GMT",
        "Sun,  06 Nov 1994 08:49:47 GMT",
        "Sun, 6 Nov 1994 08:49:47 GMT",
        "Sun, 06 Nov 94 08:49:47 GMT",
        "Sun, 06-Nov-1994 08:49:47 GMT",
        "Sun, 06-Nov-94 08:49:47 GMT",
        "Sunday, 06 Nov 1994 08:49:47 GMT",
        "Sunday, 06-Nov-1994 08:49:47 GMT",
        "Sun Nov 6 08:49:47 1994",
        "Sun Nov  6 08:49:47 1994 GMT",
        "Sun Nov  6 08:49:47 94",
        "Sun Nov 16 08:49:47",
        "Sun, 00 Nov 1994 08:49:47 GMT",
        "Sun, 31 Nov 1994 08:49:47 GMT",
        "Sun, 32 Dec 1994 08:49:47 GMT",
        "Wed, 29 Feb 1995 00:00:00 GMT",
        "Thu, 30 Feb 1996 00:00:00 GMT",
        "Thu, 29 Feb 2100 00:00:00 GMT",
        "Friday, 29-Feb-99 00:00:00 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:38 GMT",
        "Sun, 06 Nov 1994 08:49:61 GMT",
        "Sun, 06 Nov 1994 8:49:38 GMT",
        "Sun, 06 Foo 1994 08:49:47 GMT",
        "Sun, 06 , 1994 08:49:47 GMT",
        "Bad, 06 Nov 1994 08:49:47 GMT",
        "\xff\xfe",
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        if (ask(table[i]) != S)
            fail_msg("%s: %lld", table[i], (long long)ask(table[i]));
    assert_int_equal(ask_bytes("1\0", 2, wall_ns, NEVER_TOO_MUCH), S);
    assert_int_equal(ask_bytes("5\n", 2, wall_ns, NEVER_TOO_MUCH), S);
    assert_int_equal(weir_retry_after_ns(NULL, 0, wall_ns, NEVER_TOO_MUCH), S);
    assert_int_equal(weir_retry_after_ns(NULL, 0, wall_ns, S / 2), S / 2);
    assert_int_equal(ask_bytes("soon", 4, wall_ns, S / 2), S / 2);
}

/* Dates of which the C library knows the forms and the seconds. */
static void test_any_date_as_the_library_writes_it(void **state)
{
    static const char *const forms[] = {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT",
                                        "%a %b %e %H:%M:%S %Y"};
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 60000; ++i) {
        int64_t now_s = (int64_t)seeded_below(&seeded, UINT64_C(9000000000)); /* to 2255 */
        int64_t half_s = INT64_C(50) * 365 * 86400;                           /* of 50 years, some leap days less */
        int64_t date_s = now_s - half_s + (int64_t)seeded_below(&seeded, (uint64_t)half_s * 2);
        struct tm tm;
        time_t date = (time_t)date_s;
        gmtime_r(&date, &tm);
        char text[64];
        size_t len = strftime(text, sizeof(text), forms[i % 3], &tm);
        int64_t ahead_ns = date_s > now_s ? (date_s - now_s) * S : 0;
        if (ask_bytes(text, len, now_s * S, NEVER_TOO_MUCH) != ahead_ns)
            fail_msg("%s at %lld", text, (long long)now_s);
    }
}

static void test_the_two_digit_year_is_the_last_that_is_not_more_than_50_years_ahead(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 20000; ++i) {
        time_t now = (time_t)seeded_below(&seeded, UINT64_C(9000000000));
        struct tm latest, tm;
        gmtime_r(&now, &latest);
        latest.tm_year += 50;
        tm = (struct tm){.tm_year = (int)seeded_below(&seeded, 100),
                         .tm_mon = (int)seeded_below(&seeded, 12),
                         .tm_mday = 1 + (int)seeded_below(&seeded, 28),
                         .tm_hour = (int)seeded_below(&seeded, 24)};
        if (seeded_below(&seeded, 2) == 0) { /* at the edge */
            tm = latest;
            tm.tm_sec += (int)seeded_below(&seeded, 3) - 1;
            if (tm.tm_sec < 0 || tm.tm_sec > 59 || (tm.tm_mon == 1 && tm.tm_mday == 29))
                continue;
            tm.tm_year %= 100;
        }
        char text[64];
        size_t len = strftime(text, sizeof(text), "Monday, %d-%b-%y %H:%M:%S GMT", &tm);
        for (struct tm next = tm;; tm = next) {
            next.tm_year += 100;
            struct tm earlier = next, mark = latest; /* timegm makes 1 March of a 29 February that is not there */
            earlier.tm_year -= 50;
            mark.tm_year -= 50;
            if (timegm(&earlier) > timegm(&mark))
                break;
        }
        time_t date = timegm(&tm);
        int64_t ahead_ns = date > now ? (int64_t)(date - now) * S : 0;
        if (ask_bytes(text, len, (int64_t)now * S, NEVER_TOO_MUCH) != ahead_ns)
            fail_msg("%s at %lld", text, (long long)now);
    }
}

static void test_any_bytes_stay_within_the_bounds(void **state)
{
    static const char *const seeds[] = {"Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT",
                                        "Sun Nov  6 08:49:37 1994", "1000000000000"};
    static const char alphabet[] = "0123456789 ,:-SunGMTNov\t\0\x80\xff";
    seeded_t seeded = seeded_start(__func__);
    for (int i = 0; i < 100000; ++i) {
        char text[40];
        size_t len = strlen(seeds[i % 4]);
        memcpy(text, seeds[i % 4], len);
        for (uint64_t changes = seeded_below(&seeded, 4); changes-- != 0;)
            text[seeded_below(&seeded, len)] = alphabet[seeded_below(&seeded, sizeof(alphabet))];
        int64_t max_ns = (int64_t)(seeded_next(&seeded) >> (1 + seeded_below(&seeded, 63)));
        int64_t now_ns = (int64_t)(seeded_next(&seeded) >> (1 + seeded_below(&seeded, 63)));
        int64_t ns = ask_bytes(text, seeded_below(&seeded, len + 1), now_ns, max_ns);
        assert_true(ns >= 0 && ns <= max_ns);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_garbage_is_a_second),
        cmocka_unit_test(test_any_date_as_the_library_writes_it),
        cmocka_unit_test(test_the_two_digit_year_is_the_last_that_is_not_more_than_50_years_ahead),
        cmocka_unit_test(test_any_bytes_stay_within_the_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
