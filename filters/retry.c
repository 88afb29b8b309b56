#include "retry.h"

#include <string.h>
#include "fields.h"

/* --- what an outcome is called --- */

static unsigned when_of_reason(weir_reason_t reason)
{
    switch (reason) {
    case WEIR_REASON_CONNECT_FAILED:
    case WEIR_REASON_DNS_FAILED:
    case WEIR_REASON_TLS_FAILED:
    case WEIR_REASON_TIMEOUT_CONNECT:
        return WEIR_WHEN_CONNECT;
    case WEIR_REASON_TIMEOUT_FIRST_BYTE:
    case WEIR_REASON_TIMEOUT_IDLE:
        return WEIR_WHEN_TIMEOUT;
    case WEIR_REASON_RESET:
    case WEIR_REASON_BAD_RESPONSE:
    case WEIR_REASON_TRUNCATED:
        return WEIR_WHEN_RESET;
    default:
        return 0;
    }
}

static unsigned when_of_status(int status)
{
    switch (status) {
    case 429:
        return WEIR_WHEN_429;
    case 500:
        return WEIR_WHEN_500;
    case 502:
        return WEIR_WHEN_502;
    case 503:
        return WEIR_WHEN_503;
    case 504:
        return WEIR_WHEN_504;
    case 529:
        return WEIR_WHEN_529;
    default:
        return 0;
    }
}

static unsigned when_of(weir_retry_outcome_t outcome)
{
    return outcome.reason != WEIR_REASON_NONE ? when_of_reason(outcome.reason) : when_of_status(outcome.status);
}

bool weir_retry_is_connect(weir_reason_t reason)
{
    return when_of_reason(reason) == WEIR_WHEN_CONNECT;
}

/* --- what follows --- */

static bool is_listed(const weir_conf_strings_t *methods, weir_str_t method)
{
    for (size_t i = 0; i < methods->size; ++i)
        if (weir_fields_equal(method, weir_fields_text(methods->entries[i])))
            return true;
    return false;
}

/* Whether sending it again does no harm. */
static bool is_harmless(const weir_retry_case_t *retry, weir_retry_outcome_t outcome)
{
    const weir_conf_upstream_retry_t *conf = &retry->upstream->retry;
    bool is_post = weir_fields_equal(retry->method, weir_fields_text("POST"));
    if (retry->is_protected || weir_retry_is_connect(outcome.reason) || is_listed(&conf->methods, retry->method))
        return true;
    return outcome.reason == WEIR_REASON_NONE && conf->post_with_status && is_post;
}

static bool may_retry(const weir_retry_case_t *retry, weir_retry_outcome_t outcome)
{
    const weir_conf_upstream_retry_t *conf = &retry->upstream->retry;
    return conf->enabled && retry->tries < conf->attempts && (conf->when & when_of(outcome)) != 0 &&
           is_harmless(retry, outcome);
}

static bool may_fall_back(const weir_retry_case_t *retry, weir_retry_outcome_t outcome)
{
    static const unsigned usual = WEIR_WHEN_CONNECT | WEIR_WHEN_RESET | WEIR_WHEN_502 | WEIR_WHEN_503 | WEIR_WHEN_504;
    const weir_conf_upstream_retry_t *conf = &retry->upstream->retry;
    unsigned when = (conf->enabled ? conf->when : usual) | WEIR_WHEN_429 | WEIR_WHEN_500 | WEIR_WHEN_529;
    if (!retry->has_fallback || (when & when_of(outcome)) == 0)
        return false;
    return outcome.reason == WEIR_REASON_NONE || is_harmless(retry, outcome);
}

weir_next_t weir_retry_next(const weir_retry_case_t *retry, weir_retry_outcome_t outcome)
{
    if (!retry->can_repeat)
        return WEIR_NEXT_PASS;
    if (may_retry(retry, outcome))
        return WEIR_NEXT_RETRY;
    return may_fall_back(retry, outcome) ? WEIR_NEXT_FALLBACK : WEIR_NEXT_PASS;
}

int64_t weir_retry_backoff_ns(const weir_conf_upstream_t *upstream, int tries, uint64_t random)
{
    int64_t longest_ns = upstream->retry.backoff.base_ns;
    for (int i = 1; i < tries && longest_ns < upstream->retry.backoff.max_ns; ++i)
        longest_ns *= 2;
    if (longest_ns > upstream->retry.backoff.max_ns)
        longest_ns = upstream->retry.backoff.max_ns;
    return (int64_t)((unsigned __int128)(uint64_t)longest_ns * random >> 64);
}

bool weir_retry_is_failure(const weir_conf_upstream_t *upstream, weir_retry_outcome_t outcome)
{
    unsigned failures = upstream->breaker.failures;
    if (outcome.reason == WEIR_REASON_NONE)
        return outcome.status >= 500 && outcome.status != 529 && (failures & WEIR_FAILURE_5XX) != 0;
    switch (when_of_reason(outcome.reason)) {
    case WEIR_WHEN_CONNECT:
        return (failures & WEIR_FAILURE_CONNECT) != 0;
    case WEIR_WHEN_TIMEOUT:
        return (failures & WEIR_FAILURE_TIMEOUT) != 0;
    case WEIR_WHEN_RESET:
        return (failures & WEIR_FAILURE_RESET) != 0;
    default:
        return outcome.reason == WEIR_REASON_TIMEOUT_TOTAL && (failures & WEIR_FAILURE_TIMEOUT) != 0;
    }
}
