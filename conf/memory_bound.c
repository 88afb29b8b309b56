/* What a configuration can come to in memory. Everything in weir has a bound; this is their sum. */

#include <inttypes.h>
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

static void add_process(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    char what[128];
    uint64_t workers = (uint64_t)conf->server.workers, logs = workers * costs->log_buffer;
    uint64_t process = costs->process + (workers - 1) * costs->worker;
    snprintf(what, sizeof(what), "process, server.workers %" PRIu64, workers);
    add(bound, what, process, process);
    add(bound, "log buffers", 0, logs);
    uint64_t own = weir_conf_arena_bytes(conf->arena);
    add(bound, "configuration, twice while it is reloaded", own, 2 * own);
}

static void add_limits(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    for (size_t i = 0; i < conf->limits.size; ++i) {
        const weir_conf_limit_t *limit = &conf->limits.entries[i];
        char what[160];
        snprintf(what, sizeof(what), "limits.%s, max_keys %" PRId64, limit->name, limit->max_keys);
        add(bound, what, 0, costs->limit_table(limit));
        if (limit->queue.size == 0)
            continue;
        snprintf(what, sizeof(what), "limits.%s, queue.size %" PRId64, limit->name, limit->queue.size);
        add(bound, what, 0, (uint64_t)limit->queue.size * costs->waiter);
    }
}

static void add_connections(bound_t *bound, const weir_conf_t *conf, const weir_conf_costs_t *costs)
{
    uint64_t connections = (uint64_t)conf->server.max_connections;
    char what[160];
    snprintf(what, sizeof(what), "callers, server.max_connections %" PRIu64, connections);
    add(bound, what, 0, connections * costs->connection);
    add(bound, "a request on each of them", 0, connections * costs->exchange);
    add(bound, "their heads and bodies, server.max_buffered", 0, conf->server.max_buffered_bytes);
    for (size_t i = 0; i < conf->upstreams.size; ++i) {
        const weir_conf_upstream_t *upstream = &conf->upstreams.entries[i];
        snprintf(what, sizeof(what), "upstreams.%s, connections.max %" PRId64, upstream->name,
                 upstream->connections.max);
        add(bound, what, 0, (uint64_t)upstream->connections.max * costs->connection);
    }
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
            "server.max_connections or max_keys, or raise the limit\n",
            worst, limit);
}

void weir_conf_print_memory(const weir_conf_t *conf, const weir_conf_costs_t *costs, FILE *out)
{
    bound_t bound = {.out = out};
    fprintf(out, "%-56s %12s %12s\n", "memory", "idle", "at worst");
    add_process(&bound, conf, costs);
    add_limits(&bound, conf, costs);
    add_connections(&bound, conf, costs);
    write_line(out, "in all", bound.idle_bytes, bound.worst_bytes);
    warn(&bound);
}
