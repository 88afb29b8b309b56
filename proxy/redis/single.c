/* The one server that the configuration names. */

#include "side.h"

static void *open_way(weir_redis_side_t *side)
{
    return weir_redis_node_create(side, WEIR_REDIS_NODE_PLAIN, side->conf->addresses.entries[0], -1);
}

static void close_way(void *way)
{
}

static weir_redis_node_t *route(void *way, uint16_t slot)
{
    return weir_redis_node_is_up(way) ? way : NULL;
}

static bool is_up(const void *way)
{
    return weir_redis_node_is_up(way);
}

static bool is_whole(const void *way)
{
    return weir_redis_node_is_whole(way);
}

const weir_redis_way_t weir_redis_single = {
    .name = "single", .open = open_way, .close = close_way, .route = route, .is_up = is_up, .is_whole = is_whole};
