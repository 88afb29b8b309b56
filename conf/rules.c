/* What must hold between fields: a function for each rule. A rule looks only at what is right by itself. */

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>
#include "rules.h"
#include "scalar.h"

const weir_conf_node_t *weir_conf_rule_node(const weir_conf_load_t *load, const char *const keys[], size_t count)
{
    const weir_conf_node_t *node = load->root;
    for (size_t i = 0; i < count; ++i) {
        const weir_conf_node_t *inner = weir_conf_node_get(node, keys[i]);
        if (inner == NULL)
            return node;
        node = inner;
    }
    return node;
}

bool weir_conf_is_right(const weir_conf_load_t *load, const weir_conf_node_t *mapping, const char *key)
{
    const weir_conf_node_t *node = weir_conf_node_get(mapping, key);
    return node == NULL || !weir_conf_errors_has(&load->errors, node->place);
}

/* ---- addresses ---- */

typedef struct {
    const weir_conf_address_t *address;
    const char *owner; /* "admin", "metrics" or a listener's name */
    const weir_conf_node_t *node;
} claim_t;

static bool is_loopback(const weir_conf_address_t *address)
{
    uint8_t v4[4];
    struct in6_addr v6;
    if (address->kind == WEIR_ADDRESS_UNIX)
        return true;
    if (address->host == NULL)
        return false;
    if (inet_pton(AF_INET, address->host, v4) == 1)
        return v4[0] == 127;
    if (inet_pton(AF_INET6, address->host, &v6) != 1)
        return false;
    return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

static void check_admin_token(weir_conf_load_t *load)
{
    const weir_conf_admin_t *admin = &load->conf->admin;
    const weir_conf_node_t *token = weir_conf_node_get(weir_conf_node_get(load->root, "admin"), "token");
    if (admin->enabled && admin->address.text != NULL && token == NULL && !is_loopback(&admin->address))
        weir_conf_fail(load, NODE_AT(load, "admin", "address"),
                       "'%s' is reachable from elsewhere and admin.token is not set; set it, or write 127.0.0.1:%u",
                       admin->address.text, admin->address.port);
}

/* An address of one family in binary; of "*" and of a family's any-address, all zeros. */
typedef struct {
    bool is_all, is_any;
    int family;
    uint8_t bytes[16];
} binary_t;

static binary_t binary_of(const weir_conf_address_t *address)
{
    static const uint8_t zeros[16];
    binary_t binary = {.is_all = address->host == NULL};
    if (binary.is_all)
        return binary;
    binary.family = strchr(address->host, ':') != NULL ? AF_INET6 : AF_INET;
    if (inet_pton(binary.family, address->host, binary.bytes) != 1)
        memset(binary.bytes, 0xff, sizeof(binary.bytes));
    binary.is_any = memcmp(binary.bytes, zeros, sizeof(zeros)) == 0;
    return binary;
}

static bool overlaps(const weir_conf_address_t *a, const weir_conf_address_t *b)
{
    if (a->kind != b->kind)
        return false;
    if (a->kind == WEIR_ADDRESS_UNIX)
        return strcmp(a->path, b->path) == 0;
    if (a->port != b->port)
        return false;
    binary_t x = binary_of(a), y = binary_of(b);
    if (x.is_all || y.is_all)
        return true;
    return x.family == y.family && (x.is_any || y.is_any || memcmp(x.bytes, y.bytes, sizeof(x.bytes)) == 0);
}

static void check_addresses(weir_conf_load_t *load)
{
    const weir_conf_t *conf = load->conf;
    claim_t *claims = weir_conf_arena_alloc(load->scratch, (conf->listeners.size + 2) * sizeof(*claims));
    size_t count = 0;
    if (conf->admin.enabled)
        claims[count++] = (claim_t){&conf->admin.address, "admin", NODE_AT(load, "admin", "address")};
    claims[count++] = (claim_t){&conf->metrics.address, "metrics", NODE_AT(load, "metrics", "address")};
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        const weir_conf_listener_t *listener = &conf->listeners.entries[i];
        claims[count++] =
            (claim_t){&listener->address, listener->name, NODE_AT(load, "listeners", listener->name, "address")};
    }
    for (size_t i = 1; i < count; ++i)
        for (size_t k = 0; k < i && claims[i].address->text != NULL; ++k)
            if (claims[k].address->text != NULL && overlaps(claims[i].address, claims[k].address)) {
                weir_conf_fail(load, claims[i].node, "'%s' is used by %s already ('%s'); write another address",
                               claims[i].address->text, claims[k].owner, claims[k].address->text);
                break;
            }
}

