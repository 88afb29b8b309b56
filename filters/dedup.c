/* Nothing twice: a request whose key was seen is answered with what the first one got, or is getting, or with a refusal.
 * The first one runs; what became of it is told at its call's end. */
#include "dedup.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "dedup_key.h"
#include "fields.h"
#include "limit_key.h"
#include "stream.h"

const char *const weir_dedup_words[WEIR_DEDUP_RESULTS] = {
    [WEIR_DEDUP_NONE] = "",
    [WEIR_DEDUP_FIRST] = "first",
    [WEIR_DEDUP_REPLAYED] = "replayed",
    [WEIR_DEDUP_ACKNOWLEDGED] = "acknowledged",
    [WEIR_DEDUP_REJECTED] = "rejected",
    [WEIR_DEDUP_SHARED] = "shared",
    [WEIR_DEDUP_MISMATCH] = "mismatch",
    [WEIR_DEDUP_BYPASSED] = "bypassed",
    [WEIR_DEDUP_FORGOTTEN] = "forgotten",
};

enum { LOSSES_MAX = 2, METHOD_BYTES_MAX = 64 };

static const int64_t FULL_RETRY_NS = 1000000000;

/* One dedup of a configuration. */
typedef struct {
    const weir_conf_dedup_t *conf;
    weir_store_dedup_t *state;
    weir_dedup_keys_t keys;
    weir_str_t bypass; /* the header's name in lower case; base NULL: none */
} entry_t;

struct weir_dedups {
    const weir_conf_t *conf;
    weir_store_t *store;
    entry_t *entries;          /* of conf->dedup */
    weir_store_key_t **routes; /* of each listener, of each route: what it adds to a key */
};

/*   IDLE --body--> asked --> PENDING --> collected: as if answered at once
 *                    |----> RUNNING --> done
 *                    |----> SHARING --LOST--> asked again
 *                    '----> ANSWERED */
typedef enum { IDLE, WAITS_FOR_BODY, PENDING, RUNNING, SHARING, ANSWERED } phase_t;

typedef struct {
    const entry_t *entry;      /* NULL: the route has none, or it is not for this request */
    weir_store_claim_t *claim; /* NULL: it has no key */
    uint8_t phase, losses;
    bool is_protected, is_full;
} state_t;

/* --- the instance --- */

static void *zeroed(size_t count, size_t size)
{
    void *memory = calloc(count != 0 ? count : 1, size);
    assert(memory != NULL);
    return memory;
}

static weir_store_key_t *route_keys(weir_store_t *store, const weir_conf_listener_t *listener)
{
    weir_store_key_t *keys = zeroed(listener->routes.size, sizeof(*keys));
    for (size_t i = 0; i < listener->routes.size; ++i)
        keys[i] = weir_limit_key_route(store, listener, &listener->routes.entries[i]);
    return keys;
}

static void *dedup_create(const weir_conf_t *conf, weir_store_t *store)
{
    weir_dedups_t *self = zeroed(1, sizeof(*self));
    entry_t *entries = zeroed(conf->dedup.size, sizeof(*entries));
    weir_store_key_t **routes = zeroed(conf->listeners.size, sizeof(*routes));
    for (size_t i = 0; i < conf->listeners.size; ++i)
        routes[i] = route_keys(store, &conf->listeners.entries[i]);
    for (size_t i = 0; i < conf->dedup.size; ++i) {
        entries[i].conf = &conf->dedup.entries[i];
        entries[i].state = store->dedup_acquire(store, entries[i].conf);
        weir_dedup_keys_init(&entries[i].keys, entries[i].conf);
        if (entries[i].conf->bypass != NULL)
            entries[i].bypass = weir_fields_lower(entries[i].conf->bypass);
    }
    *self = (weir_dedups_t){.conf = conf, .store = store, .entries = entries, .routes = routes};
    return self;
}

