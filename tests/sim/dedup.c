/* Dedup in virtual time: callers that retry, wait, leave and meet failures, windows that end, memory that is short, keys
 * that are forgotten by hand, new configurations - against a naive model that knows of each key what the contract says.
 *
 * No first request is ever suppressed. A duplicate runs within its window only if as many keys were forgotten for want
 * of room. Whoever shares an answer gets that run's bytes, all of them. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "../unit/seeded.h"
#include "../../filters/dedup.h"
#include "../../filters/store.h"
#include "../../filters/stream.h"

#define MS INT64_C(1000000)
#define S INT64_C(1000000000)
#define CHECK(condition) check(condition, #condition, __LINE__)

extern const weir_filter_t weir_filter_dedup;

enum { CALLS_MAX = 64, KEYS_MAX = 20000, BODY_MAX = 40000, OVERHEAD_BYTES = 40000 };

/* What a scenario draws its configurations from. */
typedef struct {
    const char *name;
    size_t keys, steps, far_edges; /* one in so many edges that are far away is visited */
    int64_t window_ns, keep_ns, lease_ns, pause_ns;
    int64_t max_keys, memory_bytes, max_response_bytes, bloom_expected;
    double false_positives, fill; /* fill: that is reached at least; of ten times as many keys a third is seen to be new */
    bool rejects_in_flight, rejects_unknown, rejects_full, acknowledges, ignores_mismatch, cancels, reloads;
} scenario_t;

/* A key, as the contract has it. */
typedef struct {
    enum { FREE, IN_FLIGHT, DONE, UNKNOWN } state;
    uint64_t run; /* that is in flight, or was done */
    int body;     /* of the request that ran */
    int64_t until_ns, done_ns;
    bool is_compared;
} known_t;

typedef struct instance {
    weir_conf_t conf;
    weir_conf_dedup_t dedup;
    weir_conf_listener_t listener;
    weir_conf_route_t route;
    weir_dedups_t *filter;
    size_t references;
} instance_t;

/* A request, from its arrival to its end. */
typedef struct {
    bool is_used, leads, caller_left;
    weir_request_t request;
    _Alignas(16) char state[64], memory[512];
    size_t memory_used;
    weir_stream_reader_t reader;
    weir_field_t fields[1];
    weir_str_t names[1];
    char key_text[32], body_text[8];
    instance_t *instance;
    size_t key;
    int body;
    uint64_t run;              /* that it leads or reads; 0: of a reader, not known yet */
    size_t length, written;    /* of the body, when it leads */
    size_t read;
    bool has_head;
    int64_t renew_ns;
} call_t;

static const scenario_t *scenario;
static seeded_t seeded;
static weir_store_t *store;
static instance_t *current;
static known_t known[KEYS_MAX];
static call_t calls[CALLS_MAX];
static int64_t now_ns;
static uint64_t runs;
static size_t forgotten, ran_again, counts[8];
static double fill_max;
static size_t run_lengths[2000000];

static void check(bool holds, const char *text, int line)
{
    if (holds)
        return;
    printf("sim_dedup, %s, line %d, at %.6f s: %s does not hold\n", scenario->name, line, (double)now_ns / 1e9, text);
    fflush(stdout);
    abort();
}

static uint64_t below(uint64_t bound)
{
    return seeded_below(&seeded, bound);
}

static bool one_in(uint64_t count)
{
    return below(count) == 0;
}

/* --- configurations --- */

/* Between half of it and one and a half. */
static int64_t varied(int64_t value, bool varies)
{
    return varies ? value / 2 + 1 + (int64_t)below((uint64_t)value) : value;
}

