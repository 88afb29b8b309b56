#ifndef WEIR_FILTERS_REDIS_REDIS_RUNNING_H
#define WEIR_FILTERS_REDIS_REDIS_RUNNING_H

/* What runs on this sidecar, by owner, so that duplicates on all of its workers join its answer: as much as there are requests in
 * flight, and those that are done and Redis has not answered that yet. Thread-safe. */

#include <pthread.h>
#include "../stream.h"

typedef struct weir_redis_runner {
    struct weir_redis_runner *next;
    uint64_t owner;        /* a number that this sidecar gave once */
    weir_stream_t *stream; /* NULL: nobody reads it */
    bool is_in, is_done;
} weir_redis_runner_t;

typedef struct {
    bool is_in, is_done;
    weir_stream_t *stream; /* with a reference, or NULL */
} weir_redis_running_found_t;

enum { WEIR_REDIS_RUNNING_LINES = 1024, WEIR_REDIS_RUNNING_LOCKS = 16 };

typedef struct {
    pthread_mutex_t locks[WEIR_REDIS_RUNNING_LOCKS];
    weir_redis_runner_t *lines[WEIR_REDIS_RUNNING_LINES];
} weir_redis_running_t;

void weir_redis_running_init(weir_redis_running_t *running);
void weir_redis_running_dispose(weir_redis_running_t *running);

/* Takes over a reference of the stream, and gives it up in `remove`, which may be called for one that is not there. */
void weir_redis_running_add(weir_redis_running_t *running, weir_redis_runner_t *runner, uint64_t owner, weir_stream_t *stream);
void weir_redis_running_note_done(weir_redis_running_t *running, weir_redis_runner_t *runner);
void weir_redis_running_remove(weir_redis_running_t *running, weir_redis_runner_t *runner);
/* Nothing, where it does not run here (yet, or any more). */
weir_redis_running_found_t weir_redis_running_find(weir_redis_running_t *running, uint64_t owner);

#endif
