/* What lists and mappings of values can do: the types of fields/types.def that are more than one value. */

#include "types.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "yaml.h"

/* ---- shared ---- */

/* Room for the entries of a list, in `*entries`; false after an error. */
bool weir_conf_begin_list(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                          size_t entry_bytes, void *entries)
{
    if (node->kind != WEIR_CONF_SEQUENCE) {
        weir_conf_fail_value(load, node, field->type->what, field->type->right);
        return false;
    }
    if (field->max != NULL && node->count > (size_t)weir_conf_bound(field->max)) {
        weir_conf_fail(load, node, "has %zu entries; write at most %s", node->count, field->max);
        return false;
    }
    if (field->min != NULL && node->count < (size_t)weir_conf_bound(field->min)) {
        weir_conf_fail(load, node, "is empty; %s", field->type->right);
        return false;
    }
    void *room = weir_conf_arena_alloc(load->arena, node->count * entry_bytes);
    memcpy(entries, &room, sizeof(room));
    return true;
}

void weir_conf_fail_twice(weir_conf_load_t *load, const weir_conf_node_t *node, const char *name)
{
    weir_conf_fail(load, node, "'%s' is named twice; leave one out",
                   weir_conf_errors_show(load->scratch, node->hidden ? node->written : name));
}

const weir_conf_node_t *weir_conf_only_field(weir_conf_load_t *load, const weir_conf_node_t *node, const char *what,
                                             const char *right, const char *const *names, size_t count, size_t *index)
{
    const weir_conf_node_t *only = NULL;
    size_t given = 0;
    if (node->kind != WEIR_CONF_MAPPING) {
        weir_conf_fail_value(load, node, what, right);
        return NULL;
    }
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        size_t i = 0;
        while (i < count && strcmp(names[i], child->key) != 0)
            ++i;
        if (i == count) {
            weir_conf_fail_unknown(load, child, names, count);
            return NULL;
        }
        if (!weir_conf_node_is_null(child)) {
            only = child;
            *index = i;
            ++given;
        }
    }
    if (given == 1)
        return only->kind != WEIR_CONF_BROKEN ? only : NULL;
    weir_conf_fail(load, node, "has %s field; %s", given == 0 ? "no" : "more than one", right);
    return NULL;
}

void weir_conf_schema_array(weir_conf_json_t *json, const weir_conf_field_t *field, bool is_unique)
{
    weir_conf_json_member_text(json, "type", "array");
    if (field->min != NULL && weir_conf_bound(field->min) > 0)
        weir_conf_json_member_word(json, "minItems", field->min);
    if (field->max != NULL)
        weir_conf_json_member_word(json, "maxItems", field->max);
    if (is_unique)
        weir_conf_json_member_word(json, "uniqueItems", "true");
    weir_conf_json_key(json, "items");
}

