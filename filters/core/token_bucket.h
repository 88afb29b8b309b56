#ifndef WEIR_FILTERS_CORE_TOKEN_BUCKET_H
#define WEIR_FILTERS_CORE_TOKEN_BUCKET_H

/* Token bucket, kept as what was used of it and when that was so.
 *
 * Guarantee: in any interval of length w it admits at most burst + rate * w, and it refuses only what the exact
 * rational model refuses too. All arithmetic is in whole numbers: a token has as many parts as a day has nanoseconds,
 * so that every rate per second, minute, hour or day is a whole number of parts a nanosecond, and nothing drifts. A
 * state of 0 is a full bucket, so a row of 0 may be forgotten; a bucket that is full again becomes 0 when it is next
 * touched, and weir_token_bucket_is_full tells before that.
 *
 * What was used is counted in tokens, so another quota finds it as it is: a smaller burst gives no fresh one, and may
 * begin in debt. Time is the caller's, in ns, and may stand still but not go back. The caller locks. */

#include <stdbool.h>
#include <stdint.h>
#include "told.h"

#define WEIR_TOKEN_PARTS UINT64_C(86400000000000) /* ns of a day */
#define WEIR_TOKEN_BURST_MAX INT64_C(10000000000)

typedef struct {
    int64_t at_ns;
    uint64_t used_low; /* parts of tokens that were missing at at_ns: low 64 bits */
    /* The high 16 bits of them: room for 2^80 / WEIR_TOKEN_PARTS, 14e9 tokens. Then parts_per_ns of the last charge, 47
     * bits, as fast as which it fills up since at_ns; and between the two a bit for: it may be faster. (One word: bit
     * fields would be stored one by one, and read again before they are all there.) */
    uint64_t used_high_and_rate;
} weir_token_bucket_t;

enum { WEIR_TOKEN_HIGH_BITS = 16 };

typedef struct {
    uint64_t parts_per_ns; /* < 2^47; 0 refuses all */
    int64_t burst;         /* <= WEIR_TOKEN_BURST_MAX */
} weir_token_bucket_quota_t;

static inline uint64_t weir_token_bucket_rate(const weir_token_bucket_t *bucket)
{
    return bucket->used_high_and_rate >> (WEIR_TOKEN_HIGH_BITS + 1);
}

static inline bool weir_token_bucket_is_least(const weir_token_bucket_t *bucket)
{
    return bucket->used_high_and_rate >> WEIR_TOKEN_HIGH_BITS & 1;
}

/* count <= 1e9 per period_ns, a whole fraction of a day (of another period the rate is rounded down). */
weir_token_bucket_quota_t weir_token_bucket_quota(int64_t count, int64_t period_ns, int64_t burst);

/* Whether `cost` is there. */
bool weir_token_bucket_fits(const weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost,
                            int64_t now_ns);
/* Charges `cost`, there or not: what is not there is a debt. */
void weir_token_bucket_take(weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost, int64_t now_ns);
/* Gives back what was taken at taken_ns, less what could have filled up by itself since then: no sequence of takes and
 * refunds admits more than the guarantee, and at the same time it is as if nothing had been taken. */
void weir_token_bucket_put_back(weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost,
                                int64_t taken_ns, int64_t now_ns);

weir_told_t weir_token_bucket_tell(const weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost,
                                   int64_t now_ns);

/* Whether it is full at the rate of its last charge. */
bool weir_token_bucket_is_full(const weir_token_bucket_t *bucket, int64_t now_ns);
/* Ends the rate of the last charge at now_ns: from then on it is the next charge's, and until that is known it is
 * taken for parts_per_ns (is_least: at least). */
void weir_token_bucket_settle(weir_token_bucket_t *bucket, uint64_t parts_per_ns, bool is_least, int64_t now_ns);
/* Who asks takes nothing, but his rate is the bucket's if it was taken for less, or is not certain. */
void weir_token_bucket_see(weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t now_ns);

#endif
