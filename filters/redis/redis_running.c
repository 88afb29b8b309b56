#include "redis_running.h"

#include <assert.h>

static weir_redis_runner_t **line_of(weir_redis_running_t *running, uint64_t owner)
{
    return &running->lines[owner % WEIR_REDIS_RUNNING_LINES];
}

static pthread_mutex_t *lock_of(weir_redis_running_t *running, uint64_t owner)
{
    return &running->locks[owner % WEIR_REDIS_RUNNING_LOCKS];
}

void weir_redis_running_init(weir_redis_running_t *running)
{
    *running = (weir_redis_running_t){.lines = {NULL}};
    for (size_t i = 0; i < WEIR_REDIS_RUNNING_LOCKS; ++i)
        pthread_mutex_init(&running->locks[i], NULL);
}

void weir_redis_running_dispose(weir_redis_running_t *running)
{
    for (size_t i = 0; i < WEIR_REDIS_RUNNING_LOCKS; ++i)
        pthread_mutex_destroy(&running->locks[i]);
}

void weir_redis_running_add(weir_redis_running_t *running, weir_redis_runner_t *runner, uint64_t owner, weir_stream_t *stream)
{
    weir_redis_runner_t **line = line_of(running, owner);
    assert(!runner->is_in);
    *runner = (weir_redis_runner_t){.owner = owner, .stream = stream, .is_in = true};
    pthread_mutex_lock(lock_of(running, owner));
    runner->next = *line;
    *line = runner;
    pthread_mutex_unlock(lock_of(running, owner));
}

void weir_redis_running_note_done(weir_redis_running_t *running, weir_redis_runner_t *runner)
{
    pthread_mutex_lock(lock_of(running, runner->owner));
    runner->is_done = true;
    pthread_mutex_unlock(lock_of(running, runner->owner));
}

void weir_redis_running_remove(weir_redis_running_t *running, weir_redis_runner_t *runner)
{
    if (!runner->is_in)
        return;
    pthread_mutex_lock(lock_of(running, runner->owner));
    weir_redis_runner_t **link = line_of(running, runner->owner);
    while (*link != runner)
        link = &(*link)->next;
    *link = runner->next;
    pthread_mutex_unlock(lock_of(running, runner->owner));
    if (runner->stream != NULL)
        weir_stream_release(runner->stream);
    runner->stream = NULL;
    runner->is_in = false;
}

weir_redis_running_found_t weir_redis_running_find(weir_redis_running_t *running, uint64_t owner)
{
    weir_redis_running_found_t found = {.stream = NULL};
    pthread_mutex_lock(lock_of(running, owner));
    weir_redis_runner_t *runner = *line_of(running, owner);
    while (runner != NULL && runner->owner != owner)
        runner = runner->next;
    if (runner != NULL)
        found = (weir_redis_running_found_t){.is_in = true,
                                             .is_done = runner->is_done,
                                             .stream = runner->stream != NULL ? weir_stream_acquire(runner->stream) : NULL};
    pthread_mutex_unlock(lock_of(running, owner));
    return found;
}
