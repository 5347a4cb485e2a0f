//! How fast a caller must be, on average, while it is the one who is waited for.

use std::time::{Duration, Instant};

/// Patience with a caller: spent by waiting for it, earned back by what it moves, never more than at first.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second; 0: as slow as it likes.
    min_rate: u64,
    most: Duration,
    left: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
    /// Bytes that have earned their share.
    bytes: u64,
}

impl Pace {
    /// `most`: how long a caller may move nothing at all.
    pub fn new(min_rate: u64, most: Duration) -> Self {
        Self {
            min_rate,
            most,
            left: most,
            since: None,
            bytes: 0,
        }
    }

    /// The caller is waited for, having moved `bytes` in all: how much longer it may take. None: for ever.
    pub fn patience(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        if self.min_rate == 0 {
            return None;
        }
        self.rests(now);
        self.since = Some(now);
        let moved = bytes.saturating_sub(self.bytes);
        self.bytes = bytes;
        let earned = Duration::from_nanos(moved.saturating_mul(1_000_000_000) / self.min_rate);
        self.left = self.left.saturating_add(earned).min(self.most);
        Some(self.left)
    }

    /// Something else is waited for, or nothing.
    pub fn rests(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.left = self
                .left
                .saturating_sub(now.saturating_duration_since(since));
        }
    }

    /// Whether the caller is being waited for.
    pub fn is_waiting(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_earned_by_bytes_and_spent_by_waiting_only() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let left = |seconds| Some(Duration::from_secs(seconds));
        let mut pace = Pace::new(100, Duration::from_secs(20));
        assert_eq!(pace.patience(0, at(0)), left(20));
        assert_eq!(pace.patience(0, at(15)), left(5));
        pace.rests(at(15));
        assert!(!pace.is_waiting());
        // An hour in which nobody waited for it costs nothing.
        assert_eq!(pace.patience(0, at(3600)), left(5));
        assert_eq!(pace.patience(300, at(3600)), left(8));
        // A burst buys no eternity.
        assert_eq!(pace.patience(1_000_000, at(3600)), left(20));
        assert_eq!(
            pace.patience(1_000_001, at(3630)),
            Some(Duration::from_millis(10))
        );
        assert_eq!(Pace::new(0, Duration::ZERO).patience(0, at(9999)), None);
    }
}
