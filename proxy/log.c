#include "log.h"
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "json_out.h"

/* The writer looks at the rings every NAP_MS while lines come, and sleeps while none do: a worker makes a system call
 * only for a line that follows a silence, and when its ring is half full. */
enum { NAP_MS = 20, DRAIN_MS = 1000, CHUNK_BYTES = 64 * 1024 };

/* A pipe gets at most PIPE_BUF bytes at once: then a write is whole or not at all, whoever else writes to it, and it
 * does not block when poll() said so. */
_Static_assert(WEIR_LOG_LINE_MAX <= PIPE_BUF, "a line fits one write to a pipe");

enum { TIME_SIZE = sizeof("2025-01-02T03:04:05.678Z") - 1 };

/* The text of the second that was written last. */
typedef struct {
    int64_t second;
    char text[TIME_SIZE];
} time_cache_t;

/* One writer (the worker) and one reader (the log's thread). `head` and `tail` count bytes since the start. */
struct weir_log_worker {
    weir_log_t *log;
    _Alignas(64) _Atomic uint64_t head; /* written by the worker, whole lines at a time */
    uint64_t tail_seen;
    time_cache_t time;
    _Atomic uint64_t dropped;
    _Alignas(64) _Atomic uint64_t tail; /* written by the log's thread */
    _Alignas(64) char ring[WEIR_LOG_RING_BYTES];
};

typedef struct {
    int fd;     /* -1: none */
    char *path; /* of a file that is ours to open again and to close; else NULL */
    bool is_file;
} target_t;

typedef enum { AWAKE, NAPPING, ASLEEP } writer_state_t;

struct weir_log {
    size_t worker_count;
    weir_log_worker_t **workers;
    _Atomic bool enabled; /* false: access: none */
    char *access;         /* what the configuration said last; control thread */
    pthread_t thread;
    int wake_fd;
    _Alignas(64) _Atomic int state; /* writer_state_t */

    /* what the writer is to do, at the end of a line */
    pthread_mutex_t lock;
    pthread_cond_t finished_changed;
    _Atomic bool ordered; /* something below changed */
    bool reopen, stop, finished;
    bool has_next;
    target_t next;

    /* the writer's own */
    target_t target;
    int64_t deadline_ms; /* 0: none; set by stop */
    bool torn;           /* what was written last does not end a line */
    _Atomic uint64_t dropped;
    char chunk[1 + CHUNK_BYTES]; /* [0] is for the line end after a torn line */
};

/* -- a line ------------------------------------------------------------------------------------------------------- */

static char *put(char *at, const char *bytes, size_t len)
{
    memcpy(at, bytes, len);
    return at + len;
}
#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static char *put_digits(char *at, unsigned value, int digits)
{
    for (int i = digits; i-- != 0; value /= 10)
        at[i] = (char)('0' + value % 10);
    return at + digits;
}

static char *put_unsigned(char *at, uint64_t value)
{
    char digits[20];
    size_t i = sizeof(digits);
    do
        digits[--i] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    return put(at, digits + i, sizeof(digits) - i);
}

static char *put_ms(char *at, int64_t ns)
{
    uint64_t us = (uint64_t)ns / 1000;
    at = put_unsigned(at, us / 1000);
    *at++ = '.';
    return put_digits(at, us % 1000, 3);
}

/* RFC 3339, UTC, ms. */
static char *put_time(char *at, time_cache_t *cache, int64_t wall_ms)
{
    time_t second = wall_ms / 1000;
    if (second != cache->second || cache->text[0] == '\0') {
        struct tm tm;
        gmtime_r(&second, &tm);
        char *text = put_digits(cache->text, (unsigned)tm.tm_year + 1900, 4);
        const struct {
            char before;
            int value;
        } parts[] = {{'-', tm.tm_mon + 1}, {'-', tm.tm_mday}, {'T', tm.tm_hour}, {':', tm.tm_min}, {':', tm.tm_sec}};
        for (size_t i = 0; i != sizeof(parts) / sizeof(*parts); ++i) {
            *text++ = parts[i].before;
            text = put_digits(text, (unsigned)parts[i].value, 2);
        }
        memcpy(text, ".000Z", 5);
        cache->second = second;
    }
    at = put(at, cache->text, TIME_SIZE);
    put_digits(at - 4, (unsigned)(wall_ms % 1000), 3);
    return at;
}

