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
    put_str(text, target);
}

/* X-Forwarded-For is written anew; the others only where their sender is not believed. */
static bool is_replaced(const weir_request_t *request, weir_str_t name)
{
    if (name.len < 15 || name.base[0] != 'x')
        return false;
    if (weir_str_is(name, WEIR_STR("x-forwarded-for")))
        return true;
    return !request->trusted && (weir_str_is(name, WEIR_STR("x-forwarded-proto")) || weir_str_is(name, WEIR_STR("x-forwarded-host")));
}

static void put_caller_fields(text_t *text, const weir_request_t *request)
{
    weir_hop_t hop;
    hop.count = 0;
    for (size_t i = 0; i < request->field_count; ++i)
        weir_hop_note(&hop, *request->fields[i].name, request->fields[i].value);
    for (size_t i = 0; i < request->field_count; ++i) {
        const weir_field_t *field = &request->fields[i];
        if (weir_request_is_dropped(request, i) || weir_hop_ends(&hop, *field->name) ||
            is_replaced(request, *field->name))
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
    put_caller_fields(&text, request);
    for (size_t i = 0; i < request->up_field_count; ++i)
        if (request->up_fields[i].forward & (source->upstream->forward | WEIR_FORWARD_ALWAYS))
            put_field(&text, request->up_fields[i].name, request->up_fields[i].value);
    if (source->upstream->dialect == WEIR_DIALECT_PLAIN) /* no provider's business */
        put_forwarded(&text, source);
    return h2o_iovec_init(text.base, text.at - text.base);
}
