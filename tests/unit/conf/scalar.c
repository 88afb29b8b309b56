/* Every notation of a single value: what it means, what is refused, and that what is written reads the same. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include "../../../conf/scalar.h"
#include "../../../conf/yaml.h"

#define MS INT64_C(1000000)
#define S (1000 * MS)
#define H (3600 * S)
#define LETTERS_50 "abcdefghijabcdefghijabcdefghijabcdefghijabcdefghij"

#define COUNT_OF(rows) (sizeof(rows) / sizeof(*(rows)))

static void check_verdict(const char *text, const char *right, bool is_right)
{
    if ((right == NULL) == is_right)
        return;
    fail_msg("'%s' is %s: %s", text, is_right ? "refused" : "taken", right != NULL ? right : "");
}

static void test_count(void **state)
{
    static const struct {
        const char *text;
        int64_t value; /* -1: refused */
    } rows[] = {{"0", 0},
                {"1", 1},
                {"10000", 10000},
                {"9223372036854775807", INT64_MAX},
                {"9223372036854775808", -1},
                {"", -1},
                {"-1", -1},
                {"+1", -1},
                {"01", -1},
                {"1 ", -1},
                {" 1", -1},
                {"1.0", -1},
                {"1e3", -1},
                {"0x1", -1},
                {"1_000", -1},
                {"99999999999999999999", -1}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        int64_t value = -1;
        const char *right = weir_conf_parse_count(row->text, &value);
        check_verdict(row->text, right, row->value >= 0);
        if (right == NULL)
            assert_int_equal(value, row->value);
    }
}

static void test_duration(void **state)
{
    static const struct {
        const char *text;
        int64_t value_ns;    /* -1: refused */
        const char *written; /* NULL: as it was */
    } rows[] = {{"0s", 0, NULL},
                {"0ms", 0, "0s"},
                {"0h", 0, "0s"},
                {"250ms", 250 * MS, NULL},
                {"1000ms", S, "1s"},
                {"30s", 30 * S, NULL},
                {"60s", 60 * S, "1m"},
                {"90s", 90 * S, NULL},
                {"10m", 600 * S, NULL},
                {"120m", 2 * H, "2h"},
                {"24h", 24 * H, NULL},
                {"876000h", 876000 * H, NULL},
                {"876001h", -1, NULL},
                {"3155760000s", -1, NULL},
                {"9223372036854775807ms", -1, NULL},
                {"9223372036854775807h", -1, NULL},
                {"18446744073709551616s", -1, NULL},
                {"10", -1, NULL},
                {"", -1, NULL},
                {"s", -1, NULL},
                {"ms30", -1, NULL},
                {"5 s", -1, NULL},
                {"5sec", -1, NULL},
                {"-5s", -1, NULL},
                {"1.5s", -1, NULL},
                {"1m30s", -1, NULL},
                {"05s", -1, NULL},
                {"5S", -1, NULL},
                {"7d", -1, NULL},
                {"5us", -1, NULL}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        int64_t value_ns = -1;
        char written[WEIR_CONF_SCALAR_BYTES_MAX];
        const char *right = weir_conf_parse_duration(row->text, &value_ns);
        check_verdict(row->text, right, row->value_ns >= 0);
        if (right != NULL)
            continue;
        assert_int_equal(value_ns, row->value_ns);
        weir_conf_format_duration(value_ns, written);
        assert_string_equal(written, row->written != NULL ? row->written : row->text);
    }
}

