#include "dialect.h"

#include <string.h>
#include "../filters/fields.h"
#include "hop.h"

enum { STATUS_OK = 200, AROUND_BYTES_MAX = 64 };

static const struct {
    weir_str_t request_id_name;
    weir_str_t ends_half;    /* what ends half an event */
    weir_str_t begins_error; /* what stands before the error, which is one line */
} dialects[] = {
    [WEIR_DIALECT_PLAIN] = {.request_id_name = {"", 0}},
    [WEIR_DIALECT_OPENAI] = {{H2O_STRLIT("x-request-id")}, {H2O_STRLIT("\n\n")}, {H2O_STRLIT("data: ")}},
    [WEIR_DIALECT_ANTHROPIC] = {{H2O_STRLIT("request-id")},
                                {H2O_STRLIT("\nevent: ping\n\n")},
                                {H2O_STRLIT("event: error\ndata: ")}},
};

bool weir_dialect_path_ends_with(weir_str_t target, weir_str_t end)
{
    const char *query = memchr(target.base, '?', target.len);
    size_t len = query != NULL ? (size_t)(query - target.base) : target.len;
    return len >= end.len && memcmp(target.base + len - end.len, end.base, end.len) == 0;
}

/* Which calls' streams have a last event that is known; *form: which one. */
static bool find_form(const weir_request_t *request, weir_event_end_form_t *form)
{
    static const struct {
        weir_conf_dialect_t dialect;
        weir_str_t path;
        weir_event_end_form_t form;
    } calls[] = {
        {WEIR_DIALECT_OPENAI, {H2O_STRLIT("/completions")}, WEIR_EVENT_END_DONE},
        {WEIR_DIALECT_OPENAI, {H2O_STRLIT("/responses")}, WEIR_EVENT_END_RESPONSES},
        {WEIR_DIALECT_ANTHROPIC, {H2O_STRLIT("/messages")}, WEIR_EVENT_END_MESSAGES},
    };
    for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); ++i) {
        if (calls[i].dialect != request->upstream->dialect || !weir_dialect_path_ends_with(request->target, calls[i].path))
            continue;
        *form = calls[i].form;
        return true;
    }
    return false;
}

bool weir_dialect_is_event_stream(const weir_call_head_t *head)
{
    bool is_stream = false;
    for (size_t i = 0; i < head->field_count; ++i) {
        const weir_h1_field_t *field = &head->fields[i];
        if (weir_str_is(field->name, WEIR_STR("content-encoding")) && !weir_fields_is_type(field->value, "identity"))
            return false;
        is_stream = is_stream || (weir_str_is(field->name, WEIR_STR("content-type")) &&
                                  weir_fields_is_type(field->value, "text/event-stream"));
    }
    return is_stream && !head->no_body;
}

weir_dialect_stream_t *weir_dialect_stream_of(weir_request_t *request, const weir_call_head_t *head)
{
    weir_conf_dialect_t dialect = request->upstream->dialect;
    weir_event_end_form_t form;
    if (dialect == WEIR_DIALECT_PLAIN || !weir_dialect_is_event_stream(head))
        return NULL;
    weir_dialect_stream_t *stream = request->alloc(request, sizeof(*stream));
    stream->dialect = dialect;
    stream->must_end = head->status == STATUS_OK && find_form(request, &form);
    stream->tail = (weir_event_tail_t){.len = 0};
    if (stream->must_end)
        weir_event_end_init(&stream->end, form);
    return stream;
}

void weir_dialect_stream_came(weir_dialect_stream_t *stream, weir_str_t bytes)
{
    if (stream->must_end)
        weir_event_end_feed(&stream->end, bytes.base, bytes.len);
}

void weir_dialect_stream_went(weir_dialect_stream_t *stream, const char *bytes, size_t len)
{
    weir_event_tail_add(&stream->tail, bytes, len);
}

bool weir_dialect_stream_lacks_end(const weir_dialect_stream_t *stream, weir_str_t bytes)
{
    if (!stream->must_end || stream->end.has_ended)
        return false;
    weir_event_end_t end = stream->end;
    weir_event_end_feed(&end, bytes.base, bytes.len);
    return !end.has_ended;
}

static char *put(char *at, weir_str_t text)
{
    return mempcpy(at, text.base, text.len);
}

h2o_iovec_t weir_dialect_stream_error(const weir_dialect_stream_t *stream, h2o_mem_pool_t *pool, weir_problem_t problem)
{
    char *text = h2o_mem_alloc_pool(pool, AROUND_BYTES_MAX + WEIR_PROBLEM_BYTES_MAX), *at = text;
    problem.dialect = stream->dialect;
    if (!weir_event_tail_is_between(&stream->tail))
        at = put(at, dialects[stream->dialect].ends_half);
    at = put(at, dialects[stream->dialect].begins_error);
    at += weir_problem_write(at, &problem);
    at = put(at, WEIR_STR("\n\n"));
    return h2o_iovec_init(text, at - text);
}

weir_str_t weir_dialect_request_id_name(weir_conf_dialect_t dialect)
{
    return dialects[dialect].request_id_name;
}
