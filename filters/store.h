#ifndef WEIR_FILTERS_STORE_H
#define WEIR_FILTERS_STORE_H

/* The port to the state that limits and dedup keep: filters ask here, an adapter answers - memory.c in this
 * process at once, another one later with a message to the request's ticket.
 *
 * Guarantee: a decision over several items is all or nothing - either every enforced item is charged, or none is - and
 * no other decision sees it half done. Thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "core/lanes.h"
#include "filter.h"

/* The state of one limit, as a configuration has it: behind it is what all configurations share in which the limit is
 * the same one. It knows whether its configuration's quotas are those in force, which are the ones last acquired. */
typedef struct weir_store_limit weir_store_limit_t;

/* Hash of the key's parts, each with its length before it, so that {a, bc} and {ab, c} differ; see `key` below. */
typedef struct {
    uint64_t low, high;
} weir_store_key_t;

/* A place in a limit's queue: memory of the store, from the decision that queued until the one that found it granted or
 * displaced, or until `leave`. */
typedef struct weir_store_place weir_store_place_t;

/* What an item is decided by when its limit has a queue.
 *
 * Slots of several limits are taken in the order of the items, which is that of the limits in every request: whoever
 * waits for one holds those of the items before it - they are in use - and has nothing of what comes after it, and no
 * rate or tokens. So nobody waits for someone who waits for him, and nobody waits twice in one line. */
typedef struct {
    weir_str_t tenant; /* must live until the place is left */
    weir_lane_t lane;
    /* the store's */
    weir_store_place_t *place; /* NULL: it does not wait */
    bool holds;                /* a slot, while one of the items after it waits */
} weir_store_queueing_t;

/* Where an item was charged. */
typedef enum { WEIR_KEPT_NOWHERE, WEIR_KEPT_MEMORY, WEIR_KEPT_REMOTE } weir_store_kept_t;

typedef enum { WEIR_STORE_FREE, WEIR_STORE_LIMITED, WEIR_STORE_QUEUE_FULL } weir_store_refusal_t;

typedef struct {
    /* asked */
    weir_store_limit_t *limit;
    const weir_conf_quota_t *quota; /* of this key: the limit's own or a tenant's; of the limit's configuration */
    weir_store_key_t key;
    int64_t cost;                    /* in the limit's unit; what is reserved, where the unit is llm_tokens */
    int64_t spent;                   /* for settle: what it came to, in the limit's unit */
    weir_store_queueing_t *queueing; /* NULL: it does not wait for a slot */
    bool shadow; /* decided and charged as if enforced, but never in the way of the others; never queued */
    /* the store's, zero at first */
    uint8_t kept; /* weir_store_kept_t */
    struct weir_store_asked *asked; /* what it has asked elsewhere; of the first item */
    weir_conf_quota_t share; /* that `quota` points to, where this sidecar's part of it is all there is */
    uint64_t id; /* of what was charged there */
    bool leased; /* from a slice that was charged there before */
    /* answered */
    bool admitted;                /* by this limit; charged only if all enforced items were admitted */
    bool overflowed;              /* the table was full: decided in the overflow row */
    weir_store_refusal_t refusal; /* where it was not admitted */
    bool is_unknown;              /* peek: it is kept elsewhere, and was not told */
    int64_t charged_ns;           /* when `cost` was charged; -1: it was not */
    int64_t remaining;            /* after this decision; reservations count as used */
    int64_t reset_ns;             /* until all is there again; -1: never, or nobody knows (slots) */
    int64_t retry_after_ns; /* refused: until `cost` fits if nobody else comes; -1: never; 0 where nobody knows, as
                               others have to end first (slots, reservations), and where it was admitted */
} weir_store_item_t;

/* What a key may have used at once: burst, or limit. */
static inline int64_t weir_store_quota_size(const weir_conf_quota_t *quota)
{
    return quota->burst != 0 ? quota->burst : quota->limit;
}

typedef enum {
    WEIR_STORE_DECIDED,
    WEIR_STORE_PENDING, /* the answer comes from elsewhere */
    WEIR_STORE_QUEUED,  /* nothing was charged; one of the items waits in its limit's queue for a slot */
    WEIR_STORE_DOWN,    /* nothing was charged: it cannot be asked, and a limit is closed then (on_failure) */
} weir_store_answer_t;

/* The state of one dedup, as a configuration has it. */
typedef struct weir_store_dedup weir_store_dedup_t;

typedef enum {
    WEIR_STORE_CLAIM_RUN,       /* it is this request's to run */
    WEIR_STORE_CLAIM_SHARE,     /* the reader has joined the answer that runs, or (is_replay) is kept */
    WEIR_STORE_CLAIM_DUPLICATE, /* it ran; its answer is not for giving, or not kept */
    WEIR_STORE_CLAIM_IN_FLIGHT, /* it runs, and cannot be joined */
    WEIR_STORE_CLAIM_OTHER,     /* the key was used for another request */
    WEIR_STORE_CLAIM_UNKNOWN,   /* it was sent, its answer was lost, and it is not to run again */
    WEIR_STORE_CLAIM_FULL,      /* there is no room for the key */
    WEIR_STORE_CLAIM_DOWN,      /* the store cannot be asked */
    WEIR_STORE_CLAIM_PENDING,   /* the answer comes from elsewhere */
} weir_store_claim_told_t;

