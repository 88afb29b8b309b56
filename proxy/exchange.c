#include "exchange.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include "../filters/client_ip.h"
#include "exchange_parts.h"
#include "call_head.h"
#include "h1.h"
#include "h1_parse.h"
#include "admin.h"
#include "hop.h"
#include "number.h"
#include "router.h"
#include "share.h"
#include "targets.h"
#include "ticket.h"
#include "upstream.h"

static const int64_t OVERLOADED_RETRY_NS = 1000000000;

/* --- the end --- */

static int64_t overhead_of(const weir_exchange_t *exchange, int64_t duration_ns)
{
    const weir_call_stats_t *stats = &exchange->stats;
    int64_t waited_ns = exchange->wait.total_ns - exchange->wait.own_ns;
    if (exchange->has_shared_head)
        return exchange->answered_ns - exchange->started_ns - waited_ns;
    if (stats->sent_ns == 0 || stats->first_byte_ns == 0 || exchange->answered_ns == 0)
        return stats->attempts == 0 && duration_ns > waited_ns ? duration_ns - waited_ns : 0;
    int64_t before = stats->sent_ns - exchange->started_ns - (stats->connected_ns - stats->connecting_ns) -
                     stats->earlier_ns - waited_ns;
    int64_t after = exchange->answered_ns - stats->first_byte_ns;
    return before + after > 0 ? before + after : 0;
}

static weir_str_t path_of(const weir_request_t *request)
{
    const char *query = memchr(request->target.base, '?', request->target.len);
    return (weir_str_t){request->target.base, query != NULL ? (size_t)(query - request->target.base) : request->target.len};
}

static weir_str_t text_of(const char *text)
{
    return text != NULL ? (weir_str_t){text, strlen(text)} : (weir_str_t){"", 0};
}

static void log_access(weir_exchange_t *exchange, int status, int64_t overhead_ns, int64_t duration_ns)
{
    const weir_request_t *request = &exchange->request;
    const weir_call_stats_t *stats = &exchange->stats;
    const weir_conf_upstream_t *upstream = NULL;
    bool is_refused = exchange->reason == WEIR_REASON_BREAKER_OPEN || exchange->reason == WEIR_REASON_THROTTLED;
    if (stats->attempts != 0 || is_refused)
        upstream = &exchange->snapshot->conf->upstreams.entries[stats->upstream];
    weir_access_t access = {
        .wall_ms = request->wall_ms,
        .correlation_id = request->correlation_id,
        .trace_id = request->trace_id,
        .listener = text_of(request->listener->name),
        .route = text_of(request->route != NULL ? request->route->path : NULL),
        .tenant = request->tenant,
        .method = request->method,
        .path = path_of(request),
        .status = status,
        .reason = weir_reason_word(stats->budget_spent ? WEIR_REASON_RETRY_BUDGET
                                                                                       : exchange->reason),
        .bytes_in = exchange->body->size + (exchange->tunnel != NULL ? weir_tunnel_bytes_up(exchange->tunnel) : 0),
        .bytes_out =
            exchange->req->bytes_sent + (exchange->tunnel != NULL ? weir_tunnel_bytes_down(exchange->tunnel) : 0),
        .duration_ns = duration_ns,
        .overhead_ns = overhead_ns,
        .upstream = text_of(upstream != NULL ? upstream->name : NULL),
        .attempts = stats->attempts != 0 ? stats->attempts : -1,
        .first_byte_ns = stats->first_byte_ns != 0 ? stats->first_byte_ns - exchange->started_ns : -1,
        .tokens_in = request->has_usage ? request->usage.input + request->usage.cached + request->usage.cache_write : -1,
        .tokens_out = request->has_usage ? request->usage.output : -1,
        .model = exchange->model,
        .dedup = text_of(weir_dedup_words[request->dedup_result]),
        .limit = text_of(exchange->limit),
        .peer = {exchange->peer, exchange->peer_len},
    };
    weir_log_access(exchange->worker->log, &access);
}

static void take_stats(weir_exchange_t *exchange)
{
    exchange->stats = weir_call_stats(exchange->call);
    exchange->call = NULL;
}

