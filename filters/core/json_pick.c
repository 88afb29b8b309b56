#include "json_pick.h"

#include <string.h>

typedef enum {
    MODEL,
    MAX_TOKENS,
    MAX_COMPLETION_TOKENS,
    MAX_OUTPUT_TOKENS,
    STREAM,
    STREAM_OPTIONS,
    INCLUDE_USAGE, /* in STREAM_OPTIONS; all others are the outermost object's */
    MEMBERS,
    OTHER = MEMBERS,
} member_t;

static const struct {
    const char *name;
    size_t len;
} members[MEMBERS] = {
    [MODEL] = {"model", 5},
    [MAX_TOKENS] = {"max_tokens", 10},
    [MAX_COMPLETION_TOKENS] = {"max_completion_tokens", 21},
    [MAX_OUTPUT_TOKENS] = {"max_output_tokens", 17},
    [STREAM] = {"stream", 6},
    [STREAM_OPTIONS] = {"stream_options", 14},
    [INCLUDE_USAGE] = {"include_usage", 13},
};

static bool is_name_of(const weir_json_token_t *token, member_t member)
{
    return token->len == members[member].len && memcmp(token->text, members[member].name, token->len) == 0;
}

/* Behind the letter that stands at `at`, as Unicode's simple case folding has it (Go's bytes.EqualFold): the long s and
 * the Kelvin sign are letters of ASCII to it. */
static const char *fold(const char *at, char *letter)
{
    static const char long_s[] = "\xc5\xbf", kelvin[] = "\xe2\x84\xaa";
    if (strncmp(at, long_s, sizeof(long_s) - 1) == 0) {
        *letter = 's';
        return at + sizeof(long_s) - 1;
    }
    if (strncmp(at, kelvin, sizeof(kelvin) - 1) == 0) {
        *letter = 'k';
        return at + sizeof(kelvin) - 1;
    }
    *letter = *at >= 'A' && *at <= 'Z' ? (char)(*at | 0x20) : *at;
    return at + 1;
}

/* Whether a reader that does not tell cases apart takes it for that member. */
static bool is_like(const weir_json_token_t *token, member_t member)
{
    const char *at = token->text, *name = members[member].name;
    char letter = '\0';
    for (; *name != '\0'; ++name) {
        at = fold(at, &letter);
        if (letter != *name)
            return false;
    }
    return at == token->text + token->len;
}

/* A name of the members from `first` to `last`: which one it is. One that is only like it counts as seen. */
static member_t find_member(weir_json_pick_t *pick, const weir_json_token_t *name, member_t first, member_t last)
{
    member_t member = first;
    while (member <= last && !is_like(name, member))
        ++member;
    if (member > last)
        return OTHER;
    pick->picked.is_ambiguous |= (pick->seen & 1u << member) != 0;
    pick->seen |= (uint8_t)(1u << member);
    return is_name_of(name, member) ? member : OTHER;
}

static weir_json_what_t what_is(const weir_json_token_t *token)
{
    switch (token->kind) {
    case WEIR_JSON_TOKEN_BEGIN_OBJECT:
    case WEIR_JSON_TOKEN_END_OBJECT:
        return WEIR_JSON_OBJECT;
    case WEIR_JSON_TOKEN_NULL:
        return WEIR_JSON_NULL;
    case WEIR_JSON_TOKEN_TRUE:
        return WEIR_JSON_TRUE;
    case WEIR_JSON_TOKEN_FALSE:
        return WEIR_JSON_FALSE;
    default:
        return WEIR_JSON_OTHER;
    }
}

static bool is_end(const weir_json_token_t *token)
{
    return token->kind == WEIR_JSON_TOKEN_END_OBJECT || token->kind == WEIR_JSON_TOKEN_END_ARRAY;
}

/* A value's first token and its last one, which for a scalar are the same. */
static void note_range(uint64_t *at, uint64_t *end, const weir_json_token_t *token)
{
    if (!is_end(token))
        *at = token->at;
    *end = token->end;
}

static void note_model(weir_json_picked_t *picked, const weir_json_token_t *token)
{
    bool is_string = token->kind == WEIR_JSON_TOKEN_STRING;
    picked->model_is_long = is_string && token->is_long;
    picked->model_len = is_string && !token->is_long ? token->len : 0;
    if (picked->model_len != 0)
        memcpy(picked->model, token->text, picked->model_len);
    picked->model[picked->model_len] = '\0';
    note_range(&picked->model_at, &picked->model_end, token);
}

static bool is_absent_or_negative(const weir_json_token_t *token)
{
    return token->kind == WEIR_JSON_TOKEN_NULL || (token->kind == WEIR_JSON_TOKEN_NUMBER && *token->text == '-');
}

/* What cannot be read may be a lot to another reader. */
static void note_max_tokens(weir_json_picked_t *picked, const weir_json_token_t *token)
{
    int64_t value = token->kind == WEIR_JSON_TOKEN_NUMBER ? weir_json_integer(token) : -1;
    if (value < 0 && !is_absent_or_negative(token))
        value = WEIR_JSON_INTEGER_MAX;
    if (value > picked->max_tokens)
        picked->max_tokens = value;
}

