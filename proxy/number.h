#ifndef WEIR_PROXY_NUMBER_H
#define WEIR_PROXY_NUMBER_H

/* Numbers as text on a request's way, where printf is too slow. Not terminated; each returns how many bytes it wrote. */

#include <stddef.h>
#include <stdint.h>

enum { WEIR_NUMBER_BYTES_MAX = 20 };

size_t weir_number_decimal(char *out, uint64_t number);
size_t weir_number_hex(char *out, uint64_t number);
size_t weir_number_ipv4(char *out, const uint8_t address[4]); /* at most 15 */

#endif
