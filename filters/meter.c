/* What an answer of a language model used: read from the answer as it passes, estimated from bytes where the provider
 * does not say. Limits in llm_tokens settle with it, metrics and the log tell it. */
#include "meter.h"

#include <string.h>

#include "core/usage_scan.h"
#include "fields.h"

enum {
    ERROR_STATUS_MIN = 400,
    TOKENS_MAX = 100000000, /* that one answer is charged: more is a provider's mistake, and would shut its tenant out */
};

typedef struct {
    weir_usage_scan_t *scan; /* NULL: nothing in this answer can be read */
    uint64_t bytes;          /* of the answer's body */
    int status;              /* of the answer; 0: none yet */
    bool is_metered;
} state_t;

static void *meter_create(const weir_conf_t *conf, weir_store_t *store)
{
    return NULL;
}

static void meter_destroy(void *instance)
{
}

static bool has_token_limit(const weir_request_t *request)
{
    const weir_conf_route_t *route = request->route;
    for (size_t i = 0; i < route->limits.size; ++i)
        if (request->conf->limits.entries[route->limits.entries[i]].unit == WEIR_UNIT_LLM_TOKENS)
            return true;
    return false;
}

/* An answer that is compressed could not be read. */
static void ask_for_identity(weir_request_t *request)
{
    weir_fields_drop(request, weir_fields_text("accept-encoding"));
    weir_request_up(request, weir_fields_text("Accept-Encoding"), weir_fields_text("identity"), WEIR_FORWARD_ALWAYS);
}

/* Whether it is told, or asked for, by the model. */
static bool wants_model(const weir_conf_upstream_t *upstream)
{
    return upstream->dialect != WEIR_DIALECT_PLAIN || upstream->models.size != 0 ||
           (upstream->breaker.enabled && upstream->breaker.by_model);
}

static bool has_dialect(const weir_conf_upstream_t *upstream)
{
    return upstream->dialect != WEIR_DIALECT_PLAIN;
}

/* Of the upstreams that it may go to. */
static bool is_any(const weir_request_t *request, bool (*is)(const weir_conf_upstream_t *upstream))
{
    const weir_conf_route_t *route = request->route;
    bool found = is(request->upstream);
    for (size_t i = 0; i < route->fallback.size && !found; ++i)
        found = is(&request->conf->upstreams.entries[route->fallback.entries[i]]);
    return found;
}

/* By the upstream that answers, or is to. One with a dialect is not asked for a model without a body, such as GET
 * /v1/models. */
static bool is_metered(const weir_request_t *request)
{
    if (request->upstream->dialect == WEIR_DIALECT_PLAIN)
        return has_token_limit(request);
    return request->body_bytes != 0;
}

static weir_verdict_t meter_admit(void *instance, weir_request_t *request, void *state_)
{
    if (request->route == NULL)
        return (weir_verdict_t){.kind = WEIR_PASS};
    if (request->body_bytes != 0 && request->picked == NULL && is_any(request, wants_model))
        return (weir_verdict_t){.kind = WEIR_NEED_BODY};
    if (request->body_bytes != 0 && is_any(request, has_dialect))
        ask_for_identity(request);
    return (weir_verdict_t){.kind = WEIR_PASS};
}

static const weir_field_t *find(const weir_answer_t *answer, const char *name)
{
    for (size_t i = 0; i < answer->field_count; ++i)
        if (weir_fields_equal(*answer->fields[i].name, weir_fields_text(name)))
            return &answer->fields[i];
    return NULL;
}

static bool is_compressed(const weir_answer_t *answer)
{
    const weir_field_t *encoding = find(answer, "content-encoding");
    return encoding != NULL && !weir_fields_is_type(encoding->value, "identity");
}

