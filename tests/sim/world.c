#include "world.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    TENANTS_MAX = 4096,
    NAMES_MAX = 512,
    OVERRIDES_MAX = 5,
    LIMITS_MAX = 6,
    ROUTES = 2,
    RETRIES_MAX = 4,
    TEXT_MAX = 12,
    YAML_MAX = 16 * 1024,
};

typedef struct {
    world_options_t options;
    seeded_t random;
    char yaml[YAML_MAX];
    size_t yaml_len;
    /* what arrives */
    int64_t tenants, correlations, gap_ns, arrivals_left;
    int64_t service_ns, body_bytes, tokens;
    weir_conf_dialect_t dialect;
    judge_t *judge; /* NULL in a rough world */
    /* who was there */
    sim_call_t *calls;
    size_t call_count;
    world_figures_t *figures;
} world_t;

static char tenant_names[TENANTS_MAX][TEXT_MAX], correlation_names[NAMES_MAX][TEXT_MAX];

static void name_all(void)
{
    for (int i = 0; i < TENANTS_MAX; ++i)
        snprintf(tenant_names[i], TEXT_MAX, "t%d", i);
    for (int i = 0; i < NAMES_MAX; ++i)
        snprintf(correlation_names[i], TEXT_MAX, "c%d", i);
}

/* ---- a configuration ---- */

__attribute__((format(printf, 2, 3))) static void put(world_t *world, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    world->yaml_len += (size_t)vsnprintf(world->yaml + world->yaml_len, YAML_MAX - world->yaml_len, format, list);
    va_end(list);
    assert(world->yaml_len < YAML_MAX);
}

/* What comes to one key in so long, a quarter of it to four times as much. */
static int64_t draw_amount(world_t *world, int64_t each, int64_t span_ns, int64_t max)
{
    int64_t keys = sim_magnitude(&world->random, 1, world->tenants), quarters = sim_magnitude(&world->random, 1, 16);
    __int128 amount = (__int128)each * span_ns / world->gap_ns / keys * quarters / 4;
    return amount < 1 ? 1 : amount < max ? (int64_t)amount : max;
}

static void put_rate(world_t *world, int64_t each)
{
    static const struct {
        char unit;
        int64_t ns;
    } periods[] = {{'s', S}, {'m', M}, {'h', H}, {'d', 24 * H}};
    int64_t i = sim_below(&world->random, 4);
    put(world, "rate: %" PRId64 "/%c, ", draw_amount(world, each, periods[i].ns, 1000000000), periods[i].unit);
}

static void put_key(world_t *world, bool *has_tenant)
{
    static const char *const parts[] = {"tenant", "route", "model", "client_ip", "correlation", "{header: X-Team}"};
    int64_t count = sim_below(&world->random, 4), from = sim_below(&world->random, 6);
    *has_tenant = false;
    put(world, "key: [");
    for (int64_t i = 0; i < count; ++i) {
        int64_t part = count == 1 && !sim_one_in(&world->random, 3) ? 0 : (from + i * 5) % 6;
        *has_tenant |= part == 0;
        put(world, "%s%s", i != 0 ? ", " : "", parts[part]);
    }
    put(world, "], ");
}

static void put_bucket(world_t *world, int64_t each)
{
    put_rate(world, each);
    if (!sim_one_in(&world->random, 4))
        put(world, "burst: %" PRId64 ", ", draw_amount(world, each, sim_magnitude(&world->random, S, H), 100000000));
}

static void put_window(world_t *world, int64_t each)
{
    int64_t window_ms = sim_magnitude(&world->random, 100, 2 * 3600 * 1000);
    put(world, "limit: %" PRId64 ", window: %" PRId64 "ms, ", draw_amount(world, each, window_ms * MS, 500000000),
        window_ms);
    if (sim_one_in(&world->random, 2))
        put(world, "precision: exact, ");
}

