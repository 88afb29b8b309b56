#include "reload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "accept.h"
#include "binding.h"
#include "h1.h"
#include "keep.h"
#include "notify.h"
#include "redis/redis.h"
#include "snapshot.h"
#include "tls.h"
#include "warm.h"
#include "watch.h"

/* A listener that the configuration asks for, and what becomes of it. */
typedef struct {
    weir_listener_kind_t kind;
    const char *name;
    const weir_conf_address_t *address;
    weir_binding_t *binding;   /* that runs already, or a new one */
    bool binds;                /* it is a new one */
    weir_listener_t *listener; /* one reference; that of the binding, or a new one */
} wanted_t;

/* By index into conf->listeners, then metrics, then admin. */
typedef struct {
    wanted_t *entries;
    size_t size;
    weir_tls_set_t *tls; /* until it is the snapshot's */
} plan_t;

/* --- errors: lines --- */

static void add_error(char **errors, const wanted_t *wanted, const char *what)
{
    char *all = NULL;
    bool is_data = wanted->kind == WEIR_LISTENER_DATA;
    int len = asprintf(&all, "%s%s%s.address: %s\n", *errors != NULL ? *errors : "", is_data ? "listeners." : "",
                       wanted->name, what != NULL ? what : "out of memory");
    if (len < 0)
        return;
    free(*errors);
    *errors = all;
}

static void log_lines(weir_log_level_t level, const char *prefix, const char *lines)
{
    char *copy = h2o_strdup(NULL, lines, SIZE_MAX).base, *rest = copy, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (*line != '\0')
            weir_log_event(level, "%s%s", prefix, line);
    }
    free(copy);
}

/* --- the plan --- */

static plan_t make_plan(const weir_conf_t *conf)
{
    plan_t plan = {.entries = h2o_mem_alloc((conf->listeners.size + 2) * sizeof(*plan.entries))};
    for (size_t i = 0; i < conf->listeners.size; ++i) {
        const weir_conf_listener_t *listener = &conf->listeners.entries[i];
        plan.entries[plan.size++] =
            (wanted_t){.kind = WEIR_LISTENER_DATA, .name = listener->name, .address = &listener->address};
    }
    plan.entries[plan.size++] =
        (wanted_t){.kind = WEIR_LISTENER_METRICS, .name = "metrics", .address = &conf->metrics.address};
    if (conf->admin.enabled)
        plan.entries[plan.size++] =
            (wanted_t){.kind = WEIR_LISTENER_ADMIN, .name = "admin", .address = &conf->admin.address};
    return plan;
}

static bool is_of_control(weir_listener_kind_t kind)
{
    return kind != WEIR_LISTENER_DATA;
}

/* Sockets stay open where their address stays, whatever the listener is called. */
static void keep_bindings(weir_server_t *server, plan_t *plan)
{
    for (weir_binding_t *binding = server->bindings; binding != NULL; binding = binding->next) {
        binding->wanted = false;
        for (size_t i = 0; i < plan->size && !binding->wanted; ++i) {
            wanted_t *wanted = &plan->entries[i];
            if (wanted->binding == NULL && is_of_control(wanted->kind) == is_of_control(binding->listener->kind) &&
                weir_binding_is_at(binding, wanted->address)) {
                wanted->binding = binding;
                binding->wanted = true;
            }
        }
    }
}

static bool has_port(const weir_binding_t *binding, const weir_conf_address_t *address)
{
    return binding->address.kind == WEIR_ADDRESS_TCP && address->kind == WEIR_ADDRESS_TCP &&
           binding->address.port == address->port;
}

/* Whether sockets of ours that are on their way out may be what is in the way. */
static bool shares_port(weir_server_t *server, const weir_conf_address_t *address)
{
    for (const weir_binding_t *binding = server->bindings; binding != NULL; binding = binding->next) {
        if (!binding->wanted && has_port(binding, address))
            return true;
    }
    for (const weir_binding_t *binding = server->retiring; binding != NULL; binding = binding->next) {
        if (has_port(binding, address))
            return true;
    }
    return false;
}

