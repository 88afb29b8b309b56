#ifndef WEIR_FILTERS_FILTER_H
#define WEIR_FILTERS_FILTER_H

/* What is decided about a request, and the one interface of everything that decides.
 *
 * A filter sees a request only through weir_request_t, and keeps no pointer into it after it returned; what it must
 * remember for this request is in its state, a block of fixed size inside the exchange. It knows no socket, no clock,
 * no chance and no thread: time and randomness come with the request. Calls for one request never overlap; `done` comes
 * exactly once for each `admit`, whatever happened. Instances are shared by all workers: what changes in them is
 * behind the store's locks. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "../conf/conf.h"
#include "../conf/reasons.h"
#include "core/json_pick.h"

typedef struct {
    const char *base;
    size_t len;
} weir_str_t;

/* A header field as it came. Same layout as the HTTP library's, so that nothing is copied. */
typedef struct __attribute__((may_alias)) {
    const weir_str_t *name; /* lower case */
    const char *orig_name;  /* as it was written, same length; may be NULL */
    weir_str_t value;
} weir_field_t;

enum {
    WEIR_REQUEST_FIELDS_MAX = 128,
    WEIR_UP_FIELDS_MAX = 16,
    WEIR_LIMITS_PER_ROUTE_MAX = 8,
    WEIR_CORRELATION_ID_MAX = 128,
    WEIR_TENANT_MAX = 128,
};

/* A field that weir adds to the request upstream, where the upstream's `forward` has one of `forward`. */
typedef struct {
    weir_str_t name, value;
    unsigned forward; /* WEIR_FORWARD_* */
} weir_up_field_t;

/* Names a request in another thread's or machine's answer, without a pointer to it. */
typedef struct {
    uint32_t worker, slot;
    uint64_t generation;
} weir_ticket_t;

/* What a language model's answer used. */
typedef struct {
    bool input_is_known, output_is_known; /* reported by the provider; false: estimated from bytes */
    int64_t input;    /* tokens, without the two below */
    int64_t cached;   /* read from the provider's cache */
    int64_t cache_write;
    int64_t output;
    int64_t weighted; /* the sum by usage.weights, rounded up: what limits are charged */
} weir_usage_t;

typedef enum { WEIR_DECISION_ADMITTED, WEIR_DECISION_REFUSED, WEIR_DECISION_SHADOW_REFUSED } weir_decision_t;

/* What became of a request that has a dedup key. */
typedef enum {
    WEIR_DEDUP_NONE, /* it has none */
    WEIR_DEDUP_FIRST,
    WEIR_DEDUP_REPLAYED,
    WEIR_DEDUP_ACKNOWLEDGED,
    WEIR_DEDUP_REJECTED,
    WEIR_DEDUP_SHARED,
    WEIR_DEDUP_MISMATCH,
    WEIR_DEDUP_BYPASSED,
    WEIR_DEDUP_FORGOTTEN, /* it ran, and is not remembered; counted beside `first` */
    WEIR_DEDUP_RESULTS
} weir_dedup_result_t;
extern const char *const weir_dedup_words[WEIR_DEDUP_RESULTS]; /* of the log and metrics; "" for none */

struct weir_request;
struct weir_stream;
struct weir_stream_reader;

/* How the proxy counts what filters decide. */
typedef struct {
    void (*limit_decided)(const struct weir_request *request, size_t limit /* index into conf->limits */,
                          weir_decision_t decision);
    void (*limit_overflowed)(const struct weir_request *request, size_t limit);
    void (*queue_left)(const struct weir_request *request, size_t limit, int64_t waited_ns); /* granted or not */
    void (*dedup_decided)(const struct weir_request *request, size_t dedup /* index into conf->dedup */,
                          weir_dedup_result_t result);
    void (*dedup_forgot_full)(const struct weir_request *request, size_t dedup, size_t keys); /* for want of room */
    void (*dedup_false_positive)(const struct weir_request *request, size_t dedup); /* of the Bloom filters, settled by the
                                                                                     * exact keys */
    void (*limit_leased)(const struct weir_request *request, size_t limit); /* decided by what was taken ahead */
} weir_observer_t;

