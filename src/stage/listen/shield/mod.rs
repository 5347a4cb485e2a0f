//! The shield: what one address, and all together, may hold of the process.
//!
//! What it costs an attacker: one address is one IPv4 address or one IPv6 /64. Who commands a /32 of
//! IPv6 has four billion of those, so that no limit by address stops him; what he meets are the limits
//! in total. What he costs us is bounded by them as well: an entry of some 40 bytes for each place taken,
//! and for the rate a table of 1.1 MiB that never grows.

mod places;
mod rate;
pub mod settings;

pub use places::Place;

use super::forwarded::TrustedProxies;
use crate::base::client::subscriber;
use crate::base::units::Bytes;
use ipnet::IpNet;
use places::{Full, Limits, Places};
use rate::{Buckets, Rate};
use settings::{RateSettings, Settings};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For everything before the first request: PROXY header, TLS handshake, HTTP/2 preface.
pub const GREETING_MAX: Duration = Duration::from_secs(10);

/// The same when more than half of the places for greetings are taken: enough for two round trips by
/// satellite, and it makes holding the places five times as dear.
const GREETING_MAX_IN_A_HURRY: Duration = Duration::from_secs(2);

/// The one limit on work that is the caller's fault: the others are ours.
pub const OF_ADDRESS_IN_FLIGHT: &str = "in_flight_per_address";

/// A flood is told of this often; metrics count each refusal.
const NEWS_PERIOD: Duration = Duration::from_secs(10);

/// The share of descriptors that is not for callers: connections to endpoints, of which many are shared
/// or kept, listeners, logs, files.
const FILES_RESERVED: u64 = 4;

/// What is taken now. Lives as long as the process: a reload does not forget who is connected.
#[derive(Debug)]
pub struct Counts {
    connections: Arc<Places>,
    greetings: Arc<Places>,
    requests: Arc<Places>,
    buckets: Buckets,
    /// Whether the process has more in memory than it should.
    is_short_of_memory: AtomicBool,
    /// When somebody was last told of a refusal.
    told: Mutex<Option<Instant>>,
}

/// The limits of one configuration over the counts of the process.
#[derive(Debug)]
pub struct Shield {
    counts: Arc<Counts>,
    exempt: TrustedProxies,
    connections: Limits,
    greetings: Limits,
    requests: Limits,
    memory: Option<Bytes>,
    rate: Option<Rate>,
}

/// The place of a connection, and of its greeting until that is over.
#[derive(Debug)]
pub struct Entry {
    connection: Place,
    greeting: Option<Place>,
}

/// What is taken of what there is, for `/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    pub taken: u32,
    pub max: u32,
    /// How many addresses hold it.
    pub addresses: usize,
}

impl Counts {
    pub fn new(now: Instant) -> Self {
        Self {
            connections: Arc::default(),
            greetings: Arc::default(),
            requests: Arc::default(),
            buckets: Buckets::new(now),
            is_short_of_memory: AtomicBool::new(false),
            told: Mutex::default(),
        }
    }
}

impl Shield {
    /// `trusted` are proxies that speak for many: no limit by address holds for them. `open_files_max`
    /// is how many descriptors the process may have.
    pub fn new(
        settings: &Settings,
        trusted: &[IpNet],
        open_files_max: u64,
        counts: Arc<Counts>,
    ) -> Self {
        let by_files = open_files_max - open_files_max / FILES_RESERVED;
        let by_files = u32::try_from(by_files.max(1)).unwrap_or(u32::MAX);
        Self {
            counts,
            exempt: TrustedProxies::new(&[trusted, &settings.exempt].concat()),
            memory: settings.memory,
            rate: settings.rate_per_address.as_ref().map(rate_of),
            connections: Limits {
                total: settings.connections.min(by_files),
                per_address: settings.connections_per_address,
            },
            greetings: Limits {
                total: settings.greetings,
                per_address: settings.greetings_per_address,
            },
            requests: Limits {
                total: settings.in_flight,
                per_address: settings.in_flight_per_address,
            },
        }
    }

