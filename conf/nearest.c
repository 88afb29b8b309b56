#include "load.h"
#include <string.h>

enum { NAME_BYTES_MAX = 64 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edits that make one of the other: insert, delete, replace, swap neighbours (Damerau and Levenshtein's, restricted). */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][NAME_BYTES_MAX + 1];
    size_t a_len = strnlen(a, NAME_BYTES_MAX), b_len = strnlen(b, NAME_BYTES_MAX);
    for (size_t k = 0; k <= b_len; ++k)
        rows[0][k] = k;
    for (size_t i = 1; i <= a_len; ++i) {
        size_t *row = rows[i % 3], *above = rows[(i - 1) % 3], *second_above = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t k = 1; k <= b_len; ++k) {
            row[k] = least(above[k - 1] + (a[i - 1] != b[k - 1]), least(above[k], row[k - 1]) + 1);
            if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1])
                row[k] = least(row[k], second_above[k - 2] + 1);
        }
    }
    return rows[a_len % 3][b_len];
}

const char *weir_conf_nearest(const char *name, const char *const *names, size_t count)
{
    const char *nearest = NULL;
    size_t nearest_edits = 0;
    for (size_t i = 0; i < count; ++i) {
        size_t edits = distance(name, names[i]);
        if (nearest == NULL || edits < nearest_edits) {
            nearest = names[i];
            nearest_edits = edits;
        }
    }
    return nearest;
}
