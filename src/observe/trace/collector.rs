//! The collector: how it is asked, and what it is sent.

use super::delivery::{self, Said};
use super::queue::Traced;
use super::settings::Settings;
use super::span::{self, Attribute, Value};
use crate::observe::metrics::{Metrics, TraceMetrics};
use crate::wire::fetch::Place;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use rustls::pki_types::CertificateDer;
use std::time::Duration;

/// Where spans go, and under which name.
pub struct Collector {
    place: Place,
    headers: HeaderMap,
    timeout: Duration,
    /// How long spans wait for others to be sent with.
    pub every: Duration,
    pub metrics: TraceMetrics,
    /// How a batch begins: who we are.
    preamble: Vec<u8>,
}

/// What came of an attempt to send a batch.
#[derive(Debug)]
pub struct Sent {
    /// None where it could not be asked.
    pub said: Option<Said>,
    /// Spans that it did not want.
    pub rejected: u64,
    /// For the log; nothing that the collector sends back is in it but its status.
    pub why: String,
}

impl Collector {
    /// `authorities`: who signs its certificate; none: those of the system. `instance` tells this process from its
    /// like. Fails for what is no URL, and when the system has no authorities to trust.
    pub fn new(
        settings: &Settings,
        authorities: Option<&[CertificateDer<'static>]>,
        instance: &str,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let headers = settings.headers.iter().filter_map(|(name, value)| {
            let name: HeaderName = name.parse().ok()?;
            let mut value = HeaderValue::from_str(value.expose()).ok()?;
            value.set_sensitive(true);
            Some((name, value))
        });
        Ok(Self {
            place: Place::new(&settings.url(), authorities)?,
            headers: headers.collect(),
            timeout: settings.timeout.0,
            every: settings.every.0,
            metrics: metrics.traces(),
            preamble: preamble(&settings.service, instance),
        })
    }

    /// The body of a request to the collector: all of these, under our name.
    pub fn batch(&self, requests: &[Traced]) -> String {
        let bytes: usize = requests.iter().map(|one| one.json.len() + 1).sum();
        let mut body = Vec::with_capacity(self.preamble.len() + bytes + 8);
        body.extend_from_slice(&self.preamble);
        span::separated(&mut body, requests, |out, one| {
            out.extend_from_slice(&one.json);
        });
        body.extend_from_slice(b"]}]}]}");
        String::from_utf8(body).expect("what writes JSON writes UTF-8")
    }

    /// Sends a batch, once. Takes at most the configured time, or `left` if that is less.
    pub async fn send(&self, batch: String, left: Duration) -> Sent {
        let limit = self.timeout.min(left);
        let asked = self.place.post_json(&self.headers, batch);
        let (why, answer) = match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) => (format!("status {}", answer.status.as_u16()), Some(answer)),
            Ok(Err(why)) => (why, None),
            Err(_) => (format!("no answer within {limit:?}"), None),
        };
        let rejected = answer
            .as_ref()
            .map_or(0, |one| delivery::rejected(&one.body));
        let said = answer.map(|answer| {
            let retry_after = answer.headers.get(header::RETRY_AFTER);
            let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
            Said {
                status: answer.status.as_u16(),
                retry_after,
            }
        });
        Sent {
            said,
            rejected,
            why,
        }
    }
}

/// Up to the first span (`ExportTraceServiceRequest` of the protocol).
fn preamble(service: &str, instance: &str) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let resource: [Attribute<'_>; 5] = [
        ("service.name", Value::from(service)),
        ("service.version", Value::from(version)),
        ("service.instance.id", Value::from(instance)),
        ("telemetry.sdk.name", Value::from("onemind")),
        ("telemetry.sdk.language", Value::from("rust")),
    ];
    let mut out = b"{\"resourceSpans\":[{\"resource\":{\"attributes\":".to_vec();
    span::attributes(&mut out, &resource);
    out.extend_from_slice(b"},\"scopeSpans\":[{\"scope\":{\"name\":\"onemind\",\"version\":\"");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(b"\"},\"spans\":[");
    out
}
