#include "keep.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "../filters/memory_dedup.h"
#include "answer_head.h"

enum { EVERY_S = 10, VERSION = 1, NAME_BYTES_MAX = 63, PATH_BYTES_MAX = 4096 };

static const int64_t LONG_NS = INT64_C(10) * 365 * 86400 * 1000000000;

static const char magic[8] = "weirkeys";
static const uint32_t byte_order = 0x01020304;

typedef struct {
    char magic[8];
    uint32_t version, byte_order;
    uint8_t secret[64];
    int64_t wall_ms; /* when it was written */
} file_head_t;

/* Behind the records, which stand in the order in which they end. */
typedef struct {
    uint64_t count;
    uint64_t len; /* of the file */
    uint64_t sum; /* of all before it */
} file_tail_t;

/* One key; its dedup's name, its answer's head and body stand behind it. */
typedef struct {
    uint64_t low, high, fingerprint;
    int64_t left_ns, age_ns;
    uint32_t name_len, head_len;
    uint64_t body_len;
    uint32_t is_unknown, has_answer;
} record_t;

struct weir_keep {
    char *path, *fresh_path;
    bool is_of_others; /* what stands at the path is no file, and is left alone */
    uint8_t secret[64];
    weir_store_t *store;
    char *bytes; /* of the file that was read; NULL: restored, or there was none */
    size_t len;
    uint64_t written; /* list_t.sum of the last one */
    bool has_failed;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_running, is_ending;
};

/* --- reading --- */

static bool read_at(int fd, void *to, size_t len, uint64_t offset)
{
    for (size_t have = 0; have < len;) {
        ssize_t got = pread(fd, (char *)to + have, len - have, (off_t)(offset + have));
        if (got == 0 || (got == -1 && errno != EINTR))
            return false;
        have += got > 0 ? (size_t)got : 0;
    }
    return true;
}

/* What is wrong with its beginning or its end; NULL: nothing. */
static const char *check_ends(int fd, uint64_t len)
{
    file_head_t head;
    file_tail_t tail;
    if (len < sizeof(head) + sizeof(tail))
        return "it is cut short";
    if (!read_at(fd, &head, sizeof(head), 0) || !read_at(fd, &tail, sizeof(tail), len - sizeof(tail)))
        return "it cannot be read";
    if (memcmp(head.magic, magic, sizeof(magic)) != 0)
        return "it is not a file of weir's";
    if (head.byte_order != byte_order || head.version != VERSION)
        return "it was written by another version, or on another kind of machine";
    return tail.len == len ? NULL : "its length is wrong";
}

/* Returns what is wrong with it; NULL: keep->bytes are right. */
static const char *read_file(weir_keep_t *keep, int fd, uint64_t len)
{
    const char *wrong = check_ends(fd, len);
    uint64_t sum;
    if (wrong != NULL)
        return wrong;
    keep->len = len;
    keep->bytes = malloc(len);
    if (keep->bytes == NULL || !read_at(fd, keep->bytes, len, 0))
        return "it cannot be read";
    memcpy(&sum, keep->bytes + len - sizeof(sum), sizeof(sum));
    return sum == XXH3_64bits(keep->bytes, len - sizeof(sum)) ? NULL : "its checksum is wrong";
}

static const char *take(const char **at, const char *end, uint64_t len)
{
    const char *bytes = *at;
    if ((uint64_t)(end - bytes) < len)
        return NULL;
    *at = bytes + len;
    return bytes;
}

static void set_aside(const char *path, const char *why)
{
    char aside[PATH_BYTES_MAX];
    snprintf(aside, sizeof(aside), "%s.damaged-%lld", path, (long long)weir_clock_wall_ms());
    bool is_moved = rename(path, aside) == 0;
    weir_log_event(WEIR_LOG_ERROR, "store.file: %s is not used, %s; it was %s%s", path, why,
                   is_moved ? "set aside as " : "left where it is: ", is_moved ? aside : strerror(errno));
}

/* A link, a directory, a device: it is not weir's, and not damaged. */
static void leave_alone(weir_keep_t *keep)
{
    keep->is_of_others = true;
    weir_log_event(WEIR_LOG_ERROR, "store.file: %s is no regular file; it is left alone, and a restart forgets all dedup keys",
                   keep->path);
}

