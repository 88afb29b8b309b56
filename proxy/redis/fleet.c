#include "fleet.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>
#include "../../filters/redis/pause_member.h"
#include "../upstream.h"

static const int64_t BEAT_NS = 250 * INT64_C(1000000);

enum {
    ALIVE_MS = 30000,
    DOUBTED_BEATS = 8, /* Redis has forgotten who lives: until all can have told it again, there are no fewer than before */
    REPLY_ENTRIES = 4,
    TOLD_MAX = 128, /* pauses, and lifts, of one beat */
    LIFTS_MAX = 64,
    KEY_BYTES = 128,
    NUMBER_BYTES = 24,
    SIDECAR_DIGITS = 16,
};

/* A pause that was heard of and taken over: by its end, which is Redis's time, it is known again. */
typedef struct {
    uint64_t upstream;
    weir_key_t key;
    int64_t ends_ms;
} heard_t;

/* By hand, not yet told. */
typedef struct {
    uint64_t upstream;
    int64_t until_ns; /* nothing that was lifted would be left by then */
    bool is_sent;
} lift_t;

struct weir_fleet {
    weir_server_t *server;
    weir_remote_t *remote;
    int64_t beat_timeout_ns, pause_timeout_ns;
    char alive[KEY_BYTES], pauses[KEY_BYTES], lifted[KEY_BYTES];
    char sidecar[SIDECAR_DIGITS + 1];
    h2o_timeout_entry_t timer;
    bool is_beating, has_heard, is_leaving;
    bool is_counted; /* Redis has heard of it */
    int doubted;     /* beats whose count is not believed where it is lower */
    lift_t lifts[LIFTS_MAX];
    size_t lift_count;
    uint64_t heard_lifts[TOLD_MAX]; /* hashes of what the last beat told */
    size_t heard_lift_count;
    heard_t heard[TOLD_MAX];
    size_t heard_count;
};

static weir_str_t str(const char *text)
{
    return (weir_str_t){text, strlen(text)};
}

/* --- life --- */

static void name_key(char key[KEY_BYTES], const weir_conf_store_redis_t *conf, const char *what)
{
    int len = snprintf(key, KEY_BYTES, "%s{fleet}:%s", conf->prefix, what);
    assert(len > 0 && len < KEY_BYTES);
}

weir_fleet_t *weir_fleet_create(weir_server_t *server, weir_remote_t *remote, const weir_conf_store_redis_t *conf)
{
    weir_fleet_t *fleet = h2o_mem_alloc(sizeof(*fleet));
    *fleet = (weir_fleet_t){.server = server,
                            .remote = remote,
                            .beat_timeout_ns = conf->claim_timeout_ns, /* nobody waits for it */
                            .pause_timeout_ns = conf->timeout_ns};
    name_key(fleet->alive, conf, "alive");
    name_key(fleet->pauses, conf, "pauses");
    name_key(fleet->lifted, conf, "lifted");
    snprintf(fleet->sidecar, sizeof(fleet->sidecar), "%016llx", (unsigned long long)remote->sidecar);
    return fleet;
}

void weir_fleet_destroy(weir_fleet_t *fleet)
{
    if (fleet == NULL)
        return;
    weir_timer_stop(&fleet->timer);
    free(fleet);
}

/* --- what is lifted here --- */

static lift_t *find_lift(weir_fleet_t *fleet, uint64_t upstream)
{
    for (size_t i = 0; i != fleet->lift_count; ++i)
        if (fleet->lifts[i].upstream == upstream)
            return &fleet->lifts[i];
    return NULL;
}

static void drop_lifts(weir_fleet_t *fleet, bool (*is_over)(const lift_t *lift))
{
    size_t kept = 0;
    for (size_t i = 0; i != fleet->lift_count; ++i)
        if (!is_over(&fleet->lifts[i]))
            fleet->lifts[kept++] = fleet->lifts[i];
    fleet->lift_count = kept;
}

static bool is_too_old(const lift_t *lift)
{
    return weir_clock_turn_ns >= lift->until_ns;
}

static bool is_sent(const lift_t *lift)
{
    return lift->is_sent;
}

void weir_fleet_lift(weir_fleet_t *fleet, uint64_t upstream, int64_t max_ns)
{
    if (fleet == NULL || upstream == 0)
        return;
    drop_lifts(fleet, is_too_old);
    lift_t *lift = find_lift(fleet, upstream);
    if (lift == NULL)
        lift = &fleet->lifts[fleet->lift_count < LIFTS_MAX ? fleet->lift_count++ : 0];
    *lift = (lift_t){.upstream = upstream, .until_ns = weir_clock_turn_ns + max_ns};
}

/* --- what others tell --- */

