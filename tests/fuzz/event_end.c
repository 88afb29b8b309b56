/* However a stream is cut, it has the same end, at the same byte at the latest; and the one that a plain reading finds,
 * which takes the stream apart line by line and looks at each event's data as at one JSON text. So with where a stream
 * can be gone on with. The first byte of the input chooses the cuts, the second one the form. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../filters/core/event_end.h"

typedef struct {
    bool has_ended, is_between;
} reading_t;

/* Pieces of pseudo-random sizes, or with step 0 all at once; the state is copied in between. */
static reading_t read_pieces(weir_event_end_form_t form, const uint8_t *data, size_t size, unsigned step)
{
    weir_event_end_t end, copied;
    weir_event_tail_t tail = {.len = 0};
    uint32_t random = step;
    weir_event_end_init(&end, form);
    for (size_t at = 0; at != size;) {
        random = random * 1664525 + 1013904223;
        size_t len = step == 0 ? size : 1 + (random >> 16) % step;
        len = len < size - at ? len : size - at;
        char *piece = malloc(len);
        memcpy(piece, data + at, len);
        bool had_ended = end.has_ended;
        weir_event_end_feed(&end, piece, len);
        weir_event_tail_add(&tail, piece, len);
        assert(end.has_ended || !had_ended);
        free(piece);
        copied = end;
        memset(&end, 0x5a, sizeof(end));
        end = copied;
        at += len;
    }
    return (reading_t){.has_ended = end.has_ended, .is_between = weir_event_tail_is_between(&tail)};
}

/* A plain reading */

typedef enum { NONE, LAST, ANOTHER } type_t;

typedef struct {
    weir_event_end_form_t form;
    bool is_type;
    type_t type;
} object_t;

static bool is(const weir_json_token_t *token, const char *text)
{
    return token->len == strlen(text) && memcmp(token->text, text, token->len) == 0;
}

static bool is_last_type(weir_event_end_form_t form, const weir_json_token_t *type)
{
    if (form == WEIR_EVENT_END_MESSAGES)
        return is(type, "message_stop") || is(type, "error");
    return is(type, "response.completed") || is(type, "response.incomplete") || is(type, "response.failed") ||
           is(type, "error");
}

static void on_token(void *context, const weir_json_token_t *token)
{
    object_t *object = context;
    if (token->depth != 1)
        return;
    if (object->is_type && token->kind == WEIR_JSON_TOKEN_STRING && object->type == NONE)
        object->type = is_last_type(object->form, token) ? LAST : ANOTHER;
    object->is_type = token->kind == WEIR_JSON_TOKEN_NAME && is(token, "type");
}

/* Of an event's data, or as much as came of it. */
static bool is_end(weir_event_end_form_t form, const char *data, size_t len)
{
    if (form == WEIR_EVENT_END_DONE)
        return len >= 6 && memcmp(data, "[DONE]", 6) == 0;
    object_t object = {.form = form};
    weir_json_scan_t scan;
    weir_json_scan_init(&scan, on_token, &object);
    return weir_json_scan_feed(&scan, data, len) == WEIR_JSON_DONE && object.type == LAST;
}

typedef struct {
    char *data;
    size_t len;
    bool has_data;
} event_t;

static void take_line(event_t *event, const char *line, size_t len, bool is_ended)
{
    bool is_bare = is_ended && len == 4 && memcmp(line, "data", 4) == 0;
    if (!is_bare && (len < 5 || memcmp(line, "data:", 5) != 0))
        return;
    size_t skipped = is_bare ? 4 : 5 + (len > 5 && line[5] == ' ');
    if (event->has_data)
        event->data[event->len++] = '\n';
    memcpy(event->data + event->len, line + skipped, len - skipped);
    event->len += len - skipped;
    event->has_data = true;
}

static reading_t read_plainly(weir_event_end_form_t form, const char *stream, size_t size)
{
    event_t event = {.data = malloc(size + 1)};
    reading_t reading = {.is_between = true};
    const char *end = stream + size, *stop;
    for (const char *line = stream; line != end; line = stop) {
        bool is_marked = line == stream && size >= 3 && memcmp(stream, "\xef\xbb\xbf", 3) == 0;
        const char *text = is_marked ? line + 3 : line, *eol = text;
        while (eol != end && *eol != '\n' && *eol != '\r')
            ++eol;
        stop = eol == end ? end : eol + 1 + (*eol == '\r' && eol + 1 != end && eol[1] == '\n');
        bool is_empty = eol == text && eol != end;
        take_line(&event, text, (size_t)(eol - text), eol != end);
        reading.has_ended = reading.has_ended || is_end(form, event.data, event.len);
        reading.is_between = is_empty && !is_marked; /* an event that begins with a mark is ended once more, which is none */
        if (is_empty) {
            event.len = 0;
            event.has_data = false;
        }
    }
    free(event.data);
    return reading;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    weir_event_end_form_t form = (weir_event_end_form_t)(data[1] % 3);
    unsigned steps[] = {0, 1, data[0]};
    const char *stream = (const char *)data + 2;
    reading_t plain = read_plainly(form, stream, size - 2);
    for (size_t i = 0; i != sizeof(steps) / sizeof(*steps); ++i) {
        reading_t pieces = read_pieces(form, data + 2, size - 2, steps[i]);
        assert(pieces.has_ended == plain.has_ended);
        assert(pieces.is_between == plain.is_between);
    }
    return 0;
}
