#include "metrics.h"
#include <assert.h>
#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>
#include "json_out.h"

typedef enum { COUNTER, GAUGE, HISTOGRAM_OVERHEAD, HISTOGRAM_DURATION, HISTOGRAM_TRACED } kind_t;

static const struct {
    kind_t kind;
    const char *name, *labels, *help;
} families[WEIR_METRIC_COUNT] = {
#define METRIC(id, kind, name, labels, help) {kind, #name, labels, help},
#include "../conf/metrics.def"
#undef METRIC
};

/* A histogram is BUCKETS slots (the last one is +Inf), each counting what fell between its bound and the one before,
 * and a sum in ns. */
enum { BUCKETS = 19, HISTOGRAM_SLOTS = BUCKETS + 1 };

#define US INT64_C(1000)
#define MS (1000 * US)
#define SECOND (1000 * MS)
static const int64_t overhead_bounds[BUCKETS] = {
    10 * US, 20 * US, 50 * US,  100 * US, 200 * US, 500 * US, 1 * MS,     2 * MS,     5 * MS,   10 * MS,
    20 * MS, 50 * MS, 100 * MS, 200 * MS, 500 * MS, SECOND,   2 * SECOND, 5 * SECOND, INT64_MAX};
static const int64_t duration_bounds[BUCKETS] = {1 * MS,       2500 * US,    5 * MS,       10 * MS,     25 * MS,
                                                 50 * MS,      100 * MS,     250 * MS,     500 * MS,    SECOND,
                                                 2500 * MS,    5 * SECOND,   10 * SECOND,  30 * SECOND, 60 * SECOND,
                                                 120 * SECOND, 300 * SECOND, 600 * SECOND, INT64_MAX};

/* Slots below FIRST_SLOT are for nothing: 0, and NOTHING where a cache remembers that there was no room. A slot number
 * of an overhead histogram carries its bounds' kind in the highest bit, so that observing needs to look up nothing. */
enum { NOTHING = HISTOGRAM_SLOTS, FIRST_SLOT = 2 * HISTOGRAM_SLOTS };
static const uint32_t OVERHEAD_BIT = UINT32_C(1) << 31;

enum {
    CHUNK_SLOTS = 512, /* one page a worker */
    CHUNKS_MAX = 512,
    SERIES_MAX = 20000,
    LABEL_VALUE_MAX = 512, /* bytes of a value, before escaping */
    LABELS_TEXT_MAX = 4096,
    TENANT_NAME_MAX = 128,
    EXEMPLAR_KEPT_MS = 1000,
};

typedef struct {
    _Atomic int64_t slots[CHUNK_SLOTS];
} chunk_t;

/* Chunks are published by a release store and never move. Written by this worker alone. */
struct weir_metrics_worker {
    weir_metrics_t *metrics;
    chunk_t *_Atomic chunks[CHUNKS_MAX];
};

/* A recent observation of one bucket, of any worker. A sequence lock: `turn` is odd while one writes, and another one
 * that would, too, leaves it. All fields are atomic, stored by release and loaded by acquire: who sees a field of a
 * writer sees his odd turn. */
typedef struct {
    _Alignas(64) _Atomic int64_t began_ms; /* Unix time; 0: nothing was kept yet */
    _Atomic int64_t ns;
    _Atomic uint64_t trace_id[WEIR_TRACE_ID_BYTES / sizeof(uint64_t)];
    _Atomic uint32_t turn;
} exemplar_t;

typedef enum { COUNTED, SET, CLEARED } source_t;

typedef struct series {
    struct series *_Atomic next; /* of the same family, in the order they were made */
    const char *labels;          /* a="x",b="y", escaped */
    uint64_t hash;
    weir_metric_t metric;
    uint32_t slot;
    exemplar_t *exemplars;  /* by bucket; NULL: it has none */
    _Atomic int source;     /* source_t */
    _Atomic uint64_t value; /* SET: the bits of a double */
} series_t;

typedef struct {
    char name[TENANT_NAME_MAX + 1];
    size_t len;
} tenant_t;

