/* The upstream of the bench: one thread, one epoll, nothing to wait for. It answers every request with the same 200 and
 * 128 bytes, on connections it keeps; a path that begins with /sse holds a stream open and sends one event at once and
 * another every second, until the caller leaves.
 *
 * usage: bench_upstream [PORT]      0 (the default) takes a free one; "listening PORT" on stdout says which
 *
 * It reads just as much HTTP as wrk, nginx, haproxy and weir send: heads end with an empty line, a body has a
 * Content-Length. It listens on loopback only and is no server for anything else. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BODY_BYTES = 128, INPUT_BYTES = 8192, EVENTS_MAX = 256, OUTPUT_BYTES = 16384, TICK_MS = 1000 };

typedef struct st_conn_t {
    int fd;
    bool is_stream;
    size_t skip_bytes; /* of a request's body, still to be read over */
    size_t input_bytes;
    struct st_conn_t *prev, *next; /* in `streams` */
    char input[INPUT_BYTES + 1];
} conn_t;

static int epoll_fd;
static conn_t streams = {.prev = &streams, .next = &streams};
static char answer[512];
static size_t answer_bytes;

static const char stream_head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n";
static const char stream_event[] = "21\r\ndata: {\"delta\":\"one more word\"}\n\n\r\n";

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void make_answer(void)
{
    char body[BODY_BYTES + 1];
    memset(body, 'x', BODY_BYTES);
    body[BODY_BYTES] = '\0';
    answer_bytes = (size_t)snprintf(answer, sizeof(answer),
                                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s",
                                    BODY_BYTES, body);
}

static void close_conn(conn_t *conn)
{
    if (conn->is_stream) {
        conn->prev->next = conn->next;
        conn->next->prev = conn->prev;
    }
    close(conn->fd);
    free(conn);
}

/* The answers are short and their reader is a proxy on the same machine: what the socket does not take at once is a
 * broken bench, not a case to handle. */
static bool send_all(int fd, const char *bytes, size_t count)
{
    return count == 0 || send(fd, bytes, count, MSG_NOSIGNAL) == (ssize_t)count;
}

static bool begin_stream(conn_t *conn)
{
    conn->is_stream = true;
    conn->prev = streams.prev;
    conn->next = &streams;
    streams.prev->next = conn;
    streams.prev = conn;
    return send_all(conn->fd, stream_head, sizeof(stream_head) - 1) &&
           send_all(conn->fd, stream_event, sizeof(stream_event) - 1);
}

static size_t content_length(const char *head, const char *end)
{
    static const char name[] = "\r\ncontent-length:";
    for (const char *p = head; p + sizeof(name) < end; ++p)
        if (*p == '\r' && strncasecmp(p, name, sizeof(name) - 1) == 0)
            return strtoul(p + sizeof(name) - 1, NULL, 10);
    return 0;
}

/* Answers every whole head in the input, all answers in one send. */
static bool answer_input(conn_t *conn)
{
    char output[OUTPUT_BYTES];
    size_t output_bytes = 0, used = 0;

    while (used < conn->input_bytes) {
        if (conn->skip_bytes != 0) {
            size_t here = conn->input_bytes - used;
            if (here > conn->skip_bytes)
                here = conn->skip_bytes;
            used += here;
            conn->skip_bytes -= here;
            continue;
        }
        const char *head = conn->input + used;
        const char *end = memmem(head, conn->input_bytes - used, "\r\n\r\n", 4);
        if (end == NULL)
            break;
        used = (size_t)(end + 4 - conn->input);
        if (strncmp(head, "GET /sse", 8) == 0)
            return begin_stream(conn);
        if (head[0] != 'G') /* a GET has no body here */
            conn->skip_bytes = content_length(head, end + 4);
        if (output_bytes + answer_bytes > sizeof(output)) {
            if (!send_all(conn->fd, output, output_bytes))
                return false;
            output_bytes = 0;
        }
        memcpy(output + output_bytes, answer, answer_bytes);
        output_bytes += answer_bytes;
    }
    conn->input_bytes -= used;
    memmove(conn->input, conn->input + used, conn->input_bytes);
    return conn->input_bytes < INPUT_BYTES && send_all(conn->fd, output, output_bytes);
}

static void on_readable(conn_t *conn)
{
    ssize_t count = read(conn->fd, conn->input + conn->input_bytes, INPUT_BYTES - conn->input_bytes);
    if (count < 0 && errno == EAGAIN)
        return;
    if (count <= 0) {
        close_conn(conn);
        return;
    }
    if (conn->is_stream) /* a caller who has a stream has nothing more to say */
        return;
    conn->input_bytes += (size_t)count;
    conn->input[conn->input_bytes] = '\0';
    if (!answer_input(conn))
        close_conn(conn);
}

static void on_connection(int listen_fd)
{
    int fd, one = 1;
    while ((fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        conn_t *conn = malloc(sizeof(*conn));
        if (conn == NULL)
            die("malloc");
        memset(conn, 0, offsetof(conn_t, input));
        conn->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = conn};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0)
            die("epoll_ctl");
    }
}

static void send_events(void)
{
    for (conn_t *conn = streams.next, *next; conn != &streams; conn = next) {
        next = conn->next;
        if (!send_all(conn->fd, stream_event, sizeof(stream_event) - 1))
            shutdown(conn->fd, SHUT_RDWR); /* its end is read, and freed, in the loop */
    }
}

static int listen_on(int port)
{
    struct sockaddr_in sin = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t sin_bytes = sizeof(sin);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (fd < 0 || bind(fd, (struct sockaddr *)&sin, sizeof(sin)) != 0 || listen(fd, 4096) != 0)
        die("listen");
    getsockname(fd, (struct sockaddr *)&sin, &sin_bytes);
    printf("listening %d\n", ntohs(sin.sin_port));
    fflush(stdout);
    return fd;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
    int listen_fd = listen_on(argc > 1 ? atoi(argv[1]) : 0);
    int64_t next_tick_ms = now_ms() + TICK_MS;
    struct epoll_event events[EVENTS_MAX], ev = {.events = EPOLLIN, .data.ptr = NULL};

    make_answer();
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &ev) != 0)
        die("epoll");
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS_MAX, TICK_MS);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; ++i) {
            if (events[i].data.ptr == NULL)
                on_connection(listen_fd);
            else
                on_readable(events[i].data.ptr);
        }
        int64_t now = now_ms();
        if (now >= next_tick_ms) {
            next_tick_ms = now + TICK_MS;
            send_events();
        }
    }
}
