#include "status.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "health.h"
#include "history.h"
#include "page.h"
#include "redis/redis.h"
#include "upstream.h"
#include "words.h"

static const char *format_time(char text[32], int64_t wall_ms)
{
    time_t second = wall_ms / 1000;
    struct tm tm;
    gmtime_r(&second, &tm);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return text;
}

static const char *format_time_ms(char text[32], int64_t wall_ms)
{
    format_time(text, wall_ms);
    sprintf(text + strlen(text) - 1, ".%03dZ", (int)(wall_ms % 1000));
    return text;
}

/* In the notation of the configuration: the largest unit that leaves a whole number. */
static const char *format_duration(char text[32], int64_t ns)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {{"h", INT64_C(3600000000000)}, {"m", INT64_C(60000000000)}, {"s", 1000000000}, {"ms", 1000000}};
    size_t i = 0;
    while (i != 3 && ns % units[i].ns != 0)
        ++i;
    snprintf(text, 32, "%" PRId64 "%s", ns / units[i].ns, units[i].name);
    return text;
}

static const char *format_rate(char text[32], weir_conf_rate_t rate)
{
    int64_t seconds = rate.period_ns / 1000000000;
    const char *unit = seconds == 1 ? "s" : seconds == 60 ? "m" : seconds == 3600 ? "h" : "d";
    snprintf(text, 32, "%" PRId64 "/%s", rate.count, unit);
    return text;
}

void weir_status_write_seconds(weir_json_out_t *out, const char *key, int64_t ns)
{
    if (ns < 0)
        weir_json_out_string(out, key, NULL);
    else
        weir_json_out_integer(out, key, ns / 1000000000 + (ns % 1000000000 != 0));
}

/* -- the process -------------------------------------------------------------------------------------------------- */

/* Sum over all workers of a gauge that has a listener. */
static int64_t gauge_of(weir_server_t *server, weir_metric_t metric, const char *listener)
{
    return weir_metrics_value(server->metrics, weir_metrics_series(server->metrics, NULL, metric, &listener));
}

static void write_config(weir_json_out_t *out, weir_server_t *server)
{
    char text[32];
    weir_json_out_open(out, "config", '{');
    weir_json_out_string(out, "file", server->snapshot->conf->file);
    weir_json_out_string(out, "loaded_at", format_time(text, server->loaded_wall_ms));
    weir_json_out_open(out, "last_reload_errors", '[');
    char *errors = strdup(server->last_reload_errors != NULL ? server->last_reload_errors : ""), *rest = errors, *line;
    assert(errors != NULL);
    while ((line = strsep(&rest, "\n")) != NULL)
        if (*line != '\0')
            weir_json_out_string(out, NULL, line);
    free(errors);
    weir_json_out_close(out, ']');
    weir_json_out_close(out, '}');
}

static void write_process(weir_json_out_t *out, weir_server_t *server)
{
    const weir_conf_t *conf = server->snapshot->conf;
    char text[32];
    int64_t in_flight = 0;
    for (size_t i = 0; i != conf->listeners.size; ++i)
        in_flight += gauge_of(server, WEIR_METRIC_IN_FLIGHT, conf->listeners.entries[i].name);
    weir_json_out_string(out, "now", format_time_ms(text, weir_clock_wall_ms()));
    weir_json_out_string(out, "version", WEIR_VERSION);
    weir_json_out_string(out, "started_at", format_time(text, server->started_wall_ms));
    weir_json_out_integer(out, "uptime_seconds", (weir_clock_wall_ms() - server->started_wall_ms) / 1000);
    weir_json_out_bool(out, "ready", server->ready && !server->draining);
    weir_json_out_bool(out, "draining", server->draining);
    weir_json_out_integer(out, "workers", (int64_t)server->worker_count);
    weir_json_out_integer(out, "connections", (int64_t)server->connections);
    weir_json_out_integer(out, "in_flight", in_flight);
    write_config(out, server);
}

