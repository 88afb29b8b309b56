#include "reply_guard.h"

#include <string.h>

/* KIND -> TEXT | NUMBER -> LINE_LF (-> STRING -> STRING_CR -> STRING_LF) -> KIND */
enum { KIND, TEXT, NUMBER, LINE_LF, STRING, STRING_CR, STRING_LF };

static const char NO_RESP2[] = "what came is no RESP2";
static const char TOO_LONG[] = "a reply is too long";

void weir_reply_guard_init(weir_reply_guard_t *guard, size_t max)
{
    *guard = (weir_reply_guard_t){.max = max, .state = KIND};
}

static const char *charge(weir_reply_guard_t *guard, uint64_t bytes)
{
    if (bytes > guard->max - guard->size)
        return TOO_LONG;
    guard->size += bytes;
    return NULL;
}

/* Of the innermost list, or of the reply. */
static void end_item(weir_reply_guard_t *guard)
{
    guard->state = KIND;
    while (guard->depth != 0 && --guard->left[guard->depth - 1] == 0)
        --guard->depth;
    if (guard->depth == 0)
        guard->size = 0;
}

static bool is_between_replies(const weir_reply_guard_t *guard)
{
    return guard->state == KIND && guard->size == 0;
}

static const char *take_kind(weir_reply_guard_t *guard, char byte)
{
    if (byte == '\0' || strchr("+-:$*", byte) == NULL)
        return NO_RESP2;
    if (byte == '*' && guard->depth == WEIR_REPLY_LISTS_MAX)
        return "lists stand in lists, too deep";
    guard->kind = byte;
    guard->state = byte == '+' || byte == '-' ? TEXT : NUMBER;
    guard->is_negative = false;
    guard->digits = 0;
    guard->number = 0;
    guard->line_bytes = 1;
    return NULL;
}

static const char *take_text(weir_reply_guard_t *guard, char byte)
{
    if (byte == '\n')
        return NO_RESP2;
    if (byte == '\r')
        guard->state = LINE_LF;
    return NULL;
}

/* As the reader wants it: no sign but a minus, no needless zero, not beyond int64_t. */
static bool take_digit(weir_reply_guard_t *guard, char byte)
{
    if (byte < '0' || byte > '9' || (guard->digits != 0 && guard->number == 0))
        return false;
    ++guard->digits;
    guard->number = guard->number * 10 + (uint64_t)(byte - '0');
    return guard->digits <= 19 && guard->number <= (uint64_t)INT64_MAX + guard->is_negative;
}

static const char *take_number(weir_reply_guard_t *guard, char byte)
{
    if (byte == '-' && guard->digits == 0 && !guard->is_negative) {
        guard->is_negative = true;
        return NULL;
    }
    if (byte != '\r')
        return take_digit(guard, byte) ? NULL : NO_RESP2;
    if (guard->digits == 0 || (guard->is_negative && guard->number == 0))
        return NO_RESP2;
    guard->state = LINE_LF;
    return NULL;
}

static const char *begin_string(weir_reply_guard_t *guard)
{
    const char *error = charge(guard, guard->number);
    guard->string_left = guard->number;
    guard->state = guard->number != 0 ? STRING : STRING_CR;
    return error;
}

static const char *begin_list(weir_reply_guard_t *guard)
{
    if (guard->number > guard->max / WEIR_REPLY_ELEMENT_BYTES)
        return TOO_LONG;
    guard->left[guard->depth++] = guard->number;
    guard->state = KIND;
    return charge(guard, guard->number * WEIR_REPLY_ELEMENT_BYTES);
}

static const char *end_line(weir_reply_guard_t *guard)
{
    bool is_length = guard->kind == '$' || guard->kind == '*', is_nil = guard->is_negative && guard->number == 1;
    if (is_length && guard->is_negative && !is_nil)
        return NO_RESP2;
    if (guard->kind == '$' && !is_nil)
        return begin_string(guard);
    if (guard->kind == '*' && !is_nil && guard->number != 0)
        return begin_list(guard);
    end_item(guard);
    return NULL;
}

static const char *take_byte(weir_reply_guard_t *guard, char byte)
{
    const char *error = charge(guard, 1);
    if (error != NULL)
        return error;
    if (++guard->line_bytes > WEIR_REPLY_LINE_BYTES_MAX)
        return TOO_LONG;
    switch (guard->state) {
    case KIND:
        return take_kind(guard, byte);
    case TEXT:
        return take_text(guard, byte);
    case NUMBER:
        return take_number(guard, byte);
    case LINE_LF:
        return byte == '\n' ? end_line(guard) : NO_RESP2;
    case STRING_CR:
        guard->state = STRING_LF;
        return byte == '\r' ? NULL : NO_RESP2;
    default:
        end_item(guard);
        return byte == '\n' ? NULL : NO_RESP2;
    }
}

/* What a string has of these bytes; they were charged when it was announced. */
static size_t skip_string(weir_reply_guard_t *guard, size_t len)
{
    size_t skipped = guard->string_left < len ? guard->string_left : len;
    guard->string_left -= skipped;
    if (guard->string_left == 0) {
        guard->state = STRING_CR;
        guard->line_bytes = 0;
    }
    return skipped;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

/* Most of what comes is small numbers: the length of one whose line is here and plainly right; 0: byte by byte, then. */
static size_t plain_number_len(const weir_reply_guard_t *guard, const char *bytes, size_t len)
{
    enum { DIGITS_MAX = 18, LINE_MAX = sizeof(":-") - 1 + DIGITS_MAX + sizeof("\r\n") - 1 };
    if (guard->state != KIND || bytes[0] != ':' || len < LINE_MAX || guard->max - guard->size < LINE_MAX)
        return 0;
    size_t first = bytes[1] == '-' ? 2 : 1, at = first;
    while (at - first < DIGITS_MAX && is_digit(bytes[at]))
        ++at;
    bool is_plain = at != first && (bytes[first] != '0' || (at == first + 1 && first == 1));
    return is_plain && bytes[at] == '\r' && bytes[at + 1] == '\n' ? at + 2 : 0;
}

const char *weir_reply_guard_check(weir_reply_guard_t *guard, const char *bytes, size_t len, size_t *passed)
{
    *passed = 0;
    for (size_t at = 0; at < len;) {
        if (guard->state == STRING) {
            at += skip_string(guard, len - at);
            continue;
        }
        size_t plain = plain_number_len(guard, &bytes[at], len - at);
        const char *error = NULL;
        if (plain != 0) {
            guard->size += plain;
            end_item(guard);
        } else {
            error = take_byte(guard, bytes[at]);
        }
        if (error != NULL)
            return error;
        at += plain != 0 ? plain : 1;
        if (is_between_replies(guard))
            *passed = at;
    }
    *passed = len;
    return NULL;
}
