#include "server.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include "../filters/redis/redis_store.h"
#include "admin.h"
#include "drain.h"
#include "exchange.h"
#include "history.h"
#include "keep.h"
#include "notify.h"
#include "redis/fleet.h"
#include "redis/redis.h"
#include "reload.h"
#include "sample.h"
#include "ticket.h"
#include "resolver.h"
#include "watch.h"
#include "worker.h"

static const int64_t SECOND_NS = INT64_C(1000000000);
static const int64_t REDIS_WAIT_NS = INT64_C(500000000); /* for its connections, before requests are taken */

enum {
    CONNECTION_BYTES = 400, /* what a connection holds, about, and a request besides */
    EXCHANGE_BYTES = 6 * 1024,
    TRIM_BYTES = 256 * 1024,      /* less at the peak is not worth giving back */
    MMAP_FROM_BYTES = 256 * 1024, /* blocks that go back to the kernel when they are freed: large bodies */
    TRIM_FROM_BYTES = 1024 * 1024,
};

/* The process: the server, and what only its beginning and end are about. */
typedef struct {
    weir_server_t server;
    h2o_globalconf_t data_config, control_config;
    h2o_socket_t *signals;
    h2o_timeout_entry_t second;
    size_t peak_bytes; /* that connections and requests held, since memory was given back */
    weir_drain_t drain;
} process_t;

/* --- memory --- */

bool weir_server_buffer_reserve(weir_server_t *server, uint64_t bytes)
{
    uint64_t before = atomic_fetch_add(&server->buffered_bytes, bytes);
    if (before + bytes <= atomic_load_explicit(&server->max_buffered_bytes, memory_order_relaxed))
        return true;
    atomic_fetch_sub(&server->buffered_bytes, bytes);
    return false;
}

void weir_server_buffer_release(weir_server_t *server, uint64_t bytes)
{
    atomic_fetch_sub(&server->buffered_bytes, bytes);
}

/* One arena a worker and none for the other threads, which allocate little and seldom: each further arena keeps free
 * memory of its own. The thresholds are set so that the allocator does not raise them by itself after the first large
 * body, and keep what later ones leave. */
static void set_allocator(size_t workers)
{
    mallopt(M_ARENA_MAX, (int)workers);
    mallopt(M_MMAP_THRESHOLD, MMAP_FROM_BYTES);
    mallopt(M_TRIM_THRESHOLD, TRIM_FROM_BYTES);
}

/* The most requests that each worker had in the last second. */
static size_t most_in_flight(weir_server_t *server)
{
    size_t most = 0;
    for (size_t i = 0; i < server->worker_count; ++i) {
        weir_worker_t *worker = server->workers[i];
        size_t in_flight = atomic_load(&worker->in_flight), peak = atomic_exchange(&worker->in_flight_peak, 0);
        most += peak > in_flight ? peak : in_flight;
    }
    return most;
}

/* When the load has halved, what it held goes back to the kernel - from here, as that takes a while. */
static void give_back(process_t *process, size_t in_flight)
{
    size_t bytes = atomic_load(&process->server.connections) * CONNECTION_BYTES + in_flight * EXCHANGE_BYTES;
    if (bytes > process->peak_bytes)
        process->peak_bytes = bytes;
    if (process->peak_bytes >= TRIM_BYTES && bytes <= process->peak_bytes / 2) {
        malloc_trim(0);
        process->peak_bytes = bytes;
    }
}

static void on_second(h2o_timeout_entry_t *entry)
{
    process_t *process = H2O_STRUCT_FROM_MEMBER(process_t, second, entry);
    size_t in_flight = most_in_flight(&process->server);
    give_back(process, in_flight);
    weir_sample_take(&process->server, in_flight);
    process->server.store->dedup_tidy(process->server.store, weir_clock_turn_ns);
    weir_exchange_watch_filters(&process->server);
    weir_timer_start(process->server.control, entry, SECOND_NS);
}

/* --- signals --- */

static const int signals_taken[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1};

static sigset_t signal_set(void)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof(signals_taken) / sizeof(signals_taken[0]); ++i)
        sigaddset(&set, signals_taken[i]);
    return set;
}

