/* The effective configuration, in the notation in which it is read. */

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "table.h"

typedef struct {
    FILE *out;
    const weir_conf_t *conf;
} printer_t;

static void print_section(const printer_t *printer, const weir_conf_section_t *section, const void *row, int indent,
                          const char *bullet);

static bool is_of_algorithm(const weir_conf_field_t *field, unsigned algorithm)
{
    return field->algorithms == 0 || (field->algorithms & algorithm) != 0;
}

static void print_named(const printer_t *printer, const weir_conf_field_t *field, const weir_conf_entries_t *entries,
                        int indent)
{
    const weir_conf_section_t *section = field->section();
    const weir_conf_field_t *name = weir_conf_section_find(section, WEIR_CONF_NAME);
    fputs(entries->size == 0 ? " {}\n" : "\n", printer->out);
    for (size_t i = 0; i < entries->size; ++i) {
        const void *row = (const char *)entries->entries + i * section->size;
        fprintf(printer->out, "%*s%s:\n", indent + 2, "", *(const char *const *)weir_conf_member_const(name, row));
        print_section(printer, section, row, indent + 4, "");
    }
}

static void print_list(const printer_t *printer, const weir_conf_field_t *field, const weir_conf_entries_t *entries,
                       int indent)
{
    const weir_conf_section_t *section = field->section();
    fputs(entries->size == 0 ? " []\n" : "\n", printer->out);
    for (size_t i = 0; i < entries->size; ++i)
        print_section(printer, section, (const char *)entries->entries + i * section->size, indent + 4, "- ");
}

static void print_subsection(const printer_t *printer, const weir_conf_field_t *field, const void *row, int indent)
{
    const weir_conf_field_t *is_enabled = weir_conf_section_find(field->section(), WEIR_CONF_SWITCH);
    if (is_enabled != NULL && !*(const bool *)weir_conf_member_const(is_enabled, row)) {
        fputs(" false\n", printer->out);
        return;
    }
    fputc('\n', printer->out);
    print_section(printer, field->section(), row, indent + 2, "");
}

static void print_own(const printer_t *printer, const weir_conf_field_t *field, const void *member, int indent)
{
    const void *row;
    memcpy(&row, member, sizeof(row));
    if (row == &printer->conf->tenant) {
        fputs(" null\n", printer->out);
        return;
    }
    fputc('\n', printer->out);
    print_section(printer, field->section(), row, indent + 2, "");
}

static void print_field(const printer_t *printer, const weir_conf_field_t *field, const void *row, int indent)
{
    const void *member = weir_conf_member_const(field, row);
    fprintf(printer->out, "%s:", field->key);
    switch (field->kind) {
    case WEIR_CONF_VALUE:
        field->type->print(printer->out, printer->conf, field, row, indent);
        break;
    case WEIR_CONF_SECTION:
        print_subsection(printer, field, member, indent);
        break;
    case WEIR_CONF_OWN:
        print_own(printer, field, member, indent);
        break;
    case WEIR_CONF_NAMED:
        print_named(printer, field, member, indent);
        break;
    case WEIR_CONF_LIST:
        print_list(printer, field, member, indent);
        break;
    case WEIR_CONF_NAME:
    case WEIR_CONF_SWITCH:
    case WEIR_CONF_INLINE:
        break;
    }
}

/* `algorithm` is known when the fields come that depend on it: it stands before them. */
static void print_fields(const printer_t *printer, const weir_conf_section_t *section, const void *row, int indent,
                         const char **bullet, unsigned *algorithm)
{
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->kind == WEIR_CONF_INLINE)
            print_fields(printer, field->section(), weir_conf_member_const(field, row), indent, bullet, algorithm);
        if (*field->key == '\0' || field->kind == WEIR_CONF_INLINE || !is_of_algorithm(field, *algorithm))
            continue;
        if (field->type == &weir_conf_type_algorithm)
            *algorithm = 1u << *(const unsigned *)weir_conf_member_const(field, row);
        fprintf(printer->out, "%*s%s", indent - (int)strlen(*bullet), "", *bullet);
        *bullet = "";
        print_field(printer, field, row, indent);
    }
}

