#include "redis.h"

#include <assert.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "../exchange.h"
#include "../ticket.h"
#include "../tls.h"
#include "side.h"

enum { REPLY_BYTES = 16 * 1024 * 1024 }; /* beside what is in an answer: its head, or a cluster's many slots */
static const int64_t TICK_NS = INT64_C(100000000), SECOND_NS = INT64_C(1000000000);
static const int64_t BACK_FOR_NS = SECOND_NS; /* all were up for so long: it is told */

/* STARTING --> UP --> DOWN --> BACK --> UP: DOWN is told at once, BACK is not told, UP once it has lasted. */
typedef enum { STARTING, UP, DOWN, BACK } phase_t;

struct weir_redis {
    weir_remote_t remote; /* first */
    weir_server_t *server;
    const weir_conf_store_redis_t *conf;
    const weir_redis_way_t *way;
    weir_tls_context_t *tls; /* NULL: plain */
    char sha1[WEIR_SCRIPTS][WEIR_REDIS_SHA1_HEX + 1];
    /* Of the workers; control does not count: no request waits for it. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t whole;      /* sides */
    _Atomic int phase; /* phase_t; written under the lock */
    _Atomic size_t reply_max;
    int64_t down_ns, back_ns, since_ns;
    char address[WEIR_REDIS_ADDRESS_MAX], why[200];
    weir_redis_side_t sides[]; /* by worker, control is the last */
};

static __thread weir_redis_side_t *here; /* this thread's */

/* --- whether it is asked, as the sidecar sees it --- */

static void tell_down(weir_redis_t *redis, const char *why)
{
    redis->down_ns = weir_clock_now_ns();
    redis->phase = DOWN;
    weir_log_event(
        WEIR_LOG_WARN,
        "store: redis at %s is not asked: %s; until it is, limits and dedup keys are decided by their on_failure",
        redis->address, why);
}

static void tell_back(weir_redis_t *redis)
{
    redis->phase = UP;
    weir_log_event(WEIR_LOG_INFO, "store: redis at %s is asked again, after %.1f s", redis->address,
                   (double)(redis->back_ns - redis->down_ns) / 1e9);
}

static void all_up(weir_redis_t *redis)
{
    redis->why[0] = '\0';
    redis->since_ns = redis->back_ns = weir_clock_now_ns();
    if (redis->phase == STARTING)
        redis->phase = UP;
    else if (redis->phase == DOWN)
        redis->phase = BACK;
}

static void one_down(weir_redis_t *redis, const char *why)
{
    snprintf(redis->why, sizeof(redis->why), "%s", why);
    if (redis->phase == STARTING || redis->phase == UP)
        tell_down(redis, why);
    redis->phase = DOWN;
}

static bool counts(const weir_redis_side_t *side)
{
    return !side->worker->is_control && !side->is_closing;
}

/* What a person is told: of whom it is, where that is not plain. */
static void describe(const weir_redis_node_t *node, const char *why, char into[200])
{
    if (node->kind == WEIR_REDIS_NODE_SENTINEL)
        snprintf(into, 200, "Sentinel at %.100s: %s", weir_redis_node_address(node), why);
    else
        snprintf(into, 200, "%s", why);
}

void weir_redis_side_look(weir_redis_side_t *side, const weir_redis_node_t *node, const char *why)
{
    weir_redis_t *redis = side->redis;
    char described[200];
    bool is_whole = redis->way->is_whole(side->way), was_whole = side->is_whole;
    side->is_whole = is_whole;
    if (!counts(side) || (is_whole && was_whole) || (!is_whole && *why == '\0'))
        return;
    describe(node, why, described);
    pthread_mutex_lock(&redis->lock);
    if (node->kind != WEIR_REDIS_NODE_SENTINEL)
        snprintf(redis->address, sizeof(redis->address), "%s", weir_redis_node_address(node));
    if (is_whole && ++redis->whole == redis->server->worker_count)
        all_up(redis);
    if (was_whole && redis->whole-- == redis->server->worker_count)
        redis->since_ns = weir_clock_now_ns();
    if (!is_whole)
        one_down(redis, described);
    pthread_cond_broadcast(&redis->changed);
    pthread_mutex_unlock(&redis->lock);
}

static void tell_if_back(weir_redis_t *redis)
{
    if (atomic_load_explicit(&redis->phase, memory_order_relaxed) != BACK)
        return;
    pthread_mutex_lock(&redis->lock);
    if (redis->phase == BACK && weir_clock_now_ns() - redis->back_ns >= BACK_FOR_NS)
        tell_back(redis);
    pthread_mutex_unlock(&redis->lock);
}

static struct timespec monotonic_in(int64_t ns)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    ns += at.tv_sec * SECOND_NS + at.tv_nsec;
    return (struct timespec){.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS};
}

