#include "exchange_parts.h"

#include "hop.h"

/* OpenAI's chat and completions streams tell what they used only when asked:
 * https://platform.openai.com/docs/api-reference/chat/create#chat_create-stream_options */

#define OPTION "\"include_usage\":true"
#define OPTIONS "\"stream_options\":{" OPTION "}"

bool weir_inject_wanted(const weir_request_t *request, const weir_conf_upstream_t *upstream)
{
    const weir_json_picked_t *picked = request->picked;
    return upstream->dialect == WEIR_DIALECT_OPENAI && upstream->usage.inject && picked != NULL && picked->is_object &&
           picked->is_stream && picked->include_usage != WEIR_JSON_TRUE &&
           (picked->stream_options == WEIR_JSON_ABSENT || picked->stream_options == WEIR_JSON_NULL ||
            picked->stream_options == WEIR_JSON_OBJECT) &&
           weir_str_is(request->method, WEIR_STR("POST")) && weir_dialect_path_ends_with(request->target, WEIR_STR("/completions"));
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
    return head->status == 200 && weir_dialect_is_event_stream(head);
}
