#ifndef WEIR_FILTERS_CORE_RETRY_AFTER_H
#define WEIR_FILTERS_CORE_RETRY_AFTER_H

/* What an upstream's Retry-After asks for (RFC 9110, 10.2.3): seconds, or a date in any of the three forms of 5.6.7.
 *
 *     120    Sun, 06 Nov 1994 08:49:37 GMT    Sunday, 06-Nov-94 08:49:37 GMT    Sun Nov  6 08:49:37 1994
 *
 * Guarantee: 0 <= result <= max_ns, whatever the bytes are. None, or anything else than these - a sign, a fraction, a
 * 30th of February - is 1 s. A date that has passed is 0; the name of its weekday must be one, and need not be right.
 * Of two digits, the year is the last one that is not more than 50 years ahead (5.6.7). Pure. */

#include <stddef.h>
#include <stdint.h>

#define WEIR_RETRY_AFTER_DEFAULT_NS INT64_C(1000000000)

/* text: the field's value, or NULL: there is none. wall_ns: since 1970-01-01 00:00:00 UTC, >= 0. max_ns >= 0. */
int64_t weir_retry_after_ns(const char *text, size_t len, int64_t wall_ns, int64_t max_ns);

#endif