static weir_health_t *find_health(const weir_fleet_t *fleet, uint64_t upstream)
{
    const weir_snapshot_t *snapshot = fleet->server->snapshot;
    for (size_t i = 0; snapshot != NULL && i != snapshot->conf->upstreams.size; ++i) {
        weir_health_t *health = weir_upstream_health(snapshot->upstreams[i]);
        if (upstream != 0 && weir_health_shared_as(health) == upstream)
            return health;
    }
    return NULL;
}

static bool knows_lift(const weir_fleet_t *fleet, uint64_t lift)
{
    for (size_t i = 0; i != fleet->heard_lift_count; ++i)
        if (fleet->heard_lifts[i] == lift)
            return true;
    return false;
}

static void take_lift(const weir_fleet_t *fleet, weir_str_t text)
{
    uint64_t upstream;
    weir_health_t *health = weir_pause_upstream_read(text, &upstream) ? find_health(fleet, upstream) : NULL;
    if (health != NULL)
        weir_health_let_go(health, fleet->server->control);
}

/* What was lifted before this sidecar came is not its own. */
static void take_lifts(weir_fleet_t *fleet, const weir_remote_value_t *list)
{
    uint64_t now[TOLD_MAX];
    size_t count = 0;
    for (size_t i = 0; i != list->size && count != TOLD_MAX; ++i) {
        const weir_remote_value_t *entry = &list->entries[i];
        if (entry->kind != WEIR_REMOTE_TEXT)
            continue;
        now[count] = XXH3_64bits(entry->text.base, entry->text.len);
        if (fleet->has_heard && !knows_lift(fleet, now[count]))
            take_lift(fleet, entry->text);
        ++count;
    }
    memcpy(fleet->heard_lifts, now, count * sizeof(*now));
    fleet->heard_lift_count = count;
    fleet->has_heard = true;
}

static bool knows_pause(const weir_fleet_t *fleet, const heard_t *pause)
{
    for (size_t i = 0; i != fleet->heard_count; ++i) {
        const heard_t *known = &fleet->heard[i];
        if (known->upstream == pause->upstream && known->key.low == pause->key.low && known->key.high == pause->key.high &&
            known->ends_ms == pause->ends_ms)
            return true;
    }
    return false;
}

/* False: it is nobody's here. */
static bool take_pause(weir_fleet_t *fleet, const heard_t *pause, int64_t left_ms)
{
    if (knows_pause(fleet, pause))
        return true;
    weir_health_t *health = find_health(fleet, pause->upstream);
    if (health == NULL || find_lift(fleet, pause->upstream) != NULL)
        return false;
    weir_health_pause_as_told(health, fleet->server->control, pause->key, left_ms);
    return true;
}

static bool read_pause(const weir_remote_value_t row[3], heard_t *pause)
{
    *pause = (heard_t){.ends_ms = row[2].integer};
    return row[0].kind == WEIR_REMOTE_TEXT && row[1].kind == WEIR_REMOTE_INTEGER && row[1].integer > 0 &&
           row[2].kind == WEIR_REMOTE_INTEGER && weir_pause_member_read(row[0].text, &pause->upstream, &pause->key);
}

static void take_pauses(weir_fleet_t *fleet, const weir_remote_value_t *list)
{
    heard_t now[TOLD_MAX];
    size_t count = 0;
    for (size_t i = 0; i + 3 <= list->size && count != TOLD_MAX; i += 3)
        if (read_pause(&list->entries[i], &now[count]) && take_pause(fleet, &now[count], list->entries[i + 1].integer))
            ++count;
    memcpy(fleet->heard, now, count * sizeof(*now));
    fleet->heard_count = count;
}

static void take_count(weir_fleet_t *fleet, int64_t count, bool was_alive)
{
    uint32_t known = atomic_load(&fleet->remote->sidecars), now = count > 0 && count <= UINT32_MAX ? (uint32_t)count : 1;
    if (fleet->is_counted && !was_alive)
        fleet->doubted = DOUBTED_BEATS;
    else if (fleet->doubted > 0)
        --fleet->doubted;
    fleet->is_counted = !fleet->is_leaving;
    if (now > known || fleet->doubted == 0)
        atomic_store(&fleet->remote->sidecars, now);
}

static bool is_reply(const weir_remote_value_t *value)
{
    static const weir_remote_kind_t kinds[REPLY_ENTRIES] = {WEIR_REMOTE_INTEGER, WEIR_REMOTE_INTEGER, WEIR_REMOTE_LIST,
                                                            WEIR_REMOTE_LIST};
    if (value->kind != WEIR_REMOTE_LIST || value->size != REPLY_ENTRIES)
        return false;
    for (size_t i = 0; i != REPLY_ENTRIES; ++i)
        if (value->entries[i].kind != kinds[i])
            return false;
    return true;
}

