//! Every metric as one row of a table, and the handles through which the program moves them.
//!
//! Invariant: label values come from the configuration, from the code or from a bounded set, never
//! from a caller. A series lives as long as what it describes: see [`scope`].

mod figures;
mod handles;
mod identity;
mod limits;
mod models;
mod process;
mod scope;
mod traces;
mod unit;

pub use figures::{Figures, ModelFigures, Process, RouteFigures, RuleFigures, Spread, Traffic};
pub use handles::{Counted, EndpointMetrics, Finished, ListenerMetrics, PoolMetrics, RouteMetrics};
pub use identity::IdentityMetrics;
pub use limits::{LimitMetrics, RuleMetrics, StoreMetrics};
pub use models::{CallEnded, ModelMetrics};
pub use process::resident_bytes;
pub use traces::TraceMetrics;
pub use unit::Unit;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec};
use prometheus::{Opts, Registry, TextEncoder};
use scope::Living;
use std::sync::Arc;
use std::time::Instant;

/// The name under which requests are counted that no route matches.
pub const NO_ROUTE: &str = "none";

/// The content type of [`Metrics::render`]: Prometheus text format 0.0.4.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds in seconds: what OpenTelemetry advises for HTTP, and three more for streams.
const DURATION_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    120.0,
];

/// Bounds in seconds for calls of a store, which take microseconds and are given up after 50 ms.
const STORE_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
];

/// Bounds in tokens and in seconds, as OpenTelemetry's conventions for generative AI advise.
const TOKEN_BUCKETS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
const MODEL_BUCKETS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// One metric as the manual shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl Row {
    /// What its values count, as its name says.
    pub fn unit(&self) -> Unit {
        Unit::of(self.name)
    }
}

macro_rules! kind {
    (counter) => {
        IntCounterVec
    };
    (gauge) => {
        IntGaugeVec
    };
    (histogram) => {
        HistogramVec
    };
}

