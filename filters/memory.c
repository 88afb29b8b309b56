/* The store in this process. One set of locks for all limits, by shards of the key: limits that count by the same key
 * are decided under one lock. Shards are locked in ascending order, the overflow rows' lock after them. */
#include "store.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL /* keys are short: half of the cost would be the call */
#include <xxhash.h>
#include "core/key_table.h"
#include "core/sliding_window.h"
#include "core/token_bucket.h"

/* How one algorithm keeps a row; a state of 0 is a key that was never seen. */
typedef struct {
    size_t state_bytes;
    bool (*fits)(const void *state, const weir_store_item_t *item, int64_t now_ns);
    /* Charges the item if it is to be, and tells what is then. */
    weir_told_t (*settle)(void *state, const weir_store_item_t *item, bool is_charged, int64_t now_ns);
    void (*put_back)(void *state, const weir_store_item_t *item, int64_t now_ns);
    bool (*is_free)(const void *state, int64_t now_ns, const void *limit);
    /* The limit's quotas change; now_ns is the latest time that was asked about. May be NULL. */
    void (*change)(void *state, int64_t now_ns, void *slowest);
} algorithm_t;

struct weir_store_limit {
    weir_store_limit_t *next;
    const algorithm_t *algorithm;
    weir_key_table_t *table;
    void *overflow; /* the row that keys share for which there is no room */
    char *name;
    uint64_t identity; /* of what must be the same for the state to be kept */
    uint64_t quotas;   /* of the numbers that may change */
    int64_t window_ns;
    size_t references;
};

typedef struct {
    weir_key_shard_t shards[WEIR_KEY_SHARDS];
    weir_key_shard_t overflow;
    weir_store_t store;
    unsigned char secret[XXH3_SECRET_DEFAULT_SIZE];
    pthread_mutex_t registry; /* of limits and references */
    weir_store_limit_t *limits;
} memory_t;

/* Where an item is decided. */
typedef struct {
    void *state;
    bool is_new;
} place_t;

static memory_t *memory_of(const weir_store_t *store)
{
    return (memory_t *)((char *)store - offsetof(memory_t, store));
}

/* token_bucket */

static weir_token_bucket_quota_t bucket_quota(const weir_conf_quota_t *quota)
{
    return weir_token_bucket_quota(quota->rate.count, quota->rate.period_ns, quota->burst);
}

static bool bucket_fits(const void *state, const weir_store_item_t *item, int64_t now_ns)
{
    return weir_token_bucket_fits(state, bucket_quota(item->quota), item->cost, now_ns);
}

static weir_told_t bucket_settle(void *state, const weir_store_item_t *item, bool is_charged, int64_t now_ns)
{
    weir_token_bucket_quota_t quota = bucket_quota(item->quota);
    if (is_charged)
        weir_token_bucket_take(state, quota, item->cost, now_ns);
    return weir_token_bucket_tell(state, quota, item->admitted ? 0 : item->cost, now_ns);
}

static void bucket_put_back(void *state, const weir_store_item_t *item, int64_t now_ns)
{
    weir_token_bucket_put_back(state, bucket_quota(item->quota), item->cost, item->charged_ns, now_ns);
}

static bool bucket_is_free(const void *state, int64_t now_ns, const void *limit)
{
    return weir_token_bucket_is_full(state, now_ns);
}

/* The slowest rate that any key may have, but for those that are refused altogether. */
static uint64_t slowest_of(const weir_conf_limit_t *conf)
{
    uint64_t slowest = bucket_quota(&conf->quota).parts_per_ns;
    for (size_t i = 0; i < conf->tenants.size; ++i) {
        uint64_t rate = bucket_quota(&conf->tenants.entries[i].quota).parts_per_ns;
        if (rate != 0 && (rate < slowest || slowest == 0))
            slowest = rate;
    }
    return slowest;
}

static void bucket_change(void *state, int64_t now_ns, void *slowest)
{
    weir_token_bucket_settle(state, *(const uint64_t *)slowest, now_ns);
}

/* sliding_window */

static weir_sliding_window_quota_t window_quota(const weir_conf_quota_t *quota)
{
    return (weir_sliding_window_quota_t){.limit = quota->limit, .window_ns = quota->window_ns};
}

static bool window_fits(const void *state, const weir_store_item_t *item, int64_t now_ns)
{
    return weir_sliding_window_fits(state, window_quota(item->quota), item->cost, now_ns);
}

