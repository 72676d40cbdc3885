-- One replica's report on one account-window and its wish: quota.Store.Sync.
-- KEYS: the window, the shard's register. ARGV: as Store.Sync sends it.
-- The window is a hash: L limit, V its version, S settled, E escrowed, A how many
-- have escrow, and r:<replica> "granted returned spent seq closed".
local window, register = KEYS[1], KEYS[2]
local me, seq, known = 'r:' .. ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local seen, returned, spent = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local want, need, limit, version = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local mode, expire, keep, recall, detail, name = ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[13]), ARGV[14], ARGV[15] == '1', ARGV[16]
local folded, never, day = 'r:*folded', 9007199254740991, 86400000

local function text(n) return string.format('%.0f', n) end
local function read(v)
  local g, u, s, q, c = string.match(v or '0 0 0 0 0', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  return {g = tonumber(g), u = tonumber(u), s = tonumber(s), q = tonumber(q), c = tonumber(c)}
end
local function write(field, r)
  redis.call('HSET', window, field, table.concat({text(r.g), text(r.u), text(r.s), text(r.q), text(r.c)}, ' '))
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local h = redis.call('HMGET', window, 'L', 'V', 'S', 'E', 'A', me)
local L, V, S, E, A = tonumber(h[1] or 0), tonumber(h[2] or 0), tonumber(h[3] or 0), tonumber(h[4] or 0), tonumber(h[5] or 0)
local r = read(h[6])

-- Whole is a shard only on the server that it was last known whole on, and only
-- as long as nothing is missing that should be there.
local info = redis.pcall('INFO', 'replication')
local id = '@' .. (type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '?')
local lost = not redis.call('ZSCORE', register, id)
if known and not h[6] or not h[3] and tonumber(redis.call('ZSCORE', register, name) or 0) > now then
  redis.call('ZREM', register, id)
  lost = true
end

-- The sums follow each word on a replica.
local function set(o, g, u, s)
  local before, after = o.g - o.u - o.s, g - u - s
  S, E = S + s - o.s, E + after - before
  A = A + (after > 0 and 1 or 0) - (before > 0 and 1 or 0)
  o.g, o.u, o.s = g, u, s
end
local function adopt(o, g, u, s)
  u, s = math.max(o.u, u), math.max(o.s, s)
  set(o, math.max(o.g, g, u + s), u, s)
end

-- Who closed the window by that time is in one sum with all others that did.
local sum = {c = 0}
local function fold(upto)
  sum = read(redis.call('HGET', window, folded))
  local all, more = redis.call('HGETALL', window), false
  for i = 1, #all, 2 do
    local o = string.sub(all[i], 1, 2) == 'r:' and all[i] ~= folded and all[i] ~= me and read(all[i + 1])
    if o and o.c > 0 and o.c <= upto and o.g == o.u + o.s then
      sum.g, sum.s, sum.c, more = sum.g + o.s, sum.s + o.s, math.max(sum.c, upto), true
      redis.call('HDEL', window, all[i])
    end
  end
  if more then write(folded, sum) end
end

if seq >= r.q then
  if version > V then L, V = limit, version end
  adopt(r, seen, returned, spent)

  if h[3] and (not h[6] or #ARGV > 16) then fold(now - day) end
  local words = {[me] = r}
  for i = 17, #ARGV, 5 do
    local field, closed = 'r:' .. ARGV[i], tonumber(ARGV[i + 4])
    if field == folded and closed > sum.c then fold(closed) end
    local o = words[field] or field == folded and sum or read(redis.call('HGET', window, field))
    -- What is in the sum is not there a second time.
    if field == folded or field == me or o.g > 0 or closed == 0 or closed > sum.c then
      adopt(o, tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
      o.c = math.max(o.c, closed)
      words[field] = o
    end
  end

  if seq > r.q then
    r.q, r.c = seq, 0
    if mode == '1' then
      set(r, r.g, r.g - r.s, r.s)
      r.c = now
    elseif mode == '0' and not lost then
      local grant = math.min(want, L - S - E)
      if grant > 0 and grant >= need then set(r, r.g + grant, r.u, r.s) end
    end
  end
  if S + E > never or r.g > never then return redis.error_reply('ERR the amounts of an account-window pass 2^53') end

  for field, o in pairs(words) do write(field, o) end
  redis.call('HSET', window, 'L', text(L), 'V', text(V), 'S', text(S), 'E', text(E), 'A', text(A))

  -- It may be forgotten when the caller's clock says so and the time that it had
  -- left has passed, too. A minute more spares most calls this.
  local ttl = redis.call('PTTL', window)
  if expire == 0 then
    if ttl ~= -1 then redis.call('PERSIST', window) end
    if ttl ~= -1 or not h[3] or lost then redis.call('ZADD', register, text(never), name) end
  else
    local left = math.max(expire - now, keep, 0)
    if not h[3] or ttl ~= -1 and (ttl < left or lost) then
      left = math.max(left, ttl)
      redis.call('PEXPIRE', window, text(left + 60000))
      redis.call('ZADD', register, text(now + left), name)
    end
  end
end

if recall ~= '' and not lost and need > 0 and r.g - seen < need and E > r.g - r.u - r.s then
  redis.call('PUBLISH', 'airgate:q:recall', recall)
end
local answer = {text(r.q), text(r.g), text(r.s), text(S), text(E), text(L), text(V), text(A), lost and '1' or '0'}
if detail then
  local all = redis.call('HGETALL', window)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'r:' and all[i] ~= me then
      local o = read(all[i + 1])
      for _, v in ipairs({string.sub(all[i], 3), text(o.g), text(o.u), text(o.s), text(o.c)}) do answer[#answer + 1] = v end
    end
  end
end
return answer
