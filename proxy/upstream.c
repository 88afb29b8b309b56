#include "upstream.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "health.h"
#include "sock_io.h"
#include "warm.h"

enum { AVOIDED_MAX = 4 };

static const int64_t AVOIDED_NS = 10 * INT64_C(1000000000);

/* Parked connections of one worker. Others only read `size`. */
typedef struct {
    h2o_linklist_t parked; /* the one parked last is first */
    _Atomic size_t size;
    struct {
        uint64_t address;
        int64_t until_ns;
    } avoided[AVOIDED_MAX]; /* the one that failed last is first */
} pool_t;

enum { OUTCOME_OK, OUTCOME_4XX, OUTCOME_5XX, OUTCOME_REASONS };

struct weir_upstream {
    char *name, *url;
    weir_health_t *health;
    weir_server_t *server;
    _Atomic size_t references;
    _Atomic size_t open, open_max, idle_max;
    _Atomic int64_t idle_timeout_ns;
    pthread_mutex_t lock;   /* of waits */
    h2o_linklist_t waits;   /* oldest first; any worker's */
    _Atomic size_t waiting;
    weir_series_t outcomes[OUTCOME_REASONS + WEIR_REASON_COUNT];
    weir_series_t first_byte, duration, idle_gauge, active_gauge;
    size_t pool_count;
    pool_t pools[];
};

/* A place in the queue for a permit. WAITING: in the list. GRANTED: out of it, a message to its worker is on its way,
 * which may bring a connection. LEFT: granted, but nobody is there to take it any more. */
struct weir_permit_wait {
    h2o_linklist_t link;
    weir_upstream_t *upstream;
    weir_worker_t *worker;
    enum { WAITING, GRANTED, LEFT } state;
    weir_upconn_t *conn; /* with a permit of its own, and `moved` for its socket; NULL: a permit */
    weir_sock_moved_t moved;
    void (*granted)(void *argument, weir_upconn_t *conn);
    void *argument;
};

static void on_parked_readable(h2o_socket_t *sock, const char *err);

/* --- the upstream --- */

static void take_numbers(weir_upstream_t *upstream, const weir_conf_upstream_t *conf)
{
    atomic_store(&upstream->open_max, (size_t)conf->connections.max);
    atomic_store(&upstream->idle_max, (size_t)conf->connections.idle);
    atomic_store(&upstream->idle_timeout_ns, conf->connections.idle_timeout_ns);
}

static weir_upstream_t *find_running(weir_server_t *server, const weir_conf_upstream_t *conf)
{
    weir_snapshot_t *snapshot = server->snapshot;
    for (size_t i = 0; snapshot != NULL && i < snapshot->conf->upstreams.size; ++i) {
        weir_upstream_t *upstream = snapshot->upstreams[i];
        if (strcmp(upstream->name, conf->name) == 0 && strcmp(upstream->url, conf->url.text) == 0)
            return upstream;
    }
    return NULL;
}

static weir_upstream_t *create(weir_server_t *server, const weir_conf_upstream_t *conf)
{
    size_t pool_count = server->worker_count + 1;
    weir_upstream_t *upstream = h2o_mem_alloc(sizeof(*upstream) + sizeof(pool_t) * pool_count);
    memset(upstream, 0, sizeof(*upstream) + sizeof(pool_t) * pool_count);
    upstream->name = h2o_strdup(NULL, conf->name, SIZE_MAX).base;
    upstream->url = h2o_strdup(NULL, conf->url.text, SIZE_MAX).base;
    upstream->health = weir_health_create(conf->name);
    upstream->server = server;
    upstream->pool_count = pool_count;
    pthread_mutex_init(&upstream->lock, NULL);
    h2o_linklist_init_anchor(&upstream->waits);
    for (size_t i = 0; i < pool_count; ++i)
        h2o_linklist_init_anchor(&upstream->pools[i].parked);
    const char *name = upstream->name;
    weir_metrics_series(server->metrics, &upstream->first_byte, WEIR_METRIC_UPSTREAM_FIRST_BYTE, (const char *[]){name});
    weir_metrics_series(server->metrics, &upstream->duration, WEIR_METRIC_UPSTREAM_DURATION, (const char *[]){name});
    weir_metrics_series(server->metrics, &upstream->idle_gauge, WEIR_METRIC_UPSTREAM_CONNECTIONS,
                        (const char *[]){name, "idle"});
    weir_metrics_series(server->metrics, &upstream->active_gauge, WEIR_METRIC_UPSTREAM_CONNECTIONS,
                        (const char *[]){name, "active"});
    return upstream;
}

