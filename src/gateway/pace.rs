//! How fast a caller must be, on average, while it is the one who is waited for.

use std::time::{Duration, Instant};

/// Waiting that nobody is asked to explain: a slow start, a tunnel, a hiccup.
const GRACE: Duration = Duration::from_secs(20);

/// Time spent on waiting for a caller, and what it has moved for that.
#[derive(Debug, Default)]
pub struct Pace {
    /// Bytes a second; 0: as slow as it likes.
    min_rate: u64,
    waited: Duration,
    since: Option<Instant>,
}

impl Pace {
    pub fn new(min_rate: u64) -> Self {
        Self {
            min_rate,
            ..Self::default()
        }
    }

    /// The caller is waited for, having moved `bytes` in all: how much longer it may take before it
    /// must have moved more. None: for ever.
    pub fn patience(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        if self.min_rate == 0 {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let earned = Duration::from_secs(bytes / self.min_rate) + GRACE;
        let waited = self.waited + now.saturating_duration_since(since);
        Some(earned.saturating_sub(waited))
    }

    /// Something else is waited for, or nothing.
    pub fn rests(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.waited += now.saturating_duration_since(since);
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
        let left = Duration::from_secs;
        let mut pace = Pace::new(100);
        assert_eq!(pace.patience(0, at(0)), Some(left(20)));
        assert_eq!(pace.patience(0, at(15)), Some(left(5)));
        pace.rests(at(15));
        assert!(!pace.is_waiting());
        // An hour in which nobody waited for it costs nothing.
        assert_eq!(pace.patience(0, at(3600)), Some(left(5)));
        assert_eq!(pace.patience(1000, at(3600)), Some(left(15)));
        assert_eq!(pace.patience(1000, at(3700)), Some(left(0)));
        assert_eq!(Pace::new(0).patience(0, at(9999)), None);
    }
}
