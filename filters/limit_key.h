#ifndef WEIR_FILTERS_LIMIT_KEY_H
#define WEIR_FILTERS_LIMIT_KEY_H

/* What a limit counts a request by.
 *
 * Guarantee: two requests have one key only if they agree in every part: each goes in with its length before it, and a
 * header that is absent, one that is empty and one that is there twice are three things. Models that are too long are
 * one model, bodies that cannot be read another, and neither is that of requests without one. Identity that an
 * untrusted peer claims is absent; a credential, which is believed from anyone, is not. */

#include "limit.h"
#include "store.h"

enum { WEIR_LIMIT_KEY_PARTS_MAX = 8 };

typedef struct {
    weir_conf_key_kind_t kind;
    weir_str_t header;  /* lower case */
    bool is_credential; /* it may name the tenant */
    bool is_secret;     /* its value is not shown: a credential, or by its name one of something */
} weir_limit_key_part_t;

typedef struct {
    size_t count;
    weir_limit_key_part_t parts[WEIR_LIMIT_KEY_PARTS_MAX];
} weir_limit_key_t;

/* For one listener's requests (NULL: of no listener); aborts when memory is short. */
void weir_limit_key_init(weir_limit_key_t *key, const weir_conf_limit_t *limit, const weir_conf_listener_t *listener);
void weir_limit_key_dispose(weir_limit_key_t *key);
bool weir_limit_key_is_same(const weir_limit_key_t *a, const weir_limit_key_t *b);
bool weir_limit_key_counts_by(const weir_conf_limit_t *limit, weir_conf_key_kind_t kind);

/* A route by what it says, so that one that a reload only moved stays the same. */
weir_store_key_t weir_limit_key_route(const weir_store_t *store, const weir_conf_listener_t *listener,
                                      const weir_conf_route_t *route);

weir_store_key_t weir_limit_key_of(const weir_limit_key_t *key, const weir_store_t *store,
                                   const weir_request_t *request, weir_store_key_t route);

/* For people: `tenant=acme model=gpt-5 header:x-user=42`, cut where it is longer. Secrets are told apart, and not
 * shown: `header:authorization=#5f3a09c1`. Returns the length, without the NUL. */
size_t weir_limit_key_name(const weir_limit_key_t *key, const weir_store_t *store, const weir_request_t *request,
                           char name[WEIR_LIMIT_KEY_NAME_MAX]);

#endif
