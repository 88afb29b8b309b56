#include "tunnel.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include "departures.h"
#include "sock_io.h"

/* One direction. `from` is read only while nothing is pending. */
typedef struct {
    weir_tunnel_t *tunnel;
    h2o_socket_t *from, *to;
    weir_departure_t departure; /* of `from` while it is not read */
    char *pending;              /* of the write under way */
    int64_t progress;           /* of that write, when the timer was started */
    uint64_t bytes;
    bool ended; /* `from` said so, and `to` was told */
} way_t;

struct weir_tunnel {
    weir_tunnel_request_t request;
    way_t up, down;
    h2o_timeout_entry_t timer; /* idle; then, with no time, the end */
    void *caller_data;         /* of the caller's socket, for its owner */
    weir_reason_t reason;
    bool is_over;
};

static void on_readable(h2o_socket_t *sock, const char *err);

static way_t *way_from(weir_tunnel_t *tunnel, const h2o_socket_t *sock)
{
    return sock == tunnel->up.from ? &tunnel->up : &tunnel->down;
}

static way_t *way_to(weir_tunnel_t *tunnel, const h2o_socket_t *sock)
{
    return sock == tunnel->up.to ? &tunnel->up : &tunnel->down;
}

/* --- the end --- */

static void on_over(h2o_timeout_entry_t *entry)
{
    weir_tunnel_t *tunnel = H2O_STRUCT_FROM_MEMBER(weir_tunnel_t, timer, entry);
    weir_reason_t reason = tunnel->reason;
    bool is_broken = reason == WEIR_REASON_CLIENT_GONE || reason == WEIR_REASON_RESET;
    if (is_broken || tunnel->up.pending != NULL)
        weir_sock_reset_on_close(tunnel->up.to);
    tunnel->request.on_end(tunnel->request.argument, reason, is_broken || tunnel->down.pending != NULL);
}

/* Told in a later step: whoever is on the stack still uses the sockets. */
static void finish(weir_tunnel_t *tunnel, weir_reason_t reason)
{
    h2o_context_t *ctx = &tunnel->request.worker->ctx;
    if (tunnel->is_over)
        return;
    tunnel->is_over = true;
    tunnel->reason = reason;
    h2o_socket_read_stop(tunnel->up.from);
    h2o_socket_read_stop(tunnel->down.from);
    tunnel->timer.cb = on_over;
    h2o_timeout_unlink(&tunnel->timer);
    h2o_timeout_link(ctx->loop, &ctx->zero_timeout, &tunnel->timer);
}

/* Who has said his end and then breaks off wants nothing more: there is nothing left to do for either side. */
static void take_break(way_t *way)
{
    weir_tunnel_t *tunnel = way->tunnel;
    if (way->ended)
        finish(tunnel, WEIR_REASON_NONE);
    else
        finish(tunnel, way == &tunnel->up ? WEIR_REASON_CLIENT_GONE : WEIR_REASON_RESET);
}

/* --- when to read --- */

/* A reset shows at once, also behind bytes that are not read; an end waits its turn. */
static void on_departure(weir_departure_t *departure)
{
    way_t *way = H2O_STRUCT_FROM_MEMBER(way_t, departure, departure);
    struct pollfd asked = {.fd = h2o_socket_get_fd(way->from)};
    if (way->tunnel->is_over || h2o_socket_is_reading(way->from))
        return;
    if (poll(&asked, 1, 0) == 1 && (asked.revents & POLLERR) != 0)
        take_break(way);
}

static void stop_reading(way_t *way)
{
    h2o_socket_read_stop(way->from);
    weir_departures_watch(way->tunnel->request.worker->departures, h2o_socket_get_fd(way->from), &way->departure);
}

/* --- time --- */

static void on_idle(h2o_timeout_entry_t *entry);

static void start_timer(weir_tunnel_t *tunnel)
{
    tunnel->timer.cb = on_idle;
    weir_timer_start(tunnel->request.worker, &tunnel->timer, tunnel->request.idle_ns);
}

/* Whether the other side took some of what it was sent since the last look. */
static bool has_moved(way_t *way)
{
    int64_t before = way->progress;
    if (way->pending == NULL)
        return false;
    way->progress = weir_sock_progress(way->to);
    return way->progress != before;
}