static void read_path(weir_keep_t *keep)
{
    struct stat stat;
    const char *wrong = NULL;
    int fd = open(keep->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    int error = errno;
    if (lstat(keep->path, &stat) == 0 && !S_ISREG(stat.st_mode))
        leave_alone(keep);
    else if (fd != -1 && fstat(fd, &stat) == 0)
        wrong = read_file(keep, fd, (uint64_t)stat.st_size);
    else if (error != ENOENT)
        wrong = strerror(error);
    if (fd != -1)
        close(fd);
    if (wrong == NULL)
        return;
    set_aside(keep->path, wrong);
    free(keep->bytes);
    keep->bytes = NULL;
}

weir_keep_t *weir_keep_open(const char *path, uint8_t secret[64])
{
    weir_keep_t *keep = h2o_mem_alloc(sizeof(*keep));
    *keep = (weir_keep_t){.path = h2o_strdup(NULL, path, SIZE_MAX).base};
    keep->fresh_path = h2o_mem_alloc(strlen(path) + sizeof(".new"));
    sprintf(keep->fresh_path, "%s.new", path);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&keep->lock, NULL);
    pthread_cond_init(&keep->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    read_path(keep);
    if (keep->bytes != NULL)
        memcpy(secret, ((const file_head_t *)keep->bytes)->secret, sizeof(keep->secret));
    memcpy(keep->secret, secret, sizeof(keep->secret));
    keep->written = keep->bytes != NULL; /* there is something to write over, or nothing: 0 is the sum of nothing */
    return keep;
}

/* --- restoring --- */

typedef struct {
    weir_str_t head, body;
} kept_answer_t;

static weir_stream_t *fill(void *data, weir_stream_account_t *account, int64_t max_bytes)
{
    const kept_answer_t *kept = data;
    weir_stream_t *stream = weir_stream_create(account, max_bytes, (weir_store_teller_t){NULL, NULL});
    weir_stream_begin(stream, kept->head.base, kept->head.len);
    weir_stream_append(stream, kept->body.base, kept->body.len);
    weir_stream_end(stream, WEIR_STREAM_DONE, (weir_stream_end_t){.reason = WEIR_REASON_NONE});
    return stream;
}

static int64_t clamp(int64_t value, int64_t min, int64_t max)
{
    return value < min ? min : value > max ? max : value;
}

/* Whether it can be sent, and that many bytes belong to it. */
static bool is_sound(const kept_answer_t *answer)
{
    h2o_mem_pool_t pool;
    weir_answer_head_t decoded;
    h2o_mem_init_pool(&pool);
    bool is_sound = weir_answer_head_decode(&pool, answer->head.base, answer->head.len, &decoded) &&
                    weir_answer_head_is_sound(&decoded.head, answer->body.len);
    h2o_mem_clear_pool(&pool);
    return is_sound;
}

/* The next record and what stands behind it; false: they do not fit in. */
static bool take_record(const char **at, const char *end, record_t *record, char name[NAME_BYTES_MAX + 1],
                        kept_answer_t *answer)
{
    const char *bytes = take(at, end, sizeof(*record));
    if (bytes == NULL)
        return false;
    memcpy(record, bytes, sizeof(*record));
    const char *name_at = record->name_len <= NAME_BYTES_MAX ? take(at, end, record->name_len) : NULL;
    answer->head = (weir_str_t){name_at != NULL ? take(at, end, record->head_len) : NULL, record->head_len};
    answer->body = (weir_str_t){answer->head.base != NULL ? take(at, end, record->body_len) : NULL, record->body_len};
    if (answer->body.base == NULL)
        return false;
    memcpy(name, name_at, record->name_len);
    name[record->name_len] = '\0';
    return true;
}

static bool restore_record(const weir_keep_t *keep, const record_t *record, const char *name, kept_answer_t *answer,
                           int64_t passed_ns)
{
    weir_memory_dedup_key_t key = {.dedup = name,
                                   .key = {record->low, record->high},
                                   .fingerprint = record->fingerprint,
                                   .is_unknown = record->is_unknown != 0,
                                   .left_ns = clamp(record->left_ns, 0, LONG_NS) - passed_ns,
                                   .age_ns = clamp(record->age_ns, 0, LONG_NS) + passed_ns};
    bool has_answer = record->has_answer != 0 && is_sound(answer);
    return weir_memory_dedups_restore(weir_memory_store_dedups(keep->store), &key, weir_clock_turn_ns, has_answer ? fill : NULL,
                                      answer);
}

/* While nothing ran. A clock that went back says nothing. */
static int64_t passed_since(int64_t wall_ms)
{
    int64_t passed_ms;
    if (__builtin_sub_overflow(weir_clock_wall_ms(), wall_ms, &passed_ms))
        passed_ms = wall_ms < 0 ? INT64_MAX : 0;
    return clamp(passed_ms, 0, LONG_NS / 1000000) * 1000000;
}

/* Its checksum was right; what does not fit is not believed all the same. */
static void restore_all(weir_keep_t *keep)
{
    file_head_t head;
    file_tail_t tail;
    const char *at = keep->bytes, *end = keep->bytes + keep->len - sizeof(tail);
    memcpy(&head, at, sizeof(head));
    memcpy(&tail, end, sizeof(tail));
    at += sizeof(head);
    int64_t passed_ns = passed_since(head.wall_ms);
    record_t record;
    char name[NAME_BYTES_MAX + 1];
    kept_answer_t answer;
    size_t count = 0;
    for (uint64_t i = 0; i < tail.count && take_record(&at, end, &record, name, &answer); ++i)
        count += restore_record(keep, &record, name, &answer, passed_ns);
    weir_log_event(WEIR_LOG_INFO, "store.file: %s has %llu dedup keys, %zu were taken", keep->path,
                   (unsigned long long)tail.count, count);
}

/* --- writing --- */

/* A key that is to be written. */
typedef struct {
    weir_memory_dedup_t *of;
    weir_store_key_t key;
    int64_t left_ns;
} entry_t;

typedef struct {
    entry_t *entries;
    size_t count, capacity;
    int64_t now_ns;
    uint64_t sum; /* of all that there is to write, in any order */
} list_t;

static void note(void *data, const weir_memory_dedup_key_t *key)
{
    list_t *list = data;
    int64_t done_ns = key->answer != NULL ? list->now_ns - key->age_ns : 0;
    uint64_t parts[] = {key->key.low, key->key.high, key->fingerprint, (uint64_t)(list->now_ns + key->left_ns), (uint64_t)done_ns};
    if (list->count == list->capacity) {
        list->capacity = list->capacity != 0 ? 2 * list->capacity : 64;
        list->entries = h2o_mem_realloc(list->entries, list->capacity * sizeof(*list->entries));
    }
    list->entries[list->count++] = (entry_t){.of = key->of, .key = key->key, .left_ns = key->left_ns};
    list->sum += XXH3_64bits(parts, sizeof(parts));
}

static int by_end(const void *a, const void *b)
{
    int64_t left_of_a = ((const entry_t *)a)->left_ns, left_of_b = ((const entry_t *)b)->left_ns;
    return (left_of_a > left_of_b) - (left_of_a < left_of_b);
}

typedef struct {
    FILE *file;
    XXH3_state_t *sum;
    uint64_t len;
} out_t;

static void put(out_t *out, const void *bytes, size_t len)
{
    XXH3_64bits_update(out->sum, bytes, len);
    out->len += len;
    fwrite(bytes, 1, len, out->file);
}

static void put_body(out_t *out, weir_stream_reader_t *reader)
{
    weir_stream_view_t view;
    for (;;) {
        size_t bytes = 0;
        weir_stream_look(reader, &view);
        for (size_t i = 0; i < view.run_count; ++i) {
            put(out, view.runs[i].base, view.runs[i].len);
            bytes += view.runs[i].len;
        }
        weir_stream_went_on(reader, bytes);
        if (view.is_all || bytes == 0)
            return;
    }
}

static void put_key(out_t *out, const weir_memory_dedup_key_t *key)
{
    weir_stream_reader_t reader = {.stream = NULL};
    weir_stream_view_t view = {.head = NULL};
    bool has_answer = key->answer != NULL && weir_stream_join(key->answer, &reader, (weir_ticket_t){0});
    if (has_answer)
        weir_stream_look(&reader, &view);
    record_t record = {.low = key->key.low,
                       .high = key->key.high,
                       .fingerprint = key->fingerprint,
                       .left_ns = key->left_ns,
                       .age_ns = key->age_ns,
                       .name_len = (uint32_t)strlen(key->dedup),
                       .head_len = (uint32_t)view.head_len,
                       .body_len = has_answer ? (uint64_t)view.total : 0,
                       .is_unknown = key->is_unknown,
                       .has_answer = has_answer};
    put(out, &record, sizeof(record));
    put(out, key->dedup, record.name_len);
    if (has_answer) {
        put(out, view.head, view.head_len);
        put_body(out, &reader);
    }
    weir_stream_leave(&reader);
}

/* As it is now: answers are held one at a time, so that those that must go do. */
static bool put_entry(out_t *out, const entry_t *entry, int64_t now_ns)
{
    weir_memory_dedup_key_t key = {.of = entry->of, .key = entry->key};
    if (!weir_memory_dedups_look(&key, now_ns))
        return false;
    put_key(out, &key);
    if (key.answer != NULL)
        weir_stream_release(key.answer);
    return true;
}

/* Returns whether all of it is on the disk. */
static bool write_all(weir_keep_t *keep, const list_t *list, FILE *file)
{
    file_head_t head = {.version = VERSION, .byte_order = byte_order, .wall_ms = weir_clock_wall_ms()};
    file_tail_t tail = {.count = 0};
    out_t out = {file, XXH3_createState()};
    memcpy(head.magic, magic, sizeof(magic));
    memcpy(head.secret, keep->secret, sizeof(head.secret));
    XXH3_64bits_reset(out.sum);
    put(&out, &head, sizeof(head));
    for (size_t i = 0; i < list->count && ferror(file) == 0; ++i)
        tail.count += put_entry(&out, &list->entries[i], list->now_ns);
    tail.len = out.len + sizeof(tail);
    put(&out, &tail, offsetof(file_tail_t, sum));
    tail.sum = XXH3_64bits_digest(out.sum);
    XXH3_freeState(out.sum);
    fwrite(&tail.sum, 1, sizeof(tail.sum), file);
    return ferror(file) == 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
}

/* So that the new name is on the disk too. */
static void sync_directory(const char *path)
{
    char *copy = h2o_strdup(NULL, path, SIZE_MAX).base;
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(copy);
    if (fd == -1)
        return;
    (void)fsync(fd);
    close(fd);
}

/* The old one stays until it is there; errno says why it is not. */
static bool write_file(weir_keep_t *keep, const list_t *list)
{
    (void)unlink(keep->fresh_path); /* of a process that was killed */
    int fd = open(keep->fresh_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    FILE *file = fd != -1 ? fdopen(fd, "w") : NULL;
    if (file == NULL)
        return false;
    errno = 0;
    bool is_whole = write_all(keep, list, file);
    int error = errno;
    if (fclose(file) != 0 && is_whole) {
        is_whole = false;
        error = errno;
    }
    if (is_whole && rename(keep->fresh_path, keep->path) == 0) {
        sync_directory(keep->path);
        return true;
    }
    error = is_whole ? errno : error;
    (void)unlink(keep->fresh_path);
    errno = error;
    return false;
}

/* One line at each change. */
static void tell_result(weir_keep_t *keep, bool is_written)
{
    if (!is_written && !keep->has_failed)
        weir_log_event(WEIR_LOG_ERROR, "store.file: %s cannot be written: %s; a restart would forget what is not in it",
                       keep->path, strerror(errno));
    if (is_written && keep->has_failed)
        weir_log_event(WEIR_LOG_INFO, "store.file: %s is written again", keep->path);
    keep->has_failed = !is_written;
}

/* What keeps it from being written is told at the start, not with the first key that is lost. */
static void try_folder(weir_keep_t *keep)
{
    char *copy = h2o_strdup(NULL, keep->path, SIZE_MAX).base;
    bool can_write = access(dirname(copy), W_OK | X_OK) == 0;
    int error = errno;
    free(copy);
    errno = error;
    if (!can_write && !keep->is_of_others)
        tell_result(keep, false);
}

static void write_now(weir_keep_t *keep)
{
    weir_memory_dedups_t *dedups = weir_memory_store_dedups(keep->store);
    list_t list = {.now_ns = weir_clock_now_ns()};
    if (keep->is_of_others)
        return;
    weir_memory_dedups_hold(dedups);
    weir_memory_dedups_each(dedups, list.now_ns, note, &list);
    if (list.sum != keep->written || keep->has_failed) {
        if (list.count != 0)
            qsort(list.entries, list.count, sizeof(*list.entries), by_end);
        bool is_written = write_file(keep, &list);
        tell_result(keep, is_written);
        keep->written = is_written ? list.sum : keep->written;
    }
    weir_memory_dedups_let_go(dedups);
    free(list.entries);
}

static void *run(void *argument)
{
    weir_keep_t *keep = argument;
    pthread_mutex_lock(&keep->lock);
    while (!keep->is_ending) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += EVERY_S;
        if (pthread_cond_timedwait(&keep->wake, &keep->lock, &until) == 0)
            continue;
        pthread_mutex_unlock(&keep->lock);
        write_now(keep);
        pthread_mutex_lock(&keep->lock);
    }
    pthread_mutex_unlock(&keep->lock);
    return NULL;
}

/* --- its life --- */

void weir_keep_restore(weir_keep_t *keep, weir_store_t *store)
{
    if (keep->store != NULL)
        return;
    keep->store = store;
    if (keep->bytes != NULL)
        restore_all(keep);
    free(keep->bytes);
    keep->bytes = NULL;
    try_folder(keep);
    keep->is_running = pthread_create(&keep->thread, NULL, run, keep) == 0;
    if (!keep->is_running)
        weir_log_event(WEIR_LOG_ERROR, "store.file: there is no thread to write it; it is written at the end alone");
}

void weir_keep_close(weir_keep_t *keep)
{
    pthread_mutex_lock(&keep->lock);
    keep->is_ending = true;
    pthread_cond_signal(&keep->wake);
    pthread_mutex_unlock(&keep->lock);
    if (keep->is_running)
        pthread_join(keep->thread, NULL);
    if (keep->store != NULL)
        write_now(keep);
    pthread_mutex_destroy(&keep->lock);
    pthread_cond_destroy(&keep->wake);
    free(keep->bytes);
    free(keep->path);
    free(keep->fresh_path);
    free(keep);
}
