/* The judge: what a filter answers, held against what the models say. */
#include "judge_parts.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_TEXT_MAX = 512 };

/* ---- a request's items ---- */

void judge_fail(judge_t *judge, const judged_t *judged, const judge_item_t *item, const char *what)
{
    const judge_row_t *row = item->row;
    char key[KEY_TEXT_MAX];
    snprintf(key, sizeof(key), "%s", row->key);
    for (char *at = key; *at != 0; ++at)
        *at = *at == '\n' ? ' ' : *at;
    sim_fail(judge->sim,
             "%s: %s (cost %" PRId64 " of %" PRId64 ", reserved %" PRId64 ", held %" PRId64 ", told %" PRId64
             ", waiting %" PRId64 ", %s)",
             item->conf->name, what, item->cost, judge_size_of(item->conf, item->quota), row->reserved, row->held,
             row->told, row->waiting, key);
}

static bool counts_by(const weir_conf_limit_t *conf, weir_conf_key_kind_t kind)
{
    for (size_t i = 0; i < conf->key.size; ++i)
        if (conf->key.entries[i].kind == kind)
            return true;
    return false;
}

/* Nobody has the id that weir makes: what begins a chain costs it nothing. */
static int64_t cost_of(const sim_request_t *request, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota)
{
    if (counts_by(conf, WEIR_KEY_CORRELATION) && request->request.correlation_is_new)
        return 0;
    if (conf->unit == WEIR_UNIT_REQUEST_BYTES)
        return request->request.body_bytes >= 0 ? request->request.body_bytes : 1;
    if (conf->unit != WEIR_UNIT_LLM_TOKENS)
        return 1;
    const weir_conf_upstream_usage_t *usage = &request->request.upstream->usage;
    int64_t input = (request->request.body_bytes + usage->estimate - 1) / usage->estimate;
    int64_t output = request->call.max_tokens > 0 ? request->call.max_tokens : 0;
    __int128 micros = (__int128)input * usage->weights.input_micros + (__int128)output * usage->weights.output_micros;
    int64_t tokens = (int64_t)((micros + 999999) / 1000000);
    tokens = tokens > 0 ? tokens : 1;
    return tokens < judge_size_of(conf, quota) ? tokens : judge_size_of(conf, quota);
}

static bool has_item(const judged_t *judged, size_t conf_index)
{
    for (size_t i = 0; i < judged->count; ++i)
        if (judged->items[i].conf_index == conf_index)
            return true;
    return false;
}

/* Slots are taken in the order of the configuration. */
static int by_limit(const void *a, const void *b)
{
    size_t x = ((const judge_item_t *)a)->conf_index, y = ((const judge_item_t *)b)->conf_index;
    return (x > y) - (x < y);
}

static judged_t *judged_of(judge_t *judge, sim_request_t *request)
{
    judged_t *judged = request->judged;
    if (judged != NULL)
        return judged;
    judged = request->judged = calloc(1, sizeof(*judged));
    assert(judged != NULL);
    const weir_conf_route_t *route = request->request.route;
    for (size_t i = 0; i < route->limits.size; ++i) {
        size_t index = route->limits.entries[i];
        if (has_item(judged, index))
            continue;
        const weir_conf_limit_t *conf = &request->snapshot->conf->limits.entries[index];
        const weir_conf_quota_t *quota = judge_quota_of(conf, &request->call);
        judged->items[judged->count++] = (judge_item_t){
            .limit = judge_limit_called(judge, conf->name),
            .conf_index = index,
            .conf = conf,
            .quota = quota,
            .cost = cost_of(request, conf, quota),
            .row = judge_row_of(judge, conf, &request->call, request->request.correlation_id),
        };
    }
    qsort(judged->items, judged->count, sizeof(*judged->items), by_limit);
    return judged;
}

