/* More comes than there are slots for: urgent waits less than normal, normal less than background, background still has
 * one grant in sixteen, the oldest of a class is first, and nobody waits beyond `wait`. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sim.h"

enum { CLASSES = 3, LINES = 2, WAITING_MAX = 8192, TENANTS = 50, TEXT_MAX = 8, LOWEST = 16 };

#define WAIT_NS (3 * S)
#define SERVICE_NS (100 * MS)

static const char *const class_names[CLASSES] = {"urgent", "normal", "background"};
static const char *const line_names[LINES] = {"red", "blue"};
static char tenant_names[TENANTS][TEXT_MAX];

/* Who waits for the slots of one key, the oldest of each class first. */
typedef struct {
    sim_request_t *waiting[CLASSES][WAITING_MAX];
    size_t count[CLASSES];
    unsigned since_lowest; /* grants */
    unsigned since_passed; /* grants since one went to the lowest class, past a higher one */
} line_t;

typedef struct {
    line_t lines[LINES];
    int64_t end_ns;
    int percent[CLASSES]; /* of what the slots can do, that arrives */
    size_t sent[CLASSES], passed[CLASSES], granted[CLASSES], in_vain[CLASSES];
    int64_t waited_ns[CLASSES], longest_ns;
} rush_t;

static line_t *line_of(rush_t *rush, const sim_request_t *request)
{
    return &rush->lines[request->call.team == line_names[0] ? 0 : 1];
}

static void enter(sim_t *sim, rush_t *rush, sim_request_t *request)
{
    line_t *line = line_of(rush, request);
    int class = request->call.tag;
    assert(line->count[class] < WAITING_MAX);
    line->waiting[class][line->count[class]++] = request;
}

/* Returns how many of its class were before it. */
static size_t leave(rush_t *rush, sim_request_t *request)
{
    line_t *line = line_of(rush, request);
    int class = request->call.tag;
    size_t at = 0;
    while (at < line->count[class] && line->waiting[class][at] != request)
        ++at;
    assert(at < line->count[class]);
    --line->count[class];
    memmove(&line->waiting[class][at], &line->waiting[class][at + 1], (line->count[class] - at) * sizeof(request));
    return at;
}

static void check_grant(sim_t *sim, line_t *line, int class)
{
    int first = 0, last = CLASSES - 1;
    while (line->count[first] == 0)
        ++first;
    while (line->count[last] == 0)
        --last;
    if (class != first && class != last)
        sim_fail(sim, "%s was granted, neither the first nor the lowest that waits", class_names[class]);
    ++line->since_lowest;
    ++line->since_passed;
    if (class != last && line->since_lowest >= LOWEST)
        sim_fail(sim, "%s waits since %u grants, and is the lowest", class_names[last], line->since_lowest);
    if (class == last)
        line->since_lowest = 0;
    if (class == first)
        return;
    if (line->since_passed < LOWEST)
        sim_fail(sim, "%s was passed again after %u grants", class_names[first], line->since_passed);
    line->since_passed = 0;
}

static void on_told(sim_t *sim, sim_request_t *request)
{
    rush_t *rush = sim->data;
    check_grant(sim, line_of(rush, request), request->call.tag);
    if (leave(rush, request) != 0)
        sim_fail(sim, "%s was granted before an older one", class_names[request->call.tag]);
    ++rush->granted[request->call.tag];
}

static void on_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    rush_t *rush = sim->data;
    int class = request->call.tag;
    int64_t waited_ns = sim->now_ns - request->arrived_ns;
    if (waited_ns > rush->longest_ns)
        rush->longest_ns = waited_ns;
    if (verdict->kind == WEIR_PASS) {
        ++rush->passed[class];
        rush->waited_ns[class] += waited_ns;
    } else if (verdict->kind == WEIR_AWAIT) {
        if (request->phase != SIM_WAITING)
            enter(sim, rush, request);
    } else if (verdict->reason == WEIR_REASON_QUEUE_TIMEOUT) {
        if (!request->is_told)
            (void)leave(rush, request);
        ++rush->in_vain[class];
    } else {
        sim_fail(sim, "%s was answered %s, and there was room", class_names[class], weir_reason_word(verdict->reason));
    }
}

