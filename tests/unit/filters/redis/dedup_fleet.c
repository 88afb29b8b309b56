/* Sidecars that share dedup keys in Redis, in virtual time: questions and answers that are slow and get lost, connections
 * that break, callers that leave. Of a key one runs at a time, everybody is told something in time, and in the end nothing is left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>
#include "../../seeded.h"
#include "served.h"

enum { SIDECARS = 3, STEPS = 40000, ACTIVE_MAX = 64 };

static const int64_t STEP_NS = MS, TIMEOUT_NS = 250 * MS, LEASE_NS = S, WINDOW_NS = S;

/* --- the network: each worker's connection is a line, and breaks as a whole --- */

typedef struct {
    size_t number; /* the remote's, of its first ask that has not ended */
    struct {
        int64_t arrives_ns, ends_ns;
        bool is_served;
        reply_t reply;
    } asks[REMOTED_ASKS_MAX];
    int64_t last_arrives_ns, last_ends_ns, down_until_ns;
} line_t;

/* Of one worker. */
typedef struct {
    weir_redis_dedups_t dedups;
    weir_store_dedup_t *dedup;
    remoted_t *remote;
    line_t *line;
} sidecar_t;

static sidecar_t sidecars[SIDECARS];
static seeded_t chance;
static bool is_calm;

static int64_t delay(void)
{
    if (is_calm || seeded_below(&chance, 100) != 0)
        return (int64_t)seeded_below(&chance, 3) * MS;
    return (int64_t)seeded_below(&chance, 600) * MS;
}

static void note_times(sidecar_t *sidecar, size_t from)
{
    line_t *line = sidecar->line;
    for (size_t i = from; i < sidecar->remote->count; ++i) {
        int64_t arrives_ns = clock_ns + delay(), ends_ns;
        arrives_ns = arrives_ns > line->last_arrives_ns ? arrives_ns : line->last_arrives_ns;
        ends_ns = arrives_ns + delay();
        ends_ns = ends_ns > line->last_ends_ns ? ends_ns : line->last_ends_ns;
        line->last_arrives_ns = arrives_ns;
        line->last_ends_ns = ends_ns;
        line->asks[i % REMOTED_ASKS_MAX].arrives_ns = arrives_ns;
        line->asks[i % REMOTED_ASKS_MAX].ends_ns = ends_ns;
        line->asks[i % REMOTED_ASKS_MAX].is_served = false;
    }
}

static void move_line(sidecar_t *sidecar)
{
    line_t *line = sidecar->line;
    remoted_t *remote = sidecar->remote;
    for (size_t i = line->number; i < remote->count && line->asks[i % REMOTED_ASKS_MAX].arrives_ns <= clock_ns; ++i)
        if (!line->asks[i % REMOTED_ASKS_MAX].is_served) {
            line->asks[i % REMOTED_ASKS_MAX].is_served = true;
            serve(remoted_of(remote, i), &line->asks[i % REMOTED_ASKS_MAX].reply, clock_ns);
        }
    while (line->number < remote->count && line->asks[line->number % REMOTED_ASKS_MAX].ends_ns <= clock_ns) {
        size_t number = line->number++, count = remote->count;
        end_with(remote, remoted_of(remote, number), &line->asks[number % REMOTED_ASKS_MAX].reply, clock_ns);
        note_times(sidecar, count);
    }
}

static void break_line(sidecar_t *sidecar)
{
    line_t *line = sidecar->line;
    remoted_t *remote = sidecar->remote;
    remote->is_down = true;
    line->down_until_ns = clock_ns + (int64_t)seeded_below(&chance, 3000) * MS;
    while (line->number < remote->count) {
        size_t number = line->number++;
        if (line->asks[number % REMOTED_ASKS_MAX].is_served)
            free(line->asks[number % REMOTED_ASKS_MAX].reply.answer);
        remoted_end(remote, remoted_of(remote, number), WEIR_REMOTE_LOST, NULL, clock_ns);
    }
}

/* --- callers --- */

