//! Names to addresses, looked up again and again; old answers are kept while DNS is silent.
//!
//! Both address families are kept, also where this host has no IPv6: a probe or the first failed
//! connect takes an address out that cannot be reached, and nobody has to guess beforehand.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// Longest wait for one lookup.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses kept of one name; more would be a mistake, or an attack on the pool.
const ADDRESSES_MAX: usize = 64;

/// Lookups at once in the whole process. Each holds a thread for as long as the system's resolver
/// takes, which is longer than we wait for it.
const LOOKUPS_MAX: usize = 32;

/// First wait after a failure; doubled with each further one, up to the refresh interval.
const RETRY_FIRST: Duration = Duration::from_secs(1);

static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

/// One name of a pool, and what it was last found to mean.
#[derive(Debug)]
pub struct Resolver {
    host: String,
    port: u16,
    refresh: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    addresses: Arc<[SocketAddr]>,
    failures: u32,
    error: Option<String>,
    last_success: Option<Instant>,
}

/// What is known of a name, for metrics and people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The last lookup failed or found nothing; `addresses` are from an earlier one.
    pub failing: bool,
    /// Of the last failed lookup; none once one succeeded again.
    pub error: Option<String>,
    /// None: never resolved, the name has no members yet.
    pub last_success: Option<Instant>,
    pub addresses: Arc<[SocketAddr]>,
}

/// Looks a name up by the system's resolver (`/etc/hosts`, DNS): sorted, without duplicates, at most
/// 64 addresses, at least one. Gives up after 5 s, waiting for a free place included.
pub async fn resolve(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let lookup = async {
        let permit = LOOKUPS.acquire().await.map_err(io::Error::other)?;
        tokio::task::spawn_blocking(move || {
            // Held until the resolver returns, also when nobody waits any more.
            let _permit = permit;
            (host.as_str(), port).to_socket_addrs()
        })
        .await
        .map_err(io::Error::other)?
    };
    match timeout(LOOKUP_TIMEOUT, lookup).await {
        Ok(found) => tidy(found?),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no answer within 5s",
        )),
    }
}

/// In one order, so that the same answer is never taken for a change.
fn tidy(found: impl IntoIterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let addresses: BTreeSet<SocketAddr> = found.into_iter().collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    Ok(addresses.into_iter().take(ADDRESSES_MAX).collect())
}

impl Resolver {
    /// Nothing is looked up before [`Resolver::run`] or [`Resolver::look_up`]. A `refresh` below 1 s is
    /// taken as 1 s.
    pub fn new(host: impl Into<String>, port: u16, refresh: Duration) -> Self {
        Self {
            host: host.into(),
            port,
            refresh: refresh.max(RETRY_FIRST),
            state: Mutex::default(),
        }
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn status(&self) -> Status {
        let state = self.state();
        Status {
            failing: state.failures > 0,
            error: state.error.clone(),
            last_success: state.last_success,
            addresses: Arc::clone(&state.addresses),
        }
    }

    /// Looks up at once and then for ever; `on_change` gets each new set of addresses, never an empty
    /// one. Ends when the future is dropped. In the program, `lookup` is [`resolve`].
    pub async fn run<L, F>(&self, lookup: L, on_change: impl Fn(&[SocketAddr]))
    where
        L: Fn(String, u16) -> F,
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        loop {
            if let Some(addresses) = self.look_up(&lookup).await {
                on_change(&addresses);
            }
            sleep(self.next_delay(fastrand::f64())).await;
        }
    }

