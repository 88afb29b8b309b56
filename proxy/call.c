#include "call.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "../conf/reasons.h"
#include "number.h"
#include "resolver.h"
#include "sock_io.h"
#include "upstream.h"

/* A call's phases go one way, but that a kept-alive connection which turns out to be dead sends it back once:
 *
 *   PERMIT -> RESOLVE -> CONNECT -> HEAD -> BODY -> (ended)
 *      \------ a parked connection -----^
 *
 * The request is sent during HEAD, and goes on during BODY if the answer began before its end. One timer a phase, and
 * one for all of it. */
typedef enum { PHASE_PERMIT, PHASE_RESOLVE, PHASE_CONNECT, PHASE_HEAD, PHASE_BODY } phase_t;

enum {
    ANSWER_HEAD_BYTES_MAX = 64 * 1024,
    INTERIM_HEADS_MAX = 32,
    WRITE_BYTES_MAX = 256 * 1024,
    RUNS_MAX = 2 * WEIR_SPLICES_MAX + 1, /* of a body with splices */
    PARKED_LONG_NS = 100 * 1000 * 1000, /* beyond this a parked connection is looked at before a request that cannot be repeated */
};

struct weir_call {
    weir_call_request_t request;
    const weir_conf_upstream_t *conf;
    weir_upstream_t *upstream;
    weir_upconn_t *conn;
    phase_t phase;
    h2o_timeout_entry_t phase_timer, total_timer;
    /* PERMIT, RESOLVE, CONNECT */
    weir_permit_wait_t *wait;
    bool has_permit; /* that is not a connection's yet */
    weir_resolve_t *resolve;
    weir_addresses_t *addresses;
    size_t address;
    h2o_socket_t *connecting;
    /* sending */
    char *pending;
    uint64_t sent;
    bool head_sent, all_sent, any_sent, writing, send_failed, chunked, fresh_only;
    /* reading */
    weir_h1_chunks_t chunks;
    uint64_t left;
    size_t seen;
    int interim_heads;
    weir_h1_framing_t framing;
    int status;
    bool keep_alive, paused, any_byte;
    int64_t keep_alive_timeout_ns;
    weir_call_stats_t stats;
};

static void connect_next(weir_call_t *call);
static void on_readable(h2o_socket_t *sock, const char *err);
static void send_more(weir_call_t *call);
static void seek_connection(weir_call_t *call);

/* --- the end --- */

static void leave_connection(weir_call_t *call)
{
    if (call->wait != NULL)
        weir_upstream_stop_waiting(call->wait);
    if (call->resolve != NULL)
        weir_resolve_cancel(call->resolve);
    if (call->connecting != NULL)
        h2o_socket_close(call->connecting);
    if (call->has_permit)
        weir_upstream_give_permit_back(call->upstream, call->request.worker);
    if (call->conn != NULL)
        weir_upconn_close(call->conn);
    call->has_permit = false;
    call->wait = NULL;
    call->resolve = NULL;
    call->connecting = NULL;
    call->conn = NULL;
    free(call->pending);
    call->pending = NULL;
    call->writing = false;
}

static void destroy(weir_call_t *call)
{
    weir_timer_stop(&call->phase_timer);
    weir_timer_stop(&call->total_timer);
    leave_connection(call);
    free(call->addresses);
    free(call->request.head.base);
    weir_body_release(call->request.body);
    weir_worker_let_go(call->request.worker, call->request.snapshot);
    h2o_mem_free_recycle(&call->request.worker->recycle.call, call);
}

static void account(weir_call_t *call, weir_reason_t reason)
{
    weir_worker_t *worker = call->request.worker;
    weir_call_stats_t *stats = &call->stats;
    weir_upstream_count(call->upstream, worker, call->status, reason);
    weir_upstream_observe(call->upstream, worker, stats->first_byte_ns != 0 ? stats->first_byte_ns - stats->began_ns : -1,
                          weir_clock_turn_ns - stats->began_ns);
}

static void fail(weir_call_t *call, weir_reason_t reason, const char *detail)
{
    weir_sink_t *sink = call->request.sink;
    weir_call_news_t news = {.ended = true, .reason = reason, .detail = detail};
    leave_connection(call);
    account(call, reason);
    sink->news(sink, &news);
    destroy(call);
}