static void test_size(void **state)
{
    static const struct {
        const char *text;
        int64_t value_bytes; /* -1: refused */
        const char *written;
    } rows[] = {{"0", 0, NULL},
                {"512", 512, NULL},
                {"64KiB", 65536, NULL},
                {"65536", 65536, "64KiB"},
                {"1536KiB", 1572864, NULL},
                {"16MiB", 16 << 20, NULL},
                {"1024MiB", 1 << 30, "1GiB"},
                {"1GiB", 1 << 30, NULL},
                {"0KiB", 0, "0"},
                {"8589934591GiB", INT64_C(8589934591) << 30, NULL},
                {"8589934592GiB", -1, NULL},
                {"16MB", -1, NULL},
                {"16M", -1, NULL},
                {"16 MiB", -1, NULL},
                {"16mib", -1, NULL},
                {"16B", -1, NULL},
                {"1.5MiB", -1, NULL},
                {"-1", -1, NULL},
                {"", -1, NULL},
                {"KiB", -1, NULL}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        uint64_t value_bytes = 0;
        char written[WEIR_CONF_SCALAR_BYTES_MAX];
        const char *right = weir_conf_parse_size(row->text, &value_bytes);
        check_verdict(row->text, right, row->value_bytes >= 0);
        if (right != NULL)
            continue;
        assert_int_equal(value_bytes, row->value_bytes);
        weir_conf_format_size(value_bytes, written);
        assert_string_equal(written, row->written != NULL ? row->written : row->text);
    }
}

static void test_rate(void **state)
{
    static const struct {
        const char *text;
        int64_t count, period_ns; /* -1: refused */
    } rows[] = {{"50/s", 50, S},      {"600/m", 600, 60 * S}, {"10000/h", 10000, H}, {"1000000/d", 1000000, 24 * H},
                {"0/s", 0, S},        {"50", -1, 0},          {"/s", -1, 0},         {"50/", -1, 0},
                {"50/parsec", -1, 0}, {"50 / s", -1, 0},      {"50/s/s", -1, 0},     {"-5/s", -1, 0},
                {"5.5/s", -1, 0},     {"50/S", -1, 0},        {"50/10s", -1, 0},     {"99999999999999999999/s", -1, 0}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        weir_conf_rate_t rate = {0};
        char written[WEIR_CONF_SCALAR_BYTES_MAX];
        const char *right = weir_conf_parse_rate(row->text, &rate);
        check_verdict(row->text, right, row->count >= 0);
        if (right != NULL)
            continue;
        assert_int_equal(rate.count, row->count);
        assert_int_equal(rate.period_ns, row->period_ns);
        weir_conf_format_rate(rate, written);
        assert_string_equal(written, row->text);
    }
}

typedef struct {
    const char *text;
    int64_t value;       /* -1: refused */
    const char *written; /* NULL: as it was */
} decimal_row_t;

static void check_decimals(const decimal_row_t *rows, size_t count, const char *(*parse)(const char *, int64_t *),
                           void (*format)(int64_t, char *))
{
    for (const decimal_row_t *row = rows; row < rows + count; ++row) {
        int64_t value = -1;
        char written[WEIR_CONF_SCALAR_BYTES_MAX];
        const char *right = parse(row->text, &value);
        check_verdict(row->text, right, row->value >= 0);
        if (right != NULL)
            continue;
        assert_int_equal(value, row->value);
        format(value, written);
        assert_string_equal(written, row->written != NULL ? row->written : row->text);
    }
}

static void test_weight(void **state)
{
    static const decimal_row_t rows[] = {
        {"0", 0, NULL},
        {"1", 1000000, NULL},
        {"10", 10000000, NULL},
        {"1000", 1000000000, NULL},
        {"0.1", 100000, NULL},
        {"1.25", 1250000, NULL},
        {"0.000001", 1, NULL},
        {"3.999999", 3999999, NULL},
        {"1.0", 1000000, "1"},
        {"0.50", 500000, "0.5"},
        {"9223372036854.775807", INT64_MAX, NULL},
        {"9223372036854.775808", -1, NULL},
        {"9223372036854775807", -1, NULL},
        {"99999999999999999999", -1, NULL},
        {"0.0000001", -1, NULL},
        {"1.0000000", -1, NULL},
        {"", -1, NULL},
        {".", -1, NULL},
        {".5", -1, NULL},
        {"1.", -1, NULL},
        {"01", -1, NULL},
        {"00.5", -1, NULL},
        {"-1", -1, NULL},
        {"+1", -1, NULL},
        {"1,5", -1, NULL},
        {"1e3", -1, NULL},
        {"1.5e3", -1, NULL},
        {"0x1", -1, NULL},
        {"1.5.5", -1, NULL},
        {"1%", -1, NULL},
        {" 1", -1, NULL},
        {"1 ", -1, NULL},
        {"inf", -1, NULL},
        {".inf", -1, NULL},
    };
    check_decimals(rows, COUNT_OF(rows), weir_conf_parse_weight, weir_conf_format_weight);
}

