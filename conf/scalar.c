#include "scalar.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>

const weir_conf_scale_t weir_conf_duration_units[4] = {{"h", 3600 * WEIR_CONF_NS_PER_S},
                                                       {"m", 60 * WEIR_CONF_NS_PER_S},
                                                       {"s", WEIR_CONF_NS_PER_S},
                                                       {"ms", WEIR_CONF_NS_PER_MS}};
const weir_conf_scale_t weir_conf_size_units[4] = {
    {"GiB", INT64_C(1) << 30}, {"MiB", INT64_C(1) << 20}, {"KiB", INT64_C(1) << 10}, {"", 1}};
const weir_conf_scale_t weir_conf_rate_units[4] = {{"d", 86400 * WEIR_CONF_NS_PER_S},
                                                   {"h", 3600 * WEIR_CONF_NS_PER_S},
                                                   {"m", 60 * WEIR_CONF_NS_PER_S},
                                                   {"s", WEIR_CONF_NS_PER_S}};

static const int64_t duration_max_ns = INT64_C(876000) * 3600 * WEIR_CONF_NS_PER_S; /* 100 years */

/* Digits without a sign or a leading zero; *end is what follows. */
static bool parse_digits(const char *text, int64_t *value, const char **end)
{
    if (!isdigit((unsigned char)*text) || (*text == '0' && isdigit((unsigned char)text[1])))
        return false;
    for (*value = 0; isdigit((unsigned char)*text); ++text)
        if (__builtin_mul_overflow(*value, INT64_C(10), value) || __builtin_add_overflow(*value, *text - '0', value))
            return false;
    *end = text;
    return true;
}

static const weir_conf_scale_t *find_unit(const char *name, const weir_conf_scale_t units[4])
{
    for (size_t i = 0; i < 4; ++i)
        if (strcmp(units[i].name, name) == 0)
            return &units[i];
    return NULL;
}

static bool parse_with_unit(const char *text, const weir_conf_scale_t units[4], int64_t *value)
{
    const char *end;
    if (!parse_digits(text, value, &end))
        return false;
    const weir_conf_scale_t *unit = find_unit(end, units);
    return unit != NULL && !__builtin_mul_overflow(*value, unit->factor, value);
}

static void format_with_unit(int64_t value, const weir_conf_scale_t units[4], char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    size_t i = 0;
    while (i < 3 && value % units[i].factor != 0)
        ++i;
    snprintf(text, WEIR_CONF_SCALAR_BYTES_MAX, "%" PRId64 "%s", value / units[i].factor, units[i].name);
}

const char *weir_conf_parse_count(const char *text, int64_t *value)
{
    const char *end;
    return parse_digits(text, value, &end) && *end == '\0' ? NULL : "write a whole number";
}

const char *weir_conf_parse_duration(const char *text, int64_t *value_ns)
{
    if (!parse_with_unit(text, weir_conf_duration_units, value_ns))
        return "write a count and a unit, such as 250ms, 30s, 10m, 24h";
    return *value_ns <= duration_max_ns ? NULL : "write at most 876000h (100 years)";
}

const char *weir_conf_parse_size(const char *text, uint64_t *value_bytes)
{
    int64_t value;
    if (!parse_with_unit(text, weir_conf_size_units, &value))
        return "write bytes, or a count and a unit, such as 512, 64KiB, 16MiB, 1GiB";
    *value_bytes = (uint64_t)value;
    return NULL;
}

/* A decimal number times 10^`digits`, which must be whole; *end is what follows. */
static bool parse_decimal(const char *text, unsigned digits, int64_t *value, const char **end)
{
    const char *at;
    if (!parse_digits(text, value, &at))
        return false;
    bool has_point = *at == '.';
    at += has_point;
    if (has_point && !isdigit((unsigned char)*at))
        return false;
    for (; digits > 0; --digits) {
        int64_t digit = has_point && isdigit((unsigned char)*at) ? *at++ - '0' : 0;
        if (__builtin_mul_overflow(*value, INT64_C(10), value) || __builtin_add_overflow(*value, digit, value))
            return false;
    }
    *end = at;
    return !isdigit((unsigned char)*at);
}

