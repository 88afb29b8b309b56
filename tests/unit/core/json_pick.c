/* What is picked from a request body, whatever the cuts; what is offered for a splice is where it is said to be. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "../seeded.h"
#include "../../../filters/core/json_pick.h"

/* In memory of just its length, so that a read beyond it is seen. */
static bool feed_copy(weir_json_pick_t *pick, const char *bytes, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    bool goes_on = weir_json_pick_feed(pick, copy, len);
    free(copy);
    return goes_on;
}

static weir_json_picked_t pick_cut(const char *body, size_t len, size_t at)
{
    weir_json_pick_t pick;
    memset(&pick, 0xa5, sizeof(pick));
    weir_json_pick_init(&pick);
    feed_copy(&pick, body, at);
    feed_copy(&pick, body + at, len - at);
    return *weir_json_pick_end(&pick);
}

static weir_json_picked_t pick_pieces(const char *body, size_t len, size_t most, seeded_t *seeded)
{
    weir_json_pick_t pick;
    weir_json_pick_init(&pick);
    for (size_t at = 0; at < len;) {
        size_t piece = 1 + (size_t)seeded_below(seeded, most);
        piece = piece < len - at ? piece : len - at;
        feed_copy(&pick, body + at, piece);
        at += piece;
    }
    return *weir_json_pick_end(&pick);
}

static void assert_same(const weir_json_picked_t *a, weir_json_picked_t b)
{
    assert_int_equal(a->is_object, b.is_object);
    assert_int_equal(a->is_ambiguous, b.is_ambiguous);
    assert_int_equal(a->is_unreadable, b.is_unreadable);
    assert_int_equal(a->model_len, b.model_len);
    assert_memory_equal(a->model, b.model, a->model_len + 1);
    assert_int_equal(a->model_is_long, b.model_is_long);
    assert_int_equal(a->model_at, b.model_at);
    assert_int_equal(a->model_end, b.model_end);
    assert_int_equal(a->max_tokens, b.max_tokens);
    assert_int_equal(a->is_stream, b.is_stream);
    assert_int_equal(a->object_at, b.object_at);
    assert_int_equal(a->is_empty, b.is_empty);
    assert_int_equal(a->stream_options, b.stream_options);
    assert_int_equal(a->options_at, b.options_at);
    assert_int_equal(a->options_end, b.options_end);
    assert_int_equal(a->options_is_empty, b.options_is_empty);
    assert_int_equal(a->include_usage, b.include_usage);
    assert_int_equal(a->include_usage_at, b.include_usage_at);
    assert_int_equal(a->include_usage_end, b.include_usage_end);
}

/* All at once; and cut in all ways it is the same. */
static weir_json_picked_t pick_bytes(const char *body, size_t len)
{
    static seeded_t seeded;
    if (seeded.state == 0)
        seeded = seeded_start("json_pick");
    weir_json_picked_t whole = pick_cut(body, len, len);
    for (size_t at = 0; at < len; ++at)
        assert_same(&whole, pick_cut(body, len, at));
    assert_same(&whole, pick_pieces(body, len, 1, &seeded));
    for (unsigned i = 0; i < 20; ++i)
        assert_same(&whole, pick_pieces(body, len, 1 + (size_t)seeded_below(&seeded, 30), &seeded));
    return whole;
}

static weir_json_picked_t pick_text(const char *body)
{
    return pick_bytes(body, strlen(body));
}

static void assert_at(const char *body, uint64_t at, uint64_t end, const char *value)
{
    assert_int_equal(end - at, strlen(value));
    assert_memory_equal(body + at, value, strlen(value));
}

static void test_a_chat_request(void **state)
{
    static const char body[] =
        " {\"model\" : \"gpt-5\", \"messages\": [{\"role\": \"user\", \"content\": \"a \\\"model\\\": b\", "
        "\"model\": \"no\", \"stream\": false}], \"stream\": true,\n\"max_tokens\": 100, "
        "\"stream_options\": {\"x\": [{\"include_usage\": 1}], \"include_usage\": false}}\r\n";
    weir_json_picked_t picked = pick_text(body);
    assert_true(picked.is_object && picked.is_stream);
    assert_false(picked.is_ambiguous || picked.is_empty || picked.options_is_empty || picked.model_is_long);
    assert_string_equal(picked.model, "gpt-5");
    assert_int_equal(picked.model_len, 5);
    assert_at(body, picked.model_at, picked.model_end, "\"gpt-5\"");
    assert_int_equal(picked.max_tokens, 100);
    assert_int_equal(picked.object_at, 2);
    assert_int_equal(picked.stream_options, WEIR_JSON_OBJECT);
    assert_at(body, picked.options_at, picked.options_end,
              "{\"x\": [{\"include_usage\": 1}], \"include_usage\": false}");
    assert_int_equal(picked.include_usage, WEIR_JSON_FALSE);
    assert_at(body, picked.include_usage_at, picked.include_usage_end, "false");
}

