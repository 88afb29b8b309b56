#ifndef WEIR_CONF_RULES_H
#define WEIR_CONF_RULES_H

/* What the rules between fields share. A rule looks only at what is right by itself. */

#include "load.h"

/* The node at a path of keys, or the nearest one around it that is there. */
const weir_conf_node_t *weir_conf_rule_node(const weir_conf_load_t *load, const char *const keys[], size_t count);

#define NODE_AT(load, ...)                                        \
    weir_conf_rule_node(load, (const char *const[]){__VA_ARGS__}, \
                        sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

/* Whether `key` of the mapping is not there or right: what it is can be looked at, even where it is 0. */
bool weir_conf_is_right(const weir_conf_load_t *load, const weir_conf_node_t *mapping, const char *key);

bool weir_conf_is_correlation_name(const weir_conf_correlation_t *correlation, const char *header);
bool weir_conf_is_tenant_name(const weir_conf_t *conf, const char *header); /* at one of the listeners */

/* A certificate and its key stand together, and are a pair. */
void weir_conf_check_identity(weir_conf_load_t *load, const weir_conf_node_t *tls, const char *cert, const char *key);

void weir_conf_check_upstreams(weir_conf_load_t *load); /* rules_upstream.c */

/* rules_dedup.c */
void weir_conf_check_dedups(weir_conf_load_t *load);
void weir_conf_check_route_dedup(weir_conf_load_t *load, const weir_conf_route_t *route, const weir_conf_node_t *node);

void weir_conf_check_store(weir_conf_load_t *load); /* rules_store.c */

#endif