const char *weir_conf_parse_weight(const char *text, int64_t *value_micros)
{
    const char *end;
    if (parse_decimal(text, 6, value_micros, &end) && *end == '\0')
        return NULL;
    return "write a number with at most 6 digits after the point, such as 1, 0.1, 1.25";
}

const char *weir_conf_parse_percent(const char *text, int64_t *value_ppm)
{
    const char *end;
    if (parse_decimal(text, 4, value_ppm, &end) && strcmp(end, "%") == 0)
        return NULL;
    return "write a number and %, such as 25%";
}

static const char *skip_digits(const char *text)
{
    return text + strspn(text, "0123456789");
}

const char *weir_conf_parse_probability(const char *text, double *value)
{
    static const char right[] = "write a number, such as 1e-6 or 0.001";
    const char *end = skip_digits(text);
    bool is_one_digit = end == text + 1 && *text != '0';
    if (end == text || (*text == '0' && end != text + 1) || strlen(text) > 40)
        return right;
    if (*end == '.' && !isdigit((unsigned char)end[1]))
        return right;
    if (*end == '.')
        end = skip_digits(end + 1);
    if ((*end == 'e' || *end == 'E') && is_one_digit && end[1] == '-' && isdigit((unsigned char)end[2]))
        end = skip_digits(end + 2);
    *value = strtod(text, NULL);
    return *end == '\0' ? NULL : right;
}

const char *weir_conf_parse_rate(const char *text, weir_conf_rate_t *rate)
{
    static const char right[] = "write a count and a unit, such as 50/s, 600/m, 10000/h";
    const char *end;
    if (!parse_digits(text, &rate->count, &end) || *end != '/')
        return right;
    const weir_conf_scale_t *unit = find_unit(end + 1, weir_conf_rate_units);
    if (unit == NULL)
        return right;
    rate->period_ns = unit->factor;
    return NULL;
}

void weir_conf_format_duration(int64_t value_ns, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    if (value_ns == 0)
        strcpy(text, "0s");
    else
        format_with_unit(value_ns, weir_conf_duration_units, text);
}

void weir_conf_format_size(uint64_t value_bytes, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    if (value_bytes == 0)
        strcpy(text, "0");
    else
        format_with_unit((int64_t)value_bytes, weir_conf_size_units, text);
}

/* value / 10^digits */
static void format_decimal(int64_t value, unsigned digits, const char *unit, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    int64_t whole = 1;
    for (unsigned i = 0; i < digits; ++i)
        whole *= 10;
    int len =
        snprintf(text, WEIR_CONF_SCALAR_BYTES_MAX, "%" PRId64 ".%0*" PRId64, value / whole, (int)digits, value % whole);
    while (text[len - 1] == '0')
        --len;
    if (text[len - 1] == '.')
        --len;
    snprintf(text + len, WEIR_CONF_SCALAR_BYTES_MAX - (size_t)len, "%s", unit);
}

void weir_conf_format_weight(int64_t value_micros, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    format_decimal(value_micros, 6, "", text);
}

void weir_conf_format_percent(int64_t value_ppm, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    format_decimal(value_ppm, 4, "%", text);
}

void weir_conf_format_probability(double value, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    int digits = 1;
    do
        snprintf(text, WEIR_CONF_SCALAR_BYTES_MAX, "%.*g", digits, value);
    while (strtod(text, NULL) != value && ++digits <= 17);
    char *exponent = strstr(text, "e-0"); /* 1e-06 */
    if (exponent != NULL)
        memmove(exponent + 2, exponent + 3, strlen(exponent + 3) + 1);
}

void weir_conf_format_rate(weir_conf_rate_t rate, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    const weir_conf_scale_t *unit = weir_conf_rate_units;
    while (unit < &weir_conf_rate_units[3] && unit->factor != rate.period_ns)
        ++unit;
    snprintf(text, WEIR_CONF_SCALAR_BYTES_MAX, "%" PRId64 "/%s", rate.count, unit->name);
}

static bool has_bits_beyond(const weir_conf_cidr_t *cidr)
{
    unsigned width = cidr->family == AF_INET ? 32 : 128;
    for (unsigned bit = cidr->prefix_length; bit < width; ++bit)
        if (cidr->address[bit / 8] >> (7 - bit % 8) & 1)
            return true;
    return false;
}