typedef struct {
    bool is_active, runs;
    uint64_t key;
    size_t sidecar;
    int64_t ends_ns, renews_ns, leaves_ns;
} life_t;

static life_t lives[ACTIVE_MAX];
static size_t told_counts[16], stopped;

static void check_one_runs(uint64_t key)
{
    size_t running = 0;
    for (size_t i = 0; i < ACTIVE_MAX; ++i)
        running += lives[i].is_active && lives[i].runs && lives[i].key == key;
    assert_true(running <= 1);
}

static void begin(size_t slot)
{
    life_t *life = &lives[slot];
    *life = (life_t){.is_active = true, .key = seeded_below(&chance, KEYS), .sidecar = seeded_below(&chance, SIDECARS)};
    life->leaves_ns = seeded_below(&chance, 5) == 0 ? clock_ns + (int64_t)seeded_below(&chance, 500) * MS : INT64_MAX;
    sidecar_t *sidecar = &sidecars[life->sidecar];
    (void)ask_of(&sidecar->dedups, sidecar->dedup, slot, 0, life->key, 0, clock_ns);
}

static void check_shared(caller_t *caller)
{
    weir_stream_view_t view;
    weir_stream_look(&caller->reader, &view);
    if (caller->claim.is_replay)
        assert_int_equal(view.state, WEIR_STREAM_DONE);
    if (view.state == WEIR_STREAM_DONE)
        assert_int_equal(read_all(&caller->reader, 'x'), 3000);
    if (view.state != WEIR_STREAM_OPEN) {
        let_go(caller);
        lives[caller - callers].is_active = false;
    }
}

static void end_run(size_t slot)
{
    caller_t *caller = &callers[slot];
    uint64_t how = seeded_below(&chance, 10);
    lives[slot].is_active = false;
    if (how < 6) {
        write_answer(caller, "200", 3000, 'x');
        commit(caller, clock_ns);
    } else if (how < 8) {
        forget(caller, clock_ns);
    } else {
        lose(caller, clock_ns);
    }
}

static void go_on_running(size_t slot)
{
    life_t *life = &lives[slot];
    if (!life->runs) {
        life->runs = true;
        life->ends_ns = clock_ns + (int64_t)seeded_below(&chance, seeded_below(&chance, 4) == 0 ? 3000 : 300) * MS;
        life->renews_ns = clock_ns + LEASE_NS / 6;
        check_one_runs(life->key);
    }
    if (clock_ns >= life->renews_ns) {
        life->renews_ns = clock_ns + LEASE_NS / 6;
        if (!renew(&callers[slot], clock_ns)) {
            ++stopped;
            life->is_active = false;
            lose(&callers[slot], clock_ns);
            return;
        }
    }
    if (clock_ns >= life->ends_ns)
        end_run(slot);
}

static void go_on(size_t slot)
{
    caller_t *caller = &callers[slot];
    life_t *life = &lives[slot];
    switch (caller->told) {
    case WEIR_STORE_CLAIM_PENDING:
        assert_true(caller->claim.until_ns <= clock_ns + TIMEOUT_NS);
        if (clock_ns >= life->leaves_ns) {
            abandon(caller, clock_ns);
            life->is_active = false;
        } else if (clock_ns >= caller->claim.until_ns) {
            (void)collect(caller, clock_ns);
        }
        return;
    case WEIR_STORE_CLAIM_RUN:
        go_on_running(slot);
        return;
    case WEIR_STORE_CLAIM_SHARE:
        check_shared(caller);
        return;
    default:
        assert_null(caller->claim.asked);
        life->is_active = false;
    }
}

