/* A cluster's masters, each for its slots (redis.io: cluster specification).
 *
 * Who has which slot is asked (CLUSTER SLOTS) of a server that is known, at most each 100 ms: at first, when an error
 * or a lost connection says that it has changed, and now and then. What is answered MOVED or ASK was not run, and is
 * sent again to the one that was named; TRYAGAIN, which a slot on its way answers while its keys are in two places, is
 * asked again for as long as the call has, and after that its slot is not asked for a moment. */

#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MASTERS_MAX = 64,
    PAUSED_MAX = 16, /* slots */
};
static const int64_t ASK_NS = INT64_C(100000000), ASK_IDLY_NS = INT64_C(5000000000), ANSWER_NS = INT64_C(500000000);
static const int64_t RETRY_NS = INT64_C(4000000);
static const int64_t PAUSE_NS = INT64_C(100000000);

typedef struct {
    weir_redis_side_t *side;
    weir_redis_node_t *nodes[MASTERS_MAX]; /* NULL: a free place */
    uint8_t table[WEIR_REDIS_SLOTS];       /* place + 1; 0: nobody's */
    size_t served;                         /* slots that are somebody's */
    /* asking */
    weir_redis_node_t *seed; /* who is asked where no master is up; NULL: none is open */
    size_t next_seed;
    weir_redis_command_t question;
    weir_redis_node_t *asked; /* who has the question; NULL: nobody */
    bool is_stale;
    int64_t asked_ns, seeded_ns;
    /* calls that wait for a little while */
    weir_redis_call_t *retries;
    h2o_timeout_entry_t retry;
    struct {
        uint16_t slot;
        int64_t until_ns;
    } paused[PAUSED_MAX];
    size_t next_paused;
} cluster_t;

/* --- masters --- */

static size_t place_of(const cluster_t *cluster, const char *address)
{
    size_t at = 0;
    while (at < MASTERS_MAX &&
           (cluster->nodes[at] == NULL || strcmp(weir_redis_node_address(cluster->nodes[at]), address) != 0))
        ++at;
    return at;
}

/* MASTERS_MAX: there are too many. */
static size_t take_place(cluster_t *cluster, const char *address, uint16_t slot)
{
    size_t at = place_of(cluster, address);
    if (at != MASTERS_MAX)
        return at;
    for (at = 0; at < MASTERS_MAX && cluster->nodes[at] != NULL; ++at)
        ;
    if (at != MASTERS_MAX)
        cluster->nodes[at] = weir_redis_node_create(cluster->side, WEIR_REDIS_NODE_PLAIN, address, slot);
    return at;
}

static weir_redis_node_t *node_of(const cluster_t *cluster, uint16_t slot)
{
    return cluster->table[slot] != 0 ? cluster->nodes[cluster->table[slot] - 1] : NULL;
}

/* --- slots --- */

static void set_slot(cluster_t *cluster, uint16_t slot, size_t place)
{
    cluster->served += cluster->table[slot] == 0;
    cluster->table[slot] = (uint8_t)(place + 1);
}

static void take_range(cluster_t *cluster, const weir_redis_range_t *range, bool has_slots[MASTERS_MAX])
{
    size_t place = take_place(cluster, range->address, range->first);
    if (place == MASTERS_MAX)
        return;
    has_slots[place] = true;
    for (unsigned slot = range->first; slot <= range->last; ++slot)
        set_slot(cluster, (uint16_t)slot, place);
}

static void take_slots(cluster_t *cluster, const redisReply *reply)
{
    weir_redis_range_t range;
    bool has_slots[MASTERS_MAX] = {false};
    memset(cluster->table, 0, sizeof(cluster->table));
    cluster->served = 0;
    for (size_t i = 0; i < reply->elements; ++i)
        if (weir_redis_read_range(reply->element[i], weir_redis_node_address(cluster->asked), &range))
            take_range(cluster, &range, has_slots);
    for (size_t i = 0; i < MASTERS_MAX; ++i)
        if (cluster->nodes[i] != NULL)
            cluster->nodes[i]->is_listed = has_slots[i];
}

static void want_slots(cluster_t *cluster)
{
    cluster->is_stale = cluster->side->is_dirty = true;
}

static void on_slots(weir_redis_command_t *command, weir_redis_told_t told, const redisReply *reply)
{
    cluster_t *cluster = H2O_STRUCT_FROM_MEMBER(cluster_t, question, command);
    weir_redis_node_t *asked = cluster->asked;
    if (told == WEIR_REDIS_REPLIED && reply->type == REDIS_REPLY_ARRAY) {
        cluster->is_stale = false;
        take_slots(cluster, reply);
        weir_redis_side_look(cluster->side, asked,
                             cluster->served == WEIR_REDIS_SLOTS ? "" : "some slots are nobody's");
    } else if (told == WEIR_REDIS_REPLIED) {
        weir_redis_side_look(cluster->side, asked, reply->type == REDIS_REPLY_ERROR ? reply->str : "it is no cluster");
    }
    cluster->asked = NULL;
}