/* What the chain decided is settled before the caller has the last byte: what he sends next meets it so. */
static void settle(weir_exchange_t *exchange)
{
    weir_outcome_t outcome = {.reason = exchange->reason,
                              .detail = exchange->detail,
                              .status = exchange->upstream_status != 0 ? exchange->upstream_status
                                        : exchange->answering          ? exchange->req->res.status
                                                                       : 0,
                              .ran = exchange->stats.attempts != 0,
                              .sent = exchange->stats.is_sent,
                              .answered = exchange->stats.first_byte_ns != 0,
                              .body_bytes = (int64_t)exchange->body->size,
                              .now_ns = weir_clock_turn_ns};
    weir_timer_stop(&exchange->renewal);
    weir_chain_done(exchange->snapshot->chain, &exchange->run, &exchange->request, &outcome);
}

/* The request's memory goes: answered, or the caller left. */
static void on_dispose(void *argument)
{
    enum { STATUS_CLIENT_GONE = 499 };
    weir_exchange_t *exchange = argument;
    weir_worker_t *worker = exchange->worker;
    exchange->body->on_progress = NULL;
    weir_await_dispose(exchange);
    weir_timer_stop(&exchange->renewal);
    weir_stream_leave(&exchange->reader);
    if (exchange->call != NULL) {
        weir_call_t *call = exchange->call;
        exchange->reason = WEIR_REASON_CLIENT_GONE;
        take_stats(exchange);
        weir_call_cancel(call, WEIR_REASON_CLIENT_GONE);
    } else if (exchange->reason == WEIR_REASON_NONE && (!exchange->answering || !weir_h1_is_sent(exchange->req))) {
        exchange->reason = WEIR_REASON_CLIENT_GONE;
    }
    int status = exchange->answering ? exchange->req->res.status : STATUS_CLIENT_GONE;
    int64_t ended_ns = weir_clock_turn_ns > exchange->answered_ns ? weir_clock_turn_ns : exchange->answered_ns;
    int64_t duration_ns = ended_ns - exchange->started_ns;
    int64_t overhead_ns = overhead_of(exchange, duration_ns);
    settle(exchange);
    weir_exchange_count_tokens(exchange);
    weir_exchange_count_end(exchange, status, overhead_ns, duration_ns);
    log_access(exchange, status, overhead_ns, duration_ns);
    if (exchange->cut != NULL)
        weir_event_cut_destroy(exchange->cut);
    if (exchange->tunnel != NULL)
        weir_tunnel_destroy(exchange->tunnel);
    weir_ticket_close(worker, exchange->request.ticket);
    --worker->exchange_count;
    weir_worker_let_go(worker, exchange->snapshot);
    h2o_mem_free_recycle(&worker->recycle.exchange, exchange);
}

/* --- answering --- */

/* Sends, and notes whether the caller's side took it all at once. Where a caller's answer breaks off and his call goes on for
 * others, that is settled when it ends. */
void weir_exchange_send(weir_exchange_t *exchange, h2o_iovec_t *bufs, size_t count, h2o_send_state_t state)
{
    if (!exchange->answering) {
        exchange->answering = true;
        exchange->req->res.original.status = exchange->req->res.status; /* else the library copies all fields */
        h2o_start_response(exchange->req, &exchange->generator);
    }
    exchange->sending = state == H2O_SEND_STATE_IN_PROGRESS;
    if (!exchange->sending && exchange->call == NULL)
        settle(exchange);
    h2o_send(exchange->req, bufs, count, state);
    if (exchange->answered_ns == 0)
        exchange->answered_ns = weir_clock_now_ns();
    if (exchange->sending && exchange->call != NULL && !exchange->leads)
        weir_call_pause(exchange->call);
}

static void answer_own(weir_exchange_t *exchange, const weir_verdict_t *verdict, const char *allow)
{
    exchange->reason = verdict->reason;
    if (verdict->violated_count != 0)
        exchange->limit = verdict->violated[0];
    h2o_iovec_t body = weir_answer_own(exchange, verdict, allow);
    weir_stream_leave(&exchange->reader);
    weir_body_let_go(exchange->body);
    weir_exchange_send(exchange, &body, 1, H2O_SEND_STATE_FINAL);
}

void weir_exchange_answer_reason(weir_exchange_t *exchange, weir_reason_t reason, const char *detail)
{
    weir_verdict_t verdict = {.kind = WEIR_ANSWER,
                              .reason = reason,
                              .detail = detail,
                              .retry_after_ns = reason == WEIR_REASON_OVERLOADED ? OVERLOADED_RETRY_NS : -1};
    answer_own(exchange, &verdict, NULL);
}

