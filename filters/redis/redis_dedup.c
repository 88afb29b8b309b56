#include "redis_dedup.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../core/decimal.h"
#include "../core/hex.h"
#include "redis_dedup_parts.h"

enum { KEY_DIGITS = 32, PREFIX_MAX = 64 };

/* A waiter asks again much sooner. */
static const int64_t FOR_WAITERS_NS = 5000000000;

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* --- texts --- */

static char *put(char *at, const char *text)
{
    return stpcpy(at, text);
}

void weir_redis_names_of(weir_redis_names_t *names, const weir_redis_dedups_t *dedups, const weir_redis_dedup_t *dedup,
                         weir_store_key_t key)
{
    static const char *const kinds[] = {"}:d:", "}:a:"};
    char tag[KEY_DIGITS + 1];
    *weir_hex_write(weir_hex_write(tag, key.high, KEY_DIGITS / 2), key.low, KEY_DIGITS / 2) = '\0';
    for (size_t i = 0; i < 2; ++i) {
        char *at = put(put(put(put(put(names->text[i], dedups->prefix), "{"), tag), kinds[i]), dedup->name);
        names->names[i] = (weir_str_t){names->text[i], (size_t)(at - names->text[i])};
    }
}

void weir_redis_bitmaps_of(weir_redis_names_t *names, const weir_redis_dedups_t *dedups, const weir_redis_dedup_t *dedup)
{
    char text[WEIR_REDIS_NUMBER_MAX];
    weir_str_t window = weir_redis_ms_text(text, atomic_load(&dedup->window_ns));
    for (unsigned i = 0; i < 2; ++i) {
        int len = snprintf(names->text[i], sizeof(names->text[i]), "%s{bloom:%s:%llu:%u:%.*s}:%u", dedups->prefix, dedup->name,
                           (unsigned long long)dedup->bloom.bits, dedup->bloom.hashes, (int)window.len, window.base, i);
        names->names[i] = (weir_str_t){names->text[i], (size_t)len};
    }
}

weir_str_t weir_redis_number_text(char text[WEIR_REDIS_NUMBER_MAX], uint64_t number)
{
    return (weir_str_t){text, (size_t)(weir_decimal_write(text, number) - text)};
}

weir_str_t weir_redis_ms_text(char text[WEIR_REDIS_NUMBER_MAX], int64_t ns)
{
    return weir_redis_number_text(text, ns > 0 ? ((uint64_t)ns + 999999) / 1000000 : 1);
}

weir_str_t weir_redis_fingerprint_text(char text[WEIR_REDIS_NUMBER_MAX], uint64_t fingerprint)
{
    if (fingerprint == 0)
        return (weir_str_t){"0", 1};
    return (weir_str_t){text, (size_t)(weir_hex_write(text, fingerprint, 16) - text)};
}

/* 16 hex digits of the sidecar, a dash, and the owner's number. */
weir_str_t weir_redis_owner_text(char text[WEIR_REDIS_OWNER_MAX], const weir_redis_dedups_t *dedups, uint64_t owner)
{
    char *at = weir_hex_write(text, dedups->remote->sidecar, 16);
    *at++ = '-';
    return (weir_str_t){text, (size_t)(weir_decimal_write(at, owner) - text)};
}

uint64_t weir_redis_owner_parse(const weir_redis_dedups_t *dedups, weir_str_t text)
{
    char own[WEIR_REDIS_OWNER_MAX];
    size_t prefix = weir_redis_owner_text(own, dedups, 0).len - 1;
    uint64_t owner = 0;
    if (text.len <= prefix || text.len > prefix + 19 || memcmp(text.base, own, prefix) != 0)
        return 0;
    for (size_t i = prefix; i < text.len; ++i) {
        if (text.base[i] < '0' || text.base[i] > '9')
            return 0;
        owner = owner * 10 + (uint64_t)(text.base[i] - '0');
    }
    return owner;
}

/* --- dedups --- */

void weir_redis_dedups_init(weir_redis_dedups_t *dedups, weir_remote_t *remote, const char *prefix, int64_t claim_timeout_ns,
                            weir_store_teller_t teller)
{
    assert(strlen(prefix) <= PREFIX_MAX);
    *dedups = (weir_redis_dedups_t){.remote = remote, .prefix = prefix, .timeout_ns = claim_timeout_ns, .teller = teller};
    weir_redis_running_init(&dedups->running);
    pthread_mutex_init(&dedups->lock, NULL);
    dedups->workers = checked(aligned_alloc(_Alignof(weir_redis_claims_t), remote->workers * sizeof(*dedups->workers)));
    for (size_t i = 0; i < remote->workers; ++i)
        weir_redis_owners_init(&dedups->workers[i]);
}

