-- It still runs. A key that is gone (FLUSHALL, its lease ended) and is nobody else's is this owner's again.
-- KEYS: state. ARGV: owner, fingerprint, lease_ms
-- 1: it goes on; 2: it was forgotten by hand, and goes on without a lease; 0: it is another one's, or done
local state, owner, forgotten = unpack(redis.call('HMGET', KEYS[1], 's', 'o', 'p'))
if not state then
    redis.call('HSET', KEYS[1], 's', 'i', 'o', ARGV[1], 'f', ARGV[2])
elseif state ~= 'i' or owner ~= ARGV[1] then
    return forgotten and string.find(forgotten, ' ' .. ARGV[1] .. ' ', 1, true) and 2 or 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
