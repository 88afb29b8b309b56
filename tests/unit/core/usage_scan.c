/* The usage that real answers report, cut at every byte and with every kind of line end; and what must not count. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "../seeded.h"
#include "../../../filters/core/usage_scan.h"

enum {
    OPENAI = WEIR_USAGE_OPENAI,
    ANTHROPIC = WEIR_USAGE_ANTHROPIC,
    JSON = WEIR_USAGE_JSON,
    EVENTS = WEIR_USAGE_EVENTS
};

static const char openai_json[] =
    "{\n  \"id\": \"chatcmpl-1\", \"object\": \"chat.completion\", \"created\": 1700000000, \"model\": \"gpt-5\",\n"
    "  \"choices\": [{\"index\": 0, \"message\": {\"role\": \"assistant\", \"content\": \"Hello \\u4e2d\", "
    "\"refusal\": null,"
    " \"tool_calls\": [{\"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\":1}\"}}]},"
    " \"logprobs\": null, \"finish_reason\": \"stop\"}],\n"
    "  \"usage\": {\"prompt_tokens\": 120, \"completion_tokens\": 30, \"total_tokens\": 150,\n"
    "    \"prompt_tokens_details\": {\"cached_tokens\": 100, \"audio_tokens\": 0},\n"
    "    \"completion_tokens_details\": {\"reasoning_tokens\": 9, \"cached_tokens\": 7, \"prompt_tokens\": 5}}\n}\n";

static const char openai_events[] =
    "data: "
    "{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
    "\"content\":\"\"},\"finish_reason\":null}],\"usage\":null}\n\n"
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"}}],\"usage\":null}\n\n"
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"}}],\"usage\":null}\n\n"
    "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":30,\"total_tokens\":150,"
    "\"prompt_tokens_details\":{\"cached_tokens\":100}}}\n\n"
    "data: [DONE]\n\n";

static const char responses_events[] =
    "event: response.created\n"
    "data: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"output\":[],\"usage\":null}}\n\n"
    "event: response.output_text.delta\n"
    "data: {\"type\":\"response.output_text.delta\",\"delta\":\"Hello\"}\n\n"
    "event: response.completed\n"
    "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\",\"output\":[{\"usage\":{\"input_tokens\":1}}],"
    "\"usage\":{\"input_tokens\":36,\"input_tokens_details\":{\"cached_tokens\":6},\"output_tokens\":87,"
    "\"output_tokens_details\":{\"reasoning_tokens\":1}}}}\n\n";

static const char anthropic_json[] =
    "{\"id\":\"msg\",\"type\":\"message\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"hm\"},{\"type\":\"text\","
    "\"text\":\"Hi\"}],"
    "\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":12,\"cache_creation_input_tokens\":5,"
    "\"cache_read_input_tokens\":100,\"cache_creation\":{\"input_tokens\":3},\"output_tokens\":6}}";

static const char anthropic_events[] =
    "event: message_start\n"
    "data: {\"type\":\"message_start\",\"message\":{\"id\":\"msg\",\"role\":\"assistant\",\"content\":[],\"usage\":"
    "{\"input_tokens\":25,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":7,\"output_tokens\":1}}}\n\n"
    "event: content_block_start\n"
    "data: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n"
    "event: ping\ndata: {\"type\": \"ping\"}\n\n"
    "event: content_block_delta\n"
    "data: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n"
    "event: content_block_delta\n"
    "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"a\"}}\n\n"
    "event: message_delta\n"
    "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":null},\"usage\":{\"output_tokens\":9}}\n\n"
    "event: message_delta\n"
    "data: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n"
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

typedef struct {
    bool is_told;
    weir_usage_counts_t counts;
    uint64_t text_bytes;
    bool is_broken;
} told_t;

/* In memory of just its length, so that a read beyond it is seen. */
static void feed_copy(weir_usage_scan_t *usage, const char *bytes, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    weir_usage_scan_feed(usage, copy, len);
    free(copy);
}

static told_t tell(const weir_usage_scan_t *usage)
{
    told_t told = {.text_bytes = weir_usage_scan_text_bytes(usage), .is_broken = weir_usage_scan_is_broken(usage)};
    told.is_told = weir_usage_scan_tell(usage, &told.counts);
    return told;
}

