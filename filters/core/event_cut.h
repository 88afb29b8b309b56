#ifndef WEIR_FILTERS_CORE_EVENT_CUT_H
#define WEIR_FILTERS_CORE_EVENT_CUT_H

/* Takes the usage chunk, which weir asked for and the caller did not, out of an OpenAI chat or completions stream: the
 * event whose data has a `usage` object and an empty `choices`.
 *
 * Guarantee: every other byte goes on unchanged and in order, and which do does not depend on the cuts; what is held
 * back is one unfinished event, at most WEIR_EVENT_HELD_MAX bytes - a longer event goes on as it is - and nothing once
 * it is known to be another one: its choices are not empty, its usage is no object, or it is not a JSON object.
 * Comments before an event's first field are not held. */

#include <stddef.h>

enum { WEIR_EVENT_HELD_MAX = 64 * 1024 };

typedef struct weir_event_cut weir_event_cut_t;

weir_event_cut_t *weir_event_cut_create(void); /* aborts when memory is short */
void weir_event_cut_destroy(weir_event_cut_t *cut);
/* The next bytes in; what goes on now out: a part of `bytes`, or memory of its own until the next feed. */
void weir_event_cut_feed(weir_event_cut_t *cut, const char *bytes, size_t len, const char **out, size_t *out_len);
/* No more bytes: what is still held goes on. What the last feed gave stays valid. */
void weir_event_cut_end(weir_event_cut_t *cut, const char **out, size_t *out_len);

#endif