void weir_call_cancel(weir_call_t *call, weir_reason_t reason)
{
    account(call, reason);
    destroy(call);
}

/* Whether the whole answer leaves a connection that the next call can use. */
static bool can_be_parked(const weir_call_t *call)
{
    return call->keep_alive && call->all_sent && !call->writing && call->conn->sock->input->size == 0;
}

static void end_whole(weir_call_t *call)
{
    weir_timer_stop(&call->phase_timer);
    account(call, WEIR_REASON_NONE);
    if (can_be_parked(call)) {
        weir_upconn_t *conn = call->conn;
        call->conn = NULL;
        weir_upconn_park(conn, call->keep_alive_timeout_ns);
    }
    destroy(call);
}

/* --- time --- */

static void on_phase_late(h2o_timeout_entry_t *entry)
{
    weir_call_t *call = H2O_STRUCT_FROM_MEMBER(weir_call_t, phase_timer, entry);
    switch (call->phase) {
    case PHASE_PERMIT:
        fail(call, WEIR_REASON_OVERLOADED, "all connections to the upstream are in use");
        return;
    case PHASE_RESOLVE:
        fail(call, WEIR_REASON_TIMEOUT_CONNECT, "the upstream's name was not resolved in time");
        return;
    case PHASE_CONNECT:
        h2o_socket_close(call->connecting);
        call->connecting = NULL;
        if (++call->address < call->addresses->size)
            connect_next(call);
        else
            fail(call, WEIR_REASON_TIMEOUT_CONNECT, NULL);
        return;
    case PHASE_HEAD:
        fail(call, WEIR_REASON_TIMEOUT_FIRST_BYTE, NULL);
        return;
    case PHASE_BODY:
        fail(call, WEIR_REASON_TIMEOUT_IDLE, NULL);
        return;
    }
}

static void on_total_late(h2o_timeout_entry_t *entry)
{
    fail(H2O_STRUCT_FROM_MEMBER(weir_call_t, total_timer, entry), WEIR_REASON_TIMEOUT_TOTAL, NULL);
}

static void start_phase(weir_call_t *call, phase_t phase, int64_t timeout_ns)
{
    call->phase = phase;
    weir_timer_start(call->request.worker, &call->phase_timer, timeout_ns);
}

/* --- a connection --- */

static void use_connection(weir_call_t *call, weir_upconn_t *conn)
{
    free(call->addresses);
    call->addresses = NULL;
    call->conn = conn;
    conn->call = call;
    call->stats.connected_ns = weir_clock_turn_ns;
    start_phase(call, PHASE_HEAD, call->conf->timeouts.first_byte_ns);
    h2o_socket_read_start(conn->sock, on_readable);
    send_more(call);
}

static void on_connected(h2o_socket_t *sock, const char *err)
{
    weir_call_t *call = sock->data;
    int error = 0;
    socklen_t len = sizeof(error);
    if (getsockopt(h2o_socket_get_fd(sock), SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error != 0) {
        h2o_socket_close(sock);
        call->connecting = NULL;
        ++call->address;
        connect_next(call);
        return;
    }
    call->connecting = NULL;
    call->has_permit = false;
    use_connection(call, weir_upconn_create(call->upstream, call->request.worker, sock));
}

static int open_socket(const struct sockaddr *address, socklen_t len)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return -1;
    int on = 1;
    if (address->sa_family != AF_UNIX)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(fd, address, len) == 0 || errno == EINPROGRESS)
        return fd;
    close(fd);
    return -1;
}

static socklen_t length_of(const struct sockaddr_storage *address)
{
    switch (address->ss_family) {
    case AF_INET:
        return sizeof(struct sockaddr_in);
    case AF_INET6:
        return sizeof(struct sockaddr_in6);
    default:
        return sizeof(struct sockaddr_un);
    }
}

/* The next address that takes a connection attempt; all of them failed at the end. */
static void connect_next(weir_call_t *call)
{
    for (; call->address < call->addresses->size; ++call->address) {
        const struct sockaddr_storage *address = &call->addresses->entries[call->address];
        int fd = open_socket((const struct sockaddr *)address, length_of(address));
        if (fd == -1)
            continue;
        call->connecting = h2o_evloop_socket_create(call->request.worker->ctx.loop, fd, 0);
        call->connecting->data = call;
        start_phase(call, PHASE_CONNECT, call->conf->timeouts.connect_ns);
        h2o_socket_notify_write(call->connecting, on_connected);
        return;
    }
    fail(call, WEIR_REASON_CONNECT_FAILED, NULL);
}

