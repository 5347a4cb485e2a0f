//! How a method of identification is counted.

use super::Metrics;
use super::scope::Scope;
use prometheus::{IntCounter, IntGauge};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A method as it is counted.
pub struct IdentityMetrics {
    metrics: Arc<Metrics>,
    scope: Scope,
    known: OnceLock<IntCounter>,
    age: OnceLock<IntGauge>,
}

impl IdentityMetrics {
    fn new(metrics: &Arc<Metrics>, scope: Scope) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            scope,
            known: OnceLock::new(),
            age: OnceLock::new(),
        }
    }

    pub fn name(&self) -> &str {
        self.scope.part(0)
    }

    /// A caller was identified by this method.
    pub fn known(&self) {
        let family = &self.metrics.table.identity_known_total;
        self.known
            .get_or_init(|| self.scope.series(family, &[self.name()]))
            .inc();
    }

    /// A caller was refused.
    pub fn refused(&self, reason: &'static str) {
        let family = &self.metrics.table.identity_refusals_total;
        self.scope.series(family, &[self.name(), reason]).inc();
    }

    /// The keys of the issuer were asked for.
    pub fn fetched(&self, succeeded: bool) {
        let result = if succeeded { "ok" } else { "failed" };
        let family = &self.metrics.table.jwks_fetches_total;
        self.scope.series(family, &[self.name(), result]).inc();
    }

    /// How old the keys of the issuer are.
    pub fn age(&self, age: Duration) {
        let family = &self.metrics.table.jwks_age_seconds;
        let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        self.age
            .get_or_init(|| self.scope.series(family, &[self.name()]))
            .set(age);
    }
}

impl Drop for IdentityMetrics {
    fn drop(&mut self) {
        self.metrics.identities.forget(&self.scope);
    }
}

impl Metrics {
    /// The handles of a method of identification.
    pub fn identity(self: &Arc<Self>, name: &str) -> Arc<IdentityMetrics> {
        self.identities
            .get_or_make(&[name], |scope| IdentityMetrics::new(self, scope))
    }
}
