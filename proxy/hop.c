#include "hop.h"

static bool is_hop_by_hop(weir_str_t name)
{
    switch (name.len) {
    case 2:
        return weir_str_is(name, WEIR_STR("te"));
    case 7:
        return weir_str_is(name, WEIR_STR("trailer")) || weir_str_is(name, WEIR_STR("upgrade"));
    case 10:
        return weir_str_is(name, WEIR_STR("connection")) || weir_str_is(name, WEIR_STR("keep-alive"));
    case 14:
        return weir_str_is(name, WEIR_STR("content-length")) || weir_str_is(name, WEIR_STR("http2-settings"));
    case 16:
        return weir_str_is(name, WEIR_STR("proxy-connection"));
    case 17:
        return weir_str_is(name, WEIR_STR("transfer-encoding"));
    case 18:
        return weir_str_is(name, WEIR_STR("proxy-authenticate"));
    case 19:
        return weir_str_is(name, WEIR_STR("proxy-authorization"));
    default:
        return false;
    }
}

void weir_hop_note(weir_hop_t *hop, weir_str_t name, weir_str_t value)
{
    if (name.len == 10 && weir_str_is(name, WEIR_STR("connection")) && hop->count < WEIR_HOP_LISTS_MAX)
        hop->lists[hop->count++] = value;
}

bool weir_hop_ends(const weir_hop_t *hop, weir_str_t name)
{
    if (is_hop_by_hop(name))
        return true;
    for (size_t i = 0; i < hop->count; ++i)
        if (weir_h1_list_has(hop->lists[i], name))
            return true;
    return false;
}
