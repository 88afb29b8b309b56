/* However a chunked body is cut, it gives the same data and ends at the same byte; and as a plain reading of RFC
 * 9112 7.1 says, which looks at the whole of it at once. The first byte of the input chooses the cuts. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../proxy/h1_parse.h"

typedef struct {
    weir_h1_result_t result;
    size_t consumed;
    char *data;
    size_t data_len;
} decoded_t;

static void decode_piece(decoded_t *decoded, weir_h1_chunks_t *chunks, const uint8_t *piece, size_t len)
{
    char *copy = malloc(len);
    memcpy(copy, piece, len);
    for (size_t at = 0; at != len && decoded->result == WEIR_H1_INCOMPLETE;) {
        weir_str_t data;
        size_t used;
        decoded->result = weir_h1_chunks_read(chunks, copy + at, len - at, &data, &used);
        assert(used <= len - at && data.len <= used);
        assert(decoded->result != WEIR_H1_INCOMPLETE ? data.len == 0 : used != 0);
        memcpy(decoded->data + decoded->data_len, data.base, data.len);
        decoded->data_len += data.len;
        decoded->consumed += used;
        at += used;
    }
    free(copy);
}

/* Pieces of pseudo-random sizes, or with step 0 all at once. */
static decoded_t decode(const uint8_t *data, size_t size, unsigned step)
{
    decoded_t decoded = {WEIR_H1_INCOMPLETE, 0, malloc(size + 1), 0};
    weir_h1_chunks_t chunks = {0};
    uint32_t random = step;
    for (size_t at = 0; at != size && decoded.result == WEIR_H1_INCOMPLETE;) {
        random = random * 1664525 + 1013904223;
        size_t len = step == 0 ? size : 1 + (random >> 16) % step;
        len = len < size - at ? len : size - at;
        decode_piece(&decoded, &chunks, data + at, len);
        at += len;
    }
    return decoded;
}

/* The offset after the CRLF of the line at `at`; 0 if there is none, or the line holds a control byte. */
static size_t line_end(const uint8_t *data, size_t size, size_t at)
{
    while (at != size && (data[at] == '\t' || (data[at] >= 0x20 && data[at] != 0x7f)))
        ++at;
    return size - at >= 2 && data[at] == '\r' && data[at + 1] == '\n' ? at + 2 : 0;
}

/* A chunk's size; -1 if its line does not begin with 1 to 15 hex digits and then the CR or, perhaps behind white space,
 * a `;`. */
static int64_t chunk_size(const uint8_t *line)
{
    size_t digits = 0;
    int64_t value = 0;
    for (;; ++digits) {
        const char *digit = line[digits] != 0 ? strchr("0123456789abcdef0123456789ABCDEF", line[digits]) : NULL;
        if (digit == NULL)
            break;
        value = digits < 15 ? value * 16 + (digit - "0123456789abcdef0123456789ABCDEF") % 16 : 0;
    }
    size_t after = digits;
    while (line[after] == ' ' || line[after] == '\t')
        ++after;
    bool is_ended = line[after] == ';' || line[digits] == '\r';
    return digits >= 1 && digits <= 15 && is_ended ? value : -1;
}

static bool is_field(const uint8_t *line)
{
    size_t len = 0;
    while (line[len] > 0x20 && line[len] < 0x7f && strchr("\"(),/:;<=>?@[\\]{}", line[len]) == NULL)
        ++len;
    return len != 0 && line[len] == ':';
}

/* Where the body at `data` ends, its data appended to `out`; 0 if it does not end, or is not valid. */
static size_t decode_plainly(const uint8_t *data, size_t size, char *out, size_t *out_len)
{
    size_t at = 0;
    for (;;) {
        size_t end = line_end(data, size, at);
        int64_t left = end != 0 && end - at <= 4096 ? chunk_size(data + at) : -1;
        if (left < 0)
            return 0;
        at = end;
        if (left == 0)
            break;
        if (size - at < (uint64_t)left + 2 || memcmp(data + at + left, "\r\n", 2) != 0)
            return 0;
        memcpy(out + *out_len, data + at, (size_t)left);
        *out_len += (size_t)left;
        at += (size_t)left + 2;
    }
    for (size_t trailer = at;;) {
        size_t end = line_end(data, size, at);
        if (end == 0 || end - trailer > 8192)
            return 0;
        if (end == at + 2)
            return end;
        if (!is_field(data + at))
            return 0;
        at = end;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    decoded_t whole = decode(data + 1, size - 1, 0);
    const unsigned steps[] = {data[0], 1};
    for (size_t i = 0; i != 2; ++i) {
        decoded_t pieces = decode(data + 1, size - 1, steps[i]);
        assert(pieces.result == whole.result && pieces.consumed == whole.consumed);
        assert(pieces.data_len == whole.data_len && memcmp(pieces.data, whole.data, whole.data_len) == 0);
        free(pieces.data);
    }
    char *out = malloc(size);
    size_t out_len = 0, end = decode_plainly(data + 1, size - 1, out, &out_len);
    assert((whole.result == WEIR_H1_COMPLETE) == (end != 0));
    assert(end == 0 || (end == whole.consumed && out_len == whole.data_len && memcmp(out, whole.data, out_len) == 0));
    free(out);
    free(whole.data);
    return 0;
}
