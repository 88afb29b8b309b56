#ifndef WEIR_TESTS_UNIT_FILTERS_REDIS_SERVED_H
#define WEIR_TESTS_UNIT_FILTERS_REDIS_SERVED_H

/* What claim.lua, renew.lua and end.lua do, with a few keys. After cmocka.h. */

#include <stdio.h>
#include "claimed.h"

enum { KEYS = 6 };

typedef struct {
    char state; /* 0: free; i, d, u */
    char owner[64];
    int64_t until_ns;
    char *answer;
    size_t answer_len;
} row_t;

typedef struct {
    char word[8]; /* "": an integer */
    int64_t integer;
    char owner[64], *answer;
    size_t answer_len;
} reply_t;

static row_t rows[KEYS];

static inline void free_row(row_t *row)
{
    free(row->answer);
    *row = (row_t){.state = 0};
}

static inline row_t *row_of(const char *name)
{
    char tag[64];
    for (uint64_t i = 0; i < KEYS; ++i) {
        snprintf(tag, sizeof(tag), "{%016llx%016llx}", (unsigned long long)key_of(i).high, (unsigned long long)key_of(i).low);
        if (strstr(name, tag) != NULL)
            return &rows[i];
    }
    fail();
    return NULL;
}

static inline void say(reply_t *reply, const char *word)
{
    snprintf(reply->word, sizeof(reply->word), "%s", word);
}

static inline void serve_claim(row_t *row, const remoted_ask_t *ask, reply_t *reply, int64_t now_ns)
{
    if (row->state == 0) {
        row->state = 'i';
        snprintf(row->owner, sizeof(row->owner), "%s", ask->args[0]);
        row->until_ns = now_ns + atoll(ask->args[2]) * MS;
        say(reply, "run");
    } else if (row->state == 'i') {
        say(reply, "flight");
        snprintf(reply->owner, sizeof(reply->owner), "%s", row->owner);
    } else if (row->state == 'd') {
        say(reply, "done");
        if (row->answer != NULL && ask->args[3][0] == '1') {
            reply->answer = malloc(row->answer_len);
            reply->answer_len = row->answer_len;
            memcpy(reply->answer, row->answer, row->answer_len);
        }
    } else {
        say(reply, "unknown");
    }
}

static inline void serve_renewal(row_t *row, const remoted_ask_t *ask, reply_t *reply, int64_t now_ns)
{
    if (row->state == 0) {
        row->state = 'i';
        snprintf(row->owner, sizeof(row->owner), "%s", ask->args[0]);
    }
    reply->integer = row->state == 'i' && strcmp(row->owner, ask->args[0]) == 0;
    if (reply->integer == 1)
        row->until_ns = now_ns + atoll(ask->args[2]) * MS;
}

static inline void serve_end(row_t *row, const remoted_ask_t *ask, reply_t *reply, int64_t now_ns)
{
    if (row->state != 0 && (row->state != 'i' || strcmp(row->owner, ask->args[0]) != 0))
        return;
    reply->integer = 1;
    free_row(row);
    if (ask->args[2][0] == 'f')
        return;
    row->state = ask->args[2][0];
    row->until_ns = now_ns + atoll(ask->args[3]) * MS;
    if (ask->lens[5] != 0) {
        row->answer = malloc(ask->lens[5]);
        row->answer_len = ask->lens[5];
        memcpy(row->answer, ask->args[5], ask->lens[5]);
    }
}

static inline void serve(const remoted_ask_t *ask, reply_t *reply, int64_t now_ns)
{
    row_t *row = row_of(ask->keys[0]);
    if (row->state != 0 && row->until_ns <= now_ns)
        free_row(row);
    *reply = (reply_t){.integer = 0};
    if (ask->script == WEIR_SCRIPT_claim)
        serve_claim(row, ask, reply, now_ns);
    else if (ask->script == WEIR_SCRIPT_renew)
        serve_renewal(row, ask, reply, now_ns);
    else
        serve_end(row, ask, reply, now_ns);
}

/* The answer, which it frees. */
static inline void end_with(remoted_t *remote, remoted_ask_t *ask, reply_t *reply, int64_t now_ns)
{
    weir_remote_value_t entries[3] = {remoted_text(reply->word)}, value;
    size_t size = 1;
    if (strcmp(reply->word, "flight") == 0) {
        entries[1] = remoted_text(reply->owner);
        entries[2] = remoted_integer(1000);
        size = 3;
    } else if (strcmp(reply->word, "done") == 0) {
        entries[1] = REMOTED_NIL;
        if (reply->answer != NULL)
            entries[1] = (weir_remote_value_t){.kind = WEIR_REMOTE_TEXT, .text = {reply->answer, reply->answer_len}};
        size = 2;
    }
    value = (weir_remote_value_t){.kind = WEIR_REMOTE_LIST, .entries = entries, .size = size};
    if (reply->word[0] == '\0')
        value = remoted_integer(reply->integer);
    remoted_end(remote, ask, WEIR_REMOTE_ANSWERED, &value, now_ns);
    free(reply->answer);
    reply->answer = NULL;
}

#endif
