#include "attempt.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "../conf/reasons.h"
#include "dial.h"
#include "hop.h"
#include "number.h"
#include "sock_io.h"
#include "upstream.h"

/* An attempt's phases go one way, but that a kept-alive connection which turns out to be dead sends it back once:
 *
 *   PERMIT -> DIAL -> HEAD -> BODY -> (ended)
 *      \--------------^ |     a parked connection
 *                        \-> TUNNEL, until it is cancelled
 *
 * The request is sent during HEAD, and goes on during BODY if the answer began before its end. One timer a phase; that
 * of DIAL is its own (dial.h). */
typedef enum { PHASE_PERMIT, PHASE_DIAL, PHASE_HEAD, PHASE_BODY, PHASE_TUNNEL } phase_t;

enum {
    ANSWER_HEAD_BYTES_MAX = 64 * 1024,
    INTERIM_HEADS_MAX = 32,
    WRITE_BYTES_MAX = 256 * 1024,
    RUNS_MAX = 2 * WEIR_SPLICES_MAX + 1, /* of a body with splices */
    PARKED_LONG_NS = 100 * 1000 * 1000, /* beyond this a parked connection is looked at before a request that cannot be repeated */
};

struct weir_attempt {
    weir_attempt_request_t request;
    const weir_conf_upstream_t *conf;
    weir_upstream_t *upstream;
    weir_upconn_t *conn;
    phase_t phase;
    h2o_timeout_entry_t phase_timer;
    /* PERMIT, DIAL */
    weir_permit_wait_t *wait;
    bool has_permit; /* that is not a connection's yet */
    weir_dial_t *dial;
    /* sending */
    char *pending;
    uint64_t sent;
    bool head_sent, all_sent, any_sent, writing, send_failed, chunked, fresh_only;
    bool is_broken; /* a write failed, which may have taken the error that a read would tell of */
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

static void on_readable(h2o_socket_t *sock, const char *err);
static void send_more(weir_attempt_t *attempt);
static void seek_connection(weir_attempt_t *attempt);

/* --- the end --- */

static void leave_connection(weir_attempt_t *attempt)
{
    if (attempt->wait != NULL)
        weir_upstream_stop_waiting(attempt->wait);
    if (attempt->dial != NULL)
        weir_dial_cancel(attempt->dial);
    if (attempt->has_permit)
        weir_upstream_give_permit_back(attempt->upstream, attempt->request.worker);
    if (attempt->conn != NULL)
        weir_upconn_close(attempt->conn);
    attempt->has_permit = false;
    attempt->wait = NULL;
    attempt->dial = NULL;
    attempt->conn = NULL;
    free(attempt->pending);
    attempt->pending = NULL;
    attempt->writing = false;
}

static void destroy(weir_attempt_t *attempt)
{
    weir_timer_stop(&attempt->phase_timer);
    leave_connection(attempt);
    weir_body_release(attempt->request.body);
    weir_worker_let_go(attempt->request.worker, attempt->request.snapshot);
    h2o_mem_free_recycle(&attempt->request.worker->recycle.attempt, attempt);
}

static void account(weir_attempt_t *attempt, weir_reason_t reason)
{
    weir_worker_t *worker = attempt->request.worker;
    weir_call_stats_t *stats = &attempt->stats;
    weir_upstream_count(attempt->upstream, worker, attempt->status, reason);
    weir_upstream_observe(attempt->upstream, worker, stats->first_byte_ns != 0 ? stats->first_byte_ns - stats->began_ns : -1,
                          weir_clock_turn_ns - stats->began_ns);
}

/* The next try leads elsewhere, if there is another address. */
static void avoid_address(weir_attempt_t *attempt)
{
    if (attempt->conn != NULL)
        weir_upstream_avoid(attempt->upstream, attempt->request.worker, attempt->conn->address);
}

static void fail(weir_attempt_t *attempt, weir_reason_t reason, const char *detail)
{
    weir_sink_t *sink = attempt->request.sink;
    weir_call_news_t news = {.ended = true, .reason = reason, .detail = detail};
    avoid_address(attempt);
    leave_connection(attempt);
    account(attempt, reason);
    sink->news(sink, &news);
    destroy(attempt);
}

void weir_attempt_cancel(weir_attempt_t *attempt, weir_reason_t reason)
{
    account(attempt, reason);
    destroy(attempt);
}

/* Whether the whole answer leaves a connection that the next one can use. */
static bool can_be_parked(const weir_attempt_t *attempt)
{
    return attempt->keep_alive && attempt->all_sent && !attempt->writing && attempt->conn->sock->input->size == 0;
}

/* Tells the last of an answer that is whole as HTTP, and ends. */
static void end_whole(weir_attempt_t *attempt, weir_call_news_t *news)
{
    weir_sink_t *sink = attempt->request.sink;
    news->ended = true;
    news->detail = sink->lacks != NULL ? sink->lacks(sink, news) : NULL;
    news->reason = news->detail != NULL ? WEIR_REASON_TRUNCATED : WEIR_REASON_NONE;
    sink->news(sink, news);
    weir_timer_stop(&attempt->phase_timer);
    account(attempt, news->reason);
    if (can_be_parked(attempt)) {
        weir_upconn_t *conn = attempt->conn;
        attempt->conn = NULL;
        weir_upconn_park(conn, attempt->keep_alive_timeout_ns);
    }
    destroy(attempt);
}

/* The sink waits for another answer. */
static void refuse_answer(weir_attempt_t *attempt, bool is_whole)
{
    weir_sink_t *sink = attempt->request.sink;
    weir_call_news_t news = {.ended = true, .refused = true};
    avoid_address(attempt);
    if (is_whole && can_be_parked(attempt)) {
        weir_upconn_park(attempt->conn, attempt->keep_alive_timeout_ns);
        attempt->conn = NULL;
    }
    leave_connection(attempt);
    account(attempt, WEIR_REASON_NONE);
    sink->news(sink, &news);
    destroy(attempt);
}

/* --- time --- */

static void on_phase_late(h2o_timeout_entry_t *entry)
{
    weir_attempt_t *attempt = H2O_STRUCT_FROM_MEMBER(weir_attempt_t, phase_timer, entry);
    switch (attempt->phase) {
    case PHASE_PERMIT:
        fail(attempt, WEIR_REASON_OVERLOADED, "all connections to the upstream are in use");
        return;
    case PHASE_DIAL:
    case PHASE_TUNNEL:
        return; /* which have their own */
    case PHASE_HEAD:
        fail(attempt, WEIR_REASON_TIMEOUT_FIRST_BYTE, NULL);
        return;
    case PHASE_BODY:
        fail(attempt, WEIR_REASON_TIMEOUT_IDLE, NULL);
        return;
    }
}

static void start_phase(weir_attempt_t *attempt, phase_t phase, int64_t timeout_ns)
{
    attempt->phase = phase;
    weir_timer_start(attempt->request.worker, &attempt->phase_timer, timeout_ns);
}

/* --- a connection --- */

static void use_connection(weir_attempt_t *attempt, weir_upconn_t *conn)
{
    attempt->conn = conn;
    conn->attempt = attempt;
    attempt->stats.connected_ns = weir_clock_turn_ns;
    start_phase(attempt, PHASE_HEAD, attempt->conf->timeouts.first_byte_ns);
    h2o_socket_read_start(conn->sock, on_readable);
    send_more(attempt);
}

static void on_dialled(void *argument, const weir_dialled_t *dialled)
{
    weir_attempt_t *attempt = argument;
    attempt->dial = NULL;
    if (dialled->sock == NULL) {
        fail(attempt, dialled->reason, dialled->detail);
        return;
    }
    attempt->has_permit = false;
    use_connection(attempt,
                   weir_upconn_create(attempt->upstream, attempt->request.worker, dialled->sock, dialled->address));
}

static void dial(weir_attempt_t *attempt)
{
    const weir_attempt_request_t *request = &attempt->request;
    attempt->has_permit = true;
    attempt->phase = PHASE_DIAL;
    weir_timer_stop(&attempt->phase_timer);
    attempt->dial = weir_dial_create(request->worker, request->snapshot, request->upstream, on_dialled, attempt);
    weir_dial_begin(attempt->dial);
}

static const weir_tls_context_t *context_of(const weir_attempt_t *attempt)
{
    return weir_tls_of_upstream(attempt->request.snapshot->tls, attempt->request.upstream);
}

static void on_permit(void *argument, weir_upconn_t *conn)
{
    weir_attempt_t *attempt = argument;
    attempt->wait = NULL;
    if (conn == NULL) {
        dial(attempt);
    } else if (!attempt->fresh_only && weir_upconn_is_by(conn, context_of(attempt))) {
        use_connection(attempt, conn);
    } else {
        weir_upconn_close(conn);
        seek_connection(attempt);
    }
}

static weir_upconn_t *take_parked(weir_attempt_t *attempt)
{
    weir_upconn_t *conn;
    while ((conn = weir_upstream_take_parked(attempt->upstream, attempt->request.worker, context_of(attempt))) != NULL) {
        bool doubtful = !attempt->request.is_idempotent && weir_clock_turn_ns - conn->parked_ns > PARKED_LONG_NS;
        if (!doubtful || weir_upconn_is_open(conn))
            return conn;
        weir_upconn_close(conn);
    }
    return NULL;
}

static void seek_connection(weir_attempt_t *attempt)
{
    ++attempt->stats.attempts;
    attempt->stats.connecting_ns = weir_clock_turn_ns;
    weir_upconn_t *conn = attempt->fresh_only ? NULL : take_parked(attempt);
    if (conn != NULL) {
        use_connection(attempt, conn);
        return;
    }
    start_phase(attempt, PHASE_PERMIT, attempt->conf->timeouts.connect_ns);
    if (weir_upstream_ask_permit(attempt->upstream, attempt->request.worker, &attempt->wait, on_permit, attempt))
        dial(attempt);
}

/* --- sending --- */

static void on_written(h2o_socket_t *sock, const char *err)
{
    weir_upconn_t *conn = sock->data;
    weir_attempt_t *attempt = conn->attempt;
    free(attempt->pending);
    attempt->pending = NULL;
    attempt->writing = false;
    if (err != NULL)
        attempt->send_failed = attempt->is_broken = true; /* what the upstream still said is read first */
    else
        send_more(attempt);
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
static void add_head(weir_attempt_t *attempt, piece_t *piece)
{
    static const char chunked[] = "Transfer-Encoding: chunked\r\n", length[] = "Content-Length: ";
    const weir_body_t *body = attempt->request.body;
    const weir_splices_t *splices = &attempt->request.splices;
    uint64_t bytes = splices->count != 0 || body->declared == UINT64_MAX ? weir_body_size_out(body, splices) : body->declared;
    char *at = piece->framing;
    if (attempt->chunked) {
        at = mempcpy(at, chunked, sizeof(chunked) - 1);
    } else if (bytes != 0 || attempt->request.expects_body) {
        at = mempcpy(at, length, sizeof(length) - 1);
        at += weir_number_decimal(at, bytes);
        at = mempcpy(at, "\r\n", 2);
    }
    at = mempcpy(at, "\r\n", 2);
    add(piece, attempt->request.head.base, attempt->request.head.len);
    add(piece, piece->framing, (size_t)(at - piece->framing));
}

static void add_chunk_head(piece_t *piece, char *chunk_head, uint64_t bytes)
{
    size_t len = weir_number_hex(chunk_head, bytes);
    memcpy(chunk_head + len, "\r\n", 2);
    add(piece, chunk_head, len + 2);
}

static void add_body(weir_attempt_t *attempt, piece_t *piece, uint64_t bytes)
{
    while (bytes != 0) {
        weir_str_t run = weir_body_run_out(attempt->request.body, &attempt->request.splices, attempt->sent);
        if (run.len > bytes)
            run.len = bytes;
        add(piece, run.base, run.len);
        attempt->sent += run.len;
        bytes -= run.len;
    }
}

/* The next bytes to be written; none: nothing is there now. */
static void next_piece(weir_attempt_t *attempt, piece_t *piece, char *chunk_head)
{
    const weir_body_t *body = attempt->request.body;
    uint64_t size = weir_body_size_out(body, &attempt->request.splices), bytes = size - attempt->sent;
    if (bytes > WRITE_BYTES_MAX)
        bytes = WRITE_BYTES_MAX;
    if (!attempt->head_sent) {
        attempt->chunked = body->declared == UINT64_MAX && !body->complete;
        add_head(attempt, piece);
        attempt->head_sent = true;
    }
    if (bytes != 0) {
        if (attempt->chunked)
            add_chunk_head(piece, chunk_head, bytes);
        add_body(attempt, piece, bytes);
        if (attempt->chunked)
            add(piece, "\r\n", 2);
    }
    if (body->complete && attempt->sent == size && !attempt->all_sent) {
        attempt->all_sent = true;
        if (attempt->chunked)
            add(piece, "0\r\n\r\n", 5);
    }
}

static void note_sent(weir_attempt_t *attempt)
{
    weir_body_t *body = attempt->request.body;
    attempt->any_sent = attempt->stats.is_sent = true;
    if (attempt->all_sent && attempt->stats.sent_ns == 0)
        attempt->stats.sent_ns = weir_clock_now_ns();
    if (!body->whole && body->read != attempt->sent) {
        weir_body_note_read(body, attempt->sent);
        if (body->resume != NULL && !body->complete)
            body->resume(body);
    }
    /* While the request goes out, its progress is what the first byte is waited for from. */
    if (attempt->phase == PHASE_HEAD)
        weir_timer_start(attempt->request.worker, &attempt->phase_timer, attempt->conf->timeouts.first_byte_ns);
}

static void send_more(weir_attempt_t *attempt)
{
    while (!attempt->writing && !attempt->send_failed && !attempt->all_sent) {
        piece_t piece = {.count = 0};
        char chunk_head[24];
        next_piece(attempt, &piece, chunk_head);
        if (piece.count == 0)
            break;
        switch (weir_sock_write(attempt->conn->sock, piece.bufs, piece.count, &attempt->pending, on_written)) {
        case WEIR_WRITE_DONE:
            break;
        case WEIR_WRITE_PENDING:
            attempt->writing = true;
            break;
        case WEIR_WRITE_FAILED:
            /* the loop tells of the connection's end, or of an answer that came before it */
            attempt->send_failed = attempt->is_broken = true;
            return;
        }
        note_sent(attempt);
    }
    /* A body that waits for its 100 Continue is asked for once there is somewhere to send it. */
    weir_body_t *body = attempt->request.body;
    if (!body->complete && body->resume != NULL)
        body->resume(body);
}

void weir_attempt_body_progress(weir_attempt_t *attempt)
{
    if (attempt->conn != NULL && !attempt->request.body->let_go)
        send_more(attempt);
}

/* --- reading --- */

/* A kept-alive connection that ended without a byte of an answer: the upstream closed it before it saw the request, as
 * far as anyone can tell. RFC 9112 9.3.1 allows to repeat what is idempotent, and what was not sent can be; users do not
 * take that for a retry, and it happens with `retry: false` too. It cannot multiply an outage: a request is repeated so
 * once, on a fresh connection, and a retry never is; and where it was sent, only if the connection that is lost had
 * brought an answer. So of any requests the tries that went out are at most
 *     requests + retries (their budget) + connections on which an answer had come before. */
static bool try_again(weir_attempt_t *attempt)
{
    const weir_body_t *body = attempt->request.body;
    const weir_upconn_t *conn = attempt->conn;
    if (attempt->any_byte || attempt->fresh_only || conn->served == 0 || body->let_go || body->offset != 0)
        return false;
    if (attempt->any_sent && (!attempt->request.is_idempotent || !conn->has_answered))
        return false;
    leave_connection(attempt);
    attempt->sent = 0;
    attempt->head_sent = attempt->all_sent = attempt->send_failed = attempt->any_sent = attempt->is_broken = false;
    attempt->fresh_only = true;
    attempt->stats.sent_ns = 0;
    seek_connection(attempt);
    return true;
}

/* With TLS 1.3 an upstream may refuse our certificate when we are through with the handshake; it has not looked at the
 * request then. */
static const char *refusal_of(const weir_attempt_t *attempt)
{
    const weir_tls_t *tls = weir_tls_of(attempt->conn->sock);
    return tls != NULL && !attempt->any_byte && attempt->conn->served == 0 ? weir_tls_alert(tls) : NULL;
}

/* `broken`: RESET, or TRUNCATED where TLS lacks its end; NONE: the connection was closed. */
static void on_end_of_input(weir_attempt_t *attempt, weir_reason_t broken)
{
    if (attempt->phase == PHASE_HEAD) {
        const char *refusal = refusal_of(attempt);
        if (refusal != NULL)
            fail(attempt, WEIR_REASON_TLS_FAILED, refusal);
        else if (!try_again(attempt))
            fail(attempt, WEIR_REASON_RESET, NULL);
        return;
    }
    if (attempt->framing != WEIR_H1_BODY_CLOSE || broken != WEIR_REASON_NONE) {
        fail(attempt, broken != WEIR_REASON_NONE ? broken : WEIR_REASON_TRUNCATED,
             broken == WEIR_REASON_RESET ? "the upstream reset the connection in the middle of its answer" : NULL);
        return;
    }
    attempt->keep_alive = false;
    end_whole(attempt, &(weir_call_news_t){.head = NULL});
}

typedef enum { MORE_TO_COME, WHOLE, INVALID } progress_t;

/* Takes the chunks' data together at the front of the bytes. */
static progress_t read_chunks(weir_attempt_t *attempt, char *bytes, size_t len, size_t *data_len, size_t *used)
{
    *used = *data_len = 0;
    while (*used < len) {
        weir_str_t data;
        size_t step;
        weir_h1_result_t result = weir_h1_chunks_read(&attempt->chunks, bytes + *used, len - *used, &data, &step);
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

static progress_t read_body(weir_attempt_t *attempt, char *bytes, size_t len, size_t *data_len, size_t *used)
{
    switch (attempt->framing) {
    case WEIR_H1_BODY_NONE:
        *data_len = *used = 0;
        return WHOLE;
    case WEIR_H1_BODY_LENGTH:
        *data_len = *used = len < attempt->left ? len : attempt->left;
        attempt->left -= *used;
        return attempt->left == 0 ? WHOLE : MORE_TO_COME;
    case WEIR_H1_BODY_CHUNKED:
        return read_chunks(attempt, bytes, len, data_len, used);
    case WEIR_H1_BODY_CLOSE:
        break;
    }
    *data_len = *used = len;
    return MORE_TO_COME;
}

/* The answer is taken: the request is not repeated any more, and its bytes can go once they are out. An error that
 * comes before the end of the request says that the rest is not wanted. */
static void settle_request(weir_attempt_t *attempt)
{
    if (attempt->all_sent || attempt->status >= 400)
        weir_body_let_go(attempt->request.body);
    if (attempt->status >= 400 && !attempt->all_sent)
        attempt->send_failed = true;
}

/* Tells what the bytes brought, and ends the attempt if that was all. `bytes` are those behind the head. */
static void deliver(weir_attempt_t *attempt, const weir_call_head_t *head, char *bytes, size_t len)
{
    weir_sink_t *sink = attempt->request.sink;
    size_t data_len, used;
    progress_t progress = read_body(attempt, bytes, len, &data_len, &used);

    if (progress == INVALID) {
        fail(attempt, WEIR_REASON_BAD_RESPONSE, "a chunk of the answer is malformed");
        return;
    }
    bool leftover = progress == WHOLE && used < len;
    if (leftover && attempt->framing == WEIR_H1_BODY_NONE) {
        fail(attempt, WEIR_REASON_BAD_RESPONSE, "the answer has a body where there can be none");
        return;
    }
    if (leftover)
        attempt->keep_alive = false;
    if (progress == MORE_TO_COME)
        start_phase(attempt, PHASE_BODY, attempt->conf->timeouts.idle_ns);
    weir_call_news_t news = {.head = head, .bytes = {bytes, data_len}};
    if (head != NULL && sink->takes != NULL && !sink->takes(sink, head)) {
        refuse_answer(attempt, progress == WHOLE);
        return;
    }
    if (head != NULL)
        settle_request(attempt);
    if (progress == WHOLE)
        end_whole(attempt, &news);
    else
        sink->news(sink, &news);
}

static void take_answer(weir_attempt_t *attempt, const weir_h1_response_t *response)
{
    attempt->status = response->status;
    attempt->framing = response->framing;
    attempt->left = response->content_length;
    attempt->keep_alive = response->keep_alive;
    attempt->conn->has_answered = true;
    attempt->keep_alive_timeout_ns = response->keep_alive_timeout_s > 0 ? response->keep_alive_timeout_s * 1000000000 : 0;
}

static bool is_websocket(const weir_h1_response_t *response)
{
    bool is_named = false;
    size_t upgrades = 0, websockets = 0;
    for (size_t i = 0; i < response->field_count; ++i) {
        const weir_h1_field_t *field = &response->fields[i];
        bool is_upgrade = weir_str_is(field->name, WEIR_STR("upgrade"));
        upgrades += is_upgrade;
        websockets += is_upgrade && h2o_lcstris(field->value.base, field->value.len, H2O_STRLIT("websocket"));
        is_named |= weir_str_is(field->name, WEIR_STR("connection")) && weir_h1_list_has(field->value, WEIR_STR("upgrade"));
    }
    return is_named && upgrades == 1 && websockets == 1;
}

/* What is wrong with a 101; NULL: nothing. */
static const char *fault_of_switch(const weir_attempt_t *attempt, const weir_h1_response_t *response)
{
    if (!attempt->request.wants_tunnel)
        return "the upstream switched protocols unasked";
    if (!attempt->all_sent || attempt->writing)
        return "the upstream switched protocols before it had the request";
    return is_websocket(response) ? NULL : "the upstream switched to another protocol than it was asked for";
}

/* A 101, and what came behind it: from here on the connection is not read here (tunnel.h). */
static void switch_protocols(weir_attempt_t *attempt, const weir_h1_response_t *response, const char *bytes, size_t len)
{
    weir_sink_t *sink = attempt->request.sink;
    weir_call_head_t head = {.status = response->status,
                             .fields = response->fields,
                             .field_count = response->field_count,
                             .no_body = true,
                             .content_length = UINT64_MAX};
    attempt->status = response->status;
    attempt->phase = PHASE_TUNNEL;
    weir_timer_stop(&attempt->phase_timer);
    h2o_socket_read_stop(attempt->conn->sock);
    if (sink->takes != NULL && !sink->takes(sink, &head))
        refuse_answer(attempt, false);
    else
        sink->news(sink, &(weir_call_news_t){.head = &head, .bytes = {bytes, len}});
}

static void read_switch(weir_attempt_t *attempt, const weir_h1_response_t *response, const char *bytes, size_t len)
{
    const char *fault = fault_of_switch(attempt, response);
    if (fault != NULL)
        fail(attempt, WEIR_REASON_BAD_RESPONSE, fault);
    else
        switch_protocols(attempt, response, bytes, len);
}

/* Reads heads, interim ones too, from the front of the bytes, then the body behind. */
static void read_head(weir_attempt_t *attempt, char *bytes, size_t len)
{
    weir_h1_response_t response;
    for (;;) {
        weir_h1_result_t result =
            weir_h1_parse_response(bytes, len, attempt->seen, ANSWER_HEAD_BYTES_MAX, attempt->request.is_head, &response);
        if (result == WEIR_H1_INCOMPLETE) {
            weir_sock_keep(attempt->conn->sock, bytes, len);
            attempt->seen = len;
            return;
        }
        if (result == WEIR_H1_REFUSED) {
            fail(attempt, WEIR_REASON_BAD_RESPONSE, response.detail);
            return;
        }
        if (response.status >= 200)
            break;
        bytes += response.size;
        len -= response.size;
        if (response.status == 101) {
            read_switch(attempt, &response, bytes, len);
            return;
        }
        if (++attempt->interim_heads > INTERIM_HEADS_MAX) {
            fail(attempt, WEIR_REASON_BAD_RESPONSE, "too many interim answers");
            return;
        }
        attempt->seen = 0;
    }
    take_answer(attempt, &response);
    weir_call_head_t head = {.status = response.status,
                             .fields = response.fields,
                             .field_count = response.field_count,
                             .no_body = response.framing == WEIR_H1_BODY_NONE,
                             .content_length = response.framing == WEIR_H1_BODY_LENGTH || response.framing == WEIR_H1_BODY_NONE
                                                   ? response.content_length
                                                   : UINT64_MAX};
    deliver(attempt, &head, bytes + response.size, len - response.size);
}

/* A head that came in pieces is put together in the socket's buffer; what it is read from is freed after. */
static void read_kept_head(weir_attempt_t *attempt, const char *bytes, size_t len)
{
    h2o_socket_t *sock = attempt->conn->sock;
    weir_sock_keep(sock, bytes, len);
    h2o_buffer_t *whole = sock->input;
    h2o_buffer_init(&sock->input, &h2o_socket_buffer_prototype);
    read_head(attempt, whole->bytes, whole->size);
    h2o_buffer_dispose(&whole);
}

static void on_readable(h2o_socket_t *sock, const char *err)
{
    weir_upconn_t *conn = sock->data;
    weir_attempt_t *attempt = conn->attempt;
    char *scratch = attempt->request.worker->scratch;
    ssize_t len = weir_sock_read(sock, scratch, WEIR_SCRATCH_BYTES);

    if (len == -1 && errno == EAGAIN)
        return;
    if (len <= 0) {
        bool is_unsaid = len == -1 && errno == EPROTO, is_reset = len == -1 || attempt->is_broken;
        on_end_of_input(attempt, is_unsaid ? WEIR_REASON_TRUNCATED : is_reset ? WEIR_REASON_RESET : WEIR_REASON_NONE);
        return;
    }
    if (!attempt->any_byte) {
        attempt->any_byte = true;
        attempt->stats.first_byte_ns = weir_clock_turn_ns;
    }
    if (attempt->phase == PHASE_BODY)
        deliver(attempt, NULL, scratch, (size_t)len);
    else if (sock->input->size == 0)
        read_head(attempt, scratch, (size_t)len);
    else
        read_kept_head(attempt, scratch, (size_t)len);
}

/* --- what the exchange calls --- */

weir_attempt_t *weir_attempt_create(const weir_attempt_request_t *request)
{
    weir_attempt_t *attempt = h2o_mem_alloc_recycle(&request->worker->recycle.attempt, sizeof(*attempt));
    *attempt = (weir_attempt_t){.request = *request,
                          .conf = &request->snapshot->conf->upstreams.entries[request->upstream],
                          .upstream = request->snapshot->upstreams[request->upstream]};
    weir_body_acquire(request->body);
    weir_worker_hold(request->worker, request->snapshot);
    attempt->phase_timer.cb = on_phase_late;
    attempt->fresh_only = request->repeats != 0;
    attempt->stats.began_ns = weir_clock_turn_ns;
    attempt->stats.upstream = request->upstream;
    return attempt;
}

void weir_attempt_begin(weir_attempt_t *attempt)
{
    seek_connection(attempt);
}

void weir_attempt_pause(weir_attempt_t *attempt)
{
    if (attempt->paused || attempt->conn == NULL || attempt->phase == PHASE_TUNNEL)
        return;
    attempt->paused = true;
    weir_timer_stop(&attempt->phase_timer);
    h2o_socket_read_stop(attempt->conn->sock);
}

void weir_attempt_resume(weir_attempt_t *attempt)
{
    if (!attempt->paused)
        return;
    attempt->paused = false;
    start_phase(attempt, PHASE_BODY, attempt->conf->timeouts.idle_ns);
    h2o_socket_read_start(attempt->conn->sock, on_readable);
}

h2o_socket_t *weir_attempt_tunnel(weir_attempt_t *attempt)
{
    assert(attempt->phase == PHASE_TUNNEL);
    return attempt->conn->sock;
}

const weir_call_stats_t *weir_attempt_stats(const weir_attempt_t *attempt)
{
    return &attempt->stats;
}

bool weir_attempt_awaits_caller(const weir_attempt_t *attempt)
{
    const weir_body_t *body = attempt->request.body;
    return attempt->head_sent && !attempt->all_sent && !attempt->send_failed &&
           attempt->sent == weir_body_size_out(body, &attempt->request.splices);
}
