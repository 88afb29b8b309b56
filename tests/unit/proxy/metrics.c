/* What is counted is what is scraped, from any number of threads; what is scraped is well-formed. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../../proxy/metrics.h"

enum { WORKERS = 4, TENANT_SERIES = 8 };

static weir_metrics_t *metrics;

static int set_up(void **state)
{
    metrics = weir_metrics_create(WORKERS, TENANT_SERIES);
    return 0;
}

static int tear_down(void **state)
{
    weir_metrics_destroy(metrics);
    return 0;
}

static uint32_t requests_series(const char *listener, const char *route, const char *status)
{
    return weir_metrics_series(metrics, NULL, WEIR_METRIC_REQUESTS, (const char *[]){listener, route, status});
}

/* Whether the text has `line` as a whole line. */
static bool has_line(const char *text, const char *line)
{
    size_t len = strlen(line);
    for (const char *at = text; (at = strstr(at, line)) != NULL; ++at)
        if ((at == text || at[-1] == '\n') && at[len] == '\n')
            return true;
    return false;
}

static void assert_renders(bool open_metrics, const char *line)
{
    size_t len;
    char *text = weir_metrics_render(metrics, open_metrics, &len);
    assert_int_equal(strlen(text), len);
    if (!has_line(text, line))
        fail_msg("no line %s", line);
    free(text);
}

static void assert_renders_no(const char *part)
{
    size_t len;
    char *text = weir_metrics_render(metrics, 0, &len);
    if (strstr(text, part) != NULL)
        fail_msg("there is a %s", part);
    free(text);
}

static const char *type_of(char kind)
{
    return kind == 'H' ? "histogram" : kind == 'G' ? "gauge" : "counter";
}

static void every_family_is_announced_without_samples(void **state)
{
    static const char *const names[] = {
#define METRIC(id, kind, name, labels, help) #kind " " #name,
#include "../../../conf/metrics.def"
#undef METRIC
    };
    size_t len;
    char *text = weir_metrics_render(metrics, 0, &len);
    for (size_t i = 0; i != WEIR_METRIC_COUNT; ++i) {
        const char *name = strchr(names[i], ' ') + 1;
        char line[256];
        snprintf(line, sizeof(line), "# TYPE %s %s", name, type_of(*names[i]));
        assert_true(has_line(text, line));
        snprintf(line, sizeof(line), "# HELP %s ", name);
        assert_non_null(strstr(text, line));
    }
    assert_null(strstr(text, "# EOF"));
    free(text);
}

static void open_metrics_has_its_own_names_and_an_end(void **state)
{
    weir_metrics_add(weir_metrics_worker(metrics, 0), requests_series("in", "/", "200"), 3);
    assert_renders(true, "# TYPE weir_requests counter");
    assert_renders(true, "weir_requests_total{listener=\"in\",route=\"/\",status=\"200\"} 3");
    assert_renders(true, "# UNIT weir_request_duration_seconds seconds");
    assert_renders(true, "# UNIT process_cpu_seconds seconds");
    size_t len;
    char *text = weir_metrics_render(metrics, 1, &len);
    assert_string_equal(text + len - strlen("\n# EOF\n"), "\n# EOF\n");
    free(text);
}

static void a_series_is_one_slot_and_sums_over_workers(void **state)
{
    weir_series_t cache = 0;
    const char *labels[] = {"in", "/", "200"};
    uint32_t slot = weir_metrics_series(metrics, &cache, WEIR_METRIC_REQUESTS, labels);
    assert_int_not_equal(slot, 0);
    assert_int_equal(cache, slot);
    assert_int_equal(requests_series("in", "/", "200"), slot);
    assert_int_not_equal(requests_series("in", "/", "404"), slot);
    for (size_t i = 0; i != WORKERS; ++i)
        weir_metrics_add(weir_metrics_worker(metrics, i), slot, (int64_t)i + 1);
    assert_int_equal(weir_metrics_value(metrics, slot), 10);
    assert_renders(false, "weir_requests_total{listener=\"in\",route=\"/\",status=\"200\"} 10");
}

static void a_gauge_goes_up_and_down(void **state)
{
    const char *listener = "in";
    uint32_t slot = weir_metrics_series(metrics, NULL, WEIR_METRIC_IN_FLIGHT, &listener);
    weir_metrics_add(weir_metrics_worker(metrics, 0), slot, 5);
    weir_metrics_add(weir_metrics_worker(metrics, 1), slot, -2);
    assert_renders(false, "weir_in_flight{listener=\"in\"} 3");
}

