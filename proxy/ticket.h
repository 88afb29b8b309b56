#ifndef WEIR_PROXY_TICKET_H
#define WEIR_PROXY_TICKET_H

/* Names for exchanges that wait, for those who know nothing of them: other threads, and answers that may come too late.
 *
 * A ticket is of one worker and is never given again: telling one that was closed does nothing. */

#include "server.h"

typedef struct weir_tickets weir_tickets_t;

weir_tickets_t *weir_tickets_create(void);
void weir_tickets_destroy(weir_tickets_t *tickets);

weir_ticket_t weir_ticket_open(weir_worker_t *worker, void *owner);
void weir_ticket_close(weir_worker_t *worker, weir_ticket_t ticket);
void *weir_ticket_owner(const weir_worker_t *worker, weir_ticket_t ticket); /* NULL: it was closed */

/* From any thread: the ticket's exchange asks its chain again, in a turn of its worker to come. */
void weir_ticket_tell(weir_server_t *server, weir_ticket_t ticket);

#endif
