/* What a configuration can come to in memory. Everything in weir has a bound; this is their sum. */

#include <inttypes.h>
#include <sys/stat.h>
#include "arena.h"
#include "cgroup.h"
#include "conf.h"

typedef struct {
    FILE *out;
    uint64_t idle_bytes, worst_bytes;
} bound_t;

/* "6.8 MiB", rounded up in its last digit. */
static void format_bytes(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    uint64_t factor = 1;
    size_t unit = 0;
    while (unit < 4 && bytes / factor >= 1024) {
        factor *= 1024;
        ++unit;
    }
    uint64_t tenths = unit == 0 ? bytes * 10 : (bytes / factor) * 10 + (bytes % factor * 10 + factor - 1) / factor;
    if (unit == 0)
        snprintf(text, 32, "%" PRIu64 " B", bytes);
    else
        snprintf(text, 32, "%" PRIu64 ".%" PRIu64 " %s", tenths / 10, tenths % 10, units[unit]);
}

static void write_line(FILE *out, const char *what, uint64_t idle_bytes, uint64_t worst_bytes)
{
    char idle[32], worst[32];
    format_bytes(idle_bytes, idle);
    format_bytes(worst_bytes, worst);
    fprintf(out, "%-56s %12s %12s\n", what, idle, worst);
}

static void add(bound_t *bound, const char *what, uint64_t idle_bytes, uint64_t worst_bytes)
{
    write_line(bound->out, what, idle_bytes, worst_bytes);
    bound->idle_bytes += idle_bytes;
    bound->worst_bytes += worst_bytes;
}

static bool is_redis(const weir_conf_t *conf)
{
    return conf->store.kind == WEIR_STORE_REDIS;
}

static bool speaks_tls(const weir_conf_t *conf)
{
    if (is_redis(conf) && conf->store.redis.tls.enabled)
        return true;
    for (size_t i = 0; i < conf->listeners.size; ++i)
        if (conf->listeners.entries[i].tls.cert != NULL)
            return true;
    for (size_t i = 0; i < conf->upstreams.size; ++i)
        if (conf->upstreams.entries[i].url.is_tls)
            return true;
    return false;
}

static void add_process(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    char what[128];
    uint64_t workers = (uint64_t)conf->server.workers, logs = workers * costs->log_buffer;
    uint64_t process = costs->process + (workers - 1) * costs->worker;
    snprintf(what, sizeof(what), "process, server.workers %" PRIu64, workers);
    add(bound, what, process, process);
    if (speaks_tls(conf))
        add(bound, "OpenSSL", costs->tls_process, costs->tls_process);
    add(bound, "log buffers", 0, logs);
    uint64_t own = weir_conf_arena_bytes(conf->arena);
    add(bound, "configuration, twice while it is reloaded", own, 2 * own);
}

static bool takes_slices(const weir_conf_t *conf, const weir_conf_limit_t *limit)
{
    bool is_ahead = is_redis(conf) && conf->store.redis.sync == WEIR_SYNC_LEASE && limit->scope == WEIR_SCOPE_SHARED;
    bool is_strict = limit->algorithm == WEIR_LIMIT_CONCURRENCY ||
                     (limit->algorithm == WEIR_LIMIT_SLIDING_WINDOW && limit->precision == WEIR_PRECISION_EXACT);
    return is_ahead && !is_strict;
}

/* With Redis the tables are for when it is down. */
static void add_limits(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    bool has_slices = false;
    for (size_t i = 0; i < conf->limits.size; ++i) {
        const weir_conf_limit_t *limit = &conf->limits.entries[i];
        char what[160];
        snprintf(what, sizeof(what), "limits.%s, max_keys %" PRId64, limit->name, limit->max_keys);
        add(bound, what, 0, costs->limit_table(limit));
        has_slices |= takes_slices(conf, limit);
        if (limit->queue.size == 0)
            continue;
        snprintf(what, sizeof(what), "limits.%s, queue.size %" PRId64, limit->name, limit->queue.size);
        add(bound, what, 0, (uint64_t)limit->queue.size * costs->waiter);
    }
    if (has_slices)
        add(bound, "limits, slices taken ahead", 0, costs->redis_slices);
}