static void on_resolved(void *argument, const weir_addresses_t *addresses)
{
    weir_call_t *call = argument;
    call->resolve = NULL;
    if (addresses->size == 0) {
        fail(call, WEIR_REASON_DNS_FAILED, addresses->error);
        return;
    }
    *call->addresses = *addresses;
    connect_next(call);
}

static void resolve(weir_call_t *call)
{
    const weir_conf_upstream_t *conf = call->conf;
    call->has_permit = true;
    if (call->addresses == NULL)
        call->addresses = h2o_mem_alloc(sizeof(*call->addresses));
    call->address = 0;
    start_phase(call, PHASE_RESOLVE, conf->timeouts.connect_ns);
    if (conf->url.kind == WEIR_UPSTREAM_UNIX) {
        struct sockaddr_un *sun = (struct sockaddr_un *)&call->addresses->entries[0];
        *sun = (struct sockaddr_un){.sun_family = AF_UNIX};
        strncpy(sun->sun_path, conf->url.path, sizeof(sun->sun_path) - 1);
        call->addresses->size = 1;
        connect_next(call);
        return;
    }
    call->resolve = weir_resolver_ask(call->request.worker->server->resolver, call->request.worker, conf->url.host,
                                      conf->url.port, conf->dns.refresh_ns, call->addresses, on_resolved, call);
    if (call->resolve == NULL)
        on_resolved(call, call->addresses);
}

static void on_permit(void *argument, weir_upconn_t *conn)
{
    weir_call_t *call = argument;
    call->wait = NULL;
    if (conn != NULL)
        use_connection(call, conn);
    else
        resolve(call);
}

static weir_upconn_t *take_parked(weir_call_t *call)
{
    weir_upconn_t *conn;
    while ((conn = weir_upstream_take_parked(call->upstream, call->request.worker)) != NULL) {
        bool doubtful = !call->request.is_idempotent && weir_clock_turn_ns - conn->parked_ns > PARKED_LONG_NS;
        if (!doubtful || weir_upconn_is_open(conn))
            return conn;
        weir_upconn_close(conn);
    }
    return NULL;
}

static void seek_connection(weir_call_t *call)
{
    ++call->stats.attempts;
    call->stats.connecting_ns = weir_clock_turn_ns;
    weir_upconn_t *conn = call->fresh_only ? NULL : take_parked(call);
    if (conn != NULL) {
        use_connection(call, conn);
        return;
    }
    start_phase(call, PHASE_PERMIT, call->conf->timeouts.connect_ns);
    if (weir_upstream_ask_permit(call->upstream, call->request.worker, &call->wait, on_permit, call))
        resolve(call);
}

/* --- sending --- */

static void on_written(h2o_socket_t *sock, const char *err)
{
    weir_upconn_t *conn = sock->data;
    weir_call_t *call = conn->call;
    free(call->pending);
    call->pending = NULL;
    call->writing = false;
    if (err != NULL)
        call->send_failed = true; /* what the upstream still said is read first */
    else
        send_more(call);
}

typedef struct {
    h2o_iovec_t bufs[4 + RUNS_MAX];
    size_t count;
    char framing[64];
} piece_t;

static void add(piece_t *piece, const char *base, size_t len)
{
    piece->bufs[piece->count++] = h2o_iovec_init(base, len);
}

/* The field that frames the body, and the end of the head. */
static void add_head(weir_call_t *call, piece_t *piece)
{
    static const char chunked[] = "Transfer-Encoding: chunked\r\n", length[] = "Content-Length: ";
    const weir_body_t *body = call->request.body;
    const weir_splices_t *splices = &call->request.splices;
    uint64_t bytes = splices->count != 0 || body->declared == UINT64_MAX ? weir_body_size_out(body, splices) : body->declared;
    char *at = piece->framing;
    if (call->chunked) {
        at = mempcpy(at, chunked, sizeof(chunked) - 1);
    } else if (bytes != 0 || call->request.expects_body) {
        at = mempcpy(at, length, sizeof(length) - 1);
        at += weir_number_decimal(at, bytes);
        at = mempcpy(at, "\r\n", 2);
    }
    at = mempcpy(at, "\r\n", 2);
    add(piece, call->request.head.base, call->request.head.len);
    add(piece, piece->framing, (size_t)(at - piece->framing));
}

