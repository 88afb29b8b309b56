#ifndef WEIR_PROXY_CLOCK_H
#define WEIR_PROXY_CLOCK_H

/* One clock for everything: CLOCK_MONOTONIC, so that a step of the wall clock moves no timer.
 *
 * The loop's library reads gettimeofday() once or twice a turn; clock.c supplies that symbol (wall clock at start plus
 * what the monotonic clock has run since) and keeps the monotonic time of that reading for the thread. */

#include <stdbool.h>
#include <stdint.h>

/* Monotonic ns at this thread's last loop turn. Read it, never write it. */
extern __thread int64_t weir_clock_turn_ns;

int64_t weir_clock_now_ns(void);  /* read afresh, monotonic */
int64_t weir_clock_wall_ms(void); /* Unix time, read afresh: for logs and dates on the wire only */
/* Whether the library really calls our gettimeofday; checked at start. */
bool weir_clock_is_ours(void);

#endif
