#ifndef WEIR_TESTS_SIM_ANSWERS_H
#define WEIR_TESTS_SIM_ANSWERS_H

/* Answers as upstreams write them. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    SIM_PLAIN, /* text_bytes of anything */
    SIM_OPENAI_CHAT,
    SIM_OPENAI_CHAT_STREAM,
    SIM_OPENAI_RESPONSES,
    SIM_OPENAI_RESPONSES_STREAM,
    SIM_ANTHROPIC,
    SIM_ANTHROPIC_STREAM,
} sim_shape_t;

typedef struct {
    int status;
    sim_shape_t shape;
    bool says_usage;
    int64_t input, cached, cache_write, output; /* input: without the other two */
    size_t text_bytes;                          /* of generated text, at most SIM_TEXT_MAX */
} sim_answer_t;

enum { SIM_TEXT_MAX = 4096 };

bool sim_shape_is_stream(sim_shape_t shape);
/* malloc'ed */
char *sim_answer_write(const sim_answer_t *answer, size_t *len);

#endif
