#ifndef WEIR_CONF_CONF_H
#define WEIR_CONF_CONF_H

/* The configuration: what a weir.yaml says, checked and complete, immutable once loaded.
 *
 * Every member has a value (the default where the file is silent). Durations are in ns, sizes in bytes. Strings are
 * NUL-terminated and live as long as the configuration; NULL is "not set". A configuration is shared by reference
 * count between threads: the last release frees all of it. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    const char **entries;
    size_t size;
} weir_conf_strings_t;

/* `count` per `period_ns`: 50/s is {50, 1000000000}. */
typedef struct {
    int64_t count;
    int64_t period_ns;
} weir_conf_rate_t;

typedef struct {
    int family;          /* AF_INET, AF_INET6 */
    uint8_t address[16]; /* network order; 4 or 16 bytes of it */
    unsigned prefix_length;
} weir_conf_cidr_t;

typedef struct {
    const weir_conf_cidr_t *entries;
    size_t size;
} weir_conf_cidrs_t;

/* Where something listens. */
typedef enum { WEIR_ADDRESS_TCP, WEIR_ADDRESS_UNIX } weir_conf_address_kind_t;

typedef struct {
    weir_conf_address_kind_t kind;
    const char *text; /* as it was written */
    const char *host; /* numeric, without brackets; NULL is all addresses, IPv6 and IPv4 ("*") */
    uint16_t port;
    const char *path; /* unix */
} weir_conf_address_t;

typedef enum { WEIR_UPSTREAM_HTTP, WEIR_UPSTREAM_UNIX } weir_conf_url_kind_t;

/* Where an upstream is. */
typedef struct {
    weir_conf_url_kind_t kind;
    bool is_tls; /* https */
    const char *text;
    const char *host; /* a name or a numeric address, without brackets */
    uint16_t port;
    const char *authority; /* what Host says: host[:port], no port where it is 80, or of https 443; localhost for a unix
                              socket */
    const char *path;      /* unix */
} weir_conf_url_t;

/* One source of the tenant's name: a header that holds it, or one that holds an API key. */
typedef struct {
    const char *header;
    bool is_api_key;
} weir_conf_tenant_source_t;

typedef struct {
    uint8_t sha256[32];
    const char *tenant;
} weir_conf_api_key_t;

/* One part of what a limit counts by. */
typedef enum {
    WEIR_KEY_TENANT,
    WEIR_KEY_ROUTE,
    WEIR_KEY_MODEL, /* the request's, as its JSON body says */
    WEIR_KEY_CLIENT_IP,
    WEIR_KEY_CORRELATION,
    WEIR_KEY_HEADER,
} weir_conf_key_kind_t;

typedef struct {
    weir_conf_key_kind_t kind;
    const char *header; /* WEIR_KEY_HEADER */
} weir_conf_key_part_t;

/* Where the key of a dedup is found. */
typedef enum {
    WEIR_DEDUP_KEY_HEADER,
    WEIR_DEDUP_KEY_CLOUDEVENT, /* id and source of an event, in binary or structured mode */
    WEIR_DEDUP_KEY_JSON,
    WEIR_DEDUP_KEY_FINGERPRINT, /* the request itself; always the last */
} weir_conf_dedup_key_kind_t;

typedef struct {
    weir_conf_dedup_key_kind_t kind;
    const char *text; /* HEADER: its name; JSON: the pointer (RFC 6901), "/..."; else NULL */
} weir_conf_dedup_key_t;

typedef struct {
    const weir_conf_dedup_key_t *entries;
    size_t size; /* >= 1 */
} weir_conf_dedup_keys_t;

/* A set of statuses, 200 to 599. */
typedef struct {
    uint64_t bits[8]; /* of 100 + i, the lowest first */
} weir_conf_statuses_t;

static inline bool weir_conf_statuses_has(const weir_conf_statuses_t *statuses, int64_t status)
{
    return status >= 200 && status <= 599 && (statuses->bits[(status - 100) / 64] >> (status - 100) % 64 & 1) != 0;
}

/* A header field, or a parameter of a query: then both are percent-encoded, as they go up. */
typedef struct {
    const char *name, *value;
    bool is_secret; /* by its name, or because it was inserted: never shown */
} weir_conf_pair_t;

/* The model that a request asks for, and its name at an upstream. */
typedef struct {
    const char *from, *to;
} weir_conf_model_t;

/* Bits of retry.when: after what a request is tried again. */
enum {
    WEIR_WHEN_CONNECT = 1 << 0, /* with DNS and TLS; certainly not processed */
    WEIR_WHEN_RESET = 1 << 1,
    WEIR_WHEN_TIMEOUT = 1 << 2,
    WEIR_WHEN_429 = 1 << 3,
    WEIR_WHEN_500 = 1 << 4,
    WEIR_WHEN_502 = 1 << 5,
    WEIR_WHEN_503 = 1 << 6,
    WEIR_WHEN_504 = 1 << 7,
    WEIR_WHEN_529 = 1 << 8,
};

