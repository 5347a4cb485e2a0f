//! The gateway as operators see it: readiness and `/status`.

use super::Server;
use super::log::LogLevel;
use crate::admin::{AdminView, Caller, Live, Part};
use crate::base::client::Client;
use crate::observe::logging::Level;
use crate::snapshot::{Catalogue, Identities, Upstream};
use crate::stage::ai::breaker::BreakerStatus;
use crate::stage::limit::counters::Now;
use crate::stage::limit::rule::Subject;
use crate::stage::listen::shield::{Shield, Usage};
use crate::stage::upstream::endpoint::Endpoint;
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

#[async_trait]
impl AdminView for Server {
    fn readiness(&self) -> Vec<Part> {
        let snapshot = self.gateway.current.load();
        // A pool without endpoints is that pool's trouble: the others must go on being served.
        vec![
            part("process", !self.draining.load(Relaxed), "about to stop"),
            part(
                "names",
                self.pools.names_are_known(),
                "names of endpoints are being looked up",
            ),
            part(
                "keys",
                self.gateway.current.load().identities.keys_were_asked_for(),
                "keys of issuers are being fetched",
            ),
            part(
                "health_checks",
                self.pools.prober.first_round_done(),
                "the first round is not over",
            ),
            // At the start only: without Redis, and with another one after a reload, requests are served
            // all the same.
            part(
                "redis",
                snapshot.revision > 1 || snapshot.limits.counters().is_settled(),
                "redis is being asked for the first time",
            ),
        ]
    }

    fn limit_mode(&self) -> &'static str {
        let snapshot = self.gateway.current.load();
        snapshot.limits.counters().mode().name()
    }

    fn status(&self) -> Value {
        let snapshot = self.gateway.current.load();
        let report = self
            .last_reload
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let pools: Map<String, Value> = snapshot
            .upstreams
            .iter()
            .map(|(name, upstream)| (name.clone(), pool(upstream)))
            .collect();
        let routes: Map<String, Value> = snapshot
            .routes
            .iter()
            .map(|route| {
                let open = json!({ "websockets": route.tunnels.total() });
                (route.name.clone(), open)
            })
            .collect();
        json!({
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "revision": snapshot.revision,
            "config": {
                "path": self.path,
                "ok": report.faults.is_empty(),
                "faults": report.faults,
            },
            "upgrade": self.upgrades.status(),
            "draining": self.draining.load(Relaxed),
            "log": LogLevel::status(),
            "access_log": self.gateway.reporter.access_log.load().status(),
            "connections": self.live.count(),
            "shield": shield(&snapshot.shield),
            "listeners": snapshot.config.listeners.iter().map(|(name, listener)| {
                (name.clone(), json!({ "address": listener.address, "tls": listener.tls.is_some() }))
            }).collect::<Map<_, _>>(),
            "identity": identity(&snapshot.identities),
            "limits": {
                "mode": snapshot.limits.counters().mode().name(),
                "instances": snapshot.limits.counters().instances(),
                "error": snapshot.limits.counters().why_gone(),
            },
            "routes": routes,
            "pools": pools,
            "providers": providers(&snapshot.catalogue),
            "targets": targets(&snapshot.catalogue),
        })
    }

    fn log(&self) -> Value {
        LogLevel::status()
    }

    fn set_log_level(&self, level: Option<Level>, period: Option<Duration>) {
        self.log_level.set(level, period);
    }

    async fn reload(&self) -> Result<u64, Value> {
        self.try_reload().await
    }

    async fn limits(&self, caller: &Caller) -> Value {
        let snapshot = self.gateway.current.load_full();
        let standings = snapshot.limits.look(&subject(caller), Now::read()).await;
        let rules: Vec<Value> = standings
            .into_iter()
            .map(|(rule, quota, level)| {
                json!({
                    "rule": rule.name,
                    "limit": quota.limit(),
                    "unit": rule.unit.name(),
                    "window_s": quota.window_ms().map(|window| window / 1_000),
                    "remaining": level.map(|level| level.remaining),
                    "allowed": level.map(|level| level.allows),
                    "after_s": level.map(|level| level.after_ms.div_ceil(1_000)),
                })
            })
            .collect();
        json!({ "mode": snapshot.limits.counters().mode().name(), "rules": rules })
    }

    async fn reset_limits(&self, caller: &Caller) -> Result<Vec<String>, &'static str> {
        let snapshot = self.gateway.current.load_full();
        let rules = snapshot.limits.reset(&subject(caller)).await;
        let rules = rules.map_err(|_| "redis is gone: nothing was reset there")?;
        Ok(rules.into_iter().map(|rule| rule.name.clone()).collect())
    }

    async fn upgrade(&self) -> Result<u32, String> {
        Self::upgrade(self).await
    }

    fn live(&self) -> Live {
        self.gather_live(Instant::now())
    }

    fn refresh_metrics(&self) {
        let older = self.upgrades.elders.pids().len();
        self.state.metrics.older_processes(older);
        let snapshot = self.gateway.current.load();
        self.state.metrics.revision_is(snapshot.revision);
        for upstream in snapshot.upstreams.values() {
            upstream.refresh_metrics();
        }
        snapshot.catalogue.refresh_metrics(&self.state.metrics);
        snapshot.identities.refresh_metrics();
        snapshot.limits.counters().refresh_metrics();
    }
}

