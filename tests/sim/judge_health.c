#include "judge_health.h"

#include <assert.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define S INT64_C(1000000000)

enum { BREAKERS_MAX = 16, WORDS_MAX = 4, PAUSES_MAX = 64, MODEL_MAX = 32, PPM = 1000000 };

#define BUDGET_WINDOW_NS (10 * S)
#define LAG_NS (S / 10)

typedef enum { CLOSED, RAMP, OPEN, HALF_OPEN, FORCED_OPEN, FORCED_CLOSED } state_t;

typedef struct {
    int64_t at_ns;
    bool is_failure, is_slow;
} entry_t;

typedef struct {
    int64_t requests, failures, slow;
} sums_t;

/* In the order of time. */
typedef struct {
    entry_t *entries;
    size_t first, certain, count, capacity; /* the first one kept, and that is of the window for sure */
    sums_t sums;                            /* from `certain` on */
} log_t;

/* A try that is out. */
typedef struct {
    uint64_t number;
    unsigned epoch;
    int64_t expires_ns; /* of a probe */
    bool is_lost;       /* its report never comes */
} running_t;

typedef struct {
    const char *model;
    state_t state;
    unsigned epoch; /* what was admitted in an earlier one counts for nothing */
    int64_t now_ns, since_ns;
    int64_t until_min_ns, until_max_ns; /* of OPEN: the same, once a refusal said it */
    int opens;
    log_t log;
    int64_t consecutive, successes, slow_successes, asked, asked_second;
    running_t *running;
    size_t running_count, running_capacity;
    const void *real; /* what it judges, once that changed */
    const char *said[WORDS_MAX], *made[WORDS_MAX];
    size_t said_count, made_count;
    const char *told; /* last, by the metrics */
    bool is_told_now;
} breaker_t;

typedef struct {
    char model[MODEL_MAX];
    size_t model_len;
    uint64_t credential;
    int64_t until_ns;
} pause_t;

struct judge_health {
    const weir_conf_upstream_t *conf;
    void (*fail)(void *data, const char *text);
    void *data;
    breaker_t breakers[BREAKERS_MAX];
    size_t breaker_count;
    struct {
        const void *real;
        const char *word;
    } saw[BREAKERS_MAX * WORDS_MAX];
    size_t saw_count;
    pause_t pauses[PAUSES_MAX];
    size_t pause_count;
    int64_t latest_ns; /* of all workers: what is over for one of them may be forgotten for all */
    log_t requests, retries;
    int64_t budget_now_ns;
    judge_health_figures_t figures;
};

