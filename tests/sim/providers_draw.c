#include "providers.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

typedef struct {
    char *text;
    size_t size, len;
    seeded_t *random;
    bool is_rough;
} draft_t;

static void add(draft_t *draft, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(draft_t *draft, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    draft->len += (size_t)vsnprintf(draft->text + draft->len, draft->size - draft->len, format, list);
    va_end(list);
    assert(draft->len < draft->size);
}

/* One a statement, so that every compiler draws in the same order. Between the usual bounds, or the rough ones. */
static int64_t draw(draft_t *draft, int64_t low, int64_t high, int64_t rough_low, int64_t rough_high)
{
    return draft->is_rough ? sim_magnitude(draft->random, rough_low, rough_high)
                           : sim_magnitude(draft->random, low, high);
}

static void add_words(draft_t *draft, const char *key, const char *const *words, size_t count, int percent)
{
    const char *between = "";
    add(draft, "%s: [", key);
    for (size_t i = 0; i < count; ++i)
        if (sim_below(draft->random, 100) < percent) {
            add(draft, "%s%s", between, words[i]);
            between = ", ";
        }
    add(draft, "]");
}

static void add_retry(draft_t *draft)
{
    static const char *const when[] = {"connect", "reset", "timeout", "429", "500", "502", "503", "504", "529"};
    if (sim_one_in(draft->random, 8)) {
        add(draft, "    retry: false\n");
        return;
    }
    add(draft, "    retry: {attempts: %" PRId64, draw(draft, 1, 4, 1, 10));
    add(draft, ", budget: %" PRId64, sim_between(draft->random, 0, draft->is_rough ? 100 : 30));
    add(draft, "%%, ");
    if (sim_one_in(draft->random, 2)) {
        add_words(draft, "when", when, 9, 70);
        add(draft, ", ");
    }
    if (sim_one_in(draft->random, 3))
        add(draft, "methods: [GET, POST], ");
    int64_t base_ms = draw(draft, 50, 200, 1, 5000);
    add(draft, "backoff: {base: %" PRId64 "ms, max: %" PRId64 "ms}}\n", base_ms,
        draw(draft, 1000, 5000, base_ms, 60000));
}

static void add_breaker(draft_t *draft)
{
    static const char *const failures[] = {"connect", "timeout", "reset", "5xx"};
    if (sim_one_in(draft->random, 12)) {
        add(draft, "    breaker: false\n");
        return;
    }
    add(draft, "    breaker: {window: %" PRId64, draw(draft, 10000, 120000, 100, 600000));
    add(draft, "ms, min_requests: %" PRId64, draw(draft, 5, 50, 1, 200));
    add(draft, ", failure_rate: %" PRId64,
        sim_between(draft->random, draft->is_rough ? 1 : 20, draft->is_rough ? 100 : 80));
    add(draft, "%%, ");
    add(draft, "consecutive_failures: %" PRId64, draw(draft, 3, 20, 1, 1000));
    add(draft, ", probes: %" PRId64, draw(draft, 1, 5, 1, 32));
    add(draft, ",\n      key: [%s", sim_one_in(draft->random, 2) ? "upstream, model" : "upstream");
    add(draft, "], ");
    if (sim_one_in(draft->random, 2)) {
        add_words(draft, "failures", failures, 4, 80);
        add(draft, ", ");
    }
    if (!sim_one_in(draft->random, 3)) {
        add(draft, "slow: {first_byte: %" PRId64, draw(draft, 2000, 20000, 5, 20000));
        add(draft, "ms, rate: %" PRId64 "%%}, ", sim_between(draft->random, draft->is_rough ? 1 : 30, 100));
    }
    if (!sim_one_in(draft->random, 4))
        add(draft, "throttle: {max: %" PRId64 "ms}, ", draw(draft, 60000, 600000, 10, 600000));
    int64_t base_ms = draw(draft, 2000, 10000, 10, 60000);
    add(draft, "\n      open: {base: %" PRId64, base_ms);
    add(draft, "ms, max: %" PRId64, draw(draft, 60000, 600000, base_ms, 600000));
    add(draft, "ms, jitter: %" PRId64, sim_between(draft->random, 0, draft->is_rough ? 100 : 50));
    add(draft, "%%}}\n");
}

static void add_upstream(draft_t *draft, size_t index, int64_t total_ms)
{
    static const char *const dialects[] = {"plain", "openai", "anthropic"};
    add(draft, "  u%zu:\n    url: \"http://127.0.0.1:9\"\n    dialect: %s\n    models: {a: a%zu, b: b%zu}\n", index,
        dialects[sim_below(draft->random, 3)], index, index);
    add(draft, "    timeouts: {connect: %" PRId64 "ms, ", draw(draft, 1000, 3000, 1, 5000));
    add(draft, "first_byte: %" PRId64 "ms, ", draw(draft, 10000, 120000, 10, 120000));
    add(draft, "idle: %" PRId64 "ms, total: %" PRId64 "ms}\n", draw(draft, 5000, 60000, 10, 60000), total_ms);
    add_retry(draft);
    add_breaker(draft);
}

void providers_draw(seeded_t *random, bool is_rough, char *yaml, size_t size)
{
    draft_t draft = {.text = yaml, .size = size, .random = random, .is_rough = is_rough};
    size_t count = (size_t)sim_between(random, 1, PROVIDERS_MAX);
    int64_t total_ms = draw(&draft, 60000, 900000, 1000, 900000);
    add(&draft, "version: 1\nupstreams:\n");
    for (size_t i = 0; i < count; ++i)
        add_upstream(&draft, i, i == 0 ? total_ms : sim_between(random, total_ms / 4, 2 * total_ms));
    add(&draft,
        "listeners:\n  in:\n    address: \"127.0.0.1:8080\"\n    routes:\n      - {path: /, upstream: u0, fallback: [");
    for (size_t i = 1; i < count; ++i)
        add(&draft, "%su%zu", i != 1 ? ", " : "", i);
    add(&draft, "]");
    if (sim_one_in(random, 3))
        add(&draft, ", timeout: %" PRId64 "ms", sim_between(random, total_ms / 4, 2 * total_ms));
    add(&draft, "}\n");
}
