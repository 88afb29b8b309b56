#include "sliding_log.h"

#include <assert.h>
#include <stdlib.h>

/* Costs are kept as running sums, modulo 2^64: what lies between two entries is a difference, found by a binary search.
 * No entry's cost is 0. */
typedef struct weir_sliding_log_entry {
    int64_t at_ns;
    uint64_t sum; /* up to and with this one */
} entry_t;

enum { CAPACITY_MIN = 4, CAPACITY_MAX = 2 * WEIR_SLIDING_LOG_MAX };

/* The i-th oldest. */
static entry_t *entry_at(const weir_sliding_log_t *log, uint32_t i)
{
    return &log->entries[(log->first + i) & (log->capacity - 1)];
}

static entry_t *newest_of(const weir_sliding_log_t *log)
{
    return entry_at(log, log->count - 1);
}

static uint64_t sum_before(const weir_sliding_log_t *log, uint32_t i)
{
    return i == 0 ? log->forgotten : entry_at(log, i - 1)->sum;
}

static bool is_past(int64_t at_ns, int64_t window_ns, int64_t now_ns)
{
    return now_ns - at_ns > window_ns;
}

/* The first ns at which what was taken at at_ns no longer counts; saturates at the end of time. */
static int64_t forgotten_at(int64_t at_ns, int64_t window_ns)
{
    return at_ns < INT64_MAX - window_ns ? at_ns + window_ns + 1 : INT64_MAX;
}

