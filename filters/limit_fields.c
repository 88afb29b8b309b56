#include "limit_fields.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

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

/* key is `;q=` and the like. */
static char *put_number(char *to, const char key[3], int64_t number)
{
    char digits[20];
    size_t first = sizeof(digits);
    uint64_t left = (uint64_t)number;
    do {
        digits[--first] = (char)('0' + left % 10);
        left /= 10;
    } while (left != 0);
    return put(put(to, key, 3), digits + first, sizeof(digits) - first);
}

static int64_t quota_of(const weir_conf_limit_t *limit, const weir_conf_quota_t *quota)
{
    return limit->algorithm == WEIR_LIMIT_TOKEN_BUCKET ? quota->burst : quota->limit;
}

static int64_t seconds_up(int64_t ns)
{
    return ns / NS_PER_S + (ns % NS_PER_S != 0);
}

/* 0: never */
static int64_t window_s_of(const weir_conf_limit_t *limit, const weir_conf_quota_t *quota)
{
    if (limit->algorithm == WEIR_LIMIT_SLIDING_WINDOW)
        return seconds_up(quota->window_ns);
    if (quota->rate.count == 0)
        return 0;
    unsigned __int128 per_s = (unsigned __int128)(uint64_t)quota->rate.count * NS_PER_S;
    return (int64_t)(((unsigned __int128)(uint64_t)quota->burst * (uint64_t)quota->rate.period_ns + per_s - 1) / per_s);
}

static char *put_policy(char *to, const weir_limit_text_t *text, const weir_conf_quota_t *quota)
{
    int64_t window_s = window_s_of(text->limit, quota);
    to = put_number(put(to, text->name, text->name_len), ";q=", quota_of(text->limit, quota));
    return window_s != 0 ? put_number(to, ";w=", window_s) : to;
}

static char *put_state(char *to, const weir_limit_text_t *text, const weir_store_item_t *item)
{
    int64_t reset_s = item->reset_ns < 0 ? WEIR_LIMIT_NEVER_S : seconds_up(item->reset_ns);
    to = put_number(put(to, text->name, text->name_len), ";r=", item->remaining);
    return put_number(to, ";t=", reset_s);
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

/* Those that are shown, the tightest first; equals stay in their order. */
static size_t sort(shown_t *shown, const weir_store_item_t *items, const weir_limit_text_t *const *texts, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; ++i) {
        if (items[i].shadow)
            continue;
        shown_t one = {&items[i], texts[i], quota_of(texts[i]->limit, items[i].quota)};
        size_t at = size++;
        for (; at != 0 && is_tighter(&one, &shown[at - 1]); --at)
            shown[at] = shown[at - 1];
        shown[at] = one;
    }
    return size;
}

void weir_limit_fields_add(const weir_store_item_t *items, const weir_limit_text_t *const *texts, size_t count,
                           weir_request_t *request, weir_answer_t *answer)
{
    static const weir_str_t policy_name = {"RateLimit-Policy", 16}, state_name = {"RateLimit", 9};
    shown_t shown[WEIR_LIMITS_PER_ROUTE_MAX];
    size_t shown_count = sort(shown, items, texts, count), bytes = 0;
    if (shown_count == 0)
        return;
    for (size_t i = 0; i < shown_count; ++i)
        bytes += 2 * (shown[i].text->name_len + NUMBERS_BYTES_MAX);
    char *policies = request->alloc(request, bytes);
    char *states = put_policies(policies, shown, shown_count);
    char *end = put_states(states, shown, shown_count);
    answer->add(answer, policy_name, (weir_str_t){policies, (size_t)(states - policies)});
    answer->add(answer, state_name, (weir_str_t){states, (size_t)(end - states)});
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
