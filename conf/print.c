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

/* ---- what a reload does not change ---- */

static char *value_text(const weir_conf_t *conf, const weir_conf_field_t *field, const void *row)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    if (out == NULL)
        abort();
    field->type->print(out, conf, field, row, 0);
    if (fclose(out) != 0)
        abort();
    text[strcspn(text, "\n")] = '\0';
    return text;
}

static void note_section(FILE *out, const char *path, const weir_conf_section_t *section, const weir_conf_t *running,
                         const void *running_row, const weir_conf_t *loaded, const void *loaded_row)
{
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        char inner[128];
        snprintf(inner, sizeof(inner), "%s%s%s", path, *path == '\0' ? "" : ".", field->key);
        if (field->kind == WEIR_CONF_SECTION)
            note_section(out, inner, field->section(), running, weir_conf_member_const(field, running_row), loaded,
                         weir_conf_member_const(field, loaded_row));
        if (field->kind != WEIR_CONF_VALUE || field->reload != RESTART)
            continue;
        char *before = value_text(running, field, running_row), *after = value_text(loaded, field, loaded_row);
        if (strcmp(before, after) != 0)
            fprintf(out, "%s:%s takes effect at the next start; until then it is%s\n", inner, after, before);
        free(before);
        free(after);
    }
}

char *weir_conf_restart_notes(const weir_conf_t *running, const weir_conf_t *loaded)
{
    char *notes = NULL;
    size_t len;
    FILE *out = open_memstream(&notes, &len);
    if (out == NULL)
        abort();
    note_section(out, "", weir_conf_section_root(), running, running, loaded, loaded);
    if (fclose(out) != 0)
        abort();
    if (len > 0)
        return notes;
    free(notes);
    return NULL;
}
