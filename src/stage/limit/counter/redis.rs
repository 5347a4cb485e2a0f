//! Counts in Redis, shared by all instances: one script decides a whole request, by Redis' own clock.

use super::{Change, Charge, Correction, Levels, Mark, Taken};
use crate::stage::limit::quota::{Gcra, LEASE_MS, Level, Quota};
use crate::stage::limit::sliding::ahead;
use crate::store::redis::{Redis, Script, Unavailable};
use ::redis::Cmd;
use smallvec::SmallVec;
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

/// Forgets what was counted: this window, the one before and the one that slides, or the debt of a bucket.
/// ARGV: windows in ms, 0 for no window.
const RESET: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i, key in ipairs(KEYS) do
  local window = tonumber(ARGV[i])
  if window == 0 then
    redis.call('DEL', key)
  else
    local index = math.floor(now / window)
    local name = function(part) return key .. ':' .. string.format('%.0f', part) end
    redis.call('DEL', name(index), name(index - 1), key .. string.format(':last%.0fs', window / 1000))
  end
end
return #KEYS
";

/// A place in flight: its key, and by which lease it is held.
pub type Place = (String, String);

/// What is to be counted in one step.
#[derive(Clone, Copy, Default)]
pub struct Asked<'a> {
    /// Corrected first, in any case.
    pub corrections: &'a [Correction],
    pub charges: &'a [Charge],
    /// Corrected if all charges are counted.
    pub undone: &'a [Correction],
}

impl Asked<'_> {
    fn all_corrections(&self) -> impl Iterator<Item = &Correction> {
        self.corrections.iter().chain(self.undone)
    }
}

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
            Some(clock) => TAKE.replace("call('TIME')", clock),
        };
        Self {
            redis,
            take: Script::new(take),
            give_back: Script::new(GIVE_BACK),
            renew: Script::new(RENEW),
            reset: Script::new(RESET),
        }
    }

    /// Counts everything or nothing, in one step. Places in flight are held by `lease`.
    pub async fn take(&self, asked: Asked<'_>, lease: &str) -> Result<Taken, Unavailable> {
        self.take_at(asked, (lease, LEASE_MS), None).await
    }

    /// How these charges stand; nothing is counted.
    pub async fn look(&self, charges: &[Charge]) -> Result<Levels, Unavailable> {
        let asked = Asked {
            charges,
            ..Asked::default()
        };
        let taken = self.take_at(asked, ("", 0), None).await?;
        Ok(taken.levels)
    }

    /// Counts what charges turn out to have been.
    pub async fn correct(&self, corrections: &[Correction]) -> Result<(), Unavailable> {
        let asked = Asked {
            corrections,
            ..Asked::default()
        };
        self.take(asked, "").await.map(drop)
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
        asked: Asked<'_>,
        (lease, lease_ms): (&str, u64),
        now_us: Option<u64>,
    ) -> Result<Taken, Unavailable> {
        let Asked { charges, .. } = asked;
        let is_told = charges.iter().any(Charge::needs_mark);
        let fill = |command: &mut Cmd| {
            for charge in charges {
                command.arg(&charge.key);
            }
            for correction in asked.all_corrections() {
                command.arg(&correction.key);
            }
            command.arg(lease).arg(lease_ms);
            command.arg(charges.len()).arg(asked.corrections.len());
            command.arg(u8::from(is_told));
            for charge in charges {
                write(command, charge);
            }
            for correction in asked.all_corrections() {
                write_correction(command, correction);
            }
            if let Some(now_us) = now_us {
                command.arg(now_us / 1_000_000).arg(now_us % 1_000_000);
            }
        };
        let keys = charges.len() + asked.all_corrections().count();
        let answer: Vec<i64> = self.redis.script(&self.take, keys, fill).await?;
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

fn kind(quota: Quota) -> &'static str {
    match quota {
        Quota::Window { sliding: true, .. } => "s",
        Quota::Window { .. } => "f",
        Quota::Gcra { .. } => "g",
        Quota::InFlight { .. } => "l",
    }
}

fn write(command: &mut Cmd, charge: &Charge) {
    let quota = charge.quota;
    let window_ms = quota.window_ms().unwrap_or_default();
    let ahead = if charge.most > charge.units {
        ahead(window_ms)
    } else {
        0
    };
    command.arg(kind(quota)).arg(quota.limit());
    command.arg(window_ms).arg(quota.at_once());
    command.arg(charge.units).arg(charge.most).arg(ahead);
}

fn write_correction(command: &mut Cmd, correction: &Correction) {
    let quota = correction.quota;
    command
        .arg(kind(quota))
        .arg(quota.window_ms().unwrap_or_default());
    let (units, mark) = match correction.what {
        Change::More(units) => (units.to_string(), Mark::default()),
        Change::Less(units, mark) => (format!("-{units}"), mark),
    };
    command.arg(units).arg(place(quota, mark)).arg(mark.index);
}

/// Of a window the bucket; of a debt what a unit of it is.
fn place(quota: Quota, mark: Mark) -> u64 {
    match quota {
        Quota::Gcra {
            limit,
            window_ms,
            burst,
        } => Gcra::new(limit, window_ms, burst).every_us,
        _ => mark.bucket,
    }
}

fn read(answer: &[i64], charges: usize) -> Option<Taken> {
    let (granted, rest) = answer.split_first()?;
    let (levels, marks) = rest.split_at_checked(2 * charges)?;
    let level = |pair: &[i64]| {
        let (left, allows) = (pair[0], pair[0] >= 0);
        Level {
            allows,
            remaining: (if allows { left } else { -1 - left }).unsigned_abs(),
            after_ms: pair[1].unsigned_abs(),
        }
    };
    let mark = |part: &[i64]| Mark {
        units: part[0].unsigned_abs(),
        bucket: part[1].unsigned_abs(),
        index: part[2].unsigned_abs(),
    };
    let mut marks: SmallVec<[Mark; 4]> = marks.chunks_exact(3).map(mark).collect();
    let granted = *granted == 1;
    if granted {
        marks.resize(charges, Mark::default());
    }
    Some(Taken {
        granted,
        levels: levels.chunks_exact(2).map(level).collect(),
        marks,
    })
}