/* The last words, and behind them the end that is none. */
static void send_break(weir_exchange_t *exchange)
{
    h2o_iovec_t words = exchange->last_words;
    exchange->last_words.len = 0;
    if (words.len != 0)
        weir_exchange_send(exchange, &words, 1, H2O_SEND_STATE_IN_PROGRESS); /* comes back here once they are out */
    else
        weir_exchange_send(exchange, NULL, 0, H2O_SEND_STATE_ERROR);
}

/* The answer cannot be finished: the caller's transfer breaks too. That may take him long, and what has ended is settled before. */
void weir_exchange_break_off(weir_exchange_t *exchange, weir_reason_t reason, const char *detail)
{
    exchange->reason = reason;
    exchange->last_words = weir_answer_last_words(exchange, reason, detail);
    exchange->broken = true;
    if (exchange->call == NULL)
        settle(exchange);
    if (!exchange->sending)
        send_break(exchange);
}

/* The upstream's side ends at once, the caller's with the request. */
static void on_tunnel_end(void *argument, weir_reason_t reason, bool is_cut)
{
    weir_exchange_t *exchange = argument;
    weir_call_t *call = exchange->call;
    take_stats(exchange);
    weir_call_cancel(call, reason);
    exchange->reason = reason;
    weir_exchange_send(exchange, NULL, 0, is_cut ? H2O_SEND_STATE_ERROR : H2O_SEND_STATE_FINAL);
}

static void begin_tunnel(weir_exchange_t *exchange)
{
    h2o_buffer_t *early;
    weir_tunnel_request_t request = {.worker = exchange->worker,
                                     .caller = weir_h1_begin_tunnel(exchange->req, &early),
                                     .upstream = weir_call_tunnel(exchange->call),
                                     .idle_ns = exchange->request.upstream->timeouts.idle_ns,
                                     .early = {early->bytes, early->size},
                                     .on_end = on_tunnel_end,
                                     .argument = exchange};
    exchange->tunnel = weir_tunnel_create(&request);
    h2o_buffer_dispose(&early);
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    weir_exchange_t *exchange = H2O_STRUCT_FROM_MEMBER(weir_exchange_t, generator, generator);
    exchange->sending = false;
    if (exchange->broken)
        send_break(exchange);
    else if (exchange->switches)
        begin_tunnel(exchange);
    else if (exchange->reader.stream != NULL)
        weir_share_pump(exchange);
    else if (exchange->call != NULL && !exchange->leads)
        weir_call_resume(exchange->call);
    if (exchange->leads)
        weir_share_mind_the_gap(exchange);
}

/* Who answers, and whether it is a stream. */
static weir_call_stats_t take_upstream(weir_exchange_t *exchange, const weir_call_head_t *head)
{
    weir_call_stats_t stats = exchange->call != NULL ? weir_call_stats(exchange->call) : exchange->stats;
    exchange->request.upstream = &exchange->request.conf->upstreams.entries[stats.upstream];
    if (exchange->stream == NULL && !exchange->switches)
        exchange->stream = weir_dialect_stream_of(&exchange->request, head);
    return stats;
}

static void take_head(weir_exchange_t *exchange, const weir_call_head_t *head)
{
    exchange->switches = head->status == 101;
    exchange->upstream_status = head->status;
    exchange->injected = take_upstream(exchange, head).is_injected;
    weir_answer_from_upstream(exchange, head);
    if (!exchange->injected || !weir_inject_is_in_answer(head))
        return;
    exchange->cut = weir_event_cut_create();
    exchange->req->res.content_length = SIZE_MAX;
}

static void add_buf(weir_exchange_t *exchange, h2o_iovec_t *bufs, size_t *count, const char *bytes, size_t len)
{
    if (len == 0)
        return;
    bufs[(*count)++] = h2o_iovec_init(bytes, len);
    if (exchange->stream != NULL && !exchange->leads)
        weir_dialect_stream_went(exchange->stream, bytes, len);
}

