/* The JSON Schema (draft 2020-12) of a weir.yaml: what an editor needs to say what the loader would say, but for the
 * rules between fields (rules.c). Every scalar may also be inserted, and every field that is not required may be null.
 */

#include <ctype.h>
#include <string.h>
#include "arena.h"
#include "table.h"
#include "types.h"

typedef struct {
    weir_conf_json_t json;
    weir_conf_arena_t *scratch;
} schema_t;

static void open_member(weir_conf_json_t *json, const char *key, char bracket)
{
    weir_conf_json_key(json, key);
    weir_conf_json_open(json, bracket);
}

static void write_null(weir_conf_json_t *json)
{
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "type", "null");
    weir_conf_json_close(json, '}');
}

/* ---- defaults ---- */

static void write_scalar_default(weir_conf_json_t *json, const char *text)
{
    bool is_word = strcmp(text, "true") == 0 || strcmp(text, "false") == 0;
    double number;
    if (is_word || weir_conf_parse_probability(text, &number) == NULL)
        weir_conf_json_word(json, text);
    else
        weir_conf_json_text(json, text);
}

static void write_node(weir_conf_json_t *json, const weir_conf_node_t *node)
{
    if (node->kind == WEIR_CONF_SCALAR) {
        write_scalar_default(json, node->text);
        return;
    }
    bool is_mapping = node->kind == WEIR_CONF_MAPPING;
    weir_conf_json_open(json, is_mapping ? '{' : '[');
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        if (is_mapping)
            weir_conf_json_key(json, child->key);
        write_node(json, child);
    }
    weir_conf_json_close(json, is_mapping ? '}' : ']');
}

static void write_default(schema_t *schema, const char *text)
{
    weir_conf_json_key(&schema->json, "default");
    if (text == NULL) {
        weir_conf_json_word(&schema->json, "null");
    } else if (*text != '[' && *text != '{') {
        write_scalar_default(&schema->json, text);
    } else {
        weir_conf_errors_t errors = {.arena = schema->scratch};
        const weir_conf_node_t *node = weir_conf_node_parse(schema->scratch, "default", text, strlen(text), &errors);
        write_node(&schema->json, node);
    }
}

/* ---- fields ---- */

static void write_description(weir_conf_json_t *json, const weir_conf_field_t *field)
{
    char text[512];
    snprintf(text, sizeof(text), "%s%s", field->text,
             field->reload == RESTART ? " A change takes effect at the next start." : "");
    weir_conf_json_member_text(json, "description", text);
}

/* `is_optional`: null is as good as leaving it out. */
static void write_value(schema_t *schema, const weir_conf_field_t *field, bool is_optional)
{
    weir_conf_json_t *json = &schema->json;
    weir_conf_json_open(json, '{');
    write_description(json, field);
    if (!field->required && field->derive == NULL)
        write_default(schema, field->default_text);
    open_member(json, "anyOf", '[');
    weir_conf_json_open(json, '{');
    field->type->schema(json, field);
    weir_conf_json_close(json, '}');
    weir_conf_schema_ref(json, "inserted");
    if (is_optional)
        write_null(json);
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

static void write_entries(weir_conf_json_t *json, const weir_conf_field_t *field)
{
    bool is_named = field->kind == WEIR_CONF_NAMED;
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "type", is_named ? "object" : "array");
    weir_conf_json_member_word(json, is_named ? "maxProperties" : "maxItems", field->max);
    if (!is_named) {
        weir_conf_json_key(json, "items");
        weir_conf_schema_ref(json, field->section()->name);
        weir_conf_json_close(json, '}');
        return;
    }
    open_member(json, "patternProperties", '{');
    open_member(json, WEIR_CONF_PATTERN_NAME, '{');
    open_member(json, "anyOf", '[');
    weir_conf_schema_ref(json, field->section()->name);
    write_null(json);
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
    weir_conf_json_member_word(json, "additionalProperties", "false");
    weir_conf_json_close(json, '}');
}

static void write_part(weir_conf_json_t *json, const weir_conf_field_t *field)
{
    const weir_conf_field_t *is_enabled = weir_conf_section_find(field->section(), WEIR_CONF_SWITCH);
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "description", field->section()->text);
    if (is_enabled != NULL && is_enabled->derive == NULL && strcmp(is_enabled->default_text, "false") == 0)
        weir_conf_json_member_word(json, "default", "false");
    open_member(json, "anyOf", '[');
    if (field->kind == WEIR_CONF_NAMED || field->kind == WEIR_CONF_LIST)
        write_entries(json, field);
    else
        weir_conf_schema_ref(json, field->section()->name);
    if (is_enabled != NULL) {
        weir_conf_json_open(json, '{');
        weir_conf_json_member_word(json, "const", "false");
        weir_conf_json_close(json, '}');
    }
    write_null(json);
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

static void write_properties(schema_t *schema, const weir_conf_section_t *section, bool is_override)
{
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->kind == WEIR_CONF_INLINE)
            write_properties(schema, field->section(), is_override);
        if (*field->key == '\0' || field->kind == WEIR_CONF_INLINE)
            continue;
        if (is_override && (field->algorithms & NOT_PER_TENANT) != 0)
            continue;
        weir_conf_json_key(&schema->json, field->key);
        if (field->kind == WEIR_CONF_VALUE) /* what is required of one algorithm is told below */
            write_value(schema, field, !field->required || field->algorithms != 0);
        else
            write_part(&schema->json, field);
    }
}

static void write_required(weir_conf_json_t *json, const weir_conf_section_t *section)
{
    bool is_open = false;
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (!field->required || field->algorithms != 0)
            continue;
        if (!is_open)
            open_member(json, "required", '[');
        is_open = true;
        weir_conf_json_text(json, field->key);
    }
    if (is_open)
        weir_conf_json_close(json, ']');
}