/* Rows by what the observer heard of this decision. */
static void choose_rows(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i) {
        judge_item_t *item = &judged->items[i];
        bool is_shared = request->seen.is_overflowed[item->conf_index];
        judge->figures.overflowed += is_shared;
        if (is_shared && judge->limits[item->limit].row_count <= (size_t)item->conf->max_keys)
            judge_fail(judge, judged, item, "overflowed, and there was room");
        if (is_shared != item->row->is_shared)
            item->row = is_shared ? judge_shared_row(judge, item->conf, &request->call)
                                  : judge_row_of(judge, item->conf, &request->call, request->request.correlation_id);
    }
}

static bool is_granted(const judged_t *judged, const judge_item_t *item)
{
    return judged->is_told && judged->waits_for == item;
}

/* Whether the item may have been admitted, and whether it had to be. A grant was looked at when it was given. */
static bool may_fit(const judge_t *judge, const judged_t *judged, judge_item_t *item)
{
    if (is_granted(judged, item))
        return !judged->may_be_displaced;
    if (item->is_held)
        return true;
    if (judge_is_slots(item->conf) && item->cost != 0 && item->row->waiting != 0)
        return false;
    return judge_row_fits(item->row, item->conf, item->quota, item->cost, false, judge->sim->now_ns);
}

static bool must_fit(const judge_t *judge, const judged_t *judged, judge_item_t *item)
{
    if (is_granted(judged, item))
        return !judged->may_be_displaced;
    if (item->is_held)
        return true;
    return judge_row_fits(item->row, item->conf, item->quota, item->cost, true, judge->sim->now_ns);
}

/* ---- verdicts ---- */

static bool is_refused(const sim_request_t *request, const judge_item_t *item)
{
    return request->seen.is_decided[item->conf_index] &&
           request->seen.decision[item->conf_index] != WEIR_DECISION_ADMITTED;
}

static bool is_violated(const weir_verdict_t *verdict, const judge_item_t *item)
{
    for (size_t i = 0; i < verdict->violated_count; ++i)
        if (strcmp(verdict->violated[i], item->conf->name) == 0)
            return true;
    return false;
}

static void check_admitted(judge_t *judge, judged_t *judged, judge_item_t *item)
{
    if (!may_fit(judge, judged, item))
        judge_fail(judge, judged, item, "admitted over the bound");
}

static void check_refused(judge_t *judge, judged_t *judged, judge_item_t *item)
{
    if (must_fit(judge, judged, item))
        judge_fail(judge, judged, item, "refused without a cause");
}

static void judge_pass(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    if (judged->waits_for != NULL && !judged->is_told)
        judge_fail(judge, judged, judged->waits_for, "admitted from the middle of the line");
    if (judged->waits_for != NULL && judged->was_overtaken)
        judge_fail(judge, judged, judged->waits_for, "granted before an older one of its lane");
    for (size_t i = 0; i < judged->count; ++i) {
        judge_item_t *item = &judged->items[i];
        bool is_shadow = item->conf->mode == WEIR_LIMIT_SHADOW;
        if (!request->seen.is_decided[item->conf_index] || (!is_shadow && is_refused(request, item)))
            judge_fail(judge, judged, item, "passed, and the observer was told something else");
        if (is_refused(request, item)) {
            check_refused(judge, judged, item);
            ++judge->figures.shadow_refused;
        } else {
            check_admitted(judge, judged, item);
        }
    }
    ++judge->figures.admitted;
    judged->is_passed = true;
    judge_stop_waiting(judge, request);
    judge_let_go(judged);
    for (size_t i = 0; i < judged->count; ++i)
        if (!is_refused(request, &judged->items[i]))
            judge_charge(&judged->items[i], judge->sim->now_ns);
}

