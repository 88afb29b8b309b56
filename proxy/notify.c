#include "notify.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>
#include "clock.h"
#include "log.h"

static const struct timeval send_timeout = {.tv_sec = 1};

/* False with errno where it is not sent. */
static bool send_to(const struct sockaddr_un *to, socklen_t to_len, const char *message)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return false;
    bool is_sent = setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_timeout, sizeof(send_timeout)) == 0 &&
                   sendto(fd, message, strlen(message), MSG_NOSIGNAL, (const struct sockaddr *)to, to_len) != -1;
    int error = errno;
    close(fd);
    errno = error;
    return is_sent;
}

static void notify(const char *message)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t len = name != NULL ? strlen(name) : 0;
    if (len == 0)
        return;
    if ((name[0] != '/' && name[0] != '@') || len >= sizeof(to.sun_path)) {
        weir_log_event(WEIR_LOG_WARN, "NOTIFY_SOCKET is not the name of a unix socket");
        return;
    }
    memcpy(to.sun_path, name, len);
    if (name[0] == '@') /* an abstract one */
        to.sun_path[0] = '\0';
    if (!send_to(&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len), message))
        weir_log_event(WEIR_LOG_WARN, "the service manager could not be told: %s", strerror(errno));
}

void weir_notify_ready(void)
{
    notify("READY=1");
}

void weir_notify_reloading(void)
{
    char message[64];
    snprintf(message, sizeof(message), "RELOADING=1\nMONOTONIC_USEC=%" PRId64, weir_clock_now_ns() / 1000);
    notify(message);
}

void weir_notify_stopping(int64_t most_ns)
{
    char message[64];
    snprintf(message, sizeof(message), "STOPPING=1\nEXTEND_TIMEOUT_USEC=%" PRId64, most_ns / 1000);
    notify(message);
}
