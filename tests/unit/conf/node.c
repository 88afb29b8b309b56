/* Where things stand in a YAML text, and what is refused of YAML. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../../conf/node.h"

typedef struct {
    weir_conf_arena_t *arena;
    weir_conf_errors_t errors;
    const weir_conf_node_t *root;
} parsed_t;

static parsed_t parse_bytes(const char *text, size_t len)
{
    parsed_t parsed = {.arena = weir_conf_arena_create()};
    parsed.errors.arena = parsed.arena;
    parsed.root = weir_conf_node_parse(parsed.arena, "f.yaml", text, len, &parsed.errors);
    return parsed;
}

static parsed_t parse(const char *text)
{
    return parse_bytes(text, strlen(text));
}

static void check_place(const weir_conf_node_t *node, unsigned line, unsigned column)
{
    assert_non_null(node);
    if (node->place.line != line || node->place.column != column)
        fail_msg("'%s' stands at %u:%u, not at %u:%u", node->key != NULL ? node->key : "", node->place.line,
                 node->place.column, line, column);
}

static const weir_conf_node_t *at(const weir_conf_node_t *node, size_t index)
{
    for (node = node->first; index > 0; --index)
        node = node->next;
    return node;
}

static void test_places(void **state)
{
    parsed_t parsed = parse("# comment\n"
                            "plain: text\n"
                            "quoted: \"a\"\n"
                            "single:   'b'\n"
                            "block:\n"
                            "  inner: 1\n"
                            "flow: {a: 1, b: [x, \"y\", {c: d}]}\n"
                            "list:\n"
                            "  - one\n"
                            "  - two: 2\n"
                            "empty:\n"
                            "after: last\n"
                            "literal: |\n"
                            "    deep\n");
    const weir_conf_node_t *root = parsed.root;
    check_place(root, 2, 1);
    check_place(weir_conf_node_get(root, "plain"), 2, 8);
    check_place(weir_conf_node_get(root, "quoted"), 3, 9);
    check_place(weir_conf_node_get(root, "single"), 4, 11);
    check_place(weir_conf_node_get(root, "block"), 6, 3);
    check_place(weir_conf_node_get(weir_conf_node_get(root, "block"), "inner"), 6, 10);
    const weir_conf_node_t *flow = weir_conf_node_get(root, "flow"), *list = weir_conf_node_get(root, "list");
    check_place(flow, 7, 7);
    check_place(weir_conf_node_get(flow, "a"), 7, 11);
    check_place(weir_conf_node_get(flow, "b"), 7, 17);
    check_place(at(weir_conf_node_get(flow, "b"), 1), 7, 21);
    check_place(at(weir_conf_node_get(flow, "b"), 2), 7, 26);
    check_place(list, 9, 3);
    check_place(at(list, 0), 9, 5);
    check_place(at(list, 1), 10, 5);
    check_place(weir_conf_node_get(at(list, 1), "two"), 10, 10);
    assert_null(weir_conf_node_get(root, "empty"));
    check_place(weir_conf_node_get(root, "literal"), 14, 5);
    assert_int_equal(weir_conf_node_get(root, "after")->key_place.line, 12);
    assert_int_equal(weir_conf_node_get(flow, "b")->key_place.column, 14);
    assert_string_equal(
        weir_conf_node_path(weir_conf_node_get(at(weir_conf_node_get(flow, "b"), 2), "c"), parsed.arena),
        "flow.b[2].c");
    assert_int_equal(parsed.errors.count, 0);
    weir_conf_arena_destroy(parsed.arena);
}

/* A column counts characters, whatever their bytes; every kind of line end ends a line. */
static void test_columns_and_lines(void **state)
{
    parsed_t parsed = parse("\xef\xbb\xbf"
                            "a: {\xc3\xa9: \"\xf0\x9f\x98\x80\", b: 1}\r\nc: 2\rd: 3\n");
    check_place(weir_conf_node_get(weir_conf_node_get(parsed.root, "a"), "b"), 1, 16);
    check_place(weir_conf_node_get(parsed.root, "c"), 2, 4);
    check_place(weir_conf_node_get(parsed.root, "d"), 3, 4);
    weir_conf_arena_destroy(parsed.arena);
}

static void test_words(void **state)
{
    parsed_t parsed = parse("a: null\nb: ~\nc:\nd: 'null'\ne: true\nf: \"true\"\ng: ''\nh: Null\n");
    assert_null(weir_conf_node_get(parsed.root, "a"));
    assert_null(weir_conf_node_get(parsed.root, "b"));
    assert_null(weir_conf_node_get(parsed.root, "c"));
    assert_non_null(weir_conf_node_get(parsed.root, "d"));
    assert_true(weir_conf_node_is_word(weir_conf_node_get(parsed.root, "e"), "true"));
    assert_false(weir_conf_node_is_word(weir_conf_node_get(parsed.root, "f"), "true"));
    assert_non_null(weir_conf_node_get(parsed.root, "g"));
    assert_null(weir_conf_node_get(parsed.root, "h"));
    weir_conf_arena_destroy(parsed.arena);
}

