#include "limit_fields.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "fields.h"

/* Of an item's numbers with their keys, and the `, ` after it. */
enum { NUMBERS_BYTES_MAX = 48, NS_PER_S = 1000000000 };

typedef struct {
    const weir_store_item_t *item;
    const weir_limit_text_t *text;
    int64_t quota;
} shown_t;

static char *put(char *to, const char *from, size_t len)
{
    memcpy(to, from, len);
    return to + len;
}

static char *put_digits(char *to, int64_t number)
{
    char digits[20];
    size_t first = sizeof(digits);
    uint64_t left = (uint64_t)number;
    do {
        digits[--first] = (char)('0' + left % 10);
        left /= 10;
    } while (left != 0);
    return put(to, digits + first, sizeof(digits) - first);
}

/* key is `;q=` and the like. */
static char *put_number(char *to, const char key[3], int64_t number)
{
    return put_digits(put(to, key, 3), number);
}

static int64_t seconds_up(int64_t ns)
{
    return ns / NS_PER_S + (ns % NS_PER_S != 0);
}

/* 0: never, or there is none */
static int64_t window_s_of(const weir_conf_limit_t *limit, const weir_conf_quota_t *quota)
{
    if (limit->algorithm == WEIR_LIMIT_SLIDING_WINDOW)
        return seconds_up(quota->window_ns);
    if (limit->algorithm == WEIR_LIMIT_CONCURRENCY || quota->rate.count == 0)
        return 0;
    unsigned __int128 per_s = (unsigned __int128)(uint64_t)quota->rate.count * NS_PER_S;
    return (int64_t)(((unsigned __int128)(uint64_t)quota->burst * (uint64_t)quota->rate.period_ns + per_s - 1) / per_s);
}

static char *put_policy(char *to, const weir_limit_text_t *text, const weir_conf_quota_t *quota)
{
    int64_t window_s = window_s_of(text->limit, quota);
    to = put_number(put(to, text->name, text->name_len), ";q=", weir_store_quota_size(quota));
    return window_s != 0 ? put_number(to, ";w=", window_s) : to;
}

static char *put_state(char *to, const weir_limit_text_t *text, const weir_store_item_t *item)
{
    int64_t reset_s = item->reset_ns < 0 ? WEIR_LIMIT_NEVER_S : seconds_up(item->reset_ns);
    to = put_number(put(to, text->name, text->name_len), ";r=", item->remaining);
    return text->limit->algorithm == WEIR_LIMIT_CONCURRENCY ? to : put_number(to, ";t=", reset_s);
}

static char *put_policies(char *to, const shown_t *shown, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        const weir_limit_text_t *text = shown[i].text;
        if (i != 0)
            to = put(to, ", ", 2);
        if (shown[i].item->quota == &text->limit->quota)
            to = put(to, text->policy, text->policy_len);
        else
            to = put_policy(to, text, shown[i].item->quota);
    }
    return to;
}

static char *put_states(char *to, const shown_t *shown, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        if (i != 0)
            to = put(to, ", ", 2);
        to = put_state(to, shown[i].text, shown[i].item);
    }
    return to;
}

static bool is_tighter(const shown_t *a, const shown_t *b)
{
    return (__int128)a->item->remaining * b->quota < (__int128)b->item->remaining * a->quota;
}

/* Those of a unit that are shown, the tightest first; equals stay in their order. */
static size_t sort(shown_t *shown, const weir_store_item_t *items, const weir_limit_text_t *const *texts, size_t count,
                   weir_conf_unit_t unit)
{
    size_t size = 0;
    for (size_t i = 0; i < count; ++i) {
        if (items[i].shadow || texts[i]->limit->unit != unit)
            continue;
        shown_t one = {&items[i], texts[i], weir_store_quota_size(items[i].quota)};
        size_t at = size++;
        for (; at != 0 && is_tighter(&one, &shown[at - 1]); --at)
            shown[at] = shown[at - 1];
        shown[at] = one;
    }
    return size;
}

