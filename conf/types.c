/* What scalars can do: the types of fields/types.def that are one value. */

#include "types.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "cgroup.h"
#include "range.h"
#include "yaml.h"

#define PARSE(type)                                                                                                    \
    static void parse_##type(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,     \
                             void *row)
#define PRINT(type)                                                                                                    \
    static void print_##type(FILE *out, const weir_conf_t *conf, const weir_conf_field_t *field, const void *row,      \
                             int indent)
#define SCHEMA(type) static void schema_##type(weir_conf_json_t *json, const weir_conf_field_t *field)

/* ---- shared ---- */

const char *weir_conf_scalar(weir_conf_load_t *load, const weir_conf_type_t *type, const weir_conf_node_t *node)
{
    bool is_boolean = weir_conf_node_is_word(node, "true") || weir_conf_node_is_word(node, "false");
    bool is_null = weir_conf_node_is_null(node); /* an entry of a list: a field that is null is not there */
    if (node->kind == WEIR_CONF_SCALAR && !is_null && (!is_boolean || type == &weir_conf_type_flag))
        return node->text;
    weir_conf_fail_value(load, node, type->what, is_boolean ? "write it in quotes" : type->right);
    return NULL;
}

const char *weir_conf_keep(weir_conf_load_t *load, const char *text)
{
    return weir_conf_arena_copy(load->arena, text, strlen(text));
}

int64_t weir_conf_bound(const char *text)
{
    int64_t value;
    if (weir_conf_parse_count(text, &value) != NULL)
        abort();
    return value;
}

/* "debug, info, warn or error" */
static const char *list_words(weir_conf_load_t *load, const char *const *words)
{
    const char *list = words[0];
    for (size_t i = 1; words[i] != NULL; ++i)
        list = weir_conf_arena_printf(load->scratch, "%s%s%s", list, words[i + 1] != NULL ? ", " : " or ", words[i]);
    return list;
}

int weir_conf_word(weir_conf_load_t *load, const weir_conf_type_t *type, const weir_conf_node_t *node)
{
    for (int i = 0; node->kind == WEIR_CONF_SCALAR && type->words[i] != NULL; ++i)
        if (strcmp(type->words[i], node->text) == 0)
            return i;
    weir_conf_fail_value(load, node, type->what,
                         weir_conf_arena_printf(load->scratch, "write %s", list_words(load, type->words)));
    return -1;
}

const char *weir_conf_load_header(weir_conf_load_t *load, const weir_conf_node_t *node,
                                  const char *(*parse)(const char *text))
{
    const char *text = weir_conf_scalar(load, &weir_conf_type_header, node);
    const char *right = text != NULL ? parse(text) : NULL;
    if (right == NULL && text != NULL && strlen(text) > 64)
        right = "write a name of at most 64 characters";
    if (right != NULL)
        weir_conf_fail_value(load, node, weir_conf_type_header.what, right);
    return text != NULL && right == NULL ? weir_conf_keep(load, text) : NULL;
}

void weir_conf_schema_text(weir_conf_json_t *json, const char *pattern, const char *min, const char *max,
                           bool or_number)
{
    weir_conf_json_key(json, "type");
    if (or_number) {
        weir_conf_json_open(json, '[');
        weir_conf_json_text(json, "string");
        weir_conf_json_text(json, "number");
        weir_conf_json_close(json, ']');
    } else {
        weir_conf_json_text(json, "string");
    }
    if (min != NULL)
        weir_conf_json_member_word(json, "minLength", min);
    if (max != NULL)
        weir_conf_json_member_word(json, "maxLength", max);
    if (pattern != NULL)
        weir_conf_json_member_text(json, "pattern", pattern);
}

void weir_conf_schema_words(weir_conf_json_t *json, const char *const *words)
{
    weir_conf_json_key(json, "enum");
    weir_conf_json_open(json, '[');
    for (; *words != NULL; ++words)
        weir_conf_json_text(json, *words);
    weir_conf_json_close(json, ']');
}

