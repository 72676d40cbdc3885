-- Whether the shard is whole on this server: 1 or 0.
-- KEYS: the shard's register.
local info = redis.pcall('INFO', 'replication')
local id = '@' .. (type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '?')
return redis.call('ZSCORE', KEYS[1], id) and 1 or 0
