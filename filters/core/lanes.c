#include "lanes.h"

#include <assert.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    weir_waiter_t *oldest, *newest;
    int64_t limit_bound; /* nobody's here is over it: spares a search where nobody can be granted */
} lane_t;

struct weir_line {
    lane_t lanes[WEIR_LANES];
    unsigned grants;
    _Atomic size_t count; /* in all of them */
};

/* One that has somebody waiting. */
typedef struct weir_lane_tenant {
    uint64_t low, high;
    size_t count;
    weir_waiter_t *newest[WEIR_LANES];
    struct weir_lane_tenant *before, *after; /* among those that have as many */
    struct weir_lane_tenant *next;           /* in its bucket */
} tenant_t;

struct weir_lanes {
    size_t size, per_tenant;
    size_t depth[WEIR_LANES];
    tenant_t **buckets;
    size_t bucket_count; /* a power of two */
    tenant_t **by_count; /* lists; room for the largest share there ever was, and one more */
    size_t by_count_max;
    size_t most; /* that a tenant has */
};

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* Tenants */

static tenant_t **bucket_of(const weir_lanes_t *lanes, uint64_t low)
{
    return &lanes->buckets[low & (lanes->bucket_count - 1)];
}

static tenant_t *tenant_find(const weir_lanes_t *lanes, uint64_t low, uint64_t high)
{
    tenant_t *tenant = *bucket_of(lanes, low);
    while (tenant != NULL && (tenant->low != low || tenant->high != high))
        tenant = tenant->next;
    return tenant;
}

static void link_count(weir_lanes_t *lanes, tenant_t *tenant, size_t count)
{
    assert(count <= lanes->by_count_max);
    tenant_t **list = &lanes->by_count[count];
    tenant->count = count;
    tenant->before = NULL;
    tenant->after = *list;
    if (*list != NULL)
        (*list)->before = tenant;
    *list = tenant;
}

static void unlink_count(weir_lanes_t *lanes, const tenant_t *tenant)
{
    if (tenant->before != NULL)
        tenant->before->after = tenant->after;
    else
        lanes->by_count[tenant->count] = tenant->after;
    if (tenant->after != NULL)
        tenant->after->before = tenant->before;
}

/* By one, so that the most moves by one too. */
static void set_count(weir_lanes_t *lanes, tenant_t *tenant, size_t count)
{
    unlink_count(lanes, tenant);
    if (lanes->most == tenant->count && lanes->by_count[lanes->most] == NULL)
        lanes->most = count;
    link_count(lanes, tenant, count);
    if (count > lanes->most)
        lanes->most = count;
}

static tenant_t *tenant_create(weir_lanes_t *lanes, uint64_t low, uint64_t high)
{
    tenant_t *tenant = checked(calloc(1, sizeof(*tenant))), **bucket = bucket_of(lanes, low);
    tenant->low = low;
    tenant->high = high;
    tenant->next = *bucket;
    *bucket = tenant;
    link_count(lanes, tenant, 0);
    return tenant;
}

static void tenant_free(weir_lanes_t *lanes, tenant_t *tenant)
{
    tenant_t **at = bucket_of(lanes, tenant->low);
    while (*at != tenant)
        at = &(*at)->next;
    *at = tenant->next;
    unlink_count(lanes, tenant);
    free(tenant);
}

static weir_waiter_t *newest_of_lowest(const tenant_t *tenant)
{
    int lane = WEIR_LANES - 1;
    while (tenant->newest[lane] == NULL)
        --lane;
    return tenant->newest[lane];
}

/* Waiters */

static void link_in_lane(lane_t *lane, weir_waiter_t *waiter)
{
    waiter->before = lane->newest;
    waiter->after = NULL;
    *(lane->newest != NULL ? &lane->newest->after : &lane->oldest) = waiter;
    lane->newest = waiter;
    if (waiter->limit > lane->limit_bound)
        lane->limit_bound = waiter->limit;
}

static void unlink_in_lane(lane_t *lane, const weir_waiter_t *waiter)
{
    *(waiter->before != NULL ? &waiter->before->after : &lane->oldest) = waiter->after;
    *(waiter->after != NULL ? &waiter->after->before : &lane->newest) = waiter->before;
    if (lane->oldest == NULL)
        lane->limit_bound = 0;
}