struct weir_metrics {
    size_t worker_count;
    weir_metrics_worker_t **workers;
    pthread_mutex_t lock; /* of all that is written below; readers of `first`, `owners`, tenants need none */
    struct {
        series_t *_Atomic first;
        series_t *last;
    } families[WEIR_METRIC_COUNT];
    series_t **table; /* open addressing, by hash */
    size_t table_capacity, series_count;
    uint32_t next_slot;
    series_t *_Atomic *_Atomic owners[CHUNKS_MAX]; /* whose a slot is, by its number */
    tenant_t *tenants;                             /* [0] is __other__ */
    size_t tenant_capacity;
    _Atomic size_t tenant_count;
    _Atomic uint32_t *tenant_table; /* open addressing: numbers, 0 is free; filled only */
    size_t tenant_table_capacity;
    double started_seconds;
};

static void *allocate(size_t count, size_t size)
{
    void *block = calloc(count, size);
    assert(block != NULL);
    return block;
}

static bool is_histogram(weir_metric_t metric)
{
    return families[metric].kind >= HISTOGRAM_OVERHEAD;
}

/* Makes room for chunk `index` in every worker. */
static void add_chunk(weir_metrics_t *metrics, size_t index)
{
    for (size_t i = 0; i != metrics->worker_count; ++i) {
        chunk_t *chunk = aligned_alloc(64, sizeof(*chunk));
        assert(chunk != NULL);
        memset(chunk, 0, sizeof(*chunk));
        atomic_store_explicit(&metrics->workers[i]->chunks[index], chunk, memory_order_release);
    }
    atomic_store_explicit(&metrics->owners[index], allocate(CHUNK_SLOTS, sizeof(series_t *)), memory_order_release);
}

static void create_tenants(weir_metrics_t *metrics, size_t capacity)
{
    metrics->tenant_capacity = capacity;
    metrics->tenants = allocate(capacity + 1, sizeof(*metrics->tenants));
    strcpy(metrics->tenants[0].name, "__other__");
    metrics->tenants[0].len = strlen("__other__");
    metrics->tenant_table_capacity = 4;
    while (metrics->tenant_table_capacity < 2 * (capacity + 1))
        metrics->tenant_table_capacity *= 2;
    metrics->tenant_table = allocate(metrics->tenant_table_capacity, sizeof(*metrics->tenant_table));
}

weir_metrics_t *weir_metrics_create(size_t workers, size_t tenant_series)
{
    weir_metrics_t *metrics = allocate(1, sizeof(*metrics));
    pthread_mutex_init(&metrics->lock, NULL);
    metrics->worker_count = workers;
    metrics->workers = allocate(workers, sizeof(*metrics->workers));
    for (size_t i = 0; i != workers; ++i) {
        metrics->workers[i] = allocate(1, sizeof(**metrics->workers));
        metrics->workers[i]->metrics = metrics;
    }
    metrics->table_capacity = 256;
    metrics->table = allocate(metrics->table_capacity, sizeof(*metrics->table));
    metrics->next_slot = FIRST_SLOT;
    add_chunk(metrics, 0);
    create_tenants(metrics, tenant_series);
    return metrics;
}

void weir_metrics_destroy(weir_metrics_t *metrics)
{
    for (size_t i = 0; i != metrics->worker_count; ++i) {
        for (size_t chunk = 0; chunk != CHUNKS_MAX; ++chunk)
            free(metrics->workers[i]->chunks[chunk]);
        free(metrics->workers[i]);
    }
    for (size_t i = 0; i != metrics->table_capacity; ++i)
        if (metrics->table[i] != NULL) {
            free((char *)metrics->table[i]->labels);
            free(metrics->table[i]->exemplars);
            free(metrics->table[i]);
        }
    for (size_t chunk = 0; chunk != CHUNKS_MAX; ++chunk)
        free((void *)metrics->owners[chunk]);
    free(metrics->workers);
    free(metrics->table);
    free(metrics->tenants);
    free((void *)metrics->tenant_table);
    pthread_mutex_destroy(&metrics->lock);
    free(metrics);
}

weir_metrics_worker_t *weir_metrics_worker(weir_metrics_t *metrics, size_t index)
{
    assert(index < metrics->worker_count);
    return metrics->workers[index];
}

