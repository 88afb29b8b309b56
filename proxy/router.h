#ifndef WEIR_PROXY_ROUTER_H
#define WEIR_PROXY_ROUTER_H

/* Which route of a listener a request takes: among those whose host fits, the longest path that is a prefix of the
 * request's at a segment boundary; of several with that path the one that names a host, then the one that names the method. */

#include "../conf/conf.h"
#include "../filters/filter.h"

typedef struct weir_router weir_router_t;

weir_router_t *weir_router_create(const weir_conf_listener_t *listener);
void weir_router_destroy(weir_router_t *router);

typedef struct {
    const weir_conf_route_t *route; /* NULL: none */
    size_t index;                   /* into the listener's routes */
    const char *allow;              /* no route, but its path has others: their methods, for Allow */
} weir_router_match_t;

/* `path` as weir_h1_match_path gives it; `authority` as it came. */
weir_router_match_t weir_router_find(const weir_router_t *router, weir_str_t path, weir_str_t authority, weir_str_t method);

#endif
