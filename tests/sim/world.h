#ifndef WEIR_TESTS_SIM_WORLD_H
#define WEIR_TESTS_SIM_WORLD_H

/* A configuration and its traffic, drawn from a seed, so that limits now admit and now refuse: up to hours of it, with
 * up to thousands of tenants, and every end that a request can have.
 *
 * A world is judged (judge.h), or else it is a rough one: workers' clocks differ, and configurations are reloaded, the
 * same or others. Whichever it is, in the end nothing may be left of anyone. */

#include "judge.h"

typedef struct {
    int64_t arrivals;
    bool is_crowded;     /* tables are too small for the keys that come; without queues */
    bool has_many_slots; /* most limits are of slots, and have a queue */
    bool is_rough;
} world_options_t;

typedef enum {
    WORLD_WHOLE,
    WORLD_CUT,
    WORLD_LOST,
    WORLD_NOT_RUN,
    WORLD_BODY_FAILED,
    WORLD_LEFT_IN_BODY,
    WORLD_LEFT_IN_QUEUE,
    WORLD_LEFT_CALLING,
    WORLD_LEFT_IN_ANSWER,
    WORLD_REFUSED,
    WORLD_QUEUE_FULL,
    WORLD_QUEUE_TIMEOUT,
    WORLD_ENDS,
} world_end_t;

typedef struct {
    judge_figures_t judged;
    size_t arrived, ends[WORLD_ENDS], reloads;
    double hours; /* of virtual time */
} world_figures_t;

/* Draws a world, runs it, and adds what happened to the figures. False: it failed, and `failure` says where. */
bool world_run(uint64_t seed, world_options_t options, world_figures_t *figures, char failure[700]);

#endif
