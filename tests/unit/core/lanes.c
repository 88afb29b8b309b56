/* Lanes against a naive model that searches an array: who is let in, who gives way, who is next, under random changes;
 * then a queue in virtual time, with one tenant who floods it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>
#include "../seeded.h"
#include "../../../filters/core/lanes.h"

#define U WEIR_LANE_URGENT
#define N WEIR_LANE_NORMAL
#define B WEIR_LANE_BACKGROUND

static weir_waiter_t waiter_of(uint64_t tenant, weir_lane_t lane)
{
    return (weir_waiter_t){.tenant_low = tenant, .tenant_high = ~tenant, .lane = lane, .limit = 1};
}

static void grant_all(weir_lanes_t *lanes, weir_line_t *line)
{
    while (weir_lanes_grant(lanes, line, 0) != NULL)
        ;
    assert_true(weir_line_is_empty(line));
    weir_line_free(line);
}

static size_t depth_of(const weir_lanes_t *lanes)
{
    return weir_lanes_depth(lanes, U) + weir_lanes_depth(lanes, N) + weir_lanes_depth(lanes, B);
}

/* The model */

enum { LINES = 4, TENANTS = 12, WAITERS = 256, LIMIT_MAX = 6 };

typedef struct {
    weir_waiter_t waiter;
    uint64_t tenant;
    int line;
    uint64_t order; /* of those that wait: when they came; 0: it does not wait */
} entry_t;

typedef struct {
    weir_lanes_t *lanes;
    weir_line_t *lines[LINES];
    entry_t entries[WAITERS];
    unsigned grants[LINES];
    size_t size, per_tenant;
    uint64_t orders;
    int64_t displaced, granted, refused, left;
} model_t;

static size_t model_count(const model_t *model, uint64_t tenant)
{
    size_t count = 0;
    for (const entry_t *entry = model->entries; entry < model->entries + WAITERS; ++entry)
        count += entry->order != 0 && (tenant == TENANTS || entry->tenant == tenant);
    return count;
}

static size_t model_most(const model_t *model)
{
    size_t most = 0;
    for (uint64_t tenant = 0; tenant < TENANTS; ++tenant)
        if (model_count(model, tenant) > most)
            most = model_count(model, tenant);
    return most;
}

static entry_t *model_newest_of_lowest(model_t *model, uint64_t tenant)
{
    entry_t *found = NULL;
    for (entry_t *entry = model->entries; entry < model->entries + WAITERS; ++entry) {
        if (entry->order == 0 || entry->tenant != tenant)
            continue;
        if (found == NULL || entry->waiter.lane > found->waiter.lane ||
            (entry->waiter.lane == found->waiter.lane && entry->order > found->order))
            found = entry;
    }
    return found;
}

static entry_t *model_next(model_t *model, int line, int64_t used)
{
    bool lowest = model->grants[line] % 16 == 15;
    entry_t *found = NULL;
    for (entry_t *entry = model->entries; entry < model->entries + WAITERS; ++entry) {
        if (entry->order == 0 || entry->line != line || entry->waiter.limit <= used)
            continue;
        if (found == NULL ||
            (lowest ? entry->waiter.lane > found->waiter.lane : entry->waiter.lane < found->waiter.lane) ||
            (entry->waiter.lane == found->waiter.lane && entry->order < found->order))
            found = entry;
    }
    return found;
}