static bool bind_new(weir_server_t *server, plan_t *plan, char **errors)
{
    bool bound = true;
    for (size_t i = 0; i < plan->size; ++i) {
        wanted_t *wanted = &plan->entries[i];
        char *error = NULL;
        if (wanted->binding != NULL)
            continue;
        wanted->binds = true;
        wanted->binding = weir_binding_create(wanted->address, is_of_control(wanted->kind) ? 1 : server->worker_count,
                                              shares_port(server, wanted->address), &error);
        if (wanted->binding == NULL) {
            add_error(errors, wanted, error);
            bound = false;
        }
        free(error);
    }
    return bound;
}

static void name_listeners(plan_t *plan)
{
    for (size_t i = 0; i < plan->size; ++i) {
        wanted_t *wanted = &plan->entries[i];
        weir_listener_t *running = wanted->binding->listener;
        if (running != NULL && running->kind == wanted->kind && strcmp(running->name, wanted->name) == 0) {
            weir_listener_acquire(running);
            wanted->listener = running;
        } else {
            wanted->listener = weir_listener_create(wanted->kind, wanted->name);
        }
    }
}

static void dispose_plan(plan_t *plan)
{
    for (size_t i = 0; i < plan->size; ++i) {
        if (plan->entries[i].listener != NULL)
            weir_listener_release(plan->entries[i].listener);
    }
    free(plan->entries);
}

static void undo_plan(plan_t *plan)
{
    for (size_t i = 0; i < plan->size; ++i) {
        if (plan->entries[i].binds && plan->entries[i].binding != NULL) {
            weir_binding_unlink(plan->entries[i].binding);
            weir_binding_destroy(plan->entries[i].binding);
        }
    }
    if (plan->tls != NULL)
        weir_tls_set_destroy(plan->tls);
    dispose_plan(plan);
}

/* --- orders to workers --- */

static void swap_snapshot(weir_worker_t *worker, void *argument)
{
    weir_warm_stop(worker);
    weir_worker_use(worker, argument);
    weir_warm_start(worker);
}

typedef struct {
    weir_binding_t *binding;
    weir_listener_t *listener; /* one reference */
    weir_listener_t *former;   /* one reference; whose connections end soon */
    int fd;
    bool is_unix;
} order_t;

static void free_order(order_t *order)
{
    if (order->listener != NULL)
        weir_listener_release(order->listener);
    if (order->former != NULL)
        weir_listener_release(order->former);
    free(order);
}

static void socket_closed(weir_worker_t *control, void *argument)
{
    weir_binding_t *binding = argument, **link = &control->server->retiring;
    if (--binding->open_count != 0)
        return;
    while (*link != NULL && *link != binding)
        link = &(*link)->next;
    if (*link == NULL)
        return; /* weir ends, and frees those that were not retired */
    *link = binding->next;
    weir_binding_destroy(binding);
}

static void on_closed(weir_worker_t *worker, const void *binding)
{
    if (worker->is_control)
        socket_closed(worker, (void *)binding);
    else
        weir_worker_post(worker->server->control, socket_closed, (void *)binding);
}

static void start(weir_worker_t *worker, void *argument)
{
    order_t *order = argument;
    weir_accept_start(worker, order->fd, order->is_unix, order->listener, order->binding, on_closed);
    free_order(order);
}

static void hand_over(weir_worker_t *worker, void *argument)
{
    order_t *order = argument;
    weir_accept_hand_over(worker, order->binding, order->listener);
    weir_h1_retire(worker, order->former);
    free_order(order);
}

static void retire(weir_worker_t *worker, void *argument)
{
    order_t *order = argument;
    weir_accept_retire(worker, order->binding);
    if (!worker->draining) /* which ends all connections in its own way */
        weir_h1_retire(worker, order->former);
    free_order(order);
}