/* Streams are made only where somebody may read them. */
static bool holds_answers(const weir_conf_dedup_t *dedup)
{
    return dedup->on_duplicate == WEIR_ON_DUPLICATE_REPLAY || dedup->in_flight == WEIR_IN_FLIGHT_WAIT;
}

static void add_dedup_keys(bound_t *bound, const weir_conf_dedup_t *dedup, const weir_conf_costs_t *costs)
{
    char what[160];
    snprintf(what, sizeof(what), "dedup.%s, bloom.expected %" PRId64, dedup->name, dedup->bloom.expected);
    add(bound, what, 0, costs->dedup_bloom(dedup));
    if (!dedup->exact)
        return;
    snprintf(what, sizeof(what), "dedup.%s, max_keys %" PRId64, dedup->name, dedup->max_keys);
    add(bound, what, 0, costs->dedup_table(dedup));
}

static void add_dedups(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    for (size_t i = 0; i < conf->dedup.size; ++i) {
        const weir_conf_dedup_t *dedup = &conf->dedup.entries[i];
        char what[160];
        if (!is_redis(conf))
            add_dedup_keys(bound, dedup, costs);
        snprintf(what, sizeof(what), "dedup.%s, answers, memory", dedup->name);
        if (dedup->exact && holds_answers(dedup))
            add(bound, what, 0, dedup->memory_bytes);
    }
}

/* A PEM file's contents, taken apart: 3.2 times the size of Debian's authorities. */
static uint64_t parsed_bytes(const char *path)
{
    struct stat file;
    return path != NULL && stat(path, &file) == 0 ? 4 * (uint64_t)file.st_size : 0;
}

/* Contexts are there twice while certificates change. */
static void add_listeners_tls(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    uint64_t contexts = 0;
    uint64_t handshake = 0;
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        const weir_conf_listener_t *listener = &conf->listeners.entries[i];
        if (listener->tls.cert == NULL)
            continue;
        if (handshake != costs->tls_asked)
            handshake = listener->tls.client_ca != NULL ? costs->tls_asked : costs->tls_records;
        contexts += costs->tls_context + parsed_bytes(listener->tls.cert) + parsed_bytes(listener->tls.client_ca);
    }
    if (contexts == 0)
        return;
    add(bound, "listeners, TLS", contexts, 2 * contexts);
    add(bound, "TLS with each caller", 0,
        (uint64_t)conf->server.max_connections * (costs->tls_connection + handshake));
}

static void add_callers(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    uint64_t connections = (uint64_t)conf->server.max_connections;
    char what[160];
    snprintf(what, sizeof(what), "callers, server.max_connections %" PRIu64, connections);
    add(bound, what, 0, connections * costs->connection);
    add_listeners_tls(bound, conf, costs);
    add(bound, "a request on each of them", 0, connections * costs->exchange);
    add(bound, "their heads and bodies, server.max_buffered", 0, conf->server.max_buffered_bytes);
    add(bound, "answers that callers are slow to take", 0, connections * costs->unsent);
}

static void add_upstream_tls(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs,
                             const weir_conf_upstream_t *upstream)
{
    char what[160];
    uint64_t context = costs->tls_context + parsed_bytes(upstream->tls.ca) + parsed_bytes(upstream->tls.cert);
    uint64_t sessions = (uint64_t)conf->server.workers * costs->tls_sessions;
    uint64_t connection = costs->tls_connection + costs->tls_records + costs->tls_peer;
    snprintf(what, sizeof(what), "upstreams.%s, TLS", upstream->name);
    add(bound, what, context, 2 * (context + sessions) + (uint64_t)upstream->connections.max * connection);
}