static void model_enter(model_t *model, entry_t *entry)
{
    weir_waiter_t *displaced;
    size_t count = model_count(model, TENANTS), has = model_count(model, entry->tenant), most = model_most(model);
    entry_t *own = model_newest_of_lowest(model, entry->tenant);
    bool is_full = count >= model->size || has >= model->per_tenant, is_in = !is_full;
    weir_line_t *line_before = model->lines[entry->line];
    bool is_other = is_full && has < model->per_tenant && most >= has + 2;
    bool is_own = is_full && !is_other && own != NULL && own->waiter.lane > entry->waiter.lane;
    if (model->size != 0 && model->per_tenant != 0)
        is_in |= is_other || is_own;
    assert_int_equal(weir_lanes_enter(model->lanes, &model->lines[entry->line], &entry->waiter, &displaced), is_in);
    if (!is_in) {
        ++model->refused;
        assert_null(displaced);
        assert_ptr_equal(model->lines[entry->line], line_before);
        assert_int_not_equal(entry->waiter.state, WEIR_WAITER_WAITING);
        return;
    }
    assert_int_equal(entry->waiter.state, WEIR_WAITER_WAITING);
    entry->order = ++model->orders;
    assert_int_equal(displaced != NULL, is_full);
    if (displaced == NULL)
        return;
    ++model->displaced;
    entry_t *gone = (entry_t *)displaced; /* its first member */
    assert_int_equal(displaced->state, WEIR_WAITER_DISPLACED);
    if (is_own) {
        assert_ptr_equal(gone, own);
    } else {
        assert_int_equal(model_count(model, gone->tenant), most);
        assert_ptr_equal(gone, model_newest_of_lowest(model, gone->tenant));
    }
    gone->order = 0;
}

static void model_grant(model_t *model, int line, int64_t used)
{
    entry_t *next = model_next(model, line, used);
    assert_ptr_equal(weir_lanes_grant(model->lanes, model->lines[line], used), next != NULL ? &next->waiter : NULL);
    if (next == NULL)
        return;
    assert_int_equal(next->waiter.state, WEIR_WAITER_GRANTED);
    next->order = 0;
    ++model->grants[line];
    ++model->granted;
}

static void model_leave(model_t *model, entry_t *entry)
{
    weir_lanes_leave(model->lanes, &entry->waiter);
    assert_int_equal(entry->waiter.state, WEIR_WAITER_OUT);
    entry->order = 0;
    ++model->left;
}

static void visit_one(weir_waiter_t *waiter, void *data)
{
    assert_int_equal(waiter->state, WEIR_WAITER_WAITING);
    ++*(size_t *)data;
}

static void model_check(model_t *model)
{
    size_t depth[WEIR_LANES] = {0}, in_line[LINES] = {0};
    for (const entry_t *entry = model->entries; entry < model->entries + WAITERS; ++entry) {
        assert_int_equal(entry->waiter.state == WEIR_WAITER_WAITING, entry->order != 0);
        if (entry->order != 0) {
            ++depth[entry->waiter.lane];
            ++in_line[entry->line];
        }
    }
    for (int lane = 0; lane < WEIR_LANES; ++lane)
        assert_int_equal(weir_lanes_depth(model->lanes, (weir_lane_t)lane), depth[lane]);
    for (int line = 0; line < LINES; ++line) {
        size_t visited = 0;
        assert_int_equal(weir_line_is_empty(model->lines[line]), in_line[line] == 0);
        if (model->lines[line] != NULL)
            weir_line_each(model->lines[line], visit_one, &visited);
        assert_int_equal(visited, in_line[line]);
    }
}

static void free_line(model_t *model, int line)
{
    if (!weir_line_is_empty(model->lines[line]))
        return;
    weir_line_free(model->lines[line]);
    model->lines[line] = NULL;
    model->grants[line] = 0;
}

static void random_size(model_t *model, seeded_t *seeded)
{
    model->size = seeded_below(seeded, 10) != 0 ? 1 + seeded_below(seeded, 80) : seeded_below(seeded, WAITERS);
    model->per_tenant = seeded_below(seeded, 4) != 0 ? (model->size + 3) / 4 : seeded_below(seeded, model->size + 1);
}

static void random_entry(seeded_t *seeded, entry_t *entry)
{
    bool is_flood = seeded_below(seeded, 3) == 0, is_other_limit = seeded_below(seeded, 8) == 0;
    entry->tenant = is_flood ? 0 : seeded_below(seeded, TENANTS);
    entry->waiter.tenant_low = entry->tenant * 64; /* in few buckets */
    entry->waiter.tenant_high = entry->tenant % 2;
    entry->waiter.lane = (weir_lane_t)seeded_below(seeded, WEIR_LANES);
    entry->waiter.limit = is_other_limit ? (int64_t)seeded_below(seeded, LIMIT_MAX + 1) : LIMIT_MAX / 2;
    entry->line = (int)seeded_below(seeded, LINES);
}

