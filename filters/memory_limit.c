#include "memory_limit.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* What is the same */

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
    hash = fold_number(fold_number(hash, conf->precision), conf->unit);
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

static uint64_t numbers_of(const weir_conf_limit_t *conf)
{
    uint64_t hash = fold_number(fold_number(0, conf->scope), conf->on_failure);
    hash = fold_quota(hash, &conf->quota);
    for (size_t i = 0; i < conf->tenants.size; ++i) {
        const weir_conf_override_t *override = &conf->tenants.entries[i];
        hash = fold_quota(fold(hash, override->tenant, strlen(override->tenant)), &override->quota);
    }
    return hash;
}

/* Quotas, by value */

/* One piece of memory: names come after the overrides. */
static weir_conf_limit_t *quotas_create(const weir_conf_limit_t *conf)
{
    size_t count = conf->tenants.size, bytes = sizeof(*conf) + count * sizeof(weir_conf_override_t);
    for (size_t i = 0; i < count; ++i)
        bytes += strlen(conf->tenants.entries[i].tenant) + 1;
    weir_conf_limit_t *quotas = checked(malloc(bytes));
    weir_conf_override_t *overrides = (weir_conf_override_t *)(quotas + 1);
    char *names = (char *)(overrides + count);
    for (size_t i = 0; i < count; ++i) {
        const weir_conf_override_t *override = &conf->tenants.entries[i];
        overrides[i] = (weir_conf_override_t){.tenant = names, .quota = override->quota};
        names = stpcpy(names, override->tenant) + 1;
    }
    *quotas = (weir_conf_limit_t){.algorithm = conf->algorithm,
                                  .precision = conf->precision,
                                  .unit = conf->unit,
                                  .scope = conf->scope,
                                  .on_failure = conf->on_failure,
                                  .quota = conf->quota};
    quotas->tenants.entries = overrides;
    quotas->tenants.size = count;
    return quotas;
}

static void set_quotas(weir_memory_limit_t *limit, const weir_conf_limit_t *conf)
{
    limit->quotas = quotas_create(conf);
    limit->numbers = numbers_of(conf);
    weir_rows_bounds_set(&limit->bounds, limit->quotas);
    weir_memory_queue_set_quotas(&limit->queue, limit->quotas);
}

/* Its life */

static bool is_free(const void *state, int64_t now_ns, const void *context)
{
    const weir_memory_limit_t *limit = context;
    return limit->rows->is_free(limit->rows, state, limit->window_ns, now_ns);
}

static weir_memory_limit_t *limit_create(const weir_conf_limit_t *conf, weir_key_shard_t *shards)
{
    weir_memory_limit_t *limit = checked(calloc(1, sizeof(*limit)));
    limit->rows = weir_rows_of(conf);
    limit->overflow = checked(calloc(1, limit->rows->state_bytes));
    limit->name = checked(strdup(conf->name));
    limit->identity = identity_of(conf);
    limit->window_ns = conf->quota.window_ns;
    weir_memory_queue_init(&limit->queue);
    weir_memory_queue_resize(&limit->queue, conf);
    set_quotas(limit, conf);
    weir_key_table_rows_t rows = {limit->rows->state_bytes, is_free, limit, limit->rows->dispose};
    limit->table = weir_key_table_create(rows, (size_t)conf->max_keys, shards);
    return limit;
}

static void limit_destroy(weir_memory_limit_t *limit)
{
    while (limit->handles != NULL) {
        weir_store_limit_t *handle = limit->handles;
        limit->handles = handle->next;
        free(handle);
    }
    weir_key_table_destroy(limit->table);
    if (limit->rows->dispose != NULL)
        limit->rows->dispose(limit->overflow);
    weir_memory_queue_dispose(&limit->queue);
    weir_memory_names_dispose(&limit->names);
    free(limit->quotas);
    free(limit->overflow);
    free(limit->name);
    free(limit);
}

