#include "usage_scan.h"

#include <string.h>

/* Where an object stands. */
typedef enum { ELSEWHERE, OUTERMOST, ANSWER, MESSAGE, USAGE, FIRST_USAGE, DETAILS } place_t;
typedef enum { NOTHING, OPENS, TYPE, TEXT, DELTA, INPUT, CACHED, CACHE_WRITE, OUTPUT } meaning_t;

enum { PLACES = sizeof(((weir_usage_scan_t *)0)->places), ANYWHERE = 0xff, IN_OUTERMOST = 1 << OUTERMOST };
enum { IN_ANSWER = 1 << ANSWER, IN_MESSAGE = 1 << MESSAGE, IN_DETAILS = 1 << DETAILS };
enum { IN_USAGE = 1 << USAGE, IN_FIRST_USAGE = 1 << FIRST_USAGE, IN_ANY_USAGE = IN_USAGE | IN_FIRST_USAGE };

/* The members that mean something: in which places, and the place of the object that is its value. What Anthropic's
 * message_start says of the output is only what was there then. */
static const struct {
    const char *name;
    uint8_t len, in, meaning, opens;
} members[] = {
    {"", 0, 0, NOTHING, ELSEWHERE},
    {"type", 4, IN_OUTERMOST, TYPE, ELSEWHERE},
    {"usage", 5, IN_OUTERMOST | IN_ANSWER, OPENS, USAGE},
    {"usage", 5, IN_MESSAGE, OPENS, FIRST_USAGE},
    {"response", 8, IN_OUTERMOST, OPENS, ANSWER},
    {"message", 7, IN_OUTERMOST, OPENS, MESSAGE},
    {"prompt_tokens", 13, IN_USAGE, INPUT, ELSEWHERE},
    {"input_tokens", 12, IN_ANY_USAGE, INPUT, ELSEWHERE},
    {"completion_tokens", 17, IN_USAGE, OUTPUT, ELSEWHERE},
    {"output_tokens", 13, IN_USAGE, OUTPUT, ELSEWHERE},
    {"cache_read_input_tokens", 23, IN_ANY_USAGE, CACHED, ELSEWHERE},
    {"cache_creation_input_tokens", 27, IN_ANY_USAGE, CACHE_WRITE, ELSEWHERE},
    {"prompt_tokens_details", 21, IN_USAGE, OPENS, DETAILS},
    {"input_tokens_details", 20, IN_USAGE, OPENS, DETAILS},
    {"cached_tokens", 13, IN_DETAILS, CACHED, ELSEWHERE},
    {"content", 7, ANYWHERE, TEXT, ELSEWHERE},
    {"text", 4, ANYWHERE, TEXT, ELSEWHERE},
    {"delta", 5, ANYWHERE, DELTA, ELSEWHERE},
    {"partial_json", 12, ANYWHERE, TEXT, ELSEWHERE},
    {"arguments", 9, ANYWHERE, TEXT, ELSEWHERE},
    {"thinking", 8, ANYWHERE, TEXT, ELSEWHERE},
    {"reasoning_content", 17, ANYWHERE, TEXT, ELSEWHERE},
    {"reasoning", 9, ANYWHERE, TEXT, ELSEWHERE},
    {"refusal", 7, ANYWHERE, TEXT, ELSEWHERE},
    {"output_text", 11, ANYWHERE, TEXT, ELSEWHERE},
};

/* The row of a member; 0: of none that means something there. */
static uint8_t find_member(const weir_json_token_t *name, place_t place)
{
    for (uint8_t i = 1; i < sizeof(members) / sizeof(*members); ++i)
        if (members[i].len == name->len && (members[i].in >> place & 1) != 0 &&
            memcmp(members[i].name, name->text, name->len) == 0)
            return i;
    return 0;
}

static place_t place_of(const weir_usage_scan_t *usage, unsigned depth)
{
    return depth < PLACES ? (place_t)usage->places[depth] : ELSEWHERE;
}

static void begin_object(weir_usage_scan_t *usage, const weir_json_token_t *token)
{
    if (token->depth + 1 < PLACES)
        usage->places[token->depth + 1] = token->depth == 0 ? OUTERMOST : members[usage->member].opens;
}

static void count(weir_usage_counts_t *counts, meaning_t meaning, int64_t tokens)
{
    int64_t *const places[] = {[INPUT] = &counts->input,
                               [CACHED] = &counts->cached,
                               [CACHE_WRITE] = &counts->cache_write,
                               [OUTPUT] = &counts->output};
    if (tokens > *places[meaning])
        *places[meaning] = tokens;
}

/* Events of OpenAI's responses say their type first; those that end a part repeat its text. */
static void note_type(weir_usage_scan_t *usage, const weir_json_token_t *token)
{
    static const char of_responses[] = "response.";
    usage->only_deltas = strncmp(token->text, of_responses, sizeof(of_responses) - 1) == 0;
}

