#include "node.h"
#include <libfyaml.h>
#include <stdlib.h>
#include <string.h>
#include "text.h"

enum { DECORATIONS_MAX = 10 };

typedef struct {
    weir_conf_arena_t *arena;
    weir_conf_errors_t *errors;
    const char *file, *text;
    size_t len;
    struct fy_parser *parser;
    struct fy_diag *diag;
    weir_conf_node_t *root;
    weir_conf_node_t *open[WEIR_CONF_DEPTH_MAX]; /* containers around the next event */
    size_t depth;
    const char *key; /* read, its value comes next */
    weir_conf_place_t key_place;
    size_t decorations;
    bool done;   /* the document has ended */
    bool failed; /* nothing after this makes sense */
} builder_t;

static weir_conf_place_t place_of(const builder_t *builder, const struct fy_mark *mark, weir_conf_place_t otherwise)
{
    if (mark == NULL)
        return otherwise;
    return (weir_conf_place_t){builder->file, (unsigned)mark->line + 1, (unsigned)mark->column + 1};
}

/* The library's mark of an anchor, an alias and a text in quotes is behind its first character. */
static weir_conf_place_t before(weir_conf_place_t place)
{
    --place.column;
    return place;
}

static weir_conf_place_t scalar_place(const builder_t *builder, struct fy_event *event, weir_conf_place_t place)
{
    const struct fy_mark *mark = fy_event_start_mark(event);
    switch (fy_event_get_node_style(event)) {
    case FYNS_SINGLE_QUOTED:
    case FYNS_DOUBLE_QUOTED:
        return before(place);
    case FYNS_LITERAL:
    case FYNS_FOLDED: /* behind the indentation */
        for (size_t at = mark->input_pos; at < builder->len && builder->text[at] == ' '; ++at)
            ++place.column;
        return place;
    default:
        return place;
    }
}

/* Where an event without a mark of its own (an empty value) stands. */
static weir_conf_place_t place_around(const builder_t *builder)
{
    if (builder->key != NULL)
        return builder->key_place;
    if (builder->depth > 0)
        return builder->open[builder->depth - 1]->place;
    return (weir_conf_place_t){builder->file, 1, 1};
}

static bool expects_key(const builder_t *builder)
{
    return builder->depth > 0 && builder->key == NULL && builder->open[builder->depth - 1]->kind == WEIR_CONF_MAPPING;
}

static const char *path_here(builder_t *builder)
{
    if (builder->depth == 0)
        return "";
    weir_conf_node_t *around = builder->open[builder->depth - 1];
    if (expects_key(builder))
        return weir_conf_node_path(around, builder->arena);
    weir_conf_node_t here = {.parent = around, .key = builder->key, .index = around->count};
    return weir_conf_node_path(&here, builder->arena);
}

static void append(weir_conf_node_t *parent, weir_conf_node_t *node)
{
    node->parent = parent;
    node->index = parent->count++;
    if (parent->last == NULL)
        parent->first = node;
    else
        parent->last->next = node;
    parent->last = node;
}

static weir_conf_node_t *add_node(builder_t *builder, weir_conf_node_kind_t kind, weir_conf_place_t place)
{
    weir_conf_node_t *node = weir_conf_arena_alloc(builder->arena, sizeof(*node));
    node->kind = kind;
    node->place = place;
    node->key = builder->key;
    node->key_place = builder->key_place;
    if (builder->depth == 0)
        builder->root = node;
    else
        append(builder->open[builder->depth - 1], node);
    builder->key = NULL;
    return node;
}

static void fail(builder_t *builder, weir_conf_place_t place, const char *text)
{
    weir_conf_errors_add(builder->errors, place, path_here(builder), "%s", text);
    builder->failed = true;
}

static void on_key(builder_t *builder, struct fy_event *event, weir_conf_place_t place)
{
    if (event->type != FYET_SCALAR) {
        fail(builder, place, "a key cannot be a list, a mapping or an alias; write a word");
        return;
    }
    size_t len = 0;
    const char *text = event->scalar.value != NULL ? fy_token_get_text(event->scalar.value, &len) : "";
    builder->key = weir_conf_arena_copy(builder->arena, text, len);
    builder->key_place = place;
    if (strlen(builder->key) != len)
        fail(builder, place, "a key with a NUL byte");
    else if (strcmp(builder->key, WEIR_CONF_MERGE_KEY) == 0)
        weir_conf_errors_add(builder->errors, place, path_here(builder),
                             "merge keys are not supported; write the fields out");
}

static void on_scalar(builder_t *builder, struct fy_event *event, weir_conf_place_t place)
{
    size_t len = 0;
    const char *text = event->scalar.value != NULL ? fy_token_get_text(event->scalar.value, &len) : "";
    const char *copy = weir_conf_arena_copy(builder->arena, text, len);
    if (strlen(copy) != len)
        weir_conf_errors_add(builder->errors, place, path_here(builder), "has a NUL byte; write text without one");
    weir_conf_node_t *node = add_node(builder, strlen(copy) == len ? WEIR_CONF_SCALAR : WEIR_CONF_BROKEN, place);
    node->text = node->written = copy;
    node->plain = event->scalar.value == NULL || fy_event_get_node_style(event) == FYNS_PLAIN;
}