static void what_is_set_is_shown_until_it_is_cleared(void **state)
{
    const char *limit = "per-tenant";
    uint32_t slot = weir_metrics_series(metrics, NULL, WEIR_METRIC_LIMIT_KEYS, &limit);
    weir_metrics_set(metrics, slot, 12);
    assert_renders(false, "weir_limit_keys{limit=\"per-tenant\"} 12");
    weir_metrics_clear(metrics, WEIR_METRIC_LIMIT_KEYS);
    assert_renders_no("weir_limit_keys{");
    weir_metrics_set(metrics, slot, 1763633000.125);
    assert_renders(false, "weir_limit_keys{limit=\"per-tenant\"} 1763633000.125");
    weir_metrics_set(metrics, slot, 0.1);
    assert_renders(false, "weir_limit_keys{limit=\"per-tenant\"} 0.1");
}

static void labels_are_escaped(void **state)
{
    weir_metrics_add(weir_metrics_worker(metrics, 0), requests_series("a\"b\\c\nd", "\xff\xc3\xa9", "x\xc3"), 1);
    assert_renders(
        false,
        "weir_requests_total{listener=\"a\\\"b\\\\c\\nd\",route=\"\xef\xbf\xbd\xc3\xa9\",status=\"x\xef\xbf\xbd\"} 1");
}

static void a_label_of_any_length_is_bounded(void **state)
{
    char *quotes = malloc(100001), *letters = malloc(100001);
    memset(quotes, '"', 100000);
    memset(letters, 'a', 100000);
    quotes[100000] = letters[100000] = '\0';
    assert_int_not_equal(requests_series(quotes, quotes, quotes), requests_series(letters, letters, letters));
    memset(letters + 100, 0xff, 99900);
    assert_int_not_equal(requests_series(letters, letters, letters), 0);
    free(quotes);
    free(letters);
}

static void a_histogram_counts_up_to_and_with_its_bounds(void **state)
{
    const char *listener = "in";
    uint32_t slot = weir_metrics_series(metrics, NULL, WEIR_METRIC_OVERHEAD, &listener);
    static const int64_t observed_ns[] = {0, 10000, 10001, 1000000, 4999999999, 5000000000, 5000000001};
    for (size_t i = 0; i != sizeof(observed_ns) / sizeof(*observed_ns); ++i)
        weir_metrics_observe(weir_metrics_worker(metrics, i % WORKERS), slot, observed_ns[i]);
    assert_renders(false, "weir_overhead_seconds_bucket{listener=\"in\",le=\"1e-05\"} 2");
    assert_renders(false, "weir_overhead_seconds_bucket{listener=\"in\",le=\"2e-05\"} 3");
    assert_renders(false, "weir_overhead_seconds_bucket{listener=\"in\",le=\"0.001\"} 4");
    assert_renders(false, "weir_overhead_seconds_bucket{listener=\"in\",le=\"2.0\"} 4");
    assert_renders(false, "weir_overhead_seconds_bucket{listener=\"in\",le=\"5.0\"} 6");
    assert_renders(false, "weir_overhead_seconds_bucket{listener=\"in\",le=\"+Inf\"} 7");
    assert_renders(false, "weir_overhead_seconds_count{listener=\"in\"} 7");
    assert_renders(false, "weir_overhead_seconds_sum{listener=\"in\"} 15.001020001");
}

static void durations_reach_600_seconds(void **state)
{
    const char *labels[] = {"in", "/"};
    uint32_t slot = weir_metrics_series(metrics, NULL, WEIR_METRIC_REQUEST_DURATION, labels);
    weir_metrics_observe(weir_metrics_worker(metrics, 0), slot, INT64_C(600000000000));
    weir_metrics_observe(weir_metrics_worker(metrics, 0), slot, INT64_C(600000000001));
    assert_renders(false, "weir_request_duration_seconds_bucket{listener=\"in\",route=\"/\",le=\"300.0\"} 0");
    assert_renders(false, "weir_request_duration_seconds_bucket{listener=\"in\",route=\"/\",le=\"600.0\"} 1");
    assert_renders(false, "weir_request_duration_seconds_bucket{listener=\"in\",route=\"/\",le=\"+Inf\"} 2");
}

