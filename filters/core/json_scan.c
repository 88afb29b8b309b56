#include "json_scan.h"

#include <stdlib.h>
#include <string.h>
#include "swar.h"

/*      BEFORE_VALUE --- { ---> BEFORE_NAME_OR_END --- "..." ---> BEFORE_COLON --- : ---> BEFORE_VALUE
 *           |  \                                                      ^
 *           |   `------ [ ---> BEFORE_ELEMENT_OR_END              BEFORE_NAME
 *         scalar                   |  element                         ^
 *           v                      v                                  |
 *      BEHIND_VALUE <--------------'    --- , in an array: BEFORE_VALUE, in an object: --'
 *
 * } and ] lead to BEHIND_VALUE of what is around, or to IS_DONE. */
enum {
    BEFORE_VALUE,
    BEFORE_ELEMENT_OR_END,
    BEFORE_NAME_OR_END,
    BEFORE_NAME,
    BEFORE_COLON,
    BEHIND_VALUE,
    IN_STRING,
    IN_ESCAPE,  /* behind a backslash */
    IN_UNICODE, /* behind \u */
    IN_LITERAL,
    IN_NUMBER, /* and number_state_t */
    BEHIND_NUMBER = IN_NUMBER + 8,
    IS_DONE,
    IS_MALFORMED,
};

/* RFC 8259 6. What a number's next byte does to it; ENDED: it is none of the number's. */
typedef enum { MINUS, ZERO, INTEGER, POINT, FRACTION, E, E_SIGN, EXPONENT, ENDED, BROKEN } number_state_t;
typedef enum { IS_ZERO, IS_DIGIT, IS_POINT, IS_E, IS_PLUS, IS_MINUS, IS_OTHER, BYTE_KINDS } byte_kind_t;

static const uint8_t number_steps[ENDED][BYTE_KINDS] = {
    /*             0         1-9       .       e       +       -       other */
    [MINUS] = {ZERO, INTEGER, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN},
    [ZERO] = {BROKEN, BROKEN, POINT, E, ENDED, ENDED, ENDED},
    [INTEGER] = {INTEGER, INTEGER, POINT, E, ENDED, ENDED, ENDED},
    [POINT] = {FRACTION, FRACTION, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN},
    [FRACTION] = {FRACTION, FRACTION, ENDED, E, ENDED, ENDED, ENDED},
    [E] = {EXPONENT, EXPONENT, BROKEN, BROKEN, E_SIGN, E_SIGN, BROKEN},
    [E_SIGN] = {EXPONENT, EXPONENT, BROKEN, BROKEN, BROKEN, BROKEN, BROKEN},
    [EXPONENT] = {EXPONENT, EXPONENT, ENDED, ENDED, ENDED, ENDED, ENDED},
};

static const struct {
    const char *text;
    weir_json_token_kind_t kind;
} literals[] = {
    {"true", WEIR_JSON_TOKEN_TRUE},
    {"false", WEIR_JSON_TOKEN_FALSE},
    {"null", WEIR_JSON_TOKEN_NULL},
};

void weir_json_scan_init(weir_json_scan_t *scan, void (*on_token)(void *context, const weir_json_token_t *token),
                         void *context)
{
    scan->on_token = on_token;
    scan->context = context;
    scan->offset = 0;
    scan->state = BEFORE_VALUE;
    scan->depth = 0;
    scan->surrogate = 0;
    scan->is_open = false;
}

static uint64_t offset_of(const weir_json_scan_t *scan, const char *p)
{
    return scan->offset + (uint64_t)(p - scan->piece);
}

static const char *break_off(weir_json_scan_t *scan, const char *at)
{
    scan->state = IS_MALFORMED;
    return at;
}

/* Nesting */

static bool is_in_object(const weir_json_scan_t *scan)
{
    unsigned level = scan->depth - 1u;
    return (scan->nesting[level / 8] >> level % 8 & 1) != 0;
}

static void tell_bracket(weir_json_scan_t *scan, weir_json_token_kind_t kind, const char *p)
{
    uint64_t at = offset_of(scan, p);
    weir_json_token_t token = {.kind = kind, .depth = scan->depth, .at = at, .end = at + 1};
    scan->on_token(scan->context, &token);
}

static const char *begin_nested(weir_json_scan_t *scan, const char *p, bool is_object)
{
    if (scan->depth == WEIR_JSON_DEPTH_MAX)
        return break_off(scan, p);
    tell_bracket(scan, is_object ? WEIR_JSON_TOKEN_BEGIN_OBJECT : WEIR_JSON_TOKEN_BEGIN_ARRAY, p);
    uint8_t *levels = &scan->nesting[scan->depth / 8], bit = (uint8_t)(1u << scan->depth % 8);
    *levels = (uint8_t)(is_object ? *levels | bit : *levels & ~bit);
    ++scan->depth;
    scan->state = is_object ? BEFORE_NAME_OR_END : BEFORE_ELEMENT_OR_END;
    return p + 1;
}