typedef struct weir_request {
    /* set before the first filter */
    const weir_conf_t *conf;
    const weir_conf_listener_t *listener;
    const weir_conf_route_t *route; /* NULL: none */
    const weir_conf_upstream_t *upstream; /* of the route, or the one that answers */
    weir_str_t method, target; /* target: path and query as they came */
    const weir_field_t *fields;
    size_t field_count;
    struct {
        int family; /* AF_INET, AF_INET6 or AF_UNIX */
        uint8_t address[16];
    } peer;
    bool trusted;    /* the peer's identity headers are believed: weir_tenant_trusts() */
    bool wants_tunnel; /* a WebSocket: what comes of it is nobody else's */
    int64_t now_ns;  /* monotonic; of this loop turn */
    int64_t wall_ms; /* Unix time, for what is written down */
    uint64_t random[2];
    weir_ticket_t ticket;
    /* The body: its Content-Length, 0 where there is none, -1 where nobody knows before its end. After WEIR_NEED_BODY
     * `picked` is what was read of it, body_bytes its size, and `body` all of it, while a filter is being asked. */
    int64_t body_bytes;
    weir_str_t body;
    const weir_json_picked_t *picked;
    const weir_observer_t *observer;
    void *(*alloc)(struct weir_request *request, size_t size); /* lives as long as the request; never NULL */

    /* what filters find out */
    weir_str_t correlation_id;
    bool correlation_is_new; /* weir made it: nobody else has it */
    weir_str_t trace_id; /* 32 hex digits, or empty */
    weir_str_t tenant;
    weir_str_t client_ip;
    uint64_t dropped[WEIR_REQUEST_FIELDS_MAX / 64]; /* bit i: fields[i] does not go upstream */
    weir_up_field_t up_fields[WEIR_UP_FIELDS_MAX];
    size_t up_field_count;
    weir_usage_t usage; /* of the answer; set by the time the chain is done, zeros where there is none */
    bool has_usage;
    weir_dedup_result_t dedup_result;
    /* Where an answer is read from or written to that is shared. The reader is the exchange's: whoever says WEIR_SHARE has
     * joined it; and whoever passes a request with `lead` - it runs, and what comes is written there too - has joined it as
     * well. `lead` is the filter's, until its `done`, which ends it. */
    struct weir_stream_reader *reader;
    struct weir_stream *lead;
    weir_str_t key_header; /* the field that its dedup key came in, in lower case: Connection does not drop it; or empty */
    bool is_protected; /* a dedup key goes up with it: sent twice, it does no harm */
    int64_t lease_ns;     /* 0: none; else it is renewed every sixth of this while it runs */
    bool outlives_caller; /* its call goes on when its caller left */
    bool identity_ignored; /* an untrusted peer sent identity headers: the log warns, naming tenant.trusted */
} weir_request_t;

typedef enum {
    WEIR_PASS,   /* on to the next filter */
    WEIR_AWAIT,  /* the answer comes later, to request->ticket, at most at until_ns */
    WEIR_NEED_BODY, /* the whole body is read first, and what it says in JSON; then the filter is woken */
    WEIR_ANSWER, /* the request ends here, with `reason` */
    WEIR_SHARE,  /* another call's answer is read, by request->reader; when it is LOST, the filter is woken */
} weir_verdict_kind_t;

typedef struct {
    weir_verdict_kind_t kind;
    weir_reason_t reason;
    int status;             /* 0: the reason's own */
    int64_t retry_after_ns; /* < 0: none is said */
    const char *detail;     /* one sentence for the caller; NULL: the reason's title */
    const char *violated[WEIR_LIMITS_PER_ROUTE_MAX]; /* names of the limits that refused */
    size_t violated_count;
    int64_t until_ns;
    const char *body; /* in place of weir's own; "" is none; NULL: weir's own */
    bool is_replay;   /* SHARE: it had ended before this request came */
    bool is_raw;      /* NEED_BODY: what the body says in JSON is of no matter */
    bool is_own;      /* AWAIT: it waits for weir, not for others */
} weir_verdict_t;

