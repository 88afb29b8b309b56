#ifndef WEIR_TESTS_UNIT_FILTERS_DEDUPED_H
#define WEIR_TESTS_UNIT_FILTERS_DEDUPED_H

/* A dedup of the store in memory, and what is claimed there. After cmocka.h. */

#include <string.h>
#include "../../../filters/memory_dedup.h"

#define MS INT64_C(1000000)
#define S INT64_C(1000000000)
#define M (60 * S)
#define H (60 * M)

static const uint8_t secret[64] = "a secret that the tests have in common, and nobody else has it.";

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

static _Atomic size_t tickets_told;

static inline void note_ticket(void *context, weir_ticket_t ticket)
{
    ++tickets_told;
}

static inline weir_store_t *create_store(void)
{
    return weir_memory_store_create(secret, (weir_store_teller_t){note_ticket, NULL});
}

/* One claim, its caller's reader with it. */
typedef struct {
    weir_store_claim_t claim;
    weir_stream_reader_t reader;
    weir_store_claim_told_t told;
} claimed_t;

static inline weir_store_key_t key_of(uint64_t number)
{
    uint64_t mixed = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);
    return (weir_store_key_t){mixed, mixed ^ mixed >> 29};
}

static inline weir_store_claim_told_t claim_as(weir_store_t *store, weir_store_dedup_t *dedup, claimed_t *claimed, uint64_t number,
                                               uint64_t fingerprint, int64_t now_ns)
{
    claimed->reader = (weir_stream_reader_t){.stream = NULL};
    claimed->claim = (weir_store_claim_t){
        .dedup = dedup, .key = key_of(number), .fingerprint = fingerprint, .reader = &claimed->reader, .ticket = {1, 2, 3}};
    claimed->told = store->claim(store, &claimed->claim, now_ns);
    return claimed->told;
}

/* Whoever has no stream has nothing to say. */
static inline void write_answer(claimed_t *claimed, const char *head, size_t body_bytes, char byte)
{
    char piece[1024];
    if (claimed->claim.stream == NULL)
        return;
    memset(piece, byte, sizeof(piece));
    weir_stream_begin(claimed->claim.stream, head, strlen(head));
    while (body_bytes != 0) {
        size_t len = body_bytes < sizeof(piece) ? body_bytes : sizeof(piece);
        weir_stream_append(claimed->claim.stream, piece, len);
        body_bytes -= len;
    }
}

static inline void let_go(claimed_t *claimed)
{
    weir_stream_leave(&claimed->reader);
    if (claimed->claim.stream != NULL)
        weir_stream_release(claimed->claim.stream);
    claimed->claim.stream = NULL;
}

static inline void end_answer(claimed_t *claimed, weir_stream_state_t state, weir_reason_t reason, bool is_unknown)
{
    if (claimed->claim.stream != NULL)
        weir_stream_end(claimed->claim.stream, state, (weir_stream_end_t){.reason = reason, .is_unknown = is_unknown});
    let_go(claimed);
}

static inline void commit(weir_store_t *store, claimed_t *claimed, int64_t now_ns)
{
    store->claim_commit(store, &claimed->claim, now_ns);
    end_answer(claimed, WEIR_STREAM_DONE, WEIR_REASON_NONE, false);
}

static inline void forget(weir_store_t *store, claimed_t *claimed, int64_t now_ns)
{
    store->claim_forget(store, &claimed->claim, now_ns);
    end_answer(claimed, WEIR_STREAM_LOST, WEIR_REASON_CONNECT_FAILED, false);
}

static inline void lose(weir_store_t *store, claimed_t *claimed, int64_t now_ns)
{
    store->claim_lose(store, &claimed->claim, now_ns);
    end_answer(claimed, WEIR_STREAM_LOST, WEIR_REASON_RESET, true);
}

/* A whole call of one key. */
static inline weir_store_claim_told_t run_as(weir_store_t *store, weir_store_dedup_t *dedup, uint64_t number,
                                             size_t body_bytes, int64_t now_ns)
{
    claimed_t claimed;
    weir_store_claim_told_t told = claim_as(store, dedup, &claimed, number, 0, now_ns);
    if (told == WEIR_STORE_CLAIM_RUN) {
        write_answer(&claimed, "200", body_bytes, 'a');
        commit(store, &claimed, now_ns);
    }
    let_go(&claimed);
    return told;
}

/* What a duplicate is told; it reads nothing. */
static inline weir_store_claim_told_t ask_as(weir_store_t *store, weir_store_dedup_t *dedup, uint64_t number, int64_t now_ns)
{
    claimed_t claimed;
    weir_store_claim_told_t told = claim_as(store, dedup, &claimed, number, 0, now_ns);
    if (told == WEIR_STORE_CLAIM_RUN)
        store->claim_forget(store, &claimed.claim, now_ns);
    if (told == WEIR_STORE_CLAIM_RUN)
        end_answer(&claimed, WEIR_STREAM_LOST, WEIR_REASON_CONNECT_FAILED, false);
    let_go(&claimed);
    return told;
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

static inline weir_store_dedup_told_t tell_of(weir_store_t *store, const char *name, int64_t now_ns)
{
    weir_store_dedup_told_t told = {.keys = SIZE_MAX};
    assert_true(store->dedup_tell(store, name, now_ns, &told));
    return told;
}

#endif