static void random_change(model_t *model, seeded_t *seeded)
{
    entry_t *entry = &model->entries[seeded_below(seeded, WAITERS)];
    uint64_t what = seeded_below(seeded, 1000);
    if (what == 0) {
        random_size(model, seeded);
        weir_lanes_resize(model->lanes, model->size, model->per_tenant);
    } else if (what < 20) {
        free_line(model, (int)seeded_below(seeded, LINES));
    } else if (what < 300) {
        model_grant(model, (int)seeded_below(seeded, LINES), (int64_t)seeded_below(seeded, LIMIT_MAX));
    } else if (entry->order == 0) {
        random_entry(seeded, entry);
        model_enter(model, entry);
    } else if (what < 450) {
        model_leave(model, entry);
    }
}

static void random_changes(seeded_t *seeded, int changes)
{
    model_t *model = calloc(1, sizeof(*model));
    random_size(model, seeded);
    model->lanes = weir_lanes_create(model->size, model->per_tenant);
    for (int change = 0; change < changes; ++change) {
        random_change(model, seeded);
        if (change % 16 == 0)
            model_check(model);
    }
    assert_true(model->granted != 0 && model->displaced != 0 && model->refused != 0 && model->left != 0);
    for (int line = 0; line < LINES; ++line) {
        while (model_next(model, line, 0) != NULL)
            model_grant(model, line, 0);
    }
    for (entry_t *entry = model->entries; entry < model->entries + WAITERS; ++entry)
        if (entry->order != 0) /* of limit 0 */
            model_leave(model, entry);
    model_check(model);
    assert_int_equal(depth_of(model->lanes), 0);
    for (int line = 0; line < LINES; ++line)
        free_line(model, line);
    weir_lanes_destroy(model->lanes);
    free(model);
}

static void test_a_million_random_changes_against_the_model_end_with_nothing(void **state)
{
    enum { ROUNDS = 40, CHANGES = 25000 };
    seeded_t seeded = seeded_start(__func__);
    for (int round = 0; round < ROUNDS; ++round)
        random_changes(&seeded, CHANGES);
}

/* Rules, one by one */

static void test_urgent_first_and_the_oldest_first_of_a_lane(void **state)
{
    static const weir_lane_t come[] = {B, N, U, B, U, N}, go[] = {U, U, N, N, B, B};
    static const int order[] = {2, 4, 1, 5, 0, 3};
    enum { COUNT = sizeof(come) / sizeof(*come) };
    weir_lanes_t *lanes = weir_lanes_create(COUNT, COUNT);
    weir_line_t *line = NULL;
    weir_waiter_t waiters[COUNT], *displaced;
    for (int i = 0; i < COUNT; ++i) {
        waiters[i] = waiter_of(1, come[i]);
        assert_true(weir_lanes_enter(lanes, &line, &waiters[i], &displaced));
        assert_null(displaced);
    }
    for (int i = 0; i < COUNT; ++i) {
        assert_ptr_equal(weir_lanes_grant(lanes, line, 0), &waiters[order[i]]);
        assert_int_equal(waiters[order[i]].lane, go[i]);
    }
    assert_null(weir_lanes_grant(lanes, line, 0));
    assert_null(weir_lanes_grant(lanes, NULL, 0));
    weir_line_free(line);
    weir_lanes_destroy(lanes);
}