typedef struct {
    /* asked */
    weir_store_dedup_t *dedup;
    weir_store_key_t key;
    uint64_t fingerprint;              /* of the request; 0: it is not compared */
    struct weir_stream_reader *reader; /* joins what it is told to share, or to run where that has a stream */
    weir_ticket_t ticket;              /* of the request: told when there is more to read */
    void *asked; /* the store's, zero at first: what it has asked elsewhere, and what of it runs */
    /* answered */
    int64_t until_ns;           /* PENDING: when to collect, if nobody told the ticket before */
    bool is_own;                /* PENDING: it waits for the store, not for what another one runs */
    uint64_t owner;             /* RUN: 0 where nothing is to be ended (`exact` is false) */
    struct weir_stream *stream; /* RUN: to be written, one reference; NULL: nobody will read it */
    bool is_replay;             /* SHARE */
    bool is_false_positive;     /* the Bloom filters took a new key for a seen one; the exact keys knew better */
    const void *noted_in;       /* the store's: which filters know it, and since which of their windows */
    int64_t noted_window;
    size_t forgotten;           /* finished keys that made room for this one */
    int64_t retry_after_ns;     /* IN_FLIGHT: -1 where nobody knows */
} weir_store_claim_t;

/* How a dedup is doing. */
typedef struct {
    size_t keys;
    int64_t answer_bytes;
    double bloom_fill; /* over 1: it is past its size */
    uint64_t lookups;  /* of exact keys, that the Bloom filters asked for */
    uint64_t false_positives;
} weir_store_dedup_told_t;

/* Tells the ticket's owner to come and ask again; called without locks, from any thread. */
typedef struct {
    void (*tell)(void *context, weir_ticket_t ticket);
    void *context;
} weir_store_teller_t;

/* A key near its limit, as it is now. */
typedef struct {
    char name[192]; /* tenant=acme model=gpt-5 */
    int64_t quota, remaining, reset_ns;
} weir_store_closest_t;

enum { WEIR_STORE_CLOSEST_MAX = 20 };

/* What an operator's page asks of a store that keeps it elsewhere. The page is made - peek, reset, claim_peek and dedup_reset are
 * called - and, where something was asked for, made again once it is told. */
typedef struct weir_store_look {
    void (*on_told)(void *context); /* nothing is to come any more; never from within a call of the store */
    void *context;
    bool is_over; /* the asker's: what has not come by now, nobody knows */
    /* the store's */
    size_t waits;    /* answers to come: what those calls tell is not all until then */
    bool has_failed; /* of something that was asked for, nobody knows */
} weir_store_look_t;

struct weir_store {
    bool is_shared; /* other sidecars see what it keeps */
    /* The state of `limit`, kept from an earlier configuration if it has the same name, algorithm, window and key;
     * a changed max_keys resizes it. Its quotas are copied, and in force from now on: buckets fill up at their rates,
     * and those who wait do so by their numbers, also of requests that began before. One reference. */
    weir_store_limit_t *(*limit_acquire)(weir_store_t *store, const weir_conf_limit_t *limit);
    void (*limit_release)(weir_store_t *store, weir_store_limit_t *limit);
    /* It is now_ns at least: before limits change. */
    void (*tell_time)(weir_store_t *store, int64_t now_ns);
    /* The hash of a key's parts, of this store's own kind. */
    weir_store_key_t (*key)(const weir_store_t *store, const void *parts, size_t len);
    /* count <= WEIR_LIMITS_PER_ROUTE_MAX, each limit once, in an order that is the same for all requests. Returns
     * whether all enforced items were admitted in *admitted. PENDING: the items are answered by `collect` after the
     * ticket was told, or after timeout_ns at most. QUEUED: only slots were missing, and it waits for the first of
     * them; the ticket is told when it has it or was displaced, and the same items are decided anew, with the slots
     * that it has, by calling this again - early, and it is QUEUED again and keeps its place - or given up by `leave`.
     * How long it waits is the caller's to say. Refused, it has given back all. */
    weir_store_answer_t (*decide)(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                  weir_ticket_t ticket, bool *admitted);
    /* Gives up the place that one of the items may have in a queue, and all slots that it has. */
    void (*leave)(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns);
    int64_t timeout_ns; /* 0, and no collect, abandon, claim_collect and claim_abandon: never PENDING */
    /* The answer to a PENDING decision; PENDING again where it is not there and timeout_ns are not over. */
    weir_store_answer_t (*collect)(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns,
                                   weir_ticket_t ticket, bool *admitted);
    /* Nobody will collect: the store gives back what it charged, now or when it hears of it. */
    void (*abandon)(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns);
    /* The request is over: gives back what a decision charged (items as they were answered), as if it had not been; or
     * settles it: a slot is given back, a reservation becomes what was spent, and so does `cost` where the unit is
     * request_bytes: what was spent over it is charged too - there or not: what is not there is a debt - and what was
     * not spent is given back. Either, once. */
    void (*refund)(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns);
    void (*settle)(weir_store_t *store, const weir_store_item_t *items, size_t count, int64_t now_ns);
    /* Answers the items as decide would now, each by itself; nothing changes. */
    void (*peek)(weir_store_t *store, weir_store_item_t *items, size_t count, int64_t now_ns);
    /* Forgets what the item's key has used. Slots in use and reservations stay: they end with their requests. False:
     * there is no room for a row of the key, what it has used is among what others have, and all stays as it is. */
    bool (*reset)(weir_store_t *store, const weir_store_item_t *item, int64_t now_ns);

