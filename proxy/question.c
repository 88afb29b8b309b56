#include "question.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "../filters/client_ip.h"
#include "../filters/fields.h"
#include "admin.h"
#include "h1_parse.h"
#include "hop.h"
#include "page.h"

/* How much of what was sent is said back. */
enum { QUOTED_MAX = 64 };
#define QUOTED(text) (int)((text).len < QUOTED_MAX ? (text).len : QUOTED_MAX), (text).base

static const char header_prefix[] = "header.";
static const size_t header_prefix_len = sizeof(header_prefix) - 1;

/* -- what is valid ------------------------------------------------------------------------------------------------ */

static bool is_token(weir_str_t text)
{
    return text.len != 0 && weir_fields_is_made_of(text, "!#$%&'*+-.^_`|~");
}

static const char *check_method(weir_str_t value)
{
    if (weir_str_is(value, WEIR_STR("TRACE")) || weir_str_is(value, WEIR_STR("CONNECT")))
        return "TRACE and CONNECT are not served";
    return is_token(value) ? NULL : "That is no method";
}

static const char *check_tenant(weir_str_t value)
{
    if (value.len > WEIR_TENANT_MAX)
        return "A tenant's name has at most 128 characters";
    return weir_fields_is_made_of(value, "._:@/-") ? NULL : "A tenant's name is made of letters, digits and ._:@/-";
}

static const char *check_model(weir_str_t value)
{
    return value.len < WEIR_MODEL_BYTES_MAX ? NULL : "A model's name has at most 255 bytes";
}

/* An address as a peer's is written; NULL: it is none. A unix socket's peer is called unix. */
static const char *read_address(const char *given, char text[INET6_ADDRSTRLEN])
{
    unsigned char address[16];
    int family = strchr(given, ':') != NULL ? AF_INET6 : AF_INET;
    if (inet_pton(family, given, address) == 1)
        return inet_ntop(family, address, text, INET6_ADDRSTRLEN);
    return strcmp(given, "unix") == 0 ? given : NULL;
}

static const char *check_client_ip(weir_str_t value)
{
    char text[INET6_ADDRSTRLEN];
    return read_address(value.base, text) != NULL ? NULL : "It is an IP address, without a port, or unix";
}

static const char *check_correlation(weir_str_t value)
{
    if (value.len > WEIR_CORRELATION_ID_MAX)
        return "A correlation id has at most 128 characters";
    return weir_fields_is_made_of(value, "._:/+=@-") ? NULL
                                                     : "A correlation id is made of letters, digits and ._:/+=@-";
}

/* -1: it is none. */
static int64_t read_count(weir_str_t value)
{
    int64_t count = 0;
    for (size_t i = 0; i != value.len; ++i) {
        if (!isdigit((unsigned char)value.base[i]) || count > WEIR_JSON_INTEGER_MAX / 10)
            return -1;
        count = count * 10 + (value.base[i] - '0');
    }
    return count <= WEIR_JSON_INTEGER_MAX ? count : -1;
}

static const char *check_count(weir_str_t value)
{
    return read_count(value) >= 0 ? NULL : "It is a whole number, at most 9007199254740992";
}

static const struct {
    const char *name;
    const char *(*check)(weir_str_t value); /* NULL: any value, or it is checked later */
    const char *alias;                      /* as it is called in a key's name */
    bool may_be_empty;
} parameters[WEIR_ASKED_COUNT] = {
    [WEIR_ASKED_LISTENER] = {"listener"},
    [WEIR_ASKED_PATH] = {"path", NULL, "route"},
    [WEIR_ASKED_METHOD] = {"method", check_method},
    [WEIR_ASKED_HOST] = {"host"},
    [WEIR_ASKED_TENANT] = {"tenant", check_tenant},
    [WEIR_ASKED_MODEL] = {"model", check_model, .may_be_empty = true},
    [WEIR_ASKED_CLIENT_IP] = {"client_ip", check_client_ip},
    [WEIR_ASKED_CORRELATION] = {"correlation", check_correlation},
    [WEIR_ASKED_TOKENS] = {"tokens", check_count},
    [WEIR_ASKED_BYTES] = {"bytes", check_count},
    [WEIR_ASKED_KEY] = {"key"},
};