void weir_redis_wait(weir_redis_t *redis, int64_t ns)
{
    if (redis == NULL)
        return;
    struct timespec until = monotonic_in(ns);
    int timed_out = 0;
    pthread_mutex_lock(&redis->lock);
    while (redis->whole != redis->server->worker_count && timed_out == 0)
        timed_out = pthread_cond_timedwait(&redis->changed, &redis->lock, &until);
    if (redis->whole != redis->server->worker_count && redis->phase == STARTING)
        one_down(redis, "it has not answered yet");
    pthread_mutex_unlock(&redis->lock);
}

weir_redis_state_t weir_redis_state(weir_redis_t *redis)
{
    weir_redis_state_t state = {.mode = redis->way->name, .sidecars = atomic_load(&redis->remote.sidecars)};
    pthread_mutex_lock(&redis->lock);
    state.is_up = redis->whole == redis->server->worker_count;
    state.is_degraded = !state.is_up;
    state.since_ns = redis->since_ns;
    memcpy(state.address, redis->address, sizeof(state.address));
    memcpy(state.why, redis->why, sizeof(state.why));
    pthread_mutex_unlock(&redis->lock);
    for (size_t i = 0; i < redis->remote.workers; ++i) {
        state.ok += atomic_load_explicit(&redis->sides[i].ok, memory_order_relaxed);
        state.timeout += atomic_load_explicit(&redis->sides[i].timeout, memory_order_relaxed);
        state.error += atomic_load_explicit(&redis->sides[i].error, memory_order_relaxed);
    }
    return state;
}

/* --- the port --- */

static bool is_up(weir_remote_t *remote)
{
    weir_redis_side_t *side = here;
    return side != NULL && !side->is_closing && side->redis->way->is_up(side->way);
}

static bool ask(weir_remote_t *remote, const weir_remote_ask_t *ask)
{
    weir_redis_side_t *side = here;
    if (side == NULL || side->is_closing)
        return false;
    uint16_t slot = remote->one_slot && ask->key_count != 0 ? weir_redis_slot(ask->keys[0].base, ask->keys[0].len) : 0;
    weir_redis_node_t *node = side->redis->way->route(side->way, slot);
    if (node == NULL || !weir_redis_node_is_in_time(node, ask->timeout_ns))
        return false;
    weir_redis_call_begin(node, side->redis->sha1[ask->script], ask, slot);
    return true;
}

static void wake(weir_remote_t *remote, weir_ticket_t ticket)
{
    void *exchange = weir_ticket_owner(here->worker, ticket);
    if (exchange != NULL)
        weir_exchange_wake(exchange);
}

static size_t worker_index(weir_remote_t *remote)
{
    return here->worker->index;
}

/* --- a worker's side --- */

const weir_redis_way_t *weir_redis_way_of(const weir_redis_side_t *side)
{
    return side->redis->way;
}

const _Atomic size_t *weir_redis_side_reply_max(const weir_redis_side_t *side)
{
    return &side->redis->reply_max;
}

struct weir_tls_context *weir_redis_side_tls(weir_redis_side_t *side, const char *address)
{
    weir_redis_t *redis = side->redis;
    char host[WEIR_REDIS_ADDRESS_MAX];
    if (redis->tls == NULL)
        return NULL;
    weir_redis_host_of(address, host);
    return weir_tls_context_toward(redis->tls, host);
}

/* It never shrinks: who asked for the larger ones still waits for them. */
void weir_redis_expect(weir_redis_t *redis, const weir_conf_t *conf)
{
    for (size_t i = 0; redis != NULL && i < conf->dedup.size; ++i) {
        size_t bytes = (size_t)conf->dedup.entries[i].max_response_bytes + REPLY_BYTES;
        if (bytes > redis->reply_max)
            redis->reply_max = bytes;
    }
}

static void on_tick(h2o_timeout_entry_t *entry)
{
    weir_redis_side_t *side = H2O_STRUCT_FROM_MEMBER(weir_redis_side_t, tick, entry);
    weir_remote_t *remote = &side->redis->remote;
    side->is_dirty = side->ticked = true;
    tell_if_back(side->redis);
    if (remote->on_tick != NULL)
        remote->on_tick(remote->tick_context, side->worker->index, weir_clock_turn_ns);
    weir_timer_start(side->worker, entry, TICK_NS);
}

void weir_redis_open(weir_redis_t *redis, weir_worker_t *worker)
{
    if (redis == NULL)
        return;
    weir_redis_side_t *side = here = &redis->sides[worker->index];
    side->worker = worker;
    side->way = redis->way->open(side);
    side->tick.cb = on_tick;
    weir_timer_start(worker, &side->tick, TICK_NS);
}