static void put_slots(world_t *world, size_t index, bool has_queue)
{
    put(world, "limit: %" PRId64 ", ", draw_amount(world, 1, world->service_ns, 100000));
    if (!has_queue)
        return;
    int64_t size = sim_magnitude(&world->random, 1, 64), wait_ms = sim_magnitude(&world->random, 20, 300000);
    put(world, "scope: local, queue: {size: %" PRId64 ", wait: %" PRId64 "ms", size,
        wait_ms / 16 * 16 + 16 + (int64_t)index);
    if (sim_one_in(&world->random, 2))
        put(world, ", per_tenant: %" PRId64 "%%", sim_magnitude(&world->random, 1, 100));
    if (!sim_one_in(&world->random, 3))
        put(world, ", priority: {header: X-Priority}");
    put(world, "}, ");
}

static void put_overrides(world_t *world, const char *algorithm, int64_t each)
{
    put(world, "tenants: {");
    int64_t count = sim_between(&world->random, 1, OVERRIDES_MAX);
    for (int64_t i = 0; i < count; ++i) {
        put(world, "%st%" PRId64 ": {", i != 0 ? ", " : "", i);
        if (strcmp(algorithm, "token_bucket") != 0)
            put(world, "limit: %" PRId64, draw_amount(world, each, M, 1000000));
        else if (sim_one_in(&world->random, 6))
            put(world, "rate: 0/s");
        else
            put_rate(world, each);
        put(world, "}");
    }
    put(world, "}, ");
}

static void put_limit(world_t *world, size_t index)
{
    static const char *const algorithms[] = {"token_bucket", "sliding_window", "concurrency"};
    static const char *const units[] = {"requests", "request_bytes", "llm_tokens"};
    int64_t algorithm = sim_below(&world->random, 3), unit = sim_below(&world->random, 3);
    if (world->options.has_many_slots && !sim_one_in(&world->random, 3))
        algorithm = 2;
    if (algorithm == 2 || sim_one_in(&world->random, 3))
        unit = 0;
    int64_t each = unit == 0 ? 1 : unit == 1 ? world->body_bytes : world->tokens;
    bool is_shadow = sim_one_in(&world->random, 6), has_tenant;
    bool has_queue = !world->options.is_crowded && (world->options.has_many_slots || sim_one_in(&world->random, 2));
    put(world, "  l%zu: {algorithm: %s, ", index, algorithms[algorithm]);
    if (unit != 0)
        put(world, "unit: %s, ", units[unit]);
    put_key(world, &has_tenant);
    if (algorithm == 0)
        put_bucket(world, each);
    else if (algorithm == 1)
        put_window(world, each);
    else
        put_slots(world, index, has_queue);
    /* keys of different rates in one overflow bucket would make its model no simpler than the bucket */
    if (has_tenant && sim_one_in(&world->random, 2) && !(world->options.is_crowded && algorithm == 0))
        put_overrides(world, algorithms[algorithm], each);
    put(world, "max_keys: %" PRId64 "%s}\n",
        world->options.is_crowded ? sim_magnitude(&world->random, 1, 64) : INT64_C(100000),
        is_shadow ? ", mode: shadow" : "");
}

static void put_upstream(world_t *world)
{
    static const char *const dialects[] = {"plain", "openai", "anthropic"};
    put(world, "upstreams:\n  up: {url: \"http://127.0.0.1:9\", dialect: %s, ", dialects[world->dialect]);
    put(world, "usage: {estimate: %" PRId64, sim_between(&world->random, 1, 8));
    if (sim_one_in(&world->random, 2)) {
        int64_t cached = sim_below(&world->random, 1000000), output = sim_between(&world->random, 0, 5);
        put(world, ", weights: {cached: 0.%06" PRId64 ", output: %" PRId64 ".5}", cached, output);
    }
    put(world, "}}\n");
}

static void put_routes(world_t *world, size_t limits)
{
    put(world, "listeners:\n  in:\n    address: 127.0.0.1:8080\n    routes:\n");
    for (size_t route = 0; route < ROUTES; ++route) {
        put(world, "      - {path: /r%zu, upstream: up, limits: [", route);
        for (size_t i = 0, count = 0; i < limits; ++i)
            if (route == 0 || sim_one_in(&world->random, 2))
                put(world, "%sl%zu", count++ != 0 ? ", " : "", i);
        put(world, "]}\n");
    }
}

