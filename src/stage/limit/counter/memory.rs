//! Counts in this process: exact for one instance, and the stand-in while Redis is gone.
//!
//! Invariant: at most [`KEYS_MAX`] counts are kept, however many callers there are, and finding those that
//! mean nothing any more takes no request longer than a look at each of them once a second.

use super::{Charge, Levels, Taken};
use crate::stage::limit::quota::{Counts, Gcra, Level, Quota, Window, in_flight};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// About 20 MiB of counts. While there are so many, new callers are not counted.
const KEYS_MAX: usize = 1 << 17;

/// Fewer counts are not worth looking for those that mean nothing any more.
const SWEEP_KEYS_MIN: usize = 1 << 12;

/// A full table takes milliseconds to look through.
const SWEEP_PERIOD_US: u64 = 1_000_000;

/// Counts by key.
#[derive(Debug)]
pub struct Memory {
    counts: Mutex<Kept>,
    keys_max: usize,
    /// A place in flight expires after this. Never, where only this process knows of it: it gives each back.
    lease_ms: u64,
}

#[derive(Debug)]
struct Kept {
    by_key: HashMap<String, Count>,
    /// Sweep when there are so many.
    sweep_at: usize,
    /// And not before, however many there are.
    next_sweep_us: u64,
    uncounted: u64,
}

/// What is counted under one key.
#[derive(Debug)]
enum Count {
    Window {
        window_ms: u64,
        /// Number of the window since 1970.
        index: u64,
        counts: Counts,
    },
    Tat(u64),
    Held(Vec<Lease>),
}

#[derive(Debug)]
struct Lease {
    id: String,
    expires_ms: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(KEYS_MAX, u64::MAX)
    }
}

impl Memory {
    pub fn new(keys_max: usize, lease_ms: u64) -> Self {
        Self {
            counts: Mutex::new(Kept {
                by_key: HashMap::new(),
                sweep_at: SWEEP_KEYS_MIN.min(keys_max),
                next_sweep_us: 0,
                uncounted: 0,
            }),
            keys_max,
            lease_ms,
        }
    }

    /// Counts everything or nothing, at `now_us` since 1970. Places in flight are held by `lease`.
    pub fn take(&self, charges: &[Charge], lease: &str, now_us: u64) -> Taken {
        let mut kept = self.lock();
        let mut levels = kept.levels(charges, now_us);
        let granted = levels.iter().all(|level| level.allows);
        if granted {
            kept.sweep(self.keys_max, now_us);
            for (charge, level) in charges.iter().zip(&mut levels) {
                if kept.has_room_for(&charge.key, self.keys_max) {
                    kept.add(charge, (lease, self.lease_ms), now_us);
                    level.remaining -= 1;
                }
            }
        }
        Taken { granted, levels }
    }

    /// How these charges stand; nothing is counted.
    pub fn look(&self, charges: &[Charge], now_us: u64) -> Levels {
        self.lock().levels(charges, now_us)
    }

    /// Forgets what was counted, but for places in flight.
    pub fn reset(&self, charges: &[Charge]) {
        let mut kept = self.lock();
        for charge in charges {
            if !matches!(charge.quota, Quota::InFlight { .. }) {
                kept.by_key.remove(&charge.key);
            }
        }
    }

    /// A place in flight is free again.
    pub fn give_back(&self, key: &str, lease: &str) {
        let mut kept = self.lock();
        if let Some(Count::Held(leases)) = kept.by_key.get_mut(key) {
            leases.retain(|held| held.id != lease);
            if leases.is_empty() {
                kept.by_key.remove(key);
            }
        }
    }

