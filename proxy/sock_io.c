#include "sock_io.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

static ssize_t write_now(int fd, const h2o_iovec_t *bufs, size_t count)
{
    ssize_t written;
    while ((written = writev(fd, (const struct iovec *)bufs, (int)count)) == -1 && errno == EINTR)
        ;
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

weir_write_result_t weir_sock_write(h2o_socket_t *sock, h2o_iovec_t *bufs, size_t count, char **pending,
                                    h2o_socket_cb cb)
{
    *pending = NULL;
    if (sock->ssl != NULL) {
        h2o_socket_write(sock, bufs, count, cb);
        return WEIR_WRITE_PENDING;
    }
    ssize_t written = write_now(h2o_socket_get_fd(sock), bufs, count);
    if (written == -1) {
        if (errno != EAGAIN)
            return WEIR_WRITE_FAILED;
        written = 0;
    }
    size_t used = advance(bufs, count, (size_t)written);
    if (used == count)
        return WEIR_WRITE_DONE;
    h2o_iovec_t rest = copy_rest(bufs + used, count - used);
    *pending = rest.base;
    h2o_socket_write(sock, &rest, 1, cb);
    return WEIR_WRITE_PENDING;
}

ssize_t weir_sock_read(h2o_socket_t *sock, char *into, size_t capacity)
{
    ssize_t got;
    while ((got = read(h2o_socket_get_fd(sock), into, capacity)) == -1 && errno == EINTR)
        ;
    return got;
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
}

int weir_sock_unsent(h2o_socket_t *sock)
{
    int unsent = -1;
    return ioctl(h2o_socket_get_fd(sock), SIOCOUTQ, &unsent) == 0 ? unsent : -1;
}
