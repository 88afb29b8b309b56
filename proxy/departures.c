#include "departures.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { BATCH = 64 };

struct weir_departures {
    int epoll_fd;
    h2o_socket_t *sock;
};

static void on_events(h2o_socket_t *sock, const char *err)
{
    struct weir_departures *departures = sock->data;
    struct epoll_event events[BATCH];
    /* What is left after one batch is told again in the next turn: the outer poll is level-triggered. */
    int count = epoll_wait(departures->epoll_fd, events, BATCH, 0);
    for (int i = 0; i < count; ++i) {
        weir_departure_t *departure = events[i].data.ptr;
        departure->on_departure(departure);
    }
}

struct weir_departures *weir_departures_create(weir_worker_t *worker)
{
    struct weir_departures *departures = h2o_mem_alloc(sizeof(*departures));
    departures->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (departures->epoll_fd == -1)
        h2o_fatal("epoll_create1");
    departures->sock = h2o_evloop_socket_create(worker->ctx.loop, departures->epoll_fd, 0);
    departures->sock->data = departures;
    h2o_socket_dont_read(departures->sock, 1);
    h2o_socket_read_start(departures->sock, on_events);
    return departures;
}

void weir_departures_destroy(struct weir_departures *departures)
{
    h2o_socket_close(departures->sock);
    free(departures);
}

void weir_departures_watch(struct weir_departures *departures, int fd, weir_departure_t *departure)
{
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = departure};
    /* Modifying tells again what was told before. Without room for one more watch the caller's leaving shows at the
     * next write to it. */
    if (epoll_ctl(departures->epoll_fd, EPOLL_CTL_MOD, fd, &event) != 0)
        (void)epoll_ctl(departures->epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

void weir_departures_forget(struct weir_departures *departures, int fd)
{
    (void)epoll_ctl(departures->epoll_fd, EPOLL_CTL_DEL, fd, NULL); /* fails where it was not watched */
}
