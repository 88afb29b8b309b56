#ifndef WEIR_TESTS_UNIT_FILTERS_REDIS_REMOTED_H
#define WEIR_TESTS_UNIT_FILTERS_REDIS_REMOTED_H

/* A remote that writes down what it is asked; the test answers, in any order, late, or not at all. After cmocka.h. */

#include <stdlib.h>
#include <string.h>
#include "../../../../filters/redis/remote.h"

enum { REMOTED_ASKS_MAX = 4096, REMOTED_WORDS_MAX = 72 };

typedef struct {
    weir_script_t script;
    char *keys[REMOTED_WORDS_MAX], *args[REMOTED_WORDS_MAX];
    size_t lens[REMOTED_WORDS_MAX]; /* of args */
    size_t key_count, arg_count, worker;
    bool is_open;
    void (*on_end)(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns);
    void *context;
} remoted_ask_t;

typedef struct {
    weir_remote_t remote; /* first */
    bool is_down;
    size_t worker;
    uint64_t chance;
    remoted_ask_t asks[REMOTED_ASKS_MAX];
    size_t count; /* that were ever asked; an ask keeps its number */
    void (*on_wake)(weir_ticket_t ticket);
} remoted_t;

static inline bool remoted_is_up(weir_remote_t *remote)
{
    return !((remoted_t *)remote)->is_down;
}

static inline char *remoted_copy(weir_str_t text)
{
    char *copy = malloc(text.len + 1);
    memcpy(copy, text.base, text.len);
    copy[text.len] = '\0';
    return copy;
}

static inline void remoted_drop(remoted_ask_t *ask)
{
    for (size_t i = 0; i < ask->key_count; ++i)
        free(ask->keys[i]);
    for (size_t i = 0; i < ask->arg_count; ++i)
        free(ask->args[i]);
    ask->key_count = ask->arg_count = 0;
}

static inline bool remoted_ask(weir_remote_t *remote, const weir_remote_ask_t *asked)
{
    remoted_t *self = (remoted_t *)remote;
    if (self->is_down)
        return false;
    assert_true(asked->timeout_ns > 0);
    assert_true(asked->key_count <= REMOTED_WORDS_MAX && asked->arg_count <= REMOTED_WORDS_MAX);
    remoted_ask_t *ask = &self->asks[self->count++ % REMOTED_ASKS_MAX];
    assert_false(ask->is_open);
    remoted_drop(ask);
    *ask = (remoted_ask_t){.script = asked->script,
                           .key_count = asked->key_count,
                           .arg_count = asked->arg_count,
                           .worker = self->worker,
                           .is_open = true,
                           .on_end = asked->on_end,
                           .context = asked->context};
    for (size_t i = 0; i < ask->key_count; ++i)
        ask->keys[i] = remoted_copy(asked->keys[i]);
    for (size_t i = 0; i < ask->arg_count; ++i) {
        ask->args[i] = remoted_copy(asked->args[i]);
        ask->lens[i] = asked->args[i].len;
    }
    return true;
}

static inline void remoted_wake(weir_remote_t *remote, weir_ticket_t ticket)
{
    ((remoted_t *)remote)->on_wake(ticket);
}

static inline size_t remoted_worker(weir_remote_t *remote)
{
    return ((remoted_t *)remote)->worker;
}

static inline remoted_t *remoted_create(uint64_t sidecar, void (*on_wake)(weir_ticket_t ticket))
{
    remoted_t *self = calloc(1, sizeof(*self));
    self->remote = (weir_remote_t){.is_up = remoted_is_up,
                                   .ask = remoted_ask,
                                   .wake = remoted_wake,
                                   .worker = remoted_worker,
                                   .workers = 3,
                                   .sidecar = sidecar,
                                   .sidecars = 1};
    self->on_wake = on_wake;
    return self;
}

static inline remoted_ask_t *remoted_of(remoted_t *self, size_t number)
{
    assert_true(number < self->count && self->count - number <= REMOTED_ASKS_MAX);
    return &self->asks[number % REMOTED_ASKS_MAX];
}

/* The newest one. */
static inline remoted_ask_t *remoted_last(remoted_t *self)
{
    return remoted_of(self, self->count - 1);
}

static inline size_t remoted_open(const remoted_t *self)
{
    size_t count = 0;
    for (size_t i = 0; i < REMOTED_ASKS_MAX; ++i)
        count += self->asks[i].is_open;
    return count;
}

static inline void remoted_end(remoted_t *self, remoted_ask_t *ask, weir_remote_told_t told, const weir_remote_value_t *value,
                               int64_t now_ns)
{
    assert_true(ask->is_open);
    ask->is_open = false;
    self->worker = ask->worker;
    if (ask->on_end != NULL)
        ask->on_end(ask->context, told, value, now_ns);
}

static inline void remoted_destroy(remoted_t *self)
{
    for (size_t i = 0; i < REMOTED_ASKS_MAX; ++i)
        remoted_drop(&self->asks[i]);
    free(self);
}

/* --- what it answers --- */

static inline weir_remote_value_t remoted_text(const char *text)
{
    return (weir_remote_value_t){.kind = WEIR_REMOTE_TEXT, .text = {text, strlen(text)}};
}

static inline weir_remote_value_t remoted_integer(int64_t integer)
{
    return (weir_remote_value_t){.kind = WEIR_REMOTE_INTEGER, .integer = integer};
}

#define REMOTED_NIL ((weir_remote_value_t){.kind = WEIR_REMOTE_NIL})
#define REMOTED_LIST(...)                                                                                                        \
    ((weir_remote_value_t){.kind = WEIR_REMOTE_LIST,                                                                             \
                           .entries = (weir_remote_value_t[]){__VA_ARGS__},                                                      \
                           .size = sizeof((weir_remote_value_t[]){__VA_ARGS__}) / sizeof(weir_remote_value_t)})

#endif
