#include "binding.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "connect.h"

enum {
    BACKLOG = 1024,          /* the kernel cuts it to net.core.somaxconn */
    UNIX_SOCKET_MODE = 0660, /* unix peers are trusted: the owner and the group, which in a pod is fsGroup */
};

typedef struct {
    struct sockaddr_storage address;
    socklen_t len;
    bool both_families; /* [::] that takes IPv4 too */
} place_t;

static bool fail(char **error, const weir_conf_address_t *address, const char *why)
{
    if (asprintf(error, "cannot listen on %s: %s", address->text, why) < 0)
        *error = NULL;
    return false;
}

static char *copy_or_null(const char *text)
{
    return text == NULL ? NULL : h2o_strdup(NULL, text, SIZE_MAX).base;
}

/* --- TCP --- */

static place_t all_addresses(int family, uint16_t port)
{
    place_t place = {0};
    if (family == AF_INET6) {
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT};
        memcpy(&place.address, &in6, place.len = sizeof(in6));
        place.both_families = true;
    } else {
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(port)};
        memcpy(&place.address, &in, place.len = sizeof(in));
    }
    return place;
}

static bool place_of(const weir_conf_address_t *address, place_t *place, char **error)
{
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found;
    char port[8];
    snprintf(port, sizeof(port), "%u", address->port);
    int result = getaddrinfo(address->host, port, &hints, &found);
    if (result != 0)
        return fail(error, address, gai_strerror(result));
    *place = (place_t){.len = found->ai_addrlen};
    memcpy(&place->address, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return true;
}

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

/* -1 with errno. */
static int bind_tcp(const place_t *place, bool shares_port)
{
    int fd = socket(place->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return -1;
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, WEIR_UNSENT_BYTES_MAX); /* connections have it from here */
    if (place->address.ss_family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, !place->both_families);
    if (shares_port)
        set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    if (bind(fd, (const struct sockaddr *)&place->address, place->len) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1); /* what it means for binding is over; now siblings may join */
    return fd;
}

static int bind_first(const weir_conf_address_t *address, place_t *place, bool shares_port)
{
    int fd = bind_tcp(place, false);
    if (fd == -1 && errno == EADDRINUSE && shares_port)
        fd = bind_tcp(place, true);
    if (fd == -1 && place->both_families && (errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL)) {
        *place = all_addresses(AF_INET, address->port);
        return bind_first(address, place, shares_port);
    }
    if (fd != -1)
        (void)getsockname(fd, (struct sockaddr *)&place->address, &place->len); /* port 0 became a real one */
    return fd;
}

static bool open_tcp(weir_binding_t *binding, bool shares_port, char **error)
{
    const weir_conf_address_t *address = &binding->address;
    place_t place = all_addresses(AF_INET6, address->port);
    if (address->host != NULL && !place_of(address, &place, error))
        return false;
    for (size_t i = 0; i < binding->count; ++i) {
        binding->fds[i] = i == 0 ? bind_first(address, &place, shares_port) : bind_tcp(&place, true);
        if (binding->fds[i] == -1)
            return fail(error, address, strerror(errno));
    }
    /* Only now, so that nobody is let in where an address cannot be had. */
    for (size_t i = 0; i < binding->count; ++i) {
        if (listen(binding->fds[i], BACKLOG) != 0)
            return fail(error, address, strerror(errno));
    }
    return true;
}

/* --- unix --- */

/* 0 for a socket that nobody listens on any more, else what is wrong. */
static int what_is_there(const struct sockaddr_un *at)
{
    struct stat status;
    if (lstat(at->sun_path, &status) != 0)
        return errno;
    if (!S_ISSOCK(status.st_mode))
        return EEXIST;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return errno;
    bool refused = connect(fd, (const struct sockaddr *)at, sizeof(*at)) != 0 && errno == ECONNREFUSED;
    close(fd);
    return refused ? 0 : EADDRINUSE;
}

static bool bind_unix(int fd, const struct sockaddr_un *at)
{
    if (bind(fd, (const struct sockaddr *)at, sizeof(*at)) == 0)
        return true;
    if (errno != EADDRINUSE)
        return false;
    if ((errno = what_is_there(at)) != 0)
        return false;
    return unlink(at->sun_path) == 0 && bind(fd, (const struct sockaddr *)at, sizeof(*at)) == 0;
}

static bool open_unix(weir_binding_t *binding, char **error)
{
    const weir_conf_address_t *address = &binding->address;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct stat status;
    if (strlen(address->path) >= sizeof(at.sun_path))
        return fail(error, address, "the path is longer than 107 bytes");
    strcpy(at.sun_path, address->path);
    int fd = binding->fds[0] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return fail(error, address, strerror(errno));
    (void)fchmod(fd, UNIX_SOCKET_MODE); /* the file's mode from the start, less the umask */
    if (!bind_unix(fd, &at))
        return fail(error, address, strerror(errno));
    if (stat(at.sun_path, &status) == 0) {
        binding->file.ours = true;
        binding->file.device = status.st_dev;
        binding->file.inode = status.st_ino;
    }
    if (chmod(at.sun_path, UNIX_SOCKET_MODE) != 0 || listen(fd, BACKLOG) != 0)
        return fail(error, address, strerror(errno));
    /* One queue for all: a unix address has one socket only. */
    for (size_t i = 1; i < binding->count; ++i) {
        if ((binding->fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 0)) == -1)
            return fail(error, address, strerror(errno));
    }
    return true;
}