static void reload(weir_server_t *server)
{
    char *errors;
    (void)weir_server_reload(server, &errors); /* which has logged them */
    free(errors);
}

static void take_signal(process_t *process, int signal)
{
    switch (signal) {
    case SIGTERM:
    case SIGINT:
        weir_drain_signal(&process->drain);
        break;
    case SIGHUP:
        reload(&process->server);
        break;
    case SIGUSR1:
        weir_log_reopen(process->server.log);
        break;
    }
}

static void on_signals(h2o_socket_t *sock, const char *err)
{
    struct signalfd_siginfo info;
    while (read(h2o_socket_get_fd(sock), &info, sizeof(info)) == sizeof(info))
        take_signal(sock->data, (int)info.ssi_signo);
}

static void take_signals(process_t *process)
{
    sigset_t set = signal_set();
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd == -1)
        h2o_fatal("signalfd");
    process->signals = h2o_evloop_socket_create(process->server.control->ctx.loop, fd, 0);
    process->signals->data = process;
    h2o_socket_dont_read(process->signals, 1);
    h2o_socket_read_start(process->signals, on_signals);
}

/* --- the beginning --- */

static void init_config(h2o_globalconf_t *config, void (*register_handler)(h2o_hostconf_t *hostconf))
{
    h2o_config_init(config);
    register_handler(h2o_config_register_host(config, h2o_iovec_init(H2O_STRLIT("default")), 65535));
}

static void tell(void *context, weir_ticket_t ticket)
{
    weir_ticket_tell(context, ticket);
}

static void log_lines(char *lines)
{
    char *line;
    while ((line = strsep(&lines, "\n")) != NULL) {
        if (*line != '\0')
            weir_log_event(WEIR_LOG_ERROR, "%s", line);
    }
}

static weir_store_t *create_memory_store(weir_server_t *server, uint8_t secret[64], weir_store_teller_t teller)
{
    if (server->first_conf->store.file != NULL)
        server->keep = weir_keep_open(server->first_conf->store.file, secret);
    return weir_memory_store_create(secret, teller);
}

/* NULL when a TLS file of its cannot be used, which is logged. */
static weir_store_t *create_redis_store(weir_server_t *server, const uint8_t secret[64], weir_store_teller_t teller)
{
    const weir_conf_store_redis_t *conf = &server->first_conf->store.redis;
    char *errors = NULL;
    server->redis = weir_redis_create(server, conf, &errors);
    if (server->redis == NULL) {
        log_lines(errors);
        free(errors);
        return NULL;
    }
    weir_remote_t *remote = weir_redis_remote(server->redis);
    server->fleet = weir_fleet_create(server, remote, conf);
    return weir_redis_store_create(conf, remote, secret, teller);
}

static weir_store_t *create_store(weir_server_t *server)
{
    uint8_t secret[64];
    weir_store_teller_t teller = {tell, server};
    if (getrandom(secret, sizeof(secret), 0) != sizeof(secret))
        h2o_fatal("getrandom");
    if (server->first_conf->store.kind == WEIR_STORE_REDIS)
        return create_redis_store(server, secret, teller);
    return create_memory_store(server, secret, teller);
}

/* False when a file cannot be opened or used, which is logged. */
static bool create_shared(process_t *process, weir_conf_t *conf)
{
    weir_server_t *server = &process->server;
    char *error = NULL;
    weir_conf_acquire(conf);
    server->first_conf = conf;
    server->worker_count = (size_t)conf->server.workers;
    server->started_wall_ms = weir_clock_wall_ms();
    weir_log_set_level(conf->log.level);
    server->log = weir_log_create(&conf->log, server->worker_count + 1, &error);
    if (server->log == NULL) {
        weir_log_event(WEIR_LOG_ERROR, "log.access: %s", error != NULL ? error : "cannot be opened");
        free(error);
        return false;
    }
    server->metrics = weir_metrics_create(server->worker_count + 1, (size_t)conf->metrics.tenant_series);
    server->history = weir_history_create(weir_clock_now_ns());
    server->resolver = weir_resolver_create();
    server->store = create_store(server);
    return server->store != NULL;
}

