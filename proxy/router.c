#include "router.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <h2o.h>

typedef struct {
    const weir_conf_route_t *route;
    weir_conf_dialect_t dialect; /* of its upstream */
    size_t index, path_len;
    char *allow; /* the methods of all routes with this path that fit this host */
} entry_t;

struct weir_router {
    size_t count;
    entry_t entries[]; /* in the order in which they are tried */
};

/* How much of a request it names, beyond path and host. */
static int names_of(const weir_conf_route_t *route)
{
    return (route->methods.size != 0) + (route->models.size != 0);
}

static int compare(const void *a, const void *b)
{
    const entry_t *x = a, *y = b;
    if (x->path_len != y->path_len)
        return x->path_len > y->path_len ? -1 : 1;
    int paths = strcmp(x->route->path, y->route->path);
    if (paths != 0)
        return paths;
    if ((x->route->host != NULL) != (y->route->host != NULL))
        return x->route->host != NULL ? -1 : 1;
    if (names_of(x->route) != names_of(y->route))
        return names_of(x->route) > names_of(y->route) ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

static void append_methods(char **allow, const weir_conf_strings_t *methods)
{
    for (size_t i = 0; i < methods->size; ++i) {
        char *longer;
        if (asprintf(&longer, "%s%s%s", *allow, **allow != '\0' ? ", " : "", methods->entries[i]) == -1)
            abort();
        free(*allow);
        *allow = longer;
    }
}

static bool fits_host_of(const weir_conf_route_t *route, const weir_conf_route_t *other)
{
    return route->host == NULL || (other->host != NULL && strcasecmp(route->host, other->host) == 0);
}

static char *allow_of(const weir_router_t *router, const entry_t *entry)
{
    char *allow = strdup("");
    for (size_t i = 0; i < router->count; ++i) {
        const weir_conf_route_t *route = router->entries[i].route;
        if (strcmp(route->path, entry->route->path) == 0 && fits_host_of(route, entry->route))
            append_methods(&allow, &route->methods);
    }
    return allow;
}

weir_router_t *weir_router_create(const weir_conf_t *conf, const weir_conf_listener_t *listener)
{
    weir_router_t *router = h2o_mem_alloc(sizeof(*router) + sizeof(entry_t) * listener->routes.size);
    router->count = listener->routes.size;
    for (size_t i = 0; i < router->count; ++i) {
        const weir_conf_route_t *route = &listener->routes.entries[i];
        router->entries[i] = (entry_t){.route = route,
                                       .dialect = conf->upstreams.entries[route->upstream].dialect,
                                       .index = i,
                                       .path_len = strlen(route->path)};
    }
    qsort(router->entries, router->count, sizeof(entry_t), compare);
    for (size_t i = 0; i < router->count; ++i)
        router->entries[i].allow = allow_of(router, &router->entries[i]);
    return router;
}

void weir_router_destroy(weir_router_t *router)
{
    for (size_t i = 0; i < router->count; ++i)
        free(router->entries[i].allow);
    free(router);
}

static bool path_fits(const entry_t *entry, weir_str_t path)
{
    if (path.len < entry->path_len || memcmp(path.base, entry->route->path, entry->path_len) != 0)
        return false;
    return path.len == entry->path_len || entry->route->path[entry->path_len - 1] == '/' || path.base[entry->path_len] == '/';
}

/* The host of an authority, without the port. */
static weir_str_t host_of(weir_str_t authority)
{
    for (size_t i = authority.len; i-- > 0;) {
        if (authority.base[i] == ']')
            break;
        if (authority.base[i] == ':')
            return (weir_str_t){authority.base, i};
    }
    return authority;
}

static bool host_fits(const entry_t *entry, weir_str_t host)
{
    const char *wanted = entry->route->host;
    return wanted == NULL || (strlen(wanted) == host.len && strncasecmp(wanted, host.base, host.len) == 0);
}

static bool method_fits(const entry_t *entry, weir_str_t method)
{
    const weir_conf_strings_t *methods = &entry->route->methods;
    for (size_t i = 0; i < methods->size; ++i)
        if (strlen(methods->entries[i]) == method.len && memcmp(methods->entries[i], method.base, method.len) == 0)
            return true;
    return methods->size == 0;
}

static bool model_fits(const entry_t *entry, weir_str_t model)
{
    const weir_conf_strings_t *models = &entry->route->models;
    return models->size == 0 || (model.len != 0 && weir_conf_model_matches(models, model.base, model.len));
}

/* One more route that would do but for its model. */
static void note_near(weir_router_match_t *none, const entry_t *entry)
{
    if (!none->lacks_model)
        none->dialect = entry->dialect;
    else if (none->dialect != entry->dialect)
        none->dialect = WEIR_DIALECT_PLAIN;
    none->lacks_model = true;
}

weir_router_match_t weir_router_find(const weir_router_t *router, weir_str_t path, weir_str_t authority, weir_str_t method,
                                     const weir_str_t *model)
{
    weir_str_t host = host_of(authority);
    const entry_t *best = NULL;
    weir_router_match_t none = {.dialect = WEIR_DIALECT_PLAIN};
    for (size_t i = 0; i < router->count; ++i) {
        const entry_t *entry = &router->entries[i];
        if (best != NULL && best->path_len != entry->path_len)
            break;
        if (!path_fits(entry, path) || !host_fits(entry, host))
            continue;
        bool fits = method_fits(entry, method);
        if (fits && model == NULL && entry->route->models.size != 0)
            return (weir_router_match_t){.needs_model = true};
        if (fits && model_fits(entry, model != NULL ? *model : (weir_str_t){"", 0}))
            return (weir_router_match_t){.route = entry->route, .index = entry->index};
        if (fits)
            note_near(&none, entry);
        if (best == NULL)
            best = entry;
    }
    none.allow = best != NULL && !none.lacks_model ? best->allow : NULL;
    return none;
}
