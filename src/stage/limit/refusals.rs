//! What is refused until a known time: an attacker then costs Redis nothing.
//!
//! Exact where requests are counted: a count can only grow until that time, so whoever asked would be refused as
//! well. An operator can make it smaller, and so can an answer that cost fewer tokens than was thought: here that
//! is known at once, at other instances after [`MEMORY_MAX`].

use super::counter::Charge;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// About 8 MiB. Those beyond it are asked for each time.
const REFUSALS_MAX: usize = 1 << 16;

const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// No refusal is believed for longer without asking: counts may have been reset.
pub const MEMORY_MAX: Duration = Duration::from_secs(5);

/// Refusals by key.
#[derive(Debug, Default)]
pub struct Refusals {
    known: Mutex<Known>,
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    by_key: HashMap<String, Refusal>,
    /// A full table is looked through now and then only.
    next_sweep: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Refusal {
    /// When the charge will be allowed.
    until: Instant,
    /// When to ask again.
    believed_until: Instant,
    /// A reload may have changed it; then the refusal means nothing.
    limit: u64,
    /// Who needs fewer may be allowed them.
    units: u64,
}

impl Refusals {
    /// Remembers that a charge asked at `asked` is refused for so long from then on.
    pub fn note(&self, charge: &Charge, asked: Instant, wait: Duration) {
        let Some(until) = asked.checked_add(wait) else {
            return;
        };
        let mut locked = self.lock();
        let Known { by_key, next_sweep } = &mut *locked;
        if by_key.len() >= REFUSALS_MAX && next_sweep.is_none_or(|due| asked >= due) {
            by_key.retain(|_, refusal| refusal.believed_until > asked);
            *next_sweep = Some(asked + SWEEP_PERIOD);
        }
        if by_key.len() < REFUSALS_MAX {
            let limit = charge.quota.limit();
            let refusal = Refusal {
                until,
                believed_until: until.min(asked + MEMORY_MAX),
                limit,
                units: charge.units,
            };
            by_key.insert(charge.key.clone(), refusal);
        }
        self.count.store(by_key.len(), Relaxed);
    }

    /// The first of these charges that is refused, and for how long still.
    pub fn find<'a>(
        &self,
        charges: impl Iterator<Item = &'a Charge>,
        now: Instant,
    ) -> Option<(usize, Duration)> {
        if self.count.load(Relaxed) == 0 {
            return None;
        }
        let mut locked = self.lock();
        let known = &mut locked.by_key;
        let mut found = None;
        for (at, charge) in charges.enumerate() {
            let Some(refusal) = known.get(&charge.key).copied() else {
                continue;
            };
            if refusal.believed_until <= now || refusal.limit != charge.quota.limit() {
                known.remove(&charge.key);
            } else if charge.units >= refusal.units {
                found = Some((at, refusal.until - now));
                break;
            }
        }
        self.count.store(known.len(), Relaxed);
        found
    }

    /// What was remembered of these keys.
    pub fn forget<'a>(&self, keys: impl Iterator<Item = &'a String>) {
        if self.count.load(Relaxed) == 0 {
            return;
        }
        let mut locked = self.lock();
        let known = &mut locked.by_key;
        for key in keys {
            known.remove(key);
        }
        self.count.store(known.len(), Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::limit::quota::Quota;

    fn charge(key: &str, limit: u64) -> Charge {
        Charge {
            key: key.to_owned(),
            quota: Quota::InFlight { limit },
            units: 1,
            most: 1,
            may_change: false,
        }
    }

    #[test]
    fn a_refusal_is_known_until_its_time_and_for_its_limit_only() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let find = |key, limit, seconds| {
            let charges = [charge("free", 1), charge(key, limit)];
            refusals.find(charges.iter(), at(seconds))
        };
        refusals.note(&charge("a", 5), now, Duration::from_secs(10));
        assert_eq!(find("a", 5, 4), Some((1, Duration::from_secs(6))));
        assert_eq!(find("b", 5, 4), None);
        assert_eq!(find("a", 6, 4), None, "a reload has changed the limit");
        refusals.note(&charge("a", 5), now, Duration::from_secs(3));
        assert_eq!(find("a", 5, 3), None);
        refusals.note(&charge("a", 5), now, Duration::from_secs(10));
        assert_eq!(find("a", 5, 5), None, "it is time to ask again");
        assert!(refusals.lock().by_key.is_empty());
        refusals.note(&charge("a", 5), now, Duration::from_secs(10));
        refusals.forget([&"a".to_owned()].into_iter());
        assert_eq!(find("a", 5, 1), None);
    }

    #[test]
    fn who_needs_less_than_was_refused_is_not_known_to_be_refused() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let tokens = |units| Charge {
            units,
            ..charge("a", 100)
        };
        let find = |units| refusals.find([tokens(units)].iter(), now).is_some();
        refusals.note(&tokens(20), now, Duration::from_secs(3));
        assert_eq!([19, 20, 21].map(find), [false, true, true]);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        for caller in 0..=REFUSALS_MAX {
            refusals.note(&charge(&caller.to_string(), 1), now, Duration::from_secs(9));
        }
        assert_eq!(refusals.lock().by_key.len(), REFUSALS_MAX);
        let later = now + Duration::from_secs(9);
        refusals.note(&charge("new", 1), later, Duration::from_secs(9));
        assert_eq!(refusals.lock().by_key.len(), 1);
    }
}
