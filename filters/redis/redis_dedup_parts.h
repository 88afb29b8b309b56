#ifndef WEIR_FILTERS_REDIS_REDIS_DEDUP_PARTS_H
#define WEIR_FILTERS_REDIS_REDIS_DEDUP_PARTS_H

/* What the parts of redis_dedup.h share. One claim is asked, told and let go in redis_claim.c; what runs is renewed and ended in
 * redis_owner.c. */

#include "redis_bloom.h"
#include "redis_dedup.h"

/* Whatever configurations have it, and what runs or is kept of it, has a reference. */
struct weir_redis_dedup {
    char *name;
    bool exact;
    weir_redis_bloom_t bloom; /* where not `exact` */
    _Atomic int64_t window_ns, keep_ns;
    weir_stream_account_t account;
    _Atomic size_t references;
    weir_redis_dedup_t *next; /* under the lock of all dedups */
    size_t handles;           /* the same */
};

/* A dedup as one configuration has it. */
struct weir_store_dedup {
    weir_redis_dedup_t *dedup;
    weir_conf_on_duplicate_t on_duplicate;
    weir_conf_in_flight_t in_flight;
    weir_conf_on_unknown_t on_unknown;
    int64_t lease_ns, max_response_bytes;
};

/*   ASKED --run--> WON --collected--> RUNNING --.
 *     |  ^                                       |--> ENDING --answered--> gone
 *     |  '--- PAUSED                             |    |    ^
 *     |---> TOLD --collected--> gone             |    v    |
 *     '--left--> LEFT --run, or nobody knows ----'    KEPT-'      */
typedef enum {
    WEIR_REDIS_ASKED,
    WEIR_REDIS_PAUSED, /* it asks again, at claim->until_ns */
    WEIR_REDIS_TOLD,
    WEIR_REDIS_WON,
    WEIR_REDIS_LEFT, /* nobody will collect, and the answer is not there yet */
    WEIR_REDIS_RUNNING,
    WEIR_REDIS_ENDING, /* its end is asked, or waits for a renewal to be answered */
    WEIR_REDIS_KEPT,   /* its end is not known to be told: it is sent again */
} weir_redis_claim_state_t;

typedef enum { WEIR_REDIS_FREE, WEIR_REDIS_DONE, WEIR_REDIS_UNKNOWN } weir_redis_end_t;

/* What was asked for one claim, and what runs of it; its worker's alone, but for the runner. */
typedef struct weir_redis_claim {
    weir_redis_dedups_t *dedups;
    weir_redis_dedup_t *dedup; /* a reference */
    weir_store_key_t key;
    uint64_t fingerprint, owner;
    uint64_t answer_bytes_max; /* a larger one is taken for none */
    int64_t lease_ns, leased_ns; /* leased_ns: when the lease was asked for that it has */
    uint8_t state;
    bool may_hold; /* Redis may have told it to run */
    bool is_lost;  /* and has told another one since */
    bool is_forgotten; /* by hand: it goes on, and there is nothing to renew or to end */
    bool is_renewing;
    unsigned holds; /* asks that have not ended */
    weir_redis_runner_t runner;
    /* until it is collected */
    weir_store_claim_t *claim; /* NULL: it was left */
    weir_store_claim_told_t told;
    weir_stream_t *shared; /* SHARE: to be joined; a reference */
    int64_t asked_ns, pause_ns;
    bool has_waited, is_done; /* is_done: what is shared */
    /* while it runs */
    int64_t renewed_ns; /* when the renewal was asked for that has not ended */
    /* at its end */
    weir_redis_end_t end;
    int64_t keep_ns; /* of its answer */
    int64_t ended_ns, next_ns, retry_ns;
    struct weir_redis_claim *next;
} weir_redis_claim_t;

struct weir_redis_claims {
    _Alignas(64) weir_redis_claim_t *first, **last; /* KEPT ones */
    size_t count, free_count;
};

/* --- redis_dedup.c --- */

void weir_redis_dedup_acquire(weir_redis_dedup_t *dedup);
void weir_redis_dedup_release(weir_redis_dedups_t *dedups, weir_redis_dedup_t *dedup);

enum { WEIR_REDIS_NAME_MAX = 256, WEIR_REDIS_OWNER_MAX = 48, WEIR_REDIS_NUMBER_MAX = 24 };

/* The two keys of a dedup key. */
typedef struct {
    char text[2][WEIR_REDIS_NAME_MAX];
    weir_str_t names[2]; /* state, answer */
} weir_redis_names_t;
void weir_redis_names_of(weir_redis_names_t *names, const weir_redis_dedups_t *dedups, const weir_redis_dedup_t *dedup,
                         weir_store_key_t key);
/* Of one that is not `exact`: the bitmaps of even and of odd windows. */
void weir_redis_bitmaps_of(weir_redis_names_t *names, const weir_redis_dedups_t *dedups, const weir_redis_dedup_t *dedup);
weir_str_t weir_redis_owner_text(char text[WEIR_REDIS_OWNER_MAX], const weir_redis_dedups_t *dedups, uint64_t owner);
/* Of this sidecar; 0: it is another one's. */
uint64_t weir_redis_owner_parse(const weir_redis_dedups_t *dedups, weir_str_t text);
weir_str_t weir_redis_number_text(char text[WEIR_REDIS_NUMBER_MAX], uint64_t number);
weir_str_t weir_redis_fingerprint_text(char text[WEIR_REDIS_NUMBER_MAX], uint64_t fingerprint);
/* In milliseconds, rounded up, and 1 at least. */
weir_str_t weir_redis_ms_text(char text[WEIR_REDIS_NUMBER_MAX], int64_t ns);

/* --- redis_claim.c --- */

weir_store_claim_told_t weir_redis_claim_begin(weir_redis_dedups_t *dedups, weir_store_claim_t *claim, int64_t now_ns);
weir_store_claim_told_t weir_redis_claim_collect(weir_redis_claim_t *record, int64_t now_ns);
void weir_redis_claim_abandon(weir_redis_claim_t *record, int64_t now_ns);
/* Once nothing that it has asked is to end. */
void weir_redis_claim_destroy(weir_redis_claim_t *record);

/* --- redis_owner.c --- */

/* Whether the lease lasts until the next renewal. */
bool weir_redis_owner_lasts(const weir_redis_claim_t *record, int64_t now_ns);
bool weir_redis_owner_renew(weir_redis_claim_t *record, int64_t now_ns);
/* keep_ns: of the answer, where it is done. The record is not the caller's any more. */
void weir_redis_owner_end(weir_redis_claim_t *record, weir_redis_end_t end, int64_t keep_ns, int64_t now_ns);
void weir_redis_owners_init(weir_redis_claims_t *worker);
void weir_redis_owners_dispose(weir_redis_claims_t *worker);
void weir_redis_owners_tick(weir_redis_claims_t *worker, int64_t now_ns);

#endif
