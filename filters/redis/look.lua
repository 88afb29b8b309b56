-- What claim, or bloom, would find; nothing changes.
-- KEYS: state, answer. Or, with ARGV: the two filters, and offsets of the key's bits in them
-- {"free"} | {"flight"} | {"done", 1: its answer is kept} | {"unknown"}
local function has(filter)
    for i = 1, #ARGV do
        if redis.call('GETBIT', filter, ARGV[i]) == 0 then
            return false
        end
    end
    return true
end

if #ARGV > 0 then
    return {(has(KEYS[1]) or has(KEYS[2])) and 'done' or 'free', 0}
end
local state, owner = unpack(redis.call('HMGET', KEYS[1], 's', 'o'))
if not state or (state == 'i' and owner == '') then
    return {'free'}
end
if state == 'd' then
    return {'done', redis.call('EXISTS', KEYS[2])}
end
return {state == 'i' and 'flight' or 'unknown'}
