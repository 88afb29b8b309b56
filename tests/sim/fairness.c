/* One tenant comes a hundred times as often as it may, ninety-nine others at 80 % of what they may: it costs them not
 * one refusal, whether each has a limit of its own, or all wait in one queue for the same slots - if that has room for
 * what chance brings together: as many places as slots for those who come evenly, ten times as many for those who come
 * at random. Classes are stronger than tenants: who is in a lower class than the one waits for what it leaves. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "sim.h"

enum { TENANTS = 100, TEXT_MAX = 8, YAML_MAX = 2048, URGENT = 0, NORMAL, BACKGROUND, CLASSES };

typedef struct {
    const char *name;
    int64_t gap_ns;
    const char *const *priorities; /* one after another */
    size_t sent, refused, refused_in[CLASSES];
    seeded_t random; /* its own, so that it comes at the same times whoever else comes */
} tenant_t;

typedef struct {
    int64_t fair_gap_ns; /* as often as a tenant may */
    int64_t service_ns;
    bool is_random; /* arrivals; else evenly spaced, and so is the time of a call */
    bool has_hog;
    const char *const *priorities, *const *hog_priorities; /* four */
} traffic_t;

typedef struct {
    traffic_t traffic;
    int64_t end_ns;
    tenant_t tenants[TENANTS]; /* the first is the hog */
} crowd_t;

static char names[TENANTS][TEXT_MAX];
static const char *const normal[4] = {"normal", "normal", "normal", "normal"};
static const char *const urgent[4] = {"urgent", "urgent", "urgent", "urgent"};
static const char *const mixed[4] = {"normal", "urgent", "normal", "background"};

static void arrive(sim_t *sim, void *data)
{
    crowd_t *crowd = sim->data;
    tenant_t *tenant = data;
    const traffic_t *traffic = &crowd->traffic;
    sim_call_t call = {.tenant = tenant->name, .max_tokens = -1, .leaves_ns = -1, .answer = {.status = 200}};
    call.tag = (int)(tenant - crowd->tenants);
    call.priority = tenant->priorities[tenant->sent++ % 4];
    call.call_ns = traffic->is_random ? sim_exponential(&tenant->random, traffic->service_ns) : traffic->service_ns;
    sim_arrive(sim, sim->now_ns, &call);
    int64_t gap_ns = traffic->is_random ? sim_exponential(&tenant->random, tenant->gap_ns) : tenant->gap_ns;
    if (sim->now_ns + gap_ns < crowd->end_ns)
        sim_at(sim, sim->now_ns + gap_ns, arrive, tenant);
}

static int class_of(const char *priority)
{
    return priority[0] == 'u' ? URGENT : priority[0] == 'n' ? NORMAL : BACKGROUND;
}

static void on_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    crowd_t *crowd = sim->data;
    tenant_t *tenant = &crowd->tenants[request->call.tag];
    if (verdict->kind != WEIR_ANSWER)
        return;
    ++tenant->refused;
    ++tenant->refused_in[class_of(request->call.priority)];
}

static crowd_t *run(uint64_t seed, const char *yaml, traffic_t traffic, int64_t for_ns)
{
    crowd_t *crowd = calloc(1, sizeof(*crowd));
    assert(crowd != NULL);
    crowd->traffic = traffic;
    sim_t *sim = sim_create(seed, yaml, (sim_hooks_t){.verdict = on_verdict}, crowd);
    crowd->end_ns = sim->now_ns + for_ns;
    for (int i = 0; i < TENANTS; ++i) {
        tenant_t *tenant = &crowd->tenants[i];
        snprintf(names[i], TEXT_MAX, "t%d", i);
        *tenant = (tenant_t){.name = names[i], .priorities = traffic.priorities, .random = {seed * 1000 + (uint64_t)i}};
        tenant->gap_ns = i == 0 ? traffic.fair_gap_ns / 100 : traffic.fair_gap_ns * 10 / 8;
        if (i == 0)
            tenant->priorities = traffic.hog_priorities;
        if (i != 0 || traffic.has_hog)
            sim_at(sim, sim->now_ns + sim_below(&tenant->random, tenant->gap_ns), arrive, tenant);
    }
    sim_run(sim, INT64_MAX);
    sim_destroy(sim);
    return crowd;
}

static size_t sum(const crowd_t *crowd, bool refused)
{
    size_t count = 0;
    for (int i = 1; i < TENANTS; ++i)
        count += refused ? crowd->tenants[i].refused : crowd->tenants[i].sent;
    return count;
}

static void write_yaml(char yaml[YAML_MAX], const char *limit)
{
    int len = snprintf(yaml, YAML_MAX,
                       "version: 1\nlimits:\n  one: {%s}\nupstreams:\n  up: {url: \"http://127.0.0.1:9\"}\nlisteners:\n"
                       "  in: {address: \"127.0.0.1:8080\", routes: [{upstream: up, limits: [one]}]}\n",
                       limit);
    assert(len < YAML_MAX);
}

/* ---- limits of their own ---- */

