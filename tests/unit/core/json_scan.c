/* JSON as tokens: what they are, where they stand, and that cuts do not matter; what is JSON and what a string says is
 * compared with yajl's reading of it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <yajl/yajl_parse.h>
#include "../seeded.h"
#include "../../../filters/core/json_scan.h"

/* What was told, written down. */
typedef struct {
    char *text;
    size_t len, capacity;
    bool is_short; /* without offsets and depths, which yajl does not tell */
} trace_t;

static void trace_bytes(trace_t *trace, const char *bytes, size_t len)
{
    if (trace->capacity - trace->len <= len) {
        trace->capacity = (trace->len + len + 64) * 2;
        trace->text = realloc(trace->text, trace->capacity);
    }
    memcpy(trace->text + trace->len, bytes, len);
    trace->len += len;
    trace->text[trace->len] = '\0';
}

static void trace_token(trace_t *trace, char kind, const char *text, size_t len)
{
    trace_bytes(trace, &kind, 1);
    trace_bytes(trace, text, len);
    trace_bytes(trace, " ", 1);
}

static const char kinds[] = "{}[]:s#tfn";

static void on_token(void *context, const weir_json_token_t *token)
{
    char places[128];
    trace_t *trace = context;
    trace_token(trace, kinds[token->kind], token->text != NULL ? token->text : "", token->len);
    if (token->text != NULL)
        assert_int_equal(token->text[token->len], '\0');
    if (!trace->is_short)
        trace_bytes(trace, places,
                    (size_t)snprintf(places, sizeof(places), "%u@%llu-%llu/%llu%s ", token->depth,
                                     (unsigned long long)token->at, (unsigned long long)token->end,
                                     (unsigned long long)token->text_bytes, token->is_long ? "+" : ""));
}

/* In memory of just its length, so that a read beyond it is seen. */
static weir_json_result_t feed_copy(weir_json_scan_t *scan, const char *bytes, size_t len)
{
    char *copy = malloc(len + (len == 0));
    memcpy(copy, bytes, len);
    weir_json_result_t result = weir_json_scan_feed(scan, copy, len);
    free(copy);
    return result;
}

typedef struct {
    weir_json_result_t result;
    uint64_t offset;
    trace_t trace;
} reading_t;

static void read_end(reading_t *reading, weir_json_scan_t *scan)
{
    reading->result = weir_json_scan_end(scan);
    reading->offset = scan->offset;
    assert_int_equal(weir_json_scan_end(scan), reading->result);
    trace_bytes(&reading->trace, "", 0);
}

/* In two pieces; at = len: in one. */
static reading_t read_cut(const char *json, size_t len, size_t at, bool is_short)
{
    reading_t reading = {.trace.is_short = is_short};
    weir_json_scan_t scan;
    memset(&scan, 0xa5, sizeof(scan));
    weir_json_scan_init(&scan, on_token, &reading.trace);
    feed_copy(&scan, json, at);
    feed_copy(&scan, json + at, len - at);
    read_end(&reading, &scan);
    return reading;
}

/* Pieces of 1 to `most` bytes. */
static reading_t read_pieces(const char *json, size_t len, size_t most, seeded_t *seeded)
{
    reading_t reading = {0};
    weir_json_scan_t scan;
    weir_json_scan_init(&scan, on_token, &reading.trace);
    for (size_t at = 0; at < len;) {
        size_t piece = 1 + (size_t)seeded_below(seeded, most);
        piece = piece < len - at ? piece : len - at;
        feed_copy(&scan, json + at, piece);
        at += piece;
    }
    read_end(&reading, &scan);
    return reading;
}

static void assert_same(reading_t *a, reading_t b)
{
    assert_int_equal(a->result, b.result);
    assert_int_equal(a->offset, b.offset);
    assert_int_equal(a->trace.len, b.trace.len);
    assert_memory_equal(a->trace.text, b.trace.text, b.trace.len);
    free(b.trace.text);
}

