/* However JSON is cut, it gives the same tokens, ends at the same byte, and the same is picked from it; and it is JSON
 * if a plain reading of RFC 8259 says so, which looks at the whole of it at once. The first byte of the input chooses
 * the cuts. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../filters/core/json_pick.h"
#include "../../filters/core/json_scan.h"

typedef struct {
    weir_json_result_t result;
    uint64_t offset, hash, end, open_bytes;
    size_t count, begun;
    weir_json_picked_t picked;
} reading_t;

static void add(reading_t *reading, const void *bytes, size_t len)
{
    for (size_t i = 0; i != len; ++i) /* FNV-1a */
        reading->hash = (reading->hash ^ ((const uint8_t *)bytes)[i]) * UINT64_C(0x100000001b3);
}

static void on_token(void *context, const weir_json_token_t *token)
{
    reading_t *reading = context;
    const uint64_t numbers[] = {token->kind,       token->depth, token->len, token->is_long,
                                token->text_bytes, token->at,    token->end};
    assert(token->at >= reading->end && token->end > token->at);
    assert(token->text == NULL || (token->len < WEIR_JSON_TEXT_MAX && token->text[token->len] == '\0'));
    reading->end = token->end;
    reading->begun += token->kind == WEIR_JSON_TOKEN_BEGIN_OBJECT || token->kind == WEIR_JSON_TOKEN_BEGIN_ARRAY;
    reading->begun -= token->kind == WEIR_JSON_TOKEN_END_OBJECT || token->kind == WEIR_JSON_TOKEN_END_ARRAY;
    ++reading->count;
    add(reading, numbers, sizeof(numbers));
    add(reading, token->text, token->len);
    if (token->kind == WEIR_JSON_TOKEN_NUMBER) {
        int64_t value = weir_json_integer(token);
        assert(value >= -1 && value <= WEIR_JSON_INTEGER_MAX);
    }
}

/* Pieces of pseudo-random sizes, or with step 0 all at once. */
static reading_t read_pieces(const uint8_t *data, size_t size, unsigned step)
{
    reading_t reading;
    memset(&reading, 0, sizeof(reading));
    weir_json_scan_t scan;
    weir_json_pick_t pick;
    weir_json_scan_init(&scan, on_token, &reading);
    weir_json_pick_init(&pick);
    uint32_t random = step;
    for (size_t at = 0; at != size;) {
        random = random * 1664525 + 1013904223;
        size_t len = step == 0 ? size : 1 + (random >> 16) % step;
        len = len < size - at ? len : size - at;
        char *copy = malloc(len);
        memcpy(copy, data + at, len);
        weir_json_result_t result = weir_json_scan_feed(&scan, copy, len);
        bool goes_on = weir_json_pick_feed(&pick, copy, len);
        assert(scan.offset <= at + len && (result != WEIR_JSON_MORE || scan.offset == at + len));
        assert(!goes_on || result != WEIR_JSON_MALFORMED);
        free(copy);
        at += len;
    }
    reading.open_bytes = weir_json_scan_open_bytes(&scan);
    reading.result = weir_json_scan_end(&scan);
    reading.offset = scan.offset;
    memcpy(&reading.picked, weir_json_pick_end(&pick), sizeof(reading.picked));
    return reading;
}

/* A plain reading: where what begins at `at` ends; NULL if it is none. There is a NUL behind the text. */
static const char *skip_space(const char *at)
{
    return at + strspn(at, " \t\r\n");
}

static const char *skip_digits(const char *at)
{
    size_t count = strspn(at, "0123456789");
    return count != 0 ? at + count : NULL;
}

static const char *read_number(const char *at)
{
    at += *at == '-';
    at = *at == '0' ? at + 1 : skip_digits(at);
    if (at != NULL && *at == '.')
        at = skip_digits(at + 1);
    if (at != NULL && (*at == 'e' || *at == 'E'))
        at = skip_digits(at + 1 + (at[1] == '+' || at[1] == '-'));
    return at;
}

static const char *read_string(const char *at)
{
    if (*at++ != '"')
        return NULL;
    while (*at != '"') {
        if ((unsigned char)*at < 0x20)
            return NULL;
        if (*at++ != '\\')
            continue;
        if (*at == '\0' || strchr("\"\\/bfnrtu", *at) == NULL)
            return NULL;
        if (*at++ == 'u') {
            for (unsigned i = 0; i != 4; ++i, ++at)
                if (*at == '\0' || strchr("0123456789abcdefABCDEF", *at) == NULL)
                    return NULL;
        }
    }
    return at + 1;
}

static const char *read_value(const char *at, unsigned depth);

static const char *read_nested(const char *at, unsigned depth)
{
    bool is_object = *at == '{';
    char end = is_object ? '}' : ']';
    if (depth == WEIR_JSON_DEPTH_MAX)
        return NULL;
    at = skip_space(at + 1);
    if (*at == end)
        return at + 1;
    for (;; at = skip_space(at + 1)) {
        if (is_object) {
            at = read_string(at);
            at = at != NULL ? skip_space(at) : NULL;
            if (at == NULL || *at != ':')
                return NULL;
            at = skip_space(at + 1);
        }
        at = read_value(at, depth + 1);
        if (at == NULL)
            return NULL;
        at = skip_space(at);
        if (*at == end)
            return at + 1;
        if (*at != ',')
            return NULL;
    }
}

static const char *read_value(const char *at, unsigned depth)
{
    static const char *const literals[] = {"true", "false", "null"};
    for (size_t i = 0; i != 3; ++i)
        if (strncmp(at, literals[i], strlen(literals[i])) == 0)
            return at + strlen(literals[i]);
    if (*at == '{' || *at == '[')
        return read_nested(at, depth);
    return *at == '"' ? read_string(at) : read_number(at);
}

/* Where the outermost value ends; NULL: it is not JSON. */
static const char *read_plainly(const char *text)
{
    const char *end = read_value(skip_space(text), 0);
    bool is_zero = end != NULL && end != text && end[-1] == '0' && (end - 1 == skip_space(text) || end[-2] == '-');
    return is_zero && *end >= '0' && *end <= '9' ? NULL
                                                 : end; /* one that has a digit behind it is not a value at all */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    reading_t whole = read_pieces(data + 1, size - 1, 0);
    const unsigned steps[] = {data[0], 1};
    for (size_t i = 0; i != 2; ++i) {
        reading_t pieces = read_pieces(data + 1, size - 1, steps[i]);
        assert(memcmp(&pieces, &whole, sizeof(whole)) == 0);
    }
    assert(whole.open_bytes <= whole.offset && (whole.open_bytes == 0 || whole.result == WEIR_JSON_MALFORMED));
    assert(whole.result == WEIR_JSON_MALFORMED || (whole.begun == 0 && whole.end == whole.offset));
    char *text = malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    const char *end = read_plainly(text);
    assert((whole.result == WEIR_JSON_DONE) == (end != NULL));
    if (end != NULL) {
        assert(whole.offset == (uint64_t)(end - text));
        bool is_alone = weir_json_is_space(end, size - 1 - (size_t)(end - text));
        assert(whole.picked.is_object == (is_alone && *skip_space(text) == '{'));
    } else {
        assert(!whole.picked.is_object);
    }
    bool is_blank = weir_json_is_space(text, size - 1);
    assert(whole.picked.is_unreadable == (!whole.picked.is_object && !is_blank));
    assert(whole.picked.is_object || (whole.picked.model_len == 0 && whole.picked.max_tokens == -1));
    free(text);
    return 0;
}
