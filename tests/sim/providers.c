#include "providers.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "../../conf/load.h"
#include "../../proxy/hop.h"
#include "../../proxy/redis/fleet.h"

#define PATIENCE_NS (2 * MS) /* timers are of whole ms */
#define PROVEN_NS S          /* an answer that has lasted so long is a probe's success */

static const char *const model_names[MODELS] = {"a", "b", "c"};

/* What a try comes to. */
typedef struct {
    weir_reason_t fails; /* before an answer; NONE: there is one */
    int64_t first_ns;    /* until that */
    int status;
    char retry_after[ASKED_AFTER_MAX]; /* "": none */
    int64_t rest_ns;
    bool is_one_read;     /* head and end come together */
    bool awaits_caller;   /* it is his request that is late */
    weir_reason_t breaks; /* how the answer ends; NONE: whole */
} plan_t;

struct weir_attempt {
    weir_attempt_request_t request;
    weir_call_stats_t stats;
    struct caller *caller;
    h2o_timeout_entry_t timer;
    plan_t plan;
};

typedef enum { CAUSE_NONE, CAUSE_HEAD, CAUSE_END, CAUSE_LEFT, CAUSE_TOTAL, CAUSE_DELAY } cause_t;

/* What became of a try, as its upstream knows it. */
typedef struct {
    bool is, was_paid; /* was_paid: the budget gave a retry for it */
    bool was_refused;  /* or not */
    weir_reason_t reason;
    int status;
    int64_t at_ns, asked_ns; /* asked_ns: by Retry-After; -1: not */
    int64_t wait_ns;         /* until its upstream would be asked again, when the budget gave it */
} result_t;

typedef struct caller {
    providers_t *world;
    weir_sink_t sink;
    weir_call_t *call;
    weir_worker_t *worker;
    weir_body_t *body;
    h2o_timeout_entry_t leave, resume, *total_timer;
    int64_t began_ns, total_ns;
    size_t model, credential; /* model MODELS: none */
    const char *method;
    size_t target; /* the route's upstreams are in order */
    int tries;     /* at this one */
    bool may_try, was_denied, was_counted, is_lacking, has_head, wants_tunnel, is_held, is_late_himself;
    int status;
    int64_t denied_ns; /* the latest refusal's */
    weir_attempt_t *attempt;
    result_t last;
    cause_t cause;
    weir_reason_t cause_reason;
    int cause_status;
    uint64_t out; /* the try that is not reported */
    struct caller *next_dead;
} caller_t;

/* Of one start of a timer; what stops it takes it off the anchor. */
typedef struct timer_node {
    int64_t at_ns, clock_ns; /* as the world, and as the worker sees it */
    uint64_t sequence;
    size_t worker;
    caller_t *acting;
    bool is_of_call;
    h2o_linklist_t anchor;
} timer_node_t;

static providers_t *the_world;

void providers_fail(providers_t *world, const char *format, ...)
{
    if (world->failures++ != 0)
        return;
    int len = snprintf(world->first_failure, sizeof(world->first_failure),
                       "world %" PRIu64 " at %" PRId64 " ns: ", world->seed, world->now_ns);
    va_list list;
    va_start(list, format);
    vsnprintf(world->first_failure + len, sizeof(world->first_failure) - (size_t)len, format, list);
    va_end(list);
}

static void on_judged_wrong(void *data, const char *text)
{
    providers_fail(data, "%s", text);
}

/* ---- time ---- */

__thread int64_t weir_clock_turn_ns;

int64_t weir_clock_wall_ms(void)
{
    return 1700000000123 + the_world->now_ns / MS;
}

static bool is_before(const timer_node_t *a, const timer_node_t *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->sequence < b->sequence;
}

static void push(providers_t *world, timer_node_t *node)
{
    if (world->node_count == world->node_capacity) {
        world->node_capacity = world->node_capacity != 0 ? world->node_capacity * 2 : 1024;
        world->nodes = realloc(world->nodes, world->node_capacity * sizeof(timer_node_t *));
        assert(world->nodes != NULL);
    }
    size_t i = world->node_count++;
    for (; i != 0 && is_before(node, world->nodes[(i - 1) / 2]); i = (i - 1) / 2)
        world->nodes[i] = world->nodes[(i - 1) / 2];
    world->nodes[i] = node;
}

static timer_node_t *pop(providers_t *world)
{
    timer_node_t *first = world->nodes[0], *last = world->nodes[--world->node_count];
    size_t i = 0;
    for (size_t child; (child = i * 2 + 1) < world->node_count; i = child) {
        if (child + 1 < world->node_count && is_before(world->nodes[child + 1], world->nodes[child]))
            ++child;
        if (!is_before(world->nodes[child], last))
            break;
        world->nodes[i] = world->nodes[child];
    }
    world->nodes[i] = last;
    return first;
}

static void start(providers_t *world, size_t worker, h2o_timeout_entry_t *entry, int64_t ns, bool is_of_call)
{
    timer_node_t *node = malloc(sizeof(*node));
    assert(node != NULL);
    *node = (timer_node_t){.at_ns = world->now_ns + ns,
                           .clock_ns = world->worker_ns[worker] + ns,
                           .sequence = ++world->sequence,
                           .worker = worker,
                           .acting = world->acting,
                           .is_of_call = is_of_call};
    h2o_timeout_unlink(entry);
    h2o_linklist_init_anchor(&node->anchor);
    h2o_linklist_insert(&node->anchor, &entry->_link);
    push(world, node);
}

/* Nobody waits for a try that he will not see. */
static void check_delay(const caller_t *caller, int64_t ns)
{
    int64_t left_ns = caller->total_ns - (weir_clock_turn_ns - caller->began_ns);
    if (caller->last.was_paid && ns >= left_ns)
        providers_fail(caller->world, "a retry in %" PRId64 " ns, and %" PRId64 " are left", ns, left_ns);
}

void weir_timer_start(weir_worker_t *worker, h2o_timeout_entry_t *entry, int64_t ns)
{
    int64_t ms = ns > 0 ? (ns + MS - 1) / MS : 0;
    if (the_world->acting->total_timer == NULL)
        the_world->acting->total_timer = entry; /* the first one */
    check_delay(the_world->acting, ns);
    start(the_world, worker->index, entry, ms * MS, true);
}

void providers_after(providers_t *world, h2o_timeout_entry_t *entry, int64_t ns)
{
    caller_t *acting = world->acting;
    world->acting = NULL;
    start(world, 0, entry, ns, false);
    world->acting = acting;
}

static void turn(providers_t *world, size_t worker, int64_t clock_ns)
{
    int64_t lag_ns = world->lag_max_ns != 0 ? sim_below(&world->random, world->lag_max_ns) : 0;
    int64_t at_ns = world->now_ns - lag_ns;
    at_ns = at_ns > clock_ns ? at_ns : clock_ns;
    if (at_ns > world->worker_ns[worker])
        world->worker_ns[worker] = at_ns;
    weir_clock_turn_ns = world->worker_ns[worker];
}

