//! Methods of identification ready to be asked, and the headers that only we may send to endpoints.

use super::{State, at};
use crate::base::fault::Faults;
use crate::base::principal::{Principal, X_USER_ID};
use crate::config::Config;
use crate::observe::metrics::{IdentityMetrics, Metrics};
use crate::stage::identity::build;
use crate::stage::identity::chain::{Chain, Method, NO_METHOD, Refusal};
use crate::stage::identity::jwks::{Jwks, Source};
use crate::stage::identity::settings::Settings;
use http::{HeaderMap, HeaderName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// The methods of one configuration.
pub struct Identities {
    /// The keys that are fetched, by the name of their method. Kept over a reload when their source did not change.
    pub jwks: BTreeMap<String, Arc<Jwks>>,
    methods: BTreeMap<String, Arc<Method>>,
    metrics: BTreeMap<String, Arc<IdentityMetrics>>,
    told: Vec<HeaderName>,
}

impl Identities {
    pub(super) fn build(config: &Config, state: &State, faults: &mut Faults) -> Self {
        let (mut jwks, mut methods) = (BTreeMap::new(), BTreeMap::new());
        for (name, settings) in &config.identity {
            let keys = |source: Source| {
                let kept = state.jwks(name).filter(|kept| kept.source == source);
                let keys = kept.unwrap_or_else(|| Arc::new(Jwks::new(source)));
                Arc::clone(jwks.entry(name.clone()).or_insert(keys))
            };
            let here = at("identity", name);
            if let Some(method) = build::build(name, settings, &here, keys, faults) {
                methods.insert(name.clone(), Arc::new(method));
            }
        }
        Self {
            jwks,
            metrics: metrics(config, &state.metrics),
            told: told(config),
            methods,
        }
    }

    /// The chain of a route; none for a route that anybody may call, and when a method is not there.
    pub(super) fn chain(&self, names: &[String]) -> Option<Chain> {
        let methods = names.iter().map(|name| self.methods.get(name).cloned());
        let methods: Vec<_> = methods.collect::<Option<_>>()?;
        (!methods.is_empty()).then(|| Chain::new(methods))
    }

    /// The headers that the caller has sent, and that only we may: usually none, and then nothing is allocated.
    ///
    /// `x_user_id` counts like `x-user-id`: backends that turn names into variables cannot tell them apart.
    pub fn forged(&self, headers: &HeaderMap) -> Vec<HeaderName> {
        let is_ours = |name: &&HeaderName| self.told.iter().any(|ours| is_same(ours, name));
        headers.keys().filter(is_ours).cloned().collect()
    }

    pub fn count_known(&self, principal: &Principal) {
        if let Some(metrics) = self.metrics.get(&*principal.method) {
            metrics.known();
        }
    }

    pub fn count_refused(&self, refusal: &Refusal) {
        self.count(&refusal.method, refusal.reason.name());
    }

    /// Known, but not among those who may.
    pub fn count_not_allowed(&self, principal: &Principal) {
        self.count(&principal.method, "not_allowed");
    }

    fn count(&self, method: &str, reason: &'static str) {
        if let Some(metrics) = self.metrics.get(method) {
            metrics.refused(reason);
        }
    }

    pub fn metrics_of(&self, method: &str) -> Option<&Arc<IdentityMetrics>> {
        self.metrics.get(method)
    }

    /// Whether every issuer was asked for its keys at least once, in vain or not.
    pub fn keys_were_asked_for(&self) -> bool {
        self.jwks.values().all(|jwks| jwks.was_asked())
    }

    /// Gauges that are read, not counted.
    pub fn refresh_metrics(&self) {
        let now = Instant::now();
        for (name, jwks) in &self.jwks {
            if let (Some(metrics), Some(age)) = (self.metrics.get(name), jwks.status(now).age) {
                metrics.age(age);
            }
        }
    }
}

fn metrics(config: &Config, metrics: &Arc<Metrics>) -> BTreeMap<String, Arc<IdentityMetrics>> {
    if config.identity.is_empty() {
        return BTreeMap::new();
    }
    let names = config.identity.keys().map(String::as_str);
    let names = names.chain([NO_METHOD]);
    names
        .map(|name| (name.to_owned(), metrics.identity(name)))
        .collect()
}

/// `X-User-Id`, and the claims that any method tells: also on routes that ask nobody.
fn told(config: &Config) -> Vec<HeaderName> {
    let mut told = vec![X_USER_ID];
    for settings in config.identity.values() {
        if let Settings::Jwt(jwt) = settings {
            let names = jwt.headers.keys();
            told.extend(names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()));
        }
    }
    told.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    told.dedup();
    told
}

fn is_same(ours: &HeaderName, name: &HeaderName) -> bool {
    let as_dash = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let (ours, name) = (ours.as_str(), name.as_str());
    ours.len() == name.len() && ours.bytes().map(as_dash).eq(name.bytes().map(as_dash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_we_may_say_is_found_however_it_is_spelled() {
        let identities = Identities {
            jwks: BTreeMap::new(),
            methods: BTreeMap::new(),
            metrics: BTreeMap::new(),
            told: vec![HeaderName::from_static("x-email"), X_USER_ID],
        };
        let mut headers = HeaderMap::new();
        for name in [
            "x-user-id",
            "X_User-Id",
            "x_email",
            "x-user-ids",
            "user-id",
            "x-emails",
        ] {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, "admin".parse().unwrap());
        }
        let mut forged = identities.forged(&headers);
        forged.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        assert_eq!(forged, ["x-user-id", "x_email", "x_user-id"]);
    }
}
