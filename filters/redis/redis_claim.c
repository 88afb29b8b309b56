/* From the question whether it is this request's to run to what it is told, or to nobody who wants to know. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "redis_answer.h"
#include "redis_dedup_parts.h"

enum { HEAD_BYTES_MAX = 1024 * 1024 }; /* of an answer, beside its body */
static const int64_t IN_FLIGHT_RETRY_NS = 1000000000;

/* Between two questions of one that waits. `here`: it runs on this sidecar, and its end is on its way, or its beginning. */
typedef struct {
    int64_t min_ns, max_ns;
} pauses_t;
static const pauses_t here = {2000000, 100000000}, elsewhere = {10000000, 200000000};

static weir_redis_claim_t *create(weir_redis_dedups_t *dedups, weir_store_claim_t *claim)
{
    const weir_store_dedup_t *handle = claim->dedup;
    weir_redis_claim_t *record = calloc(1, sizeof(*record));
    assert(record != NULL);
    *record = (weir_redis_claim_t){.dedups = dedups,
                                   .dedup = handle->dedup,
                                   .key = claim->key,
                                   .fingerprint = claim->fingerprint,
                                   .owner = atomic_fetch_add_explicit(&dedups->owners, 1, memory_order_relaxed) + 1,
                                   .lease_ns = handle->lease_ns,
                                   .answer_bytes_max = (uint64_t)handle->max_response_bytes + HEAD_BYTES_MAX,
                                   .claim = claim};
    weir_redis_dedup_acquire(handle->dedup);
    claim->asked = record;
    return record;
}

void weir_redis_claim_destroy(weir_redis_claim_t *record)
{
    assert(record->holds == 0);
    weir_redis_running_remove(&record->dedups->running, &record->runner);
    if (record->shared != NULL)
        weir_stream_release(record->shared);
    weir_redis_dedup_release(record->dedups, record->dedup);
    free(record);
}

static bool has_readers(const weir_store_dedup_t *handle)
{
    return handle->on_duplicate == WEIR_ON_DUPLICATE_REPLAY || handle->in_flight == WEIR_IN_FLIGHT_WAIT;
}

/* --- what was told --- */

static void tell(weir_redis_claim_t *record, weir_store_claim_told_t told)
{
    record->state = WEIR_REDIS_TOLD;
    record->told = told;
}

/* From now on duplicates find it. */
static void win(weir_redis_claim_t *record)
{
    weir_redis_dedups_t *dedups = record->dedups;
    const weir_store_dedup_t *handle = record->claim->dedup;
    weir_stream_t *stream = NULL;
    if (has_readers(handle))
        stream = weir_stream_create(&record->dedup->account, handle->max_response_bytes, dedups->teller);
    record->state = WEIR_REDIS_WON;
    weir_redis_running_add(&dedups->running, &record->runner, record->owner, stream);
}

/* Those who wait do not all ask at once. */
static int64_t spread(const weir_redis_claim_t *record, int64_t most_ns)
{
    uint64_t who[] = {record->dedups->remote->sidecar, record->owner, (uint64_t)record->pause_ns};
    return (int64_t)(XXH3_64bits(who, sizeof(who)) % (uint64_t)(most_ns + 1));
}

static void put_off(weir_redis_claim_t *record, const pauses_t *pauses, int64_t now_ns)
{
    int64_t pause_ns = record->pause_ns * 2;
    pause_ns = pause_ns < pauses->min_ns ? pauses->min_ns : pause_ns > pauses->max_ns ? pauses->max_ns : pause_ns;
    record->pause_ns = pause_ns;
    record->state = WEIR_REDIS_PAUSED;
    record->claim->is_own = false;
    record->claim->until_ns = now_ns + pause_ns / 2 + spread(record, pause_ns / 2);
}

static void share(weir_redis_claim_t *record, weir_stream_t *stream, bool is_done)
{
    record->shared = stream;
    record->is_done = is_done;
    tell(record, WEIR_STORE_CLAIM_SHARE);
}

/* What is done here and not told to Redis yet is done. */
static void take_done_here(weir_redis_claim_t *record, weir_stream_t *stream)
{
    bool is_given = record->has_waited || record->claim->dedup->on_duplicate == WEIR_ON_DUPLICATE_REPLAY;
    if (stream != NULL && is_given) {
        share(record, stream, true);
        return;
    }
    if (stream != NULL)
        weir_stream_release(stream);
    tell(record, WEIR_STORE_CLAIM_DUPLICATE);
}