static void draw_yaml(world_t *world)
{
    size_t limits = (size_t)sim_between(&world->random, 1, LIMITS_MAX);
    world->yaml_len = 0;
    put(world, "version: 1\nlimits:\n");
    for (size_t i = 0; i < limits; ++i)
        put_limit(world, i);
    put_upstream(world);
    put_routes(world, limits);
}

static void draw(world_t *world)
{
    world->tenants = sim_magnitude(&world->random, 1, TENANTS_MAX - 1);
    world->correlations = sim_magnitude(&world->random, 1, NAMES_MAX - 1);
    world->arrivals_left = world->options.arrivals;
    world->gap_ns = sim_magnitude(&world->random, M, 6 * H) / world->options.arrivals;
    world->service_ns = sim_magnitude(&world->random, MS, 2 * M);
    world->body_bytes = sim_magnitude(&world->random, 10, 100000);
    world->tokens = sim_magnitude(&world->random, 10, 5000);
    world->dialect = (weir_conf_dialect_t)sim_below(&world->random, 3);
    draw_yaml(world);
}

/* ---- what arrives ---- */

static const char *draw_priority(world_t *world)
{
    static const char *const priorities[] = {"urgent", "normal", "background", "Urgent!", NULL};
    return priorities[sim_below(&world->random, 5)];
}

static void draw_body(world_t *world, sim_call_t *call)
{
    static const char *const models[] = {"gpt-5", "gpt-5-mini", "claude", NULL};
    static const weir_reason_t reasons[] = {WEIR_REASON_TIMEOUT_CLIENT, WEIR_REASON_MALFORMED, WEIR_REASON_OVERLOADED};
    call->max_tokens = -1;
    if (sim_one_in(&world->random, 10))
        return;
    call->body_bytes = sim_between(&world->random, 1, 2 * world->body_bytes);
    /* what a body came to is charged later: by then the row may have gone, in a crowd */
    call->is_chunked = sim_one_in(&world->random, 5) && !world->options.is_crowded;
    call->body_ns = sim_magnitude(&world->random, 1000, S);
    call->model = models[sim_below(&world->random, 4)];
    if (call->model != NULL && sim_one_in(&world->random, 2))
        call->max_tokens = sim_between(&world->random, 0, 2 * world->tokens);
    if (sim_one_in(&world->random, 50))
        call->body_fails = reasons[sim_below(&world->random, 3)];
}

static sim_shape_t draw_shape(world_t *world)
{
    switch (world->dialect) {
    case WEIR_DIALECT_OPENAI:
        return SIM_OPENAI_CHAT + (sim_shape_t)sim_below(&world->random, 4);
    case WEIR_DIALECT_ANTHROPIC:
        return SIM_ANTHROPIC + (sim_shape_t)sim_below(&world->random, 2);
    default:
        return SIM_PLAIN;
    }
}

static void draw_answer(world_t *world, sim_answer_t *answer)
{
    answer->shape = draw_shape(world);
    answer->status = sim_one_in(&world->random, 12) ? 500 : 200;
    answer->says_usage = answer->shape != SIM_PLAIN && !sim_one_in(&world->random, 6);
    if (answer->status != 200 && sim_shape_is_stream(answer->shape)) /* errors are no streams */
        answer->says_usage = false;
    answer->text_bytes = (size_t)sim_below(&world->random, sim_magnitude(&world->random, 1, SIM_TEXT_MAX / 2));
    answer->input = sim_below(&world->random, 2 * world->tokens);
    answer->output = sim_below(&world->random, 2 * world->tokens);
    if (sim_one_in(&world->random, 3))
        answer->cached = sim_below(&world->random, world->tokens);
    if (answer->shape >= SIM_ANTHROPIC && sim_one_in(&world->random, 3))
        answer->cache_write = sim_below(&world->random, world->tokens);
}

