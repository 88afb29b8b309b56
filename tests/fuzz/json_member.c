/* A member is found in what is JSON alone, whatever white space is around it, and its text stands in the bounds; in an
 * array around it, it is found by an index before its pointer. The input is a pointer up to the first NUL, and a body.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../filters/core/json_member.h"
#include "../../filters/core/json_scan.h"

static void on_token(void *context, const weir_json_token_t *token)
{
    (void)context;
    (void)token;
}

static bool is_json(const char *body, size_t len)
{
    weir_json_scan_t scan;
    weir_json_scan_init(&scan, on_token, NULL);
    weir_json_result_t result = weir_json_scan_feed(&scan, body, len);
    result = result == WEIR_JSON_MORE ? weir_json_scan_end(&scan) : result;
    return result == WEIR_JSON_DONE && weir_json_is_space(body + scan.offset, len - scan.offset);
}

static weir_json_member_kind_t find_around(const char *pointer, const char *before, const char *body, size_t len,
                                           const char *behind, weir_json_member_t *member)
{
    size_t before_len = strlen(before), behind_len = strlen(behind), sum = before_len + len + behind_len;
    char *copy = malloc(sum + 1);
    memcpy(copy, before, before_len);
    memcpy(copy + before_len, body, len);
    memcpy(copy + before_len + len, behind, behind_len);
    weir_json_member_kind_t kind = weir_json_member_find(pointer, copy, sum, member);
    free(copy);
    return kind;
}

static void check(const char *pointer, const char *body, size_t len)
{
    weir_json_member_t member, again;
    weir_json_member_kind_t kind = weir_json_member_find(pointer, body, len, &member);
    if (!is_json(body, len)) {
        assert(kind == WEIR_JSON_MEMBER_ABSENT);
        return;
    }
    assert(kind != WEIR_JSON_MEMBER_TEXT || (member.len > 0 && member.len <= WEIR_JSON_MEMBER_BYTES_MAX));
    assert(kind != WEIR_JSON_MEMBER_TEXT || member.text[member.len] == '\0');
    assert(find_around(pointer, " ", body, len, "\n", &again) == kind);
    assert(kind != WEIR_JSON_MEMBER_TEXT ||
           (again.len == member.len && memcmp(again.text, member.text, member.len) == 0));
    char *longer = malloc(strlen(pointer) + 3);
    strcat(strcpy(longer, "/1"), pointer);
    weir_json_member_kind_t nested = find_around(longer, "[0,", body, len, ",0]", &again);
    assert(nested == kind || nested == WEIR_JSON_MEMBER_ABSENT); /* it may be too deep now */
    free(longer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size != 0 ? memchr(data, 0, size) : NULL;
    if (end == NULL || !weir_json_pointer_is_valid((const char *)data))
        return 0;
    check((const char *)data, (const char *)end + 1, size - (size_t)(end + 1 - data));
    return 0;
}
