#include "memory_dedup.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "core/bloom_pair.h"

enum { EVICTIONS_MAX = 256, TIDIED_AT_ONCE = 256, TIDIED_MAX = 16384 };

static const int64_t IN_FLIGHT_RETRY_NS = 1000000000;
/* Workers' clocks are turns of their loops: by so much one may be behind another one that fills the filters. */
static const int64_t CLOCKS_APART_NS = 1000000000;

/* Answers that can be read again stand in two lines. */
typedef enum { BY_READ, BY_DONE, LINES } line_t;

/* What a row keeps of its answer: while it is in flight, and while it can be read again. */
typedef struct answer {
    weir_stream_t *stream;
    weir_claim_key_t key;
    int64_t done_ns;
    bool is_listed;
    struct {
        struct answer *newer, *older;
    } in[LINES];
} answer_t;

struct weir_memory_dedup {
    char *name;
    bool exact;
    weir_claim_table_t *table; /* NULL: the Bloom pair is all there is */
    /* Where there is a table, read under a shard's lock. Not NULL: `next_bloom` is to take the other one's place, and is
     * told all that is told that one. */
    _Atomic(weir_bloom_pair_t *) bloom, next_bloom;
    _Atomic int64_t window_ns, latest_ns; /* latest_ns: that it was seen to be */
    weir_stream_account_t account;
    _Atomic int64_t keep_ns;
    _Atomic uint64_t lookups, found_false;
    pthread_mutex_t lines_lock;
    struct {
        answer_t *newest, *oldest;
    } lines[LINES];
    /* under the lock of all dedups */
    int64_t expected;
    double false_positives;
    int64_t lease_max_ns; /* of what may be in flight */
    weir_memory_dedup_t *next;
    size_t references;
};

/* A dedup as one configuration has it. */
struct weir_store_dedup {
    weir_memory_dedup_t *dedup;
    weir_conf_on_duplicate_t on_duplicate;
    weir_conf_in_flight_t in_flight;
    weir_conf_on_unknown_t on_unknown;
    weir_conf_on_full_t on_full;
    int64_t max_response_bytes;
};

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

static weir_claim_key_t table_key(weir_store_key_t key)
{
    return (weir_claim_key_t){key.low, key.high};
}

static weir_bloom_key_t bloom_key(weir_store_key_t key)
{
    return (weir_bloom_key_t){key.low, key.high};
}

/* --- the lines of answers; all under their lock --- */

static void leave(weir_memory_dedup_t *dedup, answer_t *answer, line_t line)
{
    answer_t *newer = answer->in[line].newer, *older = answer->in[line].older;
    *(newer != NULL ? &newer->in[line].older : &dedup->lines[line].newest) = older;
    *(older != NULL ? &older->in[line].newer : &dedup->lines[line].oldest) = newer;
}

static void join(weir_memory_dedup_t *dedup, answer_t *answer, line_t line)
{
    answer_t *older = dedup->lines[line].newest;
    answer->in[line].newer = NULL;
    answer->in[line].older = older;
    *(older != NULL ? &older->in[line].newer : &dedup->lines[line].oldest) = answer;
    dedup->lines[line].newest = answer;
}

/* --- answers; all under the row's lock --- */

static void list(weir_memory_dedup_t *dedup, answer_t *answer, int64_t done_ns)
{
    pthread_mutex_lock(&dedup->lines_lock);
    answer->done_ns = done_ns;
    answer->is_listed = true;
    join(dedup, answer, BY_READ);
    join(dedup, answer, BY_DONE);
    pthread_mutex_unlock(&dedup->lines_lock);
}

static void note_read(weir_memory_dedup_t *dedup, answer_t *answer)
{
    pthread_mutex_lock(&dedup->lines_lock);
    leave(dedup, answer, BY_READ);
    join(dedup, answer, BY_READ);
    pthread_mutex_unlock(&dedup->lines_lock);
}

static void unlist(weir_memory_dedup_t *dedup, answer_t *answer)
{
    if (!answer->is_listed)
        return;
    pthread_mutex_lock(&dedup->lines_lock);
    leave(dedup, answer, BY_READ);
    leave(dedup, answer, BY_DONE);
    pthread_mutex_unlock(&dedup->lines_lock);
}

static answer_t *answer_create(weir_stream_t *stream, weir_store_key_t key)
{
    answer_t *answer = checked(malloc(sizeof(*answer)));
    *answer = (answer_t){.stream = stream, .key = table_key(key)};
    return answer;
}

static void drop_answer(weir_memory_dedup_t *dedup, weir_claim_row_t *row)
{
    answer_t *answer = row->answer;
    if (answer == NULL)
        return;
    row->answer = NULL;
    unlist(dedup, answer);
    weir_stream_release(answer->stream);
    free(answer);
}

