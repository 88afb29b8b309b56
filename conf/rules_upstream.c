/* What must hold between the fields of an upstream: a function for each rule. */

#include <string.h>
#include <strings.h>
#include "rules.h"
#include "scalar.h"

typedef struct {
    weir_conf_load_t *load;
    const weir_conf_upstream_t *upstream;
    const weir_conf_node_t *node; /* the upstream's */
} rule_t;

static const weir_conf_node_t *part(const rule_t *rule, const char *key)
{
    return weir_conf_node_get(rule->node, key);
}

static void check_inject(const rule_t *rule)
{
    const weir_conf_upstream_t *upstream = rule->upstream;
    if (upstream->usage.inject && upstream->dialect != WEIR_DIALECT_OPENAI &&
        weir_conf_is_right(rule->load, rule->node, "dialect"))
        weir_conf_fail(rule->load, weir_conf_node_get(part(rule, "usage"), "inject"),
                       "needs dialect: openai, whose streams tell their usage only when asked; write that, or leave "
                       "this out");
}

static void check_weights(const rule_t *rule)
{
    static const char *const keys[] = {"input", "cached", "cache_write", "output"};
    const weir_conf_usage_weights_t *weights = &rule->upstream->usage.weights; /* those that are not written are 1 */
    const weir_conf_node_t *mapping = weir_conf_node_get(part(rule, "usage"), "weights");
    if (weights->input_micros + weights->cached_micros + weights->cache_write_micros + weights->output_micros > 0)
        return;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); ++i)
        if (weir_conf_node_get(mapping, keys[i]) == NULL || !weir_conf_is_right(rule->load, mapping, keys[i]))
            return;
    weir_conf_fail(rule->load, mapping, "are all 0, so that no token would count; write one that is not");
}

/* ---- headers ---- */

static bool carries_tenant(const weir_conf_t *conf, const char *header)
{
    for (size_t i = 0; i < conf->listeners.size; ++i)
        if (strcasecmp(conf->listeners.entries[i].tenant->forward_header, header) == 0)
            return true;
    return false;
}

/* What weir writes itself; NULL: nothing. */
static const char *meaning_of(const weir_conf_t *conf, const char *header)
{
    if (weir_conf_is_correlation_name(&conf->correlation, header))
        return "the correlation id";
    return carries_tenant(conf, header) ? "the tenant" : NULL;
}

static void check_own_name(const rule_t *rule, const weir_conf_node_t *node, bool at_key, const char *header)
{
    void (*fail)(weir_conf_load_t *, const weir_conf_node_t *, const char *, ...) =
        at_key ? weir_conf_fail_key : weir_conf_fail;
    const char *meaning = meaning_of(rule->load->conf, header);
    if (meaning != NULL)
        fail(rule->load, node, "'%s' carries %s; leave it out, whether it goes up is told by forward", header, meaning);
}

static bool is_set(const weir_conf_upstream_headers_t *headers, const char *name)
{
    for (size_t i = 0; i < headers->set.size; ++i)
        if (strcasecmp(headers->set.entries[i].name, name) == 0)
            return true;
    return false;
}

static void check_headers(const rule_t *rule)
{
    const weir_conf_upstream_headers_t *headers = &rule->upstream->headers;
    const weir_conf_node_t *set = weir_conf_node_get(part(rule, "headers"), "set");
    const weir_conf_node_t *remove = weir_conf_node_get(part(rule, "headers"), "remove");
    for (size_t i = 0; i < headers->set.size; ++i)
        check_own_name(rule, weir_conf_node_get(set, headers->set.entries[i].name), true, headers->set.entries[i].name);
    for (const weir_conf_node_t *node = headers->remove.size > 0 ? remove->first : NULL; node != NULL;
         node = node->next) {
        if (node->kind != WEIR_CONF_SCALAR)
            continue;
        check_own_name(rule, node, false, node->text);
        if (is_set(headers, node->text))
            weir_conf_fail(rule->load, node,
                           "'%s' is in headers.set, which takes the place of the caller's; leave it out",
                           weir_conf_errors_show(rule->load->scratch, node->text));
    }
}

