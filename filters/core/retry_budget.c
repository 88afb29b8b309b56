#include "retry_budget.h"

#include <assert.h>

#define NS_PER_S INT64_C(1000000000)

enum { REQUESTS, RETRIES, PPM = 1000000, ALWAYS = WEIR_RETRY_ALWAYS_PER_SEC };

static int64_t latest(weir_retry_budget_t *budget, int64_t now_ns)
{
    assert(now_ns >= 0);
    if (now_ns > budget->now_ns)
        budget->now_ns = now_ns;
    return budget->now_ns;
}

static bool is_one_of_the_first(const weir_retry_budget_t *budget, int64_t now_ns)
{
    return budget->retries < ALWAYS || now_ns - budget->retried_at_ns[budget->retries % ALWAYS] >= NS_PER_S;
}

/* `recent` is of now_ns. */
static bool fits(const weir_retry_budget_t *budget, int64_t share_ppm, int64_t now_ns)
{
    assert(share_ppm >= 0);
    assert(share_ppm <= PPM);
    const uint32_t *totals = budget->recent.totals;
    return is_one_of_the_first(budget, now_ns) ||
           ((uint64_t)totals[RETRIES] + 1) * PPM <= totals[REQUESTS] * (uint64_t)share_ppm;
}

void weir_retry_budget_on_request(weir_retry_budget_t *budget, int64_t now_ns)
{
    weir_recent_count(&budget->recent, WEIR_RETRY_WINDOW_NS, REQUESTS, latest(budget, now_ns));
}

bool weir_retry_budget_take(weir_retry_budget_t *budget, int64_t share_ppm, int64_t now_ns)
{
    int64_t at_ns = latest(budget, now_ns);
    weir_recent_forget(&budget->recent, WEIR_RETRY_WINDOW_NS, at_ns);
    if (!fits(budget, share_ppm, at_ns))
        return false;
    weir_recent_count(&budget->recent, WEIR_RETRY_WINDOW_NS, RETRIES, at_ns);
    budget->retried_at_ns[budget->retries++ % ALWAYS] = at_ns;
    return true;
}

weir_retry_budget_told_t weir_retry_budget_tell(const weir_retry_budget_t *budget, int64_t share_ppm, int64_t now_ns)
{
    weir_retry_budget_t copy = *budget;
    int64_t at_ns = latest(&copy, now_ns);
    weir_recent_forget(&copy.recent, WEIR_RETRY_WINDOW_NS, at_ns);
    return (weir_retry_budget_told_t){.requests = copy.recent.totals[REQUESTS],
                                      .retries = copy.recent.totals[RETRIES],
                                      .fits = fits(&copy, share_ppm, at_ns)};
}