weir_upstream_t *weir_upstream_acquire(weir_server_t *server, const weir_conf_upstream_t *conf)
{
    weir_upstream_t *upstream = find_running(server, conf);
    if (upstream == NULL)
        upstream = create(server, conf);
    atomic_fetch_add(&upstream->references, 1);
    take_numbers(upstream, conf);
    return upstream;
}

void weir_upstream_release(weir_upstream_t *upstream)
{
    if (atomic_fetch_sub(&upstream->references, 1) != 1)
        return;
    pthread_mutex_destroy(&upstream->lock);
    weir_health_destroy(upstream->health);
    free(upstream->name);
    free(upstream->url);
    free(upstream);
}

weir_health_t *weir_upstream_health(const weir_upstream_t *upstream)
{
    return upstream->health;
}

const char *weir_upstream_name(const weir_upstream_t *upstream)
{
    return upstream->name;
}

size_t weir_upstream_idle(const weir_upstream_t *upstream)
{
    size_t idle = 0;
    for (size_t i = 0; i < upstream->pool_count; ++i)
        idle += atomic_load_explicit(&upstream->pools[i].size, memory_order_relaxed);
    return idle;
}

size_t weir_upstream_active(const weir_upstream_t *upstream)
{
    size_t open = atomic_load(&upstream->open), idle = weir_upstream_idle(upstream);
    return open > idle ? open - idle : 0;
}

static size_t outcome_of(int status, weir_reason_t reason)
{
    if (reason != WEIR_REASON_NONE)
        return OUTCOME_REASONS + reason;
    return status >= 500 ? OUTCOME_5XX : status >= 400 ? OUTCOME_4XX : OUTCOME_OK;
}

void weir_upstream_count(weir_upstream_t *upstream, weir_worker_t *worker, int status, weir_reason_t reason)
{
    static const char *const words[OUTCOME_REASONS] = {"ok", "4xx", "5xx"};
    size_t outcome = outcome_of(status, reason);
    uint32_t slot = atomic_load_explicit(&upstream->outcomes[outcome], memory_order_relaxed);
    if (slot == 0) {
        const char *word = outcome < OUTCOME_REASONS ? words[outcome] : weir_reason_word(reason);
        slot = weir_metrics_series(worker->server->metrics, &upstream->outcomes[outcome], WEIR_METRIC_UPSTREAM_REQUESTS,
                                   (const char *[]){upstream->name, word});
    }
    weir_metrics_add(worker->metrics, slot, 1);
}

void weir_upstream_observe(weir_upstream_t *upstream, weir_worker_t *worker, int64_t first_byte_ns, int64_t duration_ns)
{
    if (first_byte_ns >= 0)
        weir_metrics_observe(worker->metrics, upstream->first_byte, first_byte_ns);
    weir_metrics_observe(worker->metrics, upstream->duration, duration_ns);
}

/* --- permits --- */

/* `open` is never more than was given out, not even for a moment: others would see no room where there is some. */
static bool try_permit(weir_upstream_t *upstream)
{
    size_t open = atomic_load(&upstream->open);
    while (open < atomic_load_explicit(&upstream->open_max, memory_order_relaxed))
        if (atomic_compare_exchange_weak(&upstream->open, &open, open + 1))
            return true;
    return false;
}

static void arrive(weir_worker_t *worker, weir_permit_wait_t *wait);
static void repark(weir_upconn_t *conn);

static void on_grant(weir_worker_t *worker, void *argument)
{
    weir_permit_wait_t *wait = argument;
    weir_upstream_t *upstream = wait->upstream;
    pthread_mutex_lock(&upstream->lock);
    bool left = wait->state == LEFT;
    pthread_mutex_unlock(&upstream->lock);
    if (wait->conn != NULL)
        arrive(worker, wait);
    if (!left)
        wait->granted(wait->argument, wait->conn);
    else if (wait->conn != NULL)
        repark(wait->conn);
    else
        weir_upstream_give_permit_back(upstream, worker);
    free(wait);
    weir_upstream_release(upstream);
}

/* The oldest; NULL: nobody waits. */
static weir_permit_wait_t *pop_wait(weir_upstream_t *upstream)
{
    weir_permit_wait_t *wait = NULL;
    pthread_mutex_lock(&upstream->lock);
    if (!h2o_linklist_is_empty(&upstream->waits)) {
        wait = H2O_STRUCT_FROM_MEMBER(weir_permit_wait_t, link, upstream->waits.next);
        h2o_linklist_unlink(&wait->link);
        wait->state = GRANTED;
        atomic_fetch_sub(&upstream->waiting, 1);
    }
    pthread_mutex_unlock(&upstream->lock);
    return wait;
}

