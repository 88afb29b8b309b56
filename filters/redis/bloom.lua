-- exact: false. Two Bloom filters, each filled for one whole window and then asked for another one, as
-- filters/core/bloom_pair.h has them: they take turns, and each is gone before its next one.
-- KEYS: that of even windows, that of odd ones. ARGV: window_ms, offsets of the key's bits. 1: seen; 0: new, and known now
local time, window = redis.call('TIME'), tonumber(ARGV[1])
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number = math.floor(now / window)
local filled, former = KEYS[number % 2 + 1], KEYS[(number + 1) % 2 + 1]

local function has(filter)
    for i = 2, #ARGV do
        if redis.call('GETBIT', filter, ARGV[i]) == 0 then
            return false
        end
    end
    return true
end

if has(former) or has(filled) then
    return 1
end
local left = redis.call('PTTL', filled)
if left >= 0 and left < window / 2 then -- that of the last turn, whose end and this script met
    redis.call('UNLINK', filled)
end
for i = 2, #ARGV do
    redis.call('SETBIT', filled, ARGV[i], 1)
end
redis.call('PEXPIREAT', filled, (number + 2) * window - 1)
return 0