/* Bits of breaker.failures. */
enum {
    WEIR_FAILURE_CONNECT = 1 << 0, /* with DNS, TLS and timeout_connect */
    WEIR_FAILURE_TIMEOUT = 1 << 1, /* the other timeouts */
    WEIR_FAILURE_RESET = 1 << 2,   /* every broken answer */
    WEIR_FAILURE_5XX = 1 << 3,
};

/* Bits of `forward`; the last is of fields that always go up, and no word of the configuration. */
enum {
    WEIR_FORWARD_CORRELATION = 1,
    WEIR_FORWARD_TRACEPARENT = 2,
    WEIR_FORWARD_TENANT = 4,
    WEIR_FORWARD_ALWAYS = 128,
};

#define WORDS(type) typedef enum {
#define WORD(id, word) id,
#define WORDS_END(type) \
    }                   \
    weir_conf_##type##_t;
#include "fields/words.def"
typedef weir_conf_log_level_t weir_log_level_t;

/* What a field of each type is in its struct: the C type, and the name with its unit last. */
#define WEIR_CONF_ENTRIES(type) \
    struct {                    \
        const type *entries;    \
        size_t size;            \
    }
#define WEIR_CONF_TYPE_abandoned(key) weir_conf_abandoned_t, key
#define WEIR_CONF_TYPE_address(key) weir_conf_address_t, key
#define WEIR_CONF_TYPE_algorithm(key) weir_conf_algorithm_t, key
#define WEIR_CONF_TYPE_api_keys(key) WEIR_CONF_ENTRIES(weir_conf_api_key_t), key /* sorted by sha256 */
#define WEIR_CONF_TYPE_breaker_key(key) bool, by_model
#define WEIR_CONF_TYPE_bypass(key) const char *, key       /* the header's name; NULL: none */
#define WEIR_CONF_TYPE_causes(key) unsigned, key           /* WEIR_WHEN_* */
#define WEIR_CONF_TYPE_certificate(key) const char *, key  /* an absolute path; NULL: none */
#define WEIR_CONF_TYPE_certificates(key) const char *, key /* the same */
#define WEIR_CONF_TYPE_cidrs(key) weir_conf_cidrs_t, key
#define WEIR_CONF_TYPE_count(key) int64_t, key
#define WEIR_CONF_TYPE_dedup_keys(key) weir_conf_dedup_keys_t, key
#define WEIR_CONF_TYPE_dedup_name(key) size_t, key /* index into dedup; SIZE_MAX: none */
#define WEIR_CONF_TYPE_dedup_on_failure(key) weir_conf_dedup_on_failure_t, key
#define WEIR_CONF_TYPE_dialect(key) weir_conf_dialect_t, key
#define WEIR_CONF_TYPE_duration(key) int64_t, key##_ns /* 0 where it is not set */
#define WEIR_CONF_TYPE_failures(key) unsigned, key     /* WEIR_FAILURE_* */
#define WEIR_CONF_TYPE_file(key) const char *, key
#define WEIR_CONF_TYPE_flag(key) bool, key
#define WEIR_CONF_TYPE_forward(key) unsigned, key /* WEIR_FORWARD_* */
#define WEIR_CONF_TYPE_header(key) const char *, key
#define WEIR_CONF_TYPE_header_values(key) WEIR_CONF_ENTRIES(weir_conf_pair_t), key
#define WEIR_CONF_TYPE_host(key) weir_conf_host_t, key
#define WEIR_CONF_TYPE_host_name(key) const char *, key /* lower case, no port */
#define WEIR_CONF_TYPE_in_flight(key) weir_conf_in_flight_t, key
#define WEIR_CONF_TYPE_key_name(key) const char *, key /* what names of keys begin with; "" is nothing */
#define WEIR_CONF_TYPE_key_parts(key) WEIR_CONF_ENTRIES(weir_conf_key_part_t), key
#define WEIR_CONF_TYPE_limit_mode(key) weir_conf_limit_mode_t, key
#define WEIR_CONF_TYPE_limit_names(key) WEIR_CONF_ENTRIES(size_t), key /* indices into limits */
#define WEIR_CONF_TYPE_limit_scope(key) weir_conf_limit_scope_t, key
#define WEIR_CONF_TYPE_limit_on_failure(key) weir_conf_limit_on_failure_t, key
#define WEIR_CONF_TYPE_log_level(key) weir_conf_log_level_t, key
#define WEIR_CONF_TYPE_log_target(key) const char *, key /* "stdout", "stderr", "none" or a file's path */
#define WEIR_CONF_TYPE_methods(key) weir_conf_strings_t, key
#define WEIR_CONF_TYPE_mismatch(key) weir_conf_mismatch_t, key
#define WEIR_CONF_TYPE_model_names(key) WEIR_CONF_ENTRIES(weir_conf_model_t), key /* sorted by from */
#define WEIR_CONF_TYPE_model_patterns(key) weir_conf_strings_t, key
#define WEIR_CONF_TYPE_on_duplicate(key) weir_conf_on_duplicate_t, key
#define WEIR_CONF_TYPE_on_full(key) weir_conf_on_full_t, key
#define WEIR_CONF_TYPE_on_unknown(key) weir_conf_on_unknown_t, key
#define WEIR_CONF_TYPE_overrides(key) WEIR_CONF_ENTRIES(struct weir_conf_override), key /* sorted by name */
#define WEIR_CONF_TYPE_own_header(key) const char *, key
#define WEIR_CONF_TYPE_own_headers(key) weir_conf_strings_t, key
#define WEIR_CONF_TYPE_password(key) const char *, key
#define WEIR_CONF_TYPE_path(key) const char *, key
#define WEIR_CONF_TYPE_percent(key) int64_t, key##_ppm /* 25% is 250000 */
#define WEIR_CONF_TYPE_precision(key) weir_conf_precision_t, key
#define WEIR_CONF_TYPE_prefix(key) const char *, key      /* "" or "/a/b"; of the url, too */
#define WEIR_CONF_TYPE_priority(key) const char *, key    /* the header's name; NULL: none */
#define WEIR_CONF_TYPE_private_key(key) const char *, key /* an absolute path; NULL: none */
#define WEIR_CONF_TYPE_probability(key) double, key
#define WEIR_CONF_TYPE_query_values(key) WEIR_CONF_ENTRIES(weir_conf_pair_t), key
#define WEIR_CONF_TYPE_rate(key) weir_conf_rate_t, key
#define WEIR_CONF_TYPE_redis_mode(key) weir_conf_redis_mode_t, key
#define WEIR_CONF_TYPE_removed_headers(key) weir_conf_strings_t, key
#define WEIR_CONF_TYPE_retry_methods(key) weir_conf_strings_t, key
#define WEIR_CONF_TYPE_secret(key) const char *, key
#define WEIR_CONF_TYPE_server_addresses(key) weir_conf_strings_t, key /* host:port, [v6]:port or unix:///path */
#define WEIR_CONF_TYPE_server_name(key) const char *, key /* NULL: the url's or the address's host */
#define WEIR_CONF_TYPE_size(key) uint64_t, key##_bytes
#define WEIR_CONF_TYPE_state_file(key) const char *, key /* an absolute path, or NULL; it need not be there */
#define WEIR_CONF_TYPE_statuses(key) weir_conf_statuses_t, key
#define WEIR_CONF_TYPE_store_kind(key) weir_conf_store_kind_t, key
#define WEIR_CONF_TYPE_sync(key) weir_conf_sync_t, key
#define WEIR_CONF_TYPE_tenant_or_refuse(key) const char *, key##_tenant /* NULL: refuse */
#define WEIR_CONF_TYPE_tenant_sources(key) WEIR_CONF_ENTRIES(weir_conf_tenant_source_t), key
#define WEIR_CONF_TYPE_text(key) const char *, key
#define WEIR_CONF_TYPE_trusted_certificates(key) const char *, key /* an absolute path; NULL: the system's */
#define WEIR_CONF_TYPE_unit(key) weir_conf_unit_t, key
#define WEIR_CONF_TYPE_upstream_name(key) size_t, key                     /* index into upstreams */
#define WEIR_CONF_TYPE_upstream_names(key) WEIR_CONF_ENTRIES(size_t), key /* indices into upstreams */
#define WEIR_CONF_TYPE_url(key) weir_conf_url_t, key
#define WEIR_CONF_TYPE_version(key) int64_t, key
#define WEIR_CONF_TYPE_weight(key) int64_t, key##_micros /* 1 is 1000000 */
#define WEIR_CONF_TYPE_workers(key) int64_t, key         /* resolved: `auto` is a number here */

