#ifndef WEIR_FILTERS_CORE_JSON_PICK_H
#define WEIR_FILTERS_CORE_JSON_PICK_H

/* What weir wants to know of a JSON request body, read as it comes, in pieces of any size, without a copy of it.
 *
 * Guarantee: the result does not depend on how the bytes are cut; memory is this struct alone, whatever comes. Only
 * members of the outermost object are looked at (and include_usage inside stream_options); a member name with escapes
 * counts as the name it spells. Offsets are into the body, for splices. Of a body that is no object to its end nothing
 * is told, for another reader may take it (Python NaN, all of them deeper nesting) and go on to a second model. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "json_scan.h"

enum { WEIR_MODEL_BYTES_MAX = 256 };

typedef enum {
    WEIR_JSON_ABSENT,
    WEIR_JSON_OBJECT,
    WEIR_JSON_NULL,
    WEIR_JSON_TRUE,
    WEIR_JSON_FALSE,
    WEIR_JSON_OTHER
} weir_json_what_t;

typedef struct {
    bool is_object;     /* one, whole and well-formed, with nothing but white space around it */
    bool is_ambiguous;  /* one of the members below is there twice, or once more in another case, which to some readers
                         * is the same: which one counts is the reader's choice; told though it is no object */
    bool is_unreadable; /* no object, and more than white space: all below is as of an empty body */
    char model[WEIR_MODEL_BYTES_MAX]; /* decoded; "" where it is absent, not a string, or longer (then model_is_long) */
    size_t model_len;                 /* a NUL in it is possible */
    bool model_is_long;
    uint64_t model_at, model_end; /* of its value, quotes included; both 0: not there */
    int64_t max_tokens;           /* the largest of max_tokens, max_completion_tokens and max_output_tokens;
                                   * WEIR_JSON_INTEGER_MAX where one of them is no number that weir_json_integer reads;
                                   * -1: none, null or negative */
    bool is_stream;               /* "stream": true */
    uint64_t object_at;           /* just behind the outermost { */
    bool is_empty;                /* nothing in it */
    weir_json_what_t stream_options;
    uint64_t options_at, options_end; /* of its value: its first byte, behind its last; both 0: absent */
    bool options_is_empty;            /* an object with nothing in it */
    weir_json_what_t include_usage;
    uint64_t include_usage_at, include_usage_end;
} weir_json_picked_t;

typedef struct {
    weir_json_scan_t scan;
    weir_json_picked_t picked;
    /* its own */
    weir_json_result_t result;
    bool is_blank;            /* nothing but white space by now */
    bool is_outside;          /* the outermost value is no object */
    bool is_in_include_usage; /* as `member`, inside stream_options */
    uint8_t member;           /* of the outermost object: which one's value comes next, or is being read */
    uint8_t seen;             /* members that were there: a bit each */
} weir_json_pick_t;

void weir_json_pick_init(weir_json_pick_t *pick);
/* The next bytes. False: what follows cannot matter any more, since it is no JSON object. (Behind an object's end it
 * does matter: only white space may come.) */
bool weir_json_pick_feed(weir_json_pick_t *pick, const char *bytes, size_t len);
/* After the last byte. */
const weir_json_picked_t *weir_json_pick_end(weir_json_pick_t *pick);

#endif
