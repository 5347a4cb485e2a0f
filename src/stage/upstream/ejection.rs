//! Passive ejection: an endpoint that fails requests is left alone for a while.
//!
//! In → out (for longer each time) → one trial request → in, or out again. Times are milliseconds
//! since the endpoint came to be. Whether the pool can spare the endpoint is the pool's question.

use super::settings::EjectionSettings;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

/// How an attempt went, as far as the endpoint can be blamed for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and not with 5xx.
    Success,
    /// No connection: refused, unreachable, too slow, TLS failed.
    ConnectFailure,
    /// Connected, then 5xx, a reset, a time-out or something that is not HTTP.
    Error,
}

/// Whether a request may go to the endpoint now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// The time is up: one request may try it.
    Ready,
    Shut,
}

/// Names one trial, so that a late one cannot end another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// What follows from an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// It failed too often: eject it, if the pool can spare it.
    Eject,
    /// Its trial went well: it is back.
    Returned,
}

const IN: u64 = 0;
/// Set in `gate` while a trial is under way; the rest is the ticket's number.
const TRIAL: u64 = 1 << 63;

/// The record of one endpoint.
#[derive(Debug, Default)]
pub struct Ejection {
    /// `IN`; a ticket; or the end of the time out, plus one.
    gate: AtomicU64,
    connect_failures: AtomicU32,
    errors: AtomicU32,
    /// Times ejected, until a healthy stretch lets it be forgotten.
    times: AtomicU32,
    returned: AtomicU64,
    trials: AtomicU64,
}

impl Ejection {
    pub fn gate(&self, at: u64) -> Gate {
        match self.gate.load(SeqCst) {
            IN => Gate::Open,
            trial if trial & TRIAL != 0 => Gate::Shut,
            until if at >= until - 1 => Gate::Ready,
            _ => Gate::Shut,
        }
    }

    /// Whether it is out, waiting or on trial.
    pub fn is_out(&self) -> bool {
        self.gate.load(SeqCst) != IN
    }

    pub fn is_on_trial(&self) -> bool {
        self.gate.load(SeqCst) & TRIAL != 0
    }

    /// Milliseconds until it may be tried; 0 while it is on trial. None: it is in.
    pub fn left(&self, at: u64) -> Option<u64> {
        match self.gate.load(SeqCst) {
            IN => None,
            trial if trial & TRIAL != 0 => Some(0),
            until => Some((until - 1).saturating_sub(at)),
        }
    }

    /// Out from the start, until then: another process has ejected it.
    pub fn begin_out(&self, until: u64, times: u32) {
        // Far below the bit of a trial, whatever somebody sends us.
        let until = until.min(u64::from(u32::MAX)) + 1;
        self.gate.store(until, SeqCst);
        self.times.store(times, Relaxed);
    }

    /// Times ejected in its recent past.
    pub fn times(&self) -> u32 {
        self.times.load(Relaxed)
    }

    /// Claims the one trial after the time out. None: not its time, or another was quicker.
    pub fn begin_trial(&self, at: u64) -> Option<Ticket> {
        let until = self.gate.load(SeqCst);
        if until == IN || until & TRIAL != 0 || at < until - 1 {
            return None;
        }
        let ticket = TRIAL | (self.trials.fetch_add(1, Relaxed) & !TRIAL);
        self.gate
            .compare_exchange(until, ticket, SeqCst, SeqCst)
            .is_ok()
            .then_some(Ticket(ticket))
    }

    /// A trial that ended without telling anything (the caller left): the next request may try.
    pub fn abandon(&self, ticket: Ticket) {
        const TIME_IS_UP: u64 = 1;
        let _ = self
            .gate
            .compare_exchange(ticket.0, TIME_IS_UP, SeqCst, SeqCst);
    }

    /// Takes note of an outcome. `random` in 0..1 spreads the length of a further time out.
    pub fn report(
        &self,
        outcome: Outcome,
        ticket: Option<Ticket>,
        settings: &EjectionSettings,
        (at, random): (u64, f64),
    ) -> Verdict {
        if let Some(verdict) =
            ticket.and_then(|ticket| self.end_trial(outcome, ticket, settings, (at, random)))
        {
            return verdict;
        }
        if self.is_out() {
            // Sent before it went out: tells nothing new.
            return Verdict::Keep;
        }
        self.count(outcome, settings)
    }

