#include "ticket.h"

#include <assert.h>
#include <stdlib.h>
#include "exchange.h"

typedef struct {
    void *owner; /* NULL: free */
    uint64_t generation;
    uint32_t next_free;
} slot_t;

struct weir_tickets {
    slot_t *slots;
    uint32_t capacity, free; /* free: the first one; capacity: none */
};

weir_tickets_t *weir_tickets_create(void)
{
    weir_tickets_t *tickets = h2o_mem_alloc(sizeof(*tickets));
    *tickets = (weir_tickets_t){0};
    return tickets;
}

void weir_tickets_destroy(weir_tickets_t *tickets)
{
    free(tickets->slots);
    free(tickets);
}

static void grow(weir_tickets_t *tickets)
{
    uint32_t before = tickets->capacity, capacity = before != 0 ? before * 2 : 16;
    tickets->slots = h2o_mem_realloc(tickets->slots, capacity * sizeof(*tickets->slots));
    for (uint32_t i = before; i < capacity; ++i)
        tickets->slots[i] = (slot_t){.next_free = i + 1};
    tickets->capacity = capacity;
}

weir_ticket_t weir_ticket_open(weir_worker_t *worker, void *owner)
{
    weir_tickets_t *tickets = worker->tickets;
    if (tickets->free == tickets->capacity)
        grow(tickets);
    uint32_t at = tickets->free;
    slot_t *slot = &tickets->slots[at];
    tickets->free = slot->next_free;
    slot->owner = owner;
    return (weir_ticket_t){.worker = (uint32_t)worker->index, .slot = at, .generation = ++slot->generation};
}

void *weir_ticket_owner(const weir_worker_t *worker, weir_ticket_t ticket)
{
    const slot_t *slot = &worker->tickets->slots[ticket.slot];
    return slot->generation == ticket.generation ? slot->owner : NULL;
}

void weir_ticket_close(weir_worker_t *worker, weir_ticket_t ticket)
{
    weir_tickets_t *tickets = worker->tickets;
    slot_t *slot = &tickets->slots[ticket.slot];
    assert(slot->owner != NULL && slot->generation == ticket.generation);
    slot->owner = NULL;
    slot->next_free = tickets->free;
    tickets->free = ticket.slot;
}

static void on_told(weir_worker_t *worker, void *argument)
{
    weir_ticket_t *ticket = argument;
    void *owner = weir_ticket_owner(worker, *ticket);
    free(ticket);
    if (owner != NULL)
        weir_exchange_wake(owner);
}

void weir_ticket_tell(weir_server_t *server, weir_ticket_t ticket)
{
    weir_ticket_t *copy = h2o_mem_alloc(sizeof(*copy));
    *copy = ticket;
    weir_worker_post(server->workers[ticket.worker], on_told, copy);
}
