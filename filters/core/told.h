#ifndef WEIR_FILTERS_CORE_TOLD_H
#define WEIR_FILTERS_CORE_TOLD_H

/* What a caller is told of a limit. */

#include <stdint.h>

typedef struct {
    int64_t remaining;
    int64_t reset_ns;       /* until all is there again; -1: never */
    int64_t retry_after_ns; /* until the cost that was asked about fits if nobody else comes, and not 1 ns before; 0:
                               it does; -1: never */
} weir_told_t;

#endif