/* Posts it to those who have a socket of the binding. */
static void give_order(weir_server_t *server, void (*run)(weir_worker_t *worker, void *argument),
                       weir_binding_t *binding, weir_listener_t *listener, weir_listener_t *former)
{
    bool of_control = is_of_control((listener != NULL ? listener : former)->kind);
    for (size_t i = 0; i < binding->count; ++i) {
        order_t *order = h2o_mem_alloc(sizeof(*order));
        *order = (order_t){.binding = binding,
                           .listener = listener,
                           .former = former,
                           .fd = run == start ? weir_binding_take(binding, i) : -1,
                           .is_unix = binding->address.kind == WEIR_ADDRESS_UNIX};
        if (listener != NULL)
            weir_listener_acquire(listener);
        if (former != NULL)
            weir_listener_acquire(former);
        weir_worker_post(of_control ? server->control : server->workers[i], run, order);
    }
}

/* --- in force --- */

static void send_snapshot(weir_server_t *server, weir_snapshot_t *snapshot)
{
    for (size_t i = 0; i <= server->worker_count; ++i) {
        weir_snapshot_acquire(snapshot);
        weir_worker_post(i == server->worker_count ? server->control : server->workers[i], swap_snapshot, snapshot);
    }
}

static weir_snapshot_t *create_snapshot(weir_server_t *server, weir_conf_t *conf, const plan_t *plan)
{
    weir_listener_t **listeners = h2o_mem_alloc(plan->size * sizeof(*listeners));
    for (size_t i = 0; i < conf->listeners.size; ++i)
        listeners[i] = plan->entries[i].listener;
    weir_snapshot_t *snapshot = weir_snapshot_create(server, conf, plan->tls, listeners);
    free(listeners);
    if (server->keep != NULL)
        weir_keep_restore(server->keep, server->store);
    return snapshot;
}

/* Those whose name or address is gone: the connections they have go on with the snapshot that was. */
static void part_with_listeners(weir_server_t *server, const plan_t *plan)
{
    if (server->snapshot == NULL)
        return;
    for (weir_binding_t *binding = server->bindings; binding != NULL; binding = binding->next) {
        bool stays = false;
        for (size_t i = 0; i < plan->size; ++i)
            stays |= plan->entries[i].listener == binding->listener;
        if (!stays)
            weir_listener_set_last(binding->listener, server->snapshot);
    }
}

static void start_wanted(weir_server_t *server, wanted_t *wanted)
{
    weir_binding_t *binding = wanted->binding;
    weir_listener_t *former = binding->listener;
    if (former == wanted->listener)
        return;
    weir_listener_acquire(wanted->listener);
    binding->listener = wanted->listener;
    if (!wanted->binds) {
        give_order(server, hand_over, binding, wanted->listener, former);
        weir_listener_release(former);
        return;
    }
    give_order(server, start, binding, wanted->listener, NULL);
    binding->wanted = true;
    binding->next = server->bindings;
    server->bindings = binding;
    weir_log_event(WEIR_LOG_INFO, "%s listens on %s", wanted->name, binding->address.text);
}

static void retire_binding(weir_server_t *server, weir_binding_t **link)
{
    weir_binding_t *binding = *link;
    *link = binding->next;
    binding->next = server->retiring;
    server->retiring = binding;
    weir_binding_unlink(binding);
    give_order(server, retire, binding, NULL, binding->listener);
    weir_log_event(WEIR_LOG_INFO, "%s stops listening on %s", binding->listener->name, binding->address.text);
}

static void retire_unwanted(weir_server_t *server)
{
    for (weir_binding_t **link = &server->bindings; *link != NULL;) {
        if ((*link)->wanted)
            link = &(*link)->next;
        else
            retire_binding(server, link);
    }
}

static void put_in_force(weir_server_t *server, weir_conf_t *conf, plan_t *plan)
{
    weir_snapshot_t *former = server->snapshot, *snapshot = create_snapshot(server, conf, plan);
    part_with_listeners(server, plan);
    server->snapshot = snapshot;
    weir_redis_expect(server->redis, conf);
    atomic_store(&server->max_connections, (size_t)conf->server.max_connections);
    atomic_store(&server->max_buffered_bytes, conf->server.max_buffered_bytes);
    atomic_store(&server->loaded_wall_ms, weir_clock_wall_ms());
    weir_log_set_level(conf->log.level);
    send_snapshot(server, snapshot);
    for (size_t i = 0; i < plan->size; ++i)
        start_wanted(server, &plan->entries[i]);
    retire_unwanted(server);
    if (former != NULL)
        weir_snapshot_release(former);
}

