//! What was learned and must survive a reload, keyed by stable names.

use super::{Catalogue, TunnelCounts, Upstream};
use crate::observe::metrics::Metrics;
use crate::observe::trace::Tracing;
use crate::stage::identity::jwks::Jwks;
use crate::stage::limit::counters::Counters;
use crate::stage::listen::shield::Counts;
use crate::stage::upstream::endpoint::Registry;
use crate::store::redis;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// Lives as long as the process.
pub struct State {
    pub metrics: Arc<Metrics>,
    /// Health, ejection and counters of every endpoint.
    pub endpoints: Registry,
    /// Connections and requests by address.
    pub shield: Arc<Counts>,
    /// How many descriptors the process may have.
    pub open_files_max: u64,
    tunnels: Mutex<HashMap<String, Arc<TunnelCounts>>>,
    upstreams: Mutex<HashMap<String, Arc<Upstream>>>,
    jwks: Mutex<BTreeMap<String, Arc<Jwks>>>,
    catalogue: Mutex<Option<Arc<Catalogue>>>,
    tracing: Mutex<Option<Arc<Tracing>>>,
    /// What limits have counted, by the Redis in which they count. As a rule there is one.
    counters: Mutex<Vec<(Option<redis::Settings>, Weak<Counters>)>>,
    /// The name of this process among those that share a store.
    pub(super) instance: String,
    /// Signs sticky cookies of pools that name no secret.
    pub(super) made_up_secret: [u8; 32],
}

impl State {
    /// `secret` is the one of the process before this one, whose sticky cookies stay good.
    pub fn new(
        metrics: Arc<Metrics>,
        secret: Option<[u8; 32]>,
        open_files_max: u64,
    ) -> Result<Self, &'static str> {
        let made_up_secret = match secret {
            Some(secret) => secret,
            None => make_up()?,
        };
        Ok(Self {
            metrics,
            endpoints: Registry::default(),
            shield: Arc::new(Counts::new(Instant::now())),
            open_files_max,
            tunnels: Mutex::default(),
            upstreams: Mutex::default(),
            jwks: Mutex::default(),
            catalogue: Mutex::default(),
            tracing: Mutex::default(),
            counters: Mutex::default(),
            instance: format!("{:016x}", fastrand::u64(..)),
            made_up_secret,
        })
    }

    /// For the process that follows this one, and for nobody else.
    pub fn made_up_secret(&self) -> &[u8; 32] {
        &self.made_up_secret
    }

    /// The open WebSockets of a route, under its name.
    pub fn tunnels(&self, route: &str) -> Arc<TunnelCounts> {
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.retain(|_, counts| Arc::strong_count(counts) > 1);
        Arc::clone(tunnels.entry(route.to_owned()).or_default())
    }

    /// The counters that are kept in this Redis, or in memory; made if no snapshot uses them yet.
    pub fn counters(&self, settings: Option<&redis::Settings>) -> Result<Arc<Counters>, String> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.retain(|(_, kept)| kept.strong_count() > 0);
        let kept = counters.iter().find(|(of, _)| of.as_ref() == settings);
        if let Some(kept) = kept.and_then(|(_, kept)| kept.upgrade()) {
            return Ok(kept);
        }
        let made = Counters::start(settings, &self.instance, &self.metrics)?;
        counters.push((settings.cloned(), Arc::downgrade(&made)));
        Ok(made)
    }

    /// What makes spans now, to be kept if its settings did not change.
    pub(super) fn tracing(&self) -> Option<Arc<Tracing>> {
        let tracing = self.tracing.lock();
        tracing.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What makes spans in the snapshot that was put in force.
    pub fn keep_tracing(&self, tracing: Option<&Arc<Tracing>>) {
        let kept = self.tracing.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = tracing.cloned();
    }

    /// The pool in force under this name, to be kept if its settings did not change.
    pub(super) fn upstream(&self, pool: &str) -> Option<Arc<Upstream>> {
        let upstreams = self
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        upstreams.get(pool).cloned()
    }

    /// The fetched keys in force of this method, to be kept if their source did not change.
    pub(super) fn jwks(&self, method: &str) -> Option<Arc<Jwks>> {
        let jwks = self.jwks.lock().unwrap_or_else(PoisonError::into_inner);
        jwks.get(method).cloned()
    }

    /// The providers and models in force: what was learned of keys and targets is taken over from them.
    pub(super) fn catalogue(&self) -> Option<Arc<Catalogue>> {
        let catalogue = self.catalogue.lock();
        catalogue.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The providers and models of the snapshot that was put in force.
    pub fn keep_catalogue(&self, catalogue: &Arc<Catalogue>) {
        let kept = self.catalogue.lock();
        *kept.unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(catalogue));
    }

    /// The fetched keys of the snapshot that was put in force.
    pub fn keep_jwks(&self, jwks: &BTreeMap<String, Arc<Jwks>>) {
        let mut kept = self.jwks.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clone_from(jwks);
    }

    /// The pools of the snapshot that was put in force.
    pub fn keep<'a>(&self, upstreams: impl IntoIterator<Item = &'a Arc<Upstream>>) {
        let mut kept = self
            .upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *kept = upstreams
            .into_iter()
            .map(|upstream| (upstream.pool.name.clone(), Arc::clone(upstream)))
            .collect();
    }
}

fn make_up() -> Result<[u8; 32], &'static str> {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| "the system has no random numbers")?;
    Ok(secret)
}
