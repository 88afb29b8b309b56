#include "h1.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "../conf/reasons.h"
#include "departures.h"
#include "exchange.h"
#include "h1_head.h"
#include "h1_parse.h"
#include "number.h"
#include "sock_io.h"
#include "tls.h"

/* A connection's life:
 *
 *   IDLE --head--> BUSY --answered, body read--> IDLE
 *                   |  \--answered, body still coming--> REST --> IDLE
 *                   |--answered, must close--> LINGER --> closed
 *                   |--101, its head is out--> TUNNEL --ended--> LINGER, or closed
 *                   \--the caller left, his request goes on--> LEFT --ended--> closed
 *
 * IDLE also covers a head that is not whole yet. In BUSY the body is read as the exchange takes it, and what comes
 * behind it (pipelined requests) waits in sock->input. In REST and LINGER bytes are thrown away. In TUNNEL the socket is
 * another's. In LEFT there is none. */
typedef enum { IDLE, BUSY, REST, LINGER, TUNNEL, LEFT } state_t;

enum {
    ARENA_BYTES = 768,              /* for the strings of an ordinary request */
    REST_BYTES_MAX = 64 * 1024,     /* of an unwanted body that is read away to keep the connection */
    PIPELINE_BYTES_MAX = 16 * 1024, /* read ahead while a request runs */
};
static const int64_t LINGER_NS = 2000000000, LINGER_TOTAL_NS = 30000000000, DRAIN_IDLE_NS = 1000000000;

/* What exists only while a request runs. */
typedef struct {
    h2o_req_t req; /* first: an h2o_req_t is cast back */
    h2o_ostream_t ostream;
    weir_body_t *body;
    bool keep_alive, head_sent, chunked_out, broken, expects_continue;
    h2o_send_state_t sent; /* state of the write under way */
    struct {
        void (*run)(void *argument);
        bool (*leave)(void *argument);
        void *argument;
    } on_dispose;
    size_t head_bytes; /* counted in max_buffered */
    size_t arena_used;
    _Alignas(16) char arena[ARENA_BYTES];
} h1_request_t;

typedef struct h1_conn {
    h2o_conn_t super; /* first */
    h2o_socket_t *sock;
    weir_listener_t *listener; /* NULL in LEFT: the connection is counted no more */
    h1_request_t *request;
    h2o_linklist_t link;
    h2o_timeout_entry_t timer;       /* head, idle, body or linger */
    h2o_timeout_entry_t write_timer; /* a write without progress; with no time, the end of a request */
    weir_departure_t departure;
    char *pending; /* of the write under way */
    struct {
        weir_h1_chunks_t chunks;
        uint64_t left;
        bool chunked, incomplete;
    } input; /* the body of the request under way */
    size_t seen;   /* of a head that is not whole yet */
    uint64_t held_bytes; /* of sock->input, counted in max_buffered */
    int64_t linger_until_ns;
    int64_t progress; /* of the write, when its timer was started */
    uint8_t state; /* state_t */
    bool paused, served, closing, writing;
    struct {
        sa_family_t family;
        uint16_t port; /* network order */
        uint8_t address[16];
    } peer;
} h1_conn_t;

static void on_readable(h2o_socket_t *sock, const char *err);
static void on_ready_to_finish(h2o_timeout_entry_t *entry);
static void on_write_stalled(h2o_timeout_entry_t *entry);
static void finish_later(h1_conn_t *conn);
static void take_input(h1_conn_t *conn);

static weir_worker_t *worker_of(const h1_conn_t *conn)
{
    return weir_worker_of(conn->super.ctx);
}

static const weir_conf_server_t *conf_of(const h1_conn_t *conn)
{
    return &worker_of(conn)->snapshot->conf->server;
}

/* --- bytes that wait for their turn --- */

/* Counts what sock->input holds by now; false when it is more than max_buffered allows. */
static bool count_input(h1_conn_t *conn)
{
    weir_server_t *server = worker_of(conn)->server;
    uint64_t holds = conn->sock->input->size != 0 ? conn->sock->input->capacity : 0, held = conn->held_bytes;
    if (holds > held && !weir_server_buffer_reserve(server, holds - held))
        return false;
    if (holds < held)
        weir_server_buffer_release(server, held - holds);
    conn->held_bytes = holds;
    return true;
}

static bool keep_input(h1_conn_t *conn, const char *bytes, size_t len)
{
    weir_sock_keep(conn->sock, bytes, len);
    return count_input(conn);
}

static void drop_input(h1_conn_t *conn, size_t len)
{
    h2o_buffer_consume(&conn->sock->input, len);
    (void)count_input(conn); /* can only be less */
}

/* There is no room for what comes behind the request under way: its answer is the last. */
static void forget_next(h1_conn_t *conn)
{
    drop_input(conn, conn->sock->input->size);
    conn->request->keep_alive = false;
}

static bool asks_for_upgrade(const h1_request_t *request)
{
    return request->req.upgrade.len != 0;
}

