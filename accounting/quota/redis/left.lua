-- A replica is left for: quota.Store.Leave. If it lives, its next beat tells it.
-- KEYS: the left. ARGV: the replica.
-- The left is a sorted set: replica -> second in which it was left for last. Who is cut
-- off for longer than it is remembered hears of it from its windows.
local now, remembered = tonumber(redis.call('TIME')[1]), 8 * 86400
redis.call('ZADD', KEYS[1], now, ARGV[1])
return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - remembered)