/* Urgent ones never end; a hundred others wait in each of the lower lanes. */
static void test_one_grant_in_sixteen_goes_to_the_lowest_lane(void **state)
{
    enum { EACH = 100, GRANTS = 16 * EACH * 2, SIZE = GRANTS * 2 };
    weir_lanes_t *lanes = weir_lanes_create(SIZE, SIZE);
    weir_line_t *line = NULL;
    weir_waiter_t *waiters = calloc(SIZE, sizeof(*waiters)), *displaced;
    for (int i = 0; i < EACH * 2 + GRANTS; ++i) {
        waiters[i] = waiter_of(1, i < EACH ? B : i < EACH * 2 ? N : U);
        assert_true(weir_lanes_enter(lanes, &line, &waiters[i], &displaced));
    }
    for (int grant = 1; grant <= GRANTS; ++grant) {
        const weir_waiter_t *granted = weir_lanes_grant(lanes, line, 0);
        weir_lane_t lowest = grant <= 16 * EACH ? B : N;
        assert_int_equal(granted->lane, grant % 16 == 0 ? lowest : U);
        if (grant % 16 == 0) /* the oldest of it */
            assert_ptr_equal(granted, &waiters[grant / 16 - 1]);
    }
    grant_all(lanes, line);
    weir_lanes_destroy(lanes);
    free(waiters);
}

static void test_lines_count_their_sixteen_by_themselves(void **state)
{
    enum { EACH = 16 };
    weir_lanes_t *lanes = weir_lanes_create(100, 100);
    weir_line_t *lines[2] = {0};
    weir_waiter_t waiters[2][EACH + 1], *displaced;
    for (int line = 0; line < 2; ++line) {
        for (int i = 0; i <= EACH; ++i) {
            waiters[line][i] = waiter_of(1, i == 0 ? B : U);
            assert_true(weir_lanes_enter(lanes, &lines[line], &waiters[line][i], &displaced));
        }
    }
    for (int grant = 1; grant <= EACH; ++grant)
        for (int line = 0; line < 2; ++line)
            assert_int_equal(weir_lanes_grant(lanes, lines[line], 0)->lane, grant == 16 ? B : U);
    for (int line = 0; line < 2; ++line)
        grant_all(lanes, lines[line]);
    weir_lanes_destroy(lanes);
}

typedef struct {
    uint64_t tenant;
    weir_lane_t lane;
    bool is_in;
    int displaces; /* a step before; -1: nobody */
} step_t;

static void play(size_t size, size_t per_tenant, const step_t *steps, int count)
{
    enum { STEPS_MAX = 16 };
    weir_lanes_t *lanes = weir_lanes_create(size, per_tenant);
    weir_line_t *line = NULL;
    weir_waiter_t waiters[STEPS_MAX], *displaced;
    assert_in_range(count, 1, STEPS_MAX);
    for (int i = 0; i < count; ++i) {
        waiters[i] = waiter_of(steps[i].tenant, steps[i].lane);
        assert_int_equal(weir_lanes_enter(lanes, &line, &waiters[i], &displaced), steps[i].is_in);
        assert_ptr_equal(displaced, steps[i].displaces >= 0 ? &waiters[steps[i].displaces] : NULL);
    }
    grant_all(lanes, line);
    weir_lanes_destroy(lanes);
}

#define PLAY(size, per_tenant, ...) \
    play(size, per_tenant, (const step_t[]){__VA_ARGS__}, sizeof((const step_t[]){__VA_ARGS__}) / sizeof(step_t))

