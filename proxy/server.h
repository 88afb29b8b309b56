#ifndef WEIR_PROXY_SERVER_H
#define WEIR_PROXY_SERVER_H

/* The process: workers, listeners, configuration snapshots, reload and drain.
 *
 * The main thread runs a loop of its own (`control`): signals, file changes, admin and metrics listeners. Each worker is
 * a thread with a loop; what a worker owns, only its thread touches. Everything between threads is a message
 * (weir_worker_post) or is said to be thread-safe. */

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <h2o.h>
#include "../conf/conf.h"
#include "../filters/filter.h"
#include "../filters/store.h"
#include "clock.h"
#include "log.h"
#include "metrics.h"

typedef struct weir_server weir_server_t;
typedef struct weir_worker weir_worker_t;
typedef struct weir_upstream weir_upstream_t;
typedef struct weir_router weir_router_t;
typedef struct weir_binding weir_binding_t;

typedef enum { WEIR_LISTENER_DATA, WEIR_LISTENER_ADMIN, WEIR_LISTENER_METRICS } weir_listener_kind_t;

/* A listening address. Lives as long as a connection that came in through it. */
typedef struct weir_listener {
    weir_listener_kind_t kind;
    const char *name; /* own copy */
    weir_series_t connections_series; /* weir_connections{listener} */
    weir_series_t tunnels_series;     /* weir_tunnels{listener} */
    struct weir_snapshot *last; /* set when it is retired: what its connections go on with; else NULL */
    _Atomic size_t references;
} weir_listener_t;

void weir_listener_acquire(weir_listener_t *listener);
void weir_listener_release(weir_listener_t *listener);

/* One configuration and all that is made of it. Immutable but for its counters; shared by reference count. */
typedef struct weir_snapshot {
    weir_conf_t *conf;
    weir_chain_t *chain;
    weir_listener_t **listeners;  /* by index into conf->listeners; to compare with, not to follow: they may be gone */
    weir_router_t **routers;      /* by index into conf->listeners (router.h) */
    weir_upstream_t **upstreams;  /* by index into conf->upstreams (upstream.h) */
    struct weir_tls_set *tls;     /* tls.h */
    struct weir_listener_series *listener_series; /* by index into conf->listeners: caches of metric series (exchange.c) */
    struct weir_limit_series *limit_series;       /* by index into conf->limits */
    struct weir_dedup_series *dedup_series;       /* by index into conf->dedup */
    weir_series_t **token_series;                 /* by index into conf->upstreams */
    _Atomic size_t references;
} weir_snapshot_t;

void weir_snapshot_acquire(weir_snapshot_t *snapshot);
void weir_snapshot_release(weir_snapshot_t *snapshot);

/* One duration's timers: h2o keeps a list for each. */
typedef struct weir_timer_list {
    h2o_timeout_t timeout;
    struct weir_timer_list *next;
} weir_timer_list_t;

enum {
    WEIR_SCRATCH_BYTES = 64 * 1024,
    WEIR_NAMES_BYTES = 1024 * 1024, /* the largest server.max_head; what is never written to costs nothing */
    WEIR_HEAD_FIELDS_MAX = 160,
};

struct weir_worker {
    h2o_context_t ctx; /* first: h2o hands us this */
    weir_server_t *server;
    size_t index;               /* control is the one after the last worker */
    bool is_control;
    weir_snapshot_t *snapshot;  /* the one new requests begin with */
    weir_metrics_worker_t *metrics;
    weir_log_worker_t *log;
    weir_timer_list_t *timers;
    uint64_t random[4];         /* xoshiro256**, seeded from the kernel */
    h2o_linklist_t connections; /* of callers (h1.c) */
    size_t connection_count, exchange_count;
    struct {
        h2o_mem_recycle_t request, exchange, call, attempt, body;
    } recycle; /* memory of what ended, for what begins */
    struct weir_tickets *tickets; /* ticket.h */
    size_t held; /* references to `snapshot` that this worker's requests have (snapshot.c) */
    struct weir_departures *departures; /* departures.h */
    h2o_linklist_t parked;      /* connections to upstreams that wait for their next call (upstream.c) */
    struct weir_warm *warm;     /* warm.h; NULL: none are opened ahead */
    bool draining;              /* answers carry Connection: close, idle connections end */
    char *scratch;              /* WEIR_SCRATCH_BYTES, for one read; nothing keeps a pointer into it over a turn */
    char *scratch_names;        /* WEIR_NAMES_BYTES: names as they were written, and heads that are sent at once */
    h2o_header_t *head_fields;  /* WEIR_HEAD_FIELDS_MAX: of an answer's head until it is sent */
    h2o_iovec_t *head_names;    /* as many: names of those that are added to it */
    size_t head_name_count;     /* that are taken */
    /* worker.c */
    h2o_globalconf_t *config;
    h2o_multithread_receiver_t messages;
    size_t timer_list_count;
    bool stopped, halted;
    _Atomic size_t in_flight, in_flight_peak; /* exchange_count as of the last turn, and its peak since control looked */
    pthread_t thread;
    sem_t step; /* the thread is open; then: nobody posts to it any more */
    h2o_mem_pool_t parting; /* what its thread left */
    _Atomic int64_t asked_ns; /* since when control waits for a sign of life; 0: it does not */
    /* accept.c */
    struct weir_acceptor *acceptors;
    bool accept_paused, accept_short;
    h2o_timeout_entry_t accept_timer; /* until it is tried again */
};