static void on_container(builder_t *builder, weir_conf_node_kind_t kind, weir_conf_place_t place)
{
    if (builder->depth == WEIR_CONF_DEPTH_MAX) {
        fail(builder, place, "is nested too deeply; no configuration needs more than 32 levels");
        return;
    }
    weir_conf_node_t *node = add_node(builder, kind, place);
    builder->open[builder->depth++] = node;
}

static int by_key(const void *a, const void *b)
{
    const weir_conf_node_t *x = *(weir_conf_node_t *const *)a, *y = *(weir_conf_node_t *const *)b;
    int order = strcmp(x->key, y->key);
    return order != 0 ? order : x->index < y->index ? -1 : 1;
}

/* Sorted, as a mapping may have as many keys as its file has lines. */
static void refuse_duplicates(builder_t *builder, weir_conf_node_t *mapping)
{
    weir_conf_node_t **nodes = malloc((mapping->count + 1) * sizeof(*nodes));
    if (nodes == NULL)
        abort();
    size_t count = 0;
    for (weir_conf_node_t *node = mapping->first; node != NULL; node = node->next)
        nodes[count++] = node;
    qsort(nodes, count, sizeof(*nodes), by_key);
    for (size_t i = 1, first = 0; i < count; ++i) {
        if (strcmp(nodes[first]->key, nodes[i]->key) != 0) {
            first = i;
            continue;
        }
        weir_conf_errors_add(builder->errors, nodes[i]->key_place, weir_conf_node_path(nodes[i], builder->arena),
                             "is given twice; the first is at line %u", nodes[first]->key_place.line);
        nodes[i]->kind = WEIR_CONF_BROKEN;
    }
    free(nodes);
}

static void on_end(builder_t *builder)
{
    weir_conf_node_t *node = builder->open[--builder->depth];
    if (node->kind == WEIR_CONF_MAPPING)
        refuse_duplicates(builder, node);
}

/* Anchors, aliases and tags: so many are told, then it is a bomb, or no file for weir. */
static void refuse_decoration(builder_t *builder, weir_conf_place_t place, const char *text)
{
    weir_conf_errors_add(builder->errors, place, path_here(builder), "%s", text);
    if (++builder->decorations == DECORATIONS_MAX)
        builder->failed = true;
}

static void refuse_decorations(builder_t *builder, struct fy_event *event, weir_conf_place_t place)
{
    struct fy_token *anchor = fy_event_get_anchor_token(event), *tag = fy_event_get_tag_token(event);
    if (anchor != NULL)
        refuse_decoration(builder, before(place_of(builder, fy_token_start_mark(anchor), place)),
                          "anchors and aliases are not supported; write the value out, or in quotes");
    if (tag != NULL)
        refuse_decoration(builder, place_of(builder, fy_token_start_mark(tag), place),
                          "tags are not supported; leave it out, or write the value in quotes");
}

static void on_event(builder_t *builder, struct fy_event *event)
{
    weir_conf_place_t place = place_of(builder, fy_event_start_mark(event), place_around(builder));
    if (event->type == FYET_SCALAR && event->scalar.value != NULL)
        place = scalar_place(builder, event, place);
    switch (event->type) {
    case FYET_DOCUMENT_START:
        if (builder->done)
            fail(builder, place, "a second document begins here; write one");
        return;
    case FYET_DOCUMENT_END:
        builder->done = true;
        return;
    case FYET_MAPPING_END:
    case FYET_SEQUENCE_END:
        on_end(builder);
        return;
    case FYET_SCALAR:
    case FYET_ALIAS:
    case FYET_MAPPING_START:
    case FYET_SEQUENCE_START:
        break;
    default:
        return;
    }

    refuse_decorations(builder, event, place);
    if (expects_key(builder))
        on_key(builder, event, place);
    else if (event->type == FYET_SCALAR)
        on_scalar(builder, event, place);
    else if (event->type == FYET_MAPPING_START)
        on_container(builder, WEIR_CONF_MAPPING, place);
    else if (event->type == FYET_SEQUENCE_START)
        on_container(builder, WEIR_CONF_SEQUENCE, place);
    else {
        refuse_decoration(builder, before(place),
                          "a * begins an alias, and aliases are not supported; write the value out, or in quotes");
        add_node(builder, WEIR_CONF_BROKEN, before(place));
    }
}

/* What to do about an error of the library, by a word of its text. */
static const char *syntax_hint(const char *text)
{
    static const struct {
        const char *word, *hint;
    } rows[] = {
        {"tab", "indent with spaces"},
        {"closing quote", "close it with a quote"},
        {"closing bracket", "close it with ]"},
        {"closing brace", "close it with }"},
        {"missing comma", "write a comma between two entries, and a value with ${...} in quotes"},
        {"indentation", "begin it in the same column as its neighbours"},
        {"cannot start with", "write the value in quotes"},
        {"nested block mapping", "write the value in quotes, or its fields on lines of their own"},
        {"multiline plain key", "check the indentation, and that each key ends with a colon"},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); ++i)
        if (strstr(text, rows[i].word) != NULL)
            return rows[i].hint;
    return "check the indentation, colons and quotes here and on the line before";
}

