#ifndef WEIR_PROXY_BINDING_H
#define WEIR_PROXY_BINDING_H

/* The listening sockets of one address, and the listener they accept for. Control thread.
 *
 * Guarantee: an address that another process listens on is an error, though weir's own workers share each address. */

#include "server.h"

struct weir_binding {
    weir_conf_address_t address; /* own copies */
    weir_listener_t *listener;   /* one reference */
    int *fds;                    /* those not handed to a worker yet; -1: handed over */
    size_t count;                /* of sockets: one a worker for data listeners, one for control's own */
    size_t open_count;           /* of those, not closed yet */
    struct {
        bool ours;
        uint64_t device, inode;
    } file;      /* of a unix socket */
    bool wanted; /* reload.c */
    weir_binding_t *next;
};

/* Binds and listens. `shares_port`: a socket of ours that is on its way out has the port; it may be bound beside it.
 * NULL and *error set (malloc'ed) when it cannot be had. */
weir_binding_t *weir_binding_create(const weir_conf_address_t *address, size_t count, bool shares_port, char **error)
    __attribute__((warn_unused_result));
bool weir_binding_is_at(const weir_binding_t *binding, const weir_conf_address_t *address);
/* Hands over the index-th socket; it is the caller's. */
int weir_binding_take(weir_binding_t *binding, size_t index);
/* Removes a unix socket's file, if it is still the one that was made; new callers find none. */
void weir_binding_unlink(weir_binding_t *binding);
/* Closes what was not handed over. */
void weir_binding_destroy(weir_binding_t *binding);

#endif
