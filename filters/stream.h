#ifndef WEIR_FILTERS_STREAM_H
#define WEIR_FILTERS_STREAM_H

/* An answer that several callers read while it is written, and later ones read again: one writer, any number of
 * readers, each at its own pace, on any thread.
 *
 *     OPEN --> DONE      it is whole
 *       |----> BROKEN    it broke off after its head
 *       '----> LOST      there was none; whoever waits for it asks again
 *
 * Guarantee: every reader gets the same bytes, in order, from the first one, or learns that it cannot. Nobody waits for
 * a reader but for the fastest: one that is more than `max_bytes` (WEIR_STREAM_SLACK_MIN at least) behind that is cut
 * off, and holds no more than what it was shown last. The writer learns how far it is ahead of the fastest, and of
 * nobody else. All of it is kept up to `max_bytes` and as long as the account it is on has room; beyond that only what
 * readers have not read, and nobody can join any more: only this may take more than the account has. What was read is
 * const: readers send straight from it. */

#include "store.h"

typedef struct weir_stream weir_stream_t;

/* What the answers of one dedup take together; 0 at first. */
typedef struct {
    _Atomic int64_t bytes, max_bytes;
    /* Asks for room for `bytes` more: answers that are done and nobody reads may go. Called without locks. May be NULL.
     */
    void (*make_room)(void *context, int64_t bytes);
    void *context;
} weir_stream_account_t;

typedef enum { WEIR_STREAM_OPEN, WEIR_STREAM_DONE, WEIR_STREAM_BROKEN, WEIR_STREAM_LOST } weir_stream_state_t;

typedef struct {
    weir_reason_t reason; /* BROKEN, LOST: why */
    const char *detail;   /* static text, or NULL */
    bool is_unknown;      /* LOST: the request had been sent */
} weir_stream_end_t;

/* One reference. The account outlives it, and the teller. */
weir_stream_t *weir_stream_create(weir_stream_account_t *account, int64_t max_bytes, weir_store_teller_t teller);
weir_stream_t *weir_stream_acquire(weir_stream_t *stream);
void weir_stream_release(weir_stream_t *stream);

/* --- the writer: one thread at a time --- */

/* The answer's head, once, as the writer encodes it; copied, or taken over where it is malloc'ed. */
void weir_stream_begin_with(weir_stream_t *stream, void *head, size_t len);
void weir_stream_begin(weir_stream_t *stream, const void *head, size_t len);
void weir_stream_append(weir_stream_t *stream, const char *bytes, size_t len);
void weir_stream_end(weir_stream_t *stream, weir_stream_state_t state, weir_stream_end_t end);
/* Bytes that the fastest reader has not read; 0 where nobody reads. When there are more than `max`, the ticket is told
 * once they are no more than half of it. */
int64_t weir_stream_ahead(weir_stream_t *stream, int64_t max, weir_ticket_t writer);
/* Whether a reader is half as far behind as those are who are cut off; the ticket is told when one has come nearer. */
bool weir_stream_leaves_behind(weir_stream_t *stream, weir_ticket_t writer);

/* --- readers --- */

typedef struct weir_stream_reader {
    weir_stream_t *stream; /* NULL: it reads none; holds a reference */
    /* the stream's */
    struct weir_stream_reader *next, **link;
    void *segment; /* where it is */
    size_t offset; /* in that */
    int64_t position;
    size_t shown; /* segments that it was shown and has not gone over */
    weir_ticket_t ticket;
    bool waits, is_cut;
} weir_stream_reader_t;

enum { WEIR_STREAM_RUNS_MAX = 8, WEIR_STREAM_SLACK_MIN = 256 * 1024 };

/* What there is to read now. */
typedef struct {
    const void *head; /* NULL: not there yet; lives as long as the stream */
    size_t head_len;
    weir_str_t runs[WEIR_STREAM_RUNS_MAX]; /* live until the reader went on */
    size_t run_count;
    bool is_all; /* nothing is behind the runs: the state is not OPEN */
    bool is_cut; /* this reader was too slow, and gets no more */
    weir_stream_state_t state;
    weir_stream_end_t end;
    int64_t total; /* of the body; what is known so far */
} weir_stream_view_t;

/* Begins at the first byte; false: that is not kept any more. Reader's memory stays where it is until `leave`. */
bool weir_stream_join(weir_stream_t *stream, weir_stream_reader_t *reader, weir_ticket_t ticket)
    __attribute__((warn_unused_result));
/* Where there is nothing new (no head yet, or no bytes and it is OPEN) the ticket is told when there is: once, and not
 * for bytes that a look has shown meanwhile. */
void weir_stream_look(weir_stream_reader_t *reader, weir_stream_view_t *view);
void weir_stream_went_on(weir_stream_reader_t *reader, size_t bytes);
void weir_stream_leave(weir_stream_reader_t *reader); /* its reference too; of one that reads none, nothing */

int64_t weir_stream_behind(const weir_stream_reader_t *reader); /* bytes that it has not read */
bool weir_stream_has_head(weir_stream_t *stream);

/* --- as a kept answer --- */

/* Whether all of it is here to be read again. */
bool weir_stream_is_whole(weir_stream_t *stream);
int64_t weir_stream_bytes(weir_stream_t *stream); /* that it takes of its account */
size_t weir_stream_readers(weir_stream_t *stream);

#endif