static void histograms_without_labels_have_only_le(void **state)
{
    uint32_t slot = weir_metrics_series(metrics, NULL, WEIR_METRIC_STORE_DURATION, NULL);
    weir_metrics_observe(weir_metrics_worker(metrics, 0), slot, 2000000000);
    assert_renders(false, "weir_store_seconds_bucket{le=\"2.0\"} 1");
    assert_renders(false, "weir_store_seconds_sum 2");
    assert_renders(false, "weir_store_seconds_count 1");
}

/* -- exemplars ---------------------------------------------------------------------------------------------------- */

#define ID_A "0af7651916cd43dd8448eb211c80319c"
#define ID_B "00f067aa0ba902b74bf92f3577b34da6"

static uint32_t duration_series(const char *route)
{
    return weir_metrics_series(metrics, NULL, WEIR_METRIC_REQUEST_DURATION, (const char *[]){"in", route});
}

static void a_bucket_shows_a_request_of_each_second(void **state)
{
    static const struct {
        const char *trace_id;
        int64_t ns, began_ms;
        const char *wanted; /* behind the bucket up to 0.005 */
    } cases[] = {
        {NULL, 3000000, 1700000000123, ""},
        {ID_A, 3000000, 1700000000123, " # {trace_id=\"" ID_A "\"} 0.003 1700000000.126"},
        {ID_B, 4000000, 1700000001122, " # {trace_id=\"" ID_A "\"} 0.003 1700000000.126"},
        {ID_B, 4000001, 1700000001123, " # {trace_id=\"" ID_B "\"} 0.004000001 1700000001.127"},
        {ID_A, 5000000, 1700000000124, " # {trace_id=\"" ID_B "\"} 0.004000001 1700000001.127"},
        {NULL, 5000000, 1700000009000, " # {trace_id=\"" ID_B "\"} 0.004000001 1700000001.127"},
        {ID_A, 5000001, 1700000009000, " # {trace_id=\"" ID_B "\"} 0.004000001 1700000001.127"}, /* the next bucket */
        {ID_A, 5000000, 1600000000007, " # {trace_id=\"" ID_A "\"} 0.005 1600000000.012"}, /* the clock was set back */
    };
    uint32_t slot = duration_series("/");
    for (size_t i = 0; i != sizeof(cases) / sizeof(*cases); ++i) {
        char line[256];
        weir_metrics_observe_traced(weir_metrics_worker(metrics, i % WORKERS), slot, cases[i].ns, cases[i].trace_id,
                                    cases[i].began_ms);
        snprintf(line, sizeof(line), "weir_request_duration_seconds_bucket{listener=\"in\",route=\"/\",le=\"0.005\"} %zu%s",
                 i < 6 ? i + 1 : i, cases[i].wanted);
        assert_renders(true, line);
        assert_renders_no("trace_id");
    }
    assert_renders(true, "weir_request_duration_seconds_bucket{listener=\"in\",route=\"/\",le=\"0.01\"} 8"
                         " # {trace_id=\"" ID_A "\"} 0.005000001 1700000009.005");
    assert_renders(true, "weir_request_duration_seconds_count{listener=\"in\",route=\"/\"} 8");
    assert_renders(true, "weir_request_duration_seconds_sum{listener=\"in\",route=\"/\"} 0.034000002");
}

static void only_a_traced_metric_shows_requests(void **state)
{
    const char *name = "in";
    const uint32_t slots[] = {weir_metrics_series(metrics, NULL, WEIR_METRIC_OVERHEAD, &name),
                              weir_metrics_series(metrics, NULL, WEIR_METRIC_UPSTREAM_DURATION, &name), 0};
    for (size_t i = 0; i != sizeof(slots) / sizeof(*slots); ++i)
        weir_metrics_observe_traced(weir_metrics_worker(metrics, 0), slots[i], 1, ID_A, 1700000000000);
    assert_renders(true, "weir_overhead_seconds_bucket{listener=\"in\",le=\"1e-05\"} 1");
    assert_renders(true, "weir_upstream_duration_seconds_bucket{upstream=\"in\",le=\"0.001\"} 1");
}

/* -- sums --------------------------------------------------------------------------------------------------------- */

