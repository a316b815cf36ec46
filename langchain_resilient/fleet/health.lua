-- Tells a fleet what one process found out: accounts that are out, keys that are limited, targets
-- that are doubted, sick or well. KEYS: 1 a hash of news, each "number|until|who|detail", 2 the
-- processes by when they last asked, 3 samples of how long targets took, "when|who|name|sample", 4
-- what each process has counted.
-- ARGV: 1 who asks, 2 the clock (0: the server's), 3 the last number it knows, 4 the last number of
-- samples it knows, then kind, name, seconds and detail of each of its own news. A "claim" is granted
-- to one at a time; a "time" is a sample, its age in seconds before it; "counts" are kept as they are.
-- A "doubt" is evidence against a target, "sum|peak" of the requests since the last one: what all
-- processes have against it becomes max(that + sum, peak), as one process counts (CUSUM). It is told
-- as "score|1" where several gave it, else as "score|0"; "who" is who began.
local NEWS, MEMBERS, TIMES, COUNTS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local MEMBER_SECONDS = 30
local SAMPLES = 512                -- that are kept
local AT_ONCE = 64                 -- that are told to who knows others; twice as many to who is new
local DAY_MS = 86400000
local me, now, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then local t = redis.call('TIME'); now = t[1] + t[2] / 1e6 end

local function read(text)
  local number, ends, who, detail = string.match(text, '^(%d+)|([%d.]+)|([^|]*)|(.*)$')
  return tonumber(number), tonumber(ends), who, detail
end

redis.call('ZADD', MEMBERS, string.format('%.3f', now), me)
redis.call('ZREMRANGEBYSCORE', MEMBERS, '-inf', now - MEMBER_SECONDS)
redis.call('PEXPIRE', MEMBERS, 7200000)

local told_times = 0
for i = 5, #ARGV, 4 do
  local kind, name, seconds, detail = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local field = kind .. ':' .. name
  local told, who = true, me
  local before = (kind == 'claim' or kind == 'doubt') and redis.call('HGET', NEWS, field)
  if kind == 'time' then
    local at = string.format('%.6f', now - seconds)
    redis.call('RPUSH', TIMES, at .. '|' .. me .. '|' .. name .. '|' .. detail)
    told_times, told = told_times + 1, false
  elseif kind == 'counts' then
    redis.call('HSET', COUNTS, me, detail)
    redis.call('PEXPIRE', COUNTS, DAY_MS)
    told = false
  elseif kind == 'doubt' then
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

local samples = redis.call('HINCRBY', NEWS, 'samples', told_times)
if told_times > 0 then
  redis.call('LTRIM', TIMES, -SAMPLES, -1)
  redis.call('PEXPIRE', TIMES, 7200000)
end
local number = redis.call('HGET', NEWS, 'number') or '0'
local out = {'0', number, tostring(redis.call('ZCARD', MEMBERS)), tostring(samples)}
local known_samples = tonumber(ARGV[4])
local missed = samples - known_samples
if known_samples < 0 or missed < 0 then missed = math.min(samples, 2 * AT_ONCE)
else missed = math.min(missed, AT_ONCE) end
if missed > 0 then
  for _, text in ipairs(redis.call('LRANGE', TIMES, -missed, -1)) do
    local at, who, name, sample = string.match(text, '^([%d.]+)|([^|]*)|([^|]*)|(.*)$')
    if who ~= me then
      for _, value in ipairs({'time', name, string.format('%.6f', now - at), who, sample}) do
        out[#out + 1] = value
      end
    end
  end
end
if tonumber(number) ~= known then
  local all = redis.call('HGETALL', NEWS)
  for i = 1, #all, 2 do
    if all[i] ~= 'number' and all[i] ~= 'samples' then
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
