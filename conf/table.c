#include "scalar.h"
#include "table.h"

#define STRUCT(name_, text_)                                    \
    const weir_conf_section_t *weir_conf_section_##name_(void); \
    const weir_conf_section_t *weir_conf_section_##name_(void)  \
    {                                                           \
        typedef weir_conf_##name_##_t row_t;                    \
        static const char name[] = #name_, text[] = text_;      \
        static const weir_conf_field_t fields[] = {
#define END(name_) SECTION_END
#define ROOT(text_)                                         \
    const weir_conf_section_t *weir_conf_section_root(void) \
    {                                                       \
        typedef weir_conf_t row_t;                          \
        static const char name[] = "root", text[] = text_;  \
        static const weir_conf_field_t fields[] = {
#define ROOT_END() SECTION_END
#define SECTION_END                                                                                                   \
    }                                                                                                                 \
    ;                                                                                                                 \
    static const weir_conf_section_t section = {name, text, sizeof(row_t), fields, sizeof(fields) / sizeof(*fields)}; \
    return &section;                                                                                                  \
    }

#define MEMBER_NAME(pair) MEMBER_NAME_(pair)
#define MEMBER_NAME_(type, name) name

#define DEFAULT(text_) .default_text = text_
#define DERIVED(function, text_) .derive = weir_conf_derive_##function, .derived = text_
#define REQUIRED .required = true
#define NONE .default_text = NULL

#define NAME() {.kind = WEIR_CONF_NAME, .key = "", .offset = offsetof(row_t, name)},
#define SWITCH(default_) {.kind = WEIR_CONF_SWITCH, .key = "", .offset = offsetof(row_t, enabled), default_},
#define FIELD_HEAD(algorithms_, key_, type_)                                                                     \
    .kind = WEIR_CONF_VALUE, .key = #key_, .offset = offsetof(row_t, MEMBER_NAME(WEIR_CONF_TYPE_##type_(key_))), \
    .type = &weir_conf_type_##type_, .algorithms = algorithms_
#define FIELD(key_, type_, default_, min_, max_, reload_, text_) \
    {FIELD_HEAD(0, key_, type_), default_, .min = min_, .max = max_, .reload = reload_, .text = text_},
#define FIELD_OF(algorithms_, key_, type_, default_, min_, max_, reload_, text_) \
    {FIELD_HEAD(algorithms_, key_, type_), default_, .min = min_, .max = max_, .reload = reload_, .text = text_},
#define WITH_SECTION(kind_, algorithms_, key_, section_, max_) \
    {.kind = kind_,                                            \
     .key = #key_,                                             \
     .offset = offsetof(row_t, key_),                          \
     .algorithms = algorithms_,                                \
     .max = max_,                                              \
     .section = weir_conf_section_##section_},
#define SECTION(key, section) WITH_SECTION(WEIR_CONF_SECTION, 0, key, section, NULL)
#define SECTION_OF(algorithms, key, section) WITH_SECTION(WEIR_CONF_SECTION, algorithms, key, section, NULL)
#define INLINE(key, section) WITH_SECTION(WEIR_CONF_INLINE, 0, key, section, NULL)
#define OWN(key, section) WITH_SECTION(WEIR_CONF_OWN, 0, key, section, NULL)
#define NAMED(key, section, max) WITH_SECTION(WEIR_CONF_NAMED, 0, key, section, max)
#define LIST(key, section, max) WITH_SECTION(WEIR_CONF_LIST, 0, key, section, max)
#include "fields/sections.def"

const weir_conf_field_t *weir_conf_section_find(const weir_conf_section_t *section, weir_conf_row_kind_t kind)
{
    for (size_t i = 0; i < section->field_count; ++i)
        if (section->fields[i].kind == kind)
            return &section->fields[i];
    return NULL;
}

static bool is_plain(const weir_conf_upstream_t *upstream)
{
    return upstream->dialect == WEIR_DIALECT_PLAIN;
}

void weir_conf_derive_host(void *row, const void *outer)
{
    weir_conf_upstream_t *upstream = row;
    upstream->host = upstream->url.kind == WEIR_UPSTREAM_UNIX ? WEIR_HOST_PRESERVE : WEIR_HOST_UPSTREAM;
}

/* Whom the agent works for is none of a provider's business. */
void weir_conf_derive_forward(void *row, const void *outer)
{
    weir_conf_upstream_t *upstream = row;
    upstream->forward =
        is_plain(upstream) ? WEIR_FORWARD_CORRELATION | WEIR_FORWARD_TRACEPARENT | WEIR_FORWARD_TENANT : 0;
}

void weir_conf_derive_idle_timeout(void *row, const void *outer)
{
    weir_conf_upstream_connections_t *connections = row;
    connections->idle_timeout_ns = (is_plain(outer) ? 4 : 60) * WEIR_CONF_NS_PER_S;
}

/* A language model that does not stream answers when it has written all of it. */
void weir_conf_derive_first_byte(void *row, const void *outer)
{
    weir_conf_upstream_timeouts_t *timeouts = row;
    timeouts->first_byte_ns = (is_plain(outer) ? 60 : 600) * WEIR_CONF_NS_PER_S;
}

/* A call of a language model changes nothing that a second one would change again. */
void weir_conf_derive_retry_methods(void *row, const void *outer)
{
    static const char *methods[] = {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"};
    weir_conf_upstream_retry_t *retry = row;
    retry->methods = (weir_conf_strings_t){methods, sizeof(methods) / sizeof(*methods)};
    retry->post_with_status = !is_plain(outer);
}

void weir_conf_derive_failures(void *row, const void *outer)
{
    weir_conf_upstream_breaker_t *breaker = row;
    breaker->failures = WEIR_FAILURE_CONNECT | WEIR_FAILURE_TIMEOUT | WEIR_FAILURE_RESET;
    if (!is_plain(outer))
        breaker->failures |= WEIR_FAILURE_5XX;
}

void weir_conf_derive_throttle(void *row, const void *outer)
{
    const weir_conf_upstream_t *upstream =
        (const void *)((const char *)outer - offsetof(weir_conf_upstream_t, breaker));
    weir_conf_upstream_breaker_throttle_t *throttle = row;
    throttle->enabled = !is_plain(upstream);
}
