/* store.file: what is written is read again, by a store that hashes with the same secret; what is damaged is set aside, and
 * whatever else stands at the path is left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "../seeded.h"
#include "../filters/deduped.h"
#include "../../../proxy/answer_head.h"
#include "../../../proxy/keep.h"

static size_t errors_logged;
static char last_event[1024];

void weir_log_event(weir_log_level_t level, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(last_event, sizeof(last_event), format, arguments);
    va_end(arguments);
    errors_logged += level == WEIR_LOG_ERROR;
}

static char directory[64], path[96];
static weir_conf_dedup_t conf;

/* One run of weir: a store, its dedup and the file. */
typedef struct {
    uint8_t secret[64];
    weir_keep_t *keep;
    weir_store_t *store;
    weir_store_dedup_t *dedup;
} life_t;

static void begin(life_t *life)
{
    for (size_t i = 0; i < sizeof(life->secret); ++i)
        life->secret[i] = (uint8_t)rand();
    weir_clock_turn_ns = weir_clock_now_ns();
    life->keep = weir_keep_open(path, life->secret);
    life->store = weir_memory_store_create(life->secret, (weir_store_teller_t){note_ticket, NULL});
    life->dedup = life->store->dedup_acquire(life->store, &conf);
    weir_keep_restore(life->keep, life->store);
}

static void end(life_t *life)
{
    weir_keep_close(life->keep);
    life->store->dedup_release(life->store, life->dedup);
    life->store->destroy(life->store);
}

static int set_up(void **state)
{
    strcpy(directory, "/tmp/weir-keep-XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/keys", directory);
    conf = dedup_of_defaults();
    errors_logged = 0;
    return 0;
}

static size_t for_each_file(const char *part, void (*act)(const char *name))
{
    size_t count = 0;
    DIR *dir = opendir(directory);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char name[512];
        if (entry->d_name[0] == '.' || strstr(entry->d_name, part) == NULL)
            continue;
        snprintf(name, sizeof(name), "%s/%s", directory, entry->d_name);
        if (act != NULL)
            act(name);
        ++count;
    }
    closedir(dir);
    return count;
}

static void delete_file(const char *name)
{
    if (unlink(name) != 0)
        rmdir(name);
}

static int tear_down(void **state)
{
    for_each_file("", delete_file);
    rmdir(directory);
    return 0;
}

/* As the exchange encodes it. */
static h2o_iovec_t head_of(int status, uint64_t content_length)
{
    const weir_h1_field_t fields[] = {{.name = {"content-type", 12}, .value = {"text/plain", 10}},
                                      {.name = {"x-empty", 7}, .value = {"", 0}}};
    weir_call_head_t head = {.status = status, .fields = fields, .field_count = 2, .content_length = content_length};
    return weir_answer_head_encode(&head);
}

static void run_key(life_t *life, const char *name, uint64_t fingerprint, size_t bytes, char byte)
{
    claimed_t claimed = {.reader = {.stream = NULL}};
    claimed.claim = (weir_store_claim_t){.dedup = life->dedup,
                                         .key = life->store->key(life->store, name, strlen(name)),
                                         .fingerprint = fingerprint,
                                         .reader = &claimed.reader};
    int64_t now_ns = weir_clock_now_ns();
    assert_int_equal(life->store->claim(life->store, &claimed.claim, now_ns), WEIR_STORE_CLAIM_RUN);
    h2o_iovec_t head = head_of(200, bytes);
    weir_stream_begin(claimed.claim.stream, head.base, head.len);
    free(head.base);
    for (size_t i = 0; i < bytes; ++i)
        weir_stream_append(claimed.claim.stream, &byte, 1);
    commit(life->store, &claimed, now_ns);
}

static weir_store_claim_told_t ask_key(life_t *life, const char *name, uint64_t fingerprint, size_t bytes, char byte)
{
    claimed_t claimed = {.reader = {.stream = NULL}};
    claimed.claim = (weir_store_claim_t){.dedup = life->dedup,
                                         .key = life->store->key(life->store, name, strlen(name)),
                                         .fingerprint = fingerprint,
                                         .reader = &claimed.reader};
    weir_store_claim_told_t told = life->store->claim(life->store, &claimed.claim, weir_clock_now_ns());
    if (told == WEIR_STORE_CLAIM_RUN)
        forget(life->store, &claimed, weir_clock_now_ns());
    if (told == WEIR_STORE_CLAIM_SHARE) {
        weir_stream_view_t view;
        h2o_iovec_t head = head_of(200, bytes);
        weir_stream_look(&claimed.reader, &view);
        assert_int_equal(view.head_len, head.len);
        assert_memory_equal(view.head, head.base, head.len);
        free(head.base);
        assert_int_equal(read_all(&claimed.reader, byte), bytes);
    }
    let_go(&claimed);
    return told;
}

