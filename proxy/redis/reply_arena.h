#ifndef WEIR_PROXY_REDIS_REPLY_ARENA_H
#define WEIR_PROXY_REDIS_REPLY_ARENA_H

/* Where hiredis' reader makes its replies: one piece of memory for one reply at a time, used again for the next one. */

#include <hiredis/hiredis.h>
#include <stddef.h>

typedef struct weir_reply_chunk weir_reply_chunk_t;

/* Zero at first. */
typedef struct {
    weir_reply_chunk_t *newest; /* the first one is kept */
    size_t used;                /* of the newest */
} weir_reply_arena_t;

/* What it makes are plain redisReply, to be read until `reset`, and not to be freed. NULL: there is no memory. */
redisReader *weir_reply_arena_reader(weir_reply_arena_t *arena);
/* The reader is between two replies, or gone. */
void weir_reply_arena_reset(weir_reply_arena_t *arena);
void weir_reply_arena_dispose(weir_reply_arena_t *arena);

#endif