macro_rules! table {
    ($($(#[doc = $help:literal])+ $name:ident: $kind:ident[$($label:ident),*];)*) => {
        /// The families, one field for each row.
        struct Table { $($(#[doc = $help])+ $name: kind!($kind),)* }

        impl Metrics {
            const OURS: &[Row] = &[$(Row {
                name: public_name(concat!("onemind_", stringify!($name))),
                kind: stringify!($kind),
                labels: &[$(stringify!($label)),*],
                help: concat!($($help),+).trim_ascii(),
            }),*];
        }

        impl Table {
            fn register(registry: &Registry) -> Self {
                let mut rows = Metrics::OURS.iter();
                Self { $($name: family(registry, rows.next()),)* }
            }
        }
    };
}

table! {
    /// Requests finished. A request that no route matches has the route `none`.
    http_requests_total: counter[listener, route, method, code];
    /// Seconds from the request head to the end of the answer; WebSockets are not observed.
    http_request_duration_seconds: histogram[route];
    /// Requests that have begun and not finished, open WebSockets included.
    http_requests_in_flight: gauge[listener];
    /// Requests refused by the shield, by the setting that stood in their way.
    http_requests_shed_total: counter[listener, reason];
    /// Bytes of request bodies taken from callers.
    http_request_bytes_total: counter[route];
    /// Bytes of response bodies sent to callers.
    http_response_bytes_total: counter[route];
    /// Requests by how they ended. `unknown` and `internal` are bugs of the gateway.
    requests_ended_total: counter[route, ending];

    /// Attempts by the status the endpoint answered with, `none` when it did not answer.
    upstream_requests_total: counter[pool, endpoint, code];
    /// Seconds of an attempt: to connect, to the first byte of the answer, to its end.
    upstream_duration_seconds: histogram[pool, phase];
    /// Whether the endpoint is in rotation: 1 yes, 0 no.
    endpoint_up: gauge[pool, endpoint];
    /// Requests that the endpoint is working on for us.
    endpoint_in_flight: gauge[pool, endpoint];
    /// Times that failing requests made the gateway leave the endpoint alone.
    endpoint_ejections_total: counter[pool, endpoint, reason];
    /// Active health checks.
    health_checks_total: counter[pool, endpoint, result];
    /// Second and later attempts, by what came of them.
    retries_total: counter[pool, outcome];
    /// Retries not made because too many were being made.
    retry_budget_exhausted_total: counter[pool];
    /// Requests waiting for a free place at an endpoint.
    queue_waiting: gauge[pool];
    /// Requests that got no place at an endpoint.
    queue_rejections_total: counter[pool, reason];
    /// Lookups of endpoint names.
    dns_lookups_total: counter[pool, name, result];
    /// Whether the last lookup of the name failed: 1 yes, 0 no.
    dns_failing: gauge[pool, name];

    /// When the certificate expires, in seconds since 1970.
    tls_cert_not_after_seconds: gauge[certificate];
    /// TLS handshakes with callers.
    tls_handshakes_total: counter[listener, result];
    /// Connections that are open.
    connections: gauge[listener];
    /// Connections accepted.
    connections_accepted_total: counter[listener];
    /// Connections closed before their first request was read.
    connections_rejected_total: counter[listener, reason];
    /// WebSockets that are open.
    websocket_connections: gauge[route];
    /// WebSockets refused.
    websocket_rejections_total: counter[route, reason];

    /// Calls of models that have ended, at the provider that answered or was tried last.
    ai_calls_total: counter[model, provider, operation, ending];
    /// Attempts at providers by what came of them: `answered`, or how they failed.
    ai_attempts_total: counter[model, provider, outcome];
    /// Calls that were answered, or failed last, at this provider after another one was tried.
    ai_fallbacks_total: counter[model, provider];
    /// Tokens that calls used, by class; no token is in two. `audio_ms` and `searches` are no tokens.
    ai_tokens_total: counter[model, provider, class];
    /// Events of providers that could not be read and were left out.
    ai_unreadable_events_total: counter[model, provider];
    /// Whether a model of a provider is left alone because it fails: 1 yes, 0 no.
    ai_breaker_open: gauge[target];
    /// Keys of the provider that are left alone because it refuses them.
    ai_keys_resting: gauge[provider];
    /// Calls that wait until one of the provider's keys may be used.
    ai_keys_waiting: gauge[provider];
    /// Seconds that a call waited for places and keys; 0 for most.
    ai_queue_seconds: histogram[model, provider];
    /// Tokens of service accounts that were asked for, to be shown to the provider.
    ai_token_fetches_total: counter[provider, result];
    /// Tokens of a call, `input` and `output`; the name is OpenTelemetry's.
    gen_ai_client_token_usage: histogram[model, provider, type];
    /// Seconds of a call; the name is OpenTelemetry's.
    gen_ai_client_operation_duration_seconds: histogram[model, provider];
    /// Seconds to the first content of an answer; the name is OpenTelemetry's.
    gen_ai_client_operation_time_to_first_chunk_seconds: histogram[model, provider];

    /// Callers identified, by method.
    identity_known_total: counter[method];
    /// Callers refused for what they have shown, by method; `none` where no single method has refused.
    identity_refusals_total: counter[method, reason];
    /// Fetches of the keys of issuers.
    jwks_fetches_total: counter[method, result];
    /// Seconds since the keys of an issuer were last fetched.
    jwks_age_seconds: gauge[method];
    /// Requests by rule of `limits` and what it said: `allowed`, `refused`, `refused_locally` (known to
    /// be over its limit, so nobody was asked), `unchecked` (let through because the store is gone),
    /// `unavailable` (refused because it is).
    limit_decisions_total: counter[rule, result];
    /// Always 1: where limits are counted now. `memory`, `redis`, or `local` while Redis is gone.
    limit_mode: gauge[mode];
    /// Charges let through uncounted because there were too many callers to be kept in memory.
    limit_uncounted_total: counter[];
    /// Places in flight that could not be given back at once; they expire by themselves.
    limit_leases_left_total: counter[];
    /// Corrections of what was counted that could not be told to the store: what a request was thought to
    /// cost stands, or what was given back is missed until its period has passed.
    limit_corrections_lost_total: counter[];
    /// Whether the store answers: 1 yes, 0 no.
    store_up: gauge[];
    /// Calls of the store. `not_tried` are those made while it is known to be gone.
    store_calls_total: counter[result];
    /// Seconds of a call of the store.
    store_duration_seconds: histogram[];

    /// Reloads of the configuration.
    config_reloads_total: counter[result];
    /// Whether the last reload succeeded: 1 yes, 0 no and the configuration before it serves on.
    config_last_reload_successful: gauge[];
    /// When the configuration in force was read, in seconds since 1970.
    config_last_reload_timestamp_seconds: gauge[];
    /// Number of the configuration in force: 1 since the start, one more with each reload that succeeded.
    config_revision: gauge[];
    /// Upgrades to another program; those that went well are counted over all processes that followed each other.
    upgrades_total: counter[result];
    /// Older processes that have handed over and still drain.
    upgrade_draining: gauge[];
    /// Lines of the access log; those dropped found the buffer full or could not be written.
    access_log_lines_total: counter[result];
    /// Requests by what became of their spans: `sampled` when they began, kept for an `error` or because they were `slow`, or `left_out`.
    traces_total: counter[result];
    /// Spans by what became of them: `exported`, `dropped` (the queue was full), `failed` (the collector could not be
    /// reached, or took none), `rejected` (it took the batch without them).
    trace_spans_total: counter[result];
    /// Lines of the libraries below the gateway that were held back because there were too many.
    log_lines_suppressed_total: counter[];
    /// Threads that carry requests: more seconds of processor time than these they cannot use in a second.
    workers: gauge[];
    /// Lines of the process's own log that are lost because nobody took them from standard error.
    log_lines_dropped_total: counter[];
    /// Always 1: says which version runs.
    build_info: gauge[version];
}

/// All metrics of one process. A value: created once, passed as `Arc`.
pub struct Metrics {
    registry: Registry,
    table: Table,
    routes: Living<RouteMetrics>,
    pools: Living<PoolMetrics>,
    endpoints: Living<EndpointMetrics>,
    listeners: Living<ListenerMetrics>,
    identities: Living<IdentityMetrics>,
    rules: Living<RuleMetrics>,
    models: Living<ModelMetrics>,
    slots: handles::Slots,
    born: Instant,
    /// Lines of the access log that reached its file.
    pub access_log_written: IntCounter,
    /// Lines of the access log that are lost.
    pub access_log_dropped: IntCounter,
    /// Log lines of libraries held back.
    pub log_lines_suppressed: IntCounter,
    /// Log lines that nobody took.
    pub log_lines_dropped: IntCounter,
}

impl Metrics {
    /// Every family that can be shown: the table, and the process's own figures.
    pub const ROWS: &[Row] = &{
        let mut all = [Self::OURS[0]; Self::OURS.len() + process::ROWS.len()];
        let mut at = 1;
        while at < all.len() {
            all[at] = if at < Self::OURS.len() {
                Self::OURS[at]
            } else {
                process::ROWS[at - Self::OURS.len()]
            };
            at += 1;
        }
        all
    };

    /// Registers the table. `version` becomes a label of `onemind_build_info`.
    pub fn new(version: &str) -> Arc<Self> {
        let registry = Registry::new();
        let table = Table::register(&registry);
        table.build_info.with_label_values(&[version]).set(1);
        // Known outcomes start at zero: a rate needs a value before the first event.
        for result in ["ok", "failed"] {
            table.config_reloads_total.with_label_values(&[result]);
            table.upgrades_total.with_label_values(&[result]);
        }
        let unlabelled: &[&str] = &[];
        table
            .config_last_reload_successful
            .with_label_values(unlabelled)
            .set(1);
        table.upgrade_draining.with_label_values(unlabelled).set(0);
        Arc::new(Self {
            access_log_written: table.access_log_lines_total.with_label_values(&["written"]),
            access_log_dropped: table.access_log_lines_total.with_label_values(&["dropped"]),
            log_lines_suppressed: table
                .log_lines_suppressed_total
                .with_label_values(unlabelled),
            log_lines_dropped: table.log_lines_dropped_total.with_label_values(unlabelled),
            registry,
            table,
            routes: Living::default(),
            pools: Living::default(),
            endpoints: Living::default(),
            listeners: Living::default(),
            identities: Living::default(),
            rules: Living::default(),
            models: Living::default(),
            slots: handles::Slots::default(),
            born: Instant::now(),
        })
    }

    /// The exposition in Prometheus text format 0.0.4, with the process's own figures at its end.
    pub fn render(&self) -> String {
        let mut text = TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_else(|error| format!("# cannot encode: {error}\n"));
        process::write(&mut text);
        text
    }

    /// A reload took place at `at_unix_seconds`, or was refused.
    pub fn reloaded(&self, succeeded: bool, at_unix_seconds: u64) {
        let unlabelled: &[&str] = &[];
        let result = if succeeded { "ok" } else { "failed" };
        let reloads = &self.table.config_reloads_total;
        reloads.with_label_values(&[result]).inc();
        let successful = &self.table.config_last_reload_successful;
        let successful = successful.with_label_values(unlabelled);
        successful.set(i64::from(succeeded));
        if succeeded {
            self.read_at(at_unix_seconds);
        }
    }

    /// The first configuration was read at `at_unix_seconds`, to be served by so many threads.
    pub fn started(&self, at_unix_seconds: u64, workers: usize) {
        self.read_at(at_unix_seconds);
        let unlabelled: &[&str] = &[];
        let gauge = self.table.workers.with_label_values(unlabelled);
        gauge.set(i64::try_from(workers).unwrap_or(i64::MAX));
    }

    /// This configuration is in force.
    pub fn revision_is(&self, revision: u64) {
        let unlabelled: &[&str] = &[];
        let gauge = self.table.config_revision.with_label_values(unlabelled);
        gauge.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    fn read_at(&self, unix_seconds: u64) {
        let unlabelled: &[&str] = &[];
        let timestamp = &self.table.config_last_reload_timestamp_seconds;
        let timestamp = timestamp.with_label_values(unlabelled);
        timestamp.set(i64::try_from(unix_seconds).unwrap_or(i64::MAX));
    }

    /// So many upgrades went well, or one failed.
    pub fn upgraded(&self, succeeded: bool, times: u64) {
        let result = if succeeded { "ok" } else { "failed" };
        let upgrades = &self.table.upgrades_total;
        upgrades.with_label_values(&[result]).inc_by(times);
    }

    /// So many older processes still drain.
    pub fn older_processes(&self, draining: usize) {
        let unlabelled: &[&str] = &[];
        let gauge = self.table.upgrade_draining.with_label_values(unlabelled);
        gauge.set(i64::try_from(draining).unwrap_or(i64::MAX));
    }

    /// A certificate is in use until `not_after`, in seconds since 1970.
    pub fn certificate(&self, name: &str, not_after: i64) {
        let family = &self.table.tls_cert_not_after_seconds;
        family.with_label_values(&[name]).set(not_after);
    }

    /// A certificate is no longer in use.
    pub fn forget_certificate(&self, name: &str) {
        let family = &self.table.tls_cert_not_after_seconds;
        // An error only says that it was not there.
        let _ = family.remove_label_values(&[name]);
    }
}

/// Names of OpenTelemetry's conventions stay as they are.
const fn public_name(name: &'static str) -> &'static str {
    const OURS: &[u8] = b"onemind_";
    let (bytes, foreign) = (name.as_bytes(), b"gen_ai_");
    let mut at = 0;
    while at < foreign.len() {
        if OURS.len() + at >= bytes.len() || bytes[OURS.len() + at] != foreign[at] {
            return name;
        }
        at += 1;
    }
    name.split_at(OURS.len()).1
}

/// How a family is made from its row.
trait Family: prometheus::core::Collector + Clone + Sized + 'static {
    fn make(row: &Row) -> prometheus::Result<Self>;
}

impl Family for IntCounterVec {
    fn make(row: &Row) -> prometheus::Result<Self> {
        Self::new(Opts::new(row.name, row.help), row.labels)
    }
}

impl Family for IntGaugeVec {
    fn make(row: &Row) -> prometheus::Result<Self> {
        Self::new(Opts::new(row.name, row.help), row.labels)
    }
}

impl Family for HistogramVec {
    fn make(row: &Row) -> prometheus::Result<Self> {
        let buckets = match row.name {
            "onemind_store_duration_seconds" => STORE_BUCKETS,
            "gen_ai_client_token_usage" => TOKEN_BUCKETS,
            "onemind_ai_queue_seconds" => MODEL_BUCKETS,
            name if name.starts_with("gen_ai_") => MODEL_BUCKETS,
            _ => DURATION_BUCKETS,
        };
        Self::new(
            HistogramOpts::new(row.name, row.help).buckets(buckets.to_vec()),
            row.labels,
        )
    }
}

fn family<F: Family>(registry: &Registry, row: Option<&Row>) -> F {
    let row = row.expect("the same macro makes one row for each field");
    let family = F::make(row).expect("names and labels of the table are valid");
    registry
        .register(Box::new(family.clone()))
        .expect("two fields of a struct cannot share a name");
    family
}

#[cfg(test)]
mod tests;