static void free_dead(providers_t *world)
{
    for (caller_t *caller; (caller = world->dead) != NULL;) {
        world->dead = caller->next_dead;
        free(caller);
    }
}

void providers_run(providers_t *world, int64_t until_ns)
{
    while (world->node_count != 0 && world->nodes[0]->at_ns <= until_ns) {
        timer_node_t *node = pop(world);
        if (h2o_linklist_is_empty(&node->anchor)) {
            free(node);
            continue;
        }
        h2o_timeout_entry_t *entry = H2O_STRUCT_FROM_MEMBER(h2o_timeout_entry_t, _link, node->anchor.next);
        h2o_timeout_unlink(entry);
        world->now_ns = node->at_ns;
        turn(world, node->worker, node->clock_ns);
        world->acting = node->acting;
        if (node->is_of_call)
            world->acting->cause = entry == world->acting->total_timer ? CAUSE_TOTAL : CAUSE_DELAY;
        free(node);
        entry->cb(entry);
        free_dead(world);
    }
    world->acting = NULL;
    if (until_ns != INT64_MAX && until_ns > world->now_ns)
        world->now_ns = until_ns;
}

/* ---- what a call and its upstream's health lean on ---- */

void weir_log_event(weir_log_level_t level, const char *format, ...)
{
}

uint32_t weir_metrics_series(weir_metrics_t *metrics, weir_series_t *cache, weir_metric_t metric,
                             const char *const *labels)
{
    for (size_t i = 0; i < the_world->upstream_count && metric == WEIR_METRIC_BREAKER_TRANSITIONS; ++i)
        if (strcmp(the_world->conf->upstreams.entries[i].name, labels[0]) == 0)
            judge_health_told(the_world->upstreams[i]->judge, labels[1], labels[2]);
    the_world->retries += metric == WEIR_METRIC_RETRIES;
    the_world->fallbacks += metric == WEIR_METRIC_FALLBACKS;
    return 0;
}

void weir_metrics_add(weir_metrics_worker_t *worker, uint32_t slot, int64_t n)
{
}

void weir_fleet_pause(weir_fleet_t *fleet, uint64_t upstream, weir_key_t key, int64_t ns)
{
}

void weir_fleet_lift(weir_fleet_t *fleet, uint64_t upstream, int64_t max_ns)
{
}

const char *weir_metrics_tenant_name(weir_metrics_t *metrics, uint32_t number)
{
    return "tenant";
}

uint64_t weir_worker_random(weir_worker_t *worker)
{
    return seeded_next(&the_world->random);
}

void weir_worker_hold(weir_worker_t *worker, weir_snapshot_t *snapshot)
{
    ++the_world->references;
}

void weir_worker_let_go(weir_worker_t *worker, weir_snapshot_t *snapshot)
{
    --the_world->references;
}

void weir_body_acquire(weir_body_t *body)
{
    ++body->references;
}

void weir_body_release(weir_body_t *body)
{
    if (--body->references != 0)
        return;
    free(body);
    --the_world->bodies;
}

weir_health_t *weir_upstream_health(const weir_upstream_t *upstream)
{
    return upstream->health;
}

/* ---- chance ---- */

static int64_t weather_age(const weir_upstream_t *upstream)
{
    return upstream->world->now_ns - upstream->weather_since_ns;
}

static bool is_down(const weir_upstream_t *upstream)
{
    return upstream->weather == WEATHER_REFUSING ||
           (upstream->weather == WEATHER_FLAPPING && weather_age(upstream) / (S / 2) % 2 == 0);
}

/* A date in a form of RFC 9110, 5.6.7. */
static void print_date(seeded_t *random, int64_t seconds, char *text)
{
    static const char *const forms[] = {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT",
                                        "%a %b %e %H:%M:%S %Y"};
    time_t at = (time_t)(weir_clock_wall_ms() / 1000 + seconds);
    struct tm tm;
    gmtime_r(&at, &tm);
    strftime(text, ASKED_AFTER_MAX, forms[sim_below(random, 3)], &tm);
}

static void plan_limit(seeded_t *random, plan_t *plan)
{
    static const char *const wrong[] = {"soon", "-1", "1.5", "30 s"};
    plan->status = sim_one_in(random, 4) ? 529 : 429;
    switch (sim_below(random, 6)) {
    case 0:
        break;
    case 1:
        snprintf(plan->retry_after, ASKED_AFTER_MAX, "%s", wrong[sim_below(random, 4)]);
        break;
    case 2:
        print_date(random, sim_between(random, -5, 60), plan->retry_after);
        break;
    case 3:
        snprintf(plan->retry_after, ASKED_AFTER_MAX, "%" PRId64, sim_magnitude(random, 1, 100000));
        break;
    default:
        snprintf(plan->retry_after, ASKED_AFTER_MAX, "%" PRId64, sim_below(random, 20));
    }
}

static void plan_brown(seeded_t *random, const weir_conf_upstream_t *conf, plan_t *plan)
{
    static const weir_reason_t before[] = {WEIR_REASON_RESET, WEIR_REASON_BAD_RESPONSE, WEIR_REASON_OVERLOADED,
                                           WEIR_REASON_CONNECT_FAILED, WEIR_REASON_TLS_FAILED};
    static const weir_reason_t within[] = {WEIR_REASON_TRUNCATED, WEIR_REASON_TIMEOUT_IDLE, WEIR_REASON_RESET,
                                           WEIR_REASON_BAD_RESPONSE};
    static const int statuses[] = {500, 501, 502, 503, 504, 529, 429, 408};
    switch (sim_below(random, 3)) {
    case 0:
        plan->fails = before[sim_below(random, 5)];
        break;
    case 1:
        plan->status = statuses[sim_below(random, 8)];
        if (sim_one_in(random, 4))
            snprintf(plan->retry_after, ASKED_AFTER_MAX, "%" PRId64, sim_below(random, 4));
        break;
    default:
        plan->breaks = within[sim_below(random, 4)];
        plan->rest_ns = plan->breaks == WEIR_REASON_TIMEOUT_IDLE ? conf->timeouts.idle_ns : plan->rest_ns;
    }
}

static void plan_fast_failure(seeded_t *random, plan_t *plan)
{
    static const weir_reason_t reasons[] = {WEIR_REASON_CONNECT_FAILED, WEIR_REASON_CONNECT_FAILED,
                                            WEIR_REASON_DNS_FAILED, WEIR_REASON_TLS_FAILED};
    plan->fails = reasons[sim_below(random, 4)];
    plan->first_ns = sim_one_in(random, 3) ? 0 : sim_below(random, 5 * MS);
}

static void plan_late(plan_t *plan, weir_reason_t reason, int64_t ns)
{
    plan->fails = reason;
    plan->first_ns = ns;
}

