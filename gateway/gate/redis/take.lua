-- May this contract have one now? Checks pause, hours and limits, and for a `take` counts one in every place: one step.
--
-- KEYS  1 the partner's state, 2 the contract's rules, 3 to 8 the counters, three of the partner and three of the contract
--       (none for a bypass); all under one hash tag
-- ARGV  1 `take` or `look`, which counts nothing   2 now, seconds since 1970   3 the contract
--       4 the asker's version of the network   5 the version that the rules must have at least, as far as it knows
--       6 `contract`, `partner`: believe nothing that stands here of it, it may be from before a failure; else ``
--       7 for each counter: `1` where the delivery owns that place already, else `0`
-- Answers a list: what it is, the state's epoch, its given-back number, its change number, then
--   `open`     the counts
--   `shut`     partner paused, contract paused, hours open, the counts
--   `missing`  state, pause of the partner, pause of the contract, rules, then each counter: `1` = must be loaded
--   `behind`   the version that is in force
local state, rules, take = KEYS[1], KEYS[2], ARGV[1] == 'take'
local now, contract, mine, need = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local owned = ARGV[7]

if ARGV[6] ~= '' then
  redis.call('DEL', rules)
  redis.call('HDEL', state, 'paused/' .. contract)
  -- The partner's counters come first.
  if #KEYS > 2 then redis.call('DEL', unpack(KEYS, ARGV[6] == 'partner' and 3 or 6)) end
  if ARGV[6] == 'partner' then redis.call('HDEL', state, 'paused') end
end

local has = redis.call('HMGET', state, 'epoch', 'given_back', 'changes', 'version', 'paused', 'paused/' .. contract)
local epoch, given_back, changes = has[1] or '0', has[2] or '0', has[3] or '0'
local rule = redis.call('HMGET', rules, 'version', 'from', 'until', 'limits', 'hours')
local version, of_rules = tonumber(has[4] or -1), tonumber(rule[1] or -1)
if version > mine or of_rules > mine then
  return {'behind', epoch, given_back, changes, string.format('%.0f', math.max(version, of_rules))}
end

local missing, any = {'missing', epoch, given_back, changes}, false
local function must(is_missing)
  missing[#missing + 1] = is_missing and '1' or '0'
  any = any or is_missing
end
must(not has[1] or not has[4])
must(not has[5])
must(not has[6])
must(of_rules < need or of_rules < version or not rule[5] or now < tonumber(rule[2]) or now >= tonumber(rule[3]))
local used = {}
if #KEYS > 2 then
  used = redis.call('MGET', unpack(KEYS, 3))
  for i = 1, #used do must(not used[i]) end
end
if any then return missing end

-- Pairs of opening (inclusive) and closing (exclusive), each of 12 digits, in order: the first that closes after now.
local hours, open = rule[5], false
if hours == 'always' then
  open = true
else
  local low, count = 0, #hours / 24
  local high = count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(string.sub(hours, middle * 24 + 13, middle * 24 + 24)) <= now then low = middle + 1 else high = middle end
  end
  open = low < count and tonumber(string.sub(hours, low * 24 + 1, low * 24 + 12)) <= now
end

local full, i = false, 0
if #used > 0 then
  for limit in string.gmatch(rule[4], '%d+') do
    i = i + 1
    local bound = tonumber(limit)
    if bound > 0 and string.sub(owned, i, i) == '0' and tonumber(used[i]) >= bound then full = true end
  end
end

if has[5] == '1' or has[6] == '1' or not open or full then
  return {'shut', epoch, given_back, changes, has[5], has[6], open and '1' or '0', unpack(used)}
end
if take and #used > 0 then
  for k = 1, #used do
    if string.sub(owned, k, k) == '0' then used[k] = redis.call('INCR', KEYS[k + 2]) end
  end
  changes = redis.call('HINCRBY', state, 'changes', 1)
end
return {'open', epoch, given_back, changes, unpack(used)}
