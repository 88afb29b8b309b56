-- Takes a slice of a limit ahead, for one sidecar to decide by itself, and gives back what is left of its last one.
-- KEYS[1]. ARGV: kind b|s, id (the sidecar's), want, back, p1, p2, p3 (as for decide), hold_us, keep, ends_us (missing: 0, 0)
--   hold_us  how long the slice may be used, from when this was sent; s: far less than the window
--   back     units of the last slice that are not used and will not be; keep: not used, and still held: they go over to this slice.
--            The rest of it counts as used. Once: of a slice whose `back` may have been taken, 0 is given back
--   ends_us  of the last slice (s: where its units are counted; b does not need it)
-- granted (`keep` and what is new; less than `keep`: it has ended before), now_us, remaining, reset_us (-1: nobody knows),
-- retry_us (until there is a unit again; 0: there is, or nobody knows; -1: never), ends_us
-- b  used + units of living slices <= burst, and a slice's units do not fill up before it ends: in any interval w at most burst + rate * w
--    are used, whenever within their slices. A slice that is not heard of again counts as used when it ends.
-- s  units are counted in the slot of when the slice ends: until a window after the last of them may have been used.
local call, floor, ceil, min, max = redis.call, math.floor, math.ceil, math.min, math.max
local time = call('TIME')
local now = time[1] * 1000000 + time[2]

--@ part_bucket

--@ part_slots

local key, kind, id = KEYS[1], ARGV[1], ARGV[2]
local want, back, p1, p2, p3 = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local hold, keep, ended = tonumber(ARGV[8]), tonumber(ARGV[9] or 0), tonumber(ARGV[10] or 0)
local ends = now + hold

-- Of the last slice: what is kept.
local function close_slice(b)
    for i, slice in ipairs(b.slices) do
        if slice.id == id then
            table.remove(b.slices, i)
            b.out = b.out - slice.units
            local kept = min(keep, slice.units)
            local spent = slice.units - kept - back
            if spent > 0 then
                use(b, spent)
            end
            return kept
        end
    end
    return 0
end

local function of_bucket()
    local b = read_bucket(key, now, p1, p2)
    b.count, b.period = p1, p2
    read_slices(b)
    local kept = close_slice(b)
    local room = p3 - b.out - kept - b.used - (b.parts > 0 and 1 or 0)
    local granted = kept + (p1 > 0 and max(min(want, room), 0) or 0)
    ends = max(b.at, now) + hold
    if granted > 0 then
        b.slices[#b.slices + 1] = {ends = ends, units = granted, id = id}
        b.out = b.out + granted
    end
    write_bucket(key, b, now)
    if p1 == 0 then
        return granted, now, 0, -1, -1, ends
    end
    local ahead, reset, retry = max(b.at - now, 0), 0, 0
    if b.used + b.parts + b.out > 0 then
        reset = ahead + us_to_fill(p1, p2, b.used + b.out, b.parts)
    end
    local over = b.used - max(p3 - b.out - 1, 0)
    if over > 0 or (over == 0 and b.parts > 0) then
        retry = ahead + us_to_fill(p1, p2, over, b.parts)
    end
    return granted, now, max(p3 - b.out - b.used - (b.parts > 0 and 1 or 0), 0), reset, retry, ends
end

local function of_window()
    local w = read_window(key, now, p2)
    local there = take_out(w, slot_at(ended, p2), keep + back)
    local kept = min(keep, there)
    local granted = kept + max(min(want, p1 - w.total - kept), 0)
    if granted > 0 then
        count_in(w, slot_at(ends, p2), granted)
    end
    write_window(key, w, now, p2)
    local reset, retry = 0, 0
    if #w > 0 then
        reset = forgotten_at(w[#w - 1], p2) - now
    end
    local over, i = w.total - p1 + 1, -1
    while over > 0 do
        i = i + 2
        over = over - w[i + 1]
        retry = forgotten_at(w[i], p2) - now
    end
    return granted, now, max(p1 - w.total, 0), reset, retry, ends
end

return {(kind == 'b' and of_bucket or of_window)()}