static void test_what_is_an_object(void **state)
{
    static const struct {
        const char *body;
        bool is_object, is_empty, is_unreadable;
    } table[] = {
        {"{}", true, true, false},           {" \t\r\n{ } \n", true, true, false},
        {"{\"\":0}", true, false, false},    {"{\"a\":{}}", true, false, false},
        {"", false, false, false},           {" ", false, false, false},
        {" \r\n\t", false, false, false},    {"{", false, false, true},
        {"{\"a\":1", false, false, true},    {"{} {}", false, false, true},
        {"{}x", false, false, true},         {"{},", false, false, true},
        {"{}\v", false, false, true},        {"\v", false, false, true},
        {"{\"a\":NaN}", false, false, true}, {"{\"a\":01}", false, false, true},
        {"{\"a\":1,}", false, false, true},  {"\xef\xbb\xbf{}", false, false, true},
        {"[]", false, false, true},          {"[{}]", false, false, true},
        {"\"{}\"", false, false, true},      {"1", false, false, true},
        {"12 ", false, false, true},         {"n", false, false, true},
        {"null", false, false, true},        {"model=gpt-5&stream=true", false, false, true},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_json_picked_t picked = pick_text(table[i].body);
        if (picked.is_object != table[i].is_object || picked.is_empty != table[i].is_empty ||
            picked.is_unreadable != table[i].is_unreadable)
            fail_msg("%s: object %d, empty %d, unreadable %d", table[i].body, picked.is_object, picked.is_empty,
                     picked.is_unreadable);
    }
    weir_json_picked_t nul = pick_bytes("", 1);
    assert_true(nul.is_unreadable);
}

static void assert_tells_nothing(weir_json_picked_t picked, bool is_ambiguous)
{
    assert_false(picked.is_object || picked.is_empty || picked.model_is_long || picked.is_stream);
    assert_true(picked.is_unreadable);
    assert_int_equal(picked.is_ambiguous, is_ambiguous);
    assert_string_equal(picked.model, "");
    assert_int_equal(picked.model_len, 0);
    assert_true(picked.model_at == 0 && picked.model_end == 0);
    assert_int_equal(picked.max_tokens, -1);
    assert_int_equal(picked.stream_options, WEIR_JSON_ABSENT);
    assert_int_equal(picked.include_usage, WEIR_JSON_ABSENT);
    assert_true(picked.options_end == 0 && picked.include_usage_end == 0 && !picked.options_is_empty);
}

