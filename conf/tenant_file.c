/* API keys and limits' tenants: those in the configuration and those in the file that tenant.file names, which is
 *
 *     api_keys: {SHA256: TENANT}
 *     limits: {NAME: {TENANT: {the fields to replace}}}
 *
 * The same entry may stand in both; two different ones for one key may not. */

#include "load.h"
#include <stdlib.h>
#include <string.h>
#include "scalar.h"

enum { ENTRIES_MAX = 100000 };

static const char *const sections[] = {"api_keys", "limits"};

static const weir_conf_node_t *parse_tenant_file(weir_conf_load_t *load, const char *path, const weir_conf_node_t *node)
{
    const char *text;
    size_t len;
    const char *error = weir_conf_read_file(path, WEIR_CONF_TENANT_FILE_BYTES_MAX, false, load->scratch, &text, &len);
    if (error != NULL) {
        weir_conf_fail(load, node, "the file '%s' cannot be read: %s; write the path of a file of tenants",
                       weir_conf_errors_show(load->scratch, path), error);
        return NULL;
    }
    weir_conf_node_t *root = weir_conf_node_parse(
        load->scratch, weir_conf_arena_copy(load->scratch, path, strlen(path)), text, len, &load->errors);
    if (root == NULL)
        return NULL;
    weir_conf_expand(load, root);
    if (root->kind != WEIR_CONF_MAPPING) {
        weir_conf_fail_value(load, root, "a file of tenants", "write a mapping of api_keys and limits");
        return NULL;
    }
    for (const weir_conf_node_t *child = root->first; child != NULL; child = child->next)
        if (strcmp(child->key, sections[0]) != 0 && strcmp(child->key, sections[1]) != 0)
            weir_conf_fail_unknown(load, child, sections, 2);
    return root;
}

static const weir_conf_tenant_file_t *find_file(const weir_conf_load_t *load, const char *path)
{
    for (const weir_conf_tenant_file_t *file = load->tenant_files; file != NULL; file = file->next)
        if (strcmp(file->path, path) == 0)
            return file;
    return NULL;
}

void weir_conf_load_tenant_file(weir_conf_load_t *load, const char *path, const weir_conf_node_t *node)
{
    const char *resolved = weir_conf_resolve(load, path);
    if (find_file(load, resolved) != NULL)
        return;
    weir_conf_watch(load, resolved);
    weir_conf_tenant_file_t *file = weir_conf_arena_alloc(load->scratch, sizeof(*file));
    file->path = resolved;
    file->root = parse_tenant_file(load, resolved, node);
    file->next = load->tenant_files;
    load->tenant_files = file;
}

/* A mapping that may have entries; NULL where there are none. */
static const weir_conf_node_t *entries_of(weir_conf_load_t *load, const weir_conf_node_t *node, const char *right)
{
    if (node == NULL || node->kind == WEIR_CONF_BROKEN)
        return NULL;
    if (node->kind != WEIR_CONF_MAPPING) {
        weir_conf_fail_value(load, node, "a mapping", right);
        return NULL;
    }
    if (node->count > ENTRIES_MAX) {
        weir_conf_fail(load, node, "has %zu entries; write at most %d", node->count, ENTRIES_MAX);
        return NULL;
    }
    return node;
}

static bool is_entry(const weir_conf_node_t *node)
{
    return node->kind != WEIR_CONF_BROKEN && !weir_conf_node_is_null(node);
}

/* ---- API keys ---- */

typedef struct {
    weir_conf_api_key_t value;
    const weir_conf_node_t *node;
} api_key_t;

static int by_sha256(const void *a, const void *b)
{
    const api_key_t *x = a, *y = b;
    return memcmp(x->value.sha256, y->value.sha256, sizeof(x->value.sha256));
}

