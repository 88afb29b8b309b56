#include "accept.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "h1.h"
#include "tls.h"

enum { ACCEPTS_PER_TURN = 16 };

static const int64_t QUIET_NS = 100 * INT64_C(1000000); /* nothing came for that long: a retired socket is empty */
static const int64_t FULL_NS = 50 * INT64_C(1000000);   /* another worker's connection may have ended */
static const int64_t SHORT_NS = 100 * INT64_C(1000000); /* of descriptors or memory */

typedef struct weir_acceptor {
    weir_worker_t *worker;
    weir_listener_t *listener; /* one reference */
    const void *binding;
    void (*on_closed)(weir_worker_t *worker, const void *binding);
    h2o_socket_t *sock;
    bool is_unix;
    bool retiring;
    h2o_timeout_entry_t quiet; /* runs while retiring */
    struct weir_acceptor *next;
} acceptor_t;

/* --- pausing: all of a worker's sockets at once --- */

static void on_connectable(h2o_socket_t *sock, const char *err);

void weir_accept_resume(weir_worker_t *worker)
{
    if (!worker->accept_paused)
        return;
    worker->accept_paused = false;
    weir_timer_stop(&worker->accept_timer);
    for (acceptor_t *acceptor = worker->acceptors; acceptor != NULL; acceptor = acceptor->next) {
        h2o_socket_read_start(acceptor->sock, on_connectable);
        if (acceptor->retiring)
            weir_timer_start(worker, &acceptor->quiet, QUIET_NS);
    }
}

static void on_pause_over(h2o_timeout_entry_t *entry)
{
    weir_accept_resume(H2O_STRUCT_FROM_MEMBER(weir_worker_t, accept_timer, entry));
}

static void pause_accepting(weir_worker_t *worker, int64_t ns)
{
    for (acceptor_t *acceptor = worker->acceptors; acceptor != NULL; acceptor = acceptor->next) {
        h2o_socket_read_stop(acceptor->sock);
        weir_timer_stop(&acceptor->quiet);
    }
    worker->accept_paused = true;
    worker->accept_timer.cb = on_pause_over;
    weir_timer_start(worker, &worker->accept_timer, ns);
}

/* --- accepting --- */

static void log_shortage(int error)
{
    static _Atomic int64_t logged_ns;
    int64_t now_ns = weir_clock_now_ns(), last_ns = atomic_load(&logged_ns);
    if ((last_ns == 0 || now_ns - last_ns >= INT64_C(1000000000)) &&
        atomic_compare_exchange_strong(&logged_ns, &last_ns, now_ns))
        weir_log_event(WEIR_LOG_WARN, "accepting connections pauses for %d ms: %s", (int)(SHORT_NS / 1000000),
                       strerror(error));
}

/* A place for one more connection of a caller. Admin and metrics listeners are not bounded by server.max_connections:
 * they must answer when it is reached. */
static bool take_place(weir_worker_t *worker)
{
    if (worker->is_control)
        return true;
    if (atomic_fetch_add(&worker->server->connections, 1) < atomic_load(&worker->server->max_connections))
        return true;
    atomic_fetch_sub(&worker->server->connections, 1);
    return false;
}

static void give_place_back(weir_worker_t *worker)
{
    if (!worker->is_control)
        atomic_fetch_sub(&worker->server->connections, 1);
}

void weir_server_connection_opened(weir_worker_t *worker, weir_listener_t *listener)
{
    weir_listener_acquire(listener);
    ++worker->connection_count;
}

void weir_server_connection_closed(weir_worker_t *worker, weir_listener_t *listener)
{
    --worker->connection_count;
    give_place_back(worker);
    weir_listener_release(listener);
    weir_accept_resume(worker); /* other workers look by themselves, FULL_NS later */
}

/* As the configuration in force has it; NULL: plain. */
static weir_tls_context_t *tls_of(const acceptor_t *acceptor)
{
    size_t index;
    weir_snapshot_t *snapshot = weir_server_snapshot_for(acceptor->worker, acceptor->listener, &index);
    return index != SIZE_MAX ? weir_tls_of_listener(snapshot->tls, index) : NULL;
}