static void take_running_here(weir_redis_claim_t *record, weir_stream_t *stream, int64_t now_ns)
{
    if (record->claim->dedup->in_flight != WEIR_IN_FLIGHT_WAIT) {
        if (stream != NULL)
            weir_stream_release(stream);
        tell(record, WEIR_STORE_CLAIM_IN_FLIGHT);
        return;
    }
    record->has_waited = true;
    if (stream != NULL)
        share(record, stream, false);
    else
        put_off(record, &here, now_ns);
}

/* It is to begin here, or ended: in a moment it will be there, or Redis tell what it came to. Who sent this one after the other one's
 * answer has not waited for it. */
static void take_missing_here(weir_redis_claim_t *record, int64_t now_ns)
{
    if (record->claim->dedup->in_flight != WEIR_IN_FLIGHT_WAIT && record->pause_ns == here.max_ns)
        tell(record, WEIR_STORE_CLAIM_IN_FLIGHT);
    else
        put_off(record, &here, now_ns);
}

static void take_running_elsewhere(weir_redis_claim_t *record, int64_t now_ns)
{
    record->has_waited = true;
    if (record->claim->dedup->in_flight != WEIR_IN_FLIGHT_WAIT)
        tell(record, WEIR_STORE_CLAIM_IN_FLIGHT);
    else
        put_off(record, &elsewhere, now_ns);
}

static void take_flight(weir_redis_claim_t *record, weir_str_t owner_text, int64_t now_ns)
{
    uint64_t owner = weir_redis_owner_parse(record->dedups, owner_text);
    if (owner == 0) {
        take_running_elsewhere(record, now_ns);
        return;
    }
    weir_redis_running_found_t found = weir_redis_running_find(&record->dedups->running, owner);
    if (!found.is_in)
        take_missing_here(record, now_ns);
    else if (found.is_done)
        take_done_here(record, found.stream);
    else
        take_running_here(record, found.stream, now_ns);
}

static void take_done(weir_redis_claim_t *record, const weir_remote_value_t *answer)
{
    weir_stream_t *stream = NULL;
    if (answer->kind == WEIR_REMOTE_TEXT)
        stream = weir_redis_answer_decode(answer->text, record->key, &record->dedup->account, record->dedups->teller);
    if (stream != NULL)
        share(record, stream, true);
    else
        tell(record, WEIR_STORE_CLAIM_DUPLICATE);
}

static bool begins_with(const weir_remote_value_t *value, const char *word, size_t size)
{
    if (value->kind != WEIR_REMOTE_LIST || value->size != size || value->entries[0].kind != WEIR_REMOTE_TEXT)
        return false;
    weir_str_t text = value->entries[0].text;
    return text.len == strlen(word) && memcmp(text.base, word, text.len) == 0;
}

static bool is_told_not_to_run(const weir_remote_value_t *value)
{
    return (begins_with(value, "flight", 3) && value->entries[1].kind == WEIR_REMOTE_TEXT) || begins_with(value, "done", 2) ||
           begins_with(value, "unknown", 1) || begins_with(value, "other", 1);
}

static void take_answer(weir_redis_claim_t *record, const weir_remote_value_t *value, int64_t now_ns)
{
    if (begins_with(value, "run", 1))
        win(record);
    else if (!is_told_not_to_run(value))
        tell(record, WEIR_STORE_CLAIM_DOWN);
    else if (begins_with(value, "flight", 3))
        take_flight(record, value->entries[1].text, now_ns);
    else if (begins_with(value, "done", 2))
        take_done(record, &value->entries[1]);
    else
        tell(record, begins_with(value, "unknown", 1) ? WEIR_STORE_CLAIM_UNKNOWN : WEIR_STORE_CLAIM_OTHER);
}

/* --- asking --- */

/* What Redis may have told it to run is free for another one. */
static void let_go(weir_redis_claim_t *record, int64_t now_ns)
{
    if (record->may_hold)
        weir_redis_owner_end(record, WEIR_REDIS_FREE, 0, now_ns);
    else
        weir_redis_claim_destroy(record);
}

/* The request is asked again, and the record may be gone after that. */
static void wake(weir_redis_claim_t *record)
{
    weir_remote_t *remote = record->dedups->remote;
    remote->wake(remote, record->claim->ticket);
}