static void test_who_gives_way(void **state)
{
    /* full: the newest of the one that has the most, where that evens them out */
    PLAY(3, 3, {1, N, true, -1}, {1, N, true, -1}, {1, N, true, -1}, {2, N, true, 2}, {2, N, false, -1},
         {3, N, true, 1}, {3, N, false, -1}, {4, N, false, -1});
    /* of its lowest lane, whatever lane the newcomer has */
    PLAY(3, 3, {1, B, true, -1}, {1, N, true, -1}, {1, U, true, -1}, {2, B, true, 0});
    PLAY(3, 3, {1, U, true, -1}, {1, U, true, -1}, {1, U, true, -1}, {2, B, true, 2});
    /* at its share: its own newest of a lower lane */
    PLAY(8, 2, {1, N, true, -1}, {1, B, true, -1}, {1, B, false, -1}, {1, N, true, 1}, {1, N, false, -1},
         {1, U, true, 3}, {1, U, true, 0}, {1, U, false, -1});
    PLAY(8, 2, {1, B, true, -1}, {1, B, true, -1}, {1, U, true, 1}, {2, B, true, -1});
    PLAY(8, 1, {1, B, true, -1}, {1, U, true, 0}, {1, U, false, -1});
    /* full and even: no other's, but a lower one of its own */
    PLAY(2, 2, {1, B, true, -1}, {2, N, true, -1}, {2, B, false, -1}, {1, N, true, 0}, {1, N, false, -1},
         {2, U, true, 1});
    PLAY(0, 0, {1, U, false, -1});
    PLAY(4, 0, {1, U, false, -1});
}

/* Two lines of one queue: who waits in one gives way to who comes to the other. */
static void test_the_size_is_over_all_lines(void **state)
{
    weir_lanes_t *lanes = weir_lanes_create(2, 2);
    weir_line_t *lines[2] = {0};
    weir_waiter_t first = waiter_of(1, N), second = waiter_of(1, N), other = waiter_of(2, N), *displaced;
    assert_true(weir_lanes_enter(lanes, &lines[0], &first, &displaced));
    assert_true(weir_lanes_enter(lanes, &lines[0], &second, &displaced));
    assert_true(weir_lanes_enter(lanes, &lines[1], &other, &displaced));
    assert_ptr_equal(displaced, &second);
    assert_int_equal(second.state, WEIR_WAITER_DISPLACED);
    weir_lanes_leave(lanes, &first);
    assert_true(weir_line_is_empty(lines[0]));
    weir_line_free(lines[0]);
    grant_all(lanes, lines[1]);
    weir_lanes_destroy(lanes);
}

static void test_limits_of_their_own_in_one_line(void **state)
{
    weir_lanes_t *lanes = weir_lanes_create(10, 10);
    weir_line_t *line = NULL;
    weir_waiter_t small = waiter_of(1, U), large = waiter_of(2, B), *displaced;
    small.limit = 5;
    large.limit = 8;
    weir_lanes_enter(lanes, &line, &small, &displaced);
    weir_lanes_enter(lanes, &line, &large, &displaced);
    assert_null(weir_lanes_grant(lanes, line, 8));
    assert_ptr_equal(weir_lanes_grant(lanes, line, 7),
                     &large); /* over the small one's limit: it does not stand in the way */
    assert_null(weir_lanes_grant(lanes, line, 5));
    assert_ptr_equal(weir_lanes_grant(lanes, line, 4), &small);
    weir_line_free(line);
    weir_lanes_destroy(lanes);
}

static void set_limit(weir_waiter_t *waiter, void *data)
{
    waiter->limit = *(const int64_t *)data;
}

static void test_limits_may_be_changed_while_they_wait(void **state)
{
    weir_lanes_t *lanes = weir_lanes_create(10, 10);
    weir_line_t *line = NULL;
    weir_waiter_t waiters[3], *displaced;
    for (int i = 0; i < 3; ++i) {
        waiters[i] = waiter_of(1, (weir_lane_t)i);
        weir_lanes_enter(lanes, &line, &waiters[i], &displaced);
    }
    assert_null(weir_lanes_grant(lanes, line, 1));
    weir_line_each(line, set_limit, &(int64_t){3});
    assert_ptr_equal(weir_lanes_grant(lanes, line, 1), &waiters[0]);
    assert_ptr_equal(weir_lanes_grant(lanes, line, 2), &waiters[1]);
    assert_null(weir_lanes_grant(lanes, line, 3));
    weir_line_each(line, set_limit, &(int64_t){2});
    assert_null(weir_lanes_grant(lanes, line, 2));
    assert_ptr_equal(weir_lanes_grant(lanes, line, 1), &waiters[2]);
    weir_line_free(line);
    weir_lanes_destroy(lanes);
}

