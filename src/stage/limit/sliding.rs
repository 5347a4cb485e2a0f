//! A window that slides: what was counted in the last `window_ms`, in a queue of small buckets; pure.
//!
//! Invariant: no stretch of time as long as the window ever holds more than was allowed. A bucket counts until
//! the last moment of it has left the window, so that a unit is counted for up to one bucket longer than it must.

use super::quota::Level;
use std::collections::VecDeque;

/// Buckets of a window; those of a second are a millisecond wide, which is as fine as the clock.
const BUCKETS: u64 = 600;

/// Prepaid units may be spent for this part of their window: 1 s of a minute.
const PREPAID_PART: u64 = 60;

/// The window that a count is asked about, and when.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    pub window_ms: u64,
    /// Since 1970.
    pub now_ms: u64,
}

/// Units counted by bucket, oldest first. A bucket's number is its time since 1970 in widths of a bucket.
#[derive(Debug, Clone, Default)]
pub struct Sliding {
    buckets: VecDeque<(u64, u64)>,
    sum: u64,
}

/// Milliseconds; divides every period that can be written.
pub fn bucket_ms(window_ms: u64) -> u64 {
    (window_ms / BUCKETS).max(1)
}

/// How many buckets ahead of now prepaid units are counted, which is as long as they may be spent.
pub fn ahead(window_ms: u64) -> u64 {
    window_ms / PREPAID_PART / bucket_ms(window_ms)
}

impl Span {
    /// The bucket that it is now.
    pub fn here(&self) -> u64 {
        self.now_ms / bucket_ms(self.window_ms)
    }

    /// Whether a bucket has left the window entirely.
    fn has_left(&self, bucket: u64) -> bool {
        bucket + self.window_ms / bucket_ms(self.window_ms) < self.here()
    }

    /// Until it has.
    fn leaves_after_ms(&self, bucket: u64) -> u64 {
        ((bucket + 1) * bucket_ms(self.window_ms) + self.window_ms).saturating_sub(self.now_ms)
    }
}

impl Sliding {
    /// How a request of so many units stands to `limit`.
    pub fn level(&mut self, limit: u64, span: Span, units: u64) -> Level {
        self.let_go(span);
        let excess = (self.sum + units).saturating_sub(limit);
        let oldest = self
            .buckets
            .front()
            .map_or(span.here(), |(bucket, _)| *bucket);
        let until = if excess == 0 {
            oldest
        } else {
            self.bucket_that_frees(excess).unwrap_or(oldest)
        };
        Level {
            allows: excess == 0,
            remaining: limit.saturating_sub(self.sum),
            after_ms: span.leaves_after_ms(until),
        }
    }

    /// Counts units in the bucket that it is now, or so many ahead; the bucket they were counted in. When
    /// `grow` is false, the newest bucket becomes that one with all that it holds, which allows no more.
    pub fn count(&mut self, span: Span, units: u64, ahead: u64, grow: bool) -> u64 {
        let wanted = span.here() + ahead;
        self.sum += units;
        match self.buckets.back_mut() {
            // A clock that went back counts where the newest is.
            Some((newest, held)) if *newest >= wanted || !grow => {
                *newest = wanted.max(*newest);
                *held += units;
                *newest
            }
            _ => {
                self.buckets.push_back((wanted, units));
                wanted
            }
        }
    }

    /// Gives back units that were counted in this bucket, if it is still counted.
    pub fn give_back(&mut self, bucket: u64, units: u64) {
        let found = self
            .buckets
            .binary_search_by_key(&bucket, |(number, _)| *number);
        if let Ok(at) = found {
            let back = units.min(self.buckets[at].1);
            self.buckets[at].1 -= back;
            self.sum -= back;
        }
    }

    /// Whether it still says something.
    pub fn matters(&self, span: Span) -> bool {
        self.buckets
            .back()
            .is_some_and(|(newest, _)| !span.has_left(*newest))
    }

    /// How many buckets it keeps.
    pub fn kept(&self) -> usize {
        self.buckets.len()
    }

    fn let_go(&mut self, span: Span) {
        while let Some((bucket, units)) = self.buckets.front().copied() {
            if !span.has_left(bucket) {
                break;
            }
            self.sum -= units;
            self.buckets.pop_front();
        }
        if self.buckets.capacity() > 4 * self.buckets.len().max(4) {
            self.buckets.shrink_to(2 * self.buckets.len());
        }
    }