/* ---- server ---- */

static void check_client_ip(weir_conf_load_t *load)
{
    const weir_conf_client_ip_t *client_ip = &load->conf->server.client_ip;
    const weir_conf_node_t *header = weir_conf_node_get(NODE_AT(load, "server", "client_ip"), "header");
    if (client_ip->trusted_hops > 0 && header == NULL)
        weir_conf_fail(load, NODE_AT(load, "server", "client_ip", "trusted_hops"),
                       "needs server.client_ip.header; set that, such as X-Forwarded-For, or leave this out");
}

static void check_head_fits(weir_conf_load_t *load)
{
    const weir_conf_server_t *server = &load->conf->server;
    if (server->max_head_bytes > server->max_buffered_bytes && server->max_buffered_bytes > 0)
        weir_conf_fail(load, NODE_AT(load, "server", "max_head"),
                       "is more than server.max_buffered, so that no such head is ever taken; write a smaller one");
}

/* ---- headers ---- */

static void check_correlation_names(weir_conf_load_t *load)
{
    const weir_conf_correlation_t *correlation = &load->conf->correlation;
    for (size_t i = 0; correlation->header != NULL && i < correlation->also.size; ++i)
        if (strcasecmp(correlation->also.entries[i], correlation->header) == 0)
            weir_conf_fail(load, NODE_AT(load, "correlation", "also"),
                           "'%s' is correlation.header already; leave it out here", correlation->also.entries[i]);
}

bool weir_conf_is_correlation_name(const weir_conf_correlation_t *correlation, const char *header)
{
    if (correlation->header != NULL && strcasecmp(correlation->header, header) == 0)
        return true;
    for (size_t i = 0; i < correlation->also.size; ++i)
        if (strcasecmp(correlation->also.entries[i], header) == 0)
            return true;
    return false;
}

static void check_tenant_names(weir_conf_load_t *load, const weir_conf_tenant_t *tenant, const weir_conf_node_t *node)
{
    static const char text[] = "'%s' carries the correlation id already; write another header";
    const weir_conf_correlation_t *correlation = &load->conf->correlation;
    if (weir_conf_is_correlation_name(correlation, tenant->forward_header))
        weir_conf_fail(load, node, text, tenant->forward_header);
    for (size_t i = 0; i < tenant->from.size; ++i)
        if (weir_conf_is_correlation_name(correlation, tenant->from.entries[i].header))
            weir_conf_fail(load, node, text, tenant->from.entries[i].header);
}

static void check_all_tenant_names(weir_conf_load_t *load)
{
    const weir_conf_t *conf = load->conf;
    check_tenant_names(load, &conf->tenant, NODE_AT(load, "tenant", "from"));
    for (size_t i = 0; i < conf->listeners.size; ++i)
        if (conf->listeners.entries[i].tenant != &conf->tenant)
            check_tenant_names(load, conf->listeners.entries[i].tenant,
                               NODE_AT(load, "listeners", conf->listeners.entries[i].name, "tenant", "from"));
}

/* ---- limits ---- */

/* The time that the bucket takes to fill is an int64_t of ns everywhere. */
static bool fills_in_time(const weir_conf_quota_t *quota)
{
    const int64_t century_s = INT64_C(876000) * 3600;
    if (quota->rate.count == 0)
        return true;
    return (__int128)quota->burst * (quota->rate.period_ns / WEIR_CONF_NS_PER_S) <=
           (__int128)century_s * quota->rate.count;
}

static void check_buckets(weir_conf_load_t *load)
{
    static const char text[] = "would take more than 100 years to fill; write a smaller burst, or a higher rate";
    const weir_conf_t *conf = load->conf;
    for (size_t i = 0; i < conf->limits.size; ++i) {
        const weir_conf_limit_t *limit = &conf->limits.entries[i];
        if (!fills_in_time(&limit->quota))
            weir_conf_fail(load, NODE_AT(load, "limits", limit->name, "burst"), text);
        for (size_t k = 0; k < limit->tenants.size; ++k)
            if (!fills_in_time(&limit->tenants.entries[k].quota))
                weir_conf_fail(
                    load, NODE_AT(load, "limits", limit->name, "tenants", limit->tenants.entries[k].tenant, "burst"),
                    text);
    }
}