/* -- series ------------------------------------------------------------------------------------------------------- */

static size_t escape_label(char *out, const char *value)
{
    size_t size = 0, len = strlen(value);
    for (size_t i = 0; i < len;) {
        size_t character = weir_json_out_utf8(value + i, len - i);
        if (i + character > LABEL_VALUE_MAX)
            break;
        if (character == 0) {
            memcpy(out + size, "\xef\xbf\xbd", 3); /* U+FFFD */
            size += 3;
            ++i;
            continue;
        }
        if (strchr("\\\"\n", value[i]) != NULL)
            out[size++] = '\\';
        memcpy(out + size, value[i] == '\n' ? "n" : value + i, character);
        size += character;
        i += character;
    }
    return size;
}

/* Writes a="x",b="y". Returns its length. */
static size_t format_labels(char *out, weir_metric_t metric, const char *const *values)
{
    _Static_assert(LABELS_TEXT_MAX > 2 * LABEL_VALUE_MAX * 3 + 3 * 64, "three labels, each byte escaped");
    size_t size = 0;
    for (const char *name = families[metric].labels; *name != '\0'; ++values) {
        size_t len = strcspn(name, ",");
        if (size != 0)
            out[size++] = ',';
        memcpy(out + size, name, len);
        size += len;
        out[size++] = '=';
        out[size++] = '"';
        size += escape_label(out + size, *values);
        out[size++] = '"';
        name += len + (name[len] == ',');
    }
    out[size] = '\0';
    return size;
}

/* Where this series is in the table, or the free place where it would be. */
static series_t **find_place(weir_metrics_t *metrics, weir_metric_t metric, const char *labels, uint64_t hash)
{
    size_t mask = metrics->table_capacity - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        series_t *series = metrics->table[i];
        if (series == NULL || (series->hash == hash && series->metric == metric && strcmp(series->labels, labels) == 0))
            return &metrics->table[i];
    }
}

static void grow_table(weir_metrics_t *metrics)
{
    series_t **old = metrics->table;
    size_t old_capacity = metrics->table_capacity;
    metrics->table_capacity *= 2;
    metrics->table = allocate(metrics->table_capacity, sizeof(*metrics->table));
    for (size_t i = 0; i != old_capacity; ++i)
        if (old[i] != NULL)
            *find_place(metrics, old[i]->metric, old[i]->labels, old[i]->hash) = old[i];
    free(old);
}

/* The first of so many consecutive new slots, in one chunk; 0 when there is no room. */
static uint32_t take_slots(weir_metrics_t *metrics, uint32_t count)
{
    uint32_t slot = metrics->next_slot;
    if (slot / CHUNK_SLOTS != (slot + count - 1) / CHUNK_SLOTS)
        slot = (slot / CHUNK_SLOTS + 1) * CHUNK_SLOTS;
    size_t chunk = slot / CHUNK_SLOTS;
    if (chunk >= CHUNKS_MAX)
        return 0;
    if (metrics->owners[chunk] == NULL)
        add_chunk(metrics, chunk);
    metrics->next_slot = slot + count;
    return slot;
}

static exemplar_t *create_exemplars(void)
{
    exemplar_t *exemplars = aligned_alloc(_Alignof(exemplar_t), BUCKETS * sizeof(*exemplars));
    assert(exemplars != NULL);
    memset((void *)exemplars, 0, BUCKETS * sizeof(*exemplars));
    return exemplars;
}

