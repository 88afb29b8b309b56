#include "force.h"

#include <string.h>
#include "admin.h"
#include "health.h"
#include "json_out.h"
#include "page.h"
#include "upstream.h"

static const char page_name[] = "/breaker";

/* Which upstream the path names; conf->upstreams.size: none. */
static size_t find_upstream(const weir_conf_t *conf, h2o_iovec_t path)
{
    const size_t before = strlen(WEIR_FORCE_UPSTREAMS), behind = sizeof(page_name) - 1;
    size_t i = 0;
    if (path.len < before + behind || memcmp(path.base + path.len - behind, page_name, behind) != 0)
        return conf->upstreams.size;
    while (i != conf->upstreams.size && !h2o_memis(path.base + before, path.len - before - behind,
                                                   conf->upstreams.entries[i].name, strlen(conf->upstreams.entries[i].name)))
        ++i;
    return i;
}

static void refuse_name(h2o_req_t *req, const weir_conf_t *conf)
{
    weir_page_list_t names = {0};
    for (size_t i = 0; i != conf->upstreams.size; ++i)
        weir_page_list_add(&names, conf->upstreams.entries[i].name);
    weir_admin_refuse(req, WEIR_REASON_NO_ROUTE, 404,
                      weir_page_format(req, "There is no such page; there is %sNAME%s for %s.", WEIR_FORCE_UPSTREAMS, page_name,
                                       names.len != 0 ? names.text : "no upstream"));
}

static bool find_force(h2o_iovec_t query, weir_breaker_force_t *force)
{
    static const char *const words[] = {
        [WEIR_BREAKER_AUTO] = "state=auto", [WEIR_BREAKER_FORCE_OPEN] = "state=open", [WEIR_BREAKER_FORCE_CLOSED] = "state=closed"};
    for (size_t i = 0; i != sizeof(words) / sizeof(*words); ++i)
        if (h2o_memis(query.base, query.len, words[i], strlen(words[i]))) {
            *force = (weir_breaker_force_t)i;
            return true;
        }
    return false;
}

static void answer_state(h2o_req_t *req, const weir_conf_upstream_t *conf, weir_health_t *health)
{
    weir_page_writing_t writing;
    weir_page_begin(&writing);
    weir_json_out_t out = {writing.file, false};
    weir_json_out_open(&out, NULL, '{');
    weir_json_out_string(&out, "upstream", conf->name);
    weir_json_out_string(&out, "state", weir_health_state(health, conf, 0).word);
    weir_json_out_close(&out, '}');
    weir_page_answer_written(req, "application/json", &writing);
}

void weir_force_answer(h2o_req_t *req)
{
    weir_server_t *server = weir_page_server(req);
    const weir_conf_t *conf = server->snapshot->conf;
    h2o_iovec_t query, path = weir_page_path(req, &query);
    size_t upstream = find_upstream(conf, path);
    weir_breaker_force_t force;
    char peer[64];
    if (upstream == conf->upstreams.size) {
        refuse_name(req, conf);
        return;
    }
    if (!conf->upstreams.entries[upstream].breaker.enabled) {
        weir_admin_refuse(req, WEIR_REASON_UNSUPPORTED, 409, "This upstream has no breaker: its breaker is false.");
        return;
    }
    if (!find_force(query, &force)) {
        weir_admin_refuse(req, WEIR_REASON_MALFORMED, 400, "Write state=open, state=closed or state=auto.");
        return;
    }
    weir_health_t *health = weir_upstream_health(server->snapshot->upstreams[upstream]);
    weir_health_force(health, server->control, force);
    weir_log_event(WEIR_LOG_WARN, "upstream %s: %s asks for the breaker's %.*s", conf->upstreams.entries[upstream].name,
                   weir_page_peer(req, peer), (int)query.len, query.base);
    answer_state(req, &conf->upstreams.entries[upstream], health);
}