static instance_t *create_instance(void)
{
    static weir_conf_dedup_key_t key = {WEIR_DEDUP_KEY_HEADER, "Idempotency-Key"};
    static const char *methods[] = {"POST"};
    instance_t *instance = calloc(1, sizeof(*instance));
    bool varies = scenario->reloads && current != NULL;
    instance->dedup = (weir_conf_dedup_t){
        .name = "orders",
        .key = {&key, 1},
        .methods = {methods, 1},
        .window_ns = varied(scenario->window_ns, varies),
        .on_duplicate =
            scenario->acknowledges || (varies && one_in(4)) ? WEIR_ON_DUPLICATE_ACKNOWLEDGE : WEIR_ON_DUPLICATE_REPLAY,
        .acknowledge = {.status = 204},
        .in_flight = scenario->rejects_in_flight || (varies && one_in(4)) ? WEIR_IN_FLIGHT_REJECT : WEIR_IN_FLIGHT_WAIT,
        .mismatch = scenario->ignores_mismatch || (varies && one_in(4)) ? WEIR_MISMATCH_IGNORE : WEIR_MISMATCH_REJECT,
        .abandoned = scenario->cancels ? WEIR_ABANDONED_CANCEL : WEIR_ABANDONED_FINISH,
        .on_unknown = scenario->rejects_unknown ? WEIR_ON_UNKNOWN_REJECT : WEIR_ON_UNKNOWN_RUN,
        .on_full = scenario->rejects_full ? WEIR_ON_FULL_REJECT : WEIR_ON_FULL_FORGET_OLDEST,
        .lease_ns = scenario->lease_ns,
        .max_response_bytes = (uint64_t)scenario->max_response_bytes,
        .keep_responses_ns = varied(scenario->keep_ns, varies),
        .memory_bytes = (uint64_t)varied(scenario->memory_bytes, varies),
        .max_keys = varied(scenario->max_keys, varies),
        .bloom = {varied(scenario->bloom_expected, varies), scenario->false_positives},
        .exact = true};
    instance->dedup.keep_statuses.bits[(200 - 100) / 64] |= (uint64_t)1 << (200 - 100) % 64;
    instance->route = (weir_conf_route_t){.path = "/", .dedup = 0};
    instance->listener.name = "in";
    instance->listener.routes.entries = &instance->route;
    instance->listener.routes.size = 1;
    instance->conf.dedup.entries = &instance->dedup;
    instance->conf.dedup.size = 1;
    instance->conf.listeners.entries = &instance->listener;
    instance->conf.listeners.size = 1;
    instance->filter = weir_filter_dedup.create(&instance->conf, store);
    instance->references = 1;
    return instance;
}

static void release(instance_t *instance)
{
    if (--instance->references != 0)
        return;
    weir_filter_dedup.destroy(instance->filter);
    free(instance);
}

static void reload(void)
{
    instance_t *former = current;
    store->dedup_tidy(store, now_ns);
    current = create_instance();
    release(former);
    for (size_t key = 0; key < scenario->keys; ++key)
        if (known[key].until_ns > now_ns + current->dedup.window_ns)
            known[key].until_ns = now_ns + current->dedup.window_ns;
}

/* --- answers --- */

static char byte_at(uint64_t run, size_t at)
{
    return (char)(run * 31 + at * 7 + at / 251);
}

static void write_some(call_t *call, size_t len)
{
    static char bytes[BODY_MAX];
    weir_stream_t *stream = call->request.lead;
    if (!call->has_head && stream != NULL) {
        weir_stream_begin(stream, &call->run, sizeof(call->run));
    }
    call->has_head = true;
    len = len < call->length - call->written ? len : call->length - call->written;
    for (size_t i = 0; i < len; ++i)
        bytes[i] = byte_at(call->run, call->written + i);
    if (stream != NULL && len != 0)
        weir_stream_append(stream, bytes, len);
    call->written += len;
}

/* --- requests --- */

static void on_told(void *context, weir_ticket_t ticket)
{
}

static void *alloc(weir_request_t *request, size_t size)
{
    call_t *call = (call_t *)((char *)request - offsetof(call_t, request));
    void *memory = call->memory + call->memory_used;
    call->memory_used += (size + 15) & ~(size_t)15;
    assert(call->memory_used <= sizeof(call->memory));
    return memory;
}

static void on_decided(const weir_request_t *request, size_t dedup, weir_dedup_result_t result)
{
}

static void on_forgot(const weir_request_t *request, size_t dedup, size_t count)
{
    forgotten += count;
}

static void on_false_positive(const weir_request_t *request, size_t dedup)
{
}

static const weir_observer_t observer = {
    .dedup_decided = on_decided, .dedup_forgot_full = on_forgot, .dedup_false_positive = on_false_positive};

static known_t *look_up(size_t key)
{
    known_t *it = &known[key];
    if ((it->state == DONE || it->state == UNKNOWN) && it->until_ns <= now_ns)
        it->state = FREE;
    return it;
}

static void end_call(call_t *call)
{
    weir_stream_leave(&call->reader);
    release(call->instance);
    call->is_used = false;
}

static void finish(call_t *call, weir_outcome_t outcome)
{
    outcome.now_ns = now_ns;
    weir_filter_dedup.done(call->instance->filter, &call->request, call->state, &outcome);
}

