#ifndef WEIR_PROXY_REDIS_H
#define WEIR_PROXY_REDIS_H

/* What is behind filters/redis/remote.h: each worker's links to the Redis server that is to be asked - the one, the master that
 * Sentinels name, or a cluster's masters by slot - scripts by their SHA-1, and whether it is up. */

#include "../../filters/redis/remote.h"
#include "../server.h"

typedef struct weir_redis weir_redis_t;

/* Control thread, before there are workers; NULL with *errors (malloc'ed) when a TLS file cannot be used. */
weir_redis_t *weir_redis_create(weir_server_t *server, const weir_conf_store_redis_t *conf, char **errors);
void weir_redis_destroy(weir_redis_t *redis); /* after all workers closed; NULL: nothing */
weir_remote_t *weir_redis_remote(weir_redis_t *redis);

/* On each worker's thread (control's too): at its start, at the end of each of its turns, and when it has no
 * requests any more, while there is a resolver. NULL redis: nothing. */
void weir_redis_open(weir_redis_t *redis, weir_worker_t *worker);
void weir_redis_flush(weir_redis_t *redis, weir_worker_t *worker);
void weir_redis_close(weir_redis_t *redis, weir_worker_t *worker);
/* An answer is awaited, or something must still be said that cannot be said now: it is not the time to close. */
bool weir_redis_is_busy(weir_redis_t *redis, weir_worker_t *worker);

/* Control's thread, before it is in force: replies may be as large as this configuration's answers. */
void weir_redis_expect(weir_redis_t *redis, const weir_conf_t *conf);

/* Any thread: returns when every worker's link was ready, or after that time. */
void weir_redis_wait(weir_redis_t *redis, int64_t ns);

typedef struct {
    bool is_up;       /* every worker asks it */
    bool is_degraded; /* a worker decides without it */
    const char *mode; /* single, sentinel, cluster */
    char address[300];   /* that was asked last */
    char why[200];       /* it is down; "" */
    int64_t since_ns;    /* it is so; monotonic */
    uint32_t sidecars;
    uint64_t ok, timeout, error; /* commands */
} weir_redis_state_t;
weir_redis_state_t weir_redis_state(weir_redis_t *redis); /* any thread */

#endif
