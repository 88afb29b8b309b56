#include "redis_lease.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    SHARDS = 64,
    SHARD_ROWS_MAX = WEIR_REDIS_LEASE_ROWS_MAX / SHARDS,
    BUCKETS = 256, /* of a shard */
    REPLY_NUMBERS = 6,
    PARTS = 2, /* all sidecars' slices together are at most one such part of the quota */
};

static const int64_t NUMBER_MAX = INT64_C(1) << 53; /* of Lua's: no script tells a larger one */
static const int64_t HOLD_NS = 2 * INT64_C(1000000000);
static const int64_t WINDOW_MIN_NS = 20 * INT64_C(1000000000);
static const int64_t IDLE_NS = INT64_C(1000000000); /* a key that is used less often has no slice */
static const int64_t PAUSE_NS = INT64_C(100000000); /* before it is asked for again, where there was an error */

/* A key of a limit, with the quota that it is asked for with.
 *
 * What is in `left` was charged in Redis as a slice called `id`, of which no more is left there either until `ends_ns`. While it
 * is asked for anew - and the row is not freed then - `kept` is what it was asked to keep. */
typedef struct row {
    struct row *next;
    weir_redis_leases_t *leases;
    weir_redis_row_t asked; /* its name, tag, terms and kind */
    char *limit;
    int64_t left;
    int64_t ends_ns, ends_us; /* on this sidecar's clock, and on Redis's */
    int64_t charged_us;       /* when `left` was charged, for settle */
    int64_t size;             /* it should have */
    int64_t elsewhere;        /* that Redis had left, when it was heard of last */
    int64_t reset_at_ns;
    int64_t used_ns;          /* when it was asked for last, and before that */
    int64_t before_ns;        /* not to be asked for before that: there is nothing to be had */
    int64_t sent_ns, kept;
    uint64_t id, term; /* term: changes whenever what was spent is not in the slice any more */
    bool is_asking;
    char texts[]; /* of name and limit */
} row_t;

typedef struct {
    _Alignas(64) pthread_mutex_t lock;
    size_t count;
    row_t *rows[BUCKETS];
} shard_t;

struct weir_redis_leases {
    weir_remote_t *remote;
    weir_str_t prefix;
    int64_t timeout_ns, slice_ppm;
    _Atomic uint64_t numbers; /* of ids and terms that were given */
    shard_t shards[SHARDS];
};

/* --- rows --- */

static shard_t *shard_of(weir_redis_leases_t *leases, weir_store_key_t tag)
{
    return &leases->shards[tag.low % SHARDS];
}

static row_t **bucket_of(shard_t *shard, weir_store_key_t tag)
{
    return &shard->rows[tag.high % BUCKETS];
}

static bool is_of(const row_t *row, const weir_redis_row_t *asked, const char *limit)
{
    return row->asked.tag.low == asked->tag.low && row->asked.tag.high == asked->tag.high && row->asked.kind == asked->kind &&
           memcmp(row->asked.terms, asked->terms, sizeof(asked->terms)) == 0 && strcmp(row->limit, limit) == 0;
}

static row_t *find_row(shard_t *shard, const weir_redis_row_t *asked, const char *limit)
{
    row_t *row = *bucket_of(shard, asked->tag);
    while (row != NULL && !is_of(row, asked, limit))
        row = row->next;
    return row;
}

/* NULL: there is no room. */
static row_t *add_row(weir_redis_leases_t *leases, shard_t *shard, const weir_redis_row_t *asked, const weir_store_item_t *item)
{
    char name[WEIR_REDIS_ROW_NAME_MAX];
    size_t name_len = weir_redis_row_name(name, leases->prefix, item), limit_size = strlen(item->limit->name) + 1;
    if (shard->count == SHARD_ROWS_MAX)
        return NULL;
    row_t *row = calloc(1, sizeof(*row) + name_len + limit_size), **bucket = bucket_of(shard, asked->tag);
    assert(row != NULL);
    row->leases = leases;
    row->asked = *asked;
    row->asked.name = (weir_str_t){memcpy(row->texts, name, name_len), name_len};
    row->limit = memcpy(row->texts + name_len, item->limit->name, limit_size);
    row->used_ns = INT64_MIN;
    row->id = ++leases->numbers;
    row->next = *bucket;
    *bucket = row;
    ++shard->count;
    return row;
}

/* --- slices --- */

static int64_t size_of(const weir_redis_leases_t *leases, const weir_redis_row_t *asked)
{
    int64_t quota = asked->kind == 'b' ? asked->terms[2] : asked->terms[0];
    int64_t sidecars = atomic_load_explicit(&leases->remote->sidecars, memory_order_relaxed);
    int64_t size = (int64_t)((__int128)quota * leases->slice_ppm / 1000000), most = quota / (PARTS * (sidecars > 0 ? sidecars : 1));
    size = size < most ? size : most;
    return size > 0 ? size : 1;
}