static size_t read_api_keys(weir_conf_load_t *load, const weir_conf_node_t *mapping, api_key_t *keys)
{
    size_t count = 0;
    for (const weir_conf_node_t *node = mapping != NULL ? mapping->first : NULL; node != NULL; node = node->next) {
        if (!is_entry(node))
            continue;
        api_key_t *key = &keys[count];
        key->node = node;
        const char *right = weir_conf_parse_sha256(node->key, key->value.sha256);
        if (right != NULL)
            weir_conf_fail_key(load, node, "is not the SHA-256 of a key; %s", right);
        const char *tenant = weir_conf_load_tenant_name(load, node);
        key->value.tenant = tenant;
        if (right == NULL && tenant != NULL)
            ++count;
    }
    return count;
}

void weir_conf_load_api_keys(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_tenant_t *tenant)
{
    static const char right[] = "write {SHA-256 of a key: tenant}";
    const weir_conf_node_t *own = entries_of(load, weir_conf_node_get(node, "api_keys"), right), *others = NULL;
    if (tenant->file != NULL) {
        const weir_conf_tenant_file_t *file = find_file(load, weir_conf_resolve(load, tenant->file));
        others = file != NULL ? entries_of(load, weir_conf_node_get(file->root, "api_keys"), right) : NULL;
    }
    size_t capacity = (own != NULL ? own->count : 0) + (others != NULL ? others->count : 0);
    api_key_t *keys = weir_conf_arena_alloc(load->scratch, capacity * sizeof(*keys));
    size_t count = read_api_keys(load, own, keys);
    count += read_api_keys(load, others, keys + count);
    qsort(keys, count, sizeof(*keys), by_sha256);

    weir_conf_api_key_t *entries = weir_conf_arena_alloc(load->arena, count * sizeof(*entries));
    size_t size = 0;
    for (size_t i = 0; i < count; ++i) {
        if (i == 0 || by_sha256(&keys[i - 1], &keys[i]) != 0)
            entries[size++] = keys[i].value;
        else if (strcmp(keys[i - 1].value.tenant, keys[i].value.tenant) != 0)
            weir_conf_fail_key(load, keys[i].node, "stands for '%s' already (%s:%u); leave one out",
                               keys[i - 1].value.tenant, keys[i - 1].node->place.file, keys[i - 1].node->place.line);
    }
    tenant->api_keys.entries = entries;
    tenant->api_keys.size = size;
}

/* ---- tenants of a limit ---- */

typedef struct {
    weir_conf_override_t value;
    const weir_conf_node_t *node;
    bool is_own; /* of the limit itself, not of a file */
} override_t;

static int by_tenant(const void *a, const void *b)
{
    const override_t *x = a, *y = b;
    return strcmp(x->value.tenant, y->value.tenant);
}

static bool states_burst(const override_t *override)
{
    return weir_conf_node_get(override->node, "burst") != NULL;
}

/* Of a tenant's, the limit's own comes first. */
static int by_tenant_own_first(const void *a, const void *b)
{
    const override_t *x = a, *y = b;
    int order = by_tenant(a, b);
    return order != 0 ? order : y->is_own - x->is_own;
}

static bool is_same_quota(const weir_conf_quota_t *a, const weir_conf_quota_t *b)
{
    return a->rate.count == b->rate.count && a->rate.period_ns == b->rate.period_ns && a->burst == b->burst &&
           a->limit == b->limit && a->window_ns == b->window_ns;
}

/* A file may leave out the burst that the limit itself states, as --print-config does. */
static bool is_same(const override_t *first, const override_t *other)
{
    weir_conf_quota_t quota = other->value.quota;
    if (first->is_own && !other->is_own && states_burst(first) && !states_burst(other))
        quota.burst = first->value.quota.burst;
    return is_same_quota(&first->value.quota, &quota);
}

typedef struct {
    override_t *entries;
    size_t size;
} overrides_t;

