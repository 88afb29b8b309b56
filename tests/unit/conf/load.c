/* A whole configuration: defaults, every field, everything that can be wrong with one, and the files it names. */

#include "loaded.h"
#include <arpa/inet.h>
#include <pthread.h>
#include "../../../conf/scalar.h"

#define S INT64_C(1000000000)
#define SHA_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SHA_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void check_default_server(const weir_conf_server_t *server)
{
    assert_int_equal(server->workers, 1);
    assert_int_equal(server->max_connections, 4096);
    assert_int_equal(server->max_body_bytes, 16 << 20);
    assert_int_equal(server->max_buffered_bytes, 64 << 20);
    assert_int_equal(server->max_head_bytes, 32 << 10);
    assert_int_equal(server->timeouts.head_ns, 10 * S);
    assert_int_equal(server->timeouts.body_ns, 30 * S);
    assert_int_equal(server->timeouts.idle_ns, 75 * S);
    assert_int_equal(server->timeouts.write_ns, 30 * S);
    assert_null(server->client_ip.header);
    assert_int_equal(server->client_ip.trusted_hops, 0);
    assert_int_equal(server->drain.delay_ns, 0);
    assert_int_equal(server->drain.timeout_ns, 30 * S);
}

static void check_default_tenant(const weir_conf_tenant_t *tenant)
{
    assert_int_equal(tenant->from.size, 1);
    assert_string_equal(tenant->from.entries[0].header, "X-Tenant-ID");
    assert_false(tenant->from.entries[0].is_api_key);
    assert_int_equal(tenant->trusted.size, 2);
    assert_int_equal(tenant->trusted.entries[0].family, AF_INET);
    assert_int_equal(tenant->trusted.entries[0].prefix_length, 8);
    assert_int_equal(tenant->trusted.entries[1].family, AF_INET6);
    assert_int_equal(tenant->trusted.entries[1].prefix_length, 128);
    assert_string_equal(tenant->default_tenant, "anonymous");
    assert_int_equal(tenant->api_keys.size, 0);
    assert_null(tenant->file);
    assert_string_equal(tenant->forward_header, "X-Tenant-ID");
}

/* Of an algorithm that has none. */
static void check_no_queue(const weir_conf_limit_queue_t *queue)
{
    assert_int_equal(queue->size | queue->wait_ns | queue->per_tenant_ppm | queue->per_tenant_size, 0);
    assert_null(queue->priority);
}

static void check_default_usage(const weir_conf_upstream_t *upstream)
{
    assert_int_equal(upstream->dialect, WEIR_DIALECT_PLAIN);
    assert_false(upstream->usage.inject);
    assert_int_equal(upstream->usage.estimate, 4);
    assert_int_equal(upstream->usage.weights.input_micros, 1000000);
    assert_int_equal(upstream->usage.weights.cached_micros, 1000000);
    assert_int_equal(upstream->usage.weights.cache_write_micros, 1000000);
    assert_int_equal(upstream->usage.weights.output_micros, 1000000);
}

static void check_default_retry(const weir_conf_upstream_retry_t *retry)
{
    assert_true(retry->enabled);
    assert_int_equal(retry->attempts, 2);
    assert_int_equal(retry->when, WEIR_WHEN_CONNECT | WEIR_WHEN_RESET | WEIR_WHEN_502 | WEIR_WHEN_503 | WEIR_WHEN_504);
    assert_int_equal(retry->methods.size, 5);
    assert_string_equal(retry->methods.entries[4], "OPTIONS");
    assert_false(retry->post_with_status);
    assert_int_equal(retry->backoff.base_ns, S / 10);
    assert_int_equal(retry->backoff.max_ns, 2 * S);
    assert_int_equal(retry->budget_ppm, 200000);
}

static void check_default_breaker(const weir_conf_upstream_breaker_t *breaker)
{
    assert_true(breaker->enabled);
    assert_int_equal(breaker->window_ns, 30 * S);
    assert_int_equal(breaker->min_requests, 20);
    assert_int_equal(breaker->failure_rate_ppm, 500000);
    assert_int_equal(breaker->consecutive_failures, 5);
    assert_int_equal(breaker->failures, WEIR_FAILURE_CONNECT | WEIR_FAILURE_TIMEOUT | WEIR_FAILURE_RESET);
    assert_false(breaker->slow.enabled);
    assert_false(breaker->by_model);
    assert_int_equal(breaker->open.base_ns, 5 * S);
    assert_int_equal(breaker->open.max_ns, 300 * S);
    assert_int_equal(breaker->open.jitter_ppm, 200000);
    assert_int_equal(breaker->probes, 3);
    assert_false(breaker->throttle.enabled);
    assert_int_equal(breaker->answer.status, 503);
    assert_null(breaker->answer.body);
}

static void check_default_calls(const weir_conf_upstream_t *upstream)
{
    assert_int_equal(upstream->headers.set.size + upstream->headers.remove.size, 0);
    assert_int_equal(upstream->query.set.size + upstream->models.size, 0);
    assert_null(upstream->tls.ca);
    assert_null(upstream->tls.server_name);
    assert_null(upstream->tls.cert);
    assert_null(upstream->tls.key);
    assert_true(upstream->tls.verify);
    assert_int_equal(upstream->connections.warm, 0);
    check_default_retry(&upstream->retry);
    check_default_breaker(&upstream->breaker);
}

static void test_defaults(void **state)
{
    weir_conf_t *conf = load_right("w.yaml", "version: 1\n"
                                             "limits: {a: {rate: 50/s}}\n"
                                             "upstreams: {u: {url: http://u:9000}, s: {url: unix:///s}}\n"
                                             "listeners: {l: {address: 127.0.0.1:80, routes: [{upstream: s}]}}\n");
    check_default_server(&conf->server);
    check_default_tenant(&conf->tenant);
    assert_true(conf->admin.enabled);
    assert_string_equal(conf->admin.address.host, "127.0.0.1");
    assert_int_equal(conf->admin.address.port, 9466);
    assert_null(conf->admin.token);
    assert_null(conf->metrics.address.host);
    assert_int_equal(conf->metrics.address.port, 9465);
    assert_int_equal(conf->metrics.tenant_series, 50);
    assert_string_equal(conf->log.access, "stdout");
    assert_int_equal(conf->log.level, WEIR_LOG_INFO);
    assert_string_equal(conf->correlation.header, "X-Correlation-ID");
    assert_int_equal(conf->correlation.also.size, 1);
    assert_true(conf->correlation.accept && conf->correlation.traceparent);

    const weir_conf_limit_t *limit = &conf->limits.entries[0];
    assert_int_equal(limit->algorithm, WEIR_LIMIT_TOKEN_BUCKET);
    assert_int_equal(limit->quota.rate.count, 50);
    assert_int_equal(limit->quota.burst, 50);
    assert_int_equal(limit->quota.limit | limit->quota.window_ns, 0);
    assert_int_equal(limit->key.size, 1);
    assert_int_equal(limit->key.entries[0].kind, WEIR_KEY_TENANT);
    assert_int_equal(limit->mode, WEIR_LIMIT_ENFORCE);
    assert_int_equal(limit->max_keys, 10000);
    assert_int_equal(limit->unit, WEIR_UNIT_REQUESTS);
    assert_int_equal(limit->scope, WEIR_SCOPE_SHARED);
    assert_int_equal(limit->precision, WEIR_PRECISION_SLOTS);
    check_no_queue(&limit->queue);

    const weir_conf_upstream_t *upstream = &conf->upstreams.entries[0];
    assert_string_equal(upstream->name, "u");
    check_default_usage(upstream);
    check_default_calls(upstream);
    assert_string_equal(upstream->url.authority, "u:9000");
    assert_false(upstream->url.is_tls);
    assert_string_equal(upstream->prefix, "");
    assert_int_equal(upstream->host, WEIR_HOST_UPSTREAM);
    assert_int_equal(conf->upstreams.entries[1].host, WEIR_HOST_PRESERVE);
    assert_int_equal(upstream->forward, WEIR_FORWARD_CORRELATION | WEIR_FORWARD_TRACEPARENT | WEIR_FORWARD_TENANT);
    assert_int_equal(upstream->connections.max, 128);
    assert_int_equal(upstream->connections.idle, 64);
    assert_int_equal(upstream->connections.idle_timeout_ns, 4 * S);
    assert_int_equal(upstream->dns.refresh_ns, 30 * S);
    assert_int_equal(upstream->timeouts.connect_ns, 2 * S);
    assert_int_equal(upstream->timeouts.first_byte_ns, 60 * S);
    assert_int_equal(upstream->timeouts.idle_ns, 60 * S);
    assert_int_equal(upstream->timeouts.total_ns, 900 * S);

    const weir_conf_listener_t *listener = &conf->listeners.entries[0];
    assert_ptr_equal(listener->tenant, &conf->tenant);
    assert_true(listener->tls.cert == NULL && listener->tls.key == NULL && listener->tls.client_ca == NULL);
    const weir_conf_route_t *route = &listener->routes.entries[0];
    assert_string_equal(route->path, "/");
    assert_int_equal(route->methods.size + route->limits.size + route->models.size + route->fallback.size, 0);
    assert_null(route->host);
    assert_int_equal(route->upstream, 1);
    assert_false(route->strip_prefix);
    assert_int_equal(route->timeout_ns, 0);
    assert_int_equal(route->on_limit.status, 429);
    assert_null(route->on_limit.body);
    weir_conf_release(conf);
}

