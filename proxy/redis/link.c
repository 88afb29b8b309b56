#include "link.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "../connect.h"
#include "../resolver.h"
#include "../sock_io.h"
#include "reply_arena.h"
#include "reply_guard.h"

enum {
    UNSENT_BYTES_MAX = 16 * 1024 * 1024,
    IOVECS_MAX = 256, /* of one write */
    GREETINGS = 3,
};

#define MS INT64_C(1000000)
static const int64_t CONNECT_NS = 1000 * MS;
static const int64_t ADDRESS_NS_MIN = 100 * MS; /* of an address, if there is as much left */
static const int64_t GREETING_NS = 1000 * MS;
static const int64_t SILENCE_NS_MAX = 1000 * MS;
static const int64_t REPLY_NS_MAX = 10000 * MS; /* even if a byte comes now and then */
static const int64_t PAUSE_NS_MIN = 50 * MS, PAUSE_NS_MAX = 500 * MS;
static const int64_t STEADY_NS = 1000 * MS;  /* so long open, and the next pause is the first again */
static const int64_t REFRESH_NS = 1000 * MS; /* of the name: where it leads to may be what has changed */

/* CLOSED -> RESOLVE -> CONNECT (-> HANDSHAKE) -> GREETING -> READY <-> STALLED, and from each of them to CLOSED. */
typedef enum { CLOSED, RESOLVE, CONNECT, HANDSHAKE, GREETING, READY, STALLED } phase_t;

enum { OK, TIMEOUT, ERROR, RESULTS };

typedef struct {
    weir_redis_command_t super;
    weir_redis_link_t *link;
    char *bytes;
} greeting_t;

struct weir_redis_link {
    weir_redis_link_options_t options;
    weir_worker_t *worker;
    char *address, *host; /* host NULL: a unix socket, or no address at all */
    uint16_t port;
    const char *path;
    phase_t phase;
    /* A call of the caller's closed it: the timer tells so, as it does of a stall. */
    bool is_untold;
    bool is_asked_to; /* it was closed by weir_redis_link_reconnect */
    bool is_destroyed;
    unsigned busy;       /* callbacks of the loop under way: it is freed after them */
    unsigned generation; /* of the connection: what goes through its replies stops when it is another one */
    char why[200], tls_why[160];
    h2o_timeout_entry_t timer;
    int64_t due_ns;  /* of the timer; INT64_MAX: it does not run */
    int64_t pause_ns; /* the last one; 0: none since it was steady */
    /* opening */
    int64_t until_ns;
    weir_resolve_t *resolve;
    const char *failed; /* how, until now */
    size_t tried, first_address;
    greeting_t greetings[GREETINGS];
    /* open */
    h2o_socket_t *sock;
    redisReader *reader;
    weir_reply_arena_t replies;
    weir_reply_guard_t guard;
    weir_redis_command_t *first, *last; /* that are out, in the order of their replies */
    weir_redis_command_t *unsent;       /* the first of them that is not written */
    size_t late_count, unsent_bytes;
    char *pending; /* a write that the kernel has not taken yet, */
    size_t pending_bytes; /* and what of unsent_bytes it holds */
    int64_t ready_ns, read_ns, replied_ns;
    weir_series_t results[RESULTS], duration;
    weir_addresses_t addresses;
};

static void connect_anew(weir_redis_link_t *link);
static void try_address(weir_redis_link_t *link);
static void flush(weir_redis_link_t *link);

/* --- the loop's way in, and out --- */

static void enter(weir_redis_link_t *link)
{
    ++link->busy;
}

static void leave(weir_redis_link_t *link)
{
    if (--link->busy != 0 || !link->is_destroyed)
        return;
    weir_reply_arena_dispose(&link->replies);
    free(link->address);
    free(link->host);
    free(link);
}

static void arm(weir_redis_link_t *link, int64_t at_ns)
{
    int64_t ns = at_ns - weir_clock_turn_ns;
    link->due_ns = at_ns;
    weir_timer_start(link->worker, &link->timer, ns > 0 ? ns : 0);
}

