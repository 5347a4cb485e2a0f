//! Counts in this process: exact for one instance, and the stand-in while Redis is gone.
//!
//! Invariant: at most [`KEYS_MAX`] counts are kept, however many callers there are, and finding those that
//! mean nothing any more takes no request longer than a look at each of them once a second. Counts of windows
//! that slide hold [`BUCKETS_MAX`] buckets together, and one each.

use super::{Change, Charge, Correction, Levels, Mark, Taken};
use crate::stage::limit::quota::{Gcra, Level, Quota, fixed, in_flight};
use crate::stage::limit::sliding::{Sliding, Span};
use smallvec::SmallVec;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// About 20 MiB of counts. While there are so many, new callers are not counted.
const KEYS_MAX: usize = 1 << 17;

/// At most 64 MiB, half of it in reserve. While there are so many, counts get coarser and allow no more.
const BUCKETS_MAX: usize = 1 << 21;

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
    /// Of all windows that slide.
    buckets: usize,
    buckets_max: usize,
    /// Sweep when there are so many.
    sweep_at: usize,
    /// And not before, however many there are.
    next_sweep_us: u64,
    uncounted: u64,
}

/// What is counted under one key.
#[derive(Debug)]
enum Count {
    Sliding {
        window_ms: u64,
        queue: Sliding,
    },
    Fixed {
        window_ms: u64,
        /// Number of the window since 1970.
        index: u64,
        count: u64,
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
                buckets: 0,
                buckets_max: BUCKETS_MAX,
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
        let mut marks = SmallVec::new();
        if granted {
            kept.sweep(self.keys_max, now_us);
            for (charge, level) in charges.iter().zip(&mut levels) {
                let mut mark = Mark::default();
                if kept.has_room_for(&charge.key, self.keys_max) {
                    mark = kept.add(charge, (lease, self.lease_ms), now_us);
                    level.remaining -= charge.units;
                }
                marks.push(mark);
            }
        }
        Taken {
            granted,
            levels,
            marks,
        }
    }

    /// How these charges stand; nothing is counted.
    pub fn look(&self, charges: &[Charge], now_us: u64) -> Levels {
        self.lock().levels(charges, now_us)
    }

    /// Counts what a charge turns out to have been.
    pub fn correct(&self, correction: &Correction, now_us: u64) {
        let mut kept = self.lock();
        match correction.what {
            Change::More(units) => {
                if kept.has_room_for(&correction.key, self.keys_max) {
                    let charge = Charge {
                        key: correction.key.clone(),
                        quota: correction.quota,
                        units,
                        most: units,
                        may_change: true,
                    };
                    kept.add(&charge, ("", 0), now_us);
                }
            }
            Change::Less(units, mark) => {
                if let Some(count) = kept.by_key.get_mut(&correction.key) {
                    count.lessen(correction.quota, (units, mark), now_us);
                }
            }
        }
    }

