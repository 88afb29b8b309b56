/* Two limits on one route, each with a queue: who is granted a slot of the one may find the other one's taken. Slots
 * are used all the same, and not handed from one who cannot use it to the next for as long as they wait. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include "judge.h"

enum { TENANTS = 10, TEXT_MAX = 8, HANDED_ON_MAX = 2 };

typedef struct {
    judge_t *judge;
    seeded_t random;
    int64_t end_ns, gap_ns, call_ns;
    size_t waits, passed, running;
    int64_t busy_ns, since_ns; /* slots of both that were used, times how long */
} crossing_t;

static char tenant_names[TENANTS][TEXT_MAX];

static void count(sim_t *sim, crossing_t *crossing, int change)
{
    crossing->busy_ns += (int64_t)crossing->running * (sim->now_ns - crossing->since_ns);
    crossing->since_ns = sim->now_ns;
    crossing->running += (size_t)change;
}

static void on_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    crossing_t *crossing = sim->data;
    judge_verdict(crossing->judge, request, verdict);
    crossing->waits += verdict->kind == WEIR_AWAIT;
    if (verdict->kind != WEIR_PASS)
        return;
    ++crossing->passed;
    count(sim, crossing, 1);
}

static void on_told(sim_t *sim, sim_request_t *request)
{
    judge_told(((crossing_t *)sim->data)->judge, request);
}

static void on_ended(sim_t *sim, sim_request_t *request, const weir_outcome_t *outcome)
{
    crossing_t *crossing = sim->data;
    judge_ended(crossing->judge, request, outcome);
    if (request->passed_ns >= 0)
        count(sim, crossing, -1);
}

/* Slots are taken in the order of the limits. */
static const char yaml_format[] =
    "version: 1\n"
    "limits:\n"
    "%s"
    "  all: {algorithm: concurrency, limit: %d, key: [], scope: local, queue: {size: 200, wait: 2s}}\n"
    "%s"
    "upstreams:\n"
    "  up: {url: \"http://127.0.0.1:9\"}\n"
    "listeners:\n"
    "  in:\n"
    "    address: 127.0.0.1:8080\n"
    "    routes:\n"
    "      - {path: /, upstream: up, limits: [all, each]}\n"
    "      - {path: /all, upstream: up, limits: [all]}\n"
    "      - {path: /each, upstream: up, limits: [each]}\n";

static const char each_format[] =
    "  each: {algorithm: concurrency, limit: %d, scope: local, queue: {size: 200, wait: 3s, per_tenant: 50%%}}\n";

static sim_t *create(uint64_t seed, int all, int each, bool all_first, crossing_t *crossing)
{
    char of_each[sizeof(each_format) + 16], yaml[sizeof(yaml_format) + 2 * sizeof(of_each)];
    snprintf(of_each, sizeof(of_each), each_format, each);
    snprintf(yaml, sizeof(yaml), yaml_format, all_first ? "" : of_each, all, all_first ? of_each : "");
    *crossing = (crossing_t){.random = {seed}};
    sim_hooks_t hooks = {.verdict = on_verdict, .told = on_told, .ended = on_ended};
    sim_t *sim = sim_create(seed, yaml, hooks, crossing);
    crossing->judge = judge_create(sim);
    crossing->since_ns = sim->now_ns;
    return sim;
}

static void destroy(sim_t *sim, crossing_t *crossing)
{
    judge_destroy(crossing->judge);
    sim_destroy(sim);
}

/* ---- both are full ---- */

static void arrive(sim_t *sim, void *data)
{
    crossing_t *crossing = sim->data;
    sim_call_t call = {.max_tokens = -1, .leaves_ns = -1, .answer = {.status = 200}};
    call.tenant = tenant_names[sim_below(&crossing->random, TENANTS)];
    call.call_ns = sim_exponential(&crossing->random, crossing->call_ns);
    sim_arrive(sim, sim->now_ns, &call);
    int64_t next_ns = sim->now_ns + sim_exponential(&crossing->random, crossing->gap_ns);
    if (next_ns < crossing->end_ns)
        sim_at(sim, next_ns, arrive, NULL);
}