static void count_tunnel(h1_conn_t *conn, int64_t change)
{
    weir_worker_t *worker = worker_of(conn);
    weir_series_t *series = &conn->listener->tunnels_series;
    if (atomic_load_explicit(series, memory_order_relaxed) == 0)
        weir_metrics_series(worker->server->metrics, series, WEIR_METRIC_TUNNELS, &conn->listener->name);
    weir_metrics_add(worker->metrics, *series, change);
}

static void dispose_request(h1_conn_t *conn)
{
    h1_request_t *request = conn->request;
    if (request == NULL)
        return;
    conn->request = NULL;
    request->body->resume = NULL;
    request->body->filler = NULL;
    request->req._generator = NULL; /* goes with what on_dispose frees, before the library looks whether to stop it */
    if (request->on_dispose.run != NULL)
        request->on_dispose.run(request->on_dispose.argument);
    h2o_dispose_request(&request->req);
    weir_body_release(request->body);
    if (conn->state == TUNNEL)
        count_tunnel(conn, -1);
    if (request->head_bytes != 0)
        weir_server_buffer_release(worker_of(conn)->server, request->head_bytes);
    h2o_mem_free_recycle(&worker_of(conn)->recycle.request, request);
}

/* Whether a clean end now would be taken for the end of an answer that has no other. */
static bool would_look_whole(const h1_conn_t *conn)
{
    const h1_request_t *request = conn->request;
    return request != NULL && request->head_sent && !request->chunked_out &&
           request->req.res.content_length == SIZE_MAX &&
           (conn->writing || request->sent != H2O_SEND_STATE_FINAL);
}

static void stop(h1_conn_t *conn)
{
    if (conn->sock != NULL && would_look_whole(conn))
        weir_sock_reset_on_close(conn->sock);
    weir_timer_stop(&conn->timer);
    weir_timer_stop(&conn->write_timer);
}

static void close_socket(h1_conn_t *conn)
{
    if (conn->sock == NULL)
        return;
    drop_input(conn, conn->sock->input->size);
    weir_sock_close(conn->sock);
    conn->sock = NULL;
    free(conn->pending);
    conn->pending = NULL;
}

/* One connection less, and another one may come. */
static void give_place_back(h1_conn_t *conn)
{
    weir_worker_t *worker = worker_of(conn);
    weir_metrics_add(worker->metrics, conn->listener->connections_series, -1);
    weir_server_connection_closed(worker, conn->listener);
}

static void close_now(h1_conn_t *conn)
{
    stop(conn);
    dispose_request(conn);
    h2o_linklist_unlink(&conn->link);
    close_socket(conn);
    if (conn->state != LEFT)
        give_place_back(conn);
    free(conn);
}

/* The caller left, and his request goes on. */
static bool goes_on(const h1_conn_t *conn)
{
    const h1_request_t *request = conn->request;
    return conn->state == BUSY && request != NULL && request->on_dispose.leave != NULL &&
           request->on_dispose.leave(request->on_dispose.argument);
}

static void leave_request(h1_conn_t *conn)
{
    stop(conn);
    conn->request->body->resume = NULL;
    conn->request->body->filler = NULL;
    close_socket(conn);
    conn->writing = conn->paused = false;
    conn->state = LEFT;
    give_place_back(conn);
    conn->listener = NULL;
}

static void close_connection(h1_conn_t *conn)
{
    if (goes_on(conn))
        leave_request(conn);
    else
        close_now(conn);
}

/* --- reading: when --- */

static void pause_reading(h1_conn_t *conn)
{
    if (conn->paused)
        return;
    conn->paused = true;
    h2o_socket_read_stop(conn->sock);
    weir_departures_watch(worker_of(conn)->departures, h2o_socket_get_fd(conn->sock), &conn->departure);
}

static void resume_reading(h1_conn_t *conn)
{
    if (!conn->paused)
        return;
    conn->paused = false;
    h2o_socket_read_start(conn->sock, on_readable);
}

static void on_departure(weir_departure_t *departure)
{
    h1_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h1_conn_t, departure, departure);
    if (conn->paused && conn->state != TUNNEL) /* else the end is read in its turn */
        close_connection(conn);
}

static void start_timer(h1_conn_t *conn, int64_t ns, h2o_timeout_cb cb)
{
    conn->timer.cb = cb;
    weir_timer_start(worker_of(conn), &conn->timer, ns);
}

/* --- the end of a connection --- */

static void on_linger_over(h2o_timeout_entry_t *entry)
{
    close_connection(H2O_STRUCT_FROM_MEMBER(h1_conn_t, timer, entry));
}

/* Says no more, and throws away what still comes for a while: a close with unread bytes would be a reset, which can
 * take the answer from the caller before he reads it (RFC 9112 9.6). */
static void linger(h1_conn_t *conn)
{
    dispose_request(conn);
    conn->state = LINGER;
    conn->linger_until_ns = weir_clock_turn_ns + LINGER_TOTAL_NS;
    drop_input(conn, conn->sock->input->size);
    weir_sock_end(conn->sock);
    start_timer(conn, LINGER_NS, on_linger_over);
    resume_reading(conn);
}

static void break_off(h1_conn_t *conn)
{
    weir_sock_reset_on_close(conn->sock);
    close_connection(conn);
}