static void print_section(const printer_t *printer, const weir_conf_section_t *section, const void *row, int indent,
                          const char *bullet)
{
    unsigned algorithm = 0;
    print_fields(printer, section, row, indent, &bullet, &algorithm);
}

void weir_conf_print(const weir_conf_t *conf, FILE *out)
{
    print_section(&(printer_t){out, conf}, weir_conf_section_root(), conf, 0, "");
}

/* ---- what differs ---- */

/* What stands behind the field's colon, up to the end of the line if it is one value. */
static char *field_text(const weir_conf_t *conf, const weir_conf_field_t *field, const void *row)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL)
        abort();
    print_field(&(printer_t){out, conf}, field, row, 0);
    if (fclose(out) != 0)
        abort();
    if (field->kind == WEIR_CONF_VALUE)
        text[strcspn(text, "\n")] = '\0';
    return text;
}

bool weir_conf_is_same(const weir_conf_t *conf, const weir_conf_field_t *field, const void *row, const void *other)
{
    char *one = field_text(conf, field, row), *two = field_text(conf, field, other);
    bool is_same = strcmp(one, two) == 0;
    free(one);
    free(two);
    return is_same;
}

/* Of a secret, which is not printed. */
static bool is_other_secret(const weir_conf_field_t *field, const void *row, const void *other)
{
    const char *one = *(const char *const *)weir_conf_member_const(field, row);
    const char *two = *(const char *const *)weir_conf_member_const(field, other);
    return one != NULL && two != NULL && strcmp(one, two) != 0;
}

typedef struct {
    FILE *out;
    const weir_conf_t *running, *loaded;
} notes_t;

static void note_value(const notes_t *notes, const char *path, const weir_conf_field_t *field, const void *running,
                       const void *loaded)
{
    char *before = field_text(notes->running, field, running), *after = field_text(notes->loaded, field, loaded);
    size_t skip = strlen(field->key) + 1;
    if (strcmp(before, after) != 0)
        fprintf(notes->out, "%s:%s takes effect at the next start; until then it is%s\n", path, after + skip, before + skip);
    else if (weir_conf_is_secret(field) && is_other_secret(field, running, loaded))
        fprintf(notes->out, "%s: another one takes effect at the next start\n", path);
    free(before);
    free(after);
}

/* Of a mapping that is on or off, all of it or none is read at the start alone. */
static void note_switch(const notes_t *notes, const char *path, const weir_conf_section_t *section, const void *running,
                        const void *loaded)
{
    const weir_conf_field_t *is_enabled = weir_conf_section_find(section, WEIR_CONF_SWITCH);
    const weir_conf_field_t *first = weir_conf_section_find(section, WEIR_CONF_VALUE);
    if (is_enabled == NULL || first == NULL || first->reload != RESTART)
        return;
    bool before = *(const bool *)weir_conf_member_const(is_enabled, running);
    bool after = *(const bool *)weir_conf_member_const(is_enabled, loaded);
    if (before != after)
        fprintf(notes->out, "%s: %s takes effect at the next start; until then it is %s\n", path, after ? "true" : "false",
                before ? "true" : "false");
}

static void note_section(const notes_t *notes, const char *path, const weir_conf_section_t *section, const void *running,
                         const void *loaded)
{
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        char inner[128];
        snprintf(inner, sizeof(inner), "%s%s%s", path, *path == '\0' ? "" : ".", field->key);
        if (field->kind == WEIR_CONF_SECTION) {
            const void *before = weir_conf_member_const(field, running), *after = weir_conf_member_const(field, loaded);
            note_switch(notes, inner, field->section(), before, after);
            note_section(notes, inner, field->section(), before, after);
        }
        if (field->kind == WEIR_CONF_VALUE && field->reload == RESTART)
            note_value(notes, inner, field, running, loaded);
    }
}

char *weir_conf_restart_notes(const weir_conf_t *running, const weir_conf_t *loaded)
{
    char *notes = NULL;
    size_t len;
    FILE *out = open_memstream(&notes, &len);
    if (out == NULL)
        abort();
    note_section(&(notes_t){out, running, loaded}, "", weir_conf_section_root(), running, loaded);
    if (fclose(out) != 0)
        abort();
    if (len > 0)
        return notes;
    free(notes);
    return NULL;
}
