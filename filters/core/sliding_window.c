#include "sliding_window.h"

#include <assert.h>
#include <string.h>

enum { SLOTS = WEIR_SLIDING_WINDOW_SLOTS, COUNTS = WEIR_SLIDING_WINDOW_COUNTS };

static uint64_t slot_at(int64_t ns, int64_t window_ns)
{
    uint64_t time = (uint64_t)ns, window = (uint64_t)window_ns;
    return time / window * SLOTS + time % window * SLOTS / window;
}

/* The first ns at which a slot no longer counts; saturates at the end of time. */
static int64_t forgotten_at(uint64_t slot, int64_t window_ns)
{
    unsigned __int128 end = (unsigned __int128)(slot + COUNTS) * (uint64_t)window_ns;
    unsigned __int128 ns = (end + SLOTS - 1) / SLOTS;
    return ns <= INT64_MAX ? (int64_t)ns : INT64_MAX;
}

/* The oldest slot that counts when `slot` runs. */
static uint64_t oldest_at(uint64_t slot)
{
    return slot > SLOTS ? slot - SLOTS : 0;
}

/* What counts when `slot` runs. */
static uint32_t counted(const weir_sliding_window_t *window, uint64_t slot)
{
    if (slot <= window->slot || window->total == 0)
        return window->total;
    if (slot - window->slot > SLOTS)
        return 0;
    uint32_t total = window->total;
    for (uint64_t s = oldest_at(window->slot); s < oldest_at(slot); ++s)
        total -= window->counts[s % COUNTS];
    return total;
}

/* Lets `slot` run: those that no longer count are cleared, for the ones that come in their places. */
static void advance(weir_sliding_window_t *window, uint64_t slot)
{
    if (slot <= window->slot)
        return;
    if (window->total == 0 || slot - window->slot > SLOTS) {
        memset(window, 0, sizeof(*window));
    } else {
        for (uint64_t s = window->slot + 1; s <= slot; ++s) {
            window->total -= window->counts[s % COUNTS];
            window->counts[s % COUNTS] = 0;
        }
    }
    window->slot = slot;
}

bool weir_sliding_window_fits(const weir_sliding_window_t *window, weir_sliding_window_quota_t quota, int64_t cost,
                              int64_t now_ns)
{
    assert(cost >= 0);
    return cost <= quota.limit && counted(window, slot_at(now_ns, quota.window_ns)) <= quota.limit - cost;
}

void weir_sliding_window_take(weir_sliding_window_t *window, weir_sliding_window_quota_t quota, int64_t cost,
                              int64_t now_ns)
{
    assert(cost >= 0);
    advance(window, slot_at(now_ns, quota.window_ns));
    uint32_t room = UINT32_MAX - window->total, counts = cost < room ? (uint32_t)cost : room;
    window->total += counts;
    window->counts[window->slot % COUNTS] += counts;
}

void weir_sliding_window_put_back(weir_sliding_window_t *window, weir_sliding_window_quota_t quota, int64_t cost,
                                  int64_t taken_ns)
{
    uint64_t slot = slot_at(taken_ns, quota.window_ns);
    if (slot > window->slot || slot < oldest_at(window->slot))
        return;
    uint32_t *count = &window->counts[slot % COUNTS];
    uint32_t back = cost < *count ? (uint32_t)cost : *count;
    *count -= back;
    window->total -= back;
}

/* Until the newest of what counts is forgotten. */
static int64_t reset_ns_of(const weir_sliding_window_t *window, int64_t window_ns, int64_t now_ns)
{
    uint64_t newest = window->slot;
    while (window->counts[newest % COUNTS] == 0)
        --newest;
    return forgotten_at(newest, window_ns) - now_ns;
}

/* Until `over` of what counts since slot `oldest` is forgotten. */
static int64_t retry_after_ns_of(const weir_sliding_window_t *window, int64_t window_ns, uint64_t oldest, int64_t over,
                                 int64_t now_ns)
{
    while ((over -= window->counts[oldest % COUNTS]) > 0)
        ++oldest;
    return forgotten_at(oldest, window_ns) - now_ns;
}

weir_told_t weir_sliding_window_tell(const weir_sliding_window_t *window, weir_sliding_window_quota_t quota,
                                     int64_t cost, int64_t now_ns)
{
    uint64_t slot = slot_at(now_ns, quota.window_ns), runs = slot > window->slot ? slot : window->slot;
    int64_t total = counted(window, slot);
    weir_told_t told = {.remaining = total < quota.limit ? quota.limit - total : 0};
    if (total != 0)
        told.reset_ns = reset_ns_of(window, quota.window_ns, now_ns);
    if (cost > quota.limit)
        told.retry_after_ns = -1;
    else if (total > quota.limit - cost)
        told.retry_after_ns =
            retry_after_ns_of(window, quota.window_ns, oldest_at(runs), total - (quota.limit - cost), now_ns);
    return told;
}

bool weir_sliding_window_is_empty(const weir_sliding_window_t *window, int64_t window_ns, int64_t now_ns)
{
    return counted(window, slot_at(now_ns, window_ns)) == 0;
}
