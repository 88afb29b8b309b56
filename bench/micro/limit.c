/* What a decision costs: ns over random keys of a table with 100 000 rows, beside a bare lookup in such a table; of
 * limits that are settled, with the settling; the whole limit filter with two limits; and the memory of a row. Medians
 * of rounds that take turns. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "../../filters/core/key_table.h"
#include "../../filters/core/token_bucket.h"
#include "../../filters/store.h"

enum { ROWS = 100000, CALLS = 200000, ROUNDS = 15, WAYS = 8, KINDS = 3 };

extern const weir_filter_t weir_filter_limit;

typedef struct {
    weir_store_t *store;
    weir_conf_t conf;
    weir_conf_limit_t limits[2]; /* the filter's; decisions alone have tables of their own */
    weir_conf_listener_t listener;
    weir_conf_tenant_t tenant;
    weir_conf_route_t route;
    weir_conf_upstream_t upstream;
    void *filter;
    weir_store_limit_t *states[2];
    weir_conf_limit_t kinds[KINDS]; /* slots, llm_tokens, an exact window */
    weir_store_limit_t *kind_states[KINDS];
    weir_key_shard_t *shards;
    weir_key_table_t *bare;
    weir_store_key_t keys[ROWS], asked_keys[CALLS]; /* asked: at random, but one after another in memory */
    char names[ROWS][16], asked_names[CALLS][16];
    int64_t now_ns;
} bench_t;

static bench_t bench;
static volatile uint64_t sink;

static int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static uint64_t next(void)
{
    static uint64_t state = 42;
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ z >> 31;
}

static uint64_t pss_bytes(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[256];
    uint64_t kib = 0;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "Pss: %" SCNu64, &kib) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return kib * 1024;
}

static bool is_full(const void *state, int64_t now_ns, const void *context)
{
    return weir_token_bucket_is_full(state, now_ns);
}

static weir_store_item_t item(size_t limit, weir_store_key_t key)
{
    return (weir_store_item_t){
        .limit = bench.states[limit], .quota = &bench.limits[limit].quota, .key = key, .cost = 1};
}

static void decide(size_t count, weir_store_key_t key)
{
    weir_store_item_t items[2] = {item(0, key), item(1, key)};
    bool admitted;
    bench.store->decide(bench.store, items, count, bench.now_ns += 10, (weir_ticket_t){0}, &admitted);
    sink += admitted;
}

/* The ways of asking */

static void bare_lookup(uint32_t call)
{
    weir_key_t key = {bench.asked_keys[call].low, bench.asked_keys[call].high};
    const weir_token_bucket_t *row = weir_key_table_find(bench.bare, key);
    sink += row->used_low;
}

static void decide_one(uint32_t call)
{
    decide(1, bench.asked_keys[call]);
}

static void decide_two(uint32_t call)
{
    decide(2, bench.asked_keys[call]);
}

/* A request, from its beginning to its end. */
static void decide_and_settle(size_t kind, uint32_t call)
{
    weir_store_item_t item = {.limit = bench.kind_states[kind],
                              .quota = &bench.kinds[kind].quota,
                              .key = bench.asked_keys[call],
                              .cost = 1,
                              .spent = 1};
    bool admitted;
    bench.store->decide(bench.store, &item, 1, bench.now_ns += 10, (weir_ticket_t){0}, &admitted);
    bench.store->settle(bench.store, &item, 1, bench.now_ns);
    sink += admitted;
}

static void slot_and_end(uint32_t call)
{
    decide_and_settle(0, call);
}

static void tokens_and_end(uint32_t call)
{
    decide_and_settle(1, call);
}

static void exact_window(uint32_t call)
{
    decide_and_settle(2, call);
}

static _Alignas(16) char memory[2048];
static size_t memory_used;

static void *alloc(weir_request_t *request, size_t size)
{
    void *block = memory + memory_used;
    memory_used += (size + 15) & ~(size_t)15;
    return block;
}

static void add(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
    sink += value.len;
}

static void filter_request(uint32_t call, bool with_head)
{
    static weir_request_t request;
    _Alignas(16) char state[64] = {0};
    weir_answer_t answer = {.status = 200, .add = add};
    weir_outcome_t outcome = {.status = 200, .ran = true};
    memory_used = 0;
    request.conf = &bench.conf;
    request.listener = &bench.listener;
    request.route = &bench.route;
    request.upstream = &bench.upstream;
    request.tenant = (weir_str_t){bench.asked_names[call], strlen(bench.asked_names[call])};
    request.now_ns = bench.now_ns += 10;
    request.alloc = alloc;
    weir_verdict_t verdict = weir_filter_limit.admit(bench.filter, &request, state);
    if (with_head)
        weir_filter_limit.head(bench.filter, &request, state, &answer);
    weir_filter_limit.done(bench.filter, &request, state, &outcome);
    sink += verdict.kind;
}

static void filter_admit(uint32_t call)
{
    filter_request(call, false);
}

static void filter_whole(uint32_t call)
{
    filter_request(call, true);
}

static const struct {
    const char *name;
    void (*ask)(uint32_t call);
} ways[WAYS] = {
    {"bare table lookup", bare_lookup},
    {"decision, one token bucket", decide_one},
    {"decision, two token buckets of one key", decide_two},
    {"decision, a slot, and its end", slot_and_end},
    {"decision, a bucket of llm_tokens, and its end", tokens_and_end},
    {"decision, an exact window", exact_window},
    {"limit filter, two limits: admit, done", filter_admit},
    {"limit filter, two limits: admit, head, done", filter_whole},
};