static void check_queue(weir_conf_load_t *load, const weir_conf_limit_t *limit)
{
    const weir_conf_node_t *mapping = NODE_AT(load, "limits", limit->name);
    const weir_conf_node_t *queue = NODE_AT(load, "limits", limit->name, "queue");
    bool has_size = limit->queue.size > 0, has_wait = limit->queue.wait_ns > 0;
    if (has_size && limit->scope != WEIR_SCOPE_LOCAL && weir_conf_is_right(load, mapping, "scope"))
        weir_conf_fail(load, weir_conf_node_get(queue, "size"),
                       "needs scope: local, for a queue is of one sidecar; write that, or leave the queue out");
    if (has_size && !has_wait && weir_conf_is_right(load, queue, "wait"))
        weir_conf_fail(load, weir_conf_node_get(queue, "size"),
                       "needs queue.wait; write there how long a request may wait, such as 5s");
    if (has_wait && !has_size && weir_conf_is_right(load, queue, "size"))
        weir_conf_fail(load, weir_conf_node_get(queue, "wait"),
                       "needs queue.size; write there how many requests may wait, such as 50");
}

static void check_unit(weir_conf_load_t *load, const weir_conf_limit_t *limit)
{
    const char *const *words = weir_conf_type_unit.words;
    if (limit->algorithm == WEIR_LIMIT_CONCURRENCY && limit->unit != WEIR_UNIT_REQUESTS)
        weir_conf_fail(load, NODE_AT(load, "limits", limit->name, "unit"),
                       "'%s' is not what concurrency counts; write requests, or another algorithm", words[limit->unit]);
}

static bool names_tenant(const weir_conf_tenant_t *tenant, const char *header)
{
    if (strcasecmp(tenant->forward_header, header) == 0)
        return true;
    for (size_t i = 0; i < tenant->from.size; ++i)
        if (strcasecmp(tenant->from.entries[i].header, header) == 0)
            return true;
    return false;
}

bool weir_conf_is_tenant_name(const weir_conf_t *conf, const char *header)
{
    bool is_taken = names_tenant(&conf->tenant, header);
    for (size_t i = 0; i < conf->listeners.size; ++i)
        is_taken = is_taken || names_tenant(conf->listeners.entries[i].tenant, header);
    return is_taken;
}

static void check_priority(weir_conf_load_t *load, const weir_conf_limit_t *limit)
{
    const weir_conf_t *conf = load->conf;
    const char *header = limit->queue.priority;
    if (header == NULL)
        return;
    const weir_conf_node_t *node = NODE_AT(load, "limits", limit->name, "queue", "priority", "header");
    if (weir_conf_is_correlation_name(&conf->correlation, header))
        weir_conf_fail(load, node, "'%s' carries the correlation id already; write another header", header);
    else if (weir_conf_is_tenant_name(conf, header))
        weir_conf_fail(load, node, "'%s' carries the tenant already; write another header", header);
}

static void check_limits(weir_conf_load_t *load)
{
    for (size_t i = 0; i < load->conf->limits.size; ++i) {
        const weir_conf_limit_t *limit = &load->conf->limits.entries[i];
        check_queue(load, limit);
        check_unit(load, limit);
        check_priority(load, limit);
    }
}

/* ---- routes ---- */

/* Of two lists that are of all where they are empty; the one that is not wins over the one that is. */
static bool overlaps_in(const weir_conf_strings_t *a, const weir_conf_strings_t *b)
{
    if (a->size == 0 || b->size == 0)
        return a->size == b->size;
    for (size_t i = 0; i < a->size; ++i)
        for (size_t k = 0; k < b->size; ++k)
            if (strcmp(a->entries[i], b->entries[k]) == 0)
                return true;
    return false;
}