static void try_cuts(const char *json, size_t len, seeded_t *seeded)
{
    reading_t whole = read_cut(json, len, len, false);
    for (size_t at = 0; at < len; at += 1 + len / 1024)
        assert_same(&whole, read_cut(json, len, at, false));
    assert_same(&whole, read_pieces(json, len, 1, seeded));
    for (unsigned i = 0; i < 20; ++i)
        assert_same(&whole, read_pieces(json, len, 1 + (size_t)seeded_below(seeded, 40), seeded));
    free(whole.trace.text);
}

static void test_tokens(void **state)
{
    static const struct {
        const char *json, *trace;
    } table[] = {
        {"{}", "{ 0@0-1/0 } 0@1-2/0 "},
        {" [ ] ", "[ 0@1-2/0 ] 0@3-4/0 "},
        {"\"a\"", "sa 0@0-3/1 "},
        {"{\"a\":1}", "{ 0@0-1/0 :a 1@1-4/1 #1 1@5-6/0 } 0@6-7/0 "},
        {"\t{ \"a\" : [ true , false,null\r\n] }",
         "{ 0@1-2/0 :a 1@3-6/1 [ 1@9-10/0 t 2@11-15/0 f 2@18-23/0 n 2@24-28/0 ] 1@30-31/0 } 0@32-33/0 "},
        {"[-0,1e5,-1.25E+10,0.0e-0]",
         "[ 0@0-1/0 #-0 1@1-3/0 #1e5 1@4-7/0 #-1.25E+10 1@8-17/0 #0.0e-0 1@18-24/0 ] 0@24-25/0 "},
        {"12", "#12 0@0-2/0 "},
        {"0 ", "#0 0@0-1/0 "},
        {"[[[]]]", "[ 0@0-1/0 [ 1@1-2/0 [ 2@2-3/0 ] 2@3-4/0 ] 1@4-5/0 ] 0@5-6/0 "},
        {"\"\\u006dodel\"", "smodel 0@0-12/10 "},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "s\"\\/\b\f\n\r\t 0@0-18/16 "},
        {"\"\\u00e9\\u20AC\\uD83D\\ude00\"", "s\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80 0@0-26/24 "},
        {"\"\\u007f\\u0080\\u07ff\\u0800\\uffff\"", "s\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf 0@0-32/30 "},
        {"\"\\udbff\\udfff\"", "s\xf4\x8f\xbf\xbf 0@0-14/12 "},
        /* halves of pairs */
        {"\"\\ud800\"", "s\xef\xbf\xbd 0@0-8/6 "},
        {"\"\\ud800x\"", "s\xef\xbf\xbdx 0@0-9/7 "},
        {"\"\\ud800\\n\"", "s\xef\xbf\xbd\n 0@0-10/8 "},
        {"\"\\ud800\\u0041\"", "s\xef\xbf\xbd\x41 0@0-14/12 "},
        {"\"\\ud800\\ud800\\udc00\"", "s\xef\xbf\xbd\xf0\x90\x80\x80 0@0-20/18 "},
        {"\"\\udc00\\ud800\"", "s\xef\xbf\xbd\xef\xbf\xbd 0@0-14/12 "},
        /* not UTF-8 */
        {"\"\xff\xc0\"", "s\xff\xc0 0@0-4/2 "},
    };
    seeded_t seeded = seeded_start("tokens");
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        reading_t reading = read_cut(table[i].json, strlen(table[i].json), 0, false);
        assert_int_equal(reading.result, WEIR_JSON_DONE);
        assert_string_equal(reading.trace.text, table[i].trace);
        free(reading.trace.text);
        try_cuts(table[i].json, strlen(table[i].json), &seeded);
    }
}

static void test_a_nul_is_text(void **state)
{
    reading_t reading = read_cut("\"a\\u0000b\"", 10, 3, true);
    assert_int_equal(reading.trace.len, 5);
    assert_memory_equal(reading.trace.text, "sa\0b ", 5);
    free(reading.trace.text);
}

