#include "call.h"

#include <stdlib.h>
#include "../filters/core/retry_after.h"
#include "../filters/retry.h"
#include "health.h"
#include "hop.h"
#include "upstream.h"

/* A wait beyond this is the caller's own business (answer.c tells him the same: x-should-retry). */
static const int64_t WORTH_WAITING_NS = 60 * INT64_C(1000000000);
/* The loop counts whole milliseconds, and a timer may be early by a part of one: the pause that is waited for must be over. */
static const int64_t TIMER_EARLY_NS = 1000000;

static const int64_t PROVEN_NS = 1000000000;

struct weir_call {
    weir_sink_t sink; /* first: the attempt's news */
    weir_call_request_t request;
    weir_attempt_t *attempt;   /* NULL: none runs now */
    size_t target;             /* 0: the first, then the fallbacks */
    int tries;                 /* at this target */
    size_t fallen;             /* the target up to which fallbacks are counted */
    bool is_taken;             /* the caller has the answer's head */
    bool is_held;              /* the caller does not take more of it now */
    weir_health_pass_t pass;   /* of the attempt, until it is reported */
    weir_reason_t denied;      /* why the first upstream that was not asked, since the last that was, was not */
    size_t denied_upstream;    /* that one */
    weir_next_t next;          /* what follows the attempt that ends */
    weir_retry_outcome_t lost; /* why there is another one */
    int64_t delay_ns;          /* before that */
    h2o_timeout_entry_t total_timer;
    h2o_timeout_entry_t delay_timer; /* before the next attempt; or of a probe whose answer is taken */
    weir_call_stats_t stats; /* of all attempts that ended */
    int64_t began_ns;
};

/* --- the target --- */

static const weir_call_target_t *target_at(const weir_call_t *call, size_t target)
{
    return target == 0 ? &call->request.first : &call->request.fallbacks[target - 1];
}

static const weir_call_target_t *target_of(const weir_call_t *call)
{
    return target_at(call, call->target);
}

static const weir_conf_upstream_t *conf_at(const weir_call_t *call, size_t target)
{
    return &call->request.snapshot->conf->upstreams.entries[target_at(call, target)->upstream];
}

static const weir_conf_upstream_t *conf_of(const weir_call_t *call)
{
    return conf_at(call, call->target);
}

static weir_health_t *health_at(const weir_call_t *call, size_t target)
{
    return weir_upstream_health(call->request.snapshot->upstreams[target_at(call, target)->upstream]);
}

static weir_health_t *health_of(const weir_call_t *call)
{
    return health_at(call, call->target);
}

static weir_health_asker_t asker_at(const weir_call_t *call, size_t target)
{
    const weir_call_target_t *asked = target_at(call, target);
    return (weir_health_asker_t){.model = asked->name, .credential = asked->credential};
}

/* How long until that target would be asked, as far as anyone knows; 0: now. */
static int64_t wait_of(const weir_call_t *call, size_t target)
{
    weir_health_asker_t asker = asker_at(call, target);
    return weir_health_wait_ns(health_at(call, target), conf_at(call, target), &asker);
}

static bool has_fallback(const weir_call_t *call)
{
    return call->target < call->request.fallback_count;
}

/* --- what is counted --- */

static const char *word_of(weir_retry_outcome_t outcome, char text[12])
{
    if (outcome.reason != WEIR_REASON_NONE)
        return weir_reason_word(outcome.reason);
    snprintf(text, 12, "%d", outcome.status);
    return text;
}

static void count_retry(const weir_call_t *call)
{
    weir_worker_t *worker = call->request.worker;
    weir_metrics_t *metrics = worker->server->metrics;
    char status[12];
    const char *labels[] = {conf_of(call)->name, weir_metrics_tenant_name(metrics, call->request.tenant),
                            word_of(call->lost, status)};
    weir_metrics_add(worker->metrics, weir_metrics_series(metrics, NULL, WEIR_METRIC_RETRIES, labels), 1);
}

static void count_spent_budget(const weir_call_t *call)
{
    weir_worker_t *worker = call->request.worker;
    weir_metrics_t *metrics = worker->server->metrics;
    const char *labels[] = {conf_of(call)->name};
    weir_metrics_add(worker->metrics, weir_metrics_series(metrics, NULL, WEIR_METRIC_RETRY_BUDGET_EXHAUSTED, labels), 1);
}