/* Of the quotas in force. */
static weir_store_limit_t *handle_acquire(weir_memory_limit_t *limit)
{
    weir_store_limit_t *handle = limit->handles;
    if (handle == NULL || handle->generation != limit->generation) {
        handle = checked(malloc(sizeof(*handle)));
        *handle = (weir_store_limit_t){.limit = limit,
                                       .rows = limit->rows,
                                       .table = limit->table,
                                       .overflow = limit->overflow,
                                       .generation = limit->generation,
                                       .name = limit->name,
                                       .algorithm = limit->quotas->algorithm,
                                       .precision = limit->quotas->precision,
                                       .unit = limit->quotas->unit,
                                       .on_failure = limit->quotas->on_failure,
                                       .is_shared = limit->quotas->scope == WEIR_SCOPE_SHARED,
                                       .next = limit->handles};
        limit->handles = handle;
    }
    ++handle->references;
    return handle;
}

static void handle_release(weir_memory_limit_t *limit, weir_store_limit_t *handle)
{
    assert(handle->references != 0);
    if (--handle->references != 0)
        return;
    weir_store_limit_t **at = &limit->handles;
    while (*at != handle)
        at = &(*at)->next;
    *at = handle->next;
    free(handle);
}

/* A change */

typedef struct {
    weir_memory_limit_t *limit;
    weir_store_limit_t *old; /* the handle that was of the quotas in force; NULL: there is none */
    weir_rows_rates_t *rates;
    int64_t now_ns;
    weir_memory_news_t *news;
} change_t;

static void change_row(void *state, void *data)
{
    const change_t *change = data;
    const weir_rows_t *rows = change->limit->rows;
    if (rows->are_slots)
        weir_memory_queue_change(&change->limit->queue, state, change->news);
    else if (rows->change != NULL)
        rows->change(rows, state, change->rates, change->now_ns);
}

/* What is changed at a time is not used before it. */
static void lock_at(weir_key_shard_t *shard, change_t *change)
{
    pthread_mutex_lock(&shard->lock);
    if (shard->now_ns < change->now_ns)
        shard->now_ns = change->now_ns;
    else
        change->now_ns = shard->now_ns;
}

static void change_rows(change_t *change, weir_key_shard_t *shards, weir_key_shard_t *overflow)
{
    for (unsigned s = 0; s < WEIR_KEY_SHARDS; ++s) {
        lock_at(&shards[s], change);
        weir_key_table_each(change->limit->table, s, change_row, change);
        if (change->old != NULL)
            atomic_fetch_or_explicit(&change->old->is_old, (uint64_t)1 << s, memory_order_relaxed);
        pthread_mutex_unlock(&shards[s].lock);
    }
    lock_at(overflow, change);
    change_row(change->limit->overflow, change);
    if (change->old != NULL)
        atomic_store_explicit(&change->old->is_old_in_overflow, true, memory_order_relaxed);
    pthread_mutex_unlock(&overflow->lock);
}

static int64_t later(weir_key_shard_t *shard, int64_t ns)
{
    pthread_mutex_lock(&shard->lock);
    int64_t now_ns = shard->now_ns;
    pthread_mutex_unlock(&shard->lock);
    return now_ns > ns ? now_ns : ns;
}

static int64_t latest(int64_t told_ns, weir_key_shard_t *shards, weir_key_shard_t *overflow)
{
    int64_t ns = later(overflow, told_ns);
    for (unsigned s = 0; s < WEIR_KEY_SHARDS; ++s)
        ns = later(&shards[s], ns);
    return ns;
}

