#include "redis_store.h"

#include <assert.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "redis_dedup.h"
#include "redis_limits.h"
#include "redis_look.h"

typedef struct {
    weir_store_t store;
    weir_store_t *memory;
    weir_remote_t *remote;
    weir_redis_limits_t limits;
    weir_redis_dedups_t dedups;
    char prefix[WEIR_REDIS_PREFIX_MAX + 1];
} redis_t;

static redis_t *redis_of(const weir_store_t *store)
{
    return (redis_t *)((char *)store - offsetof(redis_t, store));
}

static weir_str_t prefix_of(const redis_t *redis)
{
    return (weir_str_t){redis->prefix, strlen(redis->prefix)};
}

static weir_store_t *memory_of(const weir_store_t *store)
{
    return redis_of(store)->memory;
}

/* Keys: the same in all sidecars, and nobody can make two of one. */

static pthread_once_t hashes_once = PTHREAD_ONCE_INIT;
static pthread_key_t hash_key;
static EVP_MD *sha256;
static __thread EVP_MD_CTX *hash; /* this thread's */

static void free_hash(void *context)
{
    EVP_MD_CTX_free(context);
}

static void open_hashes(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    int error = pthread_key_create(&hash_key, free_hash);
    assert(sha256 != NULL && error == 0);
}

static __attribute__((noinline)) void open_hash(void)
{
    hash = EVP_MD_CTX_new();
    assert(hash != NULL);
    pthread_setspecific(hash_key, hash);
    int is_ready = EVP_DigestInit_ex2(hash, sha256, NULL);
    assert(is_ready);
}

static uint64_t read_word(const unsigned char *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return __builtin_bswap64(word);
}

static weir_store_key_t key_of(const weir_store_t *store, const void *parts, size_t len)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    if (hash == NULL)
        open_hash();
    int is_done = EVP_DigestInit_ex2(hash, NULL, NULL) && EVP_DigestUpdate(hash, parts, len) &&
                  EVP_DigestFinal_ex(hash, digest, NULL);
    assert(is_done);
    return (weir_store_key_t){.high = read_word(digest), .low = read_word(digest + sizeof(uint64_t))};
}

/* Limits */

static weir_store_limit_t *limit_acquire(weir_store_t *store, const weir_conf_limit_t *limit)
{
    return memory_of(store)->limit_acquire(memory_of(store), limit);
}

static void limit_release(weir_store_t *store, weir_store_limit_t *limit)
{
    memory_of(store)->limit_release(memory_of(store), limit);
}

static void tell_time(weir_store_t *store, int64_t now_ns)
{
    memory_of(store)->tell_time(memory_of(store), now_ns);
}

static weir_store_answer_t decide(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                  weir_ticket_t ticket, bool *admitted)
{
    return weir_redis_limits_decide(&redis_of(store)->limits, items, count, now_ns, ticket, admitted);
}

static void leave(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    memory_of(store)->leave(memory_of(store), items, count, now_ns);
}

static weir_store_answer_t collect(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                   weir_ticket_t ticket, bool *admitted)
{
    return weir_redis_limits_collect(&redis_of(store)->limits, items, count, now_ns, ticket, admitted);
}

static void abandon(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    weir_redis_limits_abandon(&redis_of(store)->limits, items, count, now_ns);
}

static void refund(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    weir_redis_limits_refund(&redis_of(store)->limits, items, count, now_ns);
}

static void settle(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns)
{
    weir_redis_limits_settle(&redis_of(store)->limits, items, count, now_ns);
}

static void peek(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    redis_t *redis = redis_of(store);
    weir_redis_look_t *look = weir_redis_look_current();
    weir_redis_limits_peek(&redis->limits, items, count, now_ns);
    for (size_t i = 0; look != NULL && i < count; ++i)
        if (!weir_redis_limits_is_in_memory(&items[i]))
            weir_redis_look_peek(look, prefix_of(redis), &items[i]);
}

static bool reset(weir_store_t *store, const weir_store_item_t *item, int64_t now_ns)
{
    redis_t *redis = redis_of(store);
    weir_redis_look_t *look = weir_redis_look_current();
    bool is_here = weir_redis_limits_is_in_memory(item) || item->limit->algorithm == WEIR_LIMIT_CONCURRENCY;
    if (look == NULL || is_here)
        return weir_redis_limits_reset(&redis->limits, item, now_ns);
    (void)redis->memory->reset(redis->memory, item, now_ns); /* of a sidecar's share, too */
    return weir_redis_look_reset(look, prefix_of(redis), item);
}

static size_t limit_keys(weir_store_t *store, const char *name)
{
    return memory_of(store)->limit_keys(memory_of(store), name);
}

static void queue_depth(weir_store_t *store, const char *name, size_t depth[WEIR_LANES])
{
    memory_of(store)->queue_depth(memory_of(store), name, depth);
}

static bool wants_name(weir_store_t *store, const weir_store_item_t *item, unsigned used_permille, int64_t now_ns)
{
    return memory_of(store)->wants_name(memory_of(store), item, used_permille, now_ns);
}

static void note_name(weir_store_t *store, const weir_store_item_t *item, unsigned used_permille, int64_t now_ns,
                      const char *name, size_t len)
{
    const weir_store_limit_t *limit = item->limit;
    if (weir_redis_limits_is_in_memory(item))
        memory_of(store)->note_name(memory_of(store), item, used_permille, now_ns, name, len);
    else
        weir_memory_names_note_told(&limit->limit->names, item, limit->generation, used_permille, now_ns, name, len);
}

static size_t closest(weir_store_t *store, const char *name, int64_t now_ns,
                      weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX])
{
    return memory_of(store)->closest(memory_of(store), name, now_ns, closest);
}

