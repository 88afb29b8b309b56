#include "health.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "../filters/core/pauses.h"
#include "../filters/redis/pause_member.h"
#include "redis/fleet.h"

/* What is shown of a breaker: what the machine shows, or that somebody is paused. */
enum { SHOWN_PAUSED = WEIR_BREAKER_SHOWN };

enum { SHARED_KEYS = 64 };

/* What the fleet calls a key of this process: to hash for it anew each time would take longer than all else here. */
typedef struct {
    weir_key_t own, shared;
} shared_key_t;

typedef struct {
    char *model;
    weir_breaker_t state;
    int told; /* what was last counted as shown */
} breaker_t;

struct weir_health {
    pthread_mutex_t lock;
    char *upstream;
    breaker_t **breakers; /* the first is of all models that have none of their own */
    size_t count;
    bool by_model, can_pause;
    uint64_t shared_as; /* 0: pauses are this sidecar's, by keys of its own */
    int64_t pause_max_ns;
    shared_key_t *shared_keys; /* SHARED_KEYS, by own.low; NULL: none was needed */
    weir_pauses_t pauses;
    bool was_paused;        /* as it was last counted */
    int64_t pauses_seen_ns; /* when that was: clocks of workers differ a little, and a pause ends once */
    weir_retry_budget_t budget;
};

static breaker_t *breaker_create(const char *model)
{
    breaker_t *breaker = h2o_mem_alloc(sizeof(*breaker));
    *breaker = (breaker_t){.model = h2o_strdup(NULL, model, SIZE_MAX).base};
    return breaker;
}

weir_health_t *weir_health_create(const char *upstream)
{
    weir_health_t *health = h2o_mem_alloc(sizeof(*health));
    *health = (weir_health_t){.upstream = h2o_strdup(NULL, upstream, SIZE_MAX).base};
    pthread_mutex_init(&health->lock, NULL);
    health->breakers = h2o_mem_alloc(sizeof(*health->breakers));
    health->breakers[health->count++] = breaker_create("");
    return health;
}

void weir_health_destroy(weir_health_t *health)
{
    for (size_t i = 0; i < health->count; ++i) {
        free(health->breakers[i]->model);
        free(health->breakers[i]);
    }
    free(health->breakers);
    free(health->shared_keys);
    free(health->upstream);
    pthread_mutex_destroy(&health->lock);
    free(health);
}

/* --- configuration --- */

static size_t find_model(const weir_health_t *health, const char *model, size_t len)
{
    for (size_t i = 1; i < health->count; ++i)
        if (strlen(health->breakers[i]->model) == len && memcmp(health->breakers[i]->model, model, len) == 0)
            return i;
    return 0;
}

static void add_model(weir_health_t *health, const char *model)
{
    size_t len = strlen(model);
    if (len == 0 || model[len - 1] == '*' || find_model(health, model, len) != 0)
        return;
    health->breakers = h2o_mem_realloc(health->breakers, (health->count + 1) * sizeof(*health->breakers));
    health->breakers[health->count++] = breaker_create(model);
}

static void add_models_of_routes(weir_health_t *health, const weir_conf_t *conf)
{
    for (size_t i = 0; i < conf->listeners.size; ++i)
        for (size_t j = 0; j < conf->listeners.entries[i].routes.size; ++j) {
            const weir_conf_route_t *route = &conf->listeners.entries[i].routes.entries[j];
            for (size_t k = 0; k < route->models.size; ++k)
                add_model(health, route->models.entries[k]);
        }
}

/* Keys of the fleet are others than this sidecar's own. */
static void configure_pauses(weir_health_t *health, const weir_conf_t *conf, const weir_conf_upstream_t *upstream)
{
    const weir_conf_upstream_breaker_throttle_t *throttle = &upstream->breaker.throttle;
    bool is_shared = throttle->shared && conf->store.kind == WEIR_STORE_REDIS;
    health->can_pause = upstream->breaker.enabled && throttle->enabled;
    health->pause_max_ns = throttle->max_ns;
    uint64_t shared_as = health->can_pause && is_shared ? weir_pause_upstream(upstream->name, upstream->url.text) : 0;
    if (!health->can_pause || shared_as != health->shared_as)
        health->pauses = (weir_pauses_t){0};
    health->shared_as = shared_as;
}