static void test_probability(void **state)
{
    static const struct {
        const char *text;
        double value;        /* -1: refused */
        const char *written; /* NULL: as it was */
    } rows[] = {{"1e-6", 1e-6, NULL},
                {"1E-6", 1e-6, "1e-6"},
                {"1e-06", 1e-6, "1e-6"},
                {"1.0e-6", 1e-6, "1e-6"},
                {"0.000001", 1e-6, "1e-6"},
                {"1.25e-7", 1.25e-7, NULL},
                {"9.87654321e-9", 9.87654321e-9, NULL},
                {"1e-12", 1e-12, NULL},
                {"0.001", 0.001, NULL},
                {"0.0001", 0.0001, NULL},
                {"0.10", 0.1, "0.1"},
                {"0.30000000000000004", 0.30000000000000004, NULL},
                {"0.3333333333333333", 0.3333333333333333, NULL},
                {"0", 0, NULL},
                {"1", 1, NULL},
                {"0.0", 0, "0"},
                {"1e-999", 0, "0"},
                {"2.5", 2.5, NULL},
                {"", -1, NULL},
                {"e-6", -1, NULL},
                {"0e-6", -1, NULL},
                {"10e-7", -1, NULL},
                {"0.1e-5", -1, NULL},
                {"1e6", -1, NULL},
                {"1e+6", -1, NULL},
                {"1e-", -1, NULL},
                {"1e", -1, NULL},
                {"1.e-6", -1, NULL},
                {".1", -1, NULL},
                {"1.", -1, NULL},
                {"01", -1, NULL},
                {"00.1", -1, NULL},
                {"-0.1", -1, NULL},
                {"+0.1", -1, NULL},
                {"0,1", -1, NULL},
                {"1%", -1, NULL},
                {"0x1p-3", -1, NULL},
                {"nan", -1, NULL},
                {"inf", -1, NULL},
                {" 0.1", -1, NULL},
                {"0.1 ", -1, NULL},
                {"0.1f", -1, NULL},
                {"0.00000000000000000000000000000000000000001", -1, NULL}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        double value = -1;
        char text[WEIR_CONF_SCALAR_BYTES_MAX];
        const char *right = weir_conf_parse_probability(row->text, &value);
        check_verdict(row->text, right, row->value >= 0);
        if (right != NULL)
            continue;
        assert_true(value == row->value);
        weir_conf_format_probability(value, text);
        assert_string_equal(text, row->written != NULL ? row->written : row->text);
    }
}

static void test_json_pointers(void **state)
{
    static const struct {
        const char *text;
        bool is_right;
    } rows[] = {{"/job_id", true},  {"/a/0/b", true},    {"/", true},       {"//", true},
                {"/a~0b~1c", true}, {"/\xc3\xa9", true}, {"/a b", true},    {"", false},
                {"a", false},       {"a/b", false},      {"#/a", false},    {"/a~", false},
                {"/~2", false},     {"/~~0", false},     {"/a\x01", false}, {"/a\x7f", false}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row)
        check_verdict(row->text, weir_conf_parse_json_pointer(row->text), row->is_right);
    char text[258] = "/";
    memset(text + 1, 'a', 254);
    assert_null(weir_conf_parse_json_pointer(text));
    text[255] = 'a';
    assert_non_null(weir_conf_parse_json_pointer(text));
}

