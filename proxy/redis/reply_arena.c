#include "reply_arena.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_BYTES = 4096, MORE_BYTES = 64 * 1024, ALIGNMENT = 16 };

struct weir_reply_chunk {
    weir_reply_chunk_t *older;
    size_t capacity;
    _Alignas(ALIGNMENT) char bytes[];
};

static weir_reply_chunk_t *add_chunk(weir_reply_arena_t *arena, size_t size)
{
    size_t usual = arena->newest == NULL ? FIRST_BYTES : MORE_BYTES, capacity = size > usual ? size : usual;
    weir_reply_chunk_t *chunk = malloc(sizeof(*chunk) + capacity);
    if (chunk == NULL)
        return NULL;
    chunk->older = arena->newest;
    chunk->capacity = capacity;
    arena->newest = chunk;
    arena->used = 0;
    return chunk;
}

static void *take(weir_reply_arena_t *arena, size_t size)
{
    weir_reply_chunk_t *chunk = arena->newest;
    size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (chunk == NULL || chunk->capacity - arena->used < size)
        chunk = add_chunk(arena, size);
    if (chunk == NULL)
        return NULL;
    void *bytes = &chunk->bytes[arena->used];
    arena->used += size;
    return bytes;
}

static redisReply *create(const redisReadTask *task, size_t more)
{
    redisReply *reply = take(task->privdata, sizeof(*reply) + more);
    if (reply == NULL)
        return NULL;
    memset(reply, 0, sizeof(*reply));
    reply->type = task->type;
    if (task->parent != NULL)
        ((redisReply *)task->parent->obj)->element[task->idx] = reply;
    return reply;
}

static void *create_string(const redisReadTask *task, char *text, size_t len)
{
    redisReply *reply = create(task, len + 1);
    if (reply == NULL)
        return NULL;
    reply->str = (char *)(reply + 1);
    reply->len = len;
    memcpy(reply->str, text, len);
    reply->str[len] = '\0';
    return reply;
}

static void *create_array(const redisReadTask *task, int count)
{
    size_t elements = count > 0 ? (size_t)count : 0;
    redisReply *reply = create(task, elements * sizeof(*reply->element));
    if (reply == NULL)
        return NULL;
    reply->element = (redisReply **)(reply + 1);
    reply->elements = elements;
    memset(reply->element, 0, elements * sizeof(*reply->element));
    return reply;
}

static void *create_integer(const redisReadTask *task, long long number)
{
    redisReply *reply = create(task, 0);
    if (reply != NULL)
        reply->integer = number;
    return reply;
}

static void *create_nil(const redisReadTask *task)
{
    return create(task, 0);
}

static void free_nothing(void *reply)
{
    (void)reply;
}

redisReader *weir_reply_arena_reader(weir_reply_arena_t *arena)
{
    static redisReplyObjectFunctions functions = {create_string, create_array, create_integer, create_nil, free_nothing};
    redisReader *reader = redisReaderCreateWithFunctions(&functions);
    if (reader != NULL)
        reader->privdata = arena;
    return reader;
}

void weir_reply_arena_reset(weir_reply_arena_t *arena)
{
    while (arena->newest != NULL && arena->newest->older != NULL) {
        weir_reply_chunk_t *chunk = arena->newest;
        arena->newest = chunk->older;
        free(chunk);
    }
    arena->used = 0;
}

void weir_reply_arena_dispose(weir_reply_arena_t *arena)
{
    weir_reply_arena_reset(arena);
    free(arena->newest);
    arena->newest = NULL;
}