static bool reset_key(life_t *life, const char *name)
{
    return life->store->dedup_reset(life->store, life->dedup, life->store->key(life->store, name, strlen(name)), weir_clock_now_ns());
}

static void test_a_restart_forgets_nothing(void **state)
{
    life_t first, second;
    begin(&first);
    assert_int_equal(errors_logged, 0);
    run_key(&first, "one", 7, 0, 'a');
    run_key(&first, "two", 0, 100000, 'b');
    run_key(&first, "three", 9, 5, 'c');
    assert_true(reset_key(&first, "three"));
    end(&first);
    struct stat stat;
    assert_int_equal(lstat(path, &stat), 0);
    assert_int_equal(stat.st_mode & 0777, 0600);
    for (int i = 0; i < 3; ++i) {
        begin(&second);
        assert_memory_equal(first.secret, second.secret, 64);
        assert_int_equal(ask_key(&second, "one", 8, 0, 'a'), WEIR_STORE_CLAIM_OTHER);
        assert_int_equal(ask_key(&second, "one", 7, 0, 'a'), WEIR_STORE_CLAIM_SHARE);
        assert_int_equal(ask_key(&second, "two", 0, 100000, 'b'), WEIR_STORE_CLAIM_SHARE);
        assert_int_equal(ask_key(&second, "three", 0, 0, 'c'), WEIR_STORE_CLAIM_RUN);
        end(&second);
    }
    for (int i = 0; i < 2; ++i) { /* nothing is left: that is written, too */
        begin(&second);
        assert_int_equal(reset_key(&second, "one"), i == 0);
        assert_int_equal(reset_key(&second, "two"), i == 0);
        end(&second);
    }
    assert_int_equal(errors_logged, 0);
    assert_int_equal(for_each_file("", NULL), 1);
}

static void test_an_answer_that_changed_is_written(void **state)
{
    life_t life;
    begin(&life);
    run_key(&life, "one", 7, 3, 'a');
    end(&life);
    begin(&life); /* the same keys and as many answers, but another one */
    assert_true(reset_key(&life, "one"));
    run_key(&life, "one", 7, 3, 'z');
    end(&life);
    begin(&life);
    assert_int_equal(ask_key(&life, "one", 7, 3, 'z'), WEIR_STORE_CLAIM_SHARE);
    end(&life);
}

/* The file's bytes */

static char *read_bytes(size_t *len)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    *len = (size_t)ftell(file);
    char *bytes = malloc(*len + 64);
    rewind(file);
    assert_int_equal(fread(bytes, 1, *len, file), *len);
    fclose(file);
    return bytes;
}

static void write_bytes(const char *bytes, size_t len)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len, file), len);
    fclose(file);
}

static char *written_file(size_t *len)
{
    life_t life;
    begin(&life);
    run_key(&life, "one", 7, 300, 'a');
    run_key(&life, "two", 7, 3, 'b');
    run_key(&life, "three", 7, 0, 'c');
    end(&life);
    return read_bytes(len);
}

static void test_a_damaged_file_is_set_aside(void **state)
{
    size_t len;
    char *bytes = written_file(&len);
    for (size_t at = 0; at <= len; at += at < 200 || at + 60 > len ? 1 : 37) {
        life_t life;
        errors_logged = 0;
        char was = bytes[at];
        bytes[at] ^= 0x10;
        if (at < len)
            write_bytes(bytes, len);
        else
            write_bytes(bytes, len + 1); /* more than there was */
        bytes[at] = was;
        begin(&life);
        assert_int_equal(errors_logged, 1);
        assert_int_equal(for_each_file("damaged", delete_file), 1);
        assert_int_equal(access(path, F_OK), -1);
        assert_int_equal(ask_key(&life, "one", 7, 300, 'a'), WEIR_STORE_CLAIM_RUN);
        end(&life);
        unlink(path);
    }
    for (size_t cut = 0; cut < len; cut += 7) {
        life_t life;
        errors_logged = 0;
        write_bytes(bytes, cut);
        begin(&life);
        assert_int_equal(errors_logged, 1);
        assert_int_equal(for_each_file("damaged", delete_file), 1);
        end(&life);
        unlink(path);
    }
    free(bytes);
}

static void seal(char *bytes, size_t len)
{
    uint64_t sum = XXH3_64bits(bytes, len - sizeof(sum));
    memcpy(bytes + len - sizeof(sum), &sum, sizeof(sum));
}