static void test_headers_of_a_dedup(void **state)
{
    static const struct {
        const char *text;
        bool of_key, of_bypass;
    } rows[] = {{"Idempotency-Key", true, true},
                {"X-Replay", true, true},
                {"Content-Digest", true, false},
                {"ce-id", true, true},
                {"Accept", true, false},
                {"Content-Type", false, false},
                {"Content-Length", false, false},
                {"Host", false, false},
                {"Cookie", false, false},
                {"AUTHORIZATION", false, false},
                {"x-api-key", false, false},
                {"Transfer-Encoding", false, false},
                {"traceparent", false, false},
                {"X Y", false, false},
                {"", false, false}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        check_verdict(row->text, weir_conf_parse_dedup_header(row->text), row->of_key);
        check_verdict(row->text, weir_conf_parse_bypass_header(row->text), row->of_bypass);
    }
}

static void test_percent(void **state)
{
    static const decimal_row_t rows[] = {
        {"0%", 0, NULL},
        {"1%", 10000, NULL},
        {"25%", 250000, NULL},
        {"100%", 1000000, NULL},
        {"12.5%", 125000, NULL},
        {"0.0001%", 1, NULL},
        {"25.0%", 250000, "25%"},
        {"33.3333%", 333333, NULL},
        {"33.33333%", -1, NULL},
        {"922337203685477.5807%", INT64_MAX, NULL},
        {"922337203685477.5808%", -1, NULL},
        {"99999999999999999999%", -1, NULL},
        {"", -1, NULL},
        {"%", -1, NULL},
        {"25", -1, NULL},
        {"0.25", -1, NULL},
        {"25 %", -1, NULL},
        {"25%%", -1, NULL},
        {"%25", -1, NULL},
        {"-25%", -1, NULL},
        {"025%", -1, NULL},
        {".5%", -1, NULL},
        {"1.%", -1, NULL},
        {"1e1%", -1, NULL},
        {"25percent", -1, NULL},
    };
    check_decimals(rows, COUNT_OF(rows), weir_conf_parse_percent, weir_conf_format_percent);
}

static void test_cidr(void **state)
{
    static const struct {
        const char *text, *written; /* NULL: refused */
    } rows[] = {{"127.0.0.0/8", "127.0.0.0/8"},
                {"10.1.2.3", "10.1.2.3/32"},
                {"10.1.2.3/32", "10.1.2.3/32"},
                {"0.0.0.0/0", "0.0.0.0/0"},
                {"::1/128", "::1/128"},
                {"::1", "::1/128"},
                {"fd00::/8", "fd00::/8"},
                {"FD00:0::/8", "fd00::/8"},
                {"::/0", "::/0"},
                {"10.0.0.1/8", NULL},
                {"fd00::1/64", NULL},
                {"10.0.0.0/33", NULL},
                {"::/129", NULL},
                {"10.0.0.0/-1", NULL},
                {"10.0.0.0/", NULL},
                {"10.0.0.0/08", NULL},
                {"10.0.0/8", NULL},
                {"banana", NULL},
                {"", NULL},
                {"/8", NULL},
                {"10.0.0.0/8/8", NULL},
                {"[::1]/128", NULL},
                {LETTERS_50 "/8", NULL}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        weir_conf_cidr_t cidr;
        char written[WEIR_CONF_SCALAR_BYTES_MAX];
        const char *right = weir_conf_parse_cidr(row->text, &cidr);
        check_verdict(row->text, right, row->written != NULL);
        if (right != NULL)
            continue;
        weir_conf_format_cidr(&cidr, written);
        assert_string_equal(written, row->written);
    }
}

static void check_text(const char *text, const char *wanted)
{
    if (wanted == NULL)
        assert_null(text);
    else
        assert_string_equal(text, wanted);
}

