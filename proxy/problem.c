#include "problem.h"

#include <stdio.h>
#include <string.h>
#include "json_out.h"

/* With all else that is bounded - names of limits, the id, titles - it stays within WEIR_PROBLEM_BYTES_MAX. */
enum { DETAIL_BYTES_MAX = 1024 };

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

static void put_escaped(text_t *text, const char *value, size_t len, size_t max)
{
    size_t room = text->end - text->at;
    text->at += weir_json_out_escape(text->at, room < max ? room : max, value, len);
}

/* `name` opens the string. */
static void put_string(text_t *text, const char *name, const char *value)
{
    put(text, name);
    put_escaped(text, value, strlen(value), DETAIL_BYTES_MAX);
    put(text, "\"");
}

static void put_id(text_t *text, const weir_problem_t *problem)
{
    put(text, ",\"request_id\":\"");
    put_escaped(text, problem->request_id.base, problem->request_id.len, DETAIL_BYTES_MAX);
    put(text, "\"");
}

/* What a person reads, and often all that an SDK shows. */
static void put_message(text_t *text, const weir_problem_t *problem)
{
    put(text, "\"message\":\"");
    put(text, weir_reason_title(problem->reason));
    if (problem->detail != NULL) {
        put(text, ": ");
        put_escaped(text, problem->detail, strlen(problem->detail), DETAIL_BYTES_MAX);
    }
    put(text, "\"");
}

static void put_violated(text_t *text, const weir_problem_t *problem)
{
    for (size_t i = 0; i < problem->violated_count; ++i)
        put_string(text, i == 0 ? ",\"violated-policies\":[\"" : ",\"", problem->violated[i]);
    if (problem->violated_count != 0)
        put(text, "]");
}

static void put_plain(text_t *text, const weir_problem_t *problem)
{
    const char *word = weir_reason_word(problem->reason), *title = weir_reason_title(problem->reason);
    char status[32];
    put_string(text, "{\"type\":\"urn:weir:reason:", word);
    put_string(text, ",\"title\":\"", title);
    snprintf(status, sizeof(status), ",\"status\":%d", problem->status);
    put(text, status);
    put_string(text, ",\"detail\":\"", problem->detail != NULL ? problem->detail : title);
    put_string(text, ",\"reason\":\"", word);
    put_id(text, problem);
    put_violated(text, problem);
    put(text, "}");
}

static bool is_callers_fault(int status)
{
    return status >= 400 && status < 500;
}

static void put_openai(text_t *text, const weir_problem_t *problem)
{
    const char *word = weir_reason_word(problem->reason);
    bool is_limit = problem->status == 429;
    put(text, "{\"error\":{");
    put_message(text, problem);
    put_string(text, ",\"type\":\"",
               is_limit                            ? "rate_limit_error"
               : is_callers_fault(problem->status) ? "invalid_request_error"
                                                   : "api_error");
    put_string(text, ",\"param\":null,\"code\":\"", is_limit ? "rate_limit_exceeded" : word);
    put_string(text, "},\"reason\":\"", word);
    put_id(text, problem);
    put(text, "}");
}

static const char *anthropic_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 413:
        return "request_too_large";
    case 429:
        return "rate_limit_error";
    case 503:
        return "overloaded_error";
    default:
        return is_callers_fault(status) ? "invalid_request_error" : "api_error";
    }
}

static void put_anthropic(text_t *text, const weir_problem_t *problem)
{
    put_string(text, "{\"type\":\"error\",\"error\":{\"type\":\"", anthropic_type(problem->status));
    put(text, ",");
    put_message(text, problem);
    put(text, "}");
    put_id(text, problem);
    put_string(text, ",\"reason\":\"", weir_reason_word(problem->reason));
    put(text, "}");
}

size_t weir_problem_write(char *out, const weir_problem_t *problem)
{
    text_t text = {out, out + WEIR_PROBLEM_BYTES_MAX};
    switch (problem->dialect) {
    case WEIR_DIALECT_PLAIN:
        put_plain(&text, problem);
        break;
    case WEIR_DIALECT_OPENAI:
        put_openai(&text, problem);
        break;
    case WEIR_DIALECT_ANTHROPIC:
        put_anthropic(&text, problem);
        break;
    }
    return (size_t)(text.at - out);
}

h2o_iovec_t weir_problem_body(h2o_mem_pool_t *pool, const weir_problem_t *problem)
{
    char *body = h2o_mem_alloc_pool(pool, WEIR_PROBLEM_BYTES_MAX + 1);
    size_t len = weir_problem_write(body, problem);
    body[len] = '\n';
    return h2o_iovec_init(body, len + 1);
}

const char *weir_problem_type(weir_conf_dialect_t dialect)
{
    return dialect == WEIR_DIALECT_PLAIN ? "application/problem+json" : "application/json";
}
