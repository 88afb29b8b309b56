#ifndef WEIR_FILTERS_CORE_SLIDING_WINDOW_H
#define WEIR_FILTERS_CORE_SLIDING_WINDOW_H

/* Sliding window in constant memory: the window is cut into 60 slots, aligned to time 0, and what was admitted is
 * counted by slot - in the one that runs and in the 60 before it.
 *
 * Guarantee: any interval as long as the window, both ends included, holds at most `limit`. What was admitted at t is
 * forgotten after t + window and no later than t + window * 61 / 60, so that the exact model of a window that long
 * refuses whatever this one refuses. Slots begin and end at exact fractions of the window, whether 60 divides it or
 * not. A state of 0 is an empty window.
 *
 * Time is the caller's, in ns, and may stand still but not go back. The caller locks. */

#include <stdbool.h>
#include <stdint.h>
#include "told.h"

enum { WEIR_SLIDING_WINDOW_SLOTS = 60, WEIR_SLIDING_WINDOW_COUNTS = WEIR_SLIDING_WINDOW_SLOTS + 1 };

typedef struct {
    uint64_t slot;                               /* the newest that is counted */
    uint32_t total;                              /* of counts */
    uint32_t counts[WEIR_SLIDING_WINDOW_COUNTS]; /* slot s at s % 61 */
} weir_sliding_window_t;

typedef struct {
    int64_t limit;     /* < 2^32 */
    int64_t window_ns; /* > 0, < 2^57 (four years) */
} weir_sliding_window_quota_t;

/* Whether `cost` fits. */
bool weir_sliding_window_fits(const weir_sliding_window_t *window, weir_sliding_window_quota_t quota, int64_t cost,
                              int64_t now_ns);
/* Counts `cost`, whether it fits or not. */
void weir_sliding_window_take(weir_sliding_window_t *window, weir_sliding_window_quota_t quota, int64_t cost,
                              int64_t now_ns);
/* Takes `cost` out of the slot that it was counted in. */
void weir_sliding_window_put_back(weir_sliding_window_t *window, weir_sliding_window_quota_t quota, int64_t cost,
                                  int64_t taken_ns);

weir_told_t weir_sliding_window_tell(const weir_sliding_window_t *window, weir_sliding_window_quota_t quota,
                                     int64_t cost, int64_t now_ns);

bool weir_sliding_window_is_empty(const weir_sliding_window_t *window, int64_t window_ns, int64_t now_ns);

#endif
