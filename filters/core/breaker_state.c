#include "breaker_state.h"

#include <assert.h>
#include <string.h>

#define NS_PER_S INT64_C(1000000000)

enum { REQUESTS, FAILURES, SLOW }; /* kinds of what is counted */
enum { DOUBLINGS_MAX = 62 };

/* The state machine
 *
 *            too many failures, or slow ones                  its time is over
 *   CLOSED ------------------------------------> OPEN ----------------------------------> HALF_OPEN
 *     ^                                          ^  ^                                       |   |
 *     | its time is over                         |  |     a probe failed, or all slow       |   |
 *     |                    too many              |  +---------------------------------------+   |
 *   RAMP ----------------------------------------+                                              |
 *     ^                               as many successes as probes                               |
 *     +-----------------------------------------------------------------------------------------+
 *
 *   any --- forced open ----> FORCED_OPEN ----- let go ---> HALF_OPEN
 *   any --- forced closed --> FORCED_CLOSED --- let go ---> CLOSED
 */

typedef enum { TRIPPED, TIME_IS_OVER, PROVEN, PROBE_FAILED, FORCED_OPEN, FORCED_CLOSED, LET_GO, EVENTS } event_t;

#define TO(state) (1 + WEIR_BREAKER_##state) /* 0: the event cannot be in that state */

static const uint8_t table[WEIR_BREAKER_STATES][EVENTS] = {
    [WEIR_BREAKER_CLOSED] =
        {[TRIPPED] = TO(OPEN), [FORCED_OPEN] = TO(FORCED_OPEN), [FORCED_CLOSED] = TO(FORCED_CLOSED)},
    [WEIR_BREAKER_RAMP] = {[TRIPPED] = TO(OPEN),
                           [TIME_IS_OVER] = TO(CLOSED),
                           [FORCED_OPEN] = TO(FORCED_OPEN),
                           [FORCED_CLOSED] = TO(FORCED_CLOSED)},
    [WEIR_BREAKER_OPEN] =
        {[TIME_IS_OVER] = TO(HALF_OPEN), [FORCED_OPEN] = TO(FORCED_OPEN), [FORCED_CLOSED] = TO(FORCED_CLOSED)},
    [WEIR_BREAKER_HALF_OPEN] = {[PROVEN] = TO(RAMP),
                                [PROBE_FAILED] = TO(OPEN),
                                [FORCED_OPEN] = TO(FORCED_OPEN),
                                [FORCED_CLOSED] = TO(FORCED_CLOSED)},
    [WEIR_BREAKER_FORCED_OPEN] = {[FORCED_CLOSED] = TO(FORCED_CLOSED), [LET_GO] = TO(HALF_OPEN)},
    [WEIR_BREAKER_FORCED_CLOSED] = {[FORCED_OPEN] = TO(FORCED_OPEN), [LET_GO] = TO(CLOSED)},
};

/* What the tries of the last state said is nothing to the next one. */
static void start_over(weir_breaker_t *breaker)
{
    breaker->before = breaker->admitted;
    breaker->consecutive_failures = breaker->successes = breaker->slow_successes = 0;
    breaker->ramp_asked = 0;
    breaker->ramp_second = 0;
    memset(breaker->permits, 0, sizeof(breaker->permits));
    memset(&breaker->recent, 0, sizeof(breaker->recent));
}

/* True: what is shown changed. until_ns: of the next state, if it has an end. */
static bool change(weir_breaker_t *breaker, event_t event, int64_t since_ns, int64_t until_ns)
{
    weir_breaker_state_t from = breaker->state;
    assert(table[from][event] != 0);
    breaker->state = table[from][event] - 1;
    breaker->since_ns = since_ns;
    breaker->until_ns = until_ns;
    ++breaker->entered[breaker->state];
    if (from != WEIR_BREAKER_RAMP || event != TIME_IS_OVER)
        start_over(breaker);
    return weir_breaker_shown(from) != weir_breaker_shown(breaker->state);
}

/* Time */

static int64_t after(int64_t now_ns, int64_t ns)
{
    return ns < INT64_MAX - now_ns ? now_ns + ns : INT64_MAX;
}

