#include "watch.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum {
    LINKS_MAX = 16,
    /* Not each write: a file is complete when it is closed or moved in. */
    EVENTS = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_ONLYDIR,
};

static const int64_t SETTLED_NS = 100 * INT64_C(1000000);
static const int64_t LONGEST_NS = 1000 * INT64_C(1000000);
static const int64_t LOOK_NS = 10000 * INT64_C(1000000); /* where nobody tells */

typedef struct {
    char *path;
    XXH128_hash_t contents;
} watched_t;

struct weir_watch {
    weir_server_t *server;
    void (*on_change)(weir_server_t *server);
    h2o_socket_t *sock; /* inotify; NULL: the kernel grants none */
    bool is_blind;      /* the kernel does not tell of all changes, so they are looked for */
    h2o_timeout_entry_t settled;
    int64_t since_ns; /* the first event that is not settled; 0: none */
    watched_t *files;
    size_t file_count;
    int *folders; /* inotify's numbers */
    size_t folder_count, folder_capacity;
};

/* --- contents --- */

static XXH128_hash_t hash_open_file(int fd)
{
    char bytes[16384];
    ssize_t len;
    XXH3_state_t *state = XXH3_createState();
    XXH3_128bits_reset(state);
    while ((len = read(fd, bytes, sizeof(bytes))) > 0)
        XXH3_128bits_update(state, bytes, (size_t)len);
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    XXH3_freeState(state);
    return hash;
}

/* Zero for what is not there, or not a file. */
static XXH128_hash_t hash_file(const char *path)
{
    XXH128_hash_t hash = {0};
    struct stat status;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd == -1)
        return hash;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode))
        hash = hash_open_file(fd);
    close(fd);
    return hash;
}

/* Learns what the files hold; whether any of it is new. */
static bool look(weir_watch_t *watch)
{
    bool changed = false;
    for (size_t i = 0; i < watch->file_count; ++i) {
        XXH128_hash_t contents = hash_file(watch->files[i].path);
        changed |= !XXH128_isEqual(contents, watch->files[i].contents);
        watch->files[i].contents = contents;
    }
    return changed;
}

void weir_watch_look(weir_watch_t *watch)
{
    look(watch);
}

static void go_blind(weir_watch_t *watch)
{
    if (!watch->is_blind)
        weir_log_event(WEIR_LOG_WARN, "changes of the configuration are seen after 10 s: inotify: %s", strerror(errno));
    watch->is_blind = true;
}

/* --- folders --- */

static bool has_folder(const int *folders, size_t count, int folder)
{
    for (size_t i = 0; i < count; ++i) {
        if (folders[i] == folder)
            return true;
    }
    return false;
}

static void watch_folder(weir_watch_t *watch, const char *path)
{
    int folder = inotify_add_watch(h2o_socket_get_fd(watch->sock), path, EVENTS);
    if (folder == -1 && (errno == ENOSPC || errno == ENOMEM)) {
        go_blind(watch);
        return;
    }
    if (folder == -1) {
        weir_log_event(WEIR_LOG_DEBUG, "cannot watch %s: %s", path, strerror(errno));
        return;
    }
    if (has_folder(watch->folders, watch->folder_count, folder))
        return;
    if (watch->folder_count == watch->folder_capacity) {
        watch->folder_capacity = watch->folder_capacity * 2 + 4;
        watch->folders = h2o_mem_realloc(watch->folders, watch->folder_capacity * sizeof(*watch->folders));
    }
    watch->folders[watch->folder_count++] = folder;
}

/* The folder of `path`, and those of the links it leads over. */
static void watch_way(weir_watch_t *watch, const char *path)
{
    char at[PATH_MAX], folder[PATH_MAX], target[PATH_MAX];
    if (strlen(path) >= sizeof(at))
        return;
    strcpy(at, path);
    for (int i = 0; i < LINKS_MAX; ++i) {
        strcpy(folder, at);
        char *parent = dirname(folder);
        watch_folder(watch, parent);
        ssize_t len = readlink(at, target, sizeof(target) - 1);
        if (len == -1)
            return;
        target[len] = '\0';
        int written = target[0] == '/' ? snprintf(at, sizeof(at), "%s", target)
                                       : snprintf(at, sizeof(at), "%.*s/%s", PATH_MAX / 2, parent, target);
        if (written >= (int)sizeof(at))
            return;
    }
}