static void draw_end(world_t *world, sim_call_t *call)
{
    static const weir_reason_t not_run[] = {WEIR_REASON_OVERLOADED, WEIR_REASON_DRAINING};
    static const weir_reason_t lost[] = {WEIR_REASON_RESET, WEIR_REASON_CONNECT_FAILED, WEIR_REASON_TIMEOUT_FIRST_BYTE};
    static const weir_reason_t cut[] = {WEIR_REASON_TRUNCATED, WEIR_REASON_TIMEOUT_IDLE, WEIR_REASON_TIMEOUT_TOTAL};
    int64_t which = sim_below(&world->random, 16);
    call->end = which == 0 ? SIM_NOT_RUN : which <= 2 ? SIM_LOST : which <= 4 ? SIM_CUT : SIM_WHOLE;
    if (call->end == SIM_NOT_RUN)
        call->reason = not_run[which % 2];
    else if (call->end != SIM_WHOLE)
        call->reason = call->end == SIM_LOST ? lost[sim_below(&world->random, 3)] : cut[sim_below(&world->random, 3)];
    call->call_ns = sim_below(&world->random, world->service_ns);
    call->answer_ns = sim_below(&world->random, world->service_ns);
    call->leaves_ns = -1;
    if (sim_one_in(&world->random, 8))
        call->leaves_ns = sim_magnitude(&world->random, 1000, 4 * world->service_ns + 1000);
}

/* Some tenants come far more often than others. */
static int64_t draw_skewed(world_t *world, int64_t count)
{
    return sim_below(&world->random, sim_below(&world->random, count) + 1);
}

static sim_call_t draw_call(world_t *world)
{
    static const char *const teams[] = {"red", "blue", "", NULL};
    static const char *const addresses[] = {"10.0.0.1", "10.0.0.2", "2001:db8::1", "unix:"};
    sim_call_t call = {0};
    call.tenant = sim_one_in(&world->random, 20) ? NULL : tenant_names[draw_skewed(world, world->tenants)];
    call.correlation =
        sim_one_in(&world->random, 10) ? NULL : correlation_names[draw_skewed(world, world->correlations)];
    call.priority = draw_priority(world);
    call.team = teams[sim_below(&world->random, 4)];
    call.client_ip = addresses[sim_below(&world->random, 4)];
    call.route = (size_t)sim_below(&world->random, ROUTES);
    draw_body(world, &call);
    draw_answer(world, &call.answer);
    draw_end(world, &call);
    return call;
}

/* Often at one time, often where a slot of a window begins. */
static int64_t draw_next(world_t *world, int64_t now_ns)
{
    switch (sim_below(&world->random, 16)) {
    case 0:
    case 1:
    case 2:
        return now_ns;
    case 3: {
        int64_t step_ns = sim_magnitude(&world->random, S / 60, M);
        return now_ns + step_ns - now_ns % step_ns + sim_between(&world->random, -1, 1);
    }
    default:
        return now_ns + sim_exponential(&world->random, world->gap_ns);
    }
}

static void arrive_next(sim_t *sim, void *data)
{
    world_t *world = data;
    sim_call_t call = draw_call(world);
    world->calls[world->call_count++] = call;
    sim_arrive(sim, sim->now_ns, &call);
    if (--world->arrivals_left > 0)
        sim_at(sim, draw_next(world, sim->now_ns), arrive_next, world);
}

/* The same configuration, or another one, whose limits have the same names. */
static void reload_next(sim_t *sim, void *data)
{
    world_t *world = data;
    if (world->arrivals_left == 0)
        return;
    if (sim_one_in(&world->random, 3))
        draw_yaml(world);
    sim_reload(sim, world->yaml);
    ++world->figures->reloads;
    sim_at(sim, sim->now_ns + sim_exponential(&world->random, world->gap_ns * 600), reload_next, world);
}

/* ---- what comes of it ---- */

/* When it was told to, and a little before and after. */
static void come_again(sim_t *sim, const sim_request_t *request, int64_t after_ns)
{
    world_t *world = sim->data;
    if (request->call.tag == RETRIES_MAX || !sim_one_in(&world->random, 3))
        return;
    sim_call_t again = request->call;
    ++again.tag;
    sim_arrive(sim, sim->now_ns + after_ns + sim_between(&world->random, -1, 1), &again);
}

static void on_verdict(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict)
{
    world_t *world = sim->data;
    if (world->judge != NULL)
        judge_verdict(world->judge, request, verdict);
    if (world->judge != NULL && sim_one_in(&world->random, 16)) {
        sim_call_t call = draw_call(world);
        judge_peek(world->judge, sim_one_in(&world->random, 2) ? &call : &request->call);
    }
    if (verdict->kind == WEIR_ANSWER)
        come_again(sim, request, verdict->retry_after_ns > 0 ? verdict->retry_after_ns : S);
}

