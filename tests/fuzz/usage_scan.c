/* However an answer is cut, it tells the same usage, and the same of it goes on to the caller; and both are as a plain
 * reading says, which takes the event stream apart as a whole and looks at each event's data as at one JSON text. The
 * first byte of the input chooses the cuts. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../filters/core/event_cut.h"
#include "../../filters/core/usage_scan.h"

typedef struct {
    weir_usage_counts_t counts[4]; /* each form, each framing */
    uint64_t text_bytes[2];        /* each framing */
    bool is_broken[2];
    char *out;
    size_t out_len;
} reading_t;

static void take(reading_t *reading, const char *out, size_t len)
{
    if (len != 0)
        memcpy(reading->out + reading->out_len, out, len);
    reading->out_len += len;
}

static void feed(reading_t *reading, weir_usage_scan_t usage[4], weir_event_cut_t *cut, const uint8_t *data, size_t len)
{
    const char *out;
    size_t out_len;
    char *copy = malloc(len);
    memcpy(copy, data, len);
    for (unsigned i = 0; i != 4; ++i)
        weir_usage_scan_feed(&usage[i], copy, len);
    weir_event_cut_feed(cut, copy, len, &out, &out_len);
    take(reading, out, out_len);
    free(copy);
}

/* Pieces of pseudo-random sizes, or with step 0 all at once. */
static reading_t read_pieces(const uint8_t *data, size_t size, unsigned step)
{
    reading_t reading = {.out = malloc(size + 1)};
    weir_usage_scan_t usage[4];
    weir_event_cut_t *cut = weir_event_cut_create();
    for (unsigned i = 0; i != 4; ++i)
        weir_usage_scan_init(&usage[i], (weir_usage_form_t)(i & 1), (weir_usage_framing_t)(i >> 1));
    uint32_t random = step;
    for (size_t at = 0; at != size;) {
        random = random * 1664525 + 1013904223;
        size_t len = step == 0 ? size : 1 + (random >> 16) % step;
        len = len < size - at ? len : size - at;
        feed(&reading, usage, cut, data + at, len);
        assert(reading.out_len <= at + len);
        at += len;
    }
    const char *out;
    size_t out_len;
    weir_event_cut_end(cut, &out, &out_len);
    take(&reading, out, out_len);
    weir_event_cut_destroy(cut);
    for (unsigned i = 0; i != 4; ++i) {
        bool is_told = weir_usage_scan_tell(&usage[i], &reading.counts[i]);
        assert(is_told == (reading.counts[i].input >= 0 || reading.counts[i].output >= 0));
        reading.text_bytes[i >> 1] = weir_usage_scan_text_bytes(&usage[i]);
        reading.is_broken[i >> 1] = weir_usage_scan_is_broken(&usage[i]);
    }
    return reading;
}

/* A plain reading */

typedef struct {
    bool is_sound, has_choices, has_usage;
    weir_json_token_kind_t last;
    char name[16];
} chunk_t;

static void on_token(void *context, const weir_json_token_t *token)
{
    chunk_t *chunk = context;
    bool is_choices = strcmp(chunk->name, "choices") == 0, is_usage = strcmp(chunk->name, "usage") == 0;
    bool is_end = token->kind == WEIR_JSON_TOKEN_END_ARRAY || token->kind == WEIR_JSON_TOKEN_END_OBJECT;
    if (token->depth == 0 && token->kind != WEIR_JSON_TOKEN_BEGIN_OBJECT && !is_end)
        chunk->is_sound = false;
    if (token->depth == 1 && token->kind == WEIR_JSON_TOKEN_NAME) {
        bool is_whole = token->len < sizeof(chunk->name) && memchr(token->text, '\0', token->len) == NULL;
        strcpy(chunk->name, is_whole ? token->text : "");
    } else if (token->depth == 1 && !is_end && is_choices) {
        chunk->has_choices = true;
        chunk->is_sound &= token->kind == WEIR_JSON_TOKEN_BEGIN_ARRAY;
    } else if (token->depth == 1 && !is_end && is_usage) {
        chunk->has_usage = true;
        chunk->is_sound &= token->kind == WEIR_JSON_TOKEN_BEGIN_OBJECT;
    } else if (token->depth == 1 && is_end && is_choices) {
        chunk->is_sound &= chunk->last == WEIR_JSON_TOKEN_BEGIN_ARRAY; /* empty */
    }
    chunk->last = token->kind;
}

static bool is_usage_chunk(const char *data, size_t len)
{
    chunk_t chunk = {.is_sound = true};
    weir_json_scan_t scan;
    weir_json_scan_init(&scan, on_token, &chunk);
    weir_json_scan_feed(&scan, data, len);
    return weir_json_scan_end(&scan) == WEIR_JSON_DONE && chunk.is_sound && chunk.has_choices && chunk.has_usage &&
           weir_json_is_space(data + scan.offset, len - scan.offset);
}

typedef struct {
    weir_usage_counts_t counts; /* Anthropic's: as they come */
    uint64_t text_bytes;
    char *out;
    size_t out_len;
    char *data; /* of the event */
    size_t data_len;
    bool has_data;
    const char *event; /* its first line that is no comment; NULL: there was none */
    bool was_cut;
} plain_t;

