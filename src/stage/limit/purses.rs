//! Units that were taken from Redis in advance, to be spent here without asking.
//!
//! Invariant: what is in a purse is counted in Redis already, for as long as the last moment at which it may be
//! spent is in the window. So however many instances have purses, never is more granted than the limit. A purse
//! is filled by one request at a time; others that find it empty ask for themselves alone.

use super::corrections::Corrections;
use super::counter::{Change, Charge, Correction, Mark, Taken};
use super::quota::{Level, Quota};
use super::sliding::{ahead, bucket_ms};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// About 8 MiB. While there are so many, other keys have none.
const PURSES_MAX: usize = 1 << 15;

const SWEEP_PERIOD: Duration = Duration::from_secs(1);

/// Purses by key.
#[derive(Default)]
pub struct Purses {
    kept: Mutex<Kept>,
    /// Where it is told that units will not be spent.
    corrections: Option<Arc<Corrections>>,
}

#[derive(Default)]
struct Kept {
    by_key: HashMap<String, Purse>,
    /// A full table is looked through now and then only.
    next_sweep: Option<Instant>,
}

/// What was taken with one call and is not spent yet.
#[derive(Debug, Default)]
struct Purse {
    left: u64,
    /// Where Redis has counted it.
    mark: Mark,
    /// A reload may have changed it; then the purse is void.
    quota: Option<Quota>,
    /// None for one that was never filled.
    until: Option<Instant>,
    /// What Redis had left then, and until when it said that would last.
    remaining: u64,
    after: Option<Instant>,
    is_filling: bool,
}

/// How one charge is paid.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// By asking Redis.
    Ask,
    /// The same, and what is taken in advance fills the purse.
    Fill,
    /// From the purse.
    Spent(Level, Mark),
}

/// What one request has spent, until it is known whether all of it is granted. On drop it has not.
pub struct Spending<'a> {
    purses: &'a Purses,
    charges: &'a [Charge],
    parts: SmallVec<[Part; 4]>,
    lapsed: SmallVec<[Correction; 2]>,
}

impl Purses {
    pub fn new(corrections: Arc<Corrections>) -> Self {
        Self {
            corrections: Some(corrections),
            ..Self::default()
        }
    }

    /// Spends what is there for these charges.
    pub fn spend<'a>(&'a self, charges: &'a [Charge], now: Instant) -> Spending<'a> {
        let mut spending = Spending {
            purses: self,
            charges,
            parts: SmallVec::new(),
            lapsed: SmallVec::new(),
        };
        if charges.iter().all(|charge| !charge.is_prepaid()) {
            spending.parts.resize(charges.len(), Part::Ask);
            return spending;
        }
        let mut kept = self.lock();
        for charge in charges {
            let (part, lapsed) = kept.spend(charge, now);
            spending.parts.push(part);
            spending.lapsed.extend(lapsed);
        }
        spending
    }