void weir_conf_schema_ref(weir_conf_json_t *json, const char *name)
{
    char target[64];
    snprintf(target, sizeof(target), "#/$defs/%s", name);
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "$ref", target);
    weir_conf_json_close(json, '}');
}

static const char *text_member(const weir_conf_field_t *field, const void *row)
{
    return *(const char *const *)weir_conf_member_const(field, row);
}

static void set_text(weir_conf_load_t *load, const weir_conf_field_t *field, void *row, const char *text)
{
    *(const char **)weir_conf_member(field, row) = weir_conf_keep(load, text);
}

PRINT(any_text)
{
    fputc(' ', out);
    weir_conf_yaml_text(out, text_member(field, row));
    fputc('\n', out);
}

/* ---- numbers ---- */

static void fail_bounds(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node, bool is_low)
{
    weir_conf_fail(load, node, "'%s' is too %s; write %s from %s to %s",
                   weir_conf_errors_show(load->scratch, node->hidden ? node->written : node->text),
                   is_low ? "low" : "high", field->type->what, field->min, field->max);
}

/* Digits that no int64_t can hold are a number too, only too high. */
static bool is_huge_number(const char *text)
{
    return *text != '\0' && *text != '0' && strspn(text, "0123456789") == strlen(text);
}

static void load_count(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node, void *row,
                       const char *right)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    int64_t value;
    if (text == NULL)
        return;
    if (weir_conf_parse_count(text, &value) != NULL) {
        if (is_huge_number(text))
            fail_bounds(load, field, node, false);
        else
            weir_conf_fail_value(load, node, field->type->what,
                                 weir_conf_arena_printf(load->scratch, right, field->min, field->max));
        return;
    }
    if (value < weir_conf_bound(field->min) || value > weir_conf_bound(field->max))
        fail_bounds(load, field, node, value < weir_conf_bound(field->min));
    else
        *(int64_t *)weir_conf_member(field, row) = value;
}

PARSE(count)
{
    load_count(load, field, node, row, "write one from %s to %s");
}

PRINT(count)
{
    fprintf(out, " %" PRId64 "\n", *(const int64_t *)weir_conf_member_const(field, row));
}

static void begin_any_of(weir_conf_json_t *json)
{
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_json_open(json, '{');
}

static void next_any_of(weir_conf_json_t *json)
{
    weir_conf_json_close(json, '}');
    weir_conf_json_open(json, '{');
}

static void end_any_of(weir_conf_json_t *json)
{
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, ']');
}

/* A pattern that matches a count from min to max in each of the units; `units` ends with `unit_count`. */
static void schema_units(weir_conf_json_t *json, int64_t min, int64_t max, const weir_conf_unit_t *units,
                         size_t unit_count)
{
    char *pattern = NULL;
    size_t len;
    FILE *out = open_memstream(&pattern, &len);
    if (out == NULL)
        abort();
    const char *between = "^(";
    for (size_t i = 0; i < unit_count; ++i) {
        int64_t first = (min + units[i].factor - 1) / units[i].factor, last = max / units[i].factor;
        if (first > last)
            continue;
        fprintf(out, "%s(", between);
        weir_conf_range_write(out, first, last);
        fprintf(out, ")%s", units[i].name);
        between = "|";
    }
    fputs(")$", out);
    if (fclose(out) != 0)
        abort();
    weir_conf_schema_text(json, pattern, NULL, NULL, false);
    free(pattern);
}

static void schema_integer(weir_conf_json_t *json, int64_t min, int64_t max)
{
    static const weir_conf_unit_t none = {"", 1};
    weir_conf_json_member_text(json, "type", "integer");
    weir_conf_json_member_number(json, "minimum", min);
    weir_conf_json_member_number(json, "maximum", max);
    next_any_of(json);
    schema_units(json, min, max, &none, 1); /* in quotes it is as good */
}

SCHEMA(count)
{
    begin_any_of(json);
    schema_integer(json, weir_conf_bound(field->min), weir_conf_bound(field->max));
    end_any_of(json);
}

