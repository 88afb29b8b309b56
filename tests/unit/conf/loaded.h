#ifndef WEIR_TESTS_UNIT_CONF_LOADED_H
#define WEIR_TESTS_UNIT_CONF_LOADED_H

/* Configurations from texts, for tests. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "../../../conf/load.h"

/* A configuration around these lines, which are right. */
static inline weir_conf_t *load_right(const char *file, const char *text)
{
    char *errors;
    weir_conf_t *conf = weir_conf_load_text(file, text, strlen(text), &errors);
    if (conf == NULL)
        fail_msg("refused:\n%s\n%s", text, errors);
    assert_null(errors);
    return conf;
}

/* All that is said of a text; the caller frees. */
static __attribute__((noinline, unused)) char *load_wrong(const char *file, const char *text)
{
    char *errors;
    weir_conf_t *conf = weir_conf_load_text(file, text, strlen(text), &errors);
    if (conf != NULL)
        fail_msg("taken:\n%s", text);
    assert_non_null(errors);
    return errors;
}

static inline void check_errors(const char *file, const char *text, const char *wanted)
{
    char *errors = load_wrong(file, text);
    if (strcmp(errors, wanted) != 0)
        fail_msg("of\n%s--- is said\n%s--- in place of\n%s", text, errors, wanted);
    free(errors);
}

static __attribute__((noinline, unused)) char *printed(const weir_conf_t *conf)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    assert_non_null(out);
    weir_conf_print(conf, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

/* Files in a directory of the test's own. */
typedef struct {
    char path[32];
    char *names[8];
    size_t count;
} folder_t;

static inline folder_t *folder_create(void)
{
    folder_t *folder = calloc(1, sizeof(*folder));
    assert_non_null(folder);
    strcpy(folder->path, "/tmp/weir-unit-XXXXXX");
    assert_non_null(mkdtemp(folder->path));
    return folder;
}

static inline void folder_write_bytes(folder_t *folder, const char *name, const char *bytes, size_t len)
{
    char **path = &folder->names[folder->count++];
    assert_int_not_equal(asprintf(path, "%s/%s", folder->path, name), -1);
    FILE *out = fopen(*path, "w");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, len, out), len);
    assert_int_equal(fclose(out), 0);
}

static inline void folder_write(folder_t *folder, const char *name, const char *text)
{
    folder_write_bytes(folder, name, text, strlen(text));
}

static inline void folder_destroy(folder_t *folder)
{
    for (size_t i = 0; i < folder->count; ++i) {
        unlink(folder->names[i]);
        free(folder->names[i]);
    }
    rmdir(folder->path);
    free(folder);
}

