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

static uint64_t quotas_of(const weir_conf_limit_t *conf)
{
    uint64_t hash = fold_quota(0, &conf->quota);
    for (size_t i = 0; i < conf->tenants.size; ++i) {
        const weir_conf_override_t *override = &conf->tenants.entries[i];
        hash = fold_quota(fold(hash, override->tenant, strlen(override->tenant)), &override->quota);
    }
    return hash;
}

/* Its life */

static bool is_free(const void *state, int64_t now_ns, const void *context)
{
    const weir_store_limit_t *limit = context;
    return limit->rows->is_free(limit->rows, state, limit->window_ns, now_ns);
}

static weir_store_limit_t *limit_create(const weir_conf_limit_t *conf, weir_key_shard_t *shards)
{
    weir_store_limit_t *limit = checked(calloc(1, sizeof(*limit)));
    limit->rows = weir_rows_of(conf);
    limit->overflow = checked(calloc(1, limit->rows->state_bytes));
    limit->name = checked(strdup(conf->name));
    limit->identity = identity_of(conf);
    limit->quotas = quotas_of(conf);
    limit->window_ns = conf->quota.window_ns;
    weir_memory_queue_init(&limit->queue);
    weir_memory_queue_resize(&limit->queue, conf);
    weir_key_table_rows_t rows = {limit->rows->state_bytes, is_free, limit, limit->rows->dispose};
    limit->table = weir_key_table_create(rows, (size_t)conf->max_keys, shards);
    return limit;
}

static void limit_destroy(weir_store_limit_t *limit)
{
    weir_key_table_destroy(limit->table);
    if (limit->rows->dispose != NULL)
        limit->rows->dispose(limit->overflow);
    weir_memory_queue_dispose(&limit->queue);
    weir_memory_names_dispose(&limit->names);
    free(limit->overflow);
    free(limit->name);
    free(limit);
}

typedef struct {
    weir_store_limit_t *limit;
    const weir_conf_limit_t *conf;
    uint64_t slowest;
    weir_memory_news_t *news;
} change_t;

static void change_row(void *state, int64_t now_ns, void *data)
{
    const change_t *change = data;
    const weir_rows_t *rows = change->limit->rows;
    if (rows->are_slots)
        weir_memory_queue_change(&change->limit->queue, state, change->conf, change->news);
    else
        rows->change(rows, state, change->slowest, now_ns);
}

static void limit_change(weir_store_limit_t *limit, const weir_conf_limit_t *conf, weir_key_shard_t *overflow,
                         weir_memory_news_t *news)
{
    change_t change = {.limit = limit, .conf = conf, .news = news};
    uint64_t quotas = quotas_of(conf);
    weir_key_table_resize(limit->table, (size_t)conf->max_keys);
    weir_memory_queue_resize(&limit->queue, conf);
    if (quotas == limit->quotas)
        return;
    limit->quotas = quotas;
    if (limit->rows->change != NULL)
        change.slowest = weir_rows_slowest(conf);
    else if (!limit->rows->are_slots)
        return;
    weir_key_table_each(limit->table, change_row, &change);
    pthread_mutex_lock(&overflow->lock);
    change_row(limit->overflow, overflow->now_ns, &change);
    pthread_mutex_unlock(&overflow->lock);
}

/* All of them */

void weir_memory_limits_init(weir_memory_limits_t *limits)
{
    pthread_mutex_init(&limits->lock, NULL);
    limits->newest = NULL;
}

void weir_memory_limits_dispose(weir_memory_limits_t *limits)
{
    while (limits->newest != NULL) {
        weir_store_limit_t *limit = limits->newest;
        limits->newest = limit->next;
        limit_destroy(limit);
    }
    pthread_mutex_destroy(&limits->lock);
}

/* Takes it out of the list. */
static weir_store_limit_t *unlink_limit(weir_memory_limits_t *limits, const char *name, uint64_t identity)
{
    for (weir_store_limit_t **at = &limits->newest; *at != NULL; at = &(*at)->next) {
        weir_store_limit_t *limit = *at;
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
    weir_store_limit_t *limit = unlink_limit(limits, conf->name, identity_of(conf));
    if (limit == NULL)
        limit = limit_create(conf, shards);
    else
        limit_change(limit, conf, overflow, news);
    limit->next = limits->newest;
    limits->newest = limit;
    ++limit->references;
    pthread_mutex_unlock(&limits->lock);
    return limit;
}

void weir_memory_limits_release(weir_memory_limits_t *limits, weir_store_limit_t *limit)
{
    pthread_mutex_lock(&limits->lock);
    assert(limit->references != 0);
    if (--limit->references == 0) {
        unlink_limit(limits, limit->name, limit->identity);
        limit_destroy(limit);
    }
    pthread_mutex_unlock(&limits->lock);
}

weir_store_limit_t *weir_memory_limits_hold(weir_memory_limits_t *limits, const char *name)
{
    pthread_mutex_lock(&limits->lock);
    weir_store_limit_t *limit = limits->newest;
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
    return sizeof(weir_store_limit_t) + WEIR_MEMORY_NAMES_BYTES +
           weir_key_table_bytes(weir_rows_of(conf)->state_bytes, max_keys) + max_keys * weir_rows_bytes_elsewhere(conf);
}
