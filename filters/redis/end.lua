-- The end of what was told to run: its owner's alone. What is gone and was done or is unknown is written all the same.
-- KEYS: state, answer. ARGV: owner, fingerprint, how (done | free | unknown), window_ms, keep_ms, answer ("": none)
-- 1 | 0: it was another one's, done, forgotten by hand, or (free) there was nothing
local state, owner = unpack(redis.call('HMGET', KEYS[1], 's', 'o'))
if state and (state ~= 'i' or owner ~= ARGV[1]) then
    return 0
end
if ARGV[3] == 'free' then
    return redis.call('UNLINK', KEYS[1])
end
redis.call('HSET', KEYS[1], 's', ARGV[3] == 'done' and 'd' or 'u', 'o', '', 'f', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if ARGV[6] ~= '' then
    redis.call('SET', KEYS[2], ARGV[6], 'PX', ARGV[5])
else
    redis.call('UNLINK', KEYS[2])
end
return 1