static void on_claimed(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    weir_redis_claim_t *record = context;
    --record->holds;
    record->may_hold = told == WEIR_REMOTE_LOST || (told == WEIR_REMOTE_ANSWERED && !is_told_not_to_run(value));
    record->leased_ns = record->asked_ns;
    if (record->state == WEIR_REDIS_LEFT) {
        let_go(record, now_ns);
        return;
    }
    if (told == WEIR_REMOTE_ANSWERED)
        take_answer(record, value, now_ns);
    else
        tell(record, WEIR_STORE_CLAIM_DOWN);
    wake(record);
}

static void on_seen(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    weir_redis_claim_t *record = context;
    --record->holds;
    if (record->state == WEIR_REDIS_LEFT) {
        weir_redis_claim_destroy(record);
        return;
    }
    if (told != WEIR_REMOTE_ANSWERED || value->kind != WEIR_REMOTE_INTEGER)
        tell(record, WEIR_STORE_CLAIM_DOWN);
    else
        tell(record, value->integer == 0 ? WEIR_STORE_CLAIM_RUN : WEIR_STORE_CLAIM_DUPLICATE);
    wake(record);
}

static bool ask_bitmaps(weir_redis_claim_t *record)
{
    weir_redis_dedups_t *dedups = record->dedups;
    const weir_redis_bloom_t *bloom = &record->dedup->bloom;
    int64_t window_ns = atomic_load(&record->dedup->window_ns);
    weir_redis_names_t names;
    char numbers[1 + WEIR_REDIS_BLOOM_HASHES_MAX][WEIR_REDIS_NUMBER_MAX];
    weir_str_t args[1 + WEIR_REDIS_BLOOM_HASHES_MAX];
    uint64_t offsets[WEIR_REDIS_BLOOM_HASHES_MAX];
    weir_redis_bitmaps_of(&names, dedups, record->dedup);
    weir_redis_bloom_offsets(bloom, record->key, offsets);
    args[0] = weir_redis_ms_text(numbers[0], window_ns);
    for (unsigned i = 0; i < bloom->hashes; ++i)
        args[1 + i] = weir_redis_number_text(numbers[1 + i], offsets[i]);
    weir_remote_ask_t ask = {.script = WEIR_SCRIPT_bloom,
                             .keys = names.names,
                             .key_count = 2,
                             .args = args,
                             .arg_count = 1 + bloom->hashes,
                             .timeout_ns = dedups->timeout_ns,
                             .on_end = on_seen,
                             .context = record};
    return dedups->remote->ask(dedups->remote, &ask);
}

static bool ask_key(weir_redis_claim_t *record)
{
    weir_redis_dedups_t *dedups = record->dedups;
    bool wants_answer = record->has_waited || record->claim->dedup->on_duplicate == WEIR_ON_DUPLICATE_REPLAY;
    weir_redis_names_t names;
    char owner[WEIR_REDIS_OWNER_MAX], fingerprint[WEIR_REDIS_NUMBER_MAX], lease[WEIR_REDIS_NUMBER_MAX], bytes[WEIR_REDIS_NUMBER_MAX];
    weir_str_t args[] = {weir_redis_owner_text(owner, dedups, record->owner),
                         weir_redis_fingerprint_text(fingerprint, record->fingerprint),
                         weir_redis_ms_text(lease, record->lease_ns),
                         weir_redis_number_text(bytes, wants_answer ? record->answer_bytes_max : 0),
                         {record->fingerprint != 0 ? "1" : "0", 1}};
    weir_redis_names_of(&names, dedups, record->dedup, record->key);
    weir_remote_ask_t ask = {.script = WEIR_SCRIPT_claim,
                             .keys = names.names,
                             .key_count = 2,
                             .args = args,
                             .arg_count = sizeof(args) / sizeof(args[0]),
                             .timeout_ns = dedups->timeout_ns,
                             .on_end = on_claimed,
                             .context = record};
    return dedups->remote->ask(dedups->remote, &ask);
}

/* The claim is told, and the record nobody's of the request. */
static weir_store_claim_told_t finish(weir_redis_claim_t *record, weir_store_claim_told_t told, int64_t now_ns)
{
    record->claim->asked = NULL;
    record->claim = NULL;
    let_go(record, now_ns);
    return told;
}

