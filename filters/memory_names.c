#include "memory_names.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Where nobody knows when all is there again, as of slots. */
#define TOLD_FOR_NS WEIR_CLOSEST_STALE_NS

/* Stands beside a name. */
typedef struct {
    weir_conf_quota_t quota;
    uint64_t generation;
    int64_t remaining, reset_at_ns; /* as it was told; reset_at_ns 0: its row says how it is */
} noted_t;

static weir_closest_t *closest_of(weir_memory_names_t *names)
{
    return atomic_load_explicit(&names->closest, memory_order_acquire);
}

static weir_closest_t *create_once(weir_memory_names_t *names)
{
    weir_closest_t *none = NULL, *closest = weir_closest_create();
    if (atomic_compare_exchange_strong_explicit(&names->closest, &none, closest, memory_order_acq_rel,
                                                memory_order_acquire))
        return closest;
    weir_closest_destroy(closest); /* another thread was faster */
    return none;
}

void weir_memory_names_dispose(weir_memory_names_t *names)
{
    weir_closest_destroy(closest_of(names));
}

bool weir_memory_names_want(weir_memory_names_t *names, const weir_store_item_t *item, unsigned used_permille,
                            int64_t now_ns)
{
    weir_closest_t *closest = closest_of(names);
    weir_key_t key = {item->key.low, item->key.high};
    return !item->overflowed && (closest == NULL || weir_closest_wants(closest, key, used_permille, now_ns));
}

static void note(weir_memory_names_t *names, const weir_store_item_t *item, const noted_t *noted, unsigned used_permille,
                 int64_t now_ns, const char *name, size_t len)
{
    _Static_assert(sizeof(noted_t) <= WEIR_CLOSEST_EXTRA_BYTES, "a key's quota stands beside its name");
    weir_closest_t *closest = closest_of(names);
    weir_key_t key = {item->key.low, item->key.high};
    if (closest == NULL)
        closest = create_once(names);
    weir_closest_note(closest, key, used_permille, now_ns, name, len, noted, sizeof(*noted));
}

void weir_memory_names_note(weir_memory_names_t *names, const weir_store_item_t *item, uint64_t generation,
                            unsigned used_permille, int64_t now_ns, const char *name, size_t len)
{
    note(names, item, &(noted_t){.quota = *item->quota, .generation = generation}, used_permille, now_ns, name, len);
}

void weir_memory_names_note_told(weir_memory_names_t *names, const weir_store_item_t *item, uint64_t generation,
                                 unsigned used_permille, int64_t now_ns, const char *name, size_t len)
{
    int64_t reset_ns = item->reset_ns >= 0 ? item->reset_ns : TOLD_FOR_NS;
    noted_t noted = {.quota = *item->quota,
                     .generation = generation,
                     .remaining = item->remaining,
                     .reset_at_ns = now_ns + reset_ns + 1};
    note(names, item, &noted, used_permille, now_ns, name, len);
}

void weir_memory_names_forget(weir_memory_names_t *names)
{
    if (closest_of(names) != NULL)
        weir_closest_forget(closest_of(names));
}

/* The closest */

static weir_told_t tell(const weir_rows_t *rows, const weir_key_table_t *table, weir_key_shard_t *shard, weir_key_t key,
                        const weir_conf_quota_t *quota, int64_t now_ns)
{
    _Alignas(8) unsigned char unseen[WEIR_ROWS_STATE_BYTES_MAX] = {0};
    weir_rows_terms_t terms = {.quota = quota};
    pthread_mutex_lock(&shard->lock);
    void *state = weir_key_table_find(table, key);
    weir_told_t told =
        rows->tell(rows, state != NULL ? state : unseen, &terms, 0, 0, now_ns > shard->now_ns ? now_ns : shard->now_ns);
    pthread_mutex_unlock(&shard->lock);
    return told;
}

/* What was told some time ago; it is all there again, after that. */
static weir_told_t told_then(const noted_t *noted, int64_t now_ns)
{
    if (now_ns >= noted->reset_at_ns)
        return (weir_told_t){.remaining = weir_store_quota_size(&noted->quota)};
    return (weir_told_t){.remaining = noted->remaining, .reset_ns = noted->reset_at_ns - now_ns};
}

static bool is_closer(const weir_store_closest_t *a, const weir_store_closest_t *b)
{
    return (__int128)a->remaining * b->quota < (__int128)b->remaining * a->quota;
}

/* Puts it where it belongs; beyond the last place nothing is kept. Returns how many there are then. */
static size_t insert(weir_store_closest_t *closest, size_t count, const weir_store_closest_t *close)
{
    if (count == WEIR_STORE_CLOSEST_MAX && !is_closer(close, &closest[--count]))
        return WEIR_STORE_CLOSEST_MAX;
    size_t at = count;
    for (; at != 0 && is_closer(close, &closest[at - 1]); --at)
        closest[at] = closest[at - 1];
    closest[at] = *close;
    return count + 1;
}

size_t weir_memory_names_closest(weir_memory_names_t *names, const weir_rows_t *rows, const weir_key_table_t *table,
                                 weir_key_shard_t *shards, uint64_t generation, int64_t now_ns,
                                 weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX])
{
    if (closest_of(names) == NULL)
        return 0;
    weir_closest_key_t *keys = malloc(WEIR_CLOSEST_PLACES * sizeof(*keys));
    assert(keys != NULL);
    size_t known = weir_closest_list(closest_of(names), keys), count = 0;
    for (size_t i = 0; i < known; ++i) {
        noted_t noted;
        memcpy(&noted, keys[i].extra, sizeof(noted));
        if (noted.generation != generation)
            continue;
        weir_told_t told = noted.reset_at_ns != 0
                               ? told_then(&noted, now_ns)
                               : tell(rows, table, &shards[weir_key_shard(keys[i].key)], keys[i].key, &noted.quota, now_ns);
        weir_store_closest_t close = {
            .quota = weir_store_quota_size(&noted.quota), .remaining = told.remaining, .reset_ns = told.reset_ns};
        memcpy(close.name, keys[i].name, sizeof(close.name));
        if (close.remaining < close.quota)
            count = insert(closest, count, &close);
    }
    free(keys);
    return count;
}
