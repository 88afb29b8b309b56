#ifndef WEIR_PROXY_DEPARTURES_H
#define WEIR_PROXY_DEPARTURES_H

/* Tells when a peer leaves whose socket is not being read - its half-close would stay behind the unread bytes.
 *
 * One nested epoll a worker, edge-triggered for EPOLLRDHUP, which the loop's own poll never asks for. A connection is
 * added when its reading pauses; closing its descriptor takes it out. */

#include "server.h"

struct weir_departures *weir_departures_create(weir_worker_t *worker);
void weir_departures_destroy(struct weir_departures *departures);

typedef struct weir_departure {
    void (*on_departure)(struct weir_departure *departure);
} weir_departure_t;

/* `departure` must live until `fd` is closed. */
void weir_departures_watch(struct weir_departures *departures, int fd, weir_departure_t *departure);
/* `departure` may go before `fd` does; another one may be watched for after. */
void weir_departures_forget(struct weir_departures *departures, int fd);

#endif
