-- All charges of a request, or none; and what earlier ones turn out to have been. The arithmetic is that of
-- `quota.rs` and `sliding.rs`, where it is explained.
-- KEYS: what each charge counts under, then what each correction does.
-- ARGV: a lease, its milliseconds (0: only look), the number of charges, and of the corrections that hold in any
-- case, which come first (others hold if all charges are counted), and 1 to be told where charges are counted. For
-- each charge its kind (s, f: sliding and fixed window; g: gcra; l: leases), limit, window in ms, burst, units, units
-- to take at most, buckets ahead; for each correction its kind, window in ms, units to add or (below 0) to give
-- back, where they were counted (the bucket, or the microseconds of a unit), and in which period.
-- Answers 1 if all are counted; for each charge what remains (-1 and less if it was refused: -1 less what remains)
-- and for how many ms; then, if wanted and counted, for each charge how many units, in which bucket and period.
-- Redis does nothing else meanwhile, so it is written for speed: `x - x % n` is cheaper than `math.floor`,
-- and numbers go to Redis as they are, which writes whole ones with all their digits.
local call = redis.call
local time = call('TIME')
local us = time[1] * 1000000 + time[2]
local ms = (us - us % 1000) / 1000
local lease, lease_ms, charged, certain = ARGV[1], ARGV[2] + 0, ARGV[3] + 0, ARGV[4] + 0
local is_told = ARGV[5] == '1'

-- What all counts of one window have in common now: how many ms a bucket is, the bucket of now, the first that is
-- in the window; the number of the period, and how keys end.
local clocks = {}

local function clock_of(window)
  local clock = clocks[window]
  if not clock then
    local width = window < 1200 and 1 or (window - window % 600) / 600
    local here, index = (ms - ms % width) / width, (ms - ms % window) / window
    clock = {
      width = width, here = here, first = here - window / width,
      index = index, period = ':' .. index, queue = ':last' .. window / 1000 .. 's',
    }
    clocks[window] = clock
  end
  return clock
end

-- A queue in a hash: `head` and `tail` name buckets, `sum` is what all hold and `last` what the tail holds. Of the
-- others `<bucket>` is what it holds, and `<bucket>>` names the next.
local function shorten(queue)
  local name, head, tail, sum = queue.name, queue[1], queue[2], queue[3]
  while head ~= tail and head - queue.clock.first < 0 do
    local bucket = call('HMGET', name, head, head .. '>')
    call('HDEL', name, head, head .. '>')
    head, sum = bucket[2], sum - bucket[1]
  end
  if head - queue.clock.first < 0 then
    call('DEL', name)
    queue[1], queue[2], queue[3], queue[4] = false, false, 0, 0
  else
    call('HSET', name, 'head', head, 'sum', sum)
    queue[1], queue[3] = head, sum
  end
end

local function queue_of(key, clock)
  local name = key .. clock.queue
  local queue = call('HMGET', name, 'head', 'tail', 'sum', 'last')
  queue.name, queue.clock = name, clock
  queue[3], queue[4] = (queue[3] or 0) + 0, (queue[4] or 0) + 0
  if queue[1] and queue[1] - clock.first < 0 then
    shorten(queue)
  end
  return queue
end

local function push(queue, window, units, ahead)
  local name, clock, tail, sum = queue.name, queue.clock, queue[2], queue[3] + units
  local bucket = clock.here + ahead
  if tail and tail - bucket >= 0 then
    call('HSET', name, 'sum', sum, 'last', queue[4] + units)
    return tail
  end
  if tail then
    call('HSET', name, tail, queue[4], tail .. '>', bucket, 'tail', bucket, 'sum', sum, 'last', units)
  else
    call('HSET', name, 'head', bucket, 'tail', bucket, 'sum', sum, 'last', units)
  end
  call('PEXPIRE', name, (bucket + 1) * clock.width + window - ms)
  return bucket
end

-- A period's count, which applications read.
local function add(key, units, expires)
  if call('INCRBY', key, units) - units == 0 then
    call('PEXPIRE', key, expires)
  end
end

local look, count = {}, {}

function look.s(key, limit, window, _, units)
  local clock = clock_of(window)
  local queue = queue_of(key, clock)
  local head, sum = queue[1], queue[3]
  local excess, until_ = sum + units - limit, head or clock.here
  while head and excess > 0 do
    until_ = head
    if head == queue[2] then
      break
    end
    local bucket = call('HMGET', queue.name, head, head .. '>')
    excess, head = excess - bucket[1], bucket[2]
  end
  local after = (until_ + 1) * clock.width + window - ms
  return sum + units <= limit, sum < limit and limit - sum or 0, after > 0 and after or 0, queue
