#ifndef WEIR_TESTS_UNIT_SEEDED_H
#define WEIR_TESTS_UNIT_SEEDED_H

/* Chance for property tests (splitmix64). The seed is drawn for each run and printed; WEIR_SEED=... repeats one. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct {
    uint64_t state;
} seeded_t;

static inline uint64_t seeded_next(seeded_t *seeded)
{
    uint64_t z = (seeded->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* 0 .. bound - 1 */
static inline uint64_t seeded_below(seeded_t *seeded, uint64_t bound)
{
    return (uint64_t)((unsigned __int128)seeded_next(seeded) * bound >> 64);
}

static inline seeded_t seeded_start(const char *test)
{
    const char *given = getenv("WEIR_SEED");
    seeded_t seeded = {given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003 + (uint64_t)clock()};
    printf("%s: WEIR_SEED=%llu\n", test, (unsigned long long)seeded.state);
    fflush(stdout);
    return seeded;
}

#endif