/* Each one it fell through, once there is one that is asked. */
static void count_fallbacks(weir_call_t *call)
{
    weir_worker_t *worker = call->request.worker;
    weir_metrics_t *metrics = worker->server->metrics;
    for (; call->fallen != call->target; ++call->fallen) {
        const char *labels[] = {conf_at(call, call->fallen)->name, conf_at(call, call->fallen + 1)->name};
        weir_metrics_add(worker->metrics, weir_metrics_series(metrics, NULL, WEIR_METRIC_FALLBACKS, labels), 1);
    }
}

static void count_try(weir_call_t *call)
{
    count_fallbacks(call);
    if (call->tries == 0)
        weir_health_on_request(health_of(call), conf_of(call));
    else
        count_retry(call);
}

/* Of what the attempts came to, the times are the last one's, but for the first's beginning. */
static void add_stats(weir_call_stats_t *stats, const weir_call_stats_t *attempt)
{
    int attempts = stats->attempts + attempt->attempts;
    int64_t began_ns = stats->attempts != 0 ? stats->began_ns : attempt->began_ns;
    weir_call_stats_t before = *stats;
    *stats = *attempt;
    stats->attempts = attempts;
    stats->began_ns = began_ns;
    stats->earlier_ns = attempt->began_ns - began_ns;
    stats->budget_spent = before.budget_spent;
    stats->is_sent |= before.is_sent;
    stats->upstream = before.upstream;
    stats->is_injected = before.is_injected;
}

/* --- the end --- */

static void free_target(weir_call_target_t *target)
{
    free(target->head.base);
    free(target->model.base);
}

static void destroy(weir_call_t *call)
{
    weir_worker_t *worker = call->request.worker;
    weir_timer_stop(&call->total_timer);
    weir_timer_stop(&call->delay_timer);
    free_target(&call->request.first);
    for (size_t i = 0; i < call->request.fallback_count; ++i)
        free_target(&call->request.fallbacks[i]);
    free(call->request.fallbacks);
    weir_body_release(call->request.body);
    weir_worker_let_go(worker, call->request.snapshot);
    h2o_mem_free_recycle(&worker->recycle.call, call);
}

static void report(weir_call_t *call, weir_breaker_outcome_t outcome)
{
    int64_t first_byte_ns = 0;
    if (call->attempt != NULL) {
        const weir_call_stats_t *stats = weir_attempt_stats(call->attempt);
        first_byte_ns = stats->first_byte_ns != 0 ? stats->first_byte_ns - stats->began_ns : 0;
    }
    weir_health_report(health_of(call), call->request.worker, conf_of(call), &call->pass, outcome, first_byte_ns);
    call->pass.number = 0;
}

/* A time that ran out while the caller was waited for: for more of his request, or until he took what there was of the
 * answer. */
static bool is_callers_delay(const weir_call_t *call, weir_reason_t reason)
{
    bool is_late = reason == WEIR_REASON_TIMEOUT_TOTAL || reason == WEIR_REASON_TIMEOUT_FIRST_BYTE ||
                   reason == WEIR_REASON_TIMEOUT_IDLE;
    return is_late && (call->is_held || (call->attempt != NULL && weir_attempt_awaits_caller(call->attempt)));
}

static void report_outcome(weir_call_t *call, weir_retry_outcome_t outcome)
{
    bool is_whole = outcome.reason == WEIR_REASON_NONE;
    report(call, is_callers_delay(call, outcome.reason)          ? WEIR_BREAKER_CANCELLED
                 : weir_retry_is_failure(conf_of(call), outcome) ? WEIR_BREAKER_FAILURE
                 : is_whole                                      ? WEIR_BREAKER_SUCCESS
                                                                 : WEIR_BREAKER_CANCELLED);
}

static void take_stats(weir_call_t *call)
{
    add_stats(&call->stats, weir_attempt_stats(call->attempt));
    call->attempt = NULL;
}

/* The caller gets what this target answers. */
static void note_target(weir_call_t *call)
{
    call->stats.upstream = target_of(call)->upstream;
    call->stats.is_injected = target_of(call)->is_injected;
}

static void end(weir_call_t *call, const weir_call_news_t *news)
{
    weir_sink_t *sink = call->request.sink;
    sink->news(sink, news);
    destroy(call);
}

