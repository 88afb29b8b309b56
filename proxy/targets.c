#include "targets.h"

#include <stdlib.h>
#include <strings.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "call_head.h"
#include "hop.h"

/* --- the model --- */

/* A JSON string (RFC 8259, 7), and behind it the text itself. */
static h2o_iovec_t quote(weir_str_t text, weir_str_t *copy)
{
    static const char hex[] = "0123456789abcdef";
    char *base = h2o_mem_alloc(7 * text.len + 2), *at = base;
    *at++ = '"';
    for (size_t i = 0; i < text.len; ++i) {
        unsigned char byte = (unsigned char)text.base[i];
        if (byte == '"' || byte == '\\') {
            *at++ = '\\';
            *at++ = (char)byte;
        } else if (byte < 0x20) {
            at = mempcpy(at, "\\u00", 4);
            *at++ = hex[byte >> 4];
            *at++ = hex[byte & 15];
        } else {
            *at++ = (char)byte;
        }
    }
    *at++ = '"';
    *copy = (weir_str_t){memcpy(at, text.base, text.len), text.len};
    return h2o_iovec_init(base, (size_t)(at - base));
}

/* Splices are in the order of the body. */
static void add_splice(weir_splices_t *splices, weir_splice_t splice)
{
    size_t i = splices->count++;
    for (; i != 0 && splices->entries[i - 1].at > splice.at; --i)
        splices->entries[i] = splices->entries[i - 1];
    splices->entries[i] = splice;
}

static void set_model(weir_call_target_t *target, const weir_conf_upstream_t *upstream, const weir_exchange_t *exchange)
{
    const weir_json_picked_t *picked = exchange->request.picked;
    if (exchange->model.len == 0)
        return;
    const char *name = weir_conf_model_name(upstream, exchange->model.base, exchange->model.len);
    target->model = quote(name != NULL ? (weir_str_t){name, strlen(name)} : exchange->model, &target->name);
    if (name != NULL && picked != NULL)
        add_splice(&target->splices, (weir_splice_t){.at = picked->model_at,
                                                     .removed = picked->model_end - picked->model_at,
                                                     .insert = {target->model.base, target->model.len}});
}

/* --- the credential --- */

/* How much of the line is the name of a field that carries one, with its colon; 0: it is another one. */
static size_t credential_name_len(const char *line, size_t len)
{
    static const weir_str_t names[] = {WEIR_STR("authorization:"), WEIR_STR("x-api-key:"), WEIR_STR("api-key:"),
                                       WEIR_STR("x-goog-api-key:")};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); ++i)
        if (len >= names[i].len && strncasecmp(line, names[i].base, names[i].len) == 0)
            return names[i].len;
    return 0;
}

/* By its value: callers spell the names of fields as they like. */
uint64_t weir_targets_credential(h2o_iovec_t head)
{
    uint64_t hash = 0;
    const char *line = head.base, *end = head.base + head.len;
    while (line != end) {
        const char *next = memchr(line, '\n', (size_t)(end - line));
        next = next != NULL ? next + 1 : end;
        size_t name_len = credential_name_len(line, (size_t)(next - line));
        if (name_len != 0)
            hash = XXH3_64bits_withSeed(line + name_len, (size_t)(next - line) - name_len, hash + 1);
        line = next;
    }
    return hash;
}

/* --- targets --- */

static void make_target(weir_exchange_t *exchange, weir_call_target_t *target, size_t index, bool is_fallback)
{
    weir_request_t *request = &exchange->request;
    h2o_req_t *req = exchange->req;
    const weir_conf_upstream_t *upstream = &request->conf->upstreams.entries[index];
    weir_call_head_source_t source = {.request = request,
                                      .upstream = upstream,
                                      .is_fallback = is_fallback,
                                      .authority = {req->input.authority.base, req->input.authority.len},
                                      .peer = {exchange->peer, exchange->peer_len},
                                      .tls = req->input.scheme == &H2O_URL_SCHEME_HTTPS,
                                      .minor_version = req->version & 0xff,
                                      .wants_tunnel = exchange->request.wants_tunnel};
    *target = (weir_call_target_t){.upstream = index, .head = weir_call_head_compose(&source)};
    target->is_injected = weir_inject_wanted(request, upstream);
    if (target->is_injected)
        weir_inject_splice(request->picked, &target->splices);
    set_model(target, upstream, exchange);
    if (upstream->breaker.enabled && upstream->breaker.throttle.enabled)
        target->credential = weir_targets_credential(target->head);
}

void weir_targets_make(weir_exchange_t *exchange, weir_call_request_t *call)
{
    const weir_conf_route_t *route = exchange->request.route;
    make_target(exchange, &call->first, route->upstream, false);
    call->fallback_count = route->fallback.size;
    if (call->fallback_count == 0)
        return;
    exchange->body->whole = true; /* it may be sent more than once */
    call->fallbacks = h2o_mem_alloc(call->fallback_count * sizeof(*call->fallbacks));
    for (size_t i = 0; i < call->fallback_count; ++i)
        make_target(exchange, &call->fallbacks[i], route->fallback.entries[i], true);
}