static bool create_workers(process_t *process)
{
    weir_server_t *server = &process->server;
    init_config(&process->data_config, weir_exchange_register);
    init_config(&process->control_config, weir_admin_register);
    server->control = weir_worker_create(server, &process->control_config, server->worker_count, true);
    weir_worker_open(server->control);
    server->workers = h2o_mem_alloc(server->worker_count * sizeof(*server->workers));
    for (size_t i = 0; i < server->worker_count; ++i) {
        server->workers[i] = weir_worker_create(server, &process->data_config, i, false);
        if (!weir_worker_start(server->workers[i])) {
            weir_log_event(WEIR_LOG_ERROR, "cannot start worker %zu: %s", i, strerror(errno));
            return false;
        }
    }
    return true;
}

static bool begin(process_t *process, weir_conf_t *conf)
{
    weir_server_t *server = &process->server;
    char *errors;
    if (!weir_clock_is_ours()) {
        weir_log_event(WEIR_LOG_ERROR, "this build is broken: the loop's timers do not run on weir's clock");
        return false;
    }
    if (!create_shared(process, conf) || !create_workers(process))
        return false;
    weir_redis_wait(server->redis, REDIS_WAIT_NS);
    weir_fleet_open(server->fleet);
    server->watch = weir_watch_create(server, reload);
    weir_watch_aim(server->watch, &conf->files);
    if (!weir_reload_apply(server, conf, &errors)) {
        log_lines(errors);
        free(errors);
        return false;
    }
    take_signals(process);
    process->second.cb = on_second;
    weir_timer_start(server->control, &process->second, SECOND_NS);
    atomic_store(&server->ready, true);
    weir_notify_ready();
    weir_log_event(WEIR_LOG_INFO, "weir " WEIR_VERSION " runs, workers: %zu", server->worker_count);
    return true;
}

/* --- the end --- */

static void close_control(process_t *process)
{
    weir_worker_t *control = process->server.control;
    h2o_socket_close(process->signals);
    weir_watch_destroy(process->server.watch);
    weir_timer_stop(&process->second);
    weir_timer_stop(&process->drain.look);
    weir_snapshot_release(control->snapshot);
    weir_snapshot_release(process->server.snapshot);
    weir_worker_close(control);
}

/* After a drain that was done: everything is freed, so that what is left over shows as a leak. */
static void end(process_t *process)
{
    weir_server_t *server = &process->server;
    for (size_t i = 0; i < server->worker_count; ++i)
        weir_worker_join(server->workers[i]);
    if (server->keep != NULL)
        weir_keep_close(server->keep);
    close_control(process);
    for (size_t i = 0; i < server->worker_count; ++i)
        weir_worker_destroy(server->workers[i]);
    weir_worker_destroy(server->control);
    free(server->workers);
    weir_reload_dispose(server);
    h2o_config_dispose(&process->data_config);
    h2o_config_dispose(&process->control_config);
    server->store->destroy(server->store);
    weir_fleet_destroy(server->fleet);
    weir_redis_destroy(server->redis);
    weir_history_destroy(server->history);
    weir_metrics_destroy(server->metrics);
    weir_log_destroy(server->log);
    weir_conf_release(server->first_conf);
    free(server->last_reload_errors);
}

/* Threads stand still, or never ran: only what outlives the process is tidied up. */
static _Noreturn void end_at_once(process_t *process, int code)
{
    weir_reload_unlink_all(&process->server);
    if (process->server.log != NULL)
        weir_log_destroy(process->server.log);
    _exit(code);
}

int weir_server_run(weir_conf_t *conf)
{
    process_t process = {.drain.server = &process.server};
    sigset_t set = signal_set();
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before there are threads to inherit it */
    set_allocator((size_t)conf->server.workers);
    if (!begin(&process, conf))
        end_at_once(&process, 1);
    weir_worker_run(process.server.control);
    if (process.drain.phase == WEIR_DRAIN_CUT) {
        if (process.server.keep != NULL)
            weir_keep_close(process.server.keep);
        end_at_once(&process, 0);
    }
    end(&process);
    return 0;
}
