#include "dedup_key.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "core/json_member.h"
#include "fields.h"

enum { VALUE_BYTES_MAX = 255 };

/* One value of a key. */
typedef struct {
    char text[VALUE_BYTES_MAX];
    size_t len;
} value_t;

void weir_dedup_keys_init(weir_dedup_keys_t *keys, const weir_conf_dedup_t *conf)
{
    keys->conf = conf;
    keys->headers = calloc(conf->key.size, sizeof(*keys->headers));
    assert(keys->headers != NULL);
    for (size_t i = 0; i < conf->key.size; ++i)
        if (conf->key.entries[i].kind == WEIR_DEDUP_KEY_HEADER)
            keys->headers[i] = weir_fields_lower(conf->key.entries[i].text);
}

void weir_dedup_keys_dispose(weir_dedup_keys_t *keys)
{
    for (size_t i = 0; i < keys->conf->key.size; ++i)
        free((char *)keys->headers[i].base);
    free(keys->headers);
}

/* --- values --- */

static bool add_byte(value_t *value, char byte)
{
    if (value->len == VALUE_BYTES_MAX || (unsigned char)byte < 0x20 || byte == 0x7f)
        return false;
    value->text[value->len++] = byte;
    return true;
}

static bool add_text(value_t *value, const char *text, size_t len)
{
    bool has_control = false;
    if (len == 0 || len > VALUE_BYTES_MAX)
        return false;
    for (size_t i = 0; i < len; ++i)
        has_control |= (unsigned char)text[i] < 0x20 || text[i] == 0x7f;
    memcpy(value->text, text, len);
    value->len = len;
    return !has_control;
}

/* A String of RFC 8941, 3.3.3: between quotes, with escapes of \ and ". */
static bool add_quoted(value_t *value, weir_str_t text)
{
    if (text.len < 2 || text.base[text.len - 1] != '"')
        return false;
    for (size_t i = 1; i < text.len - 1; ++i) {
        if (text.base[i] == '"')
            return false;
        if (text.base[i] == '\\' && (++i == text.len - 1 || (text.base[i] != '"' && text.base[i] != '\\')))
            return false;
        if (!add_byte(value, text.base[i]))
            return false;
    }
    return value->len != 0;
}

static bool add_quoted_or_bare(value_t *value, weir_str_t text)
{
    bool is_quoted = text.len != 0 && text.base[0] == '"';
    return is_quoted ? add_quoted(value, text) : add_text(value, text.base, text.len);
}

static int digit_of(char byte)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = byte != '\0' ? strchr(digits, byte | 0x20) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

/* With percent-encoding. */
static bool add_encoded(value_t *value, weir_str_t text)
{
    for (size_t i = 0; i < text.len; ++i) {
        bool is_escape = text.base[i] == '%' && text.len - i > 2 && digit_of(text.base[i + 1]) >= 0 && digit_of(text.base[i + 2]) >= 0;
        char byte = is_escape ? (char)(digit_of(text.base[i + 1]) * 16 + digit_of(text.base[i + 2])) : text.base[i];
        if (!add_byte(value, byte))
            return false;
        i += is_escape ? 2 : 0;
    }
    return value->len != 0;
}

/* What stands between quotes, with escapes of any byte (RFC 7230, 3.2.6); false: it is longer than `max`. */
static bool unquote(weir_str_t text, char *out, size_t max, size_t *len)
{
    *len = 0;
    for (size_t i = 1; i < text.len - 1; ++i) {
        if (text.base[i] == '\\' && i + 1 < text.len - 1)
            ++i;
        if (*len == max)
            return false;
        out[(*len)++] = text.base[i];
    }
    return true;
}

/* Of a CloudEvent in a header (HTTP Protocol Binding 1.0.2, 3.1.3.2): older versions of it have quotes. */
static bool add_attribute(value_t *value, weir_str_t text)
{
    char unquoted[3 * VALUE_BYTES_MAX];
    bool is_quoted = text.len >= 2 && text.base[0] == '"' && text.base[text.len - 1] == '"';
    size_t len;
    if (!is_quoted)
        return add_encoded(value, text);
    return unquote(text, unquoted, sizeof(unquoted), &len) && add_encoded(value, (weir_str_t){unquoted, len});
}