/* ---- what depends on the algorithm ---- */

/* `section`'s fields that the algorithm does not have. */
static void write_others_null(weir_conf_json_t *json, const weir_conf_section_t *section, unsigned algorithm)
{
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->algorithms == 0 || (field->algorithms & algorithm) != 0)
            continue;
        weir_conf_json_key(json, field->key);
        write_null(json);
    }
}

static void write_then(weir_conf_json_t *json, const weir_conf_section_t *limit, const weir_conf_section_t *quota,
                       unsigned algorithm)
{
    open_member(json, "then", '{');
    open_member(json, "required", '[');
    for (size_t i = 0; i < quota->field_count; ++i)
        if (quota->fields[i].required && (quota->fields[i].algorithms & algorithm) != 0)
            weir_conf_json_text(json, quota->fields[i].key);
    weir_conf_json_close(json, ']');
    open_member(json, "properties", '{');
    for (size_t i = 0; i < quota->field_count; ++i)
        if (quota->fields[i].required && (quota->fields[i].algorithms & algorithm) != 0) {
            open_member(json, quota->fields[i].key, '{');
            weir_conf_json_key(json, "not");
            write_null(json);
            weir_conf_json_close(json, '}');
        }
    write_others_null(json, quota, algorithm);
    write_others_null(json, limit, algorithm);
    open_member(json, "tenants", '{');
    open_member(json, "additionalProperties", '{');
    open_member(json, "properties", '{');
    write_others_null(json, quota, algorithm);
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
}

static void write_if(weir_conf_json_t *json, const weir_conf_field_t *field, const char *word)
{
    bool is_default = strcmp(field->default_text, word) == 0;
    open_member(json, "if", '{');
    open_member(json, "properties", '{');
    open_member(json, field->key, '{');
    open_member(json, "enum", '[');
    weir_conf_json_text(json, word);
    if (is_default)
        weir_conf_json_word(json, "null");
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
    if (!is_default) {
        open_member(json, "required", '[');
        weir_conf_json_text(json, field->key);
        weir_conf_json_close(json, ']');
    }
    weir_conf_json_close(json, '}');
}

static void write_algorithms(weir_conf_json_t *json, const weir_conf_section_t *section)
{
    const weir_conf_field_t *inner = weir_conf_section_find(section, WEIR_CONF_INLINE), *field = section->fields;
    if (inner == NULL)
        return;
    while (field->type != &weir_conf_type_algorithm)
        ++field;
    open_member(json, "allOf", '[');
    for (size_t i = 0; field->type->words[i] != NULL; ++i) {
        weir_conf_json_open(json, '{');
        write_if(json, field, field->type->words[i]);
        write_then(json, section, inner->section(), 1u << i);
        weir_conf_json_close(json, '}');
    }
    weir_conf_json_close(json, ']');
}

/* ---- sections ---- */

static void write_members(schema_t *schema, const weir_conf_section_t *section, bool is_override)
{
    weir_conf_json_t *json = &schema->json;
    weir_conf_json_member_text(json, "type", "object");
    open_member(json, "properties", '{');
    write_properties(schema, section, is_override);
    weir_conf_json_close(json, '}');
    write_required(json, section);
    weir_conf_json_member_word(json, "additionalProperties", "false");
    write_algorithms(json, section);
}

typedef struct {
    const weir_conf_section_t *entries[64];
    size_t size;
} sections_t;

/* Every section below this one, once. */
static void write_definitions(schema_t *schema, const weir_conf_section_t *section, sections_t *written)
{
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->section == NULL || field->kind == WEIR_CONF_INLINE)
            continue;
        const weir_conf_section_t *inner = field->section();
        bool is_written = written->size == sizeof(written->entries) / sizeof(*written->entries);
        for (size_t k = 0; k < written->size; ++k)
            is_written = is_written || written->entries[k] == inner;
        if (is_written)
            continue;
        written->entries[written->size++] = inner;
        open_member(&schema->json, inner->name, '{');
        write_members(schema, inner, false);
        weir_conf_json_close(&schema->json, '}');
        write_definitions(schema, inner, written);
    }
}

static void write_own_definitions(schema_t *schema)
{
    weir_conf_json_t *json = &schema->json;
    open_member(json, "inserted", '{');
    weir_conf_json_member_text(json, "description", "Text with ${NAME}, ${NAME:-default} or ${file:/path} in it.");
    weir_conf_json_member_text(json, "type", "string");
    weir_conf_json_member_text(json, "pattern", "\\$\\{([A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?|file:[^}]+)\\}");
    weir_conf_json_close(json, '}');
    open_member(json, "override", '{');
    weir_conf_json_member_text(json, "description", "The fields of a limit that a tenant has in place of its own.");
    write_members(schema, weir_conf_section_quota(), true);
    weir_conf_json_close(json, '}');
}

void weir_conf_print_schema(FILE *out)
{
    schema_t schema = {.json = {.out = out}, .scratch = weir_conf_arena_create()};
    weir_conf_json_t *json = &schema.json;
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "$schema", "https://json-schema.org/draft/2020-12/schema");
    weir_conf_json_member_text(json, "title", "weir.yaml");
    weir_conf_json_member_text(json, "description", "The configuration of weir, an edge rate-limiter sidecar proxy.");
    write_members(&schema, weir_conf_section_root(), false);
    open_member(json, "$defs", '{');
    write_own_definitions(&schema);
    sections_t written = {.size = 0};
    write_definitions(&schema, weir_conf_section_root(), &written);
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
    fputc('\n', out);
    weir_conf_arena_destroy(schema.scratch);
}