static void fail(judge_health_t *judge, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void fail(judge_health_t *judge, const char *format, ...)
{
    char text[300];
    int len = snprintf(text, sizeof(text), "%s: ", judge->conf->name);
    va_list list;
    va_start(list, format);
    vsnprintf(text + len, sizeof(text) - (size_t)len, format, list);
    va_end(list);
    judge->fail(judge->data, text);
}

/* ---- lists ---- */

static void sums_add(sums_t *sums, const entry_t *entry, int times)
{
    sums->requests += times;
    sums->failures += entry->is_failure ? times : 0;
    sums->slow += entry->is_slow ? times : 0;
}

static void log_make_room(log_t *log)
{
    size_t kept = log->count - log->first;
    if (kept != 0)
        memmove(log->entries, log->entries + log->first, kept * sizeof(entry_t));
    log->certain -= log->first;
    log->first = 0;
    log->count = kept;
    if (kept * 2 < log->capacity)
        return;
    log->capacity = log->capacity != 0 ? log->capacity * 2 : 64;
    log->entries = realloc(log->entries, log->capacity * sizeof(entry_t));
    assert(log->entries != NULL);
}

static void log_add(log_t *log, entry_t entry)
{
    if (log->count == log->capacity)
        log_make_room(log);
    log->entries[log->count++] = entry;
    sums_add(&log->sums, &entry, 1);
}

/* What is older than the window may still be in it, up to 31/30 of it and 31 ns. */
static void log_forget(log_t *log, int64_t window_ns, int64_t now_ns)
{
    int64_t longest_ns = (int64_t)((__int128)window_ns * 31 / 30) + 31;
    while (log->certain < log->count && now_ns - log->entries[log->certain].at_ns >= window_ns)
        sums_add(&log->sums, &log->entries[log->certain++], -1);
    while (log->first < log->certain && now_ns - log->entries[log->first].at_ns > longest_ns)
        ++log->first;
}

static void log_clear(log_t *log)
{
    log->first = log->certain = log->count = 0;
    log->sums = (sums_t){0};
}

/* ---- a breaker ---- */

static breaker_t *breaker_of(judge_health_t *judge, const weir_health_asker_t *asker)
{
    for (size_t i = 1; i < judge->breaker_count; ++i)
        if (strlen(judge->breakers[i].model) == asker->model.len &&
            strncmp(judge->breakers[i].model, asker->model.base, asker->model.len) == 0)
            return &judge->breakers[i];
    return &judge->breakers[0];
}

static void add_breaker(judge_health_t *judge, const char *model)
{
    weir_health_asker_t asker = {.model = {model, strlen(model)}};
    if (breaker_of(judge, &asker) != &judge->breakers[0])
        return;
    assert(judge->breaker_count < BREAKERS_MAX);
    judge->breakers[judge->breaker_count++] = (breaker_t){.model = model};
}

static void say(breaker_t *breaker, const char *word)
{
    assert(breaker->made_count < WORDS_MAX);
    breaker->made[breaker->made_count++] = word;
}

static void enter(breaker_t *breaker, state_t state, const char *word, int64_t since_ns)
{
    if (word != NULL)
        say(breaker, word);
    breaker->state = state;
    breaker->since_ns = since_ns;
    ++breaker->epoch;
    log_clear(&breaker->log);
    breaker->consecutive = breaker->successes = breaker->slow_successes = breaker->asked = breaker->asked_second = 0;
}

static bool was_said(const breaker_t *breaker, const char *word)
{
    for (size_t i = 0; i < breaker->said_count; ++i)
        if (strcmp(breaker->said[i], word) == 0)
            return true;
    return false;
}

/* When an open one ends within its jitter is told by itself. */
static void leave_open(judge_health_t *judge, breaker_t *breaker, int64_t now_ns)
{
    bool is_over = was_said(breaker, "half_open");
    if (is_over && now_ns < breaker->until_min_ns)
        fail(judge, "half-open %" PRId64 " ns too early", breaker->until_min_ns - now_ns);
    if (!is_over && now_ns >= breaker->until_max_ns)
        fail(judge, "open since %" PRId64 " ns, at most %" PRId64, now_ns - breaker->since_ns,
             breaker->until_max_ns - breaker->since_ns);
    if (!is_over)
        return;
    if (now_ns - breaker->since_ns > judge->figures.longest_open_ns)
        judge->figures.longest_open_ns = now_ns - breaker->since_ns;
    enter(breaker, HALF_OPEN, "half_open", now_ns);
    ++judge->figures.half_opened;
}

static void pass_time(judge_health_t *judge, breaker_t *breaker, int64_t now_ns)
{
    if (now_ns > breaker->now_ns)
        breaker->now_ns = now_ns;
    if (breaker->state == OPEN)
        leave_open(judge, breaker, breaker->now_ns);
    if (breaker->state == RAMP && breaker->now_ns >= breaker->since_ns + 3 * S) {
        breaker->state = CLOSED;
        breaker->since_ns += 3 * S;
    }
    if (breaker->state == CLOSED && breaker->now_ns - breaker->since_ns >= judge->conf->breaker.window_ns)
        breaker->opens = 0;
}

static void open_it(judge_health_t *judge, breaker_t *breaker)
{
    const weir_conf_upstream_breaker_t *conf = &judge->conf->breaker;
    long double most = (long double)conf->open.base_ns;
    for (int i = 0; i < breaker->opens && most < (long double)conf->open.max_ns; ++i)
        most *= 2;
    int64_t most_ns = most < (long double)conf->open.max_ns ? (int64_t)most : conf->open.max_ns;
    int64_t jitter_ns = (int64_t)((__int128)most_ns * conf->open.jitter_ppm / PPM);
    int64_t least_ns = most_ns - jitter_ns > 0 ? most_ns - jitter_ns : 1;
    if (breaker->state == HALF_OPEN)
        ++judge->figures.reopened;
    enter(breaker, OPEN, "open", breaker->now_ns);
    breaker->until_min_ns = breaker->now_ns + least_ns;
    breaker->until_max_ns = breaker->now_ns + most_ns;
    ++breaker->opens;
    ++judge->figures.opened;
}

void judge_health_saw(judge_health_t *judge, const void *breaker, const char *word)
{
    assert(judge->saw_count < sizeof(judge->saw) / sizeof(*judge->saw));
    judge->saw[judge->saw_count].real = breaker;
    judge->saw[judge->saw_count++].word = word;
}

static bool is_other(const judge_health_t *judge, const void *real, const breaker_t *breaker)
{
    for (const breaker_t *b = judge->breakers; b < judge->breakers + judge->breaker_count; ++b)
        if (b != breaker && b->real == real)
            return true;
    return breaker->real != NULL && breaker->real != real;
}

/* What changed was this one. */
static void take_words(judge_health_t *judge, breaker_t *breaker)
{
    for (size_t i = 0; i < judge->saw_count; ++i) {
        if (is_other(judge, judge->saw[i].real, breaker))
            fail(judge, "another breaker than '%s' is %s now", breaker->model, judge->saw[i].word);
        else if (breaker->said_count < WORDS_MAX)
            breaker->said[breaker->said_count++] = judge->saw[i].word;
        breaker->real = judge->saw[i].real;
    }
    judge->saw_count = 0;
}

static const char *shown_of(const judge_health_t *judge, const breaker_t *breaker, int64_t now_ns)
{
    static const char *const words[] = {"closed", "closed", "open", "half_open", "open", "closed"};
    bool is_paused = false;
    for (const pause_t *p = judge->pauses; p < judge->pauses + judge->pause_count; ++p)
        is_paused |= p->until_ns > now_ns;
    return is_paused && strcmp(words[breaker->state], "open") != 0 ? "paused" : words[breaker->state];
}

static void check_words(judge_health_t *judge)
{
    for (breaker_t *b = judge->breakers; b < judge->breakers + judge->breaker_count; ++b) {
        bool is_same = b->said_count == b->made_count;
        for (size_t i = 0; is_same && i < b->said_count; ++i)
            is_same = strcmp(b->said[i], b->made[i]) == 0;
        if (!is_same)
            fail(judge, "breaker '%s': it changed %zu times, last to %s; it had to %zu times, last to %s", b->model,
                 b->said_count, b->said_count != 0 ? b->said[b->said_count - 1] : "-", b->made_count,
                 b->made_count != 0 ? b->made[b->made_count - 1] : "-");
        b->said_count = b->made_count = 0;
    }
    if (judge->saw_count != 0)
        fail(judge, "a breaker is %s now, and nobody moved it", judge->saw[0].word);
    judge->saw_count = 0;
}

void judge_health_told(judge_health_t *judge, const char *model, const char *word)
{
    const char *other = judge->conf->breaker.by_model ? "__other__" : "";
    for (breaker_t *b = judge->breakers; b < judge->breakers + judge->breaker_count; ++b) {
        if (strcmp(b == judge->breakers ? other : b->model, model) != 0)
            continue;
        if (strcmp(b->told != NULL ? b->told : "closed", word) == 0)
            fail(judge, "breaker '%s' is told to be %s again", b->model, word);
        b->told = word;
        b->is_told_now = true;
        return;
    }
    fail(judge, "a change of '%s', which has no breaker", model);
}

/* The last word is what is shown. */
static void check_told(judge_health_t *judge, int64_t now_ns)
{
    for (breaker_t *b = judge->breakers; b < judge->breakers + judge->breaker_count; ++b) {
        if (b->is_told_now && strcmp(b->told, shown_of(judge, b, now_ns)) != 0)
            fail(judge, "breaker '%s' is told to be %s, and is %s", b->model, b->told, shown_of(judge, b, now_ns));
        b->is_told_now = false;
    }
}

/* ---- who may pass ---- */

static int64_t permits_out(const breaker_t *breaker)
{
    int64_t out = 0;
    for (size_t i = 0; i < breaker->running_count; ++i)
        out += breaker->running[i].epoch == breaker->epoch && breaker->running[i].expires_ns > breaker->now_ns;
    return out;
}

static int64_t share_of(int64_t asked, int64_t second)
{
    static const int64_t percents[] = {10, 50, 100};
    return (asked * percents[second] + 99) / 100;
}

/* *back_ns: when it is worth to come back, if that is certain; else 0. */
static bool admits(const judge_health_t *judge, const breaker_t *breaker, int64_t *back_ns)
{
    int64_t second = (breaker->now_ns - breaker->since_ns) / S;
    int64_t asked = breaker->asked_second == second ? breaker->asked : 0;
    *back_ns = 0;
    switch (breaker->state) {
    case OPEN:
        if (breaker->until_min_ns == breaker->until_max_ns)
            *back_ns = breaker->until_min_ns;
        return false;
    case FORCED_OPEN:
        *back_ns = breaker->now_ns + judge->conf->breaker.open.base_ns;
        return false;
    case HALF_OPEN:
        return permits_out(breaker) == 0 || permits_out(breaker) + breaker->successes < judge->conf->breaker.probes;
    case RAMP:
        *back_ns = breaker->since_ns + (second + 1) * S;
        return share_of(asked + 1, second) > share_of(asked, second);
    default:
        return true;
    }
}

static void begin(judge_health_t *judge, breaker_t *breaker, uint64_t number)
{
    for (size_t i = breaker->running_count; i-- != 0;) {
        const running_t *running = &breaker->running[i];
        if (running->number == number)
            fail(judge, "try %" PRIu64 " began twice", number);
        if (running->is_lost && running->expires_ns <= breaker->now_ns)
            breaker->running[i] = breaker->running[--breaker->running_count];
    }
    if (breaker->running_count == breaker->running_capacity) {
        breaker->running_capacity = breaker->running_capacity != 0 ? breaker->running_capacity * 2 : 16;
        breaker->running = realloc(breaker->running, breaker->running_capacity * sizeof(running_t));
        assert(breaker->running != NULL);
    }
    int64_t permit_ns = judge->conf->longest_total_ns;
    int64_t expires_ns = breaker->state == HALF_OPEN ? breaker->now_ns + permit_ns : 0;
    int64_t probes = 1; /* a worker whose clock is behind ends its tries a little later */
    for (size_t i = 0; i < breaker->running_count && breaker->state == HALF_OPEN; ++i) {
        const running_t *running = &breaker->running[i];
        bool ends_now = running->expires_ns <= breaker->now_ns && running->expires_ns + LAG_NS > breaker->now_ns;
        probes += running->epoch == breaker->epoch && !running->is_lost && !ends_now;
    }
    if (probes > judge->conf->breaker.probes)
        fail(judge, "%" PRId64 " probes at once", probes);
    breaker->running[breaker->running_count++] = (running_t){number, breaker->epoch, expires_ns, false};
}

static void check_back(judge_health_t *judge, breaker_t *breaker, int64_t retry_after_ns, int64_t back_ns,
                       int64_t now_ns)
{
    if (retry_after_ns < 1)
        fail(judge, "refused, and to come back in %" PRId64 " ns", retry_after_ns);
    if (breaker->state == OPEN && back_ns == 0) {
        int64_t until_ns = now_ns + retry_after_ns;
        if (until_ns < breaker->until_min_ns || until_ns > breaker->until_max_ns)
            fail(judge, "open for %" PRId64 " ns, not %" PRId64 " to %" PRId64, until_ns - breaker->since_ns,
                 breaker->until_min_ns - breaker->since_ns, breaker->until_max_ns - breaker->since_ns);
        breaker->until_min_ns = breaker->until_max_ns = until_ns;
    } else if (back_ns != 0 && retry_after_ns != back_ns - now_ns) {
        fail(judge, "in state %d to come back in %" PRId64 " ns, not %" PRId64, (int)breaker->state, retry_after_ns,
             back_ns - now_ns);
    } else if (breaker->state == HALF_OPEN && now_ns + retry_after_ns > breaker->now_ns + S) {
        fail(judge, "half-open, and to come back in %" PRId64 " ns", retry_after_ns);
    }
}

static void ask_breaker(judge_health_t *judge, breaker_t *breaker, const weir_health_pass_t *pass, int64_t now_ns)
{
    pass_time(judge, breaker, now_ns);
    int64_t back_ns;
    bool may = admits(judge, breaker, &back_ns), does = pass->reason == WEIR_REASON_NONE;
    if (may != does)
        fail(judge, "%s in state %d, with %" PRId64 " permits out, %" PRId64 " successes and %" PRId64 " asked",
             does ? "admitted" : "refused", (int)breaker->state, permits_out(breaker), breaker->successes,
             breaker->asked);
    if (breaker->state == RAMP) {
        int64_t second = (breaker->now_ns - breaker->since_ns) / S;
        breaker->asked = breaker->asked_second == second ? breaker->asked + 1 : 1;
        breaker->asked_second = second;
        judge->figures.ramp_refused += !does;
    }
    if (pass->is_probe != (breaker->state == HALF_OPEN) && does)
        fail(judge, "%s in state %d", pass->is_probe ? "a probe" : "no probe", (int)breaker->state);
    if (pass->breaker != (uint32_t)(breaker - judge->breakers))
        fail(judge, "breaker %u was asked for '%s'", pass->breaker, breaker->model);
    if (!does) {
        check_back(judge, breaker, pass->retry_after_ns, back_ns, now_ns);
        return;
    }
    if (breaker->state == HALF_OPEN)
        ++judge->figures.probes;
    begin(judge, breaker, pass->number);
}

static const char *text_of_reason(weir_reason_t reason)
{
    return reason == WEIR_REASON_NONE           ? "admitted"
           : reason == WEIR_REASON_BREAKER_OPEN ? "breaker_open"
           : reason == WEIR_REASON_THROTTLED    ? "throttled"
                                                : "for no reason there is";
}

static pause_t *pause_of(judge_health_t *judge, const weir_health_asker_t *asker)
{
    for (pause_t *p = judge->pauses; p < judge->pauses + judge->pause_count; ++p)
        if (p->credential == asker->credential && p->model_len == asker->model.len &&
            (p->model_len == 0 || memcmp(p->model, asker->model.base, p->model_len) == 0))
            return p;
    return NULL;
}

static int64_t paused_ns(judge_health_t *judge, const weir_health_asker_t *asker, int64_t now_ns)
{
    const pause_t *pause = pause_of(judge, asker);
    return pause != NULL && pause->until_ns > now_ns ? pause->until_ns - now_ns : 0;
}

/* What a breaker would say, as far as that is certain: false where it is open within its jitter. */
static bool foresee(const judge_health_t *judge, const breaker_t *breaker, int64_t now_ns, bool *may, int64_t *back_ns)
{
    breaker_t copy = *breaker;
    *may = true;
    *back_ns = 0;
    if (now_ns > copy.now_ns)
        copy.now_ns = now_ns;
    if (copy.state == OPEN && copy.now_ns >= copy.until_min_ns && copy.now_ns < copy.until_max_ns)
        return false;
    bool is_half_open = copy.state == OPEN && copy.now_ns >= copy.until_max_ns; /* without anyone: it would admit */
    bool is_ramp_over = copy.state == RAMP && copy.now_ns >= copy.since_ns + 3 * S;
    if (!is_half_open && !is_ramp_over)
        *may = admits(judge, &copy, back_ns);
    return true;
}

/* Who is paused, and would be refused anyway, hears of what ends last. */
static void check_look(judge_health_t *judge, const breaker_t *breaker, const weir_health_pass_t *pass, int64_t left_ns,
                       int64_t now_ns)
{
    bool may;
    int64_t back_ns;
    if (!foresee(judge, breaker, now_ns, &may, &back_ns))
        return;
    bool is_longer = !may && back_ns != 0 && back_ns - now_ns > left_ns;
    bool is_unclear = !may && back_ns == 0;
    weir_reason_t reason = left_ns != 0 && !is_longer ? WEIR_REASON_THROTTLED
                           : may                      ? WEIR_REASON_NONE
                                                      : WEIR_REASON_BREAKER_OPEN;
    if (pass->reason != reason && !is_unclear)
        fail(judge, "%s, and is %s: in state %d, and paused for %" PRId64 " ns", text_of_reason(pass->reason),
             text_of_reason(reason), (int)breaker->state, left_ns);
    if (pass->reason == WEIR_REASON_THROTTLED && pass->retry_after_ns != left_ns)
        fail(judge, "paused for %" PRId64 " ns, not %" PRId64, pass->retry_after_ns, left_ns);
    if (is_longer && pass->retry_after_ns != back_ns - now_ns)
        fail(judge, "in state %d to come back in %" PRId64 " ns, not %" PRId64, (int)breaker->state,
             pass->retry_after_ns, back_ns - now_ns);
    if (pass->retry_after_ns < left_ns || (pass->retry_after_ns == 0) != (may && left_ns == 0))
        fail(judge, "to come back in %" PRId64 " ns, and is paused for %" PRId64, pass->retry_after_ns, left_ns);
}

void judge_health_asked(judge_health_t *judge, const weir_health_asker_t *asker, const weir_health_pass_t *pass,
                        int64_t now_ns)
{
    const weir_conf_upstream_breaker_t *conf = &judge->conf->breaker;
    breaker_t *breaker = breaker_of(judge, asker);
    int64_t left_ns = paused_ns(judge, asker, now_ns);
    if (pass->reason != WEIR_REASON_THROTTLED && now_ns + left_ns <= judge->latest_ns)
        left_ns = 0;
    judge->latest_ns = now_ns > judge->latest_ns ? now_ns : judge->latest_ns;
    ++judge->figures.asked;
    judge->figures.admitted += pass->reason == WEIR_REASON_NONE;
    judge->figures.throttled += pass->reason == WEIR_REASON_THROTTLED;
    judge->figures.refused += pass->reason == WEIR_REASON_BREAKER_OPEN;
    if ((pass->number != 0) != (pass->reason == WEIR_REASON_NONE && conf->enabled))
        fail(judge, "%s as try %" PRIu64, text_of_reason(pass->reason), pass->number);
    if (pass->reason != WEIR_REASON_NONE && !conf->enabled)
        fail(judge, "refused without a breaker");
    take_words(judge, breaker);
    if (left_ns != 0)
        check_look(judge, breaker, pass, left_ns, now_ns);
    else if (pass->reason == WEIR_REASON_THROTTLED)
        fail(judge, "throttled, and not paused");
    else if (conf->enabled)
        ask_breaker(judge, breaker, pass, now_ns);
    check_words(judge);
    check_told(judge, now_ns);
}

/* Nothing changes: not where time alone would, either. */
void judge_health_looked(judge_health_t *judge, const weir_health_asker_t *asker, const weir_health_pass_t *pass,
                         int64_t now_ns)
{
    int64_t left_ns = paused_ns(judge, asker, now_ns);
    if (pass->reason != WEIR_REASON_THROTTLED && now_ns + left_ns <= judge->latest_ns)
        left_ns = 0;
    if (judge->conf->breaker.enabled)
        check_look(judge, breaker_of(judge, asker), pass, left_ns, now_ns);
    else if (pass->reason != WEIR_REASON_NONE || pass->retry_after_ns != 0)
        fail(judge, "refused without a breaker");
    check_words(judge);
}

void judge_health_waited(judge_health_t *judge, const weir_health_asker_t *asker, int64_t wait_ns, int64_t now_ns)
{
    int64_t left_ns = paused_ns(judge, asker, now_ns), back_ns;
    bool may, is_certain = foresee(judge, breaker_of(judge, asker), now_ns, &may, &back_ns);
    bool is_over = now_ns + left_ns <= judge->latest_ns;
    check_words(judge);
    if (!judge->conf->breaker.enabled) {
        if (wait_ns != 0)
            fail(judge, "a wait without a breaker");
        return;
    }
    if (wait_ns < left_ns && !is_over)
        fail(judge, "a wait of %" PRId64 " ns, and paused for %" PRId64, wait_ns, left_ns);
    if (is_certain && !may && (wait_ns == 0 || (back_ns != 0 && wait_ns < back_ns - now_ns)))
        fail(judge, "in state %d a wait of %" PRId64 " ns", (int)breaker_of(judge, asker)->state, wait_ns);
    if (is_certain && may && left_ns == 0 && wait_ns != 0)
        fail(judge, "in state %d a wait of %" PRId64 " ns for nothing", (int)breaker_of(judge, asker)->state, wait_ns);
}

/* ---- what becomes of them ---- */

static bool is_rate(int64_t part, int64_t all, int64_t min, int64_t rate_ppm)
{
    return all >= min && (__int128)part * PPM >= (__int128)all * rate_ppm;
}

typedef struct {
    bool must, may;
} verdict_t;

/* For each length of the window that is allowed. */
static verdict_t judge_rate(const judge_health_t *judge, const breaker_t *breaker, bool is_of_slow)
{
    const weir_conf_upstream_breaker_t *conf = &judge->conf->breaker;
    int64_t rate_ppm = is_of_slow ? conf->slow.rate_ppm : conf->failure_rate_ppm;
    sums_t sums = breaker->log.sums;
    bool is = is_rate(is_of_slow ? sums.slow : sums.failures, sums.requests, conf->min_requests, rate_ppm);
    verdict_t verdict = {is, is};
    for (size_t i = breaker->log.certain; i > breaker->log.first; --i) {
        sums_add(&sums, &breaker->log.entries[i - 1], 1);
        is = is_rate(is_of_slow ? sums.slow : sums.failures, sums.requests, conf->min_requests, rate_ppm);
        verdict.must &= is;
        verdict.may |= is;
    }
    return verdict;
}

static void end_counted(judge_health_t *judge, breaker_t *breaker, bool is_failure, bool is_slow)
{
    const weir_conf_upstream_breaker_t *conf = &judge->conf->breaker;
    log_forget(&breaker->log, conf->window_ns, breaker->now_ns);
    log_add(&breaker->log, (entry_t){breaker->now_ns, is_failure, is_slow});
    breaker->consecutive = is_failure ? breaker->consecutive + 1 : 0;
    bool by_consecutive =
        is_failure && conf->consecutive_failures != 0 && breaker->consecutive >= conf->consecutive_failures;
    verdict_t by_rate = {0}, by_slow = {0};
    if (is_failure)
        by_rate = judge_rate(judge, breaker, false);
    if (is_slow)
        by_slow = judge_rate(judge, breaker, true);
    bool opens = was_said(breaker, "open");
    if (breaker->state == FORCED_CLOSED) {
        if (opens)
            fail(judge, "opened, and is forced closed");
        return;
    }
    if (!opens && (by_consecutive || by_rate.must || by_slow.must))
        fail(judge, "stays closed after %" PRId64 " failures in a row%s%s", breaker->consecutive,
             by_rate.must ? ", and too many" : "", by_slow.must ? ", and too many slow ones" : "");
    if (opens && !by_consecutive && !by_rate.may && !by_slow.may)
        fail(judge, "opens after %" PRId64 " failures in a row, of %zu ends, without a cause", breaker->consecutive,
             breaker->log.count - breaker->log.first);
    if (!opens)
        return;
    judge->figures.by_consecutive += by_consecutive;
    judge->figures.by_rate += by_rate.must;
    judge->figures.by_slow += by_slow.must;
    open_it(judge, breaker);
}

static void note_half_open(judge_health_t *judge, const breaker_t *breaker)
{
    if (breaker->now_ns - breaker->since_ns > judge->figures.longest_half_open_ns)
        judge->figures.longest_half_open_ns = breaker->now_ns - breaker->since_ns;
}

static void end_probe(judge_health_t *judge, breaker_t *breaker, weir_breaker_outcome_t outcome, bool is_slow)
{
    const weir_conf_upstream_breaker_t *conf = &judge->conf->breaker;
    if (outcome == WEIR_BREAKER_CANCELLED) {
        ++judge->figures.probes_cancelled;
        return;
    }
    if (outcome == WEIR_BREAKER_FAILURE) {
        note_half_open(judge, breaker);
        open_it(judge, breaker);
        return;
    }
    ++breaker->successes;
    breaker->slow_successes += is_slow;
    if (breaker->successes < conf->probes)
        return;
    note_half_open(judge, breaker);
    if (breaker->slow_successes != 0 && is_rate(breaker->slow_successes, breaker->successes, 0, conf->slow.rate_ppm)) {
        open_it(judge, breaker);
        return;
    }
    enter(breaker, RAMP, "closed", breaker->now_ns);
    ++judge->figures.closed;
}

/* Returns what it was; number 0: nobody is out by that number. */
static running_t take_out(breaker_t *breaker, uint64_t number)
{
    for (size_t i = 0; i < breaker->running_count; ++i)
        if (breaker->running[i].number == number) {
            running_t running = breaker->running[i];
            breaker->running[i] = breaker->running[--breaker->running_count];
            return running;
        }
    return (running_t){0};
}

void judge_health_reported(judge_health_t *judge, const weir_health_pass_t *pass, weir_breaker_outcome_t outcome,
                           int64_t first_byte_ns, int64_t now_ns)
{
    if (pass->number == 0) {
        check_words(judge);
        return;
    }
    const weir_conf_upstream_breaker_t *conf = &judge->conf->breaker;
    breaker_t *breaker = &judge->breakers[pass->breaker];
    take_words(judge, breaker);
    pass_time(judge, breaker, now_ns);
    running_t running = take_out(breaker, pass->number);
    bool is_slow = conf->slow.enabled && first_byte_ns > conf->slow.first_byte_ns;
    if (running.number == 0)
        fail(judge, "try %" PRIu64 " was reported, and is not out", pass->number);
    else if (running.epoch != breaker->epoch)
        ++judge->figures.late_reports;
    else if (breaker->state == HALF_OPEN && running.expires_ns <= breaker->now_ns)
        ++judge->figures.probes_expired;
    else if (breaker->state == HALF_OPEN)
        end_probe(judge, breaker, outcome, is_slow);
    else if (outcome != WEIR_BREAKER_CANCELLED)
        end_counted(judge, breaker, outcome == WEIR_BREAKER_FAILURE, is_slow);
    check_words(judge);
}

void judge_health_lost(judge_health_t *judge, const weir_health_pass_t *pass)
{
    breaker_t *breaker = &judge->breakers[pass->breaker];
    for (size_t i = 0; i < breaker->running_count; ++i)
        if (breaker->running[i].number == pass->number) {
            breaker->running[i].is_lost = true; /* out until its permit expires */
            return;
        }
    fail(judge, "try %" PRIu64 " ends, and is not out", pass->number);
}

/* ---- by hand, and pauses ---- */

void judge_health_forced(judge_health_t *judge, weir_breaker_force_t force, int64_t now_ns)
{
    static const char *const words[] = {"closed", "closed", "open", "half_open", "open", "closed"};
    size_t changes = 0;
    for (breaker_t *b = judge->breakers; b < judge->breakers + judge->breaker_count; ++b) {
        bool is_forced = b->state == FORCED_OPEN || b->state == FORCED_CLOSED;
        state_t next = force == WEIR_BREAKER_FORCE_OPEN     ? FORCED_OPEN
                       : force == WEIR_BREAKER_FORCE_CLOSED ? FORCED_CLOSED
                       : b->state == FORCED_OPEN            ? HALF_OPEN
                                                            : CLOSED;
        if (b->state == next || (force == WEIR_BREAKER_AUTO && !is_forced))
            continue;
        if (now_ns > b->now_ns)
            b->now_ns = now_ns;
        if (strcmp(words[b->state], words[next]) != 0)
            ++changes;
        enter(b, next, NULL, b->now_ns);
        b->opens = 0;
        ++judge->figures.forced;
    }
    if (force != WEIR_BREAKER_FORCE_OPEN)
        judge->pause_count = 0;
    if (changes != judge->saw_count)
        fail(judge, "forced, %zu changed, and not %zu", judge->saw_count, changes);
    judge->saw_count = 0;
    check_words(judge);
    check_told(judge, now_ns);
}

void judge_health_paused(judge_health_t *judge, const weir_health_asker_t *asker, int64_t ns, int64_t now_ns)
{
    pause_t *pause = pause_of(judge, asker);
    ++judge->figures.pauses;
    if (pause == NULL) {
        assert(judge->pause_count < PAUSES_MAX);
        pause = &judge->pauses[judge->pause_count++];
        assert(asker->model.len < MODEL_MAX);
        *pause = (pause_t){.model_len = asker->model.len, .credential = asker->credential};
        if (asker->model.len != 0)
            memcpy(pause->model, asker->model.base, asker->model.len);
    }
    judge->latest_ns = now_ns > judge->latest_ns ? now_ns : judge->latest_ns;
    judge->figures.pauses_shorter += pause->until_ns > now_ns + ns;
    if (now_ns + ns > pause->until_ns)
        pause->until_ns = now_ns + ns;
    check_words(judge);
}

/* ---- the budget ---- */

static int64_t budget_now(judge_health_t *judge, int64_t now_ns)
{
    if (now_ns > judge->budget_now_ns)
        judge->budget_now_ns = now_ns;
    log_forget(&judge->requests, BUDGET_WINDOW_NS, judge->budget_now_ns);
    log_forget(&judge->retries, BUDGET_WINDOW_NS, judge->budget_now_ns);
    return judge->budget_now_ns;
}

void judge_health_requested(judge_health_t *judge, int64_t now_ns)
{
    ++judge->figures.requests;
    log_add(&judge->requests, (entry_t){.at_ns = budget_now(judge, now_ns)});
}

static verdict_t judge_share(const judge_health_t *judge)
{
    sums_t requests = judge->requests.sums, retries = judge->retries.sums;
    size_t i = judge->requests.certain, j = judge->retries.certain;
    verdict_t verdict = {true, false};
    for (;;) {
        bool fits =
            (__int128)(retries.requests + 1) * PPM <= (__int128)requests.requests * judge->conf->retry.budget_ppm;
        verdict.must &= fits;
        verdict.may |= fits;
        int64_t request_ns = i > judge->requests.first ? judge->requests.entries[i - 1].at_ns : -1;
        int64_t retry_ns = j > judge->retries.first ? judge->retries.entries[j - 1].at_ns : -1;
        if (request_ns < 0 && retry_ns < 0)
            return verdict;
        if (request_ns >= retry_ns) {
            --i;
            ++requests.requests;
        } else {
            --j;
            ++retries.requests;
        }
    }
}

static bool is_one_of_three(const judge_health_t *judge, int64_t now_ns)
{
    const log_t *log = &judge->retries;
    return log->count - log->first < 3 || now_ns - log->entries[log->count - 3].at_ns >= S;
}

void judge_health_retried(judge_health_t *judge, bool fits, int64_t now_ns)
{
    int64_t at_ns = budget_now(judge, now_ns);
    verdict_t verdict = judge_share(judge);
    bool is_floor = is_one_of_three(judge, at_ns);
    if (fits && !is_floor && !verdict.may)
        fail(judge, "a retry beyond the budget");
    if (!fits && (is_floor || verdict.must))
        fail(judge, "a retry was refused, and the budget has %s", is_floor ? "three a second" : "room");
    if (fits)
        log_add(&judge->retries, (entry_t){.at_ns = at_ns});
    judge->figures.retries += fits;
    judge->figures.retries_refused += !fits;
    check_words(judge);
}

/* ---- what is shown, and the end ---- */

void judge_health_shown(judge_health_t *judge, const weir_health_state_t *state, int64_t now_ns)
{
    weir_health_asker_t asker = {.model = {state->model, strlen(state->model)}};
    breaker_t *breaker = breaker_of(judge, &asker);
    int64_t at_ns = now_ns > breaker->now_ns ? now_ns : breaker->now_ns;
    breaker_t copy = *breaker;
    if (copy.state == OPEN && at_ns >= copy.until_max_ns)
        copy.state = HALF_OPEN;
    bool is_certain = copy.state != OPEN || at_ns < copy.until_min_ns;
    const char *word = shown_of(judge, &copy, now_ns);
    if (is_certain && strcmp(word, state->word) != 0)
        fail(judge, "shown as %s, and is %s", state->word, word);
    if (state->is_forced != (breaker->state == FORCED_OPEN || breaker->state == FORCED_CLOSED))
        fail(judge, "is forced, or not");
    check_words(judge);
}

void judge_health_finish(judge_health_t *judge, int64_t now_ns)
{
    for (breaker_t *b = judge->breakers; b < judge->breakers + judge->breaker_count; ++b)
        for (size_t i = 0; i < b->running_count; ++i)
            if (b->running[i].expires_ns == 0 || b->running[i].expires_ns > now_ns)
                fail(judge, "try %" PRIu64 " was never reported", b->running[i].number);
}

const judge_health_figures_t *judge_health_figures(const judge_health_t *judge)
{
    return &judge->figures;
}

/* ---- a judge ---- */

judge_health_t *judge_health_create(const weir_conf_t *conf, const weir_conf_upstream_t *upstream,
                                    void (*fail_)(void *data, const char *text), void *data)
{
    judge_health_t *judge = calloc(1, sizeof(*judge));
    assert(judge != NULL);
    *judge = (judge_health_t){.conf = upstream, .fail = fail_, .data = data};
    judge->breakers[judge->breaker_count++].model = "";
    if (!upstream->breaker.by_model)
        return judge;
    for (size_t i = 0; i < upstream->models.size; ++i)
        add_breaker(judge, upstream->models.entries[i].to);
    for (size_t i = 0; i < conf->listeners.size; ++i)
        for (size_t j = 0; j < conf->listeners.entries[i].routes.size; ++j) {
            const weir_conf_route_t *route = &conf->listeners.entries[i].routes.entries[j];
            for (size_t k = 0; k < route->models.size; ++k)
                if (strchr(route->models.entries[k], '*') == NULL)
                    add_breaker(judge, route->models.entries[k]);
        }
    return judge;
}

void judge_health_destroy(judge_health_t *judge)
{
    for (breaker_t *b = judge->breakers; b < judge->breakers + judge->breaker_count; ++b) {
        free(b->log.entries);
        free(b->running);
    }
    free(judge->requests.entries);
    free(judge->retries.entries);
    free(judge);
}