const char *weir_asked_name(weir_asked_t asked)
{
    return parameters[asked].name;
}

bool weir_question_has(const weir_question_t *question, weir_asked_t asked)
{
    return question->given[asked].base != NULL;
}

bool weir_question_has_header(const weir_question_t *question, const char *name)
{
    for (size_t i = 0; i != question->header_count; ++i)
        if (strcasecmp(question->headers[i], name) == 0)
            return true;
    return false;
}

/* -- reading ------------------------------------------------------------------------------------------------------ */

/* The byte that %XX is; -1: it is none. */
static int unescape(weir_str_t text)
{
    if (text.len < 3 || !isxdigit((unsigned char)text.base[1]) || !isxdigit((unsigned char)text.base[2]))
        return -1;
    char digits[] = {text.base[1], text.base[2], '\0'};
    return (int)strtol(digits, NULL, 16);
}

/* Decodes into memory of the request, NUL-terminated. False: a broken escape, or a control byte. */
static bool decode(h2o_req_t *req, weir_str_t text, weir_str_t *decoded)
{
    char *out = h2o_mem_alloc_pool(&req->pool, text.len + 1), *at = out;
    while (text.len != 0) {
        bool is_escape = *text.base == '%';
        int byte = is_escape ? unescape(text) : *text.base == '+' ? ' ' : (unsigned char)*text.base;
        if (byte < 0x20 || byte == 0x7f)
            return false;
        *at++ = (char)byte;
        text = (weir_str_t){text.base + (is_escape ? 3 : 1), text.len - (is_escape ? 3 : 1)};
    }
    *at = '\0';
    *decoded = (weir_str_t){out, (size_t)(at - out)};
    return true;
}

/* Each of these returns what is wrong, or NULL. */

static const char *not_valid(h2o_req_t *req, weir_asked_t asked, const char *why)
{
    return weir_page_format(req, "The parameter %s is not valid. %s.", parameters[asked].name, why);
}

static const char *take_parameter(weir_question_t *question, weir_asked_t asked, const char *name, weir_str_t value)
{
    if (weir_question_has(question, asked))
        return weir_page_format(question->req, "The parameter %s is there twice.", parameters[asked].name);
    if (value.len == 0 && !parameters[asked].may_be_empty)
        return weir_page_format(question->req, "The parameter %s is empty.", parameters[asked].name);
    const char *wrong = parameters[asked].check != NULL ? parameters[asked].check(value) : NULL;
    if (wrong != NULL)
        return not_valid(question->req, asked, wrong);
    question->given[asked] = value;
    question->called[asked] = name;
    return NULL;
}

static void add_field(weir_question_t *question, weir_str_t name, weir_str_t value)
{
    weir_str_t *kept = h2o_mem_alloc_pool(&question->req->pool, sizeof(*kept));
    *kept = name;
    question->fields[question->request.field_count++] = (weir_field_t){.name = kept, .value = value};
}

static const char *take_header(weir_question_t *question, weir_str_t name, weir_str_t value)
{
    h2o_strtolower((char *)name.base, name.len);
    if (!is_token(name))
        return weir_page_format(question->req, "header.%.*s: that is no header's name.", QUOTED(name));
    if (weir_question_has_header(question, name.base))
        return weir_page_format(question->req, "The parameter header.%.*s is there twice.", QUOTED(name));
    if (question->header_count == WEIR_H1_FIELDS_MAX)
        return "A request has at most 100 headers.";
    question->headers[question->header_count++] = name.base;
    if (value.len != 0)
        add_field(question, name, value);
    return NULL;
}

static bool is_called(weir_asked_t asked, const char *name)
{
    const char *alias = parameters[asked].alias;
    return strcmp(name, parameters[asked].name) == 0 || (alias != NULL && strcmp(name, alias) == 0);
}

