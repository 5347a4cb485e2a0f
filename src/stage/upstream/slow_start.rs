//! A new or recovered endpoint begins with a tenth of its share and grows into the whole.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The whole share, in thousandths.
pub const WHOLE: u32 = 1_000;
/// What an endpoint begins with: enough to warm its caches, too little to drown it (as in `HAProxy` and Envoy).
const FIRST: u32 = 100;

/// How far an endpoint has grown. Times are milliseconds since the endpoint came to be.
#[derive(Debug, Default)]
pub struct SlowStart {
    /// When growing began, plus one; 0: fully grown.
    begun: AtomicU64,
    period_ms: AtomicU64,
}

impl SlowStart {
    /// How long growing takes from the next beginning on; zero: no growing at all.
    pub fn set_period(&self, period: Duration) {
        let ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        self.period_ms.store(ms, Relaxed);
    }

    pub fn begin(&self, at: u64) {
        if self.period_ms.load(Relaxed) > 0 {
            self.begun.store(at.saturating_add(1), Relaxed);
        }
    }

    pub fn is_over(&self) -> bool {
        self.begun.load(Relaxed) == 0
    }

    /// The share at this moment, in thousandths: 100 to 1000.
    pub fn share(&self, at: u64) -> u32 {
        let begun = self.begun.load(Relaxed);
        if begun == 0 {
            return WHOLE;
        }
        let (elapsed, period) = (
            at.saturating_sub(begun - 1),
            self.period_ms.load(Relaxed).max(1),
        );
        if elapsed >= period {
            // Only if nobody has begun anew meanwhile.
            let _ = self.begun.compare_exchange(begun, 0, Relaxed, Relaxed);
            return WHOLE;
        }
        let grown = u128::from(WHOLE - FIRST) * u128::from(elapsed) / u128::from(period);
        FIRST + u32::try_from(grown).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_a_tenth_to_the_whole() {
        let growing = SlowStart::default();
        growing.set_period(Duration::from_secs(30));
        assert_eq!(growing.share(0), 1_000, "the first set does not grow");
        growing.begin(5_000);
        for (at, share) in [
            (5_000, 100),
            (4_000, 100),
            (8_000, 190),
            (20_000, 550),
            (34_999, 999),
            (35_000, 1_000),
            (5_000, 1_000),
        ] {
            assert_eq!(growing.share(at), share, "at {at} ms");
        }
    }

    #[test]
    fn a_period_of_zero_turns_it_off() {
        let growing = SlowStart::default();
        growing.begin(10);
        assert_eq!(growing.share(10), 1_000);
    }
}