static void sums_are_by_what_a_label_says(void **state)
{
    static const struct {
        const char *listener, *route, *status;
        int n;
    } counted[] = {{"in", "/", "200", 1},     {"in", "/", "204", 20},
                   {"in", "/b", "200", 300},  {"out", "/", "503", 4000},
                   {"in", "/x,status=\"5", "404", 50000}, {"in", "status=\"200", "500", 600000}};
    weir_metrics_sums_t sums = weir_metrics_sums(metrics, WEIR_METRIC_REQUESTS, NULL, NULL, "status", 3);
    assert_int_equal(sums.sum, 0);
    assert_int_equal(sums.count, 0);
    for (size_t i = 0; i != sizeof(counted) / sizeof(*counted); ++i)
        weir_metrics_add(weir_metrics_worker(metrics, i % WORKERS),
                         requests_series(counted[i].listener, counted[i].route, counted[i].status), counted[i].n);
    sums = weir_metrics_sums(metrics, WEIR_METRIC_REQUESTS, NULL, NULL, "status", SIZE_MAX);
    assert_int_equal(sums.sum, 654321);
    assert_int_equal(sums.count, 5);
    assert_int_equal(weir_metrics_sum_of(&sums, "200"), 301);
    assert_int_equal(weir_metrics_sum_of(&sums, "2"), 0);
    sums = weir_metrics_sums(metrics, WEIR_METRIC_REQUESTS, NULL, NULL, "status", 1);
    assert_int_equal(sums.count, 3);
    assert_int_equal(weir_metrics_sum_of(&sums, "2"), 321);
    assert_int_equal(weir_metrics_sum_of(&sums, "4"), 50000);
    assert_int_equal(weir_metrics_sum_of(&sums, "5"), 604000);
    sums = weir_metrics_sums(metrics, WEIR_METRIC_REQUESTS, "route", "/", "listener", SIZE_MAX);
    assert_int_equal(sums.sum, 4021);
    assert_int_equal(weir_metrics_sum_of(&sums, "in"), 21);
    assert_int_equal(weir_metrics_sum_of(&sums, "out"), 4000);
    assert_int_equal(weir_metrics_sums(metrics, WEIR_METRIC_REQUESTS, "listener", "i", "status", 1).sum, 0);
}

static void words_past_the_bound_are_in_the_sum(void **state)
{
    for (int i = 0; i != WEIR_METRICS_WORDS_MAX + 10; ++i) {
        char route[16];
        snprintf(route, sizeof(route), "r%d", i);
        weir_metrics_add(weir_metrics_worker(metrics, 0), requests_series("in", route, "200"), 1);
    }
    requests_series("in", "a word that is longer than any of weir's own", "200");
    weir_metrics_sums_t sums = weir_metrics_sums(metrics, WEIR_METRIC_REQUESTS, NULL, NULL, "route", SIZE_MAX);
    assert_int_equal(sums.count, WEIR_METRICS_WORDS_MAX);
    assert_int_equal(sums.sum, WEIR_METRICS_WORDS_MAX + 10);
}

static void many_histograms_do_not_touch_each_other(void **state)
{
    enum { MANY = 600 };
    static uint32_t slots[MANY];
    for (int i = 0; i != MANY; ++i) {
        char name[16];
        snprintf(name, sizeof(name), "r%d", i);
        slots[i] = weir_metrics_series(metrics, NULL, WEIR_METRIC_REQUEST_DURATION, (const char *[]){"in", name});
        requests_series("in", name, "200");
        weir_metrics_observe(weir_metrics_worker(metrics, 1), slots[i], INT64_C(700000000000));
        weir_metrics_observe(weir_metrics_worker(metrics, 1), slots[i], 1);
    }
    for (int i = 0; i != MANY; ++i) {
        char line[128];
        assert_int_equal(weir_metrics_value(metrics, slots[i]), 1);
        snprintf(line, sizeof(line), "weir_request_duration_seconds_sum{listener=\"in\",route=\"r%d\"} 700.000000001",
                 i);
        if (i % 97 == 0)
            assert_renders(false, line);
    }
}