const char *weir_conf_parse_cidr(const char *text, weir_conf_cidr_t *cidr)
{
    static const char right[] = "write an address and a prefix length, such as 10.0.0.0/8 or fd00::/8";
    char address[INET6_ADDRSTRLEN];
    size_t len = strcspn(text, "/");
    if (len >= sizeof(address))
        return right;
    memcpy(address, text, len);
    address[len] = '\0';
    memset(cidr, 0, sizeof(*cidr));
    cidr->family = strchr(address, ':') != NULL ? AF_INET6 : AF_INET;
    if (inet_pton(cidr->family, address, cidr->address) != 1)
        return right;
    int64_t width = cidr->family == AF_INET ? 32 : 128, prefix_length = width;
    const char *end = "";
    if (text[len] == '/' && (!parse_digits(text + len + 1, &prefix_length, &end) || *end != '\0'))
        return right;
    if (prefix_length > width)
        return width == 32 ? "write a prefix length from 0 to 32" : "write a prefix length from 0 to 128";
    cidr->prefix_length = (unsigned)prefix_length;
    return has_bits_beyond(cidr) ? "write zeros in the address beyond the prefix length" : NULL;
}

void weir_conf_format_cidr(const weir_conf_cidr_t *cidr, char text[WEIR_CONF_SCALAR_BYTES_MAX])
{
    char address[INET6_ADDRSTRLEN] = "";
    inet_ntop(cidr->family, cidr->address, address, sizeof(address));
    snprintf(text, WEIR_CONF_SCALAR_BYTES_MAX, "%s/%u", address, cidr->prefix_length);
}

/* ---- addresses and urls ---- */

static const char unix_right[] =
    "write unix:// and an absolute path of at most 107 bytes, such as unix:///run/weir.sock";

/* *path where `text` is unix://..., else NULL. */
static const char *parse_unix(const char *text, weir_conf_arena_t *arena, const char **path)
{
    struct sockaddr_un sockaddr;
    const char *at = text + strlen("unix://");
    size_t len = strlen(at);
    if (*at != '/' || len < 2 || len >= sizeof(sockaddr.sun_path) || at[len - 1] == '/')
        return unix_right;
    *path = weir_conf_arena_copy(arena, at, len);
    return NULL;
}

static bool parse_port(const char *text, uint16_t *port)
{
    int64_t value;
    const char *end;
    if (!parse_digits(text, &value, &end) || *end != '\0' || value < 1 || value > UINT16_MAX)
        return false;
    *port = (uint16_t)value;
    return true;
}

static bool is_numeric(int family, const char *host)
{
    uint8_t address[16];
    return inet_pton(family, host, address) == 1;
}

/* `host:port`, `[v6]:port` or `host` into its parts, without brackets; `*port` is NULL where there is none. */
static bool split_authority(const char *text, size_t len, weir_conf_arena_t *arena, char **host, const char **port)
{
    const char *colon = memrchr(text, ':', len);
    bool is_bracketed = len > 0 && *text == '[';
    if (is_bracketed) {
        const char *bracket = memchr(text, ']', len);
        if (bracket == NULL)
            return false;
        size_t host_len = (size_t)(bracket - text) + 1;
        if (host_len != len && text[host_len] != ':')
            return false;
        *host = weir_conf_arena_copy(arena, text + 1, host_len - 2);
        *port = host_len == len ? NULL : weir_conf_arena_copy(arena, text + host_len + 1, len - host_len - 1);
        return is_numeric(AF_INET6, *host);
    }
    size_t host_len = colon != NULL ? (size_t)(colon - text) : len;
    *host = weir_conf_arena_copy(arena, text, host_len);
    *port = colon != NULL ? weir_conf_arena_copy(arena, colon + 1, len - host_len - 1) : NULL;
    return host_len > 0 && strchr(*host, ':') == NULL;
}