static void check_rich_limits(const weir_conf_t *conf)
{
    const weir_conf_limit_t *bucket = &conf->limits.entries[0], *slots = &conf->limits.entries[1];
    const weir_conf_override_t *overrides = bucket->tenants.entries;
    assert_int_equal(bucket->quota.rate.period_ns, 86400 * S);
    assert_int_equal(bucket->mode, WEIR_LIMIT_SHADOW);
    assert_int_equal(bucket->key.size, 4);
    assert_string_equal(bucket->key.entries[3].header, "X-Plan");
    assert_int_equal(bucket->tenants.size, 3);
    assert_string_equal(overrides[0].tenant, "acme");
    assert_string_equal(overrides[1].tenant, "b:c");
    assert_string_equal(overrides[2].tenant, "zeta");
    assert_int_equal(overrides[1].quota.rate.count, 1000000); /* the limit's own */
    assert_int_equal(overrides[1].quota.burst, 9);
    assert_int_equal(overrides[2].quota.rate.count, 0);
    assert_int_equal(overrides[2].quota.burst, 7); /* given, so it is kept */
    assert_int_equal(slots->algorithm, WEIR_LIMIT_SLIDING_WINDOW);
    assert_int_equal(slots->key.size, 0);
    assert_int_equal(slots->tenants.entries[0].quota.limit, 3);
    assert_int_equal(slots->tenants.entries[0].quota.window_ns, 600 * S);
    const weir_conf_limit_t *derived = &conf->limits.entries[2];
    assert_int_equal(derived->quota.burst, 2);                     /* 1.5 a second */
    assert_int_equal(derived->tenants.entries[0].quota.burst, 10); /* of the tenant's own rate */
}

static void check_rich_units(const weir_conf_t *conf)
{
    const weir_conf_limit_t *tokens = &conf->limits.entries[3], *bytes = &conf->limits.entries[4];
    assert_int_equal(tokens->unit, WEIR_UNIT_LLM_TOKENS);
    assert_int_equal(tokens->quota.burst, 2);                      /* 1.5 a minute */
    assert_int_equal(tokens->tenants.entries[0].quota.burst, 600); /* a minute of the tenant's own rate */
    assert_int_equal(tokens->key.size, 3);
    assert_int_equal(tokens->key.entries[0].kind, WEIR_KEY_MODEL);
    assert_int_equal(tokens->key.entries[1].kind, WEIR_KEY_CORRELATION);
    assert_int_equal(tokens->key.entries[2].kind, WEIR_KEY_TENANT);
    assert_int_equal(bytes->unit, WEIR_UNIT_REQUEST_BYTES);
    assert_int_equal(bytes->precision, WEIR_PRECISION_EXACT);
    check_no_queue(&bytes->queue);

    const weir_conf_limit_t *at_once = &conf->limits.entries[5];
    assert_int_equal(at_once->algorithm, WEIR_LIMIT_CONCURRENCY);
    assert_int_equal(at_once->quota.limit, 8);
    assert_int_equal(at_once->quota.window_ns | at_once->quota.burst | at_once->quota.rate.count, 0);
    assert_int_equal(at_once->tenants.entries[0].quota.limit, 32);
    assert_int_equal(at_once->scope, WEIR_SCOPE_LOCAL);
    assert_int_equal(at_once->queue.size, 201);
    assert_int_equal(at_once->queue.wait_ns, 1500 * S / 1000);
    assert_int_equal(at_once->queue.per_tenant_ppm, 125000);
    assert_int_equal(at_once->queue.per_tenant_size, 26); /* 25.125 */
    assert_string_equal(at_once->queue.priority, "X-Priority");
}

static void check_rich_dialects(const weir_conf_t *conf)
{
    const weir_conf_upstream_t *openai = &conf->upstreams.entries[3], *anthropic = &conf->upstreams.entries[4];
    assert_int_equal(openai->dialect, WEIR_DIALECT_OPENAI);
    assert_true(openai->usage.inject);
    assert_int_equal(openai->usage.estimate, 3);
    assert_int_equal(openai->usage.weights.input_micros, 500000);
    assert_int_equal(openai->usage.weights.cached_micros, 0);
    assert_int_equal(openai->usage.weights.cache_write_micros, 1000001);
    assert_int_equal(openai->usage.weights.output_micros, 1000000000);
    assert_int_equal(openai->forward, 0);
    assert_int_equal(openai->connections.idle_timeout_ns, 60 * S);
    assert_int_equal(openai->timeouts.first_byte_ns, 600 * S);
    assert_int_equal(openai->timeouts.idle_ns, 60 * S);

    assert_int_equal(anthropic->dialect, WEIR_DIALECT_ANTHROPIC); /* and what is written wins */
    assert_int_equal(anthropic->forward, WEIR_FORWARD_CORRELATION);
    assert_int_equal(anthropic->connections.idle_timeout_ns, 4 * S);
    assert_int_equal(anthropic->timeouts.first_byte_ns, 60 * S);
}

static void check_rich_pairs(const weir_conf_upstream_t *far)
{
    const weir_conf_pair_t *set = far->headers.set.entries, *query = far->query.set.entries;
    assert_int_equal(far->headers.set.size, 3);
    assert_string_equal(set[0].name, "X-Api-Key");
    assert_string_equal(set[0].value, "canary");
    assert_true(set[0].is_secret);
    assert_string_equal(set[1].value, "");
    assert_string_equal(set[2].name, "X$A");
    assert_string_equal(set[2].value, "7");
    assert_false(set[2].is_secret);
    assert_int_equal(far->headers.remove.size, 1);
    assert_string_equal(far->headers.remove.entries[0], "X-Debug");
    assert_int_equal(far->query.set.size, 2);
    assert_string_equal(query[0].name, "a%20b");
    assert_string_equal(query[0].value, "1%262%3D%C3%A9");
    assert_true(query[1].is_secret && !query[0].is_secret);
    assert_int_equal(far->models.size, 3);
    assert_string_equal(far->models.entries[0].from, "alpha");
    assert_string_equal(far->models.entries[0].to, "a $1");
    assert_string_equal(far->models.entries[2].from, "zeta");
}

