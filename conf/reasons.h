#ifndef WEIR_CONF_REASONS_H
#define WEIR_CONF_REASONS_H

/* Why weir itself ended a request: the words of headers, log and metrics, one row each in reasons.def. */

typedef enum {
    WEIR_REASON_NONE,
#define REASON(id, word, status, title) WEIR_REASON_##id,
#include "reasons.def"
#undef REASON
    WEIR_REASON_COUNT
} weir_reason_t;

const char *weir_reason_word(weir_reason_t reason); /* "" for NONE */
const char *weir_reason_title(weir_reason_t reason);
int weir_reason_status(weir_reason_t reason);

#endif