const char *weir_conf_parse_address(const char *text, weir_conf_arena_t *arena, weir_conf_address_t *address)
{
    static const char right[] = "write an address and a port, such as 127.0.0.1:8080, [::1]:8080 or \"*:8080\", or "
                                "unix:///path";
    address->text = weir_conf_arena_copy(arena, text, strlen(text));
    if (strncmp(text, "unix:", 5) == 0) {
        address->kind = WEIR_ADDRESS_UNIX;
        return strncmp(text, "unix://", 7) == 0 ? parse_unix(text, arena, &address->path) : unix_right;
    }
    char *host;
    const char *port;
    address->kind = WEIR_ADDRESS_TCP;
    if (!split_authority(text, strlen(text), arena, &host, &port) || port == NULL)
        return right;
    if (!parse_port(port, &address->port))
        return "write a port from 1 to 65535";
    if (strcmp(host, "*") == 0)
        return NULL;
    address->host = strcmp(host, "localhost") == 0 ? "127.0.0.1" : host;
    if (is_numeric(AF_INET, address->host) || (*text == '[' && is_numeric(AF_INET6, host)))
        return NULL;
    return right;
}

static bool is_host_name(const char *text)
{
    size_t len = strlen(text);
    if (len == 0 || len > 253)
        return false;
    for (const char *label = text; *label != '\0';) {
        size_t label_len = strcspn(label, ".");
        if (label_len == 0 || label_len > 63 || label[0] == '-' || label[label_len - 1] == '-')
            return false;
        for (size_t i = 0; i < label_len; ++i)
            if (!isalnum((unsigned char)label[i]) && label[i] != '-' && label[i] != '_')
                return false;
        label += label_len;
        if (*label == '.')
            ++label;
    }
    /* an address that is none, such as 256.1.1.1 or 10.1, is not a name either */
    return strspn(text, "0123456789.") != len || is_numeric(AF_INET, text);
}

const char *weir_conf_parse_server_address(const char *text, weir_conf_arena_t *scratch)
{
    char *host;
    const char *path, *port_text;
    uint16_t port;
    if (strncmp(text, "unix:", 5) == 0)
        return strncmp(text, "unix://", 7) == 0 ? parse_unix(text, scratch, &path) : unix_right;
    if (strstr(text, "://") != NULL || strchr(text, '@') != NULL)
        return "write host:port alone; users, passwords and TLS have fields of their own";
    if (!split_authority(text, strlen(text), scratch, &host, &port_text) || port_text == NULL ||
        (*text != '[' && !is_host_name(host)))
        return "write a host and a port, such as redis:6379 or [::1]:6379, or unix:///path";
    return parse_port(port_text, &port) ? NULL : "write a port from 1 to 65535";
}

static const char *parse_http_authority(const char *text, size_t len, weir_conf_arena_t *arena, weir_conf_url_t *url)
{
    char *host;
    const char *port;
    if (memchr(text, '@', len) != NULL)
        return "write it without a user; credentials do not belong in a url";
    if (!split_authority(text, len, arena, &host, &port) || (*text != '[' && !is_host_name(host)))
        return "write a host and perhaps a port, such as http://agent:9000 or http://[::1]:9000";
    int port_left_out = url->is_tls ? 443 : 80;
    url->port = (uint16_t)port_left_out;
    if (port != NULL && !parse_port(port, &url->port))
        return "write a port from 1 to 65535";
    for (char *at = host; *at != '\0'; ++at)
        *at = (char)tolower((unsigned char)*at);
    url->host = host;
    bool is_v6 = *text == '[';
    const char *open = is_v6 ? "[" : "", *close = is_v6 ? "]" : "";
    url->authority = url->port == port_left_out
                         ? weir_conf_arena_printf(arena, "%s%s%s", open, host, close)
                         : weir_conf_arena_printf(arena, "%s%s%s:%u", open, host, close, url->port);
    return NULL;
}