static weir_told_t window_settle(void *state, const weir_store_item_t *item, bool is_charged, int64_t now_ns)
{
    weir_sliding_window_quota_t quota = window_quota(item->quota);
    if (is_charged)
        weir_sliding_window_take(state, quota, item->cost, now_ns);
    return weir_sliding_window_tell(state, quota, item->admitted ? 0 : item->cost, now_ns);
}

static void window_put_back(void *state, const weir_store_item_t *item, int64_t now_ns)
{
    weir_sliding_window_put_back(state, window_quota(item->quota), item->cost, item->charged_ns);
}

static bool window_is_free(const void *state, int64_t now_ns, const void *limit)
{
    return weir_sliding_window_is_empty(state, ((const weir_store_limit_t *)limit)->window_ns, now_ns);
}

static const algorithm_t algorithms[] = {
    [WEIR_LIMIT_TOKEN_BUCKET] = {sizeof(weir_token_bucket_t), bucket_fits, bucket_settle, bucket_put_back,
                                 bucket_is_free, bucket_change},
    [WEIR_LIMIT_SLIDING_WINDOW] = {sizeof(weir_sliding_window_t), window_fits, window_settle, window_put_back,
                                   window_is_free, NULL},
};

/* Limits across configurations */

static uint64_t fold(uint64_t hash, const void *bytes, size_t len)
{
    return XXH3_64bits_withSeed(bytes, len, hash);
}

static uint64_t fold_number(uint64_t hash, int64_t number)
{
    return fold(hash, &number, sizeof(number));
}

static uint64_t fold_lower(uint64_t hash, const char *text)
{
    for (; *text != 0; ++text) {
        char byte = *text >= 'A' && *text <= 'Z' ? (char)(*text - 'A' + 'a') : *text;
        hash = fold(hash, &byte, 1);
    }
    return hash;
}

static uint64_t identity_of(const weir_conf_limit_t *conf)
{
    uint64_t hash = fold_number(0, conf->algorithm);
    hash = fold_number(hash, conf->quota.window_ns);
    for (size_t i = 0; i < conf->key.size; ++i) {
        hash = fold_number(hash, conf->key.entries[i].kind);
        if (conf->key.entries[i].header != NULL)
            hash = fold_lower(hash, conf->key.entries[i].header);
    }
    return hash;
}

static uint64_t fold_quota(uint64_t hash, const weir_conf_quota_t *quota)
{
    hash = fold_number(fold_number(hash, quota->rate.count), quota->rate.period_ns);
    return fold_number(fold_number(hash, quota->burst), quota->limit);
}

static uint64_t quotas_of(const weir_conf_limit_t *conf)
{
    uint64_t hash = fold_quota(0, &conf->quota);
    for (size_t i = 0; i < conf->tenants.size; ++i) {
        const weir_conf_override_t *override = &conf->tenants.entries[i];
        hash = fold_quota(fold(hash, override->tenant, strlen(override->tenant)), &override->quota);
    }
    return hash;
}

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

static weir_store_limit_t *limit_create(memory_t *memory, const weir_conf_limit_t *conf)
{
    weir_store_limit_t *limit = checked(calloc(1, sizeof(*limit)));
    const algorithm_t *algorithm = &algorithms[conf->algorithm];
    *limit = (weir_store_limit_t){
        .algorithm = algorithm,
        .overflow = checked(calloc(1, algorithm->state_bytes)),
        .name = checked(strdup(conf->name)),
        .identity = identity_of(conf),
        .quotas = quotas_of(conf),
        .window_ns = conf->quota.window_ns,
    };
    weir_key_table_rows_t rows = {algorithm->state_bytes, algorithm->is_free, limit};
    limit->table = weir_key_table_create(rows, (size_t)conf->max_keys, memory->shards);
    return limit;
}

static void limit_destroy(weir_store_limit_t *limit)
{
    weir_key_table_destroy(limit->table);
    free(limit->overflow);
    free(limit->name);
    free(limit);
}

/* Rows count on from here at the new quotas, with what they had under the old ones. */
static void limit_change(memory_t *memory, weir_store_limit_t *limit, const weir_conf_limit_t *conf)
{
    weir_key_table_resize(limit->table, (size_t)conf->max_keys);
    uint64_t quotas = quotas_of(conf);
    if (quotas == limit->quotas)
        return;
    limit->quotas = quotas;
    if (limit->algorithm->change == NULL)
        return;
    uint64_t slowest = slowest_of(conf);
    weir_key_table_each(limit->table, limit->algorithm->change, &slowest);
    pthread_mutex_lock(&memory->overflow.lock);
    limit->algorithm->change(limit->overflow, memory->overflow.now_ns, &slowest);
    pthread_mutex_unlock(&memory->overflow.lock);
}

