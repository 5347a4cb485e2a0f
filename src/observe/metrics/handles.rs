//! Handles with their series resolved: on the request path no label is looked up.
//!
//! What depends on the answer (method, status, ending) is resolved when it is first seen: a route
//! that is never asked for costs a name, and adds nothing to the exposition.

use super::Metrics;
use super::scope::Scope;
use crate::base::ending::Ending;
use http::Method;
use prometheus::{Histogram, IntCounter, IntGauge};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Listeners told apart in `onemind_http_requests_total`; those beyond share the name `other`.
const LISTENERS_MAX: usize = 64;

/// Known methods (RFC 9110 9, RFC 5789), and one name for all others: callers invent methods.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "other",
];

/// Adds one as long as it lives.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    fn one(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is counted when a request has ended.
pub struct Finished<'a> {
    pub listener: &'a ListenerMetrics,
    pub method: &'a Method,
    /// As sent to the caller, or 499 when it left before.
    pub status: u16,
    pub ending: Ending,
    pub duration: Duration,
    /// Body bytes from the caller.
    pub bytes_in: u64,
    /// Body bytes to the caller.
    pub bytes_out: u64,
}

/// A route as it is counted.
pub struct RouteMetrics {
    metrics: Arc<Metrics>,
    scope: Scope,
    series: OnceLock<Box<RouteSeries>>,
}

struct RouteSeries {
    duration: Histogram,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    endings: [OnceLock<IntCounter>; Ending::ALL.len()],
    requests: [OnceLock<Box<[Codes; METHODS.len()]>>; LISTENERS_MAX + 1],
}

impl RouteMetrics {
    /// Counts one request, once it has ended.
    pub fn finished(&self, request: &Finished<'_>) {
        let series = self.series.get_or_init(|| Box::new(self.resolve()));
        self.requests(series, request).inc();
        series.endings[request.ending as usize]
            .get_or_init(|| {
                let labels = [self.name(), request.ending.name()];
                let family = &self.metrics.table.requests_ended_total;
                self.scope.series(family, &labels)
            })
            .inc();
        series.request_bytes.inc_by(request.bytes_in);
        series.response_bytes.inc_by(request.bytes_out);
        // How long a WebSocket was open says nothing about how fast the route is.
        if request.status != 101 {
            series.duration.observe(request.duration.as_secs_f64());
        }
    }

    /// A WebSocket was opened; it counts as open until the value is dropped.
    pub fn websocket_opened(&self) -> Counted {
        let family = &self.metrics.table.websocket_connections;
        Counted::one(&self.scope.series(family, &[self.name()]))
    }

    /// A WebSocket was refused.
    pub fn websocket_rejected(&self, reason: &'static str) {
        let family = &self.metrics.table.websocket_rejections_total;
        self.scope.series(family, &[self.name(), reason]).inc();
    }

    fn name(&self) -> &str {
        self.scope.part(0)
    }

    fn resolve(&self) -> RouteSeries {
        let table = &self.metrics.table;
        let labels = [self.name()];
        RouteSeries {
            duration: self
                .scope
                .series(&table.http_request_duration_seconds, &labels),
            request_bytes: self.scope.series(&table.http_request_bytes_total, &labels),
            response_bytes: self.scope.series(&table.http_response_bytes_total, &labels),
            endings: [const { OnceLock::new() }; Ending::ALL.len()],
            requests: [const { OnceLock::new() }; LISTENERS_MAX + 1],
        }
    }

    fn requests<'s>(&self, series: &'s RouteSeries, request: &Finished<'_>) -> &'s IntCounter {
        let Finished {
            listener, method, ..
        } = request;
        let method = method_index(method);
        series.requests[listener.slot]
            .get_or_init(|| Box::new([const { Codes::new() }; METHODS.len()]))[method]
            .get(request.status, |code| {
                let labels = [listener.label(), self.name(), METHODS[method], code];
                let family = &self.metrics.table.http_requests_total;
                self.scope.series(family, &labels)
            })
    }
}

impl Drop for RouteMetrics {
    fn drop(&mut self) {
        self.metrics.routes.forget(&self.scope);
    }
}

/// A pool as it is counted.
pub struct PoolMetrics {
    metrics: Arc<Metrics>,
    scope: Scope,
    /// Seconds to connect, TLS included; not observed for a connection used again.
    pub connect: Histogram,
    /// Seconds from the request sent to the first byte of the answer.
    pub first_byte: Histogram,
    /// Seconds of the whole attempt.
    pub total: Histogram,
    pub queue_waiting: IntGauge,
    pub retry_budget_exhausted: IntCounter,
}

