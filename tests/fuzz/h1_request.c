/* However a request's head is cut, it gets the same verdict; and what is accepted, written down anew from what was read
 * of it, reads the same. The first two bytes of the input choose the cuts and head_max. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../proxy/h1_parse.h"

typedef struct {
    char *head, *names;
    weir_h1_result_t result;
    weir_h1_request_t request;
} read_t;

/* Feeds pieces of pseudo-random sizes, or with step 0 all at once; the buffer moves each time, as a real one may. */
static void read_head(read_t *read, const uint8_t *data, size_t size, size_t head_max, unsigned step)
{
    read->head = NULL;
    read->names = malloc(size + 1);
    size_t seen = 0;
    uint32_t random = step;
    do {
        random = random * 1664525 + 1013904223;
        size_t len = step == 0 ? size : seen + 1 + (random >> 16) % step;
        len = len < size ? len : size;
        free(read->head);
        read->head = malloc(len + (len == 0));
        memcpy(read->head, data, len);
        read->result = weir_h1_parse_request(read->head, len, seen, head_max, read->names, &read->request);
        seen = len;
    } while (read->result == WEIR_H1_INCOMPLETE && seen != size);
}

static void dispose(read_t *read)
{
    free(read->head);
    free(read->names);
}

static void assert_same(weir_str_t a, weir_str_t b)
{
    assert(a.len == b.len && memcmp(a.base, b.base, a.len) == 0);
}

static void assert_same_fields(const weir_h1_request_t *a, const weir_h1_request_t *b)
{
    assert(a->field_count == b->field_count);
    for (size_t i = 0; i != a->field_count; ++i) {
        assert_same(a->fields[i].name, b->fields[i].name);
        assert_same(a->fields[i].value, b->fields[i].value);
        assert(memcmp(a->fields[i].orig_name, b->fields[i].orig_name, a->fields[i].name.len) == 0);
    }
}

static void assert_same_verdict(const read_t *a, const read_t *b)
{
    assert(a->result == b->result);
    if (a->result == WEIR_H1_INCOMPLETE)
        return;
    assert(a->request.reason == b->request.reason && a->request.status == b->request.status);
    assert(a->request.detail == b->request.detail && a->request.size == b->request.size);
    assert_same(a->request.method, b->request.method);
    assert_same(a->request.target, b->request.target);
    if (a->result == WEIR_H1_REFUSED) {
        assert(a->request.status >= 400 && a->request.detail != NULL);
        return;
    }
    assert(a->request.framing == b->request.framing && a->request.content_length == b->request.content_length);
    assert(a->request.keep_alive == b->request.keep_alive);
    assert(a->request.expect_continue == b->request.expect_continue);
    assert_same(a->request.authority, b->request.authority);
    assert_same(a->request.upgrade, b->request.upgrade);
    assert_same_fields(&a->request, &b->request);
}

static void write_anew(const weir_h1_request_t *request)
{
    char *text = malloc(request->size + 3 * request->field_count + 64);
    size_t at = (size_t)sprintf(text, "%.*s %.*s HTTP/1.%d\r\n", (int)request->method.len, request->method.base,
                                (int)request->target.len, request->target.base, request->minor_version);
    for (const weir_h1_field_t *field = request->fields; field != request->fields + request->field_count; ++field) {
        memcpy(text + at, field->orig_name, field->name.len);
        at += field->name.len;
        text[at++] = ':';
        memcpy(text + at, field->value.base, field->value.len);
        at += field->value.len;
        memcpy(text + at, "\r\n", 2);
        at += 2;
    }
    memcpy(text + at, "\r\n", 2);
    at += 2;
    read_t again;
    read_head(&again, (const uint8_t *)text, at, at, 0);
    assert(again.result == WEIR_H1_COMPLETE && again.request.size == at);
    assert(again.request.framing == request->framing && again.request.content_length == request->content_length);
    assert(again.request.keep_alive == request->keep_alive);
    assert_same(again.request.target, request->target);
    assert_same_fields(&again.request, request);
    dispose(&again);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    unsigned step = data[0];
    size_t head_max = (data[1] & 1) != 0 ? 32768 : 16 + data[1];
    static read_t whole, pieces, bytes;
    read_head(&whole, data + 2, size - 2, head_max, 0);
    read_head(&pieces, data + 2, size - 2, head_max, step);
    read_head(&bytes, data + 2, size - 2, head_max, 1);
    assert_same_verdict(&whole, &pieces);
    assert_same_verdict(&whole, &bytes);
    if (whole.result == WEIR_H1_COMPLETE) {
        assert(whole.request.size <= size - 2 && whole.request.size <= head_max);
        assert(whole.request.target.base[0] == '/' || whole.request.target.base[0] == '*');
        write_anew(&whole.request);
    }
    dispose(&whole);
    dispose(&pieces);
    dispose(&bytes);
    return 0;
}
