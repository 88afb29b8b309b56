#include "exchange_parts.h"

#include <assert.h>
#include <strings.h>
#include <time.h>
#include "h1.h"
#include "h1_head.h"
#include "hop.h"
#include "number.h"
#include "problem.h"

_Static_assert(sizeof(h2o_header_t) == sizeof(weir_field_t) &&
                   offsetof(h2o_header_t, name) == offsetof(weir_field_t, name) &&
                   offsetof(h2o_header_t, orig_name) == offsetof(weir_field_t, orig_name) &&
                   offsetof(h2o_header_t, value) == offsetof(weir_field_t, value),
               "filters see the library's fields without a copy");

/* An answer's head while filters look at it. */
typedef struct {
    weir_answer_t answer; /* first */
    h2o_req_t *req;
    uint64_t dropped[2];
} head_t;

/* The head's fields are in the worker's memory: they are sent before the turn ends. */
static void begin_fields(h2o_req_t *req)
{
    weir_worker_t *worker = weir_worker_of(req->conn->ctx);
    worker->head_name_count = 0;
    req->res.headers.entries = worker->head_fields;
    req->res.headers.size = 0;
    req->res.headers.capacity = WEIR_HEAD_FIELDS_MAX;
}

static void add_field(h2o_req_t *req, weir_str_t name, weir_str_t value)
{
    weir_worker_t *worker = weir_worker_of(req->conn->ctx);
    size_t i = req->res.headers.size++, name_index = worker->head_name_count++;
    assert(i < WEIR_HEAD_FIELDS_MAX && name_index < WEIR_HEAD_FIELDS_MAX);
    h2o_iovec_t *name_iovec = &worker->head_names[name_index]; /* fields may move down; their names do not */
    *name_iovec = h2o_iovec_init(name.base, name.len);
    req->res.headers.entries[i] = (h2o_header_t){.name = name_iovec, .value = h2o_iovec_init(value.base, value.len)};
}

static void add_text(h2o_req_t *req, weir_str_t name, const char *value)
{
    add_field(req, name, (weir_str_t){value, strlen(value)});
}

static void on_add(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
    add_field(((head_t *)answer)->req, name, value);
}

static void on_drop(weir_answer_t *answer, size_t index)
{
    ((head_t *)answer)->dropped[index / 64] |= (uint64_t)1 << index % 64;
}

static void remove_dropped(head_t *head, size_t count)
{
    h2o_headers_t *headers = &head->req->res.headers;
    size_t kept = 0;
    if ((head->dropped[0] | head->dropped[1]) == 0)
        return;
    for (size_t i = 0; i < headers->size; ++i)
        if (i >= count || ((head->dropped[i / 64] >> i % 64) & 1) == 0)
            headers->entries[kept++] = headers->entries[i];
    headers->size = kept;
}

/* Lets the request's chain see the head and add to it. */
static void pass_chain(weir_exchange_t *exchange, bool own)
{
    h2o_req_t *req = exchange->req;
    size_t count = req->res.headers.size;
    head_t head = {.answer = {.status = req->res.status,
                              .fields = (const weir_field_t *)req->res.headers.entries,
                              .field_count = count,
                              .own = own,
                              .add = on_add,
                              .drop = on_drop},
                   .req = req};
    weir_chain_head(exchange->snapshot->chain, &exchange->run, &exchange->request, &head.answer);
    remove_dropped(&head, count);
}

enum { DATE_LEN = 29 };

/* RFC 9110 5.6.7; written anew each second. */
static const char *date_of_now(void)
{
    static __thread char text[32];
    static __thread time_t written;
    time_t now = (time_t)(weir_clock_wall_ms() / 1000);
    if (now != written) {
        struct tm tm;
        gmtime_r(&now, &tm);
        strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        written = now;
    }
    return text;
}

static void add_date(h2o_req_t *req)
{
    add_field(req, WEIR_STR("Date"), (weir_str_t){date_of_now(), DATE_LEN});
}