static void end_slice(weir_redis_leases_t *leases, row_t *row)
{
    row->left = 0;
    row->term = ++leases->numbers;
}

static void pass_time(weir_redis_leases_t *leases, row_t *row, int64_t now_ns)
{
    if (row->left != 0 && now_ns >= row->ends_ns)
        end_slice(leases, row);
}

/* With the row locked. */
static bool wants_more(const row_t *row, int64_t cost, bool is_hot, int64_t now_ns)
{
    if (row->is_asking || now_ns < row->before_ns || !is_hot || cost > row->size)
        return false;
    return row->left < (row->size + 1) / 2 || row->ends_ns - now_ns <= HOLD_NS / 2;
}

/* --- asking --- */

static void put_args(weir_redis_args_t *args, const weir_redis_leases_t *leases, const row_t *row, int64_t want, int64_t back,
                     int64_t keep)
{
    weir_redis_args_init(args);
    *args->at = row->asked.kind;
    args->entries[args->count++] = (weir_str_t){args->at++, 1};
    weir_redis_args_put_member(args, leases->remote->sidecar, row->id);
    weir_redis_args_put_number(args, want);
    weir_redis_args_put_number(args, back);
    for (size_t i = 0; i < sizeof(row->asked.terms) / sizeof(*row->asked.terms); ++i)
        weir_redis_args_put_number(args, row->asked.terms[i]);
    weir_redis_args_put_number(args, HOLD_NS / 1000);
    weir_redis_args_put_number(args, keep);
    weir_redis_args_put_number(args, row->ends_us);
}

static bool ask(const weir_redis_leases_t *leases, row_t *row, const weir_redis_args_t *args,
                void (*on_end)(void *, weir_remote_told_t, const weir_remote_value_t *, int64_t))
{
    return leases->remote->ask(leases->remote, &(weir_remote_ask_t){.script = WEIR_SCRIPT_lease,
                                                                    .keys = &row->asked.name,
                                                                    .key_count = 1,
                                                                    .args = args->entries,
                                                                    .arg_count = args->count,
                                                                    .timeout_ns = leases->timeout_ns,
                                                                    .on_end = on_end,
                                                                    .context = row});
}