static series_t *make_series(weir_metrics_t *metrics, weir_metric_t metric, const char *labels, uint64_t hash)
{
    uint32_t slot = 0;
    if (metrics->series_count < SERIES_MAX)
        slot = take_slots(metrics, is_histogram(metric) ? HISTOGRAM_SLOTS : 1);
    if (slot == 0)
        return NULL;
    series_t *series = allocate(1, sizeof(*series));
    series->labels = strdup(labels);
    assert(series->labels != NULL);
    series->hash = hash;
    series->metric = metric;
    series->slot = slot | (families[metric].kind == HISTOGRAM_OVERHEAD ? OVERHEAD_BIT : 0);
    if (families[metric].kind == HISTOGRAM_TRACED)
        series->exemplars = create_exemplars();
    atomic_store_explicit(&metrics->owners[slot / CHUNK_SLOTS][slot % CHUNK_SLOTS], series, memory_order_release);
    if (metrics->families[metric].last != NULL)
        atomic_store_explicit(&metrics->families[metric].last->next, series, memory_order_release);
    else
        atomic_store_explicit(&metrics->families[metric].first, series, memory_order_release);
    metrics->families[metric].last = series;
    ++metrics->series_count;
    return series;
}

uint32_t weir_metrics_series(weir_metrics_t *metrics, weir_series_t *cache, weir_metric_t metric,
                             const char *const *labels)
{
    uint32_t slot = cache != NULL ? atomic_load_explicit(cache, memory_order_acquire) : 0;
    if (slot != 0)
        return slot == NOTHING ? 0 : slot;
    char text[LABELS_TEXT_MAX];
    uint64_t hash = XXH3_64bits_withSeed(text, format_labels(text, metric, labels), (uint64_t)metric);
    pthread_mutex_lock(&metrics->lock);
    series_t **place = find_place(metrics, metric, text, hash), *series = *place;
    if (series == NULL && (series = make_series(metrics, metric, text, hash)) != NULL) {
        *place = series;
        if (2 * metrics->series_count > metrics->table_capacity)
            grow_table(metrics);
    }
    pthread_mutex_unlock(&metrics->lock);
    if (cache != NULL)
        atomic_store_explicit(cache, series != NULL ? series->slot : NOTHING, memory_order_release);
    return series != NULL ? series->slot : 0;
}

/* -- tenants ------------------------------------------------------------------------------------------------------ */

/* The tenant's number, or 0 with *free_place where it would be entered. */
static uint32_t find_tenant(weir_metrics_t *metrics, const char *name, size_t len, uint64_t hash,
                            _Atomic uint32_t **free_place)
{
    size_t mask = metrics->tenant_table_capacity - 1;
    for (size_t i = hash & mask;; i = (i + 1) & mask) {
        uint32_t number = atomic_load_explicit(&metrics->tenant_table[i], memory_order_acquire);
        if (number == 0) {
            *free_place = &metrics->tenant_table[i];
            return 0;
        }
        const tenant_t *tenant = &metrics->tenants[number];
        if (tenant->len == len && memcmp(tenant->name, name, len) == 0)
            return number;
    }
}

uint32_t weir_metrics_tenant(weir_metrics_worker_t *worker, const char *name, size_t len)
{
    weir_metrics_t *metrics = worker->metrics;
    _Atomic uint32_t *place;
    uint64_t hash = XXH3_64bits(name, len);
    uint32_t number = find_tenant(metrics, name, len, hash, &place);
    if (number != 0 || atomic_load_explicit(&metrics->tenant_count, memory_order_relaxed) == metrics->tenant_capacity)
        return number;
    const tenant_t *other = &metrics->tenants[0];
    if (len > TENANT_NAME_MAX || (len == other->len && memcmp(name, other->name, len) == 0))
        return 0;
    pthread_mutex_lock(&metrics->lock);
    number = find_tenant(metrics, name, len, hash, &place);
    size_t count = metrics->tenant_count;
    if (number == 0 && count < metrics->tenant_capacity) {
        number = (uint32_t)count + 1;
        memcpy(metrics->tenants[number].name, name, len);
        metrics->tenants[number].len = len;
        atomic_store_explicit(place, number, memory_order_release);
        atomic_store_explicit(&metrics->tenant_count, number, memory_order_relaxed);
    }
    pthread_mutex_unlock(&metrics->lock);
    return number;
}

size_t weir_metrics_tenant_capacity(const weir_metrics_t *metrics)
{
    return metrics->tenant_capacity;
}

const char *weir_metrics_tenant_name(weir_metrics_t *metrics, uint32_t number)
{
    return metrics->tenants[number].name;
}

/* -- counting ----------------------------------------------------------------------------------------------------- */

