#include "admin.h"
#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <string.h>
#include "../conf/cgroup.h"
#include "explain.h"
#include "force.h"
#include "h1.h"
#include "health.h"
#include "page.h"
#include "page_file.h"
#include "problem.h"
#include "forget.h"
#include "redis/redis.h"
#include "reset.h"
#include "status.h"
#include "upstream.h"
#include "words.h"

/* A worker that has not turned its loop for so long is stuck. */
#define SIGN_OF_LIFE_MAX_NS (5 * INT64_C(1000000000))

static const weir_conf_t *conf_of(h2o_req_t *req)
{
    return weir_page_server(req)->snapshot->conf;
}

void weir_admin_refuse(h2o_req_t *req, weir_reason_t reason, int status, const char *detail)
{
    weir_problem_t problem = {.reason = reason, .status = status, .detail = detail};
    weir_page_add_field(req, "weir-reason", weir_reason_word(reason));
    weir_page_answer(req, status, "application/problem+json", weir_problem_body(&req->pool, &problem));
}

/* -- /metrics ----------------------------------------------------------------------------------------------------- */

static void set_gauge(weir_server_t *server, weir_metric_t metric, const char *const *labels, double value)
{
    weir_metrics_set(server->metrics, weir_metrics_series(server->metrics, NULL, metric, labels), value);
}

/* A series that is there before the first event, so that its first increase is seen. */
static void show(weir_server_t *server, weir_metric_t metric, const char *label)
{
    weir_metrics_series(server->metrics, NULL, metric, &label);
}

/* One that a reload took away is shown until nobody waits in it any more. */
static void collect_queue(weir_server_t *server, const char *limit, bool is_there)
{
    size_t depth[WEIR_LANES];
    server->store->queue_depth(server->store, limit, depth);
    if (!is_there && depth[WEIR_LANE_URGENT] + depth[WEIR_LANE_NORMAL] + depth[WEIR_LANE_BACKGROUND] == 0)
        return;
    for (weir_lane_t lane = 0; lane != WEIR_LANES; ++lane)
        set_gauge(server, WEIR_METRIC_QUEUE_DEPTH, (const char *[]){limit, weir_word_lane(lane)}, (double)depth[lane]);
    show(server, WEIR_METRIC_QUEUE_WAIT, limit);
}

static void collect_breaker(weir_server_t *server, const weir_conf_upstream_t *conf, weir_health_t *health, size_t breaker)
{
    static const char *const words[] = {"closed", "open", "half_open", "paused"};
    weir_health_state_t state = weir_health_state(health, conf, breaker);
    for (size_t i = 0; i != sizeof(words) / sizeof(*words); ++i)
        set_gauge(server, WEIR_METRIC_BREAKER_STATE, (const char *[]){conf->name, state.model, words[i]},
                  strcmp(state.word, words[i]) == 0);
}

static void collect_breakers(weir_server_t *server)
{
    const weir_snapshot_t *snapshot = server->snapshot;
    weir_metrics_clear(server->metrics, WEIR_METRIC_BREAKER_STATE);
    for (size_t i = 0; i != snapshot->conf->upstreams.size; ++i) {
        const weir_conf_upstream_t *conf = &snapshot->conf->upstreams.entries[i];
        weir_health_t *health = weir_upstream_health(snapshot->upstreams[i]);
        size_t count = weir_health_shown(health, conf);
        for (size_t k = 0; k != count; ++k)
            collect_breaker(server, conf, health, k);
    }
}

static void collect_dedups(weir_server_t *server)
{
    const weir_conf_t *conf = server->snapshot->conf;
    weir_store_t *store = server->store;
    weir_metrics_clear(server->metrics, WEIR_METRIC_DEDUP_KEYS);
    weir_metrics_clear(server->metrics, WEIR_METRIC_DEDUP_BLOOM_FILL);
    weir_metrics_clear(server->metrics, WEIR_METRIC_DEDUP_MEMORY);
    for (size_t i = 0; i != conf->dedup.size; ++i) {
        const char *name = conf->dedup.entries[i].name;
        weir_store_dedup_told_t told;
        if (!store->dedup_tell(store, name, weir_clock_turn_ns, &told))
            continue;
        set_gauge(server, WEIR_METRIC_DEDUP_KEYS, &name, (double)told.keys);
        set_gauge(server, WEIR_METRIC_DEDUP_BLOOM_FILL, &name, told.bloom_fill);
        set_gauge(server, WEIR_METRIC_DEDUP_MEMORY, &name, (double)told.answer_bytes);
        show(server, WEIR_METRIC_DEDUP_FORGOTTEN_FULL, name);
        show(server, WEIR_METRIC_DEDUP_BLOOM_FALSE_POSITIVES, name);
    }
}

