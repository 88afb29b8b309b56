#include "rows.h"

#include <assert.h>
#include <string.h>
#include "core/sliding_log.h"
#include "core/sliding_window.h"
#include "core/token_bucket.h"

/* token_bucket */

static weir_token_bucket_quota_t bucket_quota(const weir_conf_quota_t *quota)
{
    return weir_token_bucket_quota(quota->rate.count, quota->rate.period_ns, quota->burst);
}

static bool bucket_fits(const weir_rows_t *rows, const void *state, const weir_conf_quota_t *quota, int64_t cost,
                        int64_t now_ns)
{
    return weir_token_bucket_fits(state, bucket_quota(quota), cost, now_ns);
}

static weir_told_t bucket_tell(const weir_rows_t *rows, void *state, const weir_conf_quota_t *conf, int64_t charge,
                               int64_t cost, int64_t now_ns)
{
    weir_token_bucket_quota_t quota = bucket_quota(conf);
    if (charge != 0)
        weir_token_bucket_take(state, quota, charge, now_ns);
    return weir_token_bucket_tell(state, quota, cost, now_ns);
}

static void bucket_put_back(const weir_rows_t *rows, void *state, const weir_store_item_t *item, int64_t now_ns)
{
    weir_token_bucket_put_back(state, bucket_quota(item->quota), item->cost, item->charged_ns, now_ns);
}

static int64_t bucket_reset_with(const void *state, const weir_conf_quota_t *conf, int64_t more, int64_t now_ns)
{
    weir_token_bucket_t bucket = *(const weir_token_bucket_t *)state;
    return bucket_tell(NULL, &bucket, conf, more, 0, now_ns).reset_ns;
}

static bool bucket_is_free(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns)
{
    return weir_token_bucket_is_full(state, now_ns);
}

static void bucket_change(const weir_rows_t *rows, void *state, uint64_t slowest, int64_t now_ns)
{
    weir_token_bucket_settle(state, slowest, now_ns);
}

/* sliding_window, precision: slots */

static weir_sliding_window_quota_t window_quota(const weir_conf_quota_t *quota)
{
    return (weir_sliding_window_quota_t){.limit = quota->limit, .window_ns = quota->window_ns};
}

static bool window_fits(const weir_rows_t *rows, const void *state, const weir_conf_quota_t *quota, int64_t cost,
                        int64_t now_ns)
{
    return weir_sliding_window_fits(state, window_quota(quota), cost, now_ns);
}

static weir_told_t window_tell(const weir_rows_t *rows, void *state, const weir_conf_quota_t *quota, int64_t charge,
                               int64_t cost, int64_t now_ns)
{
    if (charge != 0)
        weir_sliding_window_take(state, window_quota(quota), charge, now_ns);
    return weir_sliding_window_tell(state, window_quota(quota), cost, now_ns);
}

static void window_put_back(const weir_rows_t *rows, void *state, const weir_store_item_t *item, int64_t now_ns)
{
    weir_sliding_window_put_back(state, window_quota(item->quota), item->cost, item->charged_ns);
}

static int64_t window_reset_with(const void *state, const weir_conf_quota_t *quota, int64_t more, int64_t now_ns)
{
    weir_sliding_window_t window = *(const weir_sliding_window_t *)state;
    return window_tell(NULL, &window, quota, more, 0, now_ns).reset_ns;
}

static bool window_is_free(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns)
{
    return weir_sliding_window_is_empty(state, window_ns, now_ns);
}

/* sliding_window, precision: exact */

static bool log_fits(const weir_rows_t *rows, const void *state, const weir_conf_quota_t *quota, int64_t cost,
                     int64_t now_ns)
{
    return weir_sliding_log_fits(state, window_quota(quota), cost, now_ns);
}

static weir_told_t log_tell(const weir_rows_t *rows, void *state, const weir_conf_quota_t *quota, int64_t charge,
                            int64_t cost, int64_t now_ns)
{
    if (charge != 0)
        weir_sliding_log_take(state, window_quota(quota), charge, now_ns);
    return weir_sliding_log_tell(state, window_quota(quota), cost, now_ns);
}

static void log_put_back(const weir_rows_t *rows, void *state, const weir_store_item_t *item, int64_t now_ns)
{
    weir_sliding_log_put_back(state, window_quota(item->quota), item->cost, item->charged_ns);
}

