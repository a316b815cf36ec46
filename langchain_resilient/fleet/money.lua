-- Leases dollars of one spend cap to one process, and counts what it spent: once, by its number.
-- KEYS: 1 the cap's hash (amounts by time, leases "dollars|until" by member, numbers by member).
-- ARGV: 1 member, 2 clock (0: the server's), 3 number, 4 dollars of the cap, 5 its window in
-- seconds (0: for ever), 6 spent since, 7 whether it gives its lease back, 8 its label.
local CAP = KEYS[1]
local LEASE_SECONDS = 30           -- a lease that nobody renews counts as spent after that
local BUCKETS = 60
local me, now, number = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local dollars, window = tonumber(ARGV[4]), tonumber(ARGV[5])
local spent_now, leaves = tonumber(ARGV[6]), ARGV[7] == '1'
if now == 0 then local t = redis.call('TIME'); now = t[1] + t[2] / 1e6 end

local step = window > 0 and window / BUCKETS or 1
local index = window > 0 and math.floor(now / step) or 0
local function add(amount)
  if amount > 0 then redis.call('HINCRBYFLOAT', CAP, 'at:' .. index, string.format('%.9f', amount)) end
end

local spent, others, members, mine = 0, 0, 1, 0
local first                        -- the oldest amount that counts
local all = redis.call('HGETALL', CAP)
local cap
for i = 1, #all, 2 do
  local kind, name = string.match(all[i], '^(%a+):(.*)$')
  local value = all[i + 1]
  if kind == 'at' then
    local bucket = tonumber(name)
    if window > 0 and bucket + BUCKETS < index then redis.call('HDEL', CAP, all[i])
    else
      spent = spent + tonumber(value)
      if not first or bucket < first then first = bucket end
    end
  elseif kind == 'lease' then
    local amount, ends = string.match(value, '^([^|]*)|(.*)$')
    if name == me then mine = tonumber(amount)
    elseif tonumber(ends) <= now then
      add(tonumber(amount))
      spent = spent + tonumber(amount)
      redis.call('HDEL', CAP, all[i], 'seq:' .. name)
    else
      others, members = others + tonumber(amount), members + 1
    end
  elseif all[i] == 'cap' then cap = value end
end
local text = string.format('%.9f|%.0f', dollars, window)
if cap and cap ~= text and members > 1 then
  local theirs, span = string.match(cap, '^(.*)|(.*)$')
  return {'-2', theirs, span}
end
redis.call('HSET', CAP, 'cap', text, 'label', ARGV[8])

local seen = tonumber(redis.call('HGET', CAP, 'seq:' .. me) or '-1')
if number > seen then
  redis.call('HSET', CAP, 'seq:' .. me, number)
  add(spent_now)
  spent = spent + spent_now
  mine = math.max(0, mine - spent_now)
  if spent_now > 0 and not first then first = index end
end
-- at most half of an equal part of what is left; the last crumbs whole
local left = math.max(0, dollars - spent - others)
if leaves then
  redis.call('HDEL', CAP, 'lease:' .. me, 'seq:' .. me)
  mine = 0
else
  mine = math.max(math.min(mine, left), left / (2 * members), math.min(left, 0.002 * dollars))
  redis.call('HSET', CAP, 'lease:' .. me, string.format('%.9f|%.3f', mine, now + LEASE_SECONDS))
end
local opens = first and window > 0 and (first + 1 + BUCKETS) * step - now or 0
redis.call('PEXPIRE', CAP, math.floor(window > 0 and 2000 * window + 60000 or 2592000000))
local result = {0, mine, left, spent, members, opens}
for i, value in ipairs(result) do result[i] = string.format('%.9f', value) end
return result