static void read_overrides(weir_conf_load_t *load, const weir_conf_node_t *mapping, const weir_conf_limit_t *limit,
                           bool has_burst, overrides_t *overrides)
{
    for (const weir_conf_node_t *node = mapping->first; node != NULL; node = node->next) {
        if (!is_entry(node))
            continue;
        const char *right = weir_conf_parse_tenant(node->key);
        if (right != NULL)
            weir_conf_fail_key(load, node, "'%s' is not a tenant; %s", weir_conf_errors_show(load->scratch, node->key),
                               right);
        if (node->kind != WEIR_CONF_MAPPING) {
            weir_conf_fail_value(load, node, "a mapping", "write the fields to replace, such as {rate: 500/s}");
            continue;
        }
        override_t *override = &overrides->entries[overrides->size++];
        override->node = node;
        override->value.tenant = weir_conf_keep(load, node->key);
        override->value.quota = limit->quota;
        weir_conf_load_override(load, limit, node, &override->value.quota);
        if (limit->algorithm == WEIR_LIMIT_TOKEN_BUCKET && !has_burst && weir_conf_node_get(node, "burst") == NULL)
            weir_conf_derive_burst(&override->value.quota, limit); /* of the tenant's own rate */
    }
}

static void keep_overrides(weir_conf_load_t *load, overrides_t *overrides, weir_conf_limit_t *limit)
{
    const override_t *sorted = overrides->entries;
    qsort(overrides->entries, overrides->size, sizeof(*overrides->entries), by_tenant_own_first);
    weir_conf_override_t *entries = weir_conf_arena_alloc(load->arena, overrides->size * sizeof(*entries));
    size_t size = 0;
    for (size_t i = 0; i < overrides->size; ++i) {
        if (i == 0 || by_tenant(&sorted[i - 1], &sorted[i]) != 0)
            entries[size++] = sorted[i].value;
        else if (!is_same(&sorted[i - 1], &sorted[i]))
            weir_conf_fail_key(load, sorted[i].node, "has other fields already (%s:%u); leave one out",
                               sorted[i - 1].node->place.file, sorted[i - 1].node->place.line);
    }
    limit->tenants.entries = entries;
    limit->tenants.size = size;
}

void weir_conf_load_overrides(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_limit_t *limit)
{
    static const char right[] = "write {TENANT: {the fields to replace}}";
    bool has_burst = weir_conf_node_get(node, "burst") != NULL;
    const weir_conf_node_t *own = entries_of(load, weir_conf_node_get(node, "tenants"), right);
    size_t capacity = own != NULL ? own->count : 0;
    for (const weir_conf_tenant_file_t *file = load->tenant_files; file != NULL; file = file->next) {
        const weir_conf_node_t *limits = weir_conf_node_get(file->root, "limits");
        const weir_conf_node_t *others = entries_of(load, weir_conf_node_get(limits, limit->name), right);
        capacity += others != NULL ? others->count : 0;
    }
    overrides_t overrides = {.entries = weir_conf_arena_alloc(load->scratch, capacity * sizeof(override_t))};
    if (own != NULL)
        read_overrides(load, own, limit, has_burst, &overrides);
    for (size_t i = 0; i < overrides.size; ++i)
        overrides.entries[i].is_own = true;
    for (const weir_conf_tenant_file_t *file = load->tenant_files; file != NULL; file = file->next) {
        const weir_conf_node_t *limits = weir_conf_node_get(file->root, "limits");
        const weir_conf_node_t *others = entries_of(load, weir_conf_node_get(limits, limit->name), right);
        if (others != NULL)
            read_overrides(load, others, limit, has_burst, &overrides);
    }
    keep_overrides(load, &overrides, limit);
}

void weir_conf_check_tenant_files(weir_conf_load_t *load)
{
    const weir_conf_t *conf = load->conf;
    const char **names = weir_conf_arena_alloc(load->scratch, conf->limits.size * sizeof(*names));
    for (size_t i = 0; i < conf->limits.size; ++i)
        names[i] = conf->limits.entries[i].name;
    for (const weir_conf_tenant_file_t *file = load->tenant_files; file != NULL; file = file->next) {
        const weir_conf_node_t *limits = entries_of(load, weir_conf_node_get(file->root, "limits"),
                                                    "write {NAME: {TENANT: {the fields to replace}}}");
        for (const weir_conf_node_t *node = limits != NULL ? limits->first : NULL; node != NULL; node = node->next)
            weir_conf_find_name(load, node, true, node->key, "a limit of the configuration", "limits", names,
                                conf->limits.size);
    }
}