static void limit_change(weir_memory_limit_t *limit, const weir_conf_limit_t *conf, int64_t told_ns,
                         weir_key_shard_t *shards, weir_key_shard_t *overflow, weir_memory_news_t *news)
{
    weir_key_table_resize(limit->table, (size_t)conf->max_keys);
    weir_memory_queue_resize(&limit->queue, conf);
    if (numbers_of(conf) == limit->numbers)
        return;
    weir_conf_limit_t *before = limit->quotas;
    bool has_handle = limit->handles != NULL && limit->handles->generation == limit->generation;
    change_t change = {.limit = limit, .old = has_handle ? limit->handles : NULL, .news = news};
    set_quotas(limit, conf);
    if (limit->rows->change != NULL)
        change.rates = weir_rows_rates_create(before, limit->quotas);
    ++limit->generation;
    change.now_ns = latest(told_ns, shards, overflow);
    change_rows(&change, shards, overflow);
    weir_memory_names_forget(&limit->names);
    weir_rows_rates_destroy(change.rates);
    free(before);
}

/* All of them */

void weir_memory_limits_init(weir_memory_limits_t *limits)
{
    pthread_mutex_init(&limits->lock, NULL);
    limits->newest = NULL;
    limits->told_ns = 0;
}

void weir_memory_limits_dispose(weir_memory_limits_t *limits)
{
    while (limits->newest != NULL) {
        weir_memory_limit_t *limit = limits->newest;
        limits->newest = limit->next;
        limit_destroy(limit);
    }
    pthread_mutex_destroy(&limits->lock);
}

/* Takes it out of the list. */
static weir_memory_limit_t *unlink_limit(weir_memory_limits_t *limits, const char *name, uint64_t identity)
{
    for (weir_memory_limit_t **at = &limits->newest; *at != NULL; at = &(*at)->next) {
        weir_memory_limit_t *limit = *at;
        if (limit->identity == identity && strcmp(limit->name, name) == 0) {
            *at = limit->next;
            return limit;
        }
    }
    return NULL;
}

weir_store_limit_t *weir_memory_limits_acquire(weir_memory_limits_t *limits, const weir_conf_limit_t *conf,
                                               weir_key_shard_t *shards, weir_key_shard_t *overflow,
                                               weir_memory_news_t *news)
{
    pthread_mutex_lock(&limits->lock);
    weir_memory_limit_t *limit = unlink_limit(limits, conf->name, identity_of(conf));
    if (limit == NULL)
        limit = limit_create(conf, shards);
    else
        limit_change(limit, conf, limits->told_ns, shards, overflow, news);
    limit->next = limits->newest;
    limits->newest = limit;
    weir_store_limit_t *handle = handle_acquire(limit);
    pthread_mutex_unlock(&limits->lock);
    return handle;
}

void weir_memory_limits_release(weir_memory_limits_t *limits, weir_store_limit_t *handle)
{
    weir_memory_limit_t *limit = handle->limit;
    pthread_mutex_lock(&limits->lock);
    handle_release(limit, handle);
    if (limit->handles == NULL) {
        unlink_limit(limits, limit->name, limit->identity);
        limit_destroy(limit);
    }
    pthread_mutex_unlock(&limits->lock);
}

void weir_memory_limits_tell_time(weir_memory_limits_t *limits, int64_t now_ns)
{
    pthread_mutex_lock(&limits->lock);
    if (now_ns > limits->told_ns)
        limits->told_ns = now_ns;
    pthread_mutex_unlock(&limits->lock);
}

weir_memory_limit_t *weir_memory_limits_hold(weir_memory_limits_t *limits, const char *name)
{
    pthread_mutex_lock(&limits->lock);
    weir_memory_limit_t *limit = limits->newest;
    while (limit != NULL && strcmp(limit->name, name) != 0)
        limit = limit->next;
    return limit;
}

void weir_memory_limits_let_go(weir_memory_limits_t *limits)
{
    pthread_mutex_unlock(&limits->lock);
}

uint64_t weir_memory_limit_bytes(const weir_conf_limit_t *conf)
{
    size_t max_keys = (size_t)conf->max_keys;
    return sizeof(weir_memory_limit_t) + sizeof(weir_store_limit_t) + WEIR_MEMORY_NAMES_BYTES +
           weir_key_table_bytes(weir_rows_of(conf)->state_bytes, max_keys) + max_keys * weir_rows_bytes_elsewhere(conf);
}