static void test_what_is_not_json(void **state)
{
    static const struct {
        const char *json;
        uint64_t offset; /* of the byte that is not JSON, or of the end */
    } table[] = {
        {"", 0},
        {"  ", 2},
        {"\xef\xbb\xbf{}", 0},
        {"{", 1},
        {"}", 0},
        {"]", 0},
        {",", 0},
        {":", 0},
        {"{]", 1},
        {"[}", 1},
        {"{,}", 1},
        {"[,]", 1},
        {"[1,]", 3},
        {"{\"a\":1,}", 7},
        {"{\"a\"}", 4},
        {"{\"a\" 1}", 5},
        {"{\"a\":}", 5},
        {"{\"a\":1:", 6},
        {"{\"a\":1 \"b\":2}", 7},
        {"{a:1}", 1},
        {"{'a':1}", 1},
        {"{1:1}", 1},
        {"{null:1}", 1},
        {"[1 2]", 3},
        {"[1}", 2},
        {"{\"a\":[1}", 7},
        {"[\"a\":1]", 4},
        {"tru", 3},
        {"trux", 3},
        {"True", 0},
        {"nul\0", 3},
        {"[nulll]", 5},
        {"NaN", 0},
        {"[Infinity]", 1},
        {"[-Infinity]", 2},
        {"// a\n{}", 0},
        {"[1,/**/2]", 3},
        /* numbers */
        {"01", 1},
        {"[-01]", 3},
        {"[00]", 2},
        {"[1.]", 3},
        {"1.", 2},
        {"[.5]", 1},
        {"[+1]", 1},
        {"-", 1},
        {"[-]", 2},
        {"[--1]", 2},
        {"[1e]", 3},
        {"1e", 2},
        {"[1e+]", 4},
        {"1e-", 3},
        {"[1e1.5]", 4},
        {"[1.5.5]", 4},
        {"[1e1e1]", 4},
        {"[1-1]", 2},
        {"[0x1]", 2},
        {"[1_000]", 2},
        {"[- 1]", 2},
        /* strings */
        {"\"", 1},
        {"\"a", 2},
        {"\"a\\", 3},
        {"\"\\u12", 5},
        {"\"\\x41\"", 2},
        {"\"\\U0041\"", 2},
        {"\"\\'\"", 2},
        {"\"\\u12g4\"", 5},
        {"\"\\u 123\"", 3},
        {"\"\\ud800\\udc0\"", 12},
        {"\"a\nb\"", 2},
        {"\"0123456789\t\"", 11},
        {"{\"a\n\":1}", 3},
    };
    seeded_t seeded = seeded_start("what is not json");
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        size_t len = strlen(table[i].json);
        reading_t reading = read_cut(table[i].json, len, 0, false);
        if (reading.result != WEIR_JSON_MALFORMED || reading.offset != table[i].offset)
            fail_msg("%s: result %d at %d", table[i].json, (int)reading.result, (int)reading.offset);
        free(reading.trace.text);
        try_cuts(table[i].json, len, &seeded);
    }
}

/* What stands behind the outermost value is the caller's. */
static void test_the_end_of_the_value(void **state)
{
    static const struct {
        const char *json;
        uint64_t offset;
    } table[] = {{"{} ", 2},   {"{}x", 2}, {"[[]]]", 4}, {"\"a\"\"", 3},
                 {"null1", 4}, {"12 ", 2}, {"12,", 2},   {"1.5.", 3}};
    seeded_t seeded = seeded_start("the end of the value");
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        reading_t reading = read_cut(table[i].json, strlen(table[i].json), 1, false);
        assert_int_equal(reading.result, WEIR_JSON_DONE);
        assert_int_equal(reading.offset, table[i].offset);
        free(reading.trace.text);
        try_cuts(table[i].json, strlen(table[i].json), &seeded);
    }
    assert_true(weir_json_is_space(" \t\r\n", 4) && weir_json_is_space("", 0));
    assert_false(weir_json_is_space("\v", 1) || weir_json_is_space("  \f", 3) || weir_json_is_space("\0", 1));
}