/* Dedups */

static weir_store_dedup_t *dedup_acquire(weir_store_t *store, const weir_conf_dedup_t *conf)
{
    return weir_redis_dedups_acquire(&redis_of(store)->dedups, conf);
}

static void dedup_release(weir_store_t *store, weir_store_dedup_t *dedup)
{
    weir_redis_dedups_release(&redis_of(store)->dedups, dedup);
}

static weir_store_claim_told_t claim(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns)
{
    return weir_redis_dedups_claim(&redis_of(store)->dedups, claim, now_ns);
}

static weir_store_claim_told_t claim_collect(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns)
{
    return weir_redis_dedups_collect(&redis_of(store)->dedups, claim, now_ns);
}

static void claim_abandon(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns)
{
    weir_redis_dedups_abandon(&redis_of(store)->dedups, claim, now_ns);
}

static weir_store_claim_told_t claim_peek(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns)
{
    weir_redis_look_t *look = weir_redis_look_current();
    return look != NULL ? weir_redis_look_claim(look, &redis_of(store)->dedups, claim) : weir_redis_dedups_peek(claim, now_ns);
}

static bool claim_renew(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    return weir_redis_dedups_renew(&redis_of(store)->dedups, claim, now_ns);
}

static void claim_commit(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    weir_redis_dedups_commit(&redis_of(store)->dedups, claim, now_ns);
}

static void claim_forget(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    weir_redis_dedups_forget(&redis_of(store)->dedups, claim, now_ns);
}

static void claim_lose(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns)
{
    weir_redis_dedups_lose(&redis_of(store)->dedups, claim, now_ns);
}

static bool dedup_reset(weir_store_t *store, weir_store_dedup_t *dedup, weir_store_key_t key, int64_t now_ns)
{
    weir_redis_dedups_t *dedups = &redis_of(store)->dedups;
    weir_redis_look_t *look = weir_redis_look_current();
    return look != NULL ? weir_redis_look_drop(look, dedups, dedup, key) : weir_redis_dedups_reset(dedups, dedup, key, now_ns);
}

static bool dedup_tell(weir_store_t *store, const char *name, int64_t now_ns, weir_store_dedup_told_t *told)
{
    return weir_redis_dedups_tell(&redis_of(store)->dedups, name, told);
}

static void dedup_tidy(weir_store_t *store, int64_t now_ns)
{
}

/* Pages */

/* An operator waits longer than a request. */
static weir_store_look_t *look_open(weir_store_t *store, void (*on_told)(void *context), void *context)
{
    return weir_redis_look_open(redis_of(store)->remote, 5 * store->timeout_ns, on_told, context);
}

/* The store */

static void on_tick(void *context, size_t worker, int64_t now_ns)
{
    redis_t *redis = context;
    weir_redis_limits_tick(&redis->limits, worker, now_ns);
    weir_redis_dedups_tick(&redis->dedups, worker, now_ns);
}

static size_t owed(void *context, size_t worker)
{
    return weir_redis_dedups_owed(&((redis_t *)context)->dedups, worker);
}

static void destroy(weir_store_t *store)
{
    redis_t *redis = redis_of(store);
    redis->remote->on_tick = NULL;
    redis->remote->owed = NULL;
    weir_redis_limits_dispose(&redis->limits);
    weir_redis_dedups_dispose(&redis->dedups);
    redis->memory->destroy(redis->memory);
    free(redis);
}

weir_store_t *weir_redis_store_create(const weir_conf_store_redis_t *conf, weir_remote_t *remote, const uint8_t secret[64],
                                      weir_store_teller_t teller)
{
    redis_t *redis = calloc(1, sizeof(*redis));
    assert(redis != NULL && strlen(conf->prefix) <= WEIR_REDIS_PREFIX_MAX);
    pthread_once(&hashes_once, open_hashes);
    redis->remote = remote;
    redis->memory = weir_memory_store_create(secret, teller);
    strcpy(redis->prefix, conf->prefix);
    weir_str_t prefix = {redis->prefix, strlen(redis->prefix)};
    weir_redis_limits_init(&redis->limits, remote, redis->memory, prefix, conf->timeout_ns);
    redis->limits.leases = weir_redis_leases_create(conf, remote, prefix);
    weir_redis_dedups_init(&redis->dedups, remote, redis->prefix, conf->claim_timeout_ns, teller);
    remote->on_tick = on_tick;
    remote->owed = owed;
    remote->tick_context = redis;
    redis->store = (weir_store_t){
        .is_shared = true,
        .limit_acquire = limit_acquire,
        .limit_release = limit_release,
        .tell_time = tell_time,
        .key = key_of,
        .decide = decide,
        .leave = leave,
        .timeout_ns = conf->timeout_ns,
        .collect = collect,
        .abandon = abandon,
        .refund = refund,
        .settle = settle,
        .peek = peek,
        .reset = reset,
        .limit_keys = limit_keys,
        .queue_depth = queue_depth,
        .wants_name = wants_name,
        .note_name = note_name,
        .closest = closest,
        .dedup_acquire = dedup_acquire,
        .dedup_release = dedup_release,
        .claim = claim,
        .claim_collect = claim_collect,
        .claim_abandon = claim_abandon,
        .claim_peek = claim_peek,
        .claim_renew = claim_renew,
        .claim_commit = claim_commit,
        .claim_forget = claim_forget,
        .claim_lose = claim_lose,
        .dedup_reset = dedup_reset,
        .dedup_tell = dedup_tell,
        .dedup_tidy = dedup_tidy,
        .look_open = look_open,
        .look_use = weir_redis_look_use,
        .look_close = weir_redis_look_close,
        .destroy = destroy,
    };
    return &redis->store;
}