/* --- the parts --- */

static void begin_parts(weir_dedup_key_t *key, const weir_dedup_keys_t *keys, size_t index)
{
    const weir_conf_dedup_key_t *entry = &keys->conf->key.entries[index];
    key->kind = entry->kind;
    key->header = keys->headers[index];
    key->name = entry->kind == WEIR_DEDUP_KEY_HEADER ? key->header : weir_fields_text(entry->text);
    key->parts[0] = (char)key->kind;
    key->len = 1;
}

static void add_part(weir_dedup_key_t *key, const value_t *value)
{
    key->parts[key->len++] = (char)value->len;
    memcpy(key->parts + key->len, value->text, value->len);
    key->len += value->len;
}

/* --- kinds of keys --- */

static weir_dedup_key_told_t find_header(weir_str_t name, const weir_request_t *request, weir_dedup_key_t *key)
{
    weir_fields_seen_t seen = weir_fields_see(request, name);
    value_t value = {.len = 0};
    if (seen.count == 0)
        return WEIR_DEDUP_KEY_ABSENT;
    if (seen.count != 1 || !add_quoted_or_bare(&value, seen.value))
        return WEIR_DEDUP_KEY_BAD;
    add_part(key, &value);
    return WEIR_DEDUP_KEY_FOUND;
}

static weir_dedup_key_told_t find_event_in_headers(const weir_request_t *request, weir_dedup_key_t *key)
{
    weir_fields_seen_t id = weir_fields_see(request, weir_fields_text("ce-id"));
    weir_fields_seen_t source = weir_fields_see(request, weir_fields_text("ce-source"));
    value_t values[2] = {{.len = 0}, {.len = 0}};
    if (id.count == 0 || source.count == 0)
        return WEIR_DEDUP_KEY_ABSENT;
    if (id.count != 1 || source.count != 1 || !add_attribute(&values[0], source.value) || !add_attribute(&values[1], id.value))
        return WEIR_DEDUP_KEY_BAD;
    add_part(key, &values[0]);
    add_part(key, &values[1]);
    return WEIR_DEDUP_KEY_FOUND;
}

static weir_dedup_key_told_t find_member(const char *pointer, const weir_request_t *request, weir_dedup_key_t *key)
{
    weir_json_member_t member;
    value_t value = {.len = 0};
    switch (weir_json_member_find(pointer, request->body.base, request->body.len, &member)) {
    case WEIR_JSON_MEMBER_ABSENT:
        return WEIR_DEDUP_KEY_ABSENT;
    case WEIR_JSON_MEMBER_BAD:
        return WEIR_DEDUP_KEY_BAD;
    case WEIR_JSON_MEMBER_TEXT:
        break;
    }
    if (!add_text(&value, member.text, member.len))
        return WEIR_DEDUP_KEY_BAD;
    add_part(key, &value);
    return WEIR_DEDUP_KEY_FOUND;
}

static bool has_body(const weir_request_t *request)
{
    return request->body.base != NULL;
}

static weir_dedup_key_told_t find_in_body(const char *pointer, const weir_request_t *request, weir_dedup_key_t *key)
{
    if (request->body_bytes == 0)
        return WEIR_DEDUP_KEY_ABSENT;
    return has_body(request) ? find_member(pointer, request, key) : WEIR_DEDUP_KEY_NEEDS_BODY;
}

static weir_dedup_key_told_t find_event_in_body(const weir_request_t *request, weir_dedup_key_t *key)
{
    weir_dedup_key_told_t source = find_in_body("/source", request, key);
    return source == WEIR_DEDUP_KEY_FOUND ? find_in_body("/id", request, key) : source;
}

static weir_dedup_key_told_t find_event(const weir_request_t *request, weir_dedup_key_t *key)
{
    weir_fields_seen_t type = weir_fields_see(request, weir_fields_text("content-type"));
    if (type.count == 1 && weir_fields_is_type(type.value, "application/cloudevents-batch+json"))
        return WEIR_DEDUP_KEY_ABSENT;
    if (type.count == 1 && weir_fields_is_type(type.value, "application/cloudevents+json"))
        return find_event_in_body(request, key);
    return find_event_in_headers(request, key);
}