static void check_rich_calls(const weir_conf_upstream_t *far)
{
    const weir_conf_upstream_retry_t *retry = &far->retry;
    const weir_conf_upstream_breaker_t *breaker = &far->breaker;
    assert_true(far->url.is_tls);
    assert_int_equal(far->url.port, 443);
    assert_string_equal(far->url.authority, "api.example");
    assert_string_equal(far->tls.server_name, "other.example");
    assert_false(far->tls.verify);
    assert_int_equal(far->connections.warm, 2);
    assert_int_equal(retry->attempts, 5);
    assert_int_equal(retry->when, WEIR_WHEN_529 | WEIR_WHEN_500 | WEIR_WHEN_TIMEOUT);
    assert_string_equal(retry->methods.entries[1], "POST");
    assert_false(retry->post_with_status);
    assert_int_equal(retry->backoff.base_ns, S / 1000);
    assert_int_equal(retry->backoff.max_ns, S);
    assert_int_equal(retry->budget_ppm, 125000);
    assert_int_equal(breaker->window_ns, 10 * S);
    assert_int_equal(breaker->min_requests, 3);
    assert_int_equal(breaker->failure_rate_ppm, 125000);
    assert_int_equal(breaker->consecutive_failures, 4);
    assert_int_equal(breaker->failures, WEIR_FAILURE_5XX | WEIR_FAILURE_RESET);
    assert_true(breaker->slow.enabled);
    assert_int_equal(breaker->slow.first_byte_ns, 2 * S);
    assert_int_equal(breaker->slow.rate_ppm, 330000);
    assert_true(breaker->by_model);
    assert_int_equal(breaker->open.base_ns, S);
    assert_int_equal(breaker->open.max_ns, 8 * S);
    assert_int_equal(breaker->open.jitter_ppm, 70000);
    assert_int_equal(breaker->probes, 32);
    assert_true(breaker->throttle.enabled && !breaker->throttle.shared);
    assert_int_equal(breaker->throttle.max_ns, 60 * S);
    assert_int_equal(breaker->answer.status, 529);
    assert_string_equal(breaker->answer.body, "later");
}

static void check_rich_route(const weir_conf_route_t *route)
{
    assert_int_equal(route->fallback.size, 2);
    assert_int_equal(route->fallback.entries[0], 5);
    assert_int_equal(route->fallback.entries[1], 0);
    assert_int_equal(route->models.size, 3);
    assert_string_equal(route->models.entries[1], "*-mini");
}

static void test_every_field(void **state)
{
    weir_conf_t *conf = load_right("w.yaml", rich_text);
    assert_int_equal(conf->server.max_head_bytes, 4096);
    assert_int_equal(conf->server.timeouts.head_ns, 1500 * S / 1000);
    assert_string_equal(conf->admin.address.path, "/run/weir-admin.sock");
    assert_string_equal(conf->admin.token, "canary");
    assert_string_equal(conf->metrics.address.host, "::1");
    assert_string_equal(conf->log.access, "/var/log/weir.log");
    assert_int_equal(conf->log.level, WEIR_LOG_WARN);
    assert_int_equal(conf->correlation.also.size, 0);
    assert_false(conf->correlation.accept || conf->correlation.traceparent);
    assert_null(conf->tenant.default_tenant);
    assert_string_equal(conf->tenant.forward_header, "X-Org");
    assert_true(conf->tenant.from.entries[1].is_api_key);
    assert_int_equal(conf->tenant.trusted.entries[0].prefix_length, 32);
    assert_int_equal(conf->tenant.api_keys.size, 2);
    assert_int_equal(conf->tenant.api_keys.entries[0].sha256[0], 0xab); /* sorted */
    assert_string_equal(conf->tenant.api_keys.entries[0].tenant, "acme:eu/1");
    check_rich_limits(conf);
    check_rich_units(conf);
    check_rich_dialects(conf);
    check_rich_pairs(&conf->upstreams.entries[5]);
    check_rich_calls(&conf->upstreams.entries[5]);
    check_rich_route(&conf->listeners.entries[1].routes.entries[0]);

    assert_string_equal(conf->upstreams.entries[0].prefix, "/base");
    assert_string_equal(conf->upstreams.entries[1].prefix, "/v2");
    assert_int_equal(conf->upstreams.entries[0].forward, WEIR_FORWARD_TENANT);
    const weir_conf_listener_t *listener = &conf->listeners.entries[0];
    assert_ptr_not_equal(listener->tenant, &conf->tenant);
    assert_string_equal(listener->tenant->default_tenant, "nobody");
    assert_int_equal(listener->tenant->trusted.size, 2); /* defaults, not the configuration's */
    assert_int_equal(listener->routes.entries[0].limits.entries[0], 1);
    assert_int_equal(listener->routes.entries[0].limits.entries[1], 0);
    const weir_conf_route_t *route = &listener->routes.entries[1];
    assert_string_equal(route->path, "/v1");
    assert_string_equal(route->host, "api.example");
    assert_int_equal(route->timeout_ns, 60 * S);
    assert_string_equal(route->on_limit.body, "costs $5: \"no\" # not a comment");
    weir_conf_release(conf);
}

/* ---- defaults that depend on other fields ---- */

static void test_derived_bursts(void **state)
{
    static const struct {
        const char *unit, *rate;
        int64_t burst;
    } rows[] = {{"requests", "50/s", 50},
                {"requests", "90/m", 2},
                {"requests", "1/d", 1},
                {"requests", "0/s", 1},
                {"requests", "1000000000/s", 1000000000},
                {"request_bytes", "5000000/s", 5000000},
                {"request_bytes", "60/m", 1},
                {"llm_tokens", "100000/m", 100000},
                {"llm_tokens", "10/s", 600},
                {"llm_tokens", "90/h", 2},
                {"llm_tokens", "1/h", 1},
                {"llm_tokens", "1/d", 1},
                {"llm_tokens", "0/s", 1},
                {"llm_tokens", "1441/d", 2},
                {"llm_tokens", "1000000000/m", 1000000000},
                {"llm_tokens", "1000000000/s", 1000000000}}; /* no more than can be written */
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char text[256];
        snprintf(text, sizeof(text),
                 "version: 1\nlimits: {a: {rate: %s, unit: %s, tenants: {t: {}}}, b: {rate: 7/s, unit: %s, "
                 "tenants: {t: {rate: %s}, u: {burst: 3}}}, c: {unit: %s, rate: 1/s, burst: 9, tenants: {t: {rate: "
                 "%s}}}}\n",
                 rows[i].rate, rows[i].unit, rows[i].unit, rows[i].rate, rows[i].unit, rows[i].rate);
        weir_conf_t *conf = load_right("w.yaml", text);
        const weir_conf_limit_t *limits = conf->limits.entries;
        assert_int_equal(limits[0].quota.burst, rows[i].burst);
        assert_int_equal(limits[0].tenants.entries[0].quota.burst, rows[i].burst);
        assert_int_equal(limits[1].tenants.entries[0].quota.burst, rows[i].burst);
        assert_int_equal(limits[1].tenants.entries[1].quota.burst, 3);
        assert_int_equal(limits[2].tenants.entries[0].quota.burst, 9); /* given, so it is kept */
        weir_conf_release(conf);
    }
}

/* The order in which fields are written is no matter, and null is as good as leaving one out. */
static void test_derived_from_a_dialect(void **state)
{
    weir_conf_t *conf = load_right(
        "w.yaml",
        "version: 1\n"
        "upstreams:\n"
        "  a: {timeouts: {total: 1h}, connections: {max: 1}, forward: null, url: http://a, dialect: anthropic}\n"
        "  b: {url: http://b, dialect: plain, timeouts: null, connections: {idle_timeout: null}}\n"
        "  c: {url: http://c, dialect: openai, forward: [tenant], timeouts: {first_byte: 1s}}\n"
        "  d: {url: http://d, dialect: openai, forward: [], connections: {idle_timeout: 1s}}\n");
    static const struct {
        unsigned forward;
        int64_t idle_timeout_s, first_byte_s;
    } rows[] = {{0, 60, 600}, {7, 4, 60}, {WEIR_FORWARD_TENANT, 60, 1}, {0, 1, 600}};
    assert_int_equal(conf->upstreams.size, sizeof(rows) / sizeof(*rows));
    for (size_t i = 0; i < conf->upstreams.size; ++i) {
        const weir_conf_upstream_t *upstream = &conf->upstreams.entries[i];
        assert_int_equal(upstream->forward, rows[i].forward);
        assert_int_equal(upstream->connections.idle_timeout_ns, rows[i].idle_timeout_s * S);
        assert_int_equal(upstream->timeouts.first_byte_ns, rows[i].first_byte_s * S);
    }
    weir_conf_release(conf);
}

