#ifndef WEIR_PROXY_REDIS_REPLY_GUARD_H
#define WEIR_PROXY_REDIS_REPLY_GUARD_H

/* Looks at a stream of RESP2 replies before hiredis' reader (0.14.1) does, which takes a length at its word - `*2147483647`
 * makes it allocate 16 GB - and does not look at what ends a string.
 *
 * Guarantee: the reader makes whole replies of what has passed, and finds no error in it; none of them takes more than `max`
 * bytes, where a reply takes its bytes on the wire - a string's as soon as its length is announced - and 64 for each element
 * of a list as soon as their number is.
 * Lists stand in lists as deep as the reader goes: 7 in the outermost. Lines have at most 64 KiB, so that the reader, which begins
 * a line again with every piece of it, is not kept busy. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WEIR_REPLY_LISTS_MAX = 8,
    WEIR_REPLY_ELEMENT_BYTES = 64, /* a redisReply, and a pointer to it */
    WEIR_REPLY_LINE_BYTES_MAX = 64 * 1024,
};

typedef struct {
    size_t max;
    int state; /* reply_guard.c */
    char kind; /* of the line that is read: + - : $ * */
    bool is_negative;
    unsigned digits;
    uint64_t number;
    size_t line_bytes, string_left;
    size_t size; /* what this reply takes so far */
    size_t left[WEIR_REPLY_LISTS_MAX]; /* elements still to come, of each list that is open */
    unsigned depth;
} weir_reply_guard_t;

void weir_reply_guard_init(weir_reply_guard_t *guard, size_t max);

/* NULL: all of them pass; *passed is len. Else what is wrong, a static text: *passed is where the last whole reply ends, and
 * nothing may follow. */
const char *weir_reply_guard_check(weir_reply_guard_t *guard, const char *bytes, size_t len, size_t *passed)
    __attribute__((warn_unused_result));

#endif
