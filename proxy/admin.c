#include "admin.h"
#include <arpa/inet.h>
#include <assert.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <time.h>
#include "h1.h"
#include "h1_head.h"
#include "json_out.h"
#include "problem.h"
#include "upstream.h"

/* A worker that has not turned its loop for so long is stuck. */
#define SIGN_OF_LIFE_MAX_NS (5 * INT64_C(1000000000))

static weir_server_t *server_of(h2o_req_t *req)
{
    return weir_worker_of(req->conn->ctx)->server;
}

static const weir_conf_t *conf_of(h2o_req_t *req)
{
    return server_of(req)->snapshot->conf;
}

static bool is_method(h2o_req_t *req, const char *method)
{
    return h2o_memis(req->method.base, req->method.len, method, strlen(method));
}

/* -- answers ------------------------------------------------------------------------------------------------------ */

/* Both live as long as the request. */
static void add_field(h2o_req_t *req, const char *name, const char *value)
{
    h2o_add_header_by_str(&req->pool, &req->res.headers, name, strlen(name), 1, NULL, value, strlen(value));
}

static void answer(h2o_req_t *req, int status, const char *type, h2o_iovec_t body)
{
    static h2o_generator_t generator = {NULL, NULL};
    req->res.status = status;
    req->res.reason = weir_h1_status_phrase(status);
    req->res.content_length = body.len;
    add_field(req, "content-type", type);
    add_field(req, "cache-control", "no-store");
    add_field(req, "x-content-type-options", "nosniff");
    h2o_start_response(req, &generator);
    bool is_head = is_method(req, "HEAD");
    h2o_send(req, is_head ? NULL : &body, is_head ? 0 : 1, H2O_SEND_STATE_FINAL);
}

static void answer_text(h2o_req_t *req, int status, const char *text)
{
    answer(req, status, "text/plain; charset=utf-8", h2o_strdup(&req->pool, text, SIZE_MAX));
}

void weir_admin_refuse(h2o_req_t *req, weir_reason_t reason, int status, const char *detail)
{
    weir_problem_t problem = {.reason = reason, .status = status, .detail = detail};
    add_field(req, "weir-reason", weir_reason_word(reason));
    answer(req, status, "application/problem+json", weir_problem_body(&req->pool, &problem));
}

/* A text that is written into a FILE. */
typedef struct {
    FILE *file;
    char *text;
    size_t len;
} writing_t;

static void begin_writing(writing_t *writing)
{
    writing->text = NULL;
    writing->file = open_memstream(&writing->text, &writing->len);
    assert(writing->file != NULL);
}

static void answer_written(h2o_req_t *req, const char *type, writing_t *writing)
{
    int failed = fclose(writing->file);
    assert(failed == 0);
    h2o_iovec_t body = h2o_strdup(&req->pool, writing->text, writing->len);
    free(writing->text);
    answer(req, 200, type, body);
}

/* -- the page for people ------------------------------------------------------------------------------------------ */

static const char page_start[] = "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>weir</title>\n"
                                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<style>";
static const char page_style[] =
    "\n:root { color-scheme: light dark }\n"
    "body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }\n"
    "a { margin-right: 1em }\npre { font-size: 13px; overflow-x: auto }\n";
static const char page_middle[] =
    "</style>\n<h1>weir</h1>\n<p id=\"line\" role=\"status\"></p>\n"
    "<p><a href=\"status\">status</a><a href=\"metrics\">metrics</a><a href=\"config\">configuration</a>"
    "<a href=\"healthz\">healthz</a><a href=\"readyz\">readyz</a></p>\n<pre id=\"status\"></pre>\n<script>";
static const char page_script[] =
    "\nasync function show() {\n"
    "    const line = document.getElementById('line');\n"
    "    try {\n"
    "        const now = await (await fetch('status')).json();\n"
    "        const state = now.draining ? 'draining' : now.ready ? 'ready' : 'starting';\n"
    "        line.textContent = `${now.version}, ${state}, up ${now.uptime_seconds} s, ` +\n"
    "            `${now.connections} connections, ${now.in_flight} requests in flight`;\n"
    "        document.getElementById('status').textContent = JSON.stringify(now, null, 2);\n"
    "    } catch {\n"
    "        line.textContent = 'weir does not answer';\n"
    "    }\n"
    "    setTimeout(show, 1000);\n"
    "}\n"
    "show();\n";
static const char page_end[] = "</script>\n</html>\n";