static void note_options(weir_json_picked_t *picked, const weir_json_token_t *token)
{
    picked->stream_options = what_is(token);
    if (!is_end(token))
        picked->options_is_empty = token->kind == WEIR_JSON_TOKEN_BEGIN_OBJECT;
    note_range(&picked->options_at, &picked->options_end, token);
}

static void note_include_usage(weir_json_picked_t *picked, const weir_json_token_t *token)
{
    picked->include_usage = what_is(token);
    note_range(&picked->include_usage_at, &picked->include_usage_end, token);
}

static void note_value(weir_json_pick_t *pick, member_t member, const weir_json_token_t *token)
{
    weir_json_picked_t *picked = &pick->picked;
    switch (member) {
    case MODEL:
        note_model(picked, token);
        break;
    case MAX_TOKENS:
    case MAX_COMPLETION_TOKENS:
    case MAX_OUTPUT_TOKENS:
        note_max_tokens(picked, token);
        break;
    case STREAM:
        picked->is_stream = token->kind == WEIR_JSON_TOKEN_TRUE;
        break;
    case STREAM_OPTIONS:
        note_options(picked, token);
        break;
    case INCLUDE_USAGE:
        note_include_usage(picked, token);
        break;
    default:
        break;
    }
}

static void on_outermost(weir_json_pick_t *pick, const weir_json_token_t *token)
{
    if (token->kind == WEIR_JSON_TOKEN_BEGIN_OBJECT) {
        pick->picked.object_at = token->end;
        pick->picked.is_empty = true;
    } else if (token->kind != WEIR_JSON_TOKEN_END_OBJECT) {
        pick->is_outside = true;
    }
}

/* A name of the outermost object, or a token of its value. */
static void on_member(weir_json_pick_t *pick, const weir_json_token_t *token)
{
    if (token->kind == WEIR_JSON_TOKEN_NAME) {
        pick->picked.is_empty = false;
        pick->member = (uint8_t)find_member(pick, token, MODEL, STREAM_OPTIONS);
    } else {
        note_value(pick, (member_t)pick->member, token);
    }
}

/* The same inside stream_options. */
static void on_option(weir_json_pick_t *pick, const weir_json_token_t *token)
{
    if (token->kind == WEIR_JSON_TOKEN_NAME) {
        pick->picked.options_is_empty = false;
        pick->is_in_include_usage = find_member(pick, token, INCLUDE_USAGE, INCLUDE_USAGE) == INCLUDE_USAGE;
    } else if (pick->is_in_include_usage) {
        note_value(pick, INCLUDE_USAGE, token);
    }
}

static void on_token(void *context, const weir_json_token_t *token)
{
    weir_json_pick_t *pick = context;
    if (token->depth == 0)
        on_outermost(pick, token);
    else if (token->depth == 1)
        on_member(pick, token);
    else if (token->depth == 2 && pick->member == STREAM_OPTIONS)
        on_option(pick, token);
}

void weir_json_pick_init(weir_json_pick_t *pick)
{
    memset(pick, 0, sizeof(*pick));
    weir_json_scan_init(&pick->scan, on_token, pick);
    pick->picked.max_tokens = -1;
    pick->member = OTHER;
    pick->result = WEIR_JSON_MORE;
    pick->is_blank = true;
}

/* Behind the bytes that the scanner takes. */
static const char *scan_object(weir_json_pick_t *pick, const char *bytes, size_t len)
{
    uint64_t before = pick->scan.offset;
    pick->result = weir_json_scan_feed(&pick->scan, bytes, len);
    if (pick->is_outside)
        pick->result = WEIR_JSON_MALFORMED;
    return bytes + (pick->scan.offset - before);
}

bool weir_json_pick_feed(weir_json_pick_t *pick, const char *bytes, size_t len)
{
    if (len == 0)
        return pick->result != WEIR_JSON_MALFORMED;
    pick->is_blank = pick->is_blank && weir_json_is_space(bytes, len);
    const char *rest = pick->result == WEIR_JSON_MORE ? scan_object(pick, bytes, len) : bytes;
    if (pick->result == WEIR_JSON_DONE && !weir_json_is_space(rest, len - (size_t)(rest - bytes)))
        pick->result = WEIR_JSON_MALFORMED;
    return pick->result != WEIR_JSON_MALFORMED;
}

static void forget(weir_json_picked_t *picked)
{
    bool is_ambiguous = picked->is_ambiguous;
    memset(picked, 0, sizeof(*picked));
    picked->is_ambiguous = is_ambiguous;
    picked->max_tokens = -1;
}

const weir_json_picked_t *weir_json_pick_end(weir_json_pick_t *pick)
{
    bool is_object = pick->result == WEIR_JSON_DONE;
    if (!is_object)
        forget(&pick->picked);
    pick->picked.is_object = is_object;
    pick->picked.is_unreadable = !is_object && !pick->is_blank;
    return &pick->picked;
}