static void take_line(plain_t *plain, const char *line, size_t len, bool is_ended)
{
    bool is_bare = is_ended && len == 4 && memcmp(line, "data", 4) == 0;
    if (!is_bare && (len < 5 || memcmp(line, "data:", 5) != 0))
        return;
    size_t skipped = is_bare ? 4 : 5 + (len > 5 && line[5] == ' ');
    if (plain->has_data)
        plain->data[plain->data_len++] = '\n';
    memcpy(plain->data + plain->data_len, line + skipped, len - skipped);
    plain->data_len += len - skipped;
    plain->has_data = true;
}

/* Counts the event's data as one JSON text. */
static void count_event(plain_t *plain)
{
    weir_usage_scan_t one;
    weir_usage_scan_init(&one, WEIR_USAGE_ANTHROPIC, WEIR_USAGE_JSON);
    one.counts = plain->counts;
    one.text_bytes = plain->text_bytes;
    weir_usage_scan_feed(&one, " ", 1); /* a mark behind it is none */
    weir_usage_scan_feed(&one, plain->data, plain->data_len);
    plain->counts = one.counts;
    plain->text_bytes = weir_usage_scan_text_bytes(&one);
}

static void end_event(plain_t *plain, const char *end)
{
    size_t len = (size_t)(end - plain->event);
    count_event(plain);
    plain->was_cut = len <= WEIR_EVENT_HELD_MAX && is_usage_chunk(plain->data, plain->data_len);
    if (!plain->was_cut) {
        memcpy(plain->out + plain->out_len, plain->event, len);
        plain->out_len += len;
    }
    plain->data_len = 0;
    plain->has_data = false;
    plain->event = NULL;
}

static void go_on(plain_t *plain, const char *from, const char *end)
{
    memcpy(plain->out + plain->out_len, from, (size_t)(end - from));
    plain->out_len += (size_t)(end - from);
}

static void read_plainly(plain_t *plain, const char *stream, size_t size)
{
    const char *end = stream + size, *line = stream, *stop;
    bool is_marked = size >= 3 && memcmp(stream, "\xef\xbb\xbf", 3) == 0;
    for (; line != end; line = stop) {
        const char *text = line == stream && is_marked ? line + 3 : line, *eol = text;
        while (eol != end && *eol != '\n' && *eol != '\r')
            ++eol;
        stop = eol == end ? end : eol + 1 + (*eol == '\r' && eol + 1 != end && eol[1] == '\n');
        if (plain->event == NULL && text == line && *text == ':') {
            go_on(plain, line, stop);
            continue;
        }
        plain->event = plain->event != NULL ? plain->event : line;
        if (eol == text && eol != end) {
            end_event(plain, eol + 1);
            if (!plain->was_cut)
                go_on(plain, eol + 1, stop);
        } else {
            take_line(plain, text, (size_t)(eol - text), eol != end);
        }
    }
    count_event(plain); /* what has come of it */
    if (plain->event != NULL)
        go_on(plain, plain->event, end);
}

static bool is_same(const weir_usage_counts_t *a, const weir_usage_counts_t *b)
{
    return a->input == b->input && a->cached == b->cached && a->cache_write == b->cache_write && a->output == b->output;
}

static void compare_plainly(const reading_t *whole, const uint8_t *data, size_t size)
{
    char *stream = malloc(size + 1);
    plain_t plain = {.counts = {-1, -1, -1, -1}, .out = malloc(size + 1), .data = malloc(size + 1)};
    memcpy(stream, data, size);
    read_plainly(&plain, stream, size);
    assert(is_same(&plain.counts, &whole->counts[WEIR_USAGE_EVENTS * 2 + WEIR_USAGE_ANTHROPIC]));
    assert(plain.text_bytes == whole->text_bytes[WEIR_USAGE_EVENTS]);
    assert(plain.out_len == whole->out_len && memcmp(plain.out, whole->out, plain.out_len) == 0);
    free(plain.out);
    free(plain.data);
    free(stream);
}

static void ignore(void *context, const weir_json_token_t *token)
{
}

/* Nor the beginning of it. */
static bool is_no_json(const uint8_t *data, size_t size)
{
    static const char mark[] = "\xef\xbb\xbf";
    const char *text = (const char *)data;
    size_t marked = size < 3 ? size : 3;
    if (marked != 0 && memcmp(text, mark, marked) == 0) {
        text += marked;
        size -= marked;
    }
    weir_json_scan_t scan;
    weir_json_scan_init(&scan, ignore, NULL);
    weir_json_result_t result = weir_json_scan_feed(&scan, text, size);
    return result == WEIR_JSON_MALFORMED ||
           (result == WEIR_JSON_DONE && !weir_json_is_space(text + scan.offset, size - scan.offset));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    reading_t whole = read_pieces(data + 1, size - 1, 0);
    const unsigned steps[] = {data[0], 1};
    for (size_t i = 0; i != 2; ++i) {
        reading_t pieces = read_pieces(data + 1, size - 1, steps[i]);
        for (unsigned k = 0; k != 4; ++k)
            assert(is_same(&pieces.counts[k], &whole.counts[k]) &&
                   pieces.text_bytes[k >> 1] == whole.text_bytes[k >> 1] &&
                   pieces.is_broken[k >> 1] == whole.is_broken[k >> 1]);
        assert(pieces.out_len == whole.out_len && memcmp(pieces.out, whole.out, whole.out_len) == 0);
        free(pieces.out);
    }
    compare_plainly(&whole, data + 1, size - 1);
    assert(whole.is_broken[WEIR_USAGE_JSON] == is_no_json(data + 1, size - 1) && !whole.is_broken[WEIR_USAGE_EVENTS]);
    free(whole.out);
    return 0;
}
