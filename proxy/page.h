#ifndef WEIR_PROXY_PAGE_H
#define WEIR_PROXY_PAGE_H

/* How the admin and metrics listeners' pages are answered. What a page is given as text may go after the call. */

#include <h2o.h>
#include <stdbool.h>
#include <stdio.h>
#include "server.h"

static inline weir_server_t *weir_page_server(h2o_req_t *req)
{
    return weir_worker_of(req->conn->ctx)->server;
}

bool weir_page_is_method(h2o_req_t *req, const char *method);

/* The path without its query; *query is what follows the first `?`, empty where there is none. */
h2o_iovec_t weir_page_path(h2o_req_t *req, h2o_iovec_t *query);

/* Who asks: an IP address, or "unix". */
const char *weir_page_peer(h2o_req_t *req, char text[64]);

/* Text that lives as long as the request. */
char *weir_page_format(h2o_req_t *req, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Names for a sentence: `a, b, c`, and `...` in place of those there is no room for. Zeroed at first. */
enum { WEIR_PAGE_LIST_BYTES = 800 };

typedef struct {
    char text[WEIR_PAGE_LIST_BYTES + sizeof(", ...")];
    size_t len;
    bool is_full;
} weir_page_list_t;

void weir_page_list_add(weir_page_list_t *list, const char *name);

/* Name and value live as long as the request. */
void weir_page_add_field(h2o_req_t *req, const char *name, const char *value);

void weir_page_answer(h2o_req_t *req, int status, const char *type, h2o_iovec_t body);
void weir_page_answer_text(h2o_req_t *req, int status, const char *text);

/* A body that is written into a FILE. */
typedef struct {
    FILE *file;
    char *text;
    size_t len;
} weir_page_writing_t;

void weir_page_begin(weir_page_writing_t *writing);
/* Closes the file; `text` is the caller's to free. */
void weir_page_end(weir_page_writing_t *writing);
/* Ends it and answers 200 with it. */
void weir_page_answer_written(h2o_req_t *req, const char *type, weir_page_writing_t *writing);

#endif