static void collect_named(weir_server_t *server)
{
    const weir_conf_t *conf = server->snapshot->conf;
    weir_metrics_clear(server->metrics, WEIR_METRIC_LIMIT_KEYS);
    weir_metrics_clear(server->metrics, WEIR_METRIC_QUEUE_DEPTH);
    for (size_t i = 0; i != conf->limits.size; ++i) {
        const char *name = conf->limits.entries[i].name;
        set_gauge(server, WEIR_METRIC_LIMIT_KEYS, &name, (double)server->store->limit_keys(server->store, name));
        show(server, WEIR_METRIC_LIMIT_OVERFLOW, name);
        collect_queue(server, name, conf->limits.entries[i].queue.size != 0);
    }
    for (size_t i = 0; i != conf->listeners.size; ++i) {
        show(server, WEIR_METRIC_CONNECTIONS, conf->listeners.entries[i].name);
        show(server, WEIR_METRIC_IN_FLIGHT, conf->listeners.entries[i].name);
    }
    for (size_t i = 0; i != conf->upstreams.size; ++i)
        if (conf->upstreams.entries[i].retry.enabled && conf->upstreams.entries[i].retry.attempts > 1)
            show(server, WEIR_METRIC_RETRY_BUDGET_EXHAUSTED, conf->upstreams.entries[i].name);
}

/* What is bounded, and by what. */
static void collect_bounds(weir_server_t *server)
{
    uint64_t memory_bytes = weir_conf_cgroup_memory_bytes("/");
    set_gauge(server, WEIR_METRIC_CONNECTIONS_MAX, NULL, (double)server->max_connections);
    set_gauge(server, WEIR_METRIC_BUFFERED, NULL, (double)server->buffered_bytes);
    set_gauge(server, WEIR_METRIC_BUFFERED_MAX, NULL, (double)server->max_buffered_bytes);
    weir_metrics_clear(server->metrics, WEIR_METRIC_MEMORY_LIMIT);
    if (memory_bytes != 0)
        set_gauge(server, WEIR_METRIC_MEMORY_LIMIT, NULL, (double)memory_bytes);
}

/* Without Redis the store is this process. */
static void collect_store(weir_server_t *server)
{
    weir_redis_state_t state = {.is_up = true};
    if (server->redis != NULL) {
        state = weir_redis_state(server->redis);
        show(server, WEIR_METRIC_STORE_COMMANDS, "ok");
        show(server, WEIR_METRIC_STORE_COMMANDS, "timeout");
        show(server, WEIR_METRIC_STORE_COMMANDS, "error");
    }
    set_gauge(server, WEIR_METRIC_STORE_UP, NULL, state.is_up);
    set_gauge(server, WEIR_METRIC_STORE_DEGRADED, NULL, state.is_degraded);
}

static void collect(weir_server_t *server)
{
    const char *version = WEIR_VERSION;
    set_gauge(server, WEIR_METRIC_BUILD_INFO, &version, 1);
    set_gauge(server, WEIR_METRIC_CONFIG_LAST_RELOAD, NULL, server->last_reload_errors == NULL);
    set_gauge(server, WEIR_METRIC_CONFIG_LOADED_TIMESTAMP, NULL, (double)server->loaded_wall_ms / 1000);
    set_gauge(server, WEIR_METRIC_LOG_DROPPED, NULL, (double)weir_log_dropped(server->log));
    collect_store(server);
    collect_bounds(server);
    show(server, WEIR_METRIC_CONFIG_RELOADS, "ok");
    show(server, WEIR_METRIC_CONFIG_RELOADS, "error");
    collect_named(server);
    collect_dedups(server);
    collect_breakers(server);
}

