#include "closest.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { SETS = 16, WAYS = WEIR_CLOSEST_PLACES / SETS };

/* A stamp is when the key was last seen, in ns, and in its low bits how far it was used up then, in permille: one word,
 * so that the two belong together. 0: nothing is in the place. */
enum { USED_MAX = 1023 };
#define SEEN_MASK UINT64_C(0x7ffffffffffffc00)
#define RENEW_NS INT64_C(100000000) /* what is seen more often does not write to memory that others read */

typedef struct {
    _Alignas(64) _Atomic uint64_t low[WAYS]; /* of the key; its other half is compared under the lock only */
    _Atomic uint64_t stamp[WAYS];
    _Atomic int64_t noted_ns[WAYS];
    weir_closest_key_t *keys; /* NULL until one is noted */
} set_t;

struct weir_closest {
    set_t sets[SETS];
    pthread_mutex_t lock; /* of what is not atomic, and to write what is - but for renewed stamps */
};

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* Tables go by the low bits of the low word. */
static set_t *set_of(weir_closest_t *closest, weir_key_t key)
{
    return &closest->sets[key.high % SETS];
}

static unsigned stamped_used(unsigned used_permille)
{
    if (used_permille == 0)
        return 1;
    return used_permille < USED_MAX ? used_permille : USED_MAX;
}

static uint64_t stamp_of(unsigned used, int64_t now_ns)
{
    return ((uint64_t)now_ns & SEEN_MASK) | used;
}

static unsigned used_of(uint64_t stamp)
{
    return stamp & USED_MAX;
}

static int64_t seen_ns_of(uint64_t stamp)
{
    return (int64_t)(stamp & SEEN_MASK);
}

static uint64_t load(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

/* Where a key of this low word is; WAYS: nowhere. */
static int find(const set_t *set, uint64_t low)
{
    for (int way = 0; way < WAYS; ++way)
        if (load(&set->low[way]) == low && load(&set->stamp[way]) != 0)
            return way;
    return WAYS;
}

/* How much a place is worth to whom it has: less than anyone's who asks if nothing is there, or nothing of late. */
static unsigned worth_of(uint64_t stamp, int64_t now_ns)
{
    if (stamp == 0 || now_ns - seen_ns_of(stamp) >= WEIR_CLOSEST_STALE_NS)
        return 0;
    return used_of(stamp);
}

/* The place that a key used up to so much would take; WAYS: none. */
static int find_less(const set_t *set, unsigned used, int64_t now_ns)
{
    int least_way = WAYS;
    unsigned least = used;
    for (int way = 0; way < WAYS; ++way) {
        unsigned worth = worth_of(load(&set->stamp[way]), now_ns);
        if (worth < least) {
            least = worth;
            least_way = way;
        }
    }
    return least_way;
}

weir_closest_t *weir_closest_create(void)
{
    weir_closest_t *closest = checked(aligned_alloc(_Alignof(weir_closest_t), sizeof(*closest)));
    memset(closest, 0, sizeof(*closest));
    pthread_mutex_init(&closest->lock, NULL);
    return closest;
}

void weir_closest_destroy(weir_closest_t *closest)
{
    if (closest == NULL)
        return;
    for (int s = 0; s < SETS; ++s)
        free(closest->sets[s].keys);
    pthread_mutex_destroy(&closest->lock);
    free(closest);
}

/* If another key takes the place just now, it is thought to be used up as far as this one, until it is next seen. */
static void renew(set_t *set, int way, unsigned used, int64_t now_ns)
{
    uint64_t stamp = load(&set->stamp[way]);
    if (used > used_of(stamp) || now_ns - seen_ns_of(stamp) >= RENEW_NS)
        atomic_store_explicit(&set->stamp[way], stamp_of(used, now_ns), memory_order_relaxed);
}

int weir_closest_wants(weir_closest_t *closest, weir_key_t key, unsigned used_permille, int64_t now_ns)
{
    set_t *set = set_of(closest, key);
    unsigned used = stamped_used(used_permille);
    int way = find(set, key.low);
    if (way == WAYS)
        return find_less(set, used, now_ns) != WAYS;
    renew(set, way, used, now_ns);
    return now_ns - atomic_load_explicit(&set->noted_ns[way], memory_order_relaxed) >= WEIR_CLOSEST_STALE_NS;
}

/* Does not end within a character of UTF-8. */
static void set_name(char name[WEIR_CLOSEST_NAME_MAX], const char *from, size_t len)
{
    if (len >= WEIR_CLOSEST_NAME_MAX) {
        len = WEIR_CLOSEST_NAME_MAX - 1;
        while (len != 0 && ((unsigned char)from[len] & 0xc0) == 0x80)
            --len;
    }
    memcpy(name, from, len);
    memset(name + len, 0, WEIR_CLOSEST_NAME_MAX - len);
}

static void set_key(weir_closest_key_t *at, weir_key_t key, const char *name, size_t len, const void *extra,
                    size_t extra_bytes)
{
    assert(extra_bytes <= WEIR_CLOSEST_EXTRA_BYTES);
    *at = (weir_closest_key_t){.key = key};
    set_name(at->name, name, len);
    if (extra_bytes != 0)
        memcpy(at->extra, extra, extra_bytes);
}

void weir_closest_note(weir_closest_t *closest, weir_key_t key, unsigned used_permille, int64_t now_ns,
                       const char *name, size_t len, const void *extra, size_t extra_bytes)
{
    set_t *set = set_of(closest, key);
    unsigned used = stamped_used(used_permille);
    pthread_mutex_lock(&closest->lock);
    int way = find(set, key.low);
    if (way == WAYS)
        way = find_less(set, used, now_ns);
    if (way != WAYS) {
        if (set->keys == NULL)
            set->keys = checked(calloc(WAYS, sizeof(*set->keys)));
        set_key(&set->keys[way], key, name, len, extra, extra_bytes);
        atomic_store_explicit(&set->noted_ns[way], now_ns, memory_order_relaxed);
        atomic_store_explicit(&set->stamp[way], stamp_of(used, now_ns), memory_order_relaxed);
        atomic_store_explicit(&set->low[way], key.low, memory_order_relaxed);
    }
    pthread_mutex_unlock(&closest->lock);
}

void weir_closest_forget(weir_closest_t *closest)
{
    pthread_mutex_lock(&closest->lock);
    for (set_t *set = closest->sets; set < closest->sets + SETS; ++set)
        for (int way = 0; way < WAYS; ++way) {
            atomic_store_explicit(&set->noted_ns[way], -WEIR_CLOSEST_STALE_NS, memory_order_relaxed);
            atomic_store_explicit(&set->stamp[way], 0, memory_order_relaxed);
        }
    pthread_mutex_unlock(&closest->lock);
}

size_t weir_closest_list(weir_closest_t *closest, weir_closest_key_t *keys)
{
    size_t count = 0;
    pthread_mutex_lock(&closest->lock);
    for (const set_t *set = closest->sets; set < closest->sets + SETS; ++set)
        for (int way = 0; way < WAYS; ++way)
            if (load(&set->stamp[way]) != 0)
                keys[count++] = set->keys[way];
    pthread_mutex_unlock(&closest->lock);
    return count;
}
