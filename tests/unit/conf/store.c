/* The store: defaults, every field, its bounds, every rule between them, and what a reload does not change. */

#include "loaded.h"

#define MS INT64_C(1000000)

static const char fleet_text[] = "version: 1\n"
                                 "store:\n"
                                 "  kind: redis\n"
                                 "  redis:\n"
                                 "    mode: sentinel\n"
                                 "    addresses: [\"[::1]:26379\", sentinel.example:26380]\n"
                                 "    username: weir\n"
                                 "    password: canary-1\n"
                                 "    database: 3\n"
                                 "    tls: {server_name: redis.example}\n"
                                 "    sentinel: {master: limits, username: asks, password: canary-2}\n"
                                 "    prefix: \"prod/weir \"\n"
                                 "    timeout: 5ms\n"
                                 "    claim_timeout: 1s\n"
                                 "    sync: lease\n"
                                 "    lease: 12.5%\n"
                                 "limits: {a: {rate: 1/s, on_failure: closed}, b: {rate: 1/s, on_failure: open}, c: {rate: 1/s}}\n";

static void test_defaults(void **state)
{
    weir_conf_t *conf = load_right("w.yaml", "version: 1\nstore: {kind: redis}\n");
    const weir_conf_store_redis_t *redis = &conf->store.redis;
    assert_int_equal(conf->store.kind, WEIR_STORE_REDIS);
    assert_null(conf->store.file);
    assert_int_equal(redis->mode, WEIR_REDIS_SINGLE);
    assert_int_equal(redis->addresses.size, 1);
    assert_string_equal(redis->addresses.entries[0], "127.0.0.1:6379");
    assert_null(redis->username);
    assert_null(redis->password);
    assert_int_equal(redis->database, 0);
    assert_false(redis->tls.enabled);
    assert_null(redis->tls.ca);
    assert_string_equal(redis->sentinel.master, "mymaster");
    assert_null(redis->sentinel.username);
    assert_null(redis->sentinel.password);
    assert_string_equal(redis->prefix, "weir:");
    assert_int_equal(redis->timeout_ns, 20 * MS);
    assert_int_equal(redis->claim_timeout_ns, 250 * MS);
    assert_int_equal(redis->sync, WEIR_SYNC_STRICT);
    assert_int_equal(redis->lease_ppm, 100000);
    weir_conf_release(conf);
    conf = load_right("w.yaml", "version: 1\n");
    assert_int_equal(conf->store.kind, WEIR_STORE_MEMORY);
    weir_conf_release(conf);
}

static void test_every_field(void **state)
{
    weir_conf_t *conf = load_right("w.yaml", fleet_text);
    const weir_conf_store_redis_t *redis = &conf->store.redis;
    assert_int_equal(redis->mode, WEIR_REDIS_SENTINEL);
    assert_int_equal(redis->addresses.size, 2);
    assert_string_equal(redis->addresses.entries[0], "[::1]:26379");
    assert_string_equal(redis->addresses.entries[1], "sentinel.example:26380");
    assert_string_equal(redis->username, "weir");
    assert_string_equal(redis->password, "canary-1");
    assert_int_equal(redis->database, 3);
    assert_true(redis->tls.enabled);
    assert_null(redis->tls.ca);
    assert_null(redis->tls.cert);
    assert_string_equal(redis->tls.server_name, "redis.example");
    assert_string_equal(redis->sentinel.master, "limits");
    assert_string_equal(redis->sentinel.username, "asks");
    assert_string_equal(redis->sentinel.password, "canary-2");
    assert_string_equal(redis->prefix, "prod/weir ");
    assert_int_equal(redis->timeout_ns, 5 * MS);
    assert_int_equal(redis->claim_timeout_ns, 1000 * MS);
    assert_int_equal(redis->sync, WEIR_SYNC_LEASE);
    assert_int_equal(redis->lease_ppm, 125000);
    assert_int_equal(conf->limits.entries[0].on_failure, WEIR_ON_FAILURE_CLOSED);
    assert_int_equal(conf->limits.entries[1].on_failure, WEIR_ON_FAILURE_OPEN);
    assert_int_equal(conf->limits.entries[2].on_failure, WEIR_ON_FAILURE_LOCAL);
    weir_conf_release(conf);
}