/* 'sha256-...' of what stands inside a script or style element (CSP level 3, 6.7.3.3). */
static void write_source_hash(FILE *file, const char *text)
{
    unsigned char digest[32], base64[48];
    int made = EVP_Digest(text, strlen(text), digest, NULL, EVP_sha256(), NULL);
    assert(made == 1);
    EVP_EncodeBlock(base64, digest, sizeof(digest));
    fprintf(file, "'sha256-%s'", base64);
}

static void answer_page(h2o_req_t *req)
{
    writing_t policy, page;
    begin_writing(&policy);
    fputs("default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
          "script-src ",
          policy.file);
    write_source_hash(policy.file, page_script);
    fputs("; style-src ", policy.file);
    write_source_hash(policy.file, page_style);
    fclose(policy.file);
    add_field(req, "content-security-policy", h2o_strdup(&req->pool, policy.text, policy.len).base);
    add_field(req, "referrer-policy", "no-referrer");
    free(policy.text);
    begin_writing(&page);
    fprintf(page.file, "%s%s%s%s%s", page_start, page_style, page_middle, page_script, page_end);
    answer_written(req, "text/html; charset=utf-8", &page);
}

/* -- /status ------------------------------------------------------------------------------------------------------ */

static const char *format_time(char text[32], int64_t wall_ms)
{
    time_t second = wall_ms / 1000;
    struct tm tm;
    gmtime_r(&second, &tm);
    strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
    return text;
}

/* In the notation of the configuration: the largest unit that leaves a whole number. */
static const char *format_duration(char text[32], int64_t ns)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {{"h", INT64_C(3600000000000)}, {"m", INT64_C(60000000000)}, {"s", 1000000000}, {"ms", 1000000}};
    size_t i = 0;
    while (i != 3 && ns % units[i].ns != 0)
        ++i;
    snprintf(text, 32, "%" PRId64 "%s", ns / units[i].ns, units[i].name);
    return text;
}

static const char *format_rate(char text[32], weir_conf_rate_t rate)
{
    int64_t seconds = rate.period_ns / 1000000000;
    const char *unit = seconds == 1 ? "s" : seconds == 60 ? "m" : seconds == 3600 ? "h" : "d";
    snprintf(text, 32, "%" PRId64 "/%s", rate.count, unit);
    return text;
}

/* Sum over all workers of a gauge that has a listener. */
static int64_t gauge_of(weir_server_t *server, weir_metric_t metric, const char *listener)
{
    return weir_metrics_value(server->metrics, weir_metrics_series(server->metrics, NULL, metric, &listener));
}

static void write_config(weir_json_out_t *out, weir_server_t *server)
{
    char text[32];
    weir_json_out_open(out, "config", '{');
    weir_json_out_string(out, "file", server->snapshot->conf->file);
    weir_json_out_string(out, "loaded_at", format_time(text, server->loaded_wall_ms));
    weir_json_out_open(out, "last_reload_errors", '[');
    char *errors = strdup(server->last_reload_errors != NULL ? server->last_reload_errors : ""), *rest = errors, *line;
    assert(errors != NULL);
    while ((line = strsep(&rest, "\n")) != NULL)
        if (*line != '\0')
            weir_json_out_string(out, NULL, line);
    free(errors);
    weir_json_out_close(out, ']');
    weir_json_out_close(out, '}');
}

static void write_quota(weir_json_out_t *out, const weir_conf_limit_t *limit)
{
    char text[32];
    weir_json_out_open(out, "quota", '{');
    if (limit->algorithm == WEIR_LIMIT_TOKEN_BUCKET) {
        weir_json_out_string(out, "rate", format_rate(text, limit->quota.rate));
        weir_json_out_integer(out, "burst", limit->quota.burst);
    } else {
        weir_json_out_integer(out, "limit", limit->quota.limit);
        weir_json_out_string(out, "window", format_duration(text, limit->quota.window_ns));
    }
    weir_json_out_close(out, '}');
}

static void write_limit(weir_json_out_t *out, weir_server_t *server, const weir_conf_limit_t *limit)
{
    bool is_bucket = limit->algorithm == WEIR_LIMIT_TOKEN_BUCKET;
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", limit->name);
    weir_json_out_string(out, "algorithm", is_bucket ? "token_bucket" : "sliding_window");
    weir_json_out_string(out, "mode", limit->mode == WEIR_LIMIT_SHADOW ? "shadow" : "enforce");
    write_quota(out, limit);
    weir_json_out_integer(out, "keys", (int64_t)server->store->limit_keys(server->store, limit->name));
    weir_json_out_integer(out, "max_keys", limit->max_keys);
    weir_json_out_close(out, '}');
}