/* The next of a field's comma-separated elements that is `type`, with its weight in 1/1000 (RFC 9110 12.5.1). */
static int weight_of(h2o_iovec_t element, const char *type)
{
    const char *end = element.base + element.len, *parameters = memchr(element.base, ';', element.len);
    size_t len = (size_t)((parameters != NULL ? parameters : end) - element.base);
    while (len != 0 && strchr(" \t", element.base[len - 1]) != NULL)
        --len;
    if (!h2o_lcstris(element.base, len, type, strlen(type)))
        return 0;
    for (const char *at = parameters; at != NULL; at = memchr(at, ';', (size_t)(end - at))) {
        for (++at; at != end && strchr(" \t", *at) != NULL; ++at)
            ;
        char text[8] = "";
        if (end - at > 2 && (at[0] | 0x20) == 'q' && at[1] == '=') {
            size_t size = (size_t)(end - at) - 2;
            memcpy(text, at + 2, size < sizeof(text) - 1 ? size : sizeof(text) - 1);
            return (int)(strtod(text, NULL) * 1000);
        }
    }
    return 1000;
}

/* The best weight that the request's Accept gives to `type`; 0 when it does not name it. */
static int accept_weight(h2o_req_t *req, const char *type)
{
    int best = 0;
    for (ssize_t i = -1; (i = h2o_find_header_by_str(&req->headers, H2O_STRLIT("accept"), i)) != -1;) {
        h2o_iovec_t list = req->headers.entries[i].value, element = list;
        while (list.len != 0) {
            const char *comma = memchr(list.base, ',', list.len);
            element = h2o_iovec_init(list.base, comma != NULL ? (size_t)(comma - list.base) : list.len);
            size_t used = element.len + (comma != NULL);
            list = h2o_iovec_init(list.base + used, list.len - used);
            for (; element.len != 0 && strchr(" \t", *element.base) != NULL; --element.len)
                ++element.base;
            int weight = weight_of(element, type);
            best = weight > best ? weight : best;
        }
    }
    return best;
}

static void answer_metrics(h2o_req_t *req)
{
    int open_weight = accept_weight(req, "application/openmetrics-text");
    bool open_metrics = open_weight != 0 && open_weight >= accept_weight(req, "text/plain");
    size_t len;
    collect(weir_page_server(req));
    char *text = weir_metrics_render(weir_page_server(req)->metrics, open_metrics, &len);
    h2o_iovec_t body = h2o_strdup(&req->pool, text, len);
    free(text);
    weir_page_add_field(req, "vary", "accept");
    weir_page_answer(req, 200,
                     open_metrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                  : "text/plain; version=0.0.4; charset=utf-8",
                     body);
}

/* -- the page for people ------------------------------------------------------------------------------------------ */

static void answer_page(h2o_req_t *req)
{
    weir_page_file_answer(req, 200);
}

/* It holds no data, and asks for the token. */
static void answer_page_without_token(h2o_req_t *req)
{
    weir_page_add_field(req, "weir-reason", weir_reason_word(WEIR_REASON_FORBIDDEN));
    weir_page_add_field(req, "vary", "accept");
    weir_page_file_answer(req, 401);
}

/* -- the other pages ---------------------------------------------------------------------------------------------- */

static void on_asked(weir_worker_t *worker, void *argument)
{
    atomic_store(&worker->asked_ns, 0);
}

/* Whether every worker turns its loop. Each call asks those that are not asked yet: who does not answer is found by a
 * later call. Stopping workers are not asked. */
static bool is_alive(weir_server_t *server)
{
    int64_t now_ns = weir_clock_now_ns();
    bool alive = true;
    for (size_t i = 0; i != server->worker_count && !server->draining; ++i) {
        weir_worker_t *worker = server->workers[i];
        int64_t asked_ns = atomic_load(&worker->asked_ns);
        alive = alive && (asked_ns == 0 || now_ns - asked_ns < SIGN_OF_LIFE_MAX_NS);
        if (asked_ns == 0) {
            atomic_store(&worker->asked_ns, now_ns);
            weir_worker_post(worker, on_asked, NULL);
        }
    }
    return alive;
}