/* Whatever comes back is whole: a head that can be sent, as many bytes as it says. */
static void read_whatever(life_t *life, const char *name)
{
    claimed_t claimed = {.reader = {.stream = NULL}};
    claimed.claim = (weir_store_claim_t){
        .dedup = life->dedup, .key = life->store->key(life->store, name, strlen(name)), .reader = &claimed.reader};
    if (life->store->claim(life->store, &claimed.claim, weir_clock_now_ns()) == WEIR_STORE_CLAIM_RUN)
        forget(life->store, &claimed, weir_clock_now_ns());
    if (claimed.reader.stream != NULL) {
        weir_stream_view_t view;
        weir_answer_head_t head;
        h2o_mem_pool_t pool;
        h2o_mem_init_pool(&pool);
        weir_stream_look(&claimed.reader, &view);
        assert_true(weir_answer_head_decode(&pool, view.head, view.head_len, &head));
        assert_in_range(head.head.status, 200, 599);
        assert_in_range(head.head.field_count, 0, 128);
        if (!head.head.no_body && head.head.content_length != UINT64_MAX)
            assert_int_equal(head.head.content_length, view.total);
        h2o_mem_clear_pool(&pool);
    }
    let_go(&claimed);
}

static void test_a_file_that_is_wrong_with_the_right_checksum(void **state)
{
    static const uint64_t values[] = {0, 1, 0xff, 0x7fffffff, 0xffffffff, INT64_MAX, UINT64_C(1) << 63, UINT64_MAX};
    seeded_t seeded = seeded_start("wrong files");
    size_t len;
    char *bytes = written_file(&len);
    for (int i = 0; i < 3000; ++i) {
        life_t life;
        char *wrong = malloc(len);
        memcpy(wrong, bytes, len);
        for (uint64_t changes = 1 + seeded_below(&seeded, 3); changes != 0; --changes) {
            size_t size = (size_t)1 << seeded_below(&seeded, 4), at = seeded_below(&seeded, len - size);
            uint64_t value = seeded_below(&seeded, 2) == 0 ? seeded_next(&seeded) : values[seeded_below(&seeded, 8)];
            memcpy(wrong + at, &value, size);
        }
        seal(wrong, len);
        write_bytes(wrong, len);
        free(wrong);
        begin(&life);
        read_whatever(&life, "one");
        read_whatever(&life, "two");
        read_whatever(&life, "three");
        weir_keep_close(life.keep);
        life.store->dedup_release(life.store, life.dedup);
        life.store->destroy(life.store);
        for_each_file("damaged", delete_file);
    }
    free(bytes);
}

/* The time that passed while nothing ran, by the wall clock. */
static void test_wall_clocks_that_step(void **state)
{
    enum { WALL_AT = 80 };
    size_t len;
    char *bytes = written_file(&len);
    int64_t written_ms, steps_ms[] = {-1000000000, -1, 0, 23 * 3600000, 25 * 3600000, INT64_MAX / 2, 1LL << 50};
    memcpy(&written_ms, bytes + WALL_AT, sizeof(written_ms));
    assert_in_range(written_ms, weir_clock_wall_ms() - 100000, weir_clock_wall_ms());
    for (size_t i = 0; i < sizeof(steps_ms) / sizeof(steps_ms[0]); ++i) {
        life_t life;
        int64_t at_ms = written_ms - steps_ms[i];
        memcpy(bytes + WALL_AT, &at_ms, sizeof(at_ms));
        seal(bytes, len);
        write_bytes(bytes, len);
        begin(&life);
        bool is_over = steps_ms[i] >= 24 * 3600000, is_old = steps_ms[i] >= 3600000;
        assert_int_equal(ask_key(&life, "one", 7, 300, 'a'), is_over  ? WEIR_STORE_CLAIM_RUN
                                                             : is_old ? WEIR_STORE_CLAIM_DUPLICATE
                                                                      : WEIR_STORE_CLAIM_SHARE);
        end(&life);
    }
    free(bytes);
}

/* What stands at the path */

static void test_a_link_is_neither_followed_nor_replaced(void **state)
{
    char target[128];
    life_t life;
    struct stat stat;
    snprintf(target, sizeof(target), "%s/elsewhere", directory);
    assert_int_equal(symlink(target, path), 0);
    begin(&life);
    assert_int_equal(errors_logged, 1);
    run_key(&life, "one", 7, 10, 'a');
    end(&life);
    assert_int_equal(lstat(path, &stat), 0);
    assert_true(S_ISLNK(stat.st_mode));
    assert_int_equal(access(target, F_OK), -1);
}

