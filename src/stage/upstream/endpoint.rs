//! One place a request can go; lives as long as the process, whatever is reloaded.

use super::ejection::{Ejection, Gate};
use super::health::Health;
use super::learned::Learned;
use super::slow_start::SlowStart;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// Where an endpoint listens, after names have been looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    Ip(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An endpoint of one pool. Identity is (pool, address, host); everything else may change.
#[derive(Debug)]
pub struct Endpoint {
    /// `address` as text: metric label, log field, part of the sticky cookie.
    pub name: String,
    pub address: Address,
    /// The name it was looked up by (`app.internal`), for `Host` and SNI; none for literal addresses.
    pub host: Option<String>,
    /// Share of the traffic beside the others, 1 to 256.
    pub weight: AtomicU32,
    /// Requests under way; only leases change it.
    pub in_flight: AtomicU32,
    pub health: Health,
    pub ejection: Ejection,
    pub slow_start: SlowStart,
    /// Attempts sent here since the endpoint came to be.
    pub requests: AtomicU64,
    /// Of these, how many failed in a way that it is blamed for.
    pub failures: AtomicU64,
    /// Its credit in the round; only `round_robin` changes it, under its lock.
    pub(super) turn: AtomicI64,
    /// Stands for `name` in `hash`; the same on all instances.
    pub(super) hash: u64,
    /// Whether it has been a member of a pool: then it is no newcomer after a reload.
    pub(super) placed: AtomicBool,
    born: Instant,
}

/// How an endpoint stands, in one word for `/status` and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    /// Well, but not yet at its whole share.
    SlowStart,
    /// Failed its probes.
    Unhealthy,
    /// Failed requests, and is left alone.
    Ejected,
    /// One request is trying it after an ejection.
    Trial,
    /// No longer a member; finishes what runs.
    Draining,
}

impl State {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::SlowStart => "slow_start",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Trial => "trial",
            Self::Draining => "draining",
        }
    }
}

impl Endpoint {
    pub fn new(address: Address, host: Option<String>, weight: u32, now: Instant) -> Self {
        let name = address.to_string();
        Self {
            hash: super::balance::hash::key_of(name.as_bytes()),
            name,
            address,
            host,
            weight: AtomicU32::new(weight),
            in_flight: AtomicU32::new(0),
            health: Health::default(),
            ejection: Ejection::default(),
            slow_start: SlowStart::default(),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            turn: AtomicI64::new(0),
            placed: AtomicBool::new(false),
            born: now,
        }
    }

    /// Milliseconds since the endpoint came to be: the time that its atomics keep.
    pub fn at(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born);
        u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
    }

    /// Its share at this moment in thousandths of a weight: 100 to 256,000.
    pub fn weight_at(&self, now: Instant) -> u32 {
        let weight = self.weight.load(Relaxed).clamp(1, 256);
        if self.slow_start.is_over() {
            // The common case does without arithmetic on time.
            return weight * super::slow_start::WHOLE;
        }
        weight * self.slow_start.share(self.at(now))
    }

    /// Whether an ejection keeps requests away.
    pub fn gate(&self, now: Instant) -> Gate {
        if self.ejection.is_out() {
            self.ejection.gate(self.at(now))
        } else {
            Gate::Open
        }
    }

    /// To be told of each good probe; `came_back` when health went from down to up by it.
    /// Ends an ejection, and lets an endpoint that was away grow into its share.
    pub fn probed_well(&self, came_back: bool, now: Instant) {
        let at = self.at(now);
        if self.ejection.clear(at) || came_back {
            self.slow_start.begin(at);
        }
    }

    /// How a member stands; the worst news first.
    pub fn state(&self, now: Instant) -> State {
        if !self.health.is_up() {
            State::Unhealthy
        } else if self.ejection.is_on_trial() {
            State::Trial
        } else if self.ejection.is_out() {
            State::Ejected
        } else if self.slow_start.share(self.at(now)) < super::slow_start::WHOLE {
            State::SlowStart
        } else {
            State::Up
        }
    }
}

/// An endpoint as the configuration or DNS names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub address: Address,
    pub host: Option<String>,
    pub weight: u32,
}