static void set_up_conf(void)
{
    static const weir_conf_key_part_t by_tenant = {.kind = WEIR_KEY_TENANT};
    static const size_t both[] = {0, 1};
    for (size_t i = 0; i < 2; ++i) {
        weir_conf_limit_t *limit = &bench.limits[i];
        *limit = (weir_conf_limit_t){.name = i == 0 ? "per-tenant" : "daily", .max_keys = ROWS * 2};
        limit->algorithm = WEIR_LIMIT_TOKEN_BUCKET;
        limit->quota.rate = (weir_conf_rate_t){1000000, INT64_C(86400000000000)};
        limit->quota.burst = 1000000;
        limit->key.entries = &by_tenant;
        limit->key.size = 1;
    }
    bench.conf.limits.entries = bench.limits;
    bench.conf.limits.size = 2;
    bench.conf.listeners.entries = &bench.listener;
    bench.conf.listeners.size = 1;
    bench.conf.upstreams.entries = &bench.upstream;
    bench.conf.upstreams.size = 1;
    bench.listener.name = "inbound";
    bench.listener.tenant = &bench.tenant;
    bench.listener.routes.entries = &bench.route;
    bench.listener.routes.size = 1;
    bench.route.path = "/";
    bench.route.limits.entries = both;
    bench.route.limits.size = 2;
}

static void set_up_kinds(void)
{
    static const char *const names[KINDS] = {"slots", "tokens", "exact"};
    for (size_t i = 0; i < KINDS; ++i) {
        weir_conf_limit_t *limit = &bench.kinds[i];
        *limit = bench.limits[0];
        limit->name = names[i];
        if (i == 1) {
            limit->unit = WEIR_UNIT_LLM_TOKENS;
        } else {
            limit->algorithm = i == 0 ? WEIR_LIMIT_CONCURRENCY : WEIR_LIMIT_SLIDING_WINDOW;
            limit->precision = WEIR_PRECISION_EXACT;
            limit->quota = (weir_conf_quota_t){.limit = 50, .window_ns = INT64_C(1000000000)};
        }
        bench.kind_states[i] = bench.store->limit_acquire(bench.store, limit);
    }
}

static void set_up_keys(void)
{
    for (uint32_t i = 0; i < ROWS; ++i) {
        snprintf(bench.names[i], sizeof(bench.names[i]), "tenant-%" PRIu32, i);
        bench.keys[i] = bench.store->key(bench.store, bench.names[i], strlen(bench.names[i]));
    }
    for (uint32_t i = 0; i < CALLS; ++i) {
        uint32_t asked = (uint32_t)(next() % ROWS);
        bench.asked_keys[i] = bench.keys[asked];
        memcpy(bench.asked_names[i], bench.names[asked], sizeof(bench.asked_names[i]));
    }
}

static void set_up_rows(void)
{
    bench.shards = aligned_alloc(64, sizeof(*bench.shards) * WEIR_KEY_SHARDS);
    weir_key_shards_init(bench.shards);
    weir_key_table_rows_t rows = {sizeof(weir_token_bucket_t), is_full, NULL};
    bench.bare = weir_key_table_create(rows, ROWS, bench.shards);
    for (uint32_t i = 0; i < ROWS; ++i) {
        weir_key_t key = {bench.keys[i].low, bench.keys[i].high};
        weir_key_table_insert(bench.bare, key, 0, UINT64_MAX);
    }
    uint64_t before = pss_bytes();
    for (uint32_t i = 0; i < ROWS; ++i)
        decide(1, bench.keys[i]);
    printf("a row: %zu bytes; %zu tenants: %.1f bytes each in all (growth of Pss)\n",
           sizeof(weir_key_t) + sizeof(weir_token_bucket_t), bench.store->limit_keys(bench.store, "first"),
           (double)(pss_bytes() - before) / ROWS);
    for (uint32_t i = 0; i < ROWS; ++i)
        decide(2, bench.keys[i]);
}

static double round_of(void (*ask)(uint32_t call))
{
    int64_t start_ns = clock_ns();
    for (uint32_t call = 0; call < CALLS; ++call)
        ask(call);
    return (double)(clock_ns() - start_ns) / CALLS;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void tell(void *context, weir_ticket_t ticket)
{
}

int main(void)
{
    static const uint8_t secret[64] = "any";
    static double ns[WAYS][ROUNDS];
    bench.store = weir_memory_store_create(secret, (weir_store_teller_t){tell, NULL});
    set_up_conf();
    for (size_t i = 0; i < 2; ++i) {
        weir_conf_limit_t own = bench.limits[i];
        own.name = i == 0 ? "first" : "second";
        bench.states[i] = bench.store->limit_acquire(bench.store, &own);
    }
    set_up_keys();
    set_up_rows();
    set_up_kinds();
    bench.filter = weir_filter_limit.create(&bench.conf, bench.store);
    for (size_t way = 0; way < WAYS; ++way)
        round_of(ways[way].ask);
    for (size_t round = 0; round < ROUNDS; ++round)
        for (size_t way = 0; way < WAYS; ++way)
            ns[way][round] = round_of(ways[way].ask);
    for (size_t way = 0; way < WAYS; ++way) {
        qsort(ns[way], ROUNDS, sizeof(double), by_value);
        printf("%-45s %6.1f ns (least %.1f)\n", ways[way].name, ns[way][ROUNDS / 2], ns[way][0]);
    }
    return 0;
}