static void judge_await(judge_t *judge, sim_request_t *request, judged_t *judged, int64_t until_ns)
{
    judge_item_t *item = judge_item_waited_for(judged, request, until_ns);
    if (item == NULL) {
        sim_fail(judge->sim, "waits until %" PRId64 ", which is no queue's wait after its arrival", until_ns);
        return;
    }
    if (until_ns <= judge->sim->now_ns)
        judge_fail(judge, judged, item, "waits beyond its deadline");
    if (judged->waits_for == item && !judged->is_told)
        return;
    for (size_t i = 0; i < judged->count; ++i)
        if (&judged->items[i] != item && (!judge_is_slots(judged->items[i].conf) || &judged->items[i] < item) &&
            judged->items[i].conf->mode == WEIR_LIMIT_ENFORCE)
            check_admitted(judge, judged, &judged->items[i]);
    if (judge->limits[item->limit].made_room_for != request) /* else someone waited, and has just left for it */
        check_refused(judge, judged, item);
    judge_stop_waiting(judge, request);
    judge_hold(judged, item);
    judge_enter_line(judge, request, judged, item);
    if (request->is_told_inside)
        judge_note_told(judge, request);
}

/* What is told for never is an hour. */
static int64_t longer(int64_t a, int64_t b)
{
    b = b < 0 ? H : b;
    return a > b ? a : b;
}

static void check_retry(judge_t *judge, judged_t *judged, const weir_verdict_t *verdict)
{
    int64_t early_ns = 0, late_ns = 0, said_ns = verdict->retry_after_ns;
    for (size_t i = 0; i < judged->count; ++i) {
        judge_item_t *item = &judged->items[i];
        if (!is_violated(verdict, item))
            continue;
        int64_t now_ns = judge->sim->now_ns;
        int64_t early = judge_row_retry_ns(item->row, item->conf, item->quota, item->cost, false, now_ns);
        int64_t late = judge_row_retry_ns(item->row, item->conf, item->quota, item->cost, true, now_ns);
        if (late == 0) /* slots and reservations: nobody knows */
            early = late = S;
        early_ns = longer(early_ns, early);
        late_ns = longer(late_ns, item->row->reserved != 0 && late >= 0 && late < S ? S : late);
    }
    if (said_ns < early_ns || said_ns > late_ns)
        sim_fail(judge->sim, "Retry-After is %" PRId64 " ns, which is not from %" PRId64 " to %" PRId64, said_ns,
                 early_ns, late_ns);
}

/* Before its body came: by limits that do not need it, and the others have not been asked. */
static bool is_early(const sim_request_t *request, const judged_t *judged)
{
    int64_t bytes = request->request.body_bytes;
    if (request->request.picked != NULL || bytes == 0)
        return false;
    if (request->request.upstream->dialect != WEIR_DIALECT_PLAIN)
        return true;
    for (size_t i = 0; i < judged->count; ++i) {
        const weir_conf_limit_t *conf = judged->items[i].conf;
        if (conf->unit == WEIR_UNIT_LLM_TOKENS || counts_by(conf, WEIR_KEY_MODEL) ||
            (conf->unit == WEIR_UNIT_REQUEST_BYTES && bytes < 0))
            return true;
    }
    return false;
}

static void judge_limit(judge_t *judge, sim_request_t *request, judged_t *judged, const weir_verdict_t *verdict)
{
    ++judge->figures.refused;
    bool is_by_limit = false;
    for (size_t i = 0; i < judged->count; ++i) {
        judge_item_t *item = &judged->items[i];
        bool is_shadow = item->conf->mode == WEIR_LIMIT_SHADOW;
        if (is_violated(verdict, item) != (!is_shadow && is_refused(request, item)))
            judge_fail(judge, judged, item, "what the caller is told is not what the observer was told");
        is_by_limit |= is_violated(verdict, item) && !judge_has_queue(item);
        if (is_refused(request, item))
            check_refused(judge, judged, item);
        else if (!is_early(request, judged))
            check_admitted(judge, judged, item);
    }
    if (!is_by_limit)
        sim_fail(judge->sim, "refused by no limit, or by slots alone that have a queue");
    check_retry(judge, judged, verdict);
}

