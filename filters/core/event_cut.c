#include "event_cut.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "event_lines.h"
#include "json_scan.h"

typedef enum { OTHER, CHOICES, USAGE } member_t;

struct weir_event_cut {
    weir_event_lines_t lines;
    weir_json_scan_t scan;
    weir_json_result_t result; /* of the event's data so far */
    bool is_other;             /* than the usage chunk: its bytes go on as they come */
    member_t member;           /* of the outermost object: which one's value comes next, or is being read */
    bool has_choices, has_usage;
    bool was_cut; /* the last event */
    /* What goes on: a run of the input, or, once it is not one run, the first `ready` of these bytes. Behind them are
     * the held ones, up to where the input begins. */
    const char *run;
    size_t run_len;
    char *buffer;
    size_t ready, len, capacity;
};

/* What the event says */

static void pass(weir_event_cut_t *cut)
{
    cut->is_other = true;
}

static member_t find_member(const weir_json_token_t *name)
{
    if (name->len == 7 && memcmp(name->text, "choices", 7) == 0)
        return CHOICES;
    return name->len == 5 && memcmp(name->text, "usage", 5) == 0 ? USAGE : OTHER;
}

static void on_member(weir_event_cut_t *cut, const weir_json_token_t *token)
{
    if (token->kind == WEIR_JSON_TOKEN_NAME)
        cut->member = find_member(token);
    else if (cut->member == CHOICES && token->kind == WEIR_JSON_TOKEN_BEGIN_ARRAY)
        cut->has_choices = true;
    else if (cut->member == USAGE && token->kind == WEIR_JSON_TOKEN_BEGIN_OBJECT)
        cut->has_usage = true;
    else if (cut->member != OTHER && token->kind != WEIR_JSON_TOKEN_END_ARRAY &&
             token->kind != WEIR_JSON_TOKEN_END_OBJECT)
        pass(cut);
}

static void on_token(void *context, const weir_json_token_t *token)
{
    weir_event_cut_t *cut = context;
    if (token->depth == 0 && token->kind != WEIR_JSON_TOKEN_BEGIN_OBJECT && token->kind != WEIR_JSON_TOKEN_END_OBJECT)
        pass(cut);
    else if (token->depth == 1)
        on_member(cut, token);
    else if (token->depth == 2 && cut->member == CHOICES)
        pass(cut);
}

static void read_data(weir_event_cut_t *cut, const char *bytes, size_t len)
{
    uint64_t before = cut->scan.offset;
    if (cut->is_other)
        return;
    cut->result = weir_json_scan_feed(&cut->scan, bytes, len);
    size_t used = (size_t)(cut->scan.offset - before);
    if (cut->result == WEIR_JSON_MALFORMED || !weir_json_is_space(bytes + used, len - used))
        pass(cut);
}

static bool is_usage_chunk(const weir_event_cut_t *cut)
{
    return !cut->is_other && cut->result == WEIR_JSON_DONE && cut->has_choices && cut->has_usage;
}

static void begin_event(weir_event_cut_t *cut)
{
    weir_json_scan_init(&cut->scan, on_token, cut);
    cut->result = WEIR_JSON_MORE;
    cut->is_other = false;
    cut->member = OTHER;
    cut->has_choices = cut->has_usage = false;
}

/* What goes on */

static size_t held(const weir_event_cut_t *cut)
{
    return cut->len - cut->ready;
}

static void append(weir_event_cut_t *cut, const char *bytes, size_t len)
{
    if (cut->capacity - cut->len < len) {
        cut->capacity = (cut->len + len) * 2;
        cut->buffer = realloc(cut->buffer, cut->capacity);
        assert(cut->buffer != NULL);
    }
    memcpy(cut->buffer + cut->len, bytes, len);
    cut->len += len;
}