    /// Nothing is in these purses any more.
    pub fn forget<'a>(&self, keys: impl Iterator<Item = &'a String>) {
        let mut kept = self.lock();
        for key in keys {
            kept.by_key.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn spend(&mut self, charge: &Charge, now: Instant) -> (Part, Option<Correction>) {
        if !charge.is_prepaid() {
            return (Part::Ask, None);
        }
        let Some(purse) = self.by_key.get_mut(&charge.key) else {
            let part = if self.has_room(now) {
                let empty = Purse {
                    is_filling: true,
                    ..Purse::default()
                };
                self.by_key.insert(charge.key.clone(), empty);
                Part::Fill
            } else {
                Part::Ask
            };
            return (part, None);
        };
        let is_good = purse.quota == Some(charge.quota) && purse.is_open(now);
        if is_good && purse.left >= charge.units {
            purse.left -= charge.units;
            return (Part::Spent(purse.level(now), purse.mark), None);
        }
        if purse.is_filling {
            return (Part::Ask, None);
        }
        purse.is_filling = true;
        (Part::Fill, purse.empty(&charge.key))
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.by_key.len() >= PURSES_MAX && self.next_sweep.is_none_or(|due| now >= due) {
            // What is in them is missed until its period has passed.
            self.by_key
                .retain(|_, purse| purse.is_filling || purse.is_open(now));
            self.next_sweep = Some(now + SWEEP_PERIOD);
        }
        self.by_key.len() < PURSES_MAX
    }
}

impl Purse {
    fn is_open(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn level(&self, now: Instant) -> Level {
        let after = self
            .after
            .map_or(Duration::ZERO, |after| after.saturating_duration_since(now));
        Level {
            allows: true,
            remaining: self.remaining + self.left,
            after_ms: u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1),
        }
    }

    /// What is in it will not be spent.
    fn empty(&mut self, key: &str) -> Option<Correction> {
        let left = std::mem::take(&mut self.left);
        let quota = self.quota.filter(|_| left > 0)?;
        Some(Correction {
            key: key.to_owned(),
            quota,
            what: Change::Less(left, self.mark),
        })
    }

    /// Of what was asked for at `asked`, this much is not spent yet.
    fn fill(&mut self, charge: &Charge, level: Level, mark: Mark, asked: Instant) {
        let may_be_spent_ms = match charge.quota {
            Quota::Window {
                window_ms,
                sliding: true,
                ..
            } => ahead(window_ms) * bucket_ms(window_ms),
            // Until the window ends.
            _ => level.after_ms,
        };
        *self = Self {
            left: mark.units.saturating_sub(charge.units),
            mark,
            quota: Some(charge.quota),
            until: Some(asked + Duration::from_millis(may_be_spent_ms)),
            remaining: level.remaining,
            after: Some(asked + Duration::from_millis(level.after_ms)),
            is_filling: false,
        };
    }
}

impl<'a> Spending<'a> {
    /// What Redis must be asked for.
    pub fn asked(&self) -> Cow<'a, [Charge]> {
        if self.charges.iter().all(|charge| !charge.is_prepaid()) {
            return Cow::Borrowed(self.charges);
        }
        let parts = self.parts.iter().zip(self.charges);
        let asked = parts.filter_map(|(part, charge)| match part {
            Part::Spent(..) => None,
            Part::Fill => Some(charge.clone()),
            Part::Ask => Some(Charge {
                most: charge.units,
                ..charge.clone()
            }),
        });
        Cow::Owned(asked.collect())
    }

    /// What was in purses that are filled now, and will not be spent: to be told with what is asked for.
    pub fn take_lapsed(&mut self) -> SmallVec<[Correction; 2]> {
        std::mem::take(&mut self.lapsed)
    }

    /// Which charge is the nth of those that Redis must be asked for.
    pub fn nth_asked(&self, nth: usize) -> usize {
        let asked = self.parts.iter().enumerate();
        let mut asked = asked.filter(|(_, part)| !matches!(part, Part::Spent(..)));
        asked.nth(nth).map_or(nth, |(at, _)| at)
    }

    /// What became of the whole request, by what Redis said at `asked` or later of what it was asked for.
    pub fn finish(mut self, mut taken: Taken, asked: Instant) -> Taken {
        if self.charges.iter().all(|charge| !charge.is_prepaid()) {
            return taken;
        }
        let parts = std::mem::take(&mut self.parts);
        let mut kept = self.purses.lock();
        for (at, (part, charge)) in parts.iter().zip(self.charges).enumerate() {
            match *part {
                Part::Ask => {}
                Part::Fill if taken.granted => {
                    let (level, mark) = (&mut taken.levels[at], taken.marks[at]);
                    let purse = kept.by_key.entry(charge.key.clone()).or_default();
                    purse.fill(charge, *level, mark, asked);
                    level.remaining += purse.left;
                }
                Part::Fill => kept.stop_filling(charge),
                Part::Spent(mut level, mark) => {
                    if !taken.granted {
                        level.remaining += charge.units;
                    }
                    taken.levels.insert(at, level);
                    if taken.granted {
                        taken.marks.insert(at, mark);
                    }
                }
            }
        }
        drop(kept);
        if !taken.granted {
            self.put_back(&parts);
        }
        taken
    }

    fn put_back(&self, parts: &[Part]) {
        let mut kept = self.purses.lock();
        for (part, charge) in parts.iter().zip(self.charges) {
            if let Part::Spent(_, mark) = part {
                let purse = kept.by_key.get_mut(&charge.key);
                match purse.filter(|purse| purse.mark == *mark && !purse.is_filling) {
                    Some(purse) => purse.left += charge.units,
                    // It is filled anew, and must not hold what leaves the window earlier.
                    None => self.tell(charge.correction(Change::Less(charge.units, *mark))),
                }
            }
        }
    }

    fn tell(&self, correction: Correction) {
        if let Some(corrections) = &self.purses.corrections {
            corrections.send(correction);
        }
    }
}

impl Kept {
    fn stop_filling(&mut self, charge: &Charge) {
        if let Some(purse) = self.by_key.get_mut(&charge.key) {
            purse.is_filling = false;
        }
    }
}