/* How much of each text a line holds, escaped. Their sum leaves room for the keys and numbers. */
enum {
    ID_MAX = 160,
    NAME_MAX_BYTES = 64,
    METHOD_MAX = 32,
    ROUTE_MAX = 256,
    PATH_BYTES_MAX = 2048,
    PEER_MAX = 128,
    KEYS_AND_NUMBERS = 640,
};
_Static_assert(3 * ID_MAX + 5 * NAME_MAX_BYTES + METHOD_MAX + ROUTE_MAX + PATH_BYTES_MAX + PEER_MAX + KEYS_AND_NUMBERS <
                   WEIR_LOG_LINE_MAX,
               "every line has room");

static char *put_text(char *at, const char *key, size_t key_len, weir_str_t text, size_t max)
{
    if (text.len == 0)
        return at;
    at = put(at, key, key_len);
    at += weir_json_out_escape(at, max, text.base, text.len);
    *at++ = '"';
    return at;
}
#define PUT_TEXT(at, key, text, max) put_text(at, ",\"" key "\":\"", sizeof(",\"" key "\":\"") - 1, text, max)

static size_t format_access(char *line, time_cache_t *cache, const weir_access_t *access)
{
    char *at = PUT(line, "{\"time\":\"");
    at = put_time(at, cache, access->wall_ms);
    *at++ = '"';
    at = PUT_TEXT(at, "correlation_id", access->correlation_id, ID_MAX);
    at = PUT_TEXT(at, "trace_id", access->trace_id, NAME_MAX_BYTES);
    at = PUT_TEXT(at, "listener", access->listener, NAME_MAX_BYTES);
    at = PUT_TEXT(at, "route", access->route, ROUTE_MAX);
    at = PUT_TEXT(at, "tenant", access->tenant, ID_MAX);
    at = PUT_TEXT(at, "method", access->method, METHOD_MAX);
    at = PUT_TEXT(at, "path", access->path, PATH_BYTES_MAX);
    if (access->status >= 0)
        at = put_unsigned(PUT(at, ",\"status\":"), (uint64_t)access->status);
    if (access->reason != NULL)
        at = PUT_TEXT(at, "reason", ((weir_str_t){access->reason, strlen(access->reason)}), NAME_MAX_BYTES);
    at = put_unsigned(PUT(at, ",\"bytes_in\":"), access->bytes_in);
    at = put_unsigned(PUT(at, ",\"bytes_out\":"), access->bytes_out);
    if (access->duration_ns >= 0)
        at = put_ms(PUT(at, ",\"duration_ms\":"), access->duration_ns);
    if (access->overhead_ns >= 0)
        at = put_ms(PUT(at, ",\"overhead_ms\":"), access->overhead_ns);
    at = PUT_TEXT(at, "upstream", access->upstream, NAME_MAX_BYTES);
    at = PUT_TEXT(at, "model", access->model, ID_MAX);
    if (access->attempts >= 0)
        at = put_unsigned(PUT(at, ",\"attempts\":"), (uint64_t)access->attempts);
    if (access->first_byte_ns >= 0)
        at = put_ms(PUT(at, ",\"first_byte_ms\":"), access->first_byte_ns);
    if (access->tokens_in >= 0)
        at = put_unsigned(PUT(at, ",\"tokens_in\":"), (uint64_t)access->tokens_in);
    if (access->tokens_out >= 0)
        at = put_unsigned(PUT(at, ",\"tokens_out\":"), (uint64_t)access->tokens_out);
    at = PUT_TEXT(at, "dedup", access->dedup, NAME_MAX_BYTES);
    at = PUT_TEXT(at, "limit", access->limit, ID_MAX);
    at = PUT_TEXT(at, "peer", access->peer, PEER_MAX);
    at = PUT(at, "}\n");
    return (size_t)(at - line);
}