static void flush_node(weir_redis_node_t *node, bool ticked)
{
    if (ticked)
        weir_redis_node_tick(node);
    if (node->is_refused) {
        node->is_refused = false;
        weir_redis_link_reconnect(node->link, node->why);
    }
    weir_redis_link_flush(node->link);
}

/* What is told to be lost in here may ask others again. */
void weir_redis_flush(weir_redis_t *redis, weir_worker_t *worker)
{
    weir_redis_side_t *side = here;
    if (redis == NULL || side == NULL)
        return;
    while (side->is_dirty) {
        bool ticked = side->ticked;
        side->is_dirty = false;
        if (ticked && redis->way->on_tick != NULL)
            redis->way->on_tick(side->way);
        side->ticked = false;
        for (weir_redis_node_t *node = side->nodes, *next; node != NULL; node = next) {
            next = node->next;
            flush_node(node, ticked);
        }
    }
}

bool weir_redis_is_busy(weir_redis_t *redis, weir_worker_t *worker)
{
    return redis != NULL && (here->in_flight != 0 || redis->remote.owed(redis->remote.tick_context, worker->index) != 0);
}

void weir_redis_close(weir_redis_t *redis, weir_worker_t *worker)
{
    if (redis == NULL)
        return;
    weir_redis_side_t *side = here;
    side->is_closing = true;
    weir_timer_stop(&side->tick);
    if (redis->way->end_calls != NULL)
        redis->way->end_calls(side->way);
    while (side->nodes != NULL)
        weir_redis_node_destroy(side->nodes);
    redis->way->close(side->way);
    assert(side->in_flight == 0);
    here = NULL;
}

/* --- life --- */

static void take_sha1(const weir_script_text_t *script, char hex[WEIR_REDIS_SHA1_HEX + 1])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int len;
    if (!EVP_Digest(script->text, script->len, digest, &len, EVP_sha1(), NULL))
        h2o_fatal("SHA-1");
    for (unsigned int i = 0; i < len; ++i)
        sprintf(hex + 2 * i, "%02x", digest[i]);
}

static const weir_redis_way_t *way_for(weir_conf_redis_mode_t mode)
{
    switch (mode) {
    case WEIR_REDIS_SINGLE:
        return &weir_redis_single;
    case WEIR_REDIS_SENTINEL:
        return &weir_redis_sentinel;
    case WEIR_REDIS_CLUSTER:
        return &weir_redis_cluster;
    }
    return NULL;
}

static void init_remote(weir_redis_t *redis, size_t workers)
{
    weir_remote_t *remote = &redis->remote;
    remote->is_up = is_up;
    remote->ask = ask;
    remote->wake = wake;
    remote->worker = worker_index;
    remote->workers = workers;
    remote->one_slot = redis->conf->mode == WEIR_REDIS_CLUSTER;
    remote->sidecars = 1;
    while (remote->sidecar == 0)
        if (getrandom(&remote->sidecar, sizeof(remote->sidecar), 0) != sizeof(remote->sidecar))
            h2o_fatal("getrandom");
}

static void init_lock(weir_redis_t *redis)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&redis->lock, NULL);
    pthread_cond_init(&redis->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

weir_redis_t *weir_redis_create(weir_server_t *server, const weir_conf_store_redis_t *conf, char **errors)
{
    size_t workers = server->worker_count + 1;
    weir_redis_t *redis = h2o_mem_alloc(sizeof(*redis) + workers * sizeof(redis->sides[0]));
    memset(redis, 0, sizeof(*redis) + workers * sizeof(redis->sides[0]));
    redis->server = server;
    redis->conf = conf;
    redis->reply_max = REPLY_BYTES;
    redis->way = way_for(conf->mode);
    redis->since_ns = weir_clock_now_ns();
    snprintf(redis->address, sizeof(redis->address), "%s", conf->addresses.entries[0]);
    init_remote(redis, workers);
    init_lock(redis);
    for (size_t i = 0; i < WEIR_SCRIPTS; ++i)
        take_sha1(&weir_script_texts[i], redis->sha1[i]);
    for (size_t i = 0; i < workers; ++i) {
        redis->sides[i].redis = redis;
        redis->sides[i].conf = conf;
    }
    if (!conf->tls.enabled || (redis->tls = weir_tls_context_of_redis(conf, workers, errors)) != NULL)
        return redis;
    weir_redis_destroy(redis);
    return NULL;
}

void weir_redis_destroy(weir_redis_t *redis)
{
    if (redis == NULL)
        return;
    if (redis->tls != NULL)
        weir_tls_context_release(redis->tls);
    pthread_cond_destroy(&redis->changed);
    pthread_mutex_destroy(&redis->lock);
    free(redis);
}

weir_remote_t *weir_redis_remote(weir_redis_t *redis)
{
    return &redis->remote;
}
