#include "sim.h"

#include <assert.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../../conf/load.h"

enum { PIECE_BYTES_MAX = 300, NEWS_NS = 10000 };

typedef enum { ARRIVAL, TIMER, STEP, NEWS, LEAVING } event_kind_t;

typedef struct sim_event {
    int64_t at_ns;
    uint64_t sequence; /* of two at one time the older one comes first */
    event_kind_t kind;
    weir_ticket_t ticket;
    unsigned step;
    sim_call_t *call;
    void (*run)(sim_t *sim, void *data);
    void *data;
} event_t;

/* Memory of a request, each piece for itself, so that a use after its end is seen. */
typedef struct sim_memory {
    struct sim_memory *next;
    _Alignas(16) char bytes[];
} memory_t;

/* ---- a program ---- */

static int failed;
static uint64_t program_seed;

sim_options_t sim_options(int argc, char **argv, uint64_t seed, long rounds)
{
    sim_options_t options = {seed, rounds};
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 < argc && strcmp(argv[i], "--seed") == 0) {
            options.seed = strtoull(argv[i + 1], NULL, 0);
        } else if (i + 1 < argc && strcmp(argv[i], "--rounds") == 0) {
            options.rounds = strtol(argv[i + 1], NULL, 0);
        } else {
            fprintf(stderr, "usage: %s [--seed N] [--rounds N]\n", argv[0]);
            exit(2);
        }
    }
    program_seed = options.seed;
    printf("# %s --seed %" PRIu64 " --rounds %ld\n", argv[0], options.seed, options.rounds);
    return options;
}

void sim_say(const char *failure, const char *what, const char *figures, ...)
{
    va_list list;
    va_start(list, figures);
    printf("%s - %s (", failure == NULL ? "ok" : "not ok", what);
    vprintf(figures, list);
    va_end(list);
    if (failure != NULL)
        printf("; %s; --seed %" PRIu64, failure, program_seed);
    printf(")\n");
    fflush(stdout);
    failed |= failure != NULL;
}

int sim_status(void)
{
    return failed;
}

/* ---- chance ---- */

int64_t sim_below(seeded_t *random, int64_t bound)
{
    assert(bound > 0);
    return (int64_t)seeded_below(random, (uint64_t)bound);
}

bool sim_one_in(seeded_t *random, int64_t times)
{
    return times != 0 && sim_below(random, times) == 0;
}

int64_t sim_between(seeded_t *random, int64_t low, int64_t high)
{
    return low + sim_below(random, high - low + 1);
}

int64_t sim_magnitude(seeded_t *random, int64_t low, int64_t high)
{
    assert(low > 0 && low <= high);
    int doublings = 0;
    while (high >> doublings > low)
        ++doublings;
    int64_t from = low << sim_below(random, doublings + 1), value = from + sim_below(random, from);
    return value < high ? value : high;
}

/* von Neumann's way, by comparisons alone: no logarithm whose last bit depends on the machine. */
int64_t sim_exponential(seeded_t *random, int64_t mean)
{
    for (uint64_t whole = 0;; ++whole) {
        uint64_t first = seeded_next(random) >> 32, last = first, next;
        unsigned falls = 1;
        for (; (next = seeded_next(random) >> 32) < last; ++falls)
            last = next;
        if (falls % 2 != 0)
            return (int64_t)((unsigned __int128)(whole << 32 | first) * (uint64_t)mean >> 32);
    }
}

/* ---- events ---- */

static bool is_before(const event_t *a, const event_t *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->sequence < b->sequence;
}

static void push(sim_t *sim, event_t event)
{
    if (sim->event_count == sim->event_capacity) {
        sim->event_capacity = sim->event_capacity * 2 + 64;
        sim->events = realloc(sim->events, sim->event_capacity * sizeof(event_t));
        assert(sim->events != NULL);
    }
    if (event.at_ns < sim->now_ns)
        event.at_ns = sim->now_ns;
    event.sequence = sim->event_sequence++;
    size_t at = sim->event_count++;
    for (; at != 0 && is_before(&event, &sim->events[(at - 1) / 2]); at = (at - 1) / 2)
        sim->events[at] = sim->events[(at - 1) / 2];
    sim->events[at] = event;
}