static void test_results_on_the_way(void **state)
{
    trace_t trace = {0};
    weir_json_scan_t scan;
    weir_json_scan_init(&scan, on_token, &trace);
    assert_int_equal(weir_json_scan_feed(&scan, NULL, 0), WEIR_JSON_MORE);
    assert_int_equal(weir_json_scan_feed(&scan, "[1", 2), WEIR_JSON_MORE);
    assert_int_equal(scan.offset, 2);
    assert_int_equal(weir_json_scan_feed(&scan, "] [", 3), WEIR_JSON_DONE);
    assert_int_equal(weir_json_scan_feed(&scan, "]", 1), WEIR_JSON_DONE);
    assert_int_equal(weir_json_scan_end(&scan), WEIR_JSON_DONE);
    assert_int_equal(scan.offset, 3);
    weir_json_scan_init(&scan, on_token, &trace);
    assert_int_equal(weir_json_scan_feed(&scan, "[1x", 3), WEIR_JSON_MALFORMED);
    assert_int_equal(weir_json_scan_feed(&scan, "]", 1), WEIR_JSON_MALFORMED);
    assert_int_equal(weir_json_scan_end(&scan), WEIR_JSON_MALFORMED);
    assert_int_equal(scan.offset, 2);
    free(trace.text);
}

static void ignore(void *context, const weir_json_token_t *token)
{
}

static void test_a_string_that_has_not_ended(void **state)
{
    static const struct {
        const char *text;
        uint64_t open_bytes;
    } table[] = {
        {"", 0},
        {" \"", 0},
        {" \"ab", 2},
        {"\"ab\\", 3},
        {"\"ab\\u00", 6},
        {"\"ab\\ud83d\\u", 10},
        {"\"ab\"", 0},
        {"{\"ab", 0},
        {"{\"ab\":", 0},
        {"{\"ab\":\"c", 1},
        {"{\"ab\":\"c\",\"d", 0},
        {"[\"a\",\"bcd", 3},
        {"[\"a\",12", 0},
        {"[\"a\",tru", 0},
        /* malformed: up to there */
        {"[\"abc\ndef", 3},
        {"[\"abc\\xdef", 4},
        {"{\"abc\n", 0},
        {"[\"abc\" x", 0},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        for (size_t len = strlen(table[i].text), at = 0; at <= len; ++at) {
            weir_json_scan_t scan;
            memset(&scan, 0xa5, sizeof(scan));
            weir_json_scan_init(&scan, ignore, NULL);
            feed_copy(&scan, table[i].text, at);
            feed_copy(&scan, table[i].text + at, len - at);
            if (weir_json_scan_open_bytes(&scan) != table[i].open_bytes)
                fail_msg("%s cut at %zu: %llu", table[i].text, at,
                         (unsigned long long)weir_json_scan_open_bytes(&scan));
        }
}

static void test_depth(void **state)
{
    enum { MOST = WEIR_JSON_DEPTH_MAX };
    char *json = malloc(8 * MOST);
    for (size_t depth = MOST - 1; depth <= MOST + 1; ++depth)
        for (unsigned is_object = 0; is_object < 2; ++is_object) {
            size_t len = 0;
            for (size_t i = 0; i < depth; ++i)
                len += (size_t)sprintf(json + len, "%s", is_object && i != depth - 1 ? "{\"\":" : "[");
            for (size_t i = depth; i > 0; --i)
                json[len++] = is_object && i != depth ? '}' : ']';
            reading_t reading = read_cut(json, len, len / 2, true);
            assert_int_equal(reading.result, depth <= MOST ? WEIR_JSON_DONE : WEIR_JSON_MALFORMED);
            assert_int_equal(reading.offset, depth <= MOST ? len : MOST * (is_object ? 4 : 1));
            free(reading.trace.text);
        }
    free(json);
}

typedef struct {
    weir_json_token_t last;
    char text[WEIR_JSON_TEXT_MAX];
} keeper_t;

static void keep_token(void *context, const weir_json_token_t *token)
{
    keeper_t *keeper = context;
    keeper->last = *token;
    memcpy(keeper->text, token->text, token->len + 1);
}

static void test_long_text(void **state)
{
    static const size_t lens[] = {0, 1, 7, 8, 9, 254, 255, 256, 257, 1000, 100000};
    char *json = malloc(100010);
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); ++i)
        for (unsigned is_number = 0; is_number < 2; ++is_number) {
            size_t quote = !is_number, len = lens[i];
            if (is_number && len == 0)
                continue;
            keeper_t keeper;
            weir_json_scan_t scan;
            json[0] = json[len + 1] = '"';
            for (size_t at = 0; at < len; ++at)
                json[quote + at] = (char)('1' + at % 9);
            weir_json_scan_init(&scan, keep_token, &keeper);
            weir_json_scan_feed(&scan, json, len + 2 * quote);
            assert_int_equal(weir_json_scan_end(&scan), WEIR_JSON_DONE);
            size_t kept = len < WEIR_JSON_TEXT_MAX ? len : WEIR_JSON_TEXT_MAX - 1;
            assert_int_equal(keeper.last.len, kept);
            assert_int_equal(keeper.last.is_long, kept != len);
            assert_int_equal(keeper.last.text_bytes, is_number ? 0 : len);
            assert_int_equal(keeper.last.end, len + 2 * quote);
            assert_memory_equal(keeper.text, json + quote, kept);
        }
    free(json);
}