    /// Charges that were let through uncounted because there were too many callers.
    pub fn uncounted(&self) -> u64 {
        self.lock().uncounted
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A count is whole after every statement: a panic elsewhere does not spoil it.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn levels(&self, charges: &[Charge], now_us: u64) -> Levels {
        let levels = charges.iter().map(|charge| {
            let count = self.by_key.get(&charge.key);
            level(count, charge.quota, now_us)
        });
        levels.collect()
    }

    fn add(&mut self, charge: &Charge, lease: (&str, u64), now_us: u64) {
        let before = self.by_key.get(&charge.key);
        let millis = now_us / 1_000;
        let after = match charge.quota {
            Quota::Window { window_ms, .. } => {
                let mut counts = counts_at(before, window_ms, millis);
                counts.current += 1;
                Count::Window {
                    window_ms,
                    index: millis / window_ms,
                    counts,
                }
            }
            Quota::Gcra {
                limit,
                window_ms,
                burst,
            } => {
                let gcra = Gcra::new(limit, window_ms, burst);
                Count::Tat(gcra.count(tat_of(before), now_us))
            }
            Quota::InFlight { .. } => {
                return self.hold(&charge.key, lease, millis);
            }
        };
        match self.by_key.get_mut(&charge.key) {
            Some(count) => *count = after,
            None => drop(self.by_key.insert(charge.key.clone(), after)),
        }
    }

    fn hold(&mut self, key: &str, (id, lease_ms): (&str, u64), millis: u64) {
        let lease = Lease {
            id: id.to_owned(),
            expires_ms: millis.saturating_add(lease_ms),
        };
        match self.by_key.get_mut(key) {
            Some(Count::Held(leases)) => {
                leases.retain(|lease| lease.expires_ms > millis);
                leases.push(lease);
            }
            _ => drop(self.by_key.insert(key.to_owned(), Count::Held(vec![lease]))),
        }
    }

    fn has_room_for(&mut self, key: &str, keys_max: usize) -> bool {
        let has_room = self.by_key.len() < keys_max || self.by_key.contains_key(key);
        self.uncounted += u64::from(!has_room);
        has_room
    }

    /// Forgets what means nothing any more, when there has come to be twice as much as the last time: so each
    /// count is looked at about once for each that is added.
    fn sweep(&mut self, keys_max: usize, now_us: u64) {
        if self.by_key.len() >= self.sweep_at && now_us >= self.next_sweep_us {
            self.by_key.retain(|_, count| count.matters(now_us));
            let twice = (self.by_key.len() * 2).max(SWEEP_KEYS_MIN);
            self.sweep_at = twice.min(keys_max);
            self.next_sweep_us = now_us + SWEEP_PERIOD_US;
        }
    }
}

impl Count {
    fn matters(&self, now_us: u64) -> bool {
        let millis = now_us / 1_000;
        match self {
            Self::Window {
                window_ms, index, ..
            } => millis / window_ms <= index + 1,
            Self::Tat(tat) => *tat > now_us,
            Self::Held(leases) => leases.iter().any(|lease| lease.expires_ms > millis),
        }
    }
}

fn level(count: Option<&Count>, quota: Quota, now_us: u64) -> Level {
    let millis = now_us / 1_000;
    match quota {
        Quota::Window {
            limit,
            window_ms,
            sliding,
        } => {
            let mut counts = counts_at(count, window_ms, millis);
            if !sliding {
                counts.previous = 0;
            }
            let window = Window {
                limit,
                window_ms,
                elapsed_ms: millis % window_ms,
            };
            window.level(counts, sliding)
        }
        Quota::Gcra {
            limit,
            window_ms,
            burst,
        } => Gcra::new(limit, window_ms, burst).level(tat_of(count), now_us),
        Quota::InFlight { limit } => {
            let held = match count {
                Some(Count::Held(leases)) => leases
                    .iter()
                    .filter(|lease| lease.expires_ms > millis)
                    .count(),
                _ => 0,
            };
            in_flight(limit, held as u64)
        }
    }
}

/// What was counted, as seen from the window that it is now. A count of another kind is from before a
/// reload, and counts for nothing.
fn counts_at(count: Option<&Count>, window_ms: u64, millis: u64) -> Counts {
    let Some(Count::Window {
        window_ms: counted_ms,
        index,
        counts,
    }) = count
    else {
        return Counts::default();
    };
    let here = millis / window_ms;
    match *index {
        _ if *counted_ms != window_ms => Counts::default(),
        index if index == here => *counts,
        index if index + 1 == here => Counts {
            current: 0,
            previous: counts.current,
        },
        _ => Counts::default(),
    }
}

fn tat_of(count: Option<&Count>) -> u64 {
    match count {
        Some(Count::Tat(tat)) => *tat,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::limit::quota::LEASE_MS;

    fn charge(key: &str, quota: Quota) -> Charge {
        Charge {
            key: key.to_owned(),
            quota,
        }
    }

    fn per_minute(key: &str, limit: u64) -> Charge {
        let window_ms = 60_000;
        let sliding = true;
        charge(
            key,
            Quota::Window {
                limit,
                window_ms,
                sliding,
            },
        )
    }

    #[test]
    fn a_refusal_by_one_rule_takes_nothing_from_another() {
        let memory = Memory::default();
        let both = [per_minute("a", 2), per_minute("b", 5)];
        for (granted, left) in [(true, (1, 4)), (true, (0, 3)), (false, (0, 3))] {
            let taken = memory.take(&both, "x", 0);
            let found = (taken.levels[0].remaining, taken.levels[1].remaining);
            assert_eq!((taken.granted, found), (granted, left));
        }
    }

    #[test]
    fn a_place_is_free_when_it_is_given_back_or_expires() {
        let memory = Memory::new(100, LEASE_MS);
        let one = [charge("a", Quota::InFlight { limit: 1 })];
        let at = |ms: u64, lease| memory.take(&one, lease, ms * 1_000).granted;
        assert!(at(0, "x"));
        assert!(!at(LEASE_MS - 1, "y"));
        assert!(at(LEASE_MS, "y"));
        memory.give_back("a", "x");
        assert!(!at(LEASE_MS, "z"), "x is not the one that holds it");
        memory.give_back("a", "y");
        assert!(at(LEASE_MS, "z"));
    }

    #[test]
    fn no_number_of_callers_makes_it_grow_without_end() {
        let memory = Memory::new(100, 0);
        let ask = |caller: u32, at_us| {
            let charge = [per_minute(&caller.to_string(), 1)];
            memory.take(&charge, "x", at_us).granted
        };
        assert!((0..1_000).all(|caller| ask(caller, 0)));
        assert_eq!(memory.lock().by_key.len(), 100);
        assert_eq!(memory.uncounted(), 900);
        assert!(!ask(0, 1), "whoever is known stays limited");
        // Two minutes later they mean nothing, and there is room again.
        assert!(ask(5_000, 120_000_000));
        assert_eq!(memory.lock().by_key.len(), 1);
        assert_eq!(memory.uncounted(), 900);
    }
}