static event_t pop(sim_t *sim)
{
    event_t first = sim->events[0], last = sim->events[--sim->event_count];
    size_t at = 0, child;
    for (; (child = 2 * at + 1) < sim->event_count; at = child) {
        if (child + 1 < sim->event_count && is_before(&sim->events[child + 1], &sim->events[child]))
            ++child;
        if (!is_before(&sim->events[child], &last))
            break;
        sim->events[at] = sim->events[child];
    }
    sim->events[at] = last;
    return first;
}

void sim_at(sim_t *sim, int64_t at_ns, void (*run)(sim_t *sim, void *data), void *data)
{
    push(sim, (event_t){.at_ns = at_ns, .kind = TIMER, .run = run, .data = data});
}

void sim_arrive(sim_t *sim, int64_t at_ns, const sim_call_t *call)
{
    sim_call_t *copy = malloc(sizeof(*copy));
    assert(copy != NULL);
    *copy = *call;
    push(sim, (event_t){.at_ns = at_ns, .kind = ARRIVAL, .call = copy});
}

/* What comes next for the request, unless something else comes before. */
static void push_step(sim_request_t *request, int64_t at_ns)
{
    push(request->sim,
         (event_t){.at_ns = at_ns, .kind = STEP, .ticket = request->request.ticket, .step = ++request->step});
}

static sim_request_t *find_request(sim_t *sim, weir_ticket_t ticket)
{
    sim_request_t *request = ticket.slot < sim->slot_count ? sim->slots[ticket.slot] : NULL;
    return request != NULL && request->request.ticket.generation == ticket.generation ? request : NULL;
}

/* ---- what the store and the filters tell ---- */

static void on_told(void *context, weir_ticket_t ticket)
{
    sim_t *sim = context;
    sim_request_t *request = find_request(sim, ticket);
    if (request == NULL) {
        sim_fail(sim, "a ticket was told that is not in use any more");
        return;
    }
    if (ticket.worker != request->request.ticket.worker)
        sim_fail(sim, "a ticket came back with another worker");
    int64_t late_ns = NEWS_NS;
    if (sim_one_in(&sim->random, sim->late_one_in))
        late_ns = sim_below(&sim->random, sim->late_max_ns);
    else if (!sim->is_orderly)
        late_ns *= sim_below(&sim->random, 3);
    push(sim, (event_t){.at_ns = sim->now_ns + late_ns, .kind = NEWS, .ticket = ticket});
    if (sim->hooks.told != NULL)
        sim->hooks.told(sim, request);
    if (request == sim->asking)
        request->is_told_inside = true;
    else
        request->is_told = true;
}

static sim_seen_t *seen_of(const weir_request_t *request)
{
    return &((sim_request_t *)request)->seen;
}

static void on_decided(const weir_request_t *request, size_t limit, weir_decision_t decision)
{
    assert(limit < SIM_LIMITS_MAX);
    seen_of(request)->is_decided[limit] = true;
    seen_of(request)->decision[limit] = decision;
}

static void on_overflowed(const weir_request_t *request, size_t limit)
{
    assert(limit < SIM_LIMITS_MAX);
    seen_of(request)->is_overflowed[limit] = true;
}

static void on_queue_left(const weir_request_t *request, size_t limit, int64_t waited_ns)
{
    assert(limit < SIM_LIMITS_MAX);
    ++seen_of(request)->left_queue;
    seen_of(request)->waited_ns = waited_ns;
}

static const weir_observer_t observer = {
    .limit_decided = on_decided, .limit_overflowed = on_overflowed, .queue_left = on_queue_left};

/* ---- requests ---- */

static void *on_alloc(weir_request_t *asked, size_t size)
{
    sim_request_t *request = (sim_request_t *)asked;
    memory_t *memory = malloc(sizeof(*memory) + size);
    assert(memory != NULL);
    memory->next = request->memory;
    request->memory = memory;
    return memory->bytes;
}

static void free_memory(sim_request_t *request)
{
    while (request->memory != NULL) {
        memory_t *memory = request->memory;
        request->memory = memory->next;
        free(memory);
    }
}

static weir_str_t text(const char *text)
{
    return (weir_str_t){text, text != NULL ? strlen(text) : 0};
}