/* It may run: nobody may have. */
static void begin_run(call_t *call)
{
    known_t *it = look_up(call->key);
    if (it->state != FREE) {
        CHECK(it->state != IN_FLIGHT);
        ++ran_again; /* as many at most as were forgotten */
        CHECK(ran_again <= forgotten);
    }
    call->leads = true;
    call->run = ++runs;
    assert(runs < sizeof(run_lengths) / sizeof(*run_lengths));
    call->length = one_in(10) ? below(BODY_MAX) : below(3000);
    run_lengths[call->run] = call->length;
    call->written = call->read = 0;
    call->has_head = false;
    call->renew_ns = now_ns + call->request.lease_ns / 3;
    CHECK(call->request.lease_ns > 0);
    *it = (known_t){.state = IN_FLIGHT, .run = call->run, .body = call->body,
                    .is_compared = call->instance->dedup.mismatch == WEIR_MISMATCH_REJECT};
    ++counts[0];
}

static bool is_other(const call_t *call, const known_t *it)
{
    return it->is_compared && call->instance->dedup.mismatch == WEIR_MISMATCH_REJECT && it->body != call->body;
}

static void check_shared(call_t *call, const weir_verdict_t *verdict)
{
    const known_t *it = look_up(call->key);
    CHECK(it->state == IN_FLIGHT || it->state == DONE);
    CHECK(!is_other(call, it));
    CHECK(verdict->is_replay == (it->state == DONE));
    CHECK(it->state == IN_FLIGHT ? call->instance->dedup.in_flight == WEIR_IN_FLIGHT_WAIT
                                 : call->instance->dedup.on_duplicate == WEIR_ON_DUPLICATE_REPLAY);
    if (it->state == DONE)
        CHECK(now_ns - it->done_ns < current->dedup.keep_responses_ns);
    call->run = it->run;
    call->leads = false;
    call->has_head = false;
    call->read = 0;
    ++counts[1];
}

/* Refused: the key is known, but for want of room. */
static void check_refused(call_t *call, const weir_verdict_t *verdict)
{
    const known_t *it = look_up(call->key);
    switch (verdict->reason) {
    case WEIR_REASON_DUPLICATE:
        CHECK(it->state == DONE && !is_other(call, it));
        break;
    case WEIR_REASON_KEY_MISMATCH:
        CHECK(it->state != FREE && is_other(call, it));
        break;
    case WEIR_REASON_IN_FLIGHT:
        CHECK(it->state == IN_FLIGHT && !is_other(call, it));
        break;
    case WEIR_REASON_UNKNOWN_OUTCOME:
        CHECK(it->state == UNKNOWN && !is_other(call, it));
        break;
    default:
        CHECK(verdict->reason == WEIR_REASON_OVERLOADED);
        CHECK(it->state == FREE || ran_again < forgotten);
        if (!scenario->rejects_full) /* all that have its place are in flight */
            CHECK(scenario->max_keys < 2 * CALLS_MAX);
    }
    ++counts[2];
}

static void go_on(call_t *call, const weir_verdict_t *verdict)
{
    switch (verdict->kind) {
    case WEIR_PASS:
        begin_run(call);
        return;
    case WEIR_SHARE:
        check_shared(call, verdict);
        return;
    case WEIR_ANSWER:
        check_refused(call, verdict);
        finish(call, (weir_outcome_t){.reason = verdict->reason});
        end_call(call);
        return;
    default:
        CHECK(false);
    }
}

static void arrive(size_t key, int body)
{
    call_t *call = calls;
    while (call != calls + CALLS_MAX && call->is_used)
        ++call;
    if (call == calls + CALLS_MAX)
        return;
    memset(call, 0, sizeof(*call));
    snprintf(call->key_text, sizeof(call->key_text), "key-%zu", key);
    snprintf(call->body_text, sizeof(call->body_text), "%d", body);
    call->is_used = true;
    call->key = key;
    call->body = body;
    call->instance = current;
    ++current->references;
    call->names[0] = (weir_str_t){"idempotency-key", 15};
    call->fields[0] = (weir_field_t){.name = call->names, .value = {call->key_text, strlen(call->key_text)}};
    call->request = (weir_request_t){.conf = &current->conf,
                                     .listener = &current->listener,
                                     .route = &current->route,
                                     .method = {"POST", 4},
                                     .target = {"/", 1},
                                     .tenant = {"acme", 4},
                                     .fields = call->fields,
                                     .field_count = 1,
                                     .now_ns = now_ns,
                                     .body_bytes = 1,
                                     .body = {call->body_text, 1},
                                     .observer = &observer,
                                     .alloc = alloc,
                                     .reader = &call->reader};
    weir_verdict_t verdict = weir_filter_dedup.admit(call->instance->filter, &call->request, call->state);
    go_on(call, &verdict);
}