    /// None when the trial was overtaken by a probe: then it counts as any request does.
    fn end_trial(
        &self,
        outcome: Outcome,
        Ticket(ticket): Ticket,
        settings: &EjectionSettings,
        (at, random): (u64, f64),
    ) -> Option<Verdict> {
        if self.gate.load(SeqCst) != ticket {
            return None;
        }
        let (next, verdict) = if outcome == Outcome::Success {
            (IN, Verdict::Returned)
        } else {
            let times = self.times.load(Relaxed).saturating_add(1);
            (end_of(settings, times, (at, random)), Verdict::Keep)
        };
        self.gate
            .compare_exchange(ticket, next, SeqCst, SeqCst)
            .ok()?;
        if verdict == Verdict::Returned {
            self.settle(at);
        } else {
            self.times.fetch_add(1, Relaxed);
        }
        Some(verdict)
    }

    fn count(&self, outcome: Outcome, settings: &EjectionSettings) -> Verdict {
        let (failures, limit) = match outcome {
            Outcome::Success => {
                forget(&self.connect_failures);
                forget(&self.errors);
                return Verdict::Keep;
            }
            Outcome::ConnectFailure => (&self.connect_failures, settings.connect_failures),
            Outcome::Error => {
                forget(&self.connect_failures);
                (&self.errors, settings.errors)
            }
        };
        let failed = failures.fetch_add(1, Relaxed).saturating_add(1);
        if settings.enabled && failed >= limit {
            Verdict::Eject
        } else {
            Verdict::Keep
        }
    }

    /// Takes it out. The caller holds the pool's lock, so that two endpoints never go at once.
    pub fn eject(&self, settings: &EjectionSettings, (at, random): (u64, f64)) {
        let healthy_for = at.saturating_sub(self.returned.load(Relaxed));
        if u128::from(healthy_for) >= settings.max.0.as_millis() {
            self.times.store(0, Relaxed);
        }
        let times = self.times.load(Relaxed).saturating_add(1);
        let until = end_of(settings, times, (at, random));
        if self
            .gate
            .compare_exchange(IN, until, SeqCst, SeqCst)
            .is_ok()
        {
            self.times.store(times, Relaxed);
        }
    }

    /// Lets it back in: an active probe has seen it well. True if it was out.
    pub fn clear(&self, at: u64) -> bool {
        let was_out = self.gate.swap(IN, SeqCst) != IN;
        if was_out {
            self.settle(at);
        }
        was_out
    }

    fn settle(&self, at: u64) {
        self.returned.store(at, Relaxed);
        forget(&self.connect_failures);
        forget(&self.errors);
    }
}

