#include "resolver.h"

#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum {
    NAMES_MAX = 1024,
    THREADS_MAX = 16, /* look-ups under way; a name server that does not answer holds one for many seconds */
    STACK_BYTES = 512 * 1024,
};

static const int64_t FAILURE_NS = INT64_C(1000000000);
static const int64_t OLD_ANSWER_NS = 100 * INT64_C(1000000); /* a new one is waited for where there is an old one */

/* What a look-up found; shared by the name and the answers under way. Ports are not set. */
typedef struct {
    weir_addresses_t addresses;
    _Atomic size_t references;
} found_t;

typedef enum { IDLE, QUEUED, RUNNING } look_up_t;

typedef struct {
    char *host;
    h2o_linklist_t link;       /* of all, the one asked for last is first */
    h2o_linklist_t queue_link; /* while QUEUED */
    h2o_linklist_t questions;
    look_up_t look_up;
    found_t *found;    /* the last answer; NULL: none yet. A failure only where there was no success */
    int64_t found_ns;  /* when it was a success; meaningless for a failure */
    int64_t failed_ns; /* of the last look-up, if that failed; else INT64_MIN */
} name_t;

/* A question belongs to its worker from the moment it is answered, to its name before. */
struct weir_resolve {
    weir_resolver_t *resolver;
    weir_worker_t *worker;
    h2o_linklist_t link; /* in name->questions; not linked: the answer is on its way */
    h2o_timeout_entry_t timer; /* runs where `found` is an old answer */
    found_t *found;
    uint16_t port;
    bool cancelled; /* after that; the worker's thread only */
    void (*answer)(void *argument, const weir_addresses_t *addresses);
    void *argument;
};

/* Kept until the last of its threads has ended, which may sit in a look-up for longer than weir runs. */
struct weir_resolver {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    h2o_linklist_t names, queue;
    size_t name_count, queue_size, thread_count, idle_thread_count;
    bool stopping;
    size_t references; /* of the owner and each thread */
};

/* --- what was found --- */

static void release_found(found_t *found)
{
    if (found != NULL && atomic_fetch_sub(&found->references, 1) == 1)
        free(found);
}

static const char *error_of(int result)
{
    switch (result) {
    case EAI_NONAME:
        return "name does not exist";
    case EAI_NODATA:
    case EAI_ADDRFAMILY:
        return "name has no address";
    case EAI_AGAIN:
        return "name server does not answer";
    case EAI_FAIL:
        return "name server failed";
    case EAI_MEMORY:
    case EAI_SYSTEM:
        return "look-up failed";
    default:
        return gai_strerror(result); /* static text */
    }
}

static void collect(const struct addrinfo *info, weir_addresses_t *addresses)
{
    for (; info != NULL && addresses->size < WEIR_RESOLVER_ADDRESSES_MAX; info = info->ai_next) {
        if (info->ai_family == AF_INET || info->ai_family == AF_INET6)
            memcpy(&addresses->entries[addresses->size++], info->ai_addr, info->ai_addrlen);
    }
}

/* No AI_ADDRCONFIG: it would hide ::1 in a pod without other IPv6 addresses, where servers on localhost may be. */
static void look_up(const char *host, int flags, weir_addresses_t *addresses)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags}, *info;
    addresses->size = 0;
    addresses->error = NULL;
    int result = getaddrinfo(host, NULL, &hints, &info);
    if (result == 0) {
        collect(info, addresses);
        freeaddrinfo(info);
    }
    if (addresses->size == 0)
        addresses->error = error_of(result != 0 ? result : EAI_NODATA);
}

static void set_port(weir_addresses_t *addresses, uint16_t port)
{
    for (size_t i = 0; i < addresses->size; ++i) {
        struct sockaddr_storage *address = &addresses->entries[i];
        if (address->ss_family == AF_INET)
            ((struct sockaddr_in *)address)->sin_port = htons(port);
        else
            ((struct sockaddr_in6 *)address)->sin6_port = htons(port);
    }
}

static void copy_found(const found_t *found, uint16_t port, weir_addresses_t *addresses)
{
    addresses->size = found->addresses.size;
    addresses->error = found->addresses.error;
    memcpy(addresses->entries, found->addresses.entries, addresses->size * sizeof(addresses->entries[0]));
    set_port(addresses, port);
}

/* --- answers --- */

static void deliver(weir_worker_t *worker, void *argument)
{
    weir_resolve_t *question = argument;
    weir_addresses_t addresses;
    weir_timer_stop(&question->timer);
    if (!question->cancelled) {
        copy_found(question->found, question->port, &addresses);
        question->answer(question->argument, &addresses);
    }
    release_found(question->found);
    free(question);
}

/* Under the lock, so that nothing is posted once the resolver is destroyed. */
static void answer_all(name_t *name, found_t *found)
{
    while (!h2o_linklist_is_empty(&name->questions)) {
        weir_resolve_t *question = H2O_STRUCT_FROM_MEMBER(weir_resolve_t, link, name->questions.next);
        h2o_linklist_unlink(&question->link);
        atomic_fetch_add(&found->references, 1);
        release_found(question->found);
        question->found = found;
        weir_worker_post(question->worker, deliver, question);
    }
}

