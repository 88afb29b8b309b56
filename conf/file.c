/* The files that a configuration names. */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "load.h"

const char *weir_conf_resolve(weir_conf_load_t *load, const char *path)
{
    const char *slash = strrchr(load->conf->file, '/');
    if (*path == '/' || slash == NULL)
        return path;
    return weir_conf_arena_printf(load->scratch, "%.*s%s", (int)(slash + 1 - load->conf->file), load->conf->file, path);
}

void weir_conf_watch(weir_conf_load_t *load, const char *path)
{
    for (size_t i = 0; i < load->file_count; ++i)
        if (strcmp(load->files[i], path) == 0)
            return;
    if (load->file_count == load->file_capacity) {
        size_t capacity = load->file_capacity == 0 ? 8 : load->file_capacity * 2;
        const char **files = weir_conf_arena_alloc(load->arena, capacity * sizeof(*files));
        if (load->file_count > 0)
            memcpy(files, load->files, load->file_count * sizeof(*files));
        load->files = files;
        load->file_capacity = capacity;
    }
    load->files[load->file_count++] = weir_conf_keep(load, path);
}

static const char *read_fd(int fd, size_t bytes_max, weir_conf_arena_t *arena, const char **text, size_t *len)
{
    char *buffer = malloc(bytes_max + 1);
    if (buffer == NULL)
        abort();
    ssize_t got = 1;
    for (*len = 0; *len <= bytes_max && got > 0; *len += got > 0 ? (size_t)got : 0)
        while ((got = read(fd, buffer + *len, bytes_max + 1 - *len)) < 0 && errno == EINTR)
            ;
    const char *error = got < 0 ? strerror(errno) : NULL;
    if (error == NULL && *len > bytes_max)
        error = weir_conf_arena_printf(arena, "it is larger than %zuKiB", bytes_max / 1024);
    if (error == NULL)
        *text = weir_conf_arena_copy(arena, buffer, *len);
    free(buffer);
    return error;
}

const char *weir_conf_read_file(const char *path, size_t bytes_max, bool may_wait, weir_conf_arena_t *arena,
                                const char **text, size_t *len)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (may_wait ? 0 : O_NONBLOCK));
    if (fd < 0)
        return strerror(errno);
    const char *error = fstat(fd, &status) != 0               ? strerror(errno)
                        : S_ISREG(status.st_mode) || may_wait ? NULL
                                                              : "it is not a regular file";
    if (error == NULL)
        error = read_fd(fd, bytes_max, arena, text, len);
    close(fd);
    return error;
}

const char *weir_conf_absolute(weir_conf_load_t *load, const char *path)
{
    char *folder = *path != '/' ? getcwd(NULL, 0) : NULL;
    if (folder == NULL)
        return path;
    path = weir_conf_arena_printf(load->arena, "%s/%s", folder, path);
    free(folder);
    return path;
}
