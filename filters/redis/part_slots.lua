-- A window in slots of a 60th, aligned to time 0: slot n counts until the window after its end is over, as in
-- filters/core/sliding_window.h. Kept as 's' and doubles: slot, count, slot, count ... ascending, none of 0; slices are counted ahead, in
-- slots that are yet to come.
local function slot_at(us, window)
    local periods = floor(us / window)
    return periods * 60 + floor((us - periods * window) * 60 / window)
end

-- The first us at which it no longer counts.
local function forgotten_at(slot, window)
    local periods = floor((slot + 61) / 60)
    return periods * window + ceil((slot + 61 - periods * 60) * window / 60)
end

local function read_window(key, now, window)
    local s = call('GET', key)
    if not s then
        return {total = 0}
    end
    if s:byte() ~= 115 or #s % 16 ~= 1 then
        call('LLEN', key) -- somebody else's: WRONGTYPE
    end
    local w, total, oldest, passed = {struct.unpack('<' .. ('d'):rep((#s - 1) / 8), s, 2)}, 0, slot_at(now, window) - 60, 0
    w[#w] = nil -- where that ended
    while w[passed + 1] and w[passed + 1] < oldest do
        passed = passed + 2
    end
    if passed > 0 then
        w = {unpack(w, passed + 1)}
    end
    for i = 2, #w, 2 do
        total = total + w[i]
    end
    w.total = total
    return w
end

-- The place of `slot` in it, and whether it is there.
local function find_slot(w, slot)
    local i = #w - 1
    while i > 0 and w[i] > slot do
        i = i - 2
    end
    return i, w[i] == slot
end

local function count_in(w, slot, units)
    local i, is_there = find_slot(w, slot)
    if is_there then
        w[i + 1] = min(w[i + 1] + units, MOST)
    else
        table.insert(w, i + 2, units)
        table.insert(w, i + 2, slot)
    end
    w.total = min(w.total + units, MOST)
end

-- Returns how much of `units` was there.
local function take_out(w, slot, units)
    local i, is_there = find_slot(w, slot)
    if not is_there then
        return 0
    end
    local taken = min(units, w[i + 1])
    w[i + 1] = w[i + 1] - taken
    if w[i + 1] == 0 then
        table.remove(w, i)
        table.remove(w, i)
    end
    w.total = w.total - taken
    return taken
end

local function write_window(key, w, now, window)
    if #w == 0 then
        call('UNLINK', key)
        return
    end
    local us = forgotten_at(w[#w - 1], window) - now
    call('SET', key, 's' .. struct.pack('<' .. ('d'):rep(#w), unpack(w)), 'PX', max(ceil(us / 1000), 0) + 2)
end
