//! The keys of one provider: taken in turn, and each left alone by itself when the provider refuses it.

use super::allowance::{Allowance, Learned, Need};
use super::key_line::KeyLine;
pub use super::key_line::Turn;
use crate::base::secret::Secret;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest that a key is left alone, whatever the provider says: it may be wrong.
const COOLED_MAX: Duration = Duration::from_hours(1);
/// First time that a key is left alone after 429 without a word how long; doubled each time in a row.
const RATE_LIMITED_FIRST: Duration = Duration::from_secs(1);

/// Models of which a key remembers that it was used too often.
const LIMITED_MAX: usize = 64;

/// Keys by turns. One that is taken over by the ring after a reload keeps what was learned of it.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<Arc<Key>>,
    /// How long a key is left alone at most without the provider's word.
    cooldown: Duration,
    next: AtomicUsize,
    line: KeyLine,
}

struct Key {
    secret: Secret,
    /// Refusals in a row.
    strikes: AtomicU32,
    cooled: Mutex<Option<Cooled>>,
    /// By model: limits of requests are counted apart for each.
    limited: Mutex<HashMap<String, Cooled>>,
    learned: Mutex<Learned>,
}

#[derive(Debug, Clone, Copy)]
struct Cooled {
    until: Instant,
    /// Whether the provider itself has said how long.
    is_told: bool,
    why: Why,
}

/// Why a key is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Too much for now (429).
    RateLimited,
    /// Not taken (401), or not for this (403).
    Refused,
    /// Its money or its quota is gone (402, and 429 that says so).
    Quota,
}

/// A key to be shown.
pub struct Picked {
    /// None where the provider wants none.
    key: Option<Arc<Key>>,
    /// Its place in the configuration, by which it is told apart from the others; from 0.
    pub index: usize,
}

/// A key as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// How much longer it is left alone, and why.
    pub cooled: Option<(Duration, Why)>,
}

impl Why {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::Quota => "quota",
        }
    }
}