static void on_row_gone(void *context, weir_claim_row_t *row)
{
    drop_answer(context, row);
}

/* --- which of them go --- */

static bool is_unread(const answer_t *answer, int64_t then_ns)
{
    (void)then_ns;
    return weir_stream_readers(answer->stream) == 0;
}

static bool is_old(const answer_t *answer, int64_t then_ns)
{
    return answer->done_ns <= then_ns;
}

/* The key of the one that was not read for longest, and is not being read. */
static bool find_unread(weir_memory_dedup_t *dedup, weir_claim_key_t *key)
{
    pthread_mutex_lock(&dedup->lines_lock);
    const answer_t *answer = dedup->lines[BY_READ].oldest;
    while (answer != NULL && !is_unread(answer, 0))
        answer = answer->in[BY_READ].newer;
    if (answer != NULL)
        *key = answer->key;
    pthread_mutex_unlock(&dedup->lines_lock);
    return answer != NULL;
}

/* The keys of those that were done by then, at most `max`. */
static size_t find_old(weir_memory_dedup_t *dedup, weir_claim_key_t *keys, size_t max, int64_t then_ns)
{
    size_t count = 0;
    pthread_mutex_lock(&dedup->lines_lock);
    for (const answer_t *answer = dedup->lines[BY_DONE].oldest; answer != NULL && count < max && is_old(answer, then_ns);
         answer = answer->in[BY_DONE].newer)
        keys[count++] = answer->key;
    pthread_mutex_unlock(&dedup->lines_lock);
    return count;
}

/* Looks again, under the row's lock, and drops it. */
static void drop_answer_of(weir_memory_dedup_t *dedup, weir_claim_key_t key,
                           bool (*is_due)(const answer_t *answer, int64_t then_ns), int64_t then_ns)
{
    weir_claim_table_lock(dedup->table, key, 0);
    weir_claim_row_t *row = weir_claim_table_find(dedup->table, key);
    const answer_t *answer = row != NULL ? row->answer : NULL;
    if (answer != NULL && answer->is_listed && is_due(answer, then_ns))
        drop_answer(dedup, row);
    weir_claim_table_unlock(dedup->table, key);
}

static bool has_room(const weir_memory_dedup_t *dedup, int64_t bytes)
{
    return atomic_load(&dedup->account.bytes) <= atomic_load(&dedup->account.max_bytes) - bytes;
}

static void make_room(void *context, int64_t bytes)
{
    weir_memory_dedup_t *dedup = context;
    weir_claim_key_t key;
    if (bytes > atomic_load(&dedup->account.max_bytes))
        return;
    for (int i = 0; i < EVICTIONS_MAX && !has_room(dedup, bytes) && find_unread(dedup, &key); ++i)
        drop_answer_of(dedup, key, is_unread, 0);
}

/* --- dedups --- */

void weir_memory_dedups_init(weir_memory_dedups_t *dedups, weir_store_teller_t teller)
{
    *dedups = (weir_memory_dedups_t){.teller = teller};
    pthread_mutex_init(&dedups->lock, NULL);
}

static void dedup_destroy(weir_memory_dedup_t *dedup)
{
    if (dedup->table != NULL)
        weir_claim_table_destroy(dedup->table);
    weir_bloom_pair_destroy(atomic_load(&dedup->bloom));
    pthread_mutex_destroy(&dedup->lines_lock);
    free(dedup->name);
    free(dedup);
}

void weir_memory_dedups_dispose(weir_memory_dedups_t *dedups)
{
    while (dedups->newest != NULL) {
        weir_memory_dedup_t *dedup = dedups->newest;
        dedups->newest = dedup->next;
        dedup_destroy(dedup);
    }
    pthread_mutex_destroy(&dedups->lock);
}

static bool has_filters_of(const weir_memory_dedup_t *dedup, const weir_conf_dedup_t *conf)
{
    return atomic_load(&dedup->window_ns) == conf->window_ns && dedup->expected == conf->bloom.expected &&
           dedup->false_positives == conf->bloom.false_positives;
}

/* Where there are exact keys, filters can be made anew of them. */
static bool is_same(const weir_memory_dedup_t *dedup, const weir_conf_dedup_t *conf)
{
    return strcmp(dedup->name, conf->name) == 0 && dedup->exact == conf->exact && (dedup->exact || has_filters_of(dedup, conf));
}

static weir_bloom_pair_t *create_filters(const weir_memory_dedup_t *dedup, const weir_conf_dedup_t *conf)
{
    int64_t filled_ns = conf->window_ns;
    if (dedup->exact)
        filled_ns = (filled_ns > dedup->lease_max_ns ? filled_ns : dedup->lease_max_ns) + CLOCKS_APART_NS;
    return checked(weir_bloom_pair_create((uint64_t)conf->bloom.expected, conf->bloom.false_positives, filled_ns));
}

