/* Workers of one sidecar that claim the same keys at the same time: what one runs the others join. For the thread sanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "../../seeded.h"
#include "served.h"

enum { WORKERS = 3, ROUNDS = 200, SLOTS = 8, PENDING_MAX = 64 };

static weir_remote_t remote;
static weir_redis_dedups_t dedups;
static weir_store_dedup_t *dedup;
static pthread_mutex_t server_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic int64_t ticks = 1000 * S;
static _Atomic size_t runs, shares;

static _Thread_local size_t this_worker, asked_count;
static _Thread_local remoted_ask_t asked[PENDING_MAX];
static _Thread_local seeded_t chance;

static bool is_up(weir_remote_t *self)
{
    return true;
}

static bool ask(weir_remote_t *self, const weir_remote_ask_t *what)
{
    remoted_ask_t *copy = &asked[asked_count];
    assert_true(asked_count < PENDING_MAX);
    *copy = (remoted_ask_t){.script = what->script, .key_count = what->key_count, .arg_count = what->arg_count};
    copy->is_open = true;
    copy->on_end = what->on_end;
    copy->context = what->context;
    for (size_t i = 0; i < what->key_count; ++i)
        copy->keys[i] = remoted_copy(what->keys[i]);
    for (size_t i = 0; i < what->arg_count; ++i) {
        copy->args[i] = remoted_copy(what->args[i]);
        copy->lens[i] = what->args[i].len;
    }
    ++asked_count;
    return true;
}

static void wake(weir_remote_t *self, weir_ticket_t ticket)
{
    caller_t *caller = &callers[ticket.slot];
    assert_int_equal(ticket.worker, this_worker);
    caller->told = weir_redis_dedups_collect(&dedups, &caller->claim, atomic_load(&ticks));
}

static size_t worker(weir_remote_t *self)
{
    return this_worker;
}

static void answer_all(void)
{
    while (asked_count != 0) {
        remoted_ask_t first = asked[0];
        remoted_t unused = {.worker = 0};
        reply_t reply;
        memmove(asked, asked + 1, --asked_count * sizeof(asked[0]));
        pthread_mutex_lock(&server_lock);
        serve(&first, &reply, atomic_fetch_add(&ticks, MS));
        pthread_mutex_unlock(&server_lock);
        end_with(&unused, &first, &reply, atomic_load(&ticks));
        remoted_drop(&first);
    }
}

static void begin(caller_t *caller, size_t slot)
{
    *caller = (caller_t){.dedups = &dedups, .worker = this_worker};
    caller->claim = (weir_store_claim_t){.dedup = dedup,
                                         .key = key_of(seeded_below(&chance, KEYS)),
                                         .reader = &caller->reader,
                                         .ticket = {.worker = (uint32_t)this_worker, .slot = (uint32_t)slot}};
    caller->told = weir_redis_dedups_claim(&dedups, &caller->claim, atomic_load(&ticks));
}

static void end_run(caller_t *caller)
{
    atomic_fetch_add(&runs, 1);
    if (seeded_below(&chance, 3) == 0) {
        weir_redis_dedups_forget(&dedups, &caller->claim, atomic_load(&ticks));
        end_answer(caller, WEIR_STREAM_LOST, WEIR_REASON_CONNECT_FAILED);
    } else {
        write_answer(caller, "200", seeded_below(&chance, 5000), 'x');
        weir_redis_dedups_commit(&dedups, &caller->claim, atomic_load(&ticks));
        end_answer(caller, WEIR_STREAM_DONE, WEIR_REASON_NONE);
    }
}

/* False: it goes on. */
static bool go_on(caller_t *caller, bool ends)
{
    weir_stream_view_t view;
    int64_t now_ns = atomic_load(&ticks);
    switch (caller->told) {
    case WEIR_STORE_CLAIM_PENDING:
        if (seeded_below(&chance, 50) == 0)
            weir_redis_dedups_abandon(&dedups, &caller->claim, now_ns);
        else if (now_ns >= caller->claim.until_ns)
            caller->told = weir_redis_dedups_collect(&dedups, &caller->claim, now_ns);
        return caller->claim.asked == NULL && caller->told != WEIR_STORE_CLAIM_SHARE;
    case WEIR_STORE_CLAIM_RUN:
        if (!ends && seeded_below(&chance, 4) != 0)
            return false;
        end_run(caller);
        return true;
    case WEIR_STORE_CLAIM_SHARE:
        (void)read_all(&caller->reader, 'x');
        weir_stream_look(&caller->reader, &view);
        if (view.state == WEIR_STREAM_OPEN)
            return false;
        atomic_fetch_add(&shares, 1);
        let_go(caller);
        return true;
    default:
        return true;
    }
}

static void *work(void *argument)
{
    this_worker = (size_t)(uintptr_t)argument;
    bool is_active[SLOTS] = {false};
    size_t active = 0;
    chance = (seeded_t){this_worker + 1};
    for (size_t i = 0; i < ROUNDS || active != 0; ++i) {
        weir_store_dedup_t *other = NULL;
        weir_conf_dedup_t conf = dedup_of_defaults();
        conf.window_ns = conf.lease_ns = 100 * MS;
        for (size_t j = 0; j < SLOTS; ++j) {
            caller_t *caller = &callers[this_worker * SLOTS + j];
            if (!is_active[j] && i < ROUNDS) {
                begin(caller, this_worker * SLOTS + j);
                is_active[j] = true;
                ++active;
            } else if (is_active[j] && go_on(caller, i >= ROUNDS)) {
                is_active[j] = false;
                --active;
            }
        }
        if (seeded_below(&chance, 100) == 0)
            other = weir_redis_dedups_acquire(&dedups, &conf);
        answer_all();
        if (other != NULL)
            weir_redis_dedups_release(&dedups, other);
        weir_redis_dedups_tick(&dedups, this_worker, atomic_load(&ticks));
        atomic_fetch_add(&ticks, MS);
    }
    answer_all();
    return NULL;
}

static void test_workers_share_what_runs(void **state)
{
    weir_conf_dedup_t conf = dedup_of_defaults();
    weir_store_dedup_told_t told;
    pthread_t threads[WORKERS];
    conf.window_ns = conf.lease_ns = 100 * MS;
    remote = (weir_remote_t){
        .is_up = is_up, .ask = ask, .wake = wake, .worker = worker, .workers = WORKERS, .sidecar = 1, .sidecars = 1};
    weir_redis_dedups_init(&dedups, &remote, "weir:", S, (weir_store_teller_t){ignore_ticket, NULL});
    dedup = weir_redis_dedups_acquire(&dedups, &conf);
    for (size_t i = 0; i < WORKERS; ++i)
        assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i), 0);
    for (size_t i = 0; i < WORKERS; ++i)
        pthread_join(threads[i], NULL);
    assert_true(runs > 10 && shares > 10);
    assert_true(weir_redis_dedups_tell(&dedups, "orders", &told));
    assert_int_equal(told.answer_bytes, 0);
    weir_redis_dedups_release(&dedups, dedup);
    assert_null(dedups.newest);
    weir_redis_dedups_dispose(&dedups);
    for (size_t i = 0; i < KEYS; ++i)
        free_row(&rows[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_workers_share_what_runs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
