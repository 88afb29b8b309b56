#ifndef WEIR_TESTS_UNIT_FILTERS_REDIS_CLAIMED_H
#define WEIR_TESTS_UNIT_FILTERS_REDIS_CLAIMED_H

/* Callers that claim keys of a dedup in Redis, which collect when they are woken. After cmocka.h. */

#include "../../../../filters/redis/redis_dedup.h"
#include "../../../../filters/stream.h"
#include "remoted.h"

#define MS INT64_C(1000000)
#define S INT64_C(1000000000)
#define M (60 * S)
#define H (60 * M)

static inline weir_conf_dedup_t dedup_of_defaults(void)
{
    return (weir_conf_dedup_t){.name = "orders",
                               .window_ns = 24 * H,
                               .on_duplicate = WEIR_ON_DUPLICATE_REPLAY,
                               .in_flight = WEIR_IN_FLIGHT_WAIT,
                               .abandoned = WEIR_ABANDONED_FINISH,
                               .lease_ns = 30 * S,
                               .max_response_bytes = 1 << 20,
                               .keep_responses_ns = H,
                               .memory_bytes = 16 << 20,
                               .max_keys = 100000,
                               .bloom = {.expected = 100000, .false_positives = 1e-6},
                               .exact = true};
}

typedef struct {
    weir_redis_dedups_t *dedups;
    weir_store_claim_t claim;
    weir_stream_reader_t reader;
    weir_store_claim_told_t told;
    size_t worker;
} caller_t;

enum { CALLERS_MAX = 512 };
static caller_t callers[CALLERS_MAX];
static int64_t clock_ns; /* that woken callers see */

static inline void switch_to(caller_t *caller)
{
    ((remoted_t *)caller->dedups->remote)->worker = caller->worker;
}

static inline weir_store_claim_told_t collect(caller_t *caller, int64_t now_ns)
{
    assert_int_equal(caller->told, WEIR_STORE_CLAIM_PENDING);
    switch_to(caller);
    return caller->told = weir_redis_dedups_collect(caller->dedups, &caller->claim, now_ns);
}

static inline void on_wake(weir_ticket_t ticket)
{
    (void)collect(&callers[ticket.slot], clock_ns);
}

static inline void ignore_ticket(void *context, weir_ticket_t ticket)
{
    (void)context;
    (void)ticket;
}

static inline weir_store_key_t key_of(uint64_t number)
{
    uint64_t mixed = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
    return (weir_store_key_t){mixed, mixed ^ mixed >> 29};
}

/* Caller `slot`, on `worker`. */
static inline weir_store_claim_told_t ask_of(weir_redis_dedups_t *dedups, weir_store_dedup_t *dedup, size_t slot, size_t worker,
                                             uint64_t key, uint64_t fingerprint, int64_t now_ns)
{
    caller_t *caller = &callers[slot];
    *caller = (caller_t){.dedups = dedups, .worker = worker};
    caller->claim = (weir_store_claim_t){.dedup = dedup,
                                         .key = key_of(key),
                                         .fingerprint = fingerprint,
                                         .reader = &caller->reader,
                                         .ticket = {.worker = (uint32_t)worker, .slot = (uint32_t)slot}};
    switch_to(caller);
    return caller->told = weir_redis_dedups_claim(dedups, &caller->claim, now_ns);
}

static inline void let_go(caller_t *caller)
{
    weir_stream_leave(&caller->reader);
    if (caller->claim.stream != NULL)
        weir_stream_release(caller->claim.stream);
    caller->claim.stream = NULL;
}

static inline void write_answer(caller_t *caller, const char *head, size_t body_bytes, char byte)
{
    char piece[1000];
    if (caller->claim.stream == NULL)
        return;
    memset(piece, byte, sizeof(piece));
    weir_stream_begin(caller->claim.stream, head, strlen(head));
    while (body_bytes != 0) {
        size_t len = body_bytes < sizeof(piece) ? body_bytes : sizeof(piece);
        weir_stream_append(caller->claim.stream, piece, len);
        body_bytes -= len;
    }
}

static inline void end_answer(caller_t *caller, weir_stream_state_t state, weir_reason_t reason)
{
    if (caller->claim.stream != NULL)
        weir_stream_end(caller->claim.stream, state, (weir_stream_end_t){.reason = reason});
    let_go(caller);
}

static inline void commit(caller_t *caller, int64_t now_ns)
{
    switch_to(caller);
    weir_redis_dedups_commit(caller->dedups, &caller->claim, now_ns);
    end_answer(caller, WEIR_STREAM_DONE, WEIR_REASON_NONE);
}

static inline void forget(caller_t *caller, int64_t now_ns)
{
    switch_to(caller);
    weir_redis_dedups_forget(caller->dedups, &caller->claim, now_ns);
    end_answer(caller, WEIR_STREAM_LOST, WEIR_REASON_CONNECT_FAILED);
}

static inline void lose(caller_t *caller, int64_t now_ns)
{
    switch_to(caller);
    weir_redis_dedups_lose(caller->dedups, &caller->claim, now_ns);
    end_answer(caller, WEIR_STREAM_LOST, WEIR_REASON_RESET);
}

static inline bool renew(caller_t *caller, int64_t now_ns)
{
    switch_to(caller);
    return weir_redis_dedups_renew(caller->dedups, &caller->claim, now_ns);
}

static inline void abandon(caller_t *caller, int64_t now_ns)
{
    switch_to(caller);
    weir_redis_dedups_abandon(caller->dedups, &caller->claim, now_ns);
    assert_null(caller->claim.asked);
    caller->told = WEIR_STORE_CLAIM_DOWN;
}

/* All of the body that is there, checked to be of one byte; its length. */
static inline size_t read_all(weir_stream_reader_t *reader, char byte)
{
    size_t total = 0, bytes;
    do {
        weir_stream_view_t view;
        weir_stream_look(reader, &view);
        bytes = 0;
        for (size_t i = 0; i < view.run_count; ++i) {
            for (size_t j = 0; j < view.runs[i].len; ++j)
                assert_int_equal(view.runs[i].base[j], byte);
            bytes += view.runs[i].len;
        }
        weir_stream_went_on(reader, bytes);
        total += bytes;
    } while (bytes != 0);
    return total;
}

#endif