/* --- what becomes of them --- */

static void note_end(const call_t *call, int state)
{
    known_t *it = &known[call->key];
    if (it->state != IN_FLIGHT || it->run != call->run) /* forgotten by hand */
        return;
    it->state = state;
    it->done_ns = now_ns;
    it->until_ns = now_ns + current->dedup.window_ns; /* as it is now, whatever it began with */
}

static void end_run(call_t *call)
{
    weir_outcome_t outcome = {.status = 200, .ran = true, .sent = true, .answered = true};
    int unknown = scenario->rejects_unknown ? UNKNOWN : FREE, state = DONE;
    switch (below(10)) {
    case 0:
        outcome = (weir_outcome_t){.reason = WEIR_REASON_CONNECT_FAILED, .ran = true};
        state = FREE;
        break;
    case 1:
        outcome = (weir_outcome_t){.reason = WEIR_REASON_RESET, .ran = true, .sent = true};
        state = unknown;
        break;
    case 2:
        write_some(call, call->length / 2);
        outcome.reason = WEIR_REASON_TRUNCATED;
        state = unknown;
        break;
    case 3:
        outcome.status = 503;
        state = FREE;
        break;
    default:
        break;
    }
    if (call->has_head && !outcome.answered) { /* it had begun */
        outcome.answered = outcome.sent = true;
        outcome.reason = WEIR_REASON_TRUNCATED;
        state = unknown;
    }
    if (outcome.reason == WEIR_REASON_NONE)
        write_some(call, call->length);
    note_end(call, state);
    finish(call, outcome);
    end_call(call);
}

static void leave(call_t *call)
{
    if (call->leads && call->request.outlives_caller) {
        weir_stream_leave(&call->reader);
        call->caller_left = true;
        return;
    }
    if (call->leads)
        note_end(call, call->has_head && scenario->rejects_unknown ? UNKNOWN : FREE);
    weir_stream_leave(&call->reader);
    finish(call, (weir_outcome_t){.reason = WEIR_REASON_CLIENT_GONE, .ran = call->leads, .sent = call->leads,
                                  .answered = call->leads && call->has_head});
    end_call(call);
}

/* After two losses it is shared; of an unknown outcome, after one. */
static bool is_error_of_a_loss(weir_reason_t reason)
{
    return reason == WEIR_REASON_CONNECT_FAILED || reason == WEIR_REASON_RESET ||
           (reason == WEIR_REASON_UNKNOWN_OUTCOME && scenario->rejects_unknown);
}

static void read_some(call_t *call, size_t max)
{
    weir_stream_view_t view;
    size_t bytes = 0;
    weir_stream_look(&call->reader, &view);
    if (view.head != NULL)
        CHECK(memcmp(view.head, &call->run, sizeof(call->run)) == 0);
    for (size_t i = 0; i < view.run_count; ++i)
        for (size_t j = 0; j < view.runs[i].len && bytes < max; ++j, ++bytes)
            CHECK(view.runs[i].base[j] == byte_at(call->run, call->read + bytes));
    bool is_over = view.is_all;
    for (size_t i = 0, shown = 0; i < view.run_count; ++i)
        is_over = is_over && (shown += view.runs[i].len) <= bytes;
    weir_stream_went_on(&call->reader, bytes);
    call->read += bytes;
    CHECK(!view.is_cut);
    if (!is_over || call->leads)
        return;
    if (view.state == WEIR_STREAM_LOST) {
        call->request.now_ns = now_ns;
        weir_verdict_t verdict = weir_filter_dedup.wake(call->instance->filter, &call->request, call->state);
        if (verdict.kind != WEIR_ANSWER || !is_error_of_a_loss(verdict.reason)) {
            go_on(call, &verdict);
            return;
        }
        finish(call, (weir_outcome_t){.reason = verdict.reason});
        end_call(call);
        return;
    }
    if (view.state == WEIR_STREAM_DONE) {
        CHECK(call->read == run_lengths[call->run]);
        ++counts[3];
    }
    finish(call, (weir_outcome_t){.reason = view.end.reason});
    end_call(call);
}

