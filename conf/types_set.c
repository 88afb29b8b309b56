/* Lists of words that become bits, one for each word, the first the lowest. */

#include "types.h"
#include <string.h>

static bool parse_bits(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                       const weir_conf_type_t *one, unsigned *bits)
{
    void *none;
    if (!weir_conf_begin_list(load, field, node, 0, &none))
        return false;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        int word = child->kind != WEIR_CONF_BROKEN ? weir_conf_word(load, one, child) : -1;
        if (word < 0)
            continue;
        if ((*bits >> word & 1) != 0)
            weir_conf_fail_twice(load, child, one->words[word]);
        *bits |= 1u << word;
    }
    return true;
}

static void print_bits(FILE *out, const weir_conf_type_t *one, unsigned bits)
{
    const char *between = "";
    fputs(" [", out);
    for (size_t i = 0; one->words[i] != NULL; ++i) {
        if ((bits >> i & 1) == 0)
            continue;
        fprintf(out, "%s%s", between, one->words[i]);
        between = ", ";
    }
    fputs("]\n", out);
}

static void schema_bits(weir_conf_json_t *json, const weir_conf_field_t *field, const weir_conf_type_t *one)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_schema_word_items(json, one->words);
}

#define BITS(type, what_, ...)                                                               \
    static const char *const words_##type[] = {__VA_ARGS__, NULL};                           \
    static const weir_conf_type_t one_##type = {.what = what_, .words = words_##type};       \
    PARSE(type)                                                                              \
    {                                                                                        \
        parse_bits(load, field, node, &one_##type, weir_conf_member(field, row));            \
    }                                                                                        \
    PRINT(type)                                                                              \
    {                                                                                        \
        print_bits(out, &one_##type, *(const unsigned *)weir_conf_member_const(field, row)); \
    }                                                                                        \
    SCHEMA(type)                                                                             \
    {                                                                                        \
        schema_bits(json, field, &one_##type);                                               \
    }

BITS(forward, "a thing to forward", "correlation", "traceparent", "tenant")
BITS(causes, "a cause to try again", "connect", "reset", "timeout", "429", "500", "502", "503", "504", "529")
BITS(failures, "a kind of failure", "connect", "timeout", "reset", "5xx")

/* ---- what a breaker is for ---- */

enum { OF_UPSTREAM = 1, OF_MODEL = 2 };

static const char *const breaker_words[] = {"upstream", "model", NULL};
static const weir_conf_type_t one_part = {.what = "a part of a breaker's key", .words = breaker_words};

PARSE(breaker_key)
{
    unsigned bits = 0;
    if (!parse_bits(load, field, node, &one_part, &bits))
        return;
    if ((bits & OF_UPSTREAM) == 0 && (bits != 0 || node->first == NULL))
        weir_conf_fail(load, node, "has no upstream; %s", field->type->right);
    *(bool *)weir_conf_member(field, row) = (bits & OF_MODEL) != 0;
}

PRINT(breaker_key)
{
    print_bits(out, &one_part,
               *(const bool *)weir_conf_member_const(field, row) ? OF_UPSTREAM | OF_MODEL : OF_UPSTREAM);
}

SCHEMA(breaker_key)
{
    schema_bits(json, field, &one_part);
    weir_conf_json_key(json, "contains");
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "type", "string");
    weir_conf_json_member_text(json, "pattern", "^upstream$|\\$\\{");
    weir_conf_json_close(json, '}');
}

/* ---- the types ---- */

DEFINE_TYPE(forward, "a list of correlation, traceparent and tenant", "write such as [correlation, tenant], or []",
            "entries", parse_forward, print_forward, schema_forward)
DEFINE_TYPE(causes, "a list of causes", "write such as [connect, reset, 502, 503]", "entries", parse_causes,
            print_causes, schema_causes)
DEFINE_TYPE(failures, "a list of failures", "write such as [connect, timeout, reset, 5xx]", "entries", parse_failures,
            print_failures, schema_failures)
DEFINE_TYPE(breaker_key, "a list of upstream and model", "write [upstream] or [upstream, model]", "entries",
            parse_breaker_key, print_breaker_key, schema_breaker_key)
