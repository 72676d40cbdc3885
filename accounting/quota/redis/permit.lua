-- One replica's report on a concurrency limit and its wish: quota.Store.Permit.
-- KEYS: the permits. ARGV: as Store.Permit sends it.
-- The permits are a hash: replica -> "permits seq microsecond in which they expire".
local permits, me, seq = KEYS[1], ARGV[1], tonumber(ARGV[2])
local inUse, want, limit, ttl, recall = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
local hour = 3600000000

local function text(n) return string.format('%.0f', n) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local all, others, mine, q = redis.call('HGETALL', permits), 0, 0, 0
for i = 1, #all, 2 do
  local n, s, expire = string.match(all[i + 1], '^(%d+) (%d+) (%d+)$')
  if all[i] == me then
    mine, q = tonumber(n), tonumber(s)
  elseif tonumber(expire) > now then
    others = others + tonumber(n)
  elseif tonumber(expire) < now - hour then
    redis.call('HDEL', permits, all[i])
  end
end
if seq > q then
  q, mine = seq, math.max(inUse, math.min(want, limit - others))
  redis.call('HSET', permits, me, table.concat({text(mine), text(q), text(now + ttl)}, ' '))
  local left = math.ceil((ttl + hour) / 1000)
  if redis.call('PTTL', permits) < left then redis.call('PEXPIRE', permits, text(left)) end
end
if recall ~= '' and mine < want and others > 0 then redis.call('PUBLISH', 'airgate:q:recall', recall) end
return {text(q), text(mine), text(others)}