PARSE(version)
{
    if (node->kind == WEIR_CONF_SCALAR && strcmp(node->text, field->min) == 0)
        *(int64_t *)weir_conf_member(field, row) = weir_conf_bound(field->min);
    else
        weir_conf_fail_value(load, node, field->type->what, field->type->right);
}

SCHEMA(version)
{
    weir_conf_json_key(json, "enum");
    weir_conf_json_open(json, '[');
    weir_conf_json_word(json, field->min);
    weir_conf_json_text(json, field->min);
    weir_conf_json_close(json, ']');
}

PARSE(workers)
{
    if (node->kind == WEIR_CONF_SCALAR && strcmp(node->text, "auto") == 0) {
        int64_t cpus = weir_conf_cgroup_cpus("/"), max = weir_conf_bound(field->max);
        *(int64_t *)weir_conf_member(field, row) = cpus < max ? cpus : max;
    } else {
        load_count(load, field, node, row, "write one from %s to %s, or auto");
    }
}

SCHEMA(workers)
{
    begin_any_of(json);
    schema_integer(json, weir_conf_bound(field->min), weir_conf_bound(field->max));
    next_any_of(json);
    weir_conf_json_member_text(json, "const", "auto");
    end_any_of(json);
}

static int64_t duration_bound(const char *text)
{
    int64_t value_ns;
    if (weir_conf_parse_duration(text, &value_ns) != NULL)
        abort();
    return value_ns;
}

PARSE(duration)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    int64_t value_ns;
    if (text == NULL)
        return;
    const char *right = weir_conf_parse_duration(text, &value_ns);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else if (value_ns < duration_bound(field->min) || value_ns > duration_bound(field->max))
        fail_bounds(load, field, node, value_ns < duration_bound(field->min));
    else
        *(int64_t *)weir_conf_member(field, row) = value_ns;
}

PRINT(duration)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    int64_t value_ns = *(const int64_t *)weir_conf_member_const(field, row);
    weir_conf_format_duration(value_ns, text);
    bool is_null = value_ns == 0 && field->default_text == NULL && !field->required;
    fprintf(out, " %s\n", is_null ? "null" : text);
}

SCHEMA(duration)
{
    schema_units(json, duration_bound(field->min), duration_bound(field->max), weir_conf_duration_units, 4);
}

static uint64_t size_bound(const char *text)
{
    uint64_t value_bytes;
    if (weir_conf_parse_size(text, &value_bytes) != NULL)
        abort();
    return value_bytes;
}

PARSE(size)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    uint64_t value_bytes;
    if (text == NULL)
        return;
    const char *right = weir_conf_parse_size(text, &value_bytes);
    if (right != NULL && is_huge_number(text))
        fail_bounds(load, field, node, false);
    else if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else if (value_bytes < size_bound(field->min) || value_bytes > size_bound(field->max))
        fail_bounds(load, field, node, value_bytes < size_bound(field->min));
    else
        *(uint64_t *)weir_conf_member(field, row) = value_bytes;
}

PRINT(size)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    weir_conf_format_size(*(const uint64_t *)weir_conf_member_const(field, row), text);
    fprintf(out, " %s\n", text);
}

SCHEMA(size)
{
    int64_t min = (int64_t)size_bound(field->min), max = (int64_t)size_bound(field->max);
    begin_any_of(json);
    weir_conf_json_member_text(json, "type", "integer");
    weir_conf_json_member_number(json, "minimum", min);
    weir_conf_json_member_number(json, "maximum", max);
    next_any_of(json);
    schema_units(json, min, max, weir_conf_size_units, 4);
    end_any_of(json);
}

PARSE(rate)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    weir_conf_rate_t rate;
    if (text == NULL)
        return;
    const char *right = weir_conf_parse_rate(text, &rate);
    if (right == NULL && rate.count > weir_conf_bound(field->max))
        right = weir_conf_arena_printf(load->scratch, "write a count from %s to %s", field->min, field->max);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else
        *(weir_conf_rate_t *)weir_conf_member(field, row) = rate;
}