static bool is_same_route(const weir_conf_route_t *a, const weir_conf_route_t *b)
{
    if (a->path == NULL || b->path == NULL || strcmp(a->path, b->path) != 0)
        return false;
    if ((a->host == NULL) != (b->host == NULL) || (a->host != NULL && strcmp(a->host, b->host) != 0))
        return false;
    return overlaps_in(&a->methods, &b->methods) && overlaps_in(&a->models, &b->models);
}

/* The entries of a list that were loaded, in their order. */
static const weir_conf_node_t *next_entry(const weir_conf_node_t *node)
{
    while (node != NULL && node->kind == WEIR_CONF_BROKEN)
        node = node->next;
    return node;
}

static void check_fallback(weir_conf_load_t *load, const weir_conf_route_t *route, const weir_conf_node_t *node)
{
    const weir_conf_node_t *fallback = weir_conf_node_get(node, "fallback");
    if (fallback == NULL || fallback->kind != WEIR_CONF_SEQUENCE || route->upstream >= load->conf->upstreams.size)
        return;
    const char *own = load->conf->upstreams.entries[route->upstream].name;
    for (const weir_conf_node_t *child = fallback->first; child != NULL; child = child->next)
        if (child->kind == WEIR_CONF_SCALAR && strcmp(child->text, own) == 0)
            weir_conf_fail(load, child, "'%s' is the route's upstream already; leave it out, or write another", own);
}

static void check_listener_routes(weir_conf_load_t *load, const weir_conf_listener_t *listener)
{
    const weir_conf_node_t *routes = NODE_AT(load, "listeners", listener->name, "routes");
    const weir_conf_node_t *node = next_entry(routes->first);
    for (size_t i = 0; i < listener->routes.size; ++i, node = next_entry(node->next)) {
        check_fallback(load, &listener->routes.entries[i], node);
        weir_conf_check_route_dedup(load, &listener->routes.entries[i], node);
        for (size_t k = 0; k < i; ++k)
            if (is_same_route(&listener->routes.entries[i], &listener->routes.entries[k])) {
                const weir_conf_node_t *path = weir_conf_node_get(node, "path");
                weir_conf_fail(load, path != NULL ? path : node,
                               "routes[%zu] takes the same requests; write another path, host, methods or models", k);
                break;
            }
    }
}

/* ---- listeners ---- */

void weir_conf_check_identity(weir_conf_load_t *load, const weir_conf_node_t *tls, const char *cert, const char *key)
{
    const weir_conf_node_t *cert_node = weir_conf_node_get(tls, "cert"), *key_node = weir_conf_node_get(tls, "key");
    if (cert_node != NULL && key_node == NULL)
        weir_conf_fail_key(load, cert_node, "needs a key; write there the path of the certificate's private key");
    if (key_node != NULL && cert_node == NULL)
        weir_conf_fail_key(load, key_node, "needs a cert; write there the path of the key's certificate");
    if (cert == NULL || key == NULL)
        return;
    const char *error = weir_conf_check_pair(load, cert, key);
    if (error != NULL)
        weir_conf_fail(load, key_node, "the file '%s' does not fit: %s; write the path of the key of '%s'",
                       weir_conf_errors_show(load->scratch, key), error, weir_conf_errors_show(load->scratch, cert));
}

static void check_listeners(weir_conf_load_t *load)
{
    for (size_t i = 0; i < load->conf->listeners.size; ++i) {
        const weir_conf_listener_t *listener = &load->conf->listeners.entries[i];
        const weir_conf_node_t *tls = weir_conf_node_get(NODE_AT(load, "listeners", listener->name), "tls");
        const weir_conf_node_t *client_ca = weir_conf_node_get(tls, "client_ca");
        weir_conf_check_identity(load, tls, listener->tls.cert, listener->tls.key);
        if (client_ca != NULL && weir_conf_node_get(tls, "cert") == NULL)
            weir_conf_fail_key(load, client_ca, "needs a cert; write there the path of the listener's certificate");
        check_listener_routes(load, listener);
    }
}

void weir_conf_check_rules(weir_conf_load_t *load)
{
    check_admin_token(load);
    check_addresses(load);
    check_client_ip(load);
    check_head_fits(load);
    check_correlation_names(load);
    check_all_tenant_names(load);
    check_buckets(load);
    check_limits(load);
    weir_conf_check_store(load);
    weir_conf_check_dedups(load);
    weir_conf_check_upstreams(load);
    check_listeners(load);
}
