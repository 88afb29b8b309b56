#ifndef WEIR_FILTERS_CORE_RETRY_BUDGET_H
#define WEIR_FILTERS_CORE_RETRY_BUDGET_H

/* How many of an upstream's requests may be tried again, over all of its callers.
 *
 * Guarantee: a retry at t is admitted if fewer than 3 were in (t - 1 s, t], or if with it
 *     retries <= share * requests,   both of the last 10 s (to 10 1/3 s, see recent.h)
 * and refused otherwise. So 3 a second always are; and in any 10 s the retries are at most 3 * 10 and share * requests,
 * these of the 10 s and of the 10 1/3 s before.
 *
 * A request counts once, whatever its tries. Constant size; a state of 0 has seen nothing. Time is the caller's, in ns,
 * and may stand still; one before the last is taken for that. The caller locks. */

#include <stdbool.h>
#include <stdint.h>
#include "recent.h"

enum { WEIR_RETRY_ALWAYS_PER_SEC = 3 };
#define WEIR_RETRY_WINDOW_NS INT64_C(10000000000)

typedef struct {
    int64_t now_ns;                                   /* the latest that was said */
    uint64_t retries;                                 /* ever */
    int64_t retried_at_ns[WEIR_RETRY_ALWAYS_PER_SEC]; /* the last ones; n at n % 3 */
    weir_recent_t recent;
} weir_retry_budget_t;

typedef struct {
    uint32_t requests, retries; /* of the last 10 s */
    bool fits;                  /* another retry does */
} weir_retry_budget_told_t;

void weir_retry_budget_on_request(weir_retry_budget_t *budget, int64_t now_ns);
/* Counts a retry if it fits; share_ppm: 0 .. 1000000 (200000 is 20 %). */
bool weir_retry_budget_take(weir_retry_budget_t *budget, int64_t share_ppm, int64_t now_ns)
    __attribute__((warn_unused_result));
weir_retry_budget_told_t weir_retry_budget_tell(const weir_retry_budget_t *budget, int64_t share_ppm, int64_t now_ns);

#endif