PRINT(rate)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    weir_conf_format_rate(*(const weir_conf_rate_t *)weir_conf_member_const(field, row), text);
    fprintf(out, " %s\n", text);
}

SCHEMA(rate)
{
    char *pattern = NULL;
    size_t len;
    FILE *out = open_memstream(&pattern, &len);
    if (out == NULL)
        abort();
    fputs("^(", out);
    weir_conf_range_write(out, weir_conf_bound(field->min), weir_conf_bound(field->max));
    fputs(")/[smhd]$", out);
    if (fclose(out) != 0)
        abort();
    weir_conf_schema_text(json, pattern, NULL, NULL, false);
    free(pattern);
}

/* ---- words ---- */

PARSE(flag)
{
    if (weir_conf_scalar(load, field->type, node) == NULL)
        return;
    bool is_true = strcmp(node->text, "true") == 0;
    if (is_true || strcmp(node->text, "false") == 0)
        *(bool *)weir_conf_member(field, row) = is_true;
    else
        weir_conf_fail_value(load, node, field->type->what, field->type->right);
}

PRINT(flag)
{
    fprintf(out, " %s\n", *(const bool *)weir_conf_member_const(field, row) ? "true" : "false");
}

SCHEMA(flag)
{
    weir_conf_json_key(json, "enum");
    weir_conf_json_open(json, '[');
    weir_conf_json_word(json, "true");
    weir_conf_json_word(json, "false");
    weir_conf_json_text(json, "true");
    weir_conf_json_text(json, "false");
    weir_conf_json_close(json, ']');
}

PARSE(word)
{
    int word = weir_conf_word(load, field->type, node);
    if (word >= 0)
        *(int *)weir_conf_member(field, row) = word;
}

PRINT(word)
{
    fprintf(out, " %s\n", field->type->words[*(const int *)weir_conf_member_const(field, row)]);
}

SCHEMA(word)
{
    weir_conf_schema_words(json, field->type->words);
}

/* ---- texts ---- */

/* A text of min to max bytes that `parse` takes; NULL after an error. */
static const char *load_text(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                             const char *(*parse)(const char *text))
{
    const char *text = weir_conf_scalar(load, field->type, node);
    if (text == NULL)
        return NULL;
    int64_t len = (int64_t)strlen(text), min = weir_conf_bound(field->min), max = weir_conf_bound(field->max);
    const char *right = NULL;
    if (len < min || len > max)
        right = weir_conf_arena_printf(load->scratch, "write %s to %s bytes", field->min, field->max);
    else if (parse != NULL)
        right = parse(text);
    if (right == NULL)
        return text;
    if (field->type == &weir_conf_type_secret)
        weir_conf_fail(load, node, "what stands here is not %s; %s", field->type->what, right);
    else
        weir_conf_fail_value(load, node, field->type->what, right);
    return NULL;
}

static void load_plain_text(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                            void *row, const char *(*parse)(const char *text))
{
    const char *text = load_text(load, field, node, parse);
    if (text != NULL)
        set_text(load, field, row, text);
}

PARSE(text)
{
    load_plain_text(load, field, node, row, NULL);
}

SCHEMA(text)
{
    weir_conf_schema_text(json, NULL, field->min, field->max, true);
}

PARSE(header)
{
    *(const char **)weir_conf_member(field, row) = weir_conf_load_header(load, node, weir_conf_parse_header);
}

PARSE(own_header)
{
    *(const char **)weir_conf_member(field, row) = weir_conf_load_header(load, node, weir_conf_parse_own_header);
}

SCHEMA(header)
{
    weir_conf_schema_text(json, WEIR_CONF_PATTERN_HEADER, field->min, field->max, true);
}

PARSE(secret)
{
    load_plain_text(load, field, node, row, weir_conf_parse_secret);
}

/* Loads as a token again, if someone should try. */
PRINT(secret)
{
    fputs(text_member(field, row) != NULL ? " \"[redacted]\"\n" : " null\n", out);
}

SCHEMA(secret)
{
    weir_conf_schema_text(json, "^[!-~]+$", field->min, field->max, true);
}

