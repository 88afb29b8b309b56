#ifndef WEIR_FILTERS_LIMIT_PLAN_H
#define WEIR_FILTERS_LIMIT_PLAN_H

/* What the limit filter knows before a request comes: for each route, which limits it meets and how it is counted. */

#include "limit_fields.h"
#include "limit_key.h"
#include "store.h"

/* One limit of one route. */
typedef struct {
    const weir_conf_limit_t *conf;
    size_t limit;    /* index into conf->limits */
    size_t same_key; /* the first entry of the route that counts by the same key */
    weir_limit_key_t key;
    weir_str_t priority; /* the header's name in lower case; base NULL: none */
    bool has_queue;
    bool is_of_chains; /* `correlation` is in its key */
} weir_limit_entry_t;

typedef struct weir_limit_plan {
    weir_store_key_t id; /* of the route */
    const weir_conf_upstream_t *upstream;
    size_t count;
    weir_limit_entry_t *entries;   /* by ascending `limit`, as the store takes their slots in this order */
    bool is_plain;                 /* all count requests, over time: the end of one changes nothing */
    bool needs_body;               /* where there is one: what it says, or all of it before a slot is held */
    bool needs_size;               /* of a body whose length was not told */
    struct weir_limit_plan *early; /* the limits that may refuse before the body is read; NULL: none, or it is not */
    const weir_limit_text_t *texts[WEIR_LIMITS_PER_ROUTE_MAX]; /* of each entry */
} weir_limit_plan_t;

/* Which of a route's limits an instance decides. On a route with dedup those in llm_tokens come after it: a duplicate uses
 * none. On any other all are one decision. */
typedef enum { WEIR_LIMIT_PART_FIRST, WEIR_LIMIT_PART_BUDGET } weir_limit_part_t;

/* The filter's instance. */
typedef struct {
    weir_limit_part_t part;
    const weir_conf_t *conf; /* outlives the instance, as all of a snapshot does */
    weir_store_t *store;
    weir_store_limit_t **states; /* of each limit */
    weir_limit_text_t *texts;    /* of each limit */
    weir_limit_plan_t **plans;   /* of each listener, of each route */
} weir_limit_plans_t;

weir_limit_plans_t *weir_limit_plans_create(const weir_conf_t *conf, weir_store_t *store, weir_limit_part_t part);
void weir_limit_plans_destroy(weir_limit_plans_t *plans);
/* request->route is set. */
const weir_limit_plan_t *weir_limit_plan_of(const weir_limit_plans_t *plans, const weir_request_t *request);

/* Whether the body must be read first. */
bool weir_limit_plan_awaits(const weir_limit_plan_t *plan, const weir_request_t *request);

/* What the store is asked: whose key, at which quota, at what cost. Nobody queues yet. */
void weir_limit_plan_ask(const weir_limit_plans_t *plans, const weir_limit_plan_t *plan, const weir_request_t *request,
                         weir_store_item_t *items);

#endif