    /// One lookup; returns the addresses if they are not the ones known before.
    pub async fn look_up<L, F>(&self, lookup: &L) -> Option<Arc<[SocketAddr]>>
    where
        L: Fn(String, u16) -> F,
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        match lookup(self.host.clone(), self.port).await.and_then(tidy) {
            Ok(addresses) => self.succeeded(addresses),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// How long until the next lookup: the refresh interval, or 1 s doubling up to it while lookups
    /// fail. `random` is from 0 to 1 and spreads either by a tenth.
    pub fn next_delay(&self, random: f64) -> Duration {
        let failures = self.state().failures;
        let delay = if failures == 0 {
            self.refresh
        } else {
            let doubled = 2u32.saturating_pow(failures.saturating_sub(1).min(20));
            RETRY_FIRST.saturating_mul(doubled).min(self.refresh)
        };
        delay.mul_f64(0.9 + 0.2 * random.clamp(0.0, 1.0))
    }

    fn succeeded(&self, addresses: Vec<SocketAddr>) -> Option<Arc<[SocketAddr]>> {
        let mut state = self.state();
        if state.failures > 0 {
            info!(name = %self.host, "resolves again");
        }
        state.failures = 0;
        state.error = None;
        state.last_success = Some(Instant::now());
        if *state.addresses == *addresses {
            return None;
        }
        state.addresses = addresses.into();
        Some(Arc::clone(&state.addresses))
    }

    fn failed(&self, error: &io::Error) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        state.error = Some(error.to_string());
        if state.failures > 1 {
            return;
        }
        let kept = state.addresses.len();
        if kept == 0 {
            warn!(name = %self.host, %error, "does not resolve: no endpoints from it until it does");
        } else {
            warn!(name = %self.host, %error, kept, "no longer resolves: its old addresses are kept");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::future::ready;

    type Answer = Result<Vec<u8>, &'static str>;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn addresses(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().copied().map(address).collect()
    }

    /// Runs the loop over scripted answers in stopped time: what the pool was told, and when it was
    /// asked, in whole seconds.
    async fn check(script: &[Answer], told: &[(u64, &[u8])], asked: &[u64]) -> Status {
        let resolver = Resolver::new("app.internal", 80, Duration::from_secs(30));
        let script: Mutex<VecDeque<Answer>> = Mutex::new(script.to_vec().into());
        let start = Instant::now();
        let (times, changes) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
        let (done, over) = tokio::sync::oneshot::channel::<()>();
        let done = Mutex::new(Some(done));
        let lookup = |host: String, port: u16| {
            assert_eq!((host.as_str(), port), ("app.internal", 80));
            let answer = script.lock().unwrap().pop_front();
            if answer.is_some() {
                times.lock().unwrap().push(start.elapsed().as_secs_f64());
            } else {
                done.lock().unwrap().take();
            }
            let silent = answer.is_none();
            let answer = answer
                .unwrap_or(Err(""))
                .map(|list| addresses(&list))
                .map_err(io::Error::other);
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                ready(answer).await
            }
        };
        let on_change = |found: &[SocketAddr]| {
            let now = start.elapsed().as_secs_f64();
            changes.lock().unwrap().push((now, found.to_vec()));
        };
        tokio::select! {
            () = resolver.run(lookup, on_change) => {}
            _ = over => {}
        }
        let close = |seen: f64, expected: u64| {
            let expected = Duration::from_secs(expected).as_secs_f64();
            (seen - expected).abs() <= 0.1 * expected + 0.05
        };
        let times = times.into_inner().unwrap();
        assert_eq!(times.len(), asked.len());
        for (seen, expected) in times.iter().zip(asked) {
            assert!(close(*seen, *expected), "asked at {times:?}, not {asked:?}");
        }
        let changes = changes.into_inner().unwrap();
        assert_eq!(changes.len(), told.len(), "{changes:?}");
        for ((at, seen), (expected_at, expected)) in changes.iter().zip(told) {
            assert!(close(*at, *expected_at), "told at {at}, not {expected_at}");
            assert_eq!(seen, &addresses(expected));
        }
        resolver.status()
    }

    #[tokio::test(start_paused = true)]
    async fn the_pool_hears_only_of_changes() {
        let script = [
            Ok(vec![2, 1, 2]),
            Ok(vec![1, 2]),
            Ok(vec![3, 1]),
            Ok(vec![1, 3]),
        ];
        let status = check(&script, &[(0, &[1, 2]), (60, &[1, 3])], &[0, 30, 60, 90]).await;
        assert!(!status.failing);
    }

    #[tokio::test(start_paused = true)]
    async fn old_answers_are_kept_while_dns_fails_and_it_is_asked_faster() {
        let script = [
            Ok(vec![1]),
            Err("servfail"),
            Ok(vec![]),
            Err("servfail"),
            Ok(vec![1]),
            Ok(vec![2]),
        ];
        let asked = [0, 30, 31, 33, 37, 67];
        let status = check(&script, &[(0, &[1]), (67, &[2])], &asked).await;
        assert!(!status.failing && status.error.is_none());

        let status = check(&script[..3], &[(0, &[1])], &asked[..3]).await;
        assert!(status.failing);
        assert_eq!(status.error.as_deref(), Some("the name has no address"));
        assert_eq!(*status.addresses, *addresses(&[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_never_resolved_has_no_members_and_is_tried_up_to_the_refresh_interval() {
        let script = vec![Err("nxdomain"); 8];
        let asked = [0, 1, 3, 7, 15, 31, 61, 91];
        let status = check(&script, &[], &asked).await;
        assert!(status.failing && status.last_success.is_none() && status.addresses.is_empty());
    }

    #[tokio::test]
    async fn the_real_resolver_knows_literals_and_localhost_and_refuses_nonsense() {
        let literal = resolve("127.0.0.1".to_owned(), 81).await.unwrap();
        assert_eq!(literal, vec![SocketAddr::from(([127, 0, 0, 1], 81))]);
        let local = resolve("localhost".to_owned(), 82).await.unwrap();
        assert!(local.iter().all(|a| a.ip().is_loopback() && a.port() == 82));
        assert!(resolve("no such name".to_owned(), 80).await.is_err());
    }

    proptest! {
        #[test]
        fn answers_are_sorted_unique_and_bounded(found in prop::collection::vec(any::<u8>(), 0..400)) {
            match tidy(found.iter().copied().map(address)) {
                Err(_) => prop_assert!(found.is_empty()),
                Ok(tidied) => {
                    prop_assert!(tidied.len() <= ADDRESSES_MAX && !tidied.is_empty());
                    prop_assert!(tidied.windows(2).all(|pair| pair[0] < pair[1]));
                    prop_assert!(tidied.iter().all(|a| found.iter().any(|f| address(*f) == *a)));
                }
            }
        }
    }
}
