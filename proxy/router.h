#ifndef WEIR_PROXY_ROUTER_H
#define WEIR_PROXY_ROUTER_H

/* Which route of a listener a request takes: among those whose host fits, the longest path that is a prefix of the
 * request's at a segment boundary; of several with that path the one that names a host, then those that name methods and
 * models before those that name one of them. The path is chosen first: where none of its routes takes the method or the
 * model, there is no route, and those of shorter paths are not looked at. */

#include "../conf/conf.h"
#include "../filters/filter.h"

typedef struct weir_router weir_router_t;

weir_router_t *weir_router_create(const weir_conf_t *conf, const weir_conf_listener_t *listener);
void weir_router_destroy(weir_router_t *router);

typedef struct {
    const weir_conf_route_t *route; /* NULL: none */
    size_t index;                   /* into the listener's routes */
    const char *allow;              /* no route, but its path has others: their methods, for Allow */
    bool needs_model;               /* no route yet: which one depends on the model */
    bool lacks_model;               /* no route: its path has some, but none for this model */
    weir_conf_dialect_t dialect;    /* of all of those; plain where they differ, or there are none */
} weir_router_match_t;

/* `path` as weir_h1_match_path gives it; `authority` as it came; `model` as the body says, "" if it says none, NULL while
 * nobody knows. */
weir_router_match_t weir_router_find(const weir_router_t *router, weir_str_t path, weir_str_t authority, weir_str_t method,
                                     const weir_str_t *model);

#endif
