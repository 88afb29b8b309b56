#ifndef WEIR_FILTERS_RETRY_H
#define WEIR_FILTERS_RETRY_H

/* What follows an attempt that brought no answer the caller should have: another one at the same upstream, one at the
 * next, or nothing. Pure.
 *
 * Guarantee: a request that may have been processed is sent again only where its method, or a status that came, says
 * that this does no harm; and only while all of its body is here. */

#include "filter.h"

typedef enum { WEIR_NEXT_PASS, WEIR_NEXT_RETRY, WEIR_NEXT_FALLBACK } weir_next_t;

typedef struct {
    weir_reason_t reason; /* NONE: an answer came */
    int status;           /* 0: none came */
} weir_retry_outcome_t;

typedef struct {
    const weir_conf_upstream_t *upstream; /* that was tried */
    weir_str_t method;
    int tries;         /* at this upstream, the one that ended too */
    bool is_protected; /* a dedup key goes up with it */
    bool can_repeat;   /* all of the request is still here */
    bool has_fallback; /* another upstream is left */
} weir_retry_case_t;

weir_next_t weir_retry_next(const weir_retry_case_t *retry, weir_retry_outcome_t outcome);
bool weir_retry_is_connect(weir_reason_t reason); /* it never went out */

/* How long to wait before try `tries` + 1: chance (64 uniform bits) times the backoff of that try ("full jitter", M.
 * Brooker, "Exponential Backoff And Jitter", 2015). */
int64_t weir_retry_backoff_ns(const weir_conf_upstream_t *upstream, int tries, uint64_t random);

/* How this outcome counts for the breaker: a failure by `breaker.failures`. */
bool weir_retry_is_failure(const weir_conf_upstream_t *upstream, weir_retry_outcome_t outcome);

#endif