static void test_switches(void **state)
{
    static const struct {
        const char *fields;
        bool retry, breaker, slow, throttle, post_with_status;
        unsigned failures;
    } rows[] = {{"dialect: plain", true, true, false, false, false, 7},
                {"dialect: openai", true, true, false, true, true, 15},
                {"dialect: anthropic", true, true, false, true, true, 15},
                {"retry: null, breaker: ~", true, true, false, false, false, 7},
                {"dialect: openai, retry: false, breaker: false", false, false, false, true, true, 15},
                {"dialect: openai, retry: {methods: [POST]}", true, true, false, true, false, 15},
                {"dialect: openai, retry: {methods: null}", true, true, false, true, true, 15},
                {"breaker: {slow: {}, throttle: {}}", true, true, true, true, false, 7},
                {"breaker: {slow: null, throttle: null}", true, true, false, false, false, 7},
                {"dialect: openai, breaker: {slow: false, throttle: false}", true, true, false, false, true, 15},
                {"dialect: openai, breaker: {failures: []}", true, true, false, true, true, 0}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char text[256];
        snprintf(text, sizeof(text), "version: 1\nupstreams: {u: {url: http://u, %s}}\n", rows[i].fields);
        weir_conf_t *conf = load_right("w.yaml", text);
        const weir_conf_upstream_t *upstream = &conf->upstreams.entries[0];
        assert_int_equal(upstream->retry.enabled, rows[i].retry);
        assert_int_equal(upstream->retry.post_with_status, rows[i].post_with_status);
        assert_int_equal(upstream->breaker.enabled, rows[i].breaker);
        assert_int_equal(upstream->breaker.slow.enabled, rows[i].slow);
        assert_int_equal(upstream->breaker.slow.first_byte_ns, 30 * S);
        assert_int_equal(upstream->breaker.slow.rate_ppm, 800000);
        assert_int_equal(upstream->breaker.throttle.enabled, rows[i].throttle);
        assert_int_equal(upstream->breaker.throttle.max_ns, 600 * S);
        assert_true(upstream->breaker.throttle.shared);
        assert_int_equal(upstream->breaker.failures, rows[i].failures);
        weir_conf_release(conf);
    }
}

static void test_queue_defaults(void **state)
{
    weir_conf_t *conf = load_right("w.yaml", "version: 1\n"
                                             "limits:\n"
                                             "  a: {algorithm: concurrency, limit: 5}\n"
                                             "  b: {algorithm: concurrency, limit: 5, queue: {priority: null}}\n");
    for (size_t i = 0; i < 2; ++i) {
        const weir_conf_limit_queue_t *queue = &conf->limits.entries[i].queue;
        assert_int_equal(queue->size | queue->wait_ns | queue->per_tenant_size, 0);
        assert_int_equal(queue->per_tenant_ppm, 250000);
        assert_null(queue->priority);
    }
    weir_conf_release(conf);
}

static void test_places_of_a_tenant(void **state)
{
    static const struct {
        const char *size, *per_tenant;
        int64_t places;
    } rows[] = {{"1", "1%", 1},
                {"1", "100%", 1},
                {"4", "25%", 1},
                {"5", "25%", 2},
                {"100", "1%", 1},
                {"101", "1%", 2},
                {"100000", "100%", 100000},
                {"3", "33.3333%", 1},
                {"3", "33.3334%", 2},
                {"99999", "99.9999%", 99999}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        char text[256];
        snprintf(text, sizeof(text),
                 "version: 1\nlimits: {a: {algorithm: concurrency, limit: 1, scope: local, queue: {size: %s, wait: 1s, "
                 "per_tenant: %s}}}\n",
                 rows[i].size, rows[i].per_tenant);
        weir_conf_t *conf = load_right("w.yaml", text);
        assert_int_equal(conf->limits.entries[0].queue.per_tenant_size, rows[i].places);
        weir_conf_release(conf);
    }
}

static void test_quota_of(void **state)
{
    weir_conf_t *conf = load_right(
        "w.yaml", "version: 1\n"
                  "limits:\n"
                  "  many: {rate: 1/s, tenants: {b: {burst: 12}, a: {burst: 11}, bb: {burst: 13}, B: {burst: 14}, "
                  "\"b:c\": {burst: 15}, abc: {burst: 16}, z: {burst: 17}}}\n"
                  "  none: {rate: 1/s}\n");
    static const struct {
        const char *tenant; /* what follows a | is not of the name */
        int64_t burst;
    } rows[] = {{"a", 11},    {"b", 12},   {"bb", 13}, {"B", 14},     {"b:c", 15}, {"abc", 16}, {"z", 17},
                {"", 1},      {"A", 1},    {"ab", 1},  {"abcd", 1},   {"bbb", 1},  {"zz", 1},   {"~", 1},
                {"a|bc", 11}, {"b|b", 12}, {"|a", 1},  {"abc|d", 16}, {"b:|c", 1}, {"0", 1}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i) {
        size_t len = strcspn(rows[i].tenant, "|");
        char name[8];
        snprintf(name, sizeof(name), "%.*s%s", (int)len, rows[i].tenant,
                 rows[i].tenant[len] == '|' ? rows[i].tenant + len + 1 : "");
        assert_int_equal(weir_conf_quota_of(&conf->limits.entries[0], name, len)->burst, rows[i].burst);
        assert_ptr_equal(weir_conf_quota_of(&conf->limits.entries[1], name, len), &conf->limits.entries[1].quota);
    }
    weir_conf_release(conf);
}

/* ---- errors ---- */

static void test_all_errors_at_once(void **state)
{
    check_errors(
        "dir/w.yaml",
        "version: 1\n"
        "server: {workers: many, worker: 2}\n"
        "limits:\n"
        "  Upper: {rate: 5/s}\n"
        "  per-tenant:\n"
        "    rate: 50/parsec\n"
        "    burst: 0\n"
        "listeners:\n"
        "  main:\n"
        "    address: 8080\n"
        "    routes:\n"
        "      - {path: /, upstream: agnet, limits: [per-tennant]}\n",
        "dir/w.yaml:2:19: server.workers: 'many' is not a whole number or auto; write one from 1 to 256, or auto\n"
        "dir/w.yaml:2:25: server.worker: is unknown here; the nearest field is 'workers'\n"
        "dir/w.yaml:4:3: limits.Upper: 'Upper' is not a name; write at most 63 small letters, digits and hyphens, a "
        "letter first\n"
        "dir/w.yaml:6:11: limits.per-tenant.rate: '50/parsec' is not a rate; write a count and a unit, such as "
        "50/s, 600/m, 10000/h\n"
        "dir/w.yaml:7:12: limits.per-tenant.burst: '0' is too low; write a whole number from 1 to 1000000000\n"
        "dir/w.yaml:10:14: listeners.main.address: '8080' is not an address; write an address and a port, such as "
        "127.0.0.1:8080, [::1]:8080 or \"*:8080\", or unix:///path\n"
        "dir/w.yaml:12:29: listeners.main.routes[0].upstream: 'agnet' is not an upstream; there are none yet: write "
        "them under upstreams\n"
        "dir/w.yaml:12:45: listeners.main.routes[0].limits[0]: 'per-tennant' is not a limit; the nearest is "
        "'per-tenant'\n");
}