void weir_answer_from_upstream(weir_exchange_t *exchange, const weir_call_head_t *head)
{
    h2o_req_t *req = exchange->req;
    weir_hop_t hop;
    bool has_date = false, is_replay = exchange->request.dedup_result == WEIR_DEDUP_REPLAYED;

    req->res.status = head->status;
    req->res.reason = weir_h1_status_phrase(head->status);
    if (head->content_length != UINT64_MAX)
        req->res.content_length = head->content_length;
    hop.count = 0;
    for (size_t i = 0; i < head->field_count; ++i)
        weir_hop_note(&hop, head->fields[i].name, head->fields[i].value);
    begin_fields(req);
    for (size_t i = 0; i < head->field_count; ++i) {
        const weir_h1_field_t *field = &head->fields[i];
        if (weir_hop_ends(&hop, field->name) || (is_replay && weir_str_is(field->name, WEIR_STR("date"))))
            continue;
        has_date = has_date || weir_str_is(field->name, WEIR_STR("date"));
        req->res.headers.entries[req->res.headers.size++] =
            (h2o_header_t){.name = (h2o_iovec_t *)&field->name,
                           .orig_name = field->orig_name,
                           .value = h2o_iovec_init(field->value.base, field->value.len)};
    }
    pass_chain(exchange, false);
    if (!has_date)
        add_date(req);
}

static void add_number(h2o_req_t *req, weir_str_t name, int64_t number)
{
    char *text = weir_h1_alloc(req, WEIR_NUMBER_BYTES_MAX);
    add_field(req, name, (weir_str_t){text, weir_number_decimal(text, (uint64_t)number)});
}

/* When to come again: the one place where it is computed. Never early; a wait over a minute is not worth a retry. */
static void add_retry_after(h2o_req_t *req, int64_t wait_ns)
{
    int64_t ms = wait_ns / 1000000 + (wait_ns % 1000000 != 0), s = wait_ns / 1000000000 + (wait_ns % 1000000000 != 0);
    add_number(req, WEIR_STR("Retry-After"), s < 1 ? 1 : s);
    add_number(req, WEIR_STR("retry-after-ms"), ms < 1 ? 1 : ms);
    if (wait_ns > (int64_t)60 * 1000000000)
        add_text(req, WEIR_STR("x-should-retry"), "false");
}

static h2o_iovec_t configured_body(h2o_req_t *req, const char *body)
{
    bool is_json = body[0] == '{' || body[0] == '[';
    if (body[0] == '\0')
        return h2o_iovec_init("", 0);
    add_text(req, WEIR_STR("Content-Type"), is_json ? "application/json" : "text/plain; charset=utf-8");
    return h2o_strdup(&req->pool, body, SIZE_MAX);
}

static weir_str_t verb_of(weir_reason_t reason)
{
    if (reason == WEIR_REASON_QUEUE_FULL)
        return WEIR_STR(" finds no room in the queue of limit ");
    if (reason == WEIR_REASON_QUEUE_TIMEOUT)
        return WEIR_STR(" waited in vain in the queue of limit ");
    return WEIR_STR(" is refused by limit ");
}

/* What a person reads first: whose request, and which limits. */
static const char *detail_of(weir_exchange_t *exchange, const weir_verdict_t *verdict)
{
    weir_str_t subject = WEIR_STR("This request of tenant "), tenant = exchange->request.tenant;
    weir_str_t verb = verb_of(verdict->reason);
    size_t names_len = 0;
    if (verdict->detail != NULL || verdict->violated_count == 0)
        return verdict->detail;
    for (size_t i = 0; i < verdict->violated_count; ++i)
        names_len += strlen(verdict->violated[i]) + 2;
    char *detail = weir_h1_alloc(exchange->req, subject.len + tenant.len + verb.len + names_len + 1), *at = detail;
    at = mempcpy(at, subject.base, subject.len);
    at = mempcpy(at, tenant.base, tenant.len);
    at = mempcpy(at, verb.base, verb.len);
    for (size_t i = 0; i < verdict->violated_count; ++i) {
        at = mempcpy(at, ", ", i != 0 ? 2 : 0);
        at = mempcpy(at, verdict->violated[i], strlen(verdict->violated[i]));
    }
    *at = '\0';
    return detail;
}

