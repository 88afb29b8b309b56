#include "text.h"
#include <string.h>

enum { OPEN_BRACKETS_MAX = 1000 };

/* Bytes of the UTF-8 character that begins at `text`; 0 where there is none (RFC 3629). */
static size_t utf8_length(const unsigned char *text, size_t len)
{
    static const struct {
        unsigned char first_min, first_max, second_min, second_max, length;
    } rows[] = {
        {0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
        {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
        {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        if (text[0] < rows[i].first_min || text[0] > rows[i].first_max)
            continue;
        if (len < rows[i].length)
            return 0;
        if (rows[i].length > 1 && (text[1] < rows[i].second_min || text[1] > rows[i].second_max))
            return 0;
        for (size_t k = 2; k < rows[i].length; ++k)
            if (text[k] < 0x80 || text[k] > 0xbf)
                return 0;
        return rows[i].length;
    }
    return 0;
}

bool weir_conf_text_is_utf8(const char *text, size_t len)
{
    for (size_t at = 0, length; at < len; at += length)
        if ((length = utf8_length((const unsigned char *)text + at, len - at)) == 0)
            return false;
    return true;
}

static bool is_control(unsigned char byte)
{
    return (byte < 0x20 && byte != '\t' && byte != '\n' && byte != '\r') || byte == 0x7f;
}

/* Brackets in quotes and comments count as well: it is a bound, not a parser. */
static size_t count_brackets(size_t open, unsigned char byte)
{
    if (byte == '[' || byte == '{')
        return open + 1;
    return (byte == ']' || byte == '}') && open > 0 ? open - 1 : open;
}

bool weir_conf_text_check(const char *file, const char *text, size_t len, weir_conf_errors_t *errors)
{
    weir_conf_place_t place = {file, 1, 1};
    const unsigned char *bytes = (const unsigned char *)text;
    size_t open = 0, at = len >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0; /* a mark of the byte order */
    for (size_t length; at < len; at += length) {
        unsigned char byte = bytes[at];
        length = utf8_length(bytes + at, len - at);
        open = count_brackets(open, byte);
        if (length == 0)
            weir_conf_errors_add(errors, place, "", "is not UTF-8 (byte 0x%02x); save the file as UTF-8", byte);
        else if (is_control(byte))
            weir_conf_errors_add(errors, place, "", "a control character (byte 0x%02x); leave it out", byte);
        else if (open > OPEN_BRACKETS_MAX)
            weir_conf_errors_add(errors, place, "", "is nested too deeply; close the brackets before it");
        if (length == 0 || is_control(byte) || open > OPEN_BRACKETS_MAX)
            return false;
        bool line_ends = byte == '\n' || (byte == '\r' && (at + 1 == len || bytes[at + 1] != '\n'));
        place.line += line_ends;
        place.column = line_ends ? 1 : place.column + 1;
    }
    return true;
}
