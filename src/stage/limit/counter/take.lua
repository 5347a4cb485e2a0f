-- All charges of a request, or none; and what earlier ones turn out to have been. The arithmetic is that of
-- `quota.rs` and `sliding.rs`, where it is explained.
-- KEYS: what each charge counts under, then what each correction does.
-- ARGV: a lease, its milliseconds (0: only look), the number of charges, and of the corrections that hold in any
-- case, which come first; others hold if all charges are counted. For each charge its kind (s, f:
-- sliding and fixed window; g: gcra; l: leases), limit, window in ms, burst, units, units to take at most,
-- buckets ahead; for each correction its kind, window in ms, units to add or (below 0) to give back, where they
-- were counted (the bucket, or the microseconds of a unit), and in which period.
local time = redis.call('TIME')
local us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local ms = math.floor(us / 1000)
local lease, lease_ms, charged, certain = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local function number(value)
  return tonumber(value or 0) or 0
end

local function text(value)
  return string.format('%.0f', value)
end

local function width_of(window)
  return math.max(math.floor(window / 600), 1)
end

-- A queue in a hash: `head` and `tail` name buckets, `sum` is what they hold, `<bucket>` what one holds and
-- `<bucket>>` names the next.
local function queue_of(key, window)
  local width = width_of(window)
  local name, here = key .. ':last' .. text(window / 1000) .. 's', math.floor(ms / width)
  local state = redis.call('HMGET', name, 'head', 'tail', 'sum')
  local head, tail, sum, left = state[1], state[2], number(state[3]), false
  while head and number(head) + window / width < here do
    local bucket = redis.call('HMGET', name, head, head .. '>')
    redis.call('HDEL', name, head, head .. '>')
    head, sum, left = bucket[2], sum - number(bucket[1]), true
  end
  if left and head then
    redis.call('HSET', name, 'head', head, 'sum', text(sum))
  elseif left then
    redis.call('DEL', name)
    tail, sum = false, 0
  end
  return { name = name, here = here, width = width, head = head, tail = tail, sum = sum }
end

local function period(key, window)
  local index = math.floor(ms / window)
  return key .. ':' .. text(index), index
end

-- A period's count, which applications read.
local function add(key, units, expires)
  if redis.call('INCRBY', key, text(units)) == units then
    redis.call('PEXPIRE', key, text(expires))
  end
end

local function push(queue, window, units, ahead)
  local bucket = math.max(queue.here + ahead, number(queue.tail))
  local name, field = queue.name, text(bucket)
  if queue.tail == field then
    redis.call('HINCRBY', name, field, text(units))
    redis.call('HINCRBY', name, 'sum', text(units))
  else
    local before = queue.tail and queue.tail .. '>' or 'head'
    redis.call('HSET', name, field, text(units), 'tail', field, 'sum', text(queue.sum + units), before, field)
    redis.call('PEXPIRE', name, text((bucket + 1) * queue.width + window - ms))
  end
  return bucket
end

-- Gives back what a field or a key still holds of so many units.
local function lessen(held, units)
  return math.min(number(held), units)
end

local look, count, correct = {}, {}, {}

function look.l(key, limit)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', ms)
  local held = redis.call('ZCARD', key)
  return held < limit, math.max(limit - held, 0), 0
end

function look.g(key, limit, window, burst, units)
  local every = math.ceil(window * 1000 / limit)
  local tat = math.max(number(redis.call('GET', key)), us)
  local owed, tolerated = tat - us, (burst - units) * every
  local allows = owed <= tolerated
  local after = allows and owed + units * every or owed - tolerated
  local remaining = math.floor(math.max(burst * every - owed, 0) / every)
  return allows, remaining, math.ceil(after / 1000), tat + units * every
end

function look.f(key, limit, window, _, units)
  local counted = number(redis.call('GET', (period(key, window))))
  return counted + units <= limit, math.max(limit - counted, 0), window - ms % window
end