PARSE(log_target)
{
    load_plain_text(load, field, node, row, weir_conf_parse_log_target);
}

SCHEMA(log_target)
{
    weir_conf_schema_text(json, "^(stdout|stderr|none|/.*)$", field->min, field->max, false);
}

PARSE(file)
{
    load_plain_text(load, field, node, row, NULL);
    if (text_member(field, row) != NULL)
        weir_conf_load_tenant_file(load, text_member(field, row), node);
}

SCHEMA(file)
{
    weir_conf_schema_text(json, NULL, field->min, field->max, true);
}

const char *weir_conf_load_tenant_name(weir_conf_load_t *load, const weir_conf_node_t *node)
{
    const weir_conf_type_t *type = &weir_conf_type_tenant_or_refuse;
    const char *text = weir_conf_scalar(load, type, node);
    const char *right = text != NULL ? weir_conf_parse_tenant(text) : NULL;
    if (right != NULL)
        weir_conf_fail_value(load, node, type->what, right);
    return text != NULL && right == NULL ? weir_conf_keep(load, text) : NULL;
}

PARSE(tenant_or_refuse)
{
    const char *tenant = weir_conf_load_tenant_name(load, node);
    if (tenant != NULL && strcmp(tenant, "refuse") != 0)
        *(const char **)weir_conf_member(field, row) = tenant;
}

PRINT(tenant_or_refuse)
{
    const char *tenant = text_member(field, row);
    fputc(' ', out);
    weir_conf_yaml_text(out, tenant != NULL ? tenant : "refuse");
    fputc('\n', out);
}

SCHEMA(tenant_or_refuse)
{
    weir_conf_schema_text(json, WEIR_CONF_PATTERN_TENANT, NULL, NULL, true);
}

/* ---- places ---- */

PARSE(address)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    weir_conf_address_t address = {0};
    if (text == NULL)
        return;
    const char *right = weir_conf_parse_address(text, load->arena, &address);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else
        *(weir_conf_address_t *)weir_conf_member(field, row) = address;
}

PRINT(address)
{
    const weir_conf_address_t *address = weir_conf_member_const(field, row);
    fputc(' ', out);
    weir_conf_yaml_text(out, address->text);
    fputc('\n', out);
}

#define PATTERN_PORT                                                                                                   \
    "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
#define PATTERN_V6 "\\[[0-9A-Fa-f:.]{2,45}\\]"
#define PATTERN_UNIX "unix:///.{0,105}[^/]"
#define PATTERN_LABEL "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
#define PATTERN_HOST                                                                                                   \
    "(" WEIR_CONF_PATTERN_V4 "|(?![0-9.]+(:|/|$))" PATTERN_LABEL "(\\." PATTERN_LABEL ")*\\.?)"
#define PATTERN_NO_DOTS "(?!.*/\\.{1,2}(/|$))"
#define PATTERN_PATH "(/([A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+)*"
/* of letters, digits, -._~ and /, and of the NUL byte */
#define PATTERN_NO_PLAIN_ESCAPES "(?!.*%(00|2[D-Fd-f]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee]))"

SCHEMA(address)
{
    weir_conf_schema_text(json, "^((\\*|localhost|" WEIR_CONF_PATTERN_V4 "|" PATTERN_V6 "):" PATTERN_PORT "|" PATTERN_UNIX ")$",
                          NULL, NULL, false);
}

PARSE(url)
{
    weir_conf_upstream_t *upstream = row;
    const char *text = weir_conf_scalar(load, field->type, node);
    if (text == NULL)
        return;
    weir_conf_url_t url = {0};
    const char *right = weir_conf_parse_url(text, load->arena, &url, &upstream->prefix);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else
        upstream->url = url;
}

PRINT(url)
{
    const weir_conf_url_t *url = weir_conf_member_const(field, row);
    fputc(' ', out);
    weir_conf_yaml_text(out, url->text);
    fputc('\n', out);
}

