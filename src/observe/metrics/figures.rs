//! The figures of this moment, summed over their series: what those who show them live ask for each second.
//!
//! All are counted from the start of the process; whoever shows them takes differences.

mod spread;

pub use spread::Spread;

use super::{Metrics, process};
use crate::base::ending::{Ending, Fault};
use prometheus::core::Collector;
use prometheus::proto::Metric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

/// Of the whole gateway, and of its parts by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Since the process began, by a clock that is never set.
    pub uptime_s: f64,
    pub traffic: Traffic,
    pub process: Process,
    /// By route; `none` for requests that no route matches.
    pub routes: BTreeMap<String, RouteFigures>,
    /// By model and provider.
    pub models: BTreeMap<(String, String), ModelFigures>,
    pub rules: BTreeMap<String, RuleFigures>,
}

/// What callers send and get.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    pub requests: f64,
    /// Answers of 500 and above, and those that broke off in the middle.
    pub errors: f64,
    /// Refused by the shield.
    pub shed: f64,
    pub in_flight: f64,
    pub connections: f64,
    pub websockets: f64,
    /// Of bodies.
    pub bytes_in: f64,
    pub bytes_out: f64,
    /// Seconds.
    pub duration: Spread,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteFigures {
    pub requests: f64,
    /// As in [`Traffic`].
    pub errors: f64,
    pub websockets: f64,
    /// Seconds.
    pub duration: Spread,
}

/// A model at one of its providers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelFigures {
    pub calls: f64,
    /// By a fault of the provider or of the gateway.
    pub failed: f64,
    pub fallbacks: f64,
    pub tokens_in: f64,
    pub tokens_out: f64,
    /// Seconds.
    pub first_token: Spread,
}

/// A rule of `limits`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleFigures {
    /// Let through uncounted included.
    pub allowed: f64,
    pub refused: f64,
}

/// None where there is no `/proc`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    pub cpu_seconds: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub threads: Option<f64>,
    pub open_files: Option<f64>,
}

impl Metrics {
    pub fn figures(&self, now: Instant) -> Figures {
        let mut figures = Figures {
            uptime_s: now.saturating_duration_since(self.born).as_secs_f64(),
            process: process::figures(),
            ..Figures::default()
        };
        self.sum_routes(&mut figures);
        self.sum_callers(&mut figures.traffic);
        self.sum_models(&mut figures.models);
        each(&self.table.limit_decisions_total, |label, metric| {
            let rule = figures.rules.entry(label("rule")).or_default();
            match label("result").as_str() {
                "allowed" | "unchecked" => rule.allowed += counter(metric),
                _ => rule.refused += counter(metric),
            }
        });
        figures
    }

    fn sum_routes(&self, figures: &mut Figures) {
        let Figures {
            routes, traffic, ..
        } = figures;
        each(&self.table.http_requests_total, |label, metric| {
            let route = routes.entry(label("route")).or_default();
            route.requests += counter(metric);
            if label("code").starts_with('5') {
                route.errors += counter(metric);
            }
        });
        each(&self.table.requests_ended_total, |label, metric| {
            if label("ending") == Ending::UpstreamCut.name() {
                routes.entry(label("route")).or_default().errors += counter(metric);
            }
        });
        each(
            &self.table.http_request_duration_seconds,
            |label, metric| {
                let route = routes.entry(label("route")).or_default();
                route.duration.add(metric.get_histogram());
            },
        );
        each(&self.table.websocket_connections, |label, metric| {
            let route = routes.entry(label("route")).or_default();
            route.websockets += gauge(metric);
        });
        for route in routes.values() {
            traffic.requests += route.requests;
            traffic.errors += route.errors;
            traffic.websockets += route.websockets;
            traffic.duration.merge(&route.duration);
        }
    }

    fn sum_callers(&self, traffic: &mut Traffic) {
        let table = &self.table;
        traffic.in_flight = sum(&table.http_requests_in_flight, gauge);
        traffic.connections = sum(&table.connections, gauge);
        traffic.shed = sum(&table.http_requests_shed_total, counter);
        traffic.bytes_in = sum(&table.http_request_bytes_total, counter);
        traffic.bytes_out = sum(&table.http_response_bytes_total, counter);
    }

    fn sum_models(&self, models: &mut BTreeMap<(String, String), ModelFigures>) {
        let table = &self.table;
        each(&table.ai_calls_total, |label, metric| {
            let model = models.entry((label("model"), label("provider")));
            let model = model.or_default();
            model.calls += counter(metric);
            if is_fault(&label("ending")) {
                model.failed += counter(metric);
            }
        });
        each(&table.ai_fallbacks_total, |label, metric| {
            let model = models.entry((label("model"), label("provider")));
            model.or_default().fallbacks += counter(metric);
        });
        each(&table.gen_ai_client_token_usage, |label, metric| {
            let model = models.entry((label("model"), label("provider")));
            let (model, tokens) = (model.or_default(), metric.get_histogram().get_sample_sum());
            match label("type").as_str() {
                "input" => model.tokens_in += tokens,
                _ => model.tokens_out += tokens,
            }
        });
        let first = &table.gen_ai_client_operation_time_to_first_chunk_seconds;
        each(first, |label, metric| {
            let model = models.entry((label("model"), label("provider")));
            model.or_default().first_token.add(metric.get_histogram());
        });
    }
}

