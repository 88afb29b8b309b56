#ifndef WEIR_FILTERS_CORE_CLAIM_H
#define WEIR_FILTERS_CORE_CLAIM_H

/* What is known of one dedup key, and what may follow what. Pure.
 *
 *              ask: RUN                 commit
 *     FREE ----------------> IN_FLIGHT ----------> DONE ----.
 *      ^  ^                    |  |  |                      | until_ns
 *      |  '----- forget -------'  |  '-- lose: UNKNOWN -----+
 *      |                          |          (or FREE)      |
 *      '--- the lease ended ------'<------------------------'
 *
 * Guarantee: of a key one owner at most is told to go on at a time: `renew`, `commit`, `forget` and `lose` are the
 * owner's alone, and false for whoever is not (his lease ended and another one runs, or it was forgotten by hand). An
 * owner that stops when `renew` is false, or was not asked before its lease ended, never runs beside another one. */

#include <stdbool.h>
#include <stdint.h>

typedef enum { WEIR_CLAIM_FREE, WEIR_CLAIM_IN_FLIGHT, WEIR_CLAIM_DONE, WEIR_CLAIM_UNKNOWN } weir_claim_state_t;

typedef struct {
    uint64_t owner;       /* IN_FLIGHT: whose it is; never 0 */
    uint64_t fingerprint; /* of the request that runs or ran */
    int64_t until_ns;     /* IN_FLIGHT: the end of the lease; DONE, UNKNOWN: until it is forgotten */
    uint8_t state;        /* weir_claim_state_t */
} weir_claim_t;

typedef enum {
    WEIR_CLAIM_RUN,        /* it is the asker's now */
    WEIR_CLAIM_IS_RUNNING, /* somebody else's */
    WEIR_CLAIM_IS_DONE,
    WEIR_CLAIM_IS_UNKNOWN,
    WEIR_CLAIM_IS_OTHER, /* the key was used for another request */
} weir_claim_told_t;

/* What the claim is now, with what time has ended taken into account. */
weir_claim_state_t weir_claim_state(const weir_claim_t *claim, int64_t now_ns);
/* Asks to run. `owner` is never given twice; lease_ns INT64_MAX: it does not end by time. `fingerprint` is compared
 * where `compares`. */
weir_claim_told_t weir_claim_ask(weir_claim_t *claim, uint64_t owner, uint64_t fingerprint, bool compares,
                                 int64_t lease_ns, int64_t now_ns);
/* What it would be told; nothing changes. */
weir_claim_told_t weir_claim_peek(const weir_claim_t *claim, uint64_t fingerprint, bool compares, int64_t now_ns);

/* Each is false, and nothing changes, where the claim is not in flight for this owner any more. */
bool weir_claim_renew(weir_claim_t *claim, uint64_t owner, int64_t lease_ns, int64_t now_ns);
bool weir_claim_commit(weir_claim_t *claim, uint64_t owner, int64_t window_ns, int64_t now_ns);
bool weir_claim_forget(weir_claim_t *claim, uint64_t owner, int64_t now_ns);
/* The request was sent, the answer was lost: `remembers` for the rest of the window, or the next one runs. */
bool weir_claim_lose(weir_claim_t *claim, uint64_t owner, bool remembers, int64_t window_ns, int64_t now_ns);

const char *weir_claim_word(weir_claim_state_t state); /* free, in_flight, done, unknown */

#endif