impl KeyRing {
    /// A ring of the keys that are not empty; `before` is the ring whose place it takes.
    pub fn new(secrets: &[Secret], cooldown: Duration, before: Option<&Self>) -> Self {
        let known = |secret: &Secret| {
            let mut kept = before?.keys.iter();
            kept.find(|key| key.secret == *secret).cloned()
        };
        let secrets = secrets.iter().filter(|secret| !secret.expose().is_empty());
        let keys = secrets.map(|secret| known(secret).unwrap_or_else(|| Key::new(secret)));
        Self {
            keys: keys.collect(),
            cooldown,
            next: AtomicUsize::new(0),
            line: KeyLine::default(),
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The next key that is not left alone, and whose limits, as far as they are known, leave what the call needs;
    /// else when there will be one. Without any key there is nothing to show, and that is picked.
    pub fn pick(&self, need: &Need<'_>, now: Instant) -> Result<Picked, Instant> {
        if self.keys.is_empty() {
            return Ok(Picked {
                key: None,
                index: 0,
            });
        }
        let start = self.next.fetch_add(1, Relaxed);
        let mut earliest: Option<Instant> = None;
        for step in 0..self.keys.len() {
            let index = start.wrapping_add(step) % self.keys.len();
            let key = &self.keys[index];
            match key.take(need, now) {
                Ok(()) => {
                    return Ok(Picked {
                        key: Some(Arc::clone(key)),
                        index,
                    });
                }
                Err(until) => {
                    earliest = Some(earliest.map_or(until, |other| other.min(until)));
                }
            }
        }
        Err(earliest.unwrap_or(now))
    }

    /// Where there is no free key: the one that will be free first of those that are left alone only because we
    /// think so. Whoever has nowhere else to go may be wrong with it, and is not refused for a guess.
    pub fn pick_anyway(&self, model: &str, now: Instant) -> Option<Picked> {
        let guessed = self.keys.iter().enumerate().filter_map(|(index, key)| {
            let cooled = key.cooled(model, now)?;
            (!cooled.is_told).then_some((cooled.until, index))
        });
        let (_, index) = guessed.min()?;
        Some(Picked {
            key: Some(Arc::clone(&self.keys[index])),
            index,
        })
    }

    /// As [`Self::pick`], for a call that comes just now: nobody overtakes those who wait.
    pub fn pick_at_once(&self, need: &Need<'_>, now: Instant) -> Result<Picked, Instant> {
        if self.line.is_empty() {
            self.pick(need, now)
        } else {
            Err(self.free_at(need, now).unwrap_or(now))
        }
    }

    /// When a key will have what the call needs, were it alone; none: now.
    pub fn free_at(&self, need: &Need<'_>, now: Instant) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        for key in &self.keys {
            let until = key.free_at(need, now)?;
            earliest = Some(earliest.map_or(until, |other| other.min(until)));
        }
        earliest
    }

    /// A place among the calls that wait for a key, of which there are `max` at most; see [`Self::serve`].
    pub fn wait(&self, need: &Need<'_>, user: Option<u64>, max: u32) -> Option<Turn<'_>> {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        self.line.join(need, user, max)
    }

    /// Calls that wait for a key.
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// Gives keys to those who wait, by turns. To be called when one joins, and when a key may be free again.
    pub fn serve(&self, now: Instant) {
        self.line.serve(|need| self.pick(need, now));
    }

    /// What the provider says is left of this key's limits, for this model.
    pub fn learn(&self, picked: &Picked, model: &str, allowance: &Allowance, now: Instant) {
        if let Some(key) = picked.key.as_ref().filter(|_| !allowance.is_empty()) {
            key.learned().learn(model, allowance, now);
        }
    }

    /// When the first key that was refused can be picked again; none if there is one that was not.
    pub fn earliest(&self, model: &str, now: Instant) -> Option<Instant> {
        let mut earliest = None;
        for key in &self.keys {
            let until = key.cooled(model, now)?.until;
            earliest = Some(earliest.map_or(until, |other: Instant| other.min(until)));
        }
        earliest
    }

    /// The provider has refused the key: it is left alone for as long as the provider says, or as we think; for this
    /// model alone if it was used too often, since that is counted by model.
    pub fn cool(
        &self,
        picked: &Picked,
        (why, model): (Why, &str),
        retry_after: Option<Duration>,
        now: Instant,
    ) {
        let Some(key) = &picked.key else { return };
        let strikes = key.strikes.fetch_add(1, Relaxed).min(20);
        let by_ourselves = match why {
            Why::RateLimited => RATE_LIMITED_FIRST
                .saturating_mul(1 << strikes)
                .min(self.cooldown),
            Why::Refused | Why::Quota => self.cooldown,
        };
        let until = now + retry_after.unwrap_or(by_ourselves).min(COOLED_MAX);
        let cooled = Cooled {
            until,
            is_told: retry_after.is_some(),
            why,
        };
        match why {
            Why::RateLimited => key.limit(model, cooled, now),
            Why::Refused | Why::Quota => {
                let mut all = key.cooled.lock().unwrap_or_else(PoisonError::into_inner);
                *all = Some(cooled.or_before(*all, now));
            }
        }
    }

    /// The provider has taken the key.
    pub fn worked(&self, picked: &Picked) {
        if let Some(key) = &picked.key
            && key.strikes.load(Relaxed) > 0
        {
            key.strikes.store(0, Relaxed);
        }
    }

    /// Each key, in the order of the configuration; never what it is.
    pub fn status(&self, now: Instant) -> Vec<KeyStatus> {
        let keys = self.keys.iter().map(|key| KeyStatus {
            cooled: key
                .cooled_at_all(now)
                .map(|cooled| (cooled.until.saturating_duration_since(now), cooled.why)),
        });
        keys.collect()
    }
}

impl Picked {
    /// The key itself, to be shown to the provider and nobody else.
    pub fn secret(&self) -> Option<&str> {
        self.key.as_ref().map(|key| key.secret.expose())
    }
}

impl fmt::Debug for Picked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}", self.index)
    }
}

impl Key {
    fn new(secret: &Secret) -> Arc<Self> {
        Arc::new(Self {
            secret: secret.clone(),
            strikes: AtomicU32::new(0),
            cooled: Mutex::default(),
            limited: Mutex::default(),
            learned: Mutex::default(),
        })
    }

    /// Takes what the call needs, or tells when there will be enough.
    fn take(&self, need: &Need<'_>, now: Instant) -> Result<(), Instant> {
        let mut learned = self.learned();
        let cooled = self.cooled(need.model, now).map(|cooled| cooled.until);
        let until = cooled.max(learned.enough_at(need, now));
        until.map_or(Ok(()), Err)?;
        learned.take(need, now);
        Ok(())
    }

