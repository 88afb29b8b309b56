#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include "departures.h"
#include "h1.h"
#include "redis/redis.h"
#include "ticket.h"
#include "upstream.h"

enum {
    /* Durations with a list of their own. More come only from jitter, and are led to idle lists. */
    TIMER_LISTS_MAX = 64,
    SOCKET_BUFFER_BYTES = 4096, /* the library's own first size doubles what an answer of 4 KiB holds */
    REQUESTS_KEPT = 64,
};

/* --- timers --- */

static uint64_t whole_ms(int64_t ns)
{
    if (ns <= 1000000)
        return 1;
    return (uint64_t)(ns / 1000000 + (ns % 1000000 != 0));
}

/* Rounded up to four significant bits: eight values an octave, at most 1/8 late. */
static uint64_t coarse_ms(uint64_t ms)
{
    unsigned shift = 0;
    while (ms >> shift >= 16)
        ++shift;
    uint64_t mask = ((uint64_t)1 << shift) - 1;
    return (ms + mask) & ~mask;
}

/* The list of that duration; else, in *idle, one that has no timer now. */
static weir_timer_list_t *find_list(weir_worker_t *worker, uint64_t ms, weir_timer_list_t **idle)
{
    for (weir_timer_list_t *list = worker->timers; list != NULL; list = list->next) {
        if (list->timeout.timeout == ms)
            return list;
        if (h2o_linklist_is_empty(&list->timeout._entries))
            *idle = list;
    }
    return NULL;
}

static weir_timer_list_t *add_list(weir_worker_t *worker, uint64_t ms)
{
    weir_timer_list_t *list = h2o_mem_alloc(sizeof(*list));
    h2o_timeout_init(worker->ctx.loop, &list->timeout, ms);
    list->next = worker->timers;
    worker->timers = list;
    ++worker->timer_list_count;
    return list;
}

/* Few lists, as the loop looks at each of them in every turn. */
static weir_timer_list_t *list_for(weir_worker_t *worker, uint64_t ms)
{
    weir_timer_list_t *idle = NULL, *list = find_list(worker, ms, &idle);
    if (list != NULL)
        return list;
    if (worker->timer_list_count < TIMER_LISTS_MAX)
        return add_list(worker, ms);
    if (idle == NULL) {
        ms = coarse_ms(ms);
        list = find_list(worker, ms, &idle);
        return list != NULL ? list : add_list(worker, ms);
    }
    idle->timeout.timeout = ms;
    return idle;
}

void weir_timer_start(weir_worker_t *worker, h2o_timeout_entry_t *entry, int64_t ns)
{
    h2o_timeout_unlink(entry);
    h2o_timeout_link(worker->ctx.loop, &list_for(worker, whole_ms(ns))->timeout, entry);
}

static void free_lists(weir_worker_t *worker)
{
    weir_timer_list_t *next;
    for (weir_timer_list_t *list = worker->timers; list != NULL; list = next) {
        next = list->next;
        while (!h2o_linklist_is_empty(&list->timeout._entries)) /* what still waits now waits for nothing */
            h2o_linklist_unlink(list->timeout._entries.next);
        h2o_timeout_dispose(worker->ctx.loop, &list->timeout);
        free(list);
    }
    worker->timers = NULL;
}

/* --- messages --- */

typedef struct {
    h2o_multithread_message_t super;
    void (*run)(weir_worker_t *worker, void *argument);
    void *argument;
} message_t;

static void on_messages(h2o_multithread_receiver_t *receiver, h2o_linklist_t *messages)
{
    weir_worker_t *worker = H2O_STRUCT_FROM_MEMBER(weir_worker_t, messages, receiver);
    while (!h2o_linklist_is_empty(messages)) {
        message_t *message = H2O_STRUCT_FROM_MEMBER(message_t, super.link, messages->next);
        h2o_linklist_unlink(&message->super.link);
        message->run(worker, message->argument);
        free(message);
    }
}

void weir_worker_post(weir_worker_t *worker, void (*run)(weir_worker_t *worker, void *argument), void *argument)
{
    message_t *message = h2o_mem_alloc(sizeof(*message));
    *message = (message_t){.run = run, .argument = argument};
    h2o_multithread_send_message(&worker->messages, &message->super);
}

/* --- chance --- */

