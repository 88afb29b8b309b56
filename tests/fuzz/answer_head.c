/* Bytes that are taken for a kept answer's head: what is read from them is in bounds, and is those bytes again. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include "../../proxy/answer_head.h"

static void assert_within(weir_str_t text, const char *bytes, size_t size)
{
    assert(text.base >= bytes && text.len <= size && text.base <= bytes + size - text.len);
}

static void assert_same_again(const weir_call_head_t *head, const char *bytes, size_t size)
{
    enum { NO_BODY_AT = 16, FIXED = 24 }; /* a flag and what is reserved are not kept as they are */
    h2o_iovec_t again = weir_answer_head_encode(head);
    assert(again.len == size && memcmp(again.base, bytes, NO_BODY_AT) == 0);
    assert(memcmp(again.base + FIXED, bytes + FIXED, size - FIXED) == 0);
    free(again.base);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    weir_answer_head_t decoded;
    h2o_mem_pool_t pool;
    char *bytes = malloc(size + (size == 0));
    memcpy(bytes, data, size);
    h2o_mem_init_pool(&pool);
    if (weir_answer_head_decode(&pool, bytes, size, &decoded)) {
        assert(decoded.head.field_count <= WEIR_H1_FIELDS_MAX);
        for (size_t i = 0; i < decoded.head.field_count; ++i) {
            assert_within(decoded.head.fields[i].name, bytes, size);
            assert_within(decoded.head.fields[i].value, bytes, size);
        }
        assert_same_again(&decoded.head, bytes, size);
        if (weir_answer_head_is_sound(&decoded.head, size))
            assert(decoded.head.status >= 200 && decoded.head.status <= 599);
    }
    h2o_mem_clear_pool(&pool);
    free(bytes);
    return 0;
}
