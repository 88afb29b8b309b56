/* Finds out who a request is for: by a header of a trusted peer, or by an API key of anyone. */

#include "filter.h"

#include <assert.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include "fields.h"

typedef struct {
    weir_str_t name; /* lower case */
    bool is_api_key;
    bool is_bearer; /* Authorization: the key follows a scheme */
} source_t;

/* A listener's section, its names ready to be compared. */
typedef struct {
    const weir_conf_tenant_t *conf;
    source_t *sources;
    size_t source_count;
    weir_str_t forward_written, forward_lower;
} section_t;

typedef struct {
    const weir_conf_listener_t *listeners;
    size_t count;
    section_t sections[]; /* one for each listener */
} tenant_t;

/* ---- whose word is taken ---- */

/* An IPv4-mapped address is the IPv4 address that it means (RFC 4291, 2.5.5.2), a range of them that range. */
static void unmap(weir_conf_cidr_t *range)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    enum { MAPPED_BITS = 8 * sizeof(mapped) };
    if (range->family != AF_INET6 || range->prefix_length < MAPPED_BITS ||
        memcmp(range->address, mapped, sizeof(mapped)) != 0)
        return;
    range->family = AF_INET;
    memmove(range->address, range->address + sizeof(mapped), 4);
    range->prefix_length -= MAPPED_BITS;
}

static bool is_within(weir_conf_cidr_t range, const weir_conf_cidr_t *peer)
{
    unmap(&range);
    size_t bytes = range.prefix_length / 8, bits = range.prefix_length % 8;
    if (range.family != peer->family || memcmp(range.address, peer->address, bytes) != 0)
        return false;
    return bits == 0 || (range.address[bytes] ^ peer->address[bytes]) >> (8 - bits) == 0;
}

bool weir_tenant_trusts(const weir_conf_tenant_t *tenant, int family, const uint8_t *address)
{
    if (family != AF_INET && family != AF_INET6)
        return family == AF_UNIX;
    weir_conf_cidr_t peer = {.family = family, .prefix_length = family == AF_INET ? 32 : 128};
    memcpy(peer.address, address, peer.prefix_length / 8);
    unmap(&peer);
    for (size_t i = 0; i < tenant->trusted.size; ++i)
        if (is_within(tenant->trusted.entries[i], &peer))
            return true;
    return false;
}

/* ---- instances ---- */

static void prepare(section_t *section, const weir_conf_tenant_t *conf)
{
    section->conf = conf;
    section->forward_written = weir_fields_text(conf->forward_header);
    section->forward_lower = weir_fields_lower(conf->forward_header);
    section->source_count = conf->from.size;
    section->sources = calloc(conf->from.size + 1, sizeof(*section->sources));
    assert(section->sources != NULL);
    for (size_t i = 0; i < conf->from.size; ++i) {
        const weir_conf_tenant_source_t *source = &conf->from.entries[i];
        section->sources[i] = (source_t){.name = weir_fields_lower(source->header),
                                         .is_api_key = source->is_api_key,
                                         .is_bearer = strcasecmp(source->header, "authorization") == 0};
    }
}

static void *create(const weir_conf_t *conf, weir_store_t *store)
{
    tenant_t *tenant = calloc(1, sizeof(*tenant) + conf->listeners.size * sizeof(*tenant->sections));
    assert(tenant != NULL);
    tenant->listeners = conf->listeners.entries;
    tenant->count = conf->listeners.size;
    for (size_t i = 0; i < tenant->count; ++i)
        prepare(&tenant->sections[i], tenant->listeners[i].tenant);
    return tenant;
}

static void destroy(void *instance)
{
    tenant_t *tenant = instance;
    for (size_t i = 0; i < tenant->count; ++i) {
        section_t *section = &tenant->sections[i];
        for (size_t j = 0; j < section->source_count; ++j)
            free((char *)section->sources[j].name.base);
        free(section->sources);
        free((char *)section->forward_lower.base);
    }
    free(tenant);
}

/* ---- a request's tenant ---- */

static weir_verdict_t pass(void)
{
    return (weir_verdict_t){.kind = WEIR_PASS, .retry_after_ns = -1};
}

static weir_verdict_t refuse(weir_reason_t reason, const char *detail)
{
    return (weir_verdict_t){.kind = WEIR_ANSWER, .reason = reason, .retry_after_ns = -1, .detail = detail};
}

/* What is wrong with a tenant's name; NULL: nothing. */
static const char *check_name(weir_fields_seen_t seen)
{
    if (seen.count > 1)
        return "The header that names the tenant was sent more than once";
    if (seen.value.len == 0)
        return "The header that names the tenant is empty";
    if (seen.value.len > WEIR_TENANT_MAX)
        return "A tenant's name has at most 128 characters";
    if (!weir_fields_is_made_of(seen.value, "._:@/-"))
        return "A tenant's name is made of letters, digits and ._:@/-";
    return NULL;
}