static _Atomic int64_t *slot_of(weir_metrics_worker_t *worker, uint32_t slot)
{
    chunk_t *chunk = atomic_load_explicit(&worker->chunks[slot / CHUNK_SLOTS], memory_order_acquire);
    return &chunk->slots[slot % CHUNK_SLOTS];
}

/* One writer: a load and a store are enough, and cost what a plain addition does. */
static void add_to(_Atomic int64_t *slot, int64_t n)
{
    atomic_store_explicit(slot, atomic_load_explicit(slot, memory_order_relaxed) + n, memory_order_relaxed);
}

void weir_metrics_add(weir_metrics_worker_t *worker, uint32_t slot, int64_t n)
{
    add_to(slot_of(worker, slot), n);
}

/* Returns the bucket. */
static inline __attribute__((always_inline)) size_t observe(weir_metrics_worker_t *worker, uint32_t slot, int64_t ns)
{
    const int64_t *bounds = slot & OVERHEAD_BIT ? overhead_bounds : duration_bounds;
    size_t bucket = 0;
    while (ns > bounds[bucket])
        ++bucket;
    _Atomic int64_t *slots = slot_of(worker, slot & ~OVERHEAD_BIT);
    add_to(&slots[bucket], 1);
    add_to(&slots[BUCKETS], ns);
    return bucket;
}

void weir_metrics_observe(weir_metrics_worker_t *worker, uint32_t slot, int64_t ns)
{
    observe(worker, slot, ns);
}

int64_t weir_metrics_value(weir_metrics_t *metrics, uint32_t slot)
{
    int64_t sum = 0;
    for (size_t i = 0; i != metrics->worker_count; ++i)
        sum += atomic_load_explicit(slot_of(metrics->workers[i], slot & ~OVERHEAD_BIT), memory_order_relaxed);
    return sum;
}

/* -- exemplars ---------------------------------------------------------------------------------------------------- */

/* NULL: nobody's slot, or not seen on this thread yet. */
static series_t *owner_of(weir_metrics_t *metrics, uint32_t slot)
{
    slot &= ~OVERHEAD_BIT;
    series_t *_Atomic *owners = atomic_load_explicit(&metrics->owners[slot / CHUNK_SLOTS], memory_order_acquire);
    return atomic_load_explicit(&owners[slot % CHUNK_SLOTS], memory_order_acquire);
}

/* Of another second, before or after: what is observed together began in any order, and the wall clock may be set. */
static bool is_of_another_second(const exemplar_t *exemplar, int64_t began_ms)
{
    uint64_t since = (uint64_t)began_ms - (uint64_t)atomic_load_explicit(&exemplar->began_ms, memory_order_relaxed);
    return since + EXEMPLAR_KEPT_MS >= 2 * EXEMPLAR_KEPT_MS;
}

__attribute__((noinline)) static void write_exemplar(exemplar_t *exemplar, int64_t ns, const char *trace_id,
                                                     int64_t began_ms)
{
    uint32_t turn = atomic_load_explicit(&exemplar->turn, memory_order_relaxed);
    if (turn % 2 != 0 || !atomic_compare_exchange_strong_explicit(&exemplar->turn, &turn, turn + 1,
                                                                  memory_order_acquire, memory_order_relaxed))
        return;
    uint64_t words[WEIR_TRACE_ID_BYTES / sizeof(uint64_t)];
    memcpy(words, trace_id, sizeof(words));
    for (size_t i = 0; i != sizeof(words) / sizeof(*words); ++i)
        atomic_store_explicit(&exemplar->trace_id[i], words[i], memory_order_release);
    atomic_store_explicit(&exemplar->ns, ns, memory_order_release);
    atomic_store_explicit(&exemplar->began_ms, began_ms, memory_order_release);
    atomic_store_explicit(&exemplar->turn, turn + 2, memory_order_release);
}

