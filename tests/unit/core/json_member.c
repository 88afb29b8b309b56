/* Members of JSON bodies by their pointers: tables; and random documents against a plain search of a tree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/json_member.h"

enum { ABSENT = WEIR_JSON_MEMBER_ABSENT, TEXT = WEIR_JSON_MEMBER_TEXT, BAD = WEIR_JSON_MEMBER_BAD };

/* A body of its own size, so that a byte that is read behind it is seen. */
static int find(const char *pointer, const char *body, size_t len, weir_json_member_t *member)
{
    char *copy = malloc(len != 0 ? len : 1);
    memcpy(copy, body, len);
    weir_json_member_kind_t kind = weir_json_member_find(pointer, copy, len, member);
    free(copy);
    return (int)kind;
}

static void test_pointers(void **state)
{
    static const char *const right[] = {"", "/", "//", "/a", "/a/b", "/a~1b", "/m~0n", "/~01", "/ ", "/0", "/a/"};
    static const char *const wrong[] = {"a", "a/b", "#/a", "/~", "/a~", "/~2", "/a~/b", "/~a", "/b/c~"};
    for (size_t i = 0; i < sizeof(right) / sizeof(*right); ++i)
        assert_true(weir_json_pointer_is_valid(right[i]));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); ++i)
        assert_false(weir_json_pointer_is_valid(wrong[i]));
}

