//! `tracing` of the document: where spans are sent, and those of which requests.

use crate::base::secret::Secret;
use crate::base::units::{Bytes, Period};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Where OTLP is taken below an address that names no path (OpenTelemetry protocol, "OTLP/HTTP request").
const PATH: &str = "/v1/traces";

/// What is sent of ordinary requests unless the document says otherwise: one of a hundred.
const SAMPLE: f64 = 0.01;

/// Spans of requests, sent to an OpenTelemetry collector by OTLP/HTTP in JSON.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The collector, such as `http://collector:4318` or `https://otlp.example.com`. Without a path
    /// `/v1/traces` is added; a path is taken as it is.
    pub endpoint: String,
    /// Headers for the collector, such as `authorization: Bearer ${OTLP_TOKEN}`.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// PEM file of the authorities to trust with `https://`. Absent: those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// What the gateway is called in traces (`service.name`). Default `onemind-gateway`.
    #[serde(default = "service")]
    pub service: String,
    /// Share of requests whose spans are sent whatever comes of them, from 0 to 1; decided by the trace id, alike in
    /// all instances, and told to endpoints and providers by the flag of `traceparent`. Default 0.01.
    #[serde(default = "sample")]
    pub sample: f64,
    /// Whether a trace that a trusted peer has begun is sent exactly if that peer has decided so. Otherwise `sample`
    /// decides for it too. Default true.
    #[serde(default = "yes")]
    pub follow_parent: bool,
    /// Whether the spans of a request that failed (5xx, or no whole answer by the fault of an endpoint, a
    /// provider or the gateway) are sent, sampled or not. Default true.
    #[serde(default = "yes")]
    pub errors: bool,
    /// The spans of a request that takes as long are sent, sampled or not. What counts is the end of the answer; of a
    /// stream from a model its first content; WebSockets are never slow. Absent: no request is slow.
    #[serde(default)]
    pub slow: Option<Period>,
    /// Memory for spans that wait to be sent; what comes when it is full is lost, and counted. Default `4MiB`.
    #[serde(default = "queue")]
    pub queue: Bytes,
    /// How long spans wait for others to be sent with. Default `1s`.
    #[serde(default = "every")]
    pub every: Period,
    /// For one attempt at the collector, from connecting to its whole answer. Default `5s`.
    #[serde(default = "timeout")]
    pub timeout: Period,
}

fn service() -> String {
    "onemind-gateway".to_owned()
}

fn sample() -> f64 {
    SAMPLE
}

fn yes() -> bool {
    true
}

fn queue() -> Bytes {
    Bytes::mib(4)
}

fn every() -> Period {
    Period::seconds(1)
}

fn timeout() -> Period {
    Period::seconds(5)
}

impl Settings {
    /// The URL that is asked.
    pub fn url(&self) -> String {
        let after_scheme = self.endpoint.find("://").map_or(0, |at| at + 3);
        let rest = &self.endpoint[after_scheme..];
        match rest.find(['/', '?']) {
            None => format!("{}{PATH}", self.endpoint),
            Some(at) if &rest[at..] == "/" => {
                format!("{}{PATH}", &self.endpoint[..after_scheme + at])
            }
            Some(_) => self.endpoint.clone(),
        }
    }
}

#[cfg(test)]
pub(super) fn of(endpoint: &str) -> Settings {
    serde_json::from_value(serde_json::json!({ "endpoint": endpoint })).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_gets_the_usual_one() {
        for (endpoint, url) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/v1/traces", "https://c/otlp/v1/traces"),
            ("https://c/otlp/", "https://c/otlp/"),
            ("https://c/?a=b", "https://c/?a=b"),
            ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
        ] {
            assert_eq!(of(endpoint).url(), url);
        }
    }
}