impl Drop for Spending<'_> {
    fn drop(&mut self) {
        for correction in self.take_lapsed() {
            self.tell(correction);
        }
        let parts = std::mem::take(&mut self.parts);
        let is_unfinished = |part: &Part| !matches!(part, Part::Ask);
        if !parts.iter().any(is_unfinished) {
            return;
        }
        let mut kept = self.purses.lock();
        for (part, charge) in parts.iter().zip(self.charges) {
            if let Part::Fill = part {
                kept.stop_filling(charge);
            }
        }
        drop(kept);
        self.put_back(&parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::limit::counter::Levels;
    use crate::stage::limit::sliding::{Sliding, Span};
    use proptest::prelude::*;

    const LIMIT: u64 = 50;
    const PREPAID: u64 = 8;

    fn charge(units: u64) -> Charge {
        let (window_ms, sliding) = (60_000, true);
        Charge {
            key: "all".to_owned(),
            quota: Quota::Window {
                limit: LIMIT,
                window_ms,
                sliding,
            },
            units,
            most: PREPAID.max(units),
            may_change: false,
        }
    }

    /// As Redis does it.
    fn store(sliding: &mut Sliding, now_ms: u64, lapsed: &[Correction], charge: &Charge) -> Taken {
        for correction in lapsed {
            if let Change::Less(units, mark) = correction.what {
                sliding.give_back(mark.bucket, units);
            }
        }
        let window_ms = 60_000;
        let span = Span { window_ms, now_ms };
        let mut taken = Taken::of_nothing();
        let mut level = sliding.level(LIMIT, span, charge.units);
        taken.granted = level.allows;
        if level.allows {
            let units = charge.most.min(level.remaining).max(charge.units);
            let ahead = if charge.is_prepaid() {
                ahead(window_ms)
            } else {
                0
            };
            let bucket = sliding.count(span, units, ahead, true);
            level.remaining -= units;
            taken.marks.push(Mark {
                units,
                bucket,
                index: 0,
            });
        }
        taken.levels = Levels::from_iter([level]);
        taken
    }

    #[test]
    fn a_purse_is_filled_by_one_and_spent_in_time() {
        let (purses, start) = (Purses::default(), Instant::now());
        let (one, mut sliding) = ([charge(1)], Sliding::default());
        let at = |ms| start + Duration::from_millis(ms);
        let mut first = purses.spend(&one, at(0));
        assert_eq!(first.asked()[0].most, PREPAID);
        // Whoever comes meanwhile asks for itself.
        let second = purses.spend(&one, at(0));
        assert_eq!(second.asked()[0].most, 1);
        let taken = store(&mut sliding, 1_000, &first.take_lapsed(), &first.asked()[0]);
        let taken = first.finish(taken, at(0));
        assert_eq!(
            (taken.granted, taken.levels[0].remaining),
            (true, LIMIT - 1)
        );
        drop(second);
        // Seven more without asking, of which one is put back.
        for nth in 0..7 {
            let spending = purses.spend(&one, at(999));
            assert!(spending.asked().is_empty());
            if nth == 3 {
                drop(spending);
                continue;
            }
            let taken = spending.finish(Taken::of_nothing(), at(999));
            assert!(taken.granted && taken.marks[0].units == PREPAID);
        }
        // A second after it was filled nobody may spend the last one; the next to fill gives it back.
        let mut late = purses.spend(&one, at(1_000));
        assert_eq!(late.asked()[0].most, PREPAID);
        let lapsed = late.take_lapsed();
        assert!(matches!(lapsed[0].what, Change::Less(1, mark) if mark.units == PREPAID));
        // It did not come to that: the next one may.
        drop(late);
        assert_eq!(purses.spend(&one, at(1_000)).asked()[0].most, PREPAID);
    }

    #[test]
    fn a_purse_is_void_when_the_limit_has_changed() {
        let (purses, now) = (Purses::default(), Instant::now());
        let (one, mut sliding) = ([charge(1)], Sliding::default());
        let spending = purses.spend(&one, now);
        let taken = store(&mut sliding, 1_000, &[], &spending.asked()[0]);
        spending.finish(taken, now);
        assert!(purses.spend(&one, now).asked().is_empty());
        let other = [Charge {
            quota: one[0].quota.with_limit(LIMIT - 1),
            ..charge(1)
        }];
        assert_eq!(purses.spend(&other, now).asked().len(), 1);
        purses.forget([&"all".to_owned()].into_iter());
        assert_eq!(purses.spend(&one, now).asked().len(), 1);
    }

    proptest! {
        #[test]
        fn whoever_spends_no_stretch_as_long_as_the_window_holds_more_than_the_limit(
            // After how many milliseconds, at which instance, how many units, and how long Redis takes.
            arrivals in proptest::collection::vec((
                prop_oneof![6 => 0u64..40, 3 => 0u64..900, 1 => 0u64..70_000],
                0usize..3, prop_oneof![6 => Just(1u64), 1 => 1u64..6], 0u64..50,
            ), 1..400),
        ) {
            let purses: [Purses; 3] = Default::default();
            let (mut sliding, mut spent, start) = (Sliding::default(), Vec::new(), Instant::now());
            let mut now_ms = 1_700_000_000_000;
            let begun = now_ms;
            for (after_ms, instance, units, takes_ms) in arrivals {
                now_ms += after_ms;
                let asked_at = start + Duration::from_millis(now_ms - begun);
                let charges = [charge(units)];
                let mut spending = purses[instance].spend(&charges, asked_at);
                let lapsed = spending.take_lapsed();
                let taken = match spending.asked().first() {
                    None => Taken::of_nothing(),
                    Some(charge) => {
                        now_ms += takes_ms;
                        store(&mut sliding, now_ms, &lapsed, charge)
                    }
                };
                if spending.finish(taken, asked_at).granted {
                    spent.push((now_ms, units));
                }
            }
            for (from, _) in &spent {
                let within = spent.iter().filter(|(at, _)| (*from..from + 60_000).contains(at));
                let held: u64 = within.map(|(_, units)| units).sum();
                prop_assert!(held <= LIMIT, "{held} from {from}");
            }
        }
    }
}
