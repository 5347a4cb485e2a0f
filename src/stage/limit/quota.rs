//! The arithmetic of limits; pure, but for windows that slide, which have `sliding.rs`. `counter/take.lua` says
//! the same in the words of Redis.

use super::settings::TOKENS_MAX;

/// A place in flight expires after this, unless its instance lives to renew it.
pub const LEASE_MS: u64 = 15_000;

/// How much is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// `limit` units in each window: in those that begin at whole multiples, or `sliding` in any as long.
    Window {
        limit: u64,
        window_ms: u64,
        sliding: bool,
    },
    /// One unit every `window_ms / limit`, and `burst` at once.
    Gcra {
        limit: u64,
        window_ms: u64,
        burst: u64,
    },
    /// So many requests at once.
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

    /// The most that one request can ever be allowed.
    pub fn at_once(self) -> u64 {
        match self {
            Self::Gcra { burst, .. } => burst,
            _ => self.limit(),
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
        let to = to.clamp(1, TOKENS_MAX);
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
    /// Where it does: until the window ends or its oldest units leave it, or everything is restored.
    pub after_ms: u64,
}

/// A window of its own, `elapsed_ms` after it began, of which so much is counted already.
pub fn fixed(limit: u64, (window_ms, elapsed_ms): (u64, u64), counted: u64, units: u64) -> Level {
    Level {
        allows: counted + units <= limit,
        remaining: limit.saturating_sub(counted),
        after_ms: window_ms - elapsed_ms,
    }
}

/// The generic cell rate algorithm in microseconds: `tat` is when everything will be restored.
#[derive(Debug, Clone, Copy)]
pub struct Gcra {
    /// Between two units, rounded up.
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

    pub fn level(&self, tat: u64, now: u64, units: u64) -> Level {
        let (owed, room) = (tat.saturating_sub(now), self.burst * self.every_us);
        let wanted = owed + units * self.every_us;
        let allows = wanted <= room;
        let after_us = if allows { wanted } else { wanted - room };
        Level {
            allows,
            remaining: room.saturating_sub(owed) / self.every_us,
            after_ms: after_us.div_ceil(1_000),
        }
    }

    /// The new `tat` once units were counted, or (below 0) given back.
    pub fn count(&self, tat: u64, now: u64, units: i64) -> u64 {
        let moved = units.unsigned_abs() * self.every_us;
        if units < 0 {
            tat.max(now).saturating_sub(moved)
        } else {
            tat.max(now) + moved
        }
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
    use crate::stage::limit::sliding::{Sliding, Span};

    /// How many of a crowd that asks every 10 ms, from half a second before a window ends to half a second
    /// after, are let through.
    fn granted_around_the_boundary(sliding: bool) -> u64 {
        let (window_ms, mut counts, mut queue) = (60_000, [0, 0], Sliding::default());
        for now_ms in (59_500u64..60_500).step_by(10) {
            let span = Span { window_ms, now_ms };
            let count = &mut counts[usize::from(now_ms >= window_ms)];
            let level = if sliding {
                queue.level(30, span, 1)
            } else {
                fixed(30, (window_ms, now_ms % window_ms), *count, 1)
            };
            if level.allows {
                queue.count(span, 1, 0, true);
                *count += 1;
            }
        }
        counts.iter().sum()
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
            let level = gcra.level(tat, now_ms * 1_000, 1);
            let found = (level.allows, level.remaining, level.after_ms);
            assert_eq!(found, (allows, remaining, after_ms), "{now_ms}");
            if allows {
                tat = gcra.count(tat, now_ms * 1_000, 1);
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

    #[test]
    fn many_units_are_waited_for_and_what_is_given_back_is_there_at_once() {
        let gcra = Gcra::new(60, 60_000, 10);
        let tat = gcra.count(0, 5_000_000, 8);
        let level = gcra.level(tat, 5_000_000, 5);
        assert_eq!(
            (level.allows, level.remaining, level.after_ms),
            (false, 2, 3_000)
        );
        let tat = gcra.count(tat, 5_000_000, -6);
        assert!(gcra.level(tat, 5_000_000, 8).allows);
        assert!(!gcra.level(tat, 5_000_000, 9).allows);
        let more_than_owed = gcra.count(tat, 5_000_000, -60);
        assert_eq!(gcra.level(more_than_owed, 5_000_000, 1).remaining, 10);
    }
}