static void dedup_destroy(void *instance)
{
    weir_dedups_t *self = instance;
    for (size_t i = 0; i < self->conf->dedup.size; ++i) {
        self->store->dedup_release(self->store, self->entries[i].state);
        weir_dedup_keys_dispose(&self->entries[i].keys);
        free((char *)self->entries[i].bypass.base);
    }
    for (size_t i = 0; i < self->conf->listeners.size; ++i)
        free(self->routes[i]);
    free(self->routes);
    free(self->entries);
    free(self);
}

/* --- whether it is for this request --- */

static bool has_method(const weir_conf_dedup_t *conf, weir_str_t method)
{
    for (size_t i = 0; i < conf->methods.size; ++i)
        if (weir_fields_equal(method, weir_fields_text(conf->methods.entries[i])))
            return true;
    return false;
}

static const entry_t *entry_of(const weir_dedups_t *self, const weir_request_t *request)
{
    if (request->route == NULL || request->route->dedup >= self->conf->dedup.size || request->wants_tunnel)
        return NULL;
    const entry_t *entry = &self->entries[request->route->dedup];
    return has_method(entry->conf, request->method) ? entry : NULL;
}

/* A replay drill runs again on purpose. Nobody who is not trusted says so, here or further on. */
static bool is_bypassed(const entry_t *entry, weir_request_t *request)
{
    if (entry->bypass.base == NULL)
        return false;
    weir_fields_seen_t seen = weir_fields_see(request, entry->bypass);
    if (seen.count != 0 && !request->trusted) {
        weir_fields_drop(request, entry->bypass);
        request->identity_ignored = true;
    }
    return seen.count == 1 && request->trusted && weir_fields_equal(seen.value, weir_fields_text("replay-drill"));
}

/* --- the claim --- */

static weir_store_key_t store_key(const weir_dedups_t *self, const weir_request_t *request, weir_str_t method,
                                  const weir_dedup_key_t *key)
{
    weir_store_t *store = self->store;
    size_t listener = (size_t)(request->listener - self->conf->listeners.entries);
    assert(listener < self->conf->listeners.size);
    size_t route = (size_t)(request->route - request->listener->routes.entries);
    assert(route < request->listener->routes.size);
    struct {
        weir_store_key_t route;
        uint16_t lens[3];
        char text[WEIR_TENANT_MAX + METHOD_BYTES_MAX + WEIR_DEDUP_KEY_PARTS_MAX];
    } all = {.route = self->routes[listener][route],
             .lens = {(uint16_t)request->tenant.len, (uint16_t)method.len, (uint16_t)key->len}};
    assert(request->tenant.len <= WEIR_TENANT_MAX);
    char *at = mempcpy(all.text, request->tenant.base, request->tenant.len);
    at = mempcpy(at, method.base, method.len < METHOD_BYTES_MAX ? method.len : METHOD_BYTES_MAX);
    at = mempcpy(at, key->parts, key->len);
    weir_store_key_t hash = store->key(store, &all, (size_t)(at - (char *)&all));
    if (key->name.len == 0)
        return hash;
    weir_store_key_t hashes[2] = {hash, store->key(store, key->name.base, key->name.len)};
    return store->key(store, hashes, sizeof(hashes));
}

/* One event may be delivered in two forms; and of a fingerprint the key says it all. */
static bool is_compared(const weir_conf_dedup_t *conf, weir_conf_dedup_key_kind_t kind)
{
    return conf->mismatch == WEIR_MISMATCH_REJECT && (kind == WEIR_DEDUP_KEY_HEADER || kind == WEIR_DEDUP_KEY_JSON) && conf->exact;
}

static weir_verdict_t answer(state_t *state, weir_request_t *request, weir_dedup_result_t result, weir_verdict_t verdict)
{
    state->phase = ANSWERED;
    request->dedup_result = result;
    verdict.kind = WEIR_ANSWER;
    return verdict;
}

