/* What must hold between the fields of a dedup: a function for each rule. */

#include <inttypes.h>
#include <string.h>
#include <strings.h>
#include "rules.h"
#include "scalar.h"

typedef struct {
    weir_conf_load_t *load;
    const weir_conf_dedup_t *dedup;
    const weir_conf_node_t *node; /* the dedup's */
} rule_t;

static const weir_conf_node_t *part(const rule_t *rule, const char *key)
{
    return weir_conf_node_get(rule->node, key);
}

static bool is_right(const rule_t *rule, const char *key)
{
    return weir_conf_is_right(rule->load, rule->node, key);
}

/* ---- what goes with what ---- */

static void check_exact(const rule_t *rule)
{
    const weir_conf_dedup_t *dedup = rule->dedup;
    bool replays = dedup->on_duplicate == WEIR_ON_DUPLICATE_REPLAY && is_right(rule, "on_duplicate");
    bool waits = dedup->in_flight == WEIR_IN_FLIGHT_WAIT && is_right(rule, "in_flight");
    if (!dedup->exact && part(rule, "exact") != NULL && is_right(rule, "exact") && (replays || waits))
        weir_conf_fail(rule->load, part(rule, "exact"),
                       "needs on_duplicate: acknowledge or reject, and in_flight: reject, for Bloom filters hold no "
                       "answers; write those, or leave this out");
}

static bool has_no_body(int64_t status)
{
    return status == 204 || status == 205 || status == 304; /* RFC 9110, 6.4.1 and 15.3.6 */
}

static void check_acknowledge_body(const rule_t *rule)
{
    const weir_conf_dedup_acknowledge_t *acknowledge = &rule->dedup->acknowledge;
    if (acknowledge->body != NULL && *acknowledge->body != '\0' && has_no_body(acknowledge->status))
        weir_conf_fail(rule->load, weir_conf_node_get(part(rule, "acknowledge"), "body"),
                       "is none that an answer with status %" PRId64 " can have; write another status, such as 200, or "
                       "leave this out",
                       acknowledge->status);
}

static void check_acknowledge_is_used(const rule_t *rule)
{
    const weir_conf_node_t *mapping = part(rule, "acknowledge");
    const weir_conf_node_t *body = weir_conf_node_get(mapping, "body"), *status = weir_conf_node_get(mapping, "status");
    bool has_status =
        status != NULL && rule->dedup->acknowledge.status != 204 && weir_conf_is_right(rule->load, mapping, "status");
    if (rule->dedup->on_duplicate == WEIR_ON_DUPLICATE_ACKNOWLEDGE || !is_right(rule, "on_duplicate"))
        return;
    if (has_status || body != NULL)
        weir_conf_fail_key(rule->load, has_status ? status : body,
                           "is for on_duplicate: acknowledge; write that, or leave this out");
}

/* ---- bounds of one another ---- */

static void check_keep_responses(const rule_t *rule)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    if (rule->dedup->keep_responses_ns <= rule->dedup->window_ns || !is_right(rule, "window"))
        return;
    weir_conf_format_duration(rule->dedup->window_ns, text);
    weir_conf_fail(rule->load, part(rule, "keep_responses"),
                   "is more than window, %s, after which nothing of a key is known; write at most that, or a longer "
                   "window",
                   text);
}

static void check_max_response(const rule_t *rule)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    if (rule->dedup->max_response_bytes <= rule->dedup->memory_bytes || !is_right(rule, "memory"))
        return;
    weir_conf_format_size(rule->dedup->memory_bytes, text);
    weir_conf_fail(rule->load, part(rule, "max_response"),
                   "is more than memory, %s, in which no such answer fits; write at most that, or more memory", text);
}

static void check_bloom(const rule_t *rule)
{
    const weir_conf_dedup_bloom_t *bloom = &rule->dedup->bloom;
    const weir_conf_node_t *mapping = part(rule, "bloom"), *expected = weir_conf_node_get(mapping, "expected");
    char rate[WEIR_CONF_SCALAR_BYTES_MAX];
    if (!weir_conf_is_right(rule->load, mapping, "expected") ||
        !weir_conf_is_right(rule->load, mapping, "false_positives"))
        return;
    int64_t max = weir_conf_bloom_expected_max(bloom->false_positives);
    weir_conf_format_probability(bloom->false_positives, rate);
    if (bloom->expected > max)
        weir_conf_fail(rule->load, expected,
                       "is more than a Bloom filter holds at false_positives %s; write at most %" PRId64
                       ", or more false_positives",
                       rate, max);
}

