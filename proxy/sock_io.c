#include "sock_io.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <stdlib.h>
#include <string.h>

enum { COALESCED_BYTES_MAX = 4096 };

/* A head with a short body goes out as one run of bytes: copying it here costs less than a vector costs the kernel. */
static size_t coalesce(char *into, const h2o_iovec_t *bufs, size_t count)
{
    size_t len = 0;
    for (size_t i = 0; i < count; ++i) {
        if (COALESCED_BYTES_MAX - len < bufs[i].len)
            return 0;
        memcpy(into + len, bufs[i].base, bufs[i].len);
        len += bufs[i].len;
    }
    return len;
}

static ssize_t write_now(int fd, const h2o_iovec_t *bufs, size_t count)
{
    char whole[COALESCED_BYTES_MAX];
    struct msghdr message = {.msg_iov = (struct iovec *)bufs, .msg_iovlen = count};
    size_t len = count > 1 ? coalesce(whole, bufs, count) : 0;
    ssize_t written;
    do {
        if (len != 0)
            written = send(fd, whole, len, MSG_NOSIGNAL);
        else if (count == 1)
            written = send(fd, bufs->base, bufs->len, MSG_NOSIGNAL);
        else
            written = sendmsg(fd, &message, MSG_NOSIGNAL);
    } while (written == -1 && errno == EINTR);
    return written;
}

/* Takes `written` bytes off the front of bufs; returns how many entries are used up. */
static size_t advance(h2o_iovec_t *bufs, size_t count, size_t written)
{
    size_t i = 0;
    while (i < count && written >= bufs[i].len)
        written -= bufs[i++].len;
    if (i < count) {
        bufs[i].base += written;
        bufs[i].len -= written;
    }
    return i;
}

static h2o_iovec_t copy_rest(const h2o_iovec_t *bufs, size_t count)
{
    size_t len = 0, offset = 0;
    for (size_t i = 0; i < count; ++i)
        len += bufs[i].len;
    char *rest = h2o_mem_alloc(len);
    for (size_t i = 0; i < count; ++i) {
        memcpy(rest + offset, bufs[i].base, bufs[i].len);
        offset += bufs[i].len;
    }
    return h2o_iovec_init(rest, len);
}

/* The rest of what was sealed is what waits: it cannot be sealed again. */
static weir_write_result_t write_sealed(h2o_socket_t *sock, weir_tls_t *tls, const h2o_iovec_t *bufs, size_t count,
                                        char **pending, h2o_socket_cb cb)
{
    h2o_iovec_t sealed = weir_tls_seal(tls, bufs, count);
    if (sealed.base == NULL)
        return WEIR_WRITE_FAILED;
    h2o_iovec_t rest = sealed;
    ssize_t written = write_now(h2o_socket_get_fd(sock), &rest, 1);
    if (written == -1 && errno == EAGAIN)
        written = 0;
    if (written >= 0 && advance(&rest, 1, (size_t)written) == 0 && cb != NULL) {
        *pending = sealed.base;
        h2o_socket_write(sock, &rest, 1, cb);
        return WEIR_WRITE_PENDING;
    }
    free(sealed.base);
    if (written == (ssize_t)sealed.len)
        return WEIR_WRITE_DONE;
    weir_tls_break(tls); /* a record is cut off */
    return WEIR_WRITE_FAILED;
}

weir_write_result_t weir_sock_write(h2o_socket_t *sock, h2o_iovec_t *bufs, size_t count, char **pending,
                                    h2o_socket_cb cb)
{
    weir_tls_t *tls = weir_tls_of(sock);
    *pending = NULL;
    if (tls != NULL)
        return write_sealed(sock, tls, bufs, count, pending, cb);
    ssize_t written = write_now(h2o_socket_get_fd(sock), bufs, count);
    if (written == -1) {
        if (errno != EAGAIN)
            return WEIR_WRITE_FAILED;
        written = 0;
    }
    size_t used = advance(bufs, count, (size_t)written);
    if (used == count)
        return WEIR_WRITE_DONE;
    if (cb == NULL)
        return WEIR_WRITE_FAILED;
    h2o_iovec_t rest = copy_rest(bufs + used, count - used);
    *pending = rest.base;
    h2o_socket_write(sock, &rest, 1, cb);
    return WEIR_WRITE_PENDING;
}

ssize_t weir_sock_read(h2o_socket_t *sock, char *into, size_t capacity)
{
    weir_tls_t *tls = weir_tls_of(sock);
    ssize_t got;
    if (tls != NULL)
        return weir_tls_read(tls, into, capacity);
    while ((got = recv(h2o_socket_get_fd(sock), into, capacity, 0)) == -1 && errno == EINTR)
        ;
    return got;
}

bool weir_sock_is_quiet(h2o_socket_t *sock)
{
    weir_tls_t *tls = weir_tls_of(sock);
    char bytes[WEIR_TLS_READ_BYTES_MIN];
    ssize_t got = tls != NULL ? weir_tls_read(tls, bytes, sizeof(bytes))
                              : recv(h2o_socket_get_fd(sock), bytes, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == -1 && errno == EAGAIN;
}

void weir_sock_keep(h2o_socket_t *sock, const char *bytes, size_t len)
{
    if (len == 0)
        return;
    h2o_iovec_t space = h2o_buffer_reserve(&sock->input, len);
    if (space.base == NULL)
        h2o_fatal("no memory");
    memcpy(space.base, bytes, len);
    sock->input->size += len;
}

void weir_sock_reset_on_close(h2o_socket_t *sock)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    setsockopt(h2o_socket_get_fd(sock), SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    if (weir_tls_of(sock) != NULL)
        weir_tls_break(weir_tls_of(sock));
}

void weir_sock_end(h2o_socket_t *sock)
{
    if (weir_tls_of(sock) != NULL)
        weir_tls_end(weir_tls_of(sock));
    shutdown(h2o_socket_get_fd(sock), SHUT_WR);
}

void weir_sock_close(h2o_socket_t *sock)
{
    if (weir_tls_of(sock) != NULL)
        weir_tls_end(weir_tls_of(sock));
    h2o_socket_close(sock);
}

void weir_sock_leave(h2o_socket_t *sock, weir_sock_moved_t *moved)
{
    moved->tls = weir_tls_of(sock) != NULL ? weir_tls_leave(sock) : NULL;
    if (h2o_socket_export(sock, &moved->exported) != 0)
        h2o_fatal("a socket cannot be moved");
}

h2o_socket_t *weir_sock_arrive(h2o_loop_t *loop, size_t worker, weir_sock_moved_t *moved)
{
    h2o_socket_t *sock = h2o_socket_import(loop, &moved->exported);
    h2o_socket_dont_read(sock, 1);
    if (moved->tls != NULL)
        weir_tls_join(sock, moved->tls, worker);
    return sock;
}

int64_t weir_sock_progress(h2o_socket_t *sock)
{
    int fd = h2o_socket_get_fd(sock), unsent = -1;
    struct tcp_info info;
    socklen_t len = sizeof(info);
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
        len >= offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof(info.tcpi_bytes_acked))
        return (int64_t)info.tcpi_bytes_acked;
    return ioctl(fd, SIOCOUTQ, &unsent) == 0 ? unsent : -1;
}
