-- One replica's report on the bucket of one rate and its wish: quota.Store.Take.
-- KEYS: the bucket. ARGV: as Store.Take sends it, in microseconds.
-- The bucket is a hash: tat, when it is full, and t:<replica>
-- "taken returned seq time of its last call".
local bucket = KEYS[1]
local me, seq = 't:' .. ARGV[1], tonumber(ARGV[2])
local seen, returned, want, need, capacity = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local most, day = 9007199254740991, 86400000000

local function text(n) return string.format('%.0f', n) end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local h = redis.call('HMGET', bucket, 'tat', me)
local tat = math.max(tonumber(h[1] or 0), now)
local t, u, q = seen, returned, 0
if h[2] then
  t, u, q = string.match(h[2], '^(%d+) (%d+) (%d+) ')
  t, u, q = tonumber(t), tonumber(u), tonumber(q)
end

local wait = 0
if seq >= q then
  -- What is taken already is debt. Of what flowed back nothing is refunded.
  if seen > t then t, tat = seen, tat + seen - t end
  if returned > u then u, tat = returned, math.max(now, tat - (returned - u)) end
  if seq > q then
    q = seq
    -- More than the bucket holds can be had once it is full.
    if need > 0 then wait = math.max(0, tat - now - math.max(0, capacity - need)) end
    if wait == 0 then
      local n = math.max(need, math.min(want, capacity - (tat - now)))
      t, tat = t + n, tat + n
    end
  end
  if tat > most or t > most then return redis.error_reply('ERR the amounts of a rate pass 2^53') end
  redis.call('HSET', bucket, 'tat', text(tat), me, table.concat({text(t), text(u), text(q), text(now)}, ' '))
  redis.call('PEXPIRE', bucket, text(math.ceil((tat - now) / 1000) + 600000))
  if h[1] and not h[2] then -- a new one: who has not been here for a day is gone
    local all = redis.call('HGETALL', bucket)
    for i = 1, #all, 2 do
      if all[i] ~= 'tat' and tonumber(string.match(all[i + 1], '%d+$')) < now - day then redis.call('HDEL', bucket, all[i]) end
    end
  end
end
return {text(q), text(t), text(tat - now), text(wait)}
