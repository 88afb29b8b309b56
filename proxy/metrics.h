#ifndef WEIR_PROXY_METRICS_H
#define WEIR_PROXY_METRICS_H

/* Counters, gauges and histograms of conf/metrics.def, in slots of each worker's own, summed when scraped.
 *
 * A series (a metric and its label values) is a slot number, the same in every worker. Finding or making one takes a
 * lock: callers keep it in a weir_series_t. Counting takes no lock and no atomic read-modify-write: a worker's slots
 * are written by that worker alone. Slot 0 is a slot for nothing, so that 0 means "not looked up yet". */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
#define METRIC(id, kind, name, labels, help) WEIR_METRIC_##id,
#include "../conf/metrics.def"
#undef METRIC
    WEIR_METRIC_COUNT
} weir_metric_t;

typedef struct weir_metrics weir_metrics_t;
typedef struct weir_metrics_worker weir_metrics_worker_t;
typedef _Atomic uint32_t weir_series_t; /* zeroed at first; filled by weir_metrics_series */

weir_metrics_t *weir_metrics_create(size_t workers, size_t tenant_series);
void weir_metrics_destroy(weir_metrics_t *metrics);
weir_metrics_worker_t *weir_metrics_worker(weir_metrics_t *metrics, size_t index);

/* The slot of metric with these label values (as many as the metric has labels, NULL-terminated strings). Cached in
 * *cache when it is not NULL. Bounded: past the bound of series it is slot 0, counted in nothing. Thread-safe. */
uint32_t weir_metrics_series(weir_metrics_t *metrics, weir_series_t *cache, weir_metric_t metric,
                             const char *const *labels);

/* A small number for a tenant, the same in all workers: 0 is `__other__`, 1 .. tenant_series are the first tenants
 * seen. Safe from any worker, without a lock once the name is known or the places are taken. */
uint32_t weir_metrics_tenant(weir_metrics_worker_t *worker, const char *name, size_t len);
size_t weir_metrics_tenant_capacity(const weir_metrics_t *metrics); /* the highest number there can be */
const char *weir_metrics_tenant_name(weir_metrics_t *metrics, uint32_t number);

void weir_metrics_add(weir_metrics_worker_t *worker, uint32_t slot, int64_t n);      /* counters; gauges up and down */
void weir_metrics_observe(weir_metrics_worker_t *worker, uint32_t slot, int64_t ns); /* histograms of seconds */
/* The same of something that has a W3C trace id (WEIR_TRACE_ID_BYTES hex digits; NULL: it has none) and began at that
 * Unix time: where the metric is a HISTOGRAM_TRACED, the bucket shows it, if what it shows did not begin within a
 * second of it. */
enum { WEIR_TRACE_ID_BYTES = 32 };
void weir_metrics_observe_traced(weir_metrics_worker_t *worker, uint32_t slot, int64_t ns, const char *trace_id,
                                 int64_t began_wall_ms);

/* Sum over all workers. Any thread, as the one below. */
int64_t weir_metrics_value(weir_metrics_t *metrics, uint32_t slot);

/* What was counted in a metric's series, by what one of their labels says. Words there is no room for
 * are in `sum` alone. */
enum { WEIR_METRICS_WORDS_MAX = 64, WEIR_METRICS_WORD_BYTES = 31 };
typedef struct {
    int64_t sum; /* of all series */
    size_t count;
    struct {
        char word[WEIR_METRICS_WORD_BYTES + 1];
        int64_t sum;
    } words[WEIR_METRICS_WORDS_MAX];
} weir_metrics_sums_t;

/* By the first `bytes` of each value of `label`. Of the series whose label `where` has the value `is`; NULL: of all. */
weir_metrics_sums_t weir_metrics_sums(weir_metrics_t *metrics, weir_metric_t metric, const char *where, const char *is,
                                      const char *label, size_t bytes);
int64_t weir_metrics_sum_of(const weir_metrics_sums_t *sums, const char *word); /* 0 where there is none */

/* For what is read at the time of a scrape rather than counted: from now on the series has this value, whatever was
 * counted. weir_metrics_clear takes all series of a metric out of the text until they are set again. One thread. */
void weir_metrics_set(weir_metrics_t *metrics, uint32_t slot, double value);
void weir_metrics_clear(weir_metrics_t *metrics, weir_metric_t metric);

/* The text that is scraped (malloc'ed, *len set): Prometheus 0.0.4, or OpenMetrics 1.0, which has exemplars. The
 * process's own numbers are read here; one thread. */
char *weir_metrics_render(weir_metrics_t *metrics, int open_metrics, size_t *len);

#endif
