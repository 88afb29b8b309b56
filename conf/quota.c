/* The numbers of a limit: what they are where the file is silent, and whose they are. */

#include <string.h>
#include "scalar.h"
#include "table.h"

/* As in fields/limit.def: what is derived must be right if it is written. */
static const int64_t burst_max = 1000000000;

void weir_conf_derive_burst(void *row, const void *outer)
{
    const weir_conf_limit_t *limit = outer;
    weir_conf_quota_t *quota = row;
    int64_t of_seconds = limit->unit == WEIR_UNIT_LLM_TOKENS ? 60 : 1;
    int64_t seconds = quota->rate.period_ns / WEIR_CONF_NS_PER_S; /* 0 where the rate is wrong */
    int64_t burst = seconds > 0 ? (quota->rate.count * of_seconds + seconds - 1) / seconds : 0;
    quota->burst = burst < 1 ? 1 : burst > burst_max ? burst_max : burst;
}

/* As strcmp of the name and `other`. */
static int compare(const char *tenant, size_t len, const char *other)
{
    int order = strncmp(tenant, other, len);
    return order != 0 ? order : -(other[len] != '\0');
}

const weir_conf_quota_t *weir_conf_quota_of(const weir_conf_limit_t *limit, const char *tenant, size_t len)
{
    size_t low = 0, high = len > 0 ? limit->tenants.size : 0;
    while (low != high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(tenant, len, limit->tenants.entries[middle].tenant);
        if (order == 0)
            return &limit->tenants.entries[middle].quota;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return &limit->quota;
}
