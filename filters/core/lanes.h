#ifndef WEIR_FILTERS_CORE_LANES_H
#define WEIR_FILTERS_CORE_LANES_H

/* Who waits for the slots of one limit: a line for each of its keys, three lanes in each line.
 *
 * Guarantee: at most `size` wait, over all lines; a tenant's are at most `per_tenant` of them. The next of a line is
 * the oldest of its most urgent lane that is not empty, but that of any WEIR_LANES_LOWEST grants of a line in a row one
 * goes to its lowest lane that is not empty: the n-th in background waits for n * WEIR_LANES_LOWEST grants at most.
 *
 * Nobody is kept out by another's backlog: a full queue takes a newcomer in place of the newest waiter, in his lowest
 * lane, of the tenant that has the most - if that is at least two more than the newcomer's tenant has. Where that gives
 * no room, and for a tenant at his share, a newcomer takes the place of his own tenant's newest waiter of a lower lane.
 * All in constant time, but that a grant passes over those whose own limit does not admit them.
 *
 * A waiter is the caller's memory and stays in its lane until it is granted, displaced or leaves; state tells. The
 * caller locks: lanes and all their lines under one lock. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { WEIR_LANE_URGENT, WEIR_LANE_NORMAL, WEIR_LANE_BACKGROUND, WEIR_LANES } weir_lane_t;

enum { WEIR_LANES_LOWEST = 16 };

typedef enum { WEIR_WAITER_OUT, WEIR_WAITER_WAITING, WEIR_WAITER_GRANTED, WEIR_WAITER_DISPLACED } weir_waiter_state_t;

typedef struct weir_lanes weir_lanes_t;
typedef struct weir_line weir_line_t;

typedef struct weir_waiter {
    /* the caller's, before weir_lanes_enter */
    uint64_t tenant_low, tenant_high; /* a hash of the tenant's name */
    weir_lane_t lane;
    int64_t limit; /* of the slots of its key that may be in use, itself with them */
    weir_waiter_state_t state;
    /* of lanes.c */
    struct weir_waiter *before, *after;               /* in its lane */
    struct weir_waiter *tenant_before, *tenant_after; /* among its tenant's of that lane */
    struct weir_lane_tenant *tenant;
    weir_line_t *line;
} weir_waiter_t;

weir_lanes_t *weir_lanes_create(size_t size, size_t per_tenant); /* aborts when memory is short */
void weir_lanes_destroy(weir_lanes_t *lanes);                    /* nobody waits */
/* Those who wait already stay: while they are over the new size, newcomers come in only in place of others. */
void weir_lanes_resize(weir_lanes_t *lanes, size_t size, size_t per_tenant);

/* Puts the waiter into the line, which is made when *line is NULL; false: there is no room. *displaced: who gave way
 * for it (state DISPLACED, out of its line, which may be empty now), or NULL. */
bool weir_lanes_enter(weir_lanes_t *lanes, weir_line_t **line, weir_waiter_t *waiter, weir_waiter_t **displaced);
/* Takes the next one out whose limit is over `used`, and sets it GRANTED; NULL: there is none (nor is there a line). */
weir_waiter_t *weir_lanes_grant(weir_lanes_t *lanes, weir_line_t *line, int64_t used);
/* Takes a waiting one out. */
void weir_lanes_leave(weir_lanes_t *lanes, weir_waiter_t *waiter);

/* A line is its owner's (a row of the limit's table), who frees it, empty, when he likes. Whoever keeps others from
 * entering may ask without the lanes' lock: an empty line stays empty then. */
bool weir_line_is_empty(const weir_line_t *line); /* NULL is */
void weir_line_free(weir_line_t *line);           /* empty, or NULL */

size_t weir_lanes_depth(const weir_lanes_t *lanes, weir_lane_t lane);
/* Visits those who wait in a line, in no order; who is visited may leave, or be given another limit. */
void weir_line_each(weir_line_t *line, void (*visit)(weir_waiter_t *waiter, void *data), void *data);

#endif