static void test_printed(void **state)
{
    static const char wanted[] = "store:\n  kind: redis\n  file: null\n  redis:\n    mode: sentinel\n"
                                 "    addresses: [\"[::1]:26379\", sentinel.example:26380]\n    username: weir\n"
                                 "    password: \"[redacted]\"\n    database: 3\n    tls:\n      ca: system\n"
                                 "      cert: null\n      key: null\n      server_name: redis.example\n    sentinel:\n"
                                 "      master: limits\n      username: asks\n      password: \"[redacted]\"\n"
                                 "    prefix: \"prod/weir \"\n    timeout: 5ms\n    claim_timeout: 1s\n    sync: lease\n"
                                 "    lease: 12.5%\n";
    weir_conf_t *conf = load_right("w.yaml", fleet_text);
    char *text = printed(conf);
    if (strstr(text, wanted) == NULL)
        fail_msg("%s--- is not in\n%s", wanted, text);
    assert_null(strstr(text, "canary"));
    weir_conf_t *again = load_right("w.yaml", text);
    char *twice = printed(again);
    assert_string_equal(twice, text);
    free(twice);
    free(text);
    weir_conf_release(again);
    weir_conf_release(conf);
}

/* The fields of store, and what is said of them; NULL: they are right. */
static const struct {
    const char *fields, *errors;
} rules[] = {
    {"kind: disk", "2:15: store.kind: 'disk' is not a kind of store; write memory or redis"},
    {"kind: [memory]", "2:15: store.kind: a list is not a kind of store; write memory or redis"},
    {"file: ..", "2:15: store.file: '..' is not a file; write the path of a file"},
    {"kind: redis, file: /x/y",
     "2:22: store.file: is for kind: memory; write that, or leave this out, for Redis keeps the keys"},
    {"kind: redis, file: null", NULL},
    /* what nothing reads; what it would be anyway is no matter */
    {"redis: {timeout: 21ms}", "2:17: store.redis.timeout: is for kind: redis; write that, or leave this out"},
    {"redis: {prefix: \"weir:\", tls: {}}", "2:34: store.redis.tls: is for kind: redis; write that, or leave this out"},
    {"redis: {password: x}", "2:17: store.redis.password: is for kind: redis; write that, or leave this out"},
    {"kind: disk, redis: {timeout: 21ms}", "2:15: store.kind: 'disk' is not a kind of store; write memory or redis"},
    {"redis: {mode: single, addresses: [127.0.0.1:6379], username: null, database: 0, tls: false, sentinel: {master: "
     "mymaster}, prefix: \"weir:\", timeout: 20ms, claim_timeout: 250ms, sync: strict, lease: 10%}",
     NULL},
    {"kind: redis, redis: {sentinel: {master: a}}",
     "2:41: store.redis.sentinel.master: is for mode: sentinel; write that, or leave this out"},
    {"kind: redis, redis: {sentinel: {password: null}}", NULL},
    {"kind: redis, redis: {mode: sentinel, sentinel: {master: a}}", NULL},
    /* addresses */
    {"kind: redis, redis: {addresses: [unix:///run/redis.sock], prefix: \"\"}", NULL},
    {"kind: redis, redis: {mode: cluster, addresses: [a:1, \"[::1]:2\", 10.0.0.1:3]}", NULL},
    {"kind: redis, redis: {addresses: []}", "2:41: store.redis.addresses: is empty; write such as [127.0.0.1:6379], or "
                                            "[unix:///run/redis.sock]"},
    {"kind: redis, redis: {addresses: a:1}", "2:41: store.redis.addresses: 'a:1' is not a list of addresses; write such "
                                             "as [127.0.0.1:6379], or [unix:///run/redis.sock]"},
    {"kind: redis, redis: {addresses: [a]}", "2:42: store.redis.addresses[0]: 'a' is not an address; write a host and a "
                                             "port, such as redis:6379 or [::1]:6379, or unix:///path"},
    {"kind: redis, redis: {addresses: [a:0]}",
     "2:42: store.redis.addresses[0]: 'a:0' is not an address; write a port from 1 to 65535"},
    {"kind: redis, redis: {addresses: [\"::1:6379\"]}",
     "2:42: store.redis.addresses[0]: '::1:6379' is not an address; write a host and a port, such as redis:6379 or "
     "[::1]:6379, or unix:///path"},
    {"kind: redis, redis: {addresses: [\"*:6379\"]}",
     "2:42: store.redis.addresses[0]: '*:6379' is not an address; write a host and a port, such as redis:6379 or "
     "[::1]:6379, or unix:///path"},
    {"kind: redis, redis: {addresses: [\"unix:/run/x\"]}",
     "2:42: store.redis.addresses[0]: 'unix:/run/x' is not an address; write unix:// and an absolute path of at most 107 "
     "bytes, such as unix:///run/weir.sock"},
    {"kind: redis, redis: {addresses: [\"rediss://a:1\"]}",
     "2:42: store.redis.addresses[0]: 'rediss://a:1' is not an address; write host:port alone; users, passwords and TLS "
     "have fields of their own"},
    {"kind: redis, redis: {mode: cluster, addresses: [a:1, a:1]}",
     "2:62: store.redis.addresses[1]: 'a:1' is named twice; leave one out"},
    {"kind: redis, redis: {addresses: [a:1, b:1]}",
     "2:41: store.redis.addresses: has 2 entries, and mode: single has one server; write one, or mode: sentinel or "
     "cluster"},
    {"kind: redis, redis: {mode: cluster, addresses: [a:1, unix:///x]}",
     "2:62: store.redis.addresses[1]: 'unix:///x' is for mode: single; write host:port here"},
    {"kind: redis, redis: {mode: sentinel, addresses: [unix:///x]}",
     "2:58: store.redis.addresses[0]: 'unix:///x' is for mode: single; write host:port here"},
    {"kind: redis, redis: {addresses: [unix:///x], tls: {}}",
     "2:42: store.redis.addresses[0]: 'unix:///x' needs no TLS; write host:port here, or tls: false"},
    /* the rest */
    {"kind: redis, redis: {mode: cluster, database: 1}",
     "2:55: store.redis.database: is none that a cluster has; write 0, or leave it out"},
    {"kind: redis, redis: {database: 1024}", "2:40: store.redis.database: '1024' is too high; write a whole number from 0 "
                                             "to 1023"},
    {"kind: redis, redis: {username: a}", "2:30: store.redis.username: needs a password; write it there, such as "
                                          "${REDIS_PASSWORD}"},
    {"kind: redis, redis: {mode: sentinel, sentinel: {username: a}}",
     "2:57: store.redis.sentinel.username: needs a password; write it there, such as ${REDIS_PASSWORD}"},
    {"kind: redis, redis: {password: \"a b\"}", NULL},
    {"kind: redis, redis: {password: \"a\\tb\"}", "2:40: store.redis.password: what stands here is not a password; write "
                                                  "ASCII characters that can be printed; spaces are fine"},
    {"kind: redis, redis: {mode: sentinel, sentinel: {master: \"\"}}",
     "2:65: store.redis.sentinel.master: '' is not a text; write 1 to 128 bytes"},
    {"kind: redis, redis: {tls: {key: /dev/null/x}}",
     "2:36: store.redis.tls.key: needs a cert; write there the path of the key's certificate\n"
     "w.yaml:2:41: store.redis.tls.key: the file '/dev/null/x' cannot be read: Not a directory; write the path of a PEM "
     "file with one"},
    {"kind: redis, redis: {tls: true}",
     "2:35: store.redis.tls: 'true' is not a mapping; write its fields, or false"},
    {"kind: redis, redis: {prefix: \"a{b\"}", "2:38: store.redis.prefix: 'a{b' is not a beginning of names; write one "
                                              "without braces and control characters, such as \"weir:\""},
    {"kind: redis, redis: {prefix: \"a\\tb\"}", "2:38: store.redis.prefix: 'a\\x09b' is not a beginning of names; write one "
                                               "without braces and control characters, such as \"weir:\""},
    {"kind: redis, redis: {timeout: 999us}", "2:39: store.redis.timeout: '999us' is not a duration; write a count "
                                             "and a unit, such as 250ms, 30s, 10m, 24h"},
    {"kind: redis, redis: {timeout: 0s}", "2:39: store.redis.timeout: '0s' is too low; write a duration from 1ms to 10s"},
    {"kind: redis, redis: {timeout: 11s}",
     "2:39: store.redis.timeout: '11s' is too high; write a duration from 1ms to 10s"},
    {"kind: redis, redis: {claim_timeout: 61s}",
     "2:45: store.redis.claim_timeout: '61s' is too high; write a duration from 1ms to 1m"},
    {"kind: redis, redis: {lease: 51%}", "2:37: store.redis.lease: '51%' is too high; write a percentage from 1% to 50%"},
    {"kind: redis, redis: {lease: 0.5%}",
     "2:37: store.redis.lease: '0.5%' is too low; write a percentage from 1% to 50%"},
    {"kind: redis, redis: {sync: eager}", "2:36: store.redis.sync: 'eager' is not a way to ask; write strict or lease"},
    {"kind: redis, redis: {mode: replica}",
     "2:36: store.redis.mode: 'replica' is not a mode; write single, sentinel or cluster"},
};