/// Writes only when there is something to forget: a success is the common case, and its cache line is shared.
fn forget(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

/// When a time out ends, plus one: base doubled each time, at most max, up to a tenth shorter by
/// chance, so that endpoints ejected together do not return together.
fn end_of(settings: &EjectionSettings, times: u32, (at, random): (u64, f64)) -> u64 {
    let doubled = 1_u32 << times.saturating_sub(1).min(20);
    let length = settings
        .base
        .0
        .saturating_mul(doubled)
        .min(settings.max.0)
        .min(Duration::from_hours(365 * 24))
        .mul_f64(1.0 - 0.1 * random.clamp(0.0, 1.0));
    let ms = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    at.saturating_add(ms).saturating_add(1) & !TRIAL
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{ConnectFailure, Error, Success};
    use proptest::prelude::*;

    /// The middle of the road: no jitter.
    fn report(ejection: &Ejection, outcome: Outcome, ticket: Option<Ticket>, at: u64) -> Verdict {
        ejection.report(outcome, ticket, &EjectionSettings::default(), (at, 0.0))
    }

    fn ejected(at: u64) -> Ejection {
        let ejection = Ejection::default();
        ejection.eject(&EjectionSettings::default(), (at, 0.0));
        ejection
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_breaks_the_row() {
        use Verdict::{Eject, Keep};
        for (outcomes, last) in [
            (&[ConnectFailure][..], Eject),
            (&[Error; 4], Keep),
            (&[Error; 5], Eject),
            (&[Error, Error, Error, Error, Success, Error], Keep),
            (&[Success], Keep),
        ] {
            let ejection = Ejection::default();
            let verdict = outcomes
                .iter()
                .map(|outcome| report(&ejection, *outcome, None, 0))
                .last();
            assert_eq!(verdict, Some(last), "{outcomes:?}");
        }
    }

    #[test]
    fn nothing_ejects_when_it_is_turned_off() {
        let ejection = Ejection::default();
        let off = EjectionSettings {
            enabled: false,
            ..EjectionSettings::default()
        };
        let verdict = ejection.report(ConnectFailure, None, &off, (0, 0.0));
        assert_eq!(verdict, Verdict::Keep);
    }

    #[test]
    fn exactly_one_trial_is_let_through_when_the_time_is_up() {
        let ejection = ejected(0);
        assert_eq!(ejection.gate(9_999), Gate::Shut);
        assert_eq!(ejection.begin_trial(9_999), None);
        assert_eq!(ejection.gate(10_000), Gate::Ready);
        assert!(ejection.begin_trial(10_000).is_some());
        assert_eq!(ejection.begin_trial(10_000), None);
        assert_eq!(ejection.gate(1_000_000), Gate::Shut);
    }

    #[test]
    fn of_many_threads_one_gets_the_trial() {
        const ROUNDS: usize = 50_000;
        let all: Vec<_> = (0..ROUNDS).map(|_| ejected(0)).collect();
        let won: usize = std::thread::scope(|scope| {
            let try_all = || all.iter().filter_map(|e| e.begin_trial(10_000)).count();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(try_all)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(won, ROUNDS);
    }

    #[test]
    fn a_good_trial_restores_and_a_bad_one_ejects_for_longer() {
        let ejection = ejected(0);
        let trial = ejection.begin_trial(10_000);
        assert_eq!(report(&ejection, Error, trial, 10_000), Verdict::Keep);
        assert_eq!(ejection.gate(29_999), Gate::Shut, "20 s now");
        let trial = ejection.begin_trial(30_000);
        assert!(trial.is_some());
        assert_eq!(report(&ejection, Success, trial, 30_000), Verdict::Returned);
        assert_eq!(ejection.gate(30_000), Gate::Open);
        ejection.eject(&EjectionSettings::default(), (31_000, 0.0));
        assert_eq!(ejection.gate(70_999), Gate::Shut, "40 s: not forgotten yet");
        assert_eq!(ejection.gate(71_000), Gate::Ready);
    }

    #[test]
    fn a_healthy_stretch_is_forgiving() {
        let ejection = ejected(0);
        let trial = ejection.begin_trial(10_000);
        report(&ejection, Success, trial, 10_000);
        ejection.eject(&EjectionSettings::default(), (310_000, 0.0));
        assert_eq!(ejection.times(), 1);
        assert_eq!(ejection.gate(320_000), Gate::Ready);
    }

    #[test]
    fn an_abandoned_trial_leaves_room_for_the_next() {
        let ejection = ejected(0);
        let first = ejection.begin_trial(10_000).unwrap();
        ejection.abandon(first);
        assert_eq!(ejection.gate(10_001), Gate::Ready);
        let second = ejection.begin_trial(10_001).unwrap();
        ejection.abandon(first);
        assert_eq!(
            ejection.gate(10_002),
            Gate::Shut,
            "the first cannot end the second"
        );
        report(&ejection, Success, Some(second), 10_002);
        assert_eq!(ejection.gate(10_002), Gate::Open);
    }

    #[test]
    fn late_words_of_earlier_requests_change_nothing() {
        let ejection = ejected(0);
        for outcome in [Success, Error, ConnectFailure] {
            assert_eq!(report(&ejection, outcome, None, 5_000), Verdict::Keep);
        }
        assert_eq!(ejection.gate(9_999), Gate::Shut);
        assert_eq!(ejection.gate(10_000), Gate::Ready);
    }

    #[test]
    fn a_good_probe_lets_it_back_in_even_on_trial() {
        let ejection = ejected(0);
        let trial = ejection.begin_trial(10_000);
        assert!(ejection.clear(10_100));
        assert!(!ejection.clear(10_100));
        assert_eq!(report(&ejection, Error, trial, 10_200), Verdict::Keep);
        assert_eq!(ejection.gate(10_200), Gate::Open, "one error of five");
    }

    proptest! {
        #[test]
        fn a_time_out_is_within_its_bounds(times in 1_u32..100, at in 0_u64..1 << 50, random in 0.0..1.0_f64) {
            let length = end_of(&EjectionSettings::default(), times, (at, random)) - 1 - at;
            let whole = 10_000_u64.saturating_mul(1 << (times - 1).min(30)).min(300_000);
            prop_assert!(length <= whole && length >= whole * 9 / 10 - 1, "{} of {}", length, whole);
        }
    }
}