/* These bytes of the input go on, and what is held before them. */
static void go_on(weir_event_cut_t *cut, const char *bytes, size_t len)
{
    bool is_run = cut->len == 0 && (cut->run_len == 0 || cut->run + cut->run_len == bytes);
    if (len == 0 && held(cut) == 0)
        return;
    if (is_run) {
        cut->run = cut->run_len == 0 ? bytes : cut->run;
        cut->run_len += len;
        return;
    }
    if (cut->run_len != 0)
        append(cut, cut->run, cut->run_len); /* nothing is held then */
    append(cut, bytes, len);
    cut->run_len = 0;
    cut->ready = cut->len;
}

/* What went on the last time is gone. */
static void begin_output(weir_event_cut_t *cut)
{
    if (cut->ready != 0 && held(cut) != 0)
        memmove(cut->buffer, cut->buffer + cut->ready, held(cut));
    cut->len -= cut->ready;
    cut->ready = 0;
    cut->run = NULL;
    cut->run_len = 0;
}

static void tell_output(const weir_event_cut_t *cut, const char **out, size_t *out_len)
{
    *out = cut->run_len != 0 ? cut->run : cut->buffer;
    *out_len = cut->run_len != 0 ? cut->run_len : cut->ready;
}

weir_event_cut_t *weir_event_cut_create(void)
{
    weir_event_cut_t *cut = calloc(1, sizeof(*cut));
    assert(cut != NULL);
    begin_event(cut);
    return cut;
}

void weir_event_cut_destroy(weir_event_cut_t *cut)
{
    free(cut->buffer);
    free(cut);
}

/* The event has ended, with the input from `from` on. */
static void end_event(weir_event_cut_t *cut, const char *from, size_t len)
{
    cut->was_cut = is_usage_chunk(cut) && held(cut) + len <= WEIR_EVENT_HELD_MAX;
    if (cut->was_cut)
        cut->len = cut->ready;
    else
        go_on(cut, from, len);
    begin_event(cut);
}

/* It belongs to no event that is held: a comment before the first field, or what is left of the last event's end. */
static bool is_between(weir_event_part_t part, bool is_first)
{
    return part == WEIR_EVENT_PART_TAIL || (part == WEIR_EVENT_PART_COMMENT && is_first);
}

static void read_event(weir_event_cut_t *cut, weir_event_part_t part, const char *bytes, size_t len)
{
    if (part == WEIR_EVENT_PART_DATA)
        read_data(cut, bytes, len);
    else if (part == WEIR_EVENT_PART_NEXT_DATA)
        read_data(cut, "\n", 1);
}

/* The next part of the input; what of it is before `p` and not settled is from `from` on. Returns where that is now. */
static const char *read_part(weir_event_cut_t *cut, weir_event_part_t part, const char *from, const char *p, size_t len)
{
    const char *end = p + len;
    size_t unsettled = held(cut) + (size_t)(end - from);
    if (part == WEIR_EVENT_PART_END) {
        end_event(cut, from, (size_t)(end - from));
        return end;
    }
    if (part == WEIR_EVENT_PART_TAIL && cut->was_cut)
        return end;
    if (!is_between(part, unsettled == len)) {
        read_event(cut, part, p, len);
        if (unsettled > WEIR_EVENT_HELD_MAX)
            pass(cut);
        if (!cut->is_other)
            return from;
    }
    go_on(cut, from, (size_t)(end - from));
    return end;
}

void weir_event_cut_feed(weir_event_cut_t *cut, const char *bytes, size_t len, const char **out, size_t *out_len)
{
    const char *from = bytes, *end = len != 0 ? bytes + len : bytes; /* NULL + 0 is not defined */
    begin_output(cut);
    for (const char *p = bytes; p != end;) {
        weir_event_part_t part;
        size_t count = weir_event_lines_next(&cut->lines, p, (size_t)(end - p), &part);
        from = read_part(cut, part, from, p, count);
        p += count;
    }
    if (from != end)
        append(cut, from, (size_t)(end - from));
    tell_output(cut, out, out_len);
}

void weir_event_cut_end(weir_event_cut_t *cut, const char **out, size_t *out_len)
{
    *out_len = held(cut);
    *out = *out_len != 0 ? cut->buffer + cut->ready : NULL;
    cut->ready = cut->len;
}