static void test_rules(void **state)
{
    for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); ++i) {
        char text[1024], errors[1024];
        snprintf(text, sizeof(text), "version: 1\nstore: {%s}\n", rules[i].fields);
        snprintf(errors, sizeof(errors), "w.yaml:%s\n", rules[i].errors);
        if (rules[i].errors != NULL)
            check_errors("w.yaml", text, errors);
        else
            weir_conf_release(load_right("w.yaml", text));
    }
    check_errors("w.yaml", "version: 1\nlimits: {a: {rate: 1/s, on_failure: shut}}\n",
                 "w.yaml:2:37: limits.a.on_failure: 'shut' is not a way to fail; write local, open or closed\n");
    check_errors("w.yaml", "version: 1\nstore: {kind: redis}\ndedup: {a: {memory: 1GiB, max_response: 257MiB}}\n",
                 "w.yaml:3:41: dedup.a.max_response: is more than an answer in Redis may have; write at most 256MiB\n");
    weir_conf_release(load_right("w.yaml", "version: 1\ndedup: {a: {memory: 1GiB, max_response: 257MiB}}\n"));
    check_errors("w.yaml", "version: 1\nlog: {access: /x/y}\nstore: {file: /x/y}\n",
                 "w.yaml:3:15: store.file: '/x/y' is a file of the configuration or the log, and would be overwritten; "
                 "write another path\n");
}

