/* Any text as a configuration: it is refused with errors that have a place, or it prints, loads again and prints the
 * same. Nothing of the environment but its own files is reached. */

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../conf/load.h"

static char *printed(const weir_conf_t *conf)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    assert(out != NULL);
    weir_conf_print(conf, out);
    assert(fclose(out) == 0);
    return text;
}

/* Every line is `fuzz.yaml:line:column: text`, or of a file that this one names. */
static void check_errors(const char *errors)
{
    assert(*errors != '\0');
    for (const char *line = errors; *line != '\0'; line = strchr(line, '\n') + 1) {
        assert(strchr(line, '\n') != NULL);
        unsigned at_line, at_column;
        if (strncmp(line, "fuzz.yaml:", 10) != 0)
            continue;
        assert(sscanf(line + 10, "%u:%u: ", &at_line, &at_column) == 2);
        assert(at_line >= 1 && at_column >= 1);
    }
}

static void check_round_trip(const weir_conf_t *conf)
{
    char *errors, *once = printed(conf);
    if (strlen(once) <= WEIR_CONF_TEXT_BYTES_MAX) {
        weir_conf_t *again = weir_conf_load_text("fuzz.yaml", once, strlen(once), &errors);
        if (again == NULL) {
            fprintf(stderr, "%s\n%s", once, errors);
            abort();
        }
        char *twice = printed(again);
        assert(strcmp(once, twice) == 0);
        free(twice);
        weir_conf_release(again);
    }
    free(once);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* libfyaml 0.7.12 loses a buffer of its own, of a few KiB, where a text in quotes is never closed. */
const char *__lsan_default_suppressions(void)
{
    return "leak:libfyaml\n";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *errors = NULL;
    weir_conf_t *conf = weir_conf_load_text("fuzz.yaml", (const char *)data, size, &errors);
    if (conf == NULL) {
        check_errors(errors);
        free(errors);
        return 0;
    }
    assert(errors == NULL);
    check_round_trip(conf);
    weir_conf_release(conf);
    return 0;
}
