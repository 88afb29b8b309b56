/* Counts, durations, sizes and rates. */

#include "types.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "cgroup.h"
#include "range.h"

static void fail_bounds(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                        bool is_low)
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
static void schema_units(weir_conf_json_t *json, int64_t min, int64_t max, const weir_conf_scale_t *units,
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
    static const weir_conf_scale_t none = {"", 1};
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

/* ---- decimal numbers ---- */

typedef const char *parse_decimal_t(const char *text, int64_t *value);

static int64_t decimal_bound(const char *text, parse_decimal_t *parse)
{
    int64_t value;
    if (parse(text, &value) != NULL)
        abort();
    return value;
}

static void load_decimal(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                         void *row, parse_decimal_t *parse)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    int64_t value;
    if (text == NULL)
        return;
    const char *right = parse(text, &value);
    int64_t min = decimal_bound(field->min, parse), max = decimal_bound(field->max, parse);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else if (value < min || value > max)
        fail_bounds(load, field, node, value < min);
    else
        *(int64_t *)weir_conf_member(field, row) = value;
}

/* A number from min to max, both whole, with at most so many digits after the point, and what follows it. */
static void schema_decimal(weir_conf_json_t *json, int64_t min, int64_t max, int digits, const char *end)
{
    char *pattern = NULL;
    size_t len;
    FILE *out = open_memstream(&pattern, &len);
    if (out == NULL)
        abort();
    fputs("^((", out);
    weir_conf_range_write(out, min, max - 1);
    fprintf(out, ")(\\.[0-9]{1,%d})?|%" PRId64 "(\\.0{1,%d})?)%s$", digits, max, digits, end);
    if (fclose(out) != 0)
        abort();
    weir_conf_schema_text(json, pattern, NULL, NULL, false);
    free(pattern);
}

PARSE(weight)
{
    load_decimal(load, field, node, row, weir_conf_parse_weight);
}

PRINT(weight)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    weir_conf_format_weight(*(const int64_t *)weir_conf_member_const(field, row), text);
    fprintf(out, " %s\n", text);
}

SCHEMA(weight)
{
    begin_any_of(json);
    weir_conf_json_member_text(json, "type", "number");
    weir_conf_json_member_word(json, "minimum", field->min);
    weir_conf_json_member_word(json, "maximum", field->max);
    next_any_of(json);
    schema_decimal(json, weir_conf_bound(field->min), weir_conf_bound(field->max), 6, "");
    end_any_of(json);
}

PARSE(percent)
{
    load_decimal(load, field, node, row, weir_conf_parse_percent);
}

PRINT(percent)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    weir_conf_format_percent(*(const int64_t *)weir_conf_member_const(field, row), text);
    fprintf(out, " %s\n", text);
}

SCHEMA(percent)
{
    int64_t one = decimal_bound("1%", weir_conf_parse_percent);
    int64_t min = decimal_bound(field->min, weir_conf_parse_percent) / one;
    int64_t max = decimal_bound(field->max, weir_conf_parse_percent) / one;
    schema_decimal(json, min, max, 4, "%");
}

/* ---- probabilities ---- */

static double probability_bound(const char *text)
{
    double value;
    if (weir_conf_parse_probability(text, &value) != NULL)
        abort();
    return value;
}

PARSE(probability)
{
    const char *text = weir_conf_scalar(load, field->type, node);
    double value;
    if (text == NULL)
        return;
    const char *right = weir_conf_parse_probability(text, &value);
    double min = probability_bound(field->min), max = probability_bound(field->max);
    if (right != NULL)
        weir_conf_fail_value(load, node, field->type->what, right);
    else if (value < min || value > max)
        fail_bounds(load, field, node, value < min);
    else
        *(double *)weir_conf_member(field, row) = value;
}

PRINT(probability)
{
    char text[WEIR_CONF_SCALAR_BYTES_MAX];
    weir_conf_format_probability(*(const double *)weir_conf_member_const(field, row), text);
    fprintf(out, " %s\n", text);
}

/* In quotes, which readers of YAML 1.1 take for granted: of what is from 1e-9 to 0.1. */
SCHEMA(probability)
{
    begin_any_of(json);
    weir_conf_json_member_text(json, "type", "number");
    weir_conf_json_member_word(json, "minimum", field->min);
    weir_conf_json_member_word(json, "maximum", field->max);
    next_any_of(json);
    weir_conf_schema_text(json, "^(0\\.(10*|0{1,8}[1-9][0-9]*)|[1-9](\\.[0-9]+)?[eE]-0*[2-9]|1(\\.0+)?[eE]-0*1)$", NULL,
                          "40", false);
    end_any_of(json);
}

/* ---- the types ---- */

DEFINE_TYPE(count, "a whole number", "write a whole number", NULL, parse_count, print_count, schema_count)
DEFINE_TYPE(version, "a version that this weir reads", "write version: 1", NULL, parse_version, print_count,
            schema_version)
DEFINE_TYPE(workers, "a whole number or auto", "write a whole number or auto", NULL, parse_workers, print_count,
            schema_workers)
DEFINE_TYPE(duration, "a duration", "write a count and a unit, such as 250ms, 30s, 10m, 24h", NULL, parse_duration,
            print_duration, schema_duration)
DEFINE_TYPE(size, "a size", "write bytes, or a count and a unit, such as 512, 64KiB, 16MiB, 1GiB", NULL, parse_size,
            print_size, schema_size)
DEFINE_TYPE(weight, "a weight", "write a number, such as 1, 0.1, 1.25", NULL, parse_weight, print_weight, schema_weight)
DEFINE_TYPE(percent, "a percentage", "write a number and %, such as 25%", NULL, parse_percent, print_percent,
            schema_percent)
DEFINE_TYPE(probability, "a probability", "write a number, such as 1e-6 or 0.001", NULL, parse_probability,
            print_probability, schema_probability)
DEFINE_TYPE(rate, "a rate", "write a count and a unit, such as 50/s, 600/m, 10000/h", "the count", parse_rate,
            print_rate, schema_rate)
