//! The arithmetic of limits; pure. `counter/take.lua` says the same in the words of Redis.

use super::settings::QUOTA_MAX;

/// A place in flight expires after this, unless its instance lives to renew it.
pub const LEASE_MS: u64 = 15_000;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// `limit` in each window; `sliding` also looks at the window before.
    Window {
        limit: u64,
        window_ms: u64,
        sliding: bool,
    },
    /// One every `window_ms / limit`, and `burst` at once.
    Gcra {
        limit: u64,
        window_ms: u64,
        burst: u64,
    },
    /// So many at once.
    InFlight { limit: u64 },
}

impl Quota {
    pub fn limit(self) -> u64 {
        match self {
            Self::Window { limit, .. } | Self::Gcra { limit, .. } | Self::InFlight { limit } => {
                limit
            }
        }
    }

    /// None for places in flight.
    pub fn window_ms(self) -> Option<u64> {
        match self {
            Self::Window { window_ms, .. } | Self::Gcra { window_ms, .. } => Some(window_ms),
            Self::InFlight { .. } => None,
        }
    }

    /// The same with another limit; a burst keeps its proportion.
    #[must_use]
    pub fn with_limit(self, to: u64) -> Self {
        let to = to.clamp(1, QUOTA_MAX);
        match self {
            Self::Window {
                window_ms, sliding, ..
            } => Self::Window {
                limit: to,
                window_ms,
                sliding,
            },
            Self::Gcra {
                limit,
                window_ms,
                burst,
            } => Self::Gcra {
                limit: to,
                window_ms,
                burst: (burst * to / limit).max(1),
            },
            Self::InFlight { .. } => Self::InFlight { limit: to },
        }
    }

    /// One instance's share while nothing can be shared, at least 1.
    #[must_use]
    pub fn share_of(self, instances: u32) -> Self {
        self.with_limit(self.limit() / u64::from(instances.max(1)))
    }
}

/// How a request stands to one quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Whether this quota allows the request, whatever others say.
    pub allows: bool,
    /// What is left; after the request, once it was counted.
    pub remaining: u64,
    /// Where it does not allow: until it will, if nobody else comes first; 0 when nobody can know.
    /// Where it does: until the window ends, or everything is restored after this request.
    pub after_ms: u64,
}

/// Requests of a window and of the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub current: u64,
    pub previous: u64,
}

/// A window of `limit` requests at some moment in it.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub limit: u64,
    pub window_ms: u64,
    /// Since the window began.
    pub elapsed_ms: u64,
}

impl Window {
    /// `counts` of both windows; `previous` is 0 where it does not matter.
    pub fn level(&self, counts: Counts, sliding: bool) -> Level {
        let Self {
            limit,
            window_ms,
            elapsed_ms,
        } = *self;
        let Counts { current, previous } = counts;
        let left_ms = window_ms - elapsed_ms;
        let used = current * window_ms + previous * left_ms;
        let allows = used + window_ms <= limit * window_ms;
        let after_ms = if allows || !sliding {
            left_ms
        } else if current < limit {
            // Later in this window enough of the one before has passed.
            left_ms - (limit - 1 - current) * window_ms / previous
        } else {
            // In the next window, when enough of this one has passed.
            left_ms + window_ms - (limit - 1) * window_ms / current
        };
        Level {
            allows,
            remaining: (limit * window_ms).saturating_sub(used) / window_ms,
            after_ms,
        }
    }
}

/// The generic cell rate algorithm in microseconds: `tat` is when everything will be restored.
#[derive(Debug, Clone, Copy)]
pub struct Gcra {
    /// Between two requests, rounded up.
    pub every_us: u64,
    pub burst: u64,
}

impl Gcra {
    pub fn new(limit: u64, window_ms: u64, burst: u64) -> Self {
        Self {
            every_us: (window_ms * 1_000).div_ceil(limit),
            burst,
        }
    }

    pub fn level(&self, tat: u64, now: u64) -> Level {
        let owed = tat.saturating_sub(now);
        let tolerated = (self.burst - 1) * self.every_us;
        let allows = owed <= tolerated;
        let after_us = if allows {
            owed + self.every_us
        } else {
            owed - tolerated
        };
        Level {
            allows,
            remaining: (self.burst * self.every_us).saturating_sub(owed) / self.every_us,
            after_ms: after_us.div_ceil(1_000),
        }
    }

    /// The new `tat` once a request was counted.
    pub fn count(&self, tat: u64, now: u64) -> u64 {
        tat.max(now) + self.every_us
    }
}

