#ifndef WEIR_TESTS_SIM_JUDGE_HEALTH_H
#define WEIR_TESTS_SIM_JUDGE_HEALTH_H

/* What an upstream's health has to say, by a naive model: lists of all that happened, looked through each time.
 *
 *   closed opens when the rule says so for every length of the window that is allowed (window to 31/30 of it, 31 ns),
 *   and only if it does for one; open lasts base * 2^n, at most max, less the jitter; half-open has at most `probes`
 *   tries out, closes after `probes` successes, opens at a failure, and a permit that nobody brings back expires; the
 *   ramp admits 10, 50 and 100 % of three seconds. A pause is of one model and credential and ends when the last of
 *   its Retry-Afters does. A retry fits the budget, or is one of three of its second.
 *
 * It follows contract.md, and filters/core's headers where that says nothing. Wrong answers go to `fail`. */

#include <stdbool.h>
#include <stdint.h>
#include "../../proxy/health.h"

typedef struct judge_health judge_health_t;

typedef struct {
    size_t asked, admitted, refused, throttled;
    size_t opened, reopened, half_opened, closed, forced;
    size_t by_consecutive, by_rate, by_slow; /* opened; by each that held */
    size_t probes, probes_cancelled, probes_expired, ramp_refused, late_reports;
    size_t pauses, pauses_shorter; /* one that ended before another of its kind */
    size_t retries, retries_refused, requests;
    int64_t longest_half_open_ns, longest_open_ns;
} judge_health_figures_t;

judge_health_t *judge_health_create(const weir_conf_t *conf, const weir_conf_upstream_t *upstream,
                                    void (*fail)(void *data, const char *text), void *data);
void judge_health_destroy(judge_health_t *judge);

/* A breaker's state changed, and what the metrics told of it, during the call that is judged next. */
void judge_health_saw(judge_health_t *judge, const void *breaker, const char *word);
void judge_health_told(judge_health_t *judge, const char *model, const char *word);
void judge_health_asked(judge_health_t *judge, const weir_health_asker_t *asker, const weir_health_pass_t *pass,
                        int64_t now_ns);
void judge_health_looked(judge_health_t *judge, const weir_health_asker_t *asker, const weir_health_pass_t *pass,
                         int64_t now_ns);
void judge_health_waited(judge_health_t *judge, const weir_health_asker_t *asker, int64_t wait_ns, int64_t now_ns);
void judge_health_reported(judge_health_t *judge, const weir_health_pass_t *pass, weir_breaker_outcome_t outcome,
                           int64_t first_byte_ns, int64_t now_ns);
/* Its report never comes. */
void judge_health_lost(judge_health_t *judge, const weir_health_pass_t *pass);
void judge_health_paused(judge_health_t *judge, const weir_health_asker_t *asker, int64_t ns, int64_t now_ns);
void judge_health_requested(judge_health_t *judge, int64_t now_ns);
void judge_health_retried(judge_health_t *judge, bool fits, int64_t now_ns);
void judge_health_forced(judge_health_t *judge, weir_breaker_force_t force, int64_t now_ns);
/* What is shown of its breakers. */
void judge_health_shown(judge_health_t *judge, const weir_health_state_t *state, int64_t now_ns);
/* Everything has ended. */
void judge_health_finish(judge_health_t *judge, int64_t now_ns);
const judge_health_figures_t *judge_health_figures(const judge_health_t *judge);

#endif
