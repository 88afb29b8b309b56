/* Twenty streams at once against a budget of tokens: they go over it by what they used beyond their reservations alone,
 * which is at most one reservation each; those that are cut give back what they did not use; a debt is paid by time. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "judge.h"
#include "model.h"

enum { STREAMS = 20, YAML_MAX = 1024, RESERVED_MAX = 1000, BYTES_A_TOKEN = 4, BUDGET = 20000 };

typedef struct {
    judge_t *judge;
    bool is_bucket;
    int64_t end_ns;
    int64_t times; /* what a call may come to, in reservations */
    /* a ledger of its own */
    model_bucket_t bucket;
    model_window_t window;
    size_t running, running_most, passed, refused, cut;
    int64_t spent, given_back, over_most;
    bool was_refused;
} budget_t;

static const model_rate_t budget_rate = {BUDGET, M, BUDGET};

/* ---- twenty streams ---- */

static int64_t reserved_of(const sim_call_t *call)
{
    return (call->body_bytes + BYTES_A_TOKEN - 1) / BYTES_A_TOKEN + call->max_tokens;
}

static sim_call_t draw_call(sim_t *sim, const budget_t *budget)
{
    static const sim_shape_t shapes[] = {SIM_OPENAI_CHAT_STREAM, SIM_OPENAI_RESPONSES_STREAM, SIM_OPENAI_CHAT};
    seeded_t *random = &sim->random;
    sim_call_t call = {.tenant = "acme", .model = "gpt-5", .leaves_ns = -1, .answer = {.status = 200}};
    call.body_bytes = sim_between(random, 4, RESERVED_MAX / 2 * BYTES_A_TOKEN);
    call.max_tokens = sim_between(random, 0, RESERVED_MAX / 2);
    call.call_ns = sim_below(random, 2 * S);
    call.answer_ns = sim_magnitude(random, S, 30 * S);
    call.answer.shape = shapes[sim_below(random, 3)];
    call.answer.says_usage = !sim_one_in(random, 8);
    int64_t most_input = call.body_bytes / BYTES_A_TOKEN * budget->times;
    int64_t most_output = call.max_tokens * budget->times; /* if it may be more than was reserved, it is */
    call.answer.input = sim_between(random, budget->times == 1 ? 0 : most_input / 2, most_input);
    call.answer.cached = sim_between(random, 0, most_input - call.answer.input);
    call.answer.output = sim_between(random, budget->times == 1 ? 0 : most_output / 2, most_output);
    int64_t text_bytes = call.answer.output * BYTES_A_TOKEN; /* so that what an estimate comes to is not more */
    call.answer.text_bytes = text_bytes < SIM_TEXT_MAX ? (size_t)text_bytes : SIM_TEXT_MAX;
    if (sim_one_in(random, 4)) {
        call.end = SIM_CUT;
        call.reason = WEIR_REASON_TRUNCATED;
    } else if (sim_one_in(random, 8)) {
        call.leaves_ns = sim_below(random, 20 * S);
    } else if (sim_one_in(random, 16)) {
        call.end = SIM_LOST;
        call.reason = WEIR_REASON_RESET;
    }
    return call;
}

/* Reserves a twentieth of the budget and uses all that it may, for two seconds. */
static void begin(sim_t *sim, const budget_t *budget)
{
    sim_call_t call = {.tenant = "acme", .model = "gpt-5", .leaves_ns = -1, .call_ns = S, .answer_ns = S};
    call.body_bytes = RESERVED_MAX / 2 * BYTES_A_TOKEN;
    call.max_tokens = RESERVED_MAX / 2;
    call.answer = (sim_answer_t){.status = 200, .shape = SIM_OPENAI_CHAT_STREAM, .says_usage = true};
    call.answer.input = call.answer.output = RESERVED_MAX / 2 * budget->times;
    sim_arrive(sim, sim->now_ns, &call);
}

static void go_on(sim_t *sim, void *data)
{
    budget_t *budget = sim->data;
    if (sim->now_ns >= budget->end_ns)
        return;
    sim_call_t call = draw_call(sim, budget);
    sim_arrive(sim, sim->now_ns, &call);
}

static void on_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    budget_t *budget = sim->data;
    judge_verdict(budget->judge, request, verdict);
    budget->was_refused = verdict->kind == WEIR_ANSWER;
    budget->refused += verdict->kind == WEIR_ANSWER;
    if (verdict->kind != WEIR_PASS)
        return;
    ++budget->passed;
    if (++budget->running > budget->running_most)
        budget->running_most = budget->running;
}

/* In the window that ends now, or in the bucket: what is spent beyond the budget. */
static void spend(sim_t *sim, budget_t *budget, int64_t spent)
{
    budget->spent += spent;
    int64_t over;
    if (budget->is_bucket) {
        model_bucket_take(&budget->bucket, budget_rate, spent, sim->now_ns);
        over = (int64_t)((budget->bucket.missing + MODEL_TOKEN - 1) / MODEL_TOKEN) - BUDGET;
    } else {
        (void)model_window_take(&budget->window, spent, sim->now_ns);
        over = model_window_used(&budget->window, M, false, sim->now_ns) - BUDGET;
    }
    if (over > budget->over_most)
        budget->over_most = over;
}

