#ifndef WEIR_TESTS_SIM_PROVIDERS_H
#define WEIR_TESTS_SIM_PROVIDERS_H

/* Upstreams that fail, in virtual time: weir's own calls (proxy/call.c, proxy/health.c and all that they decide by) run
 * against attempts, timers, workers and callers that are made up here from a seed. What a breaker, a pause or a budget
 * has to say is not known here: judge_health.h knows that, and is told of every word that a call and its upstream's
 * health exchange (the linker wraps these functions).
 *
 * Here is watched what a call makes of it: that it ends once and in time, that a try comes after an outcome that allows
 * it and when its backoff or Retry-After is over, how many there are, that each try is reported once and as what it
 * was; and that in the end nothing is left. One world at a time, one thread; clocks of workers may differ. */

#include "../../proxy/call.h"
#include "../../proxy/health.h"
#include "judge_health.h"
#include "sim.h"

enum { PROVIDERS_MAX = 4, PROVIDERS_WORKERS = 3, MODELS = 3, CREDENTIALS = 3, ASKED_AFTER_MAX = 64 };

typedef enum {
    WEATHER_FINE,
    WEATHER_REFUSING, /* no connection */
    WEATHER_DEAF,     /* connections that do not open */
    WEATHER_SILENT,   /* no first byte */
    WEATHER_SLOW,     /* late first bytes */
    WEATHER_BROWN,    /* a part of the answers fails in every way there is */
    WEATHER_ERRING,   /* 5xx */
    WEATHER_LIMITING, /* 429 and 529 to some models and credentials */
    WEATHER_FLAPPING, /* refusing for half of each second */
    WEATHERS
} weather_t;

typedef struct providers providers_t;

/* One upstream. */
struct weir_upstream {
    providers_t *world;
    size_t index;
    weir_health_t *health;
    judge_health_t *judge;
    weather_t weather;
    int64_t weather_since_ns;
    int fails_percent; /* of BROWN */
    bool limited[MODELS][CREDENTIALS];
    size_t tries; /* that began */
    size_t running, running_most;
    bool forced;
    h2o_timeout_entry_t change;
};

typedef struct {
    int64_t mean_ns;        /* between callers */
    int64_t answer_ns;      /* a usual one's first byte, and its rest: each this on average */
    unsigned leaves_one_in; /* callers leave; 0: never */
    unsigned large_one_in;  /* bodies that are not kept */
    bool is_uneven;         /* in fine weather, too, something fails, lasts long or waits for its caller */
} providers_traffic_t;

struct providers {
    uint64_t seed;
    seeded_t random;
    int64_t now_ns, lag_max_ns;
    unsigned lost_one_in; /* reports of probes that never come; 0: none */
    weir_conf_t *conf;
    weir_snapshot_t snapshot;
    weir_upstream_t *upstreams[PROVIDERS_MAX];
    size_t upstream_count;
    weir_server_t server;
    weir_worker_t *workers[PROVIDERS_WORKERS];
    int64_t worker_ns[PROVIDERS_WORKERS];
    struct caller *acting, *dead;
    judge_health_t *speaking; /* of the upstream whose breaker may change now */
    providers_traffic_t traffic;
    bool is_arriving;
    h2o_timeout_entry_t arrival;
    void (*on_arrival)(providers_t *world); /* before each caller; may be NULL */
    size_t arrived, live, references, bodies, attempts, tries, retries, fallbacks, left, late;
    size_t ends_of_reason[WEIR_REASON_COUNT], ends_of_status[6];
    size_t failures;
    char first_failure[600];
    /* its own */
    struct timer_node **nodes;
    size_t node_count, node_capacity;
    uint64_t sequence;
};

/* Ends the program where the configuration is wrong. */
providers_t *providers_create(uint64_t seed, const char *yaml);
void providers_destroy(providers_t *world);
void providers_run(providers_t *world, int64_t until_ns);
/* Callers come, or do not any more. */
void providers_open(providers_t *world, providers_traffic_t traffic);
void providers_close(providers_t *world);
/* One caller now, for the route's upstream. */
void providers_arrive(providers_t *world);
void providers_set_weather(providers_t *world, size_t upstream, weather_t weather);
/* Nobody comes any more: everything ends, and then nothing may be left. */
void providers_finish(providers_t *world);
void providers_fail(providers_t *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The callback runs on the first worker, `ns` from now. */
void providers_after(providers_t *world, h2o_timeout_entry_t *entry, int64_t ns);

/* A configuration of one to four upstreams, whose first has the others as fallbacks. `is_rough`: every number is
 * likely, up to its bounds; else they are like those that users write. */
void providers_draw(seeded_t *random, bool is_rough, char *yaml, size_t size);

#endif
