#include "forget.h"

#include <string.h>
#include "../filters/dedup.h"
#include "admin.h"
#include "json_out.h"
#include "look.h"
#include "page.h"
#include "question.h"

/* conf->dedup.size: none, and that was answered. */
static size_t find_dedup(h2o_req_t *req, const weir_conf_t *conf)
{
    h2o_iovec_t query, path = weir_page_path(req, &query);
    const size_t before = strlen(WEIR_FORGET_DEDUP);
    weir_page_list_t names = {0};
    for (size_t i = 0; i != conf->dedup.size; ++i) {
        const char *name = conf->dedup.entries[i].name;
        if (h2o_memis(path.base + before, path.len - before, name, strlen(name)))
            return i;
        weir_page_list_add(&names, name);
    }
    weir_admin_refuse(req, WEIR_REASON_NO_ROUTE, 404,
                      names.len != 0 ? weir_page_format(req, "There is no such dedup; there are %s.", names.text)
                                     : "There is no dedup.");
    return conf->dedup.size;
}

/* The first parameter that says nothing about a key; NULL: there is none. */
static const char *find_stray(const weir_question_t *question)
{
    for (weir_asked_t asked = 0; asked != WEIR_ASKED_COUNT; ++asked)
        if (weir_question_has(question, asked) && asked != WEIR_ASKED_KEY && asked != WEIR_ASKED_TENANT)
            return weir_asked_name(asked);
    return question->header_count != 0 ? weir_page_format(question->req, "header.%s", question->headers[0]) : NULL;
}

/* What is wrong; NULL: nothing. */
static const char *check(const weir_question_t *question, const weir_conf_dedup_t *conf)
{
    const char *stray = find_stray(question);
    if (!conf->exact)
        return weir_page_format(question->req, "Dedup %s is not exact: a Bloom filter forgets nothing by hand.", conf->name);
    if (stray != NULL)
        return weir_page_format(question->req, "The parameter %s says nothing about a key; there are key and tenant.", stray);
    if (!weir_question_has(question, WEIR_ASKED_KEY))
        return weir_page_format(question->req, "The parameter key is missing. Such as DELETE %s%s?key=abc&tenant=acme",
                                WEIR_FORGET_DEDUP, conf->name);
    return NULL;
}

static void answer(weir_question_t *question, const weir_conf_dedup_t *conf, size_t forgotten)
{
    char peer[64];
    weir_page_writing_t body;
    weir_log_event(WEIR_LOG_INFO, "dedup %s: a key of tenant '%.*s' was forgotten, asked for by %s", conf->name,
                   (int)question->request.tenant.len, question->request.tenant.base, weir_page_peer(question->req, peer));
    weir_page_begin(&body);
    weir_json_out_t out = {body.file, false};
    weir_json_out_open(&out, NULL, '{');
    weir_json_out_string(&out, "dedup", conf->name);
    weir_json_out_integer(&out, "forgotten", (int64_t)forgotten);
    weir_json_out_close(&out, '}');
    weir_page_answer_written(question->req, "application/json", &body);
}

/* Who has no tenant's name has the default one's. */
static weir_str_t tenant_of(const weir_question_t *question)
{
    const char *given = question->request.conf->tenant.default_tenant;
    if (question->request.tenant.len != 0 || given == NULL)
        return question->request.tenant;
    return (weir_str_t){given, strlen(given)};
}

static void make(h2o_req_t *req)
{
    weir_server_t *server = weir_page_server(req);
    const weir_conf_t *conf = server->snapshot->conf;
    size_t dedup = find_dedup(req, conf);
    weir_question_t *question = dedup != conf->dedup.size ? weir_question_read(req) : NULL;
    if (question == NULL)
        return;
    const char *wrong = check(question, &conf->dedup.entries[dedup]);
    if (wrong != NULL) {
        weir_admin_refuse(req, WEIR_REASON_MALFORMED, conf->dedup.entries[dedup].exact ? 400 : 409, wrong);
        return;
    }
    question->request.tenant = tenant_of(question);
    const weir_dedups_t *dedups = weir_chain_instance(server->snapshot->chain, "dedup");
    size_t forgotten =
        weir_dedups_reset(dedups, dedup, question->request.tenant, question->given[WEIR_ASKED_KEY], weir_clock_turn_ns);
    if (weir_look_waits(req))
        return;
    if (weir_look_has_failed(req)) {
        weir_look_refuse(req, "Keys are kept in Redis, which did not answer: whether this one was forgotten is not known.");
        return;
    }
    if (forgotten == 0) {
        weir_admin_refuse(req, WEIR_REASON_NO_ROUTE, 404, "This key is not known: nothing was to be forgotten.");
        return;
    }
    answer(question, &conf->dedup.entries[dedup], forgotten);
}

void weir_forget_answer(h2o_req_t *req)
{
    weir_look_answer(req, make);
}
