/* What follows an attempt that failed: rows of outcome, method and configuration; and how long it waits. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/retry.h"

static const char *listed[] = {"GET", "PUT"};

/* As the default has it: two tries, a POST where a status came as providers do if `is_provider`. */
static weir_conf_upstream_t upstream_of(bool is_provider)
{
    weir_conf_upstream_t upstream = {0};
    upstream.retry.enabled = true;
    upstream.retry.attempts = 2;
    upstream.retry.when = WEIR_WHEN_CONNECT | WEIR_WHEN_RESET | WEIR_WHEN_502 | WEIR_WHEN_503 | WEIR_WHEN_504;
    upstream.retry.methods.entries = listed;
    upstream.retry.methods.size = 2;
    upstream.retry.post_with_status = is_provider;
    upstream.retry.backoff.base_ns = 100;
    upstream.retry.backoff.max_ns = 1000;
    upstream.breaker.failures =
        WEIR_FAILURE_CONNECT | WEIR_FAILURE_TIMEOUT | WEIR_FAILURE_RESET | (is_provider ? WEIR_FAILURE_5XX : 0);
    return upstream;
}

static weir_next_t next_of(const weir_conf_upstream_t *upstream, const char *method, int tries, bool has_fallback,
                           weir_reason_t reason, int status)
{
    weir_retry_case_t retry = {.upstream = upstream,
                               .method = {method, strlen(method)},
                               .tries = tries,
                               .can_repeat = true,
                               .has_fallback = has_fallback};
    return weir_retry_next(&retry, (weir_retry_outcome_t){.reason = reason, .status = status});
}

#define PASS WEIR_NEXT_PASS
#define RETRY WEIR_NEXT_RETRY
#define FALL WEIR_NEXT_FALLBACK

/* With a try left; with none left and a fallback: of a method that is listed, and of a POST. */
static const struct {
    weir_reason_t reason;
    int status;
    weir_next_t listed, post, provider_post, listed_falls, post_falls;
} rows[] = {
    {WEIR_REASON_CONNECT_FAILED, 0, RETRY, RETRY, RETRY, FALL, FALL},
    {WEIR_REASON_DNS_FAILED, 0, RETRY, RETRY, RETRY, FALL, FALL},
    {WEIR_REASON_TLS_FAILED, 0, RETRY, RETRY, RETRY, FALL, FALL},
    {WEIR_REASON_TIMEOUT_CONNECT, 0, RETRY, RETRY, RETRY, FALL, FALL},
    {WEIR_REASON_RESET, 0, RETRY, PASS, PASS, FALL, PASS},
    {WEIR_REASON_BAD_RESPONSE, 0, RETRY, PASS, PASS, FALL, PASS},
    {WEIR_REASON_TRUNCATED, 0, RETRY, PASS, PASS, FALL, PASS},
    {WEIR_REASON_TIMEOUT_FIRST_BYTE, 0, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_TIMEOUT_IDLE, 0, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_TIMEOUT_TOTAL, 0, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_OVERLOADED, 0, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_CLIENT_GONE, 0, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_NONE, 200, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_NONE, 404, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_NONE, 429, PASS, PASS, PASS, FALL, FALL},
    {WEIR_REASON_NONE, 500, PASS, PASS, PASS, FALL, FALL},
    {WEIR_REASON_NONE, 501, PASS, PASS, PASS, PASS, PASS},
    {WEIR_REASON_NONE, 502, RETRY, PASS, RETRY, FALL, FALL},
    {WEIR_REASON_NONE, 503, RETRY, PASS, RETRY, FALL, FALL},
    {WEIR_REASON_NONE, 504, RETRY, PASS, RETRY, FALL, FALL},
    {WEIR_REASON_NONE, 529, PASS, PASS, PASS, FALL, FALL},
};
enum { ROWS = sizeof(rows) / sizeof(*rows) };

static void test_what_follows(void **state)
{
    weir_conf_upstream_t plain = upstream_of(false), provider = upstream_of(true);
    for (size_t i = 0; i < ROWS; ++i) {
        weir_reason_t reason = rows[i].reason;
        int status = rows[i].status;
        assert_int_equal(next_of(&plain, "GET", 1, false, reason, status), rows[i].listed);
        assert_int_equal(next_of(&plain, "POST", 1, false, reason, status), rows[i].post);
        assert_int_equal(next_of(&provider, "POST", 1, false, reason, status), rows[i].provider_post);
        assert_int_equal(next_of(&plain, "GET", 2, true, reason, status), rows[i].listed_falls);
        assert_int_equal(next_of(&plain, "POST", 2, true, reason, status), rows[i].post_falls);
        assert_int_equal(next_of(&plain, "GET", 2, false, reason, status), PASS);
    }
}

/* What is no retry may still be a fallback; a retry goes first. */
static void test_a_retry_goes_before_a_fallback(void **state)
{
    weir_conf_upstream_t plain = upstream_of(false);
    for (size_t i = 0; i < ROWS; ++i) {
        weir_next_t next = next_of(&plain, "PUT", 1, true, rows[i].reason, rows[i].status);
        assert_int_equal(next, rows[i].listed == RETRY ? RETRY : rows[i].listed_falls);
    }
}

