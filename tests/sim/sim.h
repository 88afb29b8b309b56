#ifndef WEIR_TESTS_SIM_SIM_H
#define WEIR_TESTS_SIM_SIM_H

/* Filters in virtual time: requests go through the real chain as the proxy would send them, with a clock, workers,
 * callers and an upstream that are made up from a seed. How a limit decides is not known here: judge.h knows that.
 *
 * One thread; the same seed gives the same run, on every machine. Time begins at an hour. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "../unit/seeded.h"
#include "../../filters/filter.h"
#include "../../filters/limit.h"
#include "../../filters/store.h"
#include "answers.h"

#define MS INT64_C(1000000)
#define S INT64_C(1000000000)
#define M (60 * S)
#define H (60 * M)

enum { SIM_WORKERS = 4, SIM_FIELDS_MAX = 6, SIM_ROUTES_MAX = 4, SIM_LIMITS_MAX = 16 };

typedef struct sim sim_t;
typedef struct sim_request sim_request_t;

/* What becomes of a request that was admitted, if its caller stays. */
typedef enum {
    SIM_WHOLE,   /* the upstream's whole answer */
    SIM_NOT_RUN, /* weir refuses it before a call is begun */
    SIM_LOST,    /* a call is begun, no byte of an answer comes */
    SIM_CUT,     /* the answer breaks off */
} sim_end_t;

/* One request, as its caller and its upstream will have it. Texts are the scenario's and live as long as it does. */
typedef struct {
    const char *tenant, *correlation, *priority, *team; /* fields; NULL: not sent */
    const char *client_ip, *model;                      /* model NULL: no JSON */
    size_t route;
    int64_t body_bytes, max_tokens; /* max_tokens < 0: not said */
    bool is_chunked;                /* body_bytes are known only once they came */
    int64_t body_ns;                /* until they came */
    weir_reason_t body_fails;       /* they do not */
    int64_t leaves_ns;              /* after the arrival; < 0: he stays */
    int64_t call_ns, answer_ns;     /* to the first byte, and from there to the last */
    sim_end_t end;
    weir_reason_t reason; /* of an end that is not whole */
    sim_answer_t answer;
    int tag; /* the scenario's */
} sim_call_t;

/* A configuration in force, and the requests that began with it. */
typedef struct {
    weir_conf_t *conf;
    weir_chain_t *chain;
    size_t references;
} sim_snapshot_t;

typedef enum { SIM_BODY, SIM_WAITING, SIM_CALLING, SIM_ANSWERING, SIM_OVER } sim_phase_t;

/* What the observer was told during the latest call into the chain. */
typedef struct {
    bool is_decided[SIM_LIMITS_MAX], is_overflowed[SIM_LIMITS_MAX];
    weir_decision_t decision[SIM_LIMITS_MAX];
    size_t left_queue;
    int64_t waited_ns;
} sim_seen_t;

struct sim_request {
    weir_request_t request; /* first */
    sim_t *sim;
    sim_snapshot_t *snapshot;
    sim_call_t call;
    sim_phase_t phase, ended_in;
    int64_t arrived_ns, decided_ns; /* decided_ns: when it was first asked with all that was needed; -1: not yet */
    int64_t until_ns;               /* of AWAIT */
    int64_t passed_ns;              /* -1: it was not admitted */
    bool is_told;                   /* since it waits */
    bool is_told_inside;            /* during its own call into the chain, of the wait that begins with it */
    unsigned step;                  /* events for an earlier one are stale */
    sim_seen_t seen;
    void *judged; /* the judge's */
    /* its own */
    weir_chain_run_t run;
    weir_field_t fields[SIM_FIELDS_MAX];
    weir_json_picked_t picked;
    struct sim_memory *memory;
    char *bytes; /* of the answer */
    size_t len, at;
};

/* What a scenario wants to know; each may be NULL. */
typedef struct {
    void (*verdict)(sim_t *sim, sim_request_t *request, const weir_verdict_t *verdict);
    void (*told)(sim_t *sim, sim_request_t *request); /* by the store, while `asking` is inside the chain */
    void (*ended)(sim_t *sim, sim_request_t *request, const weir_outcome_t *outcome);
} sim_hooks_t;

struct sim {
    int64_t now_ns;
    uint64_t seed;
    seeded_t random;
    weir_store_t *store;
    sim_snapshot_t *snapshot; /* the one in force */
    sim_hooks_t hooks;
    void *data; /* the scenario's */
    sim_request_t *asking;
    /* news of the store takes a moment, of one length or of several; one in so many is late by up to late_max_ns */
    bool is_orderly;
    unsigned late_one_in, early_one_in; /* 0: never; early: woken without news */
    int64_t late_max_ns;
    int64_t lag_max_ns; /* how far a worker's clock is behind */
    size_t live, arrived, passed, refused, ended;
    /* failures */
    size_t failures;
    char first_failure[600];
    /* its own */
    struct sim_event *events;
    size_t event_count, event_capacity;
    uint64_t event_sequence, generation;
    sim_request_t **slots;
    size_t slot_count, slot_capacity;
    uint32_t *free_slots;
    size_t free_count;
    int64_t worker_ns[SIM_WORKERS];
};

/* ---- a program ---- */

/* --seed N and --rounds N, with these defaults; prints the seed. */
typedef struct {
    uint64_t seed;
    long rounds;
} sim_options_t;
sim_options_t sim_options(int argc, char **argv, uint64_t seed, long rounds);
/* A line for what was tried: `failure` is why it is not ok, or NULL. */
void sim_say(const char *failure, const char *what, const char *figures, ...) __attribute__((format(printf, 3, 4)));
int sim_status(void); /* for main to return */

/* ---- a world ---- */

/* Ends the program where the configuration is wrong. */
sim_t *sim_create(uint64_t seed, const char *yaml, sim_hooks_t hooks, void *data);
void sim_destroy(sim_t *sim);
/* Another configuration from now on; who began under the old one ends under it. */
void sim_reload(sim_t *sim, const char *yaml);

void sim_arrive(sim_t *sim, int64_t at_ns, const sim_call_t *call);
void sim_at(sim_t *sim, int64_t at_ns, void (*run)(sim_t *sim, void *data), void *data);
/* Until nothing more happens, or nothing up to until_ns. */
void sim_run(sim_t *sim, int64_t until_ns);
/* The first of each world is kept, with its time. */
void sim_fail(sim_t *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* What the limits of such a request's route would say now. */
size_t sim_explain(sim_t *sim, const sim_call_t *call, weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX]);
/* Who waits in a limit's queue. */
size_t sim_queue_depth(sim_t *sim, const char *limit);

/* ---- chance ---- */

int64_t sim_below(seeded_t *random, int64_t bound);                 /* 0 .. bound - 1 */
bool sim_one_in(seeded_t *random, int64_t times);                   /* 0: never */
int64_t sim_between(seeded_t *random, int64_t low, int64_t high);   /* low .. high */
int64_t sim_magnitude(seeded_t *random, int64_t low, int64_t high); /* low .. high, each doubling as likely */
int64_t sim_exponential(seeded_t *random, int64_t mean);

#endif
