#ifndef WEIR_FILTERS_ROWS_H
#define WEIR_FILTERS_ROWS_H

/* What the store in memory keeps of a key: one kind of row for each algorithm, precision and unit.
 *
 * Guarantee: a state of 0 is a key that was never seen, and is_free says when a row carries no more than that. What is
 * reserved stands beside the algorithm's own state: nothing is admitted that would not fit if all of it were spent now.
 *
 * Time is the caller's, in ns, and may stand still but not go back. The caller locks. */

#include <stdatomic.h>
#include "core/lanes.h"
#include "core/told.h"
#include "store.h"

enum { WEIR_ROWS_STATE_BYTES_MAX = 320 };

typedef struct weir_rows weir_rows_t;

/* What the quotas in force come to. */
typedef struct {
    _Atomic uint64_t slowest; /* rate of a bucket, but for those that are refused altogether */
    _Atomic int64_t largest;  /* limit */
} weir_rows_bounds_t;

/* At which quota a row is asked. A bucket fills up at the rates in force, whatever the asker's configuration says. */
typedef struct {
    const weir_conf_quota_t *quota;
    const weir_rows_bounds_t *bounds;
    bool is_old; /* another configuration is in force than the one that the quota is of */
} weir_rows_terms_t;

/* From which rates to which a bucket's quotas change. */
typedef struct weir_rows_rates weir_rows_rates_t;

struct weir_rows {
    size_t state_bytes;
    bool are_slots;           /* weir_slots_t: whoever gives one back serves the line */
    const weir_rows_t *inner; /* of those with reservations: what they are reserved of */
    /* Whether `cost` is there. */
    bool (*fits)(const weir_rows_t *rows, const void *state, const weir_rows_terms_t *terms, int64_t cost,
                 int64_t now_ns);
    /* Charges `charge`, there or not, unless it is 0; then tells what there is, and of `cost`, when it will be there.
     */
    weir_told_t (*tell)(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t charge,
                        int64_t cost, int64_t now_ns);
    /* As if the item had not been charged `cost` of what it was. */
    void (*put_back)(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms,
                     const weir_store_item_t *item, int64_t cost, int64_t now_ns);
    /* The item's request is over. NULL: what was charged stays so. */
    void (*settle)(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, const weir_store_item_t *item,
                   int64_t now_ns);
    /* Until all is there again if `more` were charged now; of those that can be reserved of. */
    int64_t (*reset_with)(const void *state, const weir_rows_terms_t *terms, int64_t more, int64_t now_ns);
    /* A key is decided, and nothing may be charged: what was earned until now at its rate is not to be lost when rates
     * change. NULL: nothing can be. */
    void (*see)(const weir_rows_t *rows, void *state, const weir_rows_terms_t *terms, int64_t now_ns);
    /* Forgets what was used, not what is in use. */
    void (*reset)(const weir_rows_t *rows, void *state);
    bool (*is_free)(const weir_rows_t *rows, const void *state, int64_t window_ns, int64_t now_ns);
    /* The quotas change. NULL: that makes no difference. */
    void (*change)(const weir_rows_t *rows, void *state, const weir_rows_rates_t *rates, int64_t now_ns);
    void (*dispose)(void *state); /* frees what it holds; NULL: nothing */
};

typedef struct {
    int64_t used;
    weir_line_t *line; /* NULL where nobody waits, or nobody any more, and always where used is 0 */
} weir_slots_t;

const weir_rows_t *weir_rows_of(const weir_conf_limit_t *limit);

void weir_rows_bounds_set(weir_rows_bounds_t *bounds, const weir_conf_limit_t *limit);

/* A row has a rate, and no name: its new rate is the slowest of those keys that had it before. Where these go apart,
 * that is the least it may be, until the key is decided again; if rates change before that, the slowest of all is. */
weir_rows_rates_t *weir_rows_rates_create(const weir_conf_limit_t *before, const weir_conf_limit_t *after);
void weir_rows_rates_destroy(weir_rows_rates_t *rates);

/* What a row's state has elsewhere, at worst. */
uint64_t weir_rows_bytes_elsewhere(const weir_conf_limit_t *limit);

#endif
