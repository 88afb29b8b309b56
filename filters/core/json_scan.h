#ifndef WEIR_FILTERS_CORE_JSON_SCAN_H
#define WEIR_FILTERS_CORE_JSON_SCAN_H

/* JSON (RFC 8259) as a stream of tokens, pushed in pieces of any size; nothing is kept but the short ones.
 *
 * Guarantee: tokens do not depend on how the bytes are cut; it takes what RFC 8259 takes and nothing else, but that it
 * does not check UTF-8 (a byte of 128 and more may stand in a string) and nests at most WEIR_JSON_DEPTH_MAX deep. Half
 * of a surrogate pair alone is decoded as U+FFFD. A long string is skipped eight bytes at a time. No memory but this
 * struct. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WEIR_JSON_DEPTH_MAX = 512,
    WEIR_JSON_TEXT_MAX = 256, /* of a string or number: more is counted, and told as is_long */
};

#define WEIR_JSON_INTEGER_MAX (INT64_C(1) << 53) /* beyond it a double is not exact */

typedef enum {
    WEIR_JSON_TOKEN_BEGIN_OBJECT,
    WEIR_JSON_TOKEN_END_OBJECT,
    WEIR_JSON_TOKEN_BEGIN_ARRAY,
    WEIR_JSON_TOKEN_END_ARRAY,
    WEIR_JSON_TOKEN_NAME, /* of a member */
    WEIR_JSON_TOKEN_STRING,
    WEIR_JSON_TOKEN_NUMBER,
    WEIR_JSON_TOKEN_TRUE,
    WEIR_JSON_TOKEN_FALSE,
    WEIR_JSON_TOKEN_NULL,
} weir_json_token_kind_t;

typedef struct {
    weir_json_token_kind_t kind;
    unsigned depth;      /* of what it stands in: 0 for the outermost value; of an END, as of its BEGIN */
    const char *text;    /* NAME, STRING (decoded) and NUMBER (as written), NUL-terminated; valid during the call */
    size_t len;          /* of text, in which a NUL may stand too */
    bool is_long;        /* longer than WEIR_JSON_TEXT_MAX - 1: text is its beginning */
    uint64_t text_bytes; /* of a NAME or STRING, as written, without its quotes */
    uint64_t at, end;    /* offsets of its first byte, and behind its last one */
} weir_json_token_t;

typedef struct {
    void (*on_token)(void *context, const weir_json_token_t *token);
    void *context;
    uint64_t offset; /* bytes read: to the end of the value, or the byte that is not JSON */
    /* its own */
    const char *piece; /* what is being read */
    uint8_t state, literal, literal_at, unicode_left;
    bool is_name, is_long;
    bool is_open; /* a string has begun and not ended */
    uint16_t depth;
    uint16_t unicode, surrogate; /* the escape that is being read; the first half of a pair that was read */
    uint16_t text_len;
    uint64_t token_at;
    uint8_t nesting[WEIR_JSON_DEPTH_MAX / 8]; /* a bit a level: 1 is an object */
    char text[WEIR_JSON_TEXT_MAX];
} weir_json_scan_t;

typedef enum { WEIR_JSON_MORE, WEIR_JSON_DONE, WEIR_JSON_MALFORMED } weir_json_result_t;

void weir_json_scan_init(weir_json_scan_t *scan, void (*on_token)(void *context, const weir_json_token_t *token),
                         void *context);
/* The next bytes, until the outermost value has ended (what stands behind it is not read) or it is malformed; asked
 * again after that it tells the same. A number as the outermost value ends with the byte behind it, or
 * weir_json_scan_end. */
weir_json_result_t weir_json_scan_feed(weir_json_scan_t *scan, const char *bytes, size_t len);
weir_json_result_t weir_json_scan_end(weir_json_scan_t *scan); /* no more bytes: DONE or MALFORMED */

/* Bytes, as written, of a string that has begun and not ended, nor will where it is malformed; 0: there is none, or it
 * is a name. */
uint64_t weir_json_scan_open_bytes(const weir_json_scan_t *scan);

/* Whether all of it is what may stand behind a value: white space. */
bool weir_json_is_space(const char *bytes, size_t len);
/* A NUMBER that is an integer from 0 on, however written (100, 100.0, 1e2); WEIR_JSON_INTEGER_MAX stands for all above
 * it. -1: another number, negative or longer than its text. */
int64_t weir_json_integer(const weir_json_token_t *token);

#endif