#define PATH_107 "/" LETTERS_50 LETTERS_50 "abcdef"

static void test_address(void **state)
{
    static const struct {
        const char *text;
        bool is_right;
        const char *host;
        uint16_t port;
        const char *path;
    } rows[] = {{"127.0.0.1:8080", true, "127.0.0.1", 8080, NULL},
                {"0.0.0.0:1", true, "0.0.0.0", 1, NULL},
                {"*:65535", true, NULL, 65535, NULL},
                {"localhost:80", true, "127.0.0.1", 80, NULL},
                {"[::1]:8080", true, "::1", 8080, NULL},
                {"[::]:8080", true, "::", 8080, NULL},
                {"unix:///run/weir.sock", true, NULL, 0, "/run/weir.sock"},
                {"unix://" PATH_107, true, NULL, 0, PATH_107},
                {"unix://" PATH_107 "x", false, NULL, 0, NULL},
                {"unix://", false, NULL, 0, NULL},
                {"unix:///", false, NULL, 0, NULL},
                {"unix:///run/", false, NULL, 0, NULL},
                {"unix://run/weir.sock", false, NULL, 0, NULL},
                {"unix:/run/weir.sock", false, NULL, 0, NULL},
                {"127.0.0.1", false, NULL, 0, NULL},
                {"8080", false, NULL, 0, NULL},
                {":8080", false, NULL, 0, NULL},
                {"", false, NULL, 0, NULL},
                {"127.0.0.1:", false, NULL, 0, NULL},
                {"127.0.0.1:0", false, NULL, 0, NULL},
                {"127.0.0.1:65536", false, NULL, 0, NULL},
                {"127.0.0.1:080", false, NULL, 0, NULL},
                {"127.0.0.1:http", false, NULL, 0, NULL},
                {"256.1.1.1:80", false, NULL, 0, NULL},
                {"127.1:80", false, NULL, 0, NULL},
                {"::1:80", false, NULL, 0, NULL},
                {"[127.0.0.1]:80", false, NULL, 0, NULL},
                {"[::1]", false, NULL, 0, NULL},
                {"[::1]x:80", false, NULL, 0, NULL},
                {"[::1:80", false, NULL, 0, NULL},
                {"[fe80::1%eth0]:80", false, NULL, 0, NULL},
                {"agent:80", false, NULL, 0, NULL},
                {"http://127.0.0.1:80", false, NULL, 0, NULL}},
      *row;
    weir_conf_arena_t *arena = weir_conf_arena_create();
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        weir_conf_address_t address = {0};
        const char *right = weir_conf_parse_address(row->text, arena, &address);
        check_verdict(row->text, right, row->is_right);
        if (right != NULL)
            continue;
        assert_string_equal(address.text, row->text);
        check_text(address.host, row->host);
        check_text(address.path, row->path);
        assert_int_equal(address.port, row->port);
        assert_int_equal(address.kind, row->path != NULL ? WEIR_ADDRESS_UNIX : WEIR_ADDRESS_TCP);
    }
    weir_conf_arena_destroy(arena);
}