static void add_chunk_head(piece_t *piece, char *chunk_head, uint64_t bytes)
{
    size_t len = weir_number_hex(chunk_head, bytes);
    memcpy(chunk_head + len, "\r\n", 2);
    add(piece, chunk_head, len + 2);
}

static void add_body(weir_call_t *call, piece_t *piece, uint64_t bytes)
{
    while (bytes != 0) {
        weir_str_t run = weir_body_run_out(call->request.body, &call->request.splices, call->sent);
        if (run.len > bytes)
            run.len = bytes;
        add(piece, run.base, run.len);
        call->sent += run.len;
        bytes -= run.len;
    }
}

/* The next bytes to be written; none: nothing is there now. */
static void next_piece(weir_call_t *call, piece_t *piece, char *chunk_head)
{
    const weir_body_t *body = call->request.body;
    uint64_t size = weir_body_size_out(body, &call->request.splices), bytes = size - call->sent;
    if (bytes > WRITE_BYTES_MAX)
        bytes = WRITE_BYTES_MAX;
    if (!call->head_sent) {
        call->chunked = body->declared == UINT64_MAX && !body->complete;
        add_head(call, piece);
        call->head_sent = true;
    }
    if (bytes != 0) {
        if (call->chunked)
            add_chunk_head(piece, chunk_head, bytes);
        add_body(call, piece, bytes);
        if (call->chunked)
            add(piece, "\r\n", 2);
    }
    if (body->complete && call->sent == size && !call->all_sent) {
        call->all_sent = true;
        if (call->chunked)
            add(piece, "0\r\n\r\n", 5);
    }
}

static void note_sent(weir_call_t *call)
{
    weir_body_t *body = call->request.body;
    call->any_sent = true;
    if (call->all_sent && call->stats.sent_ns == 0)
        call->stats.sent_ns = weir_clock_now_ns();
    if (!body->whole && body->read != call->sent) {
        weir_body_note_read(body, call->sent);
        if (body->resume != NULL && !body->complete)
            body->resume(body);
    }
    /* While the request goes out, its progress is what the first byte is waited for from. */
    if (call->phase == PHASE_HEAD)
        weir_timer_start(call->request.worker, &call->phase_timer, call->conf->timeouts.first_byte_ns);
}

static void send_more(weir_call_t *call)
{
    while (!call->writing && !call->send_failed && !call->all_sent) {
        piece_t piece = {.count = 0};
        char chunk_head[24];
        next_piece(call, &piece, chunk_head);
        if (piece.count == 0)
            break;
        switch (weir_sock_write(call->conn->sock, piece.bufs, piece.count, &call->pending, on_written)) {
        case WEIR_WRITE_DONE:
            break;
        case WEIR_WRITE_PENDING:
            call->writing = true;
            break;
        case WEIR_WRITE_FAILED:
            call->send_failed = true; /* the loop tells of the connection's end, or of an answer that came before it */
            return;
        }
        note_sent(call);
    }
    /* A body that waits for its 100 Continue is asked for once there is somewhere to send it. */
    weir_body_t *body = call->request.body;
    if (!body->complete && body->resume != NULL)
        body->resume(body);
}

void weir_call_body_progress(weir_call_t *call)
{
    if (call->conn != NULL && !call->request.body->let_go)
        send_more(call);
}

/* --- reading --- */

/* A kept-alive connection that ended without a byte of an answer: the upstream closed it before it saw the request, as
 * far as anyone can tell (RFC 9112 9.3.1 allows to repeat what is idempotent). */
static bool try_again(weir_call_t *call)
{
    const weir_body_t *body = call->request.body;
    if (call->any_byte || call->conn->served == 0 || body->let_go || body->offset != 0)
        return false;
    if (!call->request.is_idempotent && call->any_sent)
        return false;
    leave_connection(call);
    call->sent = 0;
    call->head_sent = call->all_sent = call->send_failed = call->any_sent = false;
    call->fresh_only = true;
    call->stats.sent_ns = 0;
    seek_connection(call);
    return true;
}