static void step(bool comes)
{
    clock_ns += STEP_NS;
    for (size_t i = 0; i < SIDECARS; ++i) {
        sidecar_t *sidecar = &sidecars[i];
        size_t count = sidecar->remote->count;
        if (sidecar->remote->is_down && clock_ns >= sidecar->line->down_until_ns)
            sidecar->remote->is_down = false;
        if (!is_calm && seeded_below(&chance, 10000) == 0)
            break_line(sidecar);
        if (clock_ns / STEP_NS % 100 == 0) {
            sidecar->remote->worker = 0;
            weir_redis_dedups_tick(&sidecar->dedups, 0, clock_ns);
        }
        note_times(sidecar, count);
        move_line(sidecar);
    }
    for (size_t i = 0; i < ACTIVE_MAX; ++i) {
        size_t counts[SIDECARS];
        for (size_t j = 0; j < SIDECARS; ++j)
            counts[j] = sidecars[j].remote->count;
        if (lives[i].is_active) {
            weir_store_claim_told_t told = callers[i].told;
            go_on(i);
            told_counts[told] += !lives[i].is_active;
        } else if (comes && seeded_below(&chance, 200) == 0) {
            begin(i);
        }
        for (size_t j = 0; j < SIDECARS; ++j)
            note_times(&sidecars[j], counts[j]);
    }
}

static size_t active(void)
{
    size_t count = 0;
    for (size_t i = 0; i < ACTIVE_MAX; ++i)
        count += lives[i].is_active;
    return count;
}

static void open_sidecar(size_t i, const weir_conf_dedup_t *conf)
{
    sidecar_t *sidecar = &sidecars[i];
    sidecar->remote = remoted_create(i + 1, on_wake);
    sidecar->line = calloc(1, sizeof(*sidecar->line));
    weir_redis_dedups_init(&sidecar->dedups, &sidecar->remote->remote, "weir:", TIMEOUT_NS, (weir_store_teller_t){ignore_ticket, NULL});
    sidecar->dedup = weir_redis_dedups_acquire(&sidecar->dedups, conf);
}

static void close_sidecar(size_t i)
{
    sidecar_t *sidecar = &sidecars[i];
    weir_store_dedup_told_t told;
    assert_int_equal(remoted_open(sidecar->remote), 0);
    assert_true(weir_redis_dedups_tell(&sidecar->dedups, "orders", &told));
    assert_int_equal(told.answer_bytes, 0);
    weir_redis_dedups_release(&sidecar->dedups, sidecar->dedup);
    weir_redis_dedups_dispose(&sidecar->dedups);
    remoted_destroy(sidecar->remote);
    free(sidecar->line);
}

static void test_a_fleet(void **state)
{
    weir_conf_dedup_t conf = dedup_of_defaults();
    chance = seeded_start("a fleet");
    conf.lease_ns = LEASE_NS;
    conf.window_ns = WINDOW_NS;
    conf.keep_responses_ns = WINDOW_NS;
    conf.on_unknown = seeded_below(&chance, 2) == 0 ? WEIR_ON_UNKNOWN_RUN : WEIR_ON_UNKNOWN_REJECT;
    clock_ns = 1000 * S;
    for (size_t i = 0; i < SIDECARS; ++i)
        open_sidecar(i, &conf);
    for (size_t i = 0; i < STEPS; ++i)
        step(true);
    is_calm = true;
    for (size_t i = 0; i < 20000 && (active() != 0 || i < 1000); ++i)
        step(false);
    assert_int_equal(active(), 0);
    for (size_t i = 0; i < 8000; ++i) /* a link that broke last, and the last ends */
        step(false);
    for (size_t i = 0; i < KEYS; ++i) {
        assert_true(rows[i].state != 'i' || rows[i].until_ns <= clock_ns);
        free_row(&rows[i]);
    }
    for (size_t i = 0; i < SIDECARS; ++i)
        close_sidecar(i);
    printf("run %zu share %zu duplicate %zu unknown %zu down %zu pending %zu stopped %zu\n", told_counts[WEIR_STORE_CLAIM_RUN],
           told_counts[WEIR_STORE_CLAIM_SHARE], told_counts[WEIR_STORE_CLAIM_DUPLICATE], told_counts[WEIR_STORE_CLAIM_UNKNOWN],
           told_counts[WEIR_STORE_CLAIM_DOWN], told_counts[WEIR_STORE_CLAIM_PENDING], stopped);
    assert_true(told_counts[WEIR_STORE_CLAIM_RUN] > 20 && told_counts[WEIR_STORE_CLAIM_SHARE] > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_fleet)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