/* False when there is none, or one is being written just now. */
static bool read_exemplar(const exemplar_t *exemplar, char trace_id[WEIR_TRACE_ID_BYTES], int64_t *ns,
                          int64_t *began_ms)
{
    uint64_t words[WEIR_TRACE_ID_BYTES / sizeof(uint64_t)];
    uint32_t turn = atomic_load_explicit(&exemplar->turn, memory_order_acquire);
    for (size_t i = 0; i != sizeof(words) / sizeof(*words); ++i)
        words[i] = atomic_load_explicit(&exemplar->trace_id[i], memory_order_acquire);
    *ns = atomic_load_explicit(&exemplar->ns, memory_order_acquire);
    *began_ms = atomic_load_explicit(&exemplar->began_ms, memory_order_acquire);
    memcpy(trace_id, words, sizeof(words));
    return turn != 0 && turn % 2 == 0 && atomic_load_explicit(&exemplar->turn, memory_order_relaxed) == turn;
}

void weir_metrics_observe_traced(weir_metrics_worker_t *worker, uint32_t slot, int64_t ns, const char *trace_id,
                                 int64_t began_wall_ms)
{
    size_t bucket = observe(worker, slot, ns);
    series_t *series = trace_id != NULL ? owner_of(worker->metrics, slot) : NULL;
    if (series != NULL && series->exemplars != NULL && is_of_another_second(&series->exemplars[bucket], began_wall_ms))
        write_exemplar(&series->exemplars[bucket], ns, trace_id, began_wall_ms);
}

/* -- what was counted so far -------------------------------------------------------------------------------------- */

/* The value of one of a series' labels as it is written, escaped; *len 0 when there is none. */
static const char *value_of(const char *labels, const char *name, size_t *len)
{
    size_t name_len = strlen(name);
    for (const char *at = labels; *at != '\0';) {
        const char *value = strchr(at, '=') + 2, *end = value;
        while (*end != '"')
            end += *end == '\\' ? 2 : 1;
        *len = (size_t)(end - value);
        if ((size_t)(value - at) == name_len + 2 && memcmp(at, name, name_len) == 0)
            return value;
        at = end + 1 + (end[1] == ',');
    }
    *len = 0;
    return labels;
}

static bool says(const char *labels, const char *name, const char *wanted)
{
    size_t len;
    const char *value = value_of(labels, name, &len);
    return strlen(wanted) == len && memcmp(value, wanted, len) == 0;
}

static void add_word(weir_metrics_sums_t *sums, const char *word, size_t len, int64_t n)
{
    size_t i = 0;
    sums->sum += n;
    if (len > WEIR_METRICS_WORD_BYTES)
        return;
    while (i != sums->count && (strlen(sums->words[i].word) != len || memcmp(sums->words[i].word, word, len) != 0))
        ++i;
    if (i == WEIR_METRICS_WORDS_MAX)
        return;
    if (i == sums->count) {
        memcpy(sums->words[i].word, word, len);
        sums->words[i].word[len] = '\0';
        ++sums->count;
    }
    sums->words[i].sum += n;
}

weir_metrics_sums_t weir_metrics_sums(weir_metrics_t *metrics, weir_metric_t metric, const char *where, const char *is,
                                      const char *label, size_t bytes)
{
    assert(!is_histogram(metric));
    weir_metrics_sums_t sums = {.sum = 0};
    series_t *series = atomic_load_explicit(&metrics->families[metric].first, memory_order_acquire);
    for (; series != NULL; series = atomic_load_explicit(&series->next, memory_order_acquire)) {
        size_t len;
        const char *word = value_of(series->labels, label, &len);
        if (where == NULL || says(series->labels, where, is))
            add_word(&sums, word, len < bytes ? len : bytes, weir_metrics_value(metrics, series->slot));
    }
    return sums;
}

int64_t weir_metrics_sum_of(const weir_metrics_sums_t *sums, const char *word)
{
    for (size_t i = 0; i != sums->count; ++i)
        if (strcmp(sums->words[i].word, word) == 0)
            return sums->words[i].sum;
    return 0;
}

/* -- what is scraped ---------------------------------------------------------------------------------------------- */

void weir_metrics_set(weir_metrics_t *metrics, uint32_t slot, double value)
{
    if (slot == 0)
        return;
    series_t *series = owner_of(metrics, slot);
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    atomic_store_explicit(&series->value, bits, memory_order_relaxed);
    atomic_store_explicit(&series->source, SET, memory_order_release);
}