SCHEMA(url)
{
    weir_conf_schema_text(json,
                          "^" PATTERN_NO_DOTS "(http://(" PATTERN_HOST "|" PATTERN_V6 ")(:" PATTERN_PORT ")?" PATTERN_PATH "/?|" PATTERN_UNIX
                          ")$",
                          NULL, NULL, false);
}

PARSE(prefix)
{
    const weir_conf_upstream_t *upstream = row;
    if (upstream->url.kind == WEIR_UPSTREAM_UNIX)
        load_plain_text(load, field, node, row, weir_conf_parse_prefix);
    else if (upstream->url.text != NULL)
        weir_conf_fail_key(load, node, "is for unix sockets; write the path in the url, such as http://agent:9000/v1");
}

PRINT(prefix)
{
    const weir_conf_upstream_t *upstream = row;
    bool is_of_url = upstream->url.kind == WEIR_UPSTREAM_HTTP || *upstream->prefix == '\0';
    fputc(' ', out);
    weir_conf_yaml_text(out, is_of_url ? NULL : upstream->prefix);
    fputc('\n', out);
}

SCHEMA(prefix)
{
    weir_conf_schema_text(json, "^" PATTERN_NO_DOTS PATTERN_PATH "$", field->min, field->max, false);
}

PARSE(path)
{
    const char *text = load_text(load, field, node, weir_conf_parse_path);
    if (text == NULL)
        return;
    size_t len = strlen(text);
    if (len > 1 && text[len - 1] == '/')
        --len;
    *(const char **)weir_conf_member(field, row) = weir_conf_arena_copy(load->arena, text, len);
}

SCHEMA(path)
{
    weir_conf_schema_text(json, "^" PATTERN_NO_DOTS PATTERN_NO_PLAIN_ESCAPES "(/|" PATTERN_PATH "/?)$", field->min, field->max, false);
}

PARSE(host_name)
{
    const char *text = load_text(load, field, node, weir_conf_parse_host_name);
    if (text == NULL)
        return;
    char *host = weir_conf_arena_copy(load->arena, text, strlen(text));
    for (char *at = host; *at != '\0'; ++at)
        *at = (char)tolower((unsigned char)*at);
    *(const char **)weir_conf_member(field, row) = host;
}

SCHEMA(host_name)
{
    weir_conf_schema_text(json, "^(" PATTERN_HOST "|" PATTERN_V6 ")$", field->min, field->max, false);
}

PARSE(upstream_name)
{
    const weir_conf_t *conf = load->conf;
    const char *text = weir_conf_scalar(load, field->type, node);
    if (text == NULL)
        return;
    const char **names = weir_conf_arena_alloc(load->scratch, conf->upstreams.size * sizeof(*names));
    for (size_t i = 0; i < conf->upstreams.size; ++i)
        names[i] = conf->upstreams.entries[i].name;
    *(size_t *)weir_conf_member(field, row) =
        weir_conf_find_name(load, node, false, text, "an upstream", "upstreams", names, conf->upstreams.size);
}

PRINT(upstream_name)
{
    size_t index = *(const size_t *)weir_conf_member_const(field, row);
    fprintf(out, " %s\n", conf->upstreams.entries[index].name);
}

SCHEMA(upstream_name)
{
    weir_conf_schema_text(json, WEIR_CONF_PATTERN_NAME, NULL, NULL, false);
}

/* ---- the types ---- */

#define WORDS(type) static const char *const words_##type[] = {
#define WORD(id, word) [id] = #word,
#define WORDS_END(type)                                                                                                \
    NULL                                                                                                               \
    };
#include "fields/words.def"

#define FUNCTIONS(type) .parse = parse_##type, .print = print_##type, .schema = schema_##type
#define TEXT_FUNCTIONS(type) .parse = parse_##type, .print = print_any_text, .schema = schema_##type
#define WORD_TYPE(type, what_)                                                                                         \
    const weir_conf_type_t weir_conf_type_##type = {.what = what_, .right = "write one of its words",                  \
                                                    .words = words_##type, FUNCTIONS(word)};

