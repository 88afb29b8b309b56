#ifndef WEIR_TESTS_UNIT_FILTERS_REQUEST_H
#define WEIR_TESTS_UNIT_FILTERS_REQUEST_H

/* A request as filters see it, with a configuration of the contract's defaults, one listener and one route. What a
 * filter made of it is read back as text, so that tests are tables of lines. After setjmp.h and cmocka.h. */

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include "../../../filters/filter.h"

enum { TEST_ALLOCATIONS_MAX = 3 * WEIR_REQUEST_FIELDS_MAX + 8, TEST_TEXT_MAX = 64 * 1024 };

typedef struct {
    weir_request_t request; /* first */
    weir_conf_t conf;
    weir_conf_tenant_source_t sources[8];
    const char *also[8];
    weir_conf_upstream_t upstream;
    weir_conf_listener_t listener;
    weir_conf_route_t route;
    weir_field_t fields[WEIR_REQUEST_FIELDS_MAX];
    weir_str_t names[WEIR_REQUEST_FIELDS_MAX];
    weir_chain_t *chain;
    weir_chain_run_t run;
    void *allocations[TEST_ALLOCATIONS_MAX];
    size_t allocation_count;
    char text[TEST_TEXT_MAX];
} test_request_t;

static inline void *test_request_keep(test_request_t *test, void *memory)
{
    assert(test->allocation_count < TEST_ALLOCATIONS_MAX && memory != NULL);
    return test->allocations[test->allocation_count++] = memory;
}

static inline void *test_request_alloc(weir_request_t *request, size_t size)
{
    return test_request_keep((test_request_t *)request, malloc(size));
}

static inline test_request_t *test_request_create(void)
{
    test_request_t *test = calloc(1, sizeof(*test));
    assert(test != NULL);
    test->sources[0] = (weir_conf_tenant_source_t){.header = "X-Tenant-ID"};
    test->also[0] = "X-Request-ID";
    weir_conf_t *conf = &test->conf;
    conf->correlation = (weir_conf_correlation_t){.header = "X-Correlation-ID", .accept = true, .traceparent = true};
    conf->correlation.also.entries = test->also;
    conf->correlation.also.size = 1;
    conf->tenant.from.entries = test->sources;
    conf->tenant.from.size = 1;
    conf->tenant.default_tenant = "anonymous";
    conf->tenant.forward_header = "X-Tenant-ID";
    conf->upstreams.entries = &test->upstream;
    conf->upstreams.size = 1;
    conf->listeners.entries = &test->listener;
    conf->listeners.size = 1;
    test->listener.name = "in";
    test->listener.tenant = &conf->tenant;
    test->listener.routes.entries = &test->route;
    test->listener.routes.size = 1;
    test->route.path = "/";

    /* time and randomness of the example in RFC 9562, A.6 */
    test->request = (weir_request_t){.conf = conf,
                                     .listener = &test->listener,
                                     .route = &test->route,
                                     .upstream = &test->upstream,
                                     .method = {"GET", 3},
                                     .target = {"/", 1},
                                     .fields = test->fields,
                                     .trusted = true,
                                     .now_ns = 1000000000,
                                     .wall_ms = 1645557742000,
                                     .random = {0xcc3, 0x18c4dc0c0c07398f},
                                     .alloc = test_request_alloc};
    test->request.peer.family = AF_INET;
    memcpy(test->request.peer.address, (uint8_t[]){127, 0, 0, 1}, 4);
    return test;
}

#define TEST_NEW_ID "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"

static inline void test_request_destroy(test_request_t *test)
{
    weir_chain_destroy(test->chain);
    while (test->allocation_count != 0)
        free(test->allocations[--test->allocation_count]);
    free(test);
}

/* Sends it through a chain of this one filter. */
static inline weir_verdict_t test_request_admit(test_request_t *test, const weir_filter_t *filter)
{
    assert(test->chain == NULL);
    test->chain = weir_chain_create_of(&filter, 1, &test->conf, NULL);
    return weir_chain_admit(test->chain, &test->run, &test->request);
}

/* A field with a value of `len` bytes, copied so that a read beyond it is seen. */
static inline void test_request_add_bytes(test_request_t *test, const char *name, const char *value, size_t len)
{
    size_t index = test->request.field_count++, name_len = strlen(name);
    assert(index < WEIR_REQUEST_FIELDS_MAX);
    char *lower = malloc(name_len), *orig = malloc(name_len), *copy = malloc(len + (len == 0));
    for (size_t i = 0; i < name_len; ++i) {
        orig[i] = name[i];
        lower[i] = (char)tolower((unsigned char)name[i]);
    }
    memcpy(copy, value, len);
    test->names[index] = (weir_str_t){test_request_keep(test, lower), name_len};
    test->fields[index] = (weir_field_t){.name = &test->names[index],
                                         .orig_name = test_request_keep(test, orig),
                                         .value = {test_request_keep(test, copy), len}};
}

/* Lines of `Name: value`. */
static inline void test_request_add(test_request_t *test, const char *lines)
{
    while (*lines != '\0') {
        size_t name_len = strcspn(lines, ":"), len;
        char name[256];
        snprintf(name, sizeof(name), "%.*s", (int)name_len, lines);
        lines += name_len + (lines[name_len] == ':');
        lines += strspn(lines, " ");
        len = strcspn(lines, "\n");
        test_request_add_bytes(test, name, lines, len);
        lines += len + (lines[len] == '\n');
    }
}

/* Fields of the caller that go up, as lines. */
static inline const char *test_request_kept(test_request_t *test)
{
    size_t at = 0;
    test->text[0] = '\0';
    for (size_t i = 0; i < test->request.field_count; ++i)
        if (!weir_request_is_dropped(&test->request, i))
            at += (size_t)snprintf(test->text + at, sizeof(test->text) - at, "%.*s: %.*s\n",
                                   (int)test->fields[i].name->len, test->fields[i].orig_name,
                                   (int)test->fields[i].value.len, test->fields[i].value.base);
    return test->text;
}

/* Fields that filters add, as lines; each begins with what allows it: c(orrelation), t(raceparent), i (tenant), or a
 * (always). */
static inline const char *test_request_up(test_request_t *test)
{
    size_t at = 0;
    test->text[0] = '\0';
    for (size_t i = 0; i < test->request.up_field_count; ++i) {
        const weir_up_field_t *field = &test->request.up_fields[i];
        char allowed_by = field->forward == WEIR_FORWARD_ALWAYS ? 'a' : " ct i"[field->forward];
        at += (size_t)snprintf(test->text + at, sizeof(test->text) - at, "%c %.*s: %.*s\n", allowed_by,
                               (int)field->name.len, field->name.base, (int)field->value.len, field->value.base);
    }
    return test->text;
}

static inline const char *test_text(test_request_t *test, weir_str_t str)
{
    snprintf(test->text, sizeof(test->text), "%.*s", (int)str.len, str.len != 0 ? str.base : "");
    return test->text;
}

#endif