/* Moves what time alone moves. */
static bool pass_time(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    bool has_end = breaker->state == WEIR_BREAKER_OPEN || breaker->state == WEIR_BREAKER_RAMP;
    bool is_changed = has_end && now_ns >= breaker->until_ns && change(breaker, TIME_IS_OVER, breaker->until_ns, 0);
    if (breaker->state == WEIR_BREAKER_CLOSED && now_ns - breaker->since_ns >= quota->window_ns)
        breaker->opens = 0;
    return is_changed;
}

/* The time that holds: of several threads, one may be a little behind. */
static int64_t latest(weir_breaker_t *breaker, int64_t now_ns)
{
    assert(now_ns >= 0);
    if (now_ns > breaker->now_ns)
        breaker->now_ns = now_ns;
    return breaker->now_ns;
}

static bool is_ppm(int64_t ppm)
{
    return ppm >= 0 && ppm <= WEIR_BREAKER_PPM;
}

static void check(const weir_breaker_quota_t *quota)
{
    assert(quota->window_ns > 0);
    assert(is_ppm(quota->failure_rate_ppm));
    assert(is_ppm(quota->slow.rate_ppm));
    assert(quota->open.base_ns > 0);
    assert(quota->open.max_ns > 0);
    assert(is_ppm(quota->open.jitter_ppm));
    assert(quota->probes >= 1);
    assert(quota->probes <= WEIR_BREAKER_PROBES_MAX);
    assert(quota->permit_ns > 0);
}

/* Opening */

static int64_t open_ns_of(const weir_breaker_quota_t *quota, uint32_t opens, uint64_t random)
{
    int64_t longest_ns = quota->open.max_ns;
    if (quota->open.base_ns <= quota->open.max_ns >> opens)
        longest_ns = quota->open.base_ns << opens;
    int64_t jitter_ns = (int64_t)((__int128)longest_ns * quota->open.jitter_ppm / WEIR_BREAKER_PPM);
    int64_t cut_ns = (int64_t)((unsigned __int128)random * ((uint64_t)jitter_ns + 1) >> 64);
    return cut_ns < longest_ns ? longest_ns - cut_ns : 1;
}

static bool reopen(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, event_t event, int64_t now_ns,
                   uint64_t random)
{
    int64_t until_ns = after(now_ns, open_ns_of(quota, breaker->opens, random));
    if (breaker->opens < DOUBLINGS_MAX)
        ++breaker->opens;
    return change(breaker, event, now_ns, until_ns);
}

static bool is_share(uint64_t part, uint64_t all, int64_t rate_ppm)
{
    return part * WEIR_BREAKER_PPM >= all * (uint64_t)rate_ppm;
}

static bool is_too_much(const weir_breaker_t *breaker, const weir_breaker_quota_t *quota, unsigned kind,
                        int64_t rate_ppm)
{
    const uint32_t *totals = breaker->recent.totals;
    return totals[REQUESTS] >= quota->min_requests && is_share(totals[kind], totals[REQUESTS], rate_ppm);
}

static bool count_and_judge(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, weir_breaker_outcome_t outcome,
                            bool is_slow, int64_t now_ns)
{
    bool is_tripped = false;
    weir_recent_count(&breaker->recent, quota->window_ns, REQUESTS, now_ns);
    if (outcome == WEIR_BREAKER_FAILURE) {
        weir_recent_count(&breaker->recent, quota->window_ns, FAILURES, now_ns);
        if (breaker->consecutive_failures < UINT32_MAX)
            ++breaker->consecutive_failures;
        is_tripped =
            (quota->consecutive_failures != 0 && breaker->consecutive_failures >= quota->consecutive_failures) ||
            is_too_much(breaker, quota, FAILURES, quota->failure_rate_ppm);
    } else {
        breaker->consecutive_failures = 0;
    }
    if (is_slow) {
        weir_recent_count(&breaker->recent, quota->window_ns, SLOW, now_ns);
        is_tripped |= is_too_much(breaker, quota, SLOW, quota->slow.rate_ppm);
    }
    return is_tripped;
}

