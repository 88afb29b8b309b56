/* What the admin pages ask of the limit filter. */
#include "limit.h"

#include "limit_plan.h"

static size_t explain_part(const weir_chain_t *chain, const char *part, weir_request_t *request,
                           weir_limit_explained_t *explained)
{
    const weir_limit_plans_t *plans = weir_chain_instance(chain, part);
    weir_store_item_t items[WEIR_LIMITS_PER_ROUTE_MAX];
    if (plans == NULL)
        return 0;
    const weir_limit_plan_t *plan = weir_limit_plan_of(plans, request);
    weir_limit_plan_ask(plans, plan, request, items);
    plans->store->peek(plans->store, items, plan->count, request->now_ns);
    for (size_t i = 0; i < plan->count; ++i) {
        const weir_limit_entry_t *entry = &plan->entries[i];
        explained[i] = (weir_limit_explained_t){
            .limit = entry->conf, .item = items[i], .quota = weir_store_quota_size(items[i].quota)};
        weir_limit_key_name(&entry->key, plans->store, request, explained[i].key);
    }
    return plan->count;
}

size_t weir_limit_explain(const weir_chain_t *chain, weir_request_t *request,
                          weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX])
{
    size_t count = explain_part(chain, "limit", request, explained);
    return count + explain_part(chain, "budget", request, explained + count);
}

bool weir_limit_reset(const weir_chain_t *chain, weir_request_t *request, size_t limit)
{
    const weir_limit_plans_t *plans = weir_chain_instance(chain, "limit");
    weir_store_t *store = plans->store;
    weir_store_key_t route = {0};
    weir_limit_key_t key;
    if (request->route != NULL)
        route = weir_limit_key_route(store, request->listener, request->route);
    weir_limit_key_init(&key, &plans->conf->limits.entries[limit], request->listener);
    weir_store_item_t item = {.limit = plans->states[limit],
                              .quota = &plans->conf->limits.entries[limit].quota,
                              .key = weir_limit_key_of(&key, store, request, route)};
    weir_limit_key_dispose(&key);
    return store->reset(store, &item, request->now_ns);
}