static void test_url(void **state)
{
    static const struct {
        const char *text;
        const char *authority; /* NULL: refused */
        const char *host, *path, *prefix;
        uint16_t port;
        bool is_tls;
    } rows[] = {{"http://agent", "agent", "agent", NULL, "", 80},
                {"http://Agent.Example:80/", "agent.example", "agent.example", NULL, "", 80},
                {"http://agent:9000/v1/", "agent:9000", "agent", NULL, "/v1", 9000},
                {"http://127.0.0.1:9000/a/b%20c", "127.0.0.1:9000", "127.0.0.1", NULL, "/a/b%20c", 9000},
                {"http://[::1]:9000", "[::1]:9000", "::1", NULL, "", 9000},
                {"http://[::1]", "[::1]", "::1", NULL, "", 80},
                {"http://my_agent.svc.", "my_agent.svc.", "my_agent.svc.", NULL, "", 80},
                {"unix:///run/agent.sock", "localhost", NULL, "/run/agent.sock", "", 0},
                {"http://agent:443", "agent:443", "agent", NULL, "", 443},
                {"https://Agent", "agent", "agent", NULL, "", 443, true},
                {"https://agent:443/v1", "agent", "agent", NULL, "/v1", 443, true},
                {"https://agent:80", "agent:80", "agent", NULL, "", 80, true},
                {"https://[::1]/", "[::1]", "::1", NULL, "", 443, true},
                {"https://[::1]:8443", "[::1]:8443", "::1", NULL, "", 8443, true},
                {"HTTPS://agent"},
                {"https://"},
                {"https:/agent"},
                {"https://u:p@agent"},
                {"127.0.0.1:9000"},
                {"ftp://agent"},
                {"http://"},
                {"http:///path"},
                {"http://:80"},
                {"http://agent:"},
                {"http://agent:0"},
                {"http://agent:99999"},
                {"http://u:p@agent"},
                {"http://agent/?q"},
                {"http://agent?q"},
                {"http://agent/#f"},
                {"http://agent/a b"},
                {"http://agent/a//b"},
                {"http://agent/../a"},
                {"http://agent/%2"},
                {"http://a b"},
                {"http://-agent"},
                {"http://agent-"},
                {"http://a..b"},
                {"http://256.1.1.1"},
                {"http://[::1"},
                {"http://[agent]"},
                {"unix://run/x"},
                {"unix:///"},
                {""},
                {"http://" LETTERS_50 LETTERS_50}},
      *row;
    weir_conf_arena_t *arena = weir_conf_arena_create();
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        weir_conf_url_t url = {0};
        const char *prefix = NULL, *right = weir_conf_parse_url(row->text, arena, &url, &prefix);
        check_verdict(row->text, right, row->authority != NULL);
        if (right != NULL)
            continue;
        assert_string_equal(url.text, row->text);
        assert_string_equal(url.authority, row->authority);
        check_text(url.host, row->host);
        check_text(url.path, row->path);
        assert_string_equal(prefix, row->prefix);
        assert_int_equal(url.port, row->port);
        assert_int_equal(url.is_tls, row->is_tls);
    }
    weir_conf_arena_destroy(arena);
}

typedef const char *(*parse_t)(const char *text);

static void check_all(parse_t parse, const char *const right[], const char *const wrong[])
{
    for (; *right != NULL; ++right)
        check_verdict(*right, parse(*right), true);
    for (; *wrong != NULL; ++wrong)
        check_verdict(*wrong, parse(*wrong), false);
}

#define TEXTS (const char *const[])

static void test_paths(void **state)
{
    check_all(weir_conf_parse_path, TEXTS{"/", "/v1", "/v1/", "/a/b.c/~d", "/%20", "/a:b@c", "/...", "/.a", NULL},
              TEXTS{"",     "v1",   "//",   "/a//b", "/.",    "/..",       "/a/../b", "/a/.",
                    "/a b", "/a?b", "/a#b", "/a;b",  "/a\\b", "/%",        "/%4",     "/%zz",
                    "/%41", "/%2f", "/%2E", "/%00",  "/\x01", "/\xc3\xa9", NULL});
    check_all(weir_conf_parse_prefix, TEXTS{"/v1", "/a/b", "/%41", NULL}, TEXTS{"", "/", "/v1/", "v1", "/a//b", NULL});
}