/* --- a request's body --- */

static void on_body_stalled(h2o_timeout_entry_t *entry);

static void fail_body(h1_conn_t *conn, weir_reason_t reason)
{
    weir_body_t *body = conn->request->body;
    weir_timer_stop(&conn->timer);
    conn->request->keep_alive = false;
    body->failed = reason;
    body->resume = NULL;
    if (body->on_progress != NULL)
        body->on_progress(body);
}

static void on_body_stalled(h2o_timeout_entry_t *entry)
{
    h1_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h1_conn_t, timer, entry);
    if (conn->state == REST)
        close_connection(conn);
    else
        fail_body(conn, WEIR_REASON_TIMEOUT_CLIENT);
}

/* Adds a run of body bytes to the request's body; the reason why it cannot. */
static weir_reason_t keep_body_bytes(h1_conn_t *conn, const char *bytes, size_t len)
{
    if (conn->request == NULL)
        return WEIR_REASON_NONE;
    weir_body_t *body = conn->request->body;
    if (body->size + len > conf_of(conn)->max_body_bytes)
        return WEIR_REASON_BODY_TOO_LARGE;
    return weir_body_append(body, bytes, len) ? WEIR_REASON_NONE : WEIR_REASON_OVERLOADED;
}

static weir_reason_t take_length_body(h1_conn_t *conn, const char *bytes, size_t len, size_t *used)
{
    *used = len < conn->input.left ? len : conn->input.left;
    conn->input.left -= *used;
    conn->input.incomplete = conn->input.left != 0;
    return keep_body_bytes(conn, bytes, *used);
}

static weir_reason_t take_chunked_body(h1_conn_t *conn, const char *bytes, size_t len, size_t *used)
{
    *used = 0;
    while (*used < len) {
        weir_str_t data;
        size_t step;
        weir_h1_result_t result = weir_h1_chunks_read(&conn->input.chunks, bytes + *used, len - *used, &data, &step);
        *used += step;
        if (result == WEIR_H1_REFUSED)
            return WEIR_REASON_MALFORMED;
        weir_reason_t reason = keep_body_bytes(conn, data.base, data.len);
        if (reason != WEIR_REASON_NONE)
            return reason;
        if (conn->request != NULL && conn->request->body->size + conn->input.chunks.left > conf_of(conn)->max_body_bytes)
            return WEIR_REASON_BODY_TOO_LARGE; /* said before it comes */
        if (result == WEIR_H1_COMPLETE) {
            conn->input.incomplete = false;
            break;
        }
    }
    return WEIR_REASON_NONE;
}

/* Takes what belongs to the body from the front of the bytes. */
static weir_reason_t take_body(h1_conn_t *conn, const char *bytes, size_t len, size_t *used)
{
    weir_reason_t reason = conn->input.chunked ? take_chunked_body(conn, bytes, len, used)
                                               : take_length_body(conn, bytes, len, used);
    if (!conn->input.incomplete && conn->request != NULL)
        conn->request->body->complete = true;
    return reason;
}

static bool reader_is_behind(const weir_body_t *body)
{
    return !body->let_go && !body->whole && body->size - body->read >= WEIR_BODY_AHEAD_BYTES;
}

static void send_continue(h1_conn_t *conn)
{
    static const char answer[] = "HTTP/1.1 100 Continue\r\n\r\n";
    conn->request->expects_continue = false;
    if (conn->writing || conn->request->head_sent)
        return;
    h2o_iovec_t buf = h2o_iovec_init(answer, sizeof(answer) - 1);
    char *pending;
    if (weir_sock_write(conn->sock, &buf, 1, &pending, NULL) == WEIR_WRITE_DONE) {
        start_timer(conn, conf_of(conn)->timeouts.body_ns, on_body_stalled);
        return;
    }
    /* The connection is broken, or its caller lets earlier answers pile up so far that 25 bytes do not fit. Not closed
     * here: the call that wants the body is still on the stack. */
    conn->request->broken = true;
    finish_later(conn);
}

/* The body's reader took some, or wants none: go on reading. */
static void resume_body(weir_body_t *body)
{
    h1_conn_t *conn = body->filler;
    if (reader_is_behind(body))
        return;
    if (conn->request->expects_continue && body->size == 0 && !body->let_go)
        send_continue(conn);
    if (conn->paused) {
        start_timer(conn, conf_of(conn)->timeouts.body_ns, on_body_stalled);
        resume_reading(conn);
    }
}

/* --- answers --- */

static void finish_later(h1_conn_t *conn)
{
    conn->write_timer.cb = on_ready_to_finish;
    h2o_timeout_unlink(&conn->write_timer);
    h2o_timeout_link(conn->super.ctx->loop, &conn->super.ctx->zero_timeout, &conn->write_timer);
}

static void on_sent(h1_conn_t *conn)
{
    if (conn->request->sent == H2O_SEND_STATE_IN_PROGRESS)
        h2o_proceed_response(&conn->request->req);
    else
        finish_later(conn);
}

