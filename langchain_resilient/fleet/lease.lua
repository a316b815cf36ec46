-- Leases turns of one limit (one key, server and model) to one process, and settles what it did.
-- KEYS: 1 the limit's hash, 2 its members by when they last asked, 3 their virtual times.
-- The clock is the server's, and all times in arguments and results are relative to it.
local LIMIT, MEMBERS, VIRTUAL = KEYS[1], KEYS[2], KEYS[3]
local VERSION = 1
local MEMORY_MS = 3600000          -- an unused limit is forgotten after an hour
local HORIZON = 1.0                -- seconds of a rate that are leased at a time, in fair parts
local REACH = 1.4                  -- seconds ahead up to which they are: so a part is leased whole
local PER_SECOND = 1.5             -- a bucket of at most so many seconds is enforced by the second
local BURST = 0.25                 -- seconds of a rate that may go at once

local me = ARGV[1]
local names = {'clock', 'seq', 'want', 'cost', 'told_r', 'told_t', 'known_members',
  'unused_r', 'unused_t', 'over_r', 'over_t', 'refused', 'pause', 'answered',
  'seen_age', 'mark_r', 'left_r', 'limit_r', 'cap_r', 'mark_t', 'left_t', 'limit_t', 'cap_t'}
local a = {}
for i, name in ipairs(names) do a[name] = tonumber(ARGV[i + 1]) end
local label = ARGV[#names + 2]

local now = a.clock
if now == 0 then local t = redis.call('TIME'); now = t[1] + t[2] / 1e6 end

local fields = {'version', 'at', 'born', 'factor', 'cut', 'paused', 'heard', 'seen_at', 'by_second',
  'life', 'rate_r', 'cap_r', 'level_r', 'next_r', 'sent_r', 'told_r', 'told_at_r',
  'rate_t', 'cap_t', 'level_t', 'next_t', 'sent_t', 'told_t', 'told_at_t', 'refusals', 'learned'}
local stored = redis.call('HMGET', LIMIT, unpack(fields))
local s = {}
for i, name in ipairs(fields) do s[name] = tonumber(stored[i]) or 0 end
if s.version ~= 0 and s.version ~= VERSION then
  return {'-1', tostring(redis.call('ZCARD', MEMBERS)), tostring(s.version)}
end
if s.version == 0 then
  s.version, s.at, s.born, s.factor, s.next_r, s.next_t = VERSION, now, now, 1, now, now
  redis.call('HSET', LIMIT, 'label', label)
end

-- members: who asked lately
local life = math.max(5, s.life)
local known = redis.call('ZSCORE', MEMBERS, me)
if a.want > 0 or a.over_r > 0 then redis.call('ZADD', MEMBERS, string.format('%.3f', now), me)
elseif a.want < 0 then redis.call('ZREM', MEMBERS, me) end
local gone = redis.call('ZRANGEBYSCORE', MEMBERS, '-inf', now - life)
for _, name in ipairs(gone) do
  redis.call('ZREM', MEMBERS, name)
  redis.call('HDEL', VIRTUAL, name, 'seq:' .. name)
end
redis.call('PEXPIRE', MEMBERS, MEMORY_MS)
local members = math.max(1, redis.call('ZCARD', MEMBERS))
if now - s.born < 5 then members = math.max(members, a.known_members) end

-- limits: the user's, else the provider's; the lowest counts, and a raised one once nobody says less
local function tell(kind, told)
  local t, at = 'told_' .. kind, 'told_at_' .. kind
  if told > 0 and (s[t] == 0 or told <= s[t] or now - s[at] > 5) then s[t] = told end
  if told > 0 and told == s[t] then s[at] = now end
end
tell('r', a.told_r)
tell('t', a.told_t)
local function limit_to(kind, limit, cap)
  local told = s['told_' .. kind]
  if told > 0 and (limit <= 0 or told < limit) then limit, cap = told, 0 end
  if cap <= 0 then cap = math.max(1, limit * BURST) end
  if limit <= 0 then return end
  if s.by_second == 1 then cap = math.min(cap, math.max(1, limit)) end
  local rate = 'rate_' .. kind
  if s[rate] == 0 then
    -- What others sent before is not known: a state that was lost starts empty.
    s['level_' .. kind] = a.known_members > 0 and 0 or cap
  end
  s[rate], s['cap_' .. kind] = limit, math.max(1, cap)
  s['level_' .. kind] = math.min(s['level_' .. kind], s['cap_' .. kind])
end
for _, k in ipairs({'r', 't'}) do
  local rate, limit, told = s['rate_' .. k], a['limit_' .. k], a['told_' .. k]
  if limit > 0 and (rate == 0 or (a.seen_age >= 0 and now - a.seen_age >= s.seen_at)) then
    limit_to(k, limit, a['cap_' .. k])
  elseif told > 0 and (rate == 0 or s['told_' .. k] < rate or s.learned == 0) then
    limit_to(k, s.learned == 1 and rate or 0, s['cap_' .. k])
  end
end
if a.answered > 0 then s.heard = 1 end

-- time goes by
local passed = math.max(0, now - s.at)
s.at = now
s.factor = math.min(1, s.factor + passed * 0.02)
local kinds = {'r', 't'}
for _, k in ipairs(kinds) do
  s['level_' .. k] = math.min(s['cap_' .. k], s['level_' .. k] + passed * s['rate_' .. k])
end

-- what the process did since: once, however often it is said
local seen = tonumber(redis.call('HGET', VIRTUAL, 'seq:' .. me) or '-1')
if a.seq > seen then
  redis.call('HSET', VIRTUAL, 'seq:' .. me, a.seq)
  for _, k in ipairs(kinds) do
    local extra = a['over_' .. k] - a['unused_' .. k]
    s['level_' .. k] = math.min(s['cap_' .. k], s['level_' .. k] - extra)
    s['sent_' .. k] = s['sent_' .. k] + extra
    local rate, turn = s['rate_' .. k], s['next_' .. k]
    if rate > 0 then
      local moved = turn + extra / rate
      -- A burst of interactive calls from savings holds up nobody for longer than this.
      if extra > 0 and s['cap_' .. k] > PER_SECOND * rate then
        moved = math.max(turn, math.min(moved, now + BURST))
      end
      s['next_' .. k] = moved
    end
  end
  if a.refused > 0 then
    s.refusals = s.refusals + a.refused
    s.paused = math.max(s.paused, now + a.pause)
    if now > s.cut + 1 then
      s.cut, s.factor = now, math.max(0.05, s.factor * 0.85)
      local expected = false
      for _, k in ipairs(kinds) do
        if s['rate_' .. k] > 0 and s['level_' .. k] < s['rate_' .. k] + 1 then expected = true end
      end
      if not expected then s.by_second = 1 end
      for _, k in ipairs(kinds) do
        if not expected and s['rate_' .. k] > 0 then
          s['cap_' .. k] = math.max(1, math.min(s['cap_' .. k], s['rate_' .. k]))
        end
        s['level_' .. k] = math.min(s['level_' .. k], 0)
      end
    end
  end
end
-- what the provider says is left, as of the sending of the request with that mark
if a.seen_age >= 0 and now - a.seen_age > s.seen_at then
  s.seen_at = now - a.seen_age
  for _, k in ipairs(kinds) do
    local rate, left = s['rate_' .. k], a['left_' .. k]
    if rate > 0 and left >= 0 and rate == a['limit_' .. k] then
      local level = left - (s['sent_' .. k] - a['mark_' .. k]) + a.seen_age * rate
      level = math.min(s['cap_' .. k], level)
      s['level_' .. k] = s['level_' .. k] + 0.5 * (level - s['level_' .. k])
      s.learned = 1
    end
  end
end

-- how fast turns follow each other
local function speed(k)
  local rate, cap, level = s['rate_' .. k], s['cap_' .. k], s['level_' .. k]
  local x = s.factor * rate
  if s.learned == 1 and cap > PER_SECOND * rate then
    local savings = level - math.min(cap / 2, rate * 2)
    x = x + savings / (savings > 0 and 5 or 2)
  elseif s.learned == 1 then
    -- A bucket of a second: what is in it now, without what is granted ahead, is kept between these.
    local left = level + math.max(0, s['next_' .. k] - now) * rate
    x = x + math.min(0, left - 0.25 * cap) + math.max(0, left - 0.6 * cap)
  end
  return math.max(x, 0.05 * rate)
end
local cost = math.max(a.cost, 1)
local per_second, speed_t = 4, 0   -- turns; four scouts while no limit is known
local horizon, reach = HORIZON, REACH
if s.rate_r > 0 or s.rate_t > 0 then
  per_second = 1e9
  if s.rate_r > 0 then per_second = speed('r') end
  if s.rate_t > 0 then
    speed_t = speed('t')
    per_second = math.min(per_second, speed_t / cost)
  end
  -- more members than turns: each may hold one turn ahead
  horizon = math.max(HORIZON, 1.5 * members / per_second)
  reach = math.max(REACH, horizon)
else
  horizon, reach = BURST, BURST
end
local back = (s.rate_r == 0 and s.rate_t == 0) and 1 or math.max(BURST, 1 / per_second)
s.next_r = math.max(s.next_r, now - back)
s.next_t = math.max(s.next_t, now - BURST)
s.life = 3 * horizon

local free = s.heard == 1 and s.rate_r == 0 and s.rate_t == 0
local n, first, interval, retry = 0, 0, 1 / per_second, 0.25
local mark_r, mark_t = s.sent_r, s.sent_t
if a.want > 0 and not free then
  local start = math.max(s.next_r, s.paused)
  local room = math.floor((now + reach - start) * per_second + 1e-6)
  if s.rate_t > 0 then
    local start_t = math.max(s.next_t, s.paused)
    room = math.min(room, math.floor((now + reach - start_t) * speed_t / cost + 1e-6))
    start = math.max(start, start_t)
  end
  local fair = math.max(1, math.ceil(HORIZON * per_second / members))
  if not known then fair = 1 end   -- who is new learns first how many there are
  -- start-time fair queueing: who is ahead of its share waits while others want
  local virtual = math.max(tonumber(redis.call('HGET', VIRTUAL, me) or '0'), now - BURST)
  if members > 1 and start - now > 0.5 * horizon and virtual - now > horizon then
    room, start, reach = 0, math.max(start, virtual), horizon
  end
  local grain = math.min(a.want, math.max(1, math.floor(fair / 2)))
  n = math.min(a.want, room, fair)
  if n < grain then n = 0 end
  if n > 0 then
    first = start - now
    redis.call('HSET', VIRTUAL, me, string.format('%.4f', virtual + n * members / per_second))
    s.next_r = start + n / per_second
    s.sent_r, s.level_r = s.sent_r + n, s.level_r - n
    if s.rate_t > 0 then
      s.next_t = math.max(s.next_t, start) + n * cost / speed_t
      s.sent_t, s.level_t = s.sent_t + n * cost, s.level_t - n * cost
    end
  else
    local turn_over = members > per_second and 0.25 * members / per_second or 0
    retry = math.max(0.01, start + grain / per_second - now - reach, turn_over)
  end
end

-- what an interactive call may take without asking: half of what is there, in equal parts
local function allowance(k)
  if s['rate_' .. k] == 0 then return 1e9 end
  return math.max(0, s['level_' .. k] / (2 * members))
end
local out = {}
for _, name in ipairs(fields) do
  out[#out + 1] = name
  out[#out + 1] = string.format('%.6f', s[name])
end
redis.call('HSET', LIMIT, unpack(out))
redis.call('PEXPIRE', LIMIT, MEMORY_MS)
redis.call('PEXPIRE', VIRTUAL, MEMORY_MS)
local result = {n, first, interval, retry, mark_r, mark_t, s.rate_r, s.rate_t, members,
  allowance('r'), allowance('t'), s.heard, math.max(0, s.paused - now), s.factor}
for i, value in ipairs(result) do result[i] = string.format('%.6f', value) end
return result