static void dedup_destroy(weir_redis_dedup_t *dedup)
{
    free(dedup->name);
    free(dedup);
}

void weir_redis_dedups_dispose(weir_redis_dedups_t *dedups)
{
    for (size_t i = 0; i < dedups->remote->workers; ++i)
        weir_redis_owners_dispose(&dedups->workers[i]);
    while (dedups->newest != NULL) {
        weir_redis_dedup_t *dedup = dedups->newest;
        dedups->newest = dedup->next;
        dedup_destroy(dedup);
    }
    free(dedups->workers);
    weir_redis_running_dispose(&dedups->running);
    pthread_mutex_destroy(&dedups->lock);
}

void weir_redis_dedup_acquire(weir_redis_dedup_t *dedup)
{
    atomic_fetch_add_explicit(&dedup->references, 1, memory_order_relaxed);
}

static void unlink_dedup(weir_redis_dedups_t *dedups, weir_redis_dedup_t *dedup)
{
    weir_redis_dedup_t **link = &dedups->newest;
    while (*link != dedup)
        link = &(*link)->next;
    *link = dedup->next;
}

/* The last reference goes under the lock, as one can be acquired there. */
void weir_redis_dedup_release(weir_redis_dedups_t *dedups, weir_redis_dedup_t *dedup)
{
    size_t count = atomic_load_explicit(&dedup->references, memory_order_relaxed);
    while (count > 1)
        if (atomic_compare_exchange_weak_explicit(&dedup->references, &count, count - 1, memory_order_release,
                                                  memory_order_relaxed))
            return;
    pthread_mutex_lock(&dedups->lock);
    bool is_last = atomic_fetch_sub_explicit(&dedup->references, 1, memory_order_acq_rel) == 1;
    if (is_last)
        unlink_dedup(dedups, dedup);
    pthread_mutex_unlock(&dedups->lock);
    if (is_last)
        dedup_destroy(dedup);
}

static weir_redis_bloom_t bloom_of(const weir_conf_dedup_t *conf)
{
    return conf->exact ? (weir_redis_bloom_t){0} : weir_redis_bloom_of(conf->bloom.expected, conf->bloom.false_positives);
}

/* What Redis knows is of a name; of bitmaps alone, of their window and sizes too. */
static bool is_same(const weir_redis_dedup_t *dedup, const weir_conf_dedup_t *conf)
{
    weir_redis_bloom_t bloom = bloom_of(conf);
    if (strcmp(dedup->name, conf->name) != 0 || dedup->exact != conf->exact)
        return false;
    return conf->exact || (atomic_load(&dedup->window_ns) == conf->window_ns && dedup->bloom.bits == bloom.bits &&
                           dedup->bloom.hashes == bloom.hashes);
}

static weir_redis_dedup_t *find_or_create(weir_redis_dedups_t *dedups, const weir_conf_dedup_t *conf)
{
    weir_redis_dedup_t *dedup = dedups->newest;
    while (dedup != NULL && !is_same(dedup, conf))
        dedup = dedup->next;
    if (dedup != NULL)
        return dedup;
    dedup = checked(calloc(1, sizeof(*dedup)));
    dedup->name = checked(strdup(conf->name));
    dedup->exact = conf->exact;
    dedup->bloom = bloom_of(conf);
    dedup->next = dedups->newest;
    dedups->newest = dedup;
    return dedup;
}

weir_store_dedup_t *weir_redis_dedups_acquire(weir_redis_dedups_t *dedups, const weir_conf_dedup_t *conf)
{
    weir_store_dedup_t *handle = checked(malloc(sizeof(*handle)));
    pthread_mutex_lock(&dedups->lock);
    weir_redis_dedup_t *dedup = find_or_create(dedups, conf);
    weir_redis_dedup_acquire(dedup);
    ++dedup->handles;
    atomic_store(&dedup->window_ns, conf->window_ns);
    atomic_store(&dedup->keep_ns, conf->keep_responses_ns);
    atomic_store(&dedup->account.max_bytes, conf->memory_bytes);
    pthread_mutex_unlock(&dedups->lock);
    *handle = (weir_store_dedup_t){.dedup = dedup,
                                   .on_duplicate = conf->on_duplicate,
                                   .in_flight = conf->in_flight,
                                   .on_unknown = conf->on_unknown,
                                   .lease_ns = conf->lease_ns < conf->window_ns ? conf->lease_ns : conf->window_ns,
                                   .max_response_bytes = conf->max_response_bytes};
    return handle;
}

