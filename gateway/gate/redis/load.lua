-- Puts in what a take found missing, unless it has changed since that was looked up.
--
-- KEYS  as for take.lua
-- ARGV  1 the epoch and 2 the given-back number that `missing` said   3 a new epoch, for a state that is not there
--       4 the loader's version of the network   5 `1`: also if places were given back meanwhile
--       6 the contract   7, 8 whether partner and contract are paused: `0`, `1`, or `` to leave it
--       9 `1` if rules follow: 10 from, 11 until, 12 limits, 13 hours, 14 seconds to keep them
--       15 seconds to keep the state   16… for each counter: its count, or `` to leave it; seconds to keep it
-- Answers `loaded`, `changed` (look it up again) or the version that is in force (the loader is behind).
local state, rules = KEYS[1], KEYS[2]
local mine = tonumber(ARGV[4])
local has = redis.call('HMGET', state, 'epoch', 'given_back', 'version')
local version = tonumber(has[3] or -1)
local of_rules = tonumber(redis.call('HGET', rules, 'version') or -1)
if version > mine or of_rules > mine then return string.format('%.0f', math.max(version, of_rules)) end
if (has[1] or '0') ~= ARGV[1] then return 'changed' end
if (has[2] or '0') ~= ARGV[2] and ARGV[5] ~= '1' then return 'changed' end

if not has[1] then redis.call('HSET', state, 'epoch', ARGV[3], 'given_back', '0', 'changes', '0') end
if not has[3] then redis.call('HSET', state, 'version', ARGV[4]) end
if ARGV[7] ~= '' then redis.call('HSET', state, 'paused', ARGV[7]) end
if ARGV[8] ~= '' then redis.call('HSET', state, 'paused/' .. ARGV[6], ARGV[8]) end
redis.call('EXPIRE', state, ARGV[15])
if ARGV[9] == '1' then
  redis.call('HSET', rules, 'version', ARGV[4], 'from', ARGV[10], 'until', ARGV[11], 'limits', ARGV[12], 'hours', ARGV[13])
  redis.call('EXPIRE', rules, ARGV[14])
end
for i = 3, #KEYS do
  local count, keep = ARGV[10 + 2 * i], ARGV[11 + 2 * i]
  if count ~= '' then redis.call('SET', KEYS[i], count, 'NX', 'EX', keep) end
end
return 'loaded'
