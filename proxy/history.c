#include "history.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const int64_t STEP_NS = WEIR_HISTORY_STEP_SECONDS * INT64_C(1000000000);
static const char worse[] = "-cpho"; /* from left to right */

enum { SLOTS = WEIR_HISTORY_STEPS + 1 }; /* one for the step that is not over */

typedef struct {
    uint64_t key;      /* 0: free */
    int64_t seen_step; /* the last one */
    char letters[SLOTS];
} row_t;

struct weir_history {
    int64_t started_ns;
    int64_t step; /* that is not over; the first is 0 */
    int64_t values[WEIR_HISTORY_SERIES][SLOTS];
    int64_t before[WEIR_HISTORY_COUNTS]; /* what was counted when it began */
    row_t rows[WEIR_HISTORY_BREAKERS_MAX];
};

weir_history_t *weir_history_create(int64_t now_ns)
{
    weir_history_t *history = calloc(1, sizeof(*history));
    assert(history != NULL);
    history->started_ns = now_ns;
    return history;
}

void weir_history_destroy(weir_history_t *history)
{
    free(history);
}

/* -- steps -------------------------------------------------------------------------------------------------------- */

static size_t slot_of(int64_t step)
{
    return (size_t)(step % SLOTS);
}

/* A step that nobody looked at is taken to be as the one before. */
static void begin_step(weir_history_t *history, int64_t step, bool is_looked_at)
{
    size_t slot = slot_of(step), former = slot_of(history->step);
    history->step = step;
    for (size_t i = 0; i != WEIR_HISTORY_SERIES; ++i)
        history->values[i][slot] = 0;
    if (!is_looked_at)
        history->values[WEIR_HISTORY_IN_FLIGHT][slot] = history->values[WEIR_HISTORY_IN_FLIGHT][former];
    for (row_t *row = history->rows; row != history->rows + WEIR_HISTORY_BREAKERS_MAX; ++row)
        if (row->key != 0)
            row->letters[slot] = is_looked_at ? '-' : row->letters[former];
}

void weir_history_sample(weir_history_t *history, const int64_t values[WEIR_HISTORY_SERIES], int64_t now_ns)
{
    size_t slot = slot_of(history->step);
    int64_t now_step = (now_ns - history->started_ns) / STEP_NS;
    for (size_t i = 0; i != WEIR_HISTORY_COUNTS; ++i)
        history->values[i][slot] = values[i] - history->before[i];
    if (values[WEIR_HISTORY_IN_FLIGHT] > history->values[WEIR_HISTORY_IN_FLIGHT][slot])
        history->values[WEIR_HISTORY_IN_FLIGHT][slot] = values[WEIR_HISTORY_IN_FLIGHT];
    if (now_step > history->step)
        memcpy(history->before, values, sizeof(history->before));
    for (int64_t step = history->step + 1; step <= now_step; ++step) {
        if (step < now_step - SLOTS)
            step = now_step - SLOTS;
        begin_step(history, step, step == now_step);
    }
}

/* -- breakers ----------------------------------------------------------------------------------------------------- */

static uint64_t key_of(const char *upstream, const char *model)
{
    uint64_t hash = XXH3_64bits_withSeed(model, strlen(model), XXH3_64bits(upstream, strlen(upstream)));
    return hash != 0 ? hash : 1;
}

static const row_t *find_row(const weir_history_t *history, uint64_t key)
{
    for (const row_t *row = history->rows; row != history->rows + WEIR_HISTORY_BREAKERS_MAX; ++row)
        if (row->key == key)
            return row;
    return NULL;
}

/* A free one, or one that has nothing left to show; NULL: there is none. */
static row_t *take_row(weir_history_t *history, uint64_t key)
{
    for (row_t *row = history->rows; row != history->rows + WEIR_HISTORY_BREAKERS_MAX; ++row)
        if (row->key == 0 || row->seen_step + WEIR_HISTORY_STEPS < history->step) {
            row->key = key;
            memset(row->letters, '-', sizeof(row->letters));
            return row;
        }
    return NULL;
}

static char letter_of(const char *state)
{
    return *state == 'h' || *state == 'o' || *state == 'p' ? *state : 'c';
}

void weir_history_breaker(weir_history_t *history, const char *upstream, const char *model, const char *state)
{
    uint64_t key = key_of(upstream, model);
    row_t *row = (row_t *)find_row(history, key);
    if (row == NULL && (row = take_row(history, key)) == NULL)
        return;
    row->seen_step = history->step;
    char *letter = &row->letters[slot_of(history->step)], seen = letter_of(state);
    if (strchr(worse, seen) > strchr(worse, *letter))
        *letter = seen;
}

/* -- reading ------------------------------------------------------------------------------------------------------ */

size_t weir_history_count(const weir_history_t *history)
{
    return history->step < WEIR_HISTORY_STEPS ? (size_t)history->step : WEIR_HISTORY_STEPS;
}

int64_t weir_history_until_ns(const weir_history_t *history)
{
    return history->started_ns + history->step * STEP_NS;
}

static size_t slot_at(const weir_history_t *history, size_t i)
{
    return slot_of(history->step - (int64_t)(weir_history_count(history) - i));
}

void weir_history_values(const weir_history_t *history, weir_history_series_t series,
                         int64_t values[WEIR_HISTORY_STEPS])
{
    for (size_t i = 0; i != weir_history_count(history); ++i)
        values[i] = history->values[series][slot_at(history, i)];
}

void weir_history_letters(const weir_history_t *history, const char *upstream, const char *model,
                          char letters[WEIR_HISTORY_STEPS + 1])
{
    size_t count = weir_history_count(history);
    const row_t *row = find_row(history, key_of(upstream, model));
    for (size_t i = 0; i != count; ++i)
        letters[i] = row != NULL ? row->letters[slot_at(history, i)] : '-';
    letters[count] = '\0';
}