static bool has_field(const h2o_req_t *req, weir_str_t name)
{
    for (size_t i = 0; i < req->res.headers.size; ++i) {
        const h2o_iovec_t *other = req->res.headers.entries[i].name;
        if (other->len == name.len && strncasecmp(other->base, name.base, name.len) == 0)
            return true;
    }
    return false;
}

/* Where the provider's SDKs look for it. */
static void add_request_id(weir_exchange_t *exchange)
{
    weir_str_t name = weir_dialect_request_id_name(exchange->dialect);
    if (name.len != 0 && !has_field(exchange->req, name)) /* correlation.header may be that one */
        add_field(exchange->req, name, exchange->request.correlation_id);
}

static h2o_iovec_t problem_body(weir_exchange_t *exchange, const weir_verdict_t *verdict)
{
    weir_problem_t problem = {.reason = verdict->reason,
                              .status = exchange->req->res.status,
                              .detail = detail_of(exchange, verdict),
                              .request_id = exchange->request.correlation_id,
                              .violated = verdict->violated,
                              .violated_count = verdict->violated_count,
                              .dialect = exchange->dialect};
    add_text(exchange->req, WEIR_STR("Content-Type"), weir_problem_type(exchange->dialect));
    return weir_problem_body(&exchange->req->pool, &problem);
}

/* What the route or its upstream say of such an answer. */
typedef struct {
    int status;       /* 0: nothing */
    const char *body; /* NULL: nothing */
} configured_t;

static configured_t configured_for(const weir_exchange_t *exchange, weir_reason_t reason)
{
    const weir_conf_route_t *route = exchange->request.route;
    if (route == NULL)
        return (configured_t){.body = NULL};
    const weir_conf_upstream_t *upstream = &exchange->request.conf->upstreams.entries[route->upstream];
    switch (reason) {
    case WEIR_REASON_LIMIT:
    case WEIR_REASON_QUEUE_FULL:
    case WEIR_REASON_QUEUE_TIMEOUT:
        return (configured_t){(int)route->on_limit.status, route->on_limit.body};
    case WEIR_REASON_BREAKER_OPEN:
    case WEIR_REASON_THROTTLED:
        return (configured_t){(int)upstream->breaker.answer.status, upstream->breaker.answer.body};
    default:
        return (configured_t){.body = NULL};
    }
}

static int status_of(const weir_verdict_t *verdict, const configured_t *configured)
{
    if (configured->status != 0)
        return configured->status;
    return verdict->status != 0 ? verdict->status : weir_reason_status(verdict->reason);
}

h2o_iovec_t weir_answer_own(weir_exchange_t *exchange, const weir_verdict_t *verdict, const char *allow)
{
    h2o_req_t *req = exchange->req;
    configured_t configured = configured_for(exchange, verdict->reason);

    req->res.status = status_of(verdict, &configured);
    req->res.reason = weir_h1_status_phrase(req->res.status);
    begin_fields(req);
    pass_chain(exchange, true);
    add_request_id(exchange);
    add_date(req);
    add_text(req, WEIR_STR("Weir-Reason"), weir_reason_word(verdict->reason));
    if (verdict->retry_after_ns >= 0)
        add_retry_after(req, verdict->retry_after_ns);
    if (allow != NULL)
        add_text(req, WEIR_STR("Allow"), allow);
    if (verdict->reason == WEIR_REASON_API_KEY_UNKNOWN || verdict->reason == WEIR_REASON_TENANT_MISSING)
        add_text(req, WEIR_STR("WWW-Authenticate"), "Bearer");
    const char *text = verdict->body != NULL ? verdict->body : configured.body;
    h2o_iovec_t body = text != NULL ? configured_body(req, text) : problem_body(exchange, verdict);
    req->res.content_length = body.len;
    return body;
}

h2o_iovec_t weir_answer_last_words(weir_exchange_t *exchange, weir_reason_t reason, const char *detail)
{
    bool has_length = exchange->req->res.content_length != SIZE_MAX;
    if (exchange->stream == NULL || has_length)
        return h2o_iovec_init(NULL, 0);
    weir_problem_t problem = {.reason = reason,
                              .status = weir_reason_status(reason),
                              .detail = detail,
                              .request_id = exchange->request.correlation_id};
    return weir_dialect_stream_error(exchange->stream, &exchange->req->pool, problem);
}