static void reset_key(size_t key)
{
    char text[32];
    snprintf(text, sizeof(text), "key-%zu", key);
    size_t count = weir_dedups_reset(current->filter, 0, (weir_str_t){"acme", 4}, (weir_str_t){text, strlen(text)}, now_ns);
    known_t *it = look_up(key);
    CHECK(count <= 1 && (it->state != FREE || count == 0));
    CHECK(it->state == FREE || count == 1 || ran_again < forgotten);
    it->state = FREE;
}

/* --- time --- */

static void renew_due(void)
{
    for (call_t *call = calls; call != calls + CALLS_MAX; ++call)
        if (call->is_used && call->leads && call->renew_ns <= now_ns) {
            call->request.now_ns = now_ns;
            bool goes_on = weir_filter_dedup.renew(call->instance->filter, &call->request, call->state);
            CHECK(goes_on || known[call->key].run != call->run);
            call->renew_ns = now_ns + call->request.lease_ns / 3;
        }
}

static void advance_to(int64_t then_ns)
{
    for (;;) {
        int64_t next_ns = then_ns;
        for (const call_t *call = calls; call != calls + CALLS_MAX; ++call)
            if (call->is_used && call->leads && call->renew_ns < next_ns)
                next_ns = call->renew_ns;
        now_ns = next_ns > now_ns ? next_ns : now_ns;
        renew_due();
        if (next_ns == then_ns)
            return;
    }
}

/* To just before, or just at, the end of a window or of an answer's time; and who asks then. */
static void visit_an_edge(void)
{
    size_t key = below(scenario->keys);
    const known_t *it = look_up(key);
    if (it->state != DONE && it->state != UNKNOWN)
        return;
    int64_t edge_ns = one_in(3) ? it->done_ns + current->dedup.keep_responses_ns : it->until_ns;
    int64_t at_ns = edge_ns - (int64_t)below(2);
    if (at_ns <= now_ns || (at_ns - now_ns > S && !one_in(scenario->far_edges)))
        return;
    advance_to(at_ns);
    arrive(key, it->body);
}

static void check_memory(void)
{
    weir_store_dedup_told_t told;
    int64_t in_use = 0;
    for (const call_t *call = calls; call != calls + CALLS_MAX; ++call)
        in_use += call->is_used ? OVERHEAD_BYTES + BODY_MAX : 0;
    CHECK(store->dedup_tell(store, "orders", now_ns, &told));
    fill_max = told.bloom_fill > fill_max ? told.bloom_fill : fill_max;
    CHECK(told.answer_bytes >= 0 && told.answer_bytes <= 2 * scenario->memory_bytes + in_use);
    CHECK(scenario->reloads || told.answer_bytes <= scenario->memory_bytes + in_use);
    CHECK(told.keys <= (size_t)(scenario->reloads ? 4 : 2) * (size_t)scenario->max_keys + 64);
}

static void step(void)
{
    call_t *call = &calls[below(CALLS_MAX)];
    switch (below(12)) {
    case 0:
    case 1:
    case 2:
        arrive(below(scenario->keys), one_in(20) ? 1 : 0);
        break;
    case 3:
        visit_an_edge();
        break;
    case 4:
        if (one_in(20))
            reset_key(below(scenario->keys));
        break;
    case 5:
        if (scenario->reloads && one_in(50))
            reload();
        break;
    case 6:
        advance_to(now_ns + (int64_t)below((uint64_t)(one_in(10) ? scenario->pause_ns : 50 * MS)));
        if (one_in(20))
            store->dedup_tidy(store, now_ns);
        break;
    case 7:
        if (call->is_used && one_in(4))
            leave(call);
        break;
    default:
        if (!call->is_used)
            break;
        if (call->leads && one_in(3))
            end_run(call);
        else if (call->leads && call->length != 0)
            write_some(call, 1 + below(call->length));
        else if (!call->leads)
            read_some(call, one_in(2) ? SIZE_MAX : below(5000));
    }
}

static void end_all(void)
{
    for (call_t *call = calls; call != calls + CALLS_MAX; ++call)
        if (call->is_used && call->leads)
            end_run(call);
    for (int round = 0; round < 100; ++round)
        for (call_t *call = calls; call != calls + CALLS_MAX; ++call) {
            if (call->is_used && call->leads)
                end_run(call);
            else if (call->is_used)
                read_some(call, SIZE_MAX);
        }
    for (const call_t *call = calls; call != calls + CALLS_MAX; ++call)
        CHECK(!call->is_used);
}