static void test_what_is_no_file_is_left_alone(void **state)
{
    for (int i = 0; i < 2; ++i) {
        life_t life;
        struct stat before, after;
        errors_logged = 0;
        assert_int_equal(i == 0 ? mkdir(path, 0700) : mkfifo(path, 0600), 0);
        assert_int_equal(lstat(path, &before), 0);
        begin(&life);
        assert_int_equal(errors_logged, 1);
        run_key(&life, "one", 7, 10, 'a');
        end(&life);
        assert_int_equal(lstat(path, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
        assert_int_equal(for_each_file("", NULL), 1);
        delete_file(path);
    }
}

static void test_the_new_file_is_nobody_elses(void **state)
{
    char fresh[128], victim[128];
    life_t life;
    struct stat stat;
    snprintf(fresh, sizeof(fresh), "%s.new", path);
    snprintf(victim, sizeof(victim), "%s/victim", directory);
    assert_int_equal(close(open(victim, O_CREAT | O_WRONLY, 0666)), 0);
    assert_int_equal(symlink(victim, fresh), 0);
    begin(&life);
    run_key(&life, "one", 7, 10, 'a');
    end(&life);
    assert_int_equal(lstat(victim, &stat), 0);
    assert_int_equal(stat.st_size, 0);
    assert_int_equal(close(open(fresh, O_CREAT | O_WRONLY, 0666)), 0);
    begin(&life);
    run_key(&life, "two", 7, 10, 'a');
    end(&life);
    assert_int_equal(lstat(path, &stat), 0);
    assert_int_equal(stat.st_mode & 0777, 0600);
    begin(&life);
    assert_int_equal(ask_key(&life, "one", 7, 10, 'a'), WEIR_STORE_CLAIM_SHARE);
    assert_int_equal(ask_key(&life, "two", 7, 10, 'a'), WEIR_STORE_CLAIM_SHARE);
    end(&life);
}

static void test_a_huge_file_is_not_read(void **state)
{
    life_t life;
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    assert_int_equal(truncate(path, (off_t)1 << 40), 0);
    begin(&life);
    assert_int_equal(errors_logged, 1);
    end(&life);
    assert_int_equal(for_each_file("damaged", NULL), 1);
}

static void test_a_full_disk_keeps_the_file_that_was(void **state)
{
    life_t life;
    begin(&life);
    run_key(&life, "one", 7, 10, 'a');
    end(&life);
    struct rlimit limit, few;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    few = limit;
    few.rlim_cur = 4000;
    begin(&life);
    run_key(&life, "two", 7, 10000, 'b');
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &few), 0);
    end(&life);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(errors_logged, 1);
    assert_non_null(strstr(last_event, "File too large"));
    assert_int_equal(for_each_file("", NULL), 1); /* no half of a file */
    begin(&life);
    assert_int_equal(ask_key(&life, "one", 7, 10, 'a'), WEIR_STORE_CLAIM_SHARE);
    assert_int_equal(ask_key(&life, "two", 7, 10, 'b'), WEIR_STORE_CLAIM_RUN);
    end(&life);
}

static void test_more_than_has_room(void **state)
{
    life_t life;
    char name[32];
    begin(&life);
    for (int i = 0; i < 300; ++i) {
        snprintf(name, sizeof(name), "key %d", i);
        run_key(&life, name, 7, 1000, 'a');
    }
    end(&life);
    conf.max_keys = 50;
    conf.memory_bytes = 20000;
    begin(&life);
    weir_store_dedup_told_t told = tell_of(life.store, "orders", weir_clock_now_ns());
    assert_int_equal(told.keys, 50);
    assert_in_range(told.answer_bytes, 10000, 20000);
    assert_int_equal(ask_key(&life, "key 299", 7, 1000, 'a'), WEIR_STORE_CLAIM_SHARE); /* the newest are kept */
    assert_int_equal(ask_key(&life, "key 250", 7, 1000, 'a'), WEIR_STORE_CLAIM_DUPLICATE);
    assert_int_equal(ask_key(&life, "key 249", 7, 1000, 'a'), WEIR_STORE_CLAIM_RUN);
    end(&life);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_restart_forgets_nothing),
        TEST(test_an_answer_that_changed_is_written),
        TEST(test_a_damaged_file_is_set_aside),
        TEST(test_a_file_that_is_wrong_with_the_right_checksum),
        TEST(test_wall_clocks_that_step),
        TEST(test_a_link_is_neither_followed_nor_replaced),
        TEST(test_what_is_no_file_is_left_alone),
        TEST(test_the_new_file_is_nobody_elses),
        TEST(test_a_huge_file_is_not_read),
        TEST(test_a_full_disk_keeps_the_file_that_was),
        TEST(test_more_than_has_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
