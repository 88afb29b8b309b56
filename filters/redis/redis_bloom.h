#ifndef WEIR_FILTERS_REDIS_REDIS_BLOOM_H
#define WEIR_FILTERS_REDIS_REDIS_BLOOM_H

/* The bits of a key in the Bloom filters that bloom.lua keeps (A. Kirsch, M. Mitzenmacher, "Less hashing, same performance", 2006,
 * with each hash mixed anew): the same on all sidecars, whatever their version. Sizes are core/bloom_pair.h's: each of the two
 * filters is made for WEIR_BLOOM_SHARE of the rate. Pure. */

#include <stdint.h>
#include "../store.h"

enum { WEIR_REDIS_BLOOM_HASHES_MAX = 64 };

typedef struct {
    uint64_t bits; /* of one filter; < 2^31 as conf has it, and a string of Redis has 2^32 at most */
    unsigned hashes;
} weir_redis_bloom_t;

weir_redis_bloom_t weir_redis_bloom_of(int64_t expected, double false_positives);
void weir_redis_bloom_offsets(const weir_redis_bloom_t *bloom, weir_store_key_t key, uint64_t offsets[WEIR_REDIS_BLOOM_HASHES_MAX]);

#endif
