//! Is it well: what probes said of an endpoint, and when to ask again.

use super::settings::HealthSettings;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shortest wait between two probes of one endpoint, whatever the settings say.
const SHORTEST_DELAY: Duration = Duration::from_millis(10);

/// Longest text kept of an error, in bytes.
const ERROR_BYTES_MAX: usize = 300;

/// What probes say of one endpoint. It starts up but unknown, for traffic must not wait for
/// the first probe, and it lives as long as the endpoint: a reload forgets nothing.
///
/// Requests read two atomics; the counts behind them are the prober's alone.
#[derive(Debug)]
pub struct Health {
    up: AtomicBool,
    known: AtomicBool,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Verdicts in a row, up to now; at most one of the two is above zero.
    failures: u32,
    successes: u32,
    last_error: Option<String>,
    last_probe: Option<Instant>,
    changed: Option<Instant>,
}

/// What one verdict changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The first verdict on a new endpoint, and it is well. It was already in rotation.
    Confirmed,
    /// It was up, or unknown, and is down.
    Left,
    /// It was down and is up again.
    Returned,
}

/// All that is known of an endpoint's health, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub up: bool,
    /// Whether any verdict was reached yet.
    pub known: bool,
    /// Probed at the fast interval: the last answers disagree with the verdict.
    pub in_doubt: bool,
    pub consecutive_failures: u32,
    pub consecutive_successes: u32,
    /// Of the last failed probe; kept after recovery.
    pub last_error: Option<String>,
    pub last_probe: Option<Instant>,
    /// Of the last change between up and down, or of the first verdict.
    pub changed: Option<Instant>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            up: AtomicBool::new(true),
            known: AtomicBool::new(false),
            counts: Mutex::default(),
        }
    }
}

impl Health {
    pub fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Whether a verdict was ever reached: one success is enough, a failure only when it takes
    /// the endpoint out.
    pub fn is_known(&self) -> bool {
        self.known.load(Relaxed)
    }

    /// Counts the result of one probe; says what it changed, if anything.
    pub fn record(
        &self,
        result: Result<(), &str>,
        settings: &HealthSettings,
        now: Instant,
    ) -> Option<Transition> {
        let mut counts = self.counts();
        counts.last_probe = Some(now);
        let transition = match result {
            Ok(()) => self.count_success(&mut counts, settings),
            Err(error) => self.count_failure(&mut counts, error, settings),
        };
        if transition.is_some() {
            counts.changed = Some(now);
        }
        transition
    }

