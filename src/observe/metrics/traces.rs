//! Handles of what becomes of spans.

use super::Metrics;
use prometheus::IntCounter;

pub struct TraceMetrics {
    pub sampled: IntCounter,
    pub error: IntCounter,
    pub slow: IntCounter,
    /// Neither sampled nor kept for what came of them.
    pub left_out: IntCounter,
    /// Spans that the collector took.
    pub exported: IntCounter,
    /// That found the queue full.
    pub dropped: IntCounter,
    /// That could not be sent, however often it was tried.
    pub failed: IntCounter,
    /// That the collector did not want.
    pub rejected: IntCounter,
}

impl Metrics {
    /// The same series whoever asks.
    pub fn traces(&self) -> TraceMetrics {
        let requests = |result| self.table.traces_total.with_label_values(&[result]);
        let spans = |result| self.table.trace_spans_total.with_label_values(&[result]);
        TraceMetrics {
            sampled: requests("sampled"),
            error: requests("error"),
            slow: requests("slow"),
            left_out: requests("left_out"),
            exported: spans("exported"),
            dropped: spans("dropped"),
            failed: spans("failed"),
            rejected: spans("rejected"),
        }
    }
}