static plan_t draw_plan(weir_upstream_t *upstream, const caller_t *caller)
{
    providers_t *world = upstream->world;
    seeded_t *random = &world->random;
    const weir_conf_upstream_t *conf = &world->conf->upstreams.entries[upstream->index];
    plan_t plan = {.status = sim_one_in(random, 50) ? 404 : 200};
    plan.first_ns = sim_exponential(random, world->traffic.answer_ns);
    plan.rest_ns = sim_exponential(random, world->traffic.answer_ns);
    plan.is_one_read = sim_one_in(random, 3);
    plan.awaits_caller = world->traffic.is_uneven && sim_one_in(random, 20);
    size_t model = caller->model % MODELS;
    if (is_down(upstream))
        plan_fast_failure(random, &plan);
    else if (upstream->weather == WEATHER_DEAF)
        plan_late(&plan, WEIR_REASON_TIMEOUT_CONNECT, conf->timeouts.connect_ns);
    else if (upstream->weather == WEATHER_SILENT)
        plan_late(&plan, WEIR_REASON_TIMEOUT_FIRST_BYTE, conf->timeouts.first_byte_ns);
    else if (upstream->weather == WEATHER_SLOW)
        plan.first_ns +=
            sim_between(random, conf->breaker.slow.first_byte_ns - MS, conf->breaker.slow.first_byte_ns * 2);
    else if (upstream->weather == WEATHER_ERRING)
        plan.status = sim_one_in(random, 3) ? 500 : (int)sim_between(random, 500, 504);
    else if (upstream->weather == WEATHER_LIMITING && upstream->limited[model][caller->credential])
        plan_limit(random, &plan);
    else if (sim_below(random, 1000) < (upstream->weather == WEATHER_BROWN ? upstream->fails_percent * 10
                                        : world->traffic.is_uneven         ? 2
                                                                           : 0))
        plan_brown(random, conf, &plan);
    else if (world->traffic.is_uneven && sim_one_in(random, 2000))
        plan.rest_ns = sim_magnitude(random, S, 2 * H); /* a long stream */
    if (plan.fails != WEIR_REASON_TIMEOUT_CONNECT && plan.first_ns > conf->timeouts.first_byte_ns)
        plan_late(&plan, WEIR_REASON_TIMEOUT_FIRST_BYTE, conf->timeouts.first_byte_ns);
    if (caller->wants_tunnel && plan.status == 200 && plan.fails == WEIR_REASON_NONE)
        plan.status = 101;
    if (plan.is_one_read)
        plan.rest_ns = 0;
    return plan;
}

/* ---- attempts ---- */

static const weir_conf_upstream_t *conf_of(const caller_t *caller)
{
    return &caller->world->conf->upstreams.entries[caller->target];
}

static int64_t asked_ns_of(const plan_t *plan, int64_t max_ns)
{
    int64_t seconds;
    char rest;
    struct tm tm;
    memset(&tm, 0, sizeof(tm));
    if (sscanf(plan->retry_after, "%" SCNd64 "%c", &seconds, &rest) == 1 && plan->retry_after[0] != '-')
        return seconds * S < max_ns ? seconds * S : max_ns;
    const char *end = strptime(plan->retry_after, "%a, %d %b %Y %H:%M:%S GMT", &tm);
    if (end == NULL || *end != '\0')
        end = strptime(plan->retry_after, "%a, %d-%b-%y %H:%M:%S GMT", &tm);
    if (end == NULL || *end != '\0')
        end = strptime(plan->retry_after, "%a %b %e %H:%M:%S %Y", &tm);
    int64_t ns = S;
    if (plan->retry_after[0] != '\0' && end != NULL && *end == '\0') {
        ns = (int64_t)timegm(&tm) * S - weir_clock_wall_ms() * MS;
        ns = ns > 0 ? ns : 0;
    }
    return ns < max_ns ? ns : max_ns;
}

static void note_result(caller_t *caller, weir_reason_t reason, const plan_t *plan)
{
    caller->last = (result_t){.is = true, .reason = reason, .at_ns = weir_clock_turn_ns, .asked_ns = -1};
    if (reason != WEIR_REASON_NONE)
        return;
    caller->last.status = plan->status;
    if (plan->retry_after[0] != '\0')
        caller->last.asked_ns = asked_ns_of(plan, INT64_MAX / 4);
}

static bool is_listed(const weir_conf_strings_t *list, const char *text)
{
    for (size_t i = 0; i < list->size; ++i)
        if (strcmp(list->entries[i], text) == 0)
            return true;
    return false;
}

static unsigned when_of(const result_t *result)
{
    static const struct {
        weir_reason_t reason;
        int status;
        unsigned when;
    } rows[] = {
        {WEIR_REASON_CONNECT_FAILED, 0, WEIR_WHEN_CONNECT},
        {WEIR_REASON_DNS_FAILED, 0, WEIR_WHEN_CONNECT},
        {WEIR_REASON_TLS_FAILED, 0, WEIR_WHEN_CONNECT},
        {WEIR_REASON_TIMEOUT_CONNECT, 0, WEIR_WHEN_CONNECT},
        {WEIR_REASON_TIMEOUT_FIRST_BYTE, 0, WEIR_WHEN_TIMEOUT},
        {WEIR_REASON_TIMEOUT_IDLE, 0, WEIR_WHEN_TIMEOUT},
        {WEIR_REASON_RESET, 0, WEIR_WHEN_RESET},
        {WEIR_REASON_BAD_RESPONSE, 0, WEIR_WHEN_RESET},
        {WEIR_REASON_TRUNCATED, 0, WEIR_WHEN_RESET},
        {WEIR_REASON_NONE, 429, WEIR_WHEN_429},
        {WEIR_REASON_NONE, 500, WEIR_WHEN_500},
        {WEIR_REASON_NONE, 502, WEIR_WHEN_502},
        {WEIR_REASON_NONE, 503, WEIR_WHEN_503},
        {WEIR_REASON_NONE, 504, WEIR_WHEN_504},
        {WEIR_REASON_NONE, 529, WEIR_WHEN_529},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i)
        if (rows[i].reason == result->reason && rows[i].status == result->status)
            return rows[i].when;
    return 0;
}

static bool is_harmless(const caller_t *caller)
{
    const weir_conf_upstream_retry_t *conf = &conf_of(caller)->retry;
    bool is_post_too = conf->post_with_status && strcmp(caller->method, "POST") == 0;
    bool is_listed_one = !caller->wants_tunnel && is_listed(&conf->methods, caller->method);
    return !caller->body->let_go && (when_of(&caller->last) == WEIR_WHEN_CONNECT || is_listed_one ||
                                     (caller->last.reason == WEIR_REASON_NONE && is_post_too));
}

static bool may_retry(const caller_t *caller)
{
    const weir_conf_upstream_retry_t *conf = &conf_of(caller)->retry;
    return caller->last.is && conf->enabled && caller->tries < conf->attempts &&
           (conf->when & when_of(&caller->last)) != 0 && is_harmless(caller);
}