/* False: its answer is on its way. */
static bool take_back(weir_resolve_t *question)
{
    weir_resolver_t *resolver = question->resolver;
    pthread_mutex_lock(&resolver->mutex);
    bool waits = h2o_linklist_is_linked(&question->link);
    if (waits)
        h2o_linklist_unlink(&question->link);
    pthread_mutex_unlock(&resolver->mutex);
    return waits;
}

/* The old answer is better than none. */
static void on_new_answer_late(h2o_timeout_entry_t *entry)
{
    weir_resolve_t *question = H2O_STRUCT_FROM_MEMBER(weir_resolve_t, timer, entry);
    if (take_back(question))
        deliver(question->worker, question);
}

void weir_resolve_cancel(weir_resolve_t *question)
{
    weir_timer_stop(&question->timer);
    question->cancelled = true;
    if (take_back(question))
        deliver(question->worker, question); /* which frees it */
}

/* --- names, under the lock --- */

static void free_name(name_t *name)
{
    release_found(name->found);
    free(name->host);
    free(name);
}

static void destroy_name(weir_resolver_t *resolver, name_t *name)
{
    h2o_linklist_unlink(&name->link);
    --resolver->name_count;
    free_name(name);
}

static bool is_in_use(const name_t *name)
{
    return name->look_up != IDLE || !h2o_linklist_is_empty((h2o_linklist_t *)&name->questions);
}

/* Makes room by the name that was not asked for longest and that nobody waits for. */
static bool forget_one(weir_resolver_t *resolver)
{
    for (h2o_linklist_t *node = resolver->names.prev; node != &resolver->names; node = node->prev) {
        name_t *name = H2O_STRUCT_FROM_MEMBER(name_t, link, node);
        if (!is_in_use(name)) {
            destroy_name(resolver, name);
            return true;
        }
    }
    return false;
}

static name_t *add_name(weir_resolver_t *resolver, const char *host)
{
    if (resolver->name_count >= NAMES_MAX && !forget_one(resolver))
        return NULL;
    name_t *name = h2o_mem_alloc(sizeof(*name));
    *name = (name_t){.host = h2o_strdup(NULL, host, SIZE_MAX).base, .failed_ns = INT64_MIN};
    h2o_linklist_init_anchor(&name->questions);
    h2o_linklist_insert(resolver->names.next, &name->link);
    ++resolver->name_count;
    return name;
}

/* NULL: there is no room for one more. */
static name_t *find_or_add(weir_resolver_t *resolver, const char *host)
{
    for (h2o_linklist_t *node = resolver->names.next; node != &resolver->names; node = node->next) {
        name_t *name = H2O_STRUCT_FROM_MEMBER(name_t, link, node);
        if (strcmp(name->host, host) == 0) {
            h2o_linklist_unlink(&name->link);
            h2o_linklist_insert(resolver->names.next, &name->link);
            return name;
        }
    }
    return add_name(resolver, host);
}

static void keep(name_t *name, found_t *found)
{
    bool success = found->addresses.size != 0;
    int64_t now_ns = weir_clock_now_ns();
    name->failed_ns = success ? INT64_MIN : now_ns;
    if (!success && name->found != NULL && name->found->addresses.size != 0)
        return; /* the old ones are better than none */
    release_found(name->found);
    atomic_fetch_add(&found->references, 1);
    name->found = found;
    if (success)
        name->found_ns = now_ns;
}

/* --- threads --- */

static void release_resolver(weir_resolver_t *resolver)
{
    bool last = --resolver->references == 0;
    pthread_mutex_unlock(&resolver->mutex);
    if (!last)
        return;
    while (!h2o_linklist_is_empty(&resolver->names))
        destroy_name(resolver, H2O_STRUCT_FROM_MEMBER(name_t, link, resolver->names.next));
    pthread_cond_destroy(&resolver->work);
    pthread_mutex_destroy(&resolver->mutex);
    free(resolver);
}

static void run_look_up(weir_resolver_t *resolver, name_t *name)
{
    found_t *found = h2o_mem_alloc(sizeof(*found));
    found->references = 1;
    name->look_up = RUNNING;
    pthread_mutex_unlock(&resolver->mutex);
    look_up(name->host, 0, &found->addresses);
    pthread_mutex_lock(&resolver->mutex);
    name->look_up = IDLE;
    keep(name, found);
    if (!resolver->stopping)
        answer_all(name, found->addresses.size != 0 || name->found == NULL ? found : name->found);
    release_found(found);
}