static void on_total_late(h2o_timeout_entry_t *entry)
{
    weir_call_t *call = H2O_STRUCT_FROM_MEMBER(weir_call_t, total_timer, entry);
    weir_attempt_t *attempt = call->attempt;
    report_outcome(call, (weir_retry_outcome_t){.reason = WEIR_REASON_TIMEOUT_TOTAL});
    if (attempt != NULL) {
        take_stats(call);
        weir_attempt_cancel(attempt, WEIR_REASON_TIMEOUT_TOTAL);
    }
    end(call, &(weir_call_news_t){.ended = true, .reason = WEIR_REASON_TIMEOUT_TOTAL});
}

/* --- attempts --- */

static void try_target(weir_call_t *call)
{
    const weir_call_request_t *request = &call->request;
    const weir_call_target_t *target = target_of(call);
    weir_attempt_request_t attempt = {.worker = request->worker,
                                      .snapshot = request->snapshot,
                                      .upstream = target->upstream,
                                      .head = {target->head.base, target->head.len},
                                      .is_head = request->is_head,
                                      .is_idempotent = request->is_idempotent,
                                      .expects_body = request->expects_body,
                                      .wants_tunnel = request->wants_tunnel,
                                      .repeats = call->tries,
                                      .body = request->body,
                                      .splices = target->splices,
                                      .sink = &call->sink};
    count_try(call);
    ++call->tries;
    call->denied = WEIR_REASON_NONE;
    note_target(call);
    call->attempt = weir_attempt_create(&attempt);
    weir_attempt_begin(call->attempt);
}

static void next_target(weir_call_t *call)
{
    ++call->target;
    call->tries = 0;
}

static void note_denial(weir_call_t *call)
{
    if (call->denied != WEIR_REASON_NONE)
        return;
    call->denied = call->pass.reason;
    call->denied_upstream = target_of(call)->upstream;
}

/* Asks this upstream and the ones behind it, until one may be tried. */
static bool find_target(weir_call_t *call)
{
    for (;;) {
        weir_health_asker_t asker = asker_at(call, call->target);
        call->pass = weir_health_ask(health_of(call), call->request.worker, conf_of(call), &asker);
        if (call->pass.reason == WEIR_REASON_NONE)
            return true;
        note_denial(call);
        if (!has_fallback(call))
            return false;
        next_target(call);
    }
}

/* Until one of all its targets may be asked. */
static int64_t soonest_ns(const weir_call_t *call)
{
    int64_t soonest_ns = call->pass.retry_after_ns;
    for (size_t target = 0; target < call->request.fallback_count; ++target) {
        int64_t wait_ns = wait_of(call, target);
        soonest_ns = wait_ns < soonest_ns ? wait_ns : soonest_ns;
    }
    return soonest_ns;
}

static void begin_target(weir_call_t *call)
{
    if (find_target(call)) {
        try_target(call);
        return;
    }
    call->stats.upstream = call->denied_upstream;
    weir_call_news_t news = {.ended = true, .reason = call->denied, .retry_after_ns = soonest_ns(call)};
    end(call, &news);
}

static void on_delay_over(h2o_timeout_entry_t *entry)
{
    begin_target(H2O_STRUCT_FROM_MEMBER(weir_call_t, delay_timer, entry));
}

/* --- what follows an attempt --- */

static int64_t left_ns(const weir_call_t *call)
{
    return call->request.total_ns - (weir_clock_turn_ns - call->began_ns);
}

static weir_str_t retry_after_of(const weir_call_head_t *head)
{
    for (size_t i = 0; head != NULL && i < head->field_count; ++i)
        if (weir_str_is(head->fields[i].name, WEIR_STR("retry-after")))
            return head->fields[i].value;
    return (weir_str_t){NULL, 0};
}

static bool is_pause(const weir_conf_upstream_t *conf, int status)
{
    return conf->breaker.enabled && conf->breaker.throttle.enabled && (status == 429 || status == 529);
}

static int64_t asked_wait_ns(const weir_call_head_t *head, int64_t max_ns)
{
    weir_str_t text = retry_after_of(head);
    return weir_retry_after_ns(text.base, text.len, weir_clock_wall_ms() * 1000000, max_ns);
}

/* Whether one of the fallbacks may be tried now. */
static bool plan_fallback(const weir_call_t *call)
{
    for (size_t target = call->target + 1; target <= call->request.fallback_count; ++target)
        if (wait_of(call, target) == 0)
            return true;
    return false;
}

