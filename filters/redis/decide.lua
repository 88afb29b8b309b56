-- Several limits in one decision, all or nothing: each that is not in shadow admits and is charged, or none is.
-- KEYS: one per item, each once. ARGV: "1" charge | "0" peek; then 7 per item:
--   kind, cost, shadow 0|1, p1, p2, p3, id
--   b  token bucket      p1 count, p2 period_us (a whole fraction of a day; the rate is count per period, 0: refuses all), p3 burst
--   s  window in slots   p1 limit, p2 window_us
--   x  window, exact     p1 limit, p2 window_us              id: of this charge, nobody else's
--   c  concurrency       p1 limit, p2 lease_us, cost 0 or 1  id: of this slot
-- admitted 0|1, now_us (when it was charged, for settle); then 4 per item:
--   fits 0|1, remaining (after this decision), reset_us (-1: nobody knows), retry_us (0: fits, or nobody knows; -1: never)
-- A cost of 0 fits, but where the rate is 0. p1 below 2^30, periods and windows below 2^45, costs to 2^53.
local call, floor, ceil, min, max, format = redis.call, math.floor, math.ceil, math.min, math.max, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

--@ part_bucket

--@ part_slots

--@ part_log

-- What each kind does: `read` finds out whether it fits, `charge` takes the cost, `tell` returns remaining, reset_us, retry_us.
local bucket, window, log, slots = {}, {}, {}, {}
local kinds = {b = bucket, s = window, x = log, c = slots}
local is_peek = ARGV[1] ~= '1'

function bucket.read(item)
    local b = read_bucket(item.key, now, item.p1, item.p2)
    item.state, item.is_other_rate = b, b.count ~= item.p1 or b.period ~= item.p2
    b.count, b.period = item.p1, item.p2
    item.room = item.p3 - b.out - item.cost -- what may be used for it to fit
    return item.p1 > 0 and (item.cost == 0 or (b.used + (b.parts > 0 and 1 or 0) <= item.room))
end

function bucket.charge(item)
    use(item.state, item.cost)
    write_bucket(item.key, item.state, now)
end

-- Refused, what filled up until now did so at the rate of before.
function bucket.leave(item)
    local b = item.state
    if item.is_other_rate and (b.used > 0 or b.parts > 0 or b.out > 0) then
        write_bucket(item.key, b, now)
    end
end

function bucket.tell(item)
    local b = item.state
    if item.p1 == 0 then
        return 0, -1, -1
    end
    local ahead, reset, retry = max(b.at - now, 0), 0, 0
    if b.used > 0 or b.parts > 0 or b.out > 0 then
        reset = ahead + us_to_fill(item.p1, item.p2, b.used + b.out, b.parts)
    end
    if not item.fits then
        local over = b.used - max(item.room, 0)
        if item.cost > item.p3 then
            retry = -1
        elseif over > 0 or (over == 0 and b.parts > 0) then
            retry = ahead + us_to_fill(item.p1, item.p2, over, b.parts)
        end
    end
    return max(item.p3 - b.out - b.used - (b.parts > 0 and 1 or 0), 0), reset, retry
end

function window.read(item)
    item.state = read_window(item.key, now, item.p2)
    return item.cost == 0 or item.cost <= item.p1 - item.state.total
end

function window.charge(item)
    count_in(item.state, slot_at(now, item.p2), item.cost)
    write_window(item.key, item.state, now, item.p2)
end

function window.tell(item)
    local w, reset, retry = item.state, 0, 0
    if #w > 0 then
        reset = forgotten_at(w[#w - 1], item.p2) - now
    end
    if not item.fits and item.cost > item.p1 then
        retry = -1
    elseif not item.fits then
        local over, i = w.total - (item.p1 - item.cost), -1
        while over > 0 do
            i = i + 2
            over = over - w[i + 1]
        end
        retry = forgotten_at(w[i], item.p2) - now
    end
    return max(item.p1 - w.total, 0), reset, retry
end

function log.read(item)
    item.total = read_log(item.key, now, item.p2, is_peek)
    return item.cost == 0 or item.cost <= item.p1 - item.total
end

function log.charge(item)
    item.total = min(item.total + item.cost, MOST)
    call('ZADD', item.key, -item.total, 't', now, item.cost_text .. ':' .. item.id)
    call('PEXPIRE', item.key, ceil(item.p2 / 1000) + 2)
end

-- The first us at which the oldest that come to `over` no longer count.
local function log_passes_at(item, over)
    local since, from, some = format('%.0f', max(now - item.p2, 1)), 0, 16
    while true do
        local oldest = call('ZRANGEBYSCORE', item.key, since, '+inf', 'WITHSCORES', 'LIMIT', from, some)
        for i = 1, #oldest, 2 do
            over = over - tonumber(oldest[i]:match('^%d+'))
            if over <= 0 then
                return oldest[i + 1] + item.p2 + 1
            end
        end
        if #oldest == 0 then
            return now
        end
        from, some = from + some, 256
    end
end

function log.tell(item)
    local reset, retry = 0, 0
    if item.total > 0 then
        reset = call('ZREVRANGE', item.key, 0, 0, 'WITHSCORES')[2] + item.p2 + 1 - now
    end
    if not item.fits then
        retry = item.cost > item.p1 and -1 or log_passes_at(item, item.total - (item.p1 - item.cost)) - now
    end
    return max(item.p1 - item.total, 0), reset, retry
end

function slots.read(item)
    item.used = call('ZCOUNT', item.key, '(' .. format('%.0f', now), '+inf')
    return item.cost == 0 or item.cost <= item.p1 - item.used
end

function slots.charge(item)
    item.used = item.used + 1
    call('ZREMRANGEBYSCORE', item.key, '-inf', now)
    call('ZADD', item.key, now + item.p2, item.id)
    call('PEXPIRE', item.key, ceil(item.p2 / 1000) + 2)
end

function slots.tell(item)
    return max(item.p1 - item.used, 0), -1, 0
end

local items, admitted = {}, 1
for i = 1, #KEYS do
    local a = 7 * i - 5
    local item = {
        key = KEYS[i], kind = kinds[ARGV[a]], cost = tonumber(ARGV[a + 1]), cost_text = ARGV[a + 1], shadow = ARGV[a + 2] == '1',
        p1 = tonumber(ARGV[a + 3]), p2 = tonumber(ARGV[a + 4]), p3 = tonumber(ARGV[a + 5]), id = ARGV[a + 6]
    }
    item.fits = item.kind.read(item)
    if not item.fits and not item.shadow then
        admitted = 0
    end
    items[i] = item
end

local reply, n = {admitted, now}, 2
for _, item in ipairs(items) do
    if not is_peek and admitted == 1 and item.fits and item.cost > 0 then
        item.kind.charge(item)
    elseif not is_peek and item.kind.leave then
        item.kind.leave(item)
    end
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = item.fits and 1 or 0, item.kind.tell(item)
    n = n + 4
end
return reply
