//! The keys that an issuer publishes, fetched beside the requests and kept until there are better ones.
//!
//! Invariant: one task fetches, whoever asks; the last good keys stay while the issuer cannot be reached.

use super::key::{self, Key};
use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Keys are fetched anew when this part of their time has passed: one failure costs nothing yet.
const REFRESH_PART: f64 = 0.8;
/// However short the issuer says its answer is good for.
const REFRESH_MIN: Duration = Duration::from_mins(1);
/// After a failure: this, then twice as long each time, up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);

/// For one fetch, connecting included.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// A token that names an unknown key leads to a fetch at most this often in the long run, with a few at
/// once: anybody can invent names of keys.
const ASK_PERIOD: Duration = Duration::from_secs(10);
const ASK_BURST: u32 = 4;

/// How long a request waits for the fetch that its token led to.
const WAIT_TIME_MAX: Duration = Duration::from_secs(3);
/// So many requests wait at once; others are told to try again.
const WAITING_MAX: usize = 1024;

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    pub url: String,
    /// Who signs the certificate of the issuer; none: the authorities of the system.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// The longest time between two fetches.
    pub refresh: Duration,
}

/// An answer of the issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub body: Vec<u8>,
    /// How long it says that it is good for.
    pub max_age: Option<Duration>,
}

/// Asks the issuer once.
pub trait Fetch: Send + Sync {
    fn fetch(&self) -> impl Future<Output = Result<Fetched, String>> + Send;
}

/// The keys of one issuer. Kept over a reload when their source did not change.
#[derive(Debug)]
pub struct Jwks {
    pub source: Source,
    keys: ArcSwap<Vec<Key>>,
    /// Counts the times that the keys have changed.
    changes: AtomicU64,
    course: Mutex<Course>,
    asked: Notify,
    /// Counts the fetches that are over.
    rounds: watch::Sender<u64>,
    waiting: Arc<AtomicUsize>,
}

/// How the fetching goes.
#[derive(Debug, Default)]
struct Course {
    /// A fetch is under way, or asked for.
    busy: bool,
    /// When the fetches that requests have led to are paid off.
    paid: Option<Instant>,
    fetched: Option<Instant>,
    /// SHA-256 of the last good answer.
    content: Vec<u8>,
    failures: u32,
    error: Option<String>,
}

/// What comes of asking for a fetch.
#[derive(Debug)]
pub enum Asked {
    /// One will be made, or is being made: wait for it.
    Fetching(Wait),
    /// There were enough lately.
    Enough,
    /// One was over since the keys were looked at: look again.
    Over,
    /// Too many requests wait already.
    Crowded,
}

/// A request that waits for a fetch to be over.
#[derive(Debug)]
pub struct Wait {
    rounds: watch::Receiver<u64>,
    _place: Place,
}

#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Wait {
    /// Until the fetch is over, well or badly; false when it is not within three seconds.
    pub async fn done(mut self) -> bool {
        let over = tokio::time::timeout(WAIT_TIME_MAX, self.rounds.changed()).await;
        over.is_ok_and(|over| over.is_ok())
    }
}

/// For operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub keys: usize,
    /// Since the last good fetch; none before the first.
    pub age: Option<Duration>,
    /// Why the last fetch failed.
    pub error: Option<String>,
}

impl Jwks {
    pub fn new(source: Source) -> Self {
        Self {
            source,
            keys: ArcSwap::default(),
            changes: AtomicU64::new(0),
            // The first fetch is made at once, whether anybody asks or not.
            course: Mutex::new(Course {
                busy: true,
                ..Course::default()
            }),
            asked: Notify::new(),
            rounds: watch::Sender::new(0),
            waiting: Arc::default(),
        }
    }

    /// The last good keys; empty before the first fetch.
    pub fn keys(&self) -> arc_swap::Guard<Arc<Vec<Key>>> {
        self.keys.load()
    }

    pub fn status(&self, now: Instant) -> Status {
        let course = self.course();
        Status {
            keys: self.keys.load().len(),
            age: course
                .fetched
                .map(|fetched| now.saturating_duration_since(fetched)),
            error: course.error.clone(),
        }
    }