impl PoolMetrics {
    fn new(metrics: &Arc<Metrics>, scope: Scope) -> Self {
        let table = &metrics.table;
        let phase = |phase| {
            let labels = [scope.part(0), phase];
            scope.series(&table.upstream_duration_seconds, &labels)
        };
        let pool = [scope.part(0)];
        Self {
            connect: phase("connect"),
            first_byte: phase("first_byte"),
            total: phase("total"),
            queue_waiting: scope.series(&table.queue_waiting, &pool),
            retry_budget_exhausted: scope.series(&table.retry_budget_exhausted_total, &pool),
            metrics: Arc::clone(metrics),
            scope,
        }
    }

    pub fn name(&self) -> &str {
        self.scope.part(0)
    }

    /// What came of a second or later attempt.
    pub fn retried(&self, outcome: &'static str) {
        let family = &self.metrics.table.retries_total;
        self.scope.series(family, &[self.name(), outcome]).inc();
    }

    /// A request got no place at an endpoint.
    pub fn queue_rejected(&self, reason: &'static str) {
        let family = &self.metrics.table.queue_rejections_total;
        self.scope.series(family, &[self.name(), reason]).inc();
    }

    /// A request waits for a place until the value is dropped.
    pub fn waiting(&self) -> Counted {
        Counted::one(&self.queue_waiting)
    }

    /// A name was looked up. Returns whether that differs from the time before.
    pub fn looked_up(&self, name: &str, succeeded: bool) -> bool {
        let table = &self.metrics.table;
        let result = if succeeded { "ok" } else { "failed" };
        let lookups = &table.dns_lookups_total;
        let labels = [self.name(), name, result];
        self.scope.series(lookups, &labels).inc();
        let failing = self.scope.series(&table.dns_failing, &[self.name(), name]);
        let before = failing.get();
        failing.set(i64::from(!succeeded));
        before != failing.get()
    }
}

impl Drop for PoolMetrics {
    fn drop(&mut self) {
        self.metrics.pools.forget(&self.scope);
    }
}

/// An endpoint as it is counted.
pub struct EndpointMetrics {
    metrics: Arc<Metrics>,
    scope: Scope,
    codes: Codes,
    /// 1 in rotation, 0 not.
    pub up: IntGauge,
    /// Requests it is working on.
    pub in_flight: IntGauge,
}

impl EndpointMetrics {
    fn new(metrics: &Arc<Metrics>, scope: Scope) -> Self {
        let labels = [scope.part(0), scope.part(1)];
        let up = scope.series(&metrics.table.endpoint_up, &labels);
        up.set(1);
        Self {
            in_flight: scope.series(&metrics.table.endpoint_in_flight, &labels),
            up,
            codes: Codes::new(),
            metrics: Arc::clone(metrics),
            scope,
        }
    }

    pub fn pool(&self) -> &str {
        self.scope.part(0)
    }

    pub fn name(&self) -> &str {
        self.scope.part(1)
    }

    /// An attempt ended: with the status of its answer, or without one.
    pub fn attempted(&self, status: Option<u16>) {
        self.codes
            .get(status.unwrap_or(NO_ANSWER), |code| {
                let labels = [self.pool(), self.name(), code];
                let family = &self.metrics.table.upstream_requests_total;
                self.scope.series(family, &labels)
            })
            .inc();
    }

    /// A health check ended.
    pub fn checked(&self, result: &'static str) {
        let family = &self.metrics.table.health_checks_total;
        let labels = [self.pool(), self.name(), result];
        self.scope.series(family, &labels).inc();
    }

    /// The endpoint is left alone for a while.
    pub fn ejected(&self, reason: &'static str) {
        let family = &self.metrics.table.endpoint_ejections_total;
        let labels = [self.pool(), self.name(), reason];
        self.scope.series(family, &labels).inc();
    }
}

impl Drop for EndpointMetrics {
    fn drop(&mut self) {
        self.metrics.endpoints.forget(&self.scope);
    }
}

/// A listener as it is counted.
pub struct ListenerMetrics {
    metrics: Arc<Metrics>,
    scope: Scope,
    slot: usize,
    in_flight: IntGauge,
    connections: IntGauge,
    accepted: IntCounter,
}

impl ListenerMetrics {
    fn new(metrics: &Arc<Metrics>, scope: Scope) -> Self {
        let table = &metrics.table;
        let labels = [scope.part(0)];
        Self {
            slot: metrics.slots.of(scope.part(0)),
            in_flight: scope.series(&table.http_requests_in_flight, &labels),
            connections: scope.series(&table.connections, &labels),
            accepted: scope.series(&table.connections_accepted_total, &labels),
            metrics: Arc::clone(metrics),
            scope,
        }
    }

    pub fn name(&self) -> &str {
        self.scope.part(0)
    }

    /// A request has begun; it is in flight until the value is dropped.
    pub fn request_began(&self) -> Counted {
        Counted::one(&self.in_flight)
    }

    /// A connection was accepted; it is open until the value is dropped.
    pub fn accepted(&self) -> Counted {
        self.accepted.inc();
        Counted::one(&self.connections)
    }

