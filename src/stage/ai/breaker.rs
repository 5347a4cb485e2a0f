//! Whether a model of a provider is left alone for a while, because requests to it fail by the provider's fault.
//!
//! Closed, it lets everything through, until too many attempts fail in a row, or too large a share of the last
//! ones. Open, it lets nothing through for a time. Half open, it lets one probe through at a time: the first that
//! succeeds closes it, one that fails opens it again for twice as long.

use super::settings::BreakerSettings;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The window slides in steps of a tenth.
const STEPS: usize = 10;
const STEPS_U32: u32 = 10;
/// How soon a half-open one is asked again while its probe is on the way.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// Beyond that, doubling the time means nothing.
const DOUBLED_MAX: u32 = 16;

/// Outlives reloads: settings come with each call.
#[derive(Debug)]
pub struct Breaker {
    born: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    state: State,
    /// Faults in a row.
    run: u32,
    /// How often it has opened without having been closed.
    opened: u32,
    window: Window,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        probing: bool,
    },
}

/// Whether an attempt that was let through is the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Usual,
    Probe,
}

/// A breaker as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerStatus {
    Closed,
    /// For so much longer.
    Open(Duration),
    HalfOpen,
}

impl BreakerStatus {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open(_) => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Breaker {
    pub fn new(now: Instant) -> Self {
        Self {
            born: now,
            inner: Mutex::default(),
        }
    }

    /// When an attempt may be let through again; none if one may now. Takes nothing.
    pub fn closed_until(&self, now: Instant) -> Option<Instant> {
        let state = self.lock().state;
        match state {
            State::Open { until } if until > now => Some(until),
            State::HalfOpen { probing: true } => Some(now + PROBE_PAUSE),
            _ => None,
        }
    }

    /// Lets an attempt through, or tells when the next one may come. Whoever is let through must call one of
    /// [`Self::succeeded`], [`Self::failed`] and [`Self::given_up`], once.
    pub fn admit(&self, now: Instant) -> Result<Pass, Instant> {
        let mut inner = self.lock();
        match inner.state {
            State::Closed => Ok(Pass::Usual),
            State::Open { until } if until > now => Err(until),
            State::HalfOpen { probing: true } => Err(now + PROBE_PAUSE),
            State::Open { .. } | State::HalfOpen { probing: false } => {
                inner.state = State::HalfOpen { probing: true };
                Ok(Pass::Probe)
            }
        }
    }

    /// The provider has done its part; it also has when it refuses what the caller asks.
    pub fn succeeded(&self, pass: Pass, settings: &BreakerSettings, now: Instant) {
        let mut inner = self.lock();
        match (inner.state, pass) {
            (State::Closed, _) => {
                inner.run = 0;
                let step = self.step(settings, now);
                inner.window.count(step, false);
            }
            (State::HalfOpen { .. }, Pass::Probe) => *inner = Inner::default(),
            // Begun before it opened: it says nothing of now.
            (State::HalfOpen { .. } | State::Open { .. }, _) => {}
        }
    }

    /// The provider has failed. True if that has opened it.
    pub fn failed(&self, pass: Pass, settings: &BreakerSettings, now: Instant) -> bool {
        let mut inner = self.lock();
        let opens = match (inner.state, pass) {
            (State::Closed, _) => {
                inner.run = inner.run.saturating_add(1);
                let step = self.step(settings, now);
                inner.window.count(step, true);
                inner.run >= settings.failures || inner.window.is_over(step, settings)
            }
            (State::HalfOpen { .. }, Pass::Probe) => true,
            (State::HalfOpen { .. } | State::Open { .. }, _) => false,
        };
        if opens {
            let doubled = 1 << inner.opened.min(DOUBLED_MAX);
            let time = settings.open.0.saturating_mul(doubled);
            *inner = Inner {
                state: State::Open {
                    until: now + time.min(settings.open_max.0),
                },
                opened: inner.opened.saturating_add(1),
                ..Inner::default()
            };
        }
        opens
    }

    /// The attempt has ended without a word on the provider: the caller left, or our own limits ended it.
    pub fn given_up(&self, pass: Pass) {
        let mut inner = self.lock();
        if pass == Pass::Probe && inner.state == (State::HalfOpen { probing: true }) {
            inner.state = State::HalfOpen { probing: false };
        }
    }

