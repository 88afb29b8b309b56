-- A window as a log: a sorted set of cost:id by when it was charged; `t`, below all of them, has the sum of their costs as its score,
-- negative.
local function read_log(key, now, window, is_peek)
    local total, passed = -(tonumber(call('ZSCORE', key, 't') or 0)), 0
    local past = call('ZRANGEBYSCORE', key, 1, '(' .. format('%.0f', now - window))
    if #past == 0 then
        return total
    end
    for i = 1, #past do
        passed = passed + tonumber(past[i]:match('^%d+'))
    end
    if not is_peek then
        call('ZREMRANGEBYSCORE', key, 1, '(' .. format('%.0f', now - window))
        call('ZADD', key, passed - total, 't')
    end
    return total - passed
end
