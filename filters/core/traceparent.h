#ifndef WEIR_FILTERS_CORE_TRACEPARENT_H
#define WEIR_FILTERS_CORE_TRACEPARENT_H

/* The traceparent field of W3C Trace Context (level 1, 3.2; level 2 reads the same):
 *
 *     version "-" trace-id "-" parent-id "-" flags        00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
 *
 * Guarantee: what is valid has a trace id of 32 lower-case hex digits at WEIR_TRACE_ID_AT, not all of them 0. Pure. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WEIR_TRACEPARENT_LENGTH = 55, WEIR_TRACE_ID_AT = 3, WEIR_TRACE_ID_LENGTH = 32 };

/* Version 00 exactly; of a later one only what 00 has too, and whatever follows it after a `-` (3.2.4). */
bool weir_traceparent_is_valid(const char *text, size_t len);

/* A new trace, sampled. Two traces are the same only if their randomness is. No NUL is written. */
void weir_traceparent_write(char text[WEIR_TRACEPARENT_LENGTH], const uint64_t random[2]);

#endif
