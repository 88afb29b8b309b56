#ifndef WEIR_PROXY_HISTORY_H
#define WEIR_PROXY_HISTORY_H

/* The last quarter of an hour in steps of 5 s, for the status page: what was counted in each, and how its breakers
 * stood.
 *
 * Guarantee: over all steps, kept or not, the counts of a series add up to what was given last. All memory is taken at
 * start, for WEIR_HISTORY_BREAKERS_MAX breakers; those beyond have no history. Time is the caller's, monotonic. One
 * thread. */

#include <stddef.h>
#include <stdint.h>

enum { WEIR_HISTORY_STEPS = 180, WEIR_HISTORY_STEP_SECONDS = 5, WEIR_HISTORY_BREAKERS_MAX = 512 };

typedef enum {
    WEIR_HISTORY_REQUESTS, /* counts, as they rose */
    WEIR_HISTORY_FAILED,
    WEIR_HISTORY_REFUSED,
    WEIR_HISTORY_SAVED,
    WEIR_HISTORY_COUNTS,
    WEIR_HISTORY_IN_FLIGHT = WEIR_HISTORY_COUNTS, /* the highest */
    WEIR_HISTORY_SERIES
} weir_history_series_t;

typedef struct weir_history weir_history_t;

weir_history_t *weir_history_create(int64_t now_ns);
void weir_history_destroy(weir_history_t *history);

/* How it stands: counts since the start, and the most in flight since the sample before. It belongs to the step of that
 * one, which may end with it; steps without a sample count nothing. */
void weir_history_sample(weir_history_t *history, const int64_t values[WEIR_HISTORY_SERIES], int64_t now_ns);
/* A breaker's state at the last sample: closed, paused, half_open or open, from best to worst. */
void weir_history_breaker(weir_history_t *history, const char *upstream, const char *model, const char *state);

/* The steps that are over, oldest first; as many as are kept. */
size_t weir_history_count(const weir_history_t *history);
int64_t weir_history_until_ns(const weir_history_t *history); /* the end of the newest */
void weir_history_values(const weir_history_t *history, weir_history_series_t series,
                         int64_t values[WEIR_HISTORY_STEPS]);
/* A letter for each: c, p, h or o, the worst that was seen; - where there was no such breaker. */
void weir_history_letters(const weir_history_t *history, const char *upstream, const char *model,
                          char letters[WEIR_HISTORY_STEPS + 1]);

#endif