static void answer_healthz(h2o_req_t *req)
{
    bool alive = is_alive(weir_page_server(req));
    weir_page_answer_text(req, alive ? 200 : 503, alive ? "ok\n" : "a worker's loop does not turn\n");
}

static void answer_readyz(h2o_req_t *req)
{
    weir_server_t *server = weir_page_server(req);
    bool ready = server->ready && !server->draining;
    weir_page_answer_text(req, ready ? 200 : 503, ready ? "ready\n" : server->draining ? "draining\n" : "starting\n");
}

static void answer_config(h2o_req_t *req)
{
    weir_page_writing_t writing;
    weir_page_begin(&writing);
    weir_conf_print(conf_of(req), writing.file);
    weir_page_answer_written(req, "text/plain; charset=utf-8", &writing);
}

static void answer_reload(h2o_req_t *req)
{
    char *errors = NULL;
    if (weir_server_reload(weir_page_server(req), &errors))
        weir_page_answer(req, 200, "application/json", h2o_iovec_init(H2O_STRLIT("{\"status\":\"ok\"}\n")));
    else
        weir_page_answer_text(req, 422, errors != NULL ? errors : "");
    free(errors);
}

/* -- who may ask for what ----------------------------------------------------------------------------------------- */

typedef struct {
    const char *path;   /* with a name to follow it where it ends in / (but for / itself) */
    const char *method; /* GET answers HEAD too */
    bool on_metrics;    /* on the metrics listener as well */
    bool needs_token;
    void (*answer)(h2o_req_t *req);
} page_t;

static const page_t pages[] = {
    {"/", "GET", false, true, answer_page},
    {"/status", "GET", false, true, weir_status_answer},
    {"/metrics", "GET", true, true, answer_metrics},
    {"/healthz", "GET", true, false, answer_healthz},
    {"/readyz", "GET", true, false, answer_readyz},
    {"/config", "GET", false, true, answer_config},
    {"/explain", "GET", false, true, weir_explain_answer},
    {"/reload", "POST", false, true, answer_reload},
    {WEIR_RESET_LIMITS, "DELETE", false, true, weir_reset_answer},
    {WEIR_FORGET_DEDUP, "DELETE", false, true, weir_forget_answer},
    {WEIR_FORCE_UPSTREAMS, "POST", false, true, weir_force_answer},
};

static bool is_at(const page_t *page, h2o_iovec_t path)
{
    size_t len = strlen(page->path);
    bool is_prefix = len > 1 && page->path[len - 1] == '/';
    return h2o_memis(path.base, is_prefix && path.len > len ? len : path.len, page->path, len);
}

static const page_t *find_page(h2o_req_t *req, bool is_admin)
{
    h2o_iovec_t query, path = weir_page_path(req, &query);
    for (size_t i = 0; i != sizeof(pages) / sizeof(*pages); ++i)
        if ((is_admin || pages[i].on_metrics) && is_at(&pages[i], path))
            return &pages[i];
    return NULL;
}

/* The host of `host[:port]`, without brackets. */
static h2o_iovec_t host_of(h2o_iovec_t authority)
{
    const char *end = authority.base + authority.len;
    if (authority.len != 0 && *authority.base == '[') {
        const char *close = memchr(authority.base, ']', authority.len);
        return h2o_iovec_init(authority.base + 1, close != NULL ? (size_t)(close - authority.base) - 1 : 0);
    }
    const char *colon = memchr(authority.base, ':', authority.len);
    return h2o_iovec_init(authority.base, (size_t)((colon != NULL ? colon : end) - authority.base));
}

/* A page in a browser that reaches us through a name of its own (DNS rebinding) sends that name. */
static bool is_host_local(h2o_iovec_t authority)
{
    h2o_iovec_t host = host_of(authority);
    char text[64];
    unsigned char address[16];
    if (authority.len == 0 || h2o_lcstris(host.base, host.len, H2O_STRLIT("localhost")))
        return true;
    if (host.len >= sizeof(text))
        return false;
    memcpy(text, host.base, host.len);
    text[host.len] = '\0';
    return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}