/* The answer's bytes as the caller gets them: without what weir asked for. Returns how many bufs there are of them. */
static size_t pass_bytes(weir_exchange_t *exchange, const weir_call_news_t *news, h2o_iovec_t bufs[2])
{
    size_t count = 0, len;
    const char *bytes;
    weir_chain_tap(exchange->snapshot->chain, &exchange->run, &exchange->request, news->bytes);
    if (exchange->stream != NULL)
        weir_dialect_stream_came(exchange->stream, news->bytes);
    if (exchange->cut == NULL) {
        add_buf(exchange, bufs, &count, news->bytes.base, news->bytes.len);
        return count;
    }
    weir_event_cut_feed(exchange->cut, news->bytes.base, news->bytes.len, &bytes, &len);
    add_buf(exchange, bufs, &count, bytes, len);
    if (news->ended && news->reason == WEIR_REASON_NONE) {
        weir_event_cut_end(exchange->cut, &bytes, &len);
        add_buf(exchange, bufs, &count, bytes, len);
    }
    return count;
}

/* The last that came of an answer which is not whole. With a Content-Length it must not look so: a byte stays back. */
void weir_exchange_pass_part(weir_exchange_t *exchange, h2o_iovec_t *bufs, size_t count, weir_reason_t reason,
                             const char *detail)
{
    if (count != 0 && exchange->req->res.content_length != SIZE_MAX)
        --bufs[count - 1].len;
    if (count != 0 || !exchange->answering)
        weir_exchange_send(exchange, bufs, count, H2O_SEND_STATE_IN_PROGRESS);
    weir_exchange_break_off(exchange, reason, detail);
}

static const char *on_lacks(weir_sink_t *sink, const weir_call_news_t *last)
{
    weir_exchange_t *exchange = (weir_exchange_t *)sink;
    if (last->head != NULL)
        (void)take_upstream(exchange, last->head);
    bool lacks_end = exchange->stream != NULL && weir_dialect_stream_lacks_end(exchange->stream, last->bytes);
    return lacks_end ? "its last event did not come" : NULL;
}

static void answer_lost(weir_exchange_t *exchange, const weir_call_news_t *news)
{
    if (news->reason != WEIR_REASON_BREAKER_OPEN && news->reason != WEIR_REASON_THROTTLED) {
        weir_exchange_answer_reason(exchange, news->reason, news->detail);
        return;
    }
    static const char refuses[] = "Upstream %s is not asked now, its breaker is open", pauses[] = "Upstream %s asked for a pause";
    const char *format = news->reason == WEIR_REASON_BREAKER_OPEN ? refuses : pauses;
    const char *upstream = exchange->snapshot->conf->upstreams.entries[exchange->stats.upstream].name;
    size_t size = sizeof(refuses) + strlen(upstream);
    char *detail = weir_h1_alloc(exchange->req, size);
    snprintf(detail, size, format, upstream);
    weir_verdict_t verdict = {
        .kind = WEIR_ANSWER, .reason = news->reason, .detail = detail, .retry_after_ns = news->retry_after_ns};
    answer_own(exchange, &verdict, NULL);
}

/* What became of a call that others may share, or whose caller left: what that one was told is another matter. */
static void settle_call(weir_exchange_t *exchange, weir_reason_t reason, const char *detail)
{
    weir_reason_t told = exchange->reason;
    exchange->reason = reason;
    exchange->detail = detail;
    settle(exchange);
    if (exchange->left || exchange->broken)
        exchange->reason = told;
}

/* Of a call that others may share, or whose caller left: what comes is written to its stream, from which its own caller reads
 * as all do; what the chain decided is settled when the call ends. */
static void on_lead_news(weir_exchange_t *exchange, const weir_call_news_t *news)
{
    h2o_iovec_t bufs[2];
    bool has_stream = exchange->request.lead != NULL;
    size_t count = pass_bytes(exchange, news, bufs);
    bool is_part = news->ended && news->reason != WEIR_REASON_NONE;
    if (is_part && count != 0 && exchange->req->res.content_length != SIZE_MAX)
        --bufs[count - 1].len; /* nobody has all bytes of an answer that is not whole, not even for a moment */
    if (has_stream && news->head != NULL)
        weir_share_write_head(exchange, news->head);
    if (has_stream)
        weir_share_write(exchange, bufs, count);
    if (!news->ended) {
        weir_share_pump(exchange);
        weir_share_mind_the_gap(exchange);
        return;
    }
    if (is_part && news->head == NULL && !exchange->answering && !exchange->left) {
        exchange->detail = news->detail;
        answer_lost(exchange, news); /* settles */
        return;
    }
    settle_call(exchange, news->reason, news->detail);
    if (exchange->left)
        weir_h1_end_left(exchange->req);
    else
        weir_share_pump(exchange);
}