    /// Forgets what was counted, but for places in flight.
    pub fn reset(&self, charges: &[Charge]) {
        let mut kept = self.lock();
        for charge in charges {
            if !matches!(charge.quota, Quota::InFlight { .. }) {
                let forgotten = kept.by_key.remove(&charge.key);
                kept.buckets -= forgotten.map_or(0, |count| count.buckets());
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
    fn levels(&mut self, charges: &[Charge], now_us: u64) -> Levels {
        let levels = charges.iter().map(|charge| {
            let count = self.by_key.get_mut(&charge.key);
            let before = count.as_ref().map_or(0, |count| count.buckets());
            let (level, after) = level(count, charge, now_us);
            self.buckets = self.buckets + after - before;
            level
        });
        levels.collect()
    }

    fn add(&mut self, charge: &Charge, lease: (&str, u64), now_us: u64) -> Mark {
        let (units, millis) = (charge.units, now_us / 1_000);
        let mut mark = Mark {
            units,
            ..Mark::default()
        };
        if matches!(charge.quota, Quota::InFlight { .. }) {
            self.hold(&charge.key, lease, millis);
            return mark;
        }
        let grow = self.buckets < self.buckets_max;
        let count = self.count_for(charge);
        let before = count.buckets();
        match (count, charge.quota) {
            (Count::Sliding { window_ms, queue }, _) => {
                let span = Span {
                    window_ms: *window_ms,
                    now_ms: millis,
                };
                (mark.bucket, mark.index) =
                    (queue.count(span, units, 0, grow), millis / *window_ms);
                let after = queue.kept();
                self.buckets = self.buckets + after - before;
            }
            (
                Count::Fixed {
                    window_ms,
                    index,
                    count,
                },
                _,
            ) => {
                mark.index = millis / *window_ms;
                let before = if *index == mark.index { *count } else { 0 };
                (*index, *count) = (mark.index, before + units);
            }
            (Count::Tat(tat), quota) => *tat = moved(quota, *tat, now_us, signed(units)),
            (Count::Held(_), _) => {}
        }
        mark
    }

    /// What is counted under the key of a charge, begun anew if it is of another kind: from before a reload.
    fn count_for(&mut self, charge: &Charge) -> &mut Count {
        let quota = charge.quota;
        if !self.by_key.contains_key(&charge.key) {
            self.by_key.insert(charge.key.clone(), Count::new(quota));
        }
        let count = self
            .by_key
            .get_mut(&charge.key)
            .expect("it was inserted above");
        if !count.is_of(quota) {
            self.buckets -= count.buckets();
            *count = Count::new(quota);
        }
        count
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
            self.buckets = self.by_key.values().map(Count::buckets).sum();
            let twice = (self.by_key.len() * 2).max(SWEEP_KEYS_MIN);
            self.sweep_at = twice.min(keys_max);
            self.next_sweep_us = now_us + SWEEP_PERIOD_US;
        }
    }
}

impl Count {
    fn new(quota: Quota) -> Self {
        match quota {
            Quota::Window {
                window_ms,
                sliding: true,
                ..
            } => Self::Sliding {
                window_ms,
                queue: Sliding::default(),
            },
            Quota::Window { window_ms, .. } => Self::Fixed {
                window_ms,
                index: 0,
                count: 0,
            },
            Quota::Gcra { .. } => Self::Tat(0),
            Quota::InFlight { .. } => Self::Held(Vec::new()),
        }
    }

    fn is_of(&self, quota: Quota) -> bool {
        match (self, quota) {
            (
                Self::Sliding { window_ms: own, .. },
                Quota::Window {
                    window_ms, sliding, ..
                },
            ) => sliding && *own == window_ms,
            (
                Self::Fixed { window_ms: own, .. },
                Quota::Window {
                    window_ms, sliding, ..
                },
            ) => !sliding && *own == window_ms,
            (Self::Tat(_), Quota::Gcra { .. }) | (Self::Held(_), Quota::InFlight { .. }) => true,
            _ => false,
        }
    }

    fn buckets(&self) -> usize {
        match self {
            Self::Sliding { queue, .. } => queue.kept(),
            _ => 0,
        }
    }

    fn matters(&self, now_us: u64) -> bool {
        let millis = now_us / 1_000;
        match self {
            Self::Sliding { window_ms, queue } => queue.matters(Span {
                window_ms: *window_ms,
                now_ms: millis,
            }),
            Self::Fixed {
                window_ms, index, ..
            } => millis / window_ms <= *index,
            Self::Tat(tat) => *tat > now_us,
            Self::Held(leases) => leases.iter().any(|lease| lease.expires_ms > millis),
        }
    }

    /// Gives back units where they were counted.
    fn lessen(&mut self, quota: Quota, (units, mark): (u64, Mark), now_us: u64) {
        match self {
            _ if !self.is_of(quota) => {}
            Self::Sliding { queue, .. } => queue.give_back(mark.bucket, units),
            Self::Fixed { index, count, .. } => {
                if *index == mark.index {
                    *count = count.saturating_sub(units);
                }
            }
            Self::Tat(tat) => *tat = moved(quota, *tat, now_us, -signed(units)),
            Self::Held(_) => {}
        }
    }
}

/// How a charge stands, and how many buckets its count has then. A count of another kind is from before a
/// reload, and counts for nothing.
fn level(count: Option<&mut Count>, charge: &Charge, now_us: u64) -> (Level, usize) {
    let (millis, units) = (now_us / 1_000, charge.units);
    let buckets = count.as_ref().map_or(0, |count| count.buckets());
    let count = count.filter(|count| count.is_of(charge.quota));
    let level = match charge.quota {
        Quota::Window {
            limit,
            window_ms,
            sliding: true,
        } => {
            let span = Span {
                window_ms,
                now_ms: millis,
            };
            if let Some(Count::Sliding { queue, .. }) = count {
                let level = queue.level(limit, span, units);
                return (level, queue.kept());
            }
            Sliding::default().level(limit, span, units)
        }
        Quota::Window {
            limit, window_ms, ..
        } => {
            let counted = match count {
                Some(Count::Fixed { index, count, .. }) if *index == millis / window_ms => *count,
                _ => 0,
            };
            fixed(limit, (window_ms, millis % window_ms), counted, units)
        }
        Quota::Gcra {
            limit,
            window_ms,
            burst,
        } => {
            let tat = match count {
                Some(Count::Tat(tat)) => *tat,
                _ => 0,
            };
            Gcra::new(limit, window_ms, burst).level(tat, now_us, units)
        }
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
    };
    (level, buckets)
}

/// A `tat` with so many more units, or fewer.
fn moved(quota: Quota, tat: u64, now_us: u64, units: i64) -> u64 {
    match quota {
        Quota::Gcra {
            limit,
            window_ms,
            burst,
        } => Gcra::new(limit, window_ms, burst).count(tat, now_us, units),
        _ => tat,
    }
}

fn signed(units: u64) -> i64 {
    i64::try_from(units).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::limit::quota::LEASE_MS;

    fn charge(key: &str, quota: Quota) -> Charge {
        Charge {
            key: key.to_owned(),
            quota,
            units: 1,
            most: 1,
            may_change: false,
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

    #[test]
    fn no_number_of_callers_keeps_more_buckets_than_there_is_room_for() {
        let memory = Memory::new(100, 0);
        memory.lock().buckets_max = 10;
        let ask = |key, at_ms: u64| {
            memory
                .take(&[per_minute(key, 5)], "x", at_ms * 1_000)
                .granted
        };
        for at in 0..5 {
            assert!(["a", "b", "c"].iter().all(|key| ask(key, at * 1_000)));
        }
        // Ten, and those of a key that had none.
        assert!(ask("d", 5_000));
        assert_eq!(memory.lock().buckets, 11);
        assert!(!ask("a", 59_000), "and nobody is allowed more");
        assert!(ask("a", 64_100), "what was counted coarsely leaves late");
        // What is forgotten makes room.
        memory.reset(&[per_minute("b", 5), per_minute("none", 5)]);
        assert!(memory.lock().buckets < 11);
        let kept = memory
            .lock()
            .by_key
            .values()
            .map(Count::buckets)
            .sum::<usize>();
        assert_eq!(memory.lock().buckets, kept);
    }
}
