#include "page.h"

#include <arpa/inet.h>
#include <assert.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "h1_head.h"

bool weir_page_is_method(h2o_req_t *req, const char *method)
{
    return h2o_memis(req->method.base, req->method.len, method, strlen(method));
}

h2o_iovec_t weir_page_path(h2o_req_t *req, h2o_iovec_t *query)
{
    const char *end = req->path.base + req->path.len, *mark = memchr(req->path.base, '?', req->path.len);
    *query = mark != NULL ? h2o_iovec_init(mark + 1, (size_t)(end - mark) - 1) : h2o_iovec_init("", 0);
    return h2o_iovec_init(req->path.base, (size_t)((mark != NULL ? mark : end) - req->path.base));
}

const char *weir_page_peer(h2o_req_t *req, char text[64])
{
    struct sockaddr_storage address;
    struct sockaddr *sa = (struct sockaddr *)&address;
    const void *bytes = NULL;
    req->conn->callbacks->get_peername(req->conn, sa);
    if (sa->sa_family == AF_INET)
        bytes = &((struct sockaddr_in *)sa)->sin_addr;
    else if (sa->sa_family == AF_INET6)
        bytes = &((struct sockaddr_in6 *)sa)->sin6_addr;
    return bytes != NULL ? inet_ntop(sa->sa_family, bytes, text, 64) : strcpy(text, "unix");
}

char *weir_page_format(h2o_req_t *req, const char *format, ...)
{
    va_list args;
    char *text;
    va_start(args, format);
    int len = vasprintf(&text, format, args);
    va_end(args);
    assert(len >= 0);
    char *kept = h2o_strdup(&req->pool, text, (size_t)len).base;
    free(text);
    return kept;
}

void weir_page_list_add(weir_page_list_t *list, const char *name)
{
    const char *before = list->len != 0 ? ", " : "";
    if (list->is_full)
        return;
    list->is_full = list->len + strlen(before) + strlen(name) > WEIR_PAGE_LIST_BYTES;
    list->len += (size_t)sprintf(list->text + list->len, "%s%s", before, list->is_full ? "..." : name);
}

void weir_page_add_field(h2o_req_t *req, const char *name, const char *value)
{
    h2o_add_header_by_str(&req->pool, &req->res.headers, name, strlen(name), 1, NULL, value, strlen(value));
}

void weir_page_answer(h2o_req_t *req, int status, const char *type, h2o_iovec_t body)
{
    static h2o_generator_t generator = {NULL, NULL};
    req->res.status = status;
    req->res.reason = weir_h1_status_phrase(status);
    req->res.content_length = body.len;
    weir_page_add_field(req, "content-type", type);
    weir_page_add_field(req, "cache-control", "no-store");
    weir_page_add_field(req, "x-content-type-options", "nosniff");
    h2o_start_response(req, &generator);
    bool is_head = weir_page_is_method(req, "HEAD");
    h2o_send(req, is_head ? NULL : &body, is_head ? 0 : 1, H2O_SEND_STATE_FINAL);
}

void weir_page_answer_text(h2o_req_t *req, int status, const char *text)
{
    weir_page_answer(req, status, "text/plain; charset=utf-8", h2o_strdup(&req->pool, text, SIZE_MAX));
}

void weir_page_begin(weir_page_writing_t *writing)
{
    writing->text = NULL;
    writing->file = open_memstream(&writing->text, &writing->len);
    assert(writing->file != NULL);
}

void weir_page_end(weir_page_writing_t *writing)
{
    int failed = fclose(writing->file);
    assert(failed == 0);
}

void weir_page_answer_written(h2o_req_t *req, const char *type, weir_page_writing_t *writing)
{
    weir_page_end(writing);
    h2o_iovec_t body = h2o_strdup(&req->pool, writing->text, writing->len);
    free(writing->text);
    weir_page_answer(req, 200, type, body);
}