    pub fn status(&self, now: Instant) -> BreakerStatus {
        let state = self.lock().state;
        match state {
            State::Closed => BreakerStatus::Closed,
            State::Open { until } if until > now => {
                BreakerStatus::Open(until.saturating_duration_since(now))
            }
            State::Open { .. } | State::HalfOpen { .. } => BreakerStatus::HalfOpen,
        }
    }

    /// Counts tenths of the window since it was born.
    fn step(&self, settings: &BreakerSettings, now: Instant) -> Step {
        let width = (settings.window.0 / STEPS_U32).max(Duration::from_millis(1));
        let age = now.saturating_duration_since(self.born);
        Step {
            width,
            number: u64::try_from(age.as_nanos() / width.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tenth of the window.
#[derive(Debug, Clone, Copy)]
struct Step {
    width: Duration,
    number: u64,
}

/// Attempts of the last ten steps.
#[derive(Debug, Default)]
struct Window {
    width: Duration,
    last: u64,
    /// Attempts, and those of them that failed.
    steps: [(u32, u32); STEPS],
}

impl Window {
    fn count(&mut self, step: Step, failed: bool) {
        self.slide(step);
        let index = usize::try_from(self.last % STEPS as u64).unwrap_or(0);
        let (all, bad) = &mut self.steps[index];
        *all = all.saturating_add(1);
        *bad = bad.saturating_add(u32::from(failed));
    }

    /// Forgets what is too old, and everything when the settings have changed.
    fn slide(&mut self, step: Step) {
        let passed = step.number.saturating_sub(self.last);
        if self.width != step.width || passed >= STEPS as u64 {
            self.steps = Default::default();
        } else {
            for number in self.last + 1..=self.last + passed {
                self.steps[usize::try_from(number % STEPS as u64).unwrap_or(0)] = (0, 0);
            }
        }
        self.width = step.width;
        self.last = self.last.max(step.number);
        if passed >= STEPS as u64 {
            self.last = step.number;
        }
    }

    fn is_over(&mut self, step: Step, settings: &BreakerSettings) -> bool {
        self.slide(step);
        let sum = |sum: (u64, u64), one: &(u32, u32)| {
            (sum.0 + u64::from(one.0), sum.1 + u64::from(one.1))
        };
        let (all, bad) = self.steps.iter().fold((0, 0), sum);
        all >= u64::from(settings.requests_min.max(1))
            && bad * 100 > all * u64::from(settings.rate.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::{Percent, Period};
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings() -> BreakerSettings {
        BreakerSettings {
            failures: 3,
            rate: Percent(50),
            requests_min: 10,
            window: Period::seconds(10),
            open: Period::seconds(5),
            open_max: Period::seconds(12),
        }
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::new(now);
        for nth in 1..=3 {
            let pass = breaker.admit(now).unwrap();
            assert_eq!(breaker.failed(pass, &settings(), now), nth == 3);
        }
        breaker
    }

    #[test]
    fn faults_in_a_row_open_it_and_a_success_between_them_does_not() {
        let (breaker, now) = (Breaker::new(Instant::now()), Instant::now());
        for _ in 0..4 {
            for failed in [true, true, false] {
                let pass = breaker.admit(now).unwrap();
                if failed {
                    assert!(!breaker.failed(pass, &settings(), now));
                } else {
                    breaker.succeeded(pass, &settings(), now);
                }
            }
            // Two of three are more than half; ten attempts would be enough to say so.
            if breaker.lock().window.steps.iter().map(|s| s.0).sum::<u32>() >= 9 {
                break;
            }
        }
        assert_eq!(breaker.status(now), BreakerStatus::Closed);
        let pass = breaker.admit(now).unwrap();
        assert!(breaker.failed(pass, &settings(), now), "7 of 10");
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let start = Instant::now();
        let breaker = Breaker::new(start);
        let mut now = start;
        for _ in 0..40 {
            for failed in [true, true, false] {
                let pass = breaker.admit(now).unwrap();
                if failed {
                    assert!(!breaker.failed(pass, &settings(), now));
                } else {
                    breaker.succeeded(pass, &settings(), now);
                }
            }
            // Never ten attempts within ten seconds.
            now += 4 * SECOND;
        }
    }

    #[test]
    fn open_it_lets_nothing_through_and_then_one_at_a_time() {
        let now = Instant::now();
        let breaker = opened(now);
        let until = now + 5 * SECOND;
        assert_eq!(breaker.admit(now), Err(until));
        assert_eq!(breaker.closed_until(now), Some(until));
        assert_eq!(breaker.status(now), BreakerStatus::Open(5 * SECOND));
        assert_eq!(breaker.closed_until(until), None);
        assert_eq!(breaker.status(until), BreakerStatus::HalfOpen);
        assert_eq!(breaker.admit(until), Ok(Pass::Probe));
        assert_eq!(breaker.admit(until), Err(until + PROBE_PAUSE));
        breaker.given_up(Pass::Probe);
        assert_eq!(breaker.admit(until), Ok(Pass::Probe));
        breaker.succeeded(Pass::Probe, &settings(), until);
        assert_eq!(breaker.status(until), BreakerStatus::Closed);
        assert_eq!(breaker.admit(until), Ok(Pass::Usual));
    }

    #[test]
    fn each_probe_that_fails_doubles_the_time_up_to_the_longest() {
        let mut now = Instant::now();
        let breaker = opened(now);
        for seconds in [5, 10, 12, 12] {
            let until = now + seconds * SECOND;
            assert_eq!(breaker.admit(now), Err(until), "{seconds}");
            now = until;
            let pass = breaker.admit(now).unwrap();
            assert!(breaker.failed(pass, &settings(), now));
        }
        now += 12 * SECOND;
        let pass = breaker.admit(now).unwrap();
        breaker.succeeded(pass, &settings(), now);
        for _ in 0..3 {
            let pass = breaker.admit(now).unwrap();
            breaker.failed(pass, &settings(), now);
        }
        assert_eq!(breaker.admit(now), Err(now + 5 * SECOND), "begun anew");
    }

    #[test]
    fn attempts_from_before_say_nothing_of_now() {
        let now = Instant::now();
        let breaker = opened(now);
        assert!(!breaker.failed(Pass::Usual, &settings(), now));
        breaker.succeeded(Pass::Usual, &settings(), now);
        breaker.given_up(Pass::Usual);
        assert_eq!(breaker.admit(now), Err(now + 5 * SECOND));
        let later = now + 5 * SECOND;
        assert_eq!(breaker.admit(later), Ok(Pass::Probe));
        breaker.succeeded(Pass::Usual, &settings(), later);
        breaker.given_up(Pass::Usual);
        assert_eq!(breaker.admit(later), Err(later + PROBE_PAUSE));
    }

    proptest! {
        /// Whatever happens in whatever order: what is told agrees with what is let through, there is never more
        /// than one probe, and it never stays open longer than the longest time.
        #[test]
        fn one_probe_at_a_time_and_never_open_for_longer_than_said(
            steps in proptest::collection::vec((0..4_u8, 0..4_000_u64), 1..200),
        ) {
            let settings = settings();
            let mut now = Instant::now();
            let breaker = Breaker::new(now);
            let mut running = Vec::new();
            for (action, pause) in steps {
                now += Duration::from_millis(pause);
                if action == 0 || running.is_empty() {
                    let told = breaker.closed_until(now);
                    match breaker.admit(now) {
                        Ok(pass) => {
                            prop_assert_eq!(told, None);
                            running.push(pass);
                        }
                        Err(until) => {
                            prop_assert_eq!(told, Some(until));
                            prop_assert!(until > now && until <= now + settings.open_max.0);
                        }
                    }
                } else {
                    let pass = running.remove(0);
                    match action {
                        1 => breaker.succeeded(pass, &settings, now),
                        2 => { breaker.failed(pass, &settings, now); }
                        _ => breaker.given_up(pass),
                    }
                }
                let probes = running.iter().filter(|pass| **pass == Pass::Probe).count();
                prop_assert!(probes <= 1);
            }
            for pass in running {
                breaker.given_up(pass);
            }
            prop_assert!(breaker.admit(now + settings.open_max.0).is_ok());
        }

        /// Fewer faults than are allowed, among enough successes, never open it.
        #[test]
        fn a_provider_that_mostly_works_is_never_left_alone(
            pauses in proptest::collection::vec(0..3_000_u64, 1..100),
        ) {
            let settings = settings();
            let mut now = Instant::now();
            let breaker = Breaker::new(now);
            for (nth, pause) in pauses.into_iter().enumerate() {
                now += Duration::from_millis(pause);
                let pass = breaker.admit(now).unwrap();
                if nth % 3 == 2 {
                    prop_assert!(!breaker.failed(pass, &settings, now));
                } else {
                    breaker.succeeded(pass, &settings, now);
                }
            }
        }
    }
}