static void note_terms(weir_memory_dedup_t *dedup, const weir_conf_dedup_t *conf)
{
    int64_t lease_ns = conf->lease_ns < conf->window_ns ? conf->lease_ns : conf->window_ns;
    dedup->expected = conf->bloom.expected;
    dedup->false_positives = conf->bloom.false_positives;
    dedup->lease_max_ns = lease_ns > dedup->lease_max_ns ? lease_ns : dedup->lease_max_ns;
    atomic_store(&dedup->window_ns, conf->window_ns);
}

/* No key is remembered for longer than the filters know it. */
static void move_row(void *data, weir_claim_key_t key, weir_claim_row_t *row)
{
    weir_memory_dedup_t *dedup = data;
    int64_t latest_ns = atomic_load(&dedup->latest_ns), until_ns = latest_ns + atomic_load(&dedup->window_ns);
    (void)weir_bloom_pair_add(atomic_load(&dedup->next_bloom), (weir_bloom_key_t){key.low, key.high}, latest_ns);
    if (row->claim.state != WEIR_CLAIM_IN_FLIGHT && row->claim.until_ns > until_ns)
        row->claim.until_ns = until_ns;
}

/* Other filters take the place of those that are there, while claims go on: each of them sees both while they are filled,
 * and none has the old ones any more once every shard was locked after that. */
static void renew_filters(weir_memory_dedup_t *dedup, const weir_conf_dedup_t *conf)
{
    note_terms(dedup, conf);
    weir_bloom_pair_t *fresh = create_filters(dedup, conf), *former;
    (void)weir_bloom_pair_fill(fresh, atomic_load(&dedup->latest_ns)); /* it is that late */
    atomic_store(&dedup->next_bloom, fresh);
    weir_claim_table_each(dedup->table, move_row, dedup);
    former = atomic_exchange(&dedup->bloom, fresh);
    atomic_store(&dedup->next_bloom, NULL);
    weir_claim_table_tidy(dedup->table, 0);
    weir_bloom_pair_destroy(former);
}

static weir_memory_dedup_t *dedup_create(const weir_conf_dedup_t *conf)
{
    weir_memory_dedup_t *dedup = checked(calloc(1, sizeof(*dedup)));
    dedup->name = checked(strdup(conf->name));
    dedup->exact = conf->exact;
    note_terms(dedup, conf);
    atomic_store(&dedup->bloom, create_filters(dedup, conf));
    pthread_mutex_init(&dedup->lines_lock, NULL);
    dedup->account.make_room = make_room;
    dedup->account.context = dedup;
    if (conf->exact)
        dedup->table = weir_claim_table_create((size_t)conf->max_keys,
                                               (weir_claim_table_hooks_t){.dispose = on_row_gone, .context = dedup});
    return dedup;
}

static weir_memory_dedup_t *find_or_create(weir_memory_dedups_t *dedups, const weir_conf_dedup_t *conf)
{
    weir_memory_dedup_t *dedup = dedups->newest;
    while (dedup != NULL && !is_same(dedup, conf))
        dedup = dedup->next;
    if (dedup != NULL) {
        if (!has_filters_of(dedup, conf))
            renew_filters(dedup, conf);
        return dedup;
    }
    dedup = dedup_create(conf);
    dedup->next = dedups->newest;
    dedups->newest = dedup;
    return dedup;
}

weir_store_dedup_t *weir_memory_dedups_acquire(weir_memory_dedups_t *dedups, const weir_conf_dedup_t *conf)
{
    weir_store_dedup_t *handle = checked(malloc(sizeof(*handle)));
    pthread_mutex_lock(&dedups->lock);
    weir_memory_dedup_t *dedup = find_or_create(dedups, conf);
    ++dedup->references;
    pthread_mutex_unlock(&dedups->lock);
    atomic_store(&dedup->account.max_bytes, conf->memory_bytes);
    atomic_store(&dedup->keep_ns, conf->keep_responses_ns);
    if (dedup->table != NULL)
        weir_claim_table_resize(dedup->table, (size_t)conf->max_keys);
    *handle = (weir_store_dedup_t){.dedup = dedup,
                                   .on_duplicate = conf->on_duplicate,
                                   .in_flight = conf->in_flight,
                                   .on_unknown = conf->on_unknown,
                                   .on_full = conf->on_full,
                                   .max_response_bytes = conf->max_response_bytes};
    return handle;
}

/* Takes those out of the list that nobody needs any more. */
static weir_memory_dedup_t *unlink_unused(weir_memory_dedups_t *dedups)
{
    weir_memory_dedup_t *unused = NULL, **link = &dedups->newest;
    while (dedups->holds == 0 && *link != NULL) {
        weir_memory_dedup_t *dedup = *link;
        if (dedup->references != 0) {
            link = &dedup->next;
            continue;
        }
        *link = dedup->next;
        dedup->next = unused;
        unused = dedup;
    }
    return unused;
}

