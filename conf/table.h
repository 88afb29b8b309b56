#ifndef WEIR_CONF_TABLE_H
#define WEIR_CONF_TABLE_H

/* The rows of fields/ as data: what the loader, the printers, the schema and the reference walk over. */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "conf.h"
#include "json.h"
#include "node.h"

typedef struct weir_conf_load weir_conf_load_t; /* load.h */
typedef struct weir_conf_field weir_conf_field_t;
typedef struct weir_conf_section weir_conf_section_t;

/* What a value's type can do; its functions are in types_*.c. `row` is the struct that the field is a member of. */
typedef struct {
    const char *what;         /* "a rate" */
    const char *right;        /* "write a count and a unit, such as 50/s, 600/m, 10000/h"; NULL: one of its words */
    const char *const *words; /* it can be, up to a NULL; or NULL */
    const char *bounds_of;    /* what min and max count, such as "bytes"; NULL: the value itself */
    void (*parse)(weir_conf_load_t *load, const weir_conf_field_t *field, const weir_conf_node_t *node, void *row);
    void (*print)(FILE *out, const weir_conf_t *conf, const weir_conf_field_t *field, const void *row, int indent);
    void (*schema)(weir_conf_json_t *json, const weir_conf_field_t *field); /* members of a schema object */
} weir_conf_type_t;

typedef enum {
    WEIR_CONF_VALUE,
    WEIR_CONF_NAME,
    WEIR_CONF_SWITCH,
    WEIR_CONF_SECTION,
    WEIR_CONF_INLINE,
    WEIR_CONF_OWN,
    WEIR_CONF_NAMED,
    WEIR_CONF_LIST,
} weir_conf_row_kind_t;

typedef enum { LIVE, RESTART } weir_conf_reload_t;

/* Which algorithms have a field; none: all. */
enum {
    TOKEN_BUCKET = 1 << WEIR_LIMIT_TOKEN_BUCKET,
    SLIDING_WINDOW = 1 << WEIR_LIMIT_SLIDING_WINDOW,
    CONCURRENCY = 1 << WEIR_LIMIT_CONCURRENCY,
    NOT_PER_TENANT = 1 << 16, /* and a tenant cannot have its own */
};

struct weir_conf_field {
    weir_conf_row_kind_t kind;
    const char *key;
    size_t offset;
    const char *text;
    weir_conf_reload_t reload;
    unsigned algorithms;

    /* VALUE; of a SWITCH its default */
    const weir_conf_type_t *type;
    bool required;
    const char *default_text;                     /* NULL: none */
    void (*derive)(void *row, const void *outer); /* in place of a default */
    const char *derived;                          /* from what */
    const char *min, *max;                        /* `max` of NAMED and LIST, too */

    /* SECTION, INLINE, OWN, NAMED, LIST */
    const weir_conf_section_t *(*section)(void);
};

struct weir_conf_section {
    const char *name, *text;
    size_t size; /* of its struct */
    const weir_conf_field_t *fields;
    size_t field_count;
};

/* What NAMED and LIST are in their struct. */
typedef struct __attribute__((may_alias)) {
    void *entries;
    size_t size;
} weir_conf_entries_t;

const weir_conf_section_t *weir_conf_section_root(void);
const weir_conf_section_t *weir_conf_section_limit(void);
const weir_conf_section_t *weir_conf_section_quota(void);
const weir_conf_section_t *weir_conf_section_store_redis(void);
const weir_conf_section_t *weir_conf_section_redis_sentinel(void);

/* The section's field of this kind; NULL if it has none. */
const weir_conf_field_t *weir_conf_section_find(const weir_conf_section_t *section, weir_conf_row_kind_t kind);

static inline void *weir_conf_member(const weir_conf_field_t *field, void *row)
{
    return (char *)row + field->offset;
}

static inline const void *weir_conf_member_const(const weir_conf_field_t *field, const void *row)
{
    return (const char *)row + field->offset;
}

/* Whether the field of two rows is the same, as it is printed. */
bool weir_conf_is_same(const weir_conf_t *conf, const weir_conf_field_t *field, const void *row, const void *other);

/* Defaults that depend on other fields: those of `row`, and of `outer`, the mapping that `row` is a part of (NULL: it
 * is none). Both are loaded as far as their fields stand before. */
void weir_conf_derive_burst(void *row, const void *outer);      /* quota.c; outer: the limit */
void weir_conf_derive_failures(void *row, const void *outer);   /* outer: the upstream */
void weir_conf_derive_first_byte(void *row, const void *outer); /* outer: the upstream */
void weir_conf_derive_forward(void *row, const void *outer);
void weir_conf_derive_host(void *row, const void *outer);
void weir_conf_derive_idle_timeout(void *row, const void *outer); /* outer: the upstream */
void weir_conf_derive_keep_responses(void *row, const void *outer);
void weir_conf_derive_max_response(void *row, const void *outer);
void weir_conf_derive_no_dedup(void *row, const void *outer);
void weir_conf_derive_retry_methods(void *row, const void *outer); /* outer: the upstream */
void weir_conf_derive_throttle(void *row, const void *outer);      /* outer: an upstream's breaker */

bool weir_conf_is_secret(const weir_conf_field_t *field); /* it is not shown, also not in errors */

#define TYPE(type) extern const weir_conf_type_t weir_conf_type_##type;
#include "fields/types.def"

#endif
