-- One replica has told the shard all that it knows of it, and whom it remembers:
-- 1, or 0 if that was for another learning than the one under way.
-- KEYS: the shard's learning. ARGV: replica, began, remembered replicas.
local info = redis.pcall('INFO', 'replication')
local id = '@' .. (type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '?')
local l = redis.call('HMGET', KEYS[1], 'id', 'began')
if l[1] ~= id or l[2] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'd:' .. ARGV[1], '1')
for i = 3, #ARGV do redis.call('HSET', KEYS[1], 'm:' .. ARGV[i], '1') end
return 1
