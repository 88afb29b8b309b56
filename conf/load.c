/* A tree to structs, by the tables of fields/. Everything that is wrong is collected; nothing ends at the first. */

#include "load.h"
#include <stdlib.h>
#include <string.h>
#include "scalar.h"

/* ---- fields ---- */

typedef struct {
    const weir_conf_section_t *section;
    const weir_conf_node_t *mapping;
    unsigned algorithm; /* the one that is chosen, as a bit; 0 where there is none, or a wrong one */
    const char *algorithm_word;
    bool is_override;  /* fields that are not there keep the value they have */
    const void *outer; /* the row of the mapping that this one is a part of; NULL: it is none */
} scope_t;

static size_t count_fields(const weir_conf_section_t *section, const char **names)
{
    size_t count = 0;
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->kind == WEIR_CONF_INLINE)
            count += count_fields(field->section(), names != NULL ? names + count : NULL);
        else if (*field->key != '\0' && names != NULL)
            names[count++] = field->key;
        else if (*field->key != '\0')
            ++count;
    }
    return count;
}

static void refuse_unknown_keys(weir_conf_load_t *load, const weir_conf_section_t *section,
                                const weir_conf_node_t *mapping)
{
    size_t count = count_fields(section, NULL);
    const char **names = weir_conf_arena_alloc(load->scratch, count * sizeof(*names));
    count_fields(section, names);
    for (const weir_conf_node_t *node = mapping->first; node != NULL; node = node->next) {
        bool is_known = node->kind == WEIR_CONF_BROKEN || strcmp(node->key, WEIR_CONF_MERGE_KEY) == 0;
        for (size_t i = 0; i < count && !is_known; ++i)
            is_known = strcmp(names[i], node->key) == 0;
        if (!is_known)
            weir_conf_fail_unknown(load, node, names, count);
    }
}

/* The default as if it stood in the text. */
static const weir_conf_node_t *default_node(weir_conf_load_t *load, const weir_conf_field_t *field,
                                            const weir_conf_node_t *mapping)
{
    weir_conf_node_t *node;
    if (strchr("[{", *field->default_text) != NULL) {
        node = weir_conf_node_parse(load->scratch, "default", field->default_text, strlen(field->default_text),
                                    &load->errors);
    } else {
        node = weir_conf_arena_alloc(load->scratch, sizeof(*node));
        node->text = node->written = field->default_text;
        node->plain = true;
    }
    node->place = node->key_place = mapping->place;
    node->key = field->key;
    node->parent = mapping;
    return node;
}

/* Whether the algorithm that is chosen has the field; where not, it may not be there. */
static bool is_of_algorithm(weir_conf_load_t *load, const weir_conf_field_t *field, const scope_t *scope)
{
    const weir_conf_node_t *node = weir_conf_node_get(scope->mapping, field->key);
    if (field->algorithms == 0 || (field->algorithms & scope->algorithm) != 0)
        return true;
    if (node != NULL && scope->algorithm != 0)
        weir_conf_fail_key(load, node, "is no field of %s; leave it out, or write another algorithm",
                           scope->algorithm_word);
    return false;
}

static void load_value(weir_conf_load_t *load, const weir_conf_field_t *field, const scope_t *scope, void *row)
{
    const weir_conf_node_t *node = weir_conf_node_get(scope->mapping, field->key);
    if (!is_of_algorithm(load, field, scope) || (node != NULL && node->kind == WEIR_CONF_BROKEN))
        return;
    if (node != NULL && scope->is_override && (field->algorithms & NOT_PER_TENANT) != 0)
        weir_conf_fail_key(load, node, "is the same for every tenant; leave it out");
    else if (node != NULL)
        field->type->parse(load, field, node, row);
    else if (scope->is_override)
        return;
    else if (field->required)
        weir_conf_fail_missing(load, scope->mapping, field->key, "is required; %s", weir_conf_right(load, field->type));
    else if (field->default_text != NULL)
        field->type->parse(load, field, default_node(load, field, scope->mapping), row);
}

/* A mapping that is not there is one without fields. */
static const weir_conf_node_t *absent_mapping(weir_conf_load_t *load, const weir_conf_node_t *parent, const char *key)
{
    weir_conf_node_t *node = weir_conf_arena_alloc(load->scratch, sizeof(*node));
    *node = (weir_conf_node_t){
        .kind = WEIR_CONF_MAPPING, .place = parent->place, .key_place = parent->place, .key = key, .parent = parent};
    return node;
}

static void load_mapping(weir_conf_load_t *load, const weir_conf_section_t *section, const weir_conf_node_t *mapping,
                         const void *outer, void *row);

