#include "call_head.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "hop.h"

typedef struct {
    char *base, *at, *end;
} text_t;

static void put(text_t *text, const char *bytes, size_t len)
{
    if ((size_t)(text->end - text->at) < len) {
        size_t used = text->at - text->base, capacity = (used + len) * 2;
        text->base = h2o_mem_realloc(text->base, capacity);
        text->at = text->base + used;
        text->end = text->base + capacity;
    }
    memcpy(text->at, bytes, len);
    text->at += len;
}

static void put_str(text_t *text, weir_str_t str)
{
    put(text, str.base, str.len);
}

static void put_field(text_t *text, weir_str_t name, weir_str_t value)
{
    put_str(text, name);
    put(text, ": ", 2);
    put_str(text, value);
    put(text, "\r\n", 2);
}

static bool is_separator(weir_str_t target, size_t at, size_t *len)
{
    *len = 1;
    if (target.base[at] == '/')
        return true;
    *len = 3;
    return target.len - at >= 3 && strncasecmp(target.base + at, "%2f", 3) == 0;
}

static size_t segments_of(const char *path)
{
    size_t segments = 0;
    for (; *path != '\0'; ++path)
        if (path[0] == '/' && path[1] != '/' && path[1] != '\0')
            ++segments;
    return segments;
}

/* What is left of the target when the route's path is cut off: as many segments as that has, however they are spelled. */
static weir_str_t strip(weir_str_t target, const char *route_path)
{
    size_t at = 0, len;
    for (size_t left = segments_of(route_path); left != 0; --left) {
        while (at < target.len && is_separator(target, at, &len))
            at += len;
        while (at < target.len && target.base[at] != '?' && !is_separator(target, at, &len))
            ++at;
    }
    return (weir_str_t){target.base + at, target.len - at};
}

/* --- the query --- */

static int digit_of(char byte)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = byte != '\0' ? strchr(digits, byte | 0x20) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

/* The next byte that a name spells; takes it off its front. */
static int next_byte(weir_str_t *name)
{
    bool is_escape = name->base[0] == '%' && name->len >= 3 && digit_of(name->base[1]) >= 0 && digit_of(name->base[2]) >= 0;
    int byte = is_escape             ? digit_of(name->base[1]) * 16 + digit_of(name->base[2])
               : name->base[0] == '+' ? ' '
                                      : (unsigned char)name->base[0];
    size_t used = is_escape ? 3 : 1;
    *name = (weir_str_t){name->base + used, name->len - used};
    return byte;
}

static bool is_same_name(weir_str_t a, weir_str_t b)
{
    while (a.len != 0 && b.len != 0)
        if (next_byte(&a) != next_byte(&b))
            return false;
    return a.len == b.len;
}

static bool is_called(weir_str_t parameter, const weir_str_t *names, size_t count)
{
    const char *equals = memchr(parameter.base, '=', parameter.len);
    weir_str_t name = {parameter.base, equals != NULL ? (size_t)(equals - parameter.base) : parameter.len};
    for (size_t i = 0; i < count; ++i)
        if (is_same_name(name, names[i]))
            return true;
    return false;
}

static bool is_set_in_query(const weir_conf_upstream_t *upstream, weir_str_t parameter)
{
    for (size_t i = 0; i < upstream->query.set.size; ++i) {
        weir_str_t name = {upstream->query.set.entries[i].name, strlen(upstream->query.set.entries[i].name)};
        if (is_called(parameter, &name, 1))
            return true;
    }
    return false;
}

/* A key of the caller's; with a provider also what of other services may be anything. */
static bool is_key_in_query(const weir_conf_upstream_t *upstream, weir_str_t parameter)
{
    static const weir_str_t keys[] = {WEIR_STR("api_key"), WEIR_STR("api-key"), WEIR_STR("apikey"),
                                      WEIR_STR("access_token"), WEIR_STR("subscription-key"), WEIR_STR("key")};
    size_t count = sizeof(keys) / sizeof(*keys);
    return is_called(parameter, keys, upstream->dialect != WEIR_DIALECT_PLAIN ? count : count - 1);
}

/* The caller's parameters, but for those that are set or not for this upstream, and then these. */
static void put_query(text_t *text, const weir_call_head_source_t *source, weir_str_t query)
{
    const weir_conf_upstream_t *upstream = source->upstream;
    const char *between = "?";
    while (query.len != 0) {
        const char *end = memchr(query.base, '&', query.len);
        weir_str_t parameter = {query.base, end != NULL ? (size_t)(end - query.base) : query.len};
        size_t used = parameter.len + (end != NULL);
        bool is_withheld = source->is_fallback && is_key_in_query(upstream, parameter);
        if (parameter.len != 0 && !is_withheld && !is_set_in_query(upstream, parameter)) {
            put(text, between, 1);
            put_str(text, parameter);
            between = "&";
        }
        query = (weir_str_t){query.base + used, query.len - used};
    }
    for (size_t i = 0; i < upstream->query.set.size; ++i) {
        const weir_conf_pair_t *pair = &upstream->query.set.entries[i];
        put(text, between, 1);
        put(text, pair->name, strlen(pair->name));
        put(text, "=", 1);
        put(text, pair->value, strlen(pair->value));
        between = "&";
    }
}

