//! Everything a request may read: names resolved, immutable, swapped as a whole.
//!
//! Invariant: a request sees one snapshot from birth to end. What was learned and must survive
//! a reload (health, counters, open WebSockets) lives in [`State`], keyed by stable names.

mod ai;
mod explain;
mod identities;
mod limits;
mod messages;
mod route;
mod state;
mod tokens;
mod traces;
mod tunnels;
mod upstream;

pub use ai::{AiRoute, Catalogue, Model, Plan, Proof, Provider, Target, Targets};
pub use explain::explain;
pub use identities::Identities;
pub use messages::Meter;
pub use route::{Action, HeaderChanges, Route};
pub use state::State;
pub use tokens::Tokens;
pub use tunnels::{Tunnel, TunnelCounts};
pub use upstream::{Measures, Probed, Upstream, unix_now};

use crate::base::fault::{Fault, Faults, KeyPath};
use crate::config::Config;
use crate::observe::metrics::{ListenerMetrics, Metrics};
use crate::observe::trace::Tracing;
use crate::stage::limit::limits::Limits;
use crate::stage::listen::forwarded::TrustedProxies;
use crate::stage::listen::settings::{HeadSettings, HstsSettings, Settings as ListenerSettings};
use crate::stage::listen::shield::Shield;
use crate::stage::route::table::Table;
use crate::wire::head::HeadLimits;
use http::HeaderValue;
use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

pub struct Snapshot {
    /// Counts the configurations that were put in force; the first is 1.
    pub revision: u64,
    pub config: Config,
    pub routes: Table<Arc<Route>>,
    /// Of pools and of providers.
    pub upstreams: BTreeMap<String, Arc<Upstream>>,
    pub catalogue: Arc<Catalogue>,
    pub identities: Identities,
    /// All rules, whichever route takes them.
    pub limits: Limits,
    pub listeners: HashMap<String, Arc<ListenerRules>>,
    pub trusted: TrustedProxies,
    pub shield: Arc<Shield>,
    /// None: no spans are made.
    pub tracing: Option<Arc<Tracing>>,
}

/// What a listener adds to every request that comes through it.
pub struct ListenerRules {
    pub name: String,
    pub metrics: Arc<ListenerMetrics>,
    pub keepalive: Duration,
    /// Requests on one connection.
    pub keepalive_requests: u32,
    pub head: HeadLimits,
    pub head_timeout: Duration,
    /// Bytes a second; 0: none.
    pub min_rate: u64,
    pub redirect_to_https: Option<u16>,
    pub hsts: Option<HeaderValue>,
    /// Whether it is in the configuration no more, and only its last connections are left.
    pub gone: bool,
}

impl Snapshot {
    /// Builds a whole snapshot or says everything that stands in its way; touches nothing that serves.
    pub fn build(config: Config, state: &State, revision: u64) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let upstreams = upstream::build_all(&config, state, &mut faults);
        let catalogue = Arc::new(Catalogue::build(&config, &upstreams, state, &mut faults));
        let rules = limits::build_all(&config, state, &mut faults);
        let redis = rules.as_ref().and_then(limits::Rules::redis);
        let identities = Identities::build(&config, state, redis, &mut faults);
        let parts = (&upstreams, &catalogue, &identities, rules.as_ref());
        let routes = route::build_all(&config, &parts, state, &mut faults);
        let listeners = config.listeners.iter().map(|(name, settings)| {
            let rules = ListenerRules::new(name, settings, state);
            (name.clone(), Arc::new(rules))
        });
        let tracing = traces::build(&config, state, &mut faults);
        let (Some(routes), Some(rules), false) = (routes, rules, faults.has_errors()) else {
            return Err(faults.0);
        };
        let shield = Shield::new(
            &config.server.shield,
            &config.server.trusted_proxies,
            state.open_files_max,
            Arc::clone(&state.shield),
        );
        let snapshot = Self {
            revision,
            shield: Arc::new(shield),
            routes,
            upstreams,
            catalogue,
            identities,
            limits: rules.all(),
            listeners: listeners.collect(),
            tracing,
            trusted: TrustedProxies::new(&config.server.trusted_proxies),
            config,
        };
        Ok(snapshot)
    }
}

impl Snapshot {
    /// The rules of a listener, or those for what is left of one that was removed.
    pub fn rules_of(&self, listener: &str, metrics: &Arc<Metrics>) -> Arc<ListenerRules> {
        match self.listeners.get(listener) {
            Some(rules) => Arc::clone(rules),
            None => Arc::new(ListenerRules::gone(listener, metrics)),
        }
    }
}

impl ListenerRules {
    /// For a connection that has outlived its listener.
    pub fn gone(name: &str, metrics: &Arc<Metrics>) -> Self {
        Self {
            name: name.to_owned(),
            metrics: metrics.listener(name),
            keepalive: Duration::ZERO,
            keepalive_requests: 1,
            head: head_limits(&HeadSettings::default()),
            head_timeout: HeadSettings::default().timeout.0,
            min_rate: 0,
            redirect_to_https: None,
            hsts: None,
            gone: true,
        }
    }

    fn new(name: &str, settings: &ListenerSettings, state: &State) -> Self {
        let hsts = settings.tls.as_ref().and_then(|tls| tls.hsts.as_ref());
        Self {
            name: name.to_owned(),
            metrics: state.metrics.listener(name),
            keepalive: settings.keepalive.0.0,
            keepalive_requests: settings
                .keepalive_requests
                .map_or(u32::MAX, NonZeroU32::get),
            head: head_limits(&settings.head),
            head_timeout: settings.head.timeout.0,
            min_rate: settings.min_rate.0.0,
            redirect_to_https: settings.redirect_to_https,
            hsts: hsts.map(hsts_value),
            gone: false,
        }
    }
}

fn head_limits(settings: &HeadSettings) -> HeadLimits {
    HeadLimits {
        bytes: usize::try_from(settings.bytes.0).unwrap_or(usize::MAX),
        fields: usize::from(settings.fields),
    }
}

/// RFC 6797 section 6.1.
fn hsts_value(settings: &HstsSettings) -> HeaderValue {
    let mut value = format!("max-age={}", settings.max_age.0.as_secs());
    if settings.include_subdomains {
        value.push_str("; includeSubDomains");
    }
    if settings.preload {
        value.push_str("; preload");
    }
    HeaderValue::from_str(&value).expect("digits and fixed words are a header value")
}

pub(crate) fn at(section: &str, name: &str) -> KeyPath {
    KeyPath::root().key(section).key(name)
}