/* items: text that matches, or something that is inserted. */
void weir_conf_schema_items(weir_conf_json_t *json, const char *pattern, bool or_number)
{
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_json_open(json, '{');
    weir_conf_schema_text(json, pattern, NULL, NULL, or_number);
    weir_conf_json_close(json, '}');
    weir_conf_schema_ref(json, "inserted");
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

void weir_conf_schema_word_items(weir_conf_json_t *json, const char *const *words)
{
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_json_open(json, '{');
    weir_conf_schema_words(json, words);
    weir_conf_json_close(json, '}');
    weir_conf_schema_ref(json, "inserted");
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

void weir_conf_schema_only_field(weir_conf_json_t *json, const char *name, const char *pattern)
{
    weir_conf_json_member_text(json, "type", "object");
    weir_conf_json_key(json, "properties");
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, name);
    weir_conf_schema_items(json, pattern, true);
    weir_conf_json_close(json, '}');
    weir_conf_json_key(json, "required");
    weir_conf_json_open(json, '[');
    weir_conf_json_text(json, name);
    weir_conf_json_close(json, ']');
    weir_conf_json_member_word(json, "additionalProperties", "false");
}

static void schema_header_object(weir_conf_json_t *json, const char *name)
{
    weir_conf_json_open(json, '{');
    weir_conf_schema_only_field(json, name, WEIR_CONF_PATTERN_HEADER);
    weir_conf_json_close(json, '}');
}

void weir_conf_print_strings(FILE *out, const weir_conf_strings_t *strings)
{
    fputs(" [", out);
    for (size_t i = 0; i < strings->size; ++i) {
        fputs(i > 0 ? ", " : "", out);
        weir_conf_yaml_text(out, strings->entries[i]);
    }
    fputs("]\n", out);
}

/* ---- names ---- */

static void load_headers(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                         void *row, const char *(*parse)(const char *text))
{
    weir_conf_strings_t *strings = weir_conf_member(field, row);
    if (!weir_conf_begin_list(load, field, node, sizeof(char *), &strings->entries))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        const char *header = NULL;
        if (child->kind != WEIR_CONF_BROKEN)
            header = weir_conf_load_header(load, child, parse);
        for (size_t i = 0; i < strings->size && header != NULL; ++i)
            if (strcasecmp(strings->entries[i], header) == 0)
                weir_conf_fail_twice(load, child, header);
        if (header != NULL)
            strings->entries[strings->size++] = header;
    }
}

PARSE(own_headers)
{
    load_headers(load, field, node, row, weir_conf_parse_own_header);
}

PRINT(own_headers)
{
    weir_conf_print_strings(out, weir_conf_member_const(field, row));
}

SCHEMA(own_headers)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_schema_items(json, WEIR_CONF_PATTERN_HEADER, true);
}

PARSE(removed_headers)
{
    load_headers(load, field, node, row, weir_conf_parse_sent_header);
}

PARSE(methods)
{
    weir_conf_strings_t *strings = weir_conf_member(field, row);
    if (!weir_conf_begin_list(load, field, node, sizeof(char *), &strings->entries))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        if (child->kind == WEIR_CONF_BROKEN)
            continue;
        const char *method = child->kind == WEIR_CONF_SCALAR ? child->text : NULL;
        const char *right = method == NULL        ? "write its name, such as GET"
                            : strlen(method) > 32 ? "write at most 32 letters"
                                                  : weir_conf_parse_method(method);
        for (size_t i = 0; i < strings->size && right == NULL; ++i)
            if (strcmp(strings->entries[i], method) == 0)
                weir_conf_fail_twice(load, child, method);
        if (right != NULL)
            weir_conf_fail_value(load, child, "a method", right);
        else
            strings->entries[strings->size++] = weir_conf_keep(load, method);
    }
}

SCHEMA(methods)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_schema_items(json, "^(?!(CONNECT|TRACE)$)[A-Z][A-Z0-9_-]{0,31}$", false);
}

/* Where a POST is among them, a field left out says so, and nothing else. */
PRINT(retry_methods)
{
    const weir_conf_upstream_retry_t *retry = row;
    if (retry->post_with_status)
        fputs(" null # and POST where a status came:", out);
    weir_conf_print_strings(out, &retry->methods);
}

static const weir_conf_type_t one_model = {.what = "a model",
                                           .right = "write its name, such as gpt-4o or \"claude-*\""};

PARSE(model_patterns)
{
    weir_conf_strings_t *strings = weir_conf_member(field, row);
    if (!weir_conf_begin_list(load, field, node, sizeof(char *), &strings->entries))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        const char *text = child->kind != WEIR_CONF_BROKEN ? weir_conf_scalar(load, &one_model, child) : NULL;
        const char *right = text != NULL ? weir_conf_parse_model_pattern(text) : NULL;
        if (right != NULL)
            weir_conf_fail_value(load, child, one_model.what, right);
        if (text == NULL || right != NULL)
            continue;
        for (size_t i = 0; i < strings->size; ++i)
            if (strcmp(strings->entries[i], text) == 0)
                weir_conf_fail_twice(load, child, text);
        strings->entries[strings->size++] = weir_conf_keep(load, text);
    }
}

