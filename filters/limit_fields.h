#ifndef WEIR_FILTERS_LIMIT_FIELDS_H
#define WEIR_FILTERS_LIMIT_FIELDS_H

/* What a caller is told of his limits. Of those in requests (draft-ietf-httpapi-ratelimit-headers-09):
 *
 *   RateLimit-Policy: "NAME";q=100;w=60     quota, and the seconds in which it comes back: burst / rate, or the window
 *   RateLimit: "NAME";r=12;t=30             what remains, and the seconds until all is there again
 *
 * Both list the tightest limit first: the one with the smallest r/q. Seconds are rounded up. A rate of 0 has no w, and
 * its t is the hour after which it may be asked again; concurrency has neither. Of the tightest one in llm_tokens:
 *
 *   x-ratelimit-limit-tokens: 40000
 *   x-ratelimit-remaining-tokens: 38500     reservations count as used
 *   x-ratelimit-reset-tokens: 2.25s         as Go writes a duration, rounded up to ms
 *
 * unless the upstream's answer has them. */

#include "store.h"

enum { WEIR_LIMIT_NEVER_S = 3600 };

/* The constant text of a limit: `"NAME"`, and its policy. */
typedef struct {
    const weir_conf_limit_t *limit;
    char *name, *policy;
    uint32_t name_len, policy_len;
} weir_limit_text_t;

void weir_limit_text_init(weir_limit_text_t *text, const weir_conf_limit_t *limit); /* aborts when memory is short */
void weir_limit_text_dispose(weir_limit_text_t *text);

/* Adds the fields for items as they were answered, texts[i] being that of items[i]; shadow items are left out. */
void weir_limit_fields_add(const weir_store_item_t *items, const weir_limit_text_t *const *texts, size_t count,
                           weir_request_t *request, weir_answer_t *answer);

#endif
