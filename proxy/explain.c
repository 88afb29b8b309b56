#include "explain.h"

#include <stdlib.h>
#include "../filters/dedup.h"
#include "../filters/limit.h"
#include "../filters/limit_fields.h"
#include "call_head.h"
#include "health.h"
#include "look.h"
#include "page.h"
#include "question.h"
#include "status.h"
#include "targets.h"
#include "upstream.h"
#include "words.h"

typedef enum { ADMIT, QUEUE, REFUSE } would_t;

/* What the request meets. */
typedef struct {
    weir_router_match_t match;
    size_t count;
    weir_limit_explained_t limits[WEIR_LIMITS_PER_ROUTE_MAX];
    would_t would;
    weir_reason_t reason; /* of REFUSE */
} meeting_t;

/* By itself, whatever the others say and whether or not it is enforced. */
static would_t would_of(const weir_limit_explained_t *explained)
{
    if (explained->item.admitted)
        return ADMIT;
    bool has_room = explained->limit->queue.size != 0 && explained->item.refusal != WEIR_STORE_QUEUE_FULL;
    return has_room && !explained->item.shadow ? QUEUE : REFUSE;
}

/* Roughly: who may still displace another from a full queue, or has had his share of one that is not, is not known. */
static void find_full_queues(weir_store_t *store, meeting_t *meeting)
{
    for (size_t i = 0; i != meeting->count; ++i) {
        const weir_conf_limit_t *limit = meeting->limits[i].limit;
        size_t depth[WEIR_LANES], sum = 0;
        if (limit->queue.size == 0 || meeting->limits[i].item.admitted)
            continue;
        store->queue_depth(store, limit->name, depth);
        for (weir_lane_t lane = 0; lane != WEIR_LANES; ++lane)
            sum += depth[lane];
        if (sum >= (size_t)limit->queue.size)
            meeting->limits[i].item.refusal = WEIR_STORE_QUEUE_FULL;
    }
}

/* A request waits only where slots are all it misses, and hears of a full queue only then. */
static void sum_up(meeting_t *meeting)
{
    bool misses_slots_alone = true, is_full = false;
    for (size_t i = 0; i != meeting->count; ++i) {
        const weir_limit_explained_t *explained = &meeting->limits[i];
        if (explained->item.shadow || explained->item.admitted)
            continue;
        would_t would = would_of(explained);
        meeting->would = would > meeting->would ? would : meeting->would;
        misses_slots_alone &= explained->limit->algorithm == WEIR_LIMIT_CONCURRENCY;
        is_full |= explained->item.refusal == WEIR_STORE_QUEUE_FULL;
    }
    if (meeting->would == REFUSE)
        meeting->reason = misses_slots_alone && is_full ? WEIR_REASON_QUEUE_FULL : WEIR_REASON_LIMIT;
}

/* What an upstream of the route says of such a request now. */
static weir_health_pass_t look_at(const weir_question_t *question, size_t index, bool is_fallback)
{
    const weir_request_t *request = &question->request;
    const weir_conf_upstream_t *upstream = &request->conf->upstreams.entries[index];
    const weir_call_head_source_t source = {
        .request = request, .upstream = upstream, .is_fallback = is_fallback, .authority = {"", 0}, .peer = {"", 0}};
    weir_str_t model = {question->picked.model, question->picked.model_len};
    const char *name = weir_conf_model_name(upstream, model.base, model.len);
    h2o_iovec_t head = weir_call_head_compose(&source);
    weir_health_asker_t asker = {.model = name != NULL ? (weir_str_t){name, strlen(name)} : model,
                                 .credential = weir_targets_credential(head)};
    free(head.base);
    return weir_health_look(weir_upstream_health(weir_page_server(question->req)->snapshot->upstreams[index]), upstream, &asker);
}

/* Why not one of them would be asked; NONE: one would. */
static weir_reason_t ask_upstreams(const weir_question_t *question)
{
    const weir_conf_route_t *route = question->request.route;
    weir_reason_t reason = look_at(question, route->upstream, false).reason;
    for (size_t i = 0; i != route->fallback.size && reason != WEIR_REASON_NONE; ++i)
        if (look_at(question, route->fallback.entries[i], true).reason == WEIR_REASON_NONE)
            return WEIR_REASON_NONE;
    return reason;
}

