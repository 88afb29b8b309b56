/* Names every request: its correlation id under the configured names, and its place in a trace. */

#include "filter.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "core/traceparent.h"
#include "core/uuid7.h"
#include "fields.h"

enum { NAMES_MAX = 9 };

static const weir_str_t TRACEPARENT = {"traceparent", 11}, TRACESTATE = {"tracestate", 10};

typedef struct {
    weir_str_t written, lower;
} name_t;

typedef struct {
    bool accept, traceparent;
    size_t count;
    name_t names[NAMES_MAX]; /* `header`, then each of `also` */
} correlation_t;

/* What is made here, for as long as the request lives. */
typedef struct {
    char id[WEIR_UUID7_LENGTH];
    char traceparent[WEIR_TRACEPARENT_LENGTH];
} state_t;

static void add_name(correlation_t *correlation, const char *name)
{
    assert(correlation->count < NAMES_MAX);
    correlation->names[correlation->count++] = (name_t){weir_fields_text(name), weir_fields_lower(name)};
}

static void *create(const weir_conf_t *conf, weir_store_t *store)
{
    correlation_t *correlation = calloc(1, sizeof(*correlation));
    assert(correlation != NULL);
    correlation->accept = conf->correlation.accept;
    correlation->traceparent = conf->correlation.traceparent;
    add_name(correlation, conf->correlation.header);
    for (size_t i = 0; i < conf->correlation.also.size; ++i)
        add_name(correlation, conf->correlation.also.entries[i]);
    return correlation;
}

static void destroy(void *instance)
{
    correlation_t *correlation = instance;
    for (size_t i = 0; i < correlation->count; ++i)
        free((char *)correlation->names[i].lower.base);
    free(correlation);
}

static bool is_id(weir_str_t value)
{
    return value.len >= 1 && value.len <= WEIR_CORRELATION_ID_MAX && weir_fields_is_made_of(value, "._:/+=@-");
}

/* Takes all fields of the names out of the request. Returns the first id among them that counts, or an empty one. */
static weir_str_t take_id(const correlation_t *correlation, weir_request_t *request)
{
    weir_str_t id = {"", 0};
    for (size_t i = 0; i < correlation->count; ++i) {
        weir_fields_seen_t seen = weir_fields_see(request, correlation->names[i].lower);
        if (seen.count == 0)
            continue;
        weir_fields_drop(request, correlation->names[i].lower);
        if (!correlation->accept)
            continue;
        if (!request->trusted)
            request->identity_ignored = true;
        else if (id.len == 0 && seen.count == 1 && is_id(seen.value))
            id = seen.value;
    }
    return id;
}

static void name_request(const correlation_t *correlation, weir_request_t *request, state_t *state)
{
    request->correlation_id = take_id(correlation, request);
    if (request->correlation_id.len == 0) {
        weir_uuid7_write(state->id, request->wall_ms, request->random);
        request->correlation_is_new = true;
        request->correlation_id = (weir_str_t){state->id, sizeof(state->id)};
    }
    for (size_t i = 0; i < correlation->count; ++i)
        weir_request_up(request, correlation->names[i].written, request->correlation_id, WEIR_FORWARD_CORRELATION);
}

/* Several tracestates are one list (Trace Context, 3.3.1), in their order. */
static weir_str_t join_tracestates(weir_request_t *request)
{
    const weir_field_t *field;
    size_t len = 0, at = 0;
    for (size_t i = 0; (field = weir_request_find(request, TRACESTATE, &i)) != NULL; ++i)
        len += field->value.len + 1;
    char *text = request->alloc(request, len);
    for (size_t i = 0; (field = weir_request_find(request, TRACESTATE, &i)) != NULL; ++i) {
        if (field->value.len == 0)
            continue;
        if (at != 0)
            text[at++] = ',';
        memcpy(text + at, field->value.base, field->value.len);
        at += field->value.len;
    }
    return (weir_str_t){text, at};
}

static void trace_request(weir_request_t *request, state_t *state)
{
    weir_fields_seen_t parent = weir_fields_see(request, TRACEPARENT), others = weir_fields_see(request, TRACESTATE);
    weir_str_t traceparent = parent.value, tracestate = {"", 0};
    if (!request->trusted && parent.count + others.count != 0)
        request->identity_ignored = true;
    if (request->trusted && parent.count == 1 && weir_traceparent_is_valid(traceparent.base, traceparent.len)) {
        tracestate = others.count > 1 ? join_tracestates(request) : others.value;
    } else {
        weir_traceparent_write(state->traceparent, request->random);
        traceparent = (weir_str_t){state->traceparent, sizeof(state->traceparent)};
    }
    weir_fields_drop(request, TRACEPARENT);
    weir_fields_drop(request, TRACESTATE);
    weir_request_up(request, TRACEPARENT, traceparent, WEIR_FORWARD_TRACEPARENT);
    if (tracestate.len != 0)
        weir_request_up(request, TRACESTATE, tracestate, WEIR_FORWARD_TRACEPARENT);
    request->trace_id = (weir_str_t){traceparent.base + WEIR_TRACE_ID_AT, WEIR_TRACE_ID_LENGTH};
}

static weir_verdict_t admit(void *instance, weir_request_t *request, void *state)
{
    const correlation_t *correlation = instance;
    name_request(correlation, request, state);
    if (correlation->traceparent)
        trace_request(request, state);
    return (weir_verdict_t){.kind = WEIR_PASS, .retry_after_ns = -1};
}

static void head(void *instance, weir_request_t *request, void *state, weir_answer_t *answer)
{
    const correlation_t *correlation = instance;
    for (size_t i = 0; i < answer->field_count; ++i)
        if (weir_fields_equal(*answer->fields[i].name, correlation->names[0].lower))
            answer->drop(answer, i);
    answer->add(answer, correlation->names[0].written, request->correlation_id);
}

const weir_filter_t weir_filter_correlation = {
    .name = "correlation",
    .state_size = sizeof(state_t),
    .create = create,
    .destroy = destroy,
    .admit = admit,
    .head = head,
};