const char *weir_conf_parse_url(const char *text, weir_conf_arena_t *arena, weir_conf_url_t *url, const char **prefix)
{
    url->text = weir_conf_arena_copy(arena, text, strlen(text));
    *prefix = "";
    if (strncmp(text, "unix://", 7) == 0) {
        url->kind = WEIR_UPSTREAM_UNIX;
        url->authority = "localhost";
        return parse_unix(text, arena, &url->path);
    }
    url->kind = WEIR_UPSTREAM_HTTP;
    url->is_tls = strncmp(text, "https://", 8) == 0;
    if (!url->is_tls && strncmp(text, "http://", 7) != 0)
        return "write http://host:port, https://host or unix:///path";
    const char *authority = text + (url->is_tls ? 8 : 7);
    size_t authority_len = strcspn(authority, "/?#");
    const char *path = authority + authority_len;
    const char *error = parse_http_authority(authority, authority_len, arena, url);
    if (error != NULL)
        return error;
    if (strpbrk(path, "?#") != NULL)
        return "write the url without a query and a fragment";
    if (*path == '\0' || strcmp(path, "/") == 0)
        return NULL;
    size_t len = strlen(path);
    *prefix = weir_conf_arena_copy(arena, path, path[len - 1] == '/' ? len - 1 : len);
    return weir_conf_parse_prefix(*prefix);
}

/* ---- paths ---- */

static bool is_path_byte(unsigned char byte)
{
    return isalnum(byte) ||
           (byte != '\0' && strchr("-._~!$&'()*+,=:@/%", byte) != NULL); /* RFC 3986 pchar, without ; */
}

static bool is_dot_segment(const char *segment, size_t len)
{
    return (len == 1 && segment[0] == '.') || (len == 2 && segment[0] == '.' && segment[1] == '.');
}

/* Segments that a request's path can have: none empty, `.` or `..`, no broken escape, no parameters. */
static const char *check_segments(const char *text)
{
    if (*text != '/')
        return "write a path that begins with /";
    for (const char *at = text; *at != '\0'; ++at) {
        if (!is_path_byte((unsigned char)*at))
            return "write a path of letters, digits, -._~!$&'()*+,=:@/ and %XX";
        if (*at == '%' && (!isxdigit((unsigned char)at[1]) || !isxdigit((unsigned char)at[2])))
            return "write two hex digits after each % of the path";
        if (*at == '/') {
            size_t len = strcspn(at + 1, "/");
            if (is_dot_segment(at + 1, len))
                return "write the path without . and .. segments";
            if (len == 0 && at[1] == '/')
                return "write single slashes in the path";
        }
    }
    return NULL;
}

const char *weir_conf_parse_prefix(const char *text)
{
    const char *error = check_segments(text);
    if (error != NULL)
        return error;
    return text[strlen(text) - 1] == '/' ? "write the path without a / at its end" : NULL;
}

static int hex_value(char digit)
{
    return isdigit((unsigned char)digit) ? digit - '0' : tolower((unsigned char)digit) - 'a' + 10;
}

const char *weir_conf_parse_path(const char *text)
{
    const char *error = check_segments(text);
    if (error != NULL)
        return error;
    for (const char *at = strchr(text, '%'); at != NULL; at = strchr(at + 1, '%')) {
        int byte = hex_value(at[1]) * 16 + hex_value(at[2]);
        if (isalnum(byte) || (byte != 0 && strchr("-._~/", byte) != NULL))
            return "write letters, digits and -._~/ as they are: requests match with these escapes decoded";
        if (byte == 0)
            return "write the path without %00";
    }
    return NULL;
}

/* ---- words of HTTP ---- */

static bool is_token_byte(unsigned char byte)
{
    return isalnum(byte) || (byte != '\0' && strchr("!#$%&'*+-.^_`|~", byte) != NULL); /* RFC 9110, 5.6.2 */
}

static bool is_token(const char *text)
{
    if (*text == '\0')
        return false;
    for (; *text != '\0'; ++text)
        if (!is_token_byte((unsigned char)*text))
            return false;
    return true;
}

static bool is_one_of(const char *text, const char *const *names)
{
    while (*names != NULL && strcasecmp(text, *names) != 0)
        ++names;
    return *names != NULL;
}

static bool has_prefix(const char *text, const char *prefix)
{
    return strncasecmp(text, prefix, strlen(prefix)) == 0;
}

/* These say how a message is carried; a request as a whole has none of them (RFC 9110, 7.6.1). */
static const char *const framing_names[] = {"connection", "content-length", "keep-alive",        "proxy-connection",
                                            "te",         "trailer",        "transfer-encoding", "upgrade",
                                            NULL};

