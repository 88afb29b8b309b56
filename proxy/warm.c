#include "warm.h"

#include <stdlib.h>
#include <string.h>
#include "dial.h"
#include "upstream.h"

static const int64_t LOOK_NS = 500 * INT64_C(1000000);
static const int64_t AHEAD_NS = INT64_C(1000000000); /* one that is closed within this time is replaced now */
static const int64_t BACKOFF_NS_MIN = INT64_C(1000000000), BACKOFF_NS_MAX = 60 * INT64_C(1000000000);

/* What this worker keeps open to one upstream. */
typedef struct {
    struct weir_warm *warm;
    size_t upstream; /* index */
    size_t wanted;
    size_t left;       /* dials until the next look, so that one that cannot be parked is not opened again and again */
    weir_dial_t *dial; /* one at a time */
    int64_t backoff_ns, not_before_ns;
} kept_t;

struct weir_warm {
    weir_worker_t *worker;
    weir_snapshot_t *snapshot; /* the worker's: it is stopped when that changes */
    h2o_timeout_entry_t look;
    size_t size;
    kept_t entries[];
};

static weir_upstream_t *upstream_of(const kept_t *kept)
{
    return kept->warm->snapshot->upstreams[kept->upstream];
}

static const weir_conf_upstream_t *conf_of(const kept_t *kept)
{
    return &kept->warm->snapshot->conf->upstreams.entries[kept->upstream];
}

/* As many as the worker is to keep; what does not come out even is the first workers'. */
static size_t share_of(const weir_conf_upstream_t *conf, const weir_worker_t *worker)
{
    size_t warm = (size_t)conf->connections.warm, count = worker->server->worker_count;
    return warm / count + (worker->index < warm % count);
}

static bool is_short(const kept_t *kept)
{
    const struct weir_warm *warm = kept->warm;
    if (!weir_upstream_has_room(upstream_of(kept)))
        return false;
    int64_t ahead_ns = conf_of(kept)->connections.idle_timeout_ns / 4;
    if (ahead_ns > AHEAD_NS)
        ahead_ns = AHEAD_NS;
    return weir_upstream_count_parked(upstream_of(kept), warm->worker,
                                      weir_tls_of_upstream(warm->snapshot->tls, kept->upstream),
                                      weir_clock_turn_ns + ahead_ns) < kept->wanted;
}

static void back_off(kept_t *kept)
{
    int64_t jitter = (int64_t)(weir_worker_random(kept->warm->worker) % (uint64_t)(kept->backoff_ns / 4));
    kept->not_before_ns = weir_clock_turn_ns + kept->backoff_ns + jitter;
    kept->backoff_ns = kept->backoff_ns * 2 < BACKOFF_NS_MAX ? kept->backoff_ns * 2 : BACKOFF_NS_MAX;
}

static void fill(kept_t *kept);

static void on_dialled(void *argument, const weir_dialled_t *dialled)
{
    kept_t *kept = argument;
    weir_upstream_t *upstream = upstream_of(kept);
    weir_worker_t *worker = kept->warm->worker;
    kept->dial = NULL;
    if (dialled->sock == NULL) {
        weir_upstream_give_permit_back(upstream, worker);
        weir_log_event(WEIR_LOG_DEBUG, "upstream %s: a connection could not be opened ahead: %s",
                       weir_upstream_name(upstream),
                       dialled->detail != NULL ? dialled->detail : weir_reason_word(dialled->reason));
        back_off(kept);
        return;
    }
    kept->backoff_ns = BACKOFF_NS_MIN;
    weir_upconn_park(weir_upconn_create(upstream, worker, dialled->sock, dialled->address), 0);
    fill(kept);
}

static void fill(kept_t *kept)
{
    struct weir_warm *warm = kept->warm;
    if (kept->dial != NULL || kept->left == 0 || weir_clock_turn_ns < kept->not_before_ns || !is_short(kept) ||
        !weir_upstream_take_permit(upstream_of(kept)))
        return;
    --kept->left;
    kept->dial = weir_dial_create(warm->worker, warm->snapshot, kept->upstream, on_dialled, kept);
    weir_dial_begin(kept->dial);
}

static void on_look(h2o_timeout_entry_t *entry)
{
    struct weir_warm *warm = H2O_STRUCT_FROM_MEMBER(struct weir_warm, look, entry);
    if (warm->worker->draining)
        return;
    for (size_t i = 0; i < warm->size; ++i) {
        warm->entries[i].left = warm->entries[i].wanted;
        fill(&warm->entries[i]);
    }
    weir_timer_start(warm->worker, &warm->look, LOOK_NS);
}

void weir_warm_start(weir_worker_t *worker)
{
    weir_snapshot_t *snapshot = worker->snapshot;
    size_t count = snapshot->conf->upstreams.size, size = sizeof(struct weir_warm) + count * sizeof(kept_t);
    if (worker->is_control || worker->draining)
        return;
    struct weir_warm *warm = h2o_mem_alloc(size);
    memset(warm, 0, size);
    warm->worker = worker;
    warm->snapshot = snapshot;
    for (size_t i = 0; i < count; ++i) {
        size_t wanted = share_of(&snapshot->conf->upstreams.entries[i], worker);
        if (wanted != 0)
            warm->entries[warm->size++] =
                (kept_t){.warm = warm, .upstream = i, .wanted = wanted, .backoff_ns = BACKOFF_NS_MIN};
    }
    if (warm->size == 0) {
        free(warm);
        return;
    }
    worker->warm = warm;
    warm->look.cb = on_look;
    weir_timer_start(worker, &warm->look, 0);
}

void weir_warm_stop(weir_worker_t *worker)
{
    struct weir_warm *warm = worker->warm;
    if (warm == NULL)
        return;
    worker->warm = NULL;
    weir_timer_stop(&warm->look);
    for (size_t i = 0; i < warm->size; ++i) {
        if (warm->entries[i].dial == NULL)
            continue;
        weir_dial_cancel(warm->entries[i].dial);
        weir_upstream_give_permit_back(upstream_of(&warm->entries[i]), worker);
    }
    free(warm);
}