    /* Of a limit by its name (the newest, if two configurations have one): 0 for an unknown one. */
    size_t (*limit_keys)(weir_store_t *store, const char *name); /* rows in use */
    void (*queue_depth)(weir_store_t *store, const char *name, size_t depth[WEIR_LANES]);
    /* A key of the item's limit came close to it: whether its name is wanted, and the name. */
    bool (*wants_name)(weir_store_t *store, const weir_store_item_t *item, unsigned used_permille, int64_t now_ns);
    void (*note_name)(weir_store_t *store, const weir_store_item_t *item, unsigned used_permille, int64_t now_ns,
                      const char *name, size_t len);
    /* The keys with the smallest part of their quota left, the tightest first; since the quotas changed last. */
    size_t (*closest)(weir_store_t *store, const char *name, int64_t now_ns,
                      weir_store_closest_t closest[WEIR_STORE_CLOSEST_MAX]);

    /* The state of `conf`, kept from an earlier configuration if it has the same name and `exact` - if that is false, the same
     * window and Bloom sizes, too; what else changed is in force from now on: a shorter window ends for all keys by then. One
     * reference. */
    weir_store_dedup_t *(*dedup_acquire)(weir_store_t *store, const weir_conf_dedup_t *conf);
    void (*dedup_release)(weir_store_t *store, weir_store_dedup_t *dedup);
    weir_store_claim_told_t (*claim)(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns);
    /* The answer to a PENDING claim; PENDING again while it waits for another sidecar's answer. */
    weir_store_claim_told_t (*claim_collect)(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns);
    /* Nobody will: what it was told to run is free for another one. */
    void (*claim_abandon)(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns);
    /* What `claim` would tell, without a reader; nothing changes. */
    weir_store_claim_told_t (*claim_peek)(weir_store_t *store, weir_store_claim_t *claim, int64_t now_ns);
    /* It still runs: to be called every sixth of `lease`. False: it is another one's now, or will be before the next call, and
     * must stop. */
    bool (*claim_renew)(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns);
    /* The end of what was told to RUN, once: it is done, and its stream may be read again; or it is as if it had not been;
     * or its answer was lost after it was sent. The stream is ended by the caller, after that. */
    void (*claim_commit)(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns);
    void (*claim_forget)(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns);
    void (*claim_lose)(weir_store_t *store, const weir_store_claim_t *claim, int64_t now_ns);
    /* By hand: forgets a finished key; what is in flight goes on, and is not remembered. False: there is none. */
    bool (*dedup_reset)(weir_store_t *store, weir_store_dedup_t *dedup, weir_store_key_t key, int64_t now_ns);
    /* Of a dedup by its name (the newest); false: there is none. */
    bool (*dedup_tell)(weir_store_t *store, const char *name, int64_t now_ns, weir_store_dedup_told_t *told);
    /* Answers that are too old, keys whose time is over: to be called now and then. */
    void (*dedup_tidy)(weir_store_t *store, int64_t now_ns);
    /* NULL: all it keeps is in this process. On one thread, control's: what look_use names is what this thread's calls ask for, up to
     * the next look_use; NULL: they do not ask. */
    weir_store_look_t *(*look_open)(weir_store_t *store, void (*on_told)(void *context), void *context);
    void (*look_use)(weir_store_look_t *look);
    void (*look_close)(weir_store_look_t *look);
    void (*destroy)(weir_store_t *store);
};

/* State in this process. `secret` (64 bytes, drawn at start) keys the hashes; shards are its own business. */
weir_store_t *weir_memory_store_create(const uint8_t secret[64], weir_store_teller_t teller);

/* Bytes that a table of `max_keys` rows of this limit comes to at most, for --check. */
uint64_t weir_memory_store_bytes(const weir_conf_limit_t *limit);

#endif