static void test_table(void **state)
{
    static const struct {
        const char *pointer, *body;
        int kind;
        const char *text;
    } table[] = {
        {"/a", "{\"a\":\"x\"}", TEXT, "x"},
        {"/a", " {\n\"b\" : 1 , \"a\" : \"x y\" } \r\n", TEXT, "x y"},
        {"/a/b", "{\"a\":{\"c\":1,\"b\":\"x\"},\"b\":\"y\"}", TEXT, "x"},
        {"/a/b", "{\"b\":\"y\",\"a\":{\"a\":{\"b\":\"z\"},\"b\":\"x\"}}", TEXT, "x"},
        {"/a/b", "{\"x\":{\"a\":{\"b\":1}}}", ABSENT, NULL},
        {"/a/b", "{\"a\":[{\"b\":1}]}", ABSENT, NULL},
        {"/a/b", "{\"a\":1}", ABSENT, NULL},
        {"/a/b", "{\"a\":\"b\"}", ABSENT, NULL},
        {"/a/b/c", "{\"a\":{\"b\":{\"c\":\"x\"}}}", TEXT, "x"},
        {"/a/b/c", "{\"a\":{\"b\":{\"d\":\"x\"},\"c\":\"y\"}}", ABSENT, NULL},
        {"/a", "{}", ABSENT, NULL},
        {"/a", "[]", ABSENT, NULL},
        {"/a", "\"a\"", ABSENT, NULL},
        {"/", "{\"\":\"x\"}", TEXT, "x"},
        {"//", "{\"\":{\"\":\"x\"}}", TEXT, "x"},
        {"/a/", "{\"a\":{\"\":\"x\"}}", TEXT, "x"},
        /* the outermost value itself */
        {"", "\"x\"", TEXT, "x"},
        {"", " 42", TEXT, "42"},
        {"", "42 ", TEXT, "42"},
        {"", "null", ABSENT, NULL},
        {"", "{}", BAD, NULL},
        {"", "[1]", BAD, NULL},
        {"", "\"\"", BAD, NULL},
        /* escapes, in the body and in the pointer */
        {"/a", "{\"a\":\"\\u0041\\n\\/\\\\\\\"\\ud83d\\ude00\"}", TEXT, "A\n/\\\"\xf0\x9f\x98\x80"},
        {"/a", "{\"\\u0061\":\"x\"}", TEXT, "x"},
        {"/a~1b", "{\"a/b\":\"x\"}", TEXT, "x"},
        {"/m~0n", "{\"m~n\":\"x\"}", TEXT, "x"},
        {"/~01", "{\"~1\":\"x\",\"/\":\"y\"}", TEXT, "x"},
        {"/~1", "{\"~1\":\"x\",\"/\":\"y\"}", TEXT, "y"},
        {"/a~1", "{\"a\":\"x\"}", ABSENT, NULL},
        {"/a", "{\"a/\":\"x\",\"ab\":1,\"\":2,\"A\":3}", ABSENT, NULL},
        {"/\xc3\xa4", "{\"\\u00e4\":\"x\"}", TEXT, "x"},
        /* arrays */
        {"/0", "[\"x\",\"y\"]", TEXT, "x"},
        {"/1", "[\"x\",\"y\"]", TEXT, "y"},
        {"/2", "[\"x\",\"y\"]", ABSENT, NULL},
        {"/-", "[\"x\"]", ABSENT, NULL},
        {"/00", "[\"x\"]", ABSENT, NULL},
        {"/01", "[\"x\",\"y\"]", ABSENT, NULL},
        {"/+1", "[\"x\",\"y\"]", ABSENT, NULL},
        {"/", "[\"x\"]", ABSENT, NULL},
        {"/18446744073709551616", "[\"x\"]", ABSENT, NULL},
        {"/99999999999999999999999999", "[\"x\"]", ABSENT, NULL},
        {"/9223372036854775807", "[[1],\"x\"]", ABSENT, NULL},
        {"/1/0", "[[\"a\",\"b\"],[\"c\",\"d\"]]", TEXT, "c"},
        {"/0/1", "[[\"a\",\"b\"],[\"c\",\"d\"]]", TEXT, "b"},
        {"/1/0", "[[\"a\"],{\"0\":\"c\"}]", TEXT, "c"},
        {"/a/1/b", "{\"a\":[{\"b\":\"x\"},{\"b\":\"y\"},{\"b\":\"z\"}]}", TEXT, "y"},
        {"/0/b", "[{\"b\":\"x\"},{\"b\":\"y\"}]", TEXT, "x"},
        {"/0", "{\"0\":\"x\"}", TEXT, "x"},
        {"/00", "{\"00\":\"x\"}", TEXT, "x"},
        /* numbers as they are written */
        {"/a", "{\"a\":1}", TEXT, "1"},
        {"/a", "{\"a\":-0}", TEXT, "-0"},
        {"/a", "{\"a\":1.50e+02}", TEXT, "1.50e+02"},
        {"/a", "{\"a\":123456789012345678901234567890}", TEXT, "123456789012345678901234567890"},
        /* no text */
        {"/a", "{\"a\":null}", ABSENT, NULL},
        {"/a", "{\"a\":true}", BAD, NULL},
        {"/a", "{\"a\":false}", BAD, NULL},
        {"/a", "{\"a\":\"\"}", BAD, NULL},
        {"/a", "{\"a\":{}}", BAD, NULL},
        {"/a", "{\"a\":{\"a\":\"x\"}}", BAD, NULL},
        {"/a", "{\"a\":[\"x\"]}", BAD, NULL},
        /* twice: whoever reads it may take the one or the other */
        {"/a", "{\"a\":\"x\",\"a\":\"x\"}", BAD, NULL},
        {"/a", "{\"a\":\"x\",\"a\":null}", BAD, NULL},
        {"/a", "{\"a\":null,\"a\":\"x\"}", BAD, NULL},
        {"/a", "{\"a\":null,\"a\":null}", ABSENT, NULL},
        {"/a", "{\"a\":true,\"\\u0061\":\"x\"}", BAD, NULL},
        {"/a", "{\"a\":{},\"a\":\"x\"}", BAD, NULL},
        {"/a/b", "{\"a\":{\"b\":\"x\"},\"a\":{}}", BAD, NULL},
        {"/a/b", "{\"a\":{\"b\":\"x\"},\"a\":7}", BAD, NULL},
        {"/a/b", "{\"a\":7,\"a\":{\"b\":\"x\"}}", BAD, NULL},
        {"/a/b", "{\"a\":{},\"a\":7}", ABSENT, NULL},
        {"/a/b", "{\"a\":{\"b\":null},\"a\":7}", ABSENT, NULL},
        {"/a/b", "{\"a\":{\"b\":\"x\"},\"b\":1,\"b\":2}", TEXT, "x"},
        {"/a", "{\"b\":{\"a\":1,\"a\":2},\"a\":\"x\"}", TEXT, "x"},
        /* no JSON */
        {"/a", "", ABSENT, NULL},
        {"/a", "{\"a\":\"x\"", ABSENT, NULL},
        {"/a", "{\"a\":\"x\"}}", ABSENT, NULL},
        {"/a", "{\"a\":\"x\"} {}", ABSENT, NULL},
        {"/a", "{\"a\":\"x\",}", ABSENT, NULL},
        {"/a", "{'a':'x'}", ABSENT, NULL},
        {"/a", "a=x", ABSENT, NULL},
        {"/a", "{\"a\":01}", ABSENT, NULL},
        {"", "1x", ABSENT, NULL},
        {"", "-", ABSENT, NULL},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        weir_json_member_t member;
        int kind = find(table[i].pointer, table[i].body, strlen(table[i].body), &member);
        if (kind != table[i].kind)
            fail_msg("%s of %s: %d", table[i].pointer, table[i].body, kind);
        if (kind != TEXT)
            continue;
        assert_string_equal(member.text, table[i].text);
        assert_int_equal(member.len, strlen(table[i].text));
    }
    weir_json_member_t member;
    assert_int_equal(weir_json_member_find("/a", NULL, 0, &member), ABSENT);
}