static void on_told(sim_t *sim, sim_request_t *request)
{
    world_t *world = sim->data;
    if (world->judge != NULL)
        judge_told(world->judge, request);
}

static int64_t tokens_of(const sim_request_t *request, int64_t bytes)
{
    int64_t each = request->request.upstream->usage.estimate;
    return (bytes + each - 1) / each;
}

/* What the answer used, as the provider says it or as its bytes come to. */
static weir_usage_t expected_usage(const sim_request_t *request)
{
    const sim_answer_t *answer = &request->call.answer;
    const weir_conf_usage_weights_t *weights = &request->request.upstream->usage.weights;
    weir_usage_t usage = {.input_is_known = answer->says_usage, .input = answer->input, .output = answer->output};
    if (answer->says_usage) {
        usage.cached = answer->cached;
        usage.cache_write = answer->cache_write;
    } else {
        usage.input = tokens_of(request, request->call.body_bytes);
        usage.output = tokens_of(request, (int64_t)answer->text_bytes);
    }
    __int128 micros = (__int128)usage.input * weights->input_micros + (__int128)usage.cached * weights->cached_micros +
                      (__int128)usage.cache_write * weights->cache_write_micros +
                      (__int128)usage.output * weights->output_micros;
    usage.weighted = (int64_t)((micros + 999999) / 1000000);
    return usage;
}

static void check_usage(sim_t *sim, const sim_request_t *request)
{
    const sim_answer_t *answer = &request->call.answer;
    const weir_usage_t *usage = &request->request.usage;
    if (!answer->says_usage && answer->status >= 400) {
        if (request->request.has_usage && usage->weighted != 0)
            sim_fail(sim, "an error is charged");
        return;
    }
    weir_usage_t expected = expected_usage(request);
    if (!request->request.has_usage || usage->input != expected.input || usage->output != expected.output ||
        usage->cached != expected.cached || usage->cache_write != expected.cache_write ||
        usage->weighted != expected.weighted || usage->input_is_known != expected.input_is_known)
        sim_fail(sim,
                 "usage of shape %d is %" PRId64 " + %" PRId64 " (%" PRId64 " weighted), and was read as %" PRId64
                 " + %" PRId64 " (%" PRId64 ")",
                 answer->shape, expected.input, expected.output, expected.weighted, usage->input, usage->output,
                 usage->weighted);
}

static world_end_t end_of(const sim_request_t *request, sim_phase_t phase, weir_reason_t reason)
{
    static const world_end_t left[] = {[SIM_BODY] = WORLD_LEFT_IN_BODY,
                                       [SIM_WAITING] = WORLD_LEFT_IN_QUEUE,
                                       [SIM_CALLING] = WORLD_LEFT_CALLING,
                                       [SIM_ANSWERING] = WORLD_LEFT_IN_ANSWER};
    static const world_end_t came[] = {
        [SIM_WHOLE] = WORLD_WHOLE, [SIM_NOT_RUN] = WORLD_NOT_RUN, [SIM_LOST] = WORLD_LOST, [SIM_CUT] = WORLD_CUT};
    switch (reason) {
    case WEIR_REASON_CLIENT_GONE:
        return left[phase];
    case WEIR_REASON_LIMIT:
        return WORLD_REFUSED;
    case WEIR_REASON_QUEUE_FULL:
        return WORLD_QUEUE_FULL;
    case WEIR_REASON_QUEUE_TIMEOUT:
        return WORLD_QUEUE_TIMEOUT;
    default:
        return phase == SIM_BODY ? WORLD_BODY_FAILED : came[request->call.end];
    }
}

static void on_ended(sim_t *sim, sim_request_t *request, const weir_outcome_t *outcome)
{
    world_t *world = sim->data;
    ++world->figures->ends[end_of(request, request->ended_in, outcome->reason)];
    /* where the stream does not say it, the text of a response is there twice, or in pieces that are not text */
    bool is_clear = request->call.answer.says_usage || request->call.answer.shape != SIM_OPENAI_RESPONSES_STREAM;
    if (request->request.upstream->dialect != WEIR_DIALECT_PLAIN && outcome->reason == WEIR_REASON_NONE &&
        request->call.body_bytes != 0 && is_clear)
        check_usage(sim, request);
    if (world->judge != NULL)
        judge_ended(world->judge, request, outcome);
}