/* Each byte at each place in a string, behind which more comes. */
static void test_every_byte_in_a_string(void **state)
{
    char json[48];
    for (size_t at = 1; at < 34; ++at)
        for (unsigned byte = 0; byte < 256; ++byte) {
            memset(json, 'a', sizeof(json));
            json[0] = json[40] = '"';
            json[at] = (char)byte;
            json[at + 1] = 'n'; /* makes a backslash an escape */
            reading_t reading = read_cut(json, 41, 41, false);
            bool is_json = byte >= 0x20;
            assert_int_equal(reading.result, is_json ? WEIR_JSON_DONE : WEIR_JSON_MALFORMED);
            assert_int_equal(reading.offset, byte == '"' ? at + 1 : is_json ? 41 : at);
            assert_same(&reading, read_cut(json, 41, at, false));
            assert_same(&reading, read_cut(json, 41, 3, false));
            free(reading.trace.text);
        }
}

static void test_integers(void **state)
{
    static const int64_t max = WEIR_JSON_INTEGER_MAX;
    const struct {
        const char *text;
        int64_t value;
    } table[] = {
        {"0", 0},
        {"7", 7},
        {"4096", 4096},
        {"9007199254740991", max - 1},
        {"9007199254740992", max},
        {"9007199254740993", max},
        {"9223372036854775807", max},
        {"9223372036854775808", max},
        {"18446744073709551617", max},
        {"100000000000000000000000000000000000000000000", max},
        {"-1", -1},
        {"-0", -1},
        {"-100", -1},
        {"1.5", -1},
        {"0.1", -1},
        {"1e-1", -1},
        {"100.0", 100},
        {"100.00000", 100},
        {"100.00001", -1},
        {"1e3", 1000},
        {"1E+3", 1000},
        {"1.5e1", 15},
        {"1.25e1", -1},
        {"1.250e2", 125},
        {"120e-1", 12},
        {"120e-2", -1},
        {"0.00015e5", 15},
        {"0.00015e4", -1},
        {"0e99999999999999999999", 0},
        {"0.000e-99999999999999999999", 0},
        {"1e99999999999999999999", max},
        {"1e-99999999999999999999", -1},
        {"1e15", INT64_C(1000000000000000)},
        {"1e16", max},
        {"9.007199254740991e15", max - 1},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_json_token_t token = {.kind = WEIR_JSON_TOKEN_NUMBER, .text = table[i].text, .len = strlen(table[i].text)};
        if (weir_json_integer(&token) != table[i].value)
            fail_msg("%s: %lld", table[i].text, (long long)weir_json_integer(&token));
        token.is_long = true;
        assert_int_equal(weir_json_integer(&token), -1);
    }
}

