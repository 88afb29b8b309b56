-- A sidecar lives, and hears who else does and what is paused.
-- KEYS alive: sidecar -> until when it counts; pauses: member -> its end; lifted: upstream and time -> until when all hear of it
-- ARGV sidecar, alive_ms (0: it leaves), then the upstreams of which all pauses are lifted
-- Reply: sidecars alive, whether this one was among them before (1 or 0), {lifted ...}, {member, left_ms, its end ...}: of pauses
-- those that end last
local alive, pauses, lifted = KEYS[1], KEYS[2], KEYS[3]
local PAUSES_TOLD, LIFTED_MAX, HEARD_BY_ALL_MS, UPSTREAM_LEN = 128, 128, 10000, 16
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function expire_with_last(key)
    local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')
    if last[2] then
        redis.call('PEXPIREAT', key, last[2])
    end
end

-- Returns whether it was alive, 1 or 0.
local function beat(sidecar, alive_ms)
    redis.call('ZREMRANGEBYSCORE', alive, '-inf', now)
    if alive_ms == 0 then
        return redis.call('ZREM', alive, sidecar)
    end
    local is_new = redis.call('ZADD', alive, now + alive_ms, sidecar)
    expire_with_last(alive)
    return 1 - is_new
end

-- Removes what is of the upstream; the end of the last of it.
local function remove(key, upstream)
    local latest = 0
    local rows = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')
    for i = 1, #rows, 2 do
        if string.sub(rows[i], 1, UPSTREAM_LEN) == upstream then
            redis.call('ZREM', key, rows[i])
            latest = math.max(latest, tonumber(rows[i + 1]))
        end
    end
    return latest
end

-- A sidecar that Redis has not heard from for a moment hears of it as long as it could still be paused.
local function lift(upstream)
    local until_ms = math.max(remove(pauses, upstream), now + HEARD_BY_ALL_MS)
    remove(lifted, upstream)
    redis.call('ZADD', lifted, until_ms, upstream .. ':' .. time[1] .. ':' .. time[2])
    redis.call('ZREMRANGEBYRANK', lifted, 0, -LIFTED_MAX - 1)
    expire_with_last(lifted)
end

local function running()
    local told = {}
    local rows = redis.call('ZREVRANGEBYSCORE', pauses, '+inf', '(' .. string.format('%.0f', now), 'WITHSCORES',
        'LIMIT', 0, PAUSES_TOLD)
    for i = 1, #rows, 2 do
        local ends = tonumber(rows[i + 1])
        told[#told + 1] = rows[i]
        told[#told + 1] = ends - now
        told[#told + 1] = ends
    end
    return told
end

local was_alive = beat(ARGV[1], tonumber(ARGV[2]))
for i = 3, #ARGV do
    lift(ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', lifted, '-inf', now)
return {redis.call('ZCARD', alive), was_alive, redis.call('ZRANGE', lifted, 0, -1), running()}
