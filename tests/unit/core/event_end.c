/* Streams that came to their end and streams that did not, cut at every byte and with every kind of line end; and where
 * one can be gone on with. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "../seeded.h"
#include "../../../filters/core/event_end.h"

#define DONE WEIR_EVENT_END_DONE
#define RESPONSES WEIR_EVENT_END_RESPONSES
#define MESSAGES WEIR_EVENT_END_MESSAGES

#define CHUNK "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"[DONE]\"}}]}\n\n"
#define DELTA                                   \
    "event: response.output_text.delta\ndata: " \
    "{\"type\":\"response.output_text.delta\",\"delta\":\"message_stop\"}\n\n"
#define BLOCK \
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"message_stop\"}}\n\n"

/* How many of the bytes it takes to see the end, fed in pieces of `step`; 0: it does not come. */
static size_t end_at(weir_event_end_form_t form, const char *stream, size_t len, size_t step)
{
    weir_event_end_t end;
    weir_event_end_init(&end, form);
    for (size_t at = 0; at < len; at += step) {
        size_t count = len - at < step ? len - at : step;
        char *copy = malloc(count); /* just its length, so that a read beyond it is seen */
        memcpy(copy, stream + at, count);
        weir_event_end_feed(&end, copy, count);
        free(copy);
        if (end.has_ended)
            return at + count;
    }
    return 0;
}

/* Cut in two at every byte, the state copied in between, and byte by byte; also with other ends of lines. */
static void try_one(weir_event_end_form_t form, const char *stream, bool ends)
{
    size_t len = strlen(stream);
    for (size_t at = 0; at <= len; ++at) {
        weir_event_end_t first, second;
        weir_event_end_init(&first, form);
        weir_event_end_feed(&first, stream, at);
        second = first;
        memset(&first, 0xa5, sizeof(first));
        weir_event_end_feed(&second, stream + at, len - at);
        if (second.has_ended != ends)
            print_error("cut at %zu: %s", at, stream);
        assert_int_equal(second.has_ended, ends);
    }
    assert_int_equal(end_at(form, stream, len, 1) != 0, ends);
}

static void try_stream(weir_event_end_form_t form, const char *stream, bool ends)
{
    size_t len = strlen(stream), size = 0;
    char *crlf = malloc(2 * len + 1), *cr = malloc(len + 1);
    for (size_t i = 0; i <= len; ++i) {
        if (stream[i] == '\n')
            crlf[size++] = '\r';
        crlf[size++] = stream[i];
        cr[i] = stream[i];
        if (stream[i] == '\n')
            cr[i] = '\r';
    }
    try_one(form, stream, ends);
    try_one(form, crlf, ends);
    try_one(form, cr, ends);
    free(crlf);
    free(cr);
}

static void streams_that_end(void **state)
{
    static const struct {
        weir_event_end_form_t form;
        const char *stream;
    } table[] = {
        {DONE, CHUNK CHUNK "data: [DONE]\n\n"},
        {DONE, CHUNK "data: [DONE]\n"},
        {DONE, CHUNK "data: [DONE]"},
        {DONE, CHUNK "data:[DONE]\n\n"},
        {DONE, "event: done\ndata: [DONE]\n\n"},
        {DONE, "data: [DONE]\n\n" CHUNK},
        {DONE, ": ping\n\n" CHUNK ": ping\nid: 3\ndata: [DONE]\n\n"},
        {RESPONSES,
         DELTA "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"}}\n\n"},
        {RESPONSES, DELTA "data: {\"type\":\"response.incomplete\"}\n"},
        {RESPONSES, DELTA "data: {\"response\":{\"type\":\"x\"},\"type\" : \"response.failed\"}"},
        {RESPONSES, DELTA "data: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"no\"}\n\n"},
        {RESPONSES, "data: {\"type\":\ndata: \"response.completed\"\ndata: }\n\n"},
        {RESPONSES, "data: {\"\\u0074ype\":\"response\\u002ecompleted\"}\n\n"},
        {MESSAGES, BLOCK "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"},
        {MESSAGES, BLOCK "data: {\"type\":\"message_stop\"}\nevent: message_stop\n\n"},
        {MESSAGES, BLOCK "data: {\"type\":\"message_stop\",\"type\":\"ping\"}\n\n"},
        {MESSAGES, BLOCK "data: {\"type\":5,\"type\":\"message_stop\"}\n\n"},
        {MESSAGES,
         BLOCK "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n" BLOCK},
        {MESSAGES, "data: {\n\ndata: {\"type\":\"message_stop\"}\n\n"}, /* an event that is broken spoils no other */
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        try_stream(table[i].form, table[i].stream, true);
}