    /// A connection was accepted, from this peer where that is the caller itself; `greets` says whether
    /// there is anything to wait for before HTTP. The error is the setting that stands in its way.
    pub fn enter(&self, peer: Option<IpAddr>, greets: bool) -> Result<Entry, &'static str> {
        let address = peer.and_then(|peer| self.counted_as(peer));
        let connection = self.counts.connections.take(address, self.connections);
        let mut entry = Entry {
            connection: connection.map_err(of_connections)?,
            greeting: None,
        };
        if greets {
            let greeting = self.counts.greetings.take(address, self.greetings);
            entry.greeting = Some(greeting.map_err(of_greetings)?);
        }
        Ok(entry)
    }

    /// A proxy has said who it speaks for.
    pub fn introduce(&self, entry: &mut Entry, caller: IpAddr) -> Result<(), &'static str> {
        let Some(address) = self.counted_as(caller) else {
            return Ok(());
        };
        let connection = entry.connection.belongs_to(address, self.connections);
        connection.map_err(of_connections)?;
        let greeting = entry.greeting.as_mut();
        let greeting = greeting.map(|place| place.belongs_to(address, self.greetings));
        greeting.unwrap_or(Ok(())).map_err(of_greetings)
    }

    /// How long a greeting that begins now may take.
    pub fn greeting_max(&self) -> Duration {
        if self.counts.greetings.taken() > self.greetings.total / 2 {
            GREETING_MAX_IN_A_HURRY
        } else {
            GREETING_MAX
        }
    }

    /// A request has come, of this caller if it is one that has an address. The error says in how long its address may ask again.
    pub fn ask(&self, caller: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let counted = self.rate.and(caller).and_then(|one| self.counted_as(one));
        match (self.rate, counted) {
            (Some(rate), Some(address)) => self.counts.buckets.take(address, rate, now),
            _ => Ok(()),
        }
    }

    /// A place for a request in flight, or the setting that stands in its way.
    pub fn work(&self, caller: Option<IpAddr>) -> Result<Place, &'static str> {
        if self.is_short_of_memory() {
            return Err("memory");
        }
        let address = caller.and_then(|caller| self.counted_as(caller));
        let place = self.counts.requests.take(address, self.requests);
        place.map_err(|full| match full {
            Full::Total => "in_flight",
            Full::Address => OF_ADDRESS_IN_FLIGHT,
        })
    }

    pub fn is_short_of_memory(&self) -> bool {
        self.counts.is_short_of_memory.load(Relaxed)
    }

    /// Whether anybody must look at the memory of the process.
    pub fn bounds_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// So many bytes are in memory now.
    pub fn remember(&self, resident: u64) {
        let is_short = self.memory.is_some_and(|max| resident > max.0);
        self.counts.is_short_of_memory.store(is_short, Relaxed);
    }

    /// Whether a refusal is worth a line in the log: not when there was one a moment ago.
    pub fn is_news(&self, now: Instant) -> bool {
        let mut told = self
            .counts
            .told
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_news = told.is_none_or(|told| now.saturating_duration_since(told) >= NEWS_PERIOD);
        if is_news {
            *told = Some(now);
        }
        is_news
    }

    pub fn connections(&self) -> Usage {
        usage(&self.counts.connections, self.connections)
    }

    pub fn greetings(&self) -> Usage {
        usage(&self.counts.greetings, self.greetings)
    }

    pub fn in_flight(&self) -> Usage {
        usage(&self.counts.requests, self.requests)
    }

    /// The name under which an address is counted; none where no limit by address holds.
    fn counted_as(&self, address: IpAddr) -> Option<IpAddr> {
        (!self.exempt.contains(address)).then(|| subscriber(address))
    }
}

impl Entry {
    /// The caller has begun to speak HTTP.
    pub fn greeted(&mut self) {
        self.greeting = None;
    }
}

fn rate_of(settings: &RateSettings) -> Rate {
    let burst = settings.burst.unwrap_or(settings.requests);
    Rate::new(settings.requests, settings.per.0, burst)
}

fn of_connections(full: Full) -> &'static str {
    match full {
        Full::Total => "connections",
        Full::Address => "connections_per_address",
    }
}

fn of_greetings(full: Full) -> &'static str {
    match full {
        Full::Total => "greetings",
        Full::Address => "greetings_per_address",
    }
}

