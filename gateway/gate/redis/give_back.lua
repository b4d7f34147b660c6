-- Places are free again: given back by the store, or handed back by a ticket whose attempt was not made.
--
-- KEYS  1 the partner's state, 2… the counters
-- ARGV  1 `settle` or `hand_back`   2, 3 the epoch and given-back number that the ticket was given at
--       then for each counter: `1` to count one less, and what the store said it holds, or ``
-- What the store said is believed if nothing was given back since the ticket; else the counter is dropped, and the next
-- take has it loaded. A counter that is not there stays so.
-- Answers epoch, given-back number, change number, then each count, or nothing.
local state = KEYS[1]
local has = redis.call('HMGET', state, 'epoch', 'given_back', 'changes')
local same = has[1] == ARGV[2] and has[2] == ARGV[3]
local answer = {has[1] or '0', has[2] or '0', has[3] or '0'}
for i = 2, #KEYS do
  local less, said = ARGV[2 * i], ARGV[2 * i + 1]
  local used = redis.call('GET', KEYS[i])
  if used then
    used = tonumber(used)
    if less == '1' and used > 0 then used = redis.call('DECR', KEYS[i]) end
    if said ~= '' and same then
      redis.call('SET', KEYS[i], said, 'KEEPTTL')
      used = said
    elseif said ~= '' then
      redis.call('DEL', KEYS[i])
      used = false
    end
  end
  answer[#answer + 1] = used
end
if has[1] then
  if ARGV[1] == 'settle' then answer[2] = redis.call('HINCRBY', state, 'given_back', 1) end
  answer[3] = redis.call('HINCRBY', state, 'changes', 1)
end
return answer
