#include "rows.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "core/sliding_log.h"
#include "core/sliding_window.h"
#include "core/token_bucket.h"

/* token_bucket */

static weir_token_bucket_quota_t conf_quota(const weir_conf_quota_t *quota)
{
    return weir_token_bucket_quota(quota->rate.count, quota->rate.period_ns, quota->burst);
}

/* Who comes with an older configuration does not know the rate in force: the row does, if it has one. */
typedef struct {
    uint64_t parts_per_ns;
    bool is_least;
} old_rate_t;

static old_rate_t old_rate(const weir_token_bucket_t *bucket, const weir_rows_terms_t *terms)
{
    if ((bucket->used_low | bucket->used_high_and_rate) != 0)
        return (old_rate_t){weir_token_bucket_rate(bucket), weir_token_bucket_is_least(bucket)};
    return (old_rate_t){atomic_load_explicit(&terms->bounds->slowest, memory_order_relaxed), true};
}

static weir_token_bucket_quota_t bucket_quota(const weir_token_bucket_t *bucket, const weir_rows_terms_t *terms)
{
    if (!terms->is_old)
        return conf_quota(terms->quota);
    return (weir_token_bucket_quota_t){old_rate(bucket, terms).parts_per_ns, terms->quota->burst};
}

/* The rate stays as it is. */
static void old_take(weir_token_bucket_t *bucket, const weir_rows_terms_t *terms, int64_t charge, int64_t now_ns)
{
    old_rate_t rate = old_rate(bucket, terms);
    weir_token_bucket_take(bucket, bucket_quota(bucket, terms), charge, now_ns);
    weir_token_bucket_settle(bucket, rate.parts_per_ns, rate.is_least, now_ns);
}

/* What filled up since then at the quota's own rate is not given back once more. */
static void old_put_back(weir_token_bucket_t *bucket, const weir_rows_terms_t *terms, int64_t cost, int64_t taken_ns,
                         int64_t now_ns)
{
    old_rate_t rate = old_rate(bucket, terms);
    weir_token_bucket_settle(bucket, rate.parts_per_ns, rate.is_least, now_ns);
    weir_token_bucket_put_back(bucket, conf_quota(terms->quota), cost, taken_ns, now_ns);
    weir_token_bucket_settle(bucket, rate.parts_per_ns, rate.is_least, now_ns);
}

static bool bucket_fits(const weir_rows_t *rows, const void *state, const weir_rows_terms_t *terms, int64_t cost,
                        int64_t now_ns)
{
    return weir_token_bucket_fits(state, bucket_quota(state, terms), cost, now_ns);
}

static weir_told_t bucket_tell(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t charge,
                               int64_t cost, int64_t now_ns)
{
    if (charge != 0 && terms->is_old)
        old_take(state, terms, charge, now_ns);
    weir_token_bucket_quota_t quota = bucket_quota(state, terms);
    if (charge != 0 && !terms->is_old)
        weir_token_bucket_take(state, quota, charge, now_ns);
    return weir_token_bucket_tell(state, quota, cost, now_ns);
}

static void bucket_put_back(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                            const weir_store_item_t *item, int64_t cost, int64_t now_ns)
{
    if (terms->is_old)
        old_put_back(state, terms, cost, item->charged_ns, now_ns);
    else
        weir_token_bucket_put_back(state, conf_quota(terms->quota), cost, item->charged_ns, now_ns);
}

static int64_t bucket_reset_with(const void *state, const weir_rows_terms_t *terms, int64_t more, int64_t now_ns)
{
    weir_token_bucket_t bucket = *(const weir_token_bucket_t *)state;
    return bucket_tell(NULL, &bucket, terms, more, 0, now_ns).reset_ns;
}

static void bucket_see(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t now_ns)
{
    if (!terms->is_old && weir_token_bucket_is_least(state))
        weir_token_bucket_see(state, conf_quota(terms->quota), now_ns);
}

static bool bucket_is_free(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns)
{
    return weir_token_bucket_is_full(state, now_ns);
}

/* Rates that change */

typedef struct {
    uint64_t before, after; /* after: the slowest; 0 only where all are */
    bool is_least;          /* there are others */
} rate_change_t;

struct weir_rows_rates {
    uint64_t slowest;
    size_t count;
    rate_change_t changes[]; /* by `before` */
};

