/* What types share, and those that are one of a few words. */

#include "types.h"
#include <stdlib.h>
#include <string.h>
#include "yaml.h"

const char *weir_conf_scalar(weir_conf_load_t *load, const weir_conf_type_t *type, const weir_conf_node_t *node)
{
    bool is_boolean = weir_conf_node_is_word(node, "true") || weir_conf_node_is_word(node, "false");
    bool is_null = weir_conf_node_is_null(node); /* an entry of a list: a field that is null is not there */
    if (node->kind == WEIR_CONF_SCALAR && !is_null && (!is_boolean || type == &weir_conf_type_flag))
        return node->text;
    weir_conf_fail_value(load, node, type->what, is_boolean ? "write it in quotes" : type->right);
    return NULL;
}

int64_t weir_conf_bound(const char *text)
{
    int64_t value;
    if (weir_conf_parse_count(text, &value) != NULL)
        abort();
    return value;
}

const char *weir_conf_right(weir_conf_load_t *load, const weir_conf_type_t *type)
{
    if (type->words == NULL)
        return type->right;
    const char *right = weir_conf_arena_printf(load->scratch, "write %s", type->words[0]);
    for (size_t i = 1; type->words[i] != NULL; ++i)
        right = weir_conf_arena_printf(load->scratch, "%s%s%s", right, type->words[i + 1] != NULL ? ", " : " or ",
                                       type->words[i]);
    return right;
}

int weir_conf_word(weir_conf_load_t *load, const weir_conf_type_t *type, const weir_conf_node_t *node)
{
    for (int i = 0; node->kind == WEIR_CONF_SCALAR && type->words[i] != NULL; ++i)
        if (strcmp(type->words[i], node->text) == 0)
            return i;
    weir_conf_fail_value(load, node, type->what, weir_conf_right(load, type));
    return -1;
}

const char *weir_conf_load_header(weir_conf_load_t *load, const weir_conf_node_t *node,
                                  const char *(*parse)(const char *text))
{
    const char *text = weir_conf_scalar(load, &weir_conf_type_header, node);
    const char *right = text != NULL ? parse(text) : NULL;
    if (right == NULL && text != NULL && strlen(text) > 64)
        right = "write a name of at most 64 characters";
    bool is_header = text != NULL && weir_conf_parse_header(text) == NULL;
    if (right != NULL)
        weir_conf_fail_value(load, node, is_header ? "a header for this" : weir_conf_type_header.what, right);
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
    for (; *words != NULL; ++words) {
        weir_conf_json_text(json, *words);
        if (strspn(*words, "0123456789") == strlen(*words))
            weir_conf_json_word(json, *words);
    }
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

bool weir_conf_is_secret(const weir_conf_field_t *field)
{
    return field->type == &weir_conf_type_secret || field->type == &weir_conf_type_password;
}

const char *weir_conf_load_text_of(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
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
    if (weir_conf_is_secret(field))
        weir_conf_fail(load, node, "what stands here is not %s; %s", field->type->what, right);
    else
        weir_conf_fail_value(load, node, field->type->what, right);
    return NULL;
}

void weir_conf_set_text_of(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                           void *row, const char *(*parse)(const char *text))
{
    const char *text = weir_conf_load_text_of(load, field, node, parse);
    if (text != NULL)
        *(const char **)weir_conf_member(field, row) = weir_conf_keep(load, text);
}

void weir_conf_print_text(FILE *out, const char *text)
{
    fputc(' ', out);
    weir_conf_yaml_text(out, text);
    fputc('\n', out);
}

void weir_conf_print_text_field(FILE *out, const weir_conf_t *conf, const weir_conf_field_t *field, const void *row,
                                int indent)
{
    weir_conf_print_text(out, *(const char *const *)weir_conf_member_const(field, row));
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

#define WORDS(type) static const char *const words_##type[] = {
#define WORD(id, word) [id] = #word,
#define WORDS_END(type) \
    NULL                \
    }                   \
    ;
#include "fields/words.def"

#define WORD_TYPE(type, what_)                       \
    const weir_conf_type_t weir_conf_type_##type = { \
        .what = what_, .words = words_##type, .parse = parse_word, .print = print_word, .schema = schema_word};

WORD_TYPE(abandoned, "what becomes of an abandoned call")
WORD_TYPE(algorithm, "an algorithm")
WORD_TYPE(dedup_on_failure, "a way to fail")
WORD_TYPE(dialect, "a dialect")
WORD_TYPE(host, "a way to set Host")
WORD_TYPE(in_flight, "a way to answer duplicates in flight")
WORD_TYPE(limit_mode, "a mode")
WORD_TYPE(limit_on_failure, "a way to fail")
WORD_TYPE(limit_scope, "a scope")
WORD_TYPE(log_level, "a level")
WORD_TYPE(mismatch, "a way to answer a mismatch")
WORD_TYPE(on_duplicate, "a way to answer duplicates")
WORD_TYPE(on_full, "what becomes of a full table")
WORD_TYPE(on_unknown, "what follows a lost answer")
WORD_TYPE(precision, "a precision")
WORD_TYPE(redis_mode, "a mode")
WORD_TYPE(store_kind, "a kind of store")
WORD_TYPE(sync, "a way to ask")
WORD_TYPE(unit, "a unit of limits")

const weir_conf_type_t weir_conf_type_flag = {.what = "true or false",
                                              .right = "write true or false",
                                              .parse = parse_flag,
                                              .print = print_flag,
                                              .schema = schema_flag};