static void arrive(sim_t *sim, void *data)
{
    rush_t *rush = sim->data;
    int class = (int)((int *)data - rush->percent);
    sim_call_t call = {.max_tokens = -1, .leaves_ns = -1, .answer = {.status = 200}, .tag = class};
    call.tenant = tenant_names[sim_below(&sim->random, TENANTS)];
    call.team = line_names[sim_below(&sim->random, LINES)];
    call.priority = class == 1 && sim_one_in(&sim->random, 2) ? NULL : class_names[class];
    call.call_ns = sim_exponential(&sim->random, SERVICE_NS);
    sim_arrive(sim, sim->now_ns, &call);
    ++rush->sent[class];
    /* ten slots each of two keys */
    int64_t next_ns = sim->now_ns + sim_exponential(&sim->random, SERVICE_NS / 20 * 100 / rush->percent[class]);
    if (next_ns < rush->end_ns)
        sim_at(sim, next_ns, arrive, data);
}

static const char yaml[] =
    "version: 1\n"
    "limits:\n"
    "  slots: {algorithm: concurrency, limit: 10, key: [{header: X-Team}], scope: local,\n"
    "          queue: {size: 8000, wait: 3s, per_tenant: 100%, priority: {header: X-Priority}}}\n"
    "upstreams:\n"
    "  up: {url: \"http://127.0.0.1:9\"}\n"
    "listeners:\n"
    "  in: {address: \"127.0.0.1:8080\", routes: [{upstream: up, limits: [slots]}]}\n";

static int64_t mean_ms(const rush_t *rush, int class)
{
    return rush->passed[class] != 0 ? rush->waited_ns[class] / (int64_t)rush->passed[class] / MS : -1;
}

static const char *check(const sim_t *sim, const rush_t *rush)
{
    size_t granted = rush->granted[0] + rush->granted[1] + rush->granted[2];
    if (sim->failures != 0)
        return sim->first_failure;
    if (rush->longest_ns > WAIT_NS)
        return "someone waited beyond `wait`";
    if (rush->granted[2] * LOWEST < granted * 99 / 100)
        return "background had less than one grant in sixteen";
    if (mean_ms(rush, 0) >= mean_ms(rush, 2) || mean_ms(rush, 0) >= 1000)
        return "urgent did not wait less than background, or not little";
    if (rush->passed[1] != 0 && (mean_ms(rush, 1) <= mean_ms(rush, 0) || mean_ms(rush, 1) >= mean_ms(rush, 2)))
        return "normal did not wait more than urgent, and less than background";
    return NULL;
}

static void try_rush(uint64_t seed, const char *what, int urgent, int normal, int background)
{
    rush_t *rush = calloc(1, sizeof(*rush));
    assert(rush != NULL);
    sim_t *sim = sim_create(seed, yaml, (sim_hooks_t){.verdict = on_verdict, .told = on_told}, rush);
    sim->early_one_in = 50;
    rush->end_ns = sim->now_ns + 5 * M;
    const int percent[CLASSES] = {urgent, normal, background};
    for (int class = 0; class < CLASSES; ++class) {
        rush->percent[class] = percent[class];
        if (percent[class] != 0)
            sim_at(sim, sim->now_ns, arrive, &rush->percent[class]);
    }
    sim_run(sim, INT64_MAX);
    sim_say(check(sim, rush), what,
            "urgent %zu of %zu admitted, after %lld ms; normal %zu of %zu, %lld ms; background %zu of %zu, %lld ms, "
            "%.1f %% "
            "of the grants; the longest wait %lld ms",
            rush->passed[0], rush->sent[0], (long long)mean_ms(rush, 0), rush->passed[1], rush->sent[1],
            (long long)mean_ms(rush, 1), rush->passed[2], rush->sent[2], (long long)mean_ms(rush, 2),
            100.0 * (double)rush->granted[2] / (double)(rush->granted[0] + rush->granted[1] + rush->granted[2]),
            (long long)(rush->longest_ns / MS));
    sim_destroy(sim);
    free(rush);
}

int main(int argc, char **argv)
{
    sim_options_t options = sim_options(argc, argv, 1, 1);
    for (int i = 0; i < TENANTS; ++i)
        snprintf(tenant_names[i], TEXT_MAX, "t%d", i);
    for (long round = 0; round < options.rounds; ++round) {
        uint64_t seed = options.seed + (uint64_t)round;
        try_rush(seed, "a little more than there is room for", 40, 40, 40);
        try_rush(seed, "twice as much", 60, 70, 70);
        try_rush(seed, "normal alone would fill it", 30, 120, 50);
        try_rush(seed, "urgent alone nearly fills it", 90, 0, 50);
    }
    return sim_status();
}
