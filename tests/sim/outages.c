/* Upstreams that fail for a month: breakers, pauses, retries, budgets and fallbacks as weir's calls make them, against
 * a model that keeps lists of everything; and by themselves a fault that comes and goes each second, a full outage
 * under load, a crowd at a half-open breaker, and callers who are never heard of again. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "providers.h"

enum { YAML_MAX = 8192, SAMPLES_MAX = 4096 };

static judge_health_figures_t figures_of(const providers_t *world, size_t upstream)
{
    return *judge_health_figures(world->upstreams[upstream]->judge);
}

/* ---- months ---- */

typedef struct {
    judge_health_figures_t judged;
    size_t requests, tries, retries, fallbacks, left, late, answered, refused, failed;
} month_figures_t;

typedef struct {
    providers_t *world;
    h2o_timeout_entry_t rush, hand;
    bool is_rush, is_rough;
} month_t;

static month_t month;

static int64_t fine_ns(providers_t *world)
{
    return sim_exponential(&world->random, month.is_rough ? 2 * M : 8 * H);
}

static int64_t bad_ns(providers_t *world)
{
    return sim_magnitude(&world->random, S, month.is_rough ? 5 * M : 2 * H);
}

static void change_weather(h2o_timeout_entry_t *entry)
{
    weir_upstream_t *upstream = H2O_STRUCT_FROM_MEMBER(weir_upstream_t, change, entry);
    providers_t *world = upstream->world;
    bool is_fine = upstream->weather == WEATHER_FINE;
    weather_t next = is_fine ? (weather_t)sim_between(&world->random, WEATHER_FINE + 1, WEATHERS - 1) : WEATHER_FINE;
    upstream->fails_percent = (int)sim_between(&world->random, 5, 100);
    for (size_t i = 0; i < (size_t)MODELS * CREDENTIALS; ++i)
        upstream->limited[i / CREDENTIALS][i % CREDENTIALS] = !sim_one_in(&world->random, 3);
    providers_set_weather(world, upstream->index, next);
    const weir_conf_upstream_t *conf = &world->conf->upstreams.entries[upstream->index];
    for (size_t i = 0; i < weir_health_count(upstream->health); ++i)
        (void)weir_health_state(upstream->health, conf, i);
    providers_after(world, &upstream->change, is_fine ? bad_ns(world) : fine_ns(world));
}

/* Most of the time few come; now and then it is many. */
static void change_rush(h2o_timeout_entry_t *entry)
{
    providers_t *world = month.world;
    month.is_rush = !month.is_rush;
    int64_t calm_ns = month.is_rough ? S : 15 * S;
    world->traffic.mean_ns = month.is_rush ? sim_magnitude(&world->random, 5 * MS, 200 * MS)
                                           : sim_magnitude(&world->random, calm_ns / 4, calm_ns * 4);
    int64_t rush_ns = world->traffic.mean_ns * sim_magnitude(&world->random, 100, 3000);
    providers_close(world);
    providers_open(world, world->traffic);
    providers_after(world, &month.rush, month.is_rush ? rush_ns : sim_exponential(&world->random, 4 * H));
}

static void use_hand(h2o_timeout_entry_t *entry)
{
    providers_t *world = month.world;
    bool is_forced = world->upstreams[0]->forced;
    weir_breaker_force_t force =
        is_forced ? WEIR_BREAKER_AUTO : (weir_breaker_force_t)sim_between(&world->random, 0, 2);
    world->upstreams[0]->forced = force != WEIR_BREAKER_AUTO;
    weir_health_force(world->upstreams[0]->health, world->workers[0], force);
    providers_after(world, &month.hand,
                    sim_exponential(&world->random, world->upstreams[0]->forced ? 10 * M
                                                    : month.is_rough            ? H
                                                                                : 50 * H));
}

