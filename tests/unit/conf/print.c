/* What is printed of a configuration loads again and prints the same; the schema is JSON; notes and sums are right. */

#include "loaded.h"
#include <regex.h>
#include <stdio.h>
#include "../../../conf/cgroup.h"
#include "../../../conf/range.h"

static void check_round_trip(const char *text)
{
    weir_conf_t *first = load_right("w.yaml", text);
    char *once = printed(first);
    weir_conf_t *second = load_right("w.yaml", once);
    char *twice = printed(second);
    assert_string_equal(once, twice);
    weir_conf_release(first);
    weir_conf_release(second);
    free(once);
    free(twice);
}

static void test_round_trips(void **state)
{
    check_round_trip("version: 1\n");
    check_round_trip("version: 1\nadmin: false\n");
    check_round_trip(rich_text);
    check_round_trip(
        "version: 1\n"
        "tenant: {default: \"null\", api_keys: {0000000000000000000000000000000000000000000000000000000000000000: "
        "\"off\"}}\n"
        "limits: {a: {rate: 1/s, tenants: {\"on\": {burst: 5}, \"12\": {rate: 2/s}, a::b: {rate: 3/s}}}}\n"
        "log: {access: '/var/$$x # y'}\n"
        "upstreams: {u: {url: http://u}}\n"
        "listeners: {l: {address: 1.1.1.1:1, routes: [{upstream: u, on_limit: {body: \"\\\"a\\\"\\n\\t\\x07: "
        "\\u2028 \\U0001f600 $${x}\"}}]}}\n");
}

static void test_rich_print(void **state)
{
    static const char *const wanted[] = {
        "\n  max_body: 1536KiB\n",
        "\n  max_head: 4KiB\n",
        "\n    head: 1500ms\n",
        "\n  token: \"[redacted]\"\n",
        "\n  address: unix:///run/weir-admin.sock\n",
        "\n  address: \"[::1]:9465\"\n",
        "\n  from: [{api_key: Authorization}, {api_key: x-api-key}, {header: X-Org}]\n",
        "\n  trusted: [10.0.0.1/32, \"fd00::/8\"]\n",
        "\n  default: refuse\n",
        "\n    \"abababababababababababababababababababababababababababababababab\": acme:eu/1\n",
        "\n    rate: 1000000/d\n    burst: 7\n    key: [tenant, route, client_ip, {header: X-Plan}]\n",
        "\n      zeta:\n        rate: 0/s\n        burst: 7\n",
        "\n    limit: 100\n    window: 10m\n    precision: slots\n    key: []\n",
        "\n      acme:\n        limit: 3\n    scope: shared\n    on_failure: local\n    mode: enforce\n",
        "\n    unit: llm_tokens\n    rate: 90/h\n    burst: 2\n    key: [model, correlation, tenant]\n",
        "\n      acme:\n        rate: 10/s\n        burst: 600\n",
        "\n    unit: request_bytes\n    limit: 1000000\n    window: 1s\n    precision: exact\n",
        "\n    algorithm: concurrency\n    unit: requests\n    limit: 8\n    key: [tenant]\n",
        "\n      acme:\n        limit: 32\n    scope: local\n    on_failure: local\n    mode: enforce\n"
        "    max_keys: 10000\n    queue:\n"
        "      size: 201\n      wait: 1500ms\n      per_tenant: 12.5%\n      priority: {header: X-Priority}\n",
        "\n    dialect: openai\n    host: upstream\n    headers:\n      set: {}\n      remove: []\n    query:\n      "
        "set: {}\n"
        "    models: {}\n    forward: []\n",
        "\n      methods: null # and POST where a status came: [GET, HEAD, PUT, DELETE, OPTIONS]\n",
        "\n    usage:\n      inject: true\n      estimate: 3\n      weights:\n        input: 0.5\n        cached: 0\n"
        "        cache_write: 1.000001\n        output: 1000\n",
        "\n    models: {}\n    forward: [correlation]\n",
        "\n      set:\n        X-Api-Key: \"[redacted]\"\n        X-Empty: \"\"\n        \"X$A\": \"7\"\n      remove: "
        "[X-Debug]\n",
        "\n      set:\n        \"a b\": \"1&2=\u00e9\"\n        key: \"[redacted]\"\n",
        "\n    models:\n      alpha: \"a $$1\"\n      beta: \"b\"\n      zeta: z\n",
        "\n    retry:\n      attempts: 5\n      when: [timeout, 500, 529]\n      methods: [GET, POST]\n",
        "\n      failures: [reset, 5xx]\n      slow:\n        first_byte: 2s\n        rate: 33%\n      key: [upstream, "
        "model]\n",
        "\n      throttle:\n        max: 1m\n        shared: false\n      answer:\n        status: 529\n        body: "
        "later\n",
        "\n    url: \"http://[::1]:9000/base/\"\n    prefix: null\n",
        "\n    url: unix:///run/agent.sock\n    prefix: /v2\n    dialect: plain\n    host: preserve\n",
        "\n    forward: [tenant]\n",
        "\n    address: \"*:8080\"\n    tls:\n      cert: null\n      key: null\n      client_ca: null\n    tenant:\n  "
        "    from: [{header: X-Customer}]\n",
        "\n      - path: /\n        methods: []\n        host: null\n        models: []\n        upstream: agent\n",
        "\n        limits: [slots, bucket]\n",
        "\n        timeout: 1m\n        on_limit:\n          status: 503\n",
        "\n          body: \"costs $$5: \\\"no\\\" # not a comment\"\n",
        "\n    tenant: null\n    routes:\n      - path: /\n",
        "\nstore:\n  kind: memory\n  file: /var/lib/weir/keys\n",
        "\n  jobs:\n    key: [{json: \"/job~1id/0\"}, {header: X-Job}, cloudevent, fingerprint]\n    required: true\n"
        "    methods: [POST]\n    window: 2h\n    on_duplicate: replay\n    acknowledge:\n      status: 204\n"
        "      body: null\n    in_flight: reject\n    mismatch: ignore\n    abandoned: cancel\n    on_unknown: reject\n"
        "    keep_statuses: [200, 202, 4xx, 503]\n    lease: 1500ms\n    max_response: 64KiB\n    keep_responses: 30m\n"
        "    memory: 8MiB\n    max_keys: 5000\n    on_full: reject\n    bloom:\n      expected: 2000\n"
        "      false_positives: 0.00125\n    exact: true\n    on_failure: open\n    bypass: {header: X-Replay}\n",
        "\n    on_duplicate: acknowledge\n    acknowledge:\n      status: 202\n      body: \"{\\\"seen\\\":true}\"\n",
        "\n    exact: false\n",
        "\n        dedup: null\n",
        "\n        dedup: jobs\n",
    };
    weir_conf_t *conf = load_right("w.yaml", rich_text);
    char *text = printed(conf);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); ++i)
        if (strstr(text, wanted[i]) == NULL)
            fail_msg("%s--- is not in\n%s", wanted[i], text);
    assert_null(strstr(text, "canary"));
    free(text);
    weir_conf_release(conf);
}

