-- Asks to run a dedup key: what filters/core/claim.h calls ask. A lease's end is the key's expiry.
-- KEYS: state, answer. ARGV: owner, fingerprint ("0": none), lease_ms, bytes of an answer at most (0: it is not wanted), compares 0|1
-- {"run"} | {"flight", owner, pttl_ms} | {"done", answer or nil} | {"unknown"} | {"other"}
local state, owner, fingerprint = unpack(redis.call('HMGET', KEYS[1], 's', 'o', 'f'))
local is_forgotten = state == 'i' and owner == ''
if state and not is_forgotten and ARGV[5] == '1' and ARGV[2] ~= '0' and fingerprint ~= '0' and fingerprint ~= ARGV[2] then
    return {'other'}
end
if not state or is_forgotten or (state == 'i' and owner == ARGV[1]) then
    redis.call('HSET', KEYS[1], 's', 'i', 'o', ARGV[1], 'f', ARGV[2])
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return {'run'}
end
if state == 'i' then
    return {'flight', owner, redis.call('PTTL', KEYS[1])}
end
if state == 'u' then
    return {'unknown'}
end
return {'done', redis.call('STRLEN', KEYS[2]) <= tonumber(ARGV[4]) and redis.call('GET', KEYS[2])}