static void on_write_complete(h2o_socket_t *sock, const char *err)
{
    h1_conn_t *conn = sock->data;
    weir_timer_stop(&conn->write_timer);
    free(conn->pending);
    conn->pending = NULL;
    conn->writing = false;
    if (err != NULL)
        close_connection(conn);
    else
        on_sent(conn);
}

static void watch_write(h1_conn_t *conn)
{
    conn->progress = weir_sock_progress(conn->sock);
    conn->write_timer.cb = on_write_stalled;
    weir_timer_start(worker_of(conn), &conn->write_timer, conf_of(conn)->timeouts.write_ns);
}

static void on_write_stalled(h2o_timeout_entry_t *entry)
{
    h1_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h1_conn_t, write_timer, entry);
    if (weir_sock_progress(conn->sock) != conn->progress) {
        watch_write(conn);
        return;
    }
    break_off(conn);
}

static bool body_forbidden(const h2o_req_t *req)
{
    return req->res.status == 204 || req->res.status == 304 || h2o_memis(req->method.base, req->method.len, H2O_STRLIT("HEAD"));
}

/* Decides how the answer is framed and whether the connection lives on, and writes the head. */
static h2o_iovec_t begin_answer(h1_conn_t *conn, bool whole, size_t body_bytes)
{
    h1_request_t *request = conn->request;
    h2o_req_t *req = &request->req;
    weir_worker_t *worker = worker_of(conn);

    if (req->res.content_length == SIZE_MAX && whole && !body_forbidden(req))
        req->res.content_length = body_bytes;
    bool switches = req->res.status == 101;
    bool delimited = body_forbidden(req) || req->res.content_length != SIZE_MAX;
    request->chunked_out = !delimited && !switches && req->version >= 0x101;
    bool rest_is_small = !conn->input.incomplete || (!conn->input.chunked && conn->input.left <= REST_BYTES_MAX);
    if (!req->http1_is_persistent || conn->closing || worker->draining || request->expects_continue || !rest_is_small ||
        request->body->failed != WEIR_REASON_NONE || (!delimited && !request->chunked_out))
        request->keep_alive = false;
    request->head_sent = true;
    return weir_h1_head_of(req, &(weir_h1_answer_framing_t){.chunked = request->chunked_out,
                                                            .keep_alive = request->keep_alive,
                                                            .no_length = req->res.content_length == SIZE_MAX,
                                                            .upgrade = switches},
                           worker->scratch_names, WEIR_NAMES_BYTES);
}

enum { CHUNK_HEAD_BYTES_MAX = WEIR_NUMBER_BYTES_MAX + 2 };

static size_t write_chunk_head(char *out, size_t bytes)
{
    size_t len = weir_number_hex(out, bytes);
    memcpy(out + len, "\r\n", 2);
    return len + 2;
}

/* The framing of an answer's bytes: at most one chunk of all that is sent at once. */
static size_t frame(h1_request_t *request, h2o_iovec_t *out, const h2o_iovec_t *bufs, size_t count, size_t bytes,
                    h2o_send_state_t state, char *chunk_head)
{
    size_t n = 0;
    bool chunked = request->chunked_out && !body_forbidden(&request->req);
    if (body_forbidden(&request->req))
        count = bytes = 0;
    if (chunked && bytes != 0)
        out[n++] = h2o_iovec_init(chunk_head, write_chunk_head(chunk_head, bytes));
    for (size_t i = 0; i < count; ++i)
        if (bufs[i].len != 0)
            out[n++] = bufs[i];
    if (chunked && bytes != 0)
        out[n++] = h2o_iovec_init(H2O_STRLIT("\r\n"));
    if (chunked && state == H2O_SEND_STATE_FINAL)
        out[n++] = h2o_iovec_init(H2O_STRLIT("0\r\n\r\n"));
    return n;
}

static void write_out(h1_conn_t *conn, h2o_iovec_t *bufs, size_t count)
{
    weir_write_result_t result = count == 0 ? WEIR_WRITE_DONE
                                            : weir_sock_write(conn->sock, bufs, count, &conn->pending, on_write_complete);
    switch (result) {
    case WEIR_WRITE_DONE:
        on_sent(conn);
        return;
    case WEIR_WRITE_PENDING:
        conn->writing = true;
        watch_write(conn);
        return;
    case WEIR_WRITE_FAILED:
        /* Not closed here: the exchange that sends is still on the stack. */
        conn->request->broken = true;
        finish_later(conn);
        return;
    }
}

static void ostream_send(h2o_ostream_t *ostream, h2o_req_t *req, h2o_iovec_t *bufs, size_t count, h2o_send_state_t state)
{
    h1_conn_t *conn = (h1_conn_t *)req->conn;
    h1_request_t *request = conn->request;
    h2o_iovec_t out[count + 4];
    char chunk_head[CHUNK_HEAD_BYTES_MAX];
    size_t bytes = 0, n = 0;

    for (size_t i = 0; i < count; ++i)
        bytes += bufs[i].len;
    if (request->broken)
        return;
    request->sent = state;
    if (state == H2O_SEND_STATE_ERROR) {
        request->broken = true;
        finish_later(conn);
        return;
    }
    req->bytes_sent += body_forbidden(req) ? 0 : bytes;
    if (!request->head_sent)
        out[n++] = begin_answer(conn, state == H2O_SEND_STATE_FINAL, bytes);
    n += frame(request, out + n, bufs, count, bytes, state, chunk_head);
    write_out(conn, out, n);
}