static void meet(weir_question_t *question, meeting_t *meeting)
{
    meeting->match = weir_question_route(question);
    if (meeting->match.route == NULL)
        meeting->reason = meeting->match.allow != NULL ? WEIR_REASON_METHOD : WEIR_REASON_NO_ROUTE;
    else if (question->request.tenant.len == 0)
        meeting->reason = WEIR_REASON_TENANT_MISSING;
    if (meeting->reason != WEIR_REASON_NONE) {
        meeting->would = REFUSE;
        return;
    }
    weir_server_t *server = weir_page_server(question->req);
    meeting->count = weir_limit_explain(server->snapshot->chain, &question->request, meeting->limits);
    find_full_queues(server->store, meeting);
    sum_up(meeting);
    if (meeting->would == ADMIT)
        meeting->reason = ask_upstreams(question);
    if (meeting->reason != WEIR_REASON_NONE)
        meeting->would = REFUSE;
}

static void write_retry_after(weir_json_out_t *out, const weir_store_item_t *item)
{
    static const int64_t second_ns = 1000000000;
    int64_t ns = item->retry_after_ns < 0 ? WEIR_LIMIT_NEVER_S * second_ns : item->retry_after_ns;
    weir_status_write_seconds(out, "retry_after_seconds", ns < second_ns ? second_ns : ns);
}

static void write_known(weir_json_out_t *out, const weir_limit_explained_t *explained)
{
    static const char *const words[] = {[ADMIT] = "admit", [QUEUE] = "queue", [REFUSE] = "refuse"};
    would_t would = would_of(explained);
    weir_json_out_integer(out, "remaining", explained->item.remaining);
    weir_json_out_integer(out, "cost", explained->item.cost);
    weir_json_out_string(out, "would", words[would]);
    if (would == REFUSE)
        write_retry_after(out, &explained->item);
    else
        weir_json_out_string(out, "retry_after_seconds", NULL);
    weir_status_write_seconds(out, "reset_seconds", explained->item.reset_ns);
}

/* It is in Redis, which did not tell. */
static void write_unknown(weir_json_out_t *out, const weir_limit_explained_t *explained)
{
    weir_json_out_string(out, "remaining", NULL);
    weir_json_out_integer(out, "cost", explained->item.cost);
    weir_json_out_string(out, "would", NULL);
    weir_json_out_string(out, "state", "unknown");
    weir_json_out_string(out, "retry_after_seconds", NULL);
    weir_json_out_string(out, "reset_seconds", NULL);
}

static void write_limit(weir_json_out_t *out, const weir_limit_explained_t *explained)
{
    const weir_conf_limit_t *limit = explained->limit;
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", limit->name);
    weir_json_out_string(out, "algorithm", weir_word_algorithm(limit->algorithm));
    weir_json_out_string(out, "unit", weir_word_unit(limit->unit));
    weir_json_out_string(out, "mode", weir_word_limit_mode(limit->mode));
    weir_json_out_string(out, "key", explained->key);
    weir_json_out_integer(out, "quota", explained->quota);
    (explained->item.is_unknown ? write_unknown : write_known)(out, explained);
    weir_json_out_close(out, '}');
}

/* What a request with this key would be told; NULL: nobody knows. */
static const char *claim_word(const weir_question_t *question, const char **state)
{
    const weir_dedups_t *dedups = weir_chain_instance(weir_page_server(question->req)->snapshot->chain, "dedup");
    bool is_replay = false;
    switch (weir_dedups_peek(dedups, &question->request, question->given[WEIR_ASKED_KEY], &is_replay)) {
    case WEIR_STORE_CLAIM_RUN:
        return "run";
    case WEIR_STORE_CLAIM_SHARE:
        return is_replay ? "replay" : "share";
    case WEIR_STORE_CLAIM_DUPLICATE:
        return is_replay ? "replay" : "duplicate";
    case WEIR_STORE_CLAIM_IN_FLIGHT:
    case WEIR_STORE_CLAIM_OTHER:
    case WEIR_STORE_CLAIM_UNKNOWN:
    case WEIR_STORE_CLAIM_FULL:
        return "reject";
    case WEIR_STORE_CLAIM_DOWN:
    case WEIR_STORE_CLAIM_PENDING:
        break;
    }
    *state = "unknown";
    return NULL;
}

