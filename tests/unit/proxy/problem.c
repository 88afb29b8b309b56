/* What weir itself says, in each dialect: word for word what callers and the SDKs of the providers read. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <yajl/yajl_parse.h>
#include "../../../proxy/problem.h"

enum { PLAIN = WEIR_DIALECT_PLAIN, OPENAI = WEIR_DIALECT_OPENAI, ANTHROPIC = WEIR_DIALECT_ANTHROPIC };

static const char *const limits[] = {"hourly", "tokens"};

/* Just as long as may be written, so that a byte beyond it is seen. */
static const char *text_of(const weir_problem_t *problem)
{
    static char text[WEIR_PROBLEM_BYTES_MAX + 1];
    char *out = malloc(WEIR_PROBLEM_BYTES_MAX);
    size_t len = weir_problem_write(out, problem);
    assert_in_range(len, 1, WEIR_PROBLEM_BYTES_MAX);
    memcpy(text, out, len);
    text[len] = '\0';
    free(out);
    return text;
}

static void shapes(void **state)
{
    static const struct {
        int dialect;
        weir_reason_t reason;
        int status;
        const char *detail, *text;
    } table[] = {
        {PLAIN, WEIR_REASON_LIMIT, 429, "No.",
         "{\"type\":\"urn:weir:reason:limit\",\"title\":\"Limit exceeded\",\"status\":429,\"detail\":\"No.\","
         "\"reason\":\"limit\",\"request_id\":\"id-1\",\"violated-policies\":[\"hourly\",\"tokens\"]}"},
        {OPENAI, WEIR_REASON_LIMIT, 429, "No.",
         "{\"error\":{\"message\":\"Limit exceeded: No.\",\"type\":\"rate_limit_error\",\"param\":null,"
         "\"code\":\"rate_limit_exceeded\"},\"reason\":\"limit\",\"request_id\":\"id-1\"}"},
        {ANTHROPIC, WEIR_REASON_LIMIT, 429, "No.",
         "{\"type\":\"error\",\"error\":{\"type\":\"rate_limit_error\",\"message\":\"Limit exceeded: No.\"},"
         "\"request_id\":\"id-1\",\"reason\":\"limit\"}"},
        {OPENAI, WEIR_REASON_NO_ROUTE, 404, NULL,
         "{\"error\":{\"message\":\"No route matches this request\",\"type\":\"invalid_request_error\",\"param\":null,"
         "\"code\":\"no_route\"},\"reason\":\"no_route\",\"request_id\":\"id-1\"}"},
        {OPENAI, WEIR_REASON_CONNECT_FAILED, 502, NULL,
         "{\"error\":{\"message\":\"The upstream could not be connected\",\"type\":\"api_error\",\"param\":null,"
         "\"code\":\"connect_failed\"},\"reason\":\"connect_failed\",\"request_id\":\"id-1\"}"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_problem_t problem = {.reason = table[i].reason,
                                  .status = table[i].status,
                                  .detail = table[i].detail,
                                  .request_id = {"id-1", 4},
                                  .violated = limits,
                                  .violated_count = table[i].reason == WEIR_REASON_LIMIT ? 2 : 0,
                                  .dialect = (weir_conf_dialect_t)table[i].dialect};
        assert_string_equal(text_of(&problem), table[i].text);
    }
}

/* The type goes by the status, whatever the reason: on_limit and breaker.answer may name any. */
static void types(void **state)
{
    static const struct {
        int status;
        const char *openai, *anthropic;
    } table[] = {
        {400, "invalid_request_error", "invalid_request_error"},
        {401, "invalid_request_error", "authentication_error"},
        {403, "invalid_request_error", "invalid_request_error"},
        {404, "invalid_request_error", "invalid_request_error"},
        {408, "invalid_request_error", "invalid_request_error"},
        {409, "invalid_request_error", "invalid_request_error"},
        {413, "invalid_request_error", "request_too_large"},
        {422, "invalid_request_error", "invalid_request_error"},
        {429, "rate_limit_error", "rate_limit_error"},
        {499, "invalid_request_error", "invalid_request_error"},
        {500, "api_error", "api_error"},
        {502, "api_error", "api_error"},
        {503, "api_error", "overloaded_error"},
        {504, "api_error", "api_error"},
        {505, "api_error", "api_error"},
        {599, "api_error", "api_error"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        char openai[64], anthropic[64];
        weir_problem_t problem = {.reason = WEIR_REASON_LIMIT, .status = table[i].status, .request_id = {"", 0}};
        snprintf(openai, sizeof(openai), "\"type\":\"%s\",\"param\":null,\"code\":\"%s\"", table[i].openai,
                 table[i].status == 429 ? "rate_limit_exceeded" : "limit");
        snprintf(anthropic, sizeof(anthropic), "\"error\":{\"type\":\"%s\"", table[i].anthropic);
        problem.dialect = WEIR_DIALECT_OPENAI;
        assert_non_null(strstr(text_of(&problem), openai));
        problem.dialect = WEIR_DIALECT_ANTHROPIC;
        assert_non_null(strstr(text_of(&problem), anthropic));
    }
}

static bool is_json(const char *text)
{
    yajl_handle handle = yajl_alloc(NULL, NULL, NULL);
    yajl_status status = yajl_parse(handle, (const unsigned char *)text, strlen(text));
    if (status == yajl_status_ok)
        status = yajl_complete_parse(handle);
    yajl_free(handle);
    return status == yajl_status_ok;
}

/* Whatever it is made of, it is JSON on one line. */
static void the_worst(void **state)
{
    enum { NAMES = WEIR_LIMITS_PER_ROUTE_MAX, NAME_LEN = 63, DETAIL_LEN = 5000 };
    static char name[NAME_LEN + 1], detail[DETAIL_LEN + 1], id[WEIR_CORRELATION_ID_MAX];
    const char *names[NAMES];
    memset(name, 'n', NAME_LEN);
    memset(id, 'i', sizeof(id));
    for (size_t i = 0; i < NAMES; ++i)
        names[i] = name;
    static const char fillings[] = {'d', '\n', '\x01', '"', '\\', '\x7f', '\xff'};
    for (size_t filling = 0; filling < sizeof(fillings); ++filling)
        for (int dialect = PLAIN; dialect <= ANTHROPIC; ++dialect)
            for (int reason = 0; reason < WEIR_REASON_COUNT; ++reason) {
                memset(detail, fillings[filling], DETAIL_LEN);
                weir_problem_t problem = {.reason = (weir_reason_t)reason,
                                          .status = 503,
                                          .detail = detail,
                                          .request_id = {id, sizeof(id)},
                                          .violated = names,
                                          .violated_count = NAMES,
                                          .dialect = (weir_conf_dialect_t)dialect};
                const char *text = text_of(&problem);
                assert_true(is_json(text));
                assert_null(strpbrk(text, "\r\n"));
            }
}

static void bodies(void **state)
{
    h2o_mem_pool_t pool;
    h2o_mem_init_pool(&pool);
    weir_problem_t problem = {.reason = WEIR_REASON_DRAINING, .status = 503, .request_id = {"", 0}};
    for (int dialect = PLAIN; dialect <= ANTHROPIC; ++dialect) {
        problem.dialect = (weir_conf_dialect_t)dialect;
        h2o_iovec_t body = weir_problem_body(&pool, &problem);
        const char *text = text_of(&problem);
        assert_int_equal(body.len, strlen(text) + 1);
        assert_memory_equal(body.base, text, strlen(text));
        assert_int_equal(body.base[body.len - 1], '\n');
    }
    h2o_mem_clear_pool(&pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes),
        cmocka_unit_test(types),
        cmocka_unit_test(the_worst),
        cmocka_unit_test(bodies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