    /// How long until the next probe. `random` is from 0 to 1 and spreads settled endpoints by a
    /// tenth either way, so that many gateways do not ask at once.
    pub fn next_delay(&self, settings: &HealthSettings, random: f64) -> Duration {
        let settled = settings
            .interval
            .0
            .mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0));
        let delay = if self.in_doubt(&self.counts()) {
            settled.min(settings.fast_interval.0)
        } else {
            settled
        };
        delay.max(SHORTEST_DELAY)
    }

    /// Down from the start: another process has found it so.
    pub fn begin_down(&self, error: &str, now: Instant) {
        let mut counts = self.counts();
        counts.last_error = Some(shortened(error));
        counts.changed = Some(now);
        self.up.store(false, Relaxed);
        self.known.store(true, Relaxed);
    }

    /// Back to up and unknown. When checks are switched off, nobody would ever bring back an
    /// endpoint that was down.
    pub fn forget(&self) {
        let mut counts = self.counts();
        *counts = Counts::default();
        self.up.store(true, Relaxed);
        self.known.store(false, Relaxed);
    }

    pub fn report(&self) -> Report {
        let counts = self.counts();
        Report {
            up: self.is_up(),
            known: self.is_known(),
            in_doubt: self.in_doubt(&counts),
            consecutive_failures: counts.failures,
            consecutive_successes: counts.successes,
            last_error: counts.last_error.clone(),
            last_probe: counts.last_probe,
            changed: counts.changed,
        }
    }

    fn count_success(&self, counts: &mut Counts, settings: &HealthSettings) -> Option<Transition> {
        counts.failures = 0;
        counts.successes = counts.successes.saturating_add(1);
        let first = !self.known.swap(true, Relaxed);
        if self.is_up() {
            return first.then_some(Transition::Confirmed);
        }
        if counts.successes < settings.healthy_after {
            return None;
        }
        self.up.store(true, Relaxed);
        Some(Transition::Returned)
    }

    fn count_failure(
        &self,
        counts: &mut Counts,
        error: &str,
        settings: &HealthSettings,
    ) -> Option<Transition> {
        counts.successes = 0;
        counts.failures = counts.failures.saturating_add(1);
        counts.last_error = Some(shortened(error));
        if !self.is_up() || counts.failures < settings.unhealthy_after {
            return None;
        }
        self.up.store(false, Relaxed);
        self.known.store(true, Relaxed);
        Some(Transition::Left)
    }

    /// An endpoint that never answered well is in doubt from its first failure on, so one that is
    /// dead at start leaves within seconds and not after whole intervals.
    fn in_doubt(&self, counts: &Counts) -> bool {
        if self.is_up() {
            counts.failures > 0
        } else {
            counts.successes > 0
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Plain numbers: a panic elsewhere cannot have left them half written.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Period;
    use proptest::prelude::*;

    fn settings() -> HealthSettings {
        HealthSettings {
            interval: Period::seconds(30),
            fast_interval: Period::seconds(1),
            unhealthy_after: 3,
            healthy_after: 2,
            ..HealthSettings::default()
        }
    }

    /// `+` and `-` are probes; after each, what is expected: up (`U`) or down (`D`), settled (`.`)
    /// or in doubt (`?`), then a letter for the transition.
    fn check(name: &str, probes: &str, expected: &str) {
        let health = Health::default();
        let now = Instant::now();
        let seen: Vec<String> = probes
            .chars()
            .map(|probe| {
                let result = if probe == '+' { Ok(()) } else { Err("refused") };
                let transition = match health.record(result, &settings(), now) {
                    None => "",
                    Some(Transition::Confirmed) => "c",
                    Some(Transition::Left) => "l",
                    Some(Transition::Returned) => "r",
                };
                let doubt = health.next_delay(&settings(), 0.5) == Duration::from_secs(1);
                let up = if health.is_up() { 'U' } else { 'D' };
                format!("{up}{}{transition}", if doubt { '?' } else { '.' })
            })
            .collect();
        assert_eq!(seen.join(" "), expected, "{name}");
    }

    #[test]
    fn verdicts_follow_the_results_in_a_row() {
        for (name, probes, expected) in [
            ("well at once", "++", "U.c U."),
            ("dead at start leaves fast", "---", "U? U? D.l"),
            ("dead stays settled", "----", "U? U? D.l D."),
            ("late first success", "-+", "U? U.c"),
            (
                "a success resets failures",
                "+--+--+",
                "U.c U? U? U. U? U? U.",
            ),
            ("leaves after three", "+---", "U.c U? U? D.l"),
            ("returns after two", "---++", "U? U? D.l D? U.r"),
            (
                "a failure resets successes",
                "---+-+-",
                "U? U? D.l D? D. D? D.",
            ),
            ("leaves again", "---++---", "U? U? D.l D? U.r U? U? D.l"),
        ] {
            check(name, probes, expected);
        }
    }

    #[test]
    fn nothing_is_known_before_the_first_verdict() {
        let health = Health::default();
        let now = Instant::now();
        assert!(health.is_up() && !health.is_known());
        health.record(Err("refused"), &settings(), now);
        assert!(health.is_up() && !health.is_known());
        health.record(Err("refused"), &settings(), now);
        health.record(Err("refused"), &settings(), now);
        assert!(!health.is_up() && health.is_known());
        health.forget();
        assert!(health.is_up() && !health.is_known());
        assert_eq!(health.report(), Health::default().report());
    }

    #[test]
    fn a_report_keeps_the_last_error_and_the_time_of_change() {
        let health = Health::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 1..=3 {
            health.record(Err("status 500"), &settings(), at(second));
        }
        health.record(Ok(()), &settings(), at(4));
        let report = health.report();
        assert_eq!(report.last_error.as_deref(), Some("status 500"));
        assert_eq!(report.changed, Some(at(3)));
        assert_eq!(report.last_probe, Some(at(4)));
        assert_eq!(
            (report.consecutive_failures, report.consecutive_successes),
            (0, 1)
        );
        assert!(report.in_doubt && !report.up && report.known);
    }

    #[test]
    fn a_long_error_is_cut_between_characters() {
        let health = Health::default();
        health.record(Err(&"ä".repeat(400)), &settings(), Instant::now());
        let kept = health.report().last_error.unwrap();
        assert_eq!(kept, "ä".repeat(ERROR_BYTES_MAX / 2));
    }

    proptest! {
        #[test]
        fn delays_stay_within_a_tenth(random in 0.0..1.0f64, seconds in 0..100_000u64) {
            let settings = HealthSettings { interval: Period::seconds(seconds), ..settings() };
            let delay = Health::default().next_delay(&settings, random).as_secs_f64();
            let interval = Duration::from_secs(seconds).max(SHORTEST_DELAY).as_secs_f64();
            prop_assert!(delay >= 0.9 * interval && delay <= 1.1 * interval + 0.01);
        }

        /// Against a plain count of the last results in a row.
        #[test]
        fn up_and_down_agree_with_the_last_runs(results in prop::collection::vec(any::<bool>(), 0..60)) {
            let health = Health::default();
            let mut up = true;
            for end in 1..=results.len() {
                let result = if results[end - 1] { Ok(()) } else { Err("no") };
                health.record(result, &settings(), Instant::now());
                let run = results[..end].iter().rev().take_while(|r| **r == results[end - 1]).count();
                if results[end - 1] && run >= 2 {
                    up = true;
                } else if !results[end - 1] && run >= 3 {
                    up = false;
                }
                prop_assert_eq!(health.is_up(), up);
            }
        }
    }
}