void weir_health_configure(weir_health_t *health, const weir_conf_t *conf, const weir_conf_upstream_t *upstream)
{
    pthread_mutex_lock(&health->lock);
    health->by_model = upstream->breaker.by_model;
    for (size_t i = 0; i < upstream->models.size && health->by_model; ++i)
        add_model(health, upstream->models.entries[i].to);
    if (health->by_model)
        add_models_of_routes(health, conf);
    configure_pauses(health, conf, upstream);
    pthread_mutex_unlock(&health->lock);
}

static weir_breaker_quota_t quota_of(const weir_conf_upstream_t *conf)
{
    const weir_conf_upstream_breaker_t *breaker = &conf->breaker;
    return (weir_breaker_quota_t){
        .window_ns = breaker->window_ns,
        .min_requests = breaker->min_requests,
        .failure_rate_ppm = breaker->failure_rate_ppm,
        .consecutive_failures = breaker->consecutive_failures,
        .slow = {breaker->slow.enabled, breaker->slow.first_byte_ns, breaker->slow.rate_ppm},
        .open = {breaker->open.base_ns, breaker->open.max_ns, breaker->open.jitter_ppm},
        .probes = breaker->probes,
        .permit_ns = conf->longest_total_ns,
    };
}

/* --- what changed --- */

static const char *label_of(const weir_health_t *health, size_t breaker)
{
    if (breaker != 0)
        return health->breakers[breaker]->model;
    return health->by_model ? "__other__" : "";
}

/* An open one refuses everybody, who is paused and who is not. */
static int shown_of(weir_breaker_state_t state, bool is_paused)
{
    weir_breaker_shown_t shown = weir_breaker_shown(state);
    return is_paused && shown != WEIR_BREAKER_SHOWN_OPEN ? SHOWN_PAUSED : (int)shown;
}

static const char *word_of(int shown)
{
    return shown == SHOWN_PAUSED ? "paused" : weir_breaker_word((weir_breaker_shown_t)shown);
}

static bool is_paused(const weir_health_t *health)
{
    int64_t seen_ns = health->pauses_seen_ns, now_ns = weir_clock_turn_ns > seen_ns ? weir_clock_turn_ns : seen_ns;
    return weir_pauses_longest_left_ns(&health->pauses, now_ns) != 0;
}

static void log_change(const weir_health_t *health, size_t breaker, int former, int shown)
{
    const char *model = label_of(health, breaker);
    weir_log_event(former == SHOWN_PAUSED || shown == SHOWN_PAUSED ? WEIR_LOG_INFO : WEIR_LOG_WARN,
                   "upstream %s%s%s: its breaker is %s now", health->upstream, *model != '\0' ? ", model " : "", model,
                   word_of(shown));
}

/* Counts what is shown now, if it is not what was. */
static void note_change(weir_health_t *health, weir_worker_t *worker, size_t breaker)
{
    int former = health->breakers[breaker]->told;
    int shown = shown_of(health->breakers[breaker]->state.state, health->was_paused);
    if (shown == former)
        return;
    health->breakers[breaker]->told = shown;
    const char *labels[] = {health->upstream, label_of(health, breaker), word_of(shown)};
    weir_metrics_t *metrics = worker->server->metrics;
    weir_metrics_add(worker->metrics, weir_metrics_series(metrics, NULL, WEIR_METRIC_BREAKER_TRANSITIONS, labels), 1);
    log_change(health, breaker, former, shown);
}