static weir_verdict_t answer_duplicate(state_t *state, weir_request_t *request)
{
    const weir_conf_dedup_t *conf = state->entry->conf;
    weir_verdict_t verdict = {.reason = WEIR_REASON_DUPLICATE, .retry_after_ns = -1};
    if (conf->on_duplicate != WEIR_ON_DUPLICATE_ACKNOWLEDGE)
        return answer(state, request, WEIR_DEDUP_REJECTED, verdict);
    verdict.status = (int)conf->acknowledge.status;
    verdict.body = conf->acknowledge.body != NULL ? conf->acknowledge.body : "";
    return answer(state, request, WEIR_DEDUP_ACKNOWLEDGED, verdict);
}

/* What is renewed by thirds of it is never unknown to the filters, which remember for a window. */
static int64_t lease_ns_of(const state_t *state)
{
    const weir_conf_dedup_t *conf = state->entry->conf;
    if (state->claim->owner == 0)
        return 0;
    return conf->lease_ns < conf->window_ns ? conf->lease_ns : conf->window_ns;
}

static weir_verdict_t run(state_t *state, weir_request_t *request)
{
    state->phase = RUNNING;
    request->dedup_result = WEIR_DEDUP_FIRST;
    request->lead = state->claim->stream;
    request->is_protected = state->is_protected;
    request->lease_ns = lease_ns_of(state);
    request->outlives_caller = state->entry->conf->abandoned == WEIR_ABANDONED_FINISH;
    return (weir_verdict_t){.kind = WEIR_PASS};
}

static void observe_claim(const weir_dedups_t *self, const state_t *state, const weir_request_t *request)
{
    const weir_observer_t *observer = request->observer;
    size_t dedup = (size_t)(state->entry - self->entries);
    if (observer == NULL)
        return;
    if (state->claim->forgotten != 0)
        observer->dedup_forgot_full(request, dedup, state->claim->forgotten);
    if (state->claim->is_false_positive)
        observer->dedup_false_positive(request, dedup);
}

static weir_verdict_t down(state_t *state, weir_request_t *request)
{
    weir_verdict_t verdict = {.reason = WEIR_REASON_STORE_DOWN, .retry_after_ns = FULL_RETRY_NS};
    if (state->entry->conf->on_failure == WEIR_DEDUP_ON_FAILURE_CLOSED)
        return answer(state, request, WEIR_DEDUP_REJECTED, verdict);
    state->phase = ANSWERED;
    request->dedup_result = WEIR_DEDUP_NONE; /* what it shared was lost */
    return (weir_verdict_t){.kind = WEIR_PASS};
}

static weir_verdict_t take_claim(const weir_dedups_t *self, weir_request_t *request, state_t *state, weir_store_claim_told_t told)
{
    const weir_store_claim_t *claim = state->claim;
    observe_claim(self, state, request);
    switch (told) {
    case WEIR_STORE_CLAIM_RUN:
        return run(state, request);
    case WEIR_STORE_CLAIM_SHARE:
        state->phase = SHARING;
        request->dedup_result = claim->is_replay ? WEIR_DEDUP_REPLAYED : WEIR_DEDUP_SHARED;
        return (weir_verdict_t){.kind = WEIR_SHARE, .is_replay = claim->is_replay, .retry_after_ns = -1};
    case WEIR_STORE_CLAIM_DUPLICATE:
        return answer_duplicate(state, request);
    case WEIR_STORE_CLAIM_IN_FLIGHT:
        return answer(state, request, WEIR_DEDUP_REJECTED,
                      (weir_verdict_t){.reason = WEIR_REASON_IN_FLIGHT, .retry_after_ns = claim->retry_after_ns});
    case WEIR_STORE_CLAIM_OTHER:
        return answer(state, request, WEIR_DEDUP_MISMATCH,
                      (weir_verdict_t){.reason = WEIR_REASON_KEY_MISMATCH,
                                       .detail = "its dedup key was used with another method, path, query or body",
                                       .retry_after_ns = -1});
    case WEIR_STORE_CLAIM_UNKNOWN:
        return answer(state, request, WEIR_DEDUP_REJECTED,
                      (weir_verdict_t){.reason = WEIR_REASON_UNKNOWN_OUTCOME, .retry_after_ns = -1});
    case WEIR_STORE_CLAIM_FULL:
        return answer(state, request, WEIR_DEDUP_REJECTED,
                      (weir_verdict_t){.reason = WEIR_REASON_OVERLOADED,
                                       .detail = "there is no room for its dedup key",
                                       .retry_after_ns = FULL_RETRY_NS});
    case WEIR_STORE_CLAIM_PENDING:
        state->phase = PENDING;
        return (weir_verdict_t){.kind = WEIR_AWAIT, .until_ns = claim->until_ns, .is_own = claim->is_own};
    case WEIR_STORE_CLAIM_DOWN:
        break;
    }
    return down(state, request);
}