/* -- what was counted --------------------------------------------------------------------------------------------- */

static weir_metrics_sums_t sums_of(weir_server_t *server, weir_metric_t metric, const char *label)
{
    return weir_metrics_sums(server->metrics, metric, NULL, NULL, label, SIZE_MAX);
}

/* Those that occurred. */
static void write_sums(weir_json_out_t *out, const char *key, const weir_metrics_sums_t *sums)
{
    weir_json_out_open(out, key, '{');
    for (size_t i = 0; i != sums->count; ++i)
        if (sums->words[i].sum != 0)
            weir_json_out_integer(out, sums->words[i].word, sums->words[i].sum);
    weir_json_out_close(out, '}');
}

static void write_requests(weir_json_out_t *out, weir_server_t *server)
{
    weir_metrics_sums_t classes = weir_metrics_sums(server->metrics, WEIR_METRIC_REQUESTS, NULL, NULL, "status", 1);
    weir_metrics_sums_t reasons = sums_of(server, WEIR_METRIC_REFUSED, "reason");
    weir_json_out_open(out, "requests", '{');
    weir_json_out_integer(out, "total", classes.sum);
    weir_json_out_integer(out, "2xx", weir_metrics_sum_of(&classes, "2"));
    weir_json_out_integer(out, "3xx", weir_metrics_sum_of(&classes, "3"));
    weir_json_out_integer(out, "4xx", weir_metrics_sum_of(&classes, "4"));
    weir_json_out_integer(out, "5xx", weir_metrics_sum_of(&classes, "5"));
    write_sums(out, "refused", &reasons);
    weir_json_out_close(out, '}');
}

static void write_tokens(weir_json_out_t *out, weir_server_t *server)
{
    weir_metrics_sums_t types = sums_of(server, WEIR_METRIC_LLM_TOKENS, "type");
    weir_json_out_open(out, "tokens", '{');
    weir_json_out_integer(out, "input", weir_metrics_sum_of(&types, "input"));
    weir_json_out_integer(out, "cached", weir_metrics_sum_of(&types, "cached"));
    weir_json_out_integer(out, "output", weir_metrics_sum_of(&types, "output"));
    weir_json_out_close(out, '}');
}

static void write_history_series(weir_json_out_t *out, const weir_history_t *history, const char *key,
                                 weir_history_series_t series)
{
    int64_t values[WEIR_HISTORY_STEPS];
    weir_history_values(history, series, values);
    weir_json_out_open(out, key, '[');
    for (size_t i = 0; i != weir_history_count(history); ++i)
        weir_json_out_integer(out, NULL, values[i]);
    weir_json_out_close(out, ']');
}

static void write_history(weir_json_out_t *out, const weir_history_t *history)
{
    char text[32];
    int64_t ago_ns = weir_clock_now_ns() - weir_history_until_ns(history);
    weir_json_out_open(out, "history", '{');
    weir_json_out_integer(out, "step_seconds", WEIR_HISTORY_STEP_SECONDS);
    weir_json_out_string(out, "until", format_time_ms(text, weir_clock_wall_ms() - ago_ns / 1000000));
    write_history_series(out, history, "requests", WEIR_HISTORY_REQUESTS);
    write_history_series(out, history, "failed", WEIR_HISTORY_FAILED);
    write_history_series(out, history, "refused", WEIR_HISTORY_REFUSED);
    write_history_series(out, history, "saved", WEIR_HISTORY_SAVED);
    write_history_series(out, history, "in_flight", WEIR_HISTORY_IN_FLIGHT);
    weir_json_out_close(out, '}');
}

/* -- the store ---------------------------------------------------------------------------------------------------- */

static const char *format_since(char text[32], int64_t since_ns)
{
    if (since_ns == 0)
        return NULL;
    return format_time(text, weir_clock_wall_ms() - (weir_clock_now_ns() - since_ns) / 1000000);
}