/* --- between requests --- */

static void on_idle_over(h2o_timeout_entry_t *entry)
{
    close_connection(H2O_STRUCT_FROM_MEMBER(h1_conn_t, timer, entry));
}

static void be_idle(h1_conn_t *conn)
{
    conn->state = IDLE;
    conn->seen = 0;
    conn->served = true;
    bool ends_soon = conn->closing || worker_of(conn)->draining;
    start_timer(conn, ends_soon ? DRAIN_IDLE_NS : conf_of(conn)->timeouts.idle_ns, on_idle_over);
    if (conn->sock->input->size != 0)
        take_input(conn);
    else
        resume_reading(conn);
}

static void on_ready_to_finish(h2o_timeout_entry_t *entry)
{
    h1_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h1_conn_t, write_timer, entry);
    h1_request_t *request = conn->request;

    if (request->broken) {
        close_connection(conn);
    } else if (!request->keep_alive) {
        linger(conn);
    } else if (conn->input.incomplete) {
        conn->state = REST;
        dispose_request(conn);
        start_timer(conn, conf_of(conn)->timeouts.body_ns, on_body_stalled);
        resume_reading(conn);
    } else {
        dispose_request(conn);
        be_idle(conn);
    }
}

/* --- requests --- */

static h1_request_t *create_request(h1_conn_t *conn, uint64_t declared_body)
{
    weir_worker_t *worker = worker_of(conn);
    h1_request_t *request = h2o_mem_alloc_recycle(&worker->recycle.request, sizeof(*request));
    memset((char *)request + sizeof(request->req), 0, offsetof(h1_request_t, arena) - sizeof(request->req));
    h2o_init_request(&request->req, &conn->super, NULL);
    request->ostream.do_send = ostream_send;
    request->req._ostr_top = &request->ostream;
    request->body = weir_body_create(worker, declared_body);
    request->body->filler = conn;
    request->body->resume = resume_body;
    conn->request = request;
    conn->state = BUSY;
    weir_timer_stop(&conn->timer);
    return request;
}

static void refuse(h1_conn_t *conn, weir_reason_t reason, int status, const char *detail)
{
    if (conn->request == NULL)
        create_request(conn, 0);
    conn->input.incomplete = false;
    h1_request_t *request = conn->request;
    request->keep_alive = false;
    request->req.http1_is_persistent = 0;
    if (request->req.input.scheme == NULL) { /* its head was not read */
        request->req.version = 0x101;
        request->req.input.scheme = &H2O_URL_SCHEME_HTTP;
        request->req.input.method = request->req.input.path = request->req.input.authority = h2o_iovec_init(H2O_STRLIT(""));
    }
    weir_exchange_refuse(&request->req, reason, status, detail);
}

static void begin_body(h1_conn_t *conn, const weir_h1_request_t *head)
{
    conn->input.chunked = head->framing == WEIR_H1_BODY_CHUNKED;
    conn->input.chunks = (weir_h1_chunks_t){0};
    conn->input.left = head->framing == WEIR_H1_BODY_LENGTH ? head->content_length : 0;
    conn->input.incomplete = conn->input.chunked || conn->input.left != 0;
    conn->request->body->complete = !conn->input.incomplete;
}

static void refuse_body(h1_conn_t *conn, weir_reason_t reason)
{
    refuse(conn, reason, weir_reason_status(reason), NULL);
}

/* Counts a head that needs more than the arena: it is held here, and once more as it goes up. */
static bool count_head(h1_conn_t *conn, size_t size)
{
    if (size <= ARENA_BYTES)
        return true;
    if (!weir_server_buffer_reserve(worker_of(conn)->server, 2 * size))
        return false;
    conn->request->head_bytes = 2 * size;
    return true;
}

/* A whole head: takes what is here of the body, keeps what is behind, and hands the request on. Returns the bytes used. */
static size_t begin_request(h1_conn_t *conn, const weir_h1_request_t *head, const char *bytes, size_t len)
{
    uint64_t declared = head->framing == WEIR_H1_BODY_CHUNKED ? UINT64_MAX : head->content_length;
    h1_request_t *request = create_request(conn, head->framing == WEIR_H1_BODY_NONE ? 0 : declared);
    weir_h1_head_take(&request->req, head, weir_tls_of(conn->sock) != NULL);
    request->keep_alive = head->keep_alive;
    begin_body(conn, head);
    if (head->framing == WEIR_H1_BODY_LENGTH && head->content_length > conf_of(conn)->max_body_bytes) {
        refuse_body(conn, WEIR_REASON_BODY_TOO_LARGE);
        return len;
    }
    if (!count_head(conn, head->size)) {
        refuse_body(conn, WEIR_REASON_OVERLOADED);
        return len;
    }
    size_t used = 0;
    if (conn->input.incomplete) {
        weir_reason_t reason = take_body(conn, bytes + head->size, len - head->size, &used);
        if (reason != WEIR_REASON_NONE) {
            refuse_body(conn, reason);
            return len;
        }
    }
    /* who sends the body with the head does not wait */
    request->expects_continue = head->expect_continue && conn->input.incomplete && used == 0;
    return head->size + used;
}

