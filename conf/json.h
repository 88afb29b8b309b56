#ifndef WEIR_CONF_JSON_H
#define WEIR_CONF_JSON_H

/* Writes JSON, indented. Inside an object every value comes after its key. */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    FILE *out;
    int depth;
    bool has_sibling, has_key;
} weir_conf_json_t;

void weir_conf_json_open(weir_conf_json_t *json, char bracket); /* '{' or '[' */
void weir_conf_json_close(weir_conf_json_t *json, char bracket);
void weir_conf_json_key(weir_conf_json_t *json, const char *key);
void weir_conf_json_text(weir_conf_json_t *json, const char *text);
void weir_conf_json_number(weir_conf_json_t *json, int64_t number);
void weir_conf_json_word(weir_conf_json_t *json, const char *word); /* true, false, null, or JSON as it is */

/* A member of an object. */
void weir_conf_json_member_text(weir_conf_json_t *json, const char *key, const char *text);
void weir_conf_json_member_number(weir_conf_json_t *json, const char *key, int64_t number);
void weir_conf_json_member_word(weir_conf_json_t *json, const char *key, const char *word);

#endif