static void on_news(weir_sink_t *sink, const weir_call_news_t *news)
{
    weir_exchange_t *exchange = (weir_exchange_t *)sink;
    h2o_iovec_t bufs[2];
    if (news->ended)
        take_stats(exchange);
    if (news->head != NULL)
        take_head(exchange, news->head);
    if (exchange->leads || exchange->left) {
        on_lead_news(exchange, news);
        return;
    }
    bool is_lost = news->ended && news->reason != WEIR_REASON_NONE;
    if (is_lost && news->head == NULL && !exchange->answering) {
        answer_lost(exchange, news);
        return;
    }
    size_t count = pass_bytes(exchange, news, bufs);
    if (is_lost)
        weir_exchange_pass_part(exchange, bufs, count, news->reason, news->detail);
    else if (count != 0 || news->ended || !exchange->answering)
        weir_exchange_send(exchange, bufs, count, news->ended ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

/* Ends the call from this side. */
static void end_call(weir_exchange_t *exchange, weir_reason_t reason, const char *detail)
{
    weir_call_t *call = exchange->call;
    take_stats(exchange);
    weir_call_cancel(call, reason);
    if (!exchange->answering && !exchange->left) {
        exchange->detail = detail;
        weir_exchange_answer_reason(exchange, reason, detail);
        return;
    }
    settle_call(exchange, reason, detail);
    if (exchange->left)
        weir_h1_end_left(exchange->req);
    else if (exchange->leads)
        weir_share_pump(exchange);
    else
        weir_exchange_break_off(exchange, reason, detail);
}

/* --- the request's body --- */

static void on_body_progress(weir_body_t *body)
{
    weir_exchange_t *exchange = body->reader;
    weir_call_t *call = exchange->call;
    if (body->failed == WEIR_REASON_NONE) {
        if (call != NULL)
            weir_call_body_progress(call);
        return;
    }
    if (call != NULL)
        end_call(exchange, body->failed, NULL);
}

/* --- a call that others share --- */

static bool on_leave(void *argument)
{
    weir_exchange_t *exchange = argument;
    if (exchange->call == NULL || !exchange->request.outlives_caller || !exchange->body->complete)
        return false;
    exchange->left = true;
    if (!exchange->broken)
        exchange->reason = WEIR_REASON_CLIENT_GONE;
    weir_stream_leave(&exchange->reader);
    if (exchange->leads)
        weir_share_mind_the_gap(exchange);
    else
        weir_call_resume(exchange->call);
    return true;
}

static void start_renewal(weir_exchange_t *exchange)
{
    enum { RENEWALS_PER_LEASE = 6 };
    weir_timer_start(exchange->worker, &exchange->renewal, exchange->request.lease_ns / RENEWALS_PER_LEASE);
}

/* Another one runs now, or soon: this one must not. */
static void end_unclaimed(weir_exchange_t *exchange, const char *detail)
{
    if (exchange->call != NULL) {
        end_call(exchange, WEIR_REASON_STORE_DOWN, detail);
        return;
    }
    weir_await_end(exchange);
    weir_exchange_answer_reason(exchange, WEIR_REASON_STORE_DOWN, detail);
}

static void on_renewal(h2o_timeout_entry_t *entry)
{
    weir_exchange_t *exchange = H2O_STRUCT_FROM_MEMBER(weir_exchange_t, renewal, entry);
    exchange->request.now_ns = weir_clock_turn_ns;
    if (weir_chain_renew(exchange->snapshot->chain, &exchange->run, &exchange->request))
        start_renewal(exchange);
    else
        end_unclaimed(exchange, "its claim could not be renewed in time");
}

/* From when it was told to run, whatever it waits for then. */
static void mind_the_lease(weir_exchange_t *exchange)
{
    if (exchange->request.lease_ns == 0 || h2o_timeout_is_linked(&exchange->renewal))
        return;
    exchange->renewal.cb = on_renewal;
    start_renewal(exchange);
}

/* --- the way in --- */

static void *alloc(weir_request_t *request, size_t size)
{
    return weir_h1_alloc(H2O_STRUCT_FROM_MEMBER(weir_exchange_t, request, request)->req, size);
}

static void note_peer(weir_exchange_t *exchange)
{
    struct sockaddr_storage address;
    struct sockaddr *sa = (struct sockaddr *)&address;
    exchange->req->conn->callbacks->get_peername(exchange->req->conn, sa);
    exchange->request.peer.family = sa->sa_family;
    uint8_t *bytes = exchange->request.peer.address;
    switch (sa->sa_family) {
    case AF_INET:
        memcpy(bytes, &((struct sockaddr_in *)sa)->sin_addr, 4);
        exchange->peer_len = weir_number_ipv4(exchange->peer, bytes);
        break;
    case AF_INET6:
        memcpy(bytes, &((struct sockaddr_in6 *)sa)->sin6_addr, 16);
        inet_ntop(AF_INET6, bytes, exchange->peer, sizeof(exchange->peer));
        exchange->peer_len = strlen(exchange->peer);
        break;
    default:
        strcpy(exchange->peer, "unix");
        exchange->peer_len = 4;
    }
}

static weir_exchange_t *create(h2o_req_t *req)
{
    weir_worker_t *worker = weir_worker_of(req->conn->ctx);
    weir_exchange_t *exchange = h2o_mem_alloc_recycle(&worker->recycle.exchange, sizeof(*exchange));
    memset(exchange, 0, sizeof(*exchange));
    weir_h1_on_dispose(req, on_dispose, exchange);
    weir_h1_on_leave(req, on_leave);
    exchange->sink = (weir_sink_t){.news = on_news, .lacks = on_lacks};
    exchange->generator.proceed = on_proceed;
    exchange->req = req;
    exchange->worker = worker;
    exchange->snapshot = weir_server_snapshot_for(worker, weir_h1_listener(req), &exchange->listener_index);
    weir_worker_hold(worker, exchange->snapshot);
    exchange->body = weir_h1_body(req);
    exchange->body->reader = exchange;
    exchange->request.ticket = weir_ticket_open(worker, exchange);
    exchange->started_ns = weir_clock_turn_ns;
    ++worker->exchange_count;
    return exchange;
}

/* A WebSocket (RFC 6455 4.1) and nothing else; any other Upgrade ends here, as its field does. */
static bool wants_websocket(const weir_exchange_t *exchange)
{
    const h2o_req_t *req = exchange->req;
    return h2o_lcstris(req->upgrade.base, req->upgrade.len, H2O_STRLIT("websocket")) && req->http1_is_persistent &&
           h2o_memis(req->input.method.base, req->input.method.len, H2O_STRLIT("GET")) && exchange->body->declared == 0;
}

static void describe(weir_exchange_t *exchange)
{
    h2o_req_t *req = exchange->req;
    weir_request_t *request = &exchange->request;
    const weir_conf_t *conf = exchange->snapshot->conf;

    request->conf = conf;
    request->listener = &conf->listeners.entries[exchange->listener_index];
    request->method = (weir_str_t){req->input.method.base, req->input.method.len};
    request->target = (weir_str_t){req->input.path.base, req->input.path.len};
    request->fields = (const weir_field_t *)req->headers.entries;
    request->field_count = req->headers.size;
    note_peer(exchange);
    request->trusted = weir_tenant_trusts(request->listener->tenant, request->peer.family, request->peer.address);
    request->wants_tunnel = wants_websocket(exchange);
    request->now_ns = weir_clock_turn_ns;
    request->wall_ms = weir_clock_wall_ms();
    request->random[0] = weir_worker_random(exchange->worker);
    request->random[1] = weir_worker_random(exchange->worker);
    request->body_bytes = exchange->body->declared != UINT64_MAX ? (int64_t)exchange->body->declared : -1;
    request->observer = &weir_exchange_observer;
    request->alloc = alloc;
    request->reader = &exchange->reader;
    request->client_ip = weir_client_ip(request, (weir_str_t){exchange->peer, exchange->peer_len});
}

static void take_route(weir_exchange_t *exchange, const weir_conf_route_t *route, size_t index)
{
    exchange->request.route = route;
    if (route != NULL) {
        exchange->request.upstream = &exchange->request.conf->upstreams.entries[route->upstream];
        exchange->dialect = exchange->request.upstream->dialect;
    }
    exchange->route_index = route != NULL ? index : exchange->request.listener->routes.size;
    weir_exchange_count_begin(exchange);
}

/* Identity is not believed: once a minute is enough to say so. */
static void warn_of_ignored_identity(weir_exchange_t *exchange)
{
    static _Atomic int64_t next_ns;
    int64_t due = atomic_load_explicit(&next_ns, memory_order_relaxed);
    if (!exchange->request.identity_ignored || exchange->started_ns < due ||
        !atomic_compare_exchange_strong(&next_ns, &due, exchange->started_ns + (int64_t)60 * 1000000000))
        return;
    weir_log_event(WEIR_LOG_WARN,
                   "headers that name tenant or correlation were dropped: the peer %s is not in tenant.trusted (listener %s)",
                   exchange->peer, exchange->request.listener->name);
}

static bool is_one_of(weir_str_t method, const weir_str_t *methods, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (weir_str_is(method, methods[i]))
            return true;
    return false;
}

int64_t weir_exchange_total_ns(const weir_exchange_t *exchange)
{
    const weir_conf_route_t *route = exchange->request.route;
    if (route == NULL) /* it waits for its body to know; that has a time of its own */
        return INT64_MAX;
    return route->timeout_ns != 0 ? route->timeout_ns : exchange->request.upstream->timeouts.total_ns;
}

static void call_upstream(weir_exchange_t *exchange)
{
    static const weir_str_t idempotent[] = {WEIR_STR("GET"), WEIR_STR("HEAD"), WEIR_STR("PUT"), WEIR_STR("DELETE"),
                                            WEIR_STR("OPTIONS")};
    static const weir_str_t with_body[] = {WEIR_STR("POST"), WEIR_STR("PUT"), WEIR_STR("PATCH")};
    weir_request_t *request = &exchange->request;
    weir_metrics_worker_t *metrics = exchange->worker->metrics;
    weir_call_request_t call = {
        .worker = exchange->worker,
        .snapshot = exchange->snapshot,
        .is_head = weir_str_is(request->method, WEIR_STR("HEAD")),
        .is_idempotent = is_one_of(request->method, idempotent, sizeof(idempotent) / sizeof(idempotent[0])),
        .expects_body = is_one_of(request->method, with_body, sizeof(with_body) / sizeof(with_body[0])),
        .wants_tunnel = request->wants_tunnel,
        .total_ns = weir_exchange_total_ns(exchange) - exchange->wait.total_ns,
        .tenant = weir_metrics_tenant(metrics, request->tenant.base, request->tenant.len),
        .body = exchange->body,
        .sink = &exchange->sink};
    memcpy(call.method, request->method.base, request->method.len < WEIR_CALL_METHOD_MAX ? request->method.len : WEIR_CALL_METHOD_MAX);
    call.is_protected = request->is_protected;
    exchange->leads = request->lead != NULL;
    weir_targets_make(exchange, &call);
    weir_await_dispose(exchange);
    exchange->call = weir_call_create(&call);
    exchange->body->on_progress = on_body_progress;
    weir_call_begin(exchange->call);
}

void weir_exchange_go_on(weir_exchange_t *exchange, const weir_verdict_t *verdict)
{
    warn_of_ignored_identity(exchange);
    mind_the_lease(exchange);
    switch (verdict->kind) {
    case WEIR_PASS:
        call_upstream(exchange);
        return;
    case WEIR_ANSWER:
        answer_own(exchange, verdict, NULL);
        return;
    case WEIR_NEED_BODY:
        weir_await_body(exchange, verdict->is_raw);
        return;
    case WEIR_AWAIT:
        weir_await_ticket(exchange, verdict->until_ns, verdict->is_own);
        return;
    case WEIR_SHARE:
        weir_share_begin(exchange);
        return;
    }
}

/* The chain names the request for the log and the caller; nothing else is asked of it. */
static void refuse(weir_exchange_t *exchange, const weir_verdict_t *verdict, const char *allow)
{
    take_route(exchange, NULL, 0);
    (void)weir_chain_admit(exchange->snapshot->chain, &exchange->run, &exchange->request);
    answer_own(exchange, verdict, allow);
}

/* Of a request that goes no further than its head, if that was read right. */
static void take_dialect(weir_exchange_t *exchange)
{
    static const weir_str_t no_model = {"", 0};
    const weir_request_t *request = &exchange->request;
    weir_str_t authority = {exchange->req->input.authority.base, exchange->req->input.authority.len};
    char *path = exchange->worker->scratch_names;
    const char *detail;
    if (request->target.len == 0)
        return;
    ptrdiff_t len = weir_h1_match_path(request->target.base, request->target.len, path, &detail);
    if (len < 0)
        return;
    weir_router_match_t match = weir_router_find(exchange->snapshot->routers[exchange->listener_index],
                                                 (weir_str_t){path, (size_t)len}, authority, request->method, &no_model);
    if (match.route != NULL)
        exchange->dialect = request->conf->upstreams.entries[match.route->upstream].dialect;
}

static void admit(weir_exchange_t *exchange)
{
    weir_verdict_t verdict = weir_chain_admit(exchange->snapshot->chain, &exchange->run, &exchange->request);
    weir_exchange_go_on(exchange, &verdict);
}

/* `model`: NULL while the body was not read. */
static void route(weir_exchange_t *exchange, const weir_str_t *model)
{
    weir_request_t *request = &exchange->request;
    h2o_req_t *req = exchange->req;
    weir_verdict_t refusal = {.kind = WEIR_ANSWER, .reason = WEIR_REASON_MALFORMED, .retry_after_ns = -1};
    char *path = exchange->worker->scratch_names;
    ptrdiff_t path_len = weir_h1_match_path(request->target.base, request->target.len, path, &refusal.detail);
    if (weir_str_is(request->target, WEIR_STR("*"))) {
        refusal.reason = WEIR_REASON_NO_ROUTE;
        refuse(exchange, &refusal, NULL);
        return;
    }
    if (path_len < 0) {
        req->http1_is_persistent = 0;
        refuse(exchange, &refusal, NULL);
        return;
    }
    weir_router_match_t match = weir_router_find(
        exchange->snapshot->routers[exchange->listener_index], (weir_str_t){path, (size_t)path_len},
        (weir_str_t){req->input.authority.base, req->input.authority.len}, request->method, model);
    if (match.needs_model) {
        weir_await_body(exchange, false);
        return;
    }
    if (match.route == NULL) {
        refusal.reason = match.allow != NULL ? WEIR_REASON_METHOD : WEIR_REASON_NO_ROUTE;
        refusal.detail = match.lacks_model ? "no route of this path takes the model that the body asks for" : NULL;
        exchange->dialect = match.dialect;
        refuse(exchange, &refusal, match.allow);
        return;
    }
    take_route(exchange, match.route, match.index);
    admit(exchange);
}

void weir_exchange_body_read(weir_exchange_t *exchange)
{
    if (exchange->request.route == NULL) {
        route(exchange, &exchange->model);
        return;
    }
    weir_verdict_t verdict = weir_chain_wake(exchange->snapshot->chain, &exchange->run, &exchange->request);
    weir_exchange_go_on(exchange, &verdict);
}

void weir_exchange_body_failed(weir_exchange_t *exchange, weir_reason_t reason, const char *detail)
{
    weir_verdict_t refusal = {.kind = WEIR_ANSWER, .reason = reason, .detail = detail, .retry_after_ns = -1};
    if (exchange->request.route != NULL) {
        weir_exchange_answer_reason(exchange, reason, detail);
        return;
    }
    take_dialect(exchange);
    refuse(exchange, &refusal, NULL);
}

static int on_request(h2o_handler_t *handler, h2o_req_t *req)
{
    weir_exchange_t *exchange = create(req);
    describe(exchange);
    route(exchange, NULL);
    return 0;
}

void weir_exchange_refuse(h2o_req_t *req, weir_reason_t reason, int status, const char *detail)
{
    weir_verdict_t verdict = {.kind = WEIR_ANSWER, .reason = reason, .status = status, .detail = detail, .retry_after_ns = -1};
    h2o_hostconf_t *hostconf = req->conn->hosts[0];
    req->method = req->input.method;
    h2o_req_bind_conf(req, hostconf, &hostconf->paths.entries[0]);
    if (weir_h1_listener(req)->kind != WEIR_LISTENER_DATA) {
        weir_admin_refuse(req, reason, status, detail);
        return;
    }
    weir_exchange_t *exchange = create(req);
    describe(exchange);
    if (reason != WEIR_REASON_MALFORMED || exchange->request.field_count != 0) /* its body is: the head was right */
        take_dialect(exchange);
    refuse(exchange, &verdict, NULL);
}

void weir_exchange_register(h2o_hostconf_t *hostconf)
{
    h2o_pathconf_t *path = h2o_config_register_path(hostconf, "/", 0);
    while (path->filters.size != 0) /* the library's own chunked encoding: h1.c frames */
        free(path->filters.entries[--path->filters.size]);
    h2o_handler_t *handler = h2o_create_handler(path, sizeof(*handler));
    handler->on_req = on_request;
}
