/* What must hold between fields: a function for each rule. A rule looks only at what is right by itself. */

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>
#include "load.h"
#include "scalar.h"

/* The node at a path of keys, or the nearest one around it that is there. */
static const weir_conf_node_t *node_at(const weir_conf_load_t *load, const char *const keys[], size_t count)
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

/* Whether `key` of the mapping is not there or right: what it is can be looked at, even where it is 0. */
static bool is_right(const weir_conf_load_t *load, const weir_conf_node_t *mapping, const char *key)
{
    const weir_conf_node_t *node = weir_conf_node_get(mapping, key);
    return node == NULL || !weir_conf_errors_has(&load->errors, node->place);
}

#define NODE_AT(load, ...) \
    node_at(load, (const char *const[]){__VA_ARGS__}, sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

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

static bool is_correlation_name(const weir_conf_correlation_t *correlation, const char *header)
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
    if (is_correlation_name(correlation, tenant->forward_header))
        weir_conf_fail(load, node, text, tenant->forward_header);
    for (size_t i = 0; i < tenant->from.size; ++i)
        if (is_correlation_name(correlation, tenant->from.entries[i].header))
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
    if (has_size && limit->scope != WEIR_SCOPE_LOCAL && is_right(load, mapping, "scope"))
        weir_conf_fail(load, weir_conf_node_get(queue, "size"),
                       "needs scope: local, for a queue is of one sidecar; write that, or leave the queue out");
    if (has_size && !has_wait && is_right(load, queue, "wait"))
        weir_conf_fail(load, weir_conf_node_get(queue, "size"),
                       "needs queue.wait; write there how long a request may wait, such as 5s");
    if (has_wait && !has_size && is_right(load, queue, "size"))
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

static bool is_tenant_name(const weir_conf_tenant_t *tenant, const char *header)
{
    if (strcasecmp(tenant->forward_header, header) == 0)
        return true;
    for (size_t i = 0; i < tenant->from.size; ++i)
        if (strcasecmp(tenant->from.entries[i].header, header) == 0)
            return true;
    return false;
}

static void check_priority(weir_conf_load_t *load, const weir_conf_limit_t *limit)
{
    const weir_conf_t *conf = load->conf;
    const char *header = limit->queue.priority;
    if (header == NULL)
        return;
    bool is_taken = is_tenant_name(&conf->tenant, header);
    for (size_t i = 0; i < conf->listeners.size; ++i)
        is_taken = is_taken || is_tenant_name(conf->listeners.entries[i].tenant, header);
    const weir_conf_node_t *node = NODE_AT(load, "limits", limit->name, "queue", "priority", "header");
    if (is_correlation_name(&conf->correlation, header))
        weir_conf_fail(load, node, "'%s' carries the correlation id already; write another header", header);
    else if (is_taken)
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

/* ---- upstreams ---- */

static void check_inject(weir_conf_load_t *load, const weir_conf_upstream_t *upstream)
{
    const weir_conf_node_t *mapping = NODE_AT(load, "upstreams", upstream->name);
    if (upstream->usage.inject && upstream->dialect != WEIR_DIALECT_OPENAI && is_right(load, mapping, "dialect"))
        weir_conf_fail(load, NODE_AT(load, "upstreams", upstream->name, "usage", "inject"),
                       "needs dialect: openai, whose streams tell their usage only when asked; write that, or leave "
                       "this out");
}

static void check_weights(weir_conf_load_t *load, const weir_conf_upstream_t *upstream)
{
    static const char *const keys[] = {"input", "cached", "cache_write", "output"};
    const weir_conf_usage_weights_t *weights = &upstream->usage.weights; /* those that are not written are 1 */
    const weir_conf_node_t *mapping = NODE_AT(load, "upstreams", upstream->name, "usage", "weights");
    if (weights->input_micros + weights->cached_micros + weights->cache_write_micros + weights->output_micros > 0)
        return;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); ++i)
        if (weir_conf_node_get(mapping, keys[i]) == NULL || !is_right(load, mapping, keys[i]))
            return;
    weir_conf_fail(load, mapping, "are all 0, so that no token would count; write one that is not");
}

static void check_upstreams(weir_conf_load_t *load)
{
    for (size_t i = 0; i < load->conf->upstreams.size; ++i) {
        check_inject(load, &load->conf->upstreams.entries[i]);
        check_weights(load, &load->conf->upstreams.entries[i]);
    }
}

/* ---- routes ---- */

static bool shares_a_method(const weir_conf_strings_t *a, const weir_conf_strings_t *b)
{
    if (a->size == 0 || b->size == 0)
        return a->size == b->size; /* the one with methods wins over the one without */
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
    return shares_a_method(&a->methods, &b->methods);
}

/* The entries of a list that were loaded, in their order. */
static const weir_conf_node_t *next_entry(const weir_conf_node_t *node)
{
    while (node != NULL && node->kind == WEIR_CONF_BROKEN)
        node = node->next;
    return node;
}

static void check_listener_routes(weir_conf_load_t *load, const weir_conf_listener_t *listener)
{
    const weir_conf_node_t *routes = NODE_AT(load, "listeners", listener->name, "routes");
    const weir_conf_node_t *node = next_entry(routes->first);
    for (size_t i = 0; i < listener->routes.size; ++i, node = next_entry(node->next))
        for (size_t k = 0; k < i; ++k)
            if (is_same_route(&listener->routes.entries[i], &listener->routes.entries[k])) {
                const weir_conf_node_t *path = weir_conf_node_get(node, "path");
                weir_conf_fail(load, path != NULL ? path : node,
                               "routes[%zu] takes the same requests; write another path, host or methods", k);
                break;
            }
}

static void check_routes(weir_conf_load_t *load)
{
    for (size_t i = 0; i < load->conf->listeners.size; ++i)
        check_listener_routes(load, &load->conf->listeners.entries[i]);
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
    check_upstreams(load);
    check_routes(load);
}
