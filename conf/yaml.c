#include "yaml.h"
#include <ctype.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

/* Words that a reader of YAML 1.1 or 1.2 takes for something else than text. */
static bool is_other_word(const char *text)
{
    static const char *const words[] = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", ".inf", ".nan"};
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); ++i)
        if (strcasecmp(words[i], text) == 0)
            return true;
    return false;
}

static bool is_plain(const char *text)
{
    static const char first[] = "./_", others[] = "._/:+=@%-";
    if ((!isalnum((unsigned char)*text) && (*text == '\0' || strchr(first, *text) == NULL)) || is_other_word(text))
        return false;
    bool is_number = true; /* or a date, or base 60; two dots make an address of it */
    int dots = 0;
    for (const char *at = text; *at != '\0'; ++at) {
        if (!isalnum((unsigned char)*at) && strchr(others, *at) == NULL)
            return false;
        if (*at == ':' && (at[1] == '\0' || at[1] == ':'))
            return false;
        dots += *at == '.';
        is_number = is_number && (isxdigit((unsigned char)*at) || strchr("xX._:+-", *at) != NULL);
    }
    return !is_number || dots > 1;
}

static uint32_t next_character(const unsigned char **at)
{
    uint32_t character = *(*at)++;
    int more = character >= 0xf0 ? 3 : character >= 0xe0 ? 2 : character >= 0xc0 ? 1 : 0;
    if (more > 0)
        character &= 0x3fu >> more;
    for (; more > 0 && **at != '\0'; --more)
        character = character << 6 | (*(*at)++ & 0x3f);
    return character;
}

static bool is_printable(uint32_t character)
{
    bool is_control = character < 0x20 || (character >= 0x7f && character < 0xa0);
    bool is_odd = character == 0x2028 || character == 0x2029 || character == 0xfeff || (character & 0xfffe) == 0xfffe;
    return !is_control && !is_odd;
}

/* `dollars`: how a dollar is written; in keys nothing is inserted. */
static void write_quoted(FILE *out, const char *text, const char *dollars)
{
    fputc('"', out);
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0';) {
        const unsigned char *begin = at;
        uint32_t character = next_character(&at);
        if (character == '"' || character == '\\')
            fprintf(out, "\\%c", (char)character);
        else if (character == '$')
            fputs(dollars, out);
        else if (character == '\n')
            fputs("\\n", out);
        else if (is_printable(character))
            fwrite(begin, 1, (size_t)(at - begin), out);
        else if (character < 0x100)
            fprintf(out, "\\x%02x", (unsigned)character);
        else
            fprintf(out, character < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)character);
    }
    fputc('"', out);
}

void weir_conf_yaml_text(FILE *out, const char *text)
{
    if (text == NULL)
        fputs("null", out);
    else if (is_plain(text))
        fputs(text, out);
    else
        write_quoted(out, text, "$$");
}

void weir_conf_yaml_key(FILE *out, const char *text)
{
    if (is_plain(text))
        fputs(text, out);
    else
        write_quoted(out, text, "$");
}