static void add_figures(month_figures_t *all, const providers_t *world)
{
    size_t *sums = (size_t *)&all->judged;
    for (size_t i = 0; i < world->upstream_count; ++i) {
        judge_health_figures_t one = figures_of(world, i);
        for (size_t j = 0; j < offsetof(judge_health_figures_t, longest_half_open_ns) / sizeof(size_t); ++j)
            sums[j] += ((const size_t *)&one)[j];
        if (one.longest_half_open_ns > all->judged.longest_half_open_ns)
            all->judged.longest_half_open_ns = one.longest_half_open_ns;
        if (one.longest_open_ns > all->judged.longest_open_ns)
            all->judged.longest_open_ns = one.longest_open_ns;
    }
    all->requests += world->arrived;
    all->tries += world->tries;
    all->retries += world->retries;
    all->fallbacks += world->fallbacks;
    all->left += world->left;
    all->late += world->late;
    all->answered += world->ends_of_status[2];
    all->refused += world->ends_of_reason[WEIR_REASON_BREAKER_OPEN] + world->ends_of_reason[WEIR_REASON_THROTTLED];
}

static bool run_month(uint64_t seed, bool is_rough, int64_t long_ns, month_figures_t *all, char failure[700])
{
    char yaml[YAML_MAX];
    seeded_t random = {seed};
    providers_draw(&random, is_rough, yaml, sizeof(yaml));
    providers_t *world = providers_create(seed, yaml);
    month = (month_t){.world = world, .rush.cb = change_rush, .hand.cb = use_hand, .is_rough = is_rough};
    world->lag_max_ns = sim_one_in(&random, 2) ? sim_magnitude(&random, 1, 20 * MS) : 0;
    world->lost_one_in = sim_one_in(&random, 2) ? (unsigned)sim_magnitude(&random, 1, 10) : 0;
    for (size_t i = 0; i < world->upstream_count; ++i) {
        world->upstreams[i]->change.cb = change_weather;
        providers_after(world, &world->upstreams[i]->change, fine_ns(world));
    }
    providers_traffic_t traffic = {.mean_ns = 10 * S, .is_uneven = true, .large_one_in = 20};
    traffic.answer_ns = sim_magnitude(&random, 20 * MS, 5 * S);
    traffic.leaves_one_in = (unsigned)sim_magnitude(&random, 2, 50);
    providers_open(world, traffic);
    providers_after(world, &month.rush, sim_exponential(&random, H));
    providers_after(world, &month.hand, sim_exponential(&random, is_rough ? H : 50 * H));
    providers_run(world, world->now_ns + long_ns);
    h2o_timeout_unlink(&month.rush);
    h2o_timeout_unlink(&month.hand);
    providers_finish(world);
    add_figures(all, world);
    bool is_ok = world->failures == 0;
    snprintf(failure, 700, "%s", world->first_failure);
    if (!is_ok && getenv("SIM_YAML") != NULL)
        printf("# %s\n%s", failure, yaml);
    providers_destroy(world);
    return is_ok;
}