static void start(weir_usage_scan_t *usage, unsigned form, unsigned framing)
{
    memset(usage, 0xa5, sizeof(*usage));
    weir_usage_scan_init(usage, (weir_usage_form_t)form, (weir_usage_framing_t)framing);
}

static told_t scan_cut(unsigned form, unsigned framing, const char *answer, size_t len, size_t at)
{
    weir_usage_scan_t usage;
    start(&usage, form, framing);
    feed_copy(&usage, answer, at);
    feed_copy(&usage, answer + at, len - at);
    return tell(&usage);
}

static told_t scan_pieces(unsigned form, unsigned framing, const char *answer, size_t len, size_t most,
                          seeded_t *seeded)
{
    weir_usage_scan_t usage;
    start(&usage, form, framing);
    for (size_t at = 0; at < len;) {
        size_t piece = 1 + (size_t)seeded_below(seeded, most);
        piece = piece < len - at ? piece : len - at;
        feed_copy(&usage, answer + at, piece);
        at += piece;
    }
    return tell(&usage);
}

static void assert_same(told_t a, told_t b)
{
    assert_int_equal(a.is_told, b.is_told);
    assert_int_equal(a.counts.input, b.counts.input);
    assert_int_equal(a.counts.cached, b.counts.cached);
    assert_int_equal(a.counts.cache_write, b.counts.cache_write);
    assert_int_equal(a.counts.output, b.counts.output);
    assert_int_equal(a.text_bytes, b.text_bytes);
    assert_int_equal(a.is_broken, b.is_broken);
}

/* All at once; and cut in all ways it is the same. */
static told_t scan(unsigned form, unsigned framing, const char *answer)
{
    static seeded_t seeded;
    size_t len = strlen(answer);
    if (seeded.state == 0)
        seeded = seeded_start("usage_scan");
    told_t whole = scan_cut(form, framing, answer, len, len);
    for (size_t at = 0; at < len; ++at)
        assert_same(whole, scan_cut(form, framing, answer, len, at));
    assert_same(whole, scan_pieces(form, framing, answer, len, 1, &seeded));
    for (unsigned i = 0; i < 50; ++i)
        assert_same(whole, scan_pieces(form, framing, answer, len, 1 + (size_t)seeded_below(&seeded, 100), &seeded));
    return whole;
}

/* Every LF becomes `line_end`. */
static char *with_line_ends(const char *answer, const char *line_end)
{
    char *text = malloc(2 * strlen(answer) + 1), *to = text;
    for (; *answer != '\0'; ++answer)
        to += *answer == '\n' ? sprintf(to, "%s", line_end) : sprintf(to, "%c", *answer);
    *to = '\0';
    return text;
}

static void test_answers(void **state)
{
    static const struct {
        unsigned form, framing;
        const char *answer;
        told_t told;
    } table[] = {
        {OPENAI, JSON, openai_json, {true, {20, 100, -1, 30}, 12 + 9}},
        {OPENAI, EVENTS, openai_events, {true, {20, 100, -1, 30}, 5}},
        {OPENAI, EVENTS, responses_events, {true, {30, 6, -1, 87}, 5}},
        {ANTHROPIC, JSON, anthropic_json, {true, {12, 100, 5, 6}, 4}},
        {ANTHROPIC, EVENTS, anthropic_events, {true, {25, 7, 0, 15}, 5 + 4}},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        assert_same(scan(table[i].form, table[i].framing, table[i].answer), table[i].told);
        for (unsigned ends = 0; ends < 2 && table[i].framing == EVENTS; ++ends) {
            char *answer = with_line_ends(table[i].answer, ends == 0 ? "\r\n" : "\r");
            assert_same(scan(table[i].form, EVENTS, answer), table[i].told);
            free(answer);
        }
    }
}