end

function look.f(key, limit, window, _, units)
  local counted = (call('GET', key .. clock_of(window).period) or 0) + 0
  return counted + units <= limit, counted < limit and limit - counted or 0, window - ms % window
end

function look.g(key, limit, window, burst, units)
  local every = math.ceil(window * 1000 / limit)
  local tat = math.max((call('GET', key) or 0) + 0, us)
  local owed, tolerated = tat - us, (burst - units) * every
  local allows = owed <= tolerated
  local after = allows and owed + units * every or owed - tolerated
  local remaining = math.floor(math.max(burst * every - owed, 0) / every)
  return allows, remaining, math.ceil(after / 1000), tat + units * every
end

function look.l(key, limit)
  call('ZREMRANGEBYSCORE', key, '-inf', ms)
  local held = call('ZCARD', key)
  return held < limit, math.max(limit - held, 0), 0
end

function count.s(key, window, units, ahead, queue)
  local clock = queue.clock
  add(key .. clock.period, units, 2 * window)
  return push(queue, window, units, ahead), clock.index
end

function count.f(key, window, units)
  local clock = clock_of(window)
  add(key .. clock.period, units, window)
  return 0, clock.index
end

function count.g(key, _, _, _, tat)
  call('SET', key, tat, 'PX', math.ceil((tat - us) / 1000))
  return 0, 0
end

function count.l(key)
  call('ZADD', key, ms + lease_ms, lease)
  call('PEXPIRE', key, lease_ms)
  return 0, 0
end

local function corrections(first, last)
  -- Gives back what a field or a key still holds of so many units.
  local function lessen(held, units)
    return math.min((held or 0) + 0, units)
  end

  local correct = {}

  function correct.g(key, _, units, every)
    local tat = math.max((call('GET', key) or 0) + 0, us) + units * every
    if tat > us then
      call('SET', key, tat, 'PX', math.ceil((tat - us) / 1000))
    else
      call('DEL', key)
    end
  end

  function correct.f(key, window, units, _, index)
    if units > 0 then
      return add(key .. clock_of(window).period, units, window)
    end
    local there = key .. ':' .. index
    local back = lessen(call('GET', there), -units)
    if back > 0 then
      call('DECRBY', there, back)
    end
  end

  function correct.s(key, window, units, bucket, index)
    local queue = queue_of(key, clock_of(window))
    if units > 0 then
      add(key .. queue.clock.period, units, 2 * window)
      return push(queue, window, units, 0)
    end
    correct.f(key, window, units, bucket, index)
    local field = bucket == queue[2] and 'last' or bucket
    local back = lessen(call('HGET', queue.name, field), -units)
    if back > 0 then
      call('HINCRBY', queue.name, field, -back)
      call('HINCRBY', queue.name, 'sum', -back)
    end
  end

  for i = first, last do
    local at = 7 * charged + 5 * (i - charged) + 1
    correct[ARGV[at]](KEYS[i], ARGV[at + 1] + 0, ARGV[at + 2] + 0, ARGV[at + 3], ARGV[at + 4])
  end
end

local answer, found, granted = { 1 }, {}, true
if certain > 0 then
  corrections(charged + 1, charged + certain)
end
local at, to = 6, 2
for i = 1, charged do
  local allows, remaining, after, state =
    look[ARGV[at]](KEYS[i], ARGV[at + 1] + 0, ARGV[at + 2] + 0, ARGV[at + 3] + 0, ARGV[at + 4] + 0)
  granted, found[i] = granted and allows, state
  answer[to], answer[to + 1] = allows and remaining or -1 - remaining, after
  at, to = at + 7, to + 2
end
if not granted or lease_ms == 0 then
  answer[1] = granted and 1 or 0
  return answer
end
at, to = 6, 2 * charged + 2
for i = 1, charged do
  local taken, left = ARGV[at + 4], answer[2 * i]
  if taken ~= ARGV[at + 5] then
    taken = math.max(math.min(ARGV[at + 5] + 0, left), taken + 0)
  end
  local bucket, index = count[ARGV[at]](KEYS[i], ARGV[at + 2] + 0, taken, ARGV[at + 6] + 0, found[i])
  answer[2 * i] = left - taken
  if is_told then
    answer[to], answer[to + 1], answer[to + 2] = taken + 0, bucket + 0, index
  end
  at, to = at + 7, to + 3
end
if charged + certain < #KEYS then
  corrections(charged + certain + 1, #KEYS)
end
return answer