/* Texts after `version: 1`, each with the one error it makes. */
static const struct {
    const char *text, *error;
} wrong_texts[] = {
    /* kinds */
    {"server: []\n", "2:9: server: a list is not a mapping; write its fields"},
    {"server: false\n", "2:9: server: 'false' is not a mapping; write its fields"},
    {"admin: true\n", "2:8: admin: 'true' is not a mapping; write its fields, or false"},
    {"limits: []\n", "2:9: limits: a list is not a mapping; write names, and under each its fields"},
    {"limits: {a: 5}\n", "2:13: limits.a: '5' is not a mapping; write its fields"},
    {"listeners: {a: {address: 1.1.1.1:1, routes: {}}}\n",
     "2:45: listeners.a.routes: a mapping is not a list; write a list, each entry after a -"},
    {"listeners: {a: {address: 1.1.1.1:1, routes: [x]}}\n",
     "2:46: listeners.a.routes[0]: 'x' is not a mapping; write its fields"},
    {"log: {level: {}}\n", "2:14: log.level: a mapping is not a level; write debug, info, warn or error"},
    {"correlation: {header: true}\n", "2:23: correlation.header: 'true' is not a header's name; write it in quotes"},
    /* bounds */
    {"server: {workers: 257}\n", "2:19: server.workers: '257' is too high; write a whole number or auto from 1 to 256"},
    {"server: {max_head: 1023}\n", "2:20: server.max_head: '1023' is too low; write a size from 1KiB to 1MiB"},
    {"server: {timeouts: {head: 25h}}\n",
     "2:27: server.timeouts.head: '25h' is too high; write a duration from 10ms to 24h"},
    {"limits: {a: {rate: 1000000001/s}}\n",
     "2:20: limits.a.rate: '1000000001/s' is not a rate; write a count from 0 to 1000000000"},
    {"admin: {token: \"\"}\n", "2:16: admin.token: what stands here is not a token or a password; write 1 to 1024 bytes"},
    {"admin: {token: a b}\n",
     "2:16: admin.token: what stands here is not a token or a password; write visible ASCII characters without spaces"},
    {"limits: {a: {rate: 1/s, key: [tenant, route, client_ip, {header: a}, {header: b}, {header: c}, {header: d}, "
     "{header: "
     "e}, {header: f}]}}\n",
     "2:30: limits.a.key: has 9 entries; write at most 8"},
    /* algorithms */
    {"limits: {a: {limit: 5}}\n",
     "2:13: limits.a.rate: is required; write a count and a unit, such as 50/s, 600/m, 10000/h\n"
     "w.yaml:2:14: limits.a.limit: is no field of token_bucket; leave it out, or write another algorithm"},
    {"limits: {a: {algorithm: leaky, limit: 5, queue: {size: x}, precision: x}}\n",
     "2:25: limits.a.algorithm: 'leaky' is not an algorithm; write token_bucket, sliding_window or concurrency"},
    {"limits: {a: {algorithm: concurrency}}\n", "2:13: limits.a.limit: is required; write a whole number"},
    {"limits: {a: {algorithm: concurrency, limit: 5, window: 1s}}\n",
     "2:48: limits.a.window: is no field of concurrency; leave it out, or write another algorithm"},
    {"limits: {a: {algorithm: concurrency, limit: 5, precision: exact}}\n",
     "2:48: limits.a.precision: is no field of concurrency; leave it out, or write another algorithm"},
    {"limits: {a: {rate: 5/s, queue: {size: 5, wait: x}}}\n",
     "2:25: limits.a.queue: is no field of token_bucket; leave it out, or write another algorithm"},
    {"limits: {a: {rate: 5/s, unit: tokens}}\n",
     "2:31: limits.a.unit: 'tokens' is not a unit of limits; write requests, llm_tokens or request_bytes"},
    {"limits: {a: {rate: 5/s, key: [user]}}\n",
     "2:31: limits.a.key[0]: 'user' is not a part of a key; write tenant, route, model, client_ip, correlation or "
     "{header: NAME}"},
    {"limits: {a: {rate: 5/s, key: [{header: host}]}}\n",
     "2:40: limits.a.key[0].header: 'host' is not a header for this; write route in place of it, and a route with a "
     "host for each that counts by itself"},
    {"limits: {a: {rate: 5/s, key: [tenant, {header: TE}]}}\n",
     "2:48: limits.a.key[1].header: 'TE' is not a header for this; write one that says something of the caller, such "
     "as X-Plan"},
    /* queues */
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {size: 5, wait: 1s}}}\n",
     "2:62: limits.a.queue.size: needs scope: local, for a queue is of one sidecar; write that, or leave the queue "
     "out"},
    {"limits: {a: {algorithm: concurrency, limit: 5, scope: local, queue: {size: 5}}}\n",
     "2:76: limits.a.queue.size: needs queue.wait; write there how long a request may wait, such as 5s"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {wait: 5s}}}\n",
     "2:62: limits.a.queue.wait: needs queue.size; write there how many requests may wait, such as 50"},
    {"limits: {a: {algorithm: concurrency, limit: 5, scope: all, queue: {size: 5, wait: 1s}}}\n",
     "2:55: limits.a.scope: 'all' is not a scope; write shared or local"},
    {"limits: {a: {algorithm: concurrency, limit: 5, scope: local, queue: {size: 5, wait: 5}}}\n",
     "2:85: limits.a.queue.wait: '5' is not a duration; write a count and a unit, such as 250ms, 30s, 10m, 24h"},
    {"limits: {a: {algorithm: concurrency, limit: 5, scope: local, queue: {size: x, wait: 5s}}}\n",
     "2:76: limits.a.queue.size: 'x' is not a whole number; write one from 0 to 100000"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {per_tenant: 0.5%}}}\n",
     "2:68: limits.a.queue.per_tenant: '0.5%' is too low; write a percentage from 1% to 100%"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {per_tenant: 0.25}}}\n",
     "2:68: limits.a.queue.per_tenant: '0.25' is not a percentage; write a number and %, such as 25%"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {priority: X-P}}}\n",
     "2:66: limits.a.queue.priority: 'X-P' is not a source of the priority; write {header: NAME}"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {priority: {header: x-request-ID}}}}\n",
     "2:75: limits.a.queue.priority.header: 'x-request-ID' carries the correlation id already; write another header"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {priority: {header: Authorization}}}}\n",
     "2:75: limits.a.queue.priority.header: 'Authorization' is not a header for this; write a name that HTTP gives no "
     "other meaning, such as X-Priority"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {priority: {header: X P}}}}\n",
     "2:75: limits.a.queue.priority.header: 'X P' is not a header's name; write a name that HTTP gives no other "
     "meaning, such as X-Priority"},
    {"limits: {a: {algorithm: concurrency, limit: 5, queue: {priority: {header: [X-P]}}}}\n",
     "2:75: limits.a.queue.priority.header: a list is not a header's name; write the name of a header field"},
    {"correlation: {header: Host}\n",
     "2:23: correlation.header: 'Host' is not a header for this; write a name that HTTP gives no other meaning"},
    {"tenant: {from: []}\nlimits: {a: {algorithm: concurrency, limit: 5, queue: {priority: {header: x-tenant-ID}}}}\n",
     "3:75: limits.a.queue.priority.header: 'x-tenant-ID' carries the tenant already; write another header"},
    {"limits: {a: {algorithm: concurrency, limit: 5, unit: llm_tokens}}\n",
     "2:54: limits.a.unit: 'llm_tokens' is not what concurrency counts; write requests, or another algorithm"},
    /* usage */
    {"upstreams: {u: {url: http://u, usage: {inject: true}}}\n",
     "2:48: upstreams.u.usage.inject: needs dialect: openai, whose streams tell their usage only when asked; write "
     "that, "
     "or leave this out"},
    {"upstreams: {u: {url: http://u, dialect: anthropic, usage: {inject: true}}}\n",
     "2:68: upstreams.u.usage.inject: needs dialect: openai, whose streams tell their usage only when asked; write "
     "that, "
     "or leave this out"},
    {"upstreams: {u: {url: http://u, dialect: gpt, usage: {inject: true}}}\n",
     "2:41: upstreams.u.dialect: 'gpt' is not a dialect; write plain, openai or anthropic"},
    {"upstreams: {u: {url: http://u, usage: {weights: {input: 0, cached: 0, cache_write: 0, output: 0}}}}\n",
     "2:49: upstreams.u.usage.weights: are all 0, so that no token would count; write one that is not"},
    {"upstreams: {u: {url: http://u, usage: {weights: {input: 0, cached: 0, cache_write: 0, output: x}}}}\n",
     "2:95: upstreams.u.usage.weights.output: 'x' is not a weight; write a number with at most 6 digits after the "
     "point, "
     "such as 1, 0.1, 1.25"},
    {"upstreams: {u: {url: http://u, usage: {weights: {input: 1000.1}}}}\n",
     "2:57: upstreams.u.usage.weights.input: '1000.1' is too high; write a weight from 0 to 1000"},
    {"upstreams: {u: {url: http://u, usage: {weights: 1}}}\n",
     "2:49: upstreams.u.usage.weights: '1' is not a mapping; write its fields"},
    {"upstreams: {u: {url: http://u, usage: 4}}\n", "2:39: upstreams.u.usage: '4' is not a mapping; write its fields"},
    {"limits: {a: {algorithm: sliding_window, limit: 5, window: 1s, tenants: {b: {window: 2s}}}}\n",
     "2:77: limits.a.tenants.b.window: is the same for every tenant; leave it out"},
    {"limits: {a: {rate: 5/s, tenants: {b: {limit: 2}}}}\n",
     "2:39: limits.a.tenants.b.limit: is no field of token_bucket; leave it out, or write another algorithm"},
    {"limits: {a: {rate: 5/s, tenants: {b c: {}}}}\n",
     "2:35: limits.a.tenants.b c: 'b c' is not a tenant; write 1 to 128 letters, digits and ._:@/-"},
    {"limits: {a: {rate: 1/d, burst: 36501}}\n",
     "2:32: limits.a.burst: would take more than 100 years to fill; write a smaller burst, or a higher rate"},
    /* names twice */
    {"correlation: {also: [X-A, x-a]}\n", "2:27: correlation.also[1]: 'x-a' is named twice; leave one out"},
    {"correlation: {header: X-A, also: [x-a]}\n",
     "2:34: correlation.also: 'x-a' is correlation.header already; leave it out here"},
    {"tenant: {from: [{header: X-Request-ID}]}\n",
     "2:16: tenant.from: 'X-Request-ID' carries the correlation id already; write another header"},
    {"correlation: {header: x-tenant-id}\ntenant: {from: []}\n",
     "3:16: tenant.from: 'X-Tenant-ID' carries the correlation id already; write another header"},
    {"tenant: {from: [{header: A}, {api_key: a}]}\n", "2:30: tenant.from[1]: 'a' is named twice; leave one out"},
    {"limits: {a: {rate: 1/s, key: [tenant, tenant]}}\n",
     "2:39: limits.a.key[1]: 'tenant' is named twice; leave one out"},
    {"tenant: {api_keys: {" SHA_A ": a, AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA: b}}\n",
     "2:90: tenant.api_keys.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA: stands for 'a' already "
     "(w.yaml:2); leave one out"},
    /* between fields */
    {"admin: {address: 0.0.0.0:1}\n", "2:18: admin.address: '0.0.0.0:1' is reachable from elsewhere and admin.token is "
                                      "not set; set it, or write 127.0.0.1:1"},
    {"admin: {address: \"[::ffff:10.0.0.1]:1\"}\n", "2:18: admin.address: '[::ffff:10.0.0.1]:1' is reachable from "
                                                    "elsewhere and admin.token is not set; set it, or write "
                                                    "127.0.0.1:1"},
    {"metrics: {address: 127.0.0.1:9466}\n",
     "2:20: metrics.address: '127.0.0.1:9466' is used by admin already ('127.0.0.1:9466'); write another address"},
    {"listeners: {a: {address: \"[::]:9465\"}}\n",
     "2:26: listeners.a.address: '[::]:9465' is used by metrics already ('*:9465'); write another address"},
    {"listeners: {a: {address: unix:///x}, b: {address: unix:///x}}\n",
     "2:51: listeners.b.address: 'unix:///x' is used by a already ('unix:///x'); write another address"},
    {"server: {client_ip: {trusted_hops: 1}}\n", "2:36: server.client_ip.trusted_hops: needs server.client_ip.header; "
                                                 "set that, such as X-Forwarded-For, or leave this "
                                                 "out"},
    {"server: {max_head: 128KiB, max_buffered: 64KiB}\n", "2:20: server.max_head: is more than server.max_buffered, so "
                                                          "that no such head is ever taken; write a smaller one"},
    {"upstreams: {a: {url: http://a, prefix: /b}}\n",
     "2:32: upstreams.a.prefix: is for unix sockets; write the path in the url, such as http://agent:9000/v1"},
    {"upstreams: {a: {url: HTTPS://a}}\n",
     "2:22: upstreams.a.url: 'HTTPS://a' is not a url; write http://host:port, https://host or unix:///path"},
    {"upstreams: {a: {url: http://a, tls: {verify: false}}}\n",
     "2:38: upstreams.a.tls.verify: is for https; write an https url, or leave it out"},
    {"upstreams: {a: {url: nonsense, tls: {verify: false}}}\n",
     "2:22: upstreams.a.url: 'nonsense' is not a url; write http://host:port, https://host or unix:///path"},
    {"upstreams: {a: {url: http://a, tls: {verify: x}}}\n",
     "2:46: upstreams.a.tls.verify: 'x' is not true or false; write true or false"},
    {"upstreams: {a: {url: http://a, retry: {backoff: {base: x, max: 1ms}}}}\n",
     "2:56: upstreams.a.retry.backoff.base: 'x' is not a duration; write a count and a unit, such as 250ms, 30s, 10m, "
     "24h"},
    {"upstreams: {a: {url: http://a, retry: {backoff: {max: x}}}}\n",
     "2:55: upstreams.a.retry.backoff.max: 'x' is not a duration; write a count and a unit, such as 250ms, 30s, 10m, "
     "24h"},
    {"upstreams: {a: {url: http://a, breaker: {open: {max: 4s}}}}\n",
     "2:54: upstreams.a.breaker.open.max: is less than base, 5s; write at least that, or a shorter base"},
    {"upstreams: {a: {url: http://a, connections: {warm: 65}}}\n",
     "2:52: upstreams.a.connections.warm: is more than connections.idle; write a smaller one, or a larger idle"},
    {"upstreams: {a: {url: http://a, connections: {warm: 3, idle: x}}}\n",
     "2:61: upstreams.a.connections.idle: 'x' is not a whole number; write one from 0 to 65536"},
    {"tenant: {from: [{api_key: X-Key}]}\nupstreams: {a: {url: http://a, headers: {set: {x-tenant-id: "
     "b}}}}\nlisteners: "
     "{l: {address: 1.1.1.1:1}}\n",
     "3:48: upstreams.a.headers.set.x-tenant-id: 'x-tenant-id' carries the tenant; leave it out, whether it goes up is "
     "told by forward"},
    {"upstreams: {u: {url: http://a}}\nlisteners: {l: {address: 1.1.1.1:1, routes: [{upstream: nowhere, fallback: [u, "
     "u]}]}}\n",
     "3:57: listeners.l.routes[0].upstream: 'nowhere' is not an upstream; the nearest is 'u'\n"
     "w.yaml:3:80: listeners.l.routes[0].fallback[1]: 'u' is named twice; leave one out"},
    {"upstreams: {u: {url: http://a}}\nlisteners: {l: {address: 1.1.1.1:1, tls: {client_ca: /nonexistent/x}}}\n",
     "3:43: listeners.l.tls.client_ca: needs a cert; write there the path of the listener's certificate\n"
     "w.yaml:3:54: listeners.l.tls.client_ca: the file '/nonexistent/x' cannot be read: No such file or directory; "
     "write the path of a PEM file with some"},
    {"upstreams: {u: {url: http://a}}\nlisteners: {l: {address: 1.1.1.1:1, routes: [{path: /a, upstream: u}, {path: "
     "/a/, "
     "methods: [GET], upstream: u}, {path: /a, host: h, upstream: u}, {path: /a, methods: [PUT, GET], upstream: "
     "u}]}}\n",
     "3:154: listeners.l.routes[3].path: routes[1] takes the same requests; write another path, host, methods or "
     "models"},
    {"log: {level: info}\nlog: [$x, {a: $x}]\n", "3:1: log: is given twice; the first is at line 2"},
    /* what is inserted */
    {"log: {level: \"${WEIR_UNIT_NONE}\"}\n",
     "2:14: log.level: the environment has no WEIR_UNIT_NONE; set it, or write ${WEIR_UNIT_NONE:-default}"},
    {"log: {level: $x}\n", "2:14: log.level: has a $ that begins nothing; write ${NAME}, ${NAME:-default}, "
                           "${file:/path}, or $$ for a dollar"},
    {"log: {level: \"${x\"}\n",
     "2:14: log.level: has a ${ without its }; write ${NAME}, ${NAME:-default}, ${file:/path}, or $$ for a dollar"},
    {"log: {level: \"${a b}\"}\n",
     "2:14: log.level: '${a b}' names nothing; write ${NAME}, ${NAME:-default}, ${file:/path}, or $$ for a dollar"},
    {"log: {level: \"${file:/nonexistent/x}\"}\n", "2:14: log.level: the file '/nonexistent/x' cannot be inserted: No "
                                                   "such file or directory; write the path of a text "
                                                   "file of at most 64KiB"},
    {"log: {level: \"${file:/dev/zero}\"}\n", "2:14: log.level: the file '/dev/zero' cannot be inserted: it is not a "
                                              "regular file; write the path of a text file of "
                                              "at most 64KiB"},
};

