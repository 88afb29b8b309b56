#ifndef WEIR_TESTS_SIM_MODEL_H
#define WEIR_TESTS_SIM_MODEL_H

/* Exact models of what a key has used: a bucket in parts of a token of which a day's nanoseconds make one, a window as
 * a list of charges. A window in slots lies between two exact ones: `late` false is the window, true is 61/60 of it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_TOKEN ((__int128)86400 * 1000000000)

typedef struct {
    int64_t count, period_ns, burst;
} model_rate_t;

typedef struct {
    __int128 missing;
    int64_t at_ns;
} model_bucket_t;

typedef struct {
    int64_t at_ns, cost;
} model_charge_t;

typedef struct {
    model_charge_t *charges; /* number n at n % capacity */
    size_t capacity;
    uint64_t first[2], end; /* [late] */
    int64_t sum[2];
} model_window_t;

bool model_bucket_fits(const model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t now_ns);
void model_bucket_take(model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t now_ns);
/* What could not have filled up by itself since taken_ns. */
void model_bucket_put_back(model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t taken_ns, int64_t now_ns);
int64_t model_bucket_remaining(const model_bucket_t *bucket, model_rate_t rate, int64_t now_ns);
int64_t model_bucket_reset_ns(const model_bucket_t *bucket, model_rate_t rate, int64_t now_ns); /* -1: never */
int64_t model_bucket_retry_ns(const model_bucket_t *bucket, model_rate_t rate, int64_t cost, int64_t now_ns);
/* The rate ends here. */
void model_bucket_settle(model_bucket_t *bucket, model_rate_t rate, int64_t now_ns);

int64_t model_window_used(model_window_t *window, int64_t window_ns, bool late, int64_t now_ns);
/* The number of the charge, for put_back. */
uint64_t model_window_take(model_window_t *window, int64_t cost, int64_t now_ns);
void model_window_put_back(model_window_t *window, uint64_t charge, int64_t cost);
int64_t model_window_reset_ns(model_window_t *window, int64_t window_ns, bool late, int64_t now_ns);
int64_t model_window_retry_ns(model_window_t *window, int64_t window_ns, int64_t limit, bool late, int64_t cost,
                              int64_t now_ns);
void model_window_dispose(model_window_t *window);

#endif