static void test_a_nul_is_a_byte(void **state)
{
    static const char body[] = "{\"a\":\"x\\u0000y\",\"b\\u0000\":\"z\"}";
    weir_json_member_t member;
    assert_int_equal(find("/a", body, sizeof(body) - 1, &member), TEXT);
    assert_int_equal(member.len, 3);
    assert_memory_equal(member.text, "x\0y", 4);
    assert_int_equal(find("/b", body, sizeof(body) - 1, &member), ABSENT);
}

/* A value of so many bytes: a string, or a number. */
static int find_long(char byte, size_t count, bool is_quoted)
{
    char body[2000];
    int len = snprintf(body, sizeof(body), is_quoted ? "{\"a\":\"%*s\"}" : "{\"a\":%*s}", (int)count, "");
    memset(body + (is_quoted ? 6 : 5), byte, count);
    weir_json_member_t member;
    int kind = find("/a", body, (size_t)len, &member);
    if (kind == TEXT)
        assert_true(member.len == count && member.text[0] == byte && member.text[count] == '\0');
    return kind;
}

static void test_long_texts(void **state)
{
    for (size_t count = 1; count <= 1000; ++count) {
        int expected = count <= WEIR_JSON_MEMBER_BYTES_MAX ? TEXT : BAD;
        assert_int_equal(find_long('x', count, true), expected);
        assert_int_equal(find_long('7', count, false), expected);
    }
}

/* A name that is as long as the pointer's and longer than what a token has of it is another one, as far as we know. */
static void test_long_names(void **state)
{
    char pointer[400] = "/", body[800];
    for (int len = 250; len <= 260; ++len) {
        memset(pointer + 1, 'n', (size_t)len);
        pointer[1 + len] = '\0';
        int size = snprintf(body, sizeof(body), "{\"%sx\":\"wrong\",\"%s\":\"right\"}", pointer + 1, pointer + 1);
        weir_json_member_t member;
        int kind = find(pointer, body, (size_t)size, &member);
        assert_int_equal(kind, len <= 255 ? TEXT : ABSENT);
        if (kind == TEXT)
            assert_string_equal(member.text, "right");
    }
}

static int find_deep(unsigned depth, unsigned closed)
{
    static char pointer[3000], body[10000];
    size_t p = 0, b = 0;
    for (unsigned i = 0; i < depth; ++i) {
        p += (size_t)sprintf(pointer + p, i % 2 ? "/1" : "/a");
        b += (size_t)sprintf(body + b, i % 2 ? "[0," : "{\"a\":");
    }
    b += (size_t)sprintf(body + b, "\"x\"");
    for (unsigned i = depth; i-- > depth - closed;)
        body[b++] = i % 2 ? ']' : '}';
    weir_json_member_t member;
    return find(pointer, body, b, &member);
}

