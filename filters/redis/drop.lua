-- By hand: a finished key is forgotten; what is in flight goes on, is in nobody's way, and its end is not remembered. Its owner stands
-- among those that were forgotten (p) as long as the key is there.
-- KEYS: state, answer. 1 | 0: there was none
local state, owner, forgotten = unpack(redis.call('HMGET', KEYS[1], 's', 'o', 'p'))
if not state or (state == 'i' and owner == '') then
    return 0
end
if state == 'i' then
    redis.call('HSET', KEYS[1], 'o', '', 'p', (forgotten or ' ') .. owner .. ' ')
else
    redis.call('UNLINK', KEYS[1], KEYS[2])
end
return 1