const char *weir_conf_parse_header(const char *text)
{
    return is_token(text) ? NULL : "write the name of a header field";
}

const char *weir_conf_parse_own_header(const char *text)
{
    static const char *const taken[] = {"content-type", "cookie",      "date",       "expect", "host",
                                        "set-cookie",   "traceparent", "tracestate", "via",    NULL};
    if (is_one_of(text, framing_names) || is_one_of(text, taken))
        return "write a name that HTTP gives no other meaning";
    return weir_conf_parse_header(text);
}

/* Those that frame a message, are of one connection, or follow from other fields of the configuration. */
const char *weir_conf_parse_sent_header(const char *text)
{
    static const struct {
        const char *name, *right;
    } taken[] = {
        {"connection", NULL},
        {"content-length", NULL},
        {"expect", NULL},
        {"host", "leave it out; what goes up is told by host: upstream or preserve"},
        {"keep-alive", NULL},
        {"proxy-connection", NULL},
        {"te", NULL},
        {"traceparent", "leave it out; whether it goes up is told by forward"},
        {"tracestate", "leave it out; whether it goes up is told by forward"},
        {"trailer", NULL},
        {"transfer-encoding", NULL},
        {"upgrade", NULL},
    };
    for (size_t i = 0; i < sizeof(taken) / sizeof(*taken); ++i)
        if (strcasecmp(taken[i].name, text) == 0)
            return taken[i].right != NULL ? taken[i].right : "leave it out; weir writes it as each connection needs it";
    return strlen(text) <= 64 ? weir_conf_parse_header(text) : "write a name of at most 64 characters";
}

const char *weir_conf_parse_header_value(const char *text)
{
    size_t len = strlen(text), end = len;
    while (end > 0 && strchr(" \t\r\n", text[end - 1]) != NULL)
        --end;
    for (size_t i = strspn(text, " \t\r\n"); i < end; ++i)
        if ((text[i] < 0x20 && text[i] != '\t') || text[i] >= 0x7f)
            return "write visible ASCII characters, and spaces between them";
    return len <= 8192 ? NULL : "write at most 8192 characters";
}

static bool is_model(const char *text)
{
    size_t len = strlen(text);
    for (const char *at = text; *at != '\0'; ++at)
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return false;
    return len >= 1 && len <= 256;
}

const char *weir_conf_parse_model(const char *text)
{
    if (strchr(text, '*') != NULL)
        return "write one whole name; only a route's models can have a *";
    return is_model(text) ? NULL : "write its name, of 1 to 256 bytes, such as gpt-4o";
}

const char *weir_conf_parse_model_pattern(const char *text)
{
    const char *star = strchr(text, '*');
    if (star != NULL && (strchr(star + 1, '*') != NULL || (star != text && star[1] != '\0')))
        return "write one * at most, at an end of the name, such as \"claude-*\"";
    return is_model(text) ? NULL : "write its name, of 1 to 256 bytes, such as gpt-4o or \"claude-*\"";
}

const char *weir_conf_parse_server_name(const char *text)
{
    size_t len = strlen(text);
    bool is_name = is_host_name(text) && text[len - 1] != '.';
    return is_name || is_numeric(AF_INET6, text) ? NULL : "write a name or an address, such as api.example.com";
}

const char *weir_conf_parse_key_header(const char *text)
{
    if (strcasecmp(text, "host") == 0)
        return "write route in place of it, and a route with a host for each that counts by itself";
    if (is_one_of(text, framing_names))
        return "write one that says something of the caller, such as X-Plan";
    return weir_conf_parse_header(text);
}

static const char *const credential_names[] = {"api-key", "authorization", "proxy-authorization", "x-api-key", NULL};

static bool is_free_header(const char *text)
{
    bool is_taken = is_one_of(text, credential_names) || has_prefix(text, "accept") || has_prefix(text, "content-");
    return !is_taken && is_token(text) && weir_conf_parse_own_header(text) == NULL;
}

const char *weir_conf_parse_priority_header(const char *text)
{
    return is_free_header(text) ? NULL : "write a name that HTTP gives no other meaning, such as X-Priority";
}

