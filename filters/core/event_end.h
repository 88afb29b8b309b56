#ifndef WEIR_FILTERS_CORE_EVENT_END_H
#define WEIR_FILTERS_CORE_EVENT_END_H

/* Whether a stream of server-sent events came to the end that its kind gives it; and where a stream that broke off can
 * be gone on with.
 *
 * Guarantee: what is told does not depend on how the bytes are cut; a stream that has ended stays so. Nothing is
 * buffered but one short token. The last event of
 *
 *   OpenAI chat and completions   has data that begins with [DONE]
 *   OpenAI responses              is JSON of the type response.completed, .incomplete, .failed, or error
 *   Anthropic messages            is JSON of the type message_stop, or error
 *
 * JSON is read to its end; the empty line behind the event, which many leave out of a stream's end, is not asked for.
 * The type is the one in the data, its first one: the event's name only repeats it. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "event_lines.h"
#include "json_scan.h"

typedef enum { WEIR_EVENT_END_DONE, WEIR_EVENT_END_RESPONSES, WEIR_EVENT_END_MESSAGES } weir_event_end_form_t;

/* May be copied, to ask what would be. */
typedef struct {
    bool has_ended;
    /* its own */
    uint8_t form;
    uint8_t event;   /* what is known of the one that is being read */
    uint8_t matched; /* bytes of [DONE] */
    bool is_type;    /* the next value is the outermost object's `type` */
    weir_event_lines_t lines;
    weir_json_scan_t scan;
} weir_event_end_t;

void weir_event_end_init(weir_event_end_t *end, weir_event_end_form_t form);
void weir_event_end_feed(weir_event_end_t *end, const char *bytes, size_t len);

/* The last bytes of a stream; all 0 at its start. */
typedef struct {
    char bytes[3];
    uint8_t len;
} weir_event_tail_t;

void weir_event_tail_add(weir_event_tail_t *tail, const char *bytes, size_t len);
/* Whether no event is unfinished: nothing came yet, or an empty line was the last. */
bool weir_event_tail_is_between(const weir_event_tail_t *tail);

#endif