static void test_a_request_that_is_not_whole_is_never_sent_again(void **state)
{
    weir_conf_upstream_t plain = upstream_of(false);
    for (size_t i = 0; i < ROWS; ++i) {
        weir_retry_case_t retry = {.upstream = &plain, .method = {"GET", 3}, .tries = 1, .has_fallback = true};
        weir_retry_outcome_t outcome = {.reason = rows[i].reason, .status = rows[i].status};
        assert_int_equal(weir_retry_next(&retry, outcome), PASS);
    }
}

static void test_without_retries_the_usual_causes_fall_back(void **state)
{
    weir_conf_upstream_t plain = upstream_of(false);
    plain.retry.enabled = false;
    plain.retry.when = 0;
    for (size_t i = 0; i < ROWS; ++i) {
        assert_int_equal(next_of(&plain, "GET", 1, false, rows[i].reason, rows[i].status), PASS);
        assert_int_equal(next_of(&plain, "GET", 1, true, rows[i].reason, rows[i].status), rows[i].listed_falls);
    }
}

/* Each cause alone: it is retried, nothing else is, and 429, 500 and 529 fall back all the same. */
static void test_each_cause_is_its_own(void **state)
{
    static const struct {
        unsigned when;
        int status;
        weir_reason_t reason;
    } causes[] = {{WEIR_WHEN_CONNECT, 0, WEIR_REASON_DNS_FAILED},
                  {WEIR_WHEN_TIMEOUT, 0, WEIR_REASON_TIMEOUT_FIRST_BYTE},
                  {WEIR_WHEN_RESET, 0, WEIR_REASON_TRUNCATED},
                  {WEIR_WHEN_429, 429, WEIR_REASON_NONE},
                  {WEIR_WHEN_500, 500, WEIR_REASON_NONE},
                  {WEIR_WHEN_502, 502, WEIR_REASON_NONE},
                  {WEIR_WHEN_503, 503, WEIR_REASON_NONE},
                  {WEIR_WHEN_504, 504, WEIR_REASON_NONE},
                  {WEIR_WHEN_529, 529, WEIR_REASON_NONE}};
    weir_conf_upstream_t plain = upstream_of(false);
    for (size_t i = 0; i < sizeof(causes) / sizeof(*causes); ++i)
        for (size_t j = 0; j < sizeof(causes) / sizeof(*causes); ++j) {
            int status = causes[j].status;
            bool always = status == 429 || status == 500 || status == 529;
            plain.retry.when = causes[i].when;
            assert_int_equal(next_of(&plain, "GET", 1, false, causes[j].reason, status), i == j ? RETRY : PASS);
            assert_int_equal(next_of(&plain, "GET", 2, true, causes[j].reason, status), i == j || always ? FALL : PASS);
        }
}

static void test_what_a_breaker_counts(void **state)
{
    weir_conf_upstream_t plain = upstream_of(false), provider = upstream_of(true);
    for (size_t i = 0; i < ROWS; ++i) {
        weir_retry_outcome_t outcome = {.reason = rows[i].reason, .status = rows[i].status};
        bool is_lost = outcome.reason != WEIR_REASON_NONE && outcome.reason != WEIR_REASON_OVERLOADED &&
                       outcome.reason != WEIR_REASON_CLIENT_GONE;
        bool is_5xx = outcome.status >= 500 && outcome.status != 529;
        assert_int_equal(weir_retry_is_failure(&plain, outcome), is_lost);
        assert_int_equal(weir_retry_is_failure(&provider, outcome), is_lost || is_5xx);
        plain.breaker.failures = 0;
        assert_false(weir_retry_is_failure(&plain, outcome));
        plain.breaker.failures = upstream_of(false).breaker.failures;
    }
}

/* 0 <= wait < min(max, base * 2^(tries - 1)), evenly spread; and no overflow, however many tries. */
static void test_the_wait_is_by_chance_and_bounded(void **state)
{
    static const int64_t longest_ns[] = {100, 200, 400, 800, 1000, 1000, 1000};
    weir_conf_upstream_t plain = upstream_of(false);
    seeded_t random = seeded_start("retry");
    for (int tries = 1; tries <= 7; ++tries) {
        int64_t sum_ns = 0;
        for (int i = 0; i < 1000; ++i) {
            int64_t wait_ns = weir_retry_backoff_ns(&plain, tries, seeded_next(&random));
            assert_in_range(wait_ns, 0, longest_ns[tries - 1] - 1);
            sum_ns += wait_ns;
        }
        assert_in_range(sum_ns / 1000, longest_ns[tries - 1] * 45 / 100, longest_ns[tries - 1] * 55 / 100);
    }
    plain.retry.backoff.base_ns = plain.retry.backoff.max_ns = INT64_C(3600000000000);
    assert_in_range(weir_retry_backoff_ns(&plain, 10, UINT64_MAX), 0, INT64_C(3600000000000) - 1);
    assert_int_equal(weir_retry_backoff_ns(&plain, INT32_MAX, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_follows),
        cmocka_unit_test(test_a_retry_goes_before_a_fallback),
        cmocka_unit_test(test_a_request_that_is_not_whole_is_never_sent_again),
        cmocka_unit_test(test_without_retries_the_usual_causes_fall_back),
        cmocka_unit_test(test_each_cause_is_its_own),
        cmocka_unit_test(test_what_a_breaker_counts),
        cmocka_unit_test(test_the_wait_is_by_chance_and_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
