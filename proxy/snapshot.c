#include "snapshot.h"

#include <stdlib.h>
#include <string.h>
#include "clock.h"
#include "exchange.h"
#include "health.h"
#include "tls.h"
#include "upstream.h"

weir_listener_t *weir_listener_create(weir_listener_kind_t kind, const char *name)
{
    weir_listener_t *listener = h2o_mem_alloc(sizeof(*listener));
    *listener = (weir_listener_t){.kind = kind, .name = h2o_strdup(NULL, name, SIZE_MAX).base, .references = 1};
    return listener;
}

void weir_listener_acquire(weir_listener_t *listener)
{
    atomic_fetch_add(&listener->references, 1);
}

void weir_listener_release(weir_listener_t *listener)
{
    if (atomic_fetch_sub(&listener->references, 1) != 1)
        return;
    if (listener->last != NULL)
        weir_snapshot_release(listener->last);
    free((char *)listener->name);
    free(listener);
}

void weir_listener_set_last(weir_listener_t *listener, weir_snapshot_t *snapshot)
{
    weir_snapshot_acquire(snapshot);
    listener->last = snapshot;
}

weir_snapshot_t *weir_snapshot_create(weir_server_t *server, weir_conf_t *conf, struct weir_tls_set *tls,
                                      weir_listener_t *const *listeners)
{
    weir_snapshot_t *snapshot = h2o_mem_alloc(sizeof(*snapshot));
    *snapshot = (weir_snapshot_t){.conf = conf, .tls = tls, .references = 1};
    weir_conf_acquire(conf);
    server->store->tell_time(server->store, weir_clock_now_ns());
    snapshot->chain = weir_chain_create(conf, server->store);
    snapshot->listeners = h2o_mem_alloc((conf->listeners.size + 1) * sizeof(*snapshot->listeners));
    for (size_t i = 0; i < conf->listeners.size; ++i)
        snapshot->listeners[i] = listeners[i];
    snapshot->upstreams = h2o_mem_alloc((conf->upstreams.size + 1) * sizeof(*snapshot->upstreams));
    for (size_t i = 0; i < conf->upstreams.size; ++i)
        snapshot->upstreams[i] = weir_upstream_acquire(server, &conf->upstreams.entries[i]);
    for (size_t i = 0; i < conf->upstreams.size; ++i)
        weir_health_configure(weir_upstream_health(snapshot->upstreams[i]), conf, &conf->upstreams.entries[i]);
    weir_exchange_prepare(server, snapshot);
    return snapshot;
}

void weir_snapshot_acquire(weir_snapshot_t *snapshot)
{
    atomic_fetch_add_explicit(&snapshot->references, 1, memory_order_relaxed);
}

static void destroy(weir_snapshot_t *snapshot)
{
    weir_exchange_dispose(snapshot);
    weir_chain_destroy(snapshot->chain);
    for (size_t i = 0; i < snapshot->conf->upstreams.size; ++i)
        weir_upstream_release(snapshot->upstreams[i]);
    weir_tls_set_destroy(snapshot->tls);
    free(snapshot->upstreams);
    free(snapshot->listeners);
    weir_conf_release(snapshot->conf);
    free(snapshot);
}

void weir_snapshot_release(weir_snapshot_t *snapshot)
{
    if (atomic_fetch_sub_explicit(&snapshot->references, 1, memory_order_acq_rel) == 1)
        destroy(snapshot);
}

static bool find_listener(const weir_snapshot_t *snapshot, const weir_listener_t *listener, size_t *index)
{
    for (*index = 0; *index < snapshot->conf->listeners.size; ++*index) {
        if (snapshot->listeners[*index] == listener)
            return true;
    }
    *index = SIZE_MAX;
    return false;
}

weir_snapshot_t *weir_server_snapshot_for(weir_worker_t *worker, weir_listener_t *listener, size_t *listener_index)
{
    if (listener->kind != WEIR_LISTENER_DATA) {
        *listener_index = SIZE_MAX;
        return worker->snapshot;
    }
    if (find_listener(worker->snapshot, listener, listener_index))
        return worker->snapshot;
    /* Not in the worker's snapshot: so it was retired, and `last` was set before that snapshot was sent. */
    find_listener(listener->last, listener, listener_index);
    return listener->last;
}

/* --- a worker's references --- */

void weir_worker_hold(weir_worker_t *worker, weir_snapshot_t *snapshot)
{
    if (snapshot == worker->snapshot)
        ++worker->held;
    else
        weir_snapshot_acquire(snapshot);
}

void weir_worker_let_go(weir_worker_t *worker, weir_snapshot_t *snapshot)
{
    if (snapshot == worker->snapshot)
        --worker->held;
    else
        weir_snapshot_release(snapshot);
}

void weir_worker_use(weir_worker_t *worker, weir_snapshot_t *snapshot)
{
    weir_snapshot_t *former = worker->snapshot;
    size_t held = worker->held;
    worker->snapshot = snapshot;
    worker->held = 0;
    if (former == NULL)
        return;
    /* what was the worker's own count is everybody's now */
    atomic_fetch_add_explicit(&former->references, held, memory_order_relaxed);
    weir_snapshot_release(former);
}
