#ifndef WEIR_PROXY_ANSWER_HEAD_H
#define WEIR_PROXY_ANSWER_HEAD_H

/* An upstream's head as bytes without pointers, so that a stream can carry it to other threads, and a file keep it. */

#include "attempt.h"

/* Malloc'ed. */
h2o_iovec_t weir_answer_head_encode(const weir_call_head_t *head);

typedef struct {
    weir_call_head_t head; /* fields point into the bytes and `fields` */
    weir_h1_field_t *fields; /* of the pool */
} weir_answer_head_t;

/* False: these are no such bytes. What they say is another matter: is_sound. */
bool weir_answer_head_decode(h2o_mem_pool_t *pool, const void *bytes, size_t len, weir_answer_head_t *out);

/* Whether it can be sent with a body of so many bytes: what comes from a file may be anything. */
bool weir_answer_head_is_sound(const weir_call_head_t *head, uint64_t body_bytes);

#endif