/* What a caller saw is charged: Anthropic's stream, ended at any byte. */
static void test_streams_that_end_early(void **state)
{
    const char *start_end = strstr(anthropic_events, "event: content_block_start");
    const char *first_count = strstr(anthropic_events, "\"output_tokens\":9}") + 17;
    const char *last_count = strstr(anthropic_events, "\"output_tokens\":15}") + 18;
    for (const char *end = anthropic_events; *end != '\0'; ++end) {
        told_t told = scan_cut(ANTHROPIC, EVENTS, anthropic_events, (size_t)(end - anthropic_events), 0);
        if (end >= start_end) {
            assert_true(told.is_told);
            assert_int_equal(told.counts.input, 25);
            assert_int_equal(told.counts.output, end > last_count ? 15 : end > first_count ? 9 : -1);
        }
    }
}

static void test_json(void **state)
{
    static const struct {
        const char *answer;
        told_t told; /* OpenAI's */
    } table[] = {
        {"", {false, {-1, -1, -1, -1}, 0}},
        {"{}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":null}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":{}}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":5,\"prompt_tokens\":3}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"error\":{\"message\":\"no\",\"usage\":{\"prompt_tokens\":3}}}", {false, {-1, -1, -1, -1}, 0}},
        /* embeddings */
        {"{\"data\":[{\"embedding\":[0.1,-1e-3]}],\"usage\":{\"prompt_tokens\":8,\"total_tokens\":8}}",
         {true, {8, -1, -1, -1}, 0}},
        {"{\"usage\":{\"output_tokens\":8}}", {true, {-1, -1, -1, 8}, 0}},
        {"{\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":8}}}", {false, {-1, 8, -1, -1}, 0}},
        /* more cached than came in */
        {"{\"usage\":{\"prompt_tokens\":8,\"prompt_tokens_details\":{\"cached_tokens\":9}}}",
         {true, {0, 9, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":3},\"prompt_tokens\":8}}",
         {true, {5, 3, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens_details\":{\"cached_tokens\":0},\"prompt_tokens\":8}}",
         {true, {8, 0, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens_details\":null,\"prompt_tokens\":8}}", {true, {8, -1, -1, -1}, 0}},
        /* names with escapes */
        {"{\"us\\u0061ge\":{\"prompt\\u005ftokens\":8}}", {true, {8, -1, -1, -1}, 0}},
        /* no counts */
        {"{\"usage\":{\"prompt_tokens\":\"8\",\"completion_tokens\":null}}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens\":-8,\"completion_tokens\":1.5}}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens\":[8],\"completion_tokens\":{\"completion_tokens\":8}}}",
         {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens\":8,\"prompt_tokens\":null}}", {true, {8, -1, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens\":8,\"prompt_tokens\":0}}", {true, {8, -1, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens\":99999999999999999999999}}", {true, {WEIR_JSON_INTEGER_MAX, -1, -1, -1}, 0}},
        /* not there */
        {"[{\"usage\":{\"prompt_tokens\":8}}]", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":[{\"prompt_tokens\":8}]}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"response\":[{\"usage\":{\"prompt_tokens\":8}}]}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"x\":{\"usage\":{\"prompt_tokens\":8}}}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"response\":{\"response\":{\"usage\":{\"prompt_tokens\":8}}}}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":{\"usage\":{\"prompt_tokens\":8}}}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":{\"input_tokens_details\":{\"prompt_tokens\":8,\"x\":{\"cached_tokens\":1}}}}",
         {false, {-1, -1, -1, -1}, 0}},
        {"{\"cached_tokens\":8,\"input_tokens_details\":{\"cached_tokens\":8}}", {false, {-1, -1, -1, -1}, 0}},
        {"{\"Usage\":{\"prompt_tokens\":8}}", {false, {-1, -1, -1, -1}, 0}},
        {"\"usage\"", {false, {-1, -1, -1, -1}, 0}},
        /* deep, and back again */
        {"{\"a\":{\"b\":{\"c\":{\"d\":{\"e\":[[[{\"usage\":{\"prompt_tokens\":1}}]]]}}}},\"usage\":{\"prompt_tokens\":"
         "8}}",
         {true, {8, -1, -1, -1}, 0}},
        {"{\"response\":{\"a\":{},\"usage\":{\"a\":{},\"input_tokens_details\":{\"a\":{\"b\":{}},\"cached_tokens\":1},"
         "\"input_tokens\":8}}}",
         {true, {7, 1, -1, -1}, 0}},
        /* broken: what came before counts */
        {"{\"usage\":{\"prompt_tokens\":8,}", {true, {8, -1, -1, -1}, 0, true}},
        {"{\"usage\":{\"prompt_tokens\":8}} {\"usage\":{\"prompt_tokens\":9}}", {true, {8, -1, -1, -1}, 0, true}},
        {"{\"usage\":{\"prompt_tokens\":8", {false, {-1, -1, -1, -1}, 0}},
        {"{\"usage\":{\"prompt_tokens\":08}}", {false, {-1, -1, -1, -1}, 0, true}},
        {"{\"text\":\"abc\ndef\"}", {false, {-1, -1, -1, -1}, 3, true}},
        {"{\"text\":\"abc\",\"x\":NaN,\"text\":\"def\"}", {false, {-1, -1, -1, -1}, 3, true}},
        {"Hello", {false, {-1, -1, -1, -1}, 0, true}},
        {"\xff\xfb\x90", {false, {-1, -1, -1, -1}, 0, true}},
        {" \r\n", {false, {-1, -1, -1, -1}, 0}},
        {"12", {false, {-1, -1, -1, -1}, 0}},
        {"12 monkeys", {false, {-1, -1, -1, -1}, 0, true}},
        {"{} \r\n\t", {false, {-1, -1, -1, -1}, 0}},
        {"{}\n{}", {false, {-1, -1, -1, -1}, 0, true}},
        /* a byte order mark */
        {"\xef\xbb\xbf{\"text\":\"abc\",\"usage\":{\"prompt_tokens\":8}}", {true, {8, -1, -1, -1}, 3}},
        {"\xef\xbb\xbf \"x\"", {false, {-1, -1, -1, -1}, 0}},
        {"\xef\xbb\xbf", {false, {-1, -1, -1, -1}, 0}},
        {"\xef\xbb", {false, {-1, -1, -1, -1}, 0}},
        {"\xef\xbb{\"text\":\"abc\"}", {false, {-1, -1, -1, -1}, 0, true}},
        {"\xef{\"text\":\"abc\"}", {false, {-1, -1, -1, -1}, 0, true}},
        {"\xef\xbb\xbf\xef\xbb\xbf{}", {false, {-1, -1, -1, -1}, 0, true}},
        {" \xef\xbb\xbf{}", {false, {-1, -1, -1, -1}, 0, true}},
        /* text */
        {"{\"text\":\"abc\",\"delta\":\"de\",\"x\":\"no\",\"content\":[\"no\",{\"output_text\":\"f\"},\"no\"]}",
         {false, {-1, -1, -1, -1}, 6}},
        {"{\"partial_json\":\"1\",\"arguments\":\"2\",\"thinking\":\"3\",\"reasoning_content\":\"4\",\"reasoning\":"
         "\"5\","
         "\"refusal\":\"6\"}",
         {false, {-1, -1, -1, -1}, 6}},
        {"[[{\"content\":\"\\u4e2d\xe4\xb8\xad\"}]]", {false, {-1, -1, -1, -1}, 9}},
        {"{\"content\":null,\"text\":5,\"delta\":{\"type\":\"no\"},\"type\":\"no\"}", {false, {-1, -1, -1, -1}, 0}},
        /* cut in a string */
        {"{\"text\":\"whole\",\"content\":\"not who", {false, {-1, -1, -1, -1}, 5 + 7}},
        {"{\"text\":\"", {false, {-1, -1, -1, -1}, 0}},
        {"{\"text\":\"a\\u4e", {false, {-1, -1, -1, -1}, 5}},
        {"{\"text\":\"a\\", {false, {-1, -1, -1, -1}, 2}},
        {"{\"text\":\"a\",\"text", {false, {-1, -1, -1, -1}, 1}},
        {"{\"text\":\"a\",\"id\":\"not", {false, {-1, -1, -1, -1}, 1}},
        {"{\"content\":[\"not", {false, {-1, -1, -1, -1}, 0}},
        {"{\"content\":[{\"text\":\"yes", {false, {-1, -1, -1, -1}, 3}},
        {"{\"type\":\"response.output_text.done\",\"text\":\"not", {false, {-1, -1, -1, -1}, 0}},
        {"{\"type\":\"response.output_text.delta\",\"delta\":\"yes", {false, {-1, -1, -1, -1}, 3}},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        assert_same(scan(OPENAI, JSON, table[i].answer), table[i].told);
}

static void test_events(void **state)
{
#define GOOD "{\"usage\":{\"prompt_tokens\":8}}"
    static const struct {
        const char *answer;
        int64_t input;
    } table[] = {
        {"data: " GOOD "\n\n", 8},
        {"data:" GOOD "\n\n", 8},
        {"data:  " GOOD "\n\n", 8},
        {"data: " GOOD, 8},
        {"data: " GOOD "\n", 8},
        {"\xef\xbb\xbf"
         "data: " GOOD "\n\n",
         8},
        {"\xef\xbb\xbf\n\ndata: " GOOD "\n\n", 8},
        {"\r\n\n\r\rdata: " GOOD "\n\n", 8},
        {": comment\nid: 1\nevent: x\nretry: 5\ndata: " GOOD "\nid: 2\n\n", 8},
        {"data: {\"usage\":{\n: comment\ndata:\nevent: x\ndata:\"prompt_tokens\"\ndata\ndata: : 8 \r\ndata:}}\n\n", 8},
        {"data\ndata: " GOOD "\n\n", 8},
        /* the largest one counts */
        {"data: {\"usage\":{\"prompt_tokens\":5}}\n\ndata: " GOOD "\n\n", 8},
        {"data: " GOOD "\n\ndata: {\"usage\":{\"prompt_tokens\":5}}\n\n", 8},
        {"data: " GOOD "\n\ndata: {\"usage\":{\"prompt_tokens\":0}}\n\n", 8},
        {"data: " GOOD "\n\ndata: {\"usage\":null}\n\ndata: [DONE]\n\n", 8},
        /* what breaks spoils no other event */
        {"data: {\"usage\":{\"prompt_tokens\":x}}\n\ndata: " GOOD "\n\n", 8},
        {"data: {\"usage\":{\"prompt_tok\n\ndata: " GOOD "\n\n", 8},
        {"data: [[[{{{\n\ndata: " GOOD "\n\ndata: ]]]\n\n", 8},
        {"data: [DONE]\n\ndata: " GOOD "\n\n", 8},
        {"data: hello\ndata: " GOOD "\n\ndata: {\"x\":\n\n", -1},
        {"data: {\"usage\":\ndata\n\ndata: {\"prompt_tokens\":8}}\n\n", -1}, /* two events */
        {"data: {\"usage\":{\"prompt_\ndata: tokens\":8}}\n\n", -1},         /* a line feed in a string */
        {"data: {\"usage\":{\"prompt_tokens\":8\ndata: 9}}\n\n", 8},         /* breaks behind the 8 */
        /* no data */
        {GOOD "\n\n", -1},
        {"dat: " GOOD "\n\n", -1},
        {"datax: " GOOD "\n\n", -1},
        {"data : " GOOD "\n\n", -1},
        {"Data: " GOOD "\n\n", -1},
        {" data: " GOOD "\n\n", -1},
        {":data: " GOOD "\n\n", -1},
        {": \ndata x: " GOOD "\n\n", -1},
        {"event: data: " GOOD "\n\n", -1},
        {"\xef\xbb"
         "data: " GOOD "\n\n",
         -1},
        {"\n\xef\xbb\xbf"
         "data: " GOOD "\n\n",
         -1},
        {"\xef\xbb\xbf\xef\xbb\xbf"
         "data: " GOOD "\n\n",
         -1},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        for (unsigned ends = 0; ends < 3; ++ends) {
            static const char *const line_ends[] = {"\n", "\r\n", "\r"};
            if (ends != 0 && strchr(table[i].answer, '\r') != NULL)
                continue;
            char *answer = with_line_ends(table[i].answer, line_ends[ends]);
            told_t told = scan(ANTHROPIC, EVENTS, answer);
            if (told.counts.input != table[i].input)
                fail_msg("%s: %lld", answer, (long long)told.counts.input);
            free(answer);
        }
#undef GOOD
}

/* Each count by itself: a chunk that says 0 of all takes nothing back. */
static void test_counts_are_cumulative(void **state)
{
    static const char anthropic[] =
        "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":70,\"cache_read_input_tokens\":30,"
        "\"cache_creation_input_tokens\":5,\"output_tokens\":1}}}\n\n"
        "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5000}}\n\n"
        "data: {\"type\":\"message_delta\",\"usage\":{\"input_tokens\":0,\"cache_read_input_tokens\":0,"
        "\"cache_creation_input_tokens\":9,\"output_tokens\":0}}\n\n";
    static const char openai[] = "data: {\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":5000,"
                                 "\"prompt_tokens_details\":{\"cached_tokens\":30}}}\n\n"
                                 "data: {\"usage\":{\"prompt_tokens\":0,\"completion_tokens\":0,"
                                 "\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\n";
    assert_same(scan(ANTHROPIC, EVENTS, anthropic), (told_t){true, {70, 30, 9, 5000}, 0});
    assert_same(scan(OPENAI, EVENTS, openai), (told_t){true, {70, 30, -1, 5000}, 0});
}

/* Wherever a stream ends, what the caller saw of its text counts, as if the string had ended there; and no byte takes
 * something back. */
static void test_text_of_streams_that_end_early(void **state)
{
    static const struct {
        unsigned form;
        const char *answer;
        uint64_t text_bytes;
    } table[] = {{OPENAI, openai_events, 5}, {OPENAI, responses_events, 5}, {ANTHROPIC, anthropic_events, 5 + 4}};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        uint64_t before = 0;
        for (size_t len = 1; len <= strlen(table[i].answer); ++len) {
            told_t told = scan_cut(table[i].form, EVENTS, table[i].answer, len, len / 2);
            assert_true(told.text_bytes == before || told.text_bytes == before + 1);
            before = told.text_bytes;
        }
        assert_int_equal(before, table[i].text_bytes);
    }
}

/* It counts as far as it came. */
static void test_events_that_end_in_a_string(void **state)
{
    static const struct {
        const char *answer;
        uint64_t text_bytes;
    } table[] = {
        {"data: {\"text\":\"abc", 3},
        {"data: {\"text\":\"abc\n", 3},
        {"data: {\"text\":\"abc\n\n", 3},
        {"data: {\"text\":\"abc\n\ndata: {\"text\":\"de", 5},
        {"data: {\"text\":\"abc\ndata: de\"}\n\n", 3}, /* a line feed in a string */
        {"data: {\"id\":\"abc\n\ndata: {\"delta\":\"de\"}\n\n", 2},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        assert_same(scan(OPENAI, EVENTS, table[i].answer), (told_t){false, {-1, -1, -1, -1}, table[i].text_bytes});
}

static void test_too_deep(void **state)
{
    char answer[2000] = "data: {\"usage\":{\"output_tokens\":7},\"a\":";
    size_t len = strlen(answer);
    for (unsigned i = 0; i < WEIR_JSON_DEPTH_MAX + 10; ++i)
        answer[len++] = '[';
    strcpy(answer + len, "\n\ndata: {\"usage\":{\"input_tokens\":8}}\n\n");
    assert_same(scan(ANTHROPIC, EVENTS, answer), (told_t){true, {8, -1, -1, 7}, 0});
}

static void test_nothing(void **state)
{
    weir_usage_scan_t usage;
    for (unsigned framing = JSON; framing <= EVENTS; ++framing) {
        start(&usage, OPENAI, framing);
        weir_usage_scan_feed(&usage, NULL, 0);
        assert_same(tell(&usage), (told_t){false, {-1, -1, -1, -1}, 0});
    }
}

/* Only the form decides what the input is. */
static void test_forms(void **state)
{
    static const char answer[] = "{\"usage\":{\"input_tokens\":50,\"cache_read_input_tokens\":20,"
                                 "\"cache_creation_input_tokens\":10,\"output_tokens\":1}}";
    assert_same(scan(ANTHROPIC, JSON, answer), (told_t){true, {50, 20, 10, 1}, 0});
    assert_same(scan(OPENAI, JSON, answer), (told_t){true, {30, 20, 10, 1}, 0});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_streams_that_end_early),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_too_deep),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_counts_are_cumulative),
        cmocka_unit_test(test_text_of_streams_that_end_early),
        cmocka_unit_test(test_events_that_end_in_a_string),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