/* Probes */

static bool is_out(const weir_breaker_permit_t *permit, int64_t now_ns)
{
    return permit->number != 0 && permit->expires_ns > now_ns;
}

static uint32_t count_out(const weir_breaker_t *breaker, int64_t now_ns)
{
    uint32_t count = 0;
    for (int i = 0; i < WEIR_BREAKER_PROBES_MAX; ++i)
        count += is_out(&breaker->permits[i], now_ns);
    return count;
}

static void give_permit(weir_breaker_t *breaker, int64_t permit_ns, int64_t now_ns)
{
    int free = 0;
    while (free < WEIR_BREAKER_PROBES_MAX && is_out(&breaker->permits[free], now_ns))
        ++free;
    assert(free < WEIR_BREAKER_PROBES_MAX);
    breaker->permits[free] = (weir_breaker_permit_t){breaker->admitted, after(now_ns, permit_ns)};
}

static bool take_permit_back(weir_breaker_t *breaker, uint64_t number, int64_t now_ns)
{
    for (int i = 0; i < WEIR_BREAKER_PROBES_MAX; ++i) {
        weir_breaker_permit_t *permit = &breaker->permits[i];
        if (permit->number == number && is_out(permit, now_ns)) {
            permit->number = 0;
            return true;
        }
    }
    return false;
}

static bool on_probe(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, weir_breaker_outcome_t outcome,
                     bool is_slow, int64_t now_ns, uint64_t random)
{
    if (outcome == WEIR_BREAKER_CANCELLED)
        return false;
    if (outcome == WEIR_BREAKER_FAILURE)
        return reopen(breaker, quota, PROBE_FAILED, now_ns, random);
    ++breaker->successes;
    breaker->slow_successes += is_slow;
    if (breaker->successes < quota->probes)
        return false;
    bool is_any_slow = quota->slow.is_on && breaker->slow_successes != 0;
    if (is_any_slow && is_share(breaker->slow_successes, breaker->successes, quota->slow.rate_ppm))
        return reopen(breaker, quota, PROBE_FAILED, now_ns, random);
    return change(breaker, PROVEN, now_ns, after(now_ns, 3 * NS_PER_S));
}

/* Asking: each says when to come back, or 0: now. */

static int64_t ask_half_open(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    uint32_t out = count_out(breaker, now_ns);
    if (out == 0 || out + breaker->successes < quota->probes)
        return 0;
    int64_t back_ns = after(now_ns, NS_PER_S);
    for (int i = 0; i < WEIR_BREAKER_PROBES_MAX; ++i)
        if (is_out(&breaker->permits[i], now_ns) && breaker->permits[i].expires_ns < back_ns)
            back_ns = breaker->permits[i].expires_ns;
    return back_ns;
}

static int64_t ask_ramp(weir_breaker_t *breaker, int64_t now_ns)
{
    static const unsigned percents[] = {10, 50, 100};
    int64_t second = (now_ns - breaker->since_ns) / NS_PER_S;
    if (second != breaker->ramp_second)
        breaker->ramp_asked = 0;
    breaker->ramp_second = second;
    /* Where the share of those before it is a whole number, the next one is in the ceiling: each of these divides 100.
     */
    if (breaker->ramp_asked++ * percents[second] % 100 == 0)
        return 0;
    return after(breaker->since_ns, (second + 1) * NS_PER_S);
}

static int64_t ask(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    switch (breaker->state) {
    case WEIR_BREAKER_OPEN:
        return breaker->until_ns;
    case WEIR_BREAKER_HALF_OPEN:
        return ask_half_open(breaker, quota, now_ns);
    case WEIR_BREAKER_RAMP:
        return ask_ramp(breaker, now_ns);
    case WEIR_BREAKER_FORCED_OPEN:
        return after(now_ns, quota->open.base_ns);
    default:
        return 0;
    }
}

