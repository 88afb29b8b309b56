#include "body.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_CAPACITY = 1024 };

weir_body_t *weir_body_create(weir_worker_t *worker, uint64_t declared)
{
    weir_body_t *body = h2o_mem_alloc_recycle(&worker->recycle.body, sizeof(*body));
    *body = (weir_body_t){.declared = declared, .references = 1, .worker = worker};
    return body;
}

void weir_body_acquire(weir_body_t *body)
{
    ++body->references;
}

static void free_bytes(weir_body_t *body)
{
    if (body->capacity == 0)
        return;
    weir_server_buffer_release(body->worker->server, body->capacity);
    free(body->bytes);
    body->bytes = NULL;
    body->capacity = 0;
}

void weir_body_release(weir_body_t *body)
{
    if (--body->references != 0)
        return;
    free_bytes(body);
    h2o_mem_free_recycle(&body->worker->recycle.body, body);
}

/* Doubles, but never beyond what was declared. */
static uint64_t next_capacity(const weir_body_t *body, uint64_t needed)
{
    uint64_t capacity = body->capacity == 0 ? FIRST_CAPACITY : body->capacity * 2;
    if (capacity < needed)
        capacity = needed;
    if (body->declared != UINT64_MAX && capacity > body->declared - body->offset)
        capacity = body->declared - body->offset;
    return capacity;
}

bool weir_body_append(weir_body_t *body, const char *bytes, size_t len)
{
    if (body->let_go || len == 0) {
        body->size += len;
        return true;
    }
    uint64_t kept = body->size - body->offset;
    if (kept + len > body->capacity) {
        uint64_t capacity = next_capacity(body, kept + len);
        if (!weir_server_buffer_reserve(body->worker->server, capacity - body->capacity))
            return false;
        body->bytes = h2o_mem_realloc(body->bytes, capacity);
        body->capacity = capacity;
    }
    memcpy(body->bytes + kept, bytes, len);
    body->size += len;
    return true;
}

void weir_body_note_read(weir_body_t *body, uint64_t read)
{
    body->read = read;
    if (body->let_go || body->whole || body->size <= WEIR_BODY_KEPT_BYTES || read == body->offset)
        return;
    memmove(body->bytes, body->bytes + (read - body->offset), body->size - read);
    body->offset = read;
}

void weir_body_want_whole(weir_body_t *body)
{
    body->whole = true;
    if (!body->complete && body->resume != NULL)
        body->resume(body);
}

void weir_body_let_go(weir_body_t *body)
{
    body->let_go = true;
    body->read = body->size;
    free_bytes(body);
    if (!body->complete && body->resume != NULL)
        body->resume(body);
}

uint64_t weir_body_size_out(const weir_body_t *body, const weir_splices_t *splices)
{
    uint64_t size = body->size;
    for (size_t i = 0; i < splices->count; ++i)
        size += splices->entries[i].insert.len - splices->entries[i].removed;
    return size;
}

static weir_str_t run_of(const weir_body_t *body, uint64_t from, uint64_t to)
{
    return (weir_str_t){body->bytes + (from - body->offset), to - from};
}

weir_str_t weir_body_run_out(const weir_body_t *body, const weir_splices_t *splices, uint64_t position)
{
    uint64_t from = 0, out = 0; /* what was read of the body so far, and what that came to */
    for (size_t i = 0; i < splices->count; ++i) {
        const weir_splice_t *splice = &splices->entries[i];
        uint64_t before = splice->at - from;
        if (position < out + before)
            return run_of(body, from + (position - out), splice->at);
        out += before;
        if (position < out + splice->insert.len)
            return (weir_str_t){splice->insert.base + (position - out), splice->insert.len - (position - out)};
        out += splice->insert.len;
        from = splice->at + splice->removed;
    }
    return run_of(body, from + (position - out), body->size);
}