static void add_field(sim_request_t *request, const weir_str_t *name, const char *orig_name, const char *value)
{
    if (value == NULL)
        return;
    assert(request->request.field_count < SIM_FIELDS_MAX);
    request->fields[request->request.field_count++] =
        (weir_field_t){.name = name, .orig_name = orig_name, .value = text(value)};
}

static void add_fields(sim_request_t *request)
{
    static const weir_str_t tenant = {"x-tenant-id", 11}, correlation = {"x-correlation-id", 16},
                            priority = {"x-priority", 10}, team = {"x-team", 6}, host = {"host", 4};
    const sim_call_t *call = &request->call;
    request->request.fields = request->fields;
    add_field(request, &host, "Host", "agent");
    add_field(request, &tenant, "X-Tenant-ID", call->tenant);
    add_field(request, &correlation, "X-Correlation-ID", call->correlation);
    add_field(request, &priority, "X-Priority", call->priority);
    add_field(request, &team, "X-Team", call->team);
}

static void pick_body(sim_request_t *request)
{
    const sim_call_t *call = &request->call;
    weir_json_picked_t *picked = &request->picked;
    *picked = (weir_json_picked_t){.is_object = call->model != NULL, .max_tokens = call->max_tokens};
    picked->is_stream = sim_shape_is_stream(call->answer.shape);
    if (call->model != NULL) {
        picked->model_len = strlen(call->model);
        assert(picked->model_len < sizeof(picked->model));
        memcpy(picked->model, call->model, picked->model_len);
    }
}

static void fill_request(sim_t *sim, sim_request_t *request)
{
    const weir_conf_t *conf = sim->snapshot->conf;
    const weir_conf_listener_t *listener = &conf->listeners.entries[0];
    assert(request->call.route < listener->routes.size);
    request->request = (weir_request_t){
        .conf = conf,
        .listener = listener,
        .route = &listener->routes.entries[request->call.route],
        .upstream = &conf->upstreams.entries[listener->routes.entries[request->call.route].upstream],
        .method = text("POST"),
        .target = text("/"),
        .now_ns = sim->now_ns,
        .wall_ms = sim->now_ns / MS,
        .body_bytes = request->call.is_chunked ? -1 : request->call.body_bytes,
        .observer = &observer,
        .alloc = on_alloc,
        .client_ip = text(request->call.client_ip != NULL ? request->call.client_ip : "10.0.0.1"),
    };
    request->request.peer.family = AF_INET;
    memcpy(request->request.peer.address, (uint8_t[]){127, 0, 0, 1}, 4);
    request->request.trusted =
        weir_tenant_trusts(listener->tenant, request->request.peer.family, request->request.peer.address);
    add_fields(request);
}

static void take_slot(sim_t *sim, sim_request_t *request)
{
    uint32_t slot;
    if (sim->free_count != 0) {
        slot = sim->free_slots[--sim->free_count];
    } else {
        if (sim->slot_count == sim->slot_capacity) {
            sim->slot_capacity = sim->slot_capacity * 2 + 64;
            sim->slots = realloc(sim->slots, sim->slot_capacity * sizeof(*sim->slots));
            sim->free_slots = realloc(sim->free_slots, sim->slot_capacity * sizeof(*sim->free_slots));
            assert(sim->slots != NULL && sim->free_slots != NULL);
        }
        slot = (uint32_t)sim->slot_count++;
    }
    sim->slots[slot] = request;
    request->request.ticket = (weir_ticket_t){
        .worker = (uint32_t)sim_below(&sim->random, SIM_WORKERS), .slot = slot, .generation = ++sim->generation};
}

static void release_snapshot(sim_snapshot_t *snapshot)
{
    if (--snapshot->references != 0)
        return;
    weir_chain_destroy(snapshot->chain);
    weir_conf_release(snapshot->conf);
    free(snapshot);
}

static sim_request_t *create_request(sim_t *sim, const sim_call_t *call)
{
    sim_request_t *request = calloc(1, sizeof(*request));
    assert(request != NULL);
    request->sim = sim;
    request->call = *call;
    request->snapshot = sim->snapshot;
    ++sim->snapshot->references;
    request->arrived_ns = sim->now_ns;
    request->decided_ns = request->passed_ns = -1;
    fill_request(sim, request);
    return request;
}

static void destroy_request(sim_request_t *request)
{
    release_snapshot(request->snapshot);
    free_memory(request);
    free(request->bytes);
    free(request);
}

