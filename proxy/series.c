#include "exchange_parts.h"

#include <stdlib.h>
#include "exchange.h"
#include "router.h"
#include "upstream.h"

/* Where a snapshot keeps the numbers of its metric series, so that counting looks nothing up. */

enum { STATUS_MIN = 100, STATUS_MAX = 599, DECISIONS = 3 };

typedef struct {
    weir_series_t duration;
    weir_series_t status[STATUS_MAX - STATUS_MIN + 1];
    weir_series_t refused[WEIR_REASON_COUNT];
} route_series_t;

struct weir_listener_series {
    weir_series_t in_flight, overhead;
    route_series_t *routes; /* and one more, for requests without a route */
};

struct weir_limit_series {
    weir_series_t overflow, leased, queue_wait;
    weir_series_t *decisions; /* by tenant number, then decision */
};

struct weir_dedup_series {
    weir_series_t results[WEIR_DEDUP_RESULTS], forgotten_full, false_positives;
    bool is_past_its_size; /* the log said so; control thread */
};

static uint32_t find(weir_exchange_t *exchange, weir_series_t *cache, weir_metric_t metric, const char *const *labels)
{
    uint32_t slot = atomic_load_explicit(cache, memory_order_relaxed);
    return slot != 0 ? slot : weir_metrics_series(exchange->worker->server->metrics, cache, metric, labels);
}

static struct weir_listener_series *series_of(weir_exchange_t *exchange)
{
    return &exchange->snapshot->listener_series[exchange->listener_index];
}

static route_series_t *route_series_of(weir_exchange_t *exchange)
{
    return &series_of(exchange)->routes[exchange->route_index];
}

void weir_exchange_count_begin(weir_exchange_t *exchange)
{
    const char *listener = exchange->request.listener->name;
    weir_metrics_add(exchange->worker->metrics,
                     find(exchange, &series_of(exchange)->in_flight, WEIR_METRIC_IN_FLIGHT, &listener), 1);
}

static void count_status(weir_exchange_t *exchange, const char *listener, const char *route, int status)
{
    const char text[] = {(char)('0' + status / 100), (char)('0' + status / 10 % 10), (char)('0' + status % 10), '\0'};
    weir_series_t *cache = &route_series_of(exchange)->status[status - STATUS_MIN];
    weir_metrics_add(exchange->worker->metrics,
                     find(exchange, cache, WEIR_METRIC_REQUESTS, (const char *[]){listener, route, text}), 1);
}

static void count_reason(weir_exchange_t *exchange, const char *listener, const char *route)
{
    if (exchange->reason == WEIR_REASON_NONE || exchange->reason == WEIR_REASON_CLIENT_GONE)
        return;
    const char *word = weir_reason_word(exchange->reason);
    weir_series_t *cache = &route_series_of(exchange)->refused[exchange->reason];
    weir_metrics_add(exchange->worker->metrics,
                     find(exchange, cache, WEIR_METRIC_REFUSED, (const char *[]){listener, route, word}), 1);
}

void weir_exchange_count_end(weir_exchange_t *exchange, int status, int64_t overhead_ns, int64_t duration_ns)
{
    struct weir_listener_series *series = series_of(exchange);
    weir_metrics_worker_t *metrics = exchange->worker->metrics;
    const char *listener = exchange->request.listener->name;
    const char *route = exchange->request.route != NULL ? exchange->request.route->path : "";

    weir_metrics_add(metrics, find(exchange, &series->in_flight, WEIR_METRIC_IN_FLIGHT, &listener), -1);
    weir_metrics_observe(metrics, find(exchange, &series->overhead, WEIR_METRIC_OVERHEAD, &listener), overhead_ns);
    uint32_t duration = find(exchange, &route_series_of(exchange)->duration, WEIR_METRIC_REQUEST_DURATION,
                             (const char *[]){listener, route});
    weir_str_t trace_id = exchange->request.trace_id;
    weir_metrics_observe_traced(metrics, duration, duration_ns, trace_id.len == WEIR_TRACE_ID_BYTES ? trace_id.base : NULL,
                                exchange->request.wall_ms);
    count_status(exchange, listener, route, status);
    count_reason(exchange, listener, route);
}

/* --- what the filters decide --- */

static weir_exchange_t *exchange_of(const weir_request_t *request)
{
    return H2O_STRUCT_FROM_MEMBER(weir_exchange_t, request, request);
}

