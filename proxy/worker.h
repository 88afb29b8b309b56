#ifndef WEIR_PROXY_WORKER_H
#define WEIR_PROXY_WORKER_H

/* A worker's life: made, started on a thread of its own (or, for control, run on the caller's), stopped, destroyed.
 *
 * What a worker owns is made and freed on the thread that runs it: the library keeps buffers of its own for each
 * thread. Nobody may post to a worker after it was told to stop: its queue is gone. */

#include "server.h"

weir_worker_t *weir_worker_create(weir_server_t *server, h2o_globalconf_t *config, size_t index, bool is_control);

/* Starts the thread; returns when it takes messages. False when there can be no thread. */
bool weir_worker_start(weir_worker_t *worker) __attribute__((warn_unused_result));
/* For control: the same on the caller's thread, in three steps. */
void weir_worker_open(weir_worker_t *worker);
void weir_worker_run(weir_worker_t *worker); /* until stopped */
void weir_worker_close(weir_worker_t *worker);

void weir_worker_stop(weir_worker_t *worker); /* the last message; from any thread */
/* The same, in the middle of whatever it has: nothing is freed, the process ends. */
void weir_worker_halt(weir_worker_t *worker);
/* Lets the thread end, which was told to, and waits for it. */
void weir_worker_join(weir_worker_t *worker);
bool weir_worker_join_for_a_second(weir_worker_t *worker); /* false: it has not ended */
void weir_worker_destroy(weir_worker_t *worker);

#endif