/* A limit shows only its algorithm's fields: in the text of one, these are found or not. */
static void test_fields_of_algorithms(void **state)
{
    static const struct {
        const char *limit, *there, *not_there[6];
    } rows[] = {{"rate: 1/s", "burst: 1\n", {"limit:", "window:", "precision:", "queue:", "per_tenant:", "size:"}},
                {"algorithm: sliding_window, limit: 1, window: 1s",
                 "precision: slots\n",
                 {"rate:", "burst:", "queue:", "per_tenant:", "size:", "wait:"}},
                {"algorithm: concurrency, limit: 1",
                 "queue:\n      size: 0\n      wait: 0s\n      per_tenant: 25%\n      priority: null\n",
                 {"rate:", "burst:", "window:", "precision:", "bucket", "slots"}}};
    char text[256];
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        snprintf(text, sizeof(text), "version: 1\nlimits: {a: {%s}}\n", rows[i].limit);
        check_round_trip(text);
        weir_conf_t *conf = load_right("w.yaml", text);
        char *all = printed(conf), *limits = strstr(all, "\nlimits:\n");
        assert_non_null(limits);
        *(strstr(limits, "\nupstreams:") + 1) = '\0';
        if (strstr(limits, rows[i].there) == NULL)
            fail_msg("%s--- is not in\n%s", rows[i].there, limits);
        for (size_t k = 0; k < sizeof(rows[i].not_there) / sizeof(*rows[i].not_there); ++k)
            if (strstr(limits + strlen("\nlimits:"), rows[i].not_there[k]) != NULL)
                fail_msg("%s is in\n%s", rows[i].not_there[k], limits);
        free(all);
        weir_conf_release(conf);
    }
}

static void test_restart_notes(void **state)
{
    weir_conf_t *before = load_right("w.yaml", "version: 1\nserver: {workers: 2}\n");
    weir_conf_t *same = load_right("w.yaml", "version: 1\nserver: {workers: 2, max_body: 1KiB}\nlog: {level: warn}\n");
    weir_conf_t *other = load_right("w.yaml", "version: 1\nmetrics: {tenant_series: 9}\n");
    assert_null(weir_conf_restart_notes(before, same));
    char *notes = weir_conf_restart_notes(before, other);
    assert_string_equal(notes, "server.workers: 1 takes effect at the next start; until then it is 2\n"
                               "metrics.tenant_series: 9 takes effect at the next start; until then it is 50\n");
    free(notes);
    weir_conf_release(before);
    weir_conf_release(same);
    weir_conf_release(other);
}

