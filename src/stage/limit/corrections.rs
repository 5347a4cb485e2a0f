//! What charges in Redis turn out to have been, told there beside the requests: nobody waits for it.
//!
//! Invariant: each is told once at most. A call of which nobody knows whether it was done is not made again.

use super::counter::Correction;
use super::counter::redis::Shared;
use crate::observe::metrics::LimitMetrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Corrections that wait to be told. Those beyond it are lost, and counted as such.
const WAITING_MAX: usize = 1 << 14;

/// Corrections in one call: some 100 microseconds of Redis.
const BATCH: usize = 64;

/// How long they gather, so that under load many share a call.
const GATHER: Duration = Duration::from_millis(3);

pub struct Corrections {
    queue: mpsc::Sender<Correction>,
    task: AbortHandle,
    metrics: Arc<LimitMetrics>,
}

impl Corrections {
    /// Must be called inside the runtime that is to carry the task.
    pub fn start(shared: Arc<Shared>, metrics: Arc<LimitMetrics>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(tell(shared, waiting, Arc::clone(&metrics)));
        Self {
            queue,
            task: task.abort_handle(),
            metrics,
        }
    }

    pub fn send(&self, correction: Correction) {
        if self.queue.try_send(correction).is_err() {
            self.lost(1);
        }
    }

    /// So many were told, or were not: nobody knows.
    pub fn lost(&self, corrections: usize) {
        self.metrics.corrections_lost.inc_by(corrections as u64);
    }
}

impl Drop for Corrections {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tell(
    shared: Arc<Shared>,
    mut waiting: mpsc::Receiver<Correction>,
    metrics: Arc<LimitMetrics>,
) {
    let mut corrections = Vec::with_capacity(BATCH);
    while let Some(first) = waiting.recv().await {
        corrections.push(first);
        if waiting.len() < BATCH {
            sleep(GATHER).await;
        }
        while corrections.len() < BATCH
            && let Ok(next) = waiting.try_recv()
        {
            corrections.push(next);
        }
        if shared.correct(&corrections).await.is_err() {
            metrics.corrections_lost.inc_by(corrections.len() as u64);
        }
        corrections.clear();
    }
}
