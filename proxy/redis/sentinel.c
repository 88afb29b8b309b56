/* The master that Sentinels name (redis.io: Sentinel client specification).
 *
 * One Sentinel is asked, each second, and in each tick while its master cannot be asked; the one that answered stays
 * the first. One that does not answer in time, or does not know the master, makes room for the next. What it names is
 * asked only once it says that it is a master (node.c); while another one is named the former is left, and what was
 * sent to it is lost. */

#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const int64_t ASK_NS = INT64_C(1000000000), ASK_AGAIN_NS = INT64_C(90000000); /* there is a master, or none */
static const int64_t ANSWER_NS = INT64_C(500000000);

typedef struct {
    weir_redis_side_t *side;
    const char **addresses; /* the one that answered last is the first */
    size_t size, at;
    weir_redis_node_t *sentinel, *master; /* NULL: none */
    weir_redis_command_t question;
    char *text;
    bool is_asked;                      /* the link has the question */
    int64_t since_ns;                   /* it is tried, or asked */
    bool is_useless;                    /* the next one is to be tried */
    char named[WEIR_REDIS_ADDRESS_MAX]; /* the master; "": none yet */
} sentinels_t;

/* --- asking --- */

/* What it named is looked at at the end of this turn. */
static void take_name(sentinels_t *sentinels)
{
    sentinels->side->is_dirty = sentinels->side->ticked = true;
    const char *first = sentinels->addresses[sentinels->at];
    memmove(sentinels->addresses + 1, sentinels->addresses, sentinels->at * sizeof(*sentinels->addresses));
    sentinels->addresses[0] = first;
    sentinels->at = 0;
}

/* The next one is tried in the next tick. */
static void give_up(sentinels_t *sentinels, const char *why)
{
    sentinels->is_useless = true;
    weir_redis_side_look(sentinels->side, sentinels->sentinel, why);
}

static bool read_name(const redisReply *reply, char named[WEIR_REDIS_ADDRESS_MAX])
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 || reply->element[0]->type != REDIS_REPLY_STRING ||
        reply->element[1]->type != REDIS_REPLY_STRING)
        return false;
    return weir_redis_join_address(named, reply->element[0]->str, strtol(reply->element[1]->str, NULL, 10));
}

static void on_answer(weir_redis_command_t *command, weir_redis_told_t told, const redisReply *reply)
{
    sentinels_t *sentinels = H2O_STRUCT_FROM_MEMBER(sentinels_t, question, command);
    sentinels->is_asked = false;
    if (told == WEIR_REDIS_LOST || sentinels->sentinel == NULL) /* on_node hears why */
        return;
    if (reply->type == REDIS_REPLY_ERROR)
        give_up(sentinels, reply->str);
    else if (!read_name(reply, sentinels->named))
        give_up(sentinels, "it does not know the master");
    else
        take_name(sentinels);
}

static void ask(sentinels_t *sentinels)
{
    sentinels->is_asked = true;
    sentinels->since_ns = weir_clock_turn_ns;
    weir_redis_node_send(sentinels->sentinel, &sentinels->question, ANSWER_NS);
}

static void on_node(void *way, weir_redis_node_t *node)
{
    sentinels_t *sentinels = way;
    if (node != sentinels->sentinel)
        sentinels->side->is_dirty = sentinels->side->ticked = true;
    else if (!weir_redis_node_is_up(node))
        sentinels->is_useless = true;
    else if (!sentinels->is_asked)
        ask(sentinels);
}

/* --- at the end of a turn --- */

static void try_next(sentinels_t *sentinels)
{
    if (sentinels->sentinel != NULL)
        weir_redis_node_destroy(sentinels->sentinel);
    sentinels->at = (sentinels->at + 1) % sentinels->size;
    sentinels->sentinel =
        weir_redis_node_create(sentinels->side, WEIR_REDIS_NODE_SENTINEL, sentinels->addresses[sentinels->at], -1);
    sentinels->is_useless = false;
    sentinels->since_ns = weir_clock_turn_ns;
}

static void follow_name(sentinels_t *sentinels)
{
    weir_redis_node_t *former = sentinels->master;
    if (former != NULL && strcmp(weir_redis_node_address(former), sentinels->named) == 0)
        return;
    sentinels->master = weir_redis_node_create(sentinels->side, WEIR_REDIS_NODE_MASTER, sentinels->named, -1);
    if (former == NULL)
        return;
    weir_redis_side_look(sentinels->side, former, "the Sentinels name another master");
    weir_redis_node_destroy(former);
}

static bool is_due(const sentinels_t *sentinels)
{
    bool has_master = sentinels->master != NULL && weir_redis_node_is_up(sentinels->master);
    return weir_clock_turn_ns - sentinels->since_ns >= (has_master ? ASK_NS : ASK_AGAIN_NS);
}

static void on_tick(void *way)
{
    sentinels_t *sentinels = way;
    weir_redis_node_t *sentinel = sentinels->sentinel;
    bool is_waited_for = sentinels->is_asked || !weir_redis_node_is_up(sentinel);
    if (sentinels->named[0] != '\0')
        follow_name(sentinels);
    if (sentinels->is_useless || (is_waited_for && weir_clock_turn_ns - sentinels->since_ns >= ANSWER_NS))
        try_next(sentinels);
    else if (!is_waited_for && is_due(sentinels))
        ask(sentinels);
}

/* --- the way --- */

static void *open_way(weir_redis_side_t *side)
{
    const weir_conf_store_redis_t *conf = side->conf;
    const char *master = conf->sentinel.master;
    const weir_str_t words[] = {{"SENTINEL", 8}, {"get-master-addr-by-name", 23}, {master, strlen(master)}};
    sentinels_t *sentinels = h2o_mem_alloc(sizeof(*sentinels));
    *sentinels = (sentinels_t){.side = side, .size = conf->addresses.size, .at = conf->addresses.size - 1};
    sentinels->addresses = h2o_mem_alloc(sentinels->size * sizeof(*sentinels->addresses));
    memcpy(sentinels->addresses, conf->addresses.entries, sentinels->size * sizeof(*sentinels->addresses));
    sentinels->text = h2o_mem_alloc(weir_redis_format_size(words, 3));
    sentinels->question = (weir_redis_command_t){
        .bytes = sentinels->text, .len = weir_redis_format(sentinels->text, words, 3), .on_reply = on_answer};
    try_next(sentinels);
    return sentinels;
}

static void close_way(void *way)
{
    sentinels_t *sentinels = way;
    free(sentinels->addresses);
    free(sentinels->text);
    free(sentinels);
}

static bool is_up(const void *way)
{
    const sentinels_t *sentinels = way;
    return sentinels->master != NULL && weir_redis_node_is_up(sentinels->master);
}

static bool is_whole(const void *way)
{
    const sentinels_t *sentinels = way;
    return sentinels->master != NULL && weir_redis_node_is_whole(sentinels->master);
}

static weir_redis_node_t *route(void *way, uint16_t slot)
{
    sentinels_t *sentinels = way;
    return is_up(sentinels) ? sentinels->master : NULL;
}

const weir_redis_way_t weir_redis_sentinel = {.name = "sentinel",
                                              .open = open_way,
                                              .close = close_way,
                                              .route = route,
                                              .is_up = is_up,
                                              .is_whole = is_whole,
                                              .on_node = on_node,
                                              .on_tick = on_tick};
