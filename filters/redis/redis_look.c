#include "redis_look.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "redis_row.h"

typedef struct entry {
    struct entry *next;
    weir_redis_look_t *look;
    weir_redis_looked_t looked;
    size_t len;
    char question[];
} entry_t;

struct weir_redis_look {
    weir_store_look_t look; /* first */
    weir_remote_t *remote;
    int64_t timeout_ns;
    entry_t *entries;
    bool is_closed;
};

static __thread weir_redis_look_t *current;

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* --- the look --- */

weir_store_look_t *weir_redis_look_open(weir_remote_t *remote, int64_t timeout_ns, void (*on_told)(void *context), void *context)
{
    weir_redis_look_t *look = checked(malloc(sizeof(*look)));
    *look = (weir_redis_look_t){
        .look = {.on_told = on_told, .context = context}, .remote = remote, .timeout_ns = timeout_ns};
    return &look->look;
}

static void free_if_done(weir_redis_look_t *look)
{
    if (!look->is_closed || look->look.waits != 0)
        return;
    while (look->entries != NULL) {
        entry_t *entry = look->entries;
        look->entries = entry->next;
        free(entry);
    }
    free(look);
}

void weir_redis_look_close(weir_store_look_t *store_look)
{
    weir_redis_look_t *look = (weir_redis_look_t *)store_look;
    if (current == look)
        current = NULL;
    look->is_closed = true;
    free_if_done(look);
}

void weir_redis_look_use(weir_store_look_t *look)
{
    current = (weir_redis_look_t *)look;
}

weir_redis_look_t *weir_redis_look_current(void)
{
    return current;
}

/* --- what was asked --- */

static void take_value(weir_redis_looked_t *looked, size_t *numbers, const weir_remote_value_t *value)
{
    if (value->kind == WEIR_REMOTE_INTEGER && *numbers < WEIR_REDIS_LOOK_NUMBERS_MAX)
        looked->numbers[(*numbers)++] = value->integer;
    if (value->kind == WEIR_REMOTE_TEXT && value->text.len < WEIR_REDIS_LOOK_WORD_MAX) {
        memcpy(looked->word, value->text.base, value->text.len);
        looked->word[value->text.len] = '\0';
    }
}

static void on_end(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    entry_t *entry = context;
    weir_redis_look_t *look = entry->look;
    size_t numbers = 0;
    entry->looked.state = told == WEIR_REMOTE_ANSWERED ? WEIR_REDIS_LOOK_TOLD : WEIR_REDIS_LOOK_FAILED;
    if (told == WEIR_REMOTE_ANSWERED && value->kind != WEIR_REMOTE_LIST)
        take_value(&entry->looked, &numbers, value);
    for (size_t i = 0; told == WEIR_REMOTE_ANSWERED && value->kind == WEIR_REMOTE_LIST && i < value->size; ++i)
        take_value(&entry->looked, &numbers, &value->entries[i]);
    if (--look->look.waits == 0 && !look->is_closed)
        look->look.on_told(look->look.context);
    free_if_done(look);
}

static char *put(char *at, weir_str_t text)
{
    memcpy(at, &text.len, sizeof(text.len));
    memcpy(at + sizeof(text.len), text.base, text.len);
    return at + sizeof(text.len) + text.len;
}

static size_t sum(const weir_str_t *texts, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; ++i)
        bytes += sizeof(texts[i].len) + texts[i].len;
    return bytes;
}

static entry_t *create_entry(weir_redis_look_t *look, const weir_remote_ask_t *ask)
{
    size_t len = 1 + sum(ask->keys, ask->key_count) + sum(ask->args, ask->arg_count);
    entry_t *entry = checked(malloc(sizeof(*entry) + len));
    *entry = (entry_t){.look = look, .len = len};
    char *at = entry->question;
    *at++ = (char)ask->script;
    for (size_t i = 0; i < ask->key_count; ++i)
        at = put(at, ask->keys[i]);
    for (size_t i = 0; i < ask->arg_count; ++i)
        at = put(at, ask->args[i]);
    return entry;
}