fn subject(caller: &Caller) -> Subject<'_> {
    let address = |address: &IpAddr| {
        let client = Client {
            address: *address,
            ..Client::default()
        };
        client.subscriber()
    };
    Subject {
        user: caller.user.as_deref(),
        plan: caller.plan.as_deref(),
        key: caller.key.as_deref(),
        provider: caller.provider.as_deref(),
        model: caller.model.as_deref(),
        route: caller.route.as_deref(),
        address: caller.address.as_ref().map(address),
        // Rules about tokens are asked about too.
        tokens: 1,
    }
}

impl Server {
    /// What `/readyz` says.
    pub(super) fn is_ready(&self) -> bool {
        self.readiness().iter().all(|part| part.ready)
    }
}

fn part(name: &str, ready: bool, why: &str) -> Part {
    Part {
        name: name.to_owned(),
        ready,
        why: if ready { String::new() } else { why.to_owned() },
    }
}

/// Of each method whose keys are fetched: how many there are, how old, and what is wrong.
fn identity(identities: &Identities) -> Map<String, Value> {
    let now = Instant::now();
    let fetched = identities.jwks.iter().map(|(name, jwks)| {
        let status = jwks.status(now);
        let told = json!({
            "keys": status.keys,
            "age_s": status.age.map(|age| age.as_secs()),
            "error": status.error,
        });
        (name.clone(), told)
    });
    fetched.collect()
}

fn shield(shield: &Shield) -> Value {
    let usage = |usage: Usage| json!({ "taken": usage.taken, "max": usage.max, "addresses": usage.addresses });
    json!({
        "connections": usage(shield.connections()),
        "greetings": usage(shield.greetings()),
        "in_flight": usage(shield.in_flight()),
        "short_of_memory": shield.is_short_of_memory(),
    })
}

/// Keys by their places, never what they are; how each provider is reached stands under its name in `pools`.
fn providers(catalogue: &Catalogue) -> Map<String, Value> {
    let now = Instant::now();
    let used = catalogue.providers.iter().map(|(name, provider)| {
        let keys = provider.keys.status(now).into_iter().map(|key| {
            let cooled = key.cooled;
            json!({
                "cooled_s": cooled.map(|(rest, _)| rest.as_secs_f64().ceil()),
                "why": cooled.map(|(_, why)| why.name()),
            })
        });
        let keys: Vec<_> = keys.collect();
        let mut told = json!({ "kind": provider.kind.name, "enabled": true, "keys": keys });
        if let Some(tokens) = provider.tokens() {
            let status = tokens.status(now);
            let good_for = status.good_for.map(|good_for| good_for.as_secs());
            told["token"] = json!({ "good_for_s": good_for, "error": status.error });
        }
        (name.clone(), told)
    });
    let disabled = catalogue.disabled.iter();
    let disabled = disabled.map(|name| (name.clone(), json!({ "enabled": false, "keys": [] })));
    used.chain(disabled).collect()
}

/// Every target by its name, `*` where the caller names the model.
fn targets(catalogue: &Catalogue) -> Map<String, Value> {
    let now = Instant::now();
    // Of a wildcard each model as it was asked for, where something was learned of it.
    let named = catalogue.targets.iter().flat_map(|(name, target)| {
        let each = target.each().into_iter();
        let each = each.map(|(model, one)| (name.replace('*', &model), one));
        std::iter::once((name.clone(), std::sync::Arc::clone(target))).chain(each)
    });
    let targets = named.map(|(name, target)| {
        let status = target.status(now);
        let open = match status.breaker {
            BreakerStatus::Open(rest) => Some(rest.as_secs_f64().ceil()),
            BreakerStatus::Closed | BreakerStatus::HalfOpen => None,
        };
        let told = json!({
            "breaker": status.breaker.name(),
            "open_s": open,
            "in_flight": status.in_flight,
            "first_token_ms": status.latency.map(|latency| latency.as_millis()),
        });
        (name, told)
    });
    targets.collect()
}

fn pool(upstream: &Upstream) -> Value {
    let now = Instant::now();
    let members = upstream.pool.members();
    let names: Vec<_> = upstream
        .names
        .iter()
        .map(|name| {
            let status = name.resolver.status();
            json!({
                "name": format!("{}:{}", name.resolver.host(), name.resolver.port()),
                "failing": status.failing,
                "error": status.error,
                "addresses": status.addresses.len(),
            })
        })
        .collect();
    json!({
        "eligible": upstream.pool.eligible(now),
        "waiting": upstream.pool.waiting(),
        "names": names,
        "endpoints": members.iter().map(|member| endpoint(upstream, member, now)).collect::<Vec<_>>(),
    })
}

fn endpoint(upstream: &Upstream, endpoint: &Arc<Endpoint>, now: Instant) -> Value {
    let health = endpoint.health.report();
    json!({
        "name": endpoint.name,
        "host": endpoint.host,
        "state": upstream.pool.state_of(endpoint, now).name(),
        "up": health.up,
        "known": health.known,
        "ejected": endpoint.ejection.is_out(),
        "in_flight": endpoint.in_flight.load(Relaxed),
        "weight": endpoint.weight.load(Relaxed),
        "requests": endpoint.requests.load(Relaxed),
        "failures": endpoint.failures.load(Relaxed),
        "last_error": health.last_error,
    })
}