static bool has_token(h2o_req_t *req, const char *token)
{
    static const char scheme[] = "bearer ";
    const size_t scheme_len = sizeof(scheme) - 1;
    ssize_t i = h2o_find_header_by_str(&req->headers, H2O_STRLIT("authorization"), -1);
    if (i == -1)
        return false;
    h2o_iovec_t value = req->headers.entries[i].value;
    return value.len == scheme_len + strlen(token) && h2o_lcstris(value.base, scheme_len, scheme, scheme_len) &&
           CRYPTO_memcmp(value.base + scheme_len, token, strlen(token)) == 0;
}

static bool is_get(h2o_req_t *req)
{
    return weir_page_is_method(req, "GET") || weir_page_is_method(req, "HEAD");
}

static bool all_are(h2o_req_t *req, const char *field, h2o_iovec_t wanted, h2o_iovec_t or_else)
{
    for (ssize_t i = -1; (i = h2o_find_header_by_str(&req->headers, field, strlen(field), i)) != -1;) {
        h2o_iovec_t value = req->headers.entries[i].value;
        if (!h2o_lcstris(value.base, value.len, wanted.base, wanted.len) &&
            !h2o_lcstris(value.base, value.len, or_else.base, or_else.len))
            return false;
    }
    return true;
}

/* A browser says where what changes something comes from (Fetch Metadata; `none`: from no page); other clients say
 * nothing. */
static bool is_same_origin(h2o_req_t *req)
{
    h2o_iovec_t own = h2o_concat(&req->pool, h2o_iovec_init(H2O_STRLIT("http://")), req->authority);
    if (!all_are(req, "origin", own, own))
        return false;
    return is_get(req) || all_are(req, "sec-fetch-site", h2o_iovec_init(H2O_STRLIT("same-origin")),
                                  h2o_iovec_init(H2O_STRLIT("none")));
}

/* Whether the admin listener must not answer; then it was refused. */
static bool is_refused(h2o_req_t *req, const page_t *page)
{
    const weir_conf_admin_t *admin = &conf_of(req)->admin;
    if (admin->address.kind == WEIR_ADDRESS_TCP && !is_host_local(req->authority)) {
        weir_admin_refuse(req, WEIR_REASON_FORBIDDEN, 403, "The Host must be localhost or an IP address.");
        return true;
    }
    if (admin->token != NULL && (page == NULL || page->needs_token) && !has_token(req, admin->token)) {
        weir_page_add_field(req, "www-authenticate", "Bearer realm=\"weir\"");
        if (page != NULL && page->answer == answer_page && is_get(req) && accept_weight(req, "text/html") != 0)
            answer_page_without_token(req);
        else
            weir_admin_refuse(req, WEIR_REASON_FORBIDDEN, 401, "This needs the bearer token of admin.token.");
        return true;
    }
    if (!is_same_origin(req)) {
        weir_admin_refuse(req, WEIR_REASON_FORBIDDEN, 403, "The request comes from a page of another origin.");
        return true;
    }
    return false;
}

static int on_request(h2o_handler_t *handler, h2o_req_t *req)
{
    weir_listener_kind_t kind = weir_h1_listener(req)->kind;
    if (kind == WEIR_LISTENER_DATA)
        return -1;
    const page_t *page = find_page(req, kind == WEIR_LISTENER_ADMIN);
    if (kind == WEIR_LISTENER_ADMIN && is_refused(req, page))
        return 0;
    if (page == NULL) {
        weir_admin_refuse(req, WEIR_REASON_NO_ROUTE, 404, "There is nothing here.");
        return 0;
    }
    bool only_reads = strcmp(page->method, "GET") == 0;
    if (only_reads ? !is_get(req) : !weir_page_is_method(req, page->method)) {
        weir_page_add_field(req, "allow", only_reads ? "GET, HEAD" : page->method);
        weir_admin_refuse(req, WEIR_REASON_METHOD, 405, NULL);
        return 0;
    }
    page->answer(req);
    return 0;
}

void weir_admin_register(h2o_hostconf_t *hostconf)
{
    h2o_pathconf_t *path = h2o_config_register_path(hostconf, "/", 0);
    h2o_create_handler(path, sizeof(h2o_handler_t))->on_req = on_request;
}
