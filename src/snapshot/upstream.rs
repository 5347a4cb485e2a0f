//! A pool ready to serve: the pool itself, how it is reached, probed and counted.

use super::{State, ai, at};
use crate::base::fault::{Faults, KeyPath};
use crate::config::Config;
use crate::observe::event;
use crate::observe::metrics::{EndpointMetrics, PoolMetrics};
use crate::stage::upstream::dns::Resolver;
use crate::stage::upstream::ejection::Outcome;
use crate::stage::upstream::endpoint::{Address, Endpoint, Place};
use crate::stage::upstream::health::Transition;
use crate::stage::upstream::peer::PeerTemplate;
use crate::stage::upstream::pool::{Lease, Pool, Unavailable};
use crate::stage::upstream::probe::{Probe, ProbeError};
use crate::stage::upstream::prober::ProbeTarget;
use crate::stage::upstream::settings::{EndpointSettings, Settings};
use crate::stage::upstream::sticky::Sticky;
use arc_swap::ArcSwap;
use http::HeaderValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A pool and everything around it. Kept over a reload when its settings did not change.
pub struct Upstream {
    pub pool: Arc<Pool>,
    pub settings: Settings,
    pub peers: Arc<PeerTemplate>,
    pub sticky: Option<Sticky>,
    pub metrics: Arc<PoolMetrics>,
    pub names: Vec<NamedEndpoint>,
    literal: Vec<Place>,
    probe: Arc<Probe>,
    /// Handles of the members, in no order; small, and read far more often than written.
    counted: ArcSwap<Vec<(Arc<Endpoint>, Arc<EndpointMetrics>)>>,
    /// Held while the members change: two names may change at once.
    changing: Mutex<()>,
}

/// An endpoint that is given by name, and looked up again and again.
pub struct NamedEndpoint {
    pub resolver: Arc<Resolver>,
    weight: u32,
}

/// What one attempt cost, for the histograms.
pub struct Measures<'a> {
    pub endpoint: &'a Arc<Endpoint>,
    pub status: Option<u16>,
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub total: Duration,
}

pub(super) fn build_all(
    config: &Config,
    state: &State,
    faults: &mut Faults,
) -> BTreeMap<String, Arc<Upstream>> {
    let mut upstreams = BTreeMap::new();
    let pools = config.pools.iter();
    let pools = pools.map(|(name, settings)| ("pools", name, Cow::Borrowed(settings)));
    let providers = ai::pools(config);
    let providers = providers.map(|(name, settings)| ("providers", name, Cow::Owned(settings)));
    for (section, name, settings) in pools.chain(providers) {
        let kept = state
            .upstream(name)
            .filter(|kept| kept.settings == *settings && kept.files_are_the_same(name));
        let upstream = kept.or_else(|| {
            let here = at(section, name);
            Upstream::build(name, &settings, &here, state, faults).map(Arc::new)
        });
        if let Some(upstream) = upstream {
            upstreams.insert(name.clone(), upstream);
        }
    }
    upstreams
}

impl Upstream {
    fn build(
        name: &str,
        settings: &Settings,
        here: &KeyPath,
        state: &State,
        faults: &mut Faults,
    ) -> Option<Self> {
        let peers = Arc::new(PeerTemplate::build(name, settings, here, faults)?);
        let probe = Probe::build(settings, Arc::clone(&peers), here, faults)?;
        let sticky = settings.sticky.as_ref();
        let mut literal = Vec::new();
        let mut names = Vec::new();
        for (index, endpoint) in settings.endpoints.iter().enumerate() {
            match parse(endpoint) {
                Some(Written::Literal(place)) => literal.push(place),
                Some(Written::Name(host, port)) => names.push(NamedEndpoint {
                    resolver: Arc::new(Resolver::new(host, port, settings.dns_refresh.0.0)),
                    weight: endpoint.weight,
                }),
                None => faults.error(
                    here.key("endpoints").key(index),
                    format!("`{}` is not an address", endpoint.address),
                    "write `ip:port`, `name:port` or `unix:/path`",
                ),
            }
        }
        Some(Self {
            pool: Arc::new(Pool::new(name, settings, Instant::now())),
            sticky: sticky.map(|sticky| Sticky::new(sticky, &state.made_up_secret)),
            metrics: state.metrics.pool(name),
            settings: settings.clone(),
            peers,
            names,
            literal,
            probe: Arc::new(probe),
            counted: ArcSwap::default(),
            changing: Mutex::default(),
        })
    }

    /// Certificates may be new although their paths are the same.
    fn files_are_the_same(&self, name: &str) -> bool {
        if self.settings.tls.is_none() {
            return true;
        }
        let mut faults = Faults::default();
        let now = PeerTemplate::build(name, &self.settings, &at("pools", name), &mut faults);
        now.is_some_and(|now| now.fingerprint() == self.peers.fingerprint())
    }

    /// Takes the members anew from the addresses that are known now.
    pub fn refresh_members(&self, state: &State, now: Instant) {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places = self.literal.clone();
        for name in &self.names {
            for address in name.resolver.status().addresses.iter() {
                places.push(Place {
                    address: Address::Ip(*address),
                    host: Some(name.resolver.host().to_owned()),
                    weight: name.weight,
                });
            }
        }
        let mut seen = std::collections::HashSet::new();
        places.retain(|place| seen.insert(place.address.clone()));
        let members = state.endpoints.endpoints(&self.pool.name, places, now);
        let counted = members.iter().map(|member| {
            let metrics = state.metrics.endpoint(&self.pool.name, &member.name);
            (Arc::clone(member), metrics)
        });
        self.counted.store(Arc::new(counted.collect()));
        self.pool.set_members(members, now);
    }