/* Takes it out of the list. */
static weir_store_limit_t *unlink_limit(memory_t *memory, const char *name, uint64_t identity)
{
    for (weir_store_limit_t **at = &memory->limits; *at != NULL; at = &(*at)->next) {
        weir_store_limit_t *limit = *at;
        if (limit->identity == identity && strcmp(limit->name, name) == 0) {
            *at = limit->next;
            return limit;
        }
    }
    return NULL;
}

static weir_store_limit_t *limit_acquire(weir_store_t *store, const weir_conf_limit_t *conf)
{
    memory_t *memory = memory_of(store);
    pthread_mutex_lock(&memory->registry);
    weir_store_limit_t *limit = unlink_limit(memory, conf->name, identity_of(conf));
    if (limit == NULL)
        limit = limit_create(memory, conf);
    else
        limit_change(memory, limit, conf);
    limit->next = memory->limits; /* the newest of a name is the first */
    memory->limits = limit;
    ++limit->references;
    pthread_mutex_unlock(&memory->registry);
    return limit;
}

static void limit_release(weir_store_t *store, weir_store_limit_t *limit)
{
    memory_t *memory = memory_of(store);
    pthread_mutex_lock(&memory->registry);
    assert(limit->references != 0);
    if (--limit->references == 0) {
        unlink_limit(memory, limit->name, limit->identity);
        limit_destroy(limit);
    }
    pthread_mutex_unlock(&memory->registry);
}

static size_t limit_keys(weir_store_t *store, const char *name)
{
    memory_t *memory = memory_of(store);
    pthread_mutex_lock(&memory->registry);
    const weir_store_limit_t *limit = memory->limits;
    while (limit != NULL && strcmp(limit->name, name) != 0)
        limit = limit->next;
    size_t keys = limit != NULL ? weir_key_table_count(limit->table) : 0;
    pthread_mutex_unlock(&memory->registry);
    return keys;
}

/* Locks */

static weir_key_t table_key(const weir_store_item_t *item)
{
    return (weir_key_t){item->key.low, item->key.high};
}

static uint64_t shards_of(const weir_store_item_t *items, size_t count)
{
    uint64_t shards = 0;
    for (size_t i = 0; i < count; ++i)
        shards |= (uint64_t)1 << weir_key_shard(table_key(&items[i]));
    return shards;
}

/* Workers read the time once a turn, so one may come with an earlier time than another had: under a lock time does not
 * go back. Returns the latest of now_ns and what was seen. */
static int64_t lock_one(weir_key_shard_t *shard, int64_t now_ns)
{
    pthread_mutex_lock(&shard->lock);
    return shard->now_ns > now_ns ? shard->now_ns : now_ns;
}

static void unlock_one(weir_key_shard_t *shard, int64_t now_ns)
{
    shard->now_ns = now_ns;
    pthread_mutex_unlock(&shard->lock);
}

static int64_t lock_shards(memory_t *memory, uint64_t shards, int64_t now_ns)
{
    for (; shards != 0; shards &= shards - 1)
        now_ns = lock_one(&memory->shards[__builtin_ctzll(shards)], now_ns);
    return now_ns;
}

static void unlock_shards(memory_t *memory, uint64_t shards, int64_t now_ns)
{
    for (; shards != 0; shards &= shards - 1)
        unlock_one(&memory->shards[__builtin_ctzll(shards)], now_ns);
}

/* A decision: look at all, take all */

/* Returns whether any of them is the overflow row. */
static bool find_places(weir_store_item_t *items, place_t *places, size_t count, int64_t now_ns, uint64_t held)
{
    bool overflowed = false;
    for (size_t i = 0; i < count; ++i) {
        weir_store_limit_t *limit = items[i].limit;
        places[i].state = weir_key_table_find(limit->table, table_key(&items[i]));
        places[i].is_new = places[i].state == NULL;
        if (places[i].is_new)
            places[i].state = weir_key_table_insert(limit->table, table_key(&items[i]), now_ns, held);
        items[i].overflowed = places[i].state == NULL;
        if (items[i].overflowed)
            places[i] = (place_t){.state = limit->overflow};
        overflowed |= items[i].overflowed;
    }
    return overflowed;
}

static bool look(weir_store_item_t *items, const place_t *places, size_t count, int64_t now_ns)
{
    bool admitted = true;
    for (size_t i = 0; i < count; ++i) {
        weir_store_item_t *item = &items[i];
        item->admitted = item->limit->algorithm->fits(places[i].state, item, now_ns);
        admitted &= item->admitted || item->shadow;
    }
    return admitted;
}