void weir_metrics_clear(weir_metrics_t *metrics, weir_metric_t metric)
{
    series_t *series = atomic_load_explicit(&metrics->families[metric].first, memory_order_acquire);
    for (; series != NULL; series = atomic_load_explicit(&series->next, memory_order_acquire))
        atomic_store_explicit(&series->source, CLEARED, memory_order_relaxed);
}

/* The shortest text that reads back as the same number. */
static void write_number(FILE *out, double value)
{
    char text[32];
    for (int digits = 15; digits <= 17; ++digits) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    fputs(text, out);
}

static void write_seconds(FILE *out, int64_t ns)
{
    int64_t fraction = ns % SECOND;
    int digits = 9;
    for (; digits > 0 && fraction % 10 == 0; --digits)
        fraction /= 10;
    fprintf(out, "%" PRId64, ns / SECOND);
    if (digits != 0)
        fprintf(out, ".%0*" PRId64, digits, fraction);
}

/* Bounds are written as OpenMetrics has its canonical numbers, in both formats: the same series in either. */
static void write_bound(FILE *out, int64_t bound)
{
    double seconds = (double)bound / SECOND;
    if (bound == INT64_MAX)
        fputs("+Inf", out);
    else
        write_number(out, seconds);
    if (bound != INT64_MAX && bound % SECOND == 0)
        fputs(".0", out);
}

static void write_labels(FILE *out, const char *labels)
{
    if (*labels != '\0')
        fprintf(out, "{%s}", labels);
}

/* An exemplar as OpenMetrics has it behind a bucket's count (OpenMetrics 1.0, 6.2). */
static void render_exemplar(const exemplar_t *exemplar, FILE *out)
{
    char trace_id[WEIR_TRACE_ID_BYTES];
    int64_t ns, began_ms;
    if (!read_exemplar(exemplar, trace_id, &ns, &began_ms))
        return;
    int64_t ended_ms = began_ms + ns / MS;
    fprintf(out, " # {trace_id=\"%.*s\"} ", WEIR_TRACE_ID_BYTES, trace_id);
    write_seconds(out, ns);
    fprintf(out, " %" PRId64 ".%03d", ended_ms / 1000, (int)(ended_ms % 1000));
}

static void render_histogram(weir_metrics_t *metrics, const series_t *series, bool open_metrics, FILE *out)
{
    const char *name = families[series->metric].name, *comma = *series->labels != '\0' ? "," : "";
    const int64_t *bounds = series->slot & OVERHEAD_BIT ? overhead_bounds : duration_bounds;
    uint32_t slot = series->slot & ~OVERHEAD_BIT;
    int64_t count = 0;
    for (uint32_t bucket = 0; bucket != BUCKETS; ++bucket) {
        count += weir_metrics_value(metrics, slot + bucket);
        fprintf(out, "%s_bucket{%s%sle=\"", name, series->labels, comma);
        write_bound(out, bounds[bucket]);
        fprintf(out, "\"} %" PRId64, count);
        if (open_metrics && series->exemplars != NULL)
            render_exemplar(&series->exemplars[bucket], out);
        putc('\n', out);
    }
    fprintf(out, "%s_sum", name);
    write_labels(out, series->labels);
    putc(' ', out);
    write_seconds(out, weir_metrics_value(metrics, slot + BUCKETS));
    fprintf(out, "\n%s_count", name);
    write_labels(out, series->labels);
    fprintf(out, " %" PRId64 "\n", count);
}

static void render_series(weir_metrics_t *metrics, const series_t *series, bool open_metrics, FILE *out)
{
    int source = atomic_load_explicit(&series->source, memory_order_acquire);
    if (source == CLEARED)
        return;
    if (is_histogram(series->metric)) {
        render_histogram(metrics, series, open_metrics, out);
        return;
    }
    fputs(families[series->metric].name, out);
    write_labels(out, series->labels);
    putc(' ', out);
    if (source == SET) {
        uint64_t bits = atomic_load_explicit(&series->value, memory_order_relaxed);
        double value;
        memcpy(&value, &bits, sizeof(value));
        write_number(out, value);
    } else {
        fprintf(out, "%" PRId64, weir_metrics_value(metrics, series->slot));
    }
    putc('\n', out);
}

