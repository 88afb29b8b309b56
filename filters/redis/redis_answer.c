#include "redis_answer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

typedef struct {
    uint32_t form;
    uint32_t head_len;
    uint64_t sum; /* of what is behind it */
} preamble_t;

/* A string of Redis, and of its protocol, has 512 MiB at most. */
enum { BYTES_MAX = 511 * 1024 * 1024 };

static const uint32_t FORM = 0x31727761; /* awr1, or 1rwa of a machine with the other byte order */

static uint64_t sum_of(weir_store_key_t key, uint32_t head_len, const char *bytes, size_t len)
{
    return XXH3_64bits_withSeed(bytes, len, key.low ^ key.high ^ head_len);
}

/* --- writing --- */

/* The rest of what the reader stands before; false: it is not all there. */
static bool copy_body(weir_stream_reader_t *reader, char *to, int64_t total)
{
    int64_t copied = 0;
    for (weir_stream_view_t view; copied < total;) {
        size_t shown = 0;
        weir_stream_look(reader, &view);
        for (size_t i = 0; i < view.run_count && (int64_t)view.runs[i].len <= total - copied; ++i) {
            memcpy(to + copied, view.runs[i].base, view.runs[i].len);
            copied += (int64_t)view.runs[i].len;
            shown += view.runs[i].len;
        }
        if (shown == 0)
            return false;
        weir_stream_went_on(reader, shown);
    }
    return true;
}

static weir_str_t encode_read(weir_stream_reader_t *reader, weir_store_key_t key)
{
    weir_stream_view_t view;
    weir_stream_look(reader, &view);
    if (view.head == NULL || view.is_cut || view.total > (int64_t)(BYTES_MAX - view.head_len))
        return (weir_str_t){NULL, 0};
    size_t len = view.head_len + (size_t)view.total;
    char *bytes = malloc(sizeof(preamble_t) + len), *behind = bytes + sizeof(preamble_t);
    assert(bytes != NULL);
    memcpy(behind, view.head, view.head_len);
    if (!copy_body(reader, behind + view.head_len, view.total)) {
        free(bytes);
        return (weir_str_t){NULL, 0};
    }
    preamble_t preamble = {.form = FORM, .head_len = (uint32_t)view.head_len};
    preamble.sum = sum_of(key, preamble.head_len, behind, len);
    memcpy(bytes, &preamble, sizeof(preamble));
    return (weir_str_t){bytes, sizeof(preamble) + len};
}

weir_str_t weir_redis_answer_encode(weir_stream_t *stream, weir_store_key_t key)
{
    weir_stream_reader_t reader;
    if (!weir_stream_join(stream, &reader, (weir_ticket_t){0}))
        return (weir_str_t){NULL, 0};
    weir_str_t bytes = encode_read(&reader, key);
    weir_stream_leave(&reader);
    return bytes;
}

/* --- reading --- */

weir_stream_t *weir_redis_answer_decode(weir_str_t bytes, weir_store_key_t key, weir_stream_account_t *account,
                                        weir_store_teller_t teller)
{
    preamble_t preamble;
    if (bytes.len < sizeof(preamble))
        return NULL;
    memcpy(&preamble, bytes.base, sizeof(preamble));
    const char *head = bytes.base + sizeof(preamble);
    size_t len = bytes.len - sizeof(preamble);
    if (preamble.form != FORM || preamble.head_len > len || preamble.sum != sum_of(key, preamble.head_len, head, len))
        return NULL;
    weir_stream_t *stream = weir_stream_create(account, INT64_MAX, teller);
    weir_stream_begin(stream, head, preamble.head_len);
    weir_stream_append(stream, head + preamble.head_len, len - preamble.head_len);
    weir_stream_end(stream, WEIR_STREAM_DONE, (weir_stream_end_t){.reason = WEIR_REASON_NONE});
    if (weir_stream_is_whole(stream))
        return stream;
    weir_stream_release(stream);
    return NULL;
}
