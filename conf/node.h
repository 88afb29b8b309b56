#ifndef WEIR_CONF_NODE_H
#define WEIR_CONF_NODE_H

/* YAML text as a tree in which every value knows its place. The only user of the YAML library.
 *
 * One document of mappings, lists and scalars; anchors, aliases, tags and merge keys are refused, so that a tree is
 * never larger than its text; at most WEIR_CONF_DEPTH_MAX levels. The second of two equal keys is an error, and broken.
 */

#include <stdbool.h>
#include <stddef.h>
#include "arena.h"
#include "errors.h"

enum {
    WEIR_CONF_TEXT_BYTES_MAX = 1024 * 1024,
    WEIR_CONF_TENANT_FILE_BYTES_MAX = 16 * 1024 * 1024,
    WEIR_CONF_DEPTH_MAX = 32,
};

#define WEIR_CONF_MERGE_KEY "<<"

typedef enum {
    WEIR_CONF_SCALAR,
    WEIR_CONF_MAPPING,
    WEIR_CONF_SEQUENCE,
    WEIR_CONF_BROKEN, /* its error was told already */
} weir_conf_node_kind_t;

typedef struct weir_conf_node {
    weir_conf_node_kind_t kind;
    bool plain;       /* a scalar without quotes */
    bool inserted;    /* `${...}` was in it (expand.c) */
    bool hidden;      /* ... of a file, perhaps a secret: errors show `written` */
    const char *text; /* a scalar's */
    const char *written;
    weir_conf_place_t place;
    const char *key; /* within a mapping; else NULL */
    weir_conf_place_t key_place;
    size_t index; /* within a list */
    const struct weir_conf_node *parent;
    struct weir_conf_node *first, *last, *next;
    size_t count; /* of children */
} weir_conf_node_t;

/* NULL after an error of syntax. An empty text is an empty mapping at 1:1. */
weir_conf_node_t *weir_conf_node_parse(weir_conf_arena_t *arena, const char *file, const char *text, size_t len,
                                       weir_conf_errors_t *errors);

/* The value of `key`; NULL where it is missing or null, or `mapping` is no mapping. */
const weir_conf_node_t *weir_conf_node_get(const weir_conf_node_t *mapping, const char *key);

/* null, ~ or nothing. */
bool weir_conf_node_is_null(const weir_conf_node_t *node);
/* An unquoted scalar that is exactly `word`. */
bool weir_conf_node_is_word(const weir_conf_node_t *node, const char *word);

/* `limits.per-tenant.key[1]`; of the root: "". */
const char *weir_conf_node_path(const weir_conf_node_t *node, weir_conf_arena_t *arena);

#endif
