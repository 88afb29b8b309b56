#ifndef WEIR_CONF_SCALAR_H
#define WEIR_CONF_SCALAR_H

/* The notations of single values, both ways: text to value, value to text.
 *
 * A parser returns NULL when `text` is right, else what would be right ("write ..."), as static text. Parsers overflow
 * never: what is beyond their type is not right. Strings of a result are copied into `arena`. */

#include "arena.h"
#include "conf.h"

#define WEIR_CONF_NS_PER_MS INT64_C(1000000)
#define WEIR_CONF_NS_PER_S INT64_C(1000000000)

const char *weir_conf_parse_count(const char *text, int64_t *value);       /* 0 .. INT64_MAX */
const char *weir_conf_parse_duration(const char *text, int64_t *value_ns); /* 0 .. 100 years */
const char *weir_conf_parse_size(const char *text, uint64_t *value_bytes); /* 0 .. 2^63 - 1 */
/* Decimal numbers, no exponent: 1.25 is 1250000, 12.5% is 125000; no more digits after the point than fit. */
const char *weir_conf_parse_weight(const char *text, int64_t *value_micros);
const char *weir_conf_parse_percent(const char *text, int64_t *value_ppm);
/* 1e-6 or 0.001: with an exponent one digit before the point, and not 0. */
const char *weir_conf_parse_probability(const char *text, double *value);
const char *weir_conf_parse_rate(const char *text, weir_conf_rate_t *rate);
const char *weir_conf_parse_cidr(const char *text, weir_conf_cidr_t *cidr);
const char *weir_conf_parse_address(const char *text, weir_conf_arena_t *arena, weir_conf_address_t *address);
const char *weir_conf_parse_server_address(const char *text, weir_conf_arena_t *scratch); /* of one to connect to */
const char *weir_conf_parse_url(const char *text, weir_conf_arena_t *arena, weir_conf_url_t *url, const char **prefix);
const char *weir_conf_parse_prefix(const char *text);
const char *weir_conf_parse_path(const char *text);         /* of a route */
const char *weir_conf_parse_host_name(const char *text);    /* a name or an address; an IPv6 one in brackets */
const char *weir_conf_parse_header(const char *text);       /* a field's name (RFC 9110, 5.1) */
const char *weir_conf_parse_own_header(const char *text);   /* one that weir may write */
const char *weir_conf_parse_sent_header(const char *text);  /* one that a user may write, or take away */
const char *weir_conf_parse_header_value(const char *text); /* without spaces around it (RFC 9110, 5.5) */
const char *weir_conf_parse_model(const char *text);
const char *weir_conf_parse_model_pattern(const char *text);   /* with a * at one end, perhaps */
const char *weir_conf_parse_server_name(const char *text);     /* a name or an address, without brackets */
const char *weir_conf_parse_key_header(const char *text);      /* one that requests may be counted by */
const char *weir_conf_parse_priority_header(const char *text); /* one that weir may take away, too */
const char *weir_conf_parse_bypass_header(const char *text);   /* the same */
const char *weir_conf_parse_dedup_header(const char *text);    /* one that may tell a request from all others */
const char *weir_conf_parse_json_pointer(const char *text);    /* "/a/0", at most 255 bytes; not "", all of it */
const char *weir_conf_parse_method(const char *text);
const char *weir_conf_parse_name(const char *text); /* of limits, dedups, upstreams, listeners */
const char *weir_conf_parse_tenant(const char *text);
const char *weir_conf_parse_sha256(const char *text, uint8_t sha256[32]);
const char *weir_conf_parse_secret(const char *text);
const char *weir_conf_parse_password(const char *text);
const char *weir_conf_parse_log_target(const char *text);

/* Units of durations and sizes, the largest first; the last has the factor 1 or is the smallest. */
typedef struct {
    const char *name;
    int64_t factor;
} weir_conf_scale_t;

extern const weir_conf_scale_t weir_conf_duration_units[4], weir_conf_size_units[4], weir_conf_rate_units[4];

/* The shortest notation that is exact. */
enum { WEIR_CONF_SCALAR_BYTES_MAX = 64 };
void weir_conf_format_duration(int64_t value_ns, char text[WEIR_CONF_SCALAR_BYTES_MAX]);
void weir_conf_format_size(uint64_t value_bytes, char text[WEIR_CONF_SCALAR_BYTES_MAX]);
void weir_conf_format_weight(int64_t value_micros, char text[WEIR_CONF_SCALAR_BYTES_MAX]);
void weir_conf_format_percent(int64_t value_ppm, char text[WEIR_CONF_SCALAR_BYTES_MAX]);
void weir_conf_format_probability(double value, char text[WEIR_CONF_SCALAR_BYTES_MAX]);
void weir_conf_format_rate(weir_conf_rate_t rate, char text[WEIR_CONF_SCALAR_BYTES_MAX]);
void weir_conf_format_cidr(const weir_conf_cidr_t *cidr, char text[WEIR_CONF_SCALAR_BYTES_MAX]);

#endif
