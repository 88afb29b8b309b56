#ifndef WEIR_PROXY_REDIS_SIDE_H
#define WEIR_PROXY_REDIS_SIDE_H

/* What is one worker's own: its servers (node.c), the calls it has made (call.c), and the way in which a server is
 * found for a key (single.c, sentinel.c, cluster.c). All of it on that worker's thread.
 *
 * A server is asked only once it has shown that it can be written to: a small write, which expires, has gone well since
 * its connection was opened. So READONLY, OOM or LOADING cost those who asked when it began, and nobody after them. One that was
 * too late is asked again by those alone who would have waited for that write: so nobody waits for what is too slow for him. */

#include "link.h"
#include "redis.h"
#include "slots.h"

typedef struct weir_redis_side weir_redis_side_t;
typedef struct weir_redis_node weir_redis_node_t;
typedef struct weir_redis_call weir_redis_call_t;

/* --- one server, or Sentinel --- */

typedef enum {
    WEIR_REDIS_NODE_PLAIN,  /* it is asked once it takes writes */
    WEIR_REDIS_NODE_MASTER, /* ... and says that it is a master */
    WEIR_REDIS_NODE_SEED,   /* as soon as it is connected; never for scripts */
    WEIR_REDIS_NODE_SENTINEL,
} weir_redis_node_kind_t;

struct weir_redis_node {
    weir_redis_side_t *side;
    weir_redis_node_kind_t kind;
    weir_redis_link_t *link;
    struct weir_tls_context *tls; /* one reference, or NULL */
    enum { WEIR_REDIS_NODE_DOWN, WEIR_REDIS_NODE_CHECKING, WEIR_REDIS_NODE_UP } state;
    weir_redis_command_t check;
    bool is_checking;  /* the link has `check` */
    bool is_role_told; /* it is a master */
    char *probe;       /* the small write; malloc'ed */
    size_t probe_len;
    bool was_up;                /* since it was created */
    int64_t slow_ns;            /* so long the last check took, which is too long for some; 0: it was in time */
    bool is_refused;            /* to be connected anew at the end of this turn */
    char why[200];              /* it is down, or refused; "" */
    size_t in_flight;           /* calls */
    uint32_t loading;           /* bits by script: its text is on the way */
    bool is_listed;             /* cluster.c */
    weir_redis_call_t *waiting; /* cluster.c: until it is up */
    weir_redis_node_t *next;    /* of all that its side has */
};

/* `slot`: a write that proves something goes there (cluster); -1: anywhere. */
weir_redis_node_t *weir_redis_node_create(weir_redis_side_t *side, weir_redis_node_kind_t kind, const char *address,
                                          int slot);
void weir_redis_node_destroy(weir_redis_node_t *node); /* not from within a call of its link */
static inline bool weir_redis_node_is_up(const weir_redis_node_t *node)
{
    return node->state == WEIR_REDIS_NODE_UP && weir_redis_link_is_ready(node->link); /* which is told later */
}
static inline bool weir_redis_node_is_in_time(const weir_redis_node_t *node, int64_t timeout_ns)
{
    return node->slow_ns < timeout_ns;
}
/* It is up, and in time for everybody. */
static inline bool weir_redis_node_is_whole(const weir_redis_node_t *node)
{
    return weir_redis_node_is_up(node) && node->slow_ns == 0;
}
static inline const char *weir_redis_node_address(const weir_redis_node_t *node)
{
    return weir_redis_link_address(node->link);
}
/* Only while its link is ready. */
void weir_redis_node_send(weir_redis_node_t *node, weir_redis_command_t *command, int64_t timeout_ns);
void weir_redis_node_tick(weir_redis_node_t *node); /* at the end of a turn, every 100 ms */
/* It said that it is not the one to ask, or not now. */
void weir_redis_node_refuse(weir_redis_node_t *node, const char *why);
/* Whether an error is about the server, and not about the command. */
bool weir_redis_is_of_server(const char *error);

/* --- one call of a script, from `ask` to its end --- */

struct weir_redis_call {
    weir_redis_command_t command; /* first */
    weir_redis_side_t *side;
    weir_redis_node_t *node; /* that was sent to last */
    weir_redis_call_t *next; /* of those that wait */
    void (*on_end)(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns);
    void *context;
    int64_t timeout_ns, asked_ns;
    weir_script_t script;
    uint16_t slot;
    uint8_t hops;        /* times it was sent again */
    bool is_asking;      /* of a cluster's slot that is on its way to where it is sent */
    bool is_loading;     /* it is sent as EVAL, and node->loading has its bit */
    char *text;          /* EVAL; malloc'ed, or NULL */
    size_t len, rest_at; /* of `bytes`; where the arguments behind the script's name begin */
    char bytes[];
};

enum { WEIR_REDIS_HOPS_MAX = 5, WEIR_REDIS_SHA1_HEX = 40 };

/* Sends it to this node, which is up. */
void weir_redis_call_begin(weir_redis_node_t *node, const char *sha1, const weir_remote_ask_t *ask, uint16_t slot);
void weir_redis_call_send(weir_redis_call_t *call, weir_redis_node_t *node); /* which is up */
void weir_redis_call_end(weir_redis_call_t *call, weir_remote_told_t told, const weir_remote_value_t *value);
static inline bool weir_redis_call_is_late(const weir_redis_call_t *call)
{
    return weir_clock_turn_ns - call->asked_ns >= call->timeout_ns;
}

/* --- how a server is found --- */

typedef struct {
    const char *name;
    void *(*open)(weir_redis_side_t *side);
    void (*end_calls)(void *way);                          /* those that no link has; NULL: there are none */
    void (*close)(void *way);                              /* the side's nodes are there no more */
    weir_redis_node_t *(*route)(void *way, uint16_t slot); /* that is up, or NULL */
    bool (*is_up)(const void *way);                        /* some can be asked */
    bool (*is_whole)(const void *way);                     /* all can, by everybody */
    void (*on_node)(void *way, weir_redis_node_t *node);   /* its state has changed; NULL: nothing to do */
    void (*on_tick)(void *way);                            /* at the end of a turn, every 100 ms; NULL */
    bool (*take_error)(void *way, weir_redis_call_t *call, const char *error); /* the call is its own now; NULL */
} weir_redis_way_t;

extern const weir_redis_way_t weir_redis_single, weir_redis_sentinel, weir_redis_cluster;

struct weir_redis_side {
    weir_redis_t *redis;
    weir_worker_t *worker; /* NULL: not open */
    const weir_conf_store_redis_t *conf;
    void *way;
    weir_redis_node_t *nodes;
    h2o_timeout_entry_t tick;
    bool ticked;   /* in this turn */
    bool is_dirty; /* something was sent, or is to be done at the end of this turn */
    bool is_whole, is_closing;
    size_t in_flight; /* calls */
    _Atomic uint64_t ok, timeout, error;
};

const weir_redis_way_t *weir_redis_way_of(const weir_redis_side_t *side);
/* A node's state, or what the way knows, has changed: tells the sidecar's state. `why` where something is down. */
void weir_redis_side_look(weir_redis_side_t *side, const weir_redis_node_t *node, const char *why);
/* How large a reply may be. */
const _Atomic size_t *weir_redis_side_reply_max(const weir_redis_side_t *side);
/* The name that TLS connections to this address go by; NULL: plain. The reference is the caller's. */
struct weir_tls_context *weir_redis_side_tls(weir_redis_side_t *side, const char *address);

#endif
