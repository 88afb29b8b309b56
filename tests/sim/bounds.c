/* Limits of all algorithms, units and keys, in worlds drawn from seeds: what they answer is what exact models answer.
 */
#include <string.h>
#include "world.h"

static void try_worlds(sim_options_t options, world_options_t world, const char *what)
{
    world_figures_t all = {0};
    char failure[700] = "";
    size_t failed = 0;
    for (long i = 0; i < options.rounds; ++i) {
        char one[700];
        if (!world_run(options.seed + (uint64_t)i, world, &all, one) && failed++ == 0)
            memcpy(failure, one, sizeof(failure));
    }
    sim_say(
        failed != 0 ? failure : NULL, what,
        "%ld worlds, %zu failed; %.0f hours, %zu requests: %zu admitted, %zu refused, %zu by shadows; %zu waited, %zu "
        "in vain, %zu displaced; %zu charges settled, %zu refunded; %zu decisions in overflow rows",
        options.rounds, failed, all.hours, all.arrived, all.judged.admitted, all.judged.refused,
        all.judged.shadow_refused, all.judged.waited, all.judged.timed_out, all.judged.displaced, all.judged.settled,
        all.judged.refunded, all.judged.overflowed);
}

int main(int argc, char **argv)
{
    sim_options_t options = sim_options(argc, argv, 1, 112);
    try_worlds(options, (world_options_t){.arrivals = 4000}, "limits answer as exact models do");
    options.rounds /= 2;
    try_worlds(options, (world_options_t){.arrivals = 4000, .has_many_slots = true},
               "slots and queues, too: none is free while someone waits");
    try_worlds(options, (world_options_t){.arrivals = 4000, .is_crowded = true},
               "full tables keep the bound of each row, and forgive nothing");
    return sim_status();
}