static weir_store_claim_told_t ask(weir_redis_claim_t *record, int64_t now_ns)
{
    record->asked_ns = now_ns;
    if (!(record->dedup->exact ? ask_key(record) : ask_bitmaps(record)))
        return finish(record, WEIR_STORE_CLAIM_DOWN, now_ns);
    ++record->holds;
    record->state = WEIR_REDIS_ASKED;
    record->claim->is_own = !record->has_waited;
    record->claim->until_ns = now_ns + record->dedups->timeout_ns;
    return WEIR_STORE_CLAIM_PENDING;
}

weir_store_claim_told_t weir_redis_claim_begin(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns)
{
    return ask(create(dedups, claim), now_ns);
}

/* --- collecting --- */

static weir_store_claim_told_t leave(weir_redis_claim_t *record)
{
    record->state = WEIR_REDIS_LEFT;
    record->claim->asked = NULL;
    record->claim = NULL;
    return WEIR_STORE_CLAIM_DOWN;
}

static void lose_stream(weir_redis_claim_t *record)
{
    weir_stream_t *stream = record->runner.stream != NULL ? weir_stream_acquire(record->runner.stream) : NULL;
    weir_redis_running_remove(&record->dedups->running, &record->runner);
    if (stream == NULL)
        return;
    weir_stream_end(stream, WEIR_STREAM_LOST, (weir_stream_end_t){.reason = WEIR_REASON_CLIENT_GONE});
    weir_stream_release(stream);
}

static weir_store_claim_told_t run(weir_redis_claim_t *record, int64_t now_ns)
{
    weir_store_claim_t *claim = record->claim;
    if (!weir_redis_owner_lasts(record, now_ns)) {
        lose_stream(record);
        return finish(record, WEIR_STORE_CLAIM_DOWN, now_ns);
    }
    claim->owner = record->owner;
    record->state = WEIR_REDIS_RUNNING;
    record->claim = NULL;
    if (record->runner.stream == NULL)
        return WEIR_STORE_CLAIM_RUN;
    claim->stream = weir_stream_acquire(record->runner.stream);
    bool has_joined = weir_stream_join(claim->stream, claim->reader, claim->ticket);
    assert(has_joined);
    (void)has_joined;
    return WEIR_STORE_CLAIM_RUN;
}

static weir_store_claim_told_t take_told(weir_redis_claim_t *record)
{
    weir_store_claim_t *claim = record->claim;
    weir_store_claim_told_t told = record->told;
    if (told == WEIR_STORE_CLAIM_SHARE && !weir_stream_join(record->shared, claim->reader, claim->ticket))
        told = record->is_done ? WEIR_STORE_CLAIM_DUPLICATE : WEIR_STORE_CLAIM_IN_FLIGHT;
    claim->is_replay =
        told == WEIR_STORE_CLAIM_SHARE && record->is_done && !record->has_waited && weir_stream_is_whole(record->shared);
    if (told == WEIR_STORE_CLAIM_IN_FLIGHT)
        claim->retry_after_ns = IN_FLIGHT_RETRY_NS;
    return told;
}

weir_store_claim_told_t weir_redis_claim_collect(weir_redis_claim_t *record, int64_t now_ns)
{
    bool is_late = now_ns >= record->claim->until_ns;
    switch ((weir_redis_claim_state_t)record->state) {
    case WEIR_REDIS_ASKED:
        return is_late ? leave(record) : WEIR_STORE_CLAIM_PENDING;
    case WEIR_REDIS_PAUSED:
        return is_late ? ask(record, now_ns) : WEIR_STORE_CLAIM_PENDING;
    case WEIR_REDIS_TOLD:
        return finish(record, take_told(record), now_ns);
    case WEIR_REDIS_WON:
        return run(record, now_ns);
    case WEIR_REDIS_LEFT:
    case WEIR_REDIS_RUNNING:
    case WEIR_REDIS_ENDING:
    case WEIR_REDIS_KEPT:
        break;
    }
    assert(!"collected already");
    return WEIR_STORE_CLAIM_DOWN;
}

void weir_redis_claim_abandon(weir_redis_claim_t *record, int64_t now_ns)
{
    if (record->claim == NULL) /* it runs */
        return;
    if (record->state == WEIR_REDIS_ASKED) {
        (void)leave(record);
        return;
    }
    if (record->state == WEIR_REDIS_WON)
        lose_stream(record);
    (void)finish(record, WEIR_STORE_CLAIM_DOWN, now_ns);
}
