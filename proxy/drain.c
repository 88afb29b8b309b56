#include "drain.h"

#include <stdlib.h>
#include "accept.h"
#include "h1.h"
#include "notify.h"
#include "redis/fleet.h"
#include "redis/redis.h"
#include "reload.h"
#include "resolver.h"
#include "upstream.h"
#include "worker.h"

static const int64_t LOOK_NS = 10 * INT64_C(1000000);
static const int64_t LAST_ANSWERS_NS = 1500 * INT64_C(1000000);
static const int64_t AFTER_TIMEOUT_NS = 5000 * INT64_C(1000000); /* is enough for threads and logs to end */

/*   NOT_YET --signal--> DELAY --its time--> EMPTY --all workers empty--> RELEASE --all released--> LAST --> DONE
 *                         |                   |                            |                      |
 *                         '---- signal -------'---- signal, timeout -------'----------------------'-----> CUT       */
static void enter(weir_drain_t *drain, weir_drain_phase_t phase)
{
    assert(phase == drain->phase + 1 || (phase == WEIR_DRAIN_CUT && drain->phase != WEIR_DRAIN_NOT_YET));
    drain->phase = phase;
    drain->missing = drain->server->worker_count;
}

static void post_all(weir_drain_t *drain, void (*run)(weir_worker_t *worker, void *argument))
{
    for (size_t i = 0; i < drain->server->worker_count; ++i)
        weir_worker_post(drain->server->workers[i], run, drain);
}

/* --- CUT --- */

static void close_connections(weir_worker_t *worker, void *argument)
{
    weir_h1_close_all(worker);
}

static void cut(weir_drain_t *drain)
{
    weir_server_t *server = drain->server;
    enter(drain, WEIR_DRAIN_CUT);
    weir_fleet_leave(server->fleet);
    weir_log_event(WEIR_LOG_WARN, "weir ends with %zu connections of callers open", server->connections);
    post_all(drain, close_connections);
    close_connections(server->control, NULL);
    for (size_t i = 0; i < server->worker_count; ++i)
        weir_worker_halt(server->workers[i]);
    for (size_t i = 0; i < server->worker_count; ++i) {
        if (!weir_worker_join_for_a_second(server->workers[i]))
            weir_log_event(WEIR_LOG_ERROR, "worker %zu does not stop", i);
    }
    server->control->stopped = true;
}

static void on_timeout(h2o_timeout_entry_t *entry)
{
    cut(H2O_STRUCT_FROM_MEMBER(weir_drain_t, timer, entry));
}

/* --- DONE --- */

static void done(weir_drain_t *drain)
{
    weir_server_t *server = drain->server;
    enter(drain, WEIR_DRAIN_DONE);
    weir_log_event(WEIR_LOG_INFO, "weir has drained and ends");
    weir_timer_stop(&drain->timer);
    weir_redis_close(server->redis, server->control);
    weir_resolver_destroy(server->resolver); /* who posts to workers, before their queues go */
    server->resolver = NULL;
    for (size_t i = 0; i < server->worker_count; ++i)
        weir_worker_stop(server->workers[i]);
    weir_worker_stop(server->control);
}

/* --- LAST --- */

static void on_look_last(h2o_timeout_entry_t *entry)
{
    weir_drain_t *drain = H2O_STRUCT_FROM_MEMBER(weir_drain_t, look, entry);
    if (drain->phase != WEIR_DRAIN_LAST)
        return;
    if (drain->server->control->connection_count == 0)
        done(drain);
    else
        weir_timer_start(drain->server->control, entry, LOOK_NS);
}

static void last_answers(weir_drain_t *drain)
{
    weir_worker_t *control = drain->server->control;
    enter(drain, WEIR_DRAIN_LAST);
    weir_accept_close_all(control);
    weir_timer_start(control, &drain->timer, LAST_ANSWERS_NS);
    drain->look.cb = on_look_last;
    on_look_last(&drain->look);
}

/* --- RELEASE --- */

static void on_released(weir_worker_t *control, void *argument)
{
    weir_drain_t *drain = argument;
    if (drain->phase == WEIR_DRAIN_RELEASE && --drain->missing == 0)
        last_answers(drain);
}

static void release(weir_worker_t *worker, void *argument)
{
    weir_upstream_close_parked(worker);
    weir_redis_close(worker->server->redis, worker);
    weir_worker_use(worker, NULL);
    weir_worker_post(worker->server->control, on_released, argument);
}

/* --- EMPTY --- */

static void on_empty(weir_worker_t *control, void *argument)
{
    weir_drain_t *drain = argument;
    if (drain->phase != WEIR_DRAIN_EMPTY || --drain->missing != 0)
        return;
    enter(drain, WEIR_DRAIN_RELEASE);
    post_all(drain, release);
}

typedef struct {
    h2o_timeout_entry_t timer;
    weir_worker_t *worker;
    weir_drain_t *drain;
} look_t;

/* Looked for, rather than told by everything that may be the last one. */
static void on_look(h2o_timeout_entry_t *entry)
{
    look_t *look = H2O_STRUCT_FROM_MEMBER(look_t, timer, entry);
    weir_worker_t *worker = look->worker;
    if (worker->acceptors != NULL || worker->connection_count != 0 || worker->exchange_count != 0 ||
        weir_redis_is_busy(worker->server->redis, worker)) {
        weir_timer_start(worker, entry, LOOK_NS);
        return;
    }
    weir_worker_post(worker->server->control, on_empty, look->drain);
    free(look);
}

static void begin_to_empty(weir_worker_t *worker, void *argument)
{
    look_t *look = h2o_mem_alloc(sizeof(*look));
    *look = (look_t){.timer.cb = on_look, .worker = worker, .drain = argument};
    worker->draining = true;
    weir_h1_drain(worker);
    weir_timer_start(worker, &look->timer, LOOK_NS);
}

static void empty(weir_drain_t *drain)
{
    weir_server_t *server = drain->server;
    enter(drain, WEIR_DRAIN_EMPTY);
    weir_log_event(WEIR_LOG_INFO, "weir drains");
    post_all(drain, begin_to_empty);
    weir_reload_retire_data(server);
    weir_fleet_leave(server->fleet);
    server->control->draining = true; /* still answers, but holds no connection open between answers */
    weir_h1_drain(server->control);
    drain->timer.cb = on_timeout;
    weir_timer_start(server->control, &drain->timer, server->snapshot->conf->server.drain.timeout_ns);
}

/* --- DELAY --- */

static void on_delay_over(h2o_timeout_entry_t *entry)
{
    empty(H2O_STRUCT_FROM_MEMBER(weir_drain_t, timer, entry));
}

void weir_drain_signal(weir_drain_t *drain)
{
    const weir_conf_t *conf = drain->server->snapshot->conf;
    int64_t delay_ns = conf->server.drain.delay_ns;
    if (drain->phase != WEIR_DRAIN_NOT_YET) {
        if (drain->phase < WEIR_DRAIN_DONE)
            cut(drain);
        return;
    }
    atomic_store(&drain->server->draining, true);
    enter(drain, WEIR_DRAIN_DELAY);
    weir_notify_stopping(delay_ns + conf->server.drain.timeout_ns + AFTER_TIMEOUT_NS);
    drain->timer.cb = on_delay_over;
    if (delay_ns == 0) {
        empty(drain);
        return;
    }
    weir_log_event(WEIR_LOG_INFO, "weir is not ready any more, and drains in %.3g s", (double)delay_ns / 1e9);
    weir_timer_start(drain->server->control, &drain->timer, delay_ns);
}