static bool load_certificates(weir_server_t *server, const weir_conf_t *conf, plan_t *plan, char **errors)
{
    const weir_tls_set_t *former = server->snapshot != NULL ? server->snapshot->tls : NULL;
    plan->tls = weir_tls_set_create(conf, former, server->worker_count, errors);
    return plan->tls != NULL;
}

static bool configure_log(weir_server_t *server, const weir_conf_t *conf, char **errors)
{
    char *error = NULL;
    if (server->snapshot == NULL || weir_log_configure(server->log, &conf->log, &error))
        return true; /* the first one's log is open already */
    if (asprintf(errors, "log.access: %s\n", error != NULL ? error : "cannot be opened") < 0)
        *errors = NULL;
    free(error);
    return false;
}

bool weir_reload_apply(weir_server_t *server, weir_conf_t *conf, char **errors)
{
    plan_t plan = make_plan(conf);
    *errors = NULL;
    keep_bindings(server, &plan);
    if (!load_certificates(server, conf, &plan, errors) || !bind_new(server, &plan, errors) ||
        !configure_log(server, conf, errors)) {
        undo_plan(&plan);
        return false;
    }
    name_listeners(&plan);
    put_in_force(server, conf, &plan);
    dispose_plan(&plan);
    return true;
}

/* --- again --- */

static void tell_restart_notes(weir_server_t *server, const weir_conf_t *conf)
{
    char *notes = weir_conf_restart_notes(server->first_conf, conf);
    if (notes != NULL)
        log_lines(WEIR_LOG_WARN, "", notes);
    free(notes);
}

static void count_reload(weir_server_t *server, bool fine)
{
    const char *labels[] = {fine ? "ok" : "error"};
    uint32_t slot = weir_metrics_series(server->metrics, NULL, WEIR_METRIC_CONFIG_RELOADS, labels);
    weir_metrics_add(server->control->metrics, slot, 1);
}

static bool load_and_apply(weir_server_t *server, char **errors)
{
    weir_conf_t *conf = weir_conf_load(server->first_conf->file, errors);
    if (conf == NULL)
        return false;
    bool fine = weir_reload_apply(server, conf, errors);
    if (fine) {
        weir_watch_aim(server->watch, &conf->files);
        tell_restart_notes(server, conf);
    }
    weir_conf_release(conf);
    return fine;
}

bool weir_server_reload(weir_server_t *server, char **errors)
{
    *errors = NULL;
    if (server->draining) {
        *errors = h2o_strdup(NULL, H2O_STRLIT("weir is draining\n")).base;
        return false;
    }
    weir_notify_reloading();
    weir_watch_look(server->watch);
    bool fine = load_and_apply(server, errors);
    if (!fine && *errors == NULL)
        *errors = h2o_strdup(NULL, H2O_STRLIT("out of memory\n")).base;
    count_reload(server, fine);
    free(server->last_reload_errors);
    server->last_reload_errors = fine ? NULL : h2o_strdup(NULL, *errors, SIZE_MAX).base;
    if (fine)
        weir_log_event(WEIR_LOG_INFO, "the configuration was loaded again");
    else
        log_lines(WEIR_LOG_ERROR, "the configuration stays as it was: ", *errors);
    weir_notify_ready();
    return fine;
}

/* --- the end --- */

void weir_reload_retire_data(weir_server_t *server)
{
    for (weir_binding_t *binding = server->bindings; binding != NULL; binding = binding->next)
        binding->wanted = is_of_control(binding->listener->kind);
    retire_unwanted(server);
}

void weir_reload_unlink_all(weir_server_t *server)
{
    for (weir_binding_t *binding = server->bindings; binding != NULL; binding = binding->next)
        weir_binding_unlink(binding);
}

static void destroy_all(weir_binding_t *binding)
{
    while (binding != NULL) {
        weir_binding_t *next = binding->next;
        weir_binding_destroy(binding);
        binding = next;
    }
}

void weir_reload_dispose(weir_server_t *server)
{
    weir_reload_unlink_all(server);
    destroy_all(server->bindings);
    destroy_all(server->retiring);
    server->bindings = server->retiring = NULL;
}
