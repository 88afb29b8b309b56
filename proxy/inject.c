#include "exchange_parts.h"

#include "../filters/fields.h"
#include "hop.h"

/* OpenAI's chat and completions streams tell what they used only when asked:
 * https://platform.openai.com/docs/api-reference/chat/create#chat_create-stream_options */

#define OPTION "\"include_usage\":true"
#define OPTIONS "\"stream_options\":{" OPTION "}"

static bool path_ends_with(weir_str_t target, weir_str_t end)
{
    const char *query = memchr(target.base, '?', target.len);
    size_t len = query != NULL ? (size_t)(query - target.base) : target.len;
    return len >= end.len && memcmp(target.base + len - end.len, end.base, end.len) == 0;
}

bool weir_inject_wanted(const weir_request_t *request)
{
    const weir_conf_upstream_t *upstream = request->upstream;
    const weir_json_picked_t *picked = request->picked;
    return upstream->dialect == WEIR_DIALECT_OPENAI && upstream->usage.inject && picked != NULL && picked->is_object &&
           picked->is_stream && picked->include_usage != WEIR_JSON_TRUE &&
           (picked->stream_options == WEIR_JSON_ABSENT || picked->stream_options == WEIR_JSON_NULL ||
            picked->stream_options == WEIR_JSON_OBJECT) &&
           weir_str_is(request->method, WEIR_STR("POST")) && path_ends_with(request->target, WEIR_STR("/completions"));
}

void weir_inject_splice(const weir_json_picked_t *picked, weir_splices_t *splices)
{
    weir_splice_t *splice = &splices->entries[splices->count++];
    if (picked->stream_options == WEIR_JSON_ABSENT)
        *splice = (weir_splice_t){picked->object_at, 0, WEIR_STR(OPTIONS ",")}; /* "stream" stands behind it */
    else if (picked->stream_options == WEIR_JSON_NULL)
        *splice = (weir_splice_t){picked->options_at, picked->options_end - picked->options_at, WEIR_STR("{" OPTION "}")};
    else if (picked->include_usage != WEIR_JSON_ABSENT)
        *splice = (weir_splice_t){picked->include_usage_at, picked->include_usage_end - picked->include_usage_at, WEIR_STR("true")};
    else
        *splice = (weir_splice_t){picked->options_at + 1, 0, picked->options_is_empty ? WEIR_STR(OPTION) : WEIR_STR(OPTION ",")};
}

bool weir_inject_is_in_answer(const weir_call_head_t *head)
{
    bool is_stream = false;
    for (size_t i = 0; i < head->field_count; ++i) {
        if (weir_str_is(head->fields[i].name, WEIR_STR("content-encoding")) &&
            !weir_fields_is_type(head->fields[i].value, "identity"))
            return false;
        is_stream = is_stream || (weir_str_is(head->fields[i].name, WEIR_STR("content-type")) &&
                                  weir_fields_is_type(head->fields[i].value, "text/event-stream"));
    }
    return is_stream && head->status == 200 && !head->no_body;
}