static void leave(weir_waiter_t *waiter, void *data)
{
    weir_lanes_leave(data, waiter);
}

static void test_a_resize_keeps_those_who_wait(void **state)
{
    enum { COUNT = 600 };
    weir_lanes_t *lanes = weir_lanes_create(COUNT, COUNT);
    weir_line_t *line = NULL;
    weir_waiter_t *waiters = calloc(COUNT, sizeof(*waiters)), other = waiter_of(1000, B), *displaced;
    for (int i = 0; i < COUNT; ++i) {
        waiters[i] = waiter_of((uint64_t)i % 40, (weir_lane_t)(i % WEIR_LANES));
        weir_lanes_enter(lanes, &line, &waiters[i], &displaced);
    }
    weir_lanes_resize(lanes, 10, 5);
    assert_int_equal(depth_of(lanes), COUNT);
    assert_true(weir_lanes_enter(lanes, &line, &other, &displaced));
    assert_non_null(displaced);
    assert_int_equal(depth_of(lanes), COUNT);
    weir_lanes_leave(lanes, &other);
    weir_lanes_resize(lanes, 0, 0);
    assert_false(weir_lanes_enter(lanes, &line, &other, &displaced));
    weir_lanes_resize(lanes, 100000, 50000);
    assert_true(weir_lanes_enter(lanes, &line, &other, &displaced));
    assert_null(displaced);
    weir_line_each(line, leave, lanes);
    assert_int_equal(depth_of(lanes), 0);
    assert_true(weir_line_is_empty(line));
    weir_line_free(line);
    weir_lanes_destroy(lanes);
    free(waiters);
}

/* A queue in virtual time: slots that are each in use for SERVICE_NS, ninety-nine tenants who ask for 80 % of them
 * together, and one who asks for a hundred times all of them. Nobody else may be refused or displaced. */

enum { SLOTS = 8, OTHERS = 99, ARRIVALS = 12000, PLACES = 4096 };
#define SERVICE_NS 800000.0

typedef struct {
    weir_lanes_t *lanes;
    weir_line_t *line;
    weir_waiter_t places[PLACES], *unused[PLACES];
    double came_ns[PLACES];
    size_t unused_count;
    double ends_ns[SLOTS]; /* a ring: all last as long */
    unsigned first_end, used;
    double longest_ns; /* that one of the others waited */
    int64_t others, floods, others_lost, floods_displaced;
} queue_t;

static void queue_give_back(queue_t *queue, weir_waiter_t *waiter)
{
    queue->unused[queue->unused_count++] = waiter;
}

static void queue_start(queue_t *queue, double now_ns)
{
    queue->ends_ns[(queue->first_end + queue->used++) % SLOTS] = now_ns + SERVICE_NS;
}

static void queue_end(queue_t *queue)
{
    double now_ns = queue->ends_ns[queue->first_end];
    queue->first_end = (queue->first_end + 1) % SLOTS;
    --queue->used;
    weir_waiter_t *granted = weir_lanes_grant(queue->lanes, queue->line, queue->used);
    if (granted == NULL)
        return;
    double waited_ns = now_ns - queue->came_ns[granted - queue->places];
    if (granted->tenant_low != 0 && waited_ns > queue->longest_ns)
        queue->longest_ns = waited_ns;
    queue_give_back(queue, granted);
    queue_start(queue, now_ns);
}

static void queue_arrive(queue_t *queue, uint64_t tenant, double now_ns)
{
    ++*(tenant != 0 ? &queue->others : &queue->floods);
    if (weir_line_is_empty(queue->line) && queue->used < SLOTS) {
        queue_start(queue, now_ns);
        return;
    }
    weir_waiter_t *waiter = queue->unused[--queue->unused_count], *displaced;
    *waiter = waiter_of(tenant, N);
    waiter->limit = SLOTS;
    queue->came_ns[waiter - queue->places] = now_ns;
    if (!weir_lanes_enter(queue->lanes, &queue->line, waiter, &displaced)) {
        queue->others_lost += tenant != 0;
        queue_give_back(queue, waiter);
    } else if (displaced != NULL) {
        queue->others_lost += displaced->tenant_low != 0;
        queue->floods_displaced += displaced->tenant_low == 0;
        queue_give_back(queue, displaced);
    }
}

