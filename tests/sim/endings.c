/* A million requests that end in every way there is, with workers whose clocks differ and reloads in between: nothing
 * is left of them. Under ASan it shows memory, too. */
#include <stdio.h>
#include <string.h>
#include "world.h"

static const char *const end_names[WORLD_ENDS] = {
    [WORLD_WHOLE] = "whole",
    [WORLD_CUT] = "cut",
    [WORLD_LOST] = "lost",
    [WORLD_NOT_RUN] = "not run",
    [WORLD_BODY_FAILED] = "body failed",
    [WORLD_LEFT_IN_BODY] = "left in the body",
    [WORLD_LEFT_IN_QUEUE] = "left in the queue",
    [WORLD_LEFT_CALLING] = "left before the answer",
    [WORLD_LEFT_IN_ANSWER] = "left in the answer",
    [WORLD_REFUSED] = "refused",
    [WORLD_QUEUE_FULL] = "queue full",
    [WORLD_QUEUE_TIMEOUT] = "queue timeout",
};

static const char *text_of(const world_figures_t *figures, char text[600])
{
    size_t at = 0;
    for (size_t i = 0; i < WORLD_ENDS; ++i)
        at += (size_t)snprintf(text + at, 600 - at, "%s%zu %s", i != 0 ? ", " : "", figures->ends[i], end_names[i]);
    return text;
}

static const char *failure_of(const world_figures_t *figures)
{
    for (size_t i = 0; i < WORLD_ENDS; ++i)
        if (figures->ends[i] == 0)
            return "not every end there is was tried";
    return NULL;
}

int main(int argc, char **argv)
{
    sim_options_t options = sim_options(argc, argv, 100001, 202);
    world_figures_t all = {0};
    char failure[700] = "", text[600];
    size_t failed = 0;
    for (long i = 0; i < options.rounds; ++i) {
        char one[700];
        world_options_t world = {
            .arrivals = 4500, .is_rough = true, .has_many_slots = i % 4 != 0, .is_crowded = i % 8 == 7};
        if (!world_run(options.seed + (uint64_t)i, world, &all, one) && failed++ == 0)
            memcpy(failure, one, sizeof(failure));
    }
    sim_say(failed != 0 ? failure : failure_of(&all), "every slot, reservation and place is back, whatever the end",
            "%ld worlds, %zu failed; %.0f hours, %zu reloads, %zu requests: %s", options.rounds, failed, all.hours,
            all.reloads, all.arrived, text_of(&all, text));
    return sim_status();
}
