/* What fields of a dedup follow from others, and what its Bloom filters can hold. */

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include "scalar.h"
#include "table.h"

void weir_conf_derive_max_response(void *row, const void *outer)
{
    const uint64_t usual_bytes = 1 << 20;
    weir_conf_dedup_t *dedup = row;
    dedup->max_response_bytes = dedup->memory_bytes < usual_bytes ? dedup->memory_bytes : usual_bytes;
}

void weir_conf_derive_keep_responses(void *row, const void *outer)
{
    const int64_t usual_ns = 3600 * WEIR_CONF_NS_PER_S;
    weir_conf_dedup_t *dedup = row;
    dedup->keep_responses_ns = dedup->window_ns < usual_ns ? dedup->window_ns : usual_ns;
}

void weir_conf_derive_no_dedup(void *row, const void *outer)
{
    weir_conf_route_t *route = row;
    route->dedup = SIZE_MAX;
}

/* libbloom 1.6, bloom_init: bits = (int)(entries * bits_per_entry). */
int64_t weir_conf_bloom_expected_max(double false_positives)
{
    const double ln2_squared = 0.480453013918201;
    double bits_per_entry = -(log(false_positives * 0.75) / ln2_squared); /* of each of two filters */
    return (int64_t)(INT_MAX / bits_per_entry);
}