static void write_upstream(weir_json_out_t *out, const weir_conf_upstream_t *conf, const weir_upstream_t *upstream)
{
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", conf->name);
    weir_json_out_string(out, "url", conf->url.text);
    weir_json_out_integer(out, "active", (int64_t)weir_upstream_active(upstream));
    weir_json_out_integer(out, "idle", (int64_t)weir_upstream_idle(upstream));
    weir_json_out_close(out, '}');
}

static void write_route(weir_json_out_t *out, const weir_conf_t *conf, const weir_conf_route_t *route)
{
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "path", route->path);
    weir_json_out_open(out, "methods", '[');
    for (size_t i = 0; i != route->methods.size; ++i)
        weir_json_out_string(out, NULL, route->methods.entries[i]);
    weir_json_out_close(out, ']');
    weir_json_out_string(out, "host", route->host);
    weir_json_out_string(out, "upstream", conf->upstreams.entries[route->upstream].name);
    weir_json_out_open(out, "limits", '[');
    for (size_t i = 0; i != route->limits.size; ++i)
        weir_json_out_string(out, NULL, conf->limits.entries[route->limits.entries[i]].name);
    weir_json_out_close(out, ']');
    weir_json_out_close(out, '}');
}

static void write_listener(weir_json_out_t *out, weir_server_t *server, const weir_conf_listener_t *listener)
{
    weir_json_out_open(out, NULL, '{');
    weir_json_out_string(out, "name", listener->name);
    weir_json_out_string(out, "address", listener->address.text);
    weir_json_out_integer(out, "connections", gauge_of(server, WEIR_METRIC_CONNECTIONS, listener->name));
    weir_json_out_integer(out, "in_flight", gauge_of(server, WEIR_METRIC_IN_FLIGHT, listener->name));
    weir_json_out_open(out, "routes", '[');
    for (size_t i = 0; i != listener->routes.size; ++i)
        write_route(out, server->snapshot->conf, &listener->routes.entries[i]);
    weir_json_out_close(out, ']');
    weir_json_out_close(out, '}');
}

static void write_process(weir_json_out_t *out, weir_server_t *server)
{
    const weir_conf_t *conf = server->snapshot->conf;
    char text[32];
    int64_t in_flight = 0;
    for (size_t i = 0; i != conf->listeners.size; ++i)
        in_flight += gauge_of(server, WEIR_METRIC_IN_FLIGHT, conf->listeners.entries[i].name);
    weir_json_out_string(out, "version", WEIR_VERSION);
    weir_json_out_string(out, "started_at", format_time(text, server->started_wall_ms));
    weir_json_out_integer(out, "uptime_seconds", (weir_clock_wall_ms() - server->started_wall_ms) / 1000);
    weir_json_out_bool(out, "ready", server->ready && !server->draining);
    weir_json_out_bool(out, "draining", server->draining);
    weir_json_out_integer(out, "workers", (int64_t)server->worker_count);
    weir_json_out_integer(out, "connections", (int64_t)server->connections);
    weir_json_out_integer(out, "in_flight", in_flight);
    write_config(out, server);
}

