#ifndef WEIR_FILTERS_CORE_PAUSES_H
#define WEIR_FILTERS_CORE_PAUSES_H

/* Who of one upstream is paused after a 429 or 529, and until when: a small table by key, a hash of model and
 * credential.
 *
 * Guarantee: of a key's pauses the one that ends last holds; nobody is paused who was not told so, nor for longer.
 * While at most WEIR_PAUSES_MAX keys are paused at once, none is lost. Beyond that the pause that ends first is - the
 * new one, if that is it: its model and credential are tried before their time, and the 429 that this brings pauses
 * them anew. What is over takes no room.
 *
 * While nobody is paused, to ask takes one comparison; else it goes over WEIR_PAUSES_MAX keys at most. Constant size; a
 * state of 0 pauses nobody, so that is how all are let go. Time is the caller's, in ns, and >= 0. The caller locks. */

#include <stdbool.h>
#include <stdint.h>
#include "key_table.h"

enum { WEIR_PAUSES_MAX = 128 };

typedef struct {
    weir_key_t key;
    int64_t until_ns;
} weir_pause_t;

typedef struct {
    int64_t latest_ns; /* nobody is paused from then on */
    uint32_t count;    /* of the table, over or not */
    weir_pause_t pauses[WEIR_PAUSES_MAX];
} weir_pauses_t;

/* False: there was no room, and a pause was lost. ns >= 0. */
bool weir_pauses_pause(weir_pauses_t *pauses, weir_key_t key, int64_t ns, int64_t now_ns);
/* How much longer the key is paused; 0: it is not. */
int64_t weir_pauses_left_ns(const weir_pauses_t *pauses, weir_key_t key, int64_t now_ns);
/* How much longer anybody is; 0: nobody is. */
int64_t weir_pauses_longest_left_ns(const weir_pauses_t *pauses, int64_t now_ns);
uint32_t weir_pauses_count(const weir_pauses_t *pauses, int64_t now_ns); /* keys that are paused */

#endif
