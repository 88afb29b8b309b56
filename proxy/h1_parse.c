#include "h1_parse.h"

#include <arpa/inet.h>
#include <endian.h>
#include <string.h>

/* A head is read line by line, from its start, and each check of a line needs no more than the lines before it. So the
 * verdict on a head is the same however it was cut into reads: only when it comes may differ. A line is judged once its
 * CRLF (or a byte that no line may hold) has come; a call that neither ends nor begins a line returns at once. So a
 * head is scanned at most twice for each of its lines, of which there are at most WEIR_H1_FIELDS_MAX and a few. */

#define LITERAL(text) ((weir_str_t){"" text "", sizeof(text) - 1})

/* What a byte may be part of. */
enum {
    TOKEN = 1,  /* RFC 9110 5.6.2: methods, field names, codings */
    TARGET = 2, /* request targets: visible ASCII without `#` and `\`; more than RFC 3986, as real callers send it */
    UNRESERVED = 4, /* RFC 3986 2.3; the bytes of a host name here */
    CONTROL = 8,    /* no part of a line: 0x00-0x1f without HTAB, 0x7f */
};

static const uint8_t classes[256] = {
    [0x00 ... 0x08] = CONTROL,
    [0x0a ... 0x1f] = CONTROL,
    [0x7f] = CONTROL,
    ['0' ... '9'] = TOKEN | TARGET | UNRESERVED,
    ['A' ... 'Z'] = TOKEN | TARGET | UNRESERVED,
    ['a' ... 'z'] = TOKEN | TARGET | UNRESERVED,
    ['-'] = TOKEN | TARGET | UNRESERVED,
    ['.'] = TOKEN | TARGET | UNRESERVED,
    ['_'] = TOKEN | TARGET | UNRESERVED,
    ['~'] = TOKEN | TARGET | UNRESERVED,
    ['!'] = TOKEN | TARGET,
    ['$'] = TOKEN | TARGET,
    ['%'] = TOKEN | TARGET,
    ['&'] = TOKEN | TARGET,
    ['\''] = TOKEN | TARGET,
    ['*'] = TOKEN | TARGET,
    ['+'] = TOKEN | TARGET,
    ['^'] = TOKEN | TARGET,
    ['`'] = TOKEN | TARGET,
    ['|'] = TOKEN | TARGET,
    ['#'] = TOKEN,
    ['"'] = TARGET,
    ['('] = TARGET,
    [')'] = TARGET,
    [','] = TARGET,
    ['/'] = TARGET,
    [':'] = TARGET,
    [';'] = TARGET,
    ['<'] = TARGET,
    ['='] = TARGET,
    ['>'] = TARGET,
    ['?'] = TARGET,
    ['@'] = TARGET,
    ['['] = TARGET,
    [']'] = TARGET,
    ['{'] = TARGET,
    ['}'] = TARGET,
};