static bool needs_body(const weir_request_t *request)
{
    return request->body_bytes != 0 && !has_body(request);
}

static weir_dedup_key_told_t find_fingerprint(const weir_store_t *store, const weir_request_t *request, weir_dedup_key_t *key)
{
    if (needs_body(request))
        return WEIR_DEDUP_KEY_NEEDS_BODY;
    uint64_t fingerprint = weir_dedup_fingerprint(store, request);
    value_t value = {.len = sizeof(fingerprint)};
    memcpy(value.text, &fingerprint, sizeof(fingerprint));
    add_part(key, &value);
    return WEIR_DEDUP_KEY_FOUND;
}

weir_dedup_key_told_t weir_dedup_key_find(const weir_dedup_keys_t *keys, const weir_store_t *store,
                                          const weir_request_t *request, weir_dedup_key_t *key)
{
    weir_dedup_key_told_t told = WEIR_DEDUP_KEY_ABSENT;
    for (size_t i = 0; i < keys->conf->key.size && told == WEIR_DEDUP_KEY_ABSENT; ++i) {
        begin_parts(key, keys, i);
        switch (key->kind) {
        case WEIR_DEDUP_KEY_HEADER:
            told = find_header(keys->headers[i], request, key);
            break;
        case WEIR_DEDUP_KEY_CLOUDEVENT:
            told = find_event(request, key);
            break;
        case WEIR_DEDUP_KEY_JSON:
            told = find_in_body(keys->conf->key.entries[i].text, request, key);
            break;
        case WEIR_DEDUP_KEY_FINGERPRINT:
            told = find_fingerprint(store, request, key);
            break;
        }
    }
    return told;
}

static bool add_event_text(weir_str_t text, weir_dedup_key_t *key)
{
    const char *space = text.len != 0 ? memrchr(text.base, ' ', text.len) : NULL;
    value_t values[2] = {{.len = 0}, {.len = 0}};
    if (space == NULL || !add_text(&values[0], text.base, (size_t)(space - text.base)) ||
        !add_text(&values[1], space + 1, (size_t)(text.base + text.len - space - 1)))
        return false;
    add_part(key, &values[0]);
    add_part(key, &values[1]);
    return true;
}

bool weir_dedup_key_of_text(const weir_dedup_keys_t *keys, size_t index, weir_str_t text, weir_dedup_key_t *key)
{
    value_t value = {.len = 0};
    begin_parts(key, keys, index);
    switch (key->kind) {
    case WEIR_DEDUP_KEY_HEADER:
        if (!add_quoted_or_bare(&value, text))
            return false;
        break;
    case WEIR_DEDUP_KEY_JSON:
        if (!add_text(&value, text.base, text.len))
            return false;
        break;
    case WEIR_DEDUP_KEY_CLOUDEVENT:
        return add_event_text(text, key);
    case WEIR_DEDUP_KEY_FINGERPRINT:
        return false;
    }
    add_part(key, &value);
    return true;
}

uint64_t weir_dedup_fingerprint(const weir_store_t *store, const weir_request_t *request)
{
    enum { SHORT = 512 };
    char text[SHORT];
    weir_str_t method = request->method, target = request->target, body = request->body;
    weir_store_key_t head[2] = {{method.len, target.len}, {0, 0}}, parts[2];
    if (method.len + target.len <= SHORT - sizeof(head)) {
        char *at = mempcpy(mempcpy(mempcpy(text, head, sizeof(head)), method.base, method.len), target.base, target.len);
        parts[0] = store->key(store, text, (size_t)(at - text));
    } else {
        head[0] = store->key(store, method.base, method.len);
        head[1] = store->key(store, target.base, target.len);
        parts[0] = store->key(store, head, sizeof(head));
    }
    parts[1] = store->key(store, body.len != 0 ? body.base : "", body.len);
    uint64_t fingerprint = store->key(store, parts, sizeof(parts)).low;
    return fingerprint != 0 ? fingerprint : 1;
}
