#include <string.h>
#include "redis_dedup_parts.h"
#include "redis_look.h"

static const weir_redis_looked_t *look_at_bits(weir_redis_look_t *look, const weir_redis_dedups_t *dedups,
                                               const weir_redis_dedup_t *dedup, weir_store_key_t key)
{
    uint64_t offsets[WEIR_REDIS_BLOOM_HASHES_MAX];
    char texts[WEIR_REDIS_BLOOM_HASHES_MAX][WEIR_REDIS_NUMBER_MAX];
    weir_str_t args[WEIR_REDIS_BLOOM_HASHES_MAX];
    weir_redis_names_t names;
    weir_redis_bitmaps_of(&names, dedups, dedup);
    weir_redis_bloom_offsets(&dedup->bloom, key, offsets);
    for (unsigned i = 0; i < dedup->bloom.hashes; ++i)
        args[i] = weir_redis_number_text(texts[i], offsets[i]);
    return weir_redis_look_ask(look, &(weir_remote_ask_t){.script = WEIR_SCRIPT_look,
                                                          .keys = names.names,
                                                          .key_count = 2,
                                                          .args = args,
                                                          .arg_count = dedup->bloom.hashes});
}

static const weir_redis_looked_t *look_at_state(weir_redis_look_t *look, weir_script_t script, const weir_redis_dedups_t *dedups,
                                                const weir_redis_dedup_t *dedup, weir_store_key_t key)
{
    weir_redis_names_t names;
    weir_redis_names_of(&names, dedups, dedup, key);
    return weir_redis_look_ask(look, &(weir_remote_ask_t){.script = script, .keys = names.names, .key_count = 2});
}

/* As redis_claim.c takes what claim.lua found. */
static weir_store_claim_told_t told_of(const weir_redis_looked_t *looked, const weir_store_dedup_t *handle, bool *is_replay)
{
    if (strcmp(looked->word, "free") == 0)
        return WEIR_STORE_CLAIM_RUN;
    if (strcmp(looked->word, "flight") == 0)
        return handle->in_flight == WEIR_IN_FLIGHT_WAIT ? WEIR_STORE_CLAIM_SHARE : WEIR_STORE_CLAIM_IN_FLIGHT;
    if (strcmp(looked->word, "unknown") == 0)
        return WEIR_STORE_CLAIM_UNKNOWN;
    *is_replay = handle->on_duplicate == WEIR_ON_DUPLICATE_REPLAY && looked->numbers[0] != 0;
    return *is_replay ? WEIR_STORE_CLAIM_SHARE : WEIR_STORE_CLAIM_DUPLICATE;
}

weir_store_claim_told_t weir_redis_look_claim(weir_redis_look_t *look, weir_redis_dedups_t *dedups, weir_store_claim_t *claim)
{
    const weir_redis_dedup_t *dedup = claim->dedup->dedup;
    const weir_redis_looked_t *looked = dedup->exact ? look_at_state(look, WEIR_SCRIPT_look, dedups, dedup, claim->key)
                                                     : look_at_bits(look, dedups, dedup, claim->key);
    claim->is_replay = false;
    if (looked->state == WEIR_REDIS_LOOK_TOLD)
        return told_of(looked, claim->dedup, &claim->is_replay);
    return looked->state == WEIR_REDIS_LOOK_WAITS ? WEIR_STORE_CLAIM_PENDING : WEIR_STORE_CLAIM_DOWN;
}

bool weir_redis_look_drop(weir_redis_look_t *look, weir_redis_dedups_t *dedups, weir_store_dedup_t *handle, weir_store_key_t key)
{
    if (!handle->dedup->exact)
        return false;
    const weir_redis_looked_t *looked = look_at_state(look, WEIR_SCRIPT_drop, dedups, handle->dedup, key);
    return looked->state == WEIR_REDIS_LOOK_TOLD && looked->numbers[0] != 0;
}
