#ifndef WEIR_FILTERS_REDIS_PAUSE_MEMBER_H
#define WEIR_FILTERS_REDIS_PAUSE_MEMBER_H

/* What a pause is called in Redis: 16 hex digits of the upstream, then 32 of its upstream, model and credential - the first
 * bits of SHA-256, the same on every sidecar that has the upstream by that name and url. Nobody can tell a credential
 * from it: what goes in is no more than a hash of 64 bits. */

#include "../core/key_table.h"
#include "../filter.h"

enum { WEIR_PAUSE_UPSTREAM_LEN = 16, WEIR_PAUSE_MEMBER_LEN = 48 };

uint64_t weir_pause_upstream(const char *name, const char *url); /* never 0 */
weir_key_t weir_pause_key(uint64_t upstream, weir_str_t model, uint64_t credential);

/* Without a 0 at the end. */
void weir_pause_upstream_write(char text[WEIR_PAUSE_UPSTREAM_LEN], uint64_t upstream);
void weir_pause_member_write(char text[WEIR_PAUSE_MEMBER_LEN], uint64_t upstream, weir_key_t key);
/* Of a text that begins with an upstream; false: it does not. */
bool weir_pause_upstream_read(weir_str_t text, uint64_t *upstream);
bool weir_pause_member_read(weir_str_t text, uint64_t *upstream, weir_key_t *key);

#endif