/* The first entry at `ns` or later; count: there is none. */
static uint32_t find_time(const weir_sliding_log_t *log, int64_t ns)
{
    uint32_t low = 0, high = log->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (entry_at(log, middle)->at_ns < ns)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The first entry by which at least `cost` was taken since the sum was `since`; there is one. */
static uint32_t find_cost(const weir_sliding_log_t *log, uint32_t from, uint64_t since, uint64_t cost)
{
    uint32_t low = from, high = log->count - 1;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (entry_at(log, middle)->sum - since < cost)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The first entry that still counts. */
static uint32_t first_counted(const weir_sliding_log_t *log, int64_t window_ns, int64_t now_ns)
{
    if (log->count == 0 || !is_past(entry_at(log, 0)->at_ns, window_ns, now_ns))
        return 0;
    return find_time(log, now_ns - window_ns);
}

static int64_t total_from(const weir_sliding_log_t *log, uint32_t i)
{
    return i < log->count ? (int64_t)(newest_of(log)->sum - sum_before(log, i)) : 0;
}

static int64_t counted(const weir_sliding_log_t *log, int64_t window_ns, int64_t now_ns)
{
    return total_from(log, first_counted(log, window_ns, now_ns));
}

static void set_capacity(weir_sliding_log_t *log, uint32_t capacity)
{
    entry_t *entries = malloc(capacity * sizeof(*entries));
    assert(entries != NULL);
    for (uint32_t i = 0; i < log->count; ++i)
        entries[i] = *entry_at(log, i);
    free(log->entries);
    log->entries = entries;
    log->capacity = capacity;
    log->first = 0;
}

static void shrink(weir_sliding_log_t *log)
{
    if (log->count == 0) {
        weir_sliding_log_dispose(log);
        return;
    }
    uint32_t capacity = log->capacity;
    while (log->count <= capacity / 4 && capacity > CAPACITY_MIN)
        capacity /= 2;
    if (capacity != log->capacity)
        set_capacity(log, capacity);
}

static void drop_oldest(weir_sliding_log_t *log, uint32_t count)
{
    log->first = (log->first + count) & (log->capacity - 1);
    log->count -= count;
}

/* One that has no cost. */
static void drop(weir_sliding_log_t *log, uint32_t i)
{
    for (--log->count; i < log->count; ++i)
        *entry_at(log, i) = *entry_at(log, i + 1);
}

static void forget(weir_sliding_log_t *log, int64_t window_ns, int64_t now_ns)
{
    uint32_t count = first_counted(log, window_ns, now_ns);
    if (count == 0)
        return;
    const entry_t *last = entry_at(log, count - 1);
    log->forgotten = last->sum;
    log->since_ns = last->at_ns + 1;
    drop_oldest(log, count);
    shrink(log);
}

/* Whether the newest entry is near enough to be one with what is taken now. In a full log that is so within one of
 * WEIR_SLIDING_LOG_MAX - 2 parts of the window, which begin at fixed times: a window touches at most
 * WEIR_SLIDING_LOG_MAX of them, and so many entries more there will be. */
static bool is_one_with_newest(const weir_sliding_log_t *log, int64_t window_ns, int64_t now_ns)
{
    if (log->count == 0)
        return false;
    int64_t newest_ns = newest_of(log)->at_ns;
    if (newest_ns >= now_ns)
        return true;
    if (log->count < WEIR_SLIDING_LOG_MAX)
        return false;
    int64_t part_ns = window_ns / (WEIR_SLIDING_LOG_MAX - 2) + 1;
    return newest_ns / part_ns == now_ns / part_ns;
}

/* Whether a window that is full can do without the oldest entry: as each has a cost, there is a debt with one more, and
 * nothing fits when the oldest is forgotten and the next one is not. */
static bool is_oldest_idle(const weir_sliding_log_t *log, int64_t limit)
{
    return log->count != 0 && (log->count >= limit || log->count == CAPACITY_MAX);
}

static entry_t *append(weir_sliding_log_t *log, int64_t limit, int64_t now_ns)
{
    if (log->count == 0) {
        log->forgotten = 0;
        log->since_ns = now_ns;
    }
    uint64_t sum = sum_before(log, log->count);
    if (log->count == log->capacity && is_oldest_idle(log, limit))
        drop_oldest(log, 1); /* its cost becomes the next one's: the sum before it stays */
    if (log->count == log->capacity)
        set_capacity(log, log->capacity != 0 ? log->capacity * 2 : CAPACITY_MIN);
    ++log->count;
    entry_t *entry = newest_of(log);
    *entry = (entry_t){.at_ns = now_ns, .sum = sum};
    return entry;
}

bool weir_sliding_log_fits(const weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost,
                           int64_t now_ns)
{
    assert(cost >= 0);
    return cost <= quota.limit && counted(log, quota.window_ns, now_ns) <= quota.limit - cost;
}

void weir_sliding_log_take(weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost, int64_t now_ns)
{
    assert(cost >= 0);
    forget(log, quota.window_ns, now_ns);
    int64_t room = INT64_MAX - total_from(log, 0), counts = cost < room ? cost : room;
    if (counts == 0)
        return;
    entry_t *entry =
        is_one_with_newest(log, quota.window_ns, now_ns) ? newest_of(log) : append(log, quota.limit, now_ns);
    entry->sum += (uint64_t)counts;
    if (now_ns > entry->at_ns)
        entry->at_ns = now_ns;
}

void weir_sliding_log_put_back(weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost,
                               int64_t taken_ns)
{
    assert(cost >= 0);
    uint32_t at = find_time(log, taken_ns);
    if (at == log->count || taken_ns < log->since_ns)
        return;
    uint64_t there = entry_at(log, at)->sum - sum_before(log, at);
    uint64_t back = (uint64_t)cost < there ? (uint64_t)cost : there;
    for (uint32_t i = at; i < log->count; ++i)
        entry_at(log, i)->sum -= back;
    if (back == there)
        drop(log, at);
    shrink(log);
}

weir_told_t weir_sliding_log_tell(const weir_sliding_log_t *log, weir_sliding_window_quota_t quota, int64_t cost,
                                  int64_t now_ns)
{
    uint32_t first = first_counted(log, quota.window_ns, now_ns);
    int64_t total = total_from(log, first);
    weir_told_t told = {.remaining = total < quota.limit ? quota.limit - total : 0};
    if (total != 0)
        told.reset_ns = forgotten_at(newest_of(log)->at_ns, quota.window_ns) - now_ns;
    if (cost > quota.limit) {
        told.retry_after_ns = -1;
    } else if (total > quota.limit - cost) {
        uint32_t last = find_cost(log, first, sum_before(log, first), (uint64_t)(total - (quota.limit - cost)));
        told.retry_after_ns = forgotten_at(entry_at(log, last)->at_ns, quota.window_ns) - now_ns;
    }
    return told;
}

bool weir_sliding_log_is_empty(const weir_sliding_log_t *log, int64_t window_ns, int64_t now_ns)
{
    return counted(log, window_ns, now_ns) == 0;
}

void weir_sliding_log_dispose(weir_sliding_log_t *log)
{
    free(log->entries);
    *log = (weir_sliding_log_t){0};
}