static void unlock_and_destroy_unused(weir_memory_dedups_t *dedups)
{
    weir_memory_dedup_t *unused = unlink_unused(dedups);
    pthread_mutex_unlock(&dedups->lock);
    while (unused != NULL) {
        weir_memory_dedup_t *dedup = unused;
        unused = dedup->next;
        dedup_destroy(dedup);
    }
}

void weir_memory_dedups_release(weir_memory_dedups_t *dedups, weir_store_dedup_t *handle)
{
    pthread_mutex_lock(&dedups->lock);
    --handle->dedup->references;
    free(handle);
    unlock_and_destroy_unused(dedups);
}

void weir_memory_dedups_hold(weir_memory_dedups_t *dedups)
{
    pthread_mutex_lock(&dedups->lock);
    ++dedups->holds;
    pthread_mutex_unlock(&dedups->lock);
}

void weir_memory_dedups_let_go(weir_memory_dedups_t *dedups)
{
    pthread_mutex_lock(&dedups->lock);
    --dedups->holds;
    unlock_and_destroy_unused(dedups);
}

/* --- claims --- */

static void note_time(weir_memory_dedup_t *dedup, int64_t now_ns)
{
    if (now_ns > atomic_load_explicit(&dedup->latest_ns, memory_order_relaxed))
        atomic_store_explicit(&dedup->latest_ns, now_ns, memory_order_relaxed);
}

static int64_t lock(const weir_store_claim_t *claim, int64_t now_ns)
{
    weir_memory_dedup_t *dedup = claim->dedup->dedup;
    weir_claim_table_lock(dedup->table, table_key(claim->key), now_ns);
    note_time(dedup, now_ns);
    return weir_claim_table_now(dedup->table, table_key(claim->key));
}

static void unlock(const weir_store_claim_t *claim)
{
    weir_claim_table_unlock(claim->dedup->dedup->table, table_key(claim->key));
}

static void changed(const weir_store_claim_t *claim, weir_claim_row_t *row)
{
    weir_claim_table_changed(claim->dedup->dedup->table, table_key(claim->key), row);
}

/* The filters know it for another window. Returns whether they did before. */
static bool add_key(weir_memory_dedup_t *dedup, weir_store_key_t key, int64_t now_ns)
{
    weir_bloom_pair_t *next = atomic_load(&dedup->next_bloom);
    if (next != NULL)
        (void)weir_bloom_pair_add(next, bloom_key(key), now_ns);
    return weir_bloom_pair_add(atomic_load(&dedup->bloom), bloom_key(key), now_ns);
}

static void note_key(const weir_store_claim_t *claim, int64_t now_ns)
{
    (void)add_key(claim->dedup->dedup, claim->key, now_ns);
}

/* The same for one that ran: in the window in which it was claimed there is nothing to do, it is known for all of the next
 * one already. */
static void note_again(const weir_store_claim_t *claim, int64_t now_ns)
{
    weir_memory_dedup_t *dedup = claim->dedup->dedup;
    const weir_bloom_pair_t *bloom = atomic_load(&dedup->bloom);
    if (claim->noted_in != bloom || claim->noted_window != weir_bloom_pair_window(bloom, now_ns) ||
        atomic_load(&dedup->next_bloom) != NULL)
        note_key(claim, now_ns);
}

/* Where it was, nothing changes: who asks often does not make it known for longer. */
static bool was_noted(weir_store_claim_t *claim, int64_t now_ns)
{
    weir_memory_dedup_t *dedup = claim->dedup->dedup;
    weir_bloom_pair_t *bloom = atomic_load(&dedup->bloom), *next = atomic_load(&dedup->next_bloom);
    bool was_noted = weir_bloom_pair_note(bloom, bloom_key(claim->key), now_ns);
    if (!was_noted && next != NULL)
        (void)weir_bloom_pair_add(next, bloom_key(claim->key), now_ns);
    claim->noted_in = !was_noted ? bloom : NULL;
    claim->noted_window = weir_bloom_pair_window(bloom, now_ns);
    return was_noted;
}

static weir_claim_row_t *find_row(weir_store_claim_t *claim, int64_t now_ns)
{
    weir_memory_dedup_t *dedup = claim->dedup->dedup;
    if (!was_noted(claim, now_ns))
        return NULL;
    atomic_fetch_add_explicit(&dedup->lookups, 1, memory_order_relaxed);
    weir_claim_row_t *row = weir_claim_table_find(dedup->table, table_key(claim->key));
    claim->is_false_positive = row == NULL;
    if (row != NULL)
        return row;
    atomic_fetch_add_explicit(&dedup->found_false, 1, memory_order_relaxed);
    note_key(claim, now_ns);
    return NULL;
}

