#include "exchange_parts.h"

#include <stdlib.h>
#include "exchange.h"
#include "share.h"

static int64_t left_ns(const weir_exchange_t *exchange)
{
    int64_t total_ns = weir_exchange_total_ns(exchange);
    return total_ns != INT64_MAX ? total_ns - exchange->wait.total_ns : INT64_MAX;
}

static void begin(weir_exchange_t *exchange, weir_waits_t state, int64_t wait_ns, h2o_timeout_cb on_late)
{
    exchange->wait.state = state;
    exchange->wait.is_own = false;
    exchange->wait.began_ns = weir_clock_turn_ns;
    exchange->wait.timer.cb = on_late;
    if (wait_ns > left_ns(exchange))
        wait_ns = left_ns(exchange);
    if (wait_ns != INT64_MAX)
        weir_timer_start(exchange->worker, &exchange->wait.timer, wait_ns);
}

void weir_await_end(weir_exchange_t *exchange)
{
    if (exchange->wait.state == WEIR_WAITS_NOT)
        return;
    int64_t ns = weir_clock_turn_ns - exchange->wait.began_ns;
    exchange->wait.total_ns += ns;
    exchange->wait.own_ns += exchange->wait.is_own ? ns : 0;
    exchange->wait.state = WEIR_WAITS_NOT;
    weir_timer_stop(&exchange->wait.timer);
}

void weir_exchange_wake(void *argument)
{
    weir_exchange_t *exchange = argument;
    if (exchange->reader.stream != NULL)
        weir_share_pump(exchange);
    if (exchange->leads)
        weir_share_mind_the_gap(exchange);
    if (exchange->wait.state != WEIR_WAITS_FOR_TICKET) /* told twice, or before it began to wait */
        return;
    weir_await_end(exchange);
    exchange->request.now_ns = weir_clock_turn_ns;
    weir_verdict_t verdict = weir_chain_wake(exchange->snapshot->chain, &exchange->run, &exchange->request);
    weir_exchange_go_on(exchange, &verdict);
}

/* --- the body --- */

static void answer_body(weir_exchange_t *exchange, weir_reason_t reason, const char *detail)
{
    weir_await_end(exchange);
    weir_exchange_body_failed(exchange, reason, detail);
}

/* False: it is refused, and that was answered. */
static bool take_picked(weir_exchange_t *exchange)
{
    weir_request_t *request = &exchange->request;
    const weir_json_picked_t *picked = weir_json_pick_end(exchange->wait.pick);
    if (picked->is_ambiguous) {
        exchange->req->http1_is_persistent = 0;
        answer_body(exchange, WEIR_REASON_MALFORMED, "the JSON body has one of its members twice");
        return false;
    }
    request->picked = picked;
    if (picked->model_len != 0) {
        char *model = request->alloc(request, picked->model_len);
        memcpy(model, picked->model, picked->model_len);
        exchange->model = (weir_str_t){model, picked->model_len};
    }
    return true;
}

static void take_body(weir_exchange_t *exchange)
{
    weir_request_t *request = &exchange->request;
    weir_body_t *body = exchange->body;
    if (exchange->wait.pick != NULL && !take_picked(exchange))
        return;
    weir_await_end(exchange);
    request->body_bytes = (int64_t)body->size;
    request->body = (weir_str_t){body->size != 0 ? body->bytes : "", body->size};
    request->now_ns = weir_clock_turn_ns;
    weir_exchange_body_read(exchange);
}

static void on_body_progress(weir_body_t *body)
{
    weir_exchange_t *exchange = body->reader;
    if (exchange->wait.state != WEIR_WAITS_FOR_BODY) /* it was answered: nobody wants the rest */
        return;
    if (body->failed != WEIR_REASON_NONE) {
        answer_body(exchange, body->failed, NULL);
        return;
    }
    if (exchange->wait.pick != NULL && body->size != exchange->wait.picked) {
        (void)weir_json_pick_feed(exchange->wait.pick, body->bytes + exchange->wait.picked, body->size - exchange->wait.picked);
        exchange->wait.picked = body->size;
    }
    if (body->complete)
        take_body(exchange);
}

static void on_body_late(h2o_timeout_entry_t *entry)
{
    weir_exchange_t *exchange = H2O_STRUCT_FROM_MEMBER(weir_exchange_t, wait.timer, entry);
    exchange->req->http1_is_persistent = 0;
    answer_body(exchange, WEIR_REASON_TIMEOUT_CLIENT, "the whole body did not come within the route's timeout");
}

void weir_await_body(weir_exchange_t *exchange, bool is_raw)
{
    weir_body_t *body = exchange->body;
    if (!is_raw && exchange->wait.pick == NULL) {
        exchange->wait.pick = h2o_mem_alloc(sizeof(*exchange->wait.pick));
        weir_json_pick_init(exchange->wait.pick);
        exchange->wait.picked = 0;
    }
    begin(exchange, WEIR_WAITS_FOR_BODY, INT64_MAX, on_body_late);
    body->on_progress = on_body_progress;
    weir_body_want_whole(body);
    on_body_progress(body);
}

/* --- a ticket --- */

static void on_late(h2o_timeout_entry_t *entry)
{
    weir_exchange_wake(H2O_STRUCT_FROM_MEMBER(weir_exchange_t, wait.timer, entry));
}

/* The body has what it needs, but for a failure, which ends the waiting. */
static void on_body_failed(weir_body_t *body)
{
    weir_exchange_t *exchange = body->reader;
    bool waits = exchange->wait.state == WEIR_WAITS_FOR_TICKET || exchange->wait.state == WEIR_WAITS_FOR_STREAM;
    if (body->failed != WEIR_REASON_NONE && waits)
        answer_body(exchange, body->failed, NULL);
}

void weir_await_ticket(weir_exchange_t *exchange, int64_t until_ns, bool is_own)
{
    if (left_ns(exchange) <= 0) {
        weir_exchange_answer_reason(exchange, WEIR_REASON_TIMEOUT_TOTAL, "it waited for the whole of the route's timeout");
        return;
    }
    begin(exchange, WEIR_WAITS_FOR_TICKET, until_ns > weir_clock_turn_ns ? until_ns - weir_clock_turn_ns : 0, on_late);
    exchange->wait.is_own = is_own;
    exchange->body->on_progress = on_body_failed;
}

/* Its own body is kept meanwhile: it may be the next to run. */
void weir_await_stream(weir_exchange_t *exchange, h2o_timeout_cb on_late)
{
    begin(exchange, WEIR_WAITS_FOR_STREAM, INT64_MAX, on_late);
    exchange->body->on_progress = on_body_failed;
    weir_body_want_whole(exchange->body);
}

void weir_await_dispose(weir_exchange_t *exchange)
{
    weir_await_end(exchange);
    weir_timer_stop(&exchange->wait.timer);
    free(exchange->wait.pick);
    exchange->wait.pick = NULL;
    exchange->request.picked = NULL;
}
