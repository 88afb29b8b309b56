/* Replies, however they are cut: what passes the guard is what the reader takes without an error, without an allocation
 * beyond the bound, and with as many whole replies; where it ends does not depend on the cuts. The first two bytes of the input choose
 * the bound and the cuts. */
#include <assert.h>
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>
#include "../../proxy/redis/reply_guard.h"

typedef struct {
    bool failed;
    size_t passed, replies;
} read_t;

static size_t weigh(const redisReply *reply)
{
    size_t bytes = reply->type == REDIS_REPLY_ARRAY ? reply->elements * WEIR_REPLY_ELEMENT_BYTES : reply->len;
    for (size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; ++i)
        bytes += weigh(reply->element[i]);
    return bytes;
}

static void take_all(redisReader *reader, size_t max, read_t *read)
{
    void *reply;
    for (;;) {
        assert(redisReaderGetReply(reader, &reply) == REDIS_OK);
        if (reply == NULL)
            return;
        assert(weigh(reply) <= max);
        freeReplyObject(reply);
        ++read->replies;
    }
}

/* Pieces of pseudo-random sizes, or with step 0 all at once. */
static read_t read_pieces(const uint8_t *data, size_t size, unsigned step, size_t max)
{
    read_t read = {false, 0, 0};
    uint32_t random = step;
    weir_reply_guard_t guard;
    redisReader *reader = redisReaderCreate();
    weir_reply_guard_init(&guard, max);
    for (size_t at = 0, len; at != size && !read.failed; at += len) {
        size_t passed;
        random = random * 1664525 + 1013904223;
        len = step == 0 ? size : 1 + (random >> 16) % step;
        len = len < size - at ? len : size - at;
        char *piece = malloc(len);
        memcpy(piece, data + at, len);
        read.failed = weir_reply_guard_check(&guard, piece, len, &passed) != NULL;
        assert(read.failed ? passed < len : passed == len);
        assert(redisReaderFeed(reader, piece, passed) == REDIS_OK);
        free(piece);
        take_all(reader, max, &read);
        read.passed += passed;
    }
    redisReaderFree(reader);
    return read;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t max = (size_t)data[0] * 32;
    read_t whole = read_pieces(data + 2, size - 2, 0, max);
    const unsigned steps[] = {1 + data[1], 1};
    for (size_t i = 0; i != 2; ++i) {
        read_t pieces = read_pieces(data + 2, size - 2, steps[i], max);
        assert(pieces.failed == whole.failed && pieces.replies == whole.replies);
        assert(pieces.passed >= whole.passed); /* a piece of the broken one may have passed before */
    }
    return 0;
}