WORD_TYPE(algorithm, "an algorithm")
WORD_TYPE(host, "a way to set Host")
WORD_TYPE(limit_mode, "a mode")
WORD_TYPE(log_level, "a level")

const weir_conf_type_t weir_conf_type_address = {
    .what = "an address", .right = "write an address and a port, such as 127.0.0.1:8080 or \"*:8080\", or unix:///path",
    FUNCTIONS(address)};
const weir_conf_type_t weir_conf_type_count = {
    .what = "a whole number", .right = "write a whole number", FUNCTIONS(count)};
const weir_conf_type_t weir_conf_type_duration = {
    .what = "a duration", .right = "write a count and a unit, such as 250ms, 30s, 10m, 24h", FUNCTIONS(duration)};
const weir_conf_type_t weir_conf_type_file = {
    .what = "a file", .right = "write the path of a file", .bounds_of = "bytes", TEXT_FUNCTIONS(file)};
const weir_conf_type_t weir_conf_type_flag = {
    .what = "true or false", .right = "write true or false", FUNCTIONS(flag)};
const weir_conf_type_t weir_conf_type_header = {
    .what = "a header's name", .right = "write one, such as X-Tenant-ID", .bounds_of = "bytes", TEXT_FUNCTIONS(header)};
const weir_conf_type_t weir_conf_type_host_name = {
    .what = "a host", .right = "write a name, such as api.example.com", .bounds_of = "bytes", TEXT_FUNCTIONS(host_name)};
const weir_conf_type_t weir_conf_type_log_target = {
    .what = "a place for the log", .right = "write stdout, stderr, none or the absolute path of a file",
    .bounds_of = "bytes", TEXT_FUNCTIONS(log_target)};
const weir_conf_type_t weir_conf_type_own_header = {
    .what = "a header's name", .right = "write one, such as X-Correlation-ID", .bounds_of = "bytes",
    .parse = parse_own_header, .print = print_any_text, .schema = schema_header};
const weir_conf_type_t weir_conf_type_path = {
    .what = "a path", .right = "write one that begins with /", .bounds_of = "bytes", TEXT_FUNCTIONS(path)};
const weir_conf_type_t weir_conf_type_prefix = {
    .what = "a path", .right = "write one that begins with /", .bounds_of = "bytes", FUNCTIONS(prefix)};
const weir_conf_type_t weir_conf_type_rate = {
    .what = "a rate", .right = "write a count and a unit, such as 50/s, 600/m, 10000/h", .bounds_of = "the count",
    FUNCTIONS(rate)};
const weir_conf_type_t weir_conf_type_secret = {
    .what = "a token", .right = "write visible ASCII characters without spaces", .bounds_of = "bytes",
    FUNCTIONS(secret)};
const weir_conf_type_t weir_conf_type_size = {
    .what = "a size", .right = "write bytes, or a count and a unit, such as 512, 64KiB, 16MiB, 1GiB", FUNCTIONS(size)};
const weir_conf_type_t weir_conf_type_tenant_or_refuse = {
    .what = "a tenant", .right = "write a tenant's name", .bounds_of = "bytes", FUNCTIONS(tenant_or_refuse)};
const weir_conf_type_t weir_conf_type_text = {
    .what = "a text", .right = "write a text", .bounds_of = "bytes", TEXT_FUNCTIONS(text)};
const weir_conf_type_t weir_conf_type_upstream_name = {
    .what = "the name of an upstream", .right = "write the name of one of the upstreams", FUNCTIONS(upstream_name)};
const weir_conf_type_t weir_conf_type_url = {
    .what = "a url", .right = "write http://host:port or unix:///path", FUNCTIONS(url)};
const weir_conf_type_t weir_conf_type_version = {
    .what = "a version that this weir reads", .right = "write version: 1", .parse = parse_version, .print = print_count,
    .schema = schema_version};
const weir_conf_type_t weir_conf_type_workers = {
    .what = "a whole number or auto", .right = "write a whole number or auto", .parse = parse_workers,
    .print = print_count, .schema = schema_workers};
