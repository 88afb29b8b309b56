#include "dial.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include "../conf/reasons.h"
#include "connect.h"
#include "resolver.h"
#include "sock_io.h"
#include "upstream.h"

static const int64_t SHARE_NS_MIN = 100 * INT64_C(1000000); /* of an address, if there is as much left */

/* RESOLVE -> CONNECT (-> HANDSHAKE) -> ended; a failure of the last two leads to CONNECT with the next address. */
typedef enum { RESOLVE, CONNECT, HANDSHAKE } phase_t;

struct weir_dial {
    weir_worker_t *worker;
    weir_snapshot_t *snapshot; /* held */
    const weir_conf_upstream_t *conf;
    weir_upstream_t *upstream;
    weir_tls_context_t *context; /* NULL: no TLS */
    void (*on_end)(void *argument, const weir_dialled_t *dialled);
    void *argument;
    phase_t phase;
    int64_t until_ns;
    h2o_timeout_entry_t timer;
    weir_resolve_t *resolve;
    h2o_socket_t *sock;
    weir_dialled_t failed; /* how, until now: what TLS says tells most */
    size_t address;        /* the one that is tried */
    weir_addresses_t addresses;
};

static void try_next(weir_dial_t *dial);

/* --- the end --- */

static void destroy(weir_dial_t *dial)
{
    weir_timer_stop(&dial->timer);
    if (dial->resolve != NULL)
        weir_resolve_cancel(dial->resolve);
    if (dial->sock != NULL)
        weir_sock_close(dial->sock);
    weir_worker_let_go(dial->worker, dial->snapshot);
    free(dial);
}

void weir_dial_cancel(weir_dial_t *dial)
{
    destroy(dial);
}

static void end(weir_dial_t *dial, weir_dialled_t dialled)
{
    void (*on_end)(void *argument, const weir_dialled_t *dialled) = dial->on_end;
    void *argument = dial->argument;
    destroy(dial);
    on_end(argument, &dialled);
}

static uint64_t address_of(const weir_dial_t *dial)
{
    return weir_upstream_address((const struct sockaddr *)&dial->addresses.entries[dial->address]);
}

static void succeed(weir_dial_t *dial)
{
    weir_dialled_t dialled = {.sock = dial->sock, .address = address_of(dial)};
    dial->sock = NULL;
    end(dial, dialled);
}

/* On to the next address. */
static void leave_address(weir_dial_t *dial, weir_reason_t reason, const char *detail)
{
    weir_upstream_avoid(dial->upstream, dial->worker, address_of(dial));
    if (dial->failed.reason != WEIR_REASON_TLS_FAILED)
        dial->failed = (weir_dialled_t){.reason = reason, .detail = detail};
    if (dial->sock != NULL)
        weir_sock_close(dial->sock);
    dial->sock = NULL;
    ++dial->address;
    try_next(dial);
}

/* --- time --- */

static void on_late(h2o_timeout_entry_t *entry)
{
    weir_dial_t *dial = H2O_STRUCT_FROM_MEMBER(weir_dial_t, timer, entry);
    switch (dial->phase) {
    case RESOLVE:
        end(dial, (weir_dialled_t){.reason = WEIR_REASON_TIMEOUT_CONNECT,
                                   .detail = "the upstream's name was not resolved in time"});
        return;
    case CONNECT:
        leave_address(dial, WEIR_REASON_TIMEOUT_CONNECT, NULL);
        return;
    case HANDSHAKE:
        leave_address(dial, WEIR_REASON_TIMEOUT_CONNECT, "the TLS handshake was not over in time");
        return;
    }
}

static int64_t left_ns(const weir_dial_t *dial)
{
    return dial->until_ns - weir_clock_turn_ns;
}

static int64_t share_ns(const weir_dial_t *dial)
{
    int64_t left = left_ns(dial), share = left / (int64_t)(dial->addresses.size - dial->address);
    if (share < SHARE_NS_MIN)
        share = SHARE_NS_MIN;
    return share < left ? share : left;
}

/* --- TLS --- */

static void look_at_handshake(weir_dial_t *dial)
{
    const weir_tls_t *tls = weir_tls_of(dial->sock);
    if (weir_tls_error(tls) != NULL) {
        leave_address(dial, WEIR_REASON_TLS_FAILED, weir_tls_error(tls));
    } else if (weir_tls_is_ready(tls)) {
        h2o_socket_read_stop(dial->sock);
        succeed(dial);
    }
}

static void on_handshake(h2o_socket_t *sock, const char *err)
{
    weir_dial_t *dial = sock->data;
    ssize_t got = weir_sock_read(sock, dial->worker->scratch, WEIR_SCRATCH_BYTES);
    if (got >= 0)
        leave_address(dial, WEIR_REASON_TLS_FAILED, "the upstream talks, or hangs up, without being asked");
    else
        look_at_handshake(dial);
}

static void begin_handshake(weir_dial_t *dial)
{
    dial->phase = HANDSHAKE; /* what its address has left of its time goes on */
    h2o_socket_dont_read(dial->sock, 1);
    weir_tls_connect(dial->sock, dial->context, dial->worker->index);
    h2o_socket_read_start(dial->sock, on_handshake);
    look_at_handshake(dial);
}

/* --- connecting --- */