static void leave_value(weir_json_scan_t *scan)
{
    scan->state = scan->depth == 0 ? IS_DONE : BEHIND_VALUE;
}

static const char *end_nested(weir_json_scan_t *scan, const char *p)
{
    bool is_object = *p == '}';
    --scan->depth;
    tell_bracket(scan, is_object ? WEIR_JSON_TOKEN_END_OBJECT : WEIR_JSON_TOKEN_END_ARRAY, p);
    leave_value(scan);
    return p + 1;
}

/* Text */

static void begin_text(weir_json_scan_t *scan, const char *p, uint8_t state)
{
    scan->token_at = offset_of(scan, p);
    scan->text_len = 0;
    scan->is_long = false;
    scan->state = state;
}

static void keep(weir_json_scan_t *scan, const char *bytes, size_t len)
{
    size_t room = WEIR_JSON_TEXT_MAX - 1u - scan->text_len;
    if (len > room) {
        scan->is_long = true;
        len = room;
    }
    memcpy(scan->text + scan->text_len, bytes, len);
    scan->text_len = (uint16_t)(scan->text_len + len);
}

/* Its last byte stands before `end`. */
static void tell_text(weir_json_scan_t *scan, weir_json_token_kind_t kind, const char *end)
{
    scan->text[scan->text_len] = '\0';
    weir_json_token_t token = {.kind = kind,
                               .depth = scan->depth,
                               .text = scan->text,
                               .len = scan->text_len,
                               .is_long = scan->is_long,
                               .at = scan->token_at,
                               .end = offset_of(scan, end)};
    if (kind != WEIR_JSON_TOKEN_NUMBER)
        token.text_bytes = token.end - token.at - 2;
    scan->on_token(scan->context, &token);
}

/* Strings */

static const char *begin_string(weir_json_scan_t *scan, const char *p, bool is_name)
{
    begin_text(scan, p, IN_STRING);
    scan->is_name = is_name;
    scan->is_open = true;
    return p + 1;
}

static bool is_plain(char byte)
{
    return byte != '"' && byte != '\\' && (unsigned char)byte >= 0x20;
}

/* Behind the bytes that stand for themselves. */
static const char *skip_plain(const char *p, const char *end)
{
    for (; end - p >= WEIR_SWAR_BYTES; p += WEIR_SWAR_BYTES) {
        uint64_t word = weir_swar_load(p);
        uint64_t found = weir_swar_equal(word, '"') | weir_swar_equal(word, '\\') | weir_swar_below(word, 0x20);
        if (found != 0)
            return p + weir_swar_first(found);
    }
    while (p != end && is_plain(*p))
        ++p;
    return p;
}

static void keep_code_point(weir_json_scan_t *scan, uint32_t c)
{
    char utf8[4];
    if (c < 0x80) {
        utf8[0] = (char)c;
        keep(scan, utf8, 1);
    } else if (c < 0x800) {
        utf8[0] = (char)(0xc0 | c >> 6);
        utf8[1] = (char)(0x80 | (c & 0x3f));
        keep(scan, utf8, 2);
    } else if (c < 0x10000) {
        utf8[0] = (char)(0xe0 | c >> 12);
        utf8[1] = (char)(0x80 | (c >> 6 & 0x3f));
        utf8[2] = (char)(0x80 | (c & 0x3f));
        keep(scan, utf8, 3);
    } else {
        utf8[0] = (char)(0xf0 | c >> 18);
        utf8[1] = (char)(0x80 | (c >> 12 & 0x3f));
        utf8[2] = (char)(0x80 | (c >> 6 & 0x3f));
        utf8[3] = (char)(0x80 | (c & 0x3f));
        keep(scan, utf8, 4);
    }
}

/* What follows the first half of a surrogate pair is not its second. */
static void give_up_pair(weir_json_scan_t *scan)
{
    if (scan->surrogate != 0)
        keep_code_point(scan, 0xfffd);
    scan->surrogate = 0;
}

static void end_unicode(weir_json_scan_t *scan)
{
    uint32_t c = scan->unicode;
    bool is_first = c >> 10 == 0xd800 >> 10, is_second = c >> 10 == 0xdc00 >> 10;
    if (is_second && scan->surrogate != 0) {
        keep_code_point(scan, 0x10000 + ((scan->surrogate & 0x3ffu) << 10 | (c & 0x3ff)));
        scan->surrogate = 0;
    } else {
        give_up_pair(scan);
        if (is_first)
            scan->surrogate = (uint16_t)c;
        else
            keep_code_point(scan, is_second ? 0xfffd : c);
    }
    scan->state = IN_STRING;
}

