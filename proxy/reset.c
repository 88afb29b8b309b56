#include "reset.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "../filters/limit.h"
#include "../filters/limit_key.h"
#include "admin.h"
#include "json_out.h"
#include "look.h"
#include "page.h"
#include "question.h"

/* What the parts of a key are told by, and an example of each. */
static const struct {
    weir_asked_t asked;
    const char *example;
} tellers[] = {
    [WEIR_KEY_TENANT] = {WEIR_ASKED_TENANT, "acme"},
    [WEIR_KEY_ROUTE] = {WEIR_ASKED_PATH, NULL},
    [WEIR_KEY_MODEL] = {WEIR_ASKED_MODEL, "gpt-5"},
    [WEIR_KEY_CLIENT_IP] = {WEIR_ASKED_CLIENT_IP, "10.0.0.1"},
    [WEIR_KEY_CORRELATION] = {WEIR_ASKED_CORRELATION, "job-4711"},
    [WEIR_KEY_HEADER] = {WEIR_ASKED_COUNT, "value"},
};

static const weir_conf_limit_t *find_limit(h2o_req_t *req)
{
    const weir_conf_t *conf = weir_page_server(req)->snapshot->conf;
    h2o_iovec_t query, path = weir_page_path(req, &query);
    const size_t before = strlen(WEIR_RESET_LIMITS);
    weir_page_list_t names = {0};
    for (size_t i = 0; i != conf->limits.size; ++i) {
        const weir_conf_limit_t *limit = &conf->limits.entries[i];
        if (h2o_memis(path.base + before, path.len - before, limit->name, strlen(limit->name)))
            return limit;
        weir_page_list_add(&names, limit->name);
    }
    weir_admin_refuse(req, WEIR_REASON_NO_ROUTE, 404,
                      names.len != 0 ? weir_page_format(req, "There is no such limit; there are %s.", names.text)
                                     : "There is no limit.");
    return NULL;
}

/* -- what is missing, and what is too much ------------------------------------------------------------------------ */

static bool has_part(const weir_question_t *question, const weir_conf_key_part_t *part)
{
    if (part->kind == WEIR_KEY_HEADER)
        return weir_question_has_header(question, part->header);
    return weir_question_has(question, tellers[part->kind].asked);
}

/* As the key of the limit has it. */
static const char *name_part(h2o_req_t *req, const weir_conf_key_part_t *part)
{
    if (part->kind == WEIR_KEY_HEADER)
        return weir_page_format(req, "header.%s", part->header);
    return part->kind == WEIR_KEY_ROUTE ? "route" : weir_asked_name(tellers[part->kind].asked);
}

/* The first parameter that the limit's key needs and is not there; NULL: none is. */
static const char *find_missing(const weir_question_t *question, const weir_conf_limit_t *limit)
{
    for (size_t i = 0; i != limit->key.size; ++i) {
        const weir_conf_key_part_t *part = &limit->key.entries[i];
        bool is_route = part->kind == WEIR_KEY_ROUTE, needs_listener = question->request.conf->listeners.size != 1;
        if (is_route && needs_listener && !weir_question_has(question, WEIR_ASKED_LISTENER))
            return weir_asked_name(WEIR_ASKED_LISTENER);
        if (!has_part(question, part))
            return is_route ? weir_asked_name(WEIR_ASKED_PATH) : name_part(question->req, part);
    }
    return NULL;
}

static bool has_limit(const weir_conf_route_t *route, size_t limit)
{
    for (size_t i = 0; i != route->limits.size; ++i)
        if (route->limits.entries[i] == limit)
            return true;
    return false;
}

/* The first route that has the limit; NULL where none has. */
static const weir_conf_route_t *find_some_route(const weir_conf_t *conf, const weir_conf_limit_t *limit,
                                                const weir_conf_listener_t **listener)
{
    for (size_t i = 0; i != conf->listeners.size; ++i) {
        *listener = &conf->listeners.entries[i];
        for (size_t j = 0; j != (*listener)->routes.size; ++j)
            if (has_limit(&(*listener)->routes.entries[j], (size_t)(limit - conf->limits.entries)))
                return &(*listener)->routes.entries[j];
    }
    return NULL;
}

static void write_parameter(FILE *file, char before, const char *name, const char *value)
{
    fprintf(file, "%c%s=", before, name);
    for (; *value != '\0'; ++value)
        if (isalnum((unsigned char)*value) || strchr("-._~/:", *value) != NULL)
            putc(*value, file);
        else
            fprintf(file, "%%%02X", (unsigned char)*value);
}

