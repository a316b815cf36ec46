-- Tells a fleet what one process found out: accounts that are out, keys that are limited, targets
-- that are doubted, sick or well. KEYS: 1 a hash of news, each "number|until|who|detail", 2 the
-- processes by when they last asked.
-- ARGV: 1 who asks, 2 the clock (0: the server's), 3 the last number it knows (-2: it leaves), then
-- kind, name, seconds and detail of each of its own news. A "claim" is granted to one at a time.
-- A "doubt" is evidence against a target, "sum|peak" of the requests since the last one: what all
-- processes have against it becomes max(that + sum, peak), as one process counts (CUSUM). It is told
-- as "score|1" where several gave it, else as "score|0"; "who" is who began.
local NEWS, MEMBERS = KEYS[1], KEYS[2]
local MEMBER_SECONDS = 30
local me, now, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then local t = redis.call('TIME'); now = t[1] + t[2] / 1e6 end

local function read(text)
  local number, ends, who, detail = string.match(text, '^(%d+)|([%d.]+)|([^|]*)|(.*)$')
  return tonumber(number), tonumber(ends), who, detail
end

if known == -2 then redis.call('ZREM', MEMBERS, me)
else redis.call('ZADD', MEMBERS, string.format('%.3f', now), me) end
redis.call('ZREMRANGEBYSCORE', MEMBERS, '-inf', now - MEMBER_SECONDS)
redis.call('PEXPIRE', MEMBERS, 7200000)

for i = 4, #ARGV, 4 do
  local kind, name, seconds, detail = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local field = kind .. ':' .. name
  local told, who = true, me
  local before = (kind == 'claim' or kind == 'doubt') and redis.call('HGET', NEWS, field)
  if kind == 'doubt' then
    local sum, peak = string.match(detail, '^(.*)|(.*)$')
    local was, several = 0, '0'
    if before then
      local _, ends, first, stored = read(before)
      local score, flag = string.match(stored, '^(.*)|(.*)$')
      if ends > now then
        was = tonumber(score)
        if was > 0 then who, several = first, flag end
      end
    end
    local score = math.max(was + tonumber(sum), tonumber(peak))
    if who ~= me and tonumber(sum) > 0 then several = '1' end
    detail = string.format('%.6f|%s', score, several)
    told = math.abs(score - was) > 0.001
    -- Nobody needs to hear that there is as little against it as before.
    if told and score <= 0 and was <= 0 then
      redis.call('HSET', NEWS, field, string.format('0|%.3f|%s|%s', now + seconds, me, detail))
      told = false
    end
  elseif before then
    local _, ends, holder = read(before)
    told = ends <= now or holder == me
  end
  if told then
    if kind == 'well' then
      redis.call('HDEL', NEWS, 'trip:' .. name, 'claim:' .. name, 'doubt:' .. name)
    end
    if kind == 'trip' then redis.call('HDEL', NEWS, 'well:' .. name, 'doubt:' .. name) end
    local number = redis.call('HINCRBY', NEWS, 'number', 1)
    redis.call('HSET', NEWS, field, string.format('%d|%.3f|%s|%s', number, now + seconds, who, detail))
  end
end

local number = redis.call('HGET', NEWS, 'number') or '0'
local out = {'0', number, tostring(redis.call('ZCARD', MEMBERS))}
if tonumber(number) ~= known then
  local all = redis.call('HGETALL', NEWS)
  for i = 1, #all, 2 do
    if all[i] ~= 'number' then
      local n, ends, who, detail = read(all[i + 1])
      if ends <= now then
        redis.call('HDEL', NEWS, all[i])
      elseif n > known or tonumber(number) < known then
        local kind, name = string.match(all[i], '^(%a+):(.*)$')
        for _, value in ipairs({kind, name, string.format('%.3f', ends - now), who, detail}) do
          out[#out + 1] = value
        end
      end
    end
  end
end
redis.call('PEXPIRE', NEWS, 7200000)
return out
