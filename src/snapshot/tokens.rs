//! Tokens of a service account: got beside the calls, kept until there is a better one.
//!
//! Invariant: one task asks, whoever waits; the last good token stays as long as it is good.

use crate::stage::ai::google::{Account, Grant};
use crate::wire::fetch::Place;
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// A token is renewed when this part of its time has passed: one failure costs nothing yet.
const REFRESH_PART: f64 = 0.8;
/// However short its time is.
const REFRESH_MIN: Duration = Duration::from_secs(1);
/// After a failure: this, then twice as long each time, up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);
/// For one answer, connecting included.
const FETCH_TIME_MAX: Duration = Duration::from_secs(10);
/// A token that the provider refuses is renewed before its time at most so often.
const REFUSED_PERIOD: Duration = Duration::from_secs(10);

/// Where tokens come from; what was got is kept over a reload if this is the same.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    account: String,
    ca: Option<PathBuf>,
}

/// The token of one provider.
pub struct Tokens {
    source: Source,
    account: Account,
    place: Place,
    token: ArcSwapOption<Token>,
    course: Mutex<Course>,
    asked: Notify,
    /// Counts the answers that came, well or badly.
    rounds: watch::Sender<u64>,
}

struct Token {
    /// As `Authorization` says it.
    value: HeaderValue,
    until: Instant,
}

/// How the asking goes.
#[derive(Default)]
struct Course {
    failures: u32,
    error: Option<String>,
    /// When a refusal by the provider last led to another one.
    refused: Option<Instant>,
}

/// A token as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenStatus {
    /// How much longer it is good; none: there is none.
    pub good_for: Option<Duration>,
    /// Why the last one could not be got.
    pub error: Option<String>,
}

impl Source {
    /// `account` is the key file itself; `ca` the file of those who sign the certificate of its token URI.
    pub fn new(account: &str, ca: Option<&Path>) -> Self {
        Self {
            account: account.to_owned(),
            ca: ca.map(Path::to_owned),
        }
    }
}

impl Tokens {
    /// Says what is wrong with the key file or with the authorities.
    pub fn new(source: Source) -> Result<Self, String> {
        let account = Account::parse(&source.account)?;
        let authorities = source.ca.as_deref().map(authorities).transpose()?;
        let place = Place::new(&account.token_uri, authorities.as_deref())?;
        Ok(Self {
            source,
            account,
            place,
            token: ArcSwapOption::empty(),
            course: Mutex::default(),
            asked: Notify::new(),
            rounds: watch::Sender::new(0),
        })
    }

    pub fn is_of(&self, source: &Source) -> bool {
        self.source == *source
    }

    /// What to show the provider. Waits for the first one, which has a limit of its own; fails at once when the
    /// last attempt to get one has failed and none is left that is good.
    pub async fn value(&self) -> Result<HeaderValue, String> {
        loop {
            let mut rounds = self.rounds.subscribe();
            if let Some(token) = &*self.token.load()
                && token.until > Instant::now()
            {
                return Ok(token.value.clone());
            }
            let error = self.course().error.clone();
            if let Some(error) = error {
                return Err(error);
            }
            if rounds.changed().await.is_err() {
                return Err("nobody asks for tokens any more".to_owned());
            }
        }
    }

    /// The provider does not take this one: another is got, unless that was done lately.
    pub fn refused(&self, value: &HeaderValue, now: Instant) {
        let is_this = self
            .token
            .load()
            .as_ref()
            .is_some_and(|one| one.value == *value);
        let mut course = self.course();
        let lately = course
            .refused
            .is_some_and(|at| now.saturating_duration_since(at) < REFUSED_PERIOD);
        if is_this && !lately {
            course.refused = Some(now);
            self.asked.notify_one();
        }
    }

    pub fn status(&self, now: Instant) -> TokenStatus {
        let token = self.token.load();
        let left = token
            .as_ref()
            .map(|token| token.until.saturating_duration_since(now));
        TokenStatus {
            good_for: left.filter(|left| !left.is_zero()),
            error: self.course().error.clone(),
        }
    }

