/* An answer's head as bytes, and back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../proxy/answer_head.h"

static h2o_mem_pool_t pool;

static int set_up(void **state)
{
    h2o_mem_init_pool(&pool);
    return 0;
}

static int tear_down(void **state)
{
    h2o_mem_clear_pool(&pool);
    return 0;
}

static weir_str_t text_of(seeded_t *seeded, char *space, size_t max)
{
    size_t len = seeded_below(seeded, max);
    for (size_t i = 0; i < len; ++i)
        space[i] = (char)('a' + seeded_below(seeded, 26));
    return (weir_str_t){space, len};
}

static void assert_same(weir_str_t a, weir_str_t b)
{
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.base, b.base, a.len);
}

static void test_there_and_back(void **state)
{
    seeded_t seeded = seeded_start("heads");
    for (int i = 0; i < 500; ++i) {
        weir_h1_field_t fields[WEIR_H1_FIELDS_MAX];
        char space[WEIR_H1_FIELDS_MAX][2][64];
        weir_call_head_t head = {.status = (int)(200 + seeded_below(&seeded, 400)),
                                 .fields = fields,
                                 .field_count = seeded_below(&seeded, WEIR_H1_FIELDS_MAX + 1),
                                 .content_length = seeded_below(&seeded, 2) == 0 ? UINT64_MAX : seeded_next(&seeded),
                                 .no_body = seeded_below(&seeded, 2) == 0};
        for (size_t j = 0; j < head.field_count; ++j)
            fields[j] = (weir_h1_field_t){.name = text_of(&seeded, space[j][0], 64), .value = text_of(&seeded, space[j][1], 64)};
        h2o_iovec_t bytes = weir_answer_head_encode(&head);
        weir_answer_head_t decoded;
        char *exact = malloc(bytes.len);
        memcpy(exact, bytes.base, bytes.len);
        free(bytes.base);
        assert_true(weir_answer_head_decode(&pool, exact, bytes.len, &decoded));
        assert_int_equal(decoded.head.status, head.status);
        assert_int_equal(decoded.head.content_length, head.content_length);
        assert_int_equal(decoded.head.no_body, head.no_body);
        assert_int_equal(decoded.head.field_count, head.field_count);
        for (size_t j = 0; j < head.field_count; ++j) {
            assert_same(decoded.head.fields[j].name, fields[j].name);
            assert_same(decoded.head.fields[j].value, fields[j].value);
        }
        size_t cut = seeded_below(&seeded, bytes.len);
        char *shorter = malloc(cut + 1);
        memcpy(shorter, exact, cut);
        assert_false(weir_answer_head_decode(&pool, shorter, cut, &decoded));
        free(shorter);
        free(exact);
    }
}

static void test_too_many_fields(void **state)
{
    static weir_h1_field_t fields[WEIR_H1_FIELDS_MAX + 1];
    for (size_t i = 0; i <= WEIR_H1_FIELDS_MAX; ++i)
        fields[i] = (weir_h1_field_t){.name = {"x", 1}, .value = {"", 0}};
    for (size_t count = WEIR_H1_FIELDS_MAX; count <= WEIR_H1_FIELDS_MAX + 1; ++count) {
        weir_call_head_t head = {.status = 200, .fields = fields, .field_count = count};
        weir_answer_head_t decoded;
        h2o_iovec_t bytes = weir_answer_head_encode(&head);
        assert_int_equal(weir_answer_head_decode(&pool, bytes.base, bytes.len, &decoded), count == WEIR_H1_FIELDS_MAX);
        free(bytes.base);
    }
}

static void test_what_can_be_sent(void **state)
{
    static const struct {
        int status;
        const char *name, *value;
        uint64_t content_length;
        bool no_body;
        uint64_t body_bytes;
        bool is_sound;
    } cases[] = {
        {200, "content-type", "text/plain", 5, false, 5, true},
        {200, "x", "", UINT64_MAX, false, 5, true},
        {599, "x", "\xc3\xa9\t", 0, false, 0, true},
        {200, "x", "a", 5, true, 0, true}, /* HEAD */
        {200, "x", "a", 5, true, 5, false},
        {200, "x", "a", 5, false, 4, false},
        {199, "x", "a", 5, false, 5, false},
        {600, "x", "a", 5, false, 5, false},
        {0, "x", "a", 5, false, 5, false},
        {-1, "x", "a", 5, false, 5, false},
        {200, "", "a", 5, false, 5, false},
        {200, "x y", "a", 5, false, 5, false},
        {200, "x:", "a", 5, false, 5, false},
        {200, "x\r", "a", 5, false, 5, false},
        {200, "x", "a\r\nb: c", 5, false, 5, false},
        {200, "x", "a\x7f", 5, false, 5, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); ++i) {
        weir_h1_field_t field = {.name = {cases[i].name, strlen(cases[i].name)}, .value = {cases[i].value, strlen(cases[i].value)}};
        weir_call_head_t head = {.status = cases[i].status,
                                 .fields = &field,
                                 .field_count = 1,
                                 .content_length = cases[i].content_length,
                                 .no_body = cases[i].no_body};
        assert_int_equal(weir_answer_head_is_sound(&head, cases[i].body_bytes), cases[i].is_sound);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_there_and_back),
        TEST(test_too_many_fields),
        TEST(test_what_can_be_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
