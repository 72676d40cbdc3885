-- One replica lives, and hears whether the shard is whole. If it is not, it is
-- learned anew: from now until all who may have a part of it have told it, or
-- are gone.
-- KEYS: the shard's register, fleet, learning, silent and left. ARGV: replica, whether to
-- list the fleet; in milliseconds: how long to wait for who has not joined yet, for
-- who does not live any more, and when those are forgotten.
-- The register is a sorted set: each window of the shard -> when it expires, and
-- @<replication id of the server on which the shard was last whole> -> 0.
-- The fleet is a hash: replica -> when it last lived. So is the silent, of those that
-- the fleet has forgotten: for who asks what became of one that does not come back.
-- The learning is a hash: id, began, m:<replica that somebody remembers>,
-- d:<replica that has told all>.
local register, fleet, learning, silent, left = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local me, list, join, gone, forget = ARGV[1], ARGV[2] == '1', tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- Who was left for does not count as one that lives.
if redis.call('ZSCORE', left, me) then return {'0', '', {}, {}, '1'} end

local function text(n) return string.format('%.0f', n) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local info = redis.pcall('INFO', 'replication')
local id = '@' .. (type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '?')

redis.call('HSET', fleet, me, text(now))
redis.call('ZREMRANGEBYSCORE', register, '1', text(now))
local whole, began, missing, members = redis.call('ZSCORE', register, id), '', {}, {}
if not whole then
  local l = redis.call('HMGET', learning, 'id', 'began')
  if l[1] ~= id then
    redis.call('DEL', learning)
    l = {id, text(now)}
    redis.call('HSET', learning, 'id', id, 'began', l[2])
  end
  began = l[2]
  if now - began >= join then
    local last, told, waits = {}, {}, false
    local all = redis.call('HGETALL', learning)
    for i = 1, #all, 2 do
      local kind, name = string.sub(all[i], 1, 2), string.sub(all[i], 3)
      if kind == 'm:' then last[name] = 0 end
      if kind == 'd:' then told[name] = true end
    end
    all = redis.call('HGETALL', fleet)
    for i = 1, #all, 2 do last[all[i]] = tonumber(all[i + 1]) end
    for name, t in pairs(last) do
      if not told[name] then
        if now - math.max(t, began) >= gone or now - began >= 6 * gone then missing[#missing + 1] = name else waits = true end
      end
    end
    if not waits then
      redis.call('ZREMRANGEBYSCORE', register, '0', '0')
      redis.call('ZADD', register, '0', id)
      redis.call('DEL', learning)
      whole = true
    else
      missing = {}
    end
  end
end
if list then
  local all = redis.call('HGETALL', fleet)
  for i = 1, #all, 2 do
    if whole and tonumber(all[i + 1]) < now - forget then
      redis.call('HDEL', fleet, all[i])
      redis.call('HSET', silent, all[i], all[i + 1])
      local old = redis.call('HGETALL', silent)
      for j = 1, #old, 2 do
        if tonumber(old[j + 1]) < now - 400 * 86400000 then redis.call('HDEL', silent, old[j]) end
      end
    else
      members[#members + 1] = all[i]
    end
  end
end
return {whole and '1' or '0', began, missing, members, '0'}
