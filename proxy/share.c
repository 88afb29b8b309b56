#include "share.h"

#include <stdlib.h>
#include "answer_head.h"
#include "exchange.h"
#include "h1.h"

/* Up to FREE_BYTES nobody can be left behind, as half of the least slack is not reached; one read more and it is not
 * passed either. */
enum { AHEAD_BYTES_MAX = 256 * 1024, FREE_BYTES = WEIR_STREAM_SLACK_MIN / 2 };
_Static_assert(FREE_BYTES + WEIR_SCRATCH_BYTES <= WEIR_STREAM_SLACK_MIN, "who is waited for in time is never cut off");

/* OWN_TICKS without a byte taken, and the call's own caller is waited for no more. */
enum { OWN_TICKS = 10 };

static const int64_t TICK_NS = 100000000;

/* --- reading --- */

static void on_late(h2o_timeout_entry_t *entry)
{
    weir_exchange_t *exchange = H2O_STRUCT_FROM_MEMBER(weir_exchange_t, wait.timer, entry);
    weir_await_end(exchange);
    weir_exchange_answer_reason(exchange, WEIR_REASON_TIMEOUT_TOTAL, "the answer that it shares did not come");
}

void weir_share_begin(weir_exchange_t *exchange)
{
    exchange->has_shared_head = false;
    weir_await_stream(exchange, on_late);
    weir_share_pump(exchange);
}

/* False, and that was answered: it came from a store that others write to, and is none. */
static bool take_head(weir_exchange_t *exchange, const weir_stream_view_t *view)
{
    weir_answer_head_t shared;
    weir_await_end(exchange);
    if (!weir_answer_head_decode(&exchange->req->pool, view->head, view->head_len, &shared) ||
        (view->state == WEIR_STREAM_DONE && !weir_answer_head_is_sound(&shared.head, (uint64_t)view->total))) {
        weir_exchange_answer_reason(exchange, WEIR_REASON_BAD_RESPONSE, "its kept answer cannot be read");
        return false;
    }
    weir_body_let_go(exchange->body);
    exchange->has_shared_head = true;
    exchange->stream = weir_dialect_stream_of(&exchange->request, &shared.head);
    weir_answer_from_upstream(exchange, &shared.head);
    return true;
}

/* There was no answer: the filter is asked again, and this request may be the next to run. */
static void ask_again(weir_exchange_t *exchange)
{
    exchange->is_lost = false;
    weir_await_end(exchange);
    exchange->request.now_ns = weir_clock_turn_ns;
    weir_verdict_t verdict = weir_chain_wake(exchange->snapshot->chain, &exchange->run, &exchange->request);
    weir_exchange_go_on(exchange, &verdict);
}

static void note_progress(weir_exchange_t *exchange)
{
    exchange->share_ticks = 0;
}

/* It is too slow for the others. Its call goes on for them: it did not leave it. */
static void break_off_slow(weir_exchange_t *exchange)
{
    weir_stream_leave(&exchange->reader);
    exchange->request.outlives_caller |= exchange->leads;
    weir_exchange_break_off(exchange, WEIR_REASON_OVERLOADED, "it was more than dedup.max_response behind the others");
}

/* That those who ran it left is no word for one who stayed. */
static void pass_part(weir_exchange_t *exchange, h2o_iovec_t *bufs, const weir_stream_view_t *view)
{
    bool has_left = view->end.reason == WEIR_REASON_CLIENT_GONE;
    weir_exchange_pass_part(exchange, bufs, view->run_count, has_left ? WEIR_REASON_RESET : view->end.reason,
                            has_left ? "those whose answer it shared left" : view->end.detail);
    weir_stream_leave(&exchange->reader);
}

