#ifndef WEIR_FILTERS_REDIS_REDIS_ANSWER_H
#define WEIR_FILTERS_REDIS_REDIS_ANSWER_H

/* An answer as bytes that Redis keeps: what they are (their form, and the machine's byte order, which heads are in), a sum over all
 * of it and the key that it is of, the head and the body.
 *
 * Guarantee: what was not written by `encode`, for this key and by such a machine, is not taken for an answer; where it was changed by
 * chance, but once in 2^64. */

#include "../stream.h"

/* Of a stream that is written to its end, ended or not; malloc'ed, base NULL: it has no head, is not kept, or is
 * larger than what Redis takes. By the writer's thread. */
weir_str_t weir_redis_answer_encode(weir_stream_t *stream, weir_store_key_t key);

/* A stream that is done; NULL: these are no such bytes, or the account has no room. */
weir_stream_t *weir_redis_answer_decode(weir_str_t bytes, weir_store_key_t key, weir_stream_account_t *account,
                                        weir_store_teller_t teller);

#endif