static bool is_a(unsigned class, char byte)
{
    return (classes[(uint8_t)byte] & class) != 0;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

static char lower(char byte)
{
    return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
}

/* The value of a hex digit, or -1. */
static int hex_value(char byte)
{
    if (is_digit(byte))
        return byte - '0';
    byte = lower(byte);
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* How many bytes at the start of `text` are of `class`. */
static size_t span(unsigned class, weir_str_t text)
{
    size_t i = 0;
    while (i != text.len && is_a(class, text.base[i]))
        ++i;
    return i;
}

static bool is_token(weir_str_t text)
{
    return text.len != 0 && span(TOKEN, text) == text.len;
}

static bool equals(weir_str_t text, weir_str_t other)
{
    return text.len == other.len && memcmp(text.base, other.base, text.len) == 0;
}

/* In any case; `name` is lower case. */
static bool equals_any_case(weir_str_t text, weir_str_t name)
{
    if (text.len != name.len)
        return false;
    for (size_t i = 0; i != text.len; ++i)
        if (lower(text.base[i]) != name.base[i])
            return false;
    return true;
}

static weir_str_t skip(weir_str_t text, size_t count)
{
    return (weir_str_t){text.base + count, text.len - count};
}

static weir_str_t trim(weir_str_t text)
{
    while (text.len != 0 && is_blank(text.base[0]))
        text = skip(text, 1);
    while (text.len != 0 && is_blank(text.base[text.len - 1]))
        --text.len;
    return text;
}

/* Takes the first element of a comma-separated list off `rest`, whose base is NULL after the last one. */
static bool next_element(weir_str_t *rest, weir_str_t *element)
{
    if (rest->base == NULL)
        return false;
    const char *comma = memchr(rest->base, ',', rest->len);
    size_t len = comma != NULL ? (size_t)(comma - rest->base) : rest->len;
    *element = trim((weir_str_t){rest->base, len});
    *rest = comma != NULL ? skip(*rest, len + 1) : (weir_str_t){NULL, 0};
    return true;
}

bool weir_h1_list_has(weir_str_t list, weir_str_t name)
{
    weir_str_t element;
    while (next_element(&list, &element))
        if (equals_any_case(element, name))
            return true;
    return false;
}

/* Lines */

/* Bit 7 of each byte of `word` that is < 0x20 or 0x7f; right up to the first such byte, above it perhaps not. */
static uint64_t low_bytes(uint64_t word)
{
    const uint64_t ones = 0x0101010101010101;
    uint64_t del = word ^ ones * 0x7f;
    return (((word - ones * 0x20) & ~word) | ((del - ones) & ~del)) & ones * 0x80;
}

/* The first byte in [at, end) that ends a line or that no line may hold, or `end`. */
static const char *find_control(const char *at, const char *end)
{
    while (end - at >= 8) {
        uint64_t word;
        memcpy(&word, at, sizeof(word));
        uint64_t low = low_bytes(le64toh(word));
        if (low == 0) {
            at += 8;
            continue;
        }
        at += __builtin_ctzll(low) / 8;
        if (*at != '\t')
            return at;
        ++at;
    }
    while (at != end && !is_a(CONTROL, *at))
        ++at;
    return at;
}

/* What is left of a head. */
typedef struct {
    const char *at, *end;
} scan_t;

/* The next line, without its CRLF. Only CRLF ends a line: RFC 9112 2.2 lets recipients take a bare LF too, and so they
 * differ. */
static weir_h1_result_t read_line(scan_t *scan, weir_str_t *line, const char **detail)
{
    const char *end = find_control(scan->at, scan->end);
    if (end == scan->end || (*end == '\r' && end + 1 == scan->end))
        return WEIR_H1_INCOMPLETE;
    if (*end == '\r' && end[1] == '\n') {
        *line = (weir_str_t){scan->at, (size_t)(end - scan->at)};
        scan->at = end + 2;
        return WEIR_H1_COMPLETE;
    }
    if (*end == '\r')
        *detail = "A CR in the head is not followed by LF";
    else if (*end == '\n')
        *detail = "A line of the head ends in LF without CR";
    else
        *detail = "The head holds a control byte";
    return WEIR_H1_REFUSED;
}

/* Whether the bytes since `seen` neither begin a line, which may be one too many, nor end or spoil one: then an
 * incomplete head is still incomplete. */
static bool brings_nothing(const char *input, size_t len, size_t seen)
{
    if (seen == 0 || seen > len || input[seen - 1] == '\n')
        return false;
    if (input[seen - 1] == '\r')
        --seen;
    scan_t scan = {input + seen, input + len};
    weir_str_t line;
    const char *detail;
    return read_line(&scan, &line, &detail) == WEIR_H1_INCOMPLETE;
}

/* `name: value` (RFC 9112 5). NULL, or what is wrong. */
static const char *split_field(weir_str_t line, weir_h1_field_t *field)
{
    if (is_blank(line.base[0]))
        return "A line of the head begins with white space"; /* obs-fold, RFC 9112 5.2 */
    size_t name_len = span(TOKEN, line);
    if (name_len == line.len)
        return "A field has no colon";
    if (line.base[name_len] != ':')
        return is_blank(line.base[name_len]) ? "A field has white space in or after its name" /* RFC 9112 5.1 */
                                             : "A field's name is not a token";
    if (name_len == 0)
        return "A field has an empty name";
    field->name = (weir_str_t){line.base, name_len};
    field->orig_name = NULL;
    field->value = trim(skip(line, name_len + 1));
    return NULL;
}

/* Lower-cases the names in `input`. With `names` not NULL they are kept there as they were written. */
static void lower_names(char *input, char *names, weir_h1_field_t *fields, size_t count)
{
    for (weir_h1_field_t *field = fields; field != fields + count; ++field) {
        size_t len = field->name.len;
        if (names != NULL) {
            field->orig_name = memcpy(names, field->name.base, len);
            names += len;
        }
        char *name = input + (field->name.base - input);
        for (size_t i = 0; i != len; ++i)
            name[i] = lower(name[i]);
    }
}

/* Fields that say where a message and its connection end; requests and answers alike. */

typedef struct {
    bool has_length, has_coding; /* Content-Length, Transfer-Encoding */
    uint64_t length;
    bool close, keep_alive, upgrade; /* named by Connection */
    size_t named;                    /* how many it names, empty ones too */
} ending_t;

/* 1*DIGIT below 2^63. One number only: RFC 9112 6.3 lets a list of equal ones pass, which is one more way to differ. */
static const char *read_length(weir_str_t value, uint64_t *length)
{
    uint64_t n = 0;
    for (size_t i = 0; i != value.len; ++i) {
        if (!is_digit(value.base[i]))
            return "Content-Length is not a number";
        unsigned digit = (unsigned)(value.base[i] - '0');
        if (n > ((uint64_t)INT64_MAX - digit) / 10)
            return "Content-Length is too large";
        n = n * 10 + digit;
    }
    *length = n;
    return value.len != 0 ? NULL : "Content-Length is empty";
}

static const char *note_length(ending_t *ending, weir_str_t value)
{
    if (ending->has_length)
        return "Content-Length comes twice";
    if (ending->has_coding)
        return "Content-Length comes with Transfer-Encoding"; /* RFC 9112 6.1 */
    ending->has_length = true;
    return read_length(value, &ending->length);
}

/* That there is a Transfer-Encoding; its value is looked at by the callers. */
static const char *note_coding(ending_t *ending, int minor_version)
{
    if (ending->has_coding)
        return "Transfer-Encoding comes twice";
    if (ending->has_length)
        return "Content-Length comes with Transfer-Encoding";
    if (minor_version == 0)
        return "Transfer-Encoding comes in HTTP/1.0"; /* RFC 9112 6.1: framing faulty */
    ending->has_coding = true;
    return NULL;
}

/* More names than a head may have fields mean nothing, but each is compared with every field (RFC 9110 5.6.1.2: a
 * reasonable number of empty elements is to be ignored). */
static const char *note_connection(ending_t *ending, weir_str_t value)
{
    weir_str_t rest = value, element;
    while (next_element(&rest, &element))
        if (++ending->named > WEIR_H1_FIELDS_MAX)
            return "Connection names too many fields";
    ending->close |= weir_h1_list_has(value, LITERAL("close"));
    ending->keep_alive |= weir_h1_list_has(value, LITERAL("keep-alive"));
    ending->upgrade |= weir_h1_list_has(value, LITERAL("upgrade"));
    return NULL;
}

/* RFC 9112 9.3 */
static bool keeps_alive(const ending_t *ending, int minor_version)
{
    return !ending->close && (minor_version == 1 || ending->keep_alive);
}

typedef enum {
    FIELD_OTHER,
    FIELD_HOST,
    FIELD_EXPECT,
    FIELD_UPGRADE,
    FIELD_CONNECTION,
    FIELD_KEEP_ALIVE,
    FIELD_CONTENT_LENGTH,
    FIELD_TRANSFER_ENCODING,
} field_id_t;

static field_id_t identify(weir_str_t name)
{
    switch (name.len) {
    case 4:
        return equals_any_case(name, LITERAL("host")) ? FIELD_HOST : FIELD_OTHER;
    case 6:
        return equals_any_case(name, LITERAL("expect")) ? FIELD_EXPECT : FIELD_OTHER;
    case 7:
        return equals_any_case(name, LITERAL("upgrade")) ? FIELD_UPGRADE : FIELD_OTHER;
    case 10:
        if (equals_any_case(name, LITERAL("connection")))
            return FIELD_CONNECTION;
        return equals_any_case(name, LITERAL("keep-alive")) ? FIELD_KEEP_ALIVE : FIELD_OTHER;
    case 14:
        return equals_any_case(name, LITERAL("content-length")) ? FIELD_CONTENT_LENGTH : FIELD_OTHER;
    case 17:
        return equals_any_case(name, LITERAL("transfer-encoding")) ? FIELD_TRANSFER_ENCODING : FIELD_OTHER;
    default:
        return FIELD_OTHER;
    }
}

/* Requests */

typedef struct {
    weir_h1_request_t *request;
    ending_t ending;
    bool has_host;
    bool is_absolute; /* the target names the authority */
    weir_str_t path;  /* absolute: what follows it; empty, or begins with `/` or `?` */
    size_t upgrade_count;
    weir_str_t upgrade;
} request_parse_t;

static weir_h1_result_t refuse(weir_h1_request_t *request, weir_reason_t reason, int status, const char *detail)
{
    request->reason = reason;
    request->status = status;
    request->detail = detail;
    return WEIR_H1_REFUSED;
}

static weir_h1_result_t refuse_malformed(weir_h1_request_t *request, const char *detail)
{
    return refuse(request, WEIR_REASON_MALFORMED, 400, detail);
}

/* The request is well-formed so far, and will be refused when its head is whole: until then a worse fault may come. */
static void refuse_at_end(weir_h1_request_t *request, weir_reason_t reason, int status, const char *detail)
{
    if (request->reason == WEIR_REASON_NONE)
        refuse(request, reason, status, detail);
}

/* The address in brackets at the start of `text`, brackets included; 0 if there is none. */
static size_t span_ip_literal(weir_str_t text)
{
    char address[INET6_ADDRSTRLEN];
    struct in6_addr ignored;
    const char *bracket = memchr(text.base, ']', text.len);
    size_t len = bracket != NULL ? (size_t)(bracket - text.base) - 1 : 0;
    if (len == 0 || len >= sizeof(address))
        return 0;
    memcpy(address, text.base + 1, len);
    address[len] = '\0';
    return inet_pton(AF_INET6, address, &ignored) == 1 ? len + 2 : 0;
}

/* host [ ":" port ] (RFC 9110 7.2), of which the host may not be empty (4.2.1). Narrower than RFC 3986: a name is of
 * unreserved characters, since `,` `;` `%` and the like in a host are read in more ways than one. */
static bool is_authority(weir_str_t text)
{
    size_t host_len = text.len != 0 && text.base[0] == '[' ? span_ip_literal(text) : span(UNRESERVED, text);
    if (host_len == 0)
        return false;
    text = skip(text, host_len);
    if (text.len == 0)
        return true;
    if (text.base[0] != ':' || text.len > sizeof(":65535") - 1)
        return false;
    unsigned port = 0;
    for (size_t i = 1; i != text.len; ++i) {
        if (!is_digit(text.base[i]))
            return false;
        port = port * 10 + (unsigned)(text.base[i] - '0');
    }
    return port <= 65535;
}

/* What follows `http://` or `https://` in `target`; len 0 if it begins with neither. */
static weir_str_t after_scheme(weir_str_t target)
{
    static const weir_str_t schemes[] = {{"http://", 7}, {"https://", 8}};
    for (size_t i = 0; i != 2; ++i)
        if (target.len > schemes[i].len && equals_any_case((weir_str_t){target.base, schemes[i].len}, schemes[i]))
            return skip(target, schemes[i].len);
    return (weir_str_t){"", 0};
}

/* absolute-form (RFC 9112 3.2.2) */
static const char *split_absolute(request_parse_t *parse)
{
    weir_h1_request_t *request = parse->request;
    weir_str_t rest = after_scheme(request->target);
    size_t len = 0;
    while (len != rest.len && rest.base[len] != '/' && rest.base[len] != '?')
        ++len;
    request->authority = (weir_str_t){rest.base, len};
    if (!is_authority(request->authority))
        return "The target is neither a path nor an http:// or https:// URL with a host and no user";
    parse->is_absolute = true;
    parse->path = skip(rest, len);
    return NULL;
}

static const char *check_target(request_parse_t *parse)
{
    weir_h1_request_t *request = parse->request;
    if (request->target.base[0] == '/')
        return NULL;
    if (equals(request->target, LITERAL("*")))
        return equals(request->method, LITERAL("OPTIONS")) ? NULL : "Only OPTIONS may have the target *";
    return split_absolute(parse);
}

/* HTTP-version (RFC 9112 2.3); false if it is not one at all. */
static bool split_version(weir_str_t text, char *major, char *minor)
{
    if (text.len != 8 || memcmp(text.base, "HTTP/", 5) != 0 || text.base[6] != '.')
        return false;
    *major = text.base[5];
    *minor = text.base[7];
    return is_digit(*major) && is_digit(*minor);
}

/* method SP request-target SP HTTP-version (RFC 9112 3), each SP exactly one. */
static weir_h1_result_t read_request_line(request_parse_t *parse, weir_str_t line)
{
    weir_h1_request_t *request = parse->request;
    size_t len = span(TOKEN, line);
    if (len == 0 || len == line.len || line.base[len] != ' ')
        return refuse_malformed(request, "The request line does not begin with a method and a space");
    request->method = (weir_str_t){line.base, len};
    line = skip(line, len + 1);
    len = span(TARGET, line);
    if (len == 0 || len == line.len || line.base[len] != ' ')
        return refuse_malformed(request, "The request line has no target, or one with a byte that must be escaped");
    request->target = (weir_str_t){line.base, len};
    char major, minor;
    if (!split_version(skip(line, len + 1), &major, &minor))
        return refuse_malformed(request, "The request line does not end in an HTTP version");
    if (major != '1' || minor > '1')
        return refuse(request, WEIR_REASON_UNSUPPORTED, 505, "Only HTTP/1.0 and HTTP/1.1 are spoken here");
    request->minor_version = minor - '0';
    if (equals(request->method, LITERAL("TRACE")) || equals(request->method, LITERAL("CONNECT"))) {
        refuse_at_end(request, WEIR_REASON_METHOD, 405, "TRACE and CONNECT are not served");
        return WEIR_H1_COMPLETE;
    }
    const char *detail = check_target(parse);
    return detail == NULL ? WEIR_H1_COMPLETE : refuse_malformed(request, detail);
}

/* Whether `value` is a list of transfer codings without parameters, with `chunked` nowhere but at its end. */
static bool is_coding_list(weir_str_t value)
{
    bool is_chunked = false;
    weir_str_t coding;
    while (next_element(&value, &coding)) {
        if (is_chunked || !is_token(coding))
            return false;
        is_chunked = equals_any_case(coding, LITERAL("chunked"));
    }
    return true;
}

static const char *note_request_coding(request_parse_t *parse, weir_str_t value)
{
    weir_h1_request_t *request = parse->request;
    const char *detail = note_coding(&parse->ending, request->minor_version);
    if (detail != NULL || equals_any_case(value, LITERAL("chunked")))
        return detail;
    if (!is_coding_list(value))
        return "Transfer-Encoding is not a list of codings";
    refuse_at_end(request, WEIR_REASON_UNSUPPORTED, 501, "The only transfer coding taken here is chunked");
    return NULL;
}

static const char *note_host(request_parse_t *parse, weir_str_t value)
{
    if (parse->has_host)
        return "Host comes twice";
    parse->has_host = true;
    if (!is_authority(value))
        return "Host is not a host and a port";
    if (!parse->is_absolute)
        parse->request->authority = value;
    return NULL;
}

static void note_expect(weir_h1_request_t *request, weir_str_t value)
{
    if (equals_any_case(value, LITERAL("100-continue")))
        request->expect_continue = request->minor_version == 1; /* RFC 9110 10.1.1: ignored in HTTP/1.0 */
    else
        refuse_at_end(request, WEIR_REASON_UNSUPPORTED, 417, "The only expectation met here is 100-continue");
}

static const char *note_request_field(request_parse_t *parse, const weir_h1_field_t *field)
{
    switch (identify(field->name)) {
    case FIELD_HOST:
        return note_host(parse, field->value);
    case FIELD_CONTENT_LENGTH:
        return note_length(&parse->ending, field->value);
    case FIELD_TRANSFER_ENCODING:
        return note_request_coding(parse, field->value);
    case FIELD_EXPECT:
        note_expect(parse->request, field->value);
        return NULL;
    case FIELD_CONNECTION:
        return note_connection(&parse->ending, field->value);
    case FIELD_UPGRADE:
        ++parse->upgrade_count;
        parse->upgrade = field->value;
        return NULL;
    default:
        return NULL;
    }
}

/* The fields, up to and with the empty line after them. */
static weir_h1_result_t read_request_fields(request_parse_t *parse, scan_t *scan)
{
    weir_h1_request_t *request = parse->request;
    for (;;) {
        weir_str_t line;
        const char *detail;
        if (request->field_count == WEIR_H1_FIELDS_MAX && scan->at != scan->end && *scan->at != '\r')
            return refuse(request, WEIR_REASON_HEAD_TOO_LARGE, 431, "The head has too many fields");
        weir_h1_result_t result = read_line(scan, &line, &detail);
        if (result == WEIR_H1_INCOMPLETE || (result == WEIR_H1_COMPLETE && line.len == 0))
            return result;
        if (result == WEIR_H1_REFUSED)
            return refuse_malformed(request, detail);
        weir_h1_field_t *field = &request->fields[request->field_count];
        detail = split_field(line, field);
        if (detail == NULL)
            detail = note_request_field(parse, field);
        if (detail != NULL)
            return refuse_malformed(request, detail);
        ++request->field_count;
    }
}

/* Makes an absolute-form target the origin-form it stands for. The `/` that is missing in `http://a` and `http://a?b`
 * (RFC 9110 4.2.3) finds room before the authority, or after it once that has moved over the slash before it. */
static void take_origin_form(char *input, const request_parse_t *parse)
{
    weir_h1_request_t *request = parse->request;
    char *authority = input + (request->authority.base - input);
    request->target = parse->path;
    if (parse->path.len == 0) { /* RFC 9112 3.2.4: OPTIONS of a host alone asks the server itself */
        authority[-1] = equals(request->method, LITERAL("OPTIONS")) ? '*' : '/';
        request->target = (weir_str_t){authority - 1, 1};
    } else if (parse->path.base[0] == '?') {
        memmove(authority - 1, authority, request->authority.len);
        --request->authority.base;
        authority[request->authority.len - 1] = '/';
        request->target = (weir_str_t){parse->path.base - 1, parse->path.len + 1};
    }
}

/* What the whole head says. */
static weir_h1_result_t conclude_request(request_parse_t *parse, char *input, char *names)
{
    weir_h1_request_t *request = parse->request;
    const ending_t *ending = &parse->ending;
    if (request->reason == WEIR_REASON_NONE && request->minor_version == 1 && !parse->has_host)
        return refuse_malformed(request, "Host is missing"); /* RFC 9112 3.2 */
    if (ending->has_coding)
        request->framing = WEIR_H1_BODY_CHUNKED;
    else if (ending->has_length)
        request->framing = WEIR_H1_BODY_LENGTH;
    request->content_length = ending->length;
    request->keep_alive = keeps_alive(ending, request->minor_version);
    /* RFC 9110 7.8: not in HTTP/1.0, and may be ignored; two fields are no clear wish. */
    if (ending->upgrade && request->minor_version == 1 && parse->upgrade_count == 1)
        request->upgrade = parse->upgrade;
    if (parse->is_absolute)
        take_origin_form(input, parse);
    lower_names(input, names, request->fields, request->field_count);
    return request->reason == WEIR_REASON_NONE ? WEIR_H1_COMPLETE : WEIR_H1_REFUSED;
}

/* All but the fields, which are worth 4 KB. */
static void clear_request(weir_h1_request_t *request)
{
    request->method = request->target = request->authority = request->upgrade = (weir_str_t){"", 0};
    request->minor_version = 0;
    request->field_count = 0;
    request->framing = WEIR_H1_BODY_NONE;
    request->content_length = 0;
    request->keep_alive = request->expect_continue = false;
    request->size = 0;
    request->reason = WEIR_REASON_NONE;
    request->status = 0;
    request->detail = NULL;
}

/* One or two empty lines before the request line are skipped (RFC 9112 2.2). */
static weir_h1_result_t read_first_line(scan_t *scan, weir_str_t *line, const char **detail)
{
    for (int empty_count = 0;; ++empty_count) {
        weir_h1_result_t result = read_line(scan, line, detail);
        if (result != WEIR_H1_COMPLETE || line->len != 0 || empty_count == 2)
            return result;
    }
}

static weir_h1_result_t read_request(scan_t *scan, char *input, char *names, weir_h1_request_t *request)
{
    request_parse_t parse = {.request = request};
    weir_str_t line;
    const char *detail;
    clear_request(request);
    weir_h1_result_t result = read_first_line(scan, &line, &detail);
    if (result == WEIR_H1_REFUSED)
        return refuse_malformed(request, detail);
    if (result == WEIR_H1_COMPLETE)
        result = read_request_line(&parse, line);
    if (result == WEIR_H1_COMPLETE)
        result = read_request_fields(&parse, scan);
    if (result != WEIR_H1_COMPLETE)
        return result;
    request->size = (size_t)(scan->at - input);
    return conclude_request(&parse, input, names);
}

weir_h1_result_t weir_h1_parse_request(char *input, size_t len, size_t seen, size_t head_max, char *names,
                                       weir_h1_request_t *request)
{
    if (len < head_max && brings_nothing(input, len, seen))
        return WEIR_H1_INCOMPLETE;
    scan_t scan = {input, input + (len < head_max ? len : head_max)};
    weir_h1_result_t result = read_request(&scan, input, names, request);
    if (result == WEIR_H1_INCOMPLETE && len >= head_max)
        return refuse(request, WEIR_REASON_HEAD_TOO_LARGE, 431, "The head is too large");
    return result;
}

/* Answers */

static weir_h1_result_t refuse_response(weir_h1_response_t *response, const char *detail)
{
    response->detail = detail;
    return WEIR_H1_REFUSED;
}

/* HTTP-version SP 3DIGIT [ SP reason ] (RFC 9112 4); the space before an empty reason is often left out. */
static const char *read_status_line(weir_str_t line, weir_h1_response_t *response)
{
    char major, minor;
    if (line.len < 12 || !split_version((weir_str_t){line.base, 8}, &major, &minor) || line.base[8] != ' ')
        return "The status line does not begin with an HTTP version and a space";
    if (major != '1' || minor > '1')
        return "The answer's HTTP version is neither 1.0 nor 1.1";
    const char *status = line.base + 9;
    if (!is_digit(status[0]) || !is_digit(status[1]) || !is_digit(status[2]) || (line.len > 12 && status[3] != ' '))
        return "The status is not a number of three digits";
    response->minor_version = minor - '0';
    response->status = (status[0] - '0') * 100 + (status[1] - '0') * 10 + (status[2] - '0');
    return response->status >= 100 && response->status <= 599 ? NULL : "The status is not in 100 to 599";
}

/* `timeout=N` among the parameters of a Keep-Alive field (RFC 2068 19.7.1.1); the smallest if there are several. */
static void note_keep_alive(weir_h1_response_t *response, weir_str_t value)
{
    enum { TIMEOUT_S_MAX = 1000000000 };
    weir_str_t parameter;
    while (next_element(&value, &parameter)) {
        if (parameter.len <= 8 || !equals_any_case((weir_str_t){parameter.base, 8}, LITERAL("timeout=")))
            continue;
        parameter = skip(parameter, 8);
        int64_t timeout_s = 0;
        size_t i = 0;
        for (; i != parameter.len && is_digit(parameter.base[i]); ++i)
            if (timeout_s < TIMEOUT_S_MAX)
                timeout_s = timeout_s * 10 + (parameter.base[i] - '0');
        if (i == parameter.len && (response->keep_alive_timeout_s < 0 || timeout_s < response->keep_alive_timeout_s))
            response->keep_alive_timeout_s = timeout_s;
    }
}

static const char *note_response_coding(ending_t *ending, int minor_version, weir_str_t value)
{
    const char *detail = note_coding(ending, minor_version);
    if (detail != NULL || equals_any_case(value, LITERAL("chunked")))
        return detail;
    return "Transfer-Encoding is not chunked alone";
}

static const char *note_response_field(weir_h1_response_t *response, ending_t *ending, const weir_h1_field_t *field)
{
    switch (identify(field->name)) {
    case FIELD_CONTENT_LENGTH:
        return note_length(ending, field->value);
    case FIELD_TRANSFER_ENCODING:
        return note_response_coding(ending, response->minor_version, field->value);
    case FIELD_CONNECTION:
        return note_connection(ending, field->value);
    case FIELD_KEEP_ALIVE:
        note_keep_alive(response, field->value);
        return NULL;
    default:
        return NULL;
    }
}

static weir_h1_result_t read_response_fields(scan_t *scan, weir_h1_response_t *response, ending_t *ending)
{
    for (;;) {
        weir_str_t line;
        const char *detail;
        if (response->field_count == WEIR_H1_FIELDS_MAX && scan->at != scan->end && *scan->at != '\r')
            return refuse_response(response, "The answer's head has too many fields");
        weir_h1_result_t result = read_line(scan, &line, &detail);
        if (result == WEIR_H1_INCOMPLETE || (result == WEIR_H1_COMPLETE && line.len == 0))
            return result;
        if (result == WEIR_H1_REFUSED)
            return refuse_response(response, detail);
        weir_h1_field_t *field = &response->fields[response->field_count];
        detail = split_field(line, field);
        if (detail == NULL)
            detail = note_response_field(response, ending, field);
        if (detail != NULL)
            return refuse_response(response, detail);
        ++response->field_count;
    }
}

/* RFC 9112 6.3. NULL, or what is wrong. */
static const char *frame_response(weir_h1_response_t *response, const ending_t *ending, bool head_request)
{
    bool never_has_body = response->status < 200 || response->status == 204;
    if (never_has_body && (ending->has_coding || ending->length != 0))
        return "An answer that has no body announces one"; /* RFC 9110 8.6, RFC 9112 6.1 */
    if (never_has_body || response->status == 304 || head_request)
        response->framing = WEIR_H1_BODY_NONE;
    else if (ending->has_coding)
        response->framing = WEIR_H1_BODY_CHUNKED;
    else if (ending->has_length)
        response->framing = WEIR_H1_BODY_LENGTH;
    else
        response->framing = WEIR_H1_BODY_CLOSE;
    response->content_length = ending->has_length ? ending->length : UINT64_MAX;
    response->keep_alive = response->framing != WEIR_H1_BODY_CLOSE && keeps_alive(ending, response->minor_version);
    return NULL;
}

static void clear_response(weir_h1_response_t *response)
{
    response->status = response->minor_version = 0;
    response->field_count = 0;
    response->framing = WEIR_H1_BODY_NONE;
    response->content_length = UINT64_MAX;
    response->keep_alive = false;
    response->keep_alive_timeout_s = -1;
    response->size = 0;
    response->detail = NULL;
}

static weir_h1_result_t read_response(scan_t *scan, char *input, bool head_request, weir_h1_response_t *response)
{
    ending_t ending = {0};
    weir_str_t line;
    const char *detail;
    clear_response(response);
    weir_h1_result_t result = read_line(scan, &line, &detail);
    if (result == WEIR_H1_INCOMPLETE)
        return result;
    if (result == WEIR_H1_COMPLETE)
        detail = read_status_line(line, response);
    if (detail != NULL)
        return refuse_response(response, detail);
    result = read_response_fields(scan, response, &ending);
    if (result != WEIR_H1_COMPLETE)
        return result;
    detail = frame_response(response, &ending, head_request);
    if (detail != NULL)
        return refuse_response(response, detail);
    response->size = (size_t)(scan->at - input);
    lower_names(input, NULL, response->fields, response->field_count);
    return WEIR_H1_COMPLETE;
}

weir_h1_result_t weir_h1_parse_response(char *input, size_t len, size_t seen, size_t head_max, bool head_request,
                                        weir_h1_response_t *response)
{
    if (len < head_max && brings_nothing(input, len, seen))
        return WEIR_H1_INCOMPLETE;
    scan_t scan = {input, input + (len < head_max ? len : head_max)};
    weir_h1_result_t result = read_response(&scan, input, head_request, response);
    if (result == WEIR_H1_INCOMPLETE && len >= head_max)
        return refuse_response(response, "The answer's head is too large");
    return result;
}

/* Chunks (RFC 9112 7.1)
 *
 *     SIZE --CR--> SIZE_LF --LF--> DATA --(all of it)--> DATA_CR --CR--> DATA_LF --LF--> SIZE
 *      |  ;        ^    |
 *      EXTENSION --CR   '--LF, size 0--> LINE --CR--> LAST_LF --LF--> DONE
 *                                        |  ^
 *                                     NAME  '--LF-- VALUE_LF
 *                                        '--:--> VALUE --CR--^
 *
 * SIZE goes to EXTENSION over SPACE where there is white space before the semicolon. Every byte that has no arrow
 * leads to BROKEN, which is never left. */

enum { CHUNK_DIGITS_MAX = 15, CHUNK_LINE_BYTES_MAX = 4096, TRAILER_BYTES_MAX = 8192 };

enum {
    CHUNK_SIZE,
    CHUNK_SPACE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    TRAILER_LINE,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_VALUE_LF,
    TRAILER_LAST_LF,
    CHUNK_DONE,
    CHUNK_BROKEN,
};

/* White space behind the size is there for an extension only (RFC 9112 7.1.1 has BWS before the semicolon). */
static uint8_t step_space(char byte)
{
    if (byte == ';')
        return CHUNK_EXTENSION;
    return byte == ' ' || byte == '\t' ? CHUNK_SPACE : CHUNK_BROKEN;
}

static uint8_t step_size_digit(weir_h1_chunks_t *chunks, char byte)
{
    int value = hex_value(byte);
    if (value >= 0 && chunks->hex_digits < CHUNK_DIGITS_MAX) {
        ++chunks->hex_digits;
        chunks->left = chunks->left << 4 | (unsigned)value;
        return CHUNK_SIZE;
    }
    if (chunks->hex_digits == 0)
        return CHUNK_BROKEN;
    return byte == '\r' ? CHUNK_SIZE_LF : step_space(byte);
}

static uint8_t step_size_lf(weir_h1_chunks_t *chunks, char byte)
{
    chunks->hex_digits = 0;
    chunks->line_bytes = 0;
    if (byte != '\n')
        return CHUNK_BROKEN;
    return chunks->left != 0 ? CHUNK_DATA : TRAILER_LINE;
}

/* Within a line that may hold all but controls: an extension or a trailer's value. */
static uint8_t step_text(char byte, uint8_t same, uint8_t after_cr)
{
    if (byte == '\r')
        return after_cr;
    return is_a(CONTROL, byte) ? CHUNK_BROKEN : same;
}

static uint8_t step_trailer_name(uint8_t state, char byte)
{
    if (is_a(TOKEN, byte))
        return TRAILER_NAME;
    if (state == TRAILER_LINE)
        return byte == '\r' ? TRAILER_LAST_LF : CHUNK_BROKEN;
    return byte == ':' ? TRAILER_VALUE : CHUNK_BROKEN;
}

/* The state after `byte`, which is no data. */
static uint8_t step(weir_h1_chunks_t *chunks, char byte)
{
    uint8_t state = chunks->state;
    if (state <= CHUNK_SIZE_LF && ++chunks->line_bytes > CHUNK_LINE_BYTES_MAX)
        return CHUNK_BROKEN;
    if (state >= TRAILER_LINE && ++chunks->trailer_bytes > TRAILER_BYTES_MAX)
        return CHUNK_BROKEN;
    switch (state) {
    case CHUNK_SIZE:
        return step_size_digit(chunks, byte);
    case CHUNK_SPACE:
        return step_space(byte);
    case CHUNK_EXTENSION:
        return step_text(byte, CHUNK_EXTENSION, CHUNK_SIZE_LF);
    case CHUNK_SIZE_LF:
        return step_size_lf(chunks, byte);
    case CHUNK_DATA_CR:
        return byte == '\r' ? CHUNK_DATA_LF : CHUNK_BROKEN;
    case CHUNK_DATA_LF:
        return byte == '\n' ? CHUNK_SIZE : CHUNK_BROKEN;
    case TRAILER_LINE:
    case TRAILER_NAME:
        return step_trailer_name(state, byte);
    case TRAILER_VALUE:
        return step_text(byte, TRAILER_VALUE, TRAILER_VALUE_LF);
    case TRAILER_VALUE_LF:
        return byte == '\n' ? TRAILER_LINE : CHUNK_BROKEN;
    case TRAILER_LAST_LF:
        return byte == '\n' ? CHUNK_DONE : CHUNK_BROKEN;
    default:
        return CHUNK_BROKEN;
    }
}

weir_h1_result_t weir_h1_chunks_read(weir_h1_chunks_t *chunks, const char *input, size_t len, weir_str_t *data,
                                     size_t *used)
{
    size_t at = 0;
    while (at != len && chunks->state != CHUNK_DATA && chunks->state < CHUNK_DONE)
        chunks->state = step(chunks, input[at++]);
    *data = (weir_str_t){input + at, 0};
    if (chunks->state == CHUNK_DATA) {
        data->len = chunks->left < len - at ? (size_t)chunks->left : len - at;
        at += data->len;
        chunks->left -= data->len;
        if (chunks->left == 0)
            chunks->state = CHUNK_DATA_CR;
    }
    *used = at;
    if (chunks->state == CHUNK_BROKEN)
        return WEIR_H1_REFUSED;
    return chunks->state == CHUNK_DONE ? WEIR_H1_COMPLETE : WEIR_H1_INCOMPLETE;
}

/* Paths */

/* The segment in [start, end) of `out`, its parameters cut, is `.` or `..`. An encoded `;` ends it here too: upstreams
 * that decode before they split read it so. */
static bool is_dot_segment(const char *out, size_t start, size_t end)
{
    size_t len = end - start, dot_count = 0;
    while (dot_count != len && out[start + dot_count] == '.')
        ++dot_count;
    if (dot_count != 1 && dot_count != 2)
        return false;
    return dot_count == len || (len - dot_count >= 3 && memcmp(out + start + dot_count, "%3B", 3) == 0);
}

/* The byte an escape stands for, or -1. */
static int decode_escape(const char *at, size_t len)
{
    int high = len >= 3 ? hex_value(at[1]) : -1;
    int low = high >= 0 ? hex_value(at[2]) : -1;
    return low >= 0 ? high << 4 | low : -1;
}

/* One character of a path. */
typedef struct {
    uint8_t byte; /* what it stands for */
    bool is_kept; /* an escape that stays one */
    size_t size;  /* in the target */
} path_char_t;

static const char *read_path_char(const char *at, size_t len, path_char_t *c)
{
    *c = (path_char_t){(uint8_t)*at, false, 1};
    if (*at == '%') {
        int value = decode_escape(at, len);
        if (value < 0)
            return "The path has a broken escape";
        if (value == 0)
            return "The path has an escaped NUL";
        *c = (path_char_t){(uint8_t)value, value != '/' && !is_a(UNRESERVED, (char)value), 3};
    }
    if (*at == '\\')
        return "The path has a backslash";
    if (!c->is_kept && !is_a(TARGET, (char)c->byte))
        return c->byte == '#' ? "The path has a fragment" : "The path has a byte that must be escaped";
    return NULL;
}

static size_t write_path_char(const path_char_t *c, char *out)
{
    static const char digits[] = "0123456789ABCDEF";
    out[0] = (char)c->byte;
    if (!c->is_kept)
        return 1;
    out[0] = '%';
    out[1] = digits[c->byte >> 4];
    out[2] = digits[c->byte & 15];
    return 3;
}

ptrdiff_t weir_h1_match_path(const char *target, size_t len, char *out, const char **detail)
{
    size_t out_len = 0, segment = 0; /* segment: where the current one starts in `out` */
    bool in_parameters = false;
    const char *query = memchr(target, '?', len);
    if (query != NULL)
        len = (size_t)(query - target);
    if (len == 0 || target[0] != '/') {
        *detail = "The target has no path";
        return -1;
    }
    path_char_t c;
    for (size_t at = 0; at != len; at += c.size) {
        *detail = read_path_char(target + at, len - at, &c);
        if (*detail != NULL)
            return -1;
        bool is_slash = c.byte == '/';
        if (is_slash && is_dot_segment(out, segment, out_len))
            break; /* seen again below */
        in_parameters = !is_slash && (in_parameters || (c.byte == ';' && !c.is_kept));
        if (in_parameters || (is_slash && out_len != 0 && segment == out_len))
            continue;
        out_len += write_path_char(&c, out + out_len);
        if (is_slash)
            segment = out_len;
    }
    if (is_dot_segment(out, segment, out_len)) {
        *detail = "The path has a dot segment";
        return -1;
    }
    return (ptrdiff_t)out_len;
}