static void process_request(h1_conn_t *conn)
{
    h2o_req_t *req = &conn->request->req;
    h2o_hostconf_t *hostconf = conn->super.hosts[0];
    h2o_pathconf_t *path = &hostconf->paths.entries[0];
    if (conn->input.incomplete && !conn->request->expects_continue && !conn->paused)
        start_timer(conn, conf_of(conn)->timeouts.body_ns, on_body_stalled);
    /* What h2o_process_request does, less the time stamps and the path that it would make in the pool. */
    req->scheme = req->input.scheme;
    req->method = req->input.method;
    req->authority = req->input.authority;
    req->path = req->input.path;
    h2o_req_bind_conf(req, hostconf, path);
    path->handlers.entries[0]->on_req(path->handlers.entries[0], req);
}

static void on_head_late(h2o_timeout_entry_t *entry)
{
    h1_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h1_conn_t, timer, entry);
    if (conn->sock->input->size == 0) {
        close_connection(conn);
        return;
    }
    refuse(conn, WEIR_REASON_TIMEOUT_CLIENT, 408, "the head of the request did not arrive in time");
}

/* Of a head that is refused, what was read right: all of it where only what it asks for is refused, else no more than
 * the request line. */
static void take_refused_head(h1_conn_t *conn, weir_h1_request_t *head)
{
    create_request(conn, 0);
    if (head->status != 405 && head->status != 417 && head->status != 501) {
        head->field_count = 0;
        head->authority = head->upgrade = (weir_str_t){"", 0};
        head->minor_version = 1;
    }
    weir_h1_head_take(&conn->request->req, head, weir_tls_of(conn->sock) != NULL);
}

/* Reads a head from the front of the bytes. Returns how many were used; the rest is kept by the caller. *begun: a
 * request is there that process_request is to be called for, once the rest is kept. */
static size_t take_head(h1_conn_t *conn, char *bytes, size_t len, bool *begun)
{
    weir_h1_request_t head;
    *begun = false;
    uint64_t head_max = conf_of(conn)->max_head_bytes;
    assert(head_max <= WEIR_NAMES_BYTES);
    switch (weir_h1_parse_request(bytes, len, conn->seen, head_max, worker_of(conn)->scratch_names, &head)) {
    case WEIR_H1_INCOMPLETE:
        /* From the first byte of a later request on, its own time runs; that of a fresh connection runs already,
         * but for one that was to end soon. */
        if (conn->seen == 0 && (conn->served || conn->closing))
            start_timer(conn, conf_of(conn)->timeouts.head_ns, on_head_late);
        conn->seen = len;
        return 0;
    case WEIR_H1_REFUSED:
        take_refused_head(conn, &head);
        refuse(conn, head.reason, head.status, head.detail);
        return len;
    case WEIR_H1_COMPLETE:
        break;
    }
    size_t used = begin_request(conn, &head, bytes, len);
    *begun = !conn->request->head_sent;
    return used;
}

/* A head from what was kept. */
static void take_input(h1_conn_t *conn)
{
    bool begun;
    size_t used = take_head(conn, conn->sock->input->bytes, conn->sock->input->size, &begun);
    drop_input(conn, used);
    if (begun)
        process_request(conn);
    else if (conn->state == IDLE)
        resume_reading(conn);
}

static void on_idle_bytes(h1_conn_t *conn, char *bytes, size_t len)
{
    if (conn->sock->input->size != 0) {
        if (keep_input(conn, bytes, len))
            take_input(conn);
        else
            refuse(conn, WEIR_REASON_OVERLOADED, 503, NULL);
        return;
    }
    bool begun;
    size_t used = take_head(conn, bytes, len, &begun);
    bool fits = keep_input(conn, bytes + used, len - used);
    if (!fits && conn->state == IDLE)
        refuse(conn, WEIR_REASON_OVERLOADED, 503, NULL);
    else if (begun && !fits && asks_for_upgrade(conn->request))
        refuse_body(conn, WEIR_REASON_OVERLOADED); /* what is lost may be no request */
    else if (begun) {
        if (!fits)
            forget_next(conn);
        process_request(conn);
    }
}