/// Whether an ending is the fault of a provider or of the gateway.
fn is_fault(ending: &str) -> bool {
    let known = Ending::ALL.iter().find(|known| known.name() == ending);
    known.is_some_and(|known| matches!(known.fault(), Fault::Upstream | Fault::Gateway))
}

fn each(family: &impl Collector, mut see: impl FnMut(&dyn Fn(&str) -> String, &Metric)) {
    for family in family.collect() {
        for metric in family.get_metric() {
            let label = |name: &str| {
                let mut labels = metric.get_label().iter();
                let label = labels.find(|label| label.name() == name);
                label.map_or_else(String::new, |label| label.value().to_owned())
            };
            see(&label, metric);
        }
    }
}

fn sum(family: &impl Collector, value: fn(&Metric) -> f64) -> f64 {
    let mut sum = 0.0;
    each(family, |_, metric| sum += value(metric));
    sum
}

fn counter(metric: &Metric) -> f64 {
    metric.get_counter().get_value()
}

fn gauge(metric: &Metric) -> f64 {
    metric.get_gauge().get_value()
}

#[cfg(test)]
mod tests {
    use super::super::{CallEnded, Finished};
    use super::*;
    use crate::base::usage::Usage;
    use http::Method;
    use std::sync::Arc;
    use std::time::Duration;

    fn finish(metrics: &Arc<Metrics>, route: &str, status: u16, ending: Ending) {
        let listener = metrics.listener("http");
        metrics.route(route).finished(&Finished {
            listener: &listener,
            method: &Method::GET,
            status,
            ending,
            duration: Duration::from_millis(80),
            bytes_in: 10,
            bytes_out: 1000,
        });
    }

    #[test]
    fn routes_are_summed_and_what_broke_off_is_an_error() {
        let metrics = Metrics::new("1");
        // Kept, or their series would go.
        let _kept = (
            metrics.route("a"),
            metrics.route("b"),
            metrics.listener("http"),
        );
        for (route, status, ending) in [
            ("a", 200, Ending::Completed),
            ("a", 404, Ending::Completed),
            ("a", 503, Ending::NoHealthyEndpoint),
            ("b", 200, Ending::UpstreamCut),
        ] {
            finish(&metrics, route, status, ending);
        }
        let figures = metrics.figures(Instant::now() + Duration::from_mins(1));
        assert!(figures.uptime_s >= 60.0);
        let (a, b) = (&figures.routes["a"], &figures.routes["b"]);
        let counts = (a.requests, a.errors, a.duration.total, b.requests, b.errors);
        assert_eq!(counts, (3.0, 1.0, 3, 1.0, 1.0));
        let traffic = &figures.traffic;
        assert_eq!((traffic.requests, traffic.errors), (4.0, 2.0));
        assert_eq!((traffic.bytes_in, traffic.bytes_out), (40.0, 4000.0));
        let p50 = traffic.duration.quantile(0.5).unwrap();
        assert!(p50 > 0.075 && p50 <= 0.1, "{p50}");
        assert!(
            figures
                .process
                .memory_bytes
                .is_some_and(|bytes| bytes > 1e6)
        );
    }

    #[test]
    fn calls_fail_by_a_fault_of_the_provider_alone() {
        let metrics = Metrics::new("1");
        let model = metrics.model("smart", "openai");
        for ending in [
            Ending::Completed,
            Ending::ProviderFailed,
            Ending::ClientLeft,
        ] {
            model.ended(&CallEnded {
                operation: "chat",
                ending,
                duration: Duration::from_secs(2),
                queued: Duration::ZERO,
                first_token: Some(Duration::from_millis(300)),
                usage: Usage {
                    input: 10,
                    output: 20,
                    reasoning: 5,
                    ..Usage::default()
                },
                unreadable: 0,
                fallback: ending == Ending::Completed,
            });
        }
        let rule = metrics.rule("per_user");
        rule.allowed.inc_by(3);
        rule.refused.inc();
        rule.refused_locally.inc();
        let figures = metrics.figures(Instant::now());
        let model = &figures.models[&("smart".to_owned(), "openai".to_owned())];
        assert_eq!(
            (model.calls, model.failed, model.fallbacks),
            (3.0, 1.0, 1.0)
        );
        assert_eq!((model.tokens_in, model.tokens_out), (30.0, 75.0));
        assert_eq!(model.first_token.total, 3);
        let rule = &figures.rules["per_user"];
        assert_eq!((rule.allowed, rule.refused), (3.0, 2.0));
    }
}
