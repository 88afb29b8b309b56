#include "model.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static int64_t parts_per_ns(model_rate_t rate)
{
    return (int64_t)(rate.count * (MODEL_TOKEN / rate.period_ns));
}

static __int128 missing_at(const model_bucket_t *bucket, int64_t parts, int64_t now_ns)
{
    __int128 missing = bucket->missing - (__int128)parts * (now_ns - bucket->at_ns);
    return missing > 0 ? missing : 0;
}

static int64_t ns_up(__int128 parts, int64_t each)
{
    __int128 ns = (parts + each - 1) / each;
    return ns <= INT64_MAX ? (int64_t)ns : INT64_MAX;
}

bool model_bucket_fits(const model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t now_ns)
{
    if (rate.count == 0)
        return false;
    return missing_at(bucket, parts_per_ns(rate), now_ns) + cost * MODEL_TOKEN <= rate.burst * MODEL_TOKEN;
}

static void set_missing(model_bucket_t *bucket, __int128 missing, int64_t now_ns)
{
    *bucket = (model_bucket_t){.missing = missing, .at_ns = now_ns};
}

void model_bucket_take(model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t now_ns)
{
    int64_t parts = parts_per_ns(rate);
    set_missing(bucket, missing_at(bucket, parts, now_ns) + cost * MODEL_TOKEN, now_ns);
}

void model_bucket_put_back(model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t taken_ns, int64_t now_ns)
{
    int64_t parts = parts_per_ns(rate);
    __int128 back = cost * MODEL_TOKEN - (__int128)parts * (now_ns - taken_ns);
    __int128 missing = missing_at(bucket, parts, now_ns);
    if (back > 0)
        missing = missing > back ? missing - back : 0;
    set_missing(bucket, missing, now_ns);
}

int64_t model_bucket_remaining(const model_bucket_t *bucket, model_rate_t rate, int64_t now_ns)
{
    if (rate.count == 0)
        return 0;
    __int128 there = rate.burst * MODEL_TOKEN - missing_at(bucket, parts_per_ns(rate), now_ns);
    return there > 0 ? (int64_t)(there / MODEL_TOKEN) : 0;
}

int64_t model_bucket_reset_ns(const model_bucket_t *bucket, model_rate_t rate, int64_t now_ns)
{
    if (rate.count == 0)
        return -1;
    int64_t parts = parts_per_ns(rate);
    return ns_up(missing_at(bucket, parts, now_ns), parts);
}

int64_t model_bucket_retry_ns(const model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t now_ns)
{
    if (rate.count == 0 || cost > rate.burst)
        return -1;
    int64_t parts = parts_per_ns(rate);
    __int128 over = missing_at(bucket, parts, now_ns) + (cost - rate.burst) * MODEL_TOKEN;
    return over > 0 ? ns_up(over, parts) : 0;
}

void model_bucket_settle(model_bucket_t *bucket, model_rate_t rate, int64_t now_ns)
{
    if (rate.period_ns != 0)
        set_missing(bucket, missing_at(bucket, parts_per_ns(rate), now_ns), now_ns);
}

static model_charge_t *charge_at(const model_window_t *window, uint64_t number)
{
    return &window->charges[number % window->capacity];
}

/* The first ns at which it does not count. */
static int64_t forgotten_at(const model_charge_t *charge, int64_t window_ns, bool late)
{
    return charge->at_ns + (late ? (int64_t)(((__int128)window_ns * 61 + 59) / 60) : window_ns + 1);
}

int64_t model_window_used(model_window_t *window, int64_t window_ns, bool late, int64_t now_ns)
{
    uint64_t *first = &window->first[late];
    for (; *first != window->end && forgotten_at(charge_at(window, *first), window_ns, late) <= now_ns; ++*first)
        window->sum[late] -= charge_at(window, *first)->cost;
    return window->sum[late];
}

static uint64_t oldest(const model_window_t *window)
{
    return window->first[0] < window->first[1] ? window->first[0] : window->first[1];
}

static void grow(model_window_t *window)
{
    size_t capacity = window->capacity != 0 ? window->capacity * 2 : 8;
    model_charge_t *charges = malloc(capacity * sizeof(*charges));
    assert(charges != NULL);
    for (uint64_t number = oldest(window); number != window->end; ++number)
        charges[number % capacity] = *charge_at(window, number);
    free(window->charges);
    window->charges = charges;
    window->capacity = capacity;
}

uint64_t model_window_take(model_window_t *window, int64_t cost, int64_t now_ns)
{
    if (window->end - oldest(window) == window->capacity)
        grow(window);
    *charge_at(window, window->end) = (model_charge_t){now_ns, cost};
    window->sum[0] += cost;
    window->sum[1] += cost;
    return window->end++;
}

void model_window_put_back(model_window_t *window, uint64_t number, int64_t cost)
{
    if (number < oldest(window))
        return;
    model_charge_t *charge = charge_at(window, number);
    for (int late = 0; late < 2; ++late)
        if (number >= window->first[late])
            window->sum[late] -= cost;
    charge->cost -= cost;
}

int64_t model_window_reset_ns(model_window_t *window, int64_t window_ns, bool late, int64_t now_ns)
{
    if (model_window_used(window, window_ns, late, now_ns) == 0)
        return 0;
    uint64_t last = window->end - 1;
    while (charge_at(window, last)->cost == 0)
        --last;
    return forgotten_at(charge_at(window, last), window_ns, late) - now_ns;
}

int64_t model_window_retry_ns(model_window_t *window, int64_t window_ns, int64_t limit, bool late, int64_t cost,
                              int64_t now_ns)
{
    if (cost > limit)
        return -1;
    int64_t over = model_window_used(window, window_ns, late, now_ns) + cost - limit;
    if (over <= 0)
        return 0;
    uint64_t number = window->first[late];
    while ((over -= charge_at(window, number)->cost) > 0)
        ++number;
    return forgotten_at(charge_at(window, number), window_ns, late) - now_ns;
}

void model_window_dispose(model_window_t *window)
{
    free(window->charges);
}
