#ifndef WEIR_PROXY_RESOLVER_H
#define WEIR_PROXY_RESOLVER_H

/* Names to addresses, off the loop, with a memory.
 *
 * A name's addresses are kept for `refresh`; who asks in its second half starts a look-up in the background, so that a
 * name in use is never waited for. Who asks later waits for one - where nothing comes for 100 ms, the old addresses are
 * better than none; so they are where it fails, and a failure is kept for one second. At most one look-up a name is under
 * way. Numeric addresses are answered at once.
 * Thread-safe; answers are delivered on the asking worker's thread. */

#include <sys/socket.h>
#include "server.h"

enum { WEIR_RESOLVER_ADDRESSES_MAX = 16 };

typedef struct {
    struct sockaddr_storage entries[WEIR_RESOLVER_ADDRESSES_MAX]; /* port set; IPv6 and IPv4 in the order of RFC 6724 as getaddrinfo gives */
    size_t size;
    const char *error; /* size 0: a static text such as "name does not exist" */
} weir_addresses_t;

typedef struct weir_resolver weir_resolver_t;
typedef struct weir_resolve weir_resolve_t; /* a question that is not answered yet */

weir_resolver_t *weir_resolver_create(void);
void weir_resolver_destroy(weir_resolver_t *resolver);

/* Answers at once (returns NULL, *addresses filled) from a numeric host or memory; else returns a question, whose `answer` is called once on this
 * worker's thread, unless it is cancelled. */
weir_resolve_t *weir_resolver_ask(weir_resolver_t *resolver, weir_worker_t *worker, const char *host, uint16_t port,
                                  int64_t refresh_ns, weir_addresses_t *addresses,
                                  void (*answer)(void *argument, const weir_addresses_t *addresses), void *argument);
void weir_resolve_cancel(weir_resolve_t *question); /* on the asking worker's thread, before the answer */

#endif
