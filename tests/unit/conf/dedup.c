/* Dedups: defaults, every field, what follows from other fields, and every rule between them. */

#include "loaded.h"
#include "../../../conf/scalar.h"
#include "../../../filters/core/bloom_pair.h"

#define S INT64_C(1000000000)

static const weir_conf_dedup_t *first(const weir_conf_t *conf)
{
    return &conf->dedup.entries[0];
}

static void check_keys(const weir_conf_dedup_keys_t *keys, const weir_conf_dedup_key_t *wanted, size_t size)
{
    assert_int_equal(keys->size, size);
    for (size_t i = 0; i < size; ++i) {
        assert_int_equal(keys->entries[i].kind, wanted[i].kind);
        if (wanted[i].text == NULL)
            assert_null(keys->entries[i].text);
        else
            assert_string_equal(keys->entries[i].text, wanted[i].text);
    }
}

static void check_default_statuses(const weir_conf_statuses_t *statuses)
{
    for (int64_t status = 0; status < 1000; ++status) {
        bool is_kept = (status >= 200 && status <= 299) || status == 400 || status == 405 || status == 410 ||
                       status == 415 || status == 422;
        if (weir_conf_statuses_has(statuses, status) != is_kept)
            fail_msg("%d is %s", (int)status, is_kept ? "missing" : "there");
    }
}

static void test_defaults(void **state)
{
    static const weir_conf_dedup_key_t keys[] = {{WEIR_DEDUP_KEY_HEADER, "Idempotency-Key"},
                                                 {WEIR_DEDUP_KEY_CLOUDEVENT, NULL}};
    static const char *const methods[] = {"POST", "PUT", "PATCH", "DELETE"};
    weir_conf_t *conf = load_right("w.yaml", "version: 1\ndedup: {a: {}}\nupstreams: {u: {url: http://u}}\n"
                                             "listeners: {l: {address: 127.0.0.1:80, routes: [{upstream: u}]}}\n");
    const weir_conf_dedup_t *dedup = first(conf);
    assert_string_equal(dedup->name, "a");
    check_keys(&dedup->key, keys, 2);
    assert_false(dedup->required);
    assert_int_equal(dedup->methods.size, 4);
    for (size_t i = 0; i < 4; ++i)
        assert_string_equal(dedup->methods.entries[i], methods[i]);
    assert_int_equal(dedup->window_ns, 86400 * S);
    assert_int_equal(dedup->on_duplicate, WEIR_ON_DUPLICATE_REPLAY);
    assert_int_equal(dedup->acknowledge.status, 204);
    assert_null(dedup->acknowledge.body);
    assert_int_equal(dedup->in_flight, WEIR_IN_FLIGHT_WAIT);
    assert_int_equal(dedup->mismatch, WEIR_MISMATCH_REJECT);
    assert_int_equal(dedup->abandoned, WEIR_ABANDONED_FINISH);
    assert_int_equal(dedup->on_unknown, WEIR_ON_UNKNOWN_RUN);
    check_default_statuses(&dedup->keep_statuses);
    assert_int_equal(dedup->lease_ns, 30 * S);
    assert_int_equal(dedup->max_response_bytes, 1 << 20);
    assert_int_equal(dedup->keep_responses_ns, 3600 * S);
    assert_int_equal(dedup->memory_bytes, 16 << 20);
    assert_int_equal(dedup->max_keys, 100000);
    assert_int_equal(dedup->on_full, WEIR_ON_FULL_FORGET_OLDEST);
    assert_int_equal(dedup->bloom.expected, 100000);
    assert_true(dedup->bloom.false_positives == 1e-6);
    assert_true(dedup->exact);
    assert_int_equal(dedup->on_failure, WEIR_DEDUP_ON_FAILURE_CLOSED);
    assert_null(dedup->bypass);
    assert_true(conf->listeners.entries[0].routes.entries[0].dedup == SIZE_MAX);
    weir_conf_release(conf);
}