static void on_end_of_input(weir_call_t *call, bool clean)
{
    if (call->phase == PHASE_HEAD) {
        if (!try_again(call))
            fail(call, WEIR_REASON_RESET, NULL);
        return;
    }
    if (call->framing != WEIR_H1_BODY_CLOSE || !clean) {
        fail(call, WEIR_REASON_TRUNCATED, NULL);
        return;
    }
    weir_sink_t *sink = call->request.sink;
    weir_call_news_t news = {.ended = true};
    call->keep_alive = false;
    sink->news(sink, &news);
    end_whole(call);
}

typedef enum { MORE_TO_COME, WHOLE, INVALID } progress_t;

/* Takes the chunks' data together at the front of the bytes. */
static progress_t read_chunks(weir_call_t *call, char *bytes, size_t len, size_t *data_len, size_t *used)
{
    *used = *data_len = 0;
    while (*used < len) {
        weir_str_t data;
        size_t step;
        weir_h1_result_t result = weir_h1_chunks_read(&call->chunks, bytes + *used, len - *used, &data, &step);
        if (result == WEIR_H1_REFUSED)
            return INVALID;
        if (data.len != 0)
            memmove(bytes + *data_len, data.base, data.len);
        *data_len += data.len;
        *used += step;
        if (result == WEIR_H1_COMPLETE)
            return WHOLE;
    }
    return MORE_TO_COME;
}

static progress_t read_body(weir_call_t *call, char *bytes, size_t len, size_t *data_len, size_t *used)
{
    switch (call->framing) {
    case WEIR_H1_BODY_NONE:
        *data_len = *used = 0;
        return WHOLE;
    case WEIR_H1_BODY_LENGTH:
        *data_len = *used = len < call->left ? len : call->left;
        call->left -= *used;
        return call->left == 0 ? WHOLE : MORE_TO_COME;
    case WEIR_H1_BODY_CHUNKED:
        return read_chunks(call, bytes, len, data_len, used);
    case WEIR_H1_BODY_CLOSE:
        break;
    }
    *data_len = *used = len;
    return MORE_TO_COME;
}

/* Tells what the bytes brought, and ends the call if that was all. `bytes` are those behind the head. */
static void deliver(weir_call_t *call, const weir_call_head_t *head, char *bytes, size_t len)
{
    weir_sink_t *sink = call->request.sink;
    size_t data_len, used;
    progress_t progress = read_body(call, bytes, len, &data_len, &used);

    if (progress == INVALID) {
        fail(call, head != NULL ? WEIR_REASON_BAD_RESPONSE : WEIR_REASON_TRUNCATED, "a chunk of the answer is malformed");
        return;
    }
    bool leftover = progress == WHOLE && used < len;
    if (leftover && call->framing == WEIR_H1_BODY_NONE) {
        fail(call, WEIR_REASON_BAD_RESPONSE, "the answer has a body where there can be none");
        return;
    }
    if (leftover)
        call->keep_alive = false;
    if (progress == MORE_TO_COME)
        start_phase(call, PHASE_BODY, call->conf->timeouts.idle_ns);
    weir_call_news_t news = {.head = head, .bytes = {bytes, data_len}, .ended = progress == WHOLE};
    sink->news(sink, &news);
    if (progress == WHOLE)
        end_whole(call);
}

/* The answer began: the request need not be repeated any more, and its bytes can go once they are out. An error that
 * comes before the end of the request says that the rest is not wanted. */
static void settle_request(weir_call_t *call)
{
    weir_body_t *body = call->request.body;
    free(call->request.head.base);
    call->request.head = h2o_iovec_init(NULL, 0);
    if (call->all_sent || call->status >= 400)
        weir_body_let_go(body);
    if (call->status >= 400 && !call->all_sent)
        call->send_failed = true;
}

static void take_answer(weir_call_t *call, const weir_h1_response_t *response)
{
    call->status = response->status;
    call->framing = response->framing;
    call->left = response->content_length;
    call->keep_alive = response->keep_alive;
    call->keep_alive_timeout_ns = response->keep_alive_timeout_s > 0 ? response->keep_alive_timeout_s * 1000000000 : 0;
    settle_request(call);
}