static void disarm(weir_redis_link_t *link)
{
    link->due_ns = INT64_MAX;
    weir_timer_stop(&link->timer);
}

static void tell_state(weir_redis_link_t *link, bool is_ready, const char *why)
{
    if (!link->is_destroyed)
        link->options.on_state(link->options.context, link, is_ready, why);
}

static int64_t later(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- what is counted --- */

static void count(weir_redis_link_t *link, int result)
{
    static const char *const words[RESULTS] = {"ok", "timeout", "error"};
    weir_metrics_add(link->worker->metrics,
                     weir_metrics_series(link->worker->server->metrics, &link->results[result],
                                         WEIR_METRIC_STORE_COMMANDS, &words[result]), 1);
}

/* Nothing is wrong: the server has not been told that script yet, and is asked again (call.c). */
static bool is_unknown_script(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ERROR && strncmp(reply->str, "NOSCRIPT", 8) == 0;
}

static void count_reply(weir_redis_link_t *link, const weir_redis_command_t *command, const redisReply *reply)
{
    weir_metrics_observe(link->worker->metrics,
                         weir_metrics_series(link->worker->server->metrics, &link->duration, WEIR_METRIC_STORE_DURATION, NULL),
                         later(link->read_ns - command->sent_ns, 0));
    if (!command->is_late && !is_unknown_script(reply))
        count(link, reply->type == REDIS_REPLY_ERROR ? ERROR : OK);
}

static bool is_greeting(const weir_redis_link_t *link, const weir_redis_command_t *command)
{
    return command >= &link->greetings[0].super && command <= &link->greetings[GREETINGS - 1].super;
}

/* --- the end of a connection --- */

static weir_redis_command_t *take_first(weir_redis_link_t *link)
{
    weir_redis_command_t *command = link->first;
    link->first = command->next;
    if (link->first == NULL)
        link->last = NULL;
    if (link->unsent == command)
        link->unsent = command->next;
    link->late_count -= command->is_late;
    return command;
}

static void lose_all(weir_redis_link_t *link)
{
    while (link->first != NULL) {
        weir_redis_command_t *command = take_first(link);
        if (!command->is_late && !is_greeting(link, command))
            count(link, ERROR);
        command->on_reply(command, WEIR_REDIS_LOST, NULL);
    }
}

static void free_greetings(weir_redis_link_t *link)
{
    for (size_t i = 0; i < GREETINGS; ++i) {
        free(link->greetings[i].bytes);
        link->greetings[i].bytes = NULL;
    }
}

static void close_sock(weir_redis_link_t *link)
{
    if (link->sock != NULL)
        weir_sock_close(link->sock);
    link->sock = NULL;
    free(link->pending);
    link->pending = NULL;
    link->pending_bytes = 0;
}

/* Nobody is told. `why` may be in what is freed. */
static void shut(weir_redis_link_t *link, const char *why)
{
    snprintf(link->why, sizeof(link->why), "%s", why);
    if ((link->phase == READY || link->phase == STALLED) && weir_clock_turn_ns - link->ready_ns >= STEADY_NS)
        link->pause_ns = 0;
    if (link->phase == GREETING)
        ++link->first_address; /* another one may be better */
    link->phase = CLOSED;
    link->is_untold = false;
    ++link->generation;
    disarm(link);
    if (link->resolve != NULL)
        weir_resolve_cancel(link->resolve);
    link->resolve = NULL;
    close_sock(link);
    redisReaderFree(link->reader);
    link->reader = NULL;
    link->unsent = NULL;
    link->unsent_bytes = 0;
}

/* Jitter takes up to a half off it. */
static int64_t draw_pause(weir_redis_link_t *link)
{
    if (link->is_asked_to && link->pause_ns == 0) {
        link->pause_ns = PAUSE_NS_MIN / 2; /* it was none; the next is the first one */
        return 0;
    }
    link->pause_ns = link->pause_ns == 0 ? PAUSE_NS_MIN : sooner(2 * link->pause_ns, PAUSE_NS_MAX);
    return link->pause_ns * (int64_t)(4 + weir_worker_random(link->worker) % 5) / 8;
}

/* From the loop alone. */
static void tell_end(weir_redis_link_t *link)
{
    char why[sizeof(link->why)];
    memcpy(why, link->why, sizeof(why));
    link->is_untold = false;
    lose_all(link);
    free_greetings(link);
    if (link->is_destroyed)
        return;
    arm(link, weir_clock_turn_ns + draw_pause(link));
    link->is_asked_to = false;
    tell_state(link, false, why);
}

/* From the loop alone. */
static void end(weir_redis_link_t *link, const char *why)
{
    shut(link, why);
    tell_end(link);
}

/* From anywhere: told from the loop. */
static void end_soon(weir_redis_link_t *link, const char *why)
{
    shut(link, why);
    link->is_untold = true;
    arm(link, weir_clock_turn_ns);
}

/* --- time --- */

static void on_overdue(weir_redis_link_t *link, weir_redis_command_t *command)
{
    command->is_late = true;
    ++link->late_count;
    count(link, TIMEOUT);
}

/* Of what is not overdue. What is not written yet has a deadline, too, from when it was sent. */
static int64_t next_deadline_ns(weir_redis_link_t *link, const weir_redis_command_t **overdue)
{
    int64_t next_ns = INT64_MAX;
    for (weir_redis_command_t *command = link->first; command != NULL; command = command->next) {
        if (command->is_late)
            continue;
        if (command->deadline_ns > weir_clock_turn_ns) {
            next_ns = sooner(next_ns, command->deadline_ns);
        } else {
            on_overdue(link, command);
            *overdue = command;
        }
    }
    return next_ns;
}

/* A timeout may be longer than the second that is waited for a byte. */
static int64_t patient_until_ns(const weir_redis_link_t *link)
{
    int64_t silence_ns = later(link->read_ns, link->first->sent_ns) + SILENCE_NS_MAX;
    int64_t reply_ns = later(link->replied_ns, link->first->sent_ns) + REPLY_NS_MAX;
    return later(sooner(silence_ns, reply_ns), link->first->deadline_ns);
}

static void stall(weir_redis_link_t *link, const weir_redis_command_t *overdue)
{
    char why[64];
    if (overdue != NULL)
        snprintf(why, sizeof(why), "it did not answer in %lld ms",
                 (long long)((overdue->deadline_ns - overdue->sent_ns) / MS));
    else
        snprintf(why, sizeof(why), "it takes nothing more, %d MiB wait", UNSENT_BYTES_MAX / 1024 / 1024);
    link->phase = STALLED;
    link->is_untold = false;
    tell_state(link, false, why);
}

static void look_at_deadlines(weir_redis_link_t *link)
{
    const weir_redis_command_t *overdue = NULL;
    if (link->first == NULL)
        return;
    int64_t next_ns = next_deadline_ns(link, &overdue), until_ns = patient_until_ns(link);
    if (until_ns <= weir_clock_turn_ns) {
        end(link, "it answers no more");
        return;
    }
    arm(link, sooner(next_ns, until_ns));
    if (link->is_untold || (overdue != NULL && link->phase == READY))
        stall(link, overdue);
}

static void leave_address(weir_redis_link_t *link, const char *why)
{
    close_sock(link);
    link->failed = why;
    ++link->tried;
    try_address(link);
}

static void on_time(h2o_timeout_entry_t *entry)
{
    weir_redis_link_t *link = H2O_STRUCT_FROM_MEMBER(weir_redis_link_t, timer, entry);
    enter(link);
    link->due_ns = INT64_MAX;
    switch (link->phase) {
    case CLOSED:
        if (link->is_untold)
            tell_end(link);
        else
            connect_anew(link);
        break;
    case RESOLVE:
        end(link, "its name was not resolved in a second");
        break;
    case CONNECT:
        leave_address(link, "it did not take the connection in time");
        break;
    case HANDSHAKE:
        leave_address(link, "the TLS handshake was not over in time");
        break;
    case GREETING:
        end(link, "it did not answer the greeting in a second");
        break;
    case READY:
    case STALLED:
        look_at_deadlines(link);
        break;
    }
    leave(link);
}

/* It was greeted, or nothing is overdue any more. */
static void become_ready(weir_redis_link_t *link)
{
    bool was_told = !link->is_untold; /* that it stalled */
    link->phase = READY;
    link->is_untold = false;
    if (was_told)
        tell_state(link, true, "");
}

static void end_stall(weir_redis_link_t *link)
{
    if (link->phase == STALLED && link->late_count == 0 && link->unsent_bytes <= UNSENT_BYTES_MAX)
        become_ready(link);
}

/* --- writing --- */

static void on_written(h2o_socket_t *sock, const char *err)
{
    weir_redis_link_t *link = sock->data;
    enter(link);
    free(link->pending);
    link->pending = NULL;
    link->unsent_bytes -= link->pending_bytes;
    link->pending_bytes = 0;
    if (err != NULL) {
        end(link, "it hung up while it was written to");
    } else {
        flush(link);
        end_stall(link);
    }
    leave(link);
}

/* The next commands that are not written, as far as they go into one write. Their time begins now: that a turn took long is no
 * fault of the server's. */
static size_t gather(weir_redis_link_t *link, h2o_iovec_t *bufs, size_t *bytes)
{
    int64_t now_ns = weir_clock_now_ns();
    size_t size = 0;
    for (*bytes = 0; link->unsent != NULL && size < IOVECS_MAX; link->unsent = link->unsent->next) {
        weir_redis_command_t *command = link->unsent;
        if (!command->is_late) {
            command->deadline_ns += now_ns - command->sent_ns;
            command->sent_ns = now_ns;
        }
        bufs[size++] = h2o_iovec_init(command->bytes, command->len);
        *bytes += command->len;
    }
    return size;
}

static void flush(weir_redis_link_t *link)
{
    h2o_iovec_t bufs[IOVECS_MAX];
    while (link->unsent != NULL && link->pending == NULL) {
        size_t bytes, size = gather(link, bufs, &bytes);
        switch (weir_sock_write(link->sock, bufs, size, &link->pending, on_written)) {
        case WEIR_WRITE_DONE:
            link->unsent_bytes -= bytes;
            break;
        case WEIR_WRITE_PENDING:
            link->pending_bytes = bytes;
            break;
        case WEIR_WRITE_FAILED:
            end_soon(link, strerrordesc_np(errno));
            return;
        }
    }
}

void weir_redis_link_flush(weir_redis_link_t *link)
{
    if (link->unsent != NULL)
        flush(link);
}

static void add(weir_redis_link_t *link, weir_redis_command_t *command, int64_t timeout_ns)
{
    command->next = NULL;
    command->is_late = false;
    command->sent_ns = weir_clock_turn_ns;
    command->deadline_ns = weir_clock_turn_ns + timeout_ns;
    if (link->last != NULL)
        link->last->next = command;
    else
        link->first = command;
    link->last = command;
    if (link->unsent == NULL)
        link->unsent = command;
    link->unsent_bytes += command->len;
}

void weir_redis_link_send(weir_redis_link_t *link, weir_redis_command_t *command, int64_t timeout_ns)
{
    assert(link->phase == READY || link->phase == STALLED);
    add(link, command, timeout_ns);
    if (link->unsent_bytes > UNSENT_BYTES_MAX && link->phase == READY) {
        link->phase = STALLED;
        link->is_untold = true;
        arm(link, weir_clock_turn_ns);
    } else if (command->deadline_ns < link->due_ns) {
        arm(link, command->deadline_ns);
    }
}

/* --- reading --- */

static void take_reply(weir_redis_link_t *link, const redisReply *reply)
{
    unsigned generation = link->generation;
    if (link->first == link->unsent) { /* none is out, or none of those that are was written */
        end(link, "it answers what was not asked");
        return;
    }
    weir_redis_command_t *command = take_first(link);
    link->replied_ns = link->read_ns;
    if (!is_greeting(link, command))
        count_reply(link, command, reply);
    command->on_reply(command, WEIR_REDIS_REPLIED, reply);
    if (link->generation == generation)
        end_stall(link);
}

/* False: there are no more. */
static bool take_next(weir_redis_link_t *link, const char **error)
{
    void *reply;
    if (redisReaderGetReply(link->reader, &reply) != REDIS_OK)
        *error = link->reader->errstr;
    if (reply == NULL)
        return false;
    take_reply(link, reply);
    weir_reply_arena_reset(&link->replies);
    return true;
}

/* The reader has copied them before the first callback: `bytes` are the worker's scratch. */
static void take_bytes(weir_redis_link_t *link, const char *bytes, size_t len)
{
    unsigned generation = link->generation;
    size_t passed;
    link->read_ns = weir_clock_turn_ns;
    link->guard.max = *link->options.reply_max;
    const char *error = weir_reply_guard_check(&link->guard, bytes, len, &passed);
    if (redisReaderFeed(link->reader, bytes, passed) != REDIS_OK)
        error = link->reader->errstr;
    while (link->generation == generation && take_next(link, &error))
        ;
    if (link->generation == generation && error != NULL)
        end(link, error);
}

static const char *tls_error(weir_redis_link_t *link, const weir_tls_t *tls)
{
    snprintf(link->tls_why, sizeof(link->tls_why), "TLS: %s", weir_tls_error(tls));
    return link->tls_why;
}

static const char *error_of(weir_redis_link_t *link, ssize_t got)
{
    const weir_tls_t *tls = weir_tls_of(link->sock);
    if (tls != NULL && weir_tls_error(tls) != NULL)
        return tls_error(link, tls);
    return got == 0 ? "it hung up" : strerrordesc_np(errno);
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    weir_redis_link_t *link = sock->data;
    ssize_t got = weir_sock_read(sock, link->worker->scratch, WEIR_SCRATCH_BYTES);
    enter(link);
    if (got > 0 && link->first == NULL)
        end(link, "it talks without being asked");
    else if (got > 0)
        take_bytes(link, link->worker->scratch, (size_t)got);
    else if (got == 0 || errno != EAGAIN)
        end(link, error_of(link, got));
    leave(link);
}

/* --- greeting --- */

/* What the server says of a command may repeat it, in quotes (`ERR unknown command 'AUTH', with args beginning with: ...`). The
 * password is not to be read anywhere. */
static size_t tellable(const char *text, const char *password)
{
    size_t len = strcspn(text, "'`\"");
    const char *found = password != NULL ? strstr(text, password) : NULL;
    return found != NULL && found < text + len ? 0 : len;
}

static void tell_refusal(weir_redis_link_t *link, const greeting_t *greeting, const char *text)
{
    static const char *const names[GREETINGS] = {"AUTH", "SELECT", "PING"};
    char why[sizeof(link->why)];
    size_t len = tellable(text, link->options.password);
    snprintf(why, sizeof(why), "it refused %s%s%.*s", names[greeting - link->greetings], len != 0 ? ": " : "", (int)len, text);
    end(link, why);
}

static void on_greeted(weir_redis_command_t *command, weir_redis_told_t told, const redisReply *reply)
{
    greeting_t *greeting = H2O_STRUCT_FROM_MEMBER(greeting_t, super, command);
    weir_redis_link_t *link = greeting->link;
    if (told == WEIR_REDIS_LOST)
        return;
    if (reply->type == REDIS_REPLY_ERROR) {
        tell_refusal(link, greeting, reply->str);
    } else if (link->first == NULL) {
        free_greetings(link);
        disarm(link);
        link->ready_ns = weir_clock_turn_ns;
        become_ready(link);
    }
}

static void add_greeting(weir_redis_link_t *link, size_t index, const weir_str_t *words, size_t word_count)
{
    greeting_t *greeting = &link->greetings[index];
    greeting->link = link;
    greeting->bytes = h2o_mem_alloc(weir_redis_format_size(words, word_count));
    greeting->super.len = weir_redis_format(greeting->bytes, words, word_count);
    greeting->super.bytes = greeting->bytes;
    greeting->super.on_reply = on_greeted;
    add(link, &greeting->super, GREETING_NS);
}

static weir_str_t word(const char *text)
{
    return (weir_str_t){text, strlen(text)};
}

static void add_greetings(weir_redis_link_t *link)
{
    const weir_redis_link_options_t *options = &link->options;
    if (options->password != NULL && options->username != NULL)
        add_greeting(link, 0, (weir_str_t[]){word("AUTH"), word(options->username), word(options->password)}, 3);
    else if (options->password != NULL)
        add_greeting(link, 0, (weir_str_t[]){word("AUTH"), word(options->password)}, 2);
    if (options->database != 0) {
        char number[24];
        snprintf(number, sizeof(number), "%lld", (long long)options->database);
        add_greeting(link, 1, (weir_str_t[]){word("SELECT"), word(number)}, 2);
    }
    add_greeting(link, 2, (weir_str_t[]){word("PING")}, 1); /* while AUTH and SELECT succeed, it may be LOADING */
}

static void greet(weir_redis_link_t *link)
{
    int on = 1;
    if (link->path == NULL)
        setsockopt(h2o_socket_get_fd(link->sock), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    link->phase = GREETING;
    weir_reply_arena_reset(&link->replies);
    link->reader = weir_reply_arena_reader(&link->replies);
    if (link->reader == NULL)
        h2o_fatal("no memory");
    weir_reply_guard_init(&link->guard, *link->options.reply_max);
    link->read_ns = link->replied_ns = weir_clock_turn_ns;
    arm(link, weir_clock_turn_ns + GREETING_NS);
    h2o_socket_dont_read(link->sock, 1);
    h2o_socket_read_start(link->sock, on_readable);
    add_greetings(link);
    flush(link);
}

/* --- TLS --- */

static void look_at_handshake(weir_redis_link_t *link)
{
    const weir_tls_t *tls = weir_tls_of(link->sock);
    if (weir_tls_error(tls) != NULL) {
        leave_address(link, tls_error(link, tls));
    } else if (weir_tls_is_ready(tls)) {
        h2o_socket_read_stop(link->sock);
        greet(link);
    }
}

static void on_handshake(h2o_socket_t *sock, const char *err)
{
    weir_redis_link_t *link = sock->data;
    ssize_t got = weir_sock_read(sock, link->worker->scratch, WEIR_SCRATCH_BYTES);
    enter(link);
    if (got >= 0)
        leave_address(link, "it talks, or hangs up, without being asked");
    else
        look_at_handshake(link);
    leave(link);
}

static void begin_handshake(weir_redis_link_t *link)
{
    link->phase = HANDSHAKE; /* what its address has left of its time goes on */
    h2o_socket_dont_read(link->sock, 1);
    weir_tls_connect(link->sock, link->options.tls, link->worker->index);
    h2o_socket_read_start(link->sock, on_handshake);
    look_at_handshake(link);
}

/* --- connecting --- */

static void on_connected(h2o_socket_t *sock, const char *err)
{
    weir_redis_link_t *link = sock->data;
    int error = weir_connect_error(sock);
    enter(link);
    if (error != 0)
        leave_address(link, strerrordesc_np(error));
    else if (link->options.tls != NULL)
        begin_handshake(link);
    else
        greet(link);
    leave(link);
}

static int64_t share_ns(const weir_redis_link_t *link)
{
    int64_t left = link->until_ns - weir_clock_turn_ns;
    return sooner(later(left / (int64_t)(link->addresses.size - link->tried), ADDRESS_NS_MIN), left);
}

static void try_address(weir_redis_link_t *link)
{
    if (link->tried == link->addresses.size || link->until_ns <= weir_clock_turn_ns) {
        end(link, link->failed);
        return;
    }
    size_t index = (link->first_address + link->tried) % link->addresses.size;
    int fd = weir_connect_begin(&link->addresses.entries[index]);
    if (fd == -1) {
        leave_address(link, strerrordesc_np(errno));
        return;
    }
    link->phase = CONNECT;
    link->sock = h2o_evloop_socket_create(link->worker->ctx.loop, fd, 0);
    link->sock->data = link;
    arm(link, weir_clock_turn_ns + share_ns(link));
    h2o_socket_notify_write(link->sock, on_connected);
}

static void take_addresses(weir_redis_link_t *link, const weir_addresses_t *addresses)
{
    if (addresses->size == 0) {
        end(link, addresses->error);
        return;
    }
    if (addresses != &link->addresses)
        link->addresses = *addresses;
    link->tried = 0;
    link->failed = "it did not take the connection in time";
    try_address(link);
}

static void on_resolved(void *argument, const weir_addresses_t *addresses)
{
    weir_redis_link_t *link = argument;
    enter(link);
    link->resolve = NULL;
    take_addresses(link, addresses);
    leave(link);
}

static void take_path(weir_redis_link_t *link)
{
    struct sockaddr_un *sun = (struct sockaddr_un *)&link->addresses.entries[0];
    *sun = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(sun->sun_path, link->path, strlen(link->path));
    link->addresses.size = 1;
    take_addresses(link, &link->addresses);
}

static void resolve(weir_redis_link_t *link)
{
    link->resolve = weir_resolver_ask(link->worker->server->resolver, link->worker, link->host, link->port, REFRESH_NS,
                                      &link->addresses, on_resolved, link);
    if (link->resolve == NULL)
        take_addresses(link, &link->addresses);
}

static void connect_anew(weir_redis_link_t *link)
{
    link->phase = RESOLVE;
    link->until_ns = weir_clock_turn_ns + CONNECT_NS;
    arm(link, link->until_ns);
    if (link->path != NULL)
        take_path(link);
    else if (link->host != NULL)
        resolve(link);
    else
        end(link, "its address is no host:port");
}

/* --- the caller's --- */

/* False: it is none. */
static bool parse_port(const char *text, uint16_t *port)
{
    unsigned number = 0;
    for (const char *at = text; *at != '\0'; ++at) {
        if (*at < '0' || *at > '9' || number > UINT16_MAX)
            return false;
        number = number * 10 + (unsigned)(*at - '0');
    }
    *port = (uint16_t)number;
    return number != 0 && number <= UINT16_MAX;
}

static void parse_address(weir_redis_link_t *link)
{
    static const char UNIX[] = "unix://";
    const char *address = link->address, *colon = strrchr(address, ':');
    if (strncmp(address, UNIX, strlen(UNIX)) == 0) {
        const char *path = address + strlen(UNIX);
        link->path = strlen(path) < sizeof(((struct sockaddr_un *)0)->sun_path) ? path : NULL;
        return;
    }
    if (colon == NULL || colon == address || !parse_port(colon + 1, &link->port))
        return;
    size_t len = (size_t)(colon - address);
    bool has_brackets = address[0] == '[' && address[len - 1] == ']';
    link->host = h2o_strdup(NULL, address + has_brackets, len - 2 * has_brackets).base;
}

weir_redis_link_t *weir_redis_link_create(const weir_redis_link_options_t *options)
{
    weir_redis_link_t *link = h2o_mem_alloc(sizeof(*link));
    memset(link, 0, offsetof(weir_redis_link_t, addresses));
    link->options = *options;
    link->worker = options->worker;
    link->address = h2o_strdup(NULL, options->address, SIZE_MAX).base;
    link->options.address = link->address;
    link->timer.cb = on_time;
    parse_address(link);
    arm(link, weir_clock_turn_ns); /* what fails at once is told later */
    return link;
}

void weir_redis_link_destroy(weir_redis_link_t *link)
{
    if (link->is_destroyed)
        return;
    enter(link);
    link->is_destroyed = true;
    shut(link, "");
    lose_all(link);
    free_greetings(link);
    leave(link);
}

bool weir_redis_link_is_ready(const weir_redis_link_t *link)
{
    return link->phase == READY;
}

const char *weir_redis_link_address(const weir_redis_link_t *link)
{
    return link->address;
}

void weir_redis_link_reconnect(weir_redis_link_t *link, const char *why)
{
    if (link->phase == CLOSED || link->is_destroyed)
        return;
    link->is_asked_to = true;
    end_soon(link, why);
}