static void test_every_field(void **state)
{
    static const weir_conf_dedup_key_t keys[] = {{WEIR_DEDUP_KEY_JSON, "/job~1id/0"},
                                                 {WEIR_DEDUP_KEY_HEADER, "X-Job"},
                                                 {WEIR_DEDUP_KEY_CLOUDEVENT, NULL},
                                                 {WEIR_DEDUP_KEY_FINGERPRINT, NULL}};
    weir_conf_t *conf = load_right("w.yaml", rich_text);
    const weir_conf_dedup_t *dedup = first(conf), *flood = &conf->dedup.entries[1];
    check_keys(&dedup->key, keys, 4);
    assert_true(dedup->required);
    assert_int_equal(dedup->methods.size, 1);
    assert_int_equal(dedup->window_ns, 7200 * S);
    assert_int_equal(dedup->in_flight, WEIR_IN_FLIGHT_REJECT);
    assert_int_equal(dedup->mismatch, WEIR_MISMATCH_IGNORE);
    assert_int_equal(dedup->abandoned, WEIR_ABANDONED_CANCEL);
    assert_int_equal(dedup->on_unknown, WEIR_ON_UNKNOWN_REJECT);
    assert_true(weir_conf_statuses_has(&dedup->keep_statuses, 200) &&
                weir_conf_statuses_has(&dedup->keep_statuses, 499) &&
                weir_conf_statuses_has(&dedup->keep_statuses, 503));
    assert_false(weir_conf_statuses_has(&dedup->keep_statuses, 201) ||
                 weir_conf_statuses_has(&dedup->keep_statuses, 500));
    assert_int_equal(dedup->lease_ns, 1500 * S / 1000);
    assert_int_equal(dedup->max_response_bytes, 64 << 10);
    assert_int_equal(dedup->keep_responses_ns, 1800 * S);
    assert_int_equal(dedup->memory_bytes, 8 << 20);
    assert_int_equal(dedup->max_keys, 5000);
    assert_int_equal(dedup->on_full, WEIR_ON_FULL_REJECT);
    assert_int_equal(dedup->bloom.expected, 2000);
    assert_true(dedup->bloom.false_positives == 0.00125);
    assert_int_equal(dedup->on_failure, WEIR_DEDUP_ON_FAILURE_OPEN);
    assert_string_equal(dedup->bypass, "X-Replay");
    assert_int_equal(flood->on_duplicate, WEIR_ON_DUPLICATE_ACKNOWLEDGE);
    assert_int_equal(flood->acknowledge.status, 202);
    assert_string_equal(flood->acknowledge.body, "{\"seen\":true}");
    assert_false(flood->exact);
    assert_true(conf->listeners.entries[0].routes.entries[0].dedup == SIZE_MAX);
    assert_int_equal(conf->listeners.entries[0].routes.entries[1].dedup, 0);
    weir_conf_release(conf);
}

/* The order in which fields are written is no matter, and null is as good as leaving one out. */
static void test_derived(void **state)
{
    static const struct {
        const char *fields;
        int64_t keep_responses_ms, max_response_bytes;
    } rows[] = {{"window: 10m", 600000, 1 << 20},
                {"keep_responses: null, window: 100ms", 100, 1 << 20},
                {"window: 1h", 3600000, 1 << 20},
                {"window: 48h", 3600000, 1 << 20},
                {"keep_responses: 10m, window: 10m", 600000, 1 << 20},
                {"keep_responses: 24h", 86400000, 1 << 20},
                {"memory: 64KiB", 3600000, 64 << 10},
                {"max_response: ~, memory: 1MiB", 3600000, 1 << 20},
                {"max_response: 16MiB", 3600000, 16 << 20},
                {"max_response: 2KiB, memory: 2KiB", 3600000, 2 << 10}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char text[256];
        snprintf(text, sizeof(text), "version: 1\ndedup: {a: {%s}}\n", rows[i].fields);
        weir_conf_t *conf = load_right("w.yaml", text);
        assert_int_equal(first(conf)->keep_responses_ns, rows[i].keep_responses_ms * S / 1000);
        assert_int_equal(first(conf)->max_response_bytes, rows[i].max_response_bytes);
        weir_conf_release(conf);
    }
}

static void test_statuses(void **state)
{
    static const struct {
        const char *written, *printed;
        size_t count;
    } rows[] = {{"[]", "[]", 0},
                {"[2xx, 3xx, 4xx, 5xx]", "[2xx, 3xx, 4xx, 5xx]", 400},
                {"[599, '200', 404]", "[200, 404, 599]", 3},
                {"[5xx, 299]", "[299, 5xx]", 101}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char text[256], wanted[256];
        snprintf(text, sizeof(text), "version: 1\ndedup: {a: {keep_statuses: %s}}\n", rows[i].written);
        snprintf(wanted, sizeof(wanted), "\n    keep_statuses: %s\n", rows[i].printed);
        weir_conf_t *conf = load_right("w.yaml", text);
        size_t count = 0;
        for (int64_t status = -1000; status < 2000; ++status)
            count += weir_conf_statuses_has(&first(conf)->keep_statuses, status);
        assert_int_equal(count, rows[i].count);
        char *all = printed(conf);
        assert_non_null(strstr(all, wanted));
        free(all);
        weir_conf_release(conf);
    }
}