static void test_empty_texts(void **state)
{
    static const char *const texts[] = {"", "\n\n", "# nothing\n", "---\n", "---\n...\n", "~\n", "null"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); ++i) {
        parsed_t parsed = parse(texts[i]);
        check_place(parsed.root, 1, 1);
        assert_int_equal(parsed.root->kind, WEIR_CONF_MAPPING);
        assert_int_equal(parsed.root->count, 0);
        weir_conf_arena_destroy(parsed.arena);
    }
}

static void check_error(const char *text, size_t len, const char *wanted)
{
    parsed_t parsed = parse_bytes(text, len);
    char *errors = weir_conf_errors_text(&parsed.errors);
    if (strncmp(errors, wanted, strlen(wanted)) != 0)
        fail_msg("%s\n--- is not said of\n%s\n--- but\n%s", wanted, text, errors);
    free(errors);
    weir_conf_arena_destroy(parsed.arena);
}

static void test_refused(void **state)
{
    static const struct {
        const char *text, *error;
    } rows[] = {
        {"a: 1\nb: &x 2\n", "f.yaml:2:4: b: anchors and aliases are not supported"},
        {"a: 1\nb: *x\n", "f.yaml:2:4: b: a * begins an alias"},
        {"a: [1, *x]\n", "f.yaml:1:8: a[1]: a * begins an alias"},
        {"a: !!str 1\n", "f.yaml:1:4: a: tags are not supported"},
        {"a:\n  <<: {b: 1}\n", "f.yaml:2:3: a.<<: merge keys are not supported"},
        {"a: 1\nb: 2\na: 3\n", "f.yaml:3:1: a: is given twice; the first is at line 1"},
        {"a: {b: 1, c: 2, b: 3}\n", "f.yaml:1:17: a.b: is given twice"},
        {"a: 1\n'a': 2\n", "f.yaml:2:1: a: is given twice"},
        {"? [a]\n: 1\n", "f.yaml:1:3: a key cannot be a list"},
        {"{a: 1}: 2\n", "f.yaml:1:1: a key cannot be a list"},
        {"a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document begins here"},
        {"a: 1\n...\n---\nb: 2\n", "f.yaml:3:1: a second document begins here"},
        {"a:\n\tb: 1\n", "f.yaml:2:1: is not YAML: tab"},
        {"a: [1, 2\n", "f.yaml:1:4: is not YAML: flow sequence without a closing bracket; close it with ]"},
        {"a: {b: 1\n", "f.yaml:2:1: is not YAML: missing comma in flow mapping; write a comma between two entries"},
        {"a: \"b\n", "f.yaml:1:4: is not YAML: double-quoted scalar without closing quote"},
        {"a: b: c\n", "f.yaml:1:5: is not YAML"},
        {"a: @b\n", "f.yaml:1:4: is not YAML: plain scalar cannot start with '@'"},
        {"a: 1\n b: 2\n", "f.yaml:1:4: is not YAML"},
        {"a: \"\\0\"\n", "f.yaml:1:4: a: has a NUL byte"},
        {"\"\\0\": 1\n", "f.yaml:1:1: a key with a NUL byte"},
        {"a: b\nc: d\xff\n", "f.yaml:2:5: is not UTF-8 (byte 0xff)"},
        {"a: \xc0\xaf\n", "f.yaml:1:4: is not UTF-8"},
        {"a: \xed\xa0\x80\n", "f.yaml:1:4: is not UTF-8"},
        {"a: \xf4\x90\x80\x80\n", "f.yaml:1:4: is not UTF-8"},
        {"a: b\n\x1b[0m\n", "f.yaml:2:1: a control character (byte 0x1b)"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i)
        check_error(rows[i].text, strlen(rows[i].text), rows[i].error);
    check_error("a: 1\nb: c\0d\n", 12, "f.yaml:2:5: a control character (byte 0x00)");
    check_error("a: \xe2\x80", 5, "f.yaml:1:4: is not UTF-8");
}

/* A text cannot make a tree, or a time, larger than its own size. */
static void test_bombs(void **state)
{
    enum { COUNT = 100000 };
    char *text = malloc(COUNT * 16);
    assert_non_null(text);
    memset(text, '[', COUNT);
    check_error(text, COUNT, "f.yaml:1:1001: is nested too deeply");
    check_error(text, 500, "f.yaml:1:33: [0][0]");

    size_t len = 0;
    for (int i = 0; i < COUNT; ++i)
        len += (size_t)sprintf(text + len, "k%d: 1\n", i);
    parsed_t parsed = parse_bytes(text, len);
    assert_int_equal(parsed.root->count, COUNT);
    assert_int_equal(parsed.errors.count, 0);
    weir_conf_arena_destroy(parsed.arena);

    for (int i = 0; i < COUNT; ++i)
        memcpy(text + i * 5, "k: 1\n", 5);
    parsed = parse_bytes(text, COUNT * 5);
    assert_int_equal(parsed.errors.count, COUNT - 1);
    assert_int_equal(parsed.errors.size, WEIR_CONF_ERRORS_MAX);
    char *errors = weir_conf_errors_text(&parsed.errors);
    assert_non_null(strstr(errors, "\n... and 99899 more\n"));
    free(errors);
    weir_conf_arena_destroy(parsed.arena);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),      cmocka_unit_test(test_columns_and_lines), cmocka_unit_test(test_words),
        cmocka_unit_test(test_empty_texts), cmocka_unit_test(test_refused),           cmocka_unit_test(test_bombs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