/* Callers do not take the last descriptors: their calls need some too. A new one has the lowest number that is free, so all
 * below it are in use. */
static bool is_among_last(const weir_worker_t *worker, int fd)
{
    enum { SHARE = 4, RESERVE_MAX = 256 };
    struct rlimit limit;
    if (worker->is_control || getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return false;
    rlim_t reserve = limit.rlim_cur / SHARE < RESERVE_MAX ? limit.rlim_cur / SHARE : RESERVE_MAX;
    return (rlim_t)fd >= limit.rlim_cur - reserve;
}

/* It was; whether it is still. */
static bool is_short(acceptor_t *acceptor)
{
    int fd = fcntl(h2o_socket_get_fd(acceptor->sock), F_DUPFD_CLOEXEC, 0);
    bool is_short = fd == -1 || is_among_last(acceptor->worker, fd);
    if (fd != -1)
        close(fd);
    return is_short;
}

/* Packets that came with less are dropped; 0: none are. [::] takes both families, so both are set; one may not apply. */
static bool set_hops_min(int fd, int least)
{
    bool is_set = setsockopt(fd, IPPROTO_IP, IP_MINTTL, &least, sizeof(least)) == 0;
    return setsockopt(fd, IPPROTO_IPV6, IPV6_MINHOPCOUNT, &least, sizeof(least)) == 0 || is_set;
}

typedef enum { ACCEPTED, NONE_WAITS, NO_PLACE, SHORTAGE } accepted_t;

static accepted_t accept_one(acceptor_t *acceptor)
{
    weir_worker_t *worker = acceptor->worker;
    if (worker->accept_short && is_short(acceptor)) {
        log_shortage(EMFILE);
        return SHORTAGE;
    }
    worker->accept_short = false;
    if (!take_place(worker))
        return NO_PLACE;
    h2o_socket_t *sock = h2o_evloop_socket_accept(acceptor->sock);
    if (sock != NULL) {
        weir_tls_context_t *context = tls_of(acceptor);
        if (context != NULL)
            weir_tls_accept(sock, context);
        if (acceptor->retiring && !acceptor->is_unix)
            (void)set_hops_min(h2o_socket_get_fd(sock), 0); /* it has what keep_out_new() set */
        worker->accept_short = is_among_last(worker, h2o_socket_get_fd(sock));
        weir_h1_accept(worker, sock, acceptor->listener);
        return ACCEPTED;
    }
    int error = errno;
    give_place_back(worker);
    if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
        log_shortage(error);
        return SHORTAGE;
    }
    /* The others are a connection's own error, seen early (accept(2)): the next one may be fine. */
    return error == EAGAIN ? NONE_WAITS : ACCEPTED;
}

/* Returns how it ended, NONE_WAITS or the reason of a pause; ACCEPTED when more may wait. */
static accepted_t accept_some(acceptor_t *acceptor)
{
    accepted_t last = ACCEPTED;
    for (int i = 0; i < ACCEPTS_PER_TURN && last == ACCEPTED; ++i)
        last = accept_one(acceptor);
    if (last == NO_PLACE)
        pause_accepting(acceptor->worker, FULL_NS);
    else if (last == SHORTAGE)
        pause_accepting(acceptor->worker, SHORT_NS);
    return last;
}

static void on_connectable(h2o_socket_t *sock, const char *err)
{
    acceptor_t *acceptor = sock->data;
    accepted_t last = accept_some(acceptor);
    if (acceptor->retiring && (last == NONE_WAITS || last == ACCEPTED))
        weir_timer_start(acceptor->worker, &acceptor->quiet, QUIET_NS);
}