    fn free_at(&self, need: &Need<'_>, now: Instant) -> Option<Instant> {
        let cooled = self.cooled(need.model, now).map(|cooled| cooled.until);
        cooled.max(self.learned().enough_at(need, now))
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it is left alone for this model.
    fn cooled(&self, model: &str, now: Instant) -> Option<Cooled> {
        let all = *self.cooled.lock().unwrap_or_else(PoisonError::into_inner);
        let limited = self.limited().get(model).copied();
        let ours = [all, limited].into_iter().flatten();
        let ours = ours.filter(|cooled| cooled.until > now);
        ours.max_by_key(|cooled| (cooled.is_told, cooled.until))
    }

    /// Why it is left alone for any model: what lasts longest.
    fn cooled_at_all(&self, now: Instant) -> Option<Cooled> {
        let all = *self.cooled.lock().unwrap_or_else(PoisonError::into_inner);
        let limited: Vec<Cooled> = self.limited().values().copied().collect();
        let ours = limited.into_iter().chain(all);
        let ours = ours.filter(|cooled| cooled.until > now);
        ours.max_by_key(|cooled| cooled.until)
    }

    fn limit(&self, model: &str, cooled: Cooled, now: Instant) {
        let mut limited = self.limited();
        if limited.len() >= LIMITED_MAX {
            limited.retain(|_, other| other.until > now);
        }
        // So many at once: what cannot be kept is learned anew.
        if limited.len() < LIMITED_MAX || limited.contains_key(model) {
            let before = limited.get(model).copied();
            limited.insert(model.to_owned(), cooled.or_before(before, now));
        }
    }

    fn limited(&self) -> MutexGuard<'_, HashMap<String, Cooled>> {
        self.limited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cooled {
    /// Answers come in any order: the longest word stands, and the provider's before ours.
    fn or_before(self, before: Option<Self>, now: Instant) -> Self {
        match before {
            Some(other)
                if other.until > now
                    && (other.is_told, other.until) >= (self.is_told, self.until) =>
            {
                other
            }
            _ => self,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COOLDOWN: Duration = Duration::from_mins(1);
    const SECOND: Duration = Duration::from_secs(1);
    const ANY: Need<'_> = Need {
        model: "m",
        prompt: 1,
        answer: 0,
    };

    fn secrets(words: &[&str]) -> Vec<Secret> {
        let secrets = words.iter().map(|word| Secret::new((*word).to_owned()));
        secrets.collect()
    }

    fn ring(words: &[&str]) -> KeyRing {
        KeyRing::new(&secrets(words), COOLDOWN, None)
    }

    #[test]
    fn keys_are_taken_in_turn_and_empty_ones_never() {
        let (ring, now) = (ring(&["a", "", "b"]), Instant::now());
        let picked: Vec<_> = (0..4)
            .map(|_| ring.pick(&ANY, now).unwrap().secret().unwrap().to_owned())
            .collect();
        assert_eq!(picked, ["a", "b", "a", "b"]);
    }

    #[test]
    fn without_keys_nothing_is_shown() {
        let (ring, now) = (ring(&["", ""]), Instant::now());
        assert!(ring.is_empty());
        assert_eq!(ring.pick(&ANY, now).unwrap().secret(), None);
        assert_eq!(ring.earliest("m", now), None);
    }

    #[test]
    fn a_key_is_left_alone_for_as_long_as_the_provider_says() {
        for (why, retry_after, seconds) in [
            (Why::RateLimited, Some(7), 7),
            (Why::RateLimited, None, 1),
            (Why::RateLimited, Some(1_000_000), 3600),
            (Why::RateLimited, Some(0), 0),
            (Why::Refused, None, 60),
            (Why::Quota, None, 60),
            (Why::Quota, Some(5), 5),
        ] {
            let (ring, now) = (ring(&["a"]), Instant::now());
            let picked = ring.pick(&ANY, now).unwrap();
            ring.cool(
                &picked,
                (why, "m"),
                retry_after.map(Duration::from_secs),
                now,
            );
            let until = now + Duration::from_secs(seconds);
            if seconds > 0 {
                assert_eq!(
                    ring.earliest("m", now),
                    Some(until),
                    "{why:?} {retry_after:?}"
                );
                let before = now + Duration::from_millis(seconds * 1000 - 500);
                assert!(ring.pick(&ANY, before).is_err());
            }
            assert!(ring.pick(&ANY, until).is_ok(), "{why:?} {retry_after:?}");
        }
    }

    #[test]
    fn one_key_that_is_left_alone_leaves_the_others() {
        let (ring, now) = (ring(&["a", "b"]), Instant::now());
        let first = ring.pick(&ANY, now).unwrap();
        ring.cool(&first, (Why::Refused, "m"), None, now);
        for _ in 0..4 {
            assert_eq!(ring.pick(&ANY, now).unwrap().secret(), Some("b"));
        }
        assert_eq!(ring.earliest("m", now), None, "b is free");
        let second = ring.pick(&ANY, now).unwrap();
        ring.cool(&second, (Why::RateLimited, "m"), Some(SECOND), now);
        assert_eq!(ring.earliest("m", now), Some(now + SECOND));
        let status = ring.status(now);
        assert_eq!(status[0].cooled, Some((COOLDOWN, Why::Refused)));
        assert_eq!(status[1].cooled, Some((SECOND, Why::RateLimited)));
        assert_eq!(ring.status(now + SECOND)[1].cooled, None);
    }

    #[test]
    fn a_key_used_too_often_for_one_model_serves_the_others() {
        let (ring, now) = (ring(&["a"]), Instant::now());
        let picked = ring.pick(&ANY, now).unwrap();
        ring.cool(&picked, (Why::RateLimited, "m"), Some(SECOND), now);
        assert!(ring.pick(&ANY, now).is_err());
        let other = Need { model: "n", ..ANY };
        let picked = ring.pick(&other, now).unwrap();
        ring.cool(&picked, (Why::Refused, "n"), None, now);
        assert_eq!(ring.earliest("o", now), Some(now + COOLDOWN));
    }

    #[test]
    fn a_guess_stops_nobody_who_has_no_other_key() {
        let (ring, now) = (ring(&["a", "b"]), Instant::now());
        for why in [Why::Refused, Why::RateLimited] {
            let picked = ring.pick(&ANY, now).unwrap();
            ring.cool(&picked, (why, "m"), None, now);
        }
        assert!(ring.pick(&ANY, now).is_err());
        assert_eq!(ring.pick_anyway("m", now).unwrap().secret(), Some("b"));
        let (ring, now) = (self::ring(&["a"]), Instant::now());
        ring.cool(
            &ring.pick(&ANY, now).unwrap(),
            (Why::RateLimited, "m"),
            Some(SECOND),
            now,
        );
        assert!(
            ring.pick_anyway("m", now).is_none(),
            "the provider has said so"
        );
    }

    #[test]
    fn limits_in_a_row_are_waited_for_longer_each_time() {
        let (ring, start) = (ring(&["a"]), Instant::now());
        let mut now = start;
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let picked = ring.pick(&ANY, now).unwrap();
            ring.cool(&picked, (Why::RateLimited, "m"), None, now);
            let until = now + Duration::from_secs(seconds);
            assert_eq!(ring.earliest("m", now), Some(until));
            now = until;
        }
        let picked = ring.pick(&ANY, now).unwrap();
        ring.worked(&picked);
        ring.cool(&picked, (Why::RateLimited, "m"), None, now);
        assert_eq!(ring.earliest("m", now), Some(now + SECOND));
    }

    #[test]
    fn a_reload_forgets_only_keys_that_are_gone() {
        let (before, now) = (ring(&["a", "b"]), Instant::now());
        for _ in 0..2 {
            let picked = before.pick(&ANY, now).unwrap();
            before.cool(&picked, (Why::Refused, "m"), None, now);
        }
        let after = KeyRing::new(&secrets(&["b", "c"]), COOLDOWN, Some(&before));
        let cooled: Vec<_> = after
            .status(now)
            .iter()
            .map(|k| k.cooled.is_some())
            .collect();
        assert_eq!(cooled, [true, false]);
    }

    #[test]
    fn a_key_without_what_a_call_needs_lets_another_go_first() {
        let (ring, now) = (ring(&["a", "b"]), Instant::now());
        let headers = [
            ("x-ratelimit-remaining-tokens", "50"),
            ("x-ratelimit-reset-tokens", "3s"),
        ];
        let headers = headers.map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        });
        let allowance = Allowance::read(&headers.into_iter().collect());
        let large = Need { prompt: 51, ..ANY };
        let first = ring.pick(&large, now).unwrap();
        ring.learn(&first, "m", &allowance, now);
        for _ in 0..3 {
            assert_eq!(ring.pick(&large, now).unwrap().secret(), Some("b"));
        }
        let other_model = Need {
            model: "other",
            ..large
        };
        let picked = [0, 1].map(|_| ring.pick(&other_model, now).unwrap().index);
        assert_ne!(picked[0], picked[1], "limits are a model's own");
        let second = ring.pick(&large, now).unwrap();
        ring.learn(&second, "m", &allowance, now + SECOND);
        let told = ring.pick(&large, now + SECOND).map(|picked| picked.index);
        assert_eq!(told, Err(now + 3 * SECOND), "the first that has enough");
        assert_eq!(ring.earliest("m", now), None, "nobody refused them");
        assert!(ring.pick(&ANY, now).is_ok());
        assert!(ring.pick(&large, now + 3 * SECOND).is_ok());
    }

