-- Slots in use stay so: each ends a lease from now. One that was given up meanwhile is there again, beyond the limit if need be.
-- KEYS: the limit's. ARGV: lease_us, member... How many had been given up.
local time = redis.call('TIME')
local ends = time[1] * 1000000 + time[2] + ARGV[1]
local added = 0
for i = 2, #ARGV do
    added = added + redis.call('ZADD', KEYS[1], ends, ARGV[i])
end
if #ARGV > 1 then
    redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] / 1000) + 2)
end
return added