static void on_body_bytes(h1_conn_t *conn, const char *bytes, size_t len)
{
    size_t used;
    weir_reason_t reason = take_body(conn, bytes, len, &used);
    if (conn->state == REST) {
        if (reason != WEIR_REASON_NONE) {
            close_connection(conn);
            return;
        }
        (void)keep_input(conn, bytes + used, len - used);
        if (conn->input.incomplete)
            start_timer(conn, conf_of(conn)->timeouts.body_ns, on_body_stalled);
        else
            be_idle(conn);
        return;
    }
    if (reason != WEIR_REASON_NONE) {
        pause_reading(conn);
        fail_body(conn, reason);
        return;
    }
    if (!keep_input(conn, bytes + used, len - used))
        forget_next(conn);
    weir_body_t *body = conn->request->body;
    if (body->size != 0)
        conn->request->expects_continue = false; /* he did not wait for it */
    if (!conn->input.incomplete)
        weir_timer_stop(&conn->timer);
    else
        start_timer(conn, conf_of(conn)->timeouts.body_ns, on_body_stalled);
    if (body->on_progress != NULL)
        body->on_progress(body);
    /* on_progress only ever ends the request in a later step of this turn: conn and request are still here */
    if (conn->input.incomplete && reader_is_behind(body)) {
        weir_timer_stop(&conn->timer);
        pause_reading(conn);
    }
}

static void on_busy_bytes(h1_conn_t *conn, const char *bytes, size_t len)
{
    if (conn->input.incomplete) {
        if (conn->request->body->failed == WEIR_REASON_NONE)
            on_body_bytes(conn, bytes, len);
        return;
    }
    if (!conn->request->keep_alive)
        return;
    if (!keep_input(conn, bytes, len)) {
        forget_next(conn);
        if (asks_for_upgrade(conn->request))
            fail_body(conn, WEIR_REASON_OVERLOADED);
    } else if (conn->sock->input->size >= PIPELINE_BYTES_MAX)
        pause_reading(conn);
}

/* Who is refused, or cannot get in, is told little; who runs weir can be. */
static void log_handshake(const h1_conn_t *conn)
{
    const weir_tls_t *tls = weir_tls_of(conn->sock);
    if (tls != NULL && weir_tls_error(tls) != NULL && !conn->served && conn->request == NULL)
        weir_log_event(WEIR_LOG_DEBUG, "listener %s: a TLS connection failed: %s", conn->listener->name,
                       weir_tls_error(tls));
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    h1_conn_t *conn = sock->data;
    weir_worker_t *worker = worker_of(conn);
    ssize_t len = err == NULL ? weir_sock_read(sock, worker->scratch, WEIR_SCRATCH_BYTES) : 0;

    if (len == -1 && errno == EAGAIN)
        return;
    if (len <= 0) {
        log_handshake(conn);
        close_connection(conn);
        return;
    }
    switch ((state_t)conn->state) {
    case IDLE:
        on_idle_bytes(conn, worker->scratch, (size_t)len);
        return;
    case BUSY:
        on_busy_bytes(conn, worker->scratch, (size_t)len);
        return;
    case REST:
        on_body_bytes(conn, worker->scratch, (size_t)len);
        return;
    case LINGER:
        if (weir_clock_turn_ns < conn->linger_until_ns)
            start_timer(conn, LINGER_NS, on_linger_over);
        else
            close_connection(conn);
        return;
    case TUNNEL:
    case LEFT:
        break;
    }
    h2o_fatal("there is no socket, or it is read by others");
}

/* --- the protocol's seam --- */

static socklen_t get_sockname(h2o_conn_t *super, struct sockaddr *sa)
{
    return h2o_socket_getsockname(((h1_conn_t *)super)->sock, sa);
}

static socklen_t get_peername(h2o_conn_t *super, struct sockaddr *sa)
{
    h1_conn_t *conn = (h1_conn_t *)super;
    if (conn->peer.family == AF_INET) {
        struct sockaddr_in *sin = (struct sockaddr_in *)sa;
        *sin = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = conn->peer.port};
        memcpy(&sin->sin_addr, conn->peer.address, sizeof(sin->sin_addr));
        return sizeof(*sin);
    }
    if (conn->peer.family == AF_INET6) {
        struct sockaddr_in6 *sin6 = (struct sockaddr_in6 *)sa;
        *sin6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = conn->peer.port};
        memcpy(&sin6->sin6_addr, conn->peer.address, sizeof(sin6->sin6_addr));
        return sizeof(*sin6);
    }
    sa->sa_family = AF_UNIX;
    return sizeof(sa->sa_family);
}

static h2o_socket_t *get_socket(h2o_conn_t *super)
{
    return ((h1_conn_t *)super)->sock;
}

static void remember_peer(h1_conn_t *conn)
{
    struct sockaddr_storage address;
    struct sockaddr *sa = (struct sockaddr *)&address;
    conn->peer.family = AF_UNIX;
    socklen_t len = sizeof(address);
    if (getpeername(h2o_socket_get_fd(conn->sock), sa, &len) != 0)
        return;
    if (sa->sa_family == AF_INET) {
        conn->peer.family = AF_INET;
        conn->peer.port = ((struct sockaddr_in *)sa)->sin_port;
        memcpy(conn->peer.address, &((struct sockaddr_in *)sa)->sin_addr, 4);
    } else if (sa->sa_family == AF_INET6) {
        const struct in6_addr *ip = &((struct sockaddr_in6 *)sa)->sin6_addr;
        bool is_mapped = IN6_IS_ADDR_V4MAPPED(ip); /* IPv4 on a socket for both */
        conn->peer.family = is_mapped ? AF_INET : AF_INET6;
        conn->peer.port = ((struct sockaddr_in6 *)sa)->sin6_port;
        memcpy(conn->peer.address, ip->s6_addr + (is_mapped ? 12 : 0), is_mapped ? 4 : 16);
    }
}

