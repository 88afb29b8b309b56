#ifndef WEIR_PROXY_REDIS_LINK_H
#define WEIR_PROXY_REDIS_LINK_H

/* One connection to one Redis server (or Sentinel), on one worker's loop: opened, greeted (AUTH, SELECT, PING), kept open, opened
 * again after a pause that grows (50 ms doubling to 500 ms, with jitter; from the start again once it was open for a second).
 *
 *     CLOSED --> CONNECTING --> GREETING --> READY <--> STALLED
 *        ^____________|_____________|__________|___________|
 *
 * Commands of one turn go out in one write at its end; replies are matched in order, each to its command. A reply that is not
 * there by its command's deadline makes the link STALLED, as do 16 MiB that wait to be sent: nothing more should be sent. It is READY
 * again once nothing that is overdue is still out. One second in which no byte comes while a reply is overdue closes it, as do
 * ten in which no whole reply does, and one of connecting, or of greeting. What is no RESP2, was not asked for, or is longer than
 * `*reply_max` (reply_guard.h) closes it, too. A closed link tells every command LOST.
 *
 * All calls are made on the worker's thread, also from within on_reply and on_state. */

#include <hiredis/hiredis.h>
#include "../server.h"

typedef struct weir_redis_link weir_redis_link_t;

typedef enum { WEIR_REDIS_REPLIED, WEIR_REDIS_LOST } weir_redis_told_t;

/* Embedded in the sender's own; the link's from `send` until on_reply, which is called once, and may send it again or free it. */
typedef struct weir_redis_command {
    struct weir_redis_command *next;
    int64_t sent_ns, deadline_ns; /* from when it was written */
    bool is_late;                 /* its deadline passed before its reply came */
    const char *bytes; /* RESP; stay where they are until on_reply */
    size_t len;
    /* `reply` may be an error (REDIS_REPLY_ERROR), and lives until on_reply returns; NULL where it is LOST. Never from within
     * `send`, `flush` and `reconnect`. */
    void (*on_reply)(struct weir_redis_command *command, weir_redis_told_t told, const redisReply *reply);
} weir_redis_command_t;

typedef struct {
    weir_worker_t *worker;
    const char *address;  /* host:port, [v6]:port or unix:///path; copied */
    const char *username; /* NULL: none; these live as long as the link */
    const char *password;
    int64_t database;
    struct weir_tls_context *tls; /* NULL: plain */
    const _Atomic size_t *reply_max; /* may grow; lives as long as the link */
    /* It became READY, or is not any more: STALLED and CLOSED are both told, as is each time that it could not be opened. `why`
     * is a text for people that lives until it returns. Not from within a call of its own. */
    void (*on_state)(void *context, weir_redis_link_t *link, bool is_ready, const char *why);
    void *context;
} weir_redis_link_options_t;

weir_redis_link_t *weir_redis_link_create(const weir_redis_link_options_t *options); /* begins to connect */
/* Commands are told LOST first, within it; on_state is not called any more. */
void weir_redis_link_destroy(weir_redis_link_t *link);
bool weir_redis_link_is_ready(const weir_redis_link_t *link);
const char *weir_redis_link_address(const weir_redis_link_t *link);
/* Only while it is READY, or STALLED: what is about to be sent when it stalls need not be looked at again. */
void weir_redis_link_send(weir_redis_link_t *link, weir_redis_command_t *command, int64_t timeout_ns);
/* Closes it and connects anew at once: the server said that it is not the one to ask (READONLY, LOADING ...); after
 * a pause where it was so a moment ago. It is not READY from now on; its commands are told, and on_state with this text, in
 * one of the next turns. */
void weir_redis_link_reconnect(weir_redis_link_t *link, const char *why);
/* Writes what was sent in this turn: called by redis.c at the end of each turn of the worker. */
void weir_redis_link_flush(weir_redis_link_t *link);

/* RESP of an array of bulk strings: how many bytes it has; written where there is room for them, returning the same. */
size_t weir_redis_format_size(const weir_str_t *words, size_t count);
size_t weir_redis_format(char *into, const weir_str_t *words, size_t count);

#endif