SCHEMA(model_patterns)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_schema_items(json, "^([^*\\x00-\\x1f\\x7f]{1,255}\\*?|\\*[^*\\x00-\\x1f\\x7f]{0,255})$", true);
}

/* ---- names of limits and upstreams ---- */

typedef struct {
    weir_conf_type_t one;
    const char *what, *section;
    const char **names; /* there are */
    size_t count;
} kind_t;

/* Indices into the names of a kind, each once. */
static void load_indices(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                         const kind_t *kind, size_t **entries, size_t *size)
{
    size_t *indices;
    if (!weir_conf_begin_list(load, field, node, sizeof(*indices), &indices))
        return;
    *entries = indices;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        const char *name = child->kind != WEIR_CONF_BROKEN ? weir_conf_scalar(load, &kind->one, child) : NULL;
        if (name == NULL)
            continue;
        size_t index =
            weir_conf_find_name(load, child, false, name, kind->what, kind->section, kind->names, kind->count);
        for (size_t i = 0; i < *size && index != SIZE_MAX; ++i)
            if (indices[i] == index)
                weir_conf_fail_twice(load, child, name);
        indices[(*size)++] = index;
    }
}

PARSE(limit_names)
{
    const weir_conf_t *conf = load->conf;
    weir_conf_route_t *route = row;
    size_t *entries = NULL, count = conf->limits.size;
    const char **names = weir_conf_arena_alloc(load->scratch, count * sizeof(*names));
    for (size_t i = 0; i < count; ++i)
        names[i] = conf->limits.entries[i].name;
    const kind_t kind = {{.what = "the name of a limit", .right = "write the name of one of the limits"},
                         "a limit",
                         "limits",
                         names,
                         count};
    load_indices(load, field, node, &kind, &entries, &route->limits.size);
    route->limits.entries = entries;
}

PARSE(upstream_names)
{
    const weir_conf_t *conf = load->conf;
    weir_conf_route_t *route = row;
    size_t *entries = NULL, count = conf->upstreams.size;
    const char **names = weir_conf_arena_alloc(load->scratch, count * sizeof(*names));
    for (size_t i = 0; i < count; ++i)
        names[i] = conf->upstreams.entries[i].name;
    const kind_t kind = {{.what = "the name of an upstream", .right = "write the name of one of the upstreams"},
                         "an upstream",
                         "upstreams",
                         names,
                         count};
    load_indices(load, field, node, &kind, &entries, &route->fallback.size);
    route->fallback.entries = entries;
}

PRINT(limit_names)
{
    const weir_conf_route_t *route = row;
    fputs(" [", out);
    for (size_t i = 0; i < route->limits.size; ++i)
        fprintf(out, "%s%s", i > 0 ? ", " : "", conf->limits.entries[route->limits.entries[i]].name);
    fputs("]\n", out);
}

PRINT(upstream_names)
{
    const weir_conf_route_t *route = row;
    fputs(" [", out);
    for (size_t i = 0; i < route->fallback.size; ++i)
        fprintf(out, "%s%s", i > 0 ? ", " : "", conf->upstreams.entries[route->fallback.entries[i]].name);
    fputs("]\n", out);
}

SCHEMA(names)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_schema_items(json, WEIR_CONF_PATTERN_NAME, false);
}

/* ---- networks ---- */

PARSE(cidrs)
{
    weir_conf_cidr_t *entries;
    size_t size = 0;
    if (!weir_conf_begin_list(load, field, node, sizeof(*entries), &entries))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        if (child->kind == WEIR_CONF_BROKEN)
            continue;
        const char *right = "write such as 10.0.0.0/8";
        if (child->kind == WEIR_CONF_SCALAR)
            right = weir_conf_parse_cidr(child->text, &entries[size]);
        if (right != NULL)
            weir_conf_fail_value(load, child, "a network", right);
        else
            ++size;
    }
    *(weir_conf_cidrs_t *)weir_conf_member(field, row) = (weir_conf_cidrs_t){entries, size};
}

