-- All charges of a request, or none. The arithmetic is that of `quota.rs`, where it is explained.
-- KEYS: what each charge counts under. ARGV: a lease, its milliseconds (0: only look), and for each key
-- its kind (s, f: sliding and fixed window; g: gcra; l: leases), limit, window in ms, burst.
local time = redis.call('TIME')
local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ms = math.floor(us / 1000)
local lease, lease_ms = ARGV[1], tonumber(ARGV[2])
local charges, answer, granted = {}, { 1 }, true

local function number(value)
  return tonumber(value or 0) or 0
end

local function look(key, kind, limit, window, burst)
  if kind == 'l' then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', ms)
    local held = redis.call('ZCARD', key)
    return held < limit, math.max(limit - held, 0), 0, { key, kind }
  end
  if kind == 'g' then
    local every = math.ceil(window * 1000 / limit)
    local tat = math.max(number(redis.call('GET', key)), us)
    local owed, tolerated = tat - us, (burst - 1) * every
    local allows = owed <= tolerated
    local after = allows and owed + every or owed - tolerated
    local remaining = math.floor(math.max(burst * every - owed, 0) / every)
    return allows, remaining, math.ceil(after / 1000), { key, kind, tat + every }
  end
  local index, elapsed = math.floor(ms / window), ms % window
  local left = window - elapsed
  local here = key .. ':' .. string.format('%.0f', index)
  local current, previous = 0, 0
  if kind == 's' then
    local counts = redis.call('MGET', here, key .. ':' .. string.format('%.0f', index - 1))
    current, previous = number(counts[1]), number(counts[2])
  else
    current = number(redis.call('GET', here))
  end
  local used = current * window + previous * left
  local allows, after = used + window <= limit * window, left
  if not allows and kind == 's' then
    if current < limit then
      after = left - math.floor((limit - 1 - current) * window / previous)
    else
      after = left + window - math.floor((limit - 1) * window / current)
    end
  end
  local remaining = math.floor(math.max(limit * window - used, 0) / window)
  return allows, remaining, after, { here, kind, kind == 's' and 2 * window or window }
end

for i, key in ipairs(KEYS) do
  local at = 4 * i - 1
  local limit, window, burst = number(ARGV[at + 1]), number(ARGV[at + 2]), number(ARGV[at + 3])
  local allows, remaining, after, charge = look(key, ARGV[at], limit, window, burst)
  granted = granted and allows
  charges[i] = charge
  answer[3 * i - 1], answer[3 * i], answer[3 * i + 1] = allows and 1 or 0, remaining, after
end

if not granted or lease_ms == 0 then
  answer[1] = granted and 1 or 0
  return answer
end
for i, charge in ipairs(charges) do
  local key, kind = charge[1], charge[2]
  answer[3 * i] = answer[3 * i] - 1
  if kind == 'l' then
    redis.call('ZADD', key, ms + lease_ms, lease)
    redis.call('PEXPIRE', key, lease_ms)
  elseif kind == 'g' then
    redis.call('SET', key, string.format('%.0f', charge[3]), 'PX', math.ceil((charge[3] - us) / 1000))
  elseif redis.call('INCR', key) == 1 then
    redis.call('PEXPIRE', key, charge[3])
  end
end
return answer
