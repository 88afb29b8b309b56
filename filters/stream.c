#include "stream.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Bytes stand in a line of segments; the writer fills the last one. A reader stands in one of them and holds what is
 * from there on; one that was cut off holds only the segments that it was shown last, each by a pin, whether they are
 * in the line still or not. While the stream is kept nothing goes; then what stands before the last reader does, and
 * all of it where there is none. */
typedef struct segment {
    struct segment *next;
    size_t size, used;
    size_t readers; /* that stand in it */
    size_t pins;
    bool is_out; /* of the line */
    char bytes[];
} segment_t;

struct weir_stream {
    _Atomic size_t references;
    weir_stream_account_t *account;
    weir_store_teller_t teller;
    int64_t max_bytes;
    pthread_mutex_t lock;
    /* under the lock */
    char *head;
    size_t head_len;
    segment_t *first, *last;
    int64_t front, total; /* positions: of what stands first, and behind the last byte */
    int64_t charged;
    weir_stream_state_t state;
    weir_stream_end_t end;
    bool is_kept; /* from the first byte on */
    weir_stream_reader_t *readers, *waiters;
    size_t reader_count, waiter_count; /* waiters are readers; who was cut off is none */
    bool writer_waits;
    int64_t writer_max;
    weir_ticket_t writer;
};

enum { SEGMENT_BYTES_MIN = 64, SEGMENT_BYTES_MAX = 16384, FEW = 32 };

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* --- the account --- */

