//! What operators are shown live, gathered from the snapshot that serves now.

use super::Server;
use crate::admin::{self, AdminView, Live, ROWS_MAX, Rows};
use crate::observe::metrics::Figures;
use crate::snapshot::{Catalogue, Snapshot, Upstream};
use crate::stage::ai::breaker::BreakerStatus;
use crate::stage::upstream::endpoint::Endpoint;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// Of all pools together: who looks each second gets no book.
const ENDPOINTS_MAX: usize = 1000;

impl Server {
    pub(super) fn gather_live(&self, now: Instant) -> Live {
        let snapshot = self.gateway.current.load();
        let report = self.last_reload.lock();
        let config_ok = report
            .unwrap_or_else(PoisonError::into_inner)
            .faults
            .is_empty();
        let parts = self.readiness();
        let waiting = parts.into_iter().filter(|part| !part.ready);
        let mut figures = self.state.metrics.figures(now);
        Live {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: snapshot.revision,
            uptime_s: figures.uptime_s,
            not_ready: waiting
                .map(|part| format!("{}: {}", part.name, part.why))
                .collect(),
            draining: self.draining.load(Relaxed),
            config_ok,
            limits: limits(&snapshot),
            routes: routes(&snapshot, &mut figures),
            pools: pools(&snapshot, now),
            providers: providers(&snapshot.catalogue, now),
            models: models(&mut figures),
            targets: targets(&snapshot.catalogue, now),
            rules: rules(&mut figures),
            traffic: figures.traffic,
            process: figures.process,
        }
    }
}

fn limits(snapshot: &Snapshot) -> admin::Limits {
    let counters = snapshot.limits.counters();
    admin::Limits {
        mode: counters.mode().name().to_owned(),
        instances: u64::from(counters.instances()),
        error: counters.why_gone().map(|why| admin::in_short(why.clone())),
    }
}

/// In the order of the configuration; those of an earlier one that still have requests come last.
fn routes(snapshot: &Snapshot, figures: &mut Figures) -> Rows<admin::Route> {
    let names: Vec<String> = snapshot
        .routes
        .iter()
        .map(|route| route.name.clone())
        .collect();
    let configured: Vec<_> = names
        .into_iter()
        .map(|name| admin::Route {
            figures: figures.routes.remove(&name).unwrap_or_default(),
            name,
        })
        .collect();
    let others = std::mem::take(&mut figures.routes).into_iter();
    let others = others.map(|(name, figures)| admin::Route { name, figures });
    configured.into_iter().chain(others).collect()
}

fn pools(snapshot: &Snapshot, now: Instant) -> Rows<admin::Pool> {
    let mut left = ENDPOINTS_MAX;
    let pools = snapshot.upstreams.iter().map(|(name, upstream)| {
        let pool = pool((name, upstream), left, now);
        left -= pool.endpoints.rows.len();
        pool
    });
    pools.collect()
}

/// With so many of its endpoints at most.
fn pool((name, upstream): (&str, &Upstream), most: usize, now: Instant) -> admin::Pool {
    let members = upstream.pool.members();
    let endpoints = members.iter().map(|member| endpoint(upstream, member, now));
    admin::Pool {
        name: name.to_owned(),
        eligible: upstream.pool.eligible(now),
        waiting: upstream.pool.waiting(),
        endpoints: Rows::first(most.min(ROWS_MAX), endpoints),
    }
}

fn endpoint(upstream: &Upstream, endpoint: &Arc<Endpoint>, now: Instant) -> admin::Endpoint {
    let last_error = endpoint.health.report().last_error;
    admin::Endpoint {
        name: endpoint.name.clone(),
        state: upstream.pool.state_of(endpoint, now).name().to_owned(),
        in_flight: u64::from(endpoint.in_flight.load(Relaxed)),
        requests: endpoint.requests.load(Relaxed),
        failures: endpoint.failures.load(Relaxed),
        last_error: last_error.map(|error| admin::in_short(error.clone())),
    }
}

fn providers(catalogue: &Catalogue, now: Instant) -> Rows<admin::Provider> {
    let used = catalogue.providers.iter().map(|(name, provider)| {
        let keys = provider.keys.status(now);
        admin::Provider {
            name: name.clone(),
            enabled: true,
            keys: keys.len(),
            resting: keys.iter().filter(|key| key.cooled.is_some()).count(),
        }
    });
    let disabled = catalogue.disabled.iter().map(|name| admin::Provider {
        name: name.clone(),
        ..admin::Provider::default()
    });
    used.chain(disabled).collect()
}

fn models(figures: &mut Figures) -> Rows<admin::Model> {
    let models = std::mem::take(&mut figures.models).into_iter();
    let models = models.map(|((name, provider), figures)| admin::Model {
        name,
        provider,
        figures,
    });
    models.collect()
}

/// Of a wildcard each model as it was asked for, where something was learned of it.
fn targets(catalogue: &Catalogue, now: Instant) -> Rows<admin::Target> {
    let named = catalogue.targets.iter().flat_map(|(name, target)| {
        let each = target.each().into_iter();
        let each = each.map(|(model, one)| (name.replace('*', &model), one));
        std::iter::once((name.clone(), Arc::clone(target))).chain(each)
    });
    let targets = named.map(|(name, target)| {
        let status = target.status(now);
        let open_s = match status.breaker {
            BreakerStatus::Open(rest) => Some(rest.as_secs_f64().ceil()),
            BreakerStatus::Closed | BreakerStatus::HalfOpen => None,
        };
        admin::Target {
            name,
            breaker: status.breaker.name().to_owned(),
            open_s,
            in_flight: u64::from(status.in_flight),
            first_token_s: status.latency.map(|latency| latency.as_secs_f64()),
        }
    });
    targets.collect()
}

fn rules(figures: &mut Figures) -> Rows<admin::Rule> {
    let rules = std::mem::take(&mut figures.rules).into_iter();
    let rules = rules.map(|(name, figures)| admin::Rule { name, figures });
    rules.collect()
}