static void test_words_of_http(void **state)
{
    check_all(weir_conf_parse_header, TEXTS{"X-Tenant-ID", "host", "a", "!#$%&'*+-.^_`|~0", NULL},
              TEXTS{"", "X Y", "X:Y", "X/Y", "(x)", "X\x7f", "\xc3\xa9", NULL});
    check_all(weir_conf_parse_own_header, TEXTS{"X-Tenant-ID", "Authorization", NULL},
              TEXTS{"", "Host", "content-length", "Transfer-Encoding", "Connection", "traceparent", "X Y", NULL});
    check_all(weir_conf_parse_sent_header, TEXTS{"Authorization", "cookie", "X$Y", "Via", NULL},
              TEXTS{"", "Host", "CONTENT-LENGTH", "Transfer-Encoding", "Connection", "te", "Trailer", "Upgrade",
                    "expect", "Keep-Alive", "Proxy-Connection", "traceparent", "tracestate", "X Y",
                    LETTERS_50 LETTERS_50, NULL});
    check_all(weir_conf_parse_header_value, TEXTS{"", "a", "Bearer x", " a\tb ", "a\r\n", "\"[redacted]\"", NULL},
              TEXTS{"a\nb", "a\r\nX: y", "\x01", "\x7f", "\xc3\xa9", NULL});
    check_all(weir_conf_parse_key_header,
              TEXTS{"X-Plan", "Authorization", "Cookie", "X-Api-Key", "Accept-Language", "Content-Type", "Hosts", NULL},
              TEXTS{"", "X Y", "Host", "HOST", "Connection", "transfer-encoding", "Content-Length", "Upgrade", "TE",
                    "Trailer", "Keep-Alive", "Proxy-Connection", NULL});
    check_all(weir_conf_parse_priority_header,
              TEXTS{"X-Priority", "x-urgent", "Priority", "Contents", "X-Accept", NULL},
              TEXTS{"", "X Y", "Host", "Cookie", "Authorization", "proxy-authorization", "X-Api-Key", "api-key",
                    "Accept", "accept-encoding", "Accept-Language", "Content-Type", "Content-MD5", "Content-Length",
                    "traceparent", "TE", NULL});
    check_all(weir_conf_parse_method, TEXTS{"GET", "M-SEARCH", "A1_B", NULL},
              TEXTS{"", "get", "Get", "PO ST", "CONNECT", "TRACE", "-A", "1A", NULL});
    check_all(
        weir_conf_parse_host_name, TEXTS{"api.example.com", "API", "10.0.0.1", "[::1]", "a_b", NULL},
        TEXTS{"", "a:80", "[::1]:80", "::1", "10.0.0", "-a", "a..b", "*", "*.a", "[a]", LETTERS_50 LETTERS_50, NULL});
}

static void test_models(void **state)
{
    check_all(weir_conf_parse_model, TEXTS{"a", "gpt-4o", "ft:gpt-4o:me::x", "a b", "\xc3\xa9", NULL},
              TEXTS{"", "*", "gpt-*", "a\nb", "\x7f", NULL});
    check_all(weir_conf_parse_model_pattern, TEXTS{"a", "*", "gpt-*", "*-mini", NULL},
              TEXTS{"", "**", "*a*", "a*b", "a\n*", NULL});
    check_all(weir_conf_parse_server_name, TEXTS{"api.example.com", "10.0.0.1", "::1", "a_b", NULL},
              TEXTS{"", "[::1]", "a:80", "api.example.com.", "a b", "*.example.com", "10.1", NULL});
}

static void test_names_and_secrets(void **state)
{
    check_all(weir_conf_parse_name, TEXTS{"a", "per-tenant", "a1-", LETTERS_50 "abcdefghijabc", NULL},
              TEXTS{"", "A", "1a", "-a", "a_b", "a.b", LETTERS_50 "abcdefghijabcd", NULL});
    check_all(weir_conf_parse_tenant,
              TEXTS{"a", "A:b@c/d_e-f.1", LETTERS_50 LETTERS_50 "abcdefghijabcdefghijabcdefgh", NULL},
              TEXTS{"", "a b", "a,b", "\xc3\xa9", LETTERS_50 LETTERS_50 "abcdefghijabcdefghijabcdefghi", NULL});
    check_all(weir_conf_parse_secret, TEXTS{"x", "a/b+c==", "[redacted]", NULL},
              TEXTS{"", "a b", "a\n", "\xc3\xa9", NULL});
    check_all(weir_conf_parse_password, TEXTS{"x", "a b", " a/b+c== ", "'\"#~", NULL}, TEXTS{"", "a\n", "a\tb", "\x7f", "\xc3\xa9", NULL});
    check_all(weir_conf_parse_log_target, TEXTS{"stdout", "stderr", "none", "/var/log/weir", NULL},
              TEXTS{"", "stdot", "weir.log", NULL});
}

