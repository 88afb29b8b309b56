#ifndef WEIR_CONF_LOAD_H
#define WEIR_CONF_LOAD_H

/* One load, from text to a configuration: what its parts share. Errors never end it; what is broken keeps the value 0,
 * and whoever looks at it later says nothing more about it. */

#include "conf.h"
#include "errors.h"
#include "node.h"
#include "table.h"

/* A file that `tenant.file` names, read once. */
typedef struct weir_conf_tenant_file {
    const char *path;
    const weir_conf_node_t *root; /* NULL: an error was told */
    struct weir_conf_tenant_file *next;
} weir_conf_tenant_file_t;

struct weir_conf_load {
    weir_conf_t *conf;
    weir_conf_arena_t *arena;   /* the configuration's */
    weir_conf_arena_t *scratch; /* gone when it is loaded */
    weir_conf_errors_t errors;
    const weir_conf_node_t *root;
    weir_conf_tenant_file_t *tenant_files;
    const char **files; /* to be watched */
    size_t file_count, file_capacity;
    size_t inserted_bytes; /* by ${...}, so far */
};

/* Reads a text as if it stood in a file of this name. As weir_conf_load. */
weir_conf_t *weir_conf_load_text(const char *file, const char *text, size_t len, char **errors)
    __attribute__((warn_unused_result));

/* ---- errors (fail.c) ---- */

/* At the value, at its key, and about something that is not there. */
void weir_conf_fail(weir_conf_load_t *load, const weir_conf_node_t *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void weir_conf_fail_key(weir_conf_load_t *load, const weir_conf_node_t *node, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void weir_conf_fail_missing(weir_conf_load_t *load, const weir_conf_node_t *mapping, const char *key,
                            const char *format, ...) __attribute__((format(printf, 4, 5)));
/* "'5x' is not a rate; write ...", whatever the node is; secrets are not shown. */
void weir_conf_fail_value(weir_conf_load_t *load, const weir_conf_node_t *node, const char *what, const char *right);
/* A key that `names` does not have. */
void weir_conf_fail_unknown(weir_conf_load_t *load, const weir_conf_node_t *node, const char *const *names,
                            size_t count);

/* The one of `names` that `name` most likely stands for; NULL if there are none. */
const char *weir_conf_nearest(const char *name, const char *const *names, size_t count);

/* The index of `name` in `names`; SIZE_MAX after an error, at the node or its key. */
size_t weir_conf_find_name(weir_conf_load_t *load, const weir_conf_node_t *node, bool at_key, const char *name,
                           const char *what, const char *section, const char *const *names, size_t count);

/* What would be right for a value of this type: "write debug, info, warn or error" (types.c). */
const char *weir_conf_right(weir_conf_load_t *load, const weir_conf_type_t *type);

/* A copy for the configuration. */
const char *weir_conf_keep(weir_conf_load_t *load, const char *text);

/* ---- parts ---- */

/* Fills `row` from the fields of `mapping`. */
void weir_conf_load_section(weir_conf_load_t *load, const weir_conf_section_t *section, const weir_conf_node_t *mapping,
                            void *row);

/* The fields of `mapping` over what `quota` has. */
void weir_conf_load_override(weir_conf_load_t *load, const weir_conf_limit_t *limit, const weir_conf_node_t *mapping,
                             weir_conf_quota_t *quota);

/* `${...}` and `$$` of every value under `node` (expand.c). */
void weir_conf_expand(weir_conf_load_t *load, weir_conf_node_t *node);

/* What API keys and limits' tenants come to, with those of tenant.file (tenant_file.c). */
void weir_conf_load_tenant_file(weir_conf_load_t *load, const char *path, const weir_conf_node_t *node);
void weir_conf_load_api_keys(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_tenant_t *tenant);
void weir_conf_load_overrides(weir_conf_load_t *load, const weir_conf_node_t *node, weir_conf_limit_t *limit);
void weir_conf_check_tenant_files(weir_conf_load_t *load); /* the limits that they name */

/* The tenant that `node` names, in the configuration's arena; NULL after an error (types_text.c). */
const char *weir_conf_load_tenant_name(weir_conf_load_t *load, const weir_conf_node_t *node);

/* What must hold between fields (rules.c). */
void weir_conf_check_rules(weir_conf_load_t *load);

/* ---- files (file.c) ---- */

/* A path as the configuration names it: beside the configuration's own file where it is relative. */
const char *weir_conf_resolve(weir_conf_load_t *load, const char *path);
/* NULL, or why it cannot be read; `text` is NUL-terminated. `may_wait`: it may be a pipe, too. */
const char *weir_conf_read_file(const char *path, size_t bytes_max, bool may_wait, weir_conf_arena_t *arena,
                                const char **text, size_t *len);
/* The same path from the root, so that what is printed loads from anywhere. */
const char *weir_conf_absolute(weir_conf_load_t *load, const char *path);
void weir_conf_watch(weir_conf_load_t *load, const char *path);
/* NULL, or why these PEM files are no pair (types_file.c). */
const char *weir_conf_check_pair(weir_conf_load_t *load, const char *cert_path, const char *key_path);

#endif