/* Any master, or a seed where there is none. */
static weir_redis_node_t *whom_to_ask(const cluster_t *cluster)
{
    size_t first = weir_worker_random(cluster->side->worker) % MASTERS_MAX;
    for (size_t i = 0; i < MASTERS_MAX; ++i) {
        weir_redis_node_t *node = cluster->nodes[(first + i) % MASTERS_MAX];
        if (node != NULL && weir_redis_node_is_up(node))
            return node;
    }
    return cluster->seed != NULL && weir_redis_node_is_up(cluster->seed) ? cluster->seed : NULL;
}

static void ask_for_slots(cluster_t *cluster)
{
    weir_redis_node_t *node = whom_to_ask(cluster);
    if (cluster->asked != NULL || node == NULL)
        return;
    cluster->asked = node;
    cluster->asked_ns = weir_clock_turn_ns;
    weir_redis_node_send(node, &cluster->question, ANSWER_NS);
}

static void close_seed(cluster_t *cluster)
{
    if (cluster->seed != NULL)
        weir_redis_node_destroy(cluster->seed);
    cluster->seed = NULL;
}

static void open_seed(cluster_t *cluster)
{
    const weir_conf_strings_t *addresses = &cluster->side->conf->addresses;
    close_seed(cluster);
    cluster->seed = weir_redis_node_create(cluster->side, WEIR_REDIS_NODE_SEED,
                                           addresses->entries[cluster->next_seed++ % addresses->size], -1);
    cluster->seeded_ns = weir_clock_turn_ns;
}

/* --- calls that wait --- */

static void refuse(weir_redis_call_t *call)
{
    weir_redis_call_end(call, WEIR_REMOTE_REFUSED, NULL);
}

static void wait_for(weir_redis_node_t *node, weir_redis_call_t *call)
{
    call->next = node->waiting;
    node->waiting = call;
}

static void send_to(weir_redis_node_t *node, weir_redis_call_t *call)
{
    if (weir_redis_node_is_up(node))
        weir_redis_call_send(call, node);
    else
        wait_for(node, call);
}

/* Those that waited for it go out, or have waited too long; all go where it is gone. */
static void look_at_waiting(weir_redis_node_t *node, bool is_gone)
{
    weir_redis_call_t *call = node->waiting, *next;
    for (node->waiting = NULL; call != NULL; call = next) {
        next = call->next;
        if (is_gone || weir_redis_call_is_late(call))
            refuse(call);
        else
            send_to(node, call);
    }
}

static bool is_paused(const cluster_t *cluster, uint16_t slot)
{
    for (size_t i = 0; i < PAUSED_MAX; ++i)
        if (cluster->paused[i].slot == slot && cluster->paused[i].until_ns > weir_clock_turn_ns)
            return true;
    return false;
}

static void pause_slot(cluster_t *cluster, uint16_t slot)
{
    size_t at = cluster->next_paused++ % PAUSED_MAX;
    cluster->paused[at].slot = slot;
    cluster->paused[at].until_ns = weir_clock_turn_ns + PAUSE_NS;
}

static void retry(cluster_t *cluster, weir_redis_call_t *call)
{
    weir_redis_node_t *node = node_of(cluster, call->slot);
    call->is_asking = false;
    call->hops = 0; /* its time ends it */
    if (weir_redis_call_is_late(call) || node == NULL) {
        pause_slot(cluster, call->slot);
        refuse(call);
    } else {
        send_to(node, call);
    }
}

static void on_retry(h2o_timeout_entry_t *entry)
{
    cluster_t *cluster = H2O_STRUCT_FROM_MEMBER(cluster_t, retry, entry);
    weir_redis_call_t *call = cluster->retries, *next;
    for (cluster->retries = NULL; call != NULL; call = next) {
        next = call->next;
        retry(cluster, call);
    }
}

static void retry_soon(cluster_t *cluster, weir_redis_call_t *call)
{
    if (cluster->retries == NULL)
        weir_timer_start(cluster->side->worker, &cluster->retry, RETRY_NS);
    call->next = cluster->retries;
    cluster->retries = call;
}

/* --- errors that send elsewhere --- */

static bool redirect(cluster_t *cluster, weir_redis_call_t *call, const weir_redis_redirect_t *to)
{
    size_t place = take_place(cluster, to->address, to->slot);
    if (place == MASTERS_MAX || call->hops++ >= WEIR_REDIS_HOPS_MAX)
        return false;
    weir_redis_node_t *node = cluster->nodes[place];
    node->is_listed = true; /* until the slots are asked for again */
    call->is_asking = to->is_ask;
    if (!to->is_ask)
        set_slot(cluster, to->slot, place);
    send_to(node, call);
    return true;
}