/* -- the ring, on the worker's side ------------------------------------------------------------------------------- */

static void wake_writer(weir_log_t *log)
{
    uint64_t one = 1;
    ssize_t written = write(log->wake_fd, &one, sizeof(one));
    (void)written; /* it fails only when it is readable anyway */
}

/* One writer each. */
static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* Whether so many bytes fit; looks at the writer's progress only when it matters. */
static bool has_room(weir_log_worker_t *worker, uint64_t head, size_t len, uint64_t capacity)
{
    if (head + len - worker->tail_seen > capacity)
        worker->tail_seen = atomic_load_explicit(&worker->tail, memory_order_acquire);
    return head + len - worker->tail_seen <= capacity;
}

static void copy_into_ring(weir_log_worker_t *worker, uint64_t head, const char *line, size_t len)
{
    size_t at = head % WEIR_LOG_RING_BYTES, first = WEIR_LOG_RING_BYTES - at;
    if (first > len)
        first = len;
    memcpy(worker->ring + at, line, first);
    memcpy(worker->ring, line + first, len - first);
}

void weir_log_access(weir_log_worker_t *worker, const weir_access_t *access)
{
    weir_log_t *log = worker->log;
    if (!atomic_load_explicit(&log->enabled, memory_order_relaxed))
        return;
    char line[WEIR_LOG_LINE_MAX];
    size_t len = format_access(line, &worker->time, access);
    uint64_t head = atomic_load_explicit(&worker->head, memory_order_relaxed);
    if (!has_room(worker, head, len, WEIR_LOG_RING_BYTES)) {
        count(&worker->dropped, 1);
        return;
    }
    copy_into_ring(worker, head, line, len);
    /* In one order with the writer's: either it sees the line before it sleeps, or we see that it sleeps. */
    atomic_store(&worker->head, head + len);
    int state = atomic_load(&log->state);
    bool must_wake = state == ASLEEP || (state == NAPPING && !has_room(worker, head, len, WEIR_LOG_RING_BYTES / 2));
    if (must_wake && atomic_exchange(&log->state, AWAKE) != AWAKE)
        wake_writer(log);
}

/* -- targets ------------------------------------------------------------------------------------------------------ */

