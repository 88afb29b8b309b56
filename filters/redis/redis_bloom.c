#include "redis_bloom.h"

#include <assert.h>
#include <math.h>
#include "../core/bloom_pair.h"

weir_redis_bloom_t weir_redis_bloom_of(int64_t expected, double false_positives)
{
    static const double ln2 = 0.693147180559945;
    double bits_per_key = -log(false_positives * WEIR_BLOOM_SHARE) / (ln2 * ln2);
    weir_redis_bloom_t bloom = {.bits = (uint64_t)((double)expected * bits_per_key), .hashes = (unsigned)ceil(ln2 * bits_per_key)};
    assert(bloom.bits > 0 && bloom.bits <= UINT32_MAX);
    assert(bloom.hashes > 0 && bloom.hashes <= WEIR_REDIS_BLOOM_HASHES_MAX);
    return bloom;
}

/* splitmix64's */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void weir_redis_bloom_offsets(const weir_redis_bloom_t *bloom, weir_store_key_t key, uint64_t offsets[WEIR_REDIS_BLOOM_HASHES_MAX])
{
    for (unsigned i = 0; i < bloom->hashes; ++i)
        offsets[i] = mix(key.low + i * (key.high | 1)) % bloom->bits;
}