    /// A connection was closed for what it did, or did not do.
    pub fn rejected(&self, reason: &'static str) {
        let family = &self.metrics.table.connections_rejected_total;
        self.scope.series(family, &[self.name(), reason]).inc();
    }

    /// A request was refused before anything was done for it.
    pub fn shed(&self, reason: &'static str) {
        let family = &self.metrics.table.http_requests_shed_total;
        self.scope.series(family, &[self.name(), reason]).inc();
    }

    /// A TLS handshake ended.
    pub fn handshake(&self, result: &'static str) {
        let family = &self.metrics.table.tls_handshakes_total;
        self.scope.series(family, &[self.name(), result]).inc();
    }

    fn label(&self) -> &str {
        if self.slot == LISTENERS_MAX {
            "other"
        } else {
            self.name()
        }
    }
}

impl Drop for ListenerMetrics {
    fn drop(&mut self) {
        self.metrics.listeners.forget(&self.scope);
    }
}

impl Metrics {
    /// The handles of a route; the same ones for everybody who asks while somebody holds them.
    pub fn route(self: &Arc<Self>, name: &str) -> Arc<RouteMetrics> {
        self.routes.get_or_make(&[name], |scope| RouteMetrics {
            metrics: Arc::clone(self),
            scope,
            series: OnceLock::new(),
        })
    }

    /// The handles of a pool.
    pub fn pool(self: &Arc<Self>, name: &str) -> Arc<PoolMetrics> {
        self.pools
            .get_or_make(&[name], |scope| PoolMetrics::new(self, scope))
    }

    /// The handles of an endpoint. New ones start with `onemind_endpoint_up` at 1.
    pub fn endpoint(self: &Arc<Self>, pool: &str, name: &str) -> Arc<EndpointMetrics> {
        self.endpoints
            .get_or_make(&[pool, name], |scope| EndpointMetrics::new(self, scope))
    }

    /// The handles of a listener.
    pub fn listener(self: &Arc<Self>, name: &str) -> Arc<ListenerMetrics> {
        self.listeners
            .get_or_make(&[name], |scope| ListenerMetrics::new(self, scope))
    }
}

/// Small numbers for the names of listeners; a name keeps its number as long as the process lives.
#[derive(Default)]
pub struct Slots(Mutex<Vec<String>>);

impl Slots {
    fn of(&self, name: &str) -> usize {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = names.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            if names.len() < LISTENERS_MAX {
                names.push(name.to_owned());
                names.len() - 1
            } else {
                LISTENERS_MAX
            }
        })
    }
}

/// Stands for a status in [`Codes`] where there was no answer.
const NO_ANSWER: u16 = 0;

/// One counter for each status from 100 to 599, made when first used.
struct Codes([OnceLock<Box<[OnceLock<IntCounter>; 100]>>; 6]);

impl Codes {
    const fn new() -> Self {
        Self([const { OnceLock::new() }; 6])
    }

    fn get(&self, status: u16, resolve: impl FnOnce(&str) -> IntCounter) -> &IntCounter {
        let (class, rest) = match status {
            100..=599 => (usize::from(status / 100 - 1), usize::from(status % 100)),
            NO_ANSWER => (5, 0),
            _ => (5, 1),
        };
        self.0[class].get_or_init(|| Box::new([const { OnceLock::new() }; 100]))[rest].get_or_init(
            || match (class, rest) {
                (5, 0) => resolve("none"),
                (5, _) => resolve("other"),
                _ => resolve(&status.to_string()),
            },
        )
    }
}

fn method_index(method: &Method) -> usize {
    let known = METHODS[..METHODS.len() - 1].iter();
    known.take_while(|known| **known != method.as_str()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_callers_invent_share_one_name() {
        for (method, label) in [
            ("GET", "GET"),
            ("PATCH", "PATCH"),
            ("get", "other"),
            ("BREW", "other"),
        ] {
            let method = Method::from_bytes(method.as_bytes()).expect("a token");
            assert_eq!(METHODS[method_index(&method)], label, "{method}");
        }
    }

    #[test]
    fn every_status_has_its_own_counter_and_the_rest_share() {
        let counter = |_: &str| IntCounter::new("a", "b").expect("valid");
        let codes = Codes::new();
        let label_of = |status| {
            let mut label = String::from("resolved before");
            codes.get(status, |code| {
                code.clone_into(&mut label);
                counter(code)
            });
            label
        };
        for status in 100..=599 {
            assert_eq!(label_of(status), status.to_string());
        }
        assert_eq!(label_of(NO_ANSWER), "none");
        assert_eq!(label_of(99), "other");
        assert_eq!(label_of(600), "resolved before");
    }

    #[test]
    fn listeners_beyond_the_last_slot_share_it() {
        let slots = Slots::default();
        for at in 0..LISTENERS_MAX {
            assert_eq!(slots.of(&at.to_string()), at);
        }
        assert_eq!(slots.of("one more"), LISTENERS_MAX);
        assert_eq!(slots.of("3"), 3);
    }
}