static weir_verdict_t claim(const weir_dedups_t *self, weir_request_t *request, state_t *state)
{
    return take_claim(self, request, state, self->store->claim(self->store, state->claim, request->now_ns));
}

static weir_verdict_t begin_claim(const weir_dedups_t *self, weir_request_t *request, state_t *state,
                                  const weir_dedup_key_t *key)
{
    bool compares = is_compared(state->entry->conf, key->kind);
    state->claim = request->alloc(request, sizeof(*state->claim));
    *state->claim = (weir_store_claim_t){.dedup = state->entry->state,
                                         .key = store_key(self, request, request->method, key),
                                         .fingerprint = compares ? weir_dedup_fingerprint(self->store, request) : 0,
                                         .reader = request->reader,
                                         .ticket = request->ticket};
    request->key_header = key->header;
    state->is_protected = key->kind != WEIR_DEDUP_KEY_FINGERPRINT;
    return claim(self, request, state);
}

static weir_verdict_t need_body(state_t *state)
{
    state->phase = WAITS_FOR_BODY;
    return (weir_verdict_t){.kind = WEIR_NEED_BODY, .is_raw = true};
}

static weir_verdict_t ask(const weir_dedups_t *self, weir_request_t *request, state_t *state)
{
    const weir_conf_dedup_t *conf = state->entry->conf;
    weir_dedup_key_t key;
    weir_dedup_key_told_t told = weir_dedup_key_find(&state->entry->keys, self->store, request, &key);
    bool waits = request->body_bytes != 0 && request->body.base == NULL;
    switch (told) {
    case WEIR_DEDUP_KEY_NEEDS_BODY:
        return need_body(state);
    case WEIR_DEDUP_KEY_FOUND:
        return waits && is_compared(conf, key.kind) ? need_body(state) : begin_claim(self, request, state, &key);
    case WEIR_DEDUP_KEY_BAD:
        return answer(state, request, WEIR_DEDUP_REJECTED,
                      (weir_verdict_t){.reason = WEIR_REASON_KEY_INVALID,
                                       .detail = "its dedup key is empty, longer than 255 bytes, has control bytes, or is there twice",
                                       .retry_after_ns = -1});
    case WEIR_DEDUP_KEY_ABSENT:
        break;
    }
    if (conf->required)
        return answer(state, request, WEIR_DEDUP_REJECTED,
                      (weir_verdict_t){.reason = WEIR_REASON_KEY_MISSING,
                                       .detail = "this route runs only requests that have a dedup key",
                                       .retry_after_ns = -1});
    state->entry = NULL;
    return (weir_verdict_t){.kind = WEIR_PASS};
}

static weir_verdict_t dedup_admit(void *instance, weir_request_t *request, void *state_)
{
    const weir_dedups_t *self = instance;
    state_t *state = state_;
    state->entry = entry_of(self, request);
    if (state->entry == NULL)
        return (weir_verdict_t){.kind = WEIR_PASS};
    if (!is_bypassed(state->entry, request))
        return ask(self, request, state);
    request->dedup_result = WEIR_DEDUP_BYPASSED;
    return (weir_verdict_t){.kind = WEIR_PASS};
}

