#ifndef WEIR_FILTERS_REDIS_REDIS_ROW_H
#define WEIR_FILTERS_REDIS_REDIS_ROW_H

/* A key of a limit as decide.lua, settle.lua and slots.lua are asked about it, and their arguments: seven for each row,
 *
 *     kind b (token bucket) | s (window by slots) | x (exact window) | c (concurrency), two numbers, three terms,
 * member
 *
 * in decide the numbers are its cost and whether it is a shadow, in settle what is given back and when it was charged.
 * The terms are of b count, period_us and burst; of s and x limit and window_us; of c limit and lease_us. */

#include "../memory_limit.h"
#include "../store.h"

enum {
    WEIR_REDIS_PREFIX_MAX = 64,
    WEIR_REDIS_ROW_NAME_MAX = 192, /* of a key: prefix, tag, the limit's name (64), kind and window */
    WEIR_REDIS_MEMBERS_MAX = 64,
    WEIR_REDIS_ARGS_MAX = 1 + WEIR_REDIS_MEMBERS_MAX,
};

#define WEIR_REDIS_SLOT_LEASE_NS INT64_C(30000000000)

typedef struct {
    weir_str_t name; /* of the key in Redis */
    weir_store_key_t tag;
    uint64_t id; /* of the member, on this sidecar; x and c */
    int64_t terms[3];
    char kind;
} weir_redis_row_t;

/* All but the name. */
void weir_redis_row_init(weir_redis_row_t *row, const weir_store_item_t *item, uint64_t id);
char weir_redis_row_kind(const weir_store_limit_t *limit);
/* Writes PREFIX{TAG}:l:LIMIT:KIND to `out`; returns its length. */
size_t weir_redis_row_name(char out[WEIR_REDIS_ROW_NAME_MAX], weir_str_t prefix, const weir_store_item_t *item);

typedef struct {
    size_t count;
    char *at;
    weir_str_t entries[WEIR_REDIS_ARGS_MAX];
    char text[WEIR_REDIS_ARGS_MAX * 34];
} weir_redis_args_t;

void weir_redis_args_init(weir_redis_args_t *args);
void weir_redis_args_put_number(weir_redis_args_t *args, int64_t number);
/* SIDECAR-ID, of 33 bytes at most. */
void weir_redis_args_put_member(weir_redis_args_t *args, uint64_t sidecar, uint64_t id);
void weir_redis_args_put_row(weir_redis_args_t *args, const weir_redis_row_t *row, uint64_t sidecar, int64_t first,
                             int64_t second);

#endif