/* ---- TLS ---- */

static void check_tls_is_used(const rule_t *rule)
{
    const weir_conf_upstream_tls_t *tls = &rule->upstream->tls;
    const struct {
        const char *key;
        bool is_there;
    } fields[] = {{"ca", tls->ca != NULL},
                  {"server_name", tls->server_name != NULL},
                  {"cert", tls->cert != NULL},
                  {"key", tls->key != NULL},
                  {"verify", !tls->verify}};
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); ++i) {
        const weir_conf_node_t *node = weir_conf_node_get(part(rule, "tls"), fields[i].key);
        if (fields[i].is_there && node != NULL && weir_conf_is_right(rule->load, part(rule, "tls"), fields[i].key))
            weir_conf_fail_key(rule->load, node, "is for https; write an https url, or leave it out");
    }
}

static void check_tls(const rule_t *rule)
{
    const weir_conf_upstream_t *upstream = rule->upstream;
    if (upstream->url.text != NULL && !upstream->url.is_tls)
        check_tls_is_used(rule);
    else
        weir_conf_check_identity(rule->load, part(rule, "tls"), upstream->tls.cert, upstream->tls.key);
}

/* ---- bounds of one another ---- */

/* A `base` that is over its `max`, told where one of them is written. */
static void check_growth(const rule_t *rule, const weir_conf_node_t *mapping, int64_t base_ns, int64_t max_ns)
{
    const weir_conf_node_t *base = weir_conf_node_get(mapping, "base"), *max = weir_conf_node_get(mapping, "max");
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    if (base_ns <= max_ns || !weir_conf_is_right(rule->load, mapping, "base") ||
        !weir_conf_is_right(rule->load, mapping, "max"))
        return;
    weir_conf_format_duration(base != NULL ? max_ns : base_ns, text);
    if (base != NULL)
        weir_conf_fail(rule->load, base, "is more than max, %s; write at most that, or a longer max", text);
    else
        weir_conf_fail(rule->load, max, "is less than base, %s; write at least that, or a shorter base", text);
}

static void check_warm(const rule_t *rule)
{
    const weir_conf_upstream_connections_t *connections = &rule->upstream->connections;
    const weir_conf_node_t *mapping = part(rule, "connections"), *warm = weir_conf_node_get(mapping, "warm");
    bool is_over_max = connections->warm > connections->max && weir_conf_is_right(rule->load, mapping, "max");
    bool is_over_idle = connections->warm > connections->idle && weir_conf_is_right(rule->load, mapping, "idle");
    if (is_over_max)
        weir_conf_fail(rule->load, warm, "is more than connections.max; write a smaller one, or a larger max");
    else if (is_over_idle)
        weir_conf_fail(rule->load, warm, "is more than connections.idle; write a smaller one, or a larger idle");
}

void weir_conf_check_upstreams(weir_conf_load_t *load)
{
    for (size_t i = 0; i < load->conf->upstreams.size; ++i) {
        const weir_conf_upstream_t *upstream = &load->conf->upstreams.entries[i];
        const rule_t rule = {load, upstream, NODE_AT(load, "upstreams", upstream->name)};
        const weir_conf_node_t *breaker = part(&rule, "breaker");
        check_inject(&rule);
        check_weights(&rule);
        check_headers(&rule);
        check_tls(&rule);
        check_growth(&rule, weir_conf_node_get(part(&rule, "retry"), "backoff"), upstream->retry.backoff.base_ns,
                     upstream->retry.backoff.max_ns);
        check_growth(&rule, weir_conf_node_get(breaker, "open"), upstream->breaker.open.base_ns,
                     upstream->breaker.open.max_ns);
        check_warm(&rule);
    }
}