/* That those who ran it left is no answer to one who stayed. */
static weir_verdict_t error_of(const weir_stream_end_t *end)
{
    if (end->reason == WEIR_REASON_CLIENT_GONE)
        return (weir_verdict_t){.reason = WEIR_REASON_RESET, .detail = "those whose answer it shared left", .retry_after_ns = -1};
    return (weir_verdict_t){.reason = end->reason, .detail = end->detail, .retry_after_ns = -1};
}

/* What it shared was lost: it asks again, and may be the next to run. */
static weir_verdict_t share_again(const weir_dedups_t *self, weir_request_t *request, state_t *state)
{
    weir_stream_view_t view;
    weir_stream_look(request->reader, &view);
    assert(view.state == WEIR_STREAM_LOST);
    weir_stream_leave(request->reader);
    if (view.end.is_unknown && state->entry->conf->on_unknown == WEIR_ON_UNKNOWN_REJECT)
        return answer(state, request, WEIR_DEDUP_REJECTED,
                      (weir_verdict_t){.reason = WEIR_REASON_UNKNOWN_OUTCOME, .retry_after_ns = -1});
    if (++state->losses == LOSSES_MAX)
        return answer(state, request, WEIR_DEDUP_SHARED, error_of(&view.end));
    return claim(self, request, state);
}

static weir_verdict_t dedup_wake(void *instance, weir_request_t *request, void *state_)
{
    const weir_dedups_t *self = instance;
    state_t *state = state_;
    if (state->phase == PENDING)
        return take_claim(self, request, state, self->store->claim_collect(self->store, state->claim, request->now_ns));
    return state->phase == SHARING ? share_again(self, request, state) : ask(self, request, state);
}

static bool dedup_renew(void *instance, weir_request_t *request, void *state_)
{
    const weir_dedups_t *self = instance;
    const state_t *state = state_;
    return state->phase != RUNNING || self->store->claim_renew(self->store, state->claim, request->now_ns);
}

static void dedup_head(void *instance, weir_request_t *request, void *state_, weir_answer_t *answer)
{
    (void)instance;
    (void)state_;
    if (request->dedup_result == WEIR_DEDUP_REPLAYED && !answer->own)
        answer->add(answer, weir_fields_text("Idempotent-Replayed"), weir_fields_text("true"));
}

/* --- the end of what ran --- */

static bool is_forgotten(const state_t *state, const weir_outcome_t *outcome)
{
    if (outcome->reason == WEIR_REASON_NONE)
        return !weir_conf_statuses_has(&state->entry->conf->keep_statuses, outcome->status);
    return !outcome->sent || (outcome->reason == WEIR_REASON_CLIENT_GONE && !outcome->answered);
}

static void end_stream(const weir_request_t *request, const weir_outcome_t *outcome, bool is_unknown)
{
    weir_stream_t *stream = request->lead;
    if (stream == NULL)
        return;
    weir_stream_end_t end = {.reason = outcome->reason, .detail = outcome->detail, .is_unknown = is_unknown};
    weir_stream_state_t state = outcome->reason == WEIR_REASON_NONE ? WEIR_STREAM_DONE
                                : weir_stream_has_head(stream)      ? WEIR_STREAM_BROKEN
                                                                    : WEIR_STREAM_LOST;
    weir_stream_end(stream, state, end);
}