/* ---- keys ---- */

static void check_fingerprint_is_last(const rule_t *rule)
{
    const weir_conf_node_t *key = part(rule, "key");
    if (key == NULL || key->kind != WEIR_CONF_SEQUENCE)
        return;
    for (const weir_conf_node_t *child = key->first; child != NULL && child->next != NULL; child = child->next)
        if (child->kind == WEIR_CONF_SCALAR && strcmp(child->text, "fingerprint") == 0) {
            weir_conf_fail(rule->load, child,
                           "is there in every request, so that what follows it is never looked for; "
                           "write it last");
            return;
        }
}

/* The entry of `key` that names the header; where it is a default, the nearest that is written. */
static const weir_conf_node_t *header_node(const rule_t *rule, const char *header)
{
    const weir_conf_node_t *key = part(rule, "key");
    for (const weir_conf_node_t *child = key != NULL ? key->first : NULL; child != NULL; child = child->next) {
        const weir_conf_node_t *name = weir_conf_node_get(child, "header");
        if (name != NULL && name->kind == WEIR_CONF_SCALAR && strcasecmp(name->text, header) == 0)
            return name;
    }
    return rule->node;
}

static void check_meaning(const rule_t *rule, const weir_conf_node_t *node, const char *header)
{
    const weir_conf_t *conf = rule->load->conf;
    if (weir_conf_is_correlation_name(&conf->correlation, header))
        weir_conf_fail(rule->load, node, "'%s' carries the correlation id already; write another header", header);
    else if (weir_conf_is_tenant_name(conf, header))
        weir_conf_fail(rule->load, node, "'%s' carries the tenant already; write another header", header);
}

static void check_headers(const rule_t *rule)
{
    const weir_conf_dedup_t *dedup = rule->dedup;
    const weir_conf_node_t *bypass = weir_conf_node_get(part(rule, "bypass"), "header");
    if (dedup->bypass != NULL)
        check_meaning(rule, bypass, dedup->bypass);
    for (size_t i = 0; i < dedup->key.size; ++i) {
        const weir_conf_dedup_key_t *key = &dedup->key.entries[i];
        if (key->kind != WEIR_DEDUP_KEY_HEADER)
            continue;
        check_meaning(rule, header_node(rule, key->text), key->text);
        if (dedup->bypass != NULL && strcasecmp(dedup->bypass, key->text) == 0)
            weir_conf_fail(rule->load, bypass, "'%s' carries the key already; write another header", dedup->bypass);
    }
}

/* ---- the whole ---- */

void weir_conf_check_dedups(weir_conf_load_t *load)
{
    for (size_t i = 0; i < load->conf->dedup.size; ++i) {
        const weir_conf_dedup_t *dedup = &load->conf->dedup.entries[i];
        const rule_t rule = {load, dedup, NODE_AT(load, "dedup", dedup->name)};
        check_exact(&rule);
        check_acknowledge_body(&rule);
        check_acknowledge_is_used(&rule);
        check_keep_responses(&rule);
        check_max_response(&rule);
        check_bloom(&rule);
        check_fingerprint_is_last(&rule);
        check_headers(&rule);
    }
}

void weir_conf_check_route_dedup(weir_conf_load_t *load, const weir_conf_route_t *route, const weir_conf_node_t *node)
{
    if (route->methods.size == 0 || route->dedup >= load->conf->dedup.size)
        return;
    const weir_conf_dedup_t *dedup = &load->conf->dedup.entries[route->dedup];
    const weir_conf_node_t *name = weir_conf_node_get(node, "dedup");
    for (size_t i = 0; i < route->methods.size; ++i)
        for (size_t k = 0; k < dedup->methods.size; ++k)
            if (strcmp(route->methods.entries[i], dedup->methods.entries[k]) == 0)
                return;
    if (name != NULL && dedup->methods.size > 0)
        weir_conf_fail(load, name,
                       "'%s' looks at none of this route's methods; leave it out, or write them in its methods",
                       dedup->name);
}