static void write_redis(weir_json_out_t *out, const weir_redis_state_t *state)
{
    char text[32];
    weir_json_out_string(out, "mode", state->mode);
    weir_json_out_string(out, "address", *state->address != '\0' ? state->address : NULL);
    weir_json_out_string(out, "since", format_since(text, state->since_ns));
    weir_json_out_string(out, "why", *state->why != '\0' ? state->why : NULL);
    weir_json_out_integer(out, "sidecars", state->sidecars);
    weir_json_out_open(out, "commands", '{');
    weir_json_out_integer(out, "ok", (int64_t)state->ok);
    weir_json_out_integer(out, "timeout", (int64_t)state->timeout);
    weir_json_out_integer(out, "error", (int64_t)state->error);
    weir_json_out_close(out, '}');
}

/* `up`: it is asked; `degraded`: some is decided without it. In memory it is this process. */
static void write_store(weir_json_out_t *out, weir_server_t *server)
{
    weir_redis_state_t state = {.is_up = true};
    if (server->redis != NULL)
        state = weir_redis_state(server->redis);
    weir_json_out_open(out, "store", '{');
    weir_json_out_string(out, "kind", server->redis != NULL ? "redis" : "memory");
    weir_json_out_bool(out, "up", state.is_up);
    weir_json_out_bool(out, "degraded", state.is_degraded);
    if (server->redis != NULL)
        write_redis(out, &state);
    weir_json_out_close(out, '}');
}

/* -- what is configured ------------------------------------------------------------------------------------------- */

void weir_status_write_route(weir_json_out_t *out, const char *key, const weir_conf_t *conf,
                             const weir_conf_route_t *route)
{
    weir_json_out_open(out, key, '{');
    weir_json_out_string(out, "path", route->path);
    weir_json_out_open(out, "methods", '[');
    for (size_t i = 0; i != route->methods.size; ++i)
        weir_json_out_string(out, NULL, route->methods.entries[i]);
    weir_json_out_close(out, ']');
    weir_json_out_string(out, "host", route->host);
    weir_json_out_string(out, "upstream", conf->upstreams.entries[route->upstream].name);
    weir_json_out_open(out, "limits", '[');
    for (size_t i = 0; i != route->limits.size; ++i)
        weir_json_out_string(out, NULL, conf->limits.entries[route->limits.entries[i]].name);
    weir_json_out_close(out, ']');
    weir_json_out_string(out, "dedup", route->dedup < conf->dedup.size ? conf->dedup.entries[route->dedup].name : NULL);
    weir_json_out_close(out, '}');
}

static void write_listener(weir_json_out_t *out, weir_server_t *server, const weir_conf_listener_t *listener)
{
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", listener->name);
    weir_json_out_string(out, "address", listener->address.text);
    weir_json_out_integer(out, "connections", gauge_of(server, WEIR_METRIC_CONNECTIONS, listener->name));
    weir_json_out_integer(out, "in_flight", gauge_of(server, WEIR_METRIC_IN_FLIGHT, listener->name));
    weir_json_out_open(out, "routes", '[');
    for (size_t i = 0; i != listener->routes.size; ++i)
        weir_status_write_route(out, NULL, server->snapshot->conf, &listener->routes.entries[i]);
    weir_json_out_close(out, ']');
    weir_json_out_close(out, '}');
}

/* `history` is NULL where none was asked for. */
static void write_breaker(weir_json_out_t *out, const char *upstream, const weir_health_state_t *state,
                          const weir_history_t *history)
{
    char letters[WEIR_HISTORY_STEPS + 1];
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "model", state->model);
    weir_json_out_string(out, "state", state->word);
    weir_json_out_bool(out, "by_hand", state->is_forced);
    weir_json_out_integer(out, "retry_after_seconds", (state->retry_after_ns + 999999999) / 1000000000);
    weir_json_out_integer(out, "requests", state->requests);
    weir_json_out_integer(out, "failures", state->failures);
    if (history != NULL) {
        weir_history_letters(history, upstream, state->model, letters);
        weir_json_out_string(out, "history", letters);
    }
    weir_json_out_close(out, '}');
}

