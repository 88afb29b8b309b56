/* Which answers are streams of a dialect, which of them end too early, and what goes out behind one that breaks off. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "../../../proxy/dialect.h"

enum { PLAIN = WEIR_DIALECT_PLAIN, OPENAI = WEIR_DIALECT_OPENAI, ANTHROPIC = WEIR_DIALECT_ANTHROPIC };

static h2o_mem_pool_t pool;
static weir_conf_upstream_t upstream;

static int set_up(void **state)
{
    h2o_mem_init_pool(&pool);
    return 0;
}

static int tear_down(void **state)
{
    h2o_mem_clear_pool(&pool);
    return 0;
}

static weir_str_t str(const char *text)
{
    return (weir_str_t){text, strlen(text)};
}

static void *alloc(weir_request_t *request, size_t size)
{
    return memset(h2o_mem_alloc_pool(&pool, size), 0xa5, size);
}

typedef struct {
    int dialect, status;
    const char *target, *type, *encoding;
    bool no_body;
} answer_t;

static weir_dialect_stream_t *stream_of(const answer_t *answer)
{
    weir_h1_field_t fields[2] = {{.name = str("content-type")}, {.name = str("content-encoding")}};
    weir_call_head_t head = {.status = answer->status, .fields = fields, .field_count = 1, .no_body = answer->no_body};
    weir_request_t request = {.upstream = &upstream, .target = str(answer->target), .alloc = alloc};
    upstream.dialect = (weir_conf_dialect_t)answer->dialect;
    fields[0].value = str(answer->type);
    if (answer->encoding != NULL) {
        fields[1].value = str(answer->encoding);
        head.field_count = 2;
    }
    return weir_dialect_stream_of(&request, &head);
}

static weir_dialect_stream_t *begin(int dialect, const char *target)
{
    weir_dialect_stream_t *stream =
        stream_of(&(answer_t){.dialect = dialect, .status = 200, .target = target, .type = "text/event-stream"});
    assert_non_null(stream);
    return stream;
}

static void what_is_a_stream(void **state)
{
    static const struct {
        answer_t answer;
        bool is_stream, must_end;
    } table[] = {
        {{OPENAI, 200, "/v1/chat/completions", "text/event-stream", NULL, false}, true, true},
        {{OPENAI, 200, "/v1/completions?x=/", "Text/Event-Stream; charset=utf-8", NULL, false}, true, true},
        {{OPENAI, 200, "/a/b/responses", "text/event-stream", "identity", false}, true, true},
        {{OPENAI, 200, "/v1/responses/r1", "text/event-stream", NULL, false}, true, false},
        {{OPENAI, 200, "/v1/audio/speech", "text/event-stream", NULL, false}, true, false},
        {{OPENAI, 200, "/v1/messages", "text/event-stream", NULL, false}, true, false},
        {{OPENAI, 200, "/x?/completions", "text/event-stream", NULL, false}, true, false},
        {{OPENAI, 500, "/v1/chat/completions", "text/event-stream", NULL, false}, true, false},
        {{OPENAI, 201, "/v1/chat/completions", "text/event-stream", NULL, false}, true, false},
        {{ANTHROPIC, 200, "/v1/messages", "text/event-stream", NULL, false}, true, true},
        {{ANTHROPIC, 200, "/v1/chat/completions", "text/event-stream", NULL, false}, true, false},
        {{OPENAI, 200, "/v1/chat/completions", "application/json", NULL, false}, false, false},
        {{OPENAI, 200, "/v1/chat/completions", "text/event-streams", NULL, false}, false, false},
        {{OPENAI, 200, "/v1/chat/completions", "text/event-stream", "gzip", false}, false, false},
        {{OPENAI, 200, "/v1/chat/completions", "text/event-stream", NULL, true}, false, false},
        {{PLAIN, 200, "/v1/chat/completions", "text/event-stream", NULL, false}, false, false},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_dialect_stream_t *stream = stream_of(&table[i].answer);
        assert_int_equal(stream != NULL, table[i].is_stream);
        if (stream != NULL)
            assert_int_equal(stream->must_end, table[i].must_end);
    }
}

/* Asking changes nothing. */
static void what_lacks_its_end(void **state)
{
    weir_dialect_stream_t *stream = begin(OPENAI, "/v1/chat/completions");
    assert_true(weir_dialect_stream_lacks_end(stream, str("")));
    weir_dialect_stream_came(stream, str("data: {}\n\ndata: [DO"));
    assert_false(weir_dialect_stream_lacks_end(stream, str("NE]\n\n")));
    assert_true(weir_dialect_stream_lacks_end(stream, str("NO]\n\n")));
    assert_false(weir_dialect_stream_lacks_end(stream, str("NE]\n\n")));
    weir_dialect_stream_came(stream, str("NE]\n\n"));
    assert_false(weir_dialect_stream_lacks_end(stream, (weir_str_t){NULL, 0}));

    stream = begin(OPENAI, "/v1/responses");
    weir_dialect_stream_came(stream, str("data: {\"type\":\"response.completed\""));
    assert_true(weir_dialect_stream_lacks_end(stream, str("")));
    assert_false(weir_dialect_stream_lacks_end(stream, str("}")));
    assert_true(weir_dialect_stream_lacks_end(stream, str("]}")));

    stream = begin(OPENAI, "/v1/audio/speech"); /* nobody knows how it ends */
    weir_dialect_stream_came(stream, str("data: {}\n\n"));
    assert_false(weir_dialect_stream_lacks_end(stream, str("")));
}

