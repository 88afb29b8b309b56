/* What is said of something wrong, and where. */

#include "load.h"
#include <stdint.h>
#include <string.h>

enum { NAME_BYTES_MAX = 64 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edits that make one of the other: insert, delete, replace, swap neighbours (Damerau and Levenshtein's, restricted).
 */
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

void weir_conf_fail(weir_conf_load_t *load, const weir_conf_node_t *node, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    weir_conf_errors_vadd(&load->errors, node->place, weir_conf_node_path(node, load->scratch), format, args);
    va_end(args);
}

void weir_conf_fail_key(weir_conf_load_t *load, const weir_conf_node_t *node, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    weir_conf_errors_vadd(&load->errors, node->key_place, weir_conf_node_path(node, load->scratch), format, args);
    va_end(args);
}

void weir_conf_fail_missing(weir_conf_load_t *load, const weir_conf_node_t *mapping, const char *key,
                            const char *format, ...)
{
    weir_conf_node_t missing = {.key = key, .parent = mapping};
    va_list args;
    va_start(args, format);
    weir_conf_errors_vadd(&load->errors, mapping->place, weir_conf_node_path(&missing, load->scratch), format, args);
    va_end(args);
}

void weir_conf_fail_value(weir_conf_load_t *load, const weir_conf_node_t *node, const char *what, const char *right)
{
    if (node->kind == WEIR_CONF_SCALAR)
        weir_conf_fail(load, node, "'%s' is not %s; %s",
                       weir_conf_errors_show(load->scratch, node->hidden ? node->written : node->text), what, right);
    else
        weir_conf_fail(load, node, "a %s is not %s; %s", node->kind == WEIR_CONF_MAPPING ? "mapping" : "list", what,
                       right);
}

void weir_conf_fail_unknown(weir_conf_load_t *load, const weir_conf_node_t *node, const char *const *names,
                            size_t count)
{
    weir_conf_fail_key(load, node, "is unknown here; the nearest field is '%s'",
                       weir_conf_nearest(node->key, names, count));
}

size_t weir_conf_find_name(weir_conf_load_t *load, const weir_conf_node_t *node, bool at_key, const char *name,
                           const char *what, const char *section, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (strcmp(names[i], name) == 0)
            return i;
    void (*fail)(weir_conf_load_t *, const weir_conf_node_t *, const char *, ...) =
        at_key ? weir_conf_fail_key : weir_conf_fail;
    const char *shown = weir_conf_errors_show(load->scratch, node->hidden && !at_key ? node->written : name);
    const char *nearest = weir_conf_nearest(name, names, count);
    if (nearest != NULL)
        fail(load, node, "'%s' is not %s; the nearest is '%s'", shown, what, nearest);
    else
        fail(load, node, "'%s' is not %s; there are none yet: write them under %s", shown, what, section);
    return SIZE_MAX;
}