static void test_deep_bodies(void **state)
{
    assert_int_equal(find_deep(512, 512), TEXT);
    assert_int_equal(find_deep(512, 511), ABSENT);
    assert_int_equal(find_deep(513, 513), ABSENT);
}

/* Random trees of few names, so that many are there twice. The same search over the tree, by all of its paths. */
enum { NODES = 40, CHILDREN = 4 };

typedef struct node {
    char kind; /* o, a, s (string), n (null) */
    int count;
    struct node *children[CHILDREN];
    const char *names[CHILDREN];
    char text[8];
} node_t;

static node_t nodes[NODES];
static int node_count;

static node_t *grow(seeded_t *seeded, int depth)
{
    static const char *const names[] = {"a", "b", "0", "1"};
    node_t *node = &nodes[node_count++];
    *node = (node_t){.kind = depth == 0 ? 's' : "oooasn"[seeded_below(seeded, 6)]};
    if (node->kind == 'o' || node->kind == 'a')
        for (int left = (int)seeded_below(seeded, CHILDREN + 1); left > 0 && node_count < NODES; --left) {
            node->names[node->count] = names[seeded_below(seeded, 4)];
            node->children[node->count++] = grow(seeded, depth - 1);
        }
    sprintf(node->text, "v%d", (int)(node - nodes));
    return node;
}

static char *write_node(const node_t *node, char *at)
{
    if (node->kind == 'n')
        return at + sprintf(at, "null");
    if (node->kind == 's')
        return at + sprintf(at, "\"%s\"", node->text);
    *at++ = node->kind == 'o' ? '{' : '[';
    for (int i = 0; i < node->count; ++i) {
        at += sprintf(at, i > 0 ? ", " : "");
        if (node->kind == 'o')
            at += sprintf(at, "\"%s\": ", node->names[i]);
        at = write_node(node->children[i], at);
    }
    *at++ = node->kind == 'o' ? '}' : ']';
    *at = '\0';
    return at;
}

typedef struct {
    int found;
    bool is_ambiguous;
    const node_t *node;
} search_t;

static void search(search_t *found, const node_t *node, char *const *steps, int count)
{
    if (count == 0) {
        found->found += node->kind != 'n';
        if (node->kind != 'n')
            found->node = node;
        return;
    }
    int here = 0;
    for (int i = 0; i < node->count; ++i) {
        char index[12];
        sprintf(index, "%d", i);
        if (strcmp(node->kind == 'o' ? node->names[i] : index, steps[0]) != 0)
            continue;
        ++here;
        search(found, node->children[i], steps + 1, count - 1);
    }
    found->is_ambiguous |= here > 1;
}

static void test_random_trees(void **state)
{
    static char body[4000];
    static char *const choice[] = {"a", "b", "0", "1"};
    seeded_t seeded = seeded_start(__func__);
    int kinds[3] = {0};
    for (int i = 0; i < 30000; ++i) {
        node_count = 0;
        const node_t *root = grow(&seeded, 4);
        size_t len = (size_t)(write_node(root, body) - body);
        char pointer[32] = "", *steps[4];
        int count = (int)seeded_below(&seeded, 4);
        for (int step = 0; step < count; ++step) {
            steps[step] = choice[seeded_below(&seeded, 4)];
            strcat(strcat(pointer, "/"), steps[step]);
        }
        search_t found = {0};
        search(&found, root, steps, count);
        bool is_text = found.found == 1 && !found.is_ambiguous && found.node->kind == 's';
        int expected = found.found == 0 ? ABSENT : is_text ? TEXT : BAD;
        weir_json_member_t member;
        int kind = find(pointer, body, len, &member);
        if (kind != expected)
            fail_msg("%s of %s: %d, not %d", pointer, body, kind, expected);
        if (kind == TEXT)
            assert_string_equal(member.text, found.node->text);
        ++kinds[kind];
    }
    assert_true(kinds[ABSENT] > 100 && kinds[TEXT] > 100 && kinds[BAD] > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pointers),     cmocka_unit_test(test_table),      cmocka_unit_test(test_a_nul_is_a_byte),
        cmocka_unit_test(test_long_texts),   cmocka_unit_test(test_long_names), cmocka_unit_test(test_deep_bodies),
        cmocka_unit_test(test_random_trees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
