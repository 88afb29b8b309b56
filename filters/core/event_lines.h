#ifndef WEIR_FILTERS_CORE_EVENT_LINES_H
#define WEIR_FILTERS_CORE_EVENT_LINES_H

/* A stream of server-sent events (WHATWG HTML, 9.2.5 and 9.2.6) taken apart, pushed in pieces of any size.
 *
 * Guarantee: what each byte is does not depend on how the bytes are cut; only the size of parts does. Lines end with
 * LF, CRLF or CR; one byte order mark at the start is skipped. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    WEIR_EVENT_PART_OTHER,     /* fields' names, other fields, the ends of lines */
    WEIR_EVENT_PART_COMMENT,   /* with the end of its line */
    WEIR_EVENT_PART_DATA,      /* of a data field's value */
    WEIR_EVENT_PART_NEXT_DATA, /* begins another data field of the event: between their values stands a line feed */
    WEIR_EVENT_PART_END,       /* ends the event: the empty line, but for the LF of a CRLF */
    WEIR_EVENT_PART_TAIL,      /* that LF */
} weir_event_part_t;

typedef struct {
    /* its own; all 0 at the start */
    uint8_t state;
    uint8_t matched;  /* bytes of what the line may begin with */
    uint8_t line_end; /* behind a CR: which part an LF is */
    bool has_data;    /* the event has a data field */
} weir_event_lines_t;

/* How many of the bytes, at least one, are the next part, and which one. len is not 0. */
size_t weir_event_lines_next(weir_event_lines_t *lines, const char *bytes, size_t len, weir_event_part_t *part);

#endif
