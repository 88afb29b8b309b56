#ifndef WEIR_PROXY_WORDS_H
#define WEIR_PROXY_WORDS_H

/* The configuration's words as text: weir_word_algorithm(WEIR_LIMIT_TOKEN_BUCKET) is "token_bucket". */

#include <stddef.h>
#include "../conf/conf.h"
#include "../filters/core/lanes.h"

#define WORDS(type)                                                        \
    static inline const char *weir_word_##type(weir_conf_##type##_t value) \
    {                                                                      \
        switch (value) {
#define WORD(id, word) \
    case id:           \
        return #word;
#define WORDS_END(type) \
    }                   \
    return NULL;        \
    }
#include "../conf/fields/words.def"

static inline const char *weir_word_lane(weir_lane_t lane)
{
    static const char *const words[WEIR_LANES] = {"urgent", "normal", "background"};
    return words[lane];
}

#endif