#define WEIR_CONF_MEMBER(pair) WEIR_CONF_MEMBER_(pair)
#define WEIR_CONF_MEMBER_(type, name) type name;

/* Below, each struct weir_conf_SECTION_t has one member for each row of its STRUCT in fields/. */
#define STRUCT(section, text) typedef struct weir_conf_##section {
#define END(section) \
    }                \
    weir_conf_##section##_t;
#define ROOT(text) typedef struct weir_conf {
#define ROOT_END()                                                                                                     \
    const char *file;          /* the file it was read from */                                                         \
    weir_conf_strings_t files; /* every file it depends on (itself, tenants, ${file:}, certificates), to be watched */ \
    struct weir_conf_arena *arena;                                                                                     \
    _Atomic size_t references;                                                                                         \
    }                                                                                                                  \
    weir_conf_t;
#define NAME() const char *name;
#define SWITCH(default_) bool enabled; /* false: `false` in place of the section */
#define FIELD(key, type, default_, min, max, reload, text) WEIR_CONF_MEMBER(WEIR_CONF_TYPE_##type(key))
#define SECTION(key, section) weir_conf_##section##_t key;
#define INLINE(key, section) weir_conf_##section##_t key;
#define OWN(key, section) const weir_conf_##section##_t *key; /* its own, or the configuration's */
#define NAMED(key, section, max) WEIR_CONF_ENTRIES(weir_conf_##section##_t) key;
#define LIST(key, section, max) WEIR_CONF_ENTRIES(weir_conf_##section##_t) key;
#define COMPUTED(type, name) type name;
#include "fields/sections.def"