static void past_the_bound_nothing_is_counted(void **state)
{
    uint32_t first = requests_series("in", "r0", "200"), last = first;
    weir_series_t cache = 0;
    int made = 0;
    for (; last != 0 && made < 100000; ++made) {
        char name[16];
        snprintf(name, sizeof(name), "r%d", made);
        cache = 0;
        last = weir_metrics_series(metrics, &cache, WEIR_METRIC_REQUESTS, (const char *[]){"in", name, "200"});
    }
    assert_int_equal(made, 20001);
    assert_int_equal(last, 0);
    assert_int_equal(weir_metrics_series(metrics, &cache, WEIR_METRIC_REQUESTS, (const char *[]){"in", "x", "200"}), 0);
    assert_int_equal(requests_series("in", "r0", "200"), first);
    const char *listener = "in";
    uint32_t nothing = weir_metrics_series(metrics, NULL, WEIR_METRIC_OVERHEAD, &listener);
    assert_int_equal(nothing, 0);
    weir_metrics_add(weir_metrics_worker(metrics, 0), nothing, 77);
    weir_metrics_add(weir_metrics_worker(metrics, 0), cache, 77);
    weir_metrics_observe(weir_metrics_worker(metrics, 0), nothing, INT64_MAX);
    weir_metrics_observe(weir_metrics_worker(metrics, 0), cache, INT64_MAX);
    weir_metrics_set(metrics, nothing, 77);
    assert_int_equal(weir_metrics_value(metrics, first), 0);
    assert_renders_no(" 77\n");
}

static void the_first_tenants_have_numbers_the_rest_share_one(void **state)
{
    weir_metrics_worker_t *worker = weir_metrics_worker(metrics, 0);
    assert_int_equal(weir_metrics_tenant(worker, "__other__", 9), 0);
    for (uint32_t i = 1; i <= TENANT_SERIES; ++i) {
        char name[16];
        int len = snprintf(name, sizeof(name), "tenant-%u", i);
        assert_int_equal(weir_metrics_tenant(worker, name, (size_t)len), i);
        assert_int_equal(weir_metrics_tenant(weir_metrics_worker(metrics, 1), name, (size_t)len), i);
        assert_string_equal(weir_metrics_tenant_name(metrics, i), name);
    }
    assert_int_equal(weir_metrics_tenant(worker, "one more", 8), 0);
    assert_int_equal(weir_metrics_tenant(worker, "tenant", 6), 0);
    assert_string_equal(weir_metrics_tenant_name(metrics, 0), "__other__");
    assert_int_equal(weir_metrics_tenant_capacity(metrics), TENANT_SERIES);
}

static void without_tenant_series_all_are_other(void **state)
{
    weir_metrics_t *none = weir_metrics_create(1, 0);
    assert_int_equal(weir_metrics_tenant(weir_metrics_worker(none, 0), "acme", 4), 0);
    weir_metrics_destroy(none);
}

static void the_process_tells_of_itself(void **state)
{
    size_t len;
    char *text = weir_metrics_render(metrics, 0, &len);
    static const char *const names[] = {"process_cpu_seconds_total",
                                        "process_resident_memory_bytes",
                                        "process_virtual_memory_bytes",
                                        "process_open_fds",
                                        "process_max_fds",
                                        "process_start_time_seconds"};
    for (size_t i = 0; i != sizeof(names) / sizeof(*names); ++i) {
        char start[64];
        snprintf(start, sizeof(start), "\n%s ", names[i]);
        const char *line = strstr(text, start);
        assert_non_null(line);
        assert_true(i == 0 || strtod(line + strlen(start), NULL) > 0);
    }
    free(text);
}

/* -- many threads ------------------------------------------------------------------------------------------------- */

enum { ROUNDS = 20000, NAMES = 64 };

static weir_series_t shared_caches[NAMES];

static void *count_on_a_worker(void *argument)
{
    weir_metrics_worker_t *worker = weir_metrics_worker(metrics, (size_t)(uintptr_t)argument);
    const char *listener = "in";
    uint32_t overhead = weir_metrics_series(metrics, NULL, WEIR_METRIC_OVERHEAD, &listener);
    for (int i = 0; i != ROUNDS; ++i) {
        char name[16];
        int len = snprintf(name, sizeof(name), "n%d", i % NAMES);
        uint32_t slot = weir_metrics_series(metrics, &shared_caches[i % NAMES], WEIR_METRIC_REQUESTS,
                                            (const char *[]){"in", name, "200"});
        weir_metrics_add(worker, slot, 1);
        weir_metrics_observe(worker, overhead, i);
        uint32_t tenant = weir_metrics_tenant(worker, name, (size_t)len);
        if (tenant != 0)
            assert_string_equal(weir_metrics_tenant_name(metrics, tenant), name);
    }
    return NULL;
}