/* A pause begins with somebody's 429 and ends with time alone. It is shown of all breakers of the upstream. */
static void note_pause(weir_health_t *health, weir_worker_t *worker)
{
    bool now_paused = is_paused(health);
    if (weir_clock_turn_ns > health->pauses_seen_ns)
        health->pauses_seen_ns = weir_clock_turn_ns;
    if (now_paused == health->was_paused)
        return;
    health->was_paused = now_paused;
    size_t count = health->by_model ? health->count : 1;
    for (size_t i = 0; i < count; ++i)
        note_change(health, worker, i);
}

/* --- asking --- */

static void count_refusal(const weir_health_t *health, weir_worker_t *worker, size_t breaker)
{
    const char *labels[] = {health->upstream, label_of(health, breaker)};
    weir_metrics_t *metrics = worker->server->metrics;
    weir_metrics_add(worker->metrics, weir_metrics_series(metrics, NULL, WEIR_METRIC_BREAKER_REFUSED, labels), 1);
}

static weir_key_t own_key(const weir_health_asker_t *asker)
{
    XXH128_hash_t hash = XXH3_128bits_withSeed(asker->model.base, asker->model.len, asker->credential);
    return (weir_key_t){hash.low64, hash.high64};
}

static weir_key_t shared_key(weir_health_t *health, const weir_health_asker_t *asker)
{
    weir_key_t own = own_key(asker);
    if (health->shared_keys == NULL) {
        health->shared_keys = h2o_mem_alloc(SHARED_KEYS * sizeof(*health->shared_keys));
        memset(health->shared_keys, 0, SHARED_KEYS * sizeof(*health->shared_keys));
    }
    shared_key_t *row = &health->shared_keys[own.low % SHARED_KEYS];
    if (row->own.low != own.low || row->own.high != own.high)
        *row = (shared_key_t){.own = own, .shared = weir_pause_key(health->shared_as, asker->model, asker->credential)};
    return row->shared;
}

static weir_key_t pause_key(weir_health_t *health, const weir_health_asker_t *asker)
{
    return health->shared_as != 0 ? shared_key(health, asker) : own_key(asker);
}

static size_t breaker_of(const weir_health_t *health, const weir_health_asker_t *asker)
{
    return health->by_model && asker->model.len != 0 ? find_model(health, asker->model.base, asker->model.len) : 0;
}

static weir_health_pass_t ask_breaker(weir_health_t *health, weir_worker_t *worker, const weir_conf_upstream_t *conf,
                                      const weir_health_asker_t *asker)
{
    size_t breaker = breaker_of(health, asker);
    weir_breaker_t *state = &health->breakers[breaker]->state;
    weir_breaker_quota_t quota = quota_of(conf);
    weir_breaker_answer_t answer = weir_breaker_ask(state, &quota, weir_clock_turn_ns);
    if (answer.is_changed)
        note_change(health, worker, breaker);
    return (weir_health_pass_t){.reason = answer.number != 0 ? WEIR_REASON_NONE : WEIR_REASON_BREAKER_OPEN,
                                .retry_after_ns = answer.retry_after_ns,
                                .number = answer.number,
                                .breaker = (uint32_t)breaker,
                                .is_probe = state->state == WEIR_BREAKER_HALF_OPEN};
}

static int64_t paused_ns(weir_health_t *health, const weir_conf_upstream_t *conf, const weir_health_asker_t *asker)
{
    bool can_pause = conf->breaker.enabled && conf->breaker.throttle.enabled;
    if (!can_pause || weir_pauses_longest_left_ns(&health->pauses, weir_clock_turn_ns) == 0)
        return 0;
    return weir_pauses_left_ns(&health->pauses, pause_key(health, asker), weir_clock_turn_ns);
}

/* Who is paused and meets an open breaker, too, hears of what ends last. */
static weir_health_pass_t look(weir_health_t *health, const weir_conf_upstream_t *conf, const weir_health_asker_t *asker)
{
    weir_health_pass_t pass = {.reason = WEIR_REASON_NONE};
    if (!conf->breaker.enabled)
        return pass;
    weir_breaker_quota_t quota = quota_of(conf);
    const weir_breaker_t *state = &health->breakers[breaker_of(health, asker)]->state;
    int64_t pause_ns = paused_ns(health, conf, asker);
    pass.retry_after_ns = weir_breaker_tell(state, &quota, weir_clock_turn_ns).retry_after_ns;
    if (pass.retry_after_ns != 0)
        pass.reason = WEIR_REASON_BREAKER_OPEN;
    if (pause_ns != 0 && pause_ns >= pass.retry_after_ns) {
        pass.reason = WEIR_REASON_THROTTLED;
        pass.retry_after_ns = pause_ns;
    }
    return pass;
}

