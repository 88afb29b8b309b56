#ifndef WEIR_TESTS_UNIT_FILTERS_LIMITS_H
#define WEIR_TESTS_UNIT_FILTERS_LIMITS_H

/* Limits by hand, and questions to a store about them. Time is a number; nothing sleeps. After cmocka.h. */

#include <string.h>
#include "../../../filters/store.h"

#define S INT64_C(1000000000)
#define D (86400 * S)

static const uint8_t secret[64] = "a secret that the tests have in common, and nobody else has it.";

static const weir_conf_key_part_t by_tenant = {.kind = WEIR_KEY_TENANT};

static inline weir_conf_limit_t limit_of(const char *name, weir_conf_algorithm_t algorithm)
{
    weir_conf_limit_t limit = {.name = name, .algorithm = algorithm, .max_keys = 10000};
    limit.key.entries = &by_tenant;
    limit.key.size = 1;
    return limit;
}

static inline weir_conf_limit_t bucket(const char *name, int64_t count, int64_t period_ns, int64_t burst)
{
    weir_conf_limit_t limit = limit_of(name, WEIR_LIMIT_TOKEN_BUCKET);
    limit.quota.rate = (weir_conf_rate_t){count, period_ns};
    limit.quota.burst = burst;
    return limit;
}

static inline weir_conf_limit_t window(const char *name, int64_t count, int64_t window_ns)
{
    weir_conf_limit_t limit = limit_of(name, WEIR_LIMIT_SLIDING_WINDOW);
    limit.quota.limit = count;
    limit.quota.window_ns = window_ns;
    return limit;
}

static inline weir_conf_limit_t exact(const char *name, int64_t count, int64_t window_ns)
{
    weir_conf_limit_t limit = window(name, count, window_ns);
    limit.precision = WEIR_PRECISION_EXACT;
    return limit;
}

static inline weir_conf_limit_t slots(const char *name, int64_t count)
{
    weir_conf_limit_t limit = limit_of(name, WEIR_LIMIT_CONCURRENCY);
    limit.quota.limit = count;
    return limit;
}

static inline weir_conf_limit_t in_unit(weir_conf_limit_t limit, weir_conf_unit_t unit)
{
    limit.unit = unit;
    return limit;
}

static inline weir_conf_limit_t with_queue(weir_conf_limit_t limit, int64_t size, int64_t per_tenant_size)
{
    limit.queue.size = size;
    limit.queue.per_tenant_size = per_tenant_size;
    limit.queue.wait_ns = 10 * S;
    return limit;
}

static inline weir_store_key_t key(const weir_store_t *store, uint64_t number)
{
    return store->key(store, &number, sizeof(number));
}

static inline weir_store_item_t item(weir_store_limit_t *limit, const weir_conf_limit_t *conf, weir_store_key_t of)
{
    return (weir_store_item_t){.limit = limit, .quota = &conf->quota, .key = of, .cost = 1};
}

static inline bool decide(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns)
{
    bool admitted;
    assert_int_equal(store->decide(store, items, count, now_ns, (weir_ticket_t){0}, &admitted), WEIR_STORE_DECIDED);
    return admitted;
}

static inline bool ask(weir_store_t *store, weir_store_limit_t *limit, const weir_conf_limit_t *conf, uint64_t number,
                       int64_t now_ns)
{
    weir_store_item_t one = item(limit, conf, key(store, number));
    return decide(store, &one, 1, now_ns);
}

static inline weir_store_item_t peek(weir_store_t *store, weir_store_limit_t *limit, const weir_conf_limit_t *conf,
                                     uint64_t number, int64_t now_ns)
{
    weir_store_item_t probe = item(limit, conf, key(store, number));
    store->peek(store, &probe, 1, now_ns);
    return probe;
}

static inline int64_t remaining(weir_store_t *store, weir_store_limit_t *limit, const weir_conf_limit_t *conf,
                                uint64_t number, int64_t now_ns)
{
    return peek(store, limit, conf, number, now_ns).remaining;
}

/* Reloads: the new limit is acquired before the old one is released, of which no request is left. */
static inline weir_store_limit_t *reload(weir_store_t *store, weir_store_limit_t *old, const weir_conf_limit_t *conf)
{
    weir_store_limit_t *limit = store->limit_acquire(store, conf);
    store->limit_release(store, old);
    return limit;
}

static inline void tell_nobody(void *context, weir_ticket_t ticket)
{
    fail_msg("somebody was told, where nobody waits");
}

static inline weir_store_t *create_store(void)
{
    return weir_memory_store_create(secret, (weir_store_teller_t){tell_nobody, NULL});
}

#endif
