/* Models: another name of one at an upstream, and which of them a route is for. */

#include "loaded.h"

static void test_names(void **state)
{
    weir_conf_t *conf = load_right("w.yaml", "version: 1\n"
                                             "upstreams: {u: {url: http://u, models: {b: two, a: one, bb: three}}, "
                                             "none: {url: http://n}}\n");
    const weir_conf_upstream_t *upstream = &conf->upstreams.entries[0];
    assert_string_equal(weir_conf_model_name(upstream, "a", 1), "one");
    assert_string_equal(weir_conf_model_name(upstream, "b", 1), "two");
    assert_string_equal(weir_conf_model_name(upstream, "bbb", 2), "three");
    assert_null(weir_conf_model_name(upstream, "bbb", 3));
    assert_null(weir_conf_model_name(upstream, "B", 1));
    assert_null(weir_conf_model_name(upstream, "a", 0));
    assert_null(weir_conf_model_name(upstream, "a\0\0\0\0\0\0\0", 8)); /* JSON may say so; it is not a */
    assert_null(weir_conf_model_name(upstream, "one", 3));
    assert_null(weir_conf_model_name(&conf->upstreams.entries[1], "a", 1));
    weir_conf_release(conf);
}

static void test_patterns(void **state)
{
    static const struct {
        const char *pattern, *model;
        bool matches;
    } rows[] = {{"gpt-4o", "gpt-4o", true},
                {"gpt-4o", "gpt-4", false},
                {"gpt-4o", "gpt-4o-mini", false},
                {"gpt-*", "gpt-", true},
                {"gpt-*", "gpt-4o", true},
                {"gpt-*", "gpt", false},
                {"gpt-*", "GPT-4o", false},
                {"*-mini", "o3-mini", true},
                {"*-mini", "-mini", true},
                {"*-mini", "o3-mini-x", false},
                {"*-mini", "mini", false},
                {"*", "a", true},
                {"*", "", true},
                {"a", "", false}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        const char *entries[] = {"other", rows[i].pattern};
        weir_conf_strings_t patterns = {entries, 2};
        if (weir_conf_model_matches(&patterns, rows[i].model, strlen(rows[i].model)) != rows[i].matches)
            fail_msg("'%s' and '%s'", rows[i].pattern, rows[i].model);
    }
    assert_true(weir_conf_model_matches(&(weir_conf_strings_t){NULL, 0}, "a", 1));
    assert_false(weir_conf_model_matches(&(weir_conf_strings_t){(const char *[]){"ab*"}, 1}, "abc", 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_patterns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