/* What is there; returns whether there may be more. */
static bool send_view(weir_exchange_t *exchange, const weir_stream_view_t *view)
{
    h2o_iovec_t bufs[WEIR_STREAM_RUNS_MAX];
    size_t bytes = 0;
    for (size_t i = 0; i < view->run_count; ++i) {
        bufs[i] = h2o_iovec_init(view->runs[i].base, view->runs[i].len);
        bytes += bufs[i].len;
        if (exchange->stream != NULL)
            weir_dialect_stream_went(exchange->stream, bufs[i].base, bufs[i].len);
    }
    if (view->is_cut) {
        break_off_slow(exchange);
        return false;
    }
    if (view->is_all && view->state != WEIR_STREAM_DONE) {
        pass_part(exchange, bufs, view);
        return false;
    }
    if (bytes == 0 && !view->is_all && exchange->answering)
        return false;
    weir_exchange_send(exchange, bufs, view->run_count, view->is_all ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
    weir_stream_went_on(&exchange->reader, bytes);
    note_progress(exchange);
    if (view->is_all)
        weir_stream_leave(&exchange->reader);
    return !view->is_all && !exchange->sending;
}

/* The others went on before it came to read. */
static void refuse_late(weir_exchange_t *exchange)
{
    weir_await_end(exchange);
    weir_exchange_answer_reason(exchange, WEIR_REASON_OVERLOADED, "the answer that it shares went on without it");
}

static bool pump_once(weir_exchange_t *exchange)
{
    weir_stream_view_t view;
    weir_stream_look(&exchange->reader, &view);
    if (exchange->leads)
        return view.head != NULL && send_view(exchange, &view);
    if (!exchange->has_shared_head) {
        exchange->is_lost = view.state == WEIR_STREAM_LOST;
        if (exchange->is_lost || view.head == NULL)
            return false;
        if (view.is_cut) {
            refuse_late(exchange);
            return false;
        }
        if (!take_head(exchange, &view))
            return false;
    }
    return send_view(exchange, &view);
}

static bool can_pump(const weir_exchange_t *exchange)
{
    return exchange->reader.stream != NULL && !exchange->sending && !exchange->broken && !exchange->left;
}

/* The caller's side may take what is sent at once, and say so from within: the loop goes on then, not a call in a call. */
void weir_share_pump(weir_exchange_t *exchange)
{
    if (exchange->is_pumping || !can_pump(exchange))
        return;
    exchange->is_pumping = true;
    while (can_pump(exchange) && pump_once(exchange))
        ;
    exchange->is_pumping = false;
    if (exchange->is_lost)
        ask_again(exchange);
}

/* --- writing --- */

void weir_share_write_head(weir_exchange_t *exchange, const weir_call_head_t *head)
{
    weir_call_head_t kept = *head;
    if (exchange->cut != NULL) /* it will be shorter */
        kept.content_length = UINT64_MAX;
    h2o_iovec_t bytes = weir_answer_head_encode(&kept);
    weir_stream_begin_with(exchange->request.lead, bytes.base, bytes.len);
}

void weir_share_write(weir_exchange_t *exchange, const h2o_iovec_t *bufs, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        weir_stream_append(exchange->request.lead, bufs[i].base, bufs[i].len);
        exchange->shared_bytes += bufs[i].len;
    }
}

/* The call's own caller, as long as he takes anything at all: his answer is not cut because another one is faster. */
static bool waits_for_own(const weir_exchange_t *exchange)
{
    return exchange->reader.stream != NULL && exchange->share_ticks < OWN_TICKS &&
           weir_stream_behind(&exchange->reader) > FREE_BYTES;
}

/* Others, for a moment, in which one that is only late catches up. */
static bool waits_for_others(weir_exchange_t *exchange)
{
    if (!weir_stream_leaves_behind(exchange->request.lead, exchange->request.ticket)) {
        exchange->has_waited = false;
        return false;
    }
    return !exchange->has_waited;
}

/* Since the last tick, be it less than what it was sent at once. */
static bool own_takes_more(weir_exchange_t *exchange)
{
    if (exchange->reader.stream == NULL)
        return false;
    int64_t had = exchange->share_progress;
    exchange->share_progress = weir_h1_progress(exchange->req);
    return exchange->share_progress != had;
}

static void on_tick(h2o_timeout_entry_t *entry)
{
    weir_exchange_t *exchange = H2O_STRUCT_FROM_MEMBER(weir_exchange_t, wait.timer, entry);
    if (own_takes_more(exchange))
        note_progress(exchange);
    else if (exchange->share_ticks < OWN_TICKS)
        ++exchange->share_ticks;
    exchange->has_waited = true;
    weir_share_mind_the_gap(exchange);
}

static void tick(weir_exchange_t *exchange, bool waits)
{
    if (!waits)
        weir_timer_stop(&exchange->wait.timer);
    if (!waits || h2o_timeout_is_linked(&exchange->wait.timer))
        return;
    exchange->wait.timer.cb = on_tick;
    weir_timer_start(exchange->worker, &exchange->wait.timer, TICK_NS);
}

void weir_share_mind_the_gap(weir_exchange_t *exchange)
{
    if (exchange->call == NULL || exchange->request.lead == NULL || exchange->shared_bytes <= FREE_BYTES)
        return;
    weir_stream_t *stream = exchange->request.lead;
    bool is_ahead = weir_stream_ahead(stream, AHEAD_BYTES_MAX, exchange->request.ticket) > AHEAD_BYTES_MAX;
    bool waits = waits_for_own(exchange) || waits_for_others(exchange);
    tick(exchange, waits);
    if (is_ahead || waits)
        weir_call_pause(exchange->call);
    else
        weir_call_resume(exchange->call);
}