/* The head of an answer on its way to the caller, weir's own ones too. */
typedef struct weir_answer {
    int status;
    const weir_field_t *fields; /* the upstream's; names in lower case */
    size_t field_count;
    bool own; /* weir's own answer, not the upstream's */
    /* Adds a field; name (as it is to be written) and value must live as long as the request. */
    void (*add)(struct weir_answer *answer, weir_str_t name, weir_str_t value);
    void (*drop)(struct weir_answer *answer, size_t index); /* fields[index] does not reach the caller */
} weir_answer_t;

/* How a request ended. */
typedef struct {
    weir_reason_t reason; /* NONE: a whole answer of the upstream */
    const char *detail;   /* static text, or NULL */
    int status;           /* 0: no answer went out */
    int64_t now_ns;
    bool ran;         /* a call upstream was begun, whatever became of it */
    bool sent;        /* a byte of the request may have reached an upstream, and no answer says that it did nothing */
    bool answered;    /* the first byte of an upstream's answer came */
    int64_t body_bytes; /* of the request, that came */
} weir_outcome_t;

typedef struct weir_store weir_store_t;

typedef struct weir_filter {
    const char *name;
    size_t state_size; /* of a request's state, zeroed before admit */
    /* An instance for one configuration; aborts when memory is short. */
    void *(*create)(const weir_conf_t *conf, weir_store_t *store);
    void (*destroy)(void *instance);
    weir_verdict_t (*admit)(void *instance, weir_request_t *request, void *state);
    weir_verdict_t (*wake)(void *instance, weir_request_t *request, void *state); /* after AWAIT, NEED_BODY; may be NULL */
    bool (*renew)(void *instance, weir_request_t *request, void *state); /* of request->lease_ns; false: it must stop; may be NULL */
    void (*head)(void *instance, weir_request_t *request, void *state, weir_answer_t *answer); /* may be NULL */
    void (*tap)(void *instance, weir_request_t *request, void *state, weir_str_t bytes);       /* may be NULL */
    void (*done)(void *instance, weir_request_t *request, void *state, const weir_outcome_t *outcome); /* may be NULL */
} weir_filter_t;

/* The request's chain, in the order of registry.def. */
typedef struct weir_chain weir_chain_t;

enum { WEIR_CHAIN_FILTERS_MAX = 8, WEIR_CHAIN_STATE_BYTES = 288 };

/* Where one request stands in its chain; embedded in the exchange, zeroed at first. */
typedef struct {
    uint8_t entered; /* filters whose admit was called */
    _Alignas(16) char state[WEIR_CHAIN_STATE_BYTES];
} weir_chain_run_t;

weir_chain_t *weir_chain_create(const weir_conf_t *conf, weir_store_t *store);
/* For tests: a chain of these filters. */
weir_chain_t *weir_chain_create_of(const weir_filter_t *const *filters, size_t count, const weir_conf_t *conf,
                                   weir_store_t *store);
void weir_chain_destroy(weir_chain_t *chain);
/* The instance of the filter that is called `name` in it; NULL if there is none. */
void *weir_chain_instance(const weir_chain_t *chain, const char *name);
weir_verdict_t weir_chain_admit(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request);
weir_verdict_t weir_chain_wake(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request);
/* False where one of the filters that were entered says so. */
bool weir_chain_renew(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request);
/* In reverse order, for the filters that were entered. */
void weir_chain_head(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request, weir_answer_t *answer);
void weir_chain_tap(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request, weir_str_t bytes);
void weir_chain_done(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request,
                     const weir_outcome_t *outcome);

/* Whether `tenant.trusted` believes this peer; unix peers are. */
bool weir_tenant_trusts(const weir_conf_tenant_t *tenant, int family, const uint8_t *address);

/* The next field called `name` (lower case) at or after `*index`, which is left at it; NULL if there is none. */
const weir_field_t *weir_request_find(const weir_request_t *request, weir_str_t name, size_t *index);
static inline void weir_request_drop(weir_request_t *request, size_t index)
{
    request->dropped[index / 64] |= (uint64_t)1 << index % 64;
}
static inline bool weir_request_is_dropped(const weir_request_t *request, size_t index)
{
    return (request->dropped[index / 64] >> index % 64) & 1;
}
void weir_request_up(weir_request_t *request, weir_str_t name, weir_str_t value, unsigned forward);

#endif
