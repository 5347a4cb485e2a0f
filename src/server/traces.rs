//! The task that sends spans: batch by batch, with retries that have an end, and what is left of them at the end.

use crate::observe::event;
use crate::observe::trace::collector::Collector;
use crate::observe::trace::delivery::{self, After};
use crate::observe::trace::queue::{Traced, Waiting};
use crate::snapshot::{Snapshot, State};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Collectors take 4 MiB by default; the last spans of a batch may be beyond this.
const BATCH_BYTES: usize = 512 << 10;

/// For what waits when the process leaves, whatever the collector does.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// What a task waits for at most, where there is no end in sight.
const LONG: Duration = Duration::from_hours(1);

pub struct Exports {
    state: Arc<State>,
    /// The task of this configuration, and of those before it whose last requests may still run.
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// When everything must be sent; none as long as the process does not leave.
    ending: watch::Sender<Option<Instant>>,
}

impl Exports {
    pub fn new(state: Arc<State>) -> Self {
        Self {
            state,
            tasks: Mutex::default(),
            ending: watch::Sender::new(None),
        }
    }

    /// Starts what is new. What is gone ends by itself with the last of its requests.
    pub fn apply(&self, snapshot: &Snapshot) {
        self.state.keep_tracing(snapshot.tracing.as_ref());
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        let delivery = snapshot.tracing.as_ref();
        if let Some((waiting, collector)) = delivery.and_then(|one| one.take_delivery()) {
            let sender = Sender {
                collector,
                ending: self.ending.subscribe(),
                fails: false,
            };
            tasks.push(tokio::spawn(sender.run(waiting)));
        }
    }

    /// Sends what waits, in three seconds at most.
    pub async fn finish(&self) {
        let deadline = Instant::now() + FLUSH_MAX;
        self.ending.send_replace(Some(deadline));
        let tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        for task in tasks {
            let stop = task.abort_handle();
            if timeout_at(deadline, task).await.is_err() {
                stop.abort();
            }
        }
    }
}

struct Sender {
    collector: Collector,
    ending: watch::Receiver<Option<Instant>>,
    /// Whether the last attempt failed.
    fails: bool,
}

impl Sender {
    async fn run(mut self, mut waiting: Waiting) {
        while let Some(batch) = self.collect(&mut waiting).await {
            self.deliver(batch).await;
        }
    }

    /// Spans that are sent together; none when there will be no more.
    async fn collect(&mut self, waiting: &mut Waiting) -> Option<Vec<Traced>> {
        let first = tokio::select! {
            first = waiting.next() => first?,
            _ = self.ending.wait_for(Option::is_some) => {
                waiting.close();
                waiting.try_next()?
            }
        };
        let until = Instant::now() + self.collector.every;
        let mut bytes = first.json.len();
        let mut batch = vec![first];
        while bytes < BATCH_BYTES {
            let next = tokio::select! {
                biased;
                next = waiting.next() => next,
                _ = self.ending.wait_for(Option::is_some) => None,
                () = sleep_until(until) => None,
            };
            let Some(next) = next else { break };
            bytes += next.json.len();
            batch.push(next);
        }
        Some(batch)
    }

    /// Until it is taken, or lost. It keeps its room in the queue meanwhile.
    async fn deliver(&mut self, batch: Vec<Traced>) {
        let spans: u64 = batch.iter().map(|one| one.spans).sum();
        let body = self.collector.batch(&batch);
        let mut made = 0;
        loop {
            made += 1;
            let left = self.left();
            // Once the process leaves there is no time for another.
            let is_last = self.ending.borrow().is_some();
            let sent = self.collector.send(body.clone(), left).await;
            let metrics = &self.collector.metrics;
            match delivery::after(sent.said, made, fastrand::f64()) {
                After::Taken => {
                    let rejected = sent.rejected.min(spans);
                    metrics.rejected.inc_by(rejected);
                    metrics.exported.inc_by(spans - rejected);
                    return self.worked();
                }
                After::Again(wait) if !is_last => {
                    self.failed(&sent.why);
                    let until = Instant::now() + wait;
                    tokio::select! {
                        () = sleep_until(until) => {}
                        // A last attempt, at once.
                        _ = self.ending.wait_for(Option::is_some) => {}
                    }
                }
                After::Again(_) | After::Lost => {
                    metrics.failed.inc_by(spans);
                    return self.failed(&sent.why);
                }
            }
        }
    }

    /// Until the process leaves.
    fn left(&self) -> Duration {
        self.ending.borrow().map_or(LONG, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        })
    }

    fn worked(&mut self) {
        if std::mem::take(&mut self.fails) {
            event::spans_taken();
        }
    }

    fn failed(&mut self, why: &str) {
        event::spans_not_taken(why, !self.fails);
        self.fails = true;
    }
}