static void test_wrong_texts(void **state)
{
    unsetenv("WEIR_UNIT_NONE");
    for (size_t i = 0; i < sizeof(wrong_texts) / sizeof(*wrong_texts); ++i) {
        char text[1024], error[1024];
        snprintf(text, sizeof(text), "version: 1\n%s", wrong_texts[i].text);
        snprintf(error, sizeof(error), "w.yaml:%s\n", wrong_texts[i].error);
        check_errors("w.yaml", text, error);
    }
}

static void test_no_version(void **state)
{
    check_errors("w.yaml", "", "w.yaml:1:1: version: is required; write version: 1\n");
    check_errors("w.yaml", "# x\n\nlog: {}\n", "w.yaml:3:1: version: is required; write version: 1\n");
    check_errors("w.yaml", "version: null\n", "w.yaml:1:1: version: is required; write version: 1\n");
    check_errors("w.yaml", "version: 2\n",
                 "w.yaml:1:10: version: '2' is not a version that this weir reads; write version: 1\n");
    check_errors("w.yaml", "[]\n",
                 "w.yaml:1:1: a list is not a configuration; write a mapping of sections, with version: 1 first\n");
}

/* One value that is wrong makes one error, not one more for everything that depends on it. */
static void test_no_error_follows_another(void **state)
{
    check_errors("w.yaml",
                 "version: 1\n"
                 "upstreams: {u: {url: nonsense}}\n"
                 "limits: {a: {rate: nonsense}}\n"
                 "listeners: {l: {address: nonsense, routes: [{path: x, upstream: u, limits: [a]}]}}\n",
                 "w.yaml:2:22: upstreams.u.url: 'nonsense' is not a url; write http://host:port, https://host or "
                 "unix:///path\n"
                 "w.yaml:3:20: limits.a.rate: 'nonsense' is not a rate; write a count and a unit, such as 50/s, 600/m, "
                 "10000/h\n"
                 "w.yaml:4:26: listeners.l.address: 'nonsense' is not an address; write an address and a port, such as "
                 "127.0.0.1:8080, [::1]:8080 or \"*:8080\", or unix:///path\n"
                 "w.yaml:4:52: listeners.l.routes[0].path: 'x' is not a path; write a path that begins with /\n");
}