function look.s(key, limit, window, _, units)
  local queue = queue_of(key, window)
  local excess, at = queue.sum + units - limit, queue.head
  local until_ = queue.head and number(queue.head) or queue.here
  while at and excess > 0 do
    local bucket = redis.call('HMGET', queue.name, at, at .. '>')
    until_, excess, at = number(at), excess - number(bucket[1]), bucket[2]
  end
  local after = math.max((until_ + 1) * queue.width + window - ms, 0)
  return queue.sum + units <= limit, math.max(limit - queue.sum, 0), after, queue
end

function count.l(key)
  redis.call('ZADD', key, text(ms + lease_ms), lease)
  redis.call('PEXPIRE', key, lease_ms)
  return 0, 0
end

function count.g(key, _, _, _, tat)
  redis.call('SET', key, text(tat), 'PX', text(math.ceil((tat - us) / 1000)))
  return 0, 0
end

function count.f(key, window, units)
  local here, index = period(key, window)
  add(here, units, window)
  return 0, index
end

function count.s(key, window, units, ahead, queue)
  local here, index = period(key, window)
  add(here, units, 2 * window)
  return push(queue, window, units, ahead), index
end

function correct.g(key, _, units, every)
  local tat = math.max(number(redis.call('GET', key)), us) + units * every
  if tat > us then
    redis.call('SET', key, text(tat), 'PX', text(math.ceil((tat - us) / 1000)))
  else
    redis.call('DEL', key)
  end
end

function correct.f(key, window, units, _, index)
  if units > 0 then
    return add(period(key, window), units, window)
  end
  local there = key .. ':' .. index
  local back = lessen(redis.call('GET', there), -units)
  if back > 0 then
    redis.call('DECRBY', there, text(back))
  end
end

function correct.s(key, window, units, bucket, index)
  local queue = queue_of(key, window)
  if units > 0 then
    add(period(key, window), units, 2 * window)
    return push(queue, window, units, 0)
  end
  correct.f(key, window, units, bucket, index)
  local back = lessen(redis.call('HGET', queue.name, bucket), -units)
  if back > 0 then
    redis.call('HINCRBY', queue.name, bucket, text(-back))
    redis.call('HINCRBY', queue.name, 'sum', text(-back))
  end
end

local function corrections(first, last)
  for i = first, last do
    local at = 7 * charged + 5 * (i - charged)
    local kind, window, units = ARGV[at], number(ARGV[at + 1]), number(ARGV[at + 2])
    correct[kind](KEYS[i], window, units, ARGV[at + 3], ARGV[at + 4])
  end
end

local answer, found, granted = { 1 }, {}, true
corrections(charged + 1, charged + certain)
for i = 1, charged do
  local at, to = 7 * i - 2, 6 * i - 4
  local kind, limit, window = ARGV[at], number(ARGV[at + 1]), number(ARGV[at + 2])
  local burst, units = number(ARGV[at + 3]), number(ARGV[at + 4])
  local allows, remaining, after, state = look[kind](KEYS[i], limit, window, burst, units)
  granted, found[i] = granted and allows, state or 0
  answer[to], answer[to + 1], answer[to + 2] = allows and 1 or 0, remaining, after
  answer[to + 3], answer[to + 4], answer[to + 5] = 0, 0, 0
end
if not granted or lease_ms == 0 then
  answer[1] = granted and 1 or 0
  return answer
end
for i = 1, charged do
  local at, to = 7 * i - 2, 6 * i - 4
  local taken = math.max(math.min(number(ARGV[at + 5]), answer[to + 1]), number(ARGV[at + 4]))
  local window, ahead = number(ARGV[at + 2]), number(ARGV[at + 6])
  local bucket, index = count[ARGV[at]](KEYS[i], window, taken, ahead, found[i])
  answer[to + 1] = answer[to + 1] - taken
  answer[to + 3], answer[to + 4], answer[to + 5] = taken, bucket, index
end
corrections(charged + certain + 1, #KEYS)
return answer
