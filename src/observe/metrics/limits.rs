//! Handles of what limits count, and of the store in which they are kept.

use super::Metrics;
use super::scope::Scope;
use prometheus::{Histogram, IntCounter, IntGauge};
use std::sync::Arc;
use std::sync::atomic::{AtomicI8, Ordering::Relaxed};

/// Where limits may be counted.
const MODES: [&str; 3] = ["memory", "redis", "local"];

/// The store as it is measured.
pub struct StoreMetrics {
    /// 1 while it answers.
    up: IntGauge,
    /// The same of this store alone, -1 before it was asked: a reload may have made another.
    known: AtomicI8,
    /// Seconds of a call.
    pub duration: Histogram,
    pub ok: IntCounter,
    pub failed: IntCounter,
    pub timed_out: IntCounter,
    pub not_tried: IntCounter,
}

impl StoreMetrics {
    pub fn show(&self, answers: bool) {
        self.up.set(i64::from(answers));
    }

    /// It answers now, or does not. Returns whether that is news.
    pub fn answers(&self, answers: bool) -> bool {
        let now = i8::from(answers);
        self.show(answers);
        self.known.swap(now, Relaxed) != now
    }
}

/// What is counted of all limits together.
pub struct LimitMetrics {
    modes: [IntGauge; MODES.len()],
    pub uncounted: IntCounter,
    pub leases_left: IntCounter,
    pub corrections_lost: IntCounter,
}

impl LimitMetrics {
    /// Counts are kept there now.
    pub fn set_mode(&self, mode: &str) {
        for (name, gauge) in MODES.iter().zip(&self.modes) {
            gauge.set(i64::from(*name == mode));
        }
    }
}

/// A rule as it is counted.
pub struct RuleMetrics {
    metrics: Arc<Metrics>,
    scope: Scope,
    pub allowed: IntCounter,
    pub refused: IntCounter,
    /// Refused because it is known when the rule will allow more.
    pub refused_locally: IntCounter,
    /// Let through because the store is gone.
    pub unchecked: IntCounter,
    /// Refused because the store is gone.
    pub unavailable: IntCounter,
}

impl RuleMetrics {
    fn new(metrics: &Arc<Metrics>, scope: Scope) -> Self {
        let result = |result| {
            let labels = [scope.part(0), result];
            scope.series(&metrics.table.limit_decisions_total, &labels)
        };
        Self {
            allowed: result("allowed"),
            refused: result("refused"),
            refused_locally: result("refused_locally"),
            unchecked: result("unchecked"),
            unavailable: result("unavailable"),
            metrics: Arc::clone(metrics),
            scope,
        }
    }
}

impl Drop for RuleMetrics {
    fn drop(&mut self) {
        self.metrics.rules.forget(&self.scope);
    }
}

impl Metrics {
    /// The handles of a rule of `limits`.
    pub fn rule(self: &Arc<Self>, name: &str) -> Arc<RuleMetrics> {
        self.rules
            .get_or_make(&[name], |scope| RuleMetrics::new(self, scope))
    }

    /// The handles of the store.
    pub fn store(&self) -> Arc<StoreMetrics> {
        let unlabelled: &[&str] = &[];
        let table = &self.table;
        let calls = |result| table.store_calls_total.with_label_values(&[result]);
        Arc::new(StoreMetrics {
            up: table.store_up.with_label_values(unlabelled),
            known: AtomicI8::new(-1),
            duration: table.store_duration_seconds.with_label_values(unlabelled),
            ok: calls("ok"),
            failed: calls("failed"),
            timed_out: calls("timed_out"),
            not_tried: calls("not_tried"),
        })
    }

    /// The handles of all limits together.
    pub fn limits(&self) -> Arc<LimitMetrics> {
        let unlabelled: &[&str] = &[];
        let table = &self.table;
        Arc::new(LimitMetrics {
            modes: MODES.map(|mode| table.limit_mode.with_label_values(&[mode])),
            uncounted: table.limit_uncounted_total.with_label_values(unlabelled),
            leases_left: table.limit_leases_left_total.with_label_values(unlabelled),
            corrections_lost: table
                .limit_corrections_lost_total
                .with_label_values(unlabelled),
        })
    }
}