static char *written(void (*write)(FILE *out))
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    write(out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static char *read_whole(const char *path)
{
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    char *text = calloc(1, 1 << 20);
    assert_non_null(text);
    assert_true(fread(text, 1, (1 << 20) - 1, in) > 0);
    fclose(in);
    return text;
}

/* The text after the last slash of __FILE__ is this file; the checkout is four folders up. */
static void check_committed(void (*write)(FILE *out), const char *name)
{
    char path[4096];
    snprintf(path, sizeof(path), "%.*s../../../conf/%s", (int)(strrchr(__FILE__, '/') + 1 - __FILE__), __FILE__, name);
    if (access(path, R_OK) != 0)
        skip();
    char *made = written(write), *kept = read_whole(path);
    if (strcmp(made, kept) != 0)
        fail_msg("conf/%s is not what the tables say: write it anew", name);
    free(made);
    free(kept);
}

static void test_schema_is_committed(void **state)
{
    check_committed(weir_conf_print_schema, "schema.json");
}

static void test_reference_is_committed(void **state)
{
    check_committed(weir_conf_print_reference, "reference.md");
}

static uint64_t table_bytes(const weir_conf_limit_t *limit)
{
    return (uint64_t)limit->max_keys * 100;
}

static uint64_t dedup_table_bytes(const weir_conf_dedup_t *dedup)
{
    return (uint64_t)dedup->max_keys * 64;
}

static uint64_t dedup_bloom_bytes(const weir_conf_dedup_t *dedup)
{
    return (uint64_t)dedup->bloom.expected * 8;
}

static void test_memory(void **state)
{
    static const weir_conf_costs_t costs = {
        .limit_table = table_bytes,
        .dedup_table = dedup_table_bytes,
        .dedup_bloom = dedup_bloom_bytes,
        .process = 1 << 20,
        .worker = 1 << 19,
        .connection = 1024,
        .exchange = 2048,
        .log_buffer = 4096,
        .waiter = 256,
        .unsent = 3072,
    };
    weir_conf_t *conf = load_right("w.yaml", "version: 1\n"
                                             "server: {workers: 3, max_connections: 1024, max_buffered: 1MiB}\n"
                                             "limits: {a: {rate: 1/s, max_keys: 1000}, b: {algorithm: concurrency, "
                                             "limit: 1, scope: local, queue: {size: 100, wait: 1s}}}\n"
                                             "dedup: {e: {max_keys: 1000, memory: 2MiB, bloom: {expected: 2048}}, "
                                             "f: {exact: false, on_duplicate: reject, in_flight: reject}, "
                                             "g: {on_duplicate: reject, in_flight: reject}, "
                                             "h: {on_duplicate: reject, in_flight: wait}}\n"
                                             "upstreams: {u: {url: http://u, connections: {max: 8}}}\n");
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    weir_conf_print_memory(conf, &costs, out);
    assert_int_equal(fclose(out), 0);
    assert_non_null(strstr(text, "idle"));
    assert_non_null(
        strstr(text, "process, server.workers 3                                     2.0 MiB      2.0 MiB\n"));
    assert_non_null(
        strstr(text, "log buffers                                                       0 B     12.0 KiB\n"));
    assert_non_null(
        strstr(text, "limits.a, max_keys 1000                                           0 B     97.7 KiB\n"));
    assert_non_null(
        strstr(text, "limits.b, queue.size 100                                          0 B     25.0 KiB\n"));
    assert_null(strstr(text, "limits.a, queue.size"));
    assert_non_null(
        strstr(text, "dedup.e, bloom.expected 2048                                      0 B     16.0 KiB\n"));
    assert_non_null(
        strstr(text, "dedup.e, max_keys 1000                                            0 B     62.5 KiB\n"));
    assert_non_null(
        strstr(text, "dedup.e, answers, memory                                          0 B      2.0 MiB\n"));
    assert_non_null(strstr(text, "dedup.f, bloom.expected 100000 "));
    assert_null(strstr(text, "dedup.f, max_keys"));
    assert_null(strstr(text, "dedup.f, answers"));
    assert_non_null(strstr(text, "dedup.g, max_keys 100000 "));
    assert_null(strstr(text, "dedup.g, answers"));
    assert_non_null(strstr(text, "dedup.h, answers, memory "));
    assert_non_null(
        strstr(text, "callers, server.max_connections 1024                              0 B      1.0 MiB\n"));
    assert_non_null(
        strstr(text, "a request on each of them                                         0 B      2.0 MiB\n"));
    assert_non_null(
        strstr(text, "upstreams.u, connections.max 8                                    0 B     32.0 KiB\n"));
    assert_non_null(
        strstr(text, "answers that callers are slow to take                             0 B      3.0 MiB\n"));
    assert_null(strstr(text, "TLS"));
    assert_null(strstr(text, "OpenSSL"));
    assert_non_null(strstr(text, "in all "));
    free(text);
    weir_conf_release(conf);
}

/* ---- what the kernel grants ---- */

static void write_at(const char *root, const char *path, const char *text)
{
    char name[256];
    snprintf(name, sizeof(name), "%s/%s", root, path);
    for (char *slash = name + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; ++slash) {
        char command[300];
        *slash = '\0';
        snprintf(command, sizeof(command), "mkdir -p %s", name);
        assert_int_equal(system(command), 0);
        *slash = '/';
    }
    FILE *out = fopen(name, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static void test_cgroup(void **state)
{
    char root[] = "/tmp/weir-cgroup-XXXXXX", command[64];
    assert_non_null(mkdtemp(root));
    int64_t all = weir_conf_cgroup_cpus(root);
    assert_true(all >= 1);
    assert_int_equal(weir_conf_cgroup_memory_bytes(root), 0);

    write_at(root, "sys/fs/cgroup/memory.max", "max\n");
    write_at(root, "sys/fs/cgroup/cpu.max", "max 100000\n");
    assert_int_equal(weir_conf_cgroup_memory_bytes(root), 0);
    assert_int_equal(weir_conf_cgroup_cpus(root), all);

    write_at(root, "sys/fs/cgroup/memory.max", "1073741824\n");
    write_at(root, "sys/fs/cgroup/cpu.max", "50000 100000\n");
    assert_int_equal(weir_conf_cgroup_memory_bytes(root), 1 << 30);
    assert_int_equal(weir_conf_cgroup_cpus(root), 1);

    write_at(root, "proc/self/cgroup", "4:memory:/other\n0::/pod/weir\n");
    write_at(root, "sys/fs/cgroup/pod/memory.max", "536870912\n");
    write_at(root, "sys/fs/cgroup/pod/weir/memory.max", "max\n");
    assert_int_equal(weir_conf_cgroup_memory_bytes(root), 512 << 20);
    snprintf(command, sizeof(command), "rm -r %s", root);
    assert_int_equal(system(command), 0);
}

/* ---- numbers as regular expressions ---- */

static void check_range(int64_t min, int64_t max, int64_t from, int64_t to)
{
    char *pattern = NULL, number[32];
    size_t len;
    FILE *out = open_memstream(&pattern, &len);
    assert_non_null(out);
    fputs("^(", out);
    weir_conf_range_write(out, min, max);
    fputs(")$", out);
    assert_int_equal(fclose(out), 0);
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    for (int64_t i = from; i <= to; ++i) {
        snprintf(number, sizeof(number), "%lld", (long long)i);
        if ((regexec(&regex, number, 0, NULL, 0) == 0) != (i >= min && i <= max))
            fail_msg("%s for %lld to %lld is wrong about %s", pattern, (long long)min, (long long)max, number);
    }
    assert_int_not_equal(regexec(&regex, "", 0, NULL, 0), 0);
    assert_int_not_equal(regexec(&regex, "007", 0, NULL, 0), 0);
    regfree(&regex);
    free(pattern);
}

static void test_ranges(void **state)
{
    for (int64_t min = 0; min < 125; ++min)
        for (int64_t max = min; max < 125; ++max)
            check_range(min, max, 0, 200);
    static const int64_t edges[] = {0, 1, 9, 10, 99, 100, 101, 999, 1000, 1023, 4999, 9999, 10000, 10001, 54321, 65536};
    for (size_t i = 0; i < sizeof(edges) / sizeof(*edges); ++i)
        for (size_t k = i; k < sizeof(edges) / sizeof(*edges); ++k) {
            check_range(edges[i], edges[k], edges[i] > 5 ? edges[i] - 5 : 0, edges[i] + 20);
            check_range(edges[i], edges[k], edges[k] > 20 ? edges[k] - 20 : 0, edges[k] + 20);
        }
    check_range(1, INT64_C(1000000000), INT64_C(999999990), INT64_C(1000000010));
    check_range(65536, INT64_C(1) << 40, (INT64_C(1) << 40) - 10, (INT64_C(1) << 40) + 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_rich_print),
        cmocka_unit_test(test_fields_of_algorithms),
        cmocka_unit_test(test_restart_notes),
        cmocka_unit_test(test_schema_is_committed),
        cmocka_unit_test(test_reference_is_committed),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_cgroup),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