static weir_claim_row_t *add_row(weir_store_claim_t *claim)
{
    const weir_store_dedup_t *handle = claim->dedup;
    return weir_claim_table_insert(handle->dedup->table, table_key(claim->key), handle->on_full == WEIR_ON_FULL_FORGET_OLDEST,
                                   &claim->forgotten);
}

static bool has_readers(const weir_store_dedup_t *handle)
{
    return handle->on_duplicate == WEIR_ON_DUPLICATE_REPLAY || handle->in_flight == WEIR_IN_FLIGHT_WAIT;
}

static void begin_answer(weir_memory_dedups_t *dedups, weir_store_claim_t *claim, weir_claim_row_t *row)
{
    const weir_store_dedup_t *handle = claim->dedup;
    drop_answer(handle->dedup, row);
    if (!has_readers(handle))
        return;
    claim->stream = weir_stream_create(&handle->dedup->account, handle->max_response_bytes, dedups->teller);
    row->answer = answer_create(weir_stream_acquire(claim->stream), claim->key);
    bool has_joined = weir_stream_join(claim->stream, claim->reader, claim->ticket);
    assert(has_joined);
    (void)has_joined;
}

static weir_store_claim_told_t join_running(weir_store_claim_t *claim, const weir_claim_row_t *row)
{
    const answer_t *answer = row->answer;
    claim->retry_after_ns = IN_FLIGHT_RETRY_NS;
    if (claim->dedup->in_flight != WEIR_IN_FLIGHT_WAIT || answer == NULL)
        return WEIR_STORE_CLAIM_IN_FLIGHT;
    return weir_stream_join(answer->stream, claim->reader, claim->ticket) ? WEIR_STORE_CLAIM_SHARE : WEIR_STORE_CLAIM_IN_FLIGHT;
}

static bool is_over(const weir_memory_dedup_t *dedup, const answer_t *answer, int64_t now_ns)
{
    return now_ns - answer->done_ns >= atomic_load_explicit(&dedup->keep_ns, memory_order_relaxed);
}

static weir_store_claim_told_t join_done(weir_store_claim_t *claim, weir_claim_row_t *row, int64_t now_ns)
{
    weir_memory_dedup_t *dedup = claim->dedup->dedup;
    answer_t *answer = row->answer;
    if (claim->dedup->on_duplicate != WEIR_ON_DUPLICATE_REPLAY || answer == NULL)
        return WEIR_STORE_CLAIM_DUPLICATE;
    if (is_over(dedup, answer, now_ns) || !weir_stream_join(answer->stream, claim->reader, claim->ticket)) {
        drop_answer(dedup, row);
        return WEIR_STORE_CLAIM_DUPLICATE;
    }
    note_read(dedup, answer);
    claim->is_replay = true;
    return WEIR_STORE_CLAIM_SHARE;
}

/* Whoever came while fingerprints were of no matter has none. */
static bool is_compared(const weir_store_claim_t *claim, const weir_claim_row_t *row)
{
    return claim->fingerprint != 0 && row->claim.fingerprint != 0;
}

static weir_store_claim_told_t ask_row(weir_memory_dedups_t *dedups, weir_store_claim_t *claim, weir_claim_row_t *row,
                                       int64_t now_ns)
{
    uint64_t owner = atomic_fetch_add_explicit(&dedups->owners, 1, memory_order_relaxed) + 1;
    switch (weir_claim_ask(&row->claim, owner, claim->fingerprint, is_compared(claim, row), INT64_MAX, now_ns)) {
    case WEIR_CLAIM_RUN:
        claim->owner = owner;
        begin_answer(dedups, claim, row);
        changed(claim, row);
        return WEIR_STORE_CLAIM_RUN;
    case WEIR_CLAIM_IS_RUNNING:
        return join_running(claim, row);
    case WEIR_CLAIM_IS_DONE:
        return join_done(claim, row, now_ns);
    case WEIR_CLAIM_IS_UNKNOWN:
        return WEIR_STORE_CLAIM_UNKNOWN;
    case WEIR_CLAIM_IS_OTHER:
        return WEIR_STORE_CLAIM_OTHER;
    }
    return WEIR_STORE_CLAIM_DOWN;
}

weir_store_claim_told_t weir_memory_dedups_claim(weir_memory_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns)
{
    claim->owner = 0;
    claim->stream = NULL;
    claim->is_replay = claim->is_false_positive = false;
    claim->forgotten = 0;
    claim->retry_after_ns = -1;
    if (claim->dedup->dedup->table == NULL)
        return was_noted(claim, now_ns) ? WEIR_STORE_CLAIM_DUPLICATE : WEIR_STORE_CLAIM_RUN;
    now_ns = lock(claim, now_ns);
    weir_claim_row_t *row = find_row(claim, now_ns);
    if (row == NULL)
        row = add_row(claim);
    weir_store_claim_told_t told = row != NULL ? ask_row(dedups, claim, row, now_ns) : WEIR_STORE_CLAIM_FULL;
    unlock(claim);
    return told;
}

