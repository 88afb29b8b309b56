/* What runs, and its end, which is sent until Redis has answered. */
#include <stdlib.h>
#include "redis_answer.h"
#include "redis_dedup_parts.h"

/* kept_ns: an end that is late is better than none, as what is gone and nobody else's is written all the same. */
static const int64_t KEPT_NS = 60000000000, RETRY_MIN_NS = 100000000, RETRY_MAX_NS = 1000000000;

/* KEPT_MAX: where Redis comes and goes, as else there are no more than there are requests in flight. FREE_MAX: of those that are
 * free by themselves when their lease ends. */
enum { KEPT_MAX = 16384, FREE_MAX = 1024, SENT_AT_ONCE = 1024, RENEWALS = 6 };

/* --- while it runs --- */

/* The next renewal may come late by a quarter of the time between two. */
bool weir_redis_owner_lasts(const weir_redis_claim_t *record, int64_t now_ns)
{
    return now_ns + record->lease_ns / RENEWALS * 5 / 4 < record->leased_ns + record->lease_ns;
}

static void say_end(weir_redis_claim_t *record, int64_t now_ns);

static void on_renewed(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    weir_redis_claim_t *record = context;
    bool is_answered = told == WEIR_REMOTE_ANSWERED && value->kind == WEIR_REMOTE_INTEGER;
    record->is_renewing = false;
    if (is_answered && value->integer == 1)
        record->leased_ns = record->renewed_ns;
    record->is_lost = record->is_lost || (is_answered && value->integer == 0);
    record->is_forgotten = record->is_forgotten || (is_answered && value->integer == 2);
    --record->holds;
    if (record->state == WEIR_REDIS_ENDING)
        say_end(record, now_ns);
}

static void ask_renewal(weir_redis_claim_t *record, int64_t now_ns)
{
    weir_redis_dedups_t *dedups = record->dedups;
    weir_redis_names_t names;
    char owner[WEIR_REDIS_OWNER_MAX], fingerprint[WEIR_REDIS_NUMBER_MAX], lease[WEIR_REDIS_NUMBER_MAX];
    weir_str_t args[] = {weir_redis_owner_text(owner, dedups, record->owner),
                         weir_redis_fingerprint_text(fingerprint, record->fingerprint),
                         weir_redis_ms_text(lease, record->lease_ns)};
    weir_redis_names_of(&names, dedups, record->dedup, record->key);
    weir_remote_ask_t ask = {.script = WEIR_SCRIPT_renew,
                             .keys = names.names,
                             .key_count = 1,
                             .args = args,
                             .arg_count = sizeof(args) / sizeof(args[0]),
                             .timeout_ns = dedups->timeout_ns,
                             .on_end = on_renewed,
                             .context = record};
    if (!dedups->remote->ask(dedups->remote, &ask))
        return;
    record->renewed_ns = now_ns;
    record->is_renewing = true;
    ++record->holds;
}

/* One renewal at a time, so that an answer is to the last one. */
bool weir_redis_owner_renew(weir_redis_claim_t *record, int64_t now_ns)
{
    if (record->is_forgotten)
        return true;
    if (record->is_lost || !weir_redis_owner_lasts(record, now_ns))
        return false;
    if (!record->is_renewing)
        ask_renewal(record, now_ns);
    return true;
}

/* --- ends that are kept --- */

void weir_redis_owners_init(weir_redis_claims_t *worker)
{
    *worker = (weir_redis_claims_t){.first = NULL};
    worker->last = &worker->first;
}

static weir_redis_claims_t *worker_of(const weir_redis_claim_t *record)
{
    weir_remote_t *remote = record->dedups->remote;
    return &record->dedups->workers[remote->worker(remote)];
}

static bool has_room(const weir_redis_claims_t *worker, const weir_redis_claim_t *record)
{
    return worker->count < KEPT_MAX && (record->end != WEIR_REDIS_FREE || worker->free_count < FREE_MAX);
}

static bool is_over(const weir_redis_claim_t *record, int64_t now_ns)
{
    int64_t lease_end_ns = record->leased_ns + record->lease_ns, kept_end_ns = record->ended_ns + KEPT_NS;
    return now_ns >= lease_end_ns && (record->end == WEIR_REDIS_FREE || now_ns >= kept_end_ns);
}

/* pause_ns: until it is sent again, if it can be. */
static void keep(weir_redis_claim_t *record, int64_t pause_ns, int64_t now_ns)
{
    weir_redis_claims_t *worker = worker_of(record);
    if (is_over(record, now_ns) || !has_room(worker, record)) {
        weir_redis_claim_destroy(record);
        return;
    }
    record->next_ns = now_ns + pause_ns;
    record->state = WEIR_REDIS_KEPT;
    record->next = NULL;
    *worker->last = record;
    worker->last = &record->next;
    ++worker->count;
    worker->free_count += record->end == WEIR_REDIS_FREE;
}