static int digit_of(char byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

static const char *read_unicode(weir_json_scan_t *scan, const char *p)
{
    int digit = digit_of(*p);
    if (digit < 0)
        return break_off(scan, p);
    scan->unicode = (uint16_t)(scan->unicode << 4 | digit);
    if (--scan->unicode_left == 0)
        end_unicode(scan);
    return p + 1;
}

static const char *read_escape(weir_json_scan_t *scan, const char *p)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (*p == 'u') {
        scan->unicode = 0;
        scan->unicode_left = 4;
        scan->state = IN_UNICODE;
        return p + 1;
    }
    const char *escape = memchr(escapes, *p, sizeof(escapes) - 1);
    if (escape == NULL)
        return break_off(scan, p);
    give_up_pair(scan);
    keep(scan, &meant[escape - escapes], 1);
    scan->state = IN_STRING;
    return p + 1;
}

static const char *end_string(weir_json_scan_t *scan, const char *p)
{
    give_up_pair(scan);
    scan->is_open = false;
    tell_text(scan, scan->is_name ? WEIR_JSON_TOKEN_NAME : WEIR_JSON_TOKEN_STRING, p + 1);
    if (scan->is_name)
        scan->state = BEFORE_COLON;
    else
        leave_value(scan);
    return p + 1;
}

static const char *read_string(weir_json_scan_t *scan, const char *p, const char *end)
{
    const char *stop = skip_plain(p, end);
    if (stop != p) {
        give_up_pair(scan);
        keep(scan, p, (size_t)(stop - p));
    }
    if (stop == end)
        return end;
    if (*stop == '"')
        return end_string(scan, stop);
    if (*stop != '\\')
        return break_off(scan, stop);
    scan->state = IN_ESCAPE;
    return stop + 1;
}

/* Numbers and literals */

static byte_kind_t kind_of(char byte)
{
    switch (byte) {
    case '0':
        return IS_ZERO;
    case '.':
        return IS_POINT;
    case 'e':
    case 'E':
        return IS_E;
    case '+':
        return IS_PLUS;
    case '-':
        return IS_MINUS;
    default:
        return byte >= '1' && byte <= '9' ? IS_DIGIT : IS_OTHER;
    }
}

static const char *begin_number(weir_json_scan_t *scan, const char *p, number_state_t state)
{
    begin_text(scan, p, (uint8_t)(IN_NUMBER + state));
    keep(scan, p, 1);
    return p + 1;
}

static void end_number(weir_json_scan_t *scan, const char *p)
{
    tell_text(scan, WEIR_JSON_TOKEN_NUMBER, p);
    leave_value(scan);
}

static const char *read_number(weir_json_scan_t *scan, const char *p, const char *end)
{
    number_state_t state = (number_state_t)(scan->state - IN_NUMBER);
    const char *start = p;
    while (p != end && state < ENDED) {
        state = number_steps[state][kind_of(*p)];
        p += state < ENDED;
    }
    keep(scan, start, (size_t)(p - start));
    if (state == BROKEN)
        return break_off(scan, p);
    if (state == ENDED)
        end_number(scan, p);
    else
        scan->state = (uint8_t)(IN_NUMBER + state);
    return p;
}

static const char *begin_literal(weir_json_scan_t *scan, const char *p, uint8_t literal)
{
    scan->token_at = offset_of(scan, p);
    scan->literal = literal;
    scan->literal_at = 1;
    scan->state = IN_LITERAL;
    return p + 1;
}

static const char *read_literal(weir_json_scan_t *scan, const char *p)
{
    const char *text = literals[scan->literal].text;
    if (*p != text[scan->literal_at])
        return break_off(scan, p);
    ++p;
    if (text[++scan->literal_at] != '\0')
        return p;
    weir_json_token_t token = {
        .kind = literals[scan->literal].kind, .depth = scan->depth, .at = scan->token_at, .end = offset_of(scan, p)};
    scan->on_token(scan->context, &token);
    leave_value(scan);
    return p;
}

/* Everything between */

