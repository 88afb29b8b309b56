#ifndef WEIR_PROXY_REDIS_SLOTS_H
#define WEIR_PROXY_REDIS_SLOTS_H

/* Redis Cluster's slots: which one a key is in, and who has which, as CLUSTER SLOTS and errors tell
 * (redis.io: cluster specification). Pure. */

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WEIR_REDIS_SLOTS = 16384,
    WEIR_REDIS_ADDRESS_MAX = 300, /* with the NUL; longer ones are not taken */
};

/* CRC-16/XMODEM of what is between the first { and the } after it, or of the whole key where nothing is. */
uint16_t weir_redis_slot(const char *key, size_t len);

/* host:port or [v6]:port; false when it does not fit, or is none. */
bool weir_redis_join_address(char into[WEIR_REDIS_ADDRESS_MAX], const char *host, int64_t port);
/* The host of such an address, without brackets; of a unix one "localhost". */
void weir_redis_host_of(const char *address, char into[WEIR_REDIS_ADDRESS_MAX]);

/* One range and its master, as CLUSTER SLOTS has them. */
typedef struct {
    uint16_t first, last;
    char address[WEIR_REDIS_ADDRESS_MAX];
} weir_redis_range_t;

/* One entry of the reply. `asked` is the address of who was asked: its host where the entry has none. */
bool weir_redis_read_range(const redisReply *entry, const char *asked, weir_redis_range_t *range);

/* "MOVED 3999 127.0.0.1:6381" or "ASK ...": false when it is none of these. */
typedef struct {
    bool is_ask;
    uint16_t slot;
    char address[WEIR_REDIS_ADDRESS_MAX];
} weir_redis_redirect_t;
bool weir_redis_read_redirect(const char *error, const char *asked, weir_redis_redirect_t *redirect);

#endif
