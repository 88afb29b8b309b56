#ifndef WEIR_TESTS_SIM_JUDGE_H
#define WEIR_TESTS_SIM_JUDGE_H

/* What limits have to say, by models of its own that are exact: of a bucket whole parts of a token, of a window every
 * charge, of slots who has one and who waits. Whatever a filter answers is held against them, and what is wrong is told
 * to sim_fail:
 *
 *   nothing is admitted over a bound, nothing is refused without a cause, all or nothing is charged;
 *   Retry-After is when it fits if nobody else comes, and not 1 ns before (between the window and 61/60 of it, for
 * slots); no slot is free while someone waits for it, who is granted is the oldest of his lane, who is displaced had to
 * be; who waits holds the slots of the limits before, and of no other; who ends gives back what he had, whatever his
 * end.
 *
 * For worlds without lag, where limits with a queue differ in their wait, and overrides are of limits that count by
 * tenant. */

#include "sim.h"

typedef struct judge judge_t;

typedef struct {
    size_t admitted, refused, shadow_refused, overflowed, waited, timed_out, displaced, refunded, settled;
} judge_figures_t;

judge_t *judge_create(sim_t *sim);
void judge_destroy(judge_t *judge);
/* The sim's hooks call these. */
void judge_verdict(judge_t *judge, sim_request_t *request, const weir_verdict_t *verdict);
void judge_told(judge_t *judge, sim_request_t *request);
void judge_ended(judge_t *judge, sim_request_t *request, const weir_outcome_t *outcome);
/* After sim_reload: new numbers begin with it. */
void judge_reloaded(judge_t *judge);
/* Asks what such a request would be told. */
void judge_peek(judge_t *judge, const sim_call_t *call);
/* Nobody is there any more: lets time pass, and then nothing may be used anywhere. */
void judge_finish(judge_t *judge);
judge_figures_t judge_figures(const judge_t *judge);

#endif