/* What its worker takes for the time. */
static int64_t worker_time(sim_request_t *request)
{
    sim_t *sim = request->sim;
    int64_t *worker_ns = &sim->worker_ns[request->request.ticket.worker];
    int64_t ns = sim->now_ns - (sim->lag_max_ns != 0 ? sim_below(&sim->random, sim->lag_max_ns + 1) : 0);
    if (ns > *worker_ns)
        *worker_ns = ns;
    return *worker_ns;
}

static void enter_chain(sim_request_t *request)
{
    sim_t *sim = request->sim;
    request->request.now_ns = worker_time(request);
    request->request.random[0] = seeded_next(&sim->random);
    request->request.random[1] = seeded_next(&sim->random);
    request->seen = (sim_seen_t){0};
    request->is_told_inside = false;
    sim->asking = request;
}

static void end(sim_request_t *request, weir_outcome_t outcome)
{
    sim_t *sim = request->sim;
    enter_chain(request);
    outcome.now_ns = request->request.now_ns;
    request->ended_in = request->phase;
    request->phase = SIM_OVER;
    weir_chain_done(request->snapshot->chain, &request->run, &request->request, &outcome);
    ++sim->ended;
    if (sim->hooks.ended != NULL)
        sim->hooks.ended(sim, request, &outcome);
    sim->slots[request->request.ticket.slot] = NULL;
    sim->free_slots[sim->free_count++] = request->request.ticket.slot;
    --sim->live;
    sim->asking = NULL;
    destroy_request(request);
}

/* ---- answers ---- */

static void on_add(weir_answer_t *answer, weir_str_t name, weir_str_t value)
{
}

static void on_drop(weir_answer_t *answer, size_t index)
{
}

static void pass_head(sim_request_t *request, int status, bool is_own)
{
    static const weir_str_t type = {"content-type", 12};
    bool is_stream = sim_shape_is_stream(request->call.answer.shape) && status < 400;
    weir_field_t field = {.name = &type, .value = text(is_stream ? "text/event-stream" : "application/json")};
    weir_answer_t answer = {.status = status, .own = is_own, .add = on_add, .drop = on_drop};
    if (!is_own) {
        answer.fields = &field;
        answer.field_count = 1;
    }
    request->request.now_ns = worker_time(request);
    weir_chain_head(request->snapshot->chain, &request->run, &request->request, &answer);
}

/* In pieces of any size, up to `to`. */
static void pass_bytes(sim_request_t *request, size_t to)
{
    while (request->at < to) {
        size_t len = (size_t)sim_between(&request->sim->random, 1, PIECE_BYTES_MAX);
        if (len > to - request->at)
            len = to - request->at;
        weir_chain_tap(request->snapshot->chain, &request->run, &request->request,
                       (weir_str_t){request->bytes + request->at, len});
        request->at += len;
    }
}

/* Of the request, that came. */
static int64_t body_that_came(sim_request_t *request)
{
    bool is_whole = request->phase != SIM_BODY && (request->phase != SIM_CALLING || request->request.body_bytes >= 0);
    return is_whole ? request->call.body_bytes : request->call.body_bytes / 2;
}

/* weir's own answer. */
static void answer_itself(sim_request_t *request, weir_reason_t reason, int status, bool ran)
{
    pass_head(request, status, true);
    end(request,
        (weir_outcome_t){.reason = reason, .status = status, .ran = ran, .body_bytes = body_that_came(request)});
}

static void begin_answer(sim_request_t *request)
{
    const sim_call_t *call = &request->call;
    if (call->end == SIM_NOT_RUN || call->end == SIM_LOST) {
        answer_itself(request, call->reason, weir_reason_status(call->reason), call->end == SIM_LOST);
        return;
    }
    request->phase = SIM_ANSWERING;
    request->bytes = sim_answer_write(&call->answer, &request->len);
    pass_head(request, call->answer.status, false);
    if (request->len != 0)
        pass_bytes(request, (size_t)sim_below(&request->sim->random, (int64_t)request->len));
    push_step(request, request->sim->now_ns + call->answer_ns);
}

