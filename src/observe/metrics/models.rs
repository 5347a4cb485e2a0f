//! How calls of models are counted: for each model of the configuration at each of its providers.

use super::Metrics;
use super::scope::Scope;
use crate::base::ending::Ending;
use crate::base::usage::Usage;
use prometheus::{Histogram, IntCounter};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Classes of [`Usage`].
const CLASSES: usize = 12;

/// What is counted when a call has ended.
#[derive(Debug, Clone, Copy)]
pub struct CallEnded {
    /// `chat`, `embeddings`.
    pub operation: &'static str,
    pub ending: Ending,
    pub duration: Duration,
    pub first_token: Option<Duration>,
    /// For places and keys.
    pub queued: Duration,
    pub usage: Usage,
    /// Events of the provider that could not be read.
    pub unreadable: u32,
    /// Whether another target was tried before.
    pub fallback: bool,
}

/// A model at one provider as it is counted.
pub struct ModelMetrics {
    metrics: Arc<Metrics>,
    scope: Scope,
    series: OnceLock<Box<Series>>,
}

struct Series {
    tokens: [OnceLock<IntCounter>; CLASSES],
    answered: IntCounter,
    input: Histogram,
    output: Histogram,
    first_token: Histogram,
    duration: Histogram,
    queued: Histogram,
    unreadable: IntCounter,
    fallbacks: IntCounter,
    completed: OnceLock<IntCounter>,
}

impl ModelMetrics {
    /// An attempt was answered; `failed` says how it was not.
    pub fn attempted(&self, failed: Option<&'static str>) {
        let Some(failed) = failed else {
            return self.series().answered.inc();
        };
        let family = &self.metrics.table.ai_attempts_total;
        let labels = [self.model(), self.provider(), failed];
        self.scope.series(family, &labels).inc();
    }

    /// A call has ended at this provider.
    pub fn ended(&self, call: &CallEnded) {
        let series = self.series();
        let labels = [
            self.model(),
            self.provider(),
            call.operation,
            call.ending.name(),
        ];
        let family = &self.metrics.table.ai_calls_total;
        if call.ending == Ending::Completed && call.operation == "chat" {
            series
                .completed
                .get_or_init(|| self.scope.series(family, &labels))
                .inc();
        } else {
            self.scope.series(family, &labels).inc();
        }
        series.duration.observe(call.duration.as_secs_f64());
        series.queued.observe(call.queued.as_secs_f64());
        if let Some(first_token) = call.first_token {
            series.first_token.observe(first_token.as_secs_f64());
        }
        self.count_tokens(series, &call.usage);
        series.unreadable.inc_by(u64::from(call.unreadable));
        if call.fallback {
            series.fallbacks.inc();
        }
    }

    fn count_tokens(&self, series: &Series, usage: &Usage) {
        if *usage == Usage::default() {
            return;
        }
        for ((class, units), counter) in usage.classes().into_iter().zip(&series.tokens) {
            if units > 0 {
                counter
                    .get_or_init(|| {
                        let family = &self.metrics.table.ai_tokens_total;
                        let labels = [self.model(), self.provider(), class];
                        self.scope.series(family, &labels)
                    })
                    .inc_by(units);
            }
        }
        series.input.observe(tokens(usage.total_input()));
        series.output.observe(tokens(usage.total_output()));
    }

    fn model(&self) -> &str {
        self.scope.part(0)
    }

    fn provider(&self) -> &str {
        self.scope.part(1)
    }

    fn series(&self) -> &Series {
        self.series.get_or_init(|| Box::new(self.resolve()))
    }

    fn resolve(&self) -> Series {
        let table = &self.metrics.table;
        let labels = [self.model(), self.provider()];
        let usage = |of| {
            let labels = [labels[0], labels[1], of];
            self.scope.series(&table.gen_ai_client_token_usage, &labels)
        };
        let attempts = [labels[0], labels[1], "answered"];
        Series {
            tokens: [const { OnceLock::new() }; CLASSES],
            answered: self.scope.series(&table.ai_attempts_total, &attempts),
            input: usage("input"),
            output: usage("output"),
            first_token: self.scope.series(
                &table.gen_ai_client_operation_time_to_first_chunk_seconds,
                &labels,
            ),
            duration: self
                .scope
                .series(&table.gen_ai_client_operation_duration_seconds, &labels),
            queued: self.scope.series(&table.ai_queue_seconds, &labels),
            unreadable: self
                .scope
                .series(&table.ai_unreadable_events_total, &labels),
            fallbacks: self.scope.series(&table.ai_fallbacks_total, &labels),
            completed: OnceLock::new(),
        }
    }
}

/// Of a call, far below where `f64` loses count.
fn tokens(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

impl Drop for ModelMetrics {
    fn drop(&mut self) {
        self.metrics.models.forget(&self.scope);
    }
}

impl Metrics {
    /// Handles of a model at a provider, both by their names in the configuration.
    pub fn model(self: &Arc<Self>, model: &str, provider: &str) -> Arc<ModelMetrics> {
        self.models
            .get_or_make(&[model, provider], |scope| ModelMetrics {
                metrics: Arc::clone(self),
                scope,
                series: OnceLock::new(),
            })
    }

    /// A token for a provider was asked for.
    pub fn token_fetched(&self, provider: &str, got: bool) {
        let outcome = if got { "ok" } else { "failed" };
        let family = &self.table.ai_token_fetches_total;
        family.with_label_values(&[provider, outcome]).inc();
    }

    /// Targets and whether each is left alone now; providers, how many keys of each are, and how many calls wait
    /// for one.
    pub fn models_now<'a>(
        &self,
        targets: impl Iterator<Item = (&'a str, bool)>,
        providers: impl Iterator<Item = (&'a str, usize, usize)>,
    ) {
        let (open, resting) = (&self.table.ai_breaker_open, &self.table.ai_keys_resting);
        let waiting = &self.table.ai_keys_waiting;
        // What is no longer configured goes.
        open.reset();
        resting.reset();
        waiting.reset();
        for (target, is_open) in targets {
            open.with_label_values(&[target]).set(i64::from(is_open));
        }
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        for (provider, keys, calls) in providers {
            resting.with_label_values(&[provider]).set(number(keys));
            waiting.with_label_values(&[provider]).set(number(calls));
        }
    }
}