static void add_requests(const shown_t *shown, size_t count, weir_request_t *request, weir_answer_t *answer)
{
    static const weir_str_t policy_name = {"RateLimit-Policy", 16}, state_name = {"RateLimit", 9};
    size_t bytes = 0;
    for (size_t i = 0; i < count; ++i)
        bytes += 2 * (shown[i].text->name_len + NUMBERS_BYTES_MAX);
    char *policies = request->alloc(request, bytes);
    char *states = put_policies(policies, shown, count);
    char *end = put_states(states, shown, count);
    answer->add(answer, policy_name, (weir_str_t){policies, (size_t)(states - policies)});
    answer->add(answer, state_name, (weir_str_t){states, (size_t)(end - states)});
}

/* x-ratelimit-*-tokens, as OpenAI's API has them */

/* As Go writes a duration: 250ms, 1.5s, 6m0s, 1h0m0s; rounded up to ms. */
static char *put_duration(char *to, int64_t ns)
{
    enum { NS_PER_MS = 1000000, MS_PER_S = 1000, S_PER_M = 60, M_PER_H = 60 };
    int64_t ms = ns / NS_PER_MS + (ns % NS_PER_MS != 0), s = ms / MS_PER_S, rest = ms % MS_PER_S;
    if (s == 0 && rest != 0)
        return put(put_digits(to, rest), "ms", 2);
    if (s >= S_PER_M * M_PER_H)
        to = put(put_digits(to, s / (S_PER_M * M_PER_H)), "h", 1);
    if (s >= S_PER_M)
        to = put(put_digits(to, s / S_PER_M % M_PER_H), "m", 1);
    to = put_digits(to, s % S_PER_M);
    if (rest != 0) {
        char digits[4] = {'.', (char)('0' + rest / 100), (char)('0' + rest / 10 % 10), (char)('0' + rest % 10)};
        size_t len = sizeof(digits);
        while (digits[len - 1] == '0')
            --len;
        to = put(to, digits, len);
    }
    return put(to, "s", 1);
}

static bool has_field(const weir_answer_t *answer, weir_str_t name)
{
    for (size_t i = 0; i < answer->field_count; ++i)
        if (weir_fields_equal(*answer->fields[i].name, name))
            return true;
    return false;
}

static void add_tokens(const shown_t *tightest, weir_request_t *request, weir_answer_t *answer)
{
    static const weir_str_t names[] = {
        {"x-ratelimit-limit-tokens", 24}, {"x-ratelimit-remaining-tokens", 28}, {"x-ratelimit-reset-tokens", 24}};
    const weir_store_item_t *item = tightest->item;
    char *ends[4] = {request->alloc(request, 3 * NUMBERS_BYTES_MAX)};
    ends[1] = put_digits(ends[0], tightest->quota);
    ends[2] = put_digits(ends[1], item->remaining);
    ends[3] = put_duration(ends[2], item->reset_ns < 0 ? WEIR_LIMIT_NEVER_S * INT64_C(1000000000) : item->reset_ns);
    for (size_t i = 0; i < 3; ++i)
        if (!has_field(answer, names[i]))
            answer->add(answer, names[i], (weir_str_t){ends[i], (size_t)(ends[i + 1] - ends[i])});
}

void weir_limit_fields_add(const weir_store_item_t *items, const weir_limit_text_t *const *texts, size_t count,
                           weir_request_t *request, weir_answer_t *answer)
{
    shown_t shown[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t shown_count = sort(shown, items, texts, count, WEIR_UNIT_REQUESTS);
    if (shown_count != 0)
        add_requests(shown, shown_count, request, answer);
    if (shown_count == count)
        return;
    if (sort(shown, items, texts, count, WEIR_UNIT_LLM_TOKENS) != 0)
        add_tokens(&shown[0], request, answer);
}

void weir_limit_text_init(weir_limit_text_t *text, const weir_conf_limit_t *limit)
{
    size_t len = strlen(limit->name);
    *text = (weir_limit_text_t){.limit = limit, .name = malloc(len + 2), .policy = malloc(len + 2 + NUMBERS_BYTES_MAX)};
    assert(text->name != NULL && text->policy != NULL);
    put(put(put(text->name, "\"", 1), limit->name, len), "\"", 1);
    text->name_len = (uint32_t)len + 2;
    text->policy_len = (uint32_t)(put_policy(text->policy, text, &limit->quota) - text->policy);
}

void weir_limit_text_dispose(weir_limit_text_t *text)
{
    free(text->name);
    free(text->policy);
}
