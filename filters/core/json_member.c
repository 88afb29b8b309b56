#include "json_member.h"

#include <string.h>
#include "json_scan.h"

_Static_assert((int)WEIR_JSON_MEMBER_BYTES_MAX == WEIR_JSON_TEXT_MAX - 1, "a token has the whole of a text");

/* The path leads from the outermost value through `depth` objects and arrays to the one that is being read; `name` is
 * what the pointer has for the next step. Of several equal names in an object each leads on. */
typedef struct {
    const char *pointer, *name; /* name: the slash before it, or the end of the pointer */
    weir_json_member_t *member;
    weir_json_member_kind_t kind;
    unsigned depth;
    uint64_t index;    /* of the next element, where that is an array */
    bool was_there;    /* its step was found in it */
    bool is_ambiguous; /* one of the steps was found twice */
    bool was_named;    /* the value that comes is a member */
    bool is_next;      /* and the one of that name */
} search_t;

bool weir_json_pointer_is_valid(const char *pointer)
{
    if (*pointer != '\0' && *pointer != '/')
        return false;
    for (const char *p = pointer; (p = strchr(p, '~')) != NULL; ++p)
        if (p[1] != '0' && p[1] != '1')
            return false;
    return true;
}

static const char *next_name(const char *name)
{
    return name + 1 + strcspn(name + 1, "/");
}

static const char *name_at(const char *pointer, unsigned depth)
{
    while (depth-- != 0)
        pointer = next_name(pointer);
    return pointer;
}

/* RFC 6901 4: ~1 stands for /, and ~0 for ~. */
static bool is_named(const weir_json_token_t *token, const char *name)
{
    const char *p = name + 1, *end = next_name(name);
    size_t i = 0;
    for (; p != end && i != token->len; ++p, ++i) {
        char byte = *p;
        if (byte == '~')
            byte = *++p == '1' ? '/' : '~';
        if (token->text[i] != byte)
            return false;
    }
    return p == end && i == token->len && !token->is_long;
}

/* The same, of an element: digits without leading zeros. */
static bool is_indexed(uint64_t index, const char *name)
{
    const char *p = name + 1, *end = next_name(name);
    uint64_t value = 0;
    if (p == end || end - p > 18 || (*p == '0' && end - p > 1))
        return false;
    for (; p != end; ++p) {
        if (*p < '0' || *p > '9')
            return false;
        value = value * 10 + (uint64_t)(*p - '0');
    }
    return value == index;
}

static void on_name(search_t *search, const weir_json_token_t *token)
{
    search->was_named = true;
    search->is_next = is_named(token, search->name);
}

/* Whether the value that comes, in what the path leads to, is where it goes on. */
static bool goes_on(search_t *search)
{
    if (search->depth == 0)
        return true;
    bool is_next = search->was_named ? search->is_next : is_indexed(search->index++, search->name);
    search->was_named = false;
    if (is_next && search->was_there)
        search->is_ambiguous = true;
    search->was_there |= is_next;
    return is_next;
}

static void take(search_t *search, const weir_json_token_t *token)
{
    bool is_text = token->kind == WEIR_JSON_TOKEN_STRING || token->kind == WEIR_JSON_TOKEN_NUMBER;
    if (token->kind == WEIR_JSON_TOKEN_NULL)
        return;
    if (!is_text || token->len == 0 || token->is_long) {
        search->kind = WEIR_JSON_MEMBER_BAD;
        return;
    }
    search->kind = WEIR_JSON_MEMBER_TEXT;
    memcpy(search->member->text, token->text, token->len + 1);
    search->member->len = token->len;
}

static void on_value(search_t *search, const weir_json_token_t *token)
{
    bool is_nested = token->kind == WEIR_JSON_TOKEN_BEGIN_OBJECT || token->kind == WEIR_JSON_TOKEN_BEGIN_ARRAY;
    if (!goes_on(search))
        return;
    const char *name = search->depth == 0 ? search->pointer : next_name(search->name);
    if (*name == '\0') {
        take(search, token);
    } else if (is_nested) {
        search->name = name;
        search->index = 0;
        search->was_there = false;
        ++search->depth;
    }
}

/* What the path led into has ended. */
static void go_back(search_t *search)
{
    --search->depth;
    search->was_there = true;
    search->index = UINT64_MAX / 2; /* of an array, none that comes is the one */
    search->name = search->depth == 0 ? search->pointer : name_at(search->pointer, search->depth - 1);
}

static void on_token(void *context, const weir_json_token_t *token)
{
    search_t *search = context;
    bool is_end = token->kind == WEIR_JSON_TOKEN_END_OBJECT || token->kind == WEIR_JSON_TOKEN_END_ARRAY;
    if (is_end && token->depth + 1 == search->depth)
        go_back(search);
    else if (is_end || token->depth != search->depth)
        return;
    else if (token->kind == WEIR_JSON_TOKEN_NAME)
        on_name(search, token);
    else
        on_value(search, token);
}

weir_json_member_kind_t weir_json_member_find(const char *pointer, const char *body, size_t len,
                                              weir_json_member_t *member)
{
    search_t search = {.pointer = pointer, .name = pointer, .member = member};
    weir_json_scan_t scan;
    weir_json_scan_init(&scan, on_token, &search);
    weir_json_result_t result = weir_json_scan_feed(&scan, body, len);
    if (result == WEIR_JSON_MORE)
        result = weir_json_scan_end(&scan);
    if (result != WEIR_JSON_DONE || !weir_json_is_space(body + scan.offset, len - scan.offset))
        return WEIR_JSON_MEMBER_ABSENT;
    return search.kind != WEIR_JSON_MEMBER_ABSENT && search.is_ambiguous ? WEIR_JSON_MEMBER_BAD : search.kind;
}