/* yajl's reading */

static int yajl_says(void *context, char kind, const char *text, size_t len)
{
    trace_token(context, kind, text, len);
    return 1;
}

static int on_null(void *context)
{
    return yajl_says(context, 'n', "", 0);
}

static int on_boolean(void *context, int is_true)
{
    return yajl_says(context, is_true ? 't' : 'f', "", 0);
}

static int on_number(void *context, const char *text, size_t len)
{
    return yajl_says(context, '#', text, len < WEIR_JSON_TEXT_MAX ? len : WEIR_JSON_TEXT_MAX - 1);
}

static int on_string(void *context, const unsigned char *text, size_t len)
{
    return yajl_says(context, 's', (const char *)text, len < WEIR_JSON_TEXT_MAX ? len : WEIR_JSON_TEXT_MAX - 1);
}

static int on_name(void *context, const unsigned char *text, size_t len)
{
    return yajl_says(context, ':', (const char *)text, len < WEIR_JSON_TEXT_MAX ? len : WEIR_JSON_TEXT_MAX - 1);
}

static int on_begin_object(void *context)
{
    return yajl_says(context, '{', "", 0);
}

static int on_end_object(void *context)
{
    return yajl_says(context, '}', "", 0);
}

static int on_begin_array(void *context)
{
    return yajl_says(context, '[', "", 0);
}

static int on_end_array(void *context)
{
    return yajl_says(context, ']', "", 0);
}

static bool read_by_yajl(const char *json, size_t len, trace_t *trace)
{
    static const yajl_callbacks callbacks = {.yajl_null = on_null,
                                             .yajl_boolean = on_boolean,
                                             .yajl_number = on_number,
                                             .yajl_string = on_string,
                                             .yajl_start_map = on_begin_object,
                                             .yajl_map_key = on_name,
                                             .yajl_end_map = on_end_object,
                                             .yajl_start_array = on_begin_array,
                                             .yajl_end_array = on_end_array};
    yajl_handle handle = yajl_alloc(&callbacks, NULL, trace);
    yajl_config(handle, yajl_dont_validate_strings, 1);
    /* It takes an unfinished string behind the value, but for the line feed. */
    bool is_json = yajl_parse(handle, (const unsigned char *)json, len) == yajl_status_ok &&
                   yajl_parse(handle, (const unsigned char *)"\n", 1) == yajl_status_ok &&
                   yajl_complete_parse(handle) == yajl_status_ok;
    yajl_free(handle);
    trace_bytes(trace, "", 0);
    return is_json;
}

/* Random JSON */

static void write_text(trace_t *out, seeded_t *seeded)
{
    static const char *const pieces[] = {
        "a",       "model",    "\\n",  "\\\"", "\\u006d", "\\ud83d\\ude00",
        "\\u0000", "\xc3\xa9", "\\\\", "/",    "\\/",     "the quick brown fox jumps over the lazy dog",
        "{}[],:",  "\x7f"};
    trace_bytes(out, "\"", 1);
    for (uint64_t i = seeded_below(seeded, seeded_below(seeded, 20) == 0 ? 40 : 5); i > 0; --i) {
        const char *piece = pieces[seeded_below(seeded, sizeof(pieces) / sizeof(*pieces))];
        trace_bytes(out, piece, strlen(piece));
    }
    trace_bytes(out, "\"", 1);
}

static void write_space(trace_t *out, seeded_t *seeded)
{
    static const char spaces[] = " \n\r\t  ";
    trace_bytes(out, spaces, (size_t)seeded_below(seeded, seeded_below(seeded, 4) == 0 ? 6 : 1));
}