PRINT(cidrs)
{
    const weir_conf_cidrs_t *cidrs = weir_conf_member_const(field, row);
    fputs(" [", out);
    for (size_t i = 0; i < cidrs->size; ++i) {
        char text[WEIR_CONF_SCALAR_BYTES_MAX];
        weir_conf_format_cidr(&cidrs->entries[i], text);
        fputs(i > 0 ? ", " : "", out);
        weir_conf_yaml_text(out, text);
    }
    fputs("]\n", out);
}

SCHEMA(cidrs)
{
    static const char pattern[] =
        "^(" WEIR_CONF_PATTERN_V4 "(/([0-9]|[12][0-9]|3[0-2]))?|"
        "[0-9A-Fa-f]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?)$";
    weir_conf_schema_array(json, field, false);
    weir_conf_schema_items(json, pattern, false);
}

/* ---- parts of a key, sources of a tenant ---- */

static const char *const key_words[] = {"tenant", "route", "model", "client_ip", "correlation", NULL};
static const char key_what[] = "a part of a key",
                  key_right[] = "write tenant, route, model, client_ip, correlation or {header: NAME}";

static bool load_key_part(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_key_part_t *part)
{
    static const char *const names[] = {"header"};
    for (int i = 0; node->kind == WEIR_CONF_SCALAR && key_words[i] != NULL; ++i)
        if (strcmp(key_words[i], node->text) == 0) {
            part->kind = (weir_conf_key_kind_t)i;
            return true;
        }
    size_t index;
    const weir_conf_node_t *header = weir_conf_only_field(load, node, key_what, key_right, names, 1, &index);
    part->kind = WEIR_KEY_HEADER;
    part->header = header != NULL ? weir_conf_load_header(load, header, weir_conf_parse_key_header) : NULL;
    return part->header != NULL;
}

static bool is_same_part(const weir_conf_key_part_t *a, const weir_conf_key_part_t *b)
{
    return a->kind == b->kind && (a->kind != WEIR_KEY_HEADER || strcasecmp(a->header, b->header) == 0);
}

PARSE(key_parts)
{
    weir_conf_limit_t *limit = row;
    weir_conf_key_part_t *parts;
    size_t size = 0;
    if (!weir_conf_begin_list(load, field, node, sizeof(*parts), &parts))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        weir_conf_key_part_t *part = &parts[size];
        if (child->kind == WEIR_CONF_BROKEN || !load_key_part(load, child, part))
            continue;
        for (size_t i = 0; i < size; ++i)
            if (is_same_part(&parts[i], part))
                weir_conf_fail_twice(load, child, part->kind == WEIR_KEY_HEADER ? part->header : key_words[part->kind]);
        ++size;
    }
    limit->key.entries = parts;
    limit->key.size = size;
}

void weir_conf_print_only_field(FILE *out, const char *name, const char *text)
{
    fprintf(out, "{%s: ", name);
    weir_conf_yaml_text(out, text);
    fputc('}', out);
}

PRINT(key_parts)
{
    const weir_conf_limit_t *limit = row;
    fputs(" [", out);
    for (size_t i = 0; i < limit->key.size; ++i) {
        const weir_conf_key_part_t *part = &limit->key.entries[i];
        fputs(i > 0 ? ", " : "", out);
        if (part->kind == WEIR_KEY_HEADER)
            weir_conf_print_only_field(out, "header", part->header);
        else
            fputs(key_words[part->kind], out);
    }
    fputs("]\n", out);
}

SCHEMA(key_parts)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_schema_word_items(json, key_words);
    schema_header_object(json, "header");
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