/// Places in flight.
pub fn in_flight(limit: u64, held: u64) -> Level {
    Level {
        allows: held < limit,
        remaining: limit.saturating_sub(held),
        after_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(limit: u64, elapsed_s: u64, current: u64, previous: u64) -> Level {
        let window = Window {
            limit,
            window_ms: 60_000,
            elapsed_ms: elapsed_s * 1_000,
        };
        window.level(Counts { current, previous }, true)
    }

    #[test]
    fn the_window_before_counts_by_the_share_that_is_left_of_it() {
        for (elapsed_s, current, previous, allows, remaining, after_s) in [
            (0, 0, 0, true, 30, 60),
            (0, 29, 0, true, 1, 60),
            // Full now: 1/30 of it has passed 2 s into the next window.
            (50, 30, 0, false, 0, 12),
            (0, 0, 30, false, 0, 2),
            (2, 0, 30, true, 1, 58),
            (30, 14, 30, true, 1, 30),
            (30, 15, 30, false, 0, 2),
            // A limit that was made smaller than what was counted already.
            (30, 60, 0, false, 0, 30 + 31),
        ] {
            let level = window(30, elapsed_s, current, previous);
            let found = (level.allows, level.remaining, level.after_ms / 1_000);
            let case = (elapsed_s, current, previous);
            assert_eq!(found, (allows, remaining, after_s), "{case:?}");
        }
        let once = window(1, 10, 1, 0);
        assert_eq!((once.allows, once.after_ms), (false, 110_000));
    }

    /// How many of a crowd that asks every 10 ms, from half a second before a window ends to half a second
    /// after, are let through.
    fn granted_around_the_boundary(sliding: bool) -> u64 {
        let (window_ms, mut counts, mut granted) = (60_000, Counts::default(), 0);
        for at_ms in (59_500u64..60_500).step_by(10) {
            if at_ms == window_ms {
                let previous = if sliding { counts.current } else { 0 };
                counts = Counts {
                    current: 0,
                    previous,
                };
            }
            let window = Window {
                limit: 30,
                window_ms,
                elapsed_ms: at_ms % window_ms,
            };
            if window.level(counts, sliding).allows {
                counts.current += 1;
                granted += 1;
            }
        }
        granted
    }

    #[test]
    fn a_fixed_window_lets_twice_as_many_through_where_two_meet_and_a_sliding_one_does_not() {
        assert_eq!(granted_around_the_boundary(false), 60);
        assert_eq!(granted_around_the_boundary(true), 30);
    }

    #[test]
    fn a_burst_is_kept_for_later_and_restored_one_by_one() {
        let gcra = Gcra::new(60, 60_000, 3);
        let mut tat = 0;
        for (now_ms, allows, remaining, after_ms) in [
            (10_000, true, 3, 1_000),
            (10_000, true, 2, 2_000),
            (10_000, true, 1, 3_000),
            (10_000, false, 0, 1_000),
            (10_999, false, 0, 1),
            (11_000, true, 1, 3_000),
            (99_000, true, 3, 1_000),
        ] {
            let level = gcra.level(tat, now_ms * 1_000);
            let found = (level.allows, level.remaining, level.after_ms);
            assert_eq!(found, (allows, remaining, after_ms), "{now_ms}");
            if allows {
                tat = gcra.count(tat, now_ms * 1_000);
            }
        }
    }

    #[test]
    fn a_share_is_never_nothing() {
        let quota = Quota::Gcra {
            limit: 30,
            window_ms: 60_000,
            burst: 6,
        };
        for (instances, limit, burst) in [(0, 30, 6), (3, 10, 2), (40, 1, 1)] {
            let window_ms = 60_000;
            let share = Quota::Gcra {
                limit,
                window_ms,
                burst,
            };
            assert_eq!(quota.share_of(instances), share, "{instances}");
        }
    }

    proptest! {
        /// To the millisecond: not a moment before, and not a moment after.
        #[test]
        fn a_window_allows_again_exactly_when_it_says(
            limit in 1u64..50, elapsed_ms in 0u64..1_000, current in 0u64..60, previous in 0u64..60,
        ) {
            let window_ms = 1_000;
            let at = |elapsed_ms: u64| {
                let next = elapsed_ms >= window_ms;
                let counts = if next { Counts { current: 0, previous: current } } else { Counts { current, previous } };
                Window { limit, window_ms, elapsed_ms: elapsed_ms % window_ms }.level(counts, true).allows
            };
            let now = Window { limit, window_ms, elapsed_ms };
            let level = now.level(Counts { current, previous }, true);
            if !level.allows && level.after_ms + elapsed_ms < 2 * window_ms {
                prop_assert!(at(elapsed_ms + level.after_ms));
                prop_assert!(!at(elapsed_ms + level.after_ms - 1));
            }
        }
    }
}
