#include "token_bucket.h"

#include <assert.h>

typedef unsigned __int128 parts_t;

static const parts_t used_max = ((parts_t)1 << 80) - 1;

static parts_t parts_of(int64_t tokens)
{
    return (parts_t)(uint64_t)tokens * WEIR_TOKEN_PARTS;
}

/* Of at most WEIR_TOKEN_BURST_MAX: WEIR_TOKEN_PARTS is a multiple of 2^16, and the rest fits 64 bits. */
static int64_t tokens_of(parts_t parts)
{
    return (int64_t)((uint64_t)(parts >> 16) / (WEIR_TOKEN_PARTS >> 16));
}

/* Saturates at the end of time. */
static int64_t ns_to_fill(parts_t parts, uint64_t parts_per_ns)
{
    parts_t ns;
    if (parts <= UINT64_MAX) { /* spares the division of 128 bits */
        uint64_t low = (uint64_t)parts;
        ns = low / parts_per_ns + (low % parts_per_ns != 0);
    } else {
        ns = (parts + parts_per_ns - 1) / parts_per_ns;
    }
    return ns <= INT64_MAX ? (int64_t)ns : INT64_MAX;
}

static parts_t used_at(const weir_token_bucket_t *bucket, uint64_t parts_per_ns, int64_t now_ns)
{
    uint64_t high = bucket->used_high_and_rate & ((1U << WEIR_TOKEN_HIGH_BITS) - 1);
    parts_t used = (parts_t)high << 64 | bucket->used_low;
    if (now_ns <= bucket->at_ns)
        return used;
    parts_t filled = (parts_t)((uint64_t)now_ns - (uint64_t)bucket->at_ns) * parts_per_ns;
    return used > filled ? used - filled : 0;
}

static void set_used(weir_token_bucket_t *bucket, parts_t used, uint64_t parts_per_ns, bool is_least, int64_t now_ns)
{
    if (used == 0) {
        *bucket = (weir_token_bucket_t){0};
        return;
    }
    if (used > used_max)
        used = used_max;
    bucket->used_low = (uint64_t)used;
    bucket->used_high_and_rate = (uint64_t)(used >> 64) | (parts_per_ns << 1 | (uint64_t)is_least)
                                                              << WEIR_TOKEN_HIGH_BITS;
    if (now_ns > bucket->at_ns)
        bucket->at_ns = now_ns;
}

/* How often a period goes into a day; the usual ones without a division. */
static uint64_t times_a_day(uint64_t period_ns)
{
    const uint64_t second_ns = UINT64_C(1000000000);
    if (period_ns == second_ns)
        return 86400;
    if (period_ns == 60 * second_ns)
        return 1440;
    return period_ns == 3600 * second_ns ? 24 : WEIR_TOKEN_PARTS / period_ns;
}

weir_token_bucket_quota_t weir_token_bucket_quota(int64_t count, int64_t period_ns, int64_t burst)
{
    assert(burst <= WEIR_TOKEN_BURST_MAX);
    uint64_t each = times_a_day((uint64_t)period_ns); /* without a remainder it spares a division of 128 bits */
    bool is_exact = each * (uint64_t)period_ns == WEIR_TOKEN_PARTS;
    parts_t rate = is_exact ? (parts_t)(uint64_t)count * each : parts_of(count) / (uint64_t)period_ns;
    assert(rate < (parts_t)1 << 47);
    return (weir_token_bucket_quota_t){.parts_per_ns = (uint64_t)rate, .burst = burst};
}

bool weir_token_bucket_fits(const weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost,
                            int64_t now_ns)
{
    assert(cost >= 0);
    if (quota.parts_per_ns == 0 || cost > quota.burst)
        return false;
    return used_at(bucket, quota.parts_per_ns, now_ns) <= parts_of(quota.burst - cost);
}

void weir_token_bucket_take(weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost, int64_t now_ns)
{
    assert(cost >= 0);
    parts_t used = used_at(bucket, quota.parts_per_ns, now_ns) + parts_of(cost);
    set_used(bucket, used, quota.parts_per_ns, false, now_ns);
}

void weir_token_bucket_put_back(weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost,
                                int64_t taken_ns, int64_t now_ns)
{
    assert(cost >= 0);
    parts_t back = parts_of(cost);
    if (now_ns > taken_ns) {
        uint64_t rate = quota.parts_per_ns; /* the faster one, if it changed */
        rate = weir_token_bucket_rate(bucket) > rate ? weir_token_bucket_rate(bucket) : rate;
        parts_t filled = (parts_t)((uint64_t)now_ns - (uint64_t)taken_ns) * rate;
        back = back > filled ? back - filled : 0;
    }
    parts_t used = used_at(bucket, quota.parts_per_ns, now_ns);
    set_used(bucket, used > back ? used - back : 0, quota.parts_per_ns, false, now_ns);
}

weir_told_t weir_token_bucket_tell(const weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t cost,
                                   int64_t now_ns)
{
    if (quota.parts_per_ns == 0)
        return (weir_told_t){.reset_ns = -1, .retry_after_ns = -1};
    parts_t used = used_at(bucket, quota.parts_per_ns, now_ns), all = parts_of(quota.burst);
    weir_told_t told = {.remaining = used < all ? tokens_of(all - used) : 0,
                        .reset_ns = ns_to_fill(used, quota.parts_per_ns)};
    if (cost > quota.burst)
        told.retry_after_ns = -1;
    else if (used > parts_of(quota.burst - cost))
        told.retry_after_ns = ns_to_fill(used - parts_of(quota.burst - cost), quota.parts_per_ns);
    return told;
}

bool weir_token_bucket_is_full(const weir_token_bucket_t *bucket, int64_t now_ns)
{
    return used_at(bucket, weir_token_bucket_rate(bucket), now_ns) == 0;
}

void weir_token_bucket_settle(weir_token_bucket_t *bucket, uint64_t parts_per_ns, bool is_least, int64_t now_ns)
{
    set_used(bucket, used_at(bucket, weir_token_bucket_rate(bucket), now_ns), parts_per_ns, is_least, now_ns);
}

void weir_token_bucket_see(weir_token_bucket_t *bucket, weir_token_bucket_quota_t quota, int64_t now_ns)
{
    uint64_t rate = weir_token_bucket_rate(bucket);
    if (quota.parts_per_ns > rate || (quota.parts_per_ns == rate && weir_token_bucket_is_least(bucket)))
        set_used(bucket, used_at(bucket, quota.parts_per_ns, now_ns), quota.parts_per_ns, false, now_ns);
}