/* What is charged now is forgotten last, and the log counts both ends of a window. */
static int64_t log_reset_with(const void *state, const weir_conf_quota_t *quota, int64_t more, int64_t now_ns)
{
    return quota->window_ns + 1;
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
static bool slots_fit(const weir_rows_t *rows, const void *state, const weir_conf_quota_t *quota, int64_t cost,
                      int64_t now_ns)
{
    const weir_slots_t *slots = state;
    return slots->line == NULL && cost <= quota->limit - slots->used;
}

static weir_told_t slots_tell(const weir_rows_t *rows, void *state, const weir_conf_quota_t *quota, int64_t charge,
                              int64_t cost, int64_t now_ns)
{
    weir_slots_t *slots = state;
    slots->used += charge;
    int64_t remaining = quota->limit - slots->used;
    return (weir_told_t){.remaining = remaining > 0 ? remaining : 0, .reset_ns = -1};
}

static void slots_give_back(const weir_rows_t *rows, void *state, const weir_store_item_t *item, int64_t now_ns)
{
    weir_slots_t *slots = state;
    assert(slots->used >= item->cost);
    slots->used -= item->cost;
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

static bool bytes_fit(const weir_rows_t *rows, const void *state, const weir_conf_quota_t *quota, int64_t cost,
                      int64_t now_ns)
{
    if (cost == 0) /* no body: a debt does not keep it out, a rate of 0 does */
        return quota->burst == 0 || quota->rate.count != 0;
    return rows->inner->fits(rows->inner, state, quota, cost, now_ns);
}

static void bytes_settle(const weir_rows_t *rows, void *state, const weir_store_item_t *item, int64_t now_ns)
{
    if (item->spent > item->cost)
        rows->tell(rows, state, item->quota, item->spent - item->cost, 0, now_ns);
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

static bool reserving_fits(const weir_rows_t *rows, const void *state, const weir_conf_quota_t *quota, int64_t cost,
                           int64_t now_ns)
{
    const reserving_t *row = state;
    return rows->inner->fits(rows->inner, row->inner, quota, add(cost, row->reserved), now_ns);
}

/* What is asked about beyond the quota would never be there: when reservations end is not known, and the caller may
 * come again when all else is. */
static int64_t asked_of(const reserving_t *row, const weir_conf_quota_t *quota, int64_t cost)
{
    int64_t most = weir_store_quota_size(quota), asked = add(cost, row->reserved);
    return cost == 0 || cost > most ? cost : asked > most ? most : asked;
}

static weir_told_t reserving_tell(const weir_rows_t *rows, void *state, const weir_conf_quota_t *quota, int64_t charge,
                                  int64_t cost, int64_t now_ns)
{
    reserving_t *row = state;
    row->reserved += charge;
    weir_told_t told = rows->inner->tell(rows->inner, row->inner, quota, 0, asked_of(row, quota, cost), now_ns);
    if (row->reserved == 0)
        return told;
    told.remaining = told.remaining > row->reserved ? told.remaining - row->reserved : 0;
    told.reset_ns = rows->inner->reset_with(row->inner, quota, row->reserved, now_ns);
    return told;
}

static void reserving_put_back(const weir_rows_t *rows, void *state, const weir_store_item_t *item, int64_t now_ns)
{
    reserving_t *row = state;
    assert(row->reserved >= item->cost);
    row->reserved -= item->cost;
}

static void reserving_settle(const weir_rows_t *rows, void *state, const weir_store_item_t *item, int64_t now_ns)
{
    reserving_t *row = state;
    reserving_put_back(rows, state, item, now_ns);
    rows->inner->tell(rows->inner, row->inner, item->quota, item->spent, 0, now_ns);
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

static void reserving_change(const weir_rows_t *rows, void *state, uint64_t slowest, int64_t now_ns)
{
    rows->inner->change(rows->inner, ((reserving_t *)state)->inner, slowest, now_ns);
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
                           .put_back = slots_give_back,
                           .settle = slots_give_back,
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

uint64_t weir_rows_slowest(const weir_conf_limit_t *limit)
{
    uint64_t slowest = bucket_quota(&limit->quota).parts_per_ns;
    for (size_t i = 0; i < limit->tenants.size; ++i) {
        uint64_t rate = bucket_quota(&limit->tenants.entries[i].quota).parts_per_ns;
        if (rate != 0 && (rate < slowest || slowest == 0))
            slowest = rate;
    }
    return slowest;
}

uint64_t weir_rows_bytes_elsewhere(const weir_conf_limit_t *limit)
{
    enum { ENTRY_BYTES = 16, SPARE = 2 }; /* as sliding_log.h says */
    if (kind_of(limit) != LOG)
        return 0;
    int64_t entries = limit->quota.limit;
    for (size_t i = 0; i < limit->tenants.size; ++i)
        if (limit->tenants.entries[i].quota.limit > entries)
            entries = limit->tenants.entries[i].quota.limit;
    return (uint64_t)(entries < WEIR_SLIDING_LOG_MAX ? entries : WEIR_SLIDING_LOG_MAX) * ENTRY_BYTES * SPARE;
}
