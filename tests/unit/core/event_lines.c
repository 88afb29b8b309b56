/* An event stream as its parts, each byte as what it is, whatever the cuts. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../../filters/core/event_lines.h"

/* Of each byte, its part: . other, : comment, d data, n next data, E end, t tail */
static void take_parts(weir_event_lines_t *lines, const char *bytes, size_t len, char *parts)
{
    while (len != 0) {
        weir_event_part_t part;
        char *copy = malloc(len); /* just its length, so that a read beyond it is seen */
        memcpy(copy, bytes, len);
        size_t count = weir_event_lines_next(lines, copy, len, &part);
        free(copy);
        assert_in_range(count, 1, len);
        memset(parts + strlen(parts), ".:dnEt"[part], count);
        bytes += count;
        len -= count;
    }
}

static void test_parts(void **state)
{
    static const struct {
        const char *stream, *parts;
    } table[] = {
        {"data: a\n\n", "......d.E"},
        {"data:a\n\n", ".....d.E"},
        {"data:  a\n\n", "......dd.E"},
        {"data:\n\n", "......E"},
        {"data\n\n", ".....E"},
        {"data: abcdefghijklmnop\n\n", "......dddddddddddddddd.E"},
        {"data: a\r\n\r\ndata: b\r\n\r\n", "......d..Et......d..Et"},
        {"data: a\r\rdata: b\r\r", "......d.E......d.E"},
        {"data: a\r\n\rdata: b\n\r\n", "......d..E......d.Et"},
        {"\n\r\n\r\r\n", "EEtEEt"},
        {"data: a\ndata: b\n\ndata: c\n\n", "......d.....n.d.E......d.E"},
        {"data\ndata\r\ndata:\n\n", ".........n.....n.E"},
        {"event: x\nid\ndata: a\n: c\nretry: 1\ndata: b\n\n", "..................d.::::.............n.d.E"},
        {": c\r\n:\n\r\n", ":::::::Et"},
        {":::data: x\rdata: a\n", ":::::::::::......d."},
        {"dat: a\nd\ndatax: a\ndata : a\n Data: a\n\n", "....................................E"},
        {"\xef\xbb\xbf"
         "data: a\n\n",
         ".........d.E"},
        {"\xef\xbb\xbf\n\xef\xbb\xbf"
         "data: a\n",
         "...E..........."},
        {"\xef\xbb\n\n", "...E"},
        {"\xef\xbb"
         "data: a\n\n",
         "..........E"},
        {"\xef\xbb\xbf: c\n", "...::::"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        for (size_t len = strlen(table[i].stream), at = 0; at <= len; ++at) {
            char parts[128] = "", expected[128] = "";
            strcpy(expected, table[i].parts);
            weir_event_lines_t lines = {0};
            take_parts(&lines, table[i].stream, at, parts);
            take_parts(&lines, table[i].stream + at, len - at, parts);
            assert_string_equal(parts, expected);
            memset(&lines, 0, sizeof(lines));
            memset(parts, 0, sizeof(parts));
            for (size_t byte = 0; byte < len; ++byte)
                take_parts(&lines, table[i].stream + byte, 1, parts);
            assert_string_equal(parts, expected);
        }
}

/* A line's end at each place behind data. */
static void test_lines_of_every_length(void **state)
{
    for (size_t len = 1; len < 40; ++len)
        for (unsigned is_cr = 0; is_cr < 2; ++is_cr) {
            char stream[64], parts[64] = "", expected[64] = "......";
            sprintf(stream, "data: %.*s%c", (int)len,
                    "0123456789\t\x0b\xff\x8a\x8d"
                    "56789012345678901234567890",
                    is_cr ? '\r' : '\n');
            memset(expected + 6, 'd', len);
            expected[6 + len] = '.';
            weir_event_lines_t lines = {0};
            take_parts(&lines, stream, len + 7, parts);
            assert_string_equal(parts, expected);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_lines_of_every_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
