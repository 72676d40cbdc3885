-- A replica that has ended gives back what it did not spend: quota.Store.Leave.
-- KEYS: a window. ARGV: the replica, the last seq.
local me = 'r:' .. ARGV[1]
local h = redis.call('HMGET', KEYS[1], 'E', 'A', me)
if not h[3] then return 0 end
local g, u, s = string.match(h[3], '^(%d+) (%d+) (%d+) ')
g, u, s = tonumber(g), tonumber(u), tonumber(s)
local idle = g - u - s
local function text(n) return string.format('%.0f', n) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'E', text(tonumber(h[1]) - idle), 'A', text(tonumber(h[2]) - (idle > 0 and 1 or 0)),
  me, table.concat({text(g), text(g - s), text(s), ARGV[2], text(now)}, ' '))
return 1