void weir_redis_dedups_release(weir_redis_dedups_t *dedups, weir_store_dedup_t *handle)
{
    pthread_mutex_lock(&dedups->lock);
    --handle->dedup->handles;
    pthread_mutex_unlock(&dedups->lock);
    weir_redis_dedup_release(dedups, handle->dedup);
    free(handle);
}

bool weir_redis_dedups_tell(weir_redis_dedups_t *dedups, const char *name, weir_store_dedup_told_t *told)
{
    pthread_mutex_lock(&dedups->lock);
    weir_redis_dedup_t *dedup = dedups->newest;
    while (dedup != NULL && (dedup->handles == 0 || strcmp(dedup->name, name) != 0))
        dedup = dedup->next;
    if (dedup != NULL)
        *told = (weir_store_dedup_told_t){.answer_bytes = atomic_load(&dedup->account.bytes)};
    pthread_mutex_unlock(&dedups->lock);
    return dedup != NULL;
}

/* --- claims --- */

weir_store_claim_told_t weir_redis_dedups_claim(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns)
{
    claim->asked = NULL;
    claim->owner = 0;
    claim->stream = NULL;
    claim->is_replay = claim->is_false_positive = false;
    claim->forgotten = 0;
    claim->retry_after_ns = -1;
    return weir_redis_claim_begin(dedups, claim, now_ns);
}

weir_store_claim_told_t weir_redis_dedups_collect(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns)
{
    assert(claim->asked != NULL);
    return weir_redis_claim_collect(claim->asked, now_ns);
}

void weir_redis_dedups_abandon(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns)
{
    if (claim->asked != NULL)
        weir_redis_claim_abandon(claim->asked, now_ns);
}

weir_store_claim_told_t weir_redis_dedups_peek(weir_store_claim_t *claim, int64_t now_ns)
{
    return WEIR_STORE_CLAIM_DOWN;
}

bool weir_redis_dedups_renew(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns)
{
    return claim->owner == 0 || weir_redis_owner_renew(claim->asked, now_ns);
}

/* Who waits on another sidecar gets the answer, too, where nobody gets it later. */
static int64_t keep_ns_of(const weir_store_dedup_t *handle)
{
    int64_t keep_ns = atomic_load(&handle->dedup->keep_ns);
    if (handle->on_duplicate == WEIR_ON_DUPLICATE_REPLAY)
        return keep_ns;
    return handle->in_flight != WEIR_IN_FLIGHT_WAIT ? 0 : keep_ns < FOR_WAITERS_NS ? keep_ns : FOR_WAITERS_NS;
}

void weir_redis_dedups_commit(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns)
{
    if (claim->owner != 0)
        weir_redis_owner_end(claim->asked, WEIR_REDIS_DONE, keep_ns_of(claim->dedup), now_ns);
}

void weir_redis_dedups_forget(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns)
{
    if (claim->owner != 0)
        weir_redis_owner_end(claim->asked, WEIR_REDIS_FREE, 0, now_ns);
}

void weir_redis_dedups_lose(weir_redis_dedups_t *dedups, const weir_store_claim_t *claim, int64_t now_ns)
{
    bool remembers = claim->dedup->on_unknown == WEIR_ON_UNKNOWN_REJECT;
    if (claim->owner != 0)
        weir_redis_owner_end(claim->asked, remembers ? WEIR_REDIS_UNKNOWN : WEIR_REDIS_FREE, 0, now_ns);
}

bool weir_redis_dedups_reset(weir_redis_dedups_t *dedups, weir_store_dedup_t *handle, weir_store_key_t key, int64_t now_ns)
{
    weir_redis_names_t names;
    if (!handle->dedup->exact)
        return false;
    weir_redis_names_of(&names, dedups, handle->dedup, key);
    weir_remote_ask_t ask = {
        .script = WEIR_SCRIPT_drop, .keys = names.names, .key_count = 2, .timeout_ns = dedups->timeout_ns};
    return dedups->remote->ask(dedups->remote, &ask);
}

void weir_redis_dedups_tick(weir_redis_dedups_t *dedups, size_t worker, int64_t now_ns)
{
    weir_redis_owners_tick(&dedups->workers[worker], now_ns);
}

size_t weir_redis_dedups_owed(const weir_redis_dedups_t *dedups, size_t worker)
{
    return dedups->workers[worker].count - dedups->workers[worker].free_count;
}