static bool reserve(weir_stream_account_t *account, int64_t bytes)
{
    int64_t taken = atomic_load_explicit(&account->bytes, memory_order_relaxed);
    do {
        if (taken > atomic_load_explicit(&account->max_bytes, memory_order_relaxed) - bytes)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&account->bytes, &taken, taken + bytes, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

static bool reserve_or_make_room(weir_stream_account_t *account, int64_t bytes)
{
    if (reserve(account, bytes))
        return true;
    if (account->make_room == NULL)
        return false;
    account->make_room(account->context, bytes);
    return reserve(account, bytes);
}

static void credit(weir_stream_t *stream, int64_t bytes)
{
    stream->charged -= bytes;
    atomic_fetch_sub_explicit(&stream->account->bytes, bytes, memory_order_relaxed);
}

/* --- readers' places; all under the lock --- */

static void unlist(weir_stream_reader_t *reader)
{
    *reader->link = reader->next;
    if (reader->next != NULL)
        reader->next->link = reader->link;
    reader->link = NULL;
}

static void enlist(weir_stream_reader_t **list, weir_stream_reader_t *reader)
{
    reader->next = *list;
    if (reader->next != NULL)
        reader->next->link = &reader->next;
    *list = reader;
    reader->link = list;
}

static void set_waits(weir_stream_t *stream, weir_stream_reader_t *reader, bool waits)
{
    if (reader->waits == waits)
        return;
    reader->waits = waits;
    stream->waiter_count += waits ? 1 : (size_t)-1;
    unlist(reader);
    enlist(waits ? &stream->waiters : &stream->readers, reader);
}

static void stand_in(weir_stream_reader_t *reader, segment_t *segment)
{
    segment_t *before = reader->segment;
    if (before != NULL)
        --before->readers;
    if (segment != NULL)
        ++segment->readers;
    reader->segment = segment;
}

/* Over what was read of its segment, and of those behind it. */
static void go_on(weir_stream_reader_t *reader)
{
    segment_t *segment = reader->segment;
    while (segment != NULL && segment->next != NULL && reader->offset >= segment->used) {
        reader->offset -= segment->used;
        segment = segment->next;
    }
    stand_in(reader, segment);
}

/* --- what goes; all under the lock --- */

static void free_segment(weir_stream_t *stream, segment_t *segment)
{
    credit(stream, (int64_t)(sizeof(*segment) + segment->size));
    free(segment);
}

static void unpin(weir_stream_t *stream, weir_stream_reader_t *reader)
{
    segment_t *segment = reader->segment;
    for (size_t i = 0; i != reader->shown; ++i) {
        segment_t *next = segment->next; /* pinned as well, or not looked at */
        if (--segment->pins == 0 && segment->is_out)
            free_segment(stream, segment);
        segment = next;
    }
    reader->shown = 0;
    reader->segment = NULL;
}

static void drop_first(weir_stream_t *stream)
{
    segment_t *segment = stream->first;
    stream->front += (int64_t)segment->used;
    stream->first = segment->next;
    if (stream->first == NULL)
        stream->last = NULL;
    segment->is_out = true;
    if (segment->pins == 0)
        free_segment(stream, segment);
}

static int64_t fastest_position(const weir_stream_t *stream)
{
    int64_t position = 0;
    for (int i = 0; i != 2; ++i)
        for (const weir_stream_reader_t *reader = i == 0 ? stream->readers : stream->waiters; reader != NULL;
             reader = reader->next)
            position = reader->position > position ? reader->position : position;
    return position;
}

static void cut(weir_stream_t *stream, weir_stream_reader_t *reader)
{
    segment_t *segment = reader->segment;
    unlist(reader);
    --stream->reader_count;
    reader->is_cut = true;
    if (segment == NULL)
        return;
    --segment->readers;
    for (size_t i = 0; i != reader->shown; ++i, segment = segment->next)
        ++segment->pins;
}

/* Who waits has read all, and is the fastest. */
static int64_t slack_of(const weir_stream_t *stream)
{
    return stream->max_bytes > WEIR_STREAM_SLACK_MIN ? stream->max_bytes : WEIR_STREAM_SLACK_MIN;
}

static void cut_slow_readers(weir_stream_t *stream)
{
    int64_t slack = slack_of(stream);
    if (stream->front > stream->total - slack)
        return;
    int64_t fastest = fastest_position(stream);
    for (weir_stream_reader_t *reader = stream->readers, *next; reader != NULL; reader = next) {
        next = reader->next;
        if (fastest - reader->position > slack)
            cut(stream, reader);
    }
}

/* What nobody will read any more. */
static void drop_front(weir_stream_t *stream)
{
    if (stream->is_kept)
        return;
    cut_slow_readers(stream);
    while (stream->first != NULL && stream->first->readers == 0)
        drop_first(stream);
}

static void give_up_keeping(weir_stream_t *stream)
{
    stream->is_kept = false;
    drop_front(stream);
}

/* --- who is told; outside the lock --- */

static void tell(const weir_stream_t *stream, weir_ticket_t ticket)
{
    stream->teller.tell(stream->teller.context, ticket);
}

static void unlock_and_tell_waiters(weir_stream_t *stream)
{
    size_t count = stream->waiter_count;
    weir_ticket_t few[FEW], *tickets = count <= FEW ? few : checked(malloc(count * sizeof(*tickets)));
    for (size_t i = 0; i != count; ++i) {
        tickets[i] = stream->waiters->ticket;
        set_waits(stream, stream->waiters, false);
    }
    pthread_mutex_unlock(&stream->lock);
    for (size_t i = 0; i != count; ++i)
        tell(stream, tickets[i]);
    if (tickets != few)
        free(tickets);
}

static void unlock_and_tell_writer(weir_stream_t *stream, bool is_near)
{
    weir_ticket_t writer = stream->writer;
    bool is_told = stream->writer_waits && is_near;
    stream->writer_waits &= !is_told;
    pthread_mutex_unlock(&stream->lock);
    if (is_told)
        tell(stream, writer);
}

/* --- its life --- */

weir_stream_t *weir_stream_create(weir_stream_account_t *account, int64_t max_bytes, weir_store_teller_t teller)
{
    weir_stream_t *stream = checked(calloc(1, sizeof(*stream)));
    stream->references = 1;
    stream->account = account;
    stream->teller = teller;
    stream->max_bytes = max_bytes;
    stream->is_kept = true;
    stream->charged = (int64_t)sizeof(*stream);
    atomic_fetch_add_explicit(&account->bytes, stream->charged, memory_order_relaxed);
    pthread_mutex_init(&stream->lock, NULL);
    return stream;
}

weir_stream_t *weir_stream_acquire(weir_stream_t *stream)
{
    atomic_fetch_add_explicit(&stream->references, 1, memory_order_relaxed);
    return stream;
}

void weir_stream_release(weir_stream_t *stream)
{
    if (atomic_fetch_sub_explicit(&stream->references, 1, memory_order_acq_rel) != 1)
        return;
    while (stream->first != NULL)
        drop_first(stream);
    credit(stream, stream->charged);
    pthread_mutex_destroy(&stream->lock);
    free(stream->head);
    free(stream);
}

/* --- the writer --- */

/* Takes it of the account, by force if need be: then the stream is not kept. */
static void charge(weir_stream_t *stream, int64_t bytes, bool has_room)
{
    if (!has_room) {
        give_up_keeping(stream);
        atomic_fetch_add_explicit(&stream->account->bytes, bytes, memory_order_relaxed);
    }
    stream->charged += bytes;
}

void weir_stream_begin_with(weir_stream_t *stream, void *head, size_t len)
{
    bool has_room = reserve_or_make_room(stream->account, (int64_t)len);
    pthread_mutex_lock(&stream->lock);
    assert(stream->head == NULL && stream->state == WEIR_STREAM_OPEN);
    charge(stream, (int64_t)len, has_room);
    stream->head = head;
    stream->head_len = len;
    unlock_and_tell_waiters(stream);
}

void weir_stream_begin(weir_stream_t *stream, const void *head, size_t len)
{
    char *copy = checked(malloc(len + 1));
    memcpy(copy, head, len);
    weir_stream_begin_with(stream, copy, len);
}

/* Each twice as large as the one before, or as `len` where that is more. */
static size_t segment_size(const segment_t *before, size_t len)
{
    size_t size = before != NULL ? before->size * 2 : SEGMENT_BYTES_MIN;
    size = size > len ? size : len;
    return size < SEGMENT_BYTES_MAX ? size : SEGMENT_BYTES_MAX;
}

static segment_t *create_segment(size_t size)
{
    segment_t *segment = checked(malloc(sizeof(*segment) + size));
    *segment = (segment_t){.size = size};
    return segment;
}

/* The first one that there is: readers that came before it stand there. */
static void place_readers(weir_stream_t *stream)
{
    for (int i = 0; i != 2; ++i)
        for (weir_stream_reader_t *reader = i == 0 ? stream->readers : stream->waiters; reader != NULL;
             reader = reader->next)
            stand_in(reader, stream->first);
}

static void link_segment(weir_stream_t *stream, segment_t *segment)
{
    bool is_first = stream->last == NULL;
    *(is_first ? &stream->first : &stream->last->next) = segment;
    stream->last = segment;
    if (is_first)
        place_readers(stream);
}

static bool has_room(const weir_stream_t *stream)
{
    return stream->last != NULL && stream->last->used != stream->last->size;
}

/* Some of it; 0: the last segment is full. */
static size_t fill(weir_stream_t *stream, const char *bytes, size_t len)
{
    if (!has_room(stream))
        return 0;
    segment_t *last = stream->last;
    size_t room = last->size - last->used, filled = len < room ? len : room;
    memcpy(last->bytes + last->used, bytes, filled);
    last->used += filled;
    stream->total += (int64_t)filled;
    return filled;
}

static bool is_wanted(const weir_stream_t *stream)
{
    return stream->is_kept || stream->reader_count != 0;
}

/* The writer alone adds segments; readers may drop them, but not the last one while one of them is there. */
static void append_segment(weir_stream_t *stream, size_t len)
{
    size_t size = segment_size(stream->last, len);
    int64_t bytes = (int64_t)(sizeof(segment_t) + size);
    pthread_mutex_unlock(&stream->lock);
    segment_t *segment = create_segment(size);
    bool has_room = reserve_or_make_room(stream->account, bytes);
    pthread_mutex_lock(&stream->lock);
    charge(stream, bytes, has_room);
    if (is_wanted(stream))
        link_segment(stream, segment);
    else
        free_segment(stream, segment);
}

void weir_stream_append(weir_stream_t *stream, const char *bytes, size_t len)
{
    pthread_mutex_lock(&stream->lock);
    assert(stream->head != NULL && stream->state == WEIR_STREAM_OPEN);
    stream->is_kept = stream->is_kept && (int64_t)len <= stream->max_bytes - stream->total;
    while (len != 0 && is_wanted(stream)) {
        size_t filled = fill(stream, bytes, len);
        if (filled == 0)
            append_segment(stream, len);
        bytes += filled;
        len -= filled;
    }
    stream->total += (int64_t)len; /* nobody will read it */
    drop_front(stream);
    unlock_and_tell_waiters(stream);
}

void weir_stream_end(weir_stream_t *stream, weir_stream_state_t state, weir_stream_end_t end)
{
    pthread_mutex_lock(&stream->lock);
    assert(stream->state == WEIR_STREAM_OPEN && state != WEIR_STREAM_OPEN);
    stream->state = state;
    stream->end = end;
    stream->writer_waits = false;
    unlock_and_tell_waiters(stream);
}

int64_t weir_stream_ahead(weir_stream_t *stream, int64_t max, weir_ticket_t writer)
{
    pthread_mutex_lock(&stream->lock);
    int64_t ahead = stream->reader_count != 0 ? stream->total - fastest_position(stream) : 0;
    stream->writer_waits = ahead > max;
    stream->writer_max = max;
    stream->writer = writer;
    pthread_mutex_unlock(&stream->lock);
    return ahead;
}

static int64_t slowest_position(const weir_stream_t *stream)
{
    int64_t position = stream->total;
    for (const weir_stream_reader_t *reader = stream->readers; reader != NULL; reader = reader->next) /* who waits has read all */
        position = reader->position < position ? reader->position : position;
    return position;
}

bool weir_stream_leaves_behind(weir_stream_t *stream, weir_ticket_t writer)
{
    int64_t slack = slack_of(stream);
    pthread_mutex_lock(&stream->lock);
    bool leaves_behind = !stream->is_kept && stream->total - slowest_position(stream) > slack / 2;
    if (leaves_behind) {
        stream->writer_waits = true;
        stream->writer_max = slack;
        stream->writer = writer;
    }
    pthread_mutex_unlock(&stream->lock);
    return leaves_behind;
}

/* --- readers --- */

bool weir_stream_join(weir_stream_t *stream, weir_stream_reader_t *reader, weir_ticket_t ticket)
{
    *reader = (weir_stream_reader_t){.ticket = ticket};
    pthread_mutex_lock(&stream->lock);
    bool is_kept = stream->is_kept;
    if (is_kept) {
        reader->stream = weir_stream_acquire(stream);
        enlist(&stream->readers, reader);
        stand_in(reader, stream->first);
        ++stream->reader_count;
    }
    pthread_mutex_unlock(&stream->lock);
    return is_kept;
}

static void show_runs(weir_stream_reader_t *reader, weir_stream_view_t *view)
{
    size_t offset = reader->offset;
    for (const segment_t *segment = reader->segment; segment != NULL && view->run_count != WEIR_STREAM_RUNS_MAX;
         segment = segment->next) {
        if (segment->used != offset)
            view->runs[view->run_count++] = (weir_str_t){segment->bytes + offset, segment->used - offset};
        offset = 0;
    }
    reader->shown = view->run_count;
}

static bool shows_all(const weir_stream_t *stream, const weir_stream_reader_t *reader, const weir_stream_view_t *view)
{
    int64_t end = reader->position;
    for (size_t i = 0; i != view->run_count; ++i)
        end += (int64_t)view->runs[i].len;
    return end == stream->total;
}

void weir_stream_look(weir_stream_reader_t *reader, weir_stream_view_t *view)
{
    weir_stream_t *stream = reader->stream;
    pthread_mutex_lock(&stream->lock);
    view->head = stream->head;
    view->head_len = stream->head_len;
    view->state = stream->state;
    view->end = stream->end;
    view->total = stream->total;
    view->run_count = 0;
    view->is_all = false;
    view->is_cut = reader->is_cut;
    if (!reader->is_cut) {
        go_on(reader);
        show_runs(reader, view);
        view->is_all = stream->state != WEIR_STREAM_OPEN && shows_all(stream, reader, view);
        set_waits(stream, reader, stream->state == WEIR_STREAM_OPEN && view->run_count == 0);
    }
    pthread_mutex_unlock(&stream->lock);
}

void weir_stream_went_on(weir_stream_reader_t *reader, size_t bytes)
{
    weir_stream_t *stream = reader->stream;
    pthread_mutex_lock(&stream->lock);
    if (reader->is_cut) {
        unpin(stream, reader);
    } else {
        reader->position += (int64_t)bytes;
        reader->offset += bytes;
        assert(reader->position <= stream->total);
        reader->shown = 0;
        go_on(reader);
        drop_front(stream);
    }
    unlock_and_tell_writer(stream, !reader->is_cut && stream->total - reader->position <= stream->writer_max / 2);
}

static void leave(weir_stream_t *stream, weir_stream_reader_t *reader)
{
    set_waits(stream, reader, false);
    unlist(reader);
    stand_in(reader, NULL);
    --stream->reader_count;
    drop_front(stream);
}

void weir_stream_leave(weir_stream_reader_t *reader)
{
    weir_stream_t *stream = reader->stream;
    if (stream == NULL)
        return;
    pthread_mutex_lock(&stream->lock);
    if (reader->is_cut)
        unpin(stream, reader);
    else
        leave(stream, reader);
    unlock_and_tell_writer(stream, stream->reader_count == 0);
    reader->stream = NULL;
    weir_stream_release(stream);
}

int64_t weir_stream_behind(const weir_stream_reader_t *reader)
{
    weir_stream_t *stream = reader->stream;
    pthread_mutex_lock(&stream->lock);
    int64_t behind = stream->total - reader->position;
    pthread_mutex_unlock(&stream->lock);
    return behind;
}

/* --- as a kept answer --- */

bool weir_stream_has_head(weir_stream_t *stream)
{
    pthread_mutex_lock(&stream->lock);
    bool has_head = stream->head != NULL;
    pthread_mutex_unlock(&stream->lock);
    return has_head;
}

bool weir_stream_is_whole(weir_stream_t *stream)
{
    pthread_mutex_lock(&stream->lock);
    bool is_whole = stream->is_kept && stream->state == WEIR_STREAM_DONE;
    pthread_mutex_unlock(&stream->lock);
    return is_whole;
}

int64_t weir_stream_bytes(weir_stream_t *stream)
{
    pthread_mutex_lock(&stream->lock);
    int64_t bytes = stream->charged;
    pthread_mutex_unlock(&stream->lock);
    return bytes;
}

size_t weir_stream_readers(weir_stream_t *stream)
{
    pthread_mutex_lock(&stream->lock);
    size_t count = stream->reader_count;
    pthread_mutex_unlock(&stream->lock);
    return count;
}
