#ifndef WEIR_CONF_YAML_H
#define WEIR_CONF_YAML_H

#include <stdio.h>

/* Writes `text` so that any YAML reader, and weir, takes it for this text: plain where it can be, else in double
 * quotes, a dollar doubled. NULL is null. */
void weir_conf_yaml_text(FILE *out, const char *text);
/* The same of a key, in which nothing is inserted: a dollar is one. */
void weir_conf_yaml_key(FILE *out, const char *text);

#endif