static void on_idle(h2o_timeout_entry_t *entry)
{
    weir_tunnel_t *tunnel = H2O_STRUCT_FROM_MEMBER(weir_tunnel_t, timer, entry);
    bool up = has_moved(&tunnel->up), down = has_moved(&tunnel->down);
    if (up || down)
        start_timer(tunnel);
    else
        finish(tunnel, WEIR_REASON_TIMEOUT_IDLE);
}

/* --- bytes --- */

static void on_written(h2o_socket_t *sock, const char *err)
{
    weir_tunnel_t *tunnel = sock->data;
    way_t *way = way_to(tunnel, sock);
    free(way->pending);
    way->pending = NULL;
    if (tunnel->is_over)
        return;
    if (err != NULL) {
        take_break(way_from(tunnel, sock));
        return;
    }
    start_timer(tunnel);
    h2o_socket_read_start(way->from, on_readable);
}

static void pass(way_t *way, const char *bytes, size_t len)
{
    h2o_iovec_t buf = h2o_iovec_init(bytes, len);
    way->bytes += len;
    start_timer(way->tunnel);
    switch (weir_sock_write(way->to, &buf, 1, &way->pending, on_written)) {
    case WEIR_WRITE_DONE:
        return;
    case WEIR_WRITE_PENDING:
        way->progress = weir_sock_progress(way->to);
        stop_reading(way);
        return;
    case WEIR_WRITE_FAILED:
        take_break(way_from(way->tunnel, way->to));
        return;
    }
}

static void pass_end(way_t *way)
{
    weir_tunnel_t *tunnel = way->tunnel;
    way->ended = true;
    stop_reading(way);
    weir_sock_end(way->to);
    start_timer(tunnel);
    if (tunnel->up.ended && tunnel->down.ended)
        finish(tunnel, WEIR_REASON_NONE);
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    weir_tunnel_t *tunnel = sock->data;
    way_t *way = way_from(tunnel, sock);
    char *scratch = tunnel->request.worker->scratch;
    ssize_t len = weir_sock_read(sock, scratch, WEIR_SCRATCH_BYTES);
    if (len > 0) {
        pass(way, scratch, (size_t)len);
        return;
    }
    if (len == -1 && errno == EAGAIN)
        return;
    /* Whom we have told our end need not answer it by TLS's rules. */
    bool is_end = len == 0 || (errno == EPROTO && way_to(tunnel, sock)->ended);
    if (is_end)
        pass_end(way);
    else
        take_break(way);
}

/* --- a tunnel's life --- */

static void begin_way(weir_tunnel_t *tunnel, way_t *way, h2o_socket_t *from, h2o_socket_t *to)
{
    *way = (way_t){.tunnel = tunnel, .from = from, .to = to, .departure.on_departure = on_departure};
    from->data = tunnel;
}

weir_tunnel_t *weir_tunnel_create(const weir_tunnel_request_t *request)
{
    weir_tunnel_t *tunnel = h2o_mem_alloc(sizeof(*tunnel));
    *tunnel = (weir_tunnel_t){.request = *request, .caller_data = request->caller->data};
    begin_way(tunnel, &tunnel->up, request->caller, request->upstream);
    begin_way(tunnel, &tunnel->down, request->upstream, request->caller);
    start_timer(tunnel);
    h2o_socket_read_start(tunnel->up.from, on_readable);
    h2o_socket_read_start(tunnel->down.from, on_readable);
    if (request->early.len != 0)
        pass(&tunnel->up, request->early.base, request->early.len);
    return tunnel;
}

uint64_t weir_tunnel_bytes_up(const weir_tunnel_t *tunnel)
{
    return tunnel->up.bytes;
}

uint64_t weir_tunnel_bytes_down(const weir_tunnel_t *tunnel)
{
    return tunnel->down.bytes;
}

void weir_tunnel_destroy(weir_tunnel_t *tunnel)
{
    h2o_socket_t *caller = tunnel->up.from;
    weir_timer_stop(&tunnel->timer);
    weir_departures_forget(tunnel->request.worker->departures, h2o_socket_get_fd(caller));
    h2o_socket_read_stop(caller);
    caller->data = tunnel->caller_data;
    free(tunnel->up.pending);
    free(tunnel->down.pending);
    free(tunnel);
}