static void on_connected(h2o_socket_t *sock, const char *err)
{
    weir_dial_t *dial = sock->data;
    int error = weir_connect_error(sock);
    if (error != 0)
        leave_address(dial, WEIR_REASON_CONNECT_FAILED, strerrordesc_np(error));
    else if (dial->context != NULL)
        begin_handshake(dial);
    else
        succeed(dial);
}

/* Of descriptors, ports or memory: no fault of the upstream's. */
static bool is_own_shortage(int error)
{
    return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM || error == EADDRNOTAVAIL;
}

static void try_next(weir_dial_t *dial)
{
    if (dial->address == dial->addresses.size || left_ns(dial) <= 0) {
        end(dial, dial->failed);
        return;
    }
    int fd = weir_connect_begin(&dial->addresses.entries[dial->address]);
    if (fd == -1 && is_own_shortage(errno)) {
        end(dial, (weir_dialled_t){.reason = WEIR_REASON_OVERLOADED, .detail = strerrordesc_np(errno)});
        return;
    }
    if (fd == -1) {
        leave_address(dial, WEIR_REASON_CONNECT_FAILED, strerrordesc_np(errno));
        return;
    }
    dial->phase = CONNECT;
    dial->sock = h2o_evloop_socket_create(dial->worker->ctx.loop, fd, 0);
    dial->sock->data = dial;
    weir_timer_start(dial->worker, &dial->timer, share_ns(dial));
    h2o_socket_notify_write(dial->sock, on_connected);
}

/* --- addresses --- */

/* Of those from `from` on, the first of this family, or `size`. */
static size_t find_family(const weir_addresses_t *addresses, size_t from, sa_family_t family)
{
    while (from < addresses->size && addresses->entries[from].ss_family != family)
        ++from;
    return from;
}

static void move_to(weir_addresses_t *addresses, size_t to, size_t from)
{
    struct sockaddr_storage moved = addresses->entries[from];
    memmove(addresses->entries + to + 1, addresses->entries + to, (from - to) * sizeof(moved));
    addresses->entries[to] = moved;
}

/* As RFC 8305, 4: a family that leads nowhere costs one share, not all. */
static void interleave(weir_addresses_t *addresses)
{
    for (size_t i = 1; i < addresses->size; ++i) {
        sa_family_t other = addresses->entries[i - 1].ss_family == AF_INET6 ? AF_INET : AF_INET6;
        size_t found = find_family(addresses, i, other);
        if (found == addresses->size)
            return;
        move_to(addresses, i, found);
    }
}

static void put_avoided_last(weir_dial_t *dial)
{
    weir_addresses_t *addresses = &dial->addresses;
    for (size_t i = 0, good = 0; addresses->size > 1 && i < addresses->size; ++i) {
        uint64_t address = weir_upstream_address((const struct sockaddr *)&addresses->entries[i]);
        if (!weir_upstream_avoids(dial->upstream, dial->worker, address))
            move_to(addresses, good++, i);
    }
}

static void on_resolved(void *argument, const weir_addresses_t *addresses)
{
    weir_dial_t *dial = argument;
    dial->resolve = NULL;
    if (addresses->size == 0) {
        end(dial, (weir_dialled_t){.reason = WEIR_REASON_DNS_FAILED, .detail = addresses->error});
        return;
    }
    if (addresses != &dial->addresses)
        dial->addresses = *addresses;
    interleave(&dial->addresses);
    put_avoided_last(dial);
    try_next(dial);
}

static void take_unix_path(weir_dial_t *dial)
{
    struct sockaddr_un *sun = (struct sockaddr_un *)&dial->addresses.entries[0];
    *sun = (struct sockaddr_un){.sun_family = AF_UNIX};
    strncpy(sun->sun_path, dial->conf->url.path, sizeof(sun->sun_path) - 1);
    dial->addresses.size = 1;
    try_next(dial);
}

void weir_dial_begin(weir_dial_t *dial)
{
    const weir_conf_upstream_t *conf = dial->conf;
    dial->until_ns = weir_clock_turn_ns + conf->timeouts.connect_ns;
    if (conf->url.kind == WEIR_UPSTREAM_UNIX) {
        take_unix_path(dial);
        return;
    }
    weir_timer_start(dial->worker, &dial->timer, conf->timeouts.connect_ns);
    dial->resolve = weir_resolver_ask(dial->worker->server->resolver, dial->worker, conf->url.host, conf->url.port,
                                      conf->dns.refresh_ns, &dial->addresses, on_resolved, dial);
    if (dial->resolve == NULL)
        on_resolved(dial, &dial->addresses);
}

weir_dial_t *weir_dial_create(weir_worker_t *worker, weir_snapshot_t *snapshot, size_t upstream,
                              void (*on_end)(void *argument, const weir_dialled_t *dialled), void *argument)
{
    weir_dial_t *dial = h2o_mem_alloc(sizeof(*dial));
    memset(dial, 0, offsetof(weir_dial_t, addresses));
    dial->worker = worker;
    dial->snapshot = snapshot;
    dial->conf = &snapshot->conf->upstreams.entries[upstream];
    dial->upstream = snapshot->upstreams[upstream];
    dial->context = weir_tls_of_upstream(snapshot->tls, upstream);
    dial->on_end = on_end;
    dial->argument = argument;
    dial->timer.cb = on_late;
    dial->failed.reason = WEIR_REASON_TIMEOUT_CONNECT;
    weir_worker_hold(worker, snapshot);
    return dial;
}