/* NULL: this was not asked before. */
static const entry_t *find_entry(const weir_redis_look_t *look, const entry_t *like)
{
    const entry_t *entry = look->entries;
    while (entry != NULL && (entry->len != like->len || memcmp(entry->question, like->question, like->len) != 0))
        entry = entry->next;
    return entry;
}

static void ask_redis(weir_redis_look_t *look, entry_t *entry, const weir_remote_ask_t *question)
{
    weir_remote_ask_t ask = *question;
    ask.timeout_ns = look->timeout_ns;
    ask.on_end = on_end;
    ask.context = entry;
    if (look->look.is_over || !look->remote->ask(look->remote, &ask)) {
        entry->looked.state = WEIR_REDIS_LOOK_FAILED;
        return;
    }
    ++look->look.waits;
}

const weir_redis_looked_t *weir_redis_look_ask(weir_redis_look_t *look, const weir_remote_ask_t *ask)
{
    static const weir_redis_looked_t never = {.state = WEIR_REDIS_LOOK_FAILED};
    entry_t *asked = create_entry(look, ask);
    const entry_t *entry = find_entry(look, asked);
    if (entry != NULL) {
        free(asked);
    } else {
        asked->next = look->entries;
        look->entries = asked;
        ask_redis(look, asked, ask);
        entry = asked;
    }
    bool is_late = look->look.is_over && entry->looked.state == WEIR_REDIS_LOOK_WAITS;
    look->look.has_failed |= is_late || entry->looked.state == WEIR_REDIS_LOOK_FAILED;
    return is_late ? &never : &entry->looked;
}

/* --- limits --- */

static void take_answer(weir_store_item_t *item, const weir_redis_looked_t *looked)
{
    static const int64_t us = 1000;
    const int64_t *told = looked->numbers + 2; /* behind `admitted` and `now` */
    item->is_unknown = looked->state != WEIR_REDIS_LOOK_TOLD;
    item->kept = WEIR_KEPT_NOWHERE;
    item->overflowed = false;
    item->charged_ns = -1;
    item->admitted = item->is_unknown || told[0] != 0;
    item->refusal = item->admitted ? WEIR_STORE_FREE : WEIR_STORE_LIMITED;
    item->remaining = item->is_unknown ? weir_store_quota_size(item->quota) : told[1];
    item->reset_ns = item->is_unknown || told[2] < 0 ? -1 : told[2] * us;
    item->retry_after_ns = told[3] < 0 ? -1 : told[3] * us;
}

void weir_redis_look_peek(weir_redis_look_t *look, weir_str_t prefix, weir_store_item_t *item)
{
    char text[WEIR_REDIS_ROW_NAME_MAX];
    weir_redis_row_t row;
    weir_redis_args_t args;
    weir_str_t name = {text, weir_redis_row_name(text, prefix, item)};
    weir_redis_row_init(&row, item, 0);
    weir_redis_args_init(&args);
    weir_redis_args_put_number(&args, 0);
    weir_redis_args_put_row(&args, &row, 0, item->cost, 0);
    take_answer(item, weir_redis_look_ask(look, &(weir_remote_ask_t){.script = WEIR_SCRIPT_decide,
                                                                     .keys = &name,
                                                                     .key_count = 1,
                                                                     .args = args.entries,
                                                                     .arg_count = args.count}));
}

bool weir_redis_look_reset(weir_redis_look_t *look, weir_str_t prefix, const weir_store_item_t *item)
{
    char text[WEIR_REDIS_ROW_NAME_MAX];
    weir_str_t name = {text, weir_redis_row_name(text, prefix, item)};
    return weir_redis_look_ask(look, &(weir_remote_ask_t){.script = WEIR_SCRIPT_forget, .keys = &name, .key_count = 1})->state ==
           WEIR_REDIS_LOOK_TOLD;
}