/* All hundred of a class, one by one, are the class. */
static void test_a_class_in_parts(void **state)
{
    char text[1024], *end = text + sprintf(text, "version: 1\ndedup: {a: {keep_statuses: [");
    for (int status = 300; status < 400; ++status)
        end += sprintf(end, "%s%d", status > 300 ? ", " : "", status);
    strcpy(end, "]}}\n");
    weir_conf_t *conf = load_right("w.yaml", text);
    char *all = printed(conf);
    assert_non_null(strstr(all, "\n    keep_statuses: [3xx]\n"));
    free(all);
    weir_conf_release(conf);
}

static const char *load_expected(int64_t expected, const char *rate, char errors[512])
{
    char text[256], *told;
    snprintf(text, sizeof(text), "version: 1\ndedup: {a: {bloom: {expected: %lld, false_positives: %s}}}\n",
             (long long)expected, rate);
    weir_conf_t *conf = weir_conf_load_text("w.yaml", text, strlen(text), &told);
    snprintf(errors, 512, "%s", told != NULL ? told : "");
    free(told);
    if (conf != NULL)
        weir_conf_release(conf);
    return errors;
}

/* What the rule says is what the filters can do, and the number it names is taken. */
static void test_bloom_bounds(void **state)
{
    static const struct {
        const char *text;
        double rate;
    } rates[] = {{"1e-9", 1e-9}, {"1e-6", 1e-6}, {"0.0125", 0.0125}, {"3.14159e-5", 3.14159e-5}};
    for (size_t i = 0; i < sizeof(rates) / sizeof(*rates); ++i) {
        char errors[512], wanted[64];
        int64_t max = weir_conf_bloom_expected_max(rates[i].rate);
        assert_int_equal(max, weir_bloom_pair_expected_max(rates[i].rate));
        assert_true(weir_bloom_pair_bytes((uint64_t)max, rates[i].rate) > 0);
        assert_int_equal(weir_bloom_pair_bytes((uint64_t)max + 1, rates[i].rate), 0);
        assert_string_equal(load_expected(max, rates[i].text, errors), "");
        snprintf(wanted, sizeof(wanted), "write at most %lld, or more", (long long)max);
        assert_non_null(strstr(load_expected(max + 1, rates[i].text, errors), wanted));
    }
    char errors[512];
    assert_string_equal(load_expected(398000000, "0.1", errors), "");
}

/* ---- rules ---- */

#define EXACT                                                                                                     \
    "needs on_duplicate: acknowledge or reject, and in_flight: reject, for Bloom filters hold no answers; write " \
    "those, "                                                                                                     \
    "or leave this out"
#define ROUTES "upstreams: {u: {url: http://u}}\nlisteners: {l: {address: 1.1.1.1:1, routes: "

