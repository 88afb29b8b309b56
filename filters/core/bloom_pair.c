#include "bloom_pair.h"

#include <assert.h>
#include <bloom.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    struct bloom bits;
    uint64_t count; /* keys that changed it */
} filter_t;

struct weir_bloom_pair {
    pthread_mutex_t lock;
    int64_t window_ns;
    int64_t window;      /* the number of the one that is being filled: time / window_ns */
    filter_t filters[2]; /* windows take them by turns */
};

/* Both may say yes: each is made for so much of the rate, so that one alone is near it, and two are. */
static const double share = WEIR_BLOOM_SHARE;

/* As libbloom reckons. */
static double bits_per_key(double false_positives)
{
    static const double ln2_squared = 0.480453013918201;
    return -(log(false_positives * share) / ln2_squared);
}

/* Bits of one filter; 0: it cannot be made. */
static uint64_t bits_of(uint64_t expected, double false_positives)
{
    if (expected < WEIR_BLOOM_EXPECTED_MIN || expected > INT_MAX || !(false_positives > 0 && false_positives < 1))
        return 0;
    double bits = (double)(int)expected * bits_per_key(false_positives);
    return bits <= INT_MAX ? (uint64_t)bits : 0;
}

uint64_t weir_bloom_pair_bytes(uint64_t expected, double false_positives)
{
    uint64_t bits = bits_of(expected, false_positives);
    return bits != 0 ? sizeof(weir_bloom_pair_t) + 2 * (bits / 8 + 1) : 0;
}

uint64_t weir_bloom_pair_expected_max(double false_positives)
{
    double most = INT_MAX / bits_per_key(false_positives);
    return most < WEIR_BLOOM_EXPECTED_MIN ? 0 : most < INT_MAX ? (uint64_t)most : INT_MAX;
}

weir_bloom_pair_t *weir_bloom_pair_create(uint64_t expected, double false_positives, int64_t window_ns)
{
    assert(window_ns > 0);
    if (bits_of(expected, false_positives) == 0)
        return NULL;
    weir_bloom_pair_t *pair = calloc(1, sizeof(*pair));
    if (pair == NULL)
        return NULL;
    pair->window_ns = window_ns;
    pthread_mutex_init(&pair->lock, NULL);
    for (unsigned i = 0; i < 2; ++i)
        if (bloom_init(&pair->filters[i].bits, (int)expected, false_positives * share) != 0) {
            weir_bloom_pair_destroy(pair);
            return NULL;
        }
    return pair;
}

void weir_bloom_pair_destroy(weir_bloom_pair_t *pair)
{
    if (pair == NULL)
        return;
    for (unsigned i = 0; i < 2; ++i)
        bloom_free(&pair->filters[i].bits);
    pthread_mutex_destroy(&pair->lock);
    free(pair);
}

static filter_t *filter_of(weir_bloom_pair_t *pair, int64_t window)
{
    return &pair->filters[window & 1];
}

static void clear(filter_t *filter)
{
    if (filter->count != 0)
        bloom_reset(&filter->bits);
    filter->count = 0;
}

/* Takes the filters to the window that now_ns is in; time that goes back stands still. */
static void rotate(weir_bloom_pair_t *pair, int64_t now_ns)
{
    int64_t window = now_ns / pair->window_ns;
    if (window <= pair->window)
        return;
    clear(filter_of(pair, window));
    if (window - pair->window > 1)
        clear(filter_of(pair, window - 1));
    pair->window = window;
}

static bool has(filter_t *filter, const weir_bloom_key_t *key)
{
    return filter->count != 0 && bloom_check(&filter->bits, key, sizeof(*key)) != 0;
}

bool weir_bloom_pair_add(weir_bloom_pair_t *pair, weir_bloom_key_t key, int64_t now_ns)
{
    pthread_mutex_lock(&pair->lock);
    rotate(pair, now_ns);
    filter_t *filled = filter_of(pair, pair->window);
    bool was_there = bloom_add(&filled->bits, &key, sizeof(key)) != 0;
    filled->count += !was_there;
    was_there = was_there || has(filter_of(pair, pair->window - 1), &key);
    pthread_mutex_unlock(&pair->lock);
    return was_there;
}

bool weir_bloom_pair_note(weir_bloom_pair_t *pair, weir_bloom_key_t key, int64_t now_ns)
{
    pthread_mutex_lock(&pair->lock);
    rotate(pair, now_ns);
    bool was_there = has(filter_of(pair, pair->window - 1), &key);
    if (!was_there) {
        filter_t *filled = filter_of(pair, pair->window);
        was_there = bloom_add(&filled->bits, &key, sizeof(key)) != 0;
        filled->count += !was_there;
    }
    pthread_mutex_unlock(&pair->lock);
    return was_there;
}

int64_t weir_bloom_pair_window(const weir_bloom_pair_t *pair, int64_t now_ns)
{
    return now_ns / pair->window_ns;
}

bool weir_bloom_pair_has(weir_bloom_pair_t *pair, weir_bloom_key_t key, int64_t now_ns)
{
    pthread_mutex_lock(&pair->lock);
    rotate(pair, now_ns);
    bool is_there = has(&pair->filters[0], &key) || has(&pair->filters[1], &key);
    pthread_mutex_unlock(&pair->lock);
    return is_there;
}

double weir_bloom_pair_fill(weir_bloom_pair_t *pair, int64_t now_ns)
{
    pthread_mutex_lock(&pair->lock);
    rotate(pair, now_ns);
    uint64_t first = pair->filters[0].count, second = pair->filters[1].count;
    pthread_mutex_unlock(&pair->lock);
    return (double)(first > second ? first : second) / pair->filters[0].bits.entries;
}
