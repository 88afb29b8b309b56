#ifndef WEIR_CONF_TYPES_H
#define WEIR_CONF_TYPES_H

/* What the types of types_*.c share. */

#include "load.h"
#include "scalar.h"

/* The functions of a type. */
#define PARSE(type)                                                                                                \
    static void parse_##type(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node, \
                             void *row)
#define PRINT(type)                                                                                               \
    static void print_##type(FILE *out, const weir_conf_t *conf, const weir_conf_field_t *field, const void *row, \
                             int indent)
#define SCHEMA(type) static void schema_##type(weir_conf_json_t *json, const weir_conf_field_t *field)

#define DEFINE_TYPE(type, what_, right_, bounds_of_, parse_, print_, schema_) \
    const weir_conf_type_t weir_conf_type_##type = {                          \
        .what = what_, .right = right_, .bounds_of = bounds_of_, .parse = parse_, .print = print_, .schema = schema_};

/* The text of a scalar; NULL after an error. */
const char *weir_conf_scalar(weir_conf_load_t *load, const weir_conf_type_t *type, const weir_conf_node_t *node);
/* A word's index; -1 after an error. */
int weir_conf_word(weir_conf_load_t *load, const weir_conf_type_t *type, const weir_conf_node_t *node);
/* The name of a header field, by one of scalar.h's parsers; NULL after an error. */
const char *weir_conf_load_header(weir_conf_load_t *load, const weir_conf_node_t *node,
                                  const char *(*parse)(const char *text));

/* A text of the field's min to max bytes that `parse` takes; NULL after an error. `set`: and it is the field's value.
 */
const char *weir_conf_load_text_of(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                                   const char *(*parse)(const char *text));
void weir_conf_set_text_of(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                           void *row, const char *(*parse)(const char *text));
void weir_conf_print_text(FILE *out, const char *text);
void weir_conf_print_text_field(FILE *out, const weir_conf_t *conf, const weir_conf_field_t *field, const void *row,
                                int indent);

int64_t weir_conf_bound(const char *text); /* a count in a row */

/* Room for the entries of a list, in `*entries`; false after an error. */
bool weir_conf_begin_list(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node,
                          size_t entry_bytes, void *entries);
void weir_conf_fail_twice(weir_conf_load_t *load, const weir_conf_node_t *node, const char *name);
/* The only field of a mapping such as {header: X}, with its index in `names`; NULL after an error. */
const weir_conf_node_t *weir_conf_only_field(weir_conf_load_t *load, const weir_conf_node_t *node, const char *what,
                                             const char *right, const char *const *names, size_t count, size_t *index);
void weir_conf_print_only_field(FILE *out, const char *name, const char *text); /* {header: X} */
void weir_conf_print_strings(FILE *out, const weir_conf_strings_t *strings);

/* Members of a schema array, and of an object whose keys match; what an entry is follows. */
void weir_conf_schema_array(weir_conf_json_t *json, const weir_conf_field_t *field, bool is_unique);
void weir_conf_schema_object(weir_conf_json_t *json, const weir_conf_field_t *field, const char *pattern);
/* An entry: text that matches, or one of the words, or something that is inserted. */
void weir_conf_schema_items(weir_conf_json_t *json, const char *pattern, bool or_number);
/* A mapping: keys of this pattern, values of the other one, or null. */
void weir_conf_schema_pairs(weir_conf_json_t *json, const weir_conf_field_t *field, const char *keys, const char *values);
void weir_conf_schema_word_items(weir_conf_json_t *json, const char *const *words);

/* Members of a schema object: text of these lengths that matches; `or_number`: a number is as good. */
void weir_conf_schema_text(weir_conf_json_t *json, const char *pattern, const char *min, const char *max,
                           bool or_number);
void weir_conf_schema_words(weir_conf_json_t *json, const char *const *words);
/* Members of a schema object: a mapping of this one field, with a text that matches. */
void weir_conf_schema_only_field(weir_conf_json_t *json, const char *name, const char *pattern);
/* An object that refers to one of $defs. */
void weir_conf_schema_ref(weir_conf_json_t *json, const char *name);

#define WEIR_CONF_PATTERN_HEADER "^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$"
#define WEIR_CONF_PATTERN_TENANT "^[A-Za-z0-9._:@/-]{1,128}$"
#define WEIR_CONF_PATTERN_BYTE "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define WEIR_CONF_PATTERN_V4 WEIR_CONF_PATTERN_BYTE "(\\." WEIR_CONF_PATTERN_BYTE "){3}"
#define WEIR_CONF_PATTERN_NAME "^[a-z][a-z0-9-]{0,62}$"

#endif