static bool is_space(char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

bool weir_json_is_space(const char *bytes, size_t len)
{
    size_t i = 0;
    while (i != len && is_space(bytes[i]))
        ++i;
    return i == len;
}

static const char *begin_value(weir_json_scan_t *scan, const char *p)
{
    switch (*p) {
    case '{':
        return begin_nested(scan, p, true);
    case '[':
        return begin_nested(scan, p, false);
    case '"':
        return begin_string(scan, p, false);
    case 't':
        return begin_literal(scan, p, 0);
    case 'f':
        return begin_literal(scan, p, 1);
    case 'n':
        return begin_literal(scan, p, 2);
    case '-':
        return begin_number(scan, p, MINUS);
    case '0':
        return begin_number(scan, p, ZERO);
    default:
        return *p >= '1' && *p <= '9' ? begin_number(scan, p, INTEGER) : break_off(scan, p);
    }
}

static const char *begin_name(weir_json_scan_t *scan, const char *p)
{
    return *p == '"' ? begin_string(scan, p, true) : break_off(scan, p);
}

static const char *read_colon(weir_json_scan_t *scan, const char *p)
{
    if (*p != ':')
        return break_off(scan, p);
    scan->state = BEFORE_VALUE;
    return p + 1;
}

static const char *read_behind_value(weir_json_scan_t *scan, const char *p)
{
    bool in_object = is_in_object(scan);
    if (*p == (in_object ? '}' : ']'))
        return end_nested(scan, p);
    if (*p != ',')
        return break_off(scan, p);
    scan->state = in_object ? BEFORE_NAME : BEFORE_VALUE;
    return p + 1;
}

static const char *read_between(weir_json_scan_t *scan, const char *p, const char *end)
{
    while (p != end && is_space(*p))
        ++p;
    if (p == end)
        return p;
    switch (scan->state) {
    case BEFORE_VALUE:
        return begin_value(scan, p);
    case BEFORE_ELEMENT_OR_END:
        return *p == ']' ? end_nested(scan, p) : begin_value(scan, p);
    case BEFORE_NAME_OR_END:
        return *p == '}' ? end_nested(scan, p) : begin_name(scan, p);
    case BEFORE_NAME:
        return begin_name(scan, p);
    case BEFORE_COLON:
        return read_colon(scan, p);
    default:
        return read_behind_value(scan, p);
    }
}

static const char *read_some(weir_json_scan_t *scan, const char *p, const char *end)
{
    switch (scan->state) {
    case IN_STRING:
        return read_string(scan, p, end);
    case IN_ESCAPE:
        return read_escape(scan, p);
    case IN_UNICODE:
        return read_unicode(scan, p);
    case IN_LITERAL:
        return read_literal(scan, p);
    default:
        return scan->state < IN_STRING ? read_between(scan, p, end) : read_number(scan, p, end);
    }
}

static weir_json_result_t result_of(const weir_json_scan_t *scan)
{
    return scan->state == IS_DONE ? WEIR_JSON_DONE : scan->state == IS_MALFORMED ? WEIR_JSON_MALFORMED : WEIR_JSON_MORE;
}

weir_json_result_t weir_json_scan_feed(weir_json_scan_t *scan, const char *bytes, size_t len)
{
    const char *p = bytes, *end = len != 0 ? bytes + len : bytes; /* NULL + 0 is not defined */
    scan->piece = bytes;
    while (p != end && scan->state < IS_DONE)
        p = read_some(scan, p, end);
    scan->offset += (uint64_t)(p - bytes);
    return result_of(scan);
}

weir_json_result_t weir_json_scan_end(weir_json_scan_t *scan)
{
    bool is_number = scan->depth == 0 && scan->state >= IN_NUMBER && scan->state < BEHIND_NUMBER;
    scan->piece = "";
    if (is_number && number_steps[scan->state - IN_NUMBER][IS_OTHER] == ENDED)
        end_number(scan, scan->piece);
    else if (scan->state != IS_DONE)
        scan->state = IS_MALFORMED;
    return result_of(scan);
}

uint64_t weir_json_scan_open_bytes(const weir_json_scan_t *scan)
{
    return scan->is_open && !scan->is_name ? scan->offset - scan->token_at - 1 : 0;
}

/* Integers */

static int64_t append_digit(int64_t value, int digit)
{
    return value > (WEIR_JSON_INTEGER_MAX - digit) / 10 ? WEIR_JSON_INTEGER_MAX : value * 10 + digit;
}

/* Of a number; beyond what its digits could make up for, any value does. */
static long exponent_of(const char *e)
{
    static const long most = 4 * WEIR_JSON_TEXT_MAX;
    long exponent = *e != '\0' ? strtol(e + 1, NULL, 10) : 0;
    return exponent > most ? most : exponent < -most ? -most : exponent;
}

int64_t weir_json_integer(const weir_json_token_t *token)
{
    if (token->is_long || token->text[0] == '-')
        return -1;
    const char *e = token->text + strcspn(token->text, "eE");
    long whole = (long)strcspn(token->text, ".eE") + exponent_of(e); /* digits that stand before the point in the end */
    long count = 0;
    int64_t value = 0;
    for (const char *p = token->text; p != e; ++p) {
        if (*p == '.')
            continue;
        if (count++ < whole)
            value = append_digit(value, *p - '0');
        else if (*p != '0')
            return -1;
    }
    while (count++ < whole && value != 0 && value != WEIR_JSON_INTEGER_MAX)
        value = append_digit(value, 0);
    return value;
}