static void link_in_tenant(tenant_t *tenant, weir_waiter_t *waiter)
{
    weir_waiter_t **newest = &tenant->newest[waiter->lane];
    waiter->tenant_before = *newest;
    waiter->tenant_after = NULL;
    if (*newest != NULL)
        (*newest)->tenant_after = waiter;
    *newest = waiter;
}

static void unlink_in_tenant(tenant_t *tenant, const weir_waiter_t *waiter)
{
    *(waiter->tenant_after != NULL ? &waiter->tenant_after->tenant_before : &tenant->newest[waiter->lane]) =
        waiter->tenant_before;
    if (waiter->tenant_before != NULL)
        waiter->tenant_before->tenant_after = waiter->tenant_after;
}

static void put_in(weir_lanes_t *lanes, weir_line_t *line, tenant_t *tenant, weir_waiter_t *waiter)
{
    waiter->line = line;
    waiter->tenant = tenant;
    waiter->state = WEIR_WAITER_WAITING;
    link_in_lane(&line->lanes[waiter->lane], waiter);
    link_in_tenant(tenant, waiter);
    set_count(lanes, tenant, tenant->count + 1);
    ++lanes->depth[waiter->lane];
    atomic_fetch_add_explicit(&line->count, 1, memory_order_relaxed);
}

static void take_out(weir_lanes_t *lanes, weir_waiter_t *waiter, weir_waiter_state_t state)
{
    tenant_t *tenant = waiter->tenant;
    assert(waiter->state == WEIR_WAITER_WAITING);
    unlink_in_lane(&waiter->line->lanes[waiter->lane], waiter);
    unlink_in_tenant(tenant, waiter);
    set_count(lanes, tenant, tenant->count - 1);
    if (tenant->count == 0)
        tenant_free(lanes, tenant);
    --lanes->depth[waiter->lane];
    atomic_fetch_sub_explicit(&waiter->line->count, 1, memory_order_relaxed);
    waiter->line = NULL;
    waiter->tenant = NULL;
    waiter->state = state;
}

static bool has_room(const weir_lanes_t *lanes, size_t tenant_has)
{
    size_t count = 0;
    for (int lane = 0; lane < WEIR_LANES; ++lane)
        count += lanes->depth[lane];
    return count < lanes->size && tenant_has < lanes->per_tenant;
}

/* Who gives way for one more of `tenant` (NULL: it has none yet) in `lane`; NULL: nobody. */
static weir_waiter_t *who_gives_way(const weir_lanes_t *lanes, const tenant_t *tenant, size_t tenant_has,
                                    weir_lane_t lane)
{
    if (lanes->per_tenant == 0)
        return NULL;
    if (tenant_has < lanes->per_tenant && lanes->most >= tenant_has + 2)
        return newest_of_lowest(lanes->by_count[lanes->most]);
    if (tenant == NULL)
        return NULL;
    weir_waiter_t *own = newest_of_lowest(tenant);
    return own->lane > lane ? own : NULL;
}

/* The oldest of a lane whose limit is over `used`. */
static weir_waiter_t *oldest_under(lane_t *lane, int64_t used)
{
    if (lane->limit_bound <= used)
        return NULL;
    int64_t limit_bound = 0;
    for (weir_waiter_t *waiter = lane->oldest; waiter != NULL; waiter = waiter->after) {
        if (waiter->limit > used)
            return waiter;
        if (waiter->limit > limit_bound)
            limit_bound = waiter->limit;
    }
    lane->limit_bound = limit_bound;
    return NULL;
}

/* What is shown */

static void set_bucket_count(weir_lanes_t *lanes, size_t bucket_count)
{
    tenant_t **before = lanes->buckets;
    size_t count_before = lanes->bucket_count;
    lanes->buckets = checked(calloc(bucket_count, sizeof(*lanes->buckets)));
    lanes->bucket_count = bucket_count;
    for (size_t i = 0; i < count_before; ++i) {
        for (tenant_t *tenant = before[i], *next; tenant != NULL; tenant = next) {
            tenant_t **bucket = bucket_of(lanes, tenant->low);
            next = tenant->next;
            tenant->next = *bucket;
            *bucket = tenant;
        }
    }
    free(before);
}