static void test_many_errors(void **state)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    fputs("version: 1\n", out);
    for (int i = 0; i < 250; ++i)
        fprintf(out, "unknown%d: 1\n", i);
    assert_int_equal(fclose(out), 0);
    char *errors = load_wrong("w.yaml", text);
    assert_non_null(strstr(errors, "w.yaml:101:1: unknown99: is unknown here"));
    assert_null(strstr(errors, "unknown100"));
    assert_non_null(strstr(errors, "\n... and 150 more\n"));
    free(errors);
    free(text);
}

static void test_large_text(void **state)
{
    size_t len = WEIR_CONF_TEXT_BYTES_MAX + 1;
    char *text = malloc(len + 1), *errors;
    assert_non_null(text);
    memset(text, '#', len);
    text[len] = '\0';
    assert_null(weir_conf_load_text("w.yaml", text, len, &errors));
    assert_non_null(strstr(errors, "w.yaml:1:1: is larger than 1MiB"));
    free(errors);
    assert_null(weir_conf_load_text("w.yaml", text, len - 1, &errors));
    assert_string_equal(errors, "w.yaml:1:1: version: is required; write version: 1\n");
    free(errors);
    free(text);
}

/* ---- environment and files ---- */

static void test_environment(void **state)
{
    setenv("WEIR_UNIT_N", "3", 1);
    setenv("WEIR_UNIT_EMPTY", "", 1);
    setenv("WEIR_UNIT_DOLLAR", "1$2", 1);
    unsetenv("WEIR_UNIT_NONE");
    weir_conf_t *conf =
        load_right("w.yaml", "version: ${WEIR_UNIT_NONE:-1}\n"
                             "server: {workers: \"${WEIR_UNIT_N}\", max_connections: \"1${WEIR_UNIT_N}7\"}\n"
                             "correlation: {accept: \"${WEIR_UNIT_NONE:-false}\"}\n"
                             "admin: {token: \"$${x}$$${WEIR_UNIT_DOLLAR}${WEIR_UNIT_EMPTY:-a:-b}\"}\n"
                             "tenant: {default: \"${WEIR_UNIT_NONE:-refuse}\"}\n"
                             "metrics:\n"
                             "  tenant_series: ${WEIR_UNIT_NONE:-null}\n");
    assert_int_equal(conf->server.workers, 3);
    assert_int_equal(conf->server.max_connections, 137);
    assert_false(conf->correlation.accept);
    assert_string_equal(conf->admin.token, "${x}$1$2a:-b");
    assert_null(conf->tenant.default_tenant);
    assert_int_equal(conf->metrics.tenant_series, 50);
    weir_conf_release(conf);

    check_errors("w.yaml", "version: 1\nadmin: {token: \"${WEIR_UNIT_EMPTY}\"}\n",
                 "w.yaml:2:16: admin.token: what stands here is not a token or a password; write 1 to 1024 bytes\n");
    check_errors("w.yaml", "version: 1\nadmin:\n  token: ${WEIR_UNIT_EMPTY}\n",
                 "w.yaml:3:10: admin.token: what stands here is not a token or a password; write 1 to 1024 bytes\n");
    check_errors(
        "w.yaml", "version: 1\nserver: {workers: \"${WEIR_UNIT_DOLLAR}\"}\n",
        "w.yaml:2:19: server.workers: '1$2' is not a whole number or auto; write one from 1 to 256, or auto\n");
}

static void test_inserted_files(void **state)
{
    folder_t *folder = folder_create();
    folder_write(folder, "token", "secret\n");
    folder_write(folder, "two", "a\nb\n\n");
    folder_write_bytes(folder, "nul", "a\0b", 3);
    folder_write(folder, "binary", "\xff");
    char file[128], text[512];
    snprintf(file, sizeof(file), "%s/w.yaml", folder->path);
    snprintf(text, sizeof(text),
             "version: 1\n"
             "admin: {token: \"${file:%s/token}\"}\n" /* by its whole path, and from beside the configuration */
             "upstreams: {u: {url: http://u}}\n"
             "listeners: {l: {address: 1.1.1.1:1, routes: [{upstream: u, on_limit: {body: \"<${file:two}>\"}}]}}\n",
             folder->path);
    weir_conf_t *conf = load_right(file, text);
    assert_string_equal(conf->admin.token, "secret");
    assert_string_equal(conf->listeners.entries[0].routes.entries[0].on_limit.body, "<a\nb\n>");
    assert_int_equal(conf->files.size, 3);
    assert_string_equal(conf->files.entries[0], file);
    assert_string_equal(conf->files.entries[1] + strlen(folder->path), "/token");
    assert_string_equal(conf->files.entries[2] + strlen(folder->path), "/two");
    weir_conf_release(conf);

    char *errors = load_wrong(file, "version: 1\nadmin: {token: \"${file:nul}\"}\nlog: {access: \"${file:binary}\"}\n"
                                    "correlation: {header: \"${file:two}\"}\n");
    assert_non_null(strstr(errors, "w.yaml:2:16: admin.token: the file"));
    assert_non_null(strstr(errors, "it has a NUL byte"));
    assert_non_null(strstr(errors, "w.yaml:3:15: log.access: what is inserted is not UTF-8"));
    assert_non_null(
        strstr(errors, "w.yaml:4:23: correlation.header: '${file:two}' is not a header's name")); /* not shown */
    free(errors);
    folder_destroy(folder);
}

