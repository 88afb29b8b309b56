#include "recent.h"

#include <assert.h>
#include <string.h>

enum { KEPT = WEIR_RECENT_SLOTS + 1 };

static void forget_slot(weir_recent_t *recent, int64_t slot)
{
    uint32_t *counts = recent->counts[slot % KEPT];
    for (unsigned kind = 0; kind < WEIR_RECENT_KINDS; ++kind) {
        recent->totals[kind] -= counts[kind];
        counts[kind] = 0;
    }
}

void weir_recent_forget(weir_recent_t *recent, int64_t window_ns, int64_t now_ns)
{
    assert(window_ns > 0);
    assert(now_ns >= 0);
    if (window_ns == recent->window_ns && now_ns < recent->slot_end_ns)
        return;
    int64_t slot_ns = window_ns / WEIR_RECENT_SLOTS + (window_ns % WEIR_RECENT_SLOTS != 0);
    int64_t slot = now_ns / slot_ns;
    if (slot_ns == recent->slot_ns && slot <= recent->slot)
        return;
    if (slot_ns != recent->slot_ns || slot - recent->slot >= KEPT) {
        memset(recent, 0, sizeof(*recent));
        recent->slot_ns = slot_ns;
    } else {
        for (int64_t s = recent->slot + 1; s <= slot; ++s)
            forget_slot(recent, s); /* the one that was 31 before it */
    }
    recent->slot = slot;
    recent->window_ns = window_ns;
    recent->slot_end_ns = slot < INT64_MAX / slot_ns ? (slot + 1) * slot_ns : INT64_MAX;
}

void weir_recent_count(weir_recent_t *recent, int64_t window_ns, unsigned kind, int64_t now_ns)
{
    assert(kind < WEIR_RECENT_KINDS);
    weir_recent_forget(recent, window_ns, now_ns);
    if (recent->totals[kind] == UINT32_MAX)
        return;
    ++recent->totals[kind];
    ++recent->counts[recent->slot % KEPT][kind];
}
