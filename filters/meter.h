#ifndef WEIR_FILTERS_METER_H
#define WEIR_FILTERS_METER_H

/* What tokens count for: the same for an estimate as for what was used. */

#include "filter.h"

/* The sum of a usage by usage.weights, rounded up; at most 10^8. Its `weighted` is not looked at. */
int64_t weir_meter_weigh(const weir_usage_t *usage, const weir_conf_upstream_usage_t *conf);

/* Tokens of so many bytes, rounded up. */
static inline int64_t weir_meter_tokens(uint64_t bytes, const weir_conf_upstream_usage_t *conf)
{
    uint64_t each = (uint64_t)conf->estimate;
    return (int64_t)(bytes / each + (bytes % each != 0));
}

#endif