static bool is_on(const weir_conf_field_t *is_enabled, const weir_conf_node_t *node, void *row, const void *outer)
{
    if (node != NULL)
        return !weir_conf_node_is_word(node, "false");
    if (is_enabled->derive == NULL)
        return strcmp(is_enabled->default_text, "true") == 0;
    is_enabled->derive(row, outer);
    return *(bool *)weir_conf_member(is_enabled, row);
}

static void load_subsection(weir_conf_load_t *load, const weir_conf_field_t *field, const scope_t *scope,
                            const void *outer, void *row)
{
    if (!is_of_algorithm(load, field, scope))
        return;
    const weir_conf_node_t *mapping = scope->mapping;
    const weir_conf_section_t *section = field->section();
    const weir_conf_field_t *is_enabled = weir_conf_section_find(section, WEIR_CONF_SWITCH);
    const weir_conf_node_t *node = weir_conf_node_get(mapping, field->key);
    bool is_off = false;
    if (is_enabled != NULL) {
        is_off = !is_on(is_enabled, node, row, outer);
        *(bool *)weir_conf_member(is_enabled, row) = !is_off;
    }
    if (node == NULL || is_off)
        node = absent_mapping(load, mapping, field->key);
    if (node->kind == WEIR_CONF_MAPPING)
        load_mapping(load, section, node, outer, row);
    else if (node->kind != WEIR_CONF_BROKEN)
        weir_conf_fail_value(load, node, "a mapping",
                             is_enabled != NULL ? "write its fields, or false" : "write its fields");
}

static void load_own(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *mapping, void *row)
{
    const weir_conf_node_t *node = weir_conf_node_get(mapping, field->key);
    if (node == NULL || node->kind == WEIR_CONF_BROKEN)
        return;
    if (node->kind != WEIR_CONF_MAPPING) {
        weir_conf_fail_value(load, node, "a mapping", "write its fields, or null for the configuration's");
        return;
    }
    void *own = weir_conf_arena_alloc(load->arena, field->section()->size);
    weir_conf_load_section(load, field->section(), node, own);
    memcpy(row, &own, sizeof(own));
}

/* Whether a child becomes an entry; null is the same as leaving it out. */
static bool is_entry(const weir_conf_node_t *node)
{
    return node->kind != WEIR_CONF_BROKEN && !weir_conf_node_is_null(node);
}

static void load_named_entry(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                             void *row)
{
    const weir_conf_section_t *section = field->section();
    const weir_conf_field_t *name = weir_conf_section_find(section, WEIR_CONF_NAME);
    const char *right = weir_conf_parse_name(node->key);
    *(const char **)weir_conf_member(name, row) = weir_conf_keep(load, node->key);
    if (right != NULL)
        weir_conf_fail_key(load, node, "'%s' is not a name; %s", weir_conf_errors_show(load->scratch, node->key),
                           right);
    if (node->kind == WEIR_CONF_MAPPING)
        weir_conf_load_section(load, section, node, row);
    else
        weir_conf_fail_value(load, node, "a mapping", "write its fields");
}

static void load_list_entry(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                            void *row)
{
    if (node->kind == WEIR_CONF_MAPPING)
        weir_conf_load_section(load, field->section(), node, row);
    else
        weir_conf_fail_value(load, node, "a mapping", "write its fields");
}

static void load_entries(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *mapping,
                         void *row)
{
    const weir_conf_node_t *node = weir_conf_node_get(mapping, field->key);
    bool is_named = field->kind == WEIR_CONF_NAMED;
    if (node == NULL || node->kind == WEIR_CONF_BROKEN)
        return;
    if (node->kind != (is_named ? WEIR_CONF_MAPPING : WEIR_CONF_SEQUENCE)) {
        weir_conf_fail_value(load, node, is_named ? "a mapping" : "a list",
                             is_named ? "write names, and under each its fields"
                                      : "write a list, each entry after a -");
        return;
    }
    int64_t max;
    if (weir_conf_parse_count(field->max, &max) != NULL)
        abort();
    if (node->count > (size_t)max) {
        weir_conf_fail(load, node, "has %zu entries; write at most %s", node->count, field->max);
        return;
    }
    weir_conf_entries_t *entries = row;
    size_t size = field->section()->size;
    entries->entries = weir_conf_arena_alloc(load->arena, node->count * size);
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        if (is_named ? !is_entry(child) : child->kind == WEIR_CONF_BROKEN)
            continue;
        void *entry = (char *)entries->entries + entries->size++ * size;
        (is_named ? load_named_entry : load_list_entry)(load, field, child, entry);
    }
}

static void load_algorithm(weir_conf_load_t *load, const weir_conf_field_t *field, scope_t *scope, void *row)
{
    int *algorithm = weir_conf_member(field, row);
    *algorithm = -1; /* and so it stays, if it is wrong */
    load_value(load, field, scope, row);
    if (*algorithm < 0)
        return;
    scope->algorithm = 1u << *algorithm;
    scope->algorithm_word = field->type->words[*algorithm];
}

