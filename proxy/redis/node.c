#include "side.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../tls.h"

enum {
    PROBE_MS = 1000, /* how long its key lives */
    SENTINEL_REPLY_BYTES_MAX = 8 * 1024 * 1024,
};
static const int64_t MS = INT64_C(1000000), CHECK_TIMEOUT_NS = INT64_C(250000000);

/* --- errors about the server --- */

static const char *const words_of_server[] = {"READONLY",  "LOADING",    "MASTERDOWN", "CLUSTERDOWN", "NOAUTH",
                                              "WRONGPASS", "NOPERM",     "MISCONF",    "OOM",         "BUSY",
                                              "TRYAGAIN",  "NOREPLICAS", "MOVED",      "ASK"};

static bool begins_with_word(const char *text)
{
    for (size_t i = 0; i < sizeof(words_of_server) / sizeof(words_of_server[0]); ++i) {
        size_t len = strlen(words_of_server[i]);
        if (strncmp(text, words_of_server[i], len) == 0 && (text[len] == ' ' || text[len] == '\0'))
            return true;
    }
    return false;
}

/* Before Redis 7 a script's error is "ERR Error running script (...): @user_script:12: -OOM ..." */
bool weir_redis_is_of_server(const char *error)
{
    if (begins_with_word(error))
        return true;
    const char *script = strstr(error, "@user_script");
    for (const char *at = script; at != NULL; at = strchr(at, ' ')) {
        while (*at == ' ' || *at == '-')
            ++at;
        if (begins_with_word(at))
            return true;
    }
    return false;
}

/* --- the check --- */

/* Four letters whose slot that is; of 26^4 there are some for each. */
static void find_tag(int slot, char tag[5])
{
    strcpy(tag, "aaaa");
    while (slot >= 0 && weir_redis_slot(tag, 4) != slot) {
        size_t at = 3;
        for (; tag[at] == 'z'; --at)
            tag[at] = 'a';
        ++tag[at];
    }
}

static void make_probe(weir_redis_node_t *node, int slot)
{
    static const char text[] = "return redis.call('SET',KEYS[1],'1','PX',ARGV[1])";
    char key[128], ms[16], tag[5];
    find_tag(slot, tag);
    int key_len = snprintf(key, sizeof(key), "%s{%s}:probe", node->side->conf->prefix, tag);
    int ms_len = snprintf(ms, sizeof(ms), "%d", PROBE_MS);
    const weir_str_t words[] = {
        {"EVAL", 4}, {text, sizeof(text) - 1}, {"1", 1}, {key, (size_t)key_len}, {ms, (size_t)ms_len}};
    enum { COUNT = sizeof(words) / sizeof(words[0]) };
    node->probe = h2o_mem_alloc(weir_redis_format_size(words, COUNT));
    node->probe_len = weir_redis_format(node->probe, words, COUNT);
}

