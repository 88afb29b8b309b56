#include "h1_head.h"

#include <string.h>
#include "h1.h"
#include "number.h"

static bool is_framing(weir_str_t name)
{
    static const weir_str_t names[] = {{H2O_STRLIT("host")},
                                       {H2O_STRLIT("expect")},
                                       {H2O_STRLIT("content-length")},
                                       {H2O_STRLIT("transfer-encoding")}};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); ++i)
        if (names[i].len == name.len && memcmp(names[i].base, name.base, name.len) == 0)
            return true;
    return false;
}

/* A run of pool memory that strings are copied into, one behind the other. */
typedef struct {
    char *at;
} copier_t;

static h2o_iovec_t copy(copier_t *copier, const char *base, size_t len)
{
    h2o_iovec_t copied = h2o_iovec_init(copier->at, len);
    memcpy(copier->at, base, len);
    copier->at += len;
    return copied;
}

static size_t bytes_to_copy(const weir_h1_request_t *head)
{
    size_t bytes = head->method.len + head->target.len + head->authority.len + head->upgrade.len;
    for (size_t i = 0; i < head->field_count; ++i)
        bytes += head->fields[i].name.len * 2 + head->fields[i].value.len;
    return bytes;
}

static void take_fields(h2o_req_t *req, const weir_h1_request_t *head, copier_t *copier)
{
    h2o_iovec_t *names = weir_h1_alloc(req, sizeof(*names) * head->field_count);
    req->headers.entries = weir_h1_alloc(req, sizeof(*req->headers.entries) * head->field_count);
    req->headers.capacity = head->field_count;
    for (size_t i = 0; i < head->field_count; ++i) {
        const weir_h1_field_t *field = &head->fields[i];
        if (is_framing(field->name))
            continue;
        h2o_header_t *entry = &req->headers.entries[req->headers.size++];
        names[i] = copy(copier, field->name.base, field->name.len);
        entry->name = &names[i];
        entry->orig_name = copy(copier, field->orig_name, field->name.len).base;
        entry->value = copy(copier, field->value.base, field->value.len);
    }
}

void weir_h1_head_take(h2o_req_t *req, const weir_h1_request_t *head, bool tls)
{
    copier_t copier = {weir_h1_alloc(req, bytes_to_copy(head))};
    req->input.scheme = tls ? &H2O_URL_SCHEME_HTTPS : &H2O_URL_SCHEME_HTTP;
    req->input.method = copy(&copier, head->method.base, head->method.len);
    req->input.path = copy(&copier, head->target.base, head->target.len);
    req->input.authority = copy(&copier, head->authority.base, head->authority.len);
    if (head->upgrade.len != 0)
        req->upgrade = copy(&copier, head->upgrade.base, head->upgrade.len);
    req->version = 0x100 | head->minor_version;
    req->http1_is_persistent = head->keep_alive;
    take_fields(req, head, &copier);
}

const char *weir_h1_status_phrase(int status)
{
    switch (status) {
    case 101: return "Switching Protocols";
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 302: return "Found";
    case 303: return "See Other";
    case 304: return "Not Modified";
    case 307: return "Temporary Redirect";
    case 308: return "Permanent Redirect";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 410: return "Gone";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 502: return "Bad Gateway";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    case 529: return "Overloaded";
    default: return "Unknown";
    }
}

enum { FIXED_BYTES = 256 };

static size_t head_bytes_max(const h2o_req_t *req)
{
    size_t bytes = FIXED_BYTES + strlen(req->res.reason);
    for (size_t i = 0; i < req->res.headers.size; ++i)
        bytes += req->res.headers.entries[i].name->len + req->res.headers.entries[i].value.len + 4;
    return bytes;
}

static char *put(char *at, const char *text, size_t len)
{
    memcpy(at, text, len);
    return at + len;
}

static char *put_length(char *at, size_t length)
{
    at = put(at, H2O_STRLIT("Content-Length: "));
    at += weir_number_decimal(at, length);
    return put(at, H2O_STRLIT("\r\n"));
}

static char *put_fields(char *at, const h2o_headers_t *headers)
{
    for (size_t i = 0; i < headers->size; ++i) {
        const h2o_header_t *field = &headers->entries[i];
        at = put(at, field->orig_name != NULL ? field->orig_name : field->name->base, field->name->len);
        at = put(at, H2O_STRLIT(": "));
        at = put(at, field->value.base, field->value.len);
        at = put(at, H2O_STRLIT("\r\n"));
    }
    return at;
}

h2o_iovec_t weir_h1_head_of(h2o_req_t *req, const weir_h1_answer_framing_t *framing, char *space, size_t capacity)
{
    size_t bytes_max = head_bytes_max(req);
    char *head = bytes_max <= capacity ? space : h2o_mem_alloc_pool(&req->pool, bytes_max), *at = head;

    at = put(at, H2O_STRLIT("HTTP/1.1 "));
    *at++ = (char)('0' + req->res.status / 100);
    *at++ = (char)('0' + req->res.status / 10 % 10);
    *at++ = (char)('0' + req->res.status % 10);
    *at++ = ' ';
    at = put(at, req->res.reason, strlen(req->res.reason));
    at = put(at, H2O_STRLIT("\r\n"));
    at = put_fields(at, &req->res.headers);
    if (framing->chunked)
        at = put(at, H2O_STRLIT("Transfer-Encoding: chunked\r\n"));
    else if (!framing->no_length && req->res.status != 204)
        at = put_length(at, req->res.content_length);
    if (framing->upgrade)
        at = put(at, H2O_STRLIT("Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    else if (!framing->keep_alive)
        at = put(at, H2O_STRLIT("Connection: close\r\n"));
    else if (req->version < 0x101)
        at = put(at, H2O_STRLIT("Connection: keep-alive\r\n"));
    at = put(at, H2O_STRLIT("\r\n"));
    return h2o_iovec_init(head, at - head);
}