static void derive_fields(const scope_t *scope, void *row)
{
    for (size_t i = 0; i < scope->section->field_count; ++i) {
        const weir_conf_field_t *field = &scope->section->fields[i];
        bool is_there = field->algorithms == 0 || (field->algorithms & scope->algorithm) != 0;
        if (field->kind == WEIR_CONF_VALUE && field->derive != NULL && is_there &&
            weir_conf_node_get(scope->mapping, field->key) == NULL)
            field->derive(row, scope->outer);
    }
}

static void load_fields(weir_conf_load_t *load, scope_t scope, void *row)
{
    for (size_t i = 0; i < scope.section->field_count; ++i) {
        const weir_conf_field_t *field = &scope.section->fields[i];
        void *member = weir_conf_member(field, row);
        switch (field->kind) {
        case WEIR_CONF_VALUE:
            if (field->type == &weir_conf_type_algorithm)
                load_algorithm(load, field, &scope, row);
            else
                load_value(load, field, &scope, row);
            break;
        case WEIR_CONF_INLINE: {
            scope_t inner = scope;
            inner.section = field->section();
            inner.outer = row;
            load_fields(load, inner, member);
            break;
        }
        case WEIR_CONF_SECTION:
            load_subsection(load, field, &scope, row, member);
            break;
        case WEIR_CONF_OWN:
            load_own(load, field, scope.mapping, member);
            break;
        case WEIR_CONF_NAMED:
        case WEIR_CONF_LIST:
            load_entries(load, field, scope.mapping, member);
            break;
        case WEIR_CONF_NAME:
        case WEIR_CONF_SWITCH:
            break;
        }
    }
    if (!scope.is_override)
        derive_fields(&scope, row);
}

static void load_mapping(weir_conf_load_t *load, const weir_conf_section_t *section, const weir_conf_node_t *mapping,
                         const void *outer, void *row)
{
    refuse_unknown_keys(load, section, mapping);
    load_fields(load, (scope_t){.section = section, .mapping = mapping, .outer = outer}, row);
}

void weir_conf_load_section(weir_conf_load_t *load, const weir_conf_section_t *section, const weir_conf_node_t *mapping,
                            void *row)
{
    load_mapping(load, section, mapping, NULL, row);
}

void weir_conf_load_override(weir_conf_load_t *load, const weir_conf_limit_t *limit, const weir_conf_node_t *mapping,
                             weir_conf_quota_t *quota)
{
    scope_t scope = {.section = weir_conf_section_quota(), .mapping = mapping, .is_override = true};
    if ((int)limit->algorithm >= 0) {
        scope.algorithm = 1u << limit->algorithm;
        scope.algorithm_word = weir_conf_type_algorithm.words[limit->algorithm];
    }
    refuse_unknown_keys(load, scope.section, mapping);
    load_fields(load, scope, quota);
}

const char *weir_conf_keep(weir_conf_load_t *load, const char *text)
{
    return weir_conf_arena_copy(load->arena, text, strlen(text));
}

/* ---- the whole ---- */

static void complete_tenant(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_tenant_t *tenant)
{
    weir_conf_load_api_keys(load, node, tenant);
    if (tenant->file != NULL)
        tenant->file = weir_conf_absolute(load, weir_conf_keep(load, weir_conf_resolve(load, tenant->file)));
    tenant->forward_header = "X-Tenant-ID";
    for (size_t i = 0; i < tenant->from.size; ++i)
        if (!tenant->from.entries[i].is_api_key) {
            tenant->forward_header = tenant->from.entries[i].header;
            return;
        }
}

static const weir_conf_node_t *node_at(const weir_conf_node_t *root, const char *section, const char *name)
{
    return weir_conf_node_get(weir_conf_node_get(root, section), name);
}

/* A try may take as long as the route's call: its timeout, or the first upstream's total. */
static void note_total(weir_conf_t *conf, const weir_conf_route_t *route, size_t index)
{
    if (index >= conf->upstreams.size || route->upstream >= conf->upstreams.size)
        return;
    weir_conf_upstream_t *upstream = (weir_conf_upstream_t *)&conf->upstreams.entries[index];
    int64_t total_ns = route->timeout_ns != 0 ? route->timeout_ns : conf->upstreams.entries[route->upstream].timeouts.total_ns;
    if (total_ns > upstream->longest_total_ns)
        upstream->longest_total_ns = total_ns;
}