/* Twenty slots in all, two for each of ten: as many. Whoever waits for one of his own two holds one of the twenty where
 * these come first, so that fewer are used: of twenty that are at ten places by chance, two thirds find a slot. */
static void try_load(uint64_t seed, int percent, bool all_first)
{
    crossing_t crossing;
    char title[120];
    sim_t *sim = create(seed, 20, 2, all_first, &crossing);
    int64_t for_ns = M;
    int most = all_first ? 60 : 90;
    crossing.call_ns = 100 * MS;
    crossing.gap_ns = crossing.call_ns / 20 * 100 / percent;
    crossing.end_ns = sim->now_ns + for_ns;
    arrive(sim, NULL);
    sim_run(sim, crossing.end_ns);
    count(sim, &crossing, 0);
    int used = (int)(crossing.busy_ns * 100 / (20 * for_ns));
    size_t passed = crossing.passed, waits = crossing.waits;
    judge_finish(crossing.judge);
    const char *failure = sim->failures != 0                              ? sim->first_failure
                          : used < (percent < most ? percent - 10 : most) ? "slots were not used"
                          : waits > HANDED_ON_MAX * passed                ? "slots were handed on and on"
                                                                          : NULL;
    snprintf(title, sizeof(title), "two queues, %s first, %d %% of what there is room for", all_first ? "all" : "each",
             percent);
    sim_say(failure, title, "%zu requests, %zu admitted, which waited %zu times; %d %% of the slots used", sim->arrived,
            passed, waits, used);
    destroy(sim, &crossing);
}

/* ---- one slot each, and two that were granted one of them at once ---- */

static void come(sim_t *sim, int64_t after_ns, size_t route, int64_t for_ns)
{
    sim_call_t call = {.tenant = "t0", .max_tokens = -1, .leaves_ns = -1, .answer = {.status = 200}};
    call.route = route;
    call.call_ns = for_ns;
    sim_arrive(sim, sim->now_ns + after_ns, &call);
}

static void try_knot(uint64_t seed, bool all_first)
{
    enum { BOTH, ALL, EACH, WAITING = 4 };
    crossing_t crossing;
    sim_t *sim = create(seed, 1, 1, all_first, &crossing);
    sim->is_orderly = true;
    come(sim, 0, EACH, 20 * MS);
    for (int i = 0; i < WAITING; ++i)
        come(sim, MS, BOTH, MS); /* for the slot of `each` */
    come(sim, 2 * MS, ALL, 18 * MS);
    for (int i = 0; i < WAITING; ++i)
        come(sim, 3 * MS, BOTH, MS); /* for that of `all` */
    sim_run(sim, sim->now_ns + 100 * MS);
    size_t passed = crossing.passed, waits = crossing.waits;
    judge_finish(crossing.judge);
    const char *failure = sim->failures != 0               ? sim->first_failure
                          : passed != 2 + 2 * WAITING      ? "not all were admitted within 100 ms"
                          : waits > HANDED_ON_MAX * passed ? "slots were handed on and on"
                                                           : NULL;
    sim_say(failure, "slots of two limits become free at once",
            "%zu of %zu admitted within 100 ms, which waited %zu times; %zu in the end, %zu times", passed,
            sim->arrived, waits, crossing.passed, crossing.waits);
    destroy(sim, &crossing);
}

int main(int argc, char **argv)
{
    sim_options_t options = sim_options(argc, argv, 1, 1);
    for (int i = 0; i < TENANTS; ++i)
        snprintf(tenant_names[i], TEXT_MAX, "t%d", i);
    for (long round = 0; round < options.rounds; ++round) {
        for (int all_first = 0; all_first < 2; ++all_first) {
            static const int percents[] = {50, 80, 100, 150};
            try_knot(options.seed + (uint64_t)round, all_first);
            for (size_t i = 0; i < sizeof(percents) / sizeof(*percents); ++i)
                try_load(options.seed + (uint64_t)round, percents[i], all_first);
        }
    }
    return sim_status();
}
