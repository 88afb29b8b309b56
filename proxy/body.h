#ifndef WEIR_PROXY_BODY_H
#define WEIR_PROXY_BODY_H

/* A request's body, as it comes: one block of bytes, kept until the call that sends it lets it go, so that a try can be
 * made again - but of a body that grows beyond WEIR_BODY_KEPT_BYTES only what is not sent yet. Shared by the connection
 * that fills it and the call that sends it, by reference count, on one thread. Its capacity is counted in
 * server.max_buffered. */

#include "server.h"

typedef struct weir_body {
    char *bytes;       /* from `offset` on */
    uint64_t offset;   /* 0 while all of it is kept */
    uint64_t size;     /* of the body so far */
    uint64_t capacity;
    uint64_t declared;    /* Content-Length; UINT64_MAX for chunked */
    bool complete;        /* all of it is here */
    weir_reason_t failed; /* it will never be complete: MALFORMED, BODY_TOO_LARGE, OVERLOADED, TIMEOUT_CLIENT, CLIENT_GONE */
    bool whole;           /* all of it is kept, and read as fast as it comes */
    bool let_go;          /* nobody wants the bytes any more: what comes is thrown away */
    size_t references;
    weir_worker_t *worker;
    /* Who fills it; NULL once that is gone or all is here. Goes on reading after the reader's `wanted` was met. */
    void (*resume)(struct weir_body *body);
    void *filler;
    /* Who reads it: more bytes, complete, or failed. NULL: nobody yet. */
    void (*on_progress)(struct weir_body *body);
    void *reader;
    uint64_t read; /* how far the reader is; the filler stops WEIR_BODY_AHEAD_BYTES ahead of it */
} weir_body_t;

enum { WEIR_BODY_AHEAD_BYTES = 256 * 1024, WEIR_BODY_KEPT_BYTES = 1024 * 1024 };

weir_body_t *weir_body_create(weir_worker_t *worker, uint64_t declared);
void weir_body_acquire(weir_body_t *body);
void weir_body_release(weir_body_t *body);
/* Adds bytes; false when they do not fit max_buffered. */
bool weir_body_append(weir_body_t *body, const char *bytes, size_t len) __attribute__((warn_unused_result));
/* Notes how far the reader is; what lies before is given up if the body is a large one. */
void weir_body_note_read(weir_body_t *body, uint64_t read);
/* All of it is wanted before it goes anywhere: nothing is given up, and nobody waits for its reader. */
void weir_body_want_whole(weir_body_t *body);
/* The bytes are not needed any more, nor are those that still come. */
void weir_body_let_go(weir_body_t *body);

/* A change to a body on its way out: `removed` bytes at `at` become `insert`. */
typedef struct {
    uint64_t at, removed;
    weir_str_t insert; /* lives as long as the call */
} weir_splice_t;

enum { WEIR_SPLICES_MAX = 3 };

/* In ascending order, apart from each other; only of a body that is complete and whole. */
typedef struct {
    size_t count;
    weir_splice_t entries[WEIR_SPLICES_MAX];
} weir_splices_t;

/* How long the body is as it goes out. */
uint64_t weir_body_size_out(const weir_body_t *body, const weir_splices_t *splices);
/* The bytes that go out from `position` on, up to the next border of a splice or the end of what is here. */
weir_str_t weir_body_run_out(const weir_body_t *body, const weir_splices_t *splices, uint64_t position);

#endif