    /// The oldest bucket with which, once it and those before it have left, so many units are free.
    fn bucket_that_frees(&self, excess: u64) -> Option<u64> {
        let mut freed = 0;
        let found = self.buckets.iter().find(|(_, units)| {
            freed += units;
            freed >= excess
        });
        found.or(self.buckets.back()).map(|(bucket, _)| *bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(now_ms: u64) -> Span {
        Span {
            window_ms: 60_000,
            now_ms,
        }
    }

    fn grants(sliding: &mut Sliding, limit: u64, now_ms: u64) -> bool {
        let allows = sliding.level(limit, at(now_ms), 1).allows;
        if allows {
            sliding.count(at(now_ms), 1, 0, true);
        }
        allows
    }

    #[test]
    fn what_was_counted_counts_until_its_bucket_has_left() {
        let mut sliding = Sliding::default();
        for (now_ms, limit, allows, remaining, after_ms) in [
            // The first bucket is 1_000 to 1_100.
            (1_050, 2, true, 2, 60_050),
            (30_000, 2, true, 1, 31_100),
            (30_001, 2, false, 0, 31_099),
            (61_099, 2, false, 0, 1),
            (61_100, 2, true, 1, 29_000),
            // A limit that has become smaller than what is counted waits for both.
            (61_100, 1, false, 0, 60_100),
            (121_199, 1, false, 0, 1),
            (121_200, 1, true, 1, 60_100),
        ] {
            let level = sliding.level(limit, at(now_ms), 1);
            let found = (level.allows, level.remaining, level.after_ms);
            assert_eq!(found, (allows, remaining, after_ms), "{now_ms}");
            if allows {
                sliding.count(at(now_ms), 1, 0, true);
            }
        }
    }

    #[test]
    fn who_spends_all_in_the_last_moment_of_a_minute_waits_for_the_same_moment_of_the_next() {
        let mut sliding = Sliding::default();
        let granted = (59_900..120_000).filter(|ms| grants(&mut sliding, 30, *ms));
        assert_eq!(granted.count(), 30);
        assert!(grants(&mut sliding, 30, 120_000));
    }

    #[test]
    fn units_are_given_back_where_they_were_counted_and_not_twice() {
        let mut sliding = Sliding::default();
        let first = sliding.count(at(1_000), 5, 0, true);
        sliding.count(at(9_000), 3, 0, true);
        sliding.give_back(first, 4);
        assert_eq!(sliding.level(10, at(9_000), 1).remaining, 6);
        sliding.give_back(first, 4);
        assert_eq!(sliding.level(10, at(9_000), 1).remaining, 7);
        sliding.give_back(first + 1, 1);
        assert_eq!(sliding.level(10, at(9_000), 1).remaining, 7);
        // The emptied bucket frees nothing: the other one must leave.
        assert_eq!(sliding.level(10, at(9_000), 9).after_ms, 60_100);
    }

    #[test]
    fn a_queue_that_may_not_grow_allows_no_more() {
        let mut sliding = Sliding::default();
        sliding.count(at(1_000), 1, 0, false);
        sliding.count(at(50_000), 1, 0, false);
        assert_eq!(sliding.kept(), 1);
        assert!(!sliding.level(2, at(110_099), 1).allows);
        assert!(sliding.level(2, at(110_100), 1).allows);
    }

    /// After how many milliseconds, how many units, and how late in their time prepaid ones are spent.
    fn arrivals() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        let after_ms =
            prop_oneof![4 => 0u64..3, 4 => 0u64..300, 2 => 0u64..5_000, 1 => 0u64..70_000];
        proptest::collection::vec((after_ms, 1u64..4, 0u64..1_000), 1..300)
    }

    proptest! {
        #[test]
        fn no_stretch_as_long_as_the_window_holds_more_than_the_limit(
            limit in 1u64..40, window_ms in prop_oneof![Just(1_000u64), Just(60_000)],
            prepaid: bool, grow: bool, arrivals in arrivals(),
        ) {
            let (mut sliding, mut spent, mut now_ms) = (Sliding::default(), Vec::new(), 1_700_000_000_000);
            let ahead = if prepaid { ahead(window_ms) } else { 0 };
            for (after_ms, units, later) in arrivals {
                now_ms += after_ms;
                let span = Span { window_ms, now_ms };
                let level = sliding.level(limit, span, units);
                if level.allows {
                    sliding.count(span, units, ahead, grow);
                    // Prepaid units may be spent up to the end of their time.
                    spent.push((now_ms + later * ahead * bucket_ms(window_ms) / 1_000, units));
                } else if units <= limit {
                    let at = |now_ms| sliding.clone().level(limit, Span { window_ms, now_ms }, units).allows;
                    prop_assert!(at(now_ms + level.after_ms), "it allows when it says");
                    prop_assert!(!at(now_ms + level.after_ms - 1), "and not before");
                }
            }
            for (from, _) in &spent {
                let within = spent.iter().filter(|(at, _)| (*from..from + window_ms).contains(at));
                let held: u64 = within.map(|(_, units)| units).sum();
                prop_assert!(held <= limit, "{held} from {from}: {spent:?}");
            }
        }
    }
}