static const char *take(weir_question_t *question, weir_str_t name, weir_str_t value)
{
    for (weir_asked_t asked = 0; asked != WEIR_ASKED_COUNT; ++asked)
        if (is_called(asked, name.base))
            return take_parameter(question, asked, name.base, value);
    if (strncmp(name.base, header_prefix, header_prefix_len) == 0) {
        weir_str_t header = {name.base + header_prefix_len, name.len - header_prefix_len};
        return take_header(question, header, value);
    }
    weir_page_list_t list = {0};
    for (weir_asked_t asked = 0; asked != WEIR_ASKED_COUNT; ++asked)
        weir_page_list_add(&list, parameters[asked].name);
    return weir_page_format(question->req, "There is no parameter %.*s; there are %s and header.NAME.", QUOTED(name),
                            list.text);
}

static const char *read_pair(weir_question_t *question, weir_str_t pair)
{
    const char *equals = memchr(pair.base, '=', pair.len), *end = pair.base + pair.len;
    weir_str_t name = {pair.base, (size_t)((equals != NULL ? equals : end) - pair.base)};
    weir_str_t value = equals != NULL ? (weir_str_t){equals + 1, (size_t)(end - equals) - 1} : (weir_str_t){end, 0};
    if (!decode(question->req, name, &name) || !decode(question->req, value, &value))
        return weir_page_format(question->req, "%.*s: this has a broken escape or a control byte.", QUOTED(pair));
    return take(question, name, value);
}

static const char *read_query(weir_question_t *question, h2o_iovec_t query)
{
    const char *wrong = NULL, *end = query.base + query.len;
    for (const char *at = query.base; wrong == NULL && at < end;) {
        const char *next = memchr(at, '&', (size_t)(end - at));
        weir_str_t pair = {at, (size_t)((next != NULL ? next : end) - at)};
        if (pair.len != 0)
            wrong = read_pair(question, pair);
        at += pair.len + 1;
    }
    return wrong;
}

static void *alloc(weir_request_t *request, size_t size)
{
    return h2o_mem_alloc_pool(&((weir_question_t *)request)->req->pool, size);
}

static weir_str_t given_or(const weir_question_t *question, weir_asked_t asked, const char *otherwise)
{
    return weir_question_has(question, asked) ? question->given[asked] : weir_fields_text(otherwise);
}

/* A target holds some bytes only as escapes; they were decoded with the parameter. */
static weir_str_t escape_target(h2o_req_t *req, weir_str_t path)
{
    char *out = h2o_mem_alloc_pool(&req->pool, 3 * path.len + 1), *at = out;
    for (size_t i = 0; i != path.len; ++i) {
        unsigned char c = (unsigned char)path.base[i];
        if (c <= ' ' || c >= 0x7f || c == '#')
            at += sprintf(at, "%%%02X", c);
        else
            *at++ = (char)c;
    }
    return (weir_str_t){out, (size_t)(at - out)};
}

/* Returns what is wrong with the path, or NULL. */
static const char *find_path(weir_question_t *question)
{
    const char *wrong = "A path begins with /";
    weir_str_t target = escape_target(question->req, given_or(question, WEIR_ASKED_PATH, "/"));
    char *path = alloc(&question->request, target.len);
    ptrdiff_t len = *target.base == '/' ? weir_h1_match_path(target.base, target.len, path, &wrong) : -1;
    if (len < 0)
        return not_valid(question->req, WEIR_ASKED_PATH, wrong);
    question->request.target = target;
    question->path = (weir_str_t){path, (size_t)len};
    return NULL;
}

/* The peer is the one that client_ip gives, or who asks; from there on it is as for a request. */
static void find_client_ip(weir_question_t *question)
{
    char text[64];
    const char *given = question->given[WEIR_ASKED_CLIENT_IP].base;
    const char *peer = given != NULL ? read_address(given, text) : weir_page_peer(question->req, text);
    h2o_iovec_t kept = h2o_strdup(&question->req->pool, peer, SIZE_MAX);
    question->request.client_ip = weir_client_ip(&question->request, (weir_str_t){kept.base, kept.len});
}

