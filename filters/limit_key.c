#include "limit_key.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "fields.h"

/* A longer part goes in as its length and its hash. */
enum { PART_BYTES_MAX = 256 };

_Static_assert((int)PART_BYTES_MAX >= (int)WEIR_MODEL_BYTES_MAX, "a part has room for every model");

typedef struct {
    const weir_store_t *store;
    size_t len;
    unsigned char bytes[WEIR_LIMIT_KEY_PARTS_MAX * (1 + sizeof(uint32_t) + PART_BYTES_MAX)];
} writer_t;

static void put(writer_t *writer, const void *bytes, size_t len)
{
    memcpy(writer->bytes + writer->len, bytes, len);
    writer->len += len;
}

static void put_part(writer_t *writer, weir_str_t part)
{
    uint32_t len = (uint32_t)part.len;
    put(writer, &len, sizeof(len));
    if (part.len > PART_BYTES_MAX) {
        weir_store_key_t hash = writer->store->key(writer->store, part.base, part.len);
        put(writer, &hash, sizeof(hash));
    } else if (part.len != 0) {
        put(writer, part.base, part.len);
    }
}

/* Text of any length, one after another. */
static weir_store_key_t chain(const weir_store_t *store, weir_store_key_t before, weir_str_t text)
{
    weir_store_key_t pair[2] = {before, store->key(store, text.base, text.len)};
    return store->key(store, pair, sizeof(pair));
}

static bool is_believed(const weir_request_t *request, size_t field, bool is_credential)
{
    return is_credential || !request->identity_ignored || !weir_request_is_dropped(request, field);
}

/* The first byte says how often it is there: 0, 1 and the value, or 2 and the hash of all values in their order. */
static void put_header(writer_t *writer, const weir_request_t *request, weir_str_t name, bool is_credential)
{
    uint8_t count = 0;
    weir_str_t first = {"", 0};
    weir_store_key_t all = {0};
    const weir_field_t *field;
    for (size_t i = 0; (field = weir_request_find(request, name, &i)) != NULL; ++i) {
        if (!is_believed(request, i, is_credential))
            continue;
        if (count == 0)
            first = field->value;
        else if (count == 1)
            all = chain(writer->store, chain(writer->store, all, first), field->value);
        else
            all = chain(writer->store, all, field->value);
        count = count == 0 ? 1 : 2;
    }
    put(writer, &count, sizeof(count));
    if (count == 1)
        put_part(writer, first);
    else if (count == 2)
        put(writer, &all, sizeof(all));
}

typedef enum { MODEL_NONE, MODEL_NAMED, MODEL_LONG, MODEL_UNREADABLE } model_kind_t;

static model_kind_t model_kind_of(const weir_json_picked_t *picked)
{
    if (picked == NULL)
        return MODEL_NONE;
    if (picked->is_unreadable)
        return MODEL_UNREADABLE;
    if (picked->model_is_long)
        return MODEL_LONG;
    return picked->model_len != 0 ? MODEL_NAMED : MODEL_NONE;
}

/* The first byte says which kind it is. */
static void put_model(writer_t *writer, const weir_json_picked_t *picked)
{
    uint8_t kind = (uint8_t)model_kind_of(picked);
    put(writer, &kind, sizeof(kind));
    if (kind == MODEL_NAMED)
        put_part(writer, (weir_str_t){picked->model, picked->model_len});
}

weir_store_key_t weir_limit_key_of(const weir_limit_key_t *key, const weir_store_t *store,
                                   const weir_request_t *request, weir_store_key_t route)
{
    writer_t writer;
    writer.store = store;
    writer.len = 0;
    for (size_t i = 0; i < key->count; ++i) {
        switch (key->parts[i].kind) {
        case WEIR_KEY_TENANT:
            put_part(&writer, request->tenant);
            break;
        case WEIR_KEY_ROUTE:
            put(&writer, &route, sizeof(route));
            break;
        case WEIR_KEY_MODEL:
            put_model(&writer, request->picked);
            break;
        case WEIR_KEY_CLIENT_IP:
            put_part(&writer, request->client_ip);
            break;
        case WEIR_KEY_CORRELATION:
            put_part(&writer, request->correlation_id);
            break;
        case WEIR_KEY_HEADER:
            put_header(&writer, request, key->parts[i].header, key->parts[i].is_credential);
            break;
        }
    }
    return store->key(store, writer.bytes, writer.len);
}

weir_store_key_t weir_limit_key_route(const weir_store_t *store, const weir_conf_listener_t *listener,
                                      const weir_conf_route_t *route)
{
    weir_store_key_t id = chain(store, (weir_store_key_t){0}, weir_fields_text(listener->name));
    id = chain(store, id, weir_fields_text(route->path));
    id = chain(store, id, weir_fields_text(route->host));
    for (size_t i = 0; i < route->methods.size; ++i)
        id = chain(store, id, weir_fields_text(route->methods.entries[i]));
    for (size_t i = 0; i < route->models.size; ++i)
        id = chain(store, id, weir_fields_text(route->models.entries[i]));
    return id;
}

static bool is_credential(const weir_conf_listener_t *listener, weir_str_t name)
{
    bool found = false;
    for (size_t i = 0; listener != NULL && i < listener->tenant->from.size && !found; ++i) {
        const weir_conf_tenant_source_t *source = &listener->tenant->from.entries[i];
        weir_str_t lower = weir_fields_lower(source->header);
        found = source->is_api_key && weir_fields_equal(lower, name);
        free((char *)lower.base);
    }
    return found;
}