static bool may_fall_back(const caller_t *caller)
{
    const weir_conf_upstream_retry_t *conf = &conf_of(caller)->retry;
    unsigned usual = WEIR_WHEN_CONNECT | WEIR_WHEN_RESET | WEIR_WHEN_502 | WEIR_WHEN_503 | WEIR_WHEN_504;
    unsigned when = (conf->enabled ? conf->when : usual) | WEIR_WHEN_429 | WEIR_WHEN_500 | WEIR_WHEN_529;
    if (caller->target + 1 == caller->world->upstream_count || !caller->last.is || caller->body->let_go)
        return false;
    return (when & when_of(&caller->last)) != 0 && (caller->last.reason == WEIR_REASON_NONE || is_harmless(caller));
}

static int64_t backoff_max(const caller_t *caller)
{
    const weir_conf_upstream_retry_t *conf = &conf_of(caller)->retry;
    int64_t ns = conf->backoff.base_ns;
    for (int i = 1; i < caller->tries && ns < conf->backoff.max_ns; ++i)
        ns *= 2;
    return ns < conf->backoff.max_ns ? ns : conf->backoff.max_ns;
}

static void check_next(caller_t *caller)
{
    providers_t *world = caller->world;
    if (caller->attempt != NULL)
        providers_fail(world, "a try beside another");
    if (caller->has_head)
        providers_fail(world, "a try after the caller has an answer");
}

static void check_retry(caller_t *caller)
{
    providers_t *world = caller->world;
    check_next(caller);
    if (!may_retry(caller))
        providers_fail(world, "%s: try %d of %d after %s %d, which is not to be tried again", conf_of(caller)->name,
                       caller->tries + 1, (int)conf_of(caller)->retry.attempts, weir_reason_word(caller->last.reason),
                       caller->last.status);
    if (!caller->last.was_paid)
        providers_fail(world, "%s: a retry that the budget did not give", conf_of(caller)->name);
    int64_t waited_ns = weir_clock_turn_ns - caller->last.at_ns, asked_ns = caller->last.asked_ns;
    int64_t most_ns = backoff_max(caller) > asked_ns ? backoff_max(caller) : asked_ns;
    most_ns = caller->last.wait_ns > most_ns ? caller->last.wait_ns : most_ns;
    if (waited_ns < asked_ns || waited_ns > most_ns + PATIENCE_NS + world->lag_max_ns)
        providers_fail(world,
                       "%s: a retry after %" PRId64 " ns; Retry-After is %" PRId64 ", the backoff at most %" PRId64,
                       conf_of(caller)->name, waited_ns, asked_ns, backoff_max(caller));
}

static void check_fallback(caller_t *caller)
{
    check_next(caller);
    if (!caller->was_denied && !may_fall_back(caller))
        providers_fail(caller->world, "%s: a fallback after %s %d", conf_of(caller)->name,
                       weir_reason_word(caller->last.reason), caller->last.status);
}

weir_health_pass_t __real_weir_health_look(weir_health_t *health, const weir_conf_upstream_t *conf,
                                           const weir_health_asker_t *asker);

static const char *model_of(const caller_t *caller, size_t target)
{
    if (caller->model == MODELS)
        return "";
    const char *name = model_names[caller->model];
    const char *own = weir_conf_model_name(&caller->world->conf->upstreams.entries[target], name, strlen(name));
    return own != NULL ? own : name;
}

static int64_t wait_at(const caller_t *caller, size_t target)
{
    const char *model = model_of(caller, target);
    weir_health_asker_t asker = {.model = {model, strlen(model)}, .credential = caller->credential + target * 100};
    return __real_weir_health_look(caller->world->upstreams[target]->health,
                                   &caller->world->conf->upstreams.entries[target], &asker)
        .retry_after_ns;
}

/* The caller gets this outcome: there was no way to another one. */
static void check_passed_on(const caller_t *caller)
{
    providers_t *world = caller->world;
    int64_t left_ns = caller->total_ns - (weir_clock_turn_ns - caller->began_ns);
    bool is_easy = caller->last.asked_ns <= 0 && left_ns > backoff_max(caller) && wait_at(caller, caller->target) == 0;
    if (may_retry(caller) && is_easy && !caller->last.was_refused)
        providers_fail(world, "%s: no retry after %s %d", conf_of(caller)->name, weir_reason_word(caller->last.reason),
                       caller->last.status);
    for (size_t i = caller->target + 1; may_fall_back(caller) && i < world->upstream_count; ++i)
        if (wait_at(caller, i) == 0)
            providers_fail(world, "%s: no fallback after %s %d", conf_of(caller)->name,
                           weir_reason_word(caller->last.reason), caller->last.status);
}

weir_attempt_t *weir_attempt_create(const weir_attempt_request_t *request)
{
    providers_t *world = the_world;
    caller_t *caller = world->acting;
    weir_upstream_t *upstream = world->upstreams[request->upstream];
    if (request->upstream != caller->target || !caller->may_try)
        providers_fail(world, "upstream %zu is tried, and was not asked", request->upstream);
    if (request->repeats != caller->tries)
        providers_fail(world, "try %d is called %d", caller->tries, request->repeats);
    if (!caller->was_counted)
        providers_fail(world, "the budget does not know of a request");
    check_next(caller);
    caller->may_try = false;
    ++caller->tries;
    caller->last = (result_t){0};
    weir_attempt_t *attempt = calloc(1, sizeof(*attempt));
    assert(attempt != NULL);
    *attempt = (weir_attempt_t){.request = *request, .caller = caller, .plan = draw_plan(upstream, caller)};
    weir_body_acquire(request->body);
    caller->attempt = attempt;
    caller->is_late_himself = attempt->plan.awaits_caller;
    ++world->attempts;
    ++world->tries;
    ++upstream->tries;
    if (++upstream->running > upstream->running_most)
        upstream->running_most = upstream->running;
    return attempt;
}

static void destroy_attempt(weir_attempt_t *attempt)
{
    providers_t *world = the_world;
    --world->attempts;
    --world->upstreams[attempt->request.upstream]->running;
    weir_timer_stop(&attempt->timer);
    weir_body_release(attempt->request.body);
    free(attempt);
}

static void end_attempt(weir_attempt_t *attempt, weir_call_news_t news)
{
    caller_t *caller = attempt->caller;
    weir_sink_t *sink = attempt->request.sink;
    caller->attempt = NULL;
    if (!news.refused) {
        caller->cause = CAUSE_END;
        caller->cause_reason = news.reason;
        if (!caller->has_head && news.head == NULL)
            note_result(caller, news.reason, &attempt->plan);
    }
    news.ended = true;
    sink->news(sink, &news);
    destroy_attempt(attempt);
}

static void end_answer(weir_attempt_t *attempt, const weir_call_head_t *head)
{
    weir_sink_t *sink = attempt->request.sink;
    weir_call_news_t news = {.head = head, .ended = true, .reason = attempt->plan.breaks};
    attempt->caller->is_lacking = news.reason == WEIR_REASON_TRUNCATED;
    if (sink->lacks != NULL && (news.detail = sink->lacks(sink, &news)) != NULL)
        news.reason = WEIR_REASON_TRUNCATED;
    end_attempt(attempt, news);
}

