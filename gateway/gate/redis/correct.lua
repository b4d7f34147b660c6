-- Sets counters to what the store holds, each only if it is still what it was before the store was asked.
--
-- KEYS  1 the partner's state, 2… the counters
-- ARGV  for each counter: what it was (`` = not there), what the store holds, seconds to keep it
-- Answers epoch, given-back number, change number, then each count as it is now, or nothing.
local has = redis.call('HMGET', KEYS[1], 'epoch', 'given_back', 'changes')
local answer = {has[1] or '0', has[2] or '0', has[3] or '0'}
for i = 2, #KEYS do
  local was, holds, keep = ARGV[3 * i - 5], ARGV[3 * i - 4], ARGV[3 * i - 3]
  local used = redis.call('GET', KEYS[i])
  if (used or '') == was then
    redis.call('SET', KEYS[i], holds, 'EX', keep)
    used = holds
  end
  answer[#answer + 1] = used
end
if has[1] then answer[3] = redis.call('HINCRBY', KEYS[1], 'changes', 1) end
return answer
