/* However an answer's head is cut, it gets the same verdict. The first two bytes of the input choose the cuts, head_max
 * and whether the request was a HEAD. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../proxy/h1_parse.h"

typedef struct {
    char *head;
    weir_h1_result_t result;
    weir_h1_response_t response;
} read_t;

/* Feeds pieces of pseudo-random sizes, or with step 0 all at once; the buffer moves each time, as a real one may. */
static void read_head(read_t *read, const uint8_t *data, size_t size, size_t head_max, bool head_request, unsigned step)
{
    read->head = NULL;
    size_t seen = 0;
    uint32_t random = step;
    do {
        random = random * 1664525 + 1013904223;
        size_t len = step == 0 ? size : seen + 1 + (random >> 16) % step;
        len = len < size ? len : size;
        free(read->head);
        read->head = malloc(len + (len == 0));
        memcpy(read->head, data, len);
        read->result = weir_h1_parse_response(read->head, len, seen, head_max, head_request, &read->response);
        seen = len;
    } while (read->result == WEIR_H1_INCOMPLETE && seen != size);
}

static void assert_same(weir_str_t a, weir_str_t b)
{
    assert(a.len == b.len && memcmp(a.base, b.base, a.len) == 0);
}

static void assert_same_verdict(const read_t *a, const read_t *b)
{
    assert(a->result == b->result);
    if (a->result == WEIR_H1_REFUSED)
        assert(a->response.detail == b->response.detail && a->response.detail != NULL);
    if (a->result != WEIR_H1_COMPLETE)
        return;
    assert(a->response.status == b->response.status && a->response.minor_version == b->response.minor_version);
    assert(a->response.framing == b->response.framing && a->response.size == b->response.size);
    assert(a->response.content_length == b->response.content_length);
    assert(a->response.keep_alive == b->response.keep_alive);
    assert(a->response.keep_alive_timeout_s == b->response.keep_alive_timeout_s);
    assert(a->response.field_count == b->response.field_count);
    for (size_t i = 0; i != a->response.field_count; ++i) {
        assert_same(a->response.fields[i].name, b->response.fields[i].name);
        assert_same(a->response.fields[i].value, b->response.fields[i].value);
    }
}

static void assert_sound(const weir_h1_response_t *response, bool head_request)
{
    bool never_has_body = head_request || response->status < 200 || response->status == 204 || response->status == 304;
    assert(response->status >= 100 && response->status <= 599);
    assert(never_has_body == (response->framing == WEIR_H1_BODY_NONE));
    assert(response->framing != WEIR_H1_BODY_CLOSE || !response->keep_alive);
    assert(response->framing != WEIR_H1_BODY_CHUNKED || response->minor_version == 1);
    assert(response->framing != WEIR_H1_BODY_LENGTH || response->content_length <= INT64_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    unsigned step = data[0];
    bool head_request = (data[1] & 2) != 0;
    size_t head_max = (data[1] & 1) != 0 ? 65536 : 16 + data[1];
    static read_t whole, pieces, bytes;
    read_head(&whole, data + 2, size - 2, head_max, head_request, 0);
    read_head(&pieces, data + 2, size - 2, head_max, head_request, step);
    read_head(&bytes, data + 2, size - 2, head_max, head_request, 1);
    assert_same_verdict(&whole, &pieces);
    assert_same_verdict(&whole, &bytes);
    if (whole.result == WEIR_H1_COMPLETE) {
        assert(whole.response.size <= size - 2 && whole.response.size <= head_max);
        assert_sound(&whole.response, head_request);
    }
    free(whole.head);
    free(pieces.head);
    free(bytes.head);
    return 0;
}