static void load_only_header(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                             void *row, const char *(*parse)(const char *text))
{
    static const char *const names[] = {"header"};
    size_t index;
    const weir_conf_node_t *header =
        weir_conf_only_field(load, node, field->type->what, field->type->right, names, 1, &index);
    if (header != NULL)
        *(const char **)weir_conf_member(field, row) = weir_conf_load_header(load, header, parse);
}

PARSE(priority)
{
    load_only_header(load, field, node, row, weir_conf_parse_priority_header);
}

PARSE(bypass)
{
    load_only_header(load, field, node, row, weir_conf_parse_bypass_header);
}

PRINT(priority)
{
    const char *header = *(const char *const *)weir_conf_member_const(field, row);
    if (header == NULL) {
        fputs(" null\n", out);
        return;
    }
    fputc(' ', out);
    weir_conf_print_only_field(out, "header", header);
    fputc('\n', out);
}

SCHEMA(priority)
{
    weir_conf_schema_only_field(json, "header", WEIR_CONF_PATTERN_HEADER);
}

static const char *const source_names[] = {"header", "api_key"};

static bool load_tenant_source(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_tenant_source_t *source)
{
    size_t index;
    const weir_conf_node_t *header = weir_conf_only_field(
        load, node, "a source of the tenant", "write {header: NAME} or {api_key: NAME}", source_names, 2, &index);
    if (header == NULL)
        return false;
    source->is_api_key = index == 1;
    source->header =
        weir_conf_load_header(load, header, source->is_api_key ? weir_conf_parse_header : weir_conf_parse_own_header);
    return source->header != NULL;
}

PARSE(tenant_sources)
{
    weir_conf_tenant_t *tenant = row;
    weir_conf_tenant_source_t *sources;
    size_t size = 0;
    if (!weir_conf_begin_list(load, field, node, sizeof(*sources), &sources))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        weir_conf_tenant_source_t *source = &sources[size];
        if (child->kind == WEIR_CONF_BROKEN || !load_tenant_source(load, child, source))
            continue;
        for (size_t i = 0; i < size; ++i)
            if (strcasecmp(sources[i].header, source->header) == 0)
                weir_conf_fail_twice(load, child, source->header);
        ++size;
    }
    tenant->from.entries = sources;
    tenant->from.size = size;
}

PRINT(tenant_sources)
{
    const weir_conf_tenant_t *tenant = row;
    fputs(" [", out);
    for (size_t i = 0; i < tenant->from.size; ++i) {
        const weir_conf_tenant_source_t *source = &tenant->from.entries[i];
        fputs(i > 0 ? ", " : "", out);
        weir_conf_print_only_field(out, source_names[source->is_api_key], source->header);
    }
    fputs("]\n", out);
}

SCHEMA(tenant_sources)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    schema_header_object(json, "header");
    schema_header_object(json, "api_key");
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

/* ---- mappings ---- */

/* Both are read when everything else is there: tenant_file.c. */
PARSE(later)
{
}

void weir_conf_schema_object(weir_conf_json_t *json, const weir_conf_field_t *field, const char *pattern)
{
    weir_conf_json_member_text(json, "type", "object");
    weir_conf_json_member_word(json, "maxProperties", field->max);
    weir_conf_json_member_word(json, "additionalProperties", "false");
    weir_conf_json_key(json, "patternProperties");
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, pattern);
}

PRINT(api_keys)
{
    const weir_conf_tenant_t *tenant = row;
    fputs(tenant->api_keys.size == 0 ? " {}\n" : "\n", out);
    for (size_t i = 0; i < tenant->api_keys.size; ++i) {
        const weir_conf_api_key_t *key = &tenant->api_keys.entries[i];
        fprintf(out, "%*s\"", indent + 2, "");
        for (size_t k = 0; k < sizeof(key->sha256); ++k)
            fprintf(out, "%02x", key->sha256[k]);
        fputs("\": ", out);
        weir_conf_yaml_text(out, key->tenant);
        fputc('\n', out);
    }
}