    /// A ring of one key that has nothing left for a second, and what it has then in a second.
    fn empty_ring(now: Instant, limit: &'static str) -> KeyRing {
        let ring = ring(&["a"]);
        let headers = [
            ("x-ratelimit-limit-tokens", limit),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "1s"),
        ];
        let headers = headers.map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        });
        let allowance = Allowance::read(&headers.into_iter().collect());
        let picked = ring.pick(&ANY, now).unwrap();
        ring.learn(&picked, "m", &allowance, now);
        ring
    }

    #[test]
    fn users_take_turns_at_a_key_and_little_does_not_overtake_much() {
        let now = Instant::now();
        let ring = empty_ring(now, "100");
        let need = |prompt| Need { prompt, ..ANY };
        let mut turns: Vec<_> = [(1, 60), (1, 10), (2, 30), (3, 1)]
            .iter()
            .map(|(user, prompt)| ring.wait(&need(*prompt), Some(*user), 9).unwrap())
            .collect();
        // A call of another model meets no line.
        let other = Need {
            model: "other",
            ..ANY
        };
        let mut apart = ring.wait(&other, Some(4), 9).unwrap();
        let mut served = |at_ms: u64| {
            ring.serve(now + Duration::from_millis(at_ms));
            let mut served = |turn: &mut Turn<'_>| turn.key.try_recv().is_ok();
            turns.iter_mut().map(&mut served).collect::<Vec<_>>()
        };
        assert_eq!(served(500), [false; 4], "the first needs 60");
        assert!(apart.key.try_recv().is_ok());
        assert_eq!(served(650), [true, false, false, false]);
        assert_eq!(served(940), [false, false, true, true]);
        assert!(ring.pick_at_once(&need(1), now + SECOND).is_err());
        assert_eq!(served(1_100), [false, true, false, false]);
        assert!(ring.pick_at_once(&need(1), now + 2 * SECOND).is_ok());
    }

    #[test]
    fn not_all_may_wait_and_who_leaves_waits_no_more() {
        let now = Instant::now();
        let ring = empty_ring(now, "100");
        let first = ring.wait(&ANY, Some(1), 2).unwrap();
        let mut last = ring.wait(&ANY, Some(1), 2).unwrap();
        assert!(ring.wait(&ANY, Some(1), 2).is_none());
        let other = ring.wait(&ANY, Some(2), 2).unwrap();
        assert!(last.key.try_recv().is_err(), "it made room");
        assert!(ring.wait(&ANY, Some(2), 2).is_none());
        drop((first, last, other));
        assert!(ring.pick_at_once(&ANY, now + SECOND).is_ok());
    }

    #[test]
    fn a_key_is_never_shown() {
        let ring = ring(&["hush-hush"]);
        let picked = ring.pick(&ANY, Instant::now()).unwrap();
        for text in [format!("{ring:?}"), format!("{picked:?}")] {
            assert!(!text.contains("hush"), "{text}");
        }
    }

    proptest! {
        /// Whatever was refused, a key is picked if and only if none has to be waited for.
        #[test]
        fn a_key_is_picked_or_a_moment_is_told(
            count in 1..5_usize,
            steps in proptest::collection::vec((0..3_u8, 0..5_u64, 0..4_u64), 0..40),
        ) {
            let words = ["a", "b", "c", "d"];
            let ring = ring(&words[..count.min(4)]);
            let mut now = Instant::now();
            for (why, retry_after, pause) in steps {
                now += Duration::from_secs(pause);
                let picked = ring.pick(&ANY, now);
                prop_assert_eq!(picked.is_ok(), ring.earliest("m", now).is_none());
                let Ok(picked) = picked else {
                    let earliest = ring.earliest("m", now).unwrap();
                    prop_assert!(earliest > now);
                    prop_assert!(ring.pick(&ANY, earliest).is_ok());
                    continue;
                };
                let why = [Why::RateLimited, Why::Refused, Why::Quota][usize::from(why)];
                ring.cool(&picked, (why, "m"), Some(Duration::from_secs(retry_after)), now);
            }
        }
    }
}
