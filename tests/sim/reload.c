/* Limits that change while requests come: what was used counts on, at the new numbers from that moment, whichever
 * configuration a request began with: no fresh burst, nothing lost; slots are carried over, and those who wait are
 * served by the new numbers. */
#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "judge.h"

enum { TENANTS = 8, TEXT_MAX = 8, YAML_MAX = 4096, ARRIVALS = 3000 };

typedef enum { AT_ONCE, LATER, SLOTS, KINDS } kind_t;

typedef struct {
    kind_t kind;
    bool is_same; /* what is reloaded */
    seeded_t random;
    judge_t *judge;
    size_t arrivals_left, reloads;
    char yaml[YAML_MAX];
    size_t len;
} change_t;

static char tenant_names[TENANTS][TEXT_MAX];

__attribute__((format(printf, 2, 3))) static void put(change_t *change, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    change->len += (size_t)vsnprintf(change->yaml + change->len, YAML_MAX - change->len, format, list);
    va_end(list);
    assert(change->len < YAML_MAX);
}

/* ---- configurations ---- */

/* Two tenants' worth of requests come in a second: numbers from a fifth of that to ten times as much. */
static void put_rate(change_t *change, int64_t each)
{
    put(change, "rate: %" PRId64 "/m, ", each * sim_magnitude(&change->random, 10, 600));
    put(change, "burst: %" PRId64 ", ", each * sim_magnitude(&change->random, 1, 100));
}

static void put_requests(change_t *change)
{
    put(change, "  bucket: {");
    put_rate(change, 1);
    put(change, "}\n  window: {algorithm: sliding_window, window: 10s, limit: %" PRId64 "}\n",
        sim_magnitude(&change->random, 2, 100));
    put(change, "  exact: {algorithm: sliding_window, window: 7s, precision: exact, limit: %" PRId64 "}\n",
        sim_magnitude(&change->random, 2, 100));
}

static void put_tokens(change_t *change)
{
    put(change, "  bucket: {unit: llm_tokens, ");
    put_rate(change, 500);
    put(change, "}\n  window: {unit: request_bytes, ");
    put_rate(change, 1000);
    put(change,
        "}\n  exact: {unit: llm_tokens, algorithm: sliding_window, window: 7s, precision: exact, limit: %" PRId64 "}\n",
        sim_magnitude(&change->random, 1000, 50000));
}

static void put_slots(change_t *change)
{
    put(change, "  window: {algorithm: concurrency, limit: %" PRId64 "}\n", sim_magnitude(&change->random, 1, 20));
    put(change, "  bucket: {algorithm: concurrency, scope: local, key: [], limit: %" PRId64,
        sim_magnitude(&change->random, 1, 40));
    put(change, ", queue: {size: %" PRId64, sim_magnitude(&change->random, 1, 40));
    put(change, ", wait: 20s, priority: {header: X-Priority}}}\n");
    put(change, "  exact: {algorithm: concurrency, scope: local, limit: %" PRId64,
        sim_magnitude(&change->random, 1, 10));
    put(change, ", queue: {size: %" PRId64, sim_magnitude(&change->random, 1, 40));
    put(change, ", wait: 5s, per_tenant: 100%%}}\n");
}

static void draw(change_t *change)
{
    static void (*const put_limits[KINDS])(change_t * change) = {put_requests, put_tokens, put_slots};
    change->len = 0;
    put(change, "version: 1\nlimits:\n");
    put_limits[change->kind](change);
    put(change,
        "upstreams:\n  up: {url: \"http://127.0.0.1:9\", dialect: %s}\nlisteners:\n"
        "  in:\n    address: 127.0.0.1:8080\n    routes:\n"
        "      - {path: /0, upstream: up, limits: [bucket]}\n"
        "      - {path: /1, upstream: up, limits: [window]}\n"
        "      - {path: /2, upstream: up, limits: [exact]}\n"
        "      - {path: /3, upstream: up, limits: [bucket, window, exact]}\n",
        change->kind == LATER ? "openai" : "plain");
}

/* ---- what comes ---- */

static sim_call_t draw_call(change_t *change)
{
    static const char *const priorities[] = {"urgent", "normal", "background"};
    seeded_t *random = &change->random;
    sim_call_t call = {.max_tokens = -1, .leaves_ns = -1, .answer = {.status = 200}};
    call.tenant = tenant_names[sim_below(random, TENANTS)];
    call.route = (size_t)sim_below(random, 4);
    call.priority = priorities[sim_below(random, 3)];
    call.call_ns = sim_exponential(random, S);
    call.answer_ns = sim_exponential(random, S);
    if (sim_one_in(random, 10))
        call.leaves_ns = sim_exponential(random, 2 * S);
    if (change->kind != LATER)
        return call;
    call.model = "gpt-5";
    call.body_bytes = sim_between(random, 1, 2000);
    call.answer.shape = SIM_OPENAI_CHAT;
    call.answer.says_usage = true;
    call.answer.output = sim_between(random, 0, 1500);
    call.answer_ns *= sim_between(random, 1, 10);
    return call;
}

static void arrive_next(sim_t *sim, void *data)
{
    change_t *change = data;
    sim_call_t call = draw_call(change);
    sim_arrive(sim, sim->now_ns, &call);
    if (--change->arrivals_left != 0)
        sim_at(sim, sim->now_ns + sim_exponential(&change->random, S / 16), arrive_next, change);
}

static void reload_next(sim_t *sim, void *data)
{
    change_t *change = data;
    if (change->arrivals_left == 0)
        return;
    if (!change->is_same)
        draw(change);
    sim_reload(sim, change->yaml);
    judge_reloaded(change->judge);
    ++change->reloads;
    sim_at(sim, sim->now_ns + sim_exponential(&change->random, 5 * S), reload_next, change);
}