static bool ends_with(const char *text, size_t len, const char *end)
{
    size_t size = strlen(end);
    return len > size && memcmp(text + len - size, end, size) == 0;
}

static void announce(weir_metric_t metric, bool open_metrics, FILE *out)
{
    static const char *const types[] = {"counter", "gauge", "histogram", "histogram", "histogram"};
    static const char *const units[] = {"_seconds", "_bytes", "_ratio"};
    const char *name = families[metric].name;
    size_t len = strlen(name);
    if (open_metrics && ends_with(name, len, "_total"))
        len -= strlen("_total"); /* there, a counter's family is named without it */
    fprintf(out, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)len, name, families[metric].help, (int)len, name,
            types[families[metric].kind]);
    for (size_t i = 0; open_metrics && i != sizeof(units) / sizeof(*units); ++i)
        if (ends_with(name, len, units[i]))
            fprintf(out, "# UNIT %.*s %s\n", (int)len, name, units[i] + 1);
}

/* -- the process -------------------------------------------------------------------------------------------------- */

static void set_plain(weir_metrics_t *metrics, weir_metric_t metric, double value)
{
    weir_metrics_set(metrics, weir_metrics_series(metrics, NULL, metric, NULL), value);
}

static double seconds_of(clockid_t clock)
{
    struct timespec now = {0};
    clock_gettime(clock, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Unix time of the machine's start. Not from /proc/stat, which services and containers may not see. */
static double boot_seconds(void)
{
    return seconds_of(CLOCK_REALTIME) - seconds_of(CLOCK_BOOTTIME);
}

static void collect_stat(weir_metrics_t *metrics)
{
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL)
        return;
    char text[1024];
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    const char *after_name = strrchr(text, ')'); /* the name may hold anything */
    double user, system, started, virtual, pages, ticks = (double)sysconf(_SC_CLK_TCK);
    if (after_name == NULL ||
        sscanf(after_name + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lf %lf %*d %*d %*d %*d %*d %*d %lf %lf %lf", &user,
               &system, &started, &virtual, &pages) != 5)
        return;
    if (metrics->started_seconds == 0)
        metrics->started_seconds = boot_seconds() + started / ticks;
    set_plain(metrics, WEIR_METRIC_PROCESS_CPU, (user + system) / ticks);
    set_plain(metrics, WEIR_METRIC_PROCESS_VIRTUAL_MEMORY, virtual);
    set_plain(metrics, WEIR_METRIC_PROCESS_RESIDENT_MEMORY, pages * (double)sysconf(_SC_PAGESIZE));
    set_plain(metrics, WEIR_METRIC_PROCESS_START_TIME, metrics->started_seconds);
}

static void collect_fds(weir_metrics_t *metrics)
{
    DIR *folder = opendir("/proc/self/fd");
    if (folder != NULL) {
        int count = 0;
        while (readdir(folder) != NULL)
            ++count;
        closedir(folder);
        set_plain(metrics, WEIR_METRIC_PROCESS_OPEN_FDS, count - 3); /* . and .. and the folder's own */
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        set_plain(metrics, WEIR_METRIC_PROCESS_MAX_FDS, (double)limit.rlim_cur);
}

char *weir_metrics_render(weir_metrics_t *metrics, int open_metrics, size_t *len)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, len);
    assert(out != NULL);
    collect_stat(metrics);
    collect_fds(metrics);
    for (weir_metric_t metric = 0; metric != WEIR_METRIC_COUNT; ++metric) {
        announce(metric, open_metrics, out);
        series_t *series = atomic_load_explicit(&metrics->families[metric].first, memory_order_acquire);
        for (; series != NULL; series = atomic_load_explicit(&series->next, memory_order_acquire))
            render_series(metrics, series, open_metrics, out);
    }
    if (open_metrics)
        fputs("# EOF\n", out);
    int failed = fclose(out);
    assert(failed == 0);
    return text;
}
