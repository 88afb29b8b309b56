-- The end of what was charged: gives back what was not spent, as if it had never been charged, or charges what was spent beyond - there or
-- not: what is not there is a debt. Gives nothing back that has filled up or passed by itself since.
-- KEYS: one per item. ARGV: 7 per item:
--   kind, give (cost - spent; below 0: charges as much more), charged_us (decide's now_us), p1, p2, p3, id (as decide was asked)
--   b  more is charged now             s  more is charged when the cost was, or now if that has passed
--   x  the same; whole costs are found by `id` alone                       c  the slot ends, whatever `give` is
-- 1
local call, floor, ceil, min, max, format = redis.call, math.floor, math.ceil, math.min, math.max, string.format
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

--@ part_bucket

--@ part_slots

--@ part_log

-- As if `units` had not been used at `since`: what of them has filled up meanwhile is what use was below them by. So whoever was in
-- between has what he would have had, and no sequence of charges and refunds comes to more than the limit.
local function give_back(b, units, since)
    local m, used, parts, after = b.minima, b.used, b.parts, 1
    while after <= #m and m[after] <= since do
        after = after + 3
    end
    if m[after] and (m[after + 1] < used or (m[after + 1] == used and m[after + 2] < parts)) then
        used, parts = m[after + 1], m[after + 2]
    end
    if used >= units then
        used, parts = units, 0
    end
    local function less(u, p)
        u, p = u - used, p - parts
        if p < 0 then
            u, p = u - 1, p + DAY
        end
        return max(u, 0), u < 0 and 0 or p
    end
    b.used, b.parts = less(b.used, b.parts)
    local least, least_parts = b.used, b.parts
    for i = #m - 2, 1, -3 do
        if i >= after then
            m[i + 1], m[i + 2] = less(m[i + 1], m[i + 2])
        end
        if m[i + 1] > least or (m[i + 1] == least and m[i + 2] > least_parts) then
            m[i + 1], m[i + 2] = least, least_parts
        end
        least, least_parts = m[i + 1], m[i + 2]
    end
end

local kinds = {}

function kinds.b(key, give, since, count, period)
    local b = read_bucket(key, now, count, period)
    if give > 0 then
        give_back(b, give, since)
    elseif give < 0 then
        use(b, -give)
    end
    write_bucket(key, b, now)
end

function kinds.s(key, give, since, limit, window)
    local w, slot, present = read_window(key, now, window), slot_at(since, window), slot_at(now, window)
    if give > 0 then
        take_out(w, slot, give)
    elseif give < 0 then
        count_in(w, slot >= present - 60 and slot <= present and slot or present, -give)
    end
    write_window(key, w, now, window)
end

-- The member, and its cost.
local function find_charge(key, since, id)
    for _, member in ipairs(call('ZRANGEBYSCORE', key, since, since)) do
        local cost, its_id = member:match('^(%d+):(.*)$')
        if its_id == id then
            return member, tonumber(cost)
        end
    end
    return nil, 0
end

function kinds.x(key, give, since, limit, window, id)
    local total = read_log(key, now, window)
    local whole = format('%.0f:%s', give, id)
    if give > 0 and call('ZREM', key, whole) == 1 then
        call('ZADD', key, give - total, 't')
        return
    end
    local member, cost = find_charge(key, since, id)
    if give == 0 or (give > 0 and not member) then
        return
    end
    local left = min(max(cost - give, 0), MOST)
    if member then
        call('ZREM', key, member)
    end
    if left > 0 then
        call('ZADD', key, member and since or now, format('%.0f:%s', left, id))
    end
    call('ZADD', key, max(cost - left - total, -MOST), 't')
    call('PEXPIRE', key, ceil(window / 1000) + 2)
end

function kinds.c(key, give, since, limit, lease, id)
    call('ZREM', key, id)
end

for i = 1, #KEYS do
    local a = 7 * i - 6
    kinds[ARGV[a]](KEYS[i], tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2]), tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4]),
                   ARGV[a + 6])
end
return 1