fn usage(places: &Places, limits: Limits) -> Usage {
    Usage {
        taken: places.taken(),
        max: limits.total,
        addresses: places.addresses(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::units::Period;

    fn counts() -> Arc<Counts> {
        Arc::new(Counts::new(Instant::now()))
    }

    fn shield(settings: &Settings) -> Shield {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        Shield::new(settings, &trusted, 1 << 20, counts())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_is_counted_by_what_one_subscriber_holds() {
        for (first, second, same) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let shield = shield(&Settings {
                connections_per_address: 1,
                ..Settings::default()
            });
            let _first = shield.enter(Some(ip(first)), true).unwrap();
            let second_is_refused =
                shield.enter(Some(ip(second)), true).err() == Some("connections_per_address");
            assert_eq!(second_is_refused, same, "{first} {second}");
        }
    }

    #[test]
    fn a_proxy_that_is_trusted_is_limited_in_total_only() {
        let shield = shield(&Settings {
            connections: 3,
            connections_per_address: 1,
            ..Settings::default()
        });
        let _all = [(); 3].map(|()| shield.enter(Some(ip("10.1.2.3")), true).unwrap());
        assert_eq!(
            shield.enter(Some(ip("10.1.2.3")), true).unwrap_err(),
            "connections"
        );
    }

    #[test]
    fn a_greeting_gives_its_place_back_before_its_connection_does() {
        let shield = shield(&Settings {
            greetings: 2,
            greetings_per_address: 1,
            ..Settings::default()
        });
        let mut first = shield.enter(Some(ip("192.0.2.1")), true).unwrap();
        let refused = shield.enter(Some(ip("192.0.2.1")), true).unwrap_err();
        assert_eq!(refused, "greetings_per_address");
        let _second = shield.enter(Some(ip("192.0.2.2")), true).unwrap();
        assert_eq!(
            shield.enter(Some(ip("192.0.2.3")), true).unwrap_err(),
            "greetings"
        );
        first.greeted();
        assert_eq!(
            (shield.connections().taken, shield.greetings().taken),
            (2, 1)
        );
        assert!(shield.enter(Some(ip("192.0.2.1")), true).is_ok());
    }

    #[test]
    fn behind_a_proxy_the_caller_counts() {
        let shield = shield(&Settings {
            connections_per_address: 1,
            ..Settings::default()
        });
        let mut first = shield.enter(None, true).unwrap();
        let mut second = shield.enter(None, true).unwrap();
        let caller = ip("192.0.2.1");
        assert_eq!(shield.introduce(&mut first, caller), Ok(()));
        let refused = shield.introduce(&mut second, caller).unwrap_err();
        assert_eq!(refused, "connections_per_address");
        assert_eq!(
            shield.enter(Some(ip("192.0.2.1")), true).unwrap_err(),
            refused
        );
    }

    #[test]
    fn patience_with_greetings_ends_when_half_of_their_places_are_taken() {
        let shield = shield(&Settings {
            greetings: 2,
            ..Settings::default()
        });
        let _first = shield.enter(None, true).unwrap();
        assert_eq!(shield.greeting_max(), GREETING_MAX);
        let _second = shield.enter(None, true).unwrap();
        assert_eq!(shield.greeting_max(), GREETING_MAX_IN_A_HURRY);
    }

    #[test]
    fn only_addresses_that_are_counted_are_slowed_down() {
        let rate = |requests| RateSettings {
            requests,
            per: Period::seconds(1),
            burst: None,
        };
        let settings = |rate| Settings {
            rate_per_address: rate,
            exempt: vec!["192.0.2.128/25".parse().unwrap()],
            ..Settings::default()
        };
        for (caller, rate, passed) in [
            ("192.0.2.1", None, 9),
            ("192.0.2.1", Some(rate(3)), 3),
            ("2001:db8::1", Some(rate(1)), 1),
            ("192.0.2.129", Some(rate(3)), 9),
            ("10.1.2.3", Some(rate(3)), 9),
        ] {
            let shield = shield(&settings(rate));
            let now = Instant::now();
            let asked = (0..9).filter(|_| shield.ask(Some(ip(caller)), now).is_ok());
            assert_eq!(asked.count(), passed, "{caller}");
        }
    }

    #[test]
    fn nothing_is_taken_on_while_memory_is_short() {
        let settings = |memory| Settings {
            memory,
            ..Settings::default()
        };
        for (max, resident, refused) in [
            (None, u64::MAX, None),
            (Some(100), 100, None),
            (Some(100), 101, Some("memory")),
        ] {
            let shield = shield(&settings(max.map(Bytes)));
            shield.remember(resident);
            assert_eq!(shield.work(Some(ip("192.0.2.1"))).err(), refused, "{max:?}");
            shield.remember(0);
            assert!(
                shield.work(Some(ip("192.0.2.1"))).is_ok(),
                "it is given back"
            );
        }
    }

    #[test]
    fn a_flood_is_told_of_now_and_then() {
        let shield = shield(&Settings::default());
        let now = Instant::now();
        let told = |seconds| shield.is_news(now + Duration::from_secs(seconds));
        assert_eq!(
            [0, 0, 9, 10, 11, 25].map(told),
            [true, false, false, true, false, true]
        );
    }

    #[test]
    fn there_are_never_more_connections_than_descriptors() {
        for (files, connections) in [(1024, 768), (0, 1), (1 << 20, 12_000)] {
            let shield = Shield::new(&Settings::default(), &[], files, counts());
            assert_eq!(shield.connections().max, connections, "{files}");
        }
    }
}