/* Servers say anything. */
static void keep_printable(char *text)
{
    for (; *text != '\0'; ++text)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

static void set_state(weir_redis_node_t *node, int state, const char *why)
{
    weir_redis_side_t *side = node->side;
    const weir_redis_way_t *way = weir_redis_way_of(side);
    node->state = state;
    snprintf(node->why, sizeof(node->why), "%s", why);
    keep_printable(node->why);
    if (state == WEIR_REDIS_NODE_CHECKING)
        return;
    if (way->on_node != NULL)
        way->on_node(side->way, node);
    weir_redis_side_look(side, node, node->why);
}

static void send_check(weir_redis_node_t *node)
{
    static const char role[] = "*1\r\n$4\r\nROLE\r\n";
    bool asks_role = node->kind == WEIR_REDIS_NODE_MASTER && !node->is_role_told;
    node->check.bytes = asks_role ? role : node->probe;
    node->check.len = asks_role ? sizeof(role) - 1 : node->probe_len;
    node->is_checking = true;
    weir_redis_node_send(node, &node->check, CHECK_TIMEOUT_NS);
}

/* The role is not everybody's to ask for: without an answer the write must do. */
static bool is_replica(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_ARRAY && reply->elements != 0 && reply->element[0]->type == REDIS_REPLY_STRING &&
           strcmp(reply->element[0]->str, "master") != 0;
}

/* It is about the slot: somebody else's by now, or on its way. */
static bool is_of_slot(const redisReply *reply)
{
    return strncmp(reply->str, "MOVED ", 6) == 0 || strncmp(reply->str, "ASK ", 4) == 0 ||
           strncmp(reply->str, "TRYAGAIN", 8) == 0 || strncmp(reply->str, "CLUSTERDOWN Hash slot", 21) == 0;
}

/* A server that was lost, or late, is slow until a check says otherwise. A new one has the time to come to itself. */
static void take_up(weir_redis_node_t *node)
{
    int64_t took_ns = weir_clock_turn_ns - node->check.sent_ns, timeout_ns = node->side->conf->timeout_ns;
    char why[64] = "";
    node->slow_ns = node->was_up && took_ns >= timeout_ns ? took_ns : 0;
    node->was_up = true;
    if (node->slow_ns != 0)
        snprintf(why, sizeof(why), "it takes %lld ms to answer, not %lld", (long long)(took_ns / MS), (long long)(timeout_ns / MS));
    set_state(node, WEIR_REDIS_NODE_UP, why);
}

static void on_role(weir_redis_node_t *node, const redisReply *reply)
{
    if (is_replica(reply)) {
        weir_redis_node_refuse(node, "it is a replica");
        return;
    }
    node->is_role_told = true;
    send_check(node);
}

static void on_checked(weir_redis_command_t *command, weir_redis_told_t told, const redisReply *reply)
{
    weir_redis_node_t *node = H2O_STRUCT_FROM_MEMBER(weir_redis_node_t, check, command);
    node->is_checking = false;
    if (told == WEIR_REDIS_LOST || node->state == WEIR_REDIS_NODE_DOWN || !weir_redis_link_is_ready(node->link))
        return;
    if (node->kind == WEIR_REDIS_NODE_MASTER && !node->is_role_told)
        on_role(node, reply);
    else if (reply->type == REDIS_REPLY_ERROR &&
             !(weir_redis_way_of(node->side)->take_error != NULL && is_of_slot(reply)))
        weir_redis_node_refuse(node, reply->str);
    else
        take_up(node);
}

void weir_redis_node_tick(weir_redis_node_t *node)
{
    if (node->slow_ns != 0 && weir_redis_node_is_up(node) && !node->is_checking)
        send_check(node);
}

static void on_state(void *context, weir_redis_link_t *link, bool is_ready, const char *why)
{
    weir_redis_node_t *node = context;
    bool is_checked = node->kind == WEIR_REDIS_NODE_PLAIN || node->kind == WEIR_REDIS_NODE_MASTER;
    node->side->is_dirty = true;
    if (!is_ready) {
        node->is_role_told = false;
        set_state(node, WEIR_REDIS_NODE_DOWN, why != NULL && *why != '\0' ? why : "it does not answer");
        return;
    }
    node->is_refused = false;
    set_state(node, is_checked ? WEIR_REDIS_NODE_CHECKING : WEIR_REDIS_NODE_UP, "");
    if (is_checked && !node->is_checking)
        send_check(node);
}

/* --- life --- */

weir_redis_node_t *weir_redis_node_create(weir_redis_side_t *side, weir_redis_node_kind_t kind, const char *address,
                                          int slot)
{
    const weir_conf_store_redis_t *conf = side->conf;
    static const _Atomic size_t of_sentinel = SENTINEL_REPLY_BYTES_MAX;
    bool is_sentinel = kind == WEIR_REDIS_NODE_SENTINEL;
    weir_redis_node_t *node = h2o_mem_alloc(sizeof(*node));
    *node = (weir_redis_node_t){.side = side,
                                .kind = kind,
                                .tls = weir_redis_side_tls(side, address),
                                .check.on_reply = on_checked,
                                .why = "it is not connected yet",
                                .next = side->nodes};
    side->nodes = node;
    if (kind == WEIR_REDIS_NODE_PLAIN || kind == WEIR_REDIS_NODE_MASTER)
        make_probe(node, slot);
    node->link = weir_redis_link_create(
        &(weir_redis_link_options_t){.worker = side->worker,
                                     .address = address,
                                     .username = is_sentinel ? conf->sentinel.username : conf->username,
                                     .password = is_sentinel ? conf->sentinel.password : conf->password,
                                     .database = is_sentinel ? 0 : conf->database,
                                     .tls = node->tls,
                                     .reply_max = is_sentinel ? &of_sentinel : weir_redis_side_reply_max(side),
                                     .on_state = on_state,
                                     .context = node});
    side->is_dirty = true;
    return node;
}

void weir_redis_node_destroy(weir_redis_node_t *node)
{
    weir_redis_node_t **at = &node->side->nodes;
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    node->state = WEIR_REDIS_NODE_DOWN; /* whom LOST is told does not ask here again */
    weir_redis_link_destroy(node->link);
    if (node->tls != NULL)
        weir_tls_context_release(node->tls);
    free(node->probe);
    free(node);
}

void weir_redis_node_send(weir_redis_node_t *node, weir_redis_command_t *command, int64_t timeout_ns)
{
    node->side->is_dirty = true;
    weir_redis_link_send(node->link, command, timeout_ns);
}

/* "OOM command not allowed when used memory > 'maxmemory'. script: 0d5c..., on @user_script:10." */
static size_t said_len(const char *why)
{
    const char *script = strstr(why, " script: ");
    size_t len = script != NULL ? (size_t)(script - why) : strlen(why);
    return len != 0 && why[len - 1] == '.' ? len - 1 : len;
}

void weir_redis_node_refuse(weir_redis_node_t *node, const char *why)
{
    char said[sizeof(node->why)];
    if (node->is_refused)
        return;
    snprintf(said, sizeof(said), "%.*s", (int)said_len(why), why);
    node->is_refused = true;
    node->is_role_told = false;
    node->side->is_dirty = true;
    set_state(node, WEIR_REDIS_NODE_DOWN, said);
}
