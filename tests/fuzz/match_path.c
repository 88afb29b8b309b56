/* A match path is its own match path, and holds nothing that could be read as another one. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../proxy/h1_parse.h"

static bool is_dots(const char *segment, size_t len)
{
    return (len == 1 && segment[0] == '.') || (len == 2 && segment[0] == '.' && segment[1] == '.');
}

static void assert_sound(const char *path, size_t len)
{
    size_t segment = 1;
    assert(len != 0 && path[0] == '/');
    for (size_t i = 1; i <= len; ++i) {
        if (i != len && path[i] != '/') {
            assert(path[i] > 0x20 && path[i] < 0x7f && strchr("?#;\\", path[i]) == NULL);
            continue;
        }
        assert(i == len || i != segment);
        assert(!is_dots(path + segment, i - segment));
        segment = i + 1;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *detail = NULL;
    char *out = malloc(size + (size == 0));
    ptrdiff_t len = weir_h1_match_path((const char *)data, size, out, &detail);
    assert(len < 0 ? detail != NULL : (size_t)len <= size);
    if (len >= 0) {
        assert_sound(out, (size_t)len);
        char *again = malloc((size_t)len);
        assert(weir_h1_match_path(out, (size_t)len, again, &detail) == len);
        assert(memcmp(again, out, (size_t)len) == 0);
        free(again);
    }
    free(out);
    return 0;
}
