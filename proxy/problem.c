#include "problem.h"

#include <stdio.h>
#include <string.h>
#include "json_out.h"

enum { BODY_BYTES_MAX = 2048 };

typedef struct {
    char *at, *end;
} text_t;

static void put(text_t *text, const char *bytes)
{
    size_t len = strlen(bytes), room = text->end - text->at;
    len = len < room ? len : room;
    memcpy(text->at, bytes, len);
    text->at += len;
}

static void put_string(text_t *text, const char *name, const char *value, size_t len)
{
    put(text, name);
    text->at += weir_json_out_escape(text->at, text->end - text->at, value, len);
    put(text, "\"");
}

static void put_violated(text_t *text, const weir_problem_t *problem)
{
    for (size_t i = 0; i < problem->violated_count; ++i)
        put_string(text, i == 0 ? ",\"violated-policies\":[\"" : ",\"", problem->violated[i], strlen(problem->violated[i]));
    if (problem->violated_count != 0)
        put(text, "]");
}

h2o_iovec_t weir_problem_body(h2o_mem_pool_t *pool, const weir_problem_t *problem)
{
    char *body = h2o_mem_alloc_pool(pool, BODY_BYTES_MAX);
    text_t text = {body, body + BODY_BYTES_MAX};
    const char *word = weir_reason_word(problem->reason), *title = weir_reason_title(problem->reason);
    const char *detail = problem->detail != NULL ? problem->detail : title;
    char status[32];

    put_string(&text, "{\"type\":\"urn:weir:reason:", word, strlen(word));
    put_string(&text, ",\"title\":\"", title, strlen(title));
    snprintf(status, sizeof(status), ",\"status\":%d", problem->status);
    put(&text, status);
    put_string(&text, ",\"detail\":\"", detail, strlen(detail));
    put_string(&text, ",\"reason\":\"", word, strlen(word));
    put_string(&text, ",\"request_id\":\"", problem->request_id.base, problem->request_id.len);
    put_violated(&text, problem);
    put(&text, "}\n");
    return h2o_iovec_init(body, text.at - body);
}