    /// A number that is another one after the keys have changed. To be read before the keys.
    pub fn version(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    /// Whether a fetch is over, well or badly.
    pub fn was_asked(&self) -> bool {
        *self.rounds.borrow() > 0
    }

    /// Whether there were no keys yet, or the last fetch failed.
    pub fn is_failing(&self) -> bool {
        let course = self.course();
        course.fetched.is_none() || course.error.is_some()
    }

    /// How many fetches were over by now.
    pub fn rounds(&self) -> u64 {
        *self.rounds.borrow()
    }

    /// A token names a key that is not here: fetch, unless that was done enough lately. `seen` is the number of
    /// fetches that were over when the keys were looked at.
    pub fn ask(&self, seen: u64, now: Instant) -> Asked {
        let mut course = self.course();
        if self.rounds() != seen {
            return Asked::Over;
        }
        if !course.busy {
            let paid = course.paid.map_or(now, |paid| paid.max(now));
            if paid.saturating_duration_since(now) > ASK_PERIOD * (ASK_BURST - 1) {
                return Asked::Enough;
            }
            course.paid = Some(paid + ASK_PERIOD);
            course.busy = true;
            self.asked.notify_one();
        }
        if self.waiting.fetch_add(1, Relaxed) >= WAITING_MAX {
            self.waiting.fetch_sub(1, Relaxed);
            return Asked::Crowded;
        }
        Asked::Fetching(Wait {
            // While the course is locked: the fetch cannot be over before we listen.
            rounds: self.rounds.subscribe(),
            _place: Place(Arc::clone(&self.waiting)),
        })
    }

    /// Fetches again and again, and says each time how it went: how many keys, or why none.
    pub async fn keep_fresh(&self, fetch: &impl Fetch, mut told: impl FnMut(Result<usize, &str>)) {
        loop {
            self.course().busy = true;
            let fetched = tokio::time::timeout(FETCH_TIME_MAX, fetch.fetch()).await;
            let fetched = fetched.unwrap_or_else(|_| {
                Err(format!("no answer within {} s", FETCH_TIME_MAX.as_secs()))
            });
            let (told_of, delay) = self.settle(fetched, Instant::now());
            told(told_of.as_ref().map(|keys| *keys).map_err(String::as_str));
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    /// Takes an answer over, and says when to ask again.
    fn settle(
        &self,
        fetched: Result<Fetched, String>,
        now: Instant,
    ) -> (Result<usize, String>, Duration) {
        let read = fetched.and_then(|fetched| {
            let keys = key::read_set(&fetched.body)?;
            let content = digest::digest(&digest::SHA256, &fetched.body);
            Ok((keys, content.as_ref().to_vec(), fetched.max_age))
        });
        let mut course = self.course();
        course.busy = false;
        let settled = match read {
            Ok((keys, content, max_age)) => {
                let count = keys.len();
                if content != course.content {
                    self.keys.store(Arc::new(keys));
                    self.changes.fetch_add(1, SeqCst);
                    course.content = content;
                }
                course.fetched = Some(now);
                course.failures = 0;
                course.error = None;
                let said = max_age.map_or(Duration::MAX, |age| age.max(REFRESH_MIN));
                let good_for = said.min(self.source.refresh);
                (Ok(count), good_for.mul_f64(REFRESH_PART))
            }
            Err(error) => {
                let doubled = 1 << course.failures.min(16);
                course.failures += 1;
                course.error = Some(error.clone());
                (Err(error), (RETRY_MIN * doubled).min(RETRY_MAX))
            }
        };
        self.rounds.send_modify(|rounds| *rounds += 1);
        settled
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn jwks() -> Jwks {
        Jwks::new(Source {
            url: "http://issuer.test/jwks".to_owned(),
            authorities: None,
            refresh: Duration::from_mins(10),
        })
    }

    #[expect(clippy::unnecessary_wraps, reason = "rows mix it with failures")]
    fn answer(body: &str, max_age: Option<u64>) -> Result<Fetched, String> {
        Ok(Fetched {
            body: body.as_bytes().to_vec(),
            max_age: max_age.map(Duration::from_secs),
        })
    }

    #[test]
    fn an_answer_says_when_to_ask_again() {
        let now = Instant::now();
        for (answer, seconds) in [
            (answer(SET, None), 480),
            (answer(SET, Some(300)), 240),
            (answer(SET, Some(0)), 48),
            (answer(SET, Some(86_400)), 480),
            (answer("{}", None), 1),
            (Err("down".to_owned()), 1),
        ] {
            let (_, delay) = jwks().settle(answer.clone(), now);
            assert_eq!(delay, Duration::from_secs(seconds), "{answer:?}");
        }
    }

    #[test]
    fn the_last_good_keys_stay_and_failures_are_met_with_patience() {
        let (jwks, now) = (jwks(), Instant::now());
        assert_eq!(jwks.settle(answer(SET, None), now).0, Ok(1));
        let mut delays = Vec::new();
        for broken in ["", "{}", r#"{"keys":[]}"#, "x", "x", "x", "x", "x"] {
            let (told, delay) = jwks.settle(answer(broken, None), now);
            assert!(told.is_err());
            delays.push(delay.as_secs());
            assert_eq!(jwks.keys().len(), 1);
        }
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        let later = now + Duration::from_secs(7);
        let status = jwks.status(later);
        assert_eq!(status.age, Some(Duration::from_secs(7)));
        assert!(status.error.is_some());
        assert!(jwks.settle(answer(SET, None), later).0.is_ok());
        assert_eq!(jwks.status(later).error, None);
    }

    #[test]
    fn requests_share_a_fetch_and_lead_to_few() {
        let (jwks, start) = (jwks(), Instant::now());
        assert!(jwks.settle(Err("down".to_owned()), start).0.is_err());
        let mut fetches = 0;
        for second in 0..100 {
            for _ in 0..20 {
                let now = start + Duration::from_secs(second);
                match jwks.ask(jwks.rounds(), now) {
                    Asked::Fetching(_) | Asked::Enough => {}
                    Asked::Over | Asked::Crowded => panic!("nobody waits"),
                }
            }
            if jwks.course().busy {
                fetches += 1;
                assert!(jwks.settle(Err("down".to_owned()), start).0.is_err());
            }
        }
        // A burst, and one each ten seconds.
        assert_eq!(fetches, u64::from(ASK_BURST) + 9);
    }

    #[test]
    fn whoever_looked_before_a_fetch_was_over_looks_again() {
        let (jwks, now) = (jwks(), Instant::now());
        let seen = jwks.rounds();
        assert!(jwks.settle(answer(SET, None), now).0.is_ok());
        assert!(matches!(jwks.ask(seen, now), Asked::Over));
        assert!(!jwks.course().busy, "no other fetch for that");
    }

    #[test]
    fn only_so_many_requests_wait() {
        let (jwks, now) = (jwks(), Instant::now());
        let waits: Vec<_> = (0..WAITING_MAX)
            .map(|_| jwks.ask(jwks.rounds(), now))
            .collect();
        assert!(
            waits
                .iter()
                .all(|asked| matches!(asked, Asked::Fetching(_)))
        );
        assert!(matches!(jwks.ask(jwks.rounds(), now), Asked::Crowded));
        drop(waits);
        assert!(matches!(jwks.ask(jwks.rounds(), now), Asked::Fetching(_)));
    }

    struct Scripted(Mutex<Vec<Result<Fetched, String>>>);

    impl Fetch for Scripted {
        async fn fetch(&self) -> Result<Fetched, String> {
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(next) => next,
                None => std::future::pending().await,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_is_woken_when_the_keys_are_there() {
        let jwks = jwks();
        let script = Scripted(Mutex::new(vec![answer(SET, None), Err("down".to_owned())]));
        let mut told = Vec::new();
        let fresh = jwks.keep_fresh(&script, |keys| told.push(keys.map_err(str::to_owned)));
        let request = async {
            // The first fetch fails; the second one is made because of this request.
            while jwks.status(Instant::now()).error.is_none() {
                tokio::task::yield_now().await;
            }
            let Asked::Fetching(wait) = jwks.ask(jwks.rounds(), Instant::now()) else {
                panic!("none was asked for yet");
            };
            assert!(wait.done().await);
            jwks.keys().len()
        };
        let began = tokio::time::Instant::now();
        let keys = tokio::select! {
            () = fresh => panic!("it never ends"),
            keys = request => keys,
        };
        assert_eq!(keys, 1);
        assert!(began.elapsed() < RETRY_MIN, "not by the retry, but at once");
        assert_eq!(told.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_says_nothing_is_given_up() {
        let jwks = jwks();
        let script = Scripted(Mutex::default());
        let told = Mutex::new(0);
        let fresh = jwks.keep_fresh(&script, |keys| {
            assert!(keys.unwrap_err().contains("no answer"));
            *told.lock().unwrap() += 1;
        });
        assert!(
            tokio::time::timeout(Duration::from_secs(20), fresh)
                .await
                .is_err()
        );
        // Five seconds each, and one, two and four between.
        assert_eq!(told.into_inner().unwrap(), 3);
    }
}