/* Of a bracket that is never closed the library tells where the text ends. */
static weir_conf_place_t opening_of(const builder_t *builder, const char *text, weir_conf_place_t otherwise)
{
    weir_conf_node_kind_t kind = strstr(text, "closing bracket") != NULL ? WEIR_CONF_SEQUENCE
                                 : strstr(text, "closing brace") != NULL ? WEIR_CONF_MAPPING
                                                                         : WEIR_CONF_BROKEN;
    for (size_t i = builder->depth; i > 0; --i)
        if (builder->open[i - 1]->kind == kind)
            return builder->open[i - 1]->place;
    return otherwise;
}

static void fail_syntax(builder_t *builder)
{
    weir_conf_place_t place = {builder->file, 1, 1};
    const char *text = "it cannot be read";
    void *at = NULL;
    struct fy_diag_error *error = fy_diag_errors_iterate(builder->diag, &at);
    if (error != NULL) {
        text = weir_conf_errors_show(builder->arena, error->msg != NULL ? error->msg : text);
        place.line = error->line > 0 ? (unsigned)error->line : 1;
        place.column = error->column > 0 ? (unsigned)error->column : 1;
        if (strstr(text, "closing quote") != NULL)
            place = before(place);
        place = opening_of(builder, text, place);
    }
    weir_conf_errors_add(builder->errors, place, "", "is not YAML: %s; %s", text, syntax_hint(text));
    builder->failed = true;
}

static void build(builder_t *builder)
{
    struct fy_event *event;
    while (!builder->failed && (event = fy_parser_parse(builder->parser)) != NULL) {
        on_event(builder, event);
        fy_parser_event_free(builder->parser, event);
    }
    if (!builder->failed && fy_parser_get_stream_error(builder->parser))
        fail_syntax(builder);
}

weir_conf_node_t *weir_conf_node_parse(weir_conf_arena_t *arena, const char *file, const char *text, size_t len,
                                       weir_conf_errors_t *errors)
{
    if (!weir_conf_text_check(file, text, len, errors))
        return NULL;

    builder_t builder = {.arena = arena, .errors = errors, .file = file, .text = text, .len = len};
    struct fy_diag_cfg diag_cfg;
    fy_diag_cfg_default(&diag_cfg);
    diag_cfg.fp = NULL;
    diag_cfg.level = FYET_ERROR;
    builder.diag = fy_diag_create(&diag_cfg);
    if (builder.diag == NULL)
        abort();
    fy_diag_set_collect_errors(builder.diag, true);
    struct fy_parse_cfg cfg = {
        .flags = FYPCF_QUIET | FYPCF_COLLECT_DIAG | FYPCF_JSON_NONE | FYPCF_DEFAULT_VERSION_1_2,
        .diag = builder.diag,
    };
    builder.parser = fy_parser_create(&cfg);
    if (builder.parser == NULL)
        abort();
    if (len != 0 && fy_parser_set_string(builder.parser, text, len) != 0)
        abort();
    if (len != 0)
        build(&builder);
    fy_parser_destroy(builder.parser);
    fy_diag_destroy(builder.diag);

    if (builder.failed)
        return NULL;
    if (builder.root == NULL || weir_conf_node_is_null(builder.root)) {
        builder.depth = 0;
        return add_node(&builder, WEIR_CONF_MAPPING, (weir_conf_place_t){file, 1, 1});
    }
    return builder.root;
}

const weir_conf_node_t *weir_conf_node_get(const weir_conf_node_t *mapping, const char *key)
{
    if (mapping == NULL || mapping->kind != WEIR_CONF_MAPPING)
        return NULL;
    for (const weir_conf_node_t *node = mapping->first; node != NULL; node = node->next)
        if (strcmp(node->key, key) == 0)
            return weir_conf_node_is_null(node) ? NULL : node;
    return NULL;
}

bool weir_conf_node_is_word(const weir_conf_node_t *node, const char *word)
{
    return node->kind == WEIR_CONF_SCALAR && node->plain && strcmp(node->text, word) == 0;
}

bool weir_conf_node_is_null(const weir_conf_node_t *node)
{
    static const char *const words[] = {"null", "~", "Null", "NULL"};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); ++i)
        if (weir_conf_node_is_word(node, words[i]))
            return true;
    return weir_conf_node_is_word(node, "") && !node->inserted; /* an empty secret is not a missing one */
}

const char *weir_conf_node_path(const weir_conf_node_t *node, weir_conf_arena_t *arena)
{
    if (node->parent == NULL)
        return "";
    const char *parent = weir_conf_node_path(node->parent, arena);
    if (node->key == NULL)
        return weir_conf_arena_printf(arena, "%s[%zu]", parent, node->index);
    return weir_conf_arena_printf(arena, "%s%s%s", parent, *parent == '\0' ? "" : ".",
                                  weir_conf_errors_show(arena, node->key));
}