static weir_verdict_t take_name(weir_request_t *request, weir_fields_seen_t seen)
{
    const char *wrong = check_name(seen);
    if (wrong != NULL)
        return refuse(WEIR_REASON_TENANT_INVALID, wrong);
    request->tenant = seen.value;
    return pass();
}

/* Cuts `Bearer` (RFC 6750, 2.1; the scheme in any case, RFC 9110, 11.1) from a credential. False: another scheme. */
static bool cut_scheme(weir_str_t *value)
{
    static const char scheme[] = "Bearer";
    size_t len = sizeof(scheme) - 1;
    if (value->len < len || strncasecmp(value->base, scheme, len) != 0)
        return false;
    if (value->len > len && value->base[len] != ' ' && value->base[len] != '\t')
        return false;
    while (len < value->len && (value->base[len] == ' ' || value->base[len] == '\t'))
        ++len;
    *value = (weir_str_t){value->base + len, value->len - len};
    return true;
}

/* Whether a field of this source holds a key; `seen` is then the key, and how many fields there are. */
static bool see_key(const weir_request_t *request, const source_t *source, weir_fields_seen_t *seen)
{
    *seen = weir_fields_see(request, source->name);
    if (!source->is_bearer)
        return seen->count != 0;
    const weir_field_t *field;
    for (size_t i = 0; (field = weir_request_find(request, source->name, &i)) != NULL; ++i) {
        seen->value = field->value;
        if (cut_scheme(&seen->value))
            return true;
    }
    return false;
}

static int by_sha256(const void *sha256, const void *entry)
{
    return memcmp(sha256, ((const weir_conf_api_key_t *)entry)->sha256, SHA256_DIGEST_LENGTH);
}

static const weir_conf_api_key_t *find_key(const weir_conf_tenant_t *conf, weir_str_t key)
{
    uint8_t sha256[SHA256_DIGEST_LENGTH];
    if (key.len == 0 || conf->api_keys.size == 0)
        return NULL;
    SHA256((const unsigned char *)key.base, key.len, sha256);
    return bsearch(sha256, conf->api_keys.entries, conf->api_keys.size, sizeof(*conf->api_keys.entries), by_sha256);
}

static weir_verdict_t take_key(const section_t *section, const source_t *source, weir_request_t *request,
                               weir_fields_seen_t seen)
{
    if (seen.count > 1)
        return refuse(WEIR_REASON_TENANT_INVALID, "The header that holds the API key was sent more than once");
    const weir_conf_api_key_t *entry = find_key(section->conf, seen.value);
    if (entry == NULL)
        return refuse(WEIR_REASON_API_KEY_UNKNOWN, NULL);
    request->tenant = weir_fields_text(entry->tenant);
    weir_fields_drop(request, source->name);
    return pass();
}

/* The first source that is present says who it is. The tenant stays empty where there is none. */
static weir_verdict_t find_tenant(const section_t *section, weir_request_t *request)
{
    for (size_t i = 0; i < section->source_count; ++i) {
        const source_t *source = &section->sources[i];
        weir_fields_seen_t seen;
        if (source->is_api_key) {
            if (see_key(request, source, &seen))
                return take_key(section, source, request, seen);
            continue;
        }
        seen = weir_fields_see(request, source->name);
        if (request->trusted && seen.count != 0)
            return take_name(request, seen);
    }
    return pass();
}

/* Header sources of a peer whose word is not taken. */
static void drop_unbelieved(const section_t *section, weir_request_t *request)
{
    for (size_t i = 0; i < section->source_count; ++i) {
        const source_t *source = &section->sources[i];
        if (source->is_api_key || weir_fields_see(request, source->name).count == 0)
            continue;
        weir_fields_drop(request, source->name);
        request->identity_ignored = true;
    }
}

static weir_verdict_t admit(void *instance, weir_request_t *request, void *state)
{
    const tenant_t *tenant = instance;
    const section_t *section = &tenant->sections[request->listener - tenant->listeners];
    weir_verdict_t verdict = find_tenant(section, request);
    if (!request->trusted)
        drop_unbelieved(section, request);
    weir_fields_drop(request, section->forward_lower);
    if (verdict.kind != WEIR_PASS)
        return verdict;
    if (request->tenant.len != 0) {
        weir_request_up(request, section->forward_written, request->tenant, WEIR_FORWARD_TENANT);
        return verdict;
    }
    if (section->conf->default_tenant == NULL)
        return refuse(WEIR_REASON_TENANT_MISSING, NULL);
    request->tenant = weir_fields_text(section->conf->default_tenant);
    return verdict;
}

const weir_filter_t weir_filter_tenant = {
    .name = "tenant",
    .create = create,
    .destroy = destroy,
    .admit = admit,
};