static void write_value(trace_t *out, seeded_t *seeded, unsigned depth)
{
    static const char *const scalars[] = {
        "true", "false", "null", "0", "-0", "-1.5e+7", "123456789012345678901234567890", "0.25"};
    uint64_t what = seeded_below(seeded, depth < 6 ? 6 : 3);
    bool is_object = what == 5;
    write_space(out, seeded);
    if (what < 2) {
        write_text(out, seeded);
    } else if (what == 2) {
        const char *scalar = scalars[seeded_below(seeded, sizeof(scalars) / sizeof(*scalars))];
        trace_bytes(out, scalar, strlen(scalar));
    } else {
        trace_bytes(out, is_object ? "{" : "[", 1);
        for (uint64_t count = seeded_below(seeded, 4), i = 0; i < count; ++i) {
            trace_bytes(out, ",", i != 0);
            write_space(out, seeded);
            if (is_object) {
                write_text(out, seeded);
                write_space(out, seeded);
                trace_bytes(out, ":", 1);
            }
            write_value(out, seeded, depth + 1);
        }
        write_space(out, seeded);
        trace_bytes(out, is_object ? "}" : "]", 1);
    }
    write_space(out, seeded);
}

/* One byte becomes another one, goes, or comes twice. */
static void mutate(trace_t *json, seeded_t *seeded)
{
    static const char bytes[] = "{}[]\",:\\u0123456789eE+-.tfn \n\x01\xff/ab";
    char *at = json->text + seeded_below(seeded, json->len);
    switch (seeded_below(seeded, 3)) {
    case 0:
        *at = bytes[seeded_below(seeded, sizeof(bytes) - 1)];
        break;
    case 1:
        memmove(at, at + 1, (size_t)(json->text + json->len - at));
        --json->len;
        break;
    default:
        trace_bytes(json, "", 1);
        at = json->text + seeded_below(seeded, json->len - 1);
        memmove(at + 1, at, (size_t)(json->text + json->len - 1 - at));
    }
}

static bool is_json(const char *json, size_t len, trace_t *trace)
{
    reading_t reading = read_cut(json, len, len, true);
    *trace = reading.trace;
    return reading.result == WEIR_JSON_DONE && weir_json_is_space(json + reading.offset, len - reading.offset);
}

/* yajl has another opinion of half a pair. */
static bool has_surrogate(const char *json, size_t len)
{
    for (size_t i = 0; i + 2 < len; ++i)
        if (json[i] == '\\' && json[i + 1] == 'u' && (json[i + 2] | 0x20) == 'd')
            return true;
    return false;
}

static void test_as_yajl_reads_it(void **state)
{
    seeded_t seeded = seeded_start("as yajl reads it");
    unsigned good = 0, bad = 0;
    for (unsigned round = 0; round < 60000; ++round) {
        trace_t json = {0}, trace, yajl_trace = {0};
        write_value(&json, &seeded, 0);
        bool is_mutated = round % 4 != 0;
        for (uint64_t i = is_mutated ? 1 + seeded_below(&seeded, 2) : 0; i > 0 && json.len > 1; --i)
            mutate(&json, &seeded);
        bool says_yajl = read_by_yajl(json.text, json.len, &yajl_trace);
        bool is_good = is_json(json.text, json.len, &trace);
        if (is_good != says_yajl || (!is_mutated && !is_good))
            fail_msg("%.*s: %s", (int)json.len, json.text, is_good ? "it is none" : "it is JSON");
        if (is_good && (!is_mutated || !has_surrogate(json.text, json.len))) {
            assert_int_equal(trace.len, yajl_trace.len);
            assert_memory_equal(trace.text, yajl_trace.text, trace.len);
        }
        if (round % 40 < 2)
            try_cuts(json.text, json.len, &seeded);
        good += is_good;
        bad += !is_good;
        free(json.text);
        free(trace.text);
        free(yajl_trace.text);
    }
    assert_true(good > 15000 && bad > 15000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_a_nul_is_text),
        cmocka_unit_test(test_what_is_not_json),
        cmocka_unit_test(test_the_end_of_the_value),
        cmocka_unit_test(test_results_on_the_way),
        cmocka_unit_test(test_a_string_that_has_not_ended),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_every_byte_in_a_string),
        cmocka_unit_test(test_integers),
        cmocka_unit_test(test_as_yajl_reads_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