static void put_path_and_query(text_t *text, const weir_call_head_source_t *source, weir_str_t target)
{
    const char *query = memchr(target.base, '?', target.len);
    size_t path_len = query != NULL ? (size_t)(query - target.base) : target.len;
    if (source->upstream->query.set.size == 0 && (query == NULL || !source->is_fallback)) {
        put_str(text, target);
        return;
    }
    put(text, target.base, path_len);
    put_query(text, source, query != NULL ? (weir_str_t){query + 1, target.len - path_len - 1} : (weir_str_t){"", 0});
}

static void put_target(text_t *text, const weir_call_head_source_t *source)
{
    weir_str_t target = source->request->target;
    const weir_conf_route_t *route = source->request->route;
    put(text, source->upstream->prefix, strlen(source->upstream->prefix));
    if (route->strip_prefix) {
        target = strip(target, route->path);
        if (target.len == 0 || target.base[0] != '/')
            put(text, "/", 1);
    }
    put_path_and_query(text, source, target);
}

/* --- fields --- */

/* X-Forwarded-For is written anew; the others only where their sender is not believed. */
static bool is_replaced(const weir_request_t *request, weir_str_t name)
{
    if (name.len < 15 || name.base[0] != 'x')
        return false;
    if (weir_str_is(name, WEIR_STR("x-forwarded-for")))
        return true;
    return !request->trusted && (weir_str_is(name, WEIR_STR("x-forwarded-proto")) || weir_str_is(name, WEIR_STR("x-forwarded-host")));
}

static bool is_one_of(weir_str_t name, const weir_str_t *names, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (names[i].len == name.len && strncasecmp(names[i].base, name.base, name.len) == 0)
            return true;
    return false;
}

static bool is_key(weir_str_t name)
{
    static const weir_str_t keys[] = {WEIR_STR("authorization"), WEIR_STR("x-api-key"), WEIR_STR("api-key"),
                                      WEIR_STR("x-goog-api-key")};
    return is_one_of(name, keys, sizeof(keys) / sizeof(*keys));
}

/* With whom the caller has an account, and who it is. */
static bool is_account(weir_str_t name)
{
    static const weir_str_t accounts[] = {WEIR_STR("cookie"), WEIR_STR("openai-organization"),
                                          WEIR_STR("openai-project")};
    return is_one_of(name, accounts, sizeof(accounts) / sizeof(*accounts));
}

/* A provider that is given a key gets no other one: SDKs differ in the field that they send theirs in. */
static bool is_given_key(const weir_conf_upstream_t *upstream)
{
    const weir_conf_upstream_headers_t *headers = &upstream->headers;
    bool is_given = false;
    for (size_t i = 0; i < headers->set.size && !is_given; ++i)
        is_given = is_key((weir_str_t){headers->set.entries[i].name, strlen(headers->set.entries[i].name)});
    return is_given && upstream->dialect != WEIR_DIALECT_PLAIN;
}

/* One that a key may come in, by which a tenant is known; another field may have named him this time. */
static bool is_tenants_key(const weir_request_t *request, weir_str_t name)
{
    const weir_conf_tenant_t *tenant = request->listener->tenant;
    for (size_t i = 0; i < tenant->from.size; ++i) {
        weir_str_t header = {tenant->from.entries[i].header, strlen(tenant->from.entries[i].header)};
        if (tenant->from.entries[i].is_api_key && is_one_of(name, &header, 1))
            return true;
    }
    return false;
}

/* Fields that this upstream does not get from the caller. */
static bool is_withheld(const weir_call_head_source_t *source, weir_str_t name)
{
    const weir_conf_upstream_headers_t *headers = &source->upstream->headers;
    for (size_t i = 0; i < headers->set.size; ++i)
        if (strlen(headers->set.entries[i].name) == name.len && strncasecmp(headers->set.entries[i].name, name.base, name.len) == 0)
            return true;
    for (size_t i = 0; i < headers->remove.size; ++i)
        if (strlen(headers->remove.entries[i]) == name.len && strncasecmp(headers->remove.entries[i], name.base, name.len) == 0)
            return true;
    if (is_key(name))
        return source->is_fallback || is_given_key(source->upstream);
    return source->is_fallback && (is_account(name) || is_tenants_key(source->request, name));
}

