#include "event_end.h"

#include <string.h>

/* UNKNOWN --- another type, or no JSON ---> OTHER
 *    '------- a type that ends the stream ---> LAST --- its JSON is whole ---> ended */
enum { UNKNOWN, OTHER, LAST };

enum { SLICE_BYTES = 32 }; /* the type stands in front, as a rule: what is behind another one is not read */

static const char done[] = "[DONE]";
enum { DONE_LEN = sizeof(done) - 1 };

static bool is_text(const weir_json_token_t *token, const char *text)
{
    return token->len == strlen(text) && memcmp(token->text, text, token->len) == 0;
}

static bool is_last_type(weir_event_end_form_t form, const weir_json_token_t *type)
{
    static const struct {
        weir_event_end_form_t form;
        const char *type;
    } types[] = {
        {WEIR_EVENT_END_RESPONSES, "response.completed"}, {WEIR_EVENT_END_RESPONSES, "response.incomplete"},
        {WEIR_EVENT_END_RESPONSES, "response.failed"},    {WEIR_EVENT_END_RESPONSES, "error"},
        {WEIR_EVENT_END_MESSAGES, "message_stop"},        {WEIR_EVENT_END_MESSAGES, "error"},
    };
    for (size_t i = 0; i < sizeof(types) / sizeof(*types); ++i)
        if (types[i].form == form && is_text(type, types[i].type))
            return true;
    return false;
}

static void on_token(void *context, const weir_json_token_t *token)
{
    weir_event_end_t *end = context;
    if (token->depth != 1)
        return;
    if (token->kind == WEIR_JSON_TOKEN_NAME) {
        end->is_type = is_text(token, "type");
        return;
    }
    if (end->is_type && token->kind == WEIR_JSON_TOKEN_STRING && end->event == UNKNOWN)
        end->event = is_last_type((weir_event_end_form_t)end->form, token) ? LAST : OTHER;
    end->is_type = false;
}

static void begin_event(weir_event_end_t *end)
{
    end->event = UNKNOWN;
    end->matched = 0;
    end->is_type = false;
    if (end->form != WEIR_EVENT_END_DONE)
        weir_json_scan_init(&end->scan, on_token, NULL);
}

void weir_event_end_init(weir_event_end_t *end, weir_event_end_form_t form)
{
    memset(end, 0, sizeof(*end));
    end->form = (uint8_t)form;
    begin_event(end);
}

static void match_done(weir_event_end_t *end, const char *bytes, size_t len)
{
    size_t left = DONE_LEN - end->matched, count = len < left ? len : left;
    if (memcmp(bytes, done + end->matched, count) != 0) {
        end->event = OTHER;
        return;
    }
    end->matched += count;
    end->has_ended = end->matched == DONE_LEN;
}

static void read_json(weir_event_end_t *end, const char *bytes, size_t len)
{
    end->scan.context = end; /* it may have been copied */
    while (len != 0 && end->event != OTHER && !end->has_ended) {
        size_t count = len < SLICE_BYTES || end->event == LAST ? len : SLICE_BYTES;
        weir_json_result_t result = weir_json_scan_feed(&end->scan, bytes, count);
        if (result == WEIR_JSON_DONE && end->event == LAST)
            end->has_ended = true;
        else if (result != WEIR_JSON_MORE)
            end->event = OTHER;
        bytes += count;
        len -= count;
    }
}

static void read_data(weir_event_end_t *end, const char *bytes, size_t len)
{
    if (end->event == OTHER)
        return;
    if (end->form == WEIR_EVENT_END_DONE)
        match_done(end, bytes, len);
    else
        read_json(end, bytes, len);
}

void weir_event_end_feed(weir_event_end_t *end, const char *bytes, size_t len)
{
    while (len != 0 && !end->has_ended) {
        weir_event_part_t part;
        size_t count = weir_event_lines_next(&end->lines, bytes, len, &part);
        if (part == WEIR_EVENT_PART_DATA)
            read_data(end, bytes, count);
        else if (part == WEIR_EVENT_PART_NEXT_DATA)
            read_data(end, "\n", 1);
        else if (part == WEIR_EVENT_PART_END)
            begin_event(end);
        bytes += count;
        len -= count;
    }
}

void weir_event_tail_add(weir_event_tail_t *tail, const char *bytes, size_t len)
{
    size_t size = sizeof(tail->bytes), added = len < size ? len : size;
    size_t kept = tail->len + added <= size ? tail->len : size - added;
    if (added == 0)
        return;
    memmove(tail->bytes, tail->bytes + tail->len - kept, kept);
    memcpy(tail->bytes + kept, bytes + len - added, added);
    tail->len = (uint8_t)(kept + added);
}

static bool is_line_end(char byte)
{
    return byte == '\n' || byte == '\r';
}

bool weir_event_tail_is_between(const weir_event_tail_t *tail)
{
    size_t len = tail->len;
    if (len == 0)
        return true;
    if (!is_line_end(tail->bytes[len - 1]))
        return false;
    len -= len > 1 && tail->bytes[len - 1] == '\n' && tail->bytes[len - 2] == '\r' ? 2 : 1;
    return len == 0 || is_line_end(tail->bytes[len - 1]);
}