void weir_accept_start(weir_worker_t *worker, int fd, bool is_unix, weir_listener_t *listener, const void *binding,
                       void (*on_closed)(weir_worker_t *worker, const void *binding))
{
    acceptor_t *acceptor = h2o_mem_alloc(sizeof(*acceptor));
    *acceptor = (acceptor_t){.worker = worker,
                             .listener = listener,
                             .binding = binding,
                             .on_closed = on_closed,
                             .sock = h2o_evloop_socket_create(worker->ctx.loop, fd, 0),
                             .is_unix = is_unix,
                             .next = worker->acceptors};
    weir_listener_acquire(listener);
    acceptor->sock->data = acceptor;
    worker->acceptors = acceptor;
    h2o_socket_dont_read(acceptor->sock, 1);
    if (!worker->accept_paused)
        h2o_socket_read_start(acceptor->sock, on_connectable);
}

void weir_accept_hand_over(weir_worker_t *worker, const void *binding, weir_listener_t *listener)
{
    for (acceptor_t *acceptor = worker->acceptors; acceptor != NULL; acceptor = acceptor->next) {
        if (acceptor->binding == binding) {
            weir_listener_acquire(listener);
            weir_listener_release(acceptor->listener);
            acceptor->listener = listener;
        }
    }
}

/* --- retiring --- */

static void close_acceptor(acceptor_t *acceptor)
{
    weir_worker_t *worker = acceptor->worker;
    acceptor_t **link = &worker->acceptors;
    while (*link != acceptor)
        link = &(*link)->next;
    *link = acceptor->next;
    weir_timer_stop(&acceptor->quiet);
    h2o_socket_close(acceptor->sock);
    weir_listener_release(acceptor->listener);
    acceptor->on_closed(worker, acceptor->binding);
    free(acceptor);
}

static void on_quiet(h2o_timeout_entry_t *entry)
{
    acceptor_t *acceptor = H2O_STRUCT_FROM_MEMBER(acceptor_t, quiet, entry);
    switch (accept_some(acceptor)) {
    case NONE_WAITS:
        close_acceptor(acceptor);
        break;
    case ACCEPTED:
        weir_timer_start(acceptor->worker, &acceptor->quiet, QUIET_NS);
        break;
    case NO_PLACE:
    case SHORTAGE:
        break; /* goes on when accepting does */
    }
}

/* A socket that is closed while others share its port resets what waits in its queue. So the first packet of each new
 * handshake is dropped - the caller sends it again, to a sibling or to nobody - but not the last of those under way.
 * Some kernels let only CAP_NET_ADMIN attach a filter to a TCP socket. What anybody may ask for is that packets have come
 * with at least so many hops left: systems begin with 64 or 128, and a listener looks at those that begin a handshake. A
 * connection whose handshake ends meanwhile hears its caller once it is accepted. */
static void keep_out_new(int fd)
{
    enum { TCP_FLAGS_AT = 13, TCP_SYN = 0x02, TCP_ACK = 0x10, HOPS_MAX = 255 };
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_AT),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TCP_SYN | TCP_ACK),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TCP_SYN, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    struct sock_fprog filter = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter)) != 0 && !set_hops_min(fd, HOPS_MAX))
        weir_log_event(WEIR_LOG_WARN, "a listener closes without a filter, connections may be lost: %s",
                       strerror(errno));
}

static void retire(acceptor_t *acceptor)
{
    if (acceptor->retiring)
        return;
    acceptor->retiring = true;
    acceptor->quiet.cb = on_quiet;
    if (!acceptor->is_unix)
        keep_out_new(h2o_socket_get_fd(acceptor->sock));
    if (!acceptor->worker->accept_paused)
        weir_timer_start(acceptor->worker, &acceptor->quiet, QUIET_NS);
}

void weir_accept_retire(weir_worker_t *worker, const void *binding)
{
    for (acceptor_t *acceptor = worker->acceptors; acceptor != NULL; acceptor = acceptor->next) {
        if (acceptor->binding == binding)
            retire(acceptor);
    }
}

void weir_accept_retire_all(weir_worker_t *worker)
{
    for (acceptor_t *acceptor = worker->acceptors; acceptor != NULL; acceptor = acceptor->next)
        retire(acceptor);
}

void weir_accept_close_all(weir_worker_t *worker)
{
    weir_timer_stop(&worker->accept_timer);
    while (worker->acceptors != NULL)
        close_acceptor(worker->acceptors);
}