/* Of a header, by its name in lower case. */
static bool is_named_as_secret(weir_str_t header)
{
    static const char *const words[] = {"key",     "token",     "secret",     "auth",     "cookie",
                                        "session", "signature", "credential", "password", "passwd"};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); ++i)
        if (strstr(header.base, words[i]) != NULL)
            return true;
    return false;
}

void weir_limit_key_init(weir_limit_key_t *key, const weir_conf_limit_t *limit, const weir_conf_listener_t *listener)
{
    assert(limit->key.size <= WEIR_LIMIT_KEY_PARTS_MAX);
    *key = (weir_limit_key_t){.count = limit->key.size};
    for (size_t i = 0; i < key->count; ++i) {
        key->parts[i].kind = limit->key.entries[i].kind;
        key->parts[i].header = weir_fields_text("");
        if (key->parts[i].kind != WEIR_KEY_HEADER)
            continue;
        key->parts[i].header = weir_fields_lower(limit->key.entries[i].header);
        key->parts[i].is_credential = is_credential(listener, key->parts[i].header);
        key->parts[i].is_secret = key->parts[i].is_credential || is_named_as_secret(key->parts[i].header);
    }
}

void weir_limit_key_dispose(weir_limit_key_t *key)
{
    for (size_t i = 0; i < key->count; ++i)
        if (key->parts[i].kind == WEIR_KEY_HEADER)
            free((char *)key->parts[i].header.base);
}

bool weir_limit_key_is_same(const weir_limit_key_t *a, const weir_limit_key_t *b)
{
    bool same = a->count == b->count;
    for (size_t i = 0; i < a->count && same; ++i)
        same = a->parts[i].kind == b->parts[i].kind && weir_fields_equal(a->parts[i].header, b->parts[i].header);
    return same;
}

bool weir_limit_key_counts_by(const weir_conf_limit_t *limit, weir_conf_key_kind_t kind)
{
    for (size_t i = 0; i < limit->key.size; ++i)
        if (limit->key.entries[i].kind == kind)
            return true;
    return false;
}

/* Names for people */

typedef struct {
    char *name;
    size_t len;
} name_t;

/* What is not plain ASCII would not be safe on every page. */
static void name_add(name_t *name, weir_str_t text)
{
    for (size_t i = 0; i < text.len && name->len < WEIR_LIMIT_KEY_NAME_MAX - 1; ++i)
        name->name[name->len++] = text.base[i] > ' ' && text.base[i] <= '~' ? text.base[i] : '?';
}

static void name_add_part(name_t *name, const char *label, weir_str_t value)
{
    name_add(name, weir_fields_text(label));
    name_add(name, weir_fields_text("="));
    name_add(name, value);
}

static void name_add_hash(name_t *name, const weir_store_t *store, weir_str_t value)
{
    static const char digits[] = "0123456789abcdef";
    enum { DIGITS = 8 };
    char text[1 + DIGITS] = "#";
    uint64_t hash = store->key(store, value.base, value.len).high;
    for (int i = 0; i < DIGITS; ++i, hash >>= 4)
        text[1 + i] = digits[hash & 15];
    name_add(name, (weir_str_t){text, sizeof(text)});
}

/* A header that is absent has no `=`. */
static void name_add_header(name_t *name, const weir_store_t *store, const weir_request_t *request,
                            const weir_limit_key_part_t *part)
{
    const weir_field_t *field;
    const char *between = "=";
    name_add(name, weir_fields_text("header:"));
    name_add(name, part->header);
    for (size_t i = 0; (field = weir_request_find(request, part->header, &i)) != NULL; ++i) {
        if (!is_believed(request, i, part->is_credential))
            continue;
        name_add(name, weir_fields_text(between));
        between = ",";
        if (part->is_secret)
            name_add_hash(name, store, field->value);
        else
            name_add(name, field->value);
    }
}

static weir_str_t model_of(const weir_json_picked_t *picked)
{
    switch (model_kind_of(picked)) {
    case MODEL_NAMED:
        return (weir_str_t){picked->model, picked->model_len};
    case MODEL_LONG:
        return weir_fields_text("(long)");
    case MODEL_UNREADABLE:
        return weir_fields_text("?");
    default:
        return weir_fields_text("");
    }
}

size_t weir_limit_key_name(const weir_limit_key_t *key, const weir_store_t *store, const weir_request_t *request,
                           char text[WEIR_LIMIT_KEY_NAME_MAX])
{
    name_t name = {.name = text};
    for (size_t i = 0; i < key->count; ++i) {
        if (i != 0 && name.len < WEIR_LIMIT_KEY_NAME_MAX - 1)
            text[name.len++] = ' ';
        switch (key->parts[i].kind) {
        case WEIR_KEY_TENANT:
            name_add_part(&name, "tenant", request->tenant);
            break;
        case WEIR_KEY_ROUTE:
            name_add_part(&name, "route", weir_fields_text(request->route != NULL ? request->route->path : NULL));
            break;
        case WEIR_KEY_MODEL:
            name_add_part(&name, "model", model_of(request->picked));
            break;
        case WEIR_KEY_CLIENT_IP:
            name_add_part(&name, "client_ip", request->client_ip);
            break;
        case WEIR_KEY_CORRELATION:
            name_add_part(&name, "correlation", request->correlation_id);
            break;
        case WEIR_KEY_HEADER:
            name_add_header(&name, store, request, &key->parts[i]);
            break;
        }
    }
    text[name.len] = '\0';
    return name.len;
}