bool weir_upstream_take_permit(weir_upstream_t *upstream)
{
    return atomic_load(&upstream->waiting) == 0 && try_permit(upstream);
}

/* A reload made the cap lower than what is open: what comes back is not given out again. */
static bool is_over(const weir_upstream_t *upstream)
{
    return atomic_load(&upstream->open) > atomic_load_explicit(&upstream->open_max, memory_order_relaxed);
}

void weir_upstream_give_permit_back(weir_upstream_t *upstream, weir_worker_t *worker)
{
    if (atomic_load(&upstream->waiting) != 0 && !is_over(upstream)) {
        weir_permit_wait_t *wait = pop_wait(upstream);
        if (wait != NULL) {
            weir_worker_post(wait->worker, on_grant, wait);
            return;
        }
    }
    atomic_fetch_sub(&upstream->open, 1);
    /* Who came to wait between the look and the subtraction saw no room: look once more. */
    if (atomic_load(&upstream->waiting) != 0 && try_permit(upstream))
        weir_upstream_give_permit_back(upstream, worker);
}

static void on_wanted(weir_worker_t *worker, void *argument);

/* A worker may hold parked connections that another one waits for: the one that has most is asked for its oldest. */
static void ask_for_parked(weir_upstream_t *upstream)
{
    size_t most = 0, holder = 0;
    for (size_t i = 0; i < upstream->server->worker_count; ++i) {
        size_t size = atomic_load(&upstream->pools[i].size);
        if (size > most) {
            most = size;
            holder = i;
        }
    }
    if (most == 0)
        return;
    atomic_fetch_add(&upstream->references, 1);
    weir_worker_post(upstream->server->workers[holder], on_wanted, upstream);
}

bool weir_upstream_ask_permit(weir_upstream_t *upstream, weir_worker_t *worker, weir_permit_wait_t **wait,
                              void (*granted)(void *argument, weir_upconn_t *conn), void *argument)
{
    if (weir_upstream_take_permit(upstream))
        return true;
    weir_permit_wait_t *place = h2o_mem_alloc(sizeof(*place));
    *place = (weir_permit_wait_t){
        .upstream = upstream, .worker = worker, .state = WAITING, .granted = granted, .argument = argument};
    atomic_fetch_add(&upstream->references, 1);
    pthread_mutex_lock(&upstream->lock);
    h2o_linklist_insert(&upstream->waits, &place->link);
    atomic_fetch_add(&upstream->waiting, 1);
    pthread_mutex_unlock(&upstream->lock);
    *wait = place;
    /* A permit given back since the first look found nobody waiting: then there is room now. */
    if (try_permit(upstream))
        weir_upstream_give_permit_back(upstream, worker);
    else
        ask_for_parked(upstream);
    return false;
}

void weir_upstream_stop_waiting(weir_permit_wait_t *wait)
{
    weir_upstream_t *upstream = wait->upstream;
    pthread_mutex_lock(&upstream->lock);
    bool granted = wait->state == GRANTED;
    if (granted) {
        wait->state = LEFT;
    } else {
        h2o_linklist_unlink(&wait->link);
        atomic_fetch_sub(&upstream->waiting, 1);
    }
    pthread_mutex_unlock(&upstream->lock);
    if (granted)
        return; /* on_grant frees it */
    free(wait);
    weir_upstream_release(upstream);
}

/* --- addresses that failed --- */

