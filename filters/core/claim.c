#include "claim.h"

#include <assert.h>
#include <stddef.h>

/* INT64_MAX stands for never. */
static int64_t later(int64_t now_ns, int64_t by_ns)
{
    int64_t sum;
    return __builtin_add_overflow(now_ns, by_ns, &sum) ? INT64_MAX : sum;
}

static bool has_ended(const weir_claim_t *claim, int64_t now_ns)
{
    return claim->until_ns <= now_ns && claim->until_ns != INT64_MAX;
}

weir_claim_state_t weir_claim_state(const weir_claim_t *claim, int64_t now_ns)
{
    return has_ended(claim, now_ns) ? WEIR_CLAIM_FREE : (weir_claim_state_t)claim->state;
}

weir_claim_told_t weir_claim_peek(const weir_claim_t *claim, uint64_t fingerprint, bool compares, int64_t now_ns)
{
    static const weir_claim_told_t told[] = {
        [WEIR_CLAIM_FREE] = WEIR_CLAIM_RUN,
        [WEIR_CLAIM_IN_FLIGHT] = WEIR_CLAIM_IS_RUNNING,
        [WEIR_CLAIM_DONE] = WEIR_CLAIM_IS_DONE,
        [WEIR_CLAIM_UNKNOWN] = WEIR_CLAIM_IS_UNKNOWN,
    };
    weir_claim_state_t state = weir_claim_state(claim, now_ns);
    bool is_other = state != WEIR_CLAIM_FREE && compares && claim->fingerprint != fingerprint;
    return is_other ? WEIR_CLAIM_IS_OTHER : told[state];
}

weir_claim_told_t weir_claim_ask(weir_claim_t *claim, uint64_t owner, uint64_t fingerprint, bool compares,
                                 int64_t lease_ns, int64_t now_ns)
{
    assert(owner != 0);
    weir_claim_told_t told = weir_claim_peek(claim, fingerprint, compares, now_ns);
    if (told == WEIR_CLAIM_RUN)
        *claim = (weir_claim_t){owner, fingerprint, later(now_ns, lease_ns), WEIR_CLAIM_IN_FLIGHT};
    return told;
}

static bool is_owned(const weir_claim_t *claim, uint64_t owner, int64_t now_ns)
{
    return weir_claim_state(claim, now_ns) == WEIR_CLAIM_IN_FLIGHT && claim->owner == owner;
}

bool weir_claim_renew(weir_claim_t *claim, uint64_t owner, int64_t lease_ns, int64_t now_ns)
{
    if (!is_owned(claim, owner, now_ns))
        return false;
    claim->until_ns = later(now_ns, lease_ns);
    return true;
}

static bool finish(weir_claim_t *claim, uint64_t owner, weir_claim_state_t state, int64_t window_ns, int64_t now_ns)
{
    if (!is_owned(claim, owner, now_ns))
        return false;
    claim->owner = 0;
    claim->state = (uint8_t)state;
    claim->until_ns = later(now_ns, window_ns);
    return true;
}

bool weir_claim_commit(weir_claim_t *claim, uint64_t owner, int64_t window_ns, int64_t now_ns)
{
    return finish(claim, owner, WEIR_CLAIM_DONE, window_ns, now_ns);
}

bool weir_claim_forget(weir_claim_t *claim, uint64_t owner, int64_t now_ns)
{
    if (!is_owned(claim, owner, now_ns))
        return false;
    *claim = (weir_claim_t){.state = WEIR_CLAIM_FREE};
    return true;
}

bool weir_claim_lose(weir_claim_t *claim, uint64_t owner, bool remembers, int64_t window_ns, int64_t now_ns)
{
    return remembers ? finish(claim, owner, WEIR_CLAIM_UNKNOWN, window_ns, now_ns)
                     : weir_claim_forget(claim, owner, now_ns);
}

const char *weir_claim_word(weir_claim_state_t state)
{
    static const char *const words[] = {"free", "in_flight", "done", "unknown"};
    return words[state];
}
