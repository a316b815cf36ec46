-- Tells a fleet what one process found out: accounts that are out, keys that are limited, targets
-- that are sick or well. KEYS: 1 a hash of news, each "number|until|who|detail".
-- ARGV: 1 who asks, 2 the clock (0: the server's), 3 the last number it knows, then kind, name,
-- seconds and detail of each of its own news. A "claim" is granted to one at a time.
local NEWS = KEYS[1]
local me, now, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if now == 0 then local t = redis.call('TIME'); now = t[1] + t[2] / 1e6 end

local function read(text)
  local number, ends, who, detail = string.match(text, '^(%d+)|([%d.]+)|([^|]*)|(.*)$')
  return tonumber(number), tonumber(ends), who, detail
end

for i = 4, #ARGV, 4 do
  local kind, name, seconds, detail = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), ARGV[i + 3]
  local field = kind .. ':' .. name
  local held = false
  if kind == 'claim' then
    local before = redis.call('HGET', NEWS, field)
    if before then
      local _, ends, who = read(before)
      held = ends > now and who ~= me
    end
  end
  if not held then
    if kind == 'well' then redis.call('HDEL', NEWS, 'trip:' .. name, 'claim:' .. name) end
    if kind == 'trip' then redis.call('HDEL', NEWS, 'well:' .. name) end
    local number = redis.call('HINCRBY', NEWS, 'number', 1)
    redis.call('HSET', NEWS, field, string.format('%d|%.3f|%s|%s', number, now + seconds, me, detail))
  end
end

local number = redis.call('HGET', NEWS, 'number') or '0'
local out = {'0', number}
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
