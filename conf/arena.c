#include "arena.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 16 * 1024, ALIGNMENT = 16 };

typedef struct chunk {
    struct chunk *next;
    size_t capacity, used;
    _Alignas(ALIGNMENT) char bytes[];
} chunk_t;

struct weir_conf_arena {
    chunk_t *chunks; /* the first is the one being filled */
    size_t bytes;
};

static void *must(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

static chunk_t *chunk_create(weir_conf_arena_t *arena, size_t capacity)
{
    chunk_t *chunk = must(calloc(1, sizeof(*chunk) + capacity));
    chunk->capacity = capacity;
    arena->bytes += sizeof(*chunk) + capacity;
    return chunk;
}

weir_conf_arena_t *weir_conf_arena_create(void)
{
    weir_conf_arena_t *arena = must(calloc(1, sizeof(*arena)));
    arena->chunks = chunk_create(arena, CHUNK_BYTES);
    return arena;
}

void weir_conf_arena_destroy(weir_conf_arena_t *arena)
{
    for (chunk_t *chunk = arena->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    free(arena);
}

void *weir_conf_arena_alloc(weir_conf_arena_t *arena, size_t size)
{
    size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (size > CHUNK_BYTES / 4) { /* one of its own, behind the one being filled */
        chunk_t *large = chunk_create(arena, size);
        large->used = size;
        large->next = arena->chunks->next;
        arena->chunks->next = large;
        return large->bytes;
    }
    if (arena->chunks->capacity - arena->chunks->used < size) {
        chunk_t *chunk = chunk_create(arena, CHUNK_BYTES);
        chunk->next = arena->chunks;
        arena->chunks = chunk;
    }
    void *memory = arena->chunks->bytes + arena->chunks->used;
    arena->chunks->used += size;
    return memory;
}

char *weir_conf_arena_copy(weir_conf_arena_t *arena, const char *text, size_t len)
{
    char *copy = weir_conf_arena_alloc(arena, len + 1);
    if (len != 0)
        memcpy(copy, text, len);
    return copy;
}

char *weir_conf_arena_vprintf(weir_conf_arena_t *arena, const char *format, va_list args)
{
    char *text;
    int len = vasprintf(&text, format, args);
    if (len < 0)
        abort();
    char *copy = weir_conf_arena_copy(arena, text, (size_t)len);
    free(text);
    return copy;
}

char *weir_conf_arena_printf(weir_conf_arena_t *arena, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = weir_conf_arena_vprintf(arena, format, args);
    va_end(args);
    return text;
}

size_t weir_conf_arena_bytes(const weir_conf_arena_t *arena)
{
    return arena->bytes;
}