static int64_t later(int64_t a_ns, int64_t b_ns)
{
    return a_ns > b_ns ? a_ns : b_ns;
}

/* A pause is waited for, whoever's 429 began it; an open breaker is not. */
static int64_t retry_delay_ns(weir_call_t *call, const weir_call_head_t *head, weir_health_pass_t now)
{
    int64_t delay_ns = weir_retry_backoff_ns(conf_of(call), call->tries, weir_worker_random(call->request.worker));
    if (retry_after_of(head).base != NULL)
        delay_ns = later(delay_ns, asked_wait_ns(head, INT64_MAX / 4));
    return now.reason == WEIR_REASON_THROTTLED ? later(delay_ns, now.retry_after_ns) : delay_ns;
}

/* Whether this upstream is tried once more, and when. Who is asked to wait long need not, where there is another. */
static bool plan_retry(weir_call_t *call, const weir_call_head_t *head)
{
    const weir_conf_upstream_t *conf = conf_of(call);
    weir_health_asker_t asker = asker_at(call, call->target);
    weir_health_pass_t now = weir_health_look(health_of(call), conf, &asker);
    int64_t delay_ns = retry_delay_ns(call, head, now);
    if (delay_ns > WORTH_WAITING_NS || delay_ns + TIMER_EARLY_NS >= left_ns(call) || now.retry_after_ns > delay_ns)
        return false;
    if ((now.reason != WEIR_REASON_NONE || delay_ns > conf->retry.backoff.max_ns) && plan_fallback(call))
        return false;
    if (!weir_health_take_retry(health_of(call), conf)) {
        call->stats.budget_spent = true;
        count_spent_budget(call);
        return false;
    }
    call->delay_ns = delay_ns;
    return true;
}

static weir_next_t plan_next(weir_call_t *call, weir_retry_outcome_t outcome, const weir_call_head_t *head)
{
    const weir_body_t *body = call->request.body;
    const char *method = call->request.wants_tunnel ? "" : call->request.method; /* no method that may be sent again */
    weir_retry_case_t retry = {.upstream = conf_of(call),
                               .method = {method, strlen(method)},
                               .tries = call->tries,
                               .can_repeat = body->offset == 0 && !body->let_go && body->failed == WEIR_REASON_NONE,
                               .is_protected = call->request.is_protected,
                               .has_fallback = has_fallback(call)};
    weir_next_t next = weir_retry_next(&retry, outcome);
    call->delay_ns = 0;
    if (next == WEIR_NEXT_RETRY && plan_retry(call, head))
        return WEIR_NEXT_RETRY;
    retry.tries = INT32_MAX;
    next = weir_retry_next(&retry, outcome);
    return next == WEIR_NEXT_FALLBACK && plan_fallback(call) ? WEIR_NEXT_FALLBACK : WEIR_NEXT_PASS;
}

static void go_on(weir_call_t *call)
{
    call->stats.budget_spent = false;
    if (call->next == WEIR_NEXT_FALLBACK) {
        next_target(call);
        begin_target(call);
        return;
    }
    call->delay_timer.cb = on_delay_over;
    weir_timer_start(call->request.worker, &call->delay_timer, call->delay_ns + TIMER_EARLY_NS);
}

static weir_next_t decide(weir_call_t *call, weir_retry_outcome_t outcome, const weir_call_head_t *head)
{
    call->next = plan_next(call, outcome, head);
    call->lost = outcome;
    return call->next;
}

/* A probe's answer that goes on for so long does well: who waits for its end would keep everybody else out. */
static void on_proven(h2o_timeout_entry_t *entry)
{
    report(H2O_STRUCT_FROM_MEMBER(weir_call_t, delay_timer, entry), WEIR_BREAKER_SUCCESS);
}

static void watch_probe(weir_call_t *call)
{
    call->delay_timer.cb = on_proven;
    weir_timer_start(call->request.worker, &call->delay_timer, PROVEN_NS);
}

static void free_head(weir_call_target_t *target)
{
    free(target->head.base);
    target->head = h2o_iovec_init(NULL, 0);
}

/* There will be no other try: a long answer does not hold what was asked. */
static void free_heads(weir_call_t *call)
{
    free_head(&call->request.first);
    for (size_t i = 0; i < call->request.fallback_count; ++i)
        free_head(&call->request.fallbacks[i]);
}