static void end_run(const weir_dedups_t *self, weir_request_t *request, state_t *state, const weir_outcome_t *outcome)
{
    weir_store_claim_t *claim = state->claim;
    bool forgets = is_forgotten(state, outcome), is_unknown = !forgets && outcome->reason != WEIR_REASON_NONE;
    if (forgets)
        self->store->claim_forget(self->store, claim, outcome->now_ns);
    else if (is_unknown)
        self->store->claim_lose(self->store, claim, outcome->now_ns);
    else
        self->store->claim_commit(self->store, claim, outcome->now_ns);
    end_stream(request, outcome, is_unknown); /* who is told now finds it so */
    if (claim->stream != NULL)
        weir_stream_release(claim->stream);
    claim->stream = NULL;
    if ((forgets || is_unknown) && request->observer != NULL)
        request->observer->dedup_decided(request, (size_t)(state->entry - self->entries), WEIR_DEDUP_FORGOTTEN);
}

static void dedup_done(void *instance, weir_request_t *request, void *state_, const weir_outcome_t *outcome)
{
    const weir_dedups_t *self = instance;
    state_t *state = state_;
    if (state->phase == PENDING)
        self->store->claim_abandon(self->store, state->claim, outcome->now_ns);
    if (state->entry == NULL || request->dedup_result == WEIR_DEDUP_NONE)
        return;
    if (request->observer != NULL)
        request->observer->dedup_decided(request, (size_t)(state->entry - self->entries), request->dedup_result);
    if (state->phase == RUNNING)
        end_run(self, request, state, outcome);
    request->lead = NULL;
}

/* --- for operators --- */

/* In every route and method; returns in how many it was known. */
static size_t reset_key(const weir_dedups_t *self, size_t dedup, weir_str_t tenant, const weir_dedup_key_t *key, int64_t now_ns)
{
    const entry_t *entry = &self->entries[dedup];
    size_t count = 0;
    for (size_t i = 0; i < self->conf->listeners.size; ++i)
        for (size_t j = 0; j < self->conf->listeners.entries[i].routes.size; ++j) {
            weir_request_t request = {.listener = &self->conf->listeners.entries[i], .tenant = tenant};
            request.route = &request.listener->routes.entries[j];
            for (size_t k = 0; request.route->dedup == dedup && k < entry->conf->methods.size; ++k) {
                weir_str_t method = weir_fields_text(entry->conf->methods.entries[k]);
                count += self->store->dedup_reset(self->store, entry->state, store_key(self, &request, method, key), now_ns);
            }
        }
    return count;
}

size_t weir_dedups_reset(const weir_dedups_t *self, size_t dedup, weir_str_t tenant, weir_str_t text, int64_t now_ns)
{
    const weir_dedup_keys_t *keys = &self->entries[dedup].keys;
    weir_dedup_key_t key;
    size_t count = 0;
    for (size_t i = 0; i < keys->conf->key.size; ++i)
        if (weir_dedup_key_of_text(keys, i, text, &key))
            count += reset_key(self, dedup, tenant, &key, now_ns);
    return count;
}

weir_store_claim_told_t weir_dedups_peek(const weir_dedups_t *self, const weir_request_t *request, weir_str_t text,
                                         bool *is_replay)
{
    const entry_t *entry = entry_of(self, request);
    weir_store_claim_told_t told = WEIR_STORE_CLAIM_RUN;
    weir_dedup_key_t key;
    *is_replay = false;
    for (size_t i = 0; entry != NULL && i < entry->conf->key.size && told == WEIR_STORE_CLAIM_RUN; ++i) {
        if (!weir_dedup_key_of_text(&entry->keys, i, text, &key))
            continue;
        weir_store_claim_t claim = {.dedup = entry->state, .key = store_key(self, request, request->method, &key)};
        told = self->store->claim_peek(self->store, &claim, request->now_ns);
        *is_replay = claim.is_replay;
    }
    return told;
}

const weir_filter_t weir_filter_dedup = {
    .name = "dedup",
    .state_size = sizeof(state_t),
    .create = dedup_create,
    .destroy = dedup_destroy,
    .admit = dedup_admit,
    .wake = dedup_wake,
    .renew = dedup_renew,
    .head = dedup_head,
    .done = dedup_done,
};