const char *weir_conf_parse_bypass_header(const char *text)
{
    return is_free_header(text) ? NULL : "write a name that HTTP gives no other meaning, such as X-Replay";
}

const char *weir_conf_parse_dedup_header(const char *text)
{
    if (is_one_of(text, credential_names) || weir_conf_parse_own_header(text) != NULL)
        return "write one that tells a request from all others, such as Idempotency-Key";
    return NULL;
}

const char *weir_conf_parse_json_pointer(const char *text)
{
    if (*text != '/')
        return "write one that begins with /, such as /job_id";
    if (strlen(text) > 255)
        return "write at most 255 bytes";
    for (const char *at = text; *at != '\0'; ++at) {
        if (*at == '~' && at[1] != '0' && at[1] != '1')
            return "write ~0 for ~, and ~1 for a / in a name";
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            return "write one without control characters";
    }
    return NULL;
}

const char *weir_conf_parse_method(const char *text)
{
    if (strcmp(text, "CONNECT") == 0 || strcmp(text, "TRACE") == 0)
        return "leave it out; CONNECT and TRACE are always answered with 405";
    for (const char *at = text; *at != '\0'; ++at)
        if (!isupper((unsigned char)*at) && !isdigit((unsigned char)*at) && strchr("-_", *at) == NULL)
            return "write it in capital letters, such as GET";
    return isupper((unsigned char)*text) ? NULL : "write it in capital letters, such as GET";
}

const char *weir_conf_parse_host_name(const char *text)
{
    size_t len = strlen(text);
    if (len > 2 && text[0] == '[' && text[len - 1] == ']' && len - 2 < INET6_ADDRSTRLEN) {
        char address[INET6_ADDRSTRLEN];
        memcpy(address, text + 1, len - 2);
        address[len - 2] = '\0';
        if (is_numeric(AF_INET6, address))
            return NULL;
    }
    return is_host_name(text) ? NULL : "write a name or an address without a port, such as api.example.com";
}

/* ---- names and secrets ---- */

const char *weir_conf_parse_name(const char *text)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz", others[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    size_t len = strlen(text);
    bool is_name = len >= 1 && len <= 63 && strspn(text, letters) >= 1 && strspn(text, others) == len;
    return is_name ? NULL : "write at most 63 small letters, digits and hyphens, a letter first";
}

const char *weir_conf_parse_tenant(const char *text)
{
    size_t len = strlen(text);
    bool is_tenant = len >= 1 && len <= 128;
    for (size_t i = 0; is_tenant && i < len; ++i)
        is_tenant = isalnum((unsigned char)text[i]) || strchr("._:@/-", text[i]) != NULL;
    return is_tenant ? NULL : "write 1 to 128 letters, digits and ._:@/-";
}

const char *weir_conf_parse_sha256(const char *text, uint8_t sha256[32])
{
    size_t len = strlen(text);
    bool is_hex = len == 64;
    for (size_t i = 0; is_hex && i < len; ++i)
        is_hex = isxdigit((unsigned char)text[i]) != 0;
    if (!is_hex)
        return "write 64 hex digits: printf %s \"$KEY\" | sha256sum";
    for (size_t i = 0; i < 32; ++i)
        sha256[i] = (uint8_t)(hex_value(text[2 * i]) * 16 + hex_value(text[2 * i + 1]));
    return NULL;
}

const char *weir_conf_parse_secret(const char *text)
{
    for (const char *at = text; *at != '\0'; ++at)
        if (*at <= 0x20 || *at >= 0x7f)
            return "write visible ASCII characters without spaces";
    return *text != '\0' ? NULL : "write at least one character";
}

const char *weir_conf_parse_password(const char *text)
{
    for (const char *at = text; *at != '\0'; ++at)
        if (*at < ' ' || *at > '~')
            return "write ASCII characters that can be printed; spaces are fine";
    return *text != '\0' ? NULL : "write at least one character";
}

const char *weir_conf_parse_log_target(const char *text)
{
    bool is_word = strcmp(text, "stdout") == 0 || strcmp(text, "stderr") == 0 || strcmp(text, "none") == 0;
    return is_word || *text == '/' ? NULL : "write stdout, stderr, none or the absolute path of a file";
}