weir_health_pass_t weir_health_ask(weir_health_t *health, weir_worker_t *worker, const weir_conf_upstream_t *conf,
                                   const weir_health_asker_t *asker)
{
    if (!conf->breaker.enabled)
        return (weir_health_pass_t){.reason = WEIR_REASON_NONE};
    pthread_mutex_lock(&health->lock);
    note_pause(health, worker);
    weir_health_pass_t pass =
        paused_ns(health, conf, asker) != 0 ? look(health, conf, asker) : ask_breaker(health, worker, conf, asker);
    if (pass.reason != WEIR_REASON_NONE)
        count_refusal(health, worker, breaker_of(health, asker));
    pthread_mutex_unlock(&health->lock);
    return pass;
}

weir_health_pass_t weir_health_look(weir_health_t *health, const weir_conf_upstream_t *conf, const weir_health_asker_t *asker)
{
    pthread_mutex_lock(&health->lock);
    weir_health_pass_t pass = look(health, conf, asker);
    pthread_mutex_unlock(&health->lock);
    return pass;
}

int64_t weir_health_wait_ns(weir_health_t *health, const weir_conf_upstream_t *conf, const weir_health_asker_t *asker)
{
    return weir_health_look(health, conf, asker).retry_after_ns;
}

void weir_health_report(weir_health_t *health, weir_worker_t *worker, const weir_conf_upstream_t *conf,
                        const weir_health_pass_t *pass, weir_breaker_outcome_t outcome, int64_t first_byte_ns)
{
    if (pass->number == 0)
        return;
    weir_breaker_quota_t quota = quota_of(conf);
    bool is_slow = first_byte_ns > 0 && weir_breaker_is_slow(&quota, first_byte_ns);
    uint64_t random = weir_worker_random(worker);
    pthread_mutex_lock(&health->lock);
    weir_breaker_t *state = &health->breakers[pass->breaker]->state;
    if (weir_breaker_report(state, &quota, pass->number, outcome, is_slow, weir_clock_turn_ns, random))
        note_change(health, worker, pass->breaker);
    pthread_mutex_unlock(&health->lock);
}

/* --- pauses --- */

static void pause_key_for(weir_health_t *health, weir_worker_t *worker, weir_key_t key, int64_t ns)
{
    (void)weir_pauses_pause(&health->pauses, key, ns, weir_clock_turn_ns); /* lost: it brings another 429 */
    note_pause(health, worker);
}

void weir_health_pause(weir_health_t *health, weir_worker_t *worker, const weir_health_asker_t *asker, int64_t ns)
{
    weir_key_t key = {0};
    pthread_mutex_lock(&health->lock);
    note_pause(health, worker); /* one that ended meanwhile is another one */
    uint64_t shared_as = health->shared_as;
    if (health->can_pause) {
        key = pause_key(health, asker);
        pause_key_for(health, worker, key, ns);
    }
    pthread_mutex_unlock(&health->lock);
    if (shared_as != 0 && ns > 0)
        weir_fleet_pause(worker->server->fleet, shared_as, key, ns);
}

uint64_t weir_health_shared_as(const weir_health_t *health)
{
    return health->shared_as; /* which this thread alone changes */
}

void weir_health_pause_as_told(weir_health_t *health, weir_worker_t *worker, weir_key_t key, int64_t ms)
{
    pthread_mutex_lock(&health->lock);
    note_pause(health, worker);
    pause_key_for(health, worker, key, ms < health->pause_max_ns / 1000000 ? ms * 1000000 : health->pause_max_ns);
    pthread_mutex_unlock(&health->lock);
}