static weir_redis_claim_t *take_first(weir_redis_claims_t *worker)
{
    weir_redis_claim_t *record = worker->first;
    worker->first = record->next;
    if (worker->first == NULL)
        worker->last = &worker->first;
    --worker->count;
    worker->free_count -= record->end == WEIR_REDIS_FREE;
    return record;
}

void weir_redis_owners_dispose(weir_redis_claims_t *worker)
{
    while (worker->first != NULL)
        weir_redis_claim_destroy(take_first(worker));
}

/* --- its end --- */

static int64_t next_retry(weir_redis_claim_t *record)
{
    int64_t retry_ns = record->retry_ns * 2;
    return record->retry_ns = retry_ns < RETRY_MIN_NS ? RETRY_MIN_NS : retry_ns > RETRY_MAX_NS ? RETRY_MAX_NS : retry_ns;
}

static void on_ended(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    weir_redis_claim_t *record = context;
    --record->holds;
    if (told == WEIR_REMOTE_ANSWERED)
        weir_redis_claim_destroy(record);
    else
        keep(record, told == WEIR_REMOTE_REFUSED ? next_retry(record) : 0, now_ns);
}

static bool ask_end(weir_redis_claim_t *record, weir_str_t answer)
{
    static const weir_str_t ends[] = {
        [WEIR_REDIS_FREE] = {"free", 4}, [WEIR_REDIS_DONE] = {"done", 4}, [WEIR_REDIS_UNKNOWN] = {"unknown", 7}};
    weir_redis_dedups_t *dedups = record->dedups;
    weir_redis_names_t names;
    char owner[WEIR_REDIS_OWNER_MAX], fingerprint[WEIR_REDIS_NUMBER_MAX], window[WEIR_REDIS_NUMBER_MAX], kept[WEIR_REDIS_NUMBER_MAX];
    weir_str_t args[] = {weir_redis_owner_text(owner, dedups, record->owner),
                         weir_redis_fingerprint_text(fingerprint, record->fingerprint),
                         ends[record->end],
                         weir_redis_ms_text(window, atomic_load(&record->dedup->window_ns)),
                         weir_redis_ms_text(kept, record->keep_ns),
                         answer};
    weir_redis_names_of(&names, dedups, record->dedup, record->key);
    weir_remote_ask_t ask = {.script = WEIR_SCRIPT_end,
                             .keys = names.names,
                             .key_count = 2,
                             .args = args,
                             .arg_count = sizeof(args) / sizeof(args[0]),
                             .timeout_ns = dedups->timeout_ns,
                             .on_end = on_ended,
                             .context = record};
    return dedups->remote->ask(dedups->remote, &ask);
}

static void send_end(weir_redis_claim_t *record, int64_t now_ns)
{
    weir_remote_t *remote = record->dedups->remote;
    weir_stream_t *stream = record->runner.stream;
    weir_str_t answer = {NULL, 0};
    if (!remote->is_up(remote)) {
        keep(record, 0, now_ns);
        return;
    }
    if (stream != NULL && record->keep_ns != 0)
        answer = weir_redis_answer_encode(stream, record->key);
    bool is_asked = ask_end(record, answer.base != NULL ? answer : (weir_str_t){"", 0});
    free((char *)answer.base);
    if (!is_asked) {
        keep(record, 0, now_ns);
        return;
    }
    record->state = WEIR_REDIS_ENDING;
    ++record->holds;
}

static void say_end(weir_redis_claim_t *record, int64_t now_ns)
{
    if (record->is_forgotten)
        weir_redis_claim_destroy(record);
    else
        send_end(record, now_ns);
}

void weir_redis_owner_end(weir_redis_claim_t *record, weir_redis_end_t end, int64_t keep_ns, int64_t now_ns)
{
    record->end = end;
    record->keep_ns = keep_ns;
    record->ended_ns = now_ns;
    record->state = WEIR_REDIS_ENDING;
    if (end == WEIR_REDIS_DONE && !record->is_forgotten)
        weir_redis_running_note_done(&record->dedups->running, &record->runner);
    else
        weir_redis_running_remove(&record->dedups->running, &record->runner);
    if (!record->is_renewing) /* which could be sent again, and come after it */
        say_end(record, now_ns);
}

void weir_redis_owners_tick(weir_redis_claims_t *worker, int64_t now_ns)
{
    size_t count = worker->count < SENT_AT_ONCE ? worker->count : SENT_AT_ONCE;
    for (size_t i = 0; i < count && worker->first->next_ns <= now_ns; ++i) {
        weir_redis_claim_t *record = take_first(worker);
        if (is_over(record, now_ns))
            weir_redis_claim_destroy(record);
        else
            send_end(record, now_ns);
    }
}