static double random_gap(seeded_t *seeded, double mean_ns)
{
    double chance = ((double)(seeded_next(seeded) >> 11) + 1) / 9007199254740992.0; /* over 0, at most 1 */
    return -log(chance) * mean_ns;
}

/* Between two arrivals of others, all that ends and floods. */
static void queue_pass(queue_t *queue, double *flood_ns, double flood_gap_ns, double until_ns)
{
    for (;;) {
        double end_ns = queue->used != 0 ? queue->ends_ns[queue->first_end] : until_ns;
        if (end_ns < until_ns && end_ns <= *flood_ns) {
            queue_end(queue);
        } else if (*flood_ns < until_ns) {
            queue_arrive(queue, 0, *flood_ns);
            *flood_ns += flood_gap_ns;
        } else {
            return;
        }
    }
}

static void flood(seeded_t *seeded, size_t size, bool is_random)
{
    queue_t *queue = calloc(1, sizeof(*queue));
    queue->lanes = weir_lanes_create(size, (size + 3) / 4);
    for (int i = 0; i < PLACES; ++i)
        queue_give_back(queue, &queue->places[i]);
    double gap_ns = SERVICE_NS / SLOTS / 0.8, flood_ns = 0, now_ns = 0;
    for (int i = 0; i < ARRIVALS; ++i) {
        uint64_t tenant = 1 + (is_random ? seeded_below(seeded, OTHERS) : (uint64_t)i % OTHERS);
        now_ns += is_random ? random_gap(seeded, gap_ns) : gap_ns;
        queue_pass(queue, &flood_ns, SERVICE_NS / SLOTS / 100, now_ns);
        queue_arrive(queue, tenant, now_ns);
    }
    assert_int_equal(queue->others, ARRIVALS);
    assert_int_equal(queue->others_lost, 0);
    assert_true(queue->floods > 100 * ARRIVALS);
    assert_true(queue->floods_displaced > 0);
    assert_true(depth_of(queue->lanes) <= size);
    assert_true(queue->longest_ns <= (double)(size + SLOTS) * SERVICE_NS / SLOTS);
    grant_all(queue->lanes, queue->line);
    weir_lanes_destroy(queue->lanes);
    free(queue);
}

static void test_a_flood_costs_the_others_nothing_when_they_come_evenly(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    flood(&seeded, 100, false);
    flood(&seeded, 1000, false);
    for (int round = 0; round < 3; ++round)
        flood(&seeded, 100 + seeded_below(&seeded, 901), false);
}

static void test_a_flood_costs_the_others_nothing_when_they_come_at_random(void **state)
{
    seeded_t seeded = seeded_start(__func__);
    for (int round = 0; round < 3; ++round)
        flood(&seeded, 1000, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urgent_first_and_the_oldest_first_of_a_lane),
        cmocka_unit_test(test_one_grant_in_sixteen_goes_to_the_lowest_lane),
        cmocka_unit_test(test_lines_count_their_sixteen_by_themselves),
        cmocka_unit_test(test_who_gives_way),
        cmocka_unit_test(test_the_size_is_over_all_lines),
        cmocka_unit_test(test_limits_of_their_own_in_one_line),
        cmocka_unit_test(test_limits_may_be_changed_while_they_wait),
        cmocka_unit_test(test_a_resize_keeps_those_who_wait),
        cmocka_unit_test(test_a_million_random_changes_against_the_model_end_with_nothing),
        cmocka_unit_test(test_a_flood_costs_the_others_nothing_when_they_come_evenly),
        cmocka_unit_test(test_a_flood_costs_the_others_nothing_when_they_come_at_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
