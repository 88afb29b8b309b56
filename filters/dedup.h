#ifndef WEIR_FILTERS_DEDUP_H
#define WEIR_FILTERS_DEDUP_H

/* What an operator asks of the dedup filter; the filter itself is weir_filter_dedup. */

#include "store.h"

typedef struct weir_dedups weir_dedups_t; /* the filter's instance */

/* Forgets a key of a tenant, wherever it may be found, in every route and method that has this dedup; returns in how many
 * it was known. */
size_t weir_dedups_reset(const weir_dedups_t *dedups, size_t dedup, weir_str_t tenant, weir_str_t key, int64_t now_ns);

/* What a request with this key would be told; RUN where it has no dedup. Nothing changes. */
weir_store_claim_told_t weir_dedups_peek(const weir_dedups_t *dedups, const weir_request_t *request, weir_str_t key,
                                         bool *is_replay);

#endif