/* `ahead_ns`: how much later now_ns is than the caller's time, from which he counts. */
static int64_t add_ahead(int64_t ns, int64_t ahead_ns)
{
    return ns > 0 && ns <= INT64_MAX - ahead_ns ? ns + ahead_ns : ns;
}

static void settle_item(weir_store_item_t *item, place_t place, bool is_charged, int64_t now_ns, int64_t ahead_ns)
{
    weir_told_t told = item->limit->algorithm->settle(place.state, item, is_charged, now_ns);
    item->charged_ns = is_charged ? now_ns : -1;
    item->remaining = told.remaining;
    item->reset_ns = add_ahead(told.reset_ns, ahead_ns);
    item->retry_after_ns = add_ahead(told.retry_after_ns, ahead_ns);
    if (place.is_new && !is_charged)
        weir_key_table_erase(item->limit->table, table_key(item));
}

static weir_store_answer_t decide(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t asked_ns,
                                  weir_ticket_t ticket, bool *admitted)
{
    memory_t *memory = memory_of(store);
    place_t places[WEIR_LIMITS_PER_ROUTE_MAX];
    assert(count <= WEIR_LIMITS_PER_ROUTE_MAX);
    uint64_t shards = shards_of(items, count);
    int64_t now_ns = lock_shards(memory, shards, asked_ns);
    bool overflowed = find_places(items, places, count, now_ns, shards);
    if (overflowed)
        now_ns = lock_one(&memory->overflow, now_ns);
    *admitted = look(items, places, count, now_ns);
    for (size_t i = 0; i < count; ++i)
        settle_item(&items[i], places[i], *admitted && items[i].admitted, now_ns, now_ns - asked_ns);
    if (overflowed)
        unlock_one(&memory->overflow, now_ns);
    unlock_shards(memory, shards, now_ns);
    return WEIR_STORE_DECIDED;
}

static void refund_item(memory_t *memory, const weir_store_item_t *item, int64_t now_ns)
{
    weir_key_t key = table_key(item);
    weir_key_shard_t *shard = item->overflowed ? &memory->overflow : &memory->shards[weir_key_shard(key)];
    now_ns = lock_one(shard, now_ns);
    void *state = item->overflowed ? item->limit->overflow : weir_key_table_find(item->limit->table, key);
    if (state != NULL) /* a row that went in between had nothing left to give back */
        item->limit->algorithm->put_back(state, item, now_ns);
    unlock_one(shard, now_ns);
}

static void refund(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    for (size_t i = 0; i < count; ++i)
        if (items[i].charged_ns >= 0)
            refund_item(memory_of(store), &items[i], now_ns);
}

/* The store */

static weir_store_key_t key_of(const weir_store_t *store, const void *parts, size_t len)
{
    XXH128_hash_t hash = XXH3_128bits_withSecret(parts, len, memory_of(store)->secret, XXH3_SECRET_DEFAULT_SIZE);
    return (weir_store_key_t){hash.low64, hash.high64};
}

static void destroy(weir_store_t *store)
{
    memory_t *memory = memory_of(store);
    while (memory->limits != NULL) {
        weir_store_limit_t *limit = memory->limits;
        memory->limits = limit->next;
        limit_destroy(limit);
    }
    pthread_mutex_destroy(&memory->registry);
    pthread_mutex_destroy(&memory->overflow.lock);
    weir_key_shards_dispose(memory->shards);
    free(memory);
}

weir_store_t *weir_memory_store_create(const uint8_t secret[64])
{
    memory_t *memory = checked(aligned_alloc(_Alignof(memory_t), sizeof(*memory)));
    memset(memory, 0, sizeof(*memory));
    XXH3_generateSecret(memory->secret, sizeof(memory->secret), secret, 64);
    weir_key_shards_init(memory->shards);
    pthread_mutex_init(&memory->overflow.lock, NULL);
    pthread_mutex_init(&memory->registry, NULL);
    memory->store = (weir_store_t){
        .limit_acquire = limit_acquire,
        .limit_release = limit_release,
        .key = key_of,
        .decide = decide,
        .refund = refund,
        .limit_keys = limit_keys,
        .destroy = destroy,
    };
    return &memory->store;
}

uint64_t weir_memory_store_bytes(const weir_conf_limit_t *limit)
{
    return sizeof(weir_store_limit_t) +
           weir_key_table_bytes(algorithms[limit->algorithm].state_bytes, (size_t)limit->max_keys);
}