/// Pool, address, and the name it was looked up by: two names on one address are two virtual hosts.
type Identity = (String, Address, Option<String>);

/// Every endpoint in use, so that health, ejection, load and counters outlive reloads and DNS
/// refreshes. Holds none alive: what no pool and no request uses any more is forgotten.
#[derive(Debug, Default)]
pub struct Registry {
    known: Mutex<HashMap<Identity, Weak<Endpoint>>>,
    /// What the process before us knew, for endpoints that come to be soon.
    expected: Mutex<Vec<Learned>>,
}

impl Registry {
    /// The endpoints of a pool: those known already, with their new weights, and new ones.
    pub fn endpoints(&self, pool: &str, places: Vec<Place>, now: Instant) -> Vec<Arc<Endpoint>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, endpoint| endpoint.strong_count() > 0);
        places
            .into_iter()
            .map(|place| {
                let identity = (pool.to_owned(), place.address, place.host);
                let slot = known.entry(identity.clone()).or_default();
                let endpoint = slot.upgrade().unwrap_or_else(|| {
                    let endpoint = Endpoint::new(identity.1, identity.2, place.weight, now);
                    self.teach(pool, &endpoint, now);
                    Arc::new(endpoint)
                });
                endpoint.weight.store(place.weight, Relaxed);
                *slot = Arc::downgrade(&endpoint);
                endpoint
            })
            .collect()
    }

    /// What the process before us knew, to be believed of endpoints that come to be from now on. It gets
    /// old: expect nothing any more once the endpoints stand.
    pub fn expect(&self, learned: Vec<Learned>) {
        *self.expected.lock().unwrap_or_else(PoisonError::into_inner) = learned;
    }

    fn teach(&self, pool: &str, endpoint: &Endpoint, now: Instant) {
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(learned) = expected.iter().find(|known| known.is_of(pool, endpoint)) {
            learned.teach(endpoint, now);
        }
    }

    /// Every endpoint of a pool that is still in use, those that left it and are draining included; by name.
    pub fn in_use(&self, pool: &str) -> Vec<Arc<Endpoint>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut endpoints: Vec<_> = known
            .iter()
            .filter(|((of, _, _), _)| of == pool)
            .filter_map(|(_, endpoint)| endpoint.upgrade())
            .collect();
        endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, weight: u32) -> Place {
        Place {
            address: Address::Ip(address.parse().unwrap()),
            host: None,
            weight,
        }
    }

    #[test]
    fn an_endpoint_outlives_a_reload_with_all_it_knows() {
        let (registry, now) = (Registry::default(), Instant::now());
        let before = registry.endpoints("app", vec![place("10.0.0.1:80", 1)], now);
        before[0].in_flight.store(7, Relaxed);
        let places = vec![place("10.0.0.2:80", 1), place("10.0.0.1:80", 5)];
        let after = registry.endpoints("app", places, now);
        assert!(Arc::ptr_eq(&before[0], &after[1]));
        assert_eq!(after[1].weight.load(Relaxed), 5);
        assert_eq!(after[1].in_flight.load(Relaxed), 7);
    }

    #[test]
    fn pools_and_names_do_not_share_endpoints() {
        let (registry, now) = (Registry::default(), Instant::now());
        let one = registry.endpoints("app", vec![place("10.0.0.1:80", 1)], now);
        let other = registry.endpoints("api", vec![place("10.0.0.1:80", 1)], now);
        assert!(!Arc::ptr_eq(&one[0], &other[0]));
        let named = Place {
            host: Some("a.internal".to_owned()),
            ..place("10.0.0.1:80", 1)
        };
        let named = registry.endpoints("app", vec![named], now);
        assert!(!Arc::ptr_eq(&one[0], &named[0]));
    }

    #[test]
    fn what_nobody_uses_is_forgotten() {
        let (registry, now) = (Registry::default(), Instant::now());
        let places = vec![place("10.0.0.1:80", 1), place("10.0.0.2:80", 1)];
        let mut endpoints = registry.endpoints("app", places, now);
        endpoints.pop();
        assert_eq!(registry.in_use("app").len(), 1);
        registry.endpoints("app", Vec::new(), now);
        assert_eq!(registry.known.lock().unwrap().len(), 1);
    }
}