static void end_answer(sim_request_t *request)
{
    const sim_call_t *call = &request->call;
    if (call->end == SIM_WHOLE)
        pass_bytes(request, request->len);
    end(request, (weir_outcome_t){.reason = call->end == SIM_WHOLE ? WEIR_REASON_NONE : call->reason,
                                  .status = call->answer.status,
                                  .ran = true,
                                  .answered = true,
                                  .body_bytes = body_that_came(request)});
}

/* ---- a request's way ---- */

static void await(sim_request_t *request, int64_t until_ns)
{
    sim_t *sim = request->sim;
    bool is_early = request->phase == SIM_WAITING && !request->is_told && request->until_ns == until_ns;
    if (!is_early)
        request->is_told = request->is_told_inside;
    request->phase = SIM_WAITING;
    request->until_ns = until_ns;
    int64_t at_ns = until_ns > sim->now_ns ? until_ns : sim->now_ns + sim->lag_max_ns + MS;
    if (!is_early && sim_one_in(&sim->random, sim->early_one_in))
        at_ns = sim_between(&sim->random, sim->now_ns, at_ns);
    push_step(request, at_ns);
}

static void follow(sim_request_t *request, weir_verdict_t verdict)
{
    sim_t *sim = request->sim;
    if (verdict.kind != WEIR_NEED_BODY && request->decided_ns < 0)
        request->decided_ns = sim->now_ns;
    if (sim->hooks.verdict != NULL)
        sim->hooks.verdict(sim, request, &verdict);
    sim->asking = NULL;
    switch (verdict.kind) {
    case WEIR_NEED_BODY:
        request->phase = SIM_BODY;
        push_step(request, sim->now_ns + request->call.body_ns);
        break;
    case WEIR_AWAIT:
        await(request, verdict.until_ns);
        break;
    case WEIR_PASS:
        ++sim->passed;
        request->passed_ns = sim->now_ns;
        request->phase = SIM_CALLING;
        push_step(request, sim->now_ns + request->call.call_ns);
        break;
    case WEIR_ANSWER:
        ++sim->refused;
        answer_itself(request, verdict.reason,
                      verdict.status != 0 ? verdict.status : weir_reason_status(verdict.reason), false);
        break;
    case WEIR_SHARE:
        sim_fail(sim, "a request was to share");
        answer_itself(request, WEIR_REASON_OVERLOADED, 503, false);
        break;
    }
}

static void wake(sim_request_t *request)
{
    enter_chain(request);
    follow(request, weir_chain_wake(request->snapshot->chain, &request->run, &request->request));
}

static void end_body(sim_request_t *request)
{
    if (request->call.body_fails != WEIR_REASON_NONE) {
        answer_itself(request, request->call.body_fails, weir_reason_status(request->call.body_fails), false);
        return;
    }
    pick_body(request);
    request->request.picked = &request->picked;
    request->request.body_bytes = request->call.body_bytes;
    wake(request);
}

static void arrive(sim_t *sim, const sim_call_t *call)
{
    sim_request_t *request = create_request(sim, call);
    take_slot(sim, request);
    ++sim->live;
    ++sim->arrived;
    if (call->leaves_ns >= 0)
        push(sim,
             (event_t){.at_ns = sim->now_ns + call->leaves_ns, .kind = LEAVING, .ticket = request->request.ticket});
    enter_chain(request);
    follow(request, weir_chain_admit(request->snapshot->chain, &request->run, &request->request));
}

static void step(sim_request_t *request)
{
    switch (request->phase) {
    case SIM_BODY:
        end_body(request);
        break;
    case SIM_WAITING:
        wake(request);
        break;
    case SIM_CALLING:
        begin_answer(request);
        break;
    case SIM_ANSWERING:
        end_answer(request);
        break;
    case SIM_OVER:
        break;
    }
}

static void leave(sim_request_t *request)
{
    bool is_answered = request->phase == SIM_ANSWERING;
    bool ran = is_answered || (request->phase == SIM_CALLING && request->call.end != SIM_NOT_RUN);
    end(request, (weir_outcome_t){.reason = WEIR_REASON_CLIENT_GONE,
                                  .status = is_answered ? request->call.answer.status : 0,
                                  .ran = ran,
                                  .answered = is_answered,
                                  .body_bytes = body_that_came(request)});
}

