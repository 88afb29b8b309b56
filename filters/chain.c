#include "filter.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { STATE_ALIGNMENT = 16 };

typedef struct {
    const weir_filter_t *filter;
    void *instance;
    size_t state_at; /* where a request's state of it begins */
} link_t;

struct weir_chain {
    size_t count;
    link_t links[WEIR_CHAIN_FILTERS_MAX];
};

#define FILTER(name) extern const weir_filter_t weir_filter_##name;
#include "registry.def"
#undef FILTER

static const weir_filter_t *const registry[] = {
#define FILTER(name) &weir_filter_##name,
#include "registry.def"
#undef FILTER
};

_Static_assert(sizeof(registry) / sizeof(*registry) <= WEIR_CHAIN_FILTERS_MAX, "a chain has room for every filter");
_Static_assert(WEIR_CHAIN_FILTERS_MAX <= UINT8_MAX, "entered counts every filter");

weir_chain_t *weir_chain_create(const weir_conf_t *conf, weir_store_t *store)
{
    return weir_chain_create_of(registry, sizeof(registry) / sizeof(*registry), conf, store);
}

weir_chain_t *weir_chain_create_of(const weir_filter_t *const *filters, size_t count, const weir_conf_t *conf,
                                   weir_store_t *store)
{
    weir_chain_t *chain = calloc(1, sizeof(*chain));
    assert(chain != NULL);
    assert(count <= WEIR_CHAIN_FILTERS_MAX);
    size_t state_bytes = 0;
    for (size_t i = 0; i < count; ++i) {
        chain->links[i] = (link_t){filters[i], filters[i]->create(conf, store), state_bytes};
        state_bytes += (filters[i]->state_size + STATE_ALIGNMENT - 1) / STATE_ALIGNMENT * STATE_ALIGNMENT;
        assert(state_bytes <= WEIR_CHAIN_STATE_BYTES);
    }
    chain->count = count;
    return chain;
}

void weir_chain_destroy(weir_chain_t *chain)
{
    if (chain == NULL)
        return;
    for (size_t i = chain->count; i-- != 0;)
        chain->links[i].filter->destroy(chain->links[i].instance);
    free(chain);
}

void *weir_chain_instance(const weir_chain_t *chain, const char *name)
{
    for (size_t i = 0; i < chain->count; ++i)
        if (strcmp(chain->links[i].filter->name, name) == 0)
            return chain->links[i].instance;
    return NULL;
}

static void *state_of(weir_chain_run_t *run, const link_t *link)
{
    return run->state + link->state_at;
}

/* Asks the filters that were not entered yet, as long as they let the request pass. */
static weir_verdict_t admit_rest(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request,
                                 weir_verdict_t verdict)
{
    while (verdict.kind == WEIR_PASS && run->entered < chain->count) {
        const link_t *link = &chain->links[run->entered++];
        verdict = link->filter->admit(link->instance, request, state_of(run, link));
    }
    return verdict;
}

weir_verdict_t weir_chain_admit(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request)
{
    assert(run->entered == 0);
    return admit_rest(chain, run, request, (weir_verdict_t){.kind = WEIR_PASS, .retry_after_ns = -1});
}

weir_verdict_t weir_chain_wake(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request)
{
    assert(run->entered != 0);
    const link_t *link = &chain->links[run->entered - 1];
    assert(link->filter->wake != NULL);
    return admit_rest(chain, run, request, link->filter->wake(link->instance, request, state_of(run, link)));
}

bool weir_chain_renew(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request)
{
    bool goes_on = true;
    for (size_t i = 0; i < run->entered; ++i) {
        const link_t *link = &chain->links[i];
        if (link->filter->renew != NULL)
            goes_on &= link->filter->renew(link->instance, request, state_of(run, link));
    }
    return goes_on;
}

void weir_chain_head(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request, weir_answer_t *answer)
{
    for (size_t i = run->entered; i-- != 0;) {
        const link_t *link = &chain->links[i];
        if (link->filter->head != NULL)
            link->filter->head(link->instance, request, state_of(run, link), answer);
    }
}

void weir_chain_tap(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request, weir_str_t bytes)
{
    for (size_t i = run->entered; i-- != 0;) {
        const link_t *link = &chain->links[i];
        if (link->filter->tap != NULL)
            link->filter->tap(link->instance, request, state_of(run, link), bytes);
    }
}

void weir_chain_done(const weir_chain_t *chain, weir_chain_run_t *run, weir_request_t *request,
                     const weir_outcome_t *outcome)
{
    while (run->entered != 0) {
        const link_t *link = &chain->links[--run->entered];
        if (link->filter->done != NULL)
            link->filter->done(link->instance, request, state_of(run, link), outcome);
    }
}
