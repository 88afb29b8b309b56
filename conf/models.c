/* Models: their names at an upstream, and which of them a route is for. */

#include <string.h>
#include "conf.h"

/* As strcmp of the name, in which a NUL may stand, and `other`. */
static int compare(const char *model, size_t len, const char *other)
{
    size_t other_len = strlen(other);
    int order = memcmp(model, other, len < other_len ? len : other_len);
    return order != 0 ? order : (len > other_len) - (len < other_len);
}

const char *weir_conf_model_name(const weir_conf_upstream_t *upstream, const char *model, size_t len)
{
    size_t low = 0, high = len > 0 ? upstream->models.size : 0;
    while (low != high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(model, len, upstream->models.entries[middle].from);
        if (order == 0)
            return upstream->models.entries[middle].to;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static bool matches(const char *pattern, const char *model, size_t len)
{
    size_t pattern_len = strlen(pattern);
    if (pattern[pattern_len - 1] == '*')
        return len >= pattern_len - 1 && memcmp(model, pattern, pattern_len - 1) == 0;
    if (*pattern == '*')
        return len >= pattern_len - 1 && memcmp(model + len - (pattern_len - 1), pattern + 1, pattern_len - 1) == 0;
    return len == pattern_len && memcmp(model, pattern, len) == 0;
}

bool weir_conf_model_matches(const weir_conf_strings_t *patterns, const char *model, size_t len)
{
    for (size_t i = 0; i < patterns->size; ++i)
        if (matches(patterns->entries[i], model, len))
            return true;
    return patterns->size == 0;
}