/* Reads heads, interim ones too, from the front of the bytes, then the body behind. */
static void read_head(weir_call_t *call, char *bytes, size_t len)
{
    weir_h1_response_t response;
    for (;;) {
        weir_h1_result_t result =
            weir_h1_parse_response(bytes, len, call->seen, ANSWER_HEAD_BYTES_MAX, call->request.is_head, &response);
        if (result == WEIR_H1_INCOMPLETE) {
            weir_sock_keep(call->conn->sock, bytes, len);
            call->seen = len;
            return;
        }
        if (result == WEIR_H1_REFUSED) {
            fail(call, WEIR_REASON_BAD_RESPONSE, response.detail);
            return;
        }
        if (response.status >= 200)
            break;
        if (response.status == 101 || ++call->interim_heads > INTERIM_HEADS_MAX) {
            fail(call, WEIR_REASON_BAD_RESPONSE,
                 response.status == 101 ? "the upstream switched protocols unasked" : "too many interim answers");
            return;
        }
        bytes += response.size;
        len -= response.size;
        call->seen = 0;
    }
    take_answer(call, &response);
    weir_call_head_t head = {.status = response.status,
                             .fields = response.fields,
                             .field_count = response.field_count,
                             .no_body = response.framing == WEIR_H1_BODY_NONE,
                             .content_length = response.framing == WEIR_H1_BODY_LENGTH || response.framing == WEIR_H1_BODY_NONE
                                                   ? response.content_length
                                                   : UINT64_MAX};
    deliver(call, &head, bytes + response.size, len - response.size);
}

/* A head that came in pieces is put together in the socket's buffer; what it is read from is freed after. */
static void read_kept_head(weir_call_t *call, const char *bytes, size_t len)
{
    h2o_socket_t *sock = call->conn->sock;
    weir_sock_keep(sock, bytes, len);
    h2o_buffer_t *whole = sock->input;
    h2o_buffer_init(&sock->input, &h2o_socket_buffer_prototype);
    read_head(call, whole->bytes, whole->size);
    h2o_buffer_dispose(&whole);
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    weir_upconn_t *conn = sock->data;
    weir_call_t *call = conn->call;
    char *scratch = call->request.worker->scratch;
    ssize_t len = weir_sock_read(sock, scratch, WEIR_SCRATCH_BYTES);

    if (len == -1 && errno == EAGAIN)
        return;
    if (len <= 0) {
        on_end_of_input(call, len == 0);
        return;
    }
    if (!call->any_byte) {
        call->any_byte = true;
        call->stats.first_byte_ns = weir_clock_turn_ns;
    }
    if (call->phase == PHASE_BODY)
        deliver(call, NULL, scratch, (size_t)len);
    else if (sock->input->size == 0)
        read_head(call, scratch, (size_t)len);
    else
        read_kept_head(call, scratch, (size_t)len);
}

/* --- what the exchange calls --- */

weir_call_t *weir_call_create(const weir_call_request_t *request)
{
    weir_call_t *call = h2o_mem_alloc_recycle(&request->worker->recycle.call, sizeof(*call));
    *call = (weir_call_t){.request = *request,
                          .conf = &request->snapshot->conf->upstreams.entries[request->upstream],
                          .upstream = request->snapshot->upstreams[request->upstream]};
    weir_body_acquire(request->body);
    weir_worker_hold(request->worker, request->snapshot);
    call->phase_timer.cb = on_phase_late;
    call->total_timer.cb = on_total_late;
    call->stats.began_ns = weir_clock_turn_ns;
    weir_timer_start(request->worker, &call->total_timer, request->total_ns);
    return call;
}

void weir_call_begin(weir_call_t *call)
{
    seek_connection(call);
}

void weir_call_pause(weir_call_t *call)
{
    if (call->paused || call->conn == NULL)
        return;
    call->paused = true;
    weir_timer_stop(&call->phase_timer);
    h2o_socket_read_stop(call->conn->sock);
}

void weir_call_resume(weir_call_t *call)
{
    if (!call->paused)
        return;
    call->paused = false;
    start_phase(call, PHASE_BODY, call->conf->timeouts.idle_ns);
    h2o_socket_read_start(call->conn->sock, on_readable);
}

const weir_call_stats_t *weir_call_stats(const weir_call_t *call)
{
    return &call->stats;
}