weir_breaker_answer_t weir_breaker_ask(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    check(quota);
    int64_t at_ns = latest(breaker, now_ns);
    weir_breaker_answer_t answer = {.is_changed = pass_time(breaker, quota, at_ns)};
    int64_t back_ns = ask(breaker, quota, at_ns);
    if (back_ns != 0) {
        answer.retry_after_ns = back_ns > now_ns ? back_ns - now_ns : 1; /* 1: at the end of time */
        return answer;
    }
    answer.number = ++breaker->admitted;
    if (breaker->state == WEIR_BREAKER_HALF_OPEN)
        give_permit(breaker, quota->permit_ns, at_ns);
    return answer;
}

bool weir_breaker_report(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, uint64_t number,
                         weir_breaker_outcome_t outcome, bool is_slow, int64_t now_ns, uint64_t random)
{
    check(quota);
    assert(number <= breaker->admitted);
    int64_t at_ns = latest(breaker, now_ns);
    bool is_changed = pass_time(breaker, quota, at_ns);
    if (number <= breaker->before)
        return is_changed;
    is_slow = is_slow && quota->slow.is_on;
    if (breaker->state == WEIR_BREAKER_HALF_OPEN)
        return take_permit_back(breaker, number, at_ns) && on_probe(breaker, quota, outcome, is_slow, at_ns, random);
    if (outcome == WEIR_BREAKER_CANCELLED || !count_and_judge(breaker, quota, outcome, is_slow, at_ns))
        return is_changed;
    return breaker->state != WEIR_BREAKER_FORCED_CLOSED && reopen(breaker, quota, TRIPPED, at_ns, random);
}

bool weir_breaker_force(weir_breaker_t *breaker, weir_breaker_force_t force, int64_t now_ns)
{
    static const struct {
        event_t event;
        weir_breaker_state_t state; /* where it does nothing */
    } ways[] = {[WEIR_BREAKER_FORCE_OPEN] = {FORCED_OPEN, WEIR_BREAKER_FORCED_OPEN},
                [WEIR_BREAKER_FORCE_CLOSED] = {FORCED_CLOSED, WEIR_BREAKER_FORCED_CLOSED}};
    bool is_forced = breaker->state == WEIR_BREAKER_FORCED_OPEN || breaker->state == WEIR_BREAKER_FORCED_CLOSED;
    if (force == WEIR_BREAKER_AUTO ? !is_forced : breaker->state == ways[force].state)
        return false;
    breaker->opens = 0;
    return change(breaker, force == WEIR_BREAKER_AUTO ? LET_GO : ways[force].event, latest(breaker, now_ns), 0);
}

weir_breaker_told_t weir_breaker_tell(const weir_breaker_t *breaker, const weir_breaker_quota_t *quota, int64_t now_ns)
{
    weir_breaker_t copy = *breaker;
    check(quota);
    int64_t at_ns = latest(&copy, now_ns);
    pass_time(&copy, quota, at_ns);
    weir_recent_forget(&copy.recent, quota->window_ns, at_ns);
    weir_breaker_told_t told = {
        .state = copy.state,
        .since_ns = copy.since_ns,
        .requests = copy.recent.totals[REQUESTS],
        .failures = copy.recent.totals[FAILURES],
        .slow = copy.recent.totals[SLOW],
        .consecutive_failures = copy.consecutive_failures,
        .permits_out = count_out(&copy, at_ns),
        .successes = copy.successes,
    };
    told.retry_after_ns = weir_breaker_ask(&copy, quota, now_ns).retry_after_ns; /* last: it gives the copy's permit */
    return told;
}

weir_breaker_shown_t weir_breaker_shown(weir_breaker_state_t state)
{
    switch (state) {
    case WEIR_BREAKER_OPEN:
    case WEIR_BREAKER_FORCED_OPEN:
        return WEIR_BREAKER_SHOWN_OPEN;
    case WEIR_BREAKER_HALF_OPEN:
        return WEIR_BREAKER_SHOWN_HALF_OPEN;
    default:
        return WEIR_BREAKER_SHOWN_CLOSED;
    }
}

const char *weir_breaker_word(weir_breaker_shown_t shown)
{
    static const char *const words[WEIR_BREAKER_SHOWN] = {"closed", "open", "half_open"};
    return words[shown];
}