/* Everything that can be written, once. */
static const char rich_text[] =
    "version: 1\n"
    "server:\n"
    "  workers: 2\n"
    "  max_connections: 100\n"
    "  max_body: 1536KiB\n"
    "  max_buffered: 2MiB\n"
    "  max_head: 4096\n"
    "  timeouts: {head: 1500ms, body: 1m, idle: 2h, write: 90s}\n"
    "  client_ip: {header: X-Forwarded-For, trusted_hops: 1}\n"
    "  drain: {delay: 250ms, timeout: 90s}\n"
    "admin: {address: \"unix:///run/weir-admin.sock\", token: canary}\n"
    "metrics: {address: \"[::1]:9465\", tenant_series: 7}\n"
    "log: {access: /var/log/weir.log, level: warn}\n"
    "correlation: {header: X-Trace-Name, also: [], accept: false, traceparent: false}\n"
    "tenant:\n"
    "  from: [{api_key: Authorization}, {api_key: x-api-key}, {header: X-Org}]\n"
    "  trusted: [10.0.0.1, \"fd00::/8\"]\n"
    "  default: refuse\n"
    "  api_keys:\n"
    "    ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff: zeta\n"
    "    ABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABABAB: \"acme:eu/1\"\n"
    "limits:\n"
    "  bucket: {rate: 1000000/d, burst: 7, key: [tenant, route, client_ip, {header: X-Plan}], mode: shadow,\n"
    "           tenants: {zeta: {rate: 0/s}, \"b:c\": {burst: 9}, acme: {rate: 5/s, burst: 6}}}\n"
    "  slots: {algorithm: sliding_window, limit: 100, window: 10m, key: [], max_keys: 5, tenants: {acme: {limit: 3}}}\n"
    "  derived: {rate: 90/m, tenants: {acme: {rate: 600/m}}}\n"
    "  tokens: {unit: llm_tokens, rate: 90/h, key: [model, correlation, tenant], tenants: {acme: {rate: 10/s}}}\n"
    "  bytes: {unit: request_bytes, algorithm: sliding_window, limit: 1000000, window: 1s, precision: exact}\n"
    "  at-once: {algorithm: concurrency, limit: 8, scope: local, tenants: {acme: {limit: 32}},\n"
    "            queue: {size: 201, wait: 1500ms, per_tenant: 12.5%, priority: {header: X-Priority}}}\n"
    "store: {kind: memory, file: /var/lib/weir/keys}\n"
    "dedup:\n"
    "  jobs:\n"
    "    key: [{json: /job~1id/0}, {header: X-Job}, cloudevent, fingerprint]\n"
    "    required: true\n"
    "    methods: [POST]\n"
    "    window: 2h\n"
    "    on_duplicate: replay\n"
    "    in_flight: reject\n"
    "    mismatch: ignore\n"
    "    abandoned: cancel\n"
    "    on_unknown: reject\n"
    "    keep_statuses: [503, 4xx, 202, 200]\n"
    "    lease: 1500ms\n"
    "    max_response: 64KiB\n"
    "    keep_responses: 30m\n"
    "    memory: 8MiB\n"
    "    max_keys: 5000\n"
    "    on_full: reject\n"
    "    bloom: {expected: 2000, false_positives: 1.25e-3}\n"
    "    exact: true\n"
    "    on_failure: open\n"
    "    bypass: {header: X-Replay}\n"
    "  flood: {key: [cloudevent], on_duplicate: acknowledge, acknowledge: {status: 202, body: '{\"seen\":true}'},\n"
    "          in_flight: reject, exact: false}\n"
    "upstreams:\n"
    "  agent:\n"
    "    url: http://[::1]:9000/base/\n"
    "    host: preserve\n"
    "    forward: [tenant]\n"
    "    connections: {max: 5, idle: 1, idle_timeout: 1s}\n"
    "    dns: {refresh: 5s}\n"
    "    timeouts: {connect: 10ms, first_byte: 1h, idle: 1s, total: 3h}\n"
    "  socket: {url: \"unix:///run/agent.sock\", prefix: /v2}\n"
    "  bare: {url: http://agent.example}\n"
    "  openai:\n"
    "    url: http://127.0.0.1:9101/v1\n"
    "    dialect: openai\n"
    "    usage: {inject: true, estimate: 3, weights: {input: 0.5, cached: 0, cache_write: 1.000001, output: 1000}}\n"
    "  anthropic:\n"
    "    url: http://127.0.0.1:9102\n"
    "    dialect: anthropic\n"
    "    forward: [correlation]\n"
    "    connections: {idle_timeout: 4s}\n"
    "    timeouts: {first_byte: 60s}\n"
    "  far:\n"
    "    url: https://API.example/v1\n"
    "    dialect: anthropic\n"
    "    headers: {set: {X-Api-Key: \" canary \", X-Empty: \"\", \"X$A\": 7}, remove: [X-Debug]}\n"
    "    query: {set: {\"a b\": \"1&2=\\u00e9\", key: canary}}\n"
    "    models: {zeta: z, alpha: \"a $$1\", null-one: null, beta: b}\n"
    "    tls: {ca: system, server_name: other.example, verify: false}\n"
    "    connections: {warm: 2}\n"
    "    retry: {attempts: 5, when: [529, 500, timeout], methods: [GET, POST], backoff: {base: 1ms, max: 1s}, budget: "
    "12.5%}\n"
    "    breaker:\n"
    "      window: 10s\n"
    "      min_requests: 3\n"
    "      failure_rate: 12.5%\n"
    "      consecutive_failures: 4\n"
    "      failures: [5xx, reset]\n"
    "      slow: {first_byte: 2s, rate: 33%}\n"
    "      key: [upstream, model]\n"
    "      open: {base: 1s, max: 8s, jitter: 7%}\n"
    "      probes: 32\n"
    "      throttle: {max: 1m, shared: false}\n"
    "      answer: {status: 529, body: later}\n"
    "listeners:\n"
    "  main:\n"
    "    address: \"*:8080\"\n"
    "    tenant: {from: [{header: X-Customer}], default: nobody}\n"
    "    routes:\n"
    "      - {path: /, upstream: agent, limits: [slots, bucket]}\n"
    "      - {path: /v1/, methods: [GET, POST], host: API.Example, upstream: socket, strip_prefix: true, timeout: 1m,\n"
    "         dedup: jobs,\n"
    "         on_limit: {status: 503, body: 'costs $$5: \"no\" # not a comment'}}\n"
    "  local: {address: \"unix:///run/weir.sock\", routes: [{upstream: bare, fallback: [far, agent],\n"
    "          models: [\"gpt-*\", \"*-mini\", o3]}]}\n";

#endif