static void on_rest(h2o_timeout_entry_t *entry)
{
    weir_attempt_t *attempt = H2O_STRUCT_FROM_MEMBER(weir_attempt_t, timer, entry);
    end_answer(attempt, NULL);
}

static void on_head(weir_attempt_t *attempt)
{
    caller_t *caller = attempt->caller;
    weir_sink_t *sink = attempt->request.sink;
    const plan_t *plan = &attempt->plan;
    weir_h1_field_t fields[] = {
        {.name = WEIR_STR("date"), .value = WEIR_STR("never")},
        {.name = WEIR_STR("retry-after"), .value = {plan->retry_after, strlen(plan->retry_after)}}};
    weir_call_head_t head = {.status = plan->status,
                             .fields = fields,
                             .field_count = plan->retry_after[0] != '\0' ? 2 : 1,
                             .content_length = UINT64_MAX};
    attempt->stats.first_byte_ns = weir_clock_turn_ns;
    caller->cause = CAUSE_HEAD;
    caller->cause_status = plan->status;
    note_result(caller, WEIR_REASON_NONE, plan);
    if (!sink->takes(sink, &head)) {
        end_attempt(attempt, (weir_call_news_t){.refused = true});
        return;
    }
    check_passed_on(caller);
    if (plan->is_one_read && plan->status != 101) {
        end_answer(attempt, &head);
        return;
    }
    attempt->timer.cb = on_rest;
    if (plan->status != 101)
        start(the_world, caller->worker->index, &attempt->timer, plan->rest_ns, false);
    sink->news(sink, &(weir_call_news_t){.head = &head});
}

static void on_first(h2o_timeout_entry_t *entry)
{
    weir_attempt_t *attempt = H2O_STRUCT_FROM_MEMBER(weir_attempt_t, timer, entry);
    if (attempt->plan.fails == WEIR_REASON_NONE)
        on_head(attempt);
    else
        end_attempt(attempt, (weir_call_news_t){.reason = attempt->plan.fails});
}

void weir_attempt_begin(weir_attempt_t *attempt)
{
    attempt->stats.attempts = 1;
    attempt->stats.began_ns = weir_clock_turn_ns;
    attempt->timer.cb = on_first;
    if (attempt->plan.fails != WEIR_REASON_NONE && attempt->plan.first_ns == 0)
        on_first(&attempt->timer);
    else
        start(the_world, attempt->caller->worker->index, &attempt->timer, attempt->plan.first_ns, false);
}

void weir_attempt_cancel(weir_attempt_t *attempt, weir_reason_t reason)
{
    attempt->caller->attempt = NULL;
    destroy_attempt(attempt);
}

const weir_call_stats_t *weir_attempt_stats(const weir_attempt_t *attempt)
{
    return &attempt->stats;
}

void weir_attempt_body_progress(weir_attempt_t *attempt)
{
}

void weir_attempt_pause(weir_attempt_t *attempt)
{
    weir_timer_stop(&attempt->timer);
}

void weir_attempt_resume(weir_attempt_t *attempt)
{
    start(the_world, attempt->caller->worker->index, &attempt->timer, attempt->plan.rest_ns, false);
}

bool weir_attempt_awaits_caller(const weir_attempt_t *attempt)
{
    return attempt->plan.awaits_caller;
}

h2o_socket_t *weir_attempt_tunnel(weir_attempt_t *attempt)
{
    return NULL;
}

/* ---- what a call says to its upstream's health ---- */

static weir_upstream_t *upstream_of(const weir_health_t *health)
{
    for (size_t i = 0; i < the_world->upstream_count; ++i)
        if (the_world->upstreams[i]->health == health)
            return the_world->upstreams[i];
    assert(false);
    return NULL;
}

weir_health_pass_t __real_weir_health_ask(weir_health_t *health, weir_worker_t *worker,
                                          const weir_conf_upstream_t *conf, const weir_health_asker_t *asker);
weir_health_pass_t __wrap_weir_health_ask(weir_health_t *health, weir_worker_t *worker,
                                          const weir_conf_upstream_t *conf, const weir_health_asker_t *asker)
{
    caller_t *caller = the_world->acting;
    weir_upstream_t *upstream = upstream_of(health);
    if (upstream->index == caller->target + 1) {
        check_fallback(caller);
        ++caller->target;
        caller->tries = 0;
        caller->last = (result_t){0};
        caller->was_denied = caller->was_counted = false;
    } else if (upstream->index != caller->target || caller->was_denied) {
        providers_fail(the_world, "upstream %zu was asked out of order", upstream->index);
    } else if (caller->tries != 0) {
        check_retry(caller);
    }
    the_world->speaking = upstream->judge;
    weir_health_pass_t pass = __real_weir_health_ask(health, worker, conf, asker);
    judge_health_asked(upstream->judge, asker, &pass, weir_clock_turn_ns);
    caller->may_try = pass.reason == WEIR_REASON_NONE;
    caller->was_denied = !caller->may_try;
    caller->denied_ns = pass.retry_after_ns;
    if (caller->out != 0)
        providers_fail(the_world, "try %" PRIu64 " was not reported before the next", caller->out);
    caller->out = pass.number;
    return pass;
}

weir_health_pass_t __wrap_weir_health_look(weir_health_t *health, const weir_conf_upstream_t *conf,
                                           const weir_health_asker_t *asker)
{
    weir_health_pass_t pass = __real_weir_health_look(health, conf, asker);
    judge_health_looked(upstream_of(health)->judge, asker, &pass, weir_clock_turn_ns);
    return pass;
}

int64_t __real_weir_health_wait_ns(weir_health_t *health, const weir_conf_upstream_t *conf,
                                   const weir_health_asker_t *asker);
int64_t __wrap_weir_health_wait_ns(weir_health_t *health, const weir_conf_upstream_t *conf,
                                   const weir_health_asker_t *asker)
{
    int64_t wait_ns = __real_weir_health_wait_ns(health, conf, asker);
    judge_health_waited(upstream_of(health)->judge, asker, wait_ns, weir_clock_turn_ns);
    return wait_ns;
}

static bool is_proven(const caller_t *caller)
{
    return caller->attempt != NULL && caller->attempt->stats.first_byte_ns != 0 &&
           weir_clock_turn_ns - caller->attempt->stats.first_byte_ns >= PROVEN_NS;
}