/* Without a key, nothing is known of it. */
static void write_dedup(weir_json_out_t *out, const weir_question_t *question, const weir_conf_route_t *route)
{
    const weir_conf_t *conf = question->request.conf;
    const char *state = NULL;
    if (route->dedup >= conf->dedup.size) {
        weir_json_out_string(out, "dedup", NULL);
        return;
    }
    weir_json_out_open(out, "dedup", '{');
    weir_json_out_string(out, "name", conf->dedup.entries[route->dedup].name);
    weir_json_out_string(out, "would", weir_question_has(question, WEIR_ASKED_KEY) ? claim_word(question, &state) : NULL);
    if (state != NULL)
        weir_json_out_string(out, "state", state);
    weir_json_out_close(out, '}');
}

static void write_upstream(weir_json_out_t *out, const char *key, const weir_question_t *question, size_t index,
                           bool is_fallback)
{
    const weir_conf_upstream_t *upstream = &question->request.conf->upstreams.entries[index];
    weir_health_pass_t pass = look_at(question, index, is_fallback);
    bool is_refused = pass.reason != WEIR_REASON_NONE;
    weir_json_out_open(out, key, '{');
    weir_json_out_string(out, "name", upstream->name);
    weir_json_out_string(out, "url", upstream->url.text);
    weir_json_out_string(out, "dialect", weir_word_dialect(upstream->dialect));
    weir_json_out_string(out, "would", is_refused ? "refuse" : "ask");
    weir_json_out_string(out, "reason", is_refused ? weir_reason_word(pass.reason) : NULL);
    weir_status_write_seconds(out, "retry_after_seconds", is_refused ? pass.retry_after_ns : -1);
    weir_json_out_close(out, '}');
}

static void write_way(weir_json_out_t *out, const weir_question_t *question, const weir_router_match_t *match)
{
    const weir_conf_t *conf = question->request.conf;
    weir_json_out_string(out, "listener", question->request.listener->name);
    if (match->route != NULL) {
        weir_status_write_route(out, "route", conf, match->route);
        write_dedup(out, question, match->route);
        write_upstream(out, "upstream", question, match->route->upstream, false);
        weir_json_out_open(out, "fallback", '[');
        for (size_t i = 0; i != match->route->fallback.size; ++i)
            write_upstream(out, NULL, question, match->route->fallback.entries[i], true);
        weir_json_out_close(out, ']');
        return;
    }
    weir_json_out_string(out, "route", NULL);
    if (match->allow != NULL)
        weir_json_out_string(out, "allow", match->allow);
    weir_json_out_string(out, "upstream", NULL);
    weir_json_out_open(out, "fallback", '[');
    weir_json_out_close(out, ']');
}

/* What may still refuse it, or not. */
static bool is_unknown(const meeting_t *meeting)
{
    for (size_t i = 0; i != meeting->count; ++i)
        if (meeting->limits[i].item.is_unknown && !meeting->limits[i].item.shadow)
            return true;
    return false;
}

static void write_meeting(weir_json_out_t *out, const weir_question_t *question, const meeting_t *meeting)
{
    static const char *const words[] = {[ADMIT] = "pass", [QUEUE] = "queue", [REFUSE] = "refuse"};
    weir_json_out_open(out, NULL, '{');
    write_way(out, question, &meeting->match);
    weir_json_out_open(out, "limits", '[');
    for (size_t i = 0; i != meeting->count; ++i)
        write_limit(out, &meeting->limits[i]);
    weir_json_out_close(out, ']');
    weir_json_out_string(out, "would", meeting->would == ADMIT && is_unknown(meeting) ? "unknown" : words[meeting->would]);
    weir_json_out_string(out, "reason", meeting->would == REFUSE ? weir_reason_word(meeting->reason) : NULL);
    weir_json_out_close(out, '}');
}

static void make(h2o_req_t *req)
{
    weir_question_t *question = weir_question_read(req);
    if (question == NULL || !weir_question_listen(question))
        return;
    meeting_t meeting = {.would = ADMIT};
    meet(question, &meeting);
    weir_page_writing_t writing;
    weir_page_begin(&writing);
    weir_json_out_t out = {writing.file, false};
    write_meeting(&out, question, &meeting);
    if (!weir_look_waits(req)) {
        weir_page_answer_written(req, "application/json", &writing);
        return;
    }
    weir_page_end(&writing);
    free(writing.text);
}

void weir_explain_answer(h2o_req_t *req)
{
    weir_look_answer(req, make);
}