static bool can_replay(const weir_store_dedup_t *handle, const weir_claim_row_t *row, int64_t now_ns)
{
    const answer_t *answer = row->answer;
    return handle->on_duplicate == WEIR_ON_DUPLICATE_REPLAY && answer != NULL && !is_over(handle->dedup, answer, now_ns) &&
           weir_stream_is_whole(answer->stream);
}

static weir_store_claim_told_t peek_row(const weir_store_claim_t *claim, const weir_claim_row_t *row, int64_t now_ns)
{
    switch (weir_claim_peek(&row->claim, claim->fingerprint, is_compared(claim, row), now_ns)) {
    case WEIR_CLAIM_RUN:
        return WEIR_STORE_CLAIM_RUN;
    case WEIR_CLAIM_IS_RUNNING:
        return claim->dedup->in_flight == WEIR_IN_FLIGHT_WAIT ? WEIR_STORE_CLAIM_SHARE : WEIR_STORE_CLAIM_IN_FLIGHT;
    case WEIR_CLAIM_IS_DONE:
        return can_replay(claim->dedup, row, now_ns) ? WEIR_STORE_CLAIM_SHARE : WEIR_STORE_CLAIM_DUPLICATE;
    case WEIR_CLAIM_IS_UNKNOWN:
        return WEIR_STORE_CLAIM_UNKNOWN;
    case WEIR_CLAIM_IS_OTHER:
        return WEIR_STORE_CLAIM_OTHER;
    }
    return WEIR_STORE_CLAIM_DOWN;
}

weir_store_claim_told_t weir_memory_dedups_peek(weir_store_claim_t *claim, int64_t now_ns)
{
    weir_memory_dedup_t *dedup = claim->dedup->dedup;
    if (dedup->table == NULL)
        return weir_bloom_pair_has(atomic_load(&dedup->bloom), bloom_key(claim->key), now_ns) ? WEIR_STORE_CLAIM_DUPLICATE
                                                                                             : WEIR_STORE_CLAIM_RUN;
    now_ns = lock(claim, now_ns);
    weir_claim_row_t *row = weir_claim_table_find(dedup->table, table_key(claim->key));
    weir_store_claim_told_t told = row != NULL ? peek_row(claim, row, now_ns) : WEIR_STORE_CLAIM_RUN;
    claim->is_replay = told == WEIR_STORE_CLAIM_SHARE && row->claim.state == WEIR_CLAIM_DONE;
    unlock(claim);
    return told;
}

/* --- the end of what runs --- */

/* As it is now, whatever configuration it began with. */
static int64_t window_ns_of(const weir_store_dedup_t *handle)
{
    return atomic_load(&handle->dedup->window_ns);
}

bool weir_memory_dedups_renew(const weir_store_claim_t *claim, int64_t now_ns)
{
    if (claim->owner == 0)
        return true;
    now_ns = lock(claim, now_ns);
    weir_claim_row_t *row = weir_claim_table_find(claim->dedup->dedup->table, table_key(claim->key));
    bool is_ours = row != NULL && weir_claim_renew(&row->claim, claim->owner, INT64_MAX, now_ns);
    bool is_anothers = row != NULL && !is_ours && row->claim.state == WEIR_CLAIM_IN_FLIGHT;
    if (is_ours)
        note_key(claim, now_ns);
    unlock(claim);
    return !is_anothers; /* forgotten by hand: it goes on, and nobody will know */
}

void weir_memory_dedups_commit(const weir_store_claim_t *claim, int64_t now_ns)
{
    const weir_store_dedup_t *handle = claim->dedup;
    if (claim->owner == 0)
        return;
    now_ns = lock(claim, now_ns);
    weir_claim_row_t *row = weir_claim_table_find(handle->dedup->table, table_key(claim->key));
    if (row != NULL && weir_claim_commit(&row->claim, claim->owner, window_ns_of(handle), now_ns)) {
        answer_t *answer = row->answer;
        note_again(claim, now_ns);
        if (handle->on_duplicate != WEIR_ON_DUPLICATE_REPLAY)
            drop_answer(handle->dedup, row);
        else if (answer != NULL)
            list(handle->dedup, answer, now_ns);
        changed(claim, row);
    }
    unlock(claim);
}

void weir_memory_dedups_forget(const weir_store_claim_t *claim, int64_t now_ns)
{
    if (claim->owner == 0)
        return;
    now_ns = lock(claim, now_ns);
    weir_claim_row_t *row = weir_claim_table_find(claim->dedup->dedup->table, table_key(claim->key));
    if (row != NULL && weir_claim_forget(&row->claim, claim->owner, now_ns))
        changed(claim, row);
    unlock(claim);
}

