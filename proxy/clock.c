#include "clock.h"

#include <h2o.h>
#include <sys/time.h>
#include <time.h>

__thread int64_t weir_clock_turn_ns;

/* What the wall clock was ahead of the monotonic one when the process started. */
static int64_t wall_ahead_ns;

static int64_t read_ns(clockid_t clock)
{
    struct timespec at;
    clock_gettime(clock, &at);
    return at.tv_sec * INT64_C(1000000000) + at.tv_nsec;
}

__attribute__((constructor)) static void start(void)
{
    wall_ahead_ns = read_ns(CLOCK_REALTIME) - read_ns(CLOCK_MONOTONIC);
}

int64_t weir_clock_now_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

int64_t weir_clock_wall_ms(void)
{
    return read_ns(CLOCK_REALTIME) / 1000000;
}

/* In place of the C library's, for the loop's library, which reads it through its PLT. Not plain monotonic time: the
 * library takes what it reads for a date, too. */
__attribute__((visibility("default"))) int gettimeofday(struct timeval *restrict at, void *restrict zone)
{
    weir_clock_turn_ns = read_ns(CLOCK_MONOTONIC);
    int64_t us = (weir_clock_turn_ns + wall_ahead_ns) / 1000;
    at->tv_sec = us / 1000000;
    at->tv_usec = us % 1000000;
    return 0;
}

bool weir_clock_is_ours(void)
{
    int64_t turn_ns = weir_clock_turn_ns;
    weir_clock_turn_ns = 0;
    h2o_evloop_destroy(
        h2o_evloop_create()); /* reads the time once; costs one descriptor, as the library never closes it */
    bool ours = weir_clock_turn_ns != 0;
    if (!ours)
        weir_clock_turn_ns = turn_ns;
    return ours;
}