    /// Asks again and again, for ever; `told` hears how each answer was.
    pub async fn keep_fresh(&self, mut told: impl FnMut(Result<Duration, &str>)) {
        loop {
            let now = Instant::now();
            let fetched = tokio::time::timeout(FETCH_TIME_MAX, self.fetch()).await;
            let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
            let (settled, wait) = self.settle(fetched, now);
            told(settled.as_ref().copied().map_err(String::as_str));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    async fn fetch(&self) -> Result<Grant, String> {
        let form = self.account.form(super::unix_now())?;
        let answer = self.place.post(form).await?;
        Grant::read(answer.status.as_u16(), &answer.body)
    }

    /// Takes an answer over, and says when to ask again. `now` is when it was asked for.
    fn settle(
        &self,
        fetched: Result<Grant, String>,
        now: Instant,
    ) -> (Result<Duration, String>, Duration) {
        let read = fetched.and_then(|grant| {
            let value = HeaderValue::try_from(format!("Bearer {}", grant.token));
            let mut value = value.map_err(|_| "the token cannot be sent".to_owned())?;
            value.set_sensitive(true);
            Ok((value, grant.good_for))
        });
        let mut course = self.course();
        let settled = match read {
            Ok((value, good_for)) => {
                let until = now + good_for;
                self.token.store(Some(Arc::new(Token { value, until })));
                course.failures = 0;
                course.error = None;
                let wait = good_for.mul_f64(REFRESH_PART).max(REFRESH_MIN);
                (Ok(good_for), wait)
            }
            Err(error) => {
                let doubled = 1 << course.failures.min(16);
                course.failures += 1;
                course.error = Some(error.clone());
                (Err(error), (RETRY_MIN * doubled).min(RETRY_MAX))
            }
        };
        drop(course);
        self.rounds.send_modify(|rounds| *rounds += 1);
        settled
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn authorities(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("{shown}: {error}"))?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("{shown}: no certificate in it")),
        Err(error) => Err(format!("{shown}: broken PEM: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    fn tokens() -> Tokens {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).unwrap();
        let pem = STANDARD.encode(der.as_ref());
        let file = json!({
            "type": "service_account",
            "client_email": "a@b",
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n"),
            "token_uri": "http://127.0.0.1:9/token",
        });
        Tokens::new(Source::new(&file.to_string(), None)).unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "rows mix it with failures")]
    fn grant(token: &str, seconds: u64) -> Result<Grant, String> {
        Ok(Grant {
            token: token.to_owned(),
            good_for: Duration::from_secs(seconds),
        })
    }

    #[test]
    fn an_answer_says_when_to_ask_again() {
        let (tokens, now) = (tokens(), Instant::now());
        for (answer, seconds) in [
            (grant("t", 3_600), 2_880),
            (grant("t", 0), 1),
            (Err("down".to_owned()), 1),
            (Err("down".to_owned()), 2),
            (Err("down".to_owned()), 4),
            (grant("t", 10), 8),
            (Err("down".to_owned()), 1),
        ] {
            let (_, wait) = tokens.settle(answer, now);
            assert_eq!(wait.as_secs(), seconds);
        }
        for _ in 0..40 {
            let (_, wait) = tokens.settle(Err("down".to_owned()), now);
            assert!(wait <= RETRY_MAX);
        }
    }

    #[tokio::test]
    async fn the_last_good_token_stays_while_it_is_good() {
        let (tokens, now) = (tokens(), Instant::now());
        let _ = tokens.settle(grant("one", 3_600), now);
        let _ = tokens.settle(Err("down".to_owned()), now);
        assert_eq!(tokens.value().await.unwrap(), "Bearer one");
        assert_eq!(tokens.status(now).error.as_deref(), Some("down"));
        let _ = tokens.settle(grant("two", 0), now);
        let _ = tokens.settle(Err("down".to_owned()), now);
        assert_eq!(tokens.value().await.unwrap_err(), "down");
        assert_eq!(tokens.status(now).good_for, None);
    }

    #[tokio::test]
    async fn whoever_comes_before_the_first_token_waits_for_it() {
        let tokens = Arc::new(tokens());
        let waiting = Arc::clone(&tokens);
        let waiting = tokio::spawn(async move { waiting.value().await });
        while tokens.rounds.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        let _ = tokens.settle(grant("one", 3_600), Instant::now());
        assert_eq!(waiting.await.unwrap().unwrap(), "Bearer one");
    }

    #[tokio::test]
    async fn a_refusal_leads_to_one_renewal_and_not_to_a_flood() {
        let (tokens, now) = (tokens(), Instant::now());
        let _ = tokens.settle(grant("one", 3_600), now);
        let mine = HeaderValue::from_static("Bearer one");
        let asks = |value: &HeaderValue, now| {
            tokens.refused(value, now);
            futures_util::FutureExt::now_or_never(tokens.asked.notified()).is_some()
        };
        assert!(!asks(&HeaderValue::from_static("Bearer old"), now));
        assert!(asks(&mine, now));
        assert!(!asks(&mine, now));
        assert!(asks(&mine, now + REFUSED_PERIOD));
    }
}