SCHEMA(api_keys)
{
    weir_conf_schema_pairs(json, field, "^[0-9A-Fa-f]{64}$", WEIR_CONF_PATTERN_TENANT);
}

PRINT(overrides)
{
    const weir_conf_limit_t *limit = row;
    const weir_conf_section_t *quota = weir_conf_section_quota();
    fputs(limit->tenants.size == 0 ? " {}\n" : "\n", out);
    for (size_t i = 0; i < limit->tenants.size; ++i) {
        const weir_conf_override_t *override = &limit->tenants.entries[i];
        fprintf(out, "%*s", indent + 2, "");
        weir_conf_yaml_text(out, override->tenant);
        fputs(":\n", out);
        for (size_t k = 0; k < quota->field_count; ++k) {
            const weir_conf_field_t *inner = &quota->fields[k];
            if ((inner->algorithms >> limit->algorithm & 1) == 0 || (inner->algorithms & NOT_PER_TENANT) != 0)
                continue;
            fprintf(out, "%*s%s:", indent + 4, "", inner->key);
            inner->type->print(out, conf, inner, &override->quota, indent + 4);
        }
    }
}

SCHEMA(overrides)
{
    weir_conf_schema_object(json, field, WEIR_CONF_PATTERN_TENANT);
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_schema_ref(json, "override");
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "type", "null");
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
}

/* ---- the types ---- */

DEFINE_TYPE(own_headers, "a list of headers", "write their names, such as [X-Request-ID]", "entries", parse_own_headers,
            print_own_headers, schema_own_headers)
DEFINE_TYPE(methods, "a list of methods", "write such as [GET, HEAD]", "entries", parse_methods, print_own_headers,
            schema_methods)
DEFINE_TYPE(limit_names, "a list of limits", "write their names, such as [per-tenant]", "entries", parse_limit_names,
            print_limit_names, schema_names)
DEFINE_TYPE(upstream_names, "a list of upstreams", "write their names, such as [openai-eu]", "entries",
            parse_upstream_names, print_upstream_names, schema_names)
DEFINE_TYPE(removed_headers, "a list of headers", "write their names, such as [X-Debug]", "entries",
            parse_removed_headers, print_own_headers, schema_own_headers)
DEFINE_TYPE(retry_methods, "a list of methods", "write such as [GET, HEAD]", "entries", parse_methods,
            print_retry_methods, schema_methods)
DEFINE_TYPE(model_patterns, "a list of models", "write such as [gpt-4o, \"claude-*\"]", "entries", parse_model_patterns,
            print_own_headers, schema_model_patterns)
DEFINE_TYPE(cidrs, "a list of networks", "write such as [10.0.0.0/8, \"fd00::/8\"]", "entries", parse_cidrs,
            print_cidrs, schema_cidrs)
DEFINE_TYPE(key_parts, "a list of what requests are counted by",
            "write such as [tenant], or [] for one that is for all", "entries", parse_key_parts, print_key_parts,
            schema_key_parts)
DEFINE_TYPE(priority, "a source of the priority", "write {header: NAME}", NULL, parse_priority, print_priority,
            schema_priority)
DEFINE_TYPE(bypass, "a header that bypasses", "write {header: NAME}", NULL, parse_bypass, print_priority,
            schema_priority)
DEFINE_TYPE(tenant_sources, "a list of where the tenant is found", "write such as [{header: X-Tenant-ID}]", "entries",
            parse_tenant_sources, print_tenant_sources, schema_tenant_sources)
DEFINE_TYPE(api_keys, "a mapping", "write {SHA-256 of a key: tenant}", "entries", parse_later, print_api_keys,
            schema_api_keys)
DEFINE_TYPE(overrides, "a mapping", "write {TENANT: {the fields to replace}}", "entries", parse_later, print_overrides,
            schema_overrides)
