/* What dedups and the store have that nothing else has: keys, statuses, names of dedups, the file of the store. */

#include "types.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "yaml.h"

/* ---- keys ---- */

static const char *const key_words[] = {"cloudevent", "fingerprint", NULL}, *const key_fields[] = {"header", "json"};
static const weir_conf_dedup_key_kind_t kinds_of_words[] = {WEIR_DEDUP_KEY_CLOUDEVENT, WEIR_DEDUP_KEY_FINGERPRINT},
                                        kinds_of_fields[] = {WEIR_DEDUP_KEY_HEADER, WEIR_DEDUP_KEY_JSON};
static const weir_conf_type_t one_key = {.what = "a key",
                                         .right = "write {header: NAME}, {json: /POINTER}, cloudevent or fingerprint"};
static const weir_conf_type_t one_pointer = {.what = "a JSON pointer", .right = "write such as /job_id"};

static const char *load_pointer(weir_conf_load_t *load, const weir_conf_node_t *node)
{
    const char *text = weir_conf_scalar(load, &one_pointer, node);
    const char *right = text != NULL ? weir_conf_parse_json_pointer(text) : NULL;
    if (right != NULL)
        weir_conf_fail_value(load, node, one_pointer.what, right);
    return text != NULL && right == NULL ? weir_conf_keep(load, text) : NULL;
}

static bool load_key(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_dedup_key_t *key)
{
    size_t index;
    for (size_t i = 0; node->kind == WEIR_CONF_SCALAR && key_words[i] != NULL; ++i)
        if (strcmp(key_words[i], node->text) == 0) {
            *key = (weir_conf_dedup_key_t){kinds_of_words[i], NULL};
            return true;
        }
    const weir_conf_node_t *only = weir_conf_only_field(load, node, one_key.what, one_key.right, key_fields, 2, &index);
    if (only == NULL)
        return false;
    key->kind = kinds_of_fields[index];
    key->text = key->kind == WEIR_DEDUP_KEY_HEADER ? weir_conf_load_header(load, only, weir_conf_parse_dedup_header)
                                                   : load_pointer(load, only);
    return key->text != NULL;
}

static bool is_same_key(const weir_conf_dedup_key_t *a, const weir_conf_dedup_key_t *b)
{
    if (a->kind != b->kind)
        return false;
    return a->text == NULL ||
           (a->kind == WEIR_DEDUP_KEY_HEADER ? strcasecmp(a->text, b->text) : strcmp(a->text, b->text)) == 0;
}

static const char *key_word(weir_conf_dedup_key_kind_t kind)
{
    return key_words[kind == kinds_of_words[0] ? 0 : 1];
}

PARSE(dedup_keys)
{
    weir_conf_dedup_key_t *keys;
    size_t size = 0;
    if (!weir_conf_begin_list(load, field, node, sizeof(*keys), &keys))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        weir_conf_dedup_key_t *key = &keys[size];
        if (child->kind == WEIR_CONF_BROKEN || !load_key(load, child, key))
            continue;
        for (size_t i = 0; i < size; ++i)
            if (is_same_key(&keys[i], key))
                weir_conf_fail_twice(load, child, key->text != NULL ? key->text : key_word(key->kind));
        ++size;
    }
    *(weir_conf_dedup_keys_t *)weir_conf_member(field, row) = (weir_conf_dedup_keys_t){keys, size};
}

PRINT(dedup_keys)
{
    const weir_conf_dedup_keys_t *keys = weir_conf_member_const(field, row);
    fputs(" [", out);
    for (size_t i = 0; i < keys->size; ++i) {
        const weir_conf_dedup_key_t *key = &keys->entries[i];
        fputs(i > 0 ? ", " : "", out);
        if (key->text != NULL)
            weir_conf_print_only_field(out, key_fields[key->kind == kinds_of_fields[0] ? 0 : 1], key->text);
        else
            fputs(key_word(key->kind), out);
    }
    fputs("]\n", out);
}