static void answer_status(h2o_req_t *req)
{
    weir_server_t *server = server_of(req);
    const weir_conf_t *conf = server->snapshot->conf;
    writing_t writing;
    begin_writing(&writing);
    weir_json_out_t out = {writing.file, false};
    weir_json_out_open(&out, NULL, '{');
    write_process(&out, server);
    weir_json_out_open(&out, "listeners", '[');
    for (size_t i = 0; i != conf->listeners.size; ++i)
        write_listener(&out, server, &conf->listeners.entries[i]);
    weir_json_out_close(&out, ']');
    weir_json_out_open(&out, "limits", '[');
    for (size_t i = 0; i != conf->limits.size; ++i)
        write_limit(&out, server, &conf->limits.entries[i]);
    weir_json_out_close(&out, ']');
    weir_json_out_open(&out, "upstreams", '[');
    for (size_t i = 0; i != conf->upstreams.size; ++i)
        write_upstream(&out, &conf->upstreams.entries[i], server->snapshot->upstreams[i]);
    weir_json_out_close(&out, ']');
    weir_json_out_close(&out, '}');
    answer_written(req, "application/json", &writing);
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

static void collect_named(weir_server_t *server)
{
    const weir_conf_t *conf = server->snapshot->conf;
    weir_metrics_clear(server->metrics, WEIR_METRIC_LIMIT_KEYS);
    for (size_t i = 0; i != conf->limits.size; ++i) {
        const char *name = conf->limits.entries[i].name;
        set_gauge(server, WEIR_METRIC_LIMIT_KEYS, &name, (double)server->store->limit_keys(server->store, name));
        show(server, WEIR_METRIC_LIMIT_OVERFLOW, name);
    }
    for (size_t i = 0; i != conf->listeners.size; ++i) {
        show(server, WEIR_METRIC_CONNECTIONS, conf->listeners.entries[i].name);
        show(server, WEIR_METRIC_IN_FLIGHT, conf->listeners.entries[i].name);
    }
}

static void collect(weir_server_t *server)
{
    const char *version = WEIR_VERSION;
    set_gauge(server, WEIR_METRIC_BUILD_INFO, &version, 1);
    set_gauge(server, WEIR_METRIC_CONFIG_LOADED_TIMESTAMP, NULL, (double)server->loaded_wall_ms / 1000);
    set_gauge(server, WEIR_METRIC_LOG_DROPPED, NULL, (double)weir_log_dropped(server->log));
    set_gauge(server, WEIR_METRIC_STORE_UP, NULL, 1); /* the store is this process */
    set_gauge(server, WEIR_METRIC_STORE_DEGRADED, NULL, 0);
    show(server, WEIR_METRIC_CONFIG_RELOADS, "ok");
    show(server, WEIR_METRIC_CONFIG_RELOADS, "error");
    collect_named(server);
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
    collect(server_of(req));
    char *text = weir_metrics_render(server_of(req)->metrics, open_metrics, &len);
    h2o_iovec_t body = h2o_strdup(&req->pool, text, len);
    free(text);
    add_field(req, "vary", "accept");
    answer(req, 200,
           open_metrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                        : "text/plain; version=0.0.4; charset=utf-8",
           body);
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
    bool alive = is_alive(server_of(req));
    answer_text(req, alive ? 200 : 503, alive ? "ok\n" : "a worker's loop does not turn\n");
}

static void answer_readyz(h2o_req_t *req)
{
    weir_server_t *server = server_of(req);
    bool ready = server->ready && !server->draining;
    answer_text(req, ready ? 200 : 503, ready ? "ready\n" : server->draining ? "draining\n" : "starting\n");
}

static void answer_config(h2o_req_t *req)
{
    writing_t writing;
    begin_writing(&writing);
    weir_conf_print(conf_of(req), writing.file);
    answer_written(req, "text/plain; charset=utf-8", &writing);
}

static void answer_reload(h2o_req_t *req)
{
    char *errors = NULL;
    if (weir_server_reload(server_of(req), &errors))
        answer(req, 200, "application/json", h2o_iovec_init(H2O_STRLIT("{\"status\":\"ok\"}\n")));
    else
        answer_text(req, 422, errors != NULL ? errors : "");
    free(errors);
}

/* -- who may ask for what ----------------------------------------------------------------------------------------- */

typedef struct {
    const char *path;
    const char *method; /* GET answers HEAD too */
    bool on_metrics;    /* on the metrics listener as well */
    bool needs_token;
    void (*answer)(h2o_req_t *req);
} page_t;

static const page_t pages[] = {
    {"/", "GET", false, true, answer_page},          {"/status", "GET", false, true, answer_status},
    {"/metrics", "GET", true, true, answer_metrics}, {"/healthz", "GET", true, false, answer_healthz},
    {"/readyz", "GET", true, false, answer_readyz},  {"/config", "GET", false, true, answer_config},
    {"/reload", "POST", false, true, answer_reload},
};

static const page_t *find_page(h2o_req_t *req, bool is_admin)
{
    const char *query = memchr(req->path.base, '?', req->path.len);
    size_t len = query != NULL ? (size_t)(query - req->path.base) : req->path.len;
    for (size_t i = 0; i != sizeof(pages) / sizeof(*pages); ++i)
        if ((is_admin || pages[i].on_metrics) && h2o_memis(req->path.base, len, pages[i].path, strlen(pages[i].path)))
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

/* A browser says where a POST comes from; other clients say nothing. */
static bool is_same_origin(h2o_req_t *req)
{
    ssize_t i = h2o_find_header_by_str(&req->headers, H2O_STRLIT("origin"), -1);
    if (i == -1)
        return true;
    h2o_iovec_t origin = req->headers.entries[i].value;
    h2o_iovec_t own = h2o_concat(&req->pool, h2o_iovec_init(H2O_STRLIT("http://")), req->authority);
    return h2o_lcstris(origin.base, origin.len, own.base, own.len);
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
        add_field(req, "www-authenticate", "Bearer realm=\"weir\"");
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
    bool is_get = strcmp(page->method, "GET") == 0;
    if (!is_method(req, page->method) && !(is_get && is_method(req, "HEAD"))) {
        add_field(req, "allow", is_get ? "GET, HEAD" : page->method);
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