static void run_event(sim_t *sim, event_t event)
{
    sim_request_t *request = NULL;
    if (event.kind == STEP || event.kind == NEWS || event.kind == LEAVING)
        request = find_request(sim, event.ticket);
    switch (event.kind) {
    case ARRIVAL:
        arrive(sim, event.call);
        free(event.call);
        break;
    case TIMER:
        event.run(sim, event.data);
        break;
    case STEP:
        if (request != NULL && request->step == event.step)
            step(request);
        break;
    case NEWS: /* late ones find it gone, or further on its way */
        if (request != NULL && request->phase == SIM_WAITING)
            wake(request);
        break;
    case LEAVING:
        if (request != NULL)
            leave(request);
        break;
    }
}

/* ---- a world ---- */

static sim_snapshot_t *load(sim_t *sim, const char *yaml)
{
    char *errors = NULL;
    sim_snapshot_t *snapshot = calloc(1, sizeof(*snapshot));
    assert(snapshot != NULL);
    snapshot->conf = weir_conf_load_text("sim.yaml", yaml, strlen(yaml), &errors);
    if (snapshot->conf == NULL) {
        printf("not ok - a configuration loads (%s; of\n%s)\n", errors, yaml);
        exit(1);
    }
    sim->store->tell_time(sim->store, sim->now_ns);
    snapshot->chain = weir_chain_create(snapshot->conf, sim->store);
    snapshot->references = 1;
    return snapshot;
}

sim_t *sim_create(uint64_t seed, const char *yaml, sim_hooks_t hooks, void *data)
{
    static const uint8_t secret[64] = "what tests take for a secret, and it is as long as one has to be";
    sim_t *sim = calloc(1, sizeof(*sim));
    assert(sim != NULL);
    *sim = (sim_t){.now_ns = H, .seed = seed, .random = {seed}, .hooks = hooks, .data = data};
    sim->store = weir_memory_store_create(secret, (weir_store_teller_t){on_told, sim});
    sim->snapshot = load(sim, yaml);
    return sim;
}

void sim_destroy(sim_t *sim)
{
    while (sim->event_count != 0)
        free(pop(sim).call);
    assert(sim->live == 0);
    release_snapshot(sim->snapshot);
    sim->store->destroy(sim->store);
    free(sim->events);
    free(sim->slots);
    free(sim->free_slots);
    free(sim);
}

void sim_reload(sim_t *sim, const char *yaml)
{
    sim_snapshot_t *old = sim->snapshot;
    sim->snapshot = load(sim, yaml);
    release_snapshot(old);
}

void sim_run(sim_t *sim, int64_t until_ns)
{
    while (sim->event_count != 0 && sim->events[0].at_ns <= until_ns) {
        event_t event = pop(sim);
        sim->now_ns = event.at_ns;
        run_event(sim, event);
    }
    if (until_ns != INT64_MAX && until_ns > sim->now_ns)
        sim->now_ns = until_ns;
}

void sim_fail(sim_t *sim, const char *format, ...)
{
    if (sim->failures++ != 0)
        return;
    int len = snprintf(sim->first_failure, sizeof(sim->first_failure),
                       "world %" PRIu64 " at %" PRId64 " ns: ", sim->seed, sim->now_ns);
    va_list list;
    va_start(list, format);
    vsnprintf(sim->first_failure + len, sizeof(sim->first_failure) - (size_t)len, format, list);
    va_end(list);
}

size_t sim_explain(sim_t *sim, const sim_call_t *call, weir_limit_explained_t explained[WEIR_LIMITS_PER_ROUTE_MAX])
{
    sim_request_t *request = create_request(sim, call);
    pick_body(request);
    request->request.picked = &request->picked;
    request->request.body_bytes = call->body_bytes;
    request->request.tenant = text(call->tenant != NULL ? call->tenant : "anonymous");
    request->request.correlation_id = text(call->correlation != NULL ? call->correlation : "none");
    size_t count = weir_limit_explain(request->snapshot->chain, &request->request, explained);
    destroy_request(request);
    return count;
}

size_t sim_queue_depth(sim_t *sim, const char *limit)
{
    size_t depth[WEIR_LANES] = {0}, sum = 0;
    sim->store->queue_depth(sim->store, limit, depth);
    for (size_t i = 0; i < WEIR_LANES; ++i)
        sum += depth[i];
    return sum;
}
