-- What stood here is no longer so: whoever needs it next loads it, and whoever is just loading it looks again.
--
-- KEYS  1 the partner's state, 2… counters to drop
-- ARGV  1 a new epoch, or `` where only counters are dropped   2 seconds to keep the state
--       3 the version of the network that rules must have from now on, or ``   4… fields of the state to drop
local state = KEYS[1]
if #KEYS > 1 then redis.call('DEL', unpack(KEYS, 2)) end
if ARGV[1] == '' then return 'voided' end
-- Made where it is not there: else somebody who is just loading would put in what he looked up before.
local has = redis.call('HMGET', state, 'given_back', 'changes', 'version')
redis.call('HSET', state, 'epoch', ARGV[1], 'given_back', has[1] or '0', 'changes', has[2] or '0')
if ARGV[3] ~= '' and tonumber(ARGV[3]) > tonumber(has[3] or -1) then redis.call('HSET', state, 'version', ARGV[3]) end
for i = 4, #ARGV do redis.call('HDEL', state, ARGV[i]) end
redis.call('EXPIRE', state, ARGV[2])
return 'voided'
