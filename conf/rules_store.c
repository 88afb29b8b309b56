/* What must hold between the fields of the store: a function for each rule. */

#include <string.h>
#include <sys/stat.h>
#include "rules.h"
#include "table.h"

/* ---- the file ---- */

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return strcmp(a, b) == 0 || (stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

/* It is written anew every few seconds. */
static void check_file_is_its_own(weir_conf_load_t *load)
{
    const char *file = load->conf->store.file, *other = NULL;
    if (file == NULL)
        return;
    if (load->conf->log.access != NULL && is_same_file(file, load->conf->log.access))
        other = load->conf->log.access;
    for (size_t i = 0; i < load->file_count && other == NULL; ++i)
        if (is_same_file(file, load->files[i]))
            other = load->files[i];
    if (other != NULL)
        weir_conf_fail(load, NODE_AT(load, "store", "file"),
                       "'%s' is a file of the configuration or the log, and would be overwritten; write another path",
                       weir_conf_errors_show(load->scratch, other));
}

static void check_file_is_used(weir_conf_load_t *load)
{
    const weir_conf_node_t *store = NODE_AT(load, "store"), *file = weir_conf_node_get(store, "file");
    if (load->conf->store.kind == WEIR_STORE_REDIS && file != NULL && weir_conf_is_right(load, store, "file"))
        weir_conf_fail_key(load, file, "is for kind: memory; write that, or leave this out, for Redis keeps the keys");
}

/* ---- fields that nothing reads ---- */

/* The first field of the mapping that is not what it would be if it were not there; NULL: there is none. */
static const weir_conf_node_t *first_given(weir_conf_load_t *load, const weir_conf_section_t *section,
                                           const weir_conf_node_t *mapping, const void *row)
{
    const weir_conf_node_t none = {.kind = WEIR_CONF_MAPPING, .key = ""};
    void *defaults = weir_conf_arena_alloc(load->scratch, section->size);
    weir_conf_load_section(load, section, &none, defaults);
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        const weir_conf_node_t *node = weir_conf_node_get(mapping, field->key);
        if (node != NULL && weir_conf_is_right(load, mapping, field->key) &&
            !weir_conf_is_same(load->conf, field, row, defaults))
            return node;
    }
    return NULL;
}

static void check_redis_is_used(weir_conf_load_t *load)
{
    const weir_conf_store_t *store = &load->conf->store;
    const weir_conf_node_t *mapping = NODE_AT(load, "store");
    const weir_conf_node_t *redis = weir_conf_node_get(mapping, "redis");
    if (store->kind == WEIR_STORE_REDIS || !weir_conf_is_right(load, mapping, "kind"))
        return;
    const weir_conf_node_t *given = first_given(load, weir_conf_section_store_redis(), redis, &store->redis);
    if (given != NULL)
        weir_conf_fail_key(load, given, "is for kind: redis; write that, or leave this out");
}

static void check_sentinel_is_used(weir_conf_load_t *load)
{
    const weir_conf_store_redis_t *redis = &load->conf->store.redis;
    const weir_conf_node_t *mapping = NODE_AT(load, "store", "redis");
    const weir_conf_node_t *sentinel = weir_conf_node_get(mapping, "sentinel");
    if (redis->mode == WEIR_REDIS_SENTINEL || !weir_conf_is_right(load, mapping, "mode"))
        return;
    const weir_conf_node_t *given = first_given(load, weir_conf_section_redis_sentinel(), sentinel, &redis->sentinel);
    if (given != NULL)
        weir_conf_fail_key(load, given, "is for mode: sentinel; write that, or leave this out");
}

/* ---- Redis ---- */

/* Where an entry of `addresses` is a unix socket, which neither Sentinel nor Redis Cluster names, and which needs no TLS. */
static void check_addresses(weir_conf_load_t *load)
{
    const weir_conf_store_redis_t *redis = &load->conf->store.redis;
    const weir_conf_node_t *addresses = weir_conf_node_get(NODE_AT(load, "store", "redis"), "addresses");
    const weir_conf_node_t *child = addresses != NULL && addresses->kind == WEIR_CONF_SEQUENCE ? addresses->first : NULL;
    for (; child != NULL; child = child->next) {
        if (child->kind != WEIR_CONF_SCALAR || strncmp(child->text, "unix:", 5) != 0 ||
            weir_conf_errors_has(&load->errors, child->place))
            continue;
        if (redis->mode != WEIR_REDIS_SINGLE)
            weir_conf_fail(load, child, "'%s' is for mode: single; write host:port here",
                           weir_conf_errors_show(load->scratch, child->text));
        else if (redis->tls.enabled)
            weir_conf_fail(load, child, "'%s' needs no TLS; write host:port here, or tls: false",
                           weir_conf_errors_show(load->scratch, child->text));
    }
}

static void check_count_of_addresses(weir_conf_load_t *load)
{
    const weir_conf_store_redis_t *redis = &load->conf->store.redis;
    if (redis->mode == WEIR_REDIS_SINGLE && redis->addresses.size > 1 &&
        weir_conf_is_right(load, NODE_AT(load, "store", "redis"), "mode"))
        weir_conf_fail(load, NODE_AT(load, "store", "redis", "addresses"),
                       "has %zu entries, and mode: single has one server; write one, or mode: sentinel or cluster",
                       redis->addresses.size);
}

static void check_database(weir_conf_load_t *load)
{
    const weir_conf_store_redis_t *redis = &load->conf->store.redis;
    if (redis->mode == WEIR_REDIS_CLUSTER && redis->database > 0)
        weir_conf_fail(load, NODE_AT(load, "store", "redis", "database"),
                       "is none that a cluster has; write 0, or leave it out");
}

static void check_user(weir_conf_load_t *load, const weir_conf_node_t *mapping)
{
    const weir_conf_node_t *username = weir_conf_node_get(mapping, "username");
    if (username != NULL && weir_conf_node_get(mapping, "password") == NULL)
        weir_conf_fail_key(load, username, "needs a password; write it there, such as ${REDIS_PASSWORD}");
}

static void check_tls(weir_conf_load_t *load)
{
    const weir_conf_redis_tls_t *tls = &load->conf->store.redis.tls;
    weir_conf_check_identity(load, weir_conf_node_get(NODE_AT(load, "store", "redis"), "tls"), tls->cert, tls->key);
}

/* Redis has strings of up to 512 MiB, and an answer has a head. */
static void check_max_responses(weir_conf_load_t *load)
{
    const uint64_t max_bytes = UINT64_C(256) << 20;
    for (size_t i = 0; i < load->conf->dedup.size; ++i) {
        const weir_conf_dedup_t *dedup = &load->conf->dedup.entries[i];
        if (dedup->max_response_bytes > max_bytes)
            weir_conf_fail(load, NODE_AT(load, "dedup", dedup->name, "max_response"),
                           "is more than an answer in Redis may have; write at most 256MiB");
    }
}

void weir_conf_check_store(weir_conf_load_t *load)
{
    check_file_is_its_own(load);
    check_file_is_used(load);
    check_redis_is_used(load);
    if (load->conf->store.kind != WEIR_STORE_REDIS)
        return;
    const weir_conf_node_t *redis = weir_conf_node_get(weir_conf_node_get(load->root, "store"), "redis");
    check_sentinel_is_used(load);
    check_addresses(load);
    check_count_of_addresses(load);
    check_database(load);
    check_user(load, redis);
    check_user(load, weir_conf_node_get(redis, "sentinel"));
    check_tls(load);
    check_max_responses(load);
}
