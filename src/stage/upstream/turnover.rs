//! How often places become free while somebody waits for one, and so how long a line takes.

use std::time::{Duration, Instant};

/// Share of the newest interval in the average.
const NEWEST: f64 = 0.2;

/// What callers are told at most; who must wait longer has no use for an exact number.
const TOLD_MAX: Duration = Duration::from_mins(1);

/// What callers are told at least: the header counts in seconds.
const TOLD_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Turnover {
    /// Between two places that became free, in seconds.
    interval: Option<f64>,
    /// When one became free last, or the first one began to wait.
    since: Option<Instant>,
}

impl Turnover {
    /// Somebody waits where nobody did: what was before says nothing of the pace.
    pub fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// A place became free for one who waited.
    pub fn freed(&mut self, now: Instant) {
        let since = self.since.replace(now).unwrap_or(now);
        let newest = now.saturating_duration_since(since).as_secs_f64();
        let mixed = |old: f64| old.mul_add(1.0 - NEWEST, newest * NEWEST);
        self.interval = Some(self.interval.map_or(newest, mixed));
    }

    /// How long until one is served before whom `ahead` are; none where no place has become free yet. When none
    /// has for longer than usual, that is the pace now.
    pub fn wait(&self, ahead: usize, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.since?).as_secs_f64();
        let interval = self.interval?.max(silent);
        let places = f64::from(u32::try_from(ahead).unwrap_or(u32::MAX)) + 1.0;
        let wait = Duration::try_from_secs_f64(interval * places).unwrap_or(TOLD_MAX);
        Some(wait.clamp(TOLD_MIN, TOLD_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_told_by_the_pace_of_late() {
        let ms = Duration::from_millis;
        let start = Instant::now();
        for (freed_at, ahead, asked_at, told) in [
            // Nothing is known.
            (vec![], 5, 900, None),
            // One each 200 ms: six of them take 1.2 s.
            (vec![200, 400, 600], 5, 600, Some(1_200)),
            (vec![200, 400, 600], 0, 600, Some(1_000)),
            // None for 3 s: that is the pace now.
            (vec![200, 400, 600], 5, 3_600, Some(18_000)),
            (vec![200, 400, 600], 5_000, 600, Some(60_000)),
            (vec![2_000], usize::MAX, 2_000, Some(60_000)),
        ] {
            let mut turnover = Turnover::default();
            turnover.begin(start);
            for at in &freed_at {
                turnover.freed(start + ms(*at));
            }
            let wait = turnover.wait(ahead, start + ms(asked_at));
            let rounded = wait.map(|wait| (wait.as_secs_f64() * 1000.0).round());
            assert_eq!(rounded, told.map(f64::from), "{freed_at:?} {ahead}");
        }
    }

    #[test]
    fn rest_between_two_rushes_is_no_pace() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut turnover = Turnover::default();
        turnover.begin(start);
        turnover.freed(start + second);
        let later = start + Duration::from_hours(1);
        turnover.begin(later);
        turnover.freed(later + second);
        let wait = turnover.wait(3, later + second).unwrap();
        assert!((wait.as_secs_f64() - 4.0).abs() < 1e-6, "{wait:?}");
    }
}
