#ifndef WEIR_FILTERS_LIMIT_H
#define WEIR_FILTERS_LIMIT_H

/* What the admin pages ask of the limit filter: what a request would meet, consuming nothing, and a fresh start for one
 * key. Any thread, as the store's functions are. */

#include "store.h"

enum { WEIR_LIMIT_KEY_NAME_MAX = 192 };

/* One limit of the request's route. */
typedef struct {
    const weir_conf_limit_t *limit;
    weir_store_item_t item;            /* as weir_store_t.peek answered it */
    int64_t quota;                     /* burst, or limit, of this key */
    char key[WEIR_LIMIT_KEY_NAME_MAX]; /* tenant=acme model=gpt-5; "" for key: [] */
} weir_limit_explained_t;

/* request->route is set, and what its limits count by: tenant, client_ip, correlation_id, picked (the model), fields.
 */
size_t weir_limit_explain(const weir_chain_t *chain, weir_request_t *request,
                          weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX]);

/* Forgets what the request's key of conf->limits[limit] has used; request->route is set if `route` is in its key.
 * False: the table is full, and the key counts together with others, who keep what they have. */
bool weir_limit_reset(const weir_chain_t *chain, weir_request_t *request, size_t limit);

#endif