static bool is_queue_full(judge_t *judge, const sim_request_t *request, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i) {
        judge_item_t *item = &judged->items[i];
        if (judge_has_queue(item) && item != judged->waits_for && !must_fit(judge, judged, item) &&
            !judge_has_room(&judge->limits[item->limit], judge_conf_of(judge, item), &request->call))
            return true;
    }
    return false;
}

/* Displaced, or there was no room to begin with - where it was granted another limit's slot, too. */
static void judge_queue_full(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    ++judge->figures.refused;
    if (judged->is_told && judged->may_be_displaced)
        ++judge->figures.displaced;
    else if ((judged->waits_for != NULL && !judged->is_told) || !is_queue_full(judge, request, judged))
        sim_fail(judge->sim, "queue_full, and no queue is, and nobody may have displaced it (%s)",
                 judge_tenant_of(&request->call));
}

/* Granted a slot, it would go on to wait for another limit's, and is too late for that. */
static bool is_late_for_next(const judge_t *judge, const sim_request_t *request, judged_t *judged)
{
    for (size_t i = 0; i < judged->count; ++i)
        if (judged->is_told && &judged->items[i] != judged->waits_for && judge_has_queue(&judged->items[i]) &&
            judge->sim->now_ns >= request->decided_ns + judged->items[i].conf->queue.wait_ns)
            return true;
    return false;
}

static void judge_queue_timeout(judge_t *judge, sim_request_t *request, judged_t *judged)
{
    ++judge->figures.refused;
    ++judge->figures.timed_out;
    if (judged->waits_for == NULL)
        sim_fail(judge->sim, "queue_timeout, and it did not wait");
    else if (is_late_for_next(judge, request, judged))
        judged->waits += judged->left - judged->waits;
    else if (judge->sim->now_ns < request->until_ns)
        judge_fail(judge, judged, judged->waits_for, "queue_timeout too early");
}

static void judge_answer(judge_t *judge, sim_request_t *request, judged_t *judged, const weir_verdict_t *verdict)
{
    switch (verdict->reason) {
    case WEIR_REASON_LIMIT:
        judge_limit(judge, request, judged, verdict);
        break;
    case WEIR_REASON_QUEUE_FULL:
        judge_queue_full(judge, request, judged);
        break;
    case WEIR_REASON_QUEUE_TIMEOUT:
        judge_queue_timeout(judge, request, judged);
        break;
    default:
        sim_fail(judge->sim, "an answer of its own: %s", weir_reason_word(verdict->reason));
        break;
    }
    judge_stop_waiting(judge, request);
    judge_let_go(judged);
}

/* The limits have, where it is another filter that asks for the body. */
static bool is_anything_decided(const sim_request_t *request)
{
    for (size_t i = 0; i < SIM_LIMITS_MAX; ++i)
        if (request->seen.is_decided[i])
            return true;
    return false;
}

void judge_verdict(judge_t *judge, sim_request_t *request, const weir_verdict_t *verdict)
{
    if (verdict->kind == WEIR_NEED_BODY && !is_anything_decided(request))
        return;
    judged_t *judged = judged_of(judge, request);
    judged->left += request->seen.left_queue;
    if (judged->is_passed)
        return;
    choose_rows(judge, request, judged);
    if (verdict->kind == WEIR_PASS || verdict->kind == WEIR_NEED_BODY)
        judge_pass(judge, request, judged);
    else if (verdict->kind == WEIR_AWAIT)
        judge_await(judge, request, judged, verdict->until_ns);
    else
        judge_answer(judge, request, judged, verdict);
    judge_check_lines(judge, judged);
}

/* ---- ends ---- */

static bool is_callers_doing(weir_reason_t reason)
{
    return reason == WEIR_REASON_CLIENT_GONE || reason == WEIR_REASON_TIMEOUT_CLIENT ||
           reason == WEIR_REASON_MALFORMED || reason == WEIR_REASON_BODY_TOO_LARGE;
}

