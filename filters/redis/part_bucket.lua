-- What is used of it, in tokens and DAYths of one; whole numbers, so nothing drifts. Kept as 'b' and doubles: at, used, parts, rate (count,
-- period), out (tokens in living slices), when the first and the last of these end, how many minima; then these (at, used, parts: so little
-- was used at that time, before what came then, and ever since) and the slices (end, units, id). It fills up at the rate of who asked last,
-- and not while time goes back. Units of a slice count as used when it ends.
local DAY, MOST, MINIMA = 86400000000, 9007199254740991, 32

-- x * y / z and what is left of it, where x * y may be over 2^53: x, z < 2^37, y < 2^31.
local function share(x, y, z)
    if x * y < MOST then
        local q = floor(x * y / z)
        return q, x * y - q * z
    end
    local high = floor(y / 32768)
    local q = floor(x * high / z)
    local rest = (x * high - q * z) * 32768 + x * (y - high * 32768)
    local more = floor(rest / z)
    return q * 32768 + more, rest - more * z
end

local function pass_time(b, to)
    local us = to - b.at
    if us <= 0 then
        return
    end
    b.at = to
    if b.count == 0 or (b.used == 0 and b.parts == 0) then
        return
    end
    local periods = floor(us / b.period)
    local tokens, rest = share(us - periods * b.period, b.count, b.period)
    b.used = b.used - periods * b.count - tokens
    b.parts = b.parts - floor(rest * (DAY / b.period))
    if b.parts < 0 then
        b.used, b.parts = b.used - 1, b.parts + DAY
    end
    if b.used < 0 then
        b.used, b.parts = 0, 0
    end
end

-- Of two neighbours that differ least: the later time, the smaller use.
local function join_minima(m)
    local best, least
    for i = 1, #m - 3, 3 do
        local gap = m[i + 4] - m[i + 1]
        if not least or gap < least then
            best, least = i, gap
        end
    end
    m[best] = table.remove(m, best + 3)
    table.remove(m, best + 3)
    table.remove(m, best + 3)
end

local function use(b, units)
    local m = b.minima
    local n = #m
    while n > 0 and (m[n - 1] > b.used or (m[n - 1] == b.used and m[n] >= b.parts)) do
        m[n], m[n - 1], m[n - 2] = nil, nil, nil
        n = n - 3
    end
    if n == 0 or m[n - 2] < b.at then
        m[n + 1], m[n + 2], m[n + 3] = b.at, b.used, b.parts
        if n == 3 * MINIMA then
            join_minima(m)
        end
    end
    b.used = min(b.used + units, MOST)
end

local function end_slices(b, now)
    local ended = {}
    for i = #b.slices, 1, -1 do
        if b.slices[i].ends <= now then
            ended[#ended + 1] = table.remove(b.slices, i)
        end
    end
    table.sort(ended, function(x, y) return x.ends < y.ends end)
    for _, slice in ipairs(ended) do
        pass_time(b, slice.ends)
        b.out = b.out - slice.units
        use(b, slice.units)
    end
end

local function read_slices(b)
    local at = 1
    b.slices = b.slices or {}
    while at <= #b.tail do
        local slice = {}
        slice.ends, slice.units, slice.id, at = struct.unpack('<ddBc0', b.tail, at)
        b.slices[#b.slices + 1] = slice
    end
    b.tail = ''
end

local function write_slices(b)
    local texts = {}
    b.first, b.last = MOST, 0
    for i, slice in ipairs(b.slices) do
        texts[i] = struct.pack('<ddBc0', slice.ends, slice.units, #slice.id, slice.id)
        b.first, b.last = min(b.first, slice.ends), max(b.last, slice.ends)
    end
    b.tail = table.concat(texts)
end

local function read_bucket(key, now, count, period)
    local s = call('GET', key)
    if not s then
        return {at = now, used = 0, parts = 0, count = count, period = period, out = 0, first = MOST, last = 0, minima = {},
                tail = ''}
    end
    if s:byte() ~= 98 or #s < 73 then
        call('LLEN', key) -- somebody else's: WRONGTYPE
    end
    local b, n, at = {}, nil, nil
    b.at, b.used, b.parts, b.count, b.period, b.out, b.first, b.last, n, at = struct.unpack('<ddddddddd', s, 2)
    b.minima = {struct.unpack('<' .. ('d'):rep(3 * n), s, at)}
    b.tail, b.minima[3 * n + 1] = s:sub(b.minima[3 * n + 1]), nil
    if b.first <= now then
        read_slices(b)
        end_slices(b, now)
    end
    pass_time(b, now)
    return b
end

-- us until so much has filled up
local function us_to_fill(count, period, used, parts)
    local turns = floor(used / count)
    local us, rest = share(period, used - turns * count, count)
    return min(turns * period + us + ceil((rest + ceil(parts * period / DAY)) / count), MOST)
end

local function write_bucket(key, b, now)
    if b.used == 0 and b.parts == 0 and b.out == 0 then
        call('UNLINK', key)
        return
    end
    if b.slices then
        write_slices(b)
    end
    local m = b.minima
    local s = 'b' .. struct.pack('<' .. ('d'):rep(9 + #m), b.at, b.used, b.parts, b.count, b.period, b.out, b.first, b.last,
                                 #m / 3, unpack(m))
    local us = b.count == 0 and DAY or us_to_fill(b.count, b.period, b.used + b.out, b.parts)
    us = min(us + max(b.at, b.last) - now, MOST)
    call('SET', key, s .. b.tail, 'PX', ceil(us / 1000) + 1000)
end