static bool is_reply(const weir_remote_value_t *value)
{
    if (value->kind != WEIR_REMOTE_LIST || value->size != REPLY_NUMBERS)
        return false;
    for (size_t i = 0; i < REPLY_NUMBERS; ++i) {
        const weir_remote_value_t *entry = &value->entries[i];
        if (entry->kind != WEIR_REMOTE_INTEGER || entry->integer < -NUMBER_MAX || entry->integer > NUMBER_MAX)
            return false;
    }
    return true;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t later_ns(int64_t now_ns, int64_t us)
{
    return us < (INT64_MAX - now_ns) / 1000 ? now_ns + us * 1000 : INT64_MAX;
}

/* granted, now_us, remaining, reset_us, retry_us, ends_us. What was spent since it was asked for is of what was kept. */
static void take_slice(row_t *row, const weir_remote_value_t numbers[REPLY_NUMBERS], int64_t now_ns)
{
    int64_t most = row->size > row->kept ? row->size : row->kept, granted = smaller(numbers[0].integer, most);
    int64_t spent = row->kept - row->left, fresh = granted - row->kept;
    int64_t retry_us = numbers[4].integer;
    assert(spent >= 0);
    row->left = granted > spent ? granted - spent : 0;
    row->ends_ns = row->sent_ns + HOLD_NS;
    row->ends_us = numbers[5].integer;
    row->charged_us = row->asked.kind == 'b' ? numbers[1].integer : row->ends_us;
    row->elsewhere = numbers[2].integer > 0 ? numbers[2].integer : 0;
    row->reset_at_ns = numbers[3].integer < 0 ? -1 : later_ns(now_ns, numbers[3].integer);
    if (fresh <= 0 && retry_us != 0) /* others may give back before that */
        row->before_ns = now_ns + (retry_us > 0 && retry_us < IDLE_NS / 1000 ? retry_us * 1000 : IDLE_NS);
}

/* Nobody knows whether it was taken: the next one has another name, and this one ends by itself. */
static void lose_slice(weir_redis_leases_t *leases, row_t *row)
{
    end_slice(leases, row);
    row->id = ++leases->numbers;
    row->ends_us = 0;
}

static void give_back(weir_redis_leases_t *leases, row_t *row, int64_t now_ns)
{
    weir_redis_args_t args;
    pass_time(leases, row, now_ns);
    if (row->left == 0)
        return;
    put_args(&args, leases, row, 0, row->left, 0);
    (void)ask(leases, row, &args, NULL); /* not up: it ends by itself */
}

static void on_slice(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    row_t *row = context;
    weir_redis_leases_t *leases = row->leases;
    shard_t *shard = shard_of(leases, row->asked.tag);
    pthread_mutex_lock(&shard->lock);
    row->is_asking = false;
    if (told == WEIR_REMOTE_ANSWERED && is_reply(value)) {
        take_slice(row, value->entries, now_ns);
    } else {
        row->before_ns = now_ns + PAUSE_NS;
        if (told != WEIR_REMOTE_REFUSED)
            lose_slice(leases, row);
    }
    pthread_mutex_unlock(&shard->lock);
}

/* With the row locked. */
static void ask_for_more(weir_redis_leases_t *leases, row_t *row, int64_t now_ns)
{
    weir_redis_args_t args;
    int64_t want = row->size - row->left;
    put_args(&args, leases, row, want > 0 ? want : 0, 0, row->left);
    row->is_asking = ask(leases, row, &args, on_slice);
    if (!row->is_asking) {
        row->before_ns = now_ns + PAUSE_NS;
        return;
    }
    row->kept = row->left;
    row->sent_ns = now_ns;
    row->term = ++leases->numbers; /* what was spent until now counts as used from when it is told */
}

/* --- charging --- */

/* What is taken ahead counts as used at the end of its slice: in a short window that would be too long. */
static bool has_slices(const weir_store_item_t *item)
{
    char kind = weir_redis_row_kind(item->limit);
    return kind == 'b' || (kind == 's' && item->quota->window_ns >= WINDOW_MIN_NS);
}

static bool have_slices(const weir_store_item_t *items, unsigned wanted)
{
    for (; wanted != 0; wanted &= wanted - 1)
        if (!has_slices(&items[__builtin_ctz(wanted)]))
            return false;
    return true;
}

static int64_t reset_ns_of(const row_t *row, int64_t now_ns)
{
    if (row->reset_at_ns < 0)
        return -1;
    return row->reset_at_ns > now_ns ? row->reset_at_ns - now_ns : 0;
}

static void charge(row_t *row, weir_store_item_t *item, int64_t now_ns)
{
    row->left -= item->cost;
    item->leased = true;
    item->kept = WEIR_KEPT_REMOTE;
    item->id = row->term;
    item->admitted = true;
    item->refusal = WEIR_STORE_FREE;
    item->charged_ns = row->charged_us * 1000;
    item->remaining = row->left + row->elsewhere;
    item->reset_ns = reset_ns_of(row, now_ns);
    item->retry_after_ns = 0;
}

/* What is left does not do here, nor does what is left elsewhere: together they may. */
static bool is_stranded(const row_t *row, int64_t cost)
{
    return !row->is_asking && row->left != 0 && row->left < cost && row->elsewhere < cost;
}

static bool take_from(weir_redis_leases_t *leases, row_t *row, weir_store_item_t *item, int64_t now_ns, bool *wants)
{
    bool is_hot = row->used_ns > now_ns - IDLE_NS;
    pass_time(leases, row, now_ns);
    bool fits = row->left >= item->cost;
    row->used_ns = now_ns > row->used_ns ? now_ns : row->used_ns;
    row->size = size_of(leases, &row->asked);
    if (fits)
        charge(row, item, now_ns);
    if (!fits && is_stranded(row, item->cost)) {
        give_back(leases, row, now_ns);
        lose_slice(leases, row);
        row->before_ns = now_ns + IDLE_NS;
    }
    *wants = wants_more(row, item->cost, is_hot, now_ns);
    return fits;
}

/* *wants: it should be asked for more. */
static bool take(weir_redis_leases_t *leases, weir_store_item_t *item, int64_t now_ns, bool *wants)
{
    weir_redis_row_t asked;
    bool fits = false;
    *wants = false;
    weir_redis_row_init(&asked, item, 0);
    shard_t *shard = shard_of(leases, asked.tag);
    pthread_mutex_lock(&shard->lock);
    row_t *row = find_row(shard, &asked, item->limit->name);
    if (row == NULL)
        row = add_row(leases, shard, &asked, item);
    if (row != NULL)
        fits = take_from(leases, row, item, now_ns, wants);
    pthread_mutex_unlock(&shard->lock);
    return fits;
}

static void renew(weir_redis_leases_t *leases, const weir_store_item_t *item, int64_t now_ns)
{
    weir_redis_row_t asked;
    weir_redis_row_init(&asked, item, 0);
    shard_t *shard = shard_of(leases, asked.tag);
    pthread_mutex_lock(&shard->lock);
    row_t *row = find_row(shard, &asked, item->limit->name);
    if (row != NULL && wants_more(row, item->cost, true, now_ns))
        ask_for_more(leases, row, now_ns);
    pthread_mutex_unlock(&shard->lock);
}

/* As if it had not been asked. It is of its slice still: nothing was asked of Redis since - but by another thread, and then
 * it stays charged until that fills up. */
static void undo(weir_redis_leases_t *leases, weir_store_item_t *item, int64_t now_ns)
{
    (void)weir_redis_leases_put_back(leases, item, item->cost, now_ns);
    item->leased = false;
    item->kept = WEIR_KEPT_NOWHERE;
    item->id = 0;
    item->charged_ns = -1;
    item->remaining = weir_store_quota_size(item->quota);
    item->reset_ns = -1;
}

bool weir_redis_leases_take(weir_redis_leases_t *leases, weir_store_item_t *items, unsigned wanted, int64_t now_ns,
                            unsigned *wanting)
{
    unsigned taken = 0;
    *wanting = 0;
    if (leases == NULL || !have_slices(items, wanted))
        return false;
    for (unsigned left = wanted; left != 0; left &= left - 1) {
        unsigned i = (unsigned)__builtin_ctz(left);
        bool wants;
        taken |= take(leases, &items[i], now_ns, &wants) ? 1u << i : 0;
        *wanting |= wants ? 1u << i : 0;
    }
    bool has_all = taken == wanted;
    for (; !has_all && taken != 0; taken &= taken - 1)
        undo(leases, &items[__builtin_ctz(taken)], now_ns);
    return has_all;
}

void weir_redis_leases_renew(weir_redis_leases_t *leases, const weir_store_item_t *items, unsigned wanting, int64_t now_ns)
{
    for (; wanting != 0; wanting &= wanting - 1)
        renew(leases, &items[__builtin_ctz(wanting)], now_ns);
}

bool weir_redis_leases_put_back(weir_redis_leases_t *leases, const weir_store_item_t *item, int64_t given, int64_t now_ns)
{
    weir_redis_row_t asked;
    bool is_done = false;
    if (leases == NULL || !item->leased)
        return false;
    weir_redis_row_init(&asked, item, 0);
    shard_t *shard = shard_of(leases, asked.tag);
    pthread_mutex_lock(&shard->lock);
    row_t *row = find_row(shard, &asked, item->limit->name);
    if (row != NULL) {
        pass_time(leases, row, now_ns);
        is_done = given < 0 ? row->left >= -given : row->term == item->id && now_ns < row->ends_ns;
    }
    if (is_done)
        row->left += given;
    pthread_mutex_unlock(&shard->lock);
    return is_done;
}

/* --- rows that nobody asks for --- */

static void sweep(weir_redis_leases_t *leases, shard_t *shard, int64_t now_ns)
{
    for (size_t i = 0; i < BUCKETS && shard->count != 0; ++i)
        for (row_t **at = &shard->rows[i]; *at != NULL;) {
            row_t *row = *at;
            if (row->is_asking || row->used_ns > now_ns - IDLE_NS) {
                at = &row->next;
                continue;
            }
            *at = row->next;
            --shard->count;
            give_back(leases, row, now_ns);
            free(row);
        }
}

void weir_redis_leases_tick(weir_redis_leases_t *leases, size_t worker, int64_t now_ns)
{
    if (leases == NULL)
        return;
    for (size_t i = worker; i < SHARDS; i += leases->remote->workers) {
        pthread_mutex_lock(&leases->shards[i].lock);
        sweep(leases, &leases->shards[i], now_ns);
        pthread_mutex_unlock(&leases->shards[i].lock);
    }
}

/* --- all of it --- */

weir_redis_leases_t *weir_redis_leases_create(const weir_conf_store_redis_t *conf, weir_remote_t *remote, weir_str_t prefix)
{
    if (conf->sync != WEIR_SYNC_LEASE)
        return NULL;
    weir_redis_leases_t *leases = aligned_alloc(_Alignof(weir_redis_leases_t), sizeof(*leases));
    assert(leases != NULL);
    memset(leases, 0, sizeof(*leases));
    leases->remote = remote;
    leases->prefix = prefix;
    leases->timeout_ns = conf->timeout_ns;
    leases->slice_ppm = conf->lease_ppm;
    for (size_t i = 0; i < SHARDS; ++i)
        pthread_mutex_init(&leases->shards[i].lock, NULL);
    return leases;
}

void weir_redis_leases_destroy(weir_redis_leases_t *leases)
{
    if (leases == NULL)
        return;
    for (size_t i = 0; i < SHARDS * BUCKETS; ++i)
        for (row_t *row = leases->shards[i / BUCKETS].rows[i % BUCKETS], *next; row != NULL; row = next) {
            next = row->next;
            free(row);
        }
    for (size_t i = 0; i < SHARDS; ++i)
        pthread_mutex_destroy(&leases->shards[i].lock);
    free(leases);
}
