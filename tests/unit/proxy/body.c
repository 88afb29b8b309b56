/* A body on its way out: what splices make of it, against a copy that is edited by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../proxy/body.h"

bool weir_server_buffer_reserve(weir_server_t *server, uint64_t bytes)
{
    return true;
}

void weir_server_buffer_release(weir_server_t *server, uint64_t bytes)
{
}

enum { BYTES_MAX = 64, OUT_MAX = 256 };

static size_t edit(const char *bytes, size_t len, const weir_splices_t *splices, char *out)
{
    size_t from = 0, size = 0;
    for (size_t i = 0; i < splices->count; ++i) {
        const weir_splice_t *splice = &splices->entries[i];
        memcpy(out + size, bytes + from, splice->at - from);
        size += splice->at - from;
        memcpy(out + size, splice->insert.base, splice->insert.len);
        size += splice->insert.len;
        from = splice->at + splice->removed;
    }
    memcpy(out + size, bytes + from, len - from);
    return size + (len - from);
}

static size_t collect(const weir_body_t *body, const weir_splices_t *splices, char *out)
{
    uint64_t size = weir_body_size_out(body, splices), at = 0;
    while (at < size) {
        weir_str_t run = weir_body_run_out(body, splices, at);
        assert_true(run.len != 0 && at + run.len <= size);
        memcpy(out + at, run.base, run.len);
        at += run.len;
    }
    return size;
}

static void splices_come_out_as_edits_do(void **state)
{
    static const char text[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    static const char inserts[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    seeded_t seed = seeded_start("splices");
    for (int round = 0; round < 20000; ++round) {
        size_t len = seeded_below(&seed, sizeof(text));
        char bytes[BYTES_MAX], wanted[OUT_MAX], got[OUT_MAX];
        memcpy(bytes, text, len);
        weir_body_t body = {.bytes = bytes, .size = len, .complete = true, .whole = true, .declared = UINT64_MAX};
        weir_splices_t splices = {.count = seeded_below(&seed, WEIR_SPLICES_MAX + 1)};
        uint64_t at = 0;
        for (size_t i = 0; i < splices.count; ++i) {
            at += seeded_below(&seed, len - at + 1);
            uint64_t removed = seeded_below(&seed, len - at + 1);
            size_t insert = seeded_below(&seed, 20);
            splices.entries[i] = (weir_splice_t){at, removed, {inserts + seeded_below(&seed, 6), insert}};
            at += removed;
        }
        size_t size = edit(bytes, len, &splices, wanted);
        assert_int_equal(collect(&body, &splices, got), size);
        assert_memory_equal(got, wanted, size);
    }
}

static void a_run_begins_anywhere(void **state)
{
    char bytes[] = "{\"a\":1}";
    weir_body_t body = {.bytes = bytes, .size = 7, .complete = true, .whole = true};
    weir_splices_t splices = {.count = 1, .entries = {{1, 0, {"\"b\":2,", 6}}}};
    static const char wanted[] = "{\"b\":2,\"a\":1}";
    for (uint64_t at = 0; at < 13; ++at) {
        weir_str_t run = weir_body_run_out(&body, &splices, at);
        assert_memory_equal(run.base, wanted + at, run.len);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splices_come_out_as_edits_do),
        cmocka_unit_test(a_run_begins_anywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