static bool open_target(target_t *target, const char *access, char **error)
{
    *target = (target_t){.fd = -1};
    if (strcmp(access, "none") == 0)
        return true;
    if (strcmp(access, "stdout") == 0 || strcmp(access, "stderr") == 0) {
        target->fd = strcmp(access, "stdout") == 0 ? STDOUT_FILENO : STDERR_FILENO;
    } else {
        /* not blocking, so that a named pipe without a reader is an error here and not a halt */
        target->fd = open(access, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
        if (target->fd == -1) {
            if (asprintf(error, "%s: %s", access, strerror(errno)) == -1)
                *error = NULL;
            return false;
        }
        target->path = strdup(access);
        assert(target->path != NULL);
    }
    struct stat status;
    target->is_file = fstat(target->fd, &status) == 0 && S_ISREG(status.st_mode);
    return true;
}

static void close_target(target_t *target)
{
    if (target->path != NULL)
        close(target->fd);
    free(target->path);
    *target = (target_t){.fd = -1};
}

/* -- the writer's thread ------------------------------------------------------------------------------------------ */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void swap_target(weir_log_t *log, target_t *next)
{
    close_target(&log->target);
    log->target = *next;
    log->torn = false;
}

static bool reopen_target(weir_log_t *log)
{
    target_t next;
    char *error = NULL;
    if (log->target.path == NULL)
        return false;
    bool opened = open_target(&next, log->target.path, &error);
    if (opened)
        swap_target(log, &next);
    else
        weir_log_event(WEIR_LOG_ERROR, "log.access: %s", error != NULL ? error : "cannot be opened again");
    free(error);
    return opened;
}

/* Returns whether the target is another one now. */
static bool take_orders(weir_log_t *log)
{
    if (!atomic_exchange(&log->ordered, false))
        return false;
    pthread_mutex_lock(&log->lock);
    bool reopen = log->reopen, has_next = log->has_next;
    target_t next = log->next;
    log->reopen = log->has_next = false;
    if (log->stop && log->deadline_ms == 0)
        log->deadline_ms = now_ms() + DRAIN_MS;
    pthread_mutex_unlock(&log->lock);
    if (has_next)
        swap_target(log, &next);
    return (reopen && reopen_target(log)) || has_next;
}

/* Until the deadline, if there is one; -1 is for ever. */
static int time_left_ms(const weir_log_t *log)
{
    if (log->deadline_ms == 0)
        return -1;
    int64_t left = log->deadline_ms - now_ms();
    return left > 0 ? (int)left : 0;
}

static void forget_wakes(weir_log_t *log)
{
    uint64_t count;
    ssize_t got = read(log->wake_fd, &count, sizeof(count));
    (void)got; /* not blocking */
}

/* Until the target takes bytes without blocking us; false when the time is over. A new target is taken up here too. */
static bool wait_writable(weir_log_t *log, bool *is_new)
{
    for (*is_new = false;;) {
        *is_new = take_orders(log) || *is_new;
        if (log->target.is_file || log->target.fd == -1)
            return true;
        struct pollfd fds[] = {{.fd = log->target.fd, .events = POLLOUT}, {.fd = log->wake_fd, .events = POLLIN}};
        int left = time_left_ms(log), ready = poll(fds, 2, left);
        if (ready == 0 && left >= 0)
            return false;
        if (ready > 0 && fds[1].revents != 0)
            forget_wakes(log);
        if (ready > 0 && fds[0].revents != 0)
            return true;
    }
}

static uint64_t count_lines(const char *bytes, size_t len)
{
    uint64_t lines = 0;
    for (const char *end = bytes + len; bytes != end; ++bytes)
        lines += *bytes == '\n';
    return lines;
}

/* How much of these lines may go into one write. */
static size_t size_of_write(const weir_log_t *log, const char *bytes, size_t len)
{
    if (log->target.is_file || len <= PIPE_BUF)
        return len;
    const char *last = memrchr(bytes, '\n', PIPE_BUF);
    return last != NULL ? (size_t)(last + 1 - bytes) : PIPE_BUF;
}

/* Writes whole lines; those that cannot be written are counted. Returns false when the time is over. */
static bool write_lines(weir_log_t *log, const char *bytes, size_t len)
{
    const char *separator = log->torn ? bytes : NULL; /* ends what is torn, and is no line */
    while (len != 0) {
        bool is_torn = log->torn, is_new, in_time = wait_writable(log, &is_new);
        if (is_new && is_torn) { /* the rest of a line whose start the old target has */
            size_t rest = (size_t)((const char *)memchr(bytes, '\n', len) + 1 - bytes);
            count(&log->dropped, rest > 1);
            bytes += rest;
            len -= rest;
            continue;
        }
        if (in_time && log->target.fd == -1)
            return true;
        ssize_t written = in_time ? write(log->target.fd, bytes, size_of_write(log, bytes, len)) : -1;
        if (written == -1 && in_time && (errno == EINTR || errno == EAGAIN))
            continue;
        if (written <= 0) {
            count(&log->dropped, count_lines(bytes, len) - (bytes == separator));
            return in_time;
        }
        log->torn = bytes[written - 1] != '\n';
        bytes += written;
        len -= (size_t)written;
    }
    return true;
}

/* Takes the next lines out of a ring. Returns their size. */
static size_t take_lines(weir_log_worker_t *worker, uint64_t head, char *lines)
{
    uint64_t tail = atomic_load_explicit(&worker->tail, memory_order_relaxed);
    size_t len = head - tail < CHUNK_BYTES ? head - tail : CHUNK_BYTES, at = tail % WEIR_LOG_RING_BYTES;
    size_t first = len < WEIR_LOG_RING_BYTES - at ? len : WEIR_LOG_RING_BYTES - at;
    memcpy(lines, worker->ring + at, first);
    memcpy(lines + first, worker->ring, len - first);
    const char *last = memrchr(lines, '\n', len);
    len = last != NULL ? (size_t)(last + 1 - lines) : 0;
    atomic_store_explicit(&worker->tail, tail + len, memory_order_release);
    return len;
}

static bool drain_ring(weir_log_t *log, weir_log_worker_t *worker, uint64_t head)
{
    size_t len;
    while ((len = take_lines(worker, head, log->chunk + 1)) != 0) {
        log->chunk[0] = '\n';
        if (!write_lines(log, log->chunk + !log->torn, len + log->torn))
            return false;
    }
    return true;
}

/* Returns whether there was anything to write. */
static bool drain_rings(weir_log_t *log, bool *too_late)
{
    bool found = false;
    for (size_t i = 0; i != log->worker_count && !*too_late; ++i) {
        weir_log_worker_t *worker = log->workers[i];
        uint64_t head = atomic_load(&worker->head);
        if (head == atomic_load_explicit(&worker->tail, memory_order_relaxed))
            continue;
        found = true;
        *too_late = !drain_ring(log, worker, head);
    }
    return found;
}

static void rest(weir_log_t *log, bool found)
{
    atomic_store(&log->state, found ? NAPPING : ASLEEP);
    bool is_empty = !atomic_load(&log->ordered);
    for (size_t i = 0; !found && i != log->worker_count; ++i)
        is_empty = is_empty && atomic_load(&log->workers[i]->head) == log->workers[i]->tail;
    if (is_empty) {
        struct pollfd fd = {.fd = log->wake_fd, .events = POLLIN};
        poll(&fd, 1, found ? NAP_MS : -1);
    }
    atomic_store(&log->state, AWAKE);
    forget_wakes(log);
}

static void *run_writer(void *argument)
{
    weir_log_t *log = argument;
    for (bool too_late = false;;) {
        take_orders(log);
        bool found = drain_rings(log, &too_late);
        if (too_late || (log->deadline_ms != 0 && !found))
            break;
        if (log->deadline_ms == 0)
            rest(log, found);
    }
    pthread_mutex_lock(&log->lock);
    log->finished = true;
    pthread_cond_signal(&log->finished_changed);
    pthread_mutex_unlock(&log->lock);
    return NULL;
}

/* -- the log, from outside ---------------------------------------------------------------------------------------- */

static void create_workers(weir_log_t *log, size_t count)
{
    log->worker_count = count;
    log->workers = calloc(count, sizeof(*log->workers));
    assert(log->workers != NULL || count == 0);
    for (size_t i = 0; i != count; ++i) {
        /* not cleared whole: a ring's pages are there once they were written to */
        weir_log_worker_t *worker = aligned_alloc(_Alignof(weir_log_worker_t), sizeof(*worker));
        assert(worker != NULL);
        memset(worker, 0, offsetof(weir_log_worker_t, ring));
        worker->log = log;
        log->workers[i] = worker;
    }
}

static void start_writer(weir_log_t *log)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&log->finished_changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&log->lock, NULL);
    log->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert(log->wake_fd != -1);
    int failed = pthread_create(&log->thread, NULL, run_writer, log);
    assert(failed == 0);
}

