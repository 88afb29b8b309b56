-- A 429 pauses an upstream, model and credential for the fleet: the pause that ends last holds.
-- KEYS pauses: member -> its end
-- ARGV member, ms
-- Reply: ms that are left of it
local pauses, member = KEYS[1], ARGV[1]
local PAUSES_MAX = 1024
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = math.max(now + tonumber(ARGV[2]), tonumber(redis.call('ZSCORE', pauses, member) or 0))

redis.call('ZREMRANGEBYSCORE', pauses, '-inf', now)
if ends > now then
    redis.call('ZADD', pauses, ends, member)
    redis.call('ZREMRANGEBYRANK', pauses, 0, -PAUSES_MAX - 1)
    redis.call('PEXPIREAT', pauses, redis.call('ZREVRANGE', pauses, 0, 0, 'WITHSCORES')[2])
end
return ends - now
