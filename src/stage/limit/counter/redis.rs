//! Counts in Redis, shared by all instances: one script decides a whole request, by Redis' own clock.

use super::{Charge, Levels, Taken};
use crate::stage::limit::quota::{LEASE_MS, Level, Quota};
use crate::store::redis::{Redis, Script, Unavailable};
use ::redis::Cmd;
use std::sync::Arc;

const TAKE: &str = include_str!("take.lua");

/// Frees places in flight: KEYS and ARGV go together.
const GIVE_BACK: &str = r"
for i, key in ipairs(KEYS) do
  redis.call('ZREM', key, ARGV[i])
end
return #KEYS
";

/// Holds places in flight for another while; ARGV begins with how long. One that is gone, because Redis
/// has forgotten it, is there again: whoever holds it is still at work.
const RENEW: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, now + ARGV[1], ARGV[i + 1])
  redis.call('PEXPIRE', key, ARGV[1])
end
return #KEYS
";

/// Forgets what was counted: this window and the one before, or the debt of a bucket. ARGV: windows in ms, 0
/// for no window.
const RESET: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i, key in ipairs(KEYS) do
  local window = tonumber(ARGV[i])
  if window == 0 then
    redis.call('DEL', key)
  else
    local index = math.floor(now / window)
    redis.call('DEL', key .. ':' .. string.format('%.0f', index), key .. ':' .. string.format('%.0f', index - 1))
  end
end
return #KEYS
";

/// A place in flight: its key, and by which lease it is held.
pub type Place = (String, String);

/// Counts by key, in Redis.
pub struct Shared {
    pub redis: Arc<Redis>,
    take: Script,
    give_back: Script,
    renew: Script,
    reset: Script,
}

impl Shared {
    pub fn new(redis: Arc<Redis>) -> Self {
        Self::with_clock(redis, None)
    }

    /// With a clock of its own, for tests: the last two arguments, seconds and microseconds.
    pub(super) fn with_clock(redis: Arc<Redis>, clock: Option<&str>) -> Self {
        let take = match clock {
            None => TAKE.to_owned(),
            Some(clock) => TAKE.replace("redis.call('TIME')", clock),
        };
        Self {
            redis,
            take: Script::new(take),
            give_back: Script::new(GIVE_BACK),
            renew: Script::new(RENEW),
            reset: Script::new(RESET),
        }
    }

    /// Counts everything or nothing. Places in flight are held by `lease`.
    pub async fn take(&self, charges: &[Charge], lease: &str) -> Result<Taken, Unavailable> {
        self.take_at(charges, (lease, LEASE_MS), None).await
    }

    /// How these charges stand; nothing is counted.
    pub async fn look(&self, charges: &[Charge]) -> Result<Levels, Unavailable> {
        let taken = self.take_at(charges, ("", 0), None).await?;
        Ok(taken.levels)
    }

    /// Forgets what was counted, but for places in flight.
    pub async fn reset(&self, charges: &[Charge]) -> Result<(), Unavailable> {
        let counted: Vec<(&str, u64)> = charges
            .iter()
            .filter_map(|charge| match charge.quota {
                Quota::Window { window_ms, .. } => Some((charge.key.as_str(), window_ms)),
                Quota::Gcra { .. } => Some((charge.key.as_str(), 0)),
                Quota::InFlight { .. } => None,
            })
            .collect();
        let fill = |command: &mut Cmd| {
            for (key, _) in &counted {
                command.arg(*key);
            }
            for (_, window_ms) in &counted {
                command.arg(*window_ms);
            }
        };
        let answer: u64 = self.redis.script(&self.reset, counted.len(), fill).await?;
        debug_assert_eq!(answer, counted.len() as u64);
        Ok(())
    }

    pub(super) async fn take_at(
        &self,
        charges: &[Charge],
        (lease, lease_ms): (&str, u64),
        now_us: Option<u64>,
    ) -> Result<Taken, Unavailable> {
        let fill = |command: &mut Cmd| {
            for charge in charges {
                command.arg(&charge.key);
            }
            command.arg(lease).arg(lease_ms);
            for charge in charges {
                write(command, charge.quota);
            }
            if let Some(now_us) = now_us {
                command.arg(now_us / 1_000_000).arg(now_us % 1_000_000);
            }
        };
        let answer: Vec<u64> = self.redis.script(&self.take, charges.len(), fill).await?;
        read(&answer, charges.len()).ok_or(Unavailable)
    }

    /// Frees these places.
    pub async fn give_back(&self, places: &[Place]) -> Result<(), Unavailable> {
        let fill = |command: &mut Cmd| {
            for (key, _) in places {
                command.arg(key);
            }
            for (_, lease) in places {
                command.arg(lease);
            }
        };
        let answer: u64 = self
            .redis
            .script(&self.give_back, places.len(), fill)
            .await?;
        debug_assert_eq!(answer, places.len() as u64);
        Ok(())
    }

    /// Holds these places for another while.
    pub async fn renew(&self, places: &[Place]) -> Result<(), Unavailable> {
        let fill = |command: &mut Cmd| {
            for (key, _) in places {
                command.arg(key);
            }
            command.arg(LEASE_MS);
            for (_, lease) in places {
                command.arg(lease);
            }
        };
        let answer: u64 = self.redis.script(&self.renew, places.len(), fill).await?;
        debug_assert_eq!(answer, places.len() as u64);
        Ok(())
    }
}

fn write(command: &mut Cmd, quota: Quota) {
    let (kind, window_ms, burst) = match quota {
        Quota::Window {
            window_ms,
            sliding: true,
            ..
        } => ("s", window_ms, 0),
        Quota::Window { window_ms, .. } => ("f", window_ms, 0),
        Quota::Gcra {
            window_ms, burst, ..
        } => ("g", window_ms, burst),
        Quota::InFlight { .. } => ("l", 0, 0),
    };
    command.arg(kind).arg(quota.limit());
    command.arg(window_ms).arg(burst);
}

fn read(answer: &[u64], charges: usize) -> Option<Taken> {
    let (granted, levels) = answer.split_first()?;
    let levels: Levels = levels
        .chunks_exact(3)
        .map(|level| Level {
            allows: level[0] == 1,
            remaining: level[1],
            after_ms: level[2],
        })
        .collect();
    (levels.len() == charges).then_some(Taken {
        granted: *granted == 1,
        levels,
    })
}