void judge_ended(judge_t *judge, sim_request_t *request, const weir_outcome_t *outcome)
{
    judged_t *judged = request->judged;
    if (judged == NULL)
        return;
    judged->left += request->seen.left_queue;
    judge_stop_waiting(judge, request);
    judge_let_go(judged);
    bool is_refund = outcome->reason != WEIR_REASON_NONE && !outcome->ran && !is_callers_doing(outcome->reason);
    for (size_t i = 0; i < judged->count; ++i) {
        judge_item_t *item = &judged->items[i];
        if (!item->is_charged)
            continue;
        judge->figures.refunded += is_refund;
        judge->figures.settled += !is_refund;
        if (is_refund)
            judge_refund(item, outcome->now_ns);
        else
            judge_settle(item, request, outcome);
    }
    judge_check_lines(judge, judged);
    if (judged->left != judged->waits)
        sim_fail(judge->sim, "the observer heard of %zu ends of waiting, and there were %zu", judged->left,
                 judged->waits);
    free(judged);
    request->judged = NULL;
}

/* ---- peeking ---- */

static void peek_row(judge_t *judge, const weir_limit_explained_t *told, judge_row_t *row, const sim_call_t *call)
{
    const weir_conf_limit_t *conf = told->limit;
    const weir_conf_quota_t *quota = judge_quota_of(conf, call);
    int64_t now_ns = judge->sim->now_ns;
    int64_t most = judge_row_remaining(row, conf, quota, false, now_ns),
            least = judge_row_remaining(row, conf, quota, true, now_ns);
    if (told->quota != judge_size_of(conf, quota) || told->item.remaining < least || told->item.remaining > most)
        sim_fail(judge->sim,
                 "%s: %" PRId64 " of %" PRId64 " remain, says explain; it is from %" PRId64 " to %" PRId64
                 " of %" PRId64 " (%s)",
                 conf->name, told->item.remaining, told->quota, least, most, judge_size_of(conf, quota), told->key);
    if (judge_is_bucket(conf) && conf->unit != WEIR_UNIT_LLM_TOKENS &&
        told->item.reset_ns != model_bucket_reset_ns(&row->bucket, judge_rate_of(row, quota), now_ns))
        sim_fail(judge->sim, "%s: all is back in %" PRId64 " ns, says explain; it is %" PRId64, conf->name,
                 told->item.reset_ns, model_bucket_reset_ns(&row->bucket, judge_rate_of(row, quota), now_ns));
}

void judge_peek(judge_t *judge, const sim_call_t *call)
{
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t count = sim_explain(judge->sim, call, explained);
    const char *correlation = call->correlation != NULL ? call->correlation : "none";
    for (size_t i = 0; i < count; ++i) {
        const weir_conf_limit_t *conf = explained[i].limit;
        weir_str_t id = {correlation, strlen(correlation)};
        judge_row_t *row =
            explained[i].item.overflowed ? judge_shared_row(judge, conf, call) : judge_row_of(judge, conf, call, id);
        peek_row(judge, &explained[i], row, call);
    }
}

/* ---- the whole ---- */

static void each_row(judge_t *judge, void (*visit)(judge_t *judge, judge_row_t *row))
{
    for (size_t i = 0; i < JUDGE_BUCKETS; ++i)
        for (judge_row_t *row = judge->rows[i], *next; row != NULL; row = next) {
            next = row->next;
            visit(judge, row);
        }
    for (size_t i = 0; i < judge->limit_count; ++i)
        if (judge->limits[i].shared != NULL)
            visit(judge, judge->limits[i].shared);
}

static void check_row(judge_t *judge, judge_row_t *row)
{
    if (row->held != 0 || row->told != 0 || row->waiting != 0 || row->reserved != 0)
        sim_fail(judge->sim,
                 "%s: the judge itself has %" PRId64 " held, %" PRId64 " told, %" PRId64 " waiting, %" PRId64
                 " reserved at the end",
                 judge->limits[row->limit].name, row->held, row->told, row->waiting, row->reserved);
    judge_peek(judge, &row->call);
}

