//! What is learned of one target, a model of a provider: whether it fails, how soon it speaks, how busy it is.

use super::breaker::{Breaker, BreakerStatus, Pass};
use super::settings::BreakerSettings;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Share of the newest time to the first token in their average.
const NEWEST: f64 = 0.3;
/// In so much time the average loses half of its weight: a target that was slow and is not asked any more must get
/// another chance.
const HALF_LIFE: Duration = Duration::from_mins(1);

/// Outlives reloads, under the name of provider and model.
#[derive(Debug)]
pub struct TargetState {
    breaker: Breaker,
    in_flight: AtomicU32,
    first_token: Mutex<Option<Average>>,
    /// Of a target that takes any name: each model by its own, since one that fails says nothing of the others.
    models: Mutex<BTreeMap<String, Arc<Self>>>,
}

/// Models told apart at one target; callers choose their names.
const MODELS_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Average {
    seconds: f64,
    at: Instant,
}

/// One attempt at a target. Dropped without a word it says nothing of the provider.
#[derive(Debug)]
pub struct Trial {
    target: Arc<TargetState>,
    pass: Pass,
    told: bool,
}

/// A target as operators see it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TargetStatus {
    pub breaker: BreakerStatus,
    pub in_flight: u32,
    /// To the first token, as it was lately; none where it was not asked yet.
    pub latency: Option<Duration>,
}

impl TargetState {
    pub fn new(now: Instant) -> Self {
        Self {
            breaker: Breaker::new(now),
            in_flight: AtomicU32::new(0),
            first_token: Mutex::default(),
            models: Mutex::default(),
        }
    }

    /// What was learned of this model, if anything was.
    pub fn known(self: &Arc<Self>, model: &str) -> Arc<Self> {
        self.models()
            .get(model)
            .map_or_else(|| Arc::clone(self), Arc::clone)
    }

    /// Where what is learned of this model is kept; all together once there are too many in trouble or at work.
    pub fn of(self: &Arc<Self>, model: &str, now: Instant) -> Arc<Self> {
        let mut models = self.models();
        if let Some(known) = models.get(model) {
            return Arc::clone(known);
        }
        if models.len() >= MODELS_MAX {
            models.retain(|_, one| one.in_flight() > 0 || one.closed_until(now).is_some());
        }
        if models.len() >= MODELS_MAX {
            return Arc::clone(self);
        }
        let new = Arc::new(Self::new(now));
        models.insert(model.to_owned(), Arc::clone(&new));
        new
    }

    /// Each model of which something was learned by its name.
    pub fn each(&self) -> Vec<(String, Arc<Self>)> {
        let models = self.models();
        let each = models.iter();
        each.map(|(name, one)| (name.clone(), Arc::clone(one)))
            .collect()
    }

    fn models(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Self>>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an attempt, or tells when the next one may begin.
    pub fn admit(self: &Arc<Self>, now: Instant) -> Result<Trial, Instant> {
        let pass = self.breaker.admit(now)?;
        self.in_flight.fetch_add(1, Relaxed);
        Ok(Trial {
            target: Arc::clone(self),
            pass,
            told: false,
        })
    }

    /// When an attempt may begin; none: now.
    pub fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.breaker.closed_until(now)
    }

    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Time to the first token, as it was lately; it fades while nobody asks.
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let average = *self.average();
        average.map(|average| {
            let age = now.saturating_duration_since(average.at);
            let faded = 0.5_f64.powf(age.as_secs_f64() / HALF_LIFE.as_secs_f64());
            Duration::from_secs_f64(average.seconds * faded)
        })
    }

    pub fn status(&self, now: Instant) -> TargetStatus {
        TargetStatus {
            breaker: self.breaker.status(now),
            in_flight: self.in_flight(),
            latency: self.latency(now),
        }
    }

    fn average(&self) -> std::sync::MutexGuard<'_, Option<Average>> {
        self.first_token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trial {
    /// The first token came so long after the request was sent.
    pub fn first_token(&self, after: Duration, now: Instant) {
        let newest = after.as_secs_f64();
        let mut average = self.target.average();
        let seconds = average.map_or(newest, |old| {
            old.seconds.mul_add(1.0 - NEWEST, newest * NEWEST)
        });
        *average = Some(Average { seconds, at: now });
    }

    /// The provider has done its part; it also has when it refuses what the caller asks.
    pub fn succeeded(&mut self, settings: &BreakerSettings, now: Instant) {
        if !std::mem::replace(&mut self.told, true) {
            self.target.breaker.succeeded(self.pass, settings, now);
        }
    }

    /// The provider has failed. True if it is left alone from now on.
    pub fn failed(&mut self, settings: &BreakerSettings, now: Instant) -> bool {
        !std::mem::replace(&mut self.told, true)
            && self.target.breaker.failed(self.pass, settings, now)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        if !self.told {
            self.target.breaker.given_up(self.pass);
        }
        self.target.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_attempt_counts_as_long_as_it_lives() {
        let now = Instant::now();
        let target = Arc::new(TargetState::new(now));
        let (one, mut two) = (target.admit(now).unwrap(), target.admit(now).unwrap());
        assert_eq!(target.in_flight(), 2);
        drop(one);
        two.succeeded(&BreakerSettings::default(), now);
        assert_eq!(target.in_flight(), 1);
        drop(two);
        assert_eq!(target.in_flight(), 0);
    }

    #[test]
    fn a_probe_that_is_dropped_makes_room_for_the_next() {
        let now = Instant::now();
        let target = Arc::new(TargetState::new(now));
        let settings = BreakerSettings {
            failures: 1,
            ..BreakerSettings::default()
        };
        assert!(target.admit(now).unwrap().failed(&settings, now));
        let later = now + settings.open.0;
        let probe = target.admit(later).unwrap();
        assert!(target.admit(later).is_err());
        drop(probe);
        let mut probe = target.admit(later).unwrap();
        probe.succeeded(&settings, later);
        assert!(!probe.failed(&settings, later), "the first word stands");
        assert_eq!(target.status(later).breaker, BreakerStatus::Closed);
    }

    #[test]
    fn latency_follows_what_comes_and_fades_when_nothing_does() {
        let now = Instant::now();
        let target = Arc::new(TargetState::new(now));
        assert_eq!(target.latency(now), None);
        let trial = target.admit(now).unwrap();
        trial.first_token(SECOND, now);
        assert_eq!(target.latency(now), Some(SECOND));
        trial.first_token(2 * SECOND, now);
        let average = target.latency(now).unwrap().as_secs_f64();
        assert!((average - 1.3).abs() < 1e-6, "{average}");
        let later = target.latency(now + HALF_LIFE).unwrap().as_secs_f64();
        assert!((later - 0.65).abs() < 1e-6, "{later}");
    }

    #[test]
    fn one_model_that_fails_says_nothing_of_the_others() {
        let now = Instant::now();
        let target = Arc::new(TargetState::new(now));
        let settings = BreakerSettings::default();
        for _ in 0..settings.failures {
            target
                .of("bad", now)
                .admit(now)
                .unwrap()
                .failed(&settings, now);
        }
        assert!(target.known("bad").closed_until(now).is_some());
        assert!(target.known("good").closed_until(now).is_none());
        assert!(target.of("good", now).admit(now).is_ok());
        // Names without end do not push out what is known to fail.
        for nth in 0..1_000 {
            target.of(&nth.to_string(), now);
        }
        assert!(target.each().len() <= MODELS_MAX);
        assert!(target.known("bad").closed_until(now).is_some());
    }
}
