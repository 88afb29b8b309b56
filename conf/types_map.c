/* Mappings from names to texts: header fields, parameters of a query, models. */

#include "types.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "yaml.h"

static const char redacted[] = "[redacted]"; /* as good a value as any, if someone loads it again */

/* ---- shared ---- */

/* Room for the entries of a mapping, in `*entries`; false after an error. */
static bool begin_mapping(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                          size_t entry_bytes, void *entries)
{
    if (node->kind != WEIR_CONF_MAPPING) {
        weir_conf_fail_value(load, node, field->type->what, field->type->right);
        return false;
    }
    if (node->count > (size_t)weir_conf_bound(field->max)) {
        weir_conf_fail(load, node, "has %zu entries; write at most %s", node->count, field->max);
        return false;
    }
    void *room = weir_conf_arena_alloc(load->arena, node->count * entry_bytes);
    memcpy(entries, &room, sizeof(room));
    return true;
}

static bool is_entry(const weir_conf_node_t *node)
{
    return node->kind != WEIR_CONF_BROKEN && !weir_conf_node_is_null(node);
}

/* Whether the key of an entry is right; where not, that is told. */
static bool has_right_key(weir_conf_load_t *load, const weir_conf_node_t *node, const char *what,
                          const char *(*parse)(const char *text))
{
    const char *right = parse(node->key);
    if (right != NULL)
        weir_conf_fail_key(load, node, "'%s' is not %s; %s", weir_conf_errors_show(load->scratch, node->key), what,
                           right);
    return right == NULL;
}

static bool is_secret_name(const char *name)
{
    static const char *const words[] = {"auth", "cookie", "credential", "key", "password", "secret", "sig", "token"};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); ++i)
        if (strcasestr(name, words[i]) != NULL)
            return true;
    return false;
}

/* The text of an entry's value; NULL after an error, which does not show what may be a secret. */
static const char *pair_text(weir_conf_load_t *load, const weir_conf_node_t *node, const weir_conf_type_t *type,
                             const char *(*parse)(const char *text))
{
    const char *text = weir_conf_scalar(load, type, node);
    const char *right = text != NULL ? parse(text) : NULL;
    if (right != NULL)
        weir_conf_fail(load, node, "what stands here is not %s; %s", type->what, right);
    return right == NULL ? text : NULL;
}

static void print_pair(FILE *out, const char *name, const char *value, int indent)
{
    fprintf(out, "%*s", indent + 2, "");
    weir_conf_yaml_key(out, name);
    fputs(": ", out);
    weir_conf_yaml_text(out, value);
    fputc('\n', out);
}

void weir_conf_schema_pairs(weir_conf_json_t *json, const weir_conf_field_t *field, const char *keys, const char *values)
{
    weir_conf_schema_object(json, field, keys);
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_schema_items(json, values, true);
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "type", "null");
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, '}');
}

/* ---- header fields ---- */

static const weir_conf_type_t one_value = {.what = "a header's value",
                                           .right = "write visible ASCII characters, and spaces between them"};

static bool has_header(const weir_conf_pair_t *pairs, size_t size, const char *name)
{
    for (size_t i = 0; i < size; ++i)
        if (strcasecmp(pairs[i].name, name) == 0)
            return true;
    return false;
}

/* Spaces around it are no part of a field's value; one without its secret ends in such a space. */
static const char *keep_trimmed(weir_conf_load_t *load, const char *text)
{
    static const char spaces[] = " \t\r\n";
    text += strspn(text, spaces);
    size_t len = strlen(text);
    while (len > 0 && strchr(spaces, text[len - 1]) != NULL)
        --len;
    return weir_conf_arena_copy(load->arena, text, len);
}

PARSE(header_values)
{
    weir_conf_upstream_headers_t *headers = row;
    weir_conf_pair_t *pairs;
    size_t size = 0;
    if (!begin_mapping(load, field, node, sizeof(*pairs), &pairs))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        if (!is_entry(child) || !has_right_key(load, child, "a header that can be set", weir_conf_parse_sent_header))
            continue;
        const char *text = pair_text(load, child, &one_value, weir_conf_parse_header_value);
        if (has_header(pairs, size, child->key))
            weir_conf_fail_key(load, child, "is named twice; leave one out");
        if (text == NULL)
            continue;
        pairs[size].name = weir_conf_keep(load, child->key);
        pairs[size].value = keep_trimmed(load, text);
        pairs[size++].is_secret = child->inserted || is_secret_name(child->key);
    }
    headers->set.entries = pairs;
    headers->set.size = size;
}

PRINT(header_values)
{
    const weir_conf_upstream_headers_t *headers = row;
    fputs(headers->set.size == 0 ? " {}\n" : "\n", out);
    for (size_t i = 0; i < headers->set.size; ++i) {
        const weir_conf_pair_t *pair = &headers->set.entries[i];
        print_pair(out, pair->name, pair->is_secret ? redacted : pair->value, indent);
    }
}

SCHEMA(header_values)
{
    weir_conf_schema_pairs(json, field, WEIR_CONF_PATTERN_HEADER, "^[\\t\\n\\r -~]{0,8192}$");
}

/* ---- parameters of a query ---- */

