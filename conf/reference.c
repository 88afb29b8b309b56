/* Every field of the configuration as a page to read, in Markdown. */

#include <string.h>
#include "table.h"
#include "yaml.h"

static const char introduction[] =
    "# weir.yaml: reference\n"
    "\n"
    "Written by `weir --print-reference` from conf/fields; `weir --print-schema` has the same for editors.\n"
    "\n"
    "- Durations are `250ms` `30s` `10m` `24h`; sizes `512` `64KiB` `16MiB` `1GiB`; rates `50/s` `600/m` `10000/h` "
    "`1000000/d`; percentages `25%`; weights `1` `0.25`; probabilities `1e-6` `0.001`.\n"
    "- Names of limits, dedups, upstreams and listeners are at most 63 small letters, digits and hyphens, a letter first.\n"
    "- In any value `${NAME}` and `${NAME:-default}` come from the environment; `${file:/path}` is a file's content "
    "without "
    "its last newline; `$$` is a dollar.\n"
    "- `null` is the same as leaving a field out. An unknown field is an error.\n"
    "- Paths that are not absolute are beside the configuration's own file.\n"
    "- A change is in force as soon as the file is saved, or on SIGHUP; where it needs a start, the table says so.\n";

static void write_cell(FILE *out, const char *text)
{
    for (; *text != '\0'; ++text)
        fprintf(out, *text == '|' ? "\\|" : "%c", *text);
}

static void write_what(FILE *out, const weir_conf_type_t *type)
{
    if (type->words == NULL) {
        write_cell(out, type->what);
        return;
    }
    for (size_t i = 0; type->words[i] != NULL; ++i)
        fprintf(out, "%s`%s`", i == 0 ? "" : type->words[i + 1] == NULL ? " or " : ", ", type->words[i]);
}

static void write_default(FILE *out, const weir_conf_field_t *field)
{
    if (field->required)
        fputs("**required**", out);
    else if (field->derive != NULL)
        write_cell(out, field->derived);
    else
        fprintf(out, "`%s`", field->default_text != NULL ? field->default_text : "null");
}

static void write_bounds(FILE *out, const weir_conf_field_t *field)
{
    const char *of = field->type->bounds_of;
    if (field->min == NULL || strcmp(field->min, field->max) == 0)
        return;
    fprintf(out, "%s to %s%s%s", field->min, field->max, of != NULL ? " " : "", of != NULL ? of : "");
}

static void write_algorithms(FILE *out, unsigned algorithms)
{
    const char *const *words = weir_conf_type_algorithm.words;
    const char *between = " *Only of ";
    for (size_t i = 0; words[i] != NULL; ++i)
        if ((algorithms >> i & 1) != 0) {
            fprintf(out, "%s%s", between, words[i]);
            between = " and ";
        }
    if (algorithms != 0)
        fputs(".*", out);
}

static void write_value(FILE *out, const weir_conf_field_t *field)
{
    fprintf(out, "| `%s` | ", field->key);
    write_what(out, field->type);
    fputs(" | ", out);
    write_default(out, field);
    fputs(" | ", out);
    write_bounds(out, field);
    fputs(" | ", out);
    write_cell(out, field->text);
    write_algorithms(out, field->algorithms);
    fputs(field->reload == RESTART ? " *At the next start.* |\n" : " |\n", out);
}

/* What a section is that is not there. */
static const char *part_default(const weir_conf_field_t *field, const weir_conf_field_t *is_enabled)
{
    if (is_enabled != NULL && is_enabled->derive != NULL)
        return is_enabled->derived;
    if (is_enabled != NULL && strcmp(is_enabled->default_text, "false") == 0)
        return "`false`";
    return field->kind == WEIR_CONF_NAMED  ? "`{}`"
           : field->kind == WEIR_CONF_LIST ? "`[]`"
           : field->kind == WEIR_CONF_OWN  ? "the configuration's own"
                                           : "its defaults";
}

/* A section within: told in a chapter of its own. */
static void write_part(FILE *out, const weir_conf_field_t *field)
{
    const weir_conf_field_t *is_enabled = weir_conf_section_find(field->section(), WEIR_CONF_SWITCH);
    const char *what = field->kind == WEIR_CONF_NAMED  ? "names, and under each its fields"
                       : field->kind == WEIR_CONF_LIST ? "a list of mappings"
                       : is_enabled != NULL            ? "a mapping, or false"
                                                       : "a mapping";
    fprintf(out, "| `%s` | %s | %s | ", field->key, what, part_default(field, is_enabled));
    if (field->max != NULL)
        fprintf(out, "0 to %s entries", field->max);
    fputs(" | ", out);
    write_cell(out, field->section()->text);
    write_algorithms(out, field->algorithms);
    fputs(" |\n", out);
}

static void write_rows(FILE *out, const weir_conf_section_t *section)
{
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->kind == WEIR_CONF_VALUE)
            write_value(out, field);
        else if (field->kind == WEIR_CONF_INLINE)
            write_rows(out, field->section());
        else if (field->section != NULL)
            write_part(out, field);
    }
}

static void write_chapter(FILE *out, const weir_conf_section_t *section, const char *path)
{
    fprintf(out, "\n## %s\n\n%s\n\n| field | takes | default | bounds | what it does |\n|---|---|---|---|---|\n",
            *path != '\0' ? path : "The file", section->text);
    write_rows(out, section);
    for (size_t i = 0; i < section->field_count; ++i) {
        const weir_conf_field_t *field = &section->fields[i];
        if (field->section == NULL || field->kind == WEIR_CONF_INLINE || field->kind == WEIR_CONF_OWN)
            continue;
        char inner[128];
        snprintf(inner, sizeof(inner), "%s%s%s%s", path, *path != '\0' ? "." : "", field->key,
                 field->kind == WEIR_CONF_NAMED  ? ".NAME"
                 : field->kind == WEIR_CONF_LIST ? "[]"
                                                 : "");
        write_chapter(out, field->section(), inner);
    }
}

void weir_conf_print_reference(FILE *out)
{
    fputs(introduction, out);
    write_chapter(out, weir_conf_section_root(), "");
}
