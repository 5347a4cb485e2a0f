//! Places in flight that are held in Redis: renewed while their requests live, given back when they end,
//! and left to expire when this instance dies.
//!
//! Invariant: one task speaks for all of them, in order. A place that was given back is never renewed.

use super::counter::redis::{Place, Shared};
use super::quota::LEASE_MS;
use crate::observe::metrics::LimitMetrics;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Twice may fail before the third would come too late.
const RENEW_PERIOD: Duration = Duration::from_millis(LEASE_MS / 3);

/// Requests whose places wait to be given back. Those beyond it expire.
const WAITING_MAX: usize = 1 << 14;

/// Places in one call.
const BATCH: usize = 256;

/// What one request holds.
#[derive(Debug, Clone, Default)]
pub struct Lease {
    pub id: Arc<str>,
    pub keys: Arc<[String]>,
}

impl Lease {
    fn places(&self) -> impl Iterator<Item = Place> {
        let places = self.keys.iter();
        places.map(|key| (key.clone(), self.id.to_string()))
    }
}

/// All that this process holds.
pub struct Leases {
    held: Arc<Held>,
    given_back: mpsc::Sender<Lease>,
    task: AbortHandle,
    metrics: Arc<LimitMetrics>,
}

#[derive(Default)]
struct Held(Mutex<HashMap<Arc<str>, Arc<[String]>>>);

impl Leases {
    /// Must be called inside the runtime that is to carry the task.
    pub fn start(shared: Arc<Shared>, metrics: Arc<LimitMetrics>) -> Self {
        let held: Arc<Held> = Arc::default();
        let (given_back, waiting) = mpsc::channel(WAITING_MAX);
        let task = tokio::spawn(keep(shared, Arc::clone(&held), waiting));
        Self {
            held,
            given_back,
            task: task.abort_handle(),
            metrics,
        }
    }

    /// It holds these places from now on, whatever it held before.
    pub fn hold(&self, lease: &Lease) {
        let mut held = self.held.lock();
        if lease.keys.is_empty() {
            held.remove(&lease.id);
        } else {
            held.insert(Arc::clone(&lease.id), Arc::clone(&lease.keys));
        }
    }

    /// Also for a lease of which nobody knows whether it was granted.
    pub fn give_back(&self, lease: Lease) {
        self.held.lock().remove(&lease.id);
        if self.given_back.try_send(lease).is_err() {
            self.metrics.leases_left.inc();
        }
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Held {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Arc<[String]>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn places(&self) -> Vec<Place> {
        let held = self.lock();
        let leases = held.iter().map(|(id, keys)| Lease {
            id: Arc::clone(id),
            keys: Arc::clone(keys),
        });
        leases
            .flat_map(|lease| lease.places().collect::<Vec<_>>())
            .collect()
    }
}

async fn keep(shared: Arc<Shared>, held: Arc<Held>, mut waiting: mpsc::Receiver<Lease>) {
    let mut renewals = interval(RENEW_PERIOD);
    renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leases = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            count = waiting.recv_many(&mut leases, BATCH) => {
                if count == 0 {
                    return;
                }
                let places: Vec<Place> = leases.drain(..).flat_map(|lease| lease.places().collect::<Vec<_>>()).collect();
                // While Redis is gone they expire, and nothing else is lost.
                let _ = shared.give_back(&places).await;
            }
            _ = renewals.tick() => {
                for places in held.places().chunks(BATCH) {
                    // The next turn comes before they expire.
                    let _ = shared.renew(places).await;
                }
            }
        }
    }
}
