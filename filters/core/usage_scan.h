#ifndef WEIR_FILTERS_CORE_USAGE_SCAN_H
#define WEIR_FILTERS_CORE_USAGE_SCAN_H

/* The tokens that a provider says an answer used, read from the answer as it passes: JSON, or server-sent events
 * (WHATWG HTML, 9.2) with JSON in their data.
 *
 * Guarantee: the result does not depend on how the bytes are cut; nothing is buffered but one short token. Of a number
 * that comes more than once - Anthropic's counts are cumulative - the largest one counts, once. JSON that breaks counts
 * up to there, and spoils no other event; one byte order mark before it is skipped.
 *
 *   OpenAI chat, completions, embeddings: usage.{prompt_tokens, completion_tokens, prompt_tokens_details.cached_tokens}
 *   OpenAI responses: [response.]usage.{input_tokens, output_tokens, input_tokens_details.cached_tokens}
 *   Anthropic messages: [message.]usage.{input_tokens, output_tokens, cache_read_input_tokens,
 *                                        cache_creation_input_tokens}
 *
 * What message_start says of output_tokens does not count: it is of the beginning, and message_delta says it again.
 * OpenAI's input counts contain the cached ones, Anthropic's do not: here they never do. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "event_lines.h"
#include "json_scan.h"

typedef enum { WEIR_USAGE_OPENAI, WEIR_USAGE_ANTHROPIC } weir_usage_form_t;
typedef enum { WEIR_USAGE_JSON, WEIR_USAGE_EVENTS } weir_usage_framing_t;

typedef struct {
    int64_t input, cached, cache_write, output; /* -1: not said; at most 2^53 */
} weir_usage_counts_t;

typedef struct {
    weir_usage_form_t form;
    weir_usage_framing_t framing;
    weir_usage_counts_t counts; /* as the provider counts: OpenAI's input with the cached ones */
    uint64_t text_bytes;        /* of generated text that passed, as written, each string at its end */
    /* its own */
    weir_json_scan_t scan;
    weir_event_lines_t lines;
    weir_json_result_t result; /* of the framing JSON's one value */
    uint8_t matched;           /* bytes of the byte order mark that may stand before it */
    bool only_deltas;          /* count as text: the event's other strings repeat them */
    uint8_t member;            /* which known one's value comes next */
    uint8_t places[5];         /* where the object of each depth stands, as far as a count can be */
} weir_usage_scan_t;

void weir_usage_scan_init(weir_usage_scan_t *usage, weir_usage_form_t form, weir_usage_framing_t framing);
void weir_usage_scan_feed(weir_usage_scan_t *usage, const char *bytes, size_t len);
/* What is known by now, input without cached and cache_write; false: the provider said nothing of input and output. A
 * count that alone is missing is -1. */
bool weir_usage_scan_tell(const weir_usage_scan_t *usage, weir_usage_counts_t *counts);
/* Of generated text, with what came of a string that has not ended: what an estimate goes by where no count comes. It
 * never becomes less. */
uint64_t weir_usage_scan_text_bytes(const weir_usage_scan_t *usage);
/* The framing is JSON, and what came is none, nor the beginning of it. */
bool weir_usage_scan_is_broken(const weir_usage_scan_t *usage);

#endif