static void try_own(uint64_t seed, const char *what, const char *limit, bool is_random)
{
    char yaml[YAML_MAX], title[120];
    write_yaml(yaml, limit);
    traffic_t traffic = {.fair_gap_ns = S / 2, .service_ns = 10 * S, .is_random = is_random, .has_hog = true};
    traffic.priorities = traffic.hog_priorities = normal;
    crowd_t *with = run(seed, yaml, traffic, 150 * S);
    traffic.has_hog = false;
    crowd_t *without = run(seed, yaml, traffic, 150 * S);
    const char *failure = NULL;
    for (int i = 1; i < TENANTS; ++i) /* who comes at random times may be over his limit now and then, by himself */
        if (with->tenants[i].refused != without->tenants[i].refused || (!is_random && with->tenants[i].refused != 0))
            failure = "others were refused what they are not refused without it";
    if (with->tenants[0].refused == 0)
        failure = "the one was refused nothing";
    snprintf(title, sizeof(title), "limits of their own, %s, %s", what,
             is_random ? "random arrivals" : "evenly spaced");
    sim_say(failure, title, "others: %zu of %zu refused, %zu without the one; it: %zu of %zu", sum(with, true),
            sum(with, false), sum(without, true), with->tenants[0].refused, with->tenants[0].sent);
    free(with);
    free(without);
}

/* ---- one queue for all ---- */

typedef struct {
    const char *what;
    const char *const *priorities, *const *hog_priorities;
    int lowest; /* class that is refused nothing */
} classes_t;

/* A hundred slots of a second each: a tenant may use one. */
static void try_shared(uint64_t seed, const classes_t *classes, int size, bool is_random, bool holds)
{
    char limit[256], yaml[YAML_MAX], title[160];
    snprintf(
        limit, sizeof(limit),
        "algorithm: concurrency, limit: 100, key: [], scope: local, queue: {size: %d, wait: 30s, priority: {header: "
        "X-Priority}}",
        size);
    write_yaml(yaml, limit);
    traffic_t traffic = {.fair_gap_ns = S, .service_ns = S, .is_random = is_random, .has_hog = true};
    traffic.priorities = classes->priorities;
    traffic.hog_priorities = classes->hog_priorities;
    crowd_t *crowd = run(seed, yaml, traffic, 2 * M);
    size_t in[CLASSES] = {0}, unfair = 0;
    for (int class = URGENT; class < CLASSES; ++class) {
        for (int i = 1; i < TENANTS; ++i)
            in[class] += crowd->tenants[i].refused_in[class];
        unfair += class <= classes->lowest ? in[class] : 0;
    }
    snprintf(title, sizeof(title), "one queue of %d, %s, %s", size, classes->what,
             is_random ? "random arrivals" : "evenly spaced");
    char figures[160];
    snprintf(figures, sizeof(figures),
             "others: %zu urgent, %zu normal, %zu background of %zu refused; the one: %zu of %zu", in[URGENT],
             in[NORMAL], in[BACKGROUND], sum(crowd, false), crowd->tenants[0].refused, crowd->tenants[0].sent);
    if (holds)
        sim_say(unfair != 0 ? "others were refused" : NULL, title, "%s", figures);
    else
        printf("# too small for that: %s (%s)\n", title, figures);
    free(crowd);
}

static void try_all(uint64_t seed)
{
    static const struct {
        const char *what, *limit;
    } own[] = {
        {"token_bucket", "rate: 2/s, burst: 20"},
        {"sliding_window in slots", "algorithm: sliding_window, limit: 120, window: 1m"},
        {"sliding_window, exact", "algorithm: sliding_window, limit: 120, window: 1m, precision: exact"},
        {"concurrency", "algorithm: concurrency, limit: 20"},
        {"concurrency with a queue", "algorithm: concurrency, limit: 20, scope: local, queue: {size: 400, wait: 5s}"},
    };
    static const classes_t classes[] = {
        {"one class", normal, normal, BACKGROUND},
        {"all classes, and the one is normal", mixed, normal, NORMAL},
        {"all classes, and so is the one", mixed, mixed, URGENT},
        {"all classes, and the one is urgent", mixed, urgent, URGENT},
    };
    static const struct {
        int size;
        bool holds, holds_at_random;
    } sizes[] = {{32, false, false}, {100, true, false}, {1024, true, true}};
    for (size_t i = 0; i < 2 * sizeof(own) / sizeof(*own); ++i)
        try_own(seed, own[i / 2].what, own[i / 2].limit, i % 2 != 0);
    for (size_t k = 0; k < sizeof(classes) / sizeof(*classes); ++k)
        for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); ++i) {
            try_shared(seed, &classes[k], sizes[i].size, false, sizes[i].holds);
            try_shared(seed, &classes[k], sizes[i].size, true, sizes[i].holds_at_random);
        }
}

int main(int argc, char **argv)
{
    sim_options_t options = sim_options(argc, argv, 1, 1);
    for (long round = 0; round < options.rounds; ++round)
        try_all(options.seed + (uint64_t)round);
    return sim_status();
}
