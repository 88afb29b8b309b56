#include "slots.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- keys --- */

static uint16_t crc16(const char *bytes, size_t len)
{
    static const uint16_t table[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
                                       0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
    uint16_t crc = 0;
    for (size_t i = 0; i < len; ++i) {
        uint8_t byte = (uint8_t)bytes[i];
        crc = (uint16_t)(crc << 4) ^ table[(crc >> 12 ^ byte >> 4) & 15];
        crc = (uint16_t)(crc << 4) ^ table[(crc >> 12 ^ byte) & 15];
    }
    return crc;
}

uint16_t weir_redis_slot(const char *key, size_t len)
{
    const char *open = memchr(key, '{', len);
    if (open != NULL) {
        const char *tag = open + 1, *close = memchr(tag, '}', len - (size_t)(tag - key));
        if (close != NULL && close != tag)
            return crc16(tag, (size_t)(close - tag)) % WEIR_REDIS_SLOTS;
    }
    return crc16(key, len) % WEIR_REDIS_SLOTS;
}

/* --- addresses --- */

bool weir_redis_join_address(char into[WEIR_REDIS_ADDRESS_MAX], const char *host, int64_t port)
{
    if (*host == '\0' || port < 1 || port > 65535)
        return false;
    const char *form = strchr(host, ':') != NULL ? "[%s]:%d" : "%s:%d";
    return snprintf(into, WEIR_REDIS_ADDRESS_MAX, form, host, (int)port) < WEIR_REDIS_ADDRESS_MAX;
}

void weir_redis_host_of(const char *address, char into[WEIR_REDIS_ADDRESS_MAX])
{
    const char *end = strrchr(address, ':');
    if (strncmp(address, "unix:", 5) == 0 || end == NULL) {
        strcpy(into, "localhost");
        return;
    }
    if (*address == '[' && end[-1] == ']') {
        ++address;
        --end;
    }
    snprintf(into, WEIR_REDIS_ADDRESS_MAX, "%.*s", (int)(end - address), address);
}

static bool join_or_same_host(char into[WEIR_REDIS_ADDRESS_MAX], const char *host, int64_t port, const char *asked)
{
    char same[WEIR_REDIS_ADDRESS_MAX];
    if (host == NULL || *host == '\0' || strcmp(host, "?") == 0) {
        weir_redis_host_of(asked, same);
        host = same;
    }
    return weir_redis_join_address(into, host, port);
}

/* --- CLUSTER SLOTS --- */

static bool is_slot(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0 && reply->integer < WEIR_REDIS_SLOTS;
}

bool weir_redis_read_range(const redisReply *entry, const char *asked, weir_redis_range_t *range)
{
    if (entry->type != REDIS_REPLY_ARRAY || entry->elements < 3 || !is_slot(entry->element[0]) ||
        !is_slot(entry->element[1]))
        return false;
    const redisReply *master = entry->element[2];
    if (master->type != REDIS_REPLY_ARRAY || master->elements < 2 || master->element[1]->type != REDIS_REPLY_INTEGER)
        return false;
    const redisReply *host = master->element[0];
    range->first = (uint16_t)entry->element[0]->integer;
    range->last = (uint16_t)entry->element[1]->integer;
    return range->first <= range->last &&
           join_or_same_host(range->address, host->type == REDIS_REPLY_STRING ? host->str : NULL,
                             master->element[1]->integer, asked);
}

/* --- errors --- */

bool weir_redis_read_redirect(const char *error, const char *asked, weir_redis_redirect_t *redirect)
{
    char host[WEIR_REDIS_ADDRESS_MAX], *end;
    if (strncmp(error, "MOVED ", 6) != 0 && strncmp(error, "ASK ", 4) != 0)
        return false;
    redirect->is_ask = *error == 'A';
    unsigned long slot = strtoul(strchr(error, ' ') + 1, &end, 10);
    if (*end != ' ' || slot >= WEIR_REDIS_SLOTS)
        return false;
    redirect->slot = (uint16_t)slot;
    const char *address = end + 1, *colon = strrchr(address, ':'); /* IPv6 comes without brackets */
    if (colon == NULL || (size_t)(colon - address) >= sizeof(host))
        return false;
    snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
    return join_or_same_host(redirect->address, host, strtol(colon + 1, NULL, 10), asked);
}
