#ifndef WEIR_FILTERS_CORE_BLOOM_PAIR_H
#define WEIR_FILTERS_CORE_BLOOM_PAIR_H

/* Two Bloom filters (B. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970; libbloom), each
 * filled for one whole window and then asked for another one: a key is known for one to two windows after it was added.
 *
 * Guarantee: a key that was added in the last window is found. One that was not is taken for known with the configured
 * probability, 3/4 of it to 3/2 of it where one filter or both hold what they were made for. Memory is
 * constant. Thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct weir_bloom_pair weir_bloom_pair_t;

typedef struct {
    uint64_t low, high;
} weir_bloom_key_t; /* a hash, under a secret */

/* expected: keys within one window, >= WEIR_BLOOM_EXPECTED_MIN; 0 < false_positives < 1; window_ns > 0. NULL where the
 * filters cannot be had (weir_bloom_pair_bytes says 0, or memory is short). */
weir_bloom_pair_t *weir_bloom_pair_create(uint64_t expected, double false_positives, int64_t window_ns);
void weir_bloom_pair_destroy(weir_bloom_pair_t *pair);

/* Whether the key was (perhaps) added before; then it is, in any case. */
bool weir_bloom_pair_add(weir_bloom_pair_t *pair, weir_bloom_key_t key, int64_t now_ns);
bool weir_bloom_pair_has(weir_bloom_pair_t *pair, weir_bloom_key_t key, int64_t now_ns);
/* As `has`, and a key that was not there is added; one that was is not known for longer. */
bool weir_bloom_pair_note(weir_bloom_pair_t *pair, weir_bloom_key_t key, int64_t now_ns);
/* The number of the window that is filled at that time: a key that was added in one is known for another one whole. */
int64_t weir_bloom_pair_window(const weir_bloom_pair_t *pair, int64_t now_ns);

/* The filled part of the fuller filter: keys it holds to keys it is made for; over 1 it says yes too often. */
double weir_bloom_pair_fill(weir_bloom_pair_t *pair, int64_t now_ns);

enum { WEIR_BLOOM_EXPECTED_MIN = 1000 };
#define WEIR_BLOOM_SHARE 0.75 /* of the rate, that each of the two filters has when it is full */
/* Bytes of a pair; 0: libbloom cannot make it. */
uint64_t weir_bloom_pair_bytes(uint64_t expected, double false_positives);
/* The largest `expected` that it can make at this rate. */
uint64_t weir_bloom_pair_expected_max(double false_positives);

#endif