static int64_t count_or(const weir_question_t *question, weir_asked_t asked, int64_t otherwise)
{
    return weir_question_has(question, asked) ? read_count(question->given[asked]) : otherwise;
}

static void describe(weir_question_t *question)
{
    weir_request_t *request = &question->request;
    request->method = given_or(question, WEIR_ASKED_METHOD, "GET");
    request->fields = question->fields;
    request->peer.family = AF_UNIX;
    request->trusted = true;
    request->now_ns = weir_clock_turn_ns;
    request->wall_ms = weir_clock_wall_ms();
    request->body_bytes = count_or(question, WEIR_ASKED_BYTES, 1);
    request->picked = &question->picked;
    request->alloc = alloc;
    request->tenant = given_or(question, WEIR_ASKED_TENANT, NULL);
    request->correlation_id = given_or(question, WEIR_ASKED_CORRELATION, NULL);
    weir_str_t model = given_or(question, WEIR_ASKED_MODEL, NULL);
    question->picked.is_object = true;
    question->picked.max_tokens = count_or(question, WEIR_ASKED_TOKENS, -1);
    question->picked.model_len = model.len;
    memcpy(question->picked.model, model.base, model.len);
    find_client_ip(question);
}

weir_question_t *weir_question_read(h2o_req_t *req)
{
    h2o_iovec_t query;
    weir_page_path(req, &query);
    weir_question_t *question = h2o_mem_alloc_pool(&req->pool, sizeof(*question));
    *question = (weir_question_t){.req = req, .request.conf = weir_page_server(req)->snapshot->conf};
    question->fields = h2o_mem_alloc_pool(&req->pool, WEIR_H1_FIELDS_MAX * sizeof(*question->fields));
    question->headers = h2o_mem_alloc_pool(&req->pool, WEIR_H1_FIELDS_MAX * sizeof(*question->headers));
    const char *wrong = read_query(question, query);
    if (wrong == NULL)
        wrong = find_path(question);
    if (wrong != NULL) {
        weir_admin_refuse(req, WEIR_REASON_MALFORMED, 400, wrong);
        return NULL;
    }
    describe(question);
    return question;
}

/* -- where it goes ------------------------------------------------------------------------------------------------ */

static void take_listener(weir_question_t *question, const weir_conf_listener_t *listener)
{
    question->request.listener = listener;
    if (question->request.tenant.len == 0)
        question->request.tenant = weir_fields_text(listener->tenant->default_tenant);
}

static void refuse_listener(weir_question_t *question, weir_reason_t reason, int status, const char *wrong,
                            const weir_page_list_t *names)
{
    weir_admin_refuse(question->req, reason, status,
                      weir_page_format(question->req, "%s; there are: %s.", wrong, names->text));
}

bool weir_question_listen(weir_question_t *question)
{
    const weir_conf_t *conf = question->request.conf;
    const char *given = question->given[WEIR_ASKED_LISTENER].base;
    weir_page_list_t names = {0};
    for (size_t i = 0; i != conf->listeners.size; ++i) {
        const weir_conf_listener_t *listener = &conf->listeners.entries[i];
        weir_page_list_add(&names, listener->name);
        if (given != NULL ? strcmp(listener->name, given) == 0 : conf->listeners.size == 1) {
            take_listener(question, listener);
            return true;
        }
    }
    if (given != NULL)
        refuse_listener(question, WEIR_REASON_NO_ROUTE, 404, "There is no such listener", &names);
    else
        refuse_listener(question, WEIR_REASON_MALFORMED, 400, "The parameter listener is missing", &names);
    return false;
}

weir_router_match_t weir_question_route(weir_question_t *question)
{
    weir_request_t *request = &question->request;
    weir_router_t **routers = weir_page_server(question->req)->snapshot->routers;
    weir_str_t model = given_or(question, WEIR_ASKED_MODEL, "");
    weir_router_match_t match =
        weir_router_find(routers[request->listener - request->conf->listeners.entries], question->path,
                         given_or(question, WEIR_ASKED_HOST, NULL), request->method, &model);
    request->route = match.route;
    return match;
}