static void streams_that_do_not(void **state)
{
    static const struct {
        weir_event_end_form_t form;
        const char *stream;
    } table[] = {
        {DONE, ""},
        {DONE, "\n\n"},
        {DONE, CHUNK},
        {DONE, CHUNK "data: [DONE"},
        {DONE, CHUNK "data: [DON\n\n"},
        {DONE, CHUNK "data: {\"x\":\"[DONE]\"}\n\n"},
        {DONE, CHUNK "data:  [DONE]\n\n"},
        {DONE, CHUNK "data: x[DONE]\n\n"},
        {DONE, CHUNK "data: [DO\ndata: NE]\n\n"},
        {DONE, CHUNK "data: x\ndata: [DONE]\n\n"},
        {DONE, CHUNK "data:\ndata: [DONE]\n\n"},
        {DONE, CHUNK ": [DONE]\n\nevent: [DONE]\n\n[DONE]\n\nDATA: [DONE]\n\n"},
        {DONE, "data: {\"error\":{\"message\":\"no\"}}\n\n"},
        {RESPONSES, DELTA},
        {RESPONSES, DELTA "data: [DONE]\n\n"},
        {RESPONSES, DELTA "event: response.completed\ndata: {}\n\n"},
        {RESPONSES, DELTA "event: response.completed\n\n"},
        {RESPONSES, DELTA "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"}"}, /* not whole */
        {RESPONSES, DELTA "data: {\"type\":\"response.completed\",\"response\":{\"id\":\"r\"}\n\n"},
        {RESPONSES, DELTA "data: {\"type\":\"response.completed\",}\n\n"},
        {RESPONSES, DELTA "data: {\"type\":\"response.completed.\"}\n\n"},
        {RESPONSES, DELTA "data: {\"type\":\"message_stop\"}\n\n"},
        {RESPONSES, DELTA "data: {\"type\":null,\"x\":\"response.completed\"}\n\n"},
        {RESPONSES, DELTA "data: {\"type\":[\"response.completed\"]}\n\n"},
        {RESPONSES, DELTA "data: {\"type\":{\"type\":\"response.completed\"}}\n\n"},
        {RESPONSES, DELTA "data: [\"type\",\"response.completed\"]\n\n"},
        {RESPONSES, DELTA "data: \"response.completed\"\n\ndata: 5\n\ndata: error\n\n"},
        {MESSAGES, BLOCK},
        {MESSAGES, BLOCK "event: message_stop\n\n"},
        {MESSAGES, BLOCK "event: ping\ndata: {\"type\":\"ping\"}\n\n"},
        {MESSAGES, BLOCK "data: {\"type\":\"response.completed\"}\n\n"},
        {MESSAGES, BLOCK "data: {\"type\":\"x\",\"type\":\"message_stop\"}\n\n"},
        {MESSAGES, BLOCK "data: {\"type\":\"message_stop\\u0000\"}\n\ndata: {\"type\\u0000\":\"message_stop\"}\n\n"},
        {MESSAGES, BLOCK ": {\"type\":\"message_stop\"}\n\n"},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        try_stream(table[i].form, table[i].stream, false);
}

/* The end is seen with the byte that brings it. */
static void no_later_than_its_last_byte(void **state)
{
    static const struct {
        weir_event_end_form_t form;
        const char *stream;
        size_t behind; /* bytes of it behind the end */
    } table[] = {{DONE, CHUNK "data: [DONE]\n\n", 2},
                 {MESSAGES, BLOCK "data: {\"type\":\"message_stop\" }\n\n", 2},
                 {RESPONSES, DELTA "data: {\"type\":\"response.completed\",\"response\":{}}  \n\n", 4}};
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i) {
        size_t len = strlen(table[i].stream);
        assert_int_equal(end_at(table[i].form, table[i].stream, len, 1), len - table[i].behind);
    }
}