/* A failure and a pause are told as soon as they are known; the rest when it is whole. */
static bool on_takes(weir_sink_t *sink, const weir_call_head_t *head)
{
    weir_call_t *call = (weir_call_t *)sink;
    const weir_conf_upstream_t *conf = conf_of(call);
    weir_retry_outcome_t outcome = {.status = head->status};
    bool is_plainly_fine = head->status >= 200 && head->status < 400 && !call->pass.is_probe;
    if (is_plainly_fine) {
        call->next = WEIR_NEXT_PASS;
        free_heads(call);
        return call->is_taken = true;
    }
    if (is_pause(conf, head->status)) {
        weir_health_asker_t asker = asker_at(call, call->target);
        weir_health_pause(health_of(call), call->request.worker, &asker, asked_wait_ns(head, conf->breaker.throttle.max_ns));
        report(call, WEIR_BREAKER_CANCELLED);
    } else if (head->status == 101 || weir_retry_is_failure(conf, outcome)) {
        report_outcome(call, outcome);
    }
    if (head->status == 101)
        weir_timer_stop(&call->total_timer);
    call->is_taken = decide(call, outcome, head) == WEIR_NEXT_PASS;
    if (call->is_taken)
        free_heads(call);
    if (!call->is_taken)
        report_outcome(call, outcome);
    else if (call->pass.number != 0 && call->pass.is_probe)
        watch_probe(call);
    return call->is_taken;
}

static const char *on_lacks(weir_sink_t *sink, const weir_call_news_t *last)
{
    weir_sink_t *exchange = ((weir_call_t *)sink)->request.sink;
    return exchange->lacks != NULL ? exchange->lacks(exchange, last) : NULL;
}

static void on_news(weir_sink_t *sink, const weir_call_news_t *news)
{
    weir_call_t *call = (weir_call_t *)sink;
    if (!news->ended) {
        call->request.sink->news(call->request.sink, news);
        return;
    }
    weir_retry_outcome_t outcome = {.reason = news->reason};
    bool was_sent = call->stats.is_sent;
    if (!news->refused)
        report_outcome(call, outcome);
    take_stats(call);
    if (news->refused) /* a status came: it is known what became of it */
        call->stats.is_sent = was_sent;
    bool is_lost = !news->refused && news->reason != WEIR_REASON_NONE && !call->is_taken;
    if (news->refused || (is_lost && decide(call, outcome, NULL) != WEIR_NEXT_PASS))
        go_on(call);
    else
        end(call, news);
}

/* --- what the exchange calls --- */

weir_call_t *weir_call_create(const weir_call_request_t *request)
{
    weir_call_t *call = h2o_mem_alloc_recycle(&request->worker->recycle.call, sizeof(*call));
    *call = (weir_call_t){.request = *request,
                          .sink = {.news = on_news, .takes = on_takes, .lacks = on_lacks},
                          .stats = {.upstream = request->first.upstream},
                          .began_ns = weir_clock_turn_ns};
    weir_body_acquire(request->body);
    weir_worker_hold(request->worker, request->snapshot);
    call->total_timer.cb = on_total_late;
    weir_timer_start(request->worker, &call->total_timer, request->total_ns);
    return call;
}

void weir_call_begin(weir_call_t *call)
{
    begin_target(call);
}

void weir_call_cancel(weir_call_t *call, weir_reason_t reason)
{
    report(call, WEIR_BREAKER_CANCELLED);
    if (call->attempt != NULL)
        weir_attempt_cancel(call->attempt, reason);
    destroy(call);
}

void weir_call_body_progress(weir_call_t *call)
{
    if (call->attempt != NULL)
        weir_attempt_body_progress(call->attempt);
}

void weir_call_pause(weir_call_t *call)
{
    call->is_held = true;
    if (call->attempt != NULL)
        weir_attempt_pause(call->attempt);
}

void weir_call_resume(weir_call_t *call)
{
    call->is_held = false;
    if (call->attempt != NULL)
        weir_attempt_resume(call->attempt);
}

h2o_socket_t *weir_call_tunnel(weir_call_t *call)
{
    return weir_attempt_tunnel(call->attempt);
}

weir_call_stats_t weir_call_stats(const weir_call_t *call)
{
    weir_call_stats_t stats = call->stats;
    if (call->attempt != NULL)
        add_stats(&stats, weir_attempt_stats(call->attempt));
    return stats;
}