/* Whether a string that is the value of `member` is generated text. */
static bool is_text(const weir_usage_scan_t *usage)
{
    uint8_t meaning = members[usage->member].meaning;
    return meaning == DELTA || (meaning == TEXT && !usage->only_deltas);
}

static void on_string(weir_usage_scan_t *usage, const weir_json_token_t *token)
{
    if (members[usage->member].meaning == TYPE)
        note_type(usage, token);
    else if (is_text(usage))
        usage->text_bytes += token->text_bytes;
}

static void on_token(void *context, const weir_json_token_t *token)
{
    weir_usage_scan_t *usage = context;
    meaning_t meaning = (meaning_t)members[usage->member].meaning;
    if (token->kind == WEIR_JSON_TOKEN_NAME) {
        usage->member = find_member(token, place_of(usage, token->depth));
        return;
    }
    if (token->kind == WEIR_JSON_TOKEN_BEGIN_OBJECT)
        begin_object(usage, token);
    else if (token->kind == WEIR_JSON_TOKEN_NUMBER && meaning >= INPUT)
        count(&usage->counts, meaning, weir_json_integer(token));
    else if (token->kind == WEIR_JSON_TOKEN_STRING)
        on_string(usage, token);
    usage->member = 0; /* elements of an array are no member's values */
}

static void begin_value(weir_usage_scan_t *usage)
{
    weir_json_scan_init(&usage->scan, on_token, usage);
    usage->member = 0;
    usage->only_deltas = false;
}

void weir_usage_scan_init(weir_usage_scan_t *usage, weir_usage_form_t form, weir_usage_framing_t framing)
{
    memset(usage, 0, sizeof(*usage));
    usage->form = form;
    usage->framing = framing;
    usage->counts = (weir_usage_counts_t){-1, -1, -1, -1};
    begin_value(usage);
}

uint64_t weir_usage_scan_text_bytes(const weir_usage_scan_t *usage)
{
    return usage->text_bytes + (is_text(usage) ? weir_json_scan_open_bytes(&usage->scan) : 0);
}

static void end_event(weir_usage_scan_t *usage)
{
    usage->text_bytes = weir_usage_scan_text_bytes(usage);
    begin_value(usage);
}

static void read_part(weir_usage_scan_t *usage, weir_event_part_t part, const char *bytes, size_t len)
{
    if (part == WEIR_EVENT_PART_DATA)
        weir_json_scan_feed(&usage->scan, bytes, len);
    else if (part == WEIR_EVENT_PART_NEXT_DATA)
        weir_json_scan_feed(&usage->scan, "\n", 1);
    else if (part == WEIR_EVENT_PART_END)
        end_event(usage);
}

static void read_events(weir_usage_scan_t *usage, const char *bytes, size_t len)
{
    while (len != 0) {
        weir_event_part_t part;
        size_t count = weir_event_lines_next(&usage->lines, bytes, len, &part);
        read_part(usage, part, bytes, count);
        bytes += count;
        len -= count;
    }
}

/* How many of the bytes are of the mark; what is only the beginning of one is no JSON. */
static size_t skip_mark(weir_usage_scan_t *usage, const char *bytes, size_t len)
{
    static const char mark[] = "\xef\xbb\xbf";
    const uint8_t mark_len = sizeof(mark) - 1;
    size_t count = 0;
    while (count != len && usage->matched < mark_len && bytes[count] == mark[usage->matched]) {
        ++usage->matched;
        ++count;
    }
    if (count != len && usage->matched < mark_len) {
        usage->result = usage->matched != 0 ? WEIR_JSON_MALFORMED : WEIR_JSON_MORE;
        usage->matched = mark_len;
    }
    return count;
}

static void read_json(weir_usage_scan_t *usage, const char *bytes, size_t len)
{
    size_t at = skip_mark(usage, bytes, len);
    if (usage->result == WEIR_JSON_MORE) {
        uint64_t before = usage->scan.offset;
        usage->result = weir_json_scan_feed(&usage->scan, bytes + at, len - at);
        at += (size_t)(usage->scan.offset - before);
    }
    if (usage->result == WEIR_JSON_DONE && !weir_json_is_space(bytes + at, len - at))
        usage->result = WEIR_JSON_MALFORMED;
}

void weir_usage_scan_feed(weir_usage_scan_t *usage, const char *bytes, size_t len)
{
    if (usage->framing == WEIR_USAGE_EVENTS)
        read_events(usage, bytes, len);
    else if (len != 0)
        read_json(usage, bytes, len);
}

bool weir_usage_scan_tell(const weir_usage_scan_t *usage, weir_usage_counts_t *counts)
{
    *counts = usage->counts;
    if (usage->form == WEIR_USAGE_OPENAI && counts->input >= 0 && counts->cached > 0)
        counts->input = counts->input > counts->cached ? counts->input - counts->cached : 0;
    return counts->input >= 0 || counts->output >= 0;
}

bool weir_usage_scan_is_broken(const weir_usage_scan_t *usage)
{
    return usage->result == WEIR_JSON_MALFORMED;
}