static void write_route(FILE *file, char before, const weir_conf_t *conf, const weir_conf_limit_t *limit)
{
    const weir_conf_listener_t *listener;
    const weir_conf_route_t *route = find_some_route(conf, limit, &listener);
    if (route == NULL)
        return;
    write_parameter(file, before, "listener", listener->name);
    write_parameter(file, '&', "path", route->path);
    if (route->methods.size != 0)
        write_parameter(file, '&', "method", route->methods.entries[0]);
    if (route->host != NULL)
        write_parameter(file, '&', "host", route->host);
}

static void write_example(FILE *file, const weir_conf_t *conf, const weir_conf_limit_t *limit)
{
    fprintf(file, "DELETE %s%s", WEIR_RESET_LIMITS, limit->name);
    for (size_t i = 0; i != limit->key.size; ++i) {
        const weir_conf_key_part_t *part = &limit->key.entries[i];
        char before = i == 0 ? '?' : '&';
        if (part->kind == WEIR_KEY_ROUTE) {
            write_route(file, before, conf, limit);
        } else if (part->kind == WEIR_KEY_HEADER) {
            fprintf(file, "%cheader.%s=%s", before, part->header, tellers[part->kind].example);
        } else {
            write_parameter(file, before, weir_asked_name(tellers[part->kind].asked), tellers[part->kind].example);
        }
    }
}

static weir_page_list_t list_parts(h2o_req_t *req, const weir_conf_limit_t *limit)
{
    weir_page_list_t parts = {0};
    for (size_t i = 0; i != limit->key.size; ++i)
        weir_page_list_add(&parts, name_part(req, &limit->key.entries[i]));
    return parts;
}

static void refuse_missing(h2o_req_t *req, const weir_conf_limit_t *limit, const char *missing)
{
    weir_page_writing_t example;
    weir_page_list_t parts = list_parts(req, limit);
    weir_page_begin(&example);
    write_example(example.file, weir_page_server(req)->snapshot->conf, limit);
    weir_page_end(&example);
    const char *detail = weir_page_format(req, "The parameter %s is missing; limit %s counts by %.400s. Such as %.600s",
                                          missing, limit->name, parts.text, example.text);
    free(example.text);
    weir_admin_refuse(req, WEIR_REASON_MALFORMED, 400, detail);
}

static bool counts_by_header(const weir_conf_limit_t *limit, const char *name)
{
    for (size_t i = 0; i != limit->key.size; ++i)
        if (limit->key.entries[i].kind == WEIR_KEY_HEADER && strcasecmp(limit->key.entries[i].header, name) == 0)
            return true;
    return false;
}

/* Whether the parameter tells a part of the limit's key; of a route several do. */
static bool is_of_key(const weir_conf_limit_t *limit, weir_asked_t asked)
{
    bool is_of_route = asked == WEIR_ASKED_LISTENER || asked == WEIR_ASKED_METHOD || asked == WEIR_ASKED_HOST;
    if (is_of_route)
        return weir_limit_key_counts_by(limit, WEIR_KEY_ROUTE);
    for (size_t i = 0; i != limit->key.size; ++i)
        if (tellers[limit->key.entries[i].kind].asked == asked)
            return true;
    return false;
}

/* The parameters that tell nothing of the limit's key: who gives one means another limit, or another key. */
static weir_page_list_t list_strays(const weir_question_t *question, const weir_conf_limit_t *limit)
{
    weir_page_list_t strays = {0};
    for (weir_asked_t asked = 0; asked != WEIR_ASKED_COUNT; ++asked)
        if (weir_question_has(question, asked) && !is_of_key(limit, asked))
            weir_page_list_add(&strays, question->called[asked]);
    for (size_t i = 0; i != question->header_count; ++i)
        if (!counts_by_header(limit, question->headers[i]))
            weir_page_list_add(&strays, weir_page_format(question->req, "header.%s", question->headers[i]));
    return strays;
}

static void refuse_strays(h2o_req_t *req, const weir_conf_limit_t *limit, const char *strays)
{
    weir_page_list_t parts = list_parts(req, limit);
    weir_admin_refuse(req, WEIR_REASON_MALFORMED, 400,
                      weir_page_format(req, "Limit %s does not count by %.400s; it counts by %.400s.", limit->name,
                                       strays, parts.len != 0 ? parts.text : "nothing, and is one for all"));
}