/* Another reader takes it, and goes on. */
static void test_what_is_no_object_tells_nothing(void **state)
{
#define KNOWN "\"model\":\"r1\",\"max_tokens\":5,\"stream\":true,\"stream_options\":{\"include_usage\":true}"
    static const struct {
        const char *body;
        bool is_ambiguous;
    } table[] = {
        {"{" KNOWN, false},
        {"{" KNOWN ",\"z\":NaN,\"model\":\"gpt-5\"}", false},
        {"{" KNOWN ",\"z\":-Infinity,\"model\":\"gpt-5\"}", false},
        {"{" KNOWN ",\"z\":\"a\tb\",\"model\":\"gpt-5\"}", false},
        {"{" KNOWN ",\"z\":1,}", false},
        {"{" KNOWN "} x", false},
        {"{" KNOWN "}{\"model\":\"gpt-5\"}", false},
        {"{" KNOWN ",\"model\":\"gpt-5\",\"z\":NaN}", true},
        {"{\"stream_options\":{}, NaN", false},
        {"[{" KNOWN "}]", false},
        {"\xef\xbb\xbf{" KNOWN "}", false},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        assert_tells_nothing(pick_text(table[i].body), table[i].is_ambiguous);
    char deep[2 * WEIR_JSON_DEPTH_MAX + 200];
    size_t len = (size_t)sprintf(deep, "{" KNOWN ",\"z\":"), depth = WEIR_JSON_DEPTH_MAX;
    memset(deep + len, '[', depth);
    memset(deep + len + depth, ']', depth);
    strcpy(deep + len + 2 * depth, ",\"model\":\"gpt-5\"}");
    assert_tells_nothing(pick_text(deep), false);
    memset(deep + len, ' ', 1);
    memset(deep + len + 2 * depth - 1, ' ', 1);
    assert_true(pick_text(deep).is_object && pick_text(deep).is_ambiguous);
    char long_model[WEIR_MODEL_BYTES_MAX + 20] = "{\"model\":\"";
    memset(long_model + 10, 'm', WEIR_MODEL_BYTES_MAX);
    strcpy(long_model + 10 + WEIR_MODEL_BYTES_MAX, "\"");
    assert_tells_nothing(pick_text(long_model), false);
#undef KNOWN
}

/* Only the outermost object has members that count. */
static void test_an_array_has_none(void **state)
{
    weir_json_picked_t picked =
        pick_text("[{\"model\":\"a\",\"max_tokens\":1,\"stream\":true},{\"stream_options\":{\"include_usage\":true}}]");
    assert_int_equal(picked.model_end, 0);
    assert_int_equal(picked.max_tokens, -1);
    assert_false(picked.is_stream);
    assert_int_equal(picked.stream_options, WEIR_JSON_ABSENT);
    assert_int_equal(picked.include_usage, WEIR_JSON_ABSENT);
}

static void test_ambiguous(void **state)
{
    static const struct {
        const char *body;
        bool is_ambiguous;
    } table[] = {
        {"{\"model\":\"a\",\"model\":\"a\"}", true},
        {"{\"model\":\"a\",\"x\":{},\"\\u006dodel\":\"b\"}", true},
        {"{\"mod\\u0065l\":null,\"\\u006dodel\":[]}", true},
        {"{\"max_tokens\":1,\"max_tokens\":1}", true},
        {"{\"max_completion_tokens\":1,\"max_completion_tokens\":1}", true},
        {"{\"max_output_tokens\":1,\"max_output_tokens\":1}", true},
        {"{\"stream\":1,\"stream\":true}", true},
        {"{\"stream_options\":{},\"stream_options\":{}}", true},
        {"{\"stream_options\":null,\"stream_options\":{}}", true},
        {"{\"stream_options\":{\"include_usage\":true,\"include_usage\":true}}", true},
        {"{\"stream_options\":{\"include_usage\":true,\"x\":[],\"include\\u005fusage\":{}}}", true},
        {"{\"model\":\"a\",\"model\":\"b\"", true}, /* told though it is no object */
        {"{\"model\":\"a\",\"model\":\"b\"} x", true},
        {"{\"max_tokens\":1,\"max_completion_tokens\":1,\"max_output_tokens\":1}", false},
        /* to readers that do not tell cases apart */
        {"{\"model\":\"a\",\"Model\":\"b\"}", true},
        {"{\"MODEL\":\"a\",\"x\":1,\"model\":\"b\"}", true},
        {"{\"Model\":\"a\",\"mOdel\":\"b\"}", true},
        {"{\"Model\":\"a\",\"Model\":\"b\"}", true},
        {"{\"\\u004dodel\":\"a\",\"model\":\"b\"}", true},
        {"{\"max_tokens\":1,\"MAX_TOKENS\":2}", true},
        {"{\"Max_Completion_Tokens\":1,\"max_completion_tokens\":2}", true},
        {"{\"max_output_tokens\":1,\"max_output_tokenS\":2}", true},
        {"{\"max_tokens\":1,\"max_to\\u212aen\\u017f\":2}", true},
        {"{\"max_tokens\":1,\"max_to\xe2\x84\xaa"
         "en\xc5\xbf\":2}",
         true},
        {"{\"stream\":true,\"Stream\":false}", true},
        {"{\"stream_options\":{},\"STREAM_options\":{}}", true},
        {"{\"stream_options\":{\"include_usage\":true,\"Include_Usage\":false}}", true},
        {"{\"Model\":\"a\",\"MAX_TOKENS\":1,\"Stream\":true,\"Stream_Options\":{\"include_usage\":1,\"include_usage\":"
         "2}}",
         false},
        {"{\"Model\":\"a\",\"max_tokens\":1,\"Max_completion_tokens\":2}", false},
        {"{\"model\":1,\"models\":1,\"Mode\":2,\"Model \":3,\"Model\\u0000\":4,\"\":5,\"MoDels\":6,\"m\xc3\xb6"
         "del\":7}",
         false},
        {"{\"max_tokens\":1,\"max-tokens\":2,\"max\x7ftokens\":3,\"max_to\xe2\x84\xab"
         "ens\":4}",
         false},
        {"{\"model\":\"a\",\"x\":{\"Model\":\"b\"}}", false},
        {"{\"model\":\"a\",\"x\":{\"model\":\"b\",\"model\":\"c\"}}", false},
        {"{\"a\":1,\"a\":2}", false},
        {"{\"include_usage\":1,\"include_usage\":2}", false},
        {"{\"stream_options\":[{\"include_usage\":1,\"include_usage\":2}]}", false},
        {"{\"stream_options\":{\"x\":{\"include_usage\":1},\"include_usage\":2}}", false},
        {"{\"stream_options\":{\"include_usage\":1},\"x\":{\"include_usage\":2}}", false},
        {"{\"x\":{\"include_usage\":1,\"include_usage\":2},\"stream_options\":{\"include_usage\":2}}", false},
        {"{\"stream_options\":{\"stream\":1},\"stream\":true}", false},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        if (pick_text(table[i].body).is_ambiguous != table[i].is_ambiguous)
            fail_msg("%s: not as it should be", table[i].body);
}

static void test_models(void **state)
{
    static const struct {
        const char *body, *model, *value;
    } table[] = {
        {"{\"model\":\"a\"}", "a", "\"a\""},
        {"{ \"\\u006D\\u006fdel\" :\n\"gpt\\u002d5\\n\" }", "gpt-5\n", "\"gpt\\u002d5\\n\""},
        {"{\"model\":\"\"}", "", "\"\""},
        {"{\"model\":\"\xf0\x9f\x98\x80\\ud83d\\ude00\"}", "\xf0\x9f\x98\x80\xf0\x9f\x98\x80",
         "\"\xf0\x9f\x98\x80\\ud83d\\ude00\""},
        {"{\"model\":null}", "", "null"},
        {"{\"model\":-1.5 }", "", "-1.5"},
        {"{\"model\":[\"a\",{\"model\":\"b\"}] }", "", "[\"a\",{\"model\":\"b\"}]"},
        {"{\"model\":{\"model\":\"b\"}}", "", "{\"model\":\"b\"}"},
        {"{\"Model\":\"a\"}", "", ""},
        {"{\"messages\":[],\"x\":\"a\"}", "", ""},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_json_picked_t picked = pick_text(table[i].body);
        assert_string_equal(picked.model, table[i].model);
        assert_int_equal(picked.model_len, strlen(table[i].model));
        assert_at(table[i].body, picked.model_at, picked.model_end, table[i].value);
        assert_false(picked.model_is_long);
    }
}

static void test_a_model_with_a_nul(void **state)
{
    weir_json_picked_t picked = pick_text("{\"model\":\"a\\u0000b\"}");
    assert_int_equal(picked.model_len, 3);
    assert_memory_equal(picked.model, "a\0b", 4);
}

static void test_long_models(void **state)
{
    for (size_t len = WEIR_MODEL_BYTES_MAX - 3; len <= WEIR_MODEL_BYTES_MAX + 3; ++len) {
        char body[WEIR_MODEL_BYTES_MAX + 32], model[WEIR_MODEL_BYTES_MAX + 8];
        memset(model, 'm', len);
        model[len] = '\0';
        sprintf(body, "{\"model\":\"%s\",\"a\":1}", model);
        weir_json_picked_t picked = pick_text(body);
        bool is_long = len >= WEIR_MODEL_BYTES_MAX;
        assert_int_equal(picked.model_is_long, is_long);
        assert_string_equal(picked.model, is_long ? "" : model);
        assert_int_equal(picked.model_len, is_long ? 0 : len);
        assert_int_equal(picked.model_at, 9);
        assert_int_equal(picked.model_end, len + 11);
        assert_true(picked.is_object);
    }
}

static void test_max_tokens(void **state)
{
    static const struct {
        const char *body;
        int64_t max_tokens;
    } table[] = {
        {"{}", -1},
        {"{\"max_tokens\":0}", 0},
        {"{\"max_tokens\":4096}", 4096},
        {"{\"max\\u005ftokens\":4096}", 4096},
        {"{\"max_completion_tokens\":7}", 7},
        {"{\"max_output_tokens\":7}", 7},
        {"{\"max_tokens\":5,\"max_completion_tokens\":7,\"max_output_tokens\":6}", 7},
        {"{\"max_tokens\":7,\"max_completion_tokens\":null,\"max_output_tokens\":-1e3}", 7},
        {"{\"max_tokens\":7,\"max_completion_tokens\":-9}", 7},
        {"{\"max_tokens\":1e3}", 1000},
        {"{\"max_tokens\":100.0}", 100},
        {"{\"max_tokens\":-1}", -1},
        {"{\"max_tokens\":-0.5}", -1},
        {"{\"max_tokens\":null}", -1},
        {"{\"Max_Tokens\":100}", -1},
        {"{\"x\":{\"max_tokens\":100}}", -1},
        {"{\"max_tokens\":99999999999999999999999999}", WEIR_JSON_INTEGER_MAX},
        /* what cannot be read */
        {"{\"max_tokens\":100.5}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":1e-1}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":\"100\"}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":\"\"}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":true}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":false}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":[]}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":[100]}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":{\"max_tokens\":100}}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_tokens\":7,\"max_completion_tokens\":\"9\"}", WEIR_JSON_INTEGER_MAX},
        {"{\"max_output_tokens\":{},\"max_tokens\":7}", WEIR_JSON_INTEGER_MAX},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        if (pick_text(table[i].body).max_tokens != table[i].max_tokens)
            fail_msg("%s: %lld", table[i].body, (long long)pick_text(table[i].body).max_tokens);
}

/* More digits than are kept. */
static void test_max_tokens_that_are_long(void **state)
{
    char body[2 * WEIR_JSON_TEXT_MAX], digits[WEIR_JSON_TEXT_MAX + 1];
    memset(digits, '0', WEIR_JSON_TEXT_MAX);
    digits[WEIR_JSON_TEXT_MAX] = '\0';
    sprintf(body, "{\"max_tokens\":9%s}", digits);
    assert_int_equal(pick_text(body).max_tokens, WEIR_JSON_INTEGER_MAX);
    sprintf(body, "{\"max_tokens\":100.%s}", digits);
    assert_int_equal(pick_text(body).max_tokens, WEIR_JSON_INTEGER_MAX);
    sprintf(body, "{\"max_tokens\":-9%s}", digits);
    assert_int_equal(pick_text(body).max_tokens, -1);
}

static void test_streams(void **state)
{
    assert_true(pick_text("{\"stream\":true}").is_stream);
    assert_true(pick_text("{\"str\\u0065am\" : true }").is_stream);
    static const char *const table[] = {"{}",
                                        "{\"stream\":false}",
                                        "{\"stream\":null}",
                                        "{\"stream\":\"true\"}",
                                        "{\"stream\":1}",
                                        "{\"stream\":[true]}",
                                        "{\"stream\":{\"stream\":true}}",
                                        "{\"x\":{\"stream\":true}}",
                                        "{\"Stream\":true}"};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        assert_false(pick_text(table[i]).is_stream);
}

static void test_stream_options(void **state)
{
    static const struct {
        const char *body;
        weir_json_what_t options;
        const char *options_value;
        bool is_empty;
        weir_json_what_t include_usage;
        const char *include_value;
    } table[] = {
        {"{}", WEIR_JSON_ABSENT, "", false, WEIR_JSON_ABSENT, ""},
        {"{\"include_usage\":true}", WEIR_JSON_ABSENT, "", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":null }", WEIR_JSON_NULL, "null", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":true}", WEIR_JSON_TRUE, "true", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":false}", WEIR_JSON_FALSE, "false", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":12}", WEIR_JSON_OTHER, "12", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":\"x\"}", WEIR_JSON_OTHER, "\"x\"", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":[]}", WEIR_JSON_OTHER, "[]", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":[{\"include_usage\":true}]}", WEIR_JSON_OTHER, "[{\"include_usage\":true}]", false,
         WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\": { } }", WEIR_JSON_OBJECT, "{ }", true, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":{\"x\":{}}}", WEIR_JSON_OBJECT, "{\"x\":{}}", false, WEIR_JSON_ABSENT, ""},
        {"{\"stream_options\":{\"include_usage\":true}}", WEIR_JSON_OBJECT, "{\"include_usage\":true}", false,
         WEIR_JSON_TRUE, "true"},
        {"{\"stream_options\":{\"\\u0069nclude_usage\": null }}", WEIR_JSON_OBJECT, "{\"\\u0069nclude_usage\": null }",
         false, WEIR_JSON_NULL, "null"},
        {"{\"stream_options\":{\"include_usage\":0,\"y\":true}}", WEIR_JSON_OBJECT, "{\"include_usage\":0,\"y\":true}",
         false, WEIR_JSON_OTHER, "0"},
        {"{\"stream_options\":{\"include_usage\":{\"a\":[1]},\"y\":true}}", WEIR_JSON_OBJECT,
         "{\"include_usage\":{\"a\":[1]},\"y\":true}", false, WEIR_JSON_OBJECT, "{\"a\":[1]}"},
        {"{\"stream_options\":{\"include_usage\":[true],\"y\":true}}", WEIR_JSON_OBJECT,
         "{\"include_usage\":[true],\"y\":true}", false, WEIR_JSON_OTHER, "[true]"},
        {"{\"stream_options\":{\"x\":{\"include_usage\":true}}}", WEIR_JSON_OBJECT, "{\"x\":{\"include_usage\":true}}",
         false, WEIR_JSON_ABSENT, ""},
        {"{\"x\":{\"stream_options\":{\"include_usage\":true}}}", WEIR_JSON_ABSENT, "", false, WEIR_JSON_ABSENT, ""},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_json_picked_t picked = pick_text(table[i].body);
        assert_true(picked.is_object);
        assert_int_equal(picked.stream_options, table[i].options);
        assert_at(table[i].body, picked.options_at, picked.options_end, table[i].options_value);
        assert_int_equal(picked.options_is_empty, table[i].is_empty);
        assert_int_equal(picked.include_usage, table[i].include_usage);
        assert_at(table[i].body, picked.include_usage_at, picked.include_usage_end, table[i].include_value);
    }
}

static void test_when_to_go_on(void **state)
{
    static const struct {
        const char *bytes;
        bool goes_on;
    } table[] = {{"", true},     {" ", true},   {"{", true},  {"{}", true}, {"{} ", true},
                 {"{}x", false}, {"{x", false}, {"[", false}, {"n", true},  {"nx", false}};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_json_pick_t pick;
        weir_json_pick_init(&pick);
        assert_int_equal(feed_copy(&pick, table[i].bytes, strlen(table[i].bytes)), table[i].goes_on);
        assert_int_equal(weir_json_pick_feed(&pick, NULL, 0), table[i].goes_on);
    }
}

