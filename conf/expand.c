/* ${NAME}, ${NAME:-default}, ${file:/path} and $$ in the values of a tree. */

#include "load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "text.h"

enum { INSERTED_FILE_BYTES_MAX = 64 * 1024, INSERTED_BYTES_MAX = 4 * 1024 * 1024 };

static const char right[] = "write ${NAME}, ${NAME:-default}, ${file:/path}, or $$ for a dollar";

static bool is_name(const char *text)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
    static const char others[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";
    return strspn(text, letters) >= 1 && strspn(text, others) == strlen(text);
}

static const char *read_inserted_file(weir_conf_load_t *load, const weir_conf_node_t *node, const char *path)
{
    const char *text;
    size_t len;
    const char *resolved = weir_conf_resolve(load, path);
    weir_conf_watch(load, resolved);
    const char *error = weir_conf_read_file(resolved, INSERTED_FILE_BYTES_MAX, false, load->scratch, &text, &len);
    if (error == NULL && strlen(text) != len)
        error = "it has a NUL byte";
    if (error != NULL) {
        weir_conf_fail(load, node,
                       "the file '%s' cannot be inserted: %s; write the path of a text file of at most 64KiB",
                       weir_conf_errors_show(load->scratch, resolved), error);
        return NULL;
    }
    return len > 0 && text[len - 1] == '\n' ? weir_conf_arena_copy(load->scratch, text, len - 1) : text;
}

/* What stands for `${inner}`; NULL after an error. */
static const char *insertion(weir_conf_load_t *load, weir_conf_node_t *node, char *inner)
{
    if (strncmp(inner, "file:", 5) == 0) {
        node->hidden = true;
        return read_inserted_file(load, node, inner + 5);
    }
    char *otherwise = strstr(inner, ":-");
    if (otherwise != NULL) {
        *otherwise = '\0';
        otherwise += 2;
    }
    if (!is_name(inner)) {
        weir_conf_fail(load, node, "'${%s}' names nothing; %s", weir_conf_errors_show(load->scratch, inner), right);
        return NULL;
    }
    const char *value = getenv(inner);
    if (otherwise != NULL && (value == NULL || *value == '\0'))
        return otherwise;
    if (value == NULL)
        weir_conf_fail(load, node, "the environment has no %s; set it, or write ${%s:-default}", inner, inner);
    return value;
}

/* Writes what `node` comes to; false after an error. */
static bool expand_into(weir_conf_load_t *load, weir_conf_node_t *node, FILE *out)
{
    for (const char *at = node->text; *at != '\0';) {
        size_t literal = strcspn(at, "$");
        fwrite(at, 1, literal, out);
        at += literal;
        if (*at == '\0')
            return true;
        if (at[1] == '$') {
            fputc('$', out);
            at += 2;
            continue;
        }
        const char *end = at[1] == '{' ? strchr(at, '}') : NULL;
        if (end == NULL) {
            weir_conf_fail(load, node, "has a %s; %s", at[1] == '{' ? "${ without its }" : "$ that begins nothing",
                           right);
            return false;
        }
        char *inner = weir_conf_arena_copy(load->scratch, at + 2, (size_t)(end - at) - 2);
        const char *inserted = insertion(load, node, inner);
        if (inserted == NULL)
            return false;
        load->inserted_bytes += strlen(inserted);
        if (load->inserted_bytes > INSERTED_BYTES_MAX) {
            weir_conf_fail(load, node, "more than 4MiB are inserted by ${...} in all; name large files by their path");
            return false;
        }
        fputs(inserted, out);
        node->inserted = true;
        at = end + 1;
    }
    return true;
}

static void expand_scalar(weir_conf_load_t *load, weir_conf_node_t *node)
{
    if (strchr(node->text, '$') == NULL)
        return;
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL)
        abort();
    bool is_right = expand_into(load, node, out);
    if (fclose(out) != 0)
        abort();
    if (is_right && !weir_conf_text_is_utf8(text, len)) {
        weir_conf_fail(load, node, "what is inserted is not UTF-8; write text");
        is_right = false;
    }
    if (is_right)
        node->text = weir_conf_arena_copy(load->scratch, text, len);
    else
        node->kind = WEIR_CONF_BROKEN;
    free(text);
}

void weir_conf_expand(weir_conf_load_t *load, weir_conf_node_t *node)
{
    if (node->kind == WEIR_CONF_SCALAR)
        expand_scalar(load, node);
    for (weir_conf_node_t *child = node->first; child != NULL && node->kind != WEIR_CONF_BROKEN; child = child->next)
        weir_conf_expand(load, child);
}