void weir_memory_dedups_lose(const weir_store_claim_t *claim, int64_t now_ns)
{
    const weir_store_dedup_t *handle = claim->dedup;
    if (claim->owner == 0)
        return;
    now_ns = lock(claim, now_ns);
    weir_claim_row_t *row = weir_claim_table_find(handle->dedup->table, table_key(claim->key));
    bool remembers = handle->on_unknown == WEIR_ON_UNKNOWN_REJECT;
    if (row != NULL && weir_claim_lose(&row->claim, claim->owner, remembers, window_ns_of(handle), now_ns)) {
        note_key(claim, now_ns);
        drop_answer(handle->dedup, row);
        changed(claim, row);
    }
    unlock(claim);
}

bool weir_memory_dedups_reset(weir_store_dedup_t *handle, weir_store_key_t key, int64_t now_ns)
{
    weir_claim_table_t *table = handle->dedup->table;
    if (table == NULL)
        return false;
    weir_claim_table_lock(table, table_key(key), now_ns);
    weir_claim_row_t *row = weir_claim_table_find(table, table_key(key));
    if (row != NULL) {
        row->claim.state = WEIR_CLAIM_FREE;
        weir_claim_table_changed(table, table_key(key), row);
    }
    weir_claim_table_unlock(table, table_key(key));
    return row != NULL;
}

/* --- how it is doing --- */

static weir_memory_dedup_t *find_named(weir_memory_dedups_t *dedups, const char *name)
{
    weir_memory_dedup_t *dedup = dedups->newest;
    while (dedup != NULL && (dedup->references == 0 || strcmp(dedup->name, name) != 0))
        dedup = dedup->next;
    return dedup;
}

bool weir_memory_dedups_tell(weir_memory_dedups_t *dedups, const char *name, int64_t now_ns, weir_store_dedup_told_t *told)
{
    pthread_mutex_lock(&dedups->lock);
    weir_memory_dedup_t *dedup = find_named(dedups, name);
    if (dedup != NULL)
        *told = (weir_store_dedup_told_t){
            .keys = dedup->table != NULL ? weir_claim_table_count(dedup->table) : 0,
            .answer_bytes = atomic_load(&dedup->account.bytes),
            .bloom_fill = weir_bloom_pair_fill(atomic_load(&dedup->bloom), now_ns),
            .lookups = atomic_load(&dedup->lookups),
            .false_positives = atomic_load(&dedup->found_false),
        };
    pthread_mutex_unlock(&dedups->lock);
    return dedup != NULL;
}

static void drop_old_answers(weir_memory_dedup_t *dedup, int64_t then_ns)
{
    weir_claim_key_t keys[TIDIED_AT_ONCE];
    size_t count = TIDIED_AT_ONCE;
    for (size_t tidied = 0; tidied < TIDIED_MAX && count == TIDIED_AT_ONCE; tidied += count) {
        count = find_old(dedup, keys, TIDIED_AT_ONCE, then_ns);
        for (size_t i = 0; i < count; ++i)
            drop_answer_of(dedup, keys[i], is_old, then_ns);
    }
}

static void tidy(weir_memory_dedup_t *dedup, int64_t now_ns)
{
    note_time(dedup, now_ns);
    weir_claim_table_tidy(dedup->table, now_ns);
    drop_old_answers(dedup, now_ns - atomic_load(&dedup->keep_ns));
    make_room(dedup, 0);
}

void weir_memory_dedups_tidy(weir_memory_dedups_t *dedups, int64_t now_ns)
{
    pthread_mutex_lock(&dedups->lock);
    for (weir_memory_dedup_t *dedup = dedups->newest; dedup != NULL; dedup = dedup->next)
        if (dedup->table != NULL)
            tidy(dedup, now_ns);
    pthread_mutex_unlock(&dedups->lock);
}

/* --- kept in a file --- */

/* Under the row's lock; false: it is not a finished one. */
static bool show_row(weir_memory_dedup_t *dedup, weir_claim_key_t key, const weir_claim_row_t *row, int64_t now_ns,
                     weir_memory_dedup_key_t *shown)
{
    weir_claim_state_t state = weir_claim_state(&row->claim, now_ns);
    const answer_t *answer = row->answer;
    if (state != WEIR_CLAIM_DONE && state != WEIR_CLAIM_UNKNOWN)
        return false;
    bool is_kept = answer != NULL && !is_over(dedup, answer, now_ns) && weir_stream_is_whole(answer->stream);
    *shown = (weir_memory_dedup_key_t){.dedup = dedup->name,
                                       .key = {key.low, key.high},
                                       .fingerprint = row->claim.fingerprint,
                                       .is_unknown = state == WEIR_CLAIM_UNKNOWN,
                                       .left_ns = row->claim.until_ns - now_ns,
                                       .age_ns = is_kept ? now_ns - answer->done_ns : 0,
                                       .of = dedup,
                                       .answer = is_kept ? answer->stream : NULL};
    return true;
}