static uint64_t rotate_left(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

/* xoshiro256** 1.0, Blackman and Vigna, "Scrambled linear pseudorandom number generators". */
uint64_t weir_worker_random(weir_worker_t *worker)
{
    uint64_t *s = worker->random, result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* --- life --- */

weir_worker_t *weir_worker_create(weir_server_t *server, h2o_globalconf_t *config, size_t index, bool is_control)
{
    weir_worker_t *worker = h2o_mem_alloc(sizeof(*worker));
    memset(worker, 0, sizeof(*worker));
    worker->server = server;
    worker->config = config;
    worker->index = index;
    worker->is_control = is_control;
    worker->metrics = weir_metrics_worker(server->metrics, index);
    worker->log = weir_log_worker(server->log, index);
    worker->tickets = weir_tickets_create();
    h2o_linklist_init_anchor(&worker->connections);
    h2o_linklist_init_anchor(&worker->parked);
    if (getrandom(worker->random, sizeof(worker->random), 0) != sizeof(worker->random))
        h2o_fatal("getrandom");
    return worker;
}

void weir_worker_open(weir_worker_t *worker)
{
    h2o_socket_buffer_prototype._initial_buf.capacity = SOCKET_BUFFER_BYTES;
    h2o_context_init(&worker->ctx, h2o_evloop_create(), worker->config);
    h2o_multithread_register_receiver(worker->ctx.queue, &worker->messages, on_messages);
    worker->recycle.request.max = worker->recycle.exchange.max = REQUESTS_KEPT;
    worker->recycle.call.max = worker->recycle.attempt.max = worker->recycle.body.max = REQUESTS_KEPT;
    worker->head_fields = h2o_mem_alloc(sizeof(*worker->head_fields) * WEIR_HEAD_FIELDS_MAX);
    worker->head_names = h2o_mem_alloc(sizeof(*worker->head_names) * WEIR_HEAD_FIELDS_MAX);
    worker->scratch = h2o_mem_alloc(WEIR_SCRATCH_BYTES);
    worker->scratch_names = h2o_mem_alloc(WEIR_NAMES_BYTES);
    worker->departures = weir_departures_create(worker);
    weir_redis_open(worker->server->redis, worker);
}

static void tell_load(weir_worker_t *worker)
{
    size_t in_flight = worker->exchange_count;
    atomic_store_explicit(&worker->in_flight, in_flight, memory_order_relaxed);
    if (in_flight > atomic_load_explicit(&worker->in_flight_peak, memory_order_relaxed))
        atomic_store_explicit(&worker->in_flight_peak, in_flight, memory_order_relaxed);
}

void weir_worker_run(weir_worker_t *worker)
{
    while (!worker->stopped) {
        if (h2o_evloop_run(worker->ctx.loop, INT32_MAX) != 0 && errno != EINTR)
            h2o_fatal("the event loop failed");
        weir_redis_flush(worker->server->redis, worker);
        tell_load(worker);
    }
}

static void free_kept(h2o_mem_recycle_t *kept)
{
    while (kept->cnt != 0)
        free(h2o_mem_alloc_recycle(kept, 0));
}

/* The library keeps up to 16 chunks of memory pools for each thread, and forgets them when the thread ends. They are
 * taken into a pool that outlives it. */
static void take_kept_chunks(weir_worker_t *worker)
{
    enum { CHUNKS_KEPT = 16, CHUNK_BYTES = 4096, PIECE_BYTES = 992 };
    h2o_mem_init_pool(&worker->parting);
    for (size_t bytes = 0; bytes < CHUNKS_KEPT * CHUNK_BYTES; bytes += PIECE_BYTES)
        (void)h2o_mem_alloc_pool(&worker->parting, PIECE_BYTES);
}

void weir_worker_close(weir_worker_t *worker)
{
    h2o_loop_t *loop = worker->ctx.loop;
    h2o_multithread_queue_t *queue = worker->ctx.queue;
    weir_h1_close_all(worker);
    weir_upstream_close_parked(worker);
    weir_departures_destroy(worker->departures);
    free_lists(worker);
    h2o_multithread_unregister_receiver(queue, &worker->messages);
    h2o_context_dispose(&worker->ctx);
    free(queue); /* which the library does not */
    h2o_evloop_destroy(loop);
    free_kept(&worker->recycle.request);
    free_kept(&worker->recycle.exchange);
    free_kept(&worker->recycle.call);
    free_kept(&worker->recycle.attempt);
    free_kept(&worker->recycle.body);
    free_kept(&h2o_socket_buffer_prototype.allocator);
    take_kept_chunks(worker);
    free(worker->scratch);
    free(worker->scratch_names);
    free(worker->head_fields);
    free(worker->head_names);
}

static void wait_for_step(weir_worker_t *worker)
{
    while (sem_wait(&worker->step) != 0)
        ;
}

static void *thread_main(void *argument)
{
    weir_worker_t *worker = argument;
    weir_worker_open(worker);
    sem_post(&worker->step);
    weir_worker_run(worker);
    wait_for_step(worker); /* who told it to stop may still be writing to the queue's pipe */
    if (!worker->halted)
        weir_worker_close(worker);
    return NULL;
}

bool weir_worker_start(weir_worker_t *worker)
{
    char name[16];
    sem_init(&worker->step, 0, 0);
    if (pthread_create(&worker->thread, NULL, thread_main, worker) != 0)
        return false;
    wait_for_step(worker);
    snprintf(name, sizeof(name), "weir-%u", (unsigned)worker->index % 1000);
    pthread_setname_np(worker->thread, name);
    return true;
}

static void stop(weir_worker_t *worker, void *argument)
{
    worker->stopped = true;
}

void weir_worker_stop(weir_worker_t *worker)
{
    weir_worker_post(worker, stop, NULL);
}

static void halt(weir_worker_t *worker, void *argument)
{
    worker->stopped = worker->halted = true;
}

void weir_worker_halt(weir_worker_t *worker)
{
    weir_worker_post(worker, halt, NULL);
}

void weir_worker_join(weir_worker_t *worker)
{
    sem_post(&worker->step);
    pthread_join(worker->thread, NULL);
    sem_destroy(&worker->step);
}

bool weir_worker_join_for_a_second(weir_worker_t *worker)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    ++until.tv_sec;
    sem_post(&worker->step);
    return pthread_timedjoin_np(worker->thread, NULL, &until) == 0;
}

void weir_worker_destroy(weir_worker_t *worker)
{
    h2o_mem_clear_pool(&worker->parting);
    weir_tickets_destroy(worker->tickets);
    free(worker);
}
