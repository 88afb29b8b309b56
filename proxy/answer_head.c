#include "answer_head.h"

#include <string.h>

/* In the byte order of the machine: what is kept in a file says which (keep.c), and so does what is kept in Redis
 * (filters/redis/redis_answer.c): whoever changes this changes their forms, too. */
typedef struct {
    uint64_t content_length;
    uint32_t status, field_count, no_body, reserved;
} fixed_t;

typedef struct {
    uint32_t name_len, value_len;
} lengths_t;

h2o_iovec_t weir_answer_head_encode(const weir_call_head_t *head)
{
    size_t len = sizeof(fixed_t);
    for (size_t i = 0; i < head->field_count; ++i)
        len += sizeof(lengths_t) + head->fields[i].name.len + head->fields[i].value.len;
    char *base = h2o_mem_alloc(len), *at = base;
    fixed_t fixed = {.content_length = head->content_length,
                     .status = (uint32_t)head->status,
                     .field_count = (uint32_t)head->field_count,
                     .no_body = head->no_body};
    at = mempcpy(at, &fixed, sizeof(fixed));
    for (size_t i = 0; i < head->field_count; ++i) {
        const weir_h1_field_t *field = &head->fields[i];
        lengths_t lengths = {(uint32_t)field->name.len, (uint32_t)field->value.len};
        at = mempcpy(at, &lengths, sizeof(lengths));
        at = mempcpy(at, field->name.base, field->name.len);
        at = mempcpy(at, field->value.base, field->value.len);
    }
    return h2o_iovec_init(base, len);
}

/* The next `len` bytes, or NULL. */
static const char *take(const char **at, const char *end, size_t len)
{
    const char *bytes = *at;
    if ((size_t)(end - bytes) < len)
        return NULL;
    *at = bytes + len;
    return bytes;
}

static bool take_field(const char **at, const char *end, weir_h1_field_t *field)
{
    lengths_t lengths;
    const char *bytes = take(at, end, sizeof(lengths));
    if (bytes == NULL)
        return false;
    memcpy(&lengths, bytes, sizeof(lengths));
    const char *name = take(at, end, lengths.name_len), *value = name != NULL ? take(at, end, lengths.value_len) : NULL;
    *field = (weir_h1_field_t){.name = {name, lengths.name_len}, .value = {value, lengths.value_len}};
    return value != NULL;
}

bool weir_answer_head_decode(h2o_mem_pool_t *pool, const void *bytes, size_t len, weir_answer_head_t *out)
{
    const char *at = bytes, *end = at + len;
    fixed_t fixed;
    const char *first = take(&at, end, sizeof(fixed));
    if (first == NULL)
        return false;
    memcpy(&fixed, first, sizeof(fixed));
    if (fixed.field_count > WEIR_H1_FIELDS_MAX)
        return false;
    out->fields = h2o_mem_alloc_pool(pool, (fixed.field_count + 1) * sizeof(*out->fields));
    for (size_t i = 0; i < fixed.field_count; ++i)
        if (!take_field(&at, end, &out->fields[i]))
            return false;
    out->head = (weir_call_head_t){.status = (int)fixed.status,
                                   .fields = out->fields,
                                   .field_count = fixed.field_count,
                                   .content_length = fixed.content_length,
                                   .no_body = fixed.no_body != 0};
    return at == end;
}

static bool is_token(weir_str_t name)
{
    for (size_t i = 0; i < name.len; ++i)
        if ((unsigned char)name.base[i] <= ' ' || (unsigned char)name.base[i] >= 0x7f || name.base[i] == ':')
            return false;
    return name.len != 0;
}

static bool is_line(weir_str_t value)
{
    for (size_t i = 0; i < value.len; ++i)
        if (((unsigned char)value.base[i] < ' ' && value.base[i] != '\t') || value.base[i] == 0x7f)
            return false;
    return true;
}

bool weir_answer_head_is_sound(const weir_call_head_t *head, uint64_t body_bytes)
{
    bool has_length = head->content_length != UINT64_MAX && !head->no_body;
    if (head->status < 200 || head->status > 599 || (has_length && head->content_length != body_bytes) ||
        (head->no_body && body_bytes != 0))
        return false;
    for (size_t i = 0; i < head->field_count; ++i)
        if (!is_token(head->fields[i].name) || !is_line(head->fields[i].value))
            return false;
    return true;
}
