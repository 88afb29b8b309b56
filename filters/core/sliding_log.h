#ifndef WEIR_FILTERS_CORE_SLIDING_LOG_H
#define WEIR_FILTERS_CORE_SLIDING_LOG_H

/* Sliding window as a log: every admission with its time.
 *
 * Guarantee: any interval as long as the window, both ends included, holds at most `limit`, and it refuses only what
 * the exact model refuses too - as long as no more than WEIR_SLIDING_LOG_MAX different times stand in the log. Of more,
 * the newest that fall into one WEIR_SLIDING_LOG_MAX-th of the window are counted at the latest one's time: late in
 * forgetting by window / (WEIR_SLIDING_LOG_MAX - 2) at most (a window that was made longer meanwhile: by more).
 *
 * A state of 0 is an empty window. The log's memory goes with what is in it: 16 bytes an entry, for at most four times
 * as many entries as are in use (or four) and at most twice as many as the least of `limit` and WEIR_SLIDING_LOG_MAX,
 * none when a change leaves it empty; weir_sliding_log_dispose gives it back. What is taken beyond the limit is counted
 * in full, at the time of what came next where there are more entries than `limit`: that tells as well when something
 * fits again, but for a refund, which may come late then. To ask takes time with the logarithm of what is in it, a
 * refund with what came after what it gives back.
 *
 * Time is the caller's, in ns, and may stand still but not go back. The caller locks. */

#include <stdbool.h>
#include <stdint.h>
#include "sliding_window.h"
#include "told.h"

enum { WEIR_SLIDING_LOG_MAX = 65536 };

typedef struct {
    struct weir_sliding_log_entry *entries; /* a ring; NULL: none */
    uint32_t capacity, first, count;
    uint32_t padding;
    uint64_t forgotten; /* the running sum before the first entry */
    int64_t since_ns;   /* what was taken before it is in no entry */
} weir_sliding_log_t;

/* The quota is sliding_window.h's, and so is what each of these does. */
bool weir_sliding_log_fits(const weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost,
                           int64_t now_ns);
void weir_sliding_log_take(weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost, int64_t now_ns);
void weir_sliding_log_put_back(weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost,
                               int64_t taken_ns);
weir_told_t weir_sliding_log_tell(const weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost,
                                  int64_t now_ns);
bool weir_sliding_log_is_empty(const weir_sliding_log_t *log, int64_t window_ns, int64_t now_ns);
void weir_sliding_log_dispose(weir_sliding_log_t *log); /* frees its memory, and leaves a state of 0 */

#endif
