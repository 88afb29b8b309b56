#include "event_lines.h"

#include "swar.h"

/* IN_MARK ---> IN_NAME --- data: ---> BEHIND_COLON ---> IN_DATA
 *                 | \                                      |
 *                 |  `--- : ---> IN_COMMENT --------.      |
 *                 `--- anything else ---> IN_OTHER --+-----+--- LF ---> IN_NAME, CR ---> BEHIND_CR ---> IN_NAME */
enum { IN_MARK, IN_NAME, BEHIND_COLON, IN_DATA, IN_COMMENT, IN_OTHER, BEHIND_CR };

static const char mark[] = "\xef\xbb\xbf", name[] = "data";
enum { MARK_LEN = sizeof(mark) - 1, NAME_LEN = sizeof(name) - 1 };

static bool is_line_end(char byte)
{
    return byte == '\n' || byte == '\r';
}

/* The bytes before the end of the line. */
static size_t span_line(const char *bytes, size_t len)
{
    size_t i = 0;
    for (; len - i >= WEIR_SWAR_BYTES; i += WEIR_SWAR_BYTES) {
        uint64_t word = weir_swar_load(bytes + i);
        uint64_t found = weir_swar_equal(word, '\n') | weir_swar_equal(word, '\r');
        if (found != 0)
            return i + weir_swar_first(found);
    }
    while (i != len && !is_line_end(bytes[i]))
        ++i;
    return i;
}

static void begin_line(weir_event_lines_t *lines)
{
    lines->state = IN_NAME;
    lines->matched = 0;
}

/* `byte` ends a line; an LF behind a CR is `tail`. */
static size_t end_line(weir_event_lines_t *lines, char byte, weir_event_part_t tail)
{
    begin_line(lines);
    if (byte == '\r') {
        lines->state = BEHIND_CR;
        lines->line_end = (uint8_t)tail;
    }
    return 1;
}

static size_t read_rest(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part)
{
    size_t count = span_line(bytes, len);
    *part = lines->state == IN_COMMENT ? WEIR_EVENT_PART_COMMENT : WEIR_EVENT_PART_OTHER;
    if (count == 0)
        return end_line(lines, *bytes, *part);
    if (lines->state == IN_DATA)
        *part = WEIR_EVENT_PART_DATA;
    return count;
}

/* The next bytes of `expected`, of which some were matched; 0: none. */
static size_t match(weir_event_lines_t *lines, const char *bytes, size_t len, const char *expected, size_t expected_len)
{
    size_t count = 0;
    for (; count != len && lines->matched != expected_len && bytes[count] == expected[lines->matched]; ++count)
        ++lines->matched;
    return count;
}

static weir_event_part_t begin_data(weir_event_lines_t *lines)
{
    weir_event_part_t part = lines->has_data ? WEIR_EVENT_PART_NEXT_DATA : WEIR_EVENT_PART_OTHER;
    lines->has_data = true;
    return part;
}

static size_t end_event(weir_event_lines_t *lines, char byte, weir_event_part_t *part)
{
    *part = WEIR_EVENT_PART_END;
    lines->has_data = false;
    return end_line(lines, byte, WEIR_EVENT_PART_TAIL);
}

/* What follows a name that was read as far as it is "data". */
static size_t end_name(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part)
{
    if (lines->matched == 0 && is_line_end(*bytes))
        return end_event(lines, *bytes, part);
    if (lines->matched == NAME_LEN && *bytes == ':') {
        lines->state = BEHIND_COLON;
        *part = begin_data(lines);
        return 1;
    }
    if (lines->matched == NAME_LEN && is_line_end(*bytes)) { /* a field without a colon has an empty value */
        *part = begin_data(lines);
        return end_line(lines, *bytes, WEIR_EVENT_PART_OTHER);
    }
    lines->state = lines->matched == 0 && *bytes == ':' ? IN_COMMENT : IN_OTHER;
    return read_rest(lines, bytes, len, part);
}

static size_t read_name(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part)
{
    size_t count = match(lines, bytes, len, name, NAME_LEN);
    *part = WEIR_EVENT_PART_OTHER;
    return count != 0 ? count : end_name(lines, bytes, len, part);
}

static size_t read_mark(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part)
{
    size_t count = match(lines, bytes, len, mark, MARK_LEN);
    *part = WEIR_EVENT_PART_OTHER;
    if (lines->matched == MARK_LEN)
        begin_line(lines);
    if (count != 0)
        return count;
    lines->state = lines->matched == 0 ? IN_NAME : IN_OTHER;
    return lines->matched == 0 ? read_name(lines, bytes, len, part) : read_rest(lines, bytes, len, part);
}

static size_t read_space(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part)
{
    lines->state = IN_DATA;
    *part = WEIR_EVENT_PART_OTHER;
    return *bytes == ' ' ? 1 : read_rest(lines, bytes, len, part);
}

static size_t read_behind_cr(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part)
{
    begin_line(lines);
    *part = (weir_event_part_t)lines->line_end;
    return *bytes == '\n' ? 1 : read_name(lines, bytes, len, part);
}

size_t weir_event_lines_next(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part)
{
    switch (lines->state) {
    case IN_MARK:
        return read_mark(lines, bytes, len, part);
    case IN_NAME:
        return read_name(lines, bytes, len, part);
    case BEHIND_COLON:
        return read_space(lines, bytes, len, part);
    case BEHIND_CR:
        return read_behind_cr(lines, bytes, len, part);
    default:
        return read_rest(lines, bytes, len, part);
    }
}