/* What never happened was not tried. */
static const char *missing_of(const month_figures_t *all)
{
    const judge_health_figures_t *judged = &all->judged;
    const struct {
        size_t count;
        const char *what;
    } rows[] = {
        {judged->by_consecutive, "nothing opened by failures in a row"},
        {judged->by_rate, "nothing opened by their rate"},
        {judged->by_slow, "nothing opened by slow answers"},
        {judged->reopened, "nothing opened again"},
        {judged->closed, "nothing closed"},
        {judged->probes_cancelled, "no probe was cancelled"},
        {judged->probes_expired + judged->late_reports, "no report came too late"},
        {judged->ramp_refused, "no ramp refused"},
        {judged->forced, "nothing was forced"},
        {judged->throttled, "nobody was paused"},
        {judged->pauses_shorter, "no pause was shorter than the one before"},
        {judged->retries, "nothing was tried again"},
        {judged->retries_refused, "no budget was spent"},
        {all->fallbacks, "nothing fell back"},
        {all->left, "nobody left"},
        {all->late, "nothing was too late"},
        {all->refused, "nothing was refused"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i)
        if (rows[i].count == 0)
            return rows[i].what;
    return NULL;
}

static void try_months(sim_options_t options, long worlds, bool is_rough, int64_t long_ns, const char *what)
{
    month_figures_t all = {0};
    const judge_health_figures_t *judged = &all.judged;
    char failure[700] = "", one[700];
    for (long i = 0; i < worlds; ++i)
        if (!run_month(options.seed + 1 + (uint64_t)i * 2 + is_rough, is_rough, long_ns, &all, one) && all.failed++ == 0)
            memcpy(failure, one, sizeof(failure));
    sim_say(all.failed != 0 ? failure
            : worlds >= 4   ? missing_of(&all)
                            : NULL,
            what,
            "%ld worlds of %" PRId64 " hours, %zu failed; %zu requests, %zu tries, %zu retries and %zu refused by the "
            "budget, %zu fallbacks; breakers opened %zu times (%zu again; %zu in a row, %zu by rate, %zu slow), closed "
            "%zu; %zu probes, %zu cancelled, %zu expired; %zu pauses; %zu callers left, %zu too late",
            worlds, long_ns / H, all.failed, all.requests, all.tries, all.retries, judged->retries_refused,
            all.fallbacks, judged->opened, judged->reopened, judged->by_consecutive, judged->by_rate, judged->by_slow,
            judged->closed, judged->probes, judged->probes_cancelled, judged->probes_expired, judged->pauses, all.left,
            all.late);
}

/* ---- one upstream ---- */

static providers_t *create_one(uint64_t seed, const char *fields)
{
    char yaml[YAML_MAX];
    snprintf(yaml, sizeof(yaml),
             "version: 1\n"
             "upstreams:\n  u0: {url: \"http://127.0.0.1:9\", dialect: openai, %s}\n"
             "listeners:\n  in: {address: \"127.0.0.1:8080\", routes: [{upstream: u0}]}\n",
             fields);
    return providers_create(seed, yaml);
}

/* As often as the shortest of these times fit into it. */
static size_t openings_max(const weir_conf_upstream_breaker_t *conf, int64_t long_ns)
{
    size_t count = 1;
    int64_t ns = conf->open.base_ns;
    for (int64_t sum_ns = 0;; ns = ns * 2 < conf->open.max_ns ? ns * 2 : conf->open.max_ns, ++count) {
        sum_ns += ns - (int64_t)((__int128)ns * conf->open.jitter_ppm / 1000000);
        if (sum_ns > long_ns)
            return count;
    }
}

static void try_flapping(uint64_t seed, const char *what, const char *fields, int64_t mean_ns)
{
    providers_t *world = create_one(seed, fields);
    providers_set_weather(world, 0, WEATHER_FLAPPING);
    providers_open(world, (providers_traffic_t){.mean_ns = mean_ns, .answer_ns = 20 * MS});
    providers_run(world, world->now_ns + 10 * M);
    providers_finish(world);
    judge_health_figures_t judged = figures_of(world, 0);
    size_t most = openings_max(&world->conf->upstreams.entries[0].breaker, 10 * M);
    const char *failure = world->failures != 0     ? world->first_failure
                          : judged.opened > most   ? "it opened more often than the doubling lets it"
                          : judged.half_opened < 2 ? "it hardly opened: nothing was tried"
                                                   : NULL;
    sim_say(failure, what, "%zu requests; opened %zu times, at most %zu; closed %zu", world->arrived, judged.opened,
            most, judged.closed);
    providers_destroy(world);
}

/* ---- a full outage ---- */

typedef struct {
    providers_t *world;
    h2o_timeout_entry_t timer;
    size_t count;
    size_t arrived[SAMPLES_MAX], tries[SAMPLES_MAX]; /* so far, each 100 ms */
} outage_t;

enum { A_SECOND = 10, A_WINDOW = 10 * A_SECOND };

static void take_sample(h2o_timeout_entry_t *entry)
{
    outage_t *outage = H2O_STRUCT_FROM_MEMBER(outage_t, timer, entry);
    assert(outage->count < SAMPLES_MAX);
    outage->arrived[outage->count] = outage->world->arrived;
    outage->tries[outage->count++] = outage->world->tries;
    providers_after(outage->world, entry, 100 * MS);
}

static size_t between(const size_t *sums, size_t from, size_t to)
{
    return sums[to] - sums[from];
}

/* In each 10 s: the retries that begin in it were granted in it, or up to a backoff of 2 s before. Of the budget's
 * share they are of requests of at most 10 1/3 s before that; three a second are over 12 s and one more. */
static bool is_amplified(const outage_t *outage, size_t percent)
{
    for (size_t to = A_WINDOW; to < outage->count; ++to) {
        size_t from = to - A_WINDOW, before = A_WINDOW + 4 + 2 * A_SECOND;
        size_t share = between(outage->arrived, from > before ? from - before : 0, to) * percent / 100;
        if (between(outage->tries, from, to) > between(outage->arrived, from, to) + share + 3 * 13)
            return true;
    }
    return false;
}

static void try_outage(uint64_t seed, const char *what, const char *fields, size_t percent, int64_t mean_ns,
                       weather_t weather)
{
    providers_t *world = create_one(seed, fields);
    outage_t *outage = calloc(1, sizeof(*outage));
    assert(outage != NULL);
    outage->world = world;
    outage->timer.cb = take_sample;
    providers_set_weather(world, 0, weather);
    providers_after(world, &outage->timer, 0);
    providers_open(world, (providers_traffic_t){.mean_ns = mean_ns, .answer_ns = 20 * MS});
    providers_run(world, world->now_ns + 2 * M);
    providers_close(world);
    h2o_timeout_unlink(&outage->timer);
    providers_finish(world);
    judge_health_figures_t judged = figures_of(world, 0);
    const char *failure = world->failures != 0            ? world->first_failure
                          : is_amplified(outage, percent) ? "more tries in 10 s than requests and budget"
                          : world->tries > world->arrived + world->arrived * percent / 100 + 3 * 123
                              ? "more tries than requests and budget"
                          : judged.retries == 0 ? "nothing was tried again"
                                                : NULL;
    sim_say(failure, what, "%zu requests, %zu tries: %.3f of each; %zu retries refused, %zu requests refused",
            world->arrived, world->tries, (double)world->tries / (double)world->arrived, judged.retries_refused,
            judged.refused);
    free(outage);
    providers_destroy(world);
}

/* ---- half-open ---- */

static void arrive_many(providers_t *world, int count)
{
    for (int i = 0; i < count; ++i)
        providers_arrive(world);
}

/* Until its breaker is open and its time is over. */
static void open_and_wait(providers_t *world)
{
    providers_set_weather(world, 0, WEATHER_REFUSING);
    arrive_many(world, 200);
    providers_run(world, world->now_ns + S);
    providers_set_weather(world, 0, WEATHER_FINE);
    providers_run(world, world->now_ns + 10 * S);
}

static const char plain_fields[] = "retry: false, timeouts: {first_byte: 30s, total: 60s}, "
                                   "breaker: {probes: 7, open: {base: 10s, jitter: 0%}}";

/* Tries that 200 callers come to, who come at once. */
static size_t tries_of_crowd(providers_t *world)
{
    size_t before = world->tries;
    arrive_many(world, 200);
    return world->tries - before;
}

static const char *run_crowd(providers_t *world)
{
    world->traffic.answer_ns = MS;
    open_and_wait(world);
    if (figures_of(world, 0).opened != 1)
        return "it is not open";
    if (tries_of_crowd(world) != 7 || tries_of_crowd(world) != 0)
        return "200 callers at half-open are not just its probes";
    providers_run(world, world->now_ns + 500 * MS);
    if (figures_of(world, 0).closed != 1 || world->upstreams[0]->running_most < 7)
        return "its probes did not close it";
    static const size_t shares[] = {20, 100, 200, 200};
    for (size_t i = 0; i < sizeof(shares) / sizeof(*shares); ++i) {
        if (tries_of_crowd(world) != shares[i])
            return "the ramp is not 10, 50 and 100 %";
        providers_run(world, world->now_ns + S);
    }
    return NULL;
}

static void try_crowd(uint64_t seed)
{
    providers_t *world = create_one(seed, plain_fields);
    const char *failure = run_crowd(world);
    providers_finish(world);
    sim_say(world->failures != 0 ? world->first_failure : failure,
            "200 callers at half-open are its probes, then a ramp", "%zu requests, %zu tries, %zu probes",
            world->arrived, world->tries, figures_of(world, 0).probes);
    providers_destroy(world);
}

typedef struct {
    size_t probes;
    int64_t since_ns, longest_ns;
} vanishing_t;

static vanishing_t vanishing;

static void watch_probes(providers_t *world)
{
    size_t probes = figures_of(world, 0).probes;
    if (probes != vanishing.probes)
        vanishing = (vanishing_t){probes, world->now_ns, vanishing.longest_ns};
    if (world->now_ns - vanishing.since_ns > vanishing.longest_ns)
        vanishing.longest_ns = world->now_ns - vanishing.since_ns;
}

/* With nobody's report it stays half-open, but tries go on; with the first ones that are told it closes. */
static void try_vanishing(uint64_t seed)
{
    providers_t *world = create_one(seed, plain_fields);
    open_and_wait(world);
    world->lost_one_in = 1;
    world->on_arrival = watch_probes;
    vanishing = (vanishing_t){.since_ns = world->now_ns};
    providers_open(world, (providers_traffic_t){.mean_ns = 50 * MS, .answer_ns = 100 * MS});
    providers_run(world, world->now_ns + H);
    judge_health_figures_t judged = figures_of(world, 0);
    size_t probes = judged.probes;
    const char *failure = judged.closed != 0                   ? "it closed by nothing"
                          : vanishing.longest_ns > 61 * S      ? "nobody was tried for longer than a permit"
                          : probes < 7 * 59 || probes > 7 * 61 ? "not the probes of an hour of permits of 60 s"
                                                               : NULL;
    world->lost_one_in = 0;
    world->on_arrival = NULL;
    providers_run(world, world->now_ns + 62 * S);
    if (figures_of(world, 0).closed != 1 && failure == NULL)
        failure = "it is stuck half-open";
    providers_finish(world);
    sim_say(world->failures != 0 ? world->first_failure : failure, "permits of callers who vanish expire",
            "%zu probes in an hour, the longest time without one %" PRId64 " ms", probes, vanishing.longest_ns / MS);
    providers_destroy(world);
}

int main(int argc, char **argv)
{
    sim_options_t options = sim_options(argc, argv, 1, 8);
    try_crowd(options.seed);
    try_vanishing(options.seed);
    try_flapping(options.seed, "a fault of 1 Hz for ten minutes", "timeouts: {total: 60s}", 20 * MS);
    try_flapping(options.seed, "a fault of 1 Hz, one probe, nearly all by chance",
                 "breaker: {probes: 1, open: {base: 1s, max: 20s, jitter: 90%}}", 20 * MS);
    try_flapping(options.seed, "a fault of 1 Hz, few callers",
                 "breaker: {probes: 1, window: 10s, open: {base: 2s, max: 1m, jitter: 50%}}", 200 * MS);
    try_outage(options.seed, "a full outage, 1000 a second", "retry: {attempts: 10}, breaker: false", 20, MS,
               WEATHER_REFUSING);
    try_outage(options.seed, "a full outage, 50 a second", "retry: {attempts: 10}, breaker: false", 20, 20 * MS,
               WEATHER_ERRING);
    try_outage(options.seed, "a full outage, one a second", "retry: {attempts: 10}, breaker: false", 20, S,
               WEATHER_REFUSING);
    try_outage(options.seed, "a full outage of a breaker", "retry: {attempts: 4}", 20, 5 * MS, WEATHER_REFUSING);
    try_months(options, options.rounds, false, 30 * 24 * H, "a month of faults");
    try_months(options, options.rounds * 10, true, 4 * H, "hours of faults, any configuration");
    return sim_status();
}
