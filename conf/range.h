#ifndef WEIR_CONF_RANGE_H
#define WEIR_CONF_RANGE_H

#include <stdint.h>
#include <stdio.h>

/* Writes a regular expression (ECMA 262) that matches exactly the decimal numbers from `min` to `max`, both not
 * negative, without leading zeros: 8 to 120 is `[8-9]|[1-9][0-9]|1[0-1][0-9]|120`. */
void weir_conf_range_write(FILE *out, int64_t min, int64_t max);

#endif