static void write_breakers(weir_json_out_t *out, const weir_conf_upstream_t *conf, weir_health_t *health,
                           const weir_history_t *history)
{
    size_t count = weir_health_shown(health, conf);
    weir_json_out_open(out, "breakers", '[');
    for (size_t i = 0; i != count; ++i) {
        weir_health_state_t state = weir_health_state(health, conf, i);
        write_breaker(out, conf->name, &state, history);
    }
    weir_json_out_close(out, ']');
}

/* Who is paused by a 429 or 529, and whether other sidecars of the fleet hear of it: the memory store tells nobody. */
static void write_throttle(weir_json_out_t *out, const weir_store_t *store, const weir_conf_upstream_t *conf,
                           weir_health_t *health)
{
    const weir_conf_upstream_breaker_throttle_t *throttle = &conf->breaker.throttle;
    bool is_enabled = conf->breaker.enabled && throttle->enabled;
    weir_health_pauses_t pauses = weir_health_pauses(health);
    weir_json_out_open(out, "throttle", '{');
    weir_json_out_bool(out, "enabled", is_enabled);
    weir_json_out_bool(out, "shared", is_enabled && throttle->shared && store->is_shared);
    weir_json_out_integer(out, "paused", pauses.count);
    weir_status_write_seconds(out, "longest_seconds", pauses.longest_ns);
    weir_json_out_close(out, '}');
}

/* Of the last 10 s: first tries and further ones, and whether one more would be made. */
static void write_retry(weir_json_out_t *out, const weir_conf_upstream_t *conf, weir_health_t *health)
{
    bool is_enabled = conf->retry.enabled && conf->retry.attempts > 1;
    weir_retry_budget_told_t told = weir_health_budget(health, conf);
    weir_json_out_open(out, "retry", '{');
    weir_json_out_bool(out, "enabled", is_enabled);
    weir_json_out_integer(out, "requests", told.requests);
    weir_json_out_integer(out, "retries", told.retries);
    weir_json_out_bool(out, "budget_spent", is_enabled && !told.fits);
    weir_json_out_close(out, '}');
}

static void write_upstream(weir_json_out_t *out, weir_server_t *server, size_t index, const weir_history_t *history)
{
    const weir_conf_upstream_t *conf = &server->snapshot->conf->upstreams.entries[index];
    const weir_upstream_t *upstream = server->snapshot->upstreams[index];
    weir_metrics_sums_t outcomes =
        weir_metrics_sums(server->metrics, WEIR_METRIC_UPSTREAM_REQUESTS, "upstream", conf->name, "outcome", SIZE_MAX);
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", conf->name);
    weir_json_out_string(out, "url", conf->url.text);
    weir_json_out_string(out, "dialect", weir_word_dialect(conf->dialect));
    weir_json_out_integer(out, "active", (int64_t)weir_upstream_active(upstream));
    weir_json_out_integer(out, "idle", (int64_t)weir_upstream_idle(upstream));
    write_sums(out, "outcomes", &outcomes);
    write_breakers(out, conf, weir_upstream_health(upstream), history);
    write_throttle(out, server->store, conf, weir_upstream_health(upstream));
    write_retry(out, conf, weir_upstream_health(upstream));
    weir_json_out_close(out, '}');
}

/* -- limits ------------------------------------------------------------------------------------------------------- */

