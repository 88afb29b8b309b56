#include "json_out.h"
#include <inttypes.h>
#include <string.h>

static bool is_continuation(const char *text)
{
    return ((unsigned char)*text & 0xc0) == 0x80;
}

size_t weir_json_out_utf8(const char *text, size_t len)
{
    unsigned char first = len != 0 ? (unsigned char)text[0] : 0xff;
    if (first < 0x80)
        return 1;
    size_t size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || len < size)
        return 0;
    for (size_t i = 1; i != size; ++i)
        if (!is_continuation(text + i))
            return 0;
    unsigned char second = (unsigned char)text[1];
    bool is_overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
    bool is_surrogate = first == 0xed && second >= 0xa0;
    bool is_beyond = first == 0xf4 && second >= 0x90;
    return is_overlong || is_surrogate || is_beyond ? 0 : size;
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* The same for eight bytes: the high bit of one that is below 0x20, equal to one of the three, or not ASCII. */
static bool are_plain(uint64_t word)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), highs = ones << 7;
    uint64_t quote = word ^ ones * '"', backslash = word ^ ones * '\\', del = word ^ ones * 0x7f;
    uint64_t found = (word - ones * 0x20) | (quote - ones) | (backslash - ones) | (del - ones) | word;
    return (found & highs) == 0;
}

/* The character at the start of `text`, escaped; *used: its bytes. */
static size_t escape_one(char unit[6], const char *text, size_t len, size_t *used)
{
    static const char digits[] = "0123456789abcdef", specials[] = "\"\\\n\r\t", letters[] = "\"\\nrt";
    unsigned char c = (unsigned char)*text;
    size_t size = weir_json_out_utf8(text, len);
    *used = size != 0 ? size : 1;
    if (size == 0) {
        memcpy(unit, "\\ufffd", 6);
        return 6;
    }
    const char *found = c != '\0' ? strchr(specials, c) : NULL;
    if (found != NULL) {
        unit[0] = '\\';
        unit[1] = letters[found - specials];
        return 2;
    }
    if (size > 2 || (size == 2 && (c != 0xc2 || (unsigned char)text[1] >= 0xa0)) || is_plain(c)) {
        memcpy(unit, text, size);
        return size;
    }
    unsigned char control = size == 2 ? (unsigned char)text[1] : c;
    memcpy(unit, "\\u00", 4);
    unit[4] = digits[control >> 4];
    unit[5] = digits[control & 15];
    return 6;
}

size_t weir_json_out_escape(char *out, size_t capacity, const char *text, size_t len)
{
    char *at = out, *end = out + capacity;
    while (len != 0 && at != end) {
        uint64_t word;
        if (len >= sizeof(word) && (size_t)(end - at) >= sizeof(word)) {
            memcpy(&word, text, sizeof(word));
            if (are_plain(word)) {
                memcpy(at, &word, sizeof(word));
                at += sizeof(word);
                text += sizeof(word);
                len -= sizeof(word);
                continue;
            }
        }
        if (is_plain((unsigned char)*text)) {
            *at++ = *text++;
            --len;
            continue;
        }
        char unit[6];
        size_t used, size = escape_one(unit, text, len, &used);
        if ((size_t)(end - at) < size)
            break;
        memcpy(at, unit, size);
        at += size;
        text += used;
        len -= used;
    }
    return (size_t)(at - out);
}

static void write_quoted(FILE *file, const char *text)
{
    size_t len = strlen(text);
    putc('"', file);
    while (len != 0) {
        char unit[6];
        size_t used, size = escape_one(unit, text, len, &used);
        fwrite(unit, 1, size, file);
        text += used;
        len -= used;
    }
    putc('"', file);
}

static void begin(weir_json_out_t *out, const char *key)
{
    if (out->comma)
        putc(',', out->file);
    out->comma = true;
    if (key != NULL) {
        write_quoted(out->file, key);
        putc(':', out->file);
    }
}

void weir_json_out_open(weir_json_out_t *out, const char *key, char bracket)
{
    begin(out, key);
    putc(bracket, out->file);
    out->comma = false;
}

void weir_json_out_close(weir_json_out_t *out, char bracket)
{
    putc(bracket, out->file);
    out->comma = true;
}

void weir_json_out_string(weir_json_out_t *out, const char *key, const char *text)
{
    begin(out, key);
    if (text != NULL)
        write_quoted(out->file, text);
    else
        fputs("null", out->file);
}

void weir_json_out_integer(weir_json_out_t *out, const char *key, int64_t value)
{
    begin(out, key);
    fprintf(out->file, "%" PRId64, value);
}

void weir_json_out_bool(weir_json_out_t *out, const char *key, bool value)
{
    begin(out, key);
    fputs(value ? "true" : "false", out->file);
}