/* Texts after `version: 1`, each with the errors it makes; NULL: it is right. */
static const struct {
    const char *text, *errors;
} rules[] = {
    {"dedup: {a: {exact: false, on_duplicate: reject, in_flight: reject}}\n", NULL},
    {"dedup: {a: {exact: false, on_duplicate: acknowledge, in_flight: reject}}\n", NULL},
    {"dedup: {a: {exact: false, in_flight: reject}}\n", "2:20: dedup.a.exact: " EXACT},
    {"dedup: {a: {exact: false, on_duplicate: reject, in_flight: wait}}\n", "2:20: dedup.a.exact: " EXACT},
    {"dedup: {a: {exact: false, on_duplicate: x, in_flight: reject}}\n",
     "2:41: dedup.a.on_duplicate: 'x' is not a way to answer duplicates; write replay, acknowledge or reject"},
    {"dedup: {a: {exact: x}}\n", "2:20: dedup.a.exact: 'x' is not true or false; write true or false"},
    {"dedup: {a: {window: x, keep_responses: 2h}}\n",
     "2:21: dedup.a.window: 'x' is not a duration; write a count and a unit, such as 250ms, 30s, 10m, 24h"},
    {"dedup: {a: {window: 1h, keep_responses: 2h}}\n", "2:41: dedup.a.keep_responses: is more than window, 1h, after "
                                                       "which nothing of a key is known; write at most that, "
                                                       "or a longer window"},
    {"dedup: {a: {memory: x, max_response: 2MiB}}\n",
     "2:21: dedup.a.memory: 'x' is not a size; write bytes, or a count and a unit, such as 512, 64KiB, 16MiB, 1GiB"},
    {"dedup: {a: {max_response: 17MiB}}\n", "2:27: dedup.a.max_response: is more than memory, 16MiB, in which no such "
                                            "answer fits; write at most that, or more "
                                            "memory"},
    {"dedup: {a: {bloom: {expected: 90000000, false_positives: x}}}\n",
     "2:58: dedup.a.bloom.false_positives: 'x' is not a probability; write a number, such as 1e-6 or 0.001"},
    {"dedup: {a: {bloom: {expected: 90000000}}}\n",
     "2:31: dedup.a.bloom.expected: is more than a Bloom filter holds at false_positives 1e-6; write at most 73158256, "
     "or more false_positives"},
    {"dedup: {a: {bloom: {expected: 90000000, false_positives: 1e-5}}}\n",
     "2:31: dedup.a.bloom.expected: is more than a Bloom filter holds at false_positives 1e-5; write at most 87433209, "
     "or more false_positives"},
    {"dedup: {a: {on_duplicate: acknowledge, acknowledge: {body: \"\"}}}\n", NULL},
    {"dedup: {a: {on_duplicate: acknowledge, acknowledge: {status: 200, body: x}}}\n", NULL},
    {"dedup: {a: {on_duplicate: acknowledge, acknowledge: {status: 205, body: x}}}\n",
     "2:73: dedup.a.acknowledge.body: is none that an answer with status 205 can have; write another status, such as "
     "200, or leave this out"},
    {"dedup: {a: {acknowledge: {status: 204, body: null}}}\n", NULL},
    {"dedup: {a: {acknowledge: {status: x}}}\n",
     "2:35: dedup.a.acknowledge.status: 'x' is not a whole number; write one from 200 to 599"},
    {"dedup: {a: {acknowledge: {status: 200, body: x}}}\n",
     "2:27: dedup.a.acknowledge.status: is for on_duplicate: acknowledge; write that, or leave this out"},
    {"dedup: {a: {key: [{header: A}, fingerprint]}}\n", NULL},
    {"dedup: {a: {key: [fingerprint]}}\n", NULL},
    {"dedup: {a: {key: [fingerprint, cloudevent]}}\n",
     "2:19: dedup.a.key[0]: is there in every request, so that what follows it is never looked for; write it last"},
    {"dedup: {a: {key: [], methods: [POST]}}\n",
     "2:18: dedup.a.key: is empty; write such as [{header: Idempotency-Key}, cloudevent]"},
    {"dedup: {a: {key: [{header: X}, {json: /x}, {header: x}]}}\n",
     "2:44: dedup.a.key[2]: 'x' is named twice; leave one out"},
    {"correlation: {header: Idempotency-Key}\ndedup: {a: {}}\n",
     "3:12: dedup.a: 'Idempotency-Key' carries the correlation id already; write another header"},
    {"dedup: {a: {bypass: {header: idempotency-key}}}\n",
     "2:30: dedup.a.bypass.header: 'idempotency-key' carries the key already; write another header"},
    {"dedup: {a: {key: [{json: /Idempotency-Key}], bypass: {header: Idempotency-Key}}}\n", NULL},
    {"dedup: {a: {key: [{header: X-Customer}]}}\nlisteners: {l: {address: 1.1.1.1:1, tenant: {from: [{header: "
     "x-customer}]}}}\n",
     "2:28: dedup.a.key[0].header: 'X-Customer' carries the tenant already; write another header"},
    {"dedup: {a: {}}\n" ROUTES "[{upstream: u, methods: [GET, DELETE], dedup: a}]}}\n", NULL},
    {"dedup: {a: {methods: [GET]}}\n" ROUTES "[{upstream: u, methods: [POST], dedup: a}]}}\n",
     "4:84: listeners.l.routes[0].dedup: 'a' looks at none of this route's methods; leave it out, or write them in its "
     "methods"},
    {"dedup: {a: {methods: [x]}}\n" ROUTES "[{upstream: u, methods: [POST], dedup: a}]}}\n",
     "2:23: dedup.a.methods[0]: 'x' is not a method; write it in capital letters, such as GET"},
    {ROUTES "[{upstream: u, methods: [POST], dedup: a}]}}\n",
     "3:84: listeners.l.routes[0].dedup: 'a' is not a dedup; there are none yet: write them under dedup"},
    {"dedup: {ab: {}}\n" ROUTES "[{upstream: u, dedup: a}]}}\n",
     "4:67: listeners.l.routes[0].dedup: 'a' is not a dedup; the nearest is 'ab'"},
};

static void test_rules(void **state)
{
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); ++i) {
        char text[1024], errors[1024];
        snprintf(text, sizeof(text), "version: 1\n%s", rules[i].text);
        snprintf(errors, sizeof(errors), "w.yaml:%s\n", rules[i].errors);
        if (rules[i].errors != NULL)
            check_errors("w.yaml", text, errors);
        else
            weir_conf_release(load_right("w.yaml", text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_every_field),      cmocka_unit_test(test_derived),
        cmocka_unit_test(test_statuses), cmocka_unit_test(test_a_class_in_parts), cmocka_unit_test(test_bloom_bounds),
        cmocka_unit_test(test_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