SCHEMA(dedup_keys)
{
    static const char pointer[] = "^(?=.{1,255}$)(/([^/~\\x00-\\x1f\\x7f]|~[01])*)+$";
    weir_conf_schema_array(json, field, true);
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_schema_word_items(json, key_words);
    weir_conf_json_open(json, '{');
    weir_conf_schema_only_field(json, key_fields[0], WEIR_CONF_PATTERN_HEADER);
    weir_conf_json_close(json, '}');
    weir_conf_json_open(json, '{');
    weir_conf_schema_only_field(json, key_fields[1], pointer);
    weir_conf_json_close(json, '}');
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

/* ---- statuses ---- */

enum { STATUS_MIN = 200, STATUS_MAX = 599, CLASS_SIZE = 100 };

static const weir_conf_type_t one_status = {.what = "a status",
                                            .right = "write one from 200 to 599, or a class of them, such as 2xx"};

/* The statuses that the text names, the first and how many; 0: it names none. */
static int find_statuses(const char *text, int64_t *first)
{
    if (strlen(text) != 3)
        return 0;
    bool is_class = strcmp(text + 1, "xx") == 0;
    if (is_class)
        *first = (text[0] - '0') * CLASS_SIZE;
    else if (weir_conf_parse_count(text, first) != NULL)
        return 0;
    return *first < STATUS_MIN || *first > STATUS_MAX ? 0 : is_class ? CLASS_SIZE : 1;
}

PARSE(statuses)
{
    weir_conf_statuses_t *statuses = weir_conf_member(field, row);
    void *none;
    if (!weir_conf_begin_list(load, field, node, 0, &none))
        return;
    for (const weir_conf_node_t *child = node->first; child != NULL; child = child->next) {
        const char *text = child->kind != WEIR_CONF_BROKEN ? weir_conf_scalar(load, &one_status, child) : NULL;
        int64_t first = 0;
        int count = text != NULL ? find_statuses(text, &first) : 0;
        if (text != NULL && count == 0)
            weir_conf_fail_value(load, child, one_status.what, one_status.right);
        bool is_there = false;
        for (int64_t status = first; status < first + count; ++status) {
            is_there = is_there || weir_conf_statuses_has(statuses, status);
            statuses->bits[(status - 100) / 64] |= UINT64_C(1) << (status - 100) % 64;
        }
        if (is_there)
            weir_conf_fail_twice(load, child, text);
    }
}

static bool has_class(const weir_conf_statuses_t *statuses, int64_t first)
{
    for (int64_t status = first; status < first + CLASS_SIZE; ++status)
        if (!weir_conf_statuses_has(statuses, status))
            return false;
    return true;
}

PRINT(statuses)
{
    const weir_conf_statuses_t *statuses = weir_conf_member_const(field, row);
    const char *between = "";
    fputs(" [", out);
    for (int64_t status = STATUS_MIN; status <= STATUS_MAX; ++status) {
        bool is_class = status % CLASS_SIZE == 0 && has_class(statuses, status);
        if (is_class)
            fprintf(out, "%s%" PRId64 "xx", between, status / CLASS_SIZE);
        else if (weir_conf_statuses_has(statuses, status))
            fprintf(out, "%s%" PRId64, between, status);
        else
            continue;
        between = ", ";
        status += is_class ? CLASS_SIZE - 1 : 0;
    }
    fputs("]\n", out);
}

SCHEMA(statuses)
{
    weir_conf_schema_array(json, field, true);
    weir_conf_json_open(json, '{');
    weir_conf_json_key(json, "anyOf");
    weir_conf_json_open(json, '[');
    weir_conf_json_open(json, '{');
    weir_conf_schema_text(json, "^[2-5](xx|[0-9]{2})$", NULL, NULL, false);
    weir_conf_json_close(json, '}');
    weir_conf_json_open(json, '{');
    weir_conf_json_member_text(json, "type", "integer");
    weir_conf_json_member_number(json, "minimum", STATUS_MIN);
    weir_conf_json_member_number(json, "maximum", STATUS_MAX);
    weir_conf_json_close(json, '}');
    weir_conf_schema_ref(json, "inserted");
    weir_conf_json_close(json, ']');
    weir_conf_json_close(json, '}');
}

/* ---- the dedup of a route ---- */

PARSE(dedup_name)
{
    const weir_conf_t *conf = load->conf;
    const char *text = weir_conf_scalar(load, field->type, node);
    size_t *dedup = weir_conf_member(field, row);
    *dedup = SIZE_MAX;
    if (text == NULL)
        return;
    const char **names = weir_conf_arena_alloc(load->scratch, conf->dedup.size * sizeof(*names));
    for (size_t i = 0; i < conf->dedup.size; ++i)
        names[i] = conf->dedup.entries[i].name;
    *dedup = weir_conf_find_name(load, node, false, text, "a dedup", "dedup", names, conf->dedup.size);
}

PRINT(dedup_name)
{
    size_t index = *(const size_t *)weir_conf_member_const(field, row);
    fprintf(out, " %s\n", index != SIZE_MAX ? conf->dedup.entries[index].name : "null");
}

SCHEMA(dedup_name)
{
    weir_conf_schema_text(json, WEIR_CONF_PATTERN_NAME, NULL, NULL, false);
}

/* ---- the store ---- */

static const char *check_file_name(const char *text)
{
    const char *name = strrchr(text, '/');
    name = name != NULL ? name + 1 : text;
    bool is_folder = *name == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
    return is_folder ? "write the path of a file" : NULL;
}

PARSE(state_file)
{
    const char *text = weir_conf_load_text_of(load, field, node, check_file_name);
    if (text != NULL)
        *(const char **)weir_conf_member(field, row) =
            weir_conf_absolute(load, weir_conf_keep(load, weir_conf_resolve(load, text)));
}

/* The {tag} that says where a key lives is weir's own to write. */
static const char *check_key_name(const char *text)
{
    for (const char *at = text; *at != '\0'; ++at)
        if ((unsigned char)*at < 0x20 || *at == 0x7f || *at == '{' || *at == '}')
            return "write one without braces and control characters, such as \"weir:\"";
    return NULL;
}

PARSE(key_name)
{
    weir_conf_set_text_of(load, field, node, row, check_key_name);
}

SCHEMA(key_name)
{
    weir_conf_schema_text(json, "^[^\\u0000-\\u001f\\u007f{}]*$", field->min, field->max, true);
}

SCHEMA(state_file)
{
    weir_conf_schema_text(json, "^(.*/)?(?!\\.{1,2}$)[^/]+$", field->min, field->max, true);
}

/* ---- the types ---- */

DEFINE_TYPE(dedup_keys, "a list of where the key is found", "write such as [{header: Idempotency-Key}, cloudevent]",
            "entries", parse_dedup_keys, print_dedup_keys, schema_dedup_keys)
DEFINE_TYPE(statuses, "a list of statuses", "write such as [2xx, 404]", "entries", parse_statuses, print_statuses,
            schema_statuses)
DEFINE_TYPE(key_name, "a beginning of names", "write a text, such as \"weir:\"", "bytes", parse_key_name,
            weir_conf_print_text_field, schema_key_name)
DEFINE_TYPE(dedup_name, "the name of a dedup", "write the name of one of the dedups", NULL, parse_dedup_name,
            print_dedup_name, schema_dedup_name)
DEFINE_TYPE(state_file, "a file", "write the path of a file", "bytes", parse_state_file, weir_conf_print_text_field,
            schema_state_file)