static void put_set_fields(text_t *text, const weir_conf_upstream_t *upstream)
{
    for (size_t i = 0; i < upstream->headers.set.size; ++i) {
        const weir_conf_pair_t *pair = &upstream->headers.set.entries[i];
        put_field(text, (weir_str_t){pair->name, strlen(pair->name)}, (weir_str_t){pair->value, strlen(pair->value)});
    }
}

/* What the request is known by upstream too: its caller's Connection does not drop it. */
static bool is_dedup_key(const weir_request_t *request, weir_str_t name)
{
    if (request->key_header.len != 0)
        return name.len == request->key_header.len && memcmp(name.base, request->key_header.base, name.len) == 0;
    return request->is_protected && (weir_str_is(name, WEIR_STR("ce-id")) || weir_str_is(name, WEIR_STR("ce-source")));
}

static void put_caller_fields(text_t *text, const weir_call_head_source_t *source)
{
    const weir_request_t *request = source->request;
    weir_hop_t hop;
    hop.count = 0;
    for (size_t i = 0; i < request->field_count; ++i)
        weir_hop_note(&hop, *request->fields[i].name, request->fields[i].value);
    for (size_t i = 0; i < request->field_count; ++i) {
        const weir_field_t *field = &request->fields[i];
        bool is_hop = weir_hop_ends(&hop, *field->name) && !is_dedup_key(request, *field->name);
        if (weir_request_is_dropped(request, i) || is_hop ||
            is_replaced(request, *field->name) || is_withheld(source, *field->name))
            continue;
        weir_str_t name = {field->orig_name != NULL ? field->orig_name : field->name->base, field->name->len};
        put_field(text, name, field->value);
    }
}

static bool is_kept(const weir_request_t *request, weir_str_t name)
{
    size_t index = 0;
    return request->trusted && weir_request_find(request, name, &index) != NULL;
}

/* X-Forwarded-For goes on with the caller's address; one that an untrusted peer sent begins anew. */
static void put_forwarded(text_t *text, const weir_call_head_source_t *source)
{
    const weir_request_t *request = source->request;
    const weir_field_t *field;
    put(text, "X-Forwarded-For: ", 17);
    for (size_t i = 0; request->trusted && (field = weir_request_find(request, WEIR_STR("x-forwarded-for"), &i)) != NULL; ++i) {
        put_str(text, field->value);
        put(text, ", ", 2);
    }
    put_str(text, source->peer);
    put(text, "\r\n", 2);
    if (!is_kept(request, WEIR_STR("x-forwarded-proto")))
        put_field(text, WEIR_STR("X-Forwarded-Proto"), source->tls ? WEIR_STR("https") : WEIR_STR("http"));
    if (source->authority.len != 0 && !is_kept(request, WEIR_STR("x-forwarded-host")))
        put_field(text, WEIR_STR("X-Forwarded-Host"), source->authority);
    put_field(text, WEIR_STR("Via"), source->minor_version == 0 ? WEIR_STR("1.0 weir") : WEIR_STR("1.1 weir"));
}

h2o_iovec_t weir_call_head_compose(const weir_call_head_source_t *source)
{
    enum { USUAL_BYTES = 1024 };
    const weir_request_t *request = source->request;
    text_t text;
    text.base = text.at = h2o_mem_alloc(USUAL_BYTES);
    text.end = text.base + USUAL_BYTES;

    put_str(&text, request->method);
    put(&text, " ", 1);
    put_target(&text, source);
    put(&text, " HTTP/1.1\r\n", 11);
    bool preserve = source->upstream->host == WEIR_HOST_PRESERVE && source->authority.len != 0;
    const char *own = source->upstream->url.authority;
    put_field(&text, WEIR_STR("Host"), preserve ? source->authority : (weir_str_t){own, strlen(own)});
    if (source->wants_tunnel) {
        put_field(&text, WEIR_STR("Connection"), WEIR_STR("Upgrade"));
        put_field(&text, WEIR_STR("Upgrade"), WEIR_STR("websocket"));
    }
    put_caller_fields(&text, source);
    put_set_fields(&text, source->upstream);
    for (size_t i = 0; i < request->up_field_count; ++i)
        if (request->up_fields[i].forward & (source->upstream->forward | WEIR_FORWARD_ALWAYS))
            put_field(&text, request->up_fields[i].name, request->up_fields[i].value);
    if (source->upstream->dialect == WEIR_DIALECT_PLAIN) /* no provider's business */
        put_forwarded(&text, source);
    return h2o_iovec_init(text.base, text.at - text.base);
}
