#ifndef WEIR_FILTERS_CORE_RECENT_H
#define WEIR_FILTERS_CORE_RECENT_H

/* How often something happened lately, in constant memory: up to three kinds of things, counted by slot - in the one
 * that runs and in the 30 before it.
 *
 * Guarantee: what was counted at t is in `totals` until t + window, and no longer than t + window * 31 / 30 + 31 ns. A
 * state of 0 has counted nothing; another window_ns than the last one starts with nothing. What would take a total over
 * 2^32 - 1 is not counted. A time before the last one is taken for the last one's slot. The caller locks. */

#include <stdint.h>

enum { WEIR_RECENT_SLOTS = 30, WEIR_RECENT_KINDS = 3 };

typedef struct {
    int64_t slot_ns; /* 0: nothing was counted */
    int64_t slot;    /* the newest, since time 0 */
    int64_t window_ns, slot_end_ns; /* until then there is nothing to forget */
    uint32_t totals[WEIR_RECENT_KINDS];
    uint32_t counts[WEIR_RECENT_SLOTS + 1][WEIR_RECENT_KINDS]; /* slot s at s % 31 */
} weir_recent_t;

/* window_ns > 0, now_ns >= 0. Without what is too old at now_ns, totals is what the guarantee says. */
void weir_recent_forget(weir_recent_t *recent, int64_t window_ns, int64_t now_ns);
void weir_recent_count(weir_recent_t *recent, int64_t window_ns, unsigned kind, int64_t now_ns);

#endif