static weir_breaker_outcome_t outcome_of(const caller_t *caller)
{
    const weir_conf_upstream_t *conf = conf_of(caller);
    unsigned failures = conf->breaker.failures;
    int status = caller->cause_status;
    result_t result = {.reason = caller->cause == CAUSE_TOTAL ? WEIR_REASON_TIMEOUT_TOTAL : caller->cause_reason};
    unsigned when = when_of(&result);
    unsigned failure = when == WEIR_WHEN_CONNECT                                   ? WEIR_FAILURE_CONNECT
                       : when == WEIR_WHEN_RESET                                   ? WEIR_FAILURE_RESET
                       : when == WEIR_WHEN_TIMEOUT || caller->cause == CAUSE_TOTAL ? WEIR_FAILURE_TIMEOUT
                                                                                   : 0;
    switch (caller->cause) {
    case CAUSE_HEAD:
        if (conf->breaker.throttle.enabled && (status == 429 || status == 529))
            return WEIR_BREAKER_CANCELLED;
        if (status >= 500 && status != 529 && (failures & WEIR_FAILURE_5XX) != 0)
            return WEIR_BREAKER_FAILURE;
        return WEIR_BREAKER_SUCCESS;
    case CAUSE_END:
        if (result.reason == WEIR_REASON_NONE)
            return WEIR_BREAKER_SUCCESS;
        if (when == WEIR_WHEN_TIMEOUT && (caller->is_held || caller->is_late_himself))
            return WEIR_BREAKER_CANCELLED;
        return (failures & failure) != 0 ? WEIR_BREAKER_FAILURE : WEIR_BREAKER_CANCELLED;
    case CAUSE_TOTAL:
        if (caller->is_held || caller->is_late_himself)
            return WEIR_BREAKER_CANCELLED;
        return (failures & failure) != 0 ? WEIR_BREAKER_FAILURE : WEIR_BREAKER_CANCELLED;
    case CAUSE_DELAY:
        return is_proven(caller) ? WEIR_BREAKER_SUCCESS : WEIR_BREAKER_CANCELLED;
    default:
        return WEIR_BREAKER_CANCELLED;
    }
}

static void check_report(caller_t *caller, const weir_health_pass_t *pass, weir_breaker_outcome_t outcome)
{
    static const char *const names[] = {"a success", "a failure", "nothing"};
    weir_breaker_outcome_t expected = outcome_of(caller);
    if (pass->number != caller->out)
        providers_fail(the_world, "try %" PRIu64 " was reported, and is not out", pass->number);
    if (outcome != expected)
        providers_fail(the_world, "%s: cause %d, %s, status %d was reported as %s, and is %s", conf_of(caller)->name,
                       (int)caller->cause, weir_reason_word(caller->cause_reason), caller->cause_status, names[outcome],
                       names[expected]);
    caller->out = 0;
}

void __real_weir_health_report(weir_health_t *health, weir_worker_t *worker, const weir_conf_upstream_t *conf,
                               const weir_health_pass_t *pass, weir_breaker_outcome_t outcome, int64_t first_byte_ns);
void __wrap_weir_health_report(weir_health_t *health, weir_worker_t *worker, const weir_conf_upstream_t *conf,
                               const weir_health_pass_t *pass, weir_breaker_outcome_t outcome, int64_t first_byte_ns)
{
    weir_upstream_t *upstream = upstream_of(health);
    if (pass->number != 0)
        check_report(the_world->acting, pass, outcome);
    if (pass->number != 0 && pass->is_probe && sim_one_in(&the_world->random, the_world->lost_one_in)) {
        judge_health_lost(upstream->judge, pass);
        return;
    }
    the_world->speaking = upstream->judge;
    __real_weir_health_report(health, worker, conf, pass, outcome, first_byte_ns);
    judge_health_reported(upstream->judge, pass, outcome, first_byte_ns, weir_clock_turn_ns);
}

void __real_weir_health_pause(weir_health_t *health, weir_worker_t *worker, const weir_health_asker_t *asker,
                              int64_t ns);
void __wrap_weir_health_pause(weir_health_t *health, weir_worker_t *worker, const weir_health_asker_t *asker,
                              int64_t ns)
{
    caller_t *caller = the_world->acting;
    const weir_conf_upstream_breaker_t *conf = &conf_of(caller)->breaker;
    int64_t right_ns = asked_ns_of(&caller->attempt->plan, conf->throttle.max_ns);
    if (!conf->enabled || !conf->throttle.enabled || caller->cause != CAUSE_HEAD)
        providers_fail(the_world, "%s: a pause for nothing", conf_of(caller)->name);
    if (ns != right_ns)
        providers_fail(the_world, "%s: a pause of %" PRId64 " ns after '%s', not %" PRId64, conf_of(caller)->name, ns,
                       caller->attempt->plan.retry_after, right_ns);
    __real_weir_health_pause(health, worker, asker, ns);
    judge_health_paused(upstream_of(health)->judge, asker, right_ns, weir_clock_turn_ns);
}

void __real_weir_health_on_request(weir_health_t *health, const weir_conf_upstream_t *conf);
void __wrap_weir_health_on_request(weir_health_t *health, const weir_conf_upstream_t *conf)
{
    __real_weir_health_on_request(health, conf);
    the_world->acting->was_counted = true;
    if (conf->retry.enabled && conf->retry.attempts > 1)
        judge_health_requested(upstream_of(health)->judge, weir_clock_turn_ns);
}

bool __real_weir_health_take_retry(weir_health_t *health, const weir_conf_upstream_t *conf);
bool __wrap_weir_health_take_retry(weir_health_t *health, const weir_conf_upstream_t *conf)
{
    result_t *last = &the_world->acting->last;
    bool fits = __real_weir_health_take_retry(health, conf);
    judge_health_retried(upstream_of(health)->judge, fits, weir_clock_turn_ns);
    if (last->was_paid || last->was_refused)
        providers_fail(the_world, "the budget was asked twice");
    last->was_paid = fits;
    last->was_refused = !fits;
    last->wait_ns = wait_at(the_world->acting, the_world->acting->target);
    return fits;
}

/* ---- callers ---- */

static void end_caller(caller_t *caller)
{
    providers_t *world = caller->world;
    int64_t took_ns = weir_clock_turn_ns - caller->began_ns;
    if (caller->status != 101 && took_ns > caller->total_ns + PATIENCE_NS + world->lag_max_ns)
        providers_fail(world, "a request ends after %" PRId64 " ns, and has %" PRId64, took_ns, caller->total_ns);
    if (caller->out != 0)
        providers_fail(world, "%s: try %" PRIu64 " of a request that ends was not reported", conf_of(caller)->name,
                       caller->out);
    h2o_timeout_unlink(&caller->leave);
    h2o_timeout_unlink(&caller->resume);
    --world->live;
    if (world->acting == caller)
        world->acting = NULL;
    caller->next_dead = world->dead;
    world->dead = caller;
}

/* 0: of one that was tried before. */
static void check_soonest(const caller_t *caller, int64_t retry_after_ns)
{
    int64_t soonest_ns = caller->denied_ns;
    for (size_t i = 0; i < caller->target; ++i)
        soonest_ns = wait_at(caller, i) < soonest_ns ? wait_at(caller, i) : soonest_ns;
    if (retry_after_ns != soonest_ns)
        providers_fail(caller->world, "refused for %" PRId64 " ns, and may come in %" PRId64, retry_after_ns,
                       soonest_ns);
}

