/* The judge: keys, and what they have used. */
#include "judge_parts.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_TEXT_MAX = 512 };

bool judge_is_bucket(const weir_conf_limit_t *conf)
{
    return conf->algorithm == WEIR_LIMIT_TOKEN_BUCKET;
}

bool judge_is_slots(const weir_conf_limit_t *conf)
{
    return conf->algorithm == WEIR_LIMIT_CONCURRENCY;
}

/* The late end of what a window may say. */
static bool is_late(const weir_conf_limit_t *conf)
{
    return conf->precision == WEIR_PRECISION_SLOTS;
}

int64_t judge_size_of(const weir_conf_limit_t *conf, const weir_conf_quota_t *quota)
{
    return judge_is_bucket(conf) ? quota->burst : quota->limit;
}

const char *judge_tenant_of(const sim_call_t *call)
{
    return call->tenant != NULL ? call->tenant : "anonymous";
}

const weir_conf_quota_t *judge_quota_of(const weir_conf_limit_t *conf, const sim_call_t *call)
{
    for (size_t i = 0; i < conf->tenants.size; ++i)
        if (strcmp(conf->tenants.entries[i].tenant, judge_tenant_of(call)) == 0)
            return &conf->tenants.entries[i].quota;
    return &conf->quota;
}

model_rate_t judge_rate_of(const judge_row_t *row, const weir_conf_quota_t *quota)
{
    weir_conf_rate_t rate = row->is_shared ? quota->rate : row->rate;
    return (model_rate_t){rate.count, rate.period_ns, quota->burst};
}

size_t judge_limit_called(judge_t *judge, const char *name)
{
    for (size_t i = 0; i < judge->limit_count; ++i)
        if (strcmp(judge->limits[i].name, name) == 0)
            return i;
    assert(judge->limit_count < SIM_LIMITS_MAX);
    judge->limits[judge->limit_count].name = strdup(name);
    return judge->limit_count++;
}

static const char *part_of(const weir_conf_key_part_t *part, const sim_call_t *call, const weir_str_t *correlation)
{
    static char route[24], id[WEIR_CORRELATION_ID_MAX + 1];
    switch (part->kind) {
    case WEIR_KEY_TENANT:
        return judge_tenant_of(call);
    case WEIR_KEY_ROUTE:
        snprintf(route, sizeof(route), "%zu", call->route);
        return route;
    case WEIR_KEY_MODEL:
        return call->model != NULL ? call->model : "";
    case WEIR_KEY_CLIENT_IP:
        return call->client_ip != NULL ? call->client_ip : "";
    case WEIR_KEY_CORRELATION:
        snprintf(id, sizeof(id), "%.*s", (int)correlation->len, correlation->base);
        return id;
    case WEIR_KEY_HEADER:
        return call->team != NULL ? call->team : "\t";
    }
    return "";
}

static void write_key(char key[KEY_TEXT_MAX], const weir_conf_limit_t *conf, const sim_call_t *call,
                      weir_str_t correlation)
{
    size_t at = (size_t)snprintf(key, KEY_TEXT_MAX, "%s", conf->name);
    for (size_t i = 0; i < conf->key.size; ++i)
        at += (size_t)snprintf(key + at, KEY_TEXT_MAX - at, "\n%s", part_of(&conf->key.entries[i], call, &correlation));
    assert(at < KEY_TEXT_MAX);
}

static uint64_t hash_of(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *text != 0; ++text)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return hash;
}

static judge_row_t *row_create(size_t limit, const char *key, const sim_call_t *call)
{
    judge_row_t *row = calloc(1, sizeof(*row) + strlen(key) + 1);
    assert(row != NULL);
    row->limit = limit;
    row->call = *call;
    strcpy(row->key, key);
    return row;
}

void judge_see_rate(judge_t *judge, judge_row_t *row)
{
    const weir_conf_limit_t *conf = judge->limits[row->limit].conf;
    if (conf != NULL)
        row->rate = judge_quota_of(conf, &row->call)->rate;
}

judge_row_t *judge_row_of(judge_t *judge, const weir_conf_limit_t *conf, const sim_call_t *call, weir_str_t correlation)
{
    char key[KEY_TEXT_MAX];
    write_key(key, conf, call, correlation);
    uint64_t hash = hash_of(key);
    judge_row_t **at = &judge->rows[hash % JUDGE_BUCKETS];
    for (; *at != NULL; at = &(*at)->next)
        if ((*at)->hash == hash && strcmp((*at)->key, key) == 0)
            return *at;
    *at = row_create(judge_limit_called(judge, conf->name), key, call);
    (*at)->hash = hash;
    judge_see_rate(judge, *at);
    ++judge->limits[(*at)->limit].row_count;
    return *at;
}

