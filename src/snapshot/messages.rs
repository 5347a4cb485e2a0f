//! How many messages a user has sent through WebSockets: a sliding minute of two counts, in this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW_MS: u64 = 60_000;

/// What a user has sent.
#[derive(Debug)]
pub struct Window {
    since: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Which minute since the beginning.
    minute: u64,
    current: u64,
    previous: u64,
}

/// A window, and how much of it may be used.
#[derive(Debug, Clone)]
pub struct Meter {
    sent: Arc<Window>,
    most: u32,
}

impl Meter {
    pub fn new(sent: Arc<Window>, most: u32) -> Self {
        Self { sent, most }
    }

    /// Counts one message, or says that it is one too many and counts nothing.
    pub fn take(&self, now: Instant) -> bool {
        self.sent.take(self.most, now)
    }
}

impl Window {
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            counts: Mutex::default(),
        }
    }

    /// Whether what was sent still counts.
    pub fn counts(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = counts.current + counts.previous > 0;
        sent && minute_of(age).0 <= counts.minute + 1
    }

    /// The minute before counts by the share of it that is less than a minute ago.
    fn take(&self, most: u32, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        let (minute, into_ms) = minute_of(age);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if minute > counts.minute {
            let follows = minute == counts.minute + 1;
            *counts = Counts {
                minute,
                current: 0,
                previous: if follows { counts.current } else { 0 },
            };
        }
        let used = counts.current * WINDOW_MS + counts.previous * (WINDOW_MS - into_ms);
        let allowed = used + WINDOW_MS <= u64::from(most) * WINDOW_MS;
        counts.current += u64::from(allowed);
        allowed
    }
}

/// Which minute it is at this age, and how many milliseconds of it are over.
fn minute_of(age: Duration) -> (u64, u64) {
    let ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    (ms / WINDOW_MS, ms % WINDOW_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_slides() {
        let start = Instant::now();
        let window = Window::new(start);
        let taken = |second: u64, tries: usize| {
            let now = start + Duration::from_secs(second);
            (0..tries).filter(|_| window.take(10, now)).count()
        };
        // Seconds, tries, and how many of them are allowed of ten a minute.
        for (second, tries, allowed) in [
            (0, 4, 4),
            (59, 20, 6),
            // All ten of the minute before still count.
            (60, 5, 0),
            // Half of them.
            (90, 20, 5),
            (119, 20, 4),
            // Nothing for two minutes.
            (300, 20, 10),
        ] {
            assert_eq!(taken(second, tries), allowed, "at {second}");
        }
        assert!(window.counts(start + Duration::from_secs(419)));
        assert!(!window.counts(start + Duration::from_mins(7)));
    }
}
