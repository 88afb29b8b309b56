#include "json.h"
#include <inttypes.h>

static void begin_value(weir_conf_json_t *json)
{
    if (!json->has_key) {
        fputs(json->has_sibling ? ",\n" : json->depth > 0 ? "\n" : "", json->out);
        fprintf(json->out, "%*s", json->depth * 2, "");
    }
    json->has_key = false;
    json->has_sibling = true;
}

static void write_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != '\0'; ++text) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\')
            fprintf(out, "\\%c", byte);
        else if (byte < 0x20)
            fprintf(out, "\\u%04x", byte);
        else
            fputc(byte, out);
    }
    fputc('"', out);
}

void weir_conf_json_open(weir_conf_json_t *json, char bracket)
{
    begin_value(json);
    fputc(bracket, json->out);
    ++json->depth;
    json->has_sibling = false;
}

void weir_conf_json_close(weir_conf_json_t *json, char bracket)
{
    --json->depth;
    if (json->has_sibling)
        fprintf(json->out, "\n%*s", json->depth * 2, "");
    fputc(bracket, json->out);
    json->has_sibling = true;
}

void weir_conf_json_key(weir_conf_json_t *json, const char *key)
{
    begin_value(json);
    write_text(json->out, key);
    fputs(": ", json->out);
    json->has_key = true;
}

void weir_conf_json_text(weir_conf_json_t *json, const char *text)
{
    begin_value(json);
    write_text(json->out, text);
}

void weir_conf_json_number(weir_conf_json_t *json, int64_t number)
{
    begin_value(json);
    fprintf(json->out, "%" PRId64, number);
}

void weir_conf_json_word(weir_conf_json_t *json, const char *word)
{
    begin_value(json);
    fputs(word, json->out);
}

void weir_conf_json_member_text(weir_conf_json_t *json, const char *key, const char *text)
{
    weir_conf_json_key(json, key);
    weir_conf_json_text(json, text);
}

void weir_conf_json_member_number(weir_conf_json_t *json, const char *key, int64_t number)
{
    weir_conf_json_key(json, key);
    weir_conf_json_number(json, number);
}

void weir_conf_json_member_word(weir_conf_json_t *json, const char *key, const char *word)
{
    weir_conf_json_key(json, key);
    weir_conf_json_word(json, word);
}