/* The longest that any row takes to be as new. */
static int64_t longest_reset_ns;

static void see_reset(judge_t *judge, judge_row_t *row)
{
    const weir_conf_limit_t *conf = judge->limits[row->limit].conf;
    if (conf == NULL || judge_is_slots(conf))
        return;
    const weir_conf_quota_t *quota = judge_quota_of(conf, &row->call);
    int64_t ns = judge_is_bucket(conf)
                     ? model_bucket_reset_ns(&row->bucket, judge_rate_of(row, quota), judge->sim->now_ns)
                     : model_window_reset_ns(&row->window, quota->window_ns, true, judge->sim->now_ns);
    longest_reset_ns = ns > longest_reset_ns ? ns : longest_reset_ns;
}

static void check_is_new(judge_t *judge, judge_row_t *row)
{
    weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t count = sim_explain(judge->sim, &row->call, explained);
    for (size_t i = 0; i < count; ++i)
        if (explained[i].item.remaining != explained[i].quota &&
            (!judge_is_bucket(explained[i].limit) || explained[i].item.quota->rate.count != 0))
            sim_fail(judge->sim, "%s: %" PRId64 " of %" PRId64 " remain, long after the last end (%s)",
                     explained[i].limit->name, explained[i].item.remaining, explained[i].quota, explained[i].key);
}

void judge_finish(judge_t *judge)
{
    sim_t *sim = judge->sim;
    sim_run(sim, INT64_MAX);
    if (sim->live != 0)
        sim_fail(sim, "%zu requests never ended", sim->live);
    each_row(judge, check_row);
    longest_reset_ns = 0;
    each_row(judge, see_reset);
    sim_run(sim, sim->now_ns + longest_reset_ns);
    each_row(judge, check_is_new);
    for (size_t i = 0; i < judge->limit_count; ++i)
        if (sim_queue_depth(sim, judge->limits[i].name) != 0)
            sim_fail(sim, "%s: %zu wait, and nobody is there", judge->limits[i].name,
                     sim_queue_depth(sim, judge->limits[i].name));
}

static void settle_bucket(judge_t *judge, judge_row_t *row)
{
    weir_conf_quota_t quota = {.rate = row->rate};
    model_bucket_settle(&row->bucket, judge_rate_of(row, &quota), judge->sim->now_ns);
}

static void look_at_new(judge_t *judge, judge_row_t *row)
{
    judge_see_rate(judge, row);
    if (row->is_granted_by_reload)
        row->granted_of = judge_quota_of(judge->limits[row->limit].conf, &row->call)->limit;
    row->is_granted_by_reload = false;
    judge_check_line(judge, row);
}

void judge_reloaded(judge_t *judge)
{
    const weir_conf_t *conf = judge->sim->snapshot->conf;
    each_row(judge, settle_bucket);
    for (size_t i = 0; i < judge->limit_count; ++i)
        judge->limits[i].conf = NULL;
    for (size_t i = 0; i < conf->limits.size; ++i) {
        size_t limit = judge_limit_called(judge, conf->limits.entries[i].name);
        judge->limits[limit].conf = &conf->limits.entries[i];
    }
    each_row(judge, look_at_new);
}

judge_t *judge_create(sim_t *sim)
{
    judge_t *judge = calloc(1, sizeof(*judge));
    assert(judge != NULL);
    judge->sim = sim;
    judge_reloaded(judge);
    return judge;
}

static void free_row(judge_t *judge, judge_row_t *row)
{
    model_window_dispose(&row->window);
    free(row);
}

void judge_destroy(judge_t *judge)
{
    each_row(judge, free_row);
    for (size_t i = 0; i < judge->limit_count; ++i)
        free((char *)judge->limits[i].name);
    free(judge);
}

judge_figures_t judge_figures(const judge_t *judge)
{
    return judge->figures;
}