static void counting_from_many_threads_while_scraping_loses_nothing(void **state)
{
    pthread_t threads[WORKERS];
    memset(shared_caches, 0, sizeof(shared_caches));
    for (uintptr_t i = 0; i != WORKERS; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, count_on_a_worker, (void *)i), 0);
    for (int i = 0; i != 20; ++i) {
        size_t len;
        free(weir_metrics_render(metrics, i % 2, &len));
    }
    for (size_t i = 0; i != WORKERS; ++i)
        pthread_join(threads[i], NULL);
    int64_t sum = 0;
    for (size_t i = 0; i != NAMES; ++i)
        sum += weir_metrics_value(metrics, shared_caches[i]);
    assert_int_equal(sum, WORKERS * ROUNDS);
    assert_renders(false, "weir_overhead_seconds_count{listener=\"in\"} 80000");
}

static atomic_bool is_read_enough;

/* Each exemplar's trace id is made of its own time and duration: one that was put together from two does not fit. */
static void *observe_on_a_worker(void *argument)
{
    size_t index = (size_t)(uintptr_t)argument;
    uint32_t slot = duration_series("/");
    for (int i = 1; !atomic_load(&is_read_enough); i = i % ROUNDS + 1) {
        char trace_id[WEIR_TRACE_ID_BYTES + 1];
        int64_t ns = (int64_t)i * WORKERS + (int64_t)index, began_ms = INT64_C(2000) * i;
        snprintf(trace_id, sizeof(trace_id), "%016llx%016llx", (unsigned long long)ns, (unsigned long long)began_ms);
        weir_metrics_observe_traced(weir_metrics_worker(metrics, index), slot, ns, trace_id, began_ms);
    }
    return NULL;
}

static int count_exemplars(const char *text)
{
    int found = 0;
    for (const char *at = text; (at = strstr(at, " # {trace_id=\"")) != NULL; ++found) {
        unsigned long long ns, began_ms;
        at += strlen(" # {trace_id=\"");
        assert_int_equal(sscanf(at, "%16llx%16llx\"}", &ns, &began_ms), 2);
        char wanted[128];
        int len = snprintf(wanted, sizeof(wanted), "0.%09llu", ns);
        while (wanted[len - 1] == '0')
            --len;
        snprintf(wanted + len, sizeof(wanted) - (size_t)len, " %llu.%03llu\n", began_ms / 1000, began_ms % 1000);
        assert_memory_equal(at + WEIR_TRACE_ID_BYTES + strlen("\"} "), wanted, strlen(wanted));
    }
    return found;
}

static void exemplars_of_many_threads_are_whole(void **state)
{
    pthread_t threads[WORKERS];
    atomic_store(&is_read_enough, false);
    for (uintptr_t i = 0; i != WORKERS; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, observe_on_a_worker, (void *)i), 0);
    for (int i = 0, found = 0; i < 2000 || (found == 0 && i < 200000); ++i) {
        size_t len;
        char *text = weir_metrics_render(metrics, 1, &len);
        found += count_exemplars(text);
        free(text);
    }
    atomic_store(&is_read_enough, true);
    for (size_t i = 0; i != WORKERS; ++i)
        pthread_join(threads[i], NULL);
    size_t len;
    char *text = weir_metrics_render(metrics, 1, &len);
    assert_int_equal(count_exemplars(text), 1);
    free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_family_is_announced_without_samples),
        TEST(open_metrics_has_its_own_names_and_an_end),
        TEST(a_series_is_one_slot_and_sums_over_workers),
        TEST(a_gauge_goes_up_and_down),
        TEST(what_is_set_is_shown_until_it_is_cleared),
        TEST(labels_are_escaped),
        TEST(a_label_of_any_length_is_bounded),
        TEST(a_histogram_counts_up_to_and_with_its_bounds),
        TEST(durations_reach_600_seconds),
        TEST(histograms_without_labels_have_only_le),
        TEST(a_bucket_shows_a_request_of_each_second),
        TEST(only_a_traced_metric_shows_requests),
        TEST(sums_are_by_what_a_label_says),
        TEST(words_past_the_bound_are_in_the_sum),
        TEST(many_histograms_do_not_touch_each_other),
        TEST(past_the_bound_nothing_is_counted),
        TEST(the_first_tenants_have_numbers_the_rest_share_one),
        TEST(without_tenant_series_all_are_other),
        TEST(the_process_tells_of_itself),
        TEST(counting_from_many_threads_while_scraping_loses_nothing),
        TEST(exemplars_of_many_threads_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
