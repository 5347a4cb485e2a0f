//! Spans of requests for an OpenTelemetry collector: which are kept, how they are written, where they wait.
//!
//! Invariant: a request never waits for the collector. What it knows of itself is written down once it has ended,
//! and only if it is kept; then its spans wait in a queue of so many bytes, and what finds it full is lost and counted.

pub mod collector;
pub mod delivery;
pub mod queue;
pub mod rules;
pub mod settings;
pub mod span;

use super::metrics::{Metrics, TraceMetrics};
use collector::Collector;
use queue::{Queue, Waiting};
use rules::{Rules, Seen, Why};
use rustls::pki_types::CertificateDer;
use settings::Settings;
use span::Span;
use std::sync::{Mutex, PoisonError};

/// What a first guess at the bytes of a span saves: it seldom has more.
const SPAN_BYTES: usize = 1024;

/// What `tracing` of one configuration makes of requests; kept over reloads as long as it does not change.
pub struct Tracing {
    pub settings: Settings,
    /// Who signs the certificate of the collector; none: the authorities of the system.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    pub rules: Rules,
    metrics: TraceMetrics,
    queue: Queue,
    delivery: Mutex<Option<(Waiting, Collector)>>,
}

impl Tracing {
    /// `instance` tells this process from its like. Fails as [`Collector::new`] does.
    pub fn new(
        settings: &Settings,
        authorities: Option<Vec<CertificateDer<'static>>>,
        instance: &str,
        metrics: &Metrics,
    ) -> Result<Self, String> {
        let collector = Collector::new(settings, authorities.as_deref(), instance, metrics)?;
        let bytes_max = usize::try_from(settings.queue.0).unwrap_or(usize::MAX);
        let (queue, waiting) = queue::make(bytes_max);
        Ok(Self {
            rules: Rules::new(settings),
            metrics: metrics.traces(),
            queue,
            delivery: Mutex::new(Some((waiting, collector))),
            settings: settings.clone(),
            authorities,
        })
    }

    /// Whether the spans of a request that has ended are sent; counts it.
    pub fn decide(&self, seen: Seen) -> bool {
        let why = self.rules.keeps(seen);
        match why {
            Some(Why::Sampled) => self.metrics.sampled.inc(),
            Some(Why::Error) => self.metrics.error.inc(),
            Some(Why::Slow) => self.metrics.slow.inc(),
            None => self.metrics.left_out.inc(),
        }
        why.is_some()
    }

    /// Puts the spans of one request into the queue, or counts them as lost.
    pub fn put(&self, spans: &[Span<'_>]) {
        let mut json = Vec::with_capacity(spans.len() * SPAN_BYTES);
        span::separated(&mut json, spans, |out, span| span.write(out));
        json.shrink_to_fit();
        let count = spans.len() as u64;
        if !self.queue.put(json, count) {
            self.metrics.dropped.inc_by(count);
        }
    }

    /// What waits and where it goes, for the one task that sends it; none when another has it. It ends with the last
    /// request that may put something in.
    pub fn take_delivery(&self) -> Option<(Waiting, Collector)> {
        let delivery = self.delivery.lock();
        delivery.unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;
    use span::Kind;

    fn span(id: u64) -> Span<'static> {
        Span {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736",
            id,
            parent: None,
            flags: 1,
            kind: Kind::Client,
            name: "GET",
            start: 1,
            end: 2,
            attributes: Vec::new(),
            events: Vec::new(),
            failed: false,
        }
    }

    fn tracing(change: impl FnOnce(&mut Settings)) -> Tracing {
        let mut settings = settings::of("http://c:4318");
        change(&mut settings);
        Tracing::new(&settings, None, "i-1", &Metrics::new("1")).unwrap()
    }

    #[test]
    fn a_batch_is_one_document_under_our_name() {
        let tracing = tracing(|of| of.service = "edge \"one\"".to_owned());
        tracing.put(&[span(1), span(2)]);
        tracing.put(&[span(3)]);
        let (mut waiting, collector) = tracing.take_delivery().unwrap();
        assert!(tracing.take_delivery().is_none(), "one task sends");
        let requests: Vec<_> = std::iter::from_fn(|| waiting.try_next()).collect();
        let body: Json = serde_json::from_str(&collector.batch(&requests)).unwrap();
        let resource = &body["resourceSpans"][0];
        assert_eq!(
            resource["resource"]["attributes"][0]["value"]["stringValue"],
            "edge \"one\""
        );
        let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap();
        let ids: Vec<_> = spans.iter().map(|span| span["spanId"].as_str()).collect();
        assert_eq!(
            ids,
            [
                Some("0000000000000001"),
                Some("0000000000000002"),
                Some("0000000000000003")
            ]
        );
    }

    #[test]
    fn what_finds_the_queue_full_is_lost_and_counted() {
        let tracing = tracing(|of| of.queue = crate::base::units::Bytes(1_000));
        for id in 0..100 {
            tracing.put(&[span(id)]);
        }
        let (mut waiting, _) = tracing.take_delivery().unwrap();
        let kept = std::iter::from_fn(|| waiting.try_next()).count() as u64;
        assert!((1..=10).contains(&kept), "{kept}");
        assert_eq!(tracing.metrics.dropped.get(), 100 - kept);
    }
}
