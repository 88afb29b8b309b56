#include "memory_queue.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void *checked(void *memory)
{
    assert(memory != NULL);
    return memory;
}

/* News */

void weir_memory_news_init(weir_memory_news_t *news)
{
    news->count = 0;
    news->capacity = WEIR_MEMORY_NEWS_FEW;
    news->more = NULL;
}

static void news_add(weir_memory_news_t *news, weir_ticket_t ticket)
{
    if (news->count == news->capacity) {
        size_t bytes = news->capacity * sizeof(ticket);
        weir_ticket_t *more = checked(realloc(news->more, 2 * bytes));
        if (news->more == NULL)
            memcpy(more, news->few, bytes);
        news->more = more;
        news->capacity *= 2;
    }
    (news->more != NULL ? news->more : news->few)[news->count++] = ticket;
}

void weir_memory_news_tell(weir_memory_news_t *news, const weir_store_teller_t *teller)
{
    const weir_ticket_t *tickets = news->more != NULL ? news->more : news->few;
    for (size_t i = 0; i < news->count; ++i)
        teller->tell(teller->context, tickets[i]);
    free(news->more);
    weir_memory_news_init(news);
}

/* Under the queue's lock */

static weir_store_place_t *place_of(weir_waiter_t *waiter)
{
    return (weir_store_place_t *)waiter;
}

static void grant(weir_lanes_t *lanes, weir_slots_t *slots, weir_memory_news_t *news)
{
    weir_waiter_t *waiter;
    while ((waiter = weir_lanes_grant(lanes, slots->line, slots->used)) != NULL) {
        ++slots->used;
        news_add(news, place_of(waiter)->ticket);
    }
    if (weir_line_is_empty(slots->line)) {
        weir_line_free(slots->line);
        slots->line = NULL;
    }
    assert(slots->used != 0 || slots->line == NULL);
}

static void set_limit(weir_waiter_t *waiter, void *quotas)
{
    const weir_store_place_t *place = place_of(waiter);
    waiter->limit = weir_conf_quota_of(quotas, place->tenant, place->tenant_len)->limit;
}

/* The queue */

void weir_memory_queue_init(weir_memory_queue_t *queue)
{
    pthread_mutex_init(&queue->lock, NULL);
    queue->lanes = NULL;
    queue->quotas = NULL;
}

void weir_memory_queue_dispose(weir_memory_queue_t *queue)
{
    weir_lanes_destroy(queue->lanes);
    pthread_mutex_destroy(&queue->lock);
}

void weir_memory_queue_resize(weir_memory_queue_t *queue, const weir_conf_limit_t *limit)
{
    size_t size = (size_t)limit->queue.size, per_tenant = (size_t)limit->queue.per_tenant_size;
    pthread_mutex_lock(&queue->lock);
    if (queue->lanes != NULL)
        weir_lanes_resize(queue->lanes, size, per_tenant);
    else if (size != 0)
        queue->lanes = weir_lanes_create(size, per_tenant);
    pthread_mutex_unlock(&queue->lock);
}

void weir_memory_queue_set_quotas(weir_memory_queue_t *queue, const weir_conf_limit_t *quotas)
{
    pthread_mutex_lock(&queue->lock);
    queue->quotas = quotas;
    pthread_mutex_unlock(&queue->lock);
}

static weir_store_place_t *place_create(const weir_store_item_t *item, weir_store_key_t tenant, weir_ticket_t ticket)
{
    weir_str_t name = item->queueing->tenant;
    weir_store_place_t *place = checked(malloc(sizeof(*place) + name.len));
    *place = (weir_store_place_t){
        .waiter = {.tenant_low = tenant.low, .tenant_high = tenant.high, .lane = item->queueing->lane},
        .ticket = ticket,
        .key = item->key,
        .overflowed = item->overflowed,
        .tenant_len = name.len,
    };
    if (name.len != 0)
        memcpy(place->tenant, name.base, name.len);
    return place;
}

bool weir_memory_queue_enter(weir_memory_queue_t *queue, weir_slots_t *slots, const weir_store_item_t *item,
                             weir_store_key_t tenant, weir_ticket_t ticket, weir_memory_news_t *news)
{
    weir_store_place_t *place = place_create(item, tenant, ticket);
    weir_waiter_t *displaced = NULL;
    pthread_mutex_lock(&queue->lock);
    set_limit(&place->waiter, (void *)queue->quotas);
    bool has_entered = weir_lanes_enter(queue->lanes, &slots->line, &place->waiter, &displaced);
    if (displaced != NULL) /* maybe out of another row's line; if that is empty now, it goes with the next slot there */
        news_add(news, place_of(displaced)->ticket);
    grant(queue->lanes, slots, news); /* whom those that wait could not pass, as theirs is a smaller limit */
    pthread_mutex_unlock(&queue->lock);
    item->queueing->place = has_entered ? place : NULL;
    if (!has_entered)
        free(place);
    return has_entered;
}

weir_waiter_state_t weir_memory_queue_ask(weir_memory_queue_t *queue, weir_store_queueing_t *queueing)
{
    pthread_mutex_lock(&queue->lock);
    weir_waiter_state_t state = queueing->place->waiter.state;
    pthread_mutex_unlock(&queue->lock);
    if (state == WEIR_WAITER_WAITING)
        return state;
    free(queueing->place);
    queueing->place = NULL;
    return state;
}

weir_waiter_state_t weir_memory_queue_leave(weir_memory_queue_t *queue, weir_store_queueing_t *queueing)
{
    weir_waiter_t *waiter = &queueing->place->waiter;
    pthread_mutex_lock(&queue->lock);
    weir_waiter_state_t state = waiter->state;
    if (state == WEIR_WAITER_WAITING)
        weir_lanes_leave(queue->lanes, waiter);
    pthread_mutex_unlock(&queue->lock);
    free(queueing->place);
    queueing->place = NULL;
    return state;
}

void weir_memory_queue_serve(weir_memory_queue_t *queue, weir_slots_t *slots, weir_memory_news_t *news)
{
    if (slots->line == NULL)
        return;
    pthread_mutex_lock(&queue->lock);
    grant(queue->lanes, slots, news);
    pthread_mutex_unlock(&queue->lock);
}

void weir_memory_queue_change(weir_memory_queue_t *queue, weir_slots_t *slots, weir_memory_news_t *news)
{
    if (slots->line == NULL)
        return;
    pthread_mutex_lock(&queue->lock);
    weir_line_each(slots->line, set_limit, (void *)queue->quotas);
    grant(queue->lanes, slots, news);
    pthread_mutex_unlock(&queue->lock);
}

void weir_memory_queue_depth(weir_memory_queue_t *queue, size_t depth[WEIR_LANES])
{
    pthread_mutex_lock(&queue->lock);
    for (weir_lane_t lane = 0; lane < WEIR_LANES; ++lane)
        depth[lane] = queue->lanes != NULL ? weir_lanes_depth(queue->lanes, lane) : 0;
    pthread_mutex_unlock(&queue->lock);
}
