/* A limit that counts by correlation id: an agent that runs away under one id is stopped at its budget, and nobody
 * else. */
#include <inttypes.h>
#include <stdio.h>
#include "sim.h"

enum { AGENTS = 200, CALLS = 40, BUDGET = 50, CALLS_MAX = 30000, TEXT_MAX = 16, YAML_MAX = 1024 };

/* The first runs away; the others stay within the budget; some calls come without an id, and get one each. */
typedef struct {
    char ids[AGENTS][TEXT_MAX];
    int64_t end_ns;
    size_t sent[AGENTS], passed[AGENTS], running, running_most;
    size_t nameless, nameless_refused;
} fleet_t;

enum { NAMELESS = -1 };

static void call_agent(sim_t *sim, fleet_t *fleet, int agent)
{
    sim_call_t call = {.tenant = "acme", .max_tokens = -1, .leaves_ns = -1, .answer = {.status = 200}, .tag = agent};
    call.correlation = agent != NAMELESS ? fleet->ids[agent] : NULL;
    call.call_ns = sim_below(&sim->random, 2 * S);
    sim_arrive(sim, sim->now_ns, &call);
    if (agent == NAMELESS)
        ++fleet->nameless;
    else
        ++fleet->sent[agent];
}

/* Each of its answers makes it call twice more. */
static void run_away(sim_t *sim, void *data)
{
    fleet_t *fleet = sim->data;
    if (sim->now_ns < fleet->end_ns)
        call_agent(sim, fleet, 0);
}

static void work(sim_t *sim, void *data)
{
    fleet_t *fleet = sim->data;
    int agent = (int)((size_t *)data - fleet->sent);
    if (fleet->sent[agent] == CALLS)
        return;
    call_agent(sim, fleet, agent);
    if (sim_one_in(&sim->random, 4))
        call_agent(sim, fleet, NAMELESS);
    sim_at(sim, sim->now_ns + 2 * S + sim_below(&sim->random, M), work, data);
}

static void on_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    fleet_t *fleet = sim->data;
    int agent = request->call.tag;
    if (verdict->kind == WEIR_PASS && agent != NAMELESS)
        ++fleet->passed[agent];
    if (verdict->kind == WEIR_PASS && agent == 0 && ++fleet->running > fleet->running_most)
        fleet->running_most = fleet->running;
    if (verdict->kind != WEIR_PASS && agent == NAMELESS)
        ++fleet->nameless_refused;
}

static void on_ended(sim_t *sim, sim_request_t *request, const weir_outcome_t *outcome)
{
    fleet_t *fleet = sim->data;
    if (request->call.tag != 0)
        return;
    fleet->running -= request->passed_ns >= 0;
    for (int i = 0; i < 2 && fleet->sent[0] < CALLS_MAX; ++i) /* refused or not: it is a runaway */
        sim_at(sim, sim->now_ns + MS + sim_below(&sim->random, 100 * S), run_away, NULL);
}

static const char *check(const fleet_t *fleet, size_t may)
{
    if (fleet->passed[0] > may)
        return "the runaway had more than its budget";
    if (fleet->passed[0] < may * 9 / 10)
        return "the runaway had less than its budget";
    for (int agent = 1; agent < AGENTS; ++agent)
        if (fleet->passed[agent] != CALLS)
            return "another agent was refused";
    return fleet->nameless_refused != 0 ? "a call without an id was refused" : NULL;
}

static void try_limit(uint64_t seed, const char *what, const char *limit, size_t may)
{
    static const char format[] = "version: 1\nlimits:\n  fanout: {key: [correlation], max_keys: 100000, %s}\n"
                                 "upstreams:\n  up: {url: \"http://127.0.0.1:9\"}\nlisteners:\n"
                                 "  in: {address: \"127.0.0.1:8080\", routes: [{upstream: up, limits: [fanout]}]}\n";
    static fleet_t fleet;
    char yaml[YAML_MAX], title[80];
    snprintf(yaml, sizeof(yaml), format, limit);
    fleet = (fleet_t){.end_ns = 2 * H};
    sim_t *sim = sim_create(seed, yaml, (sim_hooks_t){.verdict = on_verdict, .ended = on_ended}, &fleet);
    for (int agent = 0; agent < AGENTS; ++agent) {
        snprintf(fleet.ids[agent], TEXT_MAX, "run-%d", agent);
        sim_at(sim, sim->now_ns + sim_below(&sim->random, 10 * M), agent == 0 ? run_away : work, &fleet.sent[agent]);
    }
    sim_run(sim, INT64_MAX);
    size_t sent = 0;
    for (int agent = 1; agent < AGENTS; ++agent)
        sent += fleet.sent[agent];
    snprintf(title, sizeof(title), "a runaway agent under one correlation id, %s", what);
    sim_say(check(&fleet, may), title,
            "it: %zu of %zu calls, up to %zu at once; %d others: all of %zu; %zu without an id", fleet.passed[0],
            fleet.sent[0], fleet.running_most, AGENTS - 1, sent, fleet.nameless);
    sim_destroy(sim);
}

int main(int argc, char **argv)
{
    sim_options_t options = sim_options(argc, argv, 1, 1);
    for (long round = 0; round < options.rounds; ++round) {
        uint64_t seed = options.seed + (uint64_t)round;
        try_limit(seed, "a window", "algorithm: sliding_window, limit: 50, window: 2h", BUDGET);
        try_limit(seed, "an exact window", "algorithm: sliding_window, limit: 50, window: 2h, precision: exact",
                  BUDGET);
        try_limit(seed, "a bucket", "rate: 1/d, burst: 50", BUDGET);
    }
    return sim_status();
}
