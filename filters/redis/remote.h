#ifndef WEIR_FILTERS_REDIS_REMOTE_H
#define WEIR_FILTERS_REDIS_REMOTE_H

/* The port to the server that keeps the fleet's state: scripts (scripts.def, one .lua file each) that run there one at a
 * time, all or nothing, and what they answer. proxy/redis/redis.c is behind it; in unit tests a table is.
 *
 * Every function is called on a worker's thread (or control's) and concerns that thread's own connections: no locks. What
 * is asked in one turn of the loop goes out together at its end. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "../filter.h"

typedef enum {
#define SCRIPT(name) WEIR_SCRIPT_##name,
#include "scripts.def"
#undef SCRIPT
    WEIR_SCRIPTS
} weir_script_t;

/* Generated at build time from the .lua files, in the order of scripts.def. */
typedef struct {
    const char *name; /* decide */
    const char *text;
    size_t len;
} weir_script_text_t;
extern const weir_script_text_t weir_script_texts[WEIR_SCRIPTS];

typedef enum { WEIR_REMOTE_NIL, WEIR_REMOTE_INTEGER, WEIR_REMOTE_TEXT, WEIR_REMOTE_LIST } weir_remote_kind_t;

/* Lives until on_end returns. */
typedef struct weir_remote_value {
    weir_remote_kind_t kind;
    int64_t integer;
    weir_str_t text;
    const struct weir_remote_value *entries;
    size_t size;
} weir_remote_value_t;

typedef enum {
    WEIR_REMOTE_ANSWERED,
    WEIR_REMOTE_REFUSED, /* an error came: the script did nothing */
    WEIR_REMOTE_LOST,    /* nobody knows whether it ran */
} weir_remote_told_t;

typedef struct {
    weir_script_t script;
    const weir_str_t *keys; /* whole names, prefix and all; where `one_slot`, all with the same {tag} */
    size_t key_count;
    const weir_str_t *args;
    size_t arg_count;
    int64_t timeout_ns; /* later than that the connection is taken for stalled, and is_up is false until it has answered */
    /* Once, on this thread, never from within `ask`; late answers come, too. `value` is NULL but where it ANSWERED. NULL: nobody
     * wants to know. */
    void (*on_end)(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns);
    void *context;
} weir_remote_ask_t;

typedef struct weir_remote weir_remote_t;
struct weir_remote {
    /* Whether to ask now: connected, and nothing is overdue. */
    bool (*is_up)(weir_remote_t *remote);
    /* False: it is not up, nothing is sent, and on_end is not called. keys and args are copied. */
    bool (*ask)(weir_remote_t *remote, const weir_remote_ask_t *ask);
    /* The ticket's request, which is of this thread, asks its chain again, now: from within on_end and on_tick alone. */
    void (*wake)(weir_remote_t *remote, weir_ticket_t ticket);
    size_t (*worker)(weir_remote_t *remote); /* this thread's number: below `workers` */
    size_t workers;           /* control is the last one */
    uint64_t sidecar;         /* this one's name, drawn at start; never 0 */
    bool one_slot;            /* a cluster: the keys of one ask stand in one slot */
    _Atomic uint32_t sidecars; /* alive in the last 30 s, as far as is known; at least 1 */
    /* The store's, set before the workers run: called some ten times a second on each thread. */
    void (*on_tick)(void *context, size_t worker, int64_t now_ns);
    /* The same: what it still has to say that must not be lost, on this thread: a worker that is to end waits for it. */
    size_t (*owed)(void *context, size_t worker);
    void *tick_context;
};

#endif