static void test_seventeen_addresses(void **state)
{
    char text[1024] = "version: 1\nstore: {kind: redis, redis: {mode: cluster, addresses: [";
    for (int i = 1; i <= 17; ++i)
        snprintf(text + strlen(text), sizeof(text) - strlen(text), "a:%d%s", i, i < 17 ? ", " : "]}}\n");
    check_errors("w.yaml", text, "w.yaml:2:56: store.redis.addresses: has 17 entries; write at most 16\n");
}

static void test_store_file(void **state)
{
    folder_t *folder = folder_create();
    char path[64], wanted[64];
    folder_write(folder, "w.yaml", "version: 1\nstore: {file: keys.bin}\n");
    char *errors;
    weir_conf_t *conf = weir_conf_load(folder->names[0], &errors);
    assert_non_null(conf);
    snprintf(path, sizeof(path), "%s/keys.bin", folder->path);
    assert_string_equal(conf->store.file, path); /* beside the configuration, and it need not be there */
    assert_int_equal(conf->files.size, 1);       /* nor is it watched */
    weir_conf_release(conf);

    folder_write(folder, "token", "x");
    char text[256];
    snprintf(text, sizeof(text), "version: 1\nadmin: {token: \"${file:%s}\"}\nstore: {file: \"%s/../%s/token\"}\n",
             folder->names[1], folder->path, strrchr(folder->path, '/') + 1);
    errors = load_wrong("w.yaml", text);
    snprintf(wanted, sizeof(wanted), "store.file: '%s' is a file", folder->names[1]);
    assert_non_null(strstr(errors, wanted));
    free(errors);
    folder_destroy(folder);
}

static void check_notes(const char *before, const char *after, const char *wanted)
{
    char texts[2][1024];
    snprintf(texts[0], sizeof(texts[0]), "version: 1\n%s", before);
    snprintf(texts[1], sizeof(texts[1]), "version: 1\n%s", after);
    weir_conf_t *running = load_right("w.yaml", texts[0]), *loaded = load_right("w.yaml", texts[1]);
    char *notes = weir_conf_restart_notes(running, loaded);
    if (wanted == NULL)
        assert_null(notes);
    else
        assert_string_equal(notes, wanted);
    free(notes);
    weir_conf_release(running);
    weir_conf_release(loaded);
}

static void test_restart_notes(void **state)
{
    check_notes("", "store: {file: /x/y}\ndedup: {a: {}}\n",
                "store.file: /x/y takes effect at the next start; until then it is null\n");
    check_notes("", "store: {kind: redis, redis: {addresses: [a:1], lease: 5%}}\nlimits: {a: {rate: 1/s, on_failure: open}}\n",
                "store.kind: redis takes effect at the next start; until then it is memory\n"
                "store.redis.addresses: [\"a:1\"] takes effect at the next start; until then it is [127.0.0.1:6379]\n"
                "store.redis.lease: 5% takes effect at the next start; until then it is 10%\n");
    check_notes("store: {kind: redis, redis: {password: canary-1}}\n", "store: {kind: redis, redis: {password: canary-2}}\n",
                "store.redis.password: another one takes effect at the next start\n");
    check_notes("store: {kind: redis, redis: {password: canary-1}}\n", "store: {kind: redis}\n",
                "store.redis.password: null takes effect at the next start; until then it is \"[redacted]\"\n");
    check_notes("store: {kind: redis}\n", "store: {kind: redis, redis: {tls: {}}}\n",
                "store.redis.tls: true takes effect at the next start; until then it is false\n");
    check_notes(fleet_text + strlen("version: 1\n"), fleet_text + strlen("version: 1\n"), NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_every_field),
        cmocka_unit_test(test_printed),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_seventeen_addresses),
        cmocka_unit_test(test_store_file),
        cmocka_unit_test(test_restart_notes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
