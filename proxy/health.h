#ifndef WEIR_PROXY_HEALTH_H
#define WEIR_PROXY_HEALTH_H

/* How an upstream is doing: its breakers, who of it is paused, and what is left of its retries. Of the whole process,
 * and lives as long as its weir_upstream_t. Any thread. */

#include "../filters/core/breaker_state.h"
#include "../filters/core/key_table.h"
#include "../filters/core/retry_budget.h"
#include "server.h"

typedef struct weir_health weir_health_t;

weir_health_t *weir_health_create(const char *upstream);
void weir_health_destroy(weir_health_t *health);
/* The models that have a breaker of their own from now on, when `breaker.key` has model, and whether its pauses are the
 * fleet's. Control thread. */
void weir_health_configure(weir_health_t *health, const weir_conf_t *conf, const weir_conf_upstream_t *upstream);

/* Who asks: the model as this upstream calls it, and a hash of the credential it gets. */
typedef struct {
    weir_str_t model;
    uint64_t credential;
} weir_health_asker_t;

/* A try that was admitted, to be reported once; or why it was not. */
typedef struct {
    weir_reason_t reason;   /* NONE: admitted; BREAKER_OPEN or THROTTLED */
    int64_t retry_after_ns; /* of a refusal, else 0 */
    uint64_t number;        /* 0: there is no breaker, nothing is to be reported */
    uint32_t breaker;
    bool is_probe;
} weir_health_pass_t;

weir_health_pass_t weir_health_ask(weir_health_t *health, weir_worker_t *worker, const weir_conf_upstream_t *conf,
                                   const weir_health_asker_t *asker);
/* What it would hear now; without a number. Nothing changes. */
weir_health_pass_t weir_health_look(weir_health_t *health, const weir_conf_upstream_t *conf, const weir_health_asker_t *asker);
/* How long until it would be admitted, as far as anyone knows; 0: now. */
int64_t weir_health_wait_ns(weir_health_t *health, const weir_conf_upstream_t *conf, const weir_health_asker_t *asker);
void weir_health_report(weir_health_t *health, weir_worker_t *worker, const weir_conf_upstream_t *conf,
                        const weir_health_pass_t *pass, weir_breaker_outcome_t outcome, int64_t first_byte_ns);
/* A 429 or 529 came: whoever asks so is refused for `ns`, on all sidecars where its pauses are the fleet's. */
void weir_health_pause(weir_health_t *health, weir_worker_t *worker, const weir_health_asker_t *asker, int64_t ns);

/* What the fleet knows it by (weir_pause_upstream); 0: it does not, pauses are this sidecar's. Control thread, as the two below. */
uint64_t weir_health_shared_as(const weir_health_t *health);
/* Another sidecar's pause, by its key (weir_pause_key), as long as it may be here. */
void weir_health_pause_as_told(weir_health_t *health, weir_worker_t *worker, weir_key_t key, int64_t ms);
/* Ends all pauses here. */
void weir_health_let_go(weir_health_t *health, weir_worker_t *worker);

/* A request's first try here. */
void weir_health_on_request(weir_health_t *health, const weir_conf_upstream_t *conf);
bool weir_health_take_retry(weir_health_t *health, const weir_conf_upstream_t *conf) __attribute__((warn_unused_result));

weir_retry_budget_told_t weir_health_budget(weir_health_t *health, const weir_conf_upstream_t *conf);

/* By hand. But for `open` it ends all pauses, those of the fleet too. Control thread. */
void weir_health_force(weir_health_t *health, weir_worker_t *worker, weir_breaker_force_t force);

/* Each breaker, as it is now. */
typedef struct {
    const char *model; /* "", or __other__, or a name of the configuration */
    const char *word;  /* closed, open, half_open; or paused, while anybody is and it is not open */
    bool is_forced;
    int64_t since_ns, retry_after_ns; /* 0: a try would be admitted */
    uint32_t requests, failures;
} weir_health_state_t;
size_t weir_health_count(weir_health_t *health);
size_t weir_health_shown(weir_health_t *health, const weir_conf_upstream_t *conf); /* those that are used now */
weir_health_state_t weir_health_state(weir_health_t *health, const weir_conf_upstream_t *conf, size_t breaker);

/* Who is paused: in how many ways, of models and credentials, and for how much longer at most. */
typedef struct {
    uint32_t count;
    int64_t longest_ns;
} weir_health_pauses_t;
weir_health_pauses_t weir_health_pauses(weir_health_t *health);

#endif
