#ifndef WEIR_PROXY_LOG_H
#define WEIR_PROXY_LOG_H

/* Two logs. The access log: one JSON object a request, formatted by the worker into a ring of its own, written by one
 * thread; a full ring drops the line and counts it, so that no request ever waits for a disk or a pipe. The event log:
 * one JSON object a line on stderr, for the few things a person must know. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "../conf/conf.h"
#include "../filters/filter.h"

enum {
    WEIR_LOG_RING_BYTES = 256 * 1024, /* of each worker: some 600 lines */
    WEIR_LOG_LINE_MAX = 4096,         /* bytes of any line; fields that are too long are cut */
};

typedef struct weir_log weir_log_t;
typedef struct weir_log_worker weir_log_worker_t;

/* A request's line; empty strings and negative numbers are left out. */
typedef struct {
    int64_t wall_ms;
    weir_str_t correlation_id, trace_id, listener, route, tenant, method, path /* without query */, upstream, dedup,
        limit, peer, model;
    int status;
    const char *reason;
    uint64_t bytes_in, bytes_out;
    int64_t duration_ns, overhead_ns, first_byte_ns;
    int attempts;
    int64_t tokens_in, tokens_out; /* with cached ones, and those written to a cache */
} weir_access_t;

/* Opens what log.access names and starts the writer thread. NULL and *error set (`PATH: what is wrong`, malloc'ed) when
 * it cannot. */
weir_log_t *weir_log_create(const weir_conf_log_t *conf, size_t workers, char **error);
weir_log_worker_t *weir_log_worker(weir_log_t *log, size_t index);
void weir_log_access(weir_log_worker_t *worker, const weir_access_t *access);
void weir_log_reopen(weir_log_t *log); /* SIGUSR1 */

/* At reload: opens what log.access names now. False and *error set when it cannot: all stays as it was. */
bool weir_log_configure(weir_log_t *log, const weir_conf_log_t *conf, char **error) __attribute__((warn_unused_result));
uint64_t weir_log_dropped(weir_log_t *log); /* lines of the access log */

/* After the last weir_log_access. Writes what is left, at most for a second. */
void weir_log_destroy(weir_log_t *log);

/* The event log. Thread-safe; never blocks for long; lines below the level are not formatted. */
void weir_log_set_level(weir_log_level_t level);
void weir_log_event(weir_log_level_t level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
