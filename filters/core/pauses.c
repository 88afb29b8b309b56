#include "pauses.h"

#include <assert.h>

static bool is_same(weir_key_t a, weir_key_t b)
{
    return a.low == b.low && a.high == b.high;
}

static int64_t left_ns(int64_t until_ns, int64_t now_ns)
{
    return until_ns > now_ns ? until_ns - now_ns : 0;
}

/* Where it is; count: it is not there. */
static uint32_t find(const weir_pauses_t *pauses, weir_key_t key)
{
    uint32_t i = 0;
    while (i < pauses->count && !is_same(pauses->pauses[i].key, key))
        ++i;
    return i;
}

/* A row that is over or new, or else the one that ends first. */
static uint32_t find_room(weir_pauses_t *pauses, int64_t now_ns)
{
    uint32_t first = 0;
    for (uint32_t i = 1; i < pauses->count; ++i)
        if (pauses->pauses[i].until_ns < pauses->pauses[first].until_ns)
            first = i;
    bool is_new = pauses->count < WEIR_PAUSES_MAX && pauses->pauses[first].until_ns > now_ns;
    return is_new || pauses->count == 0 ? pauses->count++ : first;
}

bool weir_pauses_pause(weir_pauses_t *pauses, weir_key_t key, int64_t ns, int64_t now_ns)
{
    assert(ns >= 0);
    assert(now_ns >= 0);
    int64_t until_ns = ns < INT64_MAX - now_ns ? now_ns + ns : INT64_MAX;
    if (until_ns == now_ns)
        return true;
    uint32_t own = find(pauses, key);
    bool is_own = own != pauses->count;
    weir_pause_t *row = &pauses->pauses[is_own ? own : find_room(pauses, now_ns)];
    bool has_room = is_own || row->until_ns <= now_ns;
    if (until_ns > row->until_ns)
        *row = (weir_pause_t){.key = key, .until_ns = until_ns};
    if (until_ns > pauses->latest_ns)
        pauses->latest_ns = until_ns;
    return has_room;
}

int64_t weir_pauses_left_ns(const weir_pauses_t *pauses, weir_key_t key, int64_t now_ns)
{
    if (now_ns >= pauses->latest_ns)
        return 0;
    uint32_t own = find(pauses, key);
    return own != pauses->count ? left_ns(pauses->pauses[own].until_ns, now_ns) : 0;
}

int64_t weir_pauses_longest_left_ns(const weir_pauses_t *pauses, int64_t now_ns)
{
    return left_ns(pauses->latest_ns, now_ns);
}

uint32_t weir_pauses_count(const weir_pauses_t *pauses, int64_t now_ns)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < pauses->count; ++i)
        count += pauses->pauses[i].until_ns > now_ns;
    return count;
}