/* Watches the ways to all files, as they lead now, and no folder besides. */
static void watch_ways(weir_watch_t *watch)
{
    int *old = watch->folders;
    size_t old_count = watch->folder_count;
    watch->folders = NULL;
    watch->folder_count = watch->folder_capacity = 0;
    for (size_t i = 0; i < watch->file_count; ++i)
        watch_way(watch, watch->files[i].path);
    for (size_t i = 0; i < old_count; ++i) {
        if (!has_folder(watch->folders, watch->folder_count, old[i]))
            (void)inotify_rm_watch(h2o_socket_get_fd(watch->sock), old[i]);
    }
    free(old);
}

static void watch_files(weir_watch_t *watch)
{
    if (watch->sock != NULL)
        watch_ways(watch);
    if (watch->is_blind && !h2o_timeout_is_linked(&watch->settled))
        weir_timer_start(watch->server->control, &watch->settled, LOOK_NS);
}

/* --- events --- */

static void on_settled(h2o_timeout_entry_t *entry)
{
    weir_watch_t *watch = H2O_STRUCT_FROM_MEMBER(weir_watch_t, settled, entry);
    watch->since_ns = 0;
    watch_files(watch);
    if (look(watch))
        watch->on_change(watch->server);
}

static void on_events(h2o_socket_t *sock, const char *err)
{
    weir_watch_t *watch = sock->data;
    char events[4096]; /* whatever they say: the contents tell */
    while (read(h2o_socket_get_fd(sock), events, sizeof(events)) > 0)
        ;
    int64_t now_ns = weir_clock_now_ns();
    if (watch->since_ns == 0)
        watch->since_ns = now_ns;
    int64_t left_ns = watch->since_ns + LONGEST_NS - now_ns;
    weir_timer_start(watch->server->control, &watch->settled, left_ns < SETTLED_NS ? left_ns : SETTLED_NS);
}

weir_watch_t *weir_watch_create(weir_server_t *server, void (*on_change)(weir_server_t *server))
{
    weir_watch_t *watch = h2o_mem_alloc(sizeof(*watch));
    *watch = (weir_watch_t){.server = server, .on_change = on_change, .settled.cb = on_settled};
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd == -1) {
        go_blind(watch);
        return watch;
    }
    watch->sock = h2o_evloop_socket_create(server->control->ctx.loop, fd, 0);
    watch->sock->data = watch;
    h2o_socket_dont_read(watch->sock, 1);
    h2o_socket_read_start(watch->sock, on_events);
    return watch;
}

static const watched_t *find_file(const watched_t *files, size_t count, const char *path)
{
    for (size_t i = 0; i < count; ++i) {
        if (strcmp(files[i].path, path) == 0)
            return &files[i];
    }
    return NULL;
}

static void free_files(watched_t *files, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        free(files[i].path);
    free(files);
}

void weir_watch_aim(weir_watch_t *watch, const weir_conf_strings_t *paths)
{
    watched_t *old = watch->files;
    size_t old_count = watch->file_count;
    watch->files = h2o_mem_alloc((paths->size + 1) * sizeof(*watch->files));
    watch->file_count = paths->size;
    for (size_t i = 0; i < paths->size; ++i) {
        const watched_t *known = find_file(old, old_count, paths->entries[i]);
        watch->files[i].path = h2o_strdup(NULL, paths->entries[i], SIZE_MAX).base;
        watch->files[i].contents = known != NULL ? known->contents : hash_file(paths->entries[i]);
    }
    free_files(old, old_count);
    watch_files(watch);
}

void weir_watch_destroy(weir_watch_t *watch)
{
    weir_timer_stop(&watch->settled);
    if (watch->sock != NULL)
        h2o_socket_close(watch->sock);
    free_files(watch->files, watch->file_count);
    free(watch->folders);
    free(watch);
}