static void let_go(weir_health_t *health, weir_worker_t *worker)
{
    health->pauses = (weir_pauses_t){0};
    note_pause(health, worker);
}

void weir_health_let_go(weir_health_t *health, weir_worker_t *worker)
{
    pthread_mutex_lock(&health->lock);
    let_go(health, worker);
    pthread_mutex_unlock(&health->lock);
}

/* --- retries --- */

void weir_health_on_request(weir_health_t *health, const weir_conf_upstream_t *conf)
{
    if (!conf->retry.enabled || conf->retry.attempts < 2)
        return;
    pthread_mutex_lock(&health->lock);
    weir_retry_budget_on_request(&health->budget, weir_clock_turn_ns);
    pthread_mutex_unlock(&health->lock);
}

bool weir_health_take_retry(weir_health_t *health, const weir_conf_upstream_t *conf)
{
    pthread_mutex_lock(&health->lock);
    bool fits = weir_retry_budget_take(&health->budget, conf->retry.budget_ppm, weir_clock_turn_ns);
    pthread_mutex_unlock(&health->lock);
    return fits;
}

weir_retry_budget_told_t weir_health_budget(weir_health_t *health, const weir_conf_upstream_t *conf)
{
    pthread_mutex_lock(&health->lock);
    weir_retry_budget_told_t told = weir_retry_budget_tell(&health->budget, conf->retry.budget_ppm, weir_clock_turn_ns);
    pthread_mutex_unlock(&health->lock);
    return told;
}

void weir_health_force(weir_health_t *health, weir_worker_t *worker, weir_breaker_force_t force)
{
    pthread_mutex_lock(&health->lock);
    for (size_t i = 0; i < health->count; ++i)
        if (weir_breaker_force(&health->breakers[i]->state, force, weir_clock_turn_ns))
            note_change(health, worker, i);
    if (force != WEIR_BREAKER_FORCE_OPEN)
        let_go(health, worker);
    note_pause(health, worker);
    pthread_mutex_unlock(&health->lock);
    if (force != WEIR_BREAKER_FORCE_OPEN)
        weir_fleet_lift(worker->server->fleet, health->shared_as, health->pause_max_ns);
}

/* --- showing --- */

size_t weir_health_count(weir_health_t *health)
{
    pthread_mutex_lock(&health->lock);
    size_t count = health->count;
    pthread_mutex_unlock(&health->lock);
    return count;
}

size_t weir_health_shown(weir_health_t *health, const weir_conf_upstream_t *conf)
{
    return !conf->breaker.enabled ? 0 : conf->breaker.by_model ? weir_health_count(health) : 1;
}

weir_health_state_t weir_health_state(weir_health_t *health, const weir_conf_upstream_t *conf, size_t breaker)
{
    weir_breaker_quota_t quota = quota_of(conf);
    pthread_mutex_lock(&health->lock);
    weir_breaker_told_t told = weir_breaker_tell(&health->breakers[breaker]->state, &quota, weir_clock_turn_ns);
    weir_health_state_t state = {
        .model = label_of(health, breaker),
        .word = word_of(shown_of(told.state, is_paused(health))),
        .is_forced = told.state == WEIR_BREAKER_FORCED_OPEN || told.state == WEIR_BREAKER_FORCED_CLOSED,
        .since_ns = told.since_ns,
        .retry_after_ns = told.retry_after_ns,
        .requests = told.requests,
        .failures = told.failures,
    };
    pthread_mutex_unlock(&health->lock);
    return state;
}

weir_health_pauses_t weir_health_pauses(weir_health_t *health)
{
    pthread_mutex_lock(&health->lock);
    weir_health_pauses_t pauses = {.count = weir_pauses_count(&health->pauses, weir_clock_turn_ns),
                                   .longest_ns = weir_pauses_longest_left_ns(&health->pauses, weir_clock_turn_ns)};
    pthread_mutex_unlock(&health->lock);
    return pauses;
}