static void the_error_behind_it(void **state)
{
    static const struct {
        int dialect;
        const char *went, *text;
    } table[] = {
        {OPENAI, "",
         "data: {\"error\":{\"message\":\"The upstream stopped in the middle of its answer\",\"type\":\"api_error\","
         "\"param\":null,\"code\":\"timeout_idle\"},\"reason\":\"timeout_idle\",\"request_id\":\"id-1\"}\n\n"},
        {OPENAI, "data: {}\n\n", "data: {\"error\":"},
        {OPENAI, "data: {}\r\n\r\n", "data: {\"error\":"},
        {OPENAI, "data: {}\n", "\n\ndata: {\"error\":"},
        {OPENAI, "data: {\"choices\":[{\"del", "\n\ndata: {\"error\":"},
        {ANTHROPIC, "",
         "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"The upstream "
         "stopped in the middle of its answer\"},\"request_id\":\"id-1\",\"reason\":\"timeout_idle\"}\n\n"},
        {ANTHROPIC, "data: {}\n\n", "event: error\ndata: {\"type\":"},
        {ANTHROPIC, "event: x\ndata: {\"ty", "\nevent: ping\n\nevent: error\ndata: {\"type\":"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_dialect_stream_t *stream = begin(table[i].dialect, "/v1/messages");
        for (const char *at = table[i].went; *at != '\0'; ++at)
            weir_dialect_stream_went(stream, at, 1);
        weir_problem_t problem = {.reason = WEIR_REASON_TIMEOUT_IDLE, .status = 504, .request_id = {"id-1", 4}};
        h2o_iovec_t error = weir_dialect_stream_error(stream, &pool, problem);
        assert_in_range(strlen(table[i].text), 1, error.len);
        assert_memory_equal(error.base, table[i].text, strlen(table[i].text));
        assert_memory_equal(error.base + error.len - 3, "}\n\n", 3);
    }
}

static void where_the_request_is_named(void **state)
{
    assert_int_equal(weir_dialect_request_id_name(WEIR_DIALECT_PLAIN).len, 0);
    assert_string_equal(weir_dialect_request_id_name(WEIR_DIALECT_OPENAI).base, "x-request-id");
    assert_string_equal(weir_dialect_request_id_name(WEIR_DIALECT_ANTHROPIC).base, "request-id");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_a_stream),
        cmocka_unit_test(what_lacks_its_end),
        cmocka_unit_test(the_error_behind_it),
        cmocka_unit_test(where_the_request_is_named),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