weir_log_t *weir_log_create(const weir_conf_log_t *conf, size_t workers, char **error)
{
    target_t target;
    if (!open_target(&target, conf->access, error))
        return NULL;
    weir_log_t *log = aligned_alloc(_Alignof(weir_log_t), sizeof(*log));
    assert(log != NULL);
    memset(log, 0, offsetof(weir_log_t, chunk));
    log->target = target;
    log->enabled = target.fd != -1;
    log->access = strdup(conf->access);
    assert(log->access != NULL);
    create_workers(log, workers);
    start_writer(log);
    weir_log_set_level(conf->level);
    return log;
}

weir_log_worker_t *weir_log_worker(weir_log_t *log, size_t index)
{
    assert(index < log->worker_count);
    return log->workers[index];
}

static void give_order(weir_log_t *log)
{
    atomic_store(&log->ordered, true);
    wake_writer(log);
}

void weir_log_reopen(weir_log_t *log)
{
    pthread_mutex_lock(&log->lock);
    log->reopen = true;
    pthread_mutex_unlock(&log->lock);
    give_order(log);
}

bool weir_log_configure(weir_log_t *log, const weir_conf_log_t *conf, char **error)
{
    target_t next, unused = {.fd = -1};
    if (strcmp(conf->access, log->access) != 0) {
        if (!open_target(&next, conf->access, error))
            return false;
        free(log->access);
        log->access = strdup(conf->access);
        assert(log->access != NULL);
        pthread_mutex_lock(&log->lock);
        if (log->has_next)
            unused = log->next;
        log->next = next;
        log->has_next = true;
        pthread_mutex_unlock(&log->lock);
        close_target(&unused);
        log->enabled = next.fd != -1;
        give_order(log);
    }
    weir_log_set_level(conf->level);
    return true;
}

