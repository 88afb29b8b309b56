#ifndef WEIR_PROXY_H1_PARSE_H
#define WEIR_PROXY_H1_PARSE_H

/* HTTP/1 heads and chunks, strict (RFC 9112). Pure: no socket, no allocation, no state but the caller's.
 *
 * Guarantee: what is accepted has one reading only. A head is either parsed whole, incomplete, or refused with the
 * reason the caller is told; nothing that RFC 9112 lets recipients guess about is let through. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "../conf/reasons.h"
#include "../filters/filter.h"

enum { WEIR_H1_FIELDS_MAX = 100 };

typedef enum { WEIR_H1_INCOMPLETE, WEIR_H1_COMPLETE, WEIR_H1_REFUSED } weir_h1_result_t;

typedef struct {
    weir_str_t name;       /* as written; lower-cased in place by the parser */
    const char *orig_name; /* as written, same length; NULL in answers */
    weir_str_t value;      /* without white space around it */
} weir_h1_field_t;

typedef enum {
    WEIR_H1_BODY_NONE, /* request: no length; answer: none by status or method */
    WEIR_H1_BODY_LENGTH,
    WEIR_H1_BODY_CHUNKED,
    WEIR_H1_BODY_CLOSE, /* answers only: until the connection ends */
} weir_h1_framing_t;

/* A request's head. All strings point into the input (names were lower-cased there; orig_name into `names`). */
typedef struct {
    weir_str_t method;
    weir_str_t target;    /* origin-form: path and query, byte-exact; "*" for OPTIONS * */
    weir_str_t authority; /* of Host, or of an absolute-form target; empty on HTTP/1.0 without */
    int minor_version;    /* 0 or 1 */
    weir_h1_field_t fields[WEIR_H1_FIELDS_MAX];
    size_t field_count; /* Host, Content-Length, Transfer-Encoding, Expect, Connection are among them */
    weir_h1_framing_t framing;
    uint64_t content_length;
    bool keep_alive;
    bool expect_continue;
    weir_str_t upgrade; /* value of Upgrade, if Connection names it */
    size_t size;        /* of the head, with the empty lines before it */
    /* WEIR_H1_REFUSED: */
    weir_reason_t reason; /* MALFORMED, HEAD_TOO_LARGE, UNSUPPORTED, METHOD, BODY_TOO_LARGE is the caller's business */
    int status;           /* 400, 431, 501, 505, 417, 405 */
    const char *detail;   /* one sentence */
} weir_h1_request_t;

/* Parses the head at the start of `input` (writable: names are lower-cased in place, but only once the head is complete
 * and accepted; an absolute-form target without a path gets its `/` then, for which its authority may move by a byte).
 * `seen` is how much of it an earlier, incomplete call saw (0 at first). `names` receives the names as they were
 * written: at least `size` of the head bytes. A head over `head_max` bytes or over WEIR_H1_FIELDS_MAX fields is refused
 * with HEAD_TOO_LARGE, as soon as that is certain. The verdict on a head, and its detail, are the same however it was
 * cut. REFUSED: method and target are set if the request line was read so far (the target as it came), else empty. With
 * 405, 417 and 501 the head was read whole: method, target, fields and size stand as with COMPLETE. INCOMPLETE:
 * `request` says nothing. */
weir_h1_result_t weir_h1_parse_request(char *input, size_t len, size_t seen, size_t head_max, char *names,
                                       weir_h1_request_t *request);

/* An upstream's head. */
typedef struct {
    int status;
    int minor_version;
    weir_h1_field_t fields[WEIR_H1_FIELDS_MAX];
    size_t field_count;
    weir_h1_framing_t framing;
    uint64_t content_length; /* framing LENGTH and NONE: what the field says; UINT64_MAX if there is none */
    bool keep_alive;
    int64_t keep_alive_timeout_s; /* of a Keep-Alive field; -1: none */
    size_t size;
    const char *detail; /* refused: what is wrong */
} weir_h1_response_t;

/* `head_request`: the request was a HEAD. 1xx heads are returned like others, with framing NONE. */
weir_h1_result_t weir_h1_parse_response(char *input, size_t len, size_t seen, size_t head_max, bool head_request,
                                        weir_h1_response_t *response);

/* Chunks. */
typedef struct {
    uint8_t state;
    uint8_t hex_digits;
    uint32_t line_bytes; /* of the current chunk line or trailer, bounded */
    uint32_t trailer_bytes;
    uint64_t left;  /* of the current chunk */
} weir_h1_chunks_t; /* zeroed at first */

/* Reads from `input`; each call gives at most one run of data: *data points into `input` (len 0 if none), *used is how
 * much of the input it consumed. COMPLETE: the last chunk and its trailer are consumed. INCOMPLETE with *used == len:
 * all was read; with *used < len: call again. Trailers are checked and thrown away. COMPLETE and REFUSED bring no data,
 * and are the answer of every later call too. */
weir_h1_result_t weir_h1_chunks_read(weir_h1_chunks_t *chunks, const char *input, size_t len, weir_str_t *data,
                                     size_t *used);

/* The path under which routes match: escapes of unreserved characters and of `/` decoded, `;parameters` cut, runs of
 * `/` as one, the query cut; escapes that stay have upper-case digits. Writes at most `len` bytes to `out`. Returns its
 * length, or -1 with *detail set: a `.` or `..` segment (also encoded, or followed by `;`), `%00`, `\` (also `%5C`),
 * `#`, a broken escape, no `/` at the start. What it gives is its own match path. */
ptrdiff_t weir_h1_match_path(const char *target, size_t len, char *out, const char **detail);

/* Whether `name` (lower case) is one of the comma-separated tokens of `list`, in any case (RFC 9110 5.6.1). */
bool weir_h1_list_has(weir_str_t list, weir_str_t name);

#endif