static void test_tenant_file(void **state)
{
    folder_t *folder = folder_create();
    folder_write(folder, "tenants.yaml",
                 "api_keys: {" SHA_B ": bee, " SHA_A ": acme}\n"
                 "limits:\n"
                 "  a: {zoo: {rate: 7/s}, acme: {burst: 3}}\n");
    char file[128];
    snprintf(file, sizeof(file), "%s/w.yaml", folder->path);
    weir_conf_t *conf =
        load_right(file, "version: 1\n"
                         "tenant: {file: tenants.yaml, api_keys: {" SHA_A ": acme}}\n" /* the same in both */
                         "limits: {a: {rate: 5/s, tenants: {acme: {burst: 3}, beta: {rate: 1/s}}}}\n");
    assert_int_equal(conf->tenant.api_keys.size, 2);
    assert_string_equal(conf->tenant.api_keys.entries[0].tenant, "acme");
    assert_string_equal(conf->tenant.api_keys.entries[1].tenant, "bee");
    assert_int_equal(conf->limits.entries[0].tenants.size, 3);
    assert_string_equal(conf->limits.entries[0].tenants.entries[2].tenant, "zoo");
    assert_int_equal(conf->limits.entries[0].tenants.entries[2].quota.burst, 7);
    assert_int_equal(conf->files.size, 2);
    weir_conf_release(conf);
    conf = load_right(file, "version: 1\n" /* as --print-config has it: each burst is stated, and the file's are there too */
                            "tenant: {file: tenants.yaml}\n"
                            "limits: {a: {rate: 5/s, burst: 5, tenants: {acme: {burst: 3}, zoo: {rate: 7/s, burst: 7}}}}\n");
    assert_int_equal(conf->limits.entries[0].tenants.size, 2);
    assert_string_equal(conf->limits.entries[0].tenants.entries[1].tenant, "zoo");
    assert_int_equal(conf->limits.entries[0].tenants.entries[1].quota.burst, 7);
    weir_conf_release(conf);
    char *errors = load_wrong(file, "version: 1\n" /* the other way round it says something else */
                                    "tenant: {file: tenants.yaml}\n"
                                    "limits: {a: {rate: 5/s, burst: 5, tenants: {acme: {rate: 5/s}}}}\n");
    assert_non_null(strstr(errors, "limits.a.acme: has other fields already ("));
    free(errors);
    folder_destroy(folder);
}

static void test_wrong_tenant_file(void **state)
{
    folder_t *folder = folder_create();
    folder_write(folder, "t.yaml",
                 "api_kys: {}\n"
                 "api_keys: {abc: acme, " SHA_A ": \"b c\", " SHA_B ": other}\n"
                 "limits:\n"
                 "  nowhere: {acme: {rate: 5/s}}\n"
                 "  a: {acme: {rates: 5/s}, beta: {rate: 7/x}, gamma: {rate: 7/s}}\n");
    char file[128], *errors;
    snprintf(file, sizeof(file), "%s/w.yaml", folder->path);
    errors = load_wrong(file, "version: 1\n"
                              "tenant: {file: t.yaml, api_keys: {" SHA_B ": bee}}\n"
                              "limits: {a: {rate: 5/s, tenants: {gamma: {rate: 6/s}}}}\n");
    static const char *const wanted[] = {
        "t.yaml:1:1: api_kys: is unknown here; the nearest field is 'api_keys'\n",
        "t.yaml:2:12: api_keys.abc: is not the SHA-256 of a key; write 64 hex digits",
        "t.yaml:2:89: api_keys." SHA_A ": 'b c' is not a tenant; write 1 to 128 letters",
        "t.yaml:2:96: api_keys." SHA_B ": stands for 'bee' already (",
        "t.yaml:4:3: limits.nowhere: 'nowhere' is not a limit of the configuration; the nearest is 'a'\n",
        "t.yaml:5:14: limits.a.acme.rates: is unknown here; the nearest field is 'rate'\n",
        "t.yaml:5:40: limits.a.beta.rate: '7/x' is not a rate; write a count",
        "t.yaml:5:46: limits.a.gamma: has other fields already (",
    };
    size_t lines = 0;
    for (const char *at = errors; *at != '\0'; ++at)
        lines += *at == '\n';
    for (size_t i = 0; i < sizeof(wanted) / sizeof(*wanted); ++i)
        if (strstr(errors, wanted[i]) == NULL)
            fail_msg("%s--- is not in\n%s", wanted[i], errors);
    assert_int_equal(lines, sizeof(wanted) / sizeof(*wanted));
    free(errors);
    folder_destroy(folder);
}

static void test_files_that_cannot_be_read(void **state)
{
    char *errors;
    assert_null(weir_conf_load("/nonexistent/w.yaml", &errors));
    assert_string_equal(errors, "/nonexistent/w.yaml:1:1: cannot be read: No such file or directory\n");
    free(errors);
    assert_null(weir_conf_load("/", &errors));
    assert_string_equal(errors, "/:1:1: cannot be read: Is a directory\n");
    free(errors);
    check_errors(
        "w.yaml", "version: 1\ntenant: {file: /nonexistent/t}\n",
        "w.yaml:2:16: tenant.file: the file '/nonexistent/t' cannot be read: No such file or directory; write the "
        "path of a file of tenants\n");
}

/* ---- the tables, and who holds a configuration ---- */

static void check_section(const weir_conf_section_t *section)
{
    assert_true(*section->text != '\0');
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->section != NULL)
            check_section(field->section());
        if (field->kind != WEIR_CONF_VALUE)
            continue;
        if (field->text == NULL || field->text[strlen(field->text) - 1] != '.')
            fail_msg("%s.%s has no sentence", section->name, field->key);
        if ((field->min == NULL) != (field->max == NULL))
            fail_msg("%s.%s has one bound", section->name, field->key);
        assert_non_null(field->type->what);
        assert_true(field->type->right != NULL || field->type->words != NULL);
    }
}

static void test_tables(void **state)
{
    check_section(weir_conf_section_root());
}

static void *hold_and_let_go(void *data)
{
    weir_conf_t *conf = data;
    for (int i = 0; i < 10000; ++i) {
        weir_conf_acquire(conf);
        assert_int_equal(conf->server.workers, 1);
        weir_conf_release(conf);
    }
    weir_conf_release(conf);
    return NULL;
}

static void test_shared_between_threads(void **state)
{
    enum { THREADS = 8 };
    weir_conf_t *conf = load_right("w.yaml", "version: 1\n");
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; ++i) {
        weir_conf_acquire(conf);
        assert_int_equal(pthread_create(&threads[i], NULL, hold_and_let_go, conf), 0);
    }
    weir_conf_release(conf);
    for (int i = 0; i < THREADS; ++i)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_derived_bursts),
        cmocka_unit_test(test_derived_from_a_dialect),
        cmocka_unit_test(test_switches),
        cmocka_unit_test(test_queue_defaults),
        cmocka_unit_test(test_places_of_a_tenant),
        cmocka_unit_test(test_quota_of),
        cmocka_unit_test(test_all_errors_at_once),
        cmocka_unit_test(test_wrong_texts),
        cmocka_unit_test(test_no_version),
        cmocka_unit_test(test_no_error_follows_another),
        cmocka_unit_test(test_many_errors),
        cmocka_unit_test(test_large_text),
        cmocka_unit_test(test_environment),
        cmocka_unit_test(test_inserted_files),
        cmocka_unit_test(test_tenant_file),
        cmocka_unit_test(test_wrong_tenant_file),
        cmocka_unit_test(test_files_that_cannot_be_read),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_shared_between_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