static void on_ended(sim_t *sim, sim_request_t *request, const weir_outcome_t *outcome)
{
    budget_t *budget = sim->data;
    judge_ended(budget->judge, request, outcome);
    int64_t again_ns = sim_below(&sim->random, S);
    if (request->passed_ns >= 0) {
        int64_t spent = outcome->answered && request->request.has_usage ? request->request.usage.weighted : 0;
        int64_t reserved = reserved_of(&request->call);
        --budget->running;
        spend(sim, budget, spent);
        if (spent > reserved * budget->times)
            sim_fail(sim, "%" PRId64 " were spent, and at most %" PRId64 " were used", spent, reserved * budget->times);
        if (outcome->reason != WEIR_REASON_NONE && spent < reserved) {
            ++budget->cut;
            budget->given_back += reserved - spent;
        }
    } else {
        again_ns = 5 * S;
    }
    judge_peek(budget->judge, &request->call);
    sim_at(sim, sim->now_ns + again_ns, go_on, NULL);
}

static const char yaml_format[] =
    "version: 1\nlimits:\n  budget: {unit: llm_tokens, %s}\n"
    "upstreams:\n  up: {url: \"http://127.0.0.1:9\", dialect: openai}\n"
    "listeners:\n  in: {address: \"127.0.0.1:8080\", routes: [{upstream: up, limits: [budget]}]}\n";

static sim_t *create(uint64_t seed, const char *limit, budget_t *budget)
{
    char yaml[YAML_MAX];
    snprintf(yaml, sizeof(yaml), yaml_format, limit);
    *budget = (budget_t){.is_bucket = strstr(limit, "rate") != NULL, .times = 1};
    sim_t *sim = sim_create(seed, yaml, (sim_hooks_t){.verdict = on_verdict, .ended = on_ended}, budget);
    budget->judge = judge_create(sim);
    return sim;
}

static void destroy(sim_t *sim, budget_t *budget)
{
    model_window_dispose(&budget->window);
    judge_destroy(budget->judge);
    sim_destroy(sim);
}

static const char *check(const sim_t *sim, const budget_t *budget)
{
    int64_t may_be_over = (int64_t)STREAMS * RESERVED_MAX * (budget->times - 1);
    if (sim->failures != 0)
        return sim->first_failure;
    if (budget->running_most != STREAMS)
        return "they never ran all at once";
    if (budget->over_most > may_be_over)
        return "over the budget by more than one reservation each";
    if (budget->times > 1 && budget->over_most <= 0)
        return "never over the budget: nothing was tried";
    return budget->given_back == 0 ? "nothing was given back" : NULL;
}

static void try_streams(uint64_t seed, const char *what, const char *limit, int64_t times)
{
    budget_t budget;
    char title[128];
    sim_t *sim = create(seed, limit, &budget);
    budget.times = times;
    budget.end_ns = sim->now_ns + 4 * H;
    for (int i = 0; i < STREAMS; ++i)
        begin(sim, &budget);
    judge_finish(budget.judge);
    snprintf(title, sizeof(title), "%d streams that use %s reserved, %s", STREAMS,
             times == 1 ? "at most what they" : "up to twice what they", what);
    sim_say(check(sim, &budget), title,
            "4 hours, %zu calls, %zu refused; %" PRId64 " tokens spent, at most %" PRId64 " over a budget of %d; %zu "
            "broken off gave back %" PRId64,
            budget.passed, budget.refused, budget.spent, budget.over_most > 0 ? budget.over_most : 0, BUDGET,
            budget.cut, budget.given_back);
    destroy(sim, &budget);
}

/* ---- a debt ---- */

/* Asks with a reservation of 1; returns whether it is refused. */
static bool is_refused_at(sim_t *sim, budget_t *budget, int64_t at_ns, int64_t uses)
{
    sim_call_t call = {.tenant = "acme", .body_bytes = 1, .leaves_ns = -1};
    call.answer = (sim_answer_t){.status = 200, .shape = SIM_OPENAI_CHAT, .says_usage = true, .output = uses};
    sim_arrive(sim, at_ns, &call);
    sim_run(sim, at_ns);
    return budget->was_refused;
}

static void try_debt(const char *what, const char *limit, int64_t paid_ns)
{
    budget_t budget;
    char title[128];
    sim_t *sim = create(1, limit, &budget);
    budget.times = 1000000000;
    int64_t began_ns = sim->now_ns;
    const char *failure = NULL;
    if (is_refused_at(sim, &budget, began_ns, 5 * BUDGET))
        failure = "the first one was refused";
    else if (!is_refused_at(sim, &budget, began_ns + paid_ns - 1, 0))
        failure = "admitted before the debt is paid";
    else if (is_refused_at(sim, &budget, began_ns + paid_ns, 0))
        failure = "refused when the debt is paid";
    judge_finish(budget.judge);
    snprintf(title, sizeof(title), "a debt of four budgets is paid by time, %s", what);
    sim_say(failure != NULL      ? failure
            : sim->failures != 0 ? sim->first_failure
                                 : NULL,
            title, "after %" PRId64 " s", paid_ns / S);
    destroy(sim, &budget);
}

int main(int argc, char **argv)
{
    static const char bucket[] = "rate: 20000/m"; /* a burst of one minute's */
    static const char window[] = "algorithm: sliding_window, limit: 20000, window: 1m";
    static const char exact[] = "algorithm: sliding_window, limit: 20000, window: 1m, precision: exact";
    sim_options_t options = sim_options(argc, argv, 1, 1);
    for (long round = 0; round < options.rounds; ++round) {
        for (int64_t times = 1; times <= 2; ++times) {
            try_streams(options.seed + (uint64_t)round, "token_bucket", bucket, times);
            try_streams(options.seed + (uint64_t)round, "sliding_window in slots", window, times);
            try_streams(options.seed + (uint64_t)round, "sliding_window, exact", exact, times);
        }
    }
    try_debt("token_bucket", bucket, 4 * M + M / BUDGET);
    try_debt("sliding_window, exact", exact, M + 1);
    return sim_status();
}