static void write_quota(weir_json_out_t *out, const weir_conf_limit_t *limit)
{
    char text[32];
    weir_json_out_open(out, "quota", '{');
    switch (limit->algorithm) {
    case WEIR_LIMIT_TOKEN_BUCKET:
        weir_json_out_string(out, "rate", format_rate(text, limit->quota.rate));
        weir_json_out_integer(out, "burst", limit->quota.burst);
        break;
    case WEIR_LIMIT_SLIDING_WINDOW:
        weir_json_out_integer(out, "limit", limit->quota.limit);
        weir_json_out_string(out, "window", format_duration(text, limit->quota.window_ns));
        break;
    case WEIR_LIMIT_CONCURRENCY:
        weir_json_out_integer(out, "limit", limit->quota.limit);
        break;
    }
    weir_json_out_close(out, '}');
}

static void write_queue(weir_json_out_t *out, weir_store_t *store, const weir_conf_limit_t *limit)
{
    char text[32];
    size_t depth[WEIR_LANES];
    store->queue_depth(store, limit->name, depth);
    weir_json_out_open(out, "queue", '{');
    weir_json_out_integer(out, "size", limit->queue.size);
    weir_json_out_string(out, "wait", format_duration(text, limit->queue.wait_ns));
    weir_json_out_open(out, "depth", '{');
    for (weir_lane_t lane = 0; lane != WEIR_LANES; ++lane)
        weir_json_out_integer(out, weir_word_lane(lane), (int64_t)depth[lane]);
    weir_json_out_close(out, '}');
    weir_json_out_close(out, '}');
}

/* Over 100 where a key is in debt. */
static int64_t used_percent(const weir_store_closest_t *key)
{
    return key->quota > 0 ? (int64_t)(((double)key->quota - (double)key->remaining) * 100 / (double)key->quota) : 100;
}

/* The keys that have the smallest part of their quota left: who it is. */
static void write_closest(weir_json_out_t *out, weir_store_t *store, const weir_conf_limit_t *limit)
{
    weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX];
    size_t count = store->closest(store, limit->name, weir_clock_turn_ns, closest);
    weir_json_out_open(out, "closest", '[');
    for (size_t i = 0; i != count; ++i) {
        weir_json_out_open(out, NULL, '{');
        weir_json_out_string(out, "key", closest[i].name);
        weir_json_out_integer(out, "quota", closest[i].quota);
        weir_json_out_integer(out, "remaining", closest[i].remaining);
        weir_json_out_integer(out, "used_percent", used_percent(&closest[i]));
        weir_status_write_seconds(out, "reset_seconds", closest[i].reset_ns);
        weir_json_out_close(out, '}');
    }
    weir_json_out_close(out, ']');
}

static void write_limit(weir_json_out_t *out, weir_server_t *server, const weir_conf_limit_t *limit)
{
    weir_metrics_sums_t overflow =
        weir_metrics_sums(server->metrics, WEIR_METRIC_LIMIT_OVERFLOW, "limit", limit->name, "limit", 0);
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", limit->name);
    weir_json_out_string(out, "algorithm", weir_word_algorithm(limit->algorithm));
    weir_json_out_string(out, "unit", weir_word_unit(limit->unit));
    weir_json_out_string(out, "mode", weir_word_limit_mode(limit->mode));
    weir_json_out_string(out, "scope", weir_word_limit_scope(limit->scope));
    if (limit->algorithm == WEIR_LIMIT_SLIDING_WINDOW)
        weir_json_out_string(out, "precision", weir_word_precision(limit->precision));
    write_quota(out, limit);
    if (limit->queue.size != 0)
        write_queue(out, server->store, limit);
    weir_json_out_integer(out, "keys", (int64_t)server->store->limit_keys(server->store, limit->name));
    weir_json_out_integer(out, "max_keys", limit->max_keys);
    weir_json_out_integer(out, "overflow", overflow.sum);
    write_closest(out, server->store, limit);
    weir_json_out_close(out, '}');
}