void weir_h1_accept(weir_worker_t *worker, h2o_socket_t *sock, weir_listener_t *listener)
{
    static const h2o_conn_callbacks_t callbacks = {
        .get_sockname = get_sockname, .get_peername = get_peername, .get_socket = get_socket};
    struct timeval connected_at = {0};
    h1_conn_t *conn = (h1_conn_t *)h2o_create_connection(sizeof(*conn), &worker->ctx, worker->ctx.globalconf->hosts,
                                                         connected_at, &callbacks);
    memset((char *)conn + sizeof(conn->super), 0, sizeof(*conn) - sizeof(conn->super));
    conn->sock = sock;
    conn->listener = listener;
    conn->departure.on_departure = on_departure;
    sock->data = conn;
    remember_peer(conn);
    h2o_linklist_insert(&worker->connections, &conn->link);
    weir_server_connection_opened(worker, listener);
    if (listener->connections_series == 0)
        weir_metrics_series(worker->server->metrics, &listener->connections_series, WEIR_METRIC_CONNECTIONS, &listener->name);
    weir_metrics_add(worker->metrics, listener->connections_series, 1);
    start_timer(conn, conf_of(conn)->timeouts.head_ns, on_head_late);
    h2o_socket_dont_read(sock, 1);
    h2o_socket_read_start(sock, on_readable);
}

weir_listener_t *weir_h1_listener(h2o_req_t *req)
{
    return ((h1_conn_t *)req->conn)->listener;
}

void *weir_h1_alloc(h2o_req_t *req, size_t size)
{
    h1_request_t *request = (h1_request_t *)req;
    size = (size + 15) & ~(size_t)15;
    if (sizeof(request->arena) - request->arena_used < size)
        return h2o_mem_alloc_pool(&req->pool, size);
    void *memory = request->arena + request->arena_used;
    request->arena_used += size;
    return memory;
}

void weir_h1_on_dispose(h2o_req_t *req, void (*on_dispose)(void *argument), void *argument)
{
    h1_request_t *request = (h1_request_t *)req;
    request->on_dispose.run = on_dispose;
    request->on_dispose.argument = argument;
}

void weir_h1_on_leave(h2o_req_t *req, bool (*leave)(void *argument))
{
    ((h1_request_t *)req)->on_dispose.leave = leave;
}

void weir_h1_end_left(h2o_req_t *req)
{
    h1_request_t *request = (h1_request_t *)req;
    request->broken = true;
    finish_later((h1_conn_t *)req->conn);
}

bool weir_h1_is_sent(h2o_req_t *req)
{
    return !((h1_conn_t *)req->conn)->writing && !((h1_request_t *)req)->broken;
}

int64_t weir_h1_progress(h2o_req_t *req)
{
    return weir_sock_progress(((h1_conn_t *)req->conn)->sock);
}

weir_body_t *weir_h1_body(h2o_req_t *req)
{
    return ((h1_request_t *)req)->body;
}

h2o_socket_t *weir_h1_begin_tunnel(h2o_req_t *req, h2o_buffer_t **early)
{
    h1_conn_t *conn = (h1_conn_t *)req->conn;
    assert(conn->state == BUSY && conn->request->head_sent && !conn->writing);
    conn->state = TUNNEL;
    conn->paused = true;
    h2o_socket_read_stop(conn->sock);
    count_tunnel(conn, 1);
    *early = conn->sock->input;
    h2o_buffer_init(&conn->sock->input, &h2o_socket_buffer_prototype);
    (void)count_input(conn);
    return conn->sock;
}

static void end_soon(h1_conn_t *conn)
{
    conn->closing = true;
    if (conn->state == IDLE && conn->sock->input->size == 0)
        start_timer(conn, DRAIN_IDLE_NS, on_idle_over);
}

static void end_soon_all(weir_worker_t *worker, const weir_listener_t *listener)
{
    h2o_linklist_t *next;
    for (h2o_linklist_t *node = worker->connections.next; node != &worker->connections; node = next) {
        next = node->next;
        h1_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h1_conn_t, link, node);
        if (listener == NULL || conn->listener == listener)
            end_soon(conn);
    }
}

void weir_h1_drain(weir_worker_t *worker)
{
    end_soon_all(worker, NULL);
}

void weir_h1_retire(weir_worker_t *worker, weir_listener_t *listener)
{
    end_soon_all(worker, listener);
}

void weir_h1_close_all(weir_worker_t *worker)
{
    while (!h2o_linklist_is_empty(&worker->connections)) {
        h1_conn_t *conn = H2O_STRUCT_FROM_MEMBER(h1_conn_t, link, worker->connections.next);
        if (conn->state == TUNNEL || (conn->state == BUSY && !conn->request->head_sent))
            fail_body(conn, WEIR_REASON_DRAINING); /* the exchange answers; nothing is freed before the turn's end */
        close_now(conn);
    }
}