/* A large picture in front of what is asked for. */
static void test_a_long_string_before(void **state)
{
    enum { LEN = 3 << 20 };
    seeded_t seeded = seeded_start("a long string before");
    char *body = malloc(LEN + 200);
    size_t len = (size_t)sprintf(body, "{\"messages\":[{\"content\":\"");
    for (size_t i = 0; i < LEN; ++i)
        body[len++] = "abcdefgABCDEFG0123456789+/="[seeded_below(&seeded, 27)];
    len += (size_t)sprintf(body + len, "\"}],\"model\":\"a\",\"max_tokens\":3}");
    weir_json_picked_t whole = pick_cut(body, len, len);
    assert_true(whole.is_object);
    assert_string_equal(whole.model, "a");
    assert_int_equal(whole.max_tokens, 3);
    assert_same(&whole, pick_pieces(body, len, 16384, &seeded));
    assert_same(&whole, pick_pieces(body, len, 100, &seeded));
    free(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_chat_request),
        cmocka_unit_test(test_what_is_an_object),
        cmocka_unit_test(test_what_is_no_object_tells_nothing),
        cmocka_unit_test(test_an_array_has_none),
        cmocka_unit_test(test_ambiguous),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_a_model_with_a_nul),
        cmocka_unit_test(test_long_models),
        cmocka_unit_test(test_max_tokens),
        cmocka_unit_test(test_max_tokens_that_are_long),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_stream_options),
        cmocka_unit_test(test_when_to_go_on),
        cmocka_unit_test(test_a_long_string_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