static void add_upstreams(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    bool is_system = false;
    for (size_t i = 0; i < conf->upstreams.size; ++i) {
        const weir_conf_upstream_t *upstream = &conf->upstreams.entries[i];
        char what[160];
        snprintf(what, sizeof(what), "upstreams.%s, connections.max %" PRId64, upstream->name,
                 upstream->connections.max);
        add(bound, what, 0, (uint64_t)upstream->connections.max * (costs->connection + costs->unsent));
        if (!upstream->url.is_tls)
            continue;
        add_upstream_tls(bound, conf, costs, upstream);
        is_system = is_system || (upstream->tls.ca == NULL && upstream->tls.verify);
    }
    if (is_system)
        add(bound, "the system's authorities", costs->tls_system, 2 * costs->tls_system);
}

/* Each worker, and control, has its own to every server: a cluster is taken for one of 16 masters at most. */
static uint64_t count_links(const weir_conf_t *conf)
{
    static const uint64_t servers[] = {[WEIR_REDIS_SINGLE] = 1, [WEIR_REDIS_SENTINEL] = 2, [WEIR_REDIS_CLUSTER] = 16};
    return ((uint64_t)conf->server.workers + 1) * servers[conf->store.redis.mode];
}

/* A whole answer comes in one reply, and is there as it was read and taken apart. */
static uint64_t largest_reply(const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    uint64_t largest = 0;
    for (size_t i = 0; i < conf->dedup.size; ++i) {
        const weir_conf_dedup_t *dedup = &conf->dedup.entries[i];
        if (dedup->exact && holds_answers(dedup) && dedup->max_response_bytes > largest)
            largest = dedup->max_response_bytes;
    }
    return 2 * largest + costs->redis_reply;
}

static void add_redis_tls(bound_t *bound, const weir_conf_redis_tls_t *tls, uint64_t links, const weir_conf_costs_t *costs)
{
    uint64_t authorities = tls->ca != NULL ? parsed_bytes(tls->ca) : costs->tls_system;
    uint64_t idle = costs->tls_context + authorities + parsed_bytes(tls->cert) + links * costs->tls_connection;
    add(bound, "store.redis, TLS", idle, idle + links * (costs->tls_records + costs->tls_peer));
}

static void add_redis(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    uint64_t links = count_links(conf), connections = (uint64_t)conf->server.max_connections;
    if (!is_redis(conf))
        return;
    char what[160];
    add(bound, "store.redis", costs->redis_process, costs->redis_process);
    snprintf(what, sizeof(what), "store.redis, connections %" PRIu64, links);
    add(bound, what, links * costs->redis_link, links * (costs->redis_link + largest_reply(conf, costs)));
    if (conf->store.redis.tls.enabled)
        add_redis_tls(bound, &conf->store.redis.tls, links, costs);
    add(bound, "store.redis, what a request on each connection asks", 0, connections * costs->redis_ask);
}

static void warn(const bound_t *bound)
{
    uint64_t limit_bytes = weir_conf_cgroup_memory_bytes("/");
    char worst[32], limit[32];
    if (limit_bytes == 0 || bound->worst_bytes <= limit_bytes)
        return;
    format_bytes(bound->worst_bytes, worst);
    format_bytes(limit_bytes, limit);
    fprintf(bound->out,
            "warning: at worst %s is over the cgroup's memory limit, %s; lower server.max_buffered, "
            "server.max_connections, max_keys or a dedup's memory and bloom.expected, or raise the limit\n",
            worst, limit);
}

void weir_conf_print_memory(const weir_conf_t *conf, const weir_conf_costs_t *costs, FILE *out)
{
    bound_t bound = {.out = out};
    fprintf(out, "%-56s %12s %12s\n", "memory", "idle", "at worst");
    add_process(&bound, conf, costs);
    add_limits(&bound, conf, costs);
    add_dedups(&bound, conf, costs);
    add_callers(&bound, conf, costs);
    add_upstreams(&bound, conf, costs);
    add_redis(&bound, conf, costs);
    write_line(out, "in all", bound.idle_bytes, bound.worst_bytes);
    warn(&bound);
}
