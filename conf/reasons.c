#include "reasons.h"

static const struct {
    const char *word;
    const char *title;
    int status;
} rows[WEIR_REASON_COUNT] = {
    [WEIR_REASON_NONE] = {"", "", 0},
#define REASON(id, word, status, title) [WEIR_REASON_##id] = {#word, title, status},
#include "reasons.def"
#undef REASON
};

const char *weir_reason_word(weir_reason_t reason)
{
    return rows[reason].word;
}

const char *weir_reason_title(weir_reason_t reason)
{
    return rows[reason].title;
}

int weir_reason_status(weir_reason_t reason)
{
    return rows[reason].status;
}