judge_row_t *judge_shared_row(judge_t *judge, const weir_conf_limit_t *conf, const sim_call_t *call)
{
    judge_limit_t *limit = &judge->limits[judge_limit_called(judge, conf->name)];
    if (limit->shared == NULL) {
        limit->shared = row_create(judge_limit_called(judge, conf->name), "shared", call);
        limit->shared->is_shared = true;
    }
    return limit->shared;
}

/* ---- what a row says ---- */

bool judge_row_fits(judge_row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, int64_t cost,
                    bool late, int64_t now_ns)
{
    if (judge_is_slots(conf) && cost == 0)
        return true;
    if (judge_is_slots(conf))
        return late ? row->held + row->told < quota->limit && row->waiting == 0 : row->held < quota->limit;
    if (cost == 0 && conf->unit == WEIR_UNIT_REQUEST_BYTES)
        return !judge_is_bucket(conf) || quota->rate.count != 0;
    cost += row->reserved;
    if (judge_is_bucket(conf))
        return model_bucket_fits(&row->bucket, judge_rate_of(row, quota), cost, now_ns);
    return model_window_used(&row->window, quota->window_ns, late && is_late(conf), now_ns) + cost <= quota->limit;
}

int64_t judge_row_retry_ns(judge_row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota,
                           int64_t cost, bool late, int64_t now_ns)
{
    if (judge_is_slots(conf))
        return 0;
    cost += row->reserved;
    if (conf->unit == WEIR_UNIT_LLM_TOKENS && cost > judge_size_of(conf, quota))
        cost = judge_size_of(conf, quota);
    if (judge_is_bucket(conf))
        return model_bucket_retry_ns(&row->bucket, judge_rate_of(row, quota), cost, now_ns);
    return model_window_retry_ns(&row->window, quota->window_ns, quota->limit, late && is_late(conf), cost, now_ns);
}

int64_t judge_row_remaining(judge_row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota, bool late,
                            int64_t now_ns)
{
    int64_t there;
    if (judge_is_slots(conf))
        there = quota->limit - row->held - (late ? row->told : 0);
    else if (judge_is_bucket(conf))
        there = model_bucket_remaining(&row->bucket, judge_rate_of(row, quota), now_ns);
    else
        there = quota->limit - model_window_used(&row->window, quota->window_ns, late && is_late(conf), now_ns);
    there -= row->reserved;
    return there > 0 ? there : 0;
}

static void row_spend(judge_row_t *row, const weir_conf_limit_t *conf, const weir_conf_quota_t *quota,
                      judge_item_t *item, int64_t cost, int64_t now_ns)
{
    if (cost == 0)
        return;
    if (judge_is_bucket(conf))
        model_bucket_take(&row->bucket, judge_rate_of(row, quota), cost, now_ns);
    else
        item->charge = model_window_take(&row->window, cost, now_ns);
}

void judge_charge(judge_item_t *item, int64_t now_ns)
{
    item->is_charged = true;
    item->charged_ns = now_ns;
    if (judge_is_slots(item->conf))
        item->row->held += item->cost;
    else if (item->conf->unit == WEIR_UNIT_LLM_TOKENS)
        item->row->reserved += item->cost;
    else
        row_spend(item->row, item->conf, item->quota, item, item->cost, now_ns);
}

static void row_put_back(judge_item_t *item, int64_t cost, int64_t now_ns)
{
    if (cost == 0)
        return;
    if (judge_is_bucket(item->conf))
        model_bucket_put_back(&item->row->bucket, judge_rate_of(item->row, item->quota), cost, item->charged_ns,
                              now_ns);
    else
        model_window_put_back(&item->row->window, item->charge, cost);
}

void judge_refund(judge_item_t *item, int64_t now_ns)
{
    if (judge_is_slots(item->conf))
        item->row->held -= item->cost;
    else if (item->conf->unit == WEIR_UNIT_LLM_TOKENS)
        item->row->reserved -= item->cost;
    else
        row_put_back(item, item->cost, now_ns);
}

void judge_settle(judge_item_t *item, const sim_request_t *request, const weir_outcome_t *outcome)
{
    const weir_usage_t *usage = &request->request.usage;
    int64_t spent = 0;
    if (judge_is_slots(item->conf))
        item->row->held -= item->cost;
    if (item->cost == 0) /* it began a chain, or has no body */
        return;
    if (item->conf->unit == WEIR_UNIT_LLM_TOKENS) {
        item->row->reserved -= item->cost;
        spent = outcome->answered && request->request.has_usage ? usage->weighted : 0;
    } else if (item->conf->unit == WEIR_UNIT_REQUEST_BYTES) {
        spent = outcome->body_bytes > item->cost ? outcome->body_bytes - item->cost : 0;
        row_put_back(item, item->cost - (outcome->body_bytes - spent), outcome->now_ns);
    }
    row_spend(item->row, item->conf, item->quota, item, spent, outcome->now_ns);
}
