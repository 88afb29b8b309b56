#include "answers.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { PIECES = 4 }; /* of a stream's text */

bool sim_shape_is_stream(sim_shape_t shape)
{
    return shape == SIM_OPENAI_CHAT_STREAM || shape == SIM_OPENAI_RESPONSES_STREAM || shape == SIM_ANTHROPIC_STREAM;
}

static void put_text(FILE *out, size_t len)
{
    static char letters[SIM_TEXT_MAX];
    if (letters[0] == 0)
        memset(letters, 'a', sizeof(letters));
    assert(len <= sizeof(letters));
    fwrite(letters, 1, len, out);
}

/* `before`, text, `after`, for each piece of the text. */
static void put_pieces(FILE *out, const char *before, size_t len, const char *after)
{
    for (size_t i = 0; i < PIECES; ++i) {
        fputs(before, out);
        put_text(out, len * (i + 1) / PIECES - len * i / PIECES);
        fputs(after, out);
    }
}

static void put_chat_usage(FILE *out, const sim_answer_t *answer)
{
    fprintf(out,
            "\"usage\":{\"prompt_tokens\":%" PRId64 ",\"completion_tokens\":%" PRId64 ",\"total_tokens\":%" PRId64
            ",\"prompt_tokens_details\":{\"cached_tokens\":%" PRId64 "}}",
            answer->input + answer->cached, answer->output, answer->input + answer->cached + answer->output,
            answer->cached);
}

static void put_responses_usage(FILE *out, const sim_answer_t *answer)
{
    fprintf(out,
            ",\"usage\":{\"input_tokens\":%" PRId64 ",\"input_tokens_details\":{\"cached_tokens\":%" PRId64
            "},\"output_tokens\":%" PRId64 "}",
            answer->input + answer->cached, answer->cached, answer->output);
}

static void put_anthropic_usage(FILE *out, const sim_answer_t *answer, int64_t output)
{
    fprintf(out,
            ",\"usage\":{\"input_tokens\":%" PRId64 ",\"cache_read_input_tokens\":%" PRId64
            ",\"cache_creation_input_tokens\":%" PRId64 ",\"output_tokens\":%" PRId64 "}",
            answer->input, answer->cached, answer->cache_write, output);
}

static void put_chat(FILE *out, const sim_answer_t *answer)
{
    fputs("{\"id\":\"c1\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"", out);
    put_text(out, answer->text_bytes);
    fputs("\"}}]", out);
    if (answer->says_usage) {
        fputs(",", out);
        put_chat_usage(out, answer);
    }
    fputs("}", out);
}

static void put_chat_stream(FILE *out, const sim_answer_t *answer)
{
    put_pieces(out, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"", answer->text_bytes, "\"}}]}\n\n");
    if (answer->says_usage) {
        fputs("data: {\"choices\":[],", out);
        put_chat_usage(out, answer);
        fputs("}\n\n", out);
    }
    fputs("data: [DONE]\n\n", out);
}

static void put_responses(FILE *out, const sim_answer_t *answer)
{
    fputs("{\"id\":\"r1\",\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"", out);
    put_text(out, answer->text_bytes);
    fputs("\"}]}]", out);
    if (answer->says_usage)
        put_responses_usage(out, answer);
    fputs("}", out);
}

static void put_responses_stream(FILE *out, const sim_answer_t *answer)
{
    put_pieces(out, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"",
               answer->text_bytes, "\"}\n\n");
    fputs("event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r1\"", out);
    if (answer->says_usage)
        put_responses_usage(out, answer);
    fputs("}}\n\n", out);
}

static void put_anthropic(FILE *out, const sim_answer_t *answer)
{
    fputs("{\"id\":\"m1\",\"type\":\"message\",\"content\":[{\"type\":\"text\",\"text\":\"", out);
    put_text(out, answer->text_bytes);
    fputs("\"}]", out);
    if (answer->says_usage)
        put_anthropic_usage(out, answer, answer->output);
    fputs("}", out);
}

static void put_anthropic_stream(FILE *out, const sim_answer_t *answer)
{
    fputs("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m1\"", out);
    if (answer->says_usage)
        put_anthropic_usage(out, answer, 1);
    fputs("}}\n\n", out);
    put_pieces(out,
               "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
               "{\"type\":\"text_delta\",\"text\":\"",
               answer->text_bytes, "\"}}\n\n");
    for (int64_t part = 1; answer->says_usage && part <= 2; ++part) /* cumulative: the last one counts */
        fprintf(
            out,
            "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":%" PRId64
            "}}\n\n",
            part == 1 ? answer->output / 2 : answer->output);
    fputs("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", out);
}

static void put_plain(FILE *out, const sim_answer_t *answer)
{
    put_text(out, answer->text_bytes);
}

char *sim_answer_write(const sim_answer_t *answer, size_t *len)
{
    static void (*const put[])(FILE * out, const sim_answer_t *answer) = {
        [SIM_PLAIN] = put_plain,
        [SIM_OPENAI_CHAT] = put_chat,
        [SIM_OPENAI_CHAT_STREAM] = put_chat_stream,
        [SIM_OPENAI_RESPONSES] = put_responses,
        [SIM_OPENAI_RESPONSES_STREAM] = put_responses_stream,
        [SIM_ANTHROPIC] = put_anthropic,
        [SIM_ANTHROPIC_STREAM] = put_anthropic_stream,
    };
    char *bytes = NULL;
    FILE *out = open_memstream(&bytes, len);
    assert(out != NULL);
    if (answer->status >= 400 && !answer->says_usage)
        fputs("{\"error\":{\"type\":\"some_error\",\"message\":\"no\"}}", out);
    else
        put[answer->shape](out, answer);
    fclose(out);
    return bytes;
}