void weir_binding_unlink(weir_binding_t *binding)
{
    struct stat status;
    if (binding->file.ours && stat(binding->address.path, &status) == 0 && status.st_dev == binding->file.device &&
        status.st_ino == binding->file.inode)
        (void)unlink(binding->address.path);
    binding->file.ours = false;
}

/* --- both --- */

weir_binding_t *weir_binding_create(const weir_conf_address_t *address, size_t count, bool shares_port, char **error)
{
    weir_binding_t *binding = h2o_mem_alloc(sizeof(*binding));
    *binding = (weir_binding_t){.address = {.kind = address->kind,
                                            .text = copy_or_null(address->text),
                                            .host = copy_or_null(address->host),
                                            .port = address->port,
                                            .path = copy_or_null(address->path)},
                                .fds = h2o_mem_alloc(count * sizeof(*binding->fds)),
                                .count = count,
                                .open_count = count};
    for (size_t i = 0; i < count; ++i)
        binding->fds[i] = -1;
    bool opened =
        address->kind == WEIR_ADDRESS_UNIX ? open_unix(binding, error) : open_tcp(binding, shares_port, error);
    if (opened)
        return binding;
    weir_binding_unlink(binding);
    weir_binding_destroy(binding);
    return NULL;
}

static bool same_text(const char *x, const char *y)
{
    return x == y || (x != NULL && y != NULL && strcmp(x, y) == 0);
}

bool weir_binding_is_at(const weir_binding_t *binding, const weir_conf_address_t *address)
{
    return binding->address.kind == address->kind && binding->address.port == address->port &&
           same_text(binding->address.host, address->host) && same_text(binding->address.path, address->path);
}

int weir_binding_take(weir_binding_t *binding, size_t index)
{
    int fd = binding->fds[index];
    binding->fds[index] = -1;
    return fd;
}

void weir_binding_destroy(weir_binding_t *binding)
{
    for (size_t i = 0; i < binding->count; ++i) {
        if (binding->fds[i] != -1)
            close(binding->fds[i]);
    }
    if (binding->listener != NULL)
        weir_listener_release(binding->listener);
    free((char *)binding->address.text);
    free((char *)binding->address.host);
    free((char *)binding->address.path);
    free(binding->fds);
    free(binding);
}