static uint64_t slower(uint64_t a, uint64_t b)
{
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static uint64_t rate_of(const weir_conf_limit_t *limit, const char *tenant)
{
    return conf_quota(weir_conf_quota_of(limit, tenant, strlen(tenant))).parts_per_ns;
}

static uint64_t slowest_of(const weir_conf_limit_t *limit)
{
    uint64_t slowest = conf_quota(&limit->quota).parts_per_ns;
    for (size_t i = 0; i < limit->tenants.size; ++i)
        slowest = slower(slowest, conf_quota(&limit->tenants.entries[i].quota).parts_per_ns);
    return slowest;
}

static int by_rate(const void *a, const void *b)
{
    uint64_t x = ((const rate_change_t *)a)->before, y = ((const rate_change_t *)b)->before;
    return (x > y) - (x < y);
}

/* Makes one of those that had the same rate. */
static void join_changes(weir_rows_rates_t *rates)
{
    size_t count = 0;
    qsort(rates->changes, rates->count, sizeof(*rates->changes), by_rate);
    for (size_t i = 0; i < rates->count; ++i) {
        rate_change_t *last = &rates->changes[count != 0 ? count - 1 : 0], change = rates->changes[i];
        if (count == 0 || last->before != change.before) {
            rates->changes[count++] = change;
            continue;
        }
        last->is_least |= last->after != change.after;
        last->after = slower(last->after, change.after);
    }
    rates->count = count;
}

static void add_changes(weir_rows_rates_t *rates, const weir_conf_limit_t *of, const weir_conf_limit_t *before,
                        const weir_conf_limit_t *after)
{
    for (size_t i = 0; i < of->tenants.size; ++i) {
        const char *tenant = of->tenants.entries[i].tenant;
        rates->changes[rates->count++] =
            (rate_change_t){.before = rate_of(before, tenant), .after = rate_of(after, tenant)};
    }
}

weir_rows_rates_t *weir_rows_rates_create(const weir_conf_limit_t *before, const weir_conf_limit_t *after)
{
    size_t count = 1 + before->tenants.size + after->tenants.size;
    weir_rows_rates_t *rates = malloc(sizeof(*rates) + count * sizeof(*rates->changes));
    assert(rates != NULL);
    rates->slowest = slowest_of(after);
    rates->count = 1;
    rates->changes[0] = (rate_change_t){.before = conf_quota(&before->quota).parts_per_ns,
                                        .after = conf_quota(&after->quota).parts_per_ns};
    add_changes(rates, before, before, after);
    add_changes(rates, after, before, after);
    join_changes(rates);
    return rates;
}

void weir_rows_rates_destroy(weir_rows_rates_t *rates)
{
    free(rates);
}

static void bucket_change(const weir_rows_t *rows, void *state, const weir_rows_rates_t *rates, int64_t now_ns)
{
    weir_token_bucket_t *bucket = state;
    rate_change_t wanted = {.before = weir_token_bucket_rate(bucket)};
    const rate_change_t *change = NULL;
    if (!weir_token_bucket_is_least(bucket))
        change = bsearch(&wanted, rates->changes, rates->count, sizeof(wanted), by_rate);
    if (change != NULL)
        weir_token_bucket_settle(bucket, change->after, change->is_least, now_ns);
    else
        weir_token_bucket_settle(bucket, rates->slowest, true, now_ns);
}

/* sliding_window, precision: slots */

static weir_sliding_window_quota_t window_quota(const weir_rows_terms_t *terms)
{
    return (weir_sliding_window_quota_t){.limit = terms->quota->limit, .window_ns = terms->quota->window_ns};
}

static bool window_fits(const weir_rows_t *rows, const void *state, const weir_rows_terms_t *terms, int64_t cost,
                        int64_t now_ns)
{
    return weir_sliding_window_fits(state, window_quota(terms), cost, now_ns);
}

static weir_told_t window_tell(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t charge,
                               int64_t cost, int64_t now_ns)
{
    if (charge != 0)
        weir_sliding_window_take(state, window_quota(terms), charge, now_ns);
    return weir_sliding_window_tell(state, window_quota(terms), cost, now_ns);
}

static void window_put_back(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                            const weir_store_item_t *item, int64_t cost, int64_t now_ns)
{
    weir_sliding_window_put_back(state, window_quota(terms), cost, item->charged_ns);
}

static int64_t window_reset_with(const void *state, const weir_rows_terms_t *terms, int64_t more, int64_t now_ns)
{
    weir_sliding_window_t window = *(const weir_sliding_window_t *)state;
    return window_tell(NULL, &window, terms, more, 0, now_ns).reset_ns;
}

static bool window_is_free(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns)
{
    return weir_sliding_window_is_empty(state, window_ns, now_ns);
}

/* sliding_window, precision: exact */

static bool log_fits(const weir_rows_t *rows, const void *state, const weir_rows_terms_t *terms, int64_t cost,
                     int64_t now_ns)
{
    return weir_sliding_log_fits(state, window_quota(terms), cost, now_ns);
}

/* What is charged beyond a small limit leaves the log of the key as it is for a larger one. */
static void log_take(void *state, const weir_rows_terms_t *terms, int64_t charge, int64_t now_ns)
{
    weir_sliding_window_quota_t quota = window_quota(terms);
    int64_t largest = atomic_load_explicit(&terms->bounds->largest, memory_order_relaxed);
    quota.limit = largest > quota.limit ? largest : quota.limit;
    weir_sliding_log_take(state, quota, charge, now_ns);
}

static weir_told_t log_tell(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t charge,
                            int64_t cost, int64_t now_ns)
{
    if (charge != 0)
        log_take(state, terms, charge, now_ns);
    return weir_sliding_log_tell(state, window_quota(terms), cost, now_ns);
}

static void log_put_back(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                         const weir_store_item_t *item, int64_t cost, int64_t now_ns)
{
    weir_sliding_log_put_back(state, window_quota(terms), cost, item->charged_ns);
}

/* What is charged now is forgotten last, and the log counts both ends of a window. */
static int64_t log_reset_with(const void *state, const weir_rows_terms_t *terms, int64_t more, int64_t now_ns)
{
    return terms->quota->window_ns + 1;
}

static bool log_is_free(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns)
{
    return weir_sliding_log_is_empty(state, window_ns, now_ns);
}

static void log_dispose(void *state)
{
    weir_sliding_log_dispose(state);
}

static void plain_reset(const weir_rows_t *rows, void *state)
{
    if (rows->dispose != NULL)
        rows->dispose(state);
    memset(state, 0, rows->state_bytes);
}

/* concurrency */

/* Newcomers do not pass those who wait. */
static bool slots_fit(const weir_rows_t *rows, const void *state, const weir_rows_terms_t *terms, int64_t cost,
                      int64_t now_ns)
{
    const weir_slots_t *slots = state;
    return cost == 0 || (weir_line_is_empty(slots->line) && cost <= terms->quota->limit - slots->used);
}

static weir_told_t slots_tell(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t charge,
                              int64_t cost, int64_t now_ns)
{
    weir_slots_t *slots = state;
    slots->used += charge;
    int64_t remaining = terms->quota->limit - slots->used;
    return (weir_told_t){.remaining = remaining > 0 ? remaining : 0, .reset_ns = -1};
}

static void slots_put_back(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                           const weir_store_item_t *item, int64_t cost, int64_t now_ns)
{
    weir_slots_t *slots = state;
    assert(slots->used >= cost);
    slots->used -= cost;
}

static void slots_settle(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                         const weir_store_item_t *item, int64_t now_ns)
{
    slots_put_back(rows, state, terms, item, item->cost, now_ns);
}

static void slots_reset(const weir_rows_t *rows, void *state)
{
}

static bool slots_are_free(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns)
{
    return ((const weir_slots_t *)state)->used == 0;
}

static void slots_dispose(void *state)
{
    weir_line_free(((weir_slots_t *)state)->line);
}

/* request_bytes: a body whose size was not told costs 1 at first. */

static bool bytes_fit(const weir_rows_t *rows, const void *state, const weir_rows_terms_t *terms, int64_t cost,
                      int64_t now_ns)
{
    if (cost == 0) /* no body: a debt does not keep it out, a rate of 0 does */
        return terms->quota->burst == 0 || terms->quota->rate.count != 0;
    return rows->inner->fits(rows->inner, state, terms, cost, now_ns);
}

static void bytes_settle(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                         const weir_store_item_t *item, int64_t now_ns)
{
    if (item->spent > item->cost)
        rows->tell(rows, state, terms, item->spent - item->cost, 0, now_ns);
    else if (item->spent < item->cost)
        rows->put_back(rows, state, terms, item, item->cost - item->spent, now_ns);
}

/* llm_tokens: what requests in flight may yet spend is reserved, and asked for with what is asked for next. */

typedef struct {
    int64_t reserved;
    _Alignas(8) unsigned char inner[];
} reserving_t;

static int64_t add(int64_t a, int64_t b)
{
    return a < INT64_MAX - b ? a + b : INT64_MAX;
}

static bool reserving_fits(const weir_rows_t *rows, const void *state, const weir_rows_terms_t *terms, int64_t cost,
                           int64_t now_ns)
{
    const reserving_t *row = state;
    return rows->inner->fits(rows->inner, row->inner, terms, add(cost, row->reserved), now_ns);
}

/* What is asked about beyond the quota would never be there: when reservations end is not known, and the caller may
 * come again when all else is. */
static int64_t asked_of(const reserving_t *row, const weir_conf_quota_t *quota, int64_t cost)
{
    int64_t most = weir_store_quota_size(quota), asked = add(cost, row->reserved);
    return cost == 0 || cost > most ? cost : asked > most ? most : asked;
}

static weir_told_t reserving_tell(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t charge,
                                  int64_t cost, int64_t now_ns)
{
    reserving_t *row = state;
    row->reserved += charge;
    weir_told_t told = rows->inner->tell(rows->inner, row->inner, terms, 0, asked_of(row, terms->quota, cost), now_ns);
    if (row->reserved == 0)
        return told;
    told.remaining = told.remaining > row->reserved ? told.remaining - row->reserved : 0;
    told.reset_ns = rows->inner->reset_with(row->inner, terms, row->reserved, now_ns);
    return told;
}

static void reserving_put_back(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                               const weir_store_item_t *item, int64_t cost, int64_t now_ns)
{
    reserving_t *row = state;
    assert(row->reserved >= cost);
    row->reserved -= cost;
}

static void reserving_settle(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                             const weir_store_item_t *item, int64_t now_ns)
{
    reserving_t *row = state;
    reserving_put_back(rows, state, terms, item, item->cost, now_ns);
    rows->inner->tell(rows->inner, row->inner, terms, item->spent, 0, now_ns);
}

static void reserving_see(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t now_ns)
{
    rows->inner->see(rows->inner, ((reserving_t *)state)->inner, terms, now_ns);
}

static void reserving_reset(const weir_rows_t *rows, void *state)
{
    rows->inner->reset(rows->inner, ((reserving_t *)state)->inner);
}

static bool reserving_is_free(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns)
{
    const reserving_t *row = state;
    return row->reserved == 0 && rows->inner->is_free(rows->inner, row->inner, window_ns, now_ns);
}

static void reserving_change(const weir_rows_t *rows, void *state, const weir_rows_rates_t *rates, int64_t now_ns)
{
    rows->inner->change(rows->inner, ((reserving_t *)state)->inner, rates, now_ns);
}

static void reserving_log_dispose(void *state)
{
    log_dispose(((reserving_t *)state)->inner);
}

/* The kinds */

typedef enum { BUCKET, WINDOW, LOG, SLOTS, ALGORITHMS } kind_t;

static const weir_rows_t kinds[][ALGORITHMS] =
    {
        [WEIR_UNIT_REQUESTS] =
            {
                [BUCKET] = {.state_bytes = sizeof(weir_token_bucket_t),
                            .fits = bucket_fits,
                            .tell = bucket_tell,
                            .put_back = bucket_put_back,
                            .reset_with = bucket_reset_with,
                            .see = bucket_see,
                            .reset = plain_reset,
                            .is_free = bucket_is_free,
                            .change = bucket_change},
                [WINDOW] = {.state_bytes = sizeof(weir_sliding_window_t),
                            .fits = window_fits,
                            .tell = window_tell,
                            .put_back = window_put_back,
                            .reset_with = window_reset_with,
                            .reset = plain_reset,
                            .is_free = window_is_free},
                [LOG] = {.state_bytes = sizeof(weir_sliding_log_t),
                         .fits = log_fits,
                         .tell = log_tell,
                         .put_back = log_put_back,
                         .reset_with = log_reset_with,
                         .reset = plain_reset,
                         .is_free = log_is_free,
                         .dispose = log_dispose},
                [SLOTS] = {.state_bytes = sizeof(weir_slots_t),
                           .are_slots = true,
                           .fits = slots_fit,
                           .tell = slots_tell,
                           .put_back = slots_put_back,
                           .settle = slots_settle,
                           .reset = slots_reset,
                           .is_free = slots_are_free,
                           .dispose = slots_dispose},
            },
        [WEIR_UNIT_REQUEST_BYTES] =
            {
                [BUCKET] = {.state_bytes = sizeof(weir_token_bucket_t),
                            .inner = &kinds[WEIR_UNIT_REQUESTS][BUCKET],
                            .fits = bytes_fit,
                            .tell = bucket_tell,
                            .put_back = bucket_put_back,
                            .settle = bytes_settle,
                            .see = bucket_see,
                            .reset = plain_reset,
                            .is_free = bucket_is_free,
                            .change = bucket_change},
                [WINDOW] = {.state_bytes = sizeof(weir_sliding_window_t),
                            .inner = &kinds[WEIR_UNIT_REQUESTS][WINDOW],
                            .fits = bytes_fit,
                            .tell = window_tell,
                            .put_back = window_put_back,
                            .settle = bytes_settle,
                            .reset = plain_reset,
                            .is_free = window_is_free},
                [LOG] = {.state_bytes = sizeof(weir_sliding_log_t),
                         .inner = &kinds[WEIR_UNIT_REQUESTS][LOG],
                         .fits = bytes_fit,
                         .tell = log_tell,
                         .put_back = log_put_back,
                         .settle = bytes_settle,
                         .reset = plain_reset,
                         .is_free = log_is_free,
                         .dispose = log_dispose},
            },
        [WEIR_UNIT_LLM_TOKENS] =
            {
                [BUCKET] = {.state_bytes = sizeof(reserving_t) + sizeof(weir_token_bucket_t),
                            .inner = &kinds[WEIR_UNIT_REQUESTS][BUCKET],
                            .fits = reserving_fits,
                            .tell = reserving_tell,
                            .put_back = reserving_put_back,
                            .settle = reserving_settle,
                            .see = reserving_see,
                            .reset = reserving_reset,
                            .is_free = reserving_is_free,
                            .change = reserving_change},
                [WINDOW] = {.state_bytes = sizeof(reserving_t) + sizeof(weir_sliding_window_t),
                            .inner = &kinds[WEIR_UNIT_REQUESTS][WINDOW],
                            .fits = reserving_fits,
                            .tell = reserving_tell,
                            .put_back = reserving_put_back,
                            .settle = reserving_settle,
                            .reset = reserving_reset,
                            .is_free = reserving_is_free},
                [LOG] = {.state_bytes = sizeof(reserving_t) + sizeof(weir_sliding_log_t),
                         .inner = &kinds[WEIR_UNIT_REQUESTS][LOG],
                         .fits = reserving_fits,
                         .tell = reserving_tell,
                         .put_back = reserving_put_back,
                         .settle = reserving_settle,
                         .reset = reserving_reset,
                         .is_free = reserving_is_free,
                         .dispose = reserving_log_dispose},
            },
};

static kind_t kind_of(const weir_conf_limit_t *limit)
{
    switch (limit->algorithm) {
    case WEIR_LIMIT_CONCURRENCY:
        return SLOTS;
    case WEIR_LIMIT_SLIDING_WINDOW:
        return limit->precision == WEIR_PRECISION_EXACT ? LOG : WINDOW;
    default:
        return BUCKET;
    }
}

const weir_rows_t *weir_rows_of(const weir_conf_limit_t *limit)
{
    const weir_rows_t *rows = &kinds[limit->unit][kind_of(limit)];
    assert(rows->state_bytes != 0 && rows->state_bytes <= WEIR_ROWS_STATE_BYTES_MAX); /* concurrency is in requests */
    return rows;
}

static int64_t largest_of(const weir_conf_limit_t *limit)
{
    int64_t largest = limit->quota.limit;
    for (size_t i = 0; i < limit->tenants.size; ++i)
        if (limit->tenants.entries[i].quota.limit > largest)
            largest = limit->tenants.entries[i].quota.limit;
    return largest;
}

void weir_rows_bounds_set(weir_rows_bounds_t *bounds, const weir_conf_limit_t *limit)
{
    uint64_t slowest = kind_of(limit) == BUCKET ? slowest_of(limit) : 0;
    atomic_store_explicit(&bounds->slowest, slowest, memory_order_relaxed);
    atomic_store_explicit(&bounds->largest, largest_of(limit), memory_order_relaxed);
}

uint64_t weir_rows_bytes_elsewhere(const weir_conf_limit_t *limit)
{
    enum { ENTRY_BYTES = 16, SPARE = 2, ENTRIES_MIN = 2 }; /* as sliding_log.h says */
    if (kind_of(limit) != LOG)
        return 0;
    int64_t entries = largest_of(limit);
    entries = entries < ENTRIES_MIN ? ENTRIES_MIN : entries < WEIR_SLIDING_LOG_MAX ? entries : WEIR_SLIDING_LOG_MAX;
    return (uint64_t)entries * ENTRY_BYTES * SPARE;
}
