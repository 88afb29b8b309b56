-- A key of limits gets a fresh start. KEYS: of kinds b, s and x; slots in use (c) end with their requests. How many there were.
return redis.call('UNLINK', unpack(KEYS))