static void meter_head(void *instance, weir_request_t *request, void *state_, weir_answer_t *answer)
{
    state_t *state = state_;
    state->is_metered = !answer->own && request->route != NULL && is_metered(request);
    if (!state->is_metered)
        return;
    state->status = answer->status;
    const weir_field_t *type = find(answer, "content-type");
    weir_conf_dialect_t dialect = request->upstream->dialect;
    if (dialect == WEIR_DIALECT_PLAIN || is_compressed(answer))
        return;
    bool is_events = type != NULL && weir_fields_is_type(type->value, "text/event-stream");
    state->scan = request->alloc(request, sizeof(*state->scan));
    weir_usage_scan_init(state->scan, dialect == WEIR_DIALECT_OPENAI ? WEIR_USAGE_OPENAI : WEIR_USAGE_ANTHROPIC,
                         is_events ? WEIR_USAGE_EVENTS : WEIR_USAGE_JSON);
}

static void meter_tap(void *instance, weir_request_t *request, void *state_, weir_str_t bytes)
{
    state_t *state = state_;
    state->bytes += bytes.len;
    if (state->scan != NULL)
        weir_usage_scan_feed(state->scan, bytes.base, bytes.len);
}

int64_t weir_meter_weigh(const weir_usage_t *usage, const weir_conf_upstream_usage_t *conf)
{
    const __int128 unit = 1000000;
    __int128 sum = (__int128)usage->input * conf->weights.input_micros +
                   (__int128)usage->cached * conf->weights.cached_micros +
                   (__int128)usage->cache_write * conf->weights.cache_write_micros +
                   (__int128)usage->output * conf->weights.output_micros;
    __int128 tokens = (sum + unit - 1) / unit;
    return tokens < TOKENS_MAX ? (int64_t)tokens : TOKENS_MAX;
}

/* What the provider said, and in place of what it did not say, what the bytes come to. */
static weir_usage_t usage_of(const state_t *state, const weir_request_t *request, const weir_outcome_t *outcome)
{
    const weir_conf_upstream_usage_t *conf = &request->upstream->usage;
    weir_usage_counts_t counts = {-1, -1, -1, -1};
    if (state->scan != NULL)
        (void)weir_usage_scan_tell(state->scan, &counts);
    bool is_read = state->scan != NULL && !weir_usage_scan_is_broken(state->scan);
    uint64_t text_bytes = is_read ? weir_usage_scan_text_bytes(state->scan) : state->bytes;
    bool has_no_output = counts.input >= 0 && text_bytes == 0 && outcome->reason == WEIR_REASON_NONE; /* embeddings */
    weir_usage_t usage = {
        .input_is_known = counts.input >= 0,
        .output_is_known = counts.output >= 0 || has_no_output,
        .input = counts.input >= 0 ? counts.input : weir_meter_tokens((uint64_t)outcome->body_bytes, conf),
        .cached = counts.cached > 0 ? counts.cached : 0,
        .cache_write = counts.cache_write > 0 ? counts.cache_write : 0,
        .output = counts.output >= 0 ? counts.output : weir_meter_tokens(text_bytes, conf),
    };
    usage.weighted = weir_meter_weigh(&usage, conf);
    return usage;
}

static void meter_done(void *instance, weir_request_t *request, void *state_, const weir_outcome_t *outcome)
{
    const state_t *state = state_;
    weir_usage_counts_t counts;
    if (state->status == 0)
        return;
    bool is_told = state->scan != NULL && weir_usage_scan_tell(state->scan, &counts);
    if (state->status >= ERROR_STATUS_MIN && !is_told) /* providers do not bill for errors */
        return;
    request->usage = usage_of(state, request, outcome);
    request->has_usage = true;
}

const weir_filter_t weir_filter_meter = {
    .name = "meter",
    .state_size = sizeof(state_t),
    .create = meter_create,
    .destroy = meter_destroy,
    .admit = meter_admit,
    .wake = meter_admit,
    .head = meter_head,
    .tap = meter_tap,
    .done = meter_done,
};
