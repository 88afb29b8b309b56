#ifndef WEIR_FILTERS_CORE_BREAKER_STATE_H
#define WEIR_FILTERS_CORE_BREAKER_STATE_H

/* One breaker: whether an upstream, or one model of it, may be tried, by how the tries before ended.
 *
 *   closed      every try is admitted. It opens at a FAILURE after which
 *                   consecutive failures >= consecutive_failures,  or
 *                   requests >= min_requests  and  failures >= failure_rate * requests,
 *               and at a slow try after which requests >= min_requests and slow >= slow.rate * requests - at no other
 *               report. These are counts of the last window (to window * 31 / 30 + 31 ns, see recent.h) of what ended
 *               since it closed; CANCELLED is in none of them.
 *   open        none is admitted, for a time t with
 *                   (1 - jitter) * d <= t <= d,   d = min(max, base * 2^n),   t >= 1 ns,
 *               n being how often it has opened since it last stayed closed for one `window` after its ramp (or was
 *               forced). So in a time T it opens at most N times, where the N - 1 shortest of these times add up to no
 *               more than T, unless it was closed that long.
 *   half_open   permits out + successes <= probes: exactly `probes` tries are admitted if all of them succeed, and then
 *               it closes; one FAILURE opens it again. It opens again, too, when of those successes
 *               slow >= slow.rate * probes. A permit comes back by a report, by CANCELLED, or permit_ns after it
 *               was given; a report after that counts for nothing. With no permit out a try is always admitted, so
 *               nothing is stuck here for longer than permit_ns.
 *   ramp        part of closed, and shown as it: of n tries asked for in its first, second and third second, exactly
 *               ceil(n * 10 %), ceil(n * 50 %) and n are admitted. It is a count and not a chance, so a lone caller
 *               gets through, and a crowd never gets more than its share.
 *   forced      open or closed by hand, until it is let go: from open to half_open, so that probes decide; from closed
 *               to closed. Forced closed it counts, to be looked at, and does not open.
 *
 * A try that was admitted before the last change of state counts for nothing after it (ramp to closed is no change). A
 * refusal says when it is worth to come back, never 0: open, when it ends; half_open, when a permit is due back, but 1
 * s at most; ramp, when its share grows; forced open, after open.base.
 *
 * Time and chance are the caller's; a time before the latest one is taken for that. The caller locks. Constant size, no
 * allocation; a state of 0 is closed. A quota may be another one in each call; another window starts the counts anew.
 */

#include <stdbool.h>
#include <stdint.h>
#include "recent.h"

enum { WEIR_BREAKER_PROBES_MAX = 32, WEIR_BREAKER_PPM = 1000000 };

typedef enum {
    WEIR_BREAKER_CLOSED,
    WEIR_BREAKER_RAMP,
    WEIR_BREAKER_OPEN,
    WEIR_BREAKER_HALF_OPEN,
    WEIR_BREAKER_FORCED_OPEN,
    WEIR_BREAKER_FORCED_CLOSED,
    WEIR_BREAKER_STATES
} weir_breaker_state_t;

/* What of it is shown: in metrics, and by the page. */
typedef enum {
    WEIR_BREAKER_SHOWN_CLOSED,
    WEIR_BREAKER_SHOWN_OPEN,
    WEIR_BREAKER_SHOWN_HALF_OPEN,
    WEIR_BREAKER_SHOWN
} weir_breaker_shown_t;

typedef enum { WEIR_BREAKER_SUCCESS, WEIR_BREAKER_FAILURE, WEIR_BREAKER_CANCELLED } weir_breaker_outcome_t;
typedef enum { WEIR_BREAKER_AUTO, WEIR_BREAKER_FORCE_OPEN, WEIR_BREAKER_FORCE_CLOSED } weir_breaker_force_t;

typedef struct {
    int64_t window_ns;            /* > 0 */
    int64_t min_requests;         /* for the two rates */
    int64_t failure_rate_ppm;     /* 0 .. WEIR_BREAKER_PPM, as all _ppm here */
    int64_t consecutive_failures; /* 0: they do not matter */
    struct {
        bool is_on;
        int64_t first_byte_ns;
        int64_t rate_ppm;
    } slow;
    struct {
        int64_t base_ns, max_ns; /* > 0 */
        int64_t jitter_ppm;
    } open;
    int64_t probes;    /* 1 .. WEIR_BREAKER_PROBES_MAX */
    int64_t permit_ns; /* > 0; no try takes longer: the longest timeouts.total */
} weir_breaker_quota_t;

typedef struct {
    uint64_t number; /* of the try that has it; 0: nobody */
    int64_t expires_ns;
} weir_breaker_permit_t;

typedef struct {
    weir_breaker_state_t state;
    uint32_t opens; /* the n above */
    int64_t now_ns; /* the latest that was said */
    int64_t since_ns;
    int64_t until_ns;    /* of open and ramp */
    uint64_t admitted;   /* tries, ever: the number of the last one */
    uint64_t before;     /* tries up to this one were of a state that is over */
    uint64_t ramp_asked; /* in the second ramp_second of the ramp */
    int64_t ramp_second;
    uint32_t consecutive_failures;
    uint32_t successes, slow_successes; /* of probes */
    weir_breaker_permit_t permits[WEIR_BREAKER_PROBES_MAX];
    weir_recent_t recent;
    uint64_t entered[WEIR_BREAKER_STATES]; /* how often it came into each */
} weir_breaker_t;

typedef struct {
    uint64_t number;        /* of the try, for its report; 0: refused */
    int64_t retry_after_ns; /* >= 1 when refused, else 0 */
    bool is_changed;        /* what is shown of the state changed, to weir_breaker_shown(breaker->state) */
} weir_breaker_answer_t;

typedef struct {
    weir_breaker_state_t state;
    int64_t since_ns;
    int64_t retry_after_ns;            /* of a try asked for now; 0: it would be admitted */
    uint32_t requests, failures, slow; /* of the window */
    uint32_t consecutive_failures;     /* in a row, up to now */
    uint32_t permits_out, successes;   /* half_open */
} weir_breaker_told_t;

/* Every admitted try is reported once. A `number` of 0 may be, and counts for nothing. */
weir_breaker_answer_t weir_breaker_ask(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
    __attribute__((warn_unused_result));
/* `random`: 64 bits, uniform; they become the jitter if this opens it. True: what is shown of the state changed. */
bool weir_breaker_report(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, uint64_t number,
                         weir_breaker_outcome_t outcome, bool is_slow, int64_t now_ns, uint64_t random);
/* True: what is shown of the state changed. */
bool weir_breaker_force(weir_breaker_t *breaker, weir_breaker_force_t force, int64_t now_ns);
/* What it says at now_ns, where time alone moves it, too. */
weir_breaker_told_t weir_breaker_tell(const weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns);

/* Whether a try whose answer began so late is slow. */
static inline bool weir_breaker_is_slow(const weir_breaker_quota_t *quota, int64_t first_byte_ns)
{
    return quota->slow.is_on && first_byte_ns > quota->slow.first_byte_ns;
}

weir_breaker_shown_t weir_breaker_shown(weir_breaker_state_t state);
const char *weir_breaker_word(weir_breaker_shown_t shown); /* closed, open, half_open */

#endif