static void on_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    change_t *change = sim->data;
    judge_verdict(change->judge, request, verdict);
    if (request->request.conf == sim->snapshot->conf)
        judge_peek(change->judge, &request->call);
}

static void on_told(sim_t *sim, sim_request_t *request)
{
    judge_told(((change_t *)sim->data)->judge, request);
}

static void on_ended(sim_t *sim, sim_request_t *request, const weir_outcome_t *outcome)
{
    judge_ended(((change_t *)sim->data)->judge, request, outcome);
}

typedef struct {
    judge_figures_t judged;
    size_t arrived, reloads, failed;
    char failure[700];
} figures_t;

static void run(uint64_t seed, kind_t kind, bool is_same, figures_t *figures)
{
    change_t change = {.kind = kind, .is_same = is_same, .random = {seed}, .arrivals_left = ARRIVALS};
    draw(&change);
    sim_hooks_t hooks = {.verdict = on_verdict, .told = on_told, .ended = on_ended};
    sim_t *sim = sim_create(seed, change.yaml, hooks, &change);
    change.judge = judge_create(sim);
    sim_at(sim, sim->now_ns, arrive_next, &change);
    sim_at(sim, sim->now_ns, reload_next, &change);
    judge_finish(change.judge);
    judge_figures_t judged = judge_figures(change.judge);
    figures->judged.admitted += judged.admitted;
    figures->judged.refused += judged.refused;
    figures->judged.waited += judged.waited;
    figures->arrived += sim->arrived;
    figures->reloads += change.reloads;
    if (sim->failures != 0 && figures->failed++ == 0)
        snprintf(figures->failure, sizeof(figures->failure), "%s (%zu in all)", sim->first_failure, sim->failures);
    judge_destroy(change.judge);
    sim_destroy(sim);
}

/* ---- one stream that began before ---- */

static const char stream_yaml[] =
    "version: 1\nlimits:\n  budget: {unit: llm_tokens, rate: %s, burst: 1000}\n"
    "upstreams:\n  up: {url: \"http://127.0.0.1:9\", dialect: openai}\n"
    "listeners:\n  in: {address: \"127.0.0.1:8080\", routes: [{upstream: up, limits: [budget]}]}\n";

static void note_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    if (verdict->kind == WEIR_PASS || verdict->kind == WEIR_ANSWER)
        ((bool *)sim->data)[request->call.tag] = verdict->kind == WEIR_PASS;
}

static void use_tokens(sim_t *sim, int tag, int64_t after_ns, int64_t for_ns, int64_t tokens)
{
    sim_call_t call = {.tenant = "t0", .body_bytes = 1, .max_tokens = tokens, .leaves_ns = -1, .call_ns = for_ns};
    call.answer = (sim_answer_t){.status = 200, .shape = SIM_OPENAI_CHAT, .says_usage = true, .output = tokens};
    call.tag = tag;
    sim_arrive(sim, H + after_ns, &call);
}

static void reload_to(sim_t *sim, void *rate)
{
    char yaml[sizeof(stream_yaml) + 16];
    snprintf(yaml, sizeof(yaml), stream_yaml, (const char *)rate);
    sim_reload(sim, yaml);
}

static void try_old_stream(bool is_cut, const char *before, const char *after)
{
    bool is_admitted[3] = {false};
    char yaml[sizeof(stream_yaml) + 16];
    snprintf(yaml, sizeof(yaml), stream_yaml, before);
    sim_t *sim = sim_create(1, yaml, (sim_hooks_t){.verdict = note_verdict}, is_admitted);
    use_tokens(sim, 0, 0, 31 * S, 1); /* the stream */
    sim_at(sim, H + S, reload_to, (void *)after);
    use_tokens(sim, 1, 2 * S, MS, 900);
    use_tokens(sim, 2, 31 * S + 100 * MS, MS, 900); /* 29 s after the budget was used up, and soon after the stream */
    sim_run(sim, INT64_MAX);
    bool is_right = is_admitted[0] && is_admitted[1] && is_admitted[2] == !is_cut;
    sim_say(is_right ? NULL
            : is_cut ? "a fresh burst"
                     : "what was filled up is lost",
            is_cut ? "a stream that ends after its budget was cut brings no fresh burst"
                   : "a stream that ends after its budget was raised takes nothing back",
            "%s, then %s; %s", before, after, is_admitted[2] ? "admitted" : "refused");
    sim_destroy(sim);
}

int main(int argc, char **argv)
{
    static const char *const whats[KINDS] = {[AT_ONCE] = "requests",
                                             [LATER] = "tokens and bytes that are charged later",
                                             [SLOTS] = "slots, and who waits for one"};
    sim_options_t options = sim_options(argc, argv, 1, 12);
    for (int i = 0; i < TENANTS; ++i)
        snprintf(tenant_names[i], TEXT_MAX, "t%d", i);
    for (int k = 0; k < 2 * KINDS; ++k) {
        figures_t figures = {.failed = 0};
        char title[160];
        for (long round = 0; round < options.rounds; ++round)
            run(options.seed + (uint64_t)round, (kind_t)(k / 2), k % 2 == 0, &figures);
        snprintf(title, sizeof(title), "reloads with %s numbers: %s", k % 2 == 0 ? "the same" : "other", whats[k / 2]);
        sim_say(figures.failed != 0 ? figures.failure : NULL, title,
                "%ld worlds, %zu failed; %zu reloads, %zu requests: %zu admitted, %zu refused; %zu waited",
                options.rounds, figures.failed, figures.reloads, figures.arrived, figures.judged.admitted,
                figures.judged.refused, figures.judged.waited);
    }
    try_old_stream(true, "60000/m", "60/m");
    try_old_stream(false, "60/m", "60000/m");
    return sim_status();
}