/* But for those without a key. */
static void write_results(weir_json_out_t *out, weir_server_t *server, const char *dedup)
{
    weir_metrics_sums_t results =
        weir_metrics_sums(server->metrics, WEIR_METRIC_DEDUP, "dedup", dedup, "result", SIZE_MAX);
    weir_json_out_open(out, "results", '{');
    for (size_t i = 0; i != WEIR_DEDUP_RESULTS; ++i)
        if (*weir_dedup_words[i] != '\0')
            weir_json_out_integer(out, weir_dedup_words[i], weir_metrics_sum_of(&results, weir_dedup_words[i]));
    weir_json_out_close(out, '}');
}

/* `past_its_size`: the Bloom filters take more new keys for seen ones than they should. */
static void write_dedup(weir_json_out_t *out, weir_server_t *server, const weir_conf_dedup_t *dedup)
{
    weir_store_dedup_told_t told = {0};
    (void)server->store->dedup_tell(server->store, dedup->name, weir_clock_turn_ns, &told);
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", dedup->name);
    weir_status_write_seconds(out, "window_seconds", dedup->window_ns);
    weir_json_out_bool(out, "exact", dedup->exact);
    weir_json_out_integer(out, "keys", (int64_t)told.keys);
    weir_json_out_integer(out, "max_keys", dedup->max_keys);
    weir_json_out_integer(out, "answer_bytes", told.answer_bytes);
    weir_json_out_integer(out, "memory", dedup->memory_bytes);
    write_results(out, server, dedup->name);
    weir_json_out_open(out, "bloom", '{');
    weir_json_out_integer(out, "expected", dedup->bloom.expected);
    weir_json_out_integer(out, "fill_percent", (int64_t)(told.bloom_fill * 100));
    weir_json_out_bool(out, "past_its_size", told.bloom_fill > 1);
    weir_json_out_integer(out, "lookups", (int64_t)told.lookups);
    weir_json_out_integer(out, "false_positives", (int64_t)told.false_positives);
    weir_json_out_close(out, '}');
    weir_json_out_close(out, '}');
}

static bool wants_history(h2o_req_t *req)
{
    h2o_iovec_t query;
    weir_page_path(req, &query);
    for (const char *at = query.base, *end = at + query.len, *next; at < end; at = next + 1) {
        next = memchr(at, '&', (size_t)(end - at));
        next = next != NULL ? next : end;
        if (h2o_memis(at, (size_t)(next - at), H2O_STRLIT("history=1")))
            return true;
    }
    return false;
}

void weir_status_answer(h2o_req_t *req)
{
    weir_server_t *server = weir_page_server(req);
    const weir_history_t *history = wants_history(req) ? server->history : NULL;
    const weir_conf_t *conf = server->snapshot->conf;
    weir_page_writing_t writing;
    weir_page_begin(&writing);
    weir_json_out_t out = {writing.file, false};
    weir_json_out_open(&out, NULL, '{');
    write_process(&out, server);
    write_requests(&out, server);
    write_tokens(&out, server);
    if (history != NULL)
        write_history(&out, history);
    write_store(&out, server);
    weir_json_out_open(&out, "listeners", '[');
    for (size_t i = 0; i != conf->listeners.size; ++i)
        write_listener(&out, server, &conf->listeners.entries[i]);
    weir_json_out_close(&out, ']');
    weir_json_out_open(&out, "limits", '[');
    for (size_t i = 0; i != conf->limits.size; ++i)
        write_limit(&out, server, &conf->limits.entries[i]);
    weir_json_out_close(&out, ']');
    weir_json_out_open(&out, "dedup", '[');
    for (size_t i = 0; i != conf->dedup.size; ++i)
        write_dedup(&out, server, &conf->dedup.entries[i]);
    weir_json_out_close(&out, ']');
    weir_json_out_open(&out, "upstreams", '[');
    for (size_t i = 0; i != conf->upstreams.size; ++i)
        write_upstream(&out, server, i, history);
    weir_json_out_close(&out, ']');
    weir_json_out_close(&out, '}');
    weir_page_answer_written(req, "application/json", &writing);
}