static bool take_error(void *way, weir_redis_call_t *call, const char *error)
{
    cluster_t *cluster = way;
    weir_redis_redirect_t to;
    if (weir_redis_read_redirect(error, weir_redis_node_address(call->node), &to)) {
        if (!to.is_ask)
            want_slots(cluster);
        return redirect(cluster, call, &to);
    }
    if (strncmp(error, "TRYAGAIN", 8) == 0) {
        retry_soon(cluster, call);
        return true;
    }
    if (strncmp(error, "CLUSTERDOWN Hash slot", 21) != 0)
        return false;
    want_slots(cluster);
    pause_slot(cluster, call->slot);
    refuse(call);
    return true;
}

/* --- at the end of a turn --- */

static void drop(cluster_t *cluster, size_t place)
{
    weir_redis_node_t *node = cluster->nodes[place];
    if (cluster->asked == node)
        return;
    look_at_waiting(node, true);
    cluster->nodes[place] = NULL;
    weir_redis_node_destroy(node);
}

/* Whoever has no slots any more, and nothing to answer. */
static void drop_unlisted(cluster_t *cluster)
{
    for (size_t i = 0; i < MASTERS_MAX; ++i) {
        weir_redis_node_t *node = cluster->nodes[i];
        if (node != NULL && !node->is_listed && (node->in_flight == 0 || !weir_redis_node_is_up(node)))
            drop(cluster, i);
    }
}

static bool is_whole(const void *way)
{
    const cluster_t *cluster = way;
    for (size_t i = 0; i < MASTERS_MAX; ++i)
        if (cluster->nodes[i] != NULL && cluster->nodes[i]->is_listed && !weir_redis_node_is_whole(cluster->nodes[i]))
            return false;
    return cluster->served == WEIR_REDIS_SLOTS;
}

static void look_for_seed(cluster_t *cluster)
{
    bool has_master = false;
    for (size_t i = 0; i < MASTERS_MAX && !has_master; ++i)
        has_master = cluster->nodes[i] != NULL && weir_redis_node_is_up(cluster->nodes[i]);
    if (has_master && cluster->seed != NULL && cluster->asked != cluster->seed)
        close_seed(cluster);
    else if (!has_master && cluster->asked == NULL && weir_clock_turn_ns - cluster->seeded_ns >= ANSWER_NS)
        open_seed(cluster);
}

static void on_tick(void *way)
{
    cluster_t *cluster = way;
    int64_t since_ns = weir_clock_turn_ns - cluster->asked_ns;
    for (size_t i = 0; i < MASTERS_MAX; ++i)
        if (cluster->nodes[i] != NULL)
            look_at_waiting(cluster->nodes[i], false);
    drop_unlisted(cluster);
    look_for_seed(cluster);
    if (since_ns >= ASK_IDLY_NS || (since_ns >= ASK_NS && (cluster->is_stale || !is_whole(cluster))))
        ask_for_slots(cluster);
}

static void on_node(void *way, weir_redis_node_t *node)
{
    cluster_t *cluster = way;
    if (!weir_redis_node_is_up(node))
        want_slots(cluster);
    else if (node == cluster->seed)
        ask_for_slots(cluster);
    else
        look_at_waiting(node, false);
}

/* --- the way --- */

static void *open_way(weir_redis_side_t *side)
{
    static const char text[] = "*2\r\n$7\r\nCLUSTER\r\n$5\r\nSLOTS\r\n";
    cluster_t *cluster = h2o_mem_alloc(sizeof(*cluster));
    memset(cluster, 0, sizeof(*cluster));
    cluster->side = side;
    cluster->question = (weir_redis_command_t){.bytes = text, .len = sizeof(text) - 1, .on_reply = on_slots};
    cluster->retry.cb = on_retry;
    open_seed(cluster);
    return cluster;
}

static void end_calls(void *way)
{
    cluster_t *cluster = way;
    weir_redis_call_t *call = cluster->retries, *next;
    weir_timer_stop(&cluster->retry);
    for (cluster->retries = NULL; call != NULL; call = next) {
        next = call->next;
        refuse(call);
    }
    for (size_t i = 0; i < MASTERS_MAX; ++i)
        if (cluster->nodes[i] != NULL)
            look_at_waiting(cluster->nodes[i], true);
}

static void close_way(void *way)
{
    free(way);
}

static bool is_up(const void *way)
{
    const cluster_t *cluster = way;
    for (size_t i = 0; cluster->served != 0 && i < MASTERS_MAX; ++i)
        if (cluster->nodes[i] != NULL && weir_redis_node_is_up(cluster->nodes[i]))
            return true;
    return false;
}

static weir_redis_node_t *route(void *way, uint16_t slot)
{
    cluster_t *cluster = way;
    weir_redis_node_t *node = node_of(cluster, slot);
    return node != NULL && weir_redis_node_is_up(node) && !is_paused(cluster, slot) ? node : NULL;
}

const weir_redis_way_t weir_redis_cluster = {.name = "cluster",
                                             .open = open_way,
                                             .end_calls = end_calls,
                                             .close = close_way,
                                             .route = route,
                                             .is_up = is_up,
                                             .is_whole = is_whole,
                                             .on_node = on_node,
                                             .on_tick = on_tick,
                                             .take_error = take_error};