static const weir_conf_type_t one_parameter = {.what = "a parameter's value", .right = "write a text"};

static const char *parse_parameter_name(const char *text)
{
    size_t len = strlen(text);
    return len >= 1 && len <= 128 ? NULL : "write 1 to 128 bytes";
}

static const char *parse_parameter_value(const char *text)
{
    return strlen(text) <= 4096 ? NULL : "write at most 4096 bytes";
}

/* As it stands in a query: what is not unreserved (RFC 3986, 2.3) is escaped. */
static const char *keep_encoded(weir_conf_load_t *load, const char *text)
{
    static const char digits[] = "0123456789ABCDEF";
    char *encoded = weir_conf_arena_alloc(load->arena, strlen(text) * 3 + 1), *at = encoded;
    for (; *text != '\0'; ++text) {
        unsigned char byte = (unsigned char)*text;
        if (isalnum(byte) || strchr("-._~", byte) != NULL) {
            *at++ = *text;
        } else {
            *at++ = '%';
            *at++ = digits[byte >> 4];
            *at++ = digits[byte & 15];
        }
    }
    return encoded;
}

PARSE(query_values)
{
    weir_conf_upstream_query_t *query = row;
    weir_conf_pair_t *pairs;
    size_t size = 0;
    if (!begin_mapping(load, field, node, sizeof(*pairs), &pairs))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        if (!is_entry(child) || !has_right_key(load, child, "a parameter's name", parse_parameter_name))
            continue;
        const char *text = pair_text(load, child, &one_parameter, parse_parameter_value);
        if (text == NULL)
            continue;
        pairs[size].name = keep_encoded(load, child->key);
        pairs[size].value = keep_encoded(load, text);
        pairs[size++].is_secret = child->inserted || is_secret_name(child->key);
    }
    query->set.entries = pairs;
    query->set.size = size;
}

static int hex_value(char digit)
{
    return digit <= '9' ? digit - '0' : digit - 'A' + 10;
}

static char *decode(const char *encoded)
{
    char *text = malloc(strlen(encoded) + 1), *end = text;
    if (text == NULL)
        abort();
    for (; *encoded != '\0'; ++encoded)
        if (*encoded == '%') {
            *end++ = (char)(hex_value(encoded[1]) * 16 + hex_value(encoded[2]));
            encoded += 2;
        } else {
            *end++ = *encoded;
        }
    *end = '\0';
    return text;
}

PRINT(query_values)
{
    const weir_conf_upstream_query_t *query = row;
    fputs(query->set.size == 0 ? " {}\n" : "\n", out);
    for (size_t i = 0; i < query->set.size; ++i) {
        const weir_conf_pair_t *pair = &query->set.entries[i];
        char *name = decode(pair->name), *value = decode(pair->value);
        print_pair(out, name, pair->is_secret ? redacted : value, indent);
        free(name);
        free(value);
    }
}

SCHEMA(query_values)
{
    weir_conf_schema_pairs(json, field, "^.{1,128}$", NULL);
}

/* ---- models ---- */

static const weir_conf_type_t one_model = {.what = "a model", .right = "write its name, such as gpt-4o"};

static int by_from(const void *a, const void *b)
{
    const weir_conf_model_t *x = a, *y = b;
    return strcmp(x->from, y->from);
}

PARSE(model_names)
{
    weir_conf_upstream_t *upstream = row;
    weir_conf_model_t *models;
    size_t size = 0;
    if (!begin_mapping(load, field, node, sizeof(*models), &models))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        if (!is_entry(child) || !has_right_key(load, child, one_model.what, weir_conf_parse_model))
            continue;
        const char *text = weir_conf_scalar(load, &one_model, child);
        const char *right = text != NULL ? weir_conf_parse_model(text) : NULL;
        if (right != NULL)
            weir_conf_fail_value(load, child, one_model.what, right);
        if (text != NULL && right == NULL)
            models[size++] = (weir_conf_model_t){weir_conf_keep(load, child->key), weir_conf_keep(load, text)};
    }
    qsort(models, size, sizeof(*models), by_from);
    upstream->models.entries = models;
    upstream->models.size = size;
}

PRINT(model_names)
{
    const weir_conf_upstream_t *upstream = row;
    fputs(upstream->models.size == 0 ? " {}\n" : "\n", out);
    for (size_t i = 0; i < upstream->models.size; ++i)
        print_pair(out, upstream->models.entries[i].from, upstream->models.entries[i].to, indent);
}

SCHEMA(model_names)
{
    static const char pattern[] = "^[^*\\x00-\\x1f\\x7f]{1,256}$";
    weir_conf_schema_pairs(json, field, pattern, pattern);
}

/* ---- the types ---- */

DEFINE_TYPE(header_values, "a mapping from headers to values", "write {NAME: value}", "entries", parse_header_values,
            print_header_values, schema_header_values)
DEFINE_TYPE(query_values, "a mapping from parameters to values", "write {NAME: value}", "entries", parse_query_values,
            print_query_values, schema_query_values)
DEFINE_TYPE(model_names, "a mapping from models to models", "write {MODEL: its name at this upstream}", "entries",
            parse_model_names, print_model_names, schema_model_names)