    /// How an attempt went: the endpoint learns it, and so does the operator if it goes out for that.
    pub fn report(&self, lease: &mut Lease, outcome: Outcome, now: Instant) {
        if !lease.report(outcome, now) {
            return;
        }
        let endpoint = lease.endpoint();
        let reason = match outcome {
            Outcome::ConnectFailure => "connect_failures",
            Outcome::Error | Outcome::Success => "errors",
        };
        if let Some(metrics) = self.metrics_of(endpoint) {
            let period = self.settings.ejection.base.0;
            let doubled = endpoint.ejection.times().saturating_sub(1).min(20);
            let period = period
                .saturating_mul(1 << doubled)
                .min(self.settings.ejection.max.0);
            event::endpoint_ejected(&metrics, reason, period);
        }
    }

    pub fn count_unavailable(&self, why: &Unavailable) {
        match why {
            Unavailable::QueueFull { .. } => self.metrics.queue_rejected("full"),
            Unavailable::WaitedInVain { .. } => self.metrics.queue_rejected("timed_out"),
            Unavailable::NoHealthyEndpoint { .. } => {
                self.metrics.queue_rejected("no_healthy_endpoint");
            }
            Unavailable::NothingElse => {}
        }
    }

    /// Counts the attempts of one request, in their order.
    pub fn count_attempts<'a>(&self, attempts: impl Iterator<Item = Measures<'a>>) {
        let counted = self.counted.load();
        for (nth, attempt) in attempts.enumerate() {
            let of = counted
                .iter()
                .find(|(member, _)| Arc::ptr_eq(member, attempt.endpoint));
            if let Some((_, metrics)) = of {
                metrics.attempted(attempt.status);
            }
            if let Some(connect) = attempt.connect {
                self.metrics.connect.observe(connect.as_secs_f64());
            }
            if let Some(first_byte) = attempt.first_byte {
                self.metrics.first_byte.observe(first_byte.as_secs_f64());
            }
            if attempt.status != Some(101) {
                self.metrics.total.observe(attempt.total.as_secs_f64());
            }
            if nth > 0 {
                let answered = attempt.status.is_some_and(|status| status < 500);
                let outcome = if answered { "answered" } else { "failed" };
                self.metrics.retried(outcome);
            }
        }
    }

    /// Gauges that are read, not counted.
    pub fn refresh_metrics(&self) {
        for (endpoint, metrics) in self.counted.load().iter() {
            let in_flight = endpoint
                .in_flight
                .load(std::sync::atomic::Ordering::Relaxed);
            metrics.in_flight.set(i64::from(in_flight));
            let up = endpoint.health.is_up() && !endpoint.ejection.is_out();
            metrics.up.set(i64::from(up));
        }
        let waiting = i64::try_from(self.pool.waiting()).unwrap_or(i64::MAX);
        self.metrics.queue_waiting.set(waiting);
    }

    pub fn metrics_of(&self, endpoint: &Arc<Endpoint>) -> Option<Arc<EndpointMetrics>> {
        let counted = self.counted.load();
        let of = counted
            .iter()
            .find(|(member, _)| Arc::ptr_eq(member, endpoint));
        of.map(|(_, metrics)| Arc::clone(metrics))
    }

    /// The `Set-Cookie` value that brings a caller back to this endpoint.
    pub fn sticky_cookie(&self, endpoint: &Endpoint, secure: bool) -> Option<HeaderValue> {
        let sticky = self.sticky.as_ref()?;
        let value = sticky.issue(&self.pool.name, endpoint, unix_now());
        HeaderValue::try_from(sticky.set_cookie(&value, secure)).ok()
    }
}

/// The pool as the prober sees it: it needs the way to count as well.
pub struct Probed(pub Arc<Upstream>);

impl ProbeTarget for Probed {
    fn pool(&self) -> &str {
        &self.0.pool.name
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.0.pool.members().to_vec()
    }

    fn probe(&self) -> Arc<Probe> {
        Arc::clone(&self.0.probe)
    }

    fn probed(
        &self,
        endpoint: &Arc<Endpoint>,
        result: &Result<(), ProbeError>,
        transition: Option<Transition>,
    ) {
        let now = Instant::now();
        if result.is_ok() {
            endpoint.probed_well(transition == Some(Transition::Returned), now);
        }
        let Some(metrics) = self.0.metrics_of(endpoint) else {
            return;
        };
        metrics.checked(if result.is_ok() { "ok" } else { "failed" });
        match (transition, result) {
            (Some(Transition::Returned), _) => event::endpoint_returned(&metrics),
            (Some(Transition::Left), Err(why)) => event::endpoint_left(&metrics, &why.0),
            _ => {}
        }
    }
}

enum Written {
    Literal(Place),
    Name(String, u16),
}

/// `ip:port`, `[v6]:port`, `name:port` or `unix:/path`.
fn parse(endpoint: &EndpointSettings) -> Option<Written> {
    let literal = |address| {
        Written::Literal(Place {
            address,
            host: None,
            weight: endpoint.weight,
        })
    };
    let text = endpoint.address.as_str();
    if let Some(path) = text.strip_prefix("unix:") {
        return Some(literal(Address::Unix(PathBuf::from(path))));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(literal(Address::Ip(address)));
    }
    let (host, port) = text.rsplit_once(':')?;
    Some(Written::Name(host.to_owned(), port.parse().ok()?))
}

pub fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
