#include "redis_share.h"

#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

enum { SIDECARS_MAX = 10000 };

bool weir_redis_outages_note(weir_redis_outages_t *outages, bool *is_down, bool is_up)
{
    if (*is_down != is_up)
        return false;
    *is_down = !is_up;
    if (is_up)
        atomic_fetch_sub(&outages->down, 1);
    else if (atomic_fetch_add(&outages->down, 1) == 0)
        atomic_fetch_add(&outages->number, 1);
    return true;
}

uint64_t weir_redis_share_draw(uint64_t sidecar, weir_store_key_t key, const char *limit, uint64_t outage)
{
    uint64_t drawn_for[] = {sidecar, key.low, key.high, outage};
    return XXH3_64bits_withSeed(drawn_for, sizeof(drawn_for), XXH3_64bits(limit, strlen(limit)));
}

static int64_t part_of(int64_t total, uint32_t count, uint64_t draw)
{
    uint64_t drawn = (uint64_t)((unsigned __int128)draw * count >> 64); /* below count */
    return total / count + (drawn < (uint64_t)(total % count));
}

/* Whose rate is below one a day is taken for as slow as that: the bucket in memory knows nothing slower. */
static weir_conf_rate_t rate_of(weir_conf_rate_t rate, uint32_t count)
{
    static const int64_t day_ns = INT64_C(86400000000000);
    weir_conf_rate_t part = {rate.count, rate.period_ns * count};
    if ((__int128)part.count * day_ns < part.period_ns)
        return (weir_conf_rate_t){1, day_ns};
    return part;
}

weir_conf_quota_t weir_redis_share_of(const weir_conf_quota_t *quota, uint32_t sidecars, uint64_t draw)
{
    uint32_t count = sidecars < 1 ? 1 : sidecars < SIDECARS_MAX ? sidecars : SIDECARS_MAX;
    weir_conf_quota_t share = *quota;
    share.limit = part_of(quota->limit, count, draw);
    share.burst = part_of(quota->burst, count, draw);
    if (quota->rate.count != 0)
        share.rate = rate_of(quota->rate, count);
    return share;
}