typedef struct {
    weir_memory_dedup_t *dedup;
    int64_t now_ns;
    void (*visit)(void *data, const weir_memory_dedup_key_t *key);
    void *data;
} tour_t;

static void visit_row(void *data, weir_claim_key_t key, weir_claim_row_t *row)
{
    const tour_t *tour = data;
    weir_memory_dedup_key_t shown;
    if (show_row(tour->dedup, key, row, tour->now_ns, &shown))
        tour->visit(tour->data, &shown);
}

void weir_memory_dedups_each(weir_memory_dedups_t *dedups, int64_t now_ns,
                             void (*visit)(void *data, const weir_memory_dedup_key_t *key), void *data)
{
    weir_memory_dedups_hold(dedups);
    pthread_mutex_lock(&dedups->lock);
    weir_memory_dedup_t *dedup = dedups->newest;
    pthread_mutex_unlock(&dedups->lock);
    for (; dedup != NULL; dedup = dedup->next) {
        tour_t tour = {.dedup = dedup, .now_ns = now_ns, .visit = visit, .data = data};
        if (dedup->table != NULL)
            weir_claim_table_each(dedup->table, visit_row, &tour);
    }
    weir_memory_dedups_let_go(dedups);
}

bool weir_memory_dedups_look(weir_memory_dedup_key_t *key, int64_t now_ns)
{
    weir_memory_dedup_t *dedup = key->of;
    weir_claim_key_t at = table_key(key->key);
    weir_claim_table_lock(dedup->table, at, now_ns);
    const weir_claim_row_t *row = weir_claim_table_find(dedup->table, at);
    bool is_there = row != NULL && show_row(dedup, at, row, weir_claim_table_now(dedup->table, at), key);
    if (is_there && key->answer != NULL)
        (void)weir_stream_acquire(key->answer);
    weir_claim_table_unlock(dedup->table, at);
    return is_there;
}

static int64_t clamp(int64_t value, int64_t min, int64_t max)
{
    return value < min ? min : value > max ? max : value;
}

/* No longer than a window, as the filters do not know it for longer. */
static void fill_row(weir_memory_dedup_t *dedup, weir_claim_row_t *row, const weir_memory_dedup_key_t *kept, int64_t now_ns,
                     weir_stream_t *answer)
{
    int64_t window_ns = atomic_load(&dedup->window_ns);
    row->claim = (weir_claim_t){.fingerprint = kept->fingerprint,
                                .until_ns = now_ns + clamp(kept->left_ns, 0, window_ns),
                                .state = kept->is_unknown ? WEIR_CLAIM_UNKNOWN : WEIR_CLAIM_DONE};
    if (answer != NULL && !kept->is_unknown) {
        answer_t *entry = answer_create(weir_stream_acquire(answer), kept->key);
        row->answer = entry;
        list(dedup, entry, now_ns - clamp(kept->age_ns, 0, window_ns));
    }
}

static bool restore_row(weir_memory_dedup_t *dedup, const weir_memory_dedup_key_t *kept, int64_t now_ns, weir_stream_t *answer)
{
    weir_claim_key_t key = table_key(kept->key);
    size_t forgotten = 0;
    weir_claim_table_lock(dedup->table, key, now_ns);
    note_time(dedup, now_ns);
    now_ns = weir_claim_table_now(dedup->table, key);
    bool is_new = weir_claim_table_find(dedup->table, key) == NULL;
    weir_claim_row_t *row = is_new ? weir_claim_table_insert(dedup->table, key, true, &forgotten) : NULL;
    if (row != NULL) {
        fill_row(dedup, row, kept, now_ns, answer);
        (void)add_key(dedup, kept->key, now_ns);
        weir_claim_table_changed(dedup->table, key, row);
    }
    weir_claim_table_unlock(dedup->table, key);
    return row != NULL;
}

bool weir_memory_dedups_restore(weir_memory_dedups_t *dedups, const weir_memory_dedup_key_t *key, int64_t now_ns,
                                weir_stream_t *(*fill)(void *data, weir_stream_account_t *account, int64_t max_bytes),
                                void *data)
{
    pthread_mutex_lock(&dedups->lock);
    weir_memory_dedup_t *dedup = find_named(dedups, key->dedup);
    pthread_mutex_unlock(&dedups->lock);
    if (dedup == NULL || dedup->table == NULL || key->left_ns <= 0)
        return false;
    int64_t max_bytes = atomic_load(&dedup->account.max_bytes);
    weir_stream_t *answer = fill != NULL ? fill(data, &dedup->account, max_bytes) : NULL;
    bool is_restored = restore_row(dedup, key, now_ns, answer);
    if (answer != NULL)
        weir_stream_release(answer);
    return is_restored;
}