static void check_end(caller_t *caller, const weir_call_news_t *news)
{
    providers_t *world = caller->world;
    bool is_refused = news->reason == WEIR_REASON_BREAKER_OPEN || news->reason == WEIR_REASON_THROTTLED;
    ++world->ends_of_reason[news->reason];
    if (caller->has_head)
        ++world->ends_of_status[caller->status / 100];
    if (news->reason == WEIR_REASON_NONE && !caller->has_head)
        providers_fail(world, "a request ends without an answer and without a reason");
    if (is_refused && (caller->has_head || !caller->was_denied))
        providers_fail(world, "%s, and was not refused", weir_reason_word(news->reason));
    if (is_refused)
        check_soonest(caller, news->retry_after_ns);
    if (is_refused && caller->target + 1 != world->upstream_count)
        providers_fail(world, "%s, and there is a fallback", weir_reason_word(news->reason));
    if (news->reason == WEIR_REASON_TIMEOUT_TOTAL) {
        ++world->late;
        if (weir_clock_turn_ns - caller->began_ns < caller->total_ns)
            providers_fail(world, "timeout_total after %" PRId64 " ns", weir_clock_turn_ns - caller->began_ns);
    } else if (!caller->has_head && !is_refused) {
        check_passed_on(caller);
        if (news->reason != caller->last.reason)
            providers_fail(world, "told %s, and it was %s", weir_reason_word(news->reason),
                           weir_reason_word(caller->last.reason));
    }
}

static void on_resume(h2o_timeout_entry_t *entry)
{
    caller_t *caller = H2O_STRUCT_FROM_MEMBER(caller_t, resume, entry);
    caller->is_held = false;
    weir_call_resume(caller->call);
}

/* A tunnel lasts until its caller leaves. Others may not take more for a while, or ever. */
static void begin_answer(caller_t *caller)
{
    providers_t *world = caller->world;
    if (caller->status == 101) {
        start(world, caller->worker->index, &caller->leave, sim_exponential(&world->random, 10 * M), false);
        return;
    }
    if (!world->traffic.is_uneven || !sim_one_in(&world->random, 20))
        return;
    caller->is_held = true;
    weir_call_pause(caller->call);
    if (sim_one_in(&world->random, 2))
        start(world, caller->worker->index, &caller->resume, sim_exponential(&world->random, S), false);
}

static void on_news(weir_sink_t *sink, const weir_call_news_t *news)
{
    caller_t *caller = H2O_STRUCT_FROM_MEMBER(caller_t, sink, sink);
    if (news->head != NULL) {
        if (caller->has_head)
            providers_fail(caller->world, "a second answer");
        if (news->head->status != caller->last.status)
            providers_fail(caller->world, "status %d, and it was %d", news->head->status, caller->last.status);
        caller->has_head = true;
        caller->status = news->head->status;
    }
    if (!news->ended) {
        begin_answer(caller);
        return;
    }
    check_end(caller, news);
    end_caller(caller);
}

static const char *on_lacks(weir_sink_t *sink, const weir_call_news_t *last)
{
    return H2O_STRUCT_FROM_MEMBER(caller_t, sink, sink)->is_lacking ? "it lacks its last event" : NULL;
}

static void on_leave(h2o_timeout_entry_t *entry)
{
    caller_t *caller = H2O_STRUCT_FROM_MEMBER(caller_t, leave, entry);
    caller->cause = CAUSE_LEFT;
    ++caller->world->left;
    weir_call_cancel(caller->call, caller->status == 101 ? WEIR_REASON_NONE : WEIR_REASON_CLIENT_GONE);
    end_caller(caller);
}

static h2o_iovec_t text_of(const char *format, const char *argument)
{
    char text[64];
    snprintf(text, sizeof(text), format, argument);
    char *copy = strdup(text);
    assert(copy != NULL);
    return (h2o_iovec_t){copy, strlen(copy)};
}

static weir_call_target_t target_of(const caller_t *caller, size_t target)
{
    weir_call_target_t made = {.upstream = target, .head = text_of("%s", "x")};
    if (caller->model != MODELS)
        made.model = text_of("\"%s\"", model_of(caller, target));
    if (caller->model != MODELS)
        made.name = (weir_str_t){made.model.base + 1, made.model.len - 2};
    made.credential = caller->credential + target * 100;
    return made;
}

static caller_t *create_caller(providers_t *world)
{
    static const char *const methods[] = {"POST", "POST", "POST", "GET", "PATCH"};
    caller_t *caller = calloc(1, sizeof(*caller));
    weir_body_t *body = calloc(1, sizeof(*body));
    const weir_conf_route_t *route = &world->conf->listeners.entries[0].routes.entries[0];
    assert(caller != NULL && body != NULL);
    *caller = (caller_t){.world = world,
                         .sink = {.news = on_news, .lacks = on_lacks},
                         .body = body,
                         .leave.cb = on_leave,
                         .resume.cb = on_resume};
    caller->worker = world->workers[sim_below(&world->random, PROVIDERS_WORKERS)];
    caller->model = (size_t)sim_below(&world->random, MODELS + 1);
    caller->credential = (size_t)sim_below(&world->random, CREDENTIALS);
    caller->method = methods[sim_below(&world->random, 5)];
    caller->wants_tunnel = strcmp(caller->method, "GET") == 0 && sim_one_in(&world->random, 5);
    caller->total_ns = route->timeout_ns != 0 ? route->timeout_ns : conf_of(caller)->timeouts.total_ns;
    body->references = 1;
    body->let_go = sim_one_in(&world->random, world->traffic.large_one_in);
    ++world->bodies;
    ++world->live;
    ++world->arrived;
    return caller;
}

static void begin_call(caller_t *caller)
{
    providers_t *world = caller->world;
    weir_call_request_t request = {.worker = caller->worker,
                                   .snapshot = &world->snapshot,
                                   .first = target_of(caller, 0),
                                   .fallback_count = world->upstream_count - 1,
                                   .total_ns = caller->total_ns,
                                   .wants_tunnel = caller->wants_tunnel,
                                   .body = caller->body,
                                   .sink = &caller->sink};
    snprintf(request.method, sizeof(request.method), "%s", caller->method);
    if (request.fallback_count != 0)
        request.fallbacks = calloc(request.fallback_count, sizeof(weir_call_target_t));
    for (size_t i = 0; i < request.fallback_count; ++i)
        request.fallbacks[i] = target_of(caller, i + 1);
    weir_body_t *body = caller->body;
    caller->call = weir_call_create(&request);
    weir_body_release(body); /* the call has it */
    weir_call_begin(caller->call);
}

void providers_arrive(providers_t *world)
{
    caller_t *before = world->acting, *caller = create_caller(world);
    int64_t turn_ns = weir_clock_turn_ns;
    world->acting = caller;
    turn(world, caller->worker->index, 0);
    caller->began_ns = weir_clock_turn_ns;
    if (sim_one_in(&world->random, world->traffic.leaves_one_in))
        start(world, caller->worker->index, &caller->leave, sim_exponential(&world->random, world->traffic.answer_ns),
              false);
    begin_call(caller);
    world->acting = before;
    weir_clock_turn_ns = turn_ns;
}