/* FNV-1a, http://www.isthe.com/chongo/tech/comp/fnv/ */
static uint64_t hash(uint64_t value, const void *bytes, size_t len)
{
    for (size_t i = 0; i < len; ++i)
        value = (value ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
    return value;
}

uint64_t weir_upstream_address(const struct sockaddr *address)
{
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    uint64_t value = UINT64_C(0xcbf29ce484222325);
    switch (address->sa_family) {
    case AF_INET:
        return hash(hash(value, &in->sin_port, sizeof(in->sin_port)), &in->sin_addr, sizeof(in->sin_addr));
    case AF_INET6:
        return hash(hash(value, &in6->sin6_port, sizeof(in6->sin6_port)), &in6->sin6_addr, sizeof(in6->sin6_addr));
    default:
        return value; /* an upstream has one unix socket at most */
    }
}

void weir_upstream_avoid(weir_upstream_t *upstream, weir_worker_t *worker, uint64_t address)
{
    pool_t *pool = &upstream->pools[worker->index];
    size_t i = 0;
    while (i < AVOIDED_MAX - 1 && pool->avoided[i].address != address)
        ++i;
    memmove(pool->avoided + 1, pool->avoided, i * sizeof(pool->avoided[0]));
    pool->avoided[0].address = address;
    pool->avoided[0].until_ns = weir_clock_turn_ns + AVOIDED_NS;
}

bool weir_upstream_avoids(const weir_upstream_t *upstream, const weir_worker_t *worker, uint64_t address)
{
    const pool_t *pool = &upstream->pools[worker->index];
    for (size_t i = 0; i < AVOIDED_MAX; ++i)
        if (pool->avoided[i].address == address)
            return weir_clock_turn_ns < pool->avoided[i].until_ns;
    return false;
}

/* --- connections --- */

weir_upconn_t *weir_upconn_create(weir_upstream_t *upstream, weir_worker_t *worker, h2o_socket_t *sock,
                                  uint64_t address)
{
    weir_upconn_t *conn = h2o_mem_alloc(sizeof(*conn));
    *conn = (weir_upconn_t){.sock = sock, .upstream = upstream, .worker = worker, .address = address};
    atomic_fetch_add(&upstream->references, 1);
    sock->data = conn;
    h2o_socket_dont_read(sock, 1);
    weir_metrics_add(worker->metrics, upstream->active_gauge, 1);
    return conn;
}

static void unpark(weir_upconn_t *conn)
{
    weir_upstream_t *upstream = conn->upstream;
    pool_t *pool = &upstream->pools[conn->worker->index];
    weir_timer_stop(&conn->timer);
    h2o_linklist_unlink(&conn->pool_link);
    h2o_linklist_unlink(&conn->worker_link);
    size_t size = atomic_load_explicit(&pool->size, memory_order_relaxed);
    atomic_store_explicit(&pool->size, size - 1, memory_order_relaxed);
    weir_metrics_add(conn->worker->metrics, upstream->idle_gauge, -1);
    weir_metrics_add(conn->worker->metrics, upstream->active_gauge, 1);
}

void weir_upconn_close(weir_upconn_t *conn)
{
    weir_upstream_t *upstream = conn->upstream;
    weir_worker_t *worker = conn->worker;
    if (h2o_linklist_is_linked(&conn->pool_link))
        unpark(conn);
    weir_metrics_add(worker->metrics, upstream->active_gauge, -1);
    weir_sock_close(conn->sock);
    free(conn);
    weir_upstream_give_permit_back(upstream, worker);
    weir_upstream_release(upstream);
}

weir_upconn_t *weir_upstream_take_parked(weir_upstream_t *upstream, weir_worker_t *worker,
                                         const weir_tls_context_t *context)
{
    pool_t *pool = &upstream->pools[worker->index];
    while (!h2o_linklist_is_empty(&pool->parked)) {
        weir_upconn_t *conn = H2O_STRUCT_FROM_MEMBER(weir_upconn_t, pool_link, pool->parked.next);
        if (weir_upconn_is_by(conn, context)) {
            unpark(conn);
            return conn;
        }
        weir_upconn_close(conn);
    }
    return NULL;
}

size_t weir_upstream_count_parked(const weir_upstream_t *upstream, const weir_worker_t *worker,
                                  const weir_tls_context_t *context, int64_t at_ns)
{
    const h2o_linklist_t *parked = &upstream->pools[worker->index].parked;
    size_t count = 0;
    for (const h2o_linklist_t *node = parked->next; node != parked; node = node->next) {
        const weir_upconn_t *conn = H2O_STRUCT_FROM_MEMBER(weir_upconn_t, pool_link, node);
        count += conn->parked_until_ns > at_ns && weir_upconn_is_by(conn, context);
    }
    return count;
}

bool weir_upconn_is_by(const weir_upconn_t *conn, const weir_tls_context_t *context)
{
    const weir_tls_t *tls = weir_tls_of(conn->sock);
    return tls == NULL ? context == NULL : weir_tls_is_by(tls, context);
}

bool weir_upconn_is_open(const weir_upconn_t *conn)
{
    return weir_sock_is_quiet(conn->sock);
}

/* It closed, or it talks without being asked: either way it is not to be used again. But TLS has its own to say. */
static void on_parked_readable(h2o_socket_t *sock, const char *err)
{
    weir_upconn_t *conn = sock->data;
    if (!weir_upconn_is_open(conn))
        weir_upconn_close(conn);
}

static void on_parked_long(h2o_timeout_entry_t *entry)
{
    weir_upconn_close(H2O_STRUCT_FROM_MEMBER(weir_upconn_t, timer, entry));
}

/* --- from one call to the next --- */

/* Off to the wait's worker, that will `arrive` it. */
static void send_off(weir_upconn_t *conn, weir_permit_wait_t *wait)
{
    weir_metrics_add(conn->worker->metrics, conn->upstream->active_gauge, -1);
    weir_sock_leave(conn->sock, &wait->moved);
    conn->sock = NULL;
    wait->conn = conn;
    weir_worker_post(wait->worker, on_grant, wait);
}

static void arrive(weir_worker_t *worker, weir_permit_wait_t *wait)
{
    weir_upconn_t *conn = wait->conn;
    conn->worker = worker;
    conn->sock = weir_sock_arrive(worker->ctx.loop, worker->index, &wait->moved);
    conn->sock->data = conn;
    weir_metrics_add(worker->metrics, conn->upstream->active_gauge, 1);
}

/* The oldest wait goes on with the connection; false: there is none. */
static bool hand_over(weir_upconn_t *conn)
{
    weir_upstream_t *upstream = conn->upstream;
    weir_permit_wait_t *wait = atomic_load(&upstream->waiting) != 0 && !is_over(upstream) ? pop_wait(upstream) : NULL;
    if (wait == NULL)
        return false;
    if (wait->worker != conn->worker) {
        send_off(conn, wait);
        return true;
    }
    wait->granted(wait->argument, conn);
    free(wait);
    weir_upstream_release(upstream);
    return true;
}

/* None is left where two asked for one, or one more must be closed: then another worker may still have some. */
static void on_wanted(weir_worker_t *worker, void *argument)
{
    weir_upstream_t *upstream = argument;
    h2o_linklist_t *parked = &upstream->pools[worker->index].parked;
    if (atomic_load(&upstream->waiting) != 0 && !h2o_linklist_is_empty(parked)) {
        weir_upconn_t *oldest = H2O_STRUCT_FROM_MEMBER(weir_upconn_t, pool_link, parked->prev);
        if (weir_upconn_is_open(oldest)) {
            unpark(oldest);
            repark(oldest);
        } else {
            weir_upconn_close(oldest);
        }
    }
    if (atomic_load(&upstream->waiting) != 0)
        ask_for_parked(upstream);
    weir_upstream_release(upstream);
}

/* --- parking --- */

bool weir_upstream_has_room(const weir_upstream_t *upstream)
{
    return weir_upstream_idle(upstream) < atomic_load_explicit(&upstream->idle_max, memory_order_relaxed);
}

static void put_into_pool(weir_upconn_t *conn)
{
    weir_upstream_t *upstream = conn->upstream;
    weir_worker_t *worker = conn->worker;
    pool_t *pool = &upstream->pools[worker->index];
    h2o_linklist_insert(pool->parked.next, &conn->pool_link);
    h2o_linklist_insert(&worker->parked, &conn->worker_link);
    atomic_store(&pool->size, atomic_load_explicit(&pool->size, memory_order_relaxed) + 1);
    weir_metrics_add(worker->metrics, upstream->idle_gauge, 1);
    weir_metrics_add(worker->metrics, upstream->active_gauge, -1);
    conn->timer.cb = on_parked_long;
    weir_timer_start(worker, &conn->timer, conn->parked_until_ns - weir_clock_turn_ns);
    h2o_socket_read_start(conn->sock, on_parked_readable);
    if (atomic_load(&upstream->waiting) != 0) /* who came to wait since the first look did not see it here */
        ask_for_parked(upstream);
}

/* For the one who waits, else for the next call. But TLS may still be writing something of its own. */
static void repark(weir_upconn_t *conn)
{
    const weir_upstream_t *upstream = conn->upstream;
    bool is_busy = h2o_socket_is_writing(conn->sock);
    if (!is_busy && hand_over(conn))
        return;
    if (is_busy || conn->worker->draining || is_over(upstream) || !weir_upstream_has_room(upstream) ||
        conn->parked_until_ns <= weir_clock_turn_ns)
        weir_upconn_close(conn);
    else
        put_into_pool(conn);
}

void weir_upconn_park(weir_upconn_t *conn, int64_t idle_ns)
{
    int64_t timeout_ns = atomic_load_explicit(&conn->upstream->idle_timeout_ns, memory_order_relaxed);
    if (idle_ns == 0 || idle_ns > timeout_ns)
        idle_ns = timeout_ns;
    conn->attempt = NULL;
    ++conn->served;
    conn->parked_ns = weir_clock_turn_ns;
    conn->parked_until_ns = conn->parked_ns + idle_ns;
    repark(conn);
}

void weir_upstream_close_parked(weir_worker_t *worker)
{
    weir_warm_stop(worker);
    while (!h2o_linklist_is_empty(&worker->parked))
        weir_upconn_close(H2O_STRUCT_FROM_MEMBER(weir_upconn_t, worker_link, worker->parked.next));
}