uint64_t weir_log_dropped(weir_log_t *log)
{
    uint64_t dropped = atomic_load_explicit(&log->dropped, memory_order_relaxed);
    for (size_t i = 0; i != log->worker_count; ++i)
        dropped += atomic_load_explicit(&log->workers[i]->dropped, memory_order_relaxed);
    return dropped;
}

/* Whether the writer came to its end in time: another process may have filled the pipe after its poll. */
static bool stop_writer(weir_log_t *log)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 2 * DRAIN_MS / 1000;
    pthread_mutex_lock(&log->lock);
    log->stop = true;
    give_order(log);
    int failed = 0;
    while (!log->finished && failed == 0)
        failed = pthread_cond_timedwait(&log->finished_changed, &log->lock, &until);
    bool finished = log->finished;
    pthread_mutex_unlock(&log->lock);
    return finished;
}

void weir_log_destroy(weir_log_t *log)
{
    if (!stop_writer(log)) {
        pthread_detach(log->thread); /* and what it uses is left to it: the process ends */
        return;
    }
    pthread_join(log->thread, NULL);
    if (log->has_next)
        close_target(&log->next);
    close_target(&log->target);
    close(log->wake_fd);
    pthread_mutex_destroy(&log->lock);
    pthread_cond_destroy(&log->finished_changed);
    for (size_t i = 0; i != log->worker_count; ++i)
        free(log->workers[i]);
    free(log->workers);
    free(log->access);
    free(log);
}

/* -- the event log ------------------------------------------------------------------------------------------------ */

static _Atomic int events_level = WEIR_LOG_INFO;
static pthread_mutex_t events_lock = PTHREAD_MUTEX_INITIALIZER;

void weir_log_set_level(weir_log_level_t level)
{
    events_level = (int)level;
}

static size_t format_event(char *line, weir_log_level_t level, const char *message, size_t len)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time_cache_t cache = {0};
    char *at = PUT(line, "{\"time\":\"");
    at = put_time(at, &cache, (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000);
    at = PUT(at, "\",\"level\":\"");
    at = put(at, levels[level], strlen(levels[level]));
    at = PUT(at, "\",\"message\":\"");
    at += weir_json_out_escape(at, (size_t)(line + WEIR_LOG_LINE_MAX - 3 - at), message, len);
    at = PUT(at, "\"}\n");
    return (size_t)(at - line);
}

void weir_log_event(weir_log_level_t level, const char *format, ...)
{
    if ((int)level < atomic_load_explicit(&events_level, memory_order_relaxed))
        return;
    char message[WEIR_LOG_LINE_MAX], line[WEIR_LOG_LINE_MAX];
    va_list arguments;
    va_start(arguments, format);
    int len = vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    if (len < 0)
        return;
    size_t size = format_event(line, level, message, (size_t)len < sizeof(message) ? (size_t)len : sizeof(message) - 1);
    pthread_mutex_lock(&events_lock);
    struct pollfd fd = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&fd, 1, 0) == 1) { /* a full pipe loses the line: nobody waits for it */
        ssize_t written = write(STDERR_FILENO, line, size);
        (void)written;
    }
    pthread_mutex_unlock(&events_lock);
}