/* --- the beat --- */

static void on_beat_end(void *context, weir_remote_told_t told, const weir_remote_value_t *value, int64_t now_ns)
{
    weir_fleet_t *fleet = context;
    bool is_ending = fleet->server->control->stopped; /* and what it would pause is gone */
    fleet->is_beating = false;
    if (told == WEIR_REMOTE_ANSWERED && !is_ending && is_reply(value)) {
        drop_lifts(fleet, is_sent);
        take_count(fleet, value->entries[0].integer, value->entries[1].integer != 0);
        take_lifts(fleet, &value->entries[2]);
        take_pauses(fleet, &value->entries[3]);
    }
    for (size_t i = 0; i != fleet->lift_count; ++i)
        fleet->lifts[i].is_sent = false;
}

static void mark_sent(weir_fleet_t *fleet)
{
    for (size_t i = 0; i != fleet->lift_count; ++i)
        fleet->lifts[i].is_sent = true;
}

static void beat(weir_fleet_t *fleet)
{
    char alive_ms[NUMBER_BYTES], upstreams[LIFTS_MAX][WEIR_PAUSE_UPSTREAM_LEN];
    weir_str_t keys[] = {str(fleet->alive), str(fleet->pauses), str(fleet->lifted)}, args[2 + LIFTS_MAX];
    snprintf(alive_ms, sizeof(alive_ms), "%d", fleet->is_leaving ? 0 : ALIVE_MS);
    args[0] = str(fleet->sidecar);
    args[1] = str(alive_ms);
    for (size_t i = 0; i != fleet->lift_count; ++i) {
        weir_pause_upstream_write(upstreams[i], fleet->lifts[i].upstream);
        args[2 + i] = (weir_str_t){upstreams[i], sizeof(upstreams[i])};
    }
    weir_remote_ask_t ask = {.script = WEIR_SCRIPT_beat,
                             .keys = keys,
                             .key_count = sizeof(keys) / sizeof(*keys),
                             .args = args,
                             .arg_count = 2 + fleet->lift_count,
                             .timeout_ns = fleet->beat_timeout_ns,
                             .on_end = on_beat_end,
                             .context = fleet};
    fleet->is_beating = fleet->remote->ask(fleet->remote, &ask);
    if (fleet->is_beating)
        mark_sent(fleet);
}

static void on_time(h2o_timeout_entry_t *entry)
{
    weir_fleet_t *fleet = H2O_STRUCT_FROM_MEMBER(weir_fleet_t, timer, entry);
    drop_lifts(fleet, is_too_old);
    if (!fleet->is_beating)
        beat(fleet);
    weir_timer_start(fleet->server->control, entry, BEAT_NS);
}

void weir_fleet_open(weir_fleet_t *fleet)
{
    if (fleet == NULL)
        return;
    fleet->timer.cb = on_time;
    on_time(&fleet->timer);
}

/* With nobody to hear the answer: one beat more may be under way. */
void weir_fleet_leave(weir_fleet_t *fleet)
{
    if (fleet == NULL || fleet->is_leaving)
        return;
    weir_str_t keys[] = {str(fleet->alive), str(fleet->pauses), str(fleet->lifted)};
    weir_str_t args[] = {str(fleet->sidecar), str("0")};
    fleet->is_leaving = true;
    (void)fleet->remote->ask(fleet->remote, &(weir_remote_ask_t){.script = WEIR_SCRIPT_beat,
                                                                 .keys = keys,
                                                                 .key_count = sizeof(keys) / sizeof(*keys),
                                                                 .args = args,
                                                                 .arg_count = sizeof(args) / sizeof(*args),
                                                                 .timeout_ns = fleet->beat_timeout_ns});
}

/* --- a pause that began here --- */

void weir_fleet_pause(weir_fleet_t *fleet, uint64_t upstream, weir_key_t key, int64_t ns)
{
    char member[WEIR_PAUSE_MEMBER_LEN], ms[NUMBER_BYTES];
    if (fleet == NULL)
        return;
    weir_pause_member_write(member, upstream, key);
    snprintf(ms, sizeof(ms), "%lld", (long long)(ns / 1000000 + (ns % 1000000 != 0)));
    weir_str_t name = str(fleet->pauses), args[] = {{member, sizeof(member)}, str(ms)};
    (void)fleet->remote->ask(fleet->remote, &(weir_remote_ask_t){.script = WEIR_SCRIPT_pause, /* lost: each hears of its own 429 */
                                                                 .keys = &name,
                                                                 .key_count = 1,
                                                                 .args = args,
                                                                 .arg_count = sizeof(args) / sizeof(*args),
                                                                 .timeout_ns = fleet->pause_timeout_ns});
}