static void limit_decided(const weir_request_t *request, size_t limit, weir_decision_t decision)
{
    static const char *const words[DECISIONS] = {"admitted", "refused", "shadow_refused"};
    weir_exchange_t *exchange = exchange_of(request);
    weir_metrics_worker_t *metrics = exchange->worker->metrics;
    uint32_t tenant = weir_metrics_tenant(metrics, request->tenant.base, request->tenant.len);
    weir_series_t *cache = &exchange->snapshot->limit_series[limit].decisions[tenant * DECISIONS + decision];
    uint32_t slot = atomic_load_explicit(cache, memory_order_relaxed);
    if (slot == 0) {
        weir_metrics_t *all = exchange->worker->server->metrics;
        const char *labels[] = {request->conf->limits.entries[limit].name, weir_metrics_tenant_name(all, tenant), words[decision]};
        slot = weir_metrics_series(all, cache, WEIR_METRIC_LIMIT_DECISIONS, labels);
    }
    weir_metrics_add(metrics, slot, 1);
}

static void limit_overflowed(const weir_request_t *request, size_t limit)
{
    weir_exchange_t *exchange = exchange_of(request);
    const char *name = request->conf->limits.entries[limit].name;
    weir_series_t *cache = &exchange->snapshot->limit_series[limit].overflow;
    weir_metrics_add(exchange->worker->metrics, find(exchange, cache, WEIR_METRIC_LIMIT_OVERFLOW, &name), 1);
}

static void limit_leased(const weir_request_t *request, size_t limit)
{
    weir_exchange_t *exchange = exchange_of(request);
    const char *name = request->conf->limits.entries[limit].name;
    weir_series_t *cache = &exchange->snapshot->limit_series[limit].leased;
    weir_metrics_add(exchange->worker->metrics, find(exchange, cache, WEIR_METRIC_LIMIT_LEASED, &name), 1);
}

static void queue_left(const weir_request_t *request, size_t limit, int64_t waited_ns)
{
    weir_exchange_t *exchange = exchange_of(request);
    const char *name = request->conf->limits.entries[limit].name;
    weir_series_t *cache = &exchange->snapshot->limit_series[limit].queue_wait;
    weir_metrics_observe(exchange->worker->metrics, find(exchange, cache, WEIR_METRIC_QUEUE_WAIT, &name), waited_ns);
}

static void dedup_decided(const weir_request_t *request, size_t dedup, weir_dedup_result_t result)
{
    weir_exchange_t *exchange = exchange_of(request);
    const char *labels[] = {request->conf->dedup.entries[dedup].name, weir_dedup_words[result]};
    weir_series_t *cache = &exchange->snapshot->dedup_series[dedup].results[result];
    weir_metrics_add(exchange->worker->metrics, find(exchange, cache, WEIR_METRIC_DEDUP, labels), 1);
}

static void dedup_forgot_full(const weir_request_t *request, size_t dedup, size_t keys)
{
    weir_exchange_t *exchange = exchange_of(request);
    const char *name = request->conf->dedup.entries[dedup].name;
    weir_series_t *cache = &exchange->snapshot->dedup_series[dedup].forgotten_full;
    weir_metrics_add(exchange->worker->metrics, find(exchange, cache, WEIR_METRIC_DEDUP_FORGOTTEN_FULL, &name), (int64_t)keys);
}

static void dedup_false_positive(const weir_request_t *request, size_t dedup)
{
    weir_exchange_t *exchange = exchange_of(request);
    const char *name = request->conf->dedup.entries[dedup].name;
    weir_series_t *cache = &exchange->snapshot->dedup_series[dedup].false_positives;
    weir_metrics_add(exchange->worker->metrics, find(exchange, cache, WEIR_METRIC_DEDUP_BLOOM_FALSE_POSITIVES, &name), 1);
}

const weir_observer_t weir_exchange_observer = {.limit_decided = limit_decided,
                                                .limit_overflowed = limit_overflowed,
                                                .limit_leased = limit_leased,
                                                .queue_left = queue_left,
                                                .dedup_decided = dedup_decided,
                                                .dedup_forgot_full = dedup_forgot_full,
                                                .dedup_false_positive = dedup_false_positive};

void weir_exchange_watch_filters(weir_server_t *server)
{
    const weir_snapshot_t *snapshot = server->snapshot;
    for (size_t i = 0; i < snapshot->conf->dedup.size; ++i) {
        const weir_conf_dedup_t *conf = &snapshot->conf->dedup.entries[i];
        struct weir_dedup_series *series = &snapshot->dedup_series[i];
        weir_store_dedup_told_t told;
        if (!server->store->dedup_tell(server->store, conf->name, weir_clock_turn_ns, &told) ||
            series->is_past_its_size == (told.bloom_fill > 1))
            continue;
        series->is_past_its_size = told.bloom_fill > 1;
        if (series->is_past_its_size)
            weir_log_event(WEIR_LOG_WARN, "dedup %s: more than %lld keys within one window: its Bloom filters are past their size; "
                           "raise dedup.%s.bloom.expected", conf->name, (long long)conf->bloom.expected, conf->name);
    }
}

