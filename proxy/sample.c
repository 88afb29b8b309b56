#include "sample.h"

#include <stdint.h>
#include "health.h"
#include "history.h"
#include "upstream.h"

static int64_t count_saved(weir_metrics_t *metrics)
{
    weir_metrics_sums_t results = weir_metrics_sums(metrics, WEIR_METRIC_DEDUP, NULL, NULL, "result", SIZE_MAX);
    return weir_metrics_sum_of(&results, "replayed") + weir_metrics_sum_of(&results, "acknowledged") +
           weir_metrics_sum_of(&results, "shared") + weir_metrics_sum_of(&results, "rejected");
}

static void sample_breakers(weir_server_t *server)
{
    const weir_snapshot_t *snapshot = server->snapshot;
    for (size_t i = 0; i != snapshot->conf->upstreams.size; ++i) {
        const weir_conf_upstream_t *conf = &snapshot->conf->upstreams.entries[i];
        weir_health_t *health = weir_upstream_health(snapshot->upstreams[i]);
        size_t count = weir_health_shown(health, conf);
        for (size_t k = 0; k != count; ++k) {
            weir_health_state_t state = weir_health_state(health, conf, k);
            weir_history_breaker(server->history, conf->name, state.model, state.word);
        }
    }
}

void weir_sample_take(weir_server_t *server, size_t in_flight)
{
    weir_metrics_t *metrics = server->metrics;
    weir_metrics_sums_t classes = weir_metrics_sums(metrics, WEIR_METRIC_REQUESTS, NULL, NULL, "status", 1);
    weir_metrics_sums_t reasons = weir_metrics_sums(metrics, WEIR_METRIC_REFUSED, NULL, NULL, "reason", SIZE_MAX);
    const int64_t values[WEIR_HISTORY_SERIES] = {
        [WEIR_HISTORY_REQUESTS] = classes.sum,
        [WEIR_HISTORY_FAILED] = weir_metrics_sum_of(&classes, "5"),
        [WEIR_HISTORY_REFUSED] = reasons.sum,
        [WEIR_HISTORY_SAVED] = count_saved(metrics),
        [WEIR_HISTORY_IN_FLIGHT] = (int64_t)in_flight,
    };
    weir_history_sample(server->history, values, weir_clock_turn_ns);
    sample_breakers(server);
}