/* ---- the end ---- */

typedef struct {
    int64_t reset_ns;
    bool is_over; /* enough time has passed for all to be back */
} looking_t;

static void look_at(sim_t *sim, const sim_call_t *call, looking_t *looking)
{
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t count = sim_explain(sim, call, explained);
    for (size_t i = 0; i < count; ++i) {
        const weir_limit_explained_t *one = &explained[i];
        bool is_slots = one->limit->algorithm == WEIR_LIMIT_CONCURRENCY;
        bool is_shut = one->limit->algorithm == WEIR_LIMIT_TOKEN_BUCKET && one->item.quota->rate.count == 0;
        if (one->item.reset_ns > looking->reset_ns)
            looking->reset_ns = one->item.reset_ns;
        if (one->item.remaining != one->quota && (is_slots || looking->is_over) && !is_shut)
            sim_fail(sim, "%s: %" PRId64 " of %" PRId64 " remain, and nobody is there any more (%s)", one->limit->name,
                     one->item.remaining, one->quota, one->key);
    }
}

/* Slots are back at once, all else when it said that it would be. */
static void look_back(sim_t *sim, const world_t *world)
{
    looking_t looking = {0};
    for (size_t i = 0; i < world->call_count; ++i)
        look_at(sim, &world->calls[i], &looking);
    sim_run(sim, sim->now_ns + looking.reset_ns + S);
    looking.is_over = true;
    for (size_t i = 0; i < world->call_count; ++i)
        look_at(sim, &world->calls[i], &looking);
    for (size_t i = 0; i < sim->snapshot->conf->limits.size; ++i) {
        const char *name = sim->snapshot->conf->limits.entries[i].name;
        if (sim_queue_depth(sim, name) != 0)
            sim_fail(sim, "%s: %zu wait, and nobody is there any more", name, sim_queue_depth(sim, name));
    }
}

static void add_figures(world_t *world, const sim_t *sim)
{
    world->figures->arrived += sim->arrived;
    world->figures->hours += (double)(sim->now_ns - H) / (double)H;
    if (world->judge == NULL)
        return;
    judge_figures_t judged = judge_figures(world->judge);
    size_t *to = (size_t *)&world->figures->judged, *from = (size_t *)&judged;
    for (size_t i = 0; i < sizeof(judged) / sizeof(size_t); ++i)
        to[i] += from[i];
}

static sim_t *create(uint64_t seed, world_t *world)
{
    sim_t *sim = sim_create(seed, world->yaml, (sim_hooks_t){on_verdict, on_told, on_ended}, world);
    sim->late_one_in = 20;
    sim->early_one_in = 20;
    sim->late_max_ns = 5 * S;
    if (world->options.is_rough)
        sim->lag_max_ns = 2 * MS;
    else
        world->judge = judge_create(sim);
    sim_at(sim, sim->now_ns, arrive_next, world);
    if (world->options.is_rough)
        sim_at(sim, sim->now_ns, reload_next, world);
    return sim;
}

bool world_run(uint64_t seed, world_options_t options, world_figures_t *figures, char failure[700])
{
    if (tenant_names[0][0] == 0)
        name_all();
    world_t *world = calloc(1, sizeof(*world));
    assert(world != NULL);
    *world = (world_t){.options = options, .random = {seed}, .figures = figures};
    world->calls = calloc((size_t)options.arrivals, sizeof(*world->calls));
    assert(world->calls != NULL);
    draw(world);
    sim_t *sim = create(seed, world);
    sim_run(sim, INT64_MAX);
    add_figures(world, sim);
    if (world->judge != NULL)
        judge_finish(world->judge);
    else
        look_back(sim, world);
    bool is_right = sim->failures == 0;
    if (!is_right)
        snprintf(failure, 700, "%s (%zu in all)", sim->first_failure, sim->failures);
    if (world->judge != NULL)
        judge_destroy(world->judge);
    sim_destroy(sim);
    free(world->calls);
    free(world);
    return is_right;
}