/* --- LLM tokens --- */

enum { TOKEN_INPUT, TOKEN_CACHED, TOKEN_OUTPUT, TOKEN_TYPES };

static weir_series_t *token_series_of(weir_exchange_t *exchange, uint32_t tenant, int type, bool is_estimated)
{
    weir_series_t *series = exchange->snapshot->token_series[exchange->request.upstream - exchange->request.conf->upstreams.entries];
    return &series[(tenant * TOKEN_TYPES + (uint32_t)type) * 2 + is_estimated];
}

static void count_tokens(weir_exchange_t *exchange, int type, int64_t tokens, bool is_estimated)
{
    static const char *const types[TOKEN_TYPES] = {"input", "cached", "output"};
    weir_metrics_t *all = exchange->worker->server->metrics;
    weir_metrics_worker_t *metrics = exchange->worker->metrics;
    uint32_t tenant = weir_metrics_tenant(metrics, exchange->request.tenant.base, exchange->request.tenant.len);
    const char *labels[] = {exchange->request.upstream->name, weir_metrics_tenant_name(all, tenant), types[type]};
    weir_metric_t metric = is_estimated ? WEIR_METRIC_LLM_TOKENS_ESTIMATED : WEIR_METRIC_LLM_TOKENS;
    weir_metrics_add(metrics, find(exchange, token_series_of(exchange, tenant, type, is_estimated), metric, labels), tokens);
}

void weir_exchange_count_tokens(weir_exchange_t *exchange)
{
    const weir_usage_t *usage = &exchange->request.usage;
    if (!exchange->request.has_usage)
        return;
    const int64_t tokens[TOKEN_TYPES] = {usage->input + usage->cache_write, usage->cached, usage->output};
    for (int type = 0; type < TOKEN_TYPES; ++type) {
        bool is_known = type == TOKEN_OUTPUT ? usage->output_is_known : usage->input_is_known;
        count_tokens(exchange, type, tokens[type], false);
        if (!is_known)
            count_tokens(exchange, type, tokens[type], true);
    }
}

/* --- a snapshot's --- */

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);
    if (memory == NULL)
        h2o_fatal("no memory");
    return memory;
}

void weir_exchange_prepare(weir_server_t *server, weir_snapshot_t *snapshot)
{
    const weir_conf_t *conf = snapshot->conf;
    snapshot->routers = zeroed(conf->listeners.size, sizeof(*snapshot->routers));
    snapshot->listener_series = zeroed(conf->listeners.size, sizeof(*snapshot->listener_series));
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        snapshot->routers[i] = weir_router_create(conf, &conf->listeners.entries[i]);
        snapshot->listener_series[i].routes = zeroed(conf->listeners.entries[i].routes.size, sizeof(route_series_t));
    }
    size_t tenants = weir_metrics_tenant_capacity(server->metrics) + 1;
    snapshot->limit_series = zeroed(conf->limits.size, sizeof(*snapshot->limit_series));
    for (size_t i = 0; i < conf->limits.size; ++i)
        snapshot->limit_series[i].decisions = zeroed(tenants * DECISIONS, sizeof(weir_series_t));
    snapshot->dedup_series = zeroed(conf->dedup.size, sizeof(*snapshot->dedup_series));
    snapshot->token_series = zeroed(conf->upstreams.size, sizeof(*snapshot->token_series));
    for (size_t i = 0; i < conf->upstreams.size; ++i)
        snapshot->token_series[i] = zeroed(tenants * TOKEN_TYPES * 2, sizeof(weir_series_t));
}

void weir_exchange_dispose(weir_snapshot_t *snapshot)
{
    const weir_conf_t *conf = snapshot->conf;
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        weir_router_destroy(snapshot->routers[i]);
        free(snapshot->listener_series[i].routes);
    }
    for (size_t i = 0; i < conf->limits.size; ++i)
        free(snapshot->limit_series[i].decisions);
    for (size_t i = 0; i < conf->upstreams.size; ++i)
        free(snapshot->token_series[i]);
    free(snapshot->token_series);
    free(snapshot->dedup_series);
    free(snapshot->routers);
    free(snapshot->listener_series);
    free(snapshot->limit_series);
}
