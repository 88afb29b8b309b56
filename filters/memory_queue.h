#ifndef WEIR_FILTERS_MEMORY_QUEUE_H
#define WEIR_FILTERS_MEMORY_QUEUE_H

/* Who waits for the slots of one limit of the store in memory.
 *
 * Guarantee: nobody waits who could have a slot - of each in a line, `used` is at least the limit - and a row without
 * slots in use has no line. A slot that is granted is in use from then on, until its waiter takes it up or leaves.
 *
 * The lock of a row is the caller's, in each function that has the row's slots; the queue's own is taken inside, after
 * it, as waiters of other rows may have to give way. What there is to tell is collected, and told without locks. */

#include <pthread.h>
#include "core/lanes.h"
#include "rows.h"
#include "store.h"

struct weir_store_place {
    weir_waiter_t waiter; /* first; under the queue's lock, what follows does not change */
    weir_ticket_t ticket;
    weir_store_key_t key;
    bool overflowed;
    size_t tenant_len;
    char tenant[];
};

typedef struct {
    pthread_mutex_t lock;
    weir_lanes_t *lanes; /* NULL: there never was a queue */
    const weir_conf_limit_t *quotas;
} weir_memory_queue_t;

/* Who is to be told that it has a slot, or was displaced. */
enum { WEIR_MEMORY_NEWS_FEW = 8 };

typedef struct {
    size_t count, capacity;
    weir_ticket_t *more; /* where there are more than a few */
    weir_ticket_t few[WEIR_MEMORY_NEWS_FEW];
} weir_memory_news_t;

void weir_memory_news_init(weir_memory_news_t *news);
/* Tells and forgets; the caller holds no lock. */
void weir_memory_news_tell(weir_memory_news_t *news, const weir_store_teller_t *teller);

void weir_memory_queue_init(weir_memory_queue_t *queue);
void weir_memory_queue_dispose(weir_memory_queue_t *queue); /* nobody waits */
/* As the configuration says; who waits already stays. */
void weir_memory_queue_resize(weir_memory_queue_t *queue, const weir_conf_limit_t *limit);
/* By which tenants wait, until there are others; a change of each row follows. */
void weir_memory_queue_set_quotas(weir_memory_queue_t *queue, const weir_conf_limit_t *quotas);

/* Puts the item into its row's line, as item->queueing->place, to wait by the quotas in force; false: there is no
 * room. `tenant`: a hash of its name. */
bool weir_memory_queue_enter(weir_memory_queue_t *queue, weir_slots_t *slots, const weir_store_item_t *item,
                             weir_store_key_t tenant, weir_ticket_t ticket, weir_memory_news_t *news);
/* What became of the item's place, which is gone with the answer unless it is WAITING. GRANTED: the slot is the
 * caller's now, to be used or given back. */
weir_waiter_state_t weir_memory_queue_ask(weir_memory_queue_t *queue, weir_store_queueing_t *queueing);
/* The same, but that a waiting one leaves. */
weir_waiter_state_t weir_memory_queue_leave(weir_memory_queue_t *queue, weir_store_queueing_t *queueing);

/* A slot of the row was given back, or somebody left its line: grants what can be. */
void weir_memory_queue_serve(weir_memory_queue_t *queue, weir_slots_t *slots, weir_memory_news_t *news);
/* The same after the quotas changed. */
void weir_memory_queue_change(weir_memory_queue_t *queue, weir_slots_t *slots, weir_memory_news_t *news);

void weir_memory_queue_depth(weir_memory_queue_t *queue, size_t depth[WEIR_LANES]);

#endif