/* A type that stands behind much else, or before it. */
static void long_events(void **state)
{
    enum { LEN = 5000 };
    seeded_t seeded = seeded_start("long events");
    char *stream = malloc(2 * LEN), text[LEN + 1];
    memset(text, 'x', LEN);
    text[LEN] = '\0';
    for (unsigned round = 0; round < 400; ++round) {
        int before = (int)seeded_below(&seeded, LEN), behind = (int)seeded_below(&seeded, LEN - before);
        bool is_last = round % 2 == 0;
        int len = sprintf(stream, "data: {\"a\":\"%.*s\",\"type\":\"%s\",\"b\":[\"%.*s\"]}\n\n", before, text,
                          is_last ? "message_stop" : "message_start", behind, text);
        size_t step = 1 + (size_t)seeded_below(&seeded, 700);
        assert_int_equal(end_at(MESSAGES, stream, (size_t)len, step) != 0, is_last);
    }
    free(stream);
}

static void random_streams(void **state)
{
    static const char *const events[] = {CHUNK,        DELTA, BLOCK, "\r\n", ": ping\r\n", "id: 1\r\ndata: {}\r\n\r\n",
                                         "data: [\n\n"};
    static const char *const ends[] = {[DONE] = "data: [DONE]\n\n",
                                       [RESPONSES] = "data: {\"type\":\"response.completed\"}\n\n",
                                       [MESSAGES] = "data: {\"type\":\"message_stop\"}\n\n"};
    seeded_t seeded = seeded_start("random streams");
    for (unsigned round = 0; round < 3000; ++round) {
        char stream[8192] = "";
        weir_event_end_form_t form = (weir_event_end_form_t)(round % 3);
        size_t count = (size_t)seeded_below(&seeded, 25), at = (size_t)seeded_below(&seeded, 50);
        for (size_t i = 0; i < count; ++i) {
            strcat(stream, events[seeded_below(&seeded, sizeof(events) / sizeof(*events))]);
            if (i == at)
                strcat(stream, ends[form]);
        }
        size_t step = 1 + (size_t)seeded_below(&seeded, 300);
        assert_int_equal(end_at(form, stream, strlen(stream), step) != 0, at < count);
    }
}

static void where_it_can_be_gone_on_with(void **state)
{
    static const struct {
        const char *stream;
        bool is_between;
    } table[] = {
        {"", true},
        {"\n", true},
        {"\r", true},
        {"\r\n", true},
        {"\n\n", true},
        {"\r\n\r\n", true},
        {"data: x\n\n", true},
        {"data: x\r\r", true},
        {"data: x\r\n\r\n", true},
        {"data: x\r\n\n", true},
        {"data: x\n\r\n", true},
        {"data: x\r\r\n", true},
        {"data: x\n\r", true},
        {"data: x\n\n\n", true},
        {"d", false},
        {"data: x", false},
        {"data: x\n", false},
        {"data: x\r", false},
        {"data: x\r\n", false},
        {"data: x\n\nd", false},
        {"data: x\n\ndata: y\r\n", false},
        {"x\r\n", false},
    };
    for (size_t i = 0; i < sizeof(table) / sizeof(*table); ++i)
        for (size_t len = strlen(table[i].stream), at = 0; at <= len; ++at) {
            weir_event_tail_t tail = {.len = 0}, bytes = {.len = 0};
            weir_event_tail_add(&tail, table[i].stream, at);
            weir_event_tail_add(&tail, table[i].stream + at, len - at);
            for (size_t byte = 0; byte < len; ++byte)
                weir_event_tail_add(&bytes, table[i].stream + byte, 1);
            assert_int_equal(weir_event_tail_is_between(&tail), table[i].is_between);
            assert_int_equal(weir_event_tail_is_between(&bytes), table[i].is_between);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_that_end),
        cmocka_unit_test(streams_that_do_not),
        cmocka_unit_test(no_later_than_its_last_byte),
        cmocka_unit_test(long_events),
        cmocka_unit_test(random_streams),
        cmocka_unit_test(where_it_can_be_gone_on_with),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
