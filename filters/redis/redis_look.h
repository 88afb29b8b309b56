#ifndef WEIR_FILTERS_REDIS_REDIS_LOOK_H
#define WEIR_FILTERS_REDIS_REDIS_LOOK_H

/* What an operator's page asks of Redis (weir_store_look_t): each thing once, however often the page is made.
 *
 *     make --asks--> waits --answered--> on_told --> make again: it is told
 *                      '--is_over, lost, refused--> make again: nobody knows
 *
 * Control's thread alone. A look that is closed leaves its asks to themselves, and goes when they have ended. */

#include "redis_dedup.h"
#include "remote.h"

typedef struct weir_redis_look weir_redis_look_t;

/* timeout_ns: of each ask. The remote outlives it, and tells it of the end of all asks. */
weir_store_look_t *weir_redis_look_open(weir_remote_t *remote, int64_t timeout_ns, void (*on_told)(void *context), void *context);
void weir_redis_look_close(weir_store_look_t *look);
/* The one that this thread's calls are for; NULL: there is none. */
void weir_redis_look_use(weir_store_look_t *look);
weir_redis_look_t *weir_redis_look_current(void);

enum { WEIR_REDIS_LOOK_NUMBERS_MAX = 6, WEIR_REDIS_LOOK_WORD_MAX = 8 };

typedef struct {
    enum { WEIR_REDIS_LOOK_WAITS, WEIR_REDIS_LOOK_TOLD, WEIR_REDIS_LOOK_FAILED } state;
    /* TOLD: the integers of what came, in their order, 0 where there are no more, and its last text */
    int64_t numbers[WEIR_REDIS_LOOK_NUMBERS_MAX];
    char word[WEIR_REDIS_LOOK_WORD_MAX];
} weir_redis_looked_t;

/* Of `ask` all but what is about its end. Lives as long as the look. */
const weir_redis_looked_t *weir_redis_look_ask(weir_redis_look_t *look, const weir_remote_ask_t *ask);

/* As weir_store_t has them, of what is in Redis. */
void weir_redis_look_peek(weir_redis_look_t *look, weir_str_t prefix, weir_store_item_t *item);
bool weir_redis_look_reset(weir_redis_look_t *look, weir_str_t prefix, const weir_store_item_t *item);
/* redis_look_dedup.c */
weir_store_claim_told_t weir_redis_look_claim(weir_redis_look_t *look, weir_redis_dedups_t *dedups, weir_store_claim_t *claim);
bool weir_redis_look_drop(weir_redis_look_t *look, weir_redis_dedups_t *dedups, weir_store_dedup_t *handle, weir_store_key_t key);

#endif