/* -- the key ------------------------------------------------------------------------------------------------------ */

/* What is wrong with the route that was found; NULL: nothing. */
static const char *check_route(const weir_question_t *question, const weir_router_match_t *match,
                               const weir_conf_limit_t *limit)
{
    size_t index = (size_t)(limit - question->request.conf->limits.entries);
    if (match->allow != NULL)
        return weir_page_format(question->req, "The route takes other methods: say method=, one of %.400s.",
                                match->allow);
    if (match->route == NULL)
        return "No route matches this path.";
    return has_limit(match->route, index) ? NULL : "The route of this path does not have this limit.";
}

/* Sets the listener and, where the limit counts by it, the route. False: there is none, and that was answered. */
static bool find_route(weir_question_t *question, const weir_conf_limit_t *limit)
{
    find_some_route(question->request.conf, limit, &question->request.listener);
    if (!weir_limit_key_counts_by(limit, WEIR_KEY_ROUTE))
        return true;
    if (!weir_question_listen(question))
        return false;
    weir_router_match_t match = weir_question_route(question);
    const char *detail = check_route(question, &match, limit);
    if (detail != NULL)
        weir_admin_refuse(question->req, WEIR_REASON_MALFORMED, 400, detail);
    return detail == NULL;
}

/* As /status and /explain name it. */
static void name_key(const weir_question_t *question, const weir_conf_limit_t *limit,
                     char name[WEIR_LIMIT_KEY_NAME_MAX])
{
    weir_limit_key_t key;
    weir_limit_key_init(&key, limit, question->request.listener);
    weir_limit_key_name(&key, weir_page_server(question->req)->store, &question->request, name);
    weir_limit_key_dispose(&key);
}

static void refuse_shared(h2o_req_t *req, const weir_conf_limit_t *limit)
{
    weir_admin_refuse(req, WEIR_REASON_UNSUPPORTED, 409,
                      weir_page_format(req,
                                       "The key has no row of its own: the table is full, and it shares one bucket "
                                       "with others; raise limits.%s.max_keys.",
                                       limit->name));
}

static void answer_reset(weir_question_t *question, const weir_conf_limit_t *limit)
{
    h2o_req_t *req = question->req;
    char peer[64], key[WEIR_LIMIT_KEY_NAME_MAX];
    weir_page_writing_t body;
    name_key(question, limit, key);
    weir_log_event(WEIR_LOG_INFO, "limit %s: a fresh start for the key '%s', asked for by %s", limit->name, key,
                   weir_page_peer(req, peer));
    weir_page_begin(&body);
    weir_json_out_t out = {body.file, false};
    weir_json_out_open(&out, NULL, '{');
    weir_json_out_string(&out, "limit", limit->name);
    weir_json_out_string(&out, "key", key);
    weir_json_out_close(&out, '}');
    weir_page_answer_written(req, "application/json", &body);
}

static void reset(weir_question_t *question, const weir_conf_limit_t *limit)
{
    const weir_chain_t *chain = weir_page_server(question->req)->snapshot->chain;
    size_t index = (size_t)(limit - question->request.conf->limits.entries);
    bool is_reset = weir_limit_reset(chain, &question->request, index);
    if (weir_look_waits(question->req))
        return;
    if (weir_look_has_failed(question->req))
        weir_look_refuse(question->req, "The limit is kept in Redis, which did not answer: whether it was forgotten is not known.");
    else if (is_reset)
        answer_reset(question, limit);
    else
        refuse_shared(question->req, limit);
}

static void make(h2o_req_t *req)
{
    const weir_conf_limit_t *limit = find_limit(req);
    if (limit == NULL)
        return;
    if (limit->algorithm == WEIR_LIMIT_CONCURRENCY) {
        weir_admin_refuse(req, WEIR_REASON_UNSUPPORTED, 409,
                          "Slots end with their requests; there is nothing to forget.");
        return;
    }
    weir_question_t *question = weir_question_read(req);
    if (question == NULL)
        return;
    weir_page_list_t strays = list_strays(question, limit);
    const char *missing = find_missing(question, limit);
    if (strays.len != 0)
        refuse_strays(req, limit, strays.text);
    else if (missing != NULL)
        refuse_missing(req, limit, missing);
    else if (find_route(question, limit))
        reset(question, limit);
}

void weir_reset_answer(h2o_req_t *req)
{
    weir_look_answer(req, make);
}