static void complete_totals(weir_conf_t *conf)
{
    for (size_t i = 0; i < conf->upstreams.size; ++i) {
        weir_conf_upstream_t *upstream = (weir_conf_upstream_t *)&conf->upstreams.entries[i];
        upstream->longest_total_ns = upstream->timeouts.total_ns;
    }
    for (size_t i = 0; i < conf->listeners.size; ++i)
        for (size_t j = 0; j < conf->listeners.entries[i].routes.size; ++j) {
            const weir_conf_route_t *route = &conf->listeners.entries[i].routes.entries[j];
            note_total(conf, route, route->upstream);
            for (size_t k = 0; k < route->fallback.size; ++k)
                note_total(conf, route, route->fallback.entries[k]);
        }
}

/* What needs other sections, or their files. */
static void complete(weir_conf_load_t *load)
{
    weir_conf_t *conf = load->conf;
    complete_tenant(load, weir_conf_node_get(load->root, "tenant"), &conf->tenant);
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        weir_conf_listener_t *listener = (weir_conf_listener_t *)&conf->listeners.entries[i];
        if (listener->tenant == NULL)
            listener->tenant = &conf->tenant;
        else
            complete_tenant(load, weir_conf_node_get(node_at(load->root, "listeners", listener->name), "tenant"),
                            (weir_conf_tenant_t *)listener->tenant);
    }
    for (size_t i = 0; i < conf->limits.size; ++i) {
        weir_conf_limit_t *limit = (weir_conf_limit_t *)&conf->limits.entries[i];
        weir_conf_load_overrides(load, node_at(load->root, "limits", limit->name), limit);
        limit->queue.per_tenant_size = (limit->queue.size * limit->queue.per_tenant_ppm + 999999) / 1000000;
    }
    weir_conf_check_tenant_files(load);
    complete_totals(conf);
}

static void load_root(weir_conf_load_t *load, const char *file, const char *text, size_t len)
{
    weir_conf_node_t *root = weir_conf_node_parse(load->scratch, file, text, len, &load->errors);
    if (root == NULL)
        return;
    load->root = root;
    weir_conf_expand(load, root);
    if (root->kind != WEIR_CONF_MAPPING) {
        if (root->kind != WEIR_CONF_BROKEN)
            weir_conf_fail_value(load, root, "a configuration", "write a mapping of sections, with version: 1 first");
        return;
    }
    weir_conf_load_section(load, weir_conf_section_root(), root, load->conf);
    complete(load);
    weir_conf_check_rules(load);
}

weir_conf_t *weir_conf_load_text(const char *file, const char *text, size_t len, char **errors)
{
    weir_conf_load_t load = {.arena = weir_conf_arena_create(), .scratch = weir_conf_arena_create()};
    load.errors.arena = load.scratch;
    load.conf = weir_conf_arena_alloc(load.arena, sizeof(*load.conf));
    load.conf->arena = load.arena;
    load.conf->file = weir_conf_arena_copy(load.arena, file, strlen(file));
    atomic_init(&load.conf->references, 1);
    weir_conf_watch(&load, file);

    if (len > WEIR_CONF_TEXT_BYTES_MAX)
        weir_conf_errors_add(&load.errors, (weir_conf_place_t){file, 1, 1}, "",
                             "is larger than 1MiB; name tenants in a file of their own, tenant.file");
    else
        load_root(&load, file, text, len);

    weir_conf_t *conf = load.conf;
    conf->files = (weir_conf_strings_t){load.files, load.file_count};
    *errors = NULL;
    if (load.errors.count > 0) {
        *errors = weir_conf_errors_text(&load.errors);
        weir_conf_arena_destroy(load.arena);
        conf = NULL;
    }
    weir_conf_arena_destroy(load.scratch);
    return conf;
}

weir_conf_t *weir_conf_load(const char *file, char **errors)
{
    weir_conf_arena_t *arena = weir_conf_arena_create();
    const char *text;
    size_t len;
    const char *error = weir_conf_read_file(file, WEIR_CONF_TEXT_BYTES_MAX, true, arena, &text, &len);
    weir_conf_t *conf = NULL;
    if (error == NULL) {
        conf = weir_conf_load_text(file, text, len, errors);
    } else {
        weir_conf_errors_t unreadable = {.arena = arena};
        weir_conf_errors_add(&unreadable, (weir_conf_place_t){file, 1, 1}, "", "cannot be read: %s", error);
        *errors = weir_conf_errors_text(&unreadable);
    }
    weir_conf_arena_destroy(arena);
    return conf;
}

void weir_conf_acquire(weir_conf_t *conf)
{
    atomic_fetch_add_explicit(&conf->references, 1, memory_order_relaxed);
}

void weir_conf_release(weir_conf_t *conf)
{
    if (atomic_fetch_sub_explicit(&conf->references, 1, memory_order_acq_rel) == 1)
        weir_conf_arena_destroy(conf->arena);
}