/* What a scenario does not say is as usual. */
static scenario_t complete(scenario_t part)
{
#define USUALLY(field, value) part.field = part.field != 0 ? part.field : (value)
    USUALLY(keys, 200);
    USUALLY(steps, 150000);
    USUALLY(far_edges, 20);
    USUALLY(window_ns, 600 * S);
    USUALLY(keep_ns, 60 * S < part.window_ns ? 60 * S : part.window_ns);
    USUALLY(lease_ns, 30 * S);
    USUALLY(pause_ns, part.window_ns / 4);
    USUALLY(max_keys, 1000);
    USUALLY(memory_bytes, 4000000);
    USUALLY(max_response_bytes, 20000);
    USUALLY(bloom_expected, 10000);
    USUALLY(false_positives, 1e-6);
#undef USUALLY
    return part;
}

static void run_scenario(const scenario_t *which)
{
    static const uint8_t secret[64] = "a secret that the tests have in common, and nobody else has it.";
    weir_store_dedup_told_t told;
    scenario = which;
    memset(known, 0, sizeof(known));
    memset(calls, 0, sizeof(calls));
    memset(counts, 0, sizeof(counts));
    now_ns = 3600 * S + (int64_t)below(1000 * S);
    runs = forgotten = ran_again = 0;
    fill_max = 0;
    store = weir_memory_store_create(secret, (weir_store_teller_t){.tell = on_told});
    current = NULL;
    current = create_instance();
    for (size_t i = 0; i < scenario->steps; ++i) {
        step();
        if (i % 64 == 0)
            check_memory();
    }
    end_all();
    CHECK(fill_max >= scenario->fill);
    printf("%-26s %6zu ran, %5zu shared, %5zu whole, %6zu refused, %5zu forgotten, %4zu again, fill %5.2f\n", scenario->name,
           counts[0], counts[1], counts[3], counts[2], forgotten, ran_again, fill_max);
    now_ns += 4 * scenario->window_ns;
    store->dedup_tidy(store, now_ns);
    CHECK(store->dedup_tell(store, "orders", now_ns, &told));
    CHECK(told.keys == 0 && told.answer_bytes == 0);
    CHECK(scenario->max_keys < (int64_t)scenario->keys || scenario->reloads || forgotten == 0);
    release(current);
    store->destroy(store);
}

int main(void)
{
    static const scenario_t scenarios[] = {
        {.name = "usual"},
        {.name = "short windows", .window_ns = 2 * S, .keep_ns = 2 * S},
        {.name = "little memory", .memory_bytes = 60000},
        {.name = "hardly any memory", .memory_bytes = 1024, .max_response_bytes = 1024},
        {.name = "few keys", .max_keys = 100, .keys = 1000},
        {.name = "few keys, reject", .max_keys = 100, .keys = 1000, .rejects_full = true, .window_ns = 10 * S, .keep_ns = S},
        {.name = "fewer keys than calls", .max_keys = 10, .keys = 300, .window_ns = 10 * S, .keep_ns = S},
        {.name = "reject in flight", .rejects_in_flight = true},
        {.name = "reject unknown", .rejects_unknown = true, .window_ns = 60 * S},
        {.name = "acknowledge", .acknowledges = true},
        {.name = "acknowledge and reject", .acknowledges = true, .rejects_in_flight = true},
        {.name = "ignore mismatch", .ignores_mismatch = true},
        {.name = "cancel", .cancels = true},
        {.name = "cancel, reject unknown", .cancels = true, .rejects_unknown = true, .window_ns = 60 * S},
        {.name = "reloads", .reloads = true, .keys = 400, .window_ns = 60 * S, .memory_bytes = 200000, .max_keys = 150},
        {.name = "filters at ten times", .keys = KEYS_MAX, .steps = 400000, .window_ns = 100000 * S, .pause_ns = S, .far_edges = 1000000,
         .max_keys = 100000, .bloom_expected = 1000, .false_positives = 0.01, .fill = 2.5},
        {.name = "filters at ten times, on", .keys = KEYS_MAX, .steps = 400000, .window_ns = 3000 * S, .keep_ns = 5 * S, .pause_ns = S,
         .max_keys = 100000, .bloom_expected = 1000, .false_positives = 0.1},
    };
    seeded = seeded_start("sim_dedup");
    for (size_t i = 0; i < sizeof(scenarios) / sizeof(*scenarios); ++i) {
        scenario_t whole = complete(scenarios[i]);
        run_scenario(&whole);
    }
    return 0;
}