struct weir_server {
    weir_metrics_t *metrics;
    weir_log_t *log;
    weir_store_t *store;
    struct weir_redis *redis; /* redis/redis.h; NULL: the store is in memory */
    struct weir_keep *keep; /* keep.h; NULL: what the store knows is gone at the end */
    struct weir_history *history; /* history.h; control thread only */
    struct weir_resolver *resolver;
    struct weir_fleet *fleet; /* redis/fleet.h; NULL: there is none */
    weir_worker_t **workers;
    size_t worker_count;
    weir_worker_t *control;
    weir_snapshot_t *snapshot;       /* control thread only */
    _Atomic size_t connections;      /* of callers, data listeners */
    _Atomic size_t max_connections;
    _Atomic uint64_t buffered_bytes; /* request heads and bodies held at once */
    _Atomic uint64_t max_buffered_bytes;
    _Atomic bool ready, draining;
    int64_t started_wall_ms;
    _Atomic int64_t loaded_wall_ms;
    char *last_reload_errors; /* control thread only; NULL: the last reload was fine */
    /* Control thread only, of reload.c: the configuration weir was started with, the files that are watched, what
     * listens, and what listened and is still emptied. */
    weir_conf_t *first_conf;
    struct weir_watch *watch;
    weir_binding_t *bindings, *retiring;
};

/* Starts the timer anew, `ns` from this turn (whole ms, rounded up). `entry->cb` must be set. */
void weir_timer_start(weir_worker_t *worker, h2o_timeout_entry_t *entry, int64_t ns);
static inline void weir_timer_stop(h2o_timeout_entry_t *entry)
{
    h2o_timeout_unlink(entry);
}

uint64_t weir_worker_random(weir_worker_t *worker);
static inline weir_worker_t *weir_worker_of(h2o_context_t *ctx)
{
    return (weir_worker_t *)ctx;
}

/* Calls run(argument) on the worker's thread, in its next turn. From any thread. */
void weir_worker_post(weir_worker_t *worker, void (*run)(weir_worker_t *worker, void *argument), void *argument);

/* A caller's connection begins or ends; accepting pauses at max_connections and goes on after. Called by h1.c on the
 * connection's own thread: `opened` once for each weir_h1_accept, within it. Between the two the listener stays. */
void weir_server_connection_opened(weir_worker_t *worker, weir_listener_t *listener);
void weir_server_connection_closed(weir_worker_t *worker, weir_listener_t *listener);

/* References of a worker's own, for what it runs: to its current snapshot they cost no atomic operation. */
void weir_worker_hold(weir_worker_t *worker, weir_snapshot_t *snapshot);
void weir_worker_let_go(weir_worker_t *worker, weir_snapshot_t *snapshot);
/* The worker begins its requests with this snapshot from now on; takes over the caller's reference. NULL at its end. */
void weir_worker_use(weir_worker_t *worker, weir_snapshot_t *snapshot);

/* What a request on this listener goes by now: the worker's snapshot and the index of the listener in it, or what it was retired with. */
weir_snapshot_t *weir_server_snapshot_for(weir_worker_t *worker, weir_listener_t *listener, size_t *listener_index);

/* Reserves bytes against max_buffered; false when that is over. */
bool weir_server_buffer_reserve(weir_server_t *server, uint64_t bytes);
void weir_server_buffer_release(weir_server_t *server, uint64_t bytes);

/* Control thread. Reads the configuration again; true when it is in force, else *errors says why (malloc'ed). */
bool weir_server_reload(weir_server_t *server, char **errors);

/* Runs until it was told to stop. Returns the process's exit code. */
int weir_server_run(weir_conf_t *conf);

#endif