static void on_arrival(h2o_timeout_entry_t *entry)
{
    providers_t *world = H2O_STRUCT_FROM_MEMBER(providers_t, arrival, entry);
    if (world->on_arrival != NULL)
        world->on_arrival(world);
    providers_arrive(world);
    providers_after(world, &world->arrival, sim_exponential(&world->random, world->traffic.mean_ns));
}

void providers_open(providers_t *world, providers_traffic_t traffic)
{
    world->traffic = traffic;
    world->arrival.cb = on_arrival;
    providers_after(world, &world->arrival, sim_exponential(&world->random, traffic.mean_ns));
}

void providers_close(providers_t *world)
{
    h2o_timeout_unlink(&world->arrival);
}

void providers_set_weather(providers_t *world, size_t upstream, weather_t weather)
{
    world->upstreams[upstream]->weather = weather;
    world->upstreams[upstream]->weather_since_ns = world->now_ns;
}

/* ---- changes of a breaker's state, where they are made ---- */

static void note_state(const weir_breaker_t *breaker, weir_breaker_shown_t before)
{
    weir_breaker_shown_t after = weir_breaker_shown(breaker->state);
    if (after != before)
        judge_health_saw(the_world->speaking, breaker, weir_breaker_word(after));
}

weir_breaker_answer_t __real_weir_breaker_ask(weir_breaker_t *breaker, const weir_breaker_quota_t *quota,
                                              int64_t now_ns);
weir_breaker_answer_t __wrap_weir_breaker_ask(weir_breaker_t *breaker, const weir_breaker_quota_t *quota,
                                              int64_t now_ns)
{
    weir_breaker_shown_t before = weir_breaker_shown(breaker->state);
    weir_breaker_answer_t answer = __real_weir_breaker_ask(breaker, quota, now_ns);
    note_state(breaker, before);
    return answer;
}

bool __real_weir_breaker_report(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, uint64_t number,
                                weir_breaker_outcome_t outcome, bool is_slow, int64_t now_ns, uint64_t random);
bool __wrap_weir_breaker_report(weir_breaker_t *breaker, const weir_breaker_quota_t *quota, uint64_t number,
                                weir_breaker_outcome_t outcome, bool is_slow, int64_t now_ns, uint64_t random)
{
    weir_breaker_shown_t before = weir_breaker_shown(breaker->state);
    bool is_changed = __real_weir_breaker_report(breaker, quota, number, outcome, is_slow, now_ns, random);
    note_state(breaker, before);
    return is_changed;
}

bool __real_weir_breaker_force(weir_breaker_t *breaker, weir_breaker_force_t force, int64_t now_ns);
bool __wrap_weir_breaker_force(weir_breaker_t *breaker, weir_breaker_force_t force, int64_t now_ns)
{
    weir_breaker_shown_t before = weir_breaker_shown(breaker->state);
    bool is_changed = __real_weir_breaker_force(breaker, force, now_ns);
    note_state(breaker, before);
    return is_changed;
}

/* ---- by hand ---- */

void __real_weir_health_force(weir_health_t *health, weir_worker_t *worker, weir_breaker_force_t force);
void __wrap_weir_health_force(weir_health_t *health, weir_worker_t *worker, weir_breaker_force_t force)
{
    the_world->speaking = upstream_of(health)->judge;
    __real_weir_health_force(health, worker, force);
    judge_health_forced(upstream_of(health)->judge, force, weir_clock_turn_ns);
}

weir_health_state_t __real_weir_health_state(weir_health_t *health, const weir_conf_upstream_t *conf, size_t breaker);
weir_health_state_t __wrap_weir_health_state(weir_health_t *health, const weir_conf_upstream_t *conf, size_t breaker)
{
    weir_health_state_t state = __real_weir_health_state(health, conf, breaker);
    judge_health_shown(upstream_of(health)->judge, &state, weir_clock_turn_ns);
    return state;
}

/* ---- a world ---- */

static void create_upstream(providers_t *world, size_t index)
{
    const weir_conf_upstream_t *conf = &world->conf->upstreams.entries[index];
    weir_upstream_t *upstream = calloc(1, sizeof(*upstream));
    assert(upstream != NULL);
    *upstream = (weir_upstream_t){.world = world, .index = index, .health = weir_health_create(conf->name)};
    weir_health_configure(upstream->health, world->conf, conf);
    upstream->judge = judge_health_create(world->conf, conf, on_judged_wrong, world);
    world->upstreams[index] = upstream;
}

providers_t *providers_create(uint64_t seed, const char *yaml)
{
    char *errors = NULL;
    providers_t *world = calloc(1, sizeof(*world));
    assert(world != NULL);
    *world = (providers_t){.seed = seed, .random = {seed * 1000003 + 7}, .now_ns = H, .traffic.answer_ns = S};
    the_world = world;
    world->conf = weir_conf_load_text("providers.yaml", yaml, strlen(yaml), &errors);
    if (world->conf == NULL) {
        fprintf(stderr, "%s\n%s\n", yaml, errors);
        exit(2);
    }
    world->snapshot.conf = world->conf;
    world->snapshot.upstreams = world->upstreams;
    world->upstream_count = world->conf->upstreams.size;
    assert(world->upstream_count <= PROVIDERS_MAX);
    for (size_t i = 0; i < world->upstream_count; ++i)
        create_upstream(world, i);
    for (size_t i = 0; i < PROVIDERS_WORKERS; ++i) {
        world->workers[i] = calloc(1, sizeof(weir_worker_t));
        assert(world->workers[i] != NULL);
        world->workers[i]->server = &world->server;
        world->workers[i]->index = i;
        turn(world, i, 0);
    }
    return world;
}

void providers_finish(providers_t *world)
{
    providers_close(world);
    for (size_t i = 0; i < world->upstream_count; ++i)
        h2o_timeout_unlink(&world->upstreams[i]->change);
    providers_run(world, INT64_MAX);
    if (world->live != 0 || world->attempts != 0 || world->references != 0 || world->bodies != 0)
        providers_fail(world, "left are %zu callers, %zu tries, %zu calls, %zu bodies", world->live, world->attempts,
                       world->references, world->bodies);
    for (size_t i = 0; i < world->upstream_count; ++i)
        judge_health_finish(world->upstreams[i]->judge,
                            world->now_ns + world->conf->upstreams.entries[i].longest_total_ns);
}

void providers_destroy(providers_t *world)
{
    for (size_t i = 0; i < world->upstream_count; ++i) {
        judge_health_destroy(world->upstreams[i]->judge);
        weir_health_destroy(world->upstreams[i]->health);
        free(world->upstreams[i]);
    }
    for (size_t i = 0; i < PROVIDERS_WORKERS; ++i)
        free(world->workers[i]);
    for (size_t i = 0; i < world->node_count; ++i)
        free(world->nodes[i]);
    free(world->nodes);
    weir_conf_release(world->conf);
    free(world);
}