static void test_sha256(void **state)
{
    uint8_t sha256[32];
    assert_non_null(weir_conf_parse_sha256("00ff10AB" LETTERS_50 "abcdef", sha256));
    assert_null(weir_conf_parse_sha256("00ff10AB00000000000000000000000000000000000000000000000000000001", sha256));
    assert_int_equal(sha256[1], 0xff);
    assert_int_equal(sha256[3], 0xab);
    assert_int_equal(sha256[31], 1);
    assert_non_null(weir_conf_parse_sha256("00ff", sha256));
    assert_non_null(
        weir_conf_parse_sha256("00ff10AB000000000000000000000000000000000000000000000000000000010", sha256));
}

/* ---- how text is written in YAML ---- */

static void test_yaml_text(void **state)
{
    static const struct {
        const char *text, *written;
    } rows[] = {{NULL, "null"},
                {"", "\"\""},
                {"acme", "acme"},
                {"127.0.0.1:8080", "127.0.0.1:8080"},
                {"http://a:9/x", "http://a:9/x"},
                {"acme:eu/1", "acme:eu/1"},
                {"*:8080", "\"*:8080\""},
                {"::1/128", "\"::1/128\""},
                {"a::b", "\"a::b\""},
                {"a:", "\"a:\""},
                {"a b", "\"a b\""},
                {"null", "\"null\""},
                {"Yes", "\"Yes\""},
                {"off", "\"off\""},
                {"42", "\"42\""},
                {"1e5", "\"1e5\""},
                {"0x1f", "\"0x1f\""},
                {"12:30", "\"12:30\""},
                {"2024-01-02", "\"2024-01-02\""},
                {"-", "\"-\""},
                {"[x]", "\"[x]\""},
                {"$5", "\"$$5\""},
                {"a\"b\\c", "\"a\\\"b\\\\c\""},
                {"a\nb\tc\x7f", "\"a\\nb\\x09c\\x7f\""},
                {"\xc3\xa9", "\"\xc3\xa9\""},
                {"\xc2\x85", "\"\\x85\""},
                {"\xe2\x80\xa8", "\"\\u2028\""},
                {"\xef\xbb\xbf", "\"\\ufeff\""},
                {"\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\""},
                {"\xf4\x8f\xbf\xbf", "\"\\U0010ffff\""}},
      *row;
    for (row = rows; row < rows + COUNT_OF(rows); ++row) {
        char *written = NULL;
        size_t len;
        FILE *out = open_memstream(&written, &len);
        assert_non_null(out);
        weir_conf_yaml_text(out, row->text);
        assert_int_equal(fclose(out), 0);
        assert_string_equal(written, row->written);
        free(written);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_count),         cmocka_unit_test(test_duration),
        cmocka_unit_test(test_size),          cmocka_unit_test(test_rate),
        cmocka_unit_test(test_weight),        cmocka_unit_test(test_percent),
        cmocka_unit_test(test_cidr),          cmocka_unit_test(test_address),
        cmocka_unit_test(test_url),           cmocka_unit_test(test_paths),
        cmocka_unit_test(test_words_of_http), cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_models),        cmocka_unit_test(test_names_and_secrets),
        cmocka_unit_test(test_yaml_text),     cmocka_unit_test(test_probability),
        cmocka_unit_test(test_json_pointers), cmocka_unit_test(test_headers_of_a_dedup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