static void set_by_count_max(weir_lanes_t *lanes, size_t max)
{
    tenant_t **by_count = checked(calloc(max + 1, sizeof(*by_count)));
    if (lanes->by_count != NULL)
        memcpy(by_count, lanes->by_count, (lanes->by_count_max + 1) * sizeof(*by_count));
    free(lanes->by_count);
    lanes->by_count = by_count;
    lanes->by_count_max = max;
}

weir_lanes_t *weir_lanes_create(size_t size, size_t per_tenant)
{
    weir_lanes_t *lanes = checked(calloc(1, sizeof(*lanes)));
    set_bucket_count(lanes, 1);
    set_by_count_max(lanes, 1);
    weir_lanes_resize(lanes, size, per_tenant);
    return lanes;
}

void weir_lanes_destroy(weir_lanes_t *lanes)
{
    if (lanes == NULL)
        return;
    assert(lanes->most == 0);
    free(lanes->buckets);
    free(lanes->by_count);
    free(lanes);
}

void weir_lanes_resize(weir_lanes_t *lanes, size_t size, size_t per_tenant)
{
    lanes->size = size;
    lanes->per_tenant = per_tenant < size ? per_tenant : size;
    size_t bucket_count = lanes->bucket_count;
    while (bucket_count < size)
        bucket_count *= 2;
    if (bucket_count != lanes->bucket_count)
        set_bucket_count(lanes, bucket_count);
    if (lanes->per_tenant + 1 > lanes->by_count_max) /* one more, while one gives way to another of his tenant */
        set_by_count_max(lanes, lanes->per_tenant + 1);
}

bool weir_lanes_enter(weir_lanes_t *lanes, weir_line_t **line, weir_waiter_t *waiter, weir_waiter_t **displaced)
{
    assert(waiter->state != WEIR_WAITER_WAITING);
    tenant_t *tenant = tenant_find(lanes, waiter->tenant_low, waiter->tenant_high);
    size_t tenant_has = tenant != NULL ? tenant->count : 0;
    *displaced = NULL;
    if (!has_room(lanes, tenant_has)) {
        *displaced = who_gives_way(lanes, tenant, tenant_has, waiter->lane);
        if (*displaced == NULL)
            return false;
    }
    if (tenant == NULL)
        tenant = tenant_create(lanes, waiter->tenant_low, waiter->tenant_high);
    if (*line == NULL)
        *line = checked(calloc(1, sizeof(**line)));
    put_in(lanes, *line, tenant, waiter);
    if (*displaced != NULL)
        take_out(lanes, *displaced, WEIR_WAITER_DISPLACED);
    return true;
}

weir_waiter_t *weir_lanes_grant(weir_lanes_t *lanes, weir_line_t *line, int64_t used)
{
    if (line == NULL)
        return NULL;
    bool lowest_first = line->grants % WEIR_LANES_LOWEST == WEIR_LANES_LOWEST - 1;
    for (int i = 0; i < WEIR_LANES; ++i) {
        weir_waiter_t *waiter = oldest_under(&line->lanes[lowest_first ? WEIR_LANES - 1 - i : i], used);
        if (waiter == NULL)
            continue;
        take_out(lanes, waiter, WEIR_WAITER_GRANTED);
        ++line->grants;
        return waiter;
    }
    return NULL;
}

void weir_lanes_leave(weir_lanes_t *lanes, weir_waiter_t *waiter)
{
    take_out(lanes, waiter, WEIR_WAITER_OUT);
}

bool weir_line_is_empty(const weir_line_t *line)
{
    return line == NULL || atomic_load_explicit(&line->count, memory_order_relaxed) == 0;
}

void weir_line_free(weir_line_t *line)
{
    assert(weir_line_is_empty(line));
    free(line);
}

size_t weir_lanes_depth(const weir_lanes_t *lanes, weir_lane_t lane)
{
    return lanes->depth[lane];
}

void weir_line_each(weir_line_t *line, void (*visit)(weir_waiter_t *waiter, void *data), void *data)
{
    for (int lane = 0; lane < WEIR_LANES; ++lane) {
        line->lanes[lane].limit_bound = INT64_MAX; /* until the next search */
        for (weir_waiter_t *waiter = line->lanes[lane].oldest, *after; waiter != NULL; waiter = after) {
            after = waiter->after;
            visit(waiter, data);
        }
    }
}