/* The largest bloom.expected that there are filters for: of libbloom 1.6, whose size is an int of bits. */
int64_t weir_conf_bloom_expected_max(double false_positives);

/* What one tenant has in place of a limit's own numbers. */
typedef struct weir_conf_override {
    const char *tenant;
    weir_conf_quota_t quota; /* complete: fields not replaced are the limit's own */
} weir_conf_override_t;

/* What a tenant's key of the limit may: its own, or the limit's. The name needs no NUL. */
const weir_conf_quota_t *weir_conf_quota_of(const weir_conf_limit_t *limit, const char *tenant, size_t len);

/* What `upstream` calls the model, if it has another name for it; else NULL. The name needs no NUL. */
const char *weir_conf_model_name(const weir_conf_upstream_t *upstream, const char *model, size_t len);
/* Whether one of a route's `models` matches; none of them: it does. */
bool weir_conf_model_matches(const weir_conf_strings_t *patterns, const char *model, size_t len);

/* Reads and checks `file`. Returns the configuration with one reference, or NULL with every error in `*errors` (lines
 * of `file:line:column: path: what is wrong; what would be right`, malloc'ed, the caller frees). */
weir_conf_t *weir_conf_load(const char *file, char **errors) __attribute__((warn_unused_result));
void weir_conf_acquire(weir_conf_t *conf);
void weir_conf_release(weir_conf_t *conf);

/* Fields that cannot change while weir runs (server.workers, ...): a malloc'ed line for each that differs, which says
 * that it takes effect at the next start; NULL if there is none. */
char *weir_conf_restart_notes(const weir_conf_t *running, const weir_conf_t *loaded);

void weir_conf_print(const weir_conf_t *conf, FILE *out); /* --print-config; also GET /config */

/* What things cost in bytes, told by those who know it. */
typedef struct {
    uint64_t (*limit_table)(const weir_conf_limit_t *limit); /* a limit's state with all its keys */
    uint64_t (*dedup_table)(const weir_conf_dedup_t *dedup); /* its exact keys, without answers */
    uint64_t (*dedup_bloom)(const weir_conf_dedup_t *dedup); /* its Bloom filters */
    uint64_t process;                                        /* code, heap and stacks of one worker, idle */
    uint64_t worker;                                         /* each further worker */
    uint64_t connection;                                     /* an idle connection of a caller or an upstream */
    uint64_t exchange;                                       /* a request in flight, without its head and body */
    uint64_t log_buffer;                                     /* of each worker */
    uint64_t waiter;                                         /* one who waits in a limit's queue */
    uint64_t unsent;         /* what a connection's other end is slow to take */
    uint64_t tls_process;    /* code and tables of OpenSSL, where anything speaks TLS */
    uint64_t tls_connection; /* what TLS adds to an idle connection */
    uint64_t tls_records;    /* and to one in a handshake or within a record */
    uint64_t tls_asked;      /* and to a handshake in which a caller shows its certificates */
    uint64_t tls_peer;       /* those of an upstream */
    uint64_t tls_context;    /* a listener's or an upstream's own, without its files */
    uint64_t tls_sessions;   /* that a worker keeps of an upstream */
    uint64_t tls_system;     /* the system's authorities */
    uint64_t redis_process;  /* code that Redis needs, and scripts */
    uint64_t redis_link;     /* an idle connection to Redis */
    uint64_t redis_reply;    /* what is read of it at once, beyond the largest answer that is kept there */
    uint64_t redis_ask;      /* what a request asks there */
    uint64_t redis_slices;   /* of limits that are taken ahead, all of them */
} weir_conf_costs_t;

/* --check: what it comes to in memory, idle and at worst, table by table, with a warning where that is over the
 * cgroup's limit. */
void weir_conf_print_memory(const weir_conf_t *conf, const weir_conf_costs_t *costs, FILE *out);
void weir_conf_print_schema(FILE *out);
void weir_conf_print_reference(FILE *out);

#endif