static void *thread_main(void *argument)
{
    weir_resolver_t *resolver = argument;
    pthread_mutex_lock(&resolver->mutex);
    while (!resolver->stopping) {
        if (h2o_linklist_is_empty(&resolver->queue)) {
            ++resolver->idle_thread_count;
            pthread_cond_wait(&resolver->work, &resolver->mutex);
            --resolver->idle_thread_count;
            continue;
        }
        name_t *name = H2O_STRUCT_FROM_MEMBER(name_t, queue_link, resolver->queue.next);
        h2o_linklist_unlink(&name->queue_link);
        --resolver->queue_size;
        run_look_up(resolver, name);
    }
    release_resolver(resolver);
    return NULL;
}

/* Under the lock. Threads are started when there is work for them: many sidecars have numeric upstreams only. */
static void start_thread(weir_resolver_t *resolver)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attributes, thread_main, resolver) == 0) {
        pthread_setname_np(thread, "weir-resolver");
        ++resolver->thread_count;
        ++resolver->references;
    }
    pthread_attr_destroy(&attributes);
}

static void enqueue(weir_resolver_t *resolver, name_t *name)
{
    if (name->look_up != IDLE)
        return;
    name->look_up = QUEUED;
    h2o_linklist_insert(&resolver->queue, &name->queue_link);
    pthread_cond_signal(&resolver->work);
    if (++resolver->queue_size > resolver->idle_thread_count && resolver->thread_count < THREADS_MAX)
        start_thread(resolver);
}

/* --- questions --- */

/* Under the lock. True: *addresses is the answer. */
static bool answer_from_memory(weir_resolver_t *resolver, name_t *name, uint16_t port, int64_t refresh_ns,
                               weir_addresses_t *addresses)
{
    int64_t now_ns = weir_clock_now_ns();
    int64_t age_ns = now_ns - name->found_ns;
    bool failed_just_now = name->failed_ns != INT64_MIN && now_ns - name->failed_ns < FAILURE_NS;
    if (name->found == NULL)
        return false;
    if (name->found->addresses.size == 0) {
        if (failed_just_now)
            copy_found(name->found, port, addresses);
        return failed_just_now;
    }
    if (age_ns >= refresh_ns && !failed_just_now)
        return false;
    copy_found(name->found, port, addresses);
    if (age_ns >= refresh_ns / 2 && !failed_just_now)
        enqueue(resolver, name); /* so that a name in use is never waited for */
    return true;
}

static weir_resolve_t *ask(weir_resolver_t *resolver, weir_worker_t *worker, name_t *name, uint16_t port)
{
    weir_resolve_t *question = h2o_mem_alloc(sizeof(*question));
    *question = (weir_resolve_t){.resolver = resolver, .worker = worker, .port = port, .timer.cb = on_new_answer_late};
    if (name->found != NULL && name->found->addresses.size != 0) {
        question->found = name->found;
        atomic_fetch_add(&question->found->references, 1);
        weir_timer_start(worker, &question->timer, OLD_ANSWER_NS);
    }
    h2o_linklist_insert(&name->questions, &question->link);
    enqueue(resolver, name);
    return question;
}

weir_resolve_t *weir_resolver_ask(weir_resolver_t *resolver, weir_worker_t *worker, const char *host, uint16_t port,
                                  int64_t refresh_ns, weir_addresses_t *addresses,
                                  void (*answer)(void *argument, const weir_addresses_t *addresses), void *argument)
{
    weir_resolve_t *question = NULL;
    look_up(host, AI_NUMERICHOST, addresses);
    if (addresses->size != 0) {
        set_port(addresses, port);
        return NULL;
    }
    pthread_mutex_lock(&resolver->mutex);
    name_t *name = find_or_add(resolver, host);
    if (name == NULL) {
        addresses->error = "too many names are looked up at once";
    } else if (!answer_from_memory(resolver, name, port, refresh_ns, addresses)) {
        question = ask(resolver, worker, name, port);
        question->answer = answer;
        question->argument = argument;
    }
    pthread_mutex_unlock(&resolver->mutex);
    return question;
}

/* --- life --- */

weir_resolver_t *weir_resolver_create(void)
{
    weir_resolver_t *resolver = h2o_mem_alloc(sizeof(*resolver));
    *resolver = (weir_resolver_t){.references = 1};
    pthread_mutex_init(&resolver->mutex, NULL);
    pthread_cond_init(&resolver->work, NULL);
    h2o_linklist_init_anchor(&resolver->names);
    h2o_linklist_init_anchor(&resolver->queue);
    return resolver;
}

static void drop_questions(name_t *name)
{
    while (!h2o_linklist_is_empty(&name->questions)) {
        weir_resolve_t *question = H2O_STRUCT_FROM_MEMBER(weir_resolve_t, link, name->questions.next);
        h2o_linklist_unlink(&question->link);
        release_found(question->found);
        free(question);
    }
}

void weir_resolver_destroy(weir_resolver_t *resolver)
{
    pthread_mutex_lock(&resolver->mutex);
    resolver->stopping = true;
    for (h2o_linklist_t *node = resolver->names.next; node != &resolver->names; node = node->next)
        drop_questions(H2O_STRUCT_FROM_MEMBER(name_t, link, node));
    pthread_cond_broadcast(&resolver->work);
    release_resolver(resolver);
}
